"""A folder of whole slides -> tissue, patches, embeddings, bags and graphs on disk, slide by slide.

OUT/
    slides.csv      id, file, patches, what was measured of each; written last
    problems.csv    slides that were left out, and why
    settings.json   how
    labels.csv      a copy of FOLDER/labels.csv, where there is one
    pictures/       ID.png: tissue and patches of every slide
    slides/ID/      one bag with its neighbours, which the kinds `bag` and `graph` read, and slide.json
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from histotune.core import files
from histotune.core.parameters import Interval
from histotune.core.progress import Progress, silent
from histotune.core.provenance import short_digest
from histotune.data.modalities.bag import join
from histotune.data.modalities.graph import RANGES, GraphModality, connect
from histotune.errors import ConfigError, DataError, suggest
from histotune.ingest.datasets import BadFile, Problem
from histotune.ingest.embeddings import BACKBONE, PACKAGE, Encoder, embed, load_encoder
from histotune.ingest.images import fit
from histotune.ingest.slides.reader import OVERVIEW, SUFFIXES, Slide
from histotune.ingest.slides.tissue import (
    BLURRED,
    FOLDED,
    RULES,
    Patches,
    choose,
    coarser,
    finer,
    fold_mask,
    pen_mask,
    shares_of,
    sharpness,
    tissue_mask,
)
from histotune.ingest.walk import refused, summary, walk

FORMAT = 1
_FINE = 8  # pixels of the overview along a patch, at least
_WORK = ".work"  # what is not whole yet
_PICTURE = 1024  # longer side of a picture, pixels
_EDGE, _CHOSEN = (0, 114, 178), (213, 94, 0)  # blue and vermilion of Okabe & Ito (2008)
_SCALE = Interval(0.05, 20, unit="µm per pixel")
_RANGES = {
    "patch_size": Interval(16, 4096, whole=True),
    "mpp": _SCALE,
    "min_tissue": Interval(0, 1, open_low=True),
    "top": Interval(0, whole=True),
    "seed": Interval(0, whole=True),
    **RANGES,
}

"""Is called with (what is done, slides done, slides in all)."""


@dataclass(frozen=True)
class SlideSettings:
    """What becomes of a slide.

    Args:
        patch_size: side of a patch, pixels.
        mpp: µm per pixel of a patch; the slide is resampled, unless its own scale is within 2 %.
        slide_mpp: µm per pixel of the slides whose file does not say it.
        tissue: rule of `tissue.tissue_mask`.
        min_tissue: share of tissue that a patch needs.
        top: patches with most tissue that are kept of a slide, from all over it; 0 is all.
        seed: of the draw among equally full patches.
        backbone, weights, mean, std: as in `embeddings.load_encoder`.
        edges, k, limit: as in `modalities.graph.neighbours`; `limit` in pixels of the slide.
    """

    patch_size: int = 256
    mpp: float = 0.5
    slide_mpp: float | None = None
    tissue: str = "otsu"
    min_tissue: float = 0.5
    top: int = 50
    seed: int = 0
    backbone: str = BACKBONE
    weights: str = PACKAGE
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    edges: str = "knn"
    k: int = 8
    limit: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values outside their range before a slide is opened."""
        for name, allowed in _RANGES.items():
            allowed.check(name, getattr(self, name))
        if self.slide_mpp is not None:
            _SCALE.check("slide_mpp", self.slide_mpp)
        if self.tissue not in RULES:
            raise ConfigError(f"unknown tissue rule {self.tissue!r}. {suggest(self.tissue, RULES)}")


