"""A simulated SO-101 at a table with a red, a green and a blue block.

Stable interface (positions and targets are (6,) in the order of JOINT_NAMES: degrees, gripper 0..100):

    world = World(seed, image_size=(112, 112))         # parameters=SceneParameters(...) for what varies
    scene = world.reset(rng)                           # blocks (colour, position, yaw, half_size), start positions
    world.step(targets, seconds=0.1)                   # set points move in a straight line to the targets
    world.positions(), world.velocities(), world.time, world.limits
    world.set_positions(positions)                     # teleport, for images of many poses
    world.render("front" | "wrist")                    # (H, W, 3) uint8 RGB
    world.image_points("front" | "wrist")              # .pixels (3, 2) column and row, .visible (3,) share, by COLOURS
    world.block_positions(), world.block_half_sizes(), world.grip_point(), world.touches
    task = TouchTask("red"); task.instruction; task.outcome(world)   # .done, .success, .reason
    expert_chunk(world, "red", horizon, rate_hz)       # (horizon, 6) targets, target k due (k + 1) / rate_hz from now

Importing this package does not import MuJoCo; making a World does.
"""

from __future__ import annotations

from molmoact2_edge.sim.expert import expert_chunk
from molmoact2_edge.sim.scene import CAMERAS, COLOURS, JOINT_NAMES, Block, Scene, SceneParameters
from molmoact2_edge.sim.touch import Outcome, TouchTask, instruction, parse_instruction
from molmoact2_edge.sim.world import ImagePoints, Touch, World

__all__ = [
    "CAMERAS",
    "COLOURS",
    "JOINT_NAMES",
    "Block",
    "ImagePoints",
    "Outcome",
    "Scene",
    "SceneParameters",
    "Touch",
    "TouchTask",
    "World",
    "expert_chunk",
    "instruction",
    "parse_instruction",
]
