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

// out += sum of scale_j row_j over `count` entries. The result stays in the first-level cache while
// whole rows stream past it, kTogether at a time; `rows` goes on with kTogether pointers more,
// whose rows are fetched ahead.
template <class T>
struct AddRows {
  static constexpr int kTogether = 4;

  template <int kBytes>
  static SAGITTAL_INLINE void run(const T* const* rows, const T* scales, int64_t count,
                                  int64_t width, T* out) {
    int64_t j = 0;
    for (; j + kTogether <= count; j += kTogether)
      add<kBytes, kTogether>(rows + j, scales + j, width, out);
    for (; j < count; ++j) add<kBytes, 1>(rows + j, scales + j, width, out);
  }

 private:
  template <int kBytes, int kRows>
  static SAGITTAL_INLINE void add(const T* const* rows, const T* scales, int64_t width, T* out) {
    using S = Simd<T, kBytes>;
    constexpr int64_t kLine = 64 / sizeof(T);
    int64_t d = 0;
    for (; d + kLine <= width; d += kLine) {
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) __builtin_prefetch(rows[kTogether + i] + d);
#pragma GCC unroll 4
      for (int64_t v = d; v < d + kLine; v += S::kLanes) {
        typename S::Vector sum = S::at(out + v);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) sum += scales[i] * S::at(rows[i] + v);
        S::at(out + v) = sum;
      }
    }
    for (; d < width; ++d)
      for (int i = 0; i < kRows; ++i) out[d] += scales[i] * rows[i][d];
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
      rows.resize(count + AddRows<T>::kTogether), scales.resize(count), group.assign(count, 0);
      // What is fetched ahead at the end of a row: the first entries of the next ones.
      for (int64_t j = count; j < static_cast<int64_t>(rows.size()); ++j)
        rows[j] = begin + j < codes.count ? weight + codes.indices[begin + j] * width : weight;
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
      const T* before = bias;
      for (int64_t l = 0; l < groups; ++l) {
        T* sum = out + (l * codes.rows + row) * width;
        std::copy_n(before, width, sum);
        run_for_isa<AddRows<T>>(rows.data() + bounds[l], scales.data() + bounds[l],
                                bounds[l + 1] - bounds[l], width, sum);
        before = sum;
      }
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
