/* float_kernels.h: the float operations of kernels.h over f32x16.h, written once for AVX2 and AVX-512. The sizes of the register
 * tiles depend on the number of registers: 32 of sixteen floats, or 16 of eight. */
#ifndef CT_X86_FLOAT_KERNELS_H
#define CT_X86_FLOAT_KERNELS_H

#include "kernels/x86/f32x16.h"

enum {
#if defined(__AVX512F__)
    GEMM_ROWS = 4, GEMM_TOKENS = 6,     /* tile of gemm_f32 */
    MATVEC_ROWS = 8,                    /* rows side by side in a float matvec */
    SCORE_QUERIES = 8,                  /* queries x 32 keys: tile of attention scores */
    VALUE_QUERIES = 4, VALUE_CHUNK = 4, /* queries x 16-float columns: tile of the sum over values */
    VALUE_CHUNK_ONE = 8,                /* columns for one query */
#else
    GEMM_ROWS = 2, GEMM_TOKENS = 3,
    MATVEC_ROWS = 4,
    SCORE_QUERIES = 3,
    VALUE_QUERIES = 2, VALUE_CHUNK = 2,
    VALUE_CHUNK_ONE = 4,
#endif
    ROW_BLOCK_BYTES = 128 * 1024 /* weights that gemm_f32 keeps in L2 while it goes through the tokens */
};

/* ---- conversions ----------------------------------------------------------------------------------------------------- */

static void f16_to_f32(float *y, const uint16_t *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_from_f16(x + i));
    if (i < n) v_store_n(y + i, v_from_f16_n(x + i, n - i), n - i);
}

static void bf16_to_f32(float *y, const uint16_t *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_from_bf16(x + i));
    if (i < n) v_store_n(y + i, v_from_bf16_n(x + i, n - i), n - i);
}

static void f32_to_f16(uint16_t *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_to_f16(y + i, v_load(x + i));
    if (i < n) {
        uint16_t tail[16];
        v_to_f16(tail, v_load_n(x + i, n - i));
        memcpy(y + i, tail, (n - i) * sizeof *y);
    }
}

static ALWAYS_INLINE f32x16 v_abs(f32x16 v) { return v_max(v, v_neg(v)); }

static void quantize_kv(int8_t *codes, float *scales, const float *x, size_t n)
{
    for (size_t b = 0; b < n; b += CT_KV_BLOCK) {
        size_t left = n - b < CT_KV_BLOCK ? n - b : CT_KV_BLOCK, behind = left < 16 ? 0 : left - 16;
        f32x16 x0 = left < 16 ? v_load_n(x + b, left) : v_load(x + b);
        f32x16 x1 = behind == 0 ? v_zero() : behind < 16 ? v_load_n(x + b + 16, behind) : v_load(x + b + 16);
        float amax = v_max_lane(v_max(v_abs(x0), v_abs(x1)));
        float scale = amax < 1e-30f ? 0.0f : amax / 127.0f, inv = scale > 0.0f ? 1.0f / scale : 0.0f;
        int8_t block[CT_KV_BLOCK];
        v_to_i8(block, v_mul(x0, v_set1(inv)));
        v_to_i8(block + 16, v_mul(x1, v_set1(inv)));
        memcpy(codes + b, block, left);
        *scales++ = scale;
    }
}

/* ---- element-wise and reductions ----------------------------------------------------------------------------------- */

static void rms_norm(float *y, const float *x, const float *weight, size_t n, float eps)
{
    f32x16 ss = v_zero();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) ss = v_fma(v_load(x + i), v_load(x + i), ss);
    if (i < n) {
        f32x16 v = v_load_n(x + i, n - i);
        ss = v_fma(v, v, ss);
    }
    f32x16 factor = v_set1(1.0f / sqrtf(v_sum(ss) / (float)n + eps));
    for (i = 0; i + 16 <= n; i += 16) v_store(y + i, v_mul(v_mul(v_load(x + i), factor), v_load(weight + i)));
    if (i < n) v_store_n(y + i, v_mul(v_mul(v_load_n(x + i, n - i), factor), v_load_n(weight + i, n - i)), n - i);
}

static ALWAYS_INLINE f32x16 silu_times(f32x16 gate, f32x16 up)
{
    return v_mul(v_div(gate, v_add(v_set1(1.0f), v_exp(v_neg(gate)))), up);
}

