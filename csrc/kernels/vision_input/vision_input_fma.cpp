#include "kernels/vision_input/vision_input_rows.h"

namespace molmoact2::kernels {

const VisionInputRows& vision_input_rows_fma() { return kRowsOfThisFile; }

}  // namespace molmoact2::kernels
