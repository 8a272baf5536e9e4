"""A SavedModel behind seldon-core-microservice: TENSORFLOW_SERVER over the seldon protocol.

In a cluster Seldon's own proxy (seldonio/tfserving-proxy) stands here and passes every message on to
TensorFlow Serving in the same pod. Here both are one process: a message becomes the same body of the
predict API, and `helpers.serving.tf_server` reads it, computes and writes the answer.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
from seldon_core.user_model import SeldonComponent

from helpers import artifacts
from helpers.errors import ArtifactError
from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.seldon_model.errors import errors
from helpers.serving.storage import locate
from helpers.serving.tf_server.results import write_result
from helpers.serving.tf_server.specs import ModelInputError
from helpers.serving.tf_server.tensors import DEFAULT_SIGNATURE, PredictReader
from helpers.serving.tf_server.versions import newest_version


class TfServingProxy(SeldonComponent):
    """The newest SavedModel of an artefact.

    Args:
        model_uri: of the artefact, which is checked at once and loaded in the worker.
        signature_name: what a prediction calls.
        proxied: the other parameters of Seldon's proxy (rest_endpoint, grpc_endpoint, model_name,
            model_input, model_output): where it finds TensorFlow Serving, which is in here.

    Raises:
        ArtifactError: the URI or the artefact is wrong, or a parameter is unknown.
    """

    model_error_handler = errors

    def __init__(
        self, model_uri: str, signature_name: str = DEFAULT_SIGNATURE, **proxied: str
    ) -> None:
        super().__init__()
        known = {"rest_endpoint", "grpc_endpoint", "model_name", "model_input", "model_output"}
        unknown = sorted(proxied.keys() - known)
        if unknown:
            raise ArtifactError(
                f"The parameter {unknown[0]!r} is unknown to Seldon's proxy; it has signature_name, "
                f"{', '.join(sorted(known))}."
            )
        self._location = locate(model_uri)
        self._signature_name = signature_name
        self._lock = threading.Lock()
        self._reader: PredictReader | None = None
        artifacts.verify(self._location.dataset, self._location.name)

    def load(self) -> None:
        """Load the model; called once in each worker.

        Raises:
            ArtifactError: it cannot be loaded, or has no such signature.
        """
        artifacts.verify(self._location.dataset, self._location.name)
        from helpers.serving.tf_server import model  # computes while it loads: only in the worker

        try:
            loaded = model.load(*reversed(newest_version(self._location.folder)))
        except (AttributeError, NotImplementedError, OSError, ServingError, ValueError) as problem:
            # The first two the program would take no notice of.
            raise ArtifactError(f"{self._location} cannot serve: {problem}.") from problem
        if self._signature_name not in loaded.signatures:
            raise ArtifactError(
                f"{self._location} has no signature {self._signature_name!r}; it has "
                f"{', '.join(loaded.signatures)}."
            )
        self._reader = PredictReader(loaded.signatures)

    def predict(
        self, features: Any, names: Iterable[str], meta: dict[str, Any] | None = None
    ) -> Any:
        """Return what the model says to `features`.

        Args:
            features: one row each; or, of `jsonData`, a whole body of the predict API, whose answer is
                returned as it is.

        Raises:
            RequestError: 400, they are no input of the model.
        """
        whole = isinstance(features, dict)
        if whole:
            body = orjson.dumps(features)
        elif isinstance(features, np.ndarray):
            plain = features.dtype.kind in "biuf"
            rows = np.ascontiguousarray(features) if plain else features.tolist()
            told = {"instances": rows}
            if self._signature_name != DEFAULT_SIGNATURE:
                told["signature_name"] = self._signature_name
            body = orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)
        else:
            raise RequestError(400, "Send data.ndarray, data.tensor or jsonData.")
        answer = json.loads(self._answer(body))
        if whole:
            return answer
        predictions = np.array(answer["predictions"])
        return predictions[None] if predictions.ndim == 1 else predictions  # as the proxy does

    def _answer(self, body: bytes) -> bytes:
        assert self._reader is not None
        with self._lock:  # the reader is not for several threads; the model is
            asked = self._reader.read(body)
        try:
            return write_result(asked.signature.run(asked.inputs), asked.row_form)
        except ModelInputError as problem:
            raise RequestError(400, f"The model refuses the input: {problem}") from problem
