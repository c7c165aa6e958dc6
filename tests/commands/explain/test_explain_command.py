"""`normscope explain` as a user runs it: files, text, nothing done twice, bad input."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from normscope.errors import InputError, NormscopeError, RecordError
from normscope.records.explanation import load_explanation
from normscope.studies.measurements import evaluation_measurement
from normscope.studies.spec import Recipe

pytestmark = pytest.mark.usefixtures("blank_figures")  # that of `explained` is drawn


def modified(directory):
    """{file: its time} of the run's files, without the lock."""
    return {
        path: path.stat().st_mtime_ns
        for path in directory.glob("runs/*/*")
        if path.name != "run.lock"
    }


def test_the_folder_holds_the_record_the_figure_and_the_run(explained):
    names = {path.name for path in explained.directory.iterdir()}
    written = {"explanation.html", "explanation.png", "explanation.sqlite"}
    assert {*written, "runs", "normscope.json"} <= names
    assert len(list(explained.directory.glob("runs/*/weights.pt"))) == 2
    assert load_explanation(explained.directory / "explanation.sqlite").layer == "layer1.0.bn1"


def test_the_text_is_plain_and_teaches_step_by_step(explained):
    text = explained.text
    assert "\x1b" not in text
    headings = re.findall(r"^(\d)\. ", text, flags=re.MULTILINE)
    assert headings == ["1", "2", "3", "4", "5", "6"]
    n, channels, height, width = explained.explanation.x.shape
    for words in (
        f"[N, C, H, W] = [{n}, {channels}, {height}, {width}]",
        f"{explained.explanation.count:,} values",
        "running mean", "unbiased", "output in eval mode", "class-ordered", "momentum 0.1",
        "Written to",
        f"In eval mode: {100 * explained.explanation.forgotten.eval_accuracy:.1f}%",
    ):  # fmt: skip
        assert words in text, words
    rows = [
        line
        for line in text.splitlines()
        if re.match(r"\s+(>\s)?\d+\s+[−\d]", line) and "→" in line
    ]
    assert len(rows) == channels
    assert sum(row.lstrip().startswith(">") for row in rows) == 1
    assert all(len(line) <= 80 for line in rows)


def test_the_same_again_neither_trains_nor_measures_again(explained, again, monkeypatch):
    monkeypatch.setattr(evaluation_measurement, "accuracies_without_eval", None)
    before, threads = modified(explained.directory), torch.get_num_threads()
    second = again(explained.directory)
    assert torch.get_num_threads() == threads
    assert "2 of 2 runs are finished already" in second.text
    assert modified(explained.directory) == before
    assert second.text.split("1. layer1")[1] == explained.text.split("1. layer1")[1]


def test_another_layer_and_channel_of_the_same_network_need_no_training(
    explained, again, monkeypatch
):
    monkeypatch.setattr(evaluation_measurement, "accuracies_without_eval", None)
    before = modified(explained.directory)
    other = again(explained.directory, layer="*.bn2", channel=2)
    assert modified(explained.directory) == before
    assert (other.explanation.layer, other.explanation.chosen) == ("layer1.0.bn2", 2)
    assert "the first of 2 layers" in other.text
    assert load_explanation(explained.directory / "explanation.sqlite").layer == "layer1.0.bn2"


def test_another_seed_is_another_network_in_the_same_folder(explained, again):
    runs = len(list(explained.directory.glob("runs/*")))
    threads = torch.get_num_threads()
    other = again(explained.directory, seed=3)
    assert torch.get_num_threads() == threads
    assert len(list(explained.directory.glob("runs/*"))) == runs + 2
    assert other.explanation.meta["spec"]["seed"] == 3
    assert other.explanation.meta["run"] != explained.explanation.meta["run"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "layer1.0.bn3"}, "No module matches 'layer1.0.bn3'. Near: layer1.0.bn"),
        ({"layer": "zzz"}, "Normalization layers: stem.1, layer1.0.bn1"),
        (
            {"layer": "layer1.0.conv1"},
            "'layer1.0.conv1' is a Conv2d; expected a batch normalization of images",
        ),
        ({"norm": "none"}, "has no normalization layer: its norm is 'none'"),
        (
            {"norm": "group", "recipe": Recipe(widths=(8,))},
            "is a GroupNorm; expected a batch normalization of images",
        ),
        ({"norm": "bach"}, "Did you mean 'batch'?"),
        (
            {"channel": 4},
            "Channel 4 does not exist: layer1.0.bn1 has the channels 0 to 3 (--channel)",
        ),
        ({"channel": -1}, "The channel is -1"),
        ({"seed": -1}, "The seed is -1"),
        ({"epochs": 0}, "The number of epochs is 0"),
        ({"data": "digit"}, "Unknown data 'digit'. Did you mean 'digits'?"),
        ({"classes": ("3", "x")}, "'x'"),
        ({"device": "tpu"}, "Unknown device 'tpu'"),
        ({"learning_rate": -1.0}, "-1.0; expected a positive number"),
    ],
)
def test_bad_input_is_one_line_and_makes_no_folder(settings, message, again, tmp_path):
    with pytest.raises(InputError) as error:
        again(tmp_path / "out", **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_not_touched(again, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="not a normscope study"):
        again(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_diverged_training_is_said(again, tmp_path):
    for _ in range(2):  # trained, then found
        with pytest.raises(NormscopeError, match="diverged at learning rate 1e\\+30"):
            again(tmp_path / "out", learning_rate=1e30)


def test_damaged_files_are_named_with_what_to_do(explained, again):
    record = explained.directory / "explanation.sqlite"
    whole = record.read_bytes()
    record.write_bytes(b"nonsense")
    with pytest.raises(RecordError, match=r"explanation\.sqlite .*Remove it"):
        again(explained.directory)
    record.write_bytes(whole)
    weights = explained.directory / "runs" / explained.explanation.meta["run"] / "weights.pt"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(RecordError, match="Remove .* to train that run again") as error:
        again(explained.directory)
    assert "\n" not in str(error.value)
    weights.write_bytes(whole)


def test_options_become_one_run(asked, tmp_path):
    options = dataclasses.replace(asked(tmp_path), seed=7, learning_rate=0.5)
    study = options.study
    assert (study.norms, study.learning_rates, study.seeds, study.capture_epochs) == (
        ("batch",),
        (0.5,),
        1,
        (),
    )
    assert study.recipe is options.recipe
    assert study.out == tmp_path
    assert dataclasses.replace(options, epochs=None).study.epochs == 10
    assert dataclasses.replace(options, epochs=None, data="cifar10").study.epochs == 5
    assert str(dataclasses.replace(options, out=None).directory) == "normscope-runs/explain-digits"
