#include "kernels/context/context_ops_simd.h"
#include "kernels/cpu/simd_avx2.h"

namespace molmoact2::kernels {

const ContextOps& context_ops_avx2() {
  static constinit const ContextOps kOps = SimdContextOps<SimdAvx2>::table(CpuIsa::avx2);
  return kOps;
}

}  // namespace molmoact2::kernels
