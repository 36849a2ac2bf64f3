"""The URDF text that an emulated FR3 hands out: the kinematic chain, the limits, and masses of about the right size.

libfranka builds its model from it: it wants joints that end in `joint1` to `joint7` with their position-based velocity
limits, and a flange named `link8`.
"""

from __future__ import annotations

import math

from molmoact2_emulators.franka_arm import FLANGE_OFFSET, ArmModel, joint_origins

# Mass in kg and centre in metres of each link: what a person would guess from the arm's weight of 18 kg.
_MASSES = (3.0, 3.0, 3.0, 2.6, 2.5, 2.0, 1.4, 0.5)
_CENTRES = (
    (-0.03, 0.0, 0.06),
    (0.0, -0.03, -0.06),
    (0.0, -0.06, 0.03),
    (0.04, 0.02, -0.04),
    (-0.04, 0.04, 0.03),
    (0.0, 0.03, -0.10),
    (0.05, -0.01, 0.01),
    (0.0, 0.0, 0.06),
)
_LINK_RADIUS = 0.07  # of a ball with the link's mass, for its inertia


def urdf(arm: ArmModel) -> str:
    """Return the model of an arm that has position-based velocity limits, as one XML document."""
    assert arm.velocity_offset is not None
    assert arm.deceleration is not None
    parts = ['<?xml version="1.0"?>', f'<robot name="{arm.name}">', _link(0)]
    for index, (x, y, z, roll) in enumerate(joint_origins()):
        parts.append(_link(index + 1))
        parts.append(
            f'  <joint name="joint{index + 1}" type="revolute">\n'
            f'    <origin xyz="{x:.6g} {y:.6g} {z:.6g}" rpy="{roll:.17g} 0 0"/>\n'
            f'    <parent link="link{index}"/>\n    <child link="link{index + 1}"/>\n    <axis xyz="0 0 1"/>\n'
            f'    <limit effort="{arm.torque[index]}" lower="{arm.position_min[index]}" '
            f'upper="{arm.position_max[index]}" velocity="{arm.velocity[index]}"/>\n'
            f'    <position_based_velocity_limits velocity_offset="{arm.velocity_offset[index]}" '
            f'deceleration_limit="{arm.deceleration[index]}"/>\n'
            "  </joint>"
        )
    parts.append(
        '  <link name="link8"/>\n  <joint name="joint8" type="fixed">\n'
        f'    <origin xyz="0 0 {FLANGE_OFFSET}" rpy="0 0 0"/>\n'
        '    <parent link="link7"/>\n    <child link="link8"/>\n  </joint>\n</robot>\n'
    )
    return "\n".join(parts)


def _link(index: int) -> str:
    x, y, z = _CENTRES[index]
    moment = 0.4 * _MASSES[index] * math.pow(_LINK_RADIUS, 2)
    return (
        f'  <link name="link{index}">\n    <inertial>\n      <origin xyz="{x} {y} {z}" rpy="0 0 0"/>\n'
        f'      <mass value="{_MASSES[index]}"/>\n'
        f'      <inertia ixx="{moment:.6g}" ixy="0" ixz="0" iyy="{moment:.6g}" iyz="0" izz="{moment:.6g}"/>\n'
        "    </inertial>\n  </link>"
    )
