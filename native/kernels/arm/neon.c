/* neon.c: every operation with the SIMD instructions that all AArch64 CPUs have. dotprod.c and i8mm.c replace the integer
 * products.
 *
 * Panel: quads of 4 rows, then sub-blocks: { f32 d[4]; f32 m[4] if has_min; codes [4 rows][sub_elems] }. */
#include <math.h>

#include "kernels/arm/arm_common.h"
#include "kernels/arm/f32x16.h"
#include "kernels/recurrent_kernels.h"

/* ---- sums and exponentials ------------------------------------------------------------------------------------------ */

/* sum16 of kernels.h */
ARM_INLINE float sum16(const float t[16])
{
    float32x4_t low = vaddq_f32(vld1q_f32(t), vld1q_f32(t + 8)), high = vaddq_f32(vld1q_f32(t + 4), vld1q_f32(t + 12));
    float32x4_t four = vaddq_f32(low, high);
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

ARM_INLINE float exp1(float x) { return vgetq_lane_f32(exp4(vdupq_n_f32(x)), 0); }

/* ---- integer products ----------------------------------------------------------------------------------------------- */

static size_t act_bytes(size_t n_cols) { return arm_act_head_bytes(n_cols) + (n_cols + 63) / 64 * 64; }

void ct_arm_quantize_act(void *act, const float *x, size_t n_cols)
{
    size_t n_blocks = n_cols / CT_ACT_BLOCK;
    float *a = (float *)act, *a_sum32 = a + n_blocks, *a_sum16 = a + 2 * n_blocks;
    int32_t *start1 = (int32_t *)act + 4 * n_blocks, *start8 = start1 + n_blocks, *start32 = start8 + n_blocks;
    int8_t *q = (int8_t *)act + arm_act_head_bytes(n_cols);
    for (size_t b = 0; b < n_blocks; b++, x += CT_ACT_BLOCK, q += CT_ACT_BLOCK) {
        float32x4_t v[8], top[4];
        int16x8_t narrow[4];
        for (size_t i = 0; i < 8; i++) v[i] = vld1q_f32(x + 4 * i);
        for (size_t i = 0; i < 4; i++) top[i] = vmaxq_f32(vabsq_f32(v[i]), vabsq_f32(v[i + 4]));
        float amax = vmaxvq_f32(vmaxq_f32(vmaxq_f32(top[0], top[1]), vmaxq_f32(top[2], top[3])));
        float scale = amax < 1e-30f ? 0.0f : amax / 127.0f, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
        for (size_t i = 0; i < 4; i++) { /* fcvtns rounds half to even; what is no number or too large saturates */
            int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(v[2 * i], inverse));
            int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(v[2 * i + 1], inverse));
            narrow[i] = vqmovn_high_s32(vqmovn_s32(low), high);
        }
        int8x16_t q0 = vqmovn_high_s16(vqmovn_s16(narrow[0]), narrow[1]);
        int8x16_t q1 = vqmovn_high_s16(vqmovn_s16(narrow[2]), narrow[3]);
        vst1q_s8(q, q0);
        vst1q_s8(q + 16, q1);
        int32_t s0 = vaddlvq_s8(q0), s1 = vaddlvq_s8(q1);
        a[b] = scale;
        start1[b] = ARM_MAGIC - (s0 + s1);
        start8[b] = ARM_MAGIC - 8 * (s0 + s1);
        start32[2 * b] = ARM_MAGIC - 32 * s0;
        start32[2 * b + 1] = ARM_MAGIC - 32 * s1;
        a_sum16[2 * b] = scale * (float)s0;
        a_sum16[2 * b + 1] = scale * (float)s1;
        a_sum32[b] = scale * (float)(s0 + s1);
    }
}

enum { TILE_ROWS = 4, TILE_TOKENS = 4 };

ARM_INLINE size_t record_bytes(size_t sub_elems, bool has_min) { return TILE_ROWS * ((has_min ? 8 : 4) + sub_elems); }

static size_t panel_bytes(size_t n_cols)
{
    return ARM_PANEL_ROWS / TILE_ROWS * (n_cols / 16) * record_bytes(16, true); /* the largest records per column */
}

ARM_INLINE void put_quad(uint8_t *panel, size_t quad, size_t g, size_t n_sub, size_t sub_elems, bool has_min, int8x16_t c[4][2],
                         float32x4_t d, float32x4_t m)
{
    uint8_t *record = panel + (quad * n_sub + g) * record_bytes(sub_elems, has_min);
    int8_t *codes = (int8_t *)record + (has_min ? 32 : 16);
    vst1q_f32((float *)(void *)record, d);
    if (has_min) vst1q_f32((float *)(void *)record + 4, m);
    for (size_t i = 0; i < 4; i++, codes += sub_elems) {
        vst1q_s8(codes, c[i][0]);
        if (sub_elems == 32) vst1q_s8(codes + 16, c[i][1]);
    }
}

static void pack_panel(void *panel, const int8_t *codes, const float *d, const float *m, size_t n_rows, size_t n_cols,
                       size_t sub_elems, bool has_min)
{
    if (sub_elems == 32)
        arm_pack(put_quad, panel, codes, d, m, n_rows, n_cols, 32, has_min);
    else
        arm_pack(put_quad, panel, codes, d, m, n_rows, n_cols, 16, has_min);
}

