/* f32x16.h: sixteen floats, as one AVX-512 register or two of AVX2: what float_kernels.h is written in. */
#ifndef CT_X86_F32X16_H
#define CT_X86_F32X16_H

#include "kernels/x86/x86_common.h"

#if defined(__AVX512F__)

typedef __m512 f32x16;

static ALWAYS_INLINE f32x16 v_zero(void) { return _mm512_setzero_ps(); }
static ALWAYS_INLINE f32x16 v_set1(float x) { return _mm512_set1_ps(x); }
static ALWAYS_INLINE f32x16 v_load(const float *p) { return _mm512_loadu_ps(p); }
static ALWAYS_INLINE void v_store(float *p, f32x16 v) { _mm512_storeu_ps(p, v); }
static ALWAYS_INLINE f32x16 v_add(f32x16 a, f32x16 b) { return _mm512_add_ps(a, b); }
static ALWAYS_INLINE f32x16 v_sub(f32x16 a, f32x16 b) { return _mm512_sub_ps(a, b); }
static ALWAYS_INLINE f32x16 v_mul(f32x16 a, f32x16 b) { return _mm512_mul_ps(a, b); }
static ALWAYS_INLINE f32x16 v_div(f32x16 a, f32x16 b) { return _mm512_div_ps(a, b); }
static ALWAYS_INLINE f32x16 v_fma(f32x16 a, f32x16 b, f32x16 c) { return _mm512_fmadd_ps(a, b, c); }
static ALWAYS_INLINE f32x16 v_max(f32x16 a, f32x16 b) { return _mm512_max_ps(a, b); } /* b where a is NaN */
static ALWAYS_INLINE f32x16 v_min(f32x16 a, f32x16 b) { return _mm512_min_ps(a, b); } /* b where a is NaN */
static ALWAYS_INLINE f32x16 v_neg(f32x16 a) { return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f)); }
static ALWAYS_INLINE f32x16 v_from_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static ALWAYS_INLINE f32x16 v_from_i8(const int8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

/* Nearest integers, half to even; what does not fit is unspecified. */
static ALWAYS_INLINE void v_to_i8(int8_t *p, f32x16 v)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
}

static ALWAYS_INLINE f32x16 v_from_bf16(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static ALWAYS_INLINE void v_to_f16(uint16_t *p, f32x16 v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

/* The first n < 16 elements; loads fill up with zeros. */
static ALWAYS_INLINE __mmask16 v_first(size_t n) { return (__mmask16)((1u << n) - 1); }
static ALWAYS_INLINE f32x16 v_load_n(const float *p, size_t n) { return _mm512_maskz_loadu_ps(v_first(n), p); }
static ALWAYS_INLINE void v_store_n(float *p, f32x16 v, size_t n) { _mm512_mask_storeu_ps(p, v_first(n), v); }

/* v where begin <= base + lane < end, else `other`; 0 <= begin, end <= 32, base 0 or 16. */
static ALWAYS_INLINE f32x16 v_in_range(f32x16 v, int32_t base, int32_t begin, int32_t end, f32x16 other)
{
    uint32_t seen = (uint32_t)((UINT64_C(1) << end) - (UINT64_C(1) << begin)) >> base;
    return _mm512_mask_mov_ps(other, (__mmask16)seen, v);
}

static ALWAYS_INLINE float v_sum(f32x16 v)
{
    __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

static ALWAYS_INLINE float v_max_lane(f32x16 v)
{
    __m256 s8 = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

/* Bit i: lane i equals x. */
static ALWAYS_INLINE uint32_t v_equal(f32x16 v, f32x16 x) { return _mm512_cmp_ps_mask(v, x, _CMP_EQ_OQ); }

/* exp of kernels.h */
static ALWAYS_INLINE f32x16 v_exp(f32x16 x)
{
    __mmask16 in_range = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_GE_OQ);
    x = _mm512_min_ps(x, _mm512_set1_ps(88.0f));
    __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(0x1.715476p+0f), _mm512_set1_ps(12582912.0f));
    __m512 n = _mm512_sub_ps(t, _mm512_set1_ps(12582912.0f));
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.62e4p-1f), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-0x1.7f7d1cp-20f), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(1.9875691500e-4f), r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    __m512i scaled = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(t), 23));
    return _mm512_castsi512_ps(_mm512_maskz_mov_epi32(in_range, scaled));
}

#else /* AVX2, FMA, F16C */

typedef struct f32x16 {
    __m256 lo, hi; /* lanes 0 … 7, 8 … 15 */
} f32x16;

