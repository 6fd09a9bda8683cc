"""No file crashes anything: what can be converted faithfully is converted, the rest is listed with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from histotune.data.cohort import Cohort, read_paths
from histotune.errors import DataError
from histotune.ingest.datasets import DATASETS, BadFile
from histotune.ingest.images import fit, read_image
from histotune.ingest.prepare import prepare

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def deep_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits per channel, [H, W, 3] uint16, which Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_plain_rgb_is_untouched(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(PIXELS))
    picture = read_image(tmp_path / "a.png")
    assert np.array_equal(picture.pixels, PIXELS)
    assert picture.converted == ""


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    grey = PIXELS[..., 0]
    (tmp_path / "a.png").write_bytes(png(grey))
    picture = read_image(tmp_path / "a.png")
    assert np.array_equal(picture.pixels, np.repeat(grey[..., None], 3, axis=2))
    assert picture.converted == "grey"


def test_sixteen_bit_grey_is_scaled_over_the_whole_range(tmp_path: Path) -> None:
    deep = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    (tmp_path / "a.png").write_bytes(png(deep))
    picture = read_image(tmp_path / "a.png")
    assert np.array_equal(picture.pixels[..., 1].ravel(), np.arange(256))
    assert picture.converted == "16 bit"


def test_sixteen_bit_rgb_is_scaled_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(deep_png(PIXELS.astype(np.uint16) * 257))
    picture = read_image(tmp_path / "a.png")
    assert np.array_equal(picture.pixels, PIXELS)
    assert picture.converted == "16 bit"


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 100, 150), np.uint8)
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "a.tif")
    picture = read_image(tmp_path / "a.tif")
    assert np.abs(picture.pixels.astype(int) - flat).max() <= 2
    assert picture.converted == "cmyk"


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    clear = np.dstack([PIXELS, np.zeros((16, 16), np.uint8)])
    (tmp_path / "a.png").write_bytes(png(clear))
    picture = read_image(tmp_path / "a.png")
    assert (picture.pixels == 255).all()
    assert picture.converted == "transparency"


def test_palette_and_one_bit_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).quantize(8).save(tmp_path / "p.png")
    Image.fromarray(PIXELS[..., 0] > 127).save(tmp_path / "b.png")
    assert read_image(tmp_path / "p.png").converted == "palette"
    assert set(np.unique(read_image(tmp_path / "b.png").pixels)) == {0, 255}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"this is a text file\n" * 9, "not_an_image", id="text"),
        pytest.param(png(PIXELS)[:200], "broken", id="truncated"),
        pytest.param(png(PIXELS)[:20], "broken", id="header cut"),
        pytest.param(png(PIXELS)[:100] + b"\0" * 40 + png(PIXELS)[140:], "broken", id="garbled"),
    ],
)
def test_what_cannot_be_read_has_a_kind(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(BadFile) as caught:
        read_image(tmp_path / "a.png")
    assert caught.value.kind == kind


def test_a_missing_file_has_a_kind(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="missing"):
        read_image(tmp_path / "a.png")


def test_floats_without_a_defined_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RNG.random((16, 16)).astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(BadFile, match="save it as RGB"):
        read_image(tmp_path / "a.tif")


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    Image.new("1", (12_000, 12_000)).save(tmp_path / "a.png")
    with pytest.raises(BadFile, match="too many pixels"):
        read_image(tmp_path / "a.png")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF"]), st.data())
def test_damage_is_read_or_reported_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, form)
    content = bytearray(buffer.getvalue())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        pixels = read_image(path).pixels
    except BadFile:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3


def test_area_interpolation_averages() -> None:
    checks = np.indices((16, 16)).sum(axis=0) % 2 * 200
    image = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    assert (fit(image, 8) == 100).all()


@pytest.mark.parametrize("side", [8, 16, 33])
@pytest.mark.parametrize("shape", [(16, 16), (10, 30), (30, 10), (16, 9)])
@pytest.mark.parametrize("resize", ["area", "pad"])
def test_every_shape_fits(shape: tuple[int, int], side: int, resize: str) -> None:
    flat = np.full((*shape, 3), 90, np.uint8)
    fitted = fit(flat, side, resize)
    assert fitted.shape == (side, side, 3)
    assert (fitted[side // 2, side // 2] == 90).all()
    assert (fitted == 90).all() or (resize == "pad" and shape[0] != shape[1])


def test_padding_keeps_the_scale_and_adds_white() -> None:
    image = np.zeros((4, 8, 3), np.uint8)
    assert (fit(image, 8, "pad")[2:6] == 0).all()
    assert (fit(image, 8, "pad")[:2] == 255).all()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Four patients, two classes, twelve good files, and one of every kind of bad or odd file."""
    root = tmp_path / "mixed"
    rng = np.random.default_rng(1)
    for patient in ("p1", "p2", "p3", "p4"):
        for label in ("benign", "tumour"):
            folder = root / patient / label
            folder.mkdir(parents=True)
            for number in range(5):
                (folder / f"{number}.png").write_bytes(png(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)))
    bad = root / "p1" / "tumour"
    (bad / "truncated.png").write_bytes(png(PIXELS)[:200])
    (bad / "empty.png").write_bytes(b"")
    (bad / "text.png").write_text("not an image at all")
    (bad / "copy.png").write_bytes((bad / "0.png").read_bytes())
    (bad / "speck.png").write_bytes(png(PIXELS[:3, :3]))
    (bad / "large.png").write_bytes(png(np.tile(PIXELS, (2, 2, 1))))
    (bad / "grey.png").write_bytes(png(PIXELS[..., 0]))
    (bad / "deep.png").write_bytes(deep_png(PIXELS.astype(np.uint16) * 257))
    Image.fromarray(PIXELS[::-1]).convert("CMYK").save(bad / "cmyk.jpg")
    (root / "p2" / "benign" / "twin.png").write_bytes(png(PIXELS.transpose(1, 0, 2)))
    (root / "p3" / "tumour" / "twin.png").write_bytes(png(PIXELS.transpose(1, 0, 2)))
    return root


