"""What a run shows: progress, the cell that failed, the closing table, the HTML pages."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Table

SHOWN_LINES = 12  # of a failing cell
# nbconvert's own page leaves alternative texts out, and warns of it.
_TEMPLATE = """{%- extends "index.html.j2" -%}
{%- block data_png scoped -%}
{%- set alt = output | get_metadata("alt", "image/png") -%}
{{ super() | replace("<img ", '<img alt="' ~ (alt | escape_html) ~ '" ') if alt else super() }}
{%- endblock -%}
"""
_LINK = re.compile(r"\]\((?![a-z]+:|[#/])([^)#\s]+)")  # a relative one, without its anchor


class Screen:
    """Progress on a terminal; plain lines where there is none, as in CI."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextlib.contextmanager
    def notebook(self, path: Path, number: int, total: int) -> Iterator[Callable[[int], None]]:
        """Show the progress through one notebook; yields what is told each cell's index."""
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        if not self.console.is_terminal:
            self.console.print(f"{path.stem}: {len(cells)} cells", highlight=False)
            yield lambda index: None
            return
        with Progress(
            TextColumn(f"{number}/{total} {path.stem}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[heading]}"),
            console=self.console,
            transient=True,
        ) as progress:
            task = progress.add_task("", total=len(cells), heading="starting the kernel")
            headings = _headings(cells)

            def show(index: int) -> None:
                # With parameters injected there is one cell more than in the file.
                heading = headings[min(index, len(headings) - 1)]
                progress.update(task, completed=index, heading=escape(heading))

            yield show

    def result(self, result) -> None:
        """Print one line about a notebook that ended, and the failing cell if one failed."""
        if not result.error:
            self.console.print(
                f"[green]passed[/] {result.name} in {result.seconds:.0f} s", highlight=False
            )
            return
        self.console.print(
            f"[red]failed[/] {result.name} after {result.seconds:.0f} s, "
            f"in cell {result.cell + 1}:",
            highlight=False,
        )
        lines = result.source.splitlines()
        shown = "\n".join(lines[:SHOWN_LINES]) + ("\n..." if len(lines) > SHOWN_LINES else "")
        self.console.print(
            Padding(Syntax(shown, "python", theme="ansi_light", background_color="default"), (0, 4))
        )
        self.console.print(f"[red]{escape(result.error)}[/]", highlight=False)
        self.console.print(
            f"The whole traceback is in {result.output}", highlight=False, soft_wrap=True
        )

    def table(self, results: list, folder: Path) -> None:
        """Print the closing table: notebook, seconds, checks passed."""
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("notebook")
        table.add_column("seconds", justify="right")
        table.add_column("checks", justify="right")
        table.add_column("")
        for result in results:
            checks = result.passed + result.failed
            table.add_row(
                result.name,
                f"{result.seconds:.0f}",
                f"{result.passed}/{checks}" if checks else "none",
                "[red]failed[/]" if result.error else "[green]passed[/]",
            )
        self.console.print(table)
        self.console.print(f"Executed copies: {folder}", highlight=False, soft_wrap=True)


def write_html(executed: Path, source: Path) -> Path:
    """Write the HTML page of an executed notebook beside it; pictures are inside the page.

    Args:
        executed: the executed copy.
        source: the folder that its relative links start from. On the page they lead to the pages of
            the notebooks of this run, and to files in the repository.
    """
    import nbformat
    from nbconvert.exporters import HTMLExporter

    notebook = nbformat.read(executed, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _LINK.sub(
                lambda link: f"]({_seen_from(executed.parent, source, link[1])}", cell.source
            )
    page, _ = HTMLExporter(embed_images=True, raw_template=_TEMPLATE).from_notebook_node(
        notebook, resources={"metadata": {"name": executed.stem}}
    )
    target = executed.with_suffix(".html")
    target.write_text(page, encoding="utf-8")
    return target


def _seen_from(folder: Path, source: Path, link: str) -> str:
    """Return a link of the notebooks in `source` as a page in `folder` has to have it."""
    file = source / link
    if not file.exists():
        return link
    if (folder / link).is_file() and file.suffix == ".ipynb":
        return str(Path(link).with_suffix(".html"))
    return Path(os.path.relpath(file, folder)).as_posix()


def _headings(cells: list[dict]) -> list[str]:
    """Return for each cell the heading it stands under."""
    heading, headings = "", []
    for cell in cells:
        if cell["cell_type"] == "markdown":
            for line in "".join(cell["source"]).splitlines():
                if line.startswith("#"):
                    heading = line.lstrip("# ")
        headings.append(heading)
    return headings
