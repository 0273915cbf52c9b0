// topk_select on the CPU. The specification is sagittal_core/ops/reference_sparse.py.
#include "select.h"

#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "tensors.h"

namespace sagittal {
namespace {

// A lower limit for the k-th value: of disjoint groups the k-th largest maximum. -inf if there are
// too few groups.
template <class T>
struct GroupMaxima {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const T* values, int64_t count, T* maxima, int64_t* groups,
                                  bool* nan) {
    using S = Simd<T, kBytes>;
    constexpr int64_t kStep = 32 * S::kLanes;
    typename S::Mask bad = {};
    T* out = maxima;
    for (int64_t j = 0; j + kStep <= count; j += kStep, out += S::kLanes) {
      typename S::Vector most = S::at(values + j);
#pragma GCC unroll 8
      for (int64_t i = 0; i < kStep; i += S::kLanes) {
        const typename S::Vector v = S::at(values + j + i);
        bad |= v != v;
        most = v > most ? v : most;
      }
      S::at(out) = most;
    }
    typename S::Int any = 0;
    for (int lane = 0; lane < S::kLanes; ++lane) any |= bad[lane];
    *nan = any != 0;
    *groups = out - maxima;
  }
};

template <class T>
void select_rows(const T* scores, int64_t rows, int64_t features, int64_t k, T* values,
                 int64_t* indices) {
  using Key = typename Ordered<T>::Key;
  BadRow bad;
  torch::stable::parallel_for(0, rows, 8, [&](int64_t from, int64_t to) {
    const Buffer<Key> keys(Best<T>::capacity(k));
    const Buffer<T> maxima(features / 32 + 1);
    for (int64_t row = from; row < to; ++row) {
      const T* mine = scores + row * features;
      int64_t groups = 0, found;
      bool nan = false;
      T limit = -std::numeric_limits<T>::infinity();
      if (features >= 64 * k)
        run_for_isa<GroupMaxima<T>>(mine, features, maxima.get(), &groups, &nan);
      if (groups >= k && !nan) {
        std::nth_element(maxima.get(), maxima.get() + (k - 1), maxima.get() + groups,
                         std::greater<T>());
        limit = maxima.get()[k - 1];
      }
      Best<T> best(keys.get(), k, Ordered<T>::key(limit, 0xffffffffu), limit);
      for (int64_t first = 0; first < features; first += kScanned) {
        int32_t hits[kScanned];
        run_for_isa<Scan<T, false>>(mine + first, best.threshold(),
                                    std::min(kScanned, features - first), +hits, &found);
        for (int64_t i = 0; i < found; ++i) {
          const T value = mine[first + hits[i]];
          if (value != value)
            bad.note(row);
          else
            best.offer(value, first + hits[i]);
        }
      }
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
