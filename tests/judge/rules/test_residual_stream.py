"""Where a residual stream ends: in a head behind a normalization, or in a bare one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import normscope

WIDTH, WORDS = 16, 11


class Block(nn.Module):
    def __init__(self, norm, pre=True, post=False):
        super().__init__()
        self.norm, self.behind = norm(WIDTH), norm(WIDTH) if post else nn.Identity()
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.pre = pre

    def forward(self, x):
        if self.pre:
            return x + self.behind(self.down(F.gelu(self.up(self.norm(x)))))
        return self.norm(x + self.down(F.gelu(self.up(x))))


class OwnRMS(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(width)), 1e-6

    def forward(self, x):
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (x * scale)


class Decoder(nn.Module):
    """`end` is what stands between stream and head, `out` the head."""

    def __init__(self, end=None, out="linear", norm=nn.RMSNorm, depth=3, **block):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block(norm, **block) for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH) if end == "layer" else nn.Identity()
        self.lm_head = nn.Linear(WIDTH, WORDS, bias=False)
        self.gain, self.end, self.out = nn.Parameter(torch.ones(WIDTH)), end, out

    def forward(self, ids):
        x = self.embed(ids) * WIDTH**0.5
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.end == "function":
            x = F.rms_norm(x, (WIDTH,), self.gain)
        if self.end == "inline":
            x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.gain
        if self.end == "adaptive":
            shift, scale = self.embed(ids).chunk(1, -1)[0], self.gain
            x = F.layer_norm(x, (WIDTH,)) * (1 + scale) + shift
        if self.out == "tied":
            return F.linear(x, self.embed.weight)
        if self.out == "matmul":
            return {"logits": x @ self.embed.weight.T}
        if self.out == "capped":
            return 30 * torch.tanh(self.lm_head(x) / 30)
        if self.out == "deep":
            return self.lm_head(F.gelu(F.linear(x, self.blocks[0].up.weight[:WIDTH])))
        return x if self.out == "none" else self.lm_head(x)


def found(model: nn.Module, batch=None) -> list[tuple[str, str]]:
    torch.manual_seed(0)
    batch = torch.randint(WORDS, (8, 12)) if batch is None else batch
    report = normscope.check(model.eval(), [batch])
    return [(f.severity, f.layer) for f in report if f.code == "NS409"]


@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm, OwnRMS])
@pytest.mark.parametrize("out", ["linear", "tied", "matmul", "capped", "deep"])
def test_a_head_that_reads_the_stream_as_it_is(norm, out):
    assert [severity for severity, _ in found(Decoder(out=out, norm=norm))] == ["warning"]
    assert found(Decoder("layer", out=out, norm=norm)) == []


def test_the_head_is_named():
    assert found(Decoder(post=True)) == [("warning", "lm_head")]


@pytest.mark.parametrize("end", ["layer", "function", "inline", "adaptive"])
def test_normalized_in_any_way(end):
    assert found(Decoder(end)) == []


@pytest.mark.parametrize(
    "model", [Decoder(pre=False), Decoder(out="none"), Decoder(depth=1)], ids=str
)
def test_streams_that_need_none(model):
    """Normalized behind each sum; handed out without a head; read by a single layer."""
    assert found(model) == []


class Image(nn.Module):
    def __init__(self, out):
        super().__init__()
        self.patch = nn.Conv2d(1, WIDTH, 2, 2)
        self.blocks = nn.Sequential(*[Block(nn.LayerNorm) for _ in range(3)])
        self.head = nn.Conv2d(WIDTH, 1, 1) if out == "conv" else nn.Linear(WIDTH, 10)

    def forward(self, x):
        x = self.blocks(self.patch(x).permute(0, 2, 3, 1))
        if isinstance(self.head, nn.Conv2d):
            return self.head(x.permute(0, 3, 1, 2))
        return self.head(x.flatten(1, 2).mean(1))


def test_images_get_an_info_and_restored_ones_nothing():
    images = torch.randn(8, 1, 8, 8)
    assert found(Image("linear"), images) == [("info", "head")]
    assert found(Image("conv"), images) == []
