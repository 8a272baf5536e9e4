"""`python -m helpers.serving.tf_server`: the flags of tensorflow_model_server."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from helpers.serving.common.server import run
from helpers.serving.tf_server.app import ModelServer
from helpers.serving.tf_server.batching import MAX_ROWS, MAX_WAITING_ROWS
from helpers.serving.tf_server.specs import Model
from helpers.serving.tf_server.versions import newest_version

cli = typer.Typer(add_completion=False)


@cli.command()
def main(
    model_name: Annotated[str, typer.Option("--model_name", help="Name in the paths.")],
    model_base_path: Annotated[
        Path, typer.Option("--model_base_path", help="Folder of the version folders.")
    ],
    rest_api_port: Annotated[int, typer.Option("--rest_api_port", help="HTTP port.")] = 8501,
    port: Annotated[
        int, typer.Option("--port", help="Taken and ignored: there is no gRPC here.")
    ] = 8500,
    host: Annotated[
        str, typer.Option("--host", envvar="SERVING_HOST", help="Loopback; in a container 0.0.0.0.")
    ] = "127.0.0.1",
    max_batch_rows: Annotated[
        int, typer.Option("--max_batch_rows", min=1, help="Rows of one call of the model.")
    ] = MAX_ROWS,
    max_waiting_rows: Annotated[
        int, typer.Option("--max_waiting_rows", min=1, help="Rows that may wait.")
    ] = MAX_WAITING_ROWS,
    intra_op: Annotated[
        int,
        typer.Option(
            "--tensorflow_intra_op_parallelism", min=0, help="Threads; 0: as many as cores."
        ),
    ] = 0,
    inter_op: Annotated[
        int,
        typer.Option(
            "--tensorflow_inter_op_parallelism", min=0, help="Threads; 0: as many as cores."
        ),
    ] = 0,
) -> None:
    """Serve the newest version of one SavedModel over TensorFlow Serving's REST API."""

    def load() -> Model:
        version, folder = newest_version(model_base_path)
        from helpers.serving.tf_server import model  # TensorFlow, only now: the port is bound

        model.set_threads(intra_op, inter_op)
        return model.load(folder, version)

    failures: list[Exception] = []

    def stop(problem: Exception) -> None:
        failures.append(problem)
        signal.raise_signal(signal.SIGTERM)

    server = ModelServer(
        model_name,
        load,
        on_failure=stop,
        max_rows=max_batch_rows,
        max_waiting_rows=max_waiting_rows,
    )
    run(server.app, name="tf_server", port=rest_api_port, host=host)
    if failures:
        sys.exit(f"tf_server: {failures[0]}")


if __name__ == "__main__":
    cli()
