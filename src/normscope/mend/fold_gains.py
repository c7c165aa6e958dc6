"""Gains and biases of layer and RMS normalization folded into the linear layers behind."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from normscope.arguments import judged
from normscope.mend.folding import Folding, NotUnderstoodError, named
from normscope.mend.forward_paths import Path, is_matrix, is_row_norm, method_without
from normscope.mend.gains import TOLERANCE, Gain, NotAffineError, agree, gain_convention, outcome
from normscope.user_models.norm_layers import gain_of
from normscope.user_models.plain_layers import alteration, runs_torch_forward


@judged
def fold_gains(
    model: nn.Module, batches: Iterable[Any] | None = None, *, partial: bool = False
) -> nn.Module:
    """A copy of the model in eval mode, with gain and bias of layer and RMS normalization folded
    into the linear layers that read their output.

    W' = W diag(g), b' = b + W c, with the gain g (w, or 1 + w where the layer adds one) and the
    bias c, computed in float64. The normalization stays, with a gain of 1 and a bias of 0; a linear
    layer without a bias gets one where c is not zero.

    A normalization is folded only if on every way through the forward all that reads its output are
    linear layers (nn.Linear, or a matrix with a bias as GPT-2's Conv1D) that read nothing else, and
    no weight is shared with another layer. Where a model cannot be traced and batches are given,
    views that choose or arrange whole rows (`x[:, 0]`) may lie between. What a layer does with its
    gain, and which way a matrix of somebody's own lies, is tried on random inputs. What stays as it
    is a warning names.

    Intermediate values change: a hidden state that was normalized has lost its gain.

    Args:
        model: the model; it is not changed.
        batches: up to 16 batches of inputs, as for `fold`; a model that cannot be traced needs
            them. The outputs before and after are compared.
        partial: fold what can be folded and warn of layers that are not understood, in place of
            refusing the model.

    Raises:
        InputError: if there is nothing to fold, a layer is not understood, the model cannot be
            traced and there are no batches, or outputs differ by more than rounding.
    """
    return GAINS.run(model, batches, partial)


def _plan(model: nn.Module, name: str, paths: list[Path]) -> Callable[[], None] | str:
    """What folds a normalization's gain, or why it stays."""
    norm = model.get_submodule(name)
    readers = {reader for path in paths for reader in path.readers(name)}
    if gain_of(norm) is None:
        return "it has no gain"
    if not any(path.calls[name] for path in paths):
        return "the forward does not call it"
    if reason := _shared(model, name, *readers) or _other_reader(name, readers, paths):
        return reason
    matrices: list[tuple[Any, bool]] = []
    for reader in sorted(readers):
        layer = model.get_submodule(reader)
        if altered := alteration(layer):
            raise NotUnderstoodError(f"{named(reader, layer)}: {altered}")
        inputs_last = _inputs_last(layer)
        if inputs_last is None:
            return f"{named(reader, layer)} reads it, and is no linear layer or does more than one"
        method = method_without(model, reader, name) or method_without(model, name, reader)
        if method:
            return f"{method} calls one of it and {reader!r} without the other"
        matrices.append((layer, inputs_last))
    try:
        gain = gain_convention(norm)
    except NotAffineError as error:
        raise NotUnderstoodError(f"{named(name, norm)}: {error}") from error
    widths = {layer.weight.shape[-1 if last else 0] for layer, last in matrices}
    if widths != {gain.factor(norm).numel()}:
        return "its gain has another size than its readers' inputs"
    return functools.partial(_absorb, norm, gain, matrices)


def _other_reader(name: str, readers: set[str], paths: list[Path]) -> str:
    """Say what else reads a normalization's output, its weights or its readers' inputs, or ""."""
    for path in paths:
        if path.others[name]:
            return "its output is read by something that is no linear layer"
        if name in path.argued:
            return "it is called with further arguments, or returns more than one tensor"
        if name in path.read:
            return "its gain or bias is read elsewhere too"
        for reader in readers:
            if reader in path.read:
                return f"the weights of {reader!r} are read elsewhere too"
            if reader in path.argued:
                return f"{reader!r} is called with further arguments"
            if path.edges[name, reader] != path.calls[reader]:
                return f"{reader!r} runs on other inputs too"
    return "" if readers else "nothing reads its output"


def _shared(model: nn.Module, *names: str) -> str:
    """Name a parameter of these layers that another module holds too; empty if there is none."""
    layers = {model.get_submodule(name): name for name in names}
    for other, module in model.named_modules():
        held = {id(p) for p in module._parameters.values() if p is not None}
        for layer, name in layers.items():
            if layer is module:
                continue
            for parameter, value in layer._parameters.items():
                if value is not None and id(value) in held:
                    return f"the {parameter} of {name!r} is tied to {other!r}"
    return ""


@torch.no_grad()
def _inputs_last(layer: nn.Module) -> bool | None:
    """Tell whether a linear layer's weight is [out, in], or [in, out]; None if it is none."""
    if runs_torch_forward(layer, nn.Linear):
        return True
    weight = layer._parameters.get("weight")
    if weight is None or not (isinstance(layer, nn.Linear) or is_matrix(layer)):
        return None
    generator = torch.Generator().manual_seed(0)
    tried = copy.deepcopy(layer).eval()
    for name, p in tried._parameters.items():
        if p is not None:
            tried._parameters[name] = nn.Parameter(
                torch.randn(p.shape, generator=generator, dtype=torch.double), requires_grad=False
            )
    bias = tried._parameters.get("bias")
    for inputs_last in (True, False):
        matrix: Tensor = tried.weight.T if inputs_last else tried.weight  # type: ignore[assignment, union-attr]
        if bias is not None and bias.shape != matrix.shape[1:]:
            continue
        shapes = ((3, len(matrix)), (2, 3, len(matrix)))
        inputs = [torch.randn(s, generator=generator, dtype=torch.double) for s in shapes]
        products = [x @ matrix + (0 if bias is None else bias) for x in inputs]
        if all(agree(outcome(tried, x), y) for x, y in zip(inputs, products, strict=True)):
            return inputs_last
    return None


@torch.no_grad()
def _absorb(norm: nn.Module, gain: Gain, matrices: list[tuple[Any, bool]]) -> None:
    """Multiply and shift the linear layers' weights as the normalization does their input."""
    factor = gain.factor(norm)
    offset = None if gain.bias is None else norm._parameters[gain.bias]
    for layer, inputs_last in matrices:
        weight, bias = layer.weight, layer._parameters.get("bias")
        matrix = weight.double() if inputs_last else weight.double().T
        if offset is not None and bool(offset.any()):
            shift = matrix @ offset.double().expand(matrix.shape[1])
            total = shift if bias is None else bias.double() + shift
            like = weight if bias is None else bias
            layer.bias = nn.Parameter(total.to(like.dtype), like.requires_grad)
        folded = matrix * factor
        layer.weight = nn.Parameter(
            (folded if inputs_last else folded.T.contiguous()).to(weight.dtype),
            weight.requires_grad,
        )
    gain.make_neutral(norm)


GAINS = Folding(
    function="fold_gains",
    what="gains of layer and RMS normalization",
    nothing="gain of a layer or RMS normalization right before linear layers",
    wanted=is_row_norm,
    plan=_plan,
    tolerance=TOLERANCE,
)
