"""One explanation of a tiny network, made once for all tests that look at it."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from normscope.commands.explain import ExplainOptions, explain
from normscope.studies.spec import Recipe

TINY = Recipe(widths=(4, 8), blocks_per_stage=1)


def options_for(out: Path, **settings) -> ExplainOptions:
    recipe = settings.pop("recipe", TINY)
    return ExplainOptions(
        **{"classes": ("3", "8", "0"), "epochs": 1, "device": "cpu", "out": out, "recipe": recipe}
        | settings
    )


def run_explain(out: Path, **settings) -> SimpleNamespace:
    """What `explain` returned, and what it printed."""
    console = Console(file=io.StringIO(), width=80)
    result = explain(options_for(out, **settings), console)
    return SimpleNamespace(
        result=result,
        explanation=result.explanation,
        text=console.file.getvalue(),
        directory=result.directory,
    )


@pytest.fixture(scope="session")
def explained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return run_explain(tmp_path_factory.mktemp("explain") / "study")


@pytest.fixture(scope="session")
def again():
    """`run_explain`, for tests that explain something else."""
    return run_explain


@pytest.fixture(scope="session")
def asked():
    """`options_for`."""
    return options_for
