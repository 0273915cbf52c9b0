// The kernels of the NUFFT family behind a C interface, launched as the .cu files launch them. Each
// function returns nullptr or a message that lives until the next call.
#include <cmath>

#include "cuda_emulator.h"

// After the emulator, which gives CUDA's words a meaning.
#include <string>

#include "nufft/gridding.cuh"
#include "nufft/solver.cuh"
#include "nufft/toeplitz.cuh"

namespace gr = sagittal::gridding;
namespace sv = sagittal::solver;
namespace tp = sagittal::toeplitz;
using emulator::launch;
using emulator::Order;
using sagittal::Complex;
using sagittal::Numbers;

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
  void operator()(dim3 grid, int64_t threads, Kernel kernel, Args... args) const {
    launch(grid, {static_cast<unsigned>(threads)}, order, seed, kernel, args...);
  }
};

unsigned number(int64_t n) { return static_cast<unsigned>(n); }

template <class T, int kCoils, int kDims>
void spread(const gr::Plan& g, int64_t buffer, int64_t workspace, const void* samples, void* grid,
            const Turns& run) {
  using Pack = Numbers<T, 2 * kCoils>;
  const gr::Layout l = gr::make_layout<T>(g, true, buffer, workspace);
  Pack junk;  // nothing may rely on zeros
  std::memset(&junk, 0x7f, sizeof(Pack));
  std::vector<Pack> sums(l.batch[0] * l.batch[1] * l.cells * l.packs, junk);
  emulator::set_dynamic_shared(l.bytes);
  gr::for_batches(l, [&](const gr::Batch& batch, int64_t lanes) {
    run({number(batch.slots), number(lanes), number(l.boxes[0] * l.boxes[1])}, l.threads,
        gr::spread_slots<T, kCoils, kDims>, g, l, batch, static_cast<const Complex<T>*>(samples),
        sums.data());
    run({number(g.tile_count()), number(lanes)}, gr::kThreads, gr::join_slots<T, kCoils, kDims>, g,
        l, batch, sums.data(), static_cast<Complex<T>*>(grid));
  });
}

template <class T, int kCoils, int kDims, int kWidth>
void interp(const gr::Plan& g, int64_t buffer, const void* grid, void* samples, const Turns& run) {
  const gr::Layout l = gr::make_layout<T>(g, false, buffer);
  emulator::set_dynamic_shared(l.bytes);
  gr::for_lanes(l, [&](const gr::Batch& batch, int64_t lanes) {
    for (int part = 0; part < l.boxes[0] * l.boxes[1]; ++part)
      run({number(l.slots), number(lanes)}, l.threads, gr::interp_slots<T, kCoils, kDims, kWidth>,
          g, l, batch, part, static_cast<const Complex<T>*>(grid),
          static_cast<Complex<T>*>(samples));
  });
}

template <class T, int kCoils, int kDims>
void grid_op(const gr::Plan& g, bool spreads, int64_t buffer, int64_t workspace, const void* in,
             void* out, const Turns& run) {
  run({number(gr::ceil_div(g.frames * (g.tile_count() + 1), gr::kThreads))}, gr::kThreads,
      gr::check_offsets, g);
  if (spreads)
    spread<T, kCoils, kDims>(g, buffer, workspace, in, out, run);
  else if (g.width <= 4)
    interp<T, kCoils, kDims, 4>(g, buffer, in, out, run);
  else if (g.width <= 8)
    interp<T, kCoils, kDims, 8>(g, buffer, in, out, run);
  else
    interp<T, kCoils, kDims, 16>(g, buffer, in, out, run);
}

template <class T, int kCoils>
void grid_op(const gr::Plan& g, bool spreads, int64_t buffer, int64_t workspace, const void* in,
             void* out, const Turns& run) {
  if (g.dims == 2)
    grid_op<T, kCoils, 2>(g, spreads, buffer, workspace, in, out, run);
  else
    grid_op<T, kCoils, 3>(g, spreads, buffer, workspace, in, out, run);
}

template <class T>
void turn(const tp::Matrix& m, const void* x, const void* maps, int64_t batch, int64_t coils,
          bool shared, const void* modulation, void* y, const Turns& run) {
  const auto kernel = maps ? tp::turn<T, true> : tp::turn<T, false>;
  run({number(batch * coils * m.tiles(tp::kSide))}, tp::kThreads, kernel, m,
      static_cast<const Complex<T>*>(x), static_cast<const Complex<T>*>(maps), coils, shared,
      static_cast<const Complex<T>*>(modulation), static_cast<Complex<T>*>(y));
}

template <class T>
void unturn(const tp::Matrix& m, const void* x, int64_t batch, const void* modulation, void* y,
            const Turns& run) {
  run({number(batch * m.tiles(tp::kSide))}, tp::kThreads, tp::unturn<T>, m,
      static_cast<const Complex<T>*>(x), static_cast<const Complex<T>*>(modulation),
      static_cast<Complex<T>*>(y));
}

template <class T>
void reduce(const tp::Matrix& m, const void* x, const void* maps, int64_t batch, int64_t coils,
            bool shared, const void* modulation, const void* partial, void* y, const Turns& run) {
  run({number(batch * m.tiles(tp::kAcross))}, tp::kThreads, tp::reduce<T>, m,
      static_cast<const Complex<T>*>(x), static_cast<const Complex<T>*>(maps), coils, shared,
      static_cast<const Complex<T>*>(modulation), static_cast<const Complex<T>*>(partial),
      static_cast<Complex<T>*>(y));
}

