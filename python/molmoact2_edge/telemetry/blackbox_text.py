"""A black box in words, tables and CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molmoact2_edge._core.control import REASONS
from molmoact2_edge.errors import InputError
from molmoact2_edge.telemetry.blackbox_file import POSES, BlackBoxContent

_CALLS_SHOWN = 5
_EVENTS_SHOWN = 8


def summary(content: BlackBoxContent) -> str:
    """Return what happened, where every joint was, how well time was kept, and what the policy said last."""
    header = content.header
    lines = [
        f"{header['reason']}   robot {header['robot_name']}, loop at {header['rate_hz']:g} Hz, "
        f"written {header['written_at']}"
    ]
    reason = str(header["reason"]).removeprefix("fault: ")
    if reason in REASONS:
        lines.append(f"  {REASONS[reason]}")
    lines += [f"DAMAGED: {damage}" for damage in content.damage[:_EVENTS_SHOWN]]
    if len(content.damage) > _EVENTS_SHOWN:
        lines.append(f"DAMAGED: and {len(content.damage) - _EVENTS_SHOWN} lines more")
    if content.ticks:
        lines += ["", *_joints(content), "", *_timing(content)]
    else:
        lines += ["", "no ticks"]
    if content.events:
        lines += ["", "gate, latest changes:", *_events(content, content.events[-_EVENTS_SHOWN:])]
    if content.calls:
        lines += ["", "policy, latest calls:", *_calls(content)]
    return "\n".join(lines)


def event_table(content: BlackBoxContent) -> str:
    """Return every change of the gate's state or reason, seconds relative to the trigger."""
    return "\n".join(_events(content, content.events)) or "no changes"


def tick_table(content: BlackBoxContent, count: int) -> str:
    """Return the last ``count`` ticks: time, state, reason, step, and command per joint."""
    joints = "".join(f"{joint[:13]:>14}" for joint in content.joints)
    lines = [f"{'s':>9} {'tick':>7} {'state':<9}{'reason':<20}{'step':>6}{'chunk':>6}{joints}   (command)"]
    for tick in content.ticks[-count:]:
        commands = "".join(f"{value:>14.3f}" for value in tick["command"])
        lines.append(
            f"{_since(content, tick['wakeup_ns']):>9.3f} {tick['tick']:>7} {tick['state']:<9}{tick['reason']:<20}"
            f"{tick['step']:>6}{tick['chunk']:>6}{commands}"
        )
    return "\n".join(lines)


def write_csv(content: BlackBoxContent, path: Path) -> None:
    """Write every tick as a row; poses become one column per joint, such as ``measured.gripper``.

    Raises:
        InputError: the file cannot be written.
    """
    single = [column for column in content.header["tick_columns"] if column not in POSES]
    poses = [f"{pose}.{joint}" for pose in POSES for joint in content.joints]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([*single, *poses])
            for tick in content.ticks:
                values = [float(value) for pose in POSES for value in tick[pose]]
                writer.writerow([*(tick[column] for column in single), *values])
    except OSError as error:
        raise InputError(f"cannot write {path}: {error}; give another place with --csv") from error


def _since(content: BlackBoxContent, time_ns: int) -> float:
    """Seconds from the trigger; negative before it."""
    return (time_ns - int(content.header["reason_time_ns"])) * 1e-9


def _joints(content: BlackBoxContent) -> list[str]:
    last = content.ticks[-1]
    limits = content.robot.get("joints", {})
    lines = [
        f"last tick {last['tick']}, {_since(content, last['wakeup_ns']):+.3f} s: {last['state']} ({last['reason']})",
        f"  {'joint':<16}{'measured':>10}{'target':>10}{'command':>10}   allowed",
    ]
    for index, joint in enumerate(content.joints):
        poses = "".join(f"{last[pose][index]:>10.3f}" for pose in POSES)
        low, high = limits.get(joint, {}).get("position", ("?", "?"))
        limited = "   at a limit" if int(last["limited_joints"]) >> index & 1 else ""
        lines.append(f"  {joint:<16}{poses}   {low} .. {high}{limited}")
    return lines


def _timing(content: BlackBoxContent) -> list[str]:
    ticks = content.ticks
    columns: dict[str, list[float]] = {
        "period": [tick["period_ns"] for tick in ticks if tick["period_ns"]],
        "wake-up": [tick["wakeup_ns"] - tick["deadline_ns"] for tick in ticks],
        "bus": [tick["read_ns"] + tick["write_ns"] for tick in ticks],
        "work": [tick["busy_ns"] for tick in ticks],
        "age of state": [tick["wakeup_ns"] - tick["measured_ns"] for tick in ticks if tick["measured_ns"]],
        "age of observation": [
            tick["written_ns"] - tick["observed_ns"]
            for tick in ticks
            if tick["followed"] and tick["observed_ns"] and tick["written_ns"]
        ],
    }
    seconds = (ticks[-1]["wakeup_ns"] - ticks[0]["wakeup_ns"]) * 1e-9
    skipped = sum(int(tick["skipped_periods"]) for tick in ticks)
    lines = [
        f"{len(ticks)} ticks in {seconds:.2f} s, {skipped} periods skipped",
        f"  {'milliseconds':<20}{'p50':>9}{'p99':>9}{'max':>9}{'last':>9}",
    ]
    for name, durations in columns.items():
        if durations:
            spread = (*np.percentile(durations, [50, 99]), max(durations), durations[-1])
            lines.append(f"  {name:<20}" + "".join(f"{value * 1e-6:>9.3f}" for value in spread))
    return lines


def _events(content: BlackBoxContent, events: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"  {_since(content, event['wakeup_ns']):>+9.3f} s  run {event['run']}  tick {event['tick']:<7} "
        f"{event['state']:<9}{event['reason']}"
        + (f"   refused a chunk: {event['rejected_chunk']}" if event["rejected_chunk"] != "none" else "")
        for event in events
    ]


def _calls(content: BlackBoxContent) -> list[str]:
    return [
        f"  {_since(content, call['begun_ns']):>+9.3f} s  {(call['ended_ns'] - call['begun_ns']) * 1e-6:>8.1f} ms  "
        f"image {(call['begun_ns'] - call['observed_ns']) * 1e-6:.1f} ms old  {call['outcome']}"
        + (f": {call['message']}" if call["message"] else "")
        for call in content.calls[-_CALLS_SHOWN:]
    ]
