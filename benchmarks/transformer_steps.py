"""A step of normscope's transformers beside the plainest loop that trains the same network.

    python benchmarks/transformer_steps.py              # under three minutes on one core
    python benchmarks/transformer_steps.py --rounds 3   # a rough idea

The plain side is PyTorch's own `nn.TransformerEncoderLayer`, an index into a tensor, a forward, a
loss, a backward and a fused AdamW, and reads nothing. It starts with normscope's weights, and has
to give its outputs. Both sides take turns in one process, on one thread.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import tyro
from common import Spread, Table, hardware_line, interleave, ratio, warn_if_busy
from torch import Tensor, nn
from torch.nn import functional as F
from training_steps import one_thread

from normscope.data.dataset import Dataset
from normscope.models.transformer import patches
from normscope.studies.grid import batches_for, build_for, lay_out
from normscope.studies.options import options_from
from normscope.studies.spec import RunSpec
from normscope.training.callbacks import GradientNorms
from normscope.training.loop import Callback, Epoch, train
from normscope.training.precision import autocast

VIT: dict[str, Any] = {"data": "digits", "model": "vit", "batch_size": 128, "augment": False}
BYTES: dict[str, Any] = {"data": "text", "model": "byte-lm", "batch_size": 16}
CASES: Mapping[str, dict[str, Any]] = {
    "vit, fp32": VIT | {"precision": "fp32"},
    "vit, bf16": VIT | {"precision": "bf16"},
    "vit, rms, fp32": VIT | {"precision": "fp32", "norms": ("rms",)},
    "vit of the study, fp32": VIT
    | {"precision": "fp32", "batch_size": 64, "width": 32, "patch_size": 4},
    "byte-lm, fp32": BYTES | {"precision": "fp32"},
    "byte-lm, bf16": BYTES | {"precision": "bf16"},
    "byte-lm of the study, fp32": BYTES
    | {"precision": "fp32", "batch_size": 8, "width": 32, "depth": 2, "heads": 2},
}
"""Settings of `normscope compare`."""


class PlainTransformer(nn.Module):
    """The network of a spec, of PyTorch's layers, with the weights of normscope's."""

    def __init__(self, ours: Any, spec: RunSpec):
        super().__init__()
        width = ours.head.weight.shape[1]
        self.embed, self.positions = ours.embed, ours.positions.weight
        self.causal, self.patch_size = ours.shape.causal, getattr(ours, "patch_size", 0)
        self.blocks = nn.ModuleList(_block(block, width, spec) for block in ours.blocks)
        self.norm, self.head = ours.norm, ours.head

    def forward(self, x: Tensor) -> Tensor:
        causal = self.causal
        x = x if causal else patches(x, self.patch_size)
        x = self.embed(x) + self.positions
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1]) if causal else None
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=causal)
        x = self.norm(x)
        return self.head(x if causal else x.mean(1))


def _block(ours: Any, width: int, spec: RunSpec) -> nn.Module:
    block: Any = nn.TransformerEncoderLayer(
        width, spec.heads or 4, 4 * width, dropout=0.0, activation=F.gelu, layer_norm_eps=1e-6,
        batch_first=True, norm_first=True,
    )  # fmt: skip
    block.norm1, block.norm2 = ours.norm1, ours.norm2
    block.linear1, block.linear2 = ours.feed_forward.up, ours.feed_forward.down
    block.self_attn.in_proj_weight = ours.attention.qkv.weight
    block.self_attn.in_proj_bias = ours.attention.qkv.bias
    block.self_attn.out_proj.weight = ours.attention.out.weight
    block.self_attn.out_proj.bias = ours.attention.out.bias
    return block


class Ours(Callback):
    """Called, trains a few batches in normscope's loop; returns seconds a step."""

    def __init__(self, dataset: Dataset, spec: RunSpec):
        self.model, self.spec = build_for(dataset, spec), spec
        self.batches = batches_for(dataset, spec)
        marks = self.model.landmarks
        weights = {
            "stem": self.model.get_parameter(f"{marks.stem}.weight"),
            "last_layer": self.model.get_parameter(f"{marks.classifier}.weight"),
        }
        self.norms = GradientNorms(weights, self.batches.train_batches)
        self.seconds = 0.0

    def on_epoch(self, epoch: Epoch) -> None:
        self.seconds = epoch.scalars["train_seconds"] or 0.0

    def __call__(self) -> float:
        train(self.model, self.batches, self.spec, callbacks=[self.norms, self])
        return self.seconds / self.batches.train_batches


class Plain:
    """Called, trains as many batches in the plainest loop; returns seconds a step."""

    def __init__(self, dataset: Dataset, spec: RunSpec):
        self.model, self.spec = PlainTransformer(build_for(dataset, spec), spec), spec
        (self.inputs, self.labels), *_ = batches_for(
            dataset, spec, batch_size=len(dataset.train_images)
        ).train(0, 1)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=spec.learning_rate, weight_decay=1e-4, fused=True
        )

    def __call__(self) -> float:
        begin, steps = time.perf_counter(), 0
        self.model.train()
        for rows in torch.randperm(len(self.inputs)).split(self.spec.batch_size):
            self.optimizer.zero_grad()
            with autocast(self.spec.precision, "cpu"):
                logits = self.model(self.inputs[rows])
            F.cross_entropy(logits.float().flatten(0, -2), self.labels[rows].flatten()).backward()
            self.optimizer.step()
            steps += 1
        return (time.perf_counter() - begin) / steps


def contenders(settings: dict[str, Any], batches: int) -> dict[str, Callable[[], float]]:
    """Both sides of a case, on its first batches of data.

    Raises:
        AssertionError: if they do not compute the same.
    """
    common = {"norms": ("layer",), "learning_rates": (0.001,), "seeds": 1, "epochs": 1}
    grid = lay_out(options_from(common | settings))
    (spec,) = grid.specs
    dataset = dataclasses.replace(
        grid.dataset,
        train_images=grid.dataset.train_images[: batches * spec.batch_size],
        train_labels=grid.dataset.train_labels[: batches * spec.batch_size],
        test_images=grid.dataset.test_images[:1],
        test_labels=grid.dataset.test_labels[:1],
    )
    ours, plain = Ours(dataset, spec), Plain(dataset, spec)
    with torch.no_grad():
        outputs = [side.model(plain.inputs[:2]) for side in (ours, plain)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    return {"normscope": ours, "plain": plain}


def steps(rounds: int, batches: int, cases: Mapping[str, dict[str, Any]] = CASES) -> Table:
    """Milliseconds of a step of both, and their ratio round by round."""
    rows, values = [], {}
    with one_thread():
        for name, settings in cases.items():
            seconds = interleave(contenders(settings, batches), rounds)
            values[name] = seconds
            shown = (
                Spread.of([1e3 * each for each in seconds[side]]) for side in ("normscope", "plain")
            )
            quotients = ratio(seconds["normscope"], seconds["plain"])
            rows.append((name, *(f"{each.median:.2f}" for each in shown), quotients.text(".2f")))
    return Table(
        title="A step of the transformers",
        header=("network", "normscope, ms", "plain loop, ms", "ratio"),
        rows=rows,
        notes=[f"One thread; n = turns of {batches} batches each."],
        values=values,
    )


def main(rounds: int = 15, batches: int = 10) -> None:
    """Measure and print the table."""
    warn_if_busy()
    print(hardware_line("cpu"))
    print(steps(rounds, batches).markdown())


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
