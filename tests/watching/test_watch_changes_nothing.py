import copy
import io
import pickle

import pytest
import torch
from torch import nn
from watch_cases import (
    Checkpointed,
    Reusing,
    Transformer,
    group_net,
    images,
    seeded,
    sgd,
    small_resnet,
    train,
)

from normscope.commands.watch import watch
from normscope.errors import InputError, NormscopeWarning

EVERYTHING = {"every": 1, "histograms_every": 1, "gradients_every": 1}
SOMETIMES = {"every": 2, "histograms_every": 3, "gradients_every": 2}

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*kept the statistics:normscope.errors.NormscopeWarning"
)


def run(build, *, watched, intervals=EVERYTHING, with_optimizer=True, **loop):
    """(losses, state, gradients, random state) of a run of five steps."""
    model = seeded(build)
    optimizer = sgd(model)
    torch.manual_seed(1)
    watcher = (
        watch(model, optimizer=optimizer if with_optimizer else None, **intervals)
        if watched
        else None
    )
    losses = train(model, optimizer, 5, **loop)
    gradients = [p.grad for p in model.parameters()]
    if watcher is not None:
        assert watcher.active, "the recording stopped"
        assert watcher.recording.statistics(next(iter(watcher.recording.layers)))
        watcher.close()
    return losses, list(model.state_dict().values()), gradients, [torch.get_rng_state()]


def assert_same_bits(plain, watched):
    for some, others in zip(plain, watched, strict=True):
        assert len(some) == len(others)
        assert all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


NETS = {
    "SmallResNet": small_resnet,
    "group norm": group_net,
    "transformer": Transformer,
    "a layer used three times": Reusing,
    "checkpointed": lambda: Checkpointed(reentrant=False),
    "checkpointed, reentrant": lambda: Checkpointed(reentrant=True),
}


@pytest.mark.parametrize("with_optimizer", [True, False], ids=["optimizer steps", "forwards"])
@pytest.mark.parametrize("net", NETS)
def test_a_run_is_bitwise_the_same(net, with_optimizer):
    plain = run(NETS[net], watched=False)
    assert_same_bits(plain, run(NETS[net], watched=True, with_optimizer=with_optimizer))


@pytest.mark.parametrize(
    "loop", [{"autocast": True}, {"accumulate": 3}, {"accumulate": 2, "autocast": True}], ids=str
)
def test_a_run_is_bitwise_the_same_in_other_loops(loop):
    plain = run(small_resnet, watched=False, **loop)
    assert_same_bits(plain, run(small_resnet, watched=True, **loop))
    assert_same_bits(
        plain, run(small_resnet, watched=True, with_optimizer=False, intervals=SOMETIMES, **loop)
    )


def test_any_module_can_be_watched_without_change():
    plain = run(small_resnet, watched=False)
    assert_same_bits(
        plain, run(small_resnet, watched=True, intervals={**EVERYTHING, "layers": [nn.Conv2d, "*"]})
    )


def test_outputs_are_the_same_in_train_and_eval_mode():
    model, (x, _) = seeded(small_resnet), images()
    twin = copy.deepcopy(model)
    with watch(model, **EVERYTHING):
        assert torch.equal(model(x), twin(x))
        assert torch.equal(model.eval()(x), twin.eval()(x))


def test_the_fast_path_of_a_transformer_in_eval_mode_stays():
    """The layer takes it where no module inside it has a hook."""
    seen = []

    class Spying(nn.TransformerEncoderLayer):
        def forward(self, *args, **kwargs):
            seen.append(len(hooks(self)))
            return super().forward(*args, **kwargs)

    layer = Spying(16, 2, 32, batch_first=True)
    model = nn.Sequential(nn.Linear(16, 16), layer)
    x, twin = torch.randn(4, 9, 16), copy.deepcopy(model).eval()
    with watch(model), torch.no_grad():
        model(x)
        assert torch.equal(model.eval()(x), twin(x))
        assert seen == [2, 0, 0]
        assert len(hooks(layer)) == 2, "the hooks are put back"


def attributes(model):
    """Of every module, all that it holds, apart from what its hooks are."""
    return [
        {name: id(value) for name, value in module.__dict__.items()} for module in model.modules()
    ]


def test_no_attribute_stays_on_a_module():
    model = seeded(small_resnet)
    before = attributes(model)
    with watch(model, **EVERYTHING):
        train(model, sgd(model))
        assert attributes(model) == before
    assert attributes(model) == before


def hooks(model):
    return [h for m in model.modules() for n, h in m.__dict__.items() if n.endswith("_hooks") and h]


