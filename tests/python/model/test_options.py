"""Every option of the configuration, also those that no public vector exercises, against the plain float64 network."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from plain import molmoact2 as plain
from torch import Tensor

from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model.decoder import prefill_mask
from molmoact2_edge.model.layout import Part, checkpoint_tensors, random_source
from molmoact2_edge.model.masks import cross_attention_mask, depth_tokens
from molmoact2_edge.model.molmoact2 import MolmoAct2

CPU = torch.device("cpu")
# float32 against float64 through four layers of every part; measured below 2e-5 of the largest magnitude.
TOLERANCE = 1e-4


def settings(reference: Path, **changes: object) -> dict:
    """The configuration of tiny-think with ``section.key`` changed."""
    config = json.loads((reference / "tiny-think" / "config.json").read_text())
    for path, value in changes.items():
        *sections, key = path.split("__")
        target = config
        for section in sections:
            target = target[section]
        target[key] = value
    return config


def random_model(config: dict, seed: int) -> tuple[MolmoAct2, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def fill(part: Part, rows: Tensor) -> None:
        scale = 0.25 if len(part.shape) > 1 else 0.3
        centre = 1.0 if "norm" in part.name and part.name.endswith("weight") else 0.0
        rows.copy_(centre + scale * torch.randn(part.shape, generator=generator))

    source = random_source(fill, dtype=torch.float32, device=CPU)
    model = MolmoAct2(source, ModelConfig.from_json(copy.deepcopy(config)), CPU)
    return model, {name: t.double() for name, t in checkpoint_tensors(source.parameters).items()}


def close(actual: Tensor, expected: Tensor) -> None:
    scale = max(float(expected.abs().max()), 1.0)
    assert float((actual.double() - expected).abs().max()) <= TOLERANCE * scale


OPTIONS = {
    "as released": {},
    "olmo q/k norm": {"text_config__qk_norm_type": "olmo"},
    "no q/k norm": {"text_config__use_qk_norm": False},
    "norm after": {"text_config__norm_after": True},
    "qkv bias": {"text_config__qkv_bias": True},
    "other rope base": {"text_config__rope_parameters": None, "text_config__rope_theta": 1234.5},
    "causal expert": {"action_expert_config__causal_attn": True},
    "expert without rope": {"action_expert_config__rope": False},
    "expert without q/k norm": {"action_expert_config__qk_norm": False},
    "expert without context norm": {"action_expert_config__context_layer_norm": False},
    "one gate": {"action_expert_depth_gate_per_layer": False},
    "no gate": {"action_expert_depth_gate": False},
    "padding columns kept": {"mask_action_dim_padding": False},
    "pooling over absent patches": {"adapter_config__pooling_attention_mask": False},
    "one feature layer": {"adapter_config__vit_layers": [1]},
    "multi-query": {"text_config__num_key_value_heads": 1},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_option_matches_the_plain_network(name: str, reference: Path) -> None:
    config = settings(reference, **OPTIONS[name])
    model, weights = random_model(config, seed=sorted(OPTIONS).index(name))
    generator = torch.Generator().manual_seed(1)
    checked = model.config
    with torch.inference_mode():
        patches = torch.randn(2, 25, 588, generator=generator)
        pooling = torch.tensor(
            [[0, 1, 5, 6], [2, 3, -1, -1], [24, -1, -1, -1], [30, 31, 35, 36], [49, -1, 48, 2]]
        )
        features = model.image_features(patches, pooling, (5, 5))
        flat = torch.cat([plain.vision(weights, config, crop.double(), (5, 5)) for crop in patches])
        expected_features = plain.connector(weights, config, flat, pooling)
        close(features, expected_features)

        assert checked.image_patch_id is not None
        ids = torch.randint(20, 300, (23,), generator=generator)
        ids[2:7] = checked.image_patch_id
        ids[0] = 401
        ids[15] = checked.depth_output_token_id or 0
        ids[16] = (checked.depth_token_start_id or 0) + 3
        image_tokens = torch.zeros(23, dtype=torch.bool)
        image_tokens[1:8] = True
        cache = model.decoder.new_cache(1, 30)
        hidden = model.prefill(ids[None], image_tokens[None], features, cache, hidden="all")
        assert hidden is not None
        table = torch.cat(
            [weights["model.transformer.wte.embedding"], weights["model.transformer.wte.new_embedding"]]
        )
        embeddings = table[ids].clone()
        embeddings[2:7] += expected_features
        expected_hidden, keys, values = plain.decoder(
            weights, config, embeddings, prefill_mask(image_tokens[None])[0]
        )
        close(hidden[0], expected_hidden)
        close(cache.filled()[0][:, 0], keys)
        close(cache.filled()[1][:, 0], values)

        valid = torch.from_numpy(cross_attention_mask(ids.numpy(), checked))
        depth = torch.from_numpy(depth_tokens(ids.numpy(), checked))
        assert int(depth.sum()) == 2
        context = model.context(cache.filled()[0][:, 0], cache.filled()[1][:, 0], valid, depth)
        if config["action_expert_depth_gate"]:
            keys, values = plain.gate(weights, config, keys, values, depth & valid, valid)
        noise = torch.randn(7, 8, generator=generator)
        found: list[Tensor] = []
        assert model.expert is not None
        padded_from = 6 if config["mask_action_dim_padding"] else None
        chunk = model.expert.integrate(noise[None], context, 3, padded_from, found)
        expected = plain.flow(weights, config, keys, values, valid, noise.double(), 3, 6)
        close(torch.cat(found), expected)
        if config["mask_action_dim_padding"]:
            assert bool((chunk[..., 6:] == 0).all())


@pytest.mark.parametrize("grid", [(5, 5), (3, 7), (8, 4), (1, 1)])
def test_positions_are_resized_to_other_grids(grid: tuple[int, int], reference: Path) -> None:
    config = settings(reference)
    model, weights = random_model(config, seed=5)
    patches = torch.randn(1, grid[0] * grid[1], 588, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        close(model.vision(patches, grid)[0], plain.vision(weights, config, patches[0].double(), grid))


@pytest.mark.parametrize("hidden", ["last", "none"])
def test_skipped_work_changes_nothing(hidden: str, reference: Path) -> None:
    """What "last" and "none" leave out of the last layer, nobody reads."""
    model, _ = random_model(settings(reference), seed=6)
    x = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        complete, partial = model.decoder.new_cache(1, 9), model.decoder.new_cache(1, 9)
        everything = model.decoder.forward(x, complete, hidden="all")
        found = model.decoder.forward(x, partial, hidden=hidden)  # type: ignore[arg-type]
    assert everything is not None
    torch.testing.assert_close(partial.filled(), complete.filled(), rtol=0, atol=1e-6)
    if hidden == "none":
        assert found is None
    else:
        assert found is not None
        torch.testing.assert_close(found, everything[:, -1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("split", [1, 4, 8])
def test_feeding_in_pieces_equals_one_prefill(split: int, reference: Path) -> None:
    model, _ = random_model(settings(reference), seed=7)
    x = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        whole, pieces = model.decoder.new_cache(2, 9), model.decoder.new_cache(2, 12)
        expected = model.decoder.forward(x, whole)
        model.decoder.forward(x[:, :split], pieces)
        found = model.decoder.forward(x[:, split:], pieces)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(pieces.filled(), whole.filled(), rtol=0, atol=1e-5)


def test_a_full_cache_is_refused(reference: Path) -> None:
    model, _ = random_model(settings(reference), seed=8)
    with pytest.raises(ValueError, match="holds 4 positions, 5 are needed"):
        model.decoder.forward(torch.zeros(1, 5, 64), model.decoder.new_cache(1, 4))


def test_action_spans_and_end_tokens_are_masked_only_for_both(reference: Path) -> None:
    ids = np.array([401, 5, 403, 410, 404, 6, 401, 7, 403, 9])
    both = ModelConfig.from_json(settings(reference))
    assert cross_attention_mask(ids, both).tolist() == [
        False, True, False, False, False, True, False, True, False, False,
    ]  # fmt: skip
    continuous = ModelConfig.from_json(settings(reference, action_mode="continuous"))
    assert cross_attention_mask(ids, continuous).all()
