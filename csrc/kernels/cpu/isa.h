// Instruction sets that the CPU kernels are compiled for, chosen at run time.
#pragma once

#include <cstdint>
#include <vector>

namespace molmoact2::kernels {

enum class CpuIsa : std::uint8_t {
  portable,  // the compiler's baseline; on every machine
  neon,      // aarch64
  avx2,      // AVX2 and FMA
  avx512,    // AVX-512F
};

const char* name(CpuIsa isa);

// What this build and this processor can run, slowest first; never empty.
std::vector<CpuIsa> available_isas();

// The last of available_isas().
CpuIsa fastest_isa();

}  // namespace molmoact2::kernels
