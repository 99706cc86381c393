/* recurrent_kernels.h: the recurrent layers of kernels.h, written once for every instruction set over its f32x16 (sixteen floats,
 * v_…). Channels and columns of a state are lanes, tokens go by in order: nothing is ever summed across lanes, and a group of
 * columns stays in the first cache for all tokens of a tile. */
#ifndef CT_RECURRENT_KERNELS_H
#define CT_RECURRENT_KERNELS_H

enum {
#if defined(__AVX512F__)
    STATE_GROUP = 4,             /* blocks of 16 columns of a delta rule's state that share what is read of a token */
    SSD_ROWS = 8, SSD_GROUP = 2, /* rows and blocks of 16 columns of Mamba-2's state that stay in registers */
#else
    STATE_GROUP = 1,
    SSD_ROWS = 4, SSD_GROUP = 1,
#endif
};

/* ---- element-wise ---------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE f32x16 v_sigmoid_below(f32x16 x) { return v_add(v_set1(1.0f), v_exp(v_neg(x))); } /* 1 / sigmoid */

static ALWAYS_INLINE f32x16 v_silu(f32x16 x) { return v_div(x, v_sigmoid_below(x)); }

static ALWAYS_INLINE f32x16 v_softplus(f32x16 x)
{
    f32x16 e = v_exp(v_neg(v_max(x, v_neg(x)))), u = v_div(e, v_add(v_set1(2.0f), e)), z = v_mul(u, u), w = v_add(u, u);
    f32x16 p = v_fma(v_set1(0x1.dbcb6cp-4f), z, v_set1(0x1.bc550ap-4f));
    p = v_fma(p, z, v_set1(0x1.24cd5cp-3f));
    p = v_fma(p, z, v_set1(0x1.9998a6p-3f));
    p = v_fma(p, z, v_set1(0x1.555556p-2f));
    return v_add(v_max(x, v_zero()), v_fma(v_mul(w, z), p, w));
}

/* All 16 floats, or the first n < 16 and zeros. */
static ALWAYS_INLINE f32x16 v_load_some(const float *p, const bool all, size_t n) { return all ? v_load(p) : v_load_n(p, n); }

static ALWAYS_INLINE void v_store_some(float *p, f32x16 v, const bool all, size_t n)
{
    if (all) v_store(p, v);
    else v_store_n(p, v, n);
}

static void sigmoid(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_div(v_set1(1.0f), v_sigmoid_below(v_load(x + i))));
    if (i < n) v_store_n(y + i, v_div(v_set1(1.0f), v_sigmoid_below(v_load_n(x + i, n - i))), n - i);
}

static void softplus(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_softplus(v_load(x + i)));
    if (i < n) v_store_n(y + i, v_softplus(v_load_n(x + i, n - i)), n - i);
}

static void exp_all(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_exp(v_load(x + i)));
    if (i < n) v_store_n(y + i, v_exp(v_load_n(x + i, n - i)), n - i);
}

static void l2_norm(float *y, const float *x, size_t n, float eps, float factor)
{
    f32x16 ss = v_zero();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) ss = v_fma(v_load(x + i), v_load(x + i), ss);
    if (i < n) {
        f32x16 v = v_load_n(x + i, n - i);
        ss = v_fma(v, v, ss);
    }
    f32x16 by = v_set1((1.0f / sqrtf(v_sum(ss) + eps)) * factor);
    for (i = 0; i + 16 <= n; i += 16) v_store(y + i, v_mul(v_load(x + i), by));
    if (i < n) v_store_n(y + i, v_mul(v_load_n(x + i, n - i), by), n - i);
}

/* ---- causal convolution ---------------------------------------------------------------------------------------------- */

