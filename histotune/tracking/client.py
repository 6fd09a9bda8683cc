"""MLflow, imported late and without telemetry: its database, the values that it stores, its commands."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.core import runtime
from histotune.errors import StudyError

if TYPE_CHECKING:
    from histotune.storage.records import TrialRecord

BATCH = 800  # MLflow takes 1000 metrics, parameters and tags together in one call
_SETTINGS = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A search does not wait minutes for a server that is away.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


@cache
def api() -> Any:
    """Import MLflow without telemetry (it reads these settings when it is imported); what a user set stays."""
    runtime.disable_telemetry()
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow

    return mlflow


@cache
def failures() -> tuple[type[Exception], ...]:
    """Return what MLflow raises when its server, database or folder cannot be used."""
    from sqlalchemy.exc import SQLAlchemyError

    return api().exceptions.MlflowException, SQLAlchemyError, OSError


def database_uri(runs: Path) -> str:
    """Return the address of the MLflow database in the folder of all studies."""
    return f"sqlite:///{runs.absolute() / 'mlflow.db'}"


def artifacts(runs: Path) -> Path:
    """Return the folder of MLflow's artifacts; absolute, for MLflow's own choice depends on the working directory."""
    return runs.absolute() / "mlartifacts"


def create_database(runs: Path) -> None:
    """Create the database beside its place and move it there: a killed start leaves no half-made tables behind.

    The caller holds a lock, for two processes that create tables at once crash each other.
    """
    place = runs / "mlflow.db"
    if place.exists():
        return
    unfinished = runs / f".mlflow.{os.getpid()}.db"
    api()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{unfinished}", artifacts(runs).as_uri())
    unfinished.replace(place)


def ui_command(runs: Path, port: int = 5000) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment that serve MLflow's interface over `runs` on this machine only.

    One worker and no job execution: 0.4 GB of memory instead of 1.5 GB.

    Raises:
        StudyError: nothing was tracked in `runs` yet.
    """
    if not (runs / "mlflow.db").exists():
        raise StudyError(
            f"there is no MLflow database in {runs}: run a search first, such as `histotune search demo --trials 8`, "
            "or name the folder of the studies with --runs"
        )
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database_uri(runs)]
    command += ["--no-serve-artifacts", "--default-artifact-root", artifacts(runs).as_uri()]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    safe = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    return command, os.environ | quiet | safe


def log(client: Any, run: str, metrics: Sequence[Any], params: Sequence[Any] = ()) -> None:
    """Write metrics and parameters in one call, or as few as MLflow's limit allows."""
    client.log_batch(run, params=params, metrics=metrics[:BATCH])
    for first in range(BATCH, len(metrics), BATCH):
        client.log_batch(run, metrics=metrics[first : first + BATCH])


def save_model(
    place: Path, code: Path, export: Path, requirements: list[str], model: Any, *, only_images: bool = True
) -> None:
    """Save an export folder as a model that `code` loads: no pickle, and no second process that guesses requirements.

    Its input is uint8 [n, H, W, 3], not paths: a served model shall not open files for its callers. One that reads
    something else has no signature, which would refuse an integer where a number may be a fraction, and a modality
    that is left out: `mlflow_model` says what it takes and checks it.
    """
    mlflow = api()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own type hints when imported, and that no example is stored
        images = mlflow.types.TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
        mlflow.pyfunc.save_model(
            str(place),
            python_model=str(code),
            artifacts={"export": str(export)},
            pip_requirements=requirements,
            signature=mlflow.models.ModelSignature(inputs=mlflow.types.Schema([images])) if only_images else False,
            mlflow_model=model,
        )


def metric(name: str, value: float, when: float, step: int = 0) -> Any:
    """Return a metric's value at the time `when`, seconds since 1970."""
    return api().entities.Metric(name, float(value), milliseconds(when), step)


def final_metrics(record: TrialRecord, when: float) -> Iterator[Any]:
    """Give the best epoch's metrics under their plain names, which MLflow's tables show; of folds mean and spread."""
    facts = {"epochs": record.epochs, "best_epoch": record.best_epoch, "seconds": record.seconds}
    for name, value in {**record.metrics, **facts, "parameters": record.parameters}.items():
        yield metric(name, value, when)
    for name, value in record.spread.items():
        yield metric(f"{name}_sd", value, when)
    for name, value in record.out_of_fold.items():
        yield metric(f"out_of_fold/{name}", value, when)


def curve(rows: Sequence[Mapping[str, Any]], began: float) -> Iterator[Any]:
    """Give every epoch's numbers as `epoch/NAME`, nested ones as `epoch/NAME/NAME`, with the epoch as step."""
    elapsed = 0.0
    for row in rows:
        elapsed += row.get("seconds") or 0.0
        for name, value in flatten(row, between="/").items():
            if name != "epoch" and isinstance(value, (int, float)):
                yield metric(f"epoch/{name}", value, began + elapsed, row["epoch"])


def params(values: Mapping[str, Any]) -> list[Any]:
    """Return every value of nested mappings as a parameter under its path."""
    return [api().entities.Param(key, str(value)) for key, value in flatten(values).items()]


def tags(values: Mapping[str, Any]) -> dict[str, str]:
    """Return values as tags: text, with true and false in small letters; empty ones are left out."""
    texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in values.items()}
    return {key: text for key, text in texts.items() if text}


def milliseconds(seconds: float) -> int:
    """Return the time in MLflow's unit."""
    return int(seconds * 1000)


def flatten(values: Mapping[str, Any], prefix: str = "", between: str = ".") -> dict[str, Any]:
    """Name every value of nested mappings by its path, as `--fix` and `--set` do, or with another sign `between`.

    >>> flatten({"loss": {"name": "focal", "gamma": 2}, "epochs": 20})
    {'loss.name': 'focal', 'loss.gamma': 2, 'epochs': 20}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        flat |= flatten(value, path + between, between) if isinstance(value, Mapping) else {path: value}
    return flat
