// topk_encode and threshold_encode on the CPU. The specification is
// sagittal_core/ops/reference_sparse.py.
//
// Encoding is a matrix product whose result is never stored. A chunk of features is packed into
// panels of two vectors, shared by all threads; then every tile of rows is multiplied by it, in
// pieces of kScanned features that stay in the second-level cache, where each row is compared with
// its limit: the k-th value so far. Few values pass, so nearly all the time is the product's.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

#include "select.h"
#include "tensors.h"

namespace sagittal {
namespace {

constexpr int64_t kTileRows = 96;     // rows that share a panel while it is in the nearest cache
constexpr int64_t kDepth = 256;       // dimensions summed before the next panel
constexpr int64_t kChunk = 2048;      // features packed at a time, a multiple of kScanned
constexpr int64_t kBlockRows = 8192;  // rows whose candidates are held at a time

template <class T>
struct Problem {
  int64_t rows, features, width;
  const T* x;       // (rows, width)
  const T* weight;  // (features, width)
  const T* bias;    // (features)
  const T* shift;   // (width) or null
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Packs panel `panel` of the chunk at `first` as (width, columns), zero beyond the last feature.
template <class T>
void pack_panel(const Problem<T>& p, int64_t first, int64_t columns, T* packed) {
  constexpr int64_t kLine = 64 / sizeof(T);
  T line[kLine];
  for (int64_t d = 0; d < p.width; d += kLine) {
    const int64_t n = std::min(kLine, p.width - d);
    for (int64_t j = 0; j < columns; ++j) {
      const bool real = first + j < p.features;
      for (int64_t i = 0; i < n; ++i)
        line[i] = real ? p.weight[(first + j) * p.width + d + i] : T(0);
      for (int64_t i = 0; i < n; ++i) packed[(d + i) * columns + j] = line[i];
    }
  }
}

// Copies rows [begin, begin + count) less the shift, as (blocks of kDepth, kTileRows, depth).
template <class T>
void pack_rows(const Problem<T>& p, int64_t begin, int64_t count, T* packed) {
  for (int64_t d = 0; d < p.width; d += kDepth) {
    const int64_t depth = std::min(kDepth, p.width - d);
    for (int64_t r = 0; r < count; ++r) {
      const T* from = p.x + (begin + r) * p.width + d;
      T* to = packed + d * kTileRows + r * depth;
      for (int64_t i = 0; i < depth; ++i) to[i] = p.shift ? from[i] - p.shift[d + i] : from[i];
    }
  }
}

// tile (count, kScanned) = bias + rows . panels^T for `panels` panels.
template <class T>
struct MultiplyTile {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const T* rows, int64_t count, int64_t width, const T* packed,
                                  const T* bias, int64_t panels, T* tile) {
    using S = Simd<T, kBytes>;
    constexpr int64_t kColumns = 2 * S::kLanes;
    for (int64_t d = 0; d < width; d += kDepth) {
      const int64_t depth = std::min(kDepth, width - d);
      for (int64_t panel = 0; panel < panels; ++panel) {
        for (int64_t first = 0; first < count; first += S::kRows) {
          const int64_t last = std::min<int64_t>(S::kRows, count - first) - 1;
          const T* row[S::kRows];
#pragma GCC unroll 12
          for (int64_t r = 0; r < S::kRows; ++r)
            row[r] = rows + d * kTileRows + (first + std::min(r, last)) * depth;
          T* out = tile + first * kScanned + panel * kColumns;
          typename S::Vector sum[S::kRows][2];
          multiply<T, kBytes>(row, packed + (panel * width + d) * kColumns, depth,
                              d == 0 ? bias + panel * kColumns : out, d == 0 ? 0 : kScanned, sum);
#pragma GCC unroll 12
          for (int r = 0; r < S::kRows; ++r) {
            S::at(out + r * kScanned) = sum[r][0];
            S::at(out + r * kScanned + S::kLanes) = sum[r][1];
          }
        }
      }
    }
  }
};

// Calls visit(row, first feature, activations, their number) for all rows [begin, end), the
// features of a row in order and from one thread at a time.
template <class T, class Visit>
void for_activations(const Problem<T>& p, int64_t begin, int64_t end, const Visit& visit) {
  if (begin == end) return;
  const int64_t columns = 2 * vector_bytes() / sizeof(T);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t tile_rows = std::min(kTileRows, ceil_div(ceil_div(end - begin, threads), 12) * 12);
  const int64_t chunk = std::min(kChunk, ceil_div(p.features, kScanned) * kScanned);
  const Buffer<T> packed(chunk * p.width), bias(chunk);
  for (int64_t first = 0; first < p.features; first += chunk) {
    const int64_t size = std::min(chunk, p.features - first);
    const int64_t panels = ceil_div(size, columns);
    torch::stable::parallel_for(0, panels, 8, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i)
        pack_panel(p, first + i * columns, columns, packed.get() + i * columns * p.width);
    });
    std::fill(std::copy(p.bias + first, p.bias + first + size, bias.get()), bias.get() + chunk,
              T(0));
    torch::stable::parallel_for(
        0, ceil_div(end - begin, tile_rows), 1, [&](int64_t from, int64_t to) {
          const Buffer<T> rows(kTileRows * p.width), tile((kTileRows + 12) * kScanned);
          for (int64_t t = from; t < to; ++t) {
            const int64_t row = begin + t * tile_rows, count = std::min(tile_rows, end - row);
            pack_rows(p, row, count, rows.get());
            for (int64_t at = 0; at < size; at += kScanned) {
              const int64_t n = std::min(kScanned, size - at);
              run_for_isa<MultiplyTile<T>>(rows.get(), count, p.width, packed.get() + at * p.width,
                                           bias.get() + at, ceil_div(n, columns), tile.get());
              for (int64_t r = 0; r < count; ++r)
                visit(row + r, first + at, tile.get() + r * kScanned, n);
            }
          }
        });
  }
}

