/* arm_common.h: what the ARM kernel sets share: the layout of quantised activations, the reading of blocks, matrix-vector
 * products over them, and the filling of panels. Each set includes it and is compiled with its own -march: arm_dot16 uses sdot
 * where that allows it. */
#ifndef CT_ARM_COMMON_H
#define CT_ARM_COMMON_H

#include <arm_neon.h>
#include <string.h>

#include "kernels/kernels.h"

/* Everything here is written once with the type, the sizes or the number of tokens as arguments, and instantiated with
 * constants: the branches on them are decided by the compiler. */
#define ARM_INLINE static inline __attribute__((always_inline, unused))

/* Before a loop whose count is such a constant, where gcc would else keep an array of vectors in memory. */
#define ARM_UNROLL _Pragma("GCC unroll 16")

enum {
    ARM_PANEL_ROWS = 32,
    ARM_CHUNK_COLS = 512 /* columns of a panel that gemm_i8 uses for all tokens before it goes on: they stay in L1 */
};

/* Scales in blocks: any alignment, any declared type. */
typedef uint16_t arm_u16 __attribute__((may_alias, aligned(1)));
typedef uint32_t arm_u32 __attribute__((may_alias, aligned(1)));

/* ---- activations --------------------------------------------------------------------------------------------------- */

/* A quantised row. a_sum… are a * (float)sum: what the minimum of a sub-block is multiplied with. */
typedef struct arm_act {
    const float *a;         /* [n_cols/32] scales */
    const float *a_sum32;   /* [n_cols/32] */
    const float *a_sum16;   /* [n_cols/16] */
    const int32_t *sum32;   /* [n_cols/32] sums of q */
    const int32_t *sum16;   /* [n_cols/16] */
    const int8_t *q;        /* [n_cols] */
} arm_act;

ARM_INLINE size_t arm_act_head_bytes(size_t n_cols) { return (n_cols / 32 * 7 * sizeof(float) + 63) / 64 * 64; }

ARM_INLINE arm_act arm_act_row(const void *act, size_t n_cols)
{
    size_t n_blocks = n_cols / 32;
    const float *a = (const float *)act;
    const int32_t *sums = (const int32_t *)act + 4 * n_blocks;
    return (arm_act){.a = a, .a_sum32 = a + n_blocks, .a_sum16 = a + 2 * n_blocks, .sum32 = sums, .sum16 = sums + n_blocks,
                     .q = (const int8_t *)act + arm_act_head_bytes(n_cols)};
}

/* ---- small pieces -------------------------------------------------------------------------------------------------- */

/* acc + 4 partial dot products of 16 codes; their sum is what counts. Without sdot: two products of int8 (|q| <= 127) fit in
 * int16. */
ARM_INLINE int32x4_t arm_dot16(int32x4_t acc, int8x16_t w, int8x16_t q)
{
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(acc, w, q);
#else
    return vpadalq_s16(acc, vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(q)), w, q));
#endif
}

/* [sum p0, sum p1, sum p2, sum p3] */
ARM_INLINE int32x4_t arm_sums(int32x4_t p0, int32x4_t p1, int32x4_t p2, int32x4_t p3)
{
    return vpaddq_s32(vpaddq_s32(p0, p1), vpaddq_s32(p2, p3));
}

/* 4 x 4 dwords, rows to columns, in place */
ARM_INLINE void arm_transpose(uint32x4_t r[4])
{
    uint64x2_t t0 = vreinterpretq_u64_u32(vtrn1q_u32(r[0], r[1])), t1 = vreinterpretq_u64_u32(vtrn2q_u32(r[0], r[1]));
    uint64x2_t t2 = vreinterpretq_u64_u32(vtrn1q_u32(r[2], r[3])), t3 = vreinterpretq_u64_u32(vtrn2q_u32(r[2], r[3]));
    r[0] = vreinterpretq_u32_u64(vtrn1q_u64(t0, t2));
    r[1] = vreinterpretq_u32_u64(vtrn1q_u64(t1, t3));
    r[2] = vreinterpretq_u32_u64(vtrn2q_u64(t0, t2));
    r[3] = vreinterpretq_u32_u64(vtrn2q_u64(t1, t3));
}

