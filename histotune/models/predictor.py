"""A trained network with what was fitted around it: raw cases in, logits out; saved to a folder and loaded from it."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from histotune.core import files, runtime
from histotune.core.config import TrialConfig
from histotune.data.augment import symmetry
from histotune.data.batches import Cases, Feed, Preparations, in_order
from histotune.data.modalities import MODALITIES, Column, Preprocessing, tensor
from histotune.errors import ConfigError, DataError, HistotuneError
from histotune.models.network import IMAGE, Inputs, Model, Present, build_model, inputs_given
from histotune.storage import layout
from histotune.storage.records import networks, read_config

SYMMETRIES = 8  # of the square, over which a prediction with `tta` is averaged
_BATCH = 256
_BATCH_ON_CPU = 64  # images whose maps stay in the cache of a core: 1.6 times as many per second as with 256


def features(model: Model, batches: Iterable[Cases], preparations: Preparations) -> np.ndarray:
    """Return the features [n, D] (float32) that the objective sees of batches of cases, in float32."""
    model.eval()
    return _joined(lambda cases: model(*inputs_of(model, preparations, cases)), batches)


def predict(model: Model, batches: Iterable[Cases], preparations: Preparations, *, tta: bool = False) -> np.ndarray:
    """Return logits [n, C] (float32) of batches of cases, always computed in float32.

    Args:
        model: the network; it is put into evaluation mode.
        batches: cases on the model's device.
        preparations: as fitted with the model.
        tta: average the logits over the eight flips and turns of the images.
    """
    model.eval()
    return _joined(lambda cases: batch_logits(model, cases, preparations, tta=tta), batches)


def batch_logits(model: Model, cases: Cases, preparations: Preparations, *, tta: bool) -> Tensor:
    """Map cases to logits [B, C] as `predict` does, in tensors only, so that it can be traced."""
    views = range(SYMMETRIES if tta and model.images else 1)
    return torch.stack(
        [model.logits(*inputs_of(model, preparations, seen(model, cases, code))) for code in views]
    ).mean(0)


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a state dict as safetensors, whole or not at all; the same weights give the same bytes."""
    files.write_bytes(path, safetensors.torch.save({name: value.contiguous() for name, value in weights.items()}))


@dataclass(frozen=True)
class Predictor:
    """A trained model ready to score cases.

    Attributes:
        config: as trained.
        classes: class names in the order of the logits' columns; `positive` is the index of the positive one.
        preparations: as fitted on its training part, by modality.
        model: in evaluation mode, on `device`.
        folds: the models of a trial that was trained on folds, whose logits are averaged; the fields above are then
            those of the first. Empty otherwise.
    """

    config: TrialConfig
    classes: tuple[str, ...]
    positive: int
    preparations: Preparations
    model: Model
    device: torch.device
    folds: tuple[Predictor, ...] = ()

    @property
    def parts(self) -> tuple[Predictor, ...]:
        """The models whose mean logits are the prediction, each with its own preprocessing."""
        return self.folds or (self,)

    @property
    def image_size(self) -> int:
        """Side of the images of its cohort, pixels."""
        return self.config.image_size

    @property
    def modalities(self) -> list[str]:
        """The modalities that it reads."""
        return sorted(set(self.model.modalities.values()))

    def logits(self, cases: np.ndarray | Mapping[str, Column]) -> np.ndarray:
        """Map cases to logits [n, C], float32.

        Args:
            cases: {modality: column}, where one that is left out is absent; or uint8 images [n, S, S, 3].

        Raises:
            DataError: nothing that the model reads is there, or it is of another form than what was trained on.
        """
        columns = self._checked(cases)
        if not _count(columns):
            return np.zeros((0, len(self.classes)), np.float32)
        if self.folds:
            return np.mean([fold.logits(cases) for fold in self.folds], axis=0)
        return predict(self.model, self._batches(columns), self.preparations, tta=self.config.tta)

    def features(self, cases: np.ndarray | Mapping[str, Column]) -> np.ndarray:
        """Map cases, n >= 1, to the features [n, D] that the objective sees, float32.

        Raises:
            DataError: as `logits`.
            ConfigError: the models of several folds have no features in common.
        """
        if self.folds:
            raise ConfigError(f"{len(self.folds)} models of as many folds have no features in common: ask one of them")
        return features(self.model, self._batches(self._checked(cases)), self.preparations)

    def has_input(self, cases: np.ndarray | Mapping[str, Column]) -> np.ndarray:
        """Return for every case whether it has anything that the model reads, bool [n]."""
        there: np.ndarray = np.any([column.present for column in self._checked(cases).values()], axis=0)
        return there

    def _checked(self, cases: np.ndarray | Mapping[str, Column]) -> dict[str, Column]:
        """Return the modalities that the model reads and the cases have, each in the form that was trained on."""
        if isinstance(cases, np.ndarray):
            cases = {name: Column(IMAGE, cases, np.ones(len(cases), bool)) for name in self.model.images}
        result = {name: cases[name] for name in self.modalities if name in cases}
        if not result:
            raise DataError(f"the model reads {', '.join(self.modalities)}, and the cases have {sorted(cases)} only")
        for name, column in result.items():
            if column.kind != self.preparations[name].kind:
                raise DataError(
                    f"the model reads modality {name!r} of kind {self.preparations[name].kind}, got {column.kind}"
                )
        return {
            name: column._replace(stored=self.preparations[name].check(column.stored))
            for name, column in result.items()
        }

    def _batches(self, columns: Mapping[str, Column]) -> Iterator[Cases]:
        feed = Feed(columns, columns, self.device)
        size = _BATCH_ON_CPU if self.device.type == "cpu" and self.model.images else _BATCH
        return map(feed.take, in_order(np.arange(_count(columns)), size))


