"""A robot's configuration: joints with their limits, loop, chunks, cameras and policy, read from YAML and checked.

Files live in ``models/robots``; ``extends: NAME`` takes another file's values where this one gives none. Every
error names the file and the key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from molmoact2_edge.build import models_dir
from molmoact2_edge.config_section import Section
from molmoact2_edge.control.limits import JointLimits
from molmoact2_edge.control.watchdogs import MotorLevels, Watchdogs
from molmoact2_edge.errors import InputError

SPLICE_MODES = ("sync", "async", "blend", "rtc")
RESAMPLINGS = ("linear", "cubic")
OVERRUN_RESPONSES = ("hold", "fault")
STOP_POSES = ("hold", "damp", "torque_off")
JOINT_CONVENTIONS = ("none", "so100_so101", "franka_droid", "yam_dual")
SOFT_MASKS = ("exponential", "linear")
ISOLATIONS = ("process", "thread")
_LOST_WRITES_MAX = 3
_LOST_FAULT_S = 5.0
_FREEZE_FAULT_S = 1.0


@dataclass(frozen=True)
class JointConfig:
    """One joint; units are the joint's own (degrees, gripper 0..100), per second, per second squared."""

    position: tuple[float, float]
    """Lowest and highest target."""
    velocity: float
    acceleration: float
    jump: float
    """How far from the measured position a target may be."""
    start_distance: float
    """How far from the measured position the first target may be."""
    jerk: float | None = None
    """Per second cubed; None: not limited. Commands are late by ``acceleration / jerk`` seconds."""
    temperature: tuple[float, float] | None = None
    """Its own in the place of the watchdogs'; None: theirs."""
    current: tuple[float, float] | None = None


@dataclass(frozen=True)
class LoopConfig:
    """The control thread."""

    rate_hz: float
    silence_hold_s: float
    silence_fault_s: float
    start_speed: float
    """Share of the velocity limit on the way to the first target, above 0 to 1."""
    fifo_priority: int
    """0 for the normal scheduler, 1..99 for SCHED_FIFO."""
    lock_memory: bool
    cpus: tuple[int, ...]
    """Empty: any."""
    lost_writes_max: int
    """More lost commands in a row: hold, and go on slowly from where the arm is."""


@dataclass(frozen=True)
class RealTimeChunkingConfig:
    """How a chunk continues the one before it, in mode ``rtc``."""

    delay_quantile: float
    """Of the recent calls' delays: the rows that are executed within it are frozen."""
    mask: str
    """How the weight falls after the frozen rows: ``exponential`` lets go faster than ``linear``."""
    mask_s: float
    """Over how long it falls, where the chunk before lasts as long."""
    tolerance: float
    """How far, in a joint's unit, a frozen row may be from what was executed before the chunk is counted."""


@dataclass(frozen=True)
class ChunkConfig:
    """How chunks of actions are timed and spliced."""

    rate_hz: float
    """Actions per second; at most the loop's rate."""
    mode: str
    resampling: str
    """How targets between actions are found: ``linear``, or ``cubic`` with a continuous velocity."""
    blend_s: float
    first_action_due: int
    """Periods of ``rate_hz`` between the observation and the first action: 0 or 1."""
    replan_after: int
    """Actions of a chunk to execute before the next is asked for; 0 asks all the time."""
    rtc: RealTimeChunkingConfig


@dataclass(frozen=True)
class WatchdogConfig:
    """When the loop holds besides a silent bus, or when that is a fault."""

    chunk_age_max_s: float | None
    """Of the observation behind an executed action; older: hold. None: any age."""
    camera_age_max_s: float
    """Of each camera's newest image; older: hold."""
    overruns_max: int | None
    """More missed deadlines within ``overrun_window_s`` are too many. None: any number."""
    overrun_window_s: float
    overrun_response: str
    temperature: tuple[float, float] | None
    """Degrees Celsius of a joint: above the first the arm is held, above the second is a fault. None: not judged."""
    temperature_hysteresis: float
    """Degrees below the first at which the hold ends."""
    current: tuple[float, float] | None
    """Amperes of a joint, by magnitude."""
    current_hysteresis: float
    current_duration_s: float
    """How long a current must last to count."""


