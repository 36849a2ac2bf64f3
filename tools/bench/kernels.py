"""Time each kernel against the plain version of the same work and against the memory floor; write JSON.

python tools/bench/kernels.py                                    # all comparisons on the CPU
python tools/bench/kernels.py --device cuda                      # those on a GPU, from CUDA events
python tools/bench/kernels.py --only flow --out docs/benchmarks/kernels-cpu.json
python tools/bench/kernels.py --only flow-tiny --pairs 200

Both sides run in this process on the same inputs, taking turns, after a check that they agree; a ratio is the
median over pairs, so that what slows both of them down cancels. On a machine that does other work as well, look at
the ratio and at the minima, not at the medians. The floor is the number of bytes that must be read and written, over
the copy bandwidth that was measured in the same run. On CUDA each side is recorded as a graph, so that what is timed is
the device's work and not Python's. What is compared: tools/bench/kernel_cases/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from kernel_cases import context, decoder_ops, depth_diff, flow, openfast, vision_input
from kernel_cases.comparison import Comparison, Computed, gathered

from molmoact2_edge import build_config
from molmoact2_edge.devices import resolve_device
from molmoact2_edge.machine import machine_facts

COPY_BYTES = 256 << 20

# One generator per kernel, so that large inputs exist only while they are measured.
ON_CPU: dict[str, Callable[[], Iterator[Comparison]]] = {
    "flow": flow.cpu,
    "context": context.cpu,
    "decoder": decoder_ops.cpu,
    "depth_diff": depth_diff.cpu,
    "openfast": openfast.cpu,
    "vision_input": vision_input.cpu,
}
ON_CUDA: dict[str, Callable[[torch.device], Iterator[Comparison]]] = {
    "flow": flow.cuda,
    "context": context.cuda,
    "decoder": decoder_ops.cuda,
    "depth_diff": depth_diff.cuda,
    "openfast": openfast.cuda,
}


class Clock(Protocol):
    """How one call is prepared and timed."""

    def prepared(self, call: Callable[[], Computed]) -> Callable[[], object]: ...

    def seconds(self, call: Callable[[], object]) -> float: ...


class HostClock:
    """Wall time of a call that computes before it returns."""

    def prepared(self, call: Callable[[], Computed]) -> Callable[[], object]:
        return call

    def seconds(self, call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


class EventClock:
    """Time on the device between two events around several replays of a recorded call."""

    REPLAYS = 10

    def prepared(self, call: Callable[[], Computed]) -> Callable[[], object]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def seconds(self, call: Callable[[], object]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(self.REPLAYS):
            call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3 / self.REPLAYS


def copy_bandwidth(device: torch.device, clock: Clock) -> float:
    """Bytes per second, read and written, of the fastest of a few large copies."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * COPY_BYTES / min(clock.seconds(lambda: target.copy_(source)) for _ in range(5))


def summary(times: list[float]) -> dict[str, float]:
    ordered = sorted(1e3 * value for value in times)
    return {
        "min_ms": ordered[0],
        "median_ms": statistics.median(ordered),
        "p90_ms": ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))],
        "max_ms": ordered[-1],
    }


def measure(
    comparison: Comparison, clock: Clock, bandwidth: float, *, pairs: int | None, seconds: float
) -> dict[str, Any]:
    """Check agreement, then time both sides in turn.

    Raises:
        SystemExit: The two sides do not agree.
    """
    with torch.inference_mode():
        expected, found = gathered(comparison.baseline()), gathered(comparison.ours())
        difference = float((found - expected).abs().max())
        if found.shape != expected.shape or not difference <= comparison.tolerance:
            raise SystemExit(
                f"{comparison.name}: results of shapes {tuple(found.shape)} and {tuple(expected.shape)} differ by "
                f"{difference:.2e}, above {comparison.tolerance:.0e}; nothing was timed"
            )
        baseline_clock = HostClock() if comparison.baseline_on_host else clock
        ours = clock.prepared(comparison.ours)
        baseline = baseline_clock.prepared(comparison.baseline)
        once = clock.seconds(ours) + baseline_clock.seconds(baseline)
        count = pairs or max(3, min(200, int(seconds / once)))
        times: dict[str, list[float]] = {"ours": [], "baseline": []}
        for pair in range(count):
            order = [("ours", clock, ours), ("baseline", baseline_clock, baseline)]
            for side, timer, call in order if pair % 2 == 0 else reversed(order):
                times[side].append(timer.seconds(call))
    fastest = {side: min(values) for side, values in times.items()}
    floor = None if comparison.bytes_moved is None else 1e3 * comparison.bytes_moved / bandwidth
    return {
        "name": comparison.name,
        "settings": comparison.settings,
        "pairs": count,
        "largest_difference": difference,
        "ours": summary(times["ours"]),
        "baseline_is": comparison.baseline_is,
        "baseline": summary(times["baseline"]),
        "ratio_median_of_pairs": statistics.median(
            b / o for b, o in zip(times["baseline"], times["ours"], strict=True)
        ),
        "ratio_of_minima": fastest["baseline"] / fastest["ours"],
        "ours_gflop_per_s": comparison.flops / fastest["ours"] / 1e9,
        "baseline_gflop_per_s": comparison.flops / fastest["baseline"] / 1e9,
        "floor_ms": floor,
        "ours_of_floor": None if floor is None else 1e3 * fastest["ours"] / floor,
    }


def print_result(result: dict[str, Any]) -> None:
    floor = result["floor_ms"]
    print(
        f"{result['name']}: ours {result['ours']['median_ms']:.3f} ms (min {result['ours']['min_ms']:.3f}), "
        f"{result['baseline_is']} {result['baseline']['median_ms']:.3f} ms (min {result['baseline']['min_ms']:.3f}), "
        f"ratio {result['ratio_median_of_pairs']:.2f}" + ("" if floor is None else f", floor {floor:.3f} ms"),
        flush=True,
    )


def comparisons(device: torch.device, only: str) -> Iterator[Comparison]:
    """Yield those whose name begins with ``only``."""
    on_cuda = device.type == "cuda"
    for kernel in ON_CUDA if on_cuda else ON_CPU:
        if kernel.startswith(only) or only.startswith(kernel):
            for comparison in ON_CUDA[kernel](device) if on_cuda else ON_CPU[kernel]():
                if comparison.name.startswith(only):
                    yield comparison


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--only", default="", help="measure only comparisons whose name begins with this")
    parser.add_argument("--pairs", type=int, help="default: as many as fit in --seconds, 3 to 200")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="about how long to measure each comparison"
    )
    parser.add_argument("--threads", type=int, help="for both sides; default: torch's own choice")
    parser.add_argument("--machine", default="", help="what the machine is, in a few words, for the file")
    parser.add_argument("--out", type=Path, default=Path("kernels.json"))
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    clock: Clock = EventClock() if device.type == "cuda" else HostClock()
    bandwidth = copy_bandwidth(device, clock)
    load_before = os.getloadavg()[0]
    print(f"copy bandwidth {bandwidth / 1e9:.1f} GB/s, load {load_before:.1f}")
    results = []
    for comparison in comparisons(device, arguments.only):
        result = measure(comparison, clock, bandwidth, pairs=arguments.pairs, seconds=arguments.seconds)
        results.append(result)
        print_result(result)
    if not results:
        parser.error(f"no comparison's name begins with {arguments.only!r}")
    document = {
        "benchmark": "kernels",
        "machine_class": arguments.machine,
        "machine": machine_facts(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "build": build_config(),
        "settings": {"threads": torch.get_num_threads(), "device": str(device)},
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
