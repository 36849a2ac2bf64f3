"""Durations of the stages of one prediction."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

STAGES = ("preprocess", "vision", "prefill", "depth", "flow", "generate", "postprocess")


class Stopwatch:
    """Times consecutive stages on the CPU clock, or with events where the work runs on a CUDA device.

    Stages that never ran are reported as zero. Nothing waits for the device before :meth:`settle` or :meth:`seconds`.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._begin = self._last = time.perf_counter()
        self._spent = dict.fromkeys(STAGES, 0.0)
        self._marks: list[tuple[str, torch.cuda.Event]] = []
        if self._cuda:
            self._mark("")

    def lap(self, stage: str) -> None:
        """Attribute the time since the previous lap to ``stage``."""
        if self._cuda:
            self._mark(stage)
        else:
            now = time.perf_counter()
            self._spent[stage] += now - self._last
            self._last = now

    def passed(self, marks: Sequence[tuple[str, torch.cuda.Event]]) -> None:
        """Take over laps whose events a graph records, in order, as it runs; a graph may run once per stopwatch."""
        self._marks.extend(marks)

    def settle(self) -> None:
        """Wait for the device, and time the laps that follow on the CPU clock: they are work of the host."""
        if self._cuda:
            self._marks[-1][1].synchronize()
            for (_, before), (stage, after) in zip(self._marks, self._marks[1:], strict=False):
                self._spent[stage] += before.elapsed_time(after) / 1e3
            self._cuda = False
        self._last = time.perf_counter()

    def seconds(self) -> dict[str, float]:
        """Return seconds per stage and ``total``, the time from construction to this call."""
        if self._cuda:
            self.settle()
        return {**self._spent, "total": time.perf_counter() - self._begin}

    def _mark(self, stage: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((stage, event))
