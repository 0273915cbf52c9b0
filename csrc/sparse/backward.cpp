// sparse_decode_backward and sparse_encode_backward on the CPU. The specification is
// sagittal_core/ops/reference_sparse.py.
//
// A sweep visits the entries in order of their feature (a stable counting sort), so that a
// feature's gradient is summed in cache and written once. The list of features and entries is cut
// into chunks of equal length. A chunk owns the features that begin in it; entries that go on from
// the chunk before are summed beside, and added in order at the end: the same bits on any number of
// threads, and a feature that is active in every row is no bottleneck.
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

constexpr int64_t kChunk = 512;  // features and entries of one task

// Entries in order of their feature, those of one feature in the order of the codes.
struct Sorted {
  std::vector<int64_t> starts;  // (features + 1)
  std::vector<int64_t> entry;   // position in the codes
  std::vector<int64_t> row;

  // Leaves out entries for which active(position) is false.
  template <class Active>
  Sorted(const Codes& codes, const Active& active) : starts(codes.features + 1, 0) {
    for (int64_t i = 0; i < codes.count; ++i) starts[codes.indices[i] + 1] += active(i);
    for (int64_t f = 0; f < codes.features; ++f) starts[f + 1] += starts[f];
    entry.resize(starts.back());
    row.resize(starts.back());
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (int64_t r = 0; r < codes.rows; ++r)
      for (int64_t i = codes.begin(r); i < codes.begin(r + 1); ++i)
        if (active(i)) {
          const int64_t at = next[codes.indices[i]]++;
          entry[at] = i;
          row[at] = r;
        }
  }
};

// Entries of one feature: sum[d] = sum_j scale_j (row_j[d] - shift[d]); dots: <row_j, weight>.
template <class T>
struct Segment {
  const T* const* rows;
  const T* scales;
  int64_t count, width;
  const T* shift;   // null in the decoder's sweep
  const T* weight;  // null in the encoder's sweep
  T* sum;
  T* dots;
};

template <class T, bool kDecoder>
struct SumSegment {
  // kCount entries from the j-th on, all in one pass over the dimensions.
  template <int kBytes, int kCount>
  static SAGITTAL_INLINE void add(const Segment<T>& s, int64_t j) {
    using S = Simd<T, kBytes>;
    const T* row[kCount];
    T scale[kCount], tail[kCount];
    typename S::Vector dot[kCount];
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i)
      row[i] = s.rows[j + i], scale[i] = s.scales[j + i], dot[i] = typename S::Vector{},
      tail[i] = 0;
    int64_t d = 0;
    for (; d + S::kLanes <= s.width; d += S::kLanes) {
      typename S::Vector sum = j == 0 ? typename S::Vector{} : S::at(s.sum + d);
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i) {
        const typename S::Vector value = S::at(row[i] + d);
        if constexpr (kDecoder) {
          sum += scale[i] * value;
          dot[i] += value * S::at(s.weight + d);
        } else {
          sum += scale[i] * (value - S::at(s.shift + d));
        }
      }
      S::at(s.sum + d) = sum;
    }
    for (; d < s.width; ++d) {
      T sum = j == 0 ? T(0) : s.sum[d];
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i) {
        if constexpr (kDecoder) {
          sum += scale[i] * row[i][d];
          tail[i] += row[i][d] * s.weight[d];
        } else {
          sum += scale[i] * (row[i][d] - s.shift[d]);
        }
      }
      s.sum[d] = sum;
    }
    if constexpr (kDecoder) {
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i) {
        T total = tail[i];
        for (int lane = 0; lane < S::kLanes; ++lane) total += dot[i][lane];
        s.dots[j + i] = total;
      }
    }
  }

  template <int kBytes>
  static SAGITTAL_INLINE void run(const Segment<T>& s) {
    if (s.count == 0) std::fill(s.sum, s.sum + s.width, T(0));
    int64_t j = 0;
    for (; j + 4 <= s.count; j += 4) add<kBytes, 4>(s, j);
    for (; j < s.count; ++j) add<kBytes, 1>(s, j);
  }
};

