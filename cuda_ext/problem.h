/*
 What a caller hands over: one attention to compute, as plain pointers and sizes.

 The C interface (attention.cu), the kernels and Python's ctypes mirror
 (llama_cli/kernels/library.py) share this layout; VERSION changes when it does.
*/
#pragma once
#include <cstdint>

constexpr int VERSION = 2;

typedef uint16_t Element;  // bf16 or fp16; the kernels' template argument says which

// A (batch, heads, length, d) tensor, its last axis contiguous. Strides count elements and
// are multiples of 8, so that every eight elements can be moved as 16 aligned bytes.
struct Matrix {
  Element* data;
  int64_t batch, head, row;
};

// Query head h reads key head h / (heads / key_heads). The query at i sees the key at j when
// first[i] <= j <= i.
struct Problem {
  Matrix q, k, v, out;                      // forward: reads q, k, v; writes out, lse
  Matrix grad_out, grad_q, grad_k, grad_v;  // backward: reads grad_out too; writes the rest
  float* lse;            // (batch, heads, length): log sum exp of scores
  float* delta;          // (batch, heads, length): scratch of the backward
  float* sums;           // (batch, heads, length, d), zeros: scratch of a backward that may use
                         // atomics; null for one that is the same bits in every run
  const int32_t* first;  // (batch, length): where each position's document begins, and
  const int32_t* end;    // one past where it ends; null where a row is one document
  int32_t batch, heads, key_heads, length, head_size;  // head_size: 64 or 128
  int32_t half;                                        // 1: fp16, 0: bf16
  float scale;                                         // of scores, above 0; 1 / sqrt(d) as a rule
};
