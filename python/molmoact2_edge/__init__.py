"""MolmoAct2 on the robot: the exact model, fast kernels, and a control loop that keeps time.

Names are loaded on first use, so that importing the package stays fast and needs no optional dependency.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from molmoact2_edge.build import build_config as build_config
    from molmoact2_edge.depth import depth_update_mask as depth_update_mask
    from molmoact2_edge.guide import ActionGuide as ActionGuide
    from molmoact2_edge.openfast import OpenFast as OpenFast
    from molmoact2_edge.policy import DepthCache as DepthCache
    from molmoact2_edge.policy import Policy as Policy
    from molmoact2_edge.policy import Prediction as Prediction

_HOME = {
    "ActionGuide": "guide",
    "DepthCache": "policy",
    "OpenFast": "openfast",
    "Policy": "policy",
    "Prediction": "policy",
    "build_config": "build",
    "depth_update_mask": "depth",
}

__all__ = [
    "ActionGuide",
    "DepthCache",
    "OpenFast",
    "Policy",
    "Prediction",
    "build_config",
    "depth_update_mask",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
