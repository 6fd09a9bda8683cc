"""Images per second into training: a prepared cohort against PIL + DataLoader(num_workers=2) over the same PNG files.

    python tests/benchmarks/input_pipeline.py [--data IDC_FOLDER] [--images 10000]

Both give shuffled batches of 128 standardised float images [128, 3, 32, 32], flipped at random. Without `--data` the
real patches are taken where the tests find them; where there are none, made-up images are written as PNG first.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from histotune.data.batches import shuffled
from histotune.data.modalities.image import ImagePreprocessing, ImageSource
from histotune.ingest.datasets import DATASETS
from histotune.ingest.prepare import prepare

SIDE, BATCH, ROUNDS = 32, 128, 3


class PngFiles(Dataset[Tensor]):
    """What most projects write: one file, one transform chain per item."""

    def __init__(self, paths: list[Path], preprocessing: ImagePreprocessing) -> None:
        self.paths = paths
        self.mean = torch.tensor(preprocessing.mean)[:, None, None]
        self.std = torch.tensor(preprocessing.std)[:, None, None]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> Tensor:
        with Image.open(self.paths[item]) as image:
            pixels = np.array(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
        tensor = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        if torch.rand(()) < 0.5:
            tensor = tensor.flip(-1)
        if torch.rand(()) < 0.5:
            tensor = tensor.flip(-2)
        return (tensor - self.mean) / self.std


def prepared_batches(images: ImageSource, preprocessing: ImagePreprocessing, epoch: int) -> Iterator[Tensor]:
    """What histotune does: rows of one memory-mapped array, the whole batch at a time."""
    rng = np.random.default_rng(epoch)
    rows = np.arange(len(images.array))
    for chosen in shuffled(rows, BATCH, rng):
        batch = images.take(chosen)
        for axis in (1, 2):
            flipped = torch.from_numpy(rng.random(len(batch)) < 0.5)
            batch[flipped] = batch[flipped].flip(axis)
        yield preprocessing.standardise(batch)


def rate(batches: Callable[[int], Iterator[Tensor]]) -> tuple[float, float]:
    """Images per second of the first and of the best later epoch."""
    rates = []
    for epoch in range(ROUNDS):
        start = time.perf_counter()
        count = sum(len(batch) for batch in batches(epoch))
        rates.append(count / (time.perf_counter() - start))
    return rates[0], max(rates[1:])


def find_data(given: str | None, scratch: Path, images: int) -> Path:
    """Return a folder of IDC-like PNG files: the given one, the real ones, or made-up ones."""
    shelf = os.environ.get("HISTOTUNE_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data"
    real = Path(given) if given else Path(shelf) / "idc_patches"
    if real.is_dir():
        return real
    dataset = DATASETS.build("synthetic", cases=images, patients=20)
    for number, case in enumerate(dataset.scan(None).table.to_dict("records")):
        path = scratch / case["patient"].removeprefix("patient-") / str(case["label"])
        path.mkdir(parents=True, exist_ok=True)
        name = f"{path.parent.name}_idx5_x{number}_y1_class{case['label']}.png"
        Image.fromarray(dataset.read(case, None).pixels).save(path / name)
    return scratch


def main() -> None:
    """Measure both in one run and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data")
    parser.add_argument("--images", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = find_data(options.data, Path(scratch) / "png", options.images)
        paths = sorted(root.glob("*/*/*.png"))[: options.images]
        start = time.perf_counter()
        cohort = prepare(DATASETS.build("idc"), root, image_size=SIDE, cache=Path(scratch) / "cache")
        seconds = time.perf_counter() - start
        array = cohort.arrays["image"]
        preprocessing = ImagePreprocessing.fit(array, np.arange(len(array)))
        images = ImageSource(array, torch.device("cpu"))
        loader = DataLoader(PngFiles(paths, preprocessing), BATCH, shuffle=True, num_workers=2)
        rows = [
            ("PIL + DataLoader(num_workers=2)", len(paths), *rate(lambda _: iter(loader))),
            ("prepared cohort, one thread", len(array), *rate(lambda e: prepared_batches(images, preprocessing, e))),
        ]
    print(f"{'pipeline':34}{'images':>8}{'first epoch /s':>16}{'best later /s':>16}")
    for name, count, first, best in rows:
        print(f"{name:34}{count:>8}{first:>16,.0f}{best:>16,.0f}")
    print(f"ratio of the best: {rows[1][3] / rows[0][3]:.1f} (wanted: 10); preparing once took {seconds:.1f} s")


if __name__ == "__main__":
    main()
