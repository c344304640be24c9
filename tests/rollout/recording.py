"""What a CUDA graph does, done on a CPU: the operations of a step, again, on the tensors they were recorded with."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recorder(TorchDispatchMode):
    """Notes every operation inside the `with`: its arguments, and the tensors it gave."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        """Run all of them again; what each gives is written where it was the first time."""
        for func, args, kwargs, out in self.calls:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    def reads(self):
        """Values that Python read off a tensor, which a graph cannot do."""
        return [func for func, *_ in self.calls if func == torch.ops.aten._local_scalar_dense.default]


class Recordings:
    """In the place of `cuda_graph`; keeps the recorders."""

    def __init__(self):
        self.made = []

    def __call__(self, model, step):
        recorder, ran = Recorder(), False
        with recorder:
            step()  # a graph's step would not run yet: the first run below is this one
        self.made.append(recorder)

        def run():
            nonlocal ran
            if ran:
                recorder.replay()
            ran = True

        return run
