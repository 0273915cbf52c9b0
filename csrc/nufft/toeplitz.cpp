// The passes of the Toeplitz normal operator around its FFTs, on the CPU. The specification is
// sagittal_core/ops/reference.py.
//
// Every FFT runs along the last, contiguous axis; the passes between them modulate and turn the
// next axis to the end. They work in square blocks that are turned in the first-level cache. Every
// number has one owner and coils are summed in order: the same bits on any thread count.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <vector>

#include "../common/isa.h"
#include "checks.h"

namespace sagittal {
namespace {

constexpr int64_t kSide = 32;  // of a block
constexpr int64_t kChunk = 2048;

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.data_ptr());
}
template <class T>
T* out(Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

// y = a b
template <class T>
SAGITTAL_INLINE void multiply(const T* a, const T* b, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T re = a[2 * i] * b[2 * i] - a[2 * i + 1] * b[2 * i + 1];
    const T im = a[2 * i] * b[2 * i + 1] + a[2 * i + 1] * b[2 * i];
    y[2 * i] = re;
    y[2 * i + 1] = im;
  }
}

// y = c + conj(a) b
template <class T>
SAGITTAL_INLINE void accumulate(const T* a, const T* b, const T* c, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T re = c[2 * i] + (a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1]);
    const T im = c[2 * i + 1] + (a[2 * i] * b[2 * i + 1] - a[2 * i + 1] * b[2 * i]);
    y[2 * i] = re;
    y[2 * i + 1] = im;
  }
}

// A complex line into a column of a block.
template <class T>
SAGITTAL_INLINE void put_column(const T* line, T* block, int64_t column, int64_t n) {
  typedef T Pair __attribute__((vector_size(2 * sizeof(T)), aligned(sizeof(T)), may_alias));
  const Pair* from = reinterpret_cast<const Pair*>(line);
  Pair* to = reinterpret_cast<Pair*>(block) + column;
  for (int64_t i = 0; i < n; ++i) to[i * kSide] = from[i];
}

// A block of rows [i, i + height) along the turned axis and columns [j, j + width) of the rest.
struct Block {
  int64_t i, j, height, width;
};

// Matrices (n, rest), or their transposes, that one call turns.
struct Matrix {
  int64_t n, rest;
  int64_t size() const { return n * rest; }
  int64_t down() const { return (n + kSide - 1) / kSide; }
  int64_t blocks() const { return down() * ((rest + kSide - 1) / kSide); }
  Block block(int64_t index) const {
    const int64_t i = index % down() * kSide, j = index / down() * kSide;
    return {i, j, std::min(kSide, n - i), std::min(kSide, rest - j)};
  }
};

// (n, rest), times maps if there are any, -> (2, rest, n): as it is, and modulated along n.
template <class T>
struct TurnBody {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const Matrix& m, const Block& b, const T* x, const T* maps,
                                  const T* modulation, T* y) {
    T line[2 * kSide], turned[2 * kSide * kSide];
    for (int64_t i = 0; i < b.height; ++i) {
      const int64_t at = 2 * ((b.i + i) * m.rest + b.j);
      if (maps != nullptr) multiply(x + at, maps + at, line, b.width);
      put_column(maps == nullptr ? x + at : line, turned, i, b.width);
    }
    for (int64_t j = 0; j < b.width; ++j) {
      const T* row = turned + 2 * j * kSide;
      T* plain = y + 2 * ((b.j + j) * m.n + b.i);
      std::copy(row, row + 2 * b.height, plain);
      multiply(row, modulation + 2 * b.i, plain + 2 * m.size(), b.height);
    }
  }
};

// The adjoint, (2, rest, n) -> a block (height, kSide) of (n, rest).
template <class T>
SAGITTAL_INLINE void unturn_block(const Matrix& m, const Block& b, const T* x, const T* modulation,
                                  T* turned) {
  T line[2 * kSide];
  for (int64_t j = 0; j < b.width; ++j) {
    const T* plain = x + 2 * ((b.j + j) * m.n + b.i);
    accumulate(modulation + 2 * b.i, plain + 2 * m.size(), plain, line, b.height);
    put_column(line, turned, j, b.height);
  }
}

template <class T>
struct UnturnBody {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const Matrix& m, const Block& b, const T* x, const T* modulation,
                                  T* y) {
    T turned[2 * kSide * kSide];
    unturn_block(m, b, x, modulation, turned);
    for (int64_t i = 0; i < b.height; ++i)
      std::copy(turned + 2 * i * kSide, turned + 2 * (i * kSide + b.width),
                y + 2 * ((b.i + i) * m.rest + b.j));
  }
};

