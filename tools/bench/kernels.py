"""Time each kernel against a plain torch version of the same work and against the memory floor; write JSON.

python tools/bench/kernels.py                                    # all comparisons
python tools/bench/kernels.py --only flow --out docs/benchmarks/kernels-cpu.json
python tools/bench/kernels.py --only flow-tiny --pairs 200

Both sides run in this process on the same inputs, taking turns, after a check that they agree; a ratio is the
median over pairs, so that what slows both of them down cancels. On a machine that does other work as well, look at
the ratio and at the minima, not at the medians. The floor is the number of bytes that must be read, over the copy
bandwidth that was measured in the same run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from molmoact2_edge import build_config
from molmoact2_edge._core import kernels
from molmoact2_edge.checkpoint.config import ModelConfig
from molmoact2_edge.machine import machine_facts
from molmoact2_edge.model.expert import ActionExpert, Context, Modulation
from molmoact2_edge.model.layout import Part, random_source

REFERENCE = Path(__file__).parents[2] / "tests" / "reference"
COPY_BYTES = 256 << 20
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Comparison:
    """One kernel on one set of shapes.

    ``ours`` and ``plain`` return what they computed, for the check before the timing; ``bytes_read`` is what no
    implementation can avoid reading from memory, or None where it all fits the caches; ``flops`` counts
    multiplications and additions of the matrix products.
    """

    name: str
    settings: dict[str, Any]
    ours: Callable[[], torch.Tensor]
    plain: Callable[[], torch.Tensor]
    tolerance: float
    bytes_read: int | None
    flops: int


# Comparisons: one generator per kernel, so that large inputs exist only while they are measured ----------------


def flow() -> Iterator[Comparison]:
    """The Euler loop of the action expert, float32: tiny-base, the width of a small policy, release shapes."""
    tiny = ModelConfig.from_json(json.loads((REFERENCE / "tiny-base" / "config.json").read_text()))
    release = ModelConfig.from_json(json.loads((REFERENCE / "shapes" / "molmoact2-so101.json").read_text()))
    small = dataclasses.replace(
        tiny,
        action_expert_config=dataclasses.replace(
            tiny.action_expert_config, hidden_size=128, num_heads=4, num_layers=3
        ),
    )
    yield _flow("flow-tiny", tiny, horizon=12, tokens=90, steps=10)
    yield _flow("flow-small", small, horizon=10, tokens=120, steps=10)
    yield _flow("flow-release", release, horizon=30, tokens=490, steps=10)


def _flow(name: str, config: ModelConfig, *, horizon: int, tokens: int, steps: int) -> Comparison:
    settings = config.action_expert_config
    generator = torch.Generator().manual_seed(0)

    def fill(part: Part, rows: torch.Tensor) -> None:
        scale = part.shape[1] ** -0.5 if len(part.shape) > 1 else 0.1
        rows.normal_(0.0, scale, generator=generator)

    expert = ActionExpert(
        random_source(fill, dtype=torch.float32, device=CPU),
        settings,
        action_dim=config.max_action_dim,
        context_width=64,
        device=CPU,
    )
    layers, width = settings.num_layers, settings.hidden_size
    shape = (layers, 1, tokens, 64)
    context = expert.context(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))
    noise = torch.randn(1, horizon, config.max_action_dim, generator=generator)
    schedule = expert.schedule(steps)
    expert.compile()
    weights = layers * (6 * width**2 + 3 * width * settings.intermediate_size)
    attention = 4 * layers * horizon * width * (horizon + tokens)

    def plain() -> torch.Tensor:
        return _plain_flow(expert, noise, context, steps)

    per_step = 4 * (weights + 2 * layers * tokens * width)
    return Comparison(
        name,
        {
            "width": width,
            "layers": layers,
            "heads": settings.num_heads,
            "inner": settings.intermediate_size,
            "horizon": horizon,
            "tokens": tokens,
            "steps": steps,
            "backend": expert.flow_backend,
        },
        lambda: expert.integrate(noise, context, steps),
        plain,
        tolerance=1e-3,
        # A last-level cache holds a few megabytes of weights from one step to the next.
        bytes_read=steps * per_step + schedule.blocks.nbytes if per_step > 64 << 20 else None,
        flops=steps * (2 * horizon * weights + attention),
    )


def _plain_flow(expert: ActionExpert, noise: torch.Tensor, context: Context, steps: int) -> torch.Tensor:
    schedule = expert.schedule(steps)
    x = noise.clone()
    for step in range(steps):
        at_step = Modulation(schedule.blocks[step : step + 1], schedule.final[step : step + 1])
        x.add_(expert.velocity(x, at_step, context), alpha=1.0 / steps)
    return x


def vision_input() -> Iterator[Comparison]:
    """Camera frames to the patches of one 378 x 378 crop."""
    for height, width in ((480, 640), (720, 1280), (180, 320)):
        yield _vision_input(height, width, side=378, patch=14)


def _vision_input(height: int, width: int, *, side: int, patch: int) -> Comparison:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rows = side // patch
    patches = np.empty((rows * rows, patch * patch * 3), np.float32)

    def ours() -> torch.Tensor:
        kernels.resize_to_patches(
            frame, size=(side, side), origin=(0, 0), grid=(rows, rows), patch=patch, patches=patches
        )
        return torch.from_numpy(patches)

    def plain() -> torch.Tensor:
        pixels = torch.from_numpy(frame).to(torch.float32).permute(2, 0, 1)[None]
        resized = functional.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
        scaled = resized[0].permute(1, 2, 0).round_().div_(255).mul_(2).sub_(1)
        tiles = scaled.reshape(rows, patch, rows, patch, 3).transpose(1, 2)
        return tiles.reshape(rows * rows, patch * patch * 3)

    return Comparison(
        f"vision_input-{height}x{width}",
        {"height": height, "width": width, "side": side, "patch": patch},
        ours,
        plain,
        tolerance=2.01 / 255,  # with one thread, torch rounds some levels next to a half the other way
        bytes_read=None,
        flops=0,
    )


KERNELS: dict[str, Callable[[], Iterator[Comparison]]] = {"flow": flow, "vision_input": vision_input}


# Measuring -----------------------------------------------------------------------------------------------------


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def copy_bandwidth() -> float:
    """Bytes per second, read and written, of the fastest of a few large copies."""
    source = torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * COPY_BYTES / min(seconds(lambda: target.copy_(source)) for _ in range(5))


def summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(1e3 * value for value in times)
    return {
        "min_ms": ordered[0],
        "median_ms": statistics.median(ordered),
        "p90_ms": ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))],
        "max_ms": ordered[-1],
    }


def measure(comparison: Comparison, pairs: int, bandwidth: float) -> dict[str, Any]:
    """Check agreement, then time both sides in turn.

    Raises:
        SystemExit: The two sides do not agree.
    """
    with torch.inference_mode():
        expected, found = comparison.plain(), comparison.ours()
        difference = float((found - expected).abs().max())
        if not difference <= comparison.tolerance:
            raise SystemExit(
                f"{comparison.name}: results differ by {difference:.2e}, above {comparison.tolerance:.0e}"
            )
        ours: list[float] = []
        plain: list[float] = []
        for pair in range(pairs):
            order = [(comparison.ours, ours), (comparison.plain, plain)]
            for call, times in order if pair % 2 == 0 else reversed(order):
                times.append(seconds(call))
    floor = None if comparison.bytes_read is None else 1e3 * comparison.bytes_read / bandwidth
    return {
        "name": comparison.name,
        "settings": comparison.settings,
        "pairs": pairs,
        "largest_difference": difference,
        "ours": summary(ours),
        "plain_torch": summary(plain),
        "ratio_median_of_pairs": statistics.median(p / o for p, o in zip(plain, ours, strict=True)),
        "ratio_of_minima": min(plain) / min(ours),
        "ours_gflop_per_s": comparison.flops / min(ours) / 1e9,
        "plain_gflop_per_s": comparison.flops / min(plain) / 1e9,
        "floor_ms": floor,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="measure only comparisons whose name begins with this")
    parser.add_argument("--pairs", type=int, help="default: as many as fit in --seconds, 3 to 200")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="about how long to measure each comparison"
    )
    parser.add_argument("--threads", type=int, help="for both sides; default: torch's own choice")
    parser.add_argument("--machine", default="", help="what the machine is, in a few words, for the file")
    parser.add_argument("--out", type=Path, default=Path("kernels.json"))
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    bandwidth = copy_bandwidth()
    load_before = os.getloadavg()[0]
    print(f"copy bandwidth {bandwidth / 1e9:.1f} GB/s, load {load_before:.1f}")
    results = []
    for kernel, comparisons in KERNELS.items():
        if not kernel.startswith(arguments.only) and not arguments.only.startswith(kernel):
            continue
        for comparison in comparisons():
            if not comparison.name.startswith(arguments.only):
                continue
            with torch.inference_mode():
                once = seconds(comparison.ours) + seconds(comparison.plain)
            pairs = arguments.pairs or max(3, min(200, int(arguments.seconds / once)))
            result = measure(comparison, pairs, bandwidth)
            results.append(result)
            floor = result["floor_ms"]
            print(
                f"{result['name']}: ours {result['ours']['median_ms']:.2f} ms (min {result['ours']['min_ms']:.2f}), "
                f"torch {result['plain_torch']['median_ms']:.2f} ms (min {result['plain_torch']['min_ms']:.2f}), "
                f"ratio {result['ratio_median_of_pairs']:.2f}"
                + ("" if floor is None else f", floor {floor:.0f} ms")
            )
    document = {
        "benchmark": "kernels",
        "machine_class": arguments.machine,
        "machine": machine_facts(),
        "build": build_config(),
        "settings": {"threads": torch.get_num_threads()},
        "load_average": {"before": load_before, "after": os.getloadavg()[0]},
        "copy_gigabytes_per_s": bandwidth / 1e9,
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
