/*
 Threads that do one piece of work together: each runs the same function, takes shares of each
 part as it gets to them, and waits for the others between parts. Whose threads: crew.h.
*/
#pragma once
#include <sched.h>

#include <atomic>
#include <vector>

// By dispatch.cpp, for every variant.
int hire(int size);  // get threads ready: `size`, or as many as the system has
void together(int size, void (*work)(void*, int), void* data);  // size: what hire gave

namespace {

constexpr int SPINS = 4000;  // looks at a barrier before the processor is given to others

// Run `work(thread)` on `size` threads, of which this is number 0. It must not throw.
template <class F>
void on_threads(int size, F&& work) {
  struct Job { F* f; } job{&work};
  together(size, [](void* j, int thread) { (*((Job*)j)->f)(thread); }, &job);
}

class Team {  // what the function of each thread is given
 public:
  Team(int members, int parts) : size(members), next(parts) {}

  // Take shares of part `part`, numbered from 0 to `shares`, until none is left; then wait.
  template <class F>
  void share(int part, long shares, F&& work) {
    for (long i; (i = next[part].fetch_add(1, std::memory_order_relaxed)) < shares;) work(i);
    wait();
  }

  void wait() {
    if (size == 1) return;
    int mine = turn.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      arrived.store(0, std::memory_order_relaxed);
      turn.store(mine + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; turn.load(std::memory_order_acquire) == mine; spins++)
      if (spins > SPINS) sched_yield();
  }

  const int size;

 private:
  std::vector<std::atomic<long>> next;
  std::atomic<int> arrived{0}, turn{0};
};

}  // namespace
