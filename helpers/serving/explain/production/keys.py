"""Secret keys, from a file or from the environment, where a Secret of Kubernetes puts them."""

from __future__ import annotations

import os
from pathlib import Path

from helpers.serving.common.errors import ServingError

FEWEST_BYTES = 16
FILE, ENVIRONMENT = "file:", "env:"


def read_key(option: str, source: str) -> bytes:
    """Return a key, white space around it removed.

    Args:
        option: the option's name, for errors.
        source: `file:<path>` or `env:<NAME>`; a key itself never stands in a manifest.

    Raises:
        ServingError: there is none, or it is too short.
    """
    if source.startswith(FILE):
        path = Path(source.removeprefix(FILE))
        try:
            key = path.read_bytes()
        except OSError as problem:
            raise ServingError(
                f"--{option}: the key file {path} cannot be read: {problem.strerror or problem}."
            ) from problem
    elif source.startswith(ENVIRONMENT):
        name = source.removeprefix(ENVIRONMENT)
        if name not in os.environ:
            raise ServingError(
                f"--{option}: the environment has no {name}; give the container a Secret by that name."
            )
        key = os.environ[name].encode()
    else:  # what was given is not repeated: it may be a key
        raise ServingError(f"--{option} is file:<path> or env:<NAME>, not a key itself.")
    key = key.strip()
    if len(key) < FEWEST_BYTES:
        raise ServingError(
            f"--{option}: the key has {len(key)} bytes; {FEWEST_BYTES} are needed, better 32 random ones "
            "(`openssl rand -hex 32`)."
        )
    return key
