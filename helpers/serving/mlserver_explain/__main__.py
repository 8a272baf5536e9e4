"""`python -m helpers.serving.mlserver_explain`: see the package."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence

from mlserver.errors import MLServerError
from mlserver.server import MLServer
from mlserver.settings import ModelParameters, ModelSettings, Settings

from helpers.errors import WalkthroughError
from helpers.serving.common.errors import ServingError
from helpers.serving.common.server import configure_logging
from helpers.serving.mlserver_explain import RUNTIME


def model_settings(argv: Sequence[str]) -> ModelSettings:
    """Return the model that the environment and the arguments describe.

    Raises:
        ServingError: a variable is missing or wrong.
    """
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--storage_uri", default=os.environ.get("MLSERVER_MODEL_URI", ""))
    known, arguments = own.parse_known_args(argv)
    name = os.environ.get("MLSERVER_MODEL_NAME", "")
    if not name:
        raise ServingError("MLSERVER_MODEL_NAME is not set: the explainer's name in its paths.")
    told = os.environ.get("MLSERVER_MODEL_EXTRA", "")
    try:
        extra = json.loads(told)
    except json.JSONDecodeError:
        extra = None
    if not isinstance(extra, dict):
        raise ServingError(
            "MLSERVER_MODEL_EXTRA is a JSON object with explainer_type and infer_uri, "
            f"not {told!r:.60}."
        )
    return ModelSettings(
        name=name,
        implementation=RUNTIME,
        parameters=ModelParameters(uri=known.storage_uri, extra={**extra, "arguments": arguments}),
    )


async def serve(model: ModelSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = Settings(
        host=os.environ.get("SERVING_HOST", "127.0.0.1"),
        parallel_workers=0,  # the explainer runs in this process
        load_models_at_startup=False,
        debug=False,
    )
    server = MLServer(settings)
    await server.start([model])
    with contextlib.suppress(MLServerError):  # it was not there yet
        await server._model_registry.unload(model.name)  # which it leaves undone when it stops


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program; a wrong argument or variable ends it with one sentence."""
    try:
        model = model_settings(sys.argv[1:] if argv is None else argv)
    except WalkthroughError as problem:
        sys.exit(f"mlserver_explain: {problem}")
    # The operator names the runtime of Seldon's own image.
    os.environ.pop("MLSERVER_MODEL_IMPLEMENTATION", None)
    configure_logging()
    logging.getLogger("mlserver").propagate = False  # it has a handler of its own
    asyncio.run(serve(model))


if __name__ == "__main__":
    main()
