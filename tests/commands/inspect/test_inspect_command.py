"""`normscope inspect` as a whole, on two classes of digits: numbers, figures, bad input."""

import csv
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from normscope.commands.inspect import InspectOptions, file_names, inspect
from normscope.errors import InputError
from normscope.judge.layer_measures import dead_channels
from normscope.judge.timeline import Timeline
from normscope.records.recording import Recording
from normscope.show.figures import activation_regions_figure as activation_regions
from normscope.show.figures import recording_distributions, recording_overview, recording_statistics
from normscope.studies import runner
from normscope.studies.grid import lay_out
from normscope.studies.spec import Recipe

pytestmark = pytest.mark.usefixtures("blank_figures")  # those of `done` are drawn

OPTIONS = InspectOptions(
    epochs=2,
    jobs=1,
    device="cpu",
    precision="fp32",
    seeds=1,
    recipe=Recipe(model="bird-plane", batch_size=32),
)


def run(options):
    """(result, what was printed, 80 columns wide)."""
    told = io.StringIO()
    return inspect(options, console=Console(file=told, width=80)), told.getvalue()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return run(dataclasses.replace(OPTIONS, out=tmp_path_factory.mktemp("inspect")))


def test_every_file_is_written_and_named(done):
    result, text = done
    names = {
        "res_block1.bn1_distributions.png", "res_block1.bn1_statistics.png", "overview.png",
        "activation_regions.png",
        "inspection.csv", "inspection.json", "recording.sqlite",
    }  # fmt: skip
    assert names <= {item.name for item in result.directory.iterdir()}
    assert all(name in text.replace("\n", " ") for name in names)
    for name in names:
        if name.endswith(".png"):
            with Image.open(result.directory / name) as image:
                assert min(image.size) > 400
    assert "…" not in text, "a table does not fit 80 columns"


def test_accuracies_and_regions_are_those_of_the_runs(done):
    result, text = done
    numbers = json.loads((result.directory / "inspection.json").read_text())
    assert numbers == json.loads(json.dumps(result.numbers))
    assert [run["norm"] for run in numbers["runs"]] == ["batch", "none"]
    for told, own in zip(numbers["runs"], result.runs, strict=True):
        assert told["test_accuracy"] == own.column("test_accuracy")[-1]
        assert told["train_accuracy"] == own.column("train_accuracy")[-1]
        assert f"{100 * told['test_accuracy']:.1f}%" in text
    places = {(row["norm"], row["layer"], row["epoch"]) for row in numbers["activation_regions"]}
    layers = ("bn_initial", "res_block1.bn1", "res_block1.bn2", "res_block1.bn3")
    assert places == {
        (norm, layer, epoch) for norm in ("batch", "none") for layer in layers for epoch in (1, 2)
    }
    for row in numbers["activation_regions"]:
        assert row["via"] == (["addition"] if row["layer"] == "res_block1.bn3" else [])
        assert row["activation"] == "relu"
        # the derivative of ReLU is 1 where it is active and 0 elsewhere
        assert row["mean_derivative"] == pytest.approx(row["active"], abs=1e-2)
        assert 0 < row["named"] <= row["active"] < 1


def test_the_table_has_the_final_weights(done):
    import torch

    result, _ = done
    rows = list(csv.DictReader((result.directory / "inspection.csv").read_text().splitlines()))
    assert [int(row["channel"]) for row in rows] == list(range(16))
    weights = torch.load(result.runs[0].directory / "weights.pt", weights_only=True)
    running = weights["res_block1.bn1.running_mean"].numpy()
    assert np.allclose([float(row["running_mean"]) for row in rows], running, rtol=1e-5, atol=1e-7)
    assert np.allclose(
        [float(row["output_std"]) for row in rows], [float(row["weight"]) for row in rows], rtol=0.2
    )


def test_the_recording_at_hand_is_the_normalized_run_s(done):
    result, _ = done
    recording = Recording.load(result.directory / "recording.sqlite")
    assert recording.complete
    assert recording.layers["res_block1.bn1"].type == "BatchNorm2d"
    own = Recording.load(result.runs[0].directory / "recording.sqlite")
    for layer in recording.layers:
        assert np.array_equal(recording.query(layer, "weight")[1], own.query(layer, "weight")[1])


def test_again_with_another_layer_nothing_is_trained(done, monkeypatch):
    result, _ = done
    monkeypatch.setattr(runner, "train", lambda *a, **k: pytest.fail("trained again"))
    again, text = run(dataclasses.replace(OPTIONS, out=result.directory, layer="*.bn[23]"))
    assert again.layers == ("res_block1.bn2", "res_block1.bn3")
    assert "2 of 2 runs are finished already" in text
    assert (result.directory / "res_block1.bn3_statistics.png").exists()
    assert len((result.directory / "inspection.csv").read_text().splitlines()) == 33


# -- figures, from the recording alone


def test_ridges_are_the_distributions_and_the_region_is_marked(done, tmp_path):
    recording = Recording.load(done[0].directory / "recording.sqlite")
    figure = recording_distributions.draw(recording, "res_block1.bn1", tmp_path / "a.png", epoch=1)
    given, made = figure.axes
    assert [
        len([c for c in axis.collections if c.get_gid() == "ridge"]) for axis in (given, made)
    ] == [16, 16]
    region = next(patch for patch in made.patches if patch.get_gid() == "region").get_extents()
    corners = [(region.x0, region.y0), (region.x1, region.y0)]
    ends = made.transData.inverted().transform(corners)[:, 0]
    assert np.allclose(ends, (0, made.get_xlim()[1]))  # a ReLU passes all that is above zero
    assert not [patch for patch in given.patches if patch.get_gid() == "region"]
    first, last = Timeline.of(recording).span(1)
    whole = recording.distribution("res_block1.bn1", "input", first=first, last=last)
    low, high = given.get_xlim()
    assert low < np.median(whole.edges) < high
    later = recording_distributions.draw(recording, "res_block1.bn1", tmp_path / "b.png")
    assert len([line for line in later.axes[0].lines if line.get_gid() == "first epoch"]) == 16