/* The first n of four floats. Without a loop, so that the loops around it unroll and their accumulators stay in registers. */
ARM_INLINE float32x4_t arm_load_part(const float *p, size_t n)
{
    if (n >= 4) return vld1q_f32(p);
    float32x2_t low = vdup_n_f32(0.0f), high = low;
    if (n >= 2) low = vld1_f32(p);
    if (n == 1) low = vld1_lane_f32(p, low, 0);
    if (n == 3) high = vld1_lane_f32(p + 2, high, 0);
    return vcombine_f32(low, high);
}

ARM_INLINE void arm_store_part(float *p, float32x4_t v, size_t n)
{
    if (n >= 4) {
        vst1q_f32(p, v);
        return;
    }
    if (n >= 2) vst1_f32(p, vget_low_f32(v));
    if (n == 1) vst1q_lane_f32(p, v, 0);
    if (n == 3) vst1q_lane_f32(p + 2, v, 2);
}

/* ---- blocks -------------------------------------------------------------------------------------------------------- */

/* Shape of a type: what types.c says, as constants. Codes are read with `1 << bias_shift` added (no bias: -1), so that they are
 * the plain bits of the file; a dot product is corrected by the sum of the activations instead. */
typedef struct arm_shape {
    size_t block_elems, block_bytes, sub_elems;
    bool has_min;
    int bias_shift;
} arm_shape;

ARM_INLINE arm_shape arm_shape_of(ct_type type)
{
    switch (type) {
    case CT_Q4_0: return (arm_shape){32, 18, 32, false, 3};
    case CT_Q4_1: return (arm_shape){32, 20, 32, true, -1};
    case CT_Q5_0: return (arm_shape){32, 22, 32, false, 4};
    case CT_Q5_1: return (arm_shape){32, 24, 32, true, -1};
    case CT_IQ4_NL: return (arm_shape){32, 18, 32, false, -1};
    case CT_Q4_K: return (arm_shape){256, 144, 32, true, -1};
    case CT_Q5_K: return (arm_shape){256, 176, 32, true, -1};
    case CT_Q6_K: return (arm_shape){256, 210, 16, false, 5};
    case CT_TQ2_0: return (arm_shape){256, 66, 32, false, 0};
    default: return (arm_shape){32, 34, 32, false, -1}; /* CT_Q8_0 */
    }
}

