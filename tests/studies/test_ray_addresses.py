"""Where a Ray is looked for, and what is said where there is none. Nothing here starts one."""

import socket
import subprocess
import sys

import pytest

from normscope.cli import main
from normscope.commands.study import StudyOptions
from normscope.errors import InputError
from normscope.studies.executors import ray_cluster
from normscope.studies.executors.ray import RayExecutor
from normscope.studies.executors.ray_cluster import connect

ray = pytest.importorskip("ray", reason="Ray is not installed (extra ray)")


@pytest.fixture(autouse=True)
def no_ray_here(monkeypatch):
    """As on a machine on which no Ray runs, and that names none."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **settings: pytest.fail(f"connected with {settings}"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def silent_port():
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=20) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free_port():
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_where_nobody_listens_it_is_said_at_once_in_one_line(free_port, monkeypatch):
    never = lambda *_, **__: pytest.fail("Ray was asked, which waits")  # noqa: E731
    monkeypatch.setattr(subprocess, "run", never)
    for address in (f"127.0.0.1:{free_port}", "auto"):
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port}")
        with pytest.raises(
            InputError, match=f"Nobody answers at 127.0.0.1:{free_port} .Connection refused."
        ) as caught:
            connect(address)
        assert "\n" not in str(caught.value)


def test_where_somebody_else_listens_there_is_a_time_out(silent_port, monkeypatch):
    monkeypatch.setattr(ray_cluster, "SECONDS_TO_CONNECT", 1.0)
    with pytest.raises(
        InputError, match=f"No Ray answers at 127.0.0.1:{silent_port} within 1 seconds"
    ):
        connect(f"127.0.0.1:{silent_port}")


def test_a_machine_that_takes_no_connection_is_given_up(monkeypatch):
    def late(address, timeout):
        assert timeout == ray_cluster.SECONDS_TO_ANSWER
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", late)
    with pytest.raises(InputError, match="Nobody answers at far.example:6379 .timed out."):
        connect("far.example")


@pytest.mark.parametrize(
    ("tried", "message"),
    [
        ((0, ""), None),
        (
            (1, "Traceback\n  ...\nConnectionError: no cluster"),
            "No Ray runs on this machine; start one with",
        ),
    ],
)
def test_on_this_machine_ray_is_asked_in_a_process_of_its_own(tried, message, monkeypatch):
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, tried[0], "", tried[1])

    reached = []
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(ray, "init", lambda **settings: reached.append(settings["address"]))
    if message is None:
        assert connect("auto") == (ray, True)
        assert reached == ["auto"]
    else:
        with pytest.raises(InputError, match=message):
            connect("auto")
        assert not reached
    assert asked[0][0] == sys.executable
    assert "ray.init(address='auto'" in asked[0][2]


def test_what_ray_says_against_it_is_passed_on(silent_port, monkeypatch):
    error = "Traceback\n  ...\nRuntimeError: Version mismatch: The cluster was started with Ray 2.1"
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", error)
    )
    with pytest.raises(
        InputError, match="cannot be used: RuntimeError: Version mismatch"
    ) as caught:
        connect(f"127.0.0.1:{silent_port}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["ray://head:10001", "head:port", "head:123456", "", "two heads", "head; rm"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match="expected auto, local or HOST:PORT"):
        connect(address)


def test_a_process_that_is_connected_stays_where_it_is(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    assert connect("127.0.0.1:1") == (ray, False)
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("the user's connection was closed"))
    RayExecutor("auto").close()


def test_without_ray_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r'pip install "normscope\[ray\]"') as caught:
        connect("auto")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"address": "auto"}, "--address auto is for --executor ray"),
        ({"executor": "dask"}, "Unknown executor 'dask'. Known: local, ray"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        StudyOptions(**settings)


def test_the_command_ends_with_status_2_and_one_line_and_makes_no_folder(
    free_port, tmp_path, capfd
):
    address = f"127.0.0.1:{free_port}"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "study",
                "quick",
                "--executor",
                "ray",
                "--address",
                address,
                "--out",
                str(tmp_path / "out"),
            ]
        )
    assert ended.value.code == 2
    out, error = capfd.readouterr()
    assert error.startswith(f"normscope: Nobody answers at {address}")
    assert error.count("\n") == 1
    assert not out
    assert not (tmp_path / "out").exists()
