"""The results that are published with the project: their records load, and their summaries follow
from them.
"""

import json
from pathlib import Path

import pytest

from normscope.judge.comparison import summarize
from normscope.records.run import load_run

RESULTS = Path(__file__).parents[1] / "docs" / "results"
STUDIES = sorted(path.parent for path in RESULTS.glob("*/summary.json"))


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_a_published_summary_follows_from_its_records(study):
    published = json.loads((study / "summary.json").read_text())
    runs = [load_run(study / "runs" / entry["id"]) for entry in published["runs"]]
    norms = list(dict.fromkeys(run.norm for run in runs))
    rates = list(dict.fromkeys(run.learning_rate for run in runs))
    again = json.loads(json.dumps(summarize(runs, norms, rates).to_json()))
    assert again == published


def test_there_are_published_results():
    assert STUDIES
