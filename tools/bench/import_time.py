"""How long `import molmoact2_edge` takes in a fresh interpreter, and whether it pulls in heavy or optional modules."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

PROBE = """
import json, sys, time
begin = time.perf_counter()
import molmoact2_edge
seconds = time.perf_counter() - begin
heavy = [name for name in ("torch", "mujoco", "av", "tokenizers", "PIL") if name in sys.modules]
print(json.dumps({"seconds": seconds, "heavy": heavy}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=1.5, help="seconds that the median may take")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    runs = []
    for _ in range(arguments.repeat):
        output = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
        runs.append(json.loads(output.stdout))
    median = sorted(run["seconds"] for run in runs)[len(runs) // 2]
    heavy = runs[0]["heavy"]
    print(f"import molmoact2_edge: median {median:.3f} s of {len(runs)}, limit {arguments.limit} s")
    print(f"heavy modules imported: {heavy or 'none'}")
    return 0 if median <= arguments.limit and not heavy else 1


if __name__ == "__main__":
    sys.exit(main())
