#include "kernels/cpu/simd_neon.h"
#include "kernels/flow/flow_ops_simd.h"

namespace molmoact2::kernels {

const FlowOps& flow_ops_neon() {
  static constinit const FlowOps kOps = SimdFlowOps<SimdNeon>::table(CpuIsa::neon);
  return kOps;
}

}  // namespace molmoact2::kernels
