"""Loading holds little more than the weights that are kept, also when it converts float32 files to bfloat16."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.model.layout import checkpoint_tensors, random_source
from molmoact2_edge.model.molmoact2 import MolmoAct2

# Loads in a fresh process; prints the peak of resident memory above what was there before, and the weights' own size.
PROBE = """
import json, resource, sys
from pathlib import Path
import torch
from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.checkpoint.weights import Weights
from molmoact2_edge.model.molmoact2 import MolmoAct2

def resident(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024

directory = Path(sys.argv[1])
config = ModelConfig.from_json(json.loads((directory / "config.json").read_text()))
torch.zeros(1000).to(torch.bfloat16)
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS:")
model = MolmoAct2.load(
    config, Weights.open(directory), dtype=getattr(torch, sys.argv[2]), device=torch.device("cpu")
)
kept = sum(parameter.element_size() * parameter.nelement() for parameter in model.parameters)
print(json.dumps({"peak": resident("VmHWM:") - before, "kept": kept}))
"""


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory: pytest.TempPathFactory, reference: Path) -> Path:
    """About 400 MB in float32, so that interpreter noise is small beside it."""
    directory = tmp_path_factory.mktemp("large")
    config = json.loads((reference / "tiny-base" / "config.json").read_text())
    config["text_config"].update(hidden_size=1024, intermediate_size=4096)
    config["adapter_config"]["text_hidden_size"] = 1024
    config["text_config"]["vocab_size"] = 20_000
    (directory / "config.json").write_text(json.dumps(config))
    source = random_source(
        lambda part, rows: rows.fill_(0.01), dtype=torch.float32, device=torch.device("cpu")
    )
    MolmoAct2(source, ModelConfig.from_json(config), torch.device("cpu"))
    save_file(checkpoint_tensors(source.parameters), directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_peaks_at_a_quarter_above_the_weights(large_checkpoint: Path, dtype: str) -> None:
    output = subprocess.run(
        [sys.executable, "-c", PROBE, str(large_checkpoint), dtype],
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(output.stdout)
    assert found["kept"] > 150e6
    assert found["peak"] <= 1.25 * found["kept"]
