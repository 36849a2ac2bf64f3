"""What was checked, what came of it, and the figures that were seen."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from molmoact2_edge.errors import MolmoAct2Error


class Verdict(enum.Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class SkipCheckError(Exception):
    """A check cannot be done here; the text says why."""


@dataclass
class Check:
    """One check; :meth:`require` notes what does not hold, and the check goes on."""

    group: str
    name: str
    verdict: Verdict = Verdict.PASSED
    reasons: list[str] = field(default_factory=list)
    """Why it failed or was skipped."""
    figures: dict[str, Any] = field(default_factory=dict)
    """JSON-ready; durations end in ``_ms`` or ``_s``."""
    duration_s: float = 0.0

    def require(self, holds: bool, otherwise: str) -> None:
        """Note that the check has failed where something does not hold."""
        if not holds:
            self.verdict = Verdict.FAILED
            self.reasons.append(otherwise)

    def skip(self, why: str) -> None:
        """End the check here."""
        raise SkipCheckError(why)


class Checklist:
    """The checks of a session, in their order; each is told to ``say`` when it has ended."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.checks: list[Check] = []
        self._say = say

    @contextmanager
    def check(self, group: str, name: str) -> Iterator[Check]:
        """One check. An error of a device within the block is its failure, and the other checks go on."""
        check = Check(group, name)
        self.checks.append(check)
        begun = time.monotonic()
        try:
            yield check
        except SkipCheckError as skipped:
            check.verdict, check.reasons = Verdict.SKIPPED, [str(skipped)]
        except MolmoAct2Error as error:
            check.require(False, f"{type(error).__name__}: {error}")
        finally:
            check.duration_s = round(time.monotonic() - begun, 3)
            reasons = f": {'; '.join(check.reasons)}" if check.reasons else ""
            self._say(f"{check.verdict.value:<8}{check.group}: {check.name}{reasons}")

    def skipped(self, group: str, name: str, why: str) -> None:
        """Note a check that is not done."""
        with self.check(group, name) as check:
            check.skip(why)

    def count(self, verdict: Verdict) -> int:
        """How many ended so."""
        return sum(check.verdict is verdict for check in self.checks)
