"""Studies and claims as a user runs them, on the digits, small; and what is refused."""

import json
import shutil

import pytest
import tyro
from rich.console import Console

from normscope.commands.claims import ClaimsOptions, claims, judge_directories
from normscope.commands.study import StudyOptions, study, train_study
from normscope.errors import InputError, RecordError
from normscope.judge.claims import judge_all
from normscope.studies.directory import StudyDirectory
from normscope.studies.grid import lay_out
from normscope.studies.labels import describe_study, run_labels
from normscope.studies.study_plans import (
    GridPlan,
    built_in_studies,
    checked_values,
    find_study,
    parse_sweeps,
    read_study,
)

TINY = """
description = "Two tiny networks."
[settings]
data = "digits"
classes = ["3", "8"]
widths = [4, 8, 8]
blocks_per_stage = 1
epochs = 2
seeds = 3
learning_rates = [0.1]
device = "cpu"
fusion = "off"
capture_epochs = [1, 2]

[[grid]]
measure = ["batch-statistics"]
[[grid]]
measure = []
[grid.sweep]
initialization_scale = [1, 0.1]
"""


pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small are slower on two threads, far slower where other work has the cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normscope.studies.executors.usable_cores", lambda: 1)
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study that was run: the file, its folder, and the result."""
    place = tmp_path_factory.mktemp("claims")
    (place / "tiny.toml").write_text(TINY)
    options = StudyOptions(study=str(place / "tiny.toml"), jobs=1, out=place / "out")
    return place / "tiny.toml", place / "out", train_study(options, Console(quiet=True))


def test_a_study_trains_its_grids_each_run_once_and_judges_them(done):
    _, out, result = done
    assert len(result.runs) == 2 * 2 * 3, "the two grids share the runs with scale 1"
    assert {run.status for run in result.runs} == {"finished"}
    written = json.loads((out / "claims.json").read_text())
    needed = {
        "code",
        "name",
        "verdict",
        "effect",
        "unit",
        "interval",
        "n",
        "values",
        "needs",
        "source",
    }
    assert all(needed <= set(entry) for entry in written["claims"])
    by_code = {entry["code"]: entry for entry in written["claims"]}
    assert by_code["C203"]["n"] == 3
    assert by_code["C601"]["needs"].endswith("each arm learning from one of them"), (
        "two epochs are too few"
    )
    assert set(by_code["C203"]["values"]) == {"batch", "none"}
    assert by_code["C501"]["verdict"] == "cannot tell"
    assert "learning rates" in by_code["C501"]["needs"]


def test_the_results_are_a_page_and_a_figure_for_each_claim_with_values(done):
    _, out, result = done
    page = (out / "claims.md").read_text()
    for verdict in result.verdicts:
        figure = f"claims/{verdict.code}-{verdict.name}.png"
        assert (out / figure).exists() == bool(verdict.values) == (figure in page)
        assert f"{verdict.code} {verdict.name}" in page


def test_judging_again_gives_the_same_also_from_two_folders_that_share_runs(done, tmp_path, capsys):
    _, out, result = done
    shutil.copytree(out, tmp_path / "copy")
    (tmp_path / "claims").mkdir()
    for name in ("C999-of-before.png", "Chart.png"):
        (tmp_path / "claims" / name).touch()
    again = claims(out, tmp_path / "copy", out=tmp_path)
    assert [verdict.to_json() for verdict in again.verdicts] == [
        verdict.to_json() for verdict in result.verdicts
    ]
    assert not (tmp_path / "claims" / "C999-of-before.png").exists(), (
        "a figure that no verdict has any more"
    )
    assert (tmp_path / "claims" / "Chart.png").exists()
    told = capsys.readouterr().out
    assert "C203 learns-more-often" in told
    assert "What would settle the open ones" in told


def test_part_of_a_study_is_judged_and_what_it_lacks_is_named(done):
    part = [run for run in done[2].runs if run.seed < 2]
    (verdict,) = (found for found in judge_all(part) if found.code == "C203")
    assert (verdict.outcome, verdict.n) == ("cannot tell", 2)
    assert verdict.needs == "1 more seed of both arms: n = 2 is too few for a test"


def test_one_more_seed_trains_only_what_is_new(done, tmp_path):
    file, out, _ = done
    shutil.copytree(out, tmp_path / "more")
    console = Console(record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        result = study(file, seeds=4, jobs=1, out=tmp_path / "more", console=console)
    assert len(result.runs) == 16
    told = console.export_text()
    assert "Study tiny: 16 runs" in told
    assert "   8 runs of 2 epochs: norm batch, none; learning rate 0.1; 4 seeds\n" in told
    assert "12 of 16 runs are finished already" in told
    assert "Measured beside training: batch-statistics of 2 runs." in told, (
        "of those that the first grid has"
    )


def test_a_study_says_which_runs_it_trains_and_roughly_how_long_they_take(tmp_path):
    plan = find_study("quick")
    grids = [lay_out(grid.options({"device": "cpu"}), grid.sweep) for grid in plan.grids]
    text = describe_study(plan, grids, StudyDirectory(tmp_path), jobs=2)
    assert text.startswith(f"Study quick: 75 runs, into {tmp_path}\n  {plan.description}\n")
    assert "30 runs of 10 epochs: norm batch, none; learning rate 0.01, 0.1, 1; 5 seeds\n" in text
    assert "learning rate 0.1; initialization scale 0.1, 1, 3; 5 seeds" in text
    assert text.endswith("Roughly 3 minutes with 2 workers.")


def test_a_damaged_record_is_named(done, tmp_path):
    _, out, _ = done
    shutil.copytree(out, tmp_path / "bad")
    victim = sorted((tmp_path / "bad" / "runs").iterdir())[0]
    (victim / "record.sqlite").write_bytes(b"nonsense")
    with pytest.raises(RecordError, match=victim.name):
        claims(tmp_path / "bad")


def test_the_help_names_every_built_in_study():
    for name in built_in_studies():
        assert f" {name}" in " ".join((StudyOptions.__doc__ or "").split())


def test_every_built_in_study_can_be_laid_out_but_for_its_data():
    for name in built_in_studies():
        for grid in find_study(name).grids:
            options = grid.options({"device": "cpu", "seeds": 1})
            if options.data == "digits":
                assert lay_out(options, grid.sweep).specs


def test_runs_are_told_apart_by_what_differs_and_is_not_usual():
    options = GridPlan(
        {"data": "digits", "seeds": 1, "learning_rates": (0.1,), "norms": ("batch",)}
    ).options({})
    sweep = {
        "batch_size": (8, 128),
        "initialization_scale": (1.0, 0.1),
        "block": (None, "formula"),
        "epochs": (2, 3),
    }
    specs = lay_out(options, sweep).specs
    labels = run_labels(specs)
    assert set(labels) == {spec.name for spec in specs}
    assert len(set(labels.values())) == len(specs) == 16
    assert {
        "batch  lr 0.1  epochs 2  seed 0",
        "batch  lr 0.1  block formula  initialization scale 0.1  batch size 8  epochs 3  seed 0",
    } < set(labels.values())
    assert list(run_labels(specs[:1]).values()) == ["batch  lr 0.1  seed 0"]
    wide = lay_out(options, {"widths": ((4, 8), (8, 8))}).specs
    assert sorted(run_labels(wide).values())[0] == "batch  lr 0.1  widths 4x8  seed 0"


def test_a_sweep_is_every_combination_and_leaves_identities_alone():
    options = GridPlan({"data": "digits", "seeds": 2, "epochs": 4}).options({"device": "cpu"})
    plain = {spec.id for spec in lay_out(options).specs}
    sweep = {
        "block": checked_values("block", ["formula"]),
        "batch_size": checked_values("batch_size", [64, 128]),
    }
    specs = lay_out(options, sweep).specs
    assert len(specs) == len({spec.id for spec in specs}) == 2 * 3 * 2 * 2
    assert {spec.seed for spec in specs[: len(specs) // 2]} == {0}, "seeds outermost"
    assert {spec.id for spec in lay_out(options, {"batch_size": (64, 128)}).specs} > plain
    longer = lay_out(options, {"epochs": (2, 6)}).specs
    assert {spec.capture_epochs for spec in longer} == {(1, 2), (1, 3, 6)}


def test_a_default_and_its_name_are_one_run():
    settings = {"data": "digits", "seeds": 1, "norms": ("batch",), "learning_rates": (0.1,)}
    sweep = {
        "block": (None, "post-activation"), "widths": (None, (16, 32, 64)),
        "blocks_per_stage": (None, 2, 1),
    }  # fmt: skip
    plain = lay_out(GridPlan(settings).options({"device": "cpu"})).specs
    both = lay_out(GridPlan(settings).options({"device": "cpu"}), sweep).specs
    assert len(both) == 2
    assert both[0].id == plain[0].id


def test_sweeps_are_read_in_the_type_of_their_knob():
    sweep = parse_sweeps(
        ["initialization_scale=0.1,1", "batch_size=16,128", "widths=8x16x32,4x8x8", "norm=batch"]
    )
    assert sweep == {
        "initialization_scale": (0.1, 1.0), "batch_size": (16, 128),
        "widths": ((8, 16, 32), (4, 8, 8)),
        "norm": ("batch",),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size", "not of the form knob=a,b,c"),
        ("batch_size=", "not of the form"),
        ("batch_sise=1,2", "Did you mean 'batch_size'"),
        ("batch_size=1,two", "batch_size cannot be used"),
        ("batch_size=8,8", "a value more than once"),
        ("seed=1,2", "decided by --seeds"),
        ("widths=8xx8", "widths cannot be used"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_sweeps([text])
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="more than once"):
        parse_sweeps(["batch_size=1", "batch_size=2"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("settings = 3", "is no study"),
        ("= nonsense", "is no study"),
        ("[setings]", "is no study: Unknown key 'setings'.* Did you mean 'settings'"),
        ("seed = 3", "Known: settings, sweep, measure, description, grid"),
        ("[settings]\nepoch = 3", "Did you mean 'epochs'"),
        ("[settings]\nepochs = 'many'", "cannot be used"),
        ("[settings]\nout = 'elsewhere'", "of the machine"),
        ("measure = ['everything']\n[settings]\nepochs = 1", "Unknown measurement 'everything'"),
        ("measure = 3", "is no study"),
        ("[[grid]]\n[[grid.grid]]\n[[grid.grid.grid]]", "is no study"),
        ("[sweep]\nbatch_size = []", "no value"),
        ("[sweep]\nbatch_size = ['x']", "cannot be used"),
        (
            "[settings]\nbatch_size = 8\n[sweep]\nbatch_size = [8, 16]",
            "as a setting and as a sweep",
        ),
        ("[settings]\nnorms = ['os:getcwd']", "names code that would be run: os:getcwd"),
        ("[sweep]\nnorm = ['batch', 'os:getcwd']", "--allow-code"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(text, message, tmp_path):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        find_study(str(tmp_path / "bad.toml"))
    assert "\n" not in str(caught.value)
    assert "bad.toml" in str(caught.value)


def test_grids_inside_a_grid_add_to_it(tmp_path):
    (tmp_path / "own.toml").write_text(
        "measure = []\n[settings]\nseeds = 2\nepochs = 3\n"
        "[[grid]]\nsettings = { epochs = 4 }\nmeasure = ['decay']\n"
        "[[grid.grid]]\n[[grid.grid]]\nsettings = { epochs = 5 }\nsweep = { batch_size = [8] }\n"
        "[[grid]]\n"
    )
    grids = read_study(tmp_path / "own.toml").grids
    assert [grid.settings["epochs"] for grid in grids] == [4, 5, 3]
    assert [grid.settings["seeds"] for grid in grids] == [2, 2, 2]
    assert [grid.measure for grid in grids] == [("decay",), ("decay",), ()]
    assert [dict(grid.sweep) for grid in grids] == [{}, {"batch_size": (8,)}, {}]


def test_code_in_a_file_runs_only_when_allowed(tmp_path):
    (tmp_path / "own.toml").write_text("[settings]\nnorms = ['my_norms:norm']")
    assert read_study(tmp_path / "own.toml", allow_code=True).grids[0].settings["norms"] == [
        "my_norms:norm"
    ]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda place: find_study("quik"), "Unknown study 'quik'. Did you mean 'quick'?"),
        (lambda place: find_study(str(place / "no.toml")), "cannot be read"),
        (lambda place: claims(place), "not a normscope study"),
        (lambda place: claims(place / "nowhere"), "no folder"),
        (lambda place: claims(), "No folder was given"),
        (lambda place: claims(place, norm="none"), "expected two normalizations"),
        (lambda place: study("quick", seedz=3), "seedz"),
    ],
)
def test_what_is_no_study_is_refused(call, message, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=message):
        call(tmp_path)


def test_a_study_without_a_run_is_refused(tmp_path):
    (tmp_path / "normscope.json").write_text('{"format": "normscope study", "version": 1}')
    with pytest.raises(InputError, match="no run"):
        judge_directories(ClaimsOptions(directories=(tmp_path,)))


def test_the_command_lines_are_read():
    options = tyro.cli(
        StudyOptions,
        args=["batch-size", "--sweep", "norm=batch,layer", "momentum=0,0.9", "--seeds", "2"],
    )
    assert (options.study, options.sweep, options.seeds) == (
        "batch-size",
        ("norm=batch,layer", "momentum=0,0.9"),
        2,
    )
    assert str(options.directory) == "normscope-runs/batch-size"
    assert tyro.cli(StudyOptions, args=[]).overrides() == {}
    read = tyro.cli(ClaimsOptions, args=["one", "two", "--norm", "group"])
    assert ([path.name for path in read.directories], read.norm) == (["one", "two"], "group")


def test_iterations_are_as_many_epochs_as_it_takes_of_the_images_that_are_used(tmp_path):
    (grid,) = find_study("he2016").grids
    settings = {**grid.settings, "data": "digits", "model": "small-resnet", "iterations": 23}
    specs = lay_out(GridPlan(settings, {}, ()).options({"device": "cpu"})).specs
    steps = -(-round(0.9 * 1442) // 128)
    assert {spec.epochs for spec in specs} == {-(-23 // steps)}
    assert len(specs) == 5
    (spec, *_) = specs
    assert (spec.schedule, spec.pixel_mean, spec.train_share) == ("steps", True, 0.9)
    assert (grid.settings["iterations"], -(-64_000 // -(-45_000 // 128))) == (64_000, 182)
    with pytest.raises(InputError, match="--iterations or --epochs"):
        lay_out(GridPlan(settings | {"epochs": 3}, {}, ()).options({"device": "cpu"}))
