"""`redaes fit|validate|test|predict`: LightningCLI over the stages and data modules of redaes.

Configurations compose (`--config a.yaml --config b.yaml`), then `${trainer.default_root_dir}` and `${oc.env:HOME}` are
filled in, so an override reaches every place that refers to it. Classes and plug-ins go by short names, and
`--model.reward.tau=0.25` overrides a plug-in's setting. A configuration may be one of the ready ones: `nano/sft.yaml`.

Training continues from the newest valid checkpoint in the run's folder, bit by bit as if it had never stopped;
`--fresh` starts over (`redaes.training.checkpoints`). Exit code 75: stopped on request, by SIGUSR1 or SIGTERM, with a
checkpoint written; the same command goes on.

Started by torchrun or by SLURM's srun, a training takes as many processes as there are, whatever the configuration says
of `trainer.devices` and `trainer.num_nodes` (`redaes.training.launchers`).
"""

import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from redaes.commands.plugin_arguments import name_plugins, read_plugins
from redaes.errors import UserError, nearest

# What a fresh start leaves behind; the exported model is overwritten when training ends.
LEFTOVERS = ("checkpoints", "hpc_ckpt_*.ckpt", "completions.jsonl", "metrics.csv", "tensorboard")
# What the stages share; nobody trains these.
BASES = ("VisionLanguageModule", "SupervisedModule")
CHATTER = (
    "You have overridden .transfer_batch_to_device",
    "args parameter is intended",
    "does not have many workers",
    "LeafSpec",
    "Checkpoint directory",
    "log_every_n_st",
    "Using ModelCheckpoint with manual optimization",
    # The position in the epoch is the data module's to keep, not the loader's.
    "You're resuming from a checkpoint that ended before the epoch ended",
    "Be aware that when using `ckpt_path`",
)


def fit(words: list[str]) -> int:
    """Train a stage."""
    return _run("fit", words)


def validate(words: list[str]) -> int:
    """One validation pass."""
    return _run("validate", words)


def test(words: list[str]) -> int:
    """One test pass."""
    return _run("test", words)


def predict(words: list[str]) -> int:
    """One prediction pass."""
    return _run("predict", words)


def _run(subcommand: str, words: list[str]) -> int:
    from redaes.presets import resolve_config

    fresh = "--fresh" in words
    resolved = _with_files([w for w in words if w != "--fresh"], lambda name: str(resolve_config(name)))
    _calm()
    mode = {"parser_mode": "omegaconf+", "allow_abbrev": False}
    cli, classes = _cli_class(subcommand, fresh)
    # `init_args` may be left out of an option's name; without it, plug-ins and classes are overridden alike.
    plain = name_plugins([_without_init_args(word) for word in resolved], classes)
    with _interruptible():
        cli(
            args=[subcommand, *plain],
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_kwargs={"overwrite": True},
            parser_kwargs={**mode, "prog": "redaes", subcommand: mode},
        )
    return 0


def _with_files(words: list[str], resolve: Callable[[str], str]) -> list[str]:
    """Replace the value of every `--config` by the file it names."""
    resolved: list[str] = []
    for word in words:
        if resolved and resolved[-1] in ("--config", "-c"):
            resolved.append(resolve(word))
        elif word.startswith("--config="):
            resolved += ["--config", resolve(word.removeprefix("--config="))]
        else:
            resolved.append(word)
    return resolved