template <class T>
struct AddValues {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const T* from, T* to, int64_t count) {
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
  }
};

// Runs `body` on the entries of every feature, piece by piece, and adds the pieces up in `total`
// (features, width). fill(feature, first, count, segment) sets a segment's rows and scales;
// done(first, count, dots) receives what the body wrote.
template <class Body, class T, class Fill, class Done>
void sweep(const Sorted& sorted, int64_t width, T* total, const Fill& fill, const Done& done) {
  const std::vector<int64_t>& starts = sorted.starts;
  const int64_t features = static_cast<int64_t>(starts.size()) - 1;
  const int64_t chunks = (features + starts.back() + kChunk - 1) / kChunk;
  // Feature f stands at position starts[f] + f, its entries behind it.
  const auto first_feature = [&](int64_t position) {
    int64_t low = 0, high = features;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (starts[middle] + middle < position)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  };
  const Buffer<T> beside(chunks * width);
  std::vector<int64_t> goes_on(chunks, -1);  // feature whose sum stands beside
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t from, int64_t to) {
    std::vector<const T*> rows(kChunk);
    std::vector<T> scales(kChunk), dots(kChunk);
    const auto piece = [&](int64_t feature, int64_t begin, int64_t end, T* sum) {
      Segment<T> segment{rows.data(), scales.data(), end - begin, width,
                         nullptr,     nullptr,       sum,         dots.data()};
      fill(feature, begin, rows.data(), scales.data(), segment);
      run_for_isa<Body>(segment);
      done(begin, end - begin, dots.data());
    };
    for (int64_t chunk = from; chunk < to; ++chunk) {
      const int64_t low = first_feature(chunk * kChunk), high = first_feature((chunk + 1) * kChunk);
      const int64_t head = std::min(starts[low], (chunk + 1) * kChunk - low);
      const int64_t before = std::max<int64_t>(0, chunk * kChunk - low);
      if (low > 0 && before < head) {
        goes_on[chunk] = low - 1;
        piece(low - 1, before, head, beside.get() + chunk * width);
      }
      for (int64_t f = low; f < high; ++f)
        piece(f, starts[f], std::min(starts[f + 1], (chunk + 1) * kChunk - f - 1),
              total + f * width);
    }
  });
  for (int64_t chunk = 0; chunk < chunks; ++chunk)
    if (goes_on[chunk] >= 0)
      run_for_isa<AddValues<T>>(beside.get() + chunk * width, total + goes_on[chunk] * width,
                                width);
}

template <class T>
void decode_backward(const Codes& codes, const std::vector<int64_t>& prefixes, const T* grad,
                     const T* weight, int64_t width, T* for_values, T* for_weight) {
  const Sorted sorted(codes, [](int64_t) { return true; });
  const T* values = data<T>(codes.values_);
  sweep<SumSegment<T, true>>(
      sorted, width, for_weight,
      [&](int64_t feature, int64_t begin, const T** rows, T* scales, Segment<T>& segment) {
        const T* mine = grad + group_of(prefixes, feature) * codes.rows * width;
        segment.weight = weight + feature * width;
        for (int64_t j = 0; j < segment.count; ++j) {
          rows[j] = mine + sorted.row[begin + j] * width;
          scales[j] = values[sorted.entry[begin + j]];
        }
      },
      [&](int64_t begin, int64_t count, const T* dots) {
        for (int64_t j = 0; j < count; ++j) for_values[sorted.entry[begin + j]] = dots[j];
      });
}

