"""The results that are published with the project: their records load, and their summaries follow
from them.
"""

import json
import re
import sys
from pathlib import Path

import pytest

from normscope.judge.comparison import summarize
from normscope.records.run import load_run

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import published

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


@pytest.mark.parametrize("study", published.TABLES)
def test_the_tables_of_a_page_follow_from_its_records(study):
    assert published.lacking({study: published.TABLES[study]()}) == {}


JUDGED = [
    "cifar10-30-epochs",
    "cifar10-learning-rates",
    "depth",
    "learning-rates",
    "quick",
    "quick-until-decided",
    "transformer-placement",
    "transformers",
]


@pytest.mark.parametrize("study", JUDGED)
def test_published_verdicts_are_those_of_today_s_claims(study):
    """As JSON: what a reader of the records gets when they are judged again."""
    again = [verdict.to_json() for verdict in published.judged(study)]
    kept = json.loads((RESULTS / study / "claims.json").read_text())["claims"]
    assert json.loads(json.dumps(again), parse_float=rounded) == json.loads(
        json.dumps(kept), parse_float=rounded
    )


def rounded(text):
    return float(f"{float(text):.9g}")


def test_there_are_published_results():
    assert STUDIES


PAGE = RESULTS.parent / "what_batch_norm_does.md"
SAID = re.compile(r"(?P<effect>×[\d.]+|[+−][\d.]+ points|[\d.]+ points lower)\D*\((?P<code>C\d+)\)")


def test_the_article_says_what_the_claims_measured():
    found = json.loads((RESULTS / "cifar10-30-epochs/claims.json").read_text())["claims"]
    claims = {claim["code"]: claim for claim in found}
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    said = {match["code"]: match["effect"] for match in SAID.finditer(text)}
    assert set(said) == {"C404", "C801", "C902"}
    for code, effect in said.items():
        number = re.sub(r"[^\d.]", "", effect)
        decimals = len(number.partition(".")[2])
        assert f"{abs(claims[code]['effect']):.{decimals}f}" == number, code
    does, does_not = text.split("## It does not")
    verdicts = {code: claims[code]["verdict"] for code in re.findall(r"\((C\d+)\)", text)}
    for code, verdict in verdicts.items():
        assert (verdict == "supported") == (f"({code})" in does), code
        assert (verdict in ("contradicted", "no difference")) == (f"({code})" in does_not), code
    for verdict in ("supported", "contradicted"):
        count = sum(claim["verdict"] == verdict for claim in found)
        assert f"{count} {'are ' if verdict == 'supported' else ''}{verdict}" in text


@pytest.mark.parametrize(
    ("code", "arms"), [("C101", "6.9 epochs instead of 12.5"), ("C701", "78% against 42%")]
)
def test_the_articles_means_are_those_of_the_seeds(code, arms):
    found = json.loads((RESULTS / "cifar10-30-epochs/claims.json").read_text())["claims"]
    values = next(claim for claim in found if claim["code"] == code)["values"]
    means = [sum(values[arm].values()) / len(values[arm]) for arm in ("batch", "none")]
    assert arms in PAGE.read_text(encoding="utf-8")
    for said, mean in zip(re.findall(r"[\d.]+", arms), means, strict=True):
        assert f"{mean:.{len(said.partition('.')[2])}f}" == said
