// Who computes what of the CUDA flow loop, decided once per plan on the host.
#pragma once

#include <vector>

#include "kernels/flow/flow_run.cuh"

namespace molmoact2::kernels::flow {

// Sizes after padding; `blocks` of the grid.
Geometry geometry_of(const FlowShapes& shapes, const FlowOptions& options, int blocks);

// Column tiles of a product, over all of its rows of weights.
int column_tiles(const Geometry& geometry, Product product);

// One entry per block. In every product units are dealt out evenly, and what is left over goes to blocks that
// have the least weights to read so far. self_out and cross_out are dealt alike: their tiles of the residual
// stream stay with one block.
std::vector<BlockShares> deal_out(const Geometry& geometry, int blocks);

}  // namespace molmoact2::kernels::flow
