"""Our driver on an emulated camera with all its faults. Run by test_v4l2.py in a process that loads the shim."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from emulators.filming import Filming, filming
from emulators.shimmed import DEVICE, FRAMES

from molmoact2_drivers import Camera, LifeCycle
from molmoact2_drivers.cameras import ThreadedCamera, list_cameras, open_cameras, threaded_camera
from molmoact2_drivers.cameras.capture import Wanted
from molmoact2_drivers.cameras.exposure_time import ExposureClock
from molmoact2_drivers.cameras.v4l2_capture import V4l2Capture
from molmoact2_drivers.cameras.v4l2_device import VideoDevice
from molmoact2_edge.config import CameraConfig, load_robot
from molmoact2_edge.control import ControlLoop, JointLimits, LoopbackPort, Watchdogs, monotonic_ns
from molmoact2_edge.errors import RobotError
from molmoact2_edge.runtime.camera_watch import CameraWatch
from molmoact2_emulators.camera_picture import read_number

FRAME_FILE = Path(os.environ[FRAMES])
WANTED = Wanted(120, 160, 100.0)
PATIENCE_S = 20.0


@pytest.fixture
def film() -> Iterator[Filming]:
    with filming(FRAME_FILE, mjpg=True) as film:
        yield film


@pytest.fixture
def camera(film: Filming) -> Iterator[ThreadedCamera]:
    camera = ThreadedCamera("front", V4l2Capture(DEVICE), WANTED, lost_fault_s=0.4)
    camera.connect()
    yield camera
    camera.disconnect()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "what must happen did not"
        time.sleep(0.005)


def test_frames_have_the_camera_s_numbers_and_times(film: Filming, camera: ThreadedCamera) -> None:
    assert isinstance(camera, Camera)
    assert camera.life_cycle is LifeCycle.ACTIVE
    assert camera.description == "YUYV 160x120 at 100 Hz"
    capabilities = camera.capabilities
    assert (capabilities.height, capabilities.width, capabilities.rate_hz) == (120, 160, 100.0)
    offsets = set()
    last = None
    for _ in range(20):
        frame = camera.wait_newer(-1 if last is None else last.sequence, PATIENCE_S)
        number = read_number(frame.image)
        assert number is not None
        offsets.add(number - frame.sequence)
        assert frame.image.shape == (120, 160, 3)
        assert not frame.image.flags.writeable
        assert frame.age_ns(time.monotonic_ns()) >= 0
        if last is not None:
            assert frame.time_ns > last.time_ns
        last = frame
    assert len(offsets) == 1
    assert camera.statistics.frames >= 20
    assert camera.statistics.damaged == camera.statistics.reconnects == 0


def test_the_time_is_that_of_the_exposure_however_late_it_is_read(
    film: Filming, camera: ThreadedCamera
) -> None:
    film.fault("delay probability=1 seconds=0.3")
    begun = time.monotonic_ns()
    wait_for(lambda: camera.latest().time_ns > begun)
    frame = camera.latest()
    assert frame.age_ns(time.monotonic_ns()) >= 250_000_000


def test_dropped_frames_are_counted(film: Filming, camera: ThreadedCamera) -> None:
    film.fault("drop_frames probability=0.5")
    before = camera.statistics
    wait_for(lambda: camera.statistics.frames >= before.frames + 30)
    assert camera.statistics.dropped - before.dropped >= 10


@pytest.mark.parametrize("formats", [("YUYV",), ("MJPG",)])
def test_damaged_frames_are_thrown_away_and_counted(
    film: Filming, formats: tuple[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("molmoact2_drivers.cameras.v4l2_capture.PIXEL_FORMATS", formats)
    camera = ThreadedCamera("front", V4l2Capture(DEVICE), WANTED)
    camera.connect()
    assert camera.description.startswith(formats[0])
    film.fault("corrupt probability=0.5")
    wait_for(lambda: camera.statistics.damaged >= 10)
    sequence = -1
    for _ in range(10):
        frame = camera.wait_newer(sequence, PATIENCE_S)
        sequence = frame.sequence
        assert read_number(frame.image) is not None
    camera.disconnect()


def test_a_stall_leaves_the_last_frame_with_its_time_and_then_is_a_fault(
    film: Filming, camera: ThreadedCamera
) -> None:
    film.fault("stall")
    wait_for(lambda: camera.latest().age_ns(time.monotonic_ns()) > 150_000_000)
    assert camera.latest() is camera.latest()
    wait_for(lambda: camera.life_cycle is LifeCycle.ERROR)
    assert camera.fault is not None
    assert camera.fault.startswith("front: no frame for")
    with pytest.raises(RobotError, match="camera front is error: front: no frame for"):
        camera.latest()
    film.fault("clear stall")
    wait_for(lambda: camera.life_cycle is LifeCycle.ACTIVE)
    assert camera.fault is None
    assert camera.latest().age_ns(time.monotonic_ns()) < 10_000_000_000


def test_a_camera_that_is_plugged_in_again_goes_on(film: Filming, camera: ThreadedCamera) -> None:
    wait_for(lambda: camera.latest().sequence > 3)
    film.fault("unplug")
    wait_for(lambda: not film.writer.plugged)
    wait_for(lambda: camera.life_cycle is LifeCycle.ERROR)
    assert camera.fault is not None
    assert "there is no such device" in camera.fault or "the device is gone" in camera.fault
    film.fault("clear unplug")
    wait_for(lambda: camera.life_cycle is LifeCycle.ACTIVE)
    assert camera.statistics.reconnects == 1
    first = camera.latest().sequence
    # Numbers go on rising, so that whoever waits for a newer one gets it.
    assert camera.wait_newer(first, PATIENCE_S).sequence > first > 3


def test_a_short_loss_is_no_fault(film: Filming) -> None:
    camera = ThreadedCamera("front", V4l2Capture(DEVICE), WANTED, lost_fault_s=PATIENCE_S)
    camera.connect()
    film.fault("unplug duration=0.2")
    wait_for(lambda: not film.writer.plugged)
    before = camera.latest()
    wait_for(lambda: camera.statistics.reconnects == 1 and camera.latest().sequence > before.sequence)
    assert camera.life_cycle is LifeCycle.ACTIVE
    camera.disconnect()


def test_a_frozen_camera_is_counted_and_where_so_wanted_a_fault(film: Filming) -> None:
    camera = ThreadedCamera("front", V4l2Capture(DEVICE), WANTED, freeze_fault_s=0.3)
    camera.connect()
    wait_for(lambda: camera.statistics.frames > 5)
    assert camera.statistics.frozen == 0
    film.fault("freeze")
    wait_for(lambda: camera.statistics.frozen > 3)
    wait_for(lambda: camera.life_cycle is LifeCycle.ERROR)
    assert camera.fault is not None
    assert "the same picture to the byte" in camera.fault
    film.fault("clear freeze")
    wait_for(lambda: camera.life_cycle is LifeCycle.ACTIVE)
    camera.disconnect()


def test_a_frozen_camera_is_alive_where_nobody_asked(film: Filming, camera: ThreadedCamera) -> None:
    film.fault("freeze")
    wait_for(lambda: camera.statistics.frozen > 100)
    assert camera.life_cycle is LifeCycle.ACTIVE


def test_a_device_that_hangs_is_opened_again(film: Filming, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threaded_camera, "_SILENCE_S", 0.2)
    camera = ThreadedCamera("front", V4l2Capture(DEVICE), WANTED, lost_fault_s=PATIENCE_S)
    camera.connect()
    film.fault("stall")
    wait_for(lambda: camera.statistics.reconnects >= 1)
    assert camera.life_cycle is LifeCycle.ACTIVE
    film.fault("clear stall")
    stalled = camera.latest().sequence
    assert camera.wait_newer(stalled, PATIENCE_S).sequence > stalled
    camera.disconnect()


def test_a_smaller_size_that_is_offered_needs_no_resizing(film: Filming) -> None:
    camera = ThreadedCamera("front", V4l2Capture(DEVICE), Wanted(60, 80, 100.0))
    camera.connect()
    assert camera.description == "YUYV 80x60 at 100 Hz"
    assert camera.latest().image.shape == (60, 80, 3)
    camera.disconnect()


def test_another_size_is_refused_unless_resizing_is_allowed(film: Filming) -> None:
    refused = ThreadedCamera("front", V4l2Capture(DEVICE), Wanted(90, 120, 100.0))
    with pytest.raises(RobotError, match=r"does not offer 120x90, but YUYV 160x120, 80x60; MJPG 160x120"):
        refused.connect()
    assert refused.life_cycle is LifeCycle.DISCONNECTED
    allowed = ThreadedCamera("front", V4l2Capture(DEVICE), Wanted(90, 120, 100.0, resize=True))
    allowed.connect()
    assert allowed.description == "YUYV 160x120 at 100 Hz, resized to 120x90"
    assert allowed.latest().image.shape == (90, 120, 3)
    allowed.disconnect()


def test_the_slowest_rate_that_is_fast_enough_is_taken(film: Filming) -> None:
    for wanted, got in ((30.0, 50.0), (50.0, 50.0), (60.0, 100.0), (500.0, 100.0)):
        camera = ThreadedCamera("front", V4l2Capture(DEVICE), Wanted(120, 160, wanted))
        camera.connect()
        assert camera.capabilities.rate_hz == got
        camera.disconnect()


def test_stamps_of_the_wall_clock_are_understood(film: Filming) -> None:
    # As if the computer's wall clock were the monotonic one of the device, and its monotonic clock another one.
    shift_ns = 10**18
    clock = ExposureClock(lambda: time.monotonic_ns() + shift_ns, time.monotonic_ns)
    camera = ThreadedCamera("front", V4l2Capture(DEVICE, clock), WANTED)
    camera.connect()
    frame = camera.latest()
    assert 0 <= time.monotonic_ns() + shift_ns - frame.time_ns < PATIENCE_S * 1e9
    camera.disconnect()


def test_a_device_in_use_is_told_so(film: Filming, camera: ThreadedCamera) -> None:
    second = ThreadedCamera("wrist", V4l2Capture(DEVICE), WANTED)
    with pytest.raises(RobotError, match="another program uses it"):
        second.connect()


def test_a_device_that_is_not_there_is_told_so(film: Filming) -> None:
    film.ended.set()
    film.writer.unplug()
    with pytest.raises(RobotError, match="camera front: /dev/video10: there is no such device"):
        ThreadedCamera("front", V4l2Capture(DEVICE), WANTED).connect()


def test_a_camera_that_sends_nothing_is_not_connected(film: Filming, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threaded_camera, "_FIRST_FRAME_S", 0.3)
    film.fault("stall")
    camera = ThreadedCamera("front", V4l2Capture(DEVICE), WANTED)
    with pytest.raises(RobotError, match="gave no frame"):
        camera.connect()
    assert camera.life_cycle is LifeCycle.DISCONNECTED
    assert not any(thread.name == "camera-front" for thread in threading.enumerate())


def test_connecting_again_after_disconnecting(film: Filming, camera: ThreadedCamera) -> None:
    for _ in range(3):
        camera.disconnect()
        camera.disconnect()
        with pytest.raises(RobotError, match="disconnected; connect it first"):
            camera.latest()
        camera.connect()
        with pytest.raises(RobotError, match="disconnect it first"):
            camera.connect()
    assert sum(thread.name == "camera-front" for thread in threading.enumerate()) == 1


def test_the_listing_names_what_is_offered(film: Filming) -> None:
    (listed,) = [camera for camera in list_cameras([DEVICE]) if camera.path == DEVICE]
    assert (listed.name, listed.bus, listed.problem) == ("Filming", "platform:molmoact2-emulated", None)
    offers = [(offer.pixel_format, offer.width, offer.height, offer.rates_hz) for offer in listed.offers]
    assert offers == [
        ("YUYV", 160, 120, (100.0, 50.0)),
        ("YUYV", 80, 60, (100.0, 50.0)),
        ("MJPG", 160, 120, (100.0, 50.0)),
    ]


def test_pictures_are_the_camera_s(film: Filming, camera: ThreadedCamera) -> None:
    from molmoact2_emulators.camera_picture import NumberedPicture

    frame = camera.wait_newer(camera.latest().sequence, PATIENCE_S)
    number = read_number(frame.image)
    assert number is not None
    drawn = NumberedPicture(160, 120).draw(number).astype(float)
    # Neighbours share their colour; in the gradient that is little, at the square's edges it is much.
    assert np.median(np.abs(frame.image - drawn)) <= 4.0


def test_descriptors_are_not_left_behind(film: Filming) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    with pytest.raises(RobotError, match="does not offer"):
        ThreadedCamera("front", V4l2Capture(DEVICE), Wanted(90, 120, 100.0)).connect()
    before = opened()
    for _ in range(5):
        camera = ThreadedCamera("front", V4l2Capture(DEVICE), WANTED)
        camera.connect()
        camera.disconnect()
        device = VideoDevice(DEVICE)
        device.close()
        device.close()
    assert opened() == before


@pytest.mark.parametrize(
    "fault",
    [
        "stall",
        "drop_frames probability=1",
        "unplug",
        "delay probability=1 seconds=2",
        "corrupt probability=1",
        "freeze",
    ],
)
def test_every_fault_holds_the_loop_while_it_lasts(film: Filming, fault: str) -> None:
    wanted = CameraConfig(120, 160, 100.0, DEVICE, lost_fault_s=1.0, freeze_fault_s=0.3)
    camera = open_cameras(replace(load_robot("so101"), cameras={"front": wanted}))["front"]
    camera.connect()
    row = np.ones(2)
    limits = JointLimits(-100 * row, 100 * row, 90 * row, 450 * row, 30 * row)
    watchdogs = Watchdogs(cameras=("front",), camera_age_max_s=0.5)
    loop = ControlLoop(
        LoopbackPort([0.0, 0.0], 0.0), limits, watchdogs=watchdogs, silence_hold_s=5.0, silence_fault_s=60.0
    )
    loop.start()

    def reason() -> object:
        record = loop.last_record()
        return None if record is None else record["reason"]

    try:
        with CameraWatch(loop, {"front": camera}):
            wait_for(lambda: loop.observation_at(monotonic_ns()) is not None)
            observation = loop.observation_at(monotonic_ns())
            assert observation is not None
            loop.push(np.zeros((250, 2)), observation)
            wait_for(lambda: reason() not in (None, "camera_stale"))
            film.fault(fault)
            wait_for(lambda: reason() == "camera_stale")
            record = loop.last_record()
            assert record is not None
            assert record["state"] == "holding"
            film.fault(f"clear {fault.split()[0]}")
            wait_for(lambda: reason() not in (None, "camera_stale"))
    finally:
        loop.stop()
        camera.disconnect()
