"""Downloading, against a server in this process: once, checked, and never half."""

from __future__ import annotations

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from normscope.data import sources
from normscope.data.cache import PoochBar, fetch
from normscope.data.dataset import fingerprint
from normscope.data.layouts import binary
from normscope.data.layouts.binary import Archive
from normscope.data.sources import load
from normscope.errors import InputError


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, silently, and remembers what was asked for; `cut` sends half of what it
    announces.
    """

    asked: list[str]
    cut = False

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if not self.cut:
            return super().do_GET()
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])


@pytest.fixture
def server(tmp_path):
    """(handler class, folder that is served, its address)."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = type("OneTest", (Handler,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield handler, folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def archive(server, tiny, write_tiny_archive) -> Archive:
    _, folder, address = server
    path = write_tiny_archive(folder, tiny)
    return Archive(f"{address}/{path.name}", f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}")


@pytest.mark.parametrize("right", [True, False])
def test_shakespeare_is_downloaded_and_checked(right, server, tmp_path, monkeypatch):
    handler, folder, address = server
    content = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 2000
    (folder / "input.txt").write_bytes(content)
    digest = hashlib.sha256(content if right else b"").hexdigest()
    monkeypatch.setattr(sources, "SHAKESPEARE", Archive(f"{address}/input.txt", f"sha256:{digest}"))
    if not right:
        with pytest.raises(InputError, match="does not have the checksum"):
            load("tiny-shakespeare", cache_dir=tmp_path / "cache")
        return
    for _ in range(2):
        loaded = load("tiny-shakespeare", cache_dir=tmp_path / "cache")
        assert loaded.kind == "text"
        assert bytes(loaded.train_images[0].flatten().tolist()) in content
    assert handler.asked == ["/input.txt"]


def test_without_a_directory_the_archive_is_downloaded_once(
    archive, server, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(binary, "CIFAR10", archive)
    for _ in range(2):
        loaded = load("cifar10", cache_dir=tmp_path / "cache")
        assert loaded.fingerprint == fingerprint(tiny)
    assert server[0].asked == ["/cifar-10-binary.tar.gz"]


def test_a_wrong_checksum_keeps_nothing(archive, tmp_path):
    wrong = Archive(archive.url, "md5:" + "0" * 32)
    with pytest.raises(
        InputError, match=f"does not have the checksum md5:{'0' * 32}; nothing was kept"
    ) as caught:
        fetch(wrong, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in (tmp_path / "cache" / "downloads").iterdir()] == [".lock"]


def test_a_damaged_download_in_the_cache_is_fetched_again(archive, server, tmp_path):
    path = fetch(archive, tmp_path / "cache")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert fetch(archive, tmp_path / "cache").read_bytes() == whole
    assert len(server[0].asked) == 2


def test_a_transfer_that_breaks_off_keeps_nothing(archive, server, tmp_path):
    server[0].cut = True
    with pytest.raises(InputError, match="Cannot download|does not have the checksum"):
        fetch(archive, tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "downloads").iterdir()] == [".lock"]


def test_no_such_file_and_no_server_are_one_line_with_a_way_out(archive, server, tmp_path):
    absent = Archive(archive.url + "x", archive.checksum)
    unreachable = Archive("http://127.0.0.1:1/cifar-10-binary.tar.gz", archive.checksum)
    for wrong, reason in ((absent, "HTTPError"), (unreachable, "ConnectionError")):
        with pytest.raises(InputError, match=f"Cannot download {wrong.url}: {reason}") as caught:
            fetch(wrong, tmp_path / "cache")
        assert "--data-dir" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_official_archive_is_the_binary_one():
    assert binary.CIFAR10.file_name == "cifar-10-binary.tar.gz"
    assert len(binary.CIFAR10.checksum.removeprefix("md5:")) == 32


def test_the_bar_ends_at_exactly_the_total():
    class Counter:
        shown = total = 0

        def advance(self, amount: int) -> None:
            self.shown += amount

        def expect(self, total: int) -> None:
            self.total = total

    counter = Counter()
    bar = PoochBar(counter)
    bar.total = 100
    for _ in range(2):
        bar.update(64)
    bar.reset()
    bar.update(bar.total)
    bar.close()
    assert (counter.shown, counter.total) == (100, 100)
