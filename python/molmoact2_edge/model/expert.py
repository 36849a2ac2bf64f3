"""Action expert: a flow-matching transformer over the action chunk that reads the decoder's cache at every layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from molmoact2_edge.checkpoint.config import ActionExpertConfig
from molmoact2_edge.model.attention import attend
from molmoact2_edge.model.flow import CompiledFlow, FlowGuide
from molmoact2_edge.model.layout import Linear, ParameterSource
from molmoact2_edge.model.rope import RotaryTable

# Norms inside the expert's blocks and final layer have no weight and this epsilon.
_NORM_EPS = 1e-6
_ROPE_BASE = 10_000.0
_TIME_BASE = 10_000.0


@dataclass(frozen=True, slots=True)
class ExpertBlock:
    """Parameters of one block."""

    qkv: Linear
    self_out: Linear
    query: Linear
    cross_out: Linear
    up_gate: Linear
    down: Linear
    modulation: Linear


@dataclass(frozen=True, slots=True)
class Context:
    """What cross-attention reads: per layer keys and values (layers, batch, heads, tokens, head size), and a mask.

    ``mask`` is None when masked tokens have been left out, else bool (batch, 1, 1, tokens), or a bias that is added to
    the scores and broadcasts to (batch, heads, T, tokens).
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Modulation:
    """Time conditioning of one or more flow steps.

    ``blocks``: (steps, layers, 9, width): shift, 1 + scale, gate for self-attention, cross-attention and MLP;
    ``final``: (steps, 2, width): shift, 1 + scale.
    """

    blocks: Tensor
    final: Tensor


