"""Time `Policy.predict` on random weights at release shapes, and write JSON: what a GPU is measured with.

python tools/bench/predict_shapes.py --device cuda                          # the released SO-101 shapes
python tools/bench/predict_shapes.py --layers 2 --repeat 3 --dtype float32  # whether it runs at all, on a CPU

Whole calls with two and three cameras, calls that reuse the images, and Think with 0 to 100 changed cells, adaptive
and exact. At a changed cell the frame before had another code too, which is the case that costs the most forwards. On
CUDA the recorded call (graph), the same kernels one by one (static) and plain torch (eager) take turns on the same
weights.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from predict import summary
from random_network import NORM_TAG, RandomNetwork, prepared_processor, random_network, random_observation
from random_network import with_changed_cells as changed_frames

from molmoact2_edge import DepthCache, Policy, Prediction, build_config
from molmoact2_edge.devices import resolve_device, resolve_dtype
from molmoact2_edge.machine import machine_facts
from molmoact2_edge.policy import ExecutionMode

SHAPES = Path(__file__).parents[2] / "tests" / "reference" / "shapes" / "molmoact2-so101.json"
# Two recorded or unrecorded calls are the same kernels; plain torch sums in another order. Of the largest action.
SAME = {torch.float32: 1e-3, torch.bfloat16: 5e-2}

Call = Callable[[Policy], Prediction]


def executions(device: torch.device) -> tuple[ExecutionMode, ...]:
    return ("graph", "static", "eager") if device.type == "cuda" else ("static", "eager")


def options(arguments: argparse.Namespace, horizon: int, columns: int) -> dict[str, Any]:
    noise = np.random.default_rng(arguments.seed).normal(size=(horizon, columns)).astype(np.float32)
    return {
        "task": "",
        "state": np.zeros(arguments.action_dim, np.float32),
        "norm_tag": NORM_TAG,
        "noise": noise,
        "num_steps": arguments.num_steps,
    }


def timed(
    network: RandomNetwork, cases: dict[str, Call], arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Compare the ways to run each case, then let them take turns."""
    device = network.model.device
    policies = {name: Policy(network.model, network.processor, execution=name) for name in executions(device)}
    for case, call in cases.items():
        first: dict[ExecutionMode, float] = {}
        found: dict[ExecutionMode, Prediction] = {}
        for name, policy in policies.items():
            begin = time.perf_counter()
            found[name] = call(policy)
            first[name] = 1e3 * (time.perf_counter() - begin)
        agree(case, found, SAME[network.model.dtype])
        seconds: dict[ExecutionMode, list[float]] = {name: [] for name in policies}
        stages: dict[ExecutionMode, list[dict[str, float]]] = {name: [] for name in policies}
        for turn in range(arguments.warm_up + arguments.repeat):
            names = list(policies)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                timing = call(policies[name]).timing
                if turn >= arguments.warm_up:
                    seconds[name].append(timing["total"])
                    stages[name].append(timing)
        yield {
            "case": case,
            "tokens": len(network.prepared.prompt.input_ids),
            "depth_forwards": found["static"].depth_forwards,
            "backends": {name: policy.backends for name, policy in policies.items()},
            "first_call_ms": first,
            "total": {name: summary(values) for name, values in seconds.items()},
            "stages": {
                name: {stage: summary([one[stage] for one in values]) for stage in values[0]}
                for name, values in stages.items()
            },
        }


def agree(case: str, found: Mapping[ExecutionMode, Prediction], tolerance: float) -> None:
    """Stop where a way to run a case gives other depth tokens or other actions than plain torch."""
    expected = found["eager"]
    scale = float(np.abs(expected.actions).max())
    for name, prediction in found.items():
        apart = float(np.abs(prediction.actions - expected.actions).max()) / scale
        if prediction.token_ids != expected.token_ids or not apart <= tolerance:
            raise SystemExit(
                f"{case}: {name} differs from eager by {apart:.1e} of the largest action, {tolerance:.0e} is allowed, "
                f"and its depth tokens are {'the same' if prediction.token_ids == expected.token_ids else 'others'}; "
                "nothing was timed"
            )


