"""The support tickets: written one by one, balanced, and split so that nothing is in both parts."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from helpers import data
from helpers.data import Texts, load_texts, tickets
from helpers.errors import DataError

TICKETS = load_texts("tickets")
EVERY = (*TICKETS.x_train, *TICKETS.x_test)


def words(text: str) -> list[str]:
    return re.findall(r"[a-zäöü0-9']+", text.lower())


def test_there_are_some_hundred_and_half_are_of_each_class():
    assert len(EVERY) == 240
    assert len(TICKETS.x_test) == 60
    for y in (TICKETS.y_train, TICKETS.y_test):
        assert Counter(y.tolist()) == {0: len(y) // 2, 1: len(y) // 2}


def test_they_are_not_made_from_templates():
    starts = Counter(tuple(words(text)[:4]) for text in EVERY)
    assert max(starts.values()) <= 2
    sets = [set(words(text)) for text in EVERY]
    overlap = max(
        len(one & other) / len(one | other)
        for place, one in enumerate(sets)
        for other in sets[:place]
    )
    assert overlap < 0.6
    assert len(set().union(*sets)) > 900


def test_they_are_short_sentences():
    lengths = [len(words(text)) for text in EVERY]
    assert min(lengths) >= 5
    assert max(lengths) <= 25


def test_no_word_gives_a_class_away_alone():
    for label in (0, 1):
        texts = [
            set(words(t))
            for t, y in zip(TICKETS.x_train, TICKETS.y_train, strict=True)
            if y == label
        ]
        others = [
            set(words(t))
            for t, y in zip(TICKETS.x_train, TICKETS.y_train, strict=True)
            if y != label
        ]
        vocabulary = set().union(*texts) - set().union(*others)
        assert max(sum(word in text for text in texts) for word in vocabulary) < 0.3 * len(texts)


def test_it_is_always_the_same_split():
    again = load_texts("tickets")
    assert (again.x_train, again.x_test) == (TICKETS.x_train, TICKETS.x_test)
    assert TICKETS.class_names == ("billing", "technical")
    assert repr(TICKETS) == "Texts(tickets: 180 training and 60 test texts of 2 classes)"


def test_the_file_is_installed_with_the_package(root: Path):
    project = tomllib.loads((root / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["helpers.data"]
    assert any(tickets.FILE.match(pattern) for pattern in patterns)
    assert tickets.FILE.parent == root / "helpers" / "data"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "texts|tickets"),
        (b"label,text\nbilling\n", "does not hold tickets"),
        (b"label,text\nother,hello\n", "does not hold tickets"),
        (b"text\nhello\n", "does not hold tickets"),
        (b"\xff\xfe", "does not hold tickets"),
        (b"label,text\nbilling,\n", "a text is empty"),
        (b"label,text\nbilling,Hello  you\ntechnical,hello you\n", "a text is there twice"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes | None, said: str):
    file = tmp_path / "tickets.csv"
    if content is not None:
        file.write_bytes(content)
    if content == b"":
        assert tickets.read(file).x_train == ()
        return
    with pytest.raises(DataError, match=said):
        tickets.read(file)


def test_texts_have_a_loader_of_their_own():
    assert data.TEXTS == ("tickets",)
    with pytest.raises(DataError, match=r"no texts 'mails'\. Choose one of: tickets"):
        load_texts("mails")
    with pytest.raises(DataError, match="There is no data set 'tickets'"):
        data.load("tickets")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (np.array([0, 5]), "a class without a name"),
        (np.array([0]), "2 texts and int64 classes"),
        (np.array([0.0, 1.0]), "2 texts and float64 classes"),
    ],
)
def test_classes_that_do_not_fit_are_refused(classes: np.ndarray, said: str):
    none = np.array([], np.int64)
    with pytest.raises(DataError, match=said):
        Texts("t", ("a", "b"), ("one", "two"), classes, (), none)
