"""A scripted expert for `touch`: from any state, the motion that hovers over the named block and descends on it.

It is a vector field over joint positions, without memory: labels drawn from it stay right where noise has put the arm.
The chunk is integrated kinematically, which the simulated servos follow to a fraction of a degree.
"""

from __future__ import annotations

import math

import numpy as np

from molmoact2_edge.errors import InputError
from molmoact2_edge.sim.kinematics import grip_point, joint_angles
from molmoact2_edge.sim.scene import COLOURS
from molmoact2_edge.sim.world import World
from molmoact2_edge.types import DoubleArray

PITCH = math.radians(60.0)
"""The fingers point 30 degrees off the vertical: straight down the arm reaches not even x = 0.27 m."""
HOVER_HEIGHT = 0.065
"""Height of the grip point over the table while it travels, metres: above every block."""
TOUCH_DEPTH = 0.006
"""The grip point aims this far below the block's upper face, metres, so that the touch is sure."""
_DESCEND_WITHIN = 0.006  # full descent this close to the block's centre line, metres
_HOVER_BEYOND = 0.030  # full height this far from it
_SPEED = (40.0, 40.0, 40.0, 40.0, 40.0, 60.0)  # degrees/s; the gripper in its units/s
_SETTLING = 0.2  # seconds: near its goal a joint closes the gap with this time constant
_SUBSTEP = 0.05  # seconds


def _goal(q: list[float], block: tuple[float, float, float], touch_height: float) -> tuple[float, ...]:
    """Where the joints should go from `q` (radians): over the block, lower the closer it is below the grip point."""
    x, y, _ = grip_point(q[0], q[1], q[2], q[3])
    distance = math.hypot(x - block[0], y - block[1])
    share = min(1.0, max(0.0, (distance - _DESCEND_WITHIN) / (_HOVER_BEYOND - _DESCEND_WITHIN)))
    share = share * share * (3.0 - 2.0 * share)
    arm = joint_angles(block[0], block[1], touch_height + share * (HOVER_HEIGHT - touch_height), PITCH)
    if arm is None:
        raise InputError(f"the block at {block} is out of the arm's reach")
    return arm


def expert_chunk(world: World, colour: str, horizon: int, rate_hz: float = 10.0) -> DoubleArray:
    """The expert's next joint positions from the world's present state.

    Args:
        world: read, never stepped.
        colour: the block to touch, one of COLOURS.
        horizon: number of targets.
        rate_hz: targets per second; target k is due (k + 1) / rate_hz seconds from now.

    Returns:
        (horizon, 6) float64 joint targets: degrees, gripper 0..100. Once the block is touched, the present positions.

    Raises:
        InputError: unknown colour, or the block was pushed out of reach.
    """
    if colour not in COLOURS:
        raise InputError(f"no {colour!r} block; the blocks are {', '.join(COLOURS)}")
    positions = world.positions()
    if any(touch.colour == colour for touch in world.touches):
        return np.tile(np.clip(positions, world.limits[:, 0], world.limits[:, 1]), (horizon, 1))
    index = COLOURS.index(colour)
    bx, by, bz = (float(value) for value in world.block_positions()[index])
    touch_height = bz + float(world.block_half_sizes()[index]) - TOUCH_DEPTH

    state = [math.radians(value) for value in positions[:5]] + [float(positions[5])]
    speed = [math.radians(value) for value in _SPEED[:5]] + [_SPEED[5]]
    substeps = max(1, math.ceil(1.0 / (rate_hz * _SUBSTEP) - 1e-9))
    dt = 1.0 / (rate_hz * substeps)
    share = 1.0 - math.exp(-dt / _SETTLING)
    chunk = np.empty((horizon, 6))
    for k in range(horizon):
        for _ in range(substeps):
            goal = (*_goal(state, (bx, by, bz), touch_height), 0.0, 0.0)
            move = [share * (g - q) for g, q in zip(goal, state, strict=True)]
            # One factor for all joints keeps the path straight in joint space.
            slow = max(1.0, *(abs(m) / (v * dt) for m, v in zip(move, speed, strict=True)))
            state = [q + m / slow for q, m in zip(state, move, strict=True)]
        chunk[k] = state
    chunk[:, :5] = np.degrees(chunk[:, :5])
    return np.clip(chunk, world.limits[:, 0], world.limits[:, 1])
