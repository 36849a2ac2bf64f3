"""From the time that a device stamps on a frame to CLOCK_MONOTONIC."""

from __future__ import annotations

import time
from collections.abc import Callable

_PLAUSIBLE_NS = 10_000_000_000


class ExposureClock:
    """Maps stamps of a device that may have been made by either clock of the computer, or by neither.

    Drivers say which clock they use, and some say it wrongly (uvcvideo with ``clock=CLOCK_REALTIME`` claims the
    monotonic one), so that a stamp is believed by what it says: it lies a little before its arrival in one of the
    clocks.
    """

    def __init__(
        self,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        realtime_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._monotonic_ns = monotonic_ns
        self._realtime_ns = realtime_ns

    def exposed_ns(self, stamp_ns: int) -> int:
        """Return CLOCK_MONOTONIC of a frame that has just arrived: never later than now; now, where the stamp tells
        nothing.
        """
        now_ns = self._monotonic_ns()
        for clock_ns in (now_ns, self._realtime_ns()):
            age_ns = clock_ns - stamp_ns
            if abs(age_ns) <= _PLAUSIBLE_NS:
                # A stamp that lies ahead would count as old until the clock reaches it.
                return now_ns - max(0, age_ns)
        return now_ns
