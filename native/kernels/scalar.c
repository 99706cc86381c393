/* scalar.c: the definition of every operation of kernels.h in plain C. It is always built, runs anywhere, and is what each
 * instruction set is compared with, bit for bit. Written to be read; speed comes from the other files. */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

static float sum16(float t[16])
{
    for (size_t half = 8; half >= 1; half /= 2)
        for (size_t l = 0; l < half; l++) t[l] += t[l + half];
    return t[0];
}

static float exp_f32(float x)
{
    if (!(x >= -87.0f)) return 0.0f;
    if (x > 88.0f) x = 88.0f;
    union { float f; uint32_t u; } t = {.f = fmaf(x, 0x1.715476p+0f, 12582912.0f)}, p;
    float n = t.f - 12582912.0f;
    float r = fmaf(n, -0x1.62e4p-1f, x);
    r = fmaf(n, -0x1.7f7d1cp-20f, r);
    p.f = 1.9875691500e-4f;
    p.f = fmaf(p.f, r, 1.3981999507e-3f);
    p.f = fmaf(p.f, r, 8.3334519073e-3f);
    p.f = fmaf(p.f, r, 4.1665795894e-2f);
    p.f = fmaf(p.f, r, 1.6666665459e-1f);
    p.f = fmaf(p.f, r, 5.0000001201e-1f);
    p.f = fmaf(p.f, r * r, r) + 1.0f;
    p.u += t.u << 23;
    return p.f;
}

/* ---- integer products ---------------------------------------------------------------------------------------------- */

/* Activation row: float a[n_cols/32], then int8 q[n_cols]. */
static size_t act_bytes(size_t n_cols)
{
    return (n_cols / CT_ACT_BLOCK * sizeof(float) + n_cols + 63) / 64 * 64;
}

static void quantize_act(void *act, const float *x, size_t n_cols)
{
    float *a = act;
    int8_t *q = (int8_t *)(a + n_cols / CT_ACT_BLOCK);
    for (size_t b = 0; b < n_cols / CT_ACT_BLOCK; b++, x += CT_ACT_BLOCK, q += CT_ACT_BLOCK) {
        float amax = 0.0f;
        for (size_t k = 0; k < CT_ACT_BLOCK; k++) amax = fmaxf(amax, fabsf(x[k]));
        a[b] = amax < 1e-30f ? 0.0f : amax / 127.0f;
        float inv = a[b] > 0.0f ? 1.0f / a[b] : 0.0f;
        for (size_t k = 0; k < CT_ACT_BLOCK; k++) {
            float scaled = x[k] * inv;
            q[k] = scaled >= -127.5f && scaled <= 127.5f ? (int8_t)lrintf(scaled) : 0;
        }
    }
}

/* Panel of one row: float d[n_sub], float m[n_sub], int8 codes[n_cols]; n_sub is at most n_cols/16. */
enum { PANEL_ROWS = 1 };

static size_t panel_bytes(size_t n_cols)
{
    return (2 * (n_cols / 16) * sizeof(float) + n_cols + 63) / 64 * 64;
}

static void pack_panel(void *panel, const int8_t *codes, const float *d, const float *m, size_t n_rows, size_t n_cols,
                       size_t sub_elems, bool has_min)
{
    size_t n_sub = n_cols / sub_elems;
    float *out = panel;
    if (n_rows == 0) {
        memset(panel, 0, panel_bytes(n_cols));
        return;
    }
    memcpy(out, d, n_sub * sizeof(float));
    if (has_min) memcpy(out + n_sub, m, n_sub * sizeof(float));
    memcpy(out + 2 * n_sub, codes, n_cols);
}

