"""The operations of a forward: what torch's functions do, as far as it matters to a norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CONVOLUTIONS = {f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)} | {"convolution"}
BATCH_NORMS = {"batch_norm", "_native_batch_norm_legit", "native_batch_norm"}
_NAMES = {
    "conv": " ".join(CONVOLUTIONS),
    "dropout": "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout",
    "norm": "batch_norm instance_norm group_norm layer_norm rms_norm local_response_norm",
    "pool": " ".join(
        f"{kind}_pool{dims}d"
        for kind in ("avg", "max", "adaptive_avg", "adaptive_max", "lp")
        for dims in (1, 2, 3)
    ),
    "activation": "relu relu_ relu6 gelu silu elu elu_ selu celu leaky_relu leaky_relu_ prelu "
    "hardswish hardtanh hardtanh_ hardsigmoid mish softplus sigmoid sigmoid_ tanh tanh_ rrelu "
    "threshold clamp clamp_ glu softmax log_softmax logsigmoid softsign",
    "view": "contiguous to float half bfloat16 double type clone detach type_as alias",
    "axes": "reshape view flatten transpose permute movedim unsqueeze squeeze __getitem__ chunk "
    "split unbind expand swapaxes unflatten T mT select narrow view_as pixel_shuffle",
    "linear": "linear addmm bilinear",
    "matmul": "matmul mm bmm einsum __matmul__",
    "embedding": "embedding embedding_bag",
    "recurrent": "lstm gru",
    "attention": "scaled_dot_product_attention multi_head_attention_forward",
    "add": "add add_ __add__ __radd__ __iadd__",
    "cat": "cat stack",
    "multiply": "mul mul_ __mul__ __rmul__ div",
    "mean": "mean sum",
}
KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}
"""{name of a torch function: what it does}"""

WEIGHTED = {"conv", "linear", "matmul", "embedding", "recurrent", "attention", "norm"}
FEATURES_LAST = {"linear", "embedding", "recurrent", "attention"}


@dataclass(eq=False)
class Node:
    """One operation of the forward."""

    kind: str
    module: str
    inputs: tuple[Node, ...] = ()
    readers: list[Node] = field(default_factory=list)
    bias: bool = False
    p: float = 0.0  # of a dropout
    whole: bool = False  # a pool over all positions


def name_of(func: Any) -> str:
    """Return the name of a torch function, without its overload."""
    name = getattr(func, "__name__", "")
    if name == "__get__":  # an attribute such as x.T
        name = getattr(getattr(func, "__self__", None), "__name__", "")
    return name.split(".")[0]  # an operator with an overload: convolution.default


def node_of(name: str, module: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Node:
    """Return the node of a call of the function with this name."""
    kind = KINDS.get(name, "other")
    node = Node(kind, module)
    if name == "addmm":
        node.bias = True
    elif kind in ("conv", "linear"):
        node.bias = (args[2] if len(args) > 2 else kwargs.get("bias")) is not None
    elif kind == "dropout":
        node.p = float(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
    elif kind == "mean" or name.startswith("adaptive_avg_pool"):
        node.kind, node.whole = "pool", _averages_all_positions(name, args, kwargs)
    return node


def _averages_all_positions(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    if name == "mean":
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        dims = (dims,) if isinstance(dims, int) else dims
        rank = args[0].ndim
        if rank < 3 or not isinstance(dims, tuple | list):
            return False
        return {d % rank for d in dims} == set(range(2, rank))
    size = args[1] if len(args) > 1 else kwargs.get("output_size")
    return size == 1 or (isinstance(size, tuple | list) and all(entry == 1 for entry in size))


def batch_norm_trains(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return `training` of F.batch_norm, torch.batch_norm and their operators, wherever it is."""
    if "training" in kwargs:
        return bool(kwargs["training"])
    return any(value is True for value in args[:6])
