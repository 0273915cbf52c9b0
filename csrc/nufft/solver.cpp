// The elementwise passes of the Toeplitz normal operator and the conjugate-gradient update on the
// CPU. The specification is sagittal_core/ops/reference.py. Sums run over fixed chunks that are
// combined in order: the same bits on any thread count.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <numeric>
#include <tuple>
#include <vector>

#include "../common/isa.h"

namespace sagittal {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kChunk = 2048;

template <class T>
const T* in(const Tensor& t) {
  return static_cast<const T*>(t.data_ptr());
}
template <class T>
T* out(Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

// Calls f(batch, begin, end) for every chunk of `pixels` of every batch element.
template <class F>
void for_chunks(int64_t batch, int64_t pixels, const F& f) {
  const int64_t chunks = (pixels + kChunk - 1) / kChunk;
  torch::stable::parallel_for(0, batch * chunks, 4, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; ++task) {
      const int64_t begin = task % chunks * kChunk;
      f(task / chunks, begin, std::min(pixels, begin + kChunk));
    }
  });
}

// W is unused by these bodies: they are plain loops over [0, n).
template <class T, int W>
SAGITTAL_INLINE void multiply_body(const T* a, const T* b, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T re = a[2 * i] * b[2 * i] - a[2 * i + 1] * b[2 * i + 1];
    const T im = a[2 * i] * b[2 * i + 1] + a[2 * i + 1] * b[2 * i];
    y[2 * i] = re;
    y[2 * i + 1] = im;
  }
}

// y += conj(a) b
template <class T, int W>
SAGITTAL_INLINE void accumulate_body(const T* a, const T* b, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    y[2 * i] += a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    y[2 * i + 1] += a[2 * i] * b[2 * i + 1] - a[2 * i + 1] * b[2 * i];
  }
}

template <class T, int W>
SAGITTAL_INLINE void scale_body(const T* a, const T* k, T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    y[2 * i] = a[2 * i] * k[i];
    y[2 * i + 1] = a[2 * i + 1] * k[i];
  }
}

SAGITTAL_VARIANTS(multiply, multiply_body, (const T* a, const T* b, T* y, int64_t n), (a, b, y, n))
SAGITTAL_VARIANTS(accumulate, accumulate_body, (const T* a, const T* b, T* y, int64_t n),
                  (a, b, y, n))
SAGITTAL_VARIANTS(scale, scale_body, (const T* a, const T* k, T* y, int64_t n), (a, k, y, n))

template <class T>
void expand(const Tensor& image, const Tensor& maps, const Tensor& modulation, Tensor& result) {
  const auto product = multiply<T, 1>();
  const int64_t batch = image.size(0), coils = maps.size(1), pixels = modulation.numel();
  const int64_t stride = maps.size(0) == 1 ? 0 : coils * pixels;
  for_chunks(batch, pixels, [&](int64_t b, int64_t begin, int64_t end) {
    T modulated[2 * kChunk];
    const int64_t n = end - begin;
    product(in<T>(image) + 2 * (b * pixels + begin), in<T>(modulation) + 2 * begin, modulated, n);
    for (int64_t c = 0; c < coils; ++c)
      product(modulated, in<T>(maps) + 2 * (b * stride + c * pixels + begin),
              out<T>(result) + 2 * ((b * coils + c) * pixels + begin), n);
  });
}

template <class T>
void filter(const Tensor& spectrum, const Tensor& kernel, Tensor& result) {
  const auto product = scale<T, 1>();
  const int64_t batch = spectrum.size(0), coils = spectrum.size(1);
  const int64_t pixels = kernel.numel() / std::max<int64_t>(1, kernel.size(0));
  const int64_t stride = kernel.size(0) == 1 ? 0 : pixels;
  for_chunks(batch * coils, pixels, [&](int64_t bc, int64_t begin, int64_t end) {
    product(in<T>(spectrum) + 2 * (bc * pixels + begin),
            in<T>(kernel) + bc / coils * stride + begin, out<T>(result) + 2 * (bc * pixels + begin),
            end - begin);
  });
}

template <class T>
void reduce(const Tensor& coil_images, const Tensor& maps, const Tensor& modulation,
            const Tensor& partial, Tensor& result) {
  const auto add = accumulate<T, 1>();
  const int64_t batch = partial.size(0), coils = maps.size(1), pixels = modulation.numel();
  const int64_t stride = maps.size(0) == 1 ? 0 : coils * pixels;
  for_chunks(batch, pixels, [&](int64_t b, int64_t begin, int64_t end) {
    T sum[2 * kChunk];
    const int64_t n = end - begin, at = b * pixels + begin;
    std::fill(sum, sum + 2 * n, T(0));
    for (int64_t c = 0; c < coils; ++c)
      add(in<T>(maps) + 2 * (b * stride + c * pixels + begin),
          in<T>(coil_images) + 2 * ((b * coils + c) * pixels + begin), sum, n);
    T* target = out<T>(result) + 2 * at;
    std::copy(in<T>(partial) + 2 * at, in<T>(partial) + 2 * (at + n), target);
    add(in<T>(modulation) + 2 * begin, sum, target, n);
  });
}

