"""The audit trail: append-only, chained, verified, and written by several processes."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from helpers.metrics import Samples
from helpers.serving.common.errors import RequestError, ServingError
from helpers.serving.explain.production import audit
from helpers.serving.explain.production.audit import AuditTrail, Entry, Receipt, verify

pytestmark = pytest.mark.timeout(120)

LABELS = {"method": "KernelShap", "model_name": "credit"}
SECRET = b"the key of the trail"


def entry(**other: Any) -> Entry:
    given: dict[str, Any] = {
        "request_id": "r-1",
        "caller": "clerk",
        "method": "KernelShap",
        "explainer": "credit_risk/kernel_shap",
        "explainer_version": "ab" * 32,
        "model": "credit",
        "model_version": "3",
        "parameters": {"nsamples": 100, "seed": 7},
        "input_hash": "cd" * 32,
        "top": [("income", -0.25), ("age", 0.125)],
    }
    return Entry(**given | other)


def write(path: Path, *entries: Entry, **options: Any) -> list[Receipt]:
    """Add entries to a trail in this process."""

    async def scenario() -> list[Receipt]:
        trail = AuditTrail(path, CollectorRegistry(), LABELS, **options)
        trail.start()
        try:
            return [await trail.record(one) for one in entries]
        finally:
            await trail.close()

    return asyncio.run(scenario())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trail" / "audit.sqlite"


@pytest.fixture
def receipts(path: Path) -> list[Receipt]:
    """A trail of five rows."""
    return write(path, *(entry(request_id=f"r-{number}") for number in range(1, 6)))


def rows(path: Path) -> list[dict[str, Any]]:
    with sqlite3.connect(path) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute("SELECT * FROM audit ORDER BY seq")]


def tamper(path: Path, *statements: str) -> None:
    """Do as somebody who may write to the file and knows SQLite."""
    with sqlite3.connect(path) as db:
        for (name,) in db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            assert db.execute(statement).rowcount > 0
    db.close()


def test_a_row_holds_who_what_when(path: Path) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=1)))
    (receipt,) = write(path, entry(time=at, outcome="memory"), chain="pod-1")
    (row,) = rows(path)
    assert receipt == Receipt(1, row["hash"])
    assert row.pop("hash") != row.pop("previous") == "0" * 64
    assert row == {
        "seq": 1,
        "chain": "pod-1",
        "time": "2026-01-02T02:04:05.000006+00:00",
        "request_id": "r-1",
        "caller": "clerk",
        "method": "KernelShap",
        "explainer": "credit_risk/kernel_shap",
        "explainer_version": "ab" * 32,
        "model": "credit",
        "model_version": "3",
        "parameters": '{"nsamples":100,"seed":7}',
        "input_hash": "cd" * 32,
        "top": '[["income",-0.25],["age",0.125]]',
        "outcome": "memory",
    }


def test_a_trail_goes_on_after_a_restart(path: Path, receipts: list[Receipt]) -> None:
    (sixth,) = write(path, entry())
    assert sixth.seq == 6
    assert rows(path)[5]["previous"] == receipts[4].hash
    verdict = verify(path)
    assert (verdict.ok, verdict.rows, verdict.row) == (True, 6, None)
    assert verdict.message == "All 6 rows are as they were written."


def test_an_empty_trail_is_in_order(path: Path) -> None:
    write(path)
    assert verify(path).ok


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET caller = 'nobody' WHERE seq = 2",
        "UPDATE OR REPLACE audit SET seq = 3 WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 2",
        "DELETE FROM audit",
        "INSERT OR REPLACE INTO audit SELECT * FROM audit WHERE seq = 2",
        "REPLACE INTO audit SELECT 5, chain, time, request_id, 'nobody', method, explainer,"
        " explainer_version, model, model_version, parameters, input_hash, top, outcome, previous,"
        " hash FROM audit WHERE seq = 5",
        "INSERT INTO audit SELECT 9, chain, time, request_id, caller, method, explainer,"
        " explainer_version, model, model_version, parameters, input_hash, top, outcome, previous,"
        " hash FROM audit WHERE seq = 5",
        "INSERT INTO audit SELECT 6, chain, time, request_id, caller, method, explainer,"
        " explainer_version, model, model_version, parameters, input_hash, top, outcome, previous,"
        " hash FROM audit WHERE seq = 5",
    ],
)
def test_sqlite_itself_refuses_all_but_adding(
    path: Path, receipts: list[Receipt], statement: str
) -> None:
    before = rows(path)
    with (
        sqlite3.connect(path) as db,
        pytest.raises(sqlite3.DatabaseError, match="append-only"),
    ):
        db.execute(statement)
    assert rows(path) == before


@pytest.mark.parametrize("secret", [b"", SECRET], ids=["plain", "keyed"])
@pytest.mark.parametrize("column", [*audit.COLUMNS[1:], "hash"])
def test_a_change_of_any_column_is_found(path: Path, column: str, secret: bytes) -> None:
    write(path, *(entry(request_id=f"r-{number}") for number in range(1, 6)), secret=secret)
    assert verify(path, secret).ok
    tamper(path, f"UPDATE audit SET {column} = {column} || ' ' WHERE seq = 3")
    verdict = verify(path, secret)
    assert (verdict.ok, verdict.row) == (False, 3)
    assert verdict.message.startswith("Row 3 of the audit trail ")
    assert verdict.message.endswith("rows 1 to 2 are as they were written.")


@pytest.mark.parametrize(
    ("statements", "row", "what"),
    [
        (["DELETE FROM audit WHERE seq = 1"], 1, "is missing"),
        (["DELETE FROM audit WHERE seq = 3"], 3, "is missing"),
        (["DELETE FROM audit WHERE seq = 5"], 5, "is missing, with all after it"),
        (["DELETE FROM audit"], 1, "is missing, with all after it"),
        (
            ["DELETE FROM audit WHERE seq = 3", "UPDATE audit SET seq = seq - 1 WHERE seq > 3"],
            3,
            "does not follow",
        ),
        (
            [
                "UPDATE audit SET seq = 99 WHERE seq = 3",
                "UPDATE audit SET seq = 3 WHERE seq = 4",
                "UPDATE audit SET seq = 4 WHERE seq = 99",
            ],
            3,
            "does not follow",
        ),
    ],
    ids=["first", "middle", "last", "all", "closed up", "swapped"],
)
def test_a_removal_is_found(
    path: Path, receipts: list[Receipt], statements: list[str], row: int, what: str
) -> None:
    tamper(path, *statements)
    verdict = verify(path)
    assert (verdict.ok, verdict.row) == (False, row)
    assert what in verdict.message


def test_an_end_cut_off_with_sqlites_count_is_shown_by_a_receipt(
    path: Path, receipts: list[Receipt]
) -> None:
    cut = ["DELETE FROM audit WHERE seq > 3", "UPDATE sqlite_sequence SET seq = 3"]
    tamper(path, *cut)
    assert verify(path).ok, "the chain alone cannot know"
    verdict = verify(path, receipt=receipts[4])
    assert (verdict.ok, verdict.row) == (False, 4)
    assert verify(path, receipt=receipts[2]).ok


def remade(path: Path, secret: bytes) -> None:
    """Change row 2 and make the chain anew, as who knows the code can do."""
    changed = rows(path)
    changed[1]["caller"] = "nobody"
    tamper(path, "DELETE FROM audit")
    previous = audit.GENESIS
    with sqlite3.connect(path) as db:
        for row in changed:
            row["previous"] = previous
            row["hash"] = previous = audit.row_hash([row[c] for c in audit.COLUMNS], secret)
            places = ", ".join("?" * len(row))
            db.execute(f"INSERT INTO audit VALUES ({places})", list(row.values()))
    db.close()


def test_a_chain_made_anew_is_shown_by_a_key_or_a_receipt(path: Path, tmp_path: Path) -> None:
    entries = [entry(request_id=f"r-{number}") for number in range(1, 6)]
    receipts = write(path, *entries)
    remade(path, b"")
    assert verify(path).ok, "without a key it is a chain as good as the other"
    verdict = verify(path, receipt=receipts[3])
    assert (verdict.ok, verdict.row) == (False, 4)
    keyed = tmp_path / "keyed.sqlite"
    write(keyed, *entries, secret=SECRET)
    remade(keyed, b"a guess")
    verdict = verify(keyed, SECRET)
    assert (verdict.ok, verdict.row) == (False, 1)
    assert "another key" in verdict.message


def test_the_wrong_key_is_said(path: Path) -> None:
    write(path, entry(), secret=SECRET)
    assert verify(path, SECRET).ok
    assert not verify(path).ok
    assert "another key" in verify(path, b"other").message


def test_a_trail_can_be_verified_while_it_is_written(path: Path) -> None:
    async def scenario() -> None:
        trail = AuditTrail(path, CollectorRegistry(), LABELS)
        trail.start()
        done = asyncio.Event()

        async def adding() -> None:
            for _ in range(150):
                await asyncio.gather(*(trail.record(entry()) for _ in range(4)))
            done.set()

        task = asyncio.create_task(adding())
        looked = []
        while not done.is_set():
            verdict = await asyncio.to_thread(verify, path)
            assert verdict.ok, verdict.message
            looked.append(verdict.rows)
        await task
        assert len(set(looked)) > 1
        assert verify(path).rows == 600
        await trail.close()

    asyncio.run(scenario())


WRITER = """
import asyncio, sys
from pathlib import Path
from prometheus_client import CollectorRegistry
from helpers.serving.explain.production.audit import AuditTrail, Entry

