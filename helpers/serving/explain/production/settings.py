"""The options that production adds to the explain server: keys of `explainer.config`, every one off by default.

    explainer:
      config:
        top_k: "3"
        people_template: /etc/explainer/terms.yaml
        redact_features: home_region, age
        redaction_key: env:REDACTION_KEY          # from a Secret
        signing_key: file:/etc/keys/signing

A key that there is not, a value that cannot be, a file that cannot be read and an option without the one it
needs stop the server at start, with a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from helpers.serving.common.errors import ServingError
from helpers.serving.explain.production.attributions import ATTRIBUTING

GLOBAL = ("ALE",)  # methods that explain the model, not an answer


def _names(value: Any) -> Any:
    """Read `a, b` or, for names with a comma in them, a JSON list."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [name.strip() for name in value.split(",") if name.strip()]


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class ProductionSettings(BaseModel):
    """What production asks of explanations.

    Args:
        feature_names: of the features, in order, where the explainer's artefact does not hold them.
        people_template: file of the table that sentences are made of, or `env:<NAME>`; see `people`.
        top_k: attributions that a response keeps.
        redact_features: names of sensitive features; see `redaction`.
        redaction_key: `file:<path>` or `env:<NAME>`, keys the names that stand for theirs.
        signing_key: `file:<path>` or `env:<NAME>`; see `signing`.
        signing_key_id: stands in the response; made of the key by default.
        previous_signing_key, previous_signing_key_id: signs too, while the key is changed.
        model_uri: the explained model's artefact: its checksum is part of the cache's key, so a new model
            never gets an old explanation. Needed by the cache where the model is asked over HTTP.
        model_version: the same where the model is no artefact of this repository.
        cache_memory_bytes, cache_redis_url, cache_disk_folder: each turns a level of the cache on; the
            address may be `env:<NAME>`, since it can hold a password.
        cache_disk_bytes, cache_ttl_seconds: its limits.
        audit_file: the audit trail, a file of SQLite.
        audit_elasticsearch_url: the audit trail in Elasticsearch instead, `https://host:9200/<index>`, or
            `env:<NAME>`, since it can hold a password; see `audit_elasticsearch`.
        audit_elasticsearch_key: `file:<path>` or `env:<NAME>`, an API key of Elasticsearch, encoded.
        audit_key: keys the trail's hashes.
        audit_caller_header: names who asks, set by a proxy that has made sure of it.
        deadline_seconds: for each explanation, a request's own `deadline` may be shorter: then comes the
            best answer so far, or 504.
        async_results: explanations that are pending or kept for their clients; asked for with
            the header `Prefer: respond-async`.
        async_keep_seconds, async_seconds: how long a result is kept, and may take.
        stability_share: of the explanations made that are made again with other seeds, while nobody waits.
        stability_seeds: how many other seeds.
        attribution_window: explanations whose attributions are tested against those of a reference.
        attribution_reference: the first so many explanations are that reference.
        attribution_p_val: the probability that a window is called drifted that is not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    feature_names: Names = ()
    people_template: str = ""
    top_k: int | None = Field(None, ge=1)
    redact_features: Names = ()
    redaction_key: str = ""
    signing_key: str = ""
    signing_key_id: str = Field("", pattern=r"^[\w.:-]{0,64}$")
    previous_signing_key: str = ""
    previous_signing_key_id: str = Field("", pattern=r"^[\w.:-]{0,64}$")
    model_uri: str = ""
    model_version: str = ""
    cache_memory_bytes: int = Field(0, ge=0)
    cache_redis_url: str = ""
    cache_disk_folder: str = ""
    cache_disk_bytes: int = Field(256 * 2**20, ge=2**20)
    cache_ttl_seconds: float = Field(3600.0, gt=0)
    audit_file: str = ""
    audit_elasticsearch_url: str = ""
    audit_elasticsearch_key: str = ""
    audit_key: str = ""
    audit_caller_header: str = Field("x-forwarded-user", pattern=r"^[A-Za-z0-9-]{1,64}$")
    deadline_seconds: float | None = Field(None, gt=0, le=3600)
    async_results: int = Field(0, ge=0, le=10_000)
    async_keep_seconds: float = Field(600.0, gt=0, le=86_400)
    async_seconds: float = Field(900.0, gt=0, le=86_400)
    stability_share: float = Field(0.0, ge=0, le=1)
    stability_seeds: int = Field(3, ge=1, le=20)
    attribution_window: int | None = Field(None, ge=20, le=100_000)
    attribution_reference: int = Field(500, ge=20, le=100_000)
    attribution_p_val: float = Field(0.01, gt=0, lt=1)

    @property
    def caches(self) -> bool:
        """Whether any level of the cache is on."""
        return bool(self.cache_memory_bytes or self.cache_redis_url or self.cache_disk_folder)

    @property
    def audits(self) -> bool:
        """Whether there is an audit trail."""
        return bool(self.audit_file or self.audit_elasticsearch_url)


# An option that does nothing without another: (option, needed).
_NEEDS = (
    ("redact_features", "redaction_key"),
    ("redaction_key", "redact_features"),
    ("signing_key_id", "signing_key"),
    ("previous_signing_key", "signing_key"),
    ("previous_signing_key_id", "previous_signing_key"),
    ("audit_elasticsearch_key", "audit_elasticsearch_url"),
)
# Options that only some methods can honour.
_ATTRIBUTIONS_ONLY = ("top_k", "attribution_window")


def read_settings(given: Mapping[str, Any], method: str, asks_model: bool) -> ProductionSettings:
    """Return the settings of a command line.

    Args:
        given: option -> its text; an empty text leaves it off.
        method: the explanation method.
        asks_model: whether the model is asked over HTTP.

    Raises:
        ServingError: a value that cannot be, or an option that would do nothing.
    """
    given = {name: value for name, value in given.items() if value != ""}
    try:
        settings = ProductionSettings.model_validate(given)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        value = "" if name.endswith("key") else f"={first['input']}"
        reason = first["msg"].removeprefix("Value error, ")
        raise ServingError(f"--{name}{value}: {reason}.") from problem
    for option, needed in _NEEDS:
        if getattr(settings, option) and not getattr(settings, needed):
            raise ServingError(f"--{option} needs --{needed}.")
    if settings.audit_file and settings.audit_elasticsearch_url:
        raise ServingError(
            "--audit_file and --audit_elasticsearch_url: the audit trail is kept in one place; choose one."
        )
    if settings.audit_key and not settings.audits:
        raise ServingError("--audit_key needs --audit_file or --audit_elasticsearch_url.")
    for option in _ATTRIBUTIONS_ONLY:
        if getattr(settings, option) and method not in ATTRIBUTING:
            raise ServingError(
                f"--{option} is for {', '.join(ATTRIBUTING)}: {method} gives no attributions."
            )
    if method in GLOBAL and settings.people_template:
        raise ServingError(
            f"--people_template: {method} explains the whole model; there is no answer to put into words."
        )
    if method in GLOBAL and settings.stability_share:
        raise ServingError(f"--stability_share: {method} draws nothing at random.")
    if method == "AnchorImages" and settings.redact_features:
        raise ServingError("--redact_features: the parts of an image have no names to redact.")
    if settings.caches and asks_model and not (settings.model_uri or settings.model_version):
        raise ServingError(
            "--cache_*: a new model must not get an old explanation, so the cache needs --model_uri, "
            "the storage URI of the explained model, or --model_version."
        )
    return settings
