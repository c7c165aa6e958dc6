"""A page names normscope's own command, and nothing of the program that called normscope."""

import sys

import pytest
import torch
from torch import nn

import normscope
from normscope.cli import main
from normscope.records.command_line import command_line, running

SECRETS = ("SECRET", "zelda", "train.py")


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["/srv/zelda/train.py", "--key", "SECRET", "--data", "/srv/zelda/x"]
    )


@pytest.fixture
def recording(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    path = tmp_path / "watched.sqlite"
    with normscope.watch(net, path=path):
        for _ in range(2):
            net(torch.randn(8, 4)).sum().backward()
    return path


def held(*paths):
    return {secret for path in paths for secret in SECRETS if secret.encode() in path.read_bytes()}


def test_the_hosts_command_line_is_on_no_page_and_in_no_record(host, recording, tmp_path):
    pages = [tmp_path / name for name in ("a.html", "b.html", "c.html", "d.html")]
    normscope.Recording.load(recording).report(pages[0])
    normscope.report(recording, out=pages[1])
    found = normscope.check(nn.BatchNorm1d(4))
    pages[2].write_text(found.html())
    pages[3].write_text(normscope.Recording.load(recording)._repr_html_())
    assert not held(recording, *pages)


def test_the_normscope_command_names_itself(host, recording, tmp_path, capsys):
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit) as ended:
        main(["report", str(recording), "--out", str(page)])
    assert ended.value.code == 0
    text = page.read_text()
    assert "normscope report watched.sqlite --out page.html" in text
    assert str(tmp_path) not in text
    assert not held(page)
    assert command_line() == ""


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("runs/study", "runs/study"),
        ("/srv/zelda/runs/study/", "study"),
        ("--out=/srv/zelda/page.html", "--out=page.html"),
        ("../zelda/study", "study"),
        ("~/study", "study"),
        ("C:\\Users\\zelda\\study", "study"),
        ("\\\\server\\zelda\\study", "study"),
        ("nets:make", "nets:make"),
        ("0.1", "0.1"),
        ("--seeds", "--seeds"),
    ],
)
def test_folders_of_the_machine_are_left_out(argument, shown):
    with running(["report", argument]):
        assert command_line() == f"normscope report {shown}"