def plain_cases(network: RandomNetwork, common: dict[str, Any]) -> dict[str, Call]:
    frames = network.prepared.frames
    cameras = f"{len(frames)} cameras"

    def refresh(policy: Policy) -> Prediction:
        # The cases run in this order on each policy, so that there is something to reuse.
        return policy.predict(None, **common, reuse_images=True)

    return {
        f"{cameras}, whole call": lambda policy: policy.predict(frames, **common),
        f"{cameras}, state refresh": refresh,
    }


def think_cases(
    network: RandomNetwork, common: dict[str, Any], counts: list[int], seed: int
) -> dict[str, Call]:
    config = network.model.config
    truth = Policy(network.model, network.processor, execution="static").predict(
        network.prepared.frames, **common, think=True
    )
    assert truth.depth_codes is not None
    cases: dict[str, Call] = {}
    for changed in counts:
        before, after = changed_frames(network.prepared.frames[0], changed, config.num_depth_codes, seed)
        images = [after, *network.prepared.frames[1:]]
        codes = truth.depth_codes.copy()
        cells = np.linspace(0, config.num_depth_codes - 1, changed).round().astype(int)
        codes[cells] = (codes[cells] + 1) % config.num_depth_tokens
        cache = DepthCache(before, codes)
        for think in ("adaptive", "exact"):

            def call(
                policy: Policy,
                images: list[Any] = images,
                think: Any = think,
                cache: DepthCache = cache,
            ) -> Prediction:
                return policy.predict(images, **common, think=think, depth_cache=cache)

            cases[f"think {think}, {changed} changed cells"] = call
    return cases


def runs(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    device = resolve_device(arguments.device)
    dtype = resolve_dtype(arguments.dtype, device)
    values = json.loads(arguments.shapes.read_text())
    for think in (False, True):
        network = random_network(
            values,
            device=device,
            dtype=dtype,
            cameras=2,
            text_tokens=arguments.text_tokens,
            think=think,
            action_dim=arguments.action_dim,
            seed=arguments.seed,
            layers=arguments.layers,
        )
        config = network.model.config
        common = options(arguments, config.max_action_horizon, config.max_action_dim)
        if think:
            yield from timed(
                network, think_cases(network, common, arguments.changed, arguments.seed), arguments
            )
        else:
            for cameras in (2, 3):
                prepared = random_observation(
                    config,
                    cameras=cameras,
                    text_tokens=arguments.text_tokens,
                    think=False,
                    seed=arguments.seed,
                )
                processor = prepared_processor(config, prepared, arguments.action_dim)
                seen = RandomNetwork(network.model, prepared, processor)
                yield from timed(seen, plain_cases(seen, common), arguments)
        del network
        gc.collect()


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", type=Path, default=SHAPES, help="a config.json")
    parser.add_argument("--layers", type=int, help="cut decoder and expert to this many layers")
    parser.add_argument("--text-tokens", type=int, default=94, help="prompt tokens beside the images'")
    parser.add_argument("--action-dim", type=int, default=6, help="joints of the embodiment")
    parser.add_argument("--num-steps", type=int, help="flow steps; default: the file's")
    parser.add_argument(
        "--changed", type=int, nargs="*", default=[0, 10, 25, 50, 100], help="changed depth cells"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16 or auto (bfloat16 on CUDA)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("predict-shapes.json"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    results = []
    for result in runs(arguments):
        results.append(result)
        print(f"{result['case']} ({result['tokens']} tokens, depth forwards: {result['depth_forwards']})")
        for name, total in result["total"].items():
            stages = result["stages"][name]
            parts = ", ".join(
                f"{stage} {values['median_ms']:.2f}"
                for stage, values in stages.items()
                if stage != "total" and values["median_ms"] > 0
            )
            print(f"  {name:7}p50 {total['median_ms']:8.2f} ms, p99 {total['p99_ms']:8.2f}: {parts}")
    settings = {
        key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()
    }
    settings.pop("out")
    settings["shapes"] = arguments.shapes.name
    document = {
        "benchmark": "predict_shapes",
        "machine": machine_facts(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "build": build_config(),
        "settings": settings,
        "results": results,
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
