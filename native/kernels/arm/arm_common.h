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

/* A quantised row. a_sum… are a * (float)sum: what the minimum of a sub-block is multiplied with. start… are what a dot product
 * with codes that hold a bias begins with: ARM_MAGIC - bias * sum of q. */
typedef struct arm_act {
    const float *a;         /* [n_cols/32] scales */
    const float *a_sum32;   /* [n_cols/32] */
    const float *a_sum16;   /* [n_cols/16] */
    const int32_t *start1;  /* [n_cols/32] */
    const int32_t *start8;  /* [n_cols/32] */
    const int32_t *start32; /* [n_cols/16] */
    const int8_t *q;        /* [n_cols] */
} arm_act;

ARM_INLINE size_t arm_act_head_bytes(size_t n_cols) { return (n_cols / 32 * 8 * sizeof(float) + 63) / 64 * 64; }

ARM_INLINE arm_act arm_act_row(const void *act, size_t n_cols)
{
    size_t n_blocks = n_cols / 32;
    const float *a = (const float *)act;
    const int32_t *start = (const int32_t *)act + 4 * n_blocks;
    return (arm_act){.a = a, .a_sum32 = a + n_blocks, .a_sum16 = a + 2 * n_blocks, .start1 = start, .start8 = start + n_blocks,
                     .start32 = start + 2 * n_blocks, .q = (const int8_t *)act + arm_act_head_bytes(n_cols)};
}

/* neon.c's quantize_act */
void ct_arm_quantize_act(void *act, const float *x, size_t n_cols);

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

/* A sum that began with ARM_MAGIC, the bits of 1.5 * 2^23, has the bits of a float that is larger by just that while the sum
 * proper stays below 2^22 (a sub-block's does: 32 * 128 * 127). One subtraction then converts it exactly; on most CPUs scvtf
 * takes two steps, and only some of the units. */
enum { ARM_MAGIC = 0x4b400000 };

ARM_INLINE float32x4_t arm_to_float(int32x4_t sum)
{
    return vsubq_f32(vreinterpretq_f32_s32(sum), vreinterpretq_f32_s32(vdupq_n_s32(ARM_MAGIC)));
}

/* [*p, 0, 0, 0], by a load that leaves the vector units alone: compilers would keep one copy and move it, or fill lanes. So
 * that they do not, each use names a row and activations of its own. */
ARM_INLINE int32x4_t arm_load_start(const int32_t *p, const uint8_t *row, int8x16_t q)
{
    int32x4_t v;
    __asm__("ldr %s0, %1" : "=w"(v) : "Q"(*p), "r"(row), "w"(q));
    return v;
}

ARM_INLINE float32x4_t arm_load_f32(const float *p)
{
    float32x4_t v;
    __asm__("ldr %s0, %1" : "=w"(v) : "Q"(*p));
    return v;
}

/* As arm_load_start; `user` is only in use by what the four floats are for. */
ARM_INLINE float32x4_t arm_load_f32x4(const float32x4_t *p, float32x4_t user)
{
    float32x4_t v;
    __asm__("ldr %q0, %1" : "=w"(v) : "m"(*p), "w"(user));
    return v;
}

/* Four bytes, then zeros; any alignment */
ARM_INLINE uint8x16_t arm_load_bits(const uint8_t *p)
{
    uint8x16_t v;
    __asm__("ldr %s0, %1" : "=w"(v) : "Q"(*(const arm_u32 *)p));
    return v;
}

/* v * by[lane] and acc + v * by[lane]; lane % 4 is a constant */
ARM_INLINE float32x4_t arm_mul_lane(float32x4_t v, float32x4_t by, size_t lane)
{
    switch (lane % 4) {
    case 0: return vmulq_laneq_f32(v, by, 0);
    case 1: return vmulq_laneq_f32(v, by, 1);
    case 2: return vmulq_laneq_f32(v, by, 2);
    default: return vmulq_laneq_f32(v, by, 3);
    }
}

