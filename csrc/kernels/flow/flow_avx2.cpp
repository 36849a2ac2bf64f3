#include "kernels/cpu/simd_avx2.h"
#include "kernels/flow/flow_ops_simd.h"

namespace molmoact2::kernels {

const FlowOps& flow_ops_avx2() {
  static constinit const FlowOps kOps = SimdFlowOps<SimdAvx2>::table(CpuIsa::avx2);
  return kOps;
}

}  // namespace molmoact2::kernels
