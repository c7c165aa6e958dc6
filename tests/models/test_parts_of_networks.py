"""Ghost batches, branches that start at zero, and networks of which a part alone is trained."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.errors import InputError
from normscope.models.norms import GhostBatchNorm2d
from normscope.models.registry import build
from normscope.models.residual_blocks import BranchEnd

SMALL = {"in_channels": 1, "num_classes": 3, "image_size": 8, "widths": (8, 8)}


def network(**options):
    return build("small-resnet", blocks_per_stage=1, **SMALL, **options)


@pytest.mark.parametrize(("images", "sizes"), [(32, (16, 16)), (34, (17, 17)), (5, (5,))])
def test_ghosts_are_normalized_by_themselves_and_leave_what_a_batch_leaves(images, sizes):
    torch.manual_seed(0)
    x = torch.randn(images, 4, 3, 3) + torch.linspace(0, 3, images)[:, None, None, None]
    ghost, plain = GhostBatchNorm2d(4), nn.BatchNorm2d(4)
    found = ghost(x)
    expected = torch.cat([nn.BatchNorm2d(4)(part) for part in x.split(sizes)])
    assert torch.allclose(found, expected, atol=1e-6)
    kept = (1 - plain.momentum) ** (1 / len(sizes))
    mean = torch.zeros(4)
    for part in x.split(sizes):
        mean = kept * mean + (1 - kept) * part.mean((0, 2, 3))
    assert torch.allclose(ghost.running_mean, mean, atol=1e-6)
    assert int(ghost.num_batches_tracked) == 1
    plain.load_state_dict(ghost.state_dict())
    assert torch.equal(ghost.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("block", ["post-activation", "formula", "pre-activation"])
def test_with_skipinit_a_network_starts_as_its_shortcuts_and_then_uses_its_branches(block):
    model = network(norm="skipinit", block=block)
    ends = [module for module in model.modules() if isinstance(module, BranchEnd)]
    assert len(ends) == 2
    images = torch.randn(4, 1, 8, 8)
    before = model(images)
    for end in ends:
        nn.init.normal_(end.weight)
    assert torch.equal(model(images), before), "what is in a branch plays no part yet"
    F.cross_entropy(model(images), torch.tensor([0, 1, 2, 0])).backward()
    assert all(end.gain.grad.abs() > 0 for end in ends)
    plain = dict(network(norm="none", block=block).named_parameters())
    others = {name for name, _ in model.named_parameters() if not name.endswith(".gain")}
    assert others == plain.keys(), "layers keep their names, hence their first weights"


def test_skipinit_says_where_it_cannot_be():
    with pytest.raises(InputError, match="ends a branch with a convolution"):
        network(norm="skipinit", block="after-activation")
    with pytest.raises(InputError, match="Unknown normalization 'skipinit'"):
        build("tiny-cnn", norm="skipinit", in_channels=1, num_classes=3, image_size=8)


def trainable(model):
    return {name for name, each in model.named_parameters() if each.requires_grad}


def test_a_part_is_trained_and_the_rest_stays():
    every, norms, last = (network(train=part) for part in ("all", "norms", "classifier"))
    names = {name for name, _ in every.named_parameters()}
    assert trainable(every) == names
    assert trainable(last) == {"fc.weight", "fc.bias"}
    assert trainable(norms) == {
        f"{name}.{kind}"
        for name, module in norms.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for kind in ("weight", "bias")
    }
    state = every.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in norms.state_dict().items())


def test_without_gains_there_is_nothing_to_train():
    with pytest.raises(InputError, match="nothing to train"):
        network(norm="none", train="norms")
