"""The dataset card of an export: a header for the Hugging Face hub and `load_dataset`, then what a reader must know.

Names of licences, plug-ins and editors are foreign text: they are escaped, in the header by the YAML writer, in the
text so that neither Markdown nor HTML in them takes effect. Settings with paths of this machine are not given away.
"""

import html
import re
from collections.abc import Mapping
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from redaes.data.export.rows import TABLES

if TYPE_CHECKING:
    from jinja2 import Template

LICENSES_SHOWN = 100
SPLITS = ("train", "validation", "test")
ENDINGS = {"hf": "-*.parquet", "parquet": "-*.parquet", "jsonl": "-*/**", "webdataset": "-*.tar"}


def card(info: Mapping[str, Any], written: Mapping[str, Any], licenses: Mapping[str, int]) -> str:
    """The text of README.md.

    Args:
        info: the dataset's manifest.
        written: what was exported, as `export.json` says it.
        licenses: sources by licence.

    Returns:
        Markdown with a YAML header.
    """
    import yaml

    config = info["config"]
    ranked = sorted(licenses.items(), key=lambda item: (-item[1], item[0]))
    header = {
        "pretty_name": "Aesthetic comparisons made by redaes",
        "tags": ["image-aesthetics", "redaes", "arxiv:2606.05778"],
        "license": "other",
        "license_name": "per-source",
        "license_details": "every row names the licence of the photograph it was made from",
        **_configs(written),
    }
    body = _template().render(
        tables={name: TABLES[name] for name in written["tables"]},
        written=written,
        splits=SPLITS,
        licenses=ranked[:LICENSES_SHOWN],
        other_licenses=ranked[LICENSES_SHOWN:],
        info=info,
        config=config,
        plugins={
            kind: [_name(spec) for spec in (config[kind] if isinstance(config[kind], list) else [config[kind]])]
            for kind in ("source", "instructor", "editors", "verifiers", "judges", "fusion")
        },
    )
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n{body}"


def _configs(written: Mapping[str, Any]) -> dict[str, Any]:
    """The tables that `load_dataset` opens by name, with the splits that have rows.

    Its WebDataset reader wants the same files in every sample, which groups of different sizes do not have; and its
    reader of image folders guesses types split by split, which rejected edits without verdicts lead astray.
    AesCoT's form is for Aes-R1's trainer and ours.
    """
    format = written["format"]
    if format in ("webdataset", "aescot"):
        return {}
    configs = []
    for name, splits in written["tables"].items():
        if splits and not (format == "jsonl" and TABLES[name].images_may_lack):
            files = [{"split": s, "path": f"{name}/{s}{ENDINGS[format]}"} for s in SPLITS if s in splits]
            configs.append({"config_name": name, "data_files": files})
    return {"configs": configs} if configs else {}


def _name(spec: Any) -> str:
    """A plug-in by its name, with the model it asks, if it says one; no folder and no other setting is published."""
    if isinstance(spec, str):
        return spec
    settings = {**(spec.get("init_args") or {}), **spec}
    model = settings.get("model")
    if isinstance(model, str) and model.startswith(("/", ".", "~")):
        model = PurePath(model).name
    return f"{spec.get('class_path')} ({model})" if isinstance(model, str) else str(spec.get("class_path"))


def markdown(text: object) -> str:
    """Foreign text that shows as it is, on one line.

    Example:
        >>> markdown("a|b *c* <script>")
        'a\\\\|b \\\\*c\\\\* &lt;script&gt;'
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return re.sub(r"([\\`*_{}\[\]()#+!|~-])", r"\\\1", html.escape(plain, quote=False))


@cache
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("redaes.data.export", ""),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown: `finalize` escapes every value there is
        finalize=markdown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("card.md")
