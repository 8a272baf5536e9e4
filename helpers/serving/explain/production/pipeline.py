"""What becomes of an explanation between the explainer and the client, in this order:

1. *Redaction*, as soon as it is made: from here on nothing holds a sensitive value, neither a cache on another
   machine nor an audit trail, and nothing after this step can forget to mask it.
2. *Cache*. What is kept is the redacted explanation without the steps below: they are cheap, and a change of
   template or key shows at once. The key holds inputs, method, options, seed, the checksums of the explainer
   and of the model, and what redaction is set to; with redaction it is keyed, since inputs of few values can
   be found from a hash by trying. An explanation that a deadline cut short is not kept.
3. *Attribution drift* looks at it, on a hit too: it is about what clients are told.
4. *Top k* leaves the largest attributions and the sum of the others; then the *response for people* is
   made of the whole explanation, for as many features.
5. *Signature*, over all of the above.
6. *Audit*: a row of what the client gets is on disk, or in Elasticsearch, before the client gets it.

Where every option is off, the response is what the explainer wrote, byte for byte.
"""

from __future__ import annotations

import logging
import os
import socket
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from prometheus_client import CollectorRegistry

from helpers import artifacts
from helpers.errors import ArtifactError
from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.explain.methods.base import Explained, Method, Options
from helpers.serving.explain.production import attributions, people, top_k
from helpers.serving.explain.production.deadline import GRACE_SECONDS, Deadline
from helpers.serving.explain.production.keys import ENVIRONMENT, read_key
from helpers.serving.explain.production.redaction import TEXT, Redaction
from helpers.serving.explain.production.settings import ProductionSettings
from helpers.serving.payloads import write_json
from helpers.serving.storage import Location, locate

if TYPE_CHECKING:
    from helpers.serving.explain.production.attribution_drift import AttributionDrift
    from helpers.serving.explain.production.audit import AuditWriter
    from helpers.serving.explain.production.cache import ExplanationCache
    from helpers.serving.explain.production.jobs import Jobs
    from helpers.serving.explain.production.signing import Signer

log = logging.getLogger(__name__)

AUDIT_HEADER = "x-explanation-audit"
SOURCE_HEADER = "x-explanation-source"
AUDITED = 5  # features of each instance in the audit trail, where top_k is not set
AUDITED_INSTANCES = 20


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks.

    Args:
        request_id: Seldon-Puid or x-request-id.
        caller: as a proxy says, else the address.
    """

    request_id: str = ""
    caller: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request, read.

    Args:
        instances: what to explain.
        options: of the method.
        seed: of the random draws.
        seconds: its time; None for no limit.
    """

    instances: Any
    options: Options
    seed: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """An explanation that was just made; what the cache calls Fresh.

    Args:
        value: its JSON, redacted.
        keep: whether another request may get it.
    """

    value: bytes
    keep: bool = True


