"""Every page and every notebook's text leads somewhere: relative links, anchors, paths of this repository."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NOT_OURS = {".git", ".venv", ".pytest_cache", ".hypothesis", "runs", "data", "build"}

CODE = re.compile(r"^ *(```|~~~).*?^ *\1[^\n]*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|<(?:a|img)\b[^>]*?\b(?:href|src)=[\"']([^\"']+)")
# `manifests/model/cifar10.yaml`; one with a placeholder, `tests/<name>`, is not looked for.
PATH = re.compile(
    r"`((?:\.github|artifacts|benchmarks|helpers|kind|manifests|notebooks|tests)/[\w./-]*)`"
)


def pages(root: Path = REPOSITORY) -> list[Path]:
    """Return every Markdown page and every notebook."""
    return sorted(
        file
        for pattern in ("*.md", "*.ipynb")
        for file in root.rglob(pattern)
        if NOT_OURS.isdisjoint(file.relative_to(root).parts)
        and ".ipynb_checkpoints" not in file.parts
    )


def text_of(page: Path) -> str:
    """Return a page's Markdown; of a notebook that of its Markdown cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def anchors(page: Path) -> set[str]:
    """Return what a `#...` can name on a page: its headings as GitHub writes them, and what it names itself."""
    text = text_of(page)
    named = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    without_blocks = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", without_blocks, re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        named.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return named


def dead_ends(page: Path, root: Path = REPOSITORY) -> list[str]:
    """Return the relative links of a page that lead nowhere, or out of the repository."""
    found = []
    for match in LINK.finditer(CODE.sub("", text_of(page))):
        target = match[1] or match[2]
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        leads = file.exists() and file.is_relative_to(root)
        if leads and anchor:
            leads = file.suffix in (".md", ".ipynb") and anchor in anchors(file)
        if not leads:
            found.append(target)
    return found


each_page = pytest.mark.parametrize(
    "page", pages(), ids=lambda page: str(page.relative_to(REPOSITORY))
)


@each_page
def test_every_link_and_anchor_leads_somewhere(page):
    assert dead_ends(page) == []


@each_page
def test_every_path_of_the_repository_exists(page):
    missing = [path for path in PATH.findall(text_of(page)) if not (REPOSITORY / path).exists()]
    assert missing == []


def test_every_notebook_leads_to_the_next():
    chapters = [page for page in pages() if page.suffix == ".ipynb"]
    assert len(chapters) == 10
    for chapter, following in pairwise(chapters):
        assert f"]({following.name})" in text_of(chapter), chapter.name


def test_dead_ends_are_found(tmp_path):
    (tmp_path / "other.md").write_text(
        "# Two words: *here*\n## Again\n## Again\n", encoding="utf-8"
    )
    page = tmp_path / "page.md"
    good = "[a](other.md#two-words-here) [b](other.md#again-1) [c](#top) [d](https://x.org/#y) `[e](f)`"
    page.write_text(f"# Top\n{good}\n```\n[g](h)\n```\n", encoding="utf-8")
    assert dead_ends(page, tmp_path) == []

    bad = ["missing.md", "other.md#two-words", "other.md#again-2", "#nowhere", "../outside.md"]
    (tmp_path.parent / "outside.md").touch()
    page.write_text(
        "\n".join(f"[x]({one})" for one in bad) + '\n<img src="no.png">', encoding="utf-8"
    )
    assert dead_ends(page, tmp_path) == [*bad, "no.png"]
