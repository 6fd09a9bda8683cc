"""The same pixels in every format and bit depth; a file of several images is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_tiffs import write_tiff
from PIL import Image

from histotune.ingest.datasets import BadFile, read_image

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
