/* kernels.h: the table of operations that every instruction set provides.
 *
 * One promise holds for the whole table: **an operation is defined down to its rounding.** The order of every float32 operation
 * is part of the definition below, so scalar.c, AVX2, AVX-512, NEON, … give the same bits, a matrix product gives the same bits
 * as the matrix-vector products of its tokens, and a sequence's tokens depend neither on what else is in the batch nor on how
 * its prompt was cut into chunks. Tests compare with ==. To keep the promise:
 *
 *   - `fma(a, b, c)` below is one fused multiply-add (fmaf, vfmadd, fmla); every other operation rounds on its own. All kernel
 *     files are compiled with -ffp-contract=off and without -ffast-math.
 *   - `sum16(t[0..15])` is the tree  t[l] += t[l+8] (l < 8);  t[l] += t[l+4] (l < 4);  t[l] += t[l+2] (l < 2);  t[0] + t[1].
 *   - A "16-lane sum" of a sequence v[0..n-1] keeps 16 partial results, element i in partial i % 16, ascending, from +0, and
 *     ends with sum16.
 *   - Infinities and NaN in data give unspecified numbers (never a crash, never an access out of bounds). The sign of a zero
 *     is not part of the definition.
 *
 * A kernel owns nothing: it allocates nothing, keeps no state and starts no thread. Pointers into weights may have any alignment
 * that the file gives (for block types: 2); activations, panels and scratch are 64-byte aligned at their start. Kernels never
 * read past the bytes that their arguments describe (a row of weights may end at the end of the mapped file).
 *
 * Sizes: n_rows = output features, n_cols = input features, n_tok = tokens. For block types n_cols is a multiple of the block.
 */
#ifndef CT_KERNELS_H
#define CT_KERNELS_H

#include "gguf/types.h"

enum {
    CT_ACT_BLOCK = 32,   /* elements that share one scale in quantised activations */
    CT_KV_BLOCK = 32,    /* elements of a head that share one scale in 8-bit keys and values; a head's last block may be shorter */
    CT_PAGE_TOKENS = 32, /* tokens in a page of keys and values */
    CT_MAX_QUERIES = 64  /* queries in an attention tile */
};

enum {
    CT_STATE_COLS = 16,    /* columns of a recurrent state that lie side by side (see "recurrent layers" below) */
    CT_MIN_CONV_WIDTH = 2, /* taps of a causal convolution */
    CT_MAX_CONV_WIDTH = 4
};

/* A tile of attention: n_q queries, all of heads that share one key/value head, and their running state. Before the first
 * page m = -INFINITY, l = 0, o = 0. After the last page the result of query i is o[i] / sum16(l[i]). */
typedef struct ct_attn_tile {
    size_t n_q;         /* 1 … CT_MAX_QUERIES */
    size_t d_k;         /* head size of queries and keys: a multiple of 4 */
    size_t d_v;         /* head size of values: a multiple of 4 */
    float softcap;      /* scores s become softcap(s); 0: they stay */
    const float *q;     /* [n_q, d_k], already multiplied by the softmax scale */
    const int32_t *begin; /* [n_q] first key of the page that the query sees */
    const int32_t *end;   /* [n_q] behind the last one; begin >= end: the query skips this page, its state stays */
    float *m;           /* [n_q] running maximum */
    float *l;           /* [n_q, 16] running lane sums of exp */
    float *o;           /* [n_q, d_v] running weighted sum of values */
    float *scratch;     /* [32*d_k + 32*d_v + 32*n_q] floats, contents irrelevant before and after */
} ct_attn_tile;

/* A page of 8-bit keys and values. Element = (float)code * scale of its token and block, one rounding. */
typedef struct ct_page_i8 {
    const int8_t *kt;     /* [d_k, 32] codes of the keys, transposed */
    const float *k_scale; /* [ct_kv_blocks(d_k), 32]: of element d of key j in [d / 32][j] */
    const int8_t *v;      /* [32, d_v] codes of the values */
    const float *v_scale; /* [32, ct_kv_blocks(d_v)]: of element c of value j in [j][c / 32] */
} ct_page_i8;

/* A causal convolution of n_channels channels over n_tok tokens in order, each channel with its own `width` taps. Strides are in
 * elements, from one token (or tap) to the next; x, b, c, bias, w, state and y point at the first of the channels. */
