"""The page in a real browser: every view, control and key; no console message, no request."""

import csv
import os
from pathlib import Path

from report_pages import rows, settle, start_playing
from report_records import HOSTILE, write_recording, write_run, write_study

from normscope.show.report.pages import report


def views(page):
    return page.evaluate("charts.map(({view}) => view.name)")


def test_every_view_is_drawn(page):
    for name in views(page):
        if name.startswith("overview_"):
            page.get_by_label("Show", exact=True).select_option(name)
            settle(page)
        marks = page.locator(
            f"#view-{name} .plot svg .mark-line path, #view-{name} .plot svg .mark-area path, "
            f"#view-{name} .plot svg .mark-rect path, #view-{name} .ridge .now"
        )
        empty = page.locator(f"#view-{name}").get_by_text("at the steps shown")
        assert marks.count() > 0 or empty.is_visible(), name
    assert page.evaluate("document.documentElement.scrollWidth") == 1280
    page.get_by_label("Show", exact=True).select_option(index=0)


def test_what_was_found_comes_first_then_the_curves_with_names(page):
    ids = page.locator("main section").evaluate_all("(all) => all.map((section) => section.id)")
    assert ids[:4] == ["headline", "main", "numbers", "claims"]
    assert ids[-3:] == ["layers", "layer", "made-by"]
    settle(page)
    names = page.locator("#view-test_accuracy .mark-text.role-mark text")
    assert sorted(names.all_text_contents()) == ["batch", "none"]
    tops = names.evaluate_all("(all) => all.map((name) => name.getBoundingClientRect().top)")
    assert abs(tops[0] - tops[1]) > 10  # both can be read, however near the lines end


def test_arms_seeds_and_rates_hide(page):
    names = lambda: {row["name"] for row in rows(page, "train_loss")}  # noqa: E731
    assert {"none, learning rate 0.1, seed 1", "none, learning rate 0.1, mean of 2"} <= names()
    page.get_by_role("checkbox", name="none", exact=True).uncheck()
    page.get_by_role("checkbox", name="1", exact=True).uncheck()
    assert names() == {"batch, learning rate 0.1, seed 0", "batch, learning rate 0.1, mean of 1"}
    page.get_by_label("Learning rate", exact=True).select_option("all")
    assert len(names()) == 4
    page.get_by_label("Learning rate", exact=True).select_option("0.1")
    for name in ("none", "1"):
        page.get_by_role("checkbox", name=name, exact=True).check()
    assert len(names()) == 6


def test_log_axis_and_smoothing(page):
    before = rows(page, "stem_gradient")
    page.get_by_role("slider", name="Smoothing").fill("0.9")
    after = rows(page, "stem_gradient")
    spread = lambda found: max(r["y"] for r in found) - min(r["y"] for r in found)  # noqa: E731
    assert spread(after) < spread(before)
    assert after[0]["y"] == before[0]["y"]  # the first value has nothing to be smoothed with
    page.locator("#curves").get_by_role("checkbox", name="Log axis").check()
    settle(page)
    scale = "charts.find(({view}) => view.name === %s).panels.get('all').vega.scale('y').type"
    assert page.evaluate(scale % "'train_loss'") == "log"
    assert page.evaluate(scale % "'test_accuracy'") == "linear"
    assert page.locator("#layer").get_by_role("checkbox", name="Log axis").is_checked()
    assert page.evaluate(scale % "'variance'") == "log"
    assert page.evaluate(scale % "'mean'") == "linear"
    page.locator("#curves").get_by_role("checkbox", name="Log axis").uncheck()
    page.get_by_role("slider", name="Smoothing").fill("0")
    assert rows(page, "stem_gradient") == before


def test_hover_names_the_run_and_click_selects_it(page):
    plot = page.locator("#view-train_loss .plot")
    settle(page)
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    tooltip = page.locator("#tooltip")
    assert "learning rate 0.1" in tooltip.inner_text()
    assert "epoch" in tooltip.inner_text()
    x, y = page.evaluate("""() => {
        const panel = charts.find(({view}) => view.name === 'train_loss').panels.get('all');
        const row = panel.rows.find((row) => row.run !== undefined && row.x === 4);
        const [left, top] = panel.vega.origin();
        const box = panel.plot.querySelector('svg').getBoundingClientRect();
        const at = panel.positions()(row);
        return [box.left + left + at[0], box.top + top + at[1]];
    }""")
    page.mouse.click(x, y)
    chosen = page.evaluate("[...state.selected].map((run) => page.runs[run].label)")
    assert len(chosen) == 1
    assert chosen[0] in tooltip.inner_text()
    page.get_by_role("checkbox", name="only these").check()
    assert {row["name"] for row in rows(page, "train_loss") if "run" in row} == set(chosen)
    page.get_by_role("button", name="Clear").click()
    assert page.evaluate("state.selected.size") == 0


