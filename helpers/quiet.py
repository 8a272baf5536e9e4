"""Keep the libraries' noise out of notebooks and terminals, and only theirs."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTY = ("tensorflow", "alibi_detect", "alibi", "absl", "h5py", "numba", "transformers")


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard what is written to file descriptor 2, by C code too, and replay it on an error.

    TensorFlow prints "Unable to register cuDNN factory" and the like while it is imported, before
    its own log level counts.
    """
    import tempfile

    sys.stderr.flush()
    with tempfile.TemporaryFile() as spool:
        kept = os.dup(2)
        os.dup2(spool.fileno(), 2)
        try:
            yield
        except BaseException:
            _restore(kept)
            spool.seek(0)
            os.write(2, spool.read())
            raise
        finally:
            _restore(kept)
            os.close(kept)


def _restore(kept: int) -> None:
    sys.stderr.flush()  # what Python still holds was written inside the block: it goes where that goes
    os.dup2(kept, 2)


@contextmanager
def quiet_libraries(level: int = logging.ERROR) -> Iterator[None]:
    """Hide the libraries' own warnings and log lines below `level` inside the block."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, old in zip(loggers, before, strict=True):
            logger.setLevel(old)
