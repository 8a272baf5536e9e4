"""Where a storage URI leads: to one artefact below the folder of artefacts, and nowhere else.

`s3://walkthrough/cifar10/resnet32`, rclone's `s3:walkthrough/cifar10/resnet32` and a path of a folder
inside `artifacts/` (on kind `ARTIFACTS_DIR`, e.g. /mnt/artifacts) all name the artefact
`cifar10/resnet32`. The same manifests then work against the bucket of a cluster and against this folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from helpers import artifacts
from helpers.errors import ArtifactError

BUCKET = "walkthrough"
# Where the init container of Seldon's operator copies what modelUri names.
DOWNLOADED = "/mnt/models"

_REMOTE = re.compile(r"s3:(?://)?(?P<rest>[^/].*)")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True, slots=True)
class Location:
    """One artefact: `artifacts/<dataset>/<name>`."""

    dataset: str
    name: str

    @property
    def folder(self) -> Path:
        """The artefact's folder, whether or not it exists."""
        return artifacts.path(self.dataset, self.name)

    def __str__(self) -> str:
        return f"{self.dataset}/{self.name}"


def locate(uri: str) -> Location:
    """Return the artefact that a storage URI or a local path names, whether or not it exists.

    Raises:
        ArtifactError: another scheme or bucket, or a path that is not `<dataset>/<name>` inside the
            folder of artefacts.
    """
    remote = _REMOTE.fullmatch(uri)
    if remote:
        bucket, _, inside = remote["rest"].partition("/")
        if bucket != BUCKET:
            raise ArtifactError(
                f"{uri!r} is in the bucket {bucket!r}; only s3://{BUCKET}/<dataset>/<name> is known here."
            )
        parts = inside.removesuffix("/").split("/")
    elif not uri or "\0" in uri or _SCHEME.match(uri):
        raise ArtifactError(
            f"{uri!r} is no storage URI that is known here; s3://{BUCKET}/<dataset>/<name> is, and so "
            "is the path of an artefact's folder."
        )
    else:
        parts = _parts_of_path(uri)
    if len(parts) != 2:
        raise ArtifactError(
            f"{uri!r} does not name an artefact: the form is s3://{BUCKET}/<dataset>/<name>, e.g. "
            f"s3://{BUCKET}/cifar10/resnet32."
        )
    location = Location(*parts)
    if not location.folder.resolve().is_relative_to(artifacts.root().resolve()):
        raise ArtifactError(f"{uri!r} leads out of {artifacts.root()} by a link.")
    return location


def locate_downloaded(uri: str) -> Location:
    """As `locate`, or the artefact in the folder that Seldon's operator has filled.

    The operator passes that folder in place of a modelUri. The artefact is then loaded from it, whatever
    of the same name is below the folder of artefacts.

    Raises:
        ArtifactError: as `locate`, or there is no artefact in that folder.
    """
    if uri.rstrip("/") != DOWNLOADED:
        return locate(uri)
    artifact = artifacts.take(Path(DOWNLOADED))
    return Location(artifact.dataset, artifact.name)


def _parts_of_path(path: str) -> list[str]:
    """Return the parts of a local path below the folder of artefacts."""
    root = artifacts.root().resolve()
    chosen = (root / path).resolve()
    if not chosen.is_relative_to(root):
        raise ArtifactError(
            f"{path} is outside {root}: artefacts are loaded from there only. Set ARTIFACTS_DIR to the "
            "folder that holds <dataset>/<name>."
        )
    return list(PurePosixPath(chosen.relative_to(root)).parts)
