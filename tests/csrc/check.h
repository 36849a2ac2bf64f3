// The C++ tests' whole framework: named cases, checks that report file and line, and one main per executable.
//
//   CASE("what must hold") { CHECK_EQ(add(1, 2), 3); }
//
// A failed check is printed and the case goes on; REQUIRE leaves the case, for what later checks depend on.
// `<executable>` runs every case, `<executable> TEXT` those whose name contains TEXT.
#pragma once

#include <atomic>
#include <cmath>
#include <concepts>
#include <exception>
#include <iostream>
#include <ostream>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace molmoact2::check {

struct Case {
  const char* name;
  void (*body)();
};

// Leaves the case after a failed REQUIRE.
struct CaseAborted : std::exception {};

// Everything a run knows; one per executable.
struct Session {
  std::vector<Case> cases;
  std::atomic<int> failed_checks_in_case = 0;  // cases may check from several threads
  std::string skip_reason;
};

inline Session& session() {
  static Session instance;
  return instance;
}

struct Registration {
  Registration(const char* name, void (*body)()) { session().cases.push_back({name, body}); }
};

template <typename T>
concept Printable = requires(std::ostream& out, const T& value) { out << value; };

template <typename T>
std::string text_of(const T& value) {
  std::ostringstream out;
  out.precision(17);
  if constexpr (std::is_enum_v<T>) {
    out << "enum " << static_cast<long long>(value);
  } else if constexpr (std::same_as<T, unsigned char> || std::same_as<T, signed char>) {
    out << static_cast<int>(value);
  } else if constexpr (Printable<T>) {
    out << value;
  } else {
    out << "<" << sizeof(T) << " bytes>";
  }
  return out.str();
}

inline void report_failure(const char* file, int line, const std::string& message) {
  ++session().failed_checks_in_case;
  std::cerr << file << ":" << line << ": " << message << "\n";
}

inline bool expect_true(bool holds, const char* expression, const char* file, int line) {
  if (!holds) report_failure(file, line, std::string("does not hold: ") + expression);
  return holds;
}

template <typename A, typename B>
bool expect_equal(const A& actual, const B& expected, const char* expression, const char* file, int line) {
  const bool equal = [&] {
    // Mixed signedness compares by value, as the reader of the test means it.
    if constexpr (std::integral<A> && std::integral<B> && !std::same_as<A, bool> && !std::same_as<B, bool> &&
                  !std::same_as<A, char> && !std::same_as<B, char>) {
      return std::cmp_equal(actual, expected);
    } else {
      return actual == expected;
    }
  }();
  if (!equal) {
    report_failure(file, line,
                   std::string(expression) + " is " + text_of(actual) + ", expected " + text_of(expected));
  }
  return equal;
}

inline bool expect_near(double actual, double expected, double tolerance, const char* expression,
                        const char* file, int line) {
  const bool near = std::abs(actual - expected) <= tolerance;  // false for NaN
  if (!near) {
    report_failure(file, line,
                   std::string(expression) + " is " + text_of(actual) + ", expected " + text_of(expected) +
                       " within " + text_of(tolerance));
  }
  return near;
}

// Counts the running case as skipped, unless a check failed, and says why it checks nothing (no GPU, for
// instance). The case itself returns.
inline void skip(std::string reason) { session().skip_reason = std::move(reason); }

// Runs the cases whose name contains `filter`; returns the process exit code.
inline int run_cases(std::string_view filter) {
  int passed = 0;
  int failed = 0;
  int skipped = 0;
  for (const Case& test : session().cases) {
    if (std::string_view(test.name).find(filter) == std::string_view::npos) continue;
    session().failed_checks_in_case = 0;
    session().skip_reason.clear();
    try {
      test.body();
    } catch (const CaseAborted&) {  // NOLINT(bugprone-empty-catch): the failure is already reported
    } catch (const std::exception& error) {
      report_failure(test.name, 0, std::string("unexpected exception: ") + error.what());
    }
    if (session().failed_checks_in_case > 0) {
      ++failed;
      std::cerr << "FAILED: " << test.name << "\n";
    } else if (!session().skip_reason.empty()) {
      ++skipped;
      std::cout << "skipped: " << test.name << " (" << session().skip_reason << ")\n";
    } else {
      ++passed;
    }
  }
  if (skipped > 0) std::cout << skipped << " skipped\n";
  std::cout << passed << " passed, " << failed << " failed\n";
  // A filter that matches nothing, or an executable without cases, must not look like success.
  return failed == 0 && passed + skipped > 0 ? 0 : 1;
}

}  // namespace molmoact2::check

#define MOLMOACT2_CHECK_JOIN_(a, b) a##b
#define MOLMOACT2_CHECK_JOIN(a, b) MOLMOACT2_CHECK_JOIN_(a, b)

#define CASE(name)                                                                                   \
  static void MOLMOACT2_CHECK_JOIN(check_case_, __LINE__)();                                         \
  static const ::molmoact2::check::Registration MOLMOACT2_CHECK_JOIN(check_registration_, __LINE__){ \
      name, &MOLMOACT2_CHECK_JOIN(check_case_, __LINE__)};                                           \
  static void MOLMOACT2_CHECK_JOIN(check_case_, __LINE__)()

#define CHECK(expression) \
  ::molmoact2::check::expect_true(static_cast<bool>(expression), #expression, __FILE__, __LINE__)
#define CHECK_EQ(actual, expected) \
  ::molmoact2::check::expect_equal((actual), (expected), #actual, __FILE__, __LINE__)
#define CHECK_NEAR(actual, expected, tolerance) \
  ::molmoact2::check::expect_near((actual), (expected), (tolerance), #actual, __FILE__, __LINE__)
#define REQUIRE(expression)                                          \
  do {                                                               \
    if (!CHECK(expression)) throw ::molmoact2::check::CaseAborted{}; \
  } while (false)
#define CHECK_THROWS(statement, exception)                                                               \
  do {                                                                                                   \
    bool check_thrown = false;                                                                           \
    try {                                                                                                \
      static_cast<void>(statement);                                                                      \
    } catch (const exception&) {                                                                         \
      check_thrown = true;                                                                               \
    }                                                                                                    \
    ::molmoact2::check::expect_true(check_thrown, #statement " throws " #exception, __FILE__, __LINE__); \
  } while (false)
