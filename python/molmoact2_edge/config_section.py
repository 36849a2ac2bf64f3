"""A part of a configuration file: values are taken one by one, with their types and bounds; errors say where."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from molmoact2_edge.errors import InputError

_T = TypeVar("_T")


class Section:
    """One mapping of the file; each value is taken once, and what is left over at the end is an error."""

    def __init__(self, path: Path, place: str, data: object) -> None:
        self._path = path
        self._place = place
        if not isinstance(data, Mapping):
            raise InputError(f"{path}: {place.rstrip('.')}: expected a mapping of keys, got {data!r}")
        self._data = dict(data)
        self._known: list[str] = []

    def _key(self, key: str) -> str:
        return f"{self._path}: {self._place}{key}"

    def _take(self, key: str, expected: str, accept: Callable[[Any], _T | None]) -> _T:
        self._known.append(key)
        if key not in self._data:
            raise InputError(f"{self._key(key)}: missing; expected {expected}")
        value = self._data.pop(key)
        taken = accept(value)
        if taken is None:
            raise InputError(f"{self._key(key)}: expected {expected}, got {value!r}")
        return taken

    def section(self, key: str) -> Section:
        data = self._take(key, "a mapping of keys", lambda value: value if isinstance(value, dict) else None)
        return Section(self._path, f"{self._place}{key}.", data)

    def sections(self, key: str, at_most: int) -> list[tuple[str, Section]]:
        def accept(value: object) -> dict[Any, Any] | None:
            return value if isinstance(value, dict) and 1 <= len(value) <= at_most else None

        data = self._take(key, f"a mapping of 1 to {at_most} names", accept)
        place = f"{self._place}{key}."
        return [(str(name), Section(self._path, f"{place}{name}.", value)) for name, value in data.items()]

    def text(self, key: str) -> str:
        return self._take(key, "a text", lambda value: value if isinstance(value, str) and value else None)

    def optional_text(self, key: str) -> str | None:
        """A text, or None where the key is absent or null."""
        return None if self._absent(key) else self.text(key)

    def optional_mapping(self, key: str) -> dict[str, Any]:
        """Keys that somebody else checks; empty where the key is absent or null."""
        if self._absent(key):
            return {}
        return self._take(key, "a mapping of keys", lambda value: value if isinstance(value, dict) else None)

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        def accept(value: object) -> str | None:
            return value if isinstance(value, str) and value in choices else None

        return self._take(key, " or ".join(choices), accept)

    def boolean(self, key: str) -> bool:
        return self._take(key, "true or false", lambda value: value if isinstance(value, bool) else None)

    def boolean_or(self, key: str, absent: bool) -> bool:
        """True or false; ``absent`` where the key is not there."""
        return self.boolean(key) if self._has(key) else absent

    def integer(self, key: str, low: int, high: int) -> int:
        return self._take(
            key, f"a whole number from {low} to {high}", lambda value: _integer(value, low, high)
        )

    def integers(self, key: str) -> tuple[int, ...]:
        def accept(values: object) -> tuple[int, ...] | None:
            if not isinstance(values, list):
                return None
            numbers = tuple(_integer(value, 0, 1023) for value in values)
            return None if None in numbers else tuple(n for n in numbers if n is not None)

        return self._take(key, "a list of CPU numbers", accept)

    def number(
        self,
        key: str,
        *,
        above: float | None = None,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> float:
        def accept(value: object) -> float | None:
            number = _number(value)
            if number is None or (above is not None and number <= above):
                return None
            outside = (at_least is not None and number < at_least) or (
                at_most is not None and number > at_most
            )
            return None if outside else number

        bounds = [
            f"above {above:g}" if above is not None else "",
            f"at least {at_least:g}" if at_least is not None else "",
            f"at most {at_most:g}" if at_most is not None else "",
        ]
        return self._take(key, f"a number {' and '.join(filter(None, bounds))}".strip(), accept)

    def number_or(self, key: str, absent: float, *, above: float, at_most: float) -> float:
        """A number; ``absent`` where the key is not there."""
        return self.number(key, above=above, at_most=at_most) if self._has(key) else absent

    def number_or_off(self, key: str, absent: float, *, above: float, at_most: float) -> float | None:
        """A number, None where the key is null; ``absent`` where it is not there."""
        if self._has(key) and self._absent(key):
            return None
        return self.number_or(key, absent, above=above, at_most=at_most)

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        def accept(values: object) -> tuple[float, ...] | None:
            if not isinstance(values, list) or len(values) != count:
                return None
            numbers = tuple(_number(value) for value in values)
            return None if None in numbers else tuple(n for n in numbers if n is not None)

        return self._take(key, f"a list of {count} numbers", accept)

    def interval(self, key: str) -> tuple[float, float]:
        return self._take(key, "[lowest, highest]", _interval)

    def optional_number(self, key: str, *, above: float) -> float | None:
        """A number, or None where the key is absent or null."""
        return None if self._absent(key) else self.number(key, above=above)

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """A whole number, or None where the key is absent or null."""
        return None if self._absent(key) else self.integer(key, low, high)

    def optional_interval(self, key: str, *, above: float) -> tuple[float, float] | None:
        """[lowest, highest], or None where the key is absent or null."""

        def accept(value: object) -> tuple[float, float] | None:
            interval = _interval(value)
            return interval if interval is not None and interval[0] > above else None

        return None if self._absent(key) else self._take(key, f"[lowest, highest] above {above:g}", accept)

    def _has(self, key: str) -> bool:
        self._known.append(key)
        return key in self._data

    def _absent(self, key: str) -> bool:
        self._known.append(key)
        if self._data.get(key) is not None:
            return False
        self._data.pop(key, None)
        return True

    def no_more(self) -> None:
        for key in self._data:
            near = difflib.get_close_matches(str(key), self._known, n=1)
            hint = (
                f"; did you mean {near[0]}?"
                if near
                else f"; known are {', '.join(dict.fromkeys(self._known))}"
            )
            raise InputError(f"{self._key(str(key))}: no such key{hint}")


def _interval(value: object) -> tuple[float, float] | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    low, high = _number(value[0]), _number(value[1])
    return (low, high) if low is not None and high is not None and low < high else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _integer(value: object, low: int, high: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high else None