static void silu_mul(float *y, const float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, silu_times(v_load(gate + i), v_load(up + i)));
    if (i < n) v_store_n(y + i, silu_times(v_load_n(gate + i, n - i), v_load_n(up + i, n - i)), n - i);
}

static void layer_norm(float *y, const float *x, const float *weight, const float *bias, size_t n, float eps)
{
    f32x16 sum = v_zero(), ss = v_zero();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) sum = v_add(sum, v_load(x + i));
    if (i < n) sum = v_add(sum, v_load_n(x + i, n - i));
    f32x16 mean = v_set1(v_sum(sum) / (float)n);
    for (i = 0; i + 16 <= n; i += 16) {
        f32x16 d = v_sub(v_load(x + i), mean);
        ss = v_fma(d, d, ss);
    }
    if (i < n) {
        float rest[16] = {0}; /* lanes behind the end must stay zero: 0 - mean is not */
        v_store_n(rest, v_sub(v_load_n(x + i, n - i), mean), n - i);
        ss = v_fma(v_load(rest), v_load(rest), ss);
    }
    f32x16 factor = v_set1(1.0f / sqrtf(v_sum(ss) / (float)n + eps));
    for (i = 0; i + 16 <= n; i += 16) {
        f32x16 v = v_mul(v_mul(v_sub(v_load(x + i), mean), factor), v_load(weight + i));
        v_store(y + i, bias != NULL ? v_add(v, v_load(bias + i)) : v);
    }
    if (i < n) {
        f32x16 v = v_mul(v_mul(v_sub(v_load_n(x + i, n - i), mean), factor), v_load_n(weight + i, n - i));
        v_store_n(y + i, bias != NULL ? v_add(v, v_load_n(bias + i, n - i)) : v, n - i);
    }
}

static ALWAYS_INLINE f32x16 logistic_times(f32x16 x, f32x16 u) { return v_div(x, v_add(v_set1(1.0f), v_exp(v_neg(u)))); }

static ALWAYS_INLINE f32x16 v_gelu(f32x16 x)
{
    return logistic_times(x, v_mul(x, v_fma(v_mul(x, x), v_set1(0x1.2444f2p-4f), v_set1(0x1.988454p+0f))));
}

static ALWAYS_INLINE f32x16 v_gelu_erf(f32x16 x)
{
    f32x16 a = v_abs(x), z = v_mul(a, v_set1(0x1.6a09e6p-1f));
    f32x16 t = v_div(v_set1(1.0f), v_fma(v_set1(0.3275911f), z, v_set1(1.0f)));
    f32x16 p = v_fma(v_set1(1.061405429f), t, v_set1(-1.453152027f));
    p = v_fma(p, t, v_set1(1.421413741f));
    p = v_fma(p, t, v_set1(-0.284496736f));
    p = v_fma(p, t, v_set1(0.254829592f));
    f32x16 tail = v_mul(v_mul(v_mul(p, t), v_exp(v_neg(v_mul(z, z)))), v_set1(0.5f));
    return v_fma(v_neg(a), tail, v_max(x, v_zero()));
}

static ALWAYS_INLINE f32x16 v_swiglu_oai(f32x16 gate, f32x16 up)
{
    const f32x16 limit = v_set1(7.0f);
    f32x16 g = v_min(gate, limit), u = v_max(v_min(up, limit), v_neg(limit));
    return v_mul(logistic_times(g, v_mul(g, v_set1(1.702f))), v_add(u, v_set1(1.0f)));
}

/* y = f(gate), times up where there is one */
#define ACTIVATION(name, f)                                                                                             \
    static void name(float *y, const float *gate, const float *up, size_t n)                                            \
    {                                                                                                                   \
        size_t i = 0;                                                                                                   \
        for (; i + 16 <= n; i += 16) {                                                                                  \
            f32x16 v = f(v_load(gate + i));                                                                             \
            v_store(y + i, up != NULL ? v_mul(v, v_load(up + i)) : v);                                                  \
        }                                                                                                               \
        if (i < n) {                                                                                                    \
            f32x16 v = f(v_load_n(gate + i, n - i));                                                                    \
            v_store_n(y + i, up != NULL ? v_mul(v, v_load_n(up + i, n - i)) : v, n - i);                                \
        }                                                                                                               \
    }
ACTIVATION(gelu_mul, v_gelu)
ACTIVATION(gelu_erf_mul, v_gelu_erf)

