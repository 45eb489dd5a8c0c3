/*
 The numerically delicate part: softmax over a row that is seen one strip at a time.

 Forward (Milakov & Gimelshein 2018; Rabe & Staats 2021): keep a reference near the largest score
 so far and the sum of exp(score - reference); when the reference moves, shrink what was summed
 before. Nothing overflows, and at the end lse = reference + log(sum) is all the backward needs:
 exp(score - lse) is the probability itself, never above one.

 The reference need not be the largest score, only close: it moves when some score of the warp
 exceeds it by SLACK (a factor of 256), which after the first strips is seldom. At d = 128 a move
 multiplies 128 registers a lane, on an A100 as many cycles as a strip's exponentials. Relative
 precision is the same; sums stay below 256 L in fp32.

 Exponentials are of two (one instruction): exp(x) = 2^(x log2 e), with log2 e folded into the
 scale. Scores stay raw; scale enters in the one fma before each exponential.
*/
#pragma once

constexpr float LOG2_E = 1.4426950408889634f;
constexpr float SLACK = 8;  // in powers of two; ours

// Sums over the four lanes that share a row.
DEVICE float row_sum(float x) {
  x += lane_xor(x, 1);
  return x + lane_xor(x, 2);
}

DEVICE float row_max(float x) {
  x = fmaxf(x, lane_xor(x, 1));
  return fmaxf(x, lane_xor(x, 2));
}

// The state of a lane's rows, two for each m. Each lane sums its own columns; `row_sum` joins
// them once, at the end.
template <int M>
struct Softmax {
  float reference[M][2], sum[M][2];

  DEVICE Softmax() {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) reference[m][half] = HIDDEN, sum[m][half] = 0;
  }

  // Turn a strip's scores into exp(score - reference); `weighted` follows the reference.
  template <int COLUMNS>
  DEVICE void update(Scores<M>& s, float (&weighted)[M][COLUMNS][4], float scale_log2) {
    float largest[M][2];
    bool move = false;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float now = HIDDEN;
#pragma unroll
        for (int n = 0; n < STRIP / 8; n++)
          now = fmaxf(now, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
        largest[m][half] = row_max(now);
        move |= (largest[m][half] - reference[m][half]) * scale_log2 > SLACK;
      }
    if (any_lane(move)) follow(largest, weighted, scale_log2);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float bias = -shift(reference[m][half]) * scale_log2;
#pragma unroll
        for (int n = 0; n < STRIP / 8; n++)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; e++)
            sum[m][half] += s[m][n][e] = fast_exp2(fmaf(s[m][n][e], scale_log2, bias));
      }
  }

  // Move every reference up to the largest score, and shrink what was summed before.
  template <int COLUMNS>
  DEVICE void follow(const float (&largest)[M][2], float (&weighted)[M][COLUMNS][4],
                     float scale_log2) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float now = fmaxf(reference[m][half], largest[m][half]);
        float shrink = fast_exp2((reference[m][half] - shift(now)) * scale_log2);
#pragma unroll
        for (int n = 0; n < COLUMNS; n++) {
          weighted[m][n][2 * half] *= shrink;
          weighted[m][n][2 * half + 1] *= shrink;
        }
        sum[m][half] *= shrink;
        reference[m][half] = now;
      }
  }

  // What is taken off the scores. A row that has seen no key yet, because its document begins
  // later, has no reference: infinity minus infinity would be no number.
  DEVICE static float shift(float reference) { return reference == HIDDEN ? 0 : reference; }
};

// A probability again, from its score and the row's lse.
DEVICE float probability(float score, float scale_log2, float lse) {
  return fast_exp2(fmaf(score, scale_log2, -lse * LOG2_E));
}
