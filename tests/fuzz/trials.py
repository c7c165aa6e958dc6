"""Many broken inputs, each tried in a process that may crash, hang or run out of memory.

`FUZZ` in the environment is how many times as many inputs are tried as in the ordinary suite (`make
fuzz` has 20), `FUZZ_SEED` which ones. A bad outcome is named with the number of its input, and the
same two numbers make the same inputs again.
"""

import faulthandler
import os
import pickle
import random
import resource
import select
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from normscope.errors import NormscopeError

FACTOR = float(os.environ.get("FUZZ", "1"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))


def amount(small: int) -> int:
    """How many inputs: `small` in the ordinary suite."""
    return max(1, round(small * FACTOR))


def some(written: int) -> range:
    """The numbers of inputs that are written down: all of them in `make fuzz`, else each sixth."""
    return range(written) if FACTOR > 1 else range(SEED % 6, written, 6)


def generator(kind: str, number: int) -> random.Random:
    """The random numbers of one input."""
    return random.Random(f"{kind} {SEED} {number}")


@dataclass
class Outcome:
    """What came of many inputs: the number tried, refused in a line, and what was bad."""

    kind: str
    tried: int = 0
    refused: int = 0
    bad: list[str] = field(default_factory=list)

    def assert_good(self) -> None:
        print(f"\n{self.kind}: {self.tried} tried, {self.refused} refused, {len(self.bad)} bad")
        shown = "\n".join(self.bad[:20])
        assert not self.bad, f"{len(self.bad)} of {self.tried} {self.kind} end badly:\n{shown}"


def attempt_all(
    kind: str,
    attempt: Callable[[int], object],
    numbers: Iterable[int],
    *,
    seconds: float = 20.0,
    megabytes: int = 512,
) -> Outcome:
    """Attempt each number in a fork of this process.

    Good is to end, or to raise a NormscopeError of one line. Anything else is bad: another error, a
    signal, more seconds of the clock, more megabytes than there were before.
    """
    outcome, left = Outcome(kind), list(numbers)
    sys.stdout.flush()
    while left:
        child, pipe = _fork(attempt, left, megabytes)
        heard = 0
        for answer in _answers(pipe, child, seconds):
            heard += 1
            outcome.tried += 1
            outcome.refused += answer == "refused"
            if answer not in ("", "refused"):
                outcome.bad.append(f"{left[heard - 1]}: {answer}")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if heard < len(left):
            how = "no end" if status == -signal.SIGALRM else f"ended with {status}"
            outcome.bad.append(f"{left[heard]}: {how}")
            outcome.tried += 1
        left = left[heard + 1 :]
    return outcome


def _fork(attempt: Callable[[int], object], numbers: list[int], megabytes: int) -> tuple[int, int]:
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        faulthandler.disable()  # the parent says what became of it
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        most = _address_space() + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        for number in numbers:
            answer = pickle.dumps(_answer(attempt, number))
            os.write(writing, struct.pack("<I", len(answer)) + answer)
    finally:
        os._exit(0)


def _answer(attempt: Callable[[int], object], number: int) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attempt(number)
        return ""
    except NormscopeError as error:
        return "refused" if "\n" not in str(error) else f"several lines: {error!r}"
    except BaseException as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        at = "" if where is None else f" ({where.tb_frame.f_code.co_filename}:{where.tb_lineno})"
        return f"{type(error).__name__}: {str(error)[:300]}{at}"


def _answers(pipe: int, child: int, seconds: float) -> Iterable[str]:
    """What the child says, until it ends; it is ended when it says nothing for so long."""
    with os.fdopen(pipe, "rb") as file:
        while True:
            deadline = time.monotonic() + seconds
            ready, _, _ = select.select([file], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGALRM)
                return
            head = file.read(4)
            if len(head) < 4:
                return
            yield pickle.loads(file.read(struct.unpack("<I", head)[0]))  # noqa: S301 - our child's


def _address_space() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - a number of the kernel's
        return int(file.read().split()[0]) * resource.getpagesize()
