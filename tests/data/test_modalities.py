"""The contract of every kind of modality, and that a new kind is one file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histotune.core.config import TrialConfig
from histotune.core.registry import Registry, load_plugins
from histotune.data.modalities import MODALITIES, Column
from histotune.data.modalities.bag import join
from histotune.data.modalities.graph import connect
from histotune.data.modalities.table import Table
from histotune.data.modalities.table import TableColumn as TableColumn
from histotune.data.splits import TrainingData
from histotune.errors import ConfigError, StudyError
from histotune.models.backbones import BACKBONES, reading
from histotune.models.network import check_modalities
from histotune.models.predictor import load_model
from histotune.testing.modalities import CASES, MODALITY, labels_of
from histotune.training.loop import run_trial

every_kind = pytest.mark.parametrize("kind", MODALITIES.names())


def images(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    return (rng.integers(0, 150, (len(labels), 32, 32, 3)) + 60 * labels[:, None, None, None]).astype(np.uint8)


def tables(rng: np.random.Generator, labels: np.ndarray) -> Table:
    numbers = rng.normal(size=(len(labels), 4)) + labels[:, None]
    numbers[rng.random(numbers.shape) < 0.1] = np.nan
    codes = rng.integers(0, 3, (len(labels), 1))
    columns = [*(TableColumn(f"gene {k}") for k in range(4)), TableColumn("stage", ("I", "II", "III"))]
    return Table(np.concatenate([numbers, codes], axis=1).astype(np.float32), tuple(columns))


def bags(rng: np.random.Generator, labels: np.ndarray) -> Any:
    sizes = rng.integers(1, 9, len(labels))
    features = [rng.normal(label, 1, (size, 5)).astype(np.float32) for size, label in zip(sizes, labels, strict=True)]
    return join(features, [rng.integers(0, 4000, (size, 2)).astype(np.float32) for size in sizes])


MADE_UP: Mapping[str, Callable[[np.random.Generator, np.ndarray], Any]] = {
    "image": images,
    "table": tables,
    "bag": bags,
    "graph": lambda rng, labels: connect(bags(rng, labels), k=3),
}


def stored(kind: str, seed: int = 0, cases: int = CASES) -> Any:
    return MADE_UP[kind](np.random.default_rng(seed), labels_of(cases))


def test_every_kind_has_made_up_cases_and_a_backbone() -> None:
    assert set(MODALITIES.names()) == set(MADE_UP), "a new kind needs a line in MADE_UP"
    assert all(reading(kind) for kind in MODALITIES.names())


@every_kind
@pytest.mark.parametrize("law", MODALITY.laws)
def test_every_kind_keeps_the_law(kind: str, law: str) -> None:
    MODALITY.check_one(law, MODALITY.laws[law], kind, kind, MADE_UP[kind])


@every_kind
def test_a_missing_or_damaged_folder_is_noticed(kind: str, tmp_path: Path) -> None:
    modality = MODALITIES.build(kind)
    with pytest.raises(StudyError, match=re.escape(str(tmp_path))):
        modality.load(tmp_path)
    modality.save(stored(kind), tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"x")
    with pytest.raises(StudyError, match=re.escape(str(tmp_path))):
        modality.load(tmp_path)


@every_kind
def test_an_unknown_option_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"'{kind}' have no option 'lgo1p'"):
        MODALITIES.build(kind).check_options({"lgo1p": True})


def data_of(columns: Mapping[str, Column]) -> TrainingData:
    ids = np.array([f"case-{k}" for k in range(CASES)])
    return TrainingData(
        arrays={name: column.stored for name, column in columns.items()},
        present={name: column.present for name, column in columns.items()},
        kinds={name: column.kind for name, column in columns.items()},
        labels=labels_of(),
        ids=ids,
        patients=ids,
        train=np.arange(16),
        val=np.arange(16, CASES),
        classes=("no", "yes"),
    )


@every_kind
def test_a_network_of_it_trains_is_saved_and_repeats_its_predictions(kind: str, tmp_path: Path) -> None:
    present = np.ones(CASES, bool)
    present[[2, 3, 20]] = False
    column = Column(kind, stored(kind), present)
    backbone = "alexnet32" if kind == "image" else {"bag": "attention_mil", "graph": "patch_graph"}.get(kind, "mlp")
    branches = {"own": {"modality": "thing", "backbone": backbone}}
    config = TrialConfig.from_dict({"epochs": 2, "batch_size": 8, "model": {"branches": branches}})
    record = run_trial(config, data_of({"thing": column}), tmp_path)
    assert record.state == "complete", record.reason
    predictor, saved = load_model(tmp_path), record.predictions()
    own = column.select(np.arange(16, CASES))
    assert predictor.logits({"thing": own}) == pytest.approx(saved.logits, abs=1e-5)
    assert saved.has_input.tolist() == own.present.tolist() == predictor.has_input({"thing": own}).tolist()
    assert json.loads((tmp_path / "environment.json").read_text())["training_cases"] == 14


# --- a new kind is one file

SIGNAL = '''
from pathlib import Path

import numpy as np
import torch

from histotune.models.backbones import (BACKBONES, Backbone, BackboneOutput, Widths)
from histotune.data.modalities import (MODALITIES, Modality, Preprocessing, refuse_options)


class Scale(Preprocessing):
    kind = "signal"

    def __init__(self, scale, length):
        self.scale, self.length = scale, length

    @property
    def shape(self):
        return (self.length,)

    def standardise(self, raw):
        return raw / self.scale

    def check(self, stored):
        return stored

    def to_dict(self):
        return {"scale": self.scale, "length": self.length}


class Rows:
    def __init__(self, values, device):
        self.values = torch.from_numpy(values).to(device)

    def take(self, rows):
        return self.values[rows]


class Signal(Modality):
    name = "signal"

    def cases(self, stored):
        return len(stored)

    def select(self, stored, rows):
        return stored[rows]

    def digests(self, stored):
        return [row.tobytes().hex()[:16] for row in stored]

    def save(self, stored, folder):
        np.save(folder / "signal.npy", stored)

    def load(self, folder):
        return np.load(folder / "signal.npy")

    def fit(self, stored, rows, labels, options):
        self.check_options(options)
        return Scale(float(stored[rows].std()), stored.shape[1])

    def restore(self, saved):
        return Scale(saved["scale"], saved["length"])

    def source(self, stored, device):
        return Rows(stored, device)

    def summary(self, stored, rows):
        return stored[rows]

    def check_options(self, options):
        refuse_options(self.name, options, {})


@MODALITIES.register("signal")
def signal():
    """A signal over time."""
    return Signal()


class Waves(Backbone):
    def __init__(self, length):
        super().__init__()
        self.layer = torch.nn.Conv1d(1, 8, 3, padding=1)
        self.widths = Widths(token=8, pooled=8)

    def forward(self, batch):
        tokens = self.layer(batch[:, None]).relu().transpose(1, 2)
        return BackboneOutput(tokens, tokens.mean(dim=1))


@BACKBONES.register("waves", kinds=("signal",))
def waves(given):
    """A convolution over time."""
    return Waves(given.shape[0])
'''


def test_a_new_kind_is_one_file(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "signal_kind.py").write_text(SIGNAL)
    registries: list[Registry[Any]] = [MODALITIES, BACKBONES]
    before = [dict(registry._entries) for registry in registries if registry.names()]
    try:
        load_plugins(tmp_path / "parts")
        rng, labels = np.random.default_rng(0), labels_of()
        signals = (rng.normal(size=(CASES, 40)) + labels[:, None]).astype(np.float32)
        columns = {
            "ecg": Column("signal", signals, np.ones(CASES, bool)),
            "genes": Column("table", stored("table"), np.arange(CASES) % 3 > 0),
        }
        branches = {
            "ecg": {"modality": "ecg", "backbone": "waves"},
            "genes": {"modality": "genes", "backbone": "mlp"},
        }
        fusion = {"name": "cross_attention", "dim": 16, "heads": 2}
        settings = {"epochs": 2, "batch_size": 8, "model": {"branches": branches, "fusion": fusion}}
        record = run_trial(TrialConfig.from_dict(settings), data_of(columns), tmp_path / "trial")
        assert record.state == "complete", record.reason
        own = {name: column.select(np.arange(16, CASES)) for name, column in columns.items()}
        assert load_model(tmp_path / "trial").logits(own) == pytest.approx(record.predictions().logits, abs=1e-5)
        wrong = TrialConfig.from_dict({"model": {"branches": {"ecg": {"modality": "ecg", "backbone": "mlp"}}}})
        with pytest.raises(ConfigError, match="reads table, but modality 'ecg' is of kind signal: choose one of waves"):
            check_modalities(wrong, {"ecg": "signal"})
    finally:
        for registry, entries in zip(registries, before, strict=True):
            registry._entries = entries