static void swiglu_oai(float *y, const float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_swiglu_oai(v_load(gate + i), v_load(up + i)));
    if (i < n) v_store_n(y + i, v_swiglu_oai(v_load_n(gate + i, n - i), v_load_n(up + i, n - i)), n - i);
}

static void sigmoid_mul(float *y, const float *gate, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, logistic_times(v_load(y + i), v_load(gate + i)));
    if (i < n) v_store_n(y + i, logistic_times(v_load_n(y + i, n - i), v_load_n(gate + i, n - i)), n - i);
}

static ALWAYS_INLINE f32x16 v_softcap(f32x16 x, float cap)
{
    f32x16 e = v_exp(v_mul(x, v_set1(2.0f / cap)));
    return v_mul(v_set1(cap), v_sub(v_set1(1.0f), v_div(v_set1(2.0f), v_add(v_set1(1.0f), e))));
}

static void softcap(float *x, float cap, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(x + i, v_softcap(v_load(x + i), cap));
    if (i < n) v_store_n(x + i, v_softcap(v_load_n(x + i, n - i), cap), n - i);
}

static void add(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_add(v_load(y + i), v_load(x + i)));
    if (i < n) v_store_n(y + i, v_add(v_load_n(y + i, n - i), v_load_n(x + i, n - i)), n - i);
}

static void scale(float *y, float factor, size_t n)
{
    f32x16 f = v_set1(factor);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v_store(y + i, v_mul(v_load(y + i), f));
    if (i < n) v_store_n(y + i, v_mul(v_load_n(y + i, n - i), f), n - i);
}

/* Two passes: the largest value, then where it is first. */
static size_t max_index(const float *x, size_t n, float *max)
{
    f32x16 top[4] = {v_set1(-INFINITY), v_set1(-INFINITY), v_set1(-INFINITY), v_set1(-INFINITY)};
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        UNROLL
        for (size_t k = 0; k < 4; k++) top[k] = v_max(v_load(x + i + 16 * k), top[k]);
    }
    float largest = v_max_lane(v_max(v_max(top[0], top[1]), v_max(top[2], top[3])));
    for (; i < n; i++)
        if (x[i] > largest) largest = x[i];
    *max = largest;
    if (!(largest > -INFINITY)) return 0;
    f32x16 wanted = v_set1(largest);
    for (i = 0; i + 16 <= n; i += 16) {
        uint32_t equal = v_equal(v_load(x + i), wanted);
        if (equal != 0) return i + (size_t)__builtin_ctz(equal);
    }
    while (i < n - 1 && x[i] != largest) i++;
    return i;
}

static void softmax_stats(const float *x, size_t n, float max, float *sum, float *weighted)
{
    f32x16 partial = v_zero(), partial_weighted = v_zero(), shift = v_set1(max);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        f32x16 below = v_sub(v_load(x + i), shift), e = v_exp(below);
        partial = v_add(partial, e);
        partial_weighted = v_fma(e, below, partial_weighted);
    }
    float lanes[16], lanes_weighted[16];
    if (i < n) {
        float e[16], below[16];
        f32x16 b = v_sub(v_load_n(x + i, n - i), shift);
        v_store(below, b);
        v_store(e, v_exp(b));
        v_store(lanes, partial);
        v_store(lanes_weighted, partial_weighted);
        for (size_t l = 0; l < n - i; l++) {
            lanes[l] += e[l];
            lanes_weighted[l] = fmaf(e[l], below[l], lanes_weighted[l]);
        }
        partial = v_load(lanes);
        partial_weighted = v_load(lanes_weighted);
    }
    *sum = v_sum(partial);
    *weighted = v_sum(partial_weighted);
}

