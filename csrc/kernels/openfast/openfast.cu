#include <cuda_runtime.h>

#include <climits>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

#include "kernels/device/launch.cuh"
#include "kernels/device/warp.cuh"
#include "kernels/openfast/openfast.h"

// A sequence is a few hundred bytes, so the time is that of two launches. What the serial decoder does byte
// by byte is done for all bytes at once, and gives the same answer: up to the first byte that is no text,
// every character begins where the bytes themselves say so, and of all reasons to stop the first in the text
// counts.

namespace molmoact2::kernels {
namespace {

constexpr int kParseThreads = 512;
constexpr int kInverseThreads = 128;
// Where the text stops to make sense, and why, in one number that orders by place: 2 * byte, and 1 added
// where the byte completes a character too many.
constexpr int kNowhere = INT_MAX;

// Everything is device memory.
struct DecodeTables {
  const std::int32_t* offsets;  // (vocabulary + 1,): where the bytes of each id begin
  const std::uint8_t* bytes;
  const double* cosines;  // (steps, steps): (frequency, time)
  const double* norms;    // (steps,)
  std::uint8_t* text;     // (text_limit,): workspace
  double* coefficients;   // (steps, dims): workspace
  std::int64_t vocabulary;
  double scale;
  std::int32_t min_token;
  int steps;
  int dims;
};

// The sum over the threads before this one; `total` becomes the sum over all. scratch: one entry per warp.
__device__ int sum_before(int value, int* scratch, int& total) {
  int inclusive = value;
  for (int distance = 1; distance < kWarpLanes; distance *= 2) {
    const int other = __shfl_up_sync(kAllLanes, inclusive, static_cast<unsigned>(distance));
    if (lane_index() >= distance) inclusive += other;
  }
  if (lane_index() == kWarpLanes - 1) scratch[warp_index()] = inclusive;
  __syncthreads();
  int before = inclusive - value;
  total = 0;
  for (int warp = 0; warp < kParseThreads / kWarpLanes; ++warp) {
    if (warp < warp_index()) before += scratch[warp];
    total += scratch[warp];
  }
  __syncthreads();
  return before;
}

__device__ int block_min(int value, int* scratch) { return -block_max(-value, scratch); }

struct Text {
  int length;          // in bytes, at most text_limit()
  bool unknown_token;  // the text ends before an id that is not in the vocabulary
};

// Puts the bytes of the tokens one after another, up to the first token that is unknown.
__device__ Text expand_tokens(const DecodeTables& tables, const std::int64_t* tokens, int count, int limit,
                              int* scratch) {
  const int thread = static_cast<int>(threadIdx.x);
  Text text{0, false};
  for (int first = 0; first < count && text.length < limit && !text.unknown_token; first += kParseThreads) {
    const int at = first + thread;
    const std::int64_t token = at < count ? tokens[at] : 0;
    const bool known = token >= 0 && token < tables.vocabulary;
    const int first_unknown = block_min(at < count && !known ? at : kNowhere, scratch);
    text.unknown_token = first_unknown != kNowhere;
    int begin = 0;
    int length = 0;
    if (at < count && at < first_unknown) {
      begin = tables.offsets[token];
      length = tables.offsets[token + 1] - begin;
    }
    int added = 0;
    const int to = text.length + sum_before(length, scratch, added);
    for (int i = 0; i < length && to + i < limit; ++i) tables.text[to + i] = tables.bytes[begin + i];
    text.length += added;
  }
  text.length = min(text.length, limit);
  __syncthreads();  // the text is complete for all threads
  return text;
}

__device__ bool continues(std::uint8_t byte) { return (byte & 0xC0) == 0x80; }

// Whether the continuation byte at `at` belongs to a character that began before it.
__device__ bool belongs(const std::uint8_t* text, int at) {
  for (int back = 1; back < kMaxUtf8Bytes && back <= at; ++back) {
    const std::uint8_t byte = text[at - back];
    if (continues(byte)) continue;
    Utf8Decoder decoder;
    decoder.feed(byte);
    return decoder.remaining() >= back;
  }
  return false;
}

struct Character {
  int fault = kNowhere;  // by the bytes alone
  int last = 0;          // its last byte
  char32_t code = 0;
  bool complete = false;
};

__device__ Character read_character(const std::uint8_t* text, int first, int length) {
  Character character;
  Utf8Decoder decoder;
  for (int at = first; at < length; ++at) {
    const Utf8Decoder::Step step = decoder.feed(text[at]);
    if (step == Utf8Decoder::Step::needs_more) continue;
    character.last = at;
    character.code = decoder.code_point();
    character.complete = step == Utf8Decoder::Step::code_point;
    if (!character.complete || character.code == kReplacementCharacter) character.fault = 2 * at;
    break;
  }
  return character;
}

// One block: tokens to coefficients times the norms of their frequencies, and the status.
__global__ void __launch_bounds__(kParseThreads)
    parse_kernel(const DecodeTables tables, const std::int64_t* __restrict__ tokens, int capacity,
                 const std::int32_t* __restrict__ token_count, std::int32_t* __restrict__ status) {
  __shared__ int scratch[kMaxWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const int expected = tables.steps * tables.dims;
  const int count = *token_count;
  if (count < 0 || count > capacity) {
    if (thread == 0) *status = static_cast<std::int32_t>(OpenFastStatus::bad_shape);
    return;
  }
  const Text text = expand_tokens(tables, tokens, count, text_limit(expected), scratch);

  int fault = kNowhere;
  int cut_short = 0;  // a character of this thread misses its last bytes
  int characters = 0;
  for (int first = 0; first < text.length; first += kParseThreads) {
    const int at = first + thread;
    const bool begins = at < text.length && !continues(tables.text[at]);
    int begun = 0;
    const int index = characters + sum_before(begins ? 1 : 0, scratch, begun);
    characters += begun;
    if (begins) {
      const Character character = read_character(tables.text, at, text.length);
      if (character.fault != kNowhere) {
        fault = min(fault, character.fault);
      } else if (!character.complete) {
        cut_short = 1;
      } else if (index >= expected) {
        fault = min(fault, 2 * character.last + 1);
      } else {
        // Small integers are exact in double, so the sum is the public code's; its division is kept as well.
        const double value = (static_cast<double>(character.code) + tables.min_token) / tables.scale;
        tables.coefficients[index] = value * tables.norms[index / tables.dims];
      }
    } else if (at < text.length && !belongs(tables.text, at)) {
      fault = min(fault, 2 * at);
    }
  }
  fault = block_min(fault, scratch);
  cut_short = block_max(cut_short, scratch);
  if (thread != 0) return;
  OpenFastStatus found = OpenFastStatus::ok;
  if (fault != kNowhere) {
    found = fault % 2 == 0 ? OpenFastStatus::not_text : OpenFastStatus::coefficient_count;
  } else if (text.unknown_token) {
    found = OpenFastStatus::token_out_of_range;
  } else if (cut_short != 0) {
    found = OpenFastStatus::not_text;
  } else if (characters != expected) {
    found = OpenFastStatus::coefficient_count;
  }
  *status = static_cast<std::int32_t>(found);
}

// A thread per number of the chunk's first half and the one as far from its end; sums as on the CPU, and with
// two roundings each, as there.
__global__ void __launch_bounds__(kInverseThreads)
    inverse_kernel(const DecodeTables tables, const std::int32_t* __restrict__ status,
                   double* __restrict__ chunk) {
  const int index = static_cast<int>(blockIdx.x * kInverseThreads + threadIdx.x);
  const int time = index / tables.dims;
  const int dim = index % tables.dims;
  if (time >= (tables.steps + 1) / 2 || *status != static_cast<std::int32_t>(OpenFastStatus::ok)) return;
  const double* coefficient = tables.coefficients + dim;
  const double* cosine = tables.cosines + time;
  double sums[2] = {0.0, 0.0};
  for (int frequency = 0; frequency < tables.steps; frequency += 2) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      if (frequency + odd == tables.steps) break;
      sums[odd] = __dadd_rn(sums[odd], __dmul_rn(*coefficient, *cosine));
      coefficient += tables.dims;
      cosine += tables.steps;
    }
  }
  chunk[(tables.steps - 1 - time) * tables.dims + dim] = sums[0] - sums[1];
  chunk[time * tables.dims + dim] = sums[0] + sums[1];
}

void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

}  // namespace

