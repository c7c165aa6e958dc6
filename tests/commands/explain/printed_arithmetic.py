"""The lines of an explanation's arithmetic, worked out again from what they print."""

import re

import numpy as np
import pytest


def results_of(groups, functions=("sqrt",)):
    """Return {name of a step: its result}; the two sides of each line are equal, as far as they are
    printed, and hold no other functions.
    """
    results = {}
    for step in (step for group in groups for step in group):
        left, _, right = step.numbers.rpartition(" = ")
        result = results[step.name] = evaluated(right, functions)
        if left:
            assert evaluated(left, functions) == pytest.approx(result, rel=2e-3, abs=2e-4), step
    return results


def evaluated(text, functions):
    """Return the number that an expression of the explanation stands for."""
    for shown, meant in (("−", "-"), ("·", "*"), ("√", "np.sqrt"), (",", ""), ("tanh", "np.tanh")):
        text = text.replace(shown, meant)
    assert re.fullmatch(rf"([-+*/() 0-9e]|\.|np\.({'|'.join(functions)}))+", text), text
    return eval(text, {"np": np})  # noqa: S307 - what the assertion above lets through
