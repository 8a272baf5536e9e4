"""What goes wrong between here and the API server, as sentences that say what to do."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import urllib3
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from helpers.errors import ManifestError, StackError
from helpers.stack.interface import NAMESPACE
from helpers.stack.kind.kinds import Kind

UP = "`make kind-up`"
_DENIED = re.compile(
    r'admission webhook "(?P<name>[^"]+)" denied the request: ?(?P<reason>.*)', re.S
)
_UNREACHED = re.compile(r'failed calling webhook "(?P<name>[^"]+)"')
# A field that the schema lacks, or of another type. Kubernetes answers 500, as if it were its own fault.
_TYPED = re.compile(
    r"failed to create typed patch object(?: \([^)]*\))?: (?:errors:\s*)?(?P<what>.*)", re.S
)
_LONGEST = 600  # characters of somebody else's message


class AwayError(StackError):
    """The API server does not answer, or cannot now; it may in a while."""


@contextlib.contextmanager
def explained(
    doing: str, server: str, *, origin: str | None = None, kind: Kind | None = None
) -> Iterator[None]:
    """Turn the exceptions of the kubernetes client into StackError and ManifestError.

    Args:
        doing: what was tried, "applying Service/payload-logger".
        server: which API server, for the sentence: its context and address.
        origin: file and document that it was about.
        kind: of the object that it was about.

    Raises:
        ManifestError: the API server, or a webhook of an operator, refuses the document.
        StackError: anything else.
    """
    try:
        yield
    except ResourceNotFoundError as problem:
        raise _unknown(kind, origin) from problem
    except ApiException as problem:
        if problem.status == 0:  # of a websocket; the reason is all that there is
            raise StackError(f"{server}, {doing}: {_short(problem.reason)}.") from problem
        raise _refused(problem, doing, server, origin) from problem
    except (urllib3.exceptions.HTTPError, OSError) as problem:
        raise AwayError(_silent(problem, doing, server)) from problem
    except ValueError as problem:  # an answer that is no JSON; addresses that are none
        raise StackError(
            f"{server}, {doing}: that is no Kubernetes API server ({_short(problem)})."
        ) from problem


def status_of(problem: ApiException) -> dict[str, Any]:
    """Return the API server's `Status` object in an exception; {} where there is none."""
    body = problem.body
    if isinstance(body, bytes):
        body = body.decode(errors="replace")
    try:
        found = json.loads(body or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def message_of(problem: ApiException) -> str:
    """Return what the API server said, on one line."""
    body = (
        problem.body.decode(errors="replace") if isinstance(problem.body, bytes) else problem.body
    )
    return _short(status_of(problem).get("message") or body or problem.reason)


def _unknown(kind: Kind | None, origin: str | None) -> StackError:
    if kind is None:
        return StackError(f"The cluster lacks a kind of object; {UP} installs what is missing.")
    where = f"{origin}: " if origin else ""
    part = f"`make kind-up PARTS={kind.part}`" if kind.part else UP
    error = ManifestError if origin else StackError
    return error(
        f"{where}the cluster knows no {kind.name} ({kind.api_version}); {part} installs it."
    )


def _silent(problem: Exception, doing: str, server: str) -> str:
    told = str(problem)
    if isinstance(problem, urllib3.exceptions.MaxRetryError) and problem.reason is not None:
        problem, told = problem.reason, str(problem.reason)
    if "CERTIFICATE_VERIFY_FAILED" in told:
        return (
            f"{server} shows a certificate that the kubeconfig does not know: it is another cluster than "
            "that of the kubeconfig, perhaps made anew. `kind export kubeconfig --name walkthrough` "
            "writes the present one."
        )
    if "Connection refused" in told or "NewConnectionError" in told:
        return (
            f"{server} does not answer: connection refused. Is Docker running? `docker ps` lists the "
            f"cluster's nodes, and {UP} makes one where there is none."
        )
    if isinstance(problem, urllib3.exceptions.TimeoutError | TimeoutError):
        return (
            f"{server} did not answer in time ({doing}). A machine that is out of memory swaps: "
            "`docker stats` shows what the nodes use."
        )
    return f"{server} does not answer ({doing}): {_short(told or type(problem).__name__)}."


def _refused(problem: ApiException, doing: str, server: str, origin: str | None) -> StackError:
    told = message_of(problem)
    status = status_of(problem)
    where = f"{origin}: " if origin else ""
    if problem.status == 401:
        return StackError(
            f"{server} does not accept the credentials of the kubeconfig (401). A cluster that was made "
            "anew has new ones: `kind export kubeconfig --name walkthrough` writes them."
        )
    if unreached := _UNREACHED.search(told):
        return StackError(
            f"{where}the webhook {unreached['name']}, which checks such objects, does not answer. Its "
            f"operator may be starting: try again in a minute, or run {UP} again. {told}"
        )
    denied = _DENIED.search(told)
    if problem.status == 403 and not denied:
        return StackError(f"{server} does not allow it ({doing}): {told}")
    if problem.status == 404 and f'namespaces "{NAMESPACE}" not found' in told:
        return StackError(f"{server} has no namespace {NAMESPACE}; {UP} makes it.")
    if origin is not None and (typed := _TYPED.search(told)):
        return ManifestError(f"{where}{typed['what'].strip().lstrip('.').rstrip('.')}.")
    if problem.status == 429 or problem.status >= 500:
        return AwayError(f"{server} cannot do it now ({doing}, {problem.status}): {told}")
    if origin is None:
        return StackError(f"{server} refuses it ({doing}, {problem.status}): {told}")
    causes = (status.get("details") or {}).get("causes") or []
    fields = [
        f"{one['field']}: {_short(one.get('message', ''))}" for one in causes if one.get("field")
    ]
    if fields:
        told = "; ".join(dict.fromkeys(fields))
    elif denied:
        told = _short(denied["reason"])
    by = f" (refused by {denied['name']})" if denied else ""
    return ManifestError(f"{where}{told.rstrip('.')}{by}.")


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
