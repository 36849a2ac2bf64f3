"""Robotiq 2F-85 gripper on Modbus RTU."""

from __future__ import annotations

from molmoact2_drivers.robotiq.gripper import Gripper, GripperState, describe_fault

__all__ = ["Gripper", "GripperState", "describe_fault"]
