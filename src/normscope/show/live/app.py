"""The server's answers: a study's page, changes since a version, a stream of versions, a list."""

from __future__ import annotations

import asyncio
import gzip
import html
import time
from collections.abc import AsyncIterator, Callable, Iterable
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from normscope.escapes import for_html
from normscope.show.live.access import Access, Guard
from normscope.show.live.followed import Follower, LiveStudy
from normscope.show.live.source import Described, Source, describe
from normscope.show.palette import style_sheet
from normscope.show.report.build import asset, checksum, filled

TELL_SECONDS = 0.2
"""Time between a stream's looks for a new version. One thread looks at the files for all."""

ALIVE_SECONDS = 15.0
"""Time until a stream without news sends a sign of life: proxies close silent connections."""


class App:
    """The pages of several sources. `asgi` is the application; after `stop` the open streams end.

    Args:
        find: what there is to serve; asked again whenever somebody opens the list. A page asks by
            name, and a name that is not among these is not found: no path is ever made from a
            request.
        access: who may read.
    """

    def __init__(self, find: Callable[[], Iterable[Source]], access: Access):
        self.sources: dict[str, LiveStudy] = {}
        self.follower = Follower(self.sources)
        self.stopping = False
        self._find = find
        pages = {"/": self._page, "/changes": self._changes, "/events": self._events}
        routes = [Route(path, answer) for path, answer in pages.items()]
        self.asgi = Starlette(routes=routes, middleware=[Middleware(Guard, access=access)])
        self._find_more()

    def stop(self) -> None:
        """End the streams, so that the server can close, and the thread that looks at the files."""
        self.stopping = True
        self.follower.stop()

    def _find_more(self) -> None:
        for source in self._find():
            self.sources.setdefault(source.name, LiveStudy(source))

    async def _page(self, request: Request) -> Response:
        if "of" not in request.query_params:
            await asyncio.to_thread(self._find_more)
            if len(self.sources) > 1:
                token = request.query_params["token"]
                return await asyncio.to_thread(_list_page, list(self.sources.values()), token)
        followed = self._asked(request)
        if followed is None:
            return _not_found()
        while followed.snapshot is None:  # only of a source that nobody asked for before
            if self.stopping:
                return PlainTextResponse("The server is stopping.\n", 503)
            await asyncio.sleep(TELL_SECONDS / 4)
        return _compressed(request, followed.snapshot.page, "text/html; charset=utf-8")

    async def _changes(self, request: Request) -> Response:
        followed = self._asked(request)
        if followed is None or followed.snapshot is None:
            return _not_found()
        return _compressed(
            request, followed.since(request.query_params.get("since", "")), "application/json"
        )

    async def _events(self, request: Request) -> Response:
        followed = self._asked(request)
        if followed is None:
            return _not_found()
        return StreamingResponse(self._versions(followed), media_type="text/event-stream")

    async def _versions(self, followed: LiveStudy) -> AsyncIterator[str]:
        """Server-sent events: the newest version at once, and every time that there is another one.

        Versions that came and went while a viewer was slow are left out: it asks for what changed
        since its own. So a viewer costs a connection and no queue.
        """
        text, sent, spoke = "retry: 1000\n\n", "", time.monotonic()
        followed.viewers += 1
        try:
            while not self.stopping:
                snapshot = followed.snapshot
                if snapshot is not None and snapshot.version != sent:
                    sent = snapshot.version
                    text += f"data: {sent}\n\n"
                elif time.monotonic() - spoke > ALIVE_SECONDS:
                    text += ":\n\n"
                if text:
                    yield text
                    text, spoke = "", time.monotonic()
                await asyncio.sleep(TELL_SECONDS)
        finally:
            followed.viewers -= 1

    def _asked(self, request: Request) -> LiveStudy | None:
        """The source that a request names; the only one where it names none."""
        default = next(iter(self.sources)) if len(self.sources) == 1 else ""
        followed = self.sources.get(request.query_params.get("of", default))
        if followed is not None:
            followed.ask()
        return followed


def _not_found() -> Response:
    return PlainTextResponse("There is no such study here.\n", 404)


def _compressed(request: Request, body: bytes, media_type: str) -> Response:
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(body, media_type=media_type, headers={"Content-Encoding": "gzip"})
    return Response(gzip.decompress(body), media_type=media_type)


def _list_page(studies: Iterable[LiveStudy], token: str) -> HTMLResponse:
    """The page that leads to each study, the one that was written last first."""
    described = sorted((describe(study.source) for study in studies), key=lambda one: -one.written)
    style = style_sheet() + asset("page.css")
    policy = f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src {checksum(style)}"
    rows = "\n".join(_row(one, token) for one in described)
    text = asset("list.html", "normscope.show.live")
    return HTMLResponse(filled(text, "normscope: studies", style, policy, {"ROWS": rows}))


def _row(described: Described, token: str) -> str:
    """A study in the list: a link, its state, what was found so far, when it was last written."""
    moment = time.localtime(described.written)
    written = time.strftime("%Y-%m-%d %H:%M", moment) if described.written else "–"
    query = urlencode({"token": token, "of": described.name})
    cells = (
        ("name", f'<a href="?{html.escape(query)}">{for_html(described.name)}</a>'),
        ("state", f'<span class="pill {described.state}">{for_html(described.text)}</span>'),
        ("claim", for_html(described.result) or "–"),
        ("short", written),
    )
    return "<tr>" + "".join(f'<td class="{kind}">{cell}</td>' for kind, cell in cells) + "</tr>"
