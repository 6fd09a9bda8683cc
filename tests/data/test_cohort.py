"""Preparing: once, whole or absent, the same everywhere, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histotune.data.cohort import Cohort, load, read_labels, read_paths
from histotune.errors import ConfigError, DataError, HistotuneError
from histotune.ingest.datasets import DATASETS
from histotune.ingest.prepare import prepare

TinyFolder = Callable[..., Path]
FOUR_PATIENTS = {f"p{n}": {"benign": 4, "tumour": 3} for n in range(4)}


def prepared(root: Path, cache: Path, **options: object) -> Cohort:
    given: dict[str, object] = {"image_size": 16} | options
    return prepare(DATASETS.build("image_folder"), root, cache=cache, **given)  # type: ignore[arg-type]


@pytest.fixture
def folder(tiny_folder: TinyFolder) -> Path:
    return tiny_folder(FOUR_PATIENTS)


@pytest.fixture
def large_folder(tiny_folder: TinyFolder) -> Path:
    """Enough images that several processes decode them."""
    return tiny_folder({f"p{n}": {"benign": 80, "tumour": 60} for n in range(5)})


def files_of(cache: Path) -> set[str]:
    """Names of what lies in the cache, apart from the empty lock files."""
    return {path.name for path in cache.iterdir() if path.suffix != ".lock"}


@contextlib.contextmanager
def script(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run `code` in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_cohort_holds_every_image_in_the_order_of_its_table(folder: Path, tmp_path: Path) -> None:
    cohort = prepared(folder, tmp_path / "cache")
    assert len(cohort) == 28
    assert cohort.arrays["image"].shape == (28, 16, 16, 3)
    assert cohort.arrays["image"].dtype == np.uint8
    assert isinstance(cohort.arrays["image"], np.memmap)
    assert cohort.present["image"].all()
    assert list(cohort.table["id"]) == sorted(cohort.table["id"])
    assert list(cohort.table.columns) == ["id", "patient", "site", "content", "x", "y", "part"]


def test_labels_belong_to_their_images(folder: Path, tmp_path: Path) -> None:
    cohort = prepared(folder, tmp_path / "cache")
    for label, path, patient in zip(read_labels(cohort), read_paths(cohort), cohort.table["patient"], strict=True):
        assert path.split("/")[:2] == [patient, cohort.classes[label]]


def test_nothing_but_the_label_file_tells_a_label(folder: Path, tmp_path: Path) -> None:
    cohort = prepared(folder, tmp_path / "cache")
    (cohort.folder / "labels.csv").unlink()
    again = load(cohort.folder)
    assert "label" not in again.table
    assert "tumour" not in again.table.to_csv()


def test_loading_gives_what_preparing_gave(folder: Path, tmp_path: Path) -> None:
    cohort = prepared(folder, tmp_path / "cache")
    again = load(cohort.folder)
    pd.testing.assert_frame_equal(again.table, cohort.table)
    assert np.array_equal(again.arrays["image"], cohort.arrays["image"])
    assert (again.digest, again.classes, again.facts) == (cohort.digest, cohort.classes, cohort.facts)


def test_a_second_call_decodes_nothing(folder: Path, tmp_path: Path) -> None:
    observed: list[tuple[int, int]] = []
    first = prepared(folder, tmp_path / "cache", progress=lambda what, *done: observed.append(done))
    assert observed[0] == (0, 28)
    assert observed[-1] == (28, 28)
    observed.clear()
    assert (
        prepared(folder, tmp_path / "cache", progress=lambda what, *done: observed.append(done)).digest == first.digest
    )
    assert observed == []


def test_the_digest_does_not_depend_on_place_or_time(folder: Path, tmp_path: Path) -> None:
    first = prepared(folder, tmp_path / "cache")
    shutil.copytree(folder, tmp_path / "elsewhere", copy_function=shutil.copy)  # new times of change
    second = prepared(tmp_path / "elsewhere", tmp_path / "cache2")
    assert second.digest == first.digest
    assert list(second.table["id"]) == list(first.table["id"])


@pytest.mark.parametrize(
    "change", ["pixels", "label", "patient", "added", "removed", "size", "resize"], ids=lambda change: change
)
def test_the_digest_sees_every_change(folder: Path, tmp_path: Path, change: str) -> None:
    first = prepared(folder, tmp_path / "cache")
    image = folder / "p0" / "tumour" / "000.png"
    options: dict[str, object] = {}
    if change == "pixels":
        shutil.copy(folder / "p1" / "tumour" / "000.png", image)
        (folder / "p1" / "tumour" / "000.png").unlink()
    elif change == "label":
        image.rename(folder / "p0" / "benign" / "moved.png")
    elif change == "patient":
        image.rename(folder / "p1" / "tumour" / "moved.png")
    elif change == "added":
        Image.new("RGB", (16, 16), (1, 2, 3)).save(image.with_name("new.png"))
    elif change == "removed":
        image.unlink()
    elif change == "size":
        options = {"image_size": 24}
    else:
        options = {"resize": "pad"}
    assert prepared(folder, tmp_path / "cache", **options).digest != first.digest


def test_a_file_that_is_no_case_does_not_change_the_digest(folder: Path, tmp_path: Path) -> None:
    first = prepared(folder, tmp_path / "cache")
    (folder / "p0" / "tumour" / "bad.png").write_text("text")
    second = prepared(folder, tmp_path / "cache")
    assert second.folder != first.folder
    assert second.digest == first.digest


def test_several_processes_give_what_one_gives(large_folder: Path, tmp_path: Path) -> None:
    one = prepared(large_folder, tmp_path / "one", workers=1)
    two = prepared(large_folder, tmp_path / "two", workers=2)
    assert one.digest == two.digest
    assert np.array_equal(one.arrays["image"], two.arrays["image"])


PREPARE = """
    import sys
    from pathlib import Path
    from histotune.ingest.datasets import DATASETS
    from histotune.ingest.prepare import prepare
    root, cache = map(Path, sys.argv[1:3])
    heard = []
    def progress(what, done, total):
        heard.append(done)
        print("at", done, flush=True)
    cohort = prepare(DATASETS.build("image_folder"), root, image_size=16, cache=cache, workers=2, progress=progress)
    print("digest", cohort.digest, "decoded", bool(heard), flush=True)