template <class T>
void topk_rows(const Problem<T>& p, int64_t k, T* values, int64_t* indices) {
  using Key = typename Ordered<T>::Key;
  const int64_t held = std::min(p.rows, kBlockRows), capacity = Best<T>::capacity(k);
  const Buffer<Key> keys(held * capacity);
  std::vector<Best<T>> best(held);
  for (int64_t begin = 0; begin < p.rows; begin += held) {
    const int64_t end = std::min(p.rows, begin + held);
    BadRow bad;
    for (int64_t r = 0; r < end - begin; ++r)
      best[r] = Best<T>(keys.get() + r * capacity, k, Ordered<T>::key(0, 0),
                        std::numeric_limits<T>::denorm_min());
    for_activations(p, begin, end, [&](int64_t row, int64_t first, const T* p, int64_t count) {
      int32_t hits[kScanned];
      int64_t found;
      Best<T>& mine = best[row - begin];
      run_for_isa<Scan<T, false>>(p, mine.threshold(), count, +hits, &found);
      for (int64_t i = 0; i < found; ++i) {
        const T value = p[hits[i]];
        if (value != value)
          bad.note(row);
        else
          mine.offer(value, first + hits[i]);
      }
    });
    bad.raise("pre-activation");
    torch::stable::parallel_for(begin, end, 64, [&](int64_t from, int64_t to) {
      for (int64_t row = from; row < to; ++row) {
        Best<T>& mine = best[row - begin];
        const int64_t count = mine.finish();
        write_row<T>(mine.keys(), count, k, values + row * k, indices + row * k);
      }
    });
  }
}

// Entries of every row above the limits, (features) each, unsorted.
template <class T>
std::vector<std::vector<typename Ordered<T>::Key>> threshold_rows(const Problem<T>& p,
                                                                  const T* threshold) {
  std::vector<std::vector<typename Ordered<T>::Key>> entries(p.rows);
  std::vector<T> limits(p.features);  // the next value after the threshold: >= it is > that
  for (int64_t f = 0; f < p.features; ++f)
    limits[f] = std::nextafter(std::max(threshold[f], T(0)), std::numeric_limits<T>::infinity());
  BadRow bad;
  for_activations(p, 0, p.rows, [&](int64_t row, int64_t first, const T* p, int64_t count) {
    int32_t hits[kScanned];
    int64_t found;
    run_for_isa<Scan<T, true>>(p, limits.data() + first, count, +hits, &found);
    for (int64_t i = 0; i < found; ++i) {
      const T value = p[hits[i]];
      const int64_t feature = first + hits[i];
      if (value != value)
        bad.note(row);
      else if (value > threshold[feature])  // not so for infinities only
        entries[row].push_back(Ordered<T>::key(value, static_cast<uint32_t>(feature)));
    }
  });
  bad.raise("pre-activation");
  return entries;
}

// The arguments of an encoder, checked and contiguous.
struct Inputs {
  Tensor x, weight, bias;
  std::optional<Tensor> shift;
  bool wide;

