"""Which entries of a state_dict are a normalization layer's, and which vectors are not."""

import pytest
import torch
from torch import nn

import norm_zoo
from normscope import check_state_dict
from normscope.commands.check import CheckOptions, run_check
from normscope.commands.diff import DiffOptions, run_diff
from normscope.errors import InputError
from normscope.examining.examine import examine, examine_state
from normscope.examining.state_and_loader import compare_keys
from normscope.user_models.loading import load_into
from normscope.user_models.norm_layers import normalization_layers
from normscope.user_models.state_dicts import norm_entries, unwrap_state, without_prefixes


class Block(nn.Module):
    """What a language model has beside its normalizations: vectors that are no gains."""

    def __init__(self, width=8):
        super().__init__()
        self.input_layernorm = norm_zoo.LlamaRMSNorm(width)
        self.q_norm = nn.RMSNorm(width)
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.Linear(width, width)
        self.act = nn.PReLU(width)
        self.norm_act = nn.Sequential(nn.LayerNorm(width), nn.PReLU(width))
        self.norms = nn.ModuleList([nn.RMSNorm(width), nn.RMSNorm(width)])
        self.gamma = nn.Parameter(torch.ones(width))  # a layer scale
        self.A_log, self.dt_bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.PReLU(width))


class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layers = nn.ModuleList([Block(), Block()])
        self.norm_f = norm_zoo.LlamaRMSNorm(8)
        self.logit_scale = nn.Parameter(torch.ones(1))


def test_a_language_models_layers_are_those_that_its_modules_show():
    model = LanguageModel()
    entries = norm_entries(model.state_dict())
    assert list(entries) == list(normalization_layers(model))
    assert entries["layers.0.ln_1"].kind == "layer"
    assert entries["norm_f"].kind == "rms"
    assert entries["layers.1.mlp.1"].recognized_by == "gain and bias"
    assert torch.equal(entries["norm_f"].values["weight"], model.norm_f.weight)


VECTOR, COLUMN = torch.ones(4), torch.ones(4, 1, 1)


@pytest.mark.parametrize(
    ("layer", "entries"),
    [
        ("model.layers.0.post_attention_layernorm", {"weight": VECTOR}),
        ("encoder.layer.0.output.LayerNorm", {"gamma": VECTOR, "beta": VECTOR}),
        ("layers.0.sa_norm", {"scale": VECTOR}),
        ("downs.0.block1.norm", {"g": COLUMN}),
        ("transformer.ln_f", {"weight": VECTOR, "bias": VECTOR}),
        ("stem.norm", {"weight": COLUMN, "bias": COLUMN}),
        ("norm", {"weight": torch.ones(4, 3), "bias": torch.ones(4, 3)}),
        ("layer4.gn2", {"weight": VECTOR, "bias": VECTOR}),
        ("norm.original_module", {"weight": VECTOR}),
        ("attn.norm_q", {"weight": VECTOR, "_extra_state": torch.zeros(0, dtype=torch.uint8)}),
        ("", {"weight": VECTOR, "bias": VECTOR}),
    ],
)
def test_gains_by_name_and_shape(layer, entries):
    state = {f"{layer}.{name}".strip("."): value for name, value in entries.items()}
    assert list(norm_entries(state)) == [layer]


@pytest.mark.parametrize(
    "state",
    [
        {"act.weight": VECTOR},  # PReLU
        {"features.2.weight": VECTOR},
        {"blocks.0.ls1.gamma": VECTOR},
        {"blocks.0.gamma": VECTOR},
        {"conv.weight_g": COLUMN, "conv.weight_v": torch.ones(4, 3, 3), "conv.bias": VECTOR},
        {"norm_proj.weight": torch.ones(4, 3), "norm_proj.bias": VECTOR},
        {"norm1.linear.weight": torch.ones(8, 4), "norm1.linear.bias": torch.ones(8)},
        {"normal_head.weight": VECTOR},
        {"feature_normalizer.scale": VECTOR, "feature_normalizer.mean": VECTOR},
        {"affine.0.weight": VECTOR, "affine.0.bias": VECTOR},
        {"head.bias": VECTOR, "norm.bias": VECTOR},
        {"norm.alpha": torch.ones(1), "norm.weight": VECTOR, "norm.bias": VECTOR},  # tanh
        {"norm.weight": torch.ones(4, dtype=torch.int8)},
        {"norm.0.weight": VECTOR, "norm.0.bias": VECTOR, "norm.1.bias": VECTOR},
        {"logit_scale": torch.ones(()), "norm.weight": torch.ones(())},
    ],
)
def test_vectors_that_are_no_gains(state):
    assert not set(norm_entries(state)) - {"norm.0"}


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
@pytest.mark.parametrize("averaged", [False, True])
def test_prefixes_of_wrappers_are_taken_off(prefix, averaged):
    model = LanguageModel()
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    state |= {"n_averaged": torch.tensor(3)} if averaged else {}
    assert without_prefixes(state).keys() == model.state_dict().keys()
    keys = compare_keys(state, LanguageModel())
    assert not keys.missing + keys.unexpected + keys.wrong_shape
    copy = LanguageModel()
    load_into(copy, {name: value + 1 for name, value in state.items()}, "x.pt")
    assert torch.equal(copy.norm_f.weight, model.norm_f.weight + 1)
    pair = examine(model, other=state).pair
    assert not pair.only_here
    assert not pair.only_there
    assert all(layer.affine_equal for layer in pair.layers)
    assert pair.weight_distance == 0


