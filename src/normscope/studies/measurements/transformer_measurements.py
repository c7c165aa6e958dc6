"""What goes through a transformer: by depth before the first step, and in the trained network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from normscope.models.transformer import Block, Transformer
from normscope.records.run_description import TRANSFORMERS
from normscope.studies.capture import tapped
from normscope.studies.grid import build_for
from normscope.studies.measurements.run_context import Arrays, RunContext
from normscope.studies.spec import RunSpec
from normscope.training.passes import mean_loss
from normscope.user_models.norm_layers import gain_of, normalization_layers

DEPTHS = (2, 4, 8, 16, 32)
"""Blocks of the networks that are looked at before the first step, whatever the run's are."""

SAMPLES = 16
"""Samples of the training data that go through them."""

GAIN_STEPS, GAIN_RATE = 20, 3e-4
"""Steps of AdamW after which gains should have moved, and their learning rate."""

TEST_SAMPLES = 256

Samples = tuple[Tensor, Tensor]


def is_transformer(spec: RunSpec) -> bool:
    """Return whether the network is one of ours with attention."""
    return spec.model in TRANSFORMERS


def depth_signals(context: RunContext) -> Arrays:
    """Measure before the first step, in fp32 on the CPU, in train mode, on the run's first samples.

    - "depth" and "gradient" [depths]: norm of the gradient of the last feed-forward network's
      second weight, in networks of these depths that are the run's in all else.
    - "stream", "branch" [blocks] of the deepest: variance over a token's values, mean over tokens,
      of the residual stream behind each block and of what its feed-forward branch adds.
    - "moved_bf16", "moved_fp32" [1], where there are gains: share of them that AdamW moves in 20
      steps at a rate of 3e-4, in the run's network in these types; autocast has no part.
    """
    samples = _first_samples(context)
    gradients: list[float] = []
    variances: Arrays = {}
    for number, depth in enumerate(DEPTHS, 1):
        model = build_for(context.dataset, replace(context.spec, depth=depth))
        gradient, variances = _through(model, samples)
        gradients.append(gradient)
        context.progress(number / (len(DEPTHS) + 1))
    depths = np.array(DEPTHS, dtype=np.float64)
    return {"depth": depths, "gradient": np.array(gradients), **variances, **_gains(context)}


def _first_samples(context: RunContext) -> Samples:
    return next(iter(context.batches(SAMPLES).train(context.spec.seed, 1)))


def _blocks(model: nn.Module) -> Sequence[Block]:
    assert isinstance(model, Transformer)
    return [block for block in model.blocks if isinstance(block, Block)]


def _through(model: nn.Module, samples: Samples) -> tuple[float, Arrays]:
    """The last feed-forward gradient's norm, and the variances by block."""
    blocks = _blocks(model)
    with tapped(_taps(blocks)) as taps:
        loss = mean_loss(model(samples[0]), samples[1])
    loss.backward()
    gradient = blocks[-1].feed_forward.down.weight.grad
    assert gradient is not None
    return float(gradient.double().norm()), _variances(taps, len(blocks))


def _taps(blocks: Sequence[Block]) -> dict[str, tuple[nn.Module, str]]:
    taps: dict[str, tuple[nn.Module, str]] = {}
    for index, block in enumerate(blocks):
        end = block.norm2_out if block.placement == "peri" else block.feed_forward
        taps |= {f"stream {index}": (block, "output"), f"branch {index}": (end, "output")}
    return taps


def _variances(taps: dict[str, Tensor], depth: int) -> Arrays:
    return {
        path: np.array([_variance(taps[f"{path} {index}"]) for index in range(depth)])
        for path in ("stream", "branch")
    }


def _variance(x: Tensor) -> float:
    """Mean over tokens of the variance of (N, T, width) over the width."""
    return float(x.double().var(-1, correction=0).mean())


def _gains(context: RunContext) -> Arrays:
    found = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        share = moved_gains(context.fresh().to(dtype), _first_samples(context))
        if share is not None:
            found[f"moved_{name}"] = np.array([share])
    return found


def moved_gains(model: nn.Module, samples: Samples) -> float | None:
    """Train a network for GAIN_STEPS steps on the same samples; return the share of the values of
    its gains that are not what they were, None where it has no gain.
    """
    layers = (model.get_submodule(name) for name in normalization_layers(model))
    gains = [gain for layer in layers if (gain := gain_of(layer)) is not None]
    if not gains:
        return None
    before = [gain.detach().clone() for gain in gains]
    inputs, targets = samples
    inputs = inputs.to(gains[0].dtype) if inputs.is_floating_point() else inputs
    optimizer = torch.optim.AdamW(model.parameters(), lr=GAIN_RATE, weight_decay=0.0)
    for _ in range(GAIN_STEPS):
        optimizer.zero_grad()
        mean_loss(model(inputs), targets).backward()
        optimizer.step()
    moved = [gain.detach() != old for gain, old in zip(gains, before, strict=True)]
    return float(torch.cat(moved).float().mean())


@torch.no_grad()
def hidden_states(context: RunContext) -> Arrays:
    """Measure the trained network in fp32 on the CPU, on up to 256 test samples.

    - "loss" [1]: in eval mode; "loss_of_batches" [1]: the same batches in train mode, in which
      batch normalization takes the statistics of each.
    - "loss_without" [blocks]: in eval mode, with one block left out.
    - "stream", "branch" [blocks]: as of `depth_signals`, in eval mode.
    - "ones" [blocks]: mean over tokens of the squared cosine of the residual stream behind a block
      and a vector of ones, times the width: 1 for directions that are drawn at random.
    """
    model = context.trained()
    batches = context.batches()
    limit = max(1, TEST_SAMPLES // context.spec.batch_size)
    samples = list(islice(batches.test(limit), limit))
    blocks = _blocks(model)
    with tapped(_taps(blocks)) as taps:
        model(samples[0][0])
    streams = [taps[f"stream {index}"] for index in range(len(blocks))]
    return {
        "loss": np.array([_loss(model, samples)]),
        "loss_of_batches": np.array([_loss(copy.deepcopy(model).train(), samples)]),
        "loss_without": np.array(
            [_loss(_without(model, index), samples) for index in range(len(blocks))]
        ),
        "ones": np.array([alignment_with_ones(stream) for stream in streams]),
        **_variances(taps, len(blocks)),
    }


def _loss(model: nn.Module, samples: Sequence[Samples]) -> float:
    """Mean over the samples, nats."""
    losses = [float(mean_loss(model(inputs), targets)) for inputs, targets in samples]
    return float(np.average(losses, weights=[len(targets) for _, targets in samples]))


def _without(model: nn.Module, index: int) -> nn.Module:
    """A copy in which a block passes on what it gets."""
    copied = copy.deepcopy(model)
    assert isinstance(copied, Transformer)
    copied.blocks[index] = nn.Identity()
    return copied


def alignment_with_ones(x: Tensor) -> float:
    """Return the mean squared cosine of the vectors of (..., width) and ones, times the width."""
    x = x.double()
    return float((x.sum(-1).square() / x.square().sum(-1)).mean())
