"""Networks by name, built ready to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from normscope.errors import InputError, lookup
from normscope.models.initialization import initialize, keyed_seed
from normscope.models.network import Network
from normscope.models.norms import NORMS, RESIDUAL_NORMS, NormFactory, resolve_norm
from normscope.models.resnet import CIFAR_RESNETS, SmallResNet
from normscope.models.small_networks import BirdPlaneNet, TinyCNN
from normscope.models.token_norms import TOKEN_NORMS
from normscope.models.transformer import ByteDecoder, VisionTransformer


@dataclass(frozen=True)
class Entry:
    """A network that can be asked for by name."""

    make: Callable[..., Network]
    """Its constructor; takes norm, in_channels, num_classes and activation, and the options."""

    options: frozenset[str] = frozenset()
    """Further arguments that it takes: image_size, and knobs of `Recipe` that not all have."""

    norms: Mapping[str, NormFactory] = field(default_factory=lambda: NORMS)
    """The normalizations that it can be built with, by name."""

    defaults: Mapping[str, str] = field(default_factory=lambda: CONVOLUTIONAL)
    """What "auto" means for it, by knob."""

    compared: tuple[str, ...] = ("batch", "none")
    """The normalizations that are compared by default."""

    learning_rates: tuple[float, ...] = ()
    """Those that it is trained at by default; where there are none, the data set's."""

    takes: str = "images"
    """What its inputs are: images, or text."""


CONVOLUTIONAL = {"activation": "relu", "optimizer": "sgd"}
TRANSFORMER = {"activation": "gelu", "optimizer": "adamw"}

BLOCK_OPTIONS = frozenset({"depth", "width", "heads", "placement", "qk_norm", "no_bias"})
"""The knobs of every transformer."""

MODELS: dict[str, Entry] = {
    "small-resnet": Entry(
        SmallResNet, frozenset({"block", "widths", "blocks_per_stage"}), RESIDUAL_NORMS
    ),
    "bird-plane": Entry(BirdPlaneNet, frozenset({"image_size"})),
    "tiny-cnn": Entry(TinyCNN, frozenset({"image_size"})),
    **{
        name: Entry(make, frozenset({"block"}), RESIDUAL_NORMS)
        for name, make in CIFAR_RESNETS.items()
    },
    "vit": Entry(
        VisionTransformer,
        BLOCK_OPTIONS | {"image_size", "patch_size", "pooling"},
        TOKEN_NORMS,
        TRANSFORMER,
        ("layer", "none"),
        (0.001, 0.003),
    ),
    "byte-lm": Entry(
        ByteDecoder,
        BLOCK_OPTIONS | {"context", "positions", "embedding_scale"},
        TOKEN_NORMS,
        TRANSFORMER,
        ("layer", "none"),
        (0.001, 0.003),
        takes="text",
    ),
}
"""Name -> network."""


def build(
    name: str,
    *,
    norm: str | NormFactory = "batch",
    in_channels: int,
    num_classes: int,
    image_size: int,
    activation: str = "relu",
    initialization: str = "default",
    initialization_scale: float = 1.0,
    train: str = "all",
    seed: int = 0,
    shapes_only: bool = False,
    **options: Any,
) -> Network:
    """The network called `name`, on the CPU, in train mode, with parameters that depend on the
    arguments alone.

    The global random generator is left as it was. Parameters of a normalization of the user's are
    what its constructor drew, under a generator that `seed` sets.

    Args:
        norm: a name in the entry's norms, module:callable (imported here), or a factory.
        image_size: height and width of the images, in pixels; of text, its window's length.
        initialization_scale: factor on the weights of convolutions and linear layers.
        train: what has gradients: "all", or the "norms" or the "classifier" alone.
        shapes_only: build it on the meta device, where it takes no memory and has no values.
        options: knobs of `Recipe` that not every network has; None and False: its own choice.

    Raises:
        InputError: for an unknown name, an option that the network has not got, images too small
            for it, or nothing that is to be trained.
    """
    entry = lookup("model", name, MODELS)
    given = {
        option: value
        for option, value in options.items()
        if value is not None and value is not False
    }
    _check_options(name, entry, given)
    if entry.takes == "images":
        given["in_channels"] = in_channels
    for size in entry.options & {"image_size", "context"}:
        given[size] = image_size
    factory, made = _remembering(resolve_norm(norm, entry.norms))
    device = torch.device("meta" if shapes_only else "cpu")
    with torch.random.fork_rng(devices=[]), device:
        # Not torch.manual_seed: that would set the generators of accelerators as well.
        torch.default_generator.manual_seed(keyed_seed(seed, "constructors"))
        network = entry.make(norm=factory, num_classes=num_classes, activation=activation, **given)
    network.check_image_size(image_size)
    _freeze_all_but(train, network, made)
    if shapes_only:
        return network
    initialize(network, seed, initialization, initialization_scale, leave=made)
    return network


def _check_options(name: str, entry: Entry, given: dict) -> None:
    for option in given:
        if option not in entry.options:
            having = ", ".join(model for model, other in MODELS.items() if option in other.options)
            raise InputError(
                f"Model {name!r} has no option {option!r}. Models that have it: {having}."
            )


def _freeze_all_but(train: str, network: Network, norms: Sequence[nn.Module]) -> None:
    """Leave gradients to what is trained alone; `norms` are the normalization layers."""
    if train == "all":
        return
    classifier = [network.get_submodule(network.landmarks.classifier)]
    chosen = lookup("part to train", train, {"norms": norms, "classifier": classifier})
    trained = [parameter for module in chosen for parameter in module.parameters()]
    if not trained:
        raise InputError("There is nothing to train: the normalization has no gain and no bias.")
    network.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)


def _remembering(factory: NormFactory) -> tuple[NormFactory, list[nn.Module]]:
    """`factory`, and the list of what it has made."""
    made: list[nn.Module] = []

    def remembering(channels: int) -> nn.Module:
        made.append(factory(channels))
        return made[-1]

    return remembering, made
