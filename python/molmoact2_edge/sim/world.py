"""The simulated SO-101 at its table: physics, joint positions in LeRobot units, images, contacts, image positions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from molmoact2_edge.errors import InputError, RobotError
from molmoact2_edge.sim.rendering import OffscreenRenderer, import_mujoco
from molmoact2_edge.sim.scene import (
    CAMERAS,
    COLOURS,
    JOINT_NAMES,
    Scene,
    SceneParameters,
    SceneSampler,
    load_model,
)
from molmoact2_edge.types import DoubleArray, Image

GRIPPER_LOW_DEG = -10.0
GRIPPER_SPAN_DEG = 110.0
_GRIPPER_GEOMS = ("palm", "fixed_finger", "jaw_base", "jaw")
# Points of a block (in half edges) whose lines of sight decide how much of it a camera sees.
_SIGHT_POINTS = np.array(
    [[0, 0, 0.9]] + [[x, y, z] for x in (-0.8, 0.8) for y in (-0.8, 0.8) for z in (-0.6, 0.9)],
    dtype=np.float64,
)


@dataclass(frozen=True)
class Touch:
    """The first touch of a block by the robot."""

    colour: str
    part: str
    """Name of the robot's geom that touched it."""
    by_gripper: bool
    """True for the fingers, the jaw and the palm; False for the rest of the arm."""
    time: float
    """Seconds of simulated time since the reset."""


@dataclass(frozen=True)
class ImagePoints:
    """Where the blocks are in one camera's image, in the order of COLOURS."""

    pixels: DoubleArray
    """(3, 2): column and row of each block's centre; pixel (0, 0) covers [0, 1) x [0, 1). May lie outside the image."""
    visible: DoubleArray
    """(3,): share of the block's sight points that the camera sees, 0 (hidden or outside) to 1."""


def to_degrees(qpos: DoubleArray) -> DoubleArray:
    """Joint angles in radians (..., 6) to LeRobot's units: degrees, gripper 0 (closed) to 100."""
    positions = np.degrees(qpos)
    positions[..., 5] = (positions[..., 5] - GRIPPER_LOW_DEG) * (100.0 / GRIPPER_SPAN_DEG)
    return positions


def to_radians(positions: DoubleArray) -> DoubleArray:
    """Inverse of `to_degrees`."""
    degrees = np.array(positions, dtype=np.float64)
    degrees[..., 5] = degrees[..., 5] * (GRIPPER_SPAN_DEG / 100.0) + GRIPPER_LOW_DEG
    return np.radians(degrees)


