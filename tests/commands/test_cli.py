"""The command line itself: without a command, on Ctrl-C, and its imports for --help."""

import itertools
import re
import runpy
import subprocess
import sys

import pytest

import normscope
from normscope import cli
from normscope.cli import COMMANDS, main


def run(*arguments):
    """Exit status of a command, in this process."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return end.value.code


def test_without_a_command_the_help_is_printed(capsys):
    assert run() == 0
    out = capsys.readouterr().out
    assert all(f"• {command} " in out for command in COMMANDS)


def test_the_package_runs_as_a_module(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["normscope", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("normscope", run_name="__main__")
    assert not end.value.code
    assert capsys.readouterr().out == f"normscope {normscope.__version__}\n"


def test_a_command_that_is_none_is_status_2_and_names_those_that_are(capsys):
    assert run("comapre") == 2
    error = capsys.readouterr().err
    assert "comapre" in error
    assert "compare" in error


EACH_HELP = """
import os, sys
from normscope.cli import COMMANDS, main
for command in COMMANDS:
    if os.fork() == 0:
        try: main([command, '--help'])
        except SystemExit as end: code = end.code
        slow = {'torch', 'numpy', 'sklearn', 'pyarrow', 'matplotlib', 'scipy'} & set(sys.modules)
        print(f'--- {command}: {slow or code}', flush=True)
        os._exit(0)
    os.wait()
"""
"""A fork for each, so that what one command imports is not another's."""


@pytest.fixture(scope="module")
def helps():
    """{command: (its help, what it imported that is slow, or else its exit status)}."""
    done = subprocess.run([sys.executable, "-c", EACH_HELP], capture_output=True, text=True)
    *texts, last = re.split(r"--- (\w+): (.*)\n", done.stdout)
    assert not last, done.stderr
    return {
        command: (text, ended)
        for text, command, ended in zip(texts[::3], texts[1::3], texts[2::3], strict=True)
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_imports_nothing_slow(command, helps):
    text, ended = helps[command]
    assert ended == "0"
    assert f"usage: normscope {command}" in text
    assert not list(lines_that_end_early(text))


@pytest.mark.parametrize("command", ["", *COMMANDS])
@pytest.mark.parametrize("width", [80, 120])
def test_a_help_fits_the_terminal_and_names_nothing_of_the_inside(
    command, width, monkeypatch, capsys
):
    monkeypatch.setenv("COLUMNS", str(width))
    assert run(*filter(None, [command]), "--help") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    assert "None" not in out
    assert "--no-no-" not in out
    assert "docs/" not in out, "a wheel has none"


def lines_that_end_early(text):
    """Lines of an option's help after which the next word would have fit."""
    lines = [line[1:-1].rstrip() for line in text.splitlines() if line.startswith("│")]
    for line, following in itertools.pairwise(lines):
        both = line.startswith(20 * " ") and following.startswith(20 * " ")
        if both and len(line) + 1 + len(following.split()[0]) < 76:
            yield line


@pytest.mark.parametrize(("command", "resumed"), [("compare", True), ("report", False)])
def test_ctrl_c_promises_to_go_on_only_where_that_is_so(command, resumed, monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    module = __import__(f"normscope.commands.{command}", fromlist=["*"])
    monkeypatch.setattr(module, f"run_{command}", interrupted)
    assert run(command, *([] if resumed else ["somewhere"])) == 130
    error = capsys.readouterr().err
    assert error.startswith("normscope: interrupted")
    assert ("the same command resumes" in error) == resumed


def test_a_command_that_trains_says_at_once_that_pytorch_is_loading():
    command = [sys.executable, "-m", "normscope.cli", "compare", "--data", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "Loading PyTorch ...\n"), done.stderr


def test_every_command_has_its_options_and_what_runs_it():
    for command in COMMANDS:
        module = __import__(f"normscope.commands.{command}", fromlist=["*"])
        assert callable(getattr(module, f"run_{command}"))
        assert getattr(module, f"{command.capitalize()}Options").__doc__
    assert set(cli.RESUMED) < set(COMMANDS)


def test_each_command_describes_its_own_options(capsys):
    """`model` and `--batch-size` are other things to check than to train."""
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "What to check: a function" in text
    assert "Samples in a batch of a data set" in text
