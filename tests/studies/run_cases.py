"""A run of a moment, three digits and a narrow network, and the comparison of two runs."""

import torch

from normscope.records.run import DURATIONS
from normscope.records.store import reader
from normscope.studies.options import GridOptions
from normscope.studies.spec import Recipe

OPTIONS = GridOptions(
    classes=("3", "8", "9"), norms=("batch",), learning_rates=(0.1,), seeds=1, epochs=3,
    device="cpu",
    precision="fp32", recipe=Recipe(widths=(4, 8, 8), blocks_per_stage=1),
)  # fmt: skip


def ignore(_):
    pass


def contents(directory):
    """All that a run's record holds, except for durations and what it ran on."""
    with reader(directory / "record.sqlite") as store:
        epochs = {
            name: values.tobytes()
            for name, values in store.epochs().items()
            if name not in DURATIONS
        }
        arrays = [(*row[:5], row[5].tobytes()) for row in store.arrays()]
        meta = {key: value for key, value in store.meta().items() if key != "environment"}
        assert store.resume_state() is None
    return epochs, arrays, meta


def weights(directory):
    return torch.load(directory / "weights.pt", weights_only=True)


def assert_same_bits(found, expected, moment=""):
    assert contents(found) == contents(expected), moment
    ours, theirs = weights(found), weights(expected)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items()), moment