/* 16 channels (or n, if not `all`) from channel `at` on, all tokens: taps and past inputs stay in registers. */
static ALWAYS_INLINE void conv_16(const ct_conv_tile *c, size_t at, const bool all, size_t n, const size_t width, const bool gated)
{
    f32x16 w[CT_MAX_CONV_WIDTH], u[CT_MAX_CONV_WIDTH];
    UNROLL
    for (size_t j = 0; j < width; j++) w[j] = v_load_some(c->w + j * c->w_stride + at, all, n);
    UNROLL
    for (size_t j = 0; j < width - 1; j++) u[j] = v_load_some(c->state + j * c->state_stride + at, all, n);
    f32x16 bias = c->bias != NULL ? v_load_some(c->bias + at, all, n) : v_zero();
    for (size_t t = 0; t < c->n_tok; t++) {
        size_t from = t * c->x_stride + at;
        u[width - 1] = v_load_some(c->x + from, all, n);
        if (gated) u[width - 1] = v_mul(u[width - 1], v_load_some(c->b + from, all, n));
        f32x16 s = bias;
        UNROLL
        for (size_t j = 0; j < width; j++) s = v_fma(w[j], u[j], s);
        s = gated ? v_mul(v_load_some(c->c + from, all, n), s) : v_silu(s);
        v_store_some(c->y + t * c->y_stride + at, s, all, n);
        UNROLL
        for (size_t j = 0; j < width - 1; j++) u[j] = u[j + 1];
    }
    UNROLL
    for (size_t j = 0; j < width - 1; j++) v_store_some(c->state + j * c->state_stride + at, u[j], all, n);
}

static ALWAYS_INLINE void conv_all(const ct_conv_tile *c, const size_t width, const bool gated)
{
    size_t at = 0;
    for (; at + 16 <= c->n_channels; at += 16) conv_16(c, at, true, 16, width, gated);
    if (at < c->n_channels) conv_16(c, at, false, c->n_channels - at, width, gated);
}

static void causal_conv(const ct_conv_tile *c)
{
    if (c->c == NULL && c->width == 4) conv_all(c, 4, false);
    else if (c->c == NULL && c->width == 3) conv_all(c, 3, false);
    else if (c->c == NULL) conv_all(c, 2, false);
    else if (c->width == 4) conv_all(c, 4, true);
    else if (c->width == 3) conv_all(c, 3, true);
    else conv_all(c, 2, true);
}

/* ---- Mamba ----------------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE void mamba_16(const ct_mamba_tile *m, size_t t, size_t at, const bool all, size_t n)
{
    const float *a = m->a + at * m->d_state, *b = m->b + t * m->bc_stride, *c = m->c + t * m->bc_stride;
    float *state = m->state + at * m->d_state;
    f32x16 x = v_load_some(m->x + t * m->x_stride + at, all, n), dt = v_load_some(m->dt + t * m->dt_stride + at, all, n);
    if (m->dt_bias != NULL) dt = v_add(dt, v_load_some(m->dt_bias + at, all, n));
    dt = v_softplus(dt);
    f32x16 xd = v_mul(x, dt), s = v_zero();
    for (size_t i = 0; i < m->d_state; i++, a += 16, state += 16) {
        f32x16 h = v_fma(xd, v_set1(b[i]), v_mul(v_load(state), v_exp(v_mul(dt, v_load(a)))));
        v_store(state, h);
        s = v_fma(v_set1(c[i]), h, s);
    }
    s = v_fma(v_load_some(m->d + at, all, n), x, s);
    s = v_mul(v_silu(v_load_some(m->z + t * m->z_stride + at, all, n)), s);
    v_store_some(m->y + t * m->y_stride + at, s, all, n);
}

static void mamba_scan(const ct_mamba_tile *m)
{
    for (size_t t = 0; t < m->n_tok; t++) {
        size_t at = 0;
        for (; at + 16 <= m->n_channels; at += 16) mamba_16(m, t, at, true, 16);
        if (at < m->n_channels) mamba_16(m, t, at, false, m->n_channels - at);
    }
}

/* ---- Mamba-2 --------------------------------------------------------------------------------------------------------- */

/* Up to 16 tokens, and x * dt of each. */
typedef struct ssd_chunk {
    float xd[16][16 * SSD_GROUP];
    size_t first, n_tok;
} ssd_chunk;

/* Rows [row, row + n_rows) of n_blocks times 16 columns from column `at` on, for the tokens of a chunk: they stay in registers, and y
 * is what the rows before added up to. Only the last 16 columns may be cut short (not `all`: there are n). */
