// What is compiled once for each kind of processor, with VARIANT for a name.
#include "narrow.h"
#include "network.h"

#define JOIN(a, b) a##_##b
#define NAMED(a, b) JOIN(a, b)

extern "C" {

void NAMED(run, VARIANT)(const Model* model, const Step* step, int threads) {
  Network network(*model, *step, threads);
  on_threads(threads, [&](int thread) { network.run(thread); });
}

// logits (N, V) of states (N, d).
void NAMED(logits, VARIANT)(const Model* model, const float* states, int count, float* out,
                            int threads) {
  const Matrix& head = model->head;
  Rows rows(count, model->dim, head.kind == INT8);
  for (int n = 0; n < count; n++) {
    memcpy(rows.row(n), states + (long)n * model->dim, 4 * model->dim);
    rows.quantize(n);
  }
  Team team(threads, 1);
  on_threads(threads, [&](int) {
    team.share(0, shares_of(head), [&](long i) { share(rows, head, i, {out, head.rows, false}); });
  });
}

// A matrix in int8; `out` is of zeros, `scale` and `zero` have as many as there are rows.
void NAMED(narrow, VARIANT)(const Matrix* from, int8_t* out, float* scale, int32_t* zero,
                            int threads) {
  Team team(threads, 1);
  on_threads(threads, [&](int) {
    team.share(0, up(from->rows, ROWS) / ROWS,
               [&](long i) { rows_to_bytes(*from, (int)i * ROWS, out, scale, zero); });
  });
}

// The first of the largest of each row, and ln sum e^logit.
void NAMED(summary, VARIANT)(const float* logits, int count, int V, int32_t* best, float* total,
                             int threads) {
  Team team(threads, 1);
  on_threads(threads, [&](int) {
    team.share(0, count, [&](long n) {
      const float* row = logits + n * V;
      vec top = all(-INFINITY), added = {};
      int i = 0;
      for (; i + LANES <= V; i += LANES) top = larger(load(row + i), top);
      float most = largest(top);
      for (int j = i; j < V; j++) most = row[j] > most ? row[j] : most;
      double sums = 0;
      for (i = 0; i + LANES <= V; i += LANES) added += exponential(load(row + i) - most);
      for (; i < V; i++) sums += expf(row[i] - most);
      total[n] = most + (float)log(sums + sum(added));
      best[n] = 0;
      for (int j = 0; j < V; j++)
        if (row[j] == most) {
          best[n] = j;
          break;
        }
    });
  });
}
}
