"""A data file cannot execute code, crash the interpreter or take all memory."""

import contextlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from helpers.data import safe_pickle
from helpers.errors import DataError

PROTO = b"\x80\x04"
# A dictionary with one entry, whose value is what the code in between leaves on the stack.
OPEN, CLOSE = PROTO + b"}C\x04data", b"s."


class Call:
    """Pickles as a call of `function` with `arguments`, followed by `state`."""

    def __init__(self, function, arguments, state=None):
        self.recipe = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.recipe


def write(folder: Path, content: object, protocol: int = 4) -> Path:
    path = folder / "batch"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_reads_what_cifar_files_hold(tmp_path, protocol):
    data = np.arange(12, dtype=np.uint8).reshape(3, 4)
    batch = {b"data": data, b"labels": [1, 2, 3], b"filenames": [b"a.png", b"\xe9.png"]}
    loaded = safe_pickle.load(write(tmp_path, batch, protocol))
    assert loaded[b"labels"] == [1, 2, 3]
    assert loaded[b"filenames"] == [b"a.png", b"\xe9.png"]
    np.testing.assert_array_equal(loaded[b"data"], data)
    assert loaded[b"data"].dtype == np.uint8


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
        np.arange(3, dtype=">f8"),
        np.array(2.5, np.float32),
        np.zeros((0, 4), np.uint8),
    ],
    ids=["fortran", "big endian", "scalar", "empty"],
)
def test_reads_plain_arrays_of_any_layout(tmp_path, array):
    loaded = safe_pickle.load(write(tmp_path, {b"data": array}))[b"data"]
    np.testing.assert_array_equal(loaded, array)
    assert loaded.dtype == array.dtype


