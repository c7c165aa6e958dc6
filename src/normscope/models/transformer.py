"""Small transformers in plain PyTorch: one for images, one for text, of the same blocks.

    pre          x + f(norm x)
    post         norm(x + f(x))
    peri         x + norm(f(norm x))
    pre-scaled   x + f(norm(x) / sqrt(layer)), layer counted from 1

where f is attention or a feed-forward network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.errors import InputError, lookup
from normscope.models.initialization import EMBEDDING_STD
from normscope.models.network import Landmarks, Network, resolve_activation
from normscope.models.norms import NormFactory, resolve_norm
from normscope.models.token_norms import TOKEN_NORMS, OffsetLayerNorm, Pointwise, RMSNorm

PLACEMENTS = {
    "pre": "before each branch (Xiong et al. 2020, arXiv 2002.04745)",
    "post": "after each sum (Vaswani et al. 2017, arXiv 1706.03762)",
    "peri": "before and after each branch (Kim et al. 2025, arXiv 2502.02732)",
    "pre-scaled": "before each branch, over the root of the depth (Sun et al. 2025, 2502.05795)",
}
"""Name -> where the normalization stands."""

POSITIONS = ("learned", "rotary")

EMBEDDING_SCALES: dict[str, Callable[[int], float]] = {
    "unit": lambda width: 1 / EMBEDDING_STD,
    "root": math.sqrt,
}
"""Name -> at which value a learned factor on the embeddings starts, from the width.

Zhu et al. (arXiv 2503.10622) put such a factor behind the embeddings of LLaMA for dynamic tanh,
whose derivative is the same everywhere for values as small as those. It starts at the root of the
width (their code, other_tasks/LLaMA), which at widths of 4096 to 8192 makes values of a standard
deviation of 1.3 to 1.8 of embeddings of 0.02. At a width of 32 the same rule makes 0.1 of them;
"unit" keeps what the rule does there, not its letter.
"""

LANGUAGE_ALPHA = 1.0
"""First alpha of dynamic tanh and erf behind a factor on the embeddings: the default of the same
code, which takes less from a width of 4096 on (0.8 before attention, 0.2 elsewhere).
"""

FEED_FORWARD_RATIO = 4
ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class Shape:
    """Sizes and choices of a transformer's blocks."""

    width: int
    heads: int = 4
    depth: int = 4
    placement: str = "pre"
    qk_norm: bool = False
    no_bias: bool = False
    causal: bool = False
    rotary: bool = False

    def __post_init__(self) -> None:
        for what in ("width", "heads", "depth"):
            if getattr(self, what) < 1:
                raise InputError(f"The {what} is {getattr(self, what)}; expected 1 or more.")
        lookup("placement", self.placement, PLACEMENTS)
        if self.width % self.heads:
            raise InputError(f"{self.heads} heads do not divide the width {self.width} evenly.")
        if self.rotary and self.head_width % 2:
            raise InputError(
                f"Rotary positions turn pairs of values: a head has {self.head_width} "
                f"(width {self.width}, {self.heads} heads); expected an even number."
            )

    @property
    def head_width(self) -> int:
        """Values of a query, key or value of one head."""
        return self.width // self.heads


class Attention(nn.Module):
    """Self-attention of several heads; queries and keys RMS-normalized per head if asked for."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=not shape.no_bias)
        self.query_norm, self.key_norm = _head_norm(shape), _head_norm(shape)
        self.out = nn.Linear(shape.width, shape.width, bias=not shape.no_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape."""
        sequences, tokens, width = x.shape
        split = self.qkv(x).view(sequences, tokens, 3, self.shape.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each [N, heads, T, head_width]
        query, key = self.query_norm(query), self.key_norm(key)
        if self.shape.rotary:
            query, key = rotated(query), rotated(key)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.shape.causal)
        return self.out(mixed.transpose(1, 2).reshape(sequences, tokens, width))


def _head_norm(shape: Shape) -> nn.Module:
    """The normalization of queries or keys; an identity where there is none."""
    return RMSNorm(shape.head_width) if shape.qk_norm else nn.Identity()


def rotated(x: Tensor) -> Tensor:
    """Turn pairs of values (i, i + half) of [N, heads, T, head_width] by an angle per position.

    Su et al. 2021 (arXiv 2104.09864), equation 15.
    """
    half = x.shape[-1] // 2
    rates = ROTARY_BASE ** (-torch.arange(half, device=x.device) / half)
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class FeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, shape: Shape, activation: Callable[[], nn.Module]):
        super().__init__()
        hidden = FEED_FORWARD_RATIO * shape.width
        self.up = nn.Linear(shape.width, hidden, bias=not shape.no_bias)
        self.activation = activation()
        self.down = nn.Linear(hidden, shape.width, bias=not shape.no_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape."""
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    """Attention and a feed-forward network, each a branch beside the residual stream."""

    def __init__(
        self, shape: Shape, layer: int, norm: NormFactory, activation: Callable[[], nn.Module]
    ):
        super().__init__()
        self.placement = shape.placement
        self.scale = 1 / math.sqrt(layer) if shape.placement == "pre-scaled" else 1.0
        self.norm1, self.attention = norm(shape.width), Attention(shape)
        self.norm2, self.feed_forward = norm(shape.width), FeedForward(shape, activation)
        if shape.placement == "peri":
            self.norm1_out, self.norm2_out = norm(shape.width), norm(shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape."""
        if self.placement == "post":
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.feed_forward(x))
        if self.placement == "peri":
            x = x + self.norm1_out(self.attention(self.norm1(x)))
            return x + self.norm2_out(self.feed_forward(self.norm2(x)))
        x = x + self.attention(self._scaled(self.norm1(x)))
        return x + self.feed_forward(self._scaled(self.norm2(x)))

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.scale == 1 else x * self.scale


