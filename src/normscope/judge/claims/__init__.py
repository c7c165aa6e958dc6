"""The claims, one subject a file, and `judge_all`, which judges each on the runs that are there.

Codes: C1xx speed, C2xx accuracy, C3xx gradients, C4xx distributions, C5xx learning rates, C6xx
initialization, C7xx activation functions, C8xx batch means, C9xx running statistics, C10xx loss
landscape, C11xx covariate shift, C12xx residual branches, C13xx batch sizes, C14xx placement, C15xx
scale of weights, C16xx noise, C17xx what is trained, C20xx transformers. Codes of retired claims
(docs/claims.md) are not used again.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections import Counter
from collections.abc import Collection, Sequence

from normscope.errors import InputError
from normscope.judge.claim import Claim
from normscope.judge.evidence.cells import Evidence
from normscope.judge.verdicts import Verdict, marked
from normscope.records.run import RunRecord
from normscope.records.run_description import TRANSFORMERS
from normscope.words import plural


@functools.cache
def claims() -> tuple[Claim, ...]:
    """Return every claim of every file in this folder, in order of codes."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    codes = sorted(Claim.registry, key=lambda code: (len(code), code))
    return tuple(Claim.registry[code]() for code in codes)


def judge_all(
    runs: Sequence[RunRecord],
    norm: str = "batch",
    reference: str = "none",
    codes: Collection[str] = (),
) -> list[Verdict]:
    """Judge claims on the runs: once for each network, data set and number of epochs among them.

    Args:
        runs: of one study or of several, in any order, also part of a study.
        norm: the normalization that claims are about.
        reference: the one that it is set against.
        codes: of the claims, which are one family then; empty: every claim.

    Raises:
        InputError: if there is no run.
    """
    if not runs:
        raise InputError("There is no run to judge a claim on.")
    asked = [claim for claim in claims() if not codes or claim.code in codes]
    every = [Evidence(own, subject, norm, reference) for subject, own in by_subject(runs).items()]
    return [
        verdict
        for evidence in every
        for verdict in marked(
            [claim.judge(evidence) for claim in asked if claim.concerns(evidence)]
        )
    ]


def compared(
    runs: Sequence[RunRecord], norm: str | None = None, reference: str | None = None
) -> tuple[str, str]:
    """Return the normalization that a study's claims are about, and what it is set against.

    Batch norm, in transformers layer norm, against none where the study has them; else its first
    normalization, against none or the next one. One or both may be chosen already.
    """
    norms = list(dict.fromkeys(run.norm for run in runs))
    usual = "layer" if all(run.spec.get("model") in TRANSFORMERS for run in runs) else "batch"
    if norm is None:
        others = [each for each in norms if each not in ("none", reference)]
        norm = usual if usual in others or not others else others[0]
    if reference is None:
        others = [each for each in norms if each != norm]
        reference = "none" if "none" in others or not others else others[0]
    return norm, reference


def by_subject(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Return the runs of each network, data set and number of epochs, by these in words.

    Epochs are of all the data: eight over an eighth of it (`train_share`) count as one.
    """
    by_data: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        passes = round(run.spec["epochs"] * run.spec.get("train_share", 1), 3)
        trained = plural(int(passes), "epoch") if passes == int(passes) else f"{passes:g} epochs"
        words = f"{run.spec['model']} on {run.spec['data']}, {trained}"
        by_data.setdefault((words, str(run.spec.get("data_fingerprint"))), []).append(run)
    names = Counter(words for words, _ in by_data)
    return {
        words if names[words] == 1 else f"{words}, data {fingerprint[:8]}": same
        for (words, fingerprint), same in by_data.items()
    }