@dataclass(frozen=True)
class StopConfig:
    """Ways to stop a run besides its end, and what the motors do once the arm is at rest."""

    pose: str
    """``hold``, ``damp`` or ``torque_off``."""
    key: bool
    """Any key in the run's terminal stops."""
    file: str | None
    """Stops when this path exists; its directory must."""
    socket: str | None
    """``unix:PATH`` or ``tcp:PORT`` on 127.0.0.1: whatever is sent there stops."""


@dataclass(frozen=True)
class CameraConfig:
    """One camera."""

    height: int
    width: int
    rate_hz: float
    source: str | None = None
    """Device path, file, URL or ``realsense:SERIAL``; None: given on the command line, or the driver brings its own."""
    resize: bool = False
    """Whether a camera that does not offer this size may be used: its next larger pictures are then made to fit."""
    lost_fault_s: float = _LOST_FAULT_S
    """Seconds without an image after which the driver says why; ``camera_age_max_s`` holds the arm long before."""
    freeze_fault_s: float | None = _FREEZE_FAULT_S
    """Seconds of images that are new by their times and equal to the byte, which a sensor's noise never gives: then the
    driver gives no image any more, and the arm is held. None: images may stand still, as those of files always may."""


@dataclass(frozen=True)
class PolicyConfig:
    """What the policy must know about the robot."""

    norm_tag: str | None
    """None: the checkpoint's only embodiment."""
    joint_convention: str
    frame_age_max_s: float
    """Older images are not given to the policy."""
    isolation: str
    """``process``: its failures cannot touch the loop; ``thread``: of the control process, which then needs PyTorch."""
    threads: int
    """For its computations; 0 leaves the choice to PyTorch."""
    nice: int
    """0..19: how far its process stands back when others want the processor too."""
    call_limit_s: float
    """A call that takes longer is given up, and the process killed."""
    restarts: int
    """How often in a run a process that failed is started anew."""


@dataclass(frozen=True)
class RobotConfig:
    """Everything about one robot. Cameras are in the order in which the policy wants their images."""

    name: str
    driver: str
    joints: dict[str, JointConfig]
    loop: LoopConfig
    chunk: ChunkConfig
    watchdogs: WatchdogConfig
    stop: StopConfig
    cameras: dict[str, CameraConfig]
    policy: PolicyConfig
    connection: Mapping[str, Any] = field(default_factory=dict)
    """What the driver wants to know (port, calibration, addresses): read and checked by the driver itself."""

    def limits(self) -> JointLimits:
        """Return the gate's limits, joints in the order of the file."""
        joints = self.joints.values()
        return JointLimits(
            position_min=[joint.position[0] for joint in joints],
            position_max=[joint.position[1] for joint in joints],
            velocity_max=[joint.velocity for joint in joints],
            acceleration_max=[joint.acceleration for joint in joints],
            jump_max=[joint.jump for joint in joints],
            jerk_max=[joint.jerk or 0.0 for joint in joints],
        )

    def watchdog_settings(self) -> Watchdogs:
        """Return what the loop watches, cameras in the order of the file."""
        watch = self.watchdogs
        joints = list(self.joints.values())
        return Watchdogs(
            chunk_age_max_s=watch.chunk_age_max_s,
            cameras=tuple(self.cameras),
            camera_age_max_s=watch.camera_age_max_s,
            overruns_max=watch.overruns_max,
            overrun_window_s=watch.overrun_window_s,
            overruns_fault=watch.overrun_response == "fault",
            temperature=_motor_levels(
                [joint.temperature or watch.temperature for joint in joints], watch.temperature_hysteresis
            ),
            current=_motor_levels(
                [joint.current or watch.current for joint in joints],
                watch.current_hysteresis,
                watch.current_duration_s,
            ),
        )

    def start_distances(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return (joints,) how far the first target may be."""
        return np.array([joint.start_distance for joint in self.joints.values()], dtype=np.float64)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values with the file's keys, complete and without ``extends``."""
        return {
            "name": self.name,
            "driver": self.driver,
            "joints": {name: _plain(joint) for name, joint in self.joints.items()},
            "loop": {**vars(self.loop), "cpus": list(self.loop.cpus)},
            "chunk": {**vars(self.chunk), "rtc": dict(vars(self.chunk.rtc))},
            "watchdogs": _plain(self.watchdogs),
            "stop": dict(vars(self.stop)),
            "cameras": {name: dict(vars(camera)) for name, camera in self.cameras.items()},
            "policy": dict(vars(self.policy)),
            "connection": dict(self.connection),
        }

    def to_yaml(self) -> str:
        """Return the configuration as YAML that :func:`load_robot` reads back."""
        return yaml.safe_dump(self.as_dict(), sort_keys=False)


def _plain(section: JointConfig | WatchdogConfig) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(section).items()}


