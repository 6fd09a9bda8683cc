"""Fixtures that every test file may use: real patches when they are there, tiny folders, one small prepared cohort."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

# One thread here and in every process that a test starts: bits are compared between them, and the cores are shared by
# pytest's workers and Ray's. Set before torch and numpy are imported, which read it once.
os.environ.update(dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1"))

import hypothesis
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from PIL import Image

from histotune.core.config import TrialConfig
from histotune.core.registry import PLUGINS, Registry
from histotune.data.cohort import UNKNOWN, Cohort, read_labels
from histotune.data.splits import Split, TrainingData, split
from histotune.ingest.datasets import DATASETS
from histotune.ingest.prepare import prepare
from histotune.models.backbones._torchvision import import_timm
from histotune.storage.study_folder import StudyFolder, StudySettings
from histotune.tracking import client as _mlflow
from histotune.training.loop import run_trial

# The same examples every time, so that a failure is anybody's to repeat; `--hypothesis-profile explore` draws others.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile("repeatable")

TinyFolder = Callable[..., Path]
NewStudy = Callable[[Path], StudyFolder]


def _real(name: str, what: str) -> Path:
    """Find real data in `$HISTOTUNE_TEST_DATA` or beside the project; skips where there are none."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HISTOTUNE_TEST_DATA") or beside) / name
    if not folder.is_dir():
        pytest.skip(f"the real {what} are not at {folder}; $HISTOTUNE_TEST_DATA names the folder that holds them")
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Whatever a test set, the next one computes on one thread again."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def own_parts() -> Iterator[None]:
    """What a file's plugins registered goes with it: tests of other files ask for all losses, all backbones."""
    before = list(PLUGINS)
    yield
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("histotune.")]
    for registry in {one for module in ours for one in vars(module).values() if isinstance(one, Registry)}:
        entries = registry._entries
        for name in [name for name, entry in entries.items() if entry.build.__module__.startswith("histotune_plugin_")]:
            del entries[name]
    PLUGINS[:] = before


@pytest.fixture(scope="session")
def idc_patches() -> Path:
    """Folder of the real IDC patches; skips where there are none."""
    return _real("idc_patches", "IDC patches")


@pytest.fixture(scope="session")
def crc_tiles() -> Path:
    """Folder of real colorectal tiles, 12 of each class; skips where there are none."""
    return _real("nct_crc_tiles", "colorectal tiles")


@pytest.fixture(scope="session")
def wsi() -> Path:
    """A real whole-slide file, 2220 x 2967 px of 0.499 µm; skips where there is none."""
    return _real("wsi", "whole slides") / "cmu_small_region.svs"


@pytest.fixture(scope="session")
def tcga_brca() -> Path:
    """Folder of the real TCGA-BRCA tables; skips where there are none."""
    return _real("tcga_brca_multimodal", "tables of TCGA-BRCA")


@pytest.fixture(scope="session")
def monuseg() -> Path:
    """Folder of four real images of 1000 px at 40x, tissue all over; skips where there are none."""
    return _real("monuseg_brca", "MoNuSeg images")


@pytest.fixture(scope="session")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A small backbone and a file of random weights for it, as `load_encoder` takes them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet10t.safetensors"
    safetensors.torch.save_file(import_timm().create_model("resnet10t", num_classes=0).state_dict(), path)
    return {"backbone": "timm/resnet10t", "weights": str(path)}


