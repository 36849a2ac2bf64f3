"""How large a homing offset the servos of an arm can keep, in ticks, by protocol and model.

Sources: the memory table of the STS3215 (a sign and eleven bits), the vendor's manual of each X model (address 20: 255
turns to either side, less a tick).
"""

from __future__ import annotations

from collections.abc import Mapping

from molmoact2_edge.errors import InputError

STS_MAX = 2047
X_MAX = 1_044_479

# A model goes by what stands before the hyphen: a gear or a winding changes nothing here.
_X_FAMILIES = (
    *("xl330", "xc330", "xl430", "xc430", "2xl430", "2xc430", "xm430", "xm540", "xh430", "xh540"),
    *("xd430", "xd540", "xw430", "xw540", "mx"),
)
_BY_FAMILY: Mapping[str, Mapping[str, int]] = {
    "feetech": {"sts3215": STS_MAX},
    "dynamixel": dict.fromkeys(_X_FAMILIES, X_MAX),
}


def homing_offset_max(protocol: str, model: str | None = None) -> int:
    """Return the largest homing offset that a servo's register holds, to either side of 0.

    Args:
        protocol: ``feetech`` or ``dynamixel``.
        model: as the driver names it, ``xl430-w250`` say; None or empty: any of the protocol, so the least of them.

    Raises:
        InputError: no such protocol, or a model of which it is not known.
    """
    families = _BY_FAMILY.get(protocol)
    if families is None:
        raise InputError(f"no protocol {protocol!r}; there are {', '.join(_BY_FAMILY)}")
    if not model:
        return min(families.values())
    limit = families.get(model.lower().partition("-")[0])
    if limit is None:
        raise InputError(
            f"how large a homing offset a {model} keeps is not known; known are {protocol} servos of the families "
            f"{', '.join(families)}"
        )
    return limit