/* y [n_tok, 4] += the records of n_sub sub-blocks times the activations x [n_tok], which start at the first of them. */
ARM_INLINE void multiply_tile(float *y, size_t y_stride, const uint8_t *record, const arm_act x[TILE_TOKENS], size_t n_rows,
                              size_t n_sub, bool first, size_t n_tok, size_t sub_elems, bool has_min)
{
    float32x4_t acc[TILE_TOKENS];
    for (size_t t = 0; t < n_tok; t++) acc[t] = first ? vdupq_n_f32(0.0f) : arm_load_part(y + t * y_stride, n_rows);
    for (size_t g = 0; g < n_sub; g++, record += record_bytes(sub_elems, has_min)) {
        const float *scales = (const float *)(const void *)record;
        const int8_t *codes = (const int8_t *)record + (has_min ? 32 : 16);
        int8x16_t w[4][2];
        for (size_t i = 0; i < 4; i++) {
            w[i][0] = vld1q_s8(codes + i * sub_elems);
            if (sub_elems == 32) w[i][1] = vld1q_s8(codes + i * 32 + 16);
        }
        float32x4_t d = vld1q_f32(scales);
        for (size_t t = 0; t < n_tok; t++) {
            int8x16_t q0 = vld1q_s8(x[t].q + g * sub_elems), q1 = q0;
            int32x4_t part[4];
            if (sub_elems == 32) q1 = vld1q_s8(x[t].q + g * 32 + 16);
            for (size_t i = 0; i < 4; i++) {
                part[i] = arm_dot16(vdupq_n_s32(0), w[i][0], q0);
                if (sub_elems == 32) part[i] = arm_dot16(part[i], w[i][1], q1);
            }
            float32x4_t dot = vcvtq_f32_s32(arm_sums(part[0], part[1], part[2], part[3]));
            acc[t] = vfmaq_f32(acc[t], dot, vmulq_n_f32(d, x[t].a[g * sub_elems / 32]));
            float a_sum = sub_elems == 32 ? x[t].a_sum32[g] : x[t].a_sum16[g];
            if (has_min) acc[t] = vfmaq_n_f32(acc[t], vld1q_f32(scales + 4), a_sum);
        }
    }
    for (size_t t = 0; t < n_tok; t++) arm_store_part(y + t * y_stride, acc[t], n_rows);
}

ARM_INLINE void multiply(float *y, size_t y_stride, const uint8_t *panel, const uint8_t *act, size_t act_stride, size_t n_rows,
                         size_t n_cols, size_t n_tok, size_t sub_elems, bool has_min)
{
    const size_t n_sub = n_cols / sub_elems, record = record_bytes(sub_elems, has_min);
    size_t col = 0;
    do { /* once even without columns: y is written */
        size_t g0 = col / sub_elems, chunk = (n_cols - col < ARM_CHUNK_COLS ? n_cols - col : ARM_CHUNK_COLS) / sub_elems;
        for (size_t t0 = 0; t0 < n_tok; t0 += TILE_TOKENS) {
            size_t n = n_tok - t0 < TILE_TOKENS ? n_tok - t0 : TILE_TOKENS;
            arm_act x[TILE_TOKENS];
            for (size_t t = 0; t < n; t++) {
                x[t] = arm_act_row(act + (t0 + t) * act_stride, n_cols);
                x[t].a += col / 32;
                x[t].a_sum32 += col / 32;
                x[t].a_sum16 += col / 16;
                x[t].q += col;
            }
            for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
                size_t rows = n_rows - r < TILE_ROWS ? n_rows - r : TILE_ROWS;
                const uint8_t *from = panel + (r / TILE_ROWS * n_sub + g0) * record;
                float *to = y + t0 * y_stride + r;
                switch (n) {
                case 4: multiply_tile(to, y_stride, from, x, rows, chunk, col == 0, 4, sub_elems, has_min); break;
                case 3: multiply_tile(to, y_stride, from, x, rows, chunk, col == 0, 3, sub_elems, has_min); break;
                case 2: multiply_tile(to, y_stride, from, x, rows, chunk, col == 0, 2, sub_elems, has_min); break;
                default: multiply_tile(to, y_stride, from, x, rows, chunk, col == 0, 1, sub_elems, has_min); break;
                }
            }
        }
        col += ARM_CHUNK_COLS;
    } while (col < n_cols);
}

static void gemm_i8(float *y, size_t y_stride, const void *panel, const void *act, size_t act_stride, size_t n_rows,
                    size_t n_cols, size_t n_tok, size_t sub_elems, bool has_min)
{
    if (sub_elems == 32 && has_min)
        multiply(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, 32, true);
    else if (sub_elems == 32)
        multiply(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, 32, false);
    else if (has_min)
        multiply(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, 16, true);
    else
        multiply(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, 16, false);
}

static void matvec_codes(float *y, const ct_type_info *info, const void *w, size_t row_bytes, const void *act, size_t n_rows,
                         size_t n_cols)
{
    arm_matvec_codes(y, info, w, row_bytes, act, n_rows, n_cols);
}

ARM_BLOCK_TYPES(ARM_DEFINE_MATVEC)
ARM_BLOCK_TYPES(ARM_DEFINE_UNPACK)

/* ---- conversions ---------------------------------------------------------------------------------------------------- */

ARM_INLINE float32x4_t f16_low(uint16x8_t h) { return vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(h))); }
ARM_INLINE float32x4_t f16_high(uint16x8_t h) { return vcvt_high_f32_f16(vreinterpretq_f16_u16(h)); }
ARM_INLINE float32x4_t bf16_low(uint16x8_t h) { return vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)); }
ARM_INLINE float32x4_t bf16_high(uint16x8_t h) { return vreinterpretq_f32_u32(vshll_high_n_u16(h, 16)); }

