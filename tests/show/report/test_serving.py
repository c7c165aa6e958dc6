"""`normscope serve`: what it finds, its address and token, what it refuses, and how it ends."""

import itertools
import re
import signal
import socket
import stat
import subprocess
import sys
import threading

import httpx
import pytest
from live_server import add_epoch, ask, serving, until, versions
from report_records import write_recording, write_study

from normscope.cli import main
from normscope.commands.serve import ServeOptions, _addresses, find_sources, run_serve
from normscope.errors import InputError
from normscope.show.live.access import KEY_NAME, token_for


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "study", epochs=2, status="interrupted")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NORMSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Server:
    """`normscope serve` as a process of its own."""

    def __init__(self, *arguments):
        command = [sys.executable, "-m", "normscope.cli", "serve", *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # a suite that runs in the background of a shell has inherited that SIGINT is ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().removeprefix("Open ").strip()
        assert self.address.startswith("http"), self.process.communicate()[1]

    @property
    def port(self):
        return int(re.search(r":(\d+)/", self.address)[1])

    def end(self, sign):
        self.process.send_signal(sign)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def start(cache):
    """Starts servers, and ends those that the test left."""
    servers = []

    def begin(*arguments):
        servers.append(Server(*arguments))
        return servers[-1]

    yield begin
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()


class TestEnding:
    def test_ctrl_c_ends_at_once_with_viewers(self, start, study):
        server = start(study, "--port", 0)
        with httpx.Client() as client:
            streams = [versions(server.address, client) for _ in range(3)]
            assert len({next(stream) for stream in streams}) == 1
            status, out, err = server.end(signal.SIGINT)
            assert [list(stream) for stream in streams] == [[], [], []]  # ended, not cut
        assert (status, err) == (0, "")
        assert out.endswith("Stopped.\n")

    def test_killed_and_restarted_at_the_same_address(self, start, study):
        first = start(study, "--port", 0)
        with httpx.Client() as client:
            stream = versions(first.address, client)
            told = next(stream)
            first.end(signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                list(stream)
            second = start(study, "--port", first.port)
            assert second.address == first.address
            assert (
                next(versions(second.address, client)) == told
            )  # nothing changed: nothing to fetch
            add_epoch(study / "runs" / "run0", 3)
            newer = next(version for version in versions(second.address, client) if version != told)
            sent = client.get(ask(second.address, "changes", since=told)).json()
        assert sent["version"] == newer
        assert sent["head"]["runs"][0]["epochs"] == 3


class TestAddress:
    def test_the_token_stays_and_is_of_the_path(self, cache, tmp_path):
        tokens = [token_for(tmp_path / name) for name in ("a", "b", "a")]
        assert tokens[0] == tokens[2] != tokens[1]
        assert len(tokens[0]) == 32
        assert stat.S_IMODE((cache / KEY_NAME).stat().st_mode) == 0o600
        assert token_for(tmp_path / "b" / ".." / "a") == tokens[0]

    @pytest.mark.parametrize("broken", ["readable by others", "too short"])
    def test_a_key_that_is_no_secret_is_replaced(self, cache, tmp_path, broken):
        before = token_for(tmp_path)
        if broken == "too short":
            (cache / KEY_NAME).write_bytes(b"short")
        else:
            (cache / KEY_NAME).chmod(0o644)
        assert token_for(tmp_path) != before
        assert stat.S_IMODE((cache / KEY_NAME).stat().st_mode) == 0o600

    def test_without_a_cache_the_token_is_new_and_that_is_said(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "file").touch()
        monkeypatch.setenv("NORMSCOPE_CACHE", str(tmp_path / "file"))
        assert token_for(tmp_path) != token_for(tmp_path)
        assert "the address changes with the next start" in capsys.readouterr().err

    def test_a_port_in_use_is_one_line(self, study, cache, capsys):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(SystemExit) as ended:
                main(["serve", str(study), "--port", str(port)])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"Port {port} on 127.0.0.1 is in use" in error
        assert "--port" in error

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"port": 70_000}, "Port 70000 is none"),
            ({"host": "no.such.host.invalid"}, "Cannot listen on no.such.host.invalid"),
            ({"host": "203.0.113.7"}, "Cannot listen on 203.0.113.7"),
            ({"token": "short"}, "at least 8"),
        ],
    )
    def test_what_cannot_be_listened_on(self, study, options, message):
        with pytest.raises(InputError, match=message):
            run_serve(ServeOptions(study, **options))

    def test_what_is_printed_for_other_machines(self):
        assert _addresses("127.0.0.1", 1, "t") == ["Open http://127.0.0.1:1/?token=t"]
        assert _addresses("::1", 1, "t") == ["Open http://[::1]:1/?token=t"]
        everywhere = _addresses("0.0.0.0", 1, "t")
        assert everywhere[0] == "Open http://127.0.0.1:1/?token=t"
        assert everywhere[1] == f"From other machines: http://{socket.gethostname()}:1/?token=t"
        assert "plain HTTP" in everywhere[2]


class TestFinding:
    def test_studies_and_recordings_below_a_folder(self, tmp_path):
        for name in ("one", "group/two"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            write_study(tmp_path / name, norms=())
        write_study(tmp_path / "one" / "inside", norms=())  # of the study that it lies in
        write_study(tmp_path / ".hidden", norms=())
        write_recording(tmp_path / "group" / "watched.sqlite")
        (tmp_path / "other.sqlite").write_bytes(b"something else")
        assert [source.name for source in find_sources(tmp_path)] == [
            "group/two",
            "group/watched.sqlite",
            "one",
        ]
        assert [source.name for source in find_sources(tmp_path / "one")] == ["one"]

    @pytest.mark.parametrize(
        ("what", "message"),
        [("nothing", "There is nothing at"), ("empty", "There is no study in"), ("file", "not a")],
    )
    def test_what_cannot_be_served_is_a_line(self, tmp_path, what, message):
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").write_text("no recording")
        with pytest.raises(InputError, match=message):
            run_serve(ServeOptions(tmp_path / what))


def test_viewers_that_leave_are_forgotten(study):
    with serving(study) as (app, address), httpx.Client() as client:
        followed = app.sources["study"]
        with client.stream("GET", ask(address, "events")):
            until(lambda: followed.viewers == 1)
        until(lambda: followed.viewers == 0)


def test_twenty_viewers_cost_one_build_for_a_change(study):
    with (
        serving(study) as (app, address),
        httpx.Client(limits=httpx.Limits(max_connections=None)) as client,
    ):
        heard = [[] for _ in range(20)]

        def listen(own):
            for version in itertools.islice(versions(address, client), 2):
                own.append(version)

        threads = [threading.Thread(target=listen, args=(own,)) for own in heard]
        for thread in threads:
            thread.start()
        until(lambda: all(heard))  # of the first version
        add_epoch(study / "runs" / "run0", 3)
        for thread in threads:
            thread.join(10)
        assert app.sources["study"].builds == 2
        assert len({tuple(own) for own in heard}) == 1
