// codebook_lookup on the CPU. The specification is sagittal_core/ops/reference_codebook.py.
//
// A matrix product whose result is never stored. Codes are packed in panels of two vectors, their
// offset -|e|^2 / 2 + bias beside them. A tile of rows times one panel is summed in registers,
// starting from the offset, one dimension after the other; then each lane keeps the best score that
// it has seen and where. Lanes are compared with each other once per row, at the end. All tiles are
// computed alike (short ones repeat their last row), so a row's result does not depend on its
// neighbours or on the number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "../common/tile.h"
#include "rows.h"

namespace sagittal {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kBlock = 96;     // rows that share a panel while it is in the first-level cache
constexpr int64_t kMostRows = 12;  // of a tile, of any instruction set
template <class T>
constexpr T kInfinity = std::numeric_limits<T>::infinity();

enum Fault { kBadRows = 1, kBadCodes = 2, kBadBias = 4 };

template <class T>
struct Problem {
  int64_t rows, size, width, k;
  int64_t columns;   // codes of a panel
  const T* codes;    // (panels, width, columns), zero beyond the size
  const T* offset;   // (panels, columns), -inf beyond the size
  const T* bias;     // (rows, size) or null
  T* scores;         // (rows, k)
  int64_t* indices;  // (rows, k)
};

// The best k scores of one row so far, equal ones by index. Codes come in order of index, and all
// are kept until the first cut; after it only those above the threshold.
template <class T>
class Best {
 public:
  using Entry = std::pair<T, int64_t>;

  static int64_t capacity(int64_t k, int64_t columns) { return 2 * k + columns; }

  void start(int64_t k, int64_t columns) {
    k_ = k;
    capacity_ = capacity(k, columns);
    entries_.resize(capacity_ + columns);
    count_ = 0;
    threshold_ = -kInfinity<T>;
    full_ = false;
  }

  T threshold() const { return threshold_; }

  void offer(const T* scores, int64_t first, int64_t count) {
    Entry* end = entries_.data() + count_;
    if (full_) {
      const T threshold = threshold_;
      for (int64_t j = 0; j < count; ++j) {  // no branch: hits come at random
        *end = {scores[j], first + j};
        end += scores[j] > threshold;
      }
    } else {
      for (int64_t j = 0; j < count; ++j)
        // A sum that overflowed to NaN would have no place in the order.
        *end++ = {scores[j] == scores[j] ? scores[j] : -kInfinity<T>, first + j};
    }
    count_ = end - entries_.data();
    if (count_ >= capacity_) cut();
  }

  void write(T* scores, int64_t* indices) {
    cut();
    std::sort(entries_.begin(), entries_.begin() + k_, before);
    for (int64_t i = 0; i < k_; ++i) std::tie(scores[i], indices[i]) = entries_[i];
  }

 private:
  static bool before(const Entry& a, const Entry& b) {
    return a.first > b.first || (a.first == b.first && a.second < b.second);
  }

  void cut() {
    const auto last = entries_.begin() + (k_ - 1);
    std::nth_element(entries_.begin(), last, entries_.begin() + count_, before);
    threshold_ = last->first;  // what comes later and is equal has a higher index
    count_ = k_;
    full_ = true;
  }