def test_hooks_come_off_when_the_body_raises():
    model = seeded(small_resnet)
    optimizer = sgd(model)

    def fail():
        with watch(model, optimizer=optimizer):
            raise KeyError("in the loop")

    with pytest.raises(KeyError):
        fail()
    assert not hooks(model)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_a_forward_that_raises_leaves_the_watcher_working():
    model = seeded(small_resnet)
    optimizer = sgd(model)
    with watch(model, optimizer=optimizer, **EVERYTHING) as watcher:
        with pytest.raises(RuntimeError):
            model(torch.zeros(2, 5, 8, 8))
        train(model, optimizer, 2)
        steps, _ = watcher.recording.query("stem.1", "batch_mean")
        assert list(steps) == [1, 2]


def test_no_hook_stays_on_a_graph_that_is_kept():
    model = seeded(group_net)
    with watch(model, **EVERYTHING) as watcher:
        x, _ = images()
        loss = model(x).sum()
    loss.backward()
    assert not watcher.active


class TestCopies:
    def check(self, model, duplicate, watcher):
        """The duplicate computes the same and leaves no trace in the recording."""
        x, _ = images()
        before = watcher.step
        result = duplicate(x)
        result.sum().backward()
        sgd(duplicate).step()
        assert watcher.step == before
        assert torch.equal(result, model(x))
        assert watcher.step == before + 1

    @pytest.fixture
    def model(self):
        return seeded(small_resnet)

    def test_deep(self, model):
        with watch(model, **EVERYTHING) as watcher:
            duplicate = copy.deepcopy(model)
            assert not hooks(duplicate)
            self.check(model, duplicate, watcher)
        assert not hooks(model)

    def test_deep_inside_something_else(self, model):
        with watch(model, **EVERYTHING) as watcher:
            duplicate = copy.deepcopy({"ema": [model]})["ema"][0]
            assert not hooks(duplicate)
            self.check(model, duplicate, watcher)

    def test_averaged(self, model):
        with watch(model, **EVERYTHING):
            assert not hooks(torch.optim.swa_utils.AveragedModel(model))

    def test_pickled(self, model):
        with watch(model, **EVERYTHING) as watcher:
            data = pickle.dumps(model)
            assert b"normscope.watching" not in data, (
                "it must load where normscope is not installed"
            )
            self.check(model, pickle.loads(data), watcher)  # noqa: S301

    def test_saved(self, model):
        file = io.BytesIO()
        with watch(model, **EVERYTHING) as watcher:
            torch.save(model, file)
            file.seek(0)
            self.check(model, torch.load(file, weights_only=False), watcher)

    def test_shallow(self):
        class Replicating(nn.Module):
            """Calls a shallow copy of its layer, as nn.DataParallel does on every device."""

            def __init__(self):
                super().__init__()
                self.norm = nn.BatchNorm1d(3)

            def forward(self, x):
                return self.norm(x) + copy.copy(self.norm)(x)

        model = Replicating()
        with watch(model, **EVERYTHING) as watcher:
            for _ in range(2):
                model(torch.randn(4, 3))
            assert list(watcher.recording.layers) == ["norm"]

    def test_state_dict(self, model):
        plain = {name: value.clone() for name, value in model.state_dict().items()}
        with watch(model):
            state = model.state_dict()
            assert state.keys() == plain.keys()
            model.load_state_dict(plain)

    def test_optimizer_is_copied_without_hooks(self, model):
        optimizer = sgd(model)
        with watch(model, optimizer=optimizer):
            duplicate = copy.deepcopy(optimizer)
            assert not duplicate._optimizer_step_pre_hooks
            pickle.dumps(optimizer)


def test_full_backward_hooks_of_the_user_still_work():
    model = seeded(group_net)
    seen = []
    handle = model.get_submodule("3").register_full_backward_hook(lambda *_: seen.append(1))
    with watch(model, **EVERYTHING):
        train(model, sgd(model), 2)
    handle.remove()
    assert len(seen) == 2


def test_an_error_in_an_interval_ends_the_recording_and_not_the_training():
    def forgetful(step):
        if step > 2:
            raise RuntimeError("forgot")
        return True

    model = seeded(small_resnet)
    watcher = watch(model, every=forgetful)
    with pytest.warns(
        NormscopeWarning, match="stopped at step 3; the training goes on. RuntimeError: forgot"
    ):
        losses = train(model, sgd(model), 5)
    assert len(losses) == 5
    assert not watcher.active
    assert not hooks(model)
    watcher.close()


def test_watching_twice_is_refused():
    model = seeded(small_resnet)
    with watch(model), pytest.raises(InputError, match="stem.1 is being watched already"):
        watch(model)
    watch(model).close()


def test_other_layers_of_a_watched_model_can_be_watched():
    model = seeded(small_resnet)
    with watch(model, layers="stem.1"), watch(model, layers=nn.Conv2d):
        train(model, sgd(model), 1)
