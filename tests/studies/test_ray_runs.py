"""Runs of run_cases on a real Ray, two nodes on this machine with a CPU each; and where a worker's
way of ending or of being started is not the question, on the stand-in of warm_ray.
"""

import contextlib
import dataclasses
import logging
import os
import tempfile
import time
from pathlib import Path

import pytest
from run_cases import OPTIONS, assert_same_bits, ignore

from normscope.errors import InputError, StorageError
from normscope.records.run import load_run, status_of
from normscope.records.store import reader
from normscope.studies.directory import RunDirectory
from normscope.studies.executors import execute_all
from normscope.studies.executors import ray as ray_executor
from normscope.studies.executors.ray import RayExecutor
from normscope.studies.grid import lay_out
from normscope.studies.run_recording import is_recorded
from normscope.studies.runner import RunResult, RunTask
from training_here import TrainsHere
from warm_processes import Python, run_python

ray = pytest.importorskip("ray", reason="Ray is not installed (extra ray)")
from warm_ray import WarmRay  # noqa: E402 - which takes its errors from Ray

BYTES = 80 << 20


@pytest.fixture(scope="module")
def markers(tmp_path_factory):
    """A folder in which norms_that_end leave their marks."""
    return tmp_path_factory.mktemp("markers")


@pytest.fixture(scope="module")
def cluster(markers):
    """The address of a Ray of two nodes, which is gone afterwards with all of its processes."""
    from ray.cluster_utils import Cluster

    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_enable_worker_prestart", "0")  # a worker costs two seconds to start
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        patch.setenv("RAY_enable_metrics_collection", "0")
        patch.setenv("NORMSCOPE_TEST_MARKERS", str(markers))
        # where killed workers leave their folders; Ray's sockets have room for a short path only
        workers = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)
            )
        )
        patch.setenv("TMPDIR", str(workers))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.syspath_prepend(str(Path(__file__).parent))
        logging.getLogger("ray").setLevel(logging.ERROR)
        node = {
            "num_cpus": 1,
            "num_gpus": 0,
            "object_store_memory": BYTES,
            "include_dashboard": False,
        }
        cluster = Cluster(initialize_head=True, head_node_args=node)
        cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=BYTES)
        try:
            yield cluster.address
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def warm_ray(markers, monkeypatch):
    """Have every executor use the stand-in; returns an address that nobody looks at."""
    monkeypatch.setenv("NORMSCOPE_TEST_MARKERS", str(markers))
    monkeypatch.setattr(ray_executor, "connect", lambda _: (WarmRay(), False))
    return "of the stand-in"


@pytest.fixture
def address(request):
    """The address of the Ray that a test names: `cluster` or `warm_ray`."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def spec():
    return lay_out(OPTIONS).specs[0]


@pytest.fixture(scope="module")
def trained_here(spec, tmp_path_factory):
    """Three runs as this process trains them."""
    place = tmp_path_factory.mktemp("here")
    list(TrainsHere().run(tasks_of(spec, place), ignore))
    return place


def tasks_of(spec, place, seeds=3, **changes):
    specs = [dataclasses.replace(spec, seed=seed, **changes) for seed in range(seeds)]
    return [RunTask(each, place / f"seed{each.seed}") for each in specs]


def run_all(executor, tasks):
    """{run: result} and every message, as a study would have them."""
    ended, messages = {}, []
    execute_all(
        tasks,
        executor,
        messages.append,
        lambda task, result: ended.update({task.directory.name: result}),
    )
    return ended, messages


def unseen(monkeypatch):
    """Have every worker look for a token that is not there, as where the folder is not shared."""
    original = ray_executor.RunRequest
    monkeypatch.setattr(
        ray_executor,
        "RunRequest",
        lambda task, token, *rest: original(task, token.with_name("not here"), *rest),
    )


def with_norm(spec, name, **changes):
    return dataclasses.replace(spec, norm=f"norms_that_end:{name}", **changes)


def nothing_is_left(place):
    """Whether no run of the folder is locked, and no token or half-written file is there."""
    hidden = [path.name for path in place.rglob(".*")]
    assert not hidden, hidden
    assert within(20, lambda: all(is_free(run) for run in place.iterdir())), "a run is still locked"


def is_free(run):
    with RunDirectory(run).locked() as ours:
        return ours


def within(seconds, condition):
    """Whether it comes true: a process that was killed takes a moment to go, with what it held."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def test_workers_train_the_same_bits_in_a_shared_folder(cluster, spec, trained_here, tmp_path):
    ended, messages = run_all(RayExecutor(cluster), tasks_of(spec, tmp_path))
    assert ended == dict.fromkeys(("seed0", "seed1", "seed2"), RunResult("finished"))
    for name in ended:
        assert_same_bits(tmp_path / name, trained_here / name)
        assert {message.epochs_done for message in messages if message.run == name} >= {0, 1, 2, 3}
    nothing_is_left(tmp_path)


