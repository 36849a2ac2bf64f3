"""Plots as SVG text, for pages without a script."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 420.0, 170.0, 46.0, 24.0, 20.0


def lines_plot(data: dict[str, list[float]], title: str) -> str:
    """Command (dashed) and measured pose over time."""
    times, values = data["s"], [*data["command"], *data["measured"]]
    low, high = min(values), max(values)
    low, high = (low - 1.0, high + 1.0) if high - low < 1e-6 else (low, high)

    def path(series: Sequence[float]) -> str:
        points = (
            f"{_across(t, times[0], times[-1]):.1f},{_up(value, low, high):.1f}"
            for t, value in zip(times, series, strict=True)
        )
        return "M" + "L".join(points)

    body = (
        f'<path class="line dashed cpp" d="{path(data["command"])}"/>'
        f'<path class="line python" d="{path(data["measured"])}"/>'
    )
    ends = [(low, f"{low:.1f}"), (high, f"{high:.1f}")]
    return _svg(title, body, ends, (low, high), f"{times[-1] - times[0]:.1f} s")


def histogram_plot(histogram: dict[str, Any], title: str) -> str:
    """Counts over durations, both logarithmic."""
    counts: list[int] = histogram["counts"]
    edges: list[float] = [0.0, *histogram["edges_us"]]
    filled = [i for i, count in enumerate(counts) if count]
    if not filled:
        return ""
    first, last = max(1, filled[0] - 1), filled[-1] + 1
    most = math.log10(1.0 + max(counts))
    begin, end = math.log10(edges[first]), math.log10(edges[min(last + 1, len(edges) - 1)])
    bars = []
    for i in range(first, min(last + 1, len(counts))):
        left = _across(math.log10(edges[i]), begin, end)
        right = _across(math.log10(edges[min(i + 1, len(edges) - 1)]), begin, end)
        top = _up(math.log10(1.0 + counts[i]), 0.0, most)
        bars.append(
            f'<rect class="bar cpp" x="{left:.1f}" y="{top:.1f}" width="{max(1.0, right - left - 1.0):.1f}" '
            f'height="{_HEIGHT - _BOTTOM - top:.1f}"/>'
        )
    ends = [(0.0, "0"), (most, str(max(counts)))]
    across = f"{_microseconds(edges[first])} to {_microseconds(10**end)}, logarithmic"
    return _svg(title, "".join(bars), ends, (0.0, most), across)


def _svg(
    title: str, body: str, labels: list[tuple[float, str]], span: tuple[float, float], across: str
) -> str:
    texts = "".join(
        f'<text x="{_LEFT - 6:.0f}" y="{_up(value, *span) + 4:.1f}" text-anchor="end">{html.escape(label)}</text>'
        for value, label in labels
    )
    floor = _HEIGHT - _BOTTOM
    return (
        f'<svg class="plot" viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role="img" aria-label="{html.escape(title)}">'
        f'<text class="strong" x="{_LEFT:.0f}" y="13">{html.escape(title)}</text>'
        f'<path class="axis" d="M{_LEFT:.0f},{_TOP:.0f}V{floor:.0f}H{_WIDTH:.0f}" fill="none"/>{body}{texts}'
        f'<text x="{_WIDTH:.0f}" y="{_HEIGHT - 6:.0f}" text-anchor="end">{html.escape(across)}</text></svg>'
    )


def _across(value: float, low: float, high: float) -> float:
    return _LEFT + (value - low) / (high - low or 1.0) * (_WIDTH - _LEFT)


def _up(value: float, low: float, high: float) -> float:
    return _HEIGHT - _BOTTOM - (value - low) / (high - low or 1.0) * (_HEIGHT - _BOTTOM - _TOP)


def _microseconds(value: float) -> str:
    return f"{value:.3g} µs" if value < 1000.0 else f"{value / 1000.0:.3g} ms"
