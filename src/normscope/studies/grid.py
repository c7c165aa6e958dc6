"""From what a user asks for to runs with nothing left to decide."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields

from normscope import fused
from normscope.data import sources
from normscope.data.dataset import Dataset
from normscope.errors import InputError
from normscope.models import registry
from normscope.models.landmarks import Network
from normscope.studies.spec import CompareOptions, Recipe, RunSpec, default_capture_epochs
from normscope.training.precision import resolve_device, resolve_precision


@dataclass(frozen=True)
class Grid:
    """The runs that were asked for, in the order of the table that will show them, and their data."""

    specs: tuple[RunSpec, ...]
    dataset: Dataset
    norms: tuple[str, ...]
    learning_rates: tuple[float, ...]
    parameters: dict[str, int]  # per norm


def lay_out(options: CompareOptions) -> Grid:
    """Decide everything that was left open, and try the network once with every norm.

    Raises:
        InputError: for anything that cannot be: names, devices, data, shapes, epochs.
    """
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    fusion = resolve_fusion(options.fusion, device)
    dataset = sources.load(options.data, data_dir=options.data_dir, classes=options.classes)
    defaults = dataset.recipe
    epochs = options.epochs or defaults.epochs
    rates = options.learning_rates or defaults.learning_rates
    captured = default_capture_epochs(epochs) if options.capture_epochs is None else options.capture_epochs
    shared = {field.name: getattr(options.recipe, field.name) for field in fields(Recipe)}
    specs = tuple(
        RunSpec(
            **shared,
            data=dataset.name,
            data_fingerprint=dataset.fingerprint,
            classes=dataset.classes,
            norm=norm,
            learning_rate=rate,
            seed=seed,
            epochs=epochs,
            capture_epochs=tuple(sorted(set(captured))),
            crop_padding=defaults.crop_padding if options.augment else 0,
            horizontal_flip=defaults.horizontal_flip and options.augment,
            device=device,
            precision=precision,
            fusion=fusion,
        )
        # seeds outermost: whatever is interrupted early already has every arm
        for seed, rate, norm in itertools.product(range(options.seeds), rates, options.norms)
    )
    first = {spec.norm: spec for spec in reversed(specs)}
    parameters = {norm: count_parameters(build_for(dataset, first[norm])) for norm in options.norms}
    return Grid(specs, dataset, options.norms, rates, parameters)


def resolve_fusion(choice: str, device: str) -> bool:
    """Whether to fuse: for "auto" where it can be done.

    Raises:
        InputError: if fusion is asked for where it cannot be had, with the reason.
    """
    if choice == "off":
        return False
    reason = fusion_obstacle(device)
    if choice == "on" and reason is not None:
        raise InputError(f"Fusion cannot be had here: {reason} (--fusion).")
    return reason is None


def fusion_obstacle(device: str) -> str | None:
    """Why normalization cannot be fused on a device, in one phrase; None where it can."""
    return fused.availability() if device == "cpu" else f"it is made for the CPU, not for {device}"


def count_parameters(model: Network) -> int:
    """Trainable numbers in a network."""
    return sum(parameter.numel() for parameter in model.parameters())


def build_for(dataset: Dataset, spec: RunSpec) -> Network:
    """The network of a spec, for the images and classes of a data set, with the weights of the spec's seed."""
    return registry.build(
        spec.model,
        norm=spec.norm,
        in_channels=dataset.train_images.shape[3],
        num_classes=len(dataset.classes),
        image_size=dataset.train_images.shape[1],
        activation=spec.activation,
        block=spec.block,
        widths=spec.widths,
        blocks_per_stage=spec.blocks_per_stage,
        initialization=spec.initialization,
        initialization_scale=spec.initialization_scale,
        seed=spec.seed,
    )
