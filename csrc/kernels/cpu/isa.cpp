#include "kernels/cpu/isa.h"

namespace molmoact2::kernels {

const char* name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::portable:
      return "portable";
    case CpuIsa::neon:
      return "neon";
    case CpuIsa::avx2:
      return "avx2";
    case CpuIsa::avx512:
      return "avx512";
  }
  return "unknown";
}

std::vector<CpuIsa> available_isas() {
  std::vector<CpuIsa> isas = {CpuIsa::portable};
#if defined(__x86_64__)
  // These also ask whether the operating system saves the wide registers.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    isas.push_back(CpuIsa::avx2);
    if (__builtin_cpu_supports("avx512f")) isas.push_back(CpuIsa::avx512);
  }
#elif defined(__aarch64__)
  isas.push_back(CpuIsa::neon);  // part of the architecture
#endif
  return isas;
}

CpuIsa fastest_isa() { return available_isas().back(); }

}  // namespace molmoact2::kernels