template <class T, int kPixels>
void filter(int64_t pixels, const void* x, const void* kernel, int64_t batch, int64_t coils,
            bool shared, void* y, const Turns& run) {
  run({number(batch * gr::ceil_div(pixels, tp::kThreads * kPixels)),
       number(gr::ceil_div(coils, tp::kCoilsAtOnce))},
      tp::kThreads, tp::filter<T, kPixels>, pixels, coils, shared, static_cast<const T*>(x),
      static_cast<const T*>(kernel), static_cast<T*>(y));
}

template <class T>
void step(const int64_t* shape, const void* const* in, void* const* out, const Turns& run) {
  const int64_t batch = shape[0], n = shape[1];
  const sv::Chunks c = sv::cut(n, shape[2], shape[3]);
  const bool aligned = n % (16 / sizeof(T)) == 0;
  sv::Vectors<T> v;
  const T** const from[] = {&v.x, &v.r, &v.p, &v.q, &v.rs, &v.stop};
  T** const to[] = {&v.next_x, &v.next_r, &v.next_p, &v.next_rs};
  for (int i = 0; i < 6; ++i) *from[i] = static_cast<const T*>(in[i]);
  for (int i = 0; i < 4; ++i) *to[i] = static_cast<T*>(out[i]);
  std::vector<double> curvatures(batch * c.count), norms(batch * c.count);
  const dim3 grid = {number(c.count), number(batch)};
  run(grid, sv::kThreads, sv::curvature<T>, c, aligned, v, curvatures.data());
  run(grid, sv::kThreads, sv::move<T>, c, aligned, v, curvatures.data(), norms.data());
  run(grid, sv::kThreads, sv::turn<T>, c, aligned, v, curvatures.data(), norms.data());
}

}  // namespace

// shape: frames, coils, count, size[3], tiles[3], dims, width, rows; limits: buffer, workspace.
extern "C" const char* emulate_gridding(int wide, int spreads, const int64_t* shape,
                                        const int64_t* limits, const double* points,
                                        const int64_t* order_of, const int64_t* offsets,
                                        const double* coefficients, const void* in, void* out,
                                        int* found, int order, unsigned seed) {
  gr::Plan g = {};
  gr::Faults faults = {0, 0};
  g.frames = shape[0], g.coils = shape[1], g.count = shape[2];
  for (int axis = 0; axis < 3; ++axis)
    g.size[axis] = int(shape[3 + axis]), g.tiles[axis] = int(shape[6 + axis]);
  g.dims = int(shape[9]), g.width = int(shape[10]), g.rows = int(shape[11]);
  g.points = points, g.order = order_of, g.offsets = offsets, g.coefficients = coefficients;
  g.faults = &faults;
  const Turns run = {static_cast<Order>(order), seed};
  const char* error = guarded([&] {
    if (wide)
      grid_op<double, 1>(g, spreads, limits[0], limits[1], in, out, run);
    else if (gr::pack_coils<float>(g.coils) == 2)
      grid_op<float, 2>(g, spreads, limits[0], limits[1], in, out, run);
    else
      grid_op<float, 1>(g, spreads, limits[0], limits[1], in, out, run);
  });
  std::memcpy(found, &faults, sizeof(faults));
  return error;
}

// shape: n, rest, batch, coils, shared.
extern "C" const char* emulate_turn(int wide, const int64_t* shape, const void* x, const void* maps,
                                    const void* modulation, void* y, int order, unsigned seed) {
  const tp::Matrix m = {shape[0], shape[1]};
  const Turns run = {static_cast<Order>(order), seed};
  return guarded([&] {
    (wide ? turn<double> : turn<float>)(m, x, maps, shape[2], shape[3], shape[4], modulation, y,
                                        run);
  });
}

extern "C" const char* emulate_unturn(int wide, const int64_t* shape, const void* x,
                                      const void* modulation, void* y, int order, unsigned seed) {
  const tp::Matrix m = {shape[0], shape[1]};
  const Turns run = {static_cast<Order>(order), seed};
  return guarded(
      [&] { (wide ? unturn<double> : unturn<float>)(m, x, shape[2], modulation, y, run); });
}

extern "C" const char* emulate_reduce(int wide, const int64_t* shape, const void* x,
                                      const void* maps, const void* modulation, const void* partial,
                                      void* y, int order, unsigned seed) {
  const tp::Matrix m = {shape[0], shape[1]};
  const Turns run = {static_cast<Order>(order), seed};
  return guarded([&] {
    (wide ? reduce<double> : reduce<float>)(m, x, maps, shape[2], shape[3], shape[4], modulation,
                                            partial, y, run);
  });
}

// shape: pixels, batch, coils, shared.
extern "C" const char* emulate_filter(int wide, const int64_t* shape, const void* x,
                                      const void* kernel, void* y, int order, unsigned seed) {
  const Turns run = {static_cast<Order>(order), seed};
  const auto narrow = shape[0] % 2 == 0 ? filter<float, 2> : filter<float, 1>;
  return guarded([&] {
    (wide ? filter<double, 1> : narrow)(shape[0], x, kernel, shape[1], shape[2], shape[3], y, run);
  });
}

// shape: batch, n, least numbers of a chunk, most chunks.
extern "C" const char* emulate_step(int wide, const int64_t* shape, const void* const* in,
                                    void* const* out, int order, unsigned seed) {
  const Turns run = {static_cast<Order>(order), seed};
  return guarded([&] { (wide ? step<double> : step<float>)(shape, in, out, run); });
}
