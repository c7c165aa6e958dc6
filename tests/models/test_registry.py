import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normscope.errors import InputError
from normscope.models.network import ACTIVATIONS
from normscope.models.norms import NORMS
from normscope.models.registry import MODELS, build
from normscope.models.residual_blocks import BLOCKS

SMALL: dict[str, Any] = {"in_channels": 3, "num_classes": 10, "image_size": 8}

ARMS = [
    (name, norm, block)
    for name, entry in MODELS.items()
    for norm in NORMS
    for block in (BLOCKS if "block" in entry.options else [None])
    if name in ("small-resnet", "bird-plane", "resnet-20")
]

USER_MODULE = """
import torch
from torch import nn

class Drawn(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.noise = nn.Parameter(torch.randn(channels))
        self.mix = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.mix.weight)

    def forward(self, x):
        return x + self.mix(x) + self.noise[:, None, None]

def zero_gamma(channels):
    norm = nn.BatchNorm2d(channels)
    nn.init.zeros_(norm.weight)
    return norm
"""


@pytest.fixture
def user_norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "registry_test_norms.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "registry_test_norms"
    sys.modules.pop("registry_test_norms", None)


@pytest.mark.parametrize(("name", "norm", "block"), ARMS)
def test_landmarks_name_modules_of_the_right_kind_and_can_be_captured(name, norm, block):
    model = build(name, norm=norm, block=block, **SMALL)
    at = model.landmarks
    assert isinstance(model.get_submodule(at.stem), nn.Conv2d)
    assert isinstance(model.get_submodule(at.classifier), nn.Linear)
    assert isinstance(model.get_submodule(at.first_normalization), nn.Identity) == (norm == "none")
    assert at.last_activation.startswith(f"{at.first_stage}.")
    assert at.first_normalization.startswith(f"{at.first_stage}.")

    seen: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(at.first_stage).register_forward_hook(
            lambda *a: seen.update(stage=a[2])
        ),
        model.get_submodule(at.last_activation).register_forward_hook(
            lambda *a: seen.update(pre=a[1][0], post=a[2])
        ),
        model.get_submodule(at.first_normalization).register_forward_hook(
            lambda *a: seen.update(normalized=a[2])
        ),
    ]
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    for handle in handles:
        handle.remove()
    assert torch.equal(seen["post"], seen["pre"].relu())
    assert seen["pre"].min() < 0
    if block in (None, "post-activation"):
        assert torch.equal(seen["post"], seen["stage"])
    if norm == "batch":
        assert seen["normalized"].mean((0, 2, 3)).abs().max() < 1e-5
    gradient = model.get_parameter(f"{at.stem}.weight").grad
    assert gradient is not None
    assert gradient.norm() > 0


@pytest.mark.parametrize(("name", "norm", "block"), ARMS)
def test_the_first_stage_holds_no_later_activation_and_no_earlier_normalization(name, norm, block):
    model = build(name, norm=norm, block=block, **SMALL)
    calls: list[str] = []
    handles = [
        module.register_forward_hook(lambda *a, path=path: calls.append(path))
        for path, module in model.named_modules()
        if isinstance(module, nn.ReLU) or "bn" in path.rpartition(".")[2]
    ]
    model(torch.randn(2, 3, 8, 8))
    for handle in handles:
        handle.remove()
    inside = [path for path in calls if path.startswith(model.landmarks.first_stage)]
    assert next(path for path in inside if "bn" in path) == model.landmarks.first_normalization
    assert [path for path in inside if "bn" not in path][-1] == model.landmarks.last_activation


@pytest.mark.parametrize("block", BLOCKS)
def test_each_activation_of_a_residual_network_is_called_once(block):
    model = build("small-resnet", block=block, **SMALL)
    calls: list[nn.Module] = []
    activations = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    handles = [
        module.register_forward_hook(lambda module, *_: calls.append(module))
        for module in activations
    ]
    model(torch.randn(2, 3, 8, 8))
    for handle in handles:
        handle.remove()
    assert len(calls) == len(set(calls)) == len(activations)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 13, 28, 32])
