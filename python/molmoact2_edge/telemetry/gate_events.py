"""Changes of the gate's state or reason, picked out of tick records."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from molmoact2_edge.control import TickRecord

_KEPT = 500


@dataclass(frozen=True)
class GateChange:
    """From this tick on."""

    tick: int
    run: int
    wakeup_ns: int
    state: str
    reason: str
    rejected_chunk: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class GateChanges:
    """The latest changes; hand it every record in order."""

    def __init__(self) -> None:
        self.kept: deque[GateChange] = deque(maxlen=_KEPT)
        self._last: tuple[int, str, str] | None = None

    def take(self, record: TickRecord) -> GateChange | None:
        """Return the change that this record is, if it is one."""
        now = (record["run"], record["state"], record["reason"])
        if now == self._last and record["rejected_chunk"] == "none":
            return None
        self._last = now
        change = GateChange(
            record["tick"],
            record["run"],
            record["wakeup_ns"],
            record["state"],
            record["reason"],
            record["rejected_chunk"],
        )
        self.kept.append(change)
        return change