static void f16_to_f32(float *y, const uint16_t *x, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint16x8_t h = vld1q_u16(x + i);
        vst1q_f32(y + i, f16_low(h));
        vst1q_f32(y + i + 4, f16_high(h));
    }
    for (; i < n; i++) y[i] = vgetq_lane_f32(f16_low(vdupq_n_u16(x[i])), 0);
}

static void bf16_to_f32(float *y, const uint16_t *x, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint16x8_t h = vld1q_u16(x + i);
        vst1q_f32(y + i, bf16_low(h));
        vst1q_f32(y + i + 4, bf16_high(h));
    }
    for (; i < n; i++) y[i] = ct_bf16_to_f32(x[i]);
}

static void f32_to_f16(uint16_t *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        float16x8_t h = vcvt_high_f16_f32(vcvt_f16_f32(vld1q_f32(x + i)), vld1q_f32(x + i + 4));
        vst1q_u16(y + i, vreinterpretq_u16_f16(h));
    }
    for (; i < n; i++) y[i] = vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(x[i]))), 0);
}

static void quantize_kv(int8_t *codes, float *scales, const float *x, size_t n)
{
    for (size_t b = 0; b < n; b += CT_KV_BLOCK) {
        float block[CT_KV_BLOCK] = {0};
        int8_t rounded[CT_KV_BLOCK];
        size_t left = n - b < CT_KV_BLOCK ? n - b : CT_KV_BLOCK;
        memcpy(block, x + b, left * sizeof *x);
        float32x4_t top = vdupq_n_f32(0.0f);
        for (size_t i = 0; i < CT_KV_BLOCK; i += 4) top = vmaxq_f32(top, vabsq_f32(vld1q_f32(block + i)));
        float amax = vmaxvq_f32(top), scale = amax < 1e-30f ? 0.0f : amax / 127.0f;
        float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
        for (size_t i = 0; i < CT_KV_BLOCK; i += 8) { /* as in quantize_act */
            int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(block + i), inverse));
            int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(block + i + 4), inverse));
            vst1_s8(rounded + i, vqmovn_s16(vqmovn_high_s32(vqmovn_s32(low), high)));
        }
        memcpy(codes + b, rounded, left);
        *scales++ = scale;
    }
}

/* ---- float products ------------------------------------------------------------------------------------------------- */

/* 16 weights of a float type */
ARM_INLINE void load16(ct_type type, const void *from, float32x4_t out[4])
{
    if (type == CT_F32) {
        for (size_t i = 0; i < 4; i++) out[i] = vld1q_f32((const float *)from + 4 * i);
        return;
    }
    uint16x8_t h0 = vld1q_u16((const uint16_t *)from), h1 = vld1q_u16((const uint16_t *)from + 8);
    out[0] = type == CT_F16 ? f16_low(h0) : bf16_low(h0);
    out[1] = type == CT_F16 ? f16_high(h0) : bf16_high(h0);
    out[2] = type == CT_F16 ? f16_low(h1) : bf16_low(h1);
    out[3] = type == CT_F16 ? f16_high(h1) : bf16_high(h1);
}

ARM_INLINE float load1(ct_type type, const void *from)
{
    if (type == CT_F32) return *(const float *)from;
    uint16_t h = *(const uint16_t *)from;
    return type == CT_F16 ? vgetq_lane_f32(f16_low(vdupq_n_u16(h)), 0) : ct_bf16_to_f32(h);
}

enum { MAX_DOT_ROWS = 4, MAX_DOT_TOKENS = 2 };

/* n_rows x n_tok products of rows w_bytes apart; both constants, at most 8 rows times tokens */
ARM_INLINE void dot_tile(ct_type type, float *y, size_t y_stride, const uint8_t *w, size_t w_bytes, const float *x,
                         size_t x_stride, size_t n_cols, size_t n_rows, size_t n_tok)
{
    const size_t size = type == CT_F32 ? 4 : 2, whole = n_cols / 16 * 16;
    float32x4_t acc[MAX_DOT_ROWS][MAX_DOT_TOKENS][4];
    ARM_UNROLL
    for (size_t r = 0; r < n_rows; r++)
        ARM_UNROLL
        for (size_t t = 0; t < n_tok; t++)
            ARM_UNROLL
            for (size_t i = 0; i < 4; i++) acc[r][t][i] = vdupq_n_f32(0.0f);
    for (size_t k = 0; k < whole; k += 16) {
        float32x4_t v[MAX_DOT_TOKENS][4];
        ARM_UNROLL
        for (size_t t = 0; t < n_tok; t++) load16(CT_F32, x + t * x_stride + k, v[t]);
        ARM_UNROLL
        for (size_t r = 0; r < n_rows; r++) {
            float32x4_t u[4];
            load16(type, w + r * w_bytes + k * size, u);
            ARM_UNROLL
            for (size_t t = 0; t < n_tok; t++)
                ARM_UNROLL
                for (size_t i = 0; i < 4; i++) acc[r][t][i] = vfmaq_f32(acc[r][t][i], u[i], v[t][i]);
        }
    }
    float part[MAX_DOT_ROWS][MAX_DOT_TOKENS][16];
    ARM_UNROLL
    for (size_t r = 0; r < n_rows; r++)
        ARM_UNROLL
        for (size_t t = 0; t < n_tok; t++)
            ARM_UNROLL
            for (size_t i = 0; i < 4; i++) vst1q_f32(part[r][t] + 4 * i, acc[r][t][i]);
    ARM_UNROLL
    for (size_t r = 0; r < n_rows; r++)
        ARM_UNROLL
        for (size_t t = 0; t < n_tok; t++) {
            float *lane = part[r][t];
            for (size_t k = whole; k < n_cols; k++, lane++)
                *lane = fmaf(load1(type, w + r * w_bytes + k * size), x[t * x_stride + k], *lane);
            y[t * y_stride + r] = sum16(part[r][t]);
        }
}

