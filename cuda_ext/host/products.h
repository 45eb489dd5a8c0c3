/*
 out[n, m] = sum_k x[n, k] * w[m, k]: rows of activations times rows of a matrix as files keep it.

 One row of x reads each number of w once, in the order of memory, and is as quick as memory;
 many rows share each load. A sum goes over k in steps of LANES, whatever the number of rows.
 In int8, w is in whole numbers of one byte with a factor a row, x in whole numbers from 0 to 255
 around 128 with a factor a row; their products are added up exactly.
 Legend: N rows of x, M rows of w, K width of both, _s strides in elements.
*/
#pragma once
#include "lanes.h"

namespace {

#if defined(__AVX512F__)
constexpr int AT_ONCE = 6;  // rows of x, with four of w: 24 sums in 32 registers
#else
constexpr int AT_ONCE = 2;  // 8 in 16
#endif
constexpr int AHEAD = 2048;  // bytes of w that are asked for before they are needed
constexpr int ZERO = 128;    // what stands for zero in a byte without a sign

struct Out {
  float* at;       // (N, M)
  long stride;
  bool add;        // to what is there
  void put(int n, int m, int count, four found) const {
    float* p = at + n * stride + m;
    if (count == 4) *(loose_four*)p = add ? *(loose_four*)p + found : found;
    else
      for (int i = 0; i < count; i++) p[i] = add ? p[i] + found[i] : found[i];
  }
};

template <int R, class T>
static inline void four_rows(const float* x, long x_s, const T* const w[4], int K, int n, int m,
                             int count, const Out& out) {
  vec acc[R][4] = {};
  int k = 0;
  for (; k + LANES <= K; k += LANES) {
    vec b[4];
    for (int j = 0; j < 4; j++) {
      b[j] = load(w[j] + k);
      if (R == 1) __builtin_prefetch((const char*)(w[j] + k) + AHEAD);
    }
    for (int r = 0; r < R; r++) {
      vec a = load(x + r * x_s + k);
      for (int j = 0; j < 4; j++) acc[r][j] += a * b[j];
    }
  }
  if (k < K)
    for (int j = 0; j < 4; j++) {
      vec b = load_part(w[j] + k, K - k);
      for (int r = 0; r < R; r++) acc[r][j] += load_part(x + r * x_s + k, K - k) * b;
    }
  for (int r = 0; r < R; r++)
    out.put(n + r, m, count, sums(acc[r][0], acc[r][1], acc[r][2], acc[r][3]));
}

// Rows `m` to `end` of w, with all rows of x.
template <class T>
static void product(const float* x, long x_s, int N, const T* w, int K, int m, int end,
                    const Out& out) {
  for (int n = 0; n < N; n += AT_ONCE) {
    const float* a = x + n * x_s;
    for (int at = m; at < end; at += 4) {
      int count = end - at < 4 ? end - at : 4;
      const T* rows[4];
      for (int j = 0; j < 4; j++) rows[j] = w + (long)(at + (j < count ? j : 0)) * K;
      switch (N - n < AT_ONCE ? N - n : AT_ONCE) {
        case 1: four_rows<1>(a, x_s, rows, K, n, at, count, out); break;
        case 2: four_rows<2>(a, x_s, rows, K, n, at, count, out); break;
#if defined(__AVX512F__)
        case 3: four_rows<3>(a, x_s, rows, K, n, at, count, out); break;
        case 4: four_rows<4>(a, x_s, rows, K, n, at, count, out); break;
        case 5: four_rows<5>(a, x_s, rows, K, n, at, count, out); break;
        default: four_rows<6>(a, x_s, rows, K, n, at, count, out);
#endif
      }
    }
  }
}

// -- int8 --
//
// Sixteen rows of w lie beside each other, four numbers of each at a time (M / 16, K / 4, 16, 4),
// so that each lane adds up for a row of its own.

constexpr int ROWS = 16;             // of w that lie beside each other
constexpr int PER = ROWS / LANES;    // vectors of as many sums
#if defined(__AVX512F__)
constexpr int BLOCKS = 4;            // of ROWS, with AT_ONCE rows of x: 24 sums
#else
constexpr int BLOCKS = 1;
#endif

// Add to each lane the sum of four products of neighbouring bytes.
static inline whole dot(whole acc, whole x, const int8_t* w) {
#if defined(__AVX512VNNI__)
  return (whole)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)x, _mm512_loadu_si512(w));