void check_complex(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(
      t.scalar_type() == ScalarType::ComplexFloat || t.scalar_type() == ScalarType::ComplexDouble,
      name, " must be complex64 or complex128");
}

void check_fit(const Tensor& image, const Tensor& maps, const Tensor& modulation) {
  check_complex(image, "image");
  STD_TORCH_CHECK(
      maps.scalar_type() == image.scalar_type() && modulation.scalar_type() == image.scalar_type(),
      "image, maps and modulation must have one dtype");
  STD_TORCH_CHECK(maps.dim() == image.dim() + 1 && modulation.dim() == image.dim() - 1,
                  "image must be (B, *N), maps (B, C, *N), modulation (*N)");
  STD_TORCH_CHECK(maps.size(0) == 1 || maps.size(0) == image.size(0),
                  "maps must have a batch of 1 or of the image");
  for (int64_t axis = 1; axis < image.dim(); ++axis)
    STD_TORCH_CHECK(
        image.size(axis) == maps.size(axis + 1) && image.size(axis) == modulation.size(axis - 1),
        "image, maps and modulation differ in N");
}

Tensor toeplitz_expand_cpu(const Tensor& image_in, const Tensor& maps_in,
                           const Tensor& modulation_in) {
  count_call();
  const Tensor image = torch::stable::contiguous(image_in);
  const Tensor maps = torch::stable::contiguous(maps_in);
  const Tensor modulation = torch::stable::contiguous(modulation_in);
  check_fit(image, maps, modulation);
  std::vector<int64_t> shape = {image.size(0), maps.size(1)};
  for (int64_t axis = 1; axis < image.dim(); ++axis) shape.push_back(image.size(axis));
  Tensor result = torch::stable::new_empty(image, shape);
  if (image.scalar_type() == ScalarType::ComplexDouble)
    expand<double>(image, maps, modulation, result);
  else
    expand<float>(image, maps, modulation, result);
  return result;
}

Tensor toeplitz_filter_cpu(const Tensor& spectrum_in, const Tensor& kernel_in) {
  count_call();
  const Tensor spectrum = torch::stable::contiguous(spectrum_in);
  const Tensor kernel = torch::stable::contiguous(kernel_in);
  check_complex(spectrum, "spectrum");
  const bool wide = spectrum.scalar_type() == ScalarType::ComplexDouble;
  STD_TORCH_CHECK(kernel.scalar_type() == (wide ? ScalarType::Double : ScalarType::Float),
                  "kernel must be the real dtype of spectrum");
  STD_TORCH_CHECK(kernel.dim() == spectrum.dim() - 1 &&
                      (kernel.size(0) == 1 || kernel.size(0) == spectrum.size(0)),
                  "kernel must be (B or 1, *N) for spectrum (B, C, *N)");
  for (int64_t axis = 1; axis < kernel.dim(); ++axis)
    STD_TORCH_CHECK(kernel.size(axis) == spectrum.size(axis + 1),
                    "kernel and spectrum differ in N");
  Tensor result = torch::stable::empty_like(spectrum);
  if (wide)
    filter<double>(spectrum, kernel, result);
  else
    filter<float>(spectrum, kernel, result);
  return result;
}

Tensor toeplitz_reduce_cpu(const Tensor& coil_images_in, const Tensor& maps_in,
                           const Tensor& modulation_in, const Tensor& partial_in) {
  count_call();
  const Tensor coil_images = torch::stable::contiguous(coil_images_in);
  const Tensor maps = torch::stable::contiguous(maps_in);
  const Tensor modulation = torch::stable::contiguous(modulation_in);
  const Tensor partial = torch::stable::contiguous(partial_in);
  check_fit(partial, maps, modulation);
  STD_TORCH_CHECK(coil_images.scalar_type() == partial.scalar_type() &&
                      coil_images.dim() == maps.dim() && coil_images.size(0) == partial.size(0) &&
                      coil_images.numel() == partial.numel() * maps.size(1),
                  "coil_images must be (B, C, *N) of the dtype of partial");
  Tensor result = torch::stable::empty_like(partial);
  if (partial.scalar_type() == ScalarType::ComplexDouble)
    reduce<double>(coil_images, maps, modulation, partial, result);
  else
    reduce<float>(coil_images, maps, modulation, partial, result);
  return result;
}

// Inner products per batch element in double precision, chunk by chunk.
template <class F>
std::vector<double> chunked_sums(int64_t batch, int64_t n, const F& sum) {
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  std::vector<double> parts(batch * chunks, 0.0), total(batch, 0.0);
  for_chunks(batch, n, [&](int64_t b, int64_t begin, int64_t end) {
    parts[b * chunks + begin / kChunk] = sum(b, begin, end);
  });
  for (int64_t i = 0; i < batch * chunks; ++i) total[i / chunks] += parts[i];
  return total;
}

