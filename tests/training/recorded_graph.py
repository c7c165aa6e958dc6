"""A CUDA graph's stand-in on the CPU: a list of operators on tensors, done again without Python.

As in a graph, numbers that Python computed are frozen, tensors are what their memory holds, and a
value cannot be
brought to the host.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

TO_HOST = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class Tape(TorchDispatchMode):
    """Records every operator, forward and backward, below autograd."""

    def __init__(self, strict=True):
        super().__init__()
        self.calls, self.waits, self.strict = [], 0, strict

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in TO_HOST:
            self.waits += 1
            if self.strict:
                raise RuntimeError("operation not permitted when stream is capturing")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def play(self):
        with torch.no_grad():
            for func, args, kwargs, before in self.calls:
                for old, new in zip(
                    tree_leaves(before), tree_leaves(func(*args, **kwargs)), strict=True
                ):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Recorded:
    """Stands in for `graphs.capture` and `graphs.waits_for_device`; counts what it did."""

    def __init__(self, monkeypatch):
        self.captures, self.replays = 0, 0
        monkeypatch.setattr("normscope.training.graphs.capture", self.capture)
        monkeypatch.setattr("normscope.training.graphs.waits_for_device", self.waits_for_device)
        # float64, as here the optimizer takes the number out of it
        monkeypatch.setattr(
            "normscope.training.passes.rate_on_device",
            lambda _: torch.zeros((), dtype=torch.float64),
        )

    def capture(self, work):
        """Here recording is doing: the first replay, which follows at once, has been done by it."""
        with Tape() as tape:
            work()
        self.captures += 1
        played = iter([lambda: None])

        def replay():
            self.replays += 1
            next(played, tape.play)()

        return replay

    @staticmethod
    def waits_for_device(work):
        with Tape(strict=False) as tape:
            work()
        return tape.waits > 0
