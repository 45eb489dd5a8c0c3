/*
 Threads that are made once, sleep between calls, and work together within one (team.h).

 There is one crew a process (dispatch.cpp). It is never ended: its threads may outlive main.
*/
#pragma once
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

class Crew {
 public:
  // Have `size` threads, the caller's among them, or as many as the system gives: how many.
  int hire(int size) {
    std::lock_guard<std::mutex> held(lock);
    try {
      for (; hired < size - 1; hired++)
        std::thread([this, number = hired + 1, seen = round] { live(number, seen); }).detach();
    } catch (const std::exception&) {  // no more threads, or no memory for them: those there are
    }
    return size <= hired ? size : hired + 1;
  }

  void run(int size, void (*work)(void*, int), void* with) {
    std::unique_lock<std::mutex> only(busy);  // one call at a time
    {
      std::lock_guard<std::mutex> held(lock);
      call = work, data = with, wanted = size, left = size - 1, round++;
    }
    if (size > 1) wake.notify_all();
    work(with, 0);
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
      void* with = data;
      held.unlock();
      now(with, number);
      held.lock();
      if (--left == 0) done.notify_one();
    }
  }

  std::mutex busy, lock;  // a call holds `busy` throughout; `lock` is for what is below
  std::condition_variable wake, done;
  void (*call)(void*, int) = nullptr;
  void* data = nullptr;
  int hired = 0, wanted = 0, left = 0;
  long round = 0;
};
