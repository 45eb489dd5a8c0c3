/*
 The plain C interface: the variant that this processor runs best, found once.

 What can fail says so: 0 when done, 1 where there is not enough memory, 2 where weights have
 gone from their file (lost.h). Only what every processor has is here, since it runs when the
 library is opened.
*/
#include <pthread.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <atomic>

#include "crew.h"
#include "lost.h"
#include "problem.h"
#include "team.h"

#define VARIANTS(F) F(avx512) F(avx2) F(base)

#define DECLARE(name)                                                                   \
  void run_##name(const Model*, const Step*, int) __attribute__((weak));                \
  void narrow_##name(const Matrix*, int8_t*, float*, int32_t*, int) __attribute__((weak)); \
  void logits_##name(const Model*, const float*, int, float*, int) __attribute__((weak)); \
  void summary_##name(const float*, int, int, int32_t*, float*, int) __attribute__((weak));

// A process that was forked has none of its parent's threads, and a lock may have been held.
static Crew* fresh() { return new Crew; }
static Crew* crew = (pthread_atfork(nullptr, nullptr, [] { crew = fresh(); }), fresh());

int hire(int size) { return crew->hire(size); }
void together(int size, void (*work)(void*, int), void* data) { crew->run(size, work, data); }

extern "C" {
VARIANTS(DECLARE)

#if defined(__x86_64__)
static bool has_f16c() {  // which __builtin_cpu_supports knows since GCC 11 only
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

static int widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (run_avx512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni"))
    return 2;
  if (run_avx2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      has_f16c())
    return 1;
#endif
  return 0;
}

static std::atomic<int> variant{-1};

#define PUBLIC __attribute__((visibility("default")))
#define CALL(what, ...)                             \
  try {                                             \
    switch (llama_host_variant()) {                 \
      case 2: what##_avx512(__VA_ARGS__); break;    \
      case 1: what##_avx2(__VA_ARGS__); break;      \
      default: what##_base(__VA_ARGS__); break;     \
    }                                               \
    return first_lost < 0 ? 0 : 2;                  \
  } catch (const std::exception&) {                 \
    return 1;                                       \
  }

PUBLIC int llama_host_version() { return 4; }

PUBLIC int llama_host_variant() {
  if (variant < 0) variant = widest();
  return variant;
}

// For tests: run a narrower one. False where this processor, or the library, has none such.
PUBLIC int llama_host_choose(int which) {
  if (which < 0 || which > widest()) return 0;
  variant = which;
  return 1;
}

PUBLIC int llama_host_watch(char* start, size_t length) { return watch_span(start, length); }

PUBLIC void llama_host_forget(int span) { forget_span(span); }

// The span of which the first page was lost; -1 while there is none.
PUBLIC int llama_host_lost() { return first_lost; }

PUBLIC int llama_host_run(const Model* model, const Step* step, int threads) {
  CALL(run, model, step, hire(threads))
}

PUBLIC int llama_host_logits(const Model* model, const float* states, int count, float* out,
                             int threads) {
  CALL(logits, model, states, count, out, hire(threads))
}

PUBLIC int llama_host_summary(const float* logits, int count, int V, int32_t* best, float* total,
                              int threads) {
  CALL(summary, logits, count, V, best, total, hire(threads))
}

PUBLIC int llama_host_narrow(const Matrix* from, int8_t* out, float* scale, int32_t* zero,
                             int threads) {
  CALL(narrow, from, out, scale, zero, hire(threads))
}
}
