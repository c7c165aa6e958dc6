"""The runs of a study as claims read them: by setting, arm and seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from normscope.records.run import ENDED, RunRecord
from normscope.records.run_description import DEFAULT_BLOCK, meaning, own_embedding_scale

_NOT_A_SETTING = ("seed", "capture_epochs", "norm_code")  # the last belongs to the arm
EMBEDDING_SCALE = "embedding_scale"
_WORDS = {"learning_rate": "lr", "block": "", "activation": ""}

USUAL = {
    "activation": "relu",
    "batch_size": 128,
    "block": DEFAULT_BLOCK,
    "blocks_per_stage": 2,
    "train": "all",
    "initialization": "default",
    "initialization_scale": 1.0,
    "train_share": 1.0,
}
"""Knobs that some claims are about, and the value at which the others are judged, if it is there.
"""

ArmOf = Callable[[RunRecord], str | None]


@dataclass(frozen=True, eq=False)
class GridCell:
    """The runs of one arm and one seed at one setting: one for each value of the knobs that a claim
    is over.
    """

    arm: str
    seed: int
    runs: tuple[RunRecord, ...]  # in order of the knobs
    group: Group

    @property
    def run(self) -> RunRecord:
        """The one run of a cell without knobs."""
        return self.runs[0]


@dataclass(frozen=True, eq=False)
class Group:
    """The cells at one setting."""

    setting: dict[str, Any]
    label: str
    held: tuple[str, ...] = ()  # knobs that other runs vary, at the value that was kept
    arms: dict[str, dict[int, GridCell]] = field(default_factory=dict)  # {arm: {seed: cell}}

    @property
    def where(self) -> str:
        """The setting as the end of a phrase, " at lr 0.1"; empty where there is only one."""
        return f" at {self.label}" if self.label else ""


class Evidence:
    """The runs of one network on one data set, and the two arms that claims compare."""

    def __init__(
        self,
        runs: Sequence[RunRecord],
        subject: str = "",
        norm: str = "batch",
        reference: str = "none",
    ):
        self.runs, self.subject = tuple(runs), subject
        self.norm, self.reference = norm, reference

    @cached_property
    def ended(self) -> tuple[RunRecord, ...]:
        """The finished and the diverged runs, whatever their order was in one of their own."""
        return tuple(sorted((run for run in self.runs if run.status in ENDED), key=_order))

    @cached_property
    def _settings(self) -> dict[int, dict[str, Any]]:
        """{id of a run: its settings, defaults by their names}."""
        return {
            id(run): {knob: _setting(run, knob) for knob in run.spec if knob not in _NOT_A_SETTING}
            for run in self.runs
        }

    def groups(
        self,
        arm_of: ArmOf,
        arms: tuple[str, str],
        over: Sequence[str] = (),
        across: Sequence[str] = (),
        arm_field: str = "norm",
    ) -> list[Group]:
        """Return the ended runs by setting; of cells over knobs only those that have every value.

        Values that one arm alone has are left out, unless that knob is what tells the arms apart.

        Args:
            arm_of: returns the arm that a run belongs to; None leaves it out.
            arms: the two that are compared.
            over: fields of a spec that are varied inside a cell.
            across: knobs of USUAL that may differ from setting to setting; of the others one value
                is kept.
            arm_field: the field by which the arms differ.
        """
        members = [(arm, run) for run in self.ended if (arm := arm_of(run)) in arms]
        held = []
        for knob in USUAL:
            if knob not in (*over, *across, arm_field):
                kept = _at_its_usual_value(members, knob)
                if len(kept) < len(members):
                    held.append(_words(knob, value_of(kept[0][1], knob)))
                members = kept
        by_setting: dict[str, list[tuple[str, RunRecord]]] = {}
        inside = {arm_field, *over}
        for arm, run in members:
            settings = self._settings[id(run)]
            setting = {knob: value for knob, value in settings.items() if knob not in inside}
            key = json.dumps(setting, sort_keys=True)
            by_setting.setdefault(key, []).append((arm, run))
        settings = {key: json.loads(key) for key in by_setting}
        labels = _labels(settings.values())
        groups = []
        for (key, of), label in zip(by_setting.items(), labels, strict=True):
            group = Group(settings[key], label, tuple(held))
            groups.append(_filled(group, of, arms, over, same_knobs=arm_field not in over))
        return groups


def runs_of(group: Group) -> list[RunRecord]:
    """Return all runs at a setting."""
    return [run for cells in group.arms.values() for cell in cells.values() for run in cell.runs]


def value_of(run: RunRecord, knob: str) -> Any:
    """Return a field of a run's spec, a default by its name."""
    return meaning(run.spec["model"], knob, run.spec.get(knob))


