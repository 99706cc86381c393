/* lanes.h: a vector of LANES floats, one block of weights in each lane, as wide as the instruction set that this file is compiled
 * for. Lanes never mix, and every operation is one IEEE operation in every lane, so results depend neither on LANES nor on which
 * blocks share a vector. */
#ifndef CT_LANES_H
#define CT_LANES_H

#include <stdint.h>
#include <string.h>

#include "gguf/types.h"

#if defined(__AVX512F__)
#include <immintrin.h>
enum { LANES = 16 };
#elif defined(__AVX2__)
#include <immintrin.h>
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));

#if defined(__AVX512F__)
typedef __mmask16 vm;
INLINE vf v_set(float a) { return (vf)_mm512_set1_ps(a); }
INLINE vm v_less(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
INLINE vf v_choose(vm m, vf yes, vf no) { return (vf)_mm512_mask_blend_ps(m, (__m512)no, (__m512)yes); }
INLINE vf v_min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); } /* a < b ? a : b */
INLINE vf v_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); } /* a > b ? a : b */
INLINE vf v_gather(const float *base, vi offset) { return (vf)_mm512_i32gather_ps((__m512i)offset, base, 4); }
INLINE vf v_table(const float table[16], vf index)
{
    return (vf)_mm512_permutexvar_ps(_mm512_cvttps_epi32((__m512)index), _mm512_loadu_ps(table));
}
#elif defined(__AVX2__)
typedef vf vm;
INLINE vf v_set(float a) { return (vf)_mm256_set1_ps(a); }
INLINE vm v_less(vf a, vf b) { return (vf)_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_LT_OQ); }
INLINE vf v_choose(vm m, vf yes, vf no) { return (vf)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)m); }
INLINE vf v_min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vf v_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf v_gather(const float *base, vi offset) { return (vf)_mm256_i32gather_ps(base, (__m256i)offset, 4); }
INLINE vf v_table(const float table[16], vf index)
{
    __m256i i = _mm256_cvttps_epi32((__m256)index);
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), i), high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), i);
    return (vf)_mm256_blendv_ps(low, high, (__m256)_mm256_slli_epi32(i, 28));
}
#else
typedef vi vm;
INLINE vf v_set(float a)
{
    vf v = {0};
    for (int i = 0; i < LANES; i++) v[i] = a;
    return v;
}
INLINE vm v_less(vf a, vf b) { return a < b; }
INLINE vf v_choose(vm m, vf yes, vf no) { return (vf)((m & (vi)yes) | (~m & (vi)no)); }
INLINE vf v_min(vf a, vf b) { return v_choose(a < b, a, b); }
INLINE vf v_max(vf a, vf b) { return v_choose(b < a, a, b); }
INLINE vf v_gather(const float *base, vi offset)
{
    vf v = {0};
    for (int i = 0; i < LANES; i++) v[i] = base[offset[i]];
    return v;
}
INLINE vf v_table(const float table[16], vf index)
{
    vf v = {0};
    for (int i = 0; i < LANES; i++) v[i] = table[(int)index[i]];
    return v;
}
#endif

INLINE vf v_abs(vf a) { return v_max(a, -a); }
INLINE vf v_clamp(vf a, float low, float high) { return v_min(v_max(a, v_set(low)), v_set(high)); }

/* To the nearest integer, ties to even; |a| below 2^22. */
INLINE vf v_round(vf a) { return (a + v_set(0x1.8p23f)) - v_set(0x1.8p23f); }

/* Integral values as integers. */
INLINE vi v_int(vf a) { return __builtin_convertvector(a, vi); }

/* Rounded to half precision, at most its largest finite value. */
INLINE vf v_half(vf a)
{
    a = v_clamp(a, -65504.0f, 65504.0f);
#if defined(__AVX512F__)
    return (vf)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__AVX2__)
    return (vf)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    for (int i = 0; i < LANES; i++) a[i] = ct_f16_to_f32(ct_f32_to_f16(a[i]));
    return a;
#endif
}

#endif