  int64_t k_, capacity_, count_;
  std::vector<Entry> entries_;
  T threshold_;
  bool full_;
};

// What one thread needs for a block of rows.
template <class T>
struct Scratch {
  std::vector<T> converted;  // (kBlock, width), used for other dtypes
  std::vector<T> best;       // (kBlock, lanes)
  // (kBlock, lanes): 2 * panel, plus one for the panel's second vector.
  std::vector<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>> where;
  std::vector<T> tile;           // (rows of a tile, columns): scores or where they start
  std::vector<Best<T>> several;  // (kBlock), for k > 1
  std::vector<T> threshold;      // (kBlock) of `several`
};

// Where the sums of a tile start if each row has a bias of its own.
template <class T>
SAGITTAL_INLINE bool add_row_bias(const Problem<T>& p, int64_t first_row, int64_t rows,
                                  int64_t tile_rows, int64_t panel, T* start) {
  const int64_t first = panel * p.columns, count = std::min(p.columns, p.size - first);
  bool good = true;
  for (int64_t r = 0; r < tile_rows; ++r) {
    const T* bias = p.bias + (first_row + std::min(r, rows - 1)) * p.size + first;
    for (int64_t j = 0; j < count; ++j) {
      start[r * p.columns + j] = p.offset[first + j] + bias[j];
      good &= bias[j] < kInfinity<T>;
    }
    for (int64_t j = count; j < p.columns; ++j) start[r * p.columns + j] = -kInfinity<T>;
  }
  return good;
}

// Rows [begin, begin + count) of z, which stand at `z`.
template <class T, bool kSeveral>
struct SearchBlock {
  template <int kBytes>
  static SAGITTAL_INLINE bool all_finite(const T* z, int64_t count) {
    using S = Simd<T, kBytes>;
    typename S::Vector zero = {};  // turns into NaN where a number is not finite
    int64_t i = 0;
    for (; i + S::kLanes <= count; i += S::kLanes) zero += S::at(z + i) * T(0);
    T rest = 0;
    for (; i < count; ++i) rest += z[i] * T(0);
    for (int lane = 0; lane < S::kLanes; ++lane) rest += zero[lane];
    return rest == rest;
  }

  template <int kBytes>
  static SAGITTAL_INLINE void run(const Problem<T>& p, const T* z, int64_t begin, int64_t count,
                                  Scratch<T>& scratch, int& faults) {
    using S = Simd<T, kBytes>;
    using Vector = typename S::Vector;
    using Mask = typename S::Mask;
    if (!all_finite<kBytes>(z, count * p.width)) faults |= kBadRows;
    const int64_t panels = (p.size + p.columns - 1) / p.columns;
    // Panels of which a row keeps every code.
    const int64_t filling = (Best<T>::capacity(p.k, p.columns) + p.columns - 1) / p.columns;
    for (int64_t panel = 0; panel < panels; ++panel) {
      const T* codes = p.codes + panel * p.width * p.columns;
      for (int64_t first = 0; first < count; first += S::kRows) {
        const int64_t rows = std::min<int64_t>(S::kRows, count - first);
        const T* row[S::kRows];
#pragma GCC unroll 12
        for (int r = 0; r < S::kRows; ++r)
          row[r] = z + (first + std::min<int64_t>(r, rows - 1)) * p.width;
        const T* start = p.offset + panel * p.columns;
        if (p.bias != nullptr) {
          start = scratch.tile.data();
          if (!add_row_bias(p, begin + first, rows, S::kRows, panel, scratch.tile.data()))
            faults |= kBadBias;
        }
        Vector sum[S::kRows][2];
        multiply<T, kBytes>(row, codes, p.width, start, p.bias != nullptr ? p.columns : 0, sum);
        if constexpr (kSeveral) {
          T* threshold = scratch.threshold.data() + first;
          T* tile = scratch.tile.data();
          const int64_t count_here = std::min(p.columns, p.size - panel * p.columns);
#pragma GCC unroll 12
          for (int r = 0; r < S::kRows; ++r) {
            const Mask above = (sum[r][0] > threshold[r]) | (sum[r][1] > threshold[r]);
            typename S::Int any = panel < filling && r < rows;
#pragma GCC unroll 16
            for (int l = 0; l < S::kLanes; ++l) any |= above[l];
            if (!any) continue;
            *reinterpret_cast<Vector*>(tile) = sum[r][0];
            *reinterpret_cast<Vector*>(tile + S::kLanes) = sum[r][1];
            scratch.several[first + r].offer(tile, panel * p.columns, count_here);
            threshold[r] = scratch.several[first + r].threshold();
          }
        } else {
          T* best = scratch.best.data() + first * S::kLanes;
          auto* where = scratch.where.data() + first * S::kLanes;
#pragma GCC unroll 12
          for (int r = 0; r < S::kRows; ++r) {
            Vector& b = *reinterpret_cast<Vector*>(best + r * S::kLanes);
            Mask& w = *reinterpret_cast<Mask*>(where + r * S::kLanes);
            const Mask second = sum[r][1] > sum[r][0];  // -1 where true
            const Vector score = second ? sum[r][1] : sum[r][0];
            const Mask at = static_cast<typename S::Int>(2 * panel) - second;
            const Mask better = score > b;
            b = better ? score : b;
            w = better ? at : w;
          }
        }
      }
    }
  }
};

// The best lane of each row; equal scores by index. Lanes are compared in halves.
template <class T>
struct WriteBest {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const Problem<T>& p, int64_t begin, int64_t count,
                                  const Scratch<T>& scratch) {
    using S = Simd<T, kBytes>;
    constexpr int kLanes = S::kLanes;
    typename S::Int lane[kLanes], code[kLanes];
    T score[kLanes];
    for (int l = 0; l < kLanes; ++l) lane[l] = l;
    for (int64_t r = 0; r < count; ++r) {
      const auto* where = scratch.where.data() + r * kLanes;
      const T* best = scratch.best.data() + r * kLanes;
      for (int l = 0; l < kLanes; ++l) {
        score[l] = best[l];
        code[l] = (where[l] >> 1) * (2 * kLanes) + (where[l] & 1) * kLanes + lane[l];
      }
#pragma GCC unroll 4
      for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
        for (int l = 0; l < half; ++l) {
          const T other = score[l + half];
          const bool wins = (other > score[l]) | ((other == score[l]) & (code[l + half] < code[l]));
          score[l] = wins ? other : score[l];
          code[l] = wins ? code[l + half] : code[l];
        }
      }
      p.scores[begin + r] = score[0];
      p.indices[begin + r] = code[0];
    }
  }
};

