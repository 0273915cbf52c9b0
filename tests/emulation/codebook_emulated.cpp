// The codebook kernels and kernels that test the emulator itself, behind a C interface. Each
// function returns nullptr or a message that lives until the next call.
#include "cuda_emulator.h"

// After the emulator, which gives CUDA's words a meaning.
#include <string>

#include "codebook/codebook.cuh"
#include "codebook/tensor.cuh"

namespace cb = sagittal::codebook;
using emulator::launch;
using emulator::Order;

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

unsigned ceil_div(int64_t a, int64_t b) { return static_cast<unsigned>((a + b - 1) / b); }

template <class T, class S, int kMicro>
void lookup(const void* z, const void* codebook, const void* bias, bool shared, int64_t rows,
            int64_t size, int64_t width, int64_t k, void* scores, int64_t* indices, int* found,
            Order order, unsigned seed) {
  const auto* given = static_cast<const T*>(bias);
  const auto* codes = static_cast<const S*>(codebook);
  cb::Faults faults = {0, 0, 0};
  std::vector<T> offset(size);
  launch({ceil_div(size, cb::kThreads / 32)}, {cb::kThreads}, order, seed, cb::offsets<T, S>, codes,
         shared ? given : nullptr, size, width, offset.data(), &faults);
  const bool aligned = reinterpret_cast<uintptr_t>(z) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(codebook) % 16 == 0 &&
                       width * sizeof(S) % 16 == 0;
  const cb::Lookup<S> problem = {static_cast<const S*>(z), codes, rows, size, width, aligned};
  for (int64_t pass = 0; pass < k; ++pass)
    launch({ceil_div(rows, 16 * kMicro)}, {cb::kThreads}, order, seed, cb::lookup<T, S, kMicro>,
           problem, offset.data(), shared ? nullptr : given, k, pass, static_cast<T*>(scores),
           indices, &faults);
  std::memcpy(found, &faults, sizeof(faults));
}

// The same by tensor cores, with `share` of the margin of products. found[3] and [4]: rows left to
// the ordinary kernel, candidates that reach the limit.
template <class S>
void tensor_lookup(const void* z, const void* codebook, const float* bias, bool shared,
                   int64_t rows, int64_t size, int64_t width, float share, int room, float* scores,
                   int64_t* indices, int* found, Order order, unsigned seed) {
  const auto* codes = static_cast<const S*>(codebook);
  const float* const row_bias = shared ? nullptr : bias;
  cb::Faults faults = {0, 0, 0};
  const unsigned tiles = ceil_div(size, cb::kTile), blocks = ceil_div(rows, cb::kTile);
  std::vector<float> offset(size), lengths(tiles * cb::kTile), longest(tiles), limits(rows);
  std::vector<cb::Bounds> bounds(tiles * cb::kTile);
  std::vector<cb::Candidate> kept(2 * rows * cb::kKept);
  std::vector<unsigned> counts(2 * rows);
  std::vector<int64_t> listed(rows);
  unsigned long long listed_count = 0;
  launch({ceil_div(size, cb::kThreads / 32)}, {cb::kThreads}, order, seed, cb::offsets<float, S>,
         codes, shared ? bias : nullptr, size, width, offset.data(), &faults);
  const bool aligned = reinterpret_cast<uintptr_t>(z) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(codebook) % 16 == 0 &&
                       width * sizeof(S) % 16 == 0;
  cb::Lookup<S> problem = {static_cast<const S*>(z), codes, rows, size, width, aligned};
  cb::Margins margins = cb::margins_of<S>(width);
  margins.product *= share;
  // As if a block had `room` bytes of shared memory.
  const int slots = cb::row_slots<S>(width, room);
  emulator::set_dynamic_shared(cb::shared_bytes(slots));
  const cb::Codes measured = {bounds.data(), lengths.data(), longest.data()};
  const cb::Candidates out = {kept.data(), counts.data(), limits.data()};
  launch({tiles}, {cb::kThreads}, order, seed, cb::measure_codes<S>, codes, offset.data(), size,
         width, margins.tiny, measured);
  launch({blocks}, {cb::kThreads}, order, seed,
         row_bias == nullptr ? cb::find_candidates<S, false> : cb::find_candidates<S, true>,
         problem, margins, slots, measured, row_bias, out, &faults);
  launch({ceil_div(rows, cb::kThreads)}, {cb::kThreads}, order, seed, cb::rescore<S>, problem,
         offset.data(), row_bias, out, scores, indices, listed.data(), &listed_count);
  problem.listed = listed.data();
  problem.listed_count = &listed_count;
  launch({blocks}, {cb::kThreads}, order, seed, cb::lookup<float, S, 8, true>, problem,
         offset.data(), row_bias, int64_t(1), int64_t(0), scores, indices, &faults);
  std::memcpy(found, &faults, sizeof(faults));
  found[3] = static_cast<int>(listed_count);
  found[4] = 0;
  for (int64_t i = 0; i < 2 * rows; ++i)
    for (unsigned slot = 0; slot < std::min<unsigned>(counts[i], cb::kKept); ++slot)
      found[4] += kept[i * cb::kKept + slot].high >= limits[i / 2];
}

