// CUDA kernels run as plain C++, so that every machine can test them.
//
// The project's .cu files are compiled a second time, by the C++ compiler, against the headers of this folder
// (cuda_runtime.h, cuda_bf16.h, ...) in place of CUDA's, and the tests written for a GPU run on the result.
//
// How it runs a kernel
//   Each thread of a block is a fiber with a stack of its own; a block's fibers take turns on one host
//   thread. A fiber runs until it must wait: at __syncthreads, at an operation of its warp (shuffles,
//   ballots,
//   __syncwarp, ldmatrix, mma), or when it polls memory. Which one goes on, and in which order the blocks
//   run, is decided by a seed: in order, in reverse, one warp as far ahead as it can get, or at random.
//   Blocks of a plain launch run one after another; those of a cooperative launch are all alive and take
//   turns when all their threads wait. Nothing depends on time: a failure repeats with its seed.
//
// What makes a launch fail, with a message that names the source line
//   - a __syncthreads or a warp operation that some thread can never reach; lanes of one warp at different
//     operations; a mask that names ended or missing lanes or leaves out the caller;
//   - a grid all of whose threads only poll (a deadlock is reported, it does not hang);
//   - misaligned cp.async and ldmatrix, or an ldmatrix outside shared memory; atomics and acquire loads of
//     addresses that are no device memory;
//   - a write just outside an allocation of cudaMalloc or outside the dynamic shared memory. Built with the
//     address sanitizer, every access outside either is caught where it happens, reads too.
// What gives wrong results, for the test's own comparison to find
//   - a missing barrier, by the changing order; a missing cp_async_wait, because a copy happens only there
//   and
//     leaves NaN behind until then; memory nobody wrote, because fresh device and shared memory is NaN.
// What a launch answers instead of running, as a device does
//   - empty or too large grids and blocks, too much shared memory, a cooperative grid that does not fit.
//
// What it does not show
//   The memory model (fences and acquire/release are sequentially consistent here), copies that pass one
//   another in different streams (everything is done when it is queued), PTX and what ptxas makes of it, bank
//   conflicts, register use, speed. Multiplying and adding never fuse here unless the source says fmaf.
//   Kernels poll through load_acquire, atomics or pause(): a loop over a plain volatile load never ends.
//
// To test another kernel, add its .cu to `emulated_sources` in tests/csrc/kernels/CMakeLists.txt and its
// <op>_cuda_test.cpp beside it; both must also compile with nvcc, where the same tests run on the GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace molmoact2::cuda_emulation {

struct DeviceModel {
  const char* name = "";
  int major = 0;
  int minor = 0;
  int multiprocessors = 0;
  std::size_t shared_bytes_per_block = 0;  // what a kernel can ask for
  std::size_t shared_bytes_per_multiprocessor = 0;
  int threads_per_multiprocessor = 0;
  int blocks_per_multiprocessor = 0;
  std::size_t memory_bytes = 0;
};

// Like an Orin and like a Hopper, but with 5 and 7 multiprocessors, so that work never divides evenly.
std::span<const DeviceModel> device_models();

// What later calls run on. No launch may be under way.
void use_device(const DeviceModel& model);
void use_seed(std::uint64_t seed);

// What went wrong in the launches since the last call, "" if nothing did; clears the error that a failed
// launch leaves in every later call, which a process on a real device cannot.
std::string take_failure();

// True where the sanitizers see every access outside an allocation.
bool finds_every_stray_access();

}  // namespace molmoact2::cuda_emulation
