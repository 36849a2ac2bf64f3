"""A live picture of a run in Rerun: one thread looks, one sends, and between them a queue that drops when it is full.

Entities::

    cameras/<camera>          images as JPEG, at their time of exposure
    joints/<joint>            measured, target, command; one point per tick
    chunks/<joint>            the actions of each chunk, at the times at which they were due
    chunks                    a line of text per chunk
    policy/calls              a line of text per call, and policy/call_ms
    gate                      a line of text per change of state or reason
    timing/loop_ms            period, wake-up latency, bus, work
    timing/age_ms             age of the robot's state, age of the observation behind the written action
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from molmoact2_drivers import Camera, Frame
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.control import ControlLoop, TickRecord
from molmoact2_edge.errors import InputError
from molmoact2_edge.telemetry.extras import rerun
from molmoact2_edge.telemetry.follow import RunFollower, RunNews
from molmoact2_edge.telemetry.gate_events import GateChange, GateChanges
from molmoact2_edge.telemetry.journal import Journal, JournalNews, PolicyCall, PushedChunk

APPLICATION = "molmoact2-edge"
DEFAULT_ADDRESS = "127.0.0.1:9876"
TIMELINE = "time"
SAVE = "save:"
_POLL_S = 0.04
# Rerun keeps an index of every batch that it is sent: few batches with many ticks each.
_TICK_BATCH_S = 0.25
_QUEUE_LOOKS = 64
_CONNECT_TIMEOUT_S = 2.0
_FLUSH_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 15.0
_JPEG_QUALITY = 75
_LEVELS = {"fault": "ERROR", "holding": "WARN"}
_POSES = ("measured", "target", "command")
_LOOP_MS = ("period", "wake-up", "bus", "work")
_AGE_MS = ("state", "observation")


@dataclass(frozen=True)
class _Look:
    run: RunNews
    journal: JournalNews


class RerunViewer:
    """Streams what a run does between its construction and :meth:`close` to a Rerun viewer or into a file.

    Nothing waits for it: what does not fit into its queue is dropped and counted in :attr:`dropped`.
    """

    def __init__(
        self,
        address: str,
        loop: ControlLoop,
        cameras: Mapping[str, Camera],
        config: RobotConfig,
        journal: Journal,
    ) -> None:
        """``address`` is ``HOST:PORT`` or a ``rerun+http://.../proxy`` URL of a viewer, or ``save:FILE.rrd``.

        Raises:
            MissingExtraError: rerun-sdk is not installed.
            InputError: no viewer answers there, or the file cannot be written.
        """
        self._rr = rerun()
        self.address = address
        self.failure: str | None = None
        self.dropped: Counter[str] = Counter()
        """``ticks``, ``frames``, ``chunks`` and ``calls`` that the queue had no room for, and ``lost_ticks`` that the
        ring no longer had."""
        self._config = config
        self._journal = journal
        self._joints = list(config.joints)
        self._chunk_period_ns = 1e9 / loop.chunk_rate_hz
        self._wall_ns = time.time_ns() - time.monotonic_ns()
        self._changes = GateChanges()
        self._batch: list[TickRecord] = []
        self._stream: Any = self._rr.RecordingStream(APPLICATION)
        self._open(address)
        self._follower = RunFollower(loop, cameras)
        self._queue: queue.Queue[_Look | None] = queue.Queue(_QUEUE_LOOKS)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, name="viz-look", daemon=True),
            threading.Thread(target=self._send_all, name="viz-send", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Send what is queued and close the connection or file. Does not raise, and waits for seconds at most."""
        self._stopping.set()
        give_up = time.monotonic() + _CLOSE_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            self.failure = self.failure or f"Rerun at {self.address} did not take the last data"

    def facts(self) -> dict[str, Any]:
        """What a report should say, as JSON-ready values."""
        return {"address": self.address, "dropped": dict(self.dropped), "failure": self.failure}

    def _open(self, address: str) -> None:
        try:
            if address.startswith(SAVE):
                Path(address[len(SAVE) :]).touch()
                self._stream.save(address[len(SAVE) :])
            else:
                url = viewer_url(address)
                parts = urlsplit(url)
                socket.create_connection((parts.hostname or "", parts.port or 0), _CONNECT_TIMEOUT_S).close()
                self._stream.connect_grpc(url)
        except OSError as error:
            raise InputError(
                f"--viz {address}: {error}; start a viewer with `rerun` first, or write a file with --viz save:FILE.rrd"
            ) from error
        self._stream.send_blueprint(_blueprint(self._joints, list(self._config.cameras)))
        rr = self._rr
        for joint in self._joints:
            self._stream.log(f"joints/{joint}", rr.SeriesLines(names=list(_POSES)), static=True)
            self._stream.log(f"chunks/{joint}", rr.SeriesPoints(names=[joint]), static=True)
        self._stream.log("timing/loop_ms", rr.SeriesLines(names=list(_LOOP_MS)), static=True)
        self._stream.log("timing/age_ms", rr.SeriesLines(names=list(_AGE_MS)), static=True)

    # --- the thread that looks ---

    def _watch(self) -> None:
        place = (0, 0)
        more = True
        while more:
            more = not self._stopping.wait(_POLL_S)
            look = _Look(self._follower.look(), self._journal.since(place))
            place = look.journal.place
            self.dropped.update({"lost_ticks": look.run.lost_ticks} if look.run.lost_ticks else {})
            self._offer(look)
        try:
            self._queue.put(None, timeout=_CLOSE_TIMEOUT_S)
        except queue.Full:
            self.failure = self.failure or f"Rerun at {self.address} did not take the last data"

    def _offer(self, look: _Look) -> None:
        try:
            self._queue.put_nowait(look)
        except queue.Full:
            self.dropped["ticks"] += len(look.run.ticks)
            self.dropped["frames"] += len(look.run.frames)
            self.dropped["chunks"] += len(look.journal.chunks)
            self.dropped["calls"] += len(look.journal.calls)

    # --- the thread that sends ---

    def _send_all(self) -> None:
        while (look := self._queue.get()) is not None:
            if self.failure is not None:
                continue
            try:
                self._send(look)
            except Exception as error:  # a picture is no reason to end a run
                self.failure = f"Rerun at {self.address}: {error}"
        try:
            self._send_batch()
            self._stream.flush(timeout_sec=_FLUSH_TIMEOUT_S)
            self._stream.disconnect()
        except Exception as error:
            self.failure = self.failure or f"Rerun at {self.address}: {error}"

    def _send(self, look: _Look) -> None:
        for camera, frame in look.run.frames:
            self._send_frame(camera, frame)
        self._batch += look.run.ticks
        if self._batch and self._batch[-1]["wakeup_ns"] - self._batch[0]["wakeup_ns"] >= _TICK_BATCH_S * 1e9:
            self._send_batch()
        for chunk in look.journal.chunks:
            self._send_chunk(chunk)
        for call in look.journal.calls:
            self._send_call(call)

    def _send_batch(self) -> None:
        batch, self._batch = self._batch, []
        if batch:
            self._send_ticks(batch)

    def _times(self, times_ns: Sequence[float]) -> Any:
        wall = (np.asarray(times_ns, dtype=np.float64).astype(np.int64) + self._wall_ns).astype(
            "datetime64[ns]"
        )
        return self._rr.TimeColumn(TIMELINE, timestamp=wall)

    def _at(self, time_ns: int) -> None:
        self._stream.set_time(TIMELINE, timestamp=np.datetime64(time_ns + self._wall_ns, "ns"))

    def _send_frame(self, camera: str, frame: Frame) -> None:
        self._at(frame.time_ns)
        self._stream.log(
            f"cameras/{camera}", self._rr.Image(frame.image).compress(jpeg_quality=_JPEG_QUALITY)
        )

    def _send_ticks(self, ticks: Sequence[TickRecord]) -> None:
        times = [self._times([tick["wakeup_ns"] for tick in ticks])]
        poses = np.stack([[tick["measured"], tick["target"], tick["command"]] for tick in ticks])
        for index, joint in enumerate(self._joints):
            self._columns(f"joints/{joint}", times, poses[:, :, index])
        loop_ms = [
            (
                tick["period_ns"],
                tick["wakeup_ns"] - tick["deadline_ns"],
                tick["read_ns"] + tick["write_ns"],
                tick["busy_ns"],
            )
            for tick in ticks
        ]
        self._columns("timing/loop_ms", times, np.array(loop_ms, dtype=np.float64) * 1e-6)
        age_ms = [
            (
                tick["wakeup_ns"] - tick["measured_ns"] if tick["measured_ns"] else np.nan,
                tick["written_ns"] - tick["observed_ns"]
                if tick["followed"] and tick["observed_ns"]
                else np.nan,
            )
            for tick in ticks
        ]
        self._columns("timing/age_ms", times, np.array(age_ms, dtype=np.float64) * 1e-6)
        for tick in ticks:
            change = self._changes.take(tick)
            if change is not None:
                self._send_change(change)

    def _columns(self, entity: str, times: list[Any], values: Any) -> None:
        """``values`` is (times, series)."""
        columns = self._rr.Scalars.columns(scalars=values.ravel()).partition([values.shape[1]] * len(values))
        self._stream.send_columns(entity, indexes=times, columns=columns)

    def _send_change(self, change: GateChange) -> None:
        self._at(change.wakeup_ns)
        refused = f", refused a chunk: {change.rejected_chunk}" if change.rejected_chunk != "none" else ""
        text = f"{change.state}: {change.reason}{refused}"
        self._stream.log("gate", self._rr.TextLog(text, level=_LEVELS.get(change.state, "INFO")))

    def _send_chunk(self, chunk: PushedChunk) -> None:
        due_ns = chunk.observed_ns + np.arange(len(chunk.actions)) * self._chunk_period_ns
        if len(chunk.actions):
            times = [self._times(due_ns.tolist())]
            for index, joint in enumerate(self._joints):
                self._columns(f"chunks/{joint}", times, chunk.actions[:, index : index + 1])
        self._at(chunk.pushed_ns)
        text = f"chunk {chunk.number}: {len(chunk.actions)} actions from step {chunk.observed_step}"
        self._stream.log("chunks", self._rr.TextLog(text))

    def _send_call(self, call: PolicyCall) -> None:
        self._at(call.ended_ns)
        milliseconds = (call.ended_ns - call.begun_ns) * 1e-6
        self._stream.log("policy/call_ms", self._rr.Scalars(milliseconds))
        level = "INFO" if call.outcome == "chunk" else "WARN"
        text = f"{call.outcome} after {milliseconds:.1f} ms" + (f": {call.message}" if call.message else "")
        self._stream.log("policy/calls", self._rr.TextLog(text, level=level))