def load_model(folder: Path, device: torch.device | None = None) -> Predictor:
    """Load what training left in `folder`: config.yaml, model.json, preprocessing.json and model.safetensors.

    Where it trained on folds, each of them has these files in a folder of its own.

    Raises:
        HistotuneError: a file is missing or does not fit the others.
    """
    if (places := networks(folder)) != [folder]:
        folds = tuple(load_model(place, device) for place in places)
        return replace(folds[0], folds=folds)
    for name in (layout.CONFIG, layout.CLASSES, layout.PREPROCESSING, layout.WEIGHTS):
        if not (folder / name).is_file():
            raise HistotuneError(f"{folder} holds no trained model: {name} is missing (did the trial complete?)")
    device = device or runtime.device()
    config = files.restored(TrialConfig, read_config(folder), folder / layout.CONFIG)
    preparations = load_preparations(folder / layout.PREPROCESSING)
    facts = files.read_json(folder / layout.CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how it would train
        model = build_model(config, facts["counts"], inputs_given(preparations), trained=True)
    if lacking := set(model.modalities.values()) - preparations.keys():
        raise files.damaged(folder / layout.PREPROCESSING, f"it has no {', '.join(map(repr, sorted(lacking)))}")
    try:
        model.load_state_dict(safetensors.torch.load_file(folder / layout.WEIGHTS))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise HistotuneError(f"{folder / layout.WEIGHTS} does not fit {folder / layout.CONFIG}: {error}") from error
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Predictor(config, tuple(facts["classes"]), facts["positive"], preparations, model, device)


def inputs_of(model: Model, preparations: Preparations, cases: Cases) -> tuple[Inputs, Present]:
    """Return what a model takes of cases: its modalities, standardised; one that the cases lack is absent for all."""
    names = sorted(set(model.modalities.values()))
    some = next(iter(cases.present.values()))
    inputs = {
        name: preparations[name].standardise(cases.values[name])
        if name in cases.values
        else preparations[name].blank(len(some), some.device)
        for name in names
    }
    return inputs, {name: cases.present.get(name, torch.zeros_like(some)) for name in names}


def save_preparations(preparations: Preparations, path: Path) -> None:
    """Write what was fitted to every modality, as JSON."""
    files.write_json(path, {name: {"kind": fitted.kind} | fitted.to_dict() for name, fitted in preparations.items()})


def load_preparations(path: Path) -> dict[str, Preprocessing]:
    """Read what `save_preparations` wrote.

    Raises:
        StudyError: it is damaged, or of an earlier version.
    """
    saved = files.read_json(path)
    if not all(isinstance(fitted, dict) for fitted in saved.values()):
        raise files.damaged(path, "it has no `kind` of every modality; did another version of histotune write it?")
    return {name: MODALITIES.build(fitted["kind"]).restore(fitted) for name, fitted in saved.items()}


def seen(model: Model, cases: Cases, code: int) -> Cases:
    """Flip and turn the images of cases."""
    turned = {name: symmetry(tensor(cases.values[name]), code) for name in model.images if name in cases.values}
    return replace(cases, values={**cases.values, **turned})


def _joined(score: Callable[[Cases], Tensor], batches: Iterable[Cases]) -> np.ndarray:
    """Return what `score` gives of every batch, in their order, as one array.

    On the CPU as many batches as there are threads run side by side, each on one thread: small images leave the threads
    of one batch waiting for each other. No more than twice as many batches are in memory.
    """
    scored: list[Tensor] = []
    waiting: deque[Future[Tensor]] = deque()
    threads = torch.get_num_threads()

    @torch.inference_mode()  # holds in the thread that enters it only
    def one(cases: Cases) -> Tensor:
        return score(cases).cpu()

    def on_one_thread(cases: Cases) -> Tensor:
        torch.set_num_threads(1)  # of this thread's OpenMP team, and of the process as torch reports it
        return one(cases)

    batches = iter(batches)
    first = next(batches)
    if threads == 1 or not _on_cpu(first):
        return torch.cat([one(first), *map(one, batches)]).numpy()
    try:
        with ThreadPoolExecutor(threads) as pool:
            waiting.append(pool.submit(on_one_thread, first))
            for cases in batches:
                waiting.append(pool.submit(on_one_thread, cases))
                if len(waiting) == 2 * threads:
                    scored.append(waiting.popleft().result())
            scored += [each.result() for each in waiting]
    finally:
        torch.set_num_threads(threads)
    return torch.cat(scored).numpy()


def _on_cpu(cases: Cases) -> bool:
    return all(present.device.type == "cpu" for present in cases.present.values())


def _count(columns: Mapping[str, Column]) -> int:
    return len(next(iter(columns.values())).present)
