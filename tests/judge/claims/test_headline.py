"""The headline says what was planted in hand-made runs, how sure it is, and no more."""

import dataclasses
import re

import numpy as np
import pytest
from claim_runs import arms, jitter, run

from normscope.judge.claim import Claim
from normscope.judge.claims import claims, compared, judge_all
from normscope.judge.headline import conclude, counts, counts_text, headlines
from normscope.judge.verdicts import OUTCOMES

THREE_RATES = (0.01, 0.1, 1.0)


def text_of(runs, **options):
    (found,) = headlines(runs, **options)
    return found.text


def over_rates(finals, seeds=4, **spec):
    """{norm: an accuracy for each of three rates} as runs; None is a diverged one."""
    return [
        run(norm, seed, status="diverged" if final is None else "finished",
            final=(final or 0.1) + jitter(seed + 7 * k), learning_rate=rate, **spec)
        for k, (norm, values) in enumerate(finals.items())
        for rate, final in zip(THREE_RATES, values, strict=True)
        for seed in range(seeds)
    ]  # fmt: skip


def accuracies(runs, norm, rate=0.1):
    return {
        each.seed: 100 * each.final("test_accuracy")
        for each in runs
        if (each.norm, each.learning_rate) == (norm, rate)
    }


def test_one_rate_a_clear_difference():
    runs = arms(5, batch={"final": 0.9}, none={"final": 0.8})
    text = text_of(runs)
    batch, none = accuracies(runs, "batch"), accuracies(runs, "none")
    means = [np.mean(list(each.values())) for each in (batch, none)]
    assert text.startswith(
        f"At learning rate 0.1: {means[0]:.1f}% accuracy with batch norm, {means[1]:.1f}% without "
        f"({means[0] - means[1]:+.1f} points ["
    )
    assert "5 seeds: settled)" in text
    difference = [batch[seed] - none[seed] for seed in batch]
    low, high = map(float, re.search(r"points \[(\S+), (\S+)\]", text).groups())
    assert low <= np.mean(difference) <= high


def test_each_arm_has_its_own_rate_and_the_numbers_of_c202():
    runs = over_rates({"batch": (0.7, 0.8, 0.95), "none": (0.85, 0.7, 0.6)})
    (verdict,) = (found for found in judge_all(runs) if found.code == "C202")
    text = text_of(runs)
    means = [np.mean(list(verdict.values[arm].values())) for arm in ("batch", "none")]
    assert np.allclose(means, [95, 85], atol=0.5)
    assert f"own best rate each: {means[0]:.1f}% accuracy with batch norm, {means[1]:.1f}%" in text
    assert f"{verdict.effect:+.1f} points" in text


def test_no_difference():
    text = text_of(arms(9, final=0.9))
    assert "no difference beyond ±0.5" in text
    assert "not settled" not in text


def test_not_settled_names_the_seeds_that_probably_settle_it():
    runs = [
        run(norm, seed, final=0.9 + shift)
        for norm, shifts in (("batch", (0.0, 0.02, 0.0)), ("none", (0.0, 0.0, 0.005)))
        for seed, shift in enumerate(shifts)
    ]
    (verdict,) = (found for found in judge_all(runs) if found.code == "C201")
    text = text_of(runs)
    assert "3 seeds: not settled" in text
    assert text.endswith(f"To settle it, train with --seeds {3 + verdict.more_seeds}.")
    assert verdict.needs.startswith(f"{verdict.more_seeds} more seed")


def test_lower_accuracy_is_said_to_be_against_common_belief():
    text = text_of(arms(5, batch={"final": 0.7}, none={"final": 0.8}))
    assert "settled, against common belief" in text


@pytest.mark.parametrize(("seeds", "words"), [(1, "1 seed, too few"), (2, "2 seeds, too few")])
@pytest.mark.parametrize("rates", [1, 3])
def test_with_few_seeds_there_is_no_interval_and_that_is_said(seeds, words, rates):
    finals = {"batch": (0.7, 0.9, 0.8), "none": (0.5, 0.8, 0.6)}
    runs = [each for each in over_rates(finals, seeds) if rates == 3 or each.learning_rate == 0.1]
    text = text_of(runs)
    assert f"{words} for an interval" in text
    assert "[" not in text
    assert "--seeds 3" in text
    assert "90." in text
    assert "settled" not in text.replace("To settle it", "")


class TestDiverged:
    def test_all_runs(self):
        text = text_of(over_rates({"batch": (None,) * 3, "none": (None,) * 3}))
        assert text.startswith("Every run diverged: 12 runs with batch norm, 12 runs without norm")
        assert "%" not in text
        assert "settle" not in text

    def test_all_of_one_arm(self):
        text = text_of(over_rates({"batch": (0.8, 0.9, 0.7), "none": (None,) * 3}))
        assert "with batch norm, every run diverged without (" in text
        assert "10.0%" not in text

    def test_at_one_rate(self):
        text = text_of(over_rates({"batch": (0.8, 0.9, 0.7), "none": (0.8, 0.9, None)}))
        assert (
            "At rate 1 the network learns with batch norm (70%), not without normalization (every"
            in text
        )


