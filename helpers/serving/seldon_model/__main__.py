"""`python -m helpers.serving.seldon_model`: seldon-core-microservice with its own arguments.

The program binds its HTTP and metrics ports to every interface, without an option for another
address; here gunicorn is told otherwise, at the last moment. gRPC would do the same and is off.
"""

from __future__ import annotations

import os
import sys

# What seldon_core and jsonschema take only where it is installed, as it is not in Seldon's image for
# scikit-learn: TensorFlow's tensors, and a grammar of addresses. Without them a start takes 0.5 s of
# CPU time instead of 6, and each of five processes less memory.
WITH_TENSORFLOW = "helpers.serving.seldon_model.tfserving_proxy.TfServingProxy"
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
if WITH_TENSORFLOW in sys.argv:
    import helpers.tf  # noqa: F401 first: seldon_core's copies of its messages collide with it
else:
    sys.modules["tensorflow"] = None  # type: ignore[assignment]

from seldon_core import gunicorn_utils, microservice  # noqa: E402

from helpers.errors import ArtifactError  # noqa: E402

GRACEFUL_SECONDS = 5  # for the requests under way at SIGTERM, of each of the two servers

_load_config = gunicorn_utils.StandaloneApplication.load_config


def _on_loopback(application: gunicorn_utils.StandaloneApplication) -> None:
    """Load the configuration as the program made it, then change the address."""
    _load_config(application)
    port = application.options["bind"].rpartition(":")[2]
    application.cfg.set("bind", f"127.0.0.1:{port}")
    application.cfg.set("graceful_timeout", GRACEFUL_SECONDS)
    application.cfg.set("control_socket_disable", True)  # a socket in the home folder


def main() -> None:
    """Run the program until SIGTERM."""
    gunicorn_utils.StandaloneApplication.load_config = _on_loopback
    os.environ["SELDON_DEBUG"] = (
        "false"  # Flask's own server has its address written in the program
    )
    sys.argv += ["--grpc-workers", "0"]
    try:
        microservice.main()
    except ArtifactError as problem:
        sys.exit(f"seldon_model: {problem}")


if __name__ == "__main__":
    main()
