"""Mutations of bytes and of JSON, by a generator of random numbers."""

import json
import random
import sys
from typing import Any

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**62, 2**64, -(2**63), 10**400, 0.5, 1e308, -1e308, 1e-320,
    float("nan"), float("inf"), "", "x", "nan", "\x1b[2J", "a\nb", "\u202egnp", "\ud800", "\0",
    "=1+1", "../..", "[/]", "x" * 5000, [], [[]], {}, [1], ["a"], {"a": 1}, [None], {"": {}},
]  # fmt: skip


def odd(random: random.Random) -> Any:
    """A value that nobody expects; sometimes a deep one."""
    if random.random() < 0.03:
        deep: Any = []
        for _ in range(random.choice([50, 900, 5000])):
            deep = [deep] if random.random() < 0.5 else {"a": deep}
        return deep
    return random.choice(ODD)


def mutated_bytes(content: bytes, random: random.Random) -> bytes:
    """Bytes flipped, cut, repeated, exchanged or overwritten; one change most of the time."""
    data = bytearray(content)
    for _ in range(random.choice([1, 1, 1, 2, 8, 64])):
        at = random.randrange(max(1, len(data)))
        how = random.random()
        if not data:
            break
        if how < 0.6:
            data[at] ^= 1 << random.randrange(8)
        elif how < 0.8:
            data[at] = random.randrange(256)
        elif how < 0.87:
            length = random.randrange(1, 4096)
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif how < 0.93:
            other = random.randrange(len(data))
            data[at : at + 512] = data[other : other + 512]
        else:
            del data[at:]
    return bytes(data)


def mutated_json(value: Any, random: random.Random) -> Any:
    """The value with one of its parts replaced, taken away, or with another beside it."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        how = random.random()
        if how < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if how < 0.15:
            return value | {dumps(odd(random))[:50]: odd(random)}
        return value | {key: mutated_json(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.7:
        at = random.randrange(len(value))
        if random.random() < 0.2:
            return value[:at] + value[at + 1 :]
        return [*value[:at], mutated_json(value[at], random), *value[at + 1 :]]
    return odd(random)


def dumps(value: Any) -> str:
    """JSON of a value that may be deeper than Python likes to write."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(30_000)
    try:
        return json.dumps(value)
    finally:
        sys.setrecursionlimit(before)
