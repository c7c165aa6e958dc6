"""Runs of transformers: killed or stopped, they end with the bits of an unbroken run."""

import copy

import pytest
import torch
from killed_runs import kill_and_resume
from run_cases import assert_same_bits, ignore

from normscope.errors import InputError
from normscope.studies.grid import batches_for, build_for, lay_out
from normscope.studies.options import GridOptions
from normscope.studies.runner import RunTask, execute
from normscope.studies.spec import Recipe
from normscope.training.loop import Callback, train

TINY = {"depth": 1, "width": 8, "heads": 2, "qk_norm": True, "warmup": 3, "clip": 1.0}
OPTIONS = {"norms": ("layer",), "learning_rates": (0.01,), "seeds": 1, "epochs": 2,
           "device": "cpu", "precision": "fp32"}  # fmt: skip


def test_a_vision_transformer_that_is_killed_ends_with_the_same_bits(tmp_path):
    recipe = Recipe(model="vit", optimizer="muon", **TINY)
    (spec,) = lay_out(GridOptions(classes=("3", "8", "9"), recipe=recipe, **OPTIONS)).specs
    assert execute(RunTask(spec, tmp_path / "whole"), ignore).status == "finished"
    kill_and_resume(spec, {"in epoch 2": "kill_at_step(2, 2)"}, tmp_path)
    assert_same_bits(tmp_path / "0", tmp_path / "whole")


class _States(Callback):
    def __init__(self):
        self.states = []

    def on_epoch(self, epoch):
        self.states.append(copy.deepcopy(epoch.state))  # it is of tensors that go on


def test_a_decoder_that_goes_on_ends_with_the_same_bits(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 150)
    recipe = Recipe(model="byte-lm", batch_size=8, positions="rotary", **TINY)
    grid = lay_out(GridOptions(data="text", data_dir=text, recipe=recipe, **OPTIONS))
    (spec,) = grid.specs
    whole, again, kept = build_for(grid.dataset, spec), build_for(grid.dataset, spec), _States()
    train(whole, batches_for(grid.dataset, spec), spec, callbacks=[kept])
    train(again, batches_for(grid.dataset, spec), spec, resume=kept.states[0])
    ours, theirs = again.state_dict(), whole.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert not torch.equal(ours["embed.weight"], kept.states[0].model["embed.weight"])


def test_norms_that_take_each_value_by_itself_get_a_factor_on_the_embeddings_of_text(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 150)

    def scales(model="byte-lm", data="text", **recipe):
        options = OPTIONS | {"norms": ("layer", "rms", "dyt", "derf"), "data": data}
        options |= {"data_dir": text} if data == "text" else {}
        recipe = Recipe(model=model, **TINY | recipe)
        return [
            spec.embedding_scale for spec in lay_out(GridOptions(recipe=recipe, **options)).specs
        ]

    assert scales() == [None, None, "unit", "unit"]
    assert scales(embedding_scale="none") == [None] * 4
    assert scales(embedding_scale="root") == ["root"] * 4
    assert scales("vit", "digits") == [None] * 4
    with pytest.raises(InputError, match="has no option 'embedding_scale'"):
        scales("vit", "digits", embedding_scale="unit")
    with pytest.raises(InputError, match="Known: auto, none, unit, root"):
        scales(embedding_scale="twice")


def test_text_has_no_mean_of_pixels(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 150)
    recipe = Recipe(model="byte-lm", pixel_mean=True, **TINY)
    with pytest.raises(InputError, match="Pixels have a mean in images, not in text"):
        lay_out(GridOptions(data="text", data_dir=text, recipe=recipe, **OPTIONS))