static ALWAYS_INLINE void ssd_rows(const ct_ssd_tile *m, const ssd_chunk *chunk, size_t row, const size_t n_rows, size_t at,
                                   const size_t n_blocks, const bool all, size_t n)
{
    f32x16 h[SSD_ROWS][SSD_GROUP], y[SSD_GROUP];
    float *state = m->state + at * m->d_state + row * 16;
    UNROLL
    for (size_t r = 0; r < n_rows; r++) {
        UNROLL
        for (size_t k = 0; k < n_blocks; k++) h[r][k] = v_load(state + (k * m->d_state + r) * 16);
    }
    for (size_t i = 0; i < chunk->n_tok; i++) {
        const size_t t = chunk->first + i;
        const float *b = m->b + t * m->bc_stride + row, *c = m->c + t * m->bc_stride + row, *xd = chunk->xd[i];
        float *out = m->y + t * m->y_stride + at;
        const f32x16 decay = v_set1(m->decay[t]);
        UNROLL
        for (size_t k = 0; k < n_blocks; k++) y[k] = row == 0 ? v_zero() : v_load_some(out + 16 * k, all, n);
        UNROLL
        for (size_t r = 0; r < n_rows; r++) {
            const f32x16 br = v_set1(b[r]), cr = v_set1(c[r]);
            UNROLL
            for (size_t k = 0; k < n_blocks; k++) {
                h[r][k] = v_fma(br, v_load(xd + 16 * k), v_mul(h[r][k], decay));
                y[k] = v_fma(cr, h[r][k], y[k]);
            }
        }
        UNROLL
        for (size_t k = 0; k < n_blocks; k++) v_store_some(out + 16 * k, y[k], all, n);
    }
    UNROLL
    for (size_t r = 0; r < n_rows; r++) {
        UNROLL
        for (size_t k = 0; k < n_blocks; k++) v_store(state + (k * m->d_state + r) * 16, h[r][k]);
    }
}

static ALWAYS_INLINE void ssd_columns(const ct_ssd_tile *m, size_t at, const size_t n_blocks, const bool all, size_t n)
{
    ssd_chunk chunk;
    for (chunk.first = 0; chunk.first < m->n_tok; chunk.first += chunk.n_tok) {
        chunk.n_tok = m->n_tok - chunk.first < 16 ? m->n_tok - chunk.first : 16;
        for (size_t i = 0; i < chunk.n_tok; i++) {
            const float *x = m->x + (chunk.first + i) * m->x_stride + at;
            for (size_t k = 0; k < n_blocks; k++)
                v_store(chunk.xd[i] + 16 * k, v_mul(v_load_some(x + 16 * k, all, n), v_set1(m->dt[chunk.first + i])));
        }
        size_t row = 0;
        for (; row + SSD_ROWS <= m->d_state; row += SSD_ROWS) ssd_rows(m, &chunk, row, SSD_ROWS, at, n_blocks, all, n);
        for (; row < m->d_state; row++) ssd_rows(m, &chunk, row, 1, at, n_blocks, all, n);
        for (size_t i = 0; i < chunk.n_tok; i++) {
            const float *x = m->x + (chunk.first + i) * m->x_stride + at;
            float *y = m->y + (chunk.first + i) * m->y_stride + at;
            for (size_t k = 0; k < n_blocks; k++) {
                f32x16 s = m->d_state > 0 ? v_load_some(y + 16 * k, all, n) : v_zero();
                v_store_some(y + 16 * k, v_fma(v_set1(m->d), v_load_some(x + 16 * k, all, n), s), all, n);
            }
        }
    }
}

static void ssd_scan(const ct_ssd_tile *m)
{
    size_t at = 0;
    for (; at + 16 * SSD_GROUP <= m->head_dim; at += 16 * SSD_GROUP) ssd_columns(m, at, SSD_GROUP, true, 16);
    for (; at + 16 <= m->head_dim; at += 16) ssd_columns(m, at, 1, true, 16);
    if (at < m->head_dim) ssd_columns(m, at, 1, false, m->head_dim - at);
}

