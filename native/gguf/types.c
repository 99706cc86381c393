/* types.c: sizes and decoding of GGUF's tensor types.
 *
 * A block type is described once, by the function that turns its blocks into affine codes; its float32 decoding is made from
 * them. Sources: ggml's block structs for the layouts, gguf-py's dequantisation for the order of the float operations, which is
 * followed to the bit: scales are multiplied first (d * sc), then codes, and a minimum is added as an operation of its own. */
#include <string.h>

#include "core/core.h"
#include "gguf/codes.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weights are read in place: this needs a little-endian machine"
#endif

/* ---- half precision ------------------------------------------------------------------------------------------------- */

float ct_f16_to_f32(uint16_t h)
{
    union { uint32_t u; float f; } v;
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 0x1f, mantissa = h & 0x3ff;
    if (exponent == 0) { /* zero and subnormals: a count of 2^-24 */
        v.f = (float)mantissa * 0x1p-24f;
        v.u |= sign;
    } else if (exponent == 31) { /* as the hardware does it: NaN becomes quiet and keeps its payload */
        v.u = sign | 0x7f800000u | mantissa << 13 | (mantissa != 0 ? 0x400000u : 0);
    } else {
        v.u = sign | (exponent + 127 - 15) << 23 | mantissa << 13;
    }
    return v.f;
}

uint16_t ct_f32_to_f16(float f)
{
    union { float f; uint32_t u; } v = {.f = f}, t;
    uint32_t sign = v.u >> 16 & 0x8000, magnitude = v.u & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff)); /* NaN, made quiet */
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* from 65520 on the nearest is infinity */
    if (magnitude < 0x38800000) { /* below 2^-14: floats in [0.5, 1) have the spacing of half's subnormals */
        v.u = magnitude;
        t.f = v.f + 0.5f;
        return (uint16_t)(sign | (t.u - 0x3f000000));
    }
    magnitude += 0xfff + (magnitude >> 13 & 1); /* round half to even; a carry moves into the exponent, as it should */
    return (uint16_t)(sign | (magnitude - (112u << 23)) >> 13);
}

/* ---- plain types ---------------------------------------------------------------------------------------------------- */

static void f32_f32(const void *blocks, size_t n_elems, float *out)
{
    if (n_elems > 0) memcpy(out, blocks, n_elems * sizeof *out);
}

static void f16_f32(const void *blocks, size_t n_elems, float *out)
{
    const uint8_t *p = blocks;
    for (size_t i = 0; i < n_elems; i++) out[i] = load_f16(p + 2 * i);
}

static void bf16_f32(const void *blocks, size_t n_elems, float *out)
{
    const uint8_t *p = blocks;
    for (size_t i = 0; i < n_elems; i++) out[i] = ct_bf16_to_f32(load_u16(p + 2 * i));
}

/* ---- blocks of 32 --------------------------------------------------------------------------------------------------- */

/* 16 bytes hold 32 nibbles: element k < 16 is the low half of byte k, element 16 + k its high half. */

/* { f16 d; u8 qs[16] }: d * (q - 8) */
static void q4_0_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 32; b++, p += 18, codes += 32) {
        d[b] = load_f16(p);
        for (size_t k = 0; k < 16; k++) {
            codes[k] = (int8_t)((p[2 + k] & 15) - 8);
            codes[16 + k] = (int8_t)((p[2 + k] >> 4) - 8);
        }
    }
}

/* { f16 d, m; u8 qs[16] }: d * q + m */
static void q4_1_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    for (size_t b = 0; b < n_elems / 32; b++, p += 20, codes += 32) {
        d[b] = load_f16(p);
        m[b] = load_f16(p + 2);
        for (size_t k = 0; k < 16; k++) {
            codes[k] = (int8_t)(p[4 + k] & 15);
            codes[16 + k] = (int8_t)(p[4 + k] >> 4);
        }
    }
}

/* The fifth bits are a little-endian u32, element k in bit k. */
static void join_5_bits(const uint8_t *high, const uint8_t *low, int offset, int8_t *codes)
{
    for (int k = 0; k < 16; k++) {
        int h0 = high[k / 8] >> k % 8 & 1, h1 = high[2 + k / 8] >> k % 8 & 1;
        codes[k] = (int8_t)((low[k] & 15) + 16 * h0 - offset);
        codes[16 + k] = (int8_t)((low[k] >> 4) + 16 * h1 - offset);
    }
}

