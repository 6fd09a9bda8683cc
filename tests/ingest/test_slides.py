"""Guards slides: scale, tissue and patches are right, memory is bounded by tiles, what cannot be used is named."""

from __future__ import annotations

import dataclasses
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from made_up_slides import GLASS, TILE, TISSUE, block, tiled_tiff
from PIL import Image, ImageFilter

from histotune.data.modalities.bag import Bags
from histotune.data.modalities.graph import GraphModality, neighbours
from histotune.errors import ConfigError, DataError, HistotuneError
from histotune.ingest.datasets import BadFile
from histotune.ingest.slides.prepare import SlideSettings, prepare_slides
from histotune.ingest.slides.reader import Slide, _contradictions
from histotune.ingest.slides.tissue import (
    BLURRED,
    choose,
    coarser,
    finer,
    fold_mask,
    otsu,
    pen_mask,
    saturation,
    sharpness,
    tissue_mask,
)

openslide = pytest.importorskip("openslide")


@pytest.fixture(scope="session")
def settings(frozen: dict[str, str]) -> SlideSettings:
    """Settings with a small network of random weights."""
    return SlideSettings(patch_size=64, **frozen)  # type: ignore[arg-type]


def changed(settings: SlideSettings, **fields: object) -> SlideSettings:
    return dataclasses.replace(settings, **fields)  # type: ignore[arg-type]


