#include "kernels/context/context_ops_simd.h"
#include "kernels/cpu/simd_avx512.h"

namespace molmoact2::kernels {

const ContextOps& context_ops_avx512() {
  static constinit const ContextOps kOps = SimdContextOps<SimdAvx512>::table(CpuIsa::avx512);
  return kOps;
}

}  // namespace molmoact2::kernels
