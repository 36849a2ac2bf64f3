// Stands in for libFuzzer where the compiler has none: random inputs, and mutations of those that reached new
// places in the code, as many as asked for. What crashes, hangs or breaks a check is written to a file that
// runs it again.
//
//   TARGET [--inputs N] [--seconds S] [--seed N] [--longest BYTES]    fuzz; the first bound that is met ends
//   it TARGET FILE...                                                    run these inputs once
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz_check.h"

// The sanitizers' names; weak: a build without them has none.
// NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp,readability-identifier-naming)
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));
extern "C" void __sanitizer_cov_trace_pc();
// NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp,readability-identifier-naming)

namespace {

using Input = std::vector<std::uint8_t>;

constexpr std::size_t kPlaces = 1U << 16U;
constexpr std::size_t kCorpusMax = 4096;
constexpr int kHangSeconds = 10;
constexpr std::uint64_t kBetweenAlarms = 1024;

// --- where the code under test has been ---

std::array<std::uint8_t, kPlaces> g_now{};   // in this input
std::array<std::uint8_t, kPlaces> g_ever{};  // in any
std::array<std::uint16_t, kPlaces> g_touched{};
std::size_t g_touched_count = 0;

}  // namespace

// Called by the instrumented code at every branch.
extern "C" void __sanitizer_cov_trace_pc() {
  const auto place = reinterpret_cast<std::uintptr_t>(__builtin_return_address(0));
  const std::size_t index = (place ^ place >> 16U) % kPlaces;
  if (g_now[index] == 0) {
    g_touched[g_touched_count++] = static_cast<std::uint16_t>(index);
  }
  g_now[index] = static_cast<std::uint8_t>(std::min(g_now[index] + 1, 255));
}

namespace {

// How often, roughly: a loop that runs much longer is news too.
std::uint8_t bucket(std::uint8_t count) {
  std::uint8_t bit = 0;
  for (; count > 1; count >>= 1U) {
    ++bit;
  }
  return static_cast<std::uint8_t>(1U << bit);
}

// Whether this input came somewhere new; forgets it.
bool take_news() {
  bool news = false;
  for (std::size_t i = 0; i < g_touched_count; ++i) {
    const std::uint16_t index = g_touched[i];
    const std::uint8_t seen = bucket(g_now[index]);
    news = news || (g_ever[index] & seen) == 0;
    g_ever[index] |= seen;
    g_now[index] = 0;
  }
  g_touched_count = 0;
  return news;
}

// --- what is kept of a bad end ---

const std::uint8_t* g_data = nullptr;
std::size_t g_size = 0;
std::uint64_t g_number = 0;

void write_input() {
  const std::string name = "crash-" + std::to_string(g_number);
  std::ofstream(name, std::ios::binary)
      .write(reinterpret_cast<const char*>(g_data), static_cast<std::streamsize>(g_size));
  std::cerr << "input " << g_number << ", " << g_size << " bytes, written to " << name << "\n";
}

// By the processor's time: a computer that is busy with other things is no hang.
void watch_for_hang(int seconds) {
  const itimerval timer{{0, 0}, {seconds, 0}};
  ::setitimer(ITIMER_PROF, &timer, nullptr);
}

void on_signal(int number) {
  if (number == SIGPROF) {
    std::cerr << "no end after " << kHangSeconds << " s of computing\n";
  }
  write_input();
  _exit(1);
}

void run(const Input& input) {
  // A place of its own, exactly as large: whoever reads beyond it is caught.
  const std::unique_ptr<std::uint8_t[]> exact(new std::uint8_t[std::max<std::size_t>(input.size(), 1)]);
  std::ranges::copy(input, exact.get());
  g_data = exact.get();
  g_size = input.size();
  LLVMFuzzerTestOneInput(g_data, g_size);
}

// --- new inputs ---

class Mutator {
 public:
  Mutator(std::uint64_t seed, std::size_t longest) : random_(seed), longest_(longest) {}

  std::size_t below(std::size_t bound) { return bound == 0 ? 0 : random_() % bound; }

  Input fresh() {
    Input input(1 + below(below(8) == 0 ? longest_ : 64));
    for (std::uint8_t& byte : input) {
      byte = next_byte();
    }
    return input;
  }

  Input mutated(const Input& parent, const Input& other) {
    Input input = parent;
    for (std::size_t times = 1 + below(5); times > 0; --times) {
      mutate(input, other);
    }
    input.resize(std::min(input.size(), longest_));
    return input;
  }

