"""Time of a training step by category, from PyTorch's profiler."""

from __future__ import annotations

import time
from collections.abc import Iterator

from common import Table
from torch import Tensor, nn
from torch.autograd.profiler_util import EventList, FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function
from training_steps import Setting, Trainer, one_thread

from normscope import fused
from normscope.data.dataset import Dataset
from normscope.data.device_batches import Batches
from normscope.models.fusing import using
from normscope.training.loop import train

AUGMENTATION, FUSED = "normscope: next batch", "normscope: fused forward"

CATEGORIES = {
    "next batch: gather, crop, flip, normalize": (AUGMENTATION,),
    "optimizer": ("Optimizer.step", "Optimizer.zero_grad"),
    "fused normalization, addition and ReLU, forward": (FUSED,),
    "fused normalization, addition and ReLU, backward": ("BatchNormAddReLUBackward",),
    "convolution, backward": ("ConvolutionBackward",),
    "normalization, backward": ("BatchNormBackward",),
    "ReLU, backward": ("ReluBackward",),
    "convolution, forward": ("aten::conv2d",),
    "normalization, forward": ("aten::batch_norm",),
    "ReLU, forward": ("aten::relu",),
    "addition, and sums of gradients": ("aten::add", "aten::add_"),
    "changes of type and layout": ("aten::to", "aten::contiguous", "ToCopyBackward"),
}
"""A range or operator is of the first category that names it or something around it."""

OTHER, OUTSIDE = (
    "everything else: pooling, classifier, loss, totals",
    "outside of operators: Python, dispatch",
)


class MarkedBatches:
    """Batches whose making shows as a range of its own."""

    def __init__(self, batches: Batches):
        self._batches = batches
        self.train_batches, self.test_batches = batches.train_batches, batches.test_batches

        self.begin, self.train_size = batches.begin, batches.train_size
        self.test_size, self.test_at = batches.test_size, batches.test_at

    def train_at(self, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
        with record_function(AUGMENTATION):
            return self._batches.train_at(index, size)

    def test(self, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        return self._batches.test(limit)


def _marked_normalize(
    norm: nn.Module, activation: nn.Module | None, x: Tensor, residual: Tensor | None = None
) -> Tensor | None:
    with record_function(FUSED):
        return fused.normalize(norm, activation, x, residual)


def seconds_by_category(trainer: Trainer) -> dict[str, float]:
    """Seconds of one turn of a trainer, by category. The profiler itself slows small operators."""
    trainer()
    batches = MarkedBatches(trainer.batches)
    implementation = _marked_normalize if trainer.setting.fusion else None
    with using(implementation), profile(activities=[ProfilerActivity.CPU]) as profiled:
        begin = time.perf_counter()
        train(trainer.model, batches, trainer.plan)
        wall = time.perf_counter() - begin
    found: dict[str, float] = dict.fromkeys((*CATEGORIES, OTHER, OUTSIDE), 0.0)
    events = profiled.events()
    assert isinstance(events, EventList)
    for event in events:
        found[_category(event)] += event.self_cpu_time_total / 1e6
    found[OUTSIDE] = max(0.0, wall - sum(found.values()))
    return found


def _category(event: FunctionEvent) -> str:
    chain = []
    at: FunctionEvent | None = event
    while at is not None:
        chain.append(at.name)
        at = at.cpu_parent
    for category, marks in CATEGORIES.items():
        if any(_is_marked(name, marks) for name in chain):
            return category
    return OTHER


def _is_marked(name: str, marks: tuple[str, ...]) -> bool:
    return any(name == mark if mark.startswith("aten::") else mark in name for mark in marks)


def where_time_goes(dataset: Dataset, images: int) -> Table:
    """A profile of the default step, with fusion and without, and of the network without
    normalization.
    """
    settings = {
        "batch, fused": Setting(),
        "batch, eager": Setting(fusion=False),
        "none": Setting("none"),
    }
    if not Setting().fusion:
        del settings["batch, fused"]
    with one_thread():
        found = {
            name: seconds_by_category(Trainer(setting, dataset, images))
            for name, setting in settings.items()
        }
    steps = images / Setting().batch_size
    leading = next(iter(found.values()))
    categories = sorted((*CATEGORIES, OTHER, OUTSIDE), key=lambda category: -leading[category])

    def cell(seconds: dict[str, float], category: str) -> str:
        share = seconds[category] / sum(seconds.values())
        return f"{1e3 * seconds[category] / steps:.2f} ({share:.0%})"

    return Table(
        title="Where the time of a step goes",
        header=("ms per step (share)", *found),
        rows=[
            *(
                (category, *(cell(seconds, category) for seconds in found.values()))
                for category in categories
            ),
            (
                "together",
                *(f"{1e3 * sum(seconds.values()) / steps:.2f}" for seconds in found.values()),
            ),
        ],
        notes=[
            f"One thread, batch size 128; n = one turn of {steps:.0f} steps under PyTorch's "
            "profiler, which itself "
            "takes some time of small operators."
        ],
        values={
            name: {category: s / steps for category, s in seconds.items()}
            for name, seconds in found.items()
        },
    )
