"""Copies of a reference checkpoint to damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def base(reference: Path, tmp_path: Path) -> Path:
    """A writable copy of `tiny-base`."""
    copy = tmp_path / "tiny-base"
    shutil.copytree(reference / "tiny-base", copy, ignore=shutil.ignore_patterns("cases"))
    return copy


@pytest.fixture
def edit() -> Callable[[Path, Callable[[Any], None]], None]:
    """Changes a JSON file in place."""

    def change(path: Path, how: Callable[[Any], None]) -> None:
        values = json.loads(path.read_text())
        how(values)
        path.write_text(json.dumps(values))

    return change
