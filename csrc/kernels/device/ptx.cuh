// The few instructions that CUDA C++ has no name for, each behind a function. The emulation of the tests
// supplies the same functions in plain C++ (tests/csrc/cuda_emulation/emulated_ptx.h).
//
// Fragments of a warp's m16n8k16 product, with g = lane / 4 and t = lane % 4, two bf16 in a register, the
// lower index in the lower half:
//   a[0] = A[g][2t..], a[1] = A[g + 8][2t..], a[2] = A[g][2t + 8..], a[3] = A[g + 8][2t + 8..]   A: (16, 16)
//   b[0] = B[2t..][g], b[1] = B[2t + 8..][g]                                                     B: (16, 8)
//   d[0], d[1] = D[g][2t], D[g][2t + 1]; d[2], d[3] = D[g + 8][2t], D[g + 8][2t + 1]             D: (16, 8)
// ldmatrix reads them from shared memory: lane 8 i + j names the start of row j (16 bytes, aligned to 16)
// of the i-th 8 x 8 matrix, and r[i] of lane l is then elements 2t and 2t + 1 of row g of matrix i, or, with
// `trans`, of its column g. A row-major (16, 16) tile of A is ldmatrix_x4 of its quadrants top left, bottom
// left, top right, bottom right; B kept as rows of n (weights: (out, in)) is ldmatrix_x2 without `trans`.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#ifdef MOLMOACT2_CUDA_EMULATION
#include "emulated_ptx.h"
#else

namespace molmoact2::kernels {

// d += a * b, accumulated in fp32. All 32 lanes together.
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4],
                                                  const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

// Four, or two, 8 x 8 matrices of bf16 from shared memory. All 32 lanes together; of the two-matrix form only
// the addresses of lanes 0 to 15 count.
__device__ __forceinline__ void ldmatrix_x4(std::uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(shared))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x2(std::uint32_t (&r)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared))
               : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(shared))
               : "memory");
}

// Starts a copy of 16 bytes, both sides aligned to 16, past the first-level cache. It has happened for this
// thread after cp_async_wait, for the others after a barrier that follows.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}

// The same; zeros without reading `global`, which must still be an address, when not valid.
__device__ __forceinline__ void cp_async_16_or_zero(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16U : 0U)
               : "memory");
}

// Closes a group: the copies that this thread started since the last one.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most the newest `kPending` groups of this thread are under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Reads, writes and adds between blocks of a running grid: what a thread did before a release is seen by the
// thread that acquires its value, and, after barriers on both sides, by their blocks.
__device__ __forceinline__ unsigned load_acquire(const unsigned* address) {
  unsigned value = 0;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}

__device__ __forceinline__ void store_release(unsigned* address, unsigned value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

// Returns the value before.
__device__ __forceinline__ unsigned add_release(unsigned* address, unsigned value) {
  unsigned before = 0;
  asm volatile("atom.release.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(address), "r"(value)
               : "memory");
  return before;
}

// Reads and writes of memory that blocks of a running grid share, in no order with any other. A single 32-bit
// word is never torn; the words of a wider access may be of different ages. Poll with pause() in the loop.
__device__ __forceinline__ std::uint32_t load_relaxed_4(const std::uint32_t* address) {
  std::uint32_t value = 0;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}

__device__ __forceinline__ uint2 load_relaxed_8(const std::uint32_t* address) {
  uint2 value;
  asm volatile("ld.relaxed.gpu.global.v2.u32 {%0,%1}, [%2];"
               : "=r"(value.x), "=r"(value.y)
               : "l"(address)
               : "memory");
  return value;
}

__device__ __forceinline__ uint4 load_relaxed_16(const std::uint32_t* address) {
  uint4 value;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(address)
               : "memory");
  return value;
}

__device__ __forceinline__ void store_relaxed_4(std::uint32_t* address, std::uint32_t value) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

__device__ __forceinline__ void store_relaxed_8(std::uint32_t* address, const uint2& value) {
  asm volatile("st.relaxed.gpu.global.v2.u32 [%0], {%1,%2};" ::"l"(address), "r"(value.x), "r"(value.y)
               : "memory");
}

// 16 bytes, aligned to 16, that are used once and that nobody writes while this kernel runs: weights.
__device__ __forceinline__ uint4 load_streaming_16(const void* global) {
  uint4 value;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
      : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
      : "l"(global));
  return value;
}

// Asks for the cache line of an address inside an allocation to be brought to the second-level cache.
__device__ __forceinline__ void prefetch_l2(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

// For a loop that waits for other threads and need not react at once.
__device__ __forceinline__ void pause() { __nanosleep(64); }

// Both do nothing before sm_90, where grids of a stream never overlap. See LaunchShape::overlap_previous.
// A pointer to what the grid ahead writes is not __restrict__, nor read by load_streaming_16: the compiler
// might take what stands behind it for constant, and read it before the wait.
__device__ __forceinline__ void wait_for_previous_grid() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void let_next_grid_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace molmoact2::kernels

#endif
