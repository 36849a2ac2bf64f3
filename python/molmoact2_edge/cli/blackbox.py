"""``molmoact2-edge blackbox``: what a black box says about the moments before a fault."""

from __future__ import annotations

import argparse
from pathlib import Path

_DAMAGED = 3

_EXIT_CODES = """exit code: 0; 1 where the file is no black box or cannot be read at all; 3 where it is damaged and
what is left was shown."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "blackbox", help="read the black box that a fault left behind", epilog=_EXIT_CODES
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="blackbox-*.jsonl")
    parser.add_argument("--events", action="store_true", help="list every change of the gate")
    parser.add_argument(
        "--ticks", type=int, default=0, metavar="N", help="list the last N ticks (default: none)"
    )
    parser.add_argument(
        "--csv", type=Path, metavar="OUT", help="write all ticks as CSV, one column per value"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the summary and what was asked for; returns the exit code."""
    from molmoact2_edge.telemetry.blackbox_file import read_black_box
    from molmoact2_edge.telemetry.blackbox_text import event_table, summary, tick_table, write_csv

    content = read_black_box(arguments.file)
    print(summary(content))
    if arguments.events:
        print(f"\n{event_table(content)}")
    if arguments.ticks > 0:
        print(f"\n{tick_table(content, arguments.ticks)}")
    if arguments.csv is not None:
        write_csv(content, arguments.csv)
        print(f"\nticks: {arguments.csv}")
    return _DAMAGED if content.damage else 0
