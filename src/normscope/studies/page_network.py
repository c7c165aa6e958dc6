"""The small network inside the page of `normscope explain`: its weights, and images for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from normscope.data.dataset import Dataset
from normscope.models.tiny_cnn import TinyCNN
from normscope.show.explanation_page.explanation_html import ConvolutionAndNorm, PageNetwork

PIXEL_BYTES = 130_000
"""Bytes of images in the page at most, before base64: the page stays below 300 kB."""


def page_network(
    model: TinyCNN, dataset: Dataset, *, seed: int, source: str, made: Mapping[str, str]
) -> PageNetwork:
    """Return what the page needs of a trained network with batch normalization, on the CPU.

    It carries as many test images, drawn at random, as fit into PIXEL_BYTES. `source` says in a
    phrase what the network was trained on, `made` how, term by term.
    """
    images, labels = page_images(model, dataset, seed)
    return PageNetwork(
        layers=tuple(map(_layer, model.stages)),
        classifier_weight=model.fc.weight.detach().numpy(),
        classifier_bias=model.fc.bias.detach().numpy(),
        momentum=_first_momentum(model),
        images=images,
        labels=labels,
        classes=dataset.classes,
        data_mean=dataset.mean,
        data_std=dataset.std,
        source=source,
        seed=seed,
        made=made,
    )


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


def _layer(stage: nn.Module) -> ConvolutionAndNorm:
    convolution, norm, _ = stage.children()
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return ConvolutionAndNorm(
        stride=convolution.stride[0],
        kernel=convolution.weight.detach().numpy(),
        weight=norm.weight.detach().numpy(),
        bias=norm.bias.detach().numpy(),
        mean=norm.running_mean.numpy(),
        variance=norm.running_var.numpy(),
        eps=norm.eps,
    )


def _first_momentum(model: TinyCNN) -> float:
    norm = model.get_submodule(model.landmarks.first_normalization)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.momentum is not None
    return norm.momentum
