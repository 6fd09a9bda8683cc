"""A served export answers with the probabilities of the export, and refuses everything else in a sentence."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import uvicorn
from made_up_tables import begun, train, write_cases
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message
from typer.testing import CliRunner

from histotune.cli.app import app
from histotune.data.cohort import Cohort
from histotune.exports.export import export_trial
from histotune.exports.mlflow_registry import log_models
from histotune.exports.model import Export, load
from histotune.exports.serve import _files, _limited, application
from histotune.storage.study_folder import StudyFolder
from histotune.tracking import client as _mlflow
from histotune.tracking.tracker import MlflowTracker


@contextlib.contextmanager
def served(model: Export, **options: Any) -> Iterator[str]:
    """Serve a model on a free port, in a thread; gives the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(application(model, **options), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def ask(address: str, body: bytes | None = None, kind: str = "image/png") -> tuple[int, Any]:
    """Return the status and what was answered: JSON, or else text."""
    request = urllib.request.Request(address, body, {"Content-Type": kind} if body is not None else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    try:
        return status, json.loads(text)
    except json.JSONDecodeError:
        return status, text


def png(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "png")
    return held.getvalue()


def form(files: dict[str, bytes]) -> tuple[bytes, str]:
    """Write files as curl's -F does."""
    head = '--limit\r\nContent-Disposition: form-data; name="image"; filename="{}"\r\nContent-Type: image/png\r\n\r\n'
    parts = [head.format(name).encode() + content + b"\r\n" for name, content in files.items()]
    return b"".join(parts) + b"--limit--\r\n", "multipart/form-data; boundary=limit"


def request_of(parts: Iterator[bytes], kind: str) -> Request:
    """Return a request whose body arrives in parts."""

    async def receive() -> Message:
        part = next(parts, None)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    return Request({"type": "http", "headers": [(b"content-type", kind.encode())]}, receive)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, new_study: Any, trained_trials: Path) -> Export:
    """An export of one trial."""
    store: StudyFolder = new_study(tmp_path_factory.mktemp("served") / "runs" / "small")
    (store.folder / "trials").symlink_to(trained_trials)
    return load(export_trial(store, 1, store.folder.parent / "one"))


@pytest.fixture(scope="module")
def address(model: Export) -> Iterator[str]:
    with served(model) as result:
        yield result


@pytest.fixture(scope="module")
def images(small_cohort: Cohort) -> np.ndarray:
    return np.array(small_cohort.arrays["image"][:6])


def test_an_image_has_the_exports_probabilities(address: str, model: Export, images: np.ndarray) -> None:
    status, result = ask(f"{address}/predict", png(images[0]))
    assert status == 200
    (text,) = result["predictions"]
    expected = model.predict(images[:1]).iloc[0]
    assert text["probabilities"] == pytest.approx({name: expected[f"p_{name}"] for name in model.classes})
    assert (text["label"], text["label_at_threshold"]) == (expected["label"], expected["label_at_threshold"])
    assert (result["threshold"], result["digest"]) == (model.threshold, model.digest)


def test_a_form_of_several_images_keeps_names_and_order(address: str, model: Export, images: np.ndarray) -> None:
    body, kind = form({f"patch {number}.png": png(image) for number, image in enumerate(images)})
    status, result = ask(f"{address}/predict", body, kind)
    assert status == 200
    assert [one["id"] for one in result["predictions"]] == [f"patch {number}.png" for number in range(len(images))]
    expected = model.predict(images)["p_malignant"]
    assert [one["probabilities"]["malignant"] for one in result["predictions"]] == pytest.approx(list(expected))


@pytest.mark.parametrize("seed", range(20))
def test_the_bytes_of_a_form_are_not_touched(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    content = drawn.choice(np.frombuffer(b"\r\n-\x00\x80\xff a:=", np.uint8), drawn.integers(0, 200)).tobytes()
    body, kind = form({"a": content, "b": b""})
    cuts = [0, *sorted(drawn.integers(0, len(body), 3)), len(body)]
    request = request_of(iter([body[start:end] for start, end in pairwise(cuts)]), kind)
    assert asyncio.run(_files(request, kind)) == [("a", content), ("b", b"")]


@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=limit"])
def test_a_request_that_is_too_large_is_not_read_to_its_end(kind: str) -> None:
    body = form({"a": bytes(10_000)})[0]
    parts = iter([body[start : start + 100] for start in range(0, len(body), 100)])
    with pytest.raises(HTTPException, match="at most"):
        asyncio.run(_files(_limited(request_of(parts, kind), 1000), kind))
    assert len(list(parts)) > 80


def test_concurrent_requests_get_their_own_answers(address: str, model: Export, images: np.ndarray) -> None:
    expected = list(model.predict(images)["p_malignant"])
    with ThreadPoolExecutor(6) as several:
        answers = list(several.map(lambda image: ask(f"{address}/predict", png(image)), [*images, *images]))
    assert {status for status, _ in answers} == {200}
    result = [answer["predictions"][0]["probabilities"]["malignant"] for _, answer in answers]
    assert result == pytest.approx(expected * 2)


def test_health_and_card(address: str, model: Export) -> None:
    status, health = ask(f"{address}/health")
    assert (status, health["status"], health["digest"]) == (200, "ok", model.digest)
    assert ask(f"{address}/") == (200, (model.folder / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"no image at all", "image/png", "image: not_an_image"),
        (b"", "image/png", "the request is empty"),
        (b'{"rows": []}', "application/json", "reads images, not JSON"),
        (b'{"rows": []}', "Application/JSON", "reads images, not JSON"),
        (b"--limit--", "multipart/form-data; boundary=limit", "the form holds no file"),
        (b"nothing", "multipart/form-data", "the form cannot be read (Missing boundary in multipart)"),
        (form({"a.png": b"GIF"})[0][:60], "multipart/form-data; boundary=limit", "the form holds no file"),
        (form({"good.png": b"GIF"})[0], "multipart/form-data; boundary=limit", "good.png: not_an_image"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(address: str, body: bytes, kind: str, said: str) -> None:
    status, result = ask(f"{address}/predict", body, kind)
    assert status == 400
    assert said in result["error"]
    assert "Traceback" not in result["error"]
    assert "histotune-serve" not in result["error"]  # nor where it was put


def test_wrong_address_and_wrong_method_are_refused(address: str) -> None:
    assert ask(f"{address}/nowhere")[0] == 404
    assert ask(f"{address}/predict")[0] == 405


def test_a_request_that_is_too_large_is_refused(model: Export, images: np.ndarray) -> None:
    with served(model, largest=1000) as address:
        status, result = ask(f"{address}/predict", png(images[0]))
        assert status == 413
        assert "at most" in result["error"]
        assert ask(f"{address}/health")[0] == 200


def test_rows_of_tables_have_the_exports_probabilities(tmp_path: Path) -> None:
    store, cohort = begun(tmp_path / "runs" / "tables")
    train(store, cohort, 0, "image", "clinical", epochs=1)
    model = load(export_trial(store, 0, tmp_path / "export"))
    folder = write_cases(tmp_path / "cases", cohort, store.trials()[0].predictions().ids[:8])
    (folder / "omics.csv").unlink()
    expected = model.predict(folder)
    frames = {name: pd.read_csv(folder / f"{name}.csv").set_index("case_id") for name in ("image", "clinical")}
    wide = pd.concat([frame.add_prefix(f"{name}.") for name, frame in frames.items()], axis=1, join="outer")
    rows = wide.rename_axis("case_id").reset_index().to_json(orient="records")
    with served(model) as address:
        status, result = ask(f"{address}/predict", f'{{"rows": {rows}}}'.encode(), "application/json")
        assert status == 200, result
        name = f"p_{model.classes[1]}"
        answered = {one["id"]: one["probabilities"][model.classes[1]] for one in result["predictions"]}
        assert answered == pytest.approx(dict(zip(expected["id"], expected[name], strict=True)))
        for body, message in (
            (b"{}", "is not JSON as"),
            (b'{"rows": []}', "no row"),
            (b'{"rows": [{"a": 1}]}', "MODALITY"),
        ):
            status, result = ask(f"{address}/predict", body, "application/json")
            assert status == 400
            assert message in result["error"]
        assert "send JSON" in ask(f"{address}/predict", b"png")[1]["error"]


def test_a_port_in_use_is_refused_in_a_sentence(model: Export) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answer = CliRunner().invoke(app, ["serve", str(model.folder), "--port", str(taken.getsockname()[1])])
    assert answer.exit_code == 2
    assert "cannot listen on 127.0.0.1" in answer.stderr


def test_no_export_is_refused_in_a_sentence(tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, ["serve", str(tmp_path)])
    assert answer.exit_code == 2
    assert "is no export" in answer.stderr


@pytest.mark.slow
def test_the_command_serves(model: Export, images: np.ndarray) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = "from histotune.cli.app import main; main()"
    command = [sys.executable, "-c", code, "serve", str(model.folder), "--port", str(port)]
    server = subprocess.Popen(command)
    try:
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError):
                if ask(f"http://127.0.0.1:{port}/health")[0] == 200:
                    break
            time.sleep(0.1)
        assert ask(f"http://127.0.0.1:{port}/predict", png(images[0]))[0] == 200
    finally:
        server.terminate()
        assert server.wait(30) in (0, -15)


@pytest.mark.slow
def test_mlflow_serves_a_logged_model(tmp_path: Path, trained_study: StudyFolder, images: np.ndarray) -> None:
    tracker = MlflowTracker(trained_study, trained_study.folder.parent)
    tracker.mirror()
    assert log_models(tracker, top=1) == 1
    logged = _mlflow.api().MlflowClient(tracker.uri).search_logged_models([tracker.experiment])[0]
    assert "## Intended use" in logged.tags["mlflow.note.content"]
    number = int(logged.name.rpartition("-")[2])
    expected = load(export_trial(trained_study, number, tmp_path / "export")).predict(images)["p_malignant"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = logged.artifact_location.removeprefix("file://")
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", where, "--env-manager", "local"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        env=os.environ | quiet,
        start_new_session=True,
        cwd=tmp_path,
    )
    try:
        for _ in range(1800):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                if ask(f"http://127.0.0.1:{port}/ping")[0] == 200:
                    break
            time.sleep(0.1)
        body = json.dumps({"inputs": images.tolist()}).encode()
        status, result = ask(f"http://127.0.0.1:{port}/invocations", body, "application/json")
        assert status == 200, result
        assert [row["p_malignant"] for row in result["predictions"]] == pytest.approx(list(expected), abs=1e-6)
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # its workers, too
        server.wait(30)
