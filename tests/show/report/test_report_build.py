"""The report as a file: what is in it, what is refused, and that nothing from a record becomes
code.
"""

import json
import re
import shutil

import numpy as np
import pytest
from filelock import FileLock
from report_pages import column, curve, payload_of
from report_records import HOSTILE, write_recording, write_run, write_study

from normscope.commands.report import ReportOptions, run_report
from normscope.errors import InputError
from normscope.judge.claims import judge_all
from normscope.records.progress import LOCK_NAME, write_plan
from normscope.records.run import RECORD_NAME
from normscope.show.figures.style import norm_styles
from normscope.show.palette import style_sheet, variable
from normscope.show.report.build import SCRIPTS, as_json, asset
from normscope.show.report.pages import report, report_after
from normscope.show.report.report_data import load_report_data
from normscope.show.report.views import SECTIONS, VIEWS


@pytest.fixture(scope="module")
def shown(study, tmp_path_factory):
    path = report(
        study, out=tmp_path_factory.mktemp("out") / "report.html", command="normscope compare"
    )
    return path, payload_of(path)


NOT_RECORDED = {
    "weight_gradient", "bias_gradient", "overview_positive", "overview_stream", "overview_share",
    "overview_cosine", "overview_logit",
}  # fmt: skip


class TestWhatIsShown:
    def test_every_view_has_its_data(self, shown):
        _, payload = shown
        assert [view["name"] for view in payload["views"]] == [
            view.name
            for view in VIEWS
            if view.name not in NOT_RECORDED and view.section != "sweeps"
        ]
        assert {view["section"] for view in payload["views"]} == set(SECTIONS) - {"sweeps"}

    def test_curves_hold_what_was_recorded(self, shown):
        _, payload = shown
        view = next(view for view in payload["views"] if view["name"] == "learning_rate")
        runs = payload["runs"]
        expected = [run["rate"] for run in runs for _ in range(run["epochs"])]
        assert np.allclose(column(view, "y"), expected)
        assert column(view, "x").tolist() == [*range(1, 7)] * len(runs)

    def test_summary_names_every_seed(self, shown):
        _, payload = shown
        assert len(payload["summary"]) == 4
        for row in payload["summary"]:
            finals = [
                run["test_accuracy"]
                for run in payload["runs"]
                if (run["arm"], run["rate"]) == (row["arm"], row["rate"])
            ]
            assert row["seeds"] == [
                f"{seed}: {100 * final:.1f}%" for seed, final in enumerate(finals)
            ]
            assert row["accuracy"].startswith(f"{100 * np.mean(finals):.1f}% ±")

    def test_claims_are_those_that_were_judged(self, study, shown):
        rows = shown[1]["verdicts"]
        expected = [
            verdict for verdict in judge_all(load_report_data([study]).runs) if verdict.values
        ]
        assert [(row["claim"], row["verdict"], row["n"]) for row in rows] == [
            (f"{verdict.code} {verdict.name}", verdict.outcome, verdict.n) for verdict in expected
        ]
        assert expected
        for row, verdict in zip(rows, expected, strict=True):
            assert len(row["values"]) == len(verdict.values)

    @pytest.mark.parametrize(
        ("norms", "arms"),
        [
            (("group", "layer"), ["group", "layer"]),
            (("none", "batch"), ["batch", "none"]),
            (("none", "group", "layer"), ["group", "none"]),
            (("layer", "batch"), ["batch", "layer"]),
        ],
    )
    def test_claims_are_judged_on_what_was_compared(self, norms, arms, tmp_path):
        study = write_study(tmp_path / "study", norms=norms, seeds=(0, 1, 2))
        rows = payload_of(report(study))["verdicts"]
        row = next(row for row in rows if row["claim"].startswith("C201"))
        assert [value.split(":")[0] for value in row["values"]] == arms
        is_usual = arms == ["batch", "none"]
        assert row["subject"].endswith(" against ".join(arms)) != is_usual

    def test_overviews_of_known_statistics(self, shown):
        _, payload = shown
        views = {view["name"]: view for view in payload["views"]}
        assert np.allclose(curve(views["overview_std"]), 2)
        assert np.allclose(curve(views["overview_gap"]), 0.5)  # |running - batch mean| = 1, std = 2
        assert np.allclose(curve(views["overview_mean"]), np.sqrt((0 + 1 + 4 + 9) / 4))
        assert np.allclose(curve(views["overview_weight"]), 2)
        assert not curve(views["overview_dead"]).any()
        assert not curve(views["overview_constant"]).any()

    def test_the_active_fraction_is_that_of_the_output(self, shown):
        # output 2 z + 1 is above zero where z > -0.5; z is binned from a Hann window on bins 20 to
        # 45
        views = {view["name"]: view for view in shown[1]["views"]}
        counts = np.zeros(66)
        counts[20:46] = (np.hanning(26) * 100).astype("u2")
        lower = np.concatenate([[-np.inf], np.linspace(-4, 4, 65)])
        assert lower[29] == -0.5
        expected = counts[29:].sum() / counts.sum()
        assert np.allclose(curve(views["overview_active"]), expected)

    def test_an_output_that_was_binned_by_itself_has_no_input(self, tmp_path):
        path = write_recording(tmp_path / "r.sqlite", layers=("plain",), output_only=True)
        views = {view["name"]: view for view in payload_of(report(path))["views"]}
        assert (column(views["ridges"], "low_input") == 65535).all()  # missing
        assert (column(views["ridges"], "low_output") < 65535).all()
        assert 0 < curve(views["overview_positive"])[0] < 1

    def test_several_studies_and_a_recording_side_by_side(self, tmp_path):
        for name in ("one", "two"):
            write_study(tmp_path / name, norms=("batch",), epochs=2)
        recording = write_recording(tmp_path / "watched.sqlite")
        path = report(tmp_path / "one", tmp_path / "two", recording)
        payload = payload_of(path)
        assert path == tmp_path / "one" / "report.html"
        assert [arm["label"] for arm in payload["arms"]] == ["one: batch", "two: batch"]
        assert len({(arm["colour"], arm["dash"]) for arm in payload["arms"]}) == 2
        assert [recording["run"] for recording in payload["recordings"]] == [None]

    def test_norms_are_in_the_order_that_was_asked_for(self, tmp_path):
        study = write_study(tmp_path / "study", epochs=1)
        (study / "summary.json").write_text(
            json.dumps({"groups": [{"norm": "none"}, {"norm": "batch"}]})
        )
        payload = payload_of(report(study))
        assert [arm["label"] for arm in payload["arms"]] == ["none", "batch"]
        assert "of none's mean final accuracy" in payload["summary_note"]

    def test_the_command_says_where_the_page_is(self, study, tmp_path, capsys):
        assert run_report(ReportOptions((study,), tmp_path / "r.html")) == 0
        assert capsys.readouterr().out == f"Open {tmp_path / 'r.html'}\n"

    def test_a_recording_alone(self, tmp_path):
        path = report(write_recording(tmp_path / "watched.sqlite"))
        assert path.name == "watched.report.html"
        assert payload_of(path)["title"] == "Net"

    @pytest.mark.parametrize(
        ("room", "name"),
        [("report", "page.css"), ("report", "page.html"), ("explanation_page", "explanation.css")],
    )
    def test_a_page_has_no_colour_of_its_own(self, room, name):
        text = asset(name, f"normscope.show.{room}")
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", text)
        known = set(re.findall(r"--([\w-]+):", style_sheet() + text)) | {"bar"}
        assert set(re.findall(r"var\(--([\w-]+)", text)) <= known

    def test_colours_are_those_of_the_figures(self):
        styles = norm_styles([f"norm{k}" for k in range(35)])
        colours = {style.colour for style in styles.values()}
        assert len(colours) == 7
        for colour in colours:
            assert f"{variable(colour)[4:-1]}: {colour};" in style_sheet()


