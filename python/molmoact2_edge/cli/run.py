"""``molmoact2-edge run``: a policy in closed loop, by default the shipped one in the simulator."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from molmoact2_edge.build import models_dir
from molmoact2_edge.config import RobotConfig, load_robot, robot_names
from molmoact2_edge.errors import InputError

if TYPE_CHECKING:
    from molmoact2_edge.runtime import Runner, RunSettings, Scenario

_EXIT_CODES = """exit code: 0 when every episode ran to its end, whether it succeeded or not; 1 after an error or a
fault; 2 for wrong arguments; 130, 143 or 129 when SIGINT, SIGTERM or SIGHUP ended the run. The report is written in
each case but wrong arguments and errors before the first episode."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command and its options."""
    parser = subparsers.add_parser(
        "run", help="run a policy on a robot, or in the simulator, in closed loop", epilog=_EXIT_CODES
    )
    parser.add_argument(
        "--checkpoint",
        metavar="DIR|ID",
        help="directory or Hub id of a checkpoint (default: the shipped policy that touches blocks)",
    )
    parser.add_argument(
        "--robot",
        default="sim-so101",
        metavar="NAME|FILE",
        help=f"{', '.join(robot_names())}, or a .yaml file (default: %(default)s)",
    )
    add_connection_options(parser)
    parser.add_argument(
        "--task", metavar="TEXT", help="the instruction (default: each episode's own, where there is a judge)"
    )
    parser.add_argument(
        "--episodes", type=int, metavar="N", help="default: 3; on an arm that nobody judges 1"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the first episode, counting up (default: %(default)s)",
    )
    parser.add_argument(
        "--duration",
        type=float,
        default=30.0,
        metavar="S",
        help="longest episode in seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--judge",
        type=Path,
        metavar="SOCKET",
        help="of an emulated table (emulate so101 --judge): it sets the scenes and judges the episodes",
    )
    parser.add_argument(
        "--record", type=Path, metavar="DIR", help="record a LeRobotDataset v3.0, or add episodes to one"
    )
    parser.add_argument(
        "--record-fps", type=int, metavar="N", help="frames per second of it (default: the slowest camera's)"
    )
    parser.add_argument(
        "--viz",
        nargs="?",
        const="127.0.0.1:9876",
        metavar="ADDRESS",
        help="show the run in a Rerun viewer at HOST:PORT (default: %(const)s), or write it with save:FILE.rrd",
    )
    parser.add_argument(
        "--blackbox",
        type=Path,
        default=Path("blackbox"),
        metavar="DIR",
        help="where a fault, or SIGUSR1, leaves the last 10 s (default: %(default)s)",
    )
    parser.add_argument(
        "--time",
        choices=("real", "simulated"),
        default="real",
        help="simulated: as fast as this computer can, the same to the bit for a seed; only with a simulated robot",
    )
    parser.add_argument(
        "--inference-time",
        metavar="TIME",
        help="how long a call of the policy takes in simulated time: SECONDS, uniform:LOW:HIGH or "
        "lognormal:MEDIAN:SIGMA (default: 0.1)",
    )
    parser.add_argument("--video", type=Path, metavar="FILE.mp4", help="record what the cameras see")
    parser.add_argument(
        "--device", default="auto", metavar="D", help="auto, cpu or cuda (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype", default="auto", metavar="T", help="auto, float32 or bfloat16 (default: %(default)s)"
    )
    parser.add_argument(
        "--report", type=Path, default=Path("report.json"), metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument("--offline", action="store_true", help="never touch the network")
    parser.add_argument(
        "--show-config", action="store_true", help="print the robot's complete configuration and end"
    )
    parser.set_defaults(run=run)


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """Add what a command line says about the wires of a real arm."""
    parser.add_argument(
        "--port", metavar="PATH", help="of a real arm: serial port, CAN channel or address (see find-port)"
    )
    parser.add_argument("--left-port", metavar="PATH", help="of the left one of two arms")
    parser.add_argument("--right-port", metavar="PATH", help="of the right one of two arms")
    parser.add_argument("--id", metavar="NAME", help="the arm's name, under which its calibration is kept")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="its calibration, wherever it is")
    parser.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="front=/dev/video0, a file, an http address or realsense:SERIAL; once for each camera",
    )


