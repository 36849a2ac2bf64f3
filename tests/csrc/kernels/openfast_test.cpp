#include "kernels/openfast/openfast.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "check.h"

namespace {

namespace kernels = molmoact2::kernels;
using kernels::ByteLevelBpe;
using kernels::ByteLevelBpeTables;
using kernels::CharacterClass;
using kernels::DctBasis;
using kernels::OpenFastCodec;
using kernels::OpenFastStatus;
using kernels::Utf8Decoder;

using Ids = std::vector<std::int32_t>;

std::u32string_view view_of(const std::vector<char32_t>& text) { return {text.data(), text.size()}; }

// All 256 bytes as ids 0..255, then one id per merge in order of rank.
ByteLevelBpeTables byte_tables(const std::vector<std::pair<std::string, std::string>>& merges, bool splits) {
  ByteLevelBpeTables tables;
  tables.splits_words = splits;
  for (int byte = 0; byte < 256; ++byte) {
    tables.token_bytes.emplace_back(1, static_cast<char>(byte));
    tables.byte_ids[static_cast<std::size_t>(byte)] = byte;
  }
  const auto id_of = [&tables](const std::string& token) {
    std::int32_t id = 0;
    while (tables.token_bytes.at(static_cast<std::size_t>(id)) != token) ++id;
    return id;
  };
  for (const auto& [left, right] : merges) {
    const std::int32_t left_id = id_of(left);
    const std::int32_t right_id = id_of(right);
    tables.merges.push_back({left_id, right_id, static_cast<std::int32_t>(tables.token_bytes.size())});
    tables.token_bytes.push_back(left + right);
  }
  // ASCII as the splitting pattern sees it, then two-byte characters as "other".
  tables.character_classes.assign(0x800, CharacterClass::other);
  for (std::size_t code = 0; code < 128; ++code) {
    const auto character = static_cast<char>(code);
    const std::string_view spaces = "\t\n\v\f\r ";
    if (spaces.find(character) != std::string_view::npos)
      tables.character_classes[code] = CharacterClass::space;
    if (character >= '0' && character <= '9') tables.character_classes[code] = CharacterClass::number;
    if ((character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z')) {
      tables.character_classes[code] = CharacterClass::letter;
    }
  }
  return tables;
}

std::vector<char32_t> text_of(std::u32string_view text) { return {text.begin(), text.end()}; }

Ids encoded(const ByteLevelBpe& bpe, std::u32string_view text) {
  Ids ids;
  CHECK(bpe.encode(text_of(text), ids));
  return ids;
}

// Where a word ends shows in what merges: with merges for every beginning of the rest of the text, the first
// token is as long as the first word.
std::string words_of(std::string_view text) {
  std::string cut;
  std::size_t begin = 0;
  while (begin < text.size()) {
    std::vector<std::pair<std::string, std::string>> merges;
    std::string prefix(1, text[begin]);
    for (const char character : text.substr(begin + 1)) {
      merges.emplace_back(prefix, std::string(1, character));
      prefix += character;
    }
    const ByteLevelBpe bpe(byte_tables(merges, true));
    Ids ids;
    CHECK(bpe.encode(std::vector<char32_t>(text.begin() + static_cast<std::ptrdiff_t>(begin), text.end()),
                     ids));
    const std::string_view word = bpe.bytes_of(ids.front());
    cut += '[';  // piece by piece: GCC 12 warns falsely about the sum of three
    cut += word;
    cut += ']';
    begin += word.size();
  }
  return cut;
}

// Byte pair encoding by its definition: again and again the best-ranked pair, the leftmost of equals.
std::vector<std::string> reference_merge(std::vector<std::string> symbols,
                                         const std::vector<std::pair<std::string, std::string>>& merges) {
  for (;;) {
    std::size_t best_rank = merges.size();
    std::size_t best_at = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      for (std::size_t rank = 0; rank < best_rank; ++rank) {
        if (merges[rank].first == symbols[i] && merges[rank].second == symbols[i + 1]) {
          best_rank = rank;
          best_at = i;
        }
      }
    }
    if (best_rank == merges.size()) return symbols;
    symbols[best_at] += symbols[best_at + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

std::vector<double> random_chunk(int steps, int dims, unsigned seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(-1.0, 1.0);
  std::vector<double> chunk(static_cast<std::size_t>(steps * dims));
  for (double& value : chunk) value = uniform(generator);
  return chunk;
}

OpenFastCodec plain_codec(double scale, std::int32_t min_token) {
  return {ByteLevelBpe(byte_tables({}, true)), scale, min_token};
}

}  // namespace

CASE("the DCT is the orthonormal DCT-II, and its inverse undoes it") {
  for (const int steps : {1, 2, 3, 10, 15, 30, 101}) {
    const int dims = 5;
    const std::vector<double> chunk = random_chunk(steps, dims, 1);
    std::vector<double> coefficients(chunk.size());
    std::vector<double> back(chunk.size());
    const DctBasis basis(steps);
    basis.forward(chunk.data(), dims, coefficients.data());
    std::vector<DctBasis::Term> terms;
    for (int k = 0; k < steps; ++k) {
      for (int d = 0; d < dims; ++d) {
        terms.push_back({k, d, coefficients[static_cast<std::size_t>(k * dims + d)]});
      }
    }
    basis.inverse(terms, dims, back.data());
    for (int k = 0; k < steps; ++k) {
      for (int d = 0; d < dims; ++d) {
        double sum = 0.0;
        for (int t = 0; t < steps; ++t) {
          sum += chunk[static_cast<std::size_t>(t * dims + d)] *
                 std::cos(std::numbers::pi * (t + 0.5) * k / steps);
        }
        sum *= std::sqrt((k == 0 ? 1.0 : 2.0) / steps);
        CHECK_NEAR(coefficients[static_cast<std::size_t>(k * dims + d)], sum, 1e-12);
      }
    }
    for (std::size_t i = 0; i < chunk.size(); ++i) CHECK_NEAR(back[i], chunk[i], 1e-13);
  }
  CHECK_THROWS(DctBasis(0), std::invalid_argument);
  CHECK_THROWS(DctBasis(DctBasis::kMaxLength + 1), std::invalid_argument);
}

CASE("text is cut into words as GPT-2's pattern cuts it") {
  CHECK_EQ(words_of("abc123?!x"), "[abc][123][?!][x]");
  CHECK_EQ(words_of(" ab 12 ?x"), "[ ab][ 12][ ?][x]");
  CHECK_EQ(words_of("a  b"), "[a][ ][ b]");
  CHECK_EQ(words_of("a\t\tb"), "[a][\t][\t][b]");
  CHECK_EQ(words_of("a \tb"), "[a][ ][\t][b]");
  CHECK_EQ(words_of("a   "), "[a][   ]");
  CHECK_EQ(words_of("  "), "[  ]");
  CHECK_EQ(words_of("it's we'll 'x ''s"), "[it]['s][ we]['ll][ '][x][ ''][s]");
  CHECK_EQ(words_of("'re've'r've'd'm't"), "['re]['ve]['][r]['ve]['d]['m]['t]");
  CHECK_EQ(words_of("'S'"), "['][S][']");
}

CASE("without splitting the whole text is one word") {
  const ByteLevelBpe bpe(byte_tables({{"a", " "}, {"a ", "1"}}, false));
  CHECK(encoded(bpe, U"a 1a 1") == (Ids{257, 257}));
  CHECK(encoded(ByteLevelBpe(byte_tables({{"a", " "}, {"a ", "1"}}, true)), U"a 1") == (Ids{'a', ' ', '1'}));
}

CASE("merging follows rank, then position") {
  const std::vector<std::pair<std::string, std::string>> merges{
      {"a", "a"}, {"b", "a"}, {"aa", "aa"}, {"a", "b"}, {"ab", "ba"}, {"aaaa", "b"}, {"aa", "ba"}};
  const ByteLevelBpe bpe(byte_tables(merges, false));
  std::minstd_rand generator(3);
  for (int round = 0; round < 500; ++round) {
    std::vector<char32_t> text(1 + generator() % 40);
    std::vector<std::string> symbols;
    for (char32_t& character : text) {
      character = generator() % 3 == 0 ? U'b' : U'a';
      symbols.emplace_back(1, static_cast<char>(character));
    }
    Ids ids;
    REQUIRE(bpe.encode(text, ids));
    std::vector<std::string> tokens;
    for (const std::int32_t id : ids) tokens.emplace_back(bpe.bytes_of(id));
    CHECK(tokens == reference_merge(symbols, merges));
  }
}

CASE("a character that needs a byte outside the vocabulary is refused") {
  ByteLevelBpeTables tables = byte_tables({}, true);
  tables.byte_ids['x'] = -1;
  const ByteLevelBpe bpe(tables);
  Ids ids;
  CHECK(!bpe.encode({U'a', U'x'}, ids));
  CHECK(!bpe.encode({0x800}, ids));   // past the character classes
  CHECK(!bpe.encode({0xD800}, ids));  // a surrogate
  CHECK(!bpe.encode({0x110000}, ids));
  ids.clear();
  CHECK(bpe.encode({0x7FF}, ids));
  CHECK(ids == (Ids{0xDF, 0xBF}));
}

CASE("tables that point outside the vocabulary are refused at the door") {
  ByteLevelBpeTables bad_byte = byte_tables({}, true);
  bad_byte.byte_ids[0] = 256;
  CHECK_THROWS(ByteLevelBpe(bad_byte), std::invalid_argument);
  ByteLevelBpeTables bad_merge = byte_tables({}, true);
  bad_merge.merges.push_back({0, 1, 256});
  CHECK_THROWS(ByteLevelBpe(bad_merge), std::invalid_argument);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS(plain_codec(nan, 0), std::invalid_argument);
  CHECK_THROWS(plain_codec(0.0, 0), std::invalid_argument);
}

CASE("every scalar value survives UTF-8, and nothing else is accepted") {
  const auto decode = [](std::string_view bytes) {
    Utf8Decoder decoder;
    std::vector<char32_t> text;
    for (const char byte : bytes) {
      const Utf8Decoder::Step step = decoder.feed(static_cast<std::uint8_t>(byte));
      if (step == Utf8Decoder::Step::invalid) return std::pair(false, text);
      if (step == Utf8Decoder::Step::code_point) text.push_back(decoder.code_point());
    }
    return std::pair(decoder.complete(), text);
  };
  const ByteLevelBpe bpe(byte_tables({}, false));
  for (char32_t code = 0; code <= 0x10FFFF; code += (code < 0x900 ? 1 : 0xFB)) {
    if (code >= 0xD800 && code <= 0xDFFF) continue;
    Ids ids;
    if (!CHECK(bpe.encode({code}, ids))) continue;
    std::string bytes;
    for (const std::int32_t id : ids) bytes += bpe.bytes_of(id);
    const auto [valid, text] = decode(bytes);
    CHECK(valid);
    CHECK(view_of(text) == std::u32string_view(&code, 1));
  }
  for (const std::string_view bytes :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xC3", "\xC3(", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xE2\x82",
        "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF"}) {
    CHECK(!decode(bytes).first);
  }
  CHECK(decode("\xF4\x8F\xBF\xBF").first);
}

CASE("a chunk comes back within the rounding, and its codes are rounded half to even") {
  const OpenFastCodec codec = plain_codec(10.0, -60);
  const int steps = 30;
  const int dims = 7;
  const std::vector<double> chunk = random_chunk(steps, dims, 9);
  Ids tokens;
  REQUIRE(codec.encode(chunk.data(), steps, dims, tokens) == OpenFastStatus::ok);
  std::vector<double> back(chunk.size());
  const std::vector<std::int64_t> ids(tokens.begin(), tokens.end());
  REQUIRE(codec.decode(ids, steps, dims, back.data()) == OpenFastStatus::ok);
  double squares = 0.0;
  for (std::size_t i = 0; i < chunk.size(); ++i) squares += (chunk[i] - back[i]) * (chunk[i] - back[i]);
  // The transform is orthonormal: the error has the length of the rounding errors, at most 0.05 each.
  CHECK(squares <= 0.05 * 0.05 * static_cast<double>(chunk.size()));

  const std::array<double, 4> halves{0.05, 0.15, 0.25, -0.25};  // one step: the coefficient is the value
  REQUIRE(plain_codec(10.0, -5).encode(halves.data(), 1, 4, tokens) == OpenFastStatus::ok);
  CHECK(tokens == (Ids{5, 7, 7, 3}));  // 0.5, 1.5, 2.5, -2.5
}

CASE("coefficients below min_token are floored") {
  const std::array<double, 3> values{-9.0, -1.0, 1.0};
  Ids tokens;
  REQUIRE(plain_codec(1.0, -2).encode(values.data(), 1, 3, tokens) == OpenFastStatus::ok);
  CHECK(tokens == (Ids{0, 1, 3}));
}

CASE("whatever does not decode says why and leaves the chunk alone") {
  const OpenFastCodec codec = plain_codec(10.0, 0);
  std::array<double, 4> chunk{7.0, 7.0, 7.0, 7.0};
  const auto status = [&](const std::vector<std::int64_t>& tokens, int steps = 2, int dims = 2) {
    return codec.decode(tokens, steps, dims, chunk.data());
  };
  CHECK_EQ(status({}), OpenFastStatus::coefficient_count);
  CHECK_EQ(status({1, 2, 3}), OpenFastStatus::coefficient_count);
  CHECK_EQ(status({1, 2, 3, 4, 5}), OpenFastStatus::coefficient_count);
  CHECK_EQ(status({1, 2, 3, 256}), OpenFastStatus::token_out_of_range);
  CHECK_EQ(status({1, 2, 3, -1}), OpenFastStatus::token_out_of_range);
  CHECK_EQ(status({1, 2, 3, std::numeric_limits<std::int64_t>::max()}), OpenFastStatus::token_out_of_range);
  CHECK_EQ(status({1, 2, 3, 0x80}), OpenFastStatus::not_text);
  CHECK_EQ(status({1, 2, 3, 0xC3}), OpenFastStatus::not_text);
  CHECK_EQ(status({1, 2, 3, 4, 0xC3}), OpenFastStatus::not_text);
  CHECK_EQ(status({1, 2, 3, 0xEF, 0xBF, 0xBD}), OpenFastStatus::not_text);  // U+FFFD
  CHECK_EQ(status({1}, 0, 1), OpenFastStatus::bad_shape);
  CHECK_EQ(status({1}, 1, 0), OpenFastStatus::bad_shape);
  CHECK_EQ(status({1}, DctBasis::kMaxLength + 1, 1), OpenFastStatus::bad_shape);
  CHECK_EQ(status({1}, 1, kernels::kMaxActionDims + 1), OpenFastStatus::bad_shape);
  CHECK(chunk == (std::array<double, 4>{7.0, 7.0, 7.0, 7.0}));
  CHECK_EQ(status({1, 2, 3, 4}), OpenFastStatus::ok);
}

CASE("decoding many characters at once says and gives what one byte after the other does") {
  const std::vector<std::pair<std::string, std::string>> merges{
      {"@", "@"},       {"@@", "@@"},  {"@@@@", "@@@@"},         {"@", "A"},
      {"\xC3", "\xA9"}, {"\xC3", "@"}, {"@@@@@@@@", "@@@@@@@@"}, {"\xF0", "\x9F"}};
  const ByteLevelBpe bpe(byte_tables(merges, false));
  const std::int32_t min_token = -'@';  // the character of zero, which most coefficients are
  const OpenFastCodec codec(ByteLevelBpe(byte_tables(merges, false)), 2.0, min_token);
  const int steps = 9;
  const int dims = 5;
  constexpr std::size_t kCount = 45;
  const auto serial = [&](const std::vector<std::int64_t>& tokens, std::vector<double>& coefficients) {
    Utf8Decoder utf8;
    for (const std::int64_t token : tokens) {
      if (token < 0 || token >= bpe.vocabulary_size()) return OpenFastStatus::token_out_of_range;
      for (const char byte : bpe.bytes_of(static_cast<std::int32_t>(token))) {
        const Utf8Decoder::Step step = utf8.feed(static_cast<std::uint8_t>(byte));
        if (step == Utf8Decoder::Step::invalid) return OpenFastStatus::not_text;
        if (step == Utf8Decoder::Step::needs_more) continue;
        if (utf8.code_point() == 0xFFFD) return OpenFastStatus::not_text;
        if (coefficients.size() == kCount) return OpenFastStatus::coefficient_count;
        coefficients.push_back((static_cast<double>(utf8.code_point()) + min_token) / 2.0);
      }
    }
    if (!utf8.complete()) return OpenFastStatus::not_text;
    return coefficients.size() == kCount ? OpenFastStatus::ok : OpenFastStatus::coefficient_count;
  };
  std::minstd_rand generator(19);
  std::array<int, 7> seen{};
  for (int round = 0; round < 4000; ++round) {
    std::vector<std::int64_t> tokens;
    std::size_t characters = 0;
    const std::size_t wanted = kCount + (round % 5 == 0 ? generator() % 3 : 0);
    while (characters < wanted) {
      auto token = static_cast<std::int64_t>(generator() % 0x80);
      switch (generator() % 8) {
        case 0:
          token = round % 2 == 0 ? static_cast<std::int64_t>(generator() % 270) - 2 : 260;
          break;
        case 1:
        case 2:
          token = 256 + static_cast<std::int64_t>(generator() % 5);
          break;
        default:
          break;
      }
      if (token >= 0 && token < bpe.vocabulary_size()) {
        const std::size_t length = token == 260 ? 1 : bpe.bytes_of(static_cast<std::int32_t>(token)).size();
        if (characters + length > wanted && round % 3 != 0) continue;
        characters += length;
      } else {
        ++characters;
      }
      tokens.push_back(token);
    }
    std::vector<double> coefficients;
    const OpenFastStatus expected = serial(tokens, coefficients);
    std::vector<double> chunk(kCount, 7.0);
    CHECK_EQ(codec.decode(tokens, steps, dims, chunk.data()), expected);
    ++seen[static_cast<std::size_t>(expected)];
    if (expected != OpenFastStatus::ok) {
      CHECK(chunk == std::vector<double>(chunk.size(), 7.0));
      continue;
    }
    std::vector<double> back(chunk.size());
    DctBasis(steps).forward(chunk.data(), dims, back.data());
    for (std::size_t i = 0; i < back.size(); ++i) CHECK_NEAR(back[i], coefficients[i], 1e-12);
  }
  for (const OpenFastStatus status : {OpenFastStatus::ok, OpenFastStatus::token_out_of_range,
                                      OpenFastStatus::not_text, OpenFastStatus::coefficient_count}) {
    CHECK(seen[static_cast<std::size_t>(status)] > 20);
  }
}

CASE("a chunk that cannot be encoded says why and gives no tokens") {
  const OpenFastCodec codec = plain_codec(10.0, 0);
  Ids tokens{1, 2, 3};
  const auto status = [&](double value) { return codec.encode(&value, 1, 1, tokens); };
  CHECK_EQ(status(std::numeric_limits<double>::quiet_NaN()), OpenFastStatus::not_finite);
  CHECK_EQ(status(-std::numeric_limits<double>::infinity()), OpenFastStatus::not_finite);
  CHECK_EQ(status(1e308), OpenFastStatus::not_finite);
  CHECK_EQ(status(1e300), OpenFastStatus::outside_alphabet);
  CHECK_EQ(status(204.8), OpenFastStatus::outside_alphabet);  // 2048 has no character class
  CHECK(tokens.empty());
  CHECK_EQ(status(204.7), OpenFastStatus::ok);
}

CASE("more chunk lengths than are kept at once still decode") {
  const OpenFastCodec codec = plain_codec(1.0, 0);
  for (int round = 0; round < 2; ++round) {
    for (int steps = 1; steps <= 20; ++steps) {
      std::vector<std::int64_t> ids(static_cast<std::size_t>(steps), 0);
      ids[0] = 3;
      std::vector<double> chunk(ids.size());
      REQUIRE(codec.decode(ids, steps, 1, chunk.data()) == OpenFastStatus::ok);
      for (const double value : chunk) CHECK_NEAR(value, 3.0 / std::sqrt(steps), 1e-14);
    }
  }
}

CASE("every status has its own sentence") {
  for (int status = 0; status <= static_cast<int>(OpenFastStatus::coefficient_count); ++status) {
    for (int other = 0; other < status; ++other) {
      CHECK(std::string_view(kernels::describe(static_cast<OpenFastStatus>(status))) !=
            kernels::describe(static_cast<OpenFastStatus>(other)));
    }
  }
}
