"""A study's sinks hold each epoch of its runs once, whatever was interrupted on the way."""

import json

import numpy as np
import pytest
from sink_readers import scalars, tensorboard, wandb_records, wandb_rows

from normscope import TensorBoard, WandB
from normscope.errors import InputError
from normscope.records.histogram import LEVELS, Histogram, capture_edges, store_capture
from normscope.records.run import RECORD_NAME, load_run
from normscope.records.store import writer
from normscope.show.sinks.runs import StudyLogs

SPEC = {
    "norm": "=b",
    "learning_rate": 0.1,
    "seed": 0,
    "epochs": 4,
    "data": "digits",
    "model": "small-resnet",
}


def train_epochs(study, run, epochs, *, status="interrupted"):
    """A run's record grows by epochs whose loss is 1 / epoch; the even ones are captured."""
    folder = study / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    with writer(folder / RECORD_NAME, "run") as store:
        for epoch in epochs:
            with store.transaction():
                store.set_meta(spec=SPEC, status=status)
                store.add_epoch(
                    epoch, {"train_loss": 1 / epoch, "test_loss": None, "learning_rate": 0.1}
                )
                if epoch % 2 == 0:
                    counts = np.array([3, *range(10), 0])
                    quantiles = np.linspace(-7, 5, len(LEVELS))
                    captured = Histogram(
                        edges=capture_edges(10),
                        counts=counts,
                        mean=0.5,
                        std=2.0,
                        zeros=0.25,
                        quantiles=quantiles,
                    )
                    store_capture(store, "normalized", captured, step=epoch, epoch=epoch)


def test_epochs_and_distributions_are_those_of_the_record(tmp_path):
    study, told = tmp_path / "study", []
    sinks = [TensorBoard(tmp_path / "tb"), WandB("p", "offline", tmp_path)]
    with StudyLogs(study, sinks, told.append) as logs:
        logs.update("run0")  # has no record yet
        for epochs in (range(1, 3), range(3, 5)):
            train_epochs(study, "run0", epochs)
            logs.update("run0")
            logs.update("run0")  # tells nothing new
        logs.update("run0", ended=True)
    assert told == []
    events = tensorboard(tmp_path / "tb" / "run0")
    assert [(event.step, event.value) for event in events.Scalars("epoch/train_loss")] == [
        (epoch, pytest.approx(1 / epoch)) for epoch in (1, 2, 3, 4)
    ]
    assert "epoch/test_loss" not in events.Tags()["scalars"], "it was never finite"
    first, second = events.Histograms("activations/normalized")
    assert (first.step, second.step) == (2, 4)
    captured = load_run(study / "runs" / "run0").captures["normalized", 2]
    value = first.histogram_value
    assert value.bucket == captured.counts[:-1].tolist(), (
        "what lies below has a bin, what would lie above has none"
    )
    assert (value.min, value.bucket_limit[:2], value.max) == (-7.0, [-5.0, -4.0], 5.0)
    assert (value.num, value.sum, value.sum_squares) == (48, 24.0, 48 * 4.25)
    assert '"norm": "=b"' in events.Tensors("config")[0].tensor_proto.string_val[0].decode()

    rows = wandb_rows(tmp_path)
    assert [(row["epoch"], row["epoch/train_loss"]) for row in rows] == [
        (e, 1 / e) for e in (1, 2, 3, 4)
    ]
    assert rows[1]["activations/normalized/values"] == captured.counts[:-1].tolist()
    (run,) = [record.run for record in wandb_records(tmp_path) if record.HasField("run")]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: config[key] for key in SPEC} == SPEC
    assert (run.display_name, run.run_group) == ("run0", "study")


def test_a_resumed_study_writes_no_epoch_twice(tmp_path):
    study = tmp_path / "study"
    for last in (2, 3, 3, 4):
        done = len(load_run(study / "runs" / "run0").epochs["epoch"]) if last > 2 else 0
        train_epochs(study, "run0", range(done + 1, last + 1))
        sinks = [TensorBoard(tmp_path / "tb"), WandB("p", "offline", tmp_path)]
        with StudyLogs(study, sinks, pytest.fail) as logs:
            logs.update("run0", ended=True)
    assert [step for step, _ in scalars(tmp_path / "tb" / "run0", "epoch/train_loss")] == [
        1,
        2,
        3,
        4,
    ]
    assert [row["epoch"] for row in wandb_rows(tmp_path)] == [1, 2, 3, 4]
    assert len(list((tmp_path / "tb" / "run0").iterdir())) == 3, (
        "the third command had nothing to write"
    )
    assert (
        len({record.run.run_id for record in wandb_records(tmp_path) if record.HasField("run")})
        == 1
    )


