"""Control tables as the vendor ships them."""

from __future__ import annotations

import pytest

from molmoact2_drivers.dynamixel.control_table import control_table, model_files, model_name
from molmoact2_drivers.dynamixel.settings import indirect_addresses
from molmoact2_edge.errors import InputError, RobotError
from molmoact2_emulators.dynamixel_table import MODELS

# Of the vendor's files, and without a meaning in the emulator; some are second names of the indirect table.
LEFT_OUT = (
    "pwm_slope",
    "indirect_address_write",
    "indirect_data_write",
    "indirect_address_read",
    "indirect_data_read",
)


def test_every_file_of_the_vendor_is_read() -> None:
    for number in model_files():
        table = control_table(number, 0)
        assert table.model == model_name(number)
        assert table["id"].size == 1


def test_x_servos_are_told_from_others() -> None:
    series = {str(model_name(number)): control_table(number, 0).x_series() for number in model_files()}
    assert {"xl430-w250", "xl330-m288", "xl330-m077", "xm540-w270"} <= {
        name for name, is_x in series.items() if is_x
    }
    assert not series["mx-28"] or control_table(30, 0)["goal_position"].address == 116
    assert not series["xl320"]


def test_the_emulators_tables_have_what_the_vendors_have() -> None:
    for model in MODELS.values():
        table = control_table(model.number, model.firmware)
        own = {register.name.lower().replace(" ", "_"): register for register in model.registers()}
        for name, register in table.registers.items():
            if name not in own:
                assert name in LEFT_OUT or name.startswith("external_port"), (model.name, name)
                continue
            assert (own[name].address, own[name].size) == (register.address, register.size), (
                model.name,
                name,
            )
        assert table.amperes_per_count == (model.amperes or None)


def test_firmware_decides_where_indirect_data_lie() -> None:
    assert control_table(1200, 46)["indirect_data_1"].address == 224
    assert control_table(1200, 52)["indirect_data_1"].address == 208
    assert len(indirect_addresses(control_table(1060, 48))) == 32


def test_unknown_models_and_registers_are_named() -> None:
    with pytest.raises(RobotError, match="number 77"):
        control_table(77, 1)
    table = control_table(1060, 48)
    with pytest.raises(InputError, match="no register 'present_current'"):
        table["present_current"]
    with pytest.raises(InputError, match="cannot hold 300"):
        table["id"].encode(300)
    assert table["present_position"].decode(b"\xff\xff\xff\xff") == -1
