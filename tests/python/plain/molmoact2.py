"""MolmoAct2 written down plainly, in float64, one token or one head at a time: the oracle for options without vectors.

Reads tensors by their checkpoint names, so that packing and name mapping are under test too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def linear(w: Weights, prefix: str, x: Tensor) -> Tensor:
    y = x @ w[f"{prefix}.weight"].T
    return y + w[f"{prefix}.bias"] if f"{prefix}.bias" in w else y


def rms_norm(x: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
    y = x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)
    return y if weight is None else y * weight


def layer_norm(w: Weights, prefix: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)
    return scaled * w[f"{prefix}.weight"] + w[f"{prefix}.bias"]


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """One head: q (n, d), k and v (m, d), mask bool (n, m)."""
    scores = q @ k.T / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return torch.softmax(scores, dim=-1) @ v


def rotate(x: Tensor, position: int, base: float) -> Tensor:
    """One head vector (d,) at one position, halves rotated."""
    half = x.shape[0] // 2
    angle = position / base ** (torch.arange(half, dtype=torch.float64) / half)
    first, second = x[:half], x[half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()])


def vision(w: Weights, config: dict, patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features (patches, layers * width) of one crop."""
    c = config["vit_config"]
    prefix = "model.vision_backbone.image_vit"
    positions = w[f"{prefix}.positional_embedding"]
    side = c["image_default_input_size"][0] // c["image_patch_size"]
    columns = c["image_default_input_size"][1] // c["image_patch_size"]
    if grid != (side, columns):
        table = positions.view(1, side, columns, -1).permute(0, 3, 1, 2)
        table = torch.nn.functional.interpolate(
            table, size=grid, mode="bicubic", align_corners=False, antialias=True
        )
        positions = table.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)
    x = linear(w, f"{prefix}.patch_embedding", patches) + positions
    chosen = [i + c["num_hidden_layers"] if i < 0 else i for i in config["adapter_config"]["vit_layers"]]
    outputs = {}
    for i in range(max(chosen) + 1):
        p = f"{prefix}.transformer.resblocks.{i}"
        n = layer_norm(w, f"{p}.attention_norm", x, c["layer_norm_eps"])
        q, k, v = (linear(w, f"{p}.attention.{name}", n) for name in ("wq", "wk", "wv"))
        d = c["head_dim"]
        heads = [
            attention(q[:, h * d : h * d + d], k[:, h * d : h * d + d], v[:, h * d : h * d + d], None)
            for h in range(c["num_attention_heads"])
        ]
        x = x + linear(w, f"{p}.attention.wo", torch.cat(heads, -1))
        n = layer_norm(w, f"{p}.ffn_norm", x, c["layer_norm_eps"])
        x = x + linear(w, f"{p}.feed_forward.w2", gelu_tanh(linear(w, f"{p}.feed_forward.w1", n)))
        outputs[i] = x
    return torch.cat([outputs[i] for i in chosen], -1)


def connector(w: Weights, config: dict, features: Tensor, pooling: Tensor) -> Tensor:
    """Pooled tokens (tokens, width) from all patches (patches, features)."""
    c = config["adapter_config"]
    p = "model.vision_backbone.image_pooling_2d"
    d = c["head_dim"]
    out = []
    for row in pooling.tolist():
        zero = torch.zeros(features.shape[1], dtype=features.dtype)
        members = torch.stack([features[i] if i >= 0 else zero for i in row])
        present = torch.tensor([i >= 0 for i in row])
        masked = c["pooling_attention_mask"]
        query = members[present].mean(0) if masked else members.mean(0)
        q, k, v = (
            linear(w, f"{p}.wq", query)[None],
            linear(w, f"{p}.wk", members),
            linear(w, f"{p}.wv", members),
        )
        mask = present[None] if masked else None
        heads = [
            attention(q[:, h * d : h * d + d], k[:, h * d : h * d + d], v[:, h * d : h * d + d], mask)
            for h in range(c["num_attention_heads"])
        ]
        x = linear(w, f"{p}.wo", torch.cat(heads, -1))[0]
        g = "model.vision_backbone.image_projector"
        out.append(linear(w, f"{g}.w2", silu(linear(w, f"{g}.w1", x)) * linear(w, f"{g}.w3", x)))
    return torch.stack(out)