class Production:
    """The production options of one explain server.

    Args:
        settings: which are on.
        method: explains.
        name: of the method.
        model_name: of the explained model.
        location: the explainer's artefact.
        registry: for metrics.

    Raises:
        ServingError: a key, a file or an address that cannot be used.
    """

    def __init__(
        self,
        settings: ProductionSettings,
        *,
        method: Method,
        name: str,
        model_name: str,
        location: Location,
        registry: CollectorRegistry,
    ) -> None:
        self.settings = settings
        self.method = method
        self.name = name
        self.model_name = model_name
        self.location = location
        self.model = ModelVersion(settings.model_uri, settings.model_version)
        self.names: list[str] = []  # known once the explainer is loaded
        self.shown: list[str] = []  # the same, masked
        self.explainer_version = ""
        self.redaction = _redaction(settings)
        self.masked = frozenset(
            self.redaction.names(settings.redact_features) if self.redaction else ()
        )
        self.table = (
            people.read_table(settings.people_template) if settings.people_template else None
        )
        self.signer = _signer(settings)
        labels = {"method": name, "model_name": model_name}
        self.cache = _cache(settings, registry, labels, self.redaction)
        self.trail = _trail(settings, registry, labels)
        self.jobs = _jobs(settings, registry, labels)
        self.drift = _drift(settings, registry, labels)
        self.finisher = ThreadPoolExecutor(2, thread_name_prefix="finish")

    @property
    def finishes(self) -> bool:
        """Whether anything happens to an explanation after the cache."""
        return bool(
            self.table
            or self.settings.top_k
            or self.signer
            or self.trail
            or self.drift
            or self.settings.deadline_seconds
            or self.settings.async_results
        )

    def loaded(self) -> None:
        """Take what only a loaded explainer knows: the features' names, and its checksum.

        Raises:
            ServingError: an option names a feature that there is not.
        """
        self.names = list(self.settings.feature_names) or feature_names(self.method)
        self.shown = self.redaction.names(self.names) if self.redaction else self.names
        if self.redaction is not None and self.name == TEXT:
            self.redaction.check_words()
        elif self.redaction is not None:
            self.redaction.check(self.names)
        if self.table is not None and self.names:
            self.table.check(self.names)
        if self.cache is not None or self.trail is not None:
            self.explainer_version = _checksum(self.location)

    async def start(self) -> None:
        """Start what runs beside the requests."""
        if self.cache is not None:
            await self.cache.start()
        if self.trail is not None:
            self.trail.start()
        if self.jobs is not None:
            self.jobs.start()

    async def close(self) -> None:
        """Stop it, within limits."""
        if self.jobs is not None:
            await self.jobs.close()
        if self.cache is not None:
            await self.cache.close()
        if self.trail is not None:
            await self.trail.close()
        self.finisher.shutdown(wait=False, cancel_futures=True)

    def seed(self, instances: Any) -> int | None:
        """Return the seed of a request without one: the same for the same input where it is kept."""
        if self.cache is None:
            return None
        from helpers.serving.explain.production.cache import SEEDS

        return int(self.input_hash(instances)[:16], 16) % SEEDS

    def input_hash(self, instances: Any) -> str:
        """Return the hash of instances, keyed where they hold what must not be found by trying."""
        from helpers.serving.explain.production.cache import input_hash

        digest = input_hash(instances)
        return (
            digest if self.redaction is None else self.redaction.digest(b"input", digest.encode())
        )

    def key(self, wanted: Wanted) -> str:
        """Return the cache's key of an explanation."""
        from helpers.serving.explain.production.cache import key

        parameters: dict[str, Any] = {
            "options": wanted.options.model_dump(mode="json"),
            "names": self.names,
        }
        if self.redaction is not None:
            parameters["redacted"] = sorted(self.masked)
        made = key(
            wanted.instances,
            method=self.name,
            parameters=parameters,
            seed=wanted.seed,
            artefacts={"explainer": self.explainer_version, "model": self.model.version()},
        )
        return made if self.redaction is None else self.redaction.digest(b"key", made.encode())

    def written(self, explained: Explained, instances: Any) -> bytes:
        """Return an explanation as JSON, redacted."""
        content = write_json({"meta": explained.meta, "data": explained.data})
        if self.redaction is None:
            return content
        values = self.redaction.values(instances, self.names)
        return orjson.dumps(self.redaction.apply(orjson.loads(content), self.names, values))

    def finish(
        self, content: bytes, deadline: Deadline | None
    ) -> tuple[bytes, list[attributions.Explanation]]:
        """Return the response, and what it says of each instance; some milliseconds, not on the event loop.

        Args:
            content: a redacted explanation.
            deadline: that it was made under.
        """
        document = orjson.loads(content)
        read = attributions.read(document, self.shown)
        if self.drift is not None:
            for row in attributions.rows(document, self.shown):
                self.drift.add(row)
        changed = False
        if deadline is not None and "deadline" not in document["meta"]:
            document["meta"]["deadline"] = deadline.told()
            changed = True
        if self.settings.top_k:
            document = top_k.compress(document, self.settings.top_k, self.shown)
            changed = True
        if self.table is not None:
            document["people"] = people.for_people(
                read, self.table, self.settings.top_k, self.masked
            )
            changed = True
        if self.signer is not None:
            return self.signer.sign(document), read
        return (orjson.dumps(document) if changed else content), read

    async def audit(
        self,
        wanted: Wanted,
        asked: Asked,
        read: Sequence[attributions.Explanation],
        outcome: str,
    ) -> str | None:
        """Write a row of the audit trail and return its receipt; None where there is no trail."""
        if self.trail is None:
            return None
        from helpers.serving.explain.production.audit import Entry

        parameters = {**wanted.options.model_dump(mode="json"), "seed": wanted.seed}
        if wanted.seconds is not None:
            parameters["deadline"] = wanted.seconds
        if self.settings.top_k:
            parameters["top_k"] = self.settings.top_k
        receipt = await self.trail.record(
            Entry(
                request_id=asked.request_id,
                caller=asked.caller,
                method=self.name,
                explainer=str(self.location),
                explainer_version=self.explainer_version,
                model=self.settings.model_uri or self.model_name,
                model_version=self.model.version(),
                parameters=self._scrubbed(parameters),
                input_hash=self.input_hash(wanted.instances),
                top=self._top(read),
                outcome=outcome,
            )
        )
        return str(receipt)

    def _top(self, read: Sequence[attributions.Explanation]) -> list[tuple[str, float | None]]:
        most = self.settings.top_k or AUDITED
        return [
            (
                f"{place}: {one.condition or one.name}"
                if len(read) > 1
                else one.condition or one.name,
                one.attribution,
            )
            for place, explanation in enumerate(read[:AUDITED_INSTANCES])
            for one in explanation.features[:most]
        ]

    def _scrubbed(self, value: Any) -> Any:
        if self.redaction is None:
            return value
        if isinstance(value, Mapping):
            return {name: self._scrubbed(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._scrubbed(item) for item in value]
        return self.redaction.scrub(value) if isinstance(value, str) else value

    def refusal(self, problem: Exception, instances: Any = None) -> RequestError:
        """Return an error as a client and the log may see it, where features are redacted.

        A fault of ours is logged without what its message says, which may be a value.
        """
        assert self.redaction is not None
        values = [] if instances is None else self.redaction.values(instances, self.names)
        if isinstance(problem, RequestError):
            return RequestError(
                problem.status,
                self.redaction.refusal(problem.message, values),
                reason=problem.reason,
                headers=problem.headers,
            )
        where = "; ".join(
            f"{frame.filename}:{frame.lineno} in {frame.name}"
            for frame in traceback.extract_tb(problem.__traceback__)
        )
        log.error("fault in an explanation: %s at %s", type(problem).__name__, where)
        return RequestError(
            500, f"Internal error; the log of {self.model_name}-explainer has the details."
        )

    def reading(self, content: bytes) -> Mapping[str, float] | list[str]:
        """Return what the stability index compares: of the first instance."""
        read = attributions.read(orjson.loads(content), self.shown)
        if not read:
            raise ServingError(f"{self.name} gives nothing that could be compared.")
        features = read[0].features
        if read[0].precision is not None:
            return [one.condition or one.name for one in features]
        return {one.name: one.attribution or 0.0 for one in features}


class ModelVersion:
    """Which model is explained, looked up again when its artefact's record changes.

    Args:
        uri: of its artefact; "" for none.
        version: a name for it instead, or beside it.

    Raises:
        ServingError: the URI names no artefact that there is.
    """

    def __init__(self, uri: str, version: str = "") -> None:
        self._named = version
        self._location = None
        self._seen: tuple[int, int] | None = None
        self._checksum = ""
        if uri:
            try:
                self._location = locate(uri)
                self.version()
            except (ArtifactError, RequestError) as problem:
                raise ServingError(f"--model_uri: {problem}") from problem

    def version(self) -> str:
        """Return the checksum of its artefact and the name given to it.

        Raises:
            RequestError: 503, the artefact's record cannot be read just now.
        """
        if self._location is None:
            return self._named
        try:
            found = (self._location.folder / artifacts.RECORD).stat()
            seen = (found.st_mtime_ns, found.st_ino)
            if seen != self._seen:
                self._checksum = _checksum(self._location)
                self._seen = seen
        except (OSError, ArtifactError) as problem:
            raise RequestError(
                503, f"The record of the explained model {self._location} cannot be read."
            ) from problem
        return f"{self._named} {self._checksum}".strip()


def feature_names(method: Method) -> list[str]:
    """Return the names that a loaded method's explainer has for the features."""
    for holder in (method, getattr(method, "explainer", None)):
        names = getattr(holder, "feature_names", None)
        if names is not None and len(names):
            return [str(name) for name in names]
    return []


def _checksum(location: Location) -> str:
    return artifacts.describe(location.dataset, location.name).checksum


def _redaction(settings: ProductionSettings) -> Redaction | None:
    if not settings.redact_features:
        return None
    return Redaction(settings.redact_features, read_key("redaction_key", settings.redaction_key))


def _signer(settings: ProductionSettings) -> Signer | None:
    if not settings.signing_key:
        return None
    from helpers.serving.explain.production.signing import Key, Signer, key_id

    keys = []
    for prefix in ("", "previous_"):
        source = getattr(settings, f"{prefix}signing_key")
        if source:
            secret = read_key(f"{prefix}signing_key", source)
            given = getattr(settings, f"{prefix}signing_key_id")
            keys.append(Key(given or key_id(secret), secret))
    return Signer(keys)


def _cache(
    settings: ProductionSettings,
    registry: CollectorRegistry,
    labels: Mapping[str, str],
    redaction: Redaction | None,
) -> ExplanationCache | None:
    if not settings.caches:
        return None
    from helpers.serving.explain.production.cache import CacheSettings, ExplanationCache

    chosen = CacheSettings(
        ttl_seconds=settings.cache_ttl_seconds,
        memory_bytes=settings.cache_memory_bytes,
        redis_url=_address("cache_redis_url", settings.cache_redis_url),
        disk_folder=settings.cache_disk_folder,
        disk_bytes=settings.cache_disk_bytes,
    )
    secret = b"" if redaction is None else redaction.digest(b"cache", b"").encode()
    return ExplanationCache(chosen, registry, labels, secret)


def _trail(
    settings: ProductionSettings, registry: CollectorRegistry, labels: Mapping[str, str]
) -> AuditWriter | None:
    if not settings.audits:
        return None
    secret = read_key("audit_key", settings.audit_key) if settings.audit_key else b""
    chain = os.environ.get("HOSTNAME", "")
    if settings.audit_elasticsearch_url:
        from helpers.serving.explain.production.audit_elasticsearch import ElasticsearchTrail

        url = _address("audit_elasticsearch_url", settings.audit_elasticsearch_url)
        option = settings.audit_elasticsearch_key
        api_key = read_key("audit_elasticsearch_key", option).decode() if option else ""
        chain = chain or socket.gethostname()
        return ElasticsearchTrail(url, registry, labels, secret, chain, api_key)
    from helpers.serving.explain.production.audit import AuditTrail

    return AuditTrail(Path(settings.audit_file), registry, labels, secret, chain)


def _address(option: str, address: str) -> str:
    """Return an address that may stand in the environment, since it can hold a password."""
    if not address.startswith(ENVIRONMENT):
        return address
    name = address.removeprefix(ENVIRONMENT)
    if not os.environ.get(name):
        raise ServingError(f"--{option}: the environment has no {name}.")
    return os.environ[name]


def _jobs(
    settings: ProductionSettings, registry: CollectorRegistry, labels: Mapping[str, str]
) -> Jobs | None:
    if not settings.async_results:
        return None
    from helpers.serving.explain.production.jobs import Jobs

    return Jobs(
        registry,
        labels,
        max_jobs=settings.async_results,
        keep_seconds=settings.async_keep_seconds,
        # The explanation's own deadline comes first, and with it the best answer so far.
        job_seconds=settings.async_seconds + 5 * GRACE_SECONDS,
    )


def _drift(
    settings: ProductionSettings, registry: CollectorRegistry, labels: Mapping[str, str]
) -> AttributionDrift | None:
    if not settings.attribution_window:
        return None
    from helpers.serving.explain.production.attribution_drift import (
        AttributionDrift,
        DriftSettings,
    )

    chosen = DriftSettings(
        reference=settings.attribution_reference,
        window=settings.attribution_window,
        p_val=settings.attribution_p_val,
    )
    return AttributionDrift(chosen, registry, labels)
