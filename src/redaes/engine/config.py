"""The engine's configuration: what METHOD 2 leaves open, as named fields with the paper's values as defaults.

[P] marks the paper's values, [O] ours.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from redaes.errors import UserError, nearest
from redaes.presets import resolve_config
from redaes.registry import PluginSpec


class Settings(BaseModel):
    """Base of the configuration's parts: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitSettings(Settings):
    """Which photographs are held out. A photograph is never in two splits."""

    test: tuple[str, ...] = Field((), description="photographs held out for the test")
    validation: tuple[str, ...] = Field((), description="photographs held out for validation")
    test_fraction: float = Field(0.2, ge=0, lt=1, description="share of photographs where no names are given")
    validation_fraction: float = Field(0.1, ge=0, lt=1, description="share of photographs where no names are given")


class FaultSettings(Settings):
    """Faults of a camera or a hurried photographer, so that the pool spans quality levels [O]."""

    share: float = Field(0.0, ge=0, le=1, description="share of sources with one random fault")
    categories: tuple[str, ...] = (
        "underexpose",
        "overexpose",
        "flatten_contrast",
        "desaturate",
        "cast",
        "blur",
        "add_noise",
        "compress",
    )
    strength: tuple[float, float] = Field((0.4, 1.3), description="drawn uniformly from this range")

    @model_validator(mode="after")
    def _known(self) -> Self:
        from redaes.editors.operations import OPERATIONS

        for category in self.categories:
            if category not in OPERATIONS:
                raise ValueError(f"unknown fault {category!r} ({nearest(category, OPERATIONS)})")
        if self.share > 0 and not self.categories:
            raise ValueError("categories is empty; name faults, or set share to 0")
        return self


class SourceSettings(Settings):
    """How sources are cut from photographs."""

    train: int | None = Field(1000, ge=1, description="sources of the training photographs; None: one of each")
    validation: int | None = Field(20, ge=0, description="likewise")
    test: int | None = Field(60, ge=0, description="likewise")
    size: int = Field(112, ge=16, description="side of a source in pixels; its longer side at most, if not cropped")
    crop: tuple[float, float] | None = Field(
        (0.35, 0.9), description="side of the square crop as a share of the shorter side; None: the whole photograph"
    )
    faults: FaultSettings = FaultSettings()
    vary: bool = Field(False, description="mirror, turn and recolour training sources, where photographs are few [O]")

    @field_validator("crop")
    @classmethod
    def _within_the_photograph(cls, crop: tuple[float, float] | None) -> tuple[float, float] | None:
        low, high = crop or (1.0, 1.0)
        if not 0 < low <= high <= 1:
            raise ValueError(f"[{low}, {high}] is no range of shares; give two numbers, 0 < low <= high <= 1")
        return crop


class VerificationSettings(Settings):
    """VIEScore's filter."""

    threshold: float = Field(7.5, ge=0, le=10, description="an edit passes at this mean of the verifiers [P]")
    min_passing: int | None = Field(
        None, ge=1, description="a source needs this many; None: four fifths of M [P: 4 of 5]"
    )


class GroupSettings(Settings):
    """RL groups, and the groups that validation and test are measured on."""

    train: int = Field(150, ge=0, description="training sources that get a group")
    instructions: int = Field(7, ge=1, description="diverse instructions per source [P]")
    max_variants: int = Field(7, ge=1, description="variants kept at most: groups of 1 + 7 [P]")
    min_variants: int = Field(2, ge=1, description="a group with fewer is dropped [O]")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        most = min(self.instructions, self.max_variants)
        if self.min_variants > most:
            raise ValueError(f"min_variants is {self.min_variants}, but a group has at most {most} variants")
        return self


class LimitSettings(Settings):
    """What an endpoint may be asked; None: no limit."""

    in_flight: int | None = Field(None, ge=1, description="calls at the same time")
    requests_per_minute: float | None = Field(None, gt=0)
    tokens_per_minute: float | None = Field(None, gt=0, description="read and written")


class RetrySettings(Settings):
    """How a call that failed is asked again."""

    transient: int = Field(8, ge=0, description="more tries where the far side is busy, broken or unreachable")
    unusable: int = Field(3, ge=0, description="more tries where an answer cannot be used")
    base_seconds: float = Field(1.0, gt=0, description="of the first wait; it doubles, and a random part is taken")
    max_seconds: float = Field(60.0, gt=0)
    breaker_failures: int = Field(10, ge=1, description="failures in a row that pause an endpoint")
    breaker_seconds: float = Field(30.0, gt=0, description="of a pause; then one call tries")
    give_up_seconds: float = Field(1800.0, gt=0, description="an endpoint failing for so long stops the build")


class FlowSettings(Settings):
    """How the work is done. Nothing here changes the dataset."""

    workers: int | None = Field(None, ge=1, description="sources at the same time; None: what runner and limits need")
    in_flight: int = Field(64, ge=1, description="calls at the same time, over all endpoints")
    limits: dict[str, LimitSettings] = Field({}, description="by endpoint, such as api.openai.com")
    retries: RetrySettings = RetrySettings()
    budget: float | None = Field(
        None, ge=0, description="what the ledger's calls may cost in all, in the price table's currency"
    )
    prices: str = Field("", description="a price table of your own over the built-in one")


