"""Killed at any change of a file, the same command gives the same bits, and leaves nothing behind.

`make test` tries a few moments of each command, `make fuzz` with FUZZ=1000 all of them. A disk that
fails at one of them, or from it on, is tried in the same way.
"""

import errno
import json
import shutil
from pathlib import Path

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
SWEPT = 10.0  # of FUZZ: from here on every moment is tried


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


def commands(finished):
    """{name: (what is there before, the command with {} for its folder)}."""
    return {
        "compare": (None, ["compare", *TINY, "--norms", "batch", "--watch", "--out", "{}"]),
        "study": (None, ["study", "{}.toml", "--jobs", "1", "--device", "cpu", "--out", "{}"]),
        "inspect": (None, ["inspect", *NETWORK, "--model", "small-resnet", "--out", "{}"]),
        "watch": (None, ["watch", "{}/r.sqlite"]),
        "export": (finished, ["export", "{}"]),
        "report": (finished, ["report", "{}"]),
    }


COMMANDS = ("compare", "study", "inspect", "watch", "export", "report")


def content(folder):
    """All that a command has made, without durations."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".sqlite":
            found[name] = _database(path)
        elif path.suffix in (".pt", ".json", ".parquet") and path.name not in ("summary.json",):
            found[name] = path.read_bytes() if path.suffix == ".pt" else ""
        else:
            found[name] = ""
    return found


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


def prepared(before, place):
    shutil.rmtree(place, ignore_errors=True)
    if before is not None:
        shutil.copytree(before, place)
    elif place.name == "watch":
        place.mkdir()
    return place


def moments(name, count, few):
    """Numbers of changes at which something happens: all of them, or a few of this seed's."""
    if FACTOR >= SWEPT:
        return range(1, count + 1)
    random = generator(f"kill {name}", 0)
    return sorted(random.sample(range(1, count + 1), min(count, few)))


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_anywhere_the_same_command_goes_on(name, warm, finished, tmp_path):
    before, command = commands(finished)[name]
    place = tmp_path / name
    command = [part.format(place) for part in command]
    prepared(before, place)
    (tmp_path / "study.toml").write_text(STUDY)
    status, count, printed = warm.run(command, place)
    assert status == 0, printed
    expected, bad = content(place), []
    tried = 0
    for at in moments(name, count, 2):
        kind = generator(f"kill {name}", at).choice(["before", "middle", "after"])
        prepared(before, place)
        warm.run(command, place, kind=kind, at=at)
        if name == "watch":  # a loop that is killed is not resumed by watching again
            _assert_readable(place / "r.sqlite")
            (place / "r.sqlite").unlink(missing_ok=True)
        status, _, printed = warm.run(command, place)
        tried += 1
        if status != 0:
            bad.append(f"{kind} {at}: status {status}: {printed.strip()[-300:]}")
        elif (found := content(place)) != expected:
            bad.append(f"{kind} {at}: {_difference(found, expected)}")
    print(f"\n{name}: {count} changes, {tried} kills, {len(bad)} bad")
    assert not bad, "\n".join(bad)


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


FAULTS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)


def test_a_disk_that_fails_never_harms_a_training(warm, tmp_path):
    """One warning, the same training, and a file that can be read and is not called complete."""
    place = prepared(None, tmp_path / "watch")
    command = ["watch", place / "r.sqlite"]
    status, count, printed = warm.run(command, place)
    trained = next(line for line in printed.splitlines() if line.startswith("trained:"))
    whole = content(place)["r.sqlite"]
    bad = []
    for at in moments("fail watch", count, 4):
        random = generator("fail watch", at)
        kind, error = random.choice(["once", "from then on"]), random.choice(FAULTS)
        prepared(None, place)
        status, _, printed = warm.run(command, place, kind=kind, at=at, error=error)
        begun = "trained:" in printed or "Traceback" in printed
        said = printed.count("The recording stopped")
        refused = "StorageError" in printed and "in watch" in printed  # at the start, as documented
        if not refused and (status != 0 or trained not in printed or said > 1 or not begun):
            bad.append(f"{kind} {errno.errorcode[error]} at {at}: {printed.strip()[-500:]}")
        path = place / "r.sqlite"
        if path.exists() and not refused:
            recording = Recording.load(path)
            _assert_readable(path)
            if recording.complete and content(place)["r.sqlite"] != whole:
                bad.append(
                    f"{kind} {errno.errorcode[error]} at {at}: a hole in a complete recording"
                )
    print(f"\nwatch: {count} changes, {len(bad)} bad")
    assert not bad, "\n".join(bad)


def test_a_disk_that_fails_never_leaves_a_record_that_lacks_something(warm, tmp_path):
    """The run ends with the error, or has all that it should have; the same command mends it."""
    place = tmp_path / "study"
    command = ["compare", *TINY, "--norms", "batch", "--watch", "--out", place]
    status, count, printed = warm.run(command, place)
    assert status == 0, printed
    expected, bad = content(place), []
    for at in moments("fail compare", count, 2):
        random = generator("fail compare", at)
        kind, error = random.choice(["once", "from then on"]), random.choice(FAULTS)
        prepared(None, place)
        status, _, printed = warm.run(command, place, kind=kind, at=at, error=error)
        what = f"{kind} {errno.errorcode[error]} at {at}"
        if status not in (0, 1) or "Traceback" in printed:
            bad.append(f"{what}: {printed.strip()[-300:]}")
        for folder in run_folders(place):
            run = load_run(folder)
            whole = expected[f"{folder.relative_to(place)}/record.sqlite"]
            if run.status == "finished" and _database(folder / "record.sqlite") != whole:
                bad.append(f"{what}: a finished record that lacks something")
        status, _, printed = warm.run(command, place)
        if status != 0:
            bad.append(f"{what}, again: {printed.strip()[-300:]}")
        elif (found := content(place)) != expected:
            bad.append(f"{what}, again: {_difference(found, expected)}")
    print(f"\ncompare: {count} changes, {len(bad)} bad")
    assert not bad, "\n".join(bad)


assert Path(__file__).with_name("faults.c").is_file()
