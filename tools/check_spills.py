"""Compile CUDA sources for Orin, Hopper and Thor, and fail where the compiler ran out of registers.

    python tools/check_spills.py [SOURCE...]

Without arguments it takes the flow loop, whose speed spilled registers or arrays in local memory would cost. Needs
nvcc on PATH, and no GPU. Prints registers and stack of every kernel; exit code 1 if any has a stack or spills.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_SOURCES = (ROOT / "csrc/kernels/flow/flow.cu",)
TARGETS = ("87", "90a", "110")

_ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the compiler reports of one kernel on one target; sizes in bytes."""

    name: str
    target: str
    registers: int
    stack: int
    spills: int


def compile_report(source: Path) -> str:
    """Return ptxas' report on ``source`` for all targets.

    Raises:
        subprocess.CalledProcessError: The source does not compile without warnings.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-std=c++20", f"-I{ROOT / 'csrc'}", "-Werror", "all-warnings", "-Xptxas", "-v"]
        command += ["--threads", "0"]  # one per target, as far as there are processors
        for target in TARGETS:
            command += ["-gencode", f"arch=compute_{target},code=sm_{target}"]
        command += ["-c", str(source), "-o", str(Path(folder) / "object.o")]
        return subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True).stderr


def kernels(report: str) -> Iterator[Kernel]:
    """Yield what the report says of each kernel."""
    name, target, stack, spills = "", "", 0, 0
    for line in report.splitlines():
        if entry := _ENTRY.search(line):
            name, target = entry.groups()
        elif sizes := _STACK.search(line):
            stack = int(sizes[1])
            spills = int(sizes[2]) + int(sizes[3])
        elif registers := _REGISTERS.search(line):
            yield Kernel(name, target, int(registers[1]), stack, spills)


def readable(name: str) -> str:
    """Return the name as C++ has it, where the toolchain can tell."""
    if shutil.which("c++filt") is None:
        return name
    plain = subprocess.run(["c++filt", name], check=True, stdout=subprocess.PIPE, text=True).stdout
    return plain.strip().removeprefix("void ").partition("(")[0]


def main() -> int:
    """Check every source named on the command line."""
    sources = [Path(argument) for argument in sys.argv[1:]] or list(DEFAULT_SOURCES)
    failed = False
    for source in sources:
        try:
            found = list(kernels(compile_report(source)))
        except subprocess.CalledProcessError as error:
            print(error.stderr, file=sys.stderr)
            return 1
        if not found:
            print(f"{source}: the compiler reports no kernel", file=sys.stderr)
            return 1
        for kernel in found:
            bad = kernel.stack > 0 or kernel.spills > 0
            failed = failed or bad
            print(
                f"{kernel.target:8} {kernel.registers:4} registers {kernel.stack:5} bytes of stack "
                f"{kernel.spills:5} spilled  {readable(kernel.name)}{'  <- too many' if bad else ''}"
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
