"""How this installation was built, and where its data files are."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from molmoact2_edge import _core


class BuildConfig(TypedDict):
    """What the compiled part was built from; ``cuda_compiler`` is empty without CUDA."""

    version: str
    build_type: str
    cxx_compiler: str
    cuda: bool
    cuda_compiler: str
    cuda_architectures: str


def build_config() -> BuildConfig:
    """Return version, compilers, build type and CUDA architectures of the compiled part."""
    return _core.build_config()


def models_dir() -> Path:
    """Return the directory of robot configurations, simulation models and the shipped checkpoint.

    A source checkout (editable install) is read in place; an installed wheel carries its own copy.
    """
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        return checkout / "models"
    return Path(_core.__file__).parent / "models"