def prepare_slides(
    folder: Path,
    out: Path,
    settings: SlideSettings | None = None,
    *,
    strict: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Turn every slide of a folder into a bag of embedded patches with their neighbours.

    A slide that is done with the same settings is not opened again; one that was being embedded is continued.

    Args:
        folder: searched with its subfolders.
        out: folder to write.
        settings: how; None takes the defaults.
        strict: whether a slide that cannot be used is an error.
        progress: is called with how far it is.

    Returns:
        `slides.csv`, one row per slide.

    Raises:
        DataError: there is no slide, none can be used, or `strict` met one that cannot; says why.
    """
    settings = settings or SlideSettings()
    paths, passed_over = _slide_files(folder, out)
    try:
        with files.lock(out / ".lock", "preparing slides"):
            return _prepare(folder, paths, passed_over, out, settings, strict=strict, report=progress or silent)
    except OSError as error:
        raise files.unwritable(out, error) from error


def _prepare(
    folder: Path,
    paths: list[Path],
    passed_over: list[Problem],
    out: Path,
    settings: SlideSettings,
    *,
    strict: bool,
    report: Progress,
) -> pd.DataFrame:
    if strict and (bad := refused(passed_over)):
        raise DataError(f"{_words(bad[0])}. Without --strict it is left out and listed")
    encoder = load_encoder(
        settings.backbone, settings.weights, settings.patch_size, mean=settings.mean, std=settings.std
    )
    rows, problems = list[dict[str, Any]](), list[Problem]()
    for done, path in enumerate(paths):
        report("slides", done, len(paths))
        name = str(path.relative_to(folder))
        try:
            if any(row["id"] == path.stem for row in rows):
                raise BadFile("same_id", f"another file is slide {path.stem} already")
            rows.append({"id": path.stem, "file": name, **_one(path, out, settings, encoder)})
        except BadFile as error:
            if strict:
                raise DataError(f"{path}: {error}. Without --strict it is left out and listed") from error
            problems.append(Problem(name, error.kind, error.reason))
    report("slides", len(paths), len(paths))
    if not rows:
        raise DataError(f"none of {len(paths)} slides in {folder} can be used; the first: {_words(problems[0])}")
    shutil.rmtree(out / _WORK, ignore_errors=True)
    left_out = {problem.path for problem in problems}
    others = [problem for problem in passed_over if problem.path not in left_out]
    return _write_tables(folder, out, settings, encoder, rows, [*problems, *others])


def _slide_files(folder: Path, out: Path) -> tuple[list[Path], list[Problem]]:
    """List the slides of a folder, without pictures of theirs that `out` inside it holds, and what is passed over."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: name one that holds whole slides ({', '.join(sorted(SUFFIXES))})")
    inside = out.absolute()
    walked = walk(folder, SUFFIXES, skip=lambda path, _: (folder / path).absolute() == inside)
    if not walked.files:
        others = f"; passed over: {summary(walked.problems)}" if walked.problems else ""
        raise DataError(f"{folder} and its subfolders hold no slides ({', '.join(sorted(SUFFIXES))}){others}")
    return [folder / file.path for file in walked.files], [p for p in walked.problems if p.kind != "same_name"]


def _one(path: Path, out: Path, settings: SlideSettings, encoder: Encoder) -> dict[str, Any]:
    """Bring one slide to its folder, unless it is there; returns its row."""
    ready = out / "slides" / path.stem
    record = ready / "slide.json"
    stat = path.stat()
    how = {name: value for name, value in asdict(settings).items() if name not in ("mean", "std")}  # the encoder's
    decisive = [FORMAT, path.name, stat.st_size, stat.st_mtime_ns, how, encoder.digest]
    key = short_digest(json.dumps(decisive), 16)
    if record.is_file():
        saved = files.read_json(record, cure="delete it, and the slide is prepared anew")
        if saved["key"] == key:
            return dict(saved["row"])
    with Slide(path, settings.slide_mpp) as slide:
        found = _patches(slide, settings, out / "pictures" / f"{path.stem}.png")
        mask, patches = found.tissue, found.patches
        features, blurred = _embedded(slide, patches, settings, encoder, key, out / _WORK)
        folded = shares_of(found.folds, (slide.width, slide.height), patches) >= FOLDED
        row = found.measured | {"blurred": blurred, "folded": int(folded.sum())}
    row = {
        "width": slide.width,
        "height": slide.height,
        "mpp": slide.mpp,
        "tissue": round(float(mask.mean()), 4),
        "patches": len(patches.x),
        "patch_side": patches.side,
        "mean_patch_tissue": round(float(patches.share.mean()), 4),
        **row,
        "notes": "; ".join([*slide.notes, *found.notes]),
    }
    places = np.stack([patches.x, patches.y], axis=1)
    bag = connect(join([features], [places]), edges=settings.edges, k=settings.k, limit=settings.limit)
    temporary = Path(tempfile.mkdtemp(dir=out / _WORK))
    GraphModality().save(bag, temporary)
    files.write_json(temporary / "slide.json", {"key": key, "row": row})
    temporary.chmod(0o755)
    shutil.rmtree(ready, ignore_errors=True)
    ready.parent.mkdir(exist_ok=True)
    temporary.rename(ready)
    return row


class _Found(NamedTuple):
    """What is on a slide: masks bool [h, w] of the overview, patches, shares by name, and what a person should know."""

    tissue: np.ndarray
    folds: np.ndarray
    patches: Patches
    measured: dict[str, Any]
    notes: list[str]


