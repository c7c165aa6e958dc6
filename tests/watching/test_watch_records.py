"""What a recording holds, against slow computations in float64."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from watch_cases import Checkpointed, Reusing, images, seeded, sgd, small_resnet, train

from normscope.commands.watch import watch
from normscope.errors import NormscopeWarning
from normscope.records.recording_header import BIN_LIMIT, BINS
from normscope.user_models.norm_layers import register_normalization
from normscope.watching.tensor_statistics import sample_images

EVERYTHING = {"every": 1, "histograms_every": 1, "gradients_every": 1}


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(0)


def taps(model, name):
    """Keeps the float64 inputs and outputs of a layer, and the gradients there, in lists."""
    kept: dict[str, list] = {"input": [], "output": [], "input_gradient": [], "output_gradient": []}

    def hook(module, args, output):
        kept["input"].append(args[0].detach().double().clone())
        kept["output"].append(output.detach().double().clone())
        if output.requires_grad:
            output.register_hook(
                lambda g: kept["output_gradient"].append(g.detach().double().clone())
            )
        if args[0].requires_grad:
            args[0].register_hook(
                lambda g: kept["input_gradient"].append(g.detach().double().clone())
            )

    return kept, model.get_submodule(name).register_forward_hook(hook)


def moments(x: Tensor):
    dims = [d for d in range(x.dim()) if d != 1]
    return x.mean(dims).numpy(), x.var(dims, correction=0).numpy()


def assert_moments(recorded_mean, recorded_var, x, eps):
    mean, var = moments(x)
    assert np.all(
        np.abs(recorded_mean - mean)
        <= 1e-5 * np.sqrt(var) + 4 * np.spacing(np.abs(mean), dtype=np.float32)
    )
    assert np.all(np.abs(recorded_var - var) <= 1e-5 * (var + eps))


BATCH_NORMS = {
    "1d": (lambda: nn.BatchNorm1d(5), (24, 5)),
    "1d sequence": (lambda: nn.BatchNorm1d(5), (6, 5, 7)),
    "2d": (lambda: nn.BatchNorm2d(5), (6, 5, 4, 3)),
    "3d": (lambda: nn.BatchNorm3d(5), (4, 5, 3, 2, 4)),
    "without affine": (lambda: nn.BatchNorm2d(5, affine=False), (6, 5, 4, 3)),
    "without running statistics": (
        lambda: nn.BatchNorm2d(5, track_running_stats=False),
        (6, 5, 4, 3),
    ),
    "cumulative": (lambda: nn.BatchNorm2d(5, momentum=None), (6, 5, 4, 3)),
    "large eps": (lambda: nn.BatchNorm2d(5, eps=10.0), (6, 5, 4, 3)),
}


@pytest.mark.parametrize("kind", BATCH_NORMS)
def test_moments_are_those_of_the_batch(kind):
    build, shape = BATCH_NORMS[kind]
    norm = build()
    with watch(norm, **EVERYTHING) as watcher:
        for step in range(3):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(step)) * 3 + 2
            norm(x.requires_grad_()).sum().backward()
            recording = watcher.recording
            (name,) = recording.layers
            steps, mean = recording.query(name, "batch_mean")
            _, var = recording.query(name, "batch_var")
            assert list(steps) == list(range(1, step + 2))
            assert_moments(mean[-1], var[-1], x.detach().double(), norm.eps)
        assert ("running_mean" in recording.statistics(name)) == norm.track_running_stats
        assert ("weight" in recording.statistics(name)) == norm.affine


@pytest.mark.parametrize("autocast", [False, True])
def test_a_training_run(autocast):
    model = seeded(small_resnet)
    optimizer = sgd(model)
    norm = model.get_submodule("stem.1")
    kept, handle = taps(model, "stem.1")
    before, after, gradients = [], [], []

    def keep(*_):
        before.append({name: value.detach().clone() for name, value in norm.state_dict().items()})
        gradients.append((norm.weight.grad.clone(), norm.bias.grad.clone()))

    optimizer.register_step_pre_hook(keep)
    with watch(model, optimizer=optimizer, **EVERYTHING) as watcher:
        train(
            model,
            optimizer,
            4,
            autocast=autocast,
            after=lambda _: after.append(norm.weight.detach().clone()),
        )
        recording = watcher.recording
    handle.remove()

    def values(statistic):
        steps, found = recording.query("stem.1", statistic)
        assert list(steps) == [1, 2, 3, 4]
        return found

    for step in range(4):
        assert_moments(
            values("batch_mean")[step], values("batch_var")[step], kept["input"][step], norm.eps
        )
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            assert np.array_equal(values(name)[step], before[step][name].numpy()), (
                f"{name} as the step's forward used it"
            )
        assert not np.array_equal(values("weight")[step], after[step].numpy())
        assert np.array_equal(values("weight_gradient")[step], gradients[step][0].numpy())
        assert np.array_equal(values("bias_gradient")[step], gradients[step][1].numpy())
        for side in ("input", "output"):
            norm_of = kept[f"{side}_gradient"][step].norm().item()
            assert values(f"{side}_gradient_norm")[step] == pytest.approx(
                norm_of, rel=2e-3 if autocast else 1e-5
            )
    assert set(values("values_per_channel")) == {8 * 64}
    assert all(values("training"))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(40, 3, 8, 8), (3, 3, 2, 2)])
def test_histograms_hold_exactly_the_sampled_images(memory_format, shape):
    norm = nn.BatchNorm2d(3)
    nn.init.uniform_(norm.weight, -2, 2)
    nn.init.uniform_(norm.bias)
    x = (torch.randn(shape) * 2 + 5).contiguous(memory_format=memory_format)
    x[0, 0, 0, 0] = 100.0  # goes over
    with watch(norm, **EVERYTHING) as watcher:
        for _ in range(2):
            norm(x.requires_grad_())
        recording = watcher.recording
    (name,) = recording.layers
    _, counts = recording.query(name, "histogram")
    _, frames = recording.query(name, "histogram_frame")
    stride = max(1, min(16, shape[0], math.prod(shape) // 3 // 1024))
    for step in (0, 1):
        first = (step + 1) * 0x9E3779B1 >> 16
        sample = x.detach()[first % stride :: stride].double().transpose(0, 1).flatten(1).numpy()
        mean, std, weight, bias, low, high = frames[step].astype(np.float64)
        moments = recording.query(name, "histogram_moments")[1][step]
        centred = sample - sample.mean(1, keepdims=True)
        scaled = centred / sample.std(1, keepdims=True)
        shape = [sample.mean(1), sample.std(1), (scaled**3).mean(1), (scaled**4).mean(1)]
        assert np.allclose(moments, shape, rtol=1e-4, atol=1e-4)
        assert np.allclose(low, sample.min(1))
        assert np.allclose(high, sample.max(1))
        assert np.array_equal(weight, norm.weight.detach().numpy())
        assert np.array_equal(bias, norm.bias.detach().numpy())
        edges = np.concatenate([[-np.inf], np.linspace(-BIN_LIMIT, BIN_LIMIT, BINS + 1), [np.inf]])
        for channel in range(3):
            normalized = (sample[channel] - mean[channel]) / std[channel]
            expected, _ = np.histogram(normalized, edges)
            assert counts[step, channel].sum() == len(normalized)
            # float32 may put a value that lies on an edge on its other side
            assert np.abs(counts[step, channel].astype(int) - expected).sum() <= 2


@pytest.mark.parametrize("every", [1, 16, 25, 250])
def test_every_image_comes_into_the_sample(every):
    batch = torch.arange(16).reshape(16, 1)
    steps = range(1, 160 * every, every)
    firsts = [int(sample_images(batch, 16 * 1024, step)[0]) for step in steps]
    assert all(4 <= count <= 20 for count in np.bincount(firsts, minlength=16))


def test_input_and_output_distributions_follow_from_one_histogram():
    norm = nn.BatchNorm2d(2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -3.0]))
        norm.bias.copy_(torch.tensor([1.0, 7.0]))
    kept, handle = taps(nn.Sequential(norm), "0")
    with watch(norm, **EVERYTHING) as watcher:
        for step in range(4):
            norm(
                torch.randn(32, 2, 8, 8).abs() * (step + 1) + 10 * step
            )  # another mean in every batch
        recording = watcher.recording
    handle.remove()
    for side in ("input", "output"):
        found = recording.distribution("BatchNorm2d", side, bins=40)
        everything = torch.cat(kept[side]).transpose(0, 1).flatten(1).numpy()
        assert list(found.steps) == [1, 2, 3, 4]
        for channel in range(2):
            centres = (found.edges[channel, 1:] + found.edges[channel, :-1]) / 2
            share = found.counts[channel] / found.counts[channel].sum()
            assert (share * centres).sum() == pytest.approx(
                everything[channel].mean(), rel=0.02, abs=0.1
            )
            spread = np.sqrt((share * (centres - (share * centres).sum()) ** 2).sum())
            assert spread == pytest.approx(everything[channel].std(), rel=0.06)


class TestPerSampleStatistics:
    def record(self, norm, x, steps=2):
        with watch(norm, **EVERYTHING) as watcher:
            for _ in range(steps):
                norm(x.clone().requires_grad_()).sum().backward()
            return watcher.recording, next(iter(watcher.recording.layers))

    def distribution_of(self, statistic):
        return np.stack([f(statistic, axis=0) for f in (np.mean, np.std, np.min, np.max)])

    def test_group_norm(self):
        norm, x = nn.GroupNorm(2, 6), torch.randn(10, 6, 5, 5) * 2 + 1
        recording, name = self.record(norm, x)
        grouped = x.double().reshape(10, 2, -1)
        means, stds = (
            grouped.mean(-1).numpy(),
            (grouped.var(-1, correction=0) + norm.eps).sqrt().numpy(),
        )
        assert np.allclose(
            recording.query(name, "sample_mean")[1][0],
            self.distribution_of(means),
            rtol=1e-4,
            atol=1e-6,
        )
        assert np.allclose(
            recording.query(name, "sample_std")[1][0],
            self.distribution_of(stds),
            rtol=1e-3,
            atol=1e-5,
        )
        assert_moments(
            recording.query(name, "batch_mean")[1][0],
            recording.query(name, "batch_var")[1][0],
            x.double(),
            norm.eps,
        )

    def test_layer_norm(self):
        norm, x = nn.LayerNorm(12), torch.randn(4, 7, 12) * 2 + 1
        recording, name = self.record(norm, x)
        means = x.double().mean(-1).reshape(-1, 1).numpy()
        assert np.allclose(
            recording.query(name, "sample_mean")[1][1],
            self.distribution_of(means),
            rtol=1e-4,
            atol=1e-6,
        )
        features = x.double().reshape(-1, 12)
        assert np.allclose(recording.query(name, "batch_mean")[1][0], features.mean(0), atol=1e-6)
        assert recording.layers[name].channels == 12

    def test_rms_norm(self):
        norm, x = nn.RMSNorm(12, eps=1e-3), torch.randn(4, 7, 12) * 2 + 1
        recording, name = self.record(norm, x, steps=1)
        rms = (x.double().square().mean(-1) + 1e-3).sqrt().reshape(-1, 1).numpy()
        assert np.allclose(
            recording.query(name, "sample_std")[1][0], self.distribution_of(rms), rtol=1e-4
        )
        assert "sample_mean" not in recording.statistics(name)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_rms_norm_of_16_bits_without_an_eps(self, dtype):
        """torch computes it in float32, with that type's epsilon, which is next to nothing."""
        norm, x = nn.RMSNorm(12).to(dtype), (0.05 * torch.randn(4, 7, 12)).to(dtype)
        recording, name = self.record(norm, x, steps=1)
        rms = x.double().square().mean(-1).sqrt().reshape(-1, 1).numpy()
        assert np.allclose(
            recording.query(name, "sample_std")[1][0], self.distribution_of(rms), rtol=0.02
        )

    def test_instance_norm(self):
        norm, x = nn.InstanceNorm2d(3, affine=True), torch.randn(5, 3, 6, 6) * 2 + 1
        recording, name = self.record(norm, x)
        means = x.double().mean((2, 3)).numpy()
        assert np.allclose(
            recording.query(name, "sample_mean")[1][0],
            self.distribution_of(means),
            rtol=1e-4,
            atol=1e-6,
        )
        assert "weight" in recording.statistics(name)

    @pytest.mark.parametrize(
        ("norm", "shape"),
        [
            (nn.GroupNorm(2, 6), (10, 6, 5, 5)),
            (nn.LayerNorm(12), (4, 7, 12)),
            (nn.LayerNorm([3, 4]), (6, 3, 4)),
            (nn.RMSNorm(12), (4, 7, 12)),
            (nn.InstanceNorm2d(3), (5, 3, 6, 6)),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
    )
    def test_output_distribution_is_that_of_the_output(self, norm, shape):
        x = torch.randn(shape) * 2 + 1
        recording, name = self.record(norm, x, steps=1)
        output = norm(x).detach()
        found = recording.distribution(name, "output", bins=400)
        mean = (
            found.counts * (found.edges[:, 1:] + found.edges[:, :-1]) / 2
        ).sum() / found.counts.sum()
        assert found.counts.sum() == pytest.approx(x.numel())
        assert mean == pytest.approx(output.mean().item(), abs=0.03)
        assert found.edges[:, 0].min() == pytest.approx(output.min().item(), abs=0.02)
        given = recording.distribution(name, "input")
        assert given.edges[:, 0].min() == pytest.approx(x.min().item(), abs=1e-4)

    def test_wide_layers_keep_histograms_of_some_channels(self):
        recording, name = self.record(nn.LayerNorm(1000), torch.randn(8, 1000), steps=1)
        info = recording.layers[name]
        assert info.channels == 1000
        assert len(info.histogram_channels) == 256
        assert recording.distribution(name).counts.shape[0] == 256
        assert recording.query(name, "weight")[1].shape == (1, 1000)


def test_eval_mode_uses_the_running_statistics():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    norm = model[1]
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(1, 2)
    norm.eval()
    kept, handle = taps(model, "1")
    with watch(model, **EVERYTHING) as watcher:
        model(images()[0]).sum().backward()
        recording = watcher.recording
    handle.remove()
    assert not recording.query("1", "training")[1][0]
    frame = recording.query("1", "histogram_frame")[1][0]
    assert np.allclose(frame[0], norm.running_mean)
    assert np.allclose(frame[1], (norm.running_var + norm.eps).sqrt())
    assert_moments(
        recording.query("1", "batch_mean")[1][0],
        recording.query("1", "batch_var")[1][0],
        kept["input"][0],
        norm.eps,
    )


def test_other_modules_have_their_output_recorded():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    kept, handle = taps(model, "1")
    with watch(model, layers=[nn.ReLU, "3"], **EVERYTHING) as watcher:
        model(images()[0]).sum().backward()
    recording = watcher.recording
    handle.remove()
    assert list(recording.layers) == ["1", "3"]
    assert recording.layers["1"].kind == "activation"
    assert recording.layers["1"].channels == 4
    assert_moments(
        recording.query("1", "batch_mean")[1][0],
        recording.query("1", "batch_var")[1][0],
        kept["output"][0],
        1e-12,
    )
    found = recording.distribution("1", "output")
    assert found.edges[:, 0] == pytest.approx(0, abs=1e-5)
    assert recording.query("1", "output_gradient_norm")[1][0] == pytest.approx(
        kept["output_gradient"][0].norm().item()
    )


class Centering(nn.Module):
    """A normalization of a user's own: it only subtracts the batch mean."""

    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return x - x.mean((0, 2, 3), keepdim=True) + self.bias.view(1, -1, 1, 1)


def test_a_registered_class_is_found_and_recorded():
    register_normalization(Centering, "batch")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Centering(4))
    kept, handle = taps(model, "1")
    with watch(model, **EVERYTHING) as watcher:
        model(images()[0]).sum().backward()
        recording = watcher.recording
    handle.remove()
    assert list(recording.layers) == ["1"]
    assert recording.layers["1"].channels == 4
    assert_moments(
        recording.query("1", "batch_mean")[1][0],
        recording.query("1", "batch_var")[1][0],
        kept["input"][0],
        1e-5,
    )
    assert "bias" in recording.statistics("1")


