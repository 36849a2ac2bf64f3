// Runs the tests of CUDA kernels on the emulation: all cases on each device, with a seed of its own, which
// decides in which order threads run. Every block draws its order, so that one seed holds all kinds of them.
// `<executable> TEXT` runs the cases whose name contains TEXT, and `<executable> TEXT SEED` those with this
// seed (odd ones on the second device).
#include <cstdint>
#include <cstdlib>
#include <iostream>

#include "check.h"
#include "cuda_emulation.h"

int main(int argc, char** argv) {
  namespace emulation = molmoact2::cuda_emulation;
  const auto models = emulation::device_models();
  const char* const filter = argc > 1 ? argv[1] : "";
  const std::uint64_t first = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  // The address sanitizer, which every change of stack goes through, takes minutes for one.
  const std::uint64_t runs = argc > 2 || emulation::finds_every_stray_access() ? 1 : models.size();
  int exit_code = 0;
  for (std::uint64_t seed = first; seed < first + runs; ++seed) {
    const emulation::DeviceModel& model = models[seed % models.size()];
    emulation::use_device(model);
    emulation::use_seed(seed);
    std::cout << "seed " << seed << ", " << model.name << ": " << std::flush;
    if (molmoact2::check::run_cases(filter) != 0) exit_code = 1;
  }
  return exit_code;
}
