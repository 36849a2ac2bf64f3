#include "kernels/context/context_ops_simd.h"
#include "kernels/cpu/simd_portable.h"

namespace molmoact2::kernels {

const ContextOps& context_ops_portable() {
  static constinit const ContextOps kOps = SimdContextOps<SimdPortable>::table(CpuIsa::portable);
  return kOps;
}

}  // namespace molmoact2::kernels