class Transformer(Network):
    """What both networks share: blocks, and a last normalization where the last sum has none."""

    def __init__(self, shape: Shape, norm: str | NormFactory, activation: str):
        super().__init__()
        factory, make_activation = resolve_norm(norm, TOKEN_NORMS), resolve_activation(activation)
        self.shape = shape
        self.blocks = nn.Sequential(
            *(Block(shape, layer, factory, make_activation) for layer in range(1, shape.depth + 1))
        )
        self.norm = nn.Identity() if shape.placement == "post" else factory(shape.width)
        if shape.no_bias:
            for module in self.modules():
                if isinstance(module, nn.LayerNorm | OffsetLayerNorm):
                    module.register_parameter("bias", None)
        self.landmarks = Landmarks(
            stem="embed",
            classifier="head",
            first_stage="blocks.0",
            last_activation="blocks.0.feed_forward.activation",
            first_normalization="blocks.0.norm1",
        )


class VisionTransformer(Transformer):
    """A transformer over square patches of an image (Dosovitskiy et al. 2021, arXiv 2010.11929).

    Positions are learned. By default the class is read from the mean of all tokens, with
    `pooling="token"` from a class token. With its default sizes, layer normalization, one input
    channel of 8x8 pixels and ten classes: 114,682 parameters.
    """

    def __init__(
        self,
        norm: str | NormFactory = "layer",
        in_channels: int = 3,
        num_classes: int = 10,
        image_size: int = 32,
        activation: str = "gelu",
        width: int = 48,
        patch_size: int | None = None,
        pooling: str = "mean",
        **choices: Any,
    ):
        """Build the network for square images of `image_size` pixels.

        Args:
            patch_size: in pixels a side; by default an eighth of the image, and at least 2.
            choices: further fields of `Shape`.

        Raises:
            InputError: for an unknown name, or sizes that do not fit.
        """
        super().__init__(Shape(width, **choices), norm, activation)
        lookup("pooling", pooling, dict.fromkeys(("mean", "token")))
        side = patch_size or max(2, image_size // 8)
        if side < 1 or image_size % side:
            raise InputError(
                f"Patches of {side}x{side} pixels do not divide images of "
                f"{image_size}x{image_size} pixels evenly."
            )
        self.minimum_image_size = side
        self.patch_size = side
        self.embed = nn.Linear(in_channels * side**2, width)
        class_tokens = 1 if pooling == "token" else 0
        self.class_token = nn.Embedding(class_tokens, width) if class_tokens else None
        self.positions = nn.Embedding((image_size // side) ** 2 + class_tokens, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(N, in_channels, S, S) -> logits (N, num_classes)."""
        tokens = self.embed(patches(images, self.patch_size))
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.weight.expand(len(tokens), 1, -1), tokens], 1)
        tokens = self.norm(self.blocks(tokens + self.positions.weight))
        return self.head(tokens.mean(1) if self.class_token is None else tokens[:, 0])


def patches(images: Tensor, side: int) -> Tensor:
    """(N, C, S, S) -> (N, patches, C * side * side), row by row."""
    count, channels, size, _ = images.shape
    rows = size // side
    grid = images.reshape(count, channels, rows, side, rows, side)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(count, rows * rows, -1)


class ByteDecoder(Transformer):
    """A causal transformer that predicts the next byte of a text; its head is its embedding.

    With its default sizes, layer normalization and learned positions: 224,640 parameters.
    """

    def __init__(
        self,
        norm: str | NormFactory = "layer",
        num_classes: int = 256,
        context: int = 128,
        activation: str = "gelu",
        width: int = 64,
        positions: str = "learned",
        embedding_scale: str | None = None,
        **choices: Any,
    ):
        """Build the network for texts of `context` bytes.

        Args:
            embedding_scale: of EMBEDDING_SCALES, where a learned factor on the embeddings starts;
                None for none.
            choices: further fields of `Shape`.

        Raises:
            InputError: for an unknown name, or sizes that do not fit.
        """
        lookup("positions", positions, dict.fromkeys(POSITIONS))
        rotary = positions == "rotary"
        shape = Shape(width, causal=True, rotary=rotary, **choices)
        super().__init__(shape, norm, activation)
        self.minimum_image_size = 1
        self.embed = nn.Embedding(num_classes, width)
        self.positions = None if rotary else nn.Embedding(context, width)
        self.head = nn.Linear(width, num_classes, bias=False)
        self.head.weight = self.embed.weight
        self.embedding_scale = None
        if embedding_scale is not None:
            start = lookup("embedding scale", embedding_scale, EMBEDDING_SCALES)(width)
            self.embedding_scale = nn.Parameter(torch.tensor(start))
            for module in self.modules():
                if isinstance(module, Pointwise):
                    nn.init.constant_(module.alpha, LANGUAGE_ALPHA)

    def forward(self, tokens: Tensor) -> Tensor:
        """Bytes int64 (N, T) -> logits (N, T, num_classes) of the byte after each."""
        x = self.embed(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[: tokens.shape[1]]
        if self.embedding_scale is not None:
            x = x * self.embedding_scale
        return self.head(self.norm(self.blocks(x)))
