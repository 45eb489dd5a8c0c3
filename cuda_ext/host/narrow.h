/*
 A matrix in eight bits, made from one in fp32, bf16 or fp16 (products.h has its order).

 What one is worth in a row is a 127th of the row's largest, or NaN if one is not finite. Numbers
 are rounded to the nearest, to the even one of two, as NumPy's rint does.
*/
#pragma once
#include "lanes.h"
#include "problem.h"
#include "products.h"

namespace {

constexpr float SMALLEST = 1e-30f;  // instead of nothing, to divide by
// 1.5 * 2^23: added to a number, it leaves no bits for what is behind the point
constexpr float ROUNDS = 12582912.0f;

// One row, in bytes beside those of the other fifteen; gives their sum, and what one is worth.
template <class T>
static inline int row_to_bytes(const T* w, int K, int8_t* out, float* worth) {
  vec most = {}, spoilt = {};
  for (int k = 0; k < K; k += LANES) {
    vec a = K - k < LANES ? load_part(w + k, K - k) : load(w + k);
    most = larger(most, larger(a, -a));
    spoilt += a * 0.0f;
  }
  float top = largest(most), spoils = sum(spoilt);
  *worth = spoils == 0 ? (top > SMALLEST ? top : SMALLEST) / 127 : NAN;
  if (spoils != 0) return 0;
  whole added = {};
  for (int k = 0; k < K; k += LANES) {
    vec a = K - k < LANES ? load_part(w + k, K - k) : load(w + k);
    whole q = (whole)(a / *worth + ROUNDS) - (whole)all(ROUNDS);
    added += q;
    for (int i = 0; i < LANES && k + i < K; i += 4) {
      uint32_t word = 0;
      for (int j = 0; j < 4; j++) word |= (uint32_t)(q[i + j] & 255) << 8 * j;
      memcpy(out + (long)(k + i) * ROWS, &word, 4);
    }
  }
  int total = 0;
  for (int i = 0; i < LANES; i++) total += added[i];
  return total;
}

// Sixteen rows of `w` from row `m` on, of which some may not be there; `out` is of zeros.
template <class T>
static void rows_to_bytes(const T* w, int rows, int K, int m, int8_t* out, float* scale,
                          int32_t* zero) {
  long padded = (K + 3) / 4 * 4;
  for (int r = m; r < m + ROWS && r < rows; r++) {
    int8_t* beside = out + (long)m * padded + 4 * (r - m);
    zero[r] = ZERO * row_to_bytes(w + (long)r * K, K, beside, scale + r);
  }
}

static void rows_to_bytes(const Matrix& w, int m, int8_t* out, float* scale, int32_t* zero) {
  switch (w.kind) {
    case FP32: return rows_to_bytes((const float*)w.at, w.rows, w.width, m, out, scale, zero);
    case BF16: return rows_to_bytes((const bf16*)w.at, w.rows, w.width, m, out, scale, zero);
    default: return rows_to_bytes((const fp16*)w.at, w.rows, w.width, m, out, scale, zero);
  }
}

}  // namespace
