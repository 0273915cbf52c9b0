// Runs CUDA kernels on the CPU, for tests: each thread of a block is a fiber with a stack of its
// own, and blocks run one after the other. Barriers and shuffles are rendezvous points; between
// them threads run in the order asked for, which samples races but proves nothing about them.
// Shared memory keeps the last block's values. A barrier that threads leave out is an error, also
// where they have returned; that two threads stand at different barriers is not seen.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <dlfcn.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define SAGITTAL_EMULATE
#define __global__
#define __host__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

enum class Order { kForward, kReverse, kShuffled };
enum class State { kReady, kAtBlock, kAtWarp, kDone };

struct Context {
  ucontext_t start;
  jmp_buf place;
  bool started = true;
};

struct Fiber {
  Context context;
  std::vector<char> stack = std::vector<char>(128 * 1024);
  State state = State::kReady;
  unsigned mask = 0;
  uint64_t slot = 0;  // what the thread gives to a shuffle
};

inline std::vector<Fiber> fibers;
inline Context scheduler;

// AddressSanitizer is told of every change of stacks.
#ifdef __SANITIZE_ADDRESS__
inline const void* scheduler_stack = nullptr;
inline size_t scheduler_stack_size = 0;

// The sanitizer's own swapcontext forgets what it knows of the stack that it switches to.
inline void switch_context(Context* from, Context* to) {
  using Swap = int (*)(ucontext_t*, const ucontext_t*);
  static const Swap swap =
      reinterpret_cast<Swap>(dlsym(dlopen("libc.so.6", RTLD_LAZY), "swapcontext"));
  swap(&from->start, &to->start);
}
inline void leave_scheduler(void** kept, Fiber& fiber) {
  __sanitizer_start_switch_fiber(kept, fiber.stack.data(), fiber.stack.size());
}
inline void leave_fiber(void** kept) {
  __sanitizer_start_switch_fiber(kept, scheduler_stack, scheduler_stack_size);
}
inline void arrive(void* kept) { __sanitizer_finish_switch_fiber(kept, nullptr, nullptr); }
inline void arrive_first() {
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
}
// A fiber that an error left behind may have marked its frames.
inline void clean(Fiber& fiber) {
  __asan_unpoison_memory_region(fiber.stack.data(), fiber.stack.size());
}
#else
// Jumps where it can: swapcontext asks the system for the signal mask every time.
inline void switch_context(Context* from, Context* to) {
  if (_setjmp(from->place) != 0) return;
  if (to->started) _longjmp(to->place, 1);
  to->started = true;
  setcontext(&to->start);
}
inline void leave_scheduler(void**, Fiber&) {}
inline void leave_fiber(void**) {}
inline void arrive(void*) {}
inline void arrive_first() {}
inline void clean(Fiber&) {}
#endif
inline int current = 0, live = 0;
inline std::function<void()> body;
inline std::exception_ptr thrown;
inline std::vector<char> dynamic;  // shared memory whose size a launch chooses

// The same for the next launches.
inline void set_dynamic_shared(size_t bytes) { dynamic.assign(bytes + 16, 0x7f); }
inline char* dynamic_shared() {
  return dynamic.data() + (16 - reinterpret_cast<uintptr_t>(dynamic.data()) % 16) % 16;
}

inline void enter() {
  arrive_first();
  try {
    body();
  } catch (...) {
    thrown = std::current_exception();
  }
  fibers[current].state = State::kDone;
  leave_fiber(nullptr);
  switch_context(&fibers[current].context, &scheduler);
}

inline void wait(State state, unsigned mask = 0) {
  Fiber& self = fibers[current];
  self.state = state;
  self.mask = mask;
  void* kept = nullptr;
  leave_fiber(&kept);
  switch_context(&self.context, &scheduler);
  arrive(kept);
}

// Lets the warps go on whose lanes, as named by each one's mask, have all arrived.
inline bool release_warps() {
  bool moved = false;
  for (int i = 0; i < live; ++i) {
    if (fibers[i].state != State::kAtWarp) continue;
    const int first = i / 32 * 32;
    const unsigned mask = fibers[i].mask;
    bool all = true;
    for (int lane = 0; lane < 32; ++lane) {
      if (!(mask >> lane & 1)) continue;
      const int other = first + lane;
      all = all && other < live && fibers[other].state == State::kAtWarp &&
            fibers[other].mask == mask;
    }
    if (!all) continue;
    for (int lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) fibers[first + lane].state = State::kReady;
    moved = true;
  }
  return moved;
}