 private:
  std::uint8_t next_byte() {
    constexpr std::array<std::uint8_t, 12> kLikely{0x00, 0x01, 0x02, 0x03, 0x0D, 0x55,
                                                   0x7F, 0x80, 0xFC, 0xFD, 0xFE, 0xFF};
    return below(2) == 0 ? kLikely[below(kLikely.size())] : static_cast<std::uint8_t>(random_());
  }

  void mutate(Input& input, const Input& other) {
    const std::size_t at = below(input.size() + 1);
    const auto place = input.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(7)) {
      case 0:
        if (at < input.size()) input[at] = static_cast<std::uint8_t>(input[at] ^ 1U << below(8));
        break;
      case 1:
        if (at < input.size()) input[at] = next_byte();
        break;
      case 2:
        input.insert(place, 1 + below(4), next_byte());
        break;
      case 3:
        input.erase(place, place + static_cast<std::ptrdiff_t>(
                                       below(std::min<std::size_t>(input.size() - at, 8) + 1)));
        break;
      case 4: {  // a part once more
        const std::size_t from = below(input.size());
        const Input part(input.begin() + static_cast<std::ptrdiff_t>(from),
                         input.begin() + static_cast<std::ptrdiff_t>(from + below(input.size() - from + 1)));
        input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), part.begin(), part.end());
        break;
      }
      case 5: {  // the beginning of this, the end of another
        const std::size_t from = below(other.size());
        input.resize(at);
        input.insert(input.end(), other.begin() + static_cast<std::ptrdiff_t>(from), other.end());
        break;
      }
      default:
        if (at < input.size()) input[at] = static_cast<std::uint8_t>(input[at] + below(17) - 8);
    }
  }

  std::mt19937_64 random_;
  std::size_t longest_;
};

struct Options {
  std::uint64_t inputs = 200'000;
  double seconds = 0.0;  // 0: without bound
  std::uint64_t seed = 1;
  std::size_t longest = 1200;
  std::vector<std::string> files;
};

// False where a word is not understood.
bool read_options(int count, char** words, Options& options) {
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    if (!word.starts_with("--")) {
      options.files.emplace_back(word);
      continue;
    }
    if (i + 1 == count) return false;
    const double value = std::strtod(words[++i], nullptr);
    if (word == "--inputs") {
      options.inputs = static_cast<std::uint64_t>(value);
    } else if (word == "--seconds") {
      options.seconds = value;
    } else if (word == "--seed") {
      options.seed = static_cast<std::uint64_t>(value);
    } else if (word == "--longest") {
      options.longest = std::max<std::size_t>(static_cast<std::size_t>(value), 1);
    } else {
      return false;
    }
  }
  return true;
}

int run_files(const std::vector<std::string>& files) {
  for (const std::string& name : files) {
    std::ifstream file(name, std::ios::binary);
    if (!file) {
      std::cerr << "cannot read " << name << "\n";
      return 2;
    }
    run(Input{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()});
    std::cout << name << ": passed\n";
  }
  return 0;
}

int fuzz(const Options& options) {
  Mutator mutator(options.seed, options.longest);
  std::vector<Input> corpus{{}};
  const auto began = std::chrono::steady_clock::now();
  const auto elapsed = [&began] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  };
  for (; g_number < options.inputs; ++g_number) {
    if (g_number % kBetweenAlarms == 0) {
      watch_for_hang(kHangSeconds);
      if (options.seconds > 0.0 && elapsed() > options.seconds) break;
    }
    Input input = mutator.below(16) == 0 ? mutator.fresh()
                                         : mutator.mutated(corpus[mutator.below(corpus.size())],
                                                           corpus[mutator.below(corpus.size())]);
    run(input);
    if (take_news()) {
      if (corpus.size() < kCorpusMax) {
        corpus.push_back(std::move(input));
      } else {
        corpus[mutator.below(corpus.size())] = std::move(input);
      }
    }
  }
  watch_for_hang(0);
  const auto places = kPlaces - static_cast<std::size_t>(std::ranges::count(g_ever, 0));
  std::cout << g_number << " inputs in " << elapsed() << " s, " << places << " places reached, "
            << corpus.size() << " inputs kept: nothing found\n";
  return g_number > 0 && places > 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
  Options options;
  if (!read_options(count, words, options)) {
    std::cerr << "usage: " << words[0]
              << " [--inputs N] [--seconds S] [--seed N] [--longest BYTES] | FILE...\n";
    return 2;
  }
  for (const int number : {SIGABRT, SIGPROF}) {
    static_cast<void>(std::signal(number, on_signal));
  }
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(write_input);
  }
  return options.files.empty() ? fuzz(options) : run_files(options.files);
}
