"""Two networks of a few convolutions: the blog post's, of birds and aeroplanes, and a page's."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from normscope.models.fusing import FusableSequential, normalize
from normscope.models.network import Landmarks, Network, resolve_activation
from normscope.models.norms import NormFactory, needs_bias, resolve_norm
from normscope.models.residual_blocks import conv3x3

WIDTHS = (8, 16, 16)
STRIDES = (1, 2, 1)
LARGEST_SIDE = 16
"""Pixels: larger images are averaged over squares before the first convolution."""


class BirdPlaneNet(Network):
    """The blog's network: layer names, channels and biases as in the printout that it shows; 71,874
    parameters.

    The printout says what the layers are, not how they are joined. The forward pass is therefore
    ours: 2x2 max-pooling before and after the block (fc1's 1,024 inputs at 32x32 pixels allow for
    two halvings), and the skip leaving after the block's first normalized convolution (the block's
    input has 8 channels, its output 16). As in the printout, convolutions have a bias although a
    normalization follows, and each `relu` is one module called several times; it keeps that name
    whatever the activation is. Unlike there, it does not work in place: what enters it can be read
    afterwards.
    """

    def __init__(
        self,
        norm: str | NormFactory = "batch",
        num_classes: int = 2,
        image_size: int = 32,
        in_channels: int = 3,
        activation: str = "relu",
    ):
        """Build the network for square images of `image_size` pixels.

        Raises:
            InputError: for an unknown normalization or activation, or images too small for the two
                poolings.
        """
        super().__init__()
        self.minimum_image_size = 4
        self.check_image_size(image_size)
        make_norm, make_activation = resolve_norm(norm), resolve_activation(activation)
        self.conv1 = conv3x3(in_channels, 8, 1, bias=True)
        self.bn_initial = make_norm(8)
        self.res_block1 = BirdPlaneBlock(8, 16, make_norm, make_activation)
        self.fc1 = nn.Linear(16 * (image_size // 4) ** 2, 64)
        self.fc2 = nn.Linear(64, num_classes)
        self.relu = make_activation()
        self.pool = nn.MaxPool2d(2)
        self.landmarks = Landmarks(
            stem="conv1",
            classifier="fc2",
            first_stage="res_block1",
            last_activation="res_block1.relu",
            first_normalization="res_block1.bn1",
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, image_size, image_size) -> logits (N, num_classes)."""
        features = self.pool(normalize(self.bn_initial, self.relu, self.conv1(images)))
        features = self.pool(self.res_block1(features))
        return self.fc2(self.relu(self.fc1(features.flatten(1))))


class BirdPlaneBlock(nn.Module):
    """Three normalized 3x3 convolutions; the output of the first is added to that of the third.

    y = act(s + norm(conv(act(norm(conv(act s)))))) with s = norm(conv x): s is to the rest of the
    block what a normalized projection shortcut is to a residual block.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        make_norm: NormFactory,
        make_activation: Callable[[], nn.Module],
    ):
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, 1, bias=True)
        self.bn1 = make_norm(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels, 1, bias=True)
        self.bn2 = make_norm(out_channels)
        self.conv3 = conv3x3(out_channels, out_channels, 1, bias=True)
        self.bn3 = make_norm(out_channels)
        self.relu = make_activation()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, H, W)."""
        skip = normalize(self.bn1, None, self.conv1(x))
        residual = normalize(self.bn2, self.relu, self.conv2(self.relu(skip)))
        return normalize(self.bn3, self.relu, self.conv3(residual), skip)


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
