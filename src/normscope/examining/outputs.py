"""A model's outputs on a few batches, compared between two ways of normalizing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_FEATURES = 4096
"""Larger outputs of a sample are compared on a fixed selection of so many of their values."""

OUTPUT_NAMES = ("logits", "out", "prediction_logits", "last_hidden_state", "pooler_output")


def main_output(output: Any, samples: int) -> Tensor | None:
    """Return `rows` of the `main_tensor`."""
    return rows(main_tensor(output), samples)


def main_tensor(output: Any) -> Tensor | None:
    """Return the output that matters: logits before anything else, the first tensor of several."""
    values = output if isinstance(output, list | tuple) else (output,)
    if isinstance(output, dict):
        values = (*map(output.get, OUTPUT_NAMES), *output.values())
    return next((value for value in values if isinstance(value, Tensor)), None)


def rows(tensor: Tensor | None, samples: int) -> Tensor | None:
    """Return the tensor as float32 [N, values] on the CPU; None without an axis of samples."""
    if tensor is None or not tensor.is_floating_point() or tensor.shape[:1] != (samples,):
        return None
    flat = tensor.detach().reshape(samples, -1)
    stride = -(-flat.shape[1] // MAX_FEATURES) if flat.shape[1] else 1
    return flat[:, ::stride].float().cpu()


def difference(reference: Tensor, other: Tensor | None) -> float | None:
    """Return the relative L2 difference of two outputs; None if it does not exist."""
    if other is None or reference.shape != other.shape:
        return None
    scale = reference.norm()
    change = float((reference - other).norm() / scale.clamp_min(1e-30))
    return change if math.isfinite(change) else None


def class_facts(
    in_eval: Tensor, in_batch: Tensor, in_mixed: Tensor | None, targets: list
) -> dict[str, Any]:
    """Count how often two ways of normalizing predict another class, and which of them is right."""
    reference = in_batch if in_mixed is None else in_mixed
    classes = [output.argmax(1) for output in (in_eval, in_batch, reference)]
    facts: dict[str, Any] = {"disagreement": float((classes[0] != classes[2]).float().mean())}
    facts["classes"] = in_eval.shape[1]
    if in_mixed is not None:
        facts["composition_disagreement"] = float((classes[1] != classes[2]).float().mean())
    if any(target is None for target in targets):
        return facts
    target = torch.cat(targets).flatten()
    if len(target) != len(in_eval):
        return facts  # no class for each sample
    right = [prediction == target for prediction in classes]
    facts |= {
        "has_targets": True,
        "eval_correct": float(right[0].float().mean()),
        "batch_correct": float(right[1].float().mean()),
        "only_eval_correct": int((right[0] & ~right[2]).sum()),
        "only_batch_correct": int((right[2] & ~right[0]).sum()),
    }
    if in_mixed is not None:
        facts["remixed_correct"] = float(right[2].float().mean())
        facts["only_given_correct"] = int((right[1] & ~right[2]).sum())
        facts["only_remixed_correct"] = int((right[2] & ~right[1]).sum())
    return facts


def is_class(target: Tensor | None) -> bool:
    """Tell whether the target is a class per sample, as far as it is known."""
    return target is None or (not target.is_floating_point() and target.ndim == 1)


def target_facts(targets: list[Tensor | None]) -> dict[str, Any]:
    """Return chi-square / degrees of freedom of labels against batches: 1 if they are shuffled."""
    if len(targets) < 2 or any(t is None or t.is_floating_point() or t.ndim != 1 for t in targets):
        return {}
    return label_facts([target.numpy() for target in targets if target is not None])


def label_facts(labels: list[np.ndarray]) -> dict[str, Any]:
    """Return the same of integer labels [N] per batch; {} with one class, or one a sample."""
    classes, index = np.unique(np.concatenate(labels), return_inverse=True)
    sizes = [len(part) for part in labels]
    if not 2 <= len(classes) <= max(len(index) // 4, 2):
        return {}
    parts = np.split(index, np.cumsum(sizes)[:-1])
    counts = np.stack([np.bincount(part, minlength=len(classes)) for part in parts])
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    freedom = (len(sizes) - 1) * (len(classes) - 1)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    return {"labels_in_batches": chi_square / freedom, "label_freedom": freedom}
