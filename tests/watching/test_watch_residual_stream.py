"""The residual stream beside the norms: which sums it is, its numbers; and that nothing moves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import normscope
from normscope.errors import NormscopeWarning
from normscope.models.resnet import SmallResNet
from normscope.models.transformer import ByteDecoder, VisionTransformer
from normscope.records.recording import Recording
from normscope.show.shown_recording import summary
from normscope.watching.stream_measures import (
    attention_statistics,
    sampled_tokens,
    stream_statistics,
    token_cosine,
)


def images(step: int) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(step)
    return torch.randn(4, 3, 16, 16, generator=chance), torch.arange(4)


def trained(model: nn.Module, stream: bool | None, steps: int = 2, data=images, layers=None):
    """Return (losses, parameters, recording or None) of a few steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    watcher = None
    if stream is not None:
        watcher = normscope.watch(
            model, layers=layers, optimizer=optimizer, stream=stream, every=1, histograms_every=1
        )
    losses = []
    for step in range(steps):
        x, y = data(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(_logits(model(x)).flatten(0, -2), y.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if watcher is not None:
        watcher.close(quiet=True)
    recording = None if watcher is None else watcher.recording
    return losses, [p.detach().clone() for p in model.parameters()], recording


def _logits(output) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def beside(recording: Recording | None, statistic: str = "stream") -> list[str]:
    assert recording is not None
    return [name for name in recording.layers if statistic in recording.statistics(name)]


def vit(**options) -> nn.Module:
    torch.manual_seed(0)
    return VisionTransformer(depth=2, width=16, heads=2, image_size=16, **options)


def resnet(**options) -> nn.Module:
    torch.manual_seed(0)
    return SmallResNet("batch", 3, 10, **options)


PRE = ["blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "norm"]
POST = ["blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2"]
BLOCKS = [f"layer{stage}.{block}.bn2" for stage in (1, 2, 3) for block in (0, 1)]


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (vit, PRE),
        (lambda: vit(qk_norm=True), PRE),  # rotary-like sums and the norms of queries are no stream
        (lambda: vit(placement="post"), POST),
        (resnet, BLOCKS),
    ],
)
def test_the_stream_is_found_and_no_bit_moves(make, where):
    losses, parameters, recording = trained(make(), True)
    plain_losses, plain, _ = trained(make(), None)
    assert losses == plain_losses
    assert all(map(torch.equal, parameters, plain))
    assert beside(recording) == where
    assert not {"NS811", "NS812", "NS813", "NS814"} & set(
        normscope.check(make(), recording=recording).codes
    )
    assert beside(trained(make(), False)[2]) == []


def test_rotary_embeddings_of_a_language_model_are_no_stream():
    torch.manual_seed(0)
    model = ByteDecoder(depth=1, width=16, heads=2, positions="rotary")
    text = torch.arange(24).reshape(2, 12) % 7
    _, _, recording = trained(model, True, data=lambda _: (text, text))
    assert beside(recording) == ["blocks.0.norm2", "norm"]
    assert beside(recording, "attention")


class Written(nn.Module):
    """A block whose sums are written in some way, then a normalization that reads the last one."""

    def __init__(self, combine):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one, self.two = (nn.Linear(8, 8) for _ in range(3))
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.first, self.last, self.head = nn.LayerNorm(8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.combine, self.seen = combine, torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.combine(self, self.stem(x))
        self.seen = h.detach()
        return self.head(self.last(h)).mean(1)


class HandedOn(torch.autograd.Function):
    """What FSDP puts between its modules: the value as it is."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@pytest.mark.parametrize(
    ("combine", "found"),
    [
        (lambda m, h: HandedOn.apply(h + m.one(m.first(h))), True),
        (lambda m, h: 0.7 * h + 0.5 * m.one(m.first(h)), True),
        (lambda m, h: h / 2 + m.one(m.first(h)), True),
        (lambda m, h: m.scale * h + m.one(m.first(h)), True),
        (lambda m, h: h + m.one(m.first(h)) + m.two(m.first(h)), True),
        (lambda m, h: h * m.one(h).sigmoid() + m.two(m.first(h)), False),
        (lambda m, h: m.one(m.first(h)) + m.two(m.first(h)), False),
    ],
    ids=[
        "handed on",
        "scaled",
        "divided",
        "by a parameter",
        "of parallel branches",
        "gated",
        "of two branches",
    ],
)
def test_sums_however_they_are_written(combine, found):
    model = Written(combine)
    _, _, recording = trained(
        model,
        True,
        steps=1,
        data=lambda _: (torch.arange(120.0).sin().view(3, 5, 8), torch.arange(3)),
    )
    assert ("last" in beside(recording)) is found
    if found:
        size = recording.query("last", "stream")[1][0, 0]
        assert size == pytest.approx(model.seen.square().mean().sqrt().item(), rel=1e-5)


class Residual(nn.Module):
    """One block whose only sum a test can compute itself."""

    def __init__(self):
        super().__init__()
        self.branch, self.norm, self.head = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.stem, self.seen = nn.Linear(8, 8), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x) + torch.ones(8)  # an addition, but not a residual one
        h = h + F.gelu(self.branch(h))
        self.seen = h.detach()
        return self.head(self.norm(h)).mean(1)


def test_the_numbers_are_those_of_a_slow_reference():
    torch.manual_seed(0)
    model = Residual()
    x = 3 * torch.randn(3, 5, 8)
    gain = model.norm.weight.detach().clone()
    _, _, recording = trained(model, True, steps=1, data=lambda _: (x, torch.arange(3)))
    assert recording is not None
    seen = model.seen.double().numpy()
    _, values = recording.query("norm", "stream")
    fourth = ((seen - seen.mean()) ** 4).mean() / seen.var() ** 2
    energy = (seen**2).sum((0, 1))
    expected = [math.sqrt((seen**2).mean()), abs(seen).max(), fourth, energy.max() / energy.sum()]
    np.testing.assert_allclose(values[0], expected, rtol=1e-5)
    cosines = [
        seen[n, i] @ seen[n, j] / np.linalg.norm(seen[n, i]) / np.linalg.norm(seen[n, j])
        for n in range(3) for i in range(5) for j in range(5) if i != j
    ]  # fmt: skip
    np.testing.assert_allclose(
        recording.query("norm", "token_cosine")[1][0], np.mean(cosines), rtol=1e-4
    )
    change = (model.norm.weight.detach() - gain).double().square().mean().sqrt()
    ratio = change / gain.double().square().mean().sqrt()
    np.testing.assert_allclose(
        recording.query("norm", "update_ratio")[1][0], ratio.item(), rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["plain", "causal", "boolean", "added", "shared keys"])
def test_attention_against_a_slow_reference(kind):
    torch.manual_seed(1)
    query = 4 * torch.randn(1, 4, 6, 8)
    key = 4 * torch.randn(1, 2 if kind == "shared keys" else 4, 6, 8)
    mask = {"boolean": torch.rand(6, 6) > 0.5, "added": torch.randn(1, 1, 6, 6)}.get(kind)
    if kind == "boolean":
        assert mask is not None
        mask[0] = False  # a query that may look at nothing
    got = attention_statistics(query, key, mask, causal=kind == "causal", scale=None)
    largest, shares = -math.inf, []
    for head in range(4):
        keys = key[0, head * key.shape[1] // 4].double()
        for row, q in enumerate(query[0, head].double()):
            logits = keys @ q / math.sqrt(8)
            seen = torch.arange(6) <= (row if kind == "causal" else 6)
            if kind == "boolean" and mask is not None:
                seen = mask[row]
            if not seen.any():
                continue
            largest = max(largest, logits[seen].max().item())
            added = (
                mask[0, 0, row].double()
                if kind == "added" and mask is not None
                else torch.zeros(6).double()
            )
            if seen.sum() > 1:
                p = (logits + added)[seen].softmax(0)
                shares.append((-(p * p.log()).sum() / math.log(int(seen.sum()))).item())
    np.testing.assert_allclose(got.numpy(), np.array([largest, np.mean(shares)]), rtol=1e-4)


@pytest.mark.parametrize("shape", [(9, 500, 4), (9, 4, 30, 30), (700, 4), (2, 1, 4)])
def test_samples_are_bounded_and_begin_with_the_first_token(shape):
    values = torch.arange(math.prod(shape)).reshape(shape) * 1.0
    tokens = sampled_tokens(values, 1 if len(shape) == 4 else -1)
    assert tokens.shape[0] <= 4
    assert tokens.shape[1] <= 64
    assert tokens.shape[2] == 4
    first = values[0, :, 0, 0] if len(shape) == 4 else values.reshape(-1, 4)[0]
    assert torch.equal(tokens[0, 0], first)


def test_a_stream_of_zeros_has_finite_statistics():
    zeros = torch.zeros(1, 3, 4)
    assert torch.isfinite(stream_statistics(zeros)).all()
    assert token_cosine(zeros) == 0


def test_what_is_not_seen_is_said_by_name():
    torch.manual_seed(0)
    attention = type("FooAttention", (nn.Linear,), {})(8, 3)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), attention)
    with pytest.warns(NormscopeWarning) as caught:
        trained(model, True, steps=1, data=lambda _: (torch.randn(3, 8), torch.arange(3)))
    text = " ".join(str(each.message) for each in caught)
    assert "No residual sum was recognized" in text
    assert "Of 1 attention (2) the logits of 0 are recorded" in text


class Attention(nn.Module):
    """Four heads, written in one of several ways; keeps its queries and keys."""

    def __init__(self, form: str):
        super().__init__()
        self.form, self.norm, self.qkv = form, nn.LayerNorm(16), nn.Linear(16, 48)
        self.module = nn.MultiheadAttention(16, 4, batch_first=True)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        x, (batch, tokens, _) = 6 * self.norm(x), x.shape
        if self.form.startswith("module"):
            weight, bias = self.module.in_proj_weight[:32], self.module.in_proj_bias[:32]
            made = F.linear(x, weight, bias).detach().view(batch, tokens, 2, 4, 4)
            self.seen = list(made.permute(2, 0, 3, 1, 4))
            hidden = hides(tokens)
            return self.module(x, x, x, attn_mask=hidden, need_weights="fast" not in self.form)[0]
        q, k, v = self.qkv(x).view(batch, tokens, 3, 4, 4).permute(2, 0, 3, 1, 4)
        self.seen = [q.detach(), k.detach()]
        return WRITTEN[self.form](q, k, v, hides(tokens)).transpose(1, 2).flatten(2)


def hides(tokens: int) -> Tensor:
    return torch.full((tokens, tokens), -torch.inf).triu(1)


def _with_numbers(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    scores = (q / 2) @ k.transpose(2, 3) + hidden.clamp_min(torch.finfo(q.dtype).min)
    return F.softmax(scores, dim=-1, dtype=torch.float32) @ v


def _in_place(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k)
    scores *= 0.5
    scores[:, :, hidden < 0] = -1e4
    return torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v)


def _flat(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
    q, k, v = (part.flatten(0, 1) for part in (q, k, v))
    scores = torch.baddbmm(torch.where(hidden < 0, -1e9, 0.0).expand(len(q), -1, -1), q, k.mT,
                           alpha=0.5)  # fmt: skip
    return torch.bmm(nn.Softmax(dim=2)(scores), v).unflatten(0, (-1, 4))


WRITTEN = {
    "numbers": _with_numbers,
    "in place": _in_place,
    "flat": _flat,
    "function": lambda q, k, v, hidden: F.scaled_dot_product_attention(q, k, v, hidden),
    "causal": lambda q, k, v, _: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "one batch": lambda q, k, v, hidden: F.scaled_dot_product_attention(
        q, k[:1], v[:1], hidden == 0
    ),
}


@pytest.mark.parametrize("form", [*WRITTEN, "module", "module, fast"])
def test_attentions_however_they_are_written(form):
    def made() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(Attention(form), nn.Linear(16, 3))

    def data(step: int) -> tuple[Tensor, Tensor]:
        return torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(step)), torch.zeros(
            7
        ).long()

    losses, parameters, recording = trained(model := made(), True, steps=1, data=data)
    plain_losses, plain, _ = trained(made(), None, steps=1, data=data)
    assert losses == plain_losses
    assert all(map(torch.equal, parameters, plain))
    assert recording is not None
    assert not [note for note in recording.notes if "attention" in note]
    q, k = (part.double() for part in model[0].seen)
    logits = q @ k.mT / 2 + hides(7).double()
    chance = logits.softmax(-1)
    entropy = -torch.special.xlogy(chance, chance).sum(-1)[..., 1:]
    shares = entropy / torch.arange(2.0, 8.0).log()
    expected = [logits.max().item(), shares.mean().item()]
    np.testing.assert_allclose(recording.query("0.norm", "attention")[1][0], expected, rtol=1e-5)


def test_a_softmax_of_a_classifier_is_no_attention():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3), nn.Softmax(-1))
    text = torch.randn(2, 5, 8), torch.zeros(10).long()
    assert beside(trained(model, True, data=lambda _: text)[2], "attention") == []


def test_a_compiled_model_shows_its_stream_in_the_probe():
    compiled: Any = torch.compile(vit(), backend="eager")
    _, parameters, recording = trained(compiled, True)
    unwatched: Any = torch.compile(vit(), backend="eager")
    _, plain, _ = trained(unwatched, None)
    assert all(map(torch.equal, parameters, plain))
    assert beside(recording) == PRE
    assert beside(recording, "attention")


def test_compiled_behind_watch_a_model_keeps_its_graph():
    """A function mode around the compiler's first look at a forward would be traced, too."""
    graphs: list[list[str]] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    def train(watched: bool) -> tuple[list[Tensor], Recording | None]:
        torch.manual_seed(0)
        torch._dynamo.reset()
        graphs.clear()
        model = Residual()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        options = {"every": 1, "histograms_every": 1, "stream": True}
        watcher = normscope.watch(model, optimizer=optimizer, **options) if watched else None
        compiled: Any = torch.compile(model, backend=backend)
        for step in range(2):
            with torch.no_grad():
                compiled(torch.ones(2, 5, 8))
            x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(step))
            compiled(x).square().sum().backward()
            optimizer.step()
        if watcher is not None:
            watcher.close(quiet=True)
        parameters = [p.detach().clone() for p in model.parameters()]
        return parameters, None if watcher is None else watcher.recording

    plain, _ = train(False)
    unwatched = list(graphs)
    parameters, recording = train(True)
    assert graphs == unwatched
    assert all(map(torch.equal, parameters, plain))
    assert beside(recording) == ["norm"]


def test_tokens_that_are_all_alike_are_found():
    torch.manual_seed(0)
    model = Residual()
    x = torch.randn(3, 1, 8).expand(3, 5, 8)
    _, _, recording = trained(model, True, data=lambda _: (x, torch.arange(3)))
    assert recording is not None
    assert "NS811" in normscope.check(model, recording=recording).codes
    assert "norm: All tokens of a sequence are alike" in " ".join(summary(recording).split())


def test_networks_without_a_normalization_are_judged_too():
    """Dynamic tanh in the place of the norms, and queries and keys that are far too large."""
    model = vit(norm="dyt")
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight.mul_(200)
    norms = [
        name for name, _ in model.named_modules() if "norm" in name and "attention" not in name
    ]
    _, _, recording = trained(model, True, layers=norms)
    assert recording is not None
    assert {info.kind for info in recording.layers.values()} == {"activation"}
    assert "NS812" in normscope.check(model, recording=recording).codes


def _hugging_face(name: str) -> tuple[nn.Module, list[str]]:
    models = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = small | {"vocab_size": 32, "intermediate_size": 32}
    torch.manual_seed(0)
    if name == "llama":
        model = models.LlamaForCausalLM(models.LlamaConfig(**text, num_key_value_heads=1))
        return model, ["model.layers.0.post_attention_layernorm", "model.norm"]
    if name == "gpt2":
        config = models.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=32)
        return models.GPT2LMHeadModel(config), ["transformer.h.0.ln_2", "transformer.ln_f"]
    model = models.BertForMaskedLM(models.BertConfig(**text))
    first = "bert.encoder.layer.0.attention.output.LayerNorm"
    return model, [first, "bert.encoder.layer.1.output.LayerNorm"]


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_models_of_a_library(name):
    text = torch.arange(24).reshape(2, 12) % 7
    model, where = _hugging_face(name)
    losses, _, recording = trained(model, True, data=lambda _: (text, text))
    assert losses == trained(_hugging_face(name)[0], None, data=lambda _: (text, text))[0]
    found = beside(recording)
    assert len(found) == 4
    assert set(where) <= set(found)
    assert not any("embeddings" in layer for layer in found)
    assert beside(recording, "attention")
