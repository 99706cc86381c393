/* f32x16.h: sixteen floats as four NEON registers: what recurrent_kernels.h is written in. */
#ifndef CT_ARM_F32X16_H
#define CT_ARM_F32X16_H

#include "kernels/arm/arm_common.h"

#define ALWAYS_INLINE inline __attribute__((always_inline, unused))
#define UNROLL ARM_UNROLL

/* exp of kernels.h; vfmaq(c, a, b) is a * b + c, rounded once */
ARM_INLINE float32x4_t exp4(float32x4_t x)
{
    uint32x4_t live = vcgeq_f32(x, vdupq_n_f32(-87.0f)); /* false for NaN */
    const float32x4_t magic = vdupq_n_f32(12582912.0f);
    x = vminq_f32(x, vdupq_n_f32(88.0f));
    float32x4_t t = vfmaq_f32(magic, x, vdupq_n_f32(0x1.715476p+0f)), n = vsubq_f32(t, magic);
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-0x1.62e4p-1f));
    r = vfmaq_f32(r, n, vdupq_n_f32(-0x1.7f7d1cp-20f));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(1.3981999507e-3f), vdupq_n_f32(1.9875691500e-4f), r);
    p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1f), p, r);
    p = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0f));
    uint32x4_t bits = vaddq_u32(vreinterpretq_u32_f32(p), vshlq_n_u32(vreinterpretq_u32_f32(t), 23));
    return vreinterpretq_f32_u32(vandq_u32(bits, live));
}

typedef struct f32x16 {
    float32x4_t a, b, c, d; /* lanes 0 … 3, 4 … 7, 8 … 11, 12 … 15 */
} f32x16;

ARM_INLINE f32x16 v_set1(float x)
{
    float32x4_t v = vdupq_n_f32(x);
    return (f32x16){v, v, v, v};
}
ARM_INLINE f32x16 v_zero(void) { return v_set1(0.0f); }
ARM_INLINE f32x16 v_load(const float *p) { return (f32x16){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
ARM_INLINE void v_store(float *p, f32x16 x)
{
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
    vst1q_f32(p + 8, x.c);
    vst1q_f32(p + 12, x.d);
}
ARM_INLINE f32x16 v_add(f32x16 x, f32x16 y)
{
    return (f32x16){vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b), vaddq_f32(x.c, y.c), vaddq_f32(x.d, y.d)};
}
ARM_INLINE f32x16 v_mul(f32x16 x, f32x16 y)
{
    return (f32x16){vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b), vmulq_f32(x.c, y.c), vmulq_f32(x.d, y.d)};
}
ARM_INLINE f32x16 v_div(f32x16 x, f32x16 y)
{
    return (f32x16){vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b), vdivq_f32(x.c, y.c), vdivq_f32(x.d, y.d)};
}
ARM_INLINE f32x16 v_max(f32x16 x, f32x16 y)
{
    return (f32x16){vmaxq_f32(x.a, y.a), vmaxq_f32(x.b, y.b), vmaxq_f32(x.c, y.c), vmaxq_f32(x.d, y.d)};
}
ARM_INLINE f32x16 v_fma(f32x16 x, f32x16 y, f32x16 z) /* x * y + z, rounded once */
{
    return (f32x16){vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
ARM_INLINE f32x16 v_neg(f32x16 x) { return (f32x16){vnegq_f32(x.a), vnegq_f32(x.b), vnegq_f32(x.c), vnegq_f32(x.d)}; }

/* exp of kernels.h */
ARM_INLINE f32x16 v_exp(f32x16 x) { return (f32x16){exp4(x.a), exp4(x.b), exp4(x.c), exp4(x.d)}; }

/* sum16 of kernels.h */
ARM_INLINE float v_sum(f32x16 x)
{
    float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

/* The first n < 16 elements; loads fill up with zeros. */
ARM_INLINE f32x16 v_load_n(const float *p, size_t n)
{
    float all[16] = {0};
    memcpy(all, p, n * sizeof *p);
    return v_load(all);
}

ARM_INLINE void v_store_n(float *p, f32x16 x, size_t n)
{
    float all[16];
    v_store(all, x);
    memcpy(p, all, n * sizeof *p);
}

#endif
