"""What goes over the wire between an FCI client (libfranka) and a Franka arm: packed layouts, numbers, names.

Commands and their answers travel over TCP, a state and the command that answers it over UDP every millisecond; all is
little endian and packed. Two versions are here: 5, which the Panda speaks, and 10, which the FR3 does. Facts:
libfranka's public interface headers of both versions.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

COMMAND_PORT = 1337
HEADER = struct.Struct("<III")
"""Command, id, size of the whole message."""
CONNECT_REQUEST = struct.Struct("<HH")
"""Version, UDP port of the client."""
CONNECT_ANSWER = struct.Struct("<BH")
"""Status, version."""
MOVE_REQUEST = struct.Struct("<II6d")
"""Controller mode, motion generator mode, greatest deviations from path and goal. Version 10 appends `MOVE_ASYNC`."""
MOVE_ASYNC = struct.Struct("<?7d")
"""Whether the robot interpolates between targets itself, and the joints' greatest velocities then."""

ERRORS = (
    "joint_position_limits_violation",
    "cartesian_position_limits_violation",
    "self_collision_avoidance_violation",
    "joint_velocity_violation",
    "cartesian_velocity_violation",
    "force_control_safety_violation",
    "joint_reflex",
    "cartesian_reflex",
    "max_goal_pose_deviation_violation",
    "max_path_pose_deviation_violation",
    "cartesian_velocity_profile_safety_violation",
    "joint_position_motion_generator_start_pose_invalid",
    "joint_motion_generator_position_limits_violation",
    "joint_motion_generator_velocity_limits_violation",
    "joint_motion_generator_velocity_discontinuity",
    "joint_motion_generator_acceleration_discontinuity",
    "cartesian_position_motion_generator_start_pose_invalid",
    "cartesian_motion_generator_elbow_limit_violation",
    "cartesian_motion_generator_velocity_limits_violation",
    "cartesian_motion_generator_velocity_discontinuity",
    "cartesian_motion_generator_acceleration_discontinuity",
    "cartesian_motion_generator_elbow_sign_inconsistent",
    "cartesian_motion_generator_start_elbow_invalid",
    "force_controller_desired_force_tolerance_violation",
    "start_elbow_sign_inconsistent",
    "communication_constraints_violation",
    "power_limit_violation",
    "cartesian_motion_generator_joint_position_limits_violation",
    "cartesian_motion_generator_joint_velocity_limits_violation",
    "cartesian_motion_generator_joint_velocity_discontinuity",
    "cartesian_motion_generator_joint_acceleration_discontinuity",
    "cartesian_position_motion_generator_invalid_frame",
    "controller_torque_discontinuity",
    "joint_p2p_insufficient_torque_for_planning",
    "tau_j_range_violation",
    "instability_detected",
    "joint_move_in_wrong_direction",
    "cartesian_spline_motion_generator_violation",
    "joint_via_motion_generator_planning_joint_limit_violation",
    "base_acceleration_initialization_timeout",
    "base_acceleration_invalid_reading",
)
"""Their places in the state's two arrays of flags; names as libfranka's `Errors` spells its members."""


class RobotMode:
    """`robot_mode` of the state."""

    OTHER, IDLE, MOVE, GUIDING, REFLEX, USER_STOPPED, RECOVERY = range(7)


class Generator:
    """`motion_generator_mode` of the state; a Move request says one less, and has 4 for none."""

    IDLE, JOINT_POSITION, JOINT_VELOCITY, CARTESIAN_POSITION, CARTESIAN_VELOCITY, NONE = range(6)


class Controller:
    """`controller_mode` of the state and, but for the last, of a Move request."""

    JOINT_IMPEDANCE, CARTESIAN_IMPEDANCE, EXTERNAL, OTHER = range(4)


# Name and how many numbers, in the order on the wire.
_STATE_NUMBERS = (
    ("O_T_EE", 16),
    ("O_T_EE_d", 16),
    ("F_T_EE", 16),
    ("EE_T_K", 16),
    ("F_T_NE", 16),
    ("NE_T_EE", 16),
    ("m_ee", 1),
    ("I_ee", 9),
    ("F_x_Cee", 3),
    ("m_load", 1),
    ("I_load", 9),
    ("F_x_Cload", 3),
    ("elbow", 2),
    ("elbow_d", 2),
    ("tau_J", 7),
    ("tau_J_d", 7),
    ("dtau_J", 7),
    ("q", 7),
    ("q_d", 7),
    ("dq", 7),
    ("dq_d", 7),
    ("ddq_d", 7),
    ("joint_contact", 7),
    ("cartesian_contact", 6),
    ("joint_collision", 7),
    ("cartesian_collision", 6),
    ("tau_ext_hat_filtered", 7),
    ("O_F_ext_hat_K", 6),
    ("K_F_ext_hat_K", 6),
    ("O_dP_EE_d", 6),
    ("O_ddP_O", 3),
    ("elbow_c", 2),
    ("delbow_c", 2),
    ("ddelbow_c", 2),
    ("O_T_EE_c", 16),
    ("O_dP_EE_c", 6),
    ("O_ddP_EE_c", 6),
    ("theta", 7),
    ("dtheta", 7),
)
_ACCELEROMETERS = (("accelerometer_top", 18), ("accelerometer_bottom", 18))