/* ---- float products ------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE void gemm_f32_tile(float *y, size_t y_stride, const float *w, size_t w_stride, const float *x,
                                        size_t x_stride, size_t n_cols, const size_t n_r, const size_t n_t)
{
    f32x16 acc[GEMM_ROWS][GEMM_TOKENS];
    UNROLL
    for (size_t r = 0; r < n_r; r++) {
        UNROLL
        for (size_t t = 0; t < n_t; t++) acc[r][t] = v_zero();
    }
    size_t k = 0;
    for (; k + 16 <= n_cols; k += 16) {
        f32x16 wv[GEMM_ROWS];
        UNROLL
        for (size_t r = 0; r < n_r; r++) wv[r] = v_load(w + r * w_stride + k);
        UNROLL
        for (size_t t = 0; t < n_t; t++) {
            f32x16 xv = v_load(x + t * x_stride + k);
            UNROLL
            for (size_t r = 0; r < n_r; r++) acc[r][t] = v_fma(wv[r], xv, acc[r][t]);
        }
    }
    if (k < n_cols) {
        UNROLL
        for (size_t t = 0; t < n_t; t++) {
            f32x16 xv = v_load_n(x + t * x_stride + k, n_cols - k);
            UNROLL
            for (size_t r = 0; r < n_r; r++) acc[r][t] = v_fma(v_load_n(w + r * w_stride + k, n_cols - k), xv, acc[r][t]);
        }
    }
    UNROLL
    for (size_t t = 0; t < n_t; t++) {
        UNROLL
        for (size_t r = 0; r < n_r; r++) y[t * y_stride + r] = v_sum(acc[r][t]);
    }
}

#define GEMM_F32_TOKENS(n_t_)                                                                                           \
    static void gemm_f32_tokens_##n_t_(float *y, size_t y_stride, const float *w, size_t w_stride, const float *x,      \
                                       size_t x_stride, size_t n_rows, size_t n_cols)                                   \
    {                                                                                                                   \
        size_t r = 0;                                                                                                   \
        for (; r + GEMM_ROWS <= n_rows; r += GEMM_ROWS)                                                                 \
            gemm_f32_tile(y + r, y_stride, w + r * w_stride, w_stride, x, x_stride, n_cols, GEMM_ROWS, n_t_);           \
        for (; r < n_rows; r++)                                                                                         \
            gemm_f32_tile(y + r, y_stride, w + r * w_stride, w_stride, x, x_stride, n_cols, 1, n_t_);                   \
    }
GEMM_F32_TOKENS(1)
GEMM_F32_TOKENS(2)
GEMM_F32_TOKENS(3)
#if defined(__AVX512F__)
GEMM_F32_TOKENS(4)
GEMM_F32_TOKENS(5)
GEMM_F32_TOKENS(6)
#endif

typedef void (*gemm_f32_fn)(float *, size_t, const float *, size_t, const float *, size_t, size_t, size_t);

static const gemm_f32_fn gemm_f32_tokens[GEMM_TOKENS + 1] = {
    NULL, gemm_f32_tokens_1, gemm_f32_tokens_2, gemm_f32_tokens_3,
#if defined(__AVX512F__)
    gemm_f32_tokens_4, gemm_f32_tokens_5, gemm_f32_tokens_6,
#endif
};

static void gemm_f32(float *y, size_t y_stride, const float *w, size_t w_stride, const float *x, size_t x_stride, size_t n_rows,
                     size_t n_cols, size_t n_tok)
{
    size_t block = ROW_BLOCK_BYTES / (n_cols * sizeof *w + 1) / GEMM_ROWS * GEMM_ROWS + GEMM_ROWS;
    for (size_t r = 0; r < n_rows; r += block) {
        size_t n_r = n_rows - r < block ? n_rows - r : block;
        for (size_t t = 0; t < n_tok;) {
            /* tiles of nearly equal size: 7 tokens are 4 + 3, not 6 + 1 */
            size_t left = n_tok - t, n_tiles = (left + GEMM_TOKENS - 1) / GEMM_TOKENS, n_t = (left + n_tiles - 1) / n_tiles;
            float *out = y + t * y_stride + r;
            gemm_f32_tokens[n_t](out, y_stride, w + r * w_stride, w_stride, x + t * x_stride, x_stride, n_r, n_cols);
            t += n_t;
        }
    }
}

/* Weights of float type `type`: element k of a row, sixteen of them or n < 16. */
static ALWAYS_INLINE f32x16 v_weights(const uint8_t *row, size_t k, const ct_type type)
{
    if (type == CT_F16) return v_from_f16((const uint16_t *)(const void *)row + k);
    if (type == CT_BF16) return v_from_bf16((const uint16_t *)(const void *)row + k);
    return v_load((const float *)(const void *)row + k);
}

static ALWAYS_INLINE f32x16 v_weights_n(const uint8_t *row, size_t k, size_t n, const ct_type type)
{
    if (type == CT_F16) return v_from_f16_n((const uint16_t *)(const void *)row + k, n);
    if (type == CT_BF16) return v_from_bf16_n((const uint16_t *)(const void *)row + k, n);
    return v_load_n((const float *)(const void *)row + k, n);
}