/* { f16 d; u8 qh[4]; u8 qs[16] }: d * (q - 16) */
static void q5_0_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 32; b++, p += 22, codes += 32) {
        d[b] = load_f16(p);
        join_5_bits(p + 2, p + 6, 16, codes);
    }
}

/* { f16 d, m; u8 qh[4]; u8 qs[16] }: d * q + m */
static void q5_1_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    for (size_t b = 0; b < n_elems / 32; b++, p += 24, codes += 32) {
        d[b] = load_f16(p);
        m[b] = load_f16(p + 2);
        join_5_bits(p + 4, p + 8, 0, codes);
    }
}

/* { f16 d; i8 qs[32] }: d * q */
static void q8_0_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 32; b++, p += 34, codes += 32) {
        d[b] = load_f16(p);
        memcpy(codes, p + 2, 32);
    }
}

/* Levels that follow the normal distribution: IQ4_NL and IQ4_XS. */
static const int8_t iq4_level[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* Floats of four bits (E2M1), doubled: MXFP4 and NVFP4. */
static const int8_t fp4_level[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* n bytes: the codes of the low halves, then those of the high ones */
static void look_up(const int8_t level[16], const uint8_t *q, size_t n, int8_t *codes)
{
    for (size_t k = 0; k < n; k++) {
        codes[k] = level[q[k] & 15];
        codes[n + k] = level[q[k] >> 4];
    }
}

/* { f16 d; u8 qs[16] }: d * level[q] */
static void iq4_nl_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 32; b++, p += 18, codes += 32) {
        d[b] = load_f16(p);
        look_up(iq4_level, p + 2, 16, codes);
    }
}

/* Half of 2^(e - 127), as the levels are doubled. */
static float load_e8m0_half(const uint8_t *p)
{
    union { uint32_t u; float f; } v = {.u = *p < 2 ? 0x00200000u << *p : (*p - 1u) << 23};
    return v.f;
}

/* { u8 e; u8 qs[16] }: 2^(e - 127) * level[q] / 2 */
static void mxfp4_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 32; b++, p += 17, codes += 32) {
        d[b] = load_e8m0_half(p);
        look_up(fp4_level, p + 1, 16, codes);
    }
}

/* ---- blocks of 64 and 128 ------------------------------------------------------------------------------------------- */

/* Half of a float of eight bits without sign (UE4M3); 0x7f, which would be NaN, counts as 0, and the upper bit as nothing. */
static float load_ue4m3_half(const uint8_t *p)
{
    union { uint32_t u; float f; } v;
    uint32_t exponent = *p >> 3 & 15, mantissa = *p & 7;
    if (*p == 0x7f) return 0.0f;
    if (exponent == 0) return (float)mantissa * 0x1p-10f;
    v.u = (exponent + 127 - 8) << 23 | mantissa << 20;
    return v.f;
}

/* fp4_level of eight nibbles. Bits are the sign, then two of exponent and one of mantissa: n up to 3, or 4 and 6, once doubled. */
static uint64_t fp4_codes(uint64_t n)
{
    uint64_t exponent_1 = n >> 1 & ONES, exponent_2 = n >> 2 & ONES, large = 4 * ONES + 2 * (n & ONES);
    large += large & 255 * exponent_1;
    uint64_t magnitude = (large & 255 * exponent_2) | (n & 3 * ONES & ~(255 * exponent_2));
    return less(12 * ONES + magnitude - 2 * (magnitude & 255 * (n >> 3 & ONES)), 12); /* 12 ± magnitude, less 12 */
}

/* { u8 d[4]; u8 qs[32] }: d * level[q] / 2 in sub-blocks of 16, each with 8 bytes of qs */
static void nvfp4_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 64; b++, p += 36)
        for (size_t g = 0; g < 4; g++, codes += 16) {
            uint64_t v = load_u64(p + 4 + 8 * g);
            *d++ = load_ue4m3_half(p + g);
            put_8(codes, fp4_codes(v & 15 * ONES));
            put_8(codes + 8, fp4_codes(v >> 4 & 15 * ONES));
        }
}

