"""All telemetry of one run, as the runner sees it: opened once, told of episodes, closed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molmoact2_drivers import Camera
from molmoact2_edge.config import RobotConfig
from molmoact2_edge.control import ControlLoop
from molmoact2_edge.telemetry.blackbox import BlackBox
from molmoact2_edge.telemetry.journal import Journal

if TYPE_CHECKING:
    from molmoact2_edge.telemetry.dataset import DatasetRecorder
    from molmoact2_edge.telemetry.viz import RerunViewer


@dataclass(frozen=True)
class TelemetrySettings:
    """What a run leaves behind."""

    blackbox: Path | None = None
    """Directory for black boxes; None writes none."""
    record: Path | None = None
    """Directory of a LeRobotDataset, new or to continue."""
    record_fps: int | None = None
    """None: the rate of the slowest camera."""
    viz: str | None = None
    """Address of a Rerun viewer, or ``save:FILE.rrd``."""


class RunTelemetry:
    """Opens what the settings ask for; used by the runner's thread."""

    def __init__(
        self,
        settings: TelemetrySettings,
        loop: ControlLoop,
        cameras: Mapping[str, Camera],
        config: RobotConfig,
        journal: Journal,
    ) -> None:
        """
        Raises:
            MissingExtraError: what was asked for needs a package that is not installed.
            InputError: a place cannot be written to, or no viewer answers.
        """
        self.blackbox: BlackBox | None = None
        self.recorder: DatasetRecorder | None = None
        self.viewer: RerunViewer | None = None
        try:
            if settings.blackbox is not None:
                self.blackbox = BlackBox(settings.blackbox, loop, config, journal)
                self.blackbox.start()
            if settings.record is not None:
                from molmoact2_edge.telemetry.dataset import DatasetRecorder

                self.recorder = DatasetRecorder(settings.record, loop, cameras, config, settings.record_fps)
            if settings.viz is not None:
                from molmoact2_edge.telemetry.viz import RerunViewer

                self.viewer = RerunViewer(settings.viz, loop, cameras, config, journal)
        except BaseException:
            self.close()
            raise

    def begin_episode(self, task: str) -> None:
        """The scene is set, the loop is about to start."""
        if self.recorder is not None:
            self.recorder.begin(task)

    def end_episode(self, fault: str | None = None) -> None:
        """The loop has stopped; ``fault`` is one that the loop itself did not see."""
        if self.recorder is not None:
            self.recorder.end()
        if fault is not None:
            self.request_black_box(fault)

    def request_black_box(self, reason: str) -> None:
        """Have the last seconds written; returns at once. Safe in a signal handler."""
        if self.blackbox is not None:
            self.blackbox.request(reason)

    def close(self) -> None:
        """Write what is still to be written. Does not raise."""
        if self.recorder is not None:
            self.recorder.close()
        if self.viewer is not None:
            self.viewer.close()
        if self.blackbox is not None:
            self.blackbox.stop()

    def facts(self) -> dict[str, Any]:
        """What a report should say, as JSON-ready values."""
        box = self.blackbox
        return {
            "black_boxes": [] if box is None else [str(path) for path in box.files],
            "black_box_failure": None if box is None else box.failure,
            "black_box_failures": 0 if box is None else box.failures,
            "recording": None if self.recorder is None else self.recorder.facts(),
            "viz": None if self.viewer is None else self.viewer.facts(),
        }


def telemetry_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return what a person should read of :meth:`RunTelemetry.facts` at the end of a run."""
    lines = [f"black box: {path}" for path in facts["black_boxes"]]
    if facts["black_box_failure"]:
        count = facts["black_box_failures"]
        lines.append(
            f"warning black box: {facts['black_box_failure']}"
            + (f" (the first of {count} failures)" if count > 1 else "")
        )
    recording, viz = facts["recording"], facts["viz"]
    if recording is not None:
        lines.append(
            f"recorded {recording['frames']} frames in {len(recording['episodes'])} episodes: {recording['directory']}"
            + _dropped(recording["dropped"])
        )
        if recording["failure"]:
            lines.append(f"warning recording: {recording['failure']}")
    if viz is not None and (viz["failure"] or viz["dropped"]):
        lines.append(f"warning viz: {viz['failure'] or viz['address']}{_dropped(viz['dropped'])}")
    return lines


def _dropped(counts: Mapping[str, int]) -> str:
    return f" (left out: {', '.join(f'{name} {count}' for name, count in counts.items())})" if counts else ""
