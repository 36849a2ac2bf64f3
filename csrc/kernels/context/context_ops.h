// The operations of the context, compiled once per instruction set.
#pragma once

#include <cstddef>

#include "kernels/cpu/isa.h"

namespace molmoact2::kernels {

// A block of tokens times all rows of one projection. Weights are packed in strips of `strip` features, each
// (depth, strip), the last padded with zeros: a strip stays in the second-level cache, together with the
// tokens, while all of them pass it, and the projection's weights are read once a block.
struct TokenBlock {
  const float* const* rows = nullptr;  // (tokens,): where each token's numbers are
  int tokens = 0;
  int depth = 0;
  const float* strips = nullptr;
  int strip_count = 0;
  float* panels = nullptr;     // (tokens rounded up to whole panels, depth): workspace
  float* projected = nullptr;  // (tokens rounded up to whole panels, strip_count * strip)
};

struct ContextOps {
  CpuIsa isa = CpuIsa::portable;
  int panel_rows = 0;
  int strip = 0;

  void (*project)(const TokenBlock& block) = nullptr;
  // The sum of the squares of `count` numbers.
  float (*sum_of_squares)(const float* x, int count) = nullptr;
  // out = x * factor.
  void (*scaled_copy)(const float* x, int count, float factor, float* out) = nullptr;
};

// Null when this build does not have the instruction set.
const ContextOps* context_ops(CpuIsa isa);

const ContextOps& context_ops_portable();
#if defined(__x86_64__)
const ContextOps& context_ops_avx2();
const ContextOps& context_ops_avx512();
#elif defined(__aarch64__)
const ContextOps& context_ops_neon();
#endif

}  // namespace molmoact2::kernels
