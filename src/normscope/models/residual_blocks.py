"""Residual blocks of two 3x3 convolutions, with normalization in each place that it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.errors import InputError
from normscope.models.fusing import FusableSequential, normalize
from normscope.models.norms import NormFactory, SkipInit, needs_bias

SHORTCUTS = ("projection", "parameter-free")
"""A 1x1 convolution, or He et al.'s (2016a) option A."""


@dataclass(frozen=True)
class Parts:
    """The parts that the blocks of one network are made of."""

    norm: NormFactory
    activation: Callable[[], nn.Module]
    shortcut: str = "projection"
    """The shortcut of a block that changes the shape: one of SHORTCUTS."""


class PostActivationBlock(nn.Module):
    """y = act(norm(conv(act(norm(conv x)))) + shortcut x): He et al. 2016a, the notebook's code."""

    last_activation: ClassVar[str] = "activation2"
    branch_end: ClassVar[str | None] = None

    def __init__(self, in_channels: int, out_channels: int, stride: int, parts: Parts):
        super().__init__()
        norm1, norm2 = parts.norm(out_channels), parts.norm(out_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride, bias=needs_bias(norm1))
        self.bn1 = norm1
        self.activation1 = parts.activation()
        self.conv2 = _branch_end(out_channels, norm2, bias=needs_bias(norm2))
        self.bn2 = norm2
        self.shortcut = _normalized_shortcut(
            in_channels, out_channels, stride, parts, bias=needs_bias(norm1)
        )
        self.activation2 = parts.activation()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        residual = normalize(self.bn1, self.activation1, self.conv1(x))
        return normalize(self.bn2, self.activation2, self.conv2(residual), self.shortcut(x))