/* { f16 d; u8 qs[16] }: d * (q ? 1 : -1), element k in bit k */
static void q1_0_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 128; b++, p += 18) {
        float block_d = load_f16(p);
        for (size_t g = 0; g < 4; g++) *d++ = block_d;
        for (size_t i = 0; i < 16; i++, codes += 8) {
            uint64_t bits = p[2 + i] * ONES & UINT64_C(0x8040201008040201); /* bit k stays in byte k */
            put_8(codes, less(2 * ((bits + 127 * ONES) >> 7 & ONES), 1));
        }
    }
}

/* { f16 d; u8 qs[16] }: d * (q - 1), four elements to a byte, lowest first */
static void q2_0_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 64; b++, p += 18) {
        float block_d = load_f16(p);
        for (size_t g = 0; g < 2; g++) *d++ = block_d;
        for (size_t i = 0; i < 16; i += 2, codes += 8) { /* a byte in each half of a u64, then in nibbles, then in pairs of bits */
            uint64_t v = p[2 + i] | (uint64_t)p[3 + i] << 32;
            v = (v | v << 12) & UINT64_C(0x000f000f000f000f);
            put_8(codes, less((v | v << 6) & 3 * ONES, 1));
        }
    }
}

/* ---- blocks of 256 -------------------------------------------------------------------------------------------------- */

/* Q4_K and Q5_K: eight 6-bit scales and minima in 12 bytes. Bytes 0-3 hold scales 0-3, bytes 4-7 minima 0-3; bytes 8-11 hold the
 * low four bits of scale (low half) and minimum (high half) 4-7, whose upper two bits top bytes 0-3 and 4-7. */
static void k_scales(const uint8_t s[12], float block_d, float block_min, float d[8], float m[8])
{
    for (size_t g = 0; g < 4; g++) {
        int scale_high = (s[8 + g] & 15) | s[g] >> 6 << 4, min_high = s[8 + g] >> 4 | s[4 + g] >> 6 << 4;
        d[g] = block_d * (float)(s[g] & 63);
        m[g] = -(block_min * (float)(s[4 + g] & 63));
        d[4 + g] = block_d * (float)scale_high;
        m[4 + g] = -(block_min * (float)min_high);
    }
}

/* { f16 d, dmin; u8 scales[12]; u8 qs[128] }: 32 bytes of qs are two sub-blocks, low halves first */
static void q4_k_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    for (size_t b = 0; b < n_elems / 256; b++, p += 144, d += 8, m += 8) {
        k_scales(p + 4, load_f16(p), load_f16(p + 2), d, m);
        for (const uint8_t *q = p + 16; q < p + 144; q += 32, codes += 64)
            for (size_t k = 0; k < 32; k++) {
                codes[k] = (int8_t)(q[k] & 15);
                codes[32 + k] = (int8_t)(q[k] >> 4);
            }
    }
}

/* { f16 d, dmin; u8 scales[12]; u8 qh[32]; u8 qs[128] }: as Q4_K; the fifth bit of element k of sub-block g is bit g of qh[k] */
static void q5_k_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    for (size_t b = 0; b < n_elems / 256; b++, p += 176, d += 8, m += 8, codes += 256) {
        k_scales(p + 4, load_f16(p), load_f16(p + 2), d, m);
        for (size_t g = 0; g < 8; g++)
            for (size_t k = 0; k < 32; k++) {
                int low = p[48 + g / 2 * 32 + k] >> 4 * (g % 2) & 15, high = p[16 + k] >> g & 1;
                codes[g * 32 + k] = (int8_t)(low + 16 * high);
            }
    }
}

/* { u8 ql[128]; u8 qh[64]; i8 scales[16]; f16 d }: d * sc * (q - 32) in sub-blocks of 16. Each half of the block has 64 bytes of
 * ql and 32 of qh; of its four runs of 32 elements, run r takes the low (r < 2) or high halves of 32 bytes of ql, and bits
 * 2r, 2r + 1 of qh. */
static void q6_k_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 256; b++, p += 210, d += 16) {
        float block_d = load_f16(p + 208);
        for (size_t g = 0; g < 16; g++) d[g] = block_d * (float)(int8_t)p[192 + g];
        for (size_t run = 0; run < 8; run++, codes += 32) {
            const uint8_t *low = p + run / 4 * 64 + run % 2 * 32, *high = p + 128 + run / 4 * 32;
            size_t low_shift = run % 4 / 2 * 4, high_shift = run % 4 * 2;
            for (size_t k = 0; k < 32; k++)
                codes[k] = (int8_t)((low[k] >> low_shift & 15) + 16 * (high[k] >> high_shift & 3) - 32);
        }
    }
}

