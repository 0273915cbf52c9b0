// Entries of sparse rows, as the operators receive them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "tensors.h"

namespace sagittal {

// Checked and contiguous: (N, k), or (nnz) with offsets.
struct Codes {
  Tensor indices_, values_;
  std::optional<Tensor> offsets_;
  int64_t rows, count, features;
  const int64_t* indices;
  const int64_t* offsets;

  Codes(const Tensor& indices_in, const Tensor& values_in, const std::optional<Tensor>& offsets_in,
        int64_t features_in)
      : indices_(torch::stable::contiguous(indices_in)),
        values_(torch::stable::contiguous(values_in)),
        features(features_in) {
    const int64_t dims = offsets_in.has_value() ? 1 : 2;
    STD_TORCH_CHECK(indices_.scalar_type() == ScalarType::Long, "indices must be int64");
    STD_TORCH_CHECK(indices_.dim() == dims && values_.dim() == dims &&
                        values_.numel() == indices_.numel() && values_.size(0) == indices_.size(0),
                    "indices and values must both be (N, k), or (nnz,) with offsets");
    count = indices_.numel();
    indices = data<int64_t>(indices_);
    offsets = nullptr;
    rows = indices_.size(0);
    if (offsets_in.has_value()) {
      offsets_ = torch::stable::contiguous(*offsets_in);
      STD_TORCH_CHECK(offsets_->scalar_type() == ScalarType::Long && offsets_->dim() == 1 &&
                          offsets_->size(0) >= 1,
                      "offsets must be (N + 1,) int64");
      offsets = data<int64_t>(*offsets_);
      rows = offsets_->size(0) - 1;
      bool rising = offsets[0] == 0 && offsets[rows] == count;
      for (int64_t r = 0; r < rows; ++r) rising &= offsets[r] <= offsets[r + 1];
      STD_TORCH_CHECK(rising, "offsets must rise from 0 to nnz = ", count);
    }
    bool inside = true;
    for (int64_t i = 0; i < count; ++i) inside &= indices[i] >= 0 && indices[i] < features;
    STD_TORCH_CHECK(inside, "indices must be in 0..", features - 1);
  }

  int64_t begin(int64_t row) const { return offsets ? offsets[row] : row * (count / rows); }
};

// Group of a feature: how many prefixes it lies beyond.
inline int64_t group_of(const std::vector<int64_t>& prefixes, int64_t feature) {
  return std::upper_bound(prefixes.begin(), prefixes.end(), feature) - prefixes.begin();
}

inline void check_matrix(const Tensor& t, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(t.dim() == 2 && t.scalar_type() == like.scalar_type(), name,
                  " must be a matrix of the dtype of values");
}

inline void check_prefixes(const std::vector<int64_t>& prefixes, int64_t features) {
  bool rising = !prefixes.empty() && prefixes[0] > 0 && prefixes.back() == features;
  for (size_t l = 1; l < prefixes.size(); ++l) rising &= prefixes[l - 1] < prefixes[l];
  STD_TORCH_CHECK(rising, "prefixes must rise to F = ", features);
}

}  // namespace sagittal
