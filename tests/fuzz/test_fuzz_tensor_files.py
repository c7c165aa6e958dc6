"""Checkpoints and batches of others: mutated bytes, and tensors that no network has."""

import io
import itertools
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from mutations import mutated_bytes
from torch import nn
from trials import amount, attempt_all, generator, some

from normscope.commands.check import check_state_dict
from normscope.examining.examine import examine, examine_state
from normscope.user_models.loading import load_batches, load_checkpoint, load_into
from normscope.user_models.state_dicts import unwrap_state


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))


HUGE = (10**12, 400_000_000)
TENSORS = {
    "nan": lambda: torch.tensor(float("nan")),
    "infinite": lambda: torch.tensor(float("inf")),
    "complex": lambda: torch.tensor(1 + 2j),
    "complex vector": lambda: torch.ones(4, dtype=torch.complex64).conj(),
    "negative": lambda: torch.tensor(-5),
    "too large to count": lambda: torch.tensor(1e300, dtype=torch.float64),
    "a flag": lambda: torch.tensor(True),
    **{f"stride 0, {size}": (lambda size=size: torch.zeros(1).expand(size)) for size in HUGE},
    "meta": lambda: torch.empty(4, device="meta"),
    "large meta": lambda: torch.empty(2**45, device="meta"),
    "sparse": lambda: torch.ones(4).to_sparse(),
    "sparse rows": lambda: torch.ones(4, 4).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.quint8),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "jagged": lambda: torch.nested.nested_tensor(
        [torch.ones(2), torch.ones(3)], layout=torch.jagged
    ),
    "eight bits": lambda: torch.ones(4).to(torch.float8_e5m2),
    "four bits": lambda: torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    "sixteen bits, no sign": lambda: torch.ones(4, dtype=torch.uint16),
    "no dimension": lambda: torch.ones(()),
    "empty": lambda: torch.ones(0),
    "another width": lambda: torch.ones(7),
    "two dimensions": lambda: torch.ones(2, 2),
    "text": lambda: "x",
    "nothing": lambda: None,
    "a list": lambda: [1, 2],
    "a parameter": lambda: nn.Parameter(torch.ones(4)),
}
KEYS = (
    "0.weight",
    "1.weight",
    "1.running_mean",
    "1.running_var",
    "1.num_batches_tracked",
    "2.bias",
)


def holds_itself(depth):
    inner = outer = {}
    for _ in range(depth):
        inner["model"] = inner = {}
    inner["state_dict"] = outer
    return outer


STATES = {
    "itself": lambda: holds_itself(0),
    "itself, deeper": lambda: holds_itself(3),
    "itself beside tensors": lambda: (state := dict(network().state_dict())) | {"x": state},
    "numbers for names": lambda: {1: torch.ones(3), "1.running_var": torch.ones(3)},
    "pairs for names": lambda: {(1, 2): torch.ones(3)},
    "none for a name": lambda: {None: torch.ones(3), "1.running_var": torch.ones(3)},
    "long names": lambda: {"a." * 50_000 + "running_mean": torch.ones(3)},
    "one storage, many views": lambda: {
        f"l{i}.running_mean": each for i, each in enumerate(2000 * [torch.ones(2**18)])
    },
    "many layers": lambda: {f"l{i}.running_var": torch.ones(1) for i in range(5000)},
    "list": lambda: [1, 2],
    "tensor": lambda: torch.ones(8, 4),
    "number": lambda: 5,
    "empty": dict,
}


def saved(content, legacy=False):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def archive(pickled=None, compress=False, **more):
    """The bytes of a checkpoint with another pickle, or with more entries of so many zeros."""
    file = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    good = zipfile.ZipFile(io.BytesIO(saved(dict(network().state_dict()))))
    with zipfile.ZipFile(file, "w", method) as new:
        for entry in good.infolist():
            inside = good.read(entry)
            is_pickle = pickled is not None and entry.filename.endswith("data.pkl")
            new.writestr(entry.filename, pickled if is_pickle else inside)
        for name, size in more.items():
            with new.open(f"archive/data/{name}", "w", force_zip64=True) as zeros:
                for _ in range(size >> 24):
                    zeros.write(bytes(1 << 24))
    return file.getvalue()


class Command:
    def __reduce__(self):
        return (print, ("executed",))


PICKLES = {
    "a command": pickle.dumps(Command()),
    "a large memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "many bytes": b"\x80\x02c__builtin__\nbytearray\n\x8a\x06\0\0\0\0\0\x01\x85R.",
    "many digits": b"I" + b"9" * 5000 + b"\n.",
    "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "no text": b"\x80\x02X\x04\0\0\0\xff\xfe\xfd\xfc.",
    "a long text": b"\x80\x02X\xff\xff\xff\x7fab.",
    "pops": b"\x80\x020000.",
    "marks": b"\x80\x02((((.",
    "only an end": b".",
}