static ALWAYS_INLINE void matvec_float_rows(float *y, const uint8_t *w, size_t row_bytes, const float *x, size_t n_cols,
                                            uintptr_t group_ahead, const size_t n_r, const ct_type type)
{
    const size_t elem_bytes = type == CT_F32 ? 4 : 2;
    f32x16 acc[MATVEC_ROWS];
    UNROLL
    for (size_t r = 0; r < n_r; r++) acc[r] = v_zero();
    size_t k = 0;
    for (; k + 16 <= n_cols; k += 16) {
        f32x16 xv = v_load(x + k);
        uintptr_t ahead = group_ahead + n_r * k * elem_bytes;
        UNROLL
        for (size_t r = 0; r < n_r; r++) {
            acc[r] = v_fma(v_weights(w + r * row_bytes, k, type), xv, acc[r]);
            prefetch_part(ahead, n_r * 16 * elem_bytes, r, n_r);
        }
    }
    if (k < n_cols) {
        f32x16 xv = v_load_n(x + k, n_cols - k);
        UNROLL
        for (size_t r = 0; r < n_r; r++) acc[r] = v_fma(v_weights_n(w + r * row_bytes, k, n_cols - k, type), xv, acc[r]);
    }
    UNROLL
    for (size_t r = 0; r < n_r; r++) y[r] = v_sum(acc[r]);
}

static ALWAYS_INLINE void matvec_float(float *y, const uint8_t *w, size_t row_bytes, const float *x, size_t n_rows, size_t n_cols,
                                       const void *next, const ct_type type)
{
    const stream in = stream_of(w, row_bytes, n_rows, next);
    size_t r = 0;
    for (; r + MATVEC_ROWS <= n_rows; r += MATVEC_ROWS)
        matvec_float_rows(y + r, w + r * row_bytes, row_bytes, x, n_cols, stream_ahead(&in, r), MATVEC_ROWS, type);
    for (; r < n_rows; r++) matvec_float_rows(y + r, w + r * row_bytes, row_bytes, x, n_cols, stream_ahead(&in, r), 1, type);
}

static void matvec_f32(float *y, const void *w, size_t row_bytes, const void *x, size_t n_rows, size_t n_cols, const void *next)
{
    matvec_float(y, w, row_bytes, x, n_rows, n_cols, next, CT_F32);
}

static void matvec_f16(float *y, const void *w, size_t row_bytes, const void *x, size_t n_rows, size_t n_cols, const void *next)
{
    matvec_float(y, w, row_bytes, x, n_rows, n_cols, next, CT_F16);
}

static void matvec_bf16(float *y, const void *w, size_t row_bytes, const void *x, size_t n_rows, size_t n_cols, const void *next)
{
    matvec_float(y, w, row_bytes, x, n_rows, n_cols, next, CT_BF16);
}

/* ---- attention ------------------------------------------------------------------------------------------------------ */

typedef enum page_type { PAGE_F32, PAGE_F16, PAGE_I8 } page_type;

/* The keys or the values of a page. */
typedef struct page_part {
    const void *data;
    const float *scale; /* of PAGE_I8 */
} page_part;

static ALWAYS_INLINE f32x16 v_elements(const void *p, size_t k, const page_type type)
{
    if (type == PAGE_I8) return v_from_i8((const int8_t *)p + k);
    return type == PAGE_F16 ? v_from_f16((const uint16_t *)p + k) : v_load((const float *)p + k);
}

static ALWAYS_INLINE f32x16 v_elements_n(const void *p, size_t k, size_t n, const page_type type)
{
    if (type == PAGE_I8) return v_from_i8_n((const int8_t *)p + k, n);
    return type == PAGE_F16 ? v_from_f16_n((const uint16_t *)p + k, n) : v_load_n((const float *)p + k, n);
}

/* Element d of keys j … j + 16 */
static ALWAYS_INLINE f32x16 v_keys(page_part kt, size_t d, size_t j, const page_type type)
{
    f32x16 k = v_elements(kt.data, d * CT_PAGE_TOKENS + j, type);
    return type == PAGE_I8 ? v_mul(k, v_load(kt.scale + d / CT_KV_BLOCK * CT_PAGE_TOKENS + j)) : k;
}

static ALWAYS_INLINE f32x16 v_value_scale(page_part v, size_t j, size_t d_v, size_t c)
{
    return v_set1(v.scale[j * ct_kv_blocks(d_v) + c / CT_KV_BLOCK]);
}

