"""The command line of `check` and `diff`, their formats, settings and every kind of bad input."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from toy import batches, network, trained

from normscope.commands.check import CheckOptions, check_state_dict, read_settings, run_check
from normscope.commands.check import check as check_model
from normscope.commands.diff import DiffOptions, run_diff
from normscope.errors import CheckError, InputError, RecordError
from normscope.judge.check_report import from_json
from normscope.judge.rules import rules
from normscope.testing import assert_normalization_ok
from normscope.user_models.loading import load_batches

MODULE = """
import torch
from torch import nn
from toy import batches as _batches, network, trained

def healthy():
    return trained()

def sick():
    model = trained()
    model[1].eps = 0.8
    return model

def warned():
    model = trained()
    model[1].momentum = 0.99
    return model

def wants(width):
    return nn.Linear(width, 1)

def raises():
    raise RuntimeError("no weights\\nhere")

def returns_text():
    return "model"

def data():
    return _batches(4)

ready = nn.LayerNorm(16)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a module `nets`, made the working directory."""
    (tmp_path / "nets.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    return tmp_path


def test_exit_statuses(here: Path, capsys):
    assert run_check(CheckOptions("nets:healthy", data="nets:data")) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    assert run_check(CheckOptions("nets:sick")) == 1
    assert "NS206" in capsys.readouterr().out
    assert run_check(CheckOptions("nets:warned")) == 0
    assert run_check(CheckOptions("nets:warned", fail_on="warning")) == 1
    assert run_check(CheckOptions("nets:sick", ignore=("eps-too-large",))) == 0
    assert run_check(CheckOptions("nets:sick", select=("NS1",))) == 0
    assert run_check(CheckOptions("nets:ready")) == 0


def test_settings_come_from_pyproject_and_give_way(here: Path):
    (here / "pyproject.toml").write_text(
        '[tool.normscope.check]\nignore = ["NS206"]\nfail-on = "warning"\n'
    )
    assert read_settings(here / "nowhere") == {"ignore": ("NS206",), "fail_on": "warning"}
    assert run_check(CheckOptions("nets:sick")) == 0
    assert run_check(CheckOptions("nets:sick", ignore=("NS1",))) == 1
    assert run_check(CheckOptions("nets:warned")) == 1
    assert run_check(CheckOptions("nets:warned", fail_on="error")) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[tool.normscope.check]\nfail_at = "error"\n', "Unknown setting of .*'fail_at'"),
        ('[tool.normscope.check]\nfail-on = "info"\n', "fail-on = 'info' is no value"),
        ("[tool\n", "is not TOML"),
    ],
)
def test_bad_settings(here: Path, text: str, message: str):
    (here / "pyproject.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        run_check(CheckOptions("nets:healthy"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nets"}, "names no function"),
        ({"model": "nothing_here:make"}, "importing 'nothing_here' failed: ModuleNotFoundError"),
        ({"model": "nets:missing"}, "module 'nets' has no attribute 'missing'"),
        ({"model": "nets:wants"}, "must be callable without arguments: TypeError"),
        ({"model": "nets:raises"}, "nets:raises raises RuntimeError: no weights"),
        ({"model": "nets:returns_text"}, "must return a torch.nn.Module, and returned a str"),
        ({"model": "missing.pt"}, "There is no checkpoint at missing.pt"),
        ({"model": "nets:healthy", "select": ("NS9",)}, "Unknown rule 'NS9'"),
        ({"model": "nets:healthy", "ignore": ("momentun-zero",)}, "Unknown rule"),
        ({"model": "nets:healthy", "data": "missing.npy"}, "There is no data at missing.npy"),
        ({"model": "nets:healthy", "data": "bad.npy"}, "fails on batch 0 in eval mode"),
        ({"model": "nets:healthy", "data": "nan.npy"}, "not finite"),
        ({"model": "broken.pt"}, "broken.pt"),
        ({"model": "text.pt"}, "text.pt is no checkpoint that is known"),
        ({"model": "broken.safetensors"}, "cannot be read as safetensors"),
        ({"model": "nets:healthy", "checkpoint": Path("other.pt")}, "does not fit the model"),
        ({"model": "nets:healthy", "world_size": 0}, "world_size must be at least 1"),
    ],
)
def test_bad_input_is_one_clear_line(here: Path, options, message: str):
    np.save("bad.npy", np.zeros((4, 3, 8, 8), np.float32))
    np.save("nan.npy", np.full((4, 1, 8, 8), np.nan, np.float32))
    Path("broken.pt").write_bytes(b"no checkpoint")
    Path("text.pt").write_text("hi\n")
    Path("broken.safetensors").write_bytes(b"no checkpoint")
    torch.save({"weight": torch.zeros(3)}, "other.pt")
    with pytest.raises(InputError, match=message) as caught:
        run_check(CheckOptions(**options))
    assert "\n" not in str(caught.value)


class Trap:
    """Unpickling it would leave a file behind."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_a_pickle_is_refused_and_not_executed(here: Path):
    torch.save({"state_dict": trained().state_dict(), "extra": Trap()}, "trap.pt")
    with pytest.raises(InputError, match=r"holds Python objects.*refuses"):
        run_check(CheckOptions("trap.pt"))
    assert not (here / "executed").exists()


