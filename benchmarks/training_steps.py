"""Training steps of normscope's own loop in this process, on one thread: the setting of a run
beside others.

Each measurement is an epoch of a few batches through `training.loop.train`: augmentation, forward,
loss, backward, optimizer. Contenders take turns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from common import Spread, Table, interleave, ratio
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from normscope import fused
from normscope.data.dataset import Dataset
from normscope.data.device_batches import Batches
from normscope.models import registry
from normscope.models.fusing import using
from normscope.models.network import Network
from normscope.training.loop import Callback, Epoch, train
from normscope.training.precision import resolve_precision


@dataclass(frozen=True)
class Setting:
    """What is trained: one contender."""

    norm: str = "batch"
    precision: str = field(default_factory=lambda: resolve_precision("auto", "cpu"))
    fusion: bool = field(default_factory=lambda: fused.availability() is None)
    batch_size: int = 128
    widths: tuple[int, ...] = (16, 32, 64)
    blocks_per_stage: int = 2

    def network(self) -> Network:
        """The network, channels_last."""
        model = registry.build(
            "small-resnet",
            norm=self.norm,
            in_channels=3,
            num_classes=10,
            image_size=32,
            widths=self.widths,
            blocks_per_stage=self.blocks_per_stage,
        )
        return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True)
class _Plan:
    precision: str
    epochs: int = 1
    seed: int = 0
    # small: the networks without normalization are to stay finite, and arithmetic does not ask
    learning_rate: float = 1e-3
    schedule: str = "constant"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    optimizer: str = "sgd"
    decay_spares: str = "nothing"
    iterations: int = 0
    warmup: int = 0
    clip: float = 0.0
    device: str = "cpu"


class Trainer(Callback):
    """Trains one contender a few batches at a time; called, it returns images per second."""

    def __init__(self, setting: Setting, dataset: Dataset, images: int):
        self.setting = setting
        self.model = setting.network()
        self.images = max(images, setting.batch_size)
        self.batches = Batches(
            _beginning(dataset, self.images),
            setting.batch_size,
            torch.device("cpu"),
            crop_padding=4,
            horizontal_flip=True,
        )
        self._rate = 0.0
        self.plan = _Plan(precision=setting.precision)

    def __call__(self) -> float:
        with using(fused.normalize if self.setting.fusion else None):
            train(self.model, self.batches, self.plan, callbacks=[self])
        return self._rate

    def on_epoch(self, epoch: Epoch) -> None:
        self._rate = epoch.scalars["images_per_second"] or 0.0


def _beginning(dataset: Dataset, images: int) -> Dataset:
    """The first images, over and over if there are too few, and one to test on."""
    have = len(dataset.train_labels)
    rows = [row % have for row in range(images)]
    return dataclasses.replace(
        dataset,
        train_images=dataset.train_images[rows],
        train_labels=dataset.train_labels[rows],
        test_images=dataset.test_images[:1],
        test_labels=dataset.test_labels[:1],
    )


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread, as a job beside others has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fusion(dataset: Dataset, rounds: int, images: int) -> Table:
    """Fusion on and off, with and without batch normalization, in bfloat16 and float32."""
    obstacle = fused.availability()
    kinds = [(norm, precision) for norm in ("batch", "none") for precision in ("bf16", "fp32")]
    states = (False,) if obstacle else (False, True)
    settings = {_name(*kind, on): Setting(*kind, fusion=on) for kind in kinds for on in states}
    with one_thread():
        trainers = {name: Trainer(setting, dataset, images) for name, setting in settings.items()}
        rates = interleave(trainers, rounds)
    rows, ratios = [], {}
    for norm, precision in kinds:
        off, on = (rates.get(_name(norm, precision, state)) for state in (False, True))
        gain = ratio(on, off) if on and off else None
        ratios[f"{norm} {precision}"] = gain
        cells = [Spread.of(r).text() if r else f"not here: {obstacle}" for r in (off, on)]
        rows.append((f"{norm}, {precision}", *cells, gain.text(".2f") if gain else ""))
    return Table(
        title="Fused normalization",
        header=("normalization, precision", "eager, images/s", "fused, images/s", "ratio"),
        rows=rows,
        notes=[f"One thread, batch size 128; n = turns of {images} images each."],
        values={"images_per_second": rates, "ratios": ratios, "obstacle": obstacle},
    )


def _name(norm: str, precision: str, on: bool) -> str:
    return f"{norm} {precision} {'fused' if on else 'eager'}"


def scaling(dataset: Dataset, rounds: int, images: int) -> Table:
    """Images per second against batch size, width and depth, with and without batch
    normalization.
    """
    varied = {
        **{
            f"batch size {size}": ({"batch_size": size}, 4 * images)
            for size in (16, 32, 64, 128, 256, 512, 1024)
        },
        **{
            f"widths {w} {2 * w} {4 * w}": ({"widths": (w, 2 * w, 4 * w)}, images)
            for w in (8, 16, 32, 64)
        },
        **{
            f"blocks per stage {count}": ({"blocks_per_stage": count}, images)
            for count in (1, 2, 4, 9)
        },
    }
    with one_thread():
        trainers = {
            f"{case} {norm}": Trainer(Setting(norm, **changed), dataset, count)
            for case, (changed, count) in varied.items()
            for norm in ("batch", "none")
        }
        rates = interleave(trainers, rounds)
    return Table(
        title="Scaling",
        header=("SmallResNet with", "batch normalization, images/s", "none, images/s", "ratio"),
        rows=[
            (
                case,
                *(Spread.of(rates[f"{case} {norm}"]).text() for norm in ("batch", "none")),
                ratio(rates[f"{case} batch"], rates[f"{case} none"]).text(".2f"),
            )
            for case in varied
        ],
        notes=[
            "One thread; the rest as by default (batch size 128, widths 16 32 64, 2 blocks per "
            "stage). n = turns of "
            f"{4 * images} images for batch sizes (at least one batch), {images} for widths and "
            "depths."
        ],
        values={"images_per_second": rates},
    )


def gemm(dtype: torch.dtype, size: int = 2048) -> float:
    """FLOP per second of a square matrix product, the best of five: a ceiling is what can be
    reached.
    """
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    return 2 * size**3 / _best(lambda: a @ b)


def copy_rate(megabytes: int = 256) -> float:
    """Bytes read and written per second while a large tensor is copied, the best of five."""
    source = torch.ones(megabytes << 18)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / _best(lambda: target.copy_(source))


def _best(work: Callable[[], object], times: int = 5) -> float:
    work()
    seconds = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def flop_per_image(model: Network) -> float:
    """Of forward and backward, counted by PyTorch: convolutions and the linear layer."""
    x = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    return counter.get_total_flops() / len(x)


def bytes_per_image(model: Network, width: int) -> float:
    """Estimated traffic of a step, for numbers of `width` bytes.

    Each input and output of a convolution or normalization moves once forward and twice backward:
    the tensor, saved, and its gradient.
    """
    numbers, images = 0, 2

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal numbers
        numbers += inputs[0].numel() + output.numel()

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        model(torch.randn(images, 3, 32, 32))
    for handle in handles:
        handle.remove()
    return 3 * width * numbers / images


def ceilings(dataset: Dataset, rounds: int, images: int, cores: int) -> Table:
    """What the machine can do at most, and how much of it a training step uses."""
    rows, values = [], {}
    for threads in sorted({1, cores}):
        torch.set_num_threads(threads)
        rates = {"bf16": gemm(torch.bfloat16), "fp32": gemm(torch.float32), "copy": copy_rate()}
        values[f"{threads} threads"] = rates
        cells = (
            f"{rates['bf16'] / 1e12:.2f}",
            f"{rates['fp32'] / 1e12:.2f}",
            f"{rates['copy'] / 1e9:.1f}",
        )
        rows.append((f"machine, {threads} thread{'s' if threads > 1 else ''}", *cells))
    notes = []
    with one_thread():
        ceiling = values["1 threads"]
        for norm in ("batch", "none"):
            setting = Setting(norm)
            trainer = Trainer(setting, dataset, images)
            rate = Spread.of(interleave({norm: trainer}, rounds)[norm])
            flop = flop_per_image(trainer.model) * rate.median
            traffic = (
                bytes_per_image(trainer.model, 2 if setting.precision == "bf16" else 4)
                * rate.median
            )
            values[norm] = {
                "images_per_second": rate,
                "flop_per_second": flop,
                "bytes_per_second": traffic,
            }
            cells = [f"{flop / 1e12:.2f} ({flop / ceiling[name]:.0%})" for name in ("bf16", "fp32")]
            if setting.precision == "bf16":
                cells[1] = ""
            else:
                cells[0] = ""
            copied = f"{traffic / 1e9:.1f} ({traffic / ceiling['copy']:.0%})"
            rows.append((f"training, {norm}, {setting.precision}, 1 thread", *cells, copied))
            notes.append(f"{norm}: {rate.text()} images/s.")
    return Table(
        title="Ceilings",
        header=("", "bf16 products, TFLOP/s", "fp32 products, TFLOP/s", "memory, GB/s"),
        rows=rows,
        notes=[
            "Ceilings: the best of 5 products of 2048 x 2048 matrices and of 5 copies of 256 MB "
            "(read and written). "
            "Training: FLOP of convolutions and the linear layer, forward and backward; its memory "
            "traffic is "
            "an estimate, each input and output of a convolution or normalization once forward and "
            "twice backward "
            "(caches keep some of it; ReLU and additions are left out). In parentheses: share of "
            "the ceiling on one "
            "thread. " + " ".join(notes)
        ],
        values=values,
    )
