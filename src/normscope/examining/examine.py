"""Examine a model: its normalization layers as they stand and, on a few batches, as they work.

The result is a plain record (`normscope.records.examination`); the rules that judge it never see
the model. The model is left bitwise as it was: modes, buffers, gradients, plain attributes, hooks
and the generators of random numbers, also when it raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from normscope.errors import InputError
from normscope.examining.forward import ForwardRun
from normscope.examining.layer_facts import describe_layers, describe_optimizer, find_modules
from normscope.examining.pair import compare_outputs, make_pair, pair_layers, weight_distance
from normscope.examining.recognition import unknown_norms
from normscope.examining.state_and_loader import (
    compare_keys,
    describe_loader,
    layers_of_state,
    lost_prefix,
)
from normscope.records.examination import Examination, History, Layer, Pair
from normscope.user_models.batch_reader import Batch, read_batches
from normscope.user_models.state_dicts import states_in, unwrap_state, without_prefixes
from normscope.user_models.state_guard import preserve_script, preserve_state
from normscope.user_models.who_trains import was_trained
from normscope.user_models.wrappers import unwrapped_model


def examine(
    model: nn.Module,
    batches: Iterable[Any] | None = None,
    *,
    optimizer: Any = None,
    other: Any = None,
    loader: Any = None,
    history: History | None = None,
    world_size: int = 1,
    export: bool = False,
) -> Examination:
    """Return everything that the rules ask for about one model.

    Args:
        model: the model, in any mode; wrapped in DistributedDataParallel, DataParallel or
            torch.compile, or not.
        batches: yields tensors, (input, target) pairs or dicts; the first 16 are used. Give
            training batches: the running statistics are compared with theirs.
        optimizer: the one that trains the model, or several in a list.
        other: a model, a callable or a state_dict that should agree with the model.
        loader: the training loader; nothing is drawn from it.
        history: what a recording showed.
        world_size: processes that train the model together.
        export: the model is about to be exported, fused, quantized or compiled.

    Raises:
        InputError: if an argument is not what it should be, or the model fails in eval mode.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, not a {type(model).__name__}.")
    inner = unwrapped_model(model)
    modules = find_modules(inner, perhaps=batches is not None)
    forward, pair, functional = None, None, None
    with ExitStack() as stack:
        stack.enter_context(preserve_state(model, batches))
        if batches is not None:
            _refuse_meta(inner)
        read = read_batches(batches, inner) if batches is not None else []
        layers = describe_layers(inner, optimizer, modules)
        if read:
            run = ForwardRun(inner, layers, modules, read)
            with preserve_state(inner):  # what comes next must not see the batch statistics
                forward = run.run()
            functional = run.functional
            layers = tuple(_as_run(layer, run) for layer in layers)
        layers = tuple(layer for layer in layers if _is_sure(layer))
        if other is not None:
            if isinstance(other, nn.Module):
                preserve = preserve_script if _is_script(other) else preserve_state
                stack.enter_context(preserve(other))
            pair = _examine_pair(inner, layers, other, read)
    return Examination(
        model=type(inner).__name__,
        training=inner.training,
        **_wrapper_facts(model),
        world_size=world_size,
        export=export,
        was_trained=was_trained(inner.parameters()),
        layers=layers,
        optimizer=describe_optimizer(optimizer, inner) if optimizer is not None else None,
        loader=describe_loader(loader) if loader is not None else None,
        forward=forward,
        pair=pair,
        history=history,
        unknown=tuple(unknown_norms(inner, functional, {layer.name for layer in layers})),
        versions={"torch": str(torch.__version__)},
    )


def _as_run(layer: Layer, run: ForwardRun) -> Layer:
    """Return a layer's facts with those that the batches showed."""
    name, found = layer.name, run.recognition(layer.name)
    called = run.meters[name].layer  # of the kind that its call showed; "batch" fits any affine map
    shown = found is not None and found.explained and called.kind != "batch"
    kind = {"kind": called.kind, "groups": called.groups} if shown else {}
    return replace(
        layer, place=run.places.get(name), measured=run.measured(name), recognition=found, **kind
    )


