"""The latest policy calls and chunks of a run, kept for whoever wants to know what the policy said."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from molmoact2_edge.types import DoubleArray

_CALLS_KEPT = 200
_CHUNKS_KEPT = 64


@dataclass(frozen=True)
class PolicyCall:
    """One call of the policy; times in nanoseconds on the monotonic clock."""

    observed_ns: int
    """When its oldest image was exposed."""
    begun_ns: int
    ended_ns: int
    outcome: str
    """``chunk``, ``invalid``, or an exception's name."""
    message: str = ""
    timing: Mapping[str, float] = field(default_factory=dict)
    """Seconds per stage."""


@dataclass(frozen=True)
class PushedChunk:
    """A chunk as it was handed to the loop."""

    number: int
    run: int
    observed_step: int
    """Row 0 is the action for this step."""
    observed_ns: int
    pushed_ns: int
    actions: DoubleArray
    """(rows, joints), not to be written to."""


class JournalNews(NamedTuple):
    """What was noted since the last look."""

    calls: list[PolicyCall]
    chunks: list[PushedChunk]
    place: tuple[int, int]
    """To hand to the next :meth:`Journal.since`."""


class Journal:
    """Bounded; the policy's worker notes, any thread reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: deque[PolicyCall] = deque(maxlen=_CALLS_KEPT)
        self._chunks: deque[PushedChunk] = deque(maxlen=_CHUNKS_KEPT)
        self._calls_noted = 0
        self._chunks_noted = 0

    def note_call(self, call: PolicyCall) -> None:
        with self._lock:
            self._calls.append(call)
            self._calls_noted += 1

    def note_chunk(self, chunk: PushedChunk) -> None:
        with self._lock:
            self._chunks.append(chunk)
            self._chunks_noted += 1

    def since(self, place: tuple[int, int] = (0, 0)) -> JournalNews:
        """Return what was noted after ``place`` and is still kept, oldest first."""
        with self._lock:
            calls, chunks = list(self._calls), list(self._chunks)
            now = (self._calls_noted, self._chunks_noted)
        new_calls, new_chunks = now[0] - place[0], now[1] - place[1]
        return JournalNews(
            calls[-new_calls:] if new_calls > 0 else [], chunks[-new_chunks:] if new_chunks > 0 else [], now
        )
