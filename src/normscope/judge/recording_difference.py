"""The difference of two recordings: where they first part, by how much, and how that grows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from normscope.escapes import for_terminal
from normscope.judge.check_formats import filled, text_width
from normscope.records.recording import Recording
from normscope.words import plural

ROUNDING = 16 * float(np.finfo(np.float32).eps)
"""The largest relative distance that is called rounding: a few last places of float32."""

PARAMETERS = ("weight", "bias")
RUNNING = ("running_mean", "running_var", "num_batches_tracked")
MEASURES = ("batch_mean", "batch_var", "sample_std", "weight", "running_mean")
"""A distance between two of these says how far two runs are apart."""

GROWTH = 8
"""Steps at which the distance is shown."""


@dataclass(frozen=True)
class Parting:
    """The first value in which two recordings are not equal to the bit.

    Attributes:
        step: counted from 1.
        layer: its name.
        statistic: that parts first at that step, in the order of a training step.
        distance: the root mean square of the difference, over that of the first recording's values.
        noise: the same distance between two successive records of the first recording, the median
            over its steps; None with fewer than two such distances.
        again: the same distance to a run that is meant to be equal, at that step; None without one.
        rank: of the process that recorded it; None where what all recorded together is compared.
    """

    step: int
    layer: str
    statistic: str
    distance: float
    noise: float | None
    again: float | None
    rank: int | None = None

    @property
    def size(self) -> str:
        """How far apart: "rounding", "within the noise of equal runs", or "more than rounding"."""
        if self.distance <= ROUNDING:
            return "rounding"
        if self.again is not None and self.distance <= self.again:
            return "within the noise of equal runs"
        return "more than rounding"


@dataclass(frozen=True)
class RecordingDifference:
    """Two recordings side by side. It is true if they differ.

    Attributes:
        good, bad: the recordings' names.
        compared: steps that both recorded.
        equal_before: of them, how many are before the first difference; `equal_until`: the last.
        first: where they part; None where every value is equal to the bit.
        growth: (step, largest distance of any layer, that layer) from there on: of the statistic
            that parts first, and of what says how far two runs are apart.
        only_good, only_bad: layers of one alone.
        settings: what the descriptions of the layers differ in, in words.
        left_out: what was not compared, in words: steps and processes of one alone.
    """

    good: str
    bad: str
    compared: int
    equal_before: int
    equal_until: int | None
    first: Parting | None
    growth: tuple[tuple[int, float, str], ...]
    only_good: tuple[str, ...]
    only_bad: tuple[str, ...]
    settings: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.first or self.only_good or self.only_bad or self.settings)

    def json(self) -> str:
        """Return everything as JSON."""
        size = self.first.size if self.first else None
        return json.dumps({"differs": bool(self), "size": size, **asdict(self)}, indent=2)

    def text(self) -> str:
        """Return where they part first, then how the distance grows."""
        lines = [filled(block, text_width()) for block in self.sentences]
        if self.growth:
            lines += ["", f"{'step':>8}  {'distance':>9}  layer that is furthest"]
            lines += [f"{step:>8}  {far:>9.2g}  {layer}" for step, far, layer in self.growth]
        return for_terminal("\n".join(lines))

    @property
    def sentences(self) -> tuple[str, ...]:
        """What differs: the answer first."""
        blocks = [self._sentence()]
        for names, where in ((self.only_bad, self.bad), (self.only_good, self.good)):
            if names:
                blocks.append(f"Only in {where}: {', '.join(names)}.")
        blocks += [f"{words}." for words in (*self.settings, *self.left_out)]
        if self.first is not None:
            blocks.append(self._size())
        return tuple(blocks)

    @property
    def growth_sentence(self) -> str:
        """How far apart the two end, and where most; "" where they part at the last step, or one
        of these distances is not finite.
        """
        if len(self.growth) < 2:
            return ""
        (_, first, _), (step, last, layer) = self.growth[0], self.growth[-1]
        if not np.isfinite([first, last]).all():
            return ""
        grown = f"The largest distance of any layer is {first:.2g} there and {last:.2g} at the end"
        return f"{grown}, at step {step:,} ({layer})."

    def _sentence(self) -> str:
        if not self.compared:
            return "They have no layer and step in common."
        if self.first is None:
            steps = plural(self.compared, "step")
            return f"Equal to the bit in all they both recorded, at {steps}."
        first = self.first
        what = f"layer {first.layer} ({first.statistic.replace('_', ' ')})"
        what += f" of rank {first.rank}" if first.rank else ""
        return f"First difference: step {first.step:,}, {what}{self._before(first.step)}."

    def _before(self, step: int) -> str:
        """Say where the two are equal: what lies between two recorded steps is not known."""
        if self.equal_until is None:
            return ""
        if self.equal_before == step - 1:
            return ", equal to the bit in every step before"
        last, count = f"step {self.equal_until:,}", self.equal_before
        several = f"the {count:,} recorded steps before, the last of them {last}"
        return f", equal to the bit at {last if count == 1 else several}"

    def _size(self) -> str:
        first = self.first
        assert first is not None
        if not np.isfinite(first.distance):
            return (
                f"No distance is given: there the values of {self.good} are 0, or those of one of "
                "the two are not finite."
            )
        words = f"The distance there is {first.distance:.2g} of the values' size: {first.size}."
        if first.noise:
            words += f" From one record to the next this value moves by {first.noise:.2g}."
        if first.again is not None:
            words += f" The equal run is {first.again:.2g} away at that step."
        return words


def difference_of(
    good: Recording, bad: Recording, again: Recording | None = None, *, names: tuple[str, str]
) -> RecordingDifference:
    """Compare two recordings value by value, in the order in which a training step makes them.

    Within a step the parameters come first, as its forward used them; then what the layers
    measured, in the model's order; then the running statistics it left; then gradients, from the
    last layer to the first. Of trainings in as many processes, each process is compared with its
    own: every rank of which both have a file. `again` is a recording that is meant to be equal to
    `good`, for what equal runs differ by.
    """
    layers = [name for name in good.layers if name in bad.layers]
    good, bad = good.snapshot(), bad.snapshot()
    steps: set[int] = set()
    partings: list[tuple[tuple[int, int, int, int], str, str]] = []
    ranks = _common_ranks(good, bad)
    far: dict[str, dict[int, tuple[float, str]]] = {}  # {statistic: {step: the furthest layer}}
    for index, layer in enumerate(layers):
        for rank, statistic, at, one, other in _pairs(good, bad, layer, ranks):
            steps |= {int(step) for step in at}
            unequal = np.flatnonzero(_differ(one, other))
            for row in unequal:
                distance = _distance(one[row], other[row])
                furthest = far.setdefault(statistic, {})
                furthest[int(at[row])] = max(
                    furthest.get(int(at[row]), (-1.0, "")), (distance, layer)
                )
            if len(unequal):
                phase = _phase(statistic)
                order = index if phase < len(_PHASES) - 1 else -index
                key = int(at[unequal[0]]), phase, order, ranks.index(rank)
                partings.append((key, layer, statistic))
    first = None
    if partings:
        (step, _, _, rank), layer, statistic = min(partings)
        first = _parting(good, bad, again, layer, statistic, step, ranks[rank])
    equal = [step for step in steps if first is None or step < first.step]
    return RecordingDifference(
        *names,
        compared=len(steps),
        equal_before=len(equal),
        equal_until=max(equal, default=None),
        first=first,
        growth=_spread(_furthest(far, first)),
        only_good=tuple(name for name in good.layers if name not in bad.layers),
        only_bad=tuple(name for name in bad.layers if name not in good.layers),
        settings=_settings(good, bad, layers),
        left_out=tuple(_left_out(good, bad, names, ranks)),
    )


def _common_ranks(good: Recording, bad: Recording) -> Sequence[int | None]:
    """Return the ranks of which both have a part; [None] for trainings in unequally many."""
    if good.header.world_size != bad.header.world_size:
        return [None]
    return [rank for rank in good.ranks if rank in bad.ranks]


def _left_out(
    good: Recording, bad: Recording, names: tuple[str, str], ranks: Sequence[int | None]
) -> Iterator[str]:
    """Say what only one of them has, or has in another way."""
    ours, theirs = good.header.world_size, bad.header.world_size
    if ours != theirs:
        yield (
            f"{names[0]} is of {plural(ours, 'process', 'processes')}, {names[1]} of {theirs}: "
            "compared is what all of each recorded together"
        )
    elif len(ranks) < ours:
        found = ", ".join(map(str, ranks))
        yield f"Of {ours} processes rank {found} is compared: files of others are missing"
    ends = good.header.cost.steps, bad.header.cost.steps
    if ends[0] != ends[1]:
        yield f"{names[0]} ends at step {ends[0]:,}, {names[1]} at {ends[1]:,}"


def _pairs(
    good: Recording, bad: Recording, layer: str, ranks: Sequence[int | None]
) -> Iterator[tuple[int | None, str, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (rank, statistic, steps, values of one, of the other) that both recordings have."""
    shared = [name for name in good.statistics(layer) if name in set(bad.statistics(layer))]
    for rank, statistic in itertools.product(ranks, shared):
        ours, one = good.query(layer, statistic, rank=rank)
        others, other = bad.query(layer, statistic, rank=rank)
        at, left, right = np.intersect1d(ours, others, return_indices=True)
        if len(at) and one.shape[1:] == other.shape[1:]:
            yield rank, statistic, at, one[left], other[right]


