"""The operations of a forward, as far as they matter to a norm, and walks from one to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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


VIEWS = ("view", "axes")
_OF_A_HEAD = ("linear", "matmul", "activation", "multiply", "dropout", "pool", *VIEWS)
_OF_A_SUM = ("add", "multiply", "dropout", *VIEWS)


@dataclass(frozen=True)
class BareHead:
    """A head that reads the sum of residual branches as it is.

    Attributes:
        module: the module of its first weights.
        readers: normalization layers that read that stream before weights of the branches.
        tokens: the stream begins with an embedding.
    """

    module: str
    readers: tuple[str, ...]
    tokens: bool


def comes_from_input(node: Node) -> bool:
    """Tell whether a node's values depend on the model's input: weights alone do not."""
    visited, waiting = set(), [node]
    while waiting:
        source = waiting.pop()
        if source.kind == "input":
            return True
        if id(source) not in visited:
            visited.add(id(source))
            waiting += source.inputs
    return False


def source_of(node: Node) -> tuple[Node | None, bool, bool]:
    """Return what made a node's input behind views, if nothing else reads it, if axes moved."""
    sole, moved = True, False
    while node.inputs:
        source = node.inputs[0]
        sole &= len(source.readers) == 1
        if source.kind not in VIEWS:
            return source, sole, moved
        moved |= source.kind == "axes"
        node = source
    return None, sole, moved


def readers_of(node: Node) -> Iterator[Node]:
    """Yield the first readers of a node's output behind views."""
    for reader in node.readers:
        if reader.kind in VIEWS:
            yield from readers_of(reader)
        else:
            yield reader


def bare_head(output: Node | None, norms: Mapping[str, list[Node]]) -> BareHead | None:
    """Return the head behind a model's output, if it reads a residual stream that normalization
    layers read, and that was not normalized since.

    Args:
        output: the node that made the model's output.
        norms: the nodes of each normalization layer.
    """
    head, end = _head(output)
    if head is None or end is None:
        return None
    stream = _stream(end)
    readers = tuple(name for name, nodes in norms.items() if any(_reads(n, stream) for n in nodes))
    tokens = any(node.kind == "embedding" for node in stream.values())
    return BareHead(head.module, readers, tokens) if readers else None


def _head(node: Node | None) -> tuple[Node | None, Node | None]:
    """Return the first weights and the sum that they read, walking back from an output."""
    head = None
    while node is not None:
        sources = [source for source in node.inputs if comes_from_input(source)]
        if node.kind == "add" and len(sources) > 1:
            return head, node
        if len(sources) != 1 or (node.kind != "add" and node.kind not in _OF_A_HEAD):
            return None, None
        head = node if node.kind in WEIGHTED else head
        node = sources[0]
    return None, None


def _stream(end: Node) -> dict[int, Node]:
    """Return {id: node} of the sums that lead to one, and of what they add."""
    stream, waiting = {}, [end]
    while waiting:
        node = waiting.pop()
        if id(node) in stream:
            continue
        stream[id(node)] = node
        if node.kind in _OF_A_SUM:
            waiting += node.inputs
    return stream


def _reads(norm: Node, stream: Mapping[int, Node]) -> bool:
    source, _, _ = source_of(norm)
    in_stream = source is not None and source.kind == "add" and id(source) in stream
    return in_stream and any(reader.kind in WEIGHTED for reader in readers_of(norm))
