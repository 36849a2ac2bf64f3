"""The library that shows frame files as V4L2 devices to a process that loads it, and the environment that makes it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from molmoact2_edge.errors import InputError

_LIBRARY = "libmolmoact2_v4l2_shim.so"


def shim_path() -> Path:
    """Return the library's path.

    Raises:
        InputError: this installation has none.
    """
    extension = importlib.util.find_spec("molmoact2_edge._core")
    if extension is not None and extension.origin is not None:
        path = Path(extension.origin).with_name(_LIBRARY)
        if path.is_file():
            return path
    raise InputError(
        f"{_LIBRARY} is not beside the compiled part; install the package again: pip install -e ."
    )


def shim_environment(devices: Mapping[str, str | Path]) -> dict[str, str]:
    """Return the variables that a process must be started with to find frame files under the paths of devices.

    Raises:
        InputError: the library is missing, or a path has one of the signs that separate paths.
    """
    for device, frames in devices.items():
        if "=" in device or "," in f"{device}{frames}":
            raise InputError(
                f"paths of emulated cameras have no comma, devices no equals sign: {device}={frames}"
            )
    mapping = ",".join(f"{device}={Path(frames).absolute()}" for device, frames in devices.items())
    return {"LD_PRELOAD": str(shim_path()), "MOLMOACT2_V4L2": mapping}
