"""What a trigger is, as Knative's CRD has it, and when a failed delivery is tried again."""

from __future__ import annotations

import datetime
import enum
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from helpers.serving.common.events import CloudEvent

# The defaults of Knative's multi-tenant channel broker.
RETRIES = 10
BACKOFF_DELAY = datetime.timedelta(seconds=0.2)
TIMEOUT = datetime.timedelta(seconds=60)
LONGEST_WAIT = 3600.0  # seconds; 2 to the power of many retries would be years

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
Url = Annotated[str, Field(pattern=r"^https?://[^\s/?#]+[^\s]*$", max_length=2000)]
_ATTRIBUTE = re.compile(r"[a-z0-9]{1,64}")


class Backoff(enum.StrEnum):
    """How the wait grows from one retry to the next."""

    linear = "linear"
    exponential = "exponential"


class Delivery(BaseModel):
    """How hard a trigger tries; durations are ISO 8601, e.g. `PT0.2S`."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    retry: int = Field(RETRIES, ge=0, le=100)
    backoff_policy: Backoff = Field(Backoff.exponential, alias="backoffPolicy")
    backoff_delay: datetime.timedelta = Field(BACKOFF_DELAY, alias="backoffDelay")
    timeout: datetime.timedelta = Field(TIMEOUT)
    dead_letter_sink: Url | None = Field(None, alias="deadLetterSink")
    # Not in Knative's CRD; its Kafka broker has the choice as an annotation.
    order: Literal["unordered", "ordered"] = "unordered"

    @field_validator("backoff_delay", "timeout")
    @classmethod
    def _sensible(cls, value: datetime.timedelta) -> datetime.timedelta:
        if not datetime.timedelta(0) < value <= datetime.timedelta(hours=1):
            raise ValueError("must be more than PT0S and at most PT1H")
        return value

    def wait(self, failures: int) -> float:
        """Seconds to wait after the `failures`-th failed attempt, counted from 1."""
        delay = self.backoff_delay.total_seconds()
        factor = failures if self.backoff_policy is Backoff.linear else 2.0 ** (failures - 1)
        return min(delay * factor, LONGEST_WAIT)


class Trigger(BaseModel):
    """Events of one broker that match `filter` go to `subscriber`."""

    model_config = ConfigDict(extra="forbid")

    namespace: Name
    name: Name
    broker: Name
    filter: dict[str, str] = Field(default_factory=dict)
    subscriber: Url
    delivery: Delivery = Field(default_factory=Delivery)

    @field_validator("filter")
    @classmethod
    def _attribute_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not _ATTRIBUTE.fullmatch(name):
                raise ValueError(f"{name!r} is no attribute name: lower-case letters and digits")
        return value

    def matches(self, event: CloudEvent) -> bool:
        """Whether every attribute of the filter is there and equal; "" takes any value."""
        for name, wanted in self.filter.items():
            value = event.get(name)
            if not value or (wanted and value != wanted):
                return False
        return True
