"""Lets a module of alibi be imported without all the others, and without TensorFlow.

`import alibi` imports every explainer there is, and with them TensorFlow, spaCy, pandas and matplotlib: many
seconds and hundreds of megabytes for a server that runs one explainer and asks its model over HTTP. Here the
packages `alibi`, `alibi.explainers` and `alibi.utils` are put in place without running their `__init__`, so that
`alibi.explainers.anchors.anchor_image` imports only what it needs itself. Whatever looks for something that
`__init__` would have put there still gets it: it is run then, with TensorFlow out of sight.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

from helpers.quiet import quiet_libraries

_PACKAGES = ("alibi", "alibi.explainers", "alibi.utils")
_HEAVY = ("tensorflow", "torch", "transformers")


def prepare_alibi() -> None:
    """Put alibi's packages in place; call it before anything of alibi is imported.

    Where alibi is imported already, or TensorFlow is, there is nothing to gain and nothing is done.
    """
    if "alibi" in sys.modules or "tensorflow" in sys.modules:
        return
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        package = _Package(name)
        package.__spec__ = spec
        package.__loader__ = spec.loader
        package.__file__ = spec.origin
        package.__path__ = spec.submodule_search_locations
        package.__package__ = name
        sys.modules[name] = package
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, package)


class _Package(ModuleType):
    """A package whose `__init__` runs when something is looked up that only it provides."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("__") and "_ran" not in vars(self):
            self._ran = True
            with quiet_libraries(), hidden(*_HEAVY):
                self.__spec__.loader.exec_module(self)
            if name in vars(self):
                return vars(self)[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Make the import of these packages fail inside the block, as if they were not installed."""
    absent = _Absent(names)
    sys.meta_path.insert(0, absent)
    try:
        yield
    finally:
        sys.meta_path.remove(absent)


class _Absent(MetaPathFinder):
    """Finds nothing for some packages, before anyone else looks for them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        """Raise ModuleNotFoundError for the packages to hide."""
        if fullname.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{fullname} is not needed here", name=fullname)
