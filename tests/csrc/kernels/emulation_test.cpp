// What the emulation must find, in kernels that are wrong on purpose, and what it must let pass. Only ever
// run emulated: on a device most of this is undefined.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "check.h"
#include "cuda_emulation.h"
#include "device_array.h"
#include "kernels/device/bf16.cuh"
#include "kernels/device/grid_barrier.cuh"
#include "kernels/device/launch.cuh"
#include "kernels/device/ptx.cuh"
#include "kernels/device/shared.cuh"
#include "kernels/device/warp.cuh"

namespace {

namespace emulation = molmoact2::cuda_emulation;
namespace kernels = molmoact2::kernels;
using kernels::kAllLanes;
using kernels::LaunchShape;
using molmoact2::check::DeviceArray;

constexpr int kThreads = 128;

std::vector<int> counted(std::size_t size) {
  std::vector<int> values(size);
  std::iota(values.begin(), values.end(), 0);
  return values;
}

// Launches, expects the launch to be accepted, and returns what it then failed with.
template <class... Parameters, class... Arguments>
std::string failure_of(const LaunchShape& shape, void (*kernel)(Parameters...), Arguments... arguments) {
  CHECK_EQ(kernels::launch(shape, kernel, arguments...), cudaSuccess);
  return emulation::take_failure();
}

bool mentions(const std::string& failure, const char* part) {
  if (failure.find(part) != std::string::npos) return true;
  std::cerr << "the failure is \"" << failure << "\"\n";
  return false;
}

int multiprocessors() {
  int count = 0;
  CHECK_EQ(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, 0), cudaSuccess);
  return count;
}

__global__ void reverse_kernel(int* values, bool synchronize) {
  __shared__ int copy[kThreads];
  copy[threadIdx.x] = values[threadIdx.x];
  if (synchronize) __syncthreads();
  values[threadIdx.x] = copy[kThreads - 1 - threadIdx.x];
}

