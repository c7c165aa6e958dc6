"""A page of many runs stays readable: dots for seeds, a range, bands, one hue for each norm."""

import numpy as np
import pytest
from report_pages import opening, payload_of, rows
from report_records import write_run, write_study

from normscope.show.report.pages import report


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    study = write_study(tmp_path_factory.mktemp("many") / "study", seeds=tuple(range(12)), epochs=3)
    write_run(study / "runs" / "bad", "none", 0.1, 50, epochs=3, done=1, status="diverged")
    return report(study)


@pytest.fixture(scope="module")
def many_page(tab, many):
    """The page of `many`, loaded once: who changes it puts it back."""
    with opening(tab) as visit:
        yield visit(many)


class TestSeeds:
    def test_from_nine_on_they_are_numbers_with_their_middle(self, many):
        payload = payload_of(many)
        row = payload["summary"][1]
        finals = [
            100 * run["test_accuracy"]
            for run in payload["runs"]
            if run["arm"] == 1 and run["test_accuracy"] is not None
        ]
        assert row["numbers"] == pytest.approx(finals, rel=1e-5)
        low, high, middle = min(finals), max(finals), np.median(finals)
        assert row["seeds"] == [
            f"{low:.1f}% to {high:.1f}%, median {middle:.1f}%, 12 seeds", "1 diverged",
        ]  # fmt: skip
        verdict = next(row for row in payload["verdicts"] if row["claim"].startswith("C201"))
        assert [len(numbers) for numbers in verdict["numbers"]] == [12, 12]
        assert "median" in verdict["values"][0]

    def test_up_to_eight_are_listed(self, tmp_path):
        payload = payload_of(report(write_study(tmp_path / "s", seeds=tuple(range(8)), epochs=2)))
        assert [len(row["seeds"]) for row in payload["summary"]] == [8, 8]
        assert [row["numbers"] for row in payload["summary"]] == [[], []]

    def test_the_page_draws_them_and_offers_a_range(self, many_page):
        page = many_page
        assert page.locator("#summary .dots circle").count() == 24
        assert page.get_by_role("group", name="Runs shown").get_by_role("checkbox").count() == 2
        page.get_by_label("to", exact=True).select_option("3")
        page.get_by_label("Seeds from").select_option("2")
        names = {row["name"] for row in rows(page, "train_loss")}
        assert names == {
            f"{arm}, learning rate 0.1, {what}"
            for arm in ("batch", "none")
            for what in ("seed 2", "seed 3", "mean of 2")
        }
        page.get_by_label("Seeds from").select_option(index=0)
        page.get_by_label("to", exact=True).select_option("50")


@pytest.mark.parametrize(("epochs", "are_dots"), [(1, True), (3, False)])
def test_a_curve_of_one_epoch_is_a_point(open_page, tmp_path, epochs, are_dots):
    page = open_page(report(write_study(tmp_path / "study", epochs=epochs)), drawn=True)
    points = page.locator(
        "#view-train_loss .mark-symbol path[stroke], #view-train_loss .mark-symbol path[fill]"
    )
    assert (points.count() > 0) == are_dots
    assert {row.get("dot", False) for row in rows(page, "train_loss")} == {are_dots}


def test_the_claims_are_tables_the_decided_ones_first(many_page):
    page = many_page
    decided = page.get_by_role("region", name="Claims", exact=True).locator("tbody tr")
    open_ones = page.locator("#claims details tbody tr")
    verdicts = page.evaluate("page.verdicts.map((row) => row.verdict)")
    assert open_ones.count() == verdicts.count("cannot tell") > 0
    assert decided.count() == len(verdicts) - open_ones.count() > 0
    assert "cannot tell" not in decided.locator(".pill").all_inner_texts()
    assert "Measured: " in decided.first.inner_text()
    assert not open_ones.first.is_visible()
    page.locator("#claims summary").click()
    assert open_ones.first.is_visible()


def test_of_many_runs_a_few_are_drawn_and_a_band(many_page):
    page = many_page
    drawn = rows(page, "train_loss")
    lines = {row["series"] for row in drawn if row.get("run") is not None and "none" in row["name"]}
    assert len(lines) == 6  # five, and the one that diverged
    (band,) = {row["series"] for row in drawn if row.get("band") and "none" in row["name"]}
    at = [row for row in drawn if row["series"] == band and row["x"] == 2]
    every = page.evaluate("""() => {
        const {columns} = tableOf(byName(page.views, 'train_loss'));
        return range(columns.run.length)
            .filter((k) => columns.x[k] === 2 && page.runs[columns.run[k]].arm === 1)
            .map((k) => columns.y[k]);
    }""")
    below = sum(value < at[0]["y"] for value in every), sum(value > at[0]["y2"] for value in every)
    assert below == (1, 1)
    (mean,) = [row for row in drawn if row["name"].endswith("mean of 12") and row["x"] == 2][1:]
    assert mean["y"] == pytest.approx(np.mean(every))


