"""The main job as a user runs it: through the command line and through Python, on the digits."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import normscope
from normscope.cli import main
from normscope.errors import RecordError
from normscope.records.run import load_run
from normscope.records.store import reader
from normscope.studies.grid import code_checksum
from warm_processes import command

QUICK = ["--classes", "3", "8", "--widths", "4", "8", "8", "--blocks-per-stage", "1", "--seeds",
         "2", "--epochs", "2",
         "--jobs", "1", "--device", "cpu"]  # fmt: skip

pytestmark = pytest.mark.usefixtures("blank_figures")  # those of the study are drawn

FILES = {"comparison.png", "activation_distributions.png", "learning_rates.png", "summary.json"}


def run(*arguments):
    """Exit status of a command, in this process."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("studies") / "study"
    assert run("compare", *QUICK, "--learning-rates", "0.1", "1e30", "--out", str(out)) == 0
    return out


def test_a_study_holds_what_it_promises(study):
    assert {path.name for path in study.iterdir()} >= FILES
    assert all((study / name).stat().st_size > 1000 for name in FILES)
    runs = sorted((study / "runs").iterdir())
    assert len(runs) == 8
    summary = json.loads((study / "summary.json").read_text())
    assert {entry["id"] for entry in summary["runs"]} == {path.name for path in runs}
    assert {(g["norm"], g["learning_rate"], g["n"], g["diverged"]) for g in summary["groups"]} >= {
        ("batch", 0.1, 2, 0), ("none", 0.1, 2, 0), ("none", 1e30, 0, 2),
    }  # fmt: skip
    needed = {
        "id",
        "norm",
        "learning_rate",
        "seed",
        "status",
        "epochs",
        "test_accuracy",
        "train_loss",
        "seconds",
    }
    assert all(needed <= set(entry) for entry in summary["runs"])
    assert all(
        0 <= entry["test_accuracy"] <= 1
        for entry in summary["runs"]
        if entry["status"] == "finished"
    )
    assert all(
        entry["test_accuracy"] is None for entry in summary["runs"] if entry["status"] == "diverged"
    )
    assert {"runs", "groups", "threshold", "data", "model", "hardware", "versions"} <= set(summary)
    assert summary["model"]["parameters"]["batch"] > summary["model"]["parameters"]["none"]


def test_the_same_command_again_trains_nothing(study, capsys):
    before = {
        path: path.stat().st_mtime_ns for path in study.glob("runs/*/*") if path.name != "run.lock"
    }
    for name in ("record.sqlite-journal", ".weights-1.pt"):  # as a kill after the end leaves them
        (next(study.glob("runs/*")) / name).write_bytes(bytes(516))
    (list(study.glob("runs/*"))[1] / "record.sqlite-journal").touch()
    assert run("compare", *QUICK, "--learning-rates", "0.1", "1e30", "--out", str(study)) == 0
    assert "8 of 8 runs are finished already" in capsys.readouterr().out
    assert before == {
        path: path.stat().st_mtime_ns for path in study.glob("runs/*/*") if path.name != "run.lock"
    }


def test_it_ends_with_what_was_found_in_the_same_words_everywhere(study, tmp_path, capsys):
    run("compare", *QUICK, "--learning-rates", "0.1", "1e30", "--out", str(study))
    said = " ".join(capsys.readouterr().out.split())
    summary = json.loads((study / "summary.json").read_text())
    (found,) = summary["headline"]
    assert found["text"].startswith("At its own best rate each: ")
    assert re.search(r"% accuracy at 0.1 with batch norm, .*% at 0.1 without", found["text"])
    assert "2 seeds, too few for an interval" in found["text"]
    assert found["text"].endswith("To settle it, train with --seeds 3.")
    assert found["text"] in said
    assert said.endswith(f"Open {study / 'report.html'}")
    page = (study / "report.html").read_text()
    assert all(f'"{sentence}"' in page for sentence in [*found["sentences"], found["settle"]])
    run("claims", str(study), "--out", str(tmp_path))
    said = " ".join(capsys.readouterr().out.split())
    judged = json.loads((tmp_path / "claims.json").read_text())
    assert judged["headline"] == summary["headline"]
    assert judged["counts"] == summary["counts"]
    assert found["text"] in said
    assert f"Claims: {summary['counts']['cannot tell']} open" in said
    assert said.endswith(f"Open {tmp_path / 'claims.md'}")


def test_one_more_seed_trains_only_what_is_new_and_the_summary_covers_what_was_asked(study, capsys):
    arguments = [
        "compare",
        *QUICK,
        "--learning-rates",
        "0.1",
        "--norms",
        "batch",
        "--out",
        str(study),
    ]
    assert run(*arguments, "--seeds", "3") == 0
    out = capsys.readouterr().out
    assert "2 of 3 runs are finished already" in out
    assert out.count("✓") == 1
    summary = json.loads((study / "summary.json").read_text())
    assert [(entry["norm"], entry["seed"]) for entry in summary["runs"]] == [
        ("batch", 0),
        ("batch", 1),
        ("batch", 2),
    ]