/* The fifth bits of 16 codes: bit k of `bits` becomes 16 in byte k. */
ARM_INLINE uint8x16_t arm_fifth_bits(uint32_t bits)
{
    static const uint8_t byte_of[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    static const uint8_t bit_of[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t spread = vqtbl1q_u8(vreinterpretq_u8_u32(vdupq_n_u32(bits)), vld1q_u8(byte_of));
    return vandq_u8(vtstq_u8(spread, vld1q_u8(bit_of)), vdupq_n_u8(16));
}

/* `byte` shifted so that its bit `from` arrives at bit `to`. */
ARM_INLINE uint8x16_t arm_move_bits(uint8x16_t byte, int from, int to)
{
    return vshlq_u8(byte, vdupq_n_s8((int8_t)(to - from)));
}

/* Codes of sub-block g of a block, bias included: c[0], and c[1] where sub_elems is 32. */
ARM_INLINE void arm_codes(ct_type type, const uint8_t *block, size_t g, int8x16_t c[2])
{
    const uint8x16_t low4 = vdupq_n_u8(15);
    uint8x16_t lo, hi;
    switch (type) {
    case CT_Q4_0:
    case CT_Q4_1:
    case CT_Q5_0:
    case CT_Q5_1:
    case CT_IQ4_NL: {
        size_t head = arm_shape_of(type).block_bytes - 16;
        uint8x16_t nibbles = vld1q_u8(block + head);
        lo = vandq_u8(nibbles, low4);
        hi = vshrq_n_u8(nibbles, 4);
        if (type == CT_Q5_0 || type == CT_Q5_1) {
            uint32_t high = *(const arm_u32 *)(block + head - 4);
            lo = vorrq_u8(lo, arm_fifth_bits(high));
            hi = vorrq_u8(hi, arm_fifth_bits(high >> 16));
        }
        if (type == CT_IQ4_NL) {
            static const int8_t levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
            uint8x16_t level = vreinterpretq_u8_s8(vld1q_s8(levels));
            lo = vqtbl1q_u8(level, lo);
            hi = vqtbl1q_u8(level, hi);
        }
        break;
    }
    case CT_Q4_K:
    case CT_Q5_K: { /* 32 bytes of nibbles hold two sub-blocks */
        const uint8_t *q = block + arm_shape_of(type).block_bytes - 128 + g / 2 * 32;
        lo = vld1q_u8(q);
        hi = vld1q_u8(q + 16);
        if (g % 2 == 0) {
            lo = vandq_u8(lo, low4);
            hi = vandq_u8(hi, low4);
        } else {
            lo = vshrq_n_u8(lo, 4);
            hi = vshrq_n_u8(hi, 4);
        }
        if (type == CT_Q5_K) {
            lo = vorrq_u8(lo, vandq_u8(arm_move_bits(vld1q_u8(block + 16), (int)g, 4), vdupq_n_u8(16)));
            hi = vorrq_u8(hi, vandq_u8(arm_move_bits(vld1q_u8(block + 32), (int)g, 4), vdupq_n_u8(16)));
        }
        break;
    }
    case CT_Q6_K: { /* sub-blocks of 16: half of the block, run of 32 in it, part of the run */
        size_t half = g / 8, run = g / 2 % 4, part = g % 2;
        lo = vld1q_u8(block + half * 64 + run % 2 * 32 + part * 16);
        lo = run < 2 ? vandq_u8(lo, low4) : vshrq_n_u8(lo, 4);
        hi = arm_move_bits(vld1q_u8(block + 128 + half * 32 + part * 16), 2 * (int)run, 4);
        lo = vorrq_u8(lo, vandq_u8(hi, vdupq_n_u8(48)));
        hi = lo;
        break;
    }
    case CT_TQ2_0:
        lo = vandq_u8(arm_move_bits(vld1q_u8(block + g / 4 * 32), 2 * (int)(g % 4), 0), vdupq_n_u8(3));
        hi = vandq_u8(arm_move_bits(vld1q_u8(block + g / 4 * 32 + 16), 2 * (int)(g % 4), 0), vdupq_n_u8(3));
        break;
    default: /* CT_Q8_0 */
        lo = vld1q_u8(block + 2);
        hi = vld1q_u8(block + 18);
    }
    c[0] = vreinterpretq_s8_u8(lo);
    c[1] = vreinterpretq_s8_u8(hi);
}

/* The f16 at byte `at` of four blocks */
ARM_INLINE float32x4_t arm_scale_of_4(const uint8_t *const block[4], size_t at)
{
    uint16x4_t h = vdup_n_u16(*(const arm_u16 *)(block[0] + at));
    h = vset_lane_u16(*(const arm_u16 *)(block[1] + at), h, 1);
    h = vset_lane_u16(*(const arm_u16 *)(block[2] + at), h, 2);
    h = vset_lane_u16(*(const arm_u16 *)(block[3] + at), h, 3);
    return vcvt_f32_f16(vreinterpret_f16_u16(h));
}

/* The u32 at byte `at` of four blocks */
ARM_INLINE uint32x4_t arm_u32_of_4(const uint8_t *const block[4], size_t at)
{
    uint32x4_t v = vdupq_n_u32(*(const arm_u32 *)(block[0] + at));
    v = vsetq_lane_u32(*(const arm_u32 *)(block[1] + at), v, 1);
    v = vsetq_lane_u32(*(const arm_u32 *)(block[2] + at), v, 2);
    return vsetq_lane_u32(*(const arm_u32 *)(block[3] + at), v, 3);
}

enum { ARM_MAX_SUBS = 16 }; /* sub-blocks in a block */

/* Scales and minima of all sub-blocks of four blocks (one of each of four rows): d[g], m[g] hold the four rows. */
ARM_INLINE void arm_scales(ct_type type, const uint8_t *const block[4], float32x4_t d[ARM_MAX_SUBS],
                           float32x4_t m[ARM_MAX_SUBS])
{
    if (type == CT_Q4_1 || type == CT_Q5_1) {
        uint32x4_t both = arm_u32_of_4(block, 0);
        d[0] = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(both)));
        m[0] = vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(both, 16)));
    } else if (type == CT_Q4_K || type == CT_Q5_K) { /* k_scales of types.c, a lane per row, a byte per sub-block */
        uint32x4_t both = arm_u32_of_4(block, 0), low = arm_u32_of_4(block, 4), low_min = arm_u32_of_4(block, 8);
        uint32x4_t high = arm_u32_of_4(block, 12), six = vdupq_n_u32(0x3f3f3f3f), four = vdupq_n_u32(0x0f0f0f0f);
        uint32x4_t two = vdupq_n_u32(0x30303030), byte = vdupq_n_u32(255);
        float32x4_t block_d = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(both)));
        float32x4_t block_min = vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(both, 16)));
        uint32x4_t sc[2] = {vandq_u32(low, six), vorrq_u32(vandq_u32(high, four), vandq_u32(vshrq_n_u32(low, 2), two))};
        uint32x4_t mn[2] = {vandq_u32(low_min, six),
                            vorrq_u32(vandq_u32(vshrq_n_u32(high, 4), four), vandq_u32(vshrq_n_u32(low_min, 2), two))};
        for (size_t g = 0; g < 8; g++) {
            int32x4_t shift = vdupq_n_s32(-8 * (int32_t)(g % 4));
            d[g] = vmulq_f32(block_d, vcvtq_f32_u32(vandq_u32(vshlq_u32(sc[g / 4], shift), byte)));
            m[g] = vnegq_f32(vmulq_f32(block_min, vcvtq_f32_u32(vandq_u32(vshlq_u32(mn[g / 4], shift), byte))));
        }
    } else if (type == CT_Q6_K) {
        float32x4_t block_d = arm_scale_of_4(block, 208);
        uint32x4_t sc[4];
        for (size_t i = 0; i < 4; i++) sc[i] = vreinterpretq_u32_u8(vld1q_u8(block[i] + 192));
        arm_transpose(sc); /* sc[j]: scales 4j … 4j + 3, a lane per row */
        for (size_t g = 0; g < 16; g++) {
            int32x4_t top = vshlq_s32(vreinterpretq_s32_u32(sc[g / 4]), vdupq_n_s32(24 - 8 * (int32_t)(g % 4)));
            d[g] = vmulq_f32(block_d, vcvtq_f32_s32(vshrq_n_s32(top, 24)));
        }
    } else if (type == CT_TQ2_0) {
        d[0] = arm_scale_of_4(block, 64);
        for (size_t g = 1; g < 8; g++) d[g] = d[0];
    } else {
        d[0] = arm_scale_of_4(block, 0);
    }
}

