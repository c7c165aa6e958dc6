"""Run a model on a few batches, and measure what its normalization layers do.

Three passes over the batches: in eval mode; with the normalization layers in train mode and
everything else, dropout included, in eval mode; and the same once more with the samples in other
batches. Everything happens inside `preserve_state`.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from normscope.errors import InputError, NormscopeWarning, one_line
from normscope.examining.channel_meter import Meter
from normscope.examining.layer_facts import modules_in_train_mode, switch_mode, train_failure
from normscope.examining.outputs import (
    class_facts,
    difference,
    is_class,
    main_tensor,
    rows,
    target_facts,
)
from normscope.examining.perturbations import see_later, see_padding
from normscope.examining.trace import Trace, trace
from normscope.records.examination import Forward, Layer, Measured, Place, Recognition
from normscope.user_models.batch_reader import Batch, call_pair, remix
from normscope.user_models.state_guard import KeptState

TRACED_SAMPLES = 4
DROPOUT_BATCHES = 4
REDUCED = ("float16", "bfloat16")

Outputs = list[Tensor | None]


class ForwardRun:
    """The passes over one model's batches, and the facts that they show."""

    def __init__(
        self,
        model: nn.Module,
        layers: tuple[Layer, ...],
        modules: dict[str, nn.Module],
        batches: list[Batch],
    ):
        self.model, self.layers, self.modules, self.batches = model, layers, modules, batches
        self.meters = {layer.name: Meter(layer, modules[layer.name]) for layer in layers}
        self.switched = [modules[layer.name] for layer in layers if layer.live]
        self.places: dict[str, Place] = {}
        self.functional: tuple[tuple[str, str], ...] = ()  # (module, function) outside of layers
        self.facts: dict[str, Any] = {}
        self.seen: dict[str, dict[str, float]] = {}
        self.scores = True  # outputs are [N, values] and may be class scores

    def run(self) -> Forward:
        """Run all passes. Call inside `preserve_state`.

        Raises:
            InputError: if the model fails in eval mode.
        """
        switch_mode(self.model, training=False)
        self._eval_state = KeptState(self.model)
        with _observed(self.modules, self.meters):
            evaluated = [self._evaluate(batch, i) for i, batch in enumerate(self.batches)]
            self._companions(evaluated[0])
            in_batches, mixed, order = self._with_batch_statistics()
        self._warn_of_unmeasured()
        self._eval_state.put_back()  # batch statistics have moved
        self._who_sees_whom()
        self.facts |= train_failure(self.model, self.batches[0])
        first_parameter = next(self.model.parameters(), None)
        if in_batches and all(output is not None for output in (*evaluated, *in_batches)):
            self._compare(evaluated, in_batches, mixed, order)
        return Forward(
            batch_sizes=tuple(batch.samples for batch in self.batches),
            device=str(first_parameter.device) if first_parameter is not None else "cpu",
            reduced_precision=any(
                str(p.dtype).removeprefix("torch.") in REDUCED for p in self.model.parameters()
            ),
            **target_facts([batch.target for batch in self.batches]),
            **self.facts,
        )

    def measured(self, name: str) -> Measured | None:
        """Return what one layer showed."""
        measured = self.meters[name].measured()
        return measured and replace(measured, **self.seen.get(name, {}))

    def recognition(self, name: str) -> Recognition | None:
        """Return what one module was taken for, with what its calls showed."""
        return self.meters[name].recognition

    def _evaluate(self, batch: Batch, number: int, mode: str = "eval") -> Tensor | None:
        output = self._forward(batch, number, mode)
        self._restore_moved()
        return output

    def _restore_moved(self) -> None:
        """Put buffers that an eval forward changed back, so that each forward is of one model."""
        if moved := self._eval_state.moved_buffers():
            self.facts["moved_buffers"] = moved
            self._eval_state.put_back()

    @torch.no_grad()
    def _who_sees_whom(self) -> None:
        """Measure whose output changes with padding, and with later positions."""
        for fact, see in (("padding_seen", see_padding), ("later_seen", see_later)):
            for name, change in see(self.batches[0], self._change, self.modules).items():
                self.seen.setdefault(name, {})[fact] = change

    def _change(self, batch: Batch) -> None:
        batch.forward(self.model)
        self._restore_moved()

    @torch.no_grad()
    def _forward(self, batch: Batch, number: int, mode: str = "eval") -> Tensor | None:
        """Return the main output as float32 [N, values] on the CPU, None without such a shape."""
        masks = [batch.mask] if batch.mask is not None else _trailing_zeros(batch)
        for meter in self.meters.values():
            meter.start(mode, masks, batch.samples)
        try:
            output = batch.forward(self.model)
        except (Exception, SystemExit) as error:
            if mode != "eval":
                raise
            raise InputError(
                f"The model fails on batch {number} in eval mode: {one_line(error)}"
            ) from error
        tensor = main_tensor(output)
        self.scores &= tensor is not None and tensor.ndim == 2
        if mode == "eval":
            outputs = len(tensor) if tensor is not None and tensor.ndim else None
            for meter in self.meters.values():
                meter.end(outputs)
        return rows(tensor, batch.samples)

    def _companions(self, whole: Tensor | None) -> None:
        """Measure how a sample's eval output depends on the samples beside it; and trace."""
        batch = self.batches[0]
        few = batch.take(slice(0, TRACED_SAMPLES))
        for meter in self.meters.values():
            meter.start("output", [])
        traced = self._trace(few)
        self.places, self.facts["functional_batch_norm"] = traced.places, traced.batch_norm_calls
        self.functional = traced.functional
        if head := traced.head:
            self.facts |= {"bare_head": head.module or "the model", "stream_readers": head.readers}
            self.facts["stream_of_tokens"] = head.tokens
        if whole is None:
            self.facts["companions_failure"] = "the model's output has no sample axis"
            return
        again = self._evaluate(batch, 0, "output")
        self.facts["repeat_difference"] = difference(whole, again)
        if batch.samples < 2:
            self.facts["companions_failure"] = "the first batch has a single sample"
            return
        try:
            alone = self._evaluate(batch.take(slice(0, 1)), 0, "alone")
        except (Exception, SystemExit) as error:
            # anything may be raised on a batch of one: that is the finding
            reason = f"the model fails on a batch of one sample: {one_line(error)}"
            self.facts["companions_failure"] = reason
            return
        self.facts["companions_difference"] = difference(whole[:1], alone)

    def _warn_of_unmeasured(self) -> None:
        """Warn of layers whose measurement failed: it is not the model that does."""
        for name, meter in self.meters.items():
            if meter.failure:
                text = f"The values at {name} could not be measured and are not judged"
                warnings.warn(f"{text}: {meter.failure}", NormscopeWarning, stacklevel=2)

    def _trace(self, batch: Batch) -> Trace:
        """Trace one forward: of a few samples where the model takes them, else of the whole batch.

        The trace is empty where that fails: the model itself has run on that batch.
        """
        inputs = list(batch.tensors())
        try:
            return trace(lambda: batch.forward(self.model), self.model, self.modules, inputs)
        except (Exception, SystemExit) as error:
            # exported programs, for example, take one batch size only
            if batch is not self.batches[0]:
                return self._trace(self.batches[0])
            text = "The model's forward cannot be traced; what feeds its layers is not judged"
            warnings.warn(f"{text}: {one_line(error)}", NormscopeWarning, stacklevel=2)
            return Trace({}, (), ())

    def _with_batch_statistics(self) -> tuple[Outputs, Outputs, Tensor | None]:
        """Return (outputs with batch statistics, the same with other companions, their order), all
        empty where there are none.
        """
        if not self.switched:
            return [], [], None
        try:
            with modules_in_train_mode(self.switched):
                in_batches = [
                    self._forward(each, i, "batch") for i, each in enumerate(self.batches)
                ]
                mixed = remix(self.batches)
                again = [self._forward(batch, 0, "output") for batch in mixed[0]] if mixed else []
                self._with_dropout()
        except (Exception, SystemExit) as error:
            # such as the ValueError of a batch with one value per channel
            self.facts["batch_failure"] = one_line(error)
            return [], [], None
        return in_batches, again, mixed[1] if mixed else None

    def _with_dropout(self) -> None:
        """Measure how much dropout before a layer widens its input: a few batches with dropout."""
        if not any(place.dropout_before for place in self.places.values()):
            return
        dropouts = [module for module in self.model.modules() if isinstance(module, _DropoutNd)]
        with modules_in_train_mode(dropouts):
            for batch in self.batches[:DROPOUT_BATCHES]:
                self._forward(batch, 0, "dropout")

    def _compare(self, evaluated: list, batched: list, mixed: list, order: Tensor | None) -> None:
        """Compare eval outputs with batch outputs, and those with themselves in other batches."""
        in_eval, in_batch = torch.cat(evaluated), torch.cat(batched)
        in_mixed = None
        if order is not None and all(output is not None for output in mixed):
            in_mixed = torch.empty_like(in_batch)
            in_mixed[order] = torch.cat(mixed)
        reference = in_batch if in_mixed is None else in_mixed
        facts: dict[str, Any] = {"samples": len(in_eval), "gap": difference(reference, in_eval)}
        if in_mixed is not None:
            change = difference(in_batch, in_mixed)
            facts["composition_noise"] = None if change is None else change / math.sqrt(2)
        targets = [batch.target for batch in self.batches]
        if self.scores and in_eval.shape[1] > 1 and all(is_class(target) for target in targets):
            facts |= class_facts(in_eval, in_batch, in_mixed, targets)
        self.facts |= facts


@contextmanager
def _observed(modules: dict[str, nn.Module], meters: dict[str, Meter]) -> Iterator[None]:
    def observe(meter: Meter, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if (pair := call_pair(args, kwargs, output)) is not None:
            meter.observe(*pair)
            meter.repeat(args, kwargs, pair[1])

    with ExitStack() as hooks:
        for name, module in modules.items():
            hook = functools.partial(observe, meters[name])
            hooks.enter_context(module.register_forward_hook(hook, with_kwargs=True))
        yield


def _trailing_zeros(batch: Batch) -> list[Tensor]:
    """Masks [N, L] of positions before trailing all-zero ones, of [N, C, L] and [N, L, C]."""
    x = next(batch.tensors(), None)
    if x is None or x.ndim != 3 or not x.is_floating_point():
        return []
    real = [(x != 0).any(axis) for axis in (1, 2)]
    masks = [mask.flip(1).cummax(1).values.flip(1) for mask in real]
    return [mask for mask in masks if len(set(mask.sum(1).tolist())) > 1]
