// Byte-level byte pair encoding over sequences of Unicode code points, with the ids of the tokenizers
// library.
//
// The tables come from a tokenizer.json; whoever reads that file (the Python face) turns token strings into
// bytes and Unicode categories into character classes, so that no Unicode data is compiled in.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace molmoact2::kernels {

// What the splitting pattern of GPT-2 distinguishes; the values of ByteLevelBpeTables::character_classes.
enum class CharacterClass : std::uint8_t { other = 0, letter = 1, number = 2, space = 3 };

struct ByteLevelBpeTables {
  struct Merge {
    std::int32_t left;
    std::int32_t right;
    std::int32_t merged;
  };

  // The bytes that each id decodes to.
  std::vector<std::string> token_bytes;
  // The id of each single byte, or -1 where the vocabulary has none.
  std::array<std::int32_t, 256> byte_ids{};
  // In rank order: the first has the highest priority.
  std::vector<Merge> merges;
  // Text is cut into words by GPT-2's pattern before merging; otherwise it is one word.
  bool splits_words = true;
  // The class of each code point from 0 on; code points past its end cannot be encoded.
  std::vector<CharacterClass> character_classes;
};

class ByteLevelBpe {
 public:
  // std::invalid_argument if an id in the tables is out of range.
  explicit ByteLevelBpe(ByteLevelBpeTables tables);

  std::int32_t vocabulary_size() const { return static_cast<std::int32_t>(tables_.token_bytes.size()); }

  // Appends the ids of `text`; false, with `ids` unspecified, when a code point is no Unicode scalar value,
  // has no character class, or needs a byte that the vocabulary lacks.
  bool encode(const std::vector<char32_t>& text, std::vector<std::int32_t>& ids) const;

  // The bytes of one id; the id must lie in 0..vocabulary_size()-1.
  std::string_view bytes_of(std::int32_t id) const {
    return tables_.token_bytes[static_cast<std::size_t>(id)];
  }

 private:
  // A slot of the open-addressing table of merges; free while merged is -1.
  struct RankedMerge {
    std::int32_t left = 0;
    std::int32_t right = 0;
    std::int32_t rank = 0;
    std::int32_t merged = -1;
  };
  // One symbol of a word while pairs are merged: a doubly linked list in an array.
  struct Symbol {
    std::int32_t id;  // kAbsorbed once the symbol has become part of its left neighbour
    std::int32_t previous;
    std::int32_t next;
  };
  struct Scratch;

  CharacterClass class_of(char32_t code) const { return tables_.character_classes[code]; }
  std::size_t word_end(const std::vector<char32_t>& text, std::size_t begin) const;
  // The pair's slot, or the free slot where it would stand.
  std::size_t slot_of(std::int32_t left, std::int32_t right) const;
  void merge_word(Scratch& scratch) const;

  ByteLevelBpeTables tables_;
  std::vector<RankedMerge> ranked_merges_;  // a power of two, at most half full
};

}  // namespace molmoact2::kernels