def viewer_url(address: str) -> str:
    """Return the URL of a viewer's door from ``HOST:PORT`` or a URL.

    Raises:
        InputError: it is neither.
    """
    url = address if "://" in address else f"rerun+http://{address}/proxy"
    parts = urlsplit(url)
    try:
        complete = bool(parts.hostname and parts.port)
    except ValueError:
        complete = False
    if not complete or not parts.scheme.startswith("rerun"):
        raise InputError(
            f"--viz expects HOST:PORT, a rerun+http:// URL with a port, or save:FILE.rrd, got {address!r}"
        )
    return url


def _blueprint(joints: Sequence[str], cameras: Sequence[str]) -> Any:
    import rerun.blueprint as views

    pictures = [views.Spatial2DView(origin=f"cameras/{camera}", name=camera) for camera in cameras]
    plots = [
        views.TimeSeriesView(origin="/", contents=[f"/joints/{joint}", f"/chunks/{joint}"], name=joint)
        for joint in joints
    ]
    return views.Blueprint(
        views.Horizontal(
            views.Vertical(
                *pictures,
                views.TextLogView(origin="/", contents=["/gate", "/policy/calls", "/chunks"], name="events"),
            ),
            views.Grid(*plots, views.TimeSeriesView(origin="timing"), views.TimeSeriesView(origin="policy")),
            column_shares=[1, 2],
        ),
        collapse_panels=True,
    )
