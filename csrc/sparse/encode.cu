// topk_encode, threshold_encode and topk_select on CUDA: checks, memory and launches. The kernels
// are in select.cuh; the specification is sagittal_core/ops/reference_sparse.py.
#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "../common/launch.h"
#include "select.cuh"
#include "tensors.h"

namespace sagittal {
namespace {

using sparse::Found;
using sparse::Rows;

constexpr auto kNoRow = std::numeric_limits<unsigned long long>::max();

// What the device reports: the lowest row with NaN, the entries of the longest row, the entries of
// all rows so far.
struct Report {
  unsigned long long nan_row;
  int64_t longest, total;
};

struct Reporter {
  Tensor tensor;
  cudaStream_t stream;
  Report* on_device;

  Reporter(const Tensor& like, cudaStream_t stream_in)
      : tensor(new_long(like, {3})),
        stream(stream_in),
        on_device(reinterpret_cast<Report*>(tensor.data_ptr())) {
    check_cuda(cudaMemsetAsync(on_device, 0xff, sizeof(Report), stream));
  }
  // Waits for the device.
  Report read(const char* what) const {
    const Report seen = read_back(on_device, stream);
    STD_TORCH_CHECK(seen.nan_row == kNoRow, "NaN ", what, " in row ",
                    static_cast<int64_t>(seen.nan_row));
    return seen;
  }
};

// (R, D) times (C, D) transposed. Not matmul: an autocast region would change its dtype.
Tensor product(const Tensor& rows, const Tensor& weight) {
  const Tensor out = torch::stable::new_empty(rows, {rows.size(0), weight.size(0)});
  std::array<StableIValue, 3> stack = {
      torch::stable::detail::from(rows),
      torch::stable::detail::from(torch::stable::transpose(weight, 0, 1)),
      torch::stable::detail::from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The arguments of an encoder, checked and contiguous.
struct Inputs {
  Tensor x, weight, bias;
  std::optional<Tensor> shift;
  int64_t rows, features;

  Inputs(const Tensor& x_in, const Tensor& weight_in, const Tensor& bias_in,
         const std::optional<Tensor>& shift_in)
      : x(torch::stable::contiguous(x_in)),
        weight(torch::stable::contiguous(weight_in)),
        bias(torch::stable::contiguous(bias_in)),
        rows(x.size(0)),
        features(weight.size(0)) {
    if (shift_in.has_value()) shift = torch::stable::contiguous(*shift_in);
    check_device(weight, x, "weight");
    check_device(bias, x, "bias");
    STD_TORCH_CHECK(x.dim() == 2 && weight.dim() == 2 && weight.size(1) == x.size(1),
                    "x must be (N, D) and weight (F, D)");
    STD_TORCH_CHECK(weight.size(0) > 0 && weight.size(1) > 0, "weight must not be empty");
    STD_TORCH_CHECK(weight.size(0) < (int64_t{1} << 31), "weight has too many features");
    STD_TORCH_CHECK(bias.dim() == 1 && bias.size(0) == weight.size(0), "bias must be (F,)");
    STD_TORCH_CHECK(
        weight.scalar_type() == x.scalar_type() && bias.scalar_type() == x.scalar_type(),
        "x, weight and bias must have one dtype");
    if (!shift.has_value()) return;
    check_device(*shift, x, "shift");
    STD_TORCH_CHECK(
        shift->dim() == 1 && shift->size(0) == x.size(1) && shift->scalar_type() == x.scalar_type(),
        "shift must be (D,) of the dtype of x");
  }

  // Rows [first, first + count) less the shift.
  Tensor centred(int64_t first, int64_t count) {
    const Tensor part = torch::stable::narrow(x, 0, first, count);
    return shift.has_value() ? torch::stable::subtract(part, *shift) : part;
  }

  // Pre-activations of these rows and of features [first, first + count).
  Tensor activations(const Tensor& rows_in, int64_t first, int64_t count) {
    return product(rows_in, torch::stable::narrow(weight, 0, first, count));
  }
};

template <class T>
Rows<T> rows_of(const Tensor& values, int64_t first_row, int64_t first, const Tensor* bias) {
  return {data<T>(values),
          values.size(1),
          first,
          first_row,
          bias != nullptr ? data<T>(*bias) : nullptr,
          nullptr,
          false,
          is_aligned(values, sizeof(T))};
}

// All entries of `count` rows, of which none has more than `longest`.
template <class T>
void select_all(const Rows<T>& rows, int64_t count, const Found<T>& found, int64_t longest,
                const Reporter& report) {
  for (int64_t done = 0; done < longest; done += sparse::kMost) {
    sparse::select<T><<<static_cast<unsigned>(count), sparse::kThreads, 0, report.stream>>>(
        rows, found, done, &report.on_device->nan_row);
    check_cuda(cudaGetLastError());
  }
}

template <class T>
void topk_rows(Inputs& in, int64_t k, Tensor& values, Tensor& indices, const Reporter& report) {
  constexpr int64_t kRows = 2048, kNumbers = sparse::kBytes / sizeof(T);
  static_assert(kNumbers / kRows >= sparse::kMost, "a chunk must hold the k best of a row");
  // More entries than one pass finds: the passes need all features of a row at once.
  const bool whole = k > sparse::kMost;
  const int64_t most_rows = whole ? std::max<int64_t>(1, kNumbers / in.features) : kRows;
  for (int64_t row = 0; row < in.rows; row += most_rows) {
    const int64_t count = std::min(most_rows, in.rows - row);
    const int64_t chunk =
        whole ? in.features : std::max(kNumbers / count / 128 * 128, int64_t{128});
    const Tensor centred = in.centred(row, count);
    const Found<T> found = {data<T>(values) + row * k, data<int64_t>(indices) + row * k, nullptr, 0,
                            k};
    for (int64_t first = 0; first < in.features; first += chunk) {
      const int64_t size = std::min(chunk, in.features - first);
      const Tensor part = in.activations(centred, first, size);
      select_all(rows_of<T>(part, row, first, &in.bias), count, found, k, report);
    }
  }
}

std::tuple<Tensor, Tensor> topk_encode_cuda(const Tensor& x, const Tensor& weight,
                                            const Tensor& bias, std::optional<Tensor> shift,
                                            int64_t k) {
  torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Inputs in(x, weight, bias, shift);
  STD_TORCH_CHECK(k >= 1 && k <= in.features, "k must be between 1 and F, got ", k);
  Tensor values = torch::stable::new_empty(in.x, {in.rows, k});
  Tensor indices = new_long(in.x, {in.rows, k});
  const Reporter report(x, current_stream(x));
  if (is_double(x, "x"))
    topk_rows<double>(in, k, values, indices, report);
  else
    topk_rows<float>(in, k, values, indices, report);
  report.read("pre-activation");
  return {values, indices};
}

// Entries of some of the rows, [begin, end) of all.
struct Piece {
  Tensor values, indices;
  int64_t begin, end;
};

template <class T>
std::tuple<Tensor, Tensor, Tensor> threshold_rows(Inputs& in, const Tensor& threshold,
                                                  const Reporter& report) {
  const int64_t most_rows =
      std::max<int64_t>(1, sparse::kBytes / static_cast<int64_t>(sizeof(T)) / in.features);
  const cudaStream_t stream = report.stream;
  Tensor offsets = new_long(in.x, {in.rows + 1});
  check_cuda(cudaMemsetAsync(offsets.data_ptr(), 0, sizeof(int64_t), stream));
  std::vector<Piece> pieces;
  int64_t total = 0;
  for (int64_t row = 0; row < in.rows; row += most_rows) {
    const int64_t count = std::min(most_rows, in.rows - row);
    const Tensor part = in.activations(in.centred(row, count), 0, in.features);
    Rows<T> rows = rows_of<T>(part, row, 0, &in.bias);
    rows.threshold = data<T>(threshold);
    rows.one_threshold = threshold.numel() == 1;
    const Tensor counts = new_long(in.x, {count});
    int64_t* const begins = data<int64_t>(offsets) + row;
    sparse::count_active<T><<<static_cast<unsigned>(count), sparse::kThreads, 0, stream>>>(
        rows, data<int64_t>(counts), &report.on_device->nan_row);
    check_cuda(cudaGetLastError());
    sparse::sum_counts<<<1, sparse::kThreads, 0, stream>>>(data<int64_t>(counts), count, begins,
                                                           &report.on_device->longest);
    check_cuda(cudaGetLastError());
    const Report seen = report.read("pre-activation");
    const int64_t begin = total;
    total = seen.total;
    if (total == begin) continue;
    pieces.push_back({torch::stable::new_empty(in.x, {total - begin}),
                      new_long(in.x, {total - begin}), begin, total});
    const Found<T> found = {data<T>(pieces.back().values), data<int64_t>(pieces.back().indices),
                            begins, begin, 0};
    select_all(rows, count, found, seen.longest, report);
  }
  if (pieces.size() == 1) return {pieces[0].values, pieces[0].indices, offsets};
  Tensor values = torch::stable::new_empty(in.x, {total}), indices = new_long(in.x, {total});
  for (const Piece& piece : pieces) {
    const int64_t size = piece.end - piece.begin;
    check_cuda(cudaMemcpyAsync(data<T>(values) + piece.begin, piece.values.data_ptr(),
                               size * sizeof(T), cudaMemcpyDeviceToDevice, stream));
    check_cuda(cudaMemcpyAsync(data<int64_t>(indices) + piece.begin, piece.indices.data_ptr(),
                               size * sizeof(int64_t), cudaMemcpyDeviceToDevice, stream));
  }
  return {values, indices, offsets};
}

std::tuple<Tensor, Tensor, Tensor> threshold_encode_cuda(const Tensor& x, const Tensor& weight,
                                                         const Tensor& bias,
                                                         std::optional<Tensor> shift,
                                                         const Tensor& threshold_in) {
  torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Inputs in(x, weight, bias, shift);
  const Tensor threshold = torch::stable::contiguous(threshold_in);
  check_device(threshold, x, "threshold");
  STD_TORCH_CHECK(
      threshold.dim() == 1 && (threshold.size(0) == 1 || threshold.size(0) == in.features),
      "threshold must be (1,) or (F,)");
  STD_TORCH_CHECK(threshold.scalar_type() == x.scalar_type(), "threshold must have x's dtype");
  const Reporter report(x, current_stream(x));
  return is_double(x, "x") ? threshold_rows<double>(in, threshold, report)
                           : threshold_rows<float>(in, threshold, report);
}

template <class T>
void select_rows(const Tensor& scores, int64_t k, Tensor& values, Tensor& indices,
                 const Reporter& report) {
  const Found<T> found = {data<T>(values), data<int64_t>(indices), nullptr, 0, k};
  if (scores.size(0) > 0)
    select_all(rows_of<T>(scores, 0, 0, nullptr), scores.size(0), found, k, report);
}

std::tuple<Tensor, Tensor> topk_select_cuda(const Tensor& scores_in, int64_t k) {
  torch::stable::accelerator::DeviceGuard guard(scores_in.get_device_index());
  const Tensor scores = torch::stable::contiguous(scores_in);
  STD_TORCH_CHECK(scores.dim() == 2 && k >= 1 && k <= scores.size(1),
                  "scores must be (N, F) with 1 <= k <= F, got k = ", k);
  constexpr int64_t kLimit = int64_t{1} << 31;
  STD_TORCH_CHECK(scores.size(0) < kLimit && scores.size(1) < kLimit, "scores is too large");
  Tensor values = torch::stable::new_empty(scores, {scores.size(0), k});
  Tensor indices = new_long(scores, {scores.size(0), k});
  const Reporter report(scores, current_stream(scores));
  if (is_double(scores, "scores"))
    select_rows<double>(scores, k, values, indices, report);
  else
    select_rows<float>(scores, k, values, indices, report);
  report.read("score");
  return {values, indices};
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CUDA, m) {
  m.impl("topk_encode", TORCH_BOX(&sagittal::topk_encode_cuda));
  m.impl("threshold_encode", TORCH_BOX(&sagittal::threshold_encode_cuda));
  m.impl("topk_select", TORCH_BOX(&sagittal::topk_select_cuda));
}
