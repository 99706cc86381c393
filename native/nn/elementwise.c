/* elementwise.c: norms, activations and sums over the tokens of a batch. */
#include "nn/nn.h"

enum {
    TILE_TOKENS = 16,
    TILE_ELEMS = 4096 /* fewer are not worth another thread */
};

typedef struct job {
    const ct_kernels *k;
    float *y;
    const float *x, *weight;
    size_t n_tok, n, tile_tokens;
    float eps;
    void (*row)(const struct job *j, size_t t);
} job;

static void norm_row(const job *j, size_t t) { j->k->rms_norm(j->y + t * j->n, j->x + t * j->n, j->weight, j->n, j->eps); }
static void silu_row(const job *j, size_t t) { j->k->silu_mul(j->y + t * j->n, j->y + t * j->n, j->x + t * j->n, j->n); }
static void add_row(const job *j, size_t t) { j->k->add(j->y + t * j->n, j->x + t * j->n, j->n); }

static void tile(void *ctx, size_t index, int thread)
{
    const job *j = ctx;
    (void)thread;
    size_t end = ct_min_size((index + 1) * j->tile_tokens, j->n_tok);
    for (size_t t = index * j->tile_tokens; t < end; t++) j->row(j, t);
}

static void run(const ct_exec *exec, job j)
{
    j.tile_tokens = j.n < TILE_ELEMS ? ct_min_size((TILE_ELEMS + j.n - 1) / j.n, TILE_TOKENS) : 1;
    ct_pool_run(exec->pool, tile, &j, (j.n_tok + j.tile_tokens - 1) / j.tile_tokens);
}

void ct_rms_norm(const ct_exec *exec, float *y, const float *x, const float *weight, size_t n_tok, size_t n, float eps)
{
    run(exec, (job){.k = exec->k, .y = y, .x = x, .weight = weight, .n_tok = n_tok, .n = n, .eps = eps, .row = norm_row});
}

void ct_silu_mul(const ct_exec *exec, float *gate, const float *up, size_t n_tok, size_t n)
{
    run(exec, (job){.k = exec->k, .y = gate, .x = up, .n_tok = n_tok, .n = n, .row = silu_row});
}

void ct_add(const ct_exec *exec, float *y, const float *x, size_t n_tok, size_t n)
{
    run(exec, (job){.k = exec->k, .y = y, .x = x, .n_tok = n_tok, .n = n, .row = add_row});
}
