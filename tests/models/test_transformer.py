import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from normscope.commands.check import check
from normscope.errors import InputError
from normscope.models.registry import build
from normscope.models.token_norms import TOKEN_NORMS
from normscope.models.transformer import PLACEMENTS, ByteDecoder, patches, rotated
from normscope.studies.capture import tapped
from normscope.user_models.norm_layers import normalization_layers

SIZES = {"in_channels": 1, "num_classes": 10, "image_size": 8}
SMALL = SIZES | {"activation": "gelu", "depth": 2, "width": 12, "heads": 2}


def small_decoder(**options) -> ByteDecoder:
    return ByteDecoder(**{"context": 16, "depth": 2, "width": 12, "heads": 2} | options)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("norm", TOKEN_NORMS)
def test_every_norm_stands_in_every_placement(norm, placement):
    model = build("vit", norm=norm, placement=placement, qk_norm=True, **SMALL)
    logits = model(torch.randn(3, 1, 8, 8))
    logits.square().sum().backward()
    assert logits.shape == (3, 10)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for name in vars(model.landmarks).values():
        model.get_submodule(name)


@pytest.mark.parametrize(("norm", "count"), [("layer", 114_682), ("rms", 114_250)])
def test_the_image_network_has_the_parameters_that_its_docstring_gives(norm, count):
    model = build("vit", norm=norm, activation="gelu", **SIZES)
    assert sum(p.numel() for p in model.parameters()) == count


def test_the_decoder_has_the_parameters_that_its_docstring_gives():
    assert sum(p.numel() for p in ByteDecoder().parameters()) == 224_640


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_placements_are_their_formulas(placement):
    model = build("vit", norm="layer", placement=placement, **SMALL).double()
    block, x = model.blocks[1], torch.randn(2, 5, 12, dtype=torch.float64)
    attention, feed_forward = block.attention, block.feed_forward
    if placement == "post":
        y = block.norm1(x + attention(x))
        expected = block.norm2(y + feed_forward(y))
    elif placement == "peri":
        y = x + block.norm1_out(attention(block.norm1(x)))
        expected = y + block.norm2_out(feed_forward(block.norm2(y)))
    else:
        factor = 1 / math.sqrt(2) if placement == "pre-scaled" else 1.0  # of the second layer
        y = x + attention(block.norm1(x) * factor)
        expected = y + feed_forward(block.norm2(y) * factor)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(block, (x[:1, :2].clone().requires_grad_(),))


