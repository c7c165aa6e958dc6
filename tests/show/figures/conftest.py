"""Fixtures for figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from figure_runs import make_comparison, make_run

from normscope.judge.comparison import Comparison
from normscope.records.run import RunRecord


@pytest.fixture(scope="session")
def run() -> Callable[..., RunRecord]:
    return make_run


@pytest.fixture(scope="session")
def compared() -> Callable[[list[RunRecord]], Comparison]:
    return make_comparison
