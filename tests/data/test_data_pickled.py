"""Pickles run nothing, whatever they ask for, and hold what image data holds or are refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from normscope.data.layouts.pickled import STAND_INS

pytestmark = pytest.mark.usefixtures("own_cache")


class RunsCode:
    """A pickle of this creates `path` when it is loaded by the ordinary unpickler."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class Asks:
    """A pickle of this calls `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def test_a_pickle_that_tries_to_run_code_is_refused_and_does_not_run(
    tiny, writers, tmp_path, refuse
):
    writers["pickled with text keys"](tmp_path / "data", tiny)
    trace = tmp_path / "it-ran"
    file = next(tmp_path.rglob("data_batch_4"))
    file.write_bytes(pickle.dumps({"data": RunsCode(trace), "labels": []}))
    message = refuse("cifar10", tmp_path / "data")
    assert "data_batch_4 is a pickle that asks for " in message
    assert "it was not run" in message
    assert not trace.exists()
    pickle.loads(file.read_bytes())  # noqa: S301  # and the ordinary unpickler does run it: the test can fail
    assert trace.exists()


@pytest.mark.parametrize("function", [eval, getattr, print, __import__, np.fromfile, np.load, Path])
def test_no_global_but_the_stand_ins_is_reachable(function, tiny, writers, tmp_path, refuse):
    writers["pickled with text keys"](tmp_path, tiny)
    next(tmp_path.rglob("test_batch")).write_bytes(pickle.dumps(Asks(function, "1")))
    assert f".{function.__name__}, which image data does not need" in refuse("cifar10", tmp_path)


def test_no_stand_in_is_the_real_thing():
    assert all(value.__module__ == "normscope.data.layouts.pickled" for value in STAND_INS.values())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["no", "dictionary"], "holds a list, not a dictionary"),
        ({"labels": [1]}, "does not hold 3072 bytes of data for each of 1 labels"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [1, 2]}, "does not hold 3072 bytes"),
        ({"data": np.zeros((1, 3071), np.uint8), "labels": [1]}, "does not hold 3072 bytes"),
        ({"data": np.zeros((1, 768), np.float32), "labels": [1]}, "does not hold 3072 bytes"),
        (
            {"data": np.asfortranarray(np.zeros((2, 3072), np.uint8)), "labels": [1, 2]},
            "does not hold 3072 bytes",
        ),
        ({"data": np.full((1, 3072), None), "labels": [1]}, "does not hold 3072 bytes"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": [-1]}, "holds no list of labels"),
        ({"data": np.zeros((1, 3072), np.uint8), "labels": ["1"]}, "holds no list of labels"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_of_other_things(content, message, protocol, tiny, writers, tmp_path, refuse):
    writers["pickled with text keys"](tmp_path, tiny)
    next(tmp_path.rglob("data_batch_1")).write_bytes(pickle.dumps(content, protocol=protocol))
    assert f"data_batch_1 {message}" in refuse("cifar10", tmp_path)
