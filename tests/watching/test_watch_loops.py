"""Steps, optimizers, scalers and the other ways in which people's loops differ."""

import copy
import gc
import math
import os
import signal
import textwrap

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from watch_cases import images, seeded, sgd, small_resnet, train

from normscope.commands.watch import watch
from normscope.errors import InputError, NormscopeWarning
from normscope.records.recording import Recording
from normscope.records.recording_parts import MemoryPart
from normscope.watching.attach import EVERY, GRADIENTS_EVERY, HISTOGRAMS_EVERY
from normscope.watching.intervals import Intervals, LogSpacedInterval
from warm_processes import Python, run_python

EVERYTHING = {"every": 1, "histograms_every": 1, "gradients_every": 1}
NAME = "stem.1"


def steps_of(watcher, statistic, layer=NAME):
    return list(watcher.recording.query(layer, statistic)[0])


@pytest.fixture
def model():
    return seeded(small_resnet)


class TestSteps:
    def test_are_optimizer_steps_where_the_optimizer_is_given(self, model):
        optimizer = sgd(model)
        with watch(model, optimizer=optimizer, **EVERYTHING) as watcher:
            train(model, optimizer, 3, accumulate=2)
            assert watcher.step == 3
            for statistic in (
                "batch_mean",
                "weight",
                "histogram",
                "weight_gradient",
                "output_gradient_norm",
            ):
                assert steps_of(watcher, statistic) == [1, 2, 3]
        assert watcher.recording.header.unit == "optimizer step"

    def test_are_forwards_in_train_mode_otherwise(self, model):
        with watch(model, **EVERYTHING) as watcher:
            train(model, sgd(model), 3, accumulate=2)
            model.eval()
            model(images()[0])
            assert watcher.step == 6
            assert steps_of(watcher, "batch_mean") == [1, 2, 3, 4, 5, 6]
            assert steps_of(watcher, "weight_gradient") == [2, 4, 6], (
                "gradients are there once per optimizer step"
            )
            assert steps_of(watcher, "output_gradient_norm") == [1, 2, 3, 4, 5, 6]

    def test_with_accumulation_show_the_first_forward(self, model):
        optimizer = sgd(model)
        alone = copy.deepcopy(model)
        with (
            watch(model, optimizer=optimizer, **EVERYTHING) as watcher,
            watch(alone, every=1) as other,
        ):
            alone(images(0)[0])
            train(model, optimizer, 1, accumulate=3)
            one, two = watcher.recording, other.recording
        assert np.array_equal(
            one.query(NAME, "batch_mean")[1][0], two.query(NAME, "batch_mean")[1][0]
        )
        assert one.query(NAME, "num_batches_tracked")[1][0] == 3

    def test_leave_validation_out(self, model):
        optimizer = sgd(model)

        def validate(step):
            model.eval()
            with torch.no_grad():
                model(images(99)[0] * 1000)
            model(images(99)[0] * 1000)  # with gradients, as some do
            model.train()

        with watch(model, optimizer=optimizer, **EVERYTHING) as watcher:
            train(model, optimizer, 3, after=validate)
            _, mean = watcher.recording.query(NAME, "batch_mean")
            assert watcher.recording.query(NAME, "training")[1].all()
        assert np.abs(mean).max() < 10

    def test_in_eval_mode_are_recorded_if_that_is_how_the_model_trains(self, model):
        model.eval()
        optimizer = sgd(model)
        with watch(model, optimizer=optimizer, **EVERYTHING) as watcher:
            train(model, optimizer, 2)
            assert not watcher.recording.query(NAME, "training")[1].any()
            assert steps_of(watcher, "batch_mean") == [1, 2]

    def test_of_an_optimizer_with_a_closure(self, model):
        optimizer = sgd(model)
        before = []

        def closure():
            optimizer.zero_grad()
            before.append(model.get_submodule(NAME).weight.detach().clone())
            x, y = images(len(before))
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        with watch(model, optimizer=optimizer, **EVERYTHING) as watcher:
            for _ in range(3):
                optimizer.step(closure)
            recording = watcher.recording
        assert list(recording.query(NAME, "batch_mean")[0]) == [1, 2, 3]
        for step in range(3):
            assert np.array_equal(recording.query(NAME, "weight")[1][step], before[step].numpy())
        assert list(recording.query(NAME, "weight_gradient")[0]) == [1, 2, 3]

    @pytest.mark.parametrize("given", [True, False])
    def test_of_a_loop_that_calls_parts_of_the_model(self, model, given):
        class Lightning(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = model

        module = Lightning()
        optimizer = sgd(module)
        with watch(module, optimizer=optimizer if given else None, **EVERYTHING) as watcher:
            train(module.net, optimizer, 2, accumulate=2)
            assert watcher.step == 2
            assert steps_of(watcher, "batch_mean", f"net.{NAME}") == [1, 2]
            assert f"net.{NAME}#2" not in watcher.recording.layers

    def test_are_nobodys_in_a_pure_evaluation(self, model, capsys):
        with watch(model.eval(), **EVERYTHING) as watcher, torch.no_grad():
            model(images()[0])
        assert watcher.step == 0
        assert "not one step of the model was seen" in capsys.readouterr().err


class TestIntervals:
    def test_numbers(self, model):
        with watch(model, every=2, histograms_every=3, gradients_every=None) as watcher:
            train(model, sgd(model), 5)
            assert steps_of(watcher, "weight") == [1, 3, 5]
            assert steps_of(watcher, "histogram") == [1, 4]
            assert "weight_gradient" not in watcher.recording.statistics(NAME)

    def test_functions(self, model):
        with watch(
            model, every=lambda step: step in (2, 5), histograms_every=lambda step: False
        ) as watcher:
            train(model, sgd(model), 5)
            assert steps_of(watcher, "weight") == [2, 5]

    def test_gradually(self):
        due = [step for step in range(1, 2000) if LogSpacedInterval(100, first=4)(step)]
        assert due[:8] == [1, 2, 3, 4, 5, 6, 7, 9]
        assert set(np.diff(due[-5:])) == {100}
        per_doubling = [len([s for s in due if 2**k <= s < 2 ** (k + 1)]) for k in range(3, 7)]
        assert per_doubling == [4, 4, 4, 4]

    def test_by_default_a_short_run_has_few_dear_records(self):
        dear = [step for step in range(1, 61) if HISTOGRAMS_EVERY(step)]
        assert dear == [1, 3, 5, 9, 17, 33]
        assert dear == [step for step in range(1, 61) if GRADIENTS_EVERY(step)]
        moments = [step for step in range(1, 61) if EVERY(step)]
        assert len(moments) == 30
        assert set(dear) < set(moments)
        assert moments[:15] == list(range(1, 16))

    @pytest.mark.parametrize("interval", [0, -1, 2.5, "often", True])
    def test_that_are_none_are_refused(self, model, interval):
        with pytest.raises(InputError, match="every="):
            watch(model, every=interval)

    def test_that_fail_are_refused(self, model):
        with pytest.raises(InputError, match="fails at step 1: ZeroDivisionError"):
            watch(model, histograms_every=lambda step: 1 // 0)

    def test_describe_themselves(self):
        words = Intervals(3, None, LogSpacedInterval(100, 4)).described()
        assert words == {
            "moments": "every 3 steps",
            "gradients": "never",
            "histograms": "Gradually(interval=100, first=4)",
        }


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("with_optimizer", [False, True])
def test_gradients_under_a_scaler_are_those_of_the_loss(model, fused, with_optimizer):
    plain, scaled = model, copy.deepcopy(model)
    recordings = []
    for net, scaler in ((plain, None), (scaled, torch.amp.GradScaler("cpu", init_scale=1024.0))):
        optimizer = sgd(net, fused=fused)
        with watch(net, optimizer=optimizer if with_optimizer else None, **EVERYTHING) as watcher:
            train(net, optimizer, 2, scaler=scaler)
        recordings.append(watcher.recording)
    for statistic in (
        "weight_gradient",
        "bias_gradient",
        "output_gradient_norm",
        "input_gradient_norm",
    ):
        one, two = (recording.query(NAME, statistic)[1] for recording in recordings)
        assert np.allclose(one, two, rtol=1e-3, atol=1e-6), statistic


class TestLife:
    def test_closing_twice_does_nothing(self, model, capsys):
        watcher = watch(model)
        watcher.close()
        watcher.close()
        assert capsys.readouterr().err.count("normscope:") == 1
        with pytest.raises(InputError, match="closed"):
            watcher.mark(epoch=1)
        with pytest.raises(InputError, match="closed"):
            watcher.__enter__()

    def test_says_what_it_cost(self, model, capsys):
        with watch(model):
            train(model, sgd(model), 2)
        assert "9 layers, 2 steps; watching took" in capsys.readouterr().err

    def test_ends_with_the_model(self, tmp_path):
        model = copy.deepcopy(
            seeded(small_resnet)
        )  # a copy, of which the tests' own fixture keeps nothing
        watch(model, path=tmp_path / "r.sqlite")
        train(model, sgd(model), 2)
        del model
        gc.collect()
        recording = Recording.load(tmp_path / "r.sqlite")
        assert recording.complete
        assert list(recording.query(NAME, "batch_mean")[0]) == [1, 2]

    def test_ends_with_the_program(self, tmp_path):
        script = f"""
            import torch
            from torch import nn
            from normscope.commands.watch import watch
            model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
            watch(model, path={str(tmp_path / "r.sqlite")!r})
            for _ in range(3):
                model(torch.randn(5, 4)).sum().backward()
            """
        done = run_python("-c", textwrap.dedent(script))
        assert "1 layer, 3 steps" in done.stderr
        assert list(Recording.load(tmp_path / "r.sqlite").query("1", "batch_mean")[0]) == [1, 2, 3]

    def test_marks(self, model, tmp_path):
        optimizer = sgd(model)
        with watch(model, optimizer=optimizer, path=tmp_path / "r.sqlite") as watcher:
            for epoch in (1, 2):
                watcher.mark(epoch=epoch, phase="warm up")
                train(model, optimizer, 3)
            with pytest.raises(InputError, match="numbers and strings, not what=object"):
                watcher.mark(what=object())
        recording = Recording.load(tmp_path / "r.sqlite")
        assert recording.epochs == {1: 0, 2: 3}
        assert recording.marks[1] == {"step": 3, "epoch": 2, "phase": "warm up"}

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
    def test_forked_workers_leave_it_alone(self, model, tmp_path):
        path = tmp_path / "r.sqlite"
        with watch(model, path=path, **EVERYTHING) as watcher:
            model(images()[0])
            watcher.flush()
            before = path.read_bytes()
            child = os.fork()
            if child == 0:
                model(images(1)[0])
                watcher.flush()
                watcher.close()
                os._exit(0 if not watcher.active else 1)
            assert os.waitpid(child, 0)[1] == 0
            assert path.read_bytes() == before
            model(images(2)[0])
        assert list(Recording.load(path).query(NAME, "batch_mean")[0]) == [1, 2]

    def test_a_data_loader_with_workers(self, model, tmp_path):
        x, y = images(n=16)
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(x, y),
            batch_size=4,
            num_workers=1,
            multiprocessing_context="fork",
        )
        with watch(model, path=tmp_path / "r.sqlite", every=1):
            for batch, _ in loader:
                model(batch).sum().backward()
        assert len(Recording.load(tmp_path / "r.sqlite").query(NAME, "weight")[0]) == 4


class TestResuming:
    @pytest.mark.parametrize(
        "intervals", [EVERYTHING, {"every": 1, "histograms_every": 2, "gradients_every": 3}]
    )
    @pytest.mark.parametrize("with_optimizer", [True, False])
    def test_goes_on_as_if_nothing_had_happened(self, tmp_path, with_optimizer, intervals):
        recordings = []
        for name, stops in (("whole", False), ("resumed", True)):
            model = seeded(small_resnet)
            optimizer = sgd(model)
            settings = {
                "path": tmp_path / name,
                "optimizer": optimizer if with_optimizer else None,
                **intervals,
            }
            watcher = watch(model, **settings)
            x, y = images(n=64)  # enough for histograms of a sample that rotates

            def steps(number, model=model, optimizer=optimizer, x=x, y=y):
                for _ in range(number):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()

            watcher.mark(epoch=1)
            steps(4)
            watcher.flush()
            if stops:
                state, momenta = (
                    copy.deepcopy(model.state_dict()),
                    copy.deepcopy(optimizer.state_dict()),
                )
                steps(3)  # of which the checkpoint knows nothing
                watcher.mark(epoch=9)
                watcher.close()
                model.load_state_dict(state)
                optimizer.load_state_dict(momenta)
                watcher = watch(model, after=4, **settings)
            watcher.mark(epoch=2)
            steps(3)
            watcher.close()
            recordings.append(Recording.load(tmp_path / name))
        one, two = recordings
        assert one.epochs == two.epochs == {1: 0, 2: 4}
        assert two.cost.steps == 7
        for layer in one.layers:
            for statistic in one.statistics(layer):
                for a, b in zip(
                    one.query(layer, statistic), two.query(layer, statistic), strict=True
                ):
                    assert np.array_equal(a, b), statistic

    def test_of_a_version_with_a_denser_start(self, model, tmp_path):
        path = tmp_path / "r.sqlite"
        older = {
            "every": LogSpacedInterval(25, first=16),
            "gradients_every": LogSpacedInterval(100, first=4),
            "histograms_every": LogSpacedInterval(250, first=4),
        }
        with watch(model, path=path, **older):
            train(model, sgd(model), 2)
        with watch(model, after=2, path=path) as watcher:
            train(model, sgd(model), 1)
            assert steps_of(watcher, "weight") == [1, 2, 3]

    def test_of_other_layers_is_refused(self, model, tmp_path):
        watch(model, path=tmp_path / "r.sqlite").close()
        with pytest.raises(
            InputError, match="is the recording of other layers or at other intervals"
        ):
            watch(model, after=0, path=tmp_path / "r.sqlite", layers=nn.Linear)
        with pytest.raises(InputError, match="ends at step 0; it cannot go on after step 2"):
            watch(model, after=2, path=tmp_path / "r.sqlite")
        with pytest.raises(InputError, match="There is no recording at"):
            watch(model, after=2, path=tmp_path / "s.sqlite")
        with pytest.raises(InputError, match="give its path="):
            watch(model, after=2)


class TestStorage:
    def test_a_file_that_cannot_be_written_ends_the_recording_and_not_the_training(
        self, model, tmp_path
    ):
        folder = tmp_path / "gone"
        folder.mkdir()
        optimizer = sgd(model)
        watcher = watch(model, optimizer=optimizer, path=folder / "r.sqlite", **EVERYTHING)
        (folder / "r.sqlite").unlink()
        folder.rmdir()
        train(model, optimizer, 1)
        with pytest.warns(
            NormscopeWarning, match="stopped at step 2; the training goes on. StorageError"
        ):
            watcher.close()
        assert len(train(model, optimizer, 2)) == 2
        assert not any(m._forward_hooks for m in model.modules())

    def test_a_full_block_is_written_on_the_way(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr("normscope.watching.row_buffers.BLOCK_ROWS", 4)
        path = tmp_path / "r.sqlite"
        with watch(model, path=path, **EVERYTHING):
            train(model, sgd(model), 6)
            recording = Recording.load(path)
            assert not recording.complete
            assert list(recording.query(NAME, "batch_mean")[0]) == [1, 2, 3, 4]
            assert recording.cost.steps == 4
        assert list(Recording.load(path).query(NAME, "batch_mean")[0]) == [1, 2, 3, 4, 5, 6]

    def test_what_is_there_is_written_every_half_minute(self, model, tmp_path, monkeypatch):
        monkeypatch.setattr("normscope.watching.recorder.FLUSH_SECONDS", 0.0)
        path = tmp_path / "r.sqlite"
        with watch(model, path=path, every=1):
            model(images()[0])
            assert list(Recording.load(path).query(NAME, "batch_mean")[0]) == [1]

    def test_memory_is_bounded_and_the_record_says_so(self, model, monkeypatch):
        monkeypatch.setattr("normscope.watching.row_buffers.BLOCK_ROWS", 4)
        parts = []

        def small(header):
            parts.append(MemoryPart(header, limit=60_000))
            return parts[0]

        monkeypatch.setattr("normscope.watching.attach.MemoryPart", small)
        with watch(model, **EVERYTHING) as watcher:
            train(model, sgd(model), 40)
            recording = watcher.recording
            assert parts[0].nbytes <= 60_000
        steps = recording.query(NAME, "batch_mean")[0]
        assert len(steps) < 40
        assert np.diff(steps)[0] >= np.diff(steps)[-1], "old steps are further apart"
        assert any("dropped" in note for note in recording.notes)
        assert recording.distribution(NAME).counts.sum() > 0

    def test_an_existing_file_is_refused(self, model, tmp_path):
        (tmp_path / "r.sqlite").write_text("mine")
        with pytest.raises(InputError, match="exists already"):
            watch(model, path=tmp_path / "r.sqlite")
        assert (tmp_path / "r.sqlite").read_text() == "mine"

    def test_a_file_that_a_killed_run_left_empty_is_replaced(self, model, tmp_path):
        path = tmp_path / "r.sqlite"
        code = f"""if True:
            import os, signal
            from torch import nn
            import normscope
            model = nn.Sequential(nn.BatchNorm1d(4))
            watcher = normscope.watch(model, path={str(path)!r})
            os.kill(os.getpid(), signal.SIGKILL)
            """
        killed = run_python("-c", code)
        assert killed.returncode == -signal.SIGKILL
        assert Recording.load(path).cost.steps == 0
        with pytest.warns(NormscopeWarning, match=r"r\.sqlite was left by .* it is replaced"):
            watcher = watch(model, path=path, every=1)
        model(images()[0])
        watcher.close()
        assert list(Recording.load(path).query(NAME, "batch_mean")[0]) == [1]
        with pytest.raises(InputError, match="exists already"):
            watch(model, path=path)

    def test_a_file_that_somebody_writes_is_not_replaced(self, model, tmp_path):
        path = tmp_path / "r.sqlite"
        with watch(model, path=path), pytest.raises(InputError, match="exists already"):
            watch(seeded(small_resnet), path=path)
        living = tmp_path / "living.sqlite"
        code = f"""if True:
            import sys
            from torch import nn
            import normscope
            model = nn.Sequential(nn.BatchNorm1d(4))
            watcher = normscope.watch(model, path={str(living)!r})
            print("ready", flush=True)
            sys.stdin.read()
            """
        with Python("-c", code) as process:
            assert process.stdout.readline() == "ready\n"
            with pytest.raises(InputError, match="exists already"):
                watch(model, path=living)
            process.communicate()

    def test_a_missing_folder_is_named(self, model, tmp_path):
        with pytest.raises(InputError, match="folder of .* does not exist"):
            watch(model, path=tmp_path / "no" / "r.sqlite")

    def test_thirty_epochs_stay_under_twenty_megabytes(self, tmp_path):
        """Rows of a full SmallResNet at the default intervals, written for 11,730 steps that are
        not trained.
        """
        from normscope.models.resnet import SmallResNet

        model = seeded(SmallResNet)
        path = tmp_path / "r.sqlite"
        watcher = watch(model, path=path)
        session = watcher._session
        x, y = images(n=2, size=8)
        for step in range(1, 11_731):
            if any(session._recorder.planned.due(step)):
                F.cross_entropy(model(x), y).backward()
            else:
                session.steps += 1
        watcher.close()
        assert Recording.load(path).cost.steps == 11_730
        assert path.stat().st_size < 20e6


class TestWhatIsGiven:
    def test_a_name_that_is_not_there(self, model):
        with pytest.raises(
            InputError, match=r"No module matches 'layer1.0.bn3'. Near: layer1.0.bn\d"
        ):
            watch(model, layers="layer1.0.bn3")
        with pytest.raises(
            InputError, match=r"No module matches '\*zzz'. Normalization layers: stem.1"
        ):
            watch(model, layers="*zzz")
        with pytest.raises(InputError, match="no module of type Bilinear"):
            watch(model, layers=["stem.1", nn.Bilinear])
        with pytest.raises(InputError, match="names, globs and types, not int"):
            watch(model, layers=[3])
        with pytest.raises(InputError, match="layers= is empty"):
            watch(model, layers=[])

    def test_names_globs_and_types(self, model):
        with watch(model, layers=["stem.1", "layer3.*.bn1", nn.Linear]) as watcher:
            assert list(watcher.recording.layers) == ["stem.1", "layer3.0.bn1", "fc"]

    def test_a_model_without_normalization(self):
        with pytest.raises(InputError, match="Sequential has no normalization layer"):
            watch(nn.Sequential(nn.Linear(2, 2)))

    def test_a_model_with_a_normalization_of_its_own(self):
        class Scale(nn.Module):
            pass

        with pytest.raises(InputError, match="or make a class known with"):
            watch(nn.Sequential(Scale()))

    def test_no_model(self):
        with pytest.raises(InputError, match="must be of type Module, not int"):
            watch(3)

    def test_no_optimizer(self, model):
        with pytest.raises(InputError, match="several in a list, not a str"):
            watch(model, optimizer="adam")

    def test_a_lazy_layer(self):
        model = nn.Sequential(nn.LazyBatchNorm1d())
        with pytest.raises(InputError, match="lazy layer that has not seen a batch"):
            watch(model)
        model(torch.randn(3, 4))
        watch(model).close()

    def test_batch_norm_without_a_bias(self):
        try:
            norm = nn.BatchNorm1d(3, bias=False)
        except TypeError:
            pytest.skip("this torch has no bias= in batch norm")
        with watch(norm, **EVERYTHING) as watcher:
            norm(torch.randn(8, 3)).sum().backward()
            assert "bias" not in watcher.recording.statistics("BatchNorm1d")
            assert watcher.recording.distribution("BatchNorm1d").counts.sum() == pytest.approx(24)

    def test_a_parametrized_weight(self, model):
        norm = model.get_submodule(NAME)
        torch.nn.utils.parametrize.register_parametrization(norm, "weight", nn.Softplus())
        with watch(model, layers=NAME, **EVERYTHING) as watcher:
            train(model, sgd(model), 2)
            assert watcher.active
            assert watcher.recording.query(NAME, "weight")[1][0] == pytest.approx(
                math.log(2) + 0.62, abs=0.2
            )

    def test_a_layer_whose_parameters_go_away(self, model):
        norm = model.get_submodule(NAME)
        with watch(model, **EVERYTHING) as watcher:
            train(model, sgd(model), 1)
            norm.weight = norm.bias = None
            train(model, sgd(model), 1)
            assert steps_of(watcher, "weight") == [1]
            assert steps_of(watcher, "batch_mean") == [1, 2]
