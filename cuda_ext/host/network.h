/*
 A LLaMA on the tokens of some rows: each thread runs this, layer by layer.

     x ─▶ norm ─▶ wq wk wv ─▶ turn, into pages ─▶ attend ─▶ wo ─▶ + x
     x ─▶ norm ─▶ w1 w3 ─▶ silu(a) b ─▶ w2 ─▶ + x

 Activations are fp32 whatever the weights are. Every share of work is whole outputs, computed as
 if it were alone, so neither threads nor company change a bit. LLaMA, section 2.2.
 Legend: N tokens, d width, H heads, G heads of keys, D head width.
*/
#pragma once
#include <cstdlib>
#include <new>
#include <vector>

#include "attention.h"
#include "lanes.h"
#include "problem.h"
#include "products.h"
#include "team.h"

namespace {

constexpr long NEAR = 192 << 10;  // bytes of a matrix that stay in the second cache; ours
constexpr int PARTS_OF_LAYER = 11;

static inline int up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

struct Buffer {  // aligned room for activations
  float* at;
  explicit Buffer(size_t floats)
      : at((float*)aligned_alloc(64, (floats * 4 + 127) / 64 * 64)) {
    if (!at) throw std::bad_alloc();
  }
  ~Buffer() { free(at); }
  Buffer(const Buffer&) = delete;
};

// Rows that are multiplied: as they are, and in bytes where a matrix is int8.
class Rows {
 public:
  Rows(long N, int width, bool bytes)
      : N(N), width(width), padded(up(width, 4)), x(N * width), b(bytes ? N * padded / 4 : 0),
        worth(bytes ? N : 0), is_bytes(bytes) {}
  float* row(long n) { return x.at + n * width; }
  void quantize(long n) {
    if (is_bytes) worth.at[n] = to_bytes(row(n), width, (uint8_t*)b.at + n * padded, padded);
  }
  void times(const Matrix& w, int m, int end, const Out& out) const {
    switch (w.kind) {
      case FP32: return product(x.at, width, N, (const float*)w.at, width, m, end, out);
      case BF16: return product(x.at, width, N, (const bf16*)w.at, width, m, end, out);
      case FP16: return product(x.at, width, N, (const fp16*)w.at, width, m, end, out);
      default:
        product(Bytes{(const uint8_t*)b.at, worth.at}, N,
                Whole{(const int8_t*)w.at, w.scale, w.zero}, padded, m, end, out);
    }
  }
  const long N;
  const int width, padded;

