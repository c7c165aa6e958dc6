"""Forward hooks that belong to one module and stay behind when it is copied or pickled."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch._C._dynamo.eval_frame import _FrameAction, _FrameExecStrategy, set_code_exec_strategy
from torch.utils.hooks import RemovableHandle

F = TypeVar("F", bound=Callable[..., Any])

_WITH_KWARGS = "_forward_hooks_with_kwargs"
_TABLES = ("_forward_pre_hooks", "_forward_hooks", "_forward_hooks_always_called", _WITH_KWARGS)

# A callable that takes anything and returns None. It is what a pickled hook turns into, because it
# can be loaded where normscope is not installed.
_nothing = contextlib.nullcontext().__exit__

_graph_task: Callable[[], int] = torch._C._current_graph_task_id  # type: ignore[attr-defined]


def in_backward() -> bool:
    """Tell whether a backward runs now, where checkpointing repeats forwards."""
    return _graph_task() != -1


class Hook:
    """A forward (pre-)hook of one module. It calls `function(module, *rest)` for this module only.

    Copies of a module share or carry its hooks, and must not record into the original's record:

    * a shallow copy, such as a replica of nn.DataParallel, shares the hook, which sees that it is
      not its module;
    * a deep copy is swept clean of it when the copying is over;
    * a pickle holds a function that does nothing.

    Inside torch.compile it is traced to nothing, so that the compiled graph is that of an unwatched
    model.

    Attributes:
        reads_statistics_only: tells fused layers that this hook reads its input and the output's
            `grad_fn`, but not the values of the output. They then stay fused, and a watched step
            has the bits of an unwatched one.
    """

    def __init__(
        self,
        module: nn.Module,
        function: Callable[..., None],
        *,
        reads_statistics_only: bool = False,
    ):
        _keep_out_of_dynamo(module)
        self._module = weakref.ref(module)
        self._function = function
        self.reads_statistics_only = reads_statistics_only
        self.handle: RemovableHandle | None = None

    def __call__(self, module: nn.Module, *rest: Any) -> None:
        if torch.compiler.is_compiling():
            return
        if module is self._module():
            self._function(module, *rest)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (contextlib.nullcontext(), "__exit__")

    def __deepcopy__(self, memo: dict[Any, Any]) -> Callable[..., None]:
        copied = memo.get(id(self._module()))
        if copied is not None and self.handle is not None:
            memo.setdefault(_Sweeper, _Sweeper()).leftovers.append((copied, self.handle.id))
        return _nothing


_SKIP = _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP)


def run_uncompiled(function: F) -> F:
    """Let a function run as it is where a compiled one calls it, with all that it calls.

    For hooks of an optimizer, whose `step` may be inside a function that is compiled. It is what
    `torch.compiler.disable` does, without the second that importing the compiler takes.
    """
    called: Any = function
    set_code_exec_strategy(called.__code__, _SKIP)
    called._torchdynamo_disable = True
    called._torchdynamo_disable_msg = "normscope records here"
    return function


def _keep_out_of_dynamo(module: nn.Module) -> None:
    """Let `module.compile()` compile no more of PyTorch's own modules than without hooks.

    Dynamo does not begin a graph at the forward of a module of torch.nn (an nn.Sequential that was
    compiled in place, or what it holds), except where the module has hooks. Here it does not
    either, nor at a hook. Inside a graph that begins elsewhere both are traced as ever.
    """
    set_code_exec_strategy(Hook.__call__.__code__, _SKIP)
    forward = getattr(type(module).forward, "__code__", None)
    if type(module).__module__.startswith(("torch.nn.", "torch.ao.")) and forward is not None:
        set_code_exec_strategy(forward, _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.DEFAULT))


class _Sweeper:
    """Takes the hooks off the copies when deepcopy's memo dies, in which it lives."""

    def __init__(self):
        self.leftovers: list[tuple[nn.Module, int]] = []

    def __del__(self):
        for module, key in self.leftovers:
            for table in _TABLES:
                module.__dict__.get(table, {}).pop(key, None)


def before_forward(module: nn.Module, function: Callable[..., None]) -> RemovableHandle:
    """Call `function(module, args)` before each forward of this module."""
    hook = Hook(module, function)
    hook.handle = module.register_forward_pre_hook(hook)
    return hook.handle


def after_any_forward(module: nn.Module, function: Callable[..., None]) -> RemovableHandle:
    """Call `function(module, args, output)` after each forward; output is None if it raised."""
    hook = Hook(module, function)
    hook.handle = module.register_forward_hook(hook, always_call=True)
    return hook.handle


class LayerHooks:
    """Forward hooks of several modules, which can be set aside for a while."""

    def __init__(self):
        self._hooks: list[tuple[Hook, RemovableHandle, weakref.ref[nn.Module]]] = []

    def add(
        self, module: nn.Module, function: Callable[..., None], *, reads_statistics_only: bool
    ) -> None:
        """Call `function(module, args, kwargs, output)` after each forward; see `Hook`."""
        hook = Hook(module, function, reads_statistics_only=reads_statistics_only)
        hook.handle = module.register_forward_hook(hook, with_kwargs=True)
        self._hooks.append((hook, hook.handle, weakref.ref(module)))

    def set_aside(self) -> None:
        """Take the hooks off until they are put back."""
        for _, handle, _ in self._hooks:
            handle.remove()

    def put_back(self) -> None:
        """Undo `set_aside`."""
        for hook, handle, ref in self._hooks:
            if (module := ref()) is not None:
                module._forward_hooks[handle.id] = hook
                getattr(module, _WITH_KWARGS)[handle.id] = True

    def remove(self) -> None:
        """Take the hooks off for good."""
        self.set_aside()
        self._hooks = []
