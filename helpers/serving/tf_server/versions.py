"""Version folders: `<model_base_path>/<number>/saved_model.pb`."""

from __future__ import annotations

from pathlib import Path

from helpers.serving.common.errors import ServingError


def newest_version(base: Path) -> tuple[int, Path]:
    """Return the highest version number under `base` and its folder.

    Raises:
        ServingError: there is no such folder, or no version in it.
    """
    if not base.is_dir():
        raise ServingError(f"model_base_path {base} is not a folder.")
    versions = {
        int(entry.name): entry
        for entry in base.iterdir()
        if entry.name.isascii() and entry.name.isdigit() and entry.is_dir()
    }
    if not versions:
        raise ServingError(
            f"No versions of the model under {base}: expected a folder like {base / '1'} with "
            "saved_model.pb in it."
        )
    version = max(versions)
    folder = versions[version]
    if not (folder / "saved_model.pb").is_file():
        raise ServingError(f"{folder} holds no saved_model.pb.")
    return version, folder