def test_checkpoints_alone_and_in_a_model(here: Path, capsys):
    state = trained().state_dict()
    torch.save({"epoch": 3, "state_dict": state}, "good.pt")
    save_file(state, "good.safetensors")
    state["1.running_var"] = state["1.running_var"].clone().fill_(float("nan"))
    torch.save(state, "bad.pt")
    torch.save(dict(trained().named_parameters()), "parameters.pt")
    assert run_check(CheckOptions("good.pt")) == 0
    assert run_check(CheckOptions("good.safetensors")) == 0
    assert run_check(CheckOptions("bad.pt")) == 1
    capsys.readouterr()
    assert run_check(CheckOptions("nets:healthy", checkpoint=Path("parameters.pt"))) == 1
    assert "NS704" in capsys.readouterr().out
    assert (
        run_check(CheckOptions("nets:healthy", checkpoint=Path("good.pt"), data="nets:data")) == 0
    )
    with pytest.raises(InputError, match="A checkpoint alone cannot be run"):
        run_check(CheckOptions("good.pt", data="nets:data"))


def test_diff_says_where_two_part(here: Path, capsys):
    good, bad = trained(), trained()
    bad[4].running_mean += 3 * bad[4].running_var.sqrt()
    torch.save(good.state_dict(), "good.pt")
    torch.save(bad.state_dict(), "bad.pt")
    assert run_diff(DiffOptions("good.pt", "bad.pt")) == 1
    out = capsys.readouterr().out
    assert "First difference: 4; 1 of 3 shared layers" in out
    assert run_diff(DiffOptions("good.pt", "good.pt")) == 0
    assert "No shared normalization layer differs" in capsys.readouterr().out
    assert run_diff(DiffOptions("nets:healthy", "nets:sick", format="json")) == 1
    assert json.loads(capsys.readouterr().out)["layers"][0]["eps"] == 0.8
    assert run_diff(DiffOptions("nets:healthy", "bad.pt")) == 1


