"""A network small enough to run inside a page: three convolutions, each with a normalization."""

from __future__ import annotations

import math

from torch import Tensor, nn

from normscope.models.fusing import FusableSequential
from normscope.models.network import Landmarks, Network, resolve_activation
from normscope.models.norms import NormFactory, needs_bias, resolve_norm
from normscope.models.residual_blocks import conv3x3

WIDTHS = (8, 16, 16)
STRIDES = (1, 2, 1)
LARGEST_SIDE = 16
"""Pixels: larger images are averaged over squares before the first convolution."""


class TinyCNN(Network):
    """Three 3x3 convolutions of 8, 16 and 16 channels (the second with stride 2), average pooling,
    a linear layer: 3,778 parameters for one input channel and ten classes.

    `normscope explain` trains it and puts it into its page.
    """

    def __init__(
        self,
        norm: str | NormFactory = "batch",
        in_channels: int = 3,
        num_classes: int = 10,
        activation: str = "relu",
        image_size: int = 32,
    ):
        super().__init__()
        make_norm, make_activation = resolve_norm(norm), resolve_activation(activation)
        self.minimum_image_size = 4
        factor = math.ceil(image_size / LARGEST_SIDE)
        self.shrink = nn.AvgPool2d(factor)
        self.side = image_size // factor  # pixels, of what the first convolution sees
        stages = []
        for width, stride in zip(WIDTHS, STRIDES, strict=True):
            layer = make_norm(width)
            convolution = conv3x3(in_channels, width, stride, bias=needs_bias(layer))
            stages.append(FusableSequential(convolution, layer, make_activation()))
            in_channels = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTHS[-1], num_classes)
        self.landmarks = Landmarks(
            stem="stages.0.0",
            classifier="fc",
            first_stage="stages.0",
            last_activation="stages.0.2",
            first_normalization="stages.0.1",
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map images [N, in_channels, S, S] to logits [N, num_classes]."""
        return self.classify(self.shrink(images))

    def classify(self, images: Tensor) -> Tensor:
        """Map images of at most LARGEST_SIDE pixels a side to logits [N, num_classes]."""
        return self.fc(self.pool(self.stages(images)).flatten(1))
