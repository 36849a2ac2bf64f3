"""Emulators in the place of an arm: which a driver needs, how the configuration finds them, what they can break."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from molmoact2_drivers import Camera
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import InputError
from molmoact2_edge.hil.emulator_process import EmulatorProcess
from molmoact2_edge.hil.faults import FaultCase, so101_faults
from molmoact2_edge.runtime.hardware import with_connection

_FIRST_DEVICE = 10


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


_EMULATORS: Mapping[str, _Start] = {"so100": _so101, "so101": _so101}


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
