"""Where trained things live, and how a changed or foreign one is refused before it is loaded.

`artifacts/<dataset>/<name>/` holds what a server takes, as its server wants it, and `artifact.json`:
the sha256 of every file, the versions of Python and the libraries it was made with, the command that
made it, and the figures measured on it. dill and pickle execute code while they load, so nothing is
opened before its checksum has been compared.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from helpers.errors import ArtifactError

REPOSITORY = Path(__file__).resolve().parents[1]
RECORD = "artifact.json"
LOCK_SECONDS = 60
COMMITTED = ("cifar10", "credit_risk", "breast_cancer", "tickets")  # data sets, in Git

# What each format's files depend on: another version of one of these may load them differently.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "keras": ("tensorflow", "tf-keras"),
    "alibi-detect": ("tensorflow", "tf-keras", "alibi-detect", "dill", "numpy"),
    "alibi": ("alibi", "dill", "numpy"),
    "alibi-shap": ("alibi", "shap", "dill", "numpy"),
    "alibi-spacy": ("alibi", "spacy", "dill", "numpy"),
    "scikit-learn": ("scikit-learn", "joblib", "numpy"),
}

_taken: dict[tuple[str, str], Path] = {}  # by `take`: where these artefacts lie instead


class FileRecord(BaseModel):
    """Checksum and size of one file of an artefact."""

    model_config = ConfigDict(extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Artifact(BaseModel):
    """The contents of `artifact.json`."""

    model_config = ConfigDict(extra="forbid")

    dataset: str
    name: str
    format: str
    summary: str
    made_by: str
    made_on: str
    versions: dict[str, str]
    figures: dict[str, Any]
    files: dict[str, FileRecord] = Field(min_length=1)

    @property
    def bytes(self) -> int:
        """Size of all files, in bytes."""
        return sum(file.bytes for file in self.files.values())

    @property
    def checksum(self) -> str:
        """One sha256 over the checksums of all files: the identity of this artefact."""
        digest = hashlib.sha256()
        for path, file in sorted(self.files.items()):
            digest.update(f"{path}\0{file.sha256}\n".encode())
        return digest.hexdigest()


def root() -> Path:
    """Return the folder of all artefacts: `$ARTIFACTS_DIR`, else `artifacts/` of the repository."""
    chosen = os.environ.get("ARTIFACTS_DIR")
    return Path(chosen).expanduser().resolve() if chosen else REPOSITORY / "artifacts"


def path(dataset: str, name: str) -> Path:
    """Return the folder of one artefact, whether or not it exists.

    Raises:
        ArtifactError: a part of the name would leave the folder of all artefacts.
    """
    for part in (dataset, name):
        if not part or part in (".", "..") or any(c in part for c in "/\\\0"):
            raise ArtifactError(
                f"{part!r} cannot name an artefact; plain names such as 'cifar10' and 'resnet32' can."
            )
    return _taken.get((dataset, name), root() / dataset / name)


def take(folder: Path) -> Artifact:
    """Take an artefact from a folder that something else has filled, and from then on from nowhere else.

    Its files are checked by `verify` and `load`, as those of every artefact.

    Raises:
        ArtifactError: there is no artefact in it.
    """
    try:
        artifact = Artifact.model_validate_json((folder / RECORD).read_bytes())
    except (ValidationError, OSError) as error:
        raise ArtifactError(
            f"{folder / RECORD} is not readable: {_reason(error)}. What is copied to {folder} has to be "
            f"the whole folder of an artefact, {RECORD} too."
        ) from error
    path(artifact.dataset, artifact.name)  # refuses what is no name
    _taken[artifact.dataset, artifact.name] = folder
    return artifact


def _command(dataset: str, name: str) -> str:
    return f"`python -m helpers.train --dataset {dataset} --only {name}`"


def _remedy(dataset: str, name: str) -> str:
    made_here = _command(dataset, name)
    if dataset in COMMITTED and root() == REPOSITORY / "artifacts":
        return f"Restore it with `git checkout -- artifacts/{dataset}/{name}`, or make it: {made_here}."
    return f"Make it: {made_here}."


def current_versions(format: str) -> dict[str, str]:
    """Return the versions, in this process, of Python and of what `format` depends on.

    Raises:
        ArtifactError: the format is unknown.
    """
    if format not in LIBRARIES:
        raise ArtifactError(f"format {format!r} is unknown; there are {', '.join(LIBRARIES)}.")
    versions = {"python": platform.python_version()}
    for library in LIBRARIES[format]:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            versions[library] = "not installed"
    return versions


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """Yield every file below `folder` but the record, links refused."""
    for file in sorted(folder.rglob("*")):
        if file.is_symlink():
            raise ArtifactError(
                f"{file} is a link, and an artefact holds plain files only; nothing was loaded. "
                "Replace it by the file it points to, or remove it."
            )
        if file.is_file() and file.relative_to(folder) != Path(RECORD):
            yield file


def exists(dataset: str, name: str) -> bool:
    """Return whether the artefact has been made; says nothing about its being intact."""
    return (path(dataset, name) / RECORD).is_file()


def describe(dataset: str, name: str) -> Artifact:
    """Return what `artifact.json` says, without touching the artefact's files.

    Raises:
        ArtifactError: there is none, or it is not readable.
    """
    record = path(dataset, name) / RECORD
    try:
        artifact = Artifact.model_validate_json(record.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{record} does not exist. {_remedy(dataset, name)}") from None
    except (ValidationError, OSError) as error:
        raise ArtifactError(
            f"{record} is not readable: {_reason(error)}. {_remedy(dataset, name)}"
        ) from error
    if (artifact.dataset, artifact.name) != (dataset, name):
        raise ArtifactError(
            f"{record} describes {artifact.dataset}/{artifact.name}: the artefact was copied or "
            f"renamed. Move it back, or: {_remedy(dataset, name)}"
        )
    if artifact.format not in LIBRARIES:
        raise ArtifactError(
            f"{record} has the format {artifact.format!r}; there are {', '.join(LIBRARIES)}. "
            f"{_remedy(dataset, name)}"
        )
    return artifact


def _reason(error: ValidationError | OSError) -> str:
    """Return the first thing that is wrong, in one line."""
    if isinstance(error, OSError):
        return str(error.strerror or error)
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]


def list_all(dataset: str | None = None) -> list[Artifact]:
    """Return the record of every artefact there is, by data set and name."""
    records = sorted(root().glob(f"{dataset or '*'}/*/{RECORD}"))
    return [describe(record.parts[-3], record.parts[-2]) for record in records]


def verify(dataset: str, name: str) -> Artifact:
    """Check every file and version of an artefact without opening any of it.

    Raises:
        ArtifactError: a file is missing, changed or unknown, or a version differs; the message says
            which, and what to run.
    """
    artifact = describe(dataset, name)
    folder = path(dataset, name)
    remedy = _remedy(dataset, name)
    # Only what was found below the folder is ever opened, whatever names the record holds.
    present = {file.relative_to(folder).as_posix(): file for file in _files(folder)}
    for relative, wanted in artifact.files.items():
        if relative not in present:
            if PurePosixPath(relative).is_absolute() or ".." in PurePosixPath(relative).parts:
                raise ArtifactError(
                    f"{folder / RECORD} names {relative}, outside its folder. {remedy}"
                )
            raise ArtifactError(f"{folder / relative} is missing. {remedy}")
        _verify_file(present[relative], wanted, remedy)
    unknown = [file for relative, file in present.items() if relative not in artifact.files]
    if unknown:
        raise ArtifactError(
            f"{unknown[0]} does not belong to {dataset}/{name}; nothing was loaded. Remove it, or: "
            f"{remedy}"
        )
    _verify_versions(artifact)
    return artifact


def _verify_file(file: Path, wanted: FileRecord, remedy: str) -> None:
    try:
        size, found = file.stat().st_size, _sha256(file)
    except OSError as error:
        raise ArtifactError(f"{file} is not readable: {_reason(error)}. {remedy}") from error
    if size != wanted.bytes:
        raise ArtifactError(
            f"{file} has {size:,} bytes instead of {wanted.bytes:,}; nothing of it was loaded. "
            f"{remedy}"
        )
    if found != wanted.sha256:
        raise ArtifactError(
            f"{file} was changed after it was made (sha256 {found[:12]}… instead of "
            f"{wanted.sha256[:12]}…); nothing of it was loaded. {remedy}"
        )


def _verify_versions(artifact: Artifact) -> None:
    here = current_versions(artifact.format)
    for library, now in here.items():
        made_with = artifact.versions.get(library, "an unrecorded version")
        if library == "python":  # what dill writes depends on 3.12, not on 3.12.1
            made_with, now = (".".join(v.split(".")[:2]) for v in (made_with, now))
        if made_with != now:
            raise ArtifactError(
                f"{artifact.dataset}/{artifact.name} was made with {library} {made_with}, here is "
                f"{now}; nothing of it was loaded. Use this repository's environment (`make env`), "
                f"or make the artefact with yours: {_command(artifact.dataset, artifact.name)}."
            )


def save(
    dataset: str,
    name: str,
    fill: Callable[[Path], None],
    *,
    format: str,
    summary: str,
    figures: dict[str, Any],
    made_by: str | None = None,
) -> Artifact:
    """Make an artefact: `fill(folder)` writes its files, the record is added, the old one replaced.

    The new artefact appears at once and whole, and where making it fails the old one stays.
    `figures` are JSON values; `made_by` is the command that made it, by default this process's own.

    Raises:
        ArtifactError: the format is unknown, `fill` wrote nothing, or another process is saving
            the same artefact.
    """
    folder = path(dataset, name)
    versions = current_versions(format)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{name}.lock")
    try:
        with lock.acquire(timeout=LOCK_SECONDS):
            return _save_locked(
                folder,
                fill,
                format=format,
                summary=summary,
                versions=versions,
                figures=figures,
                made_by=made_by or _this_command(),
            )
    except Timeout:
        raise ArtifactError(
            f"another process has been saving {dataset}/{name} for over {LOCK_SECONDS} s; wait for "
            f"it, or remove {lock.lock_file} if there is none."
        ) from None


def _save_locked(folder: Path, fill: Callable[[Path], None], **described: Any) -> Artifact:
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        fill(new)
        files = {
            file.relative_to(new).as_posix(): FileRecord(
                sha256=_sha256(file), bytes=file.stat().st_size
            )
            for file in _files(new)
        }
        if not files:
            raise ArtifactError(f"nothing was written for {folder.parent.name}/{folder.name}.")
        artifact = Artifact(
            dataset=folder.parent.name,
            name=folder.name,
            made_on=datetime.datetime.now(datetime.UTC).date().isoformat(),
            files=files,
            **described,
        )
        record = json.dumps(artifact.model_dump(), indent=1, ensure_ascii=False) + "\n"
        (new / RECORD).write_text(record, encoding="utf-8")
        _replace(folder, new, Path(temporary) / "old")
        return artifact


def _replace(folder: Path, new: Path, old: Path) -> None:
    """Put `new` in the place of `folder`, which becomes `old`; put it back if that fails."""
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise


def _this_command() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None:  # a script or a notebook: its own path is the machine's business, not ours
        return Path(sys.argv[0]).name
    module = spec.name.removesuffix(".__main__")
    return " ".join(["python -m", module, *sys.argv[1:]])


def load(dataset: str, name: str, **options: Any) -> Any:
    """Verify an artefact, then return the object in it.

    keras: a `tf.keras.Model`. alibi-detect: the detector. alibi, alibi-shap, alibi-spacy: the
    explainer, for which `predictor=` is needed, a function from inputs (n, …) to probabilities
    (n, classes); a TreeShap has its trees with it and takes None. scikit-learn: the estimator.

    Raises:
        ArtifactError: as `verify`.
    """
    artifact = verify(dataset, name)
    return _LOADERS[artifact.format](path(dataset, name), **options)


def _load_keras(folder: Path) -> Any:
    from helpers.tf import tf

    return tf.keras.models.load_model(folder / "model.h5", compile=False)


def _load_detector(folder: Path) -> Any:
    import helpers.tf  # noqa: F401 first, in silence: alibi-detect would import TensorFlow aloud
    from helpers.quiet import quiet_libraries

    with quiet_libraries():
        from alibi_detect.saving import load_detector

        return load_detector(folder)


def _load_explainer(folder: Path, predictor: Callable | None) -> Any:
    from helpers.quiet import quiet_libraries

    with quiet_libraries():
        from alibi.saving import load_explainer

        return load_explainer(folder, predictor=predictor)


def _load_sklearn(folder: Path) -> Any:
    import joblib

    return joblib.load(folder / "model.joblib")


_LOADERS: dict[str, Callable[..., Any]] = {
    "keras": _load_keras,
    "alibi-detect": _load_detector,
    "alibi": _load_explainer,
    "alibi-shap": _load_explainer,
    "alibi-spacy": _load_explainer,
    "scikit-learn": _load_sklearn,
}


def remove(dataset: str, name: str) -> None:
    """Delete an artefact if it is there."""
    shutil.rmtree(path(dataset, name), ignore_errors=True)
