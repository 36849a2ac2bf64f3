"""Puts the rules in plain Python on the path of the tests that compare with them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
