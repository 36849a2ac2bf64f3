// The memory of the emulated device.
#pragma once

#include <cstddef>
#include <string>

namespace molmoact2::cuda_emulation {

// True when all the bytes lie within one live allocation.
bool is_device_memory(const void* memory, std::size_t bytes);

// Says which allocation was written around, "" if none; mends it, so that it is told once.
std::string damaged_allocation();

}  // namespace molmoact2::cuda_emulation