/* Rows r … r + 3 of a matrix of n_rows; the last row stands in for those behind it. */
ARM_INLINE void arm_four_rows(const void *w, size_t row_bytes, size_t r, size_t n_rows, const uint8_t *row[4])
{
    for (size_t i = 0; i < 4; i++) row[i] = (const uint8_t *)w + (r + i < n_rows ? r + i : n_rows - 1) * row_bytes;
}

/* ---- matrix-vector products over blocks: four rows at a time, a lane per row ---------------------------------------- */

ARM_INLINE void arm_matvec(ct_type type, float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows,
                           size_t n_cols)
{
    const arm_shape shape = arm_shape_of(type);
    const size_t n_sub = shape.block_elems / shape.sub_elems;
    for (size_t r = 0; r < n_rows; r += 4) {
        const uint8_t *row[4];
        arm_act x = arm_act_row(act, n_cols);
        float32x4_t acc = vdupq_n_f32(0.0f);
        arm_four_rows(w, row_bytes, r, n_rows, row);
        for (size_t b = 0; b < n_cols / shape.block_elems; b++) {
            float32x4_t d[ARM_MAX_SUBS], m[ARM_MAX_SUBS];
            arm_scales(type, row, d, m);
            ARM_UNROLL
            for (size_t g = 0; g < n_sub; g++) {
                int8x16_t q0 = vld1q_s8(x.q + g * shape.sub_elems), q1 = q0;
                int32x4_t part[4];
                if (shape.sub_elems == 32) q1 = vld1q_s8(x.q + g * 32 + 16);
                ARM_UNROLL
                for (size_t i = 0; i < 4; i++) {
                    int8x16_t c[2];
                    arm_codes(type, row[i], g, c);
                    part[i] = arm_dot16(vdupq_n_s32(0), c[0], q0);
                    if (shape.sub_elems == 32) part[i] = arm_dot16(part[i], c[1], q1);
                }
                int32x4_t dot = arm_sums(part[0], part[1], part[2], part[3]);
                if (shape.bias_shift >= 0) {
                    int32x4_t sum = vld1q_dup_s32(shape.sub_elems == 32 ? x.sum32 + g : x.sum16 + g);
                    dot = vsubq_s32(dot, vshlq_s32(sum, vdupq_n_s32(shape.bias_shift)));
                }
                float a = x.a[g * shape.sub_elems / 32];
                acc = vfmaq_f32(acc, vcvtq_f32_s32(dot), vmulq_n_f32(d[g], a));
                if (shape.has_min) acc = vfmaq_n_f32(acc, m[g], shape.sub_elems == 32 ? x.a_sum32[g] : x.a_sum16[g]);
            }
            for (size_t i = 0; i < 4; i++) row[i] += shape.block_bytes;
            x.q += shape.block_elems;
            x.a += shape.block_elems / 32;
            x.a_sum32 += shape.block_elems / 32;
            x.sum32 += shape.block_elems / 32;
            x.a_sum16 += shape.block_elems / 16;
            x.sum16 += shape.block_elems / 16;
        }
        arm_store_part(y + r, acc, n_rows - r);
    }
}

