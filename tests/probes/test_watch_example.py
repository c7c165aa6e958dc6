import runpy
from pathlib import Path


def test_the_example_runs(capsys):
    runpy.run_path(str(Path(__file__).parents[2] / "examples" / "watch_your_model.py"))
    out = capsys.readouterr().out
    assert "Sequential: 2 layers, 150 steps (optimizer steps)" in out
    assert "Running mean of channel 0" in out