ARM_INLINE void matvec_float(ct_type type, float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows,
                             size_t n_cols)
{
    const uint8_t *row = (const uint8_t *)w;
    const float *x = (const float *)act;
    size_t r = 0;
    for (; r + 4 <= n_rows; r += 4, row += 4 * row_bytes) dot_tile(type, y + r, 0, row, row_bytes, x, 0, n_cols, 4, 1);
    for (; r < n_rows; r++, row += row_bytes) dot_tile(type, y + r, 0, row, row_bytes, x, 0, n_cols, 1, 1);
}

static void gemm_f32(float *y, size_t y_stride, const float *w, size_t w_stride, const float *x, size_t x_stride, size_t n_rows,
                     size_t n_cols, size_t n_tok)
{
    const size_t w_bytes = w_stride * sizeof(float), pairs = n_tok / 2 * 2;
    for (size_t r = 0; r < n_rows && pairs > 0; r += 3) {
        const uint8_t *from = (const uint8_t *)(w + r * w_stride);
        for (size_t t = 0; t < pairs; t += 2) {
            const float *xt = x + t * x_stride;
            float *to = y + t * y_stride + r;
            if (n_rows - r >= 3)
                dot_tile(CT_F32, to, y_stride, from, w_bytes, xt, x_stride, n_cols, 3, 2);
            else if (n_rows - r == 2)
                dot_tile(CT_F32, to, y_stride, from, w_bytes, xt, x_stride, n_cols, 2, 2);
            else
                dot_tile(CT_F32, to, y_stride, from, w_bytes, xt, x_stride, n_cols, 1, 2);
        }
    }
    if (pairs < n_tok) matvec_float(CT_F32, y + pairs * y_stride, w, w_bytes, x + pairs * x_stride, n_rows, n_cols);
}

static void matvec_f32(float *y, const void *w, size_t row_bytes, const void *x, size_t n_rows, size_t n_cols, const void *next)
{
    (void)next;
    matvec_float(CT_F32, y, w, row_bytes, x, n_rows, n_cols);
}

static void matvec_f16(float *y, const void *w, size_t row_bytes, const void *x, size_t n_rows, size_t n_cols, const void *next)
{
    (void)next;
    matvec_float(CT_F16, y, w, row_bytes, x, n_rows, n_cols);
}

static void matvec_bf16(float *y, const void *w, size_t row_bytes, const void *x, size_t n_rows, size_t n_cols, const void *next)
{
    (void)next;
    matvec_float(CT_BF16, y, w, row_bytes, x, n_rows, n_cols);
}

/* ---- element-wise and reductions ------------------------------------------------------------------------------------ */

static void rms_norm(float *y, const float *x, const float *weight, size_t n, float eps)
{
    float sum_of_squares, scale;
    size_t i = 0;
    dot_tile(CT_F32, &sum_of_squares, 0, (const uint8_t *)x, 0, x, 0, n, 1, 1);
    scale = 1.0f / sqrtf(sum_of_squares / (float)n + eps);
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), scale), vld1q_f32(weight + i)));
    for (; i < n; i++) y[i] = (x[i] * scale) * weight[i];
}

ARM_INLINE float32x4_t silu_mul4(float32x4_t gate, float32x4_t up)
{
    return vmulq_f32(vdivq_f32(gate, vaddq_f32(vdupq_n_f32(1.0f), exp4(vnegq_f32(gate)))), up);
}

static void silu_mul(float *y, const float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) { /* four chains at a time hide the latency of the polynomial */
        float32x4_t v[4];
        for (size_t j = 0; j < 4; j++) v[j] = silu_mul4(vld1q_f32(gate + i + 4 * j), vld1q_f32(up + i + 4 * j));
        for (size_t j = 0; j < 4; j++) vst1q_f32(y + i + 4 * j, v[j]);
    }
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, silu_mul4(vld1q_f32(gate + i), vld1q_f32(up + i)));
    for (; i < n; i++) y[i] = vgetq_lane_f32(silu_mul4(vdupq_n_f32(gate[i]), vdupq_n_f32(up[i])), 0);
}

