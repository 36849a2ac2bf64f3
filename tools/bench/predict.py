"""Time `Policy.predict` on checkpoints of the reference vectors, stage by stage, and write JSON.

python tools/bench/predict.py                      # tiny-base and tiny-think, first camera pair of each
python tools/bench/predict.py --checkpoint tests/reference/tiny-base --repeat 100 --out result.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from molmoact2_edge import Policy, build_config
from molmoact2_edge.machine import machine_facts

REFERENCE = Path(__file__).parents[2] / "tests" / "reference"
# Said of the public implementation on two cores in float32; tools/bench/peer_lerobot.py measures it side by side.
PUBLIC_MS = {"tiny-base": 89.0, "tiny-think": 300.0}
CASES = {"tiny-base": "two_cameras", "tiny-think": "frame_0"}


def inputs(case: Path) -> dict[str, Any]:
    """The arguments of `predict` that a reference case stands for."""
    with np.load(case) as arrays:
        images = [arrays[f"image_{i}"] for i in range(len(arrays["image_num_crops"]))]
        return {
            "images": images,
            "task": str(arrays["task"].item()),
            "state": arrays["state"],
            "norm_tag": str(arrays["norm_tag"].item()),
            "noise": arrays["noise"],
            "num_steps": int(arrays["num_steps"]),
        }


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, spread and extremes in milliseconds."""
    ordered = sorted(1e3 * s for s in seconds)
    return {
        "median_ms": statistics.median(ordered),
        "p95_ms": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "p99_ms": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "min_ms": ordered[0],
        "max_ms": ordered[-1],
    }


def measure(checkpoint: Path, case: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time repeated calls on one case; the first call is reported apart."""
    policy = Policy.from_pretrained(checkpoint, device=arguments.device, dtype=arguments.dtype)
    call = inputs(checkpoint / "cases" / f"{case}.npz")
    think = policy.config.enable_depth_reasoning
    first = policy.predict(**call, think=think).timing["total"]
    for _ in range(arguments.warm_up):
        policy.predict(**call, think=think)
    timings = [policy.predict(**call, think=think).timing for _ in range(arguments.repeat)]
    stages = {stage: summary([timing[stage] for timing in timings]) for stage in timings[0]}
    public = PUBLIC_MS.get(checkpoint.name)
    result: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "case": case,
        "think": think,
        "device": str(policy.device),
        "dtype": str(policy.dtype).removeprefix("torch."),
        "repeat": arguments.repeat,
        "first_call_ms": 1e3 * first,
        "stages": stages,
    }
    if public is not None:
        result["public_implementation_ms_not_measured_here"] = public
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, action="append", help="default: tiny-base and tiny-think")
    parser.add_argument("--case", help="file name in the checkpoint's cases/, without its ending")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch threads; default: torch's own choice")
    parser.add_argument("--out", type=Path, default=Path("predict.json"))
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    checkpoints = arguments.checkpoint or [REFERENCE / name for name in CASES]
    results = []
    for checkpoint in checkpoints:
        result = measure(checkpoint, arguments.case or CASES.get(checkpoint.name, "one_camera"), arguments)
        results.append(result)
        stages = result["stages"]
        parts = ", ".join(f"{name} {stages[name]['median_ms']:.2f}" for name in stages if name != "total")
        total = stages["total"]
        name = f"{result['checkpoint']} ({result['case']})"
        print(f"{name}: median {total['median_ms']:.2f} ms, p95 {total['p95_ms']:.2f} ms")
        print(f"  {parts}; first call {result['first_call_ms']:.1f} ms")
        if checkpoint.name in PUBLIC_MS:
            ratio = PUBLIC_MS[checkpoint.name] / total["median_ms"]
            print(
                f"  the public implementation is said to need {PUBLIC_MS[checkpoint.name]:.0f} ms: ratio {ratio:.1f}"
            )
    document = {
        "benchmark": "predict",
        "machine": machine_facts(),
        "build": build_config(),
        "settings": {"threads": torch.get_num_threads(), "warm_up": arguments.warm_up},
        "results": results,
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
