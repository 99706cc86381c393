/* elementwise.c: norms, activations and sums over the tokens of a batch. */
#include <math.h>

#include "nn/nn.h"

enum {
    LANES = 16, /* partial sums, as kernels.h has them */
    TILE_TOKENS = 16,
    TILE_ELEMS = 4096 /* fewer are not worth another thread */
};

typedef struct job {
    const ct_kernels *k;
    float *y;
    const float *x;
    const ct_norm *norm;
    size_t n_tok, n, tile_tokens;
    float factor;
    ct_activation act;
    void (*row)(const struct job *j, size_t t);
} job;

void ct_norm_row(const ct_kernels *k, const ct_norm *norm, float *y, const float *x, size_t n)
{
    if (norm->kind == CT_NORM_LAYER) k->layer_norm(y, x, norm->weight, norm->bias, n, norm->eps);
    else k->rms_norm(y, x, norm->weight, n, norm->eps);
}

void ct_activate_row(const ct_kernels *k, ct_activation act, float *gate, const float *up, size_t n)
{
    switch (act) {
    case CT_SILU: k->silu_mul(gate, gate, up, n); break;
    case CT_GELU: k->gelu_mul(gate, gate, up, n); break;
    case CT_GELU_ERF: k->gelu_erf_mul(gate, gate, up, n); break;
    case CT_SWIGLU_OAI: k->swiglu_oai(gate, gate, up, n); break;
    }
}

/* Sum of x - shift, or of its square; element i in partial sum i % LANES. */
static float lane_sum(const float *x, size_t n, float shift, bool square)
{
    float lanes[LANES] = {0};
    for (size_t i = 0; i < n; i += LANES)
        for (size_t l = 0; l < ct_min_size(LANES, n - i); l++) {
            float value = x[i + l] - shift;
            lanes[l] += square ? value * value : value;
        }
    for (size_t half = LANES / 2; half >= 1; half /= 2)
        for (size_t l = 0; l < half; l++) lanes[l] += lanes[l + half];
    return lanes[0];
}

static void outliers_row(const job *j, size_t t)
{
    float *x = j->y + t * j->n;
    float mean = lane_sum(x, j->n, 0.0f, false) / (float)j->n;
    float cutoff = mean + sqrtf(lane_sum(x, j->n, mean, true) / (float)j->n) * j->factor;
    for (size_t i = 0; i < j->n; i++) x[i] = x[i] > cutoff ? x[i] - cutoff : 0.0f;
}

static void norm_row(const job *j, size_t t) { ct_norm_row(j->k, j->norm, j->y + t * j->n, j->x + t * j->n, j->n); }
static void activate_row(const job *j, size_t t)
{
    ct_activate_row(j->k, j->act, j->y + t * j->n, j->x != NULL ? j->x + t * j->n : NULL, j->n);
}
static void add_row(const job *j, size_t t) { j->k->add(j->y + t * j->n, j->x + t * j->n, j->n); }
static void scale_row(const job *j, size_t t) { j->k->scale(j->y + t * j->n, j->factor, j->n); }
static void softcap_row(const job *j, size_t t) { j->k->softcap(j->y + t * j->n, j->factor, j->n); }
static void sigmoid_row(const job *j, size_t t) { j->k->sigmoid_mul(j->y + t * j->n, j->x + t * j->n, j->n); }

static void tile(void *ctx, size_t index, int thread)
{
    const job *j = ctx;
    (void)thread;
    size_t end = ct_min_size((index + 1) * j->tile_tokens, j->n_tok);
    for (size_t t = index * j->tile_tokens; t < end; t++) j->row(j, t);
}

static void run(const ct_exec *exec, job j)
{
    j.k = exec->k;
    j.tile_tokens = j.n < TILE_ELEMS ? ct_min_size((TILE_ELEMS + j.n - 1) / j.n, TILE_TOKENS) : 1;
    ct_pool_run(exec->pool, tile, &j, (j.n_tok + j.tile_tokens - 1) / j.tile_tokens);
}

void ct_norm_rows(const ct_exec *exec, const ct_norm *norm, float *y, const float *x, size_t n_tok, size_t n)
{
    run(exec, (job){.y = y, .x = x, .norm = norm, .n_tok = n_tok, .n = n, .row = norm_row});
}

void ct_activate(const ct_exec *exec, ct_activation act, float *gate, const float *up, size_t n_tok, size_t n)
{
    run(exec, (job){.y = gate, .x = up, .act = act, .n_tok = n_tok, .n = n, .row = activate_row});
}

void ct_keep_outliers(const ct_exec *exec, float *x, float n_deviations, size_t n_tok, size_t n)
{
    run(exec, (job){.y = x, .factor = n_deviations, .n_tok = n_tok, .n = n, .row = outliers_row});
}

void ct_add(const ct_exec *exec, float *y, const float *x, size_t n_tok, size_t n)
{
    run(exec, (job){.y = y, .x = x, .n_tok = n_tok, .n = n, .row = add_row});
}

void ct_scale(const ct_exec *exec, float *y, float factor, size_t n_tok, size_t n)
{
    if (factor != 1.0f) run(exec, (job){.y = y, .factor = factor, .n_tok = n_tok, .n = n, .row = scale_row});
}

void ct_softcap(const ct_exec *exec, float *y, float cap, size_t n_tok, size_t n)
{
    run(exec, (job){.y = y, .factor = cap, .n_tok = n_tok, .n = n, .row = softcap_row});
}

void ct_sigmoid_mul(const ct_exec *exec, float *y, const float *gate, size_t n_tok, size_t n)
{
    run(exec, (job){.y = y, .x = gate, .n_tok = n_tok, .n = n, .row = sigmoid_row});
}
