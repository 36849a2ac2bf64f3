"""Where the library lies that an emulated Panda hands to its clients as its model."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path

_LIBRARY = "libmolmoact2_franka_model.so"
_ARCHITECTURES = {"x86_64": 0, "i686": 1, "armv7l": 2, "aarch64": 3}
"""As a client's request numbers them."""
_LINUX = 0


def model_library(request: bytes) -> bytes | None:
    """Return the library for a client's request (architecture, system: one byte each); None where there is none for it.

    It was built for this computer, which is where a client of an emulator runs.
    """
    own = _ARCHITECTURES.get(platform.machine())
    if len(request) != 2 or request[0] != own or request[1] != _LINUX:
        return None
    extension = importlib.util.find_spec("molmoact2_edge._core")
    if extension is None or extension.origin is None:
        return None
    path = Path(extension.origin).with_name(_LIBRARY)
    return path.read_bytes() if path.is_file() else None