def _is_sure(layer: Layer) -> bool:
    """Tell whether it is a normalization layer: not by its name alone."""
    found = layer.recognition
    return found is None or found.by != "name" or bool(found.explained)


def examine_state(state: Any, model: nn.Module | None = None, other: Any = None) -> Examination:
    """Return what a state_dict says: the values of its layers, and whether it fits a model.

    Layers have the names of the file, those of a second state_dict in it the entry's before them;
    to be compared with others, those of the unwrapped model.
    """
    states = states_in(state)
    layers = tuple(_renamed(states))
    state = next(iter(states.values()))
    keys = compare_keys(state, unwrapped_model(model)) if model is not None else None
    pair = None
    if other is not None:
        here = without_prefixes(state)
        there = without_prefixes(unwrap_state(other), here)
        here = without_prefixes(here, there)
        pair = _pair_states(here, layers_of_state(here), there)
    versions = {"torch": str(torch.__version__)}
    return Examination(source="state_dict", layers=layers, keys=keys, pair=pair, versions=versions)


def _renamed(states: Mapping[str, Mapping[str, Any]]) -> Iterator[Layer]:
    """Yield the layers of all state_dicts of a checkpoint; behind the first, under their entry."""
    for number, (entry, state) in enumerate(states.items()):
        for layer in layers_of_state(state):
            yield replace(layer, name=f"{entry}.{layer.name}") if number else layer


def examine_loader(loader: Any, world_size: int = 1, devices: int = 1) -> Examination:
    """Return the facts of a data loader, without drawing from it."""
    facts = describe_loader(loader)
    return Examination(source="loader", loader=facts, world_size=world_size, devices=devices)


def _examine_pair(
    model: nn.Module, layers: tuple[Layer, ...], other: Any, batches: list[Batch]
) -> Pair:
    if isinstance(other, Mapping):
        own = model.state_dict()
        there = unwrap_state(other)
        plain = without_prefixes(there, own)
        return replace(_pair_states(own, layers, plain), prefix=lost_prefix(there, plain))
    if not callable(other):
        raise InputError(
            f"other must be a model, a callable or a state_dict, not a {type(other).__name__}."
        )
    facts = {}
    inner = (
        unwrapped_model(other) if isinstance(other, nn.Module) and not _is_script(other) else None
    )
    if inner is not None:
        there = describe_layers(inner, None)
        facts = pair_layers(layers, there)
        names = {layer.name for layer in (*layers, *there)}
        facts["weight_distance"] = weight_distance(model.state_dict(), inner.state_dict(), names)
    if batches:
        facts |= compare_outputs(model, inner if inner is not None else other, batches)
    return make_pair(facts)


def _pair_states(
    state: Mapping[str, Any], layers: tuple[Layer, ...], other: Mapping[str, Any]
) -> Pair:
    facts = pair_layers(layers, layers_of_state(other, layers))
    facts["weight_distance"] = weight_distance(state, other, {layer.name for layer in layers})
    return make_pair(facts)


def _is_script(module: nn.Module) -> bool:
    """Tell whether it is a scripted or traced model, whose layers cannot be looked into."""
    return isinstance(module, torch.jit.ScriptModule)


def _wrapper_facts(model: nn.Module) -> dict[str, Any]:
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return {
            "wrapper": "DistributedDataParallel",
            "broadcasts_buffers": bool(model.broadcast_buffers),
        }
    if isinstance(model, nn.DataParallel):
        return {"wrapper": "DataParallel", "devices": len(model.device_ids) or 1}
    return {}


def _refuse_meta(model: nn.Module) -> None:
    """Refuse to run a model that has shapes and no values."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    name = next((name for name, tensor in tensors if tensor.is_meta), None)
    if name is not None:
        raise InputError(
            f"The model is on the meta device ({name}), where layers have no values, and no batch "
            "can be run. Load its weights first, or give no batches."
        )
