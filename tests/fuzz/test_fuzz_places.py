"""Whatever lies in a place of a study, and whatever its JSON says: a result, or one line."""

import json
import os
import shutil
import socket
import sys
from pathlib import Path

import pytest
from mutations import dumps, mutated_bytes, mutated_json
from trials import amount, attempt_all, generator

sys.path.insert(0, str(Path(__file__).parents[1] / "show" / "report"))

from report_records import write_recording, write_study

from normscope.commands.claims import claims
from normscope.commands.export import export
from normscope.show.live.followed import LiveStudy
from normscope.show.live.source import Source
from normscope.show.report.pages import report
from normscope.studies.directory import StudyDirectory

SEEDS = (0, 1)


@pytest.fixture
def study(tmp_path, blank_figures):
    folder = write_study(tmp_path / "study", seeds=SEEDS, epochs=3)
    write_recording(folder / "runs" / "run0" / "recording.sqlite")
    norms = [{"norm": "batch"}, {"norm": "none"}]
    (folder / "summary.json").write_text(json.dumps({"groups": norms}))
    (folder / "plan.json").write_text(json.dumps({"runs": ["run0", "run1", "run9"]}))
    (folder / "inspection.json").write_text(json.dumps({"layers": ["bn1"], "epochs": [1]}))
    export(folder, "csv")
    return folder


def _follow(folder):
    study = LiveStudy(Source("study", (folder,)))
    study.look()
    assert study.snapshot is not None


USES = {
    "report": lambda folder: report(folder),
    "claims": lambda folder: claims(folder),
    "export": lambda folder: export(folder, "csv"),
    "serve": _follow,
    "compare": lambda folder: StudyDirectory.create(folder),
}

PLACES = (
    "normscope.json", "summary.json", "plan.json", "inspection.json", "report.html",
    "runs/run0/record.sqlite", "runs/run0/record.sqlite-journal", "runs/run0/recording.sqlite",
    "runs/run0/recording.sqlite-journal", "runs/run0/run.lock", "runs/run9", "runs",
    "export/normscope-export.json", "export/epochs.csv",
)  # fmt: skip
KINDS = ("pipe", "folder", "/dev/zero", "socket", "empty", "loop", "unreadable")


def put(kind, path):
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "/dev/zero":
            path.symlink_to("/dev/zero")
        case "loop":
            path.symlink_to(path)
        case "socket":
            before = Path.cwd()
            os.chdir(path.parent)  # a socket's path is short
            with socket.socket(socket.AF_UNIX) as end:
                end.bind(path.name)
            os.chdir(before)
        case "empty":
            path.touch()
        case "unreadable":
            path.write_bytes(b"\xff\xfe{")


def test_nothing_in_a_place_is_waited_for(study, tmp_path):
    cases = [(place, kind, use) for place in PLACES for kind in KINDS for use in USES]
    chosen = generator("places", 0).sample(range(len(cases)), min(len(cases), amount(25)))

    def attempt(number):
        place, kind, use = cases[number]
        copy = Path(shutil.copytree(study, tmp_path / f"copy{number}"))
        put(kind, copy / place)
        try:
            USES[use](copy)
        except Exception as error:
            error.args = (f"{place} is {kind}, {use}: {error}",)
            raise

    attempt_all("places", attempt, sorted(chosen)).assert_good()


NAMES = ("normscope.json", "summary.json", "plan.json", "inspection.json",
         "export/normscope-export.json")  # fmt: skip


def test_json_of_other_types(study, tmp_path):
    def attempt(number):
        random = generator("json", number)
        copy = Path(shutil.copytree(study, tmp_path / f"copy{number}"))
        path = copy / random.choice(NAMES)
        if random.random() < 0.5:
            path.write_text(dumps(mutated_json(json.loads(path.read_text()), random)))
        else:
            path.write_bytes(mutated_bytes(path.read_bytes(), random))
        USES[random.choice(list(USES))](copy)

    attempt_all("JSON beside records", attempt, range(amount(15))).assert_good()
