"""Whether a configuration and a robot fit each other, and what the loop may make of both. Pure: nothing moves."""

from __future__ import annotations

from dataclasses import replace

from molmoact2_drivers import JointUnit, Measurement, Robot, RobotCapabilities
from molmoact2_edge.config import JointConfig, RobotConfig
from molmoact2_edge.errors import RobotError

_UNITS = {JointUnit.DEGREES: "degrees", JointUnit.PERCENT: "percent"}


def require_fit(config: RobotConfig, robot: Robot) -> None:
    """Refuse a robot that is not the configuration's.

    Raises:
        RobotError: other joints, or a stop pose or a rate that the robot does not offer.
    """
    capabilities = robot.capabilities
    if tuple(config.joints) != capabilities.joint_names:
        raise RobotError(
            f"{robot.name} has the joints {', '.join(capabilities.joint_names)}; configuration {config.name!r} has "
            f"{', '.join(config.joints)}. Give the configuration of this robot with --robot"
        )
    if config.stop.pose not in {policy.value for policy in capabilities.stop_policies}:
        offered = ", ".join(sorted(policy.value for policy in capabilities.stop_policies))
        raise RobotError(
            f"{robot.name} cannot end with stop.pose {config.stop.pose}; it offers {offered}. Set stop.pose"
        )
    if config.loop.rate_hz > capabilities.command_rate_max_hz:
        raise RobotError(
            f"{robot.name} takes at most {capabilities.command_rate_max_hz:g} commands a second, loop.rate_hz is "
            f"{config.loop.rate_hz:g}"
        )


def within_reach(config: RobotConfig, capabilities: RobotCapabilities) -> RobotConfig:
    """Return the configuration with limits that are the narrower of its own and the robot's: a gate that lets a target
    through which the robot clips would believe that the arm does not follow.

    Raises:
        RobotError: a joint has no range left.
    """
    joints: dict[str, JointConfig] = {}
    for joint in capabilities.joints:
        wanted = config.joints[joint.name]
        low, high = max(wanted.position[0], joint.lower), min(wanted.position[1], joint.upper)
        if low >= high:
            raise RobotError(
                f"{joint.name} can reach {joint.lower:.1f} to {joint.upper:.1f} {_UNITS[joint.unit]}, which its limits "
                f"{wanted.position[0]:g} to {wanted.position[1]:g} exclude: calibrate the arm, or correct the limits"
            )
        joints[joint.name] = replace(
            wanted, position=(low, high), velocity=min(wanted.velocity, joint.velocity_max)
        )
    return replace(config, joints=joints)


def unmeasured_levels(config: RobotConfig, capabilities: RobotCapabilities) -> list[str]:
    """Return one sentence for each kind of level that is configured and that nothing will ever exceed, because the
    robot does not measure it.
    """
    joints = config.joints.values()
    configured = {
        Measurement.TEMPERATURE: bool(config.watchdogs.temperature)
        or any(joint.temperature for joint in joints),
        Measurement.CURRENT: bool(config.watchdogs.current) or any(joint.current for joint in joints),
    }
    return [
        f"watchdogs.{kind.value} has levels, but this robot does not measure it: nothing watches it"
        for kind, wanted in configured.items()
        if wanted and kind not in capabilities.measures
    ]
