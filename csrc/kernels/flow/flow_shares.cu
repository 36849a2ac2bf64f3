#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "kernels/flow/flow_shares.h"

namespace molmoact2::kernels::flow {
namespace {

int divided_up(int a, int b) { return (a + b - 1) / b; }

int rounded_up(int a, int b) { return divided_up(a, b) * b; }

int splits(const Geometry& geometry, Product product) { return product == down ? geometry.splits : 1; }

class Dealer {
 public:
  Dealer(const Geometry& geometry, int blocks)
      : geometry_(geometry), shares_(static_cast<std::size_t>(blocks)), units_(shares_.size(), 0) {}

  // The tiles of one split to the blocks [begin, end).
  void deal(Product product, int first_unit, int count, int begin, int end) {
    const int receivers = end - begin;
    std::vector<int> order(static_cast<std::size_t>(receivers));
    std::iota(order.begin(), order.end(), begin);
    std::ranges::stable_sort(order, {}, [&](int block) { return units_[index(block)]; });
    std::vector<int> counts(static_cast<std::size_t>(receivers), count / receivers);
    for (int extra = 0; extra < count % receivers; ++extra) ++counts[index(order[index(extra)] - begin)];
    for (int block = begin; block < end; ++block) {
      give(block, product, first_unit, counts[index(block - begin)]);
      first_unit += counts[index(block - begin)];
    }
  }

  void deal_like(Product product, Product model) {
    for (std::size_t block = 0; block < shares_.size(); ++block) {
      give(static_cast<int>(block), product, shares_[block].of[model].first, shares_[block].of[model].count);
    }
  }

  void deal(Product product) {
    const auto blocks = static_cast<int>(shares_.size());
    const int tiles = column_tiles(geometry_, product);
    const int parts = splits(geometry_, product);
    for (int part = 0; part < parts; ++part) {
      // With fewer blocks than splits a block gets several, one after the other.
      const int begin = part * blocks / parts;
      const int end = std::max((part + 1) * blocks / parts, begin + 1);
      deal(product, part * tiles, tiles, begin, end);
    }
  }

  // In the order in which a block uses its weights.
  std::vector<BlockShares> finish() {
    std::int64_t stream = 0;
    for (BlockShares& block : shares_) {
      block.stream = stream;
      for (const Product product : {qkv, self_out, query, cross_out, up_gate, down}) {
        block.of[product].offset = block.layer_units;
        block.layer_units += block.of[product].count;
      }
      stream += static_cast<std::int64_t>(geometry_.layers) * block.layer_units + block.of[final].count;
    }
    return shares_;
  }

 private:
  static std::size_t index(int i) { return static_cast<std::size_t>(i); }

  void give(int block, Product product, int first, int count) {
    Share& share = shares_[index(block)].of[product];
    if (share.count == 0) share.first = first;
    share.count += count;
    units_[index(block)] += count;
  }

  const Geometry& geometry_;
  std::vector<BlockShares> shares_;
  std::vector<int> units_;  // that a block has of a layer so far
};

}  // namespace

Geometry geometry_of(const FlowShapes& shapes, const FlowOptions& options, int blocks) {
  Geometry g;
  g.layers = shapes.layers;
  g.heads = shapes.heads;
  g.head_dim = shapes.head_dim;
  g.padded_head = rounded_up(shapes.head_dim, kDepthTile);
  g.width = shapes.width();
  g.inner = shapes.inner;
  g.action_dim = shapes.action_dim;
  g.width_tiles = rounded_up(g.width, kDepthTile) / kColumnTile;
  g.head_tiles = g.heads * g.padded_head / kColumnTile;
  g.inner_tiles = rounded_up(g.inner, kDepthTile) / kColumnTile;
  g.final_tiles = divided_up(g.action_dim, kColumnTile);
  constexpr int kSlotTiles = kWarps * 2 * kDepthTile / kColumnTile;  // column tiles that one slot is deep
  g.slots = divided_up(std::max(g.width_tiles, g.head_tiles), kSlotTiles);
  g.splits = divided_up(g.inner_tiles, g.slots * kSlotTiles);
  g.chunks = std::clamp(blocks / g.heads, 1, kMaxChunks);
  for (const Product product : {qkv, self_out, query, cross_out, up_gate, down}) {
    g.bias_offset[product] = g.layer_biases;
    g.layer_biases += column_tiles(g, product) * kColumnTile;
  }
  g.bias_offset[final] = g.layers * g.layer_biases;
  g.options = options;
  return g;
}

int column_tiles(const Geometry& geometry, Product product) {
  switch (product) {
    case qkv:
      return 3 * geometry.head_tiles;
    case query:
      return geometry.head_tiles;
    case up_gate:
      return 2 * geometry.inner_tiles;
    case final:
      return geometry.final_tiles;
    default:
      return geometry.width_tiles;
  }
}

std::vector<BlockShares> deal_out(const Geometry& geometry, int blocks) {
  Dealer dealer(geometry, blocks);
  dealer.deal(self_out);
  dealer.deal_like(cross_out, self_out);
  for (const Product product : {qkv, query, up_gate, down, final}) dealer.deal(product);
  return dealer.finish();
}

}  // namespace molmoact2::kernels::flow