static void gemm_i8(float *y, size_t y_stride, const void *panel, const void *act, size_t act_stride, size_t n_rows,
                    size_t n_cols, size_t n_tok, size_t sub_elems, bool has_min)
{
    size_t n_sub = n_cols / sub_elems;
    const float *d = panel, *m = d + n_sub;
    const int8_t *codes = (const int8_t *)(m + n_sub);
    if (n_rows == 0) return;
    for (size_t t = 0; t < n_tok; t++) {
        const float *a = (const float *)((const uint8_t *)act + t * act_stride);
        const int8_t *q = (const int8_t *)(a + n_cols / CT_ACT_BLOCK);
        float acc = 0.0f;
        for (size_t g = 0; g < n_sub; g++) {
            int32_t dot = 0, qsum = 0;
            for (size_t k = g * sub_elems; k < (g + 1) * sub_elems; k++) {
                dot += codes[k] * q[k];
                qsum += q[k];
            }
            float a_g = a[g * sub_elems / CT_ACT_BLOCK];
            acc = fmaf((float)dot, d[g] * a_g, acc);
            if (has_min) acc = fmaf(m[g], a_g * (float)qsum, acc);
        }
        y[t * y_stride] = acc;
    }
}

/* ---- float products ------------------------------------------------------------------------------------------------ */

static void gemm_f32(float *y, size_t y_stride, const float *w, size_t w_stride, const float *x, size_t x_stride, size_t n_rows,
                     size_t n_cols, size_t n_tok)
{
    for (size_t t = 0; t < n_tok; t++)
        for (size_t r = 0; r < n_rows; r++) {
            float partial[16] = {0};
            for (size_t k = 0; k < n_cols; k++)
                partial[k % 16] = fmaf(w[r * w_stride + k], x[t * x_stride + k], partial[k % 16]);
            y[t * y_stride + r] = sum16(partial);
        }
}

static void matvec_f32(float *y, const void *w, size_t row_bytes, const void *x, size_t n_rows, size_t n_cols, const void *next)
{
    (void)next;
    gemm_f32(y, 0, w, row_bytes / sizeof(float), x, 0, n_rows, n_cols, 1);
}

/* ---- conversions --------------------------------------------------------------------------------------------------- */

static void f16_to_f32(float *y, const uint16_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = ct_f16_to_f32(x[i]);
}

static void bf16_to_f32(float *y, const uint16_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = ct_bf16_to_f32(x[i]);
}

static void f32_to_f16(uint16_t *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = ct_f32_to_f16(x[i]);
}

static void quantize_kv(int8_t *codes, float *scales, const float *x, size_t n)
{
    for (size_t b = 0; b < n; b += CT_KV_BLOCK) {
        size_t end = n - b < CT_KV_BLOCK ? n : b + CT_KV_BLOCK;
        float amax = 0.0f;
        for (size_t k = b; k < end; k++) amax = fmaxf(amax, fabsf(x[k]));
        float scale = amax < 1e-30f ? 0.0f : amax / 127.0f, inv = scale > 0.0f ? 1.0f / scale : 0.0f;
        for (size_t k = b; k < end; k++) {
            float scaled = x[k] * inv;
            codes[k] = scaled >= -127.5f && scaled <= 127.5f ? (int8_t)lrintf(scaled) : 0;
        }
        *scales++ = scale;
    }
}

/* ---- element-wise and reductions ----------------------------------------------------------------------------------- */

static void rms_norm(float *y, const float *x, const float *weight, size_t n, float eps)
{
    float partial[16] = {0};
    for (size_t i = 0; i < n; i++) partial[i % 16] = fmaf(x[i], x[i], partial[i % 16]);
    float scale = 1.0f / sqrtf(sum16(partial) / (float)n + eps);
    for (size_t i = 0; i < n; i++) y[i] = (x[i] * scale) * weight[i];
}

static void silu_mul(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = (gate[i] / (1.0f + exp_f32(-gate[i]))) * up[i];
}

static void layer_norm(float *y, const float *x, const float *weight, const float *bias, size_t n, float eps)
{
    float partial[16] = {0}, squares[16] = {0};
    for (size_t i = 0; i < n; i++) partial[i % 16] += x[i];
    float mean = sum16(partial) / (float)n;
    for (size_t i = 0; i < n; i++) {
        float d = x[i] - mean;
        squares[i % 16] = fmaf(d, d, squares[i % 16]);
    }
    float scale = 1.0f / sqrtf(sum16(squares) / (float)n + eps);
    for (size_t i = 0; i < n; i++) {
        float v = ((x[i] - mean) * scale) * weight[i];
        y[i] = bias != NULL ? v + bias[i] : v;
    }
}