 private:
  Buffer x, b, worth;
  const bool is_bytes;
};

static inline int size_of(int kind) { return kind == FP32 ? 4 : kind == INT8 ? 1 : 2; }

// Rows of a matrix that are one share.
static inline int share_of(const Matrix& w) {
  const int least = w.kind == INT8 ? BLOCKS * ROWS : 4, most = 64;
  int rows = (int)(NEAR / ((long)w.width * size_of(w.kind))) / least * least;
  return rows < least ? least : rows > most ? most : rows;
}

static inline int shares_of(const Matrix& w) { return up(w.rows, share_of(w)) / share_of(w); }

static inline void share(const Rows& x, const Matrix& w, long index, const Out& out) {
  int rows = share_of(w), m = (int)index * rows, end = m + rows < w.rows ? m + rows : w.rows;
  x.times(w, m, end, out);
}

static inline void normal(const float* x, const float* weight, int d, float eps, float* out) {
  vec squares = {};
  int i = 0;
  for (; i + LANES <= d; i += LANES) squares += load(x + i) * load(x + i);
  float total = sum(squares);
  for (; i < d; i++) total += x[i] * x[i];
  const float factor = 1 / sqrtf(total / d + eps);
  for (i = 0; i + LANES <= d; i += LANES) store(out + i, load(x + i) * factor * load(weight + i));
  for (; i < d; i++) out[i] = x[i] * factor * weight[i];
}

// Turn pairs of neighbours of each head. Su et al., 2021, https://arxiv.org/abs/2104.09864, eq. 34.
static inline void turn(float* x, int heads, int D, const float* turns) {
  for (int h = 0; h < heads; h++, x += D)
    for (int i = 0; i < D; i += 2) {
      float a = x[i], b = x[i + 1], cosine = turns[i], sine = turns[i + 1];
      x[i] = a * cosine - b * sine;
      x[i + 1] = a * sine + b * cosine;
    }
}

static inline void gate(float* a, const float* b, int count) {  // a = silu(a) b
  int i = 0;
  for (; i + LANES <= count; i += LANES) {
    vec x = load(a + i);
    store(a + i, x / (1.0f + exponential(-x)) * load(b + i));
  }
  if (i < count) {
    vec x = load_part(a + i, count - i);
    vec y = x / (1.0f + exponential(-x)) * load_part(b + i, count - i);
    memcpy(a + i, &y, 4 * (count - i));
  }
}

static inline void look_up(const Matrix& embedding, int token, float* out) {
  const int d = embedding.width;
  for (int i = 0; i < d; i += LANES) {
    int count = d - i < LANES ? d - i : LANES;
    vec x;
    long at = (long)token * d + i;
    if (embedding.kind == FP32) x = load_part((const float*)embedding.at + at, count);
    else if (embedding.kind == BF16) x = load_part((const bf16*)embedding.at + at, count);
    else x = load_part((const fp16*)embedding.at + at, count);
    memcpy(out + i, &x, 4 * count);
  }
}

struct Block {  // tokens that attend together, up to TOGETHER
  int first, count;  // in the list of tokens
  int common;        // pages that they have in common; all of them, if they are of one row
};

static inline int longest_of(const Step& step) {  // places of a row
  int longest = 0;
  for (int i = 0; i < step.pieces_count; i++) {
    const int end = step.pieces[i].start + step.pieces[i].count;
    longest = end > longest ? end : longest;
  }
  return longest;
}

class Network {
 public:
  Network(const Model& model, const Step& step, int threads)
      : m(model), s(step), N(step.tokens_count), D(model.head_dim),
        padded(up(model.head_dim, 16)), wide((model.heads + 2 * model.key_heads) * model.head_dim),
        bytes(model.layer[0].wq.kind == INT8), x((size_t)N * model.dim),
        normed(N, model.dim, bytes), qkv((size_t)N * wide), seen(N, model.dim, bytes),
        hidden(N, model.hidden, bytes), other((size_t)N * model.hidden), place(N), owner(N),
        room(up(longest_of(step), PAGE)), scores((size_t)threads * TOGETHER * room),
        team(threads, model.layers * PARTS_OF_LAYER + 2) {
    int n = 0;
    for (int i = 0; i < s.pieces_count; i++) {
      const Piece& p = s.pieces[i];
      for (int j = 0; j < p.count; j++, n++) place[n] = p.start + j, owner[n] = p.row;
    }
    for (n = 0; n < N; n += blocks.back().count) blocks.push_back(block_from(n));
  }

  void run(int thread) {  // by each, in memory that was asked for before
    int part = 0;
    float* own = scores.at + (long)thread * TOGETHER * room;
    team.share(part++, N, [&](long n) {
      look_up(m.embedding, s.tokens[n], x.at + n * m.dim);
      prepare(n, m.layer[0].attention_norm);
    });
    for (int l = 0; l < m.layers; l++) {
      attention(l, part, own);
      feed_forward(l, part);
    }
    team.share(part++, N, [&](long n) {
      normal(x.at + n * m.dim, m.norm, m.dim, m.eps, s.states + n * m.dim);
    });
  }

 private:
  void prepare(long n, const float* weight) {
    normal(x.at + n * m.dim, weight, m.dim, m.eps, normed.row(n));
    normed.quantize(n);
  }

  void attention(int l, int& part, float* own) {
    const Layer& w = m.layer[l];
    const int q = m.heads * D, k = q + m.key_heads * D;
    const int a = shares_of(w.wq), b = a + shares_of(w.wk), c = b + shares_of(w.wv);
    team.share(part++, c, [&](long i) {
      if (i < a) share(normed, w.wq, i, {qkv.at, wide, false});
      else if (i < b) share(normed, w.wk, i - a, {qkv.at + q, wide, false});
      else share(normed, w.wv, i - b, {qkv.at + k, wide, false});
    });
    team.share(part++, N, [&](long n) { keep(l, n); });
    const long G = m.key_heads;
    team.share(part++, (long)blocks.size() * G, [&](long i) { look(l, blocks[i / G], i % G, own); });
    if (bytes) team.share(part++, N, [&](long n) { seen.quantize(n); });
    team.share(part++, shares_of(w.wo), [&](long i) { share(seen, w.wo, i, {x.at, m.dim, true}); });
  }

