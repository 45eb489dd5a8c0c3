/*
 The numerically delicate part: softmax over a row that is seen one tile at a time.

 Forward (Milakov & Gimelshein 2018; Rabe & Staats 2021): keep the largest score so far and the
 sum of exp(score - largest); when the largest grows, shrink what was summed before. Nothing
 overflows, and at the end lse = largest + log(sum) is all the backward needs:
 exp(score - lse) is the probability itself, never above one.

 Exponentials are of two (one instruction): exp(x) = 2^(x log2 e), with log2 e folded into the
 scale. Scores stay raw; scale enters in the one fma before each exponential.
*/
#pragma once

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float HIDDEN = -INFINITY;  // the score of a key that a query may not see

// Hide later keys. Both tiles are the same one, so places within it compare directly.
DEVICE void hide_later_keys(Scores& s, bool rows_are_queries) {
#pragma unroll
  for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int row = row_of(e), column = column_of(n, e);
      if (rows_are_queries ? column > row : row > column) s[n][e] = HIDDEN;
    }
}

// Sums over the four lanes that share a row.
DEVICE float row_sum(float x) {
  x += lane_xor(x, 1);
  return x + lane_xor(x, 2);
}

DEVICE float row_max(float x) {
  x = fmaxf(x, lane_xor(x, 1));
  return fmaxf(x, lane_xor(x, 2));
}

// The state of a lane's two rows. Each lane sums its own columns; `row_sum` joins them once,
// at the end.
struct Softmax {
  float largest[2] = {HIDDEN, HIDDEN};
  float sum[2] = {0, 0};

  // Turn a tile's scores into exp(score - largest), and bring `weighted` to the new largest.
  // Every row sees at least one key in the first tile it meets, so largest is finite.
  template <int COLUMNS>
  DEVICE void update(Scores& s, float (&weighted)[COLUMNS][4], float scale_log2) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float before = largest[half], now = before;
#pragma unroll
      for (int n = 0; n < ROWS / 8; n++)
        now = fmaxf(now, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
      now = row_max(now);
      float shrink = fast_exp2((before - now) * scale_log2), added = 0;
#pragma unroll
      for (int n = 0; n < ROWS / 8; n++)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++)
          added += s[n][e] = fast_exp2(fmaf(s[n][e], scale_log2, -now * scale_log2));
#pragma unroll
      for (int n = 0; n < COLUMNS; n++) {
        weighted[n][2 * half] *= shrink;
        weighted[n][2 * half + 1] *= shrink;
      }
      sum[half] = sum[half] * shrink + added;
      largest[half] = now;
    }
  }
};

// A probability again, from its score and the row's lse.
DEVICE float probability(float score, float scale_log2, float lse) {
  return fast_exp2(fmaf(score, scale_log2, -lse * LOG2_E));
}
