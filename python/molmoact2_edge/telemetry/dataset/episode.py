"""An episode that is not yet part of a dataset: its numbers in memory, its images encoded as they come."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmoact2_edge.errors import InputError
from molmoact2_edge.telemetry.dataset.layout import ACTION, STATE, DatasetFormat
from molmoact2_edge.telemetry.dataset.statistics import FeatureStatistics, ImageStatistics
from molmoact2_edge.telemetry.dataset.video import EpisodeVideo
from molmoact2_edge.types import DoubleArray, Image


class EpisodeDraft:
    """Frame after frame by one thread; then :meth:`finish`, and :meth:`.DatasetWriter.save_episode` by any."""

    def __init__(self, directory: Path, form: DatasetFormat) -> None:
        """``directory`` is made for the videos, and for them alone."""
        self._directory = directory
        self._format = form
        self._states: list[npt.NDArray[np.float32]] = []
        self._actions: list[npt.NDArray[np.float32]] = []
        self._videos: dict[str, EpisodeVideo] = {}
        self._image_statistics = {camera: ImageStatistics() for camera in form.cameras}

    def __len__(self) -> int:
        """Frames so far."""
        return len(self._states)

    def add_frame(self, state: DoubleArray, action: DoubleArray, images: dict[str, Image]) -> None:
        """Add one frame: (joints,) measured and commanded positions, and an (H, W, 3) RGB image per camera.

        Raises:
            InputError: a shape does not fit the format.
        """
        joints = (len(self._format.joints),)
        if state.shape != joints or action.shape != joints or images.keys() != self._format.cameras.keys():
            raise InputError(
                f"expected state and action of shape {joints} and images of {', '.join(self._format.cameras)}, got "
                f"{state.shape}, {action.shape} and {', '.join(images)}"
            )
        for camera, image in images.items():
            if camera not in self._videos:
                self._directory.mkdir(parents=True, exist_ok=True)
                size = self._format.cameras[camera]
                self._videos[camera] = EpisodeVideo(self._directory / f"{camera}.mp4", self._format.fps, size)
            self._videos[camera].add(image)
            self._image_statistics[camera].add(image)
        self._states.append(state.astype(np.float32))
        self._actions.append(action.astype(np.float32))

    def finish(self) -> None:
        """Write the last of the videos; no frame comes after this."""
        for video in self._videos.values():
            video.finish()

    def discard(self) -> None:
        """Remove the videos; does not raise."""
        for video in self._videos.values():
            video.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def video(self, camera: str) -> Path:
        """Where a camera's video lies, once finished."""
        return self._videos[camera].path

    def image_statistics(self, camera: str) -> FeatureStatistics:
        """Of all images of a camera."""
        return self._image_statistics[camera].result()

    def columns(self, episode: int, first: int, task: int) -> dict[str, npt.NDArray[Any]]:
        """Return the rows of the episode with this number, whose first row has the index ``first``."""
        frames = np.arange(len(self))
        return {
            ACTION: np.stack(self._actions),
            STATE: np.stack(self._states),
            "timestamp": (frames / self._format.fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full_like(frames, episode),
            "index": frames + first,
            "task_index": np.full_like(frames, task),
        }
