"""The audit trail's index in Elasticsearch: its address, its rows, and what goes wrong with it."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any

import httpx

from helpers.serving.common.errors import ServingError
from helpers.serving.explain.production import audit
from helpers.serving.explain.production.audit import COLUMNS

TIMEOUT = httpx.Timeout(2.0, connect=1.0)  # seconds, of one call; a row has audit.WAIT_SECONDS
INDEX = re.compile(r"explanation-audit-[a-z0-9._-]{1,200}")  # index_patterns of the template
SEARCH = "_search?allow_partial_search_results=false"  # a shard that is away is no missing row


class BusyError(Exception):
    """Elasticsearch asks to try again."""


# The last ones are an answer that is not Elasticsearch's.
PROBLEMS = (
    TimeoutError,
    httpx.HTTPError,
    BusyError,
    AttributeError,
    LookupError,
    ValueError,
    TypeError,
)


def query(chain: str, size: int, order: str) -> dict[str, Any]:
    """Return the search for rows of a chain, by number."""
    # The hash, so that a row with the number of another is not skipped between two pages.
    sort = [{"seq": {"order": order}}, {"hash": {"order": order}}]
    return {"size": size, "query": {"term": {"chain": {"value": chain}}}, "sort": sort}


def digest_of(found: Mapping[str, Any], secret: bytes) -> str | None:
    """Return the hash that a document must have; None where it is none of a row."""
    try:
        row = dict(found)
        row["time"] = row.pop("@timestamp")
        row["parameters"] = audit.json_text(row["parameters"], "parameters")
        top = [[one["feature"], one["attribution"]] for one in row["top"]]
        row["top"] = audit.json_text(top, "top attributions")
        return audit.row_hash([row[column] for column in COLUMNS], secret)
    except (LookupError, TypeError, ValueError, ServingError):
        return None


def row_id(chain: str, seq: int) -> str:
    """Return the id of a row's document."""
    return f"{chain}:{seq}"


def why(problem: Exception) -> str:
    """Say what went wrong without what may be an address with a password."""
    if isinstance(problem, BusyError):
        return str(problem)
    if isinstance(problem, httpx.HTTPStatusError):
        return f"Elasticsearch answers {problem.response.status_code}"
    if isinstance(problem, httpx.HTTPError):
        return f"Elasticsearch cannot be reached ({type(problem).__name__})"
    if isinstance(problem, TimeoutError):
        return f"Elasticsearch does not take it within {audit.WAIT_SECONDS:g} s"
    return "the answer is not one of Elasticsearch"


def options(url: str, api_key: str) -> dict[str, Any]:
    """Return what a client of an index is made with: its address holds no password any more."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    index = parsed.path.rstrip("/").rpartition("/")[2]
    if parsed.scheme not in ("http", "https") or not parsed.host or not INDEX.fullmatch(index):
        raise ServingError(
            "--audit_elasticsearch_url is http(s)://host:port/<index>, the index explanation-audit-… in "
            "small letters, or env:<NAME> of such an address."
        )
    auth = (parsed.username, parsed.password) if parsed.username else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if parsed.scheme == "https":
        context.load_default_certs()  # SSL_CERT_FILE names the authority of a cluster's own
    return {
        "base_url": parsed.copy_with(userinfo=b"", query=None, fragment=None),
        "auth": auth,
        "headers": {"authorization": f"ApiKey {api_key}"} if api_key else {},
        "timeout": TIMEOUT,
        "trust_env": False,
        "verify": context,
    }
