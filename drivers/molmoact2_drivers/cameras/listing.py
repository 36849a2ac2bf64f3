"""Which cameras a computer has, and what they offer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from molmoact2_drivers.cameras.offers import Offer
from molmoact2_drivers.cameras.v4l2_capture import explanation, offers_of
from molmoact2_drivers.cameras.v4l2_device import VideoDevice
from molmoact2_edge.errors import RobotError

_DEV = Path("/dev")


@dataclass(frozen=True)
class ListedCamera:
    """A V4L2 device that delivers pictures, or one that could not be looked at."""

    path: str
    name: str
    bus: str
    by_id: tuple[str, ...]
    """Names that stay with the camera; two of the same kind without serial numbers share one."""
    by_path: tuple[str, ...]
    """Names that stay with the USB port."""
    offers: tuple[Offer, ...]
    problem: str | None = None
    """Why it could not be looked at, with what to do."""


def list_cameras(more: Iterable[str] = (), dev: Path = _DEV) -> list[ListedCamera]:
    """Return the cameras below ``dev``, and those at the paths in ``more``; metadata devices are left out."""
    paths = sorted(map(str, dev.glob("video*")), key=_number)
    paths += [path for path in more if os.path.realpath(path) not in paths and path not in paths]
    by_id, by_path = (_names(dev / "v4l" / kind) for kind in ("by-id", "by-path"))
    listed = []
    for path in paths:
        names = tuple(by_id.get(path, ())), tuple(by_path.get(path, ()))
        camera = _look(path, *names)
        if camera is not None:
            listed.append(camera)
    return listed


def _look(path: str, by_id: tuple[str, ...], by_path: tuple[str, ...]) -> ListedCamera | None:
    try:
        device = VideoDevice(path)
    except OSError as error:
        return ListedCamera(path, "", "", by_id, by_path, (), explanation(error))
    try:
        name, bus, streams = device.identify()
        if not streams:
            return None
        return ListedCamera(path, name, bus, by_id, by_path, tuple(offers_of(device, path)))
    except OSError as error:
        return ListedCamera(path, "", "", by_id, by_path, (), explanation(error))
    except RobotError as error:
        return ListedCamera(path, "", "", by_id, by_path, (), f"{error}")
    finally:
        device.close()


def _names(folder: Path) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for link in sorted(folder.glob("*")) if folder.is_dir() else []:
        names.setdefault(os.path.realpath(link), []).append(str(link))
    return names


def _number(path: str) -> tuple[int, str]:
    digits = path[len(path.rstrip("0123456789")) :]
    return int(digits or -1), path
