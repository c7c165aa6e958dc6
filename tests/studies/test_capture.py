import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from normscope.records.histogram import LEVELS, LIMIT, load_captures, store_capture
from normscope.records.store import reader, writer
from normscope.studies.capture import BINS, capture, describe, tapped

FLOATS = st.floats(-20, 20, width=32) | st.sampled_from(
    [0.0, -5.0, 5.0, float("nan"), float("inf"), float("-inf")]
)


@settings(deadline=None, max_examples=100)
@given(hnp.arrays(np.float32, st.integers(1, 60), elements=FLOATS))
def test_a_distribution_counts_every_value_once(values):
    found = describe(values)
    finite = values[np.isfinite(values)].astype(np.float64)
    assert found.counts.sum() == found.n == len(finite)
    assert found.non_finite == len(values) - len(finite)
    assert found.counts[0] == (finite < -LIMIT).sum()
    assert found.counts[-1] == (finite > LIMIT).sum()
    width = 2 * LIMIT / BINS
    for value in finite[np.abs(finite) <= LIMIT]:
        bin_ = min(int((value + LIMIT) / width), BINS - 1)
        assert (
            found.counts[1 + max(bin_ - 1, 0) : 3 + bin_].sum() > 0
        )  # its bin, or a neighbour at an edge
    if len(finite):
        assert found.mean == pytest.approx(finite.mean(), rel=1e-6, abs=1e-6)
        assert found.std == pytest.approx(finite.std(), rel=1e-5, abs=1e-5)
        assert found.zeros == (finite == 0).mean()
        np.testing.assert_allclose(
            found.quantiles, np.quantile(finite, LEVELS), rtol=1e-5, atol=1e-5
        )
        assert found.density.sum() * width == pytest.approx(found.counts[1:-1].sum() / len(finite))
        assert found.density[0] == found.density[-1] == 0


def test_taps_see_what_enters_an_in_place_activation_and_come_off():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(inplace=True)).eval()
    x = torch.linspace(-2, 2, 12).reshape(3, 4)
    taps = {"in": (model[1], "input"), "out": (model[1], "output")}
    found = capture(model, [x, x + 1], taps)
    expected = torch.cat([x, x + 1]) / np.sqrt(1 + 1e-5)
    assert found["in"].n == found["out"].n == 24
    assert found["in"].mean == pytest.approx(expected.mean().item(), rel=1e-5)
    assert found["out"].mean == pytest.approx(expected.relu().mean().item(), rel=1e-5)
    assert found["out"].zeros == pytest.approx((expected <= 0).double().mean().item())


def test_taps_come_off_when_the_forward_raises():
    model = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), tapped({"out": (model, "output")}):
        model(torch.zeros(1, 3))
    assert not model._forward_hooks


def test_a_distribution_survives_its_record(tmp_path):
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32) * 3
    distribution = describe(values)
    with writer(tmp_path / "r.sqlite", "run") as store, store.transaction():
        store_capture(store, "block_output", distribution, step=12, epoch=3)
    with reader(tmp_path / "r.sqlite") as store:
        ((key, back),) = load_captures(store).items()
    assert key == ("block_output", 3)
    np.testing.assert_array_equal(back.counts, distribution.counts)
    np.testing.assert_array_equal(back.quantiles, distribution.quantiles)
    assert (back.n, back.non_finite, back.mean, back.std, back.zeros) == (
        distribution.n,
        distribution.non_finite,
        distribution.mean,
        distribution.std,
        distribution.zeros,
    )
