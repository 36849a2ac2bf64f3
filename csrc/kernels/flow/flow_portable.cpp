#include "kernels/cpu/simd_portable.h"
#include "kernels/flow/flow_ops_simd.h"

namespace molmoact2::kernels {

const FlowOps& flow_ops_portable() {
  static constinit const FlowOps kOps = SimdFlowOps<SimdPortable>::table(CpuIsa::portable);
  return kOps;
}

}  // namespace molmoact2::kernels
