"""The table scene: loading the model, and drawing a new scene by editing the model's fields instead of recompiling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molmoact2_edge.errors import RobotError
from molmoact2_edge.sim.kinematics import joint_angles
from molmoact2_edge.sim.rendering import import_mujoco
from molmoact2_edge.types import DoubleArray

JOINT_NAMES = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
COLOURS = ("red", "green", "blue")
CAMERAS = ("front", "wrist")

Range = tuple[float, float]


@dataclass(frozen=True)
class SceneParameters:
    """What varies between scenes. Ranges are uniform, `jitter` is the half width of a uniform range about zero."""

    block_x: Range = (0.18, 0.30)
    """Block centres, metres from the base, away from it."""
    block_y: Range = (-0.12, 0.12)
    """Block centres, metres to the base's left."""
    block_half_size: Range = (0.011, 0.014)
    """Half the edge of a block, metres; drawn per block."""
    block_separation: float = 0.055
    """Least distance of two block centres, metres: the closed gripper fits between two blocks."""
    block_colour_jitter: float = 0.06
    table_brightness: Range = (0.35, 0.70)
    table_tint_jitter: float = 0.05
    robot_brightness: Range = (0.85, 1.10)
    light_brightness: Range = (0.75, 1.15)
    light_direction_jitter: float = 0.35
    front_position_jitter: float = 0.010
    """Metres along each axis."""
    front_rotation_jitter: float = 1.0
    """Degrees about each axis."""
    wrist_position_jitter: float = 0.002
    wrist_rotation_jitter: float = 1.0
    start_place: tuple[float, float, float] = (0.19, 0.0, 0.115)
    """Grip point at the start, metres; the fingers point 60 degrees down."""
    start_pan_jitter: float = 12.0
    """Degrees."""
    start_joint_jitter: float = 3.0
    """Degrees, for the other arm joints."""
    start_gripper: Range = (0.0, 20.0)
    """Gripper opening at the start, 0 (closed) to 100."""


@dataclass(frozen=True)
class Block:
    """A cube on the table."""

    colour: str
    position: tuple[float, float, float]
    """Centre, metres, world frame."""
    yaw: float
    """Degrees about the vertical."""
    half_size: float
    """Half the edge, metres."""


@dataclass(frozen=True)
class Scene:
    """One drawn scene: the blocks in the order of COLOURS and where the arm starts."""

    blocks: tuple[Block, ...]
    start: tuple[float, ...]
    """Joint positions in the order of JOINT_NAMES: degrees, gripper 0..100."""


def model_path() -> Path:
    """Path of the MJCF: beside the package when installed, in the repository's `models/` when installed editable.

    Raises:
        RobotError: neither place has it.
    """
    package = Path(__file__).resolve().parents[1]
    places = [root / "models" / "so101_sim" / "so101_touch.xml" for root in (package, package.parents[1])]
    for place in places:
        if place.is_file():
            return place
    raise RobotError(
        f"the simulation model is missing, expected at {places[0]} or {places[1]}; reinstall molmoact2-edge"
    )


def load_model() -> Any:
    """Compiles the MJCF: a `mujoco.MjModel`."""
    return import_mujoco().MjModel.from_xml_path(str(model_path()))


def _rotation(vector_deg: DoubleArray) -> DoubleArray:
    """Unit quaternion (w, x, y, z) of a rotation vector in degrees."""
    angle = math.radians(float(np.linalg.norm(vector_deg)))
    if angle == 0.0:
        return np.array([1.0, 0.0, 0.0, 0.0])
    axis = vector_deg / np.linalg.norm(vector_deg)
    return np.concatenate([[math.cos(angle / 2)], math.sin(angle / 2) * axis])