def _differ(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Tell of each row whether a value differs; two NaN are equal."""
    same = (one == other) | ((one != one) & (other != other))
    return ~same.reshape(len(one), -1).all(1)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the root mean square of a difference over that of `one`; infinite where undefined."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    size = np.sqrt(np.mean(one**2))
    with np.errstate(all="ignore"):
        distance = float(np.sqrt(np.mean((one - other) ** 2)) / size)
    return distance if np.isfinite(distance) else float("inf")


_PHASES = (PARAMETERS, (), RUNNING, ())
"""Parameters, measurements of the forward, running statistics, gradients."""


def _phase(statistic: str) -> int:
    if "gradient" in statistic or statistic == "update_ratio":
        return 3
    return {**dict.fromkeys(PARAMETERS, 0), **dict.fromkeys(RUNNING, 2)}.get(statistic, 1)


def _furthest(
    far: dict[str, dict[int, tuple[float, str]]], first: Parting | None
) -> dict[int, tuple[float, str]]:
    """Return the furthest layer of each step: no distance in the table is smaller than the one that
    the text names.
    """
    furthest: dict[int, tuple[float, str]] = {}
    for statistic, steps in far.items():
        if statistic in MEASURES or (first is not None and statistic == first.statistic):
            for step, found in steps.items():
                furthest[step] = max(furthest.get(step, found), found)
    return furthest


def _parting(
    good: Recording, bad: Recording, again: Recording | None, layer: str, statistic: str,
    step: int, rank: int | None,
) -> Parting:  # fmt: skip
    def at(recording: Recording) -> np.ndarray | None:
        if layer not in recording.layers or statistic not in recording.statistics(layer):
            return None
        if rank is not None and rank not in recording.ranks:
            return None
        steps, values = recording.query(layer, statistic, first=step, last=step, rank=rank)
        return values[0] if len(steps) else None

    one, other = at(good), at(bad)
    assert one is not None
    assert other is not None
    equal = None if again is None else at(again)
    values = good.query(layer, statistic, rank=rank)[1]
    moves = [_distance(a, b) for a, b in itertools.pairwise(values)]
    moves = [move for move in moves if np.isfinite(move)]  # a bias begins at 0
    return Parting(
        step,
        layer,
        statistic,
        distance=_distance(one, other),
        noise=float(np.median(moves)) if len(moves) > 1 else None,
        again=None if equal is None else _distance(one, equal),
        rank=rank,
    )


def _spread(far: dict[int, tuple[float, str]]) -> tuple[tuple[int, float, str], ...]:
    """Return at most GROWTH of the steps at which the recordings differ, evenly spread."""
    steps = sorted(far)
    if not steps:
        return ()
    rows = np.linspace(0, len(steps) - 1, GROWTH).round().astype(int)
    return tuple((steps[row], *far[steps[row]]) for row in np.unique(rows))


def _settings(good: Recording, bad: Recording, layers: list[str]) -> tuple[str, ...]:
    """Return in words what the layers' descriptions differ in."""
    found = []
    for layer in layers:
        one, other = good.layers[layer], bad.layers[layer]
        for name in ("type", "kind", "channels", "groups", "eps", "momentum", "trainable"):
            if (ours := getattr(one, name)) != (theirs := getattr(other, name)):
                found.append(f"{layer} has {name} {ours} in one and {theirs} in the other")
    return tuple(found)
