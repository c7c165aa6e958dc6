"""A command ends in its result or in one line; what nobody foresaw is our fault, status 70."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from normscope import cli
from normscope.commands import compare, report
from normscope.errors import InputError
from normscope.words import wrapped

CLI = (sys.executable, "-m", "normscope.cli")


def run(*arguments):
    """Exit status of a command, in this process."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    return end.value.code


@pytest.fixture
def report_raises(monkeypatch):
    def install(error):
        def raising(_):
            raise error

        monkeypatch.setattr(report, "run_report", raising)

    return install


@pytest.mark.parametrize("error", [TypeError("odd\nthing"), RecursionError(), OSError("no name")])
def test_what_nobody_foresaw_keeps_its_traceback(
    error, report_raises, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report_raises(error)
    assert run("report", "x") == 70
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    kept = re.search(r"report it as an issue of normscope.* (\S+\.txt)$", line)
    assert kept is not None, line
    assert type(error).__name__ in Path(kept[1]).read_text()
    assert "in raising" in Path(kept[1]).read_text()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PermissionError(13, "Permission denied", "/a/b"), 2),
        (MemoryError(), 1),
        (OSError(24, "Too many open files", "/a/b"), 1),
        (ImportError("libtorch_cpu.so: failed to map segment"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_the_machine_refuses_is_one_line(error, status, report_raises, capsys):
    report_raises(error)
    assert run("report", "x") == status
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "fault" not in line
    assert "resumes" not in line


def test_a_setting_that_a_library_refuses_is_named():
    code = (
        "from normscope import cli\nfrom normscope.commands import report\n"
        "def draw(_): import matplotlib.pyplot\n"
        "report.run_report = draw\ncli.main(['report', 'x'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MPLBACKEND": "nonsense"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("normscope: MPLBACKEND in the environment is refused")


def test_a_fault_that_names_a_setting_is_a_fault(report_raises, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("WANDB_PROJECT", "norm")
    report_raises(RuntimeError("no norm of this name"))
    assert run("report", "x") == 70


@pytest.mark.parametrize("arguments", [["--version"], ["report", "--help"], ["nothing"]])
def test_a_full_output_is_one_line(arguments):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run([*CLI, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    if arguments == ["nothing"]:  # its message goes to standard error
        assert done.returncode == 2
        return
    assert done.returncode == 1
    assert done.stderr == (
        "normscope: Standard output cannot be written: No space left on device.\n"
    )


def test_a_closed_output_is_one_line():
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" >&-', "-", *CLI, "--version"], capture_output=True
    )
    assert (done.returncode, done.stderr) == (1, b"normscope: standard output is closed.\n")


@pytest.mark.parametrize("columns", ["0", "00", " "])
def test_no_columns_are_an_unknown_number(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert run("report", "nothing") == 2
    assert "nothing" in capsys.readouterr().err
    assert "COLUMNS" not in os.environ
    assert wrapped("a b", 0) == "a\nb"


def test_without_docstrings_a_line_says_so():
    words = [sys.executable, "-OO", "-c", "import normscope.judge.claims.convergence"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "InputError: Python runs with -OO" in done.stderr


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
    place = tmp_path / "descriptors"
    script = (
        "import os, sys; from normscope import cli\n"
        "try: cli.main(['report', 'nothing'])\n"
        f"finally: os.write(os.open({str(place)!r}, os.O_CREAT | os.O_RDWR), b'kept')"
    )
    words = ["/bin/sh", "-c", '"$@" 0>&- 2>&-', "-", sys.executable, "-c", script]
    assert subprocess.run(words, check=False).returncode == 2
    assert place.read_bytes() == b"kept"


def test_a_reader_that_has_seen_enough_is_told_nothing():
    script = f"{sys.executable} -m normscope.cli compare --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_an_output_that_is_not_utf_8_shows_other_signs(encoding):
    script = (
        "from normscope.escapes import printable_streams; printable_streams(); "
        r"print('✓ 51% ± 1 – \u6f22 \udc80')"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment)
    shown = "+ 51% +- 1 - \\u6f22 \\udc80" if encoding == "ascii" else "\\u6f22 \\udc80"
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding).strip().endswith(shown)


def test_a_working_folder_that_was_removed(tmp_path):
    script = f"cd {tmp_path}; mkdir gone; cd gone; rmdir ../gone; {' '.join(CLI)} report x"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "normscope: The working folder was removed: change to one that exists.\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [("report", "n" * 256), ("report", "x", "--out", "a/" + "n" * 5000), ("export", "n" * 300)],
)
def test_a_name_that_no_file_can_have(arguments, capsys):
    assert run(*arguments) == 2
    assert re.fullmatch(
        r"normscope: .*cannot be used: File name too long\.\n", capsys.readouterr().err
    )


@pytest.mark.parametrize("error", [InputError("damaged"), TypeError("a fault")])
def test_ctrl_c_is_told_although_the_summary_fails(error, monkeypatch, capsys):
    class Stopped:
        def train(self, *_):
            raise KeyboardInterrupt

    def fails(*_):
        raise error

    monkeypatch.setattr(compare, "_summarize", fails)
    with pytest.raises(KeyboardInterrupt):
        compare._train(Stopped(), None, None)
    assert str(error) in capsys.readouterr().err
