"""What MLflow's interface shows of a study: a description, ranks, a view in which trials compare; in a browser, too."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import needs_browser, open_page
from mirrored import end_trial, runs, tracker_of

from histotune.core import files
from histotune.core.config import TrialConfig
from histotune.storage.study_folder import StudyFolder
from histotune.tracking import client as _mlflow
from histotune.tracking import saved_view
from histotune.tracking.saved_view import NAME, NOTE, SEARCH, VIEW, address, experiment_tags, plain_address

SHOTS = os.environ.get("HISTOTUNE_SCREENSHOTS")
LOSSES = ("cross_entropy", "focal", "label_smoothing", "class_balanced")


@pytest.fixture
def store(small_study: StudyFolder, database: Path) -> StudyFolder:
    """A study of six trials that differ in loss and learning rate, mirrored; the last one stopped."""
    (small_study.folder.parent / "mlflow.db").write_bytes(database.read_bytes())
    for number in range(6):
        changes = {"state": "stopped"} if number == 5 else {}
        record = end_trial(small_study, number, **changes)
        rate = 0.0001 * (number + 1)
        config = {"loss": {"name": LOSSES[number % 2]}, "seed": number, "optimizer": {"learning_rate": rate}}
        files.write_json(record.folder / "config.yaml", TrialConfig.from_dict(config).to_dict())
    tracker = tracker_of(small_study)
    tracker.mirror()
    tracker.finish()
    return small_study


def experiment(store: StudyFolder) -> Any:
    client = _mlflow.api().MlflowClient(_mlflow.database_uri(store.folder.parent))
    return client.get_experiment_by_name(store.folder.name)


def state(tag: str) -> dict[str, Any]:
    """Return the state of a saved view as MLflow's interface reads it."""
    saved = json.loads(tag)
    assert (type(saved["name"]), type(saved["createdAt"]), type(saved["state"])) == (str, int, str)
    packed = saved["state"].removeprefix("deflate;")
    assert packed != saved["state"]
    result: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return result


def test_the_description_tells_the_study_and_leads_to_the_view(store: StudyFolder) -> None:
    result = experiment(store)
    note = result.tags[NOTE]
    for message in ("240 cases of 24 patients", "split patient", "5 complete, 1 stopped", "The data are made up"):
        assert message in note
    assert f"]({address(result.experiment_id)})" in note
    assert f"]({plain_address(result.experiment_id, 'balanced_accuracy')})" in note
    assert result.tags["mlflow.experiment.primaryMetric.name"] == "balanced_accuracy"


def test_the_view_shows_what_differs_best_first(store: StudyFolder) -> None:
    view = state(experiment(store).tags[VIEW])
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`balanced_accuracy`", False)
    columns = view["selectedColumns"]
    assert {"params.`loss.name`", "params.`optimizer.learning_rate`", "tags.`rank`"} <= set(columns)
    assert not {"params.`seed`", "params.`batch_size`"} & set(columns)  # which says nothing, or is the same for all
    assert len(columns) == len(set(columns))
    assert {chart["type"] for chart in view["compareRunCharts"]} == {"PARALLEL", "BAR", "LINE"}


def test_the_best_have_ranks_and_lose_them(store: StudyFolder) -> None:
    def ranks() -> dict[str, str]:
        return {key: run.data.tags["rank"] for key, run in runs(store).items() if "rank" in run.data.tags}

    assert ranks() == {f"trial/{4 - place}": str(place + 1) for place in range(5)}
    record = end_trial(store, 6, metrics={"balanced_accuracy": 0.99})
    tracker = tracker_of(store)
    tracker.ended(record)
    tracker.finish()
    assert ranks()["trial/6"] == "1"
    assert ranks()["trial/4"] == "2"


def test_an_opened_seal_stands_in_the_description(store: StudyFolder) -> None:
    store.open_seal("histotune evaluate e", "abc")
    assert "ended without a result" in experiment_tags(store, store.trials(), "1")[NOTE]


def test_a_description_fits_into_a_tag(store: StudyFolder) -> None:
    assert all(len(value) <= 5000 for value in experiment_tags(store, store.trials(), "1").values())


