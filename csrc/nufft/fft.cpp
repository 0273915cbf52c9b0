// Radices and tables of the transforms of fft.h.
#include "fft.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>

namespace sagittal {
namespace {

// Large primes first, then ascending: the last pass needs no twiddles and takes small radices only.
std::vector<int64_t> radices(int64_t n) {
  std::vector<int64_t> large, small;
  for (int64_t prime = 3; prime <= kLargestPrime; prime += 2)
    for (; n % prime == 0; n /= prime) (prime > 7 ? large : small).push_back(prime);
  for (; n % 8 == 0 && n != 16; n /= 8) small.push_back(8);
  for (; n % 4 == 0; n /= 4) small.push_back(4);
  if (n == 2) small.push_back(2);
  while (small.empty() || large.size() + small.size() < 2) small.push_back(1);
  std::sort(small.begin(), small.end());
  large.insert(large.end(), small.begin(), small.end());
  return large;
}

// exp(-2 pi i k / n)
template <class T>
void push_root(int64_t k, int64_t n, std::vector<T>& to) {
  const long double angle = 2 * std::acos(-1.0L) * (k % n) / n;
  to.push_back(static_cast<T>(std::cos(angle)));
  to.push_back(static_cast<T>(-std::sin(angle)));
}

template <class T>
std::unique_ptr<FftPlan<T>> make_plan(int64_t n) {
  auto plan = std::make_unique<FftPlan<T>>();
  plan->n = n;
  plan->frequency = {0};
  int64_t blocks = 1;
  for (const int64_t radix : radices(n)) {
    FftPass<T> pass{radix, blocks, n / blocks / radix, {}, {}};
    for (int64_t k = 0; radix > 8 && k < radix; ++k) {
      push_root(k, radix, pass.roots);
      pass.roots.back() = -pass.roots.back();
    }
    for (int64_t j = 0; j < pass.stride; ++j)
      for (int64_t k = 1; k < radix; ++k) push_root(j * k, radix * pass.stride, pass.twiddles);
    std::vector<int64_t> next;
    for (const int64_t frequency : plan->frequency)
      for (int64_t k = 0; k < radix; ++k) next.push_back(frequency + k * blocks);
    plan->frequency = next;
    blocks *= radix;
    plan->passes.push_back(std::move(pass));
  }
  plan->position.resize(n);
  for (int64_t j = 0; j < n; ++j) plan->position[plan->frequency[j]] = j;
  for (int64_t j = 0; j < n; ++j) push_root(j, 2 * n, plan->modulation);
  return plan;
}

}  // namespace

bool fft_fits(int64_t n) {
  if (n < 1) return false;
  for (int64_t prime = 2; prime <= kLargestPrime; ++prime)
    while (n % prime == 0) n /= prime;
  return n == 1;
}

template <class T>
const FftPlan<T>& fft_plan(int64_t n) {
  static std::mutex mutex;
  static std::map<int64_t, std::unique_ptr<FftPlan<T>>> plans;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<FftPlan<T>>& plan = plans[n];
  if (plan == nullptr) plan = make_plan<T>(n);
  return *plan;
}

template const FftPlan<float>& fft_plan<float>(int64_t n);
template const FftPlan<double>& fft_plan<double>(int64_t n);

}  // namespace sagittal
