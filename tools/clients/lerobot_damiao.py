"""LeRobot's own driver for Damiao motors moves an emulated YAM: lerobot_damiao.py ADDRESS [slcan|socketcan]

For a Python that has LeRobot 0.4.4 and python-can. ADDRESS is what ``molmoact2-edge emulate yam`` says first. Exits
with 0 where every motor answered, was switched on, went where it was sent, and was let go. Prints what it saw as JSON.
"""

from __future__ import annotations

import json
import sys
import time

import can
from lerobot.motors import Motor, MotorNormMode
from lerobot.motors.damiao import DamiaoMotorsBus

STEP_DEG = 6.0
TOLERANCE_DEG = 1.0
REACHED_S = 5.0
READS = 50


def main() -> int:
    """Run; returns the exit code."""
    address, interface = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "slcan"
    models = ["dm4340"] * 3 + ["dm4310"] * 4
    motors = {
        f"joint_{number}": Motor(
            number, model, MotorNormMode.DEGREES, motor_type_str=model, recv_id=number + 0x10
        )
        for number, model in enumerate(models, start=1)
    }
    bus = DamiaoMotorsBus(address, motors, can_interface=interface, use_can_fd=False, bitrate=1_000_000)
    bus.connect()
    start = {name: float(value) for name, value in bus.sync_read("Present_Position").items()}
    bus.enable_torque()
    bus.sync_write("Kp", dict.fromkeys(motors, 40.0))
    bus.sync_write("Kd", dict.fromkeys(motors, 1.0))
    goal = {name: value + STEP_DEG for name, value in start.items()}
    deadline = time.monotonic() + REACHED_S
    errors = {"joint_1": STEP_DEG}
    while max(errors.values()) > TOLERANCE_DEG and time.monotonic() < deadline:
        bus.sync_write("Goal_Position", goal)
        now = bus.sync_read("Present_Position")
        errors = {name: abs(float(now[name]) - goal[name]) for name in goal}
    begun = time.perf_counter()
    for _ in range(READS):
        states = bus.sync_read_all_states()
    read_ms = (time.perf_counter() - begun) / READS * 1e3
    bus.disconnect()
    reached = max(errors.values()) <= TOLERANCE_DEG
    alive = all(state["temp_rotor"] > 0.0 for state in states.values())
    seen = {
        "python_can": can.__version__,
        "start_deg": start,
        "worst_error_deg": max(errors.values()),
        "read_all_states_ms": round(read_ms, 2),
        "temperatures": {name: state["temp_rotor"] for name, state in states.items()},
    }
    print(json.dumps(seen))
    return 0 if reached and alive else 1


if __name__ == "__main__":
    sys.exit(main())
