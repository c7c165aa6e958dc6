"""Fixtures for every test, and what the suite needs from outside: the CIFAR-10 images."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

# text is as wide as COLUMNS says, which workers of the suite have
os.environ.pop("COLUMNS", None)
# tiny networks: several threads, here or in the processes that tests start, would only wait for one
# another
os.environ.setdefault("OMP_NUM_THREADS", "1")
# else each worker, and each process that a test starts, compiles what it imports: 9 s per worker
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# decoded images stay with the checkout, not in the user's own cache
os.environ.setdefault("NORMSCOPE_CACHE", str(Path(__file__).parents[1] / ".test-cache"))


LONGEST = (
    "studies/test_ray_runs.py",
    "examples/test_notebooks.py",
    "show/report/test_report_browser.py",
    "show/report/test_report_accessible.py",
    "show/report/test_live_browser.py",
    "show/report/test_explanation_page.py",
    "commands/test_compare.py",
    "show/report/test_inside_layer_browser.py",
    "studies/test_runs.py",
    "studies/test_watched_runs.py",
    "fuzz/test_fuzz_kills.py",
    "show/figures/test_figure_explanation.py",
    "judge/claims/test_claims_studies.py",
    "show/report/test_many_runs.py",
    "fuzz/test_fuzz_records.py",
    "watching/test_watch_loops.py",
    "fuzz/test_fuzz_places.py",
    "show/report/test_live_training.py",
    "studies/test_until_decided.py",
    "records/test_created_whole.py",
    "benchmarks/test_benchmarks.py",
    "judge/rules/test_failure_cases.py",
    "test_wheel.py",
    "show/sinks/test_sinks_commands.py",
    "commands/explain/test_explain_command.py",
)
"""Files that take most, waiting included: begun first, so that two workers end at the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {Path(__file__).parent / name: index for index, name in enumerate(LONGEST)}
    if missing := [str(path) for path in order if not path.is_file()]:
        raise pytest.UsageError(f"LONGEST in tests/conftest.py names what is not there: {missing}")
    items.sort(key=lambda item: order.get(item.path, len(order)))


def pytest_collection_finish() -> None:
    """Look for garbage among what tests make, not again and again in all that is loaded by now: a
    twentieth of the suite's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


CPU_BUDGET = 5.0
"""Seconds of CPU that a test should stay below, fixtures that it is the first to ask for and
children that it waits for included: on two cores 4,700 tests have 600. The last test of a worker
has what its browser took besides: some 20 s.
"""

_began = pytest.StashKey[float]()


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_began] = _cpu_seconds()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> None:
    if call.when == "teardown":
        item.user_properties.append(("cpu", _cpu_seconds() - item.stash[_began]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the ten tests that took most, and all above CPU_BUDGET, in seconds of CPU: unlike the
    clock's, they hardly depend on what else is running.
    """
    reports = [report for some in terminalreporter.stats.values() for report in some]
    taken = [
        (seconds, report.nodeid)
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for name, seconds in report.user_properties
        if name == "cpu"
    ]
    if len(taken) < 100:
        return
    total = sum(seconds for seconds, _ in taken)
    terminalreporter.section(f"{total:.0f} s of CPU in {len(taken)} tests, those that took most")
    for rank, (seconds, test) in enumerate(sorted(taken, reverse=True)):
        if rank < 10 or seconds > CPU_BUDGET:
            over = f"  over the budget of {CPU_BUDGET:g} s" if seconds > CPU_BUDGET else ""
            terminalreporter.write_line(f"{seconds:6.1f}  {test}{over}")


@pytest.fixture(autouse=True)
def no_hook_survives(monkeypatch: pytest.MonkeyPatch):
    """Fail a test after which a hook is still on one of the modules, or on all modules, that it
    used.
    """
    import torch
    from torch.nn.modules import module as module_hooks

    seen: list[torch.nn.Module] = []
    original = torch.nn.Module.__init__

    def remember(self, *args, **kwargs):
        original(self, *args, **kwargs)
        seen.append(self)

    monkeypatch.setattr(torch.nn.Module, "__init__", remember)
    yield
    names = [name for name in dir(torch.nn.Module()) if name.endswith("_hooks")]
    left = [
        f"{type(module).__name__}.{name}"
        for module in seen
        for name in names
        if module.__dict__.get(name)
    ]
    left += [
        name
        for name in vars(module_hooks)
        if name.startswith("_global_") and name.endswith("_hooks") and getattr(module_hooks, name)
    ]
    assert not left, f"hooks survived the test: {left}"


@pytest.fixture(scope="session", autouse=True)
def training_here():
    """Have commands that a test calls train in its process; `worker_processes` undoes it."""
    from training_here import TrainsHere

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normscope.studies.pipeline.ProcessExecutor", TrainsHere)
        yield


@pytest.fixture
def worker_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands train in worker processes, as they do for a user, but warm ones."""
    from normscope.studies.executors import local
    from warm_processes import WarmProcess

    monkeypatch.setattr("normscope.studies.pipeline.ProcessExecutor", local.ProcessExecutor)
    monkeypatch.setattr(local, "LokyProcess", WarmProcess)


@pytest.fixture(autouse=True)
def every_step_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let checks of a loop spend any share of its time: no finding depends on a clock."""
    monkeypatch.setattr("normscope.commands.loop_check.SHARE", float("inf"))


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save a dot in place of each figure, which is made as ever: drawing it is most of the time."""
    from matplotlib.figure import Figure
    from PIL import Image

    dot = Image.new("RGB", (1, 1))
    monkeypatch.setattr(Figure, "savefig", lambda _, path, **__: dot.save(path))


@pytest.fixture(scope="session")
def site_script() -> Callable[[str], ModuleType]:
    """Return what loads a script of docs/site as a module, without running its main part."""

    def load(name: str) -> ModuleType:
        script = Path(__file__).parents[1] / "docs/site" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"site_{name}", script)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def cifar10_directory() -> Path:
    """Return the folder of CIFAR-10 images in NORMSCOPE_CIFAR10; skip the test without one."""
    directory = os.environ.get("NORMSCOPE_CIFAR10")
    if not directory:
        pytest.skip("NORMSCOPE_CIFAR10 is not set: it names a folder with the CIFAR-10 images")
    return Path(directory)
