"""Killed at any change of a file, the same command gives the same bits, and leaves nothing behind.

`make test` tries a few moments of some commands, `make fuzz` with FUZZ=1000 all of all. A disk that
fails at one of them, or from it on, is tried in the same way.
"""

import errno
import json
import shutil

import pytest
from trials import FACTOR, generator
from warm import Warm, compiled

from normscope.records.recording import Recording
from normscope.records.run import DURATIONS, load_run, run_folders
from normscope.records.store import reader

NETWORK = (
    "--classes", "0", "1", "--widths", "4", "8", "--blocks-per-stage", "1", "--jobs", "1",
    "--epochs", "2", "--seeds", "1", "--device", "cpu",
)  # fmt: skip
LAYER = ("--layer", "layer1.0.bn1")
TINY = (*NETWORK, "--learning-rates", "0.1")
STUDY = """
measure = ["evaluation"]

[settings]
data = "digits"
classes = ["0", "1"]
norms = ["batch"]
widths = [4, 8]
blocks_per_stage = 1
epochs = 2
seeds = 1
learning_rates = [0.1]
"""
FAULTS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shim")
    library = compiled(folder)
    if library is None:
        pytest.skip("no C compiler for the shim that kills at a system call")
    process = Warm(library, folder / "log")
    yield process
    process.close()


@pytest.fixture(scope="module")
def finished(warm, tmp_path_factory):
    """A study that was trained and recorded without a fault."""
    folder = tmp_path_factory.mktemp("finished") / "study"
    status, _, printed = warm.run(["compare", *TINY, "--watch", "--out", folder], folder)
    assert status == 0, printed
    for name in ("report.html", "summary.json"):
        (folder / name).unlink()
    return folder


class Command:
    """A command, the folder as it finds it, and what it makes there: `expected`."""

    def __init__(self, name, warm, finished, folder):
        self.name, self.place, self._warm = name, folder / name, warm
        before, words = {
            "compare": (None, ["compare", *TINY, "--norms", "batch", "--watch", "--out", "{}"]),
            "study": (None, ["study", "{}.toml", "--jobs", "1", "--device", "cpu", "--out", "{}"]),
            "inspect": (
                None,
                ["inspect", *NETWORK, "--model", "small-resnet", *LAYER, "--out", "{}"],
            ),
            "watch": (None, ["watch", "{}/r.sqlite"]),
            "export": (finished, ["export", "{}"]),
            "report": (finished, ["report", "{}"]),
            "claims": (finished, ["claims", "{}"]),
        }[name]
        self._before, self._words = before, [word.format(self.place) for word in words]
        (folder / "study.toml").write_text(STUDY)
        self.prepare()
        status, self.count, self.printed = self.run()
        assert status == 0, self.printed
        self.expected = content(self.place)

    def prepare(self):
        shutil.rmtree(self.place, ignore_errors=True)
        if self._before is not None:
            shutil.copytree(self._before, self.place)
        elif self.name == "watch":
            self.place.mkdir()

    def run(self, **fault):
        return self._warm.run(self._words, self.place, **fault)

    def killed(self, at):
        """What is bad after a kill at this change and the same command again; "" if nothing."""
        kind = generator(f"kill {self.name}", at).choice(["before", "middle", "after"])
        self.prepare()
        self.run(kind=kind, at=at)
        if self.name == "watch":  # a loop that is killed is not resumed by watching again
            _assert_readable(self.place / "r.sqlite")
            (self.place / "r.sqlite").unlink(missing_ok=True)
        wrong = self._wrong_again()
        return wrong and f"{self.name}, killed {kind} {at}{wrong}"

    def failed(self, at):
        """What is bad after a disk that fails at this change, or from it on; "" if nothing."""
        random = generator(f"fail {self.name}", at)
        kind, error = random.choice(["once", "from then on"]), random.choice(FAULTS)
        self.prepare()
        status, _, printed = self.run(kind=kind, at=at, error=error)
        check = self._harmed if self.name == "watch" else self._lacking
        wrong = check(status, printed)
        return wrong and f"{self.name}, {kind} {errno.errorcode[error]} at {at}: {wrong}"

    def _harmed(self, status, printed):
        """One warning, the same training, a file that can be read and is not called complete."""
        path = self.place / "r.sqlite"
        if "StorageError" in printed and "in watch" in printed:  # at the start, as documented
            return ""
        if status != 0 or _trained(self.printed) != _trained(printed):
            return printed.strip()[-500:]
        said = printed.count("The recording stopped")
        _assert_readable(path)
        complete = path.exists() and Recording.load(path).complete
        whole = complete and content(self.place) == self.expected
        if whole:
            return "" if said == 0 else "whole, and a warning"
        if complete:
            return "a hole in a complete recording"
        return "" if said == 1 else f"{said} warnings: {printed.strip()[-500:]}"

    def _lacking(self, status, printed):
        """Ended with the error, or all is there that should be; the same command mends it."""
        if status not in (0, 1, 2) or "Traceback" in printed:
            return printed.strip()[-500:]
        if status == 0 and content(self.place) != self.expected and not _said(printed):
            return f"status 0: {_difference(content(self.place), self.expected)}"
        for folder in run_folders(self.place):
            file = f"{folder.relative_to(self.place)}/record.sqlite"
            whole = _database(self.place / file) == self.expected[file]
            later = self.name == "study" and status != 0  # its measurements come after training
            if not whole and not later and load_run(folder).status == "finished":
                return "a finished record that lacks something"
        return self._wrong_again()

    def _wrong_again(self):
        status, _, printed = self.run()
        if status != 0:
            return f", again: status {status}: {printed.strip()[-500:]}"
        found = content(self.place)
        return "" if found == self.expected else f", again: {_difference(found, self.expected)}"


