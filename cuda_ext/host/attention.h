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

// Add the values of places `from` to `to` to what `out` has of earlier ones, each with its weight,
// and multiply by `share` where nothing follows.
template <int Q, int V>
static inline void mix(const Head& head, const float* scores, long scores_s, int from, int to,
                       int d, const float* share, float* const out[], int room) {
  vec acc[Q][V] = {};
  int counts[V];
  for (int j = 0; j < V; j++) {
    const int left = room - j * LANES;
    counts[j] = left < 0 ? 0 : left < LANES ? left : LANES;
    if (from)
      for (int i = 0; i < Q; i++) acc[i][j] = load_part(out[i] + d + j * LANES, counts[j]);
  }
  for (int t = from; t < to; t++) {
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
      vec found = share ? acc[i][j] * share[i] : acc[i][j];
      if (counts[j] == LANES) store(out[i] + d + j * LANES, found);
      else memcpy(out[i] + d + j * LANES, &found, 4 * counts[j]);
    }
}

template <int Q>
static void mixed(const Head& head, const float* scores, long scores_s, int from, int to,
                  const float* share, float* const out[]) {
  int d = 0;
  for (; d + 4 * LANES <= head.padded; d += 4 * LANES)
    mix<Q, 4>(head, scores, scores_s, from, to, d, share, out, head.width - d);
  for (; d < head.padded; d += LANES)
    mix<Q, 1>(head, scores, scores_s, from, to, d, share, out, head.width - d);
}

template <int Q>
static inline void score_pages(const Head& head, const float* const q[], int page, int end,
                               float scale, float* scores, long scores_s) {
  constexpr int P = Q == 1 ? 4 : Q <= 4 ? 2 : 1;  // to have sums enough under way
  for (; page + P <= end; page += P) score<Q, P>(head, q, page, scale, scores, scores_s);
  for (; page < end; page++) score<Q, 1>(head, q, page, scale, scores, scores_s);
}

// Q queries at the places `last`: neighbours of one row, in order, or of rows that have the first
// `common` pages in common, all before their places. `scores` has room for Q times scores_s.
template <int Q>
static void attend(const Head* heads, int common, const float* const q[], const int last[],
                   float scale, float* scores, long scores_s, float* const out[]) {
  const int most = last[Q - 1] / PAGE + 1, shared = common < most ? common : most;
  const int places = shared * PAGE;
  const bool apart = last[0] >= places;  // then each goes on by itself
  float share[Q];
  score_pages<Q>(heads[0], q, 0, shared, scale, scores, scores_s);
  for (int i = 0; i < Q; i++) {
    float* own = scores + i * scores_s;
    const int pages = apart ? last[i] / PAGE + 1 : shared;
    score_pages<1>(heads[i], q + i, shared, pages, scale, own, scores_s);
    share[i] = 1 / weigh(own, last[i], pages);
  }
  constexpr int HALF = Q > 4 ? Q / 2 : Q;  // as many sums as there are registers for
  for (int i = 0; i < Q; i += HALF) {
    const int end = last[i + HALF - 1] + 1, to = end < places ? end : places;
    mixed<HALF>(heads[0], scores + i * scores_s, scores_s, 0, to, apart ? nullptr : share + i,
                out + i);
  }
  for (int i = 0; apart && i < Q; i++)
    mixed<1>(heads[i], scores + i * scores_s, scores_s, places, last[i] + 1, share + i, out + i);
}

static void attend(const Head* heads, int count, int common, const float* const q[],
                   const int last[], float scale, float* scores, long scores_s,
                   float* const out[]) {
  for (int i = 0; i < count;) {
    int left = count - i, take = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    switch (take) {
      case 8:
        attend<8>(heads + i, common, q + i, last + i, scale, scores, scores_s, out + i);
        break;
      case 4:
        attend<4>(heads + i, common, q + i, last + i, scale, scores, scores_s, out + i);
        break;
      case 2:
        attend<2>(heads + i, common, q + i, last + i, scale, scores, scores_s, out + i);
        break;
      default:
        attend<1>(heads + i, common, q + i, last + i, scale, scores, scores_s, out + i);
    }
    i += take;
  }
}

}  // namespace
