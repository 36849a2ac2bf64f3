"""The choice among what a camera offers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmoact2_drivers.cameras.capture import Wanted
from molmoact2_drivers.cameras.offers import Offer, choose
from molmoact2_drivers.cameras.v4l2_device import FrameSizes
from molmoact2_edge.errors import RobotError

USABLE = ("YUYV", "MJPG")
# A webcam as they are: uncompressed pictures are fast only where they are small.
WEBCAM = [
    Offer("YUYV", 480, 640, (30.0, 15.0)),
    Offer("YUYV", 720, 1280, (10.0,)),
    Offer("MJPG", 480, 640, (30.0,)),
    Offer("MJPG", 720, 1280, (30.0,)),
    Offer("MJPG", 600, 800, (30.0,)),
    Offer("H264", 1080, 1920, (30.0,)),
]


def chosen(height: int | None, width: int | None, rate_hz: float = 30.0, resize: bool = False) -> str:
    return str(choose(WEBCAM, Wanted(height, width, rate_hz, resize), USABLE, "it"))


def test_choices_on_a_usual_webcam() -> None:
    assert chosen(480, 640) == "YUYV 640x480 at 30 Hz"
    assert chosen(480, 640, 15.0) == "YUYV 640x480 at 15 Hz"
    assert chosen(480, 640, 20.0) == "YUYV 640x480 at 30 Hz"
    assert chosen(480, 640, 60.0) == "YUYV 640x480 at 30 Hz"  # the fastest there is, and it is said
    assert chosen(720, 1280) == "MJPG 1280x720 at 30 Hz"  # the other would be too slow
    assert chosen(720, 1280, 10.0) == "YUYV 1280x720 at 10 Hz"
    assert chosen(None, None) == "YUYV 640x480 at 30 Hz"


def test_a_larger_picture_of_the_same_shape_comes_before_a_nearer_one() -> None:
    assert chosen(450, 800, resize=True) == "MJPG 1280x720 at 30 Hz"
    assert chosen(240, 320, resize=True) == "YUYV 640x480 at 30 Hz"
    assert chosen(500, 700, resize=True) == "MJPG 800x600 at 30 Hz"


def test_refusals_say_what_is_offered() -> None:
    with pytest.raises(RobotError, match=r"it does not offer 320x240, but YUYV 640x480, 1280x720; MJPG"):
        chosen(240, 320)
    with pytest.raises(RobotError, match="offers only less than 1920x1080"):
        chosen(1080, 1920, resize=True)
    with pytest.raises(RobotError, match="it offers H264; one of YUYV, MJPG is needed"):
        choose(WEBCAM[-1:], Wanted(1080, 1920, 30.0), USABLE, "it")
    with pytest.raises(RobotError, match="it offers nothing"):
        choose([], Wanted(1080, 1920, 30.0), USABLE, "it")


def test_29_97_is_30() -> None:
    offers = [Offer("YUYV", 480, 640, (29.97,)), Offer("MJPG", 480, 640, (60.0,))]
    assert choose(offers, Wanted(480, 640, 30.0), USABLE, "it").offer.pixel_format == "YUYV"


def test_a_camera_that_does_not_tell_its_rates_is_asked_for_what_is_wanted() -> None:
    assert choose([Offer("YUYV", 480, 640, ())], Wanted(480, 640, 30.0), USABLE, "it").rate_hz == 30.0


sides = st.integers(1, 8).map(lambda side: side * 100)
rates = st.lists(st.sampled_from((5.0, 15.0, 30.0)), max_size=3).map(tuple)
offers = st.builds(Offer, st.sampled_from((*USABLE, "H264")), sides, sides, rates)


@given(st.lists(offers, max_size=8), sides, sides, st.sampled_from((5.0, 10.0, 30.0, 60.0)), st.booleans())
def test_a_choice_is_offered_usable_and_large_enough(
    offers: list[Offer], height: int, width: int, rate_hz: float, resize: bool
) -> None:
    usable = [offer for offer in offers if offer.pixel_format in USABLE]
    enough = [offer for offer in usable if offer.height >= height and offer.width >= width]
    exact = [offer for offer in usable if offer.size == (height, width)]
    try:
        choice = choose(offers, Wanted(height, width, rate_hz, resize), USABLE, "it")
    except RobotError:
        assert not exact
        assert not (resize and enough)
        return
    assert choice.offer in enough
    assert not exact or choice.offer.size == (height, width)
    assert resize or choice.offer.size == (height, width)
    assert not choice.offer.rates_hz or choice.rate_hz in choice.offer.rates_hz


@given(
    st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 64), st.integers(16, 400), st.integers(0, 100)
)
def test_ranges_of_sizes(height: int, width: int, step: int, low: int, steps: int) -> None:
    high = low + steps * step
    sizes = FrameSizes(low, high, step, low, high, step)
    for asked, got in zip((height, width), sizes.at_least(height, width), strict=True):
        assert low <= got <= high
        assert (got - low) % step == 0
        assert got >= min(asked, high)
        assert got - step < max(asked, low)
