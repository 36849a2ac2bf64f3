"""The thread of a camera, on a device that does what the test says."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from molmoact2_drivers import Camera, CameraCapabilities, Frame, LifeCycle
from molmoact2_drivers.cameras import ThreadedCamera
from molmoact2_drivers.cameras.capture import Opened, Reading, SourceEndedError, Wanted
from molmoact2_edge.errors import MissingExtraError, RobotError

PATIENCE_S = 20.0


class ScriptedCapture:
    """Gives the readings, and raises the errors, that are put into it."""

    def __init__(self) -> None:
        self.script: queue.SimpleQueue[Reading | Exception] = queue.SimpleQueue()
        self.opening: list[Exception] = []
        self.opened = 0
        self.is_open = False

    def open(self, wanted: Wanted) -> Opened:
        if self.opening:
            raise self.opening.pop(0)
        self.opened += 1
        self.is_open = True
        return Opened(CameraCapabilities(4, 6, wanted.rate_hz), "scripted")

    def read(self, timeout_s: float) -> Reading:
        assert self.is_open
        try:
            step = self.script.get(timeout=0.01)
        except queue.Empty:
            return Reading()
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        self.is_open = False

    def frame(self, sequence: int, value: int | None = None, dropped: int = 0) -> Frame:
        image = np.full((4, 6, 3), sequence % 256 if value is None else value, np.uint8)
        frame = Frame(image, time.monotonic_ns(), sequence)
        self.script.put(Reading(frame, dropped=dropped))
        return frame


def camera_of(capture: ScriptedCapture, **options: float) -> ThreadedCamera:
    return ThreadedCamera("front", capture, Wanted(4, 6, 30.0), **options)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "what must happen did not"
        time.sleep(0.002)


def test_it_is_a_camera() -> None:
    camera = camera_of(ScriptedCapture())
    assert isinstance(camera, Camera)
    assert camera.life_cycle is LifeCycle.DISCONNECTED
    assert camera.capabilities == CameraCapabilities(4, 6, 30.0)
    assert camera.description == ""


def test_the_newest_frame_stays_until_there_is_a_newer_one() -> None:
    capture = ScriptedCapture()
    camera = camera_of(capture)
    first = capture.frame(0)
    camera.connect()
    assert camera.latest() == first
    assert camera.latest() is camera.latest()
    second = capture.frame(1, dropped=0)
    assert camera.wait_newer(0, PATIENCE_S) == second
    with pytest.raises(RobotError, match=r"gave no frame after 1 within 0\.01 s"):
        camera.wait_newer(1, 0.01)
    camera.disconnect()
    assert not capture.is_open


def test_losses_are_counted() -> None:
    capture = ScriptedCapture()
    camera = camera_of(capture)
    capture.frame(0)
    camera.connect()
    capture.script.put(Reading(damaged=2))
    capture.frame(7, dropped=4)
    capture.frame(8, value=7)
    camera.wait_newer(7, PATIENCE_S)
    counted = camera.statistics
    assert (counted.frames, counted.dropped, counted.damaged, counted.frozen) == (3, 4, 2, 1)
    camera.disconnect()


def test_numbers_rise_over_a_reconnection() -> None:
    capture = ScriptedCapture()
    camera = camera_of(capture)
    capture.frame(100)
    camera.connect()
    capture.opening = [RobotError("still gone"), RobotError("still gone")]
    capture.script.put(RobotError("gone"))
    capture.frame(0)
    capture.frame(1)
    capture.frame(2)
    assert camera.wait_newer(100, PATIENCE_S).sequence > 100
    assert camera.wait_newer(102, PATIENCE_S).sequence == 103
    assert camera.statistics.reconnects == 1
    assert capture.opened == 2
    camera.disconnect()


def test_while_it_is_lost_the_last_frame_ages_and_then_it_is_a_fault() -> None:
    capture = ScriptedCapture()
    camera = camera_of(capture, lost_fault_s=0.3)
    first = capture.frame(0)
    camera.connect()
    capture.opening = [RobotError("no such device")] * 1000
    capture.script.put(RobotError("gone"))
    wait_for(lambda: not capture.is_open)
    assert camera.latest() == first
    assert camera.life_cycle is LifeCycle.ACTIVE
    wait_for(lambda: camera.life_cycle is LifeCycle.ERROR)
    assert camera.fault is not None
    assert camera.fault.startswith("front: no frame for 0.")
    assert camera.fault.endswith("no such device")
    with pytest.raises(RobotError, match="no such device"):
        camera.latest()
    with pytest.raises(RobotError, match="no such device"):
        camera.wait_newer(0, PATIENCE_S)
    capture.opening.clear()
    capture.frame(0)
    wait_for(lambda: camera.life_cycle is LifeCycle.ACTIVE)
    assert camera.fault is None
    camera.disconnect()


def test_equal_pictures_are_a_frozen_camera_and_a_pause_between_pictures_is_not() -> None:
    capture = ScriptedCapture()
    camera = camera_of(capture, lost_fault_s=PATIENCE_S, freeze_fault_s=0.2)
    capture.frame(0)
    camera.connect()
    time.sleep(0.4)
    assert camera.life_cycle is LifeCycle.ACTIVE
    capture.frame(1, value=0)
    time.sleep(0.4)
    # One that is equal, and a pause behind it, is none either.
    assert camera.life_cycle is LifeCycle.ACTIVE
    number = 2
    while camera.life_cycle is LifeCycle.ACTIVE:
        assert number < PATIENCE_S / 0.02
        capture.frame(number, value=0)
        number += 1
        time.sleep(0.02)
    assert camera.statistics.frozen > 1
    assert camera.fault is not None
    assert camera.fault.startswith("front: the same picture to the byte for 0.")
    with pytest.raises(RobotError, match="the camera is frozen; plug it in again"):
        camera.latest()
    capture.frame(number, value=77)
    wait_for(lambda: camera.life_cycle is LifeCycle.ACTIVE)
    assert camera.latest().sequence == number
    camera.disconnect()


def test_a_source_that_ends_is_a_fault_and_not_opened_again() -> None:
    capture = ScriptedCapture()
    camera = camera_of(capture)
    capture.frame(0)
    camera.connect()
    capture.script.put(SourceEndedError("the film is over"))
    wait_for(lambda: camera.life_cycle is LifeCycle.ERROR)
    assert camera.fault == "front: the film is over"
    assert capture.opened == 1
    camera.disconnect()
    assert camera.fault is None


def test_a_thread_that_fails_says_so() -> None:
    capture = ScriptedCapture()
    camera = camera_of(capture)
    capture.frame(0)
    camera.connect()
    capture.script.put(ZeroDivisionError("a mistake"))
    wait_for(lambda: camera.life_cycle is LifeCycle.ERROR)
    assert camera.fault == "front: the camera's thread failed: ZeroDivisionError: a mistake"
    wait_for(lambda: not capture.is_open)
    camera.disconnect()


def test_what_cannot_be_opened_is_not_connected() -> None:
    capture = ScriptedCapture()
    capture.opening = [RobotError("no such device"), MissingExtraError("pip install it")]
    camera = camera_of(capture)
    with pytest.raises(RobotError, match="camera front: no such device"):
        camera.connect()
    with pytest.raises(MissingExtraError):
        camera.connect()
    assert camera.life_cycle is LifeCycle.DISCONNECTED
    assert not any(thread.name == "camera-front" for thread in threading.enumerate())


def test_waiting_ends_with_the_camera() -> None:
    capture = ScriptedCapture()
    camera = camera_of(capture)
    capture.frame(0)
    camera.connect()
    raised = []

    def wait() -> None:
        try:
            camera.wait_newer(0, PATIENCE_S)
        except RobotError as error:
            raised.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    camera.disconnect()
    thread.join(PATIENCE_S)
    assert raised == ["camera front is disconnected; connect it first"]