static void layer_norm(float *y, const float *x, const float *weight, const float *bias, size_t n, float eps)
{
    float32x4_t sum[4], ss[4];
    float lanes[16], squares[16];
    size_t i = 0;
    for (size_t j = 0; j < 4; j++) sum[j] = ss[j] = vdupq_n_f32(0.0f);
    for (; i + 16 <= n; i += 16)
        for (size_t j = 0; j < 4; j++) sum[j] = vaddq_f32(sum[j], vld1q_f32(x + i + 4 * j));
    for (size_t j = 0; j < 4; j++) vst1q_f32(lanes + 4 * j, sum[j]);
    for (size_t k = i; k < n; k++) lanes[k - i] += x[k];
    float mean = sum16(lanes) / (float)n;
    for (i = 0; i + 16 <= n; i += 16)
        for (size_t j = 0; j < 4; j++) {
            float32x4_t d = vsubq_f32(vld1q_f32(x + i + 4 * j), vdupq_n_f32(mean));
            ss[j] = vfmaq_f32(ss[j], d, d);
        }
    for (size_t j = 0; j < 4; j++) vst1q_f32(squares + 4 * j, ss[j]);
    for (size_t k = i; k < n; k++) squares[k - i] = fmaf(x[k] - mean, x[k] - mean, squares[k - i]);
    float scale = 1.0f / sqrtf(sum16(squares) / (float)n + eps);
    for (i = 0; i + 4 <= n; i += 4) {
        float32x4_t v = vmulq_f32(vmulq_n_f32(vsubq_f32(vld1q_f32(x + i), vdupq_n_f32(mean)), scale), vld1q_f32(weight + i));
        vst1q_f32(y + i, bias != NULL ? vaddq_f32(v, vld1q_f32(bias + i)) : v);
    }
    for (; i < n; i++) {
        float v = ((x[i] - mean) * scale) * weight[i];
        y[i] = bias != NULL ? v + bias[i] : v;
    }
}

ARM_INLINE float32x4_t logistic_times4(float32x4_t x, float32x4_t u) { return vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0f), exp4(vnegq_f32(u)))); }

ARM_INLINE float32x4_t gelu4(float32x4_t x)
{
    return logistic_times4(x, vmulq_f32(x, vfmaq_f32(vdupq_n_f32(0x1.988454p+0f), vmulq_f32(x, x), vdupq_n_f32(0x1.2444f2p-4f))));
}

ARM_INLINE float32x4_t gelu_erf4(float32x4_t x)
{
    float32x4_t a = vabsq_f32(x), z = vmulq_n_f32(a, 0x1.6a09e6p-1f);
    float32x4_t t = vdivq_f32(vdupq_n_f32(1.0f), vfmaq_f32(vdupq_n_f32(1.0f), vdupq_n_f32(0.3275911f), z));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(-1.453152027f), vdupq_n_f32(1.061405429f), t);
    p = vfmaq_f32(vdupq_n_f32(1.421413741f), p, t);
    p = vfmaq_f32(vdupq_n_f32(-0.284496736f), p, t);
    p = vfmaq_f32(vdupq_n_f32(0.254829592f), p, t);
    float32x4_t tail = vmulq_n_f32(vmulq_f32(vmulq_f32(p, t), exp4(vnegq_f32(vmulq_f32(z, z)))), 0.5f);
    return vfmaq_f32(vmaxq_f32(x, vdupq_n_f32(0.0f)), vnegq_f32(a), tail);
}

ARM_INLINE float32x4_t swiglu_oai4(float32x4_t gate, float32x4_t up)
{
    const float32x4_t limit = vdupq_n_f32(7.0f);
    float32x4_t g = vminq_f32(gate, limit), u = vmaxq_f32(vminq_f32(up, limit), vnegq_f32(limit));
    return vmulq_f32(logistic_times4(g, vmulq_n_f32(g, 1.702f)), vaddq_f32(u, vdupq_n_f32(1.0f)));
}

/* y = f(gate), times up where there is one; what is left of a vector goes through a whole one */
#define ACTIVATION(name, f)                                                                                             \
    static void name(float *y, const float *gate, const float *up, size_t n)                                            \
    {                                                                                                                   \
        size_t i = 0;                                                                                                   \
        for (; i + 4 <= n; i += 4) {                                                                                    \
            float32x4_t v = f(vld1q_f32(gate + i));                                                                     \
            vst1q_f32(y + i, up != NULL ? vmulq_f32(v, vld1q_f32(up + i)) : v);                                         \
        }                                                                                                               \
        for (; i < n; i++) {                                                                                            \
            float v = vgetq_lane_f32(f(vdupq_n_f32(gate[i])), 0);                                                       \
            y[i] = up != NULL ? v * up[i] : v;                                                                          \
        }                                                                                                               \
    }
ACTIVATION(gelu_mul, gelu4)
ACTIVATION(gelu_erf_mul, gelu_erf4)

static void swiglu_oai(float *y, const float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, swiglu_oai4(vld1q_f32(gate + i), vld1q_f32(up + i)));
    for (; i < n; i++) y[i] = vgetq_lane_f32(swiglu_oai4(vdupq_n_f32(gate[i]), vdupq_n_f32(up[i])), 0);
}

static void sigmoid_mul(float *y, const float *gate, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, logistic_times4(vld1q_f32(y + i), vld1q_f32(gate + i)));
    for (; i < n; i++) y[i] = vgetq_lane_f32(logistic_times4(vdupq_n_f32(y[i]), vdupq_n_f32(gate[i])), 0);
}

ARM_INLINE float32x4_t softcap4(float32x4_t x, float cap)
{
    float32x4_t e = exp4(vmulq_n_f32(x, 2.0f / cap));
    return vmulq_n_f32(vsubq_f32(vdupq_n_f32(1.0f), vdivq_f32(vdupq_n_f32(2.0f), vaddq_f32(vdupq_n_f32(1.0f), e))), cap);
}

static void softcap(float *x, float cap, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(x + i, softcap4(vld1q_f32(x + i), cap));
    for (; i < n; i++) x[i] = vgetq_lane_f32(softcap4(vdupq_n_f32(x[i]), cap), 0);
}