def test_a_layer_that_is_called_several_times_has_an_entry_per_call():
    model = seeded(Reusing)
    kept, handle = taps(model, "norm")
    optimizer = sgd(model)
    with watch(model, optimizer=optimizer, **EVERYTHING) as watcher:
        train(model, optimizer, 2)
        recording = watcher.recording
    handle.remove()
    assert list(recording.layers) == ["norm", "norm#2", "norm#3"]
    assert recording.layers["norm#3"].call == 3
    for call, name in enumerate(recording.layers):
        for step in range(2):
            assert_moments(
                recording.query(name, "batch_mean")[1][step],
                recording.query(name, "batch_var")[1][step],
                kept["input"][3 * step + call],
                1e-5,
            )
            gradient = kept["output_gradient"][3 * step + 2 - call].norm().item()
            assert recording.query(name, "output_gradient_norm")[1][step] == pytest.approx(
                gradient, rel=1e-5
            )
    assert "weight" not in recording.statistics("norm#2")


def test_a_network_unrolled_too_often_is_said_to_be():
    class Unrolled(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            for _ in range(12):
                x = self.norm(x)
            return x

    model = Unrolled()
    with (
        watch(model, every=1) as watcher,
        pytest.warns(NormscopeWarning, match="more than 8 times"),
    ):
        model(torch.randn(4, 3))
    assert len(watcher.recording.layers) == 8


def test_an_empty_batch_is_called_one_and_not_checkpointing():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    optimizer = sgd(model)
    with watch(model, optimizer=optimizer, every=1) as watcher:
        for count in (4, 0, 4):
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always", NormscopeWarning)
                model(torch.randn(count, 3, 6, 6)).sum().backward()
                optimizer.step()
            said = [str(each.message) for each in found]
            assert said == (["1 was given an empty batch, of which there is nothing to record."]
                            if not count else [])  # fmt: skip
        recording = watcher.recording
    assert np.isfinite(recording.query("1", "batch_mean")[1][[0, -1]]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_variance_is_as_exact_as_what_the_layer_keeps(dtype):
    model = nn.Sequential(nn.BatchNorm2d(16)).to(dtype)
    x = (3 * torch.randn(64, 16, 4, 4) + 40).to(dtype)
    with watch(model, every=1) as watcher:
        model(x.requires_grad_()).sum().backward()
        found = watcher.recording.query("0", "batch_var")[1][0]
    expected = x.detach().double().var((0, 2, 3), correction=0).numpy()
    exactness = 1e-6 if dtype is torch.float32 else 0.01
    np.testing.assert_allclose(found, expected, rtol=exactness)


@pytest.mark.parametrize("tells", [True, False], ids=["", "older torch"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_are_measured_once_and_said_to_be_recomputed(
    reentrant, tells, monkeypatch
):
    if not tells:  # as if saved tensors did not show the hooks that packed them
        monkeypatch.setattr("normscope.watching.layer_calls.TELLS_OF_HOOKS", False)
        monkeypatch.setattr("normscope.watching.tensor_statistics.TELLS_OF_HOOKS", False)
    model = seeded(lambda: Checkpointed(reentrant=reentrant))
    optimizer = sgd(model)
    kept, handle = taps(model, "body.1")
    with watch(model, optimizer=optimizer, every=1, histograms_every=2) as watcher:
        with pytest.warns(
            NormscopeWarning, match=r"body.1 has not kept the statistics of its batch"
        ):
            train(model, optimizer, 3)
        recording = watcher.recording
    handle.remove()
    assert list(recording.query("stem.1", "batch_mean")[0]) == [1, 2, 3]
    assert list(recording.query("body.1", "batch_mean")[0]) == [1, 3]
    assert list(recording.query("body.1", "weight")[0]) == [1, 2, 3]
    assert list(recording.query("body.1", "num_batches_tracked")[1]) == [2, 4, 6], (
        "checkpointing counts twice itself"
    )
    for row, step in enumerate((0, 2)):  # the forwards in between are checkpointing's own
        x = kept["input"][2 * step]
        assert_moments(
            recording.query("body.1", "batch_mean")[1][row],
            recording.query("body.1", "batch_var")[1][row],
            x,
            1e-5,
        )
    assert len(recording.notes) == 1
    assert "body.1#2" not in recording.layers


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:.*kept the statistics:normscope.errors.NormscopeWarning")
def test_a_checkpointed_model_makes_one_step_per_forward(reentrant):
    model = seeded(small_resnet)
    with watch(model, **EVERYTHING) as watcher:
        for step in range(3):
            x, _ = images(step)
            checkpoint(model, x.requires_grad_(), use_reentrant=reentrant).sum().backward()
        assert watcher.step == 3
        assert list(watcher.recording.layers) == [
            name for name in watcher.recording.layers if "#" not in name
        ]


@pytest.mark.filterwarnings("ignore:.*kept the statistics:normscope.errors.NormscopeWarning")
def test_a_backward_inside_the_forward_repeats_no_call():
    class Penalized(nn.Module):
        """Takes a gradient in its forward, which repeats what is checkpointed."""

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            x = x.requires_grad_()
            y = checkpoint(lambda x: torch.tanh(self.norm(x)), x, use_reentrant=False)
            (gradient,) = torch.autograd.grad(y.square().sum(), x)
            return self.norm(x).sum() + gradient.sum()

    model = Penalized()
    with watch(model, every=None, histograms_every=None, gradients_every=None) as watcher:
        for _ in range(4):
            model(torch.randn(5, 3))
        assert list(watcher.recording.layers) == ["norm", "norm#2"]


def test_the_first_value_that_is_not_finite_is_found_at_its_step():
    model = seeded(small_resnet)
    with watch(model, every=100, histograms_every=None, gradients_every=None) as watcher:
        for step in range(1, 8):
            x, _ = images(step)
            if step == 5:
                x[0, 0, 0, 0] = math.nan
            model(x).sum().backward()
        found = watcher.recording.non_finite
    assert found[0] == {
        "layer": "stem.1",
        "statistic": "input",
        "step": 5,
        "channels": [0, 1, 2, 3],
        "rank": 0,
    }
    assert {row["layer"] for row in found} == set(watcher.recording.layers)


def test_a_gradient_that_is_not_finite_is_found():
    model = seeded(small_resnet)
    optimizer = sgd(model)
    with watch(model, optimizer=optimizer, gradients_every=1) as watcher:
        x, _ = images()
        (model(x).sum() * math.inf).backward()
        optimizer.step()
        found = watcher.recording.non_finite
    assert {row["statistic"].rsplit("_", 1)[-1] for row in found} <= {"gradient", "norm"}
    assert found[0]["step"] == 1


def test_the_activation_behind_a_layer_is_traced():
    model = seeded(small_resnet)
    with watch(model) as watcher:
        model(images()[0])
        layers = watcher.recording.layers
    assert (layers["stem.1"].activation, layers["stem.1"].via) == ("relu", [])
    assert (layers["layer1.0.bn2"].activation, layers["layer1.0.bn2"].via) == ("relu", ["addition"])


class EitherLayout(nn.LayerNorm):
    """Normalizes channels, which are first in maps and last in tokens."""

    def forward(self, input):
        if input.dim() == 4:
            return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return super().forward(input)


def test_a_layer_that_is_called_with_two_layouts_is_recorded_in_the_first():
    """What would be recorded of the second call is per column of the map, not per channel."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = EitherLayout(8)

        def forward(self, tokens):
            return self.norm(self.norm(tokens).transpose(1, 2).unsqueeze(-1))

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with watch(model, optimizer=optimizer, every=1, histograms_every=1) as watcher:
        for _ in range(3):
            model(torch.randn(4, 6, 8)).square().sum().backward()
            optimizer.step()
    recording = watcher.recording
    assert "histogram" in recording.statistics("norm")
    assert not {"histogram", "batch_mean", "sample_mean"} & set(recording.statistics("norm#2"))
    assert any("4 dimensions" in note for note in recording.notes)