class TestBadInput:
    def test_a_damaged_record_is_named_and_the_others_are_shown(self, tmp_path):
        study = write_study(tmp_path / "study")
        (study / "runs" / "run1" / RECORD_NAME).write_bytes(b"no record")
        payload = payload_of(report(study))
        assert len(payload["runs"]) == 3
        assert len(payload["problems"]) == 1
        assert "run1" in payload["problems"][0]

    def test_the_command_says_what_the_page_leaves_out(self, tmp_path, capsys):
        study = write_study(tmp_path / "study")
        write_plan(study, ["run0", "run1", "run2", "run3", "gone"])
        shutil.rmtree(study / "runs" / "run2")
        (study / "runs" / "run1" / RECORD_NAME).write_bytes(b"no record")
        assert run_report(ReportOptions((study,), out=tmp_path / "r.html")) == 0
        damaged, missing = capsys.readouterr().err.splitlines()
        assert damaged.startswith("Not shown: ")
        assert "run1" in damaged
        assert f"2 of 5 planned runs of {study}: no record of run2, gone (" in missing
        assert [f"Not shown: {each}" for each in payload_of(tmp_path / "r.html")["problems"]] == [
            damaged, missing
        ]  # fmt: skip

    def test_a_study_without_a_finished_run(self, tmp_path):
        study = write_study(tmp_path / "study", status="interrupted", epochs=2, done=1)
        payload = payload_of(report(study))
        assert {run["status"] for run in payload["runs"]} == {"interrupted"}
        seeds = ["0: interrupted, epoch 1 of 2", "1: interrupted, epoch 1 of 2"]
        assert payload["summary"][0]["seeds"] == seeds
        assert "2 interrupted of 2 runs" in payload["summary_note"]
        with FileLock(study / "runs" / "run0" / LOCK_NAME):  # as whoever trains it does
            payload = payload_of(report(study))
        assert payload["summary"][0]["seeds"][0] == "0: still training, epoch 1 of 2"
        assert payload["runs"][0]["status"] == "still training"
        assert "1 still training, 1 interrupted of 2 runs" in payload["summary_note"]

    def test_a_study_without_a_run(self, tmp_path):
        study = write_study(tmp_path / "study", norms=())
        (study / "runs" / "begun").mkdir(parents=True)
        assert payload_of(report(study))["views"] == []

    @pytest.mark.parametrize("status", ["diverged", "failed"])
    def test_a_run_without_numbers(self, tmp_path, status):
        study = write_study(tmp_path / "study")
        write_run(study / "runs" / "bad", "batch", 0.1, 7, done=1, status=status)
        row = next(row for row in payload_of(report(study))["summary"] if row["arm"] == 0)
        assert f"7: {status}" in row["seeds"]

    def test_a_foreign_file_is_left_as_it_is(self, tmp_path):
        study = write_study(tmp_path / "study", norms=("batch",), seeds=(0,), epochs=1)
        (study / "report.html").write_text("<p>mine</p>")
        with pytest.raises(InputError, match="is not a normscope report"):
            report(study)
        assert (study / "report.html").read_text() == "<p>mine</p>"
        (study / "report.html").unlink()
        assert report(study) == report(study)  # its own it replaces

    @pytest.mark.parametrize(
        ("what", "message"), [("nothing", "There is nothing at"), ("folder", "no normscope.json")]
    )
    def test_what_is_no_study(self, tmp_path, what, message):
        (tmp_path / "folder").mkdir()
        with pytest.raises(InputError, match=message):
            report(tmp_path / what)

    def test_out_is_checked(self, tmp_path):
        study = write_study(tmp_path / "study", norms=())
        with pytest.raises(InputError, match="is a folder"):
            report(study, out=tmp_path)
        with pytest.raises(InputError, match="no folder"):
            report(study, out=tmp_path / "missing" / "r.html")

    def test_after_another_command_a_report_that_fails_is_a_line(self, tmp_path, capsys):
        study = write_study(tmp_path / "study", norms=())
        (study / "report.html").write_text("mine")
        assert report_after(study) is None
        assert "no report" in capsys.readouterr().err


