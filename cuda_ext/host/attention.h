/*
 Causal attention of new tokens to what a row holds, in pages.

 A page has the keys and values of PAGE places, for each layer and each head of keys: keys with
 the places beside each other (D, PAGE), values with a place's numbers beside each other
 (PAGE, D padded). A row is a list of pages, so rows that begin alike can have the same ones.
 Scores are added up over D in order, and values over places in order, whatever else is computed:
 a token's result depends on its row only. Rabe & Staats, 2021, https://arxiv.org/abs/2112.05682,
 for what need not be stored. Legend: D head width, Q queries that share keys.
*/
#pragma once
#include "lanes.h"

namespace {

constexpr int PAGE = 16;
constexpr int PARTS = PAGE / LANES;  // vectors of a page's places
constexpr int TOGETHER = 8;          // queries at most

struct Head {
  float* const* pages;  // of the row
  long offset;          // of this layer and head in a page
  int width;            // D
  int padded;           // D, to whole vectors
  float* keys(int page) const { return pages[page] + offset; }
  float* values(int page) const { return keys(page) + (long)width * PAGE; }
};

static inline long head_floats(int width, int padded) { return (long)PAGE * (width + padded); }

// Scores of Q queries with the places of P pages that follow each other.
template <int Q, int P>
static inline void score(const Head& head, const float* const q[], int page, float scale,
                         float* scores, long scores_s) {
  vec acc[Q][P * PARTS] = {};
  const float* keys[P];
  for (int p = 0; p < P; p++) keys[p] = head.keys(page + p);
  for (int d = 0; d < head.width; d++)
    for (int j = 0; j < P * PARTS; j++) {
      vec k = load(keys[j / PARTS] + d * PAGE + j % PARTS * LANES);
      for (int i = 0; i < Q; i++) acc[i][j] += all(q[i][d]) * k;
    }
  for (int i = 0; i < Q; i++)
    for (int j = 0; j < P * PARTS; j++)
      store(scores + i * scores_s + page * PAGE + j * LANES, acc[i][j] * scale);
}

// Turn the scores of places up to `last` into e^(score - largest), and give their sum.
static inline float weigh(float* scores, int last, int pages) {
  for (int t = last + 1; t < pages * PAGE; t++) scores[t] = -INFINITY;
  vec top = load(scores), total = {};
  for (int t = LANES; t < pages * PAGE; t += LANES) top = larger(top, load(scores + t));
  const float most = largest(top);
  for (int t = 0; t < pages * PAGE; t += LANES) {
    vec weight = exponential(load(scores + t) - most);
    store(scores + t, weight);
    total += weight;
  }
  return sum(total);
}

template <int Q, int V>
static inline void mix(const Head& head, const float* scores, long scores_s, int places, int d,
                       const float* share, float* const out[], int room) {
  vec acc[Q][V] = {};
  for (int t = 0; t < places; t++) {
    const float* v = head.values(t / PAGE) + (long)(t % PAGE) * head.padded + d;
    vec row[V];
    for (int j = 0; j < V; j++) row[j] = load(v + j * LANES);
    for (int i = 0; i < Q; i++) {
      vec weight = all(scores[i * scores_s + t]);
      for (int j = 0; j < V; j++) acc[i][j] += weight * row[j];
    }
  }
  for (int i = 0; i < Q; i++)
    for (int j = 0; j < V; j++) {
      vec found = acc[i][j] * share[i];
      int count = room - j * LANES < LANES ? room - j * LANES : LANES;
      if (count == LANES) store(out[i] + d + j * LANES, found);
      else if (count > 0) memcpy(out[i] + d + j * LANES, &found, 4 * count);
    }
}

template <int Q>
static void mixed(const Head& head, const float* scores, long scores_s, int places,
                  const float* share, float* const out[]) {
  int d = 0;
  for (; d + 4 * LANES <= head.padded; d += 4 * LANES)
    mix<Q, 4>(head, scores, scores_s, places, d, share, out, head.width - d);
  for (; d < head.padded; d += LANES)
    mix<Q, 1>(head, scores, scores_s, places, d, share, out, head.width - d);
}

// Q queries of one row at places last[0] <= last[1] ...; `scores` has room for Q times scores_s.
template <int Q>
static void attend(const Head& head, const float* const q[], const int last[], float scale,
                   float* scores, long scores_s, float* const out[]) {
  int pages = last[Q - 1] / PAGE + 1;
  constexpr int P = Q == 1 ? 4 : Q <= 4 ? 2 : 1;  // to have sums enough under way
  int page = 0;
  for (; page + P <= pages; page += P) score<Q, P>(head, q, page, scale, scores, scores_s);
  for (; page < pages; page++) score<Q, 1>(head, q, page, scale, scores, scores_s);
  float share[Q];
  for (int i = 0; i < Q; i++) share[i] = 1 / weigh(scores + i * scores_s, last[i], pages);
  constexpr int HALF = Q > 4 ? Q / 2 : Q;  // as many sums as there are registers for
  for (int i = 0; i < Q; i += HALF)
    mixed<HALF>(head, scores + i * scores_s, scores_s, last[i + HALF - 1] + 1, share + i, out + i);
}

static void attend(const Head& head, int count, const float* const q[], const int last[],
                   float scale, float* scores, long scores_s, float* const out[]) {
  for (int i = 0; i < count;) {
    int left = count - i, take = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    switch (take) {
      case 8: attend<8>(head, q + i, last + i, scale, scores, scores_s, out + i); break;
      case 4: attend<4>(head, q + i, last + i, scale, scores, scores_s, out + i); break;
      case 2: attend<2>(head, q + i, last + i, scale, scores, scores_s, out + i); break;
      default: attend<1>(head, q + i, last + i, scale, scores, scores_s, out + i);
    }
    i += take;
  }
}

}  // namespace