// partial + the sum over coils of conj(maps) times the unturned coil images.
template <class T>
struct ReduceBody {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const Matrix& m, const Block& b, int64_t coils, const T* x,
                                  const T* maps, const T* modulation, const T* partial, T* y) {
    T turned[2 * kSide * kSide], sum[2 * kSide * kSide] = {};
    for (int64_t c = 0; c < coils; ++c) {
      unturn_block(m, b, x + 4 * c * m.size(), modulation, turned);
      for (int64_t i = 0; i < b.height; ++i) {
        T* row = sum + 2 * i * kSide;
        const T* map = maps + 2 * (c * m.size() + (b.i + i) * m.rest + b.j);
        accumulate(map, turned + 2 * i * kSide, row, row, b.width);
      }
    }
    for (int64_t i = 0; i < b.height; ++i) {
      const int64_t at = 2 * ((b.i + i) * m.rest + b.j);
      for (int64_t k = 0; k < 2 * b.width; ++k)
        y[at + k] = partial[at + k] + sum[2 * i * kSide + k];
    }
  }
};

template <class T>
struct ScaleBody {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const T* a, const T* k, T* y, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      y[2 * i] = a[2 * i] * k[i];
      y[2 * i + 1] = a[2 * i + 1] * k[i];
    }
  }
};

// Calls f(matrix, block) for every block of `count` matrices.
template <class F>
void for_blocks(int64_t count, const Matrix& m, const F& f) {
  const int64_t blocks = m.blocks();
  torch::stable::parallel_for(0, count * blocks, 8, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; ++task) f(task / blocks, m.block(task % blocks));
  });
}

// x (count, n, rest), maps (batch, coils, n, rest) or null with coils = 1.
template <class T>
void turn(const Matrix& m, int64_t count, const T* x, const T* maps, int64_t coils,
          bool shared_maps, const T* modulation, T* y) {
  for_blocks(count, m, [&](int64_t k, const Block& b) {
    const T* map = maps == nullptr ? nullptr : maps + 2 * (shared_maps ? k % coils : k) * m.size();
    run_for_isa<TurnBody<T>>(m, b, x + 2 * (k / coils) * m.size(), map, modulation,
                             y + 4 * k * m.size());
  });
}

template <class T>
void expand(const Matrix& m, const Tensor& image, const Tensor& maps, const Tensor& modulation,
            Tensor& result) {
  const int64_t coils = maps.size(1);
  turn(m, image.size(0) * coils, in<T>(image), in<T>(maps), coils, maps.size(0) == 1,
       in<T>(modulation), out<T>(result));
}

Tensor toeplitz_expand_cpu(const Tensor& image_in, const Tensor& maps_in,
                           const Tensor& modulation_in) {
  count_call();
  const Tensor image = torch::stable::contiguous(image_in);
  const Tensor maps = torch::stable::contiguous(maps_in);
  const Tensor modulation = torch::stable::contiguous(modulation_in);
  check_fit(image, maps, modulation);
  const Matrix m{image.size(1), rest_of(image)};
  Tensor result = torch::stable::new_empty(image, turned_shape(image, maps.size(1)));
  wide(image) ? expand<double>(m, image, maps, modulation, result)
              : expand<float>(m, image, maps, modulation, result);
  return result;
}

Tensor toeplitz_turn_cpu(const Tensor& x_in, const Tensor& modulation_in) {
  count_call();
  const Tensor x = torch::stable::contiguous(x_in);
  const Tensor modulation = torch::stable::contiguous(modulation_in);
  STD_TORCH_CHECK(x.dim() == 3, "x must be (K, n, rest)");
  check_modulation(x, modulation, x.size(1));
  const Matrix m{x.size(1), x.size(2)};
  Tensor result = torch::stable::new_empty(x, {x.size(0), 2, m.rest, m.n});
  if (wide(x))
    turn<double>(m, x.size(0), in<double>(x), nullptr, 1, false, in<double>(modulation),
                 out<double>(result));
  else
    turn<float>(m, x.size(0), in<float>(x), nullptr, 1, false, in<float>(modulation),
                out<float>(result));
  return result;
}

