// What the kernels share: tasks on several threads, arithmetic without subnormal numbers, and memory without thousands of page
// faults.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#ifndef _OPENMP
#include <thread>
#include <vector>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif
#ifdef __SSE2__
#include <immintrin.h>
#endif

namespace {

// While it lives, this thread takes numbers below 1.2e-38 for 0. Weights and gradients fade exponentially along a ray and pass
// through that range, where every operation costs a processor a hundred cycles more.
class FlushSubnormals {
 public:
#if defined(__SSE2__)
  FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }  // results, operands
  ~FlushSubnormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__) && defined(__GNUC__)
  FlushSubnormals() {
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(before_));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(before_ | (uint64_t{1} << 24)));
  }
  ~FlushSubnormals() { __asm__ __volatile__("msr fpcr, %0" : : "r"(before_)); }

 private:
  uint64_t before_;
#endif
};

// Runs body(task) for every task, on at most `threads` threads; which thread runs a task never changes the result.
template <class Body>
void parallel_for(int64_t tasks, int threads, const Body& body) {
  if (threads <= 1 || tasks <= 1) {
    const FlushSubnormals flush;
    for (int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }
  std::atomic<int64_t> next{0};
  auto work = [&] {
    const FlushSubnormals flush;
    for (int64_t task; (task = next.fetch_add(1)) < tasks;) body(task);
  };
  const int team = static_cast<int>(std::min<int64_t>(threads, tasks));
#ifdef _OPENMP
  // Nothing but `parallel`: it is the one symbol asked of the OpenMP runtime that torch has already loaded.
#pragma omp parallel num_threads(team)
  work();
#else
  std::vector<std::thread> helpers;
  for (int i = 1; i < team; ++i) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
#endif
}

// Memory that is about to be written for the first time: asks for huge pages. The gradient of a full table takes 16 000
// faults in small pages, which costs more than the sums themselves. Only a hint: where it fails nothing changes.
inline void prefer_huge_pages(void* start, int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t huge = uintptr_t{1} << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(start) + huge - 1) / huge * huge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(start) + static_cast<uintptr_t>(bytes)) / huge * huge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)start;
  (void)bytes;
#endif
}

}  // namespace
