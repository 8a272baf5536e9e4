"""The table of known vulnerabilities: of what is pinned, true of our code, and what `make audit` leaves out."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.utils import canonicalize_name

from helpers.environment.lock import read_lock

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / ".github" / "SECURITY.md").read_text(encoding="utf-8")
ID = re.compile(
    r"CVE-\d{4}-\d{4,7}"
    r"|GHSA(-[23456789cfghjmpqrvwx]{4}){3}"
    r"|PYSEC-\d{4}-\d{1,5}"
)
LOCKS = ("requirements.txt", "kind/image/requirements.txt")


class Row(NamedTuple):
    """A line of the table."""

    package: str
    ids: str
    what: str
    reaches: str
    fixed: str
    held_by: str

    @property
    def advisories(self) -> list[str]:
        """Its IDs."""
        return self.ids.split(", ")


HEAD, RULE, *LINES = (
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if line.startswith("|")
)
ROWS = [Row(*cells) for cells in LINES]
EXPLAINED = [one for row in ROWS for one in row.advisories]


@pytest.mark.parametrize("package", sorted({row.package for row in ROWS}))
def test_is_of_the_version_that_is_pinned(package):
    """A pin that has moved: is the advisory still of that version, and is the row still needed?"""
    name, version = package.split()
    assert canonicalize_name(name) == name
    assert str(read_lock(ROOT / "requirements.txt")[name].specifier) == f"=={version}"


def test_every_row_is_whole():
    assert len(HEAD) == len(Row._fields)
    assert [row for row in ROWS if not all(row)] == []


def test_ids_are_well_formed_and_named_once():
    assert [one for one in EXPLAINED if not ID.fullmatch(one)] == []
    assert len(set(EXPLAINED)) == len(EXPLAINED)


def test_audit_leaves_out_the_table_and_nothing_else():
    command = subprocess.run(
        ["make", "--no-print-directory", "-n", "audit"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},  # not the variables of a `make test` around this
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert sorted(re.findall(r"--ignore-vuln (\S+)", command)) == sorted(EXPLAINED)
    assert re.findall(r"--requirement (\S+)", command) == list(LOCKS)


@pytest.mark.parametrize(
    ("what", "folder"),
    [
        (r"\b(PIL|cv2)\b", "helpers/serving"),
        (r"\b(PIL|cv2)\b", "helpers/stack"),
        (r"Image\.open|ImageFont|imread|imdecode|savefig\(.*(jpg|tif|pdf)", "helpers"),
        (r"FileResponse|StaticFiles|HTTPEndpoint|\.form\(", "helpers"),
        (r"request\.(base_)?url\.", "helpers"),
        (r"ParseDict|from_pretrained|save_pretrained|setup_requires", "helpers"),
    ],
)
def test_what_is_said_not_to_be_called_is_not(what, folder):
    callers = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / folder).rglob("*.py"))
        if re.search(what, path.read_text(encoding="utf-8"))
    ]
    assert callers == [], "does an advisory reach us now?"


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"\b(?:helpers|tests|kind)/[\w/.]*\w", PAGE)))
)
def test_files_that_it_names_exist(path):
    assert (ROOT / path).exists()
