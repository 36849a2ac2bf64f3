"""The compiled context against torch's, with and without the depth gate, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from molmoact2_edge import Policy
from molmoact2_edge._core import kernels
from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model.context import CompiledContext
from molmoact2_edge.model.layout import Part, random_source
from molmoact2_edge.model.molmoact2 import MolmoAct2

CPU = torch.device("cpu")
REFERENCE = Path(__file__).parents[2] / "reference"


def network(checkpoint: str, **options: Any) -> MolmoAct2:
    """Random weights of a checkpoint's shapes; expert options and depth gates as asked for."""
    config = ModelConfig.from_json(json.loads((REFERENCE / checkpoint / "config.json").read_text()))
    per_layer = options.pop("per_layer", config.action_expert_depth_gate_per_layer)
    config = dataclasses.replace(
        config,
        action_expert_depth_gate_per_layer=per_layer,
        action_expert_config=dataclasses.replace(config.action_expert_config, **options),
    )
    generator = torch.Generator().manual_seed(0)

    def fill(part: Part, rows: torch.Tensor) -> None:
        # Gates near 1e-3: behind the norms they show only through the epsilons.
        scale = part.shape[1] ** -0.5 if len(part.shape) > 1 else 0.1
        offset = -7.0 if "depth_gate" in part.name and len(part.shape) == 1 else 0.0
        rows.normal_(offset, scale, generator=generator)

    return MolmoAct2(random_source(fill, dtype=torch.float32, device=CPU), config, CPU)


def cache(model: MolmoAct2, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values as a decoder's cache holds them: the first tokens of more."""
    text = model.config.text_config
    shape = (text.num_hidden_layers, tokens + 5, text.num_key_value_heads * text.head_dim)
    generator = torch.Generator().manual_seed(1)
    keys, values = (torch.randn(shape, generator=generator)[:, :tokens] for _ in range(2))
    return keys, values


@pytest.mark.parametrize("isa", kernels.cpu_isas())
@pytest.mark.parametrize("tokens", [1, 7, 90])
@pytest.mark.parametrize(
    ("checkpoint", "options"),
    [
        ("tiny-base", {}),
        ("tiny-base", {"context_layer_norm": False}),
        ("tiny-base", {"qk_norm": False}),
        ("tiny-think", {"per_layer": True}),
        ("tiny-think", {"per_layer": False}),
    ],
)
def test_it_equals_torch(checkpoint: str, options: dict[str, Any], tokens: int, isa: str) -> None:
    model = network(checkpoint, **options)
    keys, values = cache(model, tokens)
    assert model.expert is not None
    layers = model.config.text_config.num_hidden_layers
    compiled = CompiledContext(model.expert, model.depth_gate, layers=layers, threads=2, isa=isa)
    places = torch.arange(tokens)
    for valid, depth in (
        (places >= 0, places % 3 == 2),
        ((places % 4 != 1) | (places == 0), places % 3 == 2),
        (places >= 0, places >= 0),
        (places >= 0, places < 0),
    ):
        expected = model.context(keys, values, valid, depth)
        found = compiled.project(keys, values, valid, depth)
        for ours, torchs in zip(found, (expected.keys, expected.values), strict=True):
            torch.testing.assert_close(ours, torchs[:, 0], rtol=2e-5, atol=2e-5)


def test_a_loaded_policy_uses_it_and_changed_weights_are_noticed() -> None:
    policy = Policy.from_pretrained(REFERENCE / "tiny-think", device="cpu", dtype="float32")
    assert policy.backends["context"].startswith("compiled")
    model = network("tiny-think")
    keys, values = cache(model, 9)
    valid, depth = torch.ones(9, dtype=torch.bool), torch.zeros(9, dtype=torch.bool)
    expected = model.context(keys, values, valid, depth)
    model.compile_context()
    assert model.backends["context"].startswith("compiled")
    torch.testing.assert_close(model.context(keys, values, valid, depth).keys, expected.keys)
    assert model.expert is not None
    with torch.no_grad():
        model.expert.context_key.weight.mul_(2)
    with pytest.raises(RuntimeError, match="changed"):
        model.context(keys, values, valid, depth)
    model.compile_context()
    model.context(keys, values, valid, depth)


def plan(**changes: Any) -> kernels.ContextPlan:
    arguments: dict[str, Any] = {
        "layers": 2,
        "heads": 2,
        "key": np.ones((6, 4), np.float32),
        "value": np.ones((6, 4), np.float32),
        "gate": (np.ones((2, 4), np.float32), np.zeros(2, np.float32)),
        "layer_norm": True,
        "qk_norm": True,
        "qk_norm_eps": 1e-6,
    }
    return kernels.ContextPlan(**{**arguments, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": 4},
        {"heads": 0},
        {"layers": 0, "gate": None},
        {"value": np.ones((6, 5), np.float32)},
        {"key": np.ones(6, np.float32)},
        {"gate": (np.ones((3, 4), np.float32), np.zeros(3, np.float32))},
        {"gate": (np.ones((2, 3), np.float32), np.zeros(2, np.float32))},
        {"threads": 0},
        {"isa": "sse"},
    ],
)
def test_weights_that_do_not_fit_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|there must"):
        plan(**changes)


def test_inputs_that_do_not_fit_are_refused() -> None:
    ready = plan()
    rows = np.ones((2, 5, 4), np.float32)
    flags = np.ones(5, np.bool_)
    keys, values = ready.run(rows, rows, flags, flags)
    assert keys.shape == values.shape == (2, 2, 5, 3)
    none = ready.run(rows, rows, ~flags, flags)
    assert none[0].shape == (2, 2, 0, 3)
    empty = np.ones((2, 0, 4), np.float32)
    assert ready.run(empty, empty, flags[:0], flags[:0])[1].shape == (2, 2, 0, 3)
    with pytest.raises(ValueError, match="depth flags"):
        ready.run(rows, rows, flags)
    for bad in (rows[:1], rows[:, :4], rows[:, :, :3], rows[0]):
        with pytest.raises(ValueError, match="must have shape"):
            ready.run(bad, rows, flags, flags)
    with pytest.raises(ValueError, match="contiguous"):
        ready.run(np.ones((2, 5, 8), np.float32)[:, :, ::2], rows, flags, flags)
    with pytest.raises(ValueError, match="depth must have shape"):
        ready.run(rows, rows, flags, flags[:4])
    wrong: Any = rows.astype(np.float64)
    with pytest.raises(TypeError):
        ready.run(wrong, rows, flags, flags)
