#!/bin/sh
# Compiles every CUDA kernel for Orin (sm_87) and Thor (sm_110) with a host compiler for 64-bit Arm.
#
#   tools/compile_cuda_aarch64.sh BUILD_FOLDER
#
# Each of these has an Arm processor. A kernel whose registers spill into memory is refused. Objects only: linking them
# needs the CUDA runtime of an Arm toolkit. The headers are the same for both architectures, but nvcc looks for them in the
# folder of the one that it compiles for, so they are named.
set -eu

cd "$(dirname "$0")/.."
build=$1
mkdir -p "$build"
headers=$(nvcc --dryrun -c csrc/kernels/depth_diff/depth_diff.cu -o unused.o 2>&1 |
  sed -n 's/.*INCLUDES="-I\([^"]*\)".*/\1/p' | head -n 1)
if [ -z "$headers" ]; then
  echo "nvcc --dryrun did not name the folder of its headers; is this a CUDA toolkit of version 12 or later?" >&2
  exit 1
fi
for source in csrc/kernels/*/*.cu; do
  object=$build/$(basename "$source").o
  echo "$source"
  nvcc -std=c++20 -O3 -Werror all-warnings -ccbin aarch64-linux-gnu-g++ -Icsrc -I"$headers" -DMOLMOACT2_HAVE_CUDA \
    -Xptxas --warn-on-spills -Xptxas --warn-on-local-memory-usage \
    --threads 2 -gencode arch=compute_87,code=sm_87 -gencode arch=compute_110,code=sm_110 -c "$source" -o "$object"
done
