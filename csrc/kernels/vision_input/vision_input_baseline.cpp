#include "kernels/vision_input/vision_input_rows.h"

namespace molmoact2::kernels {

// Where the baseline lacks the instruction (x86-64), std::fmaf() is the C library's, as exact and slower.
const VisionInputRows& vision_input_rows_baseline() { return kRowsOfThisFile; }

}  // namespace molmoact2::kernels