__global__ void divergent_barrier_kernel() {
  if (threadIdx.x == 3) {  // NOLINT(bugprone-branch-clone): two barriers, that is the point
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void unreached_barrier_kernel() {
  if (threadIdx.x == 0) {
    while (true) kernels::pause();
  }
  __syncthreads();
}

__global__ void early_end_kernel(int* count) {
  if (threadIdx.x >= 5) return;
  __syncthreads();
  atomicAdd(count, 1);
}

__global__ void missing_lane_kernel(int* result) {
  if (threadIdx.x == 7) return;
  *result = __shfl_sync(kAllLanes, 1, 0);
}

__global__ void unnamed_lane_kernel() { __syncwarp(0xFFFFU); }

__global__ void mixed_operations_kernel() {
  if (threadIdx.x % 2 == 0) {
    __syncwarp();
  } else {
    __ballot_sync(kAllLanes, 1);
  }
}

__global__ void half_warps_kernel(unsigned* votes) {
  const unsigned mask = threadIdx.x < 16 ? 0x0000FFFFU : 0xFFFF0000U;
  const unsigned vote = __ballot_sync(mask, threadIdx.x % 3 == 0 ? 1 : 0);
  if (threadIdx.x % 16 == 0) votes[threadIdx.x / 16] = vote;
}

__global__ void shuffle_kernel(int* results) {
  const int lane = static_cast<int>(threadIdx.x);
  results[lane] = __shfl_up_sync(kAllLanes, lane, 1);
  results[32 + lane] = __shfl_down_sync(kAllLanes, lane, 5, 8);
  results[64 + lane] = __shfl_xor_sync(kAllLanes, lane, 9);
  results[96 + lane] = __shfl_sync(kAllLanes, lane, 11, 8);
}

__global__ void wait_for_another_block_kernel(unsigned* flag) {
  if (blockIdx.x == 0) kernels::store_release(flag, 1);
  if (blockIdx.x == 1) {
    while (kernels::load_acquire(flag) == 0) kernels::pause();
  }
}

__global__ void wait_for_nobody_kernel(unsigned* flag) {
  while (kernels::load_acquire(flag) == 0) {
  }
}

__global__ void idle_kernel() {}

__global__ void stray_write_kernel(int* values, int at) { values[at] = 1; }

__global__ void stray_shared_write_kernel(int at) { kernels::dynamic_shared<int>()[at] = 1; }

__global__ void fresh_memory_kernel(float* seen, const float* fresh) {
  __shared__ float fixed[4];
  seen[0] = fixed[blockIdx.x];
  seen[1] = kernels::dynamic_shared<float>()[blockIdx.x];
  seen[2] = fresh[0];
  fixed[blockIdx.x] = 1.0F;
  kernels::dynamic_shared<float>()[blockIdx.x] = 1.0F;
}

// Each thread copies 16 bytes and adds up what its neighbour copied.
__global__ void async_copy_kernel(const float* input, float* output, bool wait) {
  auto* const tile = kernels::dynamic_shared<float>();
  const int lane = static_cast<int>(threadIdx.x);
  kernels::cp_async_16_or_zero(tile + lane * 4, input + lane * 4, lane != 2);
  kernels::cp_async_commit();
  if (wait) kernels::cp_async_wait<0>();
  __syncthreads();
  const float* const neighbour = tile + (lane + 1) % 32 * 4;
  output[lane] = neighbour[0] + neighbour[1] + neighbour[2] + neighbour[3];
}

__global__ void two_groups_kernel(const float* input, float* output) {
  auto* const tile = kernels::dynamic_shared<float>();
  kernels::cp_async_16(tile, input);
  kernels::cp_async_commit();
  kernels::cp_async_16(tile + 4, input + 4);
  kernels::cp_async_commit();
  kernels::cp_async_wait<1>();
  output[0] = tile[0];
  output[1] = tile[4];
}

__global__ void misaligned_copy_kernel(const float* input) {
  kernels::cp_async_16(kernels::dynamic_shared<float>() + 1, input);
}

__global__ void stray_matrix_kernel(const float* global) {
  std::uint32_t r[2];
  kernels::ldmatrix_x2(r, global);
}

// D = A B with A (16, 16) row-major, B given as (8, 16) rows of n or, transposed, as (16, 8) rows of k.
__global__ void multiply_kernel(const std::uint16_t* a, const std::uint16_t* b, float* d,
                                bool b_by_rows_of_k) {
  __shared__ __align__(16) std::uint16_t tile_a[16 * 16];
  __shared__ __align__(16) std::uint16_t tile_b[16 * 8];
  const int lane = kernels::lane_index();
  for (int i = lane; i < 256; i += 32) tile_a[i] = a[i];
  for (int i = lane; i < 128; i += 32) tile_b[i] = b[i];
  __syncwarp();
  std::uint32_t fragment_a[4];
  std::uint32_t fragment_b[2];
  kernels::ldmatrix_x4(fragment_a, tile_a + lane % 16 * 16 + lane / 16 * 8);
  if (b_by_rows_of_k) {
    kernels::ldmatrix_x2_trans(fragment_b, tile_b + lane % 16 * 8);
  } else {
    kernels::ldmatrix_x2(fragment_b, tile_b + lane % 8 * 16 + lane / 8 % 2 * 8);
  }
  float fragment_d[4] = {1.0F, 1.0F, 1.0F, 1.0F};
  kernels::mma_m16n8k16_bf16(fragment_d, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = fragment_d[i];
}

// Every round each block adds what the one after it wrote in the round before.
__global__ void rounds_kernel(kernels::GridBarrierState* state, int rounds, long long* values) {
  kernels::GridBarrier barrier(state);
  const unsigned next = (blockIdx.x + 1) % gridDim.x;
  for (int round = 0; round < rounds; ++round) {
    const long long* const before = values + round % 2 * static_cast<long long>(gridDim.x);
    long long* const after = values + (round + 1) % 2 * static_cast<long long>(gridDim.x);
    if (threadIdx.x == blockDim.x - 1) after[blockIdx.x] = before[blockIdx.x] + 3 * before[next];
    barrier.arrive();
    barrier.wait();
  }
}

__global__ void block_reductions_kernel(float* results) {
  __shared__ float scratch[kernels::kMaxWarps];
  const auto value = static_cast<float>(threadIdx.x);
  const float sum = kernels::block_sum(value, scratch);
  const float most = kernels::block_max(-value, scratch);
  const float pair = kernels::warp_sum<2>(value);
  if (threadIdx.x == 37) {
    results[0] = sum;
    results[1] = most;
    results[2] = pair;
  }
}

}  // namespace

CASE("a missing barrier gives wrong results, with it all is well") {
  for (const bool synchronize : {false, true}) {
    const std::vector<int> values = counted(kThreads);
    const DeviceArray<int> device(values);
    REQUIRE(kernels::launch({.grid = 1, .block = kThreads}, reverse_kernel, device.get(), synchronize) ==
            cudaSuccess);
    CHECK_EQ(device.to_host() == std::vector<int>(values.rbegin(), values.rend()), synchronize);
  }
}

CASE("barriers that cannot be met are reported") {
  CHECK(mentions(failure_of({.grid = 2, .block = 64}, divergent_barrier_kernel), "different barriers"));
  const std::string unreached = failure_of({.grid = 1, .block = 64}, unreached_barrier_kernel);
  CHECK(mentions(unreached, "deadlock"));
  CHECK(mentions(unreached, "poll"));
}

CASE("a barrier waits for no thread that has ended") {
  const DeviceArray<int> count(std::vector<int>{0});
  CHECK_EQ(failure_of({.grid = 1, .block = 64}, early_end_kernel, count.get()), "");
  CHECK_EQ(count.to_host().front(), 5);
}

CASE("warp operations of lanes that do not come together are reported") {
  const DeviceArray<int> result(1);
  CHECK(mentions(failure_of({.grid = 1, .block = 32}, missing_lane_kernel, result.get()), "ended"));
  CHECK(mentions(failure_of({.grid = 1, .block = 20}, missing_lane_kernel, result.get()), "does not have"));
  CHECK(mentions(failure_of({.grid = 1, .block = 32}, unnamed_lane_kernel), "does not name"));
  CHECK(mentions(failure_of({.grid = 1, .block = 32}, mixed_operations_kernel), "meet here at"));
}

CASE("lanes may meet in parts of a warp") {
  const DeviceArray<unsigned> votes(2);
  CHECK_EQ(failure_of({.grid = 1, .block = 32}, half_warps_kernel, votes.get()), "");
  CHECK(votes.to_host() == std::vector<unsigned>({0x00009249U, 0x49240000U}));
}

CASE("shuffles read the lanes that CUDA says") {
  const DeviceArray<int> results(128);
  REQUIRE(kernels::launch({.grid = 1, .block = 32}, shuffle_kernel, results.get()) == cudaSuccess);
  const std::vector<int> values = results.to_host();
  for (int lane = 0; lane < 32; ++lane) {
    const auto at = static_cast<std::size_t>(lane);
    CHECK_EQ(values[at], lane == 0 ? 0 : lane - 1);
    CHECK_EQ(values[32 + at], lane % 8 < 3 ? lane + 5 : lane);
    CHECK_EQ(values[64 + at], lane ^ 9);
    CHECK_EQ(values[96 + at], lane / 8 * 8 + 3);
  }
}

CASE("only blocks of a cooperative launch can wait for one another") {
  const LaunchShape together{.grid = 2, .block = 1, .cooperative = true};
  const DeviceArray<unsigned> flag(std::vector<unsigned>{0});
  CHECK_EQ(failure_of(together, wait_for_another_block_kernel, flag.get()), "");
  const DeviceArray<unsigned> never(std::vector<unsigned>{0});
  CHECK(
      mentions(failure_of({.grid = 1, .block = 1}, wait_for_nobody_kernel, never.get()), "not cooperative"));
  CHECK(mentions(failure_of(together, wait_for_nobody_kernel, never.get()), "deadlock"));
}

CASE("a fault shows in the calls after the launch") {
  REQUIRE(kernels::launch({.grid = 1, .block = 64}, divergent_barrier_kernel) == cudaSuccess);
  int value = 0;
  void* memory = nullptr;
  CHECK_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  CHECK_EQ(cudaMalloc(&memory, 4), cudaErrorLaunchFailure);
  CHECK_EQ(cudaMemcpy(&value, &value, 4, cudaMemcpyHostToHost), cudaErrorLaunchFailure);
  CHECK_EQ(kernels::launch({.grid = 1, .block = 64}, divergent_barrier_kernel), cudaErrorLaunchFailure);
  CHECK_EQ(cudaGetLastError(), cudaErrorLaunchFailure);
  CHECK(!emulation::take_failure().empty());
  CHECK_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

CASE("writes beside an allocation are reported") {
  if (emulation::finds_every_stray_access()) {
    molmoact2::check::skip("the address sanitizer ends the process where it happens");
    return;
  }
  const DeviceArray<int> values(5);
  CHECK_EQ(failure_of({.grid = 1, .block = 1}, stray_write_kernel, values.get(), 4), "");
  CHECK(mentions(failure_of({.grid = 1, .block = 1}, stray_write_kernel, values.get(), 5), "past the end"));
  CHECK(mentions(failure_of({.grid = 1, .block = 1}, stray_write_kernel, values.get(), -1),
                 "before the start"));
  const LaunchShape shape{.grid = 1, .block = 1, .shared_bytes = 40};
  CHECK_EQ(failure_of(shape, stray_shared_write_kernel, 9), "");
  CHECK(mentions(failure_of(shape, stray_shared_write_kernel, 10), "past the end"));
}

CASE("fresh memory holds NaN, in every block") {
  const DeviceArray<float> seen(3);
  const DeviceArray<float> fresh(1);
  for (const bool cooperative : {false, true}) {
    const LaunchShape shape{.grid = 4, .block = 1, .shared_bytes = 64, .cooperative = cooperative};
    REQUIRE(kernels::launch(shape, fresh_memory_kernel, seen.get(), fresh.get()) == cudaSuccess);
    for (const float value : seen.to_host()) CHECK(std::isnan(value));
  }
}

CASE("a kernel's limit of shared memory is raised once to all that there is and never lowered") {
  int device_has = 0;
  REQUIRE(cudaDeviceGetAttribute(&device_has, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) == cudaSuccess);
  const auto most = static_cast<std::size_t>(device_has);
  const auto limit = [] {
    cudaFuncAttributes now{};
    CHECK_EQ(cudaFuncGetAttributes(&now, reinterpret_cast<const void*>(&idle_kernel)), cudaSuccess);
    return now.maxDynamicSharedSizeBytes;
  };
  const auto with = [](std::size_t shared_bytes) {
    return LaunchShape{.grid = 1, .block = 32, .shared_bytes = shared_bytes};
  };
  REQUIRE(most > 60 * 1024);
  CHECK_EQ(failure_of(with(kernels::kDefaultSharedBytes), idle_kernel), "");
  CHECK_EQ(limit(), kernels::kDefaultSharedBytes);
  CHECK_EQ(failure_of(with(50 * 1024), idle_kernel), "");
  CHECK_EQ(limit(), most);
  // What another thread may do between a thread's look at the limit and its launch: launch with less, make
  // sure of less, or ask for too much.
  CHECK_EQ(kernels::allow_shared_bytes(idle_kernel, most), cudaSuccess);
  CHECK_EQ(failure_of(with(49 * 1024), idle_kernel), "");
  CHECK_EQ(kernels::allow_shared_bytes(idle_kernel, 60 * 1024), cudaSuccess);
  CHECK_EQ(kernels::launch(with(most + 1), idle_kernel), cudaErrorInvalidValue);
  CHECK_EQ(limit(), most);
  CHECK_EQ(failure_of(with(most), idle_kernel), "");
}

CASE("a copy happens when it is waited for") {
  std::vector<float> input(128);
  std::iota(input.begin(), input.end(), 0.0F);
  const DeviceArray<float> device(input);
  const DeviceArray<float> output(32);
  const LaunchShape shape{.grid = 1, .block = 32, .shared_bytes = 512};
  REQUIRE(kernels::launch(shape, async_copy_kernel, device.get(), output.get(), true) == cudaSuccess);
  const std::vector<float> sums = output.to_host();
  for (int lane = 0; lane < 32; ++lane) {
    const int neighbour = (lane + 1) % 32;
    CHECK_EQ(sums[static_cast<std::size_t>(lane)],
             neighbour == 2 ? 0.0F : static_cast<float>(16 * neighbour + 6));
  }
  REQUIRE(kernels::launch(shape, async_copy_kernel, device.get(), output.get(), false) == cudaSuccess);
  for (const float value : output.to_host()) CHECK(std::isnan(value));

  REQUIRE(kernels::launch({.grid = 1, .block = 1, .shared_bytes = 32}, two_groups_kernel, device.get(),
                          output.get()) == cudaSuccess);
  CHECK_EQ(output.to_host()[0], 0.0F);
  CHECK(std::isnan(output.to_host()[1]));
  CHECK(mentions(failure_of(shape, misaligned_copy_kernel, device.get()), "aligned"));
}

CASE("matrices come from shared memory only") {
  const DeviceArray<float> global(64);
  CHECK(mentions(failure_of({.grid = 1, .block = 32}, stray_matrix_kernel, global.get()), "outside shared"));
}

CASE("fragments multiply as the instruction set says") {
  std::vector<std::uint16_t> a(256);
  std::vector<std::uint16_t> b(128);  // (8, 16): rows of n
  std::vector<std::uint16_t> b_by_k(128);
  const auto number = [](int value) {  // small whole numbers are exact in bf16
    return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(value)) >> 16);
  };
  const auto a_at = [](int i, int k) { return (5 * i + 3 * k) % 17 - 8; };
  const auto b_at = [](int k, int n) { return (7 * k + 11 * n) % 13 - 6; };
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 16; ++k) a[static_cast<std::size_t>(i * 16 + k)] = number(a_at(i, k));
  }
  for (int k = 0; k < 16; ++k) {
    for (int n = 0; n < 8; ++n) {
      b[static_cast<std::size_t>(n * 16 + k)] = number(b_at(k, n));
      b_by_k[static_cast<std::size_t>(k * 8 + n)] = number(b_at(k, n));
    }
  }
  const DeviceArray<std::uint16_t> device_a(a);
  for (const bool by_k : {false, true}) {
    const DeviceArray<std::uint16_t> device_b(by_k ? b_by_k : b);
    const DeviceArray<float> d(128);
    REQUIRE(kernels::launch({.grid = 1, .block = 32}, multiply_kernel, device_a.get(), device_b.get(),
                            d.get(), by_k) == cudaSuccess);
    const std::vector<float> product = d.to_host();
    for (int i = 0; i < 16; ++i) {
      for (int n = 0; n < 8; ++n) {
        int expected = 1;
        for (int k = 0; k < 16; ++k) expected += a_at(i, k) * b_at(k, n);
        CHECK_EQ(product[static_cast<std::size_t>(i * 8 + n)], static_cast<float>(expected));
      }
    }
  }
}

