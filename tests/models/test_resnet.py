import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.errors import InputError
from normscope.models.norms import NORMS
from normscope.models.residual_blocks import BLOCKS, FormulaBlock, ParameterFreeShortcut, Parts
from normscope.models.resnet import CIFAR_DEPTHS, SmallResNet, cifar_resnet


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (SmallResNet("batch"), 175_258),
        (SmallResNet("none"), 174_698),
        (cifar_resnet(20), 269_722),
        (cifar_resnet(32), 464_154),
        (cifar_resnet(44), 658_586),
        (cifar_resnet(56), 853_018),
        (cifar_resnet(110), 1_727_962),
    ],
)
def test_parameter_counts_are_pinned(model, count):
    assert parameters(model) == count


def notebook_names(norm: bool) -> list[str]:
    """The state dict's names in the source notebook, from its description: conv, norm, conv, norm,
    shortcut.
    """

    def layer(conv: str, bn: str) -> list[str]:
        if not norm:
            return [f"{conv}.weight", f"{conv}.bias"]
        statistics = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
        return [f"{conv}.weight", *(f"{bn}.{name}" for name in statistics)]

    names = layer("stem.0", "stem.1")
    for stage in (1, 2, 3):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            names += layer(f"{at}.conv1", f"{at}.bn1") + layer(f"{at}.conv2", f"{at}.bn2")
            if stage > 1 and block == 0:
                names += layer(f"{at}.shortcut.0", f"{at}.shortcut.1")
    return [*names, "fc.weight", "fc.bias"]


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_the_state_dict_has_the_names_of_the_notebook(norm):
    assert list(SmallResNet(norm).state_dict()) == notebook_names(norm == "batch")


@pytest.mark.parametrize("norm", [name for name in NORMS if name != "batch"])
@pytest.mark.parametrize("block", BLOCKS)
def test_modules_have_the_same_names_under_every_norm(norm, block):
    assert [name for name, _ in SmallResNet(norm, block=block).named_modules()] == [
        name for name, _ in SmallResNet("batch", block=block).named_modules()
    ]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_convolution_has_a_bias_exactly_where_no_normalization_follows(norm, block):
    convolutions = {
        n: m for n, m in SmallResNet(norm, block=block).named_modules() if isinstance(m, nn.Conv2d)
    }
    biased = {name for name, convolution in convolutions.items() if convolution.bias is not None}
    if norm == "none":
        assert biased == set(convolutions)
    elif block == "after-activation":
        assert biased == {name for name in convolutions if name.endswith(("conv1", "conv2"))}
    elif block == "formula":
        assert biased == {name for name in convolutions if name.endswith("conv2")}
    else:
        assert not biased


def reference_forward(
    state: dict[str, torch.Tensor], x: torch.Tensor, block: str, train: bool
) -> torch.Tensor:
    """SmallResNet's logits from its state dict alone: strides 1, 2, 2, two blocks a stage, ReLU."""

    def conv(name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        if f"{name}.weight" not in state:
            return x
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        if train:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        scale = state[f"{name}.weight"] / (var + 1e-5).sqrt()
        return x * scale[:, None, None] + (state[f"{name}.bias"] - mean * scale)[:, None, None]

    def one_block(at: str, x: torch.Tensor, stride: int) -> torch.Tensor:
        projects = f"{at}.shortcut.0.weight" in state
        if block == "pre-activation":
            activated = norm(f"{at}.bn1", x).relu()
            shortcut = conv(f"{at}.shortcut.0", activated, stride) if projects else x
            shortcut = activated if at == "layer1.0" else shortcut
            inner = norm(f"{at}.bn2", conv(f"{at}.conv1", activated, stride)).relu()
            return conv(f"{at}.conv2", inner) + shortcut
        shortcut = norm(f"{at}.shortcut.1", conv(f"{at}.shortcut.0", x, stride)) if projects else x
        if block == "after-activation":
            inner = norm(f"{at}.bn1", conv(f"{at}.conv1", x, stride).relu())
            return norm(f"{at}.bn2", conv(f"{at}.conv2", inner).relu()) + shortcut
        residual = conv(f"{at}.conv2", norm(f"{at}.bn1", conv(f"{at}.conv1", x, stride)).relu())
        if block == "formula":
            return residual + shortcut
        return (norm(f"{at}.bn2", residual) + shortcut).relu()

    x = conv("stem.0", x)
    if block != "pre-activation":
        x = norm("stem.1", x).relu()
    for stage in (1, 2, 3):
        for index in (0, 1):
            x = one_block(f"layer{stage}.{index}", x, 2 if stage > 1 and index == 0 else 1)
    if block == "pre-activation":
        x = norm("final.0", x).relu()
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_the_forward_pass_equals_a_functional_reference(norm, block, train):
    torch.manual_seed(0)
    model = SmallResNet(norm, block=block).double()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if (
                tensor.is_floating_point() and tensor.dim() == 1
            ):  # affine parameters and statistics away from 0 and 1
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.add_(
                    torch.randn_like(tensor), alpha=0.2
                )
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(5, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        logits = model.train(train)(images)
    torch.testing.assert_close(
        logits, reference_forward(state, images, block, train), rtol=1e-10, atol=1e-10
    )


def test_nothing_follows_the_addition_of_the_formula_block():
    block = FormulaBlock(16, 16, 1, Parts(nn.BatchNorm2d, nn.ReLU)).eval()
    x = torch.randn(2, 16, 6, 6)
    with torch.no_grad():
        residual = block.conv2(torch.relu(block.bn1(block.conv1(x))))
        assert torch.equal(block(x), residual + x)
    assert not hasattr(block, "bn2")


def test_a_parameter_free_shortcut_takes_every_other_pixel_and_adds_zero_channels():
    x = torch.arange(2 * 3 * 5 * 5.0).reshape(2, 3, 5, 5)
    y = ParameterFreeShortcut(3, 7, 2)(x)
    assert y.shape == (2, 7, 3, 3)
    assert torch.equal(y[:, :3], x[:, :, [0, 2, 4]][..., [0, 2, 4]])
    assert not y[:, 3:].any()


@pytest.mark.parametrize("depth", CIFAR_DEPTHS)
def test_a_cifar_resnet_has_the_layers_of_its_name(depth):
    weighted = [
        module
        for module in cifar_resnet(depth).modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    assert len(weighted) == depth


@pytest.mark.parametrize(
    "options",
    [
        {"widths": ()},
        {"widths": (16, 0)},
        {"blocks_per_stage": 0},
        {"block": "pre"},
        {"shortcut": "none"},
        {"activation": "elu"},
        {"norm": "bach"},
        {"widths": (32, 16), "shortcut": "parameter-free"},
    ],
)
def test_bad_options_are_one_clear_line(options):
    with pytest.raises(InputError) as caught:
        SmallResNet(**options)
    assert "\n" not in str(caught.value)


def test_widths_and_blocks_are_followed():
    model = SmallResNet(widths=(8, 24, 24, 40), blocks_per_stage=1, in_channels=1, num_classes=4)
    assert [len(model.get_parameter(f"{name}.0.conv2.weight")) for name in model.stage_names] == [
        8,
        24,
        24,
        40,
    ]
    assert model(torch.randn(2, 1, 16, 16)).shape == (2, 4)
