"""Rotary position embedding over the two halves of a head, in float32."""

from __future__ import annotations

import torch
from torch import Tensor


class RotaryTable:
    """Cosines and signed sines per position, grown on demand.

    ``rotate(x) = x * cos + roll(x, half) * sin`` with the first half of ``sin`` negated equals the usual
    rotate-half form with one pass fewer.
    """

    def __init__(self, head_dim: int, base: float, device: torch.device) -> None:
        exponent = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
        self._inverse_frequency = 1.0 / (base**exponent)
        self._device = device
        self._cos = torch.empty(0, head_dim, device=device)
        self._sin = torch.empty(0, head_dim, device=device)
        self._superseded: list[tuple[Tensor, Tensor]] = []

    def reserve(self, positions: int) -> None:
        """Make sure that positions below ``positions`` are available."""
        if positions <= self._cos.shape[0]:
            return
        # Doubling keeps the number of rebuilds logarithmic while a prompt grows.
        length = max(positions, 2 * self._cos.shape[0])
        # A recorded graph may still read these; doubling bounds what they take.
        self._superseded.append((self._cos, self._sin))
        angle = torch.arange(length).float()[:, None] * self._inverse_frequency[None, :]
        sin = angle.sin()
        self._cos = angle.cos().repeat(1, 2).to(self._device)
        self._sin = torch.cat([-sin, sin], dim=1).to(self._device)

    def rotate(self, x: Tensor, start: int) -> Tensor:
        """Rotate ``x`` (..., positions, heads, head_dim), the first position being ``start``; keeps the dtype."""
        positions = x.shape[-3]
        self.reserve(start + positions)
        return rotate(x, self._cos[start : start + positions], self._sin[start : start + positions])

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and signed sines (positions, head_dim) of positions (int64, on the device), all reserved."""
        return self._cos.index_select(0, positions), self._sin.index_select(0, positions)

    @property
    def tables(self) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of the reserved positions, float32 (positions, head_dim).

        They are replaced, not changed, when more positions are reserved, and live as long as this object.
        """
        return self._cos, self._sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``x`` (..., positions, heads, head_dim) by cosines and signed sines (positions, head_dim) in float32."""
    x32 = x.float()
    turned = torch.addcmul(x32 * cos.unsqueeze(-2), x32.roll(x.shape[-1] // 2, -1), sin.unsqueeze(-2))
    return turned.to(x.dtype)
