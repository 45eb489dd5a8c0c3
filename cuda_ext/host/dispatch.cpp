// The plain C interface: the variant that this processor runs best, found once.
#include "problem.h"

#define VARIANTS(F) F(avx512) F(avx2) F(base)

#define DECLARE(name)                                                                   \
  void run_##name(const Model*, const Step*, int) __attribute__((weak));                \
  void logits_##name(const Model*, const float*, int, float*, int) __attribute__((weak)); \
  void summary_##name(const float*, int, int, int32_t*, float*, int) __attribute__((weak));

extern "C" {
VARIANTS(DECLARE)

static int widest() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (run_avx512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni"))
    return 2;
  if (run_avx2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    return 1;
#endif
  return 0;
}

static int variant = -1;

#define PUBLIC __attribute__((visibility("default")))
#define CALL(what, ...)                                          \
  switch (llama_host_variant()) {                                \
    case 2: return what##_avx512(__VA_ARGS__);                   \
    case 1: return what##_avx2(__VA_ARGS__);                     \
    default: return what##_base(__VA_ARGS__);                    \
  }

PUBLIC int llama_host_version() { return 1; }

PUBLIC int llama_host_variant() { return variant < 0 ? variant = widest() : variant; }

// For tests: run a narrower one. False where this processor, or the library, has none such.
PUBLIC int llama_host_choose(int which) {
  if (which < 0 || which > widest()) return 0;
  variant = which;
  return 1;
}

PUBLIC void llama_host_run(const Model* model, const Step* step, int threads) {
  CALL(run, model, step, threads)
}

PUBLIC void llama_host_logits(const Model* model, const float* states, int count, float* out,
                              int threads) {
  CALL(logits, model, states, count, out, threads)
}

PUBLIC void llama_host_summary(const float* logits, int count, int V, int32_t* best, float* total,
                               int threads) {
  CALL(summary, logits, count, V, best, total, threads)
}
}