CASE("the grid barrier separates rounds and can be used again, by grids of any size") {
  const DeviceArray<kernels::GridBarrierState> state(std::vector<kernels::GridBarrierState>(1));
  for (const int blocks : {1, 2, multiprocessors(), 2 * multiprocessors() - 1}) {
    for (const int rounds : {1, 2, 7}) {
      const auto count = static_cast<std::size_t>(blocks);
      std::vector<long long> expected(count, 1);
      for (std::size_t i = 0; i < count; ++i) expected[i] = static_cast<long long>(i) + 1;
      std::vector<long long> initial = expected;
      initial.resize(2 * count, -1);
      for (int round = 0; round < rounds; ++round) {
        const std::vector<long long> before = expected;
        for (std::size_t i = 0; i < count; ++i) expected[i] = before[i] + 3 * before[(i + 1) % count];
      }
      const DeviceArray<long long> values(initial);
      REQUIRE(kernels::launch({.grid = static_cast<unsigned>(blocks), .block = 48, .cooperative = true},
                              rounds_kernel, state.get(), rounds, values.get()) == cudaSuccess);
      const std::vector<long long> all = values.to_host();
      const auto start = all.begin() + (rounds % 2 == 0 ? 0 : static_cast<std::ptrdiff_t>(count));
      CHECK(std::vector<long long>(start, start + static_cast<std::ptrdiff_t>(count)) == expected);
    }
  }
}

