// What a fuzz target is made of: libFuzzer's entry, and what must hold for every input. A sanitizer stops a
// run by itself; FUZZ_CHECK stops it with the line that did not hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's own name
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

#define FUZZ_CHECK(expression)                                                                \
  do {                                                                                        \
    if (!(expression)) {                                                                      \
      std::cerr << __FILE__ << ":" << __LINE__ << ": does not hold: " << #expression << "\n"; \
      std::abort();                                                                           \
    }                                                                                         \
  } while (false)