#elif defined(__AVX2__)  // in 16 bits: the first and the third, and the second and the fourth
  __m256i b = _mm256_loadu_si256((const __m256i*)w), a = (__m256i)x;
  __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
  __m256i even = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(255)),
                                   _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8));
  return acc + (whole)_mm256_add_epi32(odd, even);
#else
  for (int i = 0; i < LANES; i++)
    for (int j = 0; j < 4; j++) acc[i] += (int32_t)((uint32_t)x[i] >> 8 * j & 255) * w[4 * i + j];
  return acc;
#endif
}

struct Bytes {             // activations
  const uint8_t* at;       // (N, K to whole fours)
  const float* scale;      // (N)
};

struct Whole {             // a matrix
  const int8_t* at;
  const float* scale;      // (M to whole ROWS)
  const int32_t* zero;     // (M to whole ROWS): 128 times the sum of each row
};

template <int R, int B>
static inline void blocks(const Bytes& x, const Whole& w, int K, int n, int m, int end,
                          const Out& out) {
  whole acc[R][B * PER] = {};
  const int8_t* rows = w.at + (long)m * K;
  for (int k = 0; k < K; k += 4) {
    whole a[R];
    for (int r = 0; r < R; r++) {
      int32_t four;
      memcpy(&four, x.at + (long)(n + r) * K + k, 4);
      a[r] = four - whole{};
    }
    for (int i = 0; i < B * PER; i++) {
      const int8_t* b = rows + (long)(i / PER) * ROWS * K + k * ROWS + i % PER * LANES * 4;
      for (int r = 0; r < R; r++) acc[r][i] = dot(acc[r][i], a[r], b);
    }
  }
  for (int r = 0; r < R; r++)
    for (int i = 0; i < B * PER; i++) {
      int at = m + i * LANES, count = end - at < LANES ? end - at : LANES;
      whole zero;
      memcpy(&zero, w.zero + at, sizeof zero);
      vec found = __builtin_convertvector(acc[r][i] - zero, vec) * load(w.scale + at) *
                  x.scale[n + r];
      float* p = out.at + (long)(n + r) * out.stride + at;
      if (count == LANES) store(p, out.add ? load(p) + found : found);
      else
        for (int j = 0; j < count; j++) p[j] = out.add ? p[j] + found[j] : found[j];
    }
}

template <int B>
static inline void blocks(const Bytes& x, int N, const Whole& w, int K, int m, int end,
                          const Out& out) {
  for (int n = 0; n < N; n += AT_ONCE) switch (N - n < AT_ONCE ? N - n : AT_ONCE) {
      case 1: blocks<1, B>(x, w, K, n, m, end, out); break;
      case 2: blocks<2, B>(x, w, K, n, m, end, out); break;
#if defined(__AVX512F__)
      case 3: blocks<3, B>(x, w, K, n, m, end, out); break;
      case 4: blocks<4, B>(x, w, K, n, m, end, out); break;
      case 5: blocks<5, B>(x, w, K, n, m, end, out); break;
      default: blocks<6, B>(x, w, K, n, m, end, out);
#endif
    }
}

// Rows `m` (a multiple of ROWS) to `end` of w, with all rows of x.
static void product(const Bytes& x, int N, const Whole& w, int K, int m, int end, const Out& out) {
  for (; m + BLOCKS * ROWS <= end; m += BLOCKS * ROWS) blocks<BLOCKS>(x, N, w, K, m, end, out);
  for (; m < end; m += ROWS) blocks<1>(x, N, w, K, m, end, out);
}

// A row in whole numbers around 128, and what one of them is worth: NaN, if one is not finite.
static inline float to_bytes(const float* x, int count, uint8_t* out, int padded) {
  vec most = {}, spoilt = {};
  int k = 0;
  for (; k + LANES <= count; k += LANES) {
    vec a = load(x + k);
    most = larger(most, larger(a, -a));
    spoilt += a * 0.0f;
  }
  float top = largest(most), spoils = sum(spoilt);
  for (; k < count; k++) {
    top = fabsf(x[k]) > top ? fabsf(x[k]) : top;
    spoils += x[k] * 0.0f;
  }
  if (spoils != 0) {
    memset(out, ZERO, padded);
    return NAN;
  }
  float worth = top / 127 + 1e-30f, share = 1 / worth;  // a row of zeros has a factor too
  for (k = 0; k < count; k++) out[k] = (uint8_t)(int)(x[k] * share + (ZERO + 0.5f));
  memset(out + count, 0, padded - count);
  return worth;
}

}  // namespace