def test_where_the_folder_is_not_shared_the_same_bits_come_back(
    cluster, spec, trained_here, tmp_path, monkeypatch
):
    unseen(monkeypatch)
    tasks = tasks_of(spec, tmp_path)
    tasks[0] = dataclasses.replace(tasks[0], watch=True)
    ended, messages = run_all(RayExecutor(cluster, seconds_between_copies=0), tasks)
    assert is_recorded(tmp_path / "seed0" / "recording.sqlite")
    assert ended == dict.fromkeys(("seed0", "seed1", "seed2"), RunResult("finished"))
    for name in ended:
        assert_same_bits(tmp_path / name, trained_here / name)
        assert (tmp_path / name / "spec.json").read_text() == (
            trained_here / name / "spec.json"
        ).read_text()
        assert {message.epochs_done for message in messages if message.run == name} >= {0, 1, 2, 3}
    nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("address", "shared"), [("warm_ray", True), ("cluster", False)], indirect=["address"]
)
def test_a_killed_worker_is_replaced_by_one_that_goes_on(
    address, shared, spec, markers, tmp_path, monkeypatch, capfd
):
    if not shared:
        unseen(monkeypatch)
    monkeypatch.setenv("NORMSCOPE_TEST_MARKERS", str(markers))
    dying = with_norm(spec, "dies_once")
    (markers / "died").unlink(missing_ok=True)
    ended, messages = run_all(
        RayExecutor(address, seconds_between_copies=0), [RunTask(dying, tmp_path / "ray" / "run")]
    )
    assert (markers / "died").exists(), "nobody was killed"
    list(TrainsHere().run([RunTask(dying, tmp_path / "here" / "run")], ignore))
    assert ended == {"run": RunResult("finished", note="1 worker died on the way, others went on")}
    assert_same_bits(tmp_path / "ray" / "run", tmp_path / "here" / "run")
    assert capfd.readouterr() == ("", "")
    whole = [message.epochs_done for message in messages if isinstance(message.epochs_done, int)]
    # a copy that is on its way when the worker dies is lost with it
    possible = [[0, 1, 1, 2, 3]] + [[0, 1, 0, 1, 2, 3]] * (not shared)
    assert whole in possible, "it went on after its first epoch, and trained none twice"


@pytest.mark.parametrize("shared", [True, False])
def test_runs_that_fail_are_recorded_and_the_others_finish(
    shared, warm_ray, spec, tmp_path, monkeypatch
):
    if not shared:
        unseen(monkeypatch)
    monkeypatch.setattr(ray_executor, "MOST_DEATHS", 2)
    specs = {"good": spec, "raises": with_norm(spec, "raises"), "dies": with_norm(spec, "dies")}
    tasks = [RunTask(each, tmp_path / name) for name, each in specs.items()]
    ended, _ = run_all(RayExecutor(warm_ray), tasks)
    assert ended["good"] == RunResult("finished")
    assert ended["raises"] == RunResult("failed", "ZeroDivisionError: the norm of nothing")
    assert ended["dies"].error.startswith("its worker died 2 times without finishing an epoch")
    for name in ("raises", "dies"):
        failed = load_run(tmp_path / name)
        assert (failed.status, failed.meta["error"]) == ("failed", ended[name].error)
        assert failed.spec["norm"] == specs[name].norm
    nothing_is_left(tmp_path)


def test_a_run_that_was_begun_here_is_finished_elsewhere(
    warm_ray, spec, trained_here, tmp_path, monkeypatch
):
    """Its record travels to the worker, also out of a transaction that was killed here."""
    script = (
        "import os, signal, sys; from pathlib import Path; from normscope.studies import runner\n"
        "from normscope.studies.spec import RunSpec\n"
        "original = runner.Store.set_resume_state\n"
        "def killing(self, epoch, state):\n"
        "    original(self, epoch, state)\n"
        "    if epoch == 2:\n"
        "        self.connection.execute('PRAGMA cache_spill = 1')\n"
        "        self.connection.execute('PRAGMA cache_size = 1')\n"
        "        filler = 'INSERT INTO meta VALUES (\"filler\", zeroblob(100000), 0)'\n"
        "        self.connection.execute(filler)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "runner.Store.set_resume_state = killing\n"
        "spec = RunSpec.from_json(Path(sys.argv[1]).read_text())\n"
        "runner.execute(runner.RunTask(spec, Path(sys.argv[2])), lambda _: None)\n"
    )
    (task,) = tasks_of(spec, tmp_path / "runs", seeds=1)
    (tmp_path / "spec.json").write_text(spec.to_json())
    killed = run_python("-c", script, tmp_path / "spec.json", task.directory)
    assert killed.returncode == -9
    assert (task.directory / "record.sqlite-journal").stat().st_size > 0
    unseen(monkeypatch)
    ended, messages = run_all(RayExecutor(warm_ray), [task])
    assert ended == {"seed0": RunResult("finished")}
    assert_same_bits(task.directory, trained_here / "seed0")
    assert messages[0].epochs_done == 1
    nothing_is_left(tmp_path / "runs")