def test_a_rate_at_which_one_arm_learns_alone():
    text = text_of(over_rates({"batch": (0.9, 0.9, 0.9), "none": (0.2, 0.9, 0.9)}))
    assert (
        "At rate 0.01 the network learns with batch norm (90%), not without normalization (20%)"
        in text
    )
    text = text_of(over_rates({"batch": (0.9, 0.9, 0.2), "none": (0.9, 0.9, 0.9)}))
    assert (
        "At rate 1 the network learns without normalization (90%), not with batch norm (20%)"
        in text
    )


def test_an_arm_that_learns_at_no_rate_tolerates_none():
    text = text_of(over_rates({"batch": (0.9, 0.8, 0.2), "none": (0.15, 0.12, 0.1)}))
    assert (
        "The network learns with batch norm at 2 of 3 rates, without normalization at none" in text
    )
    assert "tolerates" not in text


def test_a_range_of_rates():
    wide, narrow = (0.9, 0.9, 0.9), (0.6, 0.9, 0.6)
    text = text_of(over_rates({"batch": wide, "none": narrow}))
    assert (
        "The network tolerates all of the ×100 range of rates with batch norm, one rate without"
        in text
    )
    text = text_of(over_rates({"batch": wide, "none": wide}))
    assert "Both learn at each of the 3 rates" in text or "×100" in text


def test_neither_learns():
    text = text_of(arms(5, final=0.12))
    assert "neither learns, guessing is 10%" in text
    assert "no difference" not in text


def test_one_arm_is_missing():
    for norm, other in (("batch", "without normalization"), ("none", "with batch norm")):
        runs = [run(norm, seed, final=0.9) for seed in range(3)]
        alone = text_of(runs)
        assert "90.0% accuracy" in alone
        assert "(3 seeds); there is nothing that it is compared with" in alone
        awaited = run({"batch": "none", "none": "batch"}[norm], status="interrupted")
        text = text_of([*runs, awaited])
        assert f"no run {other} has ended" in text
        assert "points" not in text


def test_no_run_has_ended():
    assert text_of([run(status="interrupted"), run("none", status="interrupted")]) == (
        "No run has ended so far."
    )
    assert headlines([]) == []
    assert conclude([]).to_json() == {"headline": [], "counts": {}}


def test_arms_that_share_no_rate_are_still_set_side_by_side():
    runs = [run("batch", s, final=0.9 + jitter(s), learning_rate=1.0) for s in range(4)]
    runs += [run("none", s, final=0.8 + jitter(s + 9), learning_rate=0.01) for s in range(4)]
    text = text_of(runs)
    assert "90.1% accuracy at 1 with batch norm" in text or "90.0% accuracy at 1 with" in text
    assert "at 0.01 without (+" in text
    assert "4 seeds: settled" in text


def test_arms_that_differ_in_more_than_norm_and_rate_are_not_tested():
    arithmetic = (("batch", 0.95, "bf16"), ("none", 0.9, "fp32"))
    runs = [run(n, s, final=x + jitter(s), precision=p) for s in range(5) for n, x, p in arithmetic]
    text = text_of(runs)
    assert "(other settings differ too, so that nothing is tested)" in text
    assert "settled" not in text
    assert "points" not in text


def test_accuracies_that_are_no_numbers_are_not_taken_for_zero():
    runs = [run("batch", s, final=0.9 + jitter(s)) for s in range(5)]
    runs += [run("none", s, final=float("nan")) for s in range(5)]
    text = text_of(runs)
    assert "unknown at 0.1 without (no seed in common" in text
    assert "nan" not in text


class TestOtherArms:
    def test_whatever_was_compared_is_judged(self):
        runs = [
            run(norm, seed, final=final + jitter(seed + k))
            for k, (norm, final) in enumerate((("group", 0.9), ("layer", 0.8)))
            for seed in range(4)
        ]
        assert "accuracy with group norm, " in text_of(runs)
        assert "with layer norm (+" in text_of(runs)
        assert "batch" not in text_of(runs)

    def test_three(self):
        runs = arms(4, batch={"final": 0.9}, none={"final": 0.8})
        runs += [run("group", seed, final=0.85 + jitter(seed + 3)) for seed in range(4)]
        text = text_of(runs)
        assert re.search(r"Beside them, 85\.\d% with group norm \(\+5\.\d points \[", text)

    def test_thirteen_are_ranked_and_counted(self):
        finals = {"batch": 0.9, "none": 0.8}
        finals |= {f"mine:norm{k}": 0.8 for k in range(8)}
        finals |= {"group": 0.95, "layer": 0.7, "instance": 0.85}
        runs = [
            run(norm, seed, final=final + jitter(seed + 11 * k), norm_code=str(k))
            for k, (norm, final) in enumerate(finals.items())
            for seed in range(6)
        ]
        text = text_of(runs)
        assert re.search(r"Of all 13, group norm \(9[45]\.\d%\) is best", text)
        assert re.search(r"layer norm \((70|69)\.\d%\) last", text)
        assert "3 of 12 are better than the plain network for certain, 1 worse" in text
        assert len(text) < 700