/* { u8 scales[16]; u8 qs[64]; f16 d, dmin }: d * sc * q - dmin * mn in sub-blocks of 16; a byte of scales has sc in its low half,
 * mn in its high one. 32 bytes of qs are four runs of 32 elements, two bits each, lowest first. */
static void q2_k_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    for (size_t b = 0; b < n_elems / 256; b++, p += 84, d += 16, m += 16) {
        float block_d = load_f16(p + 80), block_min = load_f16(p + 82);
        for (size_t g = 0; g < 16; g++) {
            d[g] = block_d * (float)(p[g] & 15);
            m[g] = -(block_min * (float)(p[g] >> 4));
        }
        for (size_t run = 0; run < 8; run++, codes += 32)
            for (size_t k = 0; k < 32; k += 8) put_8(codes + k, load_u64(p + 16 + run / 4 * 32 + k) >> run % 4 * 2 & 3 * ONES);
    }
}

/* { u8 hmask[32]; u8 qs[64]; u8 scales[12]; f16 d }: d * (sc - 32) * (q - 4) in sub-blocks of 16; qs as in Q2_K, the third bit of
 * element k of run r is bit r of hmask[k]. The low four bits of sc g are in byte g % 8, the upper two in byte 8 + g % 4. */
static void q3_k_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 256; b++, p += 110, d += 16) {
        float block_d = load_f16(p + 108);
        const uint8_t *s = p + 96;
        for (size_t g = 0; g < 16; g++)
            d[g] = block_d * (float)((s[g % 8] >> g / 8 * 4 & 15) + 16 * (s[8 + g % 4] >> g / 4 * 2 & 3) - 32);
        for (size_t run = 0; run < 8; run++, codes += 32)
            for (size_t k = 0; k < 32; k += 8) {
                uint64_t low = load_u64(p + 32 + run / 4 * 32 + k) >> run % 4 * 2 & 3 * ONES;
                put_8(codes + k, less(low | (load_u64(p + k) >> run & ONES) << 2, 4));
            }
    }
}

/* { f16 d; u16 scales_h; u8 scales_l[4]; u8 qs[128] }: d * (sc - 32) * level[q] in sub-blocks of 32, each with 16 bytes of qs. The
 * low four bits of sc g are a nibble of scales_l, the upper two bits 2g, 2g + 1 of scales_h. */
static void iq4_xs_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 256; b++, p += 136) {
        float block_d = load_f16(p);
        int high = load_u16(p + 2);
        for (size_t g = 0; g < 8; g++, codes += 32) {
            *d++ = block_d * (float)((p[4 + g / 2] >> g % 2 * 4 & 15) + 16 * (high >> 2 * g & 3) - 32);
            look_up(iq4_level, p + 8 + 16 * g, 16, codes);
        }
    }
}

/* The first n_digits digits of eight bytes of TQ1_0, digit n to codes + n * stride, of which `size` bytes are wanted. A byte is a
 * fraction of 256 in base 3: three times it, what goes beyond 256 is the next digit. */
static inline void ternary_digits(uint64_t bytes, size_t n_digits, int8_t *codes, size_t stride, size_t size)
{
    const uint64_t low = UINT64_C(0x00ff00ff00ff00ff);
    uint64_t even = bytes & low, odd = bytes >> 8 & low;
    for (size_t n = 0; n < n_digits; n++, codes += stride) {
        even *= 3;
        odd *= 3;
        uint64_t digits = less((even >> 8 & low) | (odd & ~low), 1);
        memcpy(codes, &digits, size);
        even &= low;
        odd &= low;
    }
}

/* { u8 qs[48]; u8 qh[4]; f16 d }: d * (q - 1). Five digits to a byte of qs: 32 bytes hold five runs of 32 elements, 16 bytes five
 * of 16; four to a byte of qh. */
static void tq1_0_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 256; b++, p += 54, codes += 256) {
        float block_d = load_f16(p + 52);
        for (size_t g = 0; g < 8; g++) *d++ = block_d;
        for (size_t k = 0; k < 32; k += 8) ternary_digits(load_u64(p + k), 5, codes + k, 32, 8);
        for (size_t k = 0; k < 16; k += 8) ternary_digits(load_u64(p + 32 + k), 5, codes + 160 + k, 16, 8);
        ternary_digits(load_u32(p + 48), 4, codes + 240, 4, 4);
    }
}

