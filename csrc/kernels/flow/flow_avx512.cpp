#include "kernels/cpu/simd_avx512.h"
#include "kernels/flow/flow_ops_simd.h"

namespace molmoact2::kernels {

const FlowOps& flow_ops_avx512() {
  static constinit const FlowOps kOps = SimdFlowOps<SimdAvx512>::table(CpuIsa::avx512);
  return kOps;
}

}  // namespace molmoact2::kernels
