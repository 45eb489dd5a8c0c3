/*
 What goes in and out by the plain C interface; llama_cli/kernels/host.py has the same structs.
 Every pointer is to memory of the caller's, which holds it while a call runs.
*/
#pragma once
#include <cstdint>

enum Kind : int32_t { FP32 = 0, BF16 = 1, FP16 = 2, INT8 = 3 };

struct Matrix {            // (rows, width), row by row; in int8 as products.h wants it
  const void* at;
  const float* scale;      // int8: what one is worth in each row
  const int32_t* zero;     // int8: 128 times the sum of each row
  int32_t rows, width;
  int32_t kind;
  int32_t unused;
};

struct Layer {
  const float *attention_norm, *ffn_norm;
  Matrix wq, wk, wv, wo, w1, w2, w3;
};

struct Model {
  const Layer* layer;
  Matrix embedding, head;
  const float* norm;
  int32_t layers, dim, heads, key_heads, head_dim, hidden, vocab_size;
  float eps;
};

struct Piece {             // new tokens of a row, from its place `start`
  int64_t row;             // of the table of pages
  int32_t start, count;
};

struct Step {
  const int32_t* tokens;   // of all pieces, one after the other
  const Piece* pieces;
  float* const* pages;     // (rows, most pages of a row)
  int64_t pages_stride;
  const float* turns;      // (places, D / 2, 2): cosine and sine
  float* states;           // (tokens, dim): out, after the last norm
  int32_t pieces_count, tokens_count;
};