/* { u8 qs[64]; f16 d }: d * (q - 1); 32 bytes are four runs of 32 elements, two bits each, lowest first */
static void tq2_0_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 256; b++, p += 66)
        for (size_t run = 0; run < 8; run++, codes += 32) {
            *d++ = load_f16(p + 64);
            for (size_t k = 0; k < 32; k += 8) put_8(codes + k, less(load_u64(p + run / 4 * 32 + k) >> run % 4 * 2 & 3 * ONES, 1));
        }
}

/* ---- float32 from codes --------------------------------------------------------------------------------------------- */

enum { MAX_BLOCK_ELEMS = 256, MIN_SUB_ELEMS = 16 };

static void f32_from_codes(const ct_type_info *info, const void *blocks, size_t n_elems, float *out)
{
    int8_t codes[MAX_BLOCK_ELEMS];
    float d[MAX_BLOCK_ELEMS / MIN_SUB_ELEMS], m[MAX_BLOCK_ELEMS / MIN_SUB_ELEMS];
    const uint8_t *p = blocks;
    for (size_t b = 0; b < n_elems / info->block_elems; b++, p += info->block_bytes, out += info->block_elems) {
        info->decode_codes(p, info->block_elems, codes, d, m);
        for (size_t k = 0; k < info->block_elems; k++) {
            size_t g = k / info->sub_elems;
            float w = d[g] * (float)codes[k];
            out[k] = info->has_min ? w + m[g] : w;
        }
    }
}

static const ct_type_info table[CT_N_TYPES];

#define F32_FROM_CODES(name, type) \
    static void name(const void *blocks, size_t n_elems, float *out) { f32_from_codes(&table[type], blocks, n_elems, out); }
F32_FROM_CODES(q4_0_f32, CT_Q4_0)
F32_FROM_CODES(q4_1_f32, CT_Q4_1)
F32_FROM_CODES(q5_0_f32, CT_Q5_0)
F32_FROM_CODES(q5_1_f32, CT_Q5_1)
F32_FROM_CODES(q8_0_f32, CT_Q8_0)
F32_FROM_CODES(iq4_nl_f32, CT_IQ4_NL)
F32_FROM_CODES(q4_k_f32, CT_Q4_K)
F32_FROM_CODES(q5_k_f32, CT_Q5_K)
F32_FROM_CODES(q6_k_f32, CT_Q6_K)
F32_FROM_CODES(q2_k_f32, CT_Q2_K)
F32_FROM_CODES(q3_k_f32, CT_Q3_K)
F32_FROM_CODES(iq1_s_f32, CT_IQ1_S)
F32_FROM_CODES(iq1_m_f32, CT_IQ1_M)
F32_FROM_CODES(iq2_xxs_f32, CT_IQ2_XXS)
F32_FROM_CODES(iq2_xs_f32, CT_IQ2_XS)
F32_FROM_CODES(iq2_s_f32, CT_IQ2_S)
F32_FROM_CODES(iq3_xxs_f32, CT_IQ3_XXS)
F32_FROM_CODES(iq3_s_f32, CT_IQ3_S)
F32_FROM_CODES(iq4_xs_f32, CT_IQ4_XS)
F32_FROM_CODES(tq1_0_f32, CT_TQ1_0)
F32_FROM_CODES(tq2_0_f32, CT_TQ2_0)
F32_FROM_CODES(mxfp4_f32, CT_MXFP4)
F32_FROM_CODES(nvfp4_f32, CT_NVFP4)
F32_FROM_CODES(q1_0_f32, CT_Q1_0)
F32_FROM_CODES(q2_0_f32, CT_Q2_0)

/* ---- the table ------------------------------------------------------------------------------------------------------ */

