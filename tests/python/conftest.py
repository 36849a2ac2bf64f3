"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference() -> Path:
    """The directory of the public vectors."""
    return Path(__file__).parents[1] / "reference"
