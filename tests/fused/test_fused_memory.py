"""Freed memory stays with the process: counted in page faults, in a process of its own."""

from __future__ import annotations

import platform

import pytest

from warm_processes import run_python

FAULTS = """
import resource, torch
from normscope.studies.environment import keep_freed_memory
assert {keep} is False or keep_freed_memory()
def step():
    # 40 MB each: more than glibc ever keeps by itself
    kept = [torch.ones(10 << 20) for _ in range(2)]
for _ in range(10):  # the first ones grow the heap
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    return int(run_python("-c", FAULTS.format(keep=keep)).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_steps_after_the_first_cause_no_page_faults():
    assert 3 * faults(keep=True) < faults(keep=False)
