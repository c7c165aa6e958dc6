"""A page's content with a version, the changes between versions, and the thread that looks."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from normscope.errors import NormscopeError
from normscope.records.progress import OVER, is_training
from normscope.show.live.source import Signature, Source, SourceCache
from normscope.show.report.build import Content, assemble, encode
from normscope.show.report.report_data import ReportData, load_report_data

REMEMBERED = 64
"""Versions whose parts' checksums are kept: a viewer that has one gets what changed since."""

LOOK_SECONDS = 1.0
"""Time between two looks at the files."""

REST = 4
"""The thread's pause after a build, in times of its duration."""

ASKED_SECONDS = 15.0
"""Time for which a source is looked at after a request for its page, if nobody follows it."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A page's content at one moment; its version is a checksum, so it outlives the server."""

    title: str
    content: Content

    @cached_property
    def checksums(self) -> dict[str, str]:
        """{part: checksum} of the head, named "", and of the views."""
        parts = {"": self.content.head, **self.content.views}
        return {name: _checksum(text) for name, text in parts.items()}

    @cached_property
    def version(self) -> str:
        """Checksum of everything."""
        return _checksum(json.dumps(list(self.checksums.items())))

    @cached_property
    def page(self) -> bytes:
        """The page that follows the server, compressed."""
        return gzip.compress(assemble(self.title, self.content, live=self.version).encode(), 5)

    def since(self, earlier: dict[str, str] | None) -> bytes:
        """Return the parts that differ from these checksums, all without any: JSON, compressed."""
        parts = [f'"version":"{self.version}"', f'"order":{json.dumps(list(self.content.views))}']
        same = self.checksums.items() & (earlier or {}).items()
        changed = self.checksums.keys() - {name for name, _ in same}
        if "" in changed:
            parts.append(f'"head":{self.content.head}')
        views = (f'"{name}":{text}' for name, text in self.content.views.items() if name in changed)
        return gzip.compress(f'{{{",".join(parts)},"views":{{{",".join(views)}}}}}'.encode(), 5)


@dataclass(eq=False)
class LiveStudy:
    """A source, its newest snapshot, and what is remembered of earlier ones. One thread looks; any
    may read.

    Attributes:
        source: what is followed.
        snapshot: the newest content; None before the first look.
        builds: how often the content was built.
        viewers: how many follow it.
        not_before: time.monotonic() of the next look.
    """

    source: Source
    snapshot: Snapshot | None = None
    builds: int = 0
    viewers: int = 0
    not_before: float = 0.0
    _asked: float = -ASKED_SECONDS
    _signature: tuple[Signature, tuple[Path, ...]] | None = None
    _left: tuple[Path, ...] = ()  # folders of runs that have not ended
    _known: OrderedDict[str, dict[str, str]] = field(default_factory=OrderedDict)
    _answers: dict[str, bytes] = field(default_factory=dict)  # to versions, of the newest content
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cache: SourceCache = field(default_factory=SourceCache)

    def ask(self) -> None:
        """Somebody wants the page: look at the files in the next seconds."""
        self._asked = time.monotonic()

    def is_due(self) -> bool:
        """Return whether somebody follows the source, and it is time to look."""
        now = time.monotonic()
        return now >= self.not_before and (self.viewers > 0 or now - self._asked < ASKED_SECONDS)

    def look(self) -> bool:
        """Build the content if a file changed since the last look, or a run is trained that was
        not, or no more; return whether it changed.
        """
        signature = self.source.signature(), tuple(filter(is_training, self._left))
        if signature == self._signature:
            return False
        self._signature = signature  # of before the build: what is written meanwhile comes next
        return self._publish(self._build())

    def fail(self, problem: str) -> None:
        """Show that the content could not be built, until a file changes."""
        data = ReportData(problems=(problem,))
        self._publish(Snapshot(data.title, encode(data)))

    def _publish(self, snapshot: Snapshot) -> bool:
        if self.snapshot is not None and snapshot.version == self.snapshot.version:
            return False
        with self._lock:
            self.snapshot = snapshot
            self._answers.clear()
            self._known[snapshot.version] = snapshot.checksums
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return True

    def since(self, version: str) -> bytes:
        """Return what changed since a viewer's version; all if that is not remembered."""
        with self._lock:
            if self.snapshot is None:
                raise RuntimeError("nothing was built yet")
            earlier = version if version in self._known else ""
            if earlier not in self._answers:
                self._answers[earlier] = self.snapshot.since(self._known.get(earlier))
            return self._answers[earlier]

    def _build(self) -> Snapshot:
        self.builds += 1
        source = self.source
        try:
            read = self._cache.reading()
            data = load_report_data(source.directories, source.recordings, read=read)
            self._left = tuple(run.directory for run in data.runs if run.status not in OVER)
            paths = (*source.directories, *source.recordings)
            if gone := tuple(f"{path} is gone." for path in paths if not path.exists()):
                data = ReportData(data.studies, data.watched, (*data.problems, *gone))
        except NormscopeError as error:
            data = ReportData(problems=(str(error),))
        return Snapshot(data.title, encode(data))


class Follower(threading.Thread):
    """Looks at the sources that have viewers, about once a second, however many viewers there are.

    It is a thread of its own and not a task: a build takes up to seconds, and the server has to
    answer meanwhile.
    """

    def __init__(self, sources: Mapping[str, LiveStudy]):
        super().__init__(name="normscope-serve", daemon=True)  # Ctrl-C does not wait for a build
        self._sources = sources
        self._ended = threading.Event()

    def run(self) -> None:
        """Look until `stop`."""
        while not self._ended.wait(0.1):
            for followed in list(self._sources.values()):
                if followed.is_due():
                    self._look(followed)

    def stop(self) -> None:
        """End soon, after the build that goes on."""
        self._ended.set()

    @staticmethod
    def _look(followed: LiveStudy) -> None:
        begun = time.monotonic()
        try:
            followed.look()
        except Exception as error:  # the page says so, and those of other studies go on
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
            followed.fail(f"The report of {followed.source.name} cannot be built: {reason}")
        ended = time.monotonic()
        followed.not_before = ended + max(LOOK_SECONDS, REST * (ended - begun))


def _checksum(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