typedef struct ct_conv_tile {
    size_t n_tok, n_channels;
    size_t width;            /* CT_MIN_CONV_WIDTH … CT_MAX_CONV_WIDTH */
    const float *x;          /* [n_tok, n_channels] */
    size_t x_stride;
    const float *b, *c;      /* both NULL, or factors of what goes in and comes out, laid out as x */
    const float *w;          /* [width, n_channels] taps, that of the oldest input first */
    size_t w_stride;
    const float *bias;       /* [n_channels] or NULL */
    float *state;            /* [width - 1, n_channels] inputs before the first token, oldest first; left as after the last one */
    size_t state_stride;
    float *y;                /* [n_tok, n_channels]; may be x if the strides are equal */
    size_t y_stride;
} ct_conv_tile;

/* The selective scan of Mamba (Gu & Dao 2023, arXiv:2312.00752) over a range of channels. */
typedef struct ct_mamba_tile {
    size_t n_tok, n_channels, d_state;
    const float *x, *z, *dt; /* [n_tok, n_channels] */
    size_t x_stride, z_stride, dt_stride;
    const float *b, *c;      /* [n_tok, d_state] */
    size_t bc_stride;
    const float *a;          /* [n_channels/16, d_state, 16] (a matrix by columns, as `state`) */
    const float *d;          /* [n_channels] */
    const float *dt_bias;    /* [n_channels] or NULL */
    float *state;            /* [n_channels/16, d_state, 16] */
    float *y;                /* [n_tok, n_channels]; may be x if the strides are equal */
    size_t y_stride;
} ct_mamba_tile;

/* One head of Mamba-2 (Dao & Gu 2024, arXiv:2405.21060): a state [d_state, head_dim] that decays by a factor per token. */
typedef struct ct_ssd_tile {
    size_t n_tok, d_state, head_dim;
    const float *x;          /* [n_tok, head_dim] */
    const float *b, *c;      /* [n_tok, d_state] */
    size_t x_stride, bc_stride;
    const float *dt, *decay; /* [n_tok] */
    float d;
    float *state;            /* [head_dim/16, d_state, 16] */
    float *y;                /* [n_tok, head_dim]; not x */
    size_t y_stride;
} ct_ssd_tile;

/* One head of the gated delta rule (Yang et al. 2024, arXiv:2412.06464): a state [d_k, d_v]. */
typedef struct ct_delta_tile {
    size_t n_tok, d_k, d_v;
    const float *q, *k;         /* [n_tok, d_k] */
    const float *v;             /* [n_tok, d_v] */
    size_t qk_stride, v_stride;
    const float *decay, *beta;  /* [n_tok] */
    const float *qk;            /* [n_tok] products q·k */
    float *state;               /* [d_v/16, d_k, 16] */
    float *o;                   /* [n_tok, d_v] */
    size_t o_stride;
} ct_delta_tile;

static inline size_t ct_kv_blocks(size_t d) { return (d + CT_KV_BLOCK - 1) / CT_KV_BLOCK; }

