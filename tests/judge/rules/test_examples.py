"""The examples of the rules run: each rule speaks up for the bad code, and not for the good."""

from __future__ import annotations

import ast
import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toy import batches, images, network, trained

import normscope
from normscope import mend
from normscope.commands.loop_check import LoopCheck
from normscope.judge.rule import BATCHES, HISTORY, OTHER, Rule
from normscope.judge.rules import rules

RUN = [rule for rule in rules() if not rule.text().not_run]
PASSED = ("batches", "optimizer", "other", "loader", "world_size", "export")
"""What an example may assign that `normscope.check` takes beside the model."""


def names() -> dict[str, Any]:
    """What the page of rules says that examples may use."""
    x, y = images(1024, 2)
    provided = {"torch": torch, "nn": nn, "F": F, "copy": copy, "mend": mend}
    provided |= {"DataLoader": DataLoader, "TensorDataset": TensorDataset}
    return provided | {"Net": network, "trained": trained, "images": x, "labels": y}


def codes_of_code(rule: Rule, *parts: str) -> set[str]:
    """Run an example from its beginning, and check what it made."""
    space = names() | {"batches": batches(8)}
    before = dict(space)
    for part in parts:
        exec(compile(part, rule.code, "exec"), space)
    given = {name: space[name] for name in PASSED if space.get(name) is not before.get(name)}
    if rule.needs in (BATCHES, OTHER):
        given.setdefault("batches", space["batches"])
    if "state" in space:
        return set(normscope.check_state_dict(space["state"], space["model"]).codes)
    return set(normscope.check(space.get("model", trained()), **given).codes)


def codes_of_loop(rule: Rule, code: str, path: Path) -> set[str]:
    """Run an example with a loop, watched from where the loop begins."""
    model = trained().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    loader = batches(60, 16)
    space = names() | {"model": model, "optimizer": optimizer, "loader": loader}
    space["validation"] = images(64, 5)[0]
    body = ast.parse(code).body
    start = next(k for k, statement in enumerate(body) if isinstance(statement, ast.For))
    exec(compile(ast.Module(body[:start], []), rule.code, "exec"), space)
    with (
        warnings.catch_warnings(),
        normscope.watch(model, optimizer=space["optimizer"], path=path) as watcher,
        LoopCheck(model, space["optimizer"]) as loop,
    ):
        warnings.simplefilter("ignore")
        exec(compile(ast.Module(body[start:], []), rule.code, "exec"), space)
    recorded = normscope.check(model, recording=watcher.recording).codes
    return {finding.code for finding in loop.findings} | set(recorded)


@pytest.mark.parametrize("rule", RUN, ids=lambda rule: rule.code)
def test_an_example_shows_the_fault_and_the_repair(rule: Rule, tmp_path: Path):
    torch.manual_seed(0)
    text = rule.text()
    if rule.needs is HISTORY:
        bad = codes_of_loop(rule, text.example, tmp_path / "bad.sqlite")
        good = codes_of_loop(rule, text.instead, tmp_path / "good.sqlite")
    else:
        bad = codes_of_code(rule, text.example)
        good = codes_of_code(rule, text.example, text.instead)
    assert rule.code in bad
    assert rule.code not in good


@pytest.mark.parametrize("rule", [r for r in rules() if r not in RUN], ids=lambda rule: rule.code)
def test_an_example_that_is_not_run_says_why_and_compiles(rule: Rule):
    text = rule.text()
    assert text.not_run in ("several processes", "inside a transformer")
    for code in (text.example, text.instead):
        compile(code, rule.code, "exec")
