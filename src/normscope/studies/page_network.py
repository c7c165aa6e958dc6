"""The small network inside the page of `normscope explain`: its numbers, and images for it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normscope.data.dataset import Dataset
from normscope.models.small_networks import TinyCNN

PIXEL_BYTES = 130_000
"""Bytes of images in the page at most, before base64: the page stays below 300 kB."""


def page_network(
    model: TinyCNN, dataset: Dataset, *, seed: int, source: str, made: Mapping[str, str]
) -> dict[str, Any]:
    """Return what explanation.js reads of a trained network with batch normalization, on the CPU;
    arrays are float32, or uint8 of images, in base64.

    It carries as many test images, drawn at random, as fit into PIXEL_BYTES. `source` says in a
    phrase what the network was trained on, `made` how, term by term.
    """
    images, labels = page_images(model, dataset, seed)
    first = model.get_submodule(model.landmarks.first_normalization)
    assert isinstance(first, nn.BatchNorm2d)
    assert first.running_mean is not None
    return {
        "network": {
            "layers": [_layer(stage) for stage in model.stages],
            "classifier": {"weight": _base64(model.fc.weight), "bias": _base64(model.fc.bias)},
        },
        "images": {
            "pixels": base64.b64encode(images.tobytes()).decode("ascii"),
            "side": images.shape[1],
            "colours": images.shape[3],
            "labels": labels.tolist(),
            "mean": list(dataset.mean),
            "std": list(dataset.std),
        },
        "classes": list(dataset.classes),
        "momentum": first.momentum,
        "seed": seed,
        "source": source,
        "channel": int(first.running_mean.abs().argmax()),
        "made": list(made.items()),
    }


def page_images(model: TinyCNN, dataset: Dataset, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw test images and average them to the size that the first convolution sees.

    Returns:
        images uint8 [N, S, S, colours] and labels int64 [N].
    """
    count, colours = len(dataset.test_labels), dataset.test_images.shape[3]
    most = PIXEL_BYTES // (model.side * model.side * colours)
    chosen = np.sort(np.random.default_rng(seed).permutation(count)[:most])
    pixels = torch.from_numpy(dataset.test_images[chosen]).permute(0, 3, 1, 2).float()
    images = model.shrink(pixels).round().to(torch.uint8).permute(0, 2, 3, 1)
    return images.contiguous().numpy(), dataset.test_labels[chosen]


def _layer(stage: nn.Module) -> dict[str, Any]:
    """A 3x3 convolution without bias [outputs, inputs, 3, 3] and the normalization behind it."""
    convolution, norm, _ = stage.children()
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    vectors = {
        "weight": norm.weight,
        "bias": norm.bias,
        "mean": norm.running_mean,
        "variance": norm.running_var,
    }
    return {
        "convolution": {
            "weight": _base64(convolution.weight),
            "outputs": convolution.out_channels,
            "stride": convolution.stride[0],
        },
        "norm": {**{name: _base64(each) for name, each in vectors.items()}, "eps": norm.eps},
    }


def _base64(values: Tensor | None) -> str:
    assert values is not None
    numbers = np.ascontiguousarray(values.detach().numpy(), "<f4")
    return base64.b64encode(numbers.tobytes()).decode("ascii")