def _trained(printed):
    return [line for line in printed.splitlines() if line.startswith("trained:")]


def _said(printed):
    return any(word in printed for word in ("Warning", "not recorded", "Cannot"))


def content(folder):
    """All that a command has made, without durations."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".sqlite":
            found[name] = _database(path)
        else:
            found[name] = path.read_bytes() if path.suffix in SAME_BYTES else ""
    return found


SAME_BYTES = (".pt", ".parquet", ".csv", ".md")


def _database(path):
    with reader(path) as store:
        meta, epochs, events = store.meta(), store.epochs(), store.events()
        if meta["kind"] == "recording":
            arrays = sorted(
                (layer, name, int(step), row.tobytes())
                for layer, name, steps, values in store.blocks()
                for step, row in zip(steps, values, strict=True)
            )
        else:
            arrays = [(*row[:5], row[5].tobytes()) for row in store.arrays()]
    meta.pop("environment", None)
    if "header" in meta:
        meta["header"] = {k: v for k, v in meta["header"].items() if k not in ("cost", "writer")}
    kept = {name: v.tobytes() for name, v in epochs.items() if name not in DURATIONS}
    return json.dumps(meta, sort_keys=True), kept, arrays, events


def _assert_readable(path):
    if path.exists():
        recording = Recording.load(path)
        for layer in recording.layers:
            for statistic in recording.statistics(layer):
                recording.query(layer, statistic)


def _difference(found, expected):
    if names := found.keys() ^ expected.keys():
        return f"other files: {sorted(names)}"
    return f"other content: {[name for name in found if found[name] != expected[name]]}"


FEW = {
    "compare": (1, 1), "study": (1, 0), "watch": (2, 4), "export": (1, 1), "report": (1, 1),
    "inspect": (0, 0), "claims": (0, 0),
}  # fmt: skip
"""How many kills and faults the ordinary suite tries."""


@pytest.mark.parametrize("name", [name for name, few in FEW.items() if any(few) or FACTOR > 1])
def test_at_any_change_of_a_file(name, warm, finished, tmp_path):
    """Killed, the same command goes on; a disk that fails harms no training that is watched, and
    leaves no record that lacks something without a word.
    """
    command, bad = Command(name, warm, finished, tmp_path), []
    for what, few in zip(("killed", "failed"), FEW[name], strict=True):
        tries = min(command.count, round(max(few, FACTOR > 1) * FACTOR))
        chosen = generator(f"{what} {name}", 0).sample(range(1, command.count + 1), tries)
        wrong = [said for at in sorted(chosen) if (said := getattr(command, what)(at))]
        print(f"\n{name}, {what}: {command.count} changes, {tries} tried, {len(wrong)} bad")
        bad += wrong
    assert not bad, "\n".join(bad)