def test_otsu_is_the_threshold_of_brute_force() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        values = np.concatenate([rng.normal(40, 15, 500), rng.normal(rng.uniform(60, 200), 25, 300)])
        values = values.clip(0, 255).astype(np.uint8)
        spread = []
        for threshold in range(256):
            low, high = values[values <= threshold], values[values > threshold]
            apart = (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0
            spread.append(len(low) * len(high) * apart)
        assert otsu(np.bincount(values, minlength=256)) == int(np.argmax(np.round(spread, 3)))


def test_saturation_is_that_of_hsv() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    pixels[0] = 0
    theirs = np.asarray(Image.fromarray(pixels).convert("HSV"))[..., 1]
    assert np.abs(saturation(pixels).astype(int) - theirs).max() <= 1  # Pillow rounds down


@pytest.mark.parametrize("rule", ["otsu", "hsv"])
def test_tissue_is_what_is_stained(rule: str) -> None:
    truth = np.zeros((120, 160), bool)
    truth[30:90, 40:120] = True
    pixels = np.where(truth[..., None], TISSUE, GLASS) + np.random.default_rng(0).normal(0, 3, (120, 160, 3))
    mask = tissue_mask(pixels.clip(0, 255).astype(np.uint8), rule)
    assert (mask != truth).mean() < 0.01


@pytest.mark.parametrize("rule", ["otsu", "hsv"])
@pytest.mark.parametrize(("color", "share"), [(GLASS, 0.0), (TISSUE, 1.0), ((255, 255, 255), 0.0), ((0, 0, 0), 0.0)])
@pytest.mark.parametrize("noise", [0, 2])
def test_a_slide_of_one_kind_is_not_divided(rule: str, color: tuple[int, ...], share: float, noise: int) -> None:
    if noise and color == (0, 0, 0):
        pytest.skip("the saturation of black is anything")
    pixels = np.array(color) + np.random.default_rng(0).normal(0, noise, (60, 60, 3))
    assert tissue_mask(pixels.clip(0, 255).astype(np.uint8), rule).mean() == share


def test_the_hsv_rule_is_a_median_and_a_threshold(wsi: Path) -> None:
    with Slide(wsi) as slide:
        overview = slide.overview(4)
    smooth = Image.fromarray(saturation(overview)).filter(ImageFilter.MedianFilter(7))
    from scipy.ndimage import median_filter

    padded = median_filter(saturation(overview), size=7, mode="nearest")
    assert np.array_equal(np.asarray(smooth), padded)
    assert np.array_equal(tissue_mask(overview, "hsv"), padded > 20)


def test_the_real_slide_has_its_size_scale_and_tissue(wsi: Path) -> None:
    with Slide(wsi) as slide:
        assert (slide.width, slide.height) == (2220, 2967)
        assert slide.mpp == pytest.approx(0.499)
        for downsample in (1, 2):
            assert tissue_mask(slide.overview(downsample)).mean() == pytest.approx(0.30, abs=0.03)


def test_a_rectangle_is_the_same_however_it_is_tiled(wsi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Slide(wsi) as slide:
        exact = slide.read(300, 400, 512, 512, (512, 512))
        half = slide.read(300, 400, 512, 512, (256, 256))
        monkeypatch.setattr("histotune.ingest.slides.reader._TILE", 100)
        assert np.array_equal(slide.read(300, 400, 512, 512, (512, 512)), exact)
        tiled = slide.read(300, 400, 512, 512, (256, 256))
    means = exact.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    assert np.abs(means - half).max() <= 1  # Pillow rounds after every axis
    assert np.abs(means - tiled).max() <= 1


def test_a_picture_is_read_like_a_slide(wsi: Path, tmp_path: Path) -> None:
    with Slide(wsi) as slide:
        Image.fromarray(slide.read(0, 0, 1500, 1000, (1500, 1000))).save(tmp_path / "part.png")
        with Slide(tmp_path / "part.png", mpp=0.499) as picture:
            assert picture.mpp == 0.499
            for size in ((200, 100), (100, 50), (400, 200)):
                assert np.array_equal(picture.read(700, 300, 200, 100, size), slide.read(700, 300, 200, 100, size))
            assert (picture.read(1400, 900, 200, 200, (200, 200))[100:] == 255).all()  # beyond the edge is glass


def test_patches_have_the_most_tissue_and_lie_on_the_grid() -> None:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 10:55] = True
    patches = choose(mask, (600, 400), 100, least=0.5, top=0)
    expected = [(x, y) for y in (100, 200) for x in (100, 200, 300, 400, 500)]
    assert list(zip(patches.x, patches.y, strict=True)) == expected
    assert patches.share.tolist() == [1, 1, 1, 1, 0.5] * 2
    best = choose(mask, (600, 400), 100, least=0.05, top=8)
    assert best.share.tolist() == [1] * 8
    odd = choose(np.ones((37, 59), bool), (595, 371), 100.5, least=1, top=0)
    assert len(odd.x) == 5 * 3
    assert odd.x.max() + odd.side <= 595


@settings_of_hypothesis(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 60), st.integers(0, 3))
def test_patches_come_from_all_over_a_slide_that_is_full(rows: int, columns: int, top: int, seed: int) -> None:
    """Each half of a slide, whichever way it is halved, gives its part of the patches, and no patch comes twice."""
    patches = choose(np.ones((rows * 4, columns * 4), bool), (columns * 8, rows * 8), 8, least=0.5, top=top, seed=seed)
    count = min(top, rows * columns)
    assert len({*zip(patches.x, patches.y, strict=True)}) == len(patches.x) == count
    again = choose(np.ones((rows * 4, columns * 4), bool), (columns * 8, rows * 8), 8, least=0.5, top=top, seed=seed)
    assert np.array_equal(patches.x, again.x)
    longer, extent = (patches.y, rows * 8) if rows >= columns else (patches.x, columns * 8)
    if max(rows, columns) % 2 == 0:
        assert abs(int((longer < extent / 2).sum()) - count / 2) <= max(2, 0.2 * count)


def test_the_fullest_patches_are_taken_where_they_differ() -> None:
    mask = np.zeros((40, 40), bool)
    for at in range(4):
        mask[10 * at : 10 * at + 10 - 2 * at, :] = True  # rows of 1, .8, .6 and .4
    assert set(choose(mask, (400, 400), 100, least=0.1, top=4).y) == {0}
    assert set(choose(mask, (400, 400), 100, least=0.1, top=8).y) == {0, 100}


