"""The training tool is a folder of scripts: its modules are found as `python tools/train/train.py` finds them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools" / "train"))