static void add(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, vaddq_f32(vld1q_f32(y + i), vld1q_f32(x + i)));
    for (; i < n; i++) y[i] += x[i];
}

static void scale(float *y, float factor, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(y + i, vmulq_n_f32(vld1q_f32(y + i), factor));
    for (; i < n; i++) y[i] *= factor;
}

/* max(top, x), but top where x is NaN */
ARM_INLINE float32x4_t greater(float32x4_t top, float32x4_t x) { return vbslq_f32(vcgtq_f32(x, top), x, top); }

static size_t max_index(const float *x, size_t n, float *max)
{
    enum { CHUNK = 1024 }; /* the largest of a chunk is found first; its place only if it beats all chunks before */
    size_t best = 0;
    float top = -INFINITY;
    for (size_t from = 0; from < n; from += CHUNK) {
        size_t end = n - from < CHUNK ? n : from + CHUNK, i = from;
        float32x4_t tops[4];
        float chunk_top;
        for (size_t j = 0; j < 4; j++) tops[j] = vdupq_n_f32(-INFINITY);
        for (; i + 16 <= end; i += 16)
            for (size_t j = 0; j < 4; j++) tops[j] = greater(tops[j], vld1q_f32(x + i + 4 * j));
        chunk_top = vmaxvq_f32(greater(greater(tops[0], tops[1]), greater(tops[2], tops[3])));
        for (; i < end; i++)
            if (x[i] > chunk_top) chunk_top = x[i];
        if (!(chunk_top > top)) continue;
        top = chunk_top;
        for (best = from; x[best] != top;) best++;
    }
    *max = top;
    return best;
}

static void softmax_stats(const float *x, size_t n, float max, float *sum, float *weighted)
{
    float32x4_t sums[4], weighted_sums[4];
    size_t whole = n / 16 * 16;
    for (size_t j = 0; j < 4; j++) sums[j] = weighted_sums[j] = vdupq_n_f32(0.0f);
    for (size_t i = 0; i < whole; i += 16)
        for (size_t j = 0; j < 4; j++) {
            float32x4_t v = vsubq_f32(vld1q_f32(x + i + 4 * j), vdupq_n_f32(max)), e = exp4(v);
            sums[j] = vaddq_f32(sums[j], e);
            weighted_sums[j] = vfmaq_f32(weighted_sums[j], e, v);
        }
    float part[16], weighted_part[16];
    for (size_t j = 0; j < 4; j++) {
        vst1q_f32(part + 4 * j, sums[j]);
        vst1q_f32(weighted_part + 4 * j, weighted_sums[j]);
    }
    for (size_t i = whole; i < n; i++) {
        float v = x[i] - max, e = exp1(v);
        part[i - whole] += e;
        weighted_part[i - whole] = fmaf(e, v, weighted_part[i - whole]);
    }
    *sum = sum16(part);
    *weighted = sum16(weighted_part);
}

/* ---- attention ------------------------------------------------------------------------------------------------------ */

enum { GROUP = 4 /* queries that share the loads of keys and values */, PAGE = CT_PAGE_TOKENS };

typedef enum page_type { PAGE_F32, PAGE_F16, PAGE_I8 } page_type;

/* Keys and values of a page; scales of PAGE_I8 only */
typedef struct page {
    const void *kt, *v;
    const float *k_scale, *v_scale;
} page;

/* Vectors of four that are loaded together: sixteen codes, where there are as many */
ARM_INLINE size_t load_step(size_t n_vec, page_type type) { return type == PAGE_I8 && n_vec >= 4 ? 4 : 1; }

ARM_INLINE void load_codes(float32x4_t out[4], const int8_t *codes, size_t n_vec)
{
    int8x16_t c = vdupq_n_s8(0);
    if (n_vec == 4) {
        c = vld1q_s8(codes);
    } else {
        int32_t four;
        memcpy(&four, codes, sizeof four);
        c = vreinterpretq_s8_s32(vdupq_n_s32(four));
    }
    int16x8_t low = vmovl_s8(vget_low_s8(c)), high = vmovl_high_s8(c);
    out[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)));
    if (n_vec < 4) return;
    out[1] = vcvtq_f32_s32(vmovl_high_s16(low));
    out[2] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)));
    out[3] = vcvtq_f32_s32(vmovl_high_s16(high));
}

ARM_INLINE float32x4_t load4(const void *base, size_t at, page_type type)
{
    if (type == PAGE_F16) return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)base + at)));
    return vld1q_f32((const float *)base + at);
}

/* Element d of keys j … j + 4 * n_vec; n_vec is 1 or, for PAGE_I8, 4 */
ARM_INLINE void load_keys(float32x4_t out[4], const page *p, size_t d, size_t j, size_t n_vec, page_type type)
{
    if (type != PAGE_I8) {
        out[0] = load4(p->kt, d * PAGE + j, type);
        return;
    }
    load_codes(out, (const int8_t *)p->kt + d * PAGE + j, n_vec);
    for (size_t i = 0; i < n_vec; i++) out[i] = vmulq_f32(out[i], vld1q_f32(p->k_scale + d / CT_KV_BLOCK * PAGE + j + 4 * i));
}

