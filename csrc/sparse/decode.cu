// sparse_decode, sparse_decode_backward and sparse_encode_backward on CUDA: checks, memory and
// launches. The kernels are in codes.cuh and backward.cuh; the specification is
// sagittal_core/ops/reference_sparse.py.
#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "../common/launch.h"
#include "backward.cuh"
#include "tensors.h"

namespace sagittal {
namespace {

using sparse::Groups;
using sparse::kChunk;
using sparse::kMostThreads;
using sparse::Sweep;

constexpr int64_t kLimit = int64_t{1} << 31;

unsigned blocks_of(int64_t count, int64_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

// A warp at least, a thread for 16 bytes of a row at most.
template <class T>
unsigned threads_for(int64_t width) {
  const int64_t packs = (width + Pack<T>::kCount - 1) / Pack<T>::kCount;
  return static_cast<unsigned>(std::clamp<int64_t>((packs + 31) / 32 * 32, 32, kMostThreads));
}

// Contiguous codes; the device checks them.
struct CheckedCodes {
  Tensor indices, values, faults;
  std::optional<Tensor> offsets;
  cudaStream_t stream;
  sparse::Codes codes;
  sparse::CodeFaults* on_device;

  CheckedCodes(const Tensor& indices_in, const Tensor& values_in,
               const std::optional<Tensor>& offsets_in, int64_t features)
      : indices(torch::stable::contiguous(indices_in)),
        values(torch::stable::contiguous(values_in)),
        faults(torch::stable::new_zeros(indices, {1})),
        stream(current_stream(values)) {
    const int64_t dims = offsets_in.has_value() ? 1 : 2;
    check_device(indices, values, "indices");
    STD_TORCH_CHECK(indices.scalar_type() == ScalarType::Long, "indices must be int64");
    STD_TORCH_CHECK(indices.dim() == dims && values.dim() == dims &&
                        values.numel() == indices.numel() && values.size(0) == indices.size(0),
                    "indices and values must both be (N, k), or (nnz,) with offsets");
    codes = {data<int64_t>(indices), nullptr, indices.size(0), indices.numel(), features};
    if (offsets_in.has_value()) {
      offsets = torch::stable::contiguous(*offsets_in);
      check_device(*offsets, values, "offsets");
      STD_TORCH_CHECK(offsets->scalar_type() == ScalarType::Long && offsets->dim() == 1 &&
                          offsets->size(0) >= 1,
                      "offsets must be (N + 1,) int64");
      codes.offsets = data<int64_t>(*offsets);
      codes.rows = offsets->size(0) - 1;
    }
    STD_TORCH_CHECK(codes.rows < kLimit && codes.count < kLimit && features < kLimit,
                    "rows, entries and features must each be fewer than 2^31");
    on_device = reinterpret_cast<sparse::CodeFaults*>(faults.data_ptr());
    const int64_t items = std::max(codes.count, codes.rows + 1);
    sparse::check_codes<<<blocks_of(items, kMostThreads), kMostThreads, 0, stream>>>(codes,
                                                                                     on_device);
    check_cuda(cudaGetLastError());
  }

  // Waits for the device.
  void raise() const {
    const sparse::CodeFaults seen = read_back(on_device, stream);
    STD_TORCH_CHECK(seen.offsets == 0, "offsets must rise from 0 to nnz = ", codes.count);
    STD_TORCH_CHECK(seen.indices == 0, "indices must be in 0..", codes.features - 1);
  }
};

void check_matrix(const Tensor& t, const Tensor& like, const char* name) {
  check_device(t, like, name);
  STD_TORCH_CHECK(t.dim() == 2 && t.scalar_type() == like.scalar_type(), name,
                  " must be a matrix of the dtype of values");
}

void check_vector(const Tensor& t, const Tensor& like, int64_t length, const char* name) {
  check_device(t, like, name);
  STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == length && t.scalar_type() == like.scalar_type(),
                  name, " must be (D,) of the dtype of values");
}

// Prefixes on the device.
struct Prefixes {
  Tensor tensor;
  Groups groups;

