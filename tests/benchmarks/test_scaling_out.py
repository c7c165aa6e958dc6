"""The benchmark of scaling out takes turns and says what a further run costs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scaling_out


def test_a_further_run_is_the_growth_of_the_whole(monkeypatch):
    asked = []

    def measured(way, count):
        asked.append((way, count))
        start = {"local": 2.0, "ray": 5.0, "ray-apart": 6.0}[way]
        return {"connect": start, "first": 1.0, "rest": 0.1 * count}

    monkeypatch.setattr(scaling_out, "measured", measured)
    table = scaling_out.growth([8, 64], rounds=2)
    assert len(asked) == 12
    assert {asked.count(each) for each in asked} == {2}
    assert len(table.rows) == 6
    assert [row[4] for row in table.rows] == ["100 (100 to 100, n = 2)"] * 6
    assert table.rows[0][5].startswith("3.8 ")
    assert table.notes[0].startswith(
        "A further run, from 8 to 64: processes of this machine 100 ms; Ray"
    )


def test_a_study_is_measured_by_stages():
    found = scaling_out.measure("local", 1)
    assert set(found) == {"connect", "first", "rest"}
    assert all(seconds >= 0 for seconds in found.values())
