"""The command line. Modules that are slow to import wait until a command needs them."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any

import docstring_parser
import tyro
from tyro.extras import subcommand_cli_from_dict

from normscope.arguments import given_path
from normscope.errors import InputError, NormscopeError, StorageError, one_line
from normscope.escapes import for_line, printable_streams
from normscope.records.command_line import running
from normscope.studies.spec import Recipe
from normscope.version import __version__
from normscope.words import wrapped

DESCRIPTION = """What normalization does to a network, from measured runs.

Start with `normscope compare`: with and without batch normalization, on embedded data, in about a
minute. `normscope COMMAND --help` says everything that a command can do; `normscope --version`
which one this is.
"""

COMMANDS = (
    "compare", "inspect", "explain", "study", "claims",
    "check", "diff", "report", "export", "serve",
)  # fmt: skip
"""Each is a module of `commands` with its `<Command>Options`, and a `run_<command>` for them."""

FAULT = 70
"""The exit status of what is a fault of normscope, and of nothing else (EX_SOFTWARE)."""

RESUMED = ("compare", "inspect", "explain", "study")
"""The commands that train, and resume where they were interrupted."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end with its status: 0, 1 for what went wrong on the way, 2 for bad input,
    70 for a fault of normscope itself, 130 for Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _fill_closed_streams()
    if os.environ.get("COLUMNS", "").strip(" 0") == "":
        os.environ.pop("COLUMNS", None)  # 0 columns are an unknown number, and rich shows nothing
    if sys.stdout is None:
        _complain("standard output is closed.")
        sys.exit(1)
    printable_streams()
    output = sys.stdout
    sys.stdout = _Output(output)
    try:
        status = _status(arguments)
        with contextlib.suppress(StorageError, _ReaderLeftError):  # said, or nothing to say
            sys.stdout.flush()
    finally:
        sys.stdout = output
    sys.exit(status)


def _fill_closed_streams() -> None:
    """Put the null device where standard streams are closed: the next file, of this process or of
    a worker, would take their place, and messages would be written into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - as long as the process


class _ReaderLeftError(BrokenPipeError):
    """The reader of a pipe has seen enough, as `head` has: nothing to speak of."""


class _Output:
    """Standard output, whose errors say that they are its own."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._tried(self._stream.write, text)

    def flush(self) -> None:
        self._tried(self._stream.flush)

    def _tried(self, operation: Callable[..., Any], *arguments: str) -> Any:
        try:
            return operation(*arguments)
        except OSError as error:
            # what it still holds would fail again when the interpreter ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if isinstance(error, BrokenPipeError):
                raise _ReaderLeftError from error
            reason = error.strerror or error
            raise StorageError(f"Standard output cannot be written: {reason}.") from error