def test_a_run_that_another_process_trains_is_left_to_it(warm_ray, spec, tmp_path, monkeypatch):
    unseen(monkeypatch)
    (task,) = tasks_of(spec, tmp_path, seeds=1)
    script = (
        "import sys; from pathlib import Path\n"
        "from normscope.studies.directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).locked():\n"
        "    print('locked', flush=True); sys.stdin.read()"
    )
    with Python("-c", script, task.directory) as other:
        assert other.stdout.readline() == "locked\n"
        assert [result.status for _, result in RayExecutor(warm_ray).run([task], ignore)] == [
            "busy"
        ]
        other.communicate()
    assert status_of(task.directory) is None


def test_what_cannot_be_stored_here_stops_the_study_and_its_workers(
    warm_ray, spec, tmp_path, monkeypatch
):
    unseen(monkeypatch)

    def full(*_):
        raise StorageError("Cannot write record.sqlite: database or disk is full.")

    monkeypatch.setattr(ray_executor, "write_files", full)
    with pytest.raises(StorageError, match="disk is full"):
        run_all(RayExecutor(warm_ray, seconds_between_copies=0), tasks_of(spec, tmp_path))
    nothing_is_left(tmp_path)


def test_a_stream_that_is_closed_early_ends_its_workers(cluster, spec, markers, tmp_path):
    (markers / "waits").unlink(missing_ok=True)
    task = RunTask(with_norm(spec, "waits_once"), tmp_path / "run")
    heard = []

    def stop_in_the_second_epoch(message):
        heard.append(message)
        if message.epochs_done == 1:
            assert within(30, (markers / "waits").exists)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(RayExecutor(cluster).run([task], stop_in_the_second_epoch))
    nothing_is_left(tmp_path)
    assert status_of(task.directory) == "interrupted"
    with reader(task.directory / "record.sqlite") as store:
        assert store.resume_state()[0] == 1


DRIVER = """
import sys
from pathlib import Path
from normscope.studies.executors.ray import RayExecutor
from normscope.studies.runner import RunTask
from normscope.studies.spec import RunSpec
address, spec, directory, shared = sys.argv[1:]
if address == "of the stand-in":
    from normscope.studies.executors import ray
    from warm_ray import WarmRay
    ray.connect = lambda _: (WarmRay(), False)
task = RunTask(RunSpec.from_json(Path(spec).read_text()), Path(directory))
executor = RayExecutor(address, seconds_between_copies=0, shared=shared == "True")
for _ in executor.run([task], lambda message: print(message.epochs_done, flush=True)): pass
"""


@pytest.mark.parametrize(
    ("address", "shared"), [("cluster", True), ("warm_ray", False)], indirect=["address"]
)
def test_the_driver_may_be_killed_and_the_same_command_goes_on(
    address, shared, spec, markers, trained_waiting, tmp_path
):
    (markers / "waits").unlink(missing_ok=True)
    task = RunTask(with_norm(spec, "waits_once"), tmp_path / "runs" / "run")
    (tmp_path / "spec.json").write_text(task.spec.to_json())
    arguments = address, tmp_path / "spec.json", task.directory, shared
    with Python("-c", DRIVER, *arguments) as driver:
        assert within(60, (markers / "waits").exists)
        assert within(10, lambda: status_of(task.directory) is not None)
        driver.kill()
    ended, messages = run_all(RayExecutor(address, shared=shared), [task])
    assert ended == {"run": RunResult("finished")}
    assert messages[0].epochs_done == 1
    assert_same_bits(task.directory, trained_waiting)


@pytest.fixture
def trained_waiting(spec, markers, monkeypatch, tmp_path):
    """The run that waits once, as this process trains it when somebody has waited."""
    monkeypatch.setenv("NORMSCOPE_TEST_MARKERS", str(markers))
    (markers / "waits").touch()
    list(TrainsHere().run([RunTask(with_norm(spec, "waits_once"), tmp_path / "here")], ignore))
    return tmp_path / "here"


def test_a_cluster_that_has_not_what_a_run_needs_is_told_at_once(cluster, spec, tmp_path):
    tasks = tasks_of(spec, tmp_path, seeds=1, device="cuda")
    with pytest.raises(InputError, match="None of the 2 machines of this Ray cluster has a GPU"):
        list(RayExecutor(cluster).run(tasks, ignore))
