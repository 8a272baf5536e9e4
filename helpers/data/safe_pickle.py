"""Read a pickle that holds only arrays, bytes and plain containers.

A data file must not be able to execute code, and `pickle.load` executes whatever the file asks for.
Allowing numpy's own names is not enough: `numpy.ndarray(1, "O", b"A" * 8)` takes any eight bytes
for the address of an object, and printing that array ends the interpreter. So no callable of numpy
is handed to the file. The names it may use stand for the small classes below, which look at their
arguments and build the array from its bytes.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from helpers.errors import DataError

# A batch of CIFAR-10 has 31 MB. What is far larger is something else, and not worth the memory.
LIMIT = 64 * 2**20
_DTYPES = ("u1", "i8", "f4", "f8")
_ORDERS = ("|", "<", ">", "=")


def _text(value: object) -> object:
    """Return a Python 2 string, which arrives as bytes, as text; anything else as it is."""
    return value.decode("latin1") if isinstance(value, bytes) else value


class _Dtype:
    """Stands for `numpy.dtype`: a plain number type and its byte order, nothing with objects."""

    def __init__(self, name: object, *_flags: object) -> None:
        if _text(name) not in _DTYPES:
            raise pickle.UnpicklingError(f"it holds an array of type {name!r}")
        self.name, self.order = _text(name), "="

    def __setstate__(self, state: tuple) -> None:
        if _text(state[1]) not in _ORDERS:
            raise pickle.UnpicklingError(f"it holds an array of byte order {state[1]!r}")
        self.order = _text(state[1])


class _Array:
    """Stands for an array while it is put together: first made empty, then given its state."""

    def __init__(self, *_placeholders: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("it holds an array that is not made of plain numbers")
        # A view of bytes that were read anyway: no shape, however large, can ask for memory.
        flat = np.frombuffer(raw, f"{dtype.order}{dtype.name}")
        self.value = flat.reshape(shape, order="F" if fortran else "C")


# pickle's unpickler in Python, not the one in C: that one lays out a table as long as the largest
# index the file names, so that six bytes of a file can take 64 GB.
class _ArrayUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="bytes")
        self._left_to_encode = LIMIT
        self._stand_ins: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "dtype"): _Dtype,
            # The function was moved in numpy 2; files written by either must load.
            ("numpy.core.multiarray", "_reconstruct"): _Array,
            ("numpy._core.multiarray", "_reconstruct"): _Array,
            # Named as an argument of _reconstruct only.
            ("numpy", "ndarray"): self._refuse,
            ("_codecs", "encode"): self._encode,
        }

    def find_class(self, module: str, name: str) -> Any:
        try:
            stand_in = self._stand_ins[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, and only arrays, bytes and lists are allowed"
            ) from None
        # A new function each time: a pickle may set attributes on whatever it is given.
        return lambda *arguments: stand_in(*arguments)

    @staticmethod
    def _refuse(*_arguments: object) -> None:
        raise pickle.UnpicklingError("it calls numpy.ndarray")

    def _encode(self, text: str, encoding: str) -> bytes:
        """`_codecs.encode`, with which Python 3 writes bytes for Python 2: latin1 only."""
        # One long text can be encoded again and again by a few bytes of the file.
        self._left_to_encode -= len(text)
        if self._left_to_encode < 0 or encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"it encodes text as {encoding!r}, or too much of it")
        return text.encode("latin1")


def load(path: Path) -> dict[Any, Any]:
    """Return the dictionary pickled in `path`; arrays among its values are read-only.

    Raises:
        DataError: the file cannot be opened, is too large, truncated, no pickle, no dictionary, or
            asks for anything but arrays of numbers, bytes and plain containers. Nothing of it has
            been executed then.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= LIMIT else b""
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}. Check that it is a file and its permissions."
        ) from error
    if size > LIMIT:
        raise DataError(
            f"{path} has {size:,} bytes; a CIFAR-10 batch has 31 million. "
            "Delete it and fetch the data set again."
        )
    try:
        found = _ArrayUnpickler(io.BytesIO(content)).load()
        if not isinstance(found, dict):
            raise pickle.UnpicklingError(f"it holds a {type(found).__name__}, not a dictionary")
    except Exception as error:  # Garbage makes an unpickler raise nearly anything.
        raise DataError(
            f"{path} is not a readable data file: {error or type(error).__name__}. "
            "It is truncated or not from CIFAR-10; delete it and fetch the data set again."
        ) from error
    return {k: v.value if isinstance(v, _Array) else v for k, v in found.items()}