// One product of a warp: a (16 x 8 words), b (8 x 8 words), c (16 x 8), row after row.
template <sagittal::Numbers32 kNumbers>
void product(const uint32_t* a, const uint32_t* b, float* c) {
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  uint32_t x[4], y[2];
  float sum[4];
  for (int r = 0; r < 4; ++r) x[r] = a[(g + 8 * (r % 2)) * 8 + t + 4 * (r / 2)];
  for (int r = 0; r < 2; ++r) y[r] = b[g * 8 + t + 4 * r];
  for (int r = 0; r < 4; ++r) sum[r] = c[(g + 8 * (r / 2)) * 8 + 2 * t + r % 2];
  sagittal::mma_tile<kNumbers>(sum, x, y);
  for (int r = 0; r < 4; ++r) c[(g + 8 * (r / 2)) * 8 + 2 * t + r % 2] = sum[r];
}

template <class T, class S>
void sums(const void* z, const int64_t* order_of, const int64_t* sorted, int64_t rows, int64_t size,
          int64_t width, void* result, int64_t* counts, int* out_of_range, Order order,
          unsigned seed) {
  const unsigned chunks = ceil_div(rows, cb::kChunk);
  std::vector<int64_t> begins(size + 1);
  std::vector<T> partials(2 * chunks * width);
  launch({static_cast<unsigned>(size / cb::kThreads + 1)}, {cb::kThreads}, order, seed,
         cb::count_rows, sorted, rows, size, begins.data(), counts, out_of_range);
  const unsigned threads = std::min<unsigned>(cb::kThreads, ceil_div(width, 32) * 32);
  if (width == 0) return;
  launch({chunks}, {threads}, order, seed, cb::sum_chunks<T, S>, static_cast<const S*>(z), order_of,
         sorted, begins.data(), rows, size, width, partials.data(), static_cast<T*>(result));
  launch({static_cast<unsigned>(size)}, {threads}, order, seed, cb::join_chunks<T>, begins.data(),
         width, partials.data(), static_cast<T*>(result));
}

void without_barrier(int* out, int salt) {
  __shared__ int tile[64];
  tile[threadIdx.x] = static_cast<int>(threadIdx.x) + salt;
  out[threadIdx.x] = tile[63 - threadIdx.x];
}
void with_barrier(int* out, int salt) {
  __shared__ int tile[64];
  tile[threadIdx.x] = static_cast<int>(threadIdx.x) + salt;
  __syncthreads();
  out[threadIdx.x] = tile[63 - threadIdx.x];
}
void divergent(int* out, int) {
  if (threadIdx.x % 2) __syncthreads();
  out[threadIdx.x] = 1;
}
void returned_early(int* out, int) {
  if (threadIdx.x == 5) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
void throws(int*, int) {
  __syncthreads();
  if (threadIdx.x == 9) throw std::runtime_error("thrown by thread 9");
}
// out[t]: a 64-bit warp sum (0 + .. + 31 in the upper half), the votes of odd lanes, a count.
void collectives(int* out, int) {
  int64_t sum = static_cast<int64_t>(threadIdx.x % 32) << 32;
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  const bool votes = __ballot_sync(0xffffffffu, threadIdx.x % 2) == 0xaaaaaaaau;
  __shared__ int count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, 1);
  __syncthreads();
  out[threadIdx.x] = votes ? static_cast<int>(sum >> 32) * 100 + count : -1;
}
// One number too far, in shared memory and on a thread's own stack.
void outside_shared(int* out, int salt) {
  __shared__ int tile[64];
  int* volatile hidden = tile;  // from the compiler, which would see it too
  tile[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = hidden[threadIdx.x + 1 + salt];
}
void outside_stack(int* out, int salt) {
  int own[8] = {};
  int* volatile hidden = own;
  __syncthreads();
  hidden[threadIdx.x % 9 + salt] = 1;
  out[threadIdx.x] = own[0];
}

}  // namespace