static void gelu_mul(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float u = gate[i] * fmaf(gate[i] * gate[i], 0x1.2444f2p-4f, 0x1.988454p+0f), v = gate[i] / (1.0f + exp_f32(-u));
        y[i] = up != NULL ? v * up[i] : v;
    }
}

static void gelu_erf_mul(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float a = fabsf(gate[i]), z = a * 0x1.6a09e6p-1f, t = 1.0f / fmaf(0.3275911f, z, 1.0f), p = 1.061405429f;
        p = fmaf(p, t, -1.453152027f);
        p = fmaf(p, t, 1.421413741f);
        p = fmaf(p, t, -0.284496736f);
        p = fmaf(p, t, 0.254829592f);
        float tail = ((p * t) * exp_f32(-(z * z))) * 0.5f, v = fmaf(-a, tail, gate[i] > 0.0f ? gate[i] : 0.0f);
        y[i] = up != NULL ? v * up[i] : v;
    }
}

static void swiglu_oai(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float g = gate[i] < 7.0f ? gate[i] : 7.0f, u = up[i] < 7.0f ? up[i] : 7.0f;
        if (u < -7.0f) u = -7.0f;
        y[i] = (g / (1.0f + exp_f32(-(g * 1.702f)))) * (u + 1.0f);
    }
}

static void sigmoid_mul(float *y, const float *gate, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = y[i] / (1.0f + exp_f32(-gate[i]));
}

static void softcap(float *x, float cap, size_t n)
{
    float twice = 2.0f / cap;
    for (size_t i = 0; i < n; i++) x[i] = cap * (1.0f - 2.0f / (1.0f + exp_f32(x[i] * twice)));
}

static void add(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] += x[i];
}

static void scale(float *y, float factor, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] *= factor;
}

static size_t max_index(const float *x, size_t n, float *max)
{
    size_t best = 0;
    float top = -INFINITY;
    for (size_t i = 0; i < n; i++)
        if (x[i] > top) top = x[i], best = i;
    *max = top;
    return best;
}

static void softmax_stats(const float *x, size_t n, float max, float *sum, float *weighted)
{
    float partial[16] = {0}, partial_weighted[16] = {0};
    for (size_t i = 0; i < n; i++) {
        float e = exp_f32(x[i] - max);
        partial[i % 16] += e;
        partial_weighted[i % 16] = fmaf(e, x[i] - max, partial_weighted[i % 16]);
    }
    *sum = sum16(partial);
    *weighted = sum16(partial_weighted);
}

/* ---- attention ----------------------------------------------------------------------------------------------------- */

static void attend_f32(const ct_attn_tile *tile, const float *kt, const float *v)
{
    float *s = tile->scratch + CT_PAGE_TOKENS * (tile->d_k + tile->d_v); /* [32] scores, then weights */
    for (size_t i = 0; i < tile->n_q; i++) {
        const float *q = tile->q + i * tile->d_k;
        float *l = tile->l + i * 16, *o = tile->o + i * tile->d_v;
        int32_t begin = tile->begin[i], end = tile->end[i];
        if (begin >= end) continue;
        float m_new = tile->m[i];
        for (int32_t j = begin; j < end; j++) {
            s[j] = 0.0f;
            for (size_t d = 0; d < tile->d_k; d++) s[j] = fmaf(q[d], kt[d * CT_PAGE_TOKENS + (size_t)j], s[j]);
            if (tile->softcap > 0.0f) softcap(&s[j], tile->softcap, 1);
            if (s[j] > m_new) m_new = s[j];
        }
        float corr = exp_f32(tile->m[i] - m_new);
        for (size_t lane = 0; lane < 16; lane++) l[lane] *= corr;
        for (size_t c = 0; c < tile->d_v; c++) o[c] *= corr;
        for (int32_t j = begin; j < end; j++) {
            float p = exp_f32(s[j] - m_new);
            l[j % 16] += p;
            for (size_t c = 0; c < tile->d_v; c++) o[c] = fmaf(p, v[(size_t)j * tile->d_v + c], o[c]);
        }
        tile->m[i] = m_new;
    }
}

