"""What happens when in simulated time: an ordered list of things to do, done one by one."""

from __future__ import annotations

import heapq
from collections.abc import Callable

Action = Callable[[], None]


class Agenda:
    """Actions at simulated times. What is due at the same time is done in the order of its rank, then of its entry."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, int, Action]] = []
        self._entries = 0

    def at(self, time_ns: int, rank: int, action: Action) -> None:
        """Do something once."""
        self._entries += 1
        heapq.heappush(self._waiting, (time_ns, rank, self._entries, action))

    def every(self, begin_ns: int, rate_hz: float, rank: int, action: Action, count: int = 1) -> None:
        """Do something again and again, for the first time one period after ``begin_ns``.

        Times are rounded to nanoseconds one by one, so that they never drift from the rate.
        """

        def do() -> None:
            action()
            self.every(begin_ns, rate_hz, rank, action, count + 1)

        self.at(begin_ns + round(count * 1e9 / rate_hz), rank, do)

    @property
    def next_ns(self) -> int:
        """When something is due next. There must be something."""
        return self._waiting[0][0]

    def do_next(self) -> None:
        """Do what is due next."""
        heapq.heappop(self._waiting)[3]()