extern "C" const char* emulate_lookup(int type, const void* z, const void* codebook,
                                      const void* bias, int shared, int64_t rows, int64_t size,
                                      int64_t width, int64_t k, void* scores, int64_t* indices,
                                      int* faults, int order, unsigned seed) {
  using Run = decltype(&lookup<float, float, 8>);
  const Run runs[] = {lookup<float, float, 8>, lookup<double, double, 4>,
                      lookup<float, cb::Half, 8>, lookup<float, cb::BFloat16, 8>};
  return guarded([&] {
    runs[type](z, codebook, bias, shared, rows, size, width, k, scores, indices, faults,
               static_cast<Order>(order), seed);
  });
}

extern "C" const char* emulate_tensor_lookup(int type, const void* z, const void* codebook,
                                             const float* bias, int shared, int64_t rows,
                                             int64_t size, int64_t width, float share, int room,
                                             float* scores, int64_t* indices, int* found, int order,
                                             unsigned seed) {
  using Run = decltype(&tensor_lookup<float>);
  const Run runs[] = {tensor_lookup<float>, nullptr, tensor_lookup<cb::Half>,
                      tensor_lookup<cb::BFloat16>};
  return guarded([&] {
    runs[type](z, codebook, bias, shared, rows, size, width, share, room, scores, indices, found,
               static_cast<Order>(order), seed);
  });
}

// `round`: whether float32 factors are rounded first.
extern "C" const char* emulate_product(int type, uint32_t* a, uint32_t* b, float* c, int round,
                                       int order, unsigned seed) {
  using sagittal::Numbers32;
  using Run = decltype(&product<Numbers32::kTf32>);
  const Run runs[] = {product<Numbers32::kTf32>, nullptr, product<Numbers32::kHalf>,
                      product<Numbers32::kBFloat16>};
  return guarded([&] {
    for (uint32_t* word = a; round && word < a + 128; ++word)
      *word = sagittal::to_tf32(__builtin_bit_cast(float, *word));
    for (uint32_t* word = b; round && word < b + 64; ++word)
      *word = sagittal::to_tf32(__builtin_bit_cast(float, *word));
    launch({1}, {32}, static_cast<Order>(order), seed, runs[type], a, b, c);
  });
}

extern "C" const char* emulate_sums(int type, const void* z, const int64_t* order_of,
                                    const int64_t* sorted, int64_t rows, int64_t size,
                                    int64_t width, void* result, int64_t* counts, int* out_of_range,
                                    int order, unsigned seed) {
  using Run = decltype(&sums<float, float>);
  const Run runs[] = {sums<float, float>, sums<double, double>, sums<float, cb::Half>,
                      sums<float, cb::BFloat16>};
  return guarded([&] {
    runs[type](z, order_of, sorted, rows, size, width, result, counts, out_of_range,
               static_cast<Order>(order), seed);
  });
}

extern "C" const char* emulate_probe(int which, int* out, int salt, int order, unsigned seed) {
  void (*const kernels[])(int*, int) = {without_barrier, with_barrier, divergent,
                                        returned_early,  throws,       collectives,
                                        outside_shared,  outside_stack};
  return guarded(
      [&] { launch({1}, {64}, static_cast<Order>(order), seed, kernels[which], out, salt); });
}
