#!/bin/sh
# Everything that waits for a GPU, in the order of what it teaches; JSON and one log per step in $OUT.
#
#   OUT=results tools/bench/gpu_session.sh PYTHON [STEP...]
#
# Steps: build, tests, calls, kernels, sanitizer, peer; all of them when none is named. A step that fails does not stop
# the ones after it: time on a borrowed GPU is short. Exit code 1 if any failed.
#
# PYTHON has torch with CUDA, cmake, ninja, pybind11, scikit-build-core and pytest; nvcc is on PATH. No network is used.
# `peer` wants WHEELS=a folder with what tools/bench/setup_peer.sh asks for, fetched where there is a network.
set -u

python=${1:-python3}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- build tests calls kernels sanitizer peer
out=${OUT:-build/gpu}
tests=build/gpu-tests
mkdir -p "$out"

build() {
  "$python" -m pip install --quiet --no-build-isolation --no-index --no-deps . &&
    cmake -S . -B "$tests" -G Ninja -DMOLMOACT2_PYTHON=OFF -DMOLMOACT2_TESTS=ON -DMOLMOACT2_CUDA=ON \
      -DCMAKE_BUILD_TYPE=Release -DCMAKE_CUDA_ARCHITECTURES=native &&
    cmake --build "$tests" &&
    "$python" -m molmoact2_edge doctor --json >"$out/doctor.json"
}

# Each kernel against its CPU version; then recording, which everything in Python builds on; then the public cases.
run_tests() {
  failed=0
  ctest --test-dir "$tests" --output-on-failure -R '^test_kernels$' || failed=1
  "$python" -m pytest -q -m gpu tests/python/static || failed=1
  "$python" -m pytest -q -m gpu --ignore tests/python/static tests/python || failed=1
  return $failed
}

# Random weights at release shapes, bf16: whole calls, state refresh, Think; graph, static and eager in turns.
calls() {
  failed=0
  "$python" tools/bench/predict_shapes.py --device cuda --repeat 30 --out "$out/predict-shapes-cuda.json" || failed=1
  for dtype in float32 bfloat16; do
    "$python" tools/bench/predict.py --device cuda --dtype "$dtype" --out "$out/predict-cuda-$dtype.json" || failed=1
  done
  return $failed
}

# Each kernel beside plain torch and its floor, from events.
kernels() {
  "$python" tools/bench/kernels.py --device cuda --out "$out/kernels-cuda.json"
}

sanitizer() {
  compute-sanitizer --error-exitcode 1 "$tests/tests/csrc/kernels/test_kernels"
}

# LeRobot's own MolmoAct2, eager and with its CUDA graph, in the same process.
peer() {
  sh tools/bench/setup_peer.sh "$python" build/gpu-peer --no-index --find-links "${WHEELS:?set WHEELS}" &&
    build/gpu-peer/env/bin/python tools/bench/peer_lerobot.py --peer build/gpu-peer --device cuda --dtype bfloat16 \
      --shapes tests/reference/shapes/molmoact2-so101.json --out "$out/peer-lerobot-cuda.json"
}

status=0
for step in "$@"; do
  case $step in
    build | calls | kernels | sanitizer | peer) run=$step ;;
    tests) run=run_tests ;;
    *)
      echo "unknown step '$step'; there are build, tests, calls, kernels, sanitizer and peer" >&2
      exit 2
      ;;
  esac
  if "$run" >"$out/$step.log" 2>&1; then
    echo "$step: done"
  else
    status=1
    echo "$step: FAILED; the end of its log:"
    tail -n 40 "$out/$step.log"
  fi
done
exit $status
