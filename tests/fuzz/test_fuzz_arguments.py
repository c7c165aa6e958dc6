"""Options of every command, with values that nobody expects: a result, or one line with status 2.

Commands run in this process's forks. A grid is laid out, which judges all that a run would be; what
would train it is left out.
"""

import io
import os
import typing
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from mutations import mutated_bytes, mutated_json
from torch import nn
from trials import amount, attempt_all, generator, some

from normscope import cli
from normscope.commands import check, serve
from normscope.errors import InputError, NormscopeError
from normscope.studies import pipeline
from normscope.studies.grid import lay_out
from normscope.studies.spec import Recipe
from normscope.studies.study_plans import read_study

POSITIONAL = {
    "study": ["quick"], "claims": ["study"], "check": ["model.pt"],
    "diff": ["model.pt", "model.pt"],
    "report": ["study"], "export": ["study"], "serve": ["study"],
}  # fmt: skip
NUMBERS = (
    "0", "-1", "-5", "1", "2", "1e3", "0.5", "1_000", " 1", "١", "0x10", "nan", "inf", "-inf",
    "1e-320", "1e400", str(2**31), str(2**63), str(-(2**63)), str(10**30), "9" * 5000,
    "1" + "0" * 400,
)  # fmt: skip
TEXTS = (
    "", " ", "x", "auto", "none", "x" * 300, "x" * 5000, "a/" * 3000, "\0", "a\0b", "a\nb",
    "\x1b[2J", "\u202egnp", "\udcff", "../..", "/", ".", "~", "/dev/null", "/dev/zero",
    "/proc/self/mem",
    "builtins:len", "os:system", ":", "a:", ":b", "a.b:c.d", "model.pt", "model.pt/x", "pipe",
    "study", "batch", "layer", "digits", "cifar10", "images", "text", "vit", "byte-lm",
    "resnet-20", "[/]",
    "*", "[", "NS1", "C101", "--", "--help", "-h", "@x", "$HOME", "%s", "{0}", "=1+1", "True",
    "None",
)  # fmt: skip
SWEEPS = (
    "x", "=", "epochs=", "epochs=0", "epochs=1,1", "precision=fp16", "widths=8x8,4", "widths=x",
    "learning_rate=nan", "learning_rate=1e400", "seed=1", "norm=", "norm=builtins:len",
    "batch_size=0,1", "depth=" + ",".join(map(str, range(1, 400))), "momentum=" + "9" * 5000,
    "\0=1",
    "model=vit,resnet-20", "learning_rate=" + ",".join(map(str, range(1, 20_000))),
    "qk_norm=maybe", "warmup=1e9",
)  # fmt: skip


def laid_out(*_, **__):
    raise NormscopeError("judged; it would train or serve now")


def options_of(command):
    """{option: whether it takes numbers, flags, or texts}."""
    module = import_module(f"normscope.commands.{command}")
    kind = getattr(module, f"{command.capitalize()}Options")
    hints = typing.get_type_hints(kind)
    if "recipe" in hints:
        hints |= typing.get_type_hints(Recipe)
    positional = {
        "study",
        "directories",
        "model",
        "good",
        "bad",
        "paths",
        "path",
        "recipe",
        "executor",
    }
    if command not in ("study", "check"):
        positional -= {"model", "study"}
    return {
        f"--{name.replace('_', '-')}": hint
        for name, hint in hints.items()
        if name not in positional
    }


def value_of(option, hint, random):
    """Some values of an option, of its type half of the time."""
    if option == "--sweep":
        return [random.choice(SWEEPS) for _ in range(random.choice([1, 1, 2]))]
    inner = typing.get_args(hint) or (hint,)
    kinds = {part for each in inner for part in (each, *typing.get_args(each))}
    literal = [each for each in kinds if isinstance(each, str)]
    if bool in kinds and random.random() < 0.7:
        return []
    if literal and random.random() < 0.6:
        return [random.choice(literal)]
    numbers = bool({int, float} & kinds) == (random.random() < 0.9)
    count = random.choice([1, 1, 1, 0, 2, 3, 50])
    return [random.choice(NUMBERS if numbers else TEXTS) for _ in range(count)]


def command_line(number):
    """A command, and one to four of its options."""
    random = generator("arguments", number)
    command = random.choice(cli.COMMANDS)
    options = options_of(command)
    words = list(POSITIONAL.get(command, []))
    if words and random.random() < 0.3:
        words[random.randrange(len(words))] = random.choice(TEXTS)
    for option in random.sample(list(options), min(len(options), random.choice([1, 1, 2, 4]))):
        words += [option, *value_of(option, options[option], random)]
    return [command, *words]


