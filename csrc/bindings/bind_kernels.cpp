#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "kernels/depth_diff/depth_diff.h"
#include "kernels/openfast/openfast.h"
#include "kernels/vision_input/vision_input.h"

namespace py = pybind11;

namespace molmoact2::bindings {
namespace {

using kernels::OpenFastCodec;
using kernels::OpenFastStatus;

// C-contiguous and of exactly this type: what does not fit is refused, never converted.
template <typename T>
using DenseArray = py::array_t<T, py::array::c_style>;

template <typename T>
void require_rank(const DenseArray<T>& array, py::ssize_t rank, const char* what) {
  if (array.ndim() != rank) {
    throw std::invalid_argument(std::string(what) + " must have " + std::to_string(rank) +
                                " dimensions, got " + std::to_string(array.ndim()));
  }
}

int checked_int(py::ssize_t value, const char* what) {
  if (std::cmp_greater(value, std::numeric_limits<int>::max())) {
    throw std::invalid_argument(std::string(what) + " is too large");
  }
  return static_cast<int>(value);
}

void require_ok(OpenFastStatus status) {
  if (status != OpenFastStatus::ok) throw std::invalid_argument(kernels::describe(status));
}

std::unique_ptr<OpenFastCodec> make_codec(std::vector<py::bytes>& token_bytes,
                                          const DenseArray<std::int32_t>& byte_ids,
                                          const DenseArray<std::int32_t>& merges, bool splits_words,
                                          const DenseArray<std::uint8_t>& character_classes, double scale,
                                          std::int32_t min_token) {
  require_rank(byte_ids, 1, "byte_ids");
  require_rank(merges, 2, "merges");
  require_rank(character_classes, 1, "character_classes");
  kernels::ByteLevelBpeTables tables;
  if (std::cmp_not_equal(byte_ids.size(), tables.byte_ids.size()) || merges.shape(1) != 3) {
    throw std::invalid_argument("byte_ids must be (256,) and merges (n, 3)");
  }
  tables.token_bytes.assign(token_bytes.begin(), token_bytes.end());
  std::copy_n(byte_ids.data(), tables.byte_ids.size(), tables.byte_ids.begin());
  tables.merges.reserve(static_cast<std::size_t>(merges.shape(0)));
  for (py::ssize_t i = 0; i < merges.shape(0); ++i) {
    tables.merges.push_back({merges.at(i, 0), merges.at(i, 1), merges.at(i, 2)});
  }
  tables.splits_words = splits_words;
  tables.character_classes.reserve(static_cast<std::size_t>(character_classes.size()));
  for (const std::uint8_t value :
       std::span(character_classes.data(), static_cast<std::size_t>(character_classes.size()))) {
    if (value > static_cast<std::uint8_t>(kernels::CharacterClass::space)) {
      throw std::invalid_argument("a character class must be 0 to 3");
    }
    tables.character_classes.push_back(static_cast<kernels::CharacterClass>(value));
  }
  return std::make_unique<OpenFastCodec>(kernels::ByteLevelBpe(std::move(tables)), scale, min_token);
}

std::vector<std::int32_t> encode(const OpenFastCodec& codec, const DenseArray<double>& chunk) {
  require_rank(chunk, 2, "chunk");
  const int steps = checked_int(chunk.shape(0), "the number of steps");
  const int dims = checked_int(chunk.shape(1), "the number of dimensions");
  std::vector<std::int32_t> tokens;
  OpenFastStatus status{};
  {
    const py::gil_scoped_release release;
    status = codec.encode(chunk.data(), steps, dims, tokens);
  }
  require_ok(status);
  return tokens;
}

// None when the tokens do not decode; an unusable shape is the caller's mistake and raises.
py::object decode(const OpenFastCodec& codec, std::span<const std::int64_t> tokens, int steps, int dims) {
  if (steps < 1 || steps > kernels::DctBasis::kMaxLength || dims < 1 || dims > kernels::kMaxActionDims) {
    throw std::invalid_argument(kernels::describe(OpenFastStatus::bad_shape));
  }
  DenseArray<double> chunk({steps, dims});
  double* const values = chunk.mutable_data();
  OpenFastStatus status{};
  {
    const py::gil_scoped_release release;
    status = codec.decode(tokens, steps, dims, values);
  }
  if (status != OpenFastStatus::ok) return py::none();
  return chunk;
}

py::object decode_array(const OpenFastCodec& codec, const DenseArray<std::int64_t>& tokens, int steps,
                        int dims) {
  require_rank(tokens, 1, "tokens");
  return decode(codec, std::span(tokens.data(), static_cast<std::size_t>(tokens.size())), steps, dims);
}

// What generation returns; read in place, because making an array of it takes longer than decoding it.
py::object decode_list(const OpenFastCodec& codec, const py::list& tokens, int steps, int dims) {
  std::vector<std::int64_t> ids;
  ids.reserve(tokens.size());
  for (const py::handle token : tokens) {
    if (!PyLong_Check(token.ptr())) throw py::type_error("tokens must be integers");
    int overflow = 0;
    const std::int64_t id = PyLong_AsLongLongAndOverflow(token.ptr(), &overflow);
    ids.push_back(overflow == 0 ? id : -1);  // too large for 64 bits is out of range like any other
  }
  return decode(codec, ids, steps, dims);
}

DenseArray<double> quantize_chunk(const DenseArray<double>& chunk, double scale) {
  require_rank(chunk, 2, "chunk");
  const int steps = checked_int(chunk.shape(0), "the number of steps");
  const int dims = checked_int(chunk.shape(1), "the number of dimensions");
  DenseArray<double> coefficients({chunk.shape(0), chunk.shape(1)});
  require_ok(kernels::quantize_chunk(chunk.data(), steps, dims, scale, coefficients.mutable_data()));
  return coefficients;
}

kernels::RgbFrame frame_of(const DenseArray<std::uint8_t>& frame, const char* what) {
  require_rank(frame, 3, what);
  if (frame.shape(2) != kernels::kColorChannels) {
    throw std::invalid_argument(std::string(what) + " must be (height, width, 3)");
  }
  return {frame.data(), checked_int(frame.shape(0), "the height"), checked_int(frame.shape(1), "the width")};
}

void require_ok(kernels::DepthDiffStatus status) {
  switch (status) {
    case kernels::DepthDiffStatus::ok:
      return;
    case kernels::DepthDiffStatus::bad_frame:
      throw std::invalid_argument("frame sides must be 1 to " + std::to_string(kernels::kMaxFrameSide));
    case kernels::DepthDiffStatus::bad_grid:
      throw std::invalid_argument("cells per side must be 1 to " + std::to_string(kernels::kMaxGridSide));
    case kernels::DepthDiffStatus::cuda_failed:
      throw std::runtime_error("a CUDA kernel could not be launched");
  }
}

DenseArray<std::uint8_t> resize_bilinear(const DenseArray<std::uint8_t>& frame, int height, int width) {
  const kernels::RgbFrame input = frame_of(frame, "frame");
  if (height < 1 || height > kernels::kMaxFrameSide || width < 1 || width > kernels::kMaxFrameSide) {
    require_ok(kernels::DepthDiffStatus::bad_frame);
  }
  DenseArray<std::uint8_t> resized({height, width, kernels::kColorChannels});
  std::uint8_t* const pixels = resized.mutable_data();
  kernels::DepthDiffStatus status{};
  {
    const py::gil_scoped_release release;
    status = kernels::resize_bilinear(input, height, width, kernels::fastest_isa(), pixels);
  }
  require_ok(status);
  return resized;
}

DenseArray<bool> depth_update_mask(const DenseArray<std::uint8_t>& current,
                                   const DenseArray<std::uint8_t>& previous, int side) {
  const kernels::RgbFrame now = frame_of(current, "current");
  const kernels::RgbFrame before = frame_of(previous, "previous");
  std::vector<std::uint8_t> changed;
  kernels::DepthDiffStatus status = kernels::DepthDiffStatus::bad_grid;
  if (side >= 1 && side <= kernels::kMaxGridSide) {
    const py::gil_scoped_release release;
    changed.resize(static_cast<std::size_t>(side) * static_cast<std::size_t>(side));
    status = kernels::depth_update_mask(now, before, side, kernels::fastest_isa(), changed.data());
  }
  require_ok(status);
  DenseArray<bool> mask(static_cast<py::ssize_t>(changed.size()));
  std::ranges::transform(changed, mask.mutable_data(), [](std::uint8_t cell) { return cell != 0; });
  return mask;
}

kernels::ImageView image_view(const py::array_t<std::uint8_t, 0>& image) {
  if (image.ndim() != 3 || image.shape(2) != kernels::kImageChannels || image.size() == 0) {
    throw std::invalid_argument("image must be (height, width, 3) and not empty");
  }
  // The stride of an axis with one entry means nothing.
  if (image.strides(2) != 1 || (image.shape(1) > 1 && image.strides(1) != kernels::kImageChannels)) {
    throw std::invalid_argument("a row of the image must be contiguous; use numpy.ascontiguousarray");
  }
  return {image.data(), checked_int(image.shape(0), "the height"), checked_int(image.shape(1), "the width"),
          image.strides(0)};
}

void require_ok(kernels::VisionInputStatus status) {
  switch (status) {
    case kernels::VisionInputStatus::ok:
      return;
    case kernels::VisionInputStatus::bad_frame:
    case kernels::VisionInputStatus::bad_size:
      throw std::invalid_argument("sides of the image and of its new size must be 1 to " +
                                  std::to_string(kernels::kMaxImageSide));
    case kernels::VisionInputStatus::bad_window:
      throw std::invalid_argument("the window must hold at least one patch of 1 to " +
                                  std::to_string(kernels::kMaxPatchSide) +
                                  " pixels and lie within the resized image");
    case kernels::VisionInputStatus::cuda_failed:
      throw std::runtime_error("a CUDA kernel could not be launched");
  }
}

// size: of the resized image; origin: of the window, both (vertical, horizontal) in pixels; grid: (rows,
// columns) of patches.
void resize_to_patches(const py::array_t<std::uint8_t, 0>& image, std::array<int, 2> size,
                       std::array<int, 2> origin, std::array<int, 2> grid, int patch,
                       DenseArray<float>& patches) {
  const kernels::ImageView view = image_view(image);
  const kernels::PatchWindow window{origin[0], origin[1], grid[0], grid[1], patch};
  const py::ssize_t rows = static_cast<py::ssize_t>(grid[0]) * grid[1];
  const py::ssize_t columns = static_cast<py::ssize_t>(patch) * patch * kernels::kImageChannels;
  if (patches.ndim() != 2 || patches.shape(0) != rows || patches.shape(1) != columns) {
    throw std::invalid_argument("patches must be (rows * columns of the grid, patch * patch * 3)");
  }
  float* const target = patches.mutable_data();  // refuses a read-only array
  kernels::VisionInputStatus status{};
  {
    const py::gil_scoped_release release;
    status = kernels::resize_to_patches(view, {size[0], size[1]}, window, kernels::fastest_isa(), target);
  }
  require_ok(status);
}

}  // namespace

void bind_kernels(py::module_& module) {
  py::module_ kernels_module =
      module.def_submodule("kernels", "Single operations on arrays; shapes and types are checked here.");

  py::class_<OpenFastCodec>(kernels_module, "OpenFastCodec")
      .def(py::init(&make_codec), py::kw_only(), py::arg("token_bytes"), py::arg("byte_ids").noconvert(),
           py::arg("merges").noconvert(), py::arg("splits_words"), py::arg("character_classes").noconvert(),
           py::arg("scale"), py::arg("min_token"))
      .def_property_readonly("vocab_size", &OpenFastCodec::vocabulary_size)
      .def_property_readonly("scale", &OpenFastCodec::scale)
      .def_property_readonly("min_token", &OpenFastCodec::min_token)
      .def("encode", &encode, py::arg("chunk").noconvert())
      .def("decode", &decode_list, py::arg("tokens"), py::arg("steps"), py::arg("dims"))
      .def("decode", &decode_array, py::arg("tokens").noconvert(), py::arg("steps"), py::arg("dims"));
  kernels_module.def("quantize_chunk", &quantize_chunk, py::arg("chunk").noconvert(), py::arg("scale"));
  kernels_module.attr("MAX_STEPS") = kernels::DctBasis::kMaxLength;
  kernels_module.attr("MAX_ACTION_DIMS") = kernels::kMaxActionDims;

  kernels_module.def("resize_bilinear", &resize_bilinear, py::arg("frame").noconvert(), py::arg("height"),
                     py::arg("width"));
  kernels_module.def("depth_update_mask", &depth_update_mask, py::arg("current").noconvert(),
                     py::arg("previous").noconvert(), py::arg("side"));
  kernels_module.def("resize_to_patches", &resize_to_patches, py::arg("image").noconvert(), py::kw_only(),
                     py::arg("size"), py::arg("origin"), py::arg("grid"), py::arg("patch"),
                     py::arg("patches").noconvert());
  kernels_module.attr("MAX_IMAGE_SIDE") = kernels::kMaxImageSide;
  kernels_module.attr("MAX_FRAME_SIDE") = kernels::kMaxFrameSide;
  kernels_module.attr("MAX_GRID_SIDE") = kernels::kMaxGridSide;
}

}  // namespace molmoact2::bindings