inline void run_block(Order order, std::mt19937& random) {
  std::vector<int> turns(live);
  std::iota(turns.begin(), turns.end(), 0);
  if (order == Order::kReverse) std::reverse(turns.begin(), turns.end());
  for (int i = 0; i < live; ++i) {
    Fiber& fiber = fibers[i];
    clean(fiber);
    ucontext_t& start = fiber.context.start;
    getcontext(&start);
    start.uc_stack.ss_sp = fiber.stack.data();
    start.uc_stack.ss_size = fiber.stack.size();
    start.uc_link = nullptr;
    makecontext(&start, enter, 0);
    fiber.context.started = false;
    fiber.state = State::kReady;
  }
  for (;;) {
    if (order == Order::kShuffled) std::shuffle(turns.begin(), turns.end(), random);
    for (const int i : turns) {
      if (fibers[i].state != State::kReady) continue;
      current = i;
      threadIdx = {unsigned(i) % blockDim.x, unsigned(i) / blockDim.x % blockDim.y,
                   unsigned(i) / (blockDim.x * blockDim.y)};
      void* kept = nullptr;
      leave_scheduler(&kept, fibers[i]);
      switch_context(&scheduler, &fibers[i].context);
      arrive(kept);
      if (thrown) std::rethrow_exception(std::exchange(thrown, nullptr));
    }
    int done = 0, at_block = 0;
    for (int i = 0; i < live; ++i) {
      done += fibers[i].state == State::kDone;
      at_block += fibers[i].state == State::kAtBlock;
    }
    if (done == live) return;
    if (at_block == live) {
      for (int i = 0; i < live; ++i) fibers[i].state = State::kReady;
    } else if (!release_warps()) {
      throw std::runtime_error("divergent barrier: some threads wait where others never arrive");
    }
  }
}

template <class Kernel, class... Args>
void launch(dim3 grid, dim3 block, Order order, unsigned seed, Kernel kernel, Args... args) {
  live = static_cast<int>(block.x * block.y * block.z);
  if (live < 1 || live > 1024) throw std::runtime_error("a block has 1 to 1024 threads");
  if (static_cast<int>(fibers.size()) < live) fibers.resize(live);
  std::mt19937 random(seed);
  gridDim = grid;
  blockDim = block;
  body = [=] { kernel(args...); };
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(order, random);
      }
}

// `value` of lane `source`; undefined on a GPU where the mask leaves that lane out, an error here.
template <class T>
T exchange(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8);
  const int lane = current % 32, first = current - lane;
  if (!(mask >> lane & 1)) throw std::runtime_error("a lane shuffles outside its own mask");
  if (!(mask >> source & 1)) throw std::runtime_error("a shuffle reads a lane outside its mask");
  std::memcpy(&fibers[current].slot, &value, sizeof(T));
  wait(State::kAtWarp, mask);
  std::memcpy(&value, &fibers[first + source].slot, sizeof(T));
  wait(State::kAtWarp, mask);  // nobody overwrites a slot that has not been read
  return value;
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::State::kAtBlock); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulator::wait(emulator::State::kAtWarp, mask);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return emulator::exchange(mask, value, source & 31);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip) {
  return emulator::exchange(mask, value, (emulator::current % 32) ^ flip);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned step) {
  const int lane = emulator::current % 32, source = lane + static_cast<int>(step);
  return emulator::exchange(mask, value, source < 32 ? source : lane);
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
  const int first = emulator::current / 32 * 32;
  emulator::fibers[emulator::current].slot = vote != 0;
  emulator::wait(emulator::State::kAtWarp, mask);
  unsigned votes = 0;
  for (int lane = 0; lane < 32; ++lane)
    if (mask >> lane & 1) votes |= unsigned(emulator::fibers[first + lane].slot) << lane;
  emulator::wait(emulator::State::kAtWarp, mask);
  return votes;
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) == mask; }
inline int __syncthreads_count(int vote) {
  emulator::fibers[emulator::current].slot = vote != 0;
  emulator::wait(emulator::State::kAtBlock);
  int votes = 0;
  for (int i = 0; i < emulator::live; ++i) votes += int(emulator::fibers[i].slot);
  emulator::wait(emulator::State::kAtBlock);  // nobody overwrites a slot that has not been read
  return votes;
}
inline int __syncthreads_or(int vote) { return __syncthreads_count(vote) > 0; }
inline int __syncthreads_and(int vote) { return __syncthreads_count(vote) == emulator::live; }

// Fibers change only at rendezvous points, so a plain update is atomic.
template <class T>
T atomicAdd(T* address, T value) {
  return std::exchange(*address, T(*address + value));
}
template <class T>
T atomicMin(T* address, T value) {
  return std::exchange(*address, std::min(*address, value));
}
template <class T>
T atomicMax(T* address, T value) {
  return std::exchange(*address, std::max(*address, value));
}
template <class T>
T atomicCAS(T* address, T wanted, T value) {
  return std::exchange(*address, *address == wanted ? value : *address);
}