class _Help:
    """Standard output for the help, whose paragraphs tyro does not wrap."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        width = shutil.get_terminal_size().columns
        lines = (
            wrapped(line, width) if len(re.sub(r"\x1b\[[\d;]*m", "", line)) > width else line
            for line in text.split("\n")
        )
        return self._stream.write("\n".join(lines))


def _status(arguments: list[str]) -> int:
    """Run a command and return its status; whatever goes wrong is said in one line."""
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except _ReaderLeftError:
        return 1
    except NormscopeError as error:
        _complain(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        kept = "; finished epochs are kept, and the same command resumes"
        resumed = arguments and arguments[0] in RESUMED
        _complain(f"interrupted{kept if resumed else ''}.")
        return 130
    except Exception as error:
        return _unforeseen(error)


_NO_MEMORY = ("failed to map segment", "Cannot allocate memory", "can't allocate memory")
"""What the loader of libraries, the system and PyTorch say."""

_OF_LIBRARIES = ("MPL", "MATPLOTLIB", "TORCH", "PYTORCH", "NUMPY", "RAY", "WANDB")
"""Beginnings of the names of environment variables that the libraries read."""


def _unforeseen(error: Exception) -> int:
    """Say in one line what no command foresaw: too little memory, a file that the system refuses,
    a setting that a library refuses, or else a fault of normscope.
    """
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        _complain("there is not enough memory for this.")
        return 1
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        _complain("too many files are open; ulimit -n raises how many may be.")
        return 1
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        _complain(f"{error.filename} cannot be used: {error.strerror}.")
        return 2
    if refused := _refused_setting(error):
        _complain(f"{refused} in the environment is refused: {one_line(error)}")
        return 2
    _complain(f"this is a fault of normscope: {one_line(error)}. {_kept_traceback(error)}")
    return FAULT


def _refused_setting(error: Exception) -> str:
    """Return the environment variable of a library whose value the error names, or "".

    The error has to come from a library that is being imported: there settings are read, and a
    fault of ours that happens to name such a value stays one.
    """
    import traceback

    here = str(Path(__file__).parent)
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    theirs = list(takewhile(lambda code: not code.co_filename.startswith(here), reversed(codes)))
    if not any(code.co_name == "<module>" for code in theirs):
        return ""
    words = re.findall(r"[\w.:/-]+", str(error))
    values = ((n, v) for n, v in os.environ.items() if n.startswith(_OF_LIBRARIES))
    return next((name for name, value in values if value in words), "")


def _kept_traceback(error: Exception) -> str:
    """Write the traceback to a file of its own, and return a sentence on where it is."""
    import tempfile
    import traceback

    head = f"normscope {__version__}, Python {sys.version}"
    text = "\n".join([head, *traceback.format_exception(error)])
    try:
        handle, name = tempfile.mkstemp(prefix="normscope-fault-", suffix=".txt")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123
            file.write(text)
    except OSError:
        return "Please report it as an issue of normscope, with the command."
    return f"Please report it as an issue of normscope, with the command and this file: {name}"


def _complain(text: str) -> None:
    """Print one line on standard error, if there is one."""
    with contextlib.suppress(OSError, ValueError):
        line = f"normscope: {for_line(text)}"
        if sys.stderr.isatty():
            line = wrapped(line, shutil.get_terminal_size().columns)
        print(line, file=sys.stderr, flush=True)


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise InputError("The working folder was removed: change to one that exists.") from error


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        print(f"normscope {__version__}")
        return 0
    try:
        help_wrapped: Any = _Help(sys.stdout)
        with contextlib.redirect_stdout(help_wrapped):
            options = _parsed(arguments)
    except SystemExit as end:  # the help was printed, or what is wrong with an argument
        return end.code if isinstance(end.code, int) else 2
    _judge_paths(options)
    # for module:callable; last, so that a file there is never taken for a library
    sys.path.append(str(_working_folder()))
    command = arguments[0]
    if command in RESUMED and "torch" not in sys.modules:
        print("Loading PyTorch ...", flush=True)
    with running(arguments):
        return getattr(_module(command), f"run_{command}")(options)


def _parsed(arguments: list[str]) -> Any:
    """Return a command's options; a SystemExit where there are none to run it with."""
    if not arguments or arguments[0] not in COMMANDS:
        subcommand_cli_from_dict(
            {command: _options(command) for command in COMMANDS},
            prog="normscope",
            description=DESCRIPTION,
            args=arguments or ["--help"],
        )
        raise SystemExit(2)
    kind = _with_whole_lines(_options(arguments[0]))
    return tyro.cli(kind, prog=f"normscope {arguments[0]}", args=arguments[1:])


def _judge_paths(options: Any) -> None:
    """Raise an InputError for an option that can be no path."""
    for name, value in vars(options).items():
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path):
                given_path(path, f"--{name.replace('_', '-')}")


def _options(command: str) -> Any:
    return getattr(_module(command), f"{command.capitalize()}Options")


def _with_whole_lines(kind: type) -> Any:
    """Give tyro the docstrings of the options without line breaks, which it would print."""
    for options in (kind, Recipe):  # each by its own: `model` is another thing to check
        classes = reversed(options.__mro__[:-1])
        parsed = (docstring_parser.parse_from_object(each).params for each in classes)
        texts = {param.arg_name: param.description or "" for params in parsed for param in params}
        for field in dataclasses.fields(options):
            field.metadata = MappingProxyType({"help": " ".join(texts[field.name].split())})
    return kind


def _module(command: str) -> Any:
    return importlib.import_module(f"normscope.commands.{command}")


if __name__ == "__main__":
    main()
