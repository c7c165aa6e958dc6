"""The claims on one network as a family: which verdicts stand when all are taken together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from normscope.judge.sequential import e_benjamini_hochberg
from normscope.judge.statistics import LEVEL, holm
from normscope.judge.verdicts import Verdict

MARK = "†"
"""Beside a verdict that stands."""

DIFFERENT = ("supported", "contradicted", "negligible")
"""The outcomes that say that there is a difference."""


def marked(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts on one subject with what each is among them.

    Every claim that has an e-value is of the family, whatever its outcome; one that is judged at
    several settings is one member.
    """
    members = [verdict for verdict in verdicts if verdict.e is not None]
    stands = e_benjamini_hochberg([verdict.e or 0.0 for verdict in members], LEVEL)
    adjusted = holm([verdict.p for verdict in members])
    found = {
        verdict.code: {"stands": stand and verdict.outcome in DIFFERENT, "family_p": p}
        for verdict, stand, p in zip(members, stands, adjusted, strict=True)
    }
    return [dataclasses.replace(each, **found.get(each.code, {})) for each in verdicts]


def family_sentence(verdicts: Sequence[Verdict]) -> str:
    """Say of one subject how many verdicts stand together; empty where none says that there is a
    difference.
    """
    members = [verdict for verdict in verdicts if verdict.e is not None]
    found = [verdict for verdict in members if verdict.outcome in DIFFERENT]
    if not found:
        return ""
    standing = sum(bool(verdict.stands) for verdict in found)
    fixed = sum(verdict.family_p is not None and verdict.family_p < LEVEL for verdict in found)
    return (
        f"{MARK} {standing} of the {len(found)} verdicts of a difference stand among all "
        f"{len(members)} claims that were tested (e-BH, {LEVEL:.0%}); for an n decided "
        f"beforehand {fixed} do (Holm)."
    )
