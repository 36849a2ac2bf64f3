// The action expert's whole Euler loop on a CUDA device: what flow.h computes, in bf16 with float sums.
//
// Symbols are those of flow.h. Pointers are device memory, row-major and contiguous. Matrices, biases and the
// context are bf16; x, the residual stream and every sum are float; a number that one block hands to another
// as an operand of a matrix product is rounded to bf16, about as often as a bf16 network of plain layers
// does.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "kernels/flow/flow.h"

struct CUstream_st;  // cudaStream_t is a pointer to it

namespace molmoact2::kernels {

enum class CudaFlowStatus : std::uint8_t {
  ok,
  bad_horizon,   // T outside 1..max_horizon
  bad_context,   // a null pointer, keys or values not aligned to 16 bytes, or a capacity below 1
  bad_schedule,  // a null pointer, or N outside 1..kMaxFlowSteps
  bad_columns,   // valid_columns outside 0..A
  bad_sample,    // a null pointer
  bad_guide,     // a guide without weights, or weights without a guide
  cuda_failed,   // a launch was refused; see cudaPeekAtLastError or the stream
};

// One sentence for an error message.
const char* describe(CudaFlowStatus status);

// Bounds of the CUDA loop, on top of those of flow.h; an even D is needed too.
inline constexpr int kMaxCudaFlowHorizon = 79;
inline constexpr int kMaxCudaFlowHead = 128;
inline constexpr int kMaxCudaFlowWidth = 768;   // of E, and of H times D rounded up to 16
inline constexpr int kMaxCudaFlowColumns = 64;  // of A

struct CudaLinearView {
  const void* weight = nullptr;  // (out, in)
  const void* bias = nullptr;    // (out,)
};

// As in FlowBlockWeights.
struct CudaFlowBlockWeights {
  CudaLinearView qkv, self_out, query, cross_out, up_gate, down;
};

struct CudaFlowWeights {
  CudaLinearView action_embed;  // (E, A)
  CudaLinearView final;         // (A, E)
  std::span<const CudaFlowBlockWeights> blocks;
};

// (L, H, capacity, D), of which the first *tokens of each head are read. The count is read on the device, so
// that one captured graph serves every prompt; outside 1..capacity it makes the whole result NaN.
struct CudaFlowContext {
  const void* keys = nullptr;
  const void* values = nullptr;
  int capacity = 0;
  const int* tokens = nullptr;
};

enum class ModulationType : std::uint8_t { float32, bfloat16 };

struct CudaFlowSchedule {
  int steps = 0;
  ModulationType type = ModulationType::float32;
  const void* blocks = nullptr;  // (N, L, 9, E)
  const void* final = nullptr;   // (N, 2, E)
};

// As FlowSample; guide and guide_weight are only read on the device.
using CudaFlowSample = FlowSample;

// Weights in the order in which each thread will want them, and a workspace.
//
// Both ways to run give the same bits, call after call. NaN in x, weights or context comes out as NaN; so may
// infinity. Between plans of different numbers of blocks the order of the sums over context tokens differs.
class CudaFlowPlan {
 public:
  // Packs the weights on the current device and waits for it; the weights may be freed afterwards.
  // `blocks`: one per multiprocessor when 0; otherwise as many, at most that.
  // Throws std::invalid_argument on shapes outside the bounds, null pointers, or a device that cannot run all
  // blocks at once; std::bad_alloc without memory; std::runtime_error when CUDA fails.
  CudaFlowPlan(const FlowShapes& shapes, const FlowOptions& options, const CudaFlowWeights& weights,
               int max_horizon, int blocks = 0);
  CudaFlowPlan(const CudaFlowPlan&) = delete;
  CudaFlowPlan& operator=(const CudaFlowPlan&) = delete;
  ~CudaFlowPlan();

  const FlowShapes& shapes() const;
  int max_horizon() const;
  int blocks() const;
  std::size_t device_bytes() const;  // of packed weights and workspace

  // Queue the loop; neither allocates nor waits, and both can be captured into a CUDA graph. What they read
  // and write must stay until the stream has done it, and two runs of one plan must not overlap.
  // One cooperative launch, in which blocks hand numbers over as they become ready:
  CudaFlowStatus run_persistent(const CudaFlowContext& context, const CudaFlowSchedule& schedule,
                                const CudaFlowSample& sample, CUstream_st* stream);
  // One launch per phase, each overlapping the end of the one before where the device can:
  CudaFlowStatus run_launches(const CudaFlowContext& context, const CudaFlowSchedule& schedule,
                              const CudaFlowSample& sample, CUstream_st* stream);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace molmoact2::kernels