static void attend_f16(const ct_attn_tile *tile, const uint16_t *kt, const uint16_t *v)
{
    float *kt32 = tile->scratch, *v32 = kt32 + CT_PAGE_TOKENS * tile->d_k;
    f16_to_f32(kt32, kt, CT_PAGE_TOKENS * tile->d_k);
    f16_to_f32(v32, v, CT_PAGE_TOKENS * tile->d_v);
    attend_f32(tile, kt32, v32);
}

static void attend_i8(const ct_attn_tile *tile, const ct_page_i8 *page)
{
    const size_t d_k = tile->d_k, d_v = tile->d_v;
    float *kt32 = tile->scratch, *v32 = kt32 + CT_PAGE_TOKENS * d_k;
    for (size_t d = 0; d < d_k; d++)
        for (size_t j = 0; j < CT_PAGE_TOKENS; j++)
            kt32[d * CT_PAGE_TOKENS + j] = (float)page->kt[d * CT_PAGE_TOKENS + j] * page->k_scale[d / CT_KV_BLOCK * CT_PAGE_TOKENS + j];
    for (size_t j = 0; j < CT_PAGE_TOKENS; j++)
        for (size_t c = 0; c < d_v; c++)
            v32[j * d_v + c] = (float)page->v[j * d_v + c] * page->v_scale[j * ct_kv_blocks(d_v) + c / CT_KV_BLOCK];
    attend_f32(tile, kt32, v32);
}

/* ---- recurrent layers ---------------------------------------------------------------------------------------------- */

static float silu_f32(float x) { return x / (1.0f + exp_f32(-x)); }

static float softplus_f32(float x)
{
    float e = exp_f32(-fabsf(x)), u = e / (2.0f + e), z = u * u, w = u + u, p = 0x1.dbcb6cp-4f;
    p = fmaf(p, z, 0x1.bc550ap-4f);
    p = fmaf(p, z, 0x1.24cd5cp-3f);
    p = fmaf(p, z, 0x1.9998a6p-3f);
    p = fmaf(p, z, 0x1.555556p-2f);
    return (x > 0.0f ? x : 0.0f) + fmaf(w * z, p, w);
}

static void sigmoid(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = 1.0f / (1.0f + exp_f32(-x[i]));
}

static void softplus(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = softplus_f32(x[i]);
}

static void exp_all(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = exp_f32(x[i]);
}

static void l2_norm(float *y, const float *x, size_t n, float eps, float factor)
{
    float partial[16] = {0};
    for (size_t i = 0; i < n; i++) partial[i % 16] = fmaf(x[i], x[i], partial[i % 16]);
    float by = (1.0f / sqrtf(sum16(partial) + eps)) * factor;
    for (size_t i = 0; i < n; i++) y[i] = x[i] * by;
}

static void causal_conv(const ct_conv_tile *c)
{
    for (size_t i = 0; i < c->n_channels; i++)
        for (size_t t = 0; t < c->n_tok; t++) {
            float in = c->x[t * c->x_stride + i], s = c->bias != NULL ? c->bias[i] : 0.0f;
            if (c->b != NULL) in *= c->b[t * c->x_stride + i];
            for (size_t j = 0; j < c->width; j++) {
                float u = j < c->width - 1 ? c->state[j * c->state_stride + i] : in;
                if (j > 0) c->state[(j - 1) * c->state_stride + i] = u;
                s = fmaf(c->w[j * c->w_stride + i], u, s);
            }
            c->y[t * c->y_stride + i] = c->c != NULL ? c->c[t * c->x_stride + i] * s : silu_f32(s);
        }
}

/* Column j of a state with n_rows rows: element i is 16 * i further. */
static size_t column(size_t j, size_t n_rows) { return j / CT_STATE_COLS * n_rows * CT_STATE_COLS + j % CT_STATE_COLS; }

