"""The command that answers HTTP requests with predictions: `histotune serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from histotune.cli import options as given

EXAMPLES = ("serve exports/idc", "serve exports/idc --port 9000")


def serve(
    exported: given.ExportArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts requests from every machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port.", min=1, max=65535)] = 8000,
    megabytes: Annotated[int, typer.Option(help="Largest request, in MiB.", min=1)] = 32,
) -> None:
    """Serve the predictions of an export over HTTP; by default on this machine only."""
    from histotune.exports.model import load
    from histotune.exports.serve import run

    typer.echo(f"Loading {exported}")
    model = load(exported)
    typer.echo(f"{model.name}: http://{host}:{port} (GET /: model card, POST /predict: predictions; Ctrl-C to stop)")
    run(model, host, port, largest=megabytes * 2**20)
