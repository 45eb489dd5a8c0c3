/*
 What a query may see: the keys up to its own, of its own document.

 The query at i sees the key at j when first[i] <= j <= i; by columns, the key at j is seen by
 the queries i with j <= i < end[j]. first and end only grow along a row, so those of a warp's
 first and last row tell whether a strip is hidden from all of its rows, open to all, or must be
 masked. Both are read anew for each strip: nvcc has no register to keep them in.
*/
#pragma once

constexpr float HIDDEN = -INFINITY;  // the score of a key that a query may not see

// The first key that a query sees.
DEVICE int first_key(const Problem& p, int batch, int query) {
  return p.first ? p.first[int64_t(batch) * p.length + min(query, p.length - 1)] : 0;
}

// One past the last query that sees a key.
DEVICE int end_query(const Problem& p, int batch, int key) {
  return p.end ? p.end[int64_t(batch) * p.length + min(key, p.length - 1)] : p.length;
}

// Hide the columns outside of [from, to), in one of a lane's rows.
DEVICE void keep_columns(float (&s)[STRIP / 8][4], int half, int strip, int from, int to) {
#pragma unroll
  for (int n = 0; n < STRIP / 8; n++)
#pragma unroll
    for (int e = 2 * half; e < 2 * half + 2; e++) {
      int column = strip + column_of(n, e);
      if (column < from || column >= to) s[n][e] = HIDDEN;
    }
}

// Hide from each query, a row of s, the keys of a strip that it may not see.
template <int M>
DEVICE void hide_keys(Scores<M>& s, const Problem& p, int batch, int start, int strip) {
  if (strip <= start - STRIP && strip >= first_key(p, batch, start + 16 * M - 1)) return;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int query = start + row_of(m, 2 * half);
      keep_columns(s[m], half, strip, first_key(p, batch, query), query + 1);
    }
}

// Hide from each key, a row of s, the queries of a strip that may not see it.
template <int M>
DEVICE void hide_queries(Scores<M>& s, const Problem& p, int batch, int start, int strip) {
  if (strip >= start + 16 * M - 1 && strip + STRIP <= end_query(p, batch, start)) return;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int key = start + row_of(m, 2 * half);
      keep_columns(s[m], half, strip, key, end_query(p, batch, key));
    }
}