/* Elements c … c + 4 * n_vec of a value, all of one block */
ARM_INLINE void load_value(float32x4_t out[4], const page *p, size_t key, size_t d_v, size_t c, size_t n_vec, page_type type)
{
    if (type != PAGE_I8) {
        out[0] = load4(p->v, key * d_v + c, type);
        return;
    }
    load_codes(out, (const int8_t *)p->v + key * d_v + c, n_vec);
    float scale = p->v_scale[key * ct_kv_blocks(d_v) + c / CT_KV_BLOCK];
    for (size_t i = 0; i < n_vec; i++) out[i] = vmulq_n_f32(out[i], scale);
}

/* Bit j is set if the query sees key j. */
static uint32_t visible_keys(const ct_attn_tile *tile, size_t i)
{
    int32_t begin = tile->begin[i], end = tile->end[i];
    return begin < end ? (uint32_t)((UINT64_C(1) << end) - (UINT64_C(1) << begin)) : 0;
}

/* s[i][first … first + 4 * n_vec) = q_i · kt, for n_q queries; n_q * n_vec <= 16, all three constants. */
ARM_INLINE void scores(float s[GROUP][PAGE], const float *q, size_t d_k, const page *p, size_t first, size_t n_q, size_t n_vec,
                       page_type type)
{
    const size_t step = load_step(n_vec, type);
    float32x4_t acc[GROUP][8];
    for (size_t i = 0; i < n_q; i++)
        for (size_t j = 0; j < n_vec; j++) acc[i][j] = vdupq_n_f32(0.0f);
    for (size_t d = 0; d < d_k; d += 4) {
        float32x4_t q4[GROUP];
        for (size_t i = 0; i < n_q; i++) q4[i] = vld1q_f32(q + i * d_k + d);
#define LANE(lane)                                                                                                    \
    for (size_t j = 0; j < n_vec; j += step) {                                                                        \
        float32x4_t k4[4];                                                                                            \
        load_keys(k4, p, d + (lane), first + 4 * j, step, type);                                                      \
        for (size_t n = 0; n < step; n++)                                                                             \
            for (size_t i = 0; i < n_q; i++) acc[i][j + n] = vfmaq_laneq_f32(acc[i][j + n], k4[n], q4[i], lane);      \
    }
        LANE(0)
        LANE(1)
        LANE(2)
        LANE(3)
#undef LANE
    }
    for (size_t i = 0; i < n_q; i++)
        for (size_t j = 0; j < n_vec; j++) vst1q_f32(s[i] + first + 4 * j, acc[i][j]);
}

/* From scores to weights, in place, zero where the query does not see; moves m and l on. Returns what o is multiplied with. */
static float soften(float s[PAGE], uint32_t visible, float *m, float *l)
{
    static const uint32_t lane_bit[4] = {1, 2, 4, 8};
    const uint32x4_t bits = vld1q_u32(lane_bit);
    const float32x4_t lowest = vdupq_n_f32(-INFINITY);
    float32x4_t v[8], top = vdupq_n_f32(*m), p[8];
    for (size_t j = 0; j < 8; j++) {
        v[j] = vbslq_f32(vtstq_u32(vdupq_n_u32(visible >> 4 * j), bits), vld1q_f32(s + 4 * j), lowest);
        top = vmaxq_f32(top, v[j]);
    }
    float m_new = vmaxvq_f32(top), correction = exp1(*m - m_new);
    for (size_t j = 0; j < 8; j++) {
        p[j] = exp4(vsubq_f32(v[j], vdupq_n_f32(m_new))); /* exp(-infinity) is 0 */
        vst1q_f32(s + 4 * j, p[j]);
    }
    for (size_t j = 0; j < 4; j++) {
        float32x4_t lanes = vmulq_n_f32(vld1q_f32(l + 4 * j), correction);
        vst1q_f32(l + 4 * j, vaddq_f32(vaddq_f32(lanes, p[j]), p[j + 4]));
    }
    *m = m_new;
    return correction;
}

/* o[i][c … c + 4 * n_vec) = o * correction + weights · v over the keys in `seen`; n_q * n_vec <= 16, all constants. */
ARM_INLINE void weigh(float *o, size_t d_v, float s[GROUP][PAGE], const float correction[GROUP], uint32_t seen, const page *p,
                      size_t c, size_t n_q, size_t n_vec, page_type type)
{
    const size_t step = load_step(n_vec, type);
    float32x4_t acc[GROUP][16];
    for (size_t i = 0; i < n_q; i++)
        for (size_t j = 0; j < n_vec; j++) acc[i][j] = vmulq_n_f32(vld1q_f32(o + i * d_v + c + 4 * j), correction[i]);
    while (seen != 0) { /* runs of keys that some query of the group sees */
        size_t key = (size_t)__builtin_ctz(seen);
        uint32_t rest = ~(seen >> key);
        size_t end = rest == 0 ? PAGE : key + (size_t)__builtin_ctz(rest);
        if (end > PAGE) end = PAGE;
        seen = end == PAGE ? 0 : seen >> end << end;
        for (; key < end; key++)
            for (size_t j = 0; j < n_vec; j += step) {
                float32x4_t v4[4];
                load_value(v4, p, key, d_v, c + 4 * j, step, type);
                for (size_t n = 0; n < step; n++)
                    for (size_t i = 0; i < n_q; i++) acc[i][j + n] = vfmaq_n_f32(acc[i][j + n], v4[n], s[i][key]);
            }
    }
    for (size_t i = 0; i < n_q; i++)
        for (size_t j = 0; j < n_vec; j++) vst1q_f32(o + i * d_v + c + 4 * j, acc[i][j]);
}

