"""Healthy networks of many kinds: no error in any, a warning in at most one of ten."""

from __future__ import annotations

from pathlib import Path

import pytest

from normscope.errors import RecordError
from normscope.judge.check_report import judge
from normscope.records.examination_json import from_json, to_json

HEALTHY = sorted((Path(__file__).parent / "healthy").glob("*.json"))


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
def test_a_healthy_network_has_no_error(path: Path):
    report = judge(from_json(path.read_bytes()))
    assert report.layers > 0
    assert not report.errors, report.text()


def test_warnings_are_rare():
    warned = [path.stem for path in HEALTHY if judge(from_json(path.read_bytes())).warnings]
    assert len(HEALTHY) >= 30
    assert len(warned) <= len(HEALTHY) // 10, warned


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not an examination"),
        (b"[]", "not an examination"),
        (b'{"normscope": "examination"}', "not an examination"),
    ],
)
def test_other_files_are_refused(data: bytes, message: str):
    with pytest.raises(RecordError, match=message):
        from_json(data)


def test_other_versions_are_refused():
    data = to_json(from_json(HEALTHY[0].read_bytes())).replace(b'"format":1', b'"format":9')
    with pytest.raises(RecordError, match="format 1, not 9"):
        from_json(data)
