/*
 Vectors of fp32, as wide as the processor this file is compiled for has them, and what is made
 of them: loads from fp32, bf16 and fp16, sums across lanes, and the exponential.

 LANES is 16 with AVX-512, 8 with AVX2, else 4 (NEON, SSE). Sums over K always go lane by lane,
 then across lanes in one order, so that a result never depends on what is computed beside it.

 This and every header of a variant is in a namespace without a name: what has one is kept once
 by the linker, which would give AVX2 the code that was compiled for AVX-512.
*/
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t whole __attribute__((vector_size(4 * LANES)));

// Kinds of stored numbers.
struct bf16 { uint16_t bits; };
struct fp16 { uint16_t bits; };

static inline vec all(float x) { return x - vec{}; }
static inline vec load(const float* p) { return *(const loose*)p; }
static inline void store(float* p, vec x) { *(loose*)p = x; }

static inline vec load(const bf16* p) {
#if defined(__AVX512F__)
  __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return (vec)_mm512_slli_epi32(bits, 16);
#elif defined(__AVX2__)
  __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return (vec)_mm256_slli_epi32(bits, 16);
#else
  whole bits;
  for (int i = 0; i < LANES; i++) bits[i] = (int32_t)((uint32_t)p[i].bits << 16);
  return (vec)bits;
#endif
}

static inline vec load(const fp16* p) {
#if defined(__AVX512F__)
  return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
  return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  vec out;
  for (int i = 0; i < LANES; i++) {  // a half's exponent is 112 less; denormals by the product
    uint32_t h = p[i].bits, bits = (h & 0x8000u) << 16 | (h & 0x7fffu) << 13;
    float x;
    memcpy(&x, &bits, 4);
    out[i] = (h & 0x7c00u) == 0x7c00u ? (h & 0x3ffu ? NAN : (h >> 15 ? -INFINITY : INFINITY))
                                      : x * 0x1p112f;
  }
  return out;
#endif
}

// The first `count` of a vector, and zeros: nothing beyond them is read.
template <class T>
static inline vec load_part(const T* p, int count) {
  alignas(64) T part[LANES] = {};
  memcpy(part, p, count * sizeof(T));
  return load((const T*)part);
}

// Add up each of four vectors.
typedef float four __attribute__((vector_size(16)));
typedef float loose_four __attribute__((vector_size(16), aligned(4), may_alias));

static inline four sums(vec a, vec b, vec c, vec d) {
#if defined(__AVX512F__)
  __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps((__m512)a, (__m512)b),
                            _mm512_unpackhi_ps((__m512)a, (__m512)b));
  __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps((__m512)c, (__m512)d),
                            _mm512_unpackhi_ps((__m512)c, (__m512)d));
  __m512 all = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all),
                              _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(all), 1)));
  return (four)_mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
#elif defined(__AVX2__)
  __m256 ab = _mm256_hadd_ps((__m256)a, (__m256)b), cd = _mm256_hadd_ps((__m256)c, (__m256)d);
  __m256 all = _mm256_hadd_ps(ab, cd);
  return (four)_mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
#else
  const vec each[4] = {a, b, c, d};
  four out;
  for (int i = 0; i < 4; i++) out[i] = (each[i][0] + each[i][2]) + (each[i][1] + each[i][3]);
  return out;
#endif
}

static inline float sum(vec a) { return sums(a, a, a, a)[0]; }

static inline vec larger(vec a, vec b) { return a > b ? a : b; }

static inline float largest(vec a) {
  float out = a[0];
  for (int i = 1; i < LANES; i++) out = a[i] > out ? a[i] : out;
  return out;
}

// e^x to 2 units in the last place; under -87 it is 0, over 88.3 infinite, of NaN NaN.
// x = n ln 2 + r with r within half of ln 2, and e^r by its Taylor series to the seventh power.
static inline vec exponential(vec x) {
  const vec lowest = all(-87.0f), highest = all(88.7f);  // n is -126 to 128
  const vec magic = all(12582912.0f);                    // 1.5 * 2^23: rounds what is added
  vec clipped = x < lowest ? lowest : x > highest ? highest : x;
  vec n = (clipped * 1.44269504088896341f + magic) - magic;
  vec r = clipped - n * 0.693359375f;  // ln 2 in two parts, the first exact in nine bits
  r = r + n * 2.12194440e-4f;
  vec p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  whole power = (__builtin_convertvector(n, whole) + 127) << 23;
  vec out = p * (vec)power;
  return x < lowest ? vec{} : out;
}

}  // namespace
