"""Closed-form kinematics of the SO-101 for a gripper in the vertical plane of the arm.

Seen from the side, shoulder lift, elbow and wrist flex form a planar chain and all three turn the gripper downwards
when they grow; the shoulder pan turns that plane about a vertical axis, clockwise from above. The figures follow from
the body frames in `models/so101_sim/so101_touch.xml`, which a test compares.
"""

from __future__ import annotations

import math

# Plane coordinates (metres): distance from the pan axis, height above the table, at joint zero.
_PAN_AXIS_X = 0.0388
_SHOULDER = (0.0304, 0.1166)
_UPPER = (0.0280, 0.1126)  # shoulder lift to elbow
_FORE = (0.1349, 0.0052)  # elbow to wrist flex
_HAND = (0.1592, -0.0079)  # wrist flex to grip point

_UPPER_LENGTH = math.hypot(*_UPPER)
_FORE_LENGTH = math.hypot(*_FORE)
_UPPER_ANGLE = math.atan2(_UPPER[1], _UPPER[0])
_FORE_ANGLE = math.atan2(_FORE[1], _FORE[0])


def _turned(vector: tuple[float, float], pitch: float) -> tuple[float, float]:
    cosine, sine = math.cos(pitch), math.sin(pitch)
    return cosine * vector[0] + sine * vector[1], cosine * vector[1] - sine * vector[0]


def grip_point(pan: float, lift: float, elbow: float, wrist: float) -> tuple[float, float, float]:
    """Place of the grip point (metres, world frame) for joint angles in radians, wrist roll at zero."""
    upper = _turned(_UPPER, lift)
    fore = _turned(_FORE, lift + elbow)
    hand = _turned(_HAND, lift + elbow + wrist)
    radius = _SHOULDER[0] + upper[0] + fore[0] + hand[0]
    height = _SHOULDER[1] + upper[1] + fore[1] + hand[1]
    return _PAN_AXIS_X + radius * math.cos(pan), -radius * math.sin(pan), height


def joint_angles(x: float, y: float, z: float, pitch: float) -> tuple[float, float, float, float] | None:
    """Pan, lift, elbow and wrist (radians) that put the grip point at a place, elbow up; None when out of reach.

    Args:
        x, y, z: place in the world frame, metres.
        pitch: angle of the fingers below the horizontal, radians (pi / 2 points straight down).

    Joint limits are not looked at.
    """
    hand = _turned(_HAND, pitch)
    across = math.hypot(x - _PAN_AXIS_X, y) - hand[0] - _SHOULDER[0]
    up = z - hand[1] - _SHOULDER[1]
    cosine = (across * across + up * up - _UPPER_LENGTH**2 - _FORE_LENGTH**2) / (
        2.0 * _UPPER_LENGTH * _FORE_LENGTH
    )
    if not -1.0 <= cosine <= 1.0:
        return None
    bend = -math.acos(cosine)
    upper_angle = math.atan2(up, across) - math.atan2(
        _FORE_LENGTH * math.sin(bend), _UPPER_LENGTH + _FORE_LENGTH * cosine
    )
    lift = _UPPER_ANGLE - upper_angle
    fore_pitch = _FORE_ANGLE - (upper_angle + bend)
    pan = -math.atan2(y, x - _PAN_AXIS_X)
    return pan, lift, fore_pitch - lift, pitch - fore_pitch
