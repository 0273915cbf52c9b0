// The kernels of the sparse family behind a C interface, launched as the .cu files launch them; the
// matrix products and the sort, which are torch's there, come from the caller. Each function
// returns nullptr or a message that lives until the next call.
#include "cuda_emulator.h"

// After the emulator, which gives CUDA's words a meaning.
#include <limits>
#include <string>

#include "sparse/backward.cuh"
#include "sparse/select.cuh"

namespace sp = sagittal::sparse;
using emulator::Order;
using sagittal::Pack;

namespace {

template <class Run>
const char* guarded(Run run) {
  static std::string message;
  try {
    run();
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

struct Turns {
  Order order;
  unsigned seed;
  template <class Kernel, class... Args>
  void operator()(int64_t blocks, int64_t threads, Kernel kernel, Args... args) const {
    emulator::launch({static_cast<unsigned>(blocks)}, {static_cast<unsigned>(threads)}, order, seed,
                     kernel, args...);
  }
};

template <class T>
bool is_aligned(const void* pointer, int64_t width) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && width * sizeof(T) % 16 == 0;
}

int64_t blocks_of(int64_t count, int64_t each) { return (count + each - 1) / each; }

template <class T>
int64_t threads_for(int64_t width) {
  const int64_t packs = (width + Pack<T>::kCount - 1) / Pack<T>::kCount;
  return std::clamp<int64_t>((packs + 31) / 32 * 32, 32, sp::kMostThreads);
}

template <class T>
sp::Rows<T> rows_of(const void* numbers, int64_t width, int64_t first, const void* bias,
                    const void* threshold, bool one) {
  return {static_cast<const T*>(numbers),
          width,
          first,
          0,
          static_cast<const T*>(bias),
          static_cast<const T*>(threshold),
          one,
          is_aligned<T>(numbers, width)};
}

// One chunk of features.
template <class T>
void select(const void* numbers, int64_t rows, int64_t width, int64_t first, const void* bias,
            int64_t k, void* values, int64_t* indices, int64_t* nan_row, const Turns& run) {
  const auto p = rows_of<T>(numbers, width, first, bias, nullptr, false);
  const sp::Found<T> found = {static_cast<T*>(values), indices, nullptr, 0, k};
  for (int64_t done = 0; done < k; done += sp::kMost)
    run(rows, sp::kThreads, sp::select<T>, p, found, done,
        reinterpret_cast<unsigned long long*>(nan_row));
}

template <class T>
void count(const void* numbers, int64_t rows, int64_t width, const void* bias,
           const void* threshold, bool one, int64_t* offsets, int64_t* report, int64_t* nan_row,
           const Turns& run) {
  const auto p = rows_of<T>(numbers, width, 0, bias, threshold, one);
  std::vector<int64_t> counts(rows);
  run(rows, sp::kThreads, sp::count_active<T>, p, counts.data(),
      reinterpret_cast<unsigned long long*>(nan_row));
  run(1, sp::kThreads, sp::sum_counts, counts.data(), rows, offsets, report);
}

// The entries above a threshold, once their numbers are known.
template <class T>
void fill(const void* numbers, int64_t rows, int64_t width, const void* bias, const void* threshold,
          bool one, const int64_t* offsets, int64_t longest, void* values, int64_t* indices,
          int64_t* nan_row, const Turns& run) {
  const auto p = rows_of<T>(numbers, width, 0, bias, threshold, one);
  const sp::Found<T> found = {static_cast<T*>(values), indices, offsets, offsets[0], 0};
  for (int64_t done = 0; done < longest; done += sp::kMost)
    run(rows, sp::kThreads, sp::select<T>, p, found, done,
        reinterpret_cast<unsigned long long*>(nan_row));
}

void check(const sp::Codes& c, sp::CodeFaults* faults, const Turns& run) {
  run(blocks_of(std::max(c.count, c.rows + 1), sp::kMostThreads), sp::kMostThreads, sp::check_codes,
      c, faults);
}

template <class T>
void decode(const sp::Codes& c, const void* values, const void* weight, const void* bias,
            sp::Groups groups, int64_t width, int* found, void* out, const Turns& run) {
  sp::CodeFaults faults = {0, 0};
  check(c, &faults, run);
  const bool aligned =
      is_aligned<T>(weight, width) && is_aligned<T>(bias, width) && is_aligned<T>(out, width);
  if (c.rows > 0 && width > 0)
    run(c.rows, threads_for<T>(width), sp::decode<T>, c, static_cast<const T*>(values),
        static_cast<const T*>(weight), static_cast<const T*>(bias), groups, width, aligned, &faults,
        static_cast<T*>(out));
  std::memcpy(found, &faults, sizeof faults);
}

// A stable sort by counting; torch's on a GPU.
void sort(const std::vector<int32_t>& keys, std::vector<int32_t>& sorted,
          std::vector<int64_t>& order) {
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return keys[a] < keys[b]; });
  for (size_t i = 0; i < keys.size(); ++i) sorted[i] = keys[order[i]];
}