def test_a_model_whose_own_child_is_called_module():
    model = nn.ModuleDict({"module": nn.LayerNorm(4)})
    load_into(model, {"module.weight": torch.zeros(4)}, "x.pt")
    assert not model["module"].weight.any()
    keys = compare_keys(model.state_dict(), model)
    assert not keys.missing + keys.unexpected + keys.wrong_shape


@pytest.mark.parametrize("entry", ["", "model"])
def test_numpy_arrays_are_weights_too(entry):
    state = {name: value.numpy() for name, value in nn.BatchNorm1d(4).state_dict().items()}
    state["running_var"][2] = -1
    assert [f.code for f in check_state_dict({entry: state} if entry else state)] == ["NS102"]


def test_a_gain_that_is_not_finite_is_an_error_and_nothing_else_is_said():
    state = LanguageModel().bfloat16().state_dict()
    assert not check_state_dict(state)
    state["layers.1.norms.1.weight"][3] = torch.nan
    state["layers.0.ln_1.bias"][0] = torch.inf
    report = check_state_dict({"model": state})
    assert {(f.code, f.layer) for f in report} == {
        ("NS101", "layers.1.norms.1"), ("NS101", "layers.0.ln_1")
    }  # fmt: skip
    assert_the_rest_needs_the_model(report)
    assert report.layers == len(normalization_layers(LanguageModel()))


def assert_the_rest_needs_the_model(report):
    (missing,) = {entry.missing for entry in report.not_evaluated}
    assert missing == "the model itself, which a checkpoint does not hold"
    asked, lacking = report.rules, len(report.not_evaluated)
    assert f"{lacking} of {asked} rules need more: {lacking} the model itself" in " ".join(
        report.text().split()
    )


def test_only_what_values_alone_can_show_is_judged():
    zeros = {"norm.weight": torch.zeros(2), "ln.weight": torch.ones(1), "ln.bias": torch.ones(1)}
    report = check_state_dict(zeros)
    assert report.layers == 2
    assert not report
    assert_the_rest_needs_the_model(report)


def test_the_command_ends_with_a_status_that_says_what_it_saw(tmp_path, capsys):
    state = LanguageModel().state_dict()
    for value, status in ((1.0, 0), (float("nan"), 1)):
        state["norm_f.weight"][0] = value
        torch.save(state, tmp_path / "model.pt")
        assert run_check(CheckOptions(str(tmp_path / "model.pt"))) == status
    assert "layer: norm_f" in capsys.readouterr().out
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    for format in (None, "json", "sarif", "github", "html"):
        options = CheckOptions(str(tmp_path / "linear.pt"), format=format)
        assert run_check(options) == 2
        printed = capsys.readouterr()
        assert "linear.pt has no layer that is known to normalize" in printed.err
        assert "0 normalization layers" not in printed.out
    assert check_state_dict(nn.Linear(2, 2).state_dict()).text().splitlines()[0] == (
        "No normalization layer was recognized in the state_dict: none was judged."
    )


def test_running_statistics_without_gains_count_as_before():
    state = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False)).state_dict()
    (layer,) = examine_state(state).layers
    assert (layer.kind, layer.features, layer.live, layer.foreign) == ("batch", 4, True, False)


@pytest.mark.parametrize("content", [torch.ones(3), {"epoch": 1}, {}])
def test_what_is_no_state_dict(content):
    with pytest.raises(InputError, match="The checkpoint holds"):
        unwrap_state(content)


def test_diff_compares_gains_under_any_prefix(tmp_path, capsys):
    state = LanguageModel().state_dict()
    torch.save(state, tmp_path / "good.pt")
    state["norm_f.weight"] = state["norm_f.weight"] + 1
    torch.save({f"_orig_mod.{name}": value for name, value in state.items()}, tmp_path / "bad.pt")
    files = [str(tmp_path / name) for name in ("good.pt", "bad.pt")]
    assert run_diff(DiffOptions(*files)) == 1
    assert "First difference: norm_f; 1 of 15 shared layers" in capsys.readouterr().out
    assert run_diff(DiffOptions(files[0], files[0])) == 0