async def main(path, name, count):
    trail = AuditTrail(Path(path), CollectorRegistry(), {"model_name": "m"}, b"s", chain=name)
    trail.start()
    for number in range(count):
        await asyncio.gather(*(trail.record(Entry(
            request_id=f"{name}-{number}-{part}", caller="c", method="m", explainer="e",
            explainer_version="1", model="m", model_version="1", parameters={}, input_hash="h",
            top=[("a", 1.0)])) for part in range(5)))
    await trail.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def test_several_processes_write_one_chain(path: Path, root: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"p{number}", "20"],
            cwd=root,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for writer in writers:
        _, said = writer.communicate(timeout=100)
        assert writer.returncode == 0, said
    verdict = verify(path, b"s")
    assert verdict.ok, verdict.message
    assert verdict.rows == 400
    assert len({row["request_id"] for row in rows(path)}) == 400


def test_killed_in_the_middle_the_trail_is_whole(path: Path, root: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), "p", "100000"], cwd=root)
    try:
        for _ in range(600):
            if path.exists() and _count(path) >= 30:
                break
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(0.1)
    finally:
        writer.kill()
        writer.wait(10)
    before = verify(path, b"s")
    assert before.ok, before.message
    assert before.rows >= 30
    write(path, entry(), secret=b"s")
    assert verify(path, b"s").rows == before.rows + 1


