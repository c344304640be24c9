"""Strategies that a configuration names: `trainer.strategy: fsdp2` cuts the weights into pieces over all processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.strategies.deepspeed import _DEEPSPEED_AVAILABLE
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy, StrategyRegistry

from redaes.errors import UserError
from redaes.presets import configs_folder


class FullySharded(ModelParallelStrategy):
    """FSDP2 over every process of the run.

    Lightning's own default takes the processes of one machine for tensor parallelism, which these models are not cut
    for, and shards over machines only.

    Args:
        save_distributed_checkpoint: every process writes its own pieces, into a folder in the place of a `.ckpt` file
            (`redaes export` opens it); false gathers one file on the first process.
        options: Lightning's, such as `timeout`.
    """

    def __init__(self, save_distributed_checkpoint: bool = True, **options: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint, **options)

    def setup_environment(self) -> None:
        """Shard over all processes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


if "fsdp2" not in StrategyRegistry:
    StrategyRegistry.register("fsdp2", FullySharded, description="FSDP2 over every process of the run")


def data_parallel_mesh(mesh: Any) -> Any:
    """The mesh to shard over, out of the one that a ModelParallelStrategy makes.

    Raises:
        UserError: it has a tensor-parallel part.
    """
    if mesh["tensor_parallel"].size() > 1:
        raise UserError(
            "trainer.strategy splits layers over processes (tensor_parallel_size > 1), which these models are not cut "
            "for: use strategy fsdp2"
        )
    return mesh["data_parallel"]


class Zero(DeepSpeedStrategy):
    """DeepSpeed with one of the ready configurations, or another JSON file.

    Args:
        config: `zero2`, `zero3`, `zero3_offload`, or the path of a JSON file.
        options: Lightning's.
    """

    def __init__(self, config: str = "zero2", **options: Any) -> None:
        if not _DEEPSPEED_AVAILABLE:
            raise UserError(f"strategy {config} needs deepspeed: pip install deepspeed")
        self._named = config
        ready = configs_folder() / "deepspeed" / f"{config}.json"
        super().__init__(config=str(ready if ready.is_file() else config), **options)

    def setup_environment(self) -> None:
        """Refuse in one line what Lightning would refuse."""
        if not isinstance(self.accelerator, CUDAAccelerator):
            raise UserError(f"strategy {self._named} needs CUDA GPUs; without them use ddp or fsdp2")
        super().setup_environment()

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Weights are opened whole and cut by the engine: what transformers reads would not fit into empty pieces."""
        yield


for name in ("zero2", "zero3", "zero3_offload"):
    if name not in StrategyRegistry:
        StrategyRegistry.register(name, Zero, description=f"DeepSpeed with configs/deepspeed/{name}.json", config=name)