ARM_INLINE float32x4_t arm_fma_lane(float32x4_t acc, float32x4_t v, float32x4_t by, size_t lane)
{
    switch (lane % 4) {
    case 0: return vfmaq_laneq_f32(acc, v, by, 0);
    case 1: return vfmaq_laneq_f32(acc, v, by, 1);
    case 2: return vfmaq_laneq_f32(acc, v, by, 2);
    default: return vfmaq_laneq_f32(acc, v, by, 3);
    }
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
    case CT_Q5_0: return (arm_shape){32, 22, 32, false, -1}; /* arm_codes takes its bias off on the way */
    case CT_Q5_1: return (arm_shape){32, 24, 32, true, -1};
    case CT_IQ4_NL: return (arm_shape){32, 18, 32, false, -1};
    case CT_IQ4_XS: return (arm_shape){256, 136, 32, false, -1};
    case CT_MXFP4: return (arm_shape){32, 17, 32, false, -1};
    case CT_Q2_K: return (arm_shape){256, 84, 16, true, -1};
    case CT_Q3_K: return (arm_shape){256, 110, 16, false, -1}; /* arm_codes takes its bias off on the way */
    case CT_Q4_K: return (arm_shape){256, 144, 32, true, -1};
    case CT_Q5_K: return (arm_shape){256, 176, 32, true, -1};
    case CT_Q6_K: return (arm_shape){256, 210, 16, false, 5};
    case CT_TQ2_0: return (arm_shape){256, 66, 32, false, 0};
    default: return (arm_shape){32, 34, 32, false, -1}; /* CT_Q8_0 */
    }
}