def _count(path: Path) -> int:
    try:
        return len(rows(path))
    except sqlite3.Error:
        return 0


def run(path: Path, scenario: Callable[[AuditTrail, CollectorRegistry], Awaitable[None]]) -> None:
    async def whole() -> None:
        registry = CollectorRegistry()
        trail = AuditTrail(path, registry, LABELS)
        trail.start()
        try:
            await scenario(trail, registry)
        finally:
            await trail.close()

    asyncio.run(whole())


def counted(registry: CollectorRegistry, name: str) -> float:
    samples = Samples.parse(generate_latest(registry).decode())
    return samples.value(f"explain_server_audit_{name}", **LABELS)


def test_what_cannot_be_written_is_refused(path: Path) -> None:
    async def scenario(trail: AuditTrail, registry: CollectorRegistry) -> None:
        await trail.record(entry())
        with sqlite3.connect(path) as db:
            db.execute(
                "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            )
        with pytest.raises(RequestError, match="cannot be written: disk full") as refused:
            await trail.record(entry())
        assert refused.value.status == 503
        with sqlite3.connect(path) as db:
            db.execute("DROP TRIGGER full")
        assert (await trail.record(entry())).seq == 2
        assert (counted(registry, "records"), counted(registry, "failures")) == (2, 1)

    run(path, scenario)


def test_a_disk_that_hangs_refuses_in_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(audit, "PENDING", 3)

    async def scenario(trail: AuditTrail, registry: CollectorRegistry) -> None:
        await trail.record(entry())
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        asked = [asyncio.create_task(trail.record(entry())) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="3 records wait for it already"):
            await trail.record(entry())
        for answer in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(answer, RequestError)
            assert "within 0.2 s" in answer.message
        other.execute("ROLLBACK")
        other.close()
        monkeypatch.setattr(audit, "WAIT_SECONDS", 20)
        monkeypatch.setattr(audit, "PENDING", 100)
        assert (await trail.record(entry())).seq == 5, "late, but in the trail"
        assert trail._pending == 0

    run(path, scenario)


def test_a_cancelled_request_leaves_nothing_behind(path: Path) -> None:
    async def scenario(trail: AuditTrail, registry: CollectorRegistry) -> None:
        asked = asyncio.create_task(trail.record(entry()))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        assert (await trail.record(entry())).seq in (1, 2)
        assert trail._pending == 0

    run(path, scenario)


def test_what_a_client_chooses_is_bounded(path: Path) -> None:
    write(path, entry(request_id="x" * 1000, caller="\ud800 " + "y" * 1000))
    (row,) = rows(path)
    assert row["request_id"] == "x" * 255 + "…"
    assert len(row["caller"]) == 256
    with pytest.raises(ServingError, match="top attributions of an audit entry take"):
        write(path, entry(top=[("x" * 100, 1.0)] * 1000))
    with pytest.raises(ServingError, match="parameters of an audit entry are not JSON"):
        write(path, entry(parameters={"p": float("nan")}))
    assert verify(path).ok


def test_rows_of_a_request_fit_the_index_template(path: Path, root: Path) -> None:
    template = json.loads(
        (root / "manifests/logging/elasticsearch/audit-index-template.json").read_text()
    )
    mappings = template["template"]["mappings"]
    assert mappings["dynamic"] == "strict", "a field that is not there would be refused"

    async def scenario(trail: AuditTrail, registry: CollectorRegistry) -> None:
        await trail.record(entry(request_id="other"))
        await trail.record(entry(top=[("income > 5", None)]))
        (found,) = await trail.rows("r-1")
        assert set(found) == set(mappings["properties"])
        assert found["parameters"] == {"nsamples": 100, "seed": 7}
        assert found["top"] == [{"feature": "income > 5", "attribution": None}]
        assert set(found["top"][0]) == set(mappings["properties"]["top"]["properties"])
        assert datetime.fromisoformat(found["@timestamp"]).tzinfo == UTC

    run(path, scenario)


def test_a_file_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServingError, match="cannot be written"):
        AuditTrail(tmp_path / "file" / "x.sqlite", CollectorRegistry(), LABELS)
    (tmp_path / "broken.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(ServingError, match="cannot be opened"):
        AuditTrail(tmp_path / "broken.sqlite", CollectorRegistry(), LABELS)
    for name in ("none.sqlite", "broken.sqlite"):
        with pytest.raises(ServingError, match="cannot be read as an audit trail"):
            verify(tmp_path / name)


def test_the_command_verifies(
    path: Path, receipts: list[Receipt], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit.main([str(path), "--receipt", str(receipts[2])])
    assert capsys.readouterr().out == "All 5 rows are as they were written.\n"
    (tmp_path / "key").write_bytes(b"x\n")
    with pytest.raises(SystemExit, match=r"Row 1 .* another key"):
        audit.main([str(path), "--key-file", str(tmp_path / "key")])
    with pytest.raises(SystemExit, match="is no receipt"):
        audit.main([str(path), "--receipt", "3"])
    tamper(path, "DELETE FROM audit WHERE seq = 4")
    with pytest.raises(SystemExit, match=r"^Row 4 .* is missing; rows 1 to 3 are"):
        audit.main([str(path)])
