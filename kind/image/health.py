"""The image's HEALTHCHECK: exits 0 if a server of this container says that it is ready.

The ports are those that the container's processes listen on, so it serves every server, whatever its options.
Kubernetes does not look at it: manifests have probes.
"""

from __future__ import annotations

import http.client
import sys

import psutil

READY = ("/ready", "/v2/health/ready")  # the second is MLServer's
SECONDS = 1.5  # of one question


def ports() -> list[int]:
    """Return the TCP ports that processes of this container listen on."""
    return sorted(
        {
            connection.laddr.port
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.pid is not None
        }
    )


def answer(port: int, path: str) -> str:
    """Return the status of GET `path`, or why there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request("GET", path)
        return str(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as problem:  # gRPC's port, or nothing at all
        return type(problem).__name__
    finally:
        connection.close()


def main() -> None:
    """Exit 0 at the first 200; otherwise 1, with what was asked and answered."""
    said = []
    for port in ports():
        for path in READY:
            status = answer(port, path)
            if status == "200":
                return
            said.append(f"{port}{path}: {status}")
    sys.exit("not ready: " + (", ".join(said) or "nothing listens"))


if __name__ == "__main__":
    main()
