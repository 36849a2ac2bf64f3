"""Gravity's torques of the robot file's arm against MuJoCo, which knows nothing of our code."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from molmoact2_drivers.yam.settings import GravitySettings, read_settings
from molmoact2_edge._core.damiao import ChainLink, SerialChain
from molmoact2_edge.config import load_robot
from molmoact2_edge.errors import InputError
from molmoact2_edge.sim.rendering import import_mujoco

if importlib.util.find_spec("mujoco") is None:
    pytest.skip("the extra sim is not installed", allow_module_level=True)
# As everybody here imports it: who does it first decides how all others of this process draw.
mujoco = import_mujoco()

TOLERANCE_NM = 1e-9


def shipped() -> GravitySettings:
    gravity = read_settings(load_robot("yam-bimanual")).gravity
    assert gravity is not None
    return gravity


def mjcf(gravity: GravitySettings) -> str:
    def numbers(values: tuple[float, ...]) -> str:
        return " ".join(repr(float(value)) for value in values)

    body = ""
    for number, link in reversed(list(enumerate(gravity.links))):
        body = (
            f'<body name="link{number}" pos="{numbers(link.position)}" quat="{numbers(link.rotation)}">'
            f'<inertial pos="{numbers(link.center)}" mass="{link.mass!r}" diaginertia="1e-3 1e-3 1e-3"/>'
            f'<joint type="hinge" axis="{numbers(link.axis)}"/>{body}</body>'
        )
    return f'<mujoco><option gravity="0 0 -9.81"/><compiler angle="radian"/><worldbody>{body}</worldbody></mujoco>'


def test_the_torques_are_those_that_mujoco_needs_to_hold_the_arm_still() -> None:
    gravity = shipped()
    model = mujoco.MjModel.from_xml_string(mjcf(gravity))
    data = mujoco.MjData(model)
    chain = gravity.chain()
    rng = np.random.default_rng(4)
    for _ in range(200):
        angles = rng.uniform(-3.0, 3.0, 6)
        data.qpos[:], data.qvel[:], data.qacc[:] = angles, 0.0, 0.0
        mujoco.mj_inverse(model, data)
        np.testing.assert_allclose(chain.torques(angles), data.qfrc_inverse, atol=TOLERANCE_NM)


def test_the_arm_hangs_on_its_second_joint_most() -> None:
    # Stretched out, some four kilograms at about a third of a metre; within what a DM4340 can hold.
    torques = np.abs(shipped().chain().torques([0.0, np.pi / 2, 0.0, 0.0, 0.0, 0.0]))
    assert torques[0] < 1e-6
    assert torques.argmax() == 1
    assert torques[1] < 28.0


def test_a_chain_that_cannot_be_is_refused() -> None:
    link = {
        "position": [0, 0, 0],
        "rotation": [1, 0, 0, 0],
        "axis": [0, 0, 1],
        "mass": 1.0,
        "center": [0, 0, 0],
    }
    with pytest.raises(ValueError, match="mass"):
        SerialChain([ChainLink(**{**link, "mass": -1.0})], [0, 0, -9.81])
    with pytest.raises(ValueError, match="1 to"):
        SerialChain([], [0, 0, -9.81])
    with pytest.raises(ValueError, match="shape"):
        SerialChain([ChainLink(**link)], [0, 0, -9.81]).torques([0.0, 0.0])
    gravity = shipped()
    broken = GravitySettings(gravity.scale, (gravity.links[0], *gravity.links[:0]))
    assert broken.chain().joint_count == 1
    with pytest.raises(InputError, match=r"connection\.gravity"):
        GravitySettings(gravity.scale, ()).chain()
