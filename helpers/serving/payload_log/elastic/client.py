"""Calls of Elasticsearch: bounded, and with errors that hold no password.

They are eight, over the HTTP client that is in the lock. The official client, which is not, is worth
its place where there are several nodes to choose from.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from helpers.serving.common.errors import RequestError, ServingError

TIMEOUT = httpx.Timeout(10.0, connect=2.0)  # seconds
CONNECTIONS = 16
BUSY = (429, 502, 503, 504)


class UnavailableError(RequestError):
    """Elasticsearch did not do it now; whoever sent the event is to send it again.

    Args:
        why: completes "The payload log's Elasticsearch …".
        lost: it may be another one, or none, when it answers again.
    """

    def __init__(self, why: str, lost: bool = False) -> None:
        super().__init__(
            503, f"The payload log's Elasticsearch {why}.", headers={"retry-after": "1"}
        )
        self.why = why
        self.lost = lost


class Client:
    """One Elasticsearch.

    Args:
        url: `http(s)://[user:password@]host:port`; user and password are sent and never told.
        api_key: encoded, as Elasticsearch gives it; in place of a user.
        transport: for tests; the network by default.

    Raises:
        ServingError: the URL is none.
    """

    def __init__(
        self, url: str, api_key: str = "", transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ServingError(
                "PAYLOAD_LOG_ELASTICSEARCH_URL (--elasticsearch-url) is http(s)://host:port of Elasticsearch."
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if parsed.scheme == "https":
            context.load_default_certs()  # SSL_CERT_FILE names the authority of a cluster's own
        bare = parsed.copy_with(userinfo=b"", query=None, fragment=None)
        self.address = str(bare).rstrip("/")
        self._client = httpx.AsyncClient(
            base_url=bare,
            auth=(parsed.username, parsed.password) if parsed.username else None,
            headers={"authorization": f"ApiKey {api_key}"} if api_key else {},
            timeout=TIMEOUT,
            limits=httpx.Limits(max_connections=CONNECTIONS),
            trust_env=False,
            verify=context,
            transport=transport,
        )

    async def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        expected: Sequence[int] = (200,),
        seconds: float | None = None,
    ) -> tuple[int, Any]:
        """Return status and parsed answer.

        Raises:
            UnavailableError: no answer, not in time, not one of Elasticsearch, or a status that was
                not expected.
        """
        try:
            answer = await self._client.request(
                method,
                path,
                json=json,
                content=content,
                headers=headers,
                timeout=TIMEOUT if seconds is None else httpx.Timeout(seconds, connect=2.0),
            )
        except httpx.TimeoutException as problem:
            raise UnavailableError(f"at {self.address} does not answer in time", True) from problem
        except httpx.HTTPError as problem:
            raise UnavailableError(
                f"at {self.address} cannot be reached ({type(problem).__name__})", True
            ) from problem
        status = answer.status_code
        if status not in expected:
            # Busy is the same Elasticsearch a little later; anything else may be none at all.
            raise UnavailableError(
                f"at {self.address} answers {method} {path.partition('?')[0]} with {status}"
                f"{_reason(answer)}",
                status not in BUSY,
            )
        try:
            # Too large is answered before anything is read, without a body.
            return status, answer.json() if status != 413 else {"error": "it is too large"}
        except ValueError as problem:
            raise UnavailableError(f"at {self.address} answers what is not JSON", True) from problem

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _reason(answer: httpx.Response) -> str:
    try:
        error = answer.json()["error"]
        return f": {error['type']}: {error['reason']}"[:300]
    except (ValueError, LookupError, TypeError):
        return ""
