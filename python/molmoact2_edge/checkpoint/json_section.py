"""Reading a JSON object key by key: each refusal names the file, the key, what was expected and what came."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from molmoact2_edge.errors import CheckpointError

REQUIRED = object()
_LARGEST = sys.float_info.max


class Section:
    """One JSON object of a checkpoint; every getter checks the type and names the key that it refuses."""

    def __init__(self, values: object, name: str) -> None:
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{name}: expected a JSON object, got {shown(values)}")
        self._values: Mapping[str, Any] = values
        self._name = name

    def refuse(self, key: str, expected: str) -> NoReturn:
        came = shown(self._values[key]) if key in self._values else "nothing"
        raise CheckpointError(f"{self._name}: `{key}` must be {expected}, got {came}")

    def get(self, key: str, default: object = None) -> Any:
        """The raw value; a JSON null counts as absent when there is a default."""
        value = self._values.get(key)
        if value is not None:
            return value
        if default is REQUIRED:
            raise CheckpointError(
                f"{self._name}: `{key}` is missing; the checkpoint is incomplete or not a MolmoAct2"
            )
        return default

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def section(self, key: str) -> Section:
        return Section(self.get(key, REQUIRED), f"{self._name}: {key}")

    def integer(self, key: str, default: object = REQUIRED, *, minimum: int = 1) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            self.refuse(key, f"an integer of at least {minimum}")
        return value

    def token_id(self, key: str) -> int | None:
        return None if self.get(key) is None else self.integer(key, minimum=0)

    def number(self, key: str, default: object = REQUIRED, *, positive: bool = True) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
            self.refuse(key, "a finite number")
        if value < 0 or (positive and value == 0):
            self.refuse(key, "greater than 0" if positive else "at least 0")
        return float(value)

    def boolean(self, key: str, default: object = REQUIRED) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            self.refuse(key, "true or false")
        return value

    def choice(self, key: str, supported: tuple[str, ...], default: object = REQUIRED) -> str:
        value = self.get(key, default)
        if value not in supported:
            self.refuse(key, "one of the supported " + ", ".join(repr(one) for one in supported))
        return str(value)

    def integers(self, key: str, *, length: int | None = None) -> tuple[int, ...]:
        value = self.get(key, REQUIRED)
        whole = isinstance(value, list | tuple) and all(type(one) is int for one in value)
        if not whole or not value or (length is not None and len(value) != length):
            self.refuse(key, "a list of integers" if length is None else f"a list of {length} integers")
        return tuple(value)


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def read_json(path: Path) -> Any:
    """The parsed file.

    Raises:
        CheckpointError: The file is missing, not readable, or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: file is missing; a MolmoAct2 checkpoint directory needs it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a JSON file, but it could not be read: {error}") from error