def tissue_with(*, pen: tuple[int, int, int] | None = None) -> np.ndarray:
    """A section of noisy tissue on glass; with a bar of ink above it."""
    rng = np.random.default_rng(0)
    pixels = np.full((200, 200, 3), GLASS, float)
    pixels[80:180, 40:160] = np.array(TISSUE) + rng.normal(0, 12, (100, 120, 3))
    if pen is not None:
        pixels[10:50, 20:180] = pen
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("ink", [(20, 60, 160), (10, 110, 60), (210, 15, 25), (15, 15, 20)])
def test_pen_marks_are_no_tissue(ink: tuple[int, int, int]) -> None:
    plain, marked = tissue_with(), tissue_with(pen=ink)
    pen, stain = pen_mask(marked)
    assert not stain
    assert pen[15:45, 25:175].all()
    assert not pen[80:180].any()
    expected, mask = tissue_mask(plain), tissue_mask(marked, "otsu", pen)
    assert not mask[:60].any()
    assert (mask[70:] == expected[70:]).mean() > 0.995


@pytest.mark.parametrize(
    "color",
    [
        TISSUE,
        (225, 170, 200),
        (90, 50, 130),
        (70, 40, 110),
        (230, 110, 150),
        (190, 70, 80),
        (130, 80, 45),
        (150, 170, 210),
    ],
    ids=["H&E", "eosin", "nuclei", "dense nuclei", "strong eosin", "blood", "DAB", "counterstain"],
)
def test_stains_are_no_pen_marks(color: tuple[int, int, int]) -> None:
    pixels = (np.array(color) + np.random.default_rng(0).normal(0, 8, (60, 60, 3))).clip(0, 255).astype(np.uint8)
    pen, stain = pen_mask(pixels)
    assert not stain
    assert not pen.any()


def test_the_real_slide_has_no_pen_marks(wsi: Path) -> None:
    with Slide(wsi) as slide:
        overview = slide.overview(4)
    pen, stain = pen_mask(overview)
    assert not stain
    assert pen.mean() < 0.001


def test_what_is_mostly_of_a_pens_colour_is_a_stain_and_said() -> None:
    pixels = np.full((60, 60, 3), (20, 60, 160), np.uint8)
    pen, stain = pen_mask(pixels)
    assert stain
    assert not pen.any()