def test_learning_rates_are_on_their_own_scale_and_arms_beside_each_other(open_page, tmp_path):
    study = write_study(tmp_path / "study", rates=(0.001, 0.01, 0.1), seeds=(0,), epochs=2)
    write_run(study / "runs" / "bad", "none", 0.1, 5, epochs=2, done=1, status="diverged")
    page = open_page(report(study), drawn=True)
    found = page.evaluate("""() => {
        const panel = charts.find(({view}) => view.name === 'learning_rates').panels.get('all');
        const at = panel.positions();
        return {type: panel.vega.scale('x').type, height: panel.vega.height(),
                rows: panel.rows.map((row) => [row.kind, row.arm, row.x, ...at(row)])};
    }""")
    assert found["type"] == "log"
    seeds = {(arm, rate): x for kind, arm, rate, x, _ in found["rows"] if kind == "seed"}
    assert seeds[1, 0.01] - seeds[0, 0.01] == pytest.approx(7)
    assert seeds[0, 0.1] - seeds[0, 0.01] == pytest.approx(seeds[0, 0.01] - seeds[0, 0.001])
    (lane,) = [y for kind, *_, y in found["rows"] if kind == "diverged"]
    assert all(y < found["height"] - 26 < lane for kind, *_, y in found["rows"] if kind == "seed")
    labels = page.locator("#view-learning_rates .role-axis-label text").all_text_contents()
    assert {"0.001", "0.01", "0.1"} <= set(labels)
    assert page.locator("#view-learning_rates").get_by_text("diverged", exact=True).is_visible()


def test_a_hue_is_a_norm_and_settings_differ_in_dashes(tmp_path):
    study = write_study(
        tmp_path / "study", norms=("batch", "group", "none"), epochs=1, block="post"
    )
    for norm in ("batch", "none"):
        write_run(study / "runs" / f"pre-{norm}", norm, 0.1, 0, epochs=1, block="pre")
    arms = {arm["label"]: arm for arm in payload_of(report(study))["arms"]}
    assert len(arms) == 5
    for label, arm in arms.items():
        norm = label.split(",")[0]
        assert (arm["colour"], arm["shape"]) == (arms[norm]["colour"], arms[norm]["shape"])
    assert len({arms[norm]["colour"] for norm in ("batch", "group", "none")}) == 3
    assert arms["batch, pre"]["dash"] != arms["batch"]["dash"]
    assert len({(arm["colour"], arm["dash"]) for arm in arms.values()}) == 5


def test_a_setting_may_have_any_value(open_page, tmp_path):
    study = write_study(tmp_path / "study", seeds=(0,), epochs=2, activation="relu")
    for level in ("__proto__", "constructor"):
        write_run(study / "runs" / level, "batch", 0.1, 0, epochs=2, activation=level)
    page = open_page(report(study), drawn=True)
    labels = page.locator("#view-sweep_activation .role-axis-label text").all_text_contents()
    assert {"relu", "__proto__", "constructor"} <= set(labels)


def test_where_the_first_norm_has_not_learned_there_is_no_threshold(tmp_path):
    study = write_study(tmp_path / "study", norms=())
    for norm, accuracy in (("batch", 0.12), ("none", 0.11)):
        folder = write_run(study / "runs" / norm, norm, 0.1, 0, epochs=1, done=0, status="finished")
        add_epoch(folder, 1, test_accuracy=accuracy)
    rows = payload_of(report(study))["summary"]
    assert [row["threshold"] for row in rows] == ["–", "–"]


def add_epoch(folder, epoch, **values):
    from normscope.records.run import RECORD_NAME
    from normscope.records.store import writer

    with writer(folder / RECORD_NAME, "run") as store, store.transaction():
        store.add_epoch(epoch, {"train_loss": 2.3, "learning_rate": 0.1, **values})


def test_on_a_phone_no_table_has_to_be_scrolled_sideways(many_page):
    page = many_page
    page.set_viewport_size({"width": 390, "height": 900})
    for region in ("Claims", "Summary"):
        box = page.get_by_role("region", name=region, exact=True)
        assert box.evaluate("(box) => box.scrollWidth <= box.clientWidth"), region
    cell = page.locator("#claims td.effect").first
    assert cell.evaluate("(cell) => getComputedStyle(cell, '::before').content").startswith('"eff')
