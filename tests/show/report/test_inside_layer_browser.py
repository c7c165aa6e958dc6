"""Inside one layer, in a real browser: one axis, one moment, one channel that is lit everywhere."""

from report_pages import settle, start_playing
from report_records import write_recording

from normscope.show.report.pages import report


def panels(page):
    return page.evaluate("""() => [...charts.find(({view}) => view.name === 'ridges')
        .panels.values()].map(({shown}) => ({label: shown.label, span: shown.span, step: shown.step,
                            channels: shown.ridges.map(({channel}) => channel)}))""")


def test_input_and_output_with_and_without_stand_on_one_axis(page):
    shown = panels(page)
    assert [panel["label"] for panel in shown] == [
        "batch: input", "batch: output", "none: input", "none: output",
    ]  # fmt: skip
    assert len({tuple(panel["span"]) for panel in shown}) == 1
    ticks = page.locator("#view-ridges .panel:first-child .middle").all_text_contents()
    assert len(ticks) >= 3
    assert page.locator("#view-ridges .middle").all_text_contents() == 4 * ticks
    tops = page.locator("#view-ridges svg[aria-hidden]").evaluate_all(
        "(all) => all.map((svg) => svg.getBoundingClientRect().top)"
    )
    assert max(tops) - min(tops) < 1  # a channel is in one row
    assert page.locator("#view-ridges .region").count() == 2  # of the outputs
    assert page.locator("#view-ridges .first").count() == 16
    assert "3 of 3 recorded steps" in page.locator("#view-ridges figcaption").inner_text()


def test_the_curve_lies_where_the_values_do(page):
    peak = page.evaluate("""() => {
        const {shown} = charts.find(({view}) => view.name === 'ridges').panels.get('0 output');
        const {xs, heights} = shown.ridges[2];
        return xs[heights.indexOf(Math.max(...heights))];
    }""")
    assert abs(peak - 1) < 0.5  # 2 z + 1, whatever the channel's mean was


def test_a_channel_lights_up_in_every_figure(page):
    page.locator("#view-ridges .plot").first.scroll_into_view_if_needed()
    lit = "[...charts.find(({view}) => view.name === 'mean').panels.values()][0].vega.signal('lit')"
    assert page.evaluate(lit) == -1
    row = page.locator("#view-ridges .ridge[data-channel='2'] .now").first.bounding_box()
    page.mouse.move(row["x"] + row["width"] / 2, row["y"] + row["height"] - 3)
    assert page.locator(".ridge.lit").count() == 4
    assert page.evaluate(lit) == 2
    assert page.locator("#tooltip").inner_text() == "channel 2\nmean 2, std 1"
    page.mouse.click(row["x"] + row["width"] / 2, row["y"] + row["height"] - 3)
    page.mouse.move(5, 5)
    assert page.evaluate(lit) == 2  # kept
    assert "channel=2" in page.evaluate("location.hash")


def test_keys_go_through_channels_and_time(page):
    page.locator("#view-ridges .plot").first.focus()
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    assert page.locator("#tooltip").inner_text().startswith("channel 1")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert {panel["step"] for panel in panels(page)} == {15}
    assert page.evaluate("location.hash") == "#layer=stem.bn&epoch=2&channel=1"


def test_a_link_leads_to_layer_epoch_and_channel(page):
    page.evaluate("location.hash = 'layer=layer1.bn&epoch=1&channel=3&show=overview_gap'")
    page.get_by_role("heading", name="Inside one layer: layer1.bn").wait_for()
    settle(page)
    assert "Step 1, epoch 1." in page.locator("#view-ridges figcaption").inner_text()
    assert page.locator("#layer h2").inner_text() == "Inside one layer: layer1.bn"
    assert {panel["step"] for panel in panels(page)} == {1}
    assert page.locator(".ridge.lit").count() == 4
    assert page.get_by_label("Layer", exact=True).input_value() == "1"
    assert page.locator("#layer").get_by_role("slider").input_value() == "0"
    assert page.locator("#view-overview_gap").is_visible()
    page.evaluate("""() => new Promise((done) => {
        addEventListener("hashchange", () => setTimeout(done));
        location.hash = "layer=gone&epoch=1"; // names that are not there change nothing
    })""")
    assert page.locator("#layer h2").inner_text() == "Inside one layer: layer1.bn"


def test_the_slider_plays_through_the_epochs(page):
    slider = page.locator("#layer").get_by_role("slider", name="Epoch")
    assert slider.get_attribute("aria-valuetext") == "3 (step 30)"
    assert start_playing(page, "#layer") == ["Stop", "0"]
    page.locator("#layer").get_by_role("button", name="Play").wait_for()
    assert slider.input_value() == "2"


def test_a_click_on_the_overview_leads_to_the_layer_and_marks_its_row(page):
    marked = """() => charts.find(({view}) => view.name === 'overview_std').panels
        .values().next().value.vega.signal('chosen')"""
    assert page.evaluate(marked) == 0
    page.locator("#view-overview_std .mark-rect.role-mark path").nth(45).click()
    page.get_by_role("heading", name="Inside one layer: layer1.bn").wait_for()
    settle(page)
    assert page.evaluate(marked) == 1
    assert page.evaluate("location.hash").startswith("#layer=layer1.bn")


def test_fifty_layers_have_stages_and_the_panel_is_in_view(open_page, tmp_path):
    names = [f"layer{k}.{b}.bn{n}" for k in (1, 2, 3, 4) for b in range(6) for n in (1, 2)]
    page = open_page(report(write_recording(tmp_path / "r.sqlite", layers=names)), drawn=True)
    assert page.evaluate("new Set(page.stages.map(({stage}) => stage)).size") == 4
    page.emulate_media(reduced_motion="reduce")
    last = page.locator("#view-overview_std .mark-rect.role-mark path").nth(47 * 30)
    last.scroll_into_view_if_needed()
    last.click()
    settle(page)
    assert -1 <= page.locator("#layer h2").bounding_box()["y"] < 300
    assert page.locator("#view-ridges").bounding_box()["y"] < 700
    heatmap = page.locator("#layers").bounding_box()
    assert page.locator("#layer").bounding_box()["x"] >= heatmap["x"] + heatmap["width"]


def test_a_layer_may_have_any_name(open_page, tmp_path):
    names = ["first", "__proto__", "constructor", "toString", "a.__proto__"]
    path = write_recording(tmp_path / "r.sqlite", layers=names)
    page = open_page(report(path), drawn=True)
    labels = page.locator("#view-overview_std .role-axis-label text").all_text_contents()
    assert set(names) <= set(labels)
    for place, name in enumerate(names[1:], 1):
        page.get_by_label("Layer", exact=True).select_option(str(place))
        settle(page)
        assert page.locator("#layer h2").inner_text() == f"Inside one layer: {name}"
        assert page.locator("#view-ridges .ridge").count() == 8
