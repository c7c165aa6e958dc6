"""What every network has: the layers that a run measures, and an activation by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from normscope.errors import InputError, lookup


@dataclass(frozen=True)
class Landmarks:
    """Names, as in `model.named_modules()`, of the modules that training measures.

    They are the same whatever the normalization is, so that the arms of a comparison share an axis.

    One module may be called several times in a forward pass: BirdPlaneNet's `res_block1.relu`, as
    in its source, is called three times. The last call in the forward counts; a hook that keeps the
    latest tensor sees just that.
    """

    stem: str
    """First layer with a weight. The norm of its weight's gradient is the stem gradient."""

    classifier: str
    """Last linear layer."""

    first_stage: str
    """Module whose output is the captured block output."""

    last_activation: str
    """Last activation inside the first stage. Its input is the captured pre-activation."""

    first_normalization: str
    """First normalization layer of the first stage; an nn.Identity where there is none."""


class Network(nn.Module):
    """A network for images (N, C, H, W) -> logits (N, classes), with its landmarks."""

    landmarks: Landmarks

    minimum_image_size: int
    """Smallest height and width, in pixels."""

    def check_image_size(self, size: int) -> None:
        """Raise an InputError unless the network takes images of `size` x `size` pixels."""
        least = self.minimum_image_size
        if size < least:
            raise InputError(
                f"Images of {size}x{size} pixels are too small for a {type(self).__name__}: "
                f"at least {least}x{least}."
            )


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}
"""Name -> factory. None works in place: what stands before an activation can be read after it."""


def resolve_activation(name: str) -> Callable[[], nn.Module]:
    """The factory of the activation called `name`.

    Raises:
        InputError: if there is none of that name.
    """
    return lookup("activation", name, ACTIVATIONS)