  Prefixes(const std::vector<int64_t>& ends, int64_t features, const CheckedCodes& c)
      : tensor(new_long(c.indices, {static_cast<int64_t>(ends.size())})) {
    bool rising = !ends.empty() && ends[0] > 0 && ends.back() == features;
    for (size_t l = 1; l < ends.size(); ++l) rising &= ends[l - 1] < ends[l];
    STD_TORCH_CHECK(rising, "prefixes must rise to F = ", features);
    // From pageable memory: copied before the call returns.
    check_cuda(cudaMemcpyAsync(tensor.data_ptr(), ends.data(), ends.size() * sizeof(int64_t),
                               cudaMemcpyHostToDevice, c.stream));
    groups = {data<int64_t>(tensor), static_cast<int64_t>(ends.size())};
  }
};

template <class T>
void decode(const CheckedCodes& c, const Tensor& weight, const Tensor& bias, const Groups& groups,
            Tensor& out) {
  const int64_t width = weight.size(1);
  if (c.codes.rows == 0 || width == 0) return;
  const bool aligned =
      is_aligned(weight, sizeof(T)) && is_aligned(bias, sizeof(T)) && is_aligned(out, sizeof(T));
  sparse::decode<T><<<static_cast<unsigned>(c.codes.rows), threads_for<T>(width), 0, c.stream>>>(
      c.codes, data<T>(c.values), data<T>(weight), data<T>(bias), groups, width, aligned,
      c.on_device, data<T>(out));
  check_cuda(cudaGetLastError());
}

Tensor sparse_decode_cuda(const Tensor& indices, const Tensor& values,
                          std::optional<Tensor> offsets, const Tensor& weight_in,
                          const Tensor& bias_in, std::vector<int64_t> prefixes) {
  torch::stable::accelerator::DeviceGuard guard(values.get_device_index());
  const Tensor weight = torch::stable::contiguous(weight_in);
  const Tensor bias = torch::stable::contiguous(bias_in);
  check_matrix(weight, values, "weight");
  check_vector(bias, values, weight.size(1), "bias");
  const CheckedCodes c(indices, values, offsets, weight.size(0));
  const Prefixes given(prefixes, weight.size(0), c);
  Tensor out = torch::stable::new_empty(weight, {given.groups.count, c.codes.rows, weight.size(1)});
  if (is_double(values, "values"))
    decode<double>(c, weight, bias, given.groups, out);
  else
    decode<float>(c, weight, bias, given.groups, out);
  c.raise();
  return out;
}

// Sorts the entries by feature and sums; `p` holds what is summed and where the sums go.
template <class T, bool kDecoder>
void sweep(const CheckedCodes& c, Sweep<T> p) {
  const int64_t count = c.codes.count, features = c.codes.features,
                chunks = (count + kChunk - 1) / kChunk;
  Tensor keys = torch::stable::new_empty(c.indices, {count}, ScalarType::Int);
  Tensor rows = torch::stable::new_empty(c.indices, {count}, ScalarType::Int);
  Tensor begins = new_long(c.indices, {features + 1});
  const std::vector<int64_t> room = {chunks, 2, p.width};
  Tensor partials = torch::stable::new_empty(c.values, room);
  Tensor partial_biases = torch::stable::new_empty(c.values, {chunks, 2});
  if (count > 0) {
    const T* const values = kDecoder ? nullptr : data<T>(c.values);
    sparse::find_rows<T><<<blocks_of(count, kMostThreads), kMostThreads, 0, c.stream>>>(
        c.codes, values, c.on_device, data<int32_t>(keys), data<int32_t>(rows));
    check_cuda(cudaGetLastError());
  }
  const auto [sorted, order] = stable_sort(keys);
  sparse::find_begins<<<blocks_of(features + 1, kMostThreads), kMostThreads, 0, c.stream>>>(
      data<int32_t>(sorted), count, features, data<int64_t>(begins));
  check_cuda(cudaGetLastError());
  p.sorted = data<int32_t>(sorted);
  p.order = data<int64_t>(order);
  p.rows = data<int32_t>(rows);
  p.begins = data<int64_t>(begins);
  p.count = count, p.features = features, p.row_count = c.codes.rows;
  p.partials = data<T>(partials);
  p.partial_biases = data<T>(partial_biases);
  p.aligned = p.aligned && is_aligned(partials, sizeof(T));
  const unsigned threads = threads_for<T>(p.width);
  if (chunks > 0) {
    sparse::sweep<T, kDecoder><<<static_cast<unsigned>(chunks), threads, 0, c.stream>>>(p);
    check_cuda(cudaGetLastError());
  }
  if (features > 0) {
    sparse::join<T><<<static_cast<unsigned>(features), threads, 0, c.stream>>>(p);
    check_cuda(cudaGetLastError());
  }
}

template <class T>
void decode_backward(const CheckedCodes& c, const Tensor& grad, const Tensor& weight,
                     const Groups& groups, Tensor& for_values, Tensor& for_weight) {
  Sweep<T> p = {};
  p.width = weight.size(1);
  p.groups = groups;
  p.scales = data<T>(c.values);
  p.source = data<T>(grad);
  p.weight = data<T>(weight);
  p.for_values = data<T>(for_values);
  p.for_weight = data<T>(for_weight);
  p.aligned = is_aligned(grad, sizeof(T)) && is_aligned(weight, sizeof(T)) &&
              is_aligned(for_weight, sizeof(T));
  sweep<T, true>(c, p);
}

std::tuple<Tensor, Tensor> sparse_decode_backward_cuda(const Tensor& grad_in, const Tensor& indices,
                                                       const Tensor& values,
                                                       std::optional<Tensor> offsets,
                                                       const Tensor& weight_in,
                                                       std::vector<int64_t> prefixes) {
  torch::stable::accelerator::DeviceGuard guard(values.get_device_index());
  const Tensor grad = torch::stable::contiguous(grad_in);
  const Tensor weight = torch::stable::contiguous(weight_in);
  check_matrix(weight, values, "weight");
  check_device(grad, values, "grad");
  const CheckedCodes c(indices, values, offsets, weight.size(0));
  const Prefixes given(prefixes, weight.size(0), c);
  STD_TORCH_CHECK(grad.dim() == 3 && grad.size(0) == given.groups.count &&
                      grad.size(1) == c.codes.rows && grad.size(2) == weight.size(1) &&
                      grad.scalar_type() == values.scalar_type(),
                  "grad must be (L, N, D) of the dtype of values");
  Tensor for_values = torch::stable::empty_like(c.values);
  Tensor for_weight = torch::stable::empty_like(weight);
  if (is_double(values, "values"))
    decode_backward<double>(c, grad, weight, given.groups, for_values, for_weight);
  else
    decode_backward<float>(c, grad, weight, given.groups, for_values, for_weight);
  c.raise();
  return {for_values, for_weight};
}

template <class T>
void encode_backward(const CheckedCodes& c, const Tensor& grad, const Tensor& x,
                     const std::optional<Tensor>& shift, Tensor& for_weight, Tensor& for_bias) {
  Sweep<T> p = {};
  p.width = x.size(1);
  p.groups = {nullptr, 1};
  p.scales = data<T>(grad);
  p.source = data<T>(x);
  p.shift = shift.has_value() ? data<T>(*shift) : nullptr;
  p.for_weight = data<T>(for_weight);
  p.for_bias = data<T>(for_bias);
  p.aligned = is_aligned(x, sizeof(T)) && is_aligned(for_weight, sizeof(T)) &&
              (!shift.has_value() || is_aligned(*shift, sizeof(T)));
  sweep<T, false>(c, p);
}

std::tuple<Tensor, Tensor> sparse_encode_backward_cuda(const Tensor& grad_in, const Tensor& indices,
                                                       const Tensor& values,
                                                       std::optional<Tensor> offsets,
                                                       const Tensor& x_in,
                                                       std::optional<Tensor> shift_in,
                                                       int64_t features) {
  torch::stable::accelerator::DeviceGuard guard(values.get_device_index());
  const Tensor grad = torch::stable::contiguous(grad_in), x = torch::stable::contiguous(x_in);
  check_matrix(x, values, "x");
  check_device(grad, values, "grad");
  const CheckedCodes c(indices, values, offsets, features);
  STD_TORCH_CHECK(x.size(0) == c.codes.rows, "x must have a row for every row of the codes");
  STD_TORCH_CHECK(grad.numel() == c.codes.count && grad.scalar_type() == values.scalar_type(),
                  "grad must have the shape and dtype of values");
  std::optional<Tensor> shift;
  if (shift_in.has_value()) {
    shift = torch::stable::contiguous(*shift_in);
    check_vector(*shift, values, x.size(1), "shift");
  }
  Tensor for_weight = torch::stable::new_empty(x, {features, x.size(1)});
  Tensor for_bias = torch::stable::new_empty(x, {features});
  if (is_double(values, "values"))
    encode_backward<double>(c, grad, x, shift, for_weight, for_bias);
  else
    encode_backward<float>(c, grad, x, shift, for_weight, for_bias);
  c.raise();
  return {for_weight, for_bias};
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CUDA, m) {
  m.impl("sparse_decode", TORCH_BOX(&sagittal::sparse_decode_cuda));
  m.impl("sparse_decode_backward", TORCH_BOX(&sagittal::sparse_decode_backward_cuda));
  m.impl("sparse_encode_backward", TORCH_BOX(&sagittal::sparse_encode_backward_cuda));
}