static void mamba_scan(const ct_mamba_tile *m)
{
    for (size_t t = 0; t < m->n_tok; t++)
        for (size_t j = 0; j < m->n_channels; j++) {
            const float *a = m->a + column(j, m->d_state), *b = m->b + t * m->bc_stride, *c = m->c + t * m->bc_stride;
            float *state = m->state + column(j, m->d_state);
            float x = m->x[t * m->x_stride + j], dt = m->dt[t * m->dt_stride + j], s = 0.0f;
            dt = softplus_f32(m->dt_bias != NULL ? dt + m->dt_bias[j] : dt);
            for (size_t i = 0; i < m->d_state; i++) {
                float *h = state + i * CT_STATE_COLS;
                *h = fmaf(x * dt, b[i], *h * exp_f32(dt * a[i * CT_STATE_COLS]));
                s = fmaf(c[i], *h, s);
            }
            m->y[t * m->y_stride + j] = silu_f32(m->z[t * m->z_stride + j]) * fmaf(m->d[j], x, s);
        }
}

static void ssd_scan(const ct_ssd_tile *m)
{
    for (size_t t = 0; t < m->n_tok; t++)
        for (size_t j = 0; j < m->head_dim; j++) {
            const float *b = m->b + t * m->bc_stride, *c = m->c + t * m->bc_stride;
            float *state = m->state + column(j, m->d_state), x = m->x[t * m->x_stride + j], s = 0.0f;
            for (size_t i = 0; i < m->d_state; i++) {
                float *h = state + i * CT_STATE_COLS;
                *h = fmaf(b[i], x * m->dt[t], *h * m->decay[t]);
                s = fmaf(c[i], *h, s);
            }
            m->y[t * m->y_stride + j] = fmaf(m->d, x, s);
        }
}

static float sum4(const float p[4]) { return (p[0] + p[1]) + (p[2] + p[3]); }

static void delta_scan(const ct_delta_tile *d)
{
    for (size_t t = 0; t < d->n_tok; t++)
        for (size_t j = 0; j < d->d_v; j++) {
            const float *q = d->q + t * d->qk_stride, *k = d->k + t * d->qk_stride;
            float *state = d->state + column(j, d->d_k), p[4] = {0}, o[4] = {0};
            for (size_t i = 0; i < d->d_k; i++) p[i % 4] = fmaf(k[i], state[i * CT_STATE_COLS], p[i % 4]);
            float delta = fmaf(-d->decay[t], sum4(p), d->v[t * d->v_stride + j]) * d->beta[t];
            for (size_t i = 0; i < d->d_k; i++) {
                float *s = state + i * CT_STATE_COLS;
                *s = fmaf(k[i], delta, *s * d->decay[t]);
                o[i % 4] = fmaf(q[i], *s, o[i % 4]);
            }
            d->o[t * d->o_stride + j] = sum4(o);
        }
}

void ct_kernels_init_scalar(ct_kernels *k)
{
    *k = (ct_kernels){
        .name = "scalar",
        .act_bytes = act_bytes,
        .quantize_act = quantize_act,
        .panel_rows = PANEL_ROWS,
        .panel_bytes = panel_bytes,
        .pack_panel = pack_panel,
        .gemm_i8 = gemm_i8,
        .gemm_f32 = gemm_f32,
        .f16_to_f32 = f16_to_f32,
        .bf16_to_f32 = bf16_to_f32,
        .f32_to_f16 = f32_to_f16,
        .quantize_kv = quantize_kv,
        .rms_norm = rms_norm,
        .silu_mul = silu_mul,
        .layer_norm = layer_norm,
        .gelu_mul = gelu_mul,
        .gelu_erf_mul = gelu_erf_mul,
        .swiglu_oai = swiglu_oai,
        .sigmoid_mul = sigmoid_mul,
        .softcap = softcap,
        .add = add,
        .scale = scale,
        .max_index = max_index,
        .softmax_stats = softmax_stats,
        .attend_f16 = attend_f16,
        .attend_f32 = attend_f32,
        .attend_i8 = attend_i8,
        .sigmoid = sigmoid,
        .softplus = softplus,
        .exp = exp_all,
        .l2_norm = l2_norm,
        .causal_conv = causal_conv,
        .mamba_scan = mamba_scan,
        .ssd_scan = ssd_scan,
        .delta_scan = delta_scan,
    };
    k->matvec[CT_F32] = matvec_f32;
}