def test_a_view_that_fits_into_no_tag_is_not_linked(store: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_view, "_LONGEST", 600)
    tags = experiment_tags(store, store.trials(), "1")
    assert VIEW not in tags
    assert "viewStateShareKey" not in tags[NOTE]
    assert f"]({plain_address('1', 'balanced_accuracy')})" in tags[NOTE]


def test_a_name_and_a_time_list_the_view(store: StudyFolder) -> None:
    saved = json.loads(experiment(store).tags[VIEW])
    assert saved["name"] == NAME
    assert abs(saved["createdAt"] / 1000 - time.time()) < 3600


@pytest.fixture
def interface(store: StudyFolder, tmp_path: Path) -> Iterator[str]:
    """MLflow's server as `histotune ui` starts it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command, environment = _mlflow.ui_command(store.folder.parent, port)
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 180
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                        break
                except (urllib.error.URLError, ConnectionError):
                    assert time.monotonic() < deadline, "MLflow's interface did not answer within 180 s"
                    time.sleep(0.3)
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
            server.wait(timeout=30)


@needs_browser
@pytest.mark.slow
def test_in_a_browser_the_view_opens_and_two_runs_compare(interface: str, store: StudyFolder, tmp_path: Path) -> None:
    shots, number = Path(SHOTS) if SHOTS else tmp_path, experiment(store).experiment_id
    two = [run.info.run_id for key, run in sorted(runs(store).items()) if key in ("trial/3", "trial/4")]
    with open_page(f"{interface}{address(number)}", width=1600, height=1000) as page:
        page.wait_for("document.body.innerText.includes('trial 4')")
        shown = page.evaluate("document.body.innerText")
        page.screenshot(shots / "runs.png")
        for message in ("Sort: balanced_accuracy", "loss.name", "optimizer.lea"):
            assert message in shown
        assert shown.count(NAME) == 2  # of the description, and of the menu of views
        typed = page.evaluate("Array.from(document.querySelectorAll('input')).map(input => input.value)")
        assert SEARCH in typed
        order = [line.split()[1] for line in shown.splitlines() if line.startswith("trial ")]
        assert order == ["4", "3", "2", "1", "0"]
        for view, message, name in (
            (f"{address(number)}&compareRunsMode=CHART", "Comparison", "charts"),
            (
                f"#/compare-runs?runs={json.dumps(two)}&experiments={json.dumps([number])}",
                "Comparing 2 Runs",
                "compare",
            ),
        ):
            page.open("about:blank")
            page.open(f"{interface}{view}")
            page.wait_for(f"document.body.innerText.includes({json.dumps(message)})")
            page.screenshot(shots / f"{name}.png")
        page.wait_for("document.body.innerText.includes('optimizer.learning_rate')")
        compared = page.evaluate("document.body.innerText")
        assert "0.0004\t0.0005" in compared
        assert "focal\tcross_entropy" in compared


@needs_browser
@pytest.mark.slow
def test_without_its_view_mlflow_shows_the_plain_table_and_no_error(interface: str, store: StudyFolder) -> None:
    number = experiment(store).experiment_id
    client = _mlflow.api().MlflowClient(_mlflow.database_uri(store.folder.parent))
    # as if MLflow had given all that stands in a view another name
    client.set_experiment_tag(number, VIEW, saved_view._saved({"renamed": {"columns": ["auroc"]}}, ""))
    with open_page(f"{interface}{address(number)}", width=1600, height=1000) as page:
        page.wait_for(f"document.body.innerText.includes('study {store.settings.name}')")
        assert "rror" not in page.evaluate("document.body.innerText")
        page.open("about:blank")
        page.open(f"{interface}{plain_address(number, 'balanced_accuracy')}")
        page.wait_for("document.body.innerText.includes('trial 4')")
        shown = page.evaluate("document.body.innerText")
        assert "rror" not in shown
        assert [line.split()[1] for line in shown.splitlines() if line.startswith("trial ")] == [
            "4",
            "3",
            "2",
            "1",
            "0",
        ]
