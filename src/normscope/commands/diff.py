"""`normscope diff`: two models or checkpoints side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from normscope.errors import InputError
from normscope.user_models.loading import load_side


@dataclass(frozen=True)
class DiffOptions:
    """Set two models or checkpoints side by side, layer by layer: where do they first differ?

    Ends with 0 if they do not differ, 1 if they do, 2 for bad input.
    """

    good: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GOOD")]
    """The one that works: module:factory or a checkpoint."""

    bad: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BAD")]
    """The other one."""

    format: Literal["text", "json"] = "text"
    """How to print."""


def run_diff(options: DiffOptions) -> int:
    """Run `normscope diff` and return its exit status.

    Raises:
        InputError: for what cannot be used.
    """
    from normscope.examining.examine import examine, examine_state
    from normscope.judge.difference import Difference

    good, bad = load_side(options.good), load_side(options.bad)
    if isinstance(good, dict) or isinstance(bad, dict):
        record = examine_state(bad, other=good)
    else:
        record = examine(bad, other=good)
    if record.pair is None:
        raise InputError("There is nothing to compare.")
    difference = Difference(record.pair, Path(options.good).name, Path(options.bad).name)
    print(difference.json() if options.format == "json" else difference.text())
    return 1 if difference else 0
