"""For test suites: one line that fails when normalization is broken in a model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from normscope.arguments import judged
from normscope.judge.check_report import CheckReport

if TYPE_CHECKING:
    from torch import nn


@judged
def assert_normalization_ok(
    model: nn.Module,
    batches: Iterable[Any] | None = None,
    *,
    level: Literal["error", "warning"] = "error",
    ignore: Iterable[str] = (),
    **options: Any,
) -> CheckReport:
    """Check the model and fail with the report if anything is found at or above the level.

    Args:
        model: the model; it is left as it was.
        batches: a few batches, as for `normscope.check`.
        level: "error", or "warning" to fail on those too.
        ignore: codes or names of rules to leave out.
        options: what else `normscope.check` takes: optimizer, recording, other, loader, world_size,
            export, select.

    Raises:
        AssertionError: with the report as its message.
        InputError: as `normscope.check`.
    """
    from normscope.commands.check import check

    __tracebackhide__ = True  # pytest shows the test's line, not this one
    report = check(model, batches, ignore=ignore, **options)
    if report.errors or (level == "warning" and report.warnings):
        raise AssertionError(f"normalization is broken in {report.model}\n\n{report.text()}")
    return report
