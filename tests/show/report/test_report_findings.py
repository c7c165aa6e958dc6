"""A check's findings on a page: from the command, and from JSON beside studies and recordings."""

import json

import pytest
from report_pages import payload_of
from report_records import HOSTILE, write_recording, write_study

from normscope.errors import InputError, RecordError
from normscope.judge.check_formats import to_json, to_rows
from normscope.judge.check_report import CheckReport, from_json
from normscope.judge.findings import Finding, NotEvaluated
from normscope.show.report.pages import check_page, report


def finding(code="NS206", layer="bn1", severity="error", **evidence):
    return Finding(
        code, "eps-too-large", severity, layer, "eps is large.", evidence, "Make it smaller."
    )


@pytest.fixture
def found():
    return CheckReport(
        (
            finding(layer="bn1", eps=0.8),
            finding(layer="bn2", eps=0.9),
            finding("NS101", "", "warning", which=("a", 1)),
        ),
        (
            NotEvaluated("NS502", "statistics-disagree", "batches"),
            NotEvaluated("NS503", "gap", "batches"),
        ),
        "nets:sick",
        2,
        {"torch": "2.13.0"},
    )


def test_json_comes_back_as_it_was(found):
    assert from_json(to_json(found), "check.json") == found
    assert to_rows(from_json(to_json(found), "check.json")) == to_rows(found)


def test_files_from_before_there_were_causes_group_by_the_message(found):
    content = json.loads(to_json(found))
    content["findings"] = [
        {name: value for name, value in entry.items() if name != "cause"}
        for entry in content["findings"]
    ]
    assert [group.layers for group in from_json(json.dumps(content), "old.json").groups] == [
        group.layers for group in found.groups
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"findings": [1]},
        {"findings": [{"code": "NS1"}]},
        {"findings": None},
        {"model": 3},
        {"normalization_layers": "2"},
        {"undecided": [{"code": 1, "name": "a", "missing": "b"}]},
        {"versions": ["a"]},
        {"findings": [{**finding().__dict__, "severity": "dreadful"}]},
        {"findings": [{**finding().__dict__, "evidence": {"a": {"b": 1}}}]},
        {"findings": [{**finding().__dict__, "evidence": [1]}]},
        {"findings": [{**finding().__dict__, "more": 1}]},
    ],
)
def test_something_else_is_refused(found, change):
    with pytest.raises(RecordError, match=r"check\.json is no result of"):
        from_json(json.dumps({**json.loads(to_json(found)), **change}), "check.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", "no json", "[" * 100_000])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(RecordError):
        from_json(text, "check.json")


def test_the_page_of_a_check_is_small_and_has_every_cause(open_page, found, tmp_path):
    path = tmp_path / "check.html"
    path.write_text(check_page(found, "nets:other"))
    assert path.stat().st_size < 100_000  # without figures no Vega
    page = open_page(path)
    assert page.locator("h1").inner_text() == "Check of nets:sick"
    section = page.locator("#findings")
    assert (
        "2 normalization layers: 2 errors, 1 warning, 0 infos (2 causes)." in section.inner_text()
    )
    rows = section.locator("tbody tr")
    assert rows.count() == 2
    assert rows.first.locator("td").all_inner_texts() == [
        "✗ error",
        "NS206 eps-too-large",
        "eps is large.",
        "bn1, bn2",
        "eps 0.8 to 0.9",
        "Make it smaller.",
    ]
    section.get_by_text("Not enough data to tell").click()
    assert "batches: NS502, NS503" in section.inner_text()
    assert page.get_by_role("link", name="Findings").count() == 1


def test_a_page_replaces_nothing_but_a_report(found, tmp_path):
    path = tmp_path / "check.html"
    path.write_text("mine")
    with pytest.raises(InputError, match="is not a normscope report"):
        check_page(found, "net", path)
    assert path.read_text() == "mine"
    path.unlink()
    assert check_page(found, "net", path) == check_page(found, "net", path) == path.read_text()
    with pytest.raises(InputError, match="no folder"):
        check_page(found, "net", tmp_path / "missing" / "check.html")


def test_many_layers_fold(open_page, tmp_path):
    many = CheckReport(tuple(finding(layer=f"layer{k}") for k in range(30)))
    (tmp_path / "check.html").write_text(check_page(many, "net.pt"))
    page = open_page(tmp_path / "check.html")
    assert page.locator("h1").inner_text() == "Check of net.pt"
    page.get_by_text("30 layers").click()
    assert "layer29" in page.locator("#findings").inner_text()


def test_beside_studies_and_recordings(found, tmp_path):
    study = write_study(tmp_path / "study", epochs=1)
    (tmp_path / "check.json").write_text(to_json(found))
    (tmp_path / "broken.json").write_text("{}")
    path = report(
        study,
        write_recording(tmp_path / "r.sqlite"),
        tmp_path / "check.json",
        tmp_path / "broken.json",
    )
    payload = payload_of(path)
    assert path == study / "report.html"
    assert [check["model"] for check in payload["findings"]] == ["nets:sick"]
    assert ["Checked with: torch", "2.13.0"] in payload["made_by"]
    assert len(payload["problems"]) == 1
    assert "broken.json" in payload["problems"][0]
    assert report(tmp_path / "check.json") == tmp_path / "check.report.html"


def test_hostile_findings_stay_text(open_page, tmp_path):
    hostile = Finding("NS1", HOSTILE, "info", HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE)
    (tmp_path / "check.html").write_text(check_page(CheckReport((hostile,), model=HOSTILE), "net"))
    page = open_page(tmp_path / "check.html")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("#findings td").nth(2).inner_text() == HOSTILE