def safetensors(header, data=bytes(64)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def of_safetensors(dtype, shape, size):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
    return safetensors({"1.running_mean": entry}, bytes(size))


SAFETENSORS = {
    **{
        f"{dtype} {shape}": of_safetensors(dtype, shape, size)
        for dtype in (
            "F4",
            "F6_E2M3",
            "F8_E4M3",
            "F8_E8M0",
            "F16",
            "U16",
            "U64",
            "C64",
            "BOOL",
            "X",
        )
        for shape, size in (([4], 2), ([4], 4), ([4], 8), ([4], 32), ([], 1))
    },
    "more than there are": of_safetensors("F32", [2**63, 0], 0),
    "more than can be": of_safetensors("F32", [2**62, 4, 0], 0),
    "fewer than none": of_safetensors("F32", [-1], 4),
    "deep": safetensors(b"[" * 100_000),
    "a long header": struct.pack("<Q", 2**62) + b"{}",
    "no text": safetensors(b'{"\xff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'),
    "nothing": b"",
}


def npy(dtype, shape, header=None):
    text = header or f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * ((64 - (len(text) + 11) % 64) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(64)


ARRAYS = {
    **{
        f"{dtype} {shape}": npy(dtype, shape)
        for dtype in (
            "<f4",
            ">f4",
            "<f2",
            "<f16",
            "<u2",
            "|b1",
            "<c8",
            "|O",
            "|S0",
            "|V0",
            "<M8[s]",
        )
        for shape in ("(3,)", "()", "(0, 4)", f"({10**14},)", "(4611686018427387904, 0)", "(-5,)")
    },
    "deep": npy("", "", header="(" * 5000 + ")" * 5000),
    "deep list": npy("", "", header="{'descr':" + "[" * 3000 + "]" * 3000 + "}"),
    "a tuple of text": npy("<f4", "(3, 'x')"),
    "many digits": npy("<f4", f"(1{400 * '0'},)"),
    "nothing": b"",
    "zeros": bytes(4096),
    "a pickle": pickle.dumps(Command()),
}


def checkpoint_cases():
    """(suffix, what makes the bytes) of every case that is written down here."""
    state = dict(network().state_dict())
    for key, make, legacy in itertools.product(KEYS, TENSORS.values(), (False, True)):
        yield ".pt", lambda k=key, m=make, old=legacy: saved(state | {k: m()}, old)
    for make, legacy in itertools.product(STATES.values(), (False, True)):
        yield ".pt", lambda m=make, old=legacy: saved(m(), old)
    for content in PICKLES.values():
        yield ".pt", lambda c=content: c
        yield ".pt", lambda c=content: archive(c)
    yield ".pt", lambda: archive(compress=True, bomb=1 << 30)
    yield ".pt", lambda: archive(compress=True)
    for content in SAFETENSORS.values():
        yield ".safetensors", lambda c=content: c


def batch_cases():
    for make, legacy in itertools.product(TENSORS.values(), (False, True)):
        yield ".pt", lambda m=make, old=legacy: saved(m(), old)
    for content in ARRAYS.values():
        yield ".npy", lambda c=content: c


def whole_file(number, random):
    """One of the good files of each kind, mutated."""
    from safetensors.torch import save

    state = {name: value.clone() for name, value in network().state_dict().items()}
    if number % 4 == 3:
        return ".safetensors", mutated_bytes(save(state), random)
    if number % 4 == 2:
        pickled = zipfile.ZipFile(io.BytesIO(saved(state))).read("archive/data.pkl")
        return ".pt", archive(mutated_bytes(pickled, random))
    return ".pt", mutated_bytes(saved(state, legacy=number % 4 == 1), random)


def inputs(number, random):
    if number % 2:
        return ".pt", mutated_bytes(saved(torch.ones(4, 1, 8, 8)), random)
    file = io.BytesIO()
    np.save(file, np.ones((4, 1, 8, 8), np.float32))
    head, rest = file.getvalue()[:200], file.getvalue()[200:]
    return ".npy", mutated_bytes(head, random) + rest


def checked(path):
    state = load_checkpoint(path)
    assert check_state_dict(state, network()).text()
    examine_state(state, other=network())
    load_into(network(), state, path)


def fed(path):
    assert examine(network(), load_batches(str(path), 64)).forward is not None


@pytest.mark.parametrize(
    ("kind", "cases", "mutated", "use", "small"),
    [
        ("checkpoints", checkpoint_cases, whole_file, checked, 120),
        ("batches", batch_cases, inputs, fed, 60),
    ],
)
def test_files_of_tensors(kind, cases, mutated, use, small, tmp_path):
    written = list(cases())

    def attempt(number):
        suffix, content = (
            (written[number][0], written[number][1]())
            if number < len(written)
            else mutated(number, generator(kind, number))
        )
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        try:
            use(path)
        finally:
            path.unlink()

    network()(torch.ones(1, 1, 8, 8))
    attempt_all(
        kind, attempt, [*some(len(written)), *range(len(written), len(written) + amount(small))]
    ).assert_good()


def test_a_checkpoint_that_holds_itself_beside_another():
    state = network().state_dict()
    outer = {"model": {"net": state}}
    outer["model"]["module"] = outer
    assert unwrap_state({"model": {"net": state}}) is state