static ALWAYS_INLINE f32x16 v_zero(void) { return (f32x16){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static ALWAYS_INLINE f32x16 v_set1(float x) { return (f32x16){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static ALWAYS_INLINE f32x16 v_load(const float *p) { return (f32x16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static ALWAYS_INLINE void v_store(float *p, f32x16 v)
{
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps(p + 8, v.hi);
}
static ALWAYS_INLINE f32x16 v_add(f32x16 a, f32x16 b) { return (f32x16){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
static ALWAYS_INLINE f32x16 v_sub(f32x16 a, f32x16 b) { return (f32x16){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
static ALWAYS_INLINE f32x16 v_mul(f32x16 a, f32x16 b) { return (f32x16){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
static ALWAYS_INLINE f32x16 v_div(f32x16 a, f32x16 b) { return (f32x16){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
static ALWAYS_INLINE f32x16 v_fma(f32x16 a, f32x16 b, f32x16 c)
{
    return (f32x16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
static ALWAYS_INLINE f32x16 v_min(f32x16 a, f32x16 b) { return (f32x16){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
static ALWAYS_INLINE f32x16 v_max(f32x16 a, f32x16 b) /* b where a is NaN */
{
    return (f32x16){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
static ALWAYS_INLINE f32x16 v_neg(f32x16 a)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return (f32x16){_mm256_xor_ps(a.lo, sign), _mm256_xor_ps(a.hi, sign)};
}

static ALWAYS_INLINE f32x16 v_from_f16(const uint16_t *p)
{
    return (f32x16){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)))};
}

static ALWAYS_INLINE f32x16 v_from_i8(const int8_t *p)
{
    return (f32x16){_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p))),
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(p + 8))))};
}

/* Nearest integers, half to even; what does not fit is unspecified. */
static ALWAYS_INLINE void v_to_i8(int8_t *p, f32x16 v)
{
    /* the packs work within 128-bit lanes: put the dwords back in order */
    __m256i halves = _mm256_packs_epi32(_mm256_cvtps_epi32(v.lo), _mm256_cvtps_epi32(v.hi));
    __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(halves, halves), _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0));
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(bytes));
}

static ALWAYS_INLINE f32x16 v_from_bf16(const uint16_t *p)
{
    __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p + 8)));
    return (f32x16){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}

static ALWAYS_INLINE void v_to_f16(uint16_t *p, f32x16 v)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(v.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(void *)(p + 8), _mm256_cvtps_ph(v.hi, _MM_FROUND_TO_NEAREST_INT));
}

static const int32_t v_first_table[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

/* The first n < 16 elements; loads fill up with zeros. */
static ALWAYS_INLINE __m256i v_first(size_t n, size_t half)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)(v_first_table + 16 - n + 8 * half));
}
static ALWAYS_INLINE f32x16 v_load_n(const float *p, size_t n)
{
    return (f32x16){_mm256_maskload_ps(p, v_first(n, 0)), n > 8 ? _mm256_maskload_ps(p + 8, v_first(n, 1)) : _mm256_setzero_ps()};
}
static ALWAYS_INLINE void v_store_n(float *p, f32x16 v, size_t n)
{
    _mm256_maskstore_ps(p, v_first(n, 0), v.lo);
    if (n > 8) _mm256_maskstore_ps(p + 8, v_first(n, 1), v.hi);
}

/* v where begin <= base + lane < end, else `other`. */
static ALWAYS_INLINE f32x16 v_in_range(f32x16 v, int32_t base, int32_t begin, int32_t end, f32x16 other)
{
    __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(base));
    __m256i from = _mm256_set1_epi32(begin - 1), to = _mm256_set1_epi32(end);
    __m256i lo = _mm256_and_si256(_mm256_cmpgt_epi32(lane, from), _mm256_cmpgt_epi32(to, lane));
    lane = _mm256_add_epi32(lane, _mm256_set1_epi32(8));
    __m256i hi = _mm256_and_si256(_mm256_cmpgt_epi32(lane, from), _mm256_cmpgt_epi32(to, lane));
    return (f32x16){_mm256_blendv_ps(other.lo, v.lo, _mm256_castsi256_ps(lo)),
                    _mm256_blendv_ps(other.hi, v.hi, _mm256_castsi256_ps(hi))};
}

static ALWAYS_INLINE float v_sum(f32x16 v)
{
    __m256 s8 = _mm256_add_ps(v.lo, v.hi);
    __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

static ALWAYS_INLINE float v_max_lane(f32x16 v)
{
    __m256 s8 = _mm256_max_ps(v.lo, v.hi);
    __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

/* Bit i: lane i equals x. */
static ALWAYS_INLINE uint32_t v_equal(f32x16 v, f32x16 x)
{
    uint32_t lo = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(v.lo, x.lo, _CMP_EQ_OQ));
    return lo | (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(v.hi, x.hi, _CMP_EQ_OQ)) << 8;
}

static ALWAYS_INLINE __m256 exp8(__m256 x)
{
    __m256 in_range = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_GE_OQ);
    x = _mm256_min_ps(x, _mm256_set1_ps(88.0f));
    __m256 t = _mm256_fmadd_ps(x, _mm256_set1_ps(0x1.715476p+0f), _mm256_set1_ps(12582912.0f));
    __m256 n = _mm256_sub_ps(t, _mm256_set1_ps(12582912.0f));
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.62e4p-1f), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-0x1.7f7d1cp-20f), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(1.9875691500e-4f), r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    __m256i scaled = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23));
    return _mm256_and_ps(in_range, _mm256_castsi256_ps(scaled));
}

/* exp of kernels.h */
static ALWAYS_INLINE f32x16 v_exp(f32x16 x) { return (f32x16){exp8(x.lo), exp8(x.hi)}; }

#endif

/* The first n < 16 halves of p as floats, then zeros. */
static ALWAYS_INLINE f32x16 v_from_f16_n(const uint16_t *p, size_t n)
{
    uint16_t padded[16] = {0};
    memcpy(padded, p, n * sizeof *p);
    return v_from_f16(padded);
}

static ALWAYS_INLINE f32x16 v_from_bf16_n(const uint16_t *p, size_t n)
{
    uint16_t padded[16] = {0};
    memcpy(padded, p, n * sizeof *p);
    return v_from_bf16(padded);
}

static ALWAYS_INLINE f32x16 v_from_i8_n(const int8_t *p, size_t n)
{
    int8_t padded[16] = {0};
    memcpy(padded, p, n * sizeof *p);
    return v_from_i8(padded);
}

#endif
