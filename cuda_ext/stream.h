/*
 Rows on their way to shared memory: a block's own once, the others tile by tile.

 There is room for two tiles of each matrix that streams by: one is in use while the next is on its
 way. The two loops here hold the waits and barriers that this takes; what is done with a strip
 is the caller's.
*/
#pragma once

// Shared memory of two streams, two tiles each: one in use, one on its way.
template <int D>
constexpr int STREAM_BYTES = 4 * TILE * D * sizeof(Element);

// Start copying ROWS rows, from row `start` on, to shared memory. Rows beyond the sequence
// become zeros. A thread's rows lie a multiple of eight apart, so its swizzle is always the same.
// A Matrix instead of pointer and stride would cost the forward a register that it has not.
template <int D, int THREADS, int ROWS = TILE>
DEVICE void fetch(Element* to, const Element* rows, int64_t stride, int start, int length) {
  constexpr int CHUNKS = D / 8, STEP = THREADS / CHUNKS;
  static_assert(STEP % 8 == 0 && ROWS % STEP == 0);
  const unsigned thread = thread_anew();
  const int row = thread / CHUNKS, chunk = thread % CHUNKS;
  to += place<D>(row, chunk);
  rows += (start + row) * stride + 8 * chunk;
#pragma unroll
  for (int more = 0; more < ROWS; more += STEP, rows += STEP * stride)
    copy_async<16>(to + more * D, rows, start + row + more < length);
}

// Start copying a tile's lse or delta. Zeros beyond the sequence do no harm: q and grad_out are
// zero there as well, and so is all that comes of them.
DEVICE void fetch_statistics(float* to, const float* from, int start, int length) {
  int i = thread_anew(), query = start + i;
  if (i < TILE) copy_async<4>(to + i, from + query, query < length);
}

// Wait until all that any thread of the block has fetched is here.
DEVICE void wait_for_all() {
  wait_copies();
  __syncthreads();
}

// Call `each_strip` for the strips of keys that some query of this warp sees, with a strip's first
// row in the sequence, and in k and v. The block's queries begin at `mine`, the warp's at `start`.
template <int D, int THREADS, int ROWS, class EachStrip>
DEVICE void stream_keys(const Problem& p, int mine, int start, Element* k, Element* v,
                        EachStrip each_strip) {
  const int batch = blockIdx.y, key_head = blockIdx.x / (p.heads / p.key_heads);
  const Element *keys = rows_of(p.k, batch, key_head), *values = rows_of(p.v, batch, key_head);
  auto fetch_keys = [&](int tile) {
    const int turn = tile % (2 * TILE) * D;
    fetch<D, THREADS>(k + turn, keys, p.k.row, tile, p.length);
    fetch<D, THREADS>(v + turn, values, p.v.row, tile, p.length);
  };
  const int begin = first_key(p, batch, mine) / TILE * TILE;
  const int last = min(mine + ROWS, p.length) - 1;
  fetch_keys(begin);
#pragma unroll 1
  for (int strip = begin; strip <= last; strip += STRIP) {
    if (strip % TILE == 0) {
      wait_for_all();  // these keys are here, and nobody reads those before them any more
      if (strip + TILE <= last) fetch_keys(strip + TILE);
    }
    if (strip > start || strip + STRIP <= first_key(p, batch, start)) continue;
    each_strip(strip, strip % (2 * TILE));
  }
}

// Call `each_strip` for the strips of queries that see some key of this block, which begins at
// `mine`, of every head that reads them; and `each_tile` after the two strips of a tile.
template <int D, int THREADS, int ROWS, class EachStrip, class EachTile>
DEVICE void stream_queries(const Problem& p, int mine, Element* q, Element* grad_out, float* lse,
                           float* delta, EachStrip each_strip, EachTile each_tile) {
  const int batch = blockIdx.y, group = p.heads / p.key_heads, first_head = blockIdx.x * group;
  auto fetch_queries = [&](int head, int tile, int turn) {
    const int64_t statistics = statistics_of(p, batch, head);
    fetch<D, THREADS>(q + turn * D, rows_of(p.q, batch, head), p.q.row, tile, p.length);
    fetch<D, THREADS>(grad_out + turn * D, rows_of(p.grad_out, batch, head), p.grad_out.row, tile,
                      p.length);
    fetch_statistics(lse + turn, p.lse + statistics, tile, p.length);
    fetch_statistics(delta + turn, p.delta + statistics, tile, p.length);
  };
  const int last = end_query(p, batch, mine + ROWS - 1) - 1;
  fetch_queries(first_head, mine, 0);
#pragma unroll 1
  for (int head = first_head, strip = mine, turn = 0; head < first_head + group;) {
    if (strip % TILE == 0) {
      wait_for_all();  // these queries are here, and nobody reads those before them any more
      if (strip + TILE <= last)
        fetch_queries(head, strip + TILE, turn ^ TILE);
      else if (head + 1 < first_head + group)
        fetch_queries(head + 1, mine, turn ^ TILE);
    }
    each_strip(strip, turn + strip % TILE);
    strip += STRIP;
    if (strip % TILE) continue;
    each_tile(head, strip - TILE);
    turn ^= TILE;
    if (strip > last) strip = mine, head++;
  }
}