def _setting(run: RunRecord, knob: str) -> Any:
    """Return a field of a run's spec as a setting: what belongs to its norm is one of all norms."""
    value = value_of(run, knob)
    if knob == EMBEDDING_SCALE and value == own_embedding_scale(run.spec["model"], run.norm):
        return "the norm's own"
    return value


def knobs_of(run: RunRecord, over: Sequence[str]) -> tuple[Any, ...]:
    """Return the values of several fields."""
    return tuple(value_of(run, knob) for knob in over)


def _order(run: RunRecord) -> tuple[Any, ...]:
    """A key to sort by: the learning rate, then the other settings, then the seed."""
    sortable = [
        (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))
        for knob, value in sorted(run.spec.items())
        if knob not in ("learning_rate", "seed")
    ]
    return run.learning_rate, sortable, run.seed


def _at_its_usual_value(
    members: list[tuple[str, RunRecord]], knob: str
) -> list[tuple[str, RunRecord]]:
    """The members with the default of a knob; where there is none, with its most frequent value."""
    counts = Counter(value_of(run, knob) for _, run in members)
    if len(counts) < 2:
        return members
    kept = USUAL[knob] if USUAL[knob] in counts else counts.most_common(1)[0][0]
    return [(arm, run) for arm, run in members if value_of(run, knob) == kept]


def _labels(settings: Iterable[dict[str, Any]]) -> list[str]:
    """Each setting by what tells it from the others."""
    every = list(settings)
    knobs = list(dict.fromkeys(knob for setting in every for knob in setting if knob != "norm"))
    varied = [knob for knob in knobs if len({json.dumps(each.get(knob)) for each in every}) > 1]
    return [", ".join(_words(knob, each.get(knob)) for knob in varied) for each in every]


def _words(knob: str, value: Any) -> str:
    name = _WORDS.get(knob, knob.replace("_", " "))
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name} {shown}".strip()


def _filled(
    group: Group,
    members: Sequence[tuple[str, RunRecord]],
    arms: tuple[str, str],
    over: Sequence[str],
    *,
    same_knobs: bool,
) -> Group:
    """The group with the cells of its members that have every value of the knobs."""
    runs: dict[str, dict[int, dict[tuple[Any, ...], RunRecord]]] = {arm: {} for arm in arms}
    for arm, run in members:
        of_seed, knobs = runs[arm].setdefault(run.seed, {}), knobs_of(run, over)
        if knobs not in of_seed or len(run.measured) > len(of_seed[knobs].measured):
            of_seed[knobs] = run  # of two runs of one setting the one that was measured
    wanted = {arm: {knobs for seeds in runs[arm].values() for knobs in seeds} for arm in arms}
    if same_knobs:
        shared = wanted[arms[0]] & wanted[arms[1]]
        wanted = dict.fromkeys(arms, shared)
    for arm in arms:
        group.arms[arm] = {
            seed: GridCell(arm, seed, tuple(of_seed[knobs] for knobs in sorted(wanted[arm])), group)
            for seed, of_seed in sorted(runs[arm].items())
            if wanted[arm] and wanted[arm] <= set(of_seed)
        }
    return group
