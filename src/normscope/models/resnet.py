"""Small residual networks: the source notebook's, and He et al.'s for CIFAR."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor, nn

from normscope.errors import InputError, lookup
from normscope.models.fusing import FusableSequential
from normscope.models.network import Landmarks, Network, resolve_activation
from normscope.models.norms import NormFactory, needs_bias, resolve_norm
from normscope.models.residual_blocks import (
    BLOCKS,
    SHORTCUTS,
    Block,
    Parts,
    PreActivationBlock,
    conv3x3,
)


class SmallResNet(Network):
    """Stem, stages of residual blocks (stride 1 in the first, 2 in each further one), average
    pooling, linear layer.

    The state dict has the notebook's names (stem.0, layer1.0.conv1, layer1.0.bn1, ..., fc) whatever
    the normalization is. Every activation is a module of its own, so that a hook on one sees one
    tensor per forward. Convolutions have a bias exactly where no normalization follows: 175,258
    parameters with batch normalization, 174,698 without.

    The pre-activation network follows He et al. 2016b: the stem is the bare convolution, and a last
    normalization and activation (`final`) stand before the pooling.
    """

    def __init__(
        self,
        norm: str | NormFactory = "batch",
        in_channels: int = 3,
        num_classes: int = 10,
        widths: Sequence[int] = (16, 32, 64),
        blocks_per_stage: int = 2,
        activation: str = "relu",
        block: str = "post-activation",
        shortcut: str = "projection",
    ):
        """Build the network; see `resolve_norm`, ACTIVATIONS, BLOCKS and SHORTCUTS for the names.

        Raises:
            InputError: for an unknown name, or widths or blocks_per_stage that are empty or not
                positive.
        """
        super().__init__()
        if not widths or min(widths) < 1:
            raise InputError(
                f"Widths are {tuple(widths)}; expected one positive number of channels per stage."
            )
        if blocks_per_stage < 1:
            raise InputError(f"Blocks per stage is {blocks_per_stage}; expected at least 1.")
        block_type = lookup("block", block, BLOCKS)
        lookup("shortcut", shortcut, dict.fromkeys(SHORTCUTS))
        parts = Parts(resolve_norm(norm), resolve_activation(activation), shortcut)
        stages = _stages(block_type, widths, blocks_per_stage, parts)

        self.stem = _stem(in_channels, widths[0], stages[0][0], parts)
        self.stage_names = tuple(f"layer{number}" for number in range(1, len(stages) + 1))
        for name, stage in zip(self.stage_names, stages, strict=True):
            self.add_module(name, stage)
        pre_activation = block_type is PreActivationBlock
        self.final = FusableSequential(
            *([parts.norm(widths[-1]), parts.activation()] if pre_activation else [])
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], num_classes)
        # Each further stage halves the image; instance normalization needs more than the one pixel
        # that is left then.
        instance = any(isinstance(module, nn.InstanceNorm2d) for module in self.modules())
        self.minimum_image_size = 2 ** (len(stages) - 1) + instance
        self.landmarks = Landmarks(
            stem="stem.0",
            classifier="fc",
            first_stage="layer1",
            last_activation=f"layer1.{blocks_per_stage - 1}.{block_type.last_activation}",
            first_normalization="layer1.0.bn1",
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> logits (N, num_classes)."""
        features = self.stem(images)
        for name in self.stage_names:
            features = self.get_submodule(name)(features)
        return self.fc(self.pool(self.final(features)).flatten(1))


def _stem(in_channels: int, width: int, first_block: nn.Module, parts: Parts) -> nn.Sequential:
    if isinstance(first_block, PreActivationBlock):
        # He et al. 2016b, appendix: the first activation stands before the two paths part.
        first_block.activates_both_paths = True
        return FusableSequential(conv3x3(in_channels, width, 1, bias=needs_bias(first_block.bn1)))
    norm = parts.norm(width)
    return FusableSequential(
        conv3x3(in_channels, width, 1, bias=needs_bias(norm)), norm, parts.activation()
    )


def _stages(
    block_type: type[Block], widths: Sequence[int], blocks_per_stage: int, parts: Parts
) -> list[nn.Sequential]:
    stages = []
    in_channels = widths[0]
    for index, width in enumerate(widths):
        first = block_type(in_channels, width, 1 if index == 0 else 2, parts)
        others = [block_type(width, width, 1, parts) for _ in range(blocks_per_stage - 1)]
        stages.append(nn.Sequential(first, *others))
        in_channels = width
    return stages


CIFAR_DEPTHS = (20, 32, 44, 56, 110)
"""Depths of He et al. 2016a, table 6: 6n + 2 layers with n blocks in each of three stages."""


def cifar_resnet(depth: int, **options) -> SmallResNet:
    """He et al.'s (2016a, section 4.2) ResNet for CIFAR-10 of one of CIFAR_DEPTHS, with
    parameter-free shortcuts.

    ResNet-20 has 269,722 parameters with batch normalization. `options` are SmallResNet's norm,
    in_channels, num_classes, activation and block.
    """
    return SmallResNet(blocks_per_stage=(depth - 2) // 6, shortcut="parameter-free", **options)


CIFAR_RESNETS = {
    f"resnet-{depth}": functools.partial(cifar_resnet, depth) for depth in CIFAR_DEPTHS
}
"""Name -> constructor."""
