/* recurrent.c: the layers of recurrent.h. A tile is a run and some of its channels or heads, which go through all tokens of the
 * run on one thread, TILE_TOKENS at a time so that what the steps hand each other stays in the cache. */
#include <math.h>
#include <string.h>

#include "nn/recurrent.h"

enum {
    TILE_TOKENS = 16,
    TILE_CHANNELS = 64, /* of a convolution or a selective scan, at least */
    TILE_ELEMS = 4096   /* fewer are not worth another thread */
};

/* ---- weights and states ------------------------------------------------------------------------------------------------ */

void ct_transpose(float *out, const float *in, size_t n_rows, size_t n_cols)
{
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < n_cols; c++) out[c * n_rows + r] = in[r * n_cols + c];
}

void ct_pack_columns(float *out, const float *in, size_t n_rows, size_t n_cols)
{
    for (size_t block = 0; block < n_cols; block += CT_STATE_COLS)
        for (size_t r = 0; r < n_rows; r++)
            for (size_t c = block; c < block + CT_STATE_COLS; c++) *out++ = c < n_cols ? in[c * n_rows + r] : 0.0f;
}

static size_t round_cols(size_t n) { return ct_round_up(n, CT_STATE_COLS); }

size_t ct_columns_floats(size_t n_rows, size_t n_cols)
{
    size_t cols, floats;
    return ct_add_ok(n_cols, CT_STATE_COLS - 1, &cols) && ct_mul_ok(round_cols(n_cols), n_rows, &floats) ? floats : 0;
}

/* The part of a state that belongs to the convolution; the matrices start behind it. */
static size_t conv_floats(const ct_conv *conv) { return ct_columns_floats(conv->width - 1, conv->n_channels); }

/* A state with n matrices [n_rows, n_cols] */
static size_t state_floats(const ct_conv *conv, size_t n, size_t n_rows, size_t n_cols)
{
    size_t before = conv_floats(conv), matrix = ct_columns_floats(n_rows, n_cols), all, sum;
    if (before == 0 || matrix == 0 || !ct_mul_ok(n, matrix, &all) || !ct_add_ok(before, all, &sum)) return 0;
    return sum;
}

size_t ct_short_conv_state_floats(const ct_conv *conv) { return conv_floats(conv); }
size_t ct_mamba_state_floats(const ct_mamba *m) { return state_floats(&m->conv, 1, m->d_state, m->d_inner); }
size_t ct_mamba2_state_floats(const ct_mamba2 *m) { return state_floats(&m->conv, m->n_heads, m->d_state, m->d_inner / m->n_heads); }
size_t ct_delta_net_state_floats(const ct_delta_net *d) { return state_floats(&d->conv, d->n_v_heads, d->d_k, d->d_v); }

/* Asks for n elements of each of n_rows rows: neighbouring rows are too far apart for the CPU to foresee them. */
static void prefetch_rows(const float *x, size_t stride, size_t n_rows, size_t n)
{
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < n; i += 16) __builtin_prefetch(x + r * stride + i, 0, 2);
}

/* ---- convolutions ------------------------------------------------------------------------------------------------------ */

/* Channels [at, at + n) of a run's convolution for n_tok of its tokens. x, b, c and y as in ct_conv_tile, with all channels. */
static ct_conv_tile conv_tile(const ct_conv *conv, float *state, size_t at, size_t n, size_t n_tok, const float *x, size_t x_stride,
                              float *y, size_t y_stride)
{
    return (ct_conv_tile){.n_tok = n_tok, .n_channels = n, .width = conv->width, .x = x + at, .x_stride = x_stride, .w = conv->w + at,
                          .w_stride = conv->n_channels, .bias = conv->bias != NULL ? conv->bias + at : NULL, .state = state + at,
                          .state_stride = conv->n_channels, .y = y, .y_stride = y_stride};
}

static void clear_conv(const ct_conv *conv, float *state, size_t at, size_t n)
{
    for (size_t j = 0; j < conv->width - 1; j++) memset(state + j * conv->n_channels + at, 0, n * sizeof *state);
}

typedef struct conv_job {
    const ct_kernels *k;
    const ct_conv *conv;
    const ct_state_run *runs;
    const float *x, *b, *c; /* [n_tok, x_stride]; b and c NULL: SiLU */
    float *y;               /* [n_tok, y_stride] */
    size_t x_stride, y_stride, n_parts, channels;
} conv_job;