def test_the_terminal_says_what_is_compared_and_what_came_out(study, capsys):
    run("compare", *QUICK, "--learning-rates", "0.1", "1e30", "--out", str(study))
    out = capsys.readouterr().out
    for words in ("Device", "2 classes", "small-resnet, parameters:", "Batches", "batch", "none",
                  "diverged", "±",
                  "Written to"):  # fmt: skip
        assert words in out


def test_python_takes_the_same_names_and_returns_the_runs(study):
    result = normscope.compare(
        classes=["3", "8"], widths=[4, 8, 8], blocks_per_stage=1, seeds=2, epochs=2, jobs=1,
        device="cpu",
        learning_rates=[0.1], norms=["batch", "none"], out=str(study), console=Console(quiet=True),
    )  # fmt: skip
    assert [run.status for run in result.runs] == ["finished"] * 4
    assert result.summary.groups[0].n == 2
    assert not result.failed


def test_a_norm_of_the_users_own_that_fails_in_training_ends_with_status_1_and_the_others_finish(
    tmp_path, monkeypatch
):
    (tmp_path / "my_norms.py").write_text(
        "import torch\n"
        "class Broken(torch.nn.BatchNorm2d):\n"
        "    def forward(self, x):\n"
        "        if self.training and self.num_batches_tracked > 2:\n"
        "            raise RuntimeError('it broke')\n"
        "        return super().forward(x)\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = [
        "compare",
        *QUICK,
        "--seeds",
        "1",
        "--learning-rates",
        "0.1",
        "--norms",
        "my_norms:Broken",
        "batch",
    ]
    assert run(*arguments, "--out", "study") == 1
    summary = json.loads((tmp_path / "study" / "summary.json").read_text())
    assert [(entry["norm"], entry["status"]) for entry in summary["runs"]] == [
        ("my_norms:Broken", "failed"), ("batch", "finished"),
    ]  # fmt: skip
    assert summary["runs"][0]["error"] == "RuntimeError: it broke"


def test_a_norm_that_fails_before_training_is_a_failed_run_and_the_others_finish(
    tmp_path, monkeypatch, worker_processes
):
    (tmp_path / "late_norms.py").write_text(
        "import os, torch\n"
        "def norm(channels):\n"
        f"    if os.getpid() != {os.getpid()}:\n"
        "        raise RuntimeError('only here')\n"
        "    return torch.nn.BatchNorm2d(channels)\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = [
        "compare",
        *QUICK,
        "--seeds",
        "1",
        "--learning-rates",
        "0.1",
        "--norms",
        "late_norms:norm",
        "batch",
    ]
    assert run(*arguments, "--jobs", "2", "--out", "study") == 1
    summary = json.loads((tmp_path / "study" / "summary.json").read_text())
    assert [entry["status"] for entry in summary["runs"]] == ["failed", "finished"]
    assert (tmp_path / "study" / "comparison.png").exists()


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("def norm(channels): os._exit(0)", "its process ended itself with exit status 0"),
        ("def norm(channels): sys.exit()", "failed for 4 channels: SystemExit"),
        ("def norm(channels): os.kill(os.getpid(), 11)", "its process crashed with SIGSEGV"),
        ("os._exit(3)", "its process ended itself with exit status 3"),
    ],
)
def test_a_norm_that_ends_its_process_is_refused_in_one_line(code, how, tmp_path, monkeypatch):
    """In a process of its own, which must outlive it."""
    (tmp_path / "ending.py").write_text(f"import os, sys\n{code}\n")
    monkeypatch.chdir(tmp_path)
    with start(tmp_path / "study", *QUICK, "--norms", "batch", "ending:norm") as process:
        _, error = process.communicate()
    assert process.returncode == 2, error
    assert error.startswith("normscope: Normalization 'ending:norm' ")
    assert how in error
    assert error.count("\n") == 1
    assert not (tmp_path / "study").exists()


def test_a_norm_that_was_edited_is_another_norm(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "edited_norms.py").write_text("import torch\nnorm = torch.nn.BatchNorm2d\n")
    before = code_checksum("edited_norms:norm")
    (tmp_path / "edited_norms.py").write_text("import torch\nnorm = torch.nn.InstanceNorm2d\n")
    assert code_checksum("edited_norms:norm") != before
    assert code_checksum("batch") == ""


