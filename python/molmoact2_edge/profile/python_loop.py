"""The control loop as one would write it in Python, at its best: what the compiled loop is measured beside.

Absolute deadlines, whole periods skipped after an overrun, the same work (pose, splice, gate, command), the same
scheduling as far as the system grants it. It never drives a robot: its port is a loopback.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from molmoact2_edge.control import JointLimits, LoopbackPort
from molmoact2_edge.profile.ticks import Poses, Ticks


class PythonLoop:
    """One measurement of a loop in a Python thread; the arrays are there beforehand."""

    def __init__(
        self,
        port: LoopbackPort,
        limits: JointLimits,
        actions: Poses,
        *,
        rate_hz: float,
        actions_per_step: float,
        duration_s: float,
        fifo_priority: int = 0,
        cpus: Sequence[int] = (),
    ) -> None:
        """``actions`` (rows, joints) are all that the loop will follow, ``actions_per_step`` of them a tick."""
        self.period_ns = round(1e9 / rate_hz)
        self.thread_id = 0
        """Of the system, once the loop runs."""
        self.fifo_granted = False
        self._port = port
        self._limits = limits
        self._actions = actions
        self._actions_per_step = actions_per_step
        self._fifo_priority = fifo_priority
        self._cpus = tuple(cpus)
        self._capacity = int(duration_s * rate_hz) + 1
        self._count = 0
        joints = len(limits)
        self._times = np.zeros((6, self._capacity), dtype=np.int64)
        self._poses = np.zeros((3, self._capacity, joints), dtype=np.float64)
        self._command, _ = port.read()
        self._velocity = np.zeros(joints)
        self._stopping = threading.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="python-loop", daemon=True)

    def start(self) -> None:
        """Begin to tick, and return when the loop is about to."""
        self._thread.start()
        self._started.wait()

    def stop(self) -> Ticks:
        """End the loop and return its ticks."""
        self._stopping.set()
        self._thread.join()
        n = self._count
        deadline, wakeup, read, write, busy, skipped = (row[:n].copy() for row in self._times)
        target, command, measured = (pose[:n].copy() for pose in self._poses)
        return Ticks(deadline, wakeup, read, write, busy, skipped, target, command, measured)

    def _schedule(self) -> None:
        self.thread_id = threading.get_native_id()
        if self._cpus:
            # The compiled loop asks for the same and reports a refusal.
            with suppress(OSError):
                os.sched_setaffinity(0, self._cpus)
        if self._fifo_priority > 0:
            try:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(self._fifo_priority))
                self.fifo_granted = True
            except OSError:
                self.fifo_granted = False

    def _run(self) -> None:
        self._schedule()
        clock, sleep, period = time.monotonic_ns, time.sleep, self.period_ns
        deadline = clock() + period
        self._started.set()
        while not self._stopping.is_set() and self._count < self._capacity:
            # time.sleep() waits on the monotonic clock and, unlike in C++, only for a duration.
            wait = deadline - clock()
            if wait > 0:
                sleep(wait * 1e-9)
            wakeup = clock()
            measured, _ = self._port.read()
            read = clock()
            target = self._interpolate(self._count)
            command = self._gate(target, measured)
            gated = clock()
            self._port.write(command)
            end = clock()
            due = deadline
            deadline += period
            skipped = 0
            if end > deadline:
                skipped = -((deadline - end) // period)
                deadline += skipped * period
            n = self._count
            self._times[:, n] = (due, wakeup, read - wakeup, end - gated, end - wakeup, skipped)
            self._poses[0, n], self._poses[1, n], self._poses[2, n] = target, command, measured
            self._count = n + 1

    def _interpolate(self, step: int) -> Poses:
        place = min(step * self._actions_per_step, len(self._actions) - 1.0)
        row = min(int(place), len(self._actions) - 2)
        before, after = self._actions[row], self._actions[row + 1]
        target: Poses = before + (after - before) * (place - row)
        return target

    def _gate(self, target: Poses, measured: Poses) -> Poses:
        """Finite, position, jump, velocity, acceleration: what a careful script checks."""
        limits, seconds = self._limits, self.period_ns * 1e-9
        wanted = np.zeros_like(self._velocity)
        if np.isfinite(target).all() and (np.abs(target - measured) <= limits.jump_max).all():
            inside = np.minimum(np.maximum(target, limits.position_min), limits.position_max)
            wanted = (inside - self._command) / seconds
        wanted = np.minimum(np.maximum(wanted, -limits.velocity_max), limits.velocity_max)
        change = limits.acceleration_max * seconds
        wanted = np.minimum(np.maximum(wanted, self._velocity - change), self._velocity + change)
        self._velocity = wanted
        self._command = self._command + wanted * seconds
        return self._command
