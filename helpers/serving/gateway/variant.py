"""Which predictor served a request, its variant: how a caller pins one, and who is told.

`Seldon-Variant: canary` on a request pins it to that predictor: the traffic split is not asked, no shadow
gets a copy, and a shadow may be named itself. Each response has `Seldon-Variant` with the predictor's name
and, where it was pinned, `Seldon-Variant-Pinned: true`; a message of the seldon protocol has both in
`meta.tags`. Payload events have the extensions `variant` and `variantpinned`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import orjson

from helpers.serving.common.errors import RequestError
from helpers.serving.gateway.client import Answer, Header
from helpers.serving.gateway.intake import Intake
from helpers.serving.gateway.paths import Target
from helpers.serving.gateway.routes import Deployment, Predictor

HEADER, PINNED_HEADER = b"seldon-variant", b"seldon-variant-pinned"

_MESSAGES = ("predictions", "feedback")  # services whose answers are seldon messages


@dataclass(frozen=True, slots=True)
class Variant:
    """The predictor of a request, and whether the caller pinned the request to it."""

    predictor: Predictor
    pinned: bool = False

    @property
    def headers(self) -> list[Header]:
        """What a response has."""
        named = [(HEADER, self.predictor.name.encode())]
        return [*named, (PINNED_HEADER, b"true")] if self.pinned else named

    @property
    def extensions(self) -> dict[str, str]:
        """What a payload event has."""
        named = {"variant": self.predictor.name}
        return {**named, "variantpinned": "true"} if self.pinned else named

    def tagged(self, answer: Answer, deployment: Deployment, target: Target) -> Answer:
        """Return the answer with `meta.tags`, if it is a message of the seldon protocol."""
        if deployment.protocol != "seldon" or target.service not in _MESSAGES:
            return answer
        try:
            message = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            return answer
        if not isinstance(message, dict):
            return answer
        meta = _mapping(message.get("meta"))
        tags = {**_mapping(meta.get("tags")), "variant": self.predictor.name}
        # What the model says of it is not known to be true.
        tags.pop("variant_pinned", None)
        if self.pinned:
            tags["variant_pinned"] = True
        tagged = {**message, "meta": {**meta, "tags": tags}}
        return replace(answer, body=orjson.dumps(tagged))


def pinned(deployment: Deployment, intake: Intake, only: Predictor | None) -> Variant | None:
    """Return the variant that a request is pinned to, or None.

    Args:
        deployment: whose predictors there are.
        intake: the request's headers.
        only: the predictor that the path names, if it does.

    Raises:
        RequestError: 400, an unknown predictor, or another than the path's.
    """
    if intake.variant is None:
        return None
    found = deployment.predictor(intake.variant)
    if found is None:
        names = ", ".join(predictor.name for predictor in deployment.predictors)
        raise RequestError(
            400,
            f"Seldon-Variant: {deployment.name} has no predictor {intake.variant[:80]!r}; "
            f"it has {names}.",
        )
    if only is not None and found.name != only.name:
        raise RequestError(
            400, f"Seldon-Variant is {found.name}, but the path names the predictor {only.name}."
        )
    return Variant(found, pinned=True)


def _mapping(value: object) -> dict:
    return value if isinstance(value, dict) else {}
