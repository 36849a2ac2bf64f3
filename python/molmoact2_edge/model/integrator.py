"""From the decoder's cache to an action chunk over memory that never moves: context and flow of a static call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from molmoact2_edge.model.attention import hiding
from molmoact2_edge.model.expert import Context
from molmoact2_edge.model.flow import FlowGuide
from molmoact2_edge.model.molmoact2 import MolmoAct2


@dataclass(frozen=True, slots=True)
class FlowSetting:
    """What of an action chunk is fixed per recording: T, Euler steps, and the first padding column, None for none."""

    horizon: int
    steps: int
    valid_dim: int | None


@dataclass(frozen=True, slots=True)
class Integrated:
    """A chunk (T, max_action_dim) float32, and what its flow was conditioned on.

    ``context_keys``, ``context_values``: (layers, heads, positions, head size); ``compact`` says whether positions are
    the valid ones only, in order and then anything, or all of them.
    """

    chunk: Tensor
    context_keys: Tensor
    context_values: Tensor
    compact: bool


class Integrator(Protocol):
    """Projects the context and integrates the flow. Nothing in it waits for the device."""

    @property
    def backends(self) -> dict[str, str]:
        """What computes ``context`` and ``flow``."""
        ...

    def prepare(self, setting: FlowSetting) -> None:
        """Compute what depends on the setting only, in memory that outlasts any recording."""
        ...

    def integrate(
        self,
        keys: Tensor,
        values: Tensor,
        inputs: Mapping[str, Tensor],
        setting: FlowSetting,
        velocities: list[Tensor] | None = None,
    ) -> Integrated:
        """Return the chunk for a cache.

        ``keys``, ``values``: (layers, positions, kv_width), rows contiguous. ``inputs``: ``valid`` and ``depth``, bool
        (at least positions,); ``noise`` and ``guide_actions``, float32 (1, at least T, max_action_dim);
        ``guide_weights``, float32 (1, at least T), all zero without a guide. ``velocities`` collects every step's,
        (1, T, max_action_dim).
        """
        ...


class TorchIntegrator:
    """The expert in torch, on any device: every position is projected, and those that may not be read are masked.

    ``reason``: why nothing faster serves, for ``backends``.
    """

    def __init__(self, model: MolmoAct2, reason: str = "") -> None:
        self._model = model
        self._reason = reason

    @property
    def backends(self) -> dict[str, str]:
        return {"context": "torch", "flow": f"torch ({self._reason})" if self._reason else "torch"}

    def prepare(self, setting: FlowSetting) -> None:
        assert self._model.expert is not None
        self._model.expert.schedule(setting.steps)

    def integrate(
        self,
        keys: Tensor,
        values: Tensor,
        inputs: Mapping[str, Tensor],
        setting: FlowSetting,
        velocities: list[Tensor] | None = None,
    ) -> Integrated:
        model, horizon = self._model, setting.horizon
        assert model.expert is not None
        positions = keys.shape[1]
        valid, depth = inputs["valid"][:positions], inputs["depth"][:positions]
        if model.depth_gate is not None:
            keys, values = model.depth_gate.apply(keys, values, depth & valid, valid)
        projected = model.expert.context(keys.unsqueeze(1), values.unsqueeze(1))
        bias = hiding(valid.expand(horizon, -1), model.dtype)
        guide = FlowGuide(inputs["guide_actions"][:, :horizon], inputs["guide_weights"][:, :horizon])
        chunk = model.expert.integrate(
            inputs["noise"][:, :horizon],
            Context(projected.keys, projected.values, bias),
            setting.steps,
            setting.valid_dim,
            velocities,
            guide,
        )
        return Integrated(chunk[0], projected.keys[:, 0], projected.values[:, 0], compact=False)
