"""The command line. Modules that are slow to import wait until a command needs them."""

from __future__ import annotations

import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import docstring_parser
import tyro
from tyro.extras import subcommand_cli_from_dict

from normscope.errors import NormscopeError
from normscope.records.command_line import running
from normscope.studies.spec import Recipe
from normscope.version import __version__

DESCRIPTION = """What normalization does to a network, from measured runs.

Start with `normscope compare`: with and without batch normalization, on embedded data, in about a
minute. `normscope COMMAND --help` says everything that a command can do; `normscope --version`
which one this is.
"""

COMMANDS = (
    "compare", "inspect", "explain", "study", "claims",
    "check", "diff", "report", "export", "serve",
)  # fmt: skip
"""Each is a module of `commands` with its options, `<Command>Options`, and `run_<command>`, which
returns the exit status.
"""

RESUMED = ("compare", "inspect", "explain", "study")
"""The commands that train, and resume where they were interrupted."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end with its status: 0, 1 for what went wrong on the way, 2 for bad input,
    130 for Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"normscope {__version__}")
        sys.exit(0)
    # for module:callable; last, so that a file there is never taken for a library
    sys.path.append(str(Path.cwd()))
    try:
        with running(arguments):
            status = _run(arguments)
    except NormscopeError as error:
        print(f"normscope: {error}", file=sys.stderr)
        status = error.exit_status
    except BrokenPipeError:  # the reader of a pipe, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        kept = "; finished epochs are kept, and the same command resumes"
        resumed = arguments and arguments[0] in RESUMED
        print(f"normscope: interrupted{kept if resumed else ''}.", file=sys.stderr)
        status = 130
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0] in COMMANDS:
        command = arguments[0]
        kind = _with_whole_lines(_options(command))
        options = tyro.cli(kind, prog=f"normscope {command}", args=arguments[1:])
        if command in RESUMED and "torch" not in sys.modules:
            print("Loading PyTorch ...", flush=True)
        return getattr(_module(command), f"run_{command}")(options)
    subcommand_cli_from_dict(  # prints the help, or what is wrong, and ends
        {command: _options(command) for command in COMMANDS},
        prog="normscope",
        description=DESCRIPTION,
        args=arguments or ["--help"],
    )
    return 2


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