/* ---- gated delta rule ------------------------------------------------------------------------------------------------ */

static ALWAYS_INLINE f32x16 v_sum4(const f32x16 p[4]) { return v_add(v_add(p[0], p[1]), v_add(p[2], p[3])); }

/* n_blocks times 16 columns from column `at` on, for all tokens. As to `all` and n: see ssd_rows. */
static ALWAYS_INLINE void delta_columns(const ct_delta_tile *d, size_t at, const size_t n_blocks, const bool all, size_t n)
{
    const size_t n_rows = d->d_k;
    for (size_t t = 0; t < d->n_tok; t++) {
        const float *q = d->q + t * d->qk_stride, *key = d->k + t * d->qk_stride;
        float *state = d->state + at * n_rows;
        f32x16 p[STATE_GROUP][4], delta[STATE_GROUP];
        UNROLL
        for (size_t k = 0; k < n_blocks; k++) {
            UNROLL
            for (size_t r = 0; r < 4; r++) p[k][r] = v_zero();
        }
        size_t i = 0;
        for (; i + 4 <= n_rows; i += 4) {
            UNROLL
            for (size_t r = 0; r < 4; r++) {
                f32x16 kr = v_set1(key[i + r]);
                UNROLL
                for (size_t k = 0; k < n_blocks; k++) p[k][r] = v_fma(kr, v_load(state + (k * n_rows + i + r) * 16), p[k][r]);
            }
        }
        UNROLL
        for (size_t r = 0; r < 3; r++) {
            if (i + r >= n_rows) break;
            UNROLL
            for (size_t k = 0; k < n_blocks; k++)
                p[k][r] = v_fma(v_set1(key[i + r]), v_load(state + (k * n_rows + i + r) * 16), p[k][r]);
        }
        f32x16 decay = v_set1(d->decay[t]);
        UNROLL
        for (size_t k = 0; k < n_blocks; k++) {
            f32x16 v = v_load_some(d->v + t * d->v_stride + at + 16 * k, all, n);
            delta[k] = v_mul(v_fma(v_neg(decay), v_sum4(p[k]), v), v_set1(d->beta[t]));
            UNROLL
            for (size_t r = 0; r < 4; r++) p[k][r] = v_zero();
        }
        for (i = 0; i + 4 <= n_rows; i += 4) {
            UNROLL
            for (size_t r = 0; r < 4; r++) {
                f32x16 kr = v_set1(key[i + r]), qr = v_set1(q[i + r]);
                UNROLL
                for (size_t k = 0; k < n_blocks; k++) {
                    float *at_state = state + (k * n_rows + i + r) * 16;
                    f32x16 s = v_fma(kr, delta[k], v_mul(v_load(at_state), decay));
                    v_store(at_state, s);
                    p[k][r] = v_fma(qr, s, p[k][r]);
                }
            }
        }
        UNROLL
        for (size_t r = 0; r < 3; r++) {
            if (i + r >= n_rows) break;
            UNROLL
            for (size_t k = 0; k < n_blocks; k++) {
                float *at_state = state + (k * n_rows + i + r) * 16;
                f32x16 s = v_fma(v_set1(key[i + r]), delta[k], v_mul(v_load(at_state), decay));
                v_store(at_state, s);
                p[k][r] = v_fma(v_set1(q[i + r]), s, p[k][r]);
            }
        }
        UNROLL
        for (size_t k = 0; k < n_blocks; k++) v_store_some(d->o + t * d->o_stride + at + 16 * k, v_sum4(p[k]), all, n);
    }
}

static void delta_scan(const ct_delta_tile *d)
{
    size_t at = 0;
    for (; at + 16 * STATE_GROUP <= d->d_v; at += 16 * STATE_GROUP) delta_columns(d, at, STATE_GROUP, true, 16);
    for (; at + 16 <= d->d_v; at += 16) delta_columns(d, at, 1, true, 16);
    if (at < d->d_v) delta_columns(d, at, 1, false, d->d_v - at);
}

#endif
