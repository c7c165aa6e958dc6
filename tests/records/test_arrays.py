import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from normscope.errors import RecordError
from normscope.records.blocks import DTYPES, pack, unpack

ARRAYS = hnp.arrays(
    st.sampled_from(sorted(DTYPES)).map(np.dtype),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


@settings(deadline=None, max_examples=80)
@given(ARRAYS)
def test_what_is_packed_comes_back(array):
    back = unpack(*pack(array))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_big_endian_and_strided_arrays_come_back_as_values():
    array = np.arange(24, dtype=">f4").reshape(4, 6)[::2, ::3]
    np.testing.assert_array_equal(unpack(*pack(array)), array)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([object()]), np.array([1j])])
def test_other_dtypes_are_refused(array):
    with pytest.raises(TypeError, match="records carry"):
        pack(array)


@pytest.mark.parametrize(
    ("dtype", "shape", "data"),
    [
        ("<f4", "[2]", b"1234"),  # too short
        ("<f4", "[1]", b"12345678"),  # too long
        ("<f4", "[1000000000000]", b"1234"),  # a lie that must not be allocated
        ("<f4", "[-1]", b""),
        ("<f4", "[1.0]", b"1234"),
        ("<f4", "[true]", b"1234"),
        ("<f4", "{}", b""),
        ("<f4", "nonsense", b""),
        ("<f4", json.dumps([1] * 9), b"1234"),
        ("|O", "[1]", b"12345678"),
        ("<U1", "[1]", b"1234"),
        ("<f4", None, b"1234"),
        ("<f4", "[1]", "1234"),
        ("<f4", "[" * 100_000, b"1234"),
    ],
)
def test_blobs_that_lie_are_refused(dtype, shape, data):
    with pytest.raises(RecordError, match="record holds an array"):
        unpack(dtype, shape, data)
