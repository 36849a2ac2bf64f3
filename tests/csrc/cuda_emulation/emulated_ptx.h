// What csrc/kernels/device/ptx.cuh has instructions for, in plain C++, with the checks of cuda_emulation.h.
#pragma once

#include <cstdint>
#include <source_location>

#include "cuda_runtime.h"

namespace molmoact2::cuda_emulation {

void multiply_fragments(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                        std::source_location where);
void load_matrices(std::uint32_t* r, int count, bool transposed, const void* shared,
                   std::source_location where);
void start_copy(void* shared, const void* global, bool valid, std::source_location where);
void close_copy_group();
void finish_copies(unsigned pending_groups);

}  // namespace molmoact2::cuda_emulation

namespace molmoact2::kernels {

using Where = std::source_location;

inline void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                              Where where = Where::current()) {
  cuda_emulation::multiply_fragments(d, a, b, where);
}
inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* shared, Where where = Where::current()) {
  cuda_emulation::load_matrices(r, 4, false, shared, where);
}
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* shared, Where where = Where::current()) {
  cuda_emulation::load_matrices(r, 4, true, shared, where);
}
inline void ldmatrix_x2(std::uint32_t (&r)[2], const void* shared, Where where = Where::current()) {
  cuda_emulation::load_matrices(r, 2, false, shared, where);
}
inline void ldmatrix_x2_trans(std::uint32_t (&r)[2], const void* shared, Where where = Where::current()) {
  cuda_emulation::load_matrices(r, 2, true, shared, where);
}

inline void cp_async_16(void* shared, const void* global, Where where = Where::current()) {
  cuda_emulation::start_copy(shared, global, true, where);
}
inline void cp_async_16_or_zero(void* shared, const void* global, bool valid,
                                Where where = Where::current()) {
  cuda_emulation::start_copy(shared, global, valid, where);
}
inline void cp_async_commit() { cuda_emulation::close_copy_group(); }
template <int kPending>
void cp_async_wait() {
  cuda_emulation::finish_copies(kPending);
}

inline unsigned load_acquire(const unsigned* address, Where where = Where::current()) {
  cuda_emulation::require_writable(address, sizeof(unsigned), "load_acquire", where);
  cuda_emulation::running_block->poll();
  return *address;
}
inline void store_release(unsigned* address, unsigned value, Where where = Where::current()) {
  cuda_emulation::change(address, "store_release", where, [&](unsigned) { return value; });
}
inline unsigned add_release(unsigned* address, unsigned value, Where where = Where::current()) {
  return cuda_emulation::change(address, "add_release", where,
                                [&](unsigned before) { return before + value; });
}

// Without poll(): the caller's pause() lets others run.
inline std::uint32_t load_relaxed_4(const std::uint32_t* address, Where where = Where::current()) {
  cuda_emulation::require_writable(address, 4, "load_relaxed_4", where);
  return *address;
}
inline uint2 load_relaxed_8(const std::uint32_t* address, Where where = Where::current()) {
  cuda_emulation::require_writable(address, 8, "load_relaxed_8", where);
  return {address[0], address[1]};
}
inline uint4 load_relaxed_16(const std::uint32_t* address, Where where = Where::current()) {
  cuda_emulation::require_writable(address, 16, "load_relaxed_16", where);
  return {address[0], address[1], address[2], address[3]};
}
inline void store_relaxed_4(std::uint32_t* address, std::uint32_t value, Where where = Where::current()) {
  cuda_emulation::change(address, "store_relaxed_4", where, [&](std::uint32_t) { return value; });
}
inline void store_relaxed_8(std::uint32_t* address, const uint2& value, Where where = Where::current()) {
  cuda_emulation::require_writable(address, 8, "store_relaxed_8", where);
  address[0] = value.x;
  address[1] = value.y;
  cuda_emulation::running_block->note_event();
}

inline uint4 load_streaming_16(const void* global, Where where = Where::current()) {
  if (reinterpret_cast<std::uintptr_t>(global) % 16 != 0) {
    cuda_emulation::running_block->fail(where, {"load_streaming_16 of an address that is not aligned to 16"});
  }
  return *static_cast<const uint4*>(global);
}
inline void prefetch_l2(const void*) {}
inline void pause() { cuda_emulation::running_block->poll(); }
// Grids never overlap here.
inline void wait_for_previous_grid() {}
inline void let_next_grid_start() {}

}  // namespace molmoact2::kernels