def test_an_epoch_that_a_kill_tore_off_is_written_again(tmp_path):
    study = tmp_path / "study"
    train_epochs(study, "run0", range(1, 4))
    with StudyLogs(study, [TensorBoard(tmp_path / "tb")], pytest.fail) as logs:
        logs.update("run0")
    (file,) = (tmp_path / "tb" / "run0").iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    with StudyLogs(study, [TensorBoard(tmp_path / "tb")], pytest.fail) as logs:
        logs.update("run0")
    assert [step for step, _ in scalars(tmp_path / "tb" / "run0", "epoch/train_loss")] == [1, 2, 3]


def test_figures_are_written_once_for_so_many_epochs(tmp_path):
    from matplotlib.figure import Figure

    study = tmp_path / "study"
    picture = tmp_path / "comparison.png"
    Figure((2, 1), dpi=50).savefig(picture)
    for epochs in (range(1, 3), range(3, 3), range(3, 4)):
        train_epochs(study, "run0", epochs)
        sinks = [TensorBoard(tmp_path / "tb"), WandB("p", "offline", tmp_path)]
        with StudyLogs(study, sinks, pytest.fail) as logs:
            logs.figures([picture])
    images = tensorboard(tmp_path / "tb" / "figures").Images("figures/comparison")
    assert [(image.step, image.width, image.height) for image in images] == [
        (2, 100, 50),
        (3, 100, 50),
    ]
    assert images[0].encoded_image_string == picture.read_bytes()
    rows = wandb_rows(tmp_path)
    assert [(row["epochs"], row["figures/comparison/width"]) for row in rows] == [
        (2, 100),
        (3, 100),
    ]


def test_a_sink_that_fails_is_given_up_alone(tmp_path):
    class Failing:
        def __init__(self):
            self.opened = 0

        def open(self, name, config, *, group="", axis="step", resume=True):
            self.opened += 1
            raise ConnectionError("nobody answers")

    study, told, failing = tmp_path / "study", [], Failing()
    with StudyLogs(study, [failing, TensorBoard(tmp_path / "tb")], told.append) as logs:
        for epoch in (1, 2, 3):
            train_epochs(study, "run0", [epoch])
            logs.update("run0")
    assert told == [
        "Failing failed and gets no more of this study, which continues. "
        "ConnectionError: nobody answers"
    ]
    assert failing.opened == 1
    assert len(scalars(tmp_path / "tb" / "run0", "epoch/train_loss")) == 3


def test_a_damaged_record_is_told_once(tmp_path):
    study, told = tmp_path / "study", []
    train_epochs(study, "good", range(1, 3))
    train_epochs(study, "torn", range(1, 3))
    (study / "runs" / "torn" / RECORD_NAME).write_bytes(b"SQLite format 3\0" + b"x" * 999)
    with StudyLogs(study, [TensorBoard(tmp_path / "tb")], told.append) as logs:
        for run in ("torn", "good", "torn"):
            logs.update(run)
    assert len(told) == 1
    assert "torn" in told[0]
    assert len(scalars(tmp_path / "tb" / "good", "epoch/train_loss")) == 2


@pytest.mark.parametrize("version", ["0.20.0rc1", "0.19.10", "1.0", "0.21.0.dev20250101", "v0.20"])
def test_versions_of_wandb_that_will_do(version, monkeypatch, tmp_path):
    monkeypatch.setattr(pytest.importorskip("wandb"), "__version__", version)
    assert WandB("p", "offline", tmp_path).mode == "offline"


@pytest.mark.parametrize("version", ["0.19.9", "0.18", "0.19.10rc1"])
def test_versions_of_wandb_that_are_too_old(version, monkeypatch, tmp_path):
    monkeypatch.setattr(pytest.importorskip("wandb"), "__version__", version)
    with pytest.raises(InputError, match=r"expected 0\.19\.10 or newer"):
        WandB("p", "offline", tmp_path)
