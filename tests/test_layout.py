"""Imports point one way (docs/architecture.md), and judging and showing never need torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import normscope

SOURCE = Path(normscope.__file__).parent

COLLECTING = ("models", "data", "probes", "mend")
ALLOWED = {
    "errors": (),
    "records": ("errors",),
    "forwards": ("errors",),
    **dict.fromkeys(COLLECTING, ("errors", "records", "forwards")),
    "fused": ("errors", "models"),
    "training": ("errors", "records", "fused", *COLLECTING),
    "studies": ("errors", "records", "training", "fused", *COLLECTING),
    "judge": ("errors", "records"),
    "show": ("errors", "records", "judge"),
    "integrations": ("errors", "records", "probes", "watching"),
    "testing": ("errors", "records", "probes", "judge"),
}
"""{room: the other rooms it may import}. What is not listed wires the rooms together and may import
all of them.
"""

WIRING = {
    "__init__", "api", "check_command", "check_inputs", "checks", "claiming", "cli", "explaining", "exporting",
    "inspecting", "passing_on", "reporting", "serving", "watching",
}  # fmt: skip

UPWARD = {"records/recording.py": {"reporting"}}
"""{file: what wires it that it may import, inside functions}: a recording writes its report and
shows itself in a notebook, and only then is what shows it loaded.
"""


def rooms_of(path):
    """The rooms of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "normscope"
                else [node.module]
            )
        for name in names:
            if name.startswith("normscope."):
                yield name.split(".")[1]


def files():
    return sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path):
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room in WIRING or room not in ALLOWED:
        assert room in WIRING, (
            f"{room} is in no layer: give it a place in tests/test_layout.py and docs/architecture.md"
        )
        return
    strangers = {name for name in rooms_of(path) if name != room and name != "__version__"} - set(
        ALLOWED[room]
    )
    strangers -= UPWARD.get(str(path.relative_to(SOURCE)), set())
    assert not strangers, f"{path.relative_to(SOURCE)} may not import {sorted(strangers)}"


@pytest.mark.parametrize("name", UPWARD)
def test_what_looks_upwards_does_so_only_when_it_is_asked(name):
    script = f"import sys, normscope.{name.removesuffix('.py').replace('/', '.')}\n"
    script += (
        f"sys.exit(any(f'normscope.{{room}}' in sys.modules for room in {sorted(UPWARD[name])}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_judging_and_showing_never_import_torch():
    rooms = ("judge", "show", "records")
    modules = [
        ".".join(("normscope", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        for path in files()
        if path.relative_to(SOURCE).parts[0] in rooms
    ]
    script = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    script += "sys.exit('torch is imported' if 'torch' in sys.modules else 0)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_help_never_imports_torch():
    script = "import sys\nsys.argv = ['normscope', '--help']\nfrom normscope.cli import main\n"
    script += "try: main()\nexcept SystemExit as end: code = end.code\n"
    script += "slow = {'torch', 'sklearn', 'pyarrow', 'matplotlib', 'scipy'} & set(sys.modules)\n"
    script += "sys.exit(f'{slow} imported' if slow else code)"
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_the_public_names_are_there():
    for name in normscope.__all__:
        assert getattr(normscope, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = normscope.nothing


def test_nothing_committed_names_a_place_of_one_machine():
    tracked = subprocess.run(
        ["git", "ls-files", "-z"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    suspicious = ("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/")
    for name in filter(None, tracked.stdout.split("\0")):
        path = Path(__file__).parents[1] / name
        if (
            path.suffix in {".py", ".md", ".toml", ".txt", ".json", ".html", ".js", ""}
            and path.is_file()
        ):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert not any(place in text for place in suspicious), name
