"""Faults that shapes do not show, each beside a healthy network that looks alike."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.commands.check import check
from normscope.commands.loop_check import LoopCheck


def codes(model, batches) -> set[str]:
    return {finding.code for finding in check(model, batches) if finding.severity != "info"}


class Rearranging(nn.Module):
    """What makes features, a change of axes, a batch normalization."""

    def __init__(self, makes, rearrange, norm):
        super().__init__()
        self.makes, self.norm, self.rearrange, self.head = makes, norm, rearrange, nn.Linear(8, 3)

    def forward(self, x):
        h = torch.relu(self.norm(self.rearrange(self.makes(x))))
        return self.head(h.reshape(len(x), 8, -1).mean(2))


def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(16, 1, 6, 6, generator=generator) for _ in range(4)]


def sequences():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(16, 12, 5, generator=generator) for _ in range(4)]


def convolution():
    torch.manual_seed(0)
    return nn.Conv2d(1, 8, 3)  # [N, 8, 4, 4]


def linear():
    torch.manual_seed(0)
    return nn.Linear(5, 8)  # [N, 12, 8]


@pytest.mark.parametrize(
    ("makes", "rearrange", "norm", "batches", "found"),
    [
        (convolution, lambda h: h.reshape(-1, 8), nn.BatchNorm1d(8), images, True),
        (
            convolution,
            lambda h: h.permute(0, 2, 3, 1).reshape(-1, 8),
            nn.BatchNorm1d(8),
            images,
            False,
        ),
        (
            convolution,
            lambda h: h.permute(0, 2, 3, 1).reshape(len(h), 8, 16),
            nn.BatchNorm1d(8),
            images,
            True,
        ),
        (convolution, lambda h: h.flatten(2), nn.BatchNorm1d(8), images, False),
        (convolution, lambda h: h.flatten(1), nn.BatchNorm1d(128), images, False),
        (
            convolution,
            lambda h: h.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2),
            nn.BatchNorm2d(8),
            images,
            False,
        ),
        (
            convolution,
            lambda h: torch.cat(h.chunk(2, 1)[::-1], 1),
            nn.BatchNorm2d(8),
            images,
            False,
        ),
        (
            linear,
            lambda h: F.dropout(F.gelu(h), 0.0).view(len(h), 8, 12),
            nn.BatchNorm1d(8),
            sequences,
            True,
        ),
        (linear, lambda h: h.transpose(1, 2), nn.BatchNorm1d(8), sequences, False),
        (linear, lambda h: h.view(-1, 8), nn.BatchNorm1d(8), sequences, False),
    ],
)
def test_a_reshape_in_place_of_a_transposition(makes, rearrange, norm, batches, found):
    model = Rearranging(makes(), rearrange, norm).train()
    assert ("NS512" in codes(model, batches())) is found


class Branching(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(5, 8), norm, nn.Linear(8, 3)

    def forward(self, x):
        h = self.first(x)
        if float(x.detach().mean()) > 0:
            h = self.norm(h)
        return self.head(torch.relu(h))


@pytest.mark.parametrize(("synchronized", "found"), [(True, True), (False, False)])
def test_a_synchronized_layer_in_a_branch_of_the_data(synchronized, found):
    torch.manual_seed(0)
    norm = nn.SyncBatchNorm(8) if synchronized else nn.BatchNorm1d(8)
    shifts = (1.0, -1.0, 1.0, 1.0)
    batches = [torch.randn(16, 5) + shift for shift in shifts]
    report = check(Branching(norm).train(), batches)
    skipped = [finding for finding in report if finding.code == "NS607"]
    assert bool(skipped) is found
    if found:
        assert (skipped[0].severity, skipped[0].evidence) == ("error", {"ran": 3, "batches": 4})


def critic(norm) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), norm, nn.LeakyReLU(), nn.Linear(8, 1))


def train_critic(model, *, penalty, steps=6) -> LoopCheck:
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    generator = torch.Generator().manual_seed(0)
    with warnings.catch_warnings(), LoopCheck(model, optimizer) as loop:
        warnings.simplefilter("ignore")
        for _ in range(steps):
            x = torch.randn(16, 4, generator=generator).requires_grad_()
            optimizer.zero_grad()
            scores = model(x)
            loss = scores.mean()
            if penalty:
                gradient = torch.autograd.grad(scores.sum(), x, create_graph=True)[0]
                loss = loss + ((gradient.norm(dim=1) - 1) ** 2).mean()
            loss.backward()
            optimizer.step()
    return loop


def test_a_gradient_penalty_through_batch_statistics():
    found = train_critic(critic(nn.BatchNorm1d(8)), penalty=True).findings
    assert [finding.code for finding in found if finding.severity != "info"] == ["NS810"]
    assert found[0].evidence["layers"] == 1
    for norm in (nn.LayerNorm(8), nn.BatchNorm1d(8).eval()):
        assert "NS810" not in {
            finding.code for finding in train_critic(critic(norm), penalty=True).findings
        }


def test_inputs_that_require_gradients_are_no_penalty():
    """Reentrant checkpointing asks for that, for example."""
    assert train_critic(critic(nn.BatchNorm1d(8)), penalty=False).findings == []


class Rows(nn.Module):
    """Normalizes the tokens of all samples as rows of one matrix."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.first(x)
        return self.head(torch.relu(self.norm(h.flatten(0, 1))).view(h.shape).mean(1))


@pytest.mark.parametrize("grouped", [False, True])
def test_tokens_of_one_sample_are_not_independent(grouped):
    """Batches that chance drew alike are no finding, although tokens of a sample resemble one
    another.
    """
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(64, 1, 5, generator=generator).expand(64, 16, 5)
    samples = samples + 0.1 * torch.randn(64, 16, 5, generator=generator)
    if grouped:
        samples = samples + torch.arange(8).repeat_interleave(8)[:, None, None]
    torch.manual_seed(0)
    assert ("NS504" in codes(Rows().train(), list(samples.split(8)))) is grouped


def test_the_bias_before_a_frozen_layer_counts():
    """In eval mode a layer subtracts its running mean, which is none of the bias before it."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    )
    batches = [torch.randn(8, 3, 8, 8) for _ in range(2)]

    def redundant():
        return [found.layer for found in check(model, batches) if found.code == "NS404"]

    assert redundant() == ["1", "4"]
    model[1].eval()
    assert redundant() == ["4"]