class EngineConfig(Settings):
    """Everything a dataset depends on, and how the work on it is done."""

    seed: int = 0
    mode: Literal["lazy", "eager"] = Field(
        "lazy", description="lazy asks only what can change the dataset; eager everything, for Tab. 8 and 9"
    )
    source: PluginSpec = "skimage"
    split: SplitSettings = SplitSettings()
    sources: SourceSettings = SourceSettings()
    instructor: PluginSpec = "pixel"
    editors: tuple[PluginSpec, ...] = Field(min_length=1)
    verifiers: tuple[PluginSpec, ...] = Field(min_length=1)
    judges: tuple[PluginSpec, ...] = Field(min_length=1)
    fusion: PluginSpec = "consensus"
    verification: VerificationSettings = VerificationSettings()
    pairs: bool = Field(True, description="make pre-training pairs")
    groups: GroupSettings = GroupSettings()
    calibration: int = Field(200, ge=0, description="calibration samples, uniform from the training sources [P]")
    keep_all_images: bool = Field(False, description="store the images of rejected edits too")
    flow: FlowSettings = Field(FlowSettings(), exclude=True)
    runner: PluginSpec | None = Field(None, exclude=True, description="how the work is spread; None: what suits")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.verification.min_passing is not None and self.verification.min_passing > len(self.editors):
            raise ValueError(
                f"verification.min_passing is {self.verification.min_passing} of {len(self.editors)} editors"
            )
        overlap = set(self.split.test) & set(self.split.validation)
        if overlap:
            raise ValueError(f"split: {sorted(overlap)} are in both test and validation")
        return self

    @property
    def min_passing(self) -> int:
        """Edits that must pass: four fifths of the editors, rounded up, unless set."""
        return self.verification.min_passing or -(-4 * len(self.editors) // 5)


PLUGINS = ("source", "instructor", "editors", "verifiers", "judges", "fusion", "runner")
"""Keys whose values are plug-ins, or lists of them."""


def load_config(path: Path, overrides: Sequence[str] = (), replace: Mapping[str, Any] | None = None) -> EngineConfig:
    """Read a YAML file and apply overrides.

    In the place of a plug-in, or of a list of them, file and overrides may name another YAML file that holds it, such
    as `paper/editors/flux2.yaml`; its settings can be overridden as if they stood in its place.

    Args:
        path: the file.
        overrides: `key.sub=value`, the value as YAML; `judges.0=...` reaches into a list. A mapping is merged into
            what is there, a plug-in (with a `class_path`) takes its place.
        replace: values that take the place of the file's top-level keys, before the overrides.

    Raises:
        UserError: unreadable file, bad override, unknown key (with the nearest) or bad value.
    """
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        config = OmegaConf.load(path)
        if not isinstance(config, DictConfig):
            raise UserError(f"{path} is a list; a configuration is a mapping of keys to values")
        for key, value in (replace or {}).items():
            OmegaConf.update(config, key, value, merge=False)
        _read_named_files(config)
        for override in overrides:
            _override(config, override)
        _read_named_files(config)
        values: Any = OmegaConf.to_container(config, resolve=True)
    except (OSError, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    try:
        return EngineConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_problem(error)}") from error


def _read_named_files(config: Any) -> None:
    """Put what is in a file in the place of its name, in place."""
    from omegaconf import OmegaConf

    def read(value: Any) -> Any:
        if isinstance(value, str) and value.endswith(".yaml"):
            return read(OmegaConf.to_container(OmegaConf.load(resolve_config(value))))
        return [read(one) for one in value] if isinstance(value, list) else value

    plain: Any = OmegaConf.to_container(config)
    for key in plain.keys() & set(PLUGINS):
        OmegaConf.update(config, key, read(plain[key]), merge=False)


def _override(config: Any, override: str) -> None:
    """Set one key of a configuration, in place."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    key, equals, text = override.partition("=")
    if not (key and equals):
        raise UserError(f"override {override!r} sets nothing; write KEY=VALUE, such as sources.train=50")
    try:
        value: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[call-overload,index]
        OmegaConf.update(config, key, value, merge=not (isinstance(value, dict) and "class_path" in value))
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise UserError(f"override {override!r}: {str(error).splitlines()[0]}") from error


def _first_problem(error: ValidationError) -> str:
    """One line on the most telling of pydantic's complaints: a misspelt key explains a missing one."""
    problem = min(error.errors(), key=lambda p: p["type"] != "extra_forbidden")
    where = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        known = [".".join([*where[:-1], name]) for name in _fields_at(where[:-1])]
        return f"unknown key {'.'.join(where)!r} ({nearest('.'.join(where), known)})"
    place = f"{'.'.join(where)}: " if where else ""
    if problem["type"] == "value_error":
        return place + problem["msg"].removeprefix("Value error, ")
    return f"{place}{problem['msg']} (got {problem['input']!r:.80})"


def _fields_at(path: Sequence[str]) -> list[str]:
    model: Any = EngineConfig
    for part in path:
        model = get_args(model)[1] if get_origin(model) is dict else model.model_fields[part].annotation
    return list(model.model_fields)