static void conv_part(void *ctx, size_t tile, int thread)
{
    const conv_job *j = ctx;
    const ct_state_run *run = &j->runs[tile / j->n_parts];
    (void)thread;
    size_t at = tile % j->n_parts * j->channels, n = ct_min_size(j->channels, j->conv->n_channels - at);
    if (run->fresh) clear_conv(j->conv, run->state, at, n);
    for (size_t t = 0; t < run->n_tok; t += TILE_TOKENS) {
        size_t row = run->first + t, n_tok = ct_min_size(TILE_TOKENS, run->n_tok - t);
        ct_conv_tile c = conv_tile(j->conv, run->state, at, n, n_tok, j->x + row * j->x_stride, j->x_stride,
                                   j->y + row * j->y_stride + at, j->y_stride);
        if (j->c != NULL) {
            c.b = j->b + row * j->x_stride + at;
            c.c = j->c + row * j->x_stride + at;
        }
        j->k->causal_conv(&c);
    }
}

static void convolve(const ct_exec *exec, conv_job j, size_t n_runs)
{
    j.k = exec->k;
    size_t longest = 1;
    for (size_t i = 0; i < n_runs; i++)
        if (j.runs[i].n_tok > longest) longest = j.runs[i].n_tok;
    j.channels = ct_round_up(TILE_ELEMS / longest + 1, TILE_CHANNELS);
    j.n_parts = (j.conv->n_channels + j.channels - 1) / j.channels;
    ct_pool_run(exec->pool, conv_part, &j, n_runs * j.n_parts);
}

void ct_short_conv(const ct_exec *exec, const ct_conv *conv, const ct_state_run *runs, size_t n_runs, const float *bcx, float *y)
{
    size_t n = conv->n_channels;
    convolve(exec, (conv_job){.conv = conv, .runs = runs, .x = bcx + 2 * n, .b = bcx, .c = bcx + n, .y = y, .x_stride = 3 * n, .y_stride = n},
             n_runs);
}

/* ---- Mamba -------------------------------------------------------------------------------------------------------------- */

void ct_mamba_conv(const ct_exec *exec, const ct_mamba *m, const ct_state_run *runs, size_t n_runs, const float *xz, float *x)
{
    convolve(exec, (conv_job){.conv = &m->conv, .runs = runs, .x = xz, .y = x, .x_stride = 2 * m->d_inner, .y_stride = m->d_inner}, n_runs);
}

typedef struct mamba_job {
    const ct_kernels *k;
    const ct_mamba *m;
    const ct_state_run *runs;
    const float *xz, *x, *dt, *xbc;
    float *y;
    size_t n_parts, channels;
} mamba_job;

typedef struct split_job {
    const ct_kernels *k;
    const ct_mamba *m;
    float *xbc, *dt;
    size_t n_tok;
} split_job;

static void split_rows(void *ctx, size_t tile, int thread)
{
    const split_job *j = ctx;
    const ct_mamba *m = j->m;
    (void)thread;
    size_t end = ct_min_size((tile + 1) * TILE_TOKENS, j->n_tok);
    for (size_t t = tile * TILE_TOKENS; t < end; t++) {
        float *dt = j->xbc + t * (m->dt_rank + 2 * m->d_state), *b = dt + m->dt_rank, *c = b + m->d_state, *out = j->dt + t * m->dt_rank;
        if (m->dt_norm != NULL) j->k->rms_norm(out, dt, m->dt_norm, m->dt_rank, m->norm_eps);
        else memcpy(out, dt, m->dt_rank * sizeof *out);
        if (m->b_norm != NULL) j->k->rms_norm(b, b, m->b_norm, m->d_state, m->norm_eps);
        if (m->c_norm != NULL) j->k->rms_norm(c, c, m->c_norm, m->d_state, m->norm_eps);
    }
}

void ct_mamba_split(const ct_exec *exec, const ct_mamba *m, size_t n_tok, float *xbc, float *dt)
{
    split_job j = {.k = exec->k, .m = m, .xbc = xbc, .dt = dt, .n_tok = n_tok};
    ct_pool_run(exec->pool, split_rows, &j, (n_tok + TILE_TOKENS - 1) / TILE_TOKENS);
}

