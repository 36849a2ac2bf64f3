#include "kernels/openfast/byte_level_bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace molmoact2::kernels {
namespace {

constexpr std::int32_t kNone = -1;
constexpr std::int32_t kAbsorbed = -1;

std::size_t pair_hash(std::int32_t left, std::int32_t right) {
  const std::uint64_t key = (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32) |
                            static_cast<std::uint32_t>(right);
  return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15U) >> 32);  // the golden ratio spreads small ids
}

// A pair that could be merged. The lowest rank goes first, the leftmost on a tie.
struct Candidate {
  std::int32_t rank;
  std::int32_t position;
  std::int32_t left;
  std::int32_t right;
  std::int32_t merged;

  bool operator>(const Candidate& other) const {
    return std::tie(rank, position) > std::tie(other.rank, other.position);
  }
};

bool is_scalar_value(char32_t code) { return code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF); }

// Writes the UTF-8 form of a scalar value and returns its length, 1 to 4.
int to_utf8(char32_t code, std::array<std::uint8_t, 4>& bytes) {
  const auto tail = [code](int shift) { return static_cast<std::uint8_t>(0x80 | ((code >> shift) & 0x3F)); };
  if (code < 0x80) {
    bytes = {static_cast<std::uint8_t>(code)};
    return 1;
  }
  if (code < 0x800) {
    bytes = {static_cast<std::uint8_t>(0xC0 | (code >> 6)), tail(0)};
    return 2;
  }
  if (code < 0x10000) {
    bytes = {static_cast<std::uint8_t>(0xE0 | (code >> 12)), tail(6), tail(0)};
    return 3;
  }
  bytes = {static_cast<std::uint8_t>(0xF0 | (code >> 18)), tail(12), tail(6), tail(0)};
  return 4;
}

// Length of an English contraction ('s 't 're 've 'm 'll 'd) that starts at `begin`, or 0.
std::size_t contraction_length(const std::vector<char32_t>& text, std::size_t begin) {
  if (text[begin] != U'\'' || begin + 1 == text.size()) return 0;
  const char32_t first = text[begin + 1];
  if (first == U's' || first == U't' || first == U'm' || first == U'd') return 2;
  if (begin + 2 == text.size()) return 0;
  const char32_t second = text[begin + 2];
  const bool two_letters = (first == U'r' && second == U'e') || (first == U'v' && second == U'e') ||
                           (first == U'l' && second == U'l');
  return two_letters ? 3 : 0;
}

}  // namespace

struct ByteLevelBpe::Scratch {
  std::vector<Symbol> symbols;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
};

ByteLevelBpe::ByteLevelBpe(ByteLevelBpeTables tables) : tables_(std::move(tables)) {
  const std::int32_t size = vocabulary_size();
  const auto known = [size](std::int32_t id) { return id >= 0 && id < size; };
  for (const std::int32_t id : tables_.byte_ids) {
    if (id != kNone && !known(id)) throw std::invalid_argument("a byte id lies outside the vocabulary");
  }
  ranked_merges_.resize(std::bit_ceil(2 * tables_.merges.size() + 1));
  std::int32_t rank = 0;
  for (const auto& [left, right, merged] : tables_.merges) {
    if (!known(left) || !known(right) || !known(merged)) {
      throw std::invalid_argument("a merge names an id outside the vocabulary");
    }
    ranked_merges_[slot_of(left, right)] = {left, right, rank, merged};  // of equal pairs the last counts
    ++rank;
  }
}

std::size_t ByteLevelBpe::slot_of(std::int32_t left, std::int32_t right) const {
  const std::size_t mask = ranked_merges_.size() - 1;
  std::size_t slot = pair_hash(left, right) & mask;
  while (ranked_merges_[slot].merged != kNone &&
         (ranked_merges_[slot].left != left || ranked_merges_[slot].right != right)) {
    slot = (slot + 1) & mask;
  }
  return slot;
}

// The words of GPT-2's pattern, tried in this order:
//   's|'t|'re|'ve|'m|'ll|'d | ?letters | ?numbers | ?others | white space not before a word | white space
// The blank in "?" is U+0020 only; of a run of white space before a word the last character is left to it.
std::size_t ByteLevelBpe::word_end(const std::vector<char32_t>& text, std::size_t begin) const {
  if (!tables_.splits_words) return text.size();
  if (const std::size_t length = contraction_length(text, begin); length > 0) return begin + length;

  const bool leading_blank =
      text[begin] == U' ' && begin + 1 < text.size() && class_of(text[begin + 1]) != CharacterClass::space;
  std::size_t end = begin + (leading_blank ? 1 : 0);
  const CharacterClass run_class = class_of(text[end]);
  while (end < text.size() && class_of(text[end]) == run_class) ++end;

  const bool white_space_before_word = run_class == CharacterClass::space && end < text.size();
  return white_space_before_word && end - begin > 1 ? end - 1 : end;
}

void ByteLevelBpe::merge_word(Scratch& scratch) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  auto& candidates = scratch.candidates;
  const auto at = [&symbols](std::int32_t position) -> Symbol& {
    return symbols[static_cast<std::size_t>(position)];
  };
  const auto propose = [&](std::int32_t position) {
    if (position == kNone || at(position).next == kNone) return;
    const RankedMerge& merge = ranked_merges_[slot_of(at(position).id, at(at(position).next).id)];
    if (merge.merged != kNone) {
      candidates.push({merge.rank, position, merge.left, merge.right, merge.merged});
    }
  };

  for (std::int32_t position = 0; std::cmp_less(position, symbols.size()); ++position) propose(position);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    Symbol& left = at(best.position);
    if (left.id == kAbsorbed || left.next == kNone) continue;
    Symbol& right = at(left.next);
    // Neighbours may have changed since the candidate was queued. Like the tokenizers library, what counts
    // is what the pair merges into now, not which pair it was.
    const bool same_pair = left.id == best.left && right.id == best.right;
    if (!same_pair && ranked_merges_[slot_of(left.id, right.id)].merged != best.merged) continue;
    left.id = best.merged;
    left.next = right.next;
    right.id = kAbsorbed;
    if (left.next != kNone) at(left.next).previous = best.position;
    propose(left.previous);
    propose(best.position);
  }
}

bool ByteLevelBpe::encode(const std::vector<char32_t>& text, std::vector<std::int32_t>& ids) const {
  const bool encodable = std::ranges::all_of(text, [this](char32_t code) {
    return is_scalar_value(code) && (!tables_.splits_words || code < tables_.character_classes.size());
  });
  if (!encodable) return false;

  Scratch scratch;
  std::array<std::uint8_t, 4> utf8{};
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = word_end(text, begin);
    scratch.symbols.clear();
    for (std::size_t i = begin; i < end; ++i) {
      const int length = to_utf8(text[i], utf8);
      for (int byte = 0; byte < length; ++byte) {
        const std::int32_t id = tables_.byte_ids[utf8[static_cast<std::size_t>(byte)]];
        if (id == kNone) return false;
        const auto position = static_cast<std::int32_t>(scratch.symbols.size());
        scratch.symbols.push_back({id, position - 1, position + 1});
      }
    }
    scratch.symbols.back().next = kNone;
    merge_word(scratch);
    for (const Symbol& symbol : scratch.symbols) {
      if (symbol.id != kAbsorbed) ids.push_back(symbol.id);
    }
    begin = end;
  }
  return true;
}

}  // namespace molmoact2::kernels
