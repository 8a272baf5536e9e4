"""/control/v1: brokers, triggers, recent events and dead letters. Every call needs the token.

    PUT, DELETE  /control/v1/brokers/<namespace>/<name>
    GET          /control/v1/triggers                    ?namespace
    PUT, DELETE  /control/v1/triggers/<namespace>/<name>
    GET          /control/v1/events                      ?namespace broker type requestid id after limit data
    GET, DELETE  /control/v1/dead-letters                ?namespace trigger id limit
    POST         /control/v1/dead-letters/redrive        ?namespace trigger id

PUT of a trigger takes `{broker, filter, subscriber, delivery}` as in `model.Trigger`; its broker
need not be declared first.
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from helpers.serving.broker.broker import Broker, iso
from helpers.serving.broker.model import Name, Trigger
from helpers.serving.common.app import JSON
from helpers.serving.common.body import read_json
from helpers.serving.common.errors import RequestError
from helpers.serving.common.events import is_json_type
from helpers.serving.common.tokens import require_token

LIMIT = 1000  # rows of one answer
DATA_LIMIT = 16 * 2**20  # bytes of data in one answer; what is beyond is asked for with `after`

Handler = Callable[[Request], Awaitable[Response]]
_name = TypeAdapter(Name)


def routes(broker: Broker, token: str) -> list[Route]:
    """Return the routes; `token` is what callers must present."""
    api = _Control(broker)

    def guarded(handler: Handler) -> Handler:
        async def checked(request: Request) -> Response:
            require_token(request, token)
            try:
                return await handler(request)
            except sqlite3.Error as problem:
                raise RequestError(503, f"The state cannot be written: {problem}.") from problem

        return checked

    base = "/control/v1"
    table: list[tuple[str, str, Handler]] = [
        ("PUT", "/brokers/{namespace}/{name}", api.put_broker),
        ("DELETE", "/brokers/{namespace}/{name}", api.delete_broker),
        ("GET", "/triggers", api.list_triggers),
        ("PUT", "/triggers/{namespace}/{name}", api.put_trigger),
        ("DELETE", "/triggers/{namespace}/{name}", api.delete_trigger),
        ("GET", "/events", api.list_events),
        ("GET", "/dead-letters", api.list_dead),
        ("DELETE", "/dead-letters", api.delete_dead),
        ("POST", "/dead-letters/redrive", api.redrive),
    ]
    return [
        Route(base + path, guarded(handler), methods=[method]) for method, path, handler in table
    ]


class _Control:
    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    async def put_broker(self, request: Request) -> Response:
        await self.broker.declare_broker(_checked(request, "namespace"), _checked(request, "name"))
        return JSON({})

    async def delete_broker(self, request: Request) -> Response:
        names = request.path_params
        if not await self.broker.delete_broker(names["namespace"], names["name"]):
            raise RequestError(404, f"There is no broker {names['name'][:80]!r}.")
        return JSON({})

    async def put_trigger(self, request: Request) -> Response:
        body = await read_json(request)
        if not isinstance(body, dict):
            raise RequestError(400, "A trigger is a JSON object.")
        try:
            trigger = Trigger.model_validate({**body, **request.path_params})
        except ValidationError as problem:
            raise RequestError(400, _told(problem)) from problem
        changed = await self.broker.put_trigger(trigger)
        return JSON({"changed": changed, "trigger": trigger.model_dump(mode="json", by_alias=True)})

    async def delete_trigger(self, request: Request) -> Response:
        names = request.path_params
        if not await self.broker.delete_trigger(names["namespace"], names["name"]):
            raise RequestError(404, f"There is no trigger {names['name'][:80]!r}.")
        return JSON({})

    async def list_triggers(self, request: Request) -> Response:
        wanted = request.query_params.get("namespace")
        triggers = [
            {
                **lane.trigger.model_dump(mode="json", by_alias=True),
                "backlog": self.broker.backlog[lane.id],
                "waiting_for_retry": len(lane.retries),
                "reachable": not lane.unreachable,
            }
            for lane in self.broker.by_id.values()
            if wanted in (None, lane.trigger.namespace)
        ]
        return JSON({"triggers": triggers})

    async def list_events(self, request: Request) -> Response:
        """Newest first; with `after`, oldest first from that seq on."""
        query = request.query_params
        after, limit = _number(query, "after", -1), min(_number(query, "limit", 100), LIMIT)
        with_data = query.get("data") in ("1", "true")
        where, values = ["seq > ?"], [after]
        for column in ("namespace", "broker"):
            if column in query:
                where.append(f"{column} = ?")
                values.append(query[column])
        for attribute in ("type", "requestid", "id", "source"):
            if attribute in query:
                where.append(f"CAST(attributes AS TEXT) ->> '{attribute}' = ?")
                values.append(query[attribute])
        sql = (
            "SELECT seq, namespace, broker, arrived, matched, attributes,"
            f" {'data' if with_data else 'length(data)'} FROM events"
            f" WHERE {' AND '.join(where)} ORDER BY seq {'ASC' if after >= 0 else 'DESC'} LIMIT ?"
        )

        def read(db: sqlite3.Connection) -> list[dict[str, Any]]:
            found, size = [], 0
            for row in db.execute(sql, [*values, limit]):
                found.append(_event(row, with_data))
                size += len(row[-1]) if with_data else 0
                if size > DATA_LIMIT:
                    break
            waiting = _waiting(db, [event["seq"] for event in found])
            for event in found:
                event["waiting"] = waiting.get(event["seq"], [])
            return found

        return JSON({"events": await self.broker.store.read(read)})

    async def list_dead(self, request: Request) -> Response:
        where, values = _selection(request)
        limit = min(_number(request.query_params, "limit", 100), LIMIT)

        def read(db: sqlite3.Connection) -> tuple[int, list[Any]]:
            count = db.execute(f"SELECT count(*) FROM dead d WHERE {where}", values).fetchone()[0]
            rows = db.execute(
                "SELECT d.id, d.namespace, d.trigger, d.at, d.error, e.attributes, e.seq"
                " FROM dead d JOIN events e ON e.seq = d.seq"
                f" WHERE {where} ORDER BY d.id DESC LIMIT ?",
                [*values, limit],
            ).fetchall()
            return count, rows

        count, rows = await self.broker.store.read(read)
        letters = [
            {
                "id": id,
                "namespace": namespace,
                "trigger": trigger,
                "at": iso(at),
                "error": orjson.loads(error),
                "seq": seq,
                "attributes": orjson.loads(attributes),
            }
            for id, namespace, trigger, at, error, attributes, seq in rows
        ]
        return JSON({"count": count, "dead_letters": letters})

    async def delete_dead(self, request: Request) -> Response:
        where, values = _selection(request)
        sql = f"DELETE FROM dead AS d WHERE {where} RETURNING seq"
        rows = await self.broker.store.write(lambda db: db.execute(sql, values).fetchall())
        for (seq,) in rows:
            self.broker.retention.release(seq)
        return JSON({"deleted": len(rows)})

    async def redrive(self, request: Request) -> Response:
        """Deliver dead letters again, with all their retries; those without a trigger stay."""
        where, values = _selection(request)
        return JSON({"redriven": await self.broker.redrive(where, values)})


def _selection(request: Request) -> tuple[str, list[Any]]:
    where, values = ["1"], []
    for column in ("namespace", "trigger"):
        if column in request.query_params:
            where.append(f"d.{column} = ?")
            values.append(request.query_params[column])
    if "id" in request.query_params:
        where.append("d.id = ?")
        values.append(_number(request.query_params, "id", 0))
    return " AND ".join(where), values


def _number(query: Any, name: str, default: int) -> int:
    value = query.get(name)
    if value is None:
        return default
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise RequestError(400, f"{name} must be a whole number, not {value[:40]!r}.")
    return int(value)


def _checked(request: Request, name: str) -> str:
    try:
        return _name.validate_python(request.path_params[name])
    except ValidationError as problem:
        raise RequestError(400, _told(problem)) from problem


def _told(problem: ValidationError) -> str:
    first = problem.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place or 'name'}: {first['msg']}."


def _event(row: tuple[Any, ...], with_data: bool) -> dict[str, Any]:
    seq, namespace, broker, arrived, matched, attributes, data = row
    event = {
        "seq": seq,
        "namespace": namespace,
        "broker": broker,
        "arrived": iso(arrived),
        "matched": orjson.loads(matched),
        "attributes": orjson.loads(attributes),
        "bytes": len(data) if with_data else data,
    }
    if with_data:
        event |= _shown(event["attributes"].get("datacontenttype"), data)
    return event


def _shown(content_type: str | None, data: bytes) -> dict[str, Any]:
    if is_json_type(content_type):
        try:
            return {"data": orjson.loads(data)} if data else {}
        except orjson.JSONDecodeError:  # the sender's claim; shown as it came
            pass
    return {"data_base64": base64.b64encode(data).decode()}


def _waiting(db: sqlite3.Connection, seqs: list[int]) -> dict[int, list[str]]:
    """The triggers that have not taken these events yet."""
    waiting: dict[int, list[str]] = {}
    for id, name in db.execute("SELECT id, name FROM triggers").fetchall():
        rows = db.execute(
            "SELECT seq FROM deliveries WHERE trigger = ?"
            " AND seq IN (SELECT value FROM json_each(?))",
            (id, orjson.dumps(seqs).decode()),
        )
        for (seq,) in rows.fetchall():
            waiting.setdefault(seq, []).append(name)
    return waiting
