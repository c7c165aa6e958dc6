"""`compare --tensorboard`, `study --tensorboard` and `export --to tensorboard`, read with
TensorBoard.
"""

import pytest
import torch
from sink_readers import scalars, tensorboard, wandb_rows

import normscope
from normscope.cli import main
from normscope.records.run import load_run

pytestmark = pytest.mark.usefixtures("blank_figures")

QUICK = {
    "epochs": 2,
    "learning_rates": [0.1],
    "norms": ["batch", "none"],
    "blocks_per_stage": 1,
    "widths": [4, 4, 4],
    "fusion": "off",
    "precision": "fp32",
    "device": "cpu",
}


def losses(folder):
    return scalars(folder, "epoch/train_loss")


def recorded(run):
    record = load_run(run)
    return [
        (int(epoch), pytest.approx(loss, rel=1e-6))
        for epoch, loss in zip(record.epochs["epoch"], record.column("train_loss"), strict=True)
    ]


def test_a_study_of_several_processes_and_the_same_one_extended(tmp_path):
    study, logs = tmp_path / "study", tmp_path / "tb"
    normscope.compare(**QUICK, seeds=1, jobs=2, out=study, tensorboard=logs)
    runs = sorted((study / "runs").iterdir())
    assert len(runs) == 2
    for run in runs:
        assert losses(logs / run.name) == recorded(run)
        assert len(tensorboard(logs / run.name).Histograms("activations/normalized")) == 2
    images = tensorboard(logs / "figures").Tags()["images"]
    assert images == ["figures/comparison", "figures/activation_distributions"]

    normscope.compare(**QUICK | {"norms": ["batch"]}, seeds=2, jobs=1, out=study, tensorboard=logs)
    runs = sorted((study / "runs").iterdir())
    assert len(runs) == 3
    for run in runs:
        assert losses(logs / run.name) == recorded(run), "each epoch once"
    assert [image.step for image in tensorboard(logs / "figures").Images("figures/comparison")] == [
        4,
        6,
    ]


def test_a_run_in_the_same_process_has_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = QUICK | {"norms": ["batch"], "seeds": 1, "jobs": 1}
    normscope.compare(**settings, out=tmp_path / "without")
    normscope.compare(**settings, out=tmp_path / "with", tensorboard=tmp_path / "tb", wandb="p")
    (without,), (with_sinks,) = (
        list((tmp_path / name / "runs").iterdir()) for name in ("without", "with")
    )
    weights = [torch.load(run / "weights.pt", weights_only=True) for run in (without, with_sinks)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [row["epoch"] for row in wandb_rows(tmp_path / "with") if "epoch" in row] == [1, 2]


def test_last_weeks_study_is_exported_to_a_dashboard(tmp_path, capsys):
    study = tmp_path / "study"
    normscope.compare(**QUICK | {"norms": ["batch"]}, seeds=1, jobs=1, out=study, watch=True)
    (run,) = (study / "runs").iterdir()
    for _ in range(2):  # the second time there is nothing new
        with pytest.raises(SystemExit) as ended:
            main(["export", str(study), "--to", "tensorboard", "--out", str(tmp_path / "tb")])
        assert ended.value.code == 0
    assert losses(tmp_path / "tb" / run.name) == recorded(run)
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "export",
                str(run / "recording.sqlite"),
                "--to",
                "tensorboard",
                "--out",
                str(tmp_path / "tb"),
            ]
        )
    assert ended.value.code == 0
    steps = (
        normscope.Recording.load(run / "recording.sqlite")
        .query("stem.1", "running_mean")[0]
        .tolist()
    )
    assert [step for step, _ in scalars(tmp_path / "tb" / "recording", "gap/stem.1")] == steps
    (run / "record.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 999)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["export", str(study), "--to", "tensorboard", "--out", str(tmp_path / "tb2")])
    assert ended.value.code == 1
    assert run.name in capsys.readouterr().err


def test_bad_places_are_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(normscope.InputError, match="is a file; expected a folder for TensorBoard"):
        normscope.compare(**QUICK, out=tmp_path / "study", tensorboard=tmp_path / "file")
    with pytest.raises(normscope.InputError, match="is a file; expected a folder for TensorBoard"):
        normscope.study("quick", out=tmp_path / "study", tensorboard=str(tmp_path / "file"))
    assert not (tmp_path / "study").exists()