def test_a_diverged_run_ends_in_a_cross(open_page, tmp_path):
    study = write_study(tmp_path / "study", epochs=3)
    write_run(study / "runs" / "bad", "batch", 0.1, 7, epochs=3, done=2, status="diverged")
    page = open_page(report(study))
    settle(page)
    assert page.locator("#view-train_loss .mark-symbol path").count() > 0
    assert [row["name"] for row in rows(page, "train_loss") if row.get("end")] == [
        "batch, learning rate 0.1, seed 7"
    ]
    assert "7: diverged" in page.locator("#summary").inner_text()


def test_the_epoch_slider_moves_the_distributions(page):
    assert page.locator("#view-block_output h4").first.inner_text() == "batch, epoch 6"
    last = rows(page, "block_output")
    slider = page.locator("#activations").get_by_role("slider", name="Epoch")
    slider.press("ArrowLeft")
    settle(page)
    assert page.locator("#view-block_output h4").first.inner_text() == "batch, epoch 1"
    assert slider.get_attribute("aria-valuetext") == "1"
    assert rows(page, "block_output") != last
    assert start_playing(page, "#activations") == ["Stop", "0"]
    page.locator("#activations").get_by_role("button", name="Play").wait_for()  # it has ended
    assert slider.input_value() == "1"


def test_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    plot = page.locator("#view-train_loss .plot")
    settle(page)
    plot.focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#tooltip").inner_text()
    page.keyboard.press("ArrowRight")
    second = page.locator("#tooltip").inner_text()
    assert first != second
    assert "epoch 2" in second
    page.keyboard.press("ArrowDown")
    assert "seed 1" in page.locator("#tooltip").inner_text()
    page.keyboard.press("Enter")
    assert page.evaluate("state.selected.size") == 1
    page.keyboard.press("Enter")
    assert page.evaluate("state.selected.size") == 0
    page.keyboard.press("Escape")
    assert page.locator("#tooltip").is_hidden()
    assert "series" in plot.get_attribute("aria-label")


