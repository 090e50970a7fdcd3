"""When to try again, and when to give up. Knows clocks and errors, sends nothing."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import httpx

from app.client.errors import BusyError, ProblemError, SegGptError, TimeLimitError


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what.

    Args:
        answer_s: seconds without a byte after which one attempt is given up; a forward on a CPU can take some.
        limit_s: seconds for everything that belongs to one question: attempts and the waits between them.
        first_wait_s: the first wait between attempts; each is about twice as long as the one before.
        longest_wait_s: the waits' bound, unless the service asks for more.
    """

    answer_s: float = 90
    limit_s: float = 300
    first_wait_s: float = 0.25
    longest_wait_s: float = 15

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}, must be more than 0 seconds")


class Attempts:
    """The attempts at one question."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._end = time.monotonic() + patience.limit_s
        self._failed = 0
        #: Whether an attempt's answer may have been lost on its way, so that it may have been done all the same.
        self.has_lost_one = False

    @property
    def timeout(self) -> httpx.Timeout:
        """httpx's limits for the next attempt."""
        return httpx.Timeout(max(0.001, min(self._patience.answer_s, self._end - time.monotonic())))

    def check(self) -> None:
        """Called while an answer trickles in.

        Raises:
            TimeLimitError: the time for this question is over.
        """
        if time.monotonic() > self._end:
            raise TimeLimitError(f"the answer was not there after {self._patience.limit_s:g} s")

    def renew(self) -> None:
        """A part of the answer came: the time counts anew."""
        self._end = time.monotonic() + self._patience.limit_s
        self._failed = 0

    def wait_s(self, error: SegGptError) -> float:
        """Seconds to wait after an attempt that failed, if another one can help and there is time for it.

        Raises:
            SegGptError: `error` itself otherwise, with a note how often it was tried.
        """
        patience = self._patience
        self._failed += 1
        self.has_lost_one |= not isinstance(error, ProblemError)
        backoff = min(patience.longest_wait_s, patience.first_wait_s * 2.0 ** min(self._failed - 1, 30))
        asked = error.retry_after_s if isinstance(error, BusyError) else None
        # Never earlier than asked for; and clients that were refused together shall not come back together.
        wait = (asked or 0.0) + backoff * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        if time.monotonic() + wait >= self._end:
            error.add_note(f"tried {self._failed} times; another try would miss the limit of {patience.limit_s:g} s")
            raise error
        return wait
