"""From a robot's configuration and the sources that a person named to cameras, matched by their roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from molmoact2_drivers.cameras.capture import Capture, Wanted
from molmoact2_drivers.cameras.file_capture import FileCapture
from molmoact2_drivers.cameras.realsense_capture import RealSenseCapture
from molmoact2_drivers.cameras.source import DeviceSource, FileSource, Source, StreamSource, parse_source
from molmoact2_drivers.cameras.stream_capture import StreamCapture
from molmoact2_drivers.cameras.threaded_camera import ThreadedCamera
from molmoact2_drivers.cameras.v4l2_capture import V4l2Capture
from molmoact2_edge.errors import InputError

if TYPE_CHECKING:
    from molmoact2_edge.config import CameraConfig, RobotConfig


def open_cameras(
    config: RobotConfig,
    sources: Mapping[str, str] | None = None,
    *,
    resize: bool = False,
) -> dict[str, ThreadedCamera]:
    """Return the robot's cameras by role, in the order in which the policy wants them; none is connected yet.

    ``sources`` come before those of the configuration. ``resize`` allows to all cameras what the configuration may
    allow to each: not to offer the configured size. A file's pictures may stand still, whatever ``freeze_fault_s`` is.

    Raises:
        InputError: a source for a role that the robot does not have, a role without a source, a source that names
            nothing, or two roles with the same device.
    """
    texts = assigned_sources(config, sources or {})
    return {
        role: _camera(role, camera, parse_source(texts[role]), resize)
        for role, camera in config.cameras.items()
    }


def _camera(role: str, config: CameraConfig, source: Source, resize: bool) -> ThreadedCamera:
    return ThreadedCamera(
        role,
        open_source(source),
        Wanted(config.height, config.width, config.rate_hz, resize or config.resize),
        lost_fault_s=config.lost_fault_s,
        freeze_fault_s=None if isinstance(source, FileSource) else config.freeze_fault_s,
    )


def assigned_sources(config: RobotConfig, sources: Mapping[str, str]) -> dict[str, str]:
    """Return the source of each role, in the robot's order.

    Raises:
        InputError: as :func:`open_cameras` says.
    """
    roles = list(config.cameras)
    unknown = [role for role in sources if role not in config.cameras]
    texts = {role: sources.get(role, camera.source) for role, camera in config.cameras.items()}
    missing = [role for role, text in texts.items() if text is None]
    if unknown or missing:
        problems = [f"{config.name} has no camera {role}" for role in unknown]
        problems += [f"camera {role} has no source" for role in missing]
        given = ", ".join(f"{role}={text}" for role, text in sources.items()) or "none"
        raise InputError(
            f"{'; '.join(problems)}. {config.name}'s cameras are {', '.join(roles)}; given are {given}. "
            f"Name each with --camera ROLE=SOURCE"
        )
    assigned = {role: text for role, text in texts.items() if text is not None}
    used: dict[str, str] = {}
    for role, text in assigned.items():
        try:
            identity = parse_source(text).identity
        except InputError as error:
            raise InputError(f"camera {role}: {error}") from error
        if identity is not None and identity in used:
            first = used[identity]
            raise InputError(
                f"cameras {first} and {role} are the same device: {assigned[first]} and {text}; each role has its own"
            )
        if identity is not None:
            used[identity] = role
    return assigned


def open_source(source: Source) -> Capture:
    """Return what reads from a source; nothing is opened yet."""
    if isinstance(source, DeviceSource):
        return V4l2Capture(source.path)
    if isinstance(source, FileSource):
        return FileCapture(source.path, source.once)
    if isinstance(source, StreamSource):
        return StreamCapture(source.url)
    return RealSenseCapture(source.serial)