def test_numbers_as_table_and_csv(page, tmp_path):
    figure = page.locator("#view-train_loss")
    figure.locator("summary").click()
    figure.locator("tbody tr").first.wait_for()
    assert figure.locator("tbody tr").count() == len(rows(page, "train_loss"))
    with page.expect_download() as download:
        figure.get_by_role("button", name="Save as CSV").click()
    download.value.save_as(tmp_path / "view.csv")
    with (tmp_path / "view.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))
    assert table[0] == ["panel", "name", "x", "y"]
    assert len(table) == 1 + len(rows(page, "train_loss"))
    with page.expect_download() as download:
        page.get_by_role("button", name="Save all runs as CSV").click()
    assert download.value.suggested_filename == "runs.csv"
    figure.locator("summary").click()


def test_hostile_names_stay_text(open_page, tmp_path):
    study = write_study(tmp_path / "study", norms=(HOSTILE, "=1+1"), seeds=(0,), epochs=2)
    write_recording(study / "runs" / "run0" / "recording.sqlite", layers=(HOSTILE, "</style>"))
    page = open_page(report(study, command=HOSTILE))
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert HOSTILE in page.locator("#summary").inner_text()
    page.get_by_label("Layer", exact=True).select_option("1")
    assert page.locator("#layer h2").inner_text() == "Inside one layer: </style>"
    assert page.evaluate("numbersOf([{name: '=1+1'}])[1][1]") == "=1+1"


def test_an_empty_study_and_a_recording_alone(open_page, tmp_path):
    page = open_page(report(write_study(tmp_path / "study", norms=())))
    assert "no run to show so far" in page.locator("main").inner_text()
    page = open_page(report(write_recording(tmp_path / "r.sqlite")), drawn=True)
    assert page.locator("#view-ridges h4").all_inner_texts() == ["Input", "Output"]


def test_it_fits_from_phone_to_wide_screen_in_light_and_dark(page):
    folder = os.environ.get("NORMSCOPE_SCREENSHOTS")
    for width in (390, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        settle(page)
        over = "(svg) => svg.clientWidth > svg.closest('.plot').clientWidth"
        any_over = f"[...document.querySelectorAll('.plot svg')].some({over})"
        fits = f"document.documentElement.scrollWidth === {width} && !{any_over}"
        page.wait_for_function(fits)  # figures follow a width as soon as they are told of it
        for scheme, paper in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(15, 19, 24)")):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
            if folder:
                page.screenshot(path=Path(folder) / f"report-{width}-{scheme}.png", full_page=True)


def test_it_prints_on_white_without_its_controls(page):
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".toolbar").first.is_visible()
    assert page.locator("#summary").is_visible()


def test_a_print_draws_every_figure_at_the_paper_s_width(open_page, study_path):
    """Only promises are awaited, so all is done when the browser goes on to print."""
    page = open_page(study_path)
    page.locator("#view-train_loss svg").wait_for()  # those in sight alone
    drawn = page.evaluate("""() => {
        clearTimeout(pause);
        dispatchEvent(new Event("beforeprint"));
        const widths = (plot) => [plot.querySelector("svg")?.clientWidth ?? 0, plot.clientWidth];
        const measured = () => [...document.querySelectorAll(".plot")].map(widths);
        const drawn = () => Promise.all(charts.map((chart) => chart.drawing));
        return new Promise((done) =>
            queueMicrotask(() => drawn().then(() => done(measured()))));
    }""")
    assert len(drawn) > 20
    assert all(0 < svg <= plot <= 700 for svg, plot in drawn)
    made = page.locator("#made-by table").bounding_box()
    assert page.locator("footer").bounding_box()["y"] >= made["y"] + made["height"]
    key = page.locator(".key")
    assert key.inner_text().split() == ["batch", "none"]
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert key.count() == 0
    page.wait_for_function("document.querySelector('#made-by').clientWidth > 1000")


def test_a_link_leads_below_the_toolbar(page):
    page.locator("#contents").get_by_role("link", name="Activations").click()
    page.wait_for_function("document.querySelector('#activations').getBoundingClientRect().y < 300")
    toolbar = page.locator(".toolbar").first.bounding_box()
    heading = page.locator("#activations h2").bounding_box()
    assert heading["y"] >= toolbar["y"] + toolbar["height"]
    page.go_back()


def test_a_legend_has_short_numbers_and_no_dead_channel_is_a_sentence(open_page, tmp_path):
    page = open_page(report(write_recording(tmp_path / "r.sqlite", channels=3)), drawn=True)
    for name in ("overview_mean", "overview_std"):
        page.get_by_label("Show", exact=True).select_option(name)
        settle(page)
        labels = page.locator(f"#view-{name} .role-legend-label text").all_text_contents()
        assert len(labels) >= 2
        assert max(map(len, labels)) <= 6
    page.get_by_label("Show", exact=True).select_option("overview_dead")
    settle(page)
    figure = page.locator("#view-overview_dead")
    assert figure.get_by_text("No dead channels in any layer at the steps shown.").is_visible()
    assert not figure.locator(".plot").is_visible()


def test_a_setting_is_shown_at_the_rate_where_it_has_most_values(open_page, tmp_path):
    study = write_study(tmp_path / "study", rates=(0.01, 0.1), batch_size=128)
    for k, size in enumerate((8, 32)):
        write_run(study / "runs" / f"size{k}", "batch", 0.01, 0, batch_size=size)
    page = open_page(report(study), drawn=True)
    assert page.evaluate("page.first_rate") == 0.1
    heading = page.locator("#view-sweep_batch_size h4")
    assert heading.inner_text() == "learning rate 0.01"
    assert {row["level"] for row in rows(page, "sweep_batch_size")} == {8, 32, 128}
    for rate in ("all", "0.1"):  # until the reader chooses one
        page.get_by_label("Learning rate", exact=True).select_option(rate)
    heading.filter(has_text="learning rate 0.1").wait_for()


def test_a_claim_begins_with_its_verdict(page):
    outcomes = page.locator("#claims tbody tr td:first-child .pill").all_text_contents()
    expected = page.evaluate("page.verdicts.map((row) => row.verdict + row.mark)")
    assert sorted(text[2:] for text in outcomes) == sorted(expected)
