"""The list of what is served: state and result of each study, from its files."""

import json

import pytest
from filelock import FileLock
from report_records import write_recording, write_study

from normscope.records.progress import LOCK_NAME, write_plan
from normscope.records.run import RECORD_NAME
from normscope.show.live.source import Source, describe


def described(study):
    return describe(Source("study", (study,)))


def test_a_study_in_training_has_its_numbers(tmp_path):
    study = write_study(tmp_path / "study", epochs=2, status="interrupted")
    write_plan(study, [f"run{k}" for k in range(51)])
    assert (described(study).state, described(study).text) == ("waiting", "waiting: 0 of 51 runs")
    with FileLock(study / "runs" / "run1" / LOCK_NAME):
        assert (described(study).state, described(study).text) == (
            "training", "training: 0 of 51 runs",
        )  # fmt: skip


def test_a_finished_study_has_the_result_that_its_command_wrote(tmp_path):
    study = write_study(tmp_path / "study", norms=("batch",), seeds=(0,), epochs=2)
    assert (described(study).text, described(study).result) == ("finished: 1 run", "")
    headline = [{"subject": "s", "sentences": ["99% with batch norm.", "More."]}]
    (study / "summary.json").write_text(json.dumps({"headline": headline}))
    assert described(study).result == "99% with batch norm."


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"headline": []}', '{"headline": [{}]}'])
def test_a_result_that_cannot_be_read_is_none(tmp_path, text):
    study = write_study(tmp_path / "study", norms=("batch",), epochs=1)
    (study / "summary.json").write_text(text)
    assert described(study).result == ""


def test_a_study_without_runs_and_a_damaged_record(tmp_path):
    study = write_study(tmp_path / "study", norms=())
    assert described(study).text == "waiting: no run has begun"
    damaged = write_study(tmp_path / "damaged", norms=("batch",), epochs=1)
    (damaged / "runs" / "run0" / RECORD_NAME).write_bytes(b"no record")
    assert described(damaged).text == "waiting: 1 of 2 runs, 1 cannot be read"


def test_recordings(tmp_path):
    path = write_recording(tmp_path / "r.sqlite")
    assert describe(Source("r", recordings=(path,))).text == "recording: 30 steps"
    path.write_bytes(b"nothing")
    assert describe(Source("r", recordings=(path,))).text == "recording: cannot be read"