// Sum of a[i] b[i] in kLanes interleaved partial sums: independent chains, one fixed order.
template <class T>
double dot(const T* a, const T* b, int64_t n) {
  constexpr int kLanes = 8;
  double lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int k = 0; k < kLanes; ++k) lane[k] += double(a[i + k]) * double(b[i + k]);
  for (; i < n; ++i) lane[i % kLanes] += double(a[i]) * double(b[i]);
  return std::accumulate(lane, lane + kLanes, 0.0);
}

template <class T>
void step(const Tensor& x, const Tensor& r, const Tensor& p, const Tensor& q, const Tensor& rs,
          const Tensor& stop, Tensor& x1, Tensor& r1, Tensor& p1, Tensor& rs1) {
  const int64_t batch = x.size(0), n = x.size(1);
  const T *xs = in<T>(x), *res = in<T>(r), *dir = in<T>(p), *act = in<T>(q);
  const T *norm0 = in<T>(rs), *limit = in<T>(stop);
  T *next_x = out<T>(x1), *next_r = out<T>(r1), *next_p = out<T>(p1), *norm1 = out<T>(rs1);
  const auto curvature = chunked_sums(batch, n, [&](int64_t b, int64_t begin, int64_t end) {
    return dot(dir + b * n + begin, act + b * n + begin, end - begin);
  });
  std::vector<char> frozen(batch);
  for (int64_t b = 0; b < batch; ++b) frozen[b] = norm0[b] <= limit[b] || T(curvature[b]) <= T(0);
  const auto norm = chunked_sums(batch, n, [&](int64_t b, int64_t begin, int64_t end) {
    const int64_t from = b * n + begin, to = b * n + end;
    if (frozen[b]) {
      std::copy(xs + from, xs + to, next_x + from);
      std::copy(res + from, res + to, next_r + from);
      return 0.0;
    }
    const T alpha = norm0[b] / T(curvature[b]);
    for (int64_t i = from; i < to; ++i) {
      next_x[i] = xs[i] + alpha * dir[i];
      next_r[i] = res[i] - alpha * act[i];
    }
    return dot(next_r + from, next_r + from, end - begin);
  });
  for (int64_t b = 0; b < batch; ++b) norm1[b] = frozen[b] ? norm0[b] : T(norm[b]);
  for_chunks(batch, n, [&](int64_t b, int64_t begin, int64_t end) {
    const int64_t from = b * n + begin, to = b * n + end;
    if (frozen[b]) {
      std::copy(dir + from, dir + to, next_p + from);
      return;
    }
    const T beta = T(norm[b]) / norm0[b];
    for (int64_t i = from; i < to; ++i) next_p[i] = next_r[i] + beta * dir[i];
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cg_step_cpu(const Tensor& x_in, const Tensor& r_in,
                                                       const Tensor& p_in, const Tensor& q_in,
                                                       const Tensor& rs_in, const Tensor& stop_in) {
  count_call();
  const Tensor x = torch::stable::contiguous(x_in), r = torch::stable::contiguous(r_in);
  const Tensor p = torch::stable::contiguous(p_in), q = torch::stable::contiguous(q_in);
  const Tensor rs = torch::stable::contiguous(rs_in), stop = torch::stable::contiguous(stop_in);
  const auto type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                  "x must be float32 or float64");
  STD_TORCH_CHECK(x.dim() == 2, "x must be (B, n)");
  for (const Tensor* t : {&r, &p, &q})
    STD_TORCH_CHECK(t->scalar_type() == type && t->dim() == 2 && t->size(0) == x.size(0) &&
                        t->size(1) == x.size(1),
                    "r, p and q must have the shape and dtype of x");
  for (const Tensor* t : {&rs, &stop})
    STD_TORCH_CHECK(t->scalar_type() == type && t->dim() == 1 && t->size(0) == x.size(0),
                    "rs and stop must be (B,) of the dtype of x");
  Tensor x1 = torch::stable::empty_like(x), r1 = torch::stable::empty_like(r);
  Tensor p1 = torch::stable::empty_like(p), rs1 = torch::stable::empty_like(rs);
  if (type == ScalarType::Double)
    step<double>(x, r, p, q, rs, stop, x1, r1, p1, rs1);
  else
    step<float>(x, r, p, q, rs, stop, x1, r1, p1, rs1);
  return {x1, r1, p1, rs1};
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CPU, m) {
  m.impl("toeplitz_expand", TORCH_BOX(&sagittal::toeplitz_expand_cpu));
  m.impl("toeplitz_filter", TORCH_BOX(&sagittal::toeplitz_filter_cpu));
  m.impl("toeplitz_reduce", TORCH_BOX(&sagittal::toeplitz_reduce_cpu));
  m.impl("cg_step", TORCH_BOX(&sagittal::cg_step_cpu));
}
