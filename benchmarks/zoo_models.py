"""Architectures of model libraries with random weights and small configurations, for `zoo.py`.

A library that is not installed gives no models. `pip install --no-deps` timm, torchvision,
diffusers, monai, torch_geometric, segmentation-models-pytorch, x-transformers, vit-pytorch and
open_clip_torch into a folder of their own, and name it in PYTHONPATH.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SAMPLES = 8


@dataclass(frozen=True)
class Specimen:
    """An architecture: how to build it, and the keyword or positional inputs of one batch."""

    library: str
    name: str
    make: Callable[[], nn.Module]
    batch: Callable[[], Any]


def images(size: int = 64, channels: int = 3, samples: int = SAMPLES) -> Callable[[], Tensor]:
    return lambda: torch.randn(samples, channels, size, size)


def volumes(size: int = 32, channels: int = 1) -> Callable[[], Tensor]:
    return lambda: torch.randn(4, channels, size, size, size)


def names(text: str) -> list[str]:
    return text.split()


def specimens() -> Iterator[Specimen]:
    """Yield every architecture of the libraries that are installed."""
    for library, each in LIBRARIES.items():
        try:
            importlib.import_module(library)
        except ImportError:
            continue
        yield from each()


# Convolutional networks of timm at 64 pixels, others at the size that they are built for.
TIMM = names(
    "test_resnet test_efficientnet test_byobnet test_convnext efficientnet_b0 tf_efficientnet_b0 "
    "nf_regnet_b0 nf_resnet26 nfnet_l0 lcnet_050 ese_vovnet19b_dw convnext_atto poolformer_s12 "
    "resnet18 resnet26d resnet50d resnet50_gn resnetv2_50 resnetv2_50d_gn resnetv2_50d_evos "
    "resnetv2_50d_frn resnetv2_50x1_bit resnetaa50 resnext50_32x4d seresnet50 ecaresnet26t "
    "efficientnetv2_rw_t mobilenetv2_100 mobilenetv3_small_100 "
    "mobilenetv4_conv_small mnasnet_small fbnetc_100 spnasnet_100 ghostnet_100 "
    "convnextv2_atto regnetx_002 regnety_002 densenet121 "
    "repvgg_a0 mobileone_s0 dla34 repvit_m0_9 skresnet18 selecsls42 "
    "hrnet_w18_small cspdarknet53 cspresnet50 res2net50_14w_8s mambaout_femto starnet_s1 "
    "fastvit_t8 inception_next_atto rdnet_tiny swiftformer_xs edgenext_xx_small tresnet_m "
    "poolformerv2_s12 caformer_s18 focalnet_tiny_srf pvt_v2_b0 test_vit "
    "visformer_tiny xcit_nano_12_p16_224 "
    "mobilevit_xxs mobilevitv2_050 botnet26t_256 efficientvit_b0 efficientformer_l1 levit_128s "
    "vit_tiny_patch16_224 deit3_small_patch16_224 eva02_tiny_patch14_224 mixer_s16_224 "
    "gmlp_ti16_224 convit_tiny cait_xxs24_224 swin_tiny_patch4_window7_224 "
    "swinv2_tiny_window8_256 twins_svt_small crossvit_tiny_240 gcvit_xxtiny davit_tiny "
    "hiera_tiny_224 tiny_vit_5m_224 maxvit_rmlp_pico_rw_256 "
    "coatnet_pico_rw_224 volo_d1_224 inception_v3"
)
NATIVE = {
    "botnet26t_256": 256, "efficientformer_l1": 224, "levit_128s": 224, "mixer_s16_224": 224,
    "gmlp_ti16_224": 224, "convit_tiny": 224, "cait_xxs24_224": 224, "crossvit_tiny_240": 240,
    "swin_tiny_patch4_window7_224": 224, "swinv2_tiny_window8_256": 256, "gcvit_xxtiny": 224,
    "hiera_tiny_224": 224, "tiny_vit_5m_224": 224,
    "maxvit_rmlp_pico_rw_256": 256, "coatnet_pico_rw_224": 224, "volo_d1_224": 224,
    "vit_tiny_patch16_224": 224, "deit3_small_patch16_224": 224, "eva02_tiny_patch14_224": 224,
    "visformer_tiny": 224, "test_vit": 160, "twins_svt_small": 224, "inception_v3": 128,
    "xcit_nano_12_p16_224": 112,
}  # fmt: skip


def _timm() -> Iterator[Specimen]:
    timm: Any = importlib.import_module("timm")
    for name in TIMM:
        size = NATIVE.get(name, 64)
        samples = 2 if size > 200 else SAMPLES
        make = lambda name=name: timm.create_model(name, num_classes=10)  # noqa: E731
        yield Specimen("timm", name, make, images(size, samples=samples))
    frozen = lambda: timm.layers.freeze_batch_norm_2d(  # noqa: E731
        timm.create_model("resnet18", num_classes=10)
    )
    yield Specimen("timm", "resnet18 frozen", frozen, images())


TORCHVISION = names(
    "resnet18 mobilenet_v2 mobilenet_v3_small efficientnet_b0 densenet121 shufflenet_v2_x0_5 "
    "mnasnet0_5 regnet_y_400mf convnext_tiny googlenet swin_t wide_resnet50_2"
)


def _torchvision() -> Iterator[Specimen]:
    models: Any = importlib.import_module("torchvision.models")
    for name in TORCHVISION:
        options = {"init_weights": False} if name == "googlenet" else {}
        make = lambda n=name, o=options: models.get_model(n, num_classes=10, **o)  # noqa: E731
        yield Specimen("torchvision", name, make, images())
    for name in ("fcn_resnet50", "deeplabv3_mobilenet_v3_large"):
        make = lambda n=name: models.get_model(  # noqa: E731
            n, weights_backbone=None, num_classes=5
        )
        yield Specimen("torchvision", name, make, images())
    make = lambda: models.get_model("r3d_18", num_classes=10)  # noqa: E731
    yield Specimen("torchvision", "r3d_18", make, lambda: torch.randn(4, 3, 8, 48, 48))


SMALL = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "embed_dim": 32,
    "num_hidden_layers": 2,
    "num_layers": 2, "n_layer": 2, "n_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2, "num_attention_heads": 4, "num_heads": 4, "n_head": 4, "n_heads": 4,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "ffn_dim": 64, "d_ff": 64, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "hidden_dim": 64, "vocab_size": 99, "max_position_embeddings": 64, "n_positions": 64,
    "head_dim": 8, "d_kv": 8, "embedding_size": 32, "num_local_experts": 2, "num_experts": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "state_size": 8, "time_step_rank": 4, "conv_dim": (32, 32),
    "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "rotary_dim": 8, "image_size": 32,
    "patch_size": 8, "max_source_positions": 50, "max_target_positions": 32, "num_mel_bins": 8,
    "decoder_start_token_id": 1, "lru_width": 32, "sliding_window": 16, "dropout": 0.0,
    "expand": 2, "mamba_expand": 2, "max_seq_len": 64, "d_inner": 64, "type_vocab_size": 2,
}  # fmt: skip
"""What configurations of transformers get, where they have it."""

TOKENS = names(
    "bert roberta electra albert deberta-v2 ernie mobilebert roformer nystromformer rembert "
    "megatron-bert esm layoutlm modernbert distilbert gpt2 gpt_neo gptj bloom mpt gpt_neox opt "
    "stablelm persimmon phi codegen xglm llama mistral qwen2 qwen3 gemma gemma2 gemma3_text phi3 "
    "starcoder2 olmo olmo2 olmo3 cohere cohere2 granite nemotron smollm3 glm glm4 helium exaone4 "
    "ministral hunyuan_v1_dense seed_oss apertus arcee mixtral qwen2_moe qwen3_moe gpt_oss "
    "deepseek_v3 llama4_text mamba mamba2 falcon falcon_mamba jamba recurrent_gemma rwkv xlnet "
    "convbert squeezebert camembert biogpt lfm2 bamba"
)
PAIRS = names("t5 umt5 mt5 bart mbart pegasus blenderbot m2m_100 longt5 switch_transformers")
PIXELS = names(
    "vit deit beit dinov2 vit_mae siglip_vision_model clip_vision_model dinov3_vit ijepa vit_msn "
    "data2vec-vision swin swinv2 convnext convnextv2 resnet regnet bit mobilenet_v1 mobilenet_v2 "
    "mobilevit segformer levit poolformer pvt_v2 focalnet donut-swin hiera glpn "
    "timesformer"
)
WAVES = names("wav2vec2 hubert wavlm wav2vec2-conformer sew unispeech")
OVERRIDES: dict[str, dict[str, Any]] = {
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "deberta-v2": {"pooler_hidden_size": 32},
    "gpt_neo": {
        "num_layers": 2,
        "attention_types": [[["global", "local"], 1]],
        "attention_layers": ["global", "local"],
    },
    "swin": {
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "patch_size": 2,
        "window_size": 4,
    },
    "donut-swin": {
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "patch_size": 2,
        "window_size": 4,
    },
    "swinv2": {
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "patch_size": 2,
        "window_size": 4,
    },
    "falcon_mamba": {"intermediate_size": 64},
    "falcon": {"ffn_hidden_size": 64},
    "mpt": {"max_seq_len": 64},
    "deepseek_v3": {"num_key_value_heads": 4},
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 8,
    },
    "hiera": {
        "embed_dim": 16,
        "image_size": [64, 64],
        "patch_size": [7, 7],
        "num_heads": [1, 2, 4, 8],
    },
    "bamba": {
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "attn_layer_indices": [1],
    },
    "levit": {
        "image_size": 64,
        "hidden_sizes": [32, 48, 64],
        "num_attention_heads": [2, 3, 4],
        "key_dim": [8, 8, 8],
        "depths": [1, 1, 1],
        "patch_size": 16,
    },
    "wav2vec2": {"num_codevector_groups": 2},
    "apertus": {},
    "squeezebert": {
        f"{part}_groups": 1 for part in ("q", "k", "v", "post_attention", "intermediate", "output")
    },
    "xlnet": {"d_head": 8, "d_inner": 64},
    "timesformer": {"num_frames": 4, "image_size": 32},
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]},
    "regnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "groups_width": 8},
    "bit": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 8},
    "convnext": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
    "convnextv2": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
    "focalnet": {
        "embed_dim": 16,
        "depths": [1, 1],
        "hidden_sizes": [16, 32],
        "focal_levels": [2, 2],
        "focal_windows": [3, 3],
        "patch_size": 4,
    },
    "segformer": {
        "hidden_sizes": [8, 16, 32, 48],
        "num_attention_heads": [1, 2, 2, 2],
        "image_size": 64,
    },
    "glpn": {
        "hidden_sizes": [8, 16, 32, 48],
        "num_attention_heads": [1, 2, 2, 2],
        "depths": [1, 1, 1, 1],
        "image_size": 64,
    },
    "pvt_v2": {
        "hidden_sizes": [8, 16, 32, 48],
        "num_attention_heads": [1, 2, 2, 2],
        "depths": [1, 1, 1, 1],
        "image_size": 64,
    },
    "poolformer": {
        "hidden_sizes": [8, 16, 32, 48],
        "depths": [1, 1, 1, 1],
        "patch_size": 7,
        "image_size": 64,
    },
    "mobilevit": {"image_size": 64, "patch_size": 2},
}


def _config(kind: str) -> Any:
    from transformers import CONFIG_MAPPING

    maker = CONFIG_MAPPING[kind]
    plain = maker()
    own = {**SMALL, **OVERRIDES.get(kind, {})}
    named = OVERRIDES.get(kind, {})
    fresh = {
        name: value
        for name, value in own.items()
        if name in named or (name in plain.to_dict() and _alike(value, getattr(plain, name, None)))
    }
    if "num_hidden_layers" in fresh and kind not in PIXELS and "layer_types" in plain.to_dict():
        fresh.setdefault("layer_types", None)
    return maker(**fresh)


def _alike(value: Any, there: Any) -> bool:
    """Tell whether a small value is of the kind that the configuration has there."""
    return isinstance(there, list | tuple) == isinstance(value, list | tuple)


def _transformers() -> Iterator[Specimen]:
    for kind in (*TOKENS, *PAIRS, *PIXELS, *WAVES, "whisper"):
        yield Specimen("transformers", kind, lambda k=kind: _auto(k), lambda k=kind: _inputs(k))


def _auto(kind: str) -> nn.Module:
    from transformers import AutoModel

    model = AutoModel.from_config(_config(kind), attn_implementation="eager")
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    return model


def _inputs(kind: str) -> dict[str, Tensor]:
    tokens = torch.randint(3, 99, (4, 16))
    if kind in TOKENS:
        return {"input_ids": tokens}
    if kind in PAIRS:
        return {"input_ids": tokens, "decoder_input_ids": torch.randint(3, 99, (4, 8))}
    if kind in WAVES:
        return {"input_values": torch.randn(4, 1600)}
    if kind == "whisper":
        return {"input_features": torch.randn(4, 8, 100), "decoder_input_ids": tokens[:, :8]}
    if kind == "timesformer":
        return {"pixel_values": torch.randn(4, 4, 3, 32, 32)}
    size = _config(kind).to_dict().get("image_size", 64)
    size = size[0] if isinstance(size, list | tuple) else size
    return {"pixel_values": torch.randn(SAMPLES, 3, size or 64, size or 64)}


def _diffusers() -> Iterator[Specimen]:
    d: Any = importlib.import_module("diffusers")
    blocks = {
        "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
        "sample_size": 16,
    }  # fmt: skip
    noisy = lambda: {  # noqa: E731
        "sample": torch.randn(4, 3, 16, 16),
        "timestep": torch.randint(0, 999, (4,)),
    }
    down = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}  # fmt: skip
    yield Specimen("diffusers", "UNet2DModel", lambda: d.UNet2DModel(**blocks, **down), noisy)
    conditioned = lambda: d.UNet2DConditionModel(  # noqa: E731
        **blocks, in_channels=3, out_channels=3, cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    text = lambda: {**noisy(), "encoder_hidden_states": torch.randn(4, 7, 16)}  # noqa: E731
    yield Specimen("diffusers", "UNet2DConditionModel", conditioned, text)
    scaled = lambda: d.UNet2DModel(  # noqa: E731
        **blocks, **down, resnet_time_scale_shift="scale_shift"
    )
    yield Specimen("diffusers", "UNet2DModel scale_shift", scaled, noisy)
    for name in ("AutoencoderKL", "VQModel"):
        make = lambda name=name: getattr(d, name)(  # noqa: E731
            **blocks, down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
        yield Specimen("diffusers", name, make, images(32, samples=4))
    dit = lambda: d.DiTTransformer2DModel(  # noqa: E731
        num_attention_heads=2, attention_head_dim=16, in_channels=4, num_layers=2, sample_size=8,
        num_embeds_ada_norm=10, norm_num_groups=4,
    )  # fmt: skip
    classes = lambda: {  # noqa: E731
        "hidden_states": torch.randn(4, 4, 8, 8), "timestep": torch.randint(0, 9, (4,)),
        "class_labels": torch.randint(0, 9, (4,)),
    }  # fmt: skip
    yield Specimen("diffusers", "DiTTransformer2DModel", dit, classes)
    flux = lambda: d.FluxTransformer2DModel(  # noqa: E731
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    yield Specimen("diffusers", "FluxTransformer2DModel", flux, lambda: {
        "hidden_states": torch.randn(2, 16, 4), "encoder_hidden_states": torch.randn(2, 8, 32),
        "pooled_projections": torch.randn(2, 32), "timestep": torch.rand(2),
        "img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(8, 3),
    })  # fmt: skip
    sd3 = lambda: d.SD3Transformer2DModel(  # noqa: E731
        sample_size=8, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32,
        pooled_projection_dim=64, out_channels=4, qk_norm="rms_norm",
    )  # fmt: skip
    yield Specimen("diffusers", "SD3Transformer2DModel", sd3, lambda: {
        "hidden_states": torch.randn(2, 4, 8, 8), "encoder_hidden_states": torch.randn(2, 7, 32),
        "pooled_projections": torch.randn(2, 64), "timestep": torch.rand(2),
    })  # fmt: skip
    dc = lambda: d.AutoencoderDC(  # noqa: E731
        in_channels=3, latent_channels=4, attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)), encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1), downsample_block_type="pixel_unshuffle",
        decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.4,
    )  # fmt: skip
    yield Specimen("diffusers", "AutoencoderDC", dc, images(32, samples=4))
    wan = lambda: d.AutoencoderKLWan(  # noqa: E731
        base_dim=16, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )  # fmt: skip
    yield Specimen("diffusers", "AutoencoderKLWan", wan, lambda: torch.randn(2, 3, 5, 16, 16))


def _monai() -> Iterator[Specimen]:
    nets: Any = importlib.import_module("monai.networks.nets")
    flat = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
    solid = {**flat, "spatial_dims": 3}
    made: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
        "UNet": (lambda: nets.UNet(**solid, channels=(4, 8, 16), strides=(2, 2)), volumes(16)),
        "BasicUNet": (lambda: nets.BasicUNet(**flat, features=(8, 8, 16, 16, 16, 8)),
                      images(32, 1)),
        "SegResNet": (lambda: nets.SegResNet(**flat, init_filters=8), images(32, 1)),
        "DynUNet": (lambda: nets.DynUNet(**flat, kernel_size=[3] * 3, strides=[1, 2, 2],
                                         upsample_kernel_size=[2, 2], filters=[8, 16, 16]),
                    images(32, 1)),
        "AttentionUnet": (lambda: nets.AttentionUnet(**flat, channels=(8, 16), strides=(2,)),
                          images(32, 1)),
        "VNet": (lambda: nets.VNet(**flat), images(32, 1)),
        "UNETR": (lambda: nets.UNETR(1, 2, img_size=32, feature_size=8, hidden_size=48,
                                     mlp_dim=64, num_heads=4, spatial_dims=2), images(32, 1)),
        "SwinUNETR": (lambda: nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=2),
                      images(64, 1, 4)),
        "DenseNet121": (lambda: nets.DenseNet121(**flat), images(64, 1)),
        "ResNet18": (lambda: nets.resnet18(spatial_dims=2, n_input_channels=1, num_classes=2),
                     images(64, 1)),
        "DiffusionModelUNet": (
            lambda: nets.DiffusionModelUNet(**{**flat, "out_channels": 1}, channels=(8, 16),
                                            attention_levels=(False, True), num_res_blocks=1,
                                            norm_num_groups=4, num_head_channels=8),
            lambda: {"x": torch.randn(4, 1, 16, 16), "timesteps": torch.randint(0, 99, (4,))}),
        "AutoEncoder": (lambda: nets.AutoEncoder(**flat, channels=(4, 8), strides=(2, 2)),
                        images(32, 1)),
    }  # fmt: skip
    for name, (make, batch) in made.items():
        yield Specimen("monai", name, make, batch)


class _GraphNetwork(nn.Module):
    """Three graph convolutions, each with a normalization behind it."""

    def __init__(self, norm: str, options: dict[str, Any]):
        super().__init__()
        layers: Any = importlib.import_module("torch_geometric.nn")
        self.convolutions = nn.ModuleList(layers.GCNConv(16, 16) for _ in range(3))
        make = getattr(layers, norm)
        widths = () if norm in ("PairNorm", "GraphSizeNorm", "MeanSubtractionNorm") else (16,)
        self.norms = nn.ModuleList(make(*widths, **options) for _ in range(3))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = norm(convolution(x, edge_index)).relu()
        return x


def _graphs() -> Iterator[Specimen]:
    def graph() -> dict[str, Tensor]:
        return {"x": torch.randn(40, 16), "edge_index": torch.randint(0, 40, (2, 160))}

    norms = {
        "BatchNorm": {}, "GraphNorm": {}, "InstanceNorm": {}, "PairNorm": {}, "GraphSizeNorm": {},
        "MeanSubtractionNorm": {}, "LayerNorm": {"mode": "graph"},
        "DiffGroupNorm": {"groups": 4},
    }  # fmt: skip
    for norm, options in norms.items():
        make = lambda norm=norm, options=options: _GraphNetwork(norm, options)  # noqa: E731
        yield Specimen("torch_geometric", f"GCN {norm}", make, graph)
    node = lambda: _GraphNetwork("LayerNorm", {"mode": "node"})  # noqa: E731
    yield Specimen("torch_geometric", "GCN LayerNorm node", node, graph)


def _smp() -> Iterator[Specimen]:
    smp: Any = importlib.import_module("segmentation_models_pytorch")
    for name in ("Unet", "UnetPlusPlus", "FPN", "Linknet", "MAnet", "DeepLabV3Plus", "UPerNet"):
        make = lambda name=name: getattr(smp, name)(  # noqa: E731
            "resnet18", encoder_weights=None, classes=2
        )
        yield Specimen("smp", f"{name} resnet18", make, images(64, samples=4))
    for encoder in ("mit_b0", "efficientnet-b0", "tu-convnext_atto"):
        make = lambda e=encoder: smp.Unet(e, encoder_weights=None, classes=2)  # noqa: E731
        yield Specimen("smp", f"Unet {encoder}", make, images(64, samples=4))


def _x_transformers() -> Iterator[Specimen]:
    x: Any = importlib.import_module("x_transformers")
    for option in ("use_rmsnorm", "use_scalenorm", "use_simple_rmsnorm", "attn_qk_norm"):
        make = lambda option=option: x.TransformerWrapper(  # noqa: E731
            num_tokens=99, max_seq_len=32,
            attn_layers=x.Decoder(dim=32, depth=2, heads=4, attn_dim_head=8, **{option: True}),
        )  # fmt: skip
        tokens = lambda: {"x": torch.randint(0, 99, (4, 16))}  # noqa: E731
        yield Specimen("x_transformers", option, make, tokens)


def _vit_pytorch() -> Iterator[Specimen]:
    shape = {"image_size": 32, "patch_size": 8, "num_classes": 5, "dim": 32, "depth": 2,
             "heads": 2, "mlp_dim": 64}  # fmt: skip
    for module, name in (
        ("vit", "ViT"), ("simple_vit", "SimpleViT"),
        ("simple_vit_with_qk_norm", "SimpleViT"), ("normalized_vit", "nViT"),
    ):  # fmt: skip

        def make(module: str = module, name: str = name) -> nn.Module:
            return getattr(importlib.import_module(f"vit_pytorch.{module}"), name)(**shape)

        yield Specimen("vit_pytorch", module, make, images(32))


def _torch() -> Iterator[Specimen]:
    encoder = lambda: nn.TransformerEncoder(  # noqa: E731
        nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2
    )
    yield Specimen("torch", "TransformerEncoder", encoder, lambda: torch.randn(4, 12, 32))
    lrn = lambda: nn.Sequential(  # noqa: E731
        nn.Conv2d(3, 8, 3), nn.LocalResponseNorm(3), nn.ReLU(), nn.Conv2d(8, 8, 3)
    )
    yield Specimen("torch", "LocalResponseNorm", lrn, images(16))


LIBRARIES: dict[str, Callable[[], Iterator[Specimen]]] = {
    "torch": _torch,
    "transformers": _transformers,
    "diffusers": _diffusers,
    "torch_geometric": _graphs,
    "x_transformers": _x_transformers,
    "vit_pytorch": _vit_pytorch,
    "monai": _monai,
    "timm": _timm,
    "torchvision": _torchvision,
    "segmentation_models_pytorch": _smp,
}
