"""`normscope explain` on layers that take every token by itself, against PyTorch in float64."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from printed_arithmetic import results_of
from torch.nn import functional as F

from normscope.errors import InputError
from normscope.show.token_arithmetic import invariances, losses, modes_text, token_steps
from normscope.studies.explain_layer import choose_layer, explain_tokens
from normscope.studies.grid import build_for, lay_out
from normscope.studies.options import GridOptions
from normscope.studies.spec import Recipe

VIT = Recipe(model="vit", depth=1, width=6, heads=2, qk_norm=True)
NORMS = ("layer", "layer-1p", "rms", "rms-1p", "dyt", "derf")
OPTIONS = GridOptions(norms=NORMS, learning_rates=(0.01,), seeds=1, epochs=1, recipe=VIT,
                      device="cpu", precision="fp32")  # fmt: skip


@pytest.fixture(scope="module")
def made():
    """Makes the explanation of a layer of an untrained network whose gains and biases are drawn."""
    grid = lay_out(OPTIONS)
    specs = {spec.norm: spec for spec in grid.specs}

    def make(norm, layer=None, change=lambda layer: None, channel=None):
        torch.manual_seed(3)
        model = build_for(grid.dataset, specs[norm])
        choice = choose_layer(model, layer, norm, channel)
        module = model.get_submodule(choice.name)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        change(module)
        return module, explain_tokens(
            model, choice, grid.dataset, specs[norm], channel=channel,
            meta={"spec": {"model": "vit", "data": "digits", "epochs": 1}},
        )  # fmt: skip

    return make


@pytest.mark.parametrize("norm", NORMS)
def test_every_output_is_that_of_the_layer_in_float64(made, norm):
    module, explanation = made(norm)
    given = torch.from_numpy(explanation.x).double()
    expected = copy.deepcopy(module).double()(given).detach().numpy()
    np.testing.assert_allclose(explanation.output(explanation.x), expected, rtol=1e-9, atol=1e-12)
    assert (explanation.layer, explanation.x.shape[1:]) == ("blocks.0.norm1", (16, 6))
    assert 0 < explanation.disagreement < 1e-4
    assert explanation.between_modes == explanation.alone == 0


def test_layers_of_heads_and_bare_ones(made):
    module, explanation = made("layer", "*query_norm")
    assert (explanation.kind, explanation.x.shape[1:]) == ("rms", (2, 16, 3))
    expected = F.rms_norm(torch.from_numpy(explanation.x), (3,), module.weight, 1e-6)
    np.testing.assert_allclose(explanation.output(explanation.x), expected.detach(), atol=1e-5)

    def strip(layer):
        layer.weight = layer.bias = None

    _, bare = made("layer", change=strip)
    assert bare.gain is bare.bias is None
    expected = F.layer_norm(torch.from_numpy(bare.x).double(), (6,), eps=1e-6)
    np.testing.assert_allclose(bare.output(bare.x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm != "derf"])
def test_every_line_of_the_arithmetic_holds_as_it_is_printed(made, norm):
    _, explanation = made(norm, channel=2)
    results = results_of(token_steps(explanation), ("sqrt", "tanh"))
    output = explanation.output(explanation.x)[(*explanation.token, 2)]
    assert results["output"] == pytest.approx(output, rel=1e-4)
    if norm.startswith("layer"):
        means = explanation.x[0].mean(-1)
        assert results["mean"] == pytest.approx(means[np.abs(means).argmax()], rel=1e-4)


def test_what_holds_is_measured_and_said(made):
    for norm, moved_by_one in (("layer", False), ("rms", True), ("dyt", True)):
        _, explanation = made(norm)
        undone = {
            change: "the same output" in holds for change, _, holds in invariances(explanation)
        }
        assert undone == {"3 · x": norm != "dyt", "x + 1": not moved_by_one}
        assert (explanation.moved("x + 1") > 0.1) == moved_by_one
        assert (explanation.moved("3 · x") > 0.1) == (norm == "dyt")
        if norm != "dyt":
            assert explanation.moved("3 · x", 0) < 1e-12 < explanation.moved("3 · x")
    _, layer = made("layer")
    mean, square = (np.square(part).mean(-1) for part in (layer.x.mean(-1, keepdims=True), layer.x))
    assert f"on average {100 * (mean / square).mean():.1f}% of" in losses(layer)[1]
    assert "eval mode are the same" in modes_text(layer)


def test_what_cannot_be_explained_is_one_line(made):
    class Doubling(torch.nn.LayerNorm):
        def forward(self, input):
            return 2 * super().forward(input)

    grid = lay_out(OPTIONS, {"norm": ("batch",)})
    model = build_for(grid.dataset, grid.specs[0])
    with pytest.raises(InputError, match="'blocks.0.norm1' is a TokenBatchNorm; expected"):
        choose_layer(model, None, "batch", None)
    model.blocks[0].norm1 = Doubling(6)
    with pytest.raises(InputError, match=r"is a Doubling; .*Those of this network: .*query_norm"):
        choose_layer(model, None, "mine:Doubling", None)
    with pytest.raises(InputError, match="has the channels 0 to 2"):
        choose_layer(model, "*query_norm", "batch", 3)


def test_the_command_writes_text_poster_and_page(again, tmp_path):
    for _ in range(2):  # trained, then found
        result = again(tmp_path / "out", recipe=VIT, norm="rms")
    assert re.findall(r"^(\d)\. ", result.text, flags=re.MULTILINE) == list("12345")
    assert "1 of 1 runs are finished already" in result.text
    assert "[N, T, C] = [128, 16, 6]" in result.text
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"explanation.html", "explanation.png"} <= names
    assert "explanation.sqlite" not in names