static const ct_type_info table[CT_N_TYPES] = {
    /*               name       elems bytes sub  min    float32     codes */
    [CT_F32]     = {"F32",        1,   4,   0, false, f32_f32,    NULL},
    [CT_F16]     = {"F16",        1,   2,   0, false, f16_f32,    NULL},
    [CT_BF16]    = {"BF16",       1,   2,   0, false, bf16_f32,   NULL},
    [CT_Q4_0]    = {"Q4_0",      32,  18,  32, false, q4_0_f32,   q4_0_codes},
    [CT_Q4_1]    = {"Q4_1",      32,  20,  32, true,  q4_1_f32,   q4_1_codes},
    [CT_Q5_0]    = {"Q5_0",      32,  22,  32, false, q5_0_f32,   q5_0_codes},
    [CT_Q5_1]    = {"Q5_1",      32,  24,  32, true,  q5_1_f32,   q5_1_codes},
    [CT_Q8_0]    = {"Q8_0",      32,  34,  32, false, q8_0_f32,   q8_0_codes},
    [CT_IQ4_NL]  = {"IQ4_NL",    32,  18,  32, false, iq4_nl_f32, iq4_nl_codes},
    [CT_MXFP4]   = {"MXFP4",     32,  17,  32, false, mxfp4_f32,  mxfp4_codes},
    [CT_NVFP4]   = {"NVFP4",     64,  36,  16, false, nvfp4_f32,  nvfp4_codes},
    [CT_Q1_0]    = {"Q1_0",     128,  18,  32, false, q1_0_f32,   q1_0_codes},
    [CT_Q2_0]    = {"Q2_0",      64,  18,  32, false, q2_0_f32,   q2_0_codes},
    [CT_Q2_K]    = {"Q2_K",     256,  84,  16, true,  q2_k_f32,   q2_k_codes},
    [CT_Q3_K]    = {"Q3_K",     256, 110,  16, false, q3_k_f32,   q3_k_codes},
    [CT_Q4_K]    = {"Q4_K",     256, 144,  32, true,  q4_k_f32,   q4_k_codes},
    [CT_Q5_K]    = {"Q5_K",     256, 176,  32, true,  q5_k_f32,   q5_k_codes},
    [CT_Q6_K]    = {"Q6_K",     256, 210,  16, false, q6_k_f32,   q6_k_codes},
    [CT_IQ1_S]   = {"IQ1_S",    256,  50,  32, false, iq1_s_f32,  ct_iq1_s_codes},
    [CT_IQ1_M]   = {"IQ1_M",    256,  56,  16, false, iq1_m_f32,  ct_iq1_m_codes},
    [CT_IQ2_XXS] = {"IQ2_XXS",  256,  66,  32, false, iq2_xxs_f32, ct_iq2_xxs_codes},
    [CT_IQ2_XS]  = {"IQ2_XS",   256,  74,  16, false, iq2_xs_f32, ct_iq2_xs_codes},
    [CT_IQ2_S]   = {"IQ2_S",    256,  82,  16, false, iq2_s_f32,  ct_iq2_s_codes},
    [CT_IQ3_XXS] = {"IQ3_XXS",  256,  98,  32, false, iq3_xxs_f32, ct_iq3_xxs_codes},
    [CT_IQ3_S]   = {"IQ3_S",    256, 110,  32, false, iq3_s_f32,  ct_iq3_s_codes},
    [CT_IQ4_XS]  = {"IQ4_XS",   256, 136,  32, false, iq4_xs_f32, iq4_xs_codes},
    [CT_TQ1_0]   = {"TQ1_0",    256,  54,  32, false, tq1_0_f32,  tq1_0_codes},
    [CT_TQ2_0]   = {"TQ2_0",    256,  66,  32, false, tq2_0_f32,  tq2_0_codes},
    /* known by size, so that a file that has them can be read and described */
    [CT_Q8_1]    = {"Q8_1",      32,  40,  32, false, NULL, NULL},
    [CT_Q8_K]    = {"Q8_K",     256, 292,  16, false, NULL, NULL},
    [CT_I8]      = {"I8",         1,   1,   0, false, NULL, NULL},
    [CT_I16]     = {"I16",        1,   2,   0, false, NULL, NULL},
    [CT_I32]     = {"I32",        1,   4,   0, false, NULL, NULL},
    [CT_I64]     = {"I64",        1,   8,   0, false, NULL, NULL},
    [CT_F64]     = {"F64",        1,   8,   0, false, NULL, NULL},
};

const ct_type_info *ct_type_get(uint32_t type)
{
    return type < CT_N_TYPES && table[type].name != NULL ? &table[type] : NULL;
}

bool ct_type_row_bytes(const ct_type_info *info, uint64_t n_elems, size_t *out_bytes)
{
    uint64_t n_blocks = n_elems / info->block_elems;
    if (n_elems % info->block_elems != 0 || n_blocks > SIZE_MAX) return false;
    return ct_mul_ok((size_t)n_blocks, info->block_bytes, out_bytes);
}