"""


def test_two_processes_at_once_do_the_work_once_and_agree(large_folder: Path, tmp_path: Path) -> None:
    expected = prepared(large_folder, tmp_path / "alone")
    cache = tmp_path / "cache"
    with script(PREPARE, large_folder, cache) as first, script(PREPARE, large_folder, cache) as second:
        message = [process.communicate(timeout=120) for process in (first, second)]
        assert first.returncode == second.returncode == 0, message
    endings = sorted(out.splitlines()[-1] for out, _ in message)
    assert endings == [f"digest {expected.digest} decoded {did}" for did in (False, True)]
    assert len(files_of(cache)) == 1
    result = prepared(large_folder, cache)
    assert np.array_equal(result.arrays["image"], expected.arrays["image"])


def test_a_killed_preparation_leaves_nothing_that_counts(large_folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with script(PREPARE, large_folder, cache) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at 0\n"
        process.kill()
        process.wait()
    assert not [name for name in files_of(cache) if not name.startswith(".")]
    assert len(prepared(large_folder, cache)) == 700
    assert len(files_of(cache)) == 1


def test_decoding_processes_end_when_their_parent_is_killed(large_folder: Path, tmp_path: Path) -> None:
    with script(PREPARE, large_folder, tmp_path / "cache") as process:
        assert process.stdout is not None
        while "at 0" not in process.stdout.readline():
            pass
        process.stdout.readline()  # the first chunk is there, so the processes are
        children = children_of(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert children
    until = time.monotonic() + 20
    while any(map(is_running, children)):
        assert time.monotonic() < until, "a decoding process outlived its parent"
        time.sleep(0.05)


def children_of(parent: int) -> list[int]:
    listed = Path(f"/proc/{parent}/task/{parent}/children")
    if not listed.exists():
        pytest.skip("this system does not list a process's children in /proc")
    return [int(child) for child in listed.read_text().split()]


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_a_script_needs_no_main_guard(large_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "user_script.py"
    path.write_text(textwrap.dedent(PREPARE))
    command = [sys.executable, str(path), str(large_folder), str(tmp_path / "cache")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("at 0\n") == 1


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from histotune.ingest.datasets import DATASETS
    from histotune.errors import HistotuneError
    from histotune.ingest.prepare import prepare
    root, cache = map(Path, sys.argv[1:3])
    cache.mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
    try:
        prepare(DATASETS.build("image_folder"), root, image_size=16, cache=cache)
    except HistotuneError as error:
        print(error)
"""