class ActionExpert:
    """Projects the cache once per observation and integrates the flow from noise to a normalized action chunk."""

    def __init__(
        self,
        source: ParameterSource,
        config: ActionExpertConfig,
        *,
        action_dim: int,
        context_width: int,
        device: torch.device,
    ) -> None:
        prefix = "model.action_expert"
        width = config.hidden_size
        self.config = config
        self.action_dim = action_dim
        self.head_dim = width // config.num_heads
        self.action_embed = source.linear(f"{prefix}.action_embed", width, action_dim, bias=True)
        self.time_in = source.linear(f"{prefix}.time_embed.1", width, config.timestep_embed_dim, bias=True)
        self.time_out = source.linear(f"{prefix}.time_embed.3", width, width, bias=True)
        self.context_key = source.linear(f"{prefix}.context_k_proj", width, context_width, bias=False)
        self.context_value = source.linear(f"{prefix}.context_v_proj", width, context_width, bias=False)
        self.blocks = [self._block(source, f"{prefix}.blocks.{i}") for i in range(config.num_layers)]
        self.final_modulation = source.linear(
            f"{prefix}.final_layer.modulation.linear", 2 * width, width, bias=True
        )
        self.final = source.linear(f"{prefix}.final_layer.linear", action_dim, width, bias=True)
        self.rope = RotaryTable(self.head_dim, _ROPE_BASE, device)
        self._schedules: dict[int, Modulation] = {}
        self._compiled: CompiledFlow | None = None

    @property
    def flow_backend(self) -> str:
        """What :meth:`integrate` runs on: ``"torch"``, or the compiled loop with its instruction set and threads."""
        compiled = self._compiled
        return "torch" if compiled is None else f"compiled ({compiled.isa}, threads: {compiled.threads})"

    def compile(self) -> None:
        """Let :meth:`integrate` run in C++ from here on; float32 on the CPU only.

        The weights are copied: whoever changes them later calls this again, or :meth:`integrate` raises.
        """
        self._compiled = CompiledFlow(self, threads=torch.get_num_threads())

    def _block(self, source: ParameterSource, prefix: str) -> ExpertBlock:
        width, inner = self.config.hidden_size, self.config.intermediate_size
        return ExpertBlock(
            qkv=source.linear(f"{prefix}.self_attn.qkv", 3 * width, width, bias=True),
            self_out=source.linear(f"{prefix}.self_attn.out_proj", width, width, bias=True),
            query=source.linear(f"{prefix}.cross_attn.q_proj", width, width, bias=True),
            cross_out=source.linear(f"{prefix}.cross_attn.out_proj", width, width, bias=True),
            up_gate=source.linear(
                [f"{prefix}.mlp.up_proj", f"{prefix}.mlp.gate_proj"], inner, width, bias=True
            ),
            down=source.linear(f"{prefix}.mlp.down_proj", width, inner, bias=True),
            modulation=source.linear(f"{prefix}.modulation.linear", 9 * width, width, bias=True),
        )

    # Context -----------------------------------------------------------------------------------------------------

    def context(self, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Context:
        """Project the decoder's cache of all layers into the expert's heads.

        ``keys``, ``values``: (layers, batch, tokens, kv_width); ``mask``: bool (batch, tokens) or None.
        """
        width = self.config.hidden_size
        k, v = self.context_key(keys), self.context_value(values)
        if self.config.context_layer_norm:
            # The spec has a norm over the whole width here for k too; only rounding tells it from the head norm alone.
            k = F.rms_norm(k, (width,), eps=_NORM_EPS)
            v = F.rms_norm(v, (width,), eps=_NORM_EPS)
        k = self._head_norm(k.unflatten(-1, (self.config.num_heads, self.head_dim)))
        v = v.unflatten(-1, (self.config.num_heads, self.head_dim))
        return Context(k.transpose(2, 3), v.transpose(2, 3), None if mask is None else mask[:, None, None, :])

    # Time --------------------------------------------------------------------------------------------------------

    def modulation(self, times: Tensor) -> Modulation:
        """Return the modulation vectors at ``times`` (steps,) float32 in [0, 1]."""
        half = self.config.timestep_embed_dim // 2
        exponent = torch.arange(half, dtype=torch.float32, device=times.device) / (half - 1)
        angle = times.float()[:, None] * torch.exp(-math.log(_TIME_BASE) * exponent)[None, :]
        sinusoid = torch.cat([angle.sin(), angle.cos()], dim=-1).to(self.action_embed.weight.dtype)
        condition = F.silu(self.time_out(F.silu(self.time_in(sinusoid))))
        width = self.config.hidden_size
        blocks = torch.stack([block.modulation(condition).view(-1, 9, width) for block in self.blocks], dim=1)
        final = self.final_modulation(condition).view(-1, 2, width)
        one_at_scale = torch.zeros(9, 1, dtype=blocks.dtype, device=blocks.device)
        one_at_scale[1::3] = 1
        return Modulation(blocks + one_at_scale, final + one_at_scale[:2])

    def schedule(self, num_steps: int) -> Modulation:
        """Return the modulation of ``num_steps`` Euler steps, t = i / num_steps, computed once per step count."""
        if num_steps not in self._schedules:
            times = torch.arange(num_steps, dtype=torch.float32, device=self.final.weight.device) / num_steps
            self._schedules[num_steps] = self.modulation(times)
        return self._schedules[num_steps]

    # Flow --------------------------------------------------------------------------------------------------------

    def velocity(self, x: Tensor, modulation: Modulation, context: Context) -> Tensor:
        """Return the flow velocity (batch, T, action_dim) at ``x`` (batch, T, action_dim).

        ``modulation`` has one entry per batch row, or one for all rows.
        """
        h = self.action_embed(x)
        # Unbinding once is cheaper than indexing nine times a block.
        blocks = modulation.blocks.unsqueeze(-2).unbind(1)
        for index, block in enumerate(self.blocks):
            m = blocks[index].unbind(1)
            h = torch.addcmul(h, m[2], self._self_attention(block, self._modulated(h, m[0], m[1])))
            h = torch.addcmul(
                h, m[5], self._cross_attention(block, self._modulated(h, m[3], m[4]), context, index)
            )
            h = torch.addcmul(h, m[8], self._mlp(block, self._modulated(h, m[6], m[7])))
        shift, scale = modulation.final.unsqueeze(-2).unbind(1)
        return self.final(self._modulated(h, shift, scale))

    def integrate(
        self,
        noise: Tensor,
        context: Context,
        num_steps: int,
        valid_dim: int | None = None,
        velocities: list[Tensor] | None = None,
        guide: FlowGuide | None = None,
    ) -> Tensor:
        """Integrate the flow from ``noise`` (batch, T, action_dim) at t = 0 to the action chunk at t = 1.

        ``valid_dim``: columns from here on are padding, kept at zero; None leaves them alone. ``velocities``
        collects a copy of every step's velocity as the network gives it. ``guide`` is in-painted: no backward pass, no
        work without one. The state x stays in float32.
        """
        schedule = self.schedule(num_steps)
        if self._compiled is not None:
            return self._compiled.integrate(noise, context, schedule, valid_dim, velocities, guide)
        dtype = self.action_embed.weight.dtype
        x = noise.float().clone()
        if valid_dim is not None:
            x[..., valid_dim:] = 0
        for step in range(num_steps):
            at_step = Modulation(schedule.blocks[step : step + 1], schedule.final[step : step + 1])
            v = self.velocity(x.to(dtype), at_step, context)
            if velocities is not None:
                velocities.append(v.clone())
            if guide is not None:
                straight = (guide.actions - x) * (num_steps / (num_steps - step))  # (g - x) / (1 - t)
                v = torch.lerp(v.float(), straight, guide.weights.unsqueeze(-1))
            x.add_(v, alpha=1.0 / num_steps)
            if valid_dim is not None:
                x[..., valid_dim:] = 0
        return x

    @staticmethod
    def _modulated(h: Tensor, shift: Tensor, one_plus_scale: Tensor) -> Tensor:
        return torch.addcmul(shift, F.rms_norm(h, h.shape[-1:], eps=_NORM_EPS), one_plus_scale)

    def _head_norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=self.config.qk_norm_eps) if self.config.qk_norm else x

    def _self_attention(self, block: ExpertBlock, x: Tensor) -> Tensor:
        batch, steps, width = x.shape
        heads = self.config.num_heads
        qkv = block.qkv(x).view(batch, steps, 3 * heads, self.head_dim)
        query_key = self._head_norm(qkv[:, :, : 2 * heads])
        if self.config.rope:
            query_key = self.rope.rotate(query_key, 0)
        query, key = query_key.transpose(1, 2).chunk(2, dim=1)
        value = qkv[:, :, 2 * heads :].transpose(1, 2)
        attended = attend(query, key, value, is_causal=self.config.causal_attn)
        return block.self_out(attended.transpose(1, 2).reshape(batch, steps, width))

    def _cross_attention(self, block: ExpertBlock, x: Tensor, context: Context, layer: int) -> Tensor:
        batch, steps, width = x.shape
        query = self._head_norm(block.query(x).view(batch, steps, self.config.num_heads, self.head_dim))
        attended = attend(query.transpose(1, 2), context.keys[layer], context.values[layer], context.mask)
        return block.cross_out(attended.transpose(1, 2).reshape(batch, steps, width))

    @staticmethod
    def _mlp(block: ExpertBlock, x: Tensor) -> Tensor:
        up, gate = block.up_gate(x).chunk(2, dim=-1)
        return block.down(F.silu(gate) * up)
