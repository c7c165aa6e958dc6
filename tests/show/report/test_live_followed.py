"""Following a study: one build for every change, and only what changed is sent."""

import gzip
import json

import pytest
from live_server import add_epoch
from report_records import write_recording, write_run, write_study

from normscope.records.run import RECORD_NAME, RECORDING_NAME
from normscope.show.live import source as source_module
from normscope.show.live.followed import REMEMBERED, Follower, LiveStudy
from normscope.show.live.source import Source


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "study", epochs=2, status="interrupted")


@pytest.fixture
def followed(study):
    followed = LiveStudy(Source("study", (study,)))
    assert followed.look()
    return followed


def changes(followed, version):
    return json.loads(gzip.decompress(followed.since(version)))


def test_nothing_is_built_where_nothing_changed(followed):
    assert not followed.look()
    assert followed.builds == 1
    assert changes(followed, followed.snapshot.version)["views"] == {}
    assert "head" not in changes(followed, followed.snapshot.version)


def test_only_what_changed_is_sent(followed, study):
    before = followed.snapshot.version
    add_epoch(study / "runs" / "run0", 3)
    assert followed.look()
    sent = changes(followed, before)
    assert sent["version"] == followed.snapshot.version != before
    assert sent["head"]["runs"][0]["epochs"] == 3
    assert {"train_loss", "test_accuracy"} <= set(sent["views"])
    assert not {"block_output", "before_activation", "normalized"} & set(
        sent["views"]
    )  # nothing was captured
    assert sent["order"] == list(followed.snapshot.content.views)
    assert set(changes(followed, "unknown")["views"]) == set(sent["order"])


def test_a_version_is_the_content_and_outlives_the_server(followed, study):
    again = LiveStudy(Source("study", (study,)))
    again.look()
    assert again.snapshot.version == followed.snapshot.version


def test_records_that_did_not_change_are_not_read_again(followed, study, monkeypatch):
    read = []
    original = source_module.load_run
    monkeypatch.setattr(
        source_module, "load_run", lambda folder: read.append(folder.name) or original(folder)
    )
    add_epoch(study / "runs" / "run2", 3)
    followed.look()
    assert read == ["run2"]


def test_a_recording_that_grows_is_read_again(followed, study):
    before = followed.snapshot.version
    path = write_recording(study / "runs" / "run0" / RECORDING_NAME)
    followed.look()
    assert "overview_std" in changes(followed, before)["views"]
    before = followed.snapshot.version
    path.unlink()
    write_recording(path, steps=40)
    followed.look()
    assert "overview_std" in changes(followed, before)["views"]


def test_a_run_that_begins_and_a_damaged_one(followed, study):
    (study / "runs" / "new").mkdir()
    (study / "runs" / "new" / RECORD_NAME).touch()
    followed.look()
    assert "problem" not in followed.snapshot.content.head.replace('"problems":[]', "")
    (study / "runs" / "run1" / RECORD_NAME).write_bytes(b"no record")
    assert followed.look()
    head = json.loads(followed.snapshot.content.head)
    assert len(head["runs"]) == 3
    assert "run1" in head["problems"][0]


def test_a_study_that_goes_away_is_said(followed, study):
    away = study.rename(study.with_name("moved"))
    followed.look()
    assert json.loads(followed.snapshot.content.head)["problems"] == [f"{study} is gone."]
    away.rename(study)
    followed.look()
    assert json.loads(followed.snapshot.content.head)["problems"] == []


def test_a_build_that_fails_is_a_page_and_the_thread_goes_on(study, monkeypatch, capsys):
    followed = LiveStudy(Source("study", (study,)))
    monkeypatch.setattr(LiveStudy, "_build", lambda self: 1 / 0)
    Follower._look(followed)
    assert "ZeroDivisionError" in json.loads(followed.snapshot.content.head)["problems"][0]
    assert "ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.undo()
    write_run(study / "runs" / "more", "batch", 0.1, 7)
    Follower._look(followed)
    assert json.loads(followed.snapshot.content.head)["problems"] == []


def test_what_is_remembered_of_earlier_versions_is_bounded(followed, study):
    for epoch in range(3, REMEMBERED // 8):
        add_epoch(study / "runs" / "run0", epoch)
        followed.look()
    for made_up in range(1000):
        followed.since(f"made up {made_up}")
    assert len(followed._known) <= REMEMBERED
    assert len(followed._answers) == 1


def test_sources_nobody_asks_for_are_not_looked_at(followed):
    assert not followed.is_due()
    followed.ask()
    assert followed.is_due()
    Follower._look(followed)
    assert not followed.is_due()  # not before a second has gone
