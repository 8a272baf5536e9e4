"""What keeps the libraries quiet, and only them."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from contextlib import contextmanager
from unittest.mock import patch

import pytest

from helpers.quiet import quiet_libraries, silent_stderr


@contextmanager
def unbuffered_by_pytest():
    """Let sys.stderr write to file descriptor 2, as it does outside pytest."""
    with open(2, "w", buffering=1, closefd=False) as stream, patch.object(sys, "stderr", stream):
        yield


@unbuffered_by_pytest()
def test_discards_what_c_code_and_python_write(capfd):
    with silent_stderr():
        os.write(2, b"from C\n")
        print("from Python", file=sys.stderr)
        print("an unfinished line", end="", file=sys.stderr)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


@unbuffered_by_pytest()
def test_what_was_written_before_is_not_lost(capfd):
    print("before", end="", file=sys.stderr)
    with silent_stderr():
        pass
    assert capfd.readouterr().err == "before"


@unbuffered_by_pytest()
def test_shows_everything_after_an_error(capfd):
    @silent_stderr()
    def fail():
        os.write(2, b"the reason, ")
        print("and more", end="", file=sys.stderr)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert capfd.readouterr().err == "the reason, and more"
    os.write(2, b"after")
    assert capfd.readouterr().err == "after"


@unbuffered_by_pytest()
def test_blocks_can_be_nested_and_leak_no_descriptor(capfd):
    def descriptors():
        return len(os.listdir("/dev/fd"))

    before = descriptors()
    for _ in range(5):
        with silent_stderr():
            with silent_stderr():
                os.write(2, b"inner")
            os.write(2, b"outer")
    assert descriptors() == before
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["tensorflow", "alibi_detect", "alibi.explainers.anchors"])
def test_hides_the_libraries_log_lines_below_errors(caplog, name):
    logger = logging.getLogger(name)
    top = logging.getLogger(name.split(".")[0])
    before = top.level
    with quiet_libraries():
        logger.warning("hidden")
        logger.error("shown")
    assert top.level == before
    assert [record.message for record in caplog.records] == ["shown"]


def test_our_own_log_lines_are_shown(caplog):
    with quiet_libraries():
        logging.getLogger("helpers").warning("ours")
        logging.getLogger("another_library").warning("theirs")
    assert [record.message for record in caplog.records] == ["ours", "theirs"]


def test_hides_warnings_inside_the_block_only():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with quiet_libraries():
            warnings.warn("hidden", DeprecationWarning, stacklevel=1)
        warnings.warn("shown", DeprecationWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["shown"]


def test_levels_are_put_back_after_an_error():
    logger = logging.getLogger("alibi")
    before = logger.level
    with pytest.raises(ZeroDivisionError), quiet_libraries():
        raise ZeroDivisionError
    assert logger.level == before
