"""Watching our transformers: every norm of them is recorded, those of queries and keys too."""

import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from normscope.commands.watch import watch
from normscope.errors import NormscopeWarning
from normscope.models.transformer import ByteDecoder
from normscope.user_models.norm_layers import normalization_layers

WIDTH, HEADS, TOKENS = 12, 2, 16


def recorded(norm):
    """Two steps of a small decoder, and what entered its first normalization at the last."""
    model = ByteDecoder(
        norm, context=TOKENS, depth=1, width=WIDTH, heads=HEADS, placement="peri", qk_norm=True
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    entered = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", NormscopeWarning)
        with watch(model, every=1, histograms_every=1, gradients_every=1) as watcher:
            for _ in range(2):
                tokens = torch.randint(0, 256, (8, TOKENS + 1))
                with torch.no_grad():
                    embedded = model.embed(tokens[:, :-1]) + model.positions.weight
                    entered.append(embedded.double().numpy())
                optimizer.zero_grad()
                logits = model(tokens[:, :-1])
                F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
                optimizer.step()
            return model, watcher.recording, entered[-1]


@pytest.mark.parametrize("norm", ["layer", "layer-1p", "rms", "rms-1p", "batch"])
def test_every_norm_is_recorded_by_what_it_does(norm):
    model, recording, entered = recorded(norm)
    layers = normalization_layers(model)
    assert set(recording.layers) == set(layers)
    assert len(layers) == 4 + 2 + 1
    for name in layers:
        head = "query" in name or "key" in name
        assert recording.layers[name].channels == (WIDTH // HEADS if head else WIDTH), name
        assert np.isfinite(recording.query(name, "histogram")[1]).all(), name
    kind = "batch" if norm == "batch" else norm.partition("-")[0]
    assert recording.layers["blocks.0.norm1"].kind == kind
    if norm == "batch":
        _, mean = recording.query("blocks.0.norm1", "batch_mean")
        np.testing.assert_allclose(mean[-1], entered.mean((0, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["dyt", "derf"])
def test_a_pointwise_function_is_no_normalization(norm):
    _, recording, _ = recorded(norm)
    assert set(recording.layers) == {
        "blocks.0.attention.query_norm", "blocks.0.attention.key_norm"
    }  # fmt: skip