// One allocation for all tables and the workspace.
class CudaOpenFastDecoder::Tables {
 public:
  Tables(const OpenFastCodec& codec, int steps, int dims) {
    const DctBasis basis(steps);
    const std::span<const std::int32_t> offsets = codec.text().offsets;
    const std::span<const std::uint8_t> bytes = codec.text().bytes;
    const auto count = static_cast<std::size_t>(steps) * static_cast<std::size_t>(dims);
    const std::size_t doubles = basis.cosines().size() + basis.norms().size() + count;
    const auto text = static_cast<std::size_t>(text_limit(steps * dims));
    const std::size_t size =
        doubles * sizeof(double) + offsets.size() * sizeof(std::int32_t) + bytes.size() + text;
    require(cudaMalloc(&memory_, size), "the tables of an OpenFAST decoder do not fit on the device");
    try {
      auto* at = static_cast<unsigned char*>(memory_);
      const double* const cosines = put(basis.cosines().data(), basis.cosines().size(), at);
      const double* const norms = put(basis.norms().data(), basis.norms().size(), at);
      auto* const coefficients = reinterpret_cast<double*>(at);
      at += count * sizeof(double);
      const std::int32_t* const begins = put(offsets.data(), offsets.size(), at);
      const std::uint8_t* const characters = put(bytes.data(), bytes.size(), at);
      view_ = {begins,        characters,        cosines, norms, at, coefficients, codec.vocabulary_size(),
               codec.scale(), codec.min_token(), steps,   dims};
      // The last bytes of a copy may be under way when it returns, and other streams do not wait for it.
      require(cudaStreamSynchronize(nullptr),
              "the tables of an OpenFAST decoder could not be copied to the device");
    } catch (...) {
      cudaFree(memory_);
      throw;
    }
  }
  Tables(const Tables&) = delete;
  Tables& operator=(const Tables&) = delete;
  ~Tables() { cudaFree(memory_); }