/* Queries first … first + n_q of the tile; n_q and type are constants. */
ARM_INLINE void attend_group(const ct_attn_tile *tile, size_t first, const page *p, size_t n_q, page_type type)
{
    const size_t d_k = tile->d_k, d_v = tile->d_v, wide = n_q == 1 ? 16 : n_q == 2 ? 8 : 4;
    const float *q = tile->q + first * d_k;
    float *o = tile->o + first * d_v, s[GROUP][PAGE], correction[GROUP];
    uint32_t visible[GROUP], seen = 0;
    size_t c = 0;
    for (size_t i = 0; i < n_q; i++) seen |= visible[i] = visible_keys(tile, first + i);
    if (seen == 0) return;
    if (n_q <= 2 && seen >> 16 != 0 && (seen & 0xffff) != 0) {
        scores(s, q, d_k, p, 0, n_q, 8, type);
    } else {
        memset(s, 0, sizeof s);
        for (size_t half = 0; half < 2; half++)
            if ((seen >> 16 * half & 0xffff) != 0) scores(s, q, d_k, p, half * 16, n_q, 4, type);
    }
    if (tile->softcap > 0.0f)
        for (size_t i = 0; i < n_q; i++)
            for (size_t j = 0; j < PAGE; j += 4) vst1q_f32(s[i] + j, softcap4(vld1q_f32(s[i] + j), tile->softcap));
    for (size_t i = 0; i < n_q; i++) {
        correction[i] = 1.0f;
        if (visible[i] != 0)
            correction[i] = soften(s[i], visible[i], tile->m + first + i, tile->l + 16 * (first + i));
        else
            memset(s[i], 0, sizeof s[i]);
    }
    for (; c + 4 * wide <= d_v; c += 4 * wide) weigh(o, d_v, s, correction, seen, p, c, n_q, wide, type);
    for (; c + 16 <= d_v; c += 16) weigh(o, d_v, s, correction, seen, p, c, n_q, 4, type);
    for (; c < d_v; c += 4) weigh(o, d_v, s, correction, seen, p, c, n_q, 1, type);
}

ARM_INLINE void attend(const ct_attn_tile *tile, const page *p, page_type type)
{
    size_t i = 0;
    for (; i + GROUP <= tile->n_q; i += GROUP) attend_group(tile, i, p, GROUP, type);
    switch (tile->n_q - i) {
    case 3: attend_group(tile, i, p, 3, type); break;
    case 2: attend_group(tile, i, p, 2, type); break;
    case 1: attend_group(tile, i, p, 1, type); break;
    default: break;
    }
}

static void attend_f32(const ct_attn_tile *tile, const float *kt, const float *v)
{
    page p = {kt, v, NULL, NULL};
    attend(tile, &p, PAGE_F32);
}

static void attend_f16(const ct_attn_tile *tile, const uint16_t *kt, const uint16_t *v)
{
    page p = {kt, v, NULL, NULL};
    if (tile->n_q <= GROUP) { /* each value is used once: convert it on the way */
        attend(tile, &p, PAGE_F16);
        return;
    }
    float *kt32 = tile->scratch, *v32 = kt32 + PAGE * tile->d_k;
    f16_to_f32(kt32, kt, PAGE * tile->d_k);
    f16_to_f32(v32, v, PAGE * tile->d_v);
    attend_f32(tile, kt32, v32);
}

static void attend_i8(const ct_attn_tile *tile, const ct_page_i8 *page_i8)
{
    page p = {page_i8->kt, page_i8->v, page_i8->k_scale, page_i8->v_scale};
    const size_t d_k = tile->d_k, d_v = tile->d_v;
    if (tile->n_q <= GROUP) {
        attend(tile, &p, PAGE_I8);
        return;
    }
    float *kt32 = tile->scratch, *v32 = kt32 + PAGE * d_k;
    float32x4_t x[4];
    for (size_t d = 0; d < d_k; d++)
        for (size_t j = 0; j < PAGE; j += 16) {
            load_keys(x, &p, d, j, 4, PAGE_I8);
            for (size_t i = 0; i < 4; i++) vst1q_f32(kt32 + d * PAGE + j + 4 * i, x[i]);
        }
    for (size_t j = 0; j < PAGE; j++) {
        size_t c = 0;
        for (; c + 16 <= d_v; c += 16) {
            load_value(x, &p, j, d_v, c, 4, PAGE_I8);
            for (size_t i = 0; i < 4; i++) vst1q_f32(v32 + j * d_v + c + 4 * i, x[i]);
        }
        for (; c < d_v; c += 4) {
            load_value(x, &p, j, d_v, c, 1, PAGE_I8);
            vst1q_f32(v32 + j * d_v + c, x[0]);
        }
    }
    attend_f32(tile, kt32, v32);
}

/* --------------------------------------------------------------------------------------------------------------------- */

void ct_kernels_init_neon(ct_kernels *k)
{
    *k = (ct_kernels){
        .name = "neon",
        .act_bytes = act_bytes,
        .quantize_act = ct_arm_quantize_act,
        .panel_rows = ARM_PANEL_ROWS,
        .panel_bytes = panel_bytes,
        .pack_panel = pack_panel,
        .gemm_i8 = gemm_i8,
        .matvec_codes = matvec_codes,
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
    k->matvec[CT_F16] = matvec_f16;
    k->matvec[CT_BF16] = matvec_bf16;
    ARM_BLOCK_TYPES(ARM_SET_MATVEC)
    ARM_BLOCK_TYPES(ARM_SET_UNPACK)
}
