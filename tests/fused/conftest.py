"""Only layers of a certain size are fused: here the small ones of the tests are, too."""

from __future__ import annotations

import pytest

from normscope import fused


@pytest.fixture(autouse=True)
def however_small(monkeypatch):
    monkeypatch.setattr(fused, "LEAST_NUMBERS", 0)
