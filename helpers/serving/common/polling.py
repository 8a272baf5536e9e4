"""Waits by polling, with a limit, and says what it waited for."""

from __future__ import annotations

from collections.abc import Callable

from tenacity import RetryError, Retrying, retry_if_exception_type, retry_if_result
from tenacity.stop import stop_after_delay
from tenacity.wait import wait_exponential

from helpers.serving.common.errors import ServingError


class WaitError(ServingError):
    """What was waited for did not come within the limit."""


def wait_for[T](
    check: Callable[[], T],
    what: str,
    *,
    seconds: float,
    first: float = 0.02,
    every: float = 0.5,
    errors: tuple[type[BaseException], ...] = (OSError,),
) -> T:
    """Call `check` until it returns something true, and return that.

    Args:
        check: returns a true value once it is so.
        what: what is waited for, for the error, e.g. "the broker to be ready".
        seconds: the limit.
        first: seconds between the first two calls; they double from there,
        every: up to this many seconds.
        errors: exceptions of `check` that mean "not yet".

    Raises:
        WaitError: the limit passed; the message has the last value or exception.
    """
    polling = Retrying(
        retry=retry_if_result(lambda value: not value) | retry_if_exception_type(errors),
        wait=wait_exponential(multiplier=first, max=every),
        stop=stop_after_delay(seconds),
    )
    try:
        return polling(check)
    except RetryError as problem:
        last = problem.last_attempt
        seen = last.exception() if last.failed else last.result()
        raise WaitError(f"Waited {seconds:g} s for {what}; last seen: {seen!r}.") from (
            last.exception() if last.failed else None
        )