template <class T, bool kDecoder>
void backward(const sp::Codes& c, const void* values, const void* grad, const void* source,
              const void* weight, const void* shift, sp::Groups groups, int64_t width, int* found,
              void* for_values, void* for_weight, void* for_bias, const Turns& run) {
  sp::CodeFaults faults = {0, 0};
  check(c, &faults, run);
  const int64_t chunks = blocks_of(c.count, sp::kChunk);
  std::vector<int32_t> keys(c.count), rows(c.count), sorted(c.count);
  std::vector<int64_t> order(c.count), begins(c.features + 1);
  constexpr T kNan = std::numeric_limits<T>::quiet_NaN();  // nothing may rely on zeros
  std::vector<T> partials(2 * chunks * width, kNan), partial_biases(2 * chunks, kNan);
  run(blocks_of(c.count, sp::kMostThreads), sp::kMostThreads, sp::find_rows<T>, c,
      kDecoder ? nullptr : static_cast<const T*>(values), &faults, keys.data(), rows.data());
  sort(keys, sorted, order);
  run(blocks_of(c.features + 1, sp::kMostThreads), sp::kMostThreads, sp::find_begins, sorted.data(),
      c.count, c.features, begins.data());
  sp::Sweep<T> p = {};
  p.sorted = sorted.data(), p.order = order.data(), p.rows = rows.data(), p.begins = begins.data();
  p.count = c.count, p.features = c.features, p.width = width, p.row_count = c.rows;
  p.groups = groups;
  p.scales = static_cast<const T*>(kDecoder ? values : grad);
  p.source = static_cast<const T*>(source);
  p.weight = static_cast<const T*>(weight);
  p.shift = static_cast<const T*>(shift);
  p.aligned = is_aligned<T>(source, width) && is_aligned<T>(partials.data(), width) &&
              is_aligned<T>(for_weight, width) && is_aligned<T>(kDecoder ? weight : shift, width);
  p.partials = partials.data(), p.partial_biases = partial_biases.data();
  p.for_weight = static_cast<T*>(for_weight), p.for_bias = static_cast<T*>(for_bias);
  p.for_values = static_cast<T*>(for_values);
  run(chunks, threads_for<T>(width), sp::sweep<T, kDecoder>, p);
  run(c.features, threads_for<T>(width), sp::join<T>, p);
  std::memcpy(found, &faults, sizeof faults);
}

}  // namespace

extern "C" const char* emulate_select(int wide, const void* numbers, int64_t rows, int64_t width,
                                      int64_t first, const void* bias, int64_t k, void* values,
                                      int64_t* indices, int64_t* nan_row, int order,
                                      unsigned seed) {
  return guarded([&] {
    (wide ? select<double> : select<float>)(numbers, rows, width, first, bias, k, values, indices,
                                            nan_row, {static_cast<Order>(order), seed});
  });
}

extern "C" const char* emulate_count(int wide, const void* numbers, int64_t rows, int64_t width,
                                     const void* bias, const void* threshold, int one,
                                     int64_t* offsets, int64_t* report, int64_t* nan_row, int order,
                                     unsigned seed) {
  return guarded([&] {
    (wide ? count<double> : count<float>)(numbers, rows, width, bias, threshold, one, offsets,
                                          report, nan_row, {static_cast<Order>(order), seed});
  });
}

extern "C" const char* emulate_fill(int wide, const void* numbers, int64_t rows, int64_t width,
                                    const void* bias, const void* threshold, int one,
                                    const int64_t* offsets, int64_t longest, void* values,
                                    int64_t* indices, int64_t* nan_row, int order, unsigned seed) {
  return guarded([&] {
    (wide ? fill<double> : fill<float>)(numbers, rows, width, bias, threshold, one, offsets,
                                        longest, values, indices, nan_row,
                                        {static_cast<Order>(order), seed});
  });
}

extern "C" const char* emulate_decode(int wide, const int64_t* indices, const int64_t* offsets,
                                      int64_t rows, int64_t count, int64_t features,
                                      const void* values, const void* weight, const void* bias,
                                      const int64_t* prefixes, int64_t groups, int64_t width,
                                      int* faults, void* out, int order, unsigned seed) {
  return guarded([&] {
    (wide ? decode<double> : decode<float>)({indices, offsets, rows, count, features}, values,
                                            weight, bias, {prefixes, groups}, width, faults, out,
                                            {static_cast<Order>(order), seed});
  });
}

// With `weight` the decoder's sweep, without it the encoder's.
extern "C" const char* emulate_backward(int wide, const int64_t* indices, const int64_t* offsets,
                                        int64_t rows, int64_t count, int64_t features,
                                        const void* values, const void* grad, const void* source,
                                        const void* weight, const void* shift,
                                        const int64_t* prefixes, int64_t groups, int64_t width,
                                        int* faults, void* for_values, void* for_weight,
                                        void* for_bias, int order, unsigned seed) {
  using Run = decltype(&backward<float, true>);
  const Run runs[] = {backward<float, false>, backward<float, true>, backward<double, false>,
                      backward<double, true>};
  return guarded([&] {
    runs[2 * wide + (weight != nullptr)]({indices, offsets, rows, count, features}, values, grad,
                                         source, weight, shift, {prefixes, groups}, width, faults,
                                         for_values, for_weight, for_bias,
                                         {static_cast<Order>(order), seed});
  });
}
