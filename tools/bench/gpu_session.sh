#!/bin/sh
# Everything that waits for a GPU, in the order of what it teaches: build, tests, then timings as JSON in $OUT.
#
#   OUT=results tools/bench/gpu_session.sh [PYTHON]
#
# PYTHON has torch with CUDA, cmake, ninja, pybind11, scikit-build-core and pytest; nvcc is on PATH. No network is used.
set -eu

python=${1:-python3}
out=${OUT:-build/gpu}
mkdir -p "$out"

"$python" -m pip install --quiet --no-build-isolation --no-index --no-deps .
molmoact2-edge doctor --json >"$out/doctor.json" || true

# The C++ tests run each kernel's CUDA version against its CPU version; compute-sanitizer runs them once more.
cmake -S . -B build/gpu-tests -G Ninja -DMOLMOACT2_PYTHON=OFF -DMOLMOACT2_TESTS=ON -DMOLMOACT2_CUDA=ON \
  -DCMAKE_CUDA_ARCHITECTURES=native
cmake --build build/gpu-tests
ctest --test-dir build/gpu-tests --output-on-failure
if command -v compute-sanitizer >/dev/null 2>&1; then
  compute-sanitizer --error-exitcode 1 build/gpu-tests/tests/csrc/kernels/test_kernels >"$out/sanitizer.txt"
fi

# Recording first: what it cannot do it says there, and everything below builds on it.
"$python" -m pytest -q -m gpu tests/python/static
"$python" -m pytest -q -m gpu --ignore tests/python/static
for dtype in float32 bfloat16; do
  "$python" tools/bench/predict.py --device cuda --dtype "$dtype" --out "$out/predict-cuda-$dtype.json"
done
# Random weights at release shapes, bf16: whole calls, state refresh, Think; graph, static and eager in turns.
"$python" tools/bench/predict_shapes.py --device cuda --repeat 30 --out "$out/predict-shapes-cuda.json"
# Each kernel beside plain torch and its floor, from events.
"$python" tools/bench/kernels.py --device cuda --out "$out/kernels-cuda.json"
