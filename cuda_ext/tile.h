/*
 Tiles in shared memory, and the two products every kernel here is made of.

 A tile is 64 rows (queries or keys) of d elements. A block has four warps, and each warp owns
 16 rows of the block's own tile; the tile that streams by is shared by the four.

   scores:      s (16 x 64)  = a (16 x d) tile' (d x 64)      `multiply_transposed`
   weighted sum: c (16 x d) += p (16 x 64) tile (64 x d)      `multiply_add`

 s is laid out as the tensor core leaves it: lane 4g + t holds in s[n][e] row g + 8 (e / 2),
 column 8n + 2t + e % 2. Packed to 16 bits, that is the left operand of the next product, so
 probabilities never leave the registers.
*/
#pragma once

constexpr int ROWS = 64;                // of a tile
constexpr int WARPS = ROWS / 16;        // 16 rows is one tensor-core operand
constexpr int THREADS = 32 * WARPS;

typedef float Scores[ROWS / 8][4];      // 16 x 64 over a warp

template <int D>
using Sum = float[D / 8][4];            // 16 x d over a warp

DEVICE int lane() { return threadIdx.x % 32; }
DEVICE int warp() { return threadIdx.x / 32; }

// Place in the tile of element e of an accumulator, and of its n-th group of 8 columns.
DEVICE int row_of(int e) { return 16 * warp() + lane() / 4 + 8 * (e / 2); }
DEVICE int column_of(int n, int e) { return 8 * n + 2 * (lane() % 4) + e % 2; }

// Where columns 16 step + 8 chunk to + 7 of a row lie. Eight elements (16 bytes) are moved at a
// time, and swizzled: the same columns of eight consecutive rows fall in eight different groups
// of banks, so no access waits. With chunk 0 or 1, a step is one exclusive or.
template <int D>
DEVICE int place(int row, int chunk, int step = 0) {
  return (row * D + 8 * (chunk ^ (row % 8))) ^ 16 * step;
}

// The first row of tile `tile` of this block's (batch, head).
DEVICE Element* rows_of(const Matrix& m, int tile) {
  return m.data + blockIdx.z * m.batch + blockIdx.y * m.head + int64_t(tile) * ROWS * m.row;
}

DEVICE int64_t statistics_of(const Problem& p) {
  return (int64_t(blockIdx.z) * p.heads + blockIdx.y) * p.length;
}

// Start copying a tile to shared memory. Rows beyond the sequence become zeros.
template <int D>
DEVICE void fetch(Element* to, const Matrix& from, int tile, int length) {
  const Element* rows = rows_of(from, tile);
  for (int i = threadIdx.x; i < ROWS * (D / 8); i += THREADS) {
    int row = i / (D / 8), chunk = i % (D / 8);
    bool inside = tile * ROWS + row < length;
    copy_async<16>(to + place<D>(row, chunk), rows + (inside ? row * from.row : 0) + 8 * chunk,
                   inside);
  }
}

// This warp's 16 rows of a tile, at columns 16 step to 16 step + 15, as a left operand.
template <int D>
DEVICE Fragment left_operand(const Element* tile, int step) {
  return load_matrices(tile + place<D>(16 * warp() + lane() % 16, lane() / 16, step));
}

// s += a tile', for 16 of the d columns.
template <class T, int D>
DEVICE void multiply_transposed(Scores& s, const Fragment& a, const Element* tile, int step) {
#pragma unroll
  for (int n = 0; n < ROWS / 16; n++) {
    int row = lane() % 8 + 8 * (lane() / 16), chunk = lane() / 8 % 2;
    Fragment b = load_matrices(tile + 16 * n * D + place<D>(row, chunk, step));
    T::mma(s[2 * n], a, b.word[0], b.word[1]);
    T::mma(s[2 * n + 1], a, b.word[2], b.word[3]);
  }
}

// s += a tile', where a is this warp's rows of another tile. Unrolled by two only: by more,
// nvcc keeps addresses in registers that the backward has not got.
template <class T, int D>
DEVICE void multiply_transposed(Scores& s, const Element* a, const Element* tile) {
#pragma unroll 2
  for (int step = 0; step < D / 16; step++)
    multiply_transposed<T, D>(s, left_operand<D>(a, step), tile, step);
}

// c += p tile, with p rounded to 16 bits on the way.
template <class T, int D>
DEVICE void multiply_add(Sum<D>& c, const Scores& p, const Element* tile) {
#pragma unroll
  for (int step = 0; step < ROWS / 16; step++) {
    const float(&x)[4] = p[2 * step], (&y)[4] = p[2 * step + 1];
    Fragment a = {T::pack(x[0], x[1]), T::pack(x[2], x[3]), T::pack(y[0], y[1]),
                  T::pack(y[2], y[3])};
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
      int row = lane() % 16, chunk = lane() / 16;
      Fragment b = load_matrices_transposed(tile + 16 * step * D + place<D>(row, chunk, n));
      T::mma(c[2 * n], a, b.word[0], b.word[1]);
      T::mma(c[2 * n + 1], a, b.word[2], b.word[3]);
    }
  }
}

// Write c, a lane's first row times `first` and its second times `second`, to this block's tile
// of `to`, leaving out rows beyond the sequence.
template <class T, int D>
DEVICE void store(const Matrix& to, int tile, int length, const Sum<D>& c, float first,
                  float second) {
  Element* rows = rows_of(to, tile);
#pragma unroll
  for (int e = 0; e < 4; e += 2) {
    if (tile * ROWS + row_of(e) >= length) continue;
    float factor = e ? second : first;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
      *reinterpret_cast<uint32_t*>(rows + row_of(e) * to.row + column_of(n, 0)) =
          T::pack(c[n][e] * factor, c[n][e + 1] * factor);
  }
}
