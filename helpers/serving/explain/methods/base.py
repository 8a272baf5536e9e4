"""What every explanation method is: options, an artefact, and a function from instances to an explanation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from helpers.serving.payloads import read_rows
from helpers.serving.storage import Location


class Options(BaseModel):
    """The options of a method: what `explainer.config` may set, and a request may override.

    A field with `json_schema_extra=CONFIG_ONLY` is for the configuration alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


CONFIG_ONLY = {"config_only": True}


@dataclass(frozen=True, slots=True)
class Explained:
    """One explanation.

    Args:
        meta: as alibi's `Explanation.meta`.
        data: as alibi's `Explanation.data`.
        figures: what to measure of it, by name, e.g. an anchor's precision;
            `samples` where the method draws more inputs than it asks the model about.
    """

    meta: dict[str, Any]
    data: dict[str, Any]
    figures: dict[str, float] = field(default_factory=dict)


class Method(ABC):
    """One explanation method. Its methods are never called at the same time.

    Args:
        tf_data_type: `--tf_data_type`, the type of the numbers that the model takes; None for the
            method's own.
    """

    options: ClassVar[type[Options]]
    """The options it has."""

    asks_model: ClassVar[bool] = True
    """Whether it needs the deployed model: a white-box method has the model in its artefact."""

    uses_tensorflow: ClassVar[bool] = False
    """Whether TensorFlow must be imported before alibi is."""

    def __init__(self, tf_data_type: str | None = None) -> None:
        self.tf_data_type = tf_data_type

    @abstractmethod
    def load(self, location: Location) -> None:
        """Load the artefact, checksums first. The model need not answer yet."""

    @abstractmethod
    def connect(self, predict: Callable[[Any], np.ndarray]) -> None:
        """Take the model's prediction function, and try it.

        Raises:
            RequestError: the model does not answer; this is called again later.
        """

    def read(self, body: Any, protocol: str) -> Any:
        """Return the instances of a request, (n, …).

        Raises:
            RequestError: 400.
        """
        return read_rows(body, protocol)

    @abstractmethod
    def explain(self, instances: Any, options: Options, seed: int) -> Explained:
        """Explain the instances; anchors explain the first, as Seldon's server does.

        NumPy's and Python's global generators are seeded with `seed` already.

        Raises:
            RequestError: 400 for the instances, 502 or 503 for the model.
        """
