"""Two trainings that are equal but for one planted change: its step and layer are named."""

import itertools
import json
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from normscope.cli import main
from normscope.commands.watch import watch
from normscope.judge.recording_difference import difference_of
from normscope.records.recording import Recording

STEPS = 10
NORMS = ("1", "4", "7")


def network(norm):
    torch.manual_seed(0)
    widths = (4, 6, 8, 5)
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), norm(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def recorded(
    path=None, *, norm=nn.BatchNorm1d, change=None, at=None, layer=None, size=0.01, every=1
):
    """The recording of a training in which something is changed before a step."""
    model = network(norm)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    draw = torch.Generator().manual_seed(3)
    options = {"every": every, "histograms_every": 4, "gradients_every": every}
    watcher = watch(model, optimizer=optimizer, path=path, **options)
    for step in range(1, STEPS + 1):
        x, y = torch.randn(16, 4, generator=draw), torch.randint(0, 5, (16,), generator=draw)
        if step == at:
            changed = model.get_submodule(layer)
            if change == "eps":
                changed.eps *= 2
            elif change == "momentum":
                changed.momentum = 0.2
            elif change == "gain":
                with torch.no_grad():
                    changed.weight[1] += size
            elif change == "batch":
                x = x + 1e-3
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if step == at and change == "gradient":
            for parameter in model.parameters():
                parameter.grad *= 1.001
        optimizer.step()
    recording = watcher.recording
    watcher.close(quiet=True)
    return recording


def difference(one, other, again=None):
    return difference_of(one, other, again, names=("a", "b"))


@pytest.mark.parametrize("change", ["eps", "momentum", "gain", "batch", "gradient"])
def test_a_planted_change_is_named_with_its_step_and_layer(change):
    draw = random.Random(change)
    good = recorded()
    for _ in range(3):
        at, layer = draw.randint(1, STEPS), draw.choice(NORMS)
        found = difference(good, recorded(change=change, at=at, layer=layer))
        assert found.first is not None
        assert found.first.step == at
        assert found.equal_before == at - 1
        assert found.growth[0][0] == at
        assert found.growth[0][1] >= found.first.distance
        if change == "gradient":  # of all layers: the last is where a backward begins
            assert (found.first.layer, "gradient" in found.first.statistic) == (NORMS[-1], True)
        else:
            assert found.first.layer == ("1" if change == "batch" else layer)


def test_equal_trainings_have_no_difference():
    for norm in (nn.BatchNorm1d, nn.LayerNorm):
        found = difference(recorded(norm=norm), recorded(norm=norm))
        assert not found
        assert found.compared == STEPS
        assert "Equal to the bit" in found.text()


def test_a_rounding_is_told_from_more():
    good = recorded()
    small = difference(good, recorded(change="gain", at=5, layer="4", size=2e-7))
    large = difference(good, recorded(change="gain", at=5, layer="4", size=0.01))
    assert (small.first.size, large.first.size) == ("rounding", "more than rounding")
    again = recorded(change="gain", at=5, layer="4", size=0.02)
    one = difference(good, recorded(change="gain", at=5, layer="4"), again)
    assert one.first.size == "within the noise of equal runs"


def test_layers_and_settings_of_one_alone_are_named():
    found = difference(recorded(), recorded(norm=nn.LayerNorm))
    assert any(setting.startswith("1 has type BatchNorm1d") for setting in found.settings)
    assert found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    recorded(folder / "good.sqlite")
    recorded(folder / "bad.sqlite", change="gain", at=6, layer="4")
    return folder


def status(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["diff", *arguments])
    return ended.value.code


def test_the_command_answers_first_and_has_a_status(files, capsys):
    good, bad = str(files / "good.sqlite"), str(files / "bad.sqlite")
    assert status(good, good) == 0
    assert status(good, bad) == 1
    text = capsys.readouterr().out
    first = "First difference: step 6, layer 4 (weight), equal to the bit in every step before."
    assert first in text
    assert status(good, bad, "--format", "json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["first"]["step"], answer["first"]["layer"]) == (6, "4")
    assert [row[0] for row in answer["growth"]] == [6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("every", "change", "words"),
    [
        (4, {"change": "gain", "at": 9, "layer": "4"},
         "step 9, layer 4 (weight), equal to the bit at the 2 recorded steps before, the last of "
         "them step 5."),
        (4, {"change": "gain", "at": 5, "layer": "4"},
         "step 5, layer 4 (weight), equal to the bit at step 1."),
        (4, {"change": "batch", "at": 1, "layer": "1"}, "step 1, layer 1 (batch mean)."),
    ],
)  # fmt: skip
def test_of_what_was_not_recorded_nothing_is_said(every, change, words):
    good, bad = recorded(every=every), recorded(every=every, **change)
    text = difference_of(good, bad, names=("good", "bad")).text()
    assert f"First difference: {words}" in " ".join(text.split())
    assert "inf" not in text


def test_what_cannot_be_compared_is_one_line(files, tmp_path, capsys):
    torch.save({"norm.weight": torch.ones(3)}, tmp_path / "weights.pt")
    good, weights = str(files / "good.sqlite"), str(tmp_path / "weights.pt")
    begun = str(tmp_path / "begun.sqlite")
    watch(network(nn.BatchNorm1d), path=begun).close(quiet=True)
    for arguments, says in (
        ([good, weights], "the other side is none"),
        ([good, good, "--again", weights], "is no recording"),
        ([good, begun], "begun.sqlite holds no step"),
        ([weights, weights, "--again", good], "--again is for two recordings"),
    ):
        assert status(*arguments) == 2
        assert says in capsys.readouterr().err.replace("\n", " ")


def test_an_eps_that_changes_and_values_that_are_not_finite_are_said():
    good, bad = recorded(), recorded(change="eps", at=4, layer="4")
    assert any("From step 4 on 4 has eps 2e-05" in note for note in bad.notes)
    assert not any("eps" in note for note in good.notes)
    nan = recorded(change="gain", at=4, layer="4", size=float("nan"))
    found = difference(good, nan)
    assert "inf" not in found.growth_sentence
    text = " ".join(found.text().split())
    assert "the values of a are 0, or those of one of the two are not finite" in text


def test_a_recording_that_is_loaded_gives_the_same(files):
    one, other = (Recording.load(files / name) for name in ("good.sqlite", "bad.sqlite"))
    assert difference(one, other).first.step == 6