def test_attention_is_softmax_of_normalized_queries_and_keys():
    attention = small_decoder(qk_norm=True).blocks[0].attention.double()
    x = torch.randn(1, 4, 12, dtype=torch.float64)
    query, key, value = (part.view(4, 2, 6) for part in attention.qkv(x)[0].split(12, dim=-1))
    rows = []
    for token in range(4):
        heads = []
        for head in range(2):
            q = query[token, head]
            q = q / (q.square().mean() + 1e-6).sqrt()
            k = key[: token + 1, head]
            k = k / (k.square().mean(-1, keepdim=True) + 1e-6).sqrt()
            weights = (k @ q / math.sqrt(6)).softmax(0)
            heads.append(weights @ value[: token + 1, head])
        rows.append(torch.cat(heads))
    expected = attention.out(torch.stack(rows))[None]
    torch.testing.assert_close(attention(x), expected, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradcheck(attention, (x[:, :2].clone().requires_grad_(),))


REFERENCES = {
    "layer": lambda x, m: (
        (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * m["weight"]
        + m["bias"]
    ),
    "layer-1p": lambda x, m: (
        (x - x.mean(-1, keepdims=True))
        / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        * (1 + m["weight"])
        + m["bias"]
    ),
    "rms": lambda x, m: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * m["weight"],
    "rms-1p": lambda x, m: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (1 + m["weight"]),
    "dyt": lambda x, m: m["weight"] * np.tanh(m["alpha"] * x) + m["bias"],
    "derf": lambda x, m: (
        m["weight"] * np.vectorize(math.erf)(m["alpha"] * x + m["shift"]) + m["bias"]
    ),
    "batch": lambda x, m: (
        (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5) * m["weight"] + m["bias"]
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_norms_equal_written_out_references_and_their_gradients_differences(name):
    torch.manual_seed(0)
    module = TOKEN_NORMS[name](5).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    x = (2 * torch.randn(3, 4, 5, dtype=torch.float64) + 1).requires_grad_()
    values = {key: value.detach().numpy() for key, value in module.named_parameters()}
    expected = REFERENCES[name](x.detach().numpy(), values)
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(module, (x,))


@pytest.mark.parametrize("name", ["layer", "rms", "rms-1p"])
def test_under_autocast_norms_compute_in_fp32(name):
    norm, x = TOKEN_NORMS[name](6), torch.randn(4, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = norm(x)
    assert torch.equal(found, norm(x.float()).bfloat16())


@pytest.mark.parametrize(("scale", "std"), [("unit", 1.0), ("root", 0.02 * math.sqrt(12))])
@pytest.mark.parametrize("norm", ["dyt", "derf"])
def test_a_learned_factor_makes_small_embeddings_values_that_tanh_bends(norm, scale, std):
    options = SMALL | {"num_classes": 256, "image_size": 256, "positions": "rotary"}
    model = build("byte-lm", norm=norm, embedding_scale=scale, **options)
    tokens = torch.arange(256)[None]
    with tapped({"in": (model.blocks[0].norm1, "input")}) as taps:
        model(tokens).square().sum().backward()
    assert float(taps["in"].std()) == pytest.approx(std, rel=0.05)
    torch.testing.assert_close(taps["in"], model.embedding_scale * model.embed(tokens))
    assert model.embedding_scale.grad is not None
    assert {float(block.norm1.alpha) for block in model.blocks} == {1.0}
    plain = build("byte-lm", norm=norm, **options)
    assert torch.equal(plain.embed.weight, model.embed.weight), "paired"
    assert float(plain.norm.alpha) == 0.5


def test_rotary_positions_make_products_depend_on_the_distance_alone():
    query, key = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).expand(2, 1, 1, 9, 8)
    products = (rotated(query) @ rotated(key).transpose(-1, -2))[0, 0]
    for distance in range(-8, 9):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    torch.testing.assert_close(products[0, 0], (query[0, 0, 0] * key[0, 0, 0]).sum())


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("norm", ["layer", "rms", "dyt"])
def test_the_decoder_sees_no_later_byte(norm, positions):
    model = small_decoder(norm=norm, positions=positions)
    tokens = torch.randint(0, 256, (2, 16))
    changed = tokens.clone()
    changed[:, 9:] = torch.randint(0, 256, (2, 7))
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])


class OverTime(torch.nn.LayerNorm):
    def forward(self, input):
        return super().forward(input.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("norm", ["layer", "rms", "rms-1p"])
def test_the_probe_of_who_sees_whom_finds_no_later_byte_but_a_planted_one(norm):
    model = small_decoder(norm=norm, positions="rotary", qk_norm=True)
    tokens = [torch.randint(0, 256, (8, 16), generator=torch.Generator().manual_seed(1))]
    assert list(check(model, tokens, select=["NS514"])) == []
    model.blocks[1].norm1 = OverTime(16)
    (finding,) = check(model, tokens, select=["NS514"])
    assert finding.layer == "blocks.1.norm1"


def test_batch_norm_over_tokens_is_not_causal_in_train_mode():
    model = small_decoder(norm="batch")
    tokens = torch.randint(0, 256, (2, 16))
    changed = tokens.clone()
    changed[:, 9:] += 1
    assert not torch.equal(model(tokens)[:, :9], model(changed % 256)[:, :9])


def test_the_head_is_the_embedding():
    model = small_decoder()
    tokens = torch.randint(0, 256, (1, 16))
    with tapped({"hidden": (model.norm, "output")}) as taps:
        logits = model(tokens)
    torch.testing.assert_close(logits, F.linear(taps["hidden"], model.embed.weight))


def test_patches_are_read_row_by_row():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    rows = patches(image, 2)[0].int().tolist()
    assert rows == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_parameters_of_equal_names_are_equal_whatever_the_norm():
    one, other = (build("vit", norm=norm, seed=3, **SMALL) for norm in ("rms", "none"))
    shared = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        if "norm" not in name:
            assert torch.equal(parameter, shared[name]), name
    drawn = torch.cat([one.positions.weight.flatten()])
    assert 0.01 < drawn.std() < 0.03


def test_without_biases_there_is_none():
    model = build("vit", norm="layer", no_bias=True, **SMALL)
    inside = [name for name, _ in model.blocks.named_parameters() if name.endswith("bias")]
    assert inside == []


def test_every_norm_of_a_transformer_is_recognized():
    model = small_decoder(norm="rms-1p", placement="peri", qk_norm=True)
    kinds = {name: layer.kind for name, layer in normalization_layers(model).items()}
    assert len(kinds) == 2 * (4 + 2) + 1
    assert set(kinds.values()) == {"rms"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"placement": "before"}, "Unknown placement 'before'. Known: pre, post, peri"),
        ({"heads": 5}, "5 heads do not divide the width 12 evenly"),
        ({"patch_size": 3}, "Patches of 3x3 pixels do not divide images of 8x8 pixels"),
        ({"pooling": "max"}, "Unknown pooling 'max'"),
        ({"depth": 0}, "The depth is 0"),
        ({"widths": (4, 8)}, "Model 'vit' has no option 'widths'"),
        ({"norm": "group"}, "Unknown normalization 'group'. Known: layer"),
    ],
)
def test_what_cannot_be_is_refused(options, says):
    with pytest.raises(InputError) as refused:
        build("vit", **SMALL | options)
    assert says in str(refused.value)


def test_convolutional_networks_have_no_knobs_of_transformers():
    with pytest.raises(InputError, match="has no option 'qk_norm'. Models that have it: vit"):
        build("small-resnet", qk_norm=True, **SIZES)


def test_a_class_token_is_what_the_class_is_read_from():
    model = build("vit", pooling="token", **SMALL)
    with tapped({"tokens": (model.norm, "output")}) as taps:
        logits = model(torch.randn(2, 1, 8, 8))
    torch.testing.assert_close(logits, model.head(taps["tokens"][:, 0]))
