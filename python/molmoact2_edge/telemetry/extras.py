"""Optional packages, asked for where they are needed, with an error that says what to install."""

from __future__ import annotations

import importlib
from typing import Any

from molmoact2_edge.errors import MissingExtraError


def pyav() -> Any:
    """Return the module ``av``."""
    return _module("av", "PyAV", "record")


def arrow() -> Any:
    """Return the module ``pyarrow`` with its parquet reader and its functions."""
    _module("pyarrow.parquet", "pyarrow", "record")
    _module("pyarrow.compute", "pyarrow", "record")
    return _module("pyarrow", "pyarrow", "record")


def rerun() -> Any:
    """Return the module ``rerun``."""
    return _module("rerun", "rerun-sdk", "viz")


def _module(name: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"--{extra} needs {package}, which is not installed: pip install 'molmoact2-edge[{extra}]'"
        ) from error
