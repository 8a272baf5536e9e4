"""Import once what the notebooks import, right after an installation.

It compiles exactly the modules that are used (a third of all that are installed), so that the first
notebook starts as fast as the second and shows none of the warnings that compiling old code
prints; and it finds out now, not in the middle of a notebook, if the machine lacks a library.
"""

import importlib
import os
import sys
import time
import warnings

MODULES = [
    "tensorflow",
    "tf_keras",
    "tensorflow_probability",
    "alibi.explainers",
    "alibi.saving",
    "alibi_detect.cd",
    "alibi_detect.od",
    "alibi_detect.saving",
    "alibi_detect.utils.perturbation",
    "cv2",
    "matplotlib.pyplot",
    "mlserver",
    "mlserver_sklearn",
    "seldon_core.microservice",
    "seldon_core.wrapper",
    "skimage.segmentation",
    "sklearn.datasets",
    "sklearn.metrics",
    "ipykernel.kernelapp",
    "ipywidgets",
    "matplotlib_inline.backend_inline",
    "nbconvert.exporters",
    "papermill",
    "typer.rich_utils",
]

# OpenCV's wheel needs these of the system; a slim Linux has neither.
SYSTEM_LIBRARIES = ("libGL.so.1", "libgthread-2.0.so.0")


def remedy(error):
    """Return what to do about an ImportError, as a sentence."""
    if any(library in str(error) for library in SYSTEM_LIBRARIES):
        return (
            "On Debian and Ubuntu `sudo apt-get install libgl1 libglib2.0-0` brings it; "
            "then run make again."
        )
    return "Remove .venv and run make again; if it stays so, open an issue with this message."


def main():
    """Import every module; exit 1 with a sentence if one cannot be."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    sys.dont_write_bytecode = False
    warnings.simplefilter("ignore")
    start = time.monotonic()
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"{name} cannot be imported: {error}. {remedy(error)}", file=sys.stderr)
            return 1
    print(f"Imported and compiled in {time.monotonic() - start:.0f} s.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