/* Elements c … c + 16 of value j; c is a multiple of 16 */
static ALWAYS_INLINE f32x16 v_value(page_part v, size_t j, size_t d_v, size_t c, const page_type type)
{
    f32x16 row = v_elements(v.data, j * d_v + c, type);
    return type == PAGE_I8 ? v_mul(row, v_value_scale(v, j, d_v, c)) : row;
}

/* Its last n < 16 elements, then zeros */
static ALWAYS_INLINE f32x16 v_value_n(page_part v, size_t j, size_t d_v, size_t c, size_t n, const page_type type)
{
    f32x16 row = v_elements_n(v.data, j * d_v + c, n, type);
    return type == PAGE_I8 ? v_mul(row, v_value_scale(v, j, d_v, c)) : row;
}

/* s [n_q, 32] = scores of all keys of the page; columns that a query does not see may hold anything. */
static ALWAYS_INLINE void score_tile(float *s, const float *q, size_t d_k, page_part kt, const size_t n_q, const page_type type)
{
    f32x16 acc[SCORE_QUERIES][2];
    UNROLL
    for (size_t i = 0; i < n_q; i++) acc[i][0] = acc[i][1] = v_zero();
    for (size_t d = 0; d < d_k; d++) {
        f32x16 k0 = v_keys(kt, d, 0, type), k1 = v_keys(kt, d, 16, type);
        UNROLL
        for (size_t i = 0; i < n_q; i++) {
            f32x16 qv = v_set1(q[i * d_k + d]);
            acc[i][0] = v_fma(qv, k0, acc[i][0]);
            acc[i][1] = v_fma(qv, k1, acc[i][1]);
        }
    }
    UNROLL
    for (size_t i = 0; i < n_q; i++) {
        v_store(s + i * CT_PAGE_TOKENS, acc[i][0]);
        v_store(s + i * CT_PAGE_TOKENS + 16, acc[i][1]);
    }
}

static ALWAYS_INLINE void scores(float *s, const ct_attn_tile *tile, page_part kt, const page_type type)
{
    const size_t d_k = tile->d_k;
    size_t i = 0;
    for (; i + SCORE_QUERIES <= tile->n_q; i += SCORE_QUERIES)
        score_tile(s + i * CT_PAGE_TOKENS, tile->q + i * d_k, d_k, kt, SCORE_QUERIES, type);
    s += i * CT_PAGE_TOKENS;
    const float *q = tile->q + i * d_k;
    switch (tile->n_q - i) {
#if defined(__AVX512F__)
    case 7: score_tile(s, q, d_k, kt, 7, type); break;
    case 6: score_tile(s, q, d_k, kt, 6, type); break;
    case 5: score_tile(s, q, d_k, kt, 5, type); break;
    case 4: score_tile(s, q, d_k, kt, 4, type); break;
    case 3: score_tile(s, q, d_k, kt, 3, type); break;
#endif
    case 2: score_tile(s, q, d_k, kt, 2, type); break;
    case 1: score_tile(s, q, d_k, kt, 1, type); break;
    default: break;
    }
}

/* acc[i] = fma(p[i][j], v[j], acc[i]) for j in [from, to), ascending: n_q queries, n_c columns of 16 floats. */
static ALWAYS_INLINE void add_values(f32x16 acc[], const float *const p[], page_part v, size_t d_v, size_t c, int32_t from,
                                     int32_t to, const size_t n_q, const size_t n_c, const page_type type)
{
    for (int32_t j = from; j < to; j++) {
        f32x16 row[VALUE_CHUNK_ONE];
        UNROLL
        for (size_t k = 0; k < n_c; k++) row[k] = v_value(v, (size_t)j, d_v, c + 16 * k, type);
        UNROLL
        for (size_t i = 0; i < n_q; i++) {
            f32x16 weight = v_set1(p[i][j]);
            UNROLL
            for (size_t k = 0; k < n_c; k++) acc[i * n_c + k] = v_fma(weight, row[k], acc[i * n_c + k]);
        }
    }
}

typedef struct value_query {
    const float *p; /* [32] weights of the page's keys */
    float *o;       /* [d_v] */
    float corr;
    int32_t begin, end;
} value_query;

/* o = o * corr + sum of p[j] * v[j] for columns c … c + 16*n_c. The keys that all queries see are done together, what only one
 * query sees by itself: a key that a query does not see never touches it, whatever it holds. */