class World:
    """One simulated scene. Not thread-safe; images are drawn in the thread that draws the first one.

    Positions and targets are (6,) in the order of JOINT_NAMES: degrees, and 0 (closed) to 100 for the gripper.
    """

    def __init__(
        self,
        seed: int | np.random.Generator = 0,
        image_size: tuple[int, int] = (112, 112),
        parameters: SceneParameters | None = None,
    ) -> None:
        """Loads the model and draws the first scene.

        Args:
            seed: seed or generator for resets without a generator of their own.
            image_size: (height, width) in pixels.
            parameters: what varies between scenes.

        Raises:
            MissingExtraError: MuJoCo is not installed.
            InputError: `image_size` is not two positive numbers.
        """
        if len(image_size) != 2 or min(image_size) < 1:
            raise InputError(f"image_size is (height, width) in pixels, both at least 1; got {image_size}")
        self._mj = import_mujoco()
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.model: Any = load_model()
        self.data: Any = self._mj.MjData(self.model)
        self._rng = np.random.default_rng(seed)
        self._sampler = SceneSampler(self.model, parameters or SceneParameters())
        self._renderer: OffscreenRenderer | None = None
        model = self.model
        self.timestep = float(model.opt.timestep)
        limits = model.jnt_range[: len(JOINT_NAMES)]
        self.limits: DoubleArray = to_degrees(limits.T).T
        """(6, 2) lowest and highest position of each joint, in the units of `positions`."""
        self._low, self._high = limits[:, 0].copy(), limits[:, 1].copy()
        self._cameras = {name: model.camera(name).id for name in CAMERAS}
        self._block_bodies = [model.body(f"{colour}_block").id for colour in COLOURS]
        self._block_geoms = [model.geom(f"{colour}_block").id for colour in COLOURS]
        self._is_robot = model.geom_group == 1
        self._gripper_geoms = {model.geom(name).id for name in _GRIPPER_GEOMS}
        self._gain, self._bias = model.actuator_gainprm.copy(), model.actuator_biasprm.copy()
        self._touches: dict[str, Touch] = {}
        self._set_point = np.zeros(6)
        self.scene: Scene = self.reset()

    def reset(self, rng: np.random.Generator | None = None) -> Scene:
        """Draws a new scene from `rng` (or the world's own generator) and puts the arm at its start, at rest."""
        self.scene = self._sampler.sample(self._rng if rng is None else rng, self.data)
        start = np.clip(to_radians(np.array(self.scene.start)), self._low, self._high)
        self.data.qpos[:6] = start
        self.set_servo_gains(1.0, 1.0)
        self._touches = {}
        self._mj.mj_forward(self.model, self.data)
        return self.scene

    @property
    def time(self) -> float:
        """Seconds of simulated time since the reset."""
        return float(self.data.time)

    @property
    def touches(self) -> tuple[Touch, ...]:
        """First touch of each touched block, in the order in which they happened."""
        return tuple(self._touches.values())

    def step(self, targets: npt.ArrayLike, seconds: float = 0.1) -> None:
        """Moves the servos' set points in a straight line to `targets` over `seconds` of simulated time.

        Targets outside the joints' limits are brought to the limit, as the servos do.

        Args:
            targets: (6,) finite.
            seconds: rounded to whole physics steps of 4 ms, at least one.

        Raises:
            InputError: `targets` is not six finite numbers.
            RobotError: the physics diverged.
        """
        wanted = np.asarray(targets, dtype=np.float64)
        if wanted.shape != (6,) or not np.isfinite(wanted).all():
            raise InputError(f"targets are six finite joint positions {JOINT_NAMES}; got {targets!r}")
        goal = np.clip(to_radians(wanted), self._low, self._high)
        steps = max(1, round(seconds / self.timestep))
        increment = (goal - self._set_point) / steps
        set_point, ctrl = self._set_point, self.data.ctrl
        mj_step, model, data = self._mj.mj_step, self.model, self.data
        for _ in range(steps):
            set_point = set_point + increment
            ctrl[:] = set_point
            mj_step(model, data)
            self._note_touches()
        self._set_point = goal
        if not np.isfinite(data.qacc).all():
            raise RobotError(f"the physics diverged at {self.time:.3f} s; reset the world")

    def positions(self) -> DoubleArray:
        """(6,) measured joint positions: degrees, gripper 0..100."""
        return to_degrees(self.data.qpos[:6].copy())

    def velocities(self) -> DoubleArray:
        """(6,) measured joint velocities: degrees per second, gripper in its 0..100 units per second."""
        velocities: DoubleArray = np.degrees(self.data.qvel[:6])
        velocities[5] *= 100.0 / GRIPPER_SPAN_DEG
        return velocities

    def set_positions(self, positions: npt.ArrayLike) -> None:
        """Puts the arm at joint positions at once, at rest, for images of many poses; the blocks stay."""
        start = np.clip(to_radians(np.asarray(positions, dtype=np.float64)), self._low, self._high)
        self.data.qpos[:6] = start
        self.data.qvel[:] = 0.0
        self.data.ctrl[:6] = start
        self._set_point = start
        self._mj.mj_forward(self.model, self.data)

    def grip_point(self) -> DoubleArray:
        """(3,) place between the finger tips, metres, world frame."""
        point: DoubleArray = self.data.site("grip").xpos.copy()
        return point

    def block_positions(self) -> DoubleArray:
        """(3, 3) centres of the blocks in the order of COLOURS, metres, world frame."""
        positions: DoubleArray = self.data.xpos[self._block_bodies].copy()
        return positions

    def block_half_sizes(self) -> DoubleArray:
        """(3,) half the edge of each block, metres."""
        sizes: DoubleArray = self.model.geom_size[self._block_geoms, 0].copy()
        return sizes

    def render(self, camera: str) -> Image:
        """(H, W, 3) uint8 RGB image of camera "front" or "wrist".

        Raises:
            InputError: no such camera.
            RobotError: no GL library works.
        """
        camera_id = self.camera_id(camera)
        if self._renderer is None:
            self._renderer = OffscreenRenderer(self.model, self.image_size)
        self.refresh_poses()
        self._renderer.capture(self.data, camera_id)
        return self._renderer.draw()

    def image_points(self, camera: str) -> ImagePoints:
        """Where each block is in a camera's image and how much of it the camera sees."""
        camera_id = self.camera_id(camera)
        data, model = self.data, self.model
        self.refresh_poses()
        eye = data.cam_xpos[camera_id].copy()
        axes = data.cam_xmat[camera_id].reshape(3, 3)
        pixels, visible = np.empty((3, 2)), np.zeros(3)
        hit = np.zeros(1, np.int32)
        for i, (body, geom) in enumerate(zip(self._block_bodies, self._block_geoms, strict=True)):
            turn = data.xmat[body].reshape(3, 3)
            points = data.xpos[body] + (_SIGHT_POINTS * model.geom_size[geom, 0]) @ turn.T
            pixels[i] = self._project((data.xpos[body] - eye) @ axes, camera_id)
            seen = 0
            for point in points:
                column, row = self._project((point - eye) @ axes, camera_id)
                if not (0.0 <= column < self.image_size[1] and 0.0 <= row < self.image_size[0]):
                    continue
                self._mj.mj_ray(model, data, eye, point - eye, None, 1, -1, hit)
                seen += int(hit[0]) == geom
            visible[i] = seen / len(points)
        return ImagePoints(pixels, visible)

    def refresh_poses(self) -> None:
        """Brings body, camera and light poses up to the positions; a physics step leaves those of its beginning."""
        self._mj.mj_kinematics(self.model, self.data)
        self._mj.mj_comPos(self.model, self.data)
        self._mj.mj_camlight(self.model, self.data)

    def set_servo_gains(self, stiffness: npt.ArrayLike, damping: npt.ArrayLike) -> None:
        """Scales the servos' position and velocity gains: 1 and 1 follow targets, 0 and 1 brake, 0 and 0 let go.

        Each is one number, or one per joint. The set points restart from the measured positions, so that nothing jumps.
        A reset restores 1 and 1.
        """
        model = self.model
        model.actuator_gainprm[:, 0] = self._gain[:, 0] * stiffness
        model.actuator_biasprm[:, 1] = self._bias[:, 1] * stiffness
        model.actuator_biasprm[:, 2] = self._bias[:, 2] * damping
        self._set_point = np.clip(self.data.qpos[:6], self._low, self._high)
        self.data.ctrl[:] = self._set_point

    def close(self) -> None:
        """Frees the GL context, in the thread that drew."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def camera_id(self, camera: str) -> int:
        """Number of a camera in the model.

        Raises:
            InputError: no such camera.
        """
        if camera not in self._cameras:
            raise InputError(f"no camera {camera!r}; this world has {', '.join(self._cameras)}")
        return int(self._cameras[camera])

    def _project(self, point: DoubleArray, camera_id: int) -> tuple[float, float]:
        """Column and row of a point in the camera's frame (x right, y up, looking along -z); infinite when behind."""
        height, width = self.image_size
        depth = -float(point[2])
        if depth <= 1e-6:
            return math.inf, math.inf
        focal = 0.5 * height / math.tan(math.radians(float(self.model.cam_fovy[camera_id])) / 2)
        return 0.5 * width + focal * float(point[0]) / depth, 0.5 * height - focal * float(point[1]) / depth

    def _note_touches(self) -> None:
        data = self.data
        if data.ncon == 0:
            return
        geoms = data.contact.geom
        for first, second in geoms[self._is_robot[geoms].any(axis=1)]:
            part, other = (first, second) if self._is_robot[first] else (second, first)
            if other not in self._block_geoms:
                continue
            colour = COLOURS[self._block_geoms.index(other)]
            if colour not in self._touches:
                self._touches[colour] = Touch(
                    colour, self.model.geom(int(part)).name, int(part) in self._gripper_geoms, self.time
                )