def with_gradients(batch, none, batch_speed=1.0):
    """Six seeds of both arms, whose first layer's gradient has this (size, noise)."""
    return [
        run(norm, seed, speed=(batch_speed if norm == "batch" else 1.0) * (1 + jitter(seed)),
            gradient=size * (1 + jitter(seed + k)),
            noise=noise * (1 + jitter(seed + 3 * k)))
        for k, (norm, (size, noise)) in enumerate((("batch", batch), ("none", none)))
        for seed in range(6)
    ]  # fmt: skip


def test_what_contradicts_common_belief_is_said_the_surest_first():
    runs = with_gradients((1.0, 0.36), (1.0, 0.3), batch_speed=0.3)
    verdicts = {each.code: each for each in judge_all(runs)}
    assert {verdicts[code].outcome for code in ("C101", "C301")} == {"contradicted"}
    text = text_of(runs)
    first, second = re.search(
        r"belief, (.*?) with batch norm \(.*?; (.*?) with batch", text
    ).groups()
    assert first == "gradients vary more from step to step"
    assert Claim.registry["C101"].contrary.startswith(second)
    only = text_of(with_gradients((1.0, 0.36), (1.0, 0.3)))
    assert "belief, gradients vary more from step to step with batch norm (×1.2 [1.19" in only
    assert "belief" not in text_of(with_gradients((1.0, 0.3), (1.0, 0.36)))


def test_every_claim_has_words_for_its_contrary():
    words = [claim.contrary for claim in claims()]
    assert all(words)
    assert len(set(words)) == len(words)


def test_several_data_sets_and_networks_have_each_their_own():
    runs = arms(5, batch={"final": 0.9}, none={"final": 0.8})
    runs += arms(5, batch={"final": 0.7}, none={"final": 0.8}, data="cifar10", data_fingerprint="a")
    runs += arms(12, final=0.9, model="bird-plane")
    found = conclude(runs)
    assert [each.subject for each in found.headlines] == [
        "small-resnet on digits, 10 epochs", "small-resnet on cifar10, 10 epochs",
        "bird-plane on digits, 10 epochs",
    ]  # fmt: skip
    for paragraph, words in zip(
        found.paragraphs(), ("5 seeds: settled)", "against common belief", "no diff"), strict=True
    ):
        assert words in paragraph
    assert found.paragraphs()[1].startswith("small-resnet on cifar10, 10 epochs: At learning")


def test_counts_are_of_what_these_runs_can_judge():
    verdicts = judge_all(arms(6, batch={"final": 0.9}, none={"final": 0.8}))
    told = counts(verdicts)
    assert list(told) == list(OUTCOMES)
    assert sum(told.values()) == sum(bool(verdict.values) for verdict in verdicts) > 0
    assert counts_text(
        {"supported": 8, "contradicted": 2, "no difference": 3, "cannot tell": 2}
    ) == ("8 supported · 2 contradicted · 3 no difference · 2 open")


@pytest.mark.parametrize(
    ("norms", "asked", "expected"),
    [
        (("batch", "none"), {}, ("batch", "none")),
        (("group", "none", "layer"), {}, ("group", "none")),
        (("group", "layer"), {}, ("group", "layer")),
        (("none",), {}, ("batch", "none")),
        (("batch", "none", "group"), {"norm": "group"}, ("group", "none")),
        (("batch", "layer"), {"norm": "layer"}, ("layer", "batch")),
        (("batch", "group"), {"reference": "batch"}, ("group", "batch")),
        (("batch", "none"), {"norm": "batch", "reference": "none"}, ("batch", "none")),
    ],
)
def test_the_two_that_were_compared(norms, asked, expected):
    assert compared([run(norm) for norm in norms], **asked) == expected


def test_of_text_the_loss_is_said_first():
    found = []
    for seed in range(5):
        for norm, loss in (("layer", 2.1), ("none", 2.2)):
            one = run(norm, seed, model="byte-lm", data="text", final=0.3)
            losses = np.full(len(one.epochs["epoch"]), loss + jitter(seed))
            found.append(dataclasses.replace(one, epochs=one.epochs | {"test_loss": losses}))
    text = text_of(found)
    assert text.startswith("2.1")
    assert "nats per byte with layer norm, 2.2" in text
    assert "nats per byte" not in text_of(arms(5))
