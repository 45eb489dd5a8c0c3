/*
 Weights in a file that is cut short while a model runs.

 The system has nothing to give then, and would end the process by SIGBUS, without a word. Here a
 page of zeros takes the place of each that is gone, and it is noted whose it was: what was being
 computed is soon done, and the caller throws it away and says why. What is not watched is not
 touched: whoever had the signal before has it again.
*/
#pragma once
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <mutex>

struct Span {              // memory that a file is mapped to
  std::atomic<char*> start{nullptr}, end{nullptr};
};

constexpr int SPANS = 4096;  // files mapped at a time, at most
static Span spans[SPANS];
static std::atomic<int> spans_used{0}, first_lost{-1};
static struct sigaction before_us;
static std::mutex spans_lock;

static void put_zeros(int number, siginfo_t* info, void*) {
  int error = errno;
  char* at = (char*)info->si_addr;
  for (int i = 0; i < spans_used; i++) {
    if (!(spans[i].start <= at && at < spans[i].end)) continue;
    size_t size = sysconf(_SC_PAGESIZE);
    void* page = (void*)((size_t)at / size * size);
    int how = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS;
    if (mmap(page, size, PROT_READ, how, -1, 0) == MAP_FAILED) break;
    int none = -1;
    first_lost.compare_exchange_strong(none, i);
    errno = error;
    return;
  }
  sigaction(number, &before_us, nullptr);  // it comes again, and ends the process
  errno = error;
}

// Give the number of a span that is watched from now on; -1 where there are too many.
static int watch_span(char* start, size_t length) {
  std::lock_guard<std::mutex> held(spans_lock);
  int i = 0;
  while (i < spans_used && spans[i].end) i++;
  if (i == SPANS) return -1;
  if (!spans_used) {
    struct sigaction ours = {};
    ours.sa_sigaction = put_zeros;
    ours.sa_flags = SA_SIGINFO;
    sigaction(SIGBUS, &ours, &before_us);
  }
  spans[i].start = start, spans[i].end = start + length;
  if (i == spans_used) spans_used++;
  return i;
}

static void forget_span(int i) {
  std::lock_guard<std::mutex> held(spans_lock);
  spans[i].end = nullptr, spans[i].start = nullptr;
  if (first_lost == i) first_lost = -1;
}
