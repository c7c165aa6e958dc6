"""Batch normalization folded into the convolution or linear layer before it, for inference."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from normscope.errors import InputError


def fold(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode, with batch normalization folded into what comes right
    before it.

    Pairs are found by symbolic tracing (torch.fx); where the model cannot be traced, those that
    follow each other in an nn.Sequential. A layer is folded only if nothing else reads what it
    normalizes and both run once. The folded layers are replaced by nn.Identity. Weights are fused
    by torch's own functions: W' = W g / sqrt(v + eps), b' = b0 + (b - m) g / sqrt(v + eps).

    Raises:
        InputError: if there is no such pair.
    """
    folded = copy.deepcopy(model).eval()
    pairs = _traced_pairs(folded)
    if pairs is None:
        pairs = _sequential_pairs(folded)
    if not pairs:
        raise InputError(
            "The model has no batch normalization right behind a convolution or a linear layer."
        )
    for first, second in pairs:
        weighted, norm = folded.get_submodule(first), folded.get_submodule(second)
        _replace(folded, first, _fuse(weighted, norm))
        _replace(folded, second, nn.Identity())
    return folded


def _fuse(weighted: nn.Module, norm: nn.Module) -> nn.Module:
    if isinstance(weighted, nn.Linear):
        return fuse_linear_bn_eval(weighted, norm)  # type: ignore[arg-type]
    return fuse_conv_bn_eval(weighted, norm, transpose=isinstance(weighted, _ConvTransposeNd))  # type: ignore[type-var]


def _fits(weighted: nn.Module, norm: nn.Module) -> bool:
    """Both are of the right kind, the normalization has statistics, and their widths agree."""
    if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
        return False
    width = getattr(weighted, "out_channels", None) or getattr(weighted, "out_features", None)
    grouped = (
        isinstance(weighted, _ConvTransposeNd) and weighted.groups > 1
    )  # torch fuses these along the wrong axis
    return isinstance(weighted, _ConvNd | nn.Linear) and width == norm.num_features and not grouped


class _Leaves(fx.Tracer):
    """Looks into every module but torch's own layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _BatchNorm | _ConvNd | nn.Linear) or super().is_leaf_module(
            m, module_qualified_name
        )


def _traced_pairs(model: nn.Module) -> list[tuple[str, str]] | None:
    """(weighted layer, normalization) by the traced graph; None where the model cannot be traced."""
    try:
        graph = _Leaves().trace(model)
    except Exception:  # tracing runs the model's code on proxies: whatever it raises means that it cannot be traced
        return None
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module" or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        source = node.args[0]
        if source.op != "call_module" or len(source.users) > 1:
            continue
        once = calls.count(node.target) == calls.count(source.target) == 1
        if once and _fits(
            model.get_submodule(str(source.target)), model.get_submodule(str(node.target))
        ):
            pairs.append((str(source.target), str(node.target)))
    return pairs


def _sequential_pairs(model: nn.Module) -> list[tuple[str, str]]:
    pairs = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            for (first, one), (second, two) in pairwise(module.named_children()):
                if _fits(one, two):
                    pairs.append((f"{name}.{first}".strip("."), f"{name}.{second}".strip(".")))
    return pairs


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
