"""The image's entry point: starts one server by name, any other program, or says which servers there are.

docker run walkthrough/serving:0.1.0 payload_log --port=8080 --state=/tmp/log
docker run walkthrough/serving:0.1.0 python -m helpers.serving.payload_log --port=8080 --state=/tmp/log

A manifest's `command` takes its place.
"""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path

SERVERS = Path(__file__).resolve().parent / "helpers" / "serving"


def servers() -> dict[str, str]:
    """Return what can be started: name -> the first line of its documentation."""
    return {
        folder.parent.name: _first_line(folder.parent / "__init__.py")
        for folder in sorted(SERVERS.glob("*/__main__.py"))
    }


def _first_line(module: Path) -> str:
    documentation = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return documentation.partition("\n")[0]


def usage(known: dict[str, str]) -> str:
    """Return what somebody sees who names no server."""
    width = max(map(len, known))
    lines = [f"  {name:<{width}}  {what}" for name, what in known.items()]
    return "\n".join(
        [
            "Name the server to start, and its options; SERVER --help lists them:",
            *lines,
            "In a manifest: `command: [python, -m, helpers.serving.SERVER]`.",
        ]
    )


def main(argv: list[str]) -> None:
    """Become the program that `argv` names; without one, print the servers and exit with 2."""
    known = servers()
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(known), file=sys.stdout if argv else sys.stderr)
        sys.exit(0 if argv else 2)
    command = [sys.executable, "-m", f"helpers.serving.{argv[0]}"] if argv[0] in known else argv[:1]
    try:
        os.execvp(command[0], [*command, *argv[1:]])
    except OSError as problem:
        sys.exit(
            f"{argv[0]!r} is no server and no program of this image ({problem.strerror}).\n{usage(known)}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
