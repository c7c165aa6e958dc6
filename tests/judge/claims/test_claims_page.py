"""The claims as a collection: their page, their size, and what they import."""

import ast
import inspect
import itertools
import sys
from pathlib import Path

import pytest
from claim_runs import arms

from normscope.judge import claims as room
from normscope.judge.claim import Claim
from normscope.judge.claims import claims, judge_all

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_is_made_from_the_claims(site_script):
    made = site_script("generated").claims_page()
    assert (DOCS / "claims.md").read_text(encoding="utf-8") == made, (
        "make it anew: python docs/site/generated.py claims > docs/claims.md"
    )


def test_codes_and_names_are_unique_and_everything_is_said():
    assert (
        len({claim.code for claim in claims()})
        == len({claim.name for claim in claims()})
        == len(claims())
    )
    for claim in claims():
        assert claim.source.link.startswith("https://")
        assert claim.statement.endswith(".")
        assert all((claim.why, claim.quantity, claim.needs, claim.source.title))
        assert claim.margin > (1 if claim.ratio else 0)


def test_any_claim_can_be_deleted():
    """No file imports one in which there are claims."""
    with_claims = {type(claim).__module__ for claim in claims()}
    for path in Path(room.__path__[0]).glob("*.py"):
        imported = {
            node.module
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.ImportFrom)
        }
        assert not imported & with_claims, path.name


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim.code)
def test_no_claim_is_long(claim):
    assert len(inspect.getsource(type(claim)).splitlines()) <= 70


def test_what_is_part_of_another_claim_is_not_judged_by_itself():
    codes = [claim.code for claim in claims()]
    assert {"C1101", "C1102"} <= set(codes)
    assert codes == sorted(codes, key=lambda code: (len(code), code))
    assert codes == [claim.code for claim in claims() if Claim.registry[claim.code] is type(claim)]


def calls_to_judge(rates, seeds):
    """How many functions are called to judge both arms at these rates, with so many seeds."""
    runs = [run for rate in rates for run in arms(seeds, learning_rate=rate)]
    called = itertools.count()
    sys.setprofile(lambda frame, event, argument: next(called) if "call" in event else None)
    try:
        judge_all(runs)
    finally:
        sys.setprofile(None)
    return next(called)


def test_twice_the_runs_are_twice_the_work():
    """Calls are counted in place of seconds: the same number wherever and beside whatever it runs.

    A value that is looked for in every run again for each run makes four times the work.
    """
    calls_to_judge((0.1,), 4)  # imports
    once = calls_to_judge((0.01, 0.1, 1.0), 8)
    assert calls_to_judge((0.01, 0.03, 0.1, 0.3, 1.0, 3.0), 8) < 2.5 * once, "more rates"
    assert calls_to_judge((0.01, 0.1, 1.0), 16) < 2.5 * once, "more seeds"
