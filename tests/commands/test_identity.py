"""Runs in a folder that are those asked for, or of another version, machine or thread count."""

import io
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from normscope.cli import main
from normscope.commands.compare import CompareOptions, compare
from normscope.records.run import load_run
from normscope.records.run_description import ADDED_KNOBS
from normscope.studies import pipeline
from normscope.studies.spec import Recipe
from planting import plant

TINY = {
    "classes": ("3", "8"), "norms": ("batch",), "learning_rates": (0.1,), "seeds": 1, "epochs": 2,
    "jobs": 1,
    "device": "cpu", "precision": "fp32", "fusion": "off", "capture_epochs": (),
    "recipe": Recipe(widths=(8, 8), blocks_per_stage=1),
}  # fmt: skip


def run(**settings):
    """(result of compare, what it printed)."""
    out = io.StringIO()
    options = CompareOptions(**TINY | settings)
    return compare(options, console=Console(file=out, width=200)), out.getvalue()


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Train and sum up, but draw nothing: most of a command's time."""
    monkeypatch.setattr("normscope.commands.compare._draw", lambda *_: [])


def folder_of(result):
    (only,) = result.runs
    return only.directory


def change_meta(folder, **values):
    """Write into a run's record; None takes an entry away."""
    for key, value in values.items():
        change = ("DELETE FROM meta WHERE key = ?", key)
        if value is not None:
            change = ("INSERT OR REPLACE INTO meta VALUES (?, ?, 0)", key, json.dumps(value))
        plant(folder / "record.sqlite", change)


def as_of_the_first_version(folder, **meta):
    """Take the knobs that came later out of a run's spec, wherever it stands."""
    spec = json.loads((folder / "spec.json").read_text())
    for knob in ADDED_KNOBS:
        del spec[knob]
    (folder / "spec.json").write_text(json.dumps(spec, sort_keys=True, indent=1) + "\n")
    change_meta(folder, spec=spec, **meta)


def weights(folder):
    state = torch.load(folder / "weights.pt", weights_only=True)
    return {name: value.numpy().tobytes() for name, value in state.items()}


@pytest.fixture
def images(tmp_path):
    """Class folders of images of 16 pixels, from which threads would change the bits."""
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 8)):
        for label in ("dark", "light"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                low = 0 if label == "dark" else 100
                pixels = random.integers(low, low + 150, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "images"


def test_a_run_of_the_first_version_is_not_trained_again(tmp_path):
    first, _ = run(out=tmp_path / "study")
    folder = folder_of(first)
    as_of_the_first_version(folder)
    before = weights(folder)
    again, text = run(out=tmp_path / "study")
    assert "1 of 1 runs are finished already" in text
    assert folder_of(again) == folder
    assert weights(folder) == before
    assert load_run(folder).spec == first.runs[0].spec
    more, text = run(out=tmp_path / "study", seeds=2)
    assert "1 of 2 runs are finished already" in text
    assert more.summary.groups[0].n == 2, "old and new runs are one group"


def test_a_run_of_the_first_version_goes_on_with_its_threads_and_that_is_said(tmp_path):
    first, _ = run(out=tmp_path / "study")
    folder = folder_of(first)
    as_of_the_first_version(folder, status="failed", threads=2)
    plant(folder / "record.sqlite", "DELETE FROM epochs")
    _, text = run(out=tmp_path / "study")
    assert "1 of 1 runs were begun by an earlier version with another number of threads" in text
    assert load_run(folder).meta["threads"] == 2
    assert load_run(folder).status == "finished"


def test_cores_and_jobs_change_no_bit(images, tmp_path, monkeypatch):
    found = []
    for cores in (1, 4):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        settings = {
            "data": "images",
            "data_dir": images,
            "classes": (),
            "out": tmp_path / str(cores),
        }
        result, text = run(**settings)
        found.append((folder_of(result).name, weights(folder_of(result))))
        assert ("--threads 4 uses them all" in text) == (cores == 4)
    assert found[0] == found[1]


def test_threads_are_part_of_the_identity(tmp_path):
    one, _ = run(out=tmp_path / "study")
    two, _ = run(out=tmp_path / "study", threads=2)
    assert folder_of(one) != folder_of(two)
    assert load_run(folder_of(two)).meta["threads"] == 2
    assert load_run(folder_of(one)).meta["threads"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"precision": "bf16"}, "precision"),
        ({"data_fingerprint": "f00d"}, "data fingerprint"),
        ({"engine": 2, "device": "cuda"}, "device and engine"),
    ],
)
def test_runs_that_differ_in_what_nobody_typed_are_named(tmp_path, change, words):
    first, _ = run(out=tmp_path / "study")
    folder = folder_of(first)
    spec = json.loads((folder / "spec.json").read_text()) | change
    (folder / "spec.json").write_text(json.dumps(spec))
    folder.rename(folder.with_name(folder.name[:-16] + 16 * "0"))
    _, text = run(out=tmp_path / "study")
    assert f"1 run is in the folder with the same settings, but for another {words}" in text


def test_runs_with_other_settings_are_other_runs_and_need_no_word(tmp_path):
    run(out=tmp_path / "study")
    _, text = run(out=tmp_path / "study", epochs=1)
    assert "in the folder with the same settings" not in text


def test_ctrl_c_is_not_hidden_by_a_summary_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    first, _ = run(out=tmp_path / "study")
    change_meta(folder_of(first), status="failed")

    def damaged_and_interrupted(*_):
        (folder_of(first) / "record.sqlite").write_bytes(b"nonsense")
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "execute_all", damaged_and_interrupted)
    with pytest.raises(SystemExit) as end:
        main(
            ["compare", "--classes", "3", "8", "--norms", "batch", "--learning-rates", "0.1",
             "--seeds", "1",
             "--epochs", "2", "--jobs", "1", "--device", "cpu", "--precision", "fp32", "--fusion",
             "off",
             "--capture-epochs", "--widths", "8", "8", "--blocks-per-stage", "1", "--out",
             str(tmp_path / "study")]
        )  # fmt: skip
    assert end.value.code == 130
    error = capsys.readouterr().err
    assert "no summary" in error
    assert "interrupted" in error
