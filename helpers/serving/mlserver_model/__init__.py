"""A scikit-learn model behind mlserver, the v2 protocol: mlserver-sklearn's runtime, and a checksum.

`implementation` of a model-settings.json; its `uri` names an artefact.
"""

from __future__ import annotations

from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver_sklearn import SKLearnModel as Unchecked

from helpers import artifacts
from helpers.serving.storage import locate


class SKLearnModel(Unchecked):
    """mlserver_sklearn.SKLearnModel, which loads nothing whose checksum differs."""

    async def load(self) -> bool:
        """Check the artefact, then load its `model.joblib`.

        Raises:
            ArtifactError: the URI or the artefact is wrong.
        """
        parameters = self._settings.parameters
        location = locate((parameters and parameters.uri) or "")
        artifacts.verify(location.dataset, location.name)
        return await super().load()

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a request.

        Raises:
            InferenceError: 400, the model does not take it.
        """
        try:
            return await super().predict(payload)
        except (TypeError, ValueError) as problem:
            raise InferenceError(str(problem)) from problem
