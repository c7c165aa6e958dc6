"""Accessibility: axe finds nothing to object to, light and dark; and everything can be reached by
keyboard.
"""

import pytest
from live_server import serving
from report_pages import settle
from report_records import write_recording, write_study
from test_report_findings import finding

from normscope.judge.check_report import CheckReport
from normscope.show.report.pages import check_page, report


@pytest.fixture(scope="module")
def axe():
    return pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python"
    ).Axe()


RULES = {
    "light": None,  # all
    "dark": ["color-contrast"],
    "phone": ["scrollable-region-focusable", "target-size", "meta-viewport"],
}
"""{variant of a page: the rules that can tell it from the light and wide one}."""


def objections(axe, page, variant="light"):
    options = {"resultTypes": ["violations"]}  # what is right is counted, not described
    if RULES[variant]:
        options["runOnly"] = RULES[variant]
    found = axe.run(page, options=options).response["violations"]
    return [
        (each["id"], node["target"], node.get("failureSummary"))
        for each in found
        for node in each["nodes"]
    ]


def objections_in_both_schemes(axe, page):
    found = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found[scheme] = objections(axe, page, scheme)
    return found


NONE = {"light": [], "dark": []}


def test_axe_has_no_objection_to_a_report(page, axe):
    page.evaluate("toggleRun(0)")
    page.locator("#view-train_loss summary").click()
    page.locator("#view-train_loss tbody tr").first.wait_for()
    settle(page)
    assert objections_in_both_schemes(axe, page) == NONE


def test_nor_to_a_phone_s(page, axe):
    page.set_viewport_size({"width": 390, "height": 900})
    page.wait_for_function("document.documentElement.scrollWidth === 390")
    settle(page)
    assert objections(axe, page, "phone") == []


def test_nor_to_findings_problems_and_a_recording(open_page, axe, tmp_path):
    many = CheckReport(tuple(finding(layer=f"layer{k}") for k in range(30)), model="net")
    (tmp_path / "check.html").write_text(check_page(many, "net"))
    study = write_study(tmp_path / "study", norms=("batch",), epochs=2)
    (study / "runs" / "bad").mkdir()
    (study / "runs" / "bad" / "record.sqlite").write_bytes(b"no record")
    for path in (
        tmp_path / "check.html",
        report(study),
        report(write_recording(tmp_path / "r.sqlite")),
    ):
        assert objections_in_both_schemes(axe, open_page(path, drawn=True)) == NONE


def test_nor_to_the_list_and_a_page_that_is_served(chromium, axe, tmp_path):
    for name in ("one", "two"):
        write_study(tmp_path / name, norms=("batch",), epochs=2)
    context = chromium.new_context()
    with serving(tmp_path) as (_, address):
        page = context.new_page()
        page.goto(address)
        assert objections_in_both_schemes(axe, page) == NONE
        page.get_by_role("link", name="one").click()
        page.get_by_text("Live: new epochs").wait_for()
        settle(page)
        assert objections_in_both_schemes(axe, page) == NONE
    context.close()


def test_every_control_and_figure_is_reached_by_tab(page):
    wanted = "a[href], button, input, select, summary, [tabindex='0']"
    options = "{contentVisibilityAuto: true, visibilityProperty: true}"
    seen = f"(all) => all.filter((each) => each.checkVisibility({options}))"
    reachable = page.evaluate(f'({seen})([...document.querySelectorAll("{wanted}")]).length')
    page.evaluate("window.reached = new Set()")
    for _ in range(reachable + 3):
        page.keyboard.press("Tab")
        if page.evaluate(
            "document.activeElement === document.body"
            " || (reached.add(document.activeElement), false)"
        ):
            break
    assert page.evaluate("reached.size") == reachable
    outlined = "getComputedStyle(document.activeElement).outlineStyle"
    page.get_by_role("slider", name="Smoothing").focus()
    page.keyboard.press("Tab")
    assert page.evaluate(outlined) == "solid"


def test_the_way_to_a_layer_by_keyboard(page):
    plot = page.locator("#view-overview_std .plot").first
    plot.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert "layer1.bn" in page.locator("#tooltip").inner_text()
    page.keyboard.press("Enter")
    settle(page)
    assert page.locator("#layer h2").inner_text() == "Inside one layer: layer1.bn"
    slider = page.locator("#layer").get_by_role("slider", name="Epoch")
    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "1 (step 1)"