def _motor_levels(
    levels: list[tuple[float, float] | None], hysteresis: float, duration_s: float = 0.0
) -> MotorLevels | None:
    if not any(levels):
        return None
    pairs = [(math.inf, math.inf) if pair is None else pair for pair in levels]
    warn, limit = zip(*pairs, strict=True)
    return MotorLevels(warn, limit, hysteresis, duration_s)


def robot_names() -> list[str]:
    """Return the names of the robots that ship with this package."""
    return sorted(path.stem for path in (models_dir() / "robots").glob("*.yaml"))


def load_robot(name_or_path: str | Path) -> RobotConfig:
    """Read a robot that ships with this package by its name, or any file by its path (``*.yaml``).

    Raises:
        InputError: there is no such robot, or the file does not fit the schema; names file and key.
    """
    path = _find(name_or_path)
    return _Reader(path, _merged(path, seen=())).robot()


def _find(name_or_path: str | Path, base: Path | None = None) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        path = path if base is None else base / path
        if not path.is_file():
            raise InputError(f"no robot configuration at {path}")
        return path
    shipped = models_dir() / "robots" / f"{name_or_path}.yaml"
    if not shipped.is_file():
        raise InputError(
            f"no robot {str(name_or_path)!r}; there are {', '.join(robot_names())}, or give the path of a .yaml file"
        )
    return shipped


