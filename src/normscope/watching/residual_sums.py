"""Which additions are residual ones: a value, and what weights have made of that very value.

Told from autograd's graph, whatever the modules are called: one operand (the skip) is met again
behind the other one, with a matrix product or a convolution on the way. Biases, positions, masks
and the sums inside rotary embeddings and activation functions are not of that kind.
"""

from __future__ import annotations

from collections import deque
from typing import Any

MOST_NODES = 400
"""So many nodes of a branch are looked at; an attention with rotary embedding has about 100."""

MOST_STEPS = 8
"""So many nodes may lie on the skip: a shortcut has a convolution, its norm and a pooling."""

_SAME_VALUE = frozenset(
    ("View", "UnsafeView", "ReshapeAlias", "Alias", "ToCopy", "Clone", "Permute", "Transpose", "T",
     "Squeeze", "Unsqueeze", "NativeDropout")
)  # fmt: skip
_SHORTCUT = _SAME_VALUE | {
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
    """Return the nodes from this one back to the first that is none of these operations."""
    passed: list[Any] = []
    while node is not None and len(passed) < MOST_STEPS:
        passed.append(node)
        before = _before(node) if _operation(node) in operations else []
        node = before[0] if before else None
    return passed


def value_node(node: Any) -> Any:
    """Return the node that made a value, behind views, casts and copies of it."""
    return _back_through(node, _SAME_VALUE)[-1] if node is not None else None


def is_residual(one: Any, other: Any) -> bool:
    """Tell from the `grad_fn` of its operands whether an addition is a residual one."""
    if one is None or other is None:
        return False
    return _meets(one, other) or _meets(other, one)


def _meets(skip: Any, branch: Any) -> bool:
    """Tell if a branch comes from the skip, with weights on the way."""
    goal = set(_back_through(skip, _SHORTCUT))
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