@given(st.integers(1, 90), st.integers(1, 90), st.floats(0.2, 12))
def test_a_mask_of_coarser_pixels_comes_back_at_the_size_before(height: int, width: int, pixel: float) -> None:
    mask = np.zeros((height, width), bool)
    mask[: height // 2] = True
    back = finer(coarser(mask, pixel), pixel, mask.shape)
    assert back.shape == mask.shape
    rows = np.abs(np.arange(height) + 0.5 - height // 2) > 8 / pixel + 1
    assert np.array_equal(back[rows], mask[rows])


def test_what_is_as_small_as_a_nucleus_is_no_pen_mark() -> None:
    pixels = np.full((512, 512, 3), TISSUE, np.uint8)
    for row, column in np.random.default_rng(0).integers(0, 470, (30, 2)):
        pixels[row : row + 40, column : column + 40] = (20, 20, 40)  # 10 µm at .25 µm per pixel
    assert pen_mask(pixels)[0].any()
    assert not pen_mask(coarser(pixels, 0.25))[0].any()


def test_folds_are_saturated_and_dark() -> None:
    pixels = tissue_with()
    pixels[100:112, 60:140] = (120, 15, 85)
    folds = fold_mask(pixels, tissue_mask(pixels))
    assert folds[103:109, 65:135].mean() > 0.95
    assert folds[:95].sum() + folds[117:].sum() == 0


def test_a_patch_out_of_focus_is_less_sharp() -> None:
    pixels = np.random.default_rng(0).integers(120, 220, (64, 64, 3), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(4)))
    assert sharpness(blurred) < BLURRED < sharpness(pixels)
    assert sharpness(pixels[:2]) == 0


def test_artefacts_are_counted_slide_by_slide(settings: SlideSettings, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(tissue_with(pen=(20, 60, 160)).repeat(8, axis=0).repeat(8, axis=1)).save(folder / "pen.png")
    table = prepare_slides(folder, tmp_path / "out", changed(settings, slide_mpp=0.5, top=6))
    row = table.iloc[0]
    assert row["pen"] == pytest.approx(0.16, abs=0.02)
    assert "pen marks on" in row["notes"]
    places = np.load(tmp_path / "out" / "slides" / "pen" / "coordinates.npy")
    assert (places[:, 1] >= 250).all()
    flat = np.full((800, 800, 3), TISSUE, np.uint8)
    Image.fromarray(flat).save(folder / "flat.png")
    table = prepare_slides(folder, tmp_path / "out", changed(settings, slide_mpp=0.5, top=6)).set_index("id")
    assert table.loc["flat", "blurred"] == 6
    assert table.loc["flat", "notes"] == ""


def test_a_scale_that_contradicts_the_file_is_said(settings: SlideSettings, tmp_path: Path) -> None:
    tiled_tiff(tmp_path / "s.tif", 4, 4, block(range(4), range(2)))
    with Slide(tmp_path / "s.tif", 0.25) as slide:
        assert slide.mpp == pytest.approx(0.5)
        assert "the file says 0.5 µm per pixel, not 0.25" in slide.notes[0]
    with Slide(tmp_path / "s.tif", 0.5) as slide:
        assert slide.notes == []
    table = prepare_slides(tmp_path, tmp_path / "out", changed(settings, slide_mpp=0.25))
    assert "0.25" in table["notes"][0]


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"openslide.objective-power": "40"}, "contradicts its objective of 40x"),
        ({"openslide.objective-power": "20"}, ""),
        ({"openslide.mpp-x": "0.5", "openslide.mpp-y": "0.25"}, "not square"),
        ({"openslide.objective-power": "n/a"}, ""),
    ],
)
def test_a_scale_that_contradicts_itself_is_said(properties: dict[str, str], words: str) -> None:
    reader = SimpleNamespace(properties=properties)
    notes = _contradictions(reader, 0.5, None)
    assert words in " ".join(notes)
    assert bool(notes) == bool(words)


