"""Causes faults on the wire through the emulator, and judges what comes of them by the loop's own records and the
driver's word.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from molmoact2_drivers import Camera, LifeCycle
from molmoact2_edge.control import ControlLoop, GateState, TickRecord
from molmoact2_edge.errors import RobotError
from molmoact2_edge.hil.arm import ArmUnderTest, wait_for
from molmoact2_edge.hil.checks import Check, Checklist
from molmoact2_edge.hil.fault_cases import FaultCase
from molmoact2_edge.hil.motion import room, sway
from molmoact2_edge.runtime.camera_watch import CameraWatch

_START_S = 15.0
_BEFORE_S = 0.3
_RECOVER_S = 10.0
_POLL_S = 0.005
_HERTZ = 0.5
_AMPLITUDE = 8.0


class FaultChecks:
    """Causes faults in an emulated arm, one after the other; between two it is brought back to work."""

    def __init__(
        self, arm: ArmUnderTest, checklist: Checklist, cameras: Mapping[str, Camera] | None = None
    ) -> None:
        self.arm = arm
        self.checklist = checklist
        self.cameras = dict(cameras or {})

    def run(self, case: FaultCase) -> Check:
        """Cause it, watch, and judge."""
        with self.checklist.check("camera faults" if case.camera else "faults", case.name) as check:
            watched = tuple(self.cameras) if case.camera else ()
            loop = self.arm.loop(cameras=watched)
            pose = self.arm.pose()
            limits = loop.limits
            away = room(pose, limits.position_min, limits.position_max, np.full(len(pose), _AMPLITUDE))
            try:
                with ExitStack() as stack:
                    if case.camera:
                        stack.enter_context(CameraWatch(loop, self.cameras))
                    stack.enter_context(self.arm.running(loop, sway(pose, away, _HERTZ)))
                    self._watch(check, case, loop)
            finally:
                self._mend(case)
        return check

    def _watch(self, check: Check, case: FaultCase, loop: ControlLoop) -> None:
        wait_for(loop, GateState.RUNNING, _START_S)
        time.sleep(_BEFORE_S)
        before = loop.ticks
        asked_ns = self.arm.emulators[case.emulator].fault(case.line)
        driver_s = self._driver_fault_within(case, asked_ns)
        self._clear(case)
        again_s = None
        if case.continues and not self._faulted(loop):
            again_s = self._running_again(loop)
        records = [
            record
            for record in loop.records().records
            if record["tick"] > before and record["wakeup_ns"] >= asked_ns
        ]
        self._judge(check, case, asked_ns, records)
        check.figures.update(
            driver_fault=self._fault(case), until_driver_fault_ms=driver_s and round(driver_s * 1e3, 1)
        )
        if case.driver_fault:
            check.require(driver_s is not None, "the driver did not give up and say why")
        elif not case.camera:
            check.require(
                self.arm.robot.fault is None or not case.continues,
                f"the driver gave up: {self.arm.robot.fault}",
            )
        if case.continues:
            check.require(again_s is not None, f"the run does not go on: {_stands(loop)}")
            check.figures["until_running_again_ms"] = again_s and round(again_s * 1e3, 1)
        else:
            check.require(not self._moves(loop), "the run went on, where a person should have been asked")

    def _driver_fault_within(self, case: FaultCase, asked_ns: int) -> float | None:
        """Wait for as long as the fault lasts; returns when the driver gave up, in seconds, if it did."""
        found: float | None = None
        while (since := (time.monotonic_ns() - asked_ns) * 1e-9) < case.lasts_s:
            if found is None and self._fault(case) is not None:
                found = since
            time.sleep(_POLL_S)
        return found

    def _fault(self, case: FaultCase) -> str | None:
        if case.camera:
            return next((c.fault for c in self.cameras.values() if c.fault is not None), None)
        return self.arm.robot.fault

    def _judge(self, check: Check, case: FaultCase, asked_ns: int, records: Sequence[TickRecord]) -> None:
        seen: list[str] = []
        for record in records:
            step = f"{record['state']} ({record['reason']})"
            if not seen or seen[-1] != step:
                seen.append(step)
        check.figures["states"] = seen[:40]
        faulted = [record for record in records if record["state"] == GateState.FAULT]
        if case.state is None:
            check.require(not faulted, "the loop came to a fault")
            running = sum(record["state"] == GateState.RUNNING for record in records)
            check.figures["running_share"] = round(running / max(1, len(records)), 4)
            check.require(running >= 0.5 * len(records), "the arm was held for more than half of the time")
            return
        reached = [
            record for record in records if record["state"] == case.state and record["reason"] in case.reasons
        ]
        wanted = f"{case.state} ({' or '.join(case.reasons)})"
        check.require(bool(reached), f"the loop did not come to {wanted}")
        if reached:
            took_s = (reached[0]["wakeup_ns"] - asked_ns) * 1e-9
            check.figures.update(
                promised=wanted,
                until_state_ms=round(took_s * 1e3, 1),
                promised_ms=round(case.within_s * 1e3, 1),
            )
            check.require(
                took_s <= case.within_s,
                f"it took {took_s:.2f} s to come to {wanted}, {case.within_s:.2f} s are promised",
            )
        if case.state is not GateState.FAULT and not case.driver_fault:
            check.require(not faulted, "the loop came to a fault, where it should only have held")

    def _running_again(self, loop: ControlLoop) -> float | None:
        begin = time.monotonic()
        while time.monotonic() - begin < _RECOVER_S:
            if self._moves(loop):
                return time.monotonic() - begin
            if self._faulted(loop):
                return None
            time.sleep(_POLL_S)
        return None

    @staticmethod
    def _moves(loop: ControlLoop) -> bool:
        last = loop.last_record()
        return last is not None and last["state"] == GateState.RUNNING

    @staticmethod
    def _faulted(loop: ControlLoop) -> bool:
        last = loop.last_record()
        return last is not None and last["state"] == GateState.FAULT

    def _clear(self, case: FaultCase) -> None:
        if "duration=" not in case.line:
            self.arm.emulators[case.emulator].fault(f"clear {case.line.split()[0]}")
        if case.cure is not None:
            self.arm.emulators[case.emulator].fault(case.cure)

    def _mend(self, case: FaultCase) -> None:
        """Bring arm and cameras back to where the next case can begin."""
        give_up = time.monotonic() + _RECOVER_S
        while True:
            try:
                self.arm.activate()
                pose = self.arm.pose()
                sound = np.isfinite(pose).all() and self.arm.robot.life_cycle is LifeCycle.ACTIVE
                if sound and not self.arm.warm():
                    self.arm.hold()
                    break
            except RobotError:
                if time.monotonic() > give_up:
                    raise
            if time.monotonic() > give_up:
                raise RobotError(f"after {case.name} the arm is not ready within {_RECOVER_S:g} s")
            time.sleep(0.1)
        if case.camera:
            for camera in self.cameras.values():
                camera.wait_newer(camera.latest().sequence, _RECOVER_S)


def _stands(loop: ControlLoop) -> str:
    last = loop.last_record()
    return "no tick was done" if last is None else f"the loop is {last['state']} ({last['reason']})"
