"""README.md from the results: what is written between its two marks, and nothing else of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, on_paper
from benchmarks.figures import is_met, text
from benchmarks.reasons import REASONS
from helpers.errors import WalkthroughError

FOLDER = Path(__file__).absolute().parent
RESULTS = FOLDER / "results"
README = FOLDER / "README.md"
BEGIN = "<!-- results: made by python -m benchmarks -->"
END = "<!-- end of results -->"
PARTS = {
    "model": "Predictions",
    "explain": "Explanations",
    "detectors": "Detectors and broker",
    "servers": "Memory and start-up",
    "scale": "Scale",
    "notebooks": "Notebooks",
    "profiles": "Profiles",
}

PROFILED = (
    "By py-spy, of the threads that run Python. On the left what runs itself, on the right functions of ours with all "
    "that they call; the two columns have nothing to do with each other. `Runner.run` is the event loop: its sockets, "
    "and its waiting where a server is not busy; `_worker` is a thread that waits for work; `quick_execute` "
    "is TensorFlow."
)

Part = Mapping[str, Any]


def read(folder: Path = RESULTS) -> dict[str, Part]:
    """Return the results that there are, by part, in the order of PARTS."""
    paths = {part: folder / f"{part}.json" for part in PARTS}
    return {
        part: json.loads(path.read_text(encoding="utf-8"))
        for part, path in paths.items()
        if path.is_file()
    }


def write(folder: Path = RESULTS, readme: Path = README) -> None:
    """Write the results into README.md.

    Raises:
        WalkthroughError: README.md has not both marks, in order.
    """
    readme.write_text(filled(readme.read_text(encoding="utf-8"), read(folder)), encoding="utf-8")


def filled(readme: str, results: Mapping[str, Part]) -> str:
    """Return a README whose results are these.

    Raises:
        WalkthroughError: it has not both marks, in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise WalkthroughError(f"README.md needs the lines {BEGIN} and {END}, in this order.")
    return f"{before}{begin}\n\n{whole(results)}\n\n{end}{after}"


def whole(results: Mapping[str, Part]) -> str:
    """Return everything between the marks."""
    measured = {part: found for part, found in results.items() if part != "profiles"}
    blocks = [described(results), "### Targets", _targets(measured), _missed(measured)]
    for part, found in measured.items():
        blocks += [f"### {PARTS[part]}", of_part(found)]
    paper = on_paper.told(results)
    if paper:
        blocks += ["## On paper: 10,000 predictions a second", paper]
    if "profiles" in results:
        blocks += [f"## {PARTS['profiles']}", PROFILED, of_part(results["profiles"])]
    return "\n\n".join(block for block in blocks if block)


def described(results: Mapping[str, Part]) -> str:
    """Return the machine and how calm it was, in sentences."""
    lines = []
    machines: dict[str, list[str]] = {}
    for part, found in results.items():
        machines.setdefault(_machine(found["machine"]), []).append(PARTS[part].lower())
    for told, parts in machines.items():
        lines.append(told if len(machines) == 1 else f"{', '.join(parts)}: {told}")
    taken = sum(found["seconds"] for found in results.values())
    if taken:
        lines.append(f"All parts together took {taken // 60} min {taken % 60} s.")
    busy = [part for part, found in results.items() if not _final(part, found)]
    if busy:
        named = ", ".join(PARTS[part].lower() for part in busy)
        lines.append(
            f"**Not final: {named}.** Something else used the machine meanwhile (load average above "
            f"{machine.CALM_LOAD} at the start, or over {machine.CALM_OTHERS} cores used by others), or "
            "counts were small; such figures are marked with † and the next calm `make bench` replaces them."
        )
    return "\n\n".join(lines)


def _final(part: str, found: Part) -> bool:
    return part == "notebooks" or (found["calm"] and not found["quick"])


def _machine(found: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['processor']}, {found['cores']} cores, {found['memory_gib']} GiB, {found['system']}; "
        f"Python {found['python']}, {versions}."
    )


def of_part(found: Part) -> str:
    """Return one part: when and how calm, its rows, its tables."""
    calm = "calm" if found["calm"] else "**busy**"
    quick = ", small counts" if found["quick"] else ""
    head = (
        f"{found['date']} UTC, {found['seconds']} s{quick}, code {found['code'] or 'unknown'}; load average at "
        f"the start {found['load']}, {found['others']} cores used by others, {100 * found['stolen']:.1f} % of "
        f"the time taken by the hypervisor: {calm}."
    )
    blocks = [head]
    rows = found["rows"]
    if rows:
        lines = [
            [row["what"], _value(row), _spread(row), row["limit"], row["target"]] for row in rows
        ]
        blocks.append(
            table(("What", "Median", "Rounds, from – to", "Compared with", "Target"), lines)
        )
    for one in found["tables"]:
        blocks += [f"{one['title']}:", table(one["head"], one["rows"])]
    return "\n\n".join(blocks)


def _targets(results: Mapping[str, Part]) -> str:
    lines = []
    for part, found in results.items():
        for row in found["rows"]:
            met = is_met(row["value"], row["target"])
            if met is None:
                continue
            final = _final(part, found)
            measured = _value(row) + ("" if final else " †")
            verdict = "yes" if met else f"**no**: [why](#{_anchor(row['key'])})"
            verdict = verdict if final else "open †"
            target = f"{row['target']} {row['unit']}"
            lines.append([row["what"], target, measured, row["limit"], found["date"][:10], verdict])
    head = ("What", "Target", "Measured", "Limit, or what it is compared with", "Date", "Met")
    return table(head, lines)


def _missed(results: Mapping[str, Part]) -> str:
    """Return why targets are missed, as far as that is decided."""
    told = []
    for part, found in results.items():
        for row in found["rows"]:
            if _final(part, found) and is_met(row["value"], row["target"]) is False:
                reason = REASONS.get(row["key"], "Not explained yet.")
                told.append(f'<a id="{_anchor(row["key"])}"></a>**{row["what"]}.** {reason}')
    return "\n\n".join(["### Targets that are missed", *told]) if told else ""


def _anchor(key: str) -> str:
    return f"why-{key.replace('_', '-')}"


def _value(row: Mapping[str, Any]) -> str:
    return f"{text(row['value'])} {row['unit']}"


def _spread(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f"{text(row['low'])} – {text(row['high'])}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown; columns of numbers only are aligned to the right."""
    numbers = [
        bool(rows) and all(one is None or isinstance(one, int | float) for one in column)
        for column in zip(*rows, strict=True)
    ] or [False] * len(head)
    cells = [[text(one).replace("|", "\\|") for one in row] for row in rows]
    lines = [list(head), ["---:" if right else "---" for right in numbers], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
