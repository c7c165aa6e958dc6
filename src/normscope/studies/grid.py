"""From what a user asks for to runs with nothing left to decide."""

from __future__ import annotations

import hashlib
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from normscope import fused
from normscope.data import sources
from normscope.data.dataset import Dataset
from normscope.data.device_batches import Batches, TextBatches
from normscope.errors import InputError, lookup, one_of
from normscope.models import registry
from normscope.models.network import Network
from normscope.models.norms import is_code, resolve_norm
from normscope.models.transformer import EMBEDDING_SCALES
from normscope.records.run_description import meaning, own_embedding_scale
from normscope.studies.environment import refuse_activations, refuse_parameters
from normscope.studies.options import MOST_RUNS, GridOptions
from normscope.studies.process_ends import refuse_what_ends_processes
from normscope.studies.spec import NETWORK_OPTIONS, Recipe, RunSpec, default_capture_epochs
from normscope.training.graphs import GRAPHS
from normscope.training.precision import resolve_device, resolve_precision

WATCHED = "a watched run looks into its steps from Python"


@dataclass(frozen=True)
class Grid:
    """The runs that were asked for, in the order of the table of results, and their data."""

    specs: tuple[RunSpec, ...]
    dataset: Dataset
    norms: tuple[str, ...]
    learning_rates: tuple[float, ...]
    parameters: dict[str, int]  # per norm


def lay_out(options: GridOptions, sweep: Mapping[str, Sequence[Any]] | None = None) -> Grid:
    """Decide everything that was left open, and try each network once with every norm.

    With a `sweep`, {field of RunSpec: values}, the grid has every combination, instead of the one
    value of the options.

    Raises:
        InputError: for anything that cannot be: names, devices, data, shapes, epochs.
    """
    machine = _machine(options)
    dataset = sources.load(options.data, data_dir=options.data_dir, classes=options.classes)
    model, recipe = lookup("model", options.recipe.model, registry.MODELS), dataset.recipe
    usual = {
        "learning_rate": options.learning_rates or model.learning_rates or recipe.learning_rates,
        "norm": options.norms or model.compared,
    }
    # seeds outermost: whatever is interrupted early already has every arm; norms innermost: arms
    # side by side
    swept = dict(sweep or {})
    arms = {name: swept.pop(name, values) for name, values in usual.items()}
    axes = {"seed": range(options.seeds), **swept, **arms}
    _refuse_too_many(axes)
    shared = machine | _training(options, dataset)
    choices = (
        shared | dict(zip(axes, values, strict=True))
        for values in itertools.product(*axes.values())
    )
    made = (_spec(choice, dataset, options) for choice in choices)
    specs = tuple(dict.fromkeys(made))  # a knob's default and its name are one setting
    parameters = _parameters(specs, dataset)
    return Grid(specs, dataset, tuple(arms["norm"]), tuple(arms["learning_rate"]), parameters)


def _machine(options: GridOptions) -> dict[str, Any]:
    """The knobs that the machine decides where they were left open."""
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    fusion = resolve_fusion(options.fusion, device)
    check_graph(options.graph, device, options.watch)
    if options.stream and not options.watch:
        raise InputError(
            "The residual stream is recorded of runs that are watched: give --watch, too."
        )
    return {
        "device": device, "precision": precision, "fusion": fusion, "threads": options.threads,
    }  # fmt: skip


def _training(options: GridOptions, dataset: Dataset) -> dict[str, Any]:
    """The knobs that all runs share, those of the data where they were left open."""
    return {
        **{field.name: getattr(options.recipe, field.name) for field in fields(Recipe)},
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "classes": dataset.classes,
        "epochs": options.epochs or dataset.recipe.epochs,
        "crop_padding": dataset.recipe.crop_padding if options.augment else 0,
        "horizontal_flip": dataset.recipe.horizontal_flip and options.augment,
    }


