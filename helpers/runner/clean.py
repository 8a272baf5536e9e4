"""What is removed from an executed notebook before it is committed, so that diffs stay small."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import nbformat

TRACES = ("papermill", "execution", "ExecuteTime")  # times and states, in a cell's metadata
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def cleaned(notebook: nbformat.NotebookNode, places: dict[str, str]) -> nbformat.NotebookNode:
    """Return a copy without what papermill and this machine have put in.

    Args:
        notebook: an executed notebook.
        places: {folder: what is written in its stead} in text outputs.
    """
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    for cell in notebook.cells:
        for key in TRACES:
            cell.metadata.pop(key, None)
        if cell.metadata.get("tags") == []:
            del cell.metadata["tags"]
        for output in cell.get("outputs", []):
            if "text" in output:
                output.text = _without(output.text, places)
            for kind, text in output.get("data", {}).items():
                if isinstance(text, str) and kind.startswith("text/"):
                    output.data[kind] = _without(text, places)
    return notebook


def write_cleaned(executed: Path, target: Path, root: Path) -> None:
    """Replace the notebook `target` by the executed one, cleaned; whole or not at all."""
    notebook = nbformat.read(executed, as_version=4)
    places = {f"{root}{os.sep}": "", str(root): ".", str(Path.home()): "~"}
    notebook = cleaned(notebook, places)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=target.parent, suffix=".part", delete=False
    ) as file:
        nbformat.write(notebook, file)
    shutil.copymode(target, file.name)
    os.replace(file.name, target)


def _without(text: str, places: dict[str, str]) -> str:
    for folder, name in places.items():
        if folder != os.sep:
            text = text.replace(folder, name)
    return text
