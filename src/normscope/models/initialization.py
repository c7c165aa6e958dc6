"""Initial parameters that depend on a seed and a parameter's name, and on nothing else.

Each parameter has its own random generator. Two networks that share a layer of one name and shape
therefore start with the same bits in it, whatever else they contain: the runs of a comparison can
be paired by seed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from normscope.errors import InputError, lookup

EMBEDDING_STD = 0.02


def keyed_generator(seed: int, key: str) -> Generator:
    """A random generator on the CPU, set by a hash of `seed` and `key`."""
    return Generator().manual_seed(keyed_seed(seed, key))


def keyed_seed(seed: int, key: str) -> int:
    """The first four bytes of a hash: as many as PyTorch's generator on the CPU takes."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:4], "little")


def initialize(
    model: nn.Module,
    seed: int,
    scheme: str = "default",
    scale: float = 1.0,
    leave: Iterable[nn.Module] = (),
) -> None:
    """Draw the convolutions, linear layers and embeddings of `model` anew, and set its
    normalization layers to the identity.

    Embeddings are normal with the standard deviation 0.02, as in GPT-2, also as a linear layer's
    weight. Parameters keep their device and type; the numbers are drawn on the CPU, and depend on
    the seed and the parameter's name alone. `scale` is a factor on the weights of convolutions and
    linear layers. The modules in `leave` stay as they are.

    Raises:
        InputError: for an unknown scheme, or a scale that is negative or not finite.
    """
    draw = lookup("initialization", scheme, SCHEMES)
    if not (math.isfinite(scale) and scale >= 0):
        raise InputError(
            f"The initialization scale is {scale}; expected a finite number of at least 0."
        )
    left = {id(inner) for module in leave for inner in module.modules()}
    tables = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    with torch.no_grad():
        for name, layer in model.named_modules():
            if id(layer) in left or (isinstance(layer, nn.Linear) and id(layer.weight) in tables):
                continue
            if isinstance(layer, nn.Conv2d | nn.Linear):
                _fill(layer, name, seed, draw, scale)
            elif isinstance(layer, nn.Embedding):
                drawn = torch.empty(layer.weight.shape)
                generator = keyed_generator(seed, f"{name}.weight")
                layer.weight.copy_(drawn.normal_(0, EMBEDDING_STD, generator=generator))
            elif isinstance(layer, _NormBase | nn.GroupNorm):
                layer.reset_parameters()


def _fill(layer: nn.Conv2d | nn.Linear, name: str, seed: int, draw: Scheme, scale: float) -> None:
    fan_in = layer.weight[0].numel()
    weight, bias = draw
    layer.weight.copy_(
        weight(layer.weight.shape, fan_in, keyed_generator(seed, f"{name}.weight"))
    ).mul_(scale)
    if layer.bias is not None:
        layer.bias.copy_(bias(layer.bias.shape, fan_in, keyed_generator(seed, f"{name}.bias")))


Draw = Callable[[torch.Size, int, Generator], Tensor]
"""Shape, inputs of one output value (fan-in), generator -> numbers."""

Scheme = tuple[Draw, Draw]
"""Functions that draw weights and biases."""


def _uniform(shape: torch.Size, fan_in: int, generator: Generator) -> Tensor:
    """PyTorch's default, kaiming_uniform_(a=sqrt(5)): uniform in +-1/sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _he_normal(shape: torch.Size, fan_in: int, generator: Generator) -> Tensor:
    """Normal with variance 2 / fan_in: He et al. 2015 (arXiv 1502.01852), equation 10."""
    return torch.empty(shape).normal_(0, math.sqrt(2 / fan_in), generator=generator)


def _zeros(shape: torch.Size, fan_in: int, generator: Generator) -> Tensor:
    return torch.zeros(shape)


SCHEMES: dict[str, Scheme] = {"default": (_uniform, _uniform), "he": (_he_normal, _zeros)}
"""Name -> how weights and biases are drawn."""
