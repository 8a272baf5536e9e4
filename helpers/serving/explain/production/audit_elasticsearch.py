"""The audit trail in Elasticsearch 8: one document for each explanation, and one chain for each replica.

    trail = ElasticsearchTrail("https://host:9200/explanation-audit-credit", registry, labels, secret, "pod-1")

    verify("https://host:9200/explanation-audit-credit", "pod-1", secret)

PUT the index template first (manifests/README.md); an index made without it is refused. A document holds what a
row of `audit.AuditTrail` holds, with the same hash; its number counts within its chain. Its id is chain and
number and it is created, never indexed: a second write of a row is a conflict, so a write without an answer
can be sent again. Where the conflict is with another row, another process writes to this chain, and this one
goes on behind it. After any failure the end of the chain is read anew.

Elasticsearch itself does not stop who may write from changing a document: give the server an API key with only
`create_doc`, `create_index`, `maintenance`, `read` and `view_index_metadata` on the index. `verify` finds a row
that was changed, removed or inserted; a chain whose end was cut off shows only by a receipt.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx
from prometheus_client import CollectorRegistry
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.explain.production import audit
from helpers.serving.explain.production.audit import GENESIS, Entry, Receipt, Verdict
from helpers.serving.explain.production.audit_index import (
    PROBLEMS,
    SEARCH,
    BusyError,
    digest_of,
    options,
    query,
    row_id,
    why,
)

log = logging.getLogger(__name__)

ATTEMPTS = 3  # of one call, and of one row where another process writes to the chain
PAGE = 1000  # rows that `verify` reads at once
BUSY = (429, 502, 503, 504)


class ElasticsearchTrail:
    """An AuditWriter in an index of Elasticsearch.

    Args:
        url: of the index; a user and password in it are sent as such and never logged.
        registry: for its metrics.
        labels: of every metric.
        secret: keys the hashes.
        chain: names what writes.
        api_key: encoded, as Elasticsearch gives it.

    Raises:
        ServingError: the URL is none of an index that the template is for.
    """

    def __init__(
        self,
        url: str,
        registry: CollectorRegistry,
        labels: Mapping[str, str],
        secret: bytes = b"",
        chain: str = "",
        api_key: str = "",
    ) -> None:
        self._client = httpx.AsyncClient(**options(url, api_key))
        self._index = str(self._client.base_url).rstrip("/")
        self._secret = secret
        self._chain = audit.clipped(chain)
        self._head: Receipt | None = None  # None: to be read
        self._lock = asyncio.Lock()
        self._opening: asyncio.Task[None] | None = None
        self._pending = 0
        self._records, self._failures = audit.counters(registry, labels)

    def start(self) -> None:
        """Begin to read the end of the chain; called on the event loop."""
        self._opening = asyncio.create_task(self._open())

    async def record(self, entry: Entry) -> Receipt:
        """Add a row, and return once Elasticsearch has it durably.

        A row that is refused here for want of an answer may still be added.

        Raises:
            RequestError: 503, it cannot be written, or not in time.
        """
        row = audit.row_of(entry, self._chain)
        self._pending += 1
        try:
            if self._pending > audit.PENDING:
                raise audit.unavailable(f"{audit.PENDING} records wait for it already")
            async with self._turn():
                receipt = await self._append(row)
        except RequestError:
            self._failures.inc()
            raise
        finally:
            self._pending -= 1
        self._records.inc()
        return receipt

    async def close(self) -> None:
        """Close the connections."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self._client.aclose()

    async def _open(self) -> None:
        try:
            async with self._turn():
                self._head = self._head or await self._end()
        except RequestError as problem:
            log.warning("%s It is tried again with the next explanation.", problem.message)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One at a time, and within limits."""
        try:
            async with asyncio.timeout(audit.WAIT_SECONDS), self._lock:
                yield
        except PROBLEMS as problem:
            raise audit.unavailable(why(problem)) from None

    async def _append(self, row: tuple[Any, ...]) -> Receipt:
        for _ in range(ATTEMPTS):
            head, self._head = self._head or await self._end(), None  # unknown until it is there
            found = audit.document((head.seq + 1, *row, head.hash, ""))
            found["hash"] = digest_of(found, self._secret)
            name = quote(row_id(self._chain, head.seq + 1), safe="")
            answer = await self._call("PUT", f"_create/{name}", found, (201, 409))
            if answer.status_code == 409:  # realtime, unlike a search
                answer = await self._call("GET", f"_doc/{name}", None, (200, 404))
                if answer.json().get("_source", {}).get("hash") != found["hash"]:
                    continue  # another process writes to this chain
            self._head = Receipt(head.seq + 1, found["hash"])
            return self._head
        raise audit.unavailable(f"other processes write to its chain {self._chain}")

    async def _end(self) -> Receipt:
        """Return the last row of the chain, which may be none yet."""
        answer = await self._call("GET", "_mapping", None, (200, 404))
        if answer.status_code == 404:
            # 400: another replica has just made it.
            await self._call("PUT", self._index, None, (200, 400))
            answer = await self._call("GET", "_mapping", None, (200,))
        for made in answer.json().values():
            fields = made["mappings"].get("properties", {})
            if fields.get("chain", {}).get("type") != "keyword":
                raise audit.unavailable(
                    "its index was made without the index template; see manifests/README.md"
                )
        await self._call("POST", "_refresh", None, (200,))
        answer = await self._call("POST", SEARCH, query(self._chain, 1, "desc"), (200,))
        hits = answer.json()["hits"]["hits"]
        if not hits:
            log.info("audit trail: chain %s is begun", self._chain)
            return Receipt(0, GENESIS)
        last = hits[0]["_source"]
        log.info("audit trail: chain %s goes on after row %d", self._chain, last["seq"])
        return Receipt(last["seq"], last["hash"])

    async def _call(
        self, method: str, path: str, content: Any, expected: Sequence[int]
    ) -> httpx.Response:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type((httpx.TransportError, BusyError)),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            reraise=True,
        ):
            with attempt:
                answer = await self._client.request(method, path, json=content)
                if answer.status_code in BUSY:
                    raise BusyError(f"Elasticsearch answers {answer.status_code}")
        if answer.status_code not in expected:
            raise audit.unavailable(f"Elasticsearch answers {answer.status_code}")
        return answer


def verify(
    url: str,
    chain: str,
    secret: bytes = b"",
    receipt: Receipt | None = None,
    api_key: str = "",
) -> Verdict:
    """Check every row of a chain against the one before it; it may be written to meanwhile.

    Args:
        url: of the index.
        chain: which.
        secret: that it was written with.
        receipt: of a row that must be there.
        api_key: of who may read and refresh the index.

    Raises:
        ServingError: the chain cannot be read.
    """
    previous, rows, at_receipt = GENESIS, 0, None
    for seq, name, found in _rows(url, chain, api_key):
        if seq > rows + 1:
            return audit.broken(rows, rows + 1, "is missing")
        if seq <= rows or name != row_id(chain, seq):
            return audit.broken(rows, seq, "was inserted: its id is not the one of its number")
        digest = digest_of(found, secret)
        told = str(found.get("hash")).encode()
        if digest is None or not hmac.compare_digest(digest.encode(), told):
            return audit.broken(rows, seq, "was changed, or written with another key")
        if found["previous"] != previous:
            return audit.broken(rows, seq, "does not follow the row before it")
        previous, rows = digest, seq
        if receipt is not None and receipt.seq == seq:
            at_receipt = digest
    if receipt is not None and at_receipt is None:
        return audit.broken(rows, rows + 1, f"is missing, up to {receipt.seq} of the receipt")
    if receipt is not None and at_receipt != receipt.hash:
        return audit.broken(rows, receipt.seq, "is not the one of the receipt")
    return Verdict(True, rows, None, f"All {rows} rows of chain {chain} are as they were written.")


def _rows(url: str, chain: str, api_key: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield number, id and document of a chain's rows, by number."""
    try:
        with httpx.Client(**options(url, api_key) | {"timeout": 30.0}) as client:
            client.post("_refresh").raise_for_status()
            wanted = query(chain, PAGE, "asc")
            while True:
                answer = client.post(SEARCH, json=wanted).raise_for_status()
                hits = answer.json()["hits"]["hits"]
                for hit in hits:
                    yield hit["sort"][0], hit["_id"], hit["_source"]
                if len(hits) < PAGE:
                    return
                wanted["search_after"] = hits[-1]["sort"]
    except PROBLEMS as problem:
        raise ServingError(f"The audit trail cannot be read: {why(problem)}.") from None