static ALWAYS_INLINE void value_tile(const value_query *queries, page_part v, size_t d_v, size_t c, const size_t n_q,
                                     const size_t n_c, const page_type type)
{
    f32x16 acc[VALUE_QUERIES * VALUE_CHUNK > VALUE_CHUNK_ONE ? VALUE_QUERIES * VALUE_CHUNK : VALUE_CHUNK_ONE];
    const float *p[VALUE_QUERIES];
    int32_t from = 0, to = CT_PAGE_TOKENS;
    UNROLL
    for (size_t i = 0; i < n_q; i++) {
        p[i] = queries[i].p;
        if (queries[i].begin > from) from = queries[i].begin;
        if (queries[i].end < to) to = queries[i].end;
        f32x16 corr = v_set1(queries[i].corr);
        UNROLL
        for (size_t k = 0; k < n_c; k++) acc[i * n_c + k] = v_mul(v_load(queries[i].o + c + 16 * k), corr);
    }
    if (from >= to) from = to = CT_PAGE_TOKENS; /* nothing in common */
    if (n_q > 1) {
        UNROLL
        for (size_t i = 0; i < n_q; i++) {
            int32_t end = queries[i].end < from ? queries[i].end : from;
            add_values(acc + i * n_c, p + i, v, d_v, c, queries[i].begin, end, 1, n_c, type);
        }
    }
    add_values(acc, p, v, d_v, c, from, to, n_q, n_c, type);
    if (n_q > 1) {
        UNROLL
        for (size_t i = 0; i < n_q; i++) add_values(acc + i * n_c, p + i, v, d_v, c, to, queries[i].end, 1, n_c, type);
    }
    UNROLL
    for (size_t i = 0; i < n_q; i++) {
        UNROLL
        for (size_t k = 0; k < n_c; k++) v_store(queries[i].o + c + 16 * k, acc[i * n_c + k]);
    }
}

/* The last n < 16 columns of one query. */
static ALWAYS_INLINE void value_tail(const value_query *query, page_part v, size_t d_v, size_t c, size_t n, const page_type type)
{
    f32x16 acc = v_mul(v_load_n(query->o + c, n), v_set1(query->corr));
    for (int32_t j = query->begin; j < query->end; j++)
        acc = v_fma(v_set1(query->p[j]), v_value_n(v, (size_t)j, d_v, c, n, type), acc);
    v_store_n(query->o + c, acc, n);
}

/* All whole vectors of n_q > 1 queries, which share the conversion of each value. */
static ALWAYS_INLINE void value_group(const value_query *queries, page_part v, size_t d_v, const size_t n_q, const page_type type)
{
    size_t c = 0;
    for (; c + 16 * VALUE_CHUNK <= d_v; c += 16 * VALUE_CHUNK) value_tile(queries, v, d_v, c, n_q, VALUE_CHUNK, type);
    for (; c + 16 <= d_v; c += 16) value_tile(queries, v, d_v, c, n_q, 1, type);
}

static ALWAYS_INLINE void values(const value_query *queries, size_t n_q, page_part v, size_t d_v, const page_type type)
{
    size_t i = 0;
    for (; i + VALUE_QUERIES <= n_q; i += VALUE_QUERIES) value_group(queries + i, v, d_v, VALUE_QUERIES, type);
#if defined(__AVX512F__)
    if (n_q - i == 3) value_group(queries + i, v, d_v, 3, type), i += 3;
    if (n_q - i == 2) value_group(queries + i, v, d_v, 2, type), i += 2;
#endif
    for (; i < n_q; i++) {
        size_t c = 0;
        for (; c + 16 * VALUE_CHUNK_ONE <= d_v; c += 16 * VALUE_CHUNK_ONE)
            value_tile(queries + i, v, d_v, c, 1, VALUE_CHUNK_ONE, type);
        for (; c + 64 <= d_v; c += 64) value_tile(queries + i, v, d_v, c, 1, 4, type);
        for (; c + 16 <= d_v; c += 16) value_tile(queries + i, v, d_v, c, 1, 1, type);
    }
    if (d_v % 16 != 0)
        for (i = 0; i < n_q; i++) value_tail(queries + i, v, d_v, d_v / 16 * 16, d_v % 16, type);
}