def decoder(w: Weights, config: dict, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All positions at once: hidden (S, width) after the final norm, keys and values (layers, S, kv_width)."""
    c = config["text_config"]
    heads, kv_heads, d = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    eps = c["layer_norm_eps"]
    all_keys, all_values = [], []
    for i in range(c["num_hidden_layers"]):
        p = f"model.transformer.blocks.{i}"
        n = x if c["norm_after"] else rms_norm(x, eps, w[f"{p}.attn_norm.weight"])
        qkv = linear(w, f"{p}.self_attn.att_proj", n)
        q, k, v = qkv.split([heads * d, kv_heads * d, kv_heads * d], dim=-1)
        if c["use_qk_norm"] and c["qk_norm_type"] == "olmo":
            q = rms_norm(q, eps, w[f"{p}.self_attn.q_norm.weight"])
            k = rms_norm(k, eps, w[f"{p}.self_attn.k_norm.weight"])

        def head(t: Tensor, h: int, norm: str | None, p: str = p) -> Tensor:
            t = t[:, h * d : h * d + d]
            if norm and c["use_qk_norm"] and c["qk_norm_type"] == "qwen3":
                t = rms_norm(t, eps, w[f"{p}.self_attn.{norm}.weight"])
            if norm:
                t = torch.stack([rotate(t[s], s, c["rope_theta"]) for s in range(len(t))])
            return t

        keys = [head(k, h, "k_norm") for h in range(kv_heads)]
        values = [head(v, h, None) for h in range(kv_heads)]
        attended = [
            attention(head(q, h, "q_norm"), keys[h * kv_heads // heads], values[h * kv_heads // heads], mask)
            for h in range(heads)
        ]
        all_keys.append(torch.cat(keys, -1))
        all_values.append(torch.cat(values, -1))
        a = linear(w, f"{p}.self_attn.attn_out", torch.cat(attended, -1))
        x = x + (rms_norm(a, eps, w[f"{p}.attn_norm.weight"]) if c["norm_after"] else a)
        n = x if c["norm_after"] else rms_norm(x, eps, w[f"{p}.ff_norm.weight"])
        up, gate = linear(w, f"{p}.mlp.ff_proj", n).chunk(2, -1)
        m = linear(w, f"{p}.mlp.ff_out", silu(gate) * up)
        x = x + (rms_norm(m, eps, w[f"{p}.ff_norm.weight"]) if c["norm_after"] else m)
    return (
        rms_norm(x, eps, w["model.transformer.ln_f.weight"]),
        torch.stack(all_keys),
        torch.stack(all_values),
    )


def gate(
    w: Weights, config: dict, keys: Tensor, values: Tensor, depth: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys and values (layers, S, kv_width) after the depth gate."""
    keys, values = keys.clone(), values.clone()
    last = values[-1][valid & ~depth].mean(0)
    for i in range(len(keys)):
        if config["action_expert_depth_gate_per_layer"]:
            pooled = values[i][valid & ~depth].mean(0)
            g = torch.sigmoid(linear(w, f"model.action_expert_depth_gate.{i}", pooled))
        else:
            g = torch.sigmoid(linear(w, "model.action_expert_depth_gate", last))
        keys[i][depth] = keys[i][depth] * g
        values[i][depth] = values[i][depth] * g
    return keys, values


def flow(
    w: Weights, config: dict, keys: Tensor, values: Tensor, valid: Tensor, noise: Tensor, steps: int, dim: int
) -> Tensor:
    """Velocities (steps, T, A)."""
    return inpainted_flow(w, config, keys, values, valid, noise, steps, dim, None)[1]


def inpainted_flow(
    w: Weights,
    config: dict,
    keys: Tensor,
    values: Tensor,
    valid: Tensor,
    noise: Tensor,
    steps: int,
    dim: int,
    guide: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Chunk (T, A) and the network's velocities (steps, T, A); ``guide``: actions (T, A) and weights (T,)."""
    c = config["action_expert_config"]
    p = "model.action_expert"
    heads, d = c["num_heads"], c["hidden_size"] // c["num_heads"]
    x = noise.clone()
    if config["mask_action_dim_padding"]:
        x[:, dim:] = 0

    def head_norm(t: Tensor) -> Tensor:
        return rms_norm(t, c["qk_norm_eps"]) if c["qk_norm"] else t

    def split(t: Tensor) -> list[Tensor]:
        return [t[:, h * d : h * d + d] for h in range(heads)]

    velocities = []
    for step in range(steps):
        half = c["timestep_embed_dim"] // 2
        angle = (
            step / steps * torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / (half - 1))
        )
        cond = linear(w, f"{p}.time_embed.1", torch.cat([angle.sin(), angle.cos()]))
        cond = silu(linear(w, f"{p}.time_embed.3", silu(cond)))
        h = linear(w, f"{p}.action_embed", x)
        for i in range(c["num_layers"]):
            b = f"{p}.blocks.{i}"
            m = linear(w, f"{b}.modulation.linear", cond).chunk(9)
            n = rms_norm(h, 1e-6) * (1 + m[1]) + m[0]
            q, k, v = linear(w, f"{b}.self_attn.qkv", n).chunk(3, -1)
            causal = torch.ones(len(h), len(h), dtype=torch.bool).tril() if c["causal_attn"] else None
            out = []
            for qh, kh, vh in zip(split(q), split(k), split(v), strict=True):
                qh, kh = head_norm(qh), head_norm(kh)
                if c["rope"]:
                    qh = torch.stack([rotate(qh[s], s, 10000.0) for s in range(len(qh))])
                    kh = torch.stack([rotate(kh[s], s, 10000.0) for s in range(len(kh))])
                out.append(attention(qh, kh, vh, causal))
            h = h + m[2] * linear(w, f"{b}.self_attn.out_proj", torch.cat(out, -1))
            n = rms_norm(h, 1e-6) * (1 + m[4]) + m[3]
            q = linear(w, f"{b}.cross_attn.q_proj", n)
            ck, cv = linear(w, f"{p}.context_k_proj", keys[i]), linear(w, f"{p}.context_v_proj", values[i])
            if c["context_layer_norm"]:
                ck, cv = rms_norm(ck, 1e-6), rms_norm(cv, 1e-6)
            mask = valid[None].expand(len(h), -1)
            out = [
                attention(head_norm(qh), head_norm(kh), vh, mask)
                for qh, kh, vh in zip(split(q), split(ck), split(cv), strict=True)
            ]
            h = h + m[5] * linear(w, f"{b}.cross_attn.out_proj", torch.cat(out, -1))
            n = rms_norm(h, 1e-6) * (1 + m[7]) + m[6]
            inner = silu(linear(w, f"{b}.mlp.gate_proj", n)) * linear(w, f"{b}.mlp.up_proj", n)
            h = h + m[8] * linear(w, f"{b}.mlp.down_proj", inner)
        shift, scale = linear(w, f"{p}.final_layer.modulation.linear", cond).chunk(2)
        v = linear(w, f"{p}.final_layer.linear", rms_norm(h, 1e-6) * (1 + scale) + shift)
        velocities.append(v.clone())
        if guide is not None:
            v = v + guide[1][:, None] * ((guide[0] - x) / (1 - step / steps) - v)
        if config["mask_action_dim_padding"]:
            v[:, dim:] = 0
        x = x + v / steps
    return x, torch.stack(velocities)
