"""Walks through a traced forward, from node to node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from normscope.examining.operations import WEIGHTED, Node

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
