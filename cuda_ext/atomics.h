/*
 dq by the kernel that owns keys. A block has only a part of each sum over keys; the parts are
 added in memory, with atomics, in whatever order blocks come to it.

 A tile's dS goes to shared memory, and all warps multiply it by the block's keys.
*/
#pragma once

// Write a strip's dS, keys by queries, where all warps can read it. A null s is all zeros.
template <class T>
DEVICE void share_scores(Element* scores, const Scores<1>* s, int column) {
#pragma unroll
  for (int n = 0; n < STRIP / 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      int row = 16 * warp() + row_of(0, e);
      Element* to = scores + place<TILE>(row, column / 8 + n) + 2 * (lane() % 4);
      *reinterpret_cast<uint32_t*>(to) = s ? T::pack((*s)[0][n][e], (*s)[0][n][e + 1]) : 0;
    }
}

// Add dS k of a tile of queries to the sums in memory: 16 queries and half of d to a warp.
// Of the block's keys only the first `seen` have been met by these queries.
template <class T, int D>
DEVICE void add_query_gradients(float* sums, const Element* scores, const Element* k, int tile,
                                int length, int seen) {
  const int query = 16 * (warp() % 4), half = warp() / 4;
  float c[D / 16][4] = {};
#pragma unroll 2
  for (int step = 0; step < seen / 16; step++) {
    int row = 16 * step + lane() % 8 + 8 * (lane() / 16), chunk = lane() / 8 % 2;
    Fragment a = load_matrices_transposed(scores + place<TILE>(row, chunk, query / 16));
#pragma unroll
    for (int n = 0; n < D / 32; n++) {
      Fragment b = load_matrices_transposed(
          k + 16 * step * D + place<D>(lane() % 16, lane() / 16, n + half * (D / 32)));
      T::mma(c[2 * n], a, b.word[0], b.word[1]);
      T::mma(c[2 * n + 1], a, b.word[2], b.word[3]);
    }
  }
#pragma unroll
  for (int e = 0; e < 4; e += 2) {
    int row = tile + query + row_of(0, e);
    if (row >= length) continue;
#pragma unroll
    for (int n = 0; n < D / 16; n++)
      add_pair(sums + int64_t(row) * D + half * (D / 2) + column_of(n, 0), c[n][e], c[n][e + 1]);
  }
}
