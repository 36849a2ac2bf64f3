// What must hold for every input. A sanitizer stops a run by itself; this stops it with the line that did not
// hold.
#pragma once

#include <cstdio>
#include <cstdlib>

#define FUZZ_CHECK(expression)                                                             \
  do {                                                                                     \
    if (!(expression)) {                                                                   \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #expression); \
      std::abort();                                                                        \
    }                                                                                      \
  } while (false)
