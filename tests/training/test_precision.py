"""Which arithmetic a run is given, as far as that can be seen without a GPU."""

import pytest
import torch

from normscope.training.precision import repeatable


def flags():
    cudnn = torch.backends.cudnn
    return {
        "deterministic": cudnn.deterministic,
        "benchmark": cudnn.benchmark,
        "tf32": cudnn.allow_tf32,
    }


def test_on_cuda_fp32_is_plain_and_algorithms_are_fixed_inside_only():
    before = flags()
    with pytest.raises(KeyError), repeatable("cuda"):
        assert flags() == {"deterministic": True, "benchmark": False, "tf32": False}
        raise KeyError
    assert flags() == before


def test_elsewhere_nothing_is_set():
    before = flags()
    with repeatable("cpu"):
        assert flags() == before
