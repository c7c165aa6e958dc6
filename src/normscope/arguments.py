"""What users give: arguments held against their annotations, lists, paths, and imports by name."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from normscope.errors import InputError, one_line, shown

F = TypeVar("F", bound=Callable[..., Any])

MOST = 20_000
"""Values of an argument that takes several: names of layers or rules, sinks."""

_TYPES: dict[str, Any] = {
    "None": type(None), "bool": bool, "int": Integral, "float": Real, "str": str,
    "Path": os.PathLike, "Mapping": Mapping, "Iterable": Iterable, "Sequence": Iterable,
}  # fmt: skip
"""What fits an annotation; numbers of NumPy are numbers."""


class _Kind(NamedTuple):
    """One part of an annotation: what a message calls it, and whether a value is of it."""

    name: str
    fits: Callable[[Any], bool]


def judged(function: F) -> F:
    """Raise an InputError for an argument that is of no type of its annotation, before anything
    else happens.

    Annotations are read as text, so that nothing is imported for them. Judged are those whose every
    part is known: plain types, `nn.Module`, Literal, and classes of the function's own module.
    """
    parameters = list(inspect.signature(function).parameters.values())
    read = {each.name: _kinds(each.annotation, function) for each in parameters}
    known = {name: kinds for name, kinds in read.items() if kinds is not None}
    rest = [each.name for each in parameters if each.kind is each.VAR_POSITIONAL]
    positional = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True  # pytest shows the line that called
        names = positional + rest * max(0, len(args) - len(positional))
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            if name in known:
                _judge(name, value, known[name])
        return function(*args, **kwargs)

    return called  # type: ignore[return-value]


def several(name: str, values: Any) -> tuple[Any, ...]:
    """Return what an argument holds that takes several; one text or type alone is one.

    Raises:
        InputError: if it cannot be iterated over, or has no end within MOST.
    """
    if isinstance(values, str | type):
        return (values,)
    try:
        found = tuple(islice(values, MOST + 1))
    except Exception as error:  # anybody's iterator
        raise InputError(f"{name} cannot be read as a list: {one_line(error)}.") from error
    if len(found) > MOST:
        raise InputError(f"{name} holds more than {MOST:,} values.")
    return found


def given_path(value: Any, what: str = "A path") -> Path:
    """Return what a user gave as a path, whether or not there is something.

    Raises:
        InputError: if it is no path, has a name that is too long or holds a zero byte, or lies in a
            folder that may not be entered.
    """
    if isinstance(value, bytes) or not isinstance(value, str | os.PathLike):
        raise InputError(f"{what} must be a path, not a {type(value).__name__}.")
    path = Path(value)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except ValueError:
        raise InputError(f"{what} holds a zero byte: {str(path)[:80]!r}.") from None
    except OSError as error:
        shown = str(path) if len(str(path)) <= 200 else f"{str(path)[:200]} ..."
        raise InputError(f"{shown} cannot be used: {error.strerror or error}.") from error
    return path


def import_named(text: str, what: str) -> Any:
    """Import module:name and return the object; the name may have points. The module's code is run.

    Args:
        text: module:name, as the user wrote it.
        what: what it is to be, to begin the message with.

    Raises:
        InputError: if it is of another form, there is no such module or name, or importing fails.
    """
    module_name, _, name = text.partition(":")
    if not module_name or not name:
        raise InputError(f"{what} {text!r} is not of the form module:callable.")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the user's code
        raise InputError(
            f"{what} {text!r}: importing {module_name!r} failed: {one_line(error)}."
        ) from error
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError as error:
        raise InputError(
            f"{what} {text!r}: module {module_name!r} has no attribute {name!r}."
        ) from error


def _judge(name: str, value: Any, kinds: list[_Kind]) -> None:
    if any(kind.fits(value) for kind in kinds):
        return
    wanted = " or ".join(kind.name for kind in kinds)
    given = shown(value) if isinstance(value, str) else type(value).__name__
    raise InputError(f"{name} must be of type {wanted}, not {given}.")


def _kinds(annotation: Any, function: Callable[..., Any]) -> list[_Kind] | None:
    """Return what the parts of an annotation mean; None where one is not known or none is there."""
    if not isinstance(annotation, str):
        return None
    part, parts = ast.parse(annotation, mode="eval").body, []
    while isinstance(part, ast.BinOp):  # a | b | c is (a | b) | c
        parts.insert(0, part.right)
        part = part.left
    kinds = [_kind(each, function) for each in (part, *parts)]
    known = [kind for kind in kinds if kind is not None]
    return known if len(known) == len(kinds) else None


def _kind(part: ast.expr, function: Callable[..., Any]) -> _Kind | None:
    """Return what an annotation's part means; None where that is not known."""
    name = ast.unparse(part)
    if isinstance(part, ast.Subscript) and name.startswith("Literal["):
        inside = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
        known = [(type(value), value) for value in map(ast.literal_eval, inside)]
        words = " or ".join(repr(value) for _, value in known)
        return _Kind(words, lambda value: (type(value), value) in known)
    if name == "nn.Module":
        return _Kind("Module", _is_module)
    if name == "bool":
        return _Kind("bool", lambda value: type(value).__name__ in ("bool", "bool_"))  # NumPy's too
    if name == "Console":
        return _Kind(name, lambda value: callable(getattr(value, "print", None)))
    plain = name.partition("[")[0]
    kind = _TYPES.get(plain, function.__globals__.get(plain))
    if not isinstance(kind, type) or kind is Any or getattr(kind, "_is_protocol", False):
        return None
    words = "list" if kind is Iterable else plain
    return _Kind(words, lambda value: isinstance(value, kind))


def _is_module(value: Any) -> bool:
    """Tell whether it is a PyTorch module; where PyTorch is not loaded, nothing is."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)
