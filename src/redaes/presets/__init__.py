"""What ships with the package: ready configurations and the nano checkpoint."""

from pathlib import Path

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
