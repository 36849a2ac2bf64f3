"""What goes wrong in an emulator, and when: a script of faults, and more of them while it runs.

One fault a line: seconds since the start, the fault's name, ``key=value`` pairs; ``#`` begins a comment::

    2.0  corrupt probability=0.01 duration=10
    5.0  absent servo=3 duration=2
    8.0  unplug duration=1.5

``duration`` is in seconds; without it a fault lasts for good, or until ``clear NAME``. On standard input the same lines
come without the time, and count from their arrival.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from molmoact2_edge.errors import InputError

CLEAR = "clear"


@dataclass(frozen=True)
class Fault:
    """One fault, from ``begin_s`` until ``end_s`` after the emulator's start."""

    name: str
    begin_s: float
    end_s: float = float("inf")
    values: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, key: str) -> float:
        return self.values[key]

    def integer(self, key: str) -> int:
        """Return a value that names a device."""
        return int(self.values[key])


class FaultPlan:
    """The faults of one emulator. Any thread may add to it and ask it.

    ``known`` gives, for every fault that the emulator can have, the keys that its line must have besides ``duration``.
    """

    def __init__(
        self,
        known: Mapping[str, Iterable[str]],
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known = {name: frozenset(keys) for name, keys in known.items()}
        self._clock = clock
        self._started_s = clock()
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._random = random.Random(seed)  # noqa: S311 - repeatable, no secret

    def start(self) -> None:
        """Count seconds from now on."""
        self._started_s = self._clock()

    def now_s(self) -> float:
        """Return seconds since the start."""
        return self._clock() - self._started_s

    def read(self, path: Path) -> None:
        """Add every line of a script.

        Raises:
            InputError: the file cannot be read, or a line is none; names file and line.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not readable as a fault script: {error}") from error
        for number, line in enumerate(lines, start=1):
            self._add_scripted(line, f"{path}:{number}")

    def _add_scripted(self, line: str, place: str) -> None:
        try:
            self.add(line, timed=True)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error

    def add(self, line: str, timed: bool = False) -> None:
        """Add one line; ``timed`` lines begin with their second, the others count from now.

        Raises:
            InputError: the line is no fault, or one that this emulator does not have.
        """
        words = line.split("#", 1)[0].split()
        if not words:
            return
        begin_s = self.now_s()
        if timed:
            begin_s = _number("seconds", words[0])
            words = words[1:]
            if not words:
                raise InputError(f"a time without a fault: {line.strip()!r}")
        name, pairs = words[0], words[1:]
        if name == CLEAR:
            self._clear(pairs, begin_s)
            return
        if name not in self._known:
            raise InputError(f"no fault {name!r} here; there are {', '.join(sorted(self._known))}")
        values = dict(_pair(pair) for pair in pairs)
        duration_s = values.pop("duration", float("inf"))
        if duration_s < 0.0:
            raise InputError(f"duration must be at least 0, got {duration_s:g}")
        if values.keys() != self._known[name]:
            wanted = ", ".join(sorted(self._known[name])) or "no keys"
            raise InputError(
                f"{name} wants {wanted} (and perhaps duration), got {', '.join(values) or 'none'}"
            )
        now_s = self.now_s()
        with self._lock:
            # Those that are over go, so that a plan that is added to for hours does not grow.
            self._faults = [fault for fault in self._faults if fault.end_s > now_s]
            self._faults.append(Fault(name, begin_s, begin_s + duration_s, values))

    def _clear(self, names: list[str], at_s: float) -> None:
        if len(names) != 1 or names[0] not in self._known:
            raise InputError(f"{CLEAR} wants the name of one fault: {', '.join(sorted(self._known))}")
        with self._lock:
            self._faults = [
                fault
                if fault.name != names[0]
                else Fault(fault.name, fault.begin_s, min(fault.end_s, at_s), fault.values)
                for fault in self._faults
            ]

    @property
    def empty(self) -> bool:
        """Whether nothing was ever to go wrong."""
        return not self._faults

    def active(self, name: str) -> list[Fault]:
        """Return the faults of that name that are under way, oldest first."""
        if not self._faults:
            return []
        now_s = self.now_s()
        with self._lock:
            return [
                fault for fault in self._faults if fault.name == name and fault.begin_s <= now_s < fault.end_s
            ]

    def on(self, name: str, **device: int) -> bool:
        """Whether such a fault is under way: ``plan.on("absent", servo=3)``."""
        return any(
            all(fault.integer(key) == value for key, value in device.items()) for fault in self.active(name)
        )

    def strikes(self, name: str) -> Fault | None:
        """Draw, for one packet or frame, whether a fault with a ``probability`` hits it; returns the one that does."""
        for fault in self.active(name):
            if self._random.random() < fault["probability"]:
                return fault
        return None

    def draw(self, below: int) -> int:
        """Return a repeatable random number from 0 to ``below`` - 1: which byte is hit, say."""
        return self._random.randrange(below)


def _pair(text: str) -> tuple[str, float]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"expected key=value, got {text!r}")
    return key, _number(key, value)


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise InputError(f"{name}: expected a number, got {text!r}")
    return number
