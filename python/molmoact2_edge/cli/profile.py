"""``molmoact2-edge profile``: is this computer good enough? The loop under load, a report, a verdict."""

from __future__ import annotations

import argparse
import json
import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molmoact2_edge.config import RobotConfig, load_robot, robot_names
from molmoact2_edge.errors import InputError

if TYPE_CHECKING:
    from molmoact2_edge.profile import ProfileSettings
    from molmoact2_edge.profile.predictions import PredictionLoad
    from molmoact2_edge.runtime import Scenario

_BARE = "so101"  # whose joints and limits a loop without a robot has
_BARE_RATE_HZ = 200.0
_BARE_SWING = 5.0
_FILES = ("report.html", "trace.json", "profile.json")

_NOTES = """Without --robot the loop runs on a port with nothing behind it, which measures the computer alone. A real
robot holds still unless --swing says otherwise. DIR gets report.html (open it in a browser), trace.json (open it in
ui.perfetto.dev) and profile.json. Exit code: 0 when the rate is held, 3 when it is not or the run was too short to
tell, 1 after an error, 2 for wrong arguments."""
_EXIT_NOT_HELD = 3


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "profile",
        help="measure how well this computer keeps the loop's time, and say what to do",
        epilog=_NOTES,
    )
    parser.add_argument(
        "--robot",
        metavar="NAME|FILE",
        help=f"{', '.join(robot_names())}, or a .yaml file (default: no robot, the joints of {_BARE})",
    )
    parser.add_argument(
        "--rate",
        type=float,
        metavar="HZ",
        help=f"of the loop (default: the robot's; without one {_BARE_RATE_HZ:g})",
    )
    parser.add_argument("--duration", type=float, default=30.0, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--load",
        default="none",
        metavar="LIST",
        help="cpu: a busy process per core; gil: a busy Python thread beside the loop; io: a busy disk; "
        "e.g. cpu,gil,io (default: %(default)s)",
    )
    parser.add_argument(
        "--swing",
        type=float,
        metavar="DEG",
        help=f"how far each joint moves meanwhile (default: {_BARE_SWING:g}; a real robot 0)",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="DIR|ID",
        help="a policy that predicts all the time meanwhile, timed stage by stage",
    )
    parser.add_argument("--device", default="auto", metavar="D", help="of the policy (default: %(default)s)")
    parser.add_argument("--dtype", default="auto", metavar="T", help="of the policy (default: %(default)s)")
    parser.add_argument("--offline", action="store_true", help="never touch the network")
    parser.add_argument(
        "--out", type=Path, default=Path("profile"), metavar="DIR", help="default: %(default)s"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the three files, print the table; returns the exit code."""
    from molmoact2_edge.profile import (
        ProfileSettings,
        as_text,
        build_document,
        measure,
        page,
        parse_loads,
        trace,
    )
    from molmoact2_edge.profile.session import with_rate
    from molmoact2_edge.runtime import open_scenario

    config = load_robot(arguments.robot or _BARE)
    bare = arguments.robot is None
    if bare:
        # Asked for here, so that the report says whether the system grants it.
        config = replace(config, name="no robot", loop=replace(config.loop, lock_memory=True))
    moving = bare or config.driver == "sim"
    settings = ProfileSettings(
        rate_hz=arguments.rate or (_BARE_RATE_HZ if bare else config.loop.rate_hz),
        duration_s=arguments.duration,
        loads=parse_loads(arguments.load),
        swing=(_BARE_SWING if moving else 0.0) if arguments.swing is None else arguments.swing,
    )
    config = with_rate(config, settings.rate_hz)
    _make_directory(arguments.out)
    with ExitStack() as stack:
        # Like Ctrl-C: the loop decelerates, the robot is left as configured, the loads end.
        usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
        stack.callback(signal.signal, signal.SIGTERM, usual)
        scenario = None
        if not bare:
            scenario = open_scenario(config)
            stack.callback(scenario.close)
            scenario.begin(0, None)
        predictions, policy = _predictions(arguments, config, scenario)
        _announce(settings)
        measurement = measure(
            config, settings, None if scenario is None else scenario.robot.port(), predictions
        )
    if predictions is not None and policy is not None:
        policy["failure"] = predictions.failure
    document = build_document(measurement, settings, config, policy)
    texts = (
        page(document, measurement, list(config.joints)),
        json.dumps(trace(measurement), allow_nan=False, separators=(",", ":")),
        json.dumps(document, indent=1, allow_nan=False) + "\n",
    )
    for name, text in zip(_FILES, texts, strict=True):
        (arguments.out / name).write_text(text, encoding="utf-8")
    print(f"\n{as_text(document)}\n\n{', '.join(str(arguments.out / name) for name in _FILES)}")
    return 0 if document["verdict"]["held"] else _EXIT_NOT_HELD


def _announce(settings: ProfileSettings) -> None:
    loads = ", ".join(settings.loads) or "none"
    print(f"measuring for {settings.duration_s:g} s at {settings.rate_hz:g} Hz, load: {loads}", flush=True)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the directory {path}: {error}; give another with --out") from error


def _predictions(
    arguments: argparse.Namespace, config: RobotConfig, scenario: Scenario | None
) -> tuple[PredictionLoad | None, dict[str, Any] | None]:
    if arguments.checkpoint is None:
        return None, None
    from molmoact2_edge import Policy
    from molmoact2_edge.profile.predictions import PredictionLoad, noise_images, norm_tag_for

    policy = Policy.from_pretrained(
        arguments.checkpoint, device=arguments.device, dtype=arguments.dtype, offline=arguments.offline
    )
    noise = noise_images(config)
    cameras = None if scenario is None else list(scenario.cameras.values())
    load = PredictionLoad(
        policy,
        config,
        (lambda: noise) if cameras is None else (lambda: [camera.latest().image for camera in cameras]),
        norm_tag_for(policy, config),
    )
    about = {
        "checkpoint": arguments.checkpoint,
        "device": str(policy.device),
        "dtype": str(policy.dtype).removeprefix("torch."),
        "first_call_ms": round(load.first_call_s * 1e3, 3),
    }
    return load, about
