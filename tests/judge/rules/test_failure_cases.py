"""Every written-up failure that can run is found by its rule, and false alarms stay quiet."""

from __future__ import annotations

import pytest
import torch
from failure_cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case):
    torch.manual_seed(case.number)
    report = case.run()
    if case.quiet:
        assert not report.errors, report.text()
    if case.found:
        assert case.found & set(report.codes), report.text()
