"""Images and parquet files of others: mutated bytes, and files that unpack to much more."""

import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mutations import mutated_bytes
from PIL import Image
from trials import amount, attempt_all, generator, some

from normscope.data.layouts import folders, parquet, pickled
from normscope.data.sources import read_images
from normscope.errors import InputError
from normscope.records.read_limits import IMAGES_OPTION


def encoded(size=(6, 6), kind="PNG", mode="RGB"):
    file = io.BytesIO()
    image = Image.new(mode, size)
    image.putpixel((1, 1), 1 if mode in ("L", "1", "P") else (9, 8, 7))
    image.save(file, kind)
    return file.getvalue()


def png_of(width, height):
    """A PNG that says that it has so many pixels, all of them black."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(min(1 << 22, (3 * width + 1) * height)))
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def repeated(value, times):
    return pa.DictionaryArray.from_arrays(np.zeros(times, np.int32), [value])


def table(images, labels, **options):
    file = io.BytesIO()
    pq.write_table(pa.table({"image": images, "label": labels}), file, **options)
    return file.getvalue()


TWO = [{"bytes": encoded(), "path": None}] * 2
LABELS = (2**28, 2**31, 2**62, -1, -(2**62))
PARQUET = {
    **{f"label {label}": lambda label=label: table(TWO, [0, label]) for label in LABELS},
    "a label without a sign": lambda: table(TWO, pa.array([0, 2**64 - 1], pa.uint64())),
    "labels of numbers with a point": lambda: table(TWO, [0.0, float("nan")]),
    "no label": lambda: table(TWO, [0, None]),
    "text that is none": lambda: table(
        TWO, pa.array([b"\xff\xfe", b"a"], pa.binary()).view(pa.string())
    ),
    "images that are text": lambda: table(["a", "b"], [0, 1]),
    "no images": lambda: table([None, None], [0, 1]),
    "a list of images": lambda: table([[1], [2]], [0, 1]),
    "many rows": lambda: table(repeated(b"x", 11_000_000), np.zeros(11_000_000, np.int8)),
    "a large cell": lambda: table([bytes(150_000_000), encoded()], [0, 1]),
    "one long value in many rows": lambda: table(
        repeated(encoded() + bytes(50_000_000), 2000), [0, 1] * 1000, store_schema=False
    ),
    "no rows": lambda: table(pa.array([], pa.binary()), pa.array([], pa.int64())),
}
IMAGES = {
    **{f"{w} x {h}": lambda w=w, h=h: png_of(w, h)
       for w, h in ((13_000, 13_000), (2**31 - 1, 1), (60_000, 60_000), (0, 0), (1, 10**6))},
    "cut short": lambda: png_of(6, 6)[:40],
    "text": lambda: b"hello",
    "nothing": lambda: b"",
    "an animation": lambda: encoded(kind="GIF", mode="P"),
}  # fmt: skip


def in_folder(root, content, suffix):
    """Class folders of two classes, the first image of which is that content."""
    for split in ("train", "test"):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            (root / split / name / "0.png").write_bytes(encoded())
    (root / "train" / "a" / "0.png").unlink()
    (root / "train" / "a" / f"0{suffix}").write_bytes(content)


def mutated(number, random):
    if number % 2:
        kinds = (("PNG", "RGB"), ("JPEG", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"),
                 ("PPM", "RGB"), ("WEBP", "RGB"))  # fmt: skip
        kind, mode = random.choice(kinds)
        return f".{kind.lower()}", mutated_bytes(encoded((8, 8), kind, mode), random)
    options = {"compression": random.choice(["none", "snappy", "zstd"])}
    return ".parquet", mutated_bytes(
        table(TWO, random.choice([[0, 1], ["a", "b"]]), **options), random
    )


def test_images_and_parquet(tmp_path):
    written = [(".parquet", make) for make in PARQUET.values()]
    written += [(".png", make) for make in IMAGES.values()]

    def attempt(number):
        suffix, content = (
            (written[number][0], written[number][1]())
            if number < len(written)
            else mutated(number, generator("images", number))
        )
        root = tmp_path / str(number)
        root.mkdir()
        if suffix == ".parquet":
            (root / "train.parquet").write_bytes(content)
            (root / "test.parquet").write_bytes(table(TWO, [0, 1]))
        else:
            in_folder(root, content, suffix)
        read_images(root, tmp_path / "cache" / str(number))

    numbers = [*some(len(written)), *range(len(written), len(written) + amount(60))]
    attempt_all("images", attempt, numbers, megabytes=2048).assert_good()


def test_the_line_names_the_number_and_the_option(tmp_path, monkeypatch):
    in_folder(tmp_path, png_of(5000, 5000), ".png")
    with pytest.raises(InputError, match=rf"would take 75 MB, .*{IMAGES_OPTION}=4.8 in"):
        folders.find(tmp_path).read()
    monkeypatch.setenv(IMAGES_OPTION, "4.9")
    with pytest.raises(InputError, match="damaged|same size"):
        folders.find(tmp_path).read()
    monkeypatch.setenv(IMAGES_OPTION, "many")
    with pytest.raises(InputError, match="expected a number"):
        folders.find(tmp_path).read()


def test_parquet_of_which_pyarrow_aborts_where_it_is_asked_for_a_column(tmp_path):
    whole = table(TWO, [0, 1], compression="none")
    footer = whole.rindex(b"PAR1") - int.from_bytes(whole[-8:-4], "little") - 4
    (tmp_path / "test.parquet").write_bytes(whole)

    def attempt(number):
        data = bytearray(whole)
        data[footer + number % (len(whole) - 8 - footer)] ^= 1 << number % 8
        (tmp_path / "train.parquet").write_bytes(data)
        parquet.find(tmp_path).read()

    attempt_all("footers", attempt, range(amount(100)), megabytes=4096).assert_good()


def test_parquet_beyond_its_budget_and_with_too_many_classes(tmp_path, monkeypatch):
    (tmp_path / "test.parquet").write_bytes(table(TWO, [0, 1]))
    (tmp_path / "train.parquet").write_bytes(table(TWO, [0, 2**28]))
    with pytest.raises(InputError, match="label 268435456; there are at most 100,000 classes"):
        parquet.find(tmp_path).read()
    monkeypatch.setenv(IMAGES_OPTION, "1e-7")
    with pytest.raises(InputError, match=f"2 rows in .* would take .*{IMAGES_OPTION}="):
        parquet.find(tmp_path)


def test_a_pickle_that_names_a_large_number_takes_no_memory(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")
    with pytest.raises(InputError, match="holds no list of labels"):
        pickled.read_batch(tmp_path / "data_batch_1")