def ended(words):
    """Run a command; its status is one of those that are promised, and says one line if it is 2."""
    said = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            cli.main(words)
    except SystemExit as end:
        status, text = end.code, said.getvalue()
        assert status in (0, 1, 2), f"{status} of {str(words)[:200]}: {text[-300:]}"
        assert "Traceback" not in text, text[-300:]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a checkpoint, an empty study and a pipe, where nothing is trained or served."""
    monkeypatch.chdir(tmp_path)
    torch.save(nn.BatchNorm1d(3).state_dict(), "model.pt")
    np.save("data.npy", np.ones((4, 3), np.float32))
    Path("study").mkdir()
    os.mkfifo("pipe")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(pipeline, "open_study", laid_out)
    monkeypatch.setattr(serve, "_run", laid_out)
    return tmp_path


def test_arguments(place):
    attempt_all(
        "arguments", lambda number: ended(command_line(number)), range(amount(40)), megabytes=2048
    ).assert_good()


STUDY = {
    "description": "mine",
    "settings": {"norms": ["batch", "none"], "learning_rates": [0.1], "epochs": 2, "seeds": 1,
                 "widths": [8, 8], "model": "small-resnet", "classes": ["0", "1"]},
    "sweep": {"batch_size": [32, 64]},
    "measure": ["propagation"],
    "grid": [{"settings": {"augment": False}, "sweep": {"momentum": [0.0, 0.9]}}],
}  # fmt: skip
CHECK = {"tool": {"normscope": {"check": {
    "data": "data.npy", "batch-size": 2, "select": ["NS1"], "fail-on": "warning", "world_size": 1,
    "format": "json", "export": True, "ignore": ["NS203"], "data-dir": "x",
}}}}  # fmt: skip
WRITTEN = (
    "tool = 1", "[tool]\nnormscope = []", "tool.normscope.check = 5", "[settings", "a" * 5000,
    "x = " + "[" * 5000 + "]" * 5000, "x = " + "{a=" * 3000 + "1" + "}" * 3000,
    ".".join("a" * 3000) + "=1", "[" + ".".join("a" * 3000) + "]", "x = 1" + "0" * 5000,
    "x = 1979-05-27T07:32:00Z",
    "\ufeffx = 1", "[sweep]\nseed = [1]", "[settings]\nout = 'x'",
    "[settings]\nepochs = 1000000000",
    "[sweep]\nbatch_size = [" + ",".join(map(str, range(1, 200_000))) + "]",
    "[settings]\nwidths = [100000, 100000]", "[settings]\nseeds = 1000000000",
    "[settings]\nnorms = ['builtins:len']", "[settings]\nblocks_per_stage = 100000",
    "[[grid]]\n" * 3000, "",
)  # fmt: skip


def toml(value):
    """A value as TOML in one line; null, which TOML has not got, as an empty text."""
    if isinstance(value, dict):
        return (
            "{" + ", ".join(f"{toml(str(key))} = {toml(each)}" for key, each in value.items()) + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        escaped = (f"\\U{ord(c):08x}" if not 32 <= ord(c) < 127 or c in '"\\' else c for c in value)
        return '"' + "".join(escaped) + '"'
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: '""'}[value]
    return repr(value)


def text_of(number, whole):
    random = generator("toml", number)
    if number < len(WRITTEN):
        return WRITTEN[number].encode()
    try:
        content = mutated_json(whole, random)
        lines = [f"{toml(key)} = {toml(each)}" for key, each in content.items()]
    except (AttributeError, RecursionError, ValueError):
        lines = ["x = 1"]
    data = "\n".join(lines).encode()
    return mutated_bytes(data, random) if random.random() < 0.3 else data


def study_file(number):
    Path("mine.toml").write_bytes(text_of(number, STUDY))
    plan = read_study(Path("mine.toml"))
    for each in plan.grids:
        lay_out(each.options({"device": "cpu"}), each.sweep)


def pyproject(number):
    Path("pyproject.toml").write_bytes(text_of(number, CHECK))
    check.read_settings(Path.cwd())


@pytest.mark.parametrize("use", [study_file, pyproject])
def test_toml(use, place):
    numbers = [*some(len(WRITTEN)), *range(len(WRITTEN), len(WRITTEN) + amount(30))]
    attempt_all(use.__name__, use, numbers, megabytes=2048).assert_good()


def test_the_files_that_are_mutated_are_good_themselves(place):
    for path, whole in (("mine.toml", STUDY), ("pyproject.toml", CHECK)):
        lines = (f"{toml(key)} = {toml(value)}" for key, value in whole.items())
        Path(path).write_text("\n".join(lines))
    assert read_study(Path("mine.toml")).grids[0].sweep["momentum"] == (0.0, 0.9)
    assert check.read_settings(place)["batch_size"] == 2


def test_a_study_of_very_many_grids_is_one_line(place):
    Path("mine.toml").write_text("[[grid]]\n" * 101)
    with pytest.raises(InputError, match=r"has 101 grids .* at most 100"):
        read_study(Path("mine.toml"))
