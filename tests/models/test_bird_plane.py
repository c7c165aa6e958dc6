import re

import pytest
import torch
from torch import nn

from normscope.errors import InputError
from normscope.models.norms import NORMS
from normscope.models.small_networks import BirdPlaneNet

PRINTOUT = """
(conv1): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
(bn_initial): BatchNorm2d(8, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
(res_block1): BirdPlaneBlock(
(conv1): Conv2d(8, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
(bn1): BatchNorm2d(16, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
(conv2): Conv2d(16, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
(bn2): BatchNorm2d(16, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
(conv3): Conv2d(16, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
(bn3): BatchNorm2d(16, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
(relu): ReLU()
(fc1): Linear(in_features=1024, out_features=64, bias=True)
(fc2): Linear(in_features=64, out_features=2, bias=True)
(relu): ReLU()
"""


def test_the_layers_are_those_of_the_printout():
    printed = [
        line.strip() for line in repr(BirdPlaneNet()).splitlines() if re.match(r"\s+\(", line)
    ]
    printed = [
        re.sub("affine=True, bias=True", "affine=True", line) for line in printed
    ]  # as torch 2.13 prints it
    assert [line for line in printed if "pool" not in line] == PRINTOUT.strip().splitlines()


def test_the_parameter_count_is_pinned():
    assert sum(parameter.numel() for parameter in BirdPlaneNet().parameters()) == 71_874


@pytest.mark.parametrize("norm", NORMS)
def test_every_convolution_has_a_bias(norm):
    convolutions = [
        module for module in BirdPlaneNet(norm).modules() if isinstance(module, nn.Conv2d)
    ]
    assert len(convolutions) == 4
    assert all(convolution.bias is not None for convolution in convolutions)


@pytest.mark.parametrize("size", [4, 7, 8, 28, 32])
def test_fc1_follows_the_image_size(size):
    model = BirdPlaneNet(image_size=size, in_channels=1)
    assert model.fc1.in_features == 16 * (size // 4) ** 2
    assert model(torch.randn(3, 1, size, size)).shape == (3, 2)


def test_images_that_leave_nothing_after_two_poolings_are_refused():
    with pytest.raises(
        InputError, match=r"^Images of 3x3 pixels are too small for a BirdPlaneNet: at least 4x4\.$"
    ):
        BirdPlaneNet(image_size=3)


def test_the_forward_pass_pools_around_the_block_and_skips_from_its_first_normalization():
    torch.manual_seed(0)
    model = BirdPlaneNet(image_size=8).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)

    def step(block: nn.Module, number: int, x: torch.Tensor) -> torch.Tensor:
        return block.get_submodule(f"bn{number}")(block.get_submodule(f"conv{number}")(x))

    with torch.no_grad():
        pooled = (
            model.bn_initial(model.conv1(x)).relu().unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))
        )
        block = model.res_block1
        skip = step(block, 1, pooled)
        out = (step(block, 3, step(block, 2, skip.relu()).relu()) + skip).relu()
        features = out.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2)).reshape(2, -1)
        expected = model.fc2(model.fc1(features).relu())
        torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