static void mamba_part(void *ctx, size_t tile, int thread)
{
    const mamba_job *j = ctx;
    const ct_mamba *m = j->m;
    const ct_state_run *run = &j->runs[tile / j->n_parts];
    (void)thread;
    size_t at = tile % j->n_parts * j->channels, n = ct_min_size(j->channels, m->d_inner - at), row = run->first;
    size_t bc_stride = m->dt_rank + 2 * m->d_state;
    float *state = run->state + conv_floats(&m->conv) + at * m->d_state;
    if (run->fresh) memset(state, 0, ct_columns_floats(m->d_state, n) * sizeof *state);
    ct_mamba_tile t = {
        .n_tok = run->n_tok, .n_channels = n, .d_state = m->d_state,
        .x = j->x + row * m->d_inner + at, .x_stride = m->d_inner,
        .z = j->xz + row * 2 * m->d_inner + m->d_inner + at, .z_stride = 2 * m->d_inner,
        .dt = j->dt + row * m->d_inner + at, .dt_stride = m->d_inner,
        .b = j->xbc + row * bc_stride + m->dt_rank, .c = j->xbc + row * bc_stride + m->dt_rank + m->d_state, .bc_stride = bc_stride,
        .a = m->a + at * m->d_state, .d = m->d + at, .dt_bias = m->dt_bias != NULL ? m->dt_bias + at : NULL,
        .state = state, .y = j->y + row * m->d_inner + at, .y_stride = m->d_inner,
    };
    j->k->mamba_scan(&t);
}

void ct_mamba_scan(const ct_exec *exec, const ct_mamba *m, const ct_state_run *runs, size_t n_runs, const float *xz, const float *x,
                   const float *dt, const float *xbc, float *y)
{
    mamba_job j = {.k = exec->k, .m = m, .runs = runs, .xz = xz, .x = x, .dt = dt, .xbc = xbc, .y = y,
                   .channels = TILE_CHANNELS};
    j.n_parts = (m->d_inner + j.channels - 1) / j.channels;
    ct_pool_run(exec->pool, mamba_part, &j, n_runs * j.n_parts);
}

/* ---- Mamba-2 ------------------------------------------------------------------------------------------------------------ */

typedef struct mamba2_job {
    const ct_kernels *k;
    const ct_mamba2 *m;
    const ct_state_run *runs;
    const float *zxbcdt;
    float *y;
    size_t n_tok, stride, tile_tokens;
} mamba2_job;

static void ssd_head(void *ctx, size_t tile, int thread)
{
    const mamba2_job *j = ctx;
    const ct_mamba2 *m = j->m;
    const ct_state_run *run = &j->runs[tile / m->n_heads];
    (void)thread;
    size_t head = tile % m->n_heads, dim = m->d_inner / m->n_heads, group = head / (m->n_heads / m->n_groups);
    size_t matrix = ct_columns_floats(m->d_state, dim);
    float *state = run->state + conv_floats(&m->conv) + head * matrix, dt[TILE_TOKENS], decay[TILE_TOKENS];
    if (run->fresh) memset(state, 0, matrix * sizeof *state);
    for (size_t from = 0; from < run->n_tok; from += TILE_TOKENS) {
        size_t n_tok = ct_min_size(TILE_TOKENS, run->n_tok - from);
        const float *z = j->zxbcdt + (run->first + from) * j->stride, *x = z + m->d_inner, *b = x + m->d_inner;
        const float *c = b + m->n_groups * m->d_state, *dt_in = c + m->n_groups * m->d_state;
        float *y = j->y + (run->first + from) * m->d_inner + head * dim;
        for (size_t t = 0; t < n_tok; t++) dt[t] = dt_in[t * j->stride + head] + m->dt_bias[head];
        j->k->softplus(dt, dt, n_tok);
        for (size_t t = 0; t < n_tok; t++) decay[t] = dt[t] * m->a[head];
        j->k->exp(decay, decay, n_tok);
        ct_ssd_tile s = {
            .n_tok = n_tok, .d_state = m->d_state, .head_dim = dim, .x = x + head * dim, .x_stride = j->stride,
            .b = b + group * m->d_state, .c = c + group * m->d_state, .bc_stride = j->stride, .dt = dt, .decay = decay,
            .d = m->d[head], .state = state, .y = y, .y_stride = m->d_inner,
        };
        j->k->ssd_scan(&s);
        for (size_t t = 0; t < n_tok; t++) j->k->silu_mul(y + t * m->d_inner, z + t * j->stride + head * dim, y + t * m->d_inner, dim);
    }
}