CASE("block and warp reductions reach every thread") {
  const DeviceArray<float> results(3);
  for (const unsigned threads : {64U, 96U, 1024U}) {
    REQUIRE(kernels::launch({.grid = 1, .block = threads}, block_reductions_kernel, results.get()) ==
            cudaSuccess);
    const unsigned sum = threads * (threads - 1) / 2;
    CHECK(results.to_host() == std::vector<float>({static_cast<float>(sum), 0.0F, 36.0F + 37.0F}));
  }
}

CASE("launches that a device refuses are refused") {
  const DeviceArray<int> values(kThreads);
  const auto launched = [&](const LaunchShape& shape) {
    return kernels::launch(shape, reverse_kernel, values.get(), true);
  };
  CHECK_EQ(launched({.grid = 0, .block = 128}), cudaErrorInvalidConfiguration);
  CHECK_EQ(launched({.grid = {1, 65536}, .block = 128}), cudaErrorInvalidConfiguration);
  CHECK_EQ(launched({.grid = 1, .block = 1025}), cudaErrorInvalidConfiguration);
  CHECK_EQ(launched({.grid = 1, .block = {32, 33}}), cudaErrorInvalidConfiguration);
  cudaDeviceProp device{};
  REQUIRE(cudaGetDeviceProperties(&device, 0) == cudaSuccess);
  CHECK_EQ(launched({.grid = 1, .block = 128, .shared_bytes = device.sharedMemPerBlockOptin}), cudaSuccess);
  CHECK_EQ(launched({.grid = 1, .block = 128, .shared_bytes = device.sharedMemPerBlockOptin + 1}),
           cudaErrorInvalidValue);
  const auto blocks = static_cast<unsigned>(device.multiProcessorCount);
  const std::size_t shared = device.sharedMemPerBlockOptin;
  CHECK_EQ(launched({.grid = blocks, .block = 128, .shared_bytes = shared, .cooperative = true}),
           cudaSuccess);
  CHECK_EQ(launched({.grid = blocks + 1, .block = 128, .shared_bytes = shared, .cooperative = true}),
           cudaErrorCooperativeLaunchTooLarge);
  CHECK_EQ(launched({.grid = 1, .block = 128, .overlap_previous = true}), cudaSuccess);
  CHECK_EQ(cudaGetLastError(), cudaSuccess);
}

