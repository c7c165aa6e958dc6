"""Twenty viewers and a browser while a study trains: everybody sees every epoch, and the server
stays small.
"""

import asyncio
import json
import re
import signal
import threading
from pathlib import Path

import httpx
import pytest
from live_server import ask, until
from report_records import write_study

from normscope.records.run import load_run
from warm_processes import Python, command

VIEWERS, EPOCHS = 20, 15
COMPARE = [
    "compare",
    "--data",
    "digits",
    "--learning-rates",
    "0.1",
    "--seeds",
    "1",
    "--epochs",
    str(EPOCHS),
    "--jobs",
    "1",
]
COMPARE += ["--widths", "4", "4", "8", "--batch-size", "512", "--device", "cpu"]


class Viewer:
    """What a page does: it hears of versions, and asks for what changed since its own."""

    def __init__(self, address):
        self.address, self.version, self.head, self.views, self.seen = address, "", {}, {}, []

    async def follow(self, client):
        async with client.stream("GET", ask(self.address, "events")) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line[6:] != self.version:
                    await self.catch_up(client)
                    if self.has_ended():
                        return

    async def catch_up(self, client):
        sent = (await client.get(ask(self.address, "changes", since=self.version))).json()
        self.version = sent["version"]
        self.head = sent.get("head", self.head)
        self.views = {name: sent["views"].get(name, self.views.get(name)) for name in sent["order"]}
        self.seen.append(sum(run["epochs"] for run in self.head["runs"]))

    def has_ended(self):
        return [run["status"] for run in self.head["runs"]] == ["finished", "finished"]


async def follow_all(viewers):
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=120) as client:
        await asyncio.gather(*(viewer.follow(client) for viewer in viewers))


def megabytes(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


@pytest.fixture
def served(tmp_path):
    """(a study's folder, the server's process, its address)."""
    study = write_study(tmp_path / "study", norms=())
    server = Python("-m", "normscope.cli", "serve", study, "--port", "0")
    address = server.stdout.readline().removeprefix("Open ").strip()
    assert address, server.communicate()[1]
    yield study, server, address
    server.send_signal(signal.SIGINT)
    assert server.wait(10) == 0
    server.communicate()


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads a process's memory from /proc"
)
def test_no_epoch_is_lost_and_memory_is_bounded(served, chromium):
    study, server, address = served
    viewers = [Viewer(address) for _ in range(VIEWERS)]
    page = chromium.new_page()
    page.goto(address)
    page.get_by_text("Live: new epochs").wait_for()
    following = threading.Thread(target=lambda: asyncio.run(follow_all(viewers)))
    following.start()
    until(lambda: all(viewer.seen for viewer in viewers))
    before = megabytes(server)

    with command(*COMPARE, "--out", study) as training:
        told = training.communicate()
    assert training.returncode == 0, told
    following.join(30)
    until(lambda: page.evaluate("page.runs.filter((run) => run.status === 'finished').length") == 2)

    records = [load_run(folder) for folder in (study / "runs").iterdir()]
    assert [record.epochs["epoch"].tolist() for record in records] == [[*range(1, EPOCHS + 1)]] * 2
    full = httpx.get(ask(address, "changes")).json()
    for viewer in viewers:
        assert viewer.seen == sorted(viewer.seen)
        assert viewer.seen[-1] == 2 * EPOCHS
        assert any(
            0 < epochs < 2 * EPOCHS for epochs in viewer.seen
        )  # on the way, not at the end alone
        assert viewer.views["train_loss"] == full["views"]["train_loss"]
    drawn = page.evaluate(
        "(({columns}) => [...columns.x])(tableOf(byName(page.views, 'train_loss')))"
    )
    assert drawn == [*range(1, EPOCHS + 1)] * 2
    assert json.loads(page.evaluate("JSON.stringify(page.made_by)")) == full.get("head", {}).get(
        "made_by"
    )
    page.close()
    assert megabytes(server) - before < 80
