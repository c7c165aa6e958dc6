"""The rules as a set: complete, well formed, chosen by code, and the page made from them."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

from normscope.errors import InputError
from normscope.judge import rules as folder
from normscope.judge.rules import choose, rules

ROOT = Path(__file__).parents[3]


def test_codes_and_names_are_unique_and_well_formed():
    codes, names = [rule.code for rule in rules()], [rule.name for rule in rules()]
    assert len(set(codes)) == len(codes)
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"NS[0-8]\d\d", code) for code in codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in names)


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.code)
def test_a_rule_says_what_a_reader_needs(rule):
    assert rule.reference.startswith("https://")
    text = rule.text()
    for sentence in (text.what, text.why, text.when_fine, rule.remedy, text.summary):
        assert sentence.endswith(".")
    assert text.example
    assert text.instead
    if rule.mend:
        module, _, name = rule.mend.rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))


def test_every_file_of_the_folder_holds_rules():
    files = {info.name for info in pkgutil.iter_modules(folder.__path__)}
    assert files == {type(rule).__module__.rpartition(".")[2] for rule in rules()}


def test_choosing_by_code_prefix_and_name():
    assert [rule.code for rule in choose(["ns101", "eps-too-large"])] == ["NS101", "NS206"]
    assert {rule.code[:3] for rule in choose(["NS5"])} == {"NS5"}
    assert len(choose(ignore=["NS1"])) == len(rules()) - len(choose(["NS1"]))
    assert len(choose("NS101")) == 1
    with pytest.raises(InputError, match="Unknown rule 'NS999'"):
        choose(ignore=["NS999"])
    with pytest.raises(InputError, match="select holds 3; it takes"):
        choose([3])  # type: ignore[list-item]


def test_the_page_is_that_of_the_rules(site_script):
    made = site_script("generated").checks_page()
    assert (ROOT / "docs" / "checks.md").read_text(encoding="utf-8") == made, (
        "make it anew: python docs/site/generated.py checks > docs/checks.md"
    )