CASE("copies check both sides") {
  const DeviceArray<int> values(counted(4));
  std::vector<int> host(8);
  CHECK_EQ(cudaMemcpy(host.data(), values.get(), 16, cudaMemcpyDeviceToHost), cudaSuccess);
  CHECK_EQ(host[3], 3);
  CHECK_EQ(cudaMemcpy(host.data(), values.get(), 20, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  CHECK_EQ(cudaMemcpy(host.data(), values.get(), 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  CHECK_EQ(cudaMemcpy(values.get(), host.data(), 16, cudaMemcpyDefault), cudaSuccess);
  CHECK_EQ(cudaMemset(values.get() + 1, 0, 16), cudaErrorInvalidValue);
  CHECK_EQ(cudaFree(values.get() + 1), cudaErrorInvalidValue);
  CHECK_EQ(cudaGetLastError(), cudaErrorInvalidValue);
  CHECK_EQ(cudaGetLastError(), cudaSuccess);
}

CASE("a float rounds to bf16 half to even") {
  const auto rounded = [](std::uint32_t bits) {
    return std::uint32_t{__bfloat16_as_ushort(__float2bfloat16_rn(std::bit_cast<float>(bits)))};
  };
  CHECK_EQ(rounded(0x3F808000U), 0x3F80U);
  CHECK_EQ(rounded(0x3F818000U), 0x3F82U);
  CHECK_EQ(rounded(0x3F808001U), 0x3F81U);
  CHECK_EQ(rounded(0x7F7FFFFFU), 0x7F80U);
  CHECK_EQ(rounded(0x7F800001U), 0x7FFFU);
  CHECK_EQ(kernels::bf16_pair(1.0F, -2.0F), 0xC0003F80U);
  float values[8];
  kernels::unpack_bf16({0xC0003F80U, 0, 0, 0x3F800000U}, values);
  CHECK_EQ(values[0], 1.0F);
  CHECK_EQ(values[1], -2.0F);
  CHECK_EQ(values[7], 1.0F);
}
