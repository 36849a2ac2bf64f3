"""Emulators in the place of an arm: which a driver needs, how the configuration finds them, what they can break."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from molmoact2_drivers import Camera
from molmoact2_drivers.calibration import ArmCalibration, JointCalibration, save_calibration
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import InputError
from molmoact2_edge.hil.emulator_process import EmulatorProcess
from molmoact2_edge.hil.fault_cases import (
    FaultCase,
    dynamixel_faults,
    franka_faults,
    robotiq_faults,
    so101_faults,
    yam_faults,
)
from molmoact2_edge.runtime.hardware import with_connection

_FIRST_DEVICE = 10
_DYNAMIXEL_BAUD = 1_000_000
_PATIENT_S = 0.5
_JOINT_TICKS, _GRIPPER_TICKS = (700, 3400), (1800, 2900)  # emulated servos stand at 2048 of 4096


@dataclass(frozen=True)
class Emulation:
    """What stands in for an arm, running."""

    config: RobotConfig
    """That connects to it."""
    processes: list[EmulatorProcess]
    faults: list[FaultCase]
    cameras: dict[str, EmulatorProcess] = field(default_factory=dict)
    """By role."""


_Start = Callable[[ExitStack, RobotConfig, Path], Emulation]


def _so101(stack: ExitStack, config: RobotConfig, directory: Path) -> Emulation:
    calibration = directory / "calibration.json"
    arm = stack.enter_context(EmulatorProcess("so101", ["--calibration", str(calibration)]))
    connected = with_connection(config, port=arm.address, calibration=calibration)
    loop = config.loop
    return Emulation(connected, [arm], so101_faults(loop.silence_hold_s, loop.silence_fault_s))


def _dynamixel(stack: ExitStack, config: RobotConfig, directory: Path) -> Emulation:
    calibration = directory / "calibration.json"
    servos = config.connection.get("servos", {})
    joints = {
        name: JointCalibration(
            int(servo["id"]), 0, 0, *(_GRIPPER_TICKS if name == "gripper" else _JOINT_TICKS)
        )
        for name, servo in servos.items()
    }
    save_calibration(calibration, ArmCalibration(joints))
    line = ",".join(f"{servo['id']}:{servo['model']}" for servo in servos.values())
    baud = str(config.connection.get("baud") or _DYNAMIXEL_BAUD)
    arm = stack.enter_context(EmulatorProcess("dynamixel", ["--servos", line, "--baud", baud]))
    connected = with_connection(config, port=arm.address, calibration=calibration)
    # Servos must bear the pauses of a computer that they share.
    connected = replace(connected, connection={**connected.connection, "bus_watchdog_s": _PATIENT_S})
    loop = config.loop
    return Emulation(connected, [arm], dynamixel_faults(loop.silence_hold_s, loop.silence_fault_s))


def _yam(stack: ExitStack, config: RobotConfig, _: Path) -> Emulation:
    arms = stack.enter_context(EmulatorProcess("yam", ["--bimanual"]))
    left, right = arms.address.split()
    connected = with_connection(config, left_port=left, right_port=right)
    # The emulator's arms weigh nothing, and its motors, too, share a computer.
    weightless = {**connected.connection, "gravity": None, "timeout_s": _PATIENT_S, "ramp_s": 0.05}
    return Emulation(
        replace(connected, connection=weightless), [arms], yam_faults(config.loop.silence_hold_s)
    )


def _franka(stack: ExitStack, config: RobotConfig, _: Path) -> Emulation:
    number = os.getpid() % 65_000  # ports are fixed: an address of its own for each session
    address = f"127.77.{number // 250}.{number % 250 + 1}"
    emulator = {"fr3": "fr3", "panda": "panda"}[str(config.connection.get("arm", "fr3"))]
    arm = stack.enter_context(EmulatorProcess(emulator, ["--address", address, "--patience", "1"]))
    connected = with_connection(config, port=arm.address)
    processes, faults = [arm], franka_faults(config.loop.silence_hold_s)
    if config.connection.get("gripper") == "robotiq":
        gripper = stack.enter_context(EmulatorProcess("robotiq"))
        processes.append(gripper)
        faults += robotiq_faults(config.loop.silence_hold_s, emulator=1)
        connected = replace(connected, connection={**connected.connection, "gripper_port": gripper.address})
    return Emulation(connected, processes, faults)


_EMULATORS: Mapping[str, _Start] = {
    "so100": _so101,
    "so101": _so101,
    "koch": _dynamixel,
    "dynamixel": _dynamixel,
    "yam": _yam,
    "franka": _franka,
}


def emulated_drivers() -> list[str]:
    """Return the drivers that there are emulators for."""
    return sorted(_EMULATORS)


@contextmanager
def emulated(config: RobotConfig, directory: Path, camera_frames: Path | None = None) -> Iterator[Emulation]:
    """Start what ``config.driver`` needs; its files lie in ``directory``, the cameras' frames in ``camera_frames``.

    Raises:
        InputError: there is no emulator for this driver.
        RobotError: one does not start.
    """
    if config.driver not in _EMULATORS:
        raise InputError(
            f"there is no emulator for the driver {config.driver!r}; there are {', '.join(emulated_drivers())}"
        )
    with ExitStack() as stack:
        emulation = _EMULATORS[config.driver](stack, config, directory)
        if camera_frames is not None:
            for role, (device, frames) in camera_devices(config, camera_frames).items():
                camera = config.cameras[role]
                options = ["--device", device, "--frames", str(frames), "--rate", f"{camera.rate_hz:g}"]
                options += ["--size", f"{camera.width}x{camera.height}"]
                emulation.cameras[role] = stack.enter_context(EmulatorProcess("camera", options))
        yield emulation


def camera_devices(config: RobotConfig, directory: Path) -> dict[str, tuple[str, Path]]:
    """Return, by role, where clients find each emulated camera, and the file behind it."""
    return {
        role: (f"/dev/video{_FIRST_DEVICE + number}", directory / f"{role}.frames")
        for number, role in enumerate(config.cameras)
    }


def open_emulated_cameras(emulation: Emulation, camera_frames: Path) -> dict[str, Camera]:
    """Connect to the emulated cameras; this process must have been started in their environment."""
    from molmoact2_drivers.cameras import open_cameras

    devices = camera_devices(emulation.config, camera_frames)
    cameras = open_cameras(emulation.config, {role: device for role, (device, _) in devices.items()})
    for camera in cameras.values():
        camera.connect()
    return dict(cameras)
