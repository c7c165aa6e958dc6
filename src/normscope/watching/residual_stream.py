"""The residual stream of a forward: its sums and its attentions, seen while they are made.

A function mode sees what hooks on modules cannot: additions, the queries and keys of
`F.scaled_dot_product_attention`, and the logits that a softmax is given where an attention is
written out. It hands every call on as it is. It is there at recorded steps alone, and never around
compiled code, whose graphs depend on it.

Which additions are residual ones, a value and what weights have made of that very value, is told
from autograd's graph, whatever the modules are called: one operand (the skip, which may be scaled)
is met again behind the other one, with a matrix product or a convolution on the way. Biases,
positions, masks and the sums inside rotary embeddings and activation functions are not of that
kind.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode

from normscope.user_models.wrappers import is_transformed
from normscope.watching.observe import Call
from normscope.watching.row_buffers import column
from normscope.watching.stream_measures import (
    attention_statistics,
    channel_axis,
    logit_statistics,
    sampled_tokens,
    stream_statistics,
    token_cosine,
)

MOST_NODES = 400
"""So many nodes of a branch are looked at; an attention with rotary embedding has about 100."""

MOST_STEPS = 8
"""So many nodes may lie on the skip: a shortcut has a convolution, its norm and a pooling."""

_SAME_VALUE = frozenset(
    ("View", "UnsafeView", "ReshapeAlias", "Alias", "ToCopy", "Clone", "Permute", "Transpose", "T",
     "Squeeze", "Unsqueeze", "NativeDropout")
)  # fmt: skip
_SCALINGS = frozenset(("Mul", "Div"))
_SHORTCUT = _SAME_VALUE | _SCALINGS | {
    "Relu", "Convolution", "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm",
    "NativeGroupNorm", "AvgPool2D", "MaxPool2DWithIndices", "ConstantPadNd", "Slice",
}  # fmt: skip
_ON_LOGITS = _SAME_VALUE | {
    "Div", "Mul", "Add", "Sub", "MaskedFill", "Where", "IndexPut", "CopySlices", "Tanh", "Cat",
    "Slice", "Expand", "Clamp", "AsStrided",
}  # fmt: skip
_PRODUCTS = ("Bmm", "Baddbmm")
_WEIGHTED = ("Addmm", "Mm", "Bmm", "Linear", "Convolution", "Baddbmm", "MkldnnLinear")


def _operation(node: Any) -> str:
    return node.name().rpartition("::")[2].partition("Backward")[0]


def _before(node: Any) -> list[Any]:
    return [before for before, _ in node.next_functions if before is not None]


def _back_through(node: Any, operations: frozenset[str]) -> list[Any]:
    """Return the nodes from this one back to the first that is none of these operations, a scaling
    by a constant or a parameter among them, but no product of two values.
    """
    passed: list[Any] = []
    while node is not None and len(passed) < MOST_STEPS:
        passed.append(node)
        before = _before(node) if _operation(node) in operations else []
        if _operation(node) in _SCALINGS:
            before = [each for each in before if "AccumulateGrad" not in each.name()]
            before = before if len(before) == 1 else []
        node = before[0] if before else None
    return passed


def value_node(node: Any) -> Any:
    """Return the node that made a value, behind views, casts and copies of it."""
    return _back_through(node, _SAME_VALUE)[-1] if node is not None else None


def skip_of(one: Any, other: Any, skips: Mapping[Any, Any]) -> Any:
    """Return, of the `grad_fn` of an addition's operands, that of the skip; None where it is no
    residual sum.

    Args:
        one: of the first operand.
        other: of the second.
        skips: of known residual sums; in x + attention(x) + mlp(x) the second has the first's skip.
    """
    if one is None or other is None:
        return None
    pairs = (one, other), (other, one)
    return next((skip for skip, branch in pairs if _meets(skip, branch, skips)), None)


def _meets(skip: Any, branch: Any, skips: Mapping[Any, Any]) -> bool:
    """Tell if a branch comes from the skip, with weights on the way."""
    passed = _back_through(skip, _SHORTCUT)
    goal = {*passed, *_back_through(skips.get(passed[-1]), _SHORTCUT)}
    queue, seen, weighted = deque([branch]), {branch}, False
    while queue and len(seen) < MOST_NODES:
        node = queue.popleft()
        if node in goal:
            if weighted:
                return True
            continue
        weighted |= _operation(node) in _WEIGHTED
        for before in _before(node):
            if before not in seen:
                seen.add(before)
                queue.append(before)
    return False


def are_products(node: Any) -> bool:
    """Tell from the `grad_fn` of values if they are products of one matrix per head and sample,
    scaled and masked: an attention's logits, not those of a classifier.
    """
    queue, seen = deque([node]), 0
    while queue and seen < MOST_NODES:
        node, seen = queue.popleft(), seen + 1
        if node is not None and _operation(node) in _PRODUCTS:
            return True
        queue.extend(_before(node) if node is not None and _operation(node) in _ON_LOGITS else [])
    return False


GROUP = "stream"
_ADDITIONS = {
    torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__,
}  # fmt: skip
_SOFTMAXES = {F.softmax, torch.softmax, torch.special.softmax, Tensor.softmax}


@cache
def _opened(function: FunctionType) -> FunctionType:
    """Return a function of torch.nn.functional that leaves it to its parts to tell the mode of
    calls: the same code, without its check whether something overrides it.
    """
    scope = {**function.__globals__, "has_torch_function": lambda *_: False}
    opened = FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


class _Value(NamedTuple):
    """What tells a value from others: the node that made it, and where it lies in memory."""

    node: Any
    place: tuple[int, int] | None

    @classmethod
    def of(cls, value: Tensor) -> _Value:
        held = type(value) is Tensor and not is_transformed(value) and value.data_ptr() != 0
        place = (value.data_ptr(), value.numel()) if held else None
        return cls(value_node(value.grad_fn), place)

    def is_read_as(self, read: _Value) -> bool:
        """Tell whether a layer has read this value: also behind an autograd function in Python that
        hands it on as it is, as FSDP has at the borders of its modules.
        """
        handed_on = isinstance(read.node, BackwardCFunction) and self.place is not None
        same = self.node is not None and self.node is read.node
        return same or (handed_on and self.place == read.place)


class ResidualStream(TorchFunctionMode):
    """Measures a forward's residual sums and attentions, and gives them to the layers beside them.

    A sum belongs to the normalization layer that reads it (pre-norm and post-norm); one that no
    layer reads, to the layer called last before it (residual networks). An attention belongs to
    the layer called last before it.

    Args:
        widths: numbers of channels of the watched layers.
        convolutional: whether channels are expected at axis 1.
        spend: is told when a measurement has begun.
        fail: is told of an error, which the forward must not see.
    """

    def __init__(
        self, widths: set[Any], convolutional: bool, spend: Callable[[float], None],
        fail: Callable[[Exception], None],
    ):  # fmt: skip
        super().__init__()
        self.sums = self.attentions = 0  # that were recognized
        self._skips: dict[Any, Any] = {}  # {node of a residual sum: node of its skip}
        self._widths, self._convolutional = widths, convolutional
        self._spend, self._fail = spend, fail
        self._last: Call | None = None
        self._waiting: list[tuple[_Value, Call | None, dict[str, Tensor]]] = []
        self._logits: Tensor | None = None  # of an attention before the first layer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward and isinstance(func, FunctionType):
            with self:
                return _opened(func)(*args, **kwargs)
        if func in _SOFTMAXES:
            self._guarded(self._softmax, *args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self._guarded(self._attention, *args, **kwargs)
        operands = self._operands(args) if func in _ADDITIONS else None
        result = func(*args, **kwargs)
        if operands is not None and isinstance(result, Tensor):
            self._guarded(self._sum, result, operands)
        return result

    def _guarded(self, measure: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        start = time.perf_counter()
        try:
            with torch.no_grad():
                measure(*args, **kwargs)
        except Exception as error:
            self._fail(error)
        self._spend(start)

    @staticmethod
    def _operands(args: Any) -> tuple[Any, Any] | None:
        """Return the nodes of two operands of one shape; an addition in place has others later."""
        if len(args) < 2 or not all(isinstance(value, Tensor) for value in args[:2]):
            return None
        one, other = args[:2]
        if one.dim() < 2 or one.shape != other.shape or not one.is_floating_point():
            return None
        return one.grad_fn, other.grad_fn

    def _sum(self, result: Tensor, operands: tuple[Any, Any]) -> None:
        skip = skip_of(*operands, self._skips)
        if skip is None:
            return
        self.sums += 1
        self._skips[result.grad_fn] = skip
        axis = channel_axis(result, self._widths, convolutions=self._convolutional)
        tokens = sampled_tokens(result, axis)
        values = {"stream": stream_statistics(tokens)}
        if tokens.shape[1] > 1:
            values["token_cosine"] = token_cosine(tokens)
        self._waiting.append((_Value.of(result), self._last, values))

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, **_: Any,
    ) -> None:  # fmt: skip
        self._attend(attention_statistics(query, key, attn_mask, causal=is_causal, scale=scale))

    def _softmax(self, input: Tensor, dim: int | None = None, *_: Any, **__: Any) -> None:
        if input.dim() > 2 and dim in (-1, input.dim() - 1) and are_products(input.grad_fn):
            self._attend(logit_statistics(input))

    def _attend(self, logits: Tensor) -> None:
        self.attentions += 1
        if self._last is None:
            self._logits = logits
        else:
            _put(self._last, {"attention": logits})

    def called(self, call: Call, x: Tensor | None) -> None:
        """Take note of a layer's call: which waiting sum it has read, which no layer has."""
        read = _Value.of(x) if x is not None else None
        if self._logits is not None:
            _put(call, {"attention": self._logits})
            self._logits = None
        for value, before, values in self._waiting:
            is_read = read is not None and value.is_read_as(read)
            _put(call if before is None or is_read else before, values)
        self._waiting, self._last = [], call

    def end(self) -> None:
        """Give what still waits to the last layer."""
        for _, before, values in self._waiting:
            if before is not None:
                _put(before, values)
        self._waiting, self._last, self._logits, self._skips = [], None, None, {}


def _put(call: Call, values: dict[str, Tensor]) -> None:
    """Put statistics into a call's row; the first sum beside a layer is the one that counts."""
    row = call.parts.setdefault(GROUP, [])
    known = {at.statistic for at, _ in row}
    for name, value in values.items():
        if name not in known:
            row.append((column(call.layer, name, tuple(value.shape)), value))
