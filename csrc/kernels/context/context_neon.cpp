#include "kernels/context/context_ops_simd.h"
#include "kernels/cpu/simd_neon.h"

namespace molmoact2::kernels {

const ContextOps& context_ops_neon() {
  static constinit const ContextOps kOps = SimdContextOps<SimdNeon>::table(CpuIsa::neon);
  return kOps;
}

}  // namespace molmoact2::kernels
