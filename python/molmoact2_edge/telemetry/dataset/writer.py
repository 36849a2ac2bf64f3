"""Writes episodes into a LeRobotDataset v3.0 so that it can be opened after every one of them, and after a crash.

Files are replaced, never changed in place, and in such an order that ``meta/info.json`` counts only what is complete:
an episode that was being added when the power went is not counted, and the next run takes its traces out.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmoact2_edge.errors import InputError
from molmoact2_edge.telemetry.dataset.episode import EpisodeDraft
from molmoact2_edge.telemetry.dataset.layout import (
    DATA,
    EPISODES,
    INFO,
    STATISTICS,
    TASKS,
    VIDEOS,
    DatasetFormat,
    FileIndex,
    partial_path,
    read_json,
    replace,
    replace_json,
)
from molmoact2_edge.telemetry.dataset.statistics import (
    FeatureStatistics,
    column_statistics,
    merged,
)
from molmoact2_edge.telemetry.dataset.tables import (
    data_table,
    episode_table,
    keep_rows_below,
    last_row,
    read_tasks,
    task_table,
    write_table,
    write_with,
)
from molmoact2_edge.telemetry.dataset.video import append, can_append, video_facts

_UNDER_WAY = ".recording"
# LeRobot compares times in single precision with a tolerance of 0.1 ms; past 1024 s that is less than one step.
_VIDEO_SECONDS = 1000.0
_MB = 1024 * 1024


@dataclass
class _Place:
    """The file that the next episode goes to, and what this run put into it."""

    index: FileIndex
    rows: int = 0
    """Rows or frames; 0: the file is not there yet."""


class DatasetWriter:
    """Adds episodes to a dataset, one thread at a time. One that is there is continued where its format is the same."""

    def __init__(self, root: Path, form: DatasetFormat) -> None:
        """Open ``root`` for writing; nothing but a directory is made before the first episode is complete.

        Raises:
            InputError: it cannot be written to, holds something else, or another run records into it.
        """
        self.root = root
        self.format = form
        self._info = form.empty_info()
        self._statistics: dict[str, FeatureStatistics] = {}
        self._tasks: list[str] = []
        self._drafts = 0
        self._lock = self._locked()
        try:
            first = self._opened()
        except BaseException:
            os.close(self._lock)
            raise
        self._data = _Place(first["data"])
        self._episodes = _Place(first["episodes"])
        self._videos = {camera: _Place(first[camera]) for camera in form.cameras}

    @property
    def episodes(self) -> int:
        """Episodes in the dataset."""
        return int(self._info["total_episodes"])

    def draft(self) -> EpisodeDraft:
        """Return an empty episode. Any thread may fill it while another saves those before."""
        self._drafts += 1
        return EpisodeDraft(self.root / _UNDER_WAY / str(self._drafts), self.format)

    def save_episode(self, draft: EpisodeDraft, task: str) -> int | None:
        """Add a finished episode; returns its number, None where it has no frame. The draft is used up.

        Raises:
            OSError: the disk does not take it; the dataset has all episodes before it.
        """
        frames = len(draft)
        if frames == 0:
            draft.discard()
            return None
        episode, first = self.episodes, int(self._info["total_frames"])
        if task not in self._tasks:
            self._tasks.append(task)
        columns = draft.columns(episode, first, self._tasks.index(task))
        statistics = {name: column_statistics(values) for name, values in columns.items()}
        row: dict[str, Any] = {"episode_index": episode, "tasks": [task], "length": frames}

        # Each step leaves a dataset that opens and has all earlier episodes; info.json is last.
        for camera, key in self.format.video_keys.items():
            row |= self._store_video(camera, key, draft.video(camera), frames)
            statistics[key] = draft.image_statistics(camera)
        row |= self._store_data(columns, first, frames)
        write_table(task_table(self._tasks), self.root / TASKS)
        row |= {f"stats/{name}/{key}": v for name, part in statistics.items() for key, v in part.items()}
        self._store_row(row)
        self._statistics = {
            name: merged([self._statistics[name], part]) if name in self._statistics else part
            for name, part in statistics.items()
        }
        plain = {
            name: {key: v.tolist() for key, v in part.items()} for name, part in self._statistics.items()
        }
        replace_json(self.root / STATISTICS, plain)
        self._info["total_episodes"] = episode + 1
        self._info["total_frames"] = first + frames
        self._info["total_tasks"] = len(self._tasks)
        self._info["splits"] = {"train": f"0:{episode + 1}"}
        replace_json(self.root / INFO, self._info)
        draft.discard()
        return episode

    def close(self) -> None:
        """Let go of the dataset; drafts that were not saved are forgotten. Safe to call twice."""
        if self._lock < 0:
            return
        shutil.rmtree(self.root / _UNDER_WAY, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1

    def _store_video(self, camera: str, key: str, episode: Path, frames: int) -> dict[str, Any]:
        place = self._videos[camera]
        path = self.root / VIDEOS.format(video_key=key, **vars(place.index))
        if place.rows > 0:
            megabytes = (path.stat().st_size + episode.stat().st_size) / _MB
            seconds = (place.rows + frames) / self.format.fps
            full = megabytes > self._info["video_files_size_in_mb"] or seconds > _VIDEO_SECONDS
            if full or not can_append(path, episode):
                place.index, place.rows = place.index.next(), 0
                path = self.root / VIDEOS.format(video_key=key, **vars(place.index))
        if place.rows > 0:
            partial = partial_path(path)
            append(path, place.rows, episode, self.format.fps, partial)
            replace(partial, path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(episode, path)
        begin = place.rows
        place.rows += frames
        feature = self._info["features"][key]
        if "info" not in feature:
            feature["info"] = video_facts(path).as_info()
        return {
            f"videos/{key}/chunk_index": place.index.chunk_index,
            f"videos/{key}/file_index": place.index.file_index,
            f"videos/{key}/from_timestamp": begin / self.format.fps,
            f"videos/{key}/to_timestamp": place.rows / self.format.fps,
        }

    def _store_data(self, columns: dict[str, npt.NDArray[Any]], first: int, frames: int) -> dict[str, Any]:
        place = self._data
        path = self.root / DATA.format(**vars(place.index))
        if place.rows > 0 and path.stat().st_size / _MB > self._info["data_files_size_in_mb"]:
            place.index, place.rows = place.index.next(), 0
            path = self.root / DATA.format(**vars(place.index))
        write_with(data_table(columns), path, appended=place.rows > 0)
        place.rows += frames
        return {
            "data/chunk_index": place.index.chunk_index,
            "data/file_index": place.index.file_index,
            "dataset_from_index": first,
            "dataset_to_index": first + frames,
        }

    def _store_row(self, row: dict[str, Any]) -> None:
        place = self._episodes
        path = self.root / EPISODES.format(**vars(place.index))
        if place.rows > 0 and path.stat().st_size / _MB > self._info["data_files_size_in_mb"]:
            place.index, place.rows = place.index.next(), 0
            path = self.root / EPISODES.format(**vars(place.index))
        where = {
            "meta/episodes/chunk_index": place.index.chunk_index,
            "meta/episodes/file_index": place.index.file_index,
        }
        write_with(episode_table([row | where]), path, appended=place.rows > 0)
        place.rows += 1

    def _locked(self) -> int:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise InputError(f"cannot record into {self.root}: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise InputError(
                f"another run records into {self.root}; record into another directory"
            ) from error
        return descriptor

    def _opened(self) -> dict[str, FileIndex]:
        """Take over what is at the root; returns where data, episodes and each camera's video go on."""
        start = dict.fromkeys(("data", "episodes", *self.format.cameras), FileIndex(0, 0))
        info = self.root / INFO
        under_way = self.root / _UNDER_WAY
        if not info.is_file():
            # Only a run of this program leaves its folder of work under way: what else lies there is its own then.
            own = {"meta", "data", "videos", _UNDER_WAY} if under_way.is_dir() else set()
            strange = sorted(entry.name for entry in self.root.iterdir() if entry.name not in own)
            if strange:
                raise InputError(
                    f"{self.root} holds no dataset but {', '.join(strange[:3])}; record into an empty directory"
                )
            for folder in own:  # a first episode that a crash cut short
                shutil.rmtree(self.root / folder, ignore_errors=True)
        else:
            found = read_json(info)
            self.format.require_same(found, self.root)
            self._info = found
            if self.episodes > 0:
                start = self._resumed()
        shutil.rmtree(under_way, ignore_errors=True)
        try:
            under_way.mkdir()
        except OSError as error:
            raise InputError(f"cannot record into {self.root}: {error}") from error
        return start

    def _resumed(self) -> dict[str, FileIndex]:
        # New episodes go to new files: those that are there may be another program's.
        self._tasks = read_tasks(self.root / TASKS)[: self._info["total_tasks"]]
        statistics = read_json(self.root / STATISTICS)
        self._statistics = {
            name: {key: np.asarray(value) for key, value in part.items()} for name, part in statistics.items()
        }
        for pattern, column, limit in (
            ("data/*/*.parquet", "index", int(self._info["total_frames"])),
            ("meta/episodes/*/*.parquet", "episode_index", self.episodes),
        ):
            rows = sum(keep_rows_below(path, column, limit) for path in sorted(self.root.glob(pattern)))
            if rows != limit:
                raise InputError(
                    f"the dataset at {self.root} is incomplete: info.json counts {limit} rows in {pattern}, "
                    f"there are {rows}; record into another directory"
                )
        last = last_row(sorted(self.root.glob("meta/episodes/*/*.parquet"))[-1])

        def after(prefix: str) -> FileIndex:
            return FileIndex(int(last[f"{prefix}/chunk_index"]), int(last[f"{prefix}/file_index"])).next()

        videos = {camera: after(f"videos/{key}") for camera, key in self.format.video_keys.items()}
        return {"data": after("data"), "episodes": after("meta/episodes"), **videos}