def _patches(slide: Slide, settings: SlideSettings, picture: Path) -> _Found:
    """Find tissue and patches of a slide and draw them, also where there are none."""
    if slide.mpp is None:
        raise BadFile(
            "no_scale",
            f"{slide.path.name} does not say how many µm a pixel is: give it by --slide-mpp (.25 at 40x, .5 at 20x)",
        )
    zoom = settings.mpp / slide.mpp
    side = settings.patch_size * (1.0 if abs(zoom - 1) <= 0.02 else zoom)
    downsample = min(-(-max(slide.width, slide.height) // OVERVIEW), int(side // _FINE))
    overview = slide.overview(max(1, downsample))
    pixel = slide.mpp * max(1, downsample)
    coarse = coarser(overview, pixel)
    pen, stain = pen_mask(coarse)
    pen = finer(pen, pixel, overview.shape)
    mask = tissue_mask(overview, settings.tissue, pen)
    folds = finer(fold_mask(coarse, coarser(mask, pixel)), pixel, overview.shape) & mask
    measured = {"pen": round(float(pen.mean()), 4), "folds": round(float(folds.sum() / max(1, mask.sum())), 4)}
    notes = [f"pen marks on {pen.mean():.1%} of the slide are no tissue"] if pen.any() else []
    if stain:
        notes.append("most of what is coloured has a colour of pen marks, and is taken for a stain: see the picture")
    patches = Patches(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), side)
    try:
        size = slide.width, slide.height
        patches = choose(mask, size, side, least=settings.min_tissue, top=settings.top, seed=settings.seed)
    finally:
        draw(overview, mask, patches, slide.width).save(_parent(picture))
    return _Found(mask, folds, patches, measured, notes)


def draw(overview: np.ndarray, mask: np.ndarray, patches: Patches, width: int) -> Image.Image:
    """Draw a slide with the outline of its tissue (blue) and the patches that are kept (vermilion).

    Args:
        overview: uint8 [h, w, 3].
        mask: bool [h, w].
        patches: the chosen ones.
        width: of the slide, pixels at the highest resolution.
    """
    whole = Image.fromarray(overview)
    share = min(1.0, _PICTURE / max(whole.size))
    size = max(1, round(whole.width * share)), max(1, round(whole.height * share))
    tissue = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    pixels = np.array(whole.resize(size, Image.Resampling.BOX))
    inside = np.pad(tissue, 1, mode="edge")
    core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    pixels[tissue & ~core] = _EDGE
    picture = Image.fromarray(pixels)
    pen, scale = ImageDraw.Draw(picture), size[0] / width
    for x, y in zip(patches.x * scale, patches.y * scale, strict=True):
        side = patches.side * scale
        pen.rectangle((x, y, x + side - 1, y + side - 1), outline=_CHOSEN, width=2 if side > 12 else 1)
    return picture


def _embedded(
    slide: Slide, patches: Patches, settings: SlideSettings, encoder: Encoder, key: str, work: Path
) -> tuple[np.ndarray, int]:
    """Embed the patches of a slide, and count those that are out of focus; what is embedded lies on disk until then."""
    size = (settings.patch_size, settings.patch_size)

    sharp, measured = np.full(len(patches.x), np.nan), work / f"{key}-sharpness"

    def read(row: int) -> np.ndarray:
        pixels = slide.read(patches.x[row], patches.y[row], patches.side, patches.side, size)
        sharp[row] = sharpness(pixels)
        return pixels

    def images(start: int, stop: int) -> np.ndarray:
        pixels = np.stack([fit(read(row), encoder.side) for row in range(start, stop)])
        files.write_atomically(measured / f"{start}.npy", lambda file: np.save(file, sharp[start:stop]))
        return pixels

    folder = work / key
    contents = [f"{key} {x} {y}" for x, y in zip(patches.x, patches.y, strict=True)]
    features = np.array(embed(encoder, images, contents, folder))
    for path in measured.glob("*.npy"):
        values = np.load(path)
        sharp[int(path.stem) : int(path.stem) + len(values)] = values
    shutil.rmtree(measured, ignore_errors=True)
    shutil.rmtree(folder)
    return features, int((sharp < BLURRED).sum())


def _write_tables(
    folder: Path,
    out: Path,
    settings: SlideSettings,
    encoder: Encoder,
    rows: list[dict[str, Any]],
    problems: list[Problem],
) -> pd.DataFrame:
    if (folder / "labels.csv").is_file():
        files.write_bytes(out / "labels.csv", (folder / "labels.csv").read_bytes())
    files.write_json(out / "settings.json", {"format": FORMAT, **asdict(settings), "encoder": encoder.digest})
    listed = pd.DataFrame(problems, columns=list(Problem._fields))
    files.write_text(out / "problems.csv", listed.to_csv(index=False))
    table = pd.DataFrame(rows)
    files.write_text(out / "slides.csv", table.to_csv(index=False))
    table.attrs["problems"] = problems
    return table


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _words(problem: Problem) -> str:
    return f"{problem.path}: {problem.kind}: {problem.reason}"
