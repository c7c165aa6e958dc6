import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from normscope.errors import InputError
from normscope.models.network import ACTIVATIONS, resolve_activation
from normscope.models.norms import NORMS, NoisyBatchNorm2d, is_code, needs_bias, resolve_norm

USER_MODULE = """
from torch import nn

class Holder:
    norm = nn.BatchNorm2d

number = 3

def good(channels):
    return nn.GroupNorm(4, channels)

def fails(channels):
    raise ValueError("two\\nlines.")

def returns_none(channels):
    return None

def returns_a_class(channels):
    return nn.BatchNorm2d
"""


@pytest.fixture(autouse=True)
def user_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "user_test_norms.py").write_text(USER_MODULE)
    (tmp_path / "broken_test_norms.py").write_text("raise RuntimeError('broken\\nmodule')")
    (tmp_path / "needy_test_norms.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("user_test_norms", None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("batch", nn.BatchNorm2d(16)),
        ("none", nn.Identity()),
        ("group", nn.GroupNorm(8, 16)),
        ("layer", nn.GroupNorm(1, 16)),
        ("instance", nn.InstanceNorm2d(16, affine=True)),
        ("noisy-batch", NoisyBatchNorm2d(16)),
        ("user_test_norms:good", nn.GroupNorm(4, 16)),
        ("user_test_norms:Holder.norm", nn.BatchNorm2d(16)),
        ("torch.nn:LocalResponseNorm", nn.LocalResponseNorm(16)),
    ],
)
def test_a_name_resolves_to_its_module(name, expected):
    norm = resolve_norm(name)(16)
    assert repr(norm) == repr(expected)
    assert needs_bias(norm) == (name == "none")
    assert is_code(name) == (name not in NORMS)


def test_a_factory_stands_for_itself():
    assert resolve_norm(nn.BatchNorm2d) is nn.BatchNorm2d


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "bach",
            "Unknown normalization 'bach'. Did you mean 'batch'? Known: batch, none, group, "
            "layer, instance, noisy-batch, ghost-batch. Or your own as module:callable.",
        ),
        (":good", "Normalization ':good' is not of the form module:callable."),
        (
            "user_test_norms:",
            "Normalization 'user_test_norms:' is not of the form module:callable.",
        ),
        (
            "no_such_module:make",
            "Normalization 'no_such_module:make': importing 'no_such_module' failed: "
            "ModuleNotFoundError: No module named 'no_such_module'.",
        ),
        (
            "needy_test_norms:make",
            "Normalization 'needy_test_norms:make': importing 'needy_test_norms' failed: "
            "ModuleNotFoundError: No module named 'no_such_module'.",
        ),
        (
            "broken_test_norms:make",
            "Normalization 'broken_test_norms:make': importing 'broken_test_norms' failed: "
            "RuntimeError: broken.",
        ),
        (
            "user_test_norms:gone",
            "Normalization 'user_test_norms:gone': module 'user_test_norms' has no "
            "attribute 'gone'.",
        ),
        (
            "user_test_norms:number",
            "Normalization 'user_test_norms:number' is of type int; expected a callable.",
        ),
        (
            "user_test_norms:fails",
            "Normalization 'user_test_norms:fails' failed for 16 channels: ValueError: two.",
        ),
        (
            "user_test_norms:returns_none",
            "Normalization 'user_test_norms:returns_none' returned a NoneType; "
            "expected an nn.Module.",
        ),
        (
            "user_test_norms:returns_a_class",
            "Normalization 'user_test_norms:returns_a_class' returned a type; "
            "expected an nn.Module.",
        ),
    ],
)
def test_what_cannot_be_a_norm_is_one_clear_line(name, message):
    with pytest.raises(InputError) as caught:
        resolve_norm(name)(16)
    assert str(caught.value) == message


def test_channels_that_eight_groups_do_not_divide_are_refused():
    with pytest.raises(
        InputError, match=r"^Normalization 'group' cannot divide 12 channels into 8 groups\.$"
    ):
        resolve_norm("group")(12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_torchs_function_of_that_name_and_leaves_its_input(name):
    x = torch.linspace(-3, 3, 13)
    before = x.clone()
    function = getattr(nn.functional, name, None) or getattr(torch, name)
    assert torch.equal(resolve_activation(name)()(x), function(before))
    assert torch.equal(x, before)


def test_an_unknown_activation_lists_the_known_ones():
    with pytest.raises(InputError, match="Known: relu, sigmoid, tanh, gelu, silu, leaky_relu"):
        resolve_activation("swish")
