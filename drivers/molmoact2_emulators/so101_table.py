"""The arm in the simulated table: what the servos push against, and the process that it runs in.

The table has a process of its own, so that drawing never delays an answer on the wire.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict

from molmoact2_edge.errors import RobotError
from molmoact2_emulators.feetech_servo import Drive, Shaft, Torque
from molmoact2_emulators.so101_calibration import Mounting
from molmoact2_emulators.so101_exchange import READY, STEP_S, Commands, Exchange, Push, TablePlan

_PROCESS = "molmoact2_emulators.so101_table_process"
_START_TIMEOUT_S = 90.0
_END_TIMEOUT_S = 10.0
_HAND_SPEED = 90.0  # degrees or percent a second
_LOOK_FOR_THE_END = 250  # steps


class TableMechanics:
    """The arm in the simulated table; see `so101_mechanics.Mechanics`."""

    step_s = STEP_S

    def __init__(self, mountings: Sequence[Mounting], plan: TablePlan) -> None:
        """Start the process and wait until everything in it is there.

        Raises:
            RobotError: it did not start; says why.
        """
        self._mountings = tuple(mountings)
        self.shafts = tuple(Shaft() for _ in mountings)
        self.stalled = False
        """Cameras show nothing new."""
        self.drop_probability = 0.0
        """Of a camera's frame."""
        self._steps = 0
        self._epoch = -1
        memory = Exchange.allocate()
        self._exchange = Exchange(memory)
        self._process = subprocess.Popen(  # noqa: S603 - this package, by this interpreter
            [sys.executable, "-m", _PROCESS, str(memory), json.dumps(asdict(plan))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=(memory,),
        )
        os.close(memory)
        try:
            self._wait_for_start()
        except BaseException:
            self.close()
            raise
        self._look()

    def step(self, drives: Sequence[Drive], hands: Sequence[float | None]) -> bool:
        """See `Mechanics`.

        Raises:
            RobotError: the table's process has ended.
        """
        self._steps += 1
        if self._steps % _LOOK_FOR_THE_END == 0 and self._process.poll() is not None:
            raise RobotError(
                f"the simulated table has ended by itself, with exit code {self._process.returncode}"
            )
        moved = self._look()
        if moved:
            # What the motors are to do was said of another place.
            return True
        pushes = tuple(
            _push(drive, hand, shaft, mounting)
            for drive, hand, shaft, mounting in zip(drives, hands, self.shafts, self._mountings, strict=True)
        )
        self._exchange.put_commands(Commands(self._epoch, self.stalled, self.drop_probability, pushes))
        return False

    def close(self) -> None:
        """End the process."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _wait_for_start(self) -> None:
        process = self._process
        assert process.stdout is not None
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.append(process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
        reader.start()
        reader.join(_START_TIMEOUT_S)
        said = lines[0].strip() if lines else f"nothing within {_START_TIMEOUT_S:g} s"
        if said != READY:
            raise RobotError(f"the simulated table did not start: {said or 'it ended without a word'}")

    def _look(self) -> bool:
        """Bring the shafts up to the table's state; returns whether the arm was put elsewhere."""
        state = self._exchange.state()
        if state is None:
            return False
        for shaft, mounting, position, velocity, load in zip(
            self.shafts, self._mountings, state.positions, state.velocities, state.loads, strict=True
        ):
            shaft.position = mounting.ticks(position)
            shaft.speed = velocity / mounting.per_tick
            shaft.load = load if mounting.per_tick > 0.0 else -load
        moved = state.epoch != self._epoch
        self._epoch = state.epoch
        return moved


def _push(drive: Drive, hand: float | None, shaft: Shaft, mounting: Mounting) -> Push:
    if drive.torque is Torque.FOLLOWING:
        return Push(mounting.units(drive.set_point), drive.stiffness, 1.0, drive.limit)
    here = mounting.units(shaft.position)
    if drive.torque is Torque.FREE and hand is not None:
        # The hand leads by what makes the arm follow at its speed.
        lead = _HAND_SPEED * 0.02
        return Push(here + min(max(mounting.units(hand) - here, -lead), lead), 1.0, 1.0, 1.0)
    return Push(here, 0.0, 0.0 if drive.torque is Torque.FREE else 1.0, 1.0)