def test_a_file_of_the_current_folder_is_not_taken_for_a_library(tmp_path):
    (tmp_path / "tyro.py").write_text("raise SystemExit('the wrong tyro')")
    told = subprocess.run(
        [Path(sys.executable).with_name("normscope"), "report", "nothing"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 2, told.stderr
    assert "nothing" in told.stderr


def test_figures_of_an_earlier_grid_do_not_stay(study, tmp_path, capsys):
    shutil.copytree(study, tmp_path / "copy")
    arguments = [
        "compare",
        *QUICK,
        "--learning-rates",
        "0.1",
        "--norms",
        "batch",
        "--out",
        str(tmp_path / "copy"),
    ]
    assert run(*arguments) == 0
    assert not (tmp_path / "copy" / "learning_rates.png").exists()
    assert "learning_rates.png" not in capsys.readouterr().out


def _a_thesis(path):
    path.mkdir()
    (path / "thesis.tex").write_text("years of work")


def _a_file(path):
    path.write_text("a file")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "cifar100"], "Unknown data 'cifar100'. Did you mean 'cifar10'?"),
        (["--classes", "3", "eleven"], "eleven"),
        (["--norms", "bach"], "'bach'. Did you mean 'batch'?"),
        (["--norms", "nowhere:norm"], "nowhere"),
        (["--model", "resnet-21"], "Unknown model 'resnet-21'"),
        (["--activation", "rely"], "Unknown activation 'rely'. Did you mean 'relu'?"),
        (["--device", "tpu"], "Unknown device 'tpu'"),
        (["--precision", "fp8"], "Unknown precision 'fp8'"),
        (["--epochs", "0"], "number of epochs is 0; expected 1 or more"),
        (["--learning-rates", "-0.1"], "-0.1; expected a positive number"),
        (["--epochs", "3", "--capture-epochs", "4"],
         "Epoch 4 cannot be captured: the run has epochs 1 to 3"),
        (["--data", "images"], "data"),
        (["--data", "cifar10", "--data-dir", "nowhere"], "nowhere"),
        (["--block", "bottleneck"], "bottleneck"),
        (["--model", "bird-plane", "--block", "formula"], "block"),
        (["--initialization", "xavier"], "xavier"),
        (["--widths", "4", "0", "8"], "0"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_status_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("compare", *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir()), "a folder was made for a study that cannot be"


@pytest.mark.parametrize(
    ("make", "message"), [(_a_thesis, "not a normscope study"), (_a_file, "is a file")]
)
def test_an_out_that_holds_something_else_is_not_touched(make, message, tmp_path, capsys):
    make(tmp_path / "out")
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    assert run("compare", *QUICK, "--out", str(tmp_path / "out")) == 2
    assert message in capsys.readouterr().err
    assert before == sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))


def test_a_damaged_record_is_named_with_what_to_do(study, tmp_path, capsys):
    shutil.copytree(study, tmp_path / "copy")
    victim = sorted((tmp_path / "copy" / "runs").glob("batch-lr0.1-seed0*"))[0] / "record.sqlite"
    victim.write_bytes(b"nonsense")
    assert run("compare", *QUICK, "--learning-rates", "0.1", "--out", str(tmp_path / "copy")) == 2
    error = capsys.readouterr().err.strip()
    assert "batch-lr0.1-seed0" in error
    assert "remove" in error.lower()
    assert "\n" not in error


def start(out, *arguments):
    return command("compare", *arguments, "--out", out)


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def epochs_done(directory):
    record = directory / "record.sqlite"
    return (
        len(load_run(directory).epochs["epoch"])
        if record.exists() and "spec" in meta_of(record)
        else 0
    )


def meta_of(record):
    try:
        with reader(record) as store:
            return store.meta()
    except RecordError:  # looked at before its tables were made
        return {}


LONG = [*QUICK, "--learning-rates", "0.1", "--norms", "batch", "--seeds", "1", "--epochs", "2000"]


def test_ctrl_c_leaves_everything_resumable_and_says_so(tmp_path):
    process = start(tmp_path / "study", *LONG)
    wait_for(lambda: any(epochs_done(run) for run in tmp_path.glob("study/runs/*")))
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130, error
    assert error.strip().splitlines() == [
        "normscope: interrupted; finished epochs are kept, and the same command resumes."
    ]
    summary = json.loads((tmp_path / "study" / "summary.json").read_text())
    assert [entry["status"] for entry in summary["runs"]] == ["interrupted"]
    assert summary["runs"][0]["epochs"] > 0


def test_two_commands_on_one_folder_train_no_run_twice(tmp_path):
    arguments = [*QUICK, "--learning-rates", "0.1", "--epochs", "3", "--seeds", "1"]
    first, second = start(tmp_path / "s", *arguments), start(tmp_path / "s", *arguments)
    outputs = [process.communicate() for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), outputs
    summary = json.loads((tmp_path / "s" / "summary.json").read_text())
    assert [entry["status"] for entry in summary["runs"]] == ["finished"] * 2
    # a second training would add or collide
    assert [entry["epochs"] for entry in summary["runs"]] == [3] * 2
