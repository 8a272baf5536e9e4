"""Loads a SavedModel. Importing this module imports TensorFlow."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict
from tensorflow.core.framework import types_pb2
from tensorflow.python.saved_model import loader_impl

from helpers.quiet import quiet_libraries
from helpers.serving.tf_server.specs import (
    Arrays,
    Model,
    ModelInputError,
    Run,
    Signature,
    TensorSpec,
)
from helpers.tf import tf

log = logging.getLogger(__name__)

WARM_UP_ROWS = (1, 8, 32)
_REFUSALS = (
    tf.errors.InvalidArgumentError,
    tf.errors.FailedPreconditionError,
    tf.errors.OutOfRangeError,
    tf.errors.UnimplementedError,
    ValueError,
    TypeError,
)


def set_threads(intra_op: int, inter_op: int) -> None:
    """Set TensorFlow's threads, 0 for its own choice; before anything is computed."""
    tf.config.threading.set_intra_op_parallelism_threads(intra_op)
    tf.config.threading.set_inter_op_parallelism_threads(inter_op)


def load(folder: Path, version: int) -> Model:
    """Load the SavedModel in `folder` and compute once with every signature.

    Raises:
        OSError, ValueError: the folder holds no SavedModel, or a broken one.
    """
    started = time.perf_counter()
    with quiet_libraries():
        loaded = tf.saved_model.load(str(folder))
        definition = loader_impl.parse_saved_model(str(folder)).meta_graphs[0].signature_def
    signatures = {}
    for name, function in loaded.signatures.items():
        if not function.structured_input_signature[1]:
            continue
        signatures[name] = _signature(loaded, name, function, definition[name])
    if not signatures:
        raise ValueError(f"the SavedModel in {folder} has no signature with inputs")
    log.info("loaded %s in %.1f s", folder, time.perf_counter() - started)
    return Model(version, signatures, _metadata(definition))


def _signature(loaded: Any, name: str, function: Any, definition: Any) -> Signature:
    inputs = {
        key: _spec(key, tensor) for key, tensor in function.structured_input_signature[1].items()
    }
    outputs = {key: _spec(key, tensor) for key, tensor in function.structured_outputs.items()}

    def run(arrays: Arrays) -> dict[str, np.ndarray]:
        _ = loaded  # its variables live as long as it does
        results = function(**{key: tf.constant(arrays[key]) for key in inputs})
        return {key: results[key].numpy() for key in outputs}

    signature = Signature(name, inputs, outputs, _refusing(run), definition.method_name)
    _warm_up(signature)
    return signature


def _refusing(run: Run) -> Run:
    def guarded(arrays: Arrays) -> dict[str, np.ndarray]:
        try:
            return run(arrays)
        except _REFUSALS as problem:
            raise ModelInputError(_first_line(problem)) from problem

    return guarded


def _warm_up(signature: Signature) -> None:
    """Compute a few sizes: the first calls of a shape plan memory and choose kernels."""
    for rows in WARM_UP_ROWS:
        try:
            signature.run({key: _zeros(spec, rows) for key, spec in signature.inputs.items()})
        except ModelInputError as problem:  # zeros need not be an input it takes
            log.info("signature %s was not warmed up: %s", signature.name, problem)
            return


def _zeros(spec: TensorSpec, rows: int) -> np.ndarray:
    shape = spec.shape if spec.shape is not None else (None,)
    sizes = [rows if size is None and axis == 0 else size or 1 for axis, size in enumerate(shape)]
    if spec.dtype.kind == "O":
        return np.full(sizes, b"", dtype=object)
    return np.zeros(sizes, spec.dtype)


def _spec(name: str, tensor: Any) -> TensorSpec:
    dtype = np.dtype(object) if tensor.dtype == tf.string else np.dtype(tensor.dtype.as_numpy_dtype)
    shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
    type_name = types_pb2.DataType.Name(tensor.dtype.as_datatype_enum)
    return TensorSpec(name, dtype, type_name, shape)


def _metadata(definition: Any) -> dict[str, Any]:
    return {
        name: MessageToDict(
            signature,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for name, signature in definition.items()
    }


def _first_line(problem: Exception) -> str:
    text = getattr(problem, "message", None) or str(problem)
    return text.strip().partition("\n")[0][:500]
