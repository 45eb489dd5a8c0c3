/*
 Threads that do one piece of work together: each runs the same function, takes shares of each
 part as it gets to them, and waits for the others between parts.

 They are made once, sleep between calls, and spin within one. A process that was forked makes
 its own.
*/
#pragma once
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

constexpr int SPINS = 4000;  // looks at a barrier before the processor is given to others

class Team {  // what the function of each thread is given
 public:
  Team(int size, int parts) : size(size), next(parts) {}

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

class Crew {
 public:
  // Run `work(thread)` on `size` threads, of which this is number 0.
  template <class F>
  void run(int size, F&& work) {
    std::unique_lock<std::mutex> only(busy);  // one call at a time
    if (owner != getpid()) forget();
    struct Job { F* f; } job{&work};
    {
      std::lock_guard<std::mutex> held(lock);
      call = [](void* j, int thread) { (*((Job*)j)->f)(thread); };
      data = &job, wanted = size, left = size - 1, round++;
      while ((int)threads.size() < size - 1) {
        int number = (int)threads.size() + 1;
        threads.push_back(new std::thread([this, number, seen = round - 1] { live(number, seen); }));
      }
    }
    if (size > 1) wake.notify_all();
    work(0);
    std::unique_lock<std::mutex> held(lock);
    done.wait(held, [&] { return left == 0; });
  }

 private:
  void live(int number, long seen) {
    for (;;) {
      std::unique_lock<std::mutex> held(lock);
      wake.wait(held, [&] { return round != seen; });
      seen = round;
      if (number >= wanted) continue;
      auto now = call;
      void* what = data;
      held.unlock();
      now(what, number);
      held.lock();
      if (--left == 0) done.notify_one();
    }
  }

  void forget() {  // the parent's threads are not here; what is left of them is let go
    new std::vector<std::thread*>(std::move(threads));
    threads = {};
    new (&lock) std::mutex;
    new (&wake) std::condition_variable;
    new (&done) std::condition_variable;
    owner = getpid();
  }

  std::mutex busy, lock;
  std::condition_variable wake, done;
  std::vector<std::thread*> threads;
  pid_t owner = getpid();
  void (*call)(void*, int) = nullptr;
  void* data = nullptr;
  int wanted = 0, left = 0;
  long round = 0;
};
