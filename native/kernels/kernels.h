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

/* A tile of attention: n_q queries, all of heads that share one key/value head, and their running state. Before the first
 * page m = -INFINITY, l = 0, o = 0. After the last page the result of query i is o[i] / sum16(l[i]). */
typedef struct ct_attn_tile {
    size_t n_q;         /* 1 … CT_MAX_QUERIES */
    size_t d_k;         /* head size of queries and keys: a multiple of 4 */
    size_t d_v;         /* head size of values: a multiple of 4 */
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
    void (*add)(float *y, const float *x, size_t n); /* y += x */
    void (*scale)(float *y, float factor, size_t n); /* y *= factor */
    size_t (*max_index)(const float *x, size_t n, float *max); /* first index of the largest; n >= 1; NaN counts as -infinity */
    void (*softmax_stats)(const float *x, size_t n, float max, float *sum, float *weighted);
        /* e = exp(x[i] - max): *sum = 16-lane sum of e (plain adds); *weighted = 16-lane fma sum of e * (x[i] - max) */

    /* ---- attention over one page of keys and values ----
     * kt [d_k, 32]: the page's keys, transposed (key j of the page in column j); v [32, d_v]. For each query i and every visible
     * key j in [begin, end):
     *     s[j] = fma chain over d ascending from +0: s = fma(q[d], kt[d][j], s)
     *     m_new = max(m, max over visible s[j]);  corr = exp(m - m_new)  (0 while m is -INFINITY)
     *     l[lane] *= corr;  o[c] *= corr;  p[j] = exp(s[j] - m_new)
     *     ascending j: l[j % 16] += p[j];  o[c] = fma(p[j], v[j][c], o[c])
     *     m = m_new
     * Columns that no query sees hold anything, NaN included, and must not leak into the result. */
    void (*attend_f16)(const ct_attn_tile *tile, const uint16_t *kt, const uint16_t *v);
    void (*attend_f32)(const ct_attn_tile *tile, const float *kt, const float *v);
    void (*attend_i8)(const ct_attn_tile *tile, const ct_page_i8 *page); /* over the float32 elements that the codes stand for */
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