def test_patches_are_of_the_scale_asked_for(settings: SlideSettings, tmp_path: Path) -> None:
    tiled_tiff(tmp_path / "in.tif", 4, 4, block(range(4), range(2))).rename(tmp_path / "s.tif")
    for mpp, side, count in ((0.5, 64, 16 * 8), (2.0, 256, 4 * 2), (0.25, 32, 32 * 16), (0.505, 64, 16 * 8)):
        out = tmp_path / str(mpp)
        table = prepare_slides(tmp_path, out, changed(settings, mpp=mpp, top=0))
        assert table["patch_side"][0] == pytest.approx(side)
        assert table["patches"][0] == count
        assert table["tissue"][0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux, which tells a process's peak memory")
def test_memory_is_bounded_by_tiles_and_not_by_the_slide(tmp_path: Path) -> None:
    path = tiled_tiff(tmp_path / "huge.tif", 40, 40, block(range(10, 30), range(10, 40)))  # 10,240 px: 300 MiB of RGB
    code = f"""
from pathlib import Path
from histotune.ingest.slides.reader import Slide
from histotune.ingest.slides.tissue import (choose, tissue_mask)

def peak():  # MiB; unlike ru_maxrss nothing of the parent's
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024

with Slide(Path({str(path)!r})) as slide:
    before = peak()
    mask = tissue_mask(slide.overview(8))
    patches = choose(mask, (slide.width, slide.height), 512, least=.5, top=50)
    print(slide.mpp, round(mask.mean(), 3), len(patches.x), peak() - before)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [float(value) for value in answer[:3]] == [0.5, pytest.approx(20 * 30 / 40**2, abs=0.002), 50]
    assert int(answer[3]) < 150  # MiB


def test_a_slide_becomes_a_bag_and_a_graph_and_only_once(wsi: Path, settings: SlideSettings, tmp_path: Path) -> None:
    folder, out = wsi.parent, tmp_path / "out"
    settings = changed(settings, patch_size=128, top=30, edges="delaunay")
    table = prepare_slides(folder, out, settings)
    assert table["patches"].tolist() == [30]
    stored = GraphModality().load(out / "slides" / wsi.stem)
    assert stored.features.shape == (30, 512)
    assert np.array_equal(stored.neighbours, neighbours(np.array(stored.coordinates), edges="delaunay"))
    assert (stored.coordinates % 128 == 0).all()
    with Image.open(out / "pictures" / f"{wsi.stem}.png") as picture:
        assert max(picture.size) == 1024
    before = {path: path.stat().st_mtime_ns for path in (out / "slides").rglob("*")}
    again = prepare_slides(folder, out, settings)
    pd.testing.assert_frame_equal(again, table)
    assert {path: path.stat().st_mtime_ns for path in (out / "slides").rglob("*")} == before
    assert not (out / ".work").exists()
    fewer = prepare_slides(folder, out, changed(settings, top=5))
    assert fewer["patches"].tolist() == [5]


def test_a_slide_that_was_being_embedded_is_continued(
    settings: SlideSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiled_tiff(tmp_path / "s.tif", 4, 4, block(range(4), range(2)))  # 128 patches, two batches
    settings, patches, read = changed(settings, top=0), list[float](), Slide.read

    def counting(slide: Slide, x: float, y: float, width: float, height: float, size: tuple[int, int]) -> np.ndarray:
        if size == (64, 64):
            patches.append(x)
            if len(patches) == 100:
                raise KeyboardInterrupt
        return read(slide, x, y, width, height, size)

    monkeypatch.setattr(Slide, "read", counting)
    with pytest.raises(KeyboardInterrupt):
        prepare_slides(tmp_path, tmp_path / "out", settings)
    assert not (tmp_path / "out" / "slides").exists()
    patches[:] = [0.0] * 200
    prepare_slides(tmp_path, tmp_path / "out", settings)
    assert len(patches) == 200 + 64
    monkeypatch.setattr(Slide, "read", read)
    prepare_slides(tmp_path, tmp_path / "whole", settings)
    one, other = (GraphModality().load(tmp_path / name / "slides" / "s").features for name in ("out", "whole"))
    assert np.array_equal(one, other)


def test_a_picture_without_glass_is_tissue_all_over(monuseg: Path, settings: SlideSettings, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for path in monuseg.glob("*.png"):
        (tmp_path / "in" / path.name).symlink_to(path)
    with pytest.raises(DataError, match=r"no_scale: TCGA.* give it by --slide-mpp"):
        prepare_slides(tmp_path / "in", tmp_path / "out", settings)
    table = prepare_slides(tmp_path / "in", tmp_path / "out", changed(settings, slide_mpp=0.25, patch_size=128))
    assert table["tissue"].tolist() == [1.0] * 4
    assert table["patches"].tolist() == [9] * 4


def test_a_vector_is_that_of_its_patch(wsi: Path, settings: SlideSettings, tmp_path: Path) -> None:
    from histotune.ingest.embeddings import load_encoder

    prepare_slides(wsi.parent, tmp_path, changed(settings, top=3))
    stored: Bags = GraphModality().load(tmp_path / "slides" / wsi.stem)
    encoder = load_encoder(settings.backbone, settings.weights, settings.patch_size)
    with openslide.OpenSlide(wsi) as slide:
        for features, place in zip(stored.features, stored.coordinates.astype(int), strict=True):
            patch = np.array(slide.read_region(tuple(place), 0, (64, 64)).convert("RGB"))
            assert np.allclose(encoder.run(patch[None])[0], features, atol=1e-4)


def test_slides_that_cannot_be_used_are_listed_and_drawn(settings: SlideSettings, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "in" / "out"
    (folder / "again").mkdir(parents=True)
    tiled_tiff(folder / "good.tif", 3, 3, block(range(1, 2), range(1, 3)))
    tiled_tiff(folder / "again" / "good.tif", 3, 3, block(range(3), range(3)))
    tiled_tiff(folder / "glass.tif", 3, 3, {})
    (folder / "text.svs").write_text("no slide")
    (folder / "empty.ndpi").touch()
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "unscaled.png")
    Image.fromarray(noise[:40, :40]).save(folder / "tiny.tif", resolution=20_000, resolution_unit="cm")
    for _ in range(2):  # the second time the pictures lie in the folder
        table = prepare_slides(folder, out, settings)
        assert table["file"].tolist() == ["again/good.tif"]
        problems = pd.read_csv(out / "problems.csv", index_col="path")["kind"].to_dict()
        assert problems == {
            "good.tif": "same_id",
            "glass.tif": "no_tissue",
            "text.svs": "not_a_slide",
            "empty.ndpi": "empty",
            "unscaled.png": "no_scale",
            "tiny.tif": "no_scale",
        }
    assert (out / "pictures" / "glass.png").exists()
    with pytest.raises(DataError, match="strict"):
        prepare_slides(folder, out, settings, strict=True)
    scaled = prepare_slides(folder, out, changed(settings, slide_mpp=0.25))
    assert sorted(scaled["id"]) == ["good", "unscaled"]


@pytest.mark.parametrize(("side", "said"), [(3, "is damaged"), (8, "cannot be decoded at")])
def test_a_damaged_slide_is_named(side: int, said: str, tmp_path: Path) -> None:
    path = tiled_tiff(tmp_path / "cut.tif", side, side, block(range(3), range(3)))  # OpenSlide checks a small one first
    whole = bytearray(path.read_bytes())
    start = 8 + 2 * TILE * TILE * 3
    whole[start : start + 4] = struct.pack("<I", 2**31)  # this tile lies beyond the end
    path.write_bytes(whole)
    with pytest.raises(BadFile, match=rf"cut\.tif {said}"), Slide(path) as slide:
        slide.read(0, 0, 700, 700, (700, 700))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"patch_size": 4}, "patch_size must lie"),
        ({"mpp": 0}, "mpp must lie"),
        ({"slide_mpp": 500.0}, "slide_mpp must lie"),
        ({"tissue": "otzu"}, "Did you mean 'otsu'"),
        ({"min_tissue": 0}, "min_tissue"),
        ({"edges": "nn"}, "edges must be one of"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        changed(SlideSettings(), **fields)


def test_a_folder_without_usable_slides_is_refused(settings: SlideSettings, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        prepare_slides(tmp_path / "nowhere", tmp_path / "out", settings)
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="hold no slides"):
        prepare_slides(tmp_path / "in", tmp_path / "out", settings)
    tiled_tiff(tmp_path / "in" / "glass.tif", 3, 3, {})
    with pytest.raises(DataError, match=r"none of 1 slides .* no_tissue: 0.0% of the slide is tissue"):
        prepare_slides(tmp_path / "in", tmp_path / "out", settings)


def test_a_folder_that_cannot_be_written_to_is_named(settings: SlideSettings, tmp_path: Path) -> None:
    tiled_tiff(tmp_path / "s.tif", 2, 2, block(range(2), range(2)))
    (tmp_path / "out").write_text("a file")
    with pytest.raises(HistotuneError, match=r"cannot write .*out"):
        prepare_slides(tmp_path, tmp_path / "out", settings)


def test_without_openslide_a_slide_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiled_tiff(tmp_path / "s.tif", 1, 1, {})
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(ConfigError, match=r"histotune\[slides\]"):
        Slide(path)