def prepared(root: Path, *, strict: bool = False) -> Cohort:
    return prepare(DATASETS.build("image_folder"), root, image_size=16, cache=root.parent / "cache", strict=strict)


def test_bad_files_are_left_out_listed_and_counted(mixed: Path) -> None:
    cohort = prepared(mixed)
    left_out = {"broken": 1, "empty": 1, "not_an_image": 1, "duplicate": 1, "too_small": 1, "contradiction": 2}
    assert cohort.facts["left_out"] == left_out
    assert cohort.facts["odd"] == {"wrong_size": 1}
    assert cohort.facts["converted"] == {"grey": 1, "16 bit": 1, "cmyk": 1}
    assert len(cohort) == 40 + 4
    assert len(cohort.arrays["image"]) == 44
    problems = pd.read_csv(cohort.folder / "problems.csv")
    assert set(problems["path"].map(lambda path: Path(path).name)) == {
        "truncated.png",
        "empty.png",
        "text.png",
        "copy.png",
        "speck.png",
        "large.png",
        "twin.png",
    }
    assert problems["reason"].str.len().min() > 5


def test_what_is_kept_stands_in_its_own_row(mixed: Path) -> None:
    cohort = prepared(mixed)
    for row, path in enumerate(read_paths(cohort)):
        assert np.array_equal(cohort.arrays["image"][row], fit(read_image(mixed / path).pixels, 16))


def test_strict_makes_every_problem_an_error(mixed: Path) -> None:
    with pytest.raises(DataError, match=r"8 files have problems .*problems\.csv"):
        prepared(mixed, strict=True)


def test_strict_accepts_good_files(tiny_folder: Callable[..., Path]) -> None:
    root = tiny_folder({"p1": {"a": 2, "b": 2}})
    assert len(prepared(root, strict=True)) == 4


def test_only_bad_files_is_an_error_that_names_one(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "x.png").write_text("text")
    with pytest.raises(DataError, match=r"none of 2 files .* can be read.*not_an_image"):
        prepared(tmp_path / "data")
    assert not list((tmp_path / "cache").glob("image_folder*"))


def test_one_class_left_after_bad_files_is_an_error_with_numbers(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
    (tmp_path / "data" / "a" / "x.png").write_bytes(png(PIXELS))
    (tmp_path / "data" / "b" / "x.png").write_text("text")
    with pytest.raises(DataError, match=r"one class only \(a: 1, b: 0\)"):
        prepared(tmp_path / "data")
