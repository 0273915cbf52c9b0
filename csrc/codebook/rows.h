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

// Half types have a conversion to float only.
template <class T, class S>
SAGITTAL_INLINE T widen(S value) {
  if constexpr (std::is_same_v<S, double>)
    return static_cast<T>(value);
  else
    return static_cast<T>(static_cast<float>(value));
}

template <class T, class S>
struct ConvertValues {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const S* from, T* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] = widen<T>(from[i]);
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

  // Calls visitor(pointer to the first value, of the tensor's own type).
  template <class Visitor>
  void visit(const Visitor& visitor) const {
    using torch::headeronly::ScalarType;
    switch (type_) {
      case ScalarType::Float:
        return visitor(reinterpret_cast<const float*>(data_));
      case ScalarType::Double:
        return visitor(reinterpret_cast<const double*>(data_));
      case ScalarType::Half:
        return visitor(reinterpret_cast<const torch::headeronly::Half*>(data_));
      default:
        return visitor(reinterpret_cast<const torch::headeronly::BFloat16*>(data_));
    }
  }

  // Values of rows [begin, begin + count): in place if they are of type T, else in `scratch`.
  const T* read(int64_t begin, int64_t count, T* scratch) const {
    const T* found = scratch;
    visit([&](const auto* data) {
      using S = std::remove_cvref_t<decltype(*data)>;
      if constexpr (std::is_same_v<S, T>)
        found = data + begin * width_;
      else
        run_for_isa<ConvertValues<T, S>>(data + begin * width_, scratch, count * width_);
    });
    return found;
  }

 private:
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
