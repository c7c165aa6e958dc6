"""Batch normalization followed by noise that moves the distribution anew at every step."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

MEAN_RANGE = 0.5
"""A channel's mean shift in a step is uniform in +- this."""

GREATEST_SCALE = 1.25
"""A channel's mean factor in a step is uniform between 1 and this."""

MEAN_WIDTH = SCALE_WIDTH = 0.1
"""Each value's own shift is uniform in +- this; its factor is normal, of this deviation."""


class NoisyBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d, behind which in train mode every value is multiplied and shifted at random.

    "Noisy" batch normalization of Santurkar et al. 2018 (arXiv:1805.11604, section 2.1 and
    appendix): each step draws for each channel a mean shift and a mean factor, and each value of
    each image draws its own around them. Each batch leaves the layer with another mean and
    variance, which the layer was to prevent. In eval mode there is no noise; the running statistics
    of layers behind others are then those of activations that had it, and fit badly. A watched
    layer's recording is of the normalization, before the noise.

    The noise of a step depends on the layer's seed and on the number of its forwards in train mode,
    which `num_batches_tracked` counts: a state dict is one of nn.BatchNorm2d, and from it training
    goes on with the noise that it would have had. No generator of others is moved but by the
    constructor. Reading the count waits for a GPU.

    Attributes:
        noise_seed: drawn by the constructor from torch's generator, as initial weights are; no part
            of the state dict.
    """

    def __init__(self, num_features: int):
        super().__init__(num_features)
        self.noise_seed = int(torch.randint(2**31, (), device="cpu"))  # also of a trial on "meta"

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape and type."""
        output = super().forward(input)
        return self._perturbed(output) if self.training else output

    def _perturbed(self, output: Tensor) -> Tensor:
        generator = torch.Generator(output.device).manual_seed(self._seed_of_step())
        means, scales = torch.empty(2, output.shape[1], 1, 1, device=output.device)
        means.uniform_(-MEAN_RANGE, MEAN_RANGE, generator=generator)
        scales.uniform_(1, GREATEST_SCALE, generator=generator)
        shift, scale = (torch.empty_like(output, dtype=torch.float32) for _ in range(2))
        shift.uniform_(-MEAN_WIDTH, MEAN_WIDTH, generator=generator)
        scale.normal_(0, SCALE_WIDTH, generator=generator)
        return (output * scale.add_(scales) + shift.add_(means)).to(output.dtype)

    def _seed_of_step(self) -> int:
        """Four bytes, which generators of all devices take."""
        assert self.num_batches_tracked is not None
        key = f"{self.noise_seed}:{int(self.num_batches_tracked)}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")
