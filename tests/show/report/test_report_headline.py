"""The first screen: what was found, how sure it is, and at which rate a swept setting is shown."""

import json

import numpy as np
import pytest
import torch
from report_pages import payload_of
from report_records import write_recording, write_study
from torch import nn

import normscope
from normscope.errors import InputError
from normscope.judge.claims import judge_all
from normscope.judge.headline import conclude, counts, passing
from normscope.records.run import RECORDING_NAME
from normscope.show.report.pages import report
from normscope.show.report.report_data import load_report_data
from normscope.show.shown_recording import Recording


def test_the_page_says_what_the_commands_say(study, tmp_path):
    data = load_report_data([study])
    found = payload_of(report(study, out=tmp_path / "report.html"))["conclusion"]
    assert [each["text"] for each in found["headlines"]] == conclude(data.runs).paragraphs()
    assert found["headlines"][0]["sentences"][0].startswith("At its own best rate each")
    assert found["headlines"][0]["note"]
    assert list(found["counts"].values()) == [
        f"{count} {'open' if outcome == 'cannot tell' else outcome}"
        for outcome, count in counts(judge_all(data.runs)).items()
        if count
    ]


def test_each_of_several_studies_has_its_headline(study, tmp_path):
    other = write_study(tmp_path / "other", norms=("group", "layer"), seeds=(0, 1, 2, 3))
    found = payload_of(report(study, other, out=tmp_path / "report.html"))["conclusion"]
    first, second = found["headlines"]
    assert first["subject"].startswith("study: small-resnet on digits")
    assert second["subject"].startswith("other: small-resnet on digits")
    assert "with group norm" in second["text"]
    assert "with batch norm" in first["text"]


def test_a_folder_without_runs_and_a_recording_have_none(tmp_path):
    path = write_recording(tmp_path / "r.sqlite")
    conclusion = payload_of(report(path))["conclusion"]
    assert conclusion == {"headlines": [], "counts": {}}


def test_the_page_of_a_recording_says_what_stands_out_as_its_summary_does(study, tmp_path):
    path = write_recording(tmp_path / "r.sqlite", weight=0)
    (said,) = payload_of(report(path))["remarks"]
    told = " ".join(Recording.load(path).summary().split())
    assert f"Net: {said['seen']} What stands out:" in told
    assert all(f"- {sentence}" in told for sentence in said["sentences"])
    both = payload_of(report(study, path, out=tmp_path / "both.html"))["remarks"]
    assert [(each["name"], each["sentences"]) for each in both] == [
        ("r.sqlite", said["sentences"])
    ], "runs of a study have the study's headline"


class TestInspected:
    @pytest.fixture
    def inspected(self, tmp_path):
        """A watched run of each norm; the second layer is the one that was inspected."""
        folder = write_study(tmp_path / "inspected", seeds=(0,))
        for number in (0, 1):
            write_recording(folder / "runs" / f"run{number}" / RECORDING_NAME)
        (folder / "inspection.json").write_text(json.dumps({"layers": ["layer1.bn"]}))
        return folder

    def test_the_share_that_passes_is_said_of_the_chosen_layer(self, inspected):
        page = payload_of(report(inspected))
        (headline,) = page["conclusion"]["headlines"]
        recordings = {
            norm: [Recording.load(inspected / "runs" / f"run{k}" / RECORDING_NAME)]
            for k, norm in enumerate(("batch", "none"))
        }
        sentence = passing(recordings, "layer1.bn")
        assert sentence in headline["sentences"]
        (view,) = (view for view in page["views"] if view["name"] == "overview_active")
        assert view["table"]
        share = float(sentence.split("%")[0].split()[-1])
        assert 0 < share < 100
        assert (
            f"{share:.1f}% of the values of layer1.bn pass the ReLU with batch norm, " in sentence
        )
        assert f"{share:.1f}% without (0.0 points; 1 seed, too few for an interval)." in sentence

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"layers": []}', '{"layers": 3}', "[" * 9999]
    )
    def test_a_damaged_file_of_the_inspection_is_left_out(self, inspected, text):
        (inspected / "inspection.json").write_text(text)
        (headline,) = payload_of(report(inspected))["conclusion"]["headlines"]
        assert "ReLU" not in headline["text"]

    def test_an_epoch_without_outputs_has_no_share(self, tmp_path):
        path = write_recording(tmp_path / "r.sqlite", counted=20)  # the third epoch begins
        recording = Recording.load(path)
        assert passing({"batch": [recording], "none": [recording]}) == ""

    def test_only_where_it_can_be_measured(self, inspected):
        recording = Recording.load(inspected / "runs" / "run0" / RECORDING_NAME)
        assert passing({"batch": [recording]}) == ""
        assert passing({"batch": [recording], "none": []}) == ""
        assert "stem.bn" in passing({"batch": [recording], "none": [recording]}, "no.such.layer")


def test_an_effect_over_several_rates_says_so(study, tmp_path):
    data = load_report_data([study])
    (verdict,) = (each for each in judge_all(data.runs) if each.code == "C201")
    rows = payload_of(report(study, out=tmp_path / "report.html"))["verdicts"]
    (row,) = (row for row in rows if row["claim"].startswith("C201"))
    assert row["quantity"].endswith("; mean over learning rates 0.01, 0.1")
    assert [text.split(":")[0] for text in row["settings"]] == ["lr 0.01", "lr 0.1"]
    assert np.isclose(np.mean([each.effect for each in verdict.settings]), verdict.effect)


def test_the_headline_is_above_everything_else(page, study_path):
    lead = page.locator("#headline .lead")
    first = payload_of(study_path)["conclusion"]["headlines"][0]["sentences"][0]
    assert lead.inner_text() == first
    assert page.locator("#headline .counts .pill").count() == 1
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert lead.bounding_box()["y"] < 260
        assert lead.bounding_box()["y"] < page.locator("#summary").bounding_box()["y"]
        assert not page.locator("#made-by table").is_visible()
        page.locator("#made-by summary").click()
        assert page.locator("#made-by table").is_visible()
        page.locator("#made-by summary").click()


def test_two_recordings_are_overlaid_with_the_answer_of_diff_first(tmp_path):
    paths = []
    for name, gain in (("good", 1.0), ("bad", 1.5)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 5), nn.LayerNorm(5))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        paths.append(tmp_path / name / "recording.sqlite")
        paths[-1].parent.mkdir()
        with normscope.watch(model, optimizer=optimizer, path=paths[-1], every=1):
            for step in range(1, 5):
                if step == 3:
                    model[3].weight.data[2] *= gain
                optimizer.zero_grad()
                model(torch.linspace(-1, 1, 32).reshape(8, 4) ** step).square().mean().backward()
                optimizer.step()
    folders = [path.parent for path in paths]
    page = payload_of(report(*folders, out=tmp_path / "two.html"))
    answer, *alone = page["remarks"]
    assert len(alone) == 2
    assert answer["sentences"][0].startswith("First difference: step 3, layer 3 (weight), equal")
    assert "at the end, at step 4" in answer["sentences"][-1]
    assert page["layers"][page["first_layer"]] == "3"
    same = payload_of(report(paths[0], paths[0], out=tmp_path / "same.html"))
    assert same["remarks"][0]["sentences"][0].startswith("Equal to the bit")
    (folders[0] / "record.sqlite").touch()  # a run's folder holds its record, too
    paths[0].rename(tmp_path / "elsewhere.sqlite")
    with pytest.raises(InputError, match="was not watched"):
        report(*folders, out=tmp_path / "two.html")