typedef struct ct_kernels {
    const char *name;

    /* ---- integer products: y = W·x over weights in affine codes (gguf/types.h) and int8 activations --------------------
     *
     * An activation row x[n_cols] is quantised in blocks of 32 (quantize_act):
     *     amax = max |x|            a = amax / 127.0f, or 0 if amax < 1e-30f
     *     inv = a > 0 ? 1.0f / a : 0        q[k] = round-half-to-even(x[k] * inv), in [-127, 127]
     * Its memory layout is the instruction set's own; a row takes act_bytes(n_cols) bytes (a multiple of 64).
     *
     * One output of a product is, with sub-blocks g of `sub` = 16 or 32 elements in ascending order and acc = +0:
     *     dot = sum over the sub-block of code[k] * q[k]                      exact int32
     *     acc = fma((float)dot, d[g] * a[32-block of g], acc)
     *     has_min only:  qsum = sum over the sub-block of q[k]                exact int32
     *                    acc = fma(m[g], a[…] * (float)qsum, acc)
     * y = acc. The two fma of a sub-block come in this order.
     */
    size_t (*act_bytes)(size_t n_cols);
    void (*quantize_act)(void *act, const float *x, size_t n_cols); /* one row */

    /* A panel is `panel_rows` rows of weights unpacked for gemm_i8, in a layout of the instruction set's own. panel_bytes, a
     * multiple of 64, holds any type's panel of n_cols columns. pack_panel makes one from affine codes: codes [n_rows, n_cols], d and m
     * [n_rows, n_cols/sub_elems], n_rows <= panel_rows (missing rows become zeros). unpack[type], where not NULL, makes the
     * same panel directly from the file's blocks, w + r*row_bytes being row r. */
    size_t panel_rows;
    size_t (*panel_bytes)(size_t n_cols);
    void (*pack_panel)(void *panel, const int8_t *codes, const float *d, const float *m, size_t n_rows, size_t n_cols,
                       size_t sub_elems, bool has_min);
    void (*unpack[CT_N_TYPES])(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols);

    /* y[t*y_stride + r] for t < n_tok, r < n_rows <= panel_rows. act: rows of quantize_act, act_stride bytes apart. */
    void (*gemm_i8)(float *y, size_t y_stride, const void *panel, const void *act, size_t act_stride, size_t n_rows,
                    size_t n_cols, size_t n_tok, size_t sub_elems, bool has_min);

    /* y[r], r < n_rows, for one token, straight from the file's blocks. NULL: matvec_codes is used instead.
     * For float types `act` is the float32 row itself and the definition is that of gemm_f32. `next`, which is never read, is what
     * the thread reads after these rows: a hint for prefetching. NULL: what follows them. */
    void (*matvec[CT_N_TYPES])(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                               const void *next);

    /* The same for any block type, whose `info` decodes the rows as they are needed: for types without a matvec. NULL: unpack (or
     * pack_panel) and gemm_i8 are used instead. */
    void (*matvec_codes)(float *y, const ct_type_info *info, const void *w, size_t row_bytes, const void *act, size_t n_rows,
                         size_t n_cols);

    /* y[t*y_stride + r], r < n_rows, for 1 … few_tokens tokens (rows of quantize_act, act_stride bytes apart), straight from the
     * file's blocks. NULL: unpack and gemm_i8 are used instead. */
    size_t few_tokens;
    void (*matmul_few[CT_N_TYPES])(float *y, size_t y_stride, const void *w, size_t row_bytes, const void *act, size_t act_stride,
                                   size_t n_rows, size_t n_cols, size_t n_tok, const void *next);

    /* ---- float products ------------------------------------------------------------------------------------------------
     * y[t*y_stride + r] = 16-lane sum over k of w[r*w_stride + k] * x[t*x_stride + k], accumulated with fma:
     * partial[k % 16] = fma(w, x, partial[k % 16]). Strides in elements. Any n_cols, n_rows, n_tok. */
    void (*gemm_f32)(float *y, size_t y_stride, const float *w, size_t w_stride, const float *x, size_t x_stride, size_t n_rows,
                     size_t n_cols, size_t n_tok);

    /* ---- conversions, n elements, any alignment ---- */
    void (*f16_to_f32)(float *y, const uint16_t *x, size_t n);
    void (*bf16_to_f32)(float *y, const uint16_t *x, size_t n);
    void (*f32_to_f16)(uint16_t *y, const float *x, size_t n); /* nearest even; too large: infinity */

    /* One row of keys or values to 8 bits: codes[n] and scales[ct_kv_blocks(n)], each block of 32 (or what is left) by
     * quantize_act's rule: scale is its a, codes its q. */
    void (*quantize_kv)(int8_t *codes, float *scales, const float *x, size_t n);

    /* ---- element-wise and reductions ----
     * exp(x) is: 0 if x < -87; x = min(x, 88); t = fma(x, 0x1.715476p+0f, 12582912.0f); n = t - 12582912.0f;
     *   r = fma(n, -0x1.62e4p-1f, x); r = fma(n, -0x1.7f7d1cp-20f, r);
     *   p = 1.9875691500e-4f; p = fma(p, r, c) for c = 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
     *   1.6666665459e-1f, 5.0000001201e-1f; p = fma(p, r*r, r) + 1.0f; result p * 2^n (n added to the exponent bits, n being
     *   the low bits of t). Constants: Cephes expf (S. Moshier). */
    void (*rms_norm)(float *y, const float *x, const float *weight, size_t n, float eps);
        /* ss = 16-lane fma sum of x*x; scale = 1.0f / sqrtf(ss / (float)n + eps); y = (x * scale) * weight. y may be x. */
    void (*silu_mul)(float *y, const float *gate, const float *up, size_t n);
        /* y = (gate / (1.0f + exp(-gate))) * up. y may be gate or up. */
    void (*layer_norm)(float *y, const float *x, const float *weight, const float *bias, size_t n, float eps);
        /* mean = (16-lane sum of x) / (float)n; ss = 16-lane fma sum of (x - mean)^2; scale = 1.0f / sqrtf(ss / (float)n + eps);
         * y = ((x - mean) * scale) * weight + bias, each operation rounded; bias may be NULL: none is added. y may be x. */
    void (*gelu_mul)(float *y, const float *gate, const float *up, size_t n);
        /* GELU by tanh (Hendrycks & Gimpel 2016, arXiv:1606.08415), written with the logistic function:
         * u = gate * fma(gate * gate, 0x1.2444f2p-4f, 0x1.988454p+0f); y = gate / (1.0f + exp(-u)), times up where it is not
         * NULL. y may be gate or up. */
    void (*gelu_erf_mul)(float *y, const float *gate, const float *up, size_t n);
        /* GELU by the error function (Abramowitz & Stegun 7.1.26, |error| < 1.5e-7): a = |gate|; z = a * 0x1.6a09e6p-1f;
         * t = 1.0f / fma(0.3275911f, z, 1.0f); p = 1.061405429f; p = fma(p, t, c) for c = -1.453152027f, 1.421413741f,
         * -0.284496736f, 0.254829592f; tail = ((p * t) * exp(-(z * z))) * 0.5f; y = fma(-a, tail, max(gate, 0)), times up where
         * it is not NULL. y may be gate or up. */
    void (*swiglu_oai)(float *y, const float *gate, const float *up, size_t n);
        /* gpt-oss: g = min(gate, 7.0f); u = max(min(up, 7.0f), -7.0f); y = (g / (1.0f + exp(-(g * 1.702f)))) * (u + 1.0f).
         * y may be gate or up. */
    void (*sigmoid_mul)(float *y, const float *gate, size_t n); /* y = y / (1.0f + exp(-gate)) */
    void (*softcap)(float *x, float cap, size_t n);
        /* cap * tanh(x / cap): e = exp(x * (2.0f / cap)); x = cap * (1.0f - 2.0f / (1.0f + e)) */
    void (*add)(float *y, const float *x, size_t n); /* y += x */
    void (*scale)(float *y, float factor, size_t n); /* y *= factor */
    size_t (*max_index)(const float *x, size_t n, float *max); /* first index of the largest; n >= 1; NaN counts as -infinity */
    void (*softmax_stats)(const float *x, size_t n, float max, float *sum, float *weighted);
        /* e = exp(x[i] - max): *sum = 16-lane sum of e (plain adds); *weighted = 16-lane fma sum of e * (x[i] - max) */

    /* ---- attention over one page of keys and values ----
     * kt [d_k, 32]: the page's keys, transposed (key j of the page in column j); v [32, d_v]. For each query i and every visible
     * key j in [begin, end):
     *     s[j] = fma chain over d ascending from +0: s = fma(q[d], kt[d][j], s);  softcap > 0: s = softcap(s)
     *     m_new = max(m, max over visible s[j]);  corr = exp(m - m_new)  (0 while m is -INFINITY)
     *     l[lane] *= corr;  o[c] *= corr;  p[j] = exp(s[j] - m_new)
     *     ascending j: l[j % 16] += p[j];  o[c] = fma(p[j], v[j][c], o[c])
     *     m = m_new
     * Columns that no query sees hold anything, NaN included, and must not leak into the result. */
    void (*attend_f16)(const ct_attn_tile *tile, const uint16_t *kt, const uint16_t *v);
    void (*attend_f32)(const ct_attn_tile *tile, const float *kt, const float *v);
    void (*attend_i8)(const ct_attn_tile *tile, const ct_page_i8 *page); /* over the float32 elements that the codes stand for */

    /* ---- recurrent layers ----
     * Tokens in order, each from the state that the one before it left: so the result does not depend on how they were grouped.
     * A state matrix s[i][j], i < n_rows, j < n_cols, lies by columns, 16 of them side by side: element i, j at
     * [j / 16][i][j % 16]; columns that fill up the last 16 hold anything. Sizes may be anything, 0 included. */
    void (*sigmoid)(float *y, const float *x, size_t n);  /* y = 1.0f / (1.0f + exp(-x)). y may be x. */
    void (*softplus)(float *y, const float *x, size_t n);
        /* log(1 + exp(x)): e = exp(-|x|);  u = e / (2.0f + e);  z = u * u;  p = 0x1.dbcb6cp-4f;  p = fma(p, z, c) for
         * c = 0x1.bc550ap-4f, 0x1.24cd5cp-3f, 0x1.9998a6p-3f, 0x1.555556p-2f;  w = u + u;
         * y = max(x, 0) + fma(w * z, p, w), as log(1 + e) = 2 atanh(u). y may be x. */
    void (*exp)(float *y, const float *x, size_t n);      /* y may be x */
    void (*l2_norm)(float *y, const float *x, size_t n, float eps, float factor);
        /* ss = 16-lane fma sum of x*x; scale = (1.0f / sqrtf(ss + eps)) * factor; y = x * scale. y may be x. */
    void (*causal_conv)(const ct_conv_tile *tile);
        /* u[t] = x[t], or x[t] * b[t]; u[-1], u[-2], … are the state;  s = bias, or +0;
         * s = fma(w[j], u[t - (width - 1) + j], s), j ascending;  y[t] = s / (1.0f + exp(-s)), or c[t] * s */
    void (*mamba_scan)(const ct_mamba_tile *tile);
        /* per channel j: dt' = softplus(dt[j] + dt_bias[j]), or of dt[j];  xd = x[j] * dt';  s = +0; ascending i:
         *     state[i][j] = fma(xd, b[i], state[i][j] * exp(dt' * a[i][j]));  s = fma(c[i], state[i][j], s)
         * s = fma(d[j], x[j], s);  y[j] = (z[j] / (1.0f + exp(-z[j]))) * s */
    void (*ssd_scan)(const ct_ssd_tile *tile);
        /* per column j: xd = x[j] * dt;  state[i][j] = fma(b[i], xd, state[i][j] * decay);
         * s = +0;  s = fma(c[i], state[i][j], s), i ascending;  y[j] = fma(d, x[j], s) */
    void (*delta_scan)(const ct_delta_tile *tile);
        /* per column j, from +0, i ascending: sk = fma(k[i], state[i][j], sk);  sq = fma(q[i], state[i][j], sq);  then
         * delta = fma(-decay, sk, v[j]) * beta;  o[j] = fma(qk, delta, sq * decay);
         * state[i][j] = fma(k[i], delta, state[i][j] * decay) */
} ct_kernels;

/* The set by name, or the best one for name == NULL. NULL when the CPU (or this build) does not have it. */
const ct_kernels *ct_kernels_get(const char *name);

/* Names of the sets that run here, best first, space-separated. */
const char *ct_kernels_available(void);

/* The sets, each in its own file; a set that refines another copies that one's table and replaces entries. */
void ct_kernels_init_scalar(ct_kernels *k);
#if defined(__x86_64__)
void ct_kernels_init_avx2(ct_kernels *k);       /* x86/avx2.c: AVX2, FMA, F16C */
void ct_kernels_init_avxvnni(ct_kernels *k);    /* x86/avxvnni.c: avx2 with 256-bit vpdpbusd */
void ct_kernels_init_avx512vnni(ct_kernels *k); /* x86/avx512vnni.c: AVX-512 F, BW, VL, DQ and VNNI */
#endif
#if defined(__aarch64__)
void ct_kernels_init_neon(ct_kernels *k);    /* arm/neon.c: baseline ARMv8.0 */
void ct_kernels_init_dotprod(ct_kernels *k); /* arm/dotprod.c: neon with sdot */
void ct_kernels_init_i8mm(ct_kernels *k);    /* arm/i8mm.c: dotprod with smmla */
#endif

#endif
