"""Load a data set by name, wherever it is; never fall back to another in silence."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

from helpers.data import cifar10, digits, download
from helpers.data.dataset import Dataset
from helpers.errors import DataError

DATASETS = ("cifar10", "digits")


def load(name: str = "cifar10", *, fallback: bool = True) -> Dataset:
    """Return the data set `name`, one of DATASETS.

    CIFAR-10 is looked for in `$CIFAR10_DIR`, `data/`, `../shared/cifar10` and the Keras cache, then
    downloaded to `data/`. Where the download fails too, a banner on stderr says so and the digits
    are returned, whose `.name` is "digits"; with `fallback=False` the failure is raised instead.

    Images are float32 (n, 32, 32, 3) in [0, 1], labels int64 (n,).

    Raises:
        DataError: the name is unknown, a file is missing or damaged, `$CIFAR10_DIR` holds no
            CIFAR-10, or (`fallback=False`) there is no CIFAR-10 here and no network.
    """
    if name not in DATASETS:
        raise DataError(f"There is no data set {name!r}. Choose one of: {', '.join(DATASETS)}.")
    if name == "digits":
        return digits.read()
    try:
        return cifar10.read(cifar10.find() or _unpack_archive() or download.fetch(cifar10.home()))
    except download.DownloadError as error:
        if not fallback:
            raise
        _announce_fallback(error)
        return digits.read()


def _unpack_archive() -> Path | None:
    """Unpack an archive that somebody downloaded before; return the batches' folder, or None."""
    for archive in filter(lambda path: path.is_file(), cifar10.archives()):
        try:
            return download.unpack(archive, cifar10.home())
        except DataError as error:
            # Half a download of Keras must not stop us from fetching a whole one.
            print(f"Not used: {error}", file=sys.stderr)
    return None


def _announce_fallback(error: Exception) -> None:
    # Printed, not warned: Python shows a warning once per place in the code, precedes it by a path
    # of this machine, and turns it into an error where warnings are errors.
    rule = "=" * 78
    title = "CIFAR-10 IS NOT HERE. GOING ON WITH THE BUNDLED DIGITS (8x8) INSTEAD."
    consequence = "Every figure and picture that follows is of the digits, not of CIFAR-10."
    lines = [title, "", *textwrap.wrap(str(error), 74, break_long_words=False), "", consequence]
    text = "\n".join(f"  {line}".rstrip() for line in lines)
    print(f"\n{rule}\n{text}\n{rule}\n", file=sys.stderr, flush=True)