template <class T>
void encode_backward(const Codes& codes, const T* grad, const T* x, const T* shift, int64_t width,
                     T* for_weight, T* for_bias) {
  const T* values = data<T>(codes.values_);
  const Sorted sorted(codes, [&](int64_t i) { return values[i] > 0; });
  for (int64_t f = 0; f < codes.features; ++f) {
    T sum = 0;
    for (int64_t j = sorted.starts[f]; j < sorted.starts[f + 1]; ++j) sum += grad[sorted.entry[j]];
    for_bias[f] = sum;
  }
  const std::vector<T> zeros(shift == nullptr ? width : 0, T(0));
  sweep<SumSegment<T, false>>(
      sorted, width, for_weight,
      [&](int64_t, int64_t begin, const T** rows, T* scales, Segment<T>& segment) {
        segment.shift = shift == nullptr ? zeros.data() : shift;
        for (int64_t j = 0; j < segment.count; ++j) {
          rows[j] = x + sorted.row[begin + j] * width;
          scales[j] = grad[sorted.entry[begin + j]];
        }
      },
      [](int64_t, int64_t, const T*) {});
}

std::tuple<Tensor, Tensor> sparse_decode_backward_cpu(const Tensor& grad_in, const Tensor& indices,
                                                      const Tensor& values,
                                                      std::optional<Tensor> offsets,
                                                      const Tensor& weight_in,
                                                      std::vector<int64_t> prefixes) {
  count_call();
  const Tensor grad = torch::stable::contiguous(grad_in);
  const Tensor weight = torch::stable::contiguous(weight_in);
  check_matrix(weight, values, "weight");
  const int64_t width = weight.size(1);
  const Codes codes(indices, values, offsets, weight.size(0));
  check_prefixes(prefixes, codes.features);
  STD_TORCH_CHECK(grad.dim() == 3 && grad.size(0) == static_cast<int64_t>(prefixes.size()) &&
                      grad.size(1) == codes.rows && grad.size(2) == width &&
                      grad.scalar_type() == values.scalar_type(),
                  "grad must be (L, N, D) of the dtype of values");
  Tensor for_values = torch::stable::empty_like(codes.values_);
  Tensor for_weight = torch::stable::empty_like(weight);
  if (is_double(values, "values"))
    decode_backward(codes, prefixes, data<double>(grad), data<double>(weight), width,
                    data<double>(for_values), data<double>(for_weight));
  else
    decode_backward(codes, prefixes, data<float>(grad), data<float>(weight), width,
                    data<float>(for_values), data<float>(for_weight));
  return {for_values, for_weight};
}

std::tuple<Tensor, Tensor> sparse_encode_backward_cpu(const Tensor& grad_in, const Tensor& indices,
                                                      const Tensor& values,
                                                      std::optional<Tensor> offsets,
                                                      const Tensor& x_in,
                                                      std::optional<Tensor> shift_in,
                                                      int64_t features) {
  count_call();
  const Tensor grad = torch::stable::contiguous(grad_in), x = torch::stable::contiguous(x_in);
  check_matrix(x, values, "x");
  const int64_t width = x.size(1);
  const Codes codes(indices, values, offsets, features);
  STD_TORCH_CHECK(x.size(0) == codes.rows, "x must have a row for every row of the codes");
  STD_TORCH_CHECK(grad.numel() == codes.count && grad.scalar_type() == values.scalar_type(),
                  "grad must have the shape and dtype of values");
  std::optional<Tensor> shift;
  if (shift_in.has_value()) {
    shift = torch::stable::contiguous(*shift_in);
    STD_TORCH_CHECK(shift->dim() == 1 && shift->size(0) == width &&
                        shift->scalar_type() == values.scalar_type(),
                    "shift must be (D,) of the dtype of values");
  }
  Tensor for_weight = torch::stable::new_empty(x, {features, width});
  Tensor for_bias = torch::stable::new_empty(x, {features});
  if (is_double(values, "values"))
    encode_backward(codes, data<double>(grad), data<double>(x),
                    shift ? data<double>(*shift) : nullptr, width, data<double>(for_weight),
                    data<double>(for_bias));
  else
    encode_backward(codes, data<float>(grad), data<float>(x), shift ? data<float>(*shift) : nullptr,
                    width, data<float>(for_weight), data<float>(for_bias));
  return {for_weight, for_bias};
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CPU, m) {
  m.impl("sparse_decode_backward", TORCH_BOX(&sagittal::sparse_decode_backward_cpu));
  m.impl("sparse_encode_backward", TORCH_BOX(&sagittal::sparse_encode_backward_cpu));
}
