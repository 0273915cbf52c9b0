// Selection of the k largest of a row, in the one order of all backends: value descending, equal
// values by index ascending.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>
#include <vector>

#include "../common/tile.h"

namespace sagittal {

// A value and its index in one integer, larger when earlier in the order.
template <class T>
struct Ordered {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  using Key = std::conditional_t<sizeof(T) == 4, uint64_t, unsigned __int128>;
  static constexpr Bits kSign = Bits(1) << (8 * sizeof(T) - 1);

  static Key key(T value, uint32_t index) {
    value += T(0);  // -0 and 0 are equal
    Bits bits;
    std::memcpy(&bits, &value, sizeof bits);
    bits = bits & kSign ? ~bits : bits | kSign;
    return Key(bits) << 32 | (0xffffffffu - index);
  }
  static T value(Key key) {
    Bits bits = static_cast<Bits>(key >> 32);
    bits = bits & kSign ? bits & ~kSign : ~bits;
    T value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  static int64_t index(Key key) { return 0xffffffffu - static_cast<uint32_t>(key); }
};

constexpr int64_t kScanned = 512;  // values that are compared with one limit

// Positions of the values that are not below the limit, NaN among them.
template <class T, bool kLimitEach>
struct Scan {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const T* values, const T* limits, int64_t count, int32_t* hits,
                                  int64_t* found) {
    using S = Simd<T, kBytes>;
    constexpr int kStep = 4 * S::kLanes;
    int64_t n = 0, j = 0;
    typename S::Vector limit = {};
    if constexpr (!kLimitEach) limit += *limits;
    for (; j + kStep <= count; j += kStep) {
      typename S::Mask above = {};
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        if constexpr (kLimitEach) limit = S::at(limits + j + v * S::kLanes);
        above |= ~(S::at(values + j + v * S::kLanes) < limit);
      }
      typename S::Int any = 0;
#pragma GCC unroll 16
      for (int lane = 0; lane < S::kLanes; ++lane) any |= above[lane];
      if (any == 0) continue;
      for (int i = 0; i < kStep; ++i) {
        hits[n] = static_cast<int32_t>(j + i);
        n += !(values[j + i] < limits[kLimitEach ? j + i : 0]);
      }
    }
    for (; j < count; ++j) {
      hits[n] = static_cast<int32_t>(j);
      n += !(values[j] < limits[kLimitEach ? j : 0]);
    }
    *found = n;
  }
};

// The k largest of what has been offered so far; the running k-th one is the limit.
template <class T>
class Best {
 public:
  using Key = typename Ordered<T>::Key;
  static int64_t capacity(int64_t k) { return 2 * k + 64; }

  Best() = default;
  // Only keys above `limit`, whose value is `threshold` or the next smaller one, will be kept.
  Best(Key* keys, int64_t k, Key limit, T threshold)
      : keys_(keys), k_(k), limit_(limit), threshold_(threshold) {}

  const T* threshold() const { return &threshold_; }

  void offer(T value, int64_t index) {
    const Key key = Ordered<T>::key(value, static_cast<uint32_t>(index));
    if (key <= limit_) return;
    keys_[count_++] = key;
    if (count_ == capacity(k_)) cut();
  }

  // Sorts what is left and returns how many there are.
  int64_t finish() {
    if (count_ > k_) cut();
    std::sort(keys_, keys_ + count_, std::greater<Key>());
    return count_;
  }
  const Key* keys() const { return keys_; }

 private:
  void cut() {
    std::nth_element(keys_, keys_ + (k_ - 1), keys_ + count_, std::greater<Key>());
    count_ = k_;
    limit_ = keys_[k_ - 1];
    threshold_ = Ordered<T>::value(limit_);
  }

  Key* keys_ = nullptr;
  int64_t k_ = 0, count_ = 0;
  Key limit_ = 0;
  T threshold_ = 0;
};

// Writes a row's entries; a short row goes on with zeros at the lowest indices not yet used.
template <class T>
void write_row(const typename Ordered<T>::Key* keys, int64_t count, int64_t k, T* values,
               int64_t* indices) {
  for (int64_t i = 0; i < count; ++i) {
    values[i] = Ordered<T>::value(keys[i]);
    indices[i] = Ordered<T>::index(keys[i]);
  }
  if (count == k) return;
  std::vector<int64_t> used(indices, indices + count);
  std::sort(used.begin(), used.end());
  auto next = used.begin();
  for (int64_t i = count, feature = 0; i < k; ++feature) {
    if (next != used.end() && *next == feature) {
      ++next;
      continue;
    }
    values[i] = 0;
    indices[i++] = feature;
  }
}

// The lowest row that holds NaN.
class BadRow {
 public:
  void note(int64_t row) {
    int64_t before = row_.load(std::memory_order_relaxed);
    while (row < before && !row_.compare_exchange_weak(before, row)) {
    }
  }
  void raise(const char* what) const {
    const int64_t row = row_.load();
    STD_TORCH_CHECK(row == std::numeric_limits<int64_t>::max(), "NaN ", what, " in row ", row);
  }

 private:
  std::atomic<int64_t> row_{std::numeric_limits<int64_t>::max()};
};

}  // namespace sagittal
