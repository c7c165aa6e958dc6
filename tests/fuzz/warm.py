"""A process that has imported everything, and forks for each command: a script of `Warm`.

Each fork runs one command under `faults.c`: it counts the command's changes of files, is killed at
one of them, or sees one fail.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
KINDS = {"count": 0, "before": 1, "middle": 2, "after": 3, "once": 4, "from then on": 5}


class Warm:
    """The parent's side. `run` gives (exit status, changes of files, what was printed)."""

    def __init__(self, library: Path, log: Path):
        environment = {**os.environ, "LD_PRELOAD": str(library), "NORMSCOPE_FAULTS": str(library)}
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, command, below, *, kind="count", at=0, error=0):
        request = {
            "command": list(map(str, command)), "below": str(below), "kind": KINDS[kind], "at": at,
            "error": error, "log": str(self._log),
        }  # fmt: skip
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        status, changes = json.loads(self._process.stdout.readline())
        return status, changes, self._log.read_text(errors="replace")

    def close(self):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def compiled(folder: Path) -> Path | None:
    """The shim, compiled; None without a C compiler, or where it cannot be preloaded."""
    library = folder / "faults.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "faults.c", "-ldl"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return library if done.returncode == 0 and sys.platform == "linux" else None


def _watch(path):
    """A loop that somebody watches, with marks and flushes, interrupted by nothing."""
    import torch
    from torch import nn

    import normscope

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    watcher = normscope.watch(model, optimizer=optimizer, path=path)
    for step in range(9):
        if step % 3 == 0:
            watcher.mark(epoch=step // 3)
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        if step % 3 == 2:
            watcher.flush()
    watcher.close()
    print("trained:", float(sum(p.double().sum() for p in model.parameters())).hex())


def _run(command):
    if command[0] == "watch":
        return _watch(command[1])
    from normscope.cli import main

    try:
        main(command)
    except SystemExit as ended:
        return ended.code


def _serve():
    sys.path.insert(0, str(HERE.parent))
    import torch._dynamo  # noqa: F401 - what the first optimizer loads
    from matplotlib.figure import Figure
    from PIL import Image

    import normscope
    from normscope.commands import compare, explain, export, inspect, report, study  # noqa: F401
    from normscope.show.report import build
    from normscope.studies import pipeline
    from training_here import TrainsHere

    assert normscope.watch
    pipeline.ProcessExecutor = TrainsHere
    dot = Image.new("RGB", (1, 1))
    Figure.savefig = lambda _, path, **__: dot.save(path)
    build.vega_script()
    shim = ctypes.CDLL(os.environ["NORMSCOPE_FAULTS"])
    shim.arm.restype = ctypes.c_long
    for line in sys.stdin:
        request = json.loads(line)
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            gc.freeze()  # else each collection would touch, and so copy, what the parent has loaded
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            _in_child(request, shim, writing)
        os.close(writing)
        with os.fdopen(reading) as answers:
            changes = answers.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([status, int(changes or 0)]), flush=True)


def _in_child(request, shim, writing):
    status = 70
    try:
        shim.arm(
            request["below"].encode(), ctypes.c_long(request["at"]), request["kind"],
            request["error"],
        )  # fmt: skip
        status = _run(request["command"]) or 0
        sys.stdout.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        changes = shim.arm(b"", ctypes.c_long(0), 0, 0)
        os.write(writing, str(changes).encode())
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve()
