"""An export that answers HTTP requests: images or rows of tables in, class probabilities out, all as JSON.

GET /          the model card, as text
GET /health    name, digest, classes, and what the model reads
POST /predict  an image as the body (`--data-binary @a.png`), several as a form (`-F image=@a.png -F image=@b.png`), or
               {"rows": [{"MODALITY.COLUMN": value, ...}]} of an export that reads tables; `case_id` names a row

A request opens no file of the machine that serves. What cannot be read is answered with 400 and a sentence.
"""

from __future__ import annotations

import json
import math
import socket
import tempfile
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message

from histotune.core.files import without_nan
from histotune.errors import ConfigError, DataError, HistotuneError
from histotune.exports.model import Export
from histotune.ingest.new_cases import of_frame
from histotune.storage import layout

LARGEST = 32 * 2**20  # bytes of a request
_FORM = "`curl -F image=@a.png` sends one"
_HOW = 'send an image as the body, several images as a form, or JSON as {"rows": [...]}'


def application(model: Export, *, largest: int = LARGEST) -> Starlette:
    """Return what answers requests for a model, as an ASGI application.

    Args:
        largest: bytes of a request; a larger one is answered with 413, and not read to its end.
    """
    turn = threading.Lock()  # one prediction at a time: they share memory and cores

    def answer(kind: str, sent: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
        with turn:
            return _predict(model, kind, sent)

    async def predict(request: Request) -> Response:
        kind = request.headers.get("content-type", "").lower()  # a media type has no case
        try:
            sent = await _files(_limited(request, largest), kind)
            result = await run_in_threadpool(answer, kind, sent)
        except HistotuneError as error:
            raise HTTPException(400, str(error)) from error
        return JSONResponse(without_nan(result))

    async def health(request: Request) -> Response:
        reads = {name: {"kind": one.kind, "columns": list(one.needed)} for name, one in model.reads.items()}
        text = {"status": "ok", "model": model.name, "digest": model.digest, "classes": model.classes, "reads": reads}
        return JSONResponse(text)

    async def card(request: Request) -> Response:
        return PlainTextResponse((model.folder / layout.CARD).read_text(encoding="utf-8"))

    routes = [Route("/", card), Route("/health", health), Route("/predict", predict, methods=["POST"])]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refusal, Exception: _failure})


def run(model: Export, host: str, port: int, *, largest: int = LARGEST) -> None:
    """Answer requests until the process is stopped.

    Raises:
        ConfigError: the address is in use, or is none of this machine.
    """
    import uvicorn

    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}. Name another with --host or --port"
        ) from error
    config = uvicorn.Config(application(model, largest=largest), log_level="warning", server_header=False)
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _limited(request: Request, largest: int) -> Request:
    """Return the same request, which ends in a refusal where more than `largest` bytes of it arrive."""
    size = 0

    async def receive() -> Message:
        nonlocal size
        message = await request.receive()
        size += len(message.get("body", b""))
        if size > largest:
            raise HTTPException(413, f"a request has {largest / 2**20:g} MiB at most: send fewer images at once")
        return message

    return Request(request.scope, receive)


async def _files(request: Request, kind: str) -> list[tuple[str, bytes]]:
    """Read the files of a form (RFC 7578), each as (name, content), or the body as the one file of a request."""
    if not kind.startswith("multipart/form-data"):
        if body := await request.body():
            return [("image", body)]
        raise DataError(f"the request is empty: {_HOW}")
    try:
        async with request.form(max_files=math.inf, max_fields=math.inf) as form:
            files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            result = [(file.filename or "image", await file.read()) for file in files]
    except HTTPException as error:
        if error.status_code != 400:
            raise
        raise DataError(f"the form cannot be read ({error.detail.rstrip('.')}): {_FORM}") from error
    if not result:
        raise DataError(f"the form holds no file: {_FORM}")
    return result


def _predict(model: Export, kind: str, sent: Sequence[tuple[str, bytes]]) -> dict[str, Any]:
    if kind.startswith("application/json"):
        table = _of_rows(model, sent[0][1])
    elif not model.only_images:
        raise DataError(f'{model.name} reads {", ".join(model.reads)}: send JSON as {{"rows": [...]}}')
    else:
        table = _of_images(model, sent)
    return {
        "model": model.name,
        "digest": model.digest,
        "positive": model.classes[model.positive],
        "threshold": model.threshold,
        "predictions": [_prediction(model, row) for row in table.to_dict("records")],
    }


def _prediction(model: Export, row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return one prediction, its probabilities by class."""
    others = {name: value for name, value in row.items() if not str(name).startswith("p_")}
    return {"id": others.pop("id"), "probabilities": {name: row[f"p_{name}"] for name in model.classes}, **others}


def _of_images(model: Export, given: Sequence[tuple[str, bytes]]) -> pd.DataFrame:
    """Predict files as they were sent, each under its name there."""
    with tempfile.TemporaryDirectory(prefix="histotune-serve-") as folder:
        names = {str(Path(folder) / f"{number:05d}"): name for number, (name, _) in enumerate(given)}
        for path, (_, content) in zip(names, given, strict=True):
            Path(path).write_bytes(content)
        try:
            table = model.predict(list(names), strict=True)
        except DataError as error:
            sentence = str(error).partition(". Leave `strict`")[0]
            for path, name in names.items():
                sentence = sentence.replace(path, name)
            raise DataError(sentence) from error
    return table.assign(id=[names[path] for path in table["path"]]).drop(columns="path")


def _of_rows(model: Export, body: bytes) -> pd.DataFrame:
    """Predict rows of tables."""
    if model.only_images:
        raise DataError(f"{model.name} reads images, not JSON: {_HOW.rpartition(', or')[0]}")
    try:
        rows = json.loads(body)["rows"]
        frame = pd.DataFrame.from_records(rows)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f'the body is not JSON as {{"rows": [{{"MODALITY.COLUMN": value}}, ...]}}: {error}') from error
    if frame.empty:
        raise DataError("there is no row")
    ids, columns = of_frame(frame, model.reads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that rows are left out: they are missing in the answer
        table = model.predict(columns)
    return table.assign(id=[ids[row] for row in table["id"]])


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failure(request: Request, error: Exception) -> Response:
    """Answer without details, which stand in the server's own log."""
    return JSONResponse({"error": "the prediction failed; the reason is in the log of the server"}, 500)
