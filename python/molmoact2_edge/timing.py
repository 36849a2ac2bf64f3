"""Durations of the stages of one prediction."""

from __future__ import annotations

import time

import torch

STAGES = ("preprocess", "vision", "prefill", "depth", "flow", "generate", "postprocess")


class Stopwatch:
    """Times consecutive stages on the CPU clock, or with events where the work runs on a CUDA device.

    Stages that never ran are reported as zero. With events, nothing waits for the device before :meth:`seconds`.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._begin = time.perf_counter()
        self._marks: list[tuple[str, float, torch.cuda.Event | None]] = [("", self._begin, self._event())]

    def _event(self) -> torch.cuda.Event | None:
        if not self._cuda:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self, stage: str) -> None:
        """Attribute the time since the previous lap to ``stage``."""
        self._marks.append((stage, time.perf_counter(), self._event()))

    def seconds(self) -> dict[str, float]:
        """Return seconds per stage and ``total``, the time from construction to this call."""
        if self._cuda:
            torch.cuda.synchronize()
        total = time.perf_counter() - self._begin
        spent = dict.fromkeys(STAGES, 0.0)
        for (_, before, event_before), (stage, after, event_after) in zip(
            self._marks, self._marks[1:], strict=False
        ):
            if event_before is not None and event_after is not None:
                spent[stage] += event_before.elapsed_time(event_after) / 1e3
            else:
                spent[stage] += after - before
        spent["total"] = total
        return spent
