"""The parameters of a notebook: what its `parameters` cell declares, and what it is run with.

papermill injects any name it is given, and only logs a warning if the notebook does not know it;
a typing error would then run the wrong experiment. Here it stops the run.
"""

from __future__ import annotations

import ast
import difflib
import json
from pathlib import Path

from helpers.errors import RunnerError

WORDS = {"true": True, "false": False}


def find_notebooks(folder: Path, only: str = "") -> list[Path]:
    """Return the numbered notebooks of `folder`, all or those that `only` names.

    `only` holds numbers or names with commas between: `06`, `6,07`, `06_outlier_vae`.
    """
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise RunnerError(f"{folder} holds no notebook named like 01_name.ipynb.")
    chosen = []
    for word in filter(None, (word.strip() for word in only.split(","))):
        found = [
            path
            for path in paths
            if (word.isdecimal() and int(word) == int(path.stem[:2]))
            or word in (path.stem, path.name)
        ]
        if not found:
            names = ", ".join(path.stem for path in paths)
            raise RunnerError(f"ONLY={word} names no notebook. There are: {names}.")
        chosen += found
    return sorted(set(chosen)) or paths


def read_notebook(path: Path) -> dict:
    """Return the notebook at `path` as plain JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunnerError(f"{path} cannot be read as a notebook: {error}") from error


def declared_parameters(path: Path) -> dict[str, object]:
    """Return {name: default} of the cell tagged `parameters`; {} if there is no such cell."""
    for cell in read_notebook(path)["cells"]:
        if cell["cell_type"] == "code" and "parameters" in cell["metadata"].get("tags", []):
            break
    else:
        return {}
    declared: dict[str, object] = {}
    for statement in ast.parse("".join(cell["source"])).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                raise RunnerError(
                    f"{path.name}, parameters cell, line {statement.lineno}: "
                    "only lines like NAME = value belong there."
                )
        try:
            declared[name] = ast.literal_eval(value)
        except ValueError as error:
            raise RunnerError(
                f"{path.name}, parameters cell: {name} is computed. "
                "Give it a literal value, so that it can be set from outside."
            ) from error
    return declared


def parse_value(name: str, text: str, default: object) -> object:
    """Return `text` as a value of the type that `default` has."""
    wanted = type(default).__name__
    try:
        if isinstance(default, bool):
            return WORDS[text.lower()]
        if isinstance(default, (int, float, str)):
            return type(default)(text)
        value = ast.literal_eval(text)
    except (ValueError, KeyError, SyntaxError) as error:
        raise RunnerError(f"{name} takes a value of type {wanted}, not {text!r}.") from error
    check_type(name, value, default)
    return value


def check_type(name: str, value: object, default: object) -> None:
    """Raise RunnerError unless `value` can stand where `default` stands."""
    fits = (
        default is None
        or type(value) is type(default)
        or (type(default) is float and type(value) is int)
    )
    if not fits:
        raise RunnerError(
            f"{name} takes a value of type {type(default).__name__}, not {value!r} "
            f"({type(value).__name__})."
        )


def check_parameters(path: Path, given: dict[str, object]) -> None:
    """Raise RunnerError if `given` holds a name or a type that the notebook does not declare."""
    declared = declared_parameters(path)
    for name, value in given.items():
        if name not in declared:
            raise RunnerError(f"{path.name} has no parameter {name}. {_known(name, declared)}")
        check_type(name, value, declared[name])


def plan(
    paths: list[Path], variables: dict[str, str], given: dict[str, str]
) -> tuple[dict[Path, dict[str, object]], list[str]]:
    """Decide what each notebook is run with.

    Args:
        paths: the notebooks.
        variables: DATASET and BACKEND; those that every notebook has as its default are left out.
        given: NAME=value pairs as typed.

    Returns:
        {notebook: parameters that differ from its defaults}, and remarks worth printing.

    Raises:
        RunnerError: a name that none of the notebooks declares, or a value of another type.
    """
    declared = {path: declared_parameters(path) for path in paths}
    asked = {**variables, **given}
    every = {name: default for names in declared.values() for name, default in names.items()}
    for name in asked:
        if name not in every and not (name == "BACKEND" and asked[name] == "local"):
            which = paths[0].name if len(paths) == 1 else "None of these notebooks"
            verb = "has no parameter" if len(paths) == 1 else "has a parameter"
            raise RunnerError(f"{which} {verb} {name}. {_known(name, every)}")
    plans: dict[Path, dict[str, object]] = {path: {} for path in paths}
    remarks = []
    for name, text in asked.items():
        for path, names in declared.items():
            if name in names and (value := parse_value(name, text, names[name])) != names[name]:
                plans[path][name] = value
        if any(name in parameters for parameters in plans.values()):
            without = [path.stem for path in paths if name not in declared[path]]
            remarks += [f"{stem} has no parameter {name}: it runs without." for stem in without]
    return plans, remarks


def _known(name: str, declared: dict[str, object]) -> str:
    close = difflib.get_close_matches(name, declared, n=1)
    if close:
        return f"Did you mean {close[0]}?"
    return f"It knows {', '.join(declared)}." if declared else "It has no parameters cell."