def test_diff_answers_first_and_leaves_out_what_is_equal(here: Path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    good, bad = trained(), trained()
    bad[4].running_mean += 3 * bad[4].running_var.sqrt()
    bad[7].weight.data += 1e-6
    torch.save(good.state_dict(), "good.pt")
    torch.save(bad.state_dict(), "bad.pt")
    assert run_diff(DiffOptions("good.pt", "bad.pt")) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("First difference: 4; 1 of 3 shared layers is beyond")
    assert max(map(len, lines)) <= 60
    rows = [line.split() for line in lines if line[:1] in " *" and "same" in line]
    assert [row[:3] for row in rows] == [["*", "4", "3"], ["7", "0", "0"]]
    assert lines[-1] == "1 equal layer not shown."
    assert run_diff(DiffOptions("good.pt", "good.pt")) == 0
    assert capsys.readouterr().out.startswith("No shared normalization layer differs by")


@pytest.mark.parametrize("width", [50, 80, 100, 300])
def test_the_text_is_as_wide_as_the_terminal_and_breaks_no_word(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    long = "a_stage_of_many_words." * 4 + "norm"
    model = torch.nn.ModuleDict({"a": trained()})
    model.a[1].eps, model.a[4].momentum = 0.8, 0.99
    model.forward = model.a.forward
    report = check_model(model, batches(2))
    text = report.text()
    assert len(report.groups) > 1
    assert max(map(len, text.splitlines())) <= min(width, 100)
    found = replace(report.findings[0], layer=long)
    assert long in replace(report, findings=(found,)).text()


@pytest.mark.parametrize(("form", "said"), [("html", "Open out"), ("json", "Written: out")])
def test_a_report_in_a_file_is_named(here: Path, form, said, capsys):
    assert run_check(CheckOptions("nets:healthy", format=form, output=Path("out"))) == 0
    assert capsys.readouterr().out == f"{said}\n"
    assert Path("out").stat().st_size


def test_formats_hold_every_finding(here: Path, tmp_path: Path):
    model = trained().train()
    model[1].eps = 0.8
    model[4].eps = 0.8
    report = check_model(model, batches(4))
    assert [g.layers for g in report.groups if g.first.code == "NS206"] == [("1", "4")]
    assert "layers: 1, 4" in report.text()
    plain = json.loads(report.json())
    assert len(plain["findings"]) == len(report)
    sarif = json.loads(report.sarif())
    results = sarif["runs"][0]["results"]
    assert [result["ruleId"] for result in results] == [finding.code for finding in report]
    assert {rule["id"] for rule in sarif["runs"][0]["tool"]["driver"]["rules"]} == set(report.codes)
    assert report.github().startswith("::error title=NS206 eps-too-large::")
    assert report.html().count("<tr>") == len(report.groups) + 1
    assert "layers: 1, 4 (BatchNorm2d)" in report.text()
    for name in ("json", "sarif", "html", "github"):
        assert run_check(CheckOptions("nets:sick", format=name, output=tmp_path / name)) == 1
        assert (tmp_path / name).stat().st_size > 100


def test_the_text_begins_with_the_answer_and_ends_with_what_is_lacking():
    model = network()
    model[1].eps = 0.8
    lines = check_model(model).text().split("\n\n")
    assert lines[0] == "Sequential, 3 normalization layers: 1 error, 0 warnings, 1 info (2 causes)."
    asked = len(rules())
    assert re.match(rf"\d+ of {asked} rules need more: \d+ a few batches \(--data\); ", lines[-1])
    lacking = {entry.code for entry in check_model(model, select=["NS401", "NS402"]).not_evaluated}
    assert lacking == {"NS401", "NS402"}
    text = check_model(model, select=["NS401", "NS402", "NS206"]).text()
    assert text.endswith("2 of 3 rules need more: 2 the optimizer (optimizer=).")
    complete = check_model(model, select=["NS206"]).text()
    assert "rules need more" not in complete
    assert "rules need more" not in check_model(model, select=["NS206"]).html()


def test_train_mode_is_worth_a_word_only_of_a_model_that_was_trained():
    assert "NS303" not in check_model(network().train()).codes
    assert "NS303" in check_model(trained().train()).codes
    assert "NS303" not in check_model(trained()).codes


def test_a_report_of_an_earlier_version_is_read(tmp_path: Path):
    content = json.loads(check_model(network()).json())
    del content["rules"], content["layer_types"]
    report = from_json(json.dumps(content), "check.json")
    assert re.search(r"\n\d+ rules need more: ", report.text())
    for name, value in (("rules", "70"), ("layer_types", {"1": 3}), ("layer_types", 4)):
        with pytest.raises(RecordError, match=r"check.json is no result"):
            from_json(json.dumps({**content, name: value}), "check.json")


def test_reports_raise_for_errors_only():
    model = trained()
    model[1].momentum = 0.99
    report = check_model(model)
    report.raise_for_errors()
    model[1].eps = 0.8
    with pytest.raises(CheckError, match="NS206 eps-too-large"):
        check_model(model).raise_for_errors()


def test_the_pytest_helper():
    assert assert_normalization_ok(trained(), batches(4)).errors == ()
    model = trained()
    model[1].momentum = 0.99
    assert_normalization_ok(model)
    with pytest.raises(AssertionError, match="NS201"):
        assert_normalization_ok(model, level="warning")
    assert_normalization_ok(model, level="warning", ignore=["NS201"])
    with pytest.raises(AssertionError, match="normalization is broken in Sequential"):
        assert_normalization_ok(network(), other=trained())


def test_the_pytest_helper_takes_what_check_takes():
    model = trained()
    model[1].momentum = 0.99
    with pytest.raises(AssertionError, match="NS201"):
        assert_normalization_ok(model, level="warning", select=["NS201"])
    assert_normalization_ok(model, level="warning", select=["NS101"], recording=None)
    with pytest.raises(InputError, match="world_size must be at least 1"):
        assert_normalization_ok(model, world_size=0)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"running_mean": torch.zeros(3), "running_var": torch.ones(4)}, "different widths"),
        ({"weight": torch.ones(4).to_sparse(), "bias": torch.zeros(4)}, "no dense values"),
        ({"weight": torch.ones(4, device="meta"), "bias": torch.zeros(4)}, "no dense values"),
    ],
)
def test_a_checkpoint_of_odd_tensors_is_one_line(state, message):
    with pytest.raises(InputError, match=message):
        check_state_dict({f"norm1.{name}": value for name, value in state.items()})


@pytest.mark.parametrize("body", ["sys.exit(0)", "raise SystemExit", "return None"])
def test_a_function_that_gives_no_batches_is_bad_input(body, tmp_path, monkeypatch):
    name = f"odd_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"import sys\ndef batches():\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="batches"):
        load_batches(f"{name}:batches")
