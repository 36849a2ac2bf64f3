#include "emulated_ptx.h"

#include <array>
#include <bit>
#include <cstring>
#include <string>

#include "allocations.h"

namespace molmoact2::cuda_emulation {
namespace {

constexpr unsigned kCopyBytes = 16;
constexpr int kMatrixSide = 8;

struct Fragments {
  float* d = nullptr;
  const std::uint32_t* a = nullptr;
  const std::uint32_t* b = nullptr;
};

float lower(std::uint32_t pair) { return std::bit_cast<float>(pair << 16); }
float upper(std::uint32_t pair) { return std::bit_cast<float>(pair & 0xFFFF0000U); }

// In double: a device's order of addition is its own affair.
void multiply(const WarpOperands& lanes) {
  std::array<std::array<double, 16>, 16> a{};
  std::array<std::array<double, 8>, 16> b{};
  std::array<std::array<double, 8>, 16> d{};
  const auto for_each_lane = [&](const auto& visit) {
    for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
      visit(*static_cast<const Fragments*>(lanes[lane]), lane / 4, lane % 4);
    }
  };
  for_each_lane([&](const Fragments& mine, std::size_t g, std::size_t t) {
    for (std::size_t i = 0; i < 4; ++i) {
      const std::size_t row = g + i % 2 * 8;
      const std::size_t column = 2 * t + i / 2 * 8;
      a[row][column] = static_cast<double>(lower(mine.a[i]));
      a[row][column + 1] = static_cast<double>(upper(mine.a[i]));
      d[g + i / 2 * 8][2 * t + i % 2] = static_cast<double>(mine.d[i]);
    }
    for (std::size_t i = 0; i < 2; ++i) {
      b[2 * t + 8 * i][g] = static_cast<double>(lower(mine.b[i]));
      b[2 * t + 8 * i + 1][g] = static_cast<double>(upper(mine.b[i]));
    }
  });
  for (std::size_t row = 0; row < 16; ++row) {
    for (std::size_t k = 0; k < 16; ++k) {
      for (std::size_t column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for_each_lane([&](const Fragments& mine, std::size_t g, std::size_t t) {
    for (std::size_t i = 0; i < 4; ++i) mine.d[i] = static_cast<float>(d[g + i / 2 * 8][2 * t + i % 2]);
  });
}

struct MatrixLoad {
  std::uint32_t* r = nullptr;
  int count = 0;
  bool transposed = false;
  const void* row = nullptr;
};

void load(const WarpOperands& lanes) {
  const auto element = [&](int matrix, std::size_t row, std::size_t column) {
    const auto& owner =
        *static_cast<MatrixLoad*>(lanes[static_cast<std::size_t>(matrix) * kMatrixSide + row]);
    return static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(owner.row)[column]);
  };
  for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
    const auto& mine = *static_cast<MatrixLoad*>(lanes[lane]);
    const std::size_t g = lane / 4;
    const std::size_t t = lane % 4;
    for (int matrix = 0; matrix < mine.count; ++matrix) {
      mine.r[matrix] = mine.transposed ? element(matrix, 2 * t, g) | element(matrix, 2 * t + 1, g) << 16
                                       : element(matrix, g, 2 * t) | element(matrix, g, 2 * t + 1) << 16;
    }
  }
}

bool aligned(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % kCopyBytes == 0; }

}  // namespace

void multiply_fragments(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                        std::source_location where) {
  Fragments mine{d, a, b};
  running_block->warp_operation("mma", kEmulatedFullMask, &mine, &multiply, where);
}

void load_matrices(std::uint32_t* r, int count, bool transposed, const void* shared,
                   std::source_location where) {
  const auto lane = static_cast<int>(running_thread->number % kWarpSize);
  if (lane < count * kMatrixSide) {
    if (!aligned(shared)) running_block->fail(where, {"ldmatrix of a row that is not aligned to 16 bytes"});
    if (!running_block->is_shared(shared, kCopyBytes)) {
      running_block->fail(where, {"ldmatrix outside shared memory"});
    }
  }
  MatrixLoad mine{r, count, transposed, shared};
  constexpr std::array<const char*, 2> kTwo = {"ldmatrix_x2", "ldmatrix_x2_trans"};
  constexpr std::array<const char*, 2> kFour = {"ldmatrix_x4", "ldmatrix_x4_trans"};
  const char* const name = (count == 4 ? kFour : kTwo)[transposed ? 1 : 0];
  running_block->warp_operation(name, kEmulatedFullMask, &mine, &load, where);
}

void start_copy(void* shared, const void* global, bool valid, std::source_location where) {
  if (!aligned(shared) || !aligned(global)) {
    running_block->fail(where, {"cp.async between addresses that are not aligned to 16 bytes"});
  }
  if (!running_block->is_shared(shared, kCopyBytes)) {
    running_block->fail(where, {"cp.async to outside shared memory"});
  }
  if (valid && !is_device_memory(global, kCopyBytes)) {
    running_block->fail(where, {"cp.async from outside device memory"});
  }
  std::memset(shared, 0xFF, kCopyBytes);  // NaN until someone waits for it
  running_thread->copies.push_back({shared, valid ? global : nullptr, running_thread->open_group});
}

void close_copy_group() { ++running_thread->open_group; }

void finish_copies(unsigned pending_groups) {
  DeviceThread& self = *running_thread;
  std::erase_if(self.copies, [&](const PendingCopy& copy) {
    if (copy.group + pending_groups >= self.open_group) return false;
    if (copy.from != nullptr) {
      std::memcpy(copy.to, copy.from, kCopyBytes);
    } else {
      std::memset(copy.to, 0, kCopyBytes);
    }
    return true;
  });
}

}  // namespace molmoact2::cuda_emulation
