// A whole kernel: its blocks on host threads that take turns.
#pragma once

#include "block.h"

namespace molmoact2::cuda_emulation {

// Runs the kernel to its end; launch.failure says how it went. One at a time in the process.
void run_blocks_in_turn(Launch& launch);
void run_blocks_together(Launch& launch);

}  // namespace molmoact2::cuda_emulation