def test_reads_the_official_files_of_python_2(tmp_path):
    # Written by hand as Python 2 wrote it: strings are bytes without a type.
    minus_one = b"J\xff\xff\xff\xff"
    state = b"(K\x03U\x01|NNN" + minus_one + minus_one + b"K\x00tb"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR" + state
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x02K\x02t" + dtype + b"\x89U\x04\x01\x02\x03\xfftb"
    )
    path = write(tmp_path, b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x06K\x09eu.")
    loaded = safe_pickle.load(path)
    assert loaded[b"data"].tolist() == [[1, 2], [3, 255]]
    assert loaded[b"labels"] == [6, 9]


@pytest.mark.parametrize("function", [os.system, eval, exec, print, getattr, open])
def test_a_call_is_refused_and_not_made(tmp_path, function):
    flag = tmp_path / "executed"
    path = write(tmp_path, {b"data": Call(function, (f"touch {flag}",))})
    with pytest.raises(DataError, match=r"batch is not a readable data file: it asks for .*fetch"):
        safe_pickle.load(path)
    assert not flag.exists()


# Each of these hands numpy arguments that make it crash, take memory or hold Python objects.
HOSTILE = {
    "objects from bytes": Call(np.ndarray, ((1,), "O", b"A" * 8)),
    "a huge array": Call(np.ndarray, ((2**40,), "u1")),
    "an object array": np.array([None, "x"], object),
    "a record array": np.zeros(2, [("a", "u1"), ("b", "O")]),
    "text": np.array(["x"]),
    "dates": np.array(["2020-01-01"], "datetime64[D]"),
    "a dtype with a forged state": Call(
        np.dtype, ("V8", False, True), (3, "|", None, None, None, 2**31 - 1, -1, 63)
    ),
    "a byte order that does not exist": Call(np.dtype, ("u1", False, True), (3, "?")),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_arguments_to_numpy_are_refused(tmp_path, hostile):
    with pytest.raises(DataError, match="batch is not a readable data file"):
        safe_pickle.load(write(tmp_path, {b"data": hostile}))


def array_with(shape: bytes, raw: bytes) -> bytes:
    """Return the opcodes of an uint8 array with a shape and content of our choice."""
    dtype = b"cnumpy\ndtype\n(C\x02u1K\x00K\x01tR"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
        b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"
    )


def test_the_forged_arrays_below_are_well_formed_otherwise(tmp_path):
    good = array_with(b"(K\x02t", b"C\x02\x07\x08")
    assert safe_pickle.load(write(tmp_path, OPEN + good + CLOSE))[b"data"].tolist() == [7, 8]


@pytest.mark.parametrize(
    ("shape", "raw"),
    [
        (b"(K\x03t", b"C\x02\x07\x08"),  # more than there is
        (b"(\x8a\x08" + struct.pack("<q", 2**62) + b"t", b"C\x02\x07\x08"),
        (b"(\x8a\x0c" + b"\xff" * 11 + b"\x7ft", b"C\x02\x07\x08"),  # larger than any integer of C
        (b"(" + b"K\x01" * 70 + b"t", b"C\x01\x07"),  # more axes than numpy knows
        (b"X\x01\x00\x00\x00a", b"C\x02\x07\x08"),
        (b"(K\x02t", b"](K\x07K\x08e"),  # a list where bytes should be
        (b"(K\x02t", b"N"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(tmp_path, shape, raw):
    with pytest.raises(DataError, match="batch is not a readable data file"):
        safe_pickle.load(write(tmp_path, OPEN + array_with(shape, raw) + CLOSE))


@pytest.mark.parametrize(
    "opcodes",
    [
        b"r\xff\xff\xff\xff",  # remember under index 4294967295: C's unpickler lays out 64 GB
        b"\x8e" + struct.pack("<Q", 2**62),  # bytes longer than the file
        b"\x96" + struct.pack("<Q", 2**62),
        b"\x95" + struct.pack("<Q", 2**62),
        b"c__builtin__\neval\n",
        b"\x8c\x05posix\x8c\x06system\x93",
        b"\x82\x01",  # the extension registry
        b"Pname\n",  # a persistent object
        b"(cnumpy\nndarray\n\x81",  # an object without calling its class
        b"cnumpy\nndarray\n)\x81",
        b"cnumpy\ndtype\n}C\x01a" + b"K\x01sb",  # attributes set on a function we hand out
        b"\xff",
        b"0000",
    ],
)
def test_hostile_opcodes_are_refused(tmp_path, opcodes):
    with pytest.raises(DataError, match="batch is not a readable data file"):
        safe_pickle.load(write(tmp_path, OPEN + opcodes + b"."))


def test_attributes_set_by_a_file_do_not_outlive_it(tmp_path):
    # BUILD with (None, {"__doc__": "forged"}) on what stands for numpy.dtype.
    forged = b"cnumpy\ndtype\n(N}X\x07\x00\x00\x00__doc__X\x06\x00\x00\x00forgedstb"
    before = safe_pickle._Dtype.__doc__
    safe_pickle.load(write(tmp_path, OPEN + forged + CLOSE))
    assert safe_pickle._Dtype.__doc__ == before


def test_text_cannot_be_multiplied(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_pickle, "LIMIT", 10_000)
    once = b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR"
    text = b"X" + struct.pack("<I", 1000) + b"a" * 1000 + b"q\x00"
    harmless = OPEN + b"](" + text + once * 5 + b"e" + CLOSE
    assert len(safe_pickle.load(write(tmp_path, harmless))[b"data"]) == 6
    with pytest.raises(DataError, match="too much of it"):
        safe_pickle.load(write(tmp_path, OPEN + b"](" + text + once * 50 + b"e" + CLOSE))


def test_every_truncation_is_an_error(tmp_path):
    whole = pickle.dumps({b"data": np.arange(4, dtype=np.uint8), b"labels": [1, 2]}, 4)
    for length in range(len(whole)):
        with pytest.raises(DataError, match="batch is not a readable data file"):
            safe_pickle.load(write(tmp_path, whole[:length]))


def test_flipped_bytes_give_data_or_a_data_error(tmp_path):
    whole = pickle.dumps({b"data": np.arange(4, dtype=np.uint8), b"labels": [1, 2]}, 2)
    for position in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(whole)
            damaged[position] ^= flip
            path = write(tmp_path, bytes(damaged))
            with contextlib.suppress(DataError):
                assert isinstance(safe_pickle.load(path), dict)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", pickle.dumps([1])])
def test_what_is_no_dictionary_is_refused(tmp_path, content):
    with pytest.raises(DataError, match="batch is not a readable data file"):
        safe_pickle.load(write(tmp_path, content))


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_pickle, "LIMIT", 100)
    with pytest.raises(DataError, match="101 bytes"):
        safe_pickle.load(write(tmp_path, b"x" * 101))


def test_a_folder_or_missing_file_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=path.name):
            safe_pickle.load(path)
