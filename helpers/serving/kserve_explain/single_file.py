"""Explainers that are one file of dill."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from helpers import artifacts
from helpers.errors import ArtifactError
from helpers.quiet import quiet_libraries
from helpers.serving.storage import Location

FILE = "explainer.dill"
RECORDED = "single/explainer.dill"  # what an artifact.json calls it
LARGEST = 512 * 2**20  # bytes


class SingleFile:
    """A file whose checksum is known.

    Args:
        folder: holds `explainer.dill`.

    Raises:
        ArtifactError: there is no such file, or nobody knows its checksum.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            if self.path.stat().st_size > LARGEST:
                raise ArtifactError(
                    f"{self.path} has more than {LARGEST} bytes: it is no explainer."
                )
            self._content = self.path.read_bytes()
        except OSError as problem:
            raise ArtifactError(
                f"{self.path} cannot be read: {problem.strerror}. STORAGE_URI names the folder with "
                f"{FILE}, e.g. s3://walkthrough/cifar10/anchor_images/single."
            ) from problem
        self.location = self._known(hashlib.sha256(self._content).hexdigest())

    def load(self) -> Any:
        """Return the explainer, without a predictor.

        Raises:
            ArtifactError: the artefact that it belongs to was made with other versions.
        """
        artifacts.verify(self.location.dataset, self.location.name)
        import dill

        with quiet_libraries():
            return dill.loads(self._content)

    def _known(self, checksum: str) -> Location:
        """Return the artefact whose record has this checksum."""
        for artifact in artifacts.list_all():
            record = artifact.files.get(RECORDED)
            if record is not None and record.sha256 == checksum:
                return Location(artifact.dataset, artifact.name)
        raise ArtifactError(
            f"{self.path} has the checksum {checksum[:16]}…, which no artefact in {artifacts.root()} has "
            f"for its {RECORDED}: it is not loaded. Build the image from the artefacts that the bucket has."
        )