/* ---- panels -------------------------------------------------------------------------------------------------------- */

/* A set's own layout: puts sub-block g of the panel's rows 4 * quad … + 3. c[i]: codes of row i (c[i][1] where sub_elems is
 * 32); d, m: a lane per row. */
typedef void (*arm_put_fn)(uint8_t *panel, size_t quad, size_t g, size_t n_sub, size_t sub_elems, bool has_min,
                           int8x16_t c[4][2], float32x4_t d, float32x4_t m);

/* Sets all bits in the lanes of rows r … r + 3 that exist. */
ARM_INLINE uint32x4_t arm_live_rows(size_t r, size_t n_rows)
{
    static const uint32_t lane[4] = {0, 1, 2, 3};
    return vcltq_u32(vld1q_u32(lane), vdupq_n_u32(n_rows > r ? (uint32_t)(n_rows - r) : 0));
}

ARM_INLINE float32x4_t arm_mask(float32x4_t v, uint32x4_t mask)
{
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), mask));
}

/* Rows that are missing become zeros through their scales; a quad of nothing but missing rows gets zero codes, too. */
ARM_INLINE void arm_put_zeros(arm_put_fn put, uint8_t *panel, size_t from_quad, size_t n_sub, size_t sub_elems, bool has_min)
{
    for (size_t quad = from_quad; quad < ARM_PANEL_ROWS / 4; quad++)
        for (size_t g = 0; g < n_sub; g++) {
            int8x16_t c[4][2];
            for (size_t i = 0; i < 4; i++) c[i][0] = c[i][1] = vdupq_n_s8(0);
            put(panel, quad, g, n_sub, sub_elems, has_min, c, vdupq_n_f32(0.0f), vdupq_n_f32(0.0f));
        }
}