  const DecodeTables& view() const { return view_; }

 private:
  template <typename T>
  static const T* put(const T* from, std::size_t count, unsigned char*& at) {
    auto* const to = reinterpret_cast<T*>(at);
    if (count > 0) {
      require(cudaMemcpy(to, from, count * sizeof(T), cudaMemcpyHostToDevice),
              "the tables of an OpenFAST decoder could not be copied to the device");
    }
    at += count * sizeof(T);
    return to;
  }

  void* memory_ = nullptr;
  DecodeTables view_{};
};

CudaOpenFastDecoder::CudaOpenFastDecoder(const OpenFastCodec& codec, int steps, int dims) {
  if (steps < 1 || steps > DctBasis::kMaxLength || dims < 1 || dims > kMaxActionDims) {
    throw std::invalid_argument(describe(OpenFastStatus::bad_shape));
  }
  tables_ = std::make_unique<Tables>(codec, steps, dims);
}

CudaOpenFastDecoder::~CudaOpenFastDecoder() = default;

int CudaOpenFastDecoder::steps() const { return tables_->view().steps; }
int CudaOpenFastDecoder::dims() const { return tables_->view().dims; }

OpenFastStatus CudaOpenFastDecoder::decode(const std::int64_t* tokens, int capacity,
                                           const std::int32_t* count, double* chunk, std::int32_t* status,
                                           CUstream_st* stream) const {
  const DecodeTables& tables = tables_->view();
  const int numbers = (tables.steps + 1) / 2 * tables.dims;
  const auto blocks = static_cast<unsigned>((numbers + kInverseThreads - 1) / kInverseThreads);
  cudaError_t error = launch({dim3(1), dim3(kParseThreads), 0, stream}, parse_kernel, tables, tokens,
                             capacity, count, status);
  if (error == cudaSuccess) {
    error = launch({dim3(blocks), dim3(kInverseThreads), 0, stream}, inverse_kernel, tables, status, chunk);
  }
  return error == cudaSuccess ? OpenFastStatus::ok : OpenFastStatus::cuda_failed;
}

}  // namespace molmoact2::kernels