static void norm_groups(void *ctx, size_t tile, int thread)
{
    const mamba2_job *j = ctx;
    const ct_mamba2 *m = j->m;
    (void)thread;
    size_t n = m->d_inner / m->n_groups, end = ct_min_size((tile + 1) * j->tile_tokens, j->n_tok);
    for (size_t t = tile * j->tile_tokens; t < end; t++)
        for (size_t g = 0; g < m->n_groups; g++) {
            float *y = j->y + t * m->d_inner + g * n;
            j->k->rms_norm(y, y, m->norm + g * n, n, m->norm_eps);
        }
}

void ct_mamba2_mix(const ct_exec *exec, const ct_mamba2 *m, const ct_state_run *runs, size_t n_runs, float *zxbcdt, float *y)
{
    size_t stride = 2 * m->d_inner + 2 * m->n_groups * m->d_state + m->n_heads;
    float *xbc = zxbcdt + m->d_inner;
    convolve(exec, (conv_job){.conv = &m->conv, .runs = runs, .x = xbc, .y = xbc, .x_stride = stride, .y_stride = stride}, n_runs);
    mamba2_job j = {.k = exec->k, .m = m, .runs = runs, .zxbcdt = zxbcdt, .y = y, .stride = stride};
    ct_pool_run(exec->pool, ssd_head, &j, n_runs * m->n_heads);
    if (m->norm == NULL || n_runs == 0) return;
    j.n_tok = runs[n_runs - 1].first + runs[n_runs - 1].n_tok;
    j.tile_tokens = TILE_ELEMS / m->d_inner + 1;
    ct_pool_run(exec->pool, norm_groups, &j, (j.n_tok + j.tile_tokens - 1) / j.tile_tokens);
}

/* ---- gated delta net ---------------------------------------------------------------------------------------------------- */

typedef struct delta_job {
    const ct_kernels *k;
    const ct_delta_net *d;
    const ct_state_run *runs;
    const float *qkv, *z, *a, *b;
    float *y, *scratch;
    size_t scratch_floats;
    float q_factor;
} delta_job;

size_t ct_delta_net_scratch_floats(const ct_delta_net *d)
{
    return TILE_TOKENS * (2 * round_cols(d->d_k) + round_cols(d->d_v)); /* q, k, v of one head */
}

/* n_tok tokens of v head `head`, from row `row` of the batch on. */
static void delta_head(const delta_job *j, size_t head, size_t row, size_t n_tok, float *conv_state, float *state, const float *q,
                       const float *k, float *v)
{
    const ct_delta_net *d = j->d;
    size_t stride = d->conv.n_channels, qk = round_cols(d->d_k), n = d->n_v_heads * d->d_v;
    float decay[TILE_TOKENS], beta[TILE_TOKENS], *y = j->y + row * n + head * d->d_v;
    for (size_t t = 0; t < n_tok; t++) {
        decay[t] = j->a[(row + t) * d->n_v_heads + head] + d->dt_bias[head];
        beta[t] = j->b[(row + t) * d->n_v_heads + head];
    }
    j->k->softplus(decay, decay, n_tok);
    for (size_t t = 0; t < n_tok; t++) decay[t] *= d->a[head];
    j->k->exp(decay, decay, n_tok);
    j->k->sigmoid(beta, beta, n_tok);

    ct_conv_tile c = conv_tile(&d->conv, conv_state, 2 * d->n_k_heads * d->d_k + head * d->d_v, d->d_v, n_tok, j->qkv + row * stride, stride,
                               v, round_cols(d->d_v));
    j->k->causal_conv(&c);
    ct_delta_tile tile = {.n_tok = n_tok, .d_k = d->d_k, .d_v = d->d_v, .q = q, .k = k, .v = v, .qk_stride = qk, .v_stride = round_cols(d->d_v),
                          .decay = decay, .beta = beta, .state = state, .o = y, .o_stride = n};
    j->k->delta_scan(&tile);
    for (size_t t = 0; t < n_tok; t++, y += n) {
        j->k->rms_norm(y, y, d->norm, d->d_v, d->norm_eps);
        j->k->silu_mul(y, j->z + (row + t) * n + head * d->d_v, y, d->d_v);
    }
}

