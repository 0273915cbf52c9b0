// sparse_decode on the CPU. The specification is sagittal_core/ops/reference_sparse.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "../common/tile.h"
#include "codes.h"

namespace sagittal {
namespace {

// out_l = out_{l-1} + sum of scale_j row_j over entries [bounds[l], bounds[l + 1]), out_{-1} =
// bias.
template <class T>
struct AddRows {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const T* const* rows, const T* scales, const int64_t* bounds,
                                  int64_t groups, const T* bias, int64_t width, T* out,
                                  int64_t stride) {
    using S = Simd<T, kBytes>;
    constexpr int kVectors = 8;
    constexpr int64_t kStep = kVectors * S::kLanes;
    int64_t d = 0;
    for (; d + kStep <= width; d += kStep) {
      typename S::Vector sum[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sum[v] = S::at(bias + d + v * S::kLanes);
      for (int64_t l = 0; l < groups; ++l) {
        for (int64_t j = bounds[l]; j < bounds[l + 1]; ++j) {
          const T* row = rows[j] + d;
#pragma GCC unroll 4
          for (int line = 0; line < static_cast<int>(kStep * sizeof(T) / 64); ++line)
            __builtin_prefetch(row + kStep + line * (64 / sizeof(T)));
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) sum[v] += scales[j] * S::at(row + v * S::kLanes);
        }
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) S::at(out + l * stride + d + v * S::kLanes) = sum[v];
      }
    }
    for (; d < width; ++d) {
      T sum = bias[d];
      for (int64_t l = 0; l < groups; ++l) {
        for (int64_t j = bounds[l]; j < bounds[l + 1]; ++j) sum += scales[j] * rows[j][d];
        out[l * stride + d] = sum;
      }
    }
  }
};

template <class T>
void decode(const Codes& codes, const std::vector<int64_t>& prefixes, const T* weight,
            const T* bias, int64_t width, T* out) {
  const int64_t groups = static_cast<int64_t>(prefixes.size());
  const T* values = data<T>(codes.values_);
  torch::stable::parallel_for(0, codes.rows, 16, [&](int64_t from, int64_t to) {
    std::vector<const T*> rows;
    std::vector<T> scales;
    std::vector<int64_t> bounds(groups + 1), next(groups), group;
    for (int64_t row = from; row < to; ++row) {
      const int64_t begin = codes.begin(row), count = codes.begin(row + 1) - begin;
      rows.resize(count), scales.resize(count), group.assign(count, 0);
      std::fill(bounds.begin(), bounds.end(), 0);
      for (int64_t j = 0; j < count; ++j) {
        if (groups > 1) group[j] = group_of(prefixes, codes.indices[begin + j]);
        ++bounds[group[j] + 1];
      }
      for (int64_t l = 0; l < groups; ++l) next[l] = bounds[l], bounds[l + 1] += bounds[l];
      for (int64_t j = 0; j < count; ++j) {
        const int64_t at = next[group[j]]++;
        rows[at] = weight + codes.indices[begin + j] * width;
        scales[at] = values[begin + j];
      }
      run_for_isa<AddRows<T>>(+rows.data(), +scales.data(), +bounds.data(), groups, bias, width,
                              out + row * width, codes.rows * width);
    }
  });
}

Tensor sparse_decode_cpu(const Tensor& indices, const Tensor& values, std::optional<Tensor> offsets,
                         const Tensor& weight_in, const Tensor& bias_in,
                         std::vector<int64_t> prefixes) {
  count_call();
  const Tensor weight = torch::stable::contiguous(weight_in);
  const Tensor bias = torch::stable::contiguous(bias_in);
  check_matrix(weight, values, "weight");
  const int64_t width = weight.size(1);
  const Codes codes(indices, values, offsets, weight.size(0));
  STD_TORCH_CHECK(
      bias.dim() == 1 && bias.size(0) == width && bias.scalar_type() == values.scalar_type(),
      "bias must be (D,) of the dtype of values");
  check_prefixes(prefixes, codes.features);
  Tensor out =
      torch::stable::new_empty(weight, {static_cast<int64_t>(prefixes.size()), codes.rows, width});
  if (is_double(values, "values"))
    decode(codes, prefixes, data<double>(weight), data<double>(bias), width, data<double>(out));
  else
    decode(codes, prefixes, data<float>(weight), data<float>(bias), width, data<float>(out));
  return out;
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CPU, m) {
  m.impl("sparse_decode", TORCH_BOX(&sagittal::sparse_decode_cpu));
}
