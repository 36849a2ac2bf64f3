"""How long a call of the policy takes in simulated time: given, not measured, so that a run can be repeated exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from molmoact2_edge.errors import InputError

Distribution = Literal["fixed", "uniform", "lognormal"]

SYNTAX = "SECONDS, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA"
_PARAMETERS = {"uniform": 2, "lognormal": 2}


@dataclass(frozen=True)
class InferenceTime:
    """A distribution of seconds; :meth:`drawn` gives the calls' times from a seed."""

    distribution: Distribution = "fixed"
    first: float = 0.1
    """The seconds (fixed), the lowest (uniform), the median (lognormal)."""
    second: float = 0.0
    """The highest (uniform), the standard deviation of the logarithm (lognormal)."""

    def __post_init__(self) -> None:
        usable = {
            "fixed": self.first >= 0.0,
            "uniform": 0.0 <= self.first <= self.second,
            "lognormal": self.first > 0.0 and self.second >= 0.0,
        }
        finite = math.isfinite(self.first) and math.isfinite(self.second)
        if not finite or not usable.get(self.distribution, False):
            raise InputError(f"inference time {self} is not usable; expected {SYNTAX}, at least 0 seconds")

    @classmethod
    def parse(cls, text: str) -> InferenceTime:
        """Return what ``text`` says, in the form of :data:`SYNTAX`.

        Raises:
            InputError: it is not of that form.
        """
        name, *words = text.split(":")
        try:
            if not words:
                return cls("fixed", float(name))
            if _PARAMETERS.get(name) == len(words):
                return cls(name, float(words[0]), float(words[1]))  # type: ignore[arg-type]
        except ValueError as error:
            if isinstance(error, InputError):
                raise
        raise InputError(f"inference time {text!r} is not usable; expected {SYNTAX}")

    def __str__(self) -> str:
        if self.distribution == "fixed":
            return f"{self.first:g}"
        return f"{self.distribution}:{self.first:g}:{self.second:g}"

    def drawn(self, seed: int) -> DrawnTimes:
        """Return the times of one episode's calls."""
        return DrawnTimes(self, seed)


class DrawnTimes:
    """One time after the other."""

    def __init__(self, time: InferenceTime, seed: int) -> None:
        self._time = time
        # A stream of its own: neither scene nor noise changes with the distribution.
        self._rng = np.random.default_rng([seed, 0x1F])

    def next_ns(self) -> int:
        """Nanoseconds from the look of the next call until its chunk arrives."""
        time = self._time
        if time.distribution == "uniform":
            seconds = self._rng.uniform(time.first, time.second)
        elif time.distribution == "lognormal":
            seconds = time.first * math.exp(time.second * self._rng.standard_normal())
        else:
            seconds = time.first
        return round(seconds * 1e9)
