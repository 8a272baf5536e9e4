"""The model cards: every figure of a record is on the page, and the page follows from the records."""

from __future__ import annotations

import pytest

from helpers import artifacts, cards

FIGURES = {
    "accuracy": 0.93481,
    "images": 10_000,
    "interval": [0.0, 0.0787],
    "flags": [0, 0, 1],
    "best": None,
    "class": "truck",
    "detected": {"blur": {"1": 0.2, "5": 1.0}, "noise": {"1": 0.0, "5": 0.4}},
    "smallest": {"blur": 5, "noise": None},
}


def record(name: str = "resnet32", figures: dict = FIGURES, bytes: int = 2_340_000):
    return artifacts.Artifact(
        dataset="cifar10",
        name=name,
        format="keras",
        summary="A thing",
        made_by="python -m helpers.train --only thing",
        made_on="2026-11-22",
        versions={"python": "3.12.1", "tensorflow": "2.18.1"},
        figures=figures,
        files={"model.h5": artifacts.FileRecord(sha256="0" * 64, bytes=bytes)},
    )


def section(name: str) -> str:
    return cards.render([record(name)]).split(f"## cifar10/{name}\n")[1]


def test_the_figures_are_tables():
    tables = section("thing").split("| figure |")[1]
    assert f"| figure |{tables}".splitlines() == [
        "| figure | value |",
        "|---|---|",
        "| accuracy | 0.9348 |",
        "| images | 10000 |",
        "| interval | 0, 0.0787 |",
        "| flags | 0, 0, 1 |",
        "| best | none |",
        "| class | truck |",
        "",
        "| detected | 1 | 5 |",
        "|---|---|---|",
        "| blur | 0.2 | 1 |",
        "| noise | 0 | 0.4 |",
        "",
        "| smallest | blur | noise |",
        "|---|---|---|",
        "| | 5 | none |",
    ]


def test_a_card_says_what_it_is_and_where_it_comes_from():
    card = section("resnet32")
    assert card.startswith("\nA thing. 2.3 MB.\n")
    assert "- made by `python -m helpers.train --only thing` on 2026-11-22" in card
    assert "- with python 3.12.1, tensorflow 2.18.1" in card
    assert f"checksum of all files `{record().checksum[:16]}`" in card
    assert "Input: float32 (n, 32, 32, 3)" in card


def test_the_page_counts_and_keeps_the_order():
    page = cards.render([record("b"), record("a")])
    assert "2 artefacts, 4.7 MB." in page
    assert page.index("## cifar10/b") < page.index("## cifar10/a")


def test_every_artefact_is_explained():
    from helpers.train import pipeline

    assert set(cards._HOW_TO_READ) == set(pipeline.NAMES)


@pytest.mark.parametrize("figures", [{}, {"only": 1}, {"only": {"a": 1}}])
def test_few_figures_make_whole_tables(figures):
    page = cards.render([record(figures=figures)])
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert rows[:2] == ["| figure | value |", "|---|---|"]
    assert len({row.count("|") for row in rows}) == 1


def save(dataset: str, name: str) -> None:
    artifacts.save(
        dataset,
        name,
        lambda folder: (folder / "file").write_bytes(b"x"),
        format="alibi",
        summary="Größe",
        figures={"a": 1},
    )


def test_writes_only_the_artefacts_that_are_committed(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIFACTS_DIR", str(tmp_path))
    for dataset in ("cifar10", "digits"):
        save(dataset, "thing")
    page = cards.write()
    assert page == tmp_path / "README.md"
    text = page.read_text("utf-8")
    assert text == cards.render(artifacts.list_all("cifar10"))
    assert "Größe" in text
    assert "digits" not in text


@pytest.mark.parametrize("elsewhere", [True, False])
def test_the_readme_is_left_alone_until_all_artefacts_of_the_repository_are_made(
    tmp_path, monkeypatch, elsewhere
):
    monkeypatch.setattr(artifacts, "REPOSITORY", tmp_path)
    root = tmp_path / ("elsewhere" if elsewhere else "artifacts")
    monkeypatch.setenv("ARTIFACTS_DIR", str(root))
    for name in [*list(cards._HOW_TO_READ)[: None if elsewhere else 3], "another"]:
        save("cifar10", name)
    cards.main()  # there is no README.md to read, so that it would fail if it tried
    assert (root / "README.md").exists()
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize(
    ("text", "mark"), [("", cards.BEGIN), (cards.BEGIN, cards.END), (cards.END, cards.BEGIN)]
)
def test_a_readme_without_its_marks_is_refused(text, mark):
    with pytest.raises(artifacts.ArtifactError, match=f"lacks a line .*{mark}"):
        cards.fill_readme(text)