def _refuse_too_many(axes: Mapping[str, Sequence[Any]]) -> None:
    if (runs := math.prod(map(len, axes.values()))) > MOST_RUNS:
        counts = " x ".join(f"{len(values):,} {name}" for name, values in axes.items())
        raise InputError(f"The grid has {runs:,} runs ({counts}); at most {MOST_RUNS:,} are made.")


def merged_by_data(grids: Sequence[Grid]) -> list[Grid]:
    """Return the runs of several grids as one grid for each data set, each run in it once, seed
    after seed: whatever is stopped early has whole seeds.
    """
    merged: dict[str, Grid] = {}
    for grid in grids:
        key = grid.specs[0].data_fingerprint
        before = merged[key].specs if key in merged else ()
        specs = dict.fromkeys((*before, *grid.specs))
        merged[key] = replace(merged.get(key, grid), specs=tuple(specs))
    return [
        replace(grid, specs=tuple(sorted(grid.specs, key=lambda spec: spec.seed)))
        for grid in merged.values()
    ]


def _spec(choices: dict[str, Any], dataset: Dataset, options: GridOptions) -> RunSpec:
    """Make a run's spec."""
    if iterations := choices["iterations"]:
        if options.epochs:
            raise InputError("Give --iterations or --epochs, not both.")
        images = len(dataset.share(choices["train_share"]).train_images)
        steps_of_epoch = -(-images // choices["batch_size"])
        choices = choices | {"epochs": -(-iterations // steps_of_epoch)}
    captured, kind = options.capture_epochs, dataset.kind
    if captured is None:
        captured = default_capture_epochs(choices["epochs"])
    entry = lookup("model", choices["model"], registry.MODELS)
    if entry.takes != kind:
        takers = [name for name, other in registry.MODELS.items() if other.takes == kind]
        raise InputError(
            f"The model {choices['model']!r} takes {entry.takes}, and the data {choices['data']!r} "
            f"is {kind}. Models for it: {', '.join(takers)}."
        )
    if choices["pixel_mean"] and kind == "text":
        raise InputError("Pixels have a mean in images, not in text (--pixel-mean).")
    auto = {knob: value for knob, value in entry.defaults.items() if choices[knob] == "auto"}
    choices = choices | auto | {"embedding_scale": _embedding_scale(choices)}
    for knob in entry.options & (set(NETWORK_OPTIONS) - {"qk_norm", "no_bias"}):
        if meaning(choices["model"], knob, choices[knob]) == meaning(choices["model"], knob, None):
            choices = choices | {knob: None}
    code = code_checksum(choices["norm"])
    return RunSpec(**choices, norm_code=code, capture_epochs=tuple(sorted(set(captured))))


def _embedding_scale(choices: Mapping[str, Any]) -> str | None:
    """Return the factor on the embeddings that a run has, with nothing left to decide."""
    chosen = choices["embedding_scale"]
    if chosen not in (known := ("auto", "none", *EMBEDDING_SCALES)):
        raise InputError(one_of("embedding scale", chosen, known))
    own = own_embedding_scale(choices["model"], choices["norm"])
    return {"auto": own, "none": None}.get(chosen, chosen)


def _parameters(specs: Sequence[RunSpec], dataset: Dataset) -> dict[str, int]:
    """Return {norm: parameters of the first of its networks}. Every network is built once."""
    counts: dict[str, int] = {}
    built = set()
    for spec in specs:
        network = (spec.norm, *(getattr(spec, name) for name in _NETWORK))
        if network not in built:
            built.add(network)
            counts.setdefault(spec.norm, count_parameters(_tried(dataset, spec)))
    return counts


def _tried(dataset: Dataset, spec: RunSpec) -> Network:
    """Build the network of a spec, if it has room to be trained."""
    refuse_parameters(build_for(dataset, spec, shapes_only=True), spec)
    if is_code(spec.norm):
        refuse_what_ends_processes(spec.norm, lambda: build_for(dataset, spec))
    network = build_for(dataset, spec)
    if not is_code(spec.norm):  # whose forward may fail, as its run will say
        sample, _ = next(batches_for(dataset, spec, batch_size=1).test(limit=1))
        samples = min(spec.batch_size, len(dataset.share(spec.train_share).train_images))
        refuse_activations(network, sample, spec, samples)
    return network


_NETWORK = (
    "model", "activation", *NETWORK_OPTIONS, "initialization", "initialization_scale", "train",
)  # fmt: skip
"""Fields of a spec that decide the network, beside its norm and its seed."""


def resolve_fusion(choice: str, device: str) -> bool:
    """Return whether to fuse: for "auto" where it can be done.

    Raises:
        InputError: if fusion is asked for where it cannot be had, with the reason.
    """
    if choice == "off":
        return False
    reason = fusion_unavailable_reason(device)
    if choice == "on" and reason is not None:
        raise InputError(f"Fusion cannot be had here: {reason} (--fusion).")
    return reason is None


def fusion_unavailable_reason(device: str) -> str | None:
    """Return in one phrase why normalization cannot be fused on a device; None where it can."""
    return fused.availability() if device == "cpu" else f"it is made for the CPU, not for {device}"


def check_graph(choice: str, device: str, watch: bool) -> None:
    """Refuse a graph that is asked for where it cannot be had. Whether there is one decides no bit
    of a run.

    Raises:
        InputError: with the reason.
    """
    if choice not in GRAPHS:
        raise InputError(one_of("graph", choice, GRAPHS))
    reason = graph_unavailable_reason(choice, device, "", watch)
    if choice == "on" and reason is not None:
        raise InputError(f"A CUDA graph cannot be had here: {reason} (--graph).")


def graph_unavailable_reason(choice: str, device: str, norm: str, watch: bool) -> str | None:
    """Return in one phrase why steps are not captured in a CUDA graph, None where they are."""
    if choice == "off":
        return "switched off"
    if device != "cuda":
        return f"it is made for cuda, not for {device}"
    if watch:
        return WATCHED
    if choice == "auto" and is_code(norm):
        return f"Python code in {norm} would run only once (--graph on captures it all the same)"
    return None


def code_checksum(norm: str) -> str:
    """Checksum of the file that defines a norm given as module:callable; empty for the others.

    With it in a run's identity, a norm that was edited is another norm. What its file imports is
    not covered.

    Raises:
        InputError: if there is no such norm.
    """
    if not is_code(norm):
        return ""
    if norm.partition(":")[0] not in sys.modules:
        refuse_what_ends_processes(norm, lambda: resolve_norm(norm))
    resolve_norm(norm)
    file = getattr(sys.modules[norm.partition(":")[0]], "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file is not None else ""


def count_parameters(model: Network) -> int:
    """Trainable numbers in a network."""
    return sum(each.numel() for each in model.parameters() if each.requires_grad)


def build_for(dataset: Dataset, spec: RunSpec, *, shapes_only: bool = False) -> Network:
    """Build the network of a spec for a data set, with the weights of the spec's seed, or on the
    meta device, without any and without code of a user's.
    """
    return registry.build(
        spec.model,
        norm="none" if shapes_only and is_code(spec.norm) else spec.norm,
        in_channels=dataset.train_images.shape[3],
        num_classes=len(dataset.classes),
        image_size=dataset.train_images.shape[1],
        activation=spec.activation,
        initialization=spec.initialization,
        initialization_scale=spec.initialization_scale,
        train=spec.train,
        seed=spec.seed,
        shapes_only=shapes_only,
        **{name: getattr(spec, name) for name in NETWORK_OPTIONS},
    )


def batches_for(
    dataset: Dataset,
    spec: RunSpec,
    device: str | torch.device = "cpu",
    *,
    batch_size: int | None = None,
    augmented: bool = True,
) -> Batches:
    """Return a data set in batches of the spec's size or another, augmented or not."""
    kind = TextBatches if dataset.kind == "text" else Batches
    return kind(
        dataset.share(spec.train_share),
        batch_size or spec.batch_size,
        torch.device(device),
        crop_padding=spec.crop_padding if augmented else 0,
        horizontal_flip=spec.horizontal_flip and augmented,
        pixel_mean=spec.pixel_mean,
    )