static ALWAYS_INLINE void attend(const ct_attn_tile *tile, page_part kt, page_part v, const page_type type)
{
    float *s = tile->scratch + CT_PAGE_TOKENS * (tile->d_k + tile->d_v); /* [n_q, 32] scores, then weights */
    float m_new[CT_MAX_QUERIES] = {0}, corr[CT_MAX_QUERIES];
    value_query queries[CT_MAX_QUERIES];
    size_t n_seeing = 0;

    scores(s, tile, kt, type);
    if (tile->softcap > 0.0f) softcap(s, tile->softcap, tile->n_q * CT_PAGE_TOKENS);
    for (size_t i = 0; i < tile->n_q; i++) {
        if (tile->begin[i] >= tile->end[i]) continue;
        const float *si = s + i * CT_PAGE_TOKENS;
        f32x16 lowest = v_set1(-INFINITY);
        f32x16 s0 = v_in_range(v_load(si), 0, tile->begin[i], tile->end[i], lowest);
        f32x16 s1 = v_in_range(v_load(si + 16), 16, tile->begin[i], tile->end[i], lowest);
        float top = v_max_lane(v_max(s0, s1));
        m_new[i] = top > tile->m[i] ? top : tile->m[i];
    }
    for (size_t i = 0; i < tile->n_q; i += 16) {
        f32x16 m = tile->n_q - i >= 16 ? v_load(tile->m + i) : v_load_n(tile->m + i, tile->n_q - i);
        v_store(corr + i, v_exp(v_sub(m, v_load(m_new + i))));
    }
    for (size_t i = 0; i < tile->n_q; i++) {
        if (tile->begin[i] >= tile->end[i]) continue;
        float *si = s + i * CT_PAGE_TOKENS, *l = tile->l + i * 16;
        f32x16 shift = v_set1(m_new[i]);
        f32x16 p0 = v_in_range(v_exp(v_sub(v_load(si), shift)), 0, tile->begin[i], tile->end[i], v_zero());
        f32x16 p1 = v_in_range(v_exp(v_sub(v_load(si + 16), shift)), 16, tile->begin[i], tile->end[i], v_zero());
        v_store(si, p0);
        v_store(si + 16, p1);
        v_store(l, v_add(v_add(v_mul(v_load(l), v_set1(corr[i])), p0), p1));
        tile->m[i] = m_new[i];
        queries[n_seeing++] = (value_query){si, tile->o + i * tile->d_v, corr[i], tile->begin[i], tile->end[i]};
    }
    values(queries, n_seeing, v, tile->d_v, type);
}

static void attend_f32(const ct_attn_tile *tile, const float *kt, const float *v) {
    attend(tile, (page_part){kt, NULL}, (page_part){v, NULL}, PAGE_F32);
}

/* Pages that are gone through more than once are converted first; for a few queries that would cost more than it saves. */
static void attend_f16(const ct_attn_tile *tile, const uint16_t *kt, const uint16_t *v)
{
    if (tile->n_q <= SCORE_QUERIES) {
        attend(tile, (page_part){kt, NULL}, (page_part){v, NULL}, PAGE_F16);
        return;
    }
    float *kt32 = tile->scratch, *v32 = kt32 + CT_PAGE_TOKENS * tile->d_k;
    f16_to_f32(kt32, kt, CT_PAGE_TOKENS * tile->d_k);
    f16_to_f32(v32, v, CT_PAGE_TOKENS * tile->d_v);
    attend_f32(tile, kt32, v32);
}

static void attend_i8(const ct_attn_tile *tile, const ct_page_i8 *page)
{
    page_part kt = {page->kt, page->k_scale}, v = {page->v, page->v_scale};
    const size_t d_k = tile->d_k, d_v = tile->d_v, whole = d_v / 16 * 16;
    if (tile->n_q <= SCORE_QUERIES) {
        attend(tile, kt, v, PAGE_I8);
        return;
    }
    float *kt32 = tile->scratch, *v32 = kt32 + CT_PAGE_TOKENS * d_k;
    for (size_t d = 0; d < d_k; d++)
        for (size_t j = 0; j < CT_PAGE_TOKENS; j += 16) v_store(kt32 + d * CT_PAGE_TOKENS + j, v_keys(kt, d, j, PAGE_I8));
    for (size_t j = 0; j < CT_PAGE_TOKENS; j++) {
        for (size_t c = 0; c < whole; c += 16) v_store(v32 + j * d_v + c, v_value(v, j, d_v, c, PAGE_I8));
        if (whole < d_v) v_store_n(v32 + j * d_v + whole, v_value_n(v, j, d_v, whole, d_v - whole, PAGE_I8), d_v - whole);
    }
    attend_f32(tile, kt32, v32);
}

#endif