class TestNothingBecomesCode:
    def test_hostile_names_stay_inside_the_json(self, tmp_path):
        study = write_study(tmp_path / "study", norms=(HOSTILE,), seeds=(0,), epochs=1)
        recording = write_recording(tmp_path / "r.sqlite", layers=(HOSTILE,))
        path = report(study, recording)
        text = path.read_text()
        assert HOSTILE not in text
        assert "<img src=x" not in text
        assert text.count("</script>") == 3
        payload = payload_of(path)
        assert payload["arms"][0]["label"] == HOSTILE
        assert payload["layers"] == [HOSTILE]
        assert HOSTILE not in json.dumps([view["spec"] for view in payload["views"]])

    def test_specs_do_not_depend_on_records(self, shown):
        assert {view["name"]: view["spec"] for view in shown[1]["views"]} == {
            view.name: view.spec
            for view in VIEWS
            if view.name in {view["name"] for view in shown[1]["views"]}
        }

    def test_no_eval_no_inline_markup_no_network(self, shown):
        policy = re.search(r'Content-Security-Policy" content="([^"]*)"', shown[0].read_text())[1]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "http" not in policy
        ours = "".join(asset(name) for name in SCRIPTS)
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "eval(",
            "new Function",
            "fetch(",
            "http://www.w3",
        ):
            assert (word in ours) == (word == "http://www.w3"), (
                word
            )  # the last is SVG's name, not an address

    def test_json_holds_no_markup(self):
        value = {"a": ["</script>", "<!--", "&amp;", "\u2028", float("nan"), float("inf")]}
        text = as_json(value)
        assert not set("<>&\u2028") & set(text)
        assert json.loads(text)["a"][:4] == value["a"][:4]
        assert json.loads(text)["a"][4:] == [None, None]
