"""The parts of the benchmarks work, on a handful of images."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import common
import training_gpu
import training_notebook as notebook
import training_profile
import training_steps
import transformer_steps
from training_job import Notebook
from training_runs import Comparison, Data, compare, launch, write_part

from normscope import fused
from normscope.data import sources
from normscope.data.dataset import Dataset
from normscope.data.layouts.binary import CLASSES
from normscope.errors import NormscopeError
from normscope.fused.library import cache_directory as kernel_directory
from normscope.records.run import RunRecord
from training import Options, Sizes

IMAGES = 40


def made_up(count: int) -> Dataset:
    draw = np.random.default_rng(0)
    pixels = lambda n: draw.integers(0, 256, (n, 32, 32, 3), np.uint8)  # noqa: E731
    labels = lambda n: np.arange(n) % 10  # noqa: E731
    recipe = sources.DATASETS["cifar10"].recipe
    return Dataset(
        "cifar10",
        CLASSES,
        pixels(count),
        labels(count),
        pixels(count),
        labels(count),
        notebook.MEAN,
        notebook.STD,
        "0" * 16,
        "made up",
        recipe,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("benchmark")
    write_part(made_up(IMAGES), IMAGES, folder / "cifar10")
    cache = folder / "cache"
    fused.availability()  # built once per checkout, not by the command that is measured
    if kernel_directory().is_dir():
        shutil.copytree(kernel_directory(), cache / "kernels")
    return Data(
        folder / "cifar10",
        cache,
        sources.load("cifar10", data_dir=folder / "cifar10", cache_dir=cache),
    )


def test_a_part_has_the_images_of_the_whole(data: Data):
    whole = made_up(IMAGES)
    assert np.array_equal(data.dataset.train_images, whole.train_images)
    assert np.array_equal(data.dataset.train_labels, whole.train_labels)
    assert np.array_equal(data.dataset.test_images, whole.test_images[: IMAGES // 5])
    assert data.factor == 50_000 / IMAGES


@pytest.mark.parametrize(("use_bn", "count"), [(True, 175_258), (False, 174_698)])
def test_the_notebooks_network_has_its_parameters(use_bn: bool, count: int):
    assert sum(p.numel() for p in notebook.SmallResNet(use_bn).parameters()) == count


def test_the_notebooks_test_transforms_are_those_of_normscope():
    image = made_up(1).train_images[0]
    expected = (image / 255 - np.array(notebook.MEAN)) / np.array(notebook.STD)
    item, _ = notebook.Images(image[None], np.array([3]), notebook.TEST)[0]
    assert item.shape == (3, 32, 32)
    np.testing.assert_allclose(item.numpy(), expected.transpose(2, 0, 1), atol=1e-6)


def test_the_plain_transformers_give_the_outputs_of_ours_and_both_train():
    sizes = {"depth": 1, "width": 8, "heads": 2, "batch_size": 4, "precision": "fp32"}
    cases = {model: {"model": model, "data": data, "augment": False} | sizes
             for model, data in (("vit", "digits"), ("byte-lm", "text"))}  # fmt: skip
    table = transformer_steps.steps(1, 2, cases)
    assert [row[0] for row in table.rows] == ["vit", "byte-lm"]
    assert all(min(seconds) > 0 for sides in table.values.values() for seconds in sides.values())


def test_the_notebooks_crops_are_windows_of_the_padded_image():
    image = made_up(1).train_images[0]
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    windows = {padded[i : i + 32, j : j + 32].tobytes() for i in range(9) for j in range(9)}
    torch.manual_seed(0)
    crops = {
        np.asarray(notebook.random_crop(notebook.Image.fromarray(image))).tobytes()
        for _ in range(60)
    }
    assert crops <= windows
    assert len(crops) > 20


def test_an_epoch_of_a_part_is_extended_to_the_whole_with_one_start_of_the_workers():
    timed = notebook.Timed([], first=2.0, seconds=5.0)  # pyright: ignore[reportArgumentType]: not iterated here
    assert timed.of_whole(10) == 32.0


def test_a_job_is_thirty_epochs_of_both_trainings_and_three_captures():
    timed = Notebook.__new__(Notebook)
    timed.train, timed.test, timed.second, timed.capture = [10.0, 12.0], [1.0, 2.0], 9.0, 0.5
    assert timed.job() == [30 * 11 + 270 + 1.5, 30 * 14 + 270 + 1.5]


def test_an_epoch_of_the_notebook(data: Data):
    timed = Notebook(data, "cpu")
    timed.epoch()
    timed.second_training(data)
    assert len(timed.train) == len(timed.test) == 1
    assert timed.second > 0
    activations = timed.arms[0].activations(timed.test_batches)
    assert activations.shape == (IMAGES // 5 * 16 * 32 * 32,)
    assert timed.arms[0].gradient_norm() > 0


def test_a_run_of_the_command_is_measured_from_its_records(data: Data):
    found = compare(
        data, "--norms", "batch", "--seeds", "1", "--epochs", "1", "--jobs", "1", "--device", "cpu"
    )
    assert [run.norm for run in found.runs] == ["batch"]
    assert 0 < found.train_seconds() < found.epoch_seconds() < found.seconds
    assert found.peak_bytes is None or found.peak_bytes > 100e6


def test_a_commands_peak_memory_is_its_own(tmp_path: Path):
    ballast = torch.ones(50 << 20)  # this process is larger than 200 MB
    assert launch([sys.executable, "-c", "pass"], tmp_path, dict(os.environ)).peak_bytes < 100e6
    assert ballast.nbytes > 200e6


def test_a_command_that_fails_is_an_error(data: Data):
    with pytest.raises(NormscopeError, match=r"ended with status 2: .*number of epochs"):
        compare(data, "--epochs", "0")


def test_every_part_of_a_step_is_counted_somewhere(data: Data):
    setting = training_steps.Setting(batch_size=8)
    found = training_profile.seconds_by_category(training_steps.Trainer(setting, data.dataset, 8))
    for category in (
        "convolution, forward",
        "convolution, backward",
        "normalization, backward",
        "ReLU, backward",
        "optimizer",
        "next batch: gather, crop, flip, normalize",
    ):
        assert found[category] > 0, category
    assert found[training_profile.OTHER] < sum(found.values()) / 2


def test_a_networks_arithmetic_and_traffic_are_counted():
    model = training_steps.Setting(norm="none").network()
    # 3x3 stem of 3 and 16 channels on 32x32: 2 * 432 * 1024 forward; without a gradient of the
    # images, as much again
    stem, whole = 2 * 432 * 1024, training_steps.flop_per_image(model)
    assert 2 * stem < whole < 200e6
    # the last stage's second convolution reads and writes 64 x 8 x 8; all 15 convolutions together
    assert training_steps.bytes_per_image(model, 4) == 2 * training_steps.bytes_per_image(model, 2)


def test_turns_rotate_and_warm_up_is_dropped():
    order: list[str] = []

    def contender(name: str):
        def measure() -> float:
            order.append(name)
            return float(len(order))

        return measure

    found = common.interleave({"a": contender("a"), "b": contender("b")}, 2, warm_up=1)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert found == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


def test_ratios_are_taken_round_by_round():
    found = common.ratio([2.0, 12.0, 30.0], [1.0, 4.0, 5.0])
    assert (found.median, found.low, found.high, found.n) == (3.0, 2.0, 6.0, 3)
    assert found.text(".1f") == "3.0 (2.0 to 6.0, n = 3)"


def test_a_table_is_markdown_and_a_line_of_json(tmp_path: Path):
    spread = common.Spread.of([1.0])
    table = common.Table(
        "Speed", ("", "images/s"), [("eager", spread.text())], ["n = 1"], {"rate": spread}
    )
    assert (
        table.markdown()
        == "### Speed\n\n|  | images/s |\n| --- | ---: |\n| eager | 1 (n = 1) |\n\nn = 1"
    )
    common.keep(table, tmp_path / "results", "speed", "cpu", 0.1)
    path = common.keep(table, tmp_path / "results", "speed", "cpu", 0.1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["values"]["rate"]["median"] for line in lines] == [1.0, 1.0]
    assert lines[0]["hardware"]["cores"] >= 1


def test_a_busy_machine_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for load, told in ((0.5, False), (0.6, True)):
        monkeypatch.setattr(common, "load_average", lambda load=load: load)
        common.warn_if_busy()
        assert ("something else is running" in capsys.readouterr().err) == told


def test_the_part_about_a_gpu_is_the_difference_of_two_commands(data: Data, monkeypatch):
    asked = []

    def compare(_: Data, *arguments: str) -> Comparison:
        jobs, graph = (int(arguments[arguments.index("--jobs") + 1]), arguments[-1])
        epochs = int(arguments[arguments.index("--epochs") + 1])
        asked.append((jobs, graph, epochs))
        epoch = {(1, "off"): 4.0, (1, "auto"): 1.0, (2, "off"): 5.0, (2, "auto"): 1.5}[jobs, graph]
        meta = {"not_captured": "switched off" if graph == "off" else None}
        runs = [RunRecord(Path(), {}, "finished", {"epoch": np.arange(epochs)}, meta=meta)] * jobs
        return Comparison(99.0 + epochs * epoch, None, runs)

    monkeypatch.setattr(training_gpu, "compare", compare)
    table = training_gpu.gpu(data, 1, "cuda", at_once=(1, 2))
    ways = [(1, "off"), (1, "auto"), (2, "off"), (2, "auto")]
    assert asked == [(*way, epochs) for way in ways for epochs in training_gpu.EPOCHS]
    assert [row[1] for row in table.rows] == ["switched off", "yes"] * 2
    per_run = [seconds for (seconds,) in table.values["seconds_per_run"].values()]
    assert per_run == pytest.approx([30 * data.factor * epoch for epoch in (4.0, 1.0, 2.5, 0.75)])
    rates = [rate for (rate,) in table.values["images_per_second"].values()]
    assert rates == pytest.approx([IMAGES / 4, IMAGES, 2 * IMAGES / 5, 2 * IMAGES / 1.5])
    assert [row[-1] for row in table.rows] == [f"{r:.2f} (n = 1)" for r in (1, 4, 1.6, 16 / 3)]


def test_an_epoch_is_two_thirds_unless_told_otherwise():
    assert Sizes.of(Options()).batches == 260
    assert Sizes.of(Options(batches=391)).batches is None
    assert Sizes.of(Options(batches=400)).batches is None
    assert (Sizes.of(Options(quick=True)).batches, Sizes.of(Options(batches=30)).second) == (40, 7)


def test_what_is_measured_next_is_told_apart_from_the_tables(capsys: pytest.CaptureFixture[str]):
    common.interleave({"a": lambda: 1.0, "b": lambda: 2.0}, 1)
    told = capsys.readouterr()
    assert told.out == ""
    assert [line.split("  ")[-1] for line in told.err.splitlines()] == [
        "warm-up: 2 contenders",
        "round 1 of 1: 2 contenders",
    ]
