"""Folding and converting published architectures: the same function, or a refusal (extras `zoo`,
`transformers`).
"""

from __future__ import annotations

import copy
import importlib

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from normscope.errors import InputError
from normscope.mend import convert, convert_gains, fold, fold_gains

TIMM = [
    "test_resnet", "test_efficientnet", "resnet18", "resnetv2_50", "densenet121", "efficientnet_b0",
    "tf_mobilenetv3_small_100", "regnety_002", "repvgg_a0", "levit_128s", "nf_regnet_b0",
]  # fmt: skip
TORCHVISION = ["resnet18", "mobilenet_v2", "vgg11_bn", "densenet121"]
NOTHING_TO_FOLD = {"nf_regnet_b0"}


@pytest.fixture(params=[*(("timm", n) for n in TIMM), *(("torchvision", n) for n in TORCHVISION)],
                ids="-".join)  # fmt: skip
def model(request: pytest.FixtureRequest) -> nn.Module:
    library, name = request.param
    pytest.importorskip(library, exc_type=ImportError)
    torch.manual_seed(0)
    if library == "timm":
        made = importlib.import_module("timm").create_model(name, num_classes=5)
    else:
        made = importlib.import_module("torchvision.models").get_model(name, num_classes=5)
    for module in made.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    made.nothing_to_fold = name in NOTHING_TO_FOLD
    return made.double().eval()


def images() -> torch.Tensor:
    return torch.randn(2, 3, 224, 224, dtype=torch.double)


@pytest.mark.filterwarnings("ignore::normscope.errors.NormscopeWarning")
def test_a_folded_architecture_computes_the_same(model: nn.Module):
    if model.nothing_to_fold:
        with pytest.raises(InputError, match="no batch normalization"):
            fold(model)
        return
    x = images()
    folded = fold(model)
    before = sum(isinstance(module, _BatchNorm) for module in model.modules())
    assert sum(isinstance(module, _BatchNorm) for module in folded.modules()) < before
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-9, atol=1e-9)


def test_a_converted_architecture_computes_the_same_or_is_refused(model: nn.Module):
    kept = copy.deepcopy(model)
    own = any(type(m).forward is not _BatchNorm.forward
              for m in model.modules() if isinstance(m, _BatchNorm))  # fmt: skip
    if own or model.nothing_to_fold:
        with pytest.raises(InputError, match=r"is not converted|nothing to convert"):
            convert(model, "batch", "sync")
    else:
        convert(model, "batch", "sync")
    x = images()
    with torch.no_grad():
        torch.testing.assert_close(model(x), kept(x), rtol=1e-12, atol=1e-12)


SIZES = {"num_hidden_layers": 2, "vocab_size": 99, "hidden_size": 32, "num_attention_heads": 2}
MORE = {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 16}
DECODERS = {  # how many gains there are, and how many of them only linear layers read
    "gpt2": (SIZES, 5, 4), "llama": (SIZES | MORE, 5, 5), "gemma2": (SIZES | MORE, 9, 4),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::normscope.errors.NormscopeWarning")
@pytest.mark.parametrize("name", DECODERS)
def test_gains_of_a_decoder_are_folded_and_converted(name: str):
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    sizes, norms, folds = DECODERS[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **sizes, bos_token_id=1, eos_token_id=2)
    model = transformers.AutoModelForCausalLM.from_config(config).double().eval()
    gains = [p for p in model.parameters() if p.ndim == 1]
    for gain in gains:
        nn.init.normal_(gain, 0.7, 0.3)
    ids = torch.randint(0, 99, (2, 7))
    folded = fold_gains(model, [{"input_ids": ids}])
    same = torch.randint(0, 99, (2, 5))
    close = {"rtol": 1e-5, "atol": 1e-5}  # most of these norms compute in float32
    torch.testing.assert_close(folded(same).logits, model(same).logits, **close)

    def varied(decoder: nn.Module) -> int:
        named = [(n, p) for n, p in decoder.named_parameters() if p.ndim == 1]
        return sum(len(p.unique()) > 1 for n, p in named if "weight" in n)

    assert (varied(model), varied(folded)) == (norms, norms - folds)
    before = model(same).logits
    convert_gains(model, "w" if name == "gemma2" else "1 + w")
    torch.testing.assert_close(model(same).logits, before, **close)
