// Loops that are unrolled before the optimizer decides what lives in registers.
#pragma once

#include <utility>

#define MOLMOACT2_INLINE inline __attribute__((always_inline))

namespace molmoact2::kernels {
namespace {

template <int I>
struct Index {
  static constexpr int value = I;
};

template <typename Body, int... I>
MOLMOACT2_INLINE void unroll_indices(const Body& body, std::integer_sequence<int, I...>) {
  (body(Index<I>{}), ...);
}

// body(Index<0>{}), ..., body(Index<Count - 1>{}): an array indexed by Index::value needs no memory.
template <int Count, typename Body>
MOLMOACT2_INLINE void unroll(const Body& body) {
  unroll_indices(body, std::make_integer_sequence<int, Count>{});
}

}  // namespace
}  // namespace molmoact2::kernels