template <class T>
void search(const Problem<T>& p, const Rows<T>& z, std::atomic<int>& faults) {
  const int64_t blocks = (p.rows + kBlock - 1) / kBlock, lanes = p.columns / 2;
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    Scratch<T> scratch;
    scratch.converted.resize(kBlock * p.width);
    scratch.tile.resize(kMostRows * p.columns);
    if (p.k == 1) {
      scratch.best.resize(kBlock * lanes);
      scratch.where.resize(kBlock * lanes);
    } else {
      scratch.several.resize(kBlock);
      scratch.threshold.resize(kBlock + kMostRows);
    }
    int found = 0;
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * kBlock, count = std::min(kBlock, p.rows - begin);
      const T* rows = z.read(begin, count, scratch.converted.data());
      if (p.k == 1) {
        std::fill(scratch.best.begin(), scratch.best.end(), -kInfinity<T>);
        std::fill(scratch.where.begin(), scratch.where.end(), 0);
        run_for_isa<SearchBlock<T, false>>(p, rows, begin, count, scratch, found);
        run_for_isa<WriteBest<T>>(p, begin, count, scratch);
      } else {
        for (auto& row : scratch.several) row.start(p.k, p.columns);
        std::fill(scratch.threshold.begin(), scratch.threshold.end(), kInfinity<T>);
        run_for_isa<SearchBlock<T, true>>(p, rows, begin, count, scratch, found);
        for (int64_t r = 0; r < count; ++r)
          scratch.several[r].write(p.scores + (begin + r) * p.k, p.indices + (begin + r) * p.k);
      }
    }
    faults.fetch_or(found);
  });
}

// Fills panels and offsets; bias is (size) or null.
template <class T>
void pack(const Problem<T>& p, const Rows<T>& codebook, const T* bias, T* panels_out, T* offset,
          std::atomic<int>& faults) {
  const int64_t panels = (p.size + p.columns - 1) / p.columns;
  torch::stable::parallel_for(0, panels, 8, [&](int64_t first, int64_t last) {
    std::vector<T> scratch(p.width);
    int found = 0;
    for (int64_t code = first * p.columns; code < last * p.columns; ++code) {
      T* column = panels_out + code / p.columns * p.width * p.columns + code % p.columns;
      T norm = 0;
      if (code < p.size) {
        const T* values = codebook.read(code, 1, scratch.data());
        for (int64_t d = 0; d < p.width; ++d) {
          column[d * p.columns] = values[d];
          norm += values[d] * values[d];
          if (!(std::abs(values[d]) <= std::numeric_limits<T>::max())) found |= kBadCodes;
        }
      } else {
        for (int64_t d = 0; d < p.width; ++d) column[d * p.columns] = 0;
      }
      const T add = bias != nullptr && code < p.size ? bias[code] : T(0);
      if (!(add < kInfinity<T>)) found |= kBadBias;
      offset[code] = code < p.size ? T(-0.5) * norm + add : -kInfinity<T>;
    }
    faults.fetch_or(found);
  });
}

