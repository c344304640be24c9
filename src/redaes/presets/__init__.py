"""What ships with the package: ready configurations and the nano checkpoint."""

from pathlib import Path
from typing import Any

from redaes.errors import UserError, nearest


def configs_folder() -> Path:
    """The folder of ready configurations: inside an installed package, or the repository's own."""
    packaged = Path(__file__).parent.parent / "configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "configs"


def resolve_config(path: str | Path) -> Path:
    """A configuration file: the path itself, or one of the ready ones such as `nano/sft.yaml`.

    Raises:
        UserError: neither exists; the message names the nearest ready one.
    """
    direct = Path(path)
    if direct.is_file():
        return direct
    folder = configs_folder()
    ready = folder / path
    if not direct.is_absolute() and ready.is_file():
        return ready
    known = [p.relative_to(folder).as_posix() for p in folder.rglob("*.yaml")]
    raise UserError(f"no configuration file {str(path)!r} ({nearest(str(path), known)})")


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that maps keys to values.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    import yaml

    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(read, dict):
        raise UserError(f"{path} is no mapping of keys to values")
    return read


def read_plugin(text: str) -> Any:
    """A plug-in as a command line names it: by name, as a YAML mapping with settings, or by a file that holds one.

    Raises:
        UserError: no such file, or no such mapping.

    Example:
        >>> read_plugin("pixel"), read_plugin("{class_path: pixel, init_args: {content_share: 0.5}}")
        ('pixel', {'class_path': 'pixel', 'init_args': {'content_share': 0.5}})
    """
    import yaml

    if text.endswith((".yaml", ".yml")):
        return read_mapping(resolve_config(text))
    if not text.lstrip().startswith("{"):
        return text
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"cannot read {text!r}: {str(error).splitlines()[0]}") from error
    return read