  void feed_forward(int l, int& part) {
    const Layer& w = m.layer[l];
    team.share(part++, N, [&](long n) { prepare(n, w.ffn_norm); });
    team.share(part++, shares_of(w.w1), [&](long i) {
      share(normed, w.w1, i, {hidden.row(0), m.hidden, false});
      share(normed, w.w3, i, {other.at, m.hidden, false});
      int rows = share_of(w.w1), from = (int)i * rows;
      int count = from + rows < m.hidden ? rows : m.hidden - from;
      for (int n = 0; n < N; n++)
        gate(hidden.row(n) + from, other.at + (long)n * m.hidden + from, count);
    });
    if (bytes) team.share(part++, N, [&](long n) { hidden.quantize(n); });
    team.share(part++, shares_of(w.w2), [&](long i) { share(hidden, w.w2, i, {x.at, m.dim, true}); });
    if (l + 1 < m.layers)
      team.share(part++, N, [&](long n) { prepare(n, m.layer[l + 1].attention_norm); });
  }

  // Take neighbours in the list as long as they are of one row, or share most of what they read.
  Block block_from(int first) const {
    int n = first + 1, common = place[first] / PAGE + 1;
    bool apart = false;
    for (; n < N && n - first < TOGETHER; n++) {
      const bool same = owner[n] == owner[first];
      if (same && !apart) {
        common = place[n] / PAGE + 1;
        continue;
      }
      const int most = same ? common : in_common(first, n, common);
      if (2 * most * PAGE < place[n] || most < 1) break;
      common = most, apart = true;
    }
    return {first, n - first, common};
  }

  // Pages before both places that two rows have in common, `most` of them at most.
  int in_common(int one, int other, int most) const {
    float* const* a = s.pages + owner[one] * s.pages_stride;
    float* const* b = s.pages + owner[other] * s.pages_stride;
    const int near = place[one] < place[other] ? place[one] : place[other];
    most = near / PAGE < most ? near / PAGE : most;
    int page = 0;
    while (page < most && a[page] == b[page]) page++;
    return page;
  }

  Head head(int l, long row, long g) const {
    return {s.pages + row * s.pages_stride,
            ((long)l * m.key_heads + g) * head_floats(D, padded), D, padded};
  }

  // Turn a token's queries and keys, and put keys and values into its page.
  void keep(int l, long n) {
    float* own = qkv.at + n * wide;
    const int at = place[n] % PAGE, page = place[n] / PAGE;
    turn(own, m.heads + m.key_heads, D, s.turns + (long)place[n] * D);
    const float *k = own + m.heads * D, *v = k + m.key_heads * D;
    for (int g = 0; g < m.key_heads; g++, k += D, v += D) {
      Head to = head(l, owner[n], g);
      float *keys = to.keys(page), *values = to.values(page) + (long)at * padded;
      for (int d = 0; d < D; d++) keys[d * PAGE + at] = k[d];
      memcpy(values, v, 4 * D);
    }
  }

  // The heads of queries that share keys `g`, for the tokens of a block.
  void look(int l, const Block& block, long g, float* own) {
    const int shared = m.heads / m.key_heads;
    Head from[TOGETHER];
    for (int j = 0; j < block.count; j++) from[j] = head(l, owner[block.first + j], g);
    const float* q[TOGETHER];
    float* out[TOGETHER];
    int last[TOGETHER];
    for (int h = (int)g * shared; h < (g + 1) * shared; h++) {
      for (int j = 0; j < block.count; j++) {
        q[j] = qkv.at + (long)(block.first + j) * wide + h * D;
        out[j] = seen.row(block.first + j) + h * D;
        last[j] = place[block.first + j];
      }
      attend(from, block.count, block.common, q, last, 1 / sqrtf((float)D), own, room, out);
    }
  }

  const Model& m;
  const Step& s;
  const int N, D, padded, wide;
  const bool bytes;
  Buffer x;
  Rows normed;
  Buffer qkv;
  Rows seen, hidden;
  Buffer other;
  std::vector<int> place;
  std::vector<long> owner;
  std::vector<Block> blocks;
  const int room;  // scores of a query
  Buffer scores;
  Team team;
};

}  // namespace