def _without_init_args(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace(".init_args.", ".") + equals + value if word.startswith("--") else word


def _calm() -> None:
    """Leave out what Lightning says to everybody."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # bitsandbytes says at import that a CPU kernel of another package is missing, to everybody.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    for message in CHATTER:
        warnings.filterwarnings("ignore", message=f".*{message}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lightning ends an interrupted training with `exit(1)`; say what it was."""
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        raise


def _cli_class(chosen: str, fresh: bool) -> tuple[Callable[..., Any], dict[str, list[type]]]:
    """The LightningCLI of redaes and the classes that go by short names.

    Made here, so that the help of other commands does not import Lightning.
    """
    from lightning.pytorch import LightningDataModule, LightningModule
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
    from lightning.pytorch.utilities.rank_zero import rank_zero_only
    from omegaconf.errors import OmegaConfBaseException

    # Their classes are found by short name once they are imported.
    import redaes.data.modules
    import redaes.data.votes
    import redaes.training.calibration
    import redaes.training.grpo
    import redaes.training.nima
    import redaes.training.sft  # noqa: F401
    from redaes.arguments import OneLineErrors, shorten
    from redaes.training.checkpoints import Checkpoints
    from redaes.training.launchers import advice, launched_processes
    from redaes.training.memory import explained_out_of_memory

    read_plugins()
    classes = {"model": _our_classes(LightningModule), "data": _our_classes(LightningDataModule)}

    class Parser(OneLineErrors, LightningArgumentParser):
        def explain(self, message: str, ex: Exception | None) -> str:
            for key, known in classes.items():
                wrong = _unknown_class(message, key)
                if wrong:
                    return f"unknown {key} {wrong!r} ({nearest(wrong, [c.__name__ for c in known])})"
            return super().explain(message.replace(f"{chosen}.", ""), ex)

    class RedaesCLI(LightningCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {chosen: LightningCLI.subcommands()[chosen]}

        def parse_arguments(self, parser: Any, args: Any) -> None:
            try:
                super().parse_arguments(parser, args)
            except OmegaConfBaseException as error:
                raise UserError(f"cannot fill in the configuration: {str(error).splitlines()[0]}") from error

        def before_instantiate_classes(self) -> None:
            if chosen == "fit":
                if (line := advice()) and rank_zero_only.rank == 0:
                    print(line, file=sys.stderr)
                _prepare_folder(self.config.fit.trainer.default_root_dir, fresh)

        def instantiate_trainer(self, **kwargs: Any) -> Any:
            kwargs |= launched_processes()
            wanted = self._get(self.config_init, "trainer", default={})
            callbacks = wanted.get("callbacks") or []
            # Without a folder of its own, a run would go on from what another one left.
            resumable = wanted.get("default_root_dir") and wanted.get("enable_checkpointing") is not False
            if chosen == "fit" and resumable and not any(isinstance(c, Checkpoints) for c in callbacks):
                kwargs["callbacks"] = [*callbacks, Checkpoints()]
            return super().instantiate_trainer(**kwargs)

        def before_fit(self) -> None:
            for callback in self.trainer.callbacks:
                if isinstance(callback, Checkpoints):
                    automatic = self.model.automatic_optimization
                    callback.prepare(self.trainer, self.config.fit.ckpt_path, automatic=automatic)

        def fit(self, model: Any, **options: Any) -> None:
            with explained_out_of_memory(self.trainer):
                self.trainer.fit(model, **options)

        def instantiate_classes(self) -> None:
            try:
                super().instantiate_classes()
            except ValueError as error:  # jsonargparse's, around a UserError of a plug-in's settings
                if "Does not validate" not in str(error):
                    raise
                raise UserError(shorten(str(error))) from error

    return partial(RedaesCLI, parser_class=Parser), classes


def _unknown_class(message: str, key: str) -> str | None:
    found = re.search(rf'Parser key "(?:\w+\.)?{key}":.*Expected a dot import path string: (\S+)', message, re.DOTALL)
    return found[1] if found else None


def _our_classes(kind: type) -> list[type]:
    classes: list[type] = list(kind.__subclasses__())
    for found in classes:
        classes += found.__subclasses__()
    ours = [c for c in classes if c.__module__.startswith("redaes") and not c.__name__.startswith("_")]
    return [c for c in ours if c.__name__ not in BASES]


def _prepare_folder(folder: str | None, fresh: bool) -> None:
    """See that the run's folder can be written, before any heavy work; the first process alone empties it if asked."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from redaes.training.launchers import times_restarted

    if folder is None:
        return
    root = Path(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {root}: {error.strerror}; set trainer.default_root_dir") from error
    if fresh and times_restarted() and rank_zero_only.rank == 0:
        print("--fresh was for the first start of this job; it goes on from its checkpoints", file=sys.stderr)
    elif fresh and rank_zero_only.rank == 0:
        for path in [path for pattern in LEFTOVERS for path in root.glob(pattern)]:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