class StateLayout:
    """Where the numbers of a state lie, and how it is packed."""

    def __init__(self, number: str, numbers: tuple[tuple[str, int], ...]) -> None:
        """``number``: the struct module's letter for the version's kind of float."""
        self.places: dict[str, slice] = {}
        self.count = 0
        for name, count in numbers:
            self.places[name] = slice(self.count, self.count + count)
            self.count += count
        flags = f"{len(ERRORS)}?"
        self.struct = struct.Struct(f"<Q{self.count}{number}BB{flags}{flags}B{number}")

    def pack(
        self,
        message_id: int,
        numbers: list[float],
        modes: tuple[int, int, int],
        errors: list[bool],
        reflex_reason: list[bool],
        success_rate: float,
    ) -> bytes:
        """Return a datagram; ``modes`` are of the motion generator, the controller and the robot."""
        generator, controller, robot = modes
        return self.struct.pack(
            message_id, *numbers, generator, controller, *errors, *reflex_reason, robot, success_rate
        )


@dataclass(frozen=True)
class RobotCommand:
    """What a client answers to a state."""

    message_id: int
    q_c: tuple[float, ...]
    dq_c: tuple[float, ...]
    motion_finished: bool
    tau_d: tuple[float, ...]
    torque_finished: bool


_COMMAND_FIELDS = "<Q7d7d16d6d2d??7d"


def unpack_command(layout: struct.Struct, datagram: bytes) -> RobotCommand:
    """Read a datagram of the layout's size."""
    values = layout.unpack(datagram)
    # Version 5 ends with the torques.
    return RobotCommand(
        values[0], values[1:8], values[8:15], values[40], values[41:48], len(values) > 48 and values[48]
    )


@dataclass(frozen=True)
class FciVersion:
    """One version of the interface. Commands and statuses have the numbers of their places."""

    number: int
    state: StateLayout
    command: struct.Struct
    move_sizes: tuple[int, ...]
    """Sizes of a Move request, without its header."""
    commands: tuple[str, ...]
    statuses: tuple[str, ...]
    """Of every command but these:"""
    move_statuses: tuple[str, ...]
    stop_statuses: tuple[str, ...]
    recovery_statuses: tuple[str, ...]

    def status(self, command: str, name: str) -> bytes:
        """Return the byte of an answer."""
        names = {
            "move": self.move_statuses,
            "stop_move": self.stop_statuses,
            "automatic_error_recovery": self.recovery_statuses,
        }
        return bytes([names.get(command, self.statuses).index(name)])


_SETTERS = (
    "set_collision_behavior",
    "set_joint_impedance",
    "set_cartesian_impedance",
    "set_guiding_mode",
    "set_ee_to_k",
    "set_ne_to_ee",
    "set_load",
)

FCI_V10 = FciVersion(
    number=10,
    state=StateLayout("f", (*_STATE_NUMBERS, *_ACCELEROMETERS)),
    command=struct.Struct(_COMMAND_FIELDS + "?"),
    move_sizes=(MOVE_REQUEST.size, MOVE_REQUEST.size + MOVE_ASYNC.size),
    commands=("connect", "move", "stop_move", *_SETTERS, "automatic_error_recovery", "get_robot_model"),
    statuses=("success", "not_possible", "invalid_argument", "safety_function"),
    move_statuses=(
        "success",
        "motion_started",
        "preempted",
        "preempted_by_safety_function",
        "safety_function",
        "not_possible",
        "start_at_singular_pose",
        "invalid_argument",
        "reflex_aborted",
        "emergency_aborted",
        "input_error_aborted",
        "aborted",
    ),
    stop_statuses=(
        "success",
        "not_possible",
        "safety_function",
        "emergency_aborted",
        "reflex_aborted",
        "aborted",
    ),
    recovery_statuses=(
        "success",
        "not_possible",
        "safety_function",
        "manual_recovery_required",
        "reflex_aborted",
        "emergency_aborted",
        "aborted",
    ),
)

FCI_V5 = FciVersion(
    number=5,
    state=StateLayout("d", _STATE_NUMBERS),
    command=struct.Struct(_COMMAND_FIELDS),
    move_sizes=(MOVE_REQUEST.size,),
    commands=(
        "connect",
        "move",
        "stop_move",
        "get_cartesian_limit",
        *_SETTERS,
        "set_filters",
        "automatic_error_recovery",
        "load_model_library",
    ),
    statuses=("success", "not_possible", "invalid_argument"),
    move_statuses=(
        "success",
        "motion_started",
        "preempted",
        "not_possible",
        "start_at_singular_pose",
        "invalid_argument",
        "reflex_aborted",
        "emergency_aborted",
        "input_error_aborted",
        "aborted",
    ),
    stop_statuses=("success", "not_possible", "emergency_aborted", "reflex_aborted", "aborted"),
    recovery_statuses=(
        "success",
        "not_possible",
        "manual_recovery_required",
        "reflex_aborted",
        "emergency_aborted",
        "aborted",
    ),
)

SETTER_SIZES = {
    "set_collision_behavior": 8 * (4 * 7 + 4 * 6),
    "set_joint_impedance": 8 * 7,
    "set_cartesian_impedance": 8 * 6,
    "set_guiding_mode": 7,
    "set_ee_to_k": 8 * 16,
    "set_ne_to_ee": 8 * 16,
    "set_load": 8 * (1 + 3 + 9),
    "set_filters": 8 * 5,
}
"""Bytes of the requests that set something, without their header."""


def answer(command: int, command_id: int, payload: bytes) -> bytes:
    """Return a whole message for TCP."""
    return HEADER.pack(command, command_id, HEADER.size + len(payload)) + payload