@pytest.mark.parametrize("room", [0, 100, 9_000, 22_000])
def test_no_room_for_a_file_is_a_clear_error_and_nothing_half_written_survives(
    folder: Path, tmp_path: Path, room: int
) -> None:
    cache = tmp_path / "cache"
    with script(FULL_DISK, folder, cache, room) as process:
        out, err = process.communicate(timeout=120)
    if room > 28 * 16 * 16 * 3 + 128:  # all but nothing was lacking: then it must be whole
        assert len(load(next(cache.glob("image_folder-*")))) == 28, (out, err)
    else:
        assert "cannot write" in out, err
        assert "choose another folder" in out
        assert not files_of(cache)
    assert len(prepared(folder, cache)) == 28


def test_a_folder_that_cannot_be_written_is_a_clear_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(HistotuneError, match="cannot write"):
        prepared(folder, tmp_path / "file" / "cache")


MEMORY = """
    import resource, sys
    from dataclasses import dataclass
    from pathlib import Path
    import numpy as np
    from histotune.ingest.datasets import (Dataset, Info, Listing, Picture)
    from histotune.ingest.datasets._base import listing_table
    from histotune.ingest.prepare import prepare

    @dataclass(frozen=True, kw_only=True)
    class Noise(Dataset):
        cases: int
        name = "noise"
        info = Info(title="noise", synthetic=True)
        def scan(self, root):
            rows = [{"id": f"{n:06d}", "patient": str(n % 9), "label": n % 2} for n in range(self.cases)]
            return Listing(listing_table(rows), ("a", "b"))
        def read(self, case, root):
            pixels = np.zeros((96, 96, 3), np.uint8)
            pixels[0, :4, 0] = list(int(case["id"]).to_bytes(4))
            return Picture(pixels)

    cohort = prepare(Noise(cases=int(sys.argv[1])), None, image_size=96, cache=Path(sys.argv[2]))
    assert len(cohort) == int(sys.argv[1])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    peaks = []  # MiB
    for cases in (500, 4_500):  # 13 and 119 MiB of pixels
        with script(MEMORY, cases, tmp_path) as process:
            out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        peaks.append(int(out))
    assert peaks[1] - peaks[0] < 20, peaks


def test_damage_in_the_cache_is_named(folder: Path, tmp_path: Path) -> None:
    cohort = prepared(folder, tmp_path / "cache")
    saved = json.loads((cohort.folder / "cohort.json").read_text())
    (cohort.folder / "cohort.json").write_text(json.dumps(saved | {"format": 0}))
    with pytest.raises(DataError, match="delete its folder and run `histotune prepare`"):
        load(cohort.folder)
    (cohort.folder / "cohort.json").unlink()
    with pytest.raises(DataError, match="holds no prepared cohort"):
        load(cohort.folder)
    assert len(prepared(folder, tmp_path / "cache")) == 28


@pytest.mark.parametrize(("option", "value"), [("resize", "crop"), ("image_size", 4)])
def test_impossible_options_are_refused(folder: Path, tmp_path: Path, option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{value}"):
        prepared(folder, tmp_path / "cache", **{option: value})


def test_the_real_patches_are_what_their_index_says(idc_patches: Path, idc_cohort: Cohort) -> None:
    cohort = idc_cohort
    index = pd.read_csv(idc_patches / "index.csv", dtype={"patient": str}).set_index("file")
    labels, paths = read_labels(cohort), read_paths(cohort)
    index["area"] = index["width"] * index["height"]
    assert set(paths) == set(index.index[index["area"] >= 1250])  # the rest is less than half a patch
    result = index.loc[paths]
    assert np.array_equal(labels, result["label"])
    for column in ("patient", "x", "y"):
        assert list(cohort.table[column]) == list(result[column])
    assert cohort.facts["left_out"] == {"wrong_size": 31}
    assert cohort.facts["odd"] == {"wrong_size": 46}
    assert cohort.digest == "7017f6895425cff1"  # on every machine


def test_opening_the_real_patches_again_takes_less_than_a_second(idc_patches: Path, idc_cohort: Cohort) -> None:
    start = time.process_time()
    again = prepare(DATASETS.build("idc"), idc_patches, image_size=32, cache=idc_cohort.folder.parent)
    assert time.process_time() - start < 1.0  # of this process alone: the machine may be busy
    assert again.folder == idc_cohort.folder
    start = time.process_time()
    load(idc_cohort.folder)
    assert time.process_time() - start < 0.25
