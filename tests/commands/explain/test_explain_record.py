"""explanation.sqlite: what is written is read back, and files that others made are checked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from normscope.errors import InputError, RecordError
from normscope.records.explanation import (
    Forgotten,
    RunningStatistics,
    load_explanation,
    load_if_there,
    store_explanation,
)
from normscope.records.store import writer
from planting import plant


def assert_equal(one, other):
    for field in dataclasses.fields(one):
        first, second = getattr(one, field.name), getattr(other, field.name)
        if isinstance(first, RunningStatistics | Forgotten):
            assert_equal(first, second)
        elif isinstance(first, np.ndarray):
            np.testing.assert_array_equal(first, second)
            assert first.dtype == second.dtype
        else:
            assert first == second, field.name


def test_what_is_written_is_read_back(explained, tmp_path):
    store_explanation(explained.explanation, tmp_path / "explanation.sqlite")
    assert_equal(explained.explanation, load_explanation(tmp_path / "explanation.sqlite"))
    bare = dataclasses.replace(
        explained.explanation,
        weight=None,
        bias=None,
        running_before=None,
        running_after=None,
        momentum=None,
    )
    store_explanation(bare, tmp_path / "explanation.sqlite")  # takes the place of the other
    assert_equal(bare, load_explanation(tmp_path / "explanation.sqlite"))
    assert [path.name for path in tmp_path.iterdir()] == ["explanation.sqlite"]


def test_the_record_alone_gives_every_tensor(explained):
    explanation = explained.explanation
    for index in range(explanation.x.shape[1]):
        channel = explanation.channel(index)
        assert channel.normalized.shape == (explanation.x.shape[0], *explanation.x.shape[2:])
        assert channel.normalized.mean() == pytest.approx(0, abs=1e-9)
        assert channel.normalized.var() == pytest.approx(
            channel.var / (channel.var + channel.eps), rel=1e-9
        )


DAMAGE = {
    "no input": "DELETE FROM arrays WHERE statistic = 'x'",
    "no forgotten": "DELETE FROM meta WHERE key = 'forgotten'",
    "no spec": "DELETE FROM meta WHERE key = 'spec'",
    "spec is a list": "UPDATE meta SET value = '[]' WHERE key = 'spec'",
    "spec is empty": "UPDATE meta SET value = '{}' WHERE key = 'spec'",
    "no environment": "DELETE FROM meta WHERE key = 'environment'",
    "hardware is a list": 'UPDATE meta SET value = \'{"hardware": [], "versions": {}}\' '
    "WHERE key = 'environment'",
    "channel out of range": "UPDATE meta SET value = '99' WHERE key = 'chosen'",
    "channel is a word": "UPDATE meta SET value = '\"two\"' WHERE key = 'chosen'",
    "momentum is a list": "UPDATE meta SET value = '[1]' WHERE key = 'momentum'",
    "one variance fewer": "UPDATE arrays SET shape = '[3]', data = substr(data, 1, 24) "
    "WHERE statistic = 'weight'",
    "labels missing": "UPDATE arrays SET shape = '[0]', data = x'' WHERE statistic = 'labels'",
    "length that lies": "UPDATE arrays SET shape = '[9999, 99, 99, 99]' WHERE statistic = 'x'",
    "memory half gone": "DELETE FROM arrays WHERE layer = 'running_after' AND statistic = 'var'",
    "images flat": "UPDATE arrays SET shape = '[64]', data = substr(data, 1, 64) "
    "WHERE statistic = 'images'",
    "accuracies flat": "UPDATE arrays SET shape = '[40]' WHERE statistic = 'during'",
    "not a number": "UPDATE arrays SET data = x'000000000000f87f' || substr(data, 9) "
    "WHERE statistic = 'mean'",
}


@pytest.mark.parametrize("statement", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_one_line(statement, explained, tmp_path):
    path = tmp_path / "explanation.sqlite"
    store_explanation(explained.explanation, path)
    assert plant(path, statement) > 0
    with pytest.raises(RecordError) as error:
        load_explanation(path)
    assert "\n" not in str(error.value)


def test_other_files_are_none(tmp_path):
    assert load_if_there(tmp_path / "explanation.sqlite") is None
    with pytest.raises(InputError, match="no record"):
        load_explanation(tmp_path / "explanation.sqlite")
    writer(tmp_path / "run.sqlite", "run").close()
    with pytest.raises(RecordError, match="a run, not of a explanation"):
        load_explanation(tmp_path / "run.sqlite")
