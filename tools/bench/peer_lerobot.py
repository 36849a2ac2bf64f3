"""Time this project's MolmoAct2 beside LeRobot's own, with the same weights and inputs, in one process.

    tools/bench/setup_peer.sh                                       # once: the peer's folder and an environment
    build/peer/env/bin/python tools/bench/peer_lerobot.py           # tiny-base and tiny-think, from images to actions
    build/peer/env/bin/python tools/bench/peer_lerobot.py --shapes tests/reference/shapes/molmoact2-so101.json \\
        --device cuda --dtype bfloat16                              # random weights at release shapes

Agreement comes first: prompt ids, pixels, depth codes exactly, actions within a tolerance. Where it fails, the
differences are printed, nothing is timed and the exit status is 1. Then the sides take turns, each round in another
order: ours, the peer's eager mode and, on CUDA, the peer with its CUDA graphs. A checkpoint is timed from frames to
actions with each side's own processor, and again from the same processed tensors; `--shapes` has no tokenizer, so
that both sides are fed tensors.

Where it runs: in the environment of `setup_peer.sh`, an overlay on an interpreter that has torch and this project.
On a machine without a registry, carry the wheels of lerobot 0.6.1 (pure Python, 1.7 MB) and of transformers 5.5,
tokenizers and huggingface_hub with what they require (about 25 MB in all, matching that machine's Python), and pass
`--no-index --find-links DIRECTORY` to `setup_peer.sh`. `--shapes` needs no torchvision, einops, requests or scipy.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from agreement import DisagreementError
from lerobot_model import Peer, find_folder, fixed_processor, folder_digest, lerobot_version, load_processor
from paired_calls import (
    DepthCaches,
    Observation,
    Pair,
    alternate,
    compare_calls,
    compare_processors,
    median_stages,
    network_inputs,
)
from predict import inputs as case_inputs
from predict import summary
from random_network import (
    NORM_TAG,
    RandomWeights,
    complete_config,
    norm_stats,
    prepared_processor,
    random_observation,
    with_changed_cells,
)

from molmoact2_edge import Policy, build_config
from molmoact2_edge.checkpoint import Checkpoint, ModelConfig
from molmoact2_edge.devices import resolve_device, resolve_dtype
from molmoact2_edge.machine import machine_facts
from molmoact2_edge.model.layout import Part, random_source
from molmoact2_edge.model.molmoact2 import MolmoAct2

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "reference"
# Which cases of a checkpoint are timed; agreement is checked on all of them.
TIMED_CASES = {"tiny-base": ("two_cameras",), "tiny-think": ("frame_0", "frame_2")}
# The peer's bf16 actions are 0.6 to 1.5 % of their range away from its own float32 on the reference cases.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}
STAGE_CALLS = 10


def observations(checkpoint: Path, think: bool) -> dict[str, Observation]:
    """Return a reference checkpoint's cases by name; numbered frames continue from the one before."""
    found: dict[str, Observation] = {}
    for path in sorted((checkpoint / "cases").glob("*.npz")):
        arguments = case_inputs(path)
        del arguments["noise"]
        numbered = re.fullmatch(r"(.*_)(\d+)", path.stem)
        before = found.get(f"{numbered[1]}{int(numbered[2]) - 1}") if numbered and think else None
        found[path.stem] = Observation(path.stem, think=think, previous=before, **arguments)
    return found


