"""Robots and cameras, each behind one protocol, and the emulators that they are tested against."""

from __future__ import annotations

from molmoact2_drivers.protocol import (
    Camera,
    CameraCapabilities,
    Frame,
    Joint,
    JointUnit,
    LifeCycle,
    Measurement,
    Robot,
    RobotCapabilities,
    RobotState,
    StopPolicy,
)

__all__ = [
    "Camera",
    "CameraCapabilities",
    "Frame",
    "Joint",
    "JointUnit",
    "LifeCycle",
    "Measurement",
    "Robot",
    "RobotCapabilities",
    "RobotState",
    "StopPolicy",
]
