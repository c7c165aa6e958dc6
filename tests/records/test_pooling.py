"""Parts of several processes, merged, are what one process would have recorded."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from normscope.errors import RecordError
from normscope.judge.history import read_history
from normscope.judge.recording_difference import difference_of
from normscope.records.pooling import (
    copies,
    merge,
    physical_edges,
    pooled_moments,
    pooled_samples,
    pooled_shapes,
)
from normscope.records.recording import Recording, rank_path
from normscope.records.recording_header import Header, LayerInfo, bin_edges
from normscope.records.recording_parts import Batch, FilePart, MemoryPart

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # beside other work
VALUES = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 40), st.integers(1, 3)),
    elements=st.floats(-1e3, 1e3, width=32),
)


@CALM
@given(VALUES, st.lists(st.integers(0, 40), max_size=4))
def test_moments_of_any_split_are_those_of_the_whole(values, cuts):
    parts = np.split(values, sorted(min(cut, len(values)) for cut in cuts))
    n = np.array([len(part) for part in parts])
    mean, variance = pooled_moments(
        n,
        np.array([part.mean(0) if len(part) else part.sum(0) * np.nan for part in parts]),
        np.array([part.var(0) if len(part) else part.sum(0) * np.nan for part in parts]),
    )
    size = np.abs(values).max() + 1
    assert np.allclose(mean, values.mean(0), rtol=0, atol=1e-13 * size)
    assert np.allclose(variance, values.var(0), rtol=0, atol=1e-13 * size**2)


@CALM
@given(VALUES, st.lists(st.integers(0, 40), max_size=3))
def test_shapes_of_any_split_are_those_of_the_whole(values, cuts):
    def shape(part):
        mean, std = part.mean(0), part.std(0)
        scaled = (part - mean) / np.where(std > 0, std, 1)
        return np.stack([mean, std, (scaled**3).mean(0), (scaled**4).mean(0)])

    parts = np.split(values, sorted(min(cut, len(values)) for cut in cuts))
    empty = np.full((4, values.shape[1]), np.nan)
    moments = np.array([shape(part) if len(part) else empty for part in parts])
    n = np.array([np.full(values.shape[1], len(part)) for part in parts])
    size = np.abs(values).max() + 1
    for power, (one, two) in enumerate(
        zip(central(pooled_shapes(n, moments)), central(shape(values)), strict=True), 1
    ):
        assert np.allclose(one, two, rtol=0, atol=1e-12 * size**power)


def central(shapes):
    """Mean and central moments: a ratio to a deviation of nearly nothing has no digits."""
    mean, std, skewness, kurtosis = shapes
    return mean, std**2, skewness * std**3, kurtosis * std**4


@CALM
@given(VALUES, st.integers(0, 40))
def test_distributions_over_samples_are_those_of_the_whole(values, cut):
    def moments(part):
        if not len(part):
            return np.full((4, values.shape[1]), np.nan)
        return np.stack([part.mean(0), part.std(0), part.min(0), part.max(0)])

    parts = np.split(values, [min(cut, len(values))])
    found = pooled_samples(np.array([len(p) for p in parts]), np.array([*map(moments, parts)]))
    # the deviation is a square root: near nothing it has half the digits
    size = np.abs(values).max() + 1
    assert np.allclose(found[[0, 2, 3]], moments(values)[[0, 2, 3]], rtol=0, atol=1e-13 * size)
    assert np.allclose(found[1] ** 2, values.var(0), rtol=0, atol=1e-13 * size**2)


@CALM
@given(VALUES, st.lists(st.integers(0, 40), max_size=3))
def test_histograms_of_any_split_hold_each_value_within_its_bin(values, cuts):
    parts = [part for part in np.split(values, sorted(cuts)) if len(part)]
    counts, frames = [], []
    edges = np.concatenate([[-np.inf], bin_edges(), [np.inf]])
    for part in parts:
        mean, std, one = part.mean(0), part.std(0) + 1e-3, np.ones(part.shape[1])
        scaled = ((part - mean) / std).T
        counts.append([np.histogram(channel, edges)[0] for channel in scaled])
        frames.append([mean, std, one, 0 * one, part.min(0), part.max(0)])
    counts, frames = np.array(counts), np.array(frames)
    merged, below = merge(counts, frames, "input", 20)
    fine = physical_edges(frames, "input")
    assert np.allclose(below.sum(1), len(values), rtol=1e-6)
    for channel, limits in enumerate(merged):
        for limit, found in zip(limits[1:], below[channel].cumsum(), strict=True):
            cut = fine[:, channel]
            inside = (cut[:, :-1] < limit + 1e-6) & (cut[:, 1:] > limit - 1e-6)
            open_bins = counts[:, channel][inside].sum()
            assert abs(found - (values[:, channel] < limit).sum()) <= open_bins + 1e-3


@pytest.mark.parametrize(
    ("widths", "count"),
    [((3, 3), 1), ((4, 2, 0), 1), ((6, 6), 2), ((3, 3, 3, 3), 2), ((4, 2, 0, 4, 2, 0), 2),
     ((6, 3, 3), 2), ((3,), 0), ((0, 0), 0)],
)  # fmt: skip
def test_shards_stand_side_by_side_as_often_as_there_are_copies(widths, count):
    whole, steps, start, parts = np.arange(12.0).reshape(2, 6), np.array([1, 2]), 0, []
    for width in widths:
        parts.append((steps, whole[:, start : start + width]))
        start = (start + width) % 6
    found = copies(parts, 6)
    assert len(found) == count
    assert all(np.array_equal(values, whole) for _, values in found)


def recording(*parts, steps=(1, 2, 3), stride=1):
    """One of as many processes as there are parts, each {statistic: values [C] or a number}."""
    layer = LayerInfo("n", type="LayerNorm", kind="layer", channels=4, channel_stride=stride)
    made = []
    for rank, part in enumerate(parts):
        ends = part.pop("steps", steps)
        header = Header("M", "forward", {}, [layer], {}, "cpu", rank, len(parts))
        held = MemoryPart(header)
        table = {
            ("n", name): np.stack(
                [np.asarray(value(s) if callable(value) else value) for s in ends]
            )
            for name, value in part.items()
        }
        header.cost.steps = max(ends)
        held.write(Batch(header, [(np.array(ends), table)]))
        made.append(held)
    return Recording(made)


def test_a_layer_is_told_by_the_processes_that_called_it():
    stale, trained = np.zeros(4), np.ones(4)
    found = recording(
        {"weight": stale},
        {"weight": trained, "values_per_channel": 2, "batch_mean": trained, "batch_var": trained},
    )
    assert found.ranks_of("n") == [1]
    assert found.query("n", "weight")[1].tolist() == [[1] * 4] * 3
    assert "batch_mean" in found.statistics("n")
    assert read_history(found).layers[0].rank_gains_apart_at is None


def test_the_stream_of_all_processes_is_read():
    """The logits that explode in the second process alone are seen."""
    called = {"values_per_channel": 2}
    found = recording(
        {**called, "stream": (3, 9, 3, 0.2), "attention": (5, 0.5), "token_cosine": 0.2},
        {**called, "stream": (4, 8, 5, 0.4), "attention": (200, 0.1), "token_cosine": 0.4},
        dict(called),
    )
    means = {name: found.query("n", name)[1][-1] for name in ("stream", "attention")}
    assert means["stream"] == pytest.approx((12.5**0.5, 9.0, 4.0, 0.3))
    assert means["attention"] == pytest.approx((200.0, 0.3))
    assert found.query("n", "token_cosine")[1] == pytest.approx(np.full(3, 0.3))
    assert found.query("n", "stream", rank=0)[1][0] == pytest.approx((3.0, 9.0, 3.0, 0.2))


def test_a_process_without_a_piece_of_a_gain_leaves_it_whole():
    called = {"values_per_channel": 2}
    found = recording(called | {"weight_gradient": np.ones(3)}, called | {}, called)
    assert found.query("n", "weight_gradient")[1].shape == (3, 3), "not whole: what is there"
    found = recording(called | {"bias": np.ones(3)}, called | {"bias": np.zeros(1)}, called | {})
    assert found.query("n", "bias")[1].tolist() == [[1, 1, 1, 0]] * 3


def test_ranks_whose_copies_part_are_named_with_the_first_step():
    called = {"values_per_channel": 2, "bias": np.zeros(4)}
    found = recording(
        called | {"weight": np.ones(4)},
        called | {"weight": lambda step: np.array([1, 1, 1, 1 + 1e-7 * (step >= 2)], np.float32)},
    )
    (layer,) = read_history(found).layers
    assert layer.rank_gains_apart_at == 2
    shards = recording(called | {"weight": np.ones(2)}, called | {"weight": np.zeros(2)})
    assert read_history(shards).layers[0].rank_gains_apart_at is None
    every_other = [called | {"weight": np.full(1, rank)} for rank in range(2)]
    assert read_history(recording(*every_other, stride=2)).layers[0].rank_gains_apart_at is None


@pytest.mark.parametrize("apart", [True, False])
def test_copies_that_are_sharded_are_compared_whole(apart):
    """Two groups of two processes, as a mesh of replicas and shards has them."""
    halves = [{"weight": np.full(2, rank % 2), "values_per_channel": 2} for rank in range(4)]
    if apart:
        halves[3]["weight"] = lambda step: np.array([1, 1 + (step == 3)])
    found = recording(*halves)
    assert found.query("n", "weight")[1].tolist() == [[0, 0, 1, 1]] * 3
    assert read_history(found).layers[0].rank_gains_apart_at == (3 if apart else None)


def test_processes_that_end_after_different_steps_are_not_compared_step_by_step():
    """With uneven inputs a step's number is not that of the same step; a killed one's is."""
    part = {"weight": lambda step: np.full(4, step), "values_per_channel": 2}
    found = recording(dict(part), part | {"steps": (2, 3, 4), "weight": np.ones(4)})
    assert read_history(found).layers[0].rank_gains_apart_at == 2
    for each in found.parts:
        each.header.complete = True
    assert read_history(found).layers[0].rank_gains_apart_at is None


def difference(good, bad):
    return difference_of(good, bad, names=("good", "bad"))


@pytest.mark.parametrize("statistic", ["weight", "running_mean", "histogram"])
def test_each_process_is_compared_with_its_own(statistic):
    part = {"values_per_channel": 2, statistic: np.ones(4)}
    moved = part | {statistic: lambda step: np.full(4, 1 + (step == 2))}
    found = difference(recording(dict(part), dict(part)), recording(dict(part), moved))
    assert (found.first.step, found.first.statistic, found.first.rank) == (2, statistic, 1)
    assert "of rank 1, equal to the bit in every step before" in found.text()
    assert not difference(recording(dict(part), moved), recording(dict(part), dict(moved)))


def test_what_was_not_compared_is_said():
    means = {"values_per_channel": 2, "batch_var": np.ones(4)}
    ranks = [means | {"batch_mean": np.full(4, rank)} for rank in range(2)]
    both, alone = recording(*map(dict, ranks)), recording(*map(dict, ranks))
    del alone.parts[1]
    found = difference(both, alone)
    assert not found, "pooled means of two processes are not those of one of them"
    assert "Of 2 processes rank 0 is compared" in found.text()
    one = recording(means | {"batch_mean": np.full(4, 0.5), "steps": (1, 2)})
    text = difference(both, one).text()
    assert "First difference: step 1, layer n (batch var)" in text
    assert "good is of 2 processes, bad of 1" in text
    assert "good ends at step 3, bad at 2" in text


def test_what_all_processes_say_is_said_once():
    found = recording({"weight": np.ones(4)}, {"weight": np.ones(4)})
    for part in found.parts:
        part._events.append({"step": 1, "epoch": None, "kind": "note", "layer": "", "detail": "x"})
    assert found.notes == ["x"]


def test_a_process_that_ended_early_is_said_and_nothing_is_pooled_beyond_it():
    part = {"values_per_channel": 2, "batch_mean": np.ones(4), "batch_var": np.ones(4)}
    found = recording(dict(part), part | {"steps": (1, 2)})
    assert found.query("n", "batch_mean")[0].tolist() == [1, 2]
    assert "rank 1 up to step 2, others up to 3" in found.notes[0]


def test_a_torn_part_is_named(tmp_path):
    path = tmp_path / "r.sqlite"
    layer = LayerInfo(name="n", type="LayerNorm", kind="layer")
    for rank in (0, 1):
        FilePart(rank_path(path, rank), Header("M", "forward", {}, [layer], {}, "cpu", rank, 2))
    torn = rank_path(path, 1)
    torn.write_bytes(torn.read_bytes()[:3000])
    with pytest.raises(RecordError, match=r"r\.rank1\.sqlite"):
        Recording.load(path)