ARM_INLINE void arm_unpack(arm_put_fn put, ct_type type, void *panel, const void *w, size_t row_bytes, size_t n_rows,
                           size_t n_cols)
{
    const arm_shape shape = arm_shape_of(type);
    const size_t block_subs = shape.block_elems / shape.sub_elems, n_sub = n_cols / shape.sub_elems;
    size_t quad = 0;
    for (; quad * 4 < n_rows; quad++) {
        const uint8_t *row[4];
        uint32x4_t live = arm_live_rows(quad * 4, n_rows);
        arm_four_rows(w, row_bytes, quad * 4, n_rows, row);
        for (size_t b = 0; b < n_cols / shape.block_elems; b++) {
            float32x4_t d[ARM_MAX_SUBS], m[ARM_MAX_SUBS];
            arm_scales(type, row, d, m);
            ARM_UNROLL
            for (size_t g = 0; g < block_subs; g++) {
                int8x16_t c[4][2];
                ARM_UNROLL
                for (size_t i = 0; i < 4; i++) {
                    arm_codes(type, row[i], g, c[i]);
                    if (shape.bias_shift >= 0) {
                        int8x16_t bias = vdupq_n_s8((int8_t)(1 << shape.bias_shift));
                        c[i][0] = vsubq_s8(c[i][0], bias);
                        c[i][1] = vsubq_s8(c[i][1], bias);
                    }
                }
                float32x4_t min = shape.has_min ? arm_mask(m[g], live) : vdupq_n_f32(0.0f);
                put(panel, quad, b * block_subs + g, n_sub, shape.sub_elems, shape.has_min, c, arm_mask(d[g], live), min);
            }
            for (size_t i = 0; i < 4; i++) row[i] += shape.block_bytes;
        }
    }
    arm_put_zeros(put, panel, quad, n_sub, shape.sub_elems, shape.has_min);
}

ARM_INLINE void arm_pack(arm_put_fn put, void *panel, const int8_t *codes, const float *d, const float *m, size_t n_rows,
                         size_t n_cols, size_t sub_elems, bool has_min)
{
    size_t n_sub = n_cols / sub_elems, quad = 0;
    for (; quad * 4 < n_rows; quad++)
        for (size_t g = 0; g < n_sub; g++) {
            int8x16_t c[4][2];
            float d4[4] = {0}, m4[4] = {0};
            for (size_t i = 0; i < 4; i++) {
                size_t r = quad * 4 + i;
                c[i][0] = c[i][1] = vdupq_n_s8(0);
                if (r >= n_rows) continue;
                c[i][0] = vld1q_s8(codes + r * n_cols + g * sub_elems);
                if (sub_elems == 32) c[i][1] = vld1q_s8(codes + r * n_cols + g * sub_elems + 16);
                d4[i] = d[r * n_sub + g];
                if (has_min) m4[i] = m[r * n_sub + g];
            }
            put(panel, quad, g, n_sub, sub_elems, has_min, c, vld1q_f32(d4), vld1q_f32(m4));
        }
    arm_put_zeros(put, panel, quad, n_sub, sub_elems, has_min);
}

/* ---- instances ----------------------------------------------------------------------------------------------------- */

#define ARM_BLOCK_TYPES(X) \
    X(CT_Q4_0) X(CT_Q4_1) X(CT_Q5_0) X(CT_Q5_1) X(CT_Q8_0) X(CT_IQ4_NL) X(CT_Q4_K) X(CT_Q5_K) X(CT_Q6_K) X(CT_TQ2_0)

#define ARM_DEFINE_MATVEC(type)                                                                                        \
    static void matvec_##type(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols, \
                              const void *next)                                                                        \
    {                                                                                                                  \
        (void)next;                                                                                                    \
        arm_matvec(type, y, w, row_bytes, act, n_rows, n_cols);                                                        \
    }
#define ARM_SET_MATVEC(type) k->matvec[type] = matvec_##type;

/* for a set that has a static inline put_quad */
#define ARM_DEFINE_UNPACK(type)                                                                              \
    static void unpack_##type(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)    \
    {                                                                                                        \
        arm_unpack(put_quad, type, panel, w, row_bytes, n_rows, n_cols);                                     \
    }
#define ARM_SET_UNPACK(type) k->unpack[type] = unpack_##type;

#endif