@pytest.fixture(scope="session")
def idc_cohort(idc_patches: Path, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """The real IDC patches at 32 px; read-only, prepared once per session; skips where there are none."""
    return prepare(DATASETS.build("idc"), idc_patches, image_size=32, cache=tmp_path_factory.mktemp("idc"))


@pytest.fixture
def tiny_folder(tmp_path: Path) -> TinyFolder:
    """Factory of a folder PATIENT/CLASS/FILE.png: `tiny_folder({"p1": {"benign": 3, "tumour": 2}}, side=16)`."""

    def build(
        patients: Mapping[str, Mapping[str, int]], *, side: int = 16, seed: int = 0, name: str = "images"
    ) -> Path:
        rng = np.random.default_rng(seed)
        root = tmp_path / name
        root.mkdir(parents=True, exist_ok=True)
        for patient, classes in patients.items():
            for label, count in classes.items():
                folder = root / patient / label
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(count):
                    pixels = rng.integers(0, 256, size=(side, side, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        return root

    return build


@pytest.fixture
def tcga_folder(tmp_path: Path) -> Path:
    """A made-up folder in the layout of TCGA-BRCA: 40 patients of 4 sites, of whom every table lacks a few."""
    rng, root = np.random.default_rng(0), tmp_path / "tcga"
    root.mkdir()
    ids = [f"TCGA-{('A1', 'A2', 'BH', 'E2')[at % 4]}-{at:04d}" for at in range(40)]
    subtypes = np.array(["LumA", "LumB", "Basal", "Her2", "Normal", ""])[np.arange(40) % 6]
    status = np.where(np.arange(40) % 2, "Positive", "Negative")
    receptors = dict.fromkeys(["er_ihc", "pr_ihc", "her2_ihc"], status)
    ihc = np.array(["HR+/HER2-", "HER2+", "TNBC", ""])[np.arange(40) % 4]
    labels = {"case_id": ids, "pam50": subtypes, "hrd_score": 1.0, **receptors, "ihc_subtype": ihc}
    pd.DataFrame(labels).to_csv(root / "labels.csv", index=False)
    porpoise = ["site", "age", "survival_months", "censorship", "is_female", "oncotree_code"]
    clinical = {
        "case_id": ids[1:],
        **{name: values[1:] for name, values in receptors.items()},
        "her2_fish": "",
        "age_dx": 50 + np.arange(39),
        "ajcc_t": np.array(["T1", "T2", ""])[np.arange(39) % 3],
        **dict.fromkeys(["tmb", "os_months", "os_status", *(f"porpoise_{name}" for name in porpoise)], 1),
    }
    pd.DataFrame(clinical).to_csv(root / "clinical.csv", index=False)
    for at, name in enumerate(["hif_image_features", "rnaseq", "cnv", "mut"], start=2):
        rows = [*ids[at:], "TCGA-ZZ-9999"]
        frame = pd.DataFrame(rng.integers(-2, 3, (len(rows), 5)), columns=[f"{name}{column}" for column in range(5)])
        frame.insert(0, "case_id", rows)
        frame.to_csv(root / f"{name}.csv.gz", index=False)
    return root


@pytest.fixture
def own_tables(tmp_path: Path) -> Path:
    """A YAML file that describes 30 patients of somebody's own: a CSV file of genes, a Parquet file of the clinic."""
    rng, root = np.random.default_rng(0), tmp_path / "own"
    root.mkdir()
    ids = [f"{at:03d}" for at in range(30)]
    labels = {"case": ids, "who": [f"p{at // 2}" for at in range(30)], "grade": ["low", "high"] * 15, "hospital": "X"}
    pd.DataFrame(labels).to_csv(root / "labels.csv", index=False)
    genes = pd.DataFrame(rng.normal(size=(25, 3)), columns=["TP53", "PTEN", "batch"])
    genes.insert(0, "case", ids[:25])
    genes.to_csv(root / "genes.csv", index=False)
    clinic = {
        "patient": ids[5:],
        "age": np.arange(25.0),
        "stage": np.arange(25) % 3,
        "sex": ["f", None, "m", "f", "m"] * 5,
    }
    pd.DataFrame(clinic).to_parquet(root / "clinic.parquet")
    file = root / "cohort.yaml"
    file.write_text(
        "id: case\n"
        "target: {file: labels.csv, column: grade, patient: who, site: hospital}\n"
        "modalities:\n"
        "  genes: {file: genes.csv, exclude: [batch]}\n"
        "  clinic: {file: clinic.parquet, id: patient, categories: [sta*]}\n"
    )
    return file


@pytest.fixture(scope="session")
def small_cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """A made-up cohort: 240 images of 32 px, 24 patients, 3 sites, 2 classes; read-only, shared by all tests."""
    dataset = DATASETS.build("synthetic", cases=240, patients=24, side=32)
    return prepare(dataset, None, image_size=32, cache=tmp_path_factory.mktemp("cohorts"))


@pytest.fixture(scope="session")
def small_labels(small_cohort: Cohort) -> np.ndarray:
    """All labels of `small_cohort`, int64 [240]."""
    return read_labels(small_cohort)


@pytest.fixture(scope="session")
def small_split(small_cohort: Cohort, small_labels: np.ndarray) -> Split:
    """`small_cohort` split by patient."""
    return split(small_cohort, small_labels, "patient", seed=0)


@pytest.fixture(scope="session")
def new_study(small_cohort: Cohort, small_labels: np.ndarray, small_split: Split) -> NewStudy:
    """Factory of a study over `small_cohort` without any trial: `new_study(folder)`."""

    def create(folder: Path) -> StudyFolder:
        settings = StudySettings(
            name=folder.name,
            dataset="synthetic",
            data="",
            options={"cases": 240, "patients": 24, "side": 32},
            digests={"32": small_cohort.digest},
            classes=list(small_cohort.classes),
            positive=small_cohort.positive,
            protocol=small_split.protocol,
            leaky=small_split.leaky,
            seed=0,
            metric="balanced_accuracy",
            space={},
            facts=small_cohort.facts,
        )
        store = StudyFolder(folder)
        store.create(settings, small_cohort, small_split, small_labels)
        return store

    return create


@pytest.fixture
def small_study(tmp_path: Path, new_study: NewStudy) -> StudyFolder:
    """A study over `small_cohort` without any trial; every test gets its own."""
    return new_study(tmp_path / "runs" / "small")


@pytest.fixture
def small_data(small_study: StudyFolder, small_cohort: Cohort) -> TrainingData:
    """What a trial of `small_study` may see."""
    return small_study.training_data(small_cohort)


@pytest.fixture(scope="session")
def trained_trials(
    tmp_path_factory: pytest.TempPathFactory, small_cohort: Cohort, small_labels: np.ndarray, small_split: Split
) -> Path:
    """Folder of three complete trials, 00000 to 00002, trained for two epochs on `small_split`; read-only."""
    known = np.full_like(small_labels, UNKNOWN)
    for rows in (small_split.train, small_split.val):
        known[rows] = small_labels[rows]
    table = small_cohort.table
    data = TrainingData(
        small_cohort.arrays,
        small_cohort.present,
        known,
        table["id"].to_numpy(str),
        table["patient"].to_numpy(str),
        small_split.train,
        small_split.val,
        small_cohort.classes,
        small_cohort.positive,
        small_cohort.digest,
    )
    folder = tmp_path_factory.mktemp("trained")
    for number in range(3):
        run_trial(TrialConfig(epochs=2, batch_size=32, seed=number), data, folder / f"{number:05d}")
    return folder


@pytest.fixture
def trained_study(small_study: StudyFolder, trained_trials: Path) -> StudyFolder:
    """`small_study` with the three trials of `trained_trials`."""
    shutil.copytree(trained_trials, small_study.folder / "trials")
    return small_study


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised, empty database, for making one takes seconds."""
    runs = tmp_path_factory.mktemp("database")
    _mlflow.create_database(runs)
    return runs / "mlflow.db"
