"""Vega's JavaScript, out of the vl-convert wheel: bundled once, then kept in the cache folder."""

from __future__ import annotations

import functools
from importlib.metadata import version

import vl_convert

from normscope.errors import StorageError
from normscope.records.files import cache_folder, write_text
from normscope.records.seals import read_sealed, seal

# vega-embed carries Vega, Vega-Lite and the expression interpreter, with which the page needs no
# eval
_SNIPPET = "window.vegaEmbed = vegaEmbed;"
_REVISION = 1  # of the snippet


@functools.cache
def vega_script() -> str:
    """The bundle, about 0.9 MB. Making it takes seconds, so it is kept; a cache that cannot be used
    is done without.
    """
    path = cache_folder() / f"vega-{version('vl-convert-python')}-{_REVISION}.js"
    if (kept := read_sealed(path)) is not None:
        return kept.decode("utf-8")
    script = vl_convert.javascript_bundle(_SNIPPET)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, script)
        seal(path)
    except (OSError, StorageError):
        pass  # a read-only home costs seconds, not the report
    return script
