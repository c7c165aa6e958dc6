"""Gradients of networks with few channels, for which a oneDNN kernel writes past its memory.

See `Projection` in normscope/models/residual_blocks.py.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from normscope.models.registry import MODELS, build
from normscope.models.residual_blocks import BLOCKS, Projection

LAPTOP = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
"""What makes a processor with AVX-512 compute as one without it."""

PATIENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
"""What keeps two threads from spinning where there is one core for them."""


@pytest.mark.parametrize("processor", [{}, LAPTOP], ids=["this processor", "a laptop's"])
def test_narrow_networks_have_the_gradients_of_float64(processor):
    script = Path(__file__).with_name("narrow_training.py")
    child = subprocess.run(
        [sys.executable, script],
        env={**os.environ, **PATIENT, **processor},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, f"ended by {child.returncode}\n{child.stdout}{child.stderr}"
    differences = dict(line.rsplit(" ", 1) for line in child.stdout.splitlines())
    assert len(differences) == 11
    assert {case: d for case, d in differences.items() if not float(d) < 1e-3} == {}


class _Convolutions(TorchDispatchMode):
    """Notes the input channels, kernel and stride of each convolution that is run backward."""

    def __init__(self):
        super().__init__()
        self.backward = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            _, x, weight, _, stride = args[:5]
            self.backward.append((x.shape[1], *weight.shape[2:], *stride))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("width", [1, 2, 7, 8, 12, 15])
def test_no_narrow_strided_1x1_convolution_is_run_backward(block, width):
    assert not _reached("small-resnet", block=block, widths=(width, width, 4), blocks_per_stage=1)


NOT_CONVOLVED = ("vit", "byte-lm")


@pytest.mark.parametrize("name", sorted({*MODELS} - {"resnet-110", *NOT_CONVOLVED}))
def test_no_network_of_its_own_widths_reaches_that_kernel(name):
    assert not _reached(name)


def _reached(name, **options):
    """The convolutions with which this network would reach oneDNN's kernel."""
    network = build(name, in_channels=3, num_classes=2, image_size=8, **options)
    with _Convolutions() as convolutions:
        network.to(memory_format=torch.channels_last)(torch.randn(2, 3, 8, 8)).sum().backward()
    assert (3, 3, 3, 1, 1) in convolutions.backward, "the stem was not seen"
    return [
        (channels, *stride)
        for channels, height, width, *stride in convolutions.backward
        if channels < 16 and (height, width) == (1, 1) and stride != [1, 1]
    ]


def test_a_projection_has_the_bits_of_the_convolution_that_it_stands_for():
    torch.manual_seed(0)
    ours = Projection(6, 5, 1, stride=(2, 3))
    x = torch.randn(3, 6, 7, 8).contiguous(memory_format=torch.channels_last)
    plain = torch.nn.functional.conv2d(x, ours.weight, ours.bias, stride=(2, 3))
    assert torch.equal(ours(x), plain)
