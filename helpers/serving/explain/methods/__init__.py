"""The explanation methods, each in a module of its own that is imported when it is asked for.

To add one: a module with a subclass of `base.Method`, and its name here.
"""

from __future__ import annotations

import importlib

from helpers.serving.explain.methods.base import Method

METHODS = {
    "AnchorImages": "anchor_images",
    "AnchorTabular": "anchor_tabular",
    "AnchorText": "anchor_text",
    "KernelShap": "kernel_shap",
    "IntegratedGradients": "integrated_gradients",
    "TreeShap": "tree_shap",
    "ALE": "ale",
}


def method_class(name: str) -> type[Method]:
    """Return the class of a method, by the name that Seldon gives it.

    Raises:
        KeyError: there is none.
    """
    module = importlib.import_module(f"{__name__}.{METHODS[name]}")
    return getattr(module, name)
