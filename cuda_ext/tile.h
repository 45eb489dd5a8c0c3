/*
 The two products that every attention kernel here is made of, and how their operands lie.

 A block owns some rows (queries, or keys), 16 M to a warp, and keeps them in registers; the
 others stream by in tiles of 64 rows, through shared memory, and a warp meets a tile in strips
 of 32 rows:

   scores:       s (16M x 32) = own (16M x d) strip' (d x 32)    `multiply_transposed`
   weighted sum: c (16M x d) += p (16M x 32) strip (32 x d)      `multiply_add`

 s is laid out as the tensor core leaves it: lane 4g + t holds in s[m][n][e] row
 16m + g + 8 (e / 2), column 8n + 2t + e % 2. Packed to 16 bits, that is the left operand of the
 next product, so probabilities never leave the registers.
*/
#pragma once

constexpr int TILE = 64;   // rows that stream by together
constexpr int STRIP = 32;  // of them, those whose scores exist at one time; ours, by registers

template <int M, int COLUMNS>
using Sum = float[M][COLUMNS / 8][4];  // 16M x COLUMNS over a warp, as the tensor core leaves it

template <int M>
using Scores = Sum<M, STRIP>;

template <int M, int D>
using Rows = Fragment[M][D / 16];  // 16M x d over a warp, as the tensor core wants it

template <int M, int COLUMNS>
DEVICE void clear(float (&sum)[M][COLUMNS][4]) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) sum[m][n][e] = 0;
}

DEVICE int lane() { return threadIdx.x % 32; }
DEVICE int warp() { return threadIdx.x / 32; }

// Place among a warp's rows, and among a strip's columns, of element e of an accumulator.
DEVICE int row_of(int m, int e) { return 16 * m + lane() / 4 + 8 * (e / 2); }
DEVICE int column_of(int n, int e) { return 8 * n + 2 * (lane() % 4) + e % 2; }

// Where columns 16 step + 8 chunk to + 7 of a row lie. Eight elements (16 bytes) are moved at a
// time, and swizzled: the same columns of eight consecutive rows fall in eight different groups
// of banks, so no access waits. With chunk 0 or 1, a step is one exclusive or.
template <int D>
DEVICE int place(int row, int chunk, int step = 0) {
  return (row * D + 8 * (chunk ^ (row & 7))) ^ 16 * step;
}

// Row 0 of a (batch, head).
DEVICE Element* rows_of(const Matrix& m, int batch, int head) {
  return m.data + batch * m.batch + head * m.head;
}

DEVICE int64_t statistics_of(const Problem& p, int batch, int head) {
  return (int64_t(batch) * p.heads + head) * p.length;
}

// Sixteen columns of 16 rows in shared memory, as a left operand.
template <int D>
DEVICE Fragment left_operand(const Element* rows, int row, int step) {
  return load_matrices(rows + place<D>(row + lane() % 16, lane() / 16, step));
}

// A warp's own rows, from shared memory to registers.
template <int M, int D>
DEVICE void hold(Rows<M, D>& own, const Element* rows) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int step = 0; step < D / 16; step++)
      own[m][step] = left_operand<D>(rows, 16 * (M * warp() + m), step);
}

// s += own strip', for 16 of the d columns.
template <class T, int D, int M, class Own>
DEVICE void multiply_step(Scores<M>& s, const Own& own, const Element* strip, int step) {
#pragma unroll
  for (int n = 0; n < STRIP / 16; n++) {
    int row = lane() % 8 + 8 * (lane() / 16), chunk = lane() / 8 % 2;
    Fragment b = load_matrices(strip + 16 * n * D + place<D>(row, chunk, step));
#pragma unroll
    for (int m = 0; m < M; m++) {
      T::mma(s[m][2 * n], own(m), b.word[0], b.word[1]);
      T::mma(s[m][2 * n + 1], own(m), b.word[2], b.word[3]);
    }
  }
}

// s = own strip'.
template <class T, int M, int D>
DEVICE void multiply_transposed(Scores<M>& s, const Rows<M, D>& own, const Element* strip) {
  clear(s);
#pragma unroll
  for (int step = 0; step < D / 16; step++)
    multiply_step<T, D>(s, [&](int m) { return own[m][step]; }, strip, step);
}

// The same, with own rows in shared memory, for a kernel that has no registers left for them.
template <class T, int M, int D>
DEVICE void multiply_transposed(Scores<M>& s, const Element* own, const Element* strip) {
  clear(s);
#pragma unroll
  for (int step = 0; step < D / 16; step++) {
    Fragment a[M];
#pragma unroll
    for (int m = 0; m < M; m++) a[m] = left_operand<D>(own, 16 * (M * warp() + m), step);
    multiply_step<T, D>(s, [&](int m) { return a[m]; }, strip, step);
  }
}

// Sixteen columns of p, rounded to 16 bits, as a left operand.
template <class T, int COLUMNS>
DEVICE Fragment round_columns(const float (&p)[COLUMNS][4], int step) {
  const float(&x)[4] = p[2 * step], (&y)[4] = p[2 * step + 1];
  return {T::pack(x[0], x[1]), T::pack(x[2], x[3]), T::pack(y[0], y[1]), T::pack(y[2], y[3])};
}

// c += p strip, with p rounded to 16 bits on the way.
template <class T, int M, int D>
DEVICE void multiply_add(Sum<M, D>& c, const Scores<M>& p, const Element* strip) {
#pragma unroll
  for (int step = 0; step < STRIP / 16; step++) {
    Fragment a[M];
#pragma unroll
    for (int m = 0; m < M; m++) a[m] = round_columns<T>(p[m], step);
#pragma unroll
    for (int n = 0; n < D / 16; n++) {
      int row = lane() % 16, chunk = lane() / 16;
      Fragment b = load_matrices_transposed(strip + 16 * step * D + place<D>(row, chunk, n));
#pragma unroll
      for (int m = 0; m < M; m++) {
        T::mma(c[m][2 * n], a[m], b.word[0], b.word[1]);
        T::mma(c[m][2 * n + 1], a[m], b.word[2], b.word[3]);
      }
    }
  }
}

// Write the m-th 16 rows of c, which begin at row `start` of the sequence, times a factor for a
// lane's first row and one for its second, leaving out rows beyond the sequence.
template <class T, int COLUMNS>
DEVICE void store(Element* rows, int64_t stride, int start, int length,
                  const float (&c)[COLUMNS][4], float first, float second) {
#pragma unroll
  for (int e = 0; e < 4; e += 2) {
    int row = start + row_of(0, e);
    if (row >= length) continue;
    float factor = e ? second : first;
#pragma unroll
    for (int n = 0; n < COLUMNS; n++)
      *reinterpret_cast<uint32_t*>(rows + row * stride + column_of(n, 0)) =
          T::pack(c[n][e] * factor, c[n][e + 1] * factor);
  }
}
