"""``molmoact2-edge cameras``: which cameras there are, a picture of each, and what a robot's policy would see."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from molmoact2_drivers.cameras import ListedCamera, ThreadedCamera, camera_options, list_cameras, open_cameras
from molmoact2_drivers.cameras.capture import Wanted
from molmoact2_drivers.cameras.opening import assigned_sources, open_source
from molmoact2_drivers.cameras.source import DeviceSource, parse_source
from molmoact2_edge.config import load_robot, robot_names
from molmoact2_edge.errors import InputError, MolmoAct2Error
from molmoact2_edge.types import Image

_RATE_HZ = 30.0


@dataclass(frozen=True)
class Look:
    """One camera as it was seen. Either what it gives, or its problem."""

    name: str
    """Its role; without a robot and a role, the device's."""
    source: str
    gives: str = ""
    """From the device, and what is done to it."""
    height: int = 0
    width: int = 0
    rate_hz: float = 0.0
    preview: str | None = None
    problem: str | None = None


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "cameras",
        help="list the cameras and save a picture of each",
        epilog="Exit code 1 where a camera of the robot, or one that was named, does not give what it must.",
    )
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="ROLE=SOURCE",
        help="look at this one: a device, a file, http://..., realsense:SERIAL; may be given several times",
    )
    parser.add_argument(
        "--robot",
        metavar="NAME|FILE",
        help="say what this robot's policy would be given, in its order: " + ", ".join(robot_names()),
    )
    parser.add_argument(
        "--resize", action="store_true", help="allow cameras that do not offer the robot's picture size"
    )
    parser.add_argument("--preview", type=Path, metavar="DIR", help="save a picture of each as NAME.png")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a list")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """List, look, save; returns the exit code."""
    sources = camera_options(arguments.camera)
    devices = [
        source.path for source in map(parse_source, sources.values()) if isinstance(source, DeviceSource)
    ]
    listed = list_cameras(devices)
    looks: list[Look] = []
    if arguments.robot is not None:
        config = load_robot(arguments.robot)
        named = assigned_sources(config, sources)
        looks = _look_at(open_cameras(config, sources, resize=arguments.resize), named, arguments.preview)
    elif sources or arguments.preview is not None:
        named = sources or {Path(camera.path).name: camera.path for camera in listed if not camera.problem}
        looks = _look_at(
            {name: _as_it_is(name, text) for name, text in named.items()}, named, arguments.preview
        )
    if arguments.json:
        content = {
            "devices": [asdict(camera) for camera in listed],
            "cameras": [asdict(look) for look in looks],
        }
        print(json.dumps(content, indent=1))
    else:
        print(_listing(listed))
        if looks:
            print(f"\n{_looks(looks, arguments.robot)}")
    return 1 if any(look.problem for look in looks) else 0


def _as_it_is(name: str, source: str) -> ThreadedCamera:
    return ThreadedCamera(name, open_source(parse_source(source)), Wanted(None, None, _RATE_HZ))


def _look_at(
    cameras: Mapping[str, ThreadedCamera], sources: Mapping[str, str], preview: Path | None
) -> list[Look]:
    # All at once, as in a run: cameras on one USB hub may work one by one and not together.
    problems = {name: _problem_of_connecting(camera) for name, camera in cameras.items()}
    looks = [
        Look(name, sources[name], problem=problems[name])
        if problems[name]
        else _look(camera, sources[name], preview)
        for name, camera in cameras.items()
    ]
    for camera in cameras.values():
        camera.disconnect()
    return looks


def _problem_of_connecting(camera: ThreadedCamera) -> str | None:
    try:
        camera.connect()
    except MolmoAct2Error as error:
        return f"{error}"
    return None


def _look(camera: ThreadedCamera, source: str, preview: Path | None) -> Look:
    try:
        image = camera.latest().image
    except MolmoAct2Error as error:
        return Look(camera.name, source, problem=f"{error}")
    saved = None if preview is None else str(_save(image, preview, camera.name))
    gives = camera.capabilities
    return Look(camera.name, source, camera.description, gives.height, gives.width, gives.rate_hz, saved)


def _save(image: Image, folder: Path, name: str) -> Path:
    from PIL import Image as PillowImage

    path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(image).save(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from error
    return path


def _listing(listed: list[ListedCamera]) -> str:
    if not listed:
        return "no V4L2 camera found (/dev/video*)"
    lines = []
    for camera in listed:
        lines.append(f"{camera.path}  {camera.name or '?'}".rstrip())
        lines += [f"    by-id    {path}" for path in camera.by_id]
        lines += [f"    by-path  {path}" for path in camera.by_path]
        if camera.problem:
            lines.append(f"    PROBLEM  {camera.problem}")
        formats = dict.fromkeys(offer.pixel_format for offer in camera.offers)
        for pixel_format in formats:
            sizes = [
                f"{offer.width}x{offer.height} at {', '.join(f'{rate:g}' for rate in offer.rates_hz) or '?'} Hz"
                for offer in camera.offers
                if offer.pixel_format == pixel_format
            ]
            lines += [f"    {pixel_format:<8} {size}" for size in sizes]
    return "\n".join(lines)


def _looks(looks: list[Look], robot: str | None) -> str:
    lines = [] if robot is None else [f"{robot}: the policy is given, in this order"]
    for number, look in enumerate(looks, start=1):
        head = f"{look.name}" if robot is None else f"  {number}. {look.name}"
        if look.problem:
            lines.append(f"{head}: PROBLEM: {look.problem}")
            continue
        lines.append(f"{head}: {look.width}x{look.height} RGB from {look.source} ({look.gives})")
        if look.preview:
            lines.append(f"     saved as {look.preview}")
    return "\n".join(lines)