void check_faults(int faults) {
  STD_TORCH_CHECK(!(faults & kBadRows), "z holds NaN or infinity");
  STD_TORCH_CHECK(!(faults & kBadCodes), "codebook holds NaN or infinity");
  STD_TORCH_CHECK(!(faults & kBadBias), "bias holds NaN or +inf");
}

template <class T>
void lookup(const Tensor& z, const Tensor& codebook, const std::optional<Tensor>& bias, int64_t k,
            Tensor& scores, Tensor& indices) {
  Problem<T> p;
  p.rows = z.size(0), p.size = codebook.size(0), p.width = z.size(1), p.k = k;
  p.columns = 2 * vector_bytes() / static_cast<int64_t>(sizeof(T));
  const int64_t panels = (p.size + p.columns - 1) / p.columns;
  STD_TORCH_CHECK(panels * p.columns < std::numeric_limits<int32_t>::max(),
                  "codebook has too many codes");
  Tensor codes =
      torch::stable::new_empty(scores, {panels, std::max<int64_t>(p.width, 1), p.columns});
  Tensor offset = torch::stable::new_empty(scores, {panels, p.columns});
  const T* given = bias.has_value() ? static_cast<const T*>(bias->data_ptr()) : nullptr;
  const bool shared = bias.has_value() && bias->dim() == 1;
  p.codes = static_cast<T*>(codes.data_ptr()), p.offset = static_cast<T*>(offset.data_ptr());
  p.bias = shared ? nullptr : given;
  p.scores = static_cast<T*>(scores.data_ptr());
  p.indices = static_cast<int64_t*>(indices.data_ptr());
  std::atomic<int> faults{0};
  pack<T>(p, Rows<T>(codebook), shared ? given : nullptr, static_cast<T*>(codes.data_ptr()),
          static_cast<T*>(offset.data_ptr()), faults);
  if (faults == 0) search<T>(p, Rows<T>(z), faults);
  check_faults(faults);
}

std::tuple<Tensor, Tensor> codebook_lookup_cpu(const Tensor& z_in, const Tensor& codebook_in,
                                               const std::optional<Tensor>& bias_in, int64_t k) {
  count_call();
  const Tensor z = torch::stable::contiguous(z_in);
  const Tensor codebook = torch::stable::contiguous(codebook_in);
  check_floating_matrix(z, "z");
  check_floating_matrix(codebook, "codebook");
  STD_TORCH_CHECK(z.size(1) == codebook.size(1), "z and codebook differ in D");
  STD_TORCH_CHECK(k >= 1 && k <= codebook.size(0), "k must be in [1, K]");
  const bool wide =
      z.scalar_type() == ScalarType::Double || codebook.scalar_type() == ScalarType::Double;
  const ScalarType type = wide ? ScalarType::Double : ScalarType::Float;
  std::optional<Tensor> bias;
  if (bias_in.has_value()) {
    bias = torch::stable::contiguous(*bias_in);
    STD_TORCH_CHECK(bias->scalar_type() == type, "bias must have the dtype of the scores");
    const bool shared = bias->dim() == 1 && bias->size(0) == codebook.size(0);
    STD_TORCH_CHECK(shared || (bias->dim() == 2 && bias->size(0) == z.size(0) &&
                               bias->size(1) == codebook.size(0)),
                    "bias must be (K,) or (N, K)");
  }
  Tensor scores = torch::stable::new_empty(z, {z.size(0), k}, type);
  Tensor indices = torch::stable::new_empty(z, {z.size(0), k}, ScalarType::Long);
  if (wide)
    lookup<double>(z, codebook, bias, k, scores, indices);
  else
    lookup<float>(z, codebook, bias, k, scores, indices);
  return {scores, indices};
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CPU, m) {
  m.impl("codebook_lookup", TORCH_BOX(&sagittal::codebook_lookup_cpu));
}
