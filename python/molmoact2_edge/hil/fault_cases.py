"""What must come of each fault on the wire, robot by robot: the promises of docs/safety.md as data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from molmoact2_edge.config import CameraConfig
from molmoact2_edge.control import GateState, Reason

HELD_BUS = (Reason.STATE_STALE, Reason.BUS_WRITE_FAILED)
LOST_BUS = (Reason.STATE_LOST, Reason.BUS_WRITE_FAILED)


@dataclass(frozen=True)
class FaultCase:
    """One fault and its promise. Times count from the moment at which the emulator was told."""

    name: str
    line: str
    """As the emulator reads it."""
    lasts_s: float
    """How long it is watched; a fault without ``duration`` is cleared after that."""
    state: GateState | None = None
    """What the loop must come to; None: it goes on running."""
    reasons: tuple[Reason, ...] = ()
    within_s: float = 0.0
    """By when: the promise and what an emulator on the same computer takes to obey."""
    driver_fault: bool = False
    """The driver gives up, and says why."""
    continues: bool = True
    """The run goes on by itself once the fault is over; else it takes a person."""
    emulator: int = 0
    """Which of the robot's emulators has it."""
    camera: bool = False
    """Of the cameras: the loop watches them."""
    cure: str | None = None
    """A line that undoes what a fault leaves behind: what was heated cools in minutes."""


def _bad_line(probability: float) -> list[FaultCase]:
    """A line that loses, garbles, delays or repeats packets, which a run lives through."""
    p = f"probability={probability:g}"
    return [
        FaultCase("packets dropped", f"drop {p} duration=2", 2.0),
        FaultCase("packets corrupted", f"corrupt {p} duration=2", 2.0),
        FaultCase("answers delayed", f"delay {p} seconds=0.004 duration=2", 2.0),
        FaultCase("answers duplicated", f"duplicate {p} duration=2", 2.0),
    ]


def _given_up(name: str, line: str, within_s: float) -> FaultCase:
    """A fault that the driver does not mend by itself: the arm is held, and the driver says why."""
    return FaultCase(
        name, line, within_s + 1.0, GateState.HOLDING, HELD_BUS, within_s, driver_fault=True, continues=False
    )


def so101_faults(silence_hold_s: float, silence_fault_s: float) -> list[FaultCase]:
    """The faults of six Feetech servos on a serial line."""
    slack = 0.5
    held, lost = silence_hold_s + slack, silence_fault_s + slack
    cool = "overtemperature servo=4 celsius=30 duration=3"
    return [
        *_bad_line(0.1),
        FaultCase("unplugged and replugged", "unplug duration=0.5", 1.0, GateState.HOLDING, HELD_BUS, held),
        FaultCase(
            "unplugged", "unplug", 1.5 + silence_fault_s, GateState.FAULT, LOST_BUS, lost, continues=False
        ),
        FaultCase(
            "a servo absent for a moment",
            "absent servo=3 duration=0.5",
            1.0,
            GateState.HOLDING,
            (Reason.STATE_STALE,),
            held,
        ),
        FaultCase(
            "a servo absent",
            "absent servo=3",
            0.5 + silence_fault_s,
            GateState.FAULT,
            (Reason.STATE_LOST,),
            lost,
            continues=False,
        ),
        FaultCase(
            "a servo overloaded",
            "overload servo=2",
            1.5,
            GateState.HOLDING,
            (Reason.BUS_WRITE_FAILED,),
            0.5 + slack,
            driver_fault=True,
            continues=False,
        ),
        FaultCase(
            "a servo warm",
            "overtemperature servo=4 celsius=60",
            4.0,
            GateState.HOLDING,
            (Reason.TEMPERATURE_HIGH,),
            3.0,
            cure=cool,
        ),
        FaultCase(
            "a servo hot",
            "overtemperature servo=4 celsius=67",
            4.0,
            GateState.FAULT,
            (Reason.TEMPERATURE_LIMIT,),
            3.0,
            continues=False,
            cure=cool,
        ),
        FaultCase(
            "power lost for a moment",
            "power_loss duration=0.5",
            1.5,
            GateState.HOLDING,
            HELD_BUS,
            held,
            driver_fault=True,
            continues=False,
        ),
    ]


