"""Records the episodes of a run. One thread looks, one encodes, one adds complete episodes to the dataset; between
them are bounded queues, so that a slow disk at the end of an episode costs no frame of the next."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molmoact2_drivers import Camera
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.control import ControlLoop
from molmoact2_edge.telemetry.dataset.assembly import Row, RowAssembly
from molmoact2_edge.telemetry.dataset.episode import EpisodeDraft
from molmoact2_edge.telemetry.dataset.layout import dataset_format
from molmoact2_edge.telemetry.dataset.writer import DatasetWriter
from molmoact2_edge.telemetry.extras import arrow, pyav
from molmoact2_edge.telemetry.follow import RunFollower

_QUEUE_BYTES = 128 * 1024 * 1024
_QUEUE_ROWS = (8, 300)
_END_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 120.0  # what is queued is still encoded and written
_EPISODES_QUEUED = 8


@dataclass(frozen=True)
class _EpisodeEnd:
    task: str


@dataclass(frozen=True)
class _Finished:
    draft: EpisodeDraft
    task: str


class DatasetRecorder:
    """Writes each episode between :meth:`begin` and :meth:`end` into a dataset.

    What cannot be written is counted, and what goes wrong is kept in :attr:`failure`: a run does not end because its
    recording did.
    """

    def __init__(
        self,
        root: Path,
        loop: ControlLoop,
        cameras: Mapping[str, Camera],
        config: RobotConfig,
        fps: int | None = None,
    ) -> None:
        """``fps`` None takes the rate of the slowest camera.

        Raises:
            InputError: as :class:`DatasetWriter`, or ``fps`` is above the loop's rate.
            MissingExtraError: pyarrow or PyAV is not installed.
        """
        pyav(), arrow()  # missing ones show before the robot moves
        form = dataset_format(config, fps)
        self.root = root
        self.failure: str | None = None
        self.dropped: Counter[str] = Counter()
        """Rows left out: ``camera`` and ``tick`` had nothing recent enough, ``queue`` was full, ``failure`` came after
        one."""
        self.rows = 0
        self.episodes: list[int] = []
        """Numbers in the dataset of the episodes of this run."""
        self._loop = loop
        self._cameras = cameras
        self._config = config
        self._fps = form.fps
        self._writer = DatasetWriter(root, form)
        row_bytes = sum(3 * height * width for height, width in form.cameras.values())
        at_least, at_most = _QUEUE_ROWS
        self._queue: queue.Queue[Row | _EpisodeEnd | None] = queue.Queue(
            min(at_most, max(at_least, _QUEUE_BYTES // row_bytes))
        )
        self._looking = threading.Event()
        self._looker: threading.Thread | None = None
        self._task = ""
        self._finished: queue.Queue[_Finished | None] = queue.Queue(_EPISODES_QUEUED)
        self._threads = [
            threading.Thread(target=self._encode, name="dataset-encoder", daemon=True),
            threading.Thread(target=self._save, name="dataset-writer", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def begin(self, task: str) -> None:
        """Record from now on; frames and ticks of before are not part of the episode."""
        self._task = task
        self._looking.set()
        follower = RunFollower(self._loop, self._cameras)
        self._looker = threading.Thread(
            target=self._look, args=(follower,), name="dataset-sampler", daemon=True
        )
        self._looker.start()

    def end(self) -> None:
        """Take in what the loop did last, and have the episode written, without waiting for that."""
        if self._looker is None:
            return
        self._looking.clear()
        self._looker.join(_END_TIMEOUT_S)
        self._looker = None
        self._put_surely(_EpisodeEnd(self._task))

    def close(self) -> None:
        """End the episode, write all that is queued, and let go of the dataset. Does not raise."""
        self.end()
        self._put_surely(None)
        give_up = time.monotonic() + _CLOSE_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            self._fail(f"the last episode was not written within {_CLOSE_TIMEOUT_S:g} s")

    def facts(self) -> dict[str, Any]:
        """What a report should say, as JSON-ready values."""
        return {
            "directory": str(self.root),
            "fps": self._fps,
            "episodes": list(self.episodes),
            "frames": self.rows,
            "dropped": dict(self.dropped),
            "failure": self.failure,
        }

    # --- the thread that looks ---

    def _look(self, follower: RunFollower) -> None:
        assembly = RowAssembly(
            list(self._cameras), self._fps, self._config.loop.rate_hz, self._config.policy.frame_age_max_s
        )
        pause_s = 0.25 / self._fps
        more = True
        while more:
            more = self._looking.is_set()
            news = follower.look()
            self.dropped.update({"lost_ticks": news.lost_ticks} if news.lost_ticks else {})
            for camera, frame in news.frames:
                assembly.add_frame(camera, frame)
            for tick in news.ticks:
                assembly.add_tick(tick)
            for row in assembly.rows(final=not more):
                self._offer(row)
            if more:
                time.sleep(pause_s)
        self.dropped.update(assembly.dropped)

    def _offer(self, row: Row) -> None:
        try:
            self._queue.put_nowait(row)
        except queue.Full:
            self.dropped["queue"] += 1

    def _put_surely(self, item: _EpisodeEnd | None) -> None:
        try:
            self._queue.put(item, timeout=_END_TIMEOUT_S)
        except queue.Full:
            self._fail("the disk or the encoder did not keep up; the end of an episode is missing")

    # --- the thread that encodes ---

    def _encode(self) -> None:
        draft = self._writer.draft()
        while (item := self._queue.get()) is not None:
            if self._encoded(draft, item):
                continue
            draft = self._writer.draft()
        draft.discard()
        self._finished.put(None)

    def _encoded(self, draft: EpisodeDraft, item: Row | _EpisodeEnd) -> bool:
        """Return whether the draft goes on."""
        try:
            if isinstance(item, _EpisodeEnd):
                draft.finish()
                self._finished.put(_Finished(draft, item.task))
                return False
            if self.failure is not None:
                self.dropped["failure"] += 1
                return True
            draft.add_frame(item.state, item.action, item.images)
        except Exception as error:  # the encoder's own errors too: the arm goes on moving
            self._fail(f"cannot record into {self.root}: {error}; episodes before this one are complete")
            draft.discard()
            return False
        return True

    # --- the thread that writes ---

    def _save(self) -> None:
        while (item := self._finished.get()) is not None:
            if self.failure is not None:
                continue
            try:
                frames = len(item.draft)
                episode = self._writer.save_episode(item.draft, item.task)
            except Exception as error:  # the disk's, or the tables' own
                self._fail(f"cannot record into {self.root}: {error}; episodes before this one are complete")
                continue
            if episode is not None:
                self.episodes.append(episode)
                self.rows += frames
        self._writer.close()

    def _fail(self, message: str) -> None:
        self.failure = self.failure or message
