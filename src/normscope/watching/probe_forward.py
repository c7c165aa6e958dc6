"""A forward of the uncompiled model behind a compiled step: what a compiled graph does not show."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from normscope.user_models.state_guard import is_examined, preserve_state
from normscope.user_models.wrappers import unwrapped_model
from normscope.watching.hooks import Hook, in_backward
from normscope.watching.step_writer import WatchedLayer

SHARE = 0.02
"""Of the training's time, for probes at default intervals."""

_LIMITS = (
    "Dropout has other masks there, and gradients at the layers' inputs and outputs are not "
    "recorded."
)

FREE = 1
"""Probes that are made whatever they cost."""


class CompiledCall(Hook):
    """Tells of a module's latest call whether it is compiled, also where only the forward is, and
    hooks run outside of the graph: the compiler looks into this one, and not into others.
    """

    def __init__(self, module: nn.Module):
        super().__init__(module, lambda *_: None)
        self.compiled = False
        self.handle = module.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: nn.Module, *rest: Any) -> None:
        self.compiled = torch.compiler.is_compiling()


class KeptCall(CompiledCall):
    """Keeps the arguments of a module's latest call with gradients, also inside a compiled graph.

    There the assignment is a side effect that Dynamo replays behind the graph, which stays that of
    an unwatched model. Nothing that a call of the model reads is changed: no recompilation follows.

    Attributes:
        wanted: whether calls outside of a compiled graph are kept as well.
        traced: whether a call was inside of a compiled graph.
    """

    def __init__(self, module: nn.Module):
        super().__init__(module)
        self.wanted, self.traced = True, False
        self._call: tuple[Any, Any] | None = None
        self._autocast: tuple[tuple[str, bool, torch.dtype], ...] = ()

    def __call__(self, module: nn.Module, *rest: Any) -> None:
        self.compiled = traced = torch.compiler.is_compiling()
        if not torch.is_grad_enabled():  # of a validation
            return
        # traced first: a graph that read the others would be compiled anew when they change
        if traced or (self.wanted and not is_examined() and module is self._module()):
            self._call = rest[0], rest[1]
            self.traced = traced
            self._autocast = (
                ("cpu", torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
                ("cuda", torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")),
            )

    @property
    def is_there(self) -> bool:
        """Tell whether a call is kept."""
        return self._call is not None

    def drop(self) -> None:
        """Let go of the arguments."""
        self._call = None

    def repeat(self) -> Any:
        """Call the module once more, as `called_again` does. The parameters must not have moved
        since the call.
        """
        module = self._module()
        assert module is not None
        assert self._call is not None
        args, kwargs = self._call
        with ExitStack() as stack:
            stack.enter_context(called_again(module))
            for device, enabled, dtype in self._autocast:
                if enabled:
                    stack.enter_context(torch.autocast(device, dtype, cache_enabled=False))
            return module(*args, **kwargs)


class Allowance:
    """The time that probes may take: a share of what has passed since the first."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._began = clock()
        self._spent = self._longest = 0.0
        self._probes = 0

    def suffices(self) -> bool:
        """Tell whether another probe is within the share."""
        expected = self._spent + self._longest
        return self._probes < FREE or expected <= SHARE * (self._clock() - self._began)

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Count what happens inside as a probe."""
        begun = self._clock()
        try:
            yield
        finally:
            took = self._clock() - begun
            self._probes += 1
            self._spent += took
            self._longest = max(self._longest, took) if self._probes > 1 else 0.0


class CompiledModel:
    """What a compiled graph hides of a model's layers, and whether a probe may show it.

    Args:
        model: the watched model.
        layers: its watched layers, with their calls in the step.
        note: says once per reason how layers are measured.
        block_begins: called before a compiled block that can be probed alone.

    Attributes:
        kept: the arguments of the model's latest call.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[WatchedLayer],
        note: Callable[[str, str], None],
        block_begins: Callable[..., None],
    ):
        inner = unwrapped_model(model)
        self.kept = KeptCall(inner)
        self._whole = self.kept if inner is model else CompiledCall(model)
        self._model = weakref.ref(model)
        self._layers, self._note, self._block_begins = layers, note, block_begins
        self._allowance = Allowance()
        self._never_called: set[str] = set()  # not even by a probe
        self._blocks: dict[int, RemovableHandle] = {}  # of the hooks on blocks
        self._time_for_blocks: bool | None = None  # in this step, once it was asked for
        if communicates(model):
            self._find_blocks(model)

    def _find_blocks(self, model: nn.Module) -> None:
        """Be told of the calls of compiled blocks whose parameters are gathered for each call."""
        for module in model.modules():
            if id(module) not in self._blocks and _is_probed_alone(module):
                hook = Hook(module, self._block_begins)
                hook.handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                self._blocks[id(module)] = hook.handle

    @property
    def handles(self) -> list[RemovableHandle]:
        """The handles of its hooks."""
        hooks = {self.kept, self._whole}
        return [hook.handle for hook in hooks if hook.handle is not None]

    def shows_operations(self) -> bool:
        """Tell whether nothing of the forward that begins is compiled: a function mode around it
        would change the graph.
        """
        model = self._model()
        return model is not None and not self._whole.compiled and not has_compiled_parts(model)

    def hidden(self) -> set[str]:
        """Return the layers that this step's forward has not called and a probe may."""
        uncalled = {layer.name for layer in self._layers if not layer.calls}
        return uncalled - self._never_called

    def hides_layers(self) -> bool:
        """Tell if a forward of compiled code has hidden layers, and its arguments are kept.

        Once nothing is hidden, or no part is compiled, arguments are kept of compiled calls alone.
        """
        model, kept = self._model(), self.kept
        if model is None or not kept.is_there:
            return False
        compiled = bool(self.hidden()) and (kept.traced or has_compiled_parts(model))
        kept.wanted &= compiled
        return compiled

    def may_probe(self, *, within_time: bool) -> bool:
        """Tell whether no other process would wait for a probe, and, if it has to be within the
        allowance, there is time for one.
        """
        model = self._model()
        if model is None or (within_time and not self._allowance.suffices()):
            return False
        if communicates(model):
            self._find_blocks(model)
            self._note(
                "probe",
                "The model is compiled, and its forward waits for other processes: of its layers, "
                f"{min(self.hidden())} for one, only weight, bias, buffers and parameter gradients "
                "are recorded. Blocks that are compiled and sharded one by one are measured: "
                "fully_shard(torch.compile(block)).",
            )
            return False
        if in_backward():
            self._note(
                "probe",
                "The model is compiled, and its optimizer steps inside the backward: of its layers "
                "only weight, bias, buffers and parameter gradients are recorded.",
            )
            return False
        self._note(
            "probe",
            "The model is compiled: its layers are measured by a forward of the uncompiled model "
            f"behind the backward, on the same input. {_LIMITS}",
        )
        return True

    def repeat(self) -> Any:
        """Repeat the kept call, uncompiled."""
        with self._allowance.spending():
            return self.kept.repeat()

    def give_up_uncalled(self) -> None:
        """Leave the layers alone that a probe has not called."""
        self._never_called |= self.hidden()

    def may_probe_block(self, block: nn.Module, *, within_time: bool) -> bool:
        """Tell whether a block is to be probed in this step; all of a step are, or none."""
        if self._time_for_blocks is None:
            self._time_for_blocks = not within_time or self._allowance.suffices()
        if not self._time_for_blocks:
            return False
        return not any(hasattr(p, "to_local") for p in uncompiled(block).parameters())

    def repeat_block(self, block: nn.Module, args: Any, kwargs: Any) -> None:
        """Call a compiled block once more with these arguments, uncompiled."""
        inner = uncompiled(block)
        self._note(
            "block probe",
            "The model's blocks are compiled: their layers are measured by a forward of the "
            f"uncompiled block right before the compiled one, on a copy of its input. {_LIMITS}",
        )
        with self._allowance.spending(), called_again(inner):
            args, kwargs = tree_map_only(Tensor, Tensor.clone, (args, kwargs))
            inner(*args, **kwargs)

    def detach(self) -> None:
        """Take the hooks off blocks, and let go of what is kept."""
        for handle in self._blocks.values():
            handle.remove()
        self.kept.drop()

    def end_step(self, *, moments: bool) -> None:
        """Let go of the step's arguments; keep the next ones where layers are no longer seen."""
        self.kept.drop()
        self._time_for_blocks = None
        if moments and any(layer.most_calls and not layer.calls for layer in self._layers):
            model = self._model()  # whose parts may have been compiled meanwhile
            self.kept.wanted |= model is not None and has_compiled_parts(model)


@contextmanager
def called_again(module: nn.Module) -> Iterator[None]:
    """Let a call of a module run uncompiled, and leave module and generators as they were.

    Gradients are traced, for the statistics that layers save for backward, and go nowhere. Buffers
    have their versions again, too: a backward that is still to come may have saved them.
    """
    buffers = tuple(module.buffers())
    with (
        _unsafe_preserve_version_counter(buffers),
        preserve_state(module),
        torch.enable_grad(),
        torch.compiler.set_stance("force_eager"),
    ):
        yield


def uncompiled(block: nn.Module) -> nn.Module:
    """Return what torch.compile has wrapped."""
    inner = block._modules["_orig_mod"]
    assert inner is not None
    return inner


def _is_probed_alone(module: nn.Module) -> bool:
    """Tell whether a module is a compiled block whose parameters FSDP2 gathers before each call,
    and nothing inside it waits for other processes.
    """
    if "_orig_mod" not in module._modules or not hasattr(module, "unshard"):
        return False
    inside = uncompiled(module).modules()
    return not any(hasattr(m, "unshard") or isinstance(m, nn.SyncBatchNorm) for m in inside)


def has_compiled_parts(model: nn.Module) -> bool:
    """Tell whether the model, or a module or forward inside it, was given to torch.compile."""
    return any(
        "_orig_mod" in module._modules
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module.forward, "_torchdynamo_orig_callable")
        for module in model.modules()
    )


def communicates(model: nn.Module) -> bool:
    """Tell whether a forward of the model waits for other processes, which do not probe."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    if distributed.get_world_size() == 1:
        return False
    sharded = any(hasattr(p, "to_local") for p in model.parameters())
    return sharded or any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
