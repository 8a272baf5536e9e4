"""What a model takes and gives, without TensorFlow: the other modules are tested without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], dict[str, np.ndarray]]

PREDICT = "tensorflow/serving/predict"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor.

    Args:
        name: its key in the signature.
        dtype: numpy's type; `object` stands for strings, whose elements are bytes.
        type_name: TensorFlow's name, e.g. `DT_FLOAT`.
        shape: None for an axis of any length, None altogether for any rank.
    """

    name: str
    dtype: np.dtype
    type_name: str
    shape: tuple[int | None, ...] | None

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape fits."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            wanted is None or wanted == given
            for wanted, given in zip(self.shape, shape, strict=True)
        )

    def shape_text(self) -> str:
        """The shape as TensorFlow Serving writes it, -1 for any length: `[-1,32,32,3]`."""
        if self.shape is None:
            return "[?]"
        return "[" + ",".join("-1" if size is None else str(size) for size in self.shape) + "]"


@dataclass(frozen=True, slots=True)
class Signature:
    """One way to call a model.

    Args:
        name: e.g. `serving_default`.
        inputs: by name; never empty.
        outputs: by name.
        run: takes an array per input, returns one per output; blocks; raises ModelInputError.
        method_name: what the SavedModel says it is for.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    run: Run
    method_name: str = PREDICT

    @property
    def batchable(self) -> bool:
        """Whether rows of several requests may be computed in one call: every first axis is free."""
        tensors = [*self.inputs.values(), *self.outputs.values()]
        return all(tensor.shape and tensor.shape[0] is None for tensor in tensors)


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded version of a model; `metadata` is its signature_def as JSON."""

    version: int
    signatures: Mapping[str, Signature]
    metadata: Mapping[str, Any]


class ModelInputError(Exception):
    """The model refuses its input while it computes: the request's fault, not the server's."""
