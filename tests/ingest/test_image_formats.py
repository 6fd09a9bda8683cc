"""The same pixels in every format and bit depth; a file of several images is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_tiffs import write_tiff
from PIL import Image, ImageOps

from histotune.ingest.datasets import BadFile
from histotune.ingest.images import read_image

COLOUR = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
GREY = COLOUR[:, :, 0]
REPEATED = np.repeat(GREY[:, :, None], 3, axis=2)
DEEP = COLOUR.astype(np.uint16) * 257
Save = Callable[[Path], object]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp", ".ppm"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_lossless_format_gives_the_same_pixels(suffix: str, mode: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    image = Image.fromarray(COLOUR if mode == "RGB" else GREY)
    image.save(path, **({"lossless": True} if suffix == ".webp" else {}))
    assert np.array_equal(read_image(path).pixels, COLOUR if mode == "RGB" else REPEATED)


@pytest.mark.parametrize(
    ("page", "how", "expected"),
    [
        (COLOUR, {"planar": True}, COLOUR),
        (DEEP, {}, COLOUR),
        (DEEP[..., 0], {}, REPEATED),
        (255 - GREY, {"photometric": 0}, REPEATED),
        (65535 - DEEP[..., 0], {"photometric": 0}, REPEATED),
        (np.rint(GREY * (4095 / 255)).astype(np.uint16), {"bits": 12}, REPEATED),
    ],
    ids=["planar", "16 bit", "16 bit grey", "white is 0", "16 bit, white is 0", "12 bit"],
)
def test_every_kind_of_tiff_gives_the_same_pixels(
    page: np.ndarray, how: dict[str, int], expected: np.ndarray, tmp_path: Path
) -> None:
    assert np.array_equal(read_image(write_tiff(tmp_path / "a.tif", [page], **how)).pixels, expected)  # type: ignore[arg-type]


@given(st.integers(0, 255), st.sampled_from([8, 12, 16]))
@settings(deadline=None)
def test_a_grey_is_the_same_grey_at_any_depth(tmp_path_factory: pytest.TempPathFactory, value: int, bits: int) -> None:
    path = tmp_path_factory.getbasetemp() / "depth.tif"
    kind = np.uint8 if bits == 8 else np.uint16
    page = np.full((8, 8), round(value * (2**bits - 1) / 255), kind)
    write_tiff(path, [page], bits=bits)
    assert set(read_image(path).pixels.ravel().tolist()) == {value}


def test_deep_colours_in_planes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="plane for each colour"):
        read_image(write_tiff(tmp_path / "a.tif", [DEEP], planar=True))


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("label first.tif", lambda path: write_tiff(path, [COLOUR, COLOUR])),
        ("red, green, blue.tif", lambda path: write_tiff(path, [COLOUR[..., at] for at in range(3)])),
        ("a smaller one, not said.tif", lambda path: write_tiff(path, [COLOUR, COLOUR[:8, :8]])),
        ("copy and label.tif", lambda path: write_tiff(path, [COLOUR, COLOUR[::2, ::2], COLOUR], subfiles=(0, 1, 0))),
        ("z stack.tif", lambda path: write_tiff(path, [DEEP[..., 0]] * 5)),
    ],
)
def test_a_tiff_of_several_images_is_refused(name: str, save: Save, tmp_path: Path) -> None:
    save(tmp_path / name)
    with pytest.raises(BadFile, match=r"several_pages: it holds \d pages"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_is_refused(suffix: str, tmp_path: Path) -> None:
    first, second = Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)
    first.save(tmp_path / f"a{suffix}", save_all=True, append_images=[second])
    with pytest.raises(BadFile, match="several_pages: it holds 2 frames"):
        read_image(tmp_path / f"a{suffix}")


def test_smaller_copies_and_masks_of_the_first_page_are_no_other_image(tmp_path: Path) -> None:
    pages = [COLOUR, COLOUR[::2, ::2], COLOUR[::4, ::4], GREY]
    path = write_tiff(tmp_path / "pyramid.tif", pages, subfiles=(0, 1, 1, 4))
    assert np.array_equal(read_image(path).pixels, COLOUR)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@given(orientation=st.integers(1, 8))
@settings(max_examples=8, deadline=None)
def test_an_orientation_is_followed_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, orientation: int
) -> None:
    pixels = np.random.default_rng(orientation).integers(0, 256, (9, 12, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    file = tmp_path_factory.mktemp("turned") / f"a{suffix}"
    Image.fromarray(pixels).save(file, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    expected = ImageOps.exif_transpose(Image.open(file).convert("RGB"))
    if suffix == ".png":
        turned = Image.fromarray(pixels)
        turned.info["exif"] = exif.tobytes()
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(turned)), read_image(file).pixels)
    if suffix != ".tif":  # Pillow has turned it already
        assert np.array_equal(np.asarray(expected), read_image(file).pixels)
    shape = (12, 9, 3) if orientation >= 5 else (9, 12, 3)
    assert read_image(file).pixels.shape == shape


def test_all_formats_turn_alike(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        Image.fromarray(pixels).save(tmp_path / "a.tif", exif=exif)
        assert np.array_equal(read_image(tmp_path / "a.png").pixels, read_image(tmp_path / "a.tif").pixels)


def test_a_transparent_colour_lies_on_white_in_every_mode(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    Image.fromarray(grey).save(tmp_path / "grey.png", transparency=5)
    Image.fromarray(rgb).save(tmp_path / "rgb.png", transparency=(5, 5, 5))
    expected = np.where(rgb == 5, 255, rgb)
    for name in ("grey.png", "rgb.png"):
        assert np.array_equal(read_image(tmp_path / name).pixels, expected), name


def test_a_stack_of_imagej_that_is_one_page_to_others_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((8, 8), np.uint8))
    image.save(tmp_path / "stack.tif", description="ImageJ=1.53t\nimages=3\nslices=3\n")
    image.save(tmp_path / "one.tif", description="ImageJ=1.53t\nimages=1\n")
    with pytest.raises(BadFile, match="stack of 3 images"):
        read_image(tmp_path / "stack.tif")
    assert read_image(tmp_path / "one.tif").pixels.shape == (8, 8, 3)


def test_a_jpeg_of_several_pictures_is_its_first_and_says_so(tmp_path: Path) -> None:
    first, second = (Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (40, 200))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    picture = read_image(tmp_path / "a.jpg")
    assert abs(picture.pixels.astype(int) - 40).max() <= 2
    assert picture.note is not None
    assert picture.note[0] == "several_pages"


def test_twelve_bits_in_sixteen_are_said(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (8, 8)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "dim.png")
    Image.fromarray(values * 16).save(tmp_path / "full.png")
    note = read_image(tmp_path / "dim.png").note
    assert note is not None
    assert note[0] == "dim"
    assert read_image(tmp_path / "full.png").note is None
