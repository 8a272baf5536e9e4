"""Whatever is sent to the control API of the local stack, it refuses what is wrong and lives on."""

from __future__ import annotations

import pytest

from helpers.stack.local.client import LocalStack


@pytest.mark.timeout(1200)
def test_whatever_fits_or_misses_its_openapi_document(tmp_path, try_openapi):
    stack = LocalStack(folder=tmp_path / "state")
    try:
        stack.up()
        found = stack.state.listening()
        assert found is not None
        tried = try_openapi(
            f"http://{found.control}",
            existing={"name": "stack"},
            headers={"authorization": f"Bearer {stack.state.token()}"},
            leave_out=("/v1/down",),
        )
        print(f"control API: {tried} requests")
        assert tried > 20
        assert {one.owner for one in stack.status()} <= {"stack"}  # nonsense starts no server
    finally:
        stack.down()
