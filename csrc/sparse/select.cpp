// topk_select on the CPU. The specification is sagittal_core/ops/reference_sparse.py.
#include "select.h"

#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "tensors.h"

namespace sagittal {
namespace {

// Maxima of disjoint groups of kGroup values, one lane of kGroup vectors each, and whether any is
// NaN. What is left beyond the last full set of groups, `values[*grouped..]`, belongs to none.
constexpr int64_t kGroup = 32;

template <class T>
struct GroupMaxima {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const T* values, int64_t count, T* maxima, int64_t* grouped,
                                  bool* nan) {
    using S = Simd<T, kBytes>;
    constexpr int64_t kStep = kGroup * S::kLanes;
    typename S::Vector bad = {};
    int64_t j = 0;
    for (; j + kStep <= count; j += kStep, maxima += S::kLanes) {
      typename S::Vector most = S::at(values + j);
#pragma GCC unroll 8
      for (int64_t i = 0; i < kStep; i += S::kLanes) {
        const typename S::Vector v = S::at(values + j + i);
        bad += v * T(0);  // NaN stays NaN; so does an infinity, which the slower path sorts out
        most = v > most ? v : most;
      }
      S::at(maxima) = most;
    }
    bool any = false;
    for (int lane = 0; lane < S::kLanes; ++lane) any |= bad[lane] != bad[lane];
    *grouped = j;
    *nan = any;
  }
};

// Offers the best what is not below the limit among values [from, count), one after the other.
template <class T>
void offer_all(const T* values, int64_t from, int64_t count, Best<T>& best, BadRow& bad,
               int64_t row) {
  for (int64_t first = from; first < count; first += kScanned) {
    int32_t hits[kScanned];
    int64_t found;
    run_for_isa<Scan<T, false>>(values + first, best.threshold(), std::min(kScanned, count - first),
                                +hits, &found);
    for (int64_t i = 0; i < found; ++i) {
      const T value = values[first + hits[i]];
      if (value != value)
        bad.note(row);
      else
        best.offer(value, first + hits[i]);
    }
  }
}

template <class T>
void select_rows(const T* scores, int64_t rows, int64_t features, int64_t k, T* values,
                 int64_t* indices) {
  using Key = typename Ordered<T>::Key;
  BadRow bad;
  torch::stable::parallel_for(0, rows, 8, [&](int64_t from, int64_t to) {
    const Buffer<Key> keys(Best<T>::capacity(k));
    const Buffer<T> maxima(features / kGroup + 1), sorted(features / kGroup + 1);
    const int64_t lanes = vector_bytes() / static_cast<int64_t>(sizeof(T));
    for (int64_t row = from; row < to; ++row) {
      const T* mine = scores + row * features;
      int64_t grouped = 0;
      bool nan = false;
      if (features >= 2 * kGroup * k)
        run_for_isa<GroupMaxima<T>>(mine, features, maxima.get(), &grouped, &nan);
      const int64_t groups = grouped / kGroup;
      T limit = -std::numeric_limits<T>::infinity();
      const bool pruned = groups >= k && !nan;
      if (pruned) {
        std::copy_n(maxima.get(), groups, sorted.get());
        std::nth_element(sorted.get(), sorted.get() + (k - 1), sorted.get() + groups,
                         std::greater<T>());
        limit = sorted.get()[k - 1];
      }
      Best<T> best(keys.get(), k, Ordered<T>::key(limit, 0xffffffffu), limit);
      if (pruned) {
        // k groups hold a value of at least the limit each, so the k best lie in such groups.
        for (int64_t group = 0; group < groups; ++group) {
          if (maxima.get()[group] < *best.threshold()) continue;
          const int64_t first = group / lanes * lanes * kGroup + group % lanes;
          for (int64_t i = first; i < first + kGroup * lanes; i += lanes)
            if (!(mine[i] < *best.threshold())) best.offer(mine[i], i);
        }
      }
      offer_all(mine, pruned ? grouped : 0, features, best, bad, row);
      write_row<T>(best.keys(), best.finish(), k, values + row * k, indices + row * k);
    }
  });
  bad.raise("score");
}

std::tuple<Tensor, Tensor> topk_select_cpu(const Tensor& scores_in, int64_t k) {
  count_call();
  const Tensor scores = torch::stable::contiguous(scores_in);
  STD_TORCH_CHECK(scores.dim() == 2 && k >= 1 && k <= scores.size(1),
                  "scores must be (N, F) with 1 <= k <= F, got k = ", k);
  const int64_t rows = scores.size(0), features = scores.size(1);
  STD_TORCH_CHECK(features < (int64_t{1} << 32), "scores has too many columns");
  Tensor values = torch::stable::new_empty(scores, {rows, k});
  Tensor indices = new_long(scores, {rows, k});
  if (is_double(scores, "scores"))
    select_rows(data<double>(scores), rows, features, k, data<double>(values),
                data<int64_t>(indices));
  else
    select_rows(data<float>(scores), rows, features, k, data<float>(values),
                data<int64_t>(indices));
  return {values, indices};
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CPU, m) {
  m.impl("topk_select", TORCH_BOX(&sagittal::topk_select_cpu));
}
