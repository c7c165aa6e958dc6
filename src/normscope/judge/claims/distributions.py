"""C4xx, C7xx: with normalization activations stay near N(0, 1), and where they have a slope."""

from __future__ import annotations

import numpy as np
from scipy import special

from normscope.judge.activation_regions import active_region
from normscope.judge.claim import Claim, SecondaryMetric
from normscope.judge.evidence.cells import GridCell
from normscope.judge.evidence.literature import BLOG, NOTEBOOK
from normscope.judge.evidence.quantities import captured
from normscope.records.histogram import LEVELS, LIMIT, Histogram

POINTS = 4001
"""Points of the integral. The histogram's bins, 0.125 wide, limit the accuracy far more."""


def cumulative(captured: Histogram, x: np.ndarray) -> np.ndarray:
    """Share of the values up to x, float64 like x.

    Linear inside a bin; exact zeros, which a ReLU makes, are a step at 0. Beyond the histogram what
    is left falls exponentially between the stored quantiles, down to half a value at the extremes.
    """
    counts, n = captured.counts.astype(np.float64), max(captured.n, 1)
    edges, zeros = captured.edges[1:-1], captured.zeros * n
    inside = counts[1:-1].copy()
    home = min(int(np.searchsorted(edges, 0.0, side="right")) - 1, len(inside) - 1)
    inside[home] = max(inside[home] - zeros, 0.0)
    below = (counts[0] + np.concatenate([[0.0], np.cumsum(inside)])) / n
    share = np.interp(x, edges, below) + zeros / n * (x >= 0)
    levels = np.asarray(LEVELS)
    low, high = counts[0] / n, counts[-1] / n
    left, right = x < -LIMIT, x > LIMIT
    share[left] = _tail(-x[left], low, -captured.quantiles[::-1], levels[::-1], n)
    share[right] = 1 - _tail(x[right], high, captured.quantiles, 1 - levels, n)
    return share


def _tail(
    x: np.ndarray, mass: float, quantiles: np.ndarray, remaining: np.ndarray, n: float
) -> np.ndarray:
    """Share of the values beyond x, for x above the limit, where `mass` is beyond it."""
    if mass == 0:
        return np.zeros_like(x)
    beyond = (quantiles > LIMIT) & (remaining < mass)
    places = np.concatenate([[LIMIT], quantiles[beyond]])
    logs = np.log(np.maximum(np.concatenate([[mass], remaining[beyond]]), 0.5 / n))
    return np.where(x > places[-1], 0.0, np.exp(np.interp(x, places, logs)))


def to_normal(captured: Histogram) -> float:
    """Wasserstein-1 distance to N(0, 1): the mean distance that values move; in the unit of the
    values.
    """
    reach = max(8.0, float(np.abs(captured.quantiles).max()))
    x = np.linspace(-reach, reach, POINTS)
    return float(np.trapezoid(np.abs(cumulative(captured, x) - special.ndtr(x)), x))


def between(first: Histogram, second: Histogram) -> float:
    """Wasserstein-1 distance between two distributions, in the unit of their values."""
    reach = max(LIMIT, *(float(np.abs(one.quantiles).max()) for one in (first, second)))
    x = np.linspace(-reach, reach, POINTS)
    return float(np.trapezoid(np.abs(cumulative(first, x) - cumulative(second, x)), x))


NEEDS = (
    "finished runs with {norm} and {reference} at equal settings, with activations captured at two "
    "epochs or more"
)


def distance_to_normal(cell: GridCell, tensor: str) -> float | None:
    """Mean over the captured epochs of the Wasserstein distance to N(0, 1)."""
    captures = captured(cell, tensor)
    return float(np.mean([to_normal(each) for each in captures])) if captures else None


class _Distribution(Claim):
    unit = "times"
    higher_supports = False
    needs = NEEDS
    where_both_learn = True
    margin = 1.25


class NormalizedTensorNearNormal(_Distribution, code="C401"):
    """What a batch normalization layer puts out stays nearer to N(0, 1) than without it.

    This is the tensor that the layer makes; "near N(0, 1)" can only be meant of it. It is measured
    after the layer's weight and bias, in eval mode, on test images. Without normalization, the
    tensor at the same place. How near is near is for the reader: the distances of both arms are
    shown. As a ratio, since the distance has no upper end and one seed that is far off would hide
    the others in a difference.

    Quantity: Wasserstein distance of the first normalized tensor of the first stage to N(0, 1), in
        its standard deviations, mean over captures
    Contradicted: what the normalization puts out is farther from N(0, 1) {with_norm}
    """

    source = BLOG

    def value(self, cell: GridCell) -> float | None:
        return distance_to_normal(cell, "normalized")


class NoDrift(_Distribution, code="C403"):
    """With batch normalization the distribution of the first stage's output drifts less during
    training.

    How far values move between the first and the last captured epoch, as a multiple of their spread
    at the first: without a unit, or the arm with the smaller activations would win by their size.
    All channels are one distribution here: shifts of channels against each other are not seen.

    Quantity: Wasserstein distance of the block output between first and last capture, over its
        first spread
    Contradicted: the output of the first stage drifts more {with_norm}
    """

    source = NOTEBOOK
    also = (
        SecondaryMetric(
            "the same of the normalized tensor", "times", lambda cell: drift(cell, "normalized")
        ),
    )

    def value(self, cell: GridCell) -> float | None:
        return drift(cell, "block_output")


def drift(cell: GridCell, tensor: str) -> float | None:
    """Distance between the first and the last capture over the first one's standard deviation."""
    captures = captured(cell, tensor, least=2)
    if captures is None or captures[0].std == 0:
        return None
    return between(captures[0], captures[-1]) / captures[0].std


class NoWidening(_Distribution, code="C404"):
    """With batch normalization the distribution of the first stage's output widens less during
    training.

    The last captured spread over the first one, of all channels as one distribution. Both may
    shrink: whether one widens is in the values of the arms.

    Quantity: standard deviation of the block output at the last capture over that at the first
    Contradicted: the output of the first stage widens more {with_norm}
    """

    source = NOTEBOOK

    def value(self, cell: GridCell) -> float | None:
        captures = captured(cell, "block_output", least=2)
        return captures[-1].std / captures[0].std if captures and captures[0].std > 0 else None


JUDGED = ("relu", "sigmoid", "tanh")
"""The activation functions that the claim is made of."""


class InputsInTheActiveRegion(Claim, code="C701"):
    """Batch normalization keeps the inputs of activation functions in the region where these have a
    slope.

    A unit outside its active region passes next to no gradient on. The tensor is what enters the
    last activation of the first stage (in a residual block: after the addition), on test images in
    eval mode. A network that learns nothing for want of a slope is left out with the others that
    learn nothing: C201 is where that counts.

    Quantity: share of activation inputs where the slope is at least a quarter of the largest, in
        percent
    Needs: finished runs with {norm} and {reference}, activation relu, sigmoid or tanh, with
        captured activations
    Contradicted: fewer values lie where the activation has a slope {with_norm}
    """

    source = BLOG
    networks = "convolutional"
    unit = "points"
    higher_supports = True
    across = ("activation",)
    margin = 2.0
    where_both_learn = True

    def value(self, cell: GridCell) -> float | None:
        captures = captured(cell, "before_activation")
        activation = cell.run.spec.get("activation", "")
        if captures is None or activation not in JUDGED:
            return None
        ((start, end),) = active_region(activation)
        ends = np.array([np.nextafter(start, np.inf), min(end, 1e30)])
        low, high = cumulative(captures[-1], ends)
        return 100 * float(high - low)