def checkpoint_runs(path: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Compare and time a checkpoint: from frames to actions, then both networks on the same tensors."""
    device = resolve_device(arguments.device)
    dtype = resolve_dtype(arguments.dtype, device)
    checkpoint = Checkpoint.open(path)
    config = json.loads((path / "config.json").read_text())
    stats = json.loads((path / checkpoint.config.norm_stats_filename).read_text())
    folder = find_folder(arguments.peer)
    pair = Pair(
        path.name,
        Policy.from_pretrained(path, device=str(device), dtype=str(dtype).removeprefix("torch.")),
        Peer(
            folder, config, stats, lambda name, _: checkpoint.weights.read(name), dtype=dtype, device=device
        ),
        load_processor(folder, path),
        arguments.seed,
    )
    calls = observations(path, checkpoint.config.enable_depth_reasoning)
    timed = arguments.case or TIMED_CASES.get(path.name) or list(calls)[:1]
    unknown = sorted(set(timed) - set(calls))
    if unknown:
        raise SystemExit(f"{path}: no case {', '.join(unknown)}; there are {', '.join(calls)}")
    first = first_calls(pair, calls[timed[0]])
    tolerance = arguments.tolerance or TOLERANCE[dtype]
    prepared = {name: compare_processors(pair, call) for name, call in calls.items()}
    for call in calls.values():
        compare_calls(pair, call, cuda_graph=False, tolerance=tolerance)
    for name in timed:
        whole = measure(pair, calls[name], arguments)
        yield {"level": "frames to actions", "first_call_ms": first, **whole}
        tensors = pair.on_tensors(checkpoint.processor_config, checkpoint.norm_stats, prepared[name])
        alone = Observation(**{**vars(calls[name]), "previous": None})
        yield {"level": "processed tensors to actions", **measure(tensors, alone, arguments)}


def random_pair(values: dict[str, Any], arguments: argparse.Namespace) -> tuple[Pair, Observation]:
    """Return two networks of the given shapes that share random weights, and a prepared observation for both."""
    device = resolve_device(arguments.device)
    dtype = resolve_dtype(arguments.dtype, device)
    think = arguments.think
    completed = complete_config(values, layers=arguments.layers, think=think)
    config = ModelConfig.from_json(completed)
    weights = RandomWeights.of(config, seed=arguments.seed, device=device)

    def fill(part: Part, rows: torch.Tensor) -> None:
        rows.copy_(weights(part.name, part.shape))

    source = random_source(fill, dtype=dtype, device=device)
    stats = norm_stats(arguments.action_dim, arguments.action_dim, config.max_action_horizon)
    prepared = random_observation(
        config, cameras=arguments.cameras, text_tokens=arguments.text_tokens, think=think, seed=arguments.seed
    )
    model = MolmoAct2(source, config, device)
    if device.type == "cpu" and dtype == torch.float32:
        # As for a checkpoint that is loaded.
        assert model.expert is not None
        model.expert.compile()
        model.compile_context()
    pair = Pair(
        arguments.shapes.stem,
        Policy(model, prepared_processor(config, prepared, arguments.action_dim)),
        Peer(find_folder(arguments.peer), completed, stats, weights, dtype=dtype, device=device),
        fixed_processor(network_inputs(prepared.images, prepared.prompt)),
        arguments.seed,
    )
    name = f"{arguments.cameras} cameras, {len(prepared.prompt.input_ids)} tokens"
    call = Observation(
        name,
        prepared.frames,
        "",
        np.zeros(arguments.action_dim, dtype=np.float32),
        NORM_TAG,
        arguments.num_steps or config.flow_matching_num_steps,
        think,
    )
    if think and arguments.changed is not None:
        before, after = with_changed_cells(
            prepared.frames[0], arguments.changed, config.num_depth_codes, arguments.seed
        )
        earlier = Observation(**{**vars(call), "images": [before, *prepared.frames[1:]]})
        images = [after, *prepared.frames[1:]]
        name = f"{name}, {arguments.changed} changed cells"
        call = Observation(**{**vars(call), "name": name, "images": images, "previous": earlier})
    return pair, call


def shapes_runs(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Compare and time networks with random weights."""
    pair, call = random_pair(json.loads(arguments.shapes.read_text()), arguments)
    first = first_calls(pair, call.previous or call)
    yield {
        "level": "processed tensors to actions",
        "first_call_ms": first,
        **measure(pair, call, arguments),
    }


def first_calls(pair: Pair, call: Observation) -> dict[str, float]:
    """Return the milliseconds of each side's first call in this process, graph capture and warm-up included."""
    alone = Observation(**{**vars(call), "previous": None})
    milliseconds = {}
    for name, run in pair.sides(alone, DepthCaches()).items():
        began = time.perf_counter()
        run()
        pair.peer.synchronize()
        milliseconds[name] = 1e3 * (time.perf_counter() - began)
    return milliseconds


def measure(pair: Pair, call: Observation, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare both answers to one observation, then time both sides in turns and look into their stages."""
    tolerance = arguments.tolerance or TOLERANCE[pair.peer.dtype]
    caches, agreement = compare_calls(pair, call, cuda_graph=False, tolerance=tolerance)
    if pair.peer.device.type == "cuda":
        caches, graph = compare_calls(pair, call, cuda_graph=True, tolerance=tolerance)
        agreement["with_cuda_graph"] = graph
    sides = pair.sides(call, caches)
    alternate(sides, arguments.warm_up, pair.peer.synchronize)
    timed = {
        name: summary(seconds)
        for name, seconds in alternate(sides, arguments.repeat, pair.peer.synchronize).items()
    }
    noise = pair.noise(call)
    our_stages = [pair.run_ours(call, caches.ours, noise).timing for _ in range(STAGE_CALLS)]
    peer_stages = []
    for _ in range(STAGE_CALLS):
        with pair.peer.stage_clock() as stages:
            sides["peer_eager"]()
        peer_stages.append(dict(stages))
    median = {name: side["median_ms"] for name, side in timed.items()}
    return {
        "model": pair.name,
        "case": call.name,
        "think": call.think,
        "device": str(pair.peer.device),
        "dtype": str(pair.peer.dtype).removeprefix("torch."),
        "our_backends": pair.ours.backends,
        "peer_attention": pair.peer.attention(),
        "agreement": agreement,
        "sides": timed,
        "ratio": {name: median[name] / median["ours"] for name in median if name != "ours"},
        "stages_ms": {"ours": median_stages(our_stages), "peer_eager": median_stages(peer_stages)},
    }


def print_result(result: dict[str, Any]) -> None:
    """Print one comparison in a few lines."""
    print(f"{result['model']}, {result['case']}, {result['level']}")
    apart = result["agreement"]["actions_largest_difference_of_range"]
    print(f"  agree: actions within {apart:.1e} of their range")
    for name, side in result["sides"].items():
        first = result.get("first_call_ms", {}).get(name)
        print(
            f"  {name:16}median {side['median_ms']:9.2f} ms, p95 {side['p95_ms']:9.2f}, max {side['max_ms']:9.2f}"
            + (f", first call {first:9.1f}" if first is not None else "")
            + (f", {result['ratio'][name]:6.2f} x ours" if name in result["ratio"] else "")
        )
    for name, stages in result["stages_ms"].items():
        parts = ", ".join(f"{stage} {ms:.2f}" for stage, ms in stages.items() if ms)
        print(f"  {name} stages: {parts}")


def device_facts(device: torch.device) -> dict[str, Any]:
    """Return what `machine_facts` leaves out: the accelerator."""
    if device.type != "cuda":
        return {"type": device.type}
    properties = torch.cuda.get_device_properties(device)
    return {
        "type": "cuda",
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
    }


def peer_facts(folder: Path) -> dict[str, Any]:
    """Return what was compared with: LeRobot's version, a digest of the code, the packages that it ran on."""
    installed = {distribution.name: distribution.version for distribution in metadata.distributions()}
    packages = {name: installed.get(name) for name in ("transformers", "torchvision", "einops")}
    return {"lerobot": lerobot_version(folder), "folder_sha256": folder_digest(folder), "packages": packages}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, default=ROOT / "build" / "peer", help="folder of setup_peer.sh")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--checkpoint", type=Path, action="append", help="default: tiny-base and tiny-think")
    what.add_argument("--shapes", type=Path, help="a config.json: random weights of its shapes")
    parser.add_argument("--case", action="append", help="checkpoint: case to time, without its ending")
    parser.add_argument("--layers", type=int, help="shapes: cut decoder and expert to this many layers")
    parser.add_argument("--cameras", type=int, default=2, help="shapes: camera frames")
    parser.add_argument(
        "--text-tokens", type=int, default=94, help="shapes: prompt tokens beside the images'"
    )
    parser.add_argument("--action-dim", type=int, default=6, help="shapes: joints of the embodiment")
    parser.add_argument("--num-steps", type=int, help="shapes: flow steps; default: the file's")
    parser.add_argument("--think", action="store_true", help="shapes: predict a depth map first")
    parser.add_argument("--changed", type=int, help="shapes: changed depth cells; default: no frame before")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16 or auto (bfloat16 on CUDA)")
    parser.add_argument("--tolerance", type=float, help="actions, of their range; default: by number type")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=50, help="timed rounds")
    parser.add_argument("--warm-up", type=int, default=5, help="rounds before them")
    parser.add_argument("--threads", type=int, help="torch threads; default: torch's own choice")
    parser.add_argument("--out", type=Path, default=Path("peer_lerobot.json"))
    arguments = parser.parse_args(argv)
    if arguments.shapes is None:
        for option in ("layers", "num_steps", "changed"):
            if getattr(arguments, option) is not None:
                parser.error(
                    f"--{option.replace('_', '-')} needs --shapes; a checkpoint's cases say their own"
                )
        if arguments.think:
            parser.error("--think needs --shapes; a checkpoint thinks where its config.json enables it")
    elif arguments.case:
        parser.error("--case needs a checkpoint; --shapes makes its own observation")
    if arguments.changed is not None and not arguments.think:
        parser.error("--changed needs --think")
    if arguments.repeat < 1 or arguments.warm_up < 0:
        parser.error("--repeat must be at least 1 and --warm-up at least 0")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    results: list[dict[str, Any]] = []
    try:
        if arguments.shapes is not None:
            runs = [shapes_runs(arguments)]
        else:
            paths = arguments.checkpoint or [REFERENCE / name for name in TIMED_CASES]
            runs = [checkpoint_runs(path, arguments) for path in paths]
        for run in runs:
            for result in run:
                print_result(result)
                results.append(result)
    except DisagreementError as error:
        print(error, file=sys.stderr)
        return 1
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    for key in ("peer", "out", "checkpoint", "shapes"):
        settings.pop(key)
    document = {
        "benchmark": "peer_lerobot",
        "machine": machine_facts(),
        "device": device_facts(device),
        "build": build_config(),
        "peer": peer_facts(find_folder(arguments.peer)),
        "settings": {**settings, "threads": torch.get_num_threads()},
        "results": results,
    }
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