@pytest.mark.parametrize("name", ["small-resnet", "bird-plane", "resnet-20"])
def test_logits_have_their_shape_at_every_image_size(name, size, channels):
    model = build(name, in_channels=channels, num_classes=7, image_size=size)
    assert model(torch.randn(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["small-resnet", "bird-plane"])
def test_every_activation_is_used_throughout(name, activation):
    model = build(name, activation=activation, **SMALL)
    kinds = {
        type(module) for module in model.modules() if type(module).__module__.endswith("activation")
    }
    assert kinds == {type(ACTIVATIONS[activation]())}


@pytest.mark.parametrize("name", ["small-resnet", "bird-plane", "resnet-20"])
def test_eval_mode_does_not_depend_on_the_rest_of_the_batch_and_train_mode_does(name):
    model = build(name, **SMALL)
    images = torch.randn(6, 3, 8, 8)
    with torch.no_grad():
        assert model.training
        assert not torch.allclose(model(images)[:3], model(images[:3]))
        model.eval()
        torch.testing.assert_close(model(images)[:3], model(images[:3]), rtol=1e-5, atol=1e-6)
        assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("norm", [*NORMS, "user"])
def test_building_leaves_every_global_generator_alone_and_depends_on_the_seed_alone(
    norm, user_norms
):
    norm = f"{user_norms}:Drawn" if norm == "user" else norm
    torch.manual_seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)
    first = build("small-resnet", norm=norm, seed=4, **SMALL).state_dict()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert str(before[2]) == str(np.random.get_state(legacy=False))
    torch.manual_seed(2)
    second = build("small-resnet", norm=norm, seed=4, **SMALL).state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_users_normalization_keeps_what_its_constructor_made(user_norms):
    drawn, reseeded = (
        build(
            "small-resnet", norm=f"{user_norms}:Drawn", initialization="he", seed=seed, **SMALL
        ).state_dict()
        for seed in (0, 1)
    )
    assert not drawn["layer1.0.bn1.mix.weight"].any()
    assert drawn["layer1.0.bn1.mix.bias"].any()
    assert not torch.equal(drawn["layer1.0.bn1.noise"], reseeded["layer1.0.bn1.noise"])
    assert "layer1.0.conv1.bias" not in drawn
    zero_gamma = build("small-resnet", norm=f"{user_norms}:zero_gamma", **SMALL)
    assert not zero_gamma.state_dict()["layer1.0.bn1.weight"].any()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("small-resnt", {}, r"Unknown model 'small-resnt'\. Did you mean 'small-resnet'\?"),
        (
            "bird-plane",
            {"block": "formula"},
            r"no option 'block'\. Models that have it: small-resnet, resnet-20, ",
        ),
        (
            "bird-plane",
            {"widths": (8,)},
            r"no option 'widths'\. Models that have it: small-resnet\.$",
        ),
        (
            "resnet-20",
            {"widths": (8,)},
            r"no option 'widths'\. Models that have it: small-resnet\.$",
        ),
        (
            "resnet-20",
            {"blocks_per_stage": 1},
            r"no option 'blocks_per_stage'\. Models that have it: small-resnet\.$",
        ),
        (
            "small-resnet",
            {"image_size": 3},
            r"3x3 pixels are too small for a SmallResNet: at least 4x4\.$",
        ),
        ("small-resnet", {"image_size": 4, "norm": "instance"}, r"at least 5x5\.$"),
        ("resnet-20", {"image_size": 3}, r"at least 4x4\.$"),
        ("bird-plane", {"image_size": 3}, r"BirdPlaneNet: at least 4x4\.$"),
        ("small-resnet", {"block": "bottleneck"}, "Unknown block 'bottleneck'"),
        (
            "small-resnet",
            {"norm": "group", "widths": (12, 24)},
            "cannot divide 12 channels into 8 groups",
        ),
        ("small-resnet", {"initialization": "lecun"}, "Unknown initialization 'lecun'"),
    ],
)
def test_bad_input_is_one_clear_line(name, options, message):
    with pytest.raises(InputError, match=message) as caught:
        build(name, **SMALL | options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("norm", "size"), [("batch", 4), ("instance", 5)])
@pytest.mark.parametrize("block", BLOCKS)
def test_the_smallest_images_that_are_accepted_train(norm, size, block):
    model = build("small-resnet", norm=norm, block=block, **SMALL | {"image_size": size})
    assert model(torch.randn(2, 3, size, size)).isfinite().all()
