"""Fixtures for figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from figure_runs import make_comparison, make_run

from normscope.judge.comparison import Comparison
from normscope.records.run import RunRecord


@pytest.fixture
def real_files() -> None:
    """Has the figures of a test drawn into their files."""


@pytest.fixture(autouse=True)
def files_are_blank(request: pytest.FixtureRequest) -> None:
    """A figure is looked at in memory, unless a test asks for `real_files`."""
    if "real_files" not in request.fixturenames:
        request.getfixturevalue("blank_figures")


@pytest.fixture(scope="session")
def run() -> Callable[..., RunRecord]:
    return make_run


@pytest.fixture(scope="session")
def compared() -> Callable[[list[RunRecord]], Comparison]:
    return make_comparison