/* Tile: a k head of a run, with the v heads that go with it. */
static void delta_heads(void *ctx, size_t tile, int thread)
{
    const delta_job *j = ctx;
    const ct_delta_net *d = j->d;
    const ct_state_run *run = &j->runs[tile / d->n_k_heads];
    size_t k_head = tile % d->n_k_heads, n_v = d->n_v_heads / d->n_k_heads, stride = d->conv.n_channels, qk = round_cols(d->d_k);
    size_t matrix = ct_columns_floats(d->d_k, d->d_v), q_at = k_head * d->d_k, k_at = q_at + d->n_k_heads * d->d_k;
    size_t v_head = d->tiled ? k_head : k_head * n_v, v_step = d->tiled ? d->n_k_heads : 1;
    float *q = j->scratch + (size_t)thread * j->scratch_floats, *k = q + TILE_TOKENS * qk, *v = k + TILE_TOKENS * qk;
    float *matrices = run->state + conv_floats(&d->conv);
    if (run->fresh) {
        clear_conv(&d->conv, run->state, q_at, d->d_k);
        clear_conv(&d->conv, run->state, k_at, d->d_k);
        for (size_t i = 0; i < n_v; i++) {
            clear_conv(&d->conv, run->state, 2 * d->n_k_heads * d->d_k + (v_head + i * v_step) * d->d_v, d->d_v);
            memset(matrices + (v_head + i * v_step) * matrix, 0, matrix * sizeof *matrices);
        }
    }
    for (size_t from = 0; from < run->n_tok; from += TILE_TOKENS) {
        size_t row = run->first + from, n_tok = ct_min_size(TILE_TOKENS, run->n_tok - from);
        size_t n_next = ct_min_size(TILE_TOKENS, run->n_tok - from - n_tok);
        prefetch_rows(j->qkv + (row + n_tok) * stride + q_at, stride, n_next, d->d_k);
        prefetch_rows(j->qkv + (row + n_tok) * stride + k_at, stride, n_next, d->d_k);
        ct_conv_tile c = conv_tile(&d->conv, run->state, q_at, d->d_k, n_tok, j->qkv + row * stride, stride, q, qk);
        j->k->causal_conv(&c);
        c = conv_tile(&d->conv, run->state, k_at, d->d_k, n_tok, j->qkv + row * stride, stride, k, qk);
        j->k->causal_conv(&c);
        for (size_t t = 0; t < n_tok; t++) {
            j->k->l2_norm(q + t * qk, q + t * qk, d->d_k, d->l2_eps, j->q_factor);
            j->k->l2_norm(k + t * qk, k + t * qk, d->d_k, d->l2_eps, 1.0f);
        }
        for (size_t i = 0; i < n_v; i++) {
            size_t head = v_head + i * v_step;
            prefetch_rows(j->qkv + (row + n_tok) * stride + 2 * d->n_k_heads * d->d_k + head * d->d_v, stride, n_next, d->d_v);
            prefetch_rows(j->z + ((row + n_tok) * d->n_v_heads + head) * d->d_v, d->n_v_heads * d->d_v, n_next, d->d_v);
            delta_head(j, head, row, n_tok, run->state, matrices + head * matrix, q, k, v);
        }
    }
}

void ct_delta_net_mix(const ct_exec *exec, const ct_delta_net *d, const ct_state_run *runs, size_t n_runs, const float *qkv, const float *z,
                      const float *a, const float *b, float *y, float *scratch)
{
    delta_job j = {.k = exec->k, .d = d, .runs = runs, .qkv = qkv, .z = z, .a = a, .b = b, .y = y, .scratch = scratch,
                   .scratch_floats = ct_delta_net_scratch_floats(d), .q_factor = 1.0f / sqrtf((float)d->d_k)};
    ct_pool_run(exec->pool, delta_heads, &j, n_runs * d->n_k_heads);
}