def connected(arguments: argparse.Namespace) -> RobotConfig:
    """Return the robot's configuration with what the command line says about its connection and cameras.

    Raises:
        InputError: it says something that this robot does not have.
    """
    from molmoact2_edge.runtime.hardware import with_cameras, with_connection

    config = load_robot(arguments.robot)
    ports = {key: getattr(arguments, key) for key in ("port", "left_port", "right_port", "id", "calibration")}
    given = [f"--{key.replace('_', '-')}" for key, value in ports.items() if value is not None]
    given += ["--camera"] if arguments.camera else []
    if config.driver == "sim" and given:
        raise InputError(
            f"robot {config.name!r} is simulated, so that {', '.join(given)} has no meaning for it"
        )
    return with_cameras(with_connection(config, **ports), arguments.camera)


def run(arguments: argparse.Namespace) -> int:
    """Run, write the report, print the summary; returns the exit code."""
    config = connected(arguments)
    if arguments.show_config:
        print(config.to_yaml(), end="")
        return 0
    from molmoact2_edge.runtime import RunSettings
    from molmoact2_edge.telemetry.session import TelemetrySettings

    if arguments.time == "simulated":
        # A process of its own protects the loop's time, which is nobody's here.
        config = replace(config, policy=replace(config.policy, isolation="thread"))
    unjudged = config.driver != "sim" and arguments.judge is None
    if unjudged and arguments.task is None and arguments.time == "real":
        raise InputError(f"robot {config.name!r} is told what to do: give --task TEXT")
    settings = RunSettings(
        episodes=(1 if unjudged else 3) if arguments.episodes is None else arguments.episodes,
        seed=arguments.seed,
        task=arguments.task,
        duration_s=arguments.duration,
        video=arguments.video,
        telemetry=TelemetrySettings(
            blackbox=arguments.blackbox,
            record=arguments.record,
            record_fps=arguments.record_fps,
            viz=arguments.viz,
        ),
    )
    return _run(arguments, config, settings)


def _run(arguments: argparse.Namespace, config: RobotConfig, settings: RunSettings) -> int:
    from molmoact2_edge.runtime import build_report, open_policy, summary, write_report
    from molmoact2_edge.runtime.interruption import interruptible
    from molmoact2_edge.runtime.status import StatusDisplay

    checkpoint = arguments.checkpoint or str(models_dir() / "so101-touch")
    with interruptible() as interruption, ExitStack() as opened:
        policy = open_policy(
            config, checkpoint, device=arguments.device, dtype=arguments.dtype, offline=arguments.offline
        )
        opened.callback(policy.close)
        scenario, make_runner = _stage(arguments, config)  # while a process of its own loads the policy
        opened.callback(scenario.close)
        about = {"checkpoint": arguments.checkpoint or "so101-touch (shipped)", **policy.wait_ready()}
        runner = make_runner(policy, scenario.config, settings, StatusDisplay(sys.stdout))
        signal.signal(signal.SIGUSR1, lambda *_: runner.request_black_box("asked for by SIGUSR1"))
        try:
            runner.run(interruption)
        finally:
            if runner.results:
                report = build_report(runner, {**about, **policy.facts()})
                write_report(report, arguments.report)
                print(f"\n{summary(report)}\n\nreport: {arguments.report}")
    if interruption.signal is not None:
        return 128 + int(interruption.signal)
    return 0 if runner.completed else 1


def _stage(arguments: argparse.Namespace, config: RobotConfig) -> tuple[Scenario, Callable[..., Runner]]:
    """Open the robot in the time that was asked for; returns it, and what makes its runner."""
    if arguments.time == "simulated":
        from molmoact2_edge.runtime.inference_time import InferenceTime
        from molmoact2_edge.runtime.simulated_runner import SimulatedRunner
        from molmoact2_edge.runtime.stepped_table import open_stepped_scenario

        taking = (
            InferenceTime()
            if arguments.inference_time is None
            else InferenceTime.parse(arguments.inference_time)
        )
        table = open_stepped_scenario(config)
        return table, partial(SimulatedRunner, table, inference_time=taking)
    if arguments.inference_time is not None:
        raise InputError(
            "--inference-time is for --time simulated; in real time a call takes as long as it takes"
        )
    from molmoact2_edge.runtime import Runner, open_scenario

    scenario = open_scenario(config, arguments.judge)
    return scenario, partial(Runner, scenario)
