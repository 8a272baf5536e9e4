"""A metrics server by the name that `--storage_uri` has: Seldon's three, or a class's dotted path."""

from __future__ import annotations

import importlib
from typing import Any

from helpers.serving.common.errors import ServingError

_SELDON = "adserver.cm_models."
_OURS = "helpers.serving.detect."
_KNOWN = {
    f"{_SELDON}binary_metrics.BinaryMetrics": f"{_OURS}classification.BinaryMetrics",
    f"{_SELDON}multiclass_numeric.MultiClassNumeric": f"{_OURS}classification.MultiClassNumeric",
    f"{_SELDON}multiclass_one_hot.MulticlassOneHot": f"{_OURS}classification.MulticlassOneHot",
}


def make(name: str) -> Any:
    """Return an instance of the metrics server that `name` names.

    Raises:
        ServingError: no such module or class, or it has no `transform`.
    """
    path = _KNOWN.get(name, name)
    module_name, _, class_name = path.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in path.split(".")):
        raise ServingError(
            f"{name!r} names no metrics server: give one of {', '.join(_KNOWN)}, or the dotted path of a "
            "class of yours. (Pickled ones are not taken: they run whatever code is in them.)"
        )
    try:
        made = getattr(importlib.import_module(module_name), class_name)()
    except ImportError as problem:
        raise ServingError(
            f"the module {module_name} of the metrics server {name} cannot be imported: {problem}. "
            "Is its folder in PYTHONPATH?"
        ) from problem
    except AttributeError as problem:
        raise ServingError(
            f"the module {module_name} has no usable {class_name}: {problem}."
        ) from None
    except TypeError as problem:
        raise ServingError(f"{name} cannot be made without arguments: {problem}.") from problem
    if not callable(getattr(made, "transform", None)):
        raise ServingError(f"{name} has no method `transform(truth, response, request)`.")
    return made
