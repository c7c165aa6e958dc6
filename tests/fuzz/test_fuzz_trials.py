"""The trials themselves tell a good end from a bad one."""

import os
import signal

import pytest
from mutations import mutated_bytes, mutated_json
from trials import attempt_all, generator

from normscope.errors import InputError, NormscopeError


def bad(number):
    match number:
        case 1:
            raise InputError("one line")
        case 2:
            raise NormscopeError("two\nlines")
        case 3:
            raise KeyError("deep")
        case 4:
            os.kill(os.getpid(), signal.SIGSEGV)
        case 5:
            bytearray(1 << 31)
        case 6:
            signal.pause()


def test_each_bad_end_is_counted_and_the_others_are_still_tried():
    outcome = attempt_all("ends", bad, range(8), seconds=0.5)
    assert (outcome.tried, outcome.refused) == (8, 1)
    found = {int(line.partition(":")[0]): line for line in outcome.bad}
    assert list(found) == [2, 3, 4, 5, 6]
    assert "KeyError" in found[3]
    assert "-11" in found[4]
    assert "MemoryError" in found[5]
    assert "no end" in found[6]
    with pytest.raises(AssertionError, match="5 of 8 ends end badly"):
        outcome.assert_good()


def test_the_same_numbers_make_the_same_mutations():
    value = {"a": [1, 2, {"b": "c"}], "d": 1.5}
    first, second = (
        [(mutated_bytes(b"0123456789" * 9, g), repr(mutated_json(value, g))) for g in generators]
        for generators in ([generator("x", n) for n in range(50)] for _ in range(2))
    )
    assert first == second
    assert len({data for data, _ in first}) > 40
    assert len({text for _, text in first}) > 20