def test_lines_are_the_recorded_statistics(done, tmp_path):
    recording = Recording.load(done[0].directory / "recording.sqlite")
    figure = recording_statistics.draw(recording, "res_block1.bn1", tmp_path / "a.png")
    means = [
        line for axis in figure.axes for line in axis.lines if line.get_gid() == "running mean"
    ]
    _, expected = recording.query("res_block1.bn1", "running_mean")
    assert np.array_equal(np.array([line.get_ydata() for line in means]).T, expected)
    weight = next(axis for axis in figure.axes if axis.get_title(loc="left") == "weight")
    _, expected = recording.query("res_block1.bn1", "weight")
    assert np.array_equal(np.array([line.get_ydata() for line in weight.lines]).T, expected)


def test_a_band_spans_the_batch_means():
    values = np.random.default_rng(0).normal(size=100)
    places, low, high = recording_statistics.envelope(np.arange(100.0), values)
    assert len(places) == recording_statistics.intervals(100) == 12
    assert low.min() == values.min()
    assert high.max() == values.max()
    assert np.all(low <= high)


def test_dead_channels_are_those_of_which_nothing_passes(done):
    recording = done[0].recordings["none"][0]
    steps, shares = dead_channels(recording, "res_block1.bn2")
    for step, share in list(zip(steps, shares, strict=True))[:5]:
        output = recording.distribution("res_block1.bn2", "output", first=int(step), last=int(step))
        assert share == np.mean(output.edges[:, -1] <= 0.0)


def test_time_is_counted_in_epochs(done):
    timeline = Timeline.of(done[0].recordings["batch"][0])
    assert timeline.span(2) == (10, 18)  # 287 images make 9 batches
    assert timeline.at(np.array([0, 9, 18])).tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="no epoch 3"):
        timeline.span(3)


def test_all_layers_and_norms_are_on_the_pages(done, tmp_path):
    recordings = done[0].recordings
    figure = recording_overview.draw(
        {norm: own[0] for norm, own in recordings.items()}, tmp_path / "a.png"
    )
    tables = [axis for axis in figure.axes if axis.collections and axis.get_gid() != "scale"]
    assert len(tables) >= 8
    figure = activation_regions.draw(
        recordings, ["bn_initial", "res_block1.bn1"], tmp_path / "b.png"
    )
    drawn = {line.get_gid(): line for line in figure.axes[1].lines}
    rows = [
        row
        for row in done[0].numbers["activation_regions"]
        if row["epoch"] == 2 and row["norm"] == "none"
    ]
    expected = [row["active"] for row in rows if row["layer"] in ("bn_initial", "res_block1.bn1")]
    assert np.allclose(drawn["none last"].get_xdata(), expected)


# -- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "res_block1.bn9"}, r"res_block1\.bn1"),
        ({"layer": "res_block1.conv1"}, "not a normalization layer; expected one of bn_initial"),
        ({"norm": "bathc"}, "batch"),
        (
            {"norm": "torch.nn:Identity"},
            "no layer that normalizes: its norm is 'torch.nn:Identity'",
        ),
        ({"norm": "dyt", "recipe": Recipe(model="vit", depth=1)}, "no layer that normalizes"),
        ({"classes": ("3", "x")}, "x"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(change, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        inspect(
            dataclasses.replace(OPTIONS, out=tmp_path / "new", **change),
            console=Console(file=io.StringIO()),
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_none_is_no_normalization_to_inspect():
    with pytest.raises(InputError, match="expected one to inspect"):
        InspectOptions(norm="none")


def test_the_network_s_own_normalization_is_inspected_unless_another_is_named():
    for options, norms in (
        (OPTIONS, ("batch", "none")),
        (dataclasses.replace(OPTIONS, recipe=Recipe(model="vit", depth=1)), ("layer", "none")),
        (dataclasses.replace(OPTIONS, norm="group"), ("group", "none")),
    ):
        assert lay_out(options.study).norms == norms


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(InputError, match="not a normscope study"):
        inspect(dataclasses.replace(OPTIONS, out=tmp_path), console=Console(file=io.StringIO()))
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("res_block1.bn1", "res_block1.bn1"),
        ("a/b c:*", "a_b_c_"),
        ("../..", "_"),
        ("", "layer"),
        ("x" * 300, "x" * 100),
    ],
)
def test_file_names_are_safe(layer, expected):
    assert file_names([layer]) == {layer: expected}


def test_file_names_are_different_where_letters_have_no_case():
    assert file_names(["a b", "a_B", "a:b"]) == {"a b": "a_b", "a_B": "a_B-2", "a:b": "a_b-3"}


def test_no_two_layers_share_a_file():
    layers = ["a:b", "a_b", "a_b-2", "A?B", "a_b-3", "a/b-2"]
    names = file_names(layers)
    assert list(names) == layers
    assert len({name.lower() for name in names.values()}) == len(layers)