class FormulaBlock(nn.Module):
    """y = f(x) + shortcut x with f(x) = conv(act(norm(conv x))): the formula of the source
    notebook.

    One normalization on the residual path and nothing after the addition, so its second convolution
    has a bias.
    """

    last_activation: ClassVar[str] = "activation1"
    branch_end: ClassVar[str | None] = "conv2"

    def __init__(self, in_channels: int, out_channels: int, stride: int, parts: Parts):
        super().__init__()
        norm1 = parts.norm(out_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride, bias=needs_bias(norm1))
        self.bn1 = norm1
        self.activation1 = parts.activation()
        self.conv2 = _branch_end(out_channels, norm1, bias=True)
        self.shortcut = _normalized_shortcut(
            in_channels, out_channels, stride, parts, bias=needs_bias(norm1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        return self.conv2(normalize(self.bn1, self.activation1, self.conv1(x))) + self.shortcut(x)


class PreActivationBlock(nn.Module):
    """y = conv(act(norm(conv(act(norm x))))) + shortcut: He et al. 2016b, "Identity Mappings",
    figure 1b.

    The shortcut passes x on untouched, except where the shape changes and in the network's first
    block: there both paths start from act(norm x) (their appendix). Every sum is read through a
    later normalization, so that with one no convolution has a bias, and the projection is not
    normalized a second time.
    """

    last_activation: ClassVar[str] = "activation2"
    branch_end: ClassVar[str | None] = "conv2"

    def __init__(self, in_channels: int, out_channels: int, stride: int, parts: Parts):
        super().__init__()
        norm1, norm2 = parts.norm(in_channels), parts.norm(out_channels)
        self.activates_both_paths = stride != 1 or in_channels != out_channels
        self.bn1 = norm1
        self.activation1 = parts.activation()
        bias = needs_bias(norm2)
        self.conv1 = conv3x3(in_channels, out_channels, stride, bias=bias)
        self.bn2 = norm2
        self.activation2 = parts.activation()
        self.conv2 = _branch_end(out_channels, norm2, bias=bias)
        self.shortcut = _shortcut(in_channels, out_channels, stride, parts, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        activated = normalize(self.bn1, self.activation1, x)
        residual = self.conv2(normalize(self.bn2, self.activation2, self.conv1(activated)))
        return residual + self.shortcut(activated if self.activates_both_paths else x)


class AfterActivationBlock(nn.Module):
    """y = norm(act(conv(norm(act(conv x))))) + shortcut x: normalization behind the non-linearity.

    The counterpart of the post-activation block: as many normalizations, each on the other side of
    its activation. No convolution of the branch is followed by one, so that all have a bias.
    """

    last_activation: ClassVar[str] = "activation2"
    branch_end: ClassVar[str | None] = "bn2"

    def __init__(self, in_channels: int, out_channels: int, stride: int, parts: Parts):
        super().__init__()
        norm1, norm2 = parts.norm(out_channels), parts.norm(out_channels)
        if isinstance(norm2, SkipInit):
            raise InputError("skipinit ends a branch with a convolution, and this block does not.")
        self.conv1 = conv3x3(in_channels, out_channels, stride, bias=True)
        self.activation1 = parts.activation()
        self.bn1 = norm1
        self.conv2 = conv3x3(out_channels, out_channels, 1, bias=True)
        self.activation2 = parts.activation()
        self.bn2 = norm2
        self.shortcut = _normalized_shortcut(
            in_channels, out_channels, stride, parts, bias=needs_bias(norm1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        shortcut = self.shortcut(x)
        residual = normalize(self.bn1, None, self.activation1(self.conv1(x)))
        return normalize(self.bn2, None, self.activation2(self.conv2(residual)), shortcut)


Block = PostActivationBlock | FormulaBlock | PreActivationBlock | AfterActivationBlock
"""(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).

`last_activation` is the name of the activation that a forward pass calls last. `branch_end` is that
of the module whose output is added to the skip path to make the block's; None where something
follows the addition.
"""

BLOCKS: dict[str, type[Block]] = {
    "post-activation": PostActivationBlock,
    "formula": FormulaBlock,
    "pre-activation": PreActivationBlock,
    "after-activation": AfterActivationBlock,
}


class ParameterFreeShortcut(nn.Module):
    """Every stride-th pixel, and zeros for new channels: He et al. 2016a, option A."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        if out_channels < in_channels:
            raise InputError(
                f"A parameter-free shortcut cannot go from {in_channels} to {out_channels} "
                "channels."
            )
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


FLOATS_IN_A_REGISTER = 16
"""Of 32 bits, in the widest vector register that oneDNN has kernels for (AVX-512)."""


class Projection(nn.Conv2d):
    """A 1x1 convolution whose float32 gradients are right on every processor.

    With a stride above 1, and fewer input channels than a vector register has floats, oneDNN's
    backward pass writes past its workspace in channels_last memory
    (https://github.com/uxlfoundation/oneDNN/issues/6035): it ends the process, or gives wrong
    gradients. The same convolution of every stride-th pixel does not reach that code, and has the
    same bits.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not input.is_cpu or self.stride == (1, 1) or self.in_channels >= FLOATS_IN_A_REGISTER:
            return super()._conv_forward(input, weight, bias)
        rows, columns = self.stride
        return F.conv2d(input[:, :, ::rows, ::columns], weight, bias)


def conv3x3(in_channels: int, out_channels: int, stride: int, *, bias: bool) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size at stride 1."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=bias)


class BranchEnd(nn.Conv2d):
    """A convolution whose output is multiplied by a number that is trained, 0 at first."""

    def __init__(self, channels: int, *, bias: bool):
        super().__init__(channels, channels, 3, padding=1, bias=bias)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Conv2d, times the gain."""
        return self.gain * super().forward(input)


def _branch_end(channels: int, norm: nn.Module, *, bias: bool) -> nn.Conv2d:
    """The last convolution of a branch, in a block with such normalizations."""
    if isinstance(norm, SkipInit):
        return BranchEnd(channels, bias=bias)
    return conv3x3(channels, channels, 1, bias=bias)


def _shortcut(
    in_channels: int, out_channels: int, stride: int, parts: Parts, *, bias: bool
) -> nn.Sequential:
    if stride == 1 and in_channels == out_channels:
        return FusableSequential()
    if parts.shortcut == "parameter-free":
        return FusableSequential(ParameterFreeShortcut(in_channels, out_channels, stride))
    return FusableSequential(Projection(in_channels, out_channels, 1, stride=stride, bias=bias))


def _normalized_shortcut(
    in_channels: int, out_channels: int, stride: int, parts: Parts, *, bias: bool
) -> nn.Sequential:
    """Add a normalization after the projection, if there is one."""
    shortcut = _shortcut(in_channels, out_channels, stride, parts, bias=bias)
    if len(shortcut) and isinstance(shortcut[0], nn.Conv2d):
        shortcut.append(parts.norm(out_channels))
    return shortcut
