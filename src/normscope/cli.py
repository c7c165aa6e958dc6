"""The command line. `normscope --help` teaches; whatever is slow to import waits until a command needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tyro.extras import subcommand_cli_from_dict

from normscope.commands.check import CheckOptions
from normscope.commands.diff import DiffOptions
from normscope.commands.export import ExportOptions
from normscope.commands.report import ReportOptions
from normscope.commands.serve import ServeOptions
from normscope.errors import NormscopeError
from normscope.records.command_line import running
from normscope.studies.explain_options import ExplainOptions
from normscope.studies.inspect_options import InspectOptions
from normscope.studies.spec import CompareOptions
from normscope.studies.study import ClaimsOptions, StudyOptions
from normscope.version import __version__

DESCRIPTION = """What normalization does to a network, from measured runs.

Start with `normscope compare`: with and without batch normalization, on embedded data, in about a minute.
`normscope COMMAND --help` says everything that a command can do; `normscope --version` which one this is.
"""


def _compare(options: CompareOptions) -> int:
    from normscope.commands.compare import compare

    return 1 if compare(options).failed else 0


def _inspect(options: InspectOptions) -> int:
    from normscope.commands.inspect import inspect

    inspect(options)
    return 0


def _explain(options: ExplainOptions) -> int:
    from normscope.commands.explain import explain

    explain(options)
    return 0


def _study(options: StudyOptions) -> int:
    from normscope.commands.study import run_study

    return 1 if run_study(options).failed else 0


def _claims(options: ClaimsOptions) -> int:
    from normscope.commands.study import judge_directories

    judge_directories(options)
    return 0


def _check(options: CheckOptions) -> int:
    from normscope.commands.check import run_check

    return run_check(options)


def _diff(options: DiffOptions) -> int:
    from normscope.commands.diff import run_diff

    return run_diff(options)


def _report(options: ReportOptions) -> int:
    from normscope.commands.report import run_report

    return run_report(options)


def _serve(options: ServeOptions) -> int:
    from normscope.commands.serve import serve

    return serve(options)


def _export(options: ExportOptions) -> int:
    from normscope.commands.export import run_export

    return run_export(options)


COMMANDS: dict[str, tuple[type, Callable[..., int]]] = {
    "compare": (CompareOptions, _compare),
    "inspect": (InspectOptions, _inspect),
    "explain": (ExplainOptions, _explain),
    "study": (StudyOptions, _study),
    "claims": (ClaimsOptions, _claims),
    "check": (CheckOptions, _check),
    "diff": (DiffOptions, _diff),
    "report": (ReportOptions, _report),
    "export": (ExportOptions, _export),
    "serve": (ServeOptions, _serve),
}
"""{command: (its options, what runs it and returns the exit status)}."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end with its status: 0, 1 for what went wrong on the way, 2 for bad input,
    130 for Ctrl-C.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given == ["--version"]:
        print(f"normscope {__version__}")
        sys.exit(0)
    sys.path.append(
        str(Path.cwd())
    )  # for module:callable; last, so that a file there is never taken for a library
    try:
        options = subcommand_cli_from_dict(
            {name: options for name, (options, _) in COMMANDS.items()},
            prog="normscope",
            description=DESCRIPTION,
            args=given,
        )
        run = next(run for kind, run in COMMANDS.values() if type(options) is kind)
        with running(given):
            status = run(options)
    except NormscopeError as error:
        print(f"normscope: {error}", file=sys.stderr)
        status = error.exit_status
    except BrokenPipeError:  # the reader of a pipe, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        print(
            "normscope: interrupted; finished epochs are kept, the same command goes on from there.",
            file=sys.stderr,
        )
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