class SceneSampler:
    """Draws scenes for one model. Nominal values are kept, so that scenes do not drift from one to the next."""

    def __init__(self, model: Any, parameters: SceneParameters) -> None:
        self._mj = import_mujoco()
        self._model = model
        self._scratch = self._mj.MjData(model)
        self.parameters = parameters
        self._block_bodies = [model.body(f"{colour}_block").id for colour in COLOURS]
        self._block_geoms = [model.geom(f"{colour}_block").id for colour in COLOURS]
        self._block_qpos = [int(model.joint(f"{colour}_block").qposadr[0]) for colour in COLOURS]
        self._robot_geoms = np.flatnonzero(model.geom_group == 1)
        self._table = model.geom("table").id
        self._cameras = [model.camera(name).id for name in CAMERAS]
        self._rgba = model.geom_rgba.copy()
        self._light_dir = model.light_dir.copy()
        self._light_diffuse = model.light_diffuse.copy()
        self._cam_pos = model.cam_pos.copy()
        self._cam_quat = model.cam_quat.copy()
        self._block_mass = model.body_mass[self._block_bodies].copy()
        self._block_inertia = model.body_inertia[self._block_bodies].copy()
        self._nominal_half = float(model.geom_size[self._block_geoms[0], 0])
        self._start = self._start_positions()

    def sample(self, rng: np.random.Generator, data: Any) -> Scene:
        """Draws a scene from `rng`, edits the model, and puts `data` at its start with everything at rest."""
        p = self.parameters
        half_sizes = rng.uniform(*p.block_half_size, size=3)
        places = self._places(rng)
        yaws = rng.uniform(-45.0, 45.0, size=3)
        start = self._start + rng.uniform(-1.0, 1.0, size=6) * np.array(
            [p.start_pan_jitter, *[p.start_joint_jitter] * 4, 0.0]
        )
        start[5] = rng.uniform(*p.start_gripper)
        self._size_blocks(half_sizes)
        self._colour(rng)
        self._light(rng)
        self._place_cameras(rng)

        blocks = tuple(
            Block(colour, (float(x), float(y), float(half)), float(yaw), float(half))
            for colour, (x, y), yaw, half in zip(COLOURS, places, yaws, half_sizes, strict=True)
        )
        self._mj.mj_resetData(self._model, data)
        for block, address in zip(blocks, self._block_qpos, strict=True):
            data.qpos[address : address + 3] = block.position
            data.qpos[address + 3 : address + 7] = _rotation(np.array([0.0, 0.0, block.yaw]))
        return Scene(blocks, tuple(float(value) for value in start))

    def _start_positions(self) -> DoubleArray:
        arm = joint_angles(*self.parameters.start_place, math.radians(60.0))
        if arm is None:
            raise RobotError(
                f"start_place {self.parameters.start_place} is out of the arm's reach; move it closer"
            )
        return np.array([*np.degrees(arm), 0.0, 0.0])

    def _places(self, rng: np.random.Generator) -> list[tuple[float, float]]:
        """Three places at least `block_separation` apart; all are drawn anew when one does not fit."""
        p = self.parameters
        for _ in range(10_000):
            x, y = rng.uniform(*p.block_x, size=3), rng.uniform(*p.block_y, size=3)
            gaps = np.hypot(x - np.roll(x, 1), y - np.roll(y, 1))
            if gaps.min() >= p.block_separation:
                return list(zip(x.tolist(), y.tolist(), strict=True))
        raise RobotError(
            f"three blocks do not fit into x {p.block_x}, y {p.block_y} at least {p.block_separation} m apart; "
            "widen the ranges or lower block_separation"
        )

    def _size_blocks(self, half_sizes: DoubleArray) -> None:
        model = self._model
        for i, half in enumerate(half_sizes):
            body, geom = self._block_bodies[i], self._block_geoms[i]
            scale = half / self._nominal_half
            model.geom_size[geom] = half
            # The broad phase reads these, not the size.
            model.geom_rbound[geom] = math.sqrt(3.0) * half
            model.geom_aabb[geom, 3:] = half
            first = int(model.body_bvhadr[body])
            model.bvh_aabb[first : first + int(model.body_bvhnum[body]), 3:] = half
            model.body_mass[body] = self._block_mass[i] * scale**3
            model.body_inertia[body] = self._block_inertia[i] * scale**5
        # Sub-tree masses and the solver's inverse weights follow from the masses.
        self._mj.mj_setConst(model, self._scratch)

    def _colour(self, rng: np.random.Generator) -> None:
        p, model = self.parameters, self._model
        for geom in self._block_geoms:
            shade = self._rgba[geom, :3] + rng.uniform(-1.0, 1.0, size=3) * p.block_colour_jitter
            model.geom_rgba[geom, :3] = np.clip(shade, 0.0, 1.0)
        table = rng.uniform(*p.table_brightness) + rng.uniform(-1.0, 1.0, size=3) * p.table_tint_jitter
        model.geom_rgba[self._table, :3] = np.clip(table, 0.0, 1.0)
        robot = self._rgba[self._robot_geoms, :3] * rng.uniform(*p.robot_brightness)
        model.geom_rgba[self._robot_geoms, :3] = np.clip(robot, 0.0, 1.0)

    def _light(self, rng: np.random.Generator) -> None:
        p, model = self.parameters, self._model
        for light in range(model.nlight):
            direction = self._light_dir[light] + rng.uniform(-1.0, 1.0, size=3) * p.light_direction_jitter
            model.light_dir[light] = direction / np.linalg.norm(direction)
            model.light_diffuse[light] = self._light_diffuse[light] * rng.uniform(*p.light_brightness)

    def _place_cameras(self, rng: np.random.Generator) -> None:
        p = self.parameters
        jitters = (
            (p.front_position_jitter, p.front_rotation_jitter),
            (p.wrist_position_jitter, p.wrist_rotation_jitter),
        )
        for camera, (metres, degrees) in zip(self._cameras, jitters, strict=True):
            self._model.cam_pos[camera] = self._cam_pos[camera] + rng.uniform(-1.0, 1.0, size=3) * metres
            turn = _rotation(rng.uniform(-1.0, 1.0, size=3) * degrees)
            turned = np.empty(4)
            self._mj.mju_mulQuat(turned, self._cam_quat[camera], turn)
            self._model.cam_quat[camera] = turned
