"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

# The networks here are tiny: a second thread gains nothing, and waiting for it costs much where the core is busy.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The directory of the public vectors."""
    return Path(__file__).parents[1] / "reference"
