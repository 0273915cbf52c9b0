// codebook_sums on the CPU. The specification is sagittal_core/ops/reference_codebook.py.
//
// Rows are put in order of their code by a stable counting sort. Fixed chunks of this order are
// summed in parallel: a code whose rows lie within one chunk is written there, the first and last
// code of a chunk, whose rows may go on in the next one, as partial sums, which are added up in
// order at the end. The same bits on any number of threads, and one code with all the rows is no
// bottleneck.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <vector>

#include "rows.h"

namespace sagittal {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kChunk = 512;

// Adds rows order[0], ..., order[count - 1], in this order.
template <class T, class S>
struct AddRows {
  template <int kBytes>
  static SAGITTAL_INLINE void run(const S* rows, const int64_t* order, int64_t count, int64_t width,
                                  T* sum) {
    for (int64_t i = 0; i < count; ++i) {
      const S* row = rows + order[i] * width;
      for (int64_t d = 0; d < width; ++d) sum[d] += widen<T>(row[d]);
    }
  }
};

template <class T>
struct Partial {
  int64_t code[2] = {-1, -1};  // first and last, -1 for none
  T* sum[2];
};

template <class T>
void add_up(const Tensor& z, const std::vector<int64_t>& order, const int64_t* indices,
            const int64_t* begins, Tensor& sums_out) {
  const int64_t width = z.size(1), rows = z.size(0), chunks = (rows + kChunk - 1) / kChunk;
  const Rows<T> values(z);
  T* sums = static_cast<T*>(sums_out.data_ptr());
  std::vector<T> room(2 * chunks * width, T(0));
  std::vector<Partial<T>> partials(chunks);
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t begin = chunk * kChunk, end = std::min(begin + kChunk, rows);
      Partial<T>& partial = partials[chunk];
      for (int slot : {0, 1}) partial.sum[slot] = room.data() + (2 * chunk + slot) * width;
      for (int64_t i = begin; i < end;) {
        const int64_t code = indices[order[i]], stop = std::min(begins[code + 1], end);
        T* target = sums + code * width;
        if (begins[code] < begin || begins[code + 1] > end) {
          const int slot = i == begin ? 0 : 1;
          partial.code[slot] = code, target = partial.sum[slot];
        }
        values.visit([&](const auto* data) {
          using S = std::remove_cvref_t<decltype(*data)>;
          run_for_isa<AddRows<T, S>>(data, order.data() + i, stop - i, width, target);
        });
        i = stop;
      }
    }
  });
  for (const Partial<T>& partial : partials)
    for (int slot : {0, 1})
      for (int64_t d = 0; partial.code[slot] >= 0 && d < width; ++d)
        sums[partial.code[slot] * width + d] += partial.sum[slot][d];
}

std::tuple<Tensor, Tensor> codebook_sums_cpu(const Tensor& z_in, const Tensor& indices_in,
                                             int64_t size) {
  count_call();
  const Tensor z = torch::stable::contiguous(z_in), chosen = torch::stable::contiguous(indices_in);
  check_floating_matrix(z, "z");
  STD_TORCH_CHECK(size >= 1, "size must be >= 1");
  STD_TORCH_CHECK(
      chosen.scalar_type() == ScalarType::Long && chosen.dim() == 1 && chosen.size(0) == z.size(0),
      "indices must be (M,) int64 for z (M, D)");
  const int64_t rows = z.size(0);
  const int64_t* indices = static_cast<const int64_t*>(chosen.data_ptr());
  Tensor counts = torch::stable::new_zeros(z, {size}, ScalarType::Long);
  int64_t* count = static_cast<int64_t*>(counts.data_ptr());
  for (int64_t i = 0; i < rows; ++i) {
    STD_TORCH_CHECK(indices[i] >= 0 && indices[i] < size, "indices must be in [0, ", size, ")");
    ++count[indices[i]];
  }
  std::vector<int64_t> begins(size + 1, 0), order(rows);
  for (int64_t code = 0; code < size; ++code) begins[code + 1] = begins[code] + count[code];
  std::vector<int64_t> next(begins.begin(), begins.end() - 1);
  for (int64_t i = 0; i < rows; ++i) order[next[indices[i]]++] = i;
  const bool wide = z.scalar_type() == ScalarType::Double;
  Tensor sums =
      torch::stable::new_zeros(z, {size, z.size(1)}, wide ? ScalarType::Double : ScalarType::Float);
  if (wide)
    add_up<double>(z, order, indices, begins.data(), sums);
  else
    add_up<float>(z, order, indices, begins.data(), sums);
  return {sums, counts};
}

}  // namespace
}  // namespace sagittal

STABLE_TORCH_LIBRARY_IMPL(sagittal, CPU, m) {
  m.impl("codebook_sums", TORCH_BOX(&sagittal::codebook_sums_cpu));
}
