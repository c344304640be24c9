"""`redaes doctor`: what is installed, which devices there are, whether keys are set (never what they are)."""

import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from redaes import __version__

CORE = (
    "torch",
    "lightning",
    "transformers",
    "peft",
    "torchmetrics",
    "jsonargparse",
    "pydantic",
    "pillow",
    "numpy",
    "scipy",
)
OPTIONAL = {
    "scikit-image": "nano",
    "openai": "data",
    "anthropic": "data",
    "pyarrow": "data",
    "diffusers": "editors",
    "accelerate": "train",
    "deepspeed": "train",
    "wandb": "wandb",
    "gradio": "app",
}
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "WANDB_API_KEY", "HF_TOKEN")


def doctor(format: Literal["table", "json"] = "table") -> int:
    """Show what is installed, which devices there are and which keys are set. No key's value is shown.

    Args:
        format: table for people, json for programs.

    Returns:
        The exit code: 0 if every core package is installed, 1 if one is missing.
    """
    facts = examine()
    if format == "json":
        print(json.dumps(facts, indent=1))
    else:
        _print(facts)
    return int(None in facts["packages"].values())


def examine() -> dict[str, Any]:
    """Everything doctor knows, as plain values."""
    return {
        "redaes": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in CORE},
        "optional": {name: {"version": _version(name), "extra": extra} for name, extra in OPTIONAL.items()},
        "devices": _devices(),
        "keys": {name: bool(os.environ.get(name)) for name in KEYS},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    if _version("torch") is None:
        return []
    import torch

    devices: list[dict[str, Any]] = [{"name": "cpu", "model": platform.processor() or platform.machine()}]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = round(properties.total_memory / 2**30, 1)
        devices.append({"name": f"cuda:{index}", "model": properties.name, "memory_gib": memory})
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "model": "Apple GPU"})
    return devices


def _print(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"redaes {facts['redaes']}, Python {facts['python']}, {facts['cores']} cores", title_justify="left"
    )
    table.add_column("what")
    table.add_column("state")
    for name, found in facts["packages"].items():
        table.add_row(name, found or "[red]missing[/red]")
    for name, entry in facts["optional"].items():
        table.add_row(name, entry["version"] or f"not installed (pip install 'redaes\\[{entry['extra']}]')")
    for device in facts["devices"]:
        memory = f", {device['memory_gib']} GiB" if "memory_gib" in device else ""
        table.add_row(device["name"], device["model"] + memory)
    for name, present in facts["keys"].items():
        table.add_row(name, "set" if present else "not set")
    Console().print(table)