  Inputs(const Tensor& x_in, const Tensor& weight_in, const Tensor& bias_in,
         const std::optional<Tensor>& shift_in)
      : x(torch::stable::contiguous(x_in)),
        weight(torch::stable::contiguous(weight_in)),
        bias(torch::stable::contiguous(bias_in)),
        wide(is_double(x, "x")) {
    if (shift_in.has_value()) shift = torch::stable::contiguous(*shift_in);
    STD_TORCH_CHECK(x.dim() == 2 && weight.dim() == 2 && weight.size(1) == x.size(1),
                    "x must be (N, D) and weight (F, D)");
    STD_TORCH_CHECK(weight.size(0) > 0 && weight.size(1) > 0, "weight must not be empty");
    STD_TORCH_CHECK(weight.size(0) < (int64_t{1} << 32), "weight has too many features");
    STD_TORCH_CHECK(bias.dim() == 1 && bias.size(0) == weight.size(0), "bias must be (F,)");
    STD_TORCH_CHECK(!shift || (shift->dim() == 1 && shift->size(0) == x.size(1)),
                    "shift must be (D,)");
    STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type() &&
                        bias.scalar_type() == x.scalar_type() &&
                        (!shift || shift->scalar_type() == x.scalar_type()),
                    "x, weight, bias and shift must have one dtype");
  }

  template <class T>
  Problem<T> problem() const {
    return {x.size(0),
            weight.size(0),
            weight.size(1),
            data<T>(x),
            data<T>(weight),
            data<T>(bias),
            shift ? data<T>(*shift) : nullptr};
  }
};

std::tuple<Tensor, Tensor> topk_encode_cpu(const Tensor& x, const Tensor& weight,
                                           const Tensor& bias, std::optional<Tensor> shift,
                                           int64_t k) {
  count_call();
  const Inputs in(x, weight, bias, shift);
  STD_TORCH_CHECK(k >= 1 && k <= in.weight.size(0), "k must be between 1 and F, got ", k);
  Tensor values = torch::stable::new_empty(in.x, {in.x.size(0), k});
  Tensor indices = new_long(in.x, {in.x.size(0), k});
  if (in.wide)
    topk_rows(in.problem<double>(), k, data<double>(values), data<int64_t>(indices));
  else
    topk_rows(in.problem<float>(), k, data<float>(values), data<int64_t>(indices));
  return {values, indices};
}

template <class T>
std::tuple<Tensor, Tensor, Tensor> threshold_typed(const Inputs& in, const Tensor& threshold) {
  const Problem<T> p = in.problem<T>();
  std::vector<T> each(p.features, data<T>(threshold)[0]);
  if (threshold.numel() > 1)
    std::copy(data<T>(threshold), data<T>(threshold) + p.features, each.begin());
  auto entries = threshold_rows(p, each.data());
  Tensor offsets = new_long(in.x, {p.rows + 1});
  int64_t* bounds = data<int64_t>(offsets);
  bounds[0] = 0;
  for (int64_t r = 0; r < p.rows; ++r)
    bounds[r + 1] = bounds[r] + static_cast<int64_t>(entries[r].size());
  Tensor values = torch::stable::new_empty(in.x, {bounds[p.rows]});
  Tensor indices = new_long(in.x, {bounds[p.rows]});
  torch::stable::parallel_for(0, p.rows, 64, [&](int64_t from, int64_t to) {
    for (int64_t r = from; r < to; ++r) {
      const int64_t count = bounds[r + 1] - bounds[r];
      std::sort(entries[r].begin(), entries[r].end(), std::greater<>());
      write_row<T>(entries[r].data(), count, count, data<T>(values) + bounds[r],
                   data<int64_t>(indices) + bounds[r]);
    }
  });
  return {values, indices, offsets};
}

std::tuple<Tensor, Tensor, Tensor> threshold_encode_cpu(const Tensor& x, const Tensor& weight,
                                                        const Tensor& bias,
                                                        std::optional<Tensor> shift,
                                                        const Tensor& threshold_in) {
  count_call();
  const Inputs in(x, weight, bias, shift);
  const Tensor threshold = torch::stable::contiguous(threshold_in);
  STD_TORCH_CHECK(
      threshold.dim() == 1 && (threshold.size(0) == 1 || threshold.size(0) == in.weight.size(0)),
      "threshold must be (1,) or (F,)");
  STD_TORCH_CHECK(threshold.scalar_type() == in.x.scalar_type(), "threshold must have x's dtype");
  return in.wide ? threshold_typed<double>(in, threshold) : threshold_typed<float>(in, threshold);
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CPU, m) {
  m.impl("topk_encode", TORCH_BOX(&sagittal::topk_encode_cpu));
  m.impl("threshold_encode", TORCH_BOX(&sagittal::threshold_encode_cpu));
}
