// What the CPU and CUDA versions refuse alike.
#pragma once

#include <initializer_list>

#include "kernels/decoder_ops/decoder_ops.h"

namespace molmoact2::kernels {

inline DecoderOpsStatus check_rows(RowsShape shape, std::initializer_list<const void*> pointers) {
  if (shape.rows < 0 || shape.rows > kMaxDecoderSize || shape.width < 1 || shape.width > kMaxDecoderSize) {
    return DecoderOpsStatus::bad_shape;
  }
  for (const void* const pointer : pointers) {
    if (pointer == nullptr && shape.rows > 0) return DecoderOpsStatus::bad_pointer;
  }
  return DecoderOpsStatus::ok;
}

inline DecoderOpsStatus check_qkv(const QkvShape& shape, QkNorm norm, const void* q_weight,
                                  const void* k_weight, std::initializer_list<const void*> pointers) {
  const bool heads_fit = shape.kv_heads >= 1 && shape.heads >= shape.kv_heads &&
                         shape.heads <= kMaxDecoderHeads && shape.heads % shape.kv_heads == 0;
  const bool head_fits =
      shape.head_dim >= 2 && shape.head_dim <= kMaxDecoderHeadDim && shape.head_dim % 2 == 0;
  const bool cache_fits = shape.capacity >= 1 && shape.capacity <= kMaxDecoderSize &&
                          shape.table_positions >= 1 && shape.table_positions <= kMaxDecoderSize;
  if (!heads_fit || !head_fits || !cache_fits) return DecoderOpsStatus::bad_shape;
  if (norm != QkNorm::none && (q_weight == nullptr || k_weight == nullptr)) {
    return DecoderOpsStatus::bad_pointer;
  }
  return check_rows({shape.rows, shape.width()}, pointers);
}

inline DecoderOpsStatus check_range(RowsShape shape, int first, int last,
                                    std::initializer_list<const void*> pointers) {
  const DecoderOpsStatus status = check_rows(shape, pointers);
  if (status != DecoderOpsStatus::ok) return status;
  return first >= 0 && first < last && last <= shape.width ? DecoderOpsStatus::ok
                                                           : DecoderOpsStatus::bad_range;
}

}  // namespace molmoact2::kernels