def dynamixel_faults(silence_hold_s: float, silence_fault_s: float) -> list[FaultCase]:
    """The faults of Dynamixel servos on a serial line: those of an SO-101, and a power that each servo loses alone."""
    kept = [case for case in so101_faults(silence_hold_s, silence_fault_s) if "power" not in case.name]
    return [*kept, _given_up("a servo without power for a moment", "power_loss servo=2 duration=0.5", 1.5)]


def yam_faults(silence_hold_s: float) -> list[FaultCase]:
    """The faults of two arms of Damiao motors, whose motors brake by themselves where nobody speaks to them."""
    within = silence_hold_s + 0.5
    return [
        *_bad_line(0.01),
        _given_up("a motor out of reach", "comm_loss motor=3", within + 1.0),
        _given_up("a motor absent", "absent servo=5", within + 1.0),
        _given_up("a motor overloaded", "overload servo=2", within + 1.0),
        _given_up("one bus unplugged", "unplug_bus bus=2", within + 1.0),
        _given_up("both adapters unplugged", "unplug", within + 1.0),
    ]


def franka_faults(silence_hold_s: float) -> list[FaultCase]:
    """The faults of a Franka arm: its own word ends a motion, and a person clears it."""
    within = silence_hold_s + 1.0
    return [
        FaultCase("few packets lost", "lost_packets probability=0.002 duration=2", 2.0),
        FaultCase("states delayed", "delay probability=0.02 seconds=0.002 duration=2", 2.0),
        _given_up("reflex", "reflex duration=0.2", within),
        _given_up("many packets lost", "lost_packets probability=0.97 duration=2", within + 1.0),
        _given_up("the user stop", "user_stop duration=1", within),
        _given_up("the connection closed", "tcp_close duration=1", within + 1.0),
    ]


def robotiq_faults(silence_hold_s: float, emulator: int) -> list[FaultCase]:
    """The faults of a gripper beside an arm, whose pose is as old as the gripper's after half a second of silence."""
    cases = [
        FaultCase("the gripper unplugged and replugged", "unplug duration=0.3", 2.0),
        _given_up("the gripper unplugged", "unplug", silence_hold_s + 2.0),
        _given_up(
            "the gripper without power for a moment", "power_loss servo=9 duration=0.3", silence_hold_s + 1.0
        ),
    ]
    return [replace(case, emulator=emulator) for case in cases]


def camera_faults(camera_age_max_s: float, camera: CameraConfig) -> list[FaultCase]:
    """The faults of a V4L2 camera."""
    stale, within = (Reason.CAMERA_STALE,), camera_age_max_s + 0.5
    cases = [
        FaultCase("frames dropped", "drop_frames probability=0.5 duration=2", 2.0, camera=True),
        FaultCase(
            "a camera stalled for a moment",
            "stall duration=1.5",
            2.0,
            GateState.HOLDING,
            stale,
            within,
            camera=True,
        ),
        FaultCase(
            "a camera unplugged and replugged",
            "unplug duration=1.5",
            2.0,
            GateState.HOLDING,
            stale,
            within,
            camera=True,
        ),
        FaultCase(
            "a camera unplugged",
            "unplug",
            camera.lost_fault_s + 2.0,
            GateState.HOLDING,
            stale,
            within,
            driver_fault=True,
            camera=True,
        ),
    ]
    if camera.freeze_fault_s is not None:
        frozen_s = camera.freeze_fault_s + within
        cases.append(
            FaultCase(
                "a camera frozen",
                "freeze",
                frozen_s + 0.5,
                GateState.HOLDING,
                stale,
                frozen_s,
                driver_fault=True,
                camera=True,
            )
        )
    return cases
