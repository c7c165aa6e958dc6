import pytest
import torch

from normscope.errors import CheckError, NormscopeWarning
from normscope.records.recording import Recording

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def installed():
    """What the tests import of it is imported by the worker that runs them: 3 s."""
    for name in ("transformers", "accelerate"):
        pytest.importorskip(name, reason=f"{name} is not installed (normscope[transformers])")


def watch_normalization(*arguments, **options):
    from normscope.integrations.transformers import WatchNormalization

    return WatchNormalization(*arguments, **options)


def fit(tmp_path, callbacks, accumulate=1):
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2,
        n_head=2,
        n_embd=16,
        vocab_size=50,
        n_positions=12,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    tokens = torch.randint(0, 50, (16, 12), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=accumulate,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        seed=3,
    )
    Trainer(model=model, args=arguments, train_dataset=data, callbacks=callbacks).train()
    return list(model.state_dict().values())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_is_recorded_and_the_same(tmp_path, accumulate):
    plain = fit(tmp_path, [], accumulate)
    callback = watch_normalization(
        tmp_path / "r.sqlite", every=1, histograms_every=1, gradients_every=1
    )
    watched = fit(tmp_path, [callback], accumulate)
    assert all(torch.equal(one, two) for one, two in zip(plain, watched, strict=True))
    recording = Recording.load(tmp_path / "r.sqlite")
    steps = 8 // accumulate
    assert recording.complete
    assert recording.epochs == {1: 0, 2: steps // 2}
    assert len(recording.layers) == 5
    for statistic in (
        "sample_mean",
        "weight",
        "weight_gradient",
        "output_gradient_norm",
        "histogram",
    ):
        assert list(recording.query("transformer.h.0.ln_1", statistic)[0]) == list(
            range(1, steps + 1)
        ), statistic


def test_a_training_is_judged_as_it_goes(tmp_path):
    for accumulate in (1, 2):
        callback = watch_normalization(check=True)
        fit(tmp_path, [callback], accumulate)
        assert [
            finding for finding in callback.watcher.findings if finding.severity != "info"
        ] == []


def test_a_fault_ends_the_training(tmp_path):
    from transformers import TrainerCallback

    class Poisoned(TrainerCallback):
        def on_step_end(self, args, state, control, **now):
            if state.global_step == 3:
                with torch.no_grad():
                    now["model"].transformer.h[0].ln_1.weight[2] = torch.nan

    callback = watch_normalization(tmp_path / "r.sqlite", every=1, check="raise")
    with pytest.raises(CheckError, match="NS805"):
        fit(tmp_path, [callback, Poisoned()])
    assert not callback.watcher.active
    recording = Recording.load(tmp_path / "r.sqlite")
    assert recording.complete
    assert (recording.non_finite[0]["layer"], recording.non_finite[0]["step"]) == (
        "transformer.h.0.ln_1",
        4,
    )


def test_a_model_without_a_norm_trains_on_with_one_warning():
    callback = watch_normalization()
    with pytest.warns(NormscopeWarning, match=r"the training goes on. Linear has no norm") as said:
        callback.on_train_begin(None, None, None, model=torch.nn.Linear(2, 2))
    callback.on_train_end(None, None, None)
    assert len(said) == 1
