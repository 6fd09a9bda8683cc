"""The mirror law: MLflow shows what the trial folders say, each trial once, whatever was killed or broken before."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from changed_studies import reread
from made_up_tables import begun, train, write_cases
from mirrored import end_trial, runs, tracker_of

from histotune.core import files
from histotune.data.cohort import Cohort
from histotune.ensembles.merge import merge
from histotune.errors import StudyError
from histotune.exports.export import export_ensemble, export_trial
from histotune.exports.mlflow_registry import log_ensemble, log_models
from histotune.exports.model import load
from histotune.storage.records import write_record
from histotune.storage.study_folder import StudyFolder
from histotune.tracking import client as _mlflow
from histotune.tracking.client import ui_command
from histotune.tracking.tracker import MIRRORED, PARENT, MlflowTracker


@pytest.fixture
def store(small_study: StudyFolder, database: Path) -> StudyFolder:
    """A study without trials beside a fresh database."""
    (small_study.folder.parent / "mlflow.db").write_bytes(database.read_bytes())
    return small_study


@pytest.fixture
def mirrored(store: StudyFolder) -> dict[str, Any]:
    end_trial(store, 0)
    end_trial(store, 1, "stopped", epochs=1)
    end_trial(store, 2, "failed", kind="nan_loss", reason="the loss was not finite in epoch 2")
    write_record(store.controls / "majority", {"state": "complete", "metrics": {"balanced_accuracy": 0.5}})
    assert tracker_of(store).mirror() == 4
    return runs(store)


def test_every_ended_thing_has_one_run_under_the_study(mirrored: dict[str, Any]) -> None:
    assert set(mirrored) == {"study", "trial/0", "trial/1", "trial/2", "control/majority"}
    parent = mirrored.pop("study").info.run_id
    assert {run.data.tags[PARENT] for run in mirrored.values()} == {parent}


@pytest.mark.parametrize(
    ("key", "status"), [("trial/0", "FINISHED"), ("trial/1", "KILLED"), ("trial/2", "FAILED"), ("study", "FINISHED")]
)
def test_status_tells_the_state(mirrored: dict[str, Any], key: str, status: str) -> None:
    assert mirrored[key].info.status == status


def test_a_run_tells_what_compare_needs(mirrored: dict[str, Any]) -> None:
    run = mirrored["trial/0"]
    assert run.data.params["loss.name"] == "focal"
    assert run.data.params["loss.gamma"] == "2.0"
    assert run.data.params["model.branches.image.backbone.name"] == "alexnet"
    text = {
        "state": "complete",
        "loss": "focal",
        "backbone": "alexnet",
        "study": "small",
        "leaky": "false",
        "trial": "0",
    }
    assert text.items() <= run.data.tags.items()
    assert run.data.tags["synthetic"] == "true"
    assert run.data.metrics["balanced_accuracy"] == pytest.approx(0.6)
    assert run.info.start_time == 1_700_000_000_000
    assert run.info.end_time == 1_700_000_006_000
    assert mirrored["trial/2"].data.tags["failure"] == "nan_loss"


def test_the_curve_has_epochs_as_steps(store: StudyFolder, mirrored: dict[str, Any]) -> None:
    client = _mlflow.api().MlflowClient(_mlflow.database_uri(store.folder.parent))
    points = client.get_metric_history(mirrored["trial/0"].info.run_id, "epoch/balanced_accuracy")
    assert [(point.step, point.value) for point in points] == [(1, 0.51), (2, 0.52), (3, 0.53)]


def test_what_branches_share_is_a_metric_of_every_epoch(store: StudyFolder) -> None:
    measured = {"hsic": {"cnn-transformer": 0.5, "genes-cnn": None}, "heads": [{"entropy": [0.9]}]}
    store.trial_folder(0).mkdir(parents=True, exist_ok=True)
    files.append_json(store.trial_folder(0) / "curve.jsonl", {"epoch": 1, "seconds": 1.0, "information": measured})
    end_trial(store, 0)
    tracker_of(store).mirror()
    run = runs(store)["trial/0"]
    assert run.data.metrics["epoch/information/hsic/cnn-transformer"] == 0.5
    assert [name for name in run.data.metrics if "information" in name] == ["epoch/information/hsic/cnn-transformer"]


def test_a_long_curve_is_kept_whole(store: StudyFolder) -> None:
    end_trial(store, 0, epochs=500)
    tracker_of(store).mirror()
    client = _mlflow.api().MlflowClient(_mlflow.database_uri(store.folder.parent))
    assert len(client.get_metric_history(runs(store)["trial/0"].info.run_id, "epoch/train_loss")) == 500


def test_mirroring_again_adds_only_what_is_missing(store: StudyFolder, mirrored: dict[str, Any]) -> None:
    assert tracker_of(store).mirror() == 0
    end_trial(store, 3)
    assert tracker_of(store).mirror() == 1
    assert set(runs(store)) == {*mirrored, "trial/3"}


def test_a_trial_that_two_processes_saw_end_stands_once(store: StudyFolder) -> None:
    first, second = tracker_of(store), tracker_of(store)
    first.mirror()
    record = end_trial(store, 0)
    assert second.mirror() == 1
    first.ended(record)
    assert set(runs(store)) == {"study", "trial/0"}


def test_a_run_that_a_kill_left_open_is_completed(store: StudyFolder) -> None:
    record = end_trial(store, 0)
    tracker = tracker_of(store)
    tracker.mirror()
    client = _mlflow.api().MlflowClient(tracker.uri)
    client.update_run(runs(store)["trial/0"].info.run_id, status="RUNNING")
    client.set_tag(tracker.parent, MIRRORED, "0")  # which is written when runs are closed: not yet, when a kill came
    assert tracker_of(store).mirror() == 1
    run = runs(store)["trial/0"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics["balanced_accuracy"] == record.metrics["balanced_accuracy"]
    assert len(client.get_metric_history(run.info.run_id, "epoch/train_loss")) == 3


def test_a_run_that_a_person_deleted_stays_deleted(store: StudyFolder, mirrored: dict[str, Any]) -> None:
    client = _mlflow.api().MlflowClient(_mlflow.database_uri(store.folder.parent))
    client.delete_run(mirrored["trial/1"].info.run_id)
    assert tracker_of(store).mirror() == 0
    assert "trial/1" not in runs(store)


def test_a_study_begun_anew_under_an_old_name_has_runs_of_its_own(store: StudyFolder, mirrored: dict[str, Any]) -> None:
    text = (store.folder / "study.json").read_text(encoding="utf-8")
    created = store.settings.created
    (store.folder / "study.json").write_text(text.replace(created, "2031-01-01T00:00:00+00:00"), encoding="utf-8")
    reread(store)
    assert tracker_of(store).mirror() == len(mirrored) - 1


def test_finish_sums_up_the_study(store: StudyFolder) -> None:
    tracker = tracker_of(store)
    for number in (1, 0, 2):
        tracker.ended(end_trial(store, number))
    end_trial(store, 3, "failed", kind="nan_loss")
    tracker.finish()
    tracker.finish()
    parent = runs(store)["study"]
    assert parent.data.tags["best_trial"] == "2"
    assert parent.data.tags["trials_complete"] == "3"
    assert parent.data.tags["trials_failed"] == "1"
    assert parent.data.metrics["balanced_accuracy"] == pytest.approx(0.62)
    history = _mlflow.api().MlflowClient(tracker.uri).get_metric_history(parent.info.run_id, "best/balanced_accuracy")
    assert [point.value for point in history] == pytest.approx([0.60, 0.61, 0.62])


def test_artifacts_lie_in_the_runs_folder_wherever_one_stands(
    store: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    tracker_of(store).mirror()
    assert list((store.folder.parent / "mlartifacts").rglob("search_space.yaml"))
    assert not list(elsewhere.iterdir())


def test_a_broken_database_warns_once_and_kills_nothing(store: StudyFolder) -> None:
    place = store.folder.parent / "mlflow.db"
    good = place.read_bytes()
    place.write_bytes(b"no database " * 1000)
    tracker = tracker_of(store)
    with pytest.warns(UserWarning, match="cannot be written: .*next search of this study adds") as observed:
        tracker.mirror()
    tracker.ended(end_trial(store, 0))
    tracker.finish()
    assert len(observed) == 1
    assert tracker.failure
    place.write_bytes(good)
    assert tracker_of(store).mirror() == 1


def test_a_server_that_is_away_warns_and_kills_nothing(store: StudyFolder) -> None:
    tracker = MlflowTracker(store, store.folder.parent, uri="http://127.0.0.1:9")
    end_trial(store, 0)
    with pytest.warns(UserWarning, match=r"http://127\.0\.0\.1:9"):
        assert tracker.mirror() == 0


def test_another_address_takes_the_mirror(
    store: StudyFolder, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    other = tmp_path / "other.db"
    other.write_bytes(database.read_bytes())
    end_trial(store, 0)
    assert MlflowTracker(store, store.folder.parent, uri=f"sqlite:///{other}").mirror() == 1
    assert _mlflow.api().MlflowClient(f"sqlite:///{other}").get_experiment_by_name("small") is not None
    assert not list((tmp_path / "elsewhere").iterdir())


MIRROR = (
    "import sys; from pathlib import Path; from histotune.storage.study_folder import StudyFolder; "
    "from histotune.tracking.tracker import MlflowTracker; store = StudyFolder(Path(sys.argv[1])); "
    "print(MlflowTracker(store, store.folder.parent).mirror())"
)


@pytest.mark.slow
def test_kill_9_loses_and_doubles_nothing(store: StudyFolder) -> None:
    for number in range(120):
        end_trial(store, number)
    seen: list[int] = []
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", MIRROR, store.folder])
        before = len(runs(store)) if seen else 0
        while process.poll() is None and len(runs(store)) < before + 12:
            time.sleep(0.02)
        process.kill()
        process.wait()
        seen.append(len(runs(store)))
    assert seen == sorted(set(seen))
    tracker_of(store).mirror()
    result = runs(store)
    assert len(result) == 121
    assert {run.info.status for run in result.values()} == {"FINISHED"}
    assert all(run.data.metrics["epoch/train_loss"] for key, run in result.items() if key != "study")


def test_two_processes_that_start_at_once_make_one_database(small_study: StudyFolder) -> None:
    end_trial(small_study, 0)
    both = [
        subprocess.Popen([sys.executable, "-W", "error::UserWarning", "-c", MIRROR, small_study.folder], stdout=-1)
        for _ in range(2)
    ]
    added = [int(process.communicate(timeout=120)[0]) for process in both]
    assert sorted(added) == [0, 1]
    assert set(runs(small_study)) == {"study", "trial/0"}


FRESH = """
import os, sys
import mlflow, numpy as np, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
cases = np.load(sys.argv[3]) if sys.argv[3].endswith(".npy") else pd.read_csv(sys.argv[3])
table = model.predict(cases)
table.to_csv(sys.argv[4], index=False)
"""


@pytest.fixture
def trained(trained_study: StudyFolder, database: Path) -> StudyFolder:
    """A study with three trained trials beside a fresh database."""
    (trained_study.folder.parent / "mlflow.db").write_bytes(database.read_bytes())
    return trained_study


def in_a_fresh_process(store: StudyFolder, model: str, cases: Path, tmp_path: Path) -> pd.DataFrame:
    """Load a logged model by its MLflow address, with pickle forbidden, and predict the cases of a file."""
    uri = _mlflow.database_uri(store.folder.parent)
    arguments = [uri, model, str(cases), str(tmp_path / "out.csv")]
    strict = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([sys.executable, "-c", FRESH, *arguments], check=True, env=os.environ | strict, cwd=elsewhere)
    return pd.read_csv(tmp_path / "out.csv", keep_default_na=False)


def predict_in_a_fresh_process(store: StudyFolder, model: str, images: np.ndarray, tmp_path: Path) -> np.ndarray:
    """Do so for images; returns the probabilities."""
    np.save(tmp_path / "images.npy", images)
    result = in_a_fresh_process(store, model, tmp_path / "images.npy", tmp_path)
    return result[["p_benign", "p_malignant"]].to_numpy()


def test_the_top_trials_are_logged_as_models_once(trained: StudyFolder) -> None:
    tracker = tracker_of(trained)
    tracker.mirror()
    assert log_models(tracker, top=2) == 2
    assert log_models(tracker_of(trained), top=2) == 0
    assert log_models(tracker_of(trained), top=3) == 1
    client = _mlflow.api().MlflowClient(tracker.uri)
    assert len(client.search_logged_models([tracker.experiment])) == 3


def test_a_study_without_results_logs_no_model(store: StudyFolder) -> None:
    end_trial(store, 0, "failed", kind="nan_loss")
    assert log_models(tracker_of(store)) == 0


def test_a_logged_trial_predicts_in_a_fresh_process_without_pickle(
    trained: StudyFolder, small_cohort: Cohort, tmp_path: Path
) -> None:
    tracker = tracker_of(trained)
    tracker.mirror()
    log_models(tracker, top=1)
    model = _mlflow.api().MlflowClient(tracker.uri).search_logged_models([tracker.experiment])[0]
    images = np.array(small_cohort.arrays["image"][:5])
    number = int(model.name.rpartition("-")[2])
    expected = load(export_trial(trained, number, tmp_path / "export")).probabilities({32: images})
    result = predict_in_a_fresh_process(trained, model.model_uri, images, tmp_path)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_a_logged_model_of_tables_predicts_a_table_of_all_modalities(database: Path, tmp_path: Path) -> None:
    store, cohort = begun(tmp_path / "runs" / "tables")
    (store.folder.parent / "mlflow.db").write_bytes(database.read_bytes())
    train(store, cohort, 0, "image", "clinical", epochs=1)
    tracker = tracker_of(store)
    tracker.mirror()
    assert log_models(tracker, top=1) == 1
    ids = store.trials()[0].predictions().ids[:20]
    folder = write_cases(tmp_path / "cases", cohort, ids)
    (folder / "omics.csv").unlink()
    expected = load(export_trial(store, 0, tmp_path / "export")).predict(folder)
    frames = {name: pd.read_csv(folder / f"{name}.csv").set_index("case_id") for name in ("image", "clinical")}
    wide = pd.concat([frame.add_prefix(f"{name}.") for name, frame in frames.items()], axis=1, join="outer")
    wide.rename_axis("case_id").reset_index().to_csv(tmp_path / "wide.csv", index=False)
    model = _mlflow.api().MlflowClient(tracker.uri).search_logged_models([tracker.experiment])[0]
    result = in_a_fresh_process(store, model.model_uri, tmp_path / "wide.csv", tmp_path)
    pd.testing.assert_frame_equal(result.sort_values("id", ignore_index=True), expected, check_dtype=False)


def test_the_registry_gets_the_ensemble_and_it_predicts(
    trained: StudyFolder, small_cohort: Cohort, tmp_path: Path
) -> None:
    tracker = tracker_of(trained)
    merged = merge(trained, top=3, replicates=20)
    assert log_ensemble(tracker, merged) == "1"
    assert log_ensemble(tracker_of(trained), merged) == "1"
    run = runs(trained)["ensemble/" + merged.name + "/" + load(export_ensemble(trained, merged, tmp_path / "e")).digest]
    assert run.data.params["strategy.name"] == "average"
    images = np.array(small_cohort.arrays["image"][:5])
    expected = load(tmp_path / "e").probabilities({32: images})
    result = predict_in_a_fresh_process(trained, "models:/small-ensemble@champion", images, tmp_path)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_the_champion_is_the_version_that_is_best_on_validation(trained: StudyFolder) -> None:
    tracker = tracker_of(trained)
    merged = [merge(trained, top=top, replicates=20) for top in (1, 2, 3)]
    versions = [log_ensemble(tracker, one) for one in merged]
    assert versions == ["1", "2", "3"]
    values = [one.metrics["balanced_accuracy"] for one in merged]
    champion = _mlflow.api().MlflowClient(tracker.uri).get_model_version_by_alias("small-ensemble", "champion")
    assert values[int(champion.version) - 1] == max(values)


def test_no_artifact_is_a_pickle(trained: StudyFolder) -> None:
    tracker = tracker_of(trained)
    log_ensemble(tracker, merge(trained, top=2, replicates=20))
    kept = {path.suffix for path in (trained.folder.parent / "mlartifacts").rglob("*") if path.is_file()}
    assert kept == {"", ".json", ".md", ".py", ".safetensors", ".txt", ".yaml"}


def test_no_interface_without_a_database(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="run a search first"):
        ui_command(tmp_path)


def test_the_interface_is_for_this_machine_and_small(store: StudyFolder) -> None:
    command, environment = ui_command(store.folder.parent, 5123)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--workers") + 1] == "1"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.fixture
def interface(store: StudyFolder, tmp_path: Path) -> Iterator[str]:
    command, environment = ui_command(store.folder.parent, 5731)
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
        )
        yield "http://127.0.0.1:5731"
        server.terminate()
        server.wait(timeout=30)


@pytest.mark.slow
def test_the_interface_answers(interface: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{interface}/health", timeout=5) as answer:
                assert answer.status == 200
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    pytest.fail("MLflow's interface did not answer within 120 s")


def test_old_trials_are_not_asked_for_again(store: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        end_trial(store, number)
    assert tracker_of(store).mirror() == 3
    end_trial(store, 3)
    asked: list[str] = []
    known = MlflowTracker.runs_of

    def listen(self: MlflowTracker, client: Any, key: str = "") -> dict[str, Any]:
        asked.append(key)
        return known(self, client, key)

    monkeypatch.setattr(MlflowTracker, "runs_of", listen)
    assert tracker_of(store).mirror() == 1
    assert asked == ["trial/3"]
    assert sorted(runs(store)) == ["study", "trial/0", "trial/1", "trial/2", "trial/3"]


def test_a_gap_among_the_trials_is_filled_later(store: StudyFolder) -> None:
    end_trial(store, 0)
    end_trial(store, 2)
    assert tracker_of(store).mirror() == 2
    end_trial(store, 1)
    assert tracker_of(store).mirror() == 1
    assert {"trial/0", "trial/1", "trial/2"} <= runs(store).keys()
