"""Arrays as they travel to the page."""

import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from normscope.show.report.page_tables import MISSING, exact, quantised, whole

TYPES = {"float32": "<f4", "uint32": "<u4", "uint16": "<u2", "uint8": "<u1"}


def decode(column):
    """What decode.js does."""
    codes = np.frombuffer(base64.b64decode(column["data"]), TYPES[column["kind"]])
    if "scale" not in column:
        return codes
    values = column["low"] + column["scale"] * codes.astype(float)
    return np.where(codes == MISSING[codes.itemsize], np.nan, values)


@given(
    arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e300, 1e300)),
    st.sampled_from([1, 2]),
)
@settings(deadline=None, max_examples=60)
def test_quantised_values_come_back_within_half_a_step(values, size):
    column = quantised(values, size)
    bound = 0.5 * column["scale"] * (1 + 1e-6) + 1e-12 * np.abs(values).max()
    bound += np.finfo(np.float64).tiny  # a range of subnormal numbers is too small for steps
    assert (np.abs(decode(column) - values) <= bound).all()


def test_what_is_not_finite_stays_missing():
    back = decode(quantised(np.array([1.0, np.nan, np.inf, 3.0])))
    assert np.isnan(back[1:3]).all()
    assert back[[0, 3]].tolist() == [1.0, pytest.approx(3.0)]
    assert np.isnan(decode(quantised(np.array([np.nan])))).all()


def test_scalars_and_whole_numbers():
    assert decode(exact([0.1, np.nan]))[0] == np.float32(0.1)
    assert decode(whole([0, 70_000])).tolist() == [0, 70_000]
