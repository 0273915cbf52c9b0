// Rows of any floating-point dtype, read in the type that sums are held in.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../common/isa.h"

namespace sagittal {

template <class T, class S>
struct ConvertValues {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const S* from, T* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(static_cast<float>(from[i]));
  }
};
template <class T>
struct ConvertValues<T, double> {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const double* from, T* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = static_cast<T>(from[i]);
  }
};

// A contiguous (rows, width) tensor.
template <class T>
class Rows {
 public:
  explicit Rows(const torch::stable::Tensor& tensor)
      : data_(static_cast<const char*>(tensor.data_ptr())),
        type_(tensor.scalar_type()),
        width_(tensor.size(1)) {}

  // Values of rows [begin, begin + count): in place if they are of type T, else in `scratch`.
  const T* read(int64_t begin, int64_t count, T* scratch) const {
    using torch::headeronly::ScalarType;
    switch (type_) {
      case ScalarType::Float:
        return read_as<float>(begin, count, scratch);
      case ScalarType::Double:
        return read_as<double>(begin, count, scratch);
      case ScalarType::Half:
        return read_as<torch::headeronly::Half>(begin, count, scratch);
      default:
        return read_as<torch::headeronly::BFloat16>(begin, count, scratch);
    }
  }

 private:
  template <class S>
  const T* read_as(int64_t begin, int64_t count, T* scratch) const {
    const S* from = reinterpret_cast<const S*>(data_) + begin * width_;
    if constexpr (std::is_same_v<S, T>) {
      return from;
    } else {
      run_for_isa<ConvertValues<T, S>>(from, scratch, count * width_);
      return scratch;
    }
  }

  const char* data_;
  torch::headeronly::ScalarType type_;
  int64_t width_;
};

inline void check_floating_matrix(const torch::stable::Tensor& tensor, const char* name) {
  using torch::headeronly::ScalarType;
  const auto type = tensor.scalar_type();
  STD_TORCH_CHECK(tensor.dim() == 2 && (type == ScalarType::Float || type == ScalarType::Double ||
                                        type == ScalarType::Half || type == ScalarType::BFloat16),
                  name, " must be a float32, float64, float16 or bfloat16 matrix");
}

}  // namespace sagittal
