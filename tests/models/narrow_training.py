"""A script: trains networks of every small width, and compares their gradients with float64's.

It is run in a process of its own, for a fault of PyTorch's convolutions would end the process.
"""

import torch
from torch.nn import functional as F

from normscope.models.registry import build

CASES = [
    *(((width, 8, 5), 8, 64, 4) for width in range(2, 8)),  # what AVX2 gets wrong
    *(((width, 16), 64, 2, 2) for width in (2, 7, 8, 12, 15)),  # and AVX-512, on larger images
]
"""Widths, pixels of an image's side, images in a batch, steps."""


def largest_difference(widths, size, batch, steps):
    """The largest relative difference of a weight's gradient from that in float64."""
    options = {
        "in_channels": 1, "num_classes": 3, "image_size": size, "widths": widths,
        "blocks_per_stage": 1, "activation": "gelu",  # smooth: no rounding switches a pixel off
    }  # fmt: skip
    network = build("small-resnet", **options).to(memory_format=torch.channels_last)
    exact = build("small-resnet", **options).double()
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for _ in range(steps):
        images = torch.randn(batch, 1, size, size, generator=generator)
        labels = torch.randint(3, (batch,), generator=generator)
        exact.load_state_dict(network.state_dict())
        for model, x in ((network, images), (exact, images.double())):
            model.zero_grad()
            x = x.contiguous(memory_format=torch.channels_last)
            F.cross_entropy(model(x), labels).backward()
        for ours, true in zip(network.parameters(), exact.parameters(), strict=True):
            difference = (ours.grad.double() - true.grad).norm() / true.grad.norm()
            worst = max(worst, float(difference))
        with torch.no_grad():  # an optimizer of torch's would load its compiler, in 1.6 s
            for weight in network.parameters():
                weight -= 0.05 * weight.grad
    return worst


if __name__ == "__main__":
    torch.set_num_threads(2)  # each writes past its part of the workspace, into the other's
    for case in CASES:
        print(*case, largest_difference(*case), flush=True)