/* 255 in byte k where bit 16 * half + k of the first four bytes of `bits` is set, else 0; `half` is a constant */
ARM_INLINE uint8x16_t arm_spread_bits(uint8x16_t bits, size_t half)
{
    static const uint8_t byte_of[2][16] = {{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1},
                                           {2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3}};
    static const uint8_t bit_of[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    return vtstq_u8(vqtbl1q_u8(bits, vld1q_u8(byte_of[half])), vld1q_u8(bit_of));
}

/* `byte` shifted so that its bit `from` arrives at bit `to`. */
ARM_INLINE uint8x16_t arm_move_bits(uint8x16_t byte, int from, int to)
{
    return vshlq_u8(byte, vdupq_n_s8((int8_t)(to - from)));
}

/* Codes of sub-block g of a block, bias included: c[0], and c[1] where sub_elems is 32. */
ARM_INLINE void arm_codes(ct_type type, const uint8_t *block, size_t g, int8x16_t c[2])
{
    uint8x16_t low4 = vdupq_n_u8(15), lo, hi;
    __asm__("" : "+w"(low4)); /* else made anew, by the vector units, when registers run short */
    switch (type) {
    case CT_Q4_0:
    case CT_Q4_1:
    case CT_Q5_0:
    case CT_Q5_1:
    case CT_IQ4_NL:
    case CT_IQ4_XS:
    case CT_MXFP4: {
        size_t head = type == CT_IQ4_XS ? 8 + 16 * g : arm_shape_of(type).block_bytes - 16;
        uint8x16_t nibbles = vld1q_u8(block + head);
        lo = vandq_u8(nibbles, low4);
        hi = vshrq_n_u8(nibbles, 4);
        if (type == CT_Q5_0 || type == CT_Q5_1) {
            uint8x16_t bits = arm_load_bits(block + head - 4);
            if (type == CT_Q5_0) { /* a bit that is not set makes the upper half ones, which is 16 less */
                bits = vmvnq_u8(bits);
                lo = vsliq_n_u8(nibbles, arm_spread_bits(bits, 0), 4);
                hi = vsliq_n_u8(hi, arm_spread_bits(bits, 1), 4);
            } else {
                lo = vorrq_u8(lo, vandq_u8(arm_spread_bits(bits, 0), vdupq_n_u8(16)));
                hi = vorrq_u8(hi, vandq_u8(arm_spread_bits(bits, 1), vdupq_n_u8(16)));
            }
        }
        if (type == CT_IQ4_NL || type == CT_IQ4_XS || type == CT_MXFP4) {
            static const int8_t iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
            static const int8_t fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
            uint8x16_t level = vreinterpretq_u8_s8(vld1q_s8(type == CT_MXFP4 ? fp4 : iq4));
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
        uint8x16_t low = vld1q_u8(block + half * 64 + run % 2 * 32 + part * 16);
        uint8x16_t high = vld1q_u8(block + 128 + half * 32 + part * 16);
        if (run % 2 == 1) high = vshrq_n_u8(high, 2);
        if (run < 2) lo = vandq_u8(vsliq_n_u8(low, high, 4), vdupq_n_u8(63));
        else lo = vsraq_n_u8(vandq_u8(high, vdupq_n_u8(48)), low, 4);
        hi = lo;
        break;
    }
    case CT_Q2_K:
    case CT_Q3_K: { /* sub-blocks of 16: half of the block, run of 32 in it, part of the run */
        size_t run = g / 2 % 4;
        lo = vld1q_u8(block + (type == CT_Q2_K ? 16 : 32) + g / 8 * 32 + g % 2 * 16);
        lo = vandq_u8(arm_move_bits(lo, 2 * (int)run, 0), vdupq_n_u8(3));
        if (type == CT_Q3_K) { /* a bit that is not set takes 4 off */
            uint8x16_t bits = arm_move_bits(vld1q_u8(block + g % 2 * 16), (int)(g / 2), 2);
            lo = vsubq_u8(lo, vbicq_u8(vdupq_n_u8(4), bits));
        }
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

/* v, for all that the compiler knows any number: it would gather lanes with the vector units, which have enough to do. */
ARM_INLINE uint64_t arm_hide(uint64_t v)
{
    __asm__("" : "+r"(v));
    return v;
}

/* The f16 at byte `at` of four blocks, its bits xor `flip` (0x8000: negative) */
ARM_INLINE float32x4_t arm_scale_of_4(const uint8_t *const block[4], size_t at, uint64_t flip)
{
    uint64_t low = *(const arm_u16 *)(block[0] + at) | (uint64_t)*(const arm_u16 *)(block[1] + at) << 16;
    uint64_t high = *(const arm_u16 *)(block[2] + at) | (uint64_t)*(const arm_u16 *)(block[3] + at) << 16;
    return vcvt_f32_f16(vcreate_f16(arm_hide((low | high << 32) ^ flip * 0x0001000100010001)));
}

/* The u32 at byte `at` of two blocks, the first one below */
ARM_INLINE uint64_t arm_u32_of_2(const uint8_t *const block[2], size_t at)
{
    return arm_hide(*(const arm_u32 *)(block[0] + at) | (uint64_t)*(const arm_u32 *)(block[1] + at) << 32);
}

ARM_INLINE uint8x16_t arm_combine_u64(uint64_t low, uint64_t high)
{
    return vcombine_u8(vcreate_u8(arm_hide(low)), vcreate_u8(arm_hide(high)));
}

/* Scales and minima of four blocks, one of each of four rows: d and m of the block, a lane per row, and the small integers that
 * they are multiplied with in sub-blocks, as bytes: byte g % 4 of a lane of sc[g / 4], Q6_K's with 128 added, IQ4_XS's and
 * Q3_K's with 32. */
typedef struct arm_scales {
    float32x4_t d, m;
    uint8x16_t sc[4], mn[4];
} arm_scales;

ARM_INLINE arm_scales arm_load_scales(ct_type type, const uint8_t *const block[4])
{
    arm_scales s = {.d = vdupq_n_f32(0.0f)};
    if (type == CT_Q4_1 || type == CT_Q5_1) {
        uint32x4_t both = vreinterpretq_u32_u8(arm_combine_u64(arm_u32_of_2(block, 0), arm_u32_of_2(block + 2, 0)));
        s.d = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(both)));
        s.m = vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(both, 16)));
    } else if (type == CT_Q4_K || type == CT_Q5_K) { /* k_scales of types.c, two rows in an integer register */
        const uint64_t six = 0x3f3f3f3f3f3f3f3f, four = 0x0f0f0f0f0f0f0f0f, two = 0x3030303030303030;
        uint64_t sc[2][2], mn[2][2];
        s.d = arm_scale_of_4(block, 0, 0);
        s.m = arm_scale_of_4(block, 2, 0x8000);
        for (size_t i = 0; i < 2; i++) {
            uint64_t low = arm_u32_of_2(block + 2 * i, 4), low_min = arm_u32_of_2(block + 2 * i, 8);
            uint64_t high = arm_u32_of_2(block + 2 * i, 12);
            sc[0][i] = low & six;
            sc[1][i] = (high & four) | (low >> 2 & two);
            mn[0][i] = low_min & six;
            mn[1][i] = (high >> 4 & four) | (low_min >> 2 & two);
        }
        for (size_t i = 0; i < 2; i++) {
            s.sc[i] = arm_combine_u64(sc[i][0], sc[i][1]);
            s.mn[i] = arm_combine_u64(mn[i][0], mn[i][1]);
        }
    } else if (type == CT_Q2_K) {
        uint32x4_t sc[4];
        s.d = arm_scale_of_4(block, 80, 0);
        s.m = arm_scale_of_4(block, 82, 0x8000);
        for (size_t i = 0; i < 4; i++) sc[i] = vreinterpretq_u32_u8(vld1q_u8(block[i]));
        arm_transpose(sc);
        for (size_t i = 0; i < 4; i++) {
            s.sc[i] = vandq_u8(vreinterpretq_u8_u32(sc[i]), vdupq_n_u8(15));
            s.mn[i] = vshrq_n_u8(vreinterpretq_u8_u32(sc[i]), 4);
        }
    } else if (type == CT_Q3_K) { /* eight bytes of nibbles, low ones first; four of pairs of bits, the lowest of all first */
        uint32x4_t sc[4];
        s.d = arm_scale_of_4(block, 108, 0);
        for (size_t i = 0; i < 4; i++) {
            static const int8_t down[16] = {0, 0, 0, 0, -2, -2, -2, -2, -4, -4, -4, -4, -6, -6, -6, -6};
            uint8x8_t nibbles = vld1_u8(block[i] + 96);
            uint8x16_t low = vcombine_u8(vand_u8(nibbles, vdup_n_u8(15)), vshr_n_u8(nibbles, 4));
            uint8x16_t high = vreinterpretq_u8_u32(vdupq_n_u32(*(const arm_u32 *)(block[i] + 104)));
            high = vandq_u8(vshlq_u8(high, vld1q_s8(down)), vdupq_n_u8(3));
            sc[i] = vreinterpretq_u32_u8(vsliq_n_u8(low, high, 4));
        }
        arm_transpose(sc);
        for (size_t i = 0; i < 4; i++) s.sc[i] = vreinterpretq_u8_u32(sc[i]);
    } else if (type == CT_Q6_K) {
        uint32x4_t sc[4];
        s.d = arm_scale_of_4(block, 208, 0);
        for (size_t i = 0; i < 4; i++) sc[i] = vreinterpretq_u32_u8(veorq_u8(vld1q_u8(block[i] + 192), vdupq_n_u8(128)));
        arm_transpose(sc);
        for (size_t i = 0; i < 4; i++) s.sc[i] = vreinterpretq_u8_u32(sc[i]);
    } else if (type == CT_IQ4_XS) { /* nibbles and pairs of bits spread to bytes, two rows in an integer register */
        uint64_t sc[2][2];
        s.d = arm_scale_of_4(block, 0, 0);
        for (size_t i = 0; i < 2; i++) {
            uint64_t low = arm_u32_of_2(block + 2 * i, 4), high = arm_u32_of_2(block + 2 * i, 0) >> 16;
            for (size_t j = 0; j < 2; j++) { /* sub-blocks 4j … 4j + 3 */
                uint64_t four = low >> 16 * j & 0x0000ffff0000ffff, two = high >> 8 * j & 0x000000ff000000ff;
                four = (four | four << 8) & 0x00ff00ff00ff00ff;
                four = (four | four << 4) & 0x0f0f0f0f0f0f0f0f;
                two = (two | two << 12) & 0x000f000f000f000f;
                two = (two | two << 6) & 0x0303030303030303;
                sc[j][i] = four | two << 4;
            }
        }
        for (size_t j = 0; j < 2; j++) s.sc[j] = arm_combine_u64(sc[j][0], sc[j][1]);
    } else if (type == CT_MXFP4) { /* half of 2^(e - 127); for e = 0 half of 2^-127, which is no normal float */
        uint64_t low = (uint64_t)block[0][0] << 23 | (uint64_t)block[1][0] << 55;
        uint64_t high = (uint64_t)block[2][0] << 23 | (uint64_t)block[3][0] << 55;
        uint32x4_t bits = vmaxq_u32(vreinterpretq_u32_u8(arm_combine_u64(low, high)), vdupq_n_u32(0x400000));
        s.d = vmulq_n_f32(vreinterpretq_f32_u32(bits), 0.5f);
    } else {
        s.d = arm_scale_of_4(block, type == CT_TQ2_0 ? 64 : 0, 0);
    }
    return s;
}

/* Byte `byte` (a constant) of each lane, less `bias`, as floats: it goes under the exponent of 2^23, which is subtracted. */
ARM_INLINE float32x4_t arm_small_floats(uint8x16_t bytes, size_t byte, int bias)
{
    static const uint8_t from[2][16] = {{0, 255, 4, 255, 8, 255, 12, 255, 1, 255, 5, 255, 9, 255, 13, 255},
                                        {2, 255, 6, 255, 10, 255, 14, 255, 3, 255, 7, 255, 11, 255, 15, 255}};
    uint16x8_t two = vreinterpretq_u16_u8(vqtbl1q_u8(bytes, vld1q_u8(from[byte / 2]))), exponent = vdupq_n_u16(0x4b00);
    uint16x8_t v = byte % 2 == 0 ? vzip1q_u16(two, exponent) : vzip2q_u16(two, exponent);
    float32x4_t less = vdupq_n_f32(8388608.0f + (float)bias);
    __asm__("" : "+w"(less)); /* as low4 of arm_codes */
    return vsubq_f32(vreinterpretq_f32_u16(v), less);
}

/* d and m of sub-block g (a constant) of the four blocks */
ARM_INLINE float32x4_t arm_d(ct_type type, const arm_scales *s, size_t g)
{
    if (type == CT_Q2_K || type == CT_Q4_K || type == CT_Q5_K) return vmulq_f32(s->d, arm_small_floats(s->sc[g / 4], g % 4, 0));
    if (type == CT_Q6_K) return vmulq_f32(s->d, arm_small_floats(s->sc[g / 4], g % 4, 128));
    if (type == CT_IQ4_XS || type == CT_Q3_K) return vmulq_f32(s->d, arm_small_floats(s->sc[g / 4], g % 4, 32));
    return s->d;
}

ARM_INLINE float32x4_t arm_m(ct_type type, const arm_scales *s, size_t g)
{
    if (type == CT_Q2_K || type == CT_Q4_K || type == CT_Q5_K) return vmulq_f32(s->m, arm_small_floats(s->mn[g / 4], g % 4, 0));
    return s->m;
}

/* Rows r … r + 3 of a matrix of n_rows; the last row stands in for those behind it. */
ARM_INLINE void arm_four_rows(const void *w, size_t row_bytes, size_t r, size_t n_rows, const uint8_t *row[4])
{
    for (size_t i = 0; i < 4; i++) row[i] = (const uint8_t *)w + (r + i < n_rows ? r + i : n_rows - 1) * row_bytes;
}

/* ---- matrix-vector products over blocks: eight rows at a time, a lane per row ---------------------------------------- */

/* What a dot product with the codes of sub-block 0 begins with, one value per sub-block; NULL: ARM_MAGIC */
ARM_INLINE const int32_t *arm_start(const arm_act *x, int bias_shift)
{
    switch (bias_shift) {
    case 0: return x->start1;
    case 3: return x->start8;
    case 5: return x->start32;
    default: return NULL;
    }
}

/* Quads of rows at a time: two share the loads of activations; where a block has many scales, these fill the registers. */
enum { ARM_MATVEC_QUADS = 2 };

ARM_INLINE size_t arm_matvec_quads(ct_type type) { return arm_shape_of(type).block_elems == 256 ? 1 : ARM_MATVEC_QUADS; }

/* 4 * n_quads rows from r on; n_quads is a constant */
ARM_INLINE void arm_matvec_rows(ct_type type, float *y, const void *w, size_t row_bytes, const void *act, size_t r,
                                size_t n_rows, size_t n_cols, size_t n_quads)
{
    static const int32_t no_bias = ARM_MAGIC;
    const bool magic = type != CT_Q8_0; /* whose weights need all loads that there are */
    const arm_shape shape = arm_shape_of(type);
    const size_t n_sub = shape.block_elems / shape.sub_elems, start_step = shape.bias_shift >= 0 ? 1 : 0;
    const uint8_t *row[ARM_MATVEC_QUADS][4];
    const int32_t *start;
    arm_act x = arm_act_row(act, n_cols);
    float32x4_t acc[ARM_MATVEC_QUADS];
    start = start_step != 0 ? arm_start(&x, shape.bias_shift) : &no_bias;
    for (size_t quad = 0; quad < n_quads; quad++) {
        acc[quad] = vdupq_n_f32(0.0f);
        arm_four_rows(w, row_bytes, r + 4 * quad, n_rows, row[quad]);
    }
    for (size_t b = 0; b < n_cols / shape.block_elems; b++) {
        arm_scales scales[ARM_MATVEC_QUADS];
        for (size_t quad = 0; quad < n_quads; quad++) scales[quad] = arm_load_scales(type, row[quad]);
        ARM_UNROLL
        for (size_t g = 0; g < n_sub; g++) {
            int8x16_t q0 = vld1q_s8(x.q + g * shape.sub_elems), q1 = q0;
            if (shape.sub_elems == 32) q1 = vld1q_s8(x.q + g * 32 + 16);
            const size_t block32 = g * shape.sub_elems / 32;
            float32x4_t a = n_sub == 1 ? arm_load_f32(x.a) : vld1q_f32(x.a + block32 / 4 * 4), a_sum = a;
            if (shape.has_min && shape.sub_elems == 16) a_sum = vld1q_f32(x.a_sum16 + g / 4 * 4);
            else if (shape.has_min) a_sum = n_sub == 1 ? arm_load_f32(x.a_sum32) : vld1q_f32(x.a_sum32 + block32 / 4 * 4);
            ARM_UNROLL
            for (size_t quad = 0; quad < n_quads; quad++) {
                int32x4_t part[4];
                ARM_UNROLL
                for (size_t i = 0; i < 4; i++) {
                    int8x16_t c[2];
                    /* Bytes that four sub-blocks share are loaded four times: there are not the registers to keep them. */
                    if (type == CT_Q6_K) __asm__("" : "+r"(row[quad][i]));
                    arm_codes(type, row[quad][i], g, c);
                    int32x4_t first = vdupq_n_s32(0);
                    if (magic) first = arm_load_start(start + g * start_step, row[quad][i], q0);
                    part[i] = arm_dot16(first, c[0], q0);
                    if (shape.sub_elems == 32) part[i] = arm_dot16(part[i], c[1], q1);
                }
                int32x4_t sums = arm_sums(part[0], part[1], part[2], part[3]);
                float32x4_t dot = magic ? arm_to_float(sums) : vcvtq_f32_s32(sums);
                acc[quad] = vfmaq_f32(acc[quad], dot, arm_mul_lane(arm_d(type, &scales[quad], g), a, block32));
                if (!shape.has_min) continue;
                acc[quad] = arm_fma_lane(acc[quad], arm_m(type, &scales[quad], g), a_sum, shape.sub_elems == 16 ? g : block32);
            }
        }
        for (size_t quad = 0; quad < n_quads; quad++)
            for (size_t i = 0; i < 4; i++) row[quad][i] += shape.block_bytes;
        start += n_sub * start_step;
        x.q += shape.block_elems;
        x.a += shape.block_elems / 32;
        x.a_sum32 += shape.block_elems / 32;
        x.a_sum16 += shape.block_elems / 16;
    }
    for (size_t quad = 0; quad < n_quads; quad++)
        if (r + 4 * quad < n_rows) arm_store_part(y + r + 4 * quad, acc[quad], n_rows - r - 4 * quad);
}

ARM_INLINE void arm_matvec(ct_type type, float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows,
                           size_t n_cols)
{
    const size_t n_quads = arm_matvec_quads(type);
    for (size_t r = 0; r < n_rows; r += 4 * n_quads) arm_matvec_rows(type, y, w, row_bytes, act, r, n_rows, n_cols, n_quads);
}

/* ---- types without kernels of their own: four rows are decoded, 256 columns at a time, into L1 ------------------------ */

enum { ARM_DECODED_COLS = 256, ARM_DECODED_SUBS = ARM_DECODED_COLS / 16 };

/* scale[i][g], a lane per row */
ARM_INLINE float32x4_t arm_scale_column(float scale[4][ARM_DECODED_SUBS], size_t g)
{
    const float lanes[4] = {scale[0][g], scale[1][g], scale[2][g], scale[3][g]};
    return vld1q_f32(lanes);
}

ARM_INLINE void arm_matvec_codes_of(float *y, const ct_type_info *info, const void *w, size_t row_bytes, const void *act,
                                    size_t n_rows, size_t n_cols, size_t sub_elems, bool has_min)
{
    int8_t codes[4][ARM_DECODED_COLS];
    float d[4][ARM_DECODED_SUBS], m[4][ARM_DECODED_SUBS];
    for (size_t r = 0; r < n_rows; r += 4) {
        const uint8_t *row[4];
        const arm_act x = arm_act_row(act, n_cols);
        float32x4_t acc = vdupq_n_f32(0.0f);
        arm_four_rows(w, row_bytes, r, n_rows, row);
        for (size_t col = 0; col < n_cols; col += ARM_DECODED_COLS) {
            const size_t n = n_cols - col < ARM_DECODED_COLS ? n_cols - col : ARM_DECODED_COLS;
            const size_t at = col / info->block_elems * info->block_bytes;
            for (size_t i = 0; i < 4; i++) info->decode_codes(row[i] + at, n, codes[i], d[i], m[i]);
            for (size_t j = 0; j < n; j += sub_elems) {
                int32x4_t part[4];
                int8x16_t q0 = vld1q_s8(x.q + col + j), q1 = q0;
                if (sub_elems == 32) q1 = vld1q_s8(x.q + col + j + 16);
                ARM_UNROLL
                for (size_t i = 0; i < 4; i++) {
                    part[i] = arm_dot16(vdupq_n_s32(0), vld1q_s8(codes[i] + j), q0);
                    if (sub_elems == 32) part[i] = arm_dot16(part[i], vld1q_s8(codes[i] + j + 16), q1);
                }
                float32x4_t dot = vcvtq_f32_s32(arm_sums(part[0], part[1], part[2], part[3]));
                acc = vfmaq_f32(acc, dot, vmulq_n_f32(arm_scale_column(d, j / sub_elems), x.a[(col + j) / 32]));
                if (!has_min) continue;
                float a_sum = sub_elems == 32 ? x.a_sum32[(col + j) / 32] : x.a_sum16[(col + j) / 16];
                acc = vfmaq_n_f32(acc, arm_scale_column(m, j / sub_elems), a_sum);
            }
        }
        arm_store_part(y + r, acc, n_rows - r);
    }
}

ARM_INLINE void arm_matvec_codes(float *y, const ct_type_info *info, const void *w, size_t row_bytes, const void *act,
                                 size_t n_rows, size_t n_cols)
{
    if (info->sub_elems == 32)
        arm_matvec_codes_of(y, info, w, row_bytes, act, n_rows, n_cols, 32, info->has_min);
    else
        arm_matvec_codes_of(y, info, w, row_bytes, act, n_rows, n_cols, 16, info->has_min);
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
            arm_scales scales = arm_load_scales(type, row);
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
                float32x4_t min = shape.has_min ? arm_mask(arm_m(type, &scales, g), live) : vdupq_n_f32(0.0f);
                put(panel, quad, b * block_subs + g, n_sub, shape.sub_elems, shape.has_min, c,
                    arm_mask(arm_d(type, &scales, g), live), min);
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

#define ARM_BLOCK_TYPES(X)                                                              \
    X(CT_Q4_0) X(CT_Q4_1) X(CT_Q5_0) X(CT_Q5_1) X(CT_Q8_0) X(CT_IQ4_NL) X(CT_MXFP4)     \
    X(CT_Q2_K) X(CT_Q3_K) X(CT_Q4_K) X(CT_Q5_K) X(CT_Q6_K) X(CT_IQ4_XS) X(CT_TQ2_0)

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