template <class T>
void unturn(const Matrix& m, const Tensor& x, const Tensor& modulation, Tensor& result) {
  for_blocks(x.size(0), m, [&](int64_t k, const Block& b) {
    run_for_isa<UnturnBody<T>>(m, b, in<T>(x) + 4 * k * m.size(), in<T>(modulation),
                               out<T>(result) + 2 * k * m.size());
  });
}

Tensor toeplitz_unturn_cpu(const Tensor& x_in, const Tensor& modulation_in) {
  count_call();
  const Tensor x = torch::stable::contiguous(x_in);
  const Tensor modulation = torch::stable::contiguous(modulation_in);
  STD_TORCH_CHECK(x.dim() == 4 && x.size(1) == 2, "x must be (K, 2, rest, n)");
  check_modulation(x, modulation, x.size(3));
  const Matrix m{x.size(3), x.size(2)};
  Tensor result = torch::stable::new_empty(x, {x.size(0), m.n, m.rest});
  wide(x) ? unturn<double>(m, x, modulation, result) : unturn<float>(m, x, modulation, result);
  return result;
}

template <class T>
void reduce(const Matrix& m, const Tensor& coil_images, const Tensor& maps,
            const Tensor& modulation, const Tensor& partial, Tensor& result) {
  const int64_t coils = maps.size(1), stride = maps.size(0) == 1 ? 0 : 2 * coils * m.size();
  for_blocks(partial.size(0), m, [&](int64_t k, const Block& b) {
    run_for_isa<ReduceBody<T>>(
        m, b, coils, in<T>(coil_images) + 4 * k * coils * m.size(), in<T>(maps) + k * stride,
        in<T>(modulation), in<T>(partial) + 2 * k * m.size(), out<T>(result) + 2 * k * m.size());
  });
}

Tensor toeplitz_reduce_cpu(const Tensor& coil_images_in, const Tensor& maps_in,
                           const Tensor& modulation_in, const Tensor& partial_in) {
  count_call();
  const Tensor coil_images = torch::stable::contiguous(coil_images_in);
  const Tensor maps = torch::stable::contiguous(maps_in);
  const Tensor modulation = torch::stable::contiguous(modulation_in);
  const Tensor partial = torch::stable::contiguous(partial_in);
  check_fit(partial, maps, modulation);
  check_turned(coil_images, partial, maps.size(1));
  const Matrix m{partial.size(1), rest_of(partial)};
  Tensor result = torch::stable::empty_like(partial);
  wide(partial) ? reduce<double>(m, coil_images, maps, modulation, partial, result)
                : reduce<float>(m, coil_images, maps, modulation, partial, result);
  return result;
}

template <class T>
void filter(const Tensor& spectrum, const Tensor& kernel, Tensor& result) {
  const int64_t coils = spectrum.size(1);
  const int64_t pixels = kernel.numel() / std::max<int64_t>(1, kernel.size(0));
  const int64_t stride = kernel.size(0) == 1 ? 0 : pixels;
  const int64_t chunks = (pixels + kChunk - 1) / kChunk;
  const int64_t tasks = spectrum.size(0) * coils * chunks;
  torch::stable::parallel_for(0, tasks, 4, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; ++task) {
      const int64_t bc = task / chunks, begin = task % chunks * kChunk, at = bc * pixels + begin;
      run_for_isa<ScaleBody<T>>(in<T>(spectrum) + 2 * at,
                                in<T>(kernel) + bc / coils * stride + begin,
                                out<T>(result) + 2 * at, std::min(kChunk, pixels - begin));
    }
  });
}

Tensor toeplitz_filter_cpu(const Tensor& spectrum_in, const Tensor& kernel_in) {
  count_call();
  const Tensor spectrum = torch::stable::contiguous(spectrum_in);
  const Tensor kernel = torch::stable::contiguous(kernel_in);
  check_filter(spectrum, kernel);
  Tensor result = torch::stable::empty_like(spectrum);
  wide(spectrum) ? filter<double>(spectrum, kernel, result)
                 : filter<float>(spectrum, kernel, result);
  return result;
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CPU, m) {
  m.impl("toeplitz_expand", TORCH_BOX(&sagittal::toeplitz_expand_cpu));
  m.impl("toeplitz_turn", TORCH_BOX(&sagittal::toeplitz_turn_cpu));
  m.impl("toeplitz_filter", TORCH_BOX(&sagittal::toeplitz_filter_cpu));
  m.impl("toeplitz_unturn", TORCH_BOX(&sagittal::toeplitz_unturn_cpu));
  m.impl("toeplitz_reduce", TORCH_BOX(&sagittal::toeplitz_reduce_cpu));
}