def _merged(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path in seen:
        raise InputError(f"{path}: extends leads back to itself")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)  # noqa: S506 - a safe loader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping of keys, got {type(data).__name__}")
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise InputError(f"{path}: extends: expected a robot's name or a file, got {base!r}")
    return _overlay(_merged(_find(base, path.parent), (*seen, path)), data)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a key that comes twice: YAML would take the last one, whatever the one above it says."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See SafeLoader."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} comes twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _overlay(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    # A table of cameras or joints is replaced as a whole: its order has a meaning.
    merged = dict(base)
    for key, value in over.items():
        if key not in ("joints", "cameras") and isinstance(value, dict) and isinstance(base.get(key), dict):
            merged[key] = _overlay(base[key], value)
        else:
            merged[key] = value
    return merged


class _Reader:
    """Reads one section after the other and knows the place of each value for its error."""

    def __init__(self, path: Path, data: Mapping[str, Any]) -> None:
        self.path = path
        self.data = data

    def robot(self) -> RobotConfig:
        top = Section(self.path, "", self.data)
        joints = {name: self._joint(section) for name, section in top.sections("joints", at_most=32)}
        cameras = {name: self._camera(section) for name, section in top.sections("cameras", at_most=16)}
        loop = self._loop(top.section("loop"))
        config = RobotConfig(
            name=top.text("name"),
            driver=top.text("driver"),
            joints=joints,
            loop=loop,
            chunk=self._chunk(top.section("chunk"), loop.rate_hz),
            watchdogs=self._watchdogs(top.section("watchdogs")),
            stop=self._stop(top.section("stop")),
            cameras=cameras,
            policy=self._policy(top.section("policy")),
            connection=top.optional_mapping("connection"),
        )
        top.no_more()
        return config

    @staticmethod
    def _joint(section: Section) -> JointConfig:
        joint = JointConfig(
            position=section.interval("position"),
            velocity=section.number("velocity", above=0),
            acceleration=section.number("acceleration", above=0),
            jump=section.number("jump", above=0),
            start_distance=section.number("start_distance", above=0),
            jerk=section.optional_number("jerk", above=0),
            temperature=section.optional_interval("temperature", above=0),
            current=section.optional_interval("current", above=0),
        )
        section.no_more()
        return joint

    @staticmethod
    def _camera(section: Section) -> CameraConfig:
        camera = CameraConfig(
            height=section.integer("height", 1, 4096),
            width=section.integer("width", 1, 4096),
            rate_hz=section.number("rate_hz", above=0, at_most=1000),
            source=section.optional_text("source"),
            resize=section.boolean_or("resize", False),
            lost_fault_s=section.number_or("lost_fault_s", _LOST_FAULT_S, above=0, at_most=3600),
            freeze_fault_s=section.number_or_off("freeze_fault_s", _FREEZE_FAULT_S, above=0, at_most=3600),
        )
        section.no_more()
        return camera

    @staticmethod
    def _loop(section: Section) -> LoopConfig:
        hold = section.number("silence_hold_s", above=0)
        lost = section.optional_integer("lost_writes_max", 0, 1000)
        loop = LoopConfig(
            rate_hz=section.number("rate_hz", at_least=10, at_most=1000),
            silence_hold_s=hold,
            silence_fault_s=section.number("silence_fault_s", at_least=hold),
            start_speed=section.number("start_speed", above=0, at_most=1),
            fifo_priority=section.integer("fifo_priority", 0, 99),
            lock_memory=section.boolean("lock_memory"),
            cpus=section.integers("cpus"),
            lost_writes_max=_LOST_WRITES_MAX if lost is None else lost,
        )
        section.no_more()
        return loop

    @staticmethod
    def _chunk(section: Section, loop_rate_hz: float) -> ChunkConfig:
        chunk = ChunkConfig(
            rate_hz=section.number("rate_hz", above=0, at_most=loop_rate_hz),
            mode=section.choice("mode", SPLICE_MODES),
            resampling=section.choice("resampling", RESAMPLINGS),
            blend_s=section.number("blend_s", at_least=0, at_most=10),
            first_action_due=section.integer("first_action_due", 0, 1),
            replan_after=section.integer("replan_after", 0, 1000),
            rtc=_Reader._rtc(section.section("rtc")),
        )
        section.no_more()
        return chunk

    @staticmethod
    def _rtc(section: Section) -> RealTimeChunkingConfig:
        rtc = RealTimeChunkingConfig(
            delay_quantile=section.number("delay_quantile", above=0, at_most=1),
            mask=section.choice("mask", SOFT_MASKS),
            mask_s=section.number("mask_s", at_least=0, at_most=10),
            tolerance=section.number("tolerance", at_least=0),
        )
        section.no_more()
        return rtc

    @staticmethod
    def _watchdogs(section: Section) -> WatchdogConfig:
        watchdogs = WatchdogConfig(
            chunk_age_max_s=section.optional_number("chunk_age_max_s", above=0),
            camera_age_max_s=section.number("camera_age_max_s", above=0),
            overruns_max=section.optional_integer("overruns_max", 1, 64),
            overrun_window_s=section.number("overrun_window_s", above=0, at_most=60),
            overrun_response=section.choice("overrun_response", OVERRUN_RESPONSES),
            temperature=section.optional_interval("temperature", above=0),
            temperature_hysteresis=section.number("temperature_hysteresis", at_least=0),
            current=section.optional_interval("current", above=0),
            current_hysteresis=section.number("current_hysteresis", at_least=0),
            current_duration_s=section.number("current_duration_s", at_least=0, at_most=60),
        )
        section.no_more()
        return watchdogs

    @staticmethod
    def _stop(section: Section) -> StopConfig:
        stop = StopConfig(
            pose=section.choice("pose", STOP_POSES),
            key=section.boolean("key"),
            file=section.optional_text("file"),
            socket=section.optional_text("socket"),
        )
        section.no_more()
        return stop

    @staticmethod
    def _policy(section: Section) -> PolicyConfig:
        policy = PolicyConfig(
            norm_tag=section.optional_text("norm_tag"),
            joint_convention=section.choice("joint_convention", JOINT_CONVENTIONS),
            frame_age_max_s=section.number("frame_age_max_s", above=0),
            isolation=section.choice("isolation", ISOLATIONS),
            threads=section.integer("threads", 0, 1024),
            nice=section.integer("nice", 0, 19),
            call_limit_s=section.number("call_limit_s", above=0, at_most=3600),
            restarts=section.integer("restarts", 0, 1000),
        )
        section.no_more()
        return policy
