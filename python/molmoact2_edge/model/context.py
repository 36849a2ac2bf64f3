"""The expert's context in C++: projection, norms and depth gate of all layers in one call, float32 on the CPU.

Both are bound by the same products at release shapes, but torch copies the valid tokens and norms in passes of its own:
this takes about four fifths of its time there, and from a half to a third on a tiny checkpoint
(``tools/bench/kernels.py --only context``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from molmoact2_edge._core.kernels import ContextPlan
from molmoact2_edge.model.flow import array_of, versions_of

if TYPE_CHECKING:
    from molmoact2_edge.model.depth_gate import DepthGate
    from molmoact2_edge.model.expert import ActionExpert


class CompiledContext:
    """The two context projections of an expert and the depth gate, packed for this processor.

    ``layers``: of the decoder's cache; ``threads``: the caller's included; ``isa``: instruction set, None takes the
    fastest that is there. The packed weights are a copy.
    """

    def __init__(
        self,
        expert: ActionExpert,
        gate: DepthGate | None,
        *,
        layers: int,
        threads: int,
        isa: str | None = None,
    ) -> None:
        config = expert.config
        self._sources = [expert.context_key.weight, expert.context_value.weight]
        packed_gate = None
        if gate is not None:
            biases = [linear.bias for linear in gate.gates if linear.bias is not None]
            weights = [linear.weight for linear in gate.gates]
            self._sources += [*weights, *biases]
            packed_gate = (array_of(torch.cat(weights)), array_of(torch.cat(biases)))
        self._versions = versions_of(self._sources)
        self._gated = gate is not None
        self._plan = ContextPlan(
            layers=layers,
            heads=config.num_heads,
            key=array_of(expert.context_key.weight),
            value=array_of(expert.context_value.weight),
            gate=packed_gate,
            layer_norm=config.context_layer_norm,
            qk_norm=config.qk_norm,
            qk_norm_eps=config.qk_norm_eps,
            threads=threads,
            isa=isa,
        )

    @property
    def backend(self) -> str:
        return f"compiled ({self._plan.isa}, threads: {self._plan.threads})"

    def project(
        self, keys: Tensor, values: Tensor, valid: Tensor, depth: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values (layers, heads, valid tokens, head size); see :meth:`MolmoAct2.context`.

        ``depth`` may be None without a gate.

        Raises:
            RuntimeError: The weights have changed since they were packed.
        """
        if versions_of(self._sources) != self._versions:
            raise RuntimeError("the context's weights have changed since they were packed; compile it again")
        flags = None
        if self._gated:
            if depth is None:
                raise ValueError("a context with a depth gate needs to know the depth tokens, got None")
            flags = depth.contiguous().numpy()
        projected = self._plan.run(array_of(keys), array_of(values), valid.contiguous().numpy(), flags)
        return torch.from_numpy(projected[0]), torch.from_numpy(projected[1])
