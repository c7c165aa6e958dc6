"""The table of machines is what its file says, and a machine's entry is its own."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from machines_table import FILE, PAGE, ROWS, merged, page_with_table, table

OLD = {"kind": "AVX2", "cpu": "old", "cores": 2}
NEW = {"kind": "AMX", "cpu": "new", "cores": 2}


def test_the_page_has_the_table_of_the_file():
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with_table(page, json.loads(FILE.read_text(encoding="utf-8")))


def test_every_number_of_the_file_has_a_row_and_says_how_it_came_about():
    for entry in json.loads(FILE.read_text(encoding="utf-8")):
        assert entry["values"].keys() == entry["measured"].keys() <= ROWS.keys()


def test_a_machine_adds_its_column_and_measures_again_in_it_alone():
    first = merged([], OLD, {"job": 4.0, "quick": 20.0}, {"load": 0.1})
    both = merged(first, NEW, {"job": 7.0}, {"load": 0.2})
    again = merged(both, OLD, {"quick": 30.0}, {"load": 0.3})
    assert [entry["values"] for entry in again] == [{"job": 4.0, "quick": 30.0}, {"job": 7.0}]
    assert again[0]["measured"] == {"job": {"load": 0.1}, "quick": {"load": 0.3}}
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(again).split("\n")]
    assert lines[0] == ["", "AVX2", "AMX"]
    assert [ROWS["job"][0], "×4.00", "×7.00"] in lines
    assert [ROWS["quick"][0], "30.0", "–"] in lines
