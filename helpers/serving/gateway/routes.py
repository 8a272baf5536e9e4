"""Which deployments the gateway serves, and where their servers listen.

A `RouteTable` never changes; `Routes` holds the present one and swaps it whole. A request that is
under way keeps the table it began with.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from helpers.serving.common.errors import ServingError

Protocol = Literal["seldon", "tensorflow", "v2"]

MAX_IN_FLIGHT = 64  # requests under way at one predictor
EXPLAINER_SUFFIX = "-explainer"

_DNS_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_MODEL_NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$"

DnsName = Annotated[str, StringConstraints(pattern=_DNS_NAME)]
ModelName = Annotated[str, StringConstraints(pattern=_MODEL_NAME)]


def _is_base(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("must be http://host:port, without a path")
    _ = parts.port
    return url.rstrip("/")


def _is_target(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not re.fullmatch(r"[!-~]+", url):
        raise ValueError("must be an http:// address")
    _ = parts.port
    return url


BaseUrl = Annotated[str, AfterValidator(_is_base)]
TargetUrl = Annotated[str, AfterValidator(_is_target)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Logger(_Strict):
    """Where payload events go, and which: the CRD's `logger`."""

    url: TargetUrl
    mode: Literal["all", "request", "response"] = "all"


class Predictor(_Strict):
    """One predictor with its single model.

    Args:
        name: the predictor's name.
        model: the graph node's name, which is the model's name on its server.
        url: the model server, `http://host:port`.
        image, image_version: of the model's container, for the metrics.
        version: the predictor's `version` annotation, for the metrics.
        traffic: percent; those of all predictors but the shadow add up to 100.
        shadow: gets a copy of each request; its answers are dropped.
        logger: payload events; None sends none.
        takes_feedback: whether its server has the seldon protocol's `/send-feedback`.
        explainer: the explainer's server; None has none.
        timeout_seconds: limit of one call of the model.
        explainer_timeout_seconds: limit of one explanation.
        max_in_flight: requests under way at once, at the model and as many at the explainer; more are
            refused with 503. What waits, waits at the model's server: there is no queue before it.
    """

    name: DnsName
    model: ModelName
    url: BaseUrl
    image: str = ""
    image_version: str = ""
    version: str = ""
    traffic: int = Field(default=0, ge=0, le=100)
    shadow: bool = False
    logger: Logger | None = None
    takes_feedback: bool = True
    explainer: BaseUrl | None = None
    timeout_seconds: float = Field(default=60.0, gt=0)
    explainer_timeout_seconds: float = Field(default=600.0, gt=0)
    max_in_flight: int = Field(default=MAX_IN_FLIGHT, ge=1)


class Deployment(_Strict):
    """One SeldonDeployment."""

    namespace: DnsName
    name: DnsName
    protocol: Protocol
    predictors: tuple[Predictor, ...] = Field(min_length=1)

    _serving: tuple[Predictor, ...] = PrivateAttr(default=())
    _shadow: Predictor | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [predictor.name for predictor in self.predictors]
        if len(set(names)) != len(names):
            raise ValueError("two predictors have the same name")
        shadows = [predictor for predictor in self.predictors if predictor.shadow]
        serving = [predictor for predictor in self.predictors if not predictor.shadow]
        if len(shadows) > 1:
            raise ValueError("at most one predictor may be a shadow")
        if not serving:
            raise ValueError("the only predictor cannot be a shadow")
        total = sum(predictor.traffic for predictor in serving)
        if total != 100 and not (len(serving) == 1 and total == 0):
            raise ValueError(f"the traffic of the predictors adds up to {total}, not 100")
        self._serving = tuple(serving)
        self._shadow = shadows[0] if shadows else None
        return self

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name

    @property
    def serving(self) -> tuple[Predictor, ...]:
        """The predictors whose answers clients get."""
        return self._serving

    @property
    def shadow(self) -> Predictor | None:
        """The predictor that gets copies."""
        return self._shadow

    def predictor(self, name: str) -> Predictor | None:
        """Return the predictor called `name`, or None."""
        for predictor in self.predictors:
            if predictor.name == name:
                return predictor
        return None


class RouteTable(_Strict):
    """All deployments at one time.

    Args:
        revision: anything the writer chooses; `/ready` says which one is in use.
    """

    revision: str = ""
    deployments: tuple[Deployment, ...] = ()

    _by_key: dict[tuple[str, str], Deployment] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _index(self) -> Self:
        self._by_key = {deployment.key: deployment for deployment in self.deployments}
        if len(self._by_key) != len(self.deployments):
            raise ValueError("two deployments have the same namespace and name")
        return self

    def deployment(self, namespace: str, name: str) -> Deployment | None:
        """Return the deployment, or None."""
        return self._by_key.get((namespace, name))

    def explained(self, namespace: str, name: str) -> Deployment | None:
        """Return the deployment whose explainer is called `name`, `<deployment>-explainer`."""
        if not name.endswith(EXPLAINER_SUFFIX):
            return None
        return self._by_key.get((namespace, name.removesuffix(EXPLAINER_SUFFIX)))


class Routes:
    """The present route table."""

    def __init__(self, table: RouteTable | None = None) -> None:
        self._table = table or RouteTable()

    @property
    def table(self) -> RouteTable:
        """The table for a request that begins now."""
        return self._table

    def replace(self, table: RouteTable) -> None:
        """Use `table` for every request from now on; those under way are not touched."""
        self._table = table


def read_table(path: Path) -> RouteTable:
    """Return the table in the JSON file `path`.

    Raises:
        ServingError: the file cannot be read, or a field is wrong; the message names it.
    """
    try:
        content = orjson.loads(path.read_bytes())
        return RouteTable.model_validate(content)
    except OSError as problem:
        raise ServingError(f"The routes {path} cannot be read: {problem.strerror}.") from problem
    except orjson.JSONDecodeError as problem:
        raise ServingError(f"The routes {path} are not JSON: {problem}.") from problem
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the table"
        raise ServingError(f"The routes {path} are wrong at {where}: {first['msg']}.") from problem
