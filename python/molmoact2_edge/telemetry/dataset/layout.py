"""Where a LeRobotDataset v3.0 keeps what: features, paths, and the small files of ``meta/``.

Source: the files that LeRobot 0.4.4 writes and what it reads of them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molmoact2_edge.config import RobotConfig
from molmoact2_edge.errors import InputError
from molmoact2_edge.telemetry.blackbox_file import sync_directory

VERSION = "v3.0"
INFO = "meta/info.json"
STATISTICS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

FILES_IN_CHUNK = 1000
# Each episode rewrites the data file and the videos that it is added to, so these bound what an episode costs.
DATA_FILE_MB = 16
VIDEO_FILE_MB = 64

STATE = "observation.state"
ACTION = "action"


@dataclass(frozen=True)
class DatasetFormat:
    """What all episodes of a dataset share."""

    robot_type: str
    fps: int
    joints: tuple[str, ...]
    cameras: dict[str, tuple[int, int]]
    """Name -> (height, width)."""

    def __post_init__(self) -> None:
        if self.fps < 1:
            raise InputError(f"a dataset's fps must be a whole number of at least 1, got {self.fps}")
        for name, (height, width) in self.cameras.items():
            if height % 2 or width % 2:
                raise InputError(
                    f"camera {name!r} is {width} x {height}; recording needs an even width and height, "
                    "because video halves both for its colours: change the camera's size in the robot's configuration"
                )

    @property
    def video_keys(self) -> dict[str, str]:
        """Camera name -> feature name."""
        return {name: f"observation.images.{name}" for name in self.cameras}

    def features(self) -> dict[str, dict[str, Any]]:
        """Return the features in the order of ``info.json``, without what is only known once a video exists."""
        poses = {
            "dtype": "float32",
            "shape": [len(self.joints)],
            "names": [f"{joint}.pos" for joint in self.joints],
        }
        images = {
            key: {
                "dtype": "video",
                "shape": [*self.cameras[name], 3],
                "names": ["height", "width", "channels"],
            }
            for name, key in self.video_keys.items()
        }
        counters = {
            name: {"dtype": "int64", "shape": [1], "names": None}
            for name in ("frame_index", "episode_index", "index", "task_index")
        }
        return {
            ACTION: poses,
            STATE: dict(poses),
            **images,
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **counters,
        }

    def empty_info(self) -> dict[str, Any]:
        """Return ``info.json`` of a dataset without episodes."""
        return {
            "codebase_version": VERSION,
            "robot_type": self.robot_type,
            "total_episodes": 0,
            "total_frames": 0,
            "total_tasks": 0,
            "chunks_size": FILES_IN_CHUNK,
            "data_files_size_in_mb": DATA_FILE_MB,
            "video_files_size_in_mb": VIDEO_FILE_MB,
            "fps": self.fps,
            "splits": {},
            "data_path": DATA,
            "video_path": VIDEOS,
            "features": self.features(),
        }

    def require_same(self, info: dict[str, Any], root: Path) -> None:
        """Raise InputError where the dataset at ``root`` is of another format."""
        wanted: dict[str, Any] = {
            "codebase_version": VERSION,
            "fps": self.fps,
            "robot_type": self.robot_type,
            "data_path": DATA,
            "video_path": VIDEOS,
        }
        for key, value in wanted.items():
            if info.get(key) != value:
                raise InputError(
                    f"the dataset at {root} has {key} {info.get(key)!r}, this run would write {value!r}; "
                    "record into another directory"
                )
        found = {
            name: {key: feature.get(key) for key in ("dtype", "shape", "names")}
            for name, feature in info.get("features", {}).items()
        }
        features = self.features()
        for name in sorted(found.keys() | features.keys()):
            if found.get(name) != features.get(name):
                raise InputError(
                    f"the dataset at {root} has for the feature {name!r} {found.get(name)}, this run would write "
                    f"{features.get(name)}; record into another directory"
                )


@dataclass(frozen=True)
class FileIndex:
    """Place of one file among its kind."""

    chunk_index: int
    file_index: int

    def next(self) -> FileIndex:
        """Return the place after this one."""
        if self.file_index + 1 >= FILES_IN_CHUNK:
            return FileIndex(self.chunk_index + 1, 0)
        return FileIndex(self.chunk_index, self.file_index + 1)


def dataset_format(config: RobotConfig, fps: int | None) -> DatasetFormat:
    """Return the format for a robot; ``fps`` None takes the rate of its slowest camera.

    Raises:
        InputError: the loop is slower than ``fps``, or a camera's size cannot be encoded.
    """
    if fps is None:
        slowest = min(camera.rate_hz for camera in config.cameras.values())
        fps = max(1, int(min(slowest, config.loop.rate_hz)))
    if fps > config.loop.rate_hz:
        raise InputError(
            f"a dataset of {fps} frames per second needs a loop of at least that rate; robot {config.name!r} has "
            f"{config.loop.rate_hz:g} Hz"
        )
    return DatasetFormat(
        robot_type=config.name,
        fps=fps,
        joints=tuple(config.joints),
        cameras={name: (camera.height, camera.width) for name, camera in config.cameras.items()},
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object.

    Raises:
        InputError: it cannot be read, or is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def replace_json(path: Path, value: object) -> None:
    """Write a JSON file as a whole or not at all."""
    partial = partial_path(path)
    partial.write_text(json.dumps(value, indent=4, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    replace(partial, path)


def partial_path(path: Path) -> Path:
    """Return where a file is written before it takes its place; makes the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.partial")


def replace(partial: Path, path: Path) -> None:
    """Let a finished file take its place, so that it is there or not, also after a loss of power."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_directory(path.parent)
