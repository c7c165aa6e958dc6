"""What is measured of transformers, against slow computations and written-out cases."""

import numpy as np
import pytest
import torch
from torch import nn

from normscope.models.transformer import ByteDecoder, patches
from normscope.records.run_description import TRANSFORMERS
from normscope.studies.directory import RunDirectory
from normscope.studies.grid import lay_out
from normscope.studies.measurements import transformer_measurements as measured
from normscope.studies.measurements.run_context import RunContext
from normscope.studies.runner import RunTask, execute
from normscope.studies.study_measurements import MEASUREMENTS
from normscope.studies.study_plans import GridPlan

SMALL = {"data": "digits", "classes": ("3", "8"), "model": "vit", "seeds": 1, "epochs": 1,
         "learning_rates": (0.003,), "norms": ("layer",), "width": 8, "heads": 2, "depth": 2,
         "batch_size": 64, "device": "cpu", "precision": "fp32"}  # fmt: skip


def context(path, **settings):
    grid = lay_out(GridPlan(SMALL | settings).options({}))
    return RunContext(grid.specs[0], grid.dataset, RunDirectory(path))


def test_signals_are_those_of_a_slow_computation(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "DEPTHS", (1, 2))
    of = context(tmp_path, placement="peri")
    found = measured.depth_signals(of)
    images, labels = next(iter(of.batches(measured.SAMPLES).train(of.spec.seed, 1)))
    model = of.fresh()
    x = model.embed(patches(images, model.patch_size)) + model.positions.weight
    streams, branches = [], []
    for block in model.blocks:
        x = x + block.norm1_out(block.attention(block.norm1(x)))
        branch = block.norm2_out(block.feed_forward(block.norm2(x)))
        x = x + branch
        streams.append(np.var(x.detach().double().numpy(), axis=-1).mean())
        branches.append(np.var(branch.detach().double().numpy(), axis=-1).mean())
    logits = model.head(model.norm(x).mean(1))
    nn.functional.cross_entropy(logits, labels).backward()
    np.testing.assert_allclose(found["stream"], streams, rtol=1e-5)
    np.testing.assert_allclose(found["branch"], branches, rtol=1e-5)
    gradient = model.blocks[1].feed_forward.down.weight.grad.norm()
    assert found["gradient"][1] == pytest.approx(float(gradient), rel=1e-4)
    assert found["depth"].tolist() == [1, 2]


def test_gains_stand_still_where_steps_are_rounded_away():
    tokens = torch.randint(0, 256, (4, 17))
    samples = tokens[:, :-1], tokens[:, 1:]

    def moved(norm, dtype):
        model = ByteDecoder(norm, context=16, depth=1, width=8, heads=2).to(dtype)
        return measured.moved_gains(model, samples)

    assert moved("layer", torch.bfloat16) == 0
    assert moved("layer", torch.float32) == 1
    assert moved("rms-1p", torch.bfloat16) > 0.9, "a gain of 1 + w has w near zero"
    assert moved("none", torch.float32) is None


def test_random_directions_have_an_alignment_of_one_and_ones_the_width():
    torch.manual_seed(0)
    assert measured.alignment_with_ones(torch.randn(5000, 16)) == pytest.approx(1, abs=0.1)
    assert measured.alignment_with_ones(torch.ones(3, 16)) == pytest.approx(16)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_the_trained_network_is_read_without_blocks_and_without_eval(norm, tmp_path):
    of = context(tmp_path, norms=(norm,))
    assert execute(RunTask(of.spec, tmp_path), lambda _: None).status == "finished"
    found = measured.hidden_states(of)
    assert all(values.shape == (2,) for name, values in found.items() if name[:4] != "loss")
    assert found["loss_without"].shape == (2,)
    assert (found["loss_without"] != found["loss"]).all()
    same = np.allclose(found["loss"], found["loss_of_batches"], rtol=1e-6)
    assert same == (norm == "layer")


def test_measurements_of_convolutions_are_left_out_for_transformers_and_the_other_way():
    for settings in ({}, {"model": "byte-lm", "data": "text", "classes": ()}):
        spec = lay_out(GridPlan(SMALL | settings).options({})).specs[0]
        assert spec.model in TRANSFORMERS
        applying = {name for name, row in MEASUREMENTS.items() if row.applies(spec)}
        assert applying == {"depth-signals", "hidden-states"}


def test_what_a_default_stands_for_is_the_default():
    spelled = {"placement": "pre", "heads": 4, "pooling": "mean"}
    plain = {"heads": 4} | dict.fromkeys(("placement", "pooling"))
    one, other = (
        lay_out(GridPlan(SMALL | chosen).options({})).specs[0] for chosen in (spelled, plain)
    )
    assert one.id == other.id
