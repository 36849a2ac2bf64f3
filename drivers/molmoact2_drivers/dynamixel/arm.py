"""An arm of Dynamixel X servos behind the protocol that every robot has.

The control loop reads and writes through ``port()``, in C++. Beside it a thread attends to the line: while nobody reads
it feeds the servos' watchdogs, and what the loop's thread cannot mend, it does. A port that was unplugged is opened
again and, where the servos have kept their torque, the arm goes on from where it stands; a servo that has let go is a
fault, which ends in ERROR until ``recover``.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from molmoact2_drivers.dynamixel.control_table import ControlTable
from molmoact2_drivers.dynamixel.servo_bus import ServoBus, Torque, describe_errors, error_names
from molmoact2_drivers.dynamixel.settings import (
    ArmSettings,
    ServoSettings,
    indirect_addresses,
    joint_limits,
    lasting_registers,
    position_of,
    servo_joint,
    volatile_registers,
    whole_turns,
)
from molmoact2_drivers.life_cycle import require_life_cycle
from molmoact2_drivers.protocol import LifeCycle, Measurement, RobotCapabilities, RobotState, StopPolicy
from molmoact2_edge._core import dynamixel as core
from molmoact2_edge.errors import InputError, RobotError

_WATCHDOG_FIRED = -1
_ANSWER_ALWAYS = 2
_USB_S = 0.001  # what an adapter adds to each exchange, about
_WRITE_LIMIT_S = 0.005
_WRITE_TRIES_S = 0.2
_WRITE_PAUSE_S = 0.002
_TRIAL_READS = 3
_REOPEN_PAUSE_S = 0.02
_FRESH_S = 0.005  # a reading that old is new enough for somebody who asks
_FIRST_READS = 20  # until every servo was heard once, on a noisy line
_LOOP_ALIVE_S = 0.1  # a loop that has read within it will read again
_JOIN_TIMEOUT_S = 5.0


class DynamixelArm:
    """A `molmoact2_drivers.Robot`. Times of its states are those at which answers began on the wire."""

    def __init__(self, settings: ArmSettings) -> None:
        """Opens nothing."""
        self.settings = settings
        self.bus = ServoBus(settings.port, settings.baud)
        self._tables: dict[str, ControlTable] = {}
        self._velocity_max: dict[str, float] = {}
        self._port: core.DynamixelPort | None = None
        self._turns: list[int] = []  # by joint: whole turns that the port takes off what its servo counts
        self._life_cycle = LifeCycle.DISCONNECTED
        self._fault: str | None = None
        self._lock = threading.RLock()
        self._dismissed = threading.Event()
        self._attendant: threading.Thread | None = None
        self._recoveries = 0

    # --- what it is ---

    @property
    def name(self) -> str:
        """Its name in messages."""
        return f"{self.settings.name} on {self.settings.port}"

    @property
    def capabilities(self) -> RobotCapabilities:
        """Joints and limits: positions from the calibration, speeds from the servos once it is configured."""
        settings = self.settings
        joints = tuple(
            joint_limits(servo, settings.calibration[servo.joint], self._velocity_max.get(servo.joint, 1.0))
            for servo in settings.servos
        )
        count = len(settings.servos)
        # Request and answers of a sync read, and a sync write, at 10 bits a byte.
        wire_s = (14 + count + count * (11 + core.BLOCK_BYTES) + 14 + 5 * count) * 10.0 / settings.baud
        return RobotCapabilities(
            joints,
            command_rate_max_hz=1.0 / (wire_s + 2.0 * _USB_S),
            measures=frozenset({Measurement.VELOCITY, Measurement.CURRENT, Measurement.TEMPERATURE}),
            stop_policies=frozenset({StopPolicy.HOLD, StopPolicy.TORQUE_OFF}),
        )

    @property
    def life_cycle(self) -> LifeCycle:
        """Its state now."""
        return self._life_cycle

    @property
    def fault(self) -> str | None:
        """Why it is in ERROR, with what to do; None otherwise."""
        return self._fault

    # --- life ---

    def connect(self) -> None:
        """Open the line, and ask every servo who it is. DISCONNECTED -> CONNECTED."""
        with self._lock:
            self._require(LifeCycle.DISCONNECTED)
            self.bus.open()
            try:
                self._identify()
            except BaseException:
                self.bus.close()
                raise
            self._life_cycle = LifeCycle.CONNECTED

    def configure(self) -> None:
        """Write settings where servos have others. CONNECTED or CONFIGURED -> CONFIGURED.

        Servos that hold keep holding; one whose lasting settings differ lets go for some milliseconds.
        """
        with self._lock:
            self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED)
            self._configure()
            self._life_cycle = LifeCycle.CONFIGURED
        self._attend()

    def activate(self) -> None:
        """Make the present positions the goals, torque on, watchdogs armed. CONFIGURED -> ACTIVE."""
        with self._lock:
            self._require(LifeCycle.CONFIGURED)
            for servo in self.settings.servos:
                self._require_sound(servo)
            for servo in self.settings.servos:
                self.bus.hold(servo.id)
            self._arm_watchdogs(self.settings.watchdog_units)
            self._ready_port().resume()
            self._life_cycle = LifeCycle.ACTIVE

    def stop(self, policy: StopPolicy) -> None:
        """Hold where it stands, or let go. ACTIVE -> CONFIGURED; in ERROR as far as the wire does."""
        if policy not in (StopPolicy.HOLD, StopPolicy.TORQUE_OFF):
            raise RobotError(f"{self.name} cannot {policy.value}; it can hold or switch torque off")
        with self._lock:
            if self._life_cycle is LifeCycle.ERROR:
                for servo in self.settings.servos:
                    with contextlib.suppress(RobotError):
                        self._stop(servo, policy)
            elif self._life_cycle in (LifeCycle.ACTIVE, LifeCycle.CONFIGURED):
                for servo in self.settings.servos:
                    self._stop(servo, policy)
                self._ready_port().resume()
                self._life_cycle = LifeCycle.CONFIGURED

    def recover(self) -> None:
        """Open the line again where it was unplugged, reboot servos that have let go. ERROR -> CONFIGURED.

        Servos that still hold go on holding where they stand.
        """
        self._require(LifeCycle.ERROR)
        self._dismiss()
        with self._lock:
            self._require(LifeCycle.ERROR)
            if not self.bus.is_open:
                self.bus.open()
            for servo in self.settings.servos:
                if self.bus.read(servo.id, "hardware_error_status"):
                    self.bus.reboot(servo.id)
            self._identify()
            for servo in self.settings.servos:
                self._require_sound(servo)
            self._configure()
            self._life_cycle, self._fault = LifeCycle.CONFIGURED, None
            self._recoveries += 1
        self._attend()

    def disconnect(self) -> None:
        """Close the line, from any state; an arm that is ACTIVE holds where it stands."""
        with self._lock:
            if self._life_cycle is LifeCycle.ACTIVE:
                with contextlib.suppress(RobotError):
                    self.stop(StopPolicy.HOLD)
        self._dismiss()
        with self._lock:
            self.bus.close()
            self._port = None
            self._life_cycle, self._fault = LifeCycle.DISCONNECTED, None

    # --- states and targets ---

    def port(self) -> core.DynamixelPort:
        """The control loop's way to the servos. CONFIGURED or ACTIVE."""
        self._require(LifeCycle.CONFIGURED, LifeCycle.ACTIVE)
        return self._ready_port()

    def read_state(self) -> RobotState:
        """The newest reading; where no loop makes one all the time, it is made now.

        Raises:
            RobotError: no joint, or not every one, was ever read, or it is in the wrong state.
        """
        self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED, LifeCycle.ACTIVE)
        if self._life_cycle is LifeCycle.CONNECTED:
            return self._read_unconfigured()
        age_max_s = _LOOP_ALIVE_S if self._life_cycle is LifeCycle.ACTIVE else _FRESH_S
        return self._newest_state(age_max_s)

    def write_targets(self, positions: npt.ArrayLike) -> None:
        """Send targets once. ACTIVE.

        Raises:
            InputError: not one finite number for each joint.
            RobotError: they could not be sent.
        """
        self._require(LifeCycle.ACTIVE)
        wanted = np.array(positions, dtype=np.float64)
        if wanted.shape != (len(self.settings.servos),) or not np.isfinite(wanted).all():
            names = ", ".join(servo.joint for servo in self.settings.servos)
            raise InputError(
                f"{self.name}: targets are one finite number for each of {names}; got {positions!r}"
            )
        # A failure may be that of the goals before, or that the thread beside has the line for a moment.
        deadline = time.monotonic() + _WRITE_TRIES_S
        while not self._ready_port().write(wanted):
            self._require(LifeCycle.ACTIVE)
            if time.monotonic() > deadline:
                raise RobotError(f"{self.name} does not take targets: {self._ready_port().trouble}")
            time.sleep(_WRITE_PAUSE_S)

    def statistics(self) -> dict[str, Any]:
        """Counters of the line, and goals that servos did not take, recoveries by this object."""
        lost = 0 if self._port is None else self._port.lost_goals
        return {**self.bus.statistics(), "lost_goals": lost, "reconnections": self._recoveries}

    def faults(self) -> dict[str, tuple[str, ...]]:
        """By joint: names of the hardware errors seen since the last start or recovery."""
        if self._port is None:
            return {}
        return {
            servo.joint: error_names(bits)
            for servo, bits in zip(self.settings.servos, self._port.hardware_errors, strict=True)
        }

    # --- servos ---

    def _require(self, *allowed: LifeCycle) -> None:
        require_life_cycle(self.name, self._life_cycle, self._fault, *allowed)

    def _ready_port(self) -> core.DynamixelPort:
        if self._port is None:
            raise RobotError(f"{self.name} is {self._life_cycle.value}; configure it first")
        return self._port

    def _newest_state(self, age_max_s: float) -> RobotState:
        states = self._ready_port().refresh(age_max_s)
        for _ in range(_FIRST_READS):
            states = states or self._ready_port().refresh(0.0)
        if states is None:
            raise RobotError(
                f"{self.name}: not every servo has answered yet; `molmoact2-edge scan` shows who does"
            )
        return RobotState(
            states["positions"],
            int(states["times_ns"].min()),
            states["velocities"],
            states["currents"],
            states["temperatures"],
        )

    def _called(self, servo: ServoSettings) -> str:
        return f"{self.name}: {servo.joint} (servo {servo.id})"

    def _identify(self) -> None:
        for servo in self.settings.servos:
            table = self.bus.table(servo.id)
            if not table.x_series():
                raise RobotError(f"{self._called(servo)} is a {table.model}, and no servo of the X series")
            if servo.model is not None and table.model != servo.model:
                raise RobotError(
                    f"{self._called(servo)} is a {table.model}, expected {servo.model}; give each motor the id of its "
                    "joint with `molmoact2-edge setup-motors`, or correct connection.servos"
                )
            self._tables[servo.joint] = table

    def _require_sound(self, servo: ServoSettings) -> None:
        errors = self.bus.read(servo.id, "hardware_error_status")
        if errors & self.bus.read(servo.id, "shutdown"):
            raise RobotError(self._let_go_text(servo, errors))

    def _let_go_text(self, servo: ServoSettings, errors: int) -> str:
        return (
            f"{self._called(servo)} has let go: {describe_errors(errors)}. Support the arm, remove the cause (a load, "
            "an obstacle, heat, a weak supply); `recover` then reboots the servo"
        )

    def _configure(self) -> None:
        joints, turns = [], []
        for servo in self.settings.servos:
            table = self._tables[servo.joint]
            self._write_settings(servo, table)
            turns.append(self._turns_of(servo))
            self._velocity_max[servo.joint] = self.bus.read(servo.id, "velocity_limit") * table.velocity_unit
            shutdown = self.bus.read(servo.id, "shutdown")
            joints.append(
                servo_joint(servo, self.settings.calibration[servo.joint], table, shutdown, turns[-1])
            )
        if self._port is None or turns != self._turns:
            # Whoever still has the port from before finds it silent: its goals would be a turn away.
            self._turns = turns
            self._port = core.DynamixelPort(
                bus=self.bus.core,
                joints=joints,
                way=self._best_way(),
                read_limit_s=self.settings.read_limit_s,
                write_limit_s=_WRITE_LIMIT_S,
            )
        self._port.resume()
        # Every servo is heard once: one that then falls silent leaves an old reading behind, not none.
        self._newest_state(0.0)

    def _turns_of(self, servo: ServoSettings) -> int:
        """How many whole turns a servo counts beside its joint's range.

        Raises:
            RobotError: its mode keeps it within one turn, so that it would not take the goals.
        """
        turns = whole_turns(
            self.settings.calibration[servo.joint], self.bus.read(servo.id, "present_position")
        )
        if turns and servo.mode == "position":
            raise RobotError(
                f"{self._called(servo)} stands beyond the end of its encoder's turn, over which mode {servo.mode} "
                "cannot go: set its mode to extended_position"
            )
        return turns

    def _write_settings(self, servo: ServoSettings, table: ControlTable) -> None:
        self._have_it_answer(servo, table)
        joint = self.settings.calibration[servo.joint]
        if self.bus.read(servo.id, "drive_mode") & 1 != joint.drive_mode & 1:
            raise RobotError(
                f"{self._called(servo)} turns the other way round than when it was calibrated (drive mode); "
                "calibrate it anew, or set its drive mode back"
            )
        if self.bus.read(servo.id, "bus_watchdog") != 0:
            self._clear_watchdog(servo)
        self.bus.write_eeprom(servo.id, lasting_registers(servo, joint))
        for register, value in volatile_registers(servo, table).items():
            if self.bus.read(servo.id, register) != value:
                self.bus.write_checked(servo.id, register, value)
        if not self._block_is_set(servo, table):
            wanted = indirect_addresses(table)
            self.bus.write_bytes(
                servo.id, table["indirect_address_1"].address, wanted, "its indirect addresses"
            )
            if not self._block_is_set(servo, table):
                raise RobotError(f"{self._called(servo)} does not keep its indirect addresses")

    def _have_it_answer(self, servo: ServoSettings, table: ControlTable) -> None:
        # A servo that answers only some instructions says nothing to this write.
        register = table["status_return_level"]
        request = register.address.to_bytes(2, "little") + bytes([_ANSWER_ALWAYS])
        self.bus.core.exchange(servo.id, 0x03, request, 0, 0.01)
        if self.bus.read(servo.id, register.name) != _ANSWER_ALWAYS:
            self.bus.write_checked(servo.id, register.name, _ANSWER_ALWAYS)

    def _block_is_set(self, servo: ServoSettings, table: ControlTable) -> bool:
        wanted = indirect_addresses(table)
        return self.bus.read_bytes(servo.id, table["indirect_address_1"].address, len(wanted)) == wanted

    def _best_way(self) -> Any:
        blocks = [
            (servo.id, self._tables[servo.joint]["indirect_data_1"].address) for servo in self.settings.servos
        ]
        sync = len({address for _, address in blocks}) == 1
        # Older firmware does not know the fast reads, and says nothing to them.
        fast: Any = "fast_sync" if sync else "fast_bulk"
        for _ in range(_TRIAL_READS):
            status, _ = self.bus.core.read_blocks(
                fast, blocks, core.BLOCK_BYTES, 0.02 + self.settings.read_limit_s
            )
            if status == "ok":
                return fast
        return "sync" if sync else "bulk"

    def _clear_watchdog(self, servo: ServoSettings) -> None:
        """Let the servo take goals again, from where it stands."""
        self.bus.write_checked(servo.id, "bus_watchdog", 0)
        if self.bus.read(servo.id, "torque_enable"):
            self.bus.write(servo.id, "goal_position", self.bus.read(servo.id, "present_position"))

    def _arm_watchdogs(self, units: int) -> None:
        for servo in self.settings.servos:
            self.bus.write_checked(servo.id, "bus_watchdog", units)

    def _stop(self, servo: ServoSettings, policy: StopPolicy) -> None:
        if policy is StopPolicy.HOLD:
            self.bus.hold(servo.id)
        else:
            self.bus.set_torque([servo.id], Torque.OFF)
            self.bus.write_checked(servo.id, "bus_watchdog", 0)

    def _read_unconfigured(self) -> RobotState:
        servos = self.settings.servos
        with self._lock:
            began_ns = time.monotonic_ns()
            ticks = self.bus.read_many([servo.id for servo in servos], "present_position")
        positions = [
            position_of(servo, self.settings.calibration[servo.joint], ticks[servo.id]) for servo in servos
        ]
        return RobotState(np.array(positions), began_ns)

    # --- the thread beside the loop ---

    def _attend(self) -> None:
        if self._attendant is not None and self._attendant.is_alive():
            return
        self._dismissed.clear()
        self._ready_port().resume()
        self._attendant = threading.Thread(
            target=self._run_attendant, args=(self._ready_port(),), name="dynamixel-attendant", daemon=True
        )
        self._attendant.start()

    def _dismiss(self) -> None:
        self._dismissed.set()
        if self._port is not None:
            self._port.dismiss()
        attendant = self._attendant
        if attendant is not None and attendant is not threading.current_thread():
            attendant.join(_JOIN_TIMEOUT_S)
        self._attendant = None

    def _run_attendant(self, port: core.DynamixelPort) -> None:
        try:
            while not self._dismissed.is_set():
                trouble = port.attend(self.settings.watchdog_s / 4.0, self.settings.silence_s)
                if trouble == "dismissed" or not self._mended(trouble):
                    return
        except Exception as error:
            self._fail(f"{self.name}: {error}")

    def _mended(self, trouble: str) -> bool:
        if trouble == "link_lost" and not self._reopened():
            return False
        with self._lock:
            if self._dismissed.is_set():
                return False
            if trouble not in ("link_lost", "silent") and self._ready_port().trouble == "none":
                return True  # whoever had the lock has mended it
            try:
                if trouble in ("link_lost", "watchdog_fired"):
                    self._resume()
                    return True
                self._fail(self._diagnosis(trouble))
            except RobotError as error:
                self._fail(str(error))
        return False

    def _reopened(self) -> bool:
        deadline = time.monotonic() + self.settings.silence_s
        while not self._dismissed.is_set():
            error = self.bus.core.open()
            if not error:
                return True
            if time.monotonic() > deadline:
                self._fail(
                    f"{self.name} was unplugged, and is gone for {self.settings.silence_s:g} s: {error}. "
                    "Its servos stand still where they were. Plug it in again; `recover` then opens it"
                )
                return False
            self._dismissed.wait(_REOPEN_PAUSE_S)
        return False

    def _resume(self) -> None:
        """Go on from where the arm stands, where every servo has kept its torque and its settings."""
        active = self._life_cycle is LifeCycle.ACTIVE
        for servo in self.settings.servos:
            self._require_sound(servo)
            table = self._tables[servo.joint]
            if active and not (self.bus.read(servo.id, "torque_enable") and self._block_is_set(servo, table)):
                raise RobotError(self._power_text(servo))
            if active:
                self._clear_watchdog(servo)
            else:
                self._set_up_again(servo)
        if active:
            self._arm_watchdogs(self.settings.watchdog_units)
        self._recoveries += 1
        self._ready_port().resume()

    def _set_up_again(self, servo: ServoSettings) -> None:
        self._write_settings(servo, self._tables[servo.joint])
        if self._turns_of(servo) != self._turns[self.settings.servos.index(servo)]:
            raise RobotError(self._power_text(servo))  # `recover` counts its turns anew

    def _power_text(self, servo: ServoSettings) -> str:
        return (
            f"{self._called(servo)} lost its power for a moment, and has let go. Support the arm, look at its "
            "supply and its cable; `recover` then sets it up again"
        )

    def _diagnosis(self, trouble: str) -> str:
        for servo in self.settings.servos:
            if not self.bus.ping(servo.id):
                return (
                    f"{self._called(servo)} does not answer. Look at its cable and those before it; `recover` "
                    "then looks for it again"
                )
            errors = self.bus.read(servo.id, "hardware_error_status")
            if errors & self.bus.read(servo.id, "shutdown"):
                return self._let_go_text(servo, errors)
            if not self._block_is_set(servo, self._tables[servo.joint]):
                return self._power_text(servo)
        return (
            f"{self.name}: {trouble.replace('_', ' ')}, but every servo answers now; a loose cable or a noisy line. "
            "`recover` goes on"
        )

    def _fail(self, text: str) -> None:
        with self._lock:
            if self._life_cycle not in (LifeCycle.CONFIGURED, LifeCycle.ACTIVE):
                return
            if self._port is not None:
                self._port.suspend("silent")
            self._fault = text
            self._life_cycle = LifeCycle.ERROR


class KochLeader(DynamixelArm):
    """The arm that a person moves: it is read, and its motors never drive."""

    def configure(self) -> None:
        """Settings, and torque off. CONNECTED or CONFIGURED -> CONFIGURED."""
        with self._lock:
            self._require(LifeCycle.CONNECTED, LifeCycle.CONFIGURED)
            self.bus.set_torque([servo.id for servo in self.settings.servos], Torque.OFF)
            super().configure()

    def activate(self) -> None:
        """Only lets it be read. CONFIGURED -> ACTIVE."""
        with self._lock:
            self._require(LifeCycle.CONFIGURED)
            self._life_cycle = LifeCycle.ACTIVE

    def write_targets(self, positions: npt.ArrayLike) -> None:
        """Refused."""
        raise RobotError(f"{self.name} is moved by a person and takes no targets")

    def stop(self, policy: StopPolicy) -> None:
        """Nothing to do: nothing moves. ACTIVE -> CONFIGURED."""
        with self._lock:
            if self._life_cycle is LifeCycle.ACTIVE:
                self._life_cycle = LifeCycle.CONFIGURED

    def _resume(self) -> None:
        for servo in self.settings.servos:
            self._set_up_again(servo)
        self._recoveries += 1
        self._ready_port().resume()
