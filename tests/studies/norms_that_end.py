"""Batch normalization that goes wrong, in the process that trains with it."""

import os
import signal
import sys
import time
from pathlib import Path

from torch import nn

STEPS_PER_EPOCH = 4


class _Watched(nn.BatchNorm2d):
    steps = 0

    def forward(self, x):
        if self.training:
            self.steps += 1
            self.at_step(self.steps)
        return super().forward(x)


class _DiesOnce(_Watched):
    """Kills its process in the middle of the second epoch, unless somebody was killed already."""

    def at_step(self, step):
        marker = Path(os.environ["NORMSCOPE_TEST_MARKERS"]) / "died"
        if step == STEPS_PER_EPOCH + 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class _Crashes(_Watched):
    def at_step(self, step):
        os.kill(os.getpid(), signal.SIGSEGV)


class _CrashesOnce(_Watched):
    """Crashes in the middle of the second epoch, unless somebody has crashed already."""

    def at_step(self, step):
        marker = Path(os.environ["NORMSCOPE_TEST_MARKERS"]) / "crashed"
        if step == STEPS_PER_EPOCH + 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGABRT)


class _Leaves(_Watched):
    def at_step(self, step):
        sys.exit("the norm had enough")


class _Raises(_Watched):
    def at_step(self, step):
        raise ZeroDivisionError("the norm of nothing")


class _WaitsOnce(_Watched):
    """Stays in the second epoch, unless somebody did already."""

    def at_step(self, step):
        marker = Path(os.environ["NORMSCOPE_TEST_MARKERS"]) / "waits"
        if step == STEPS_PER_EPOCH + 2 and not marker.exists():
            marker.touch()
            time.sleep(600)


def dies(channels):
    """Ends its process before a step is made, and before torch has loaded all that steps take."""
    os.kill(os.getpid(), signal.SIGKILL)


def exits(channels):
    os._exit(3)


dies_once, raises, waits_once = _DiesOnce, _Raises, _WaitsOnce
crashes, crashes_once, leaves = _Crashes, _CrashesOnce, _Leaves
