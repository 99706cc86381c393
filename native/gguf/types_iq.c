/* types_iq.c: the IQ types whose codes are points of a grid: blocks of 256, an index for each 8 (IQ1, IQ2) or 4 (IQ3) elements.
 *
 * IQ2 and IQ3 have magnitudes in their grids and a sign for each element; the sign goes into the code. IQ1 has -1, 0, 1, to which
 * a delta of 1/8 or -1/8 is added: its codes are 8 times that, and d is an eighth. All scales have few enough bits for d and
 * d * code to be exact, so any order of the products gives gguf-py's floats. */
#include "gguf/codes.h"
#include "gguf/iq_grids.h"
#include "gguf/iq_tables.h"

/* ---- grids ---------------------------------------------------------------------------------------------------------- */

/* A point's elements as bytes, the first in the lowest. */
#define BITS(point, i, n) ((uint64_t)(point) >> (i) * (n) & ((1u << (n)) - 1))
#define EIGHT(level, point)                                                                              \
    (level(BITS(point, 0, 2)) | level(BITS(point, 1, 2)) << 8 | level(BITS(point, 2, 2)) << 16 |         \
     level(BITS(point, 3, 2)) << 24 | level(BITS(point, 4, 2)) << 32 | level(BITS(point, 5, 2)) << 40 |  \
     level(BITS(point, 6, 2)) << 48 | level(BITS(point, 7, 2)) << 56)
#define FOUR(level, point)                                                                               \
    (uint32_t)(level(BITS(point, 0, 3)) | level(BITS(point, 1, 3)) << 8 | level(BITS(point, 2, 3)) << 16 | \
               level(BITS(point, 3, 3)) << 24)

#define LEVEL_IQ1(v) (8 * (v))                       /* 8 * (-1, 0, 1) + 8 */
#define LEVEL_IQ2(v) (8 + 17 * (v) + (v) / 2)        /* 8, 25, 43 */
#define LEVEL_IQ3_XXS(v) (4 + 8 * (v) + (v) / 7 * 2) /* 4, 12, 20, 28, 36, 44, 52, 62 */
#define LEVEL_IQ3_S(v) (1 + 2 * (v))                 /* 1, 3, … 15 */

#define POINT_IQ1(point) EIGHT(LEVEL_IQ1, point),
#define POINT_IQ2(point) EIGHT(LEVEL_IQ2, point),
#define POINT_IQ3_XXS(point) FOUR(LEVEL_IQ3_XXS, point),
#define POINT_IQ3_S(point) FOUR(LEVEL_IQ3_S, point),

const uint64_t ct_iq1_grid[2048] = {IQ1_GRID(POINT_IQ1)};
const uint64_t ct_iq2_xxs_grid[256] = {IQ2_XXS_GRID(POINT_IQ2)};
const uint64_t ct_iq2_xs_grid[512] = {IQ2_XS_GRID(POINT_IQ2)};
const uint64_t ct_iq2_s_grid[1024] = {IQ2_S_GRID(POINT_IQ2)};
const uint32_t ct_iq3_xxs_grid[256] = {IQ3_XXS_GRID(POINT_IQ3_XXS)};
const uint32_t ct_iq3_s_grid[512] = {IQ3_S_GRID(POINT_IQ3_S)};

/* ---- signs ---------------------------------------------------------------------------------------------------------- */

/* Bit k of a byte as a 1 in byte k. */
#define SIGNS(b)                                                                                                       \
    (BITS(b, 0, 1) | BITS(b, 1, 1) << 8 | BITS(b, 2, 1) << 16 | BITS(b, 3, 1) << 24 | BITS(b, 4, 1) << 32 |            \
     BITS(b, 5, 1) << 40 | BITS(b, 6, 1) << 48 | BITS(b, 7, 1) << 56)
/* Seven bits and an eighth such that the number of minus signs is even. */
#define PARITY(b) (BITS(b, 0, 1) ^ BITS(b, 1, 1) ^ BITS(b, 2, 1) ^ BITS(b, 3, 1) ^ BITS(b, 4, 1) ^ BITS(b, 5, 1) ^ BITS(b, 6, 1))
#define EVEN_SIGNS(b) (SIGNS(b) | PARITY(b) << 56)

#define FROM_4(f, b) f(b), f((b) + 1), f((b) + 2), f((b) + 3)
#define FROM_16(f, b) FROM_4(f, b), FROM_4(f, (b) + 4), FROM_4(f, (b) + 8), FROM_4(f, (b) + 12)
#define FROM_64(f, b) FROM_16(f, b), FROM_16(f, (b) + 16), FROM_16(f, (b) + 32), FROM_16(f, (b) + 48)

static const uint64_t signs_of_8[256] = {FROM_64(SIGNS, 0), FROM_64(SIGNS, 64), FROM_64(SIGNS, 128), FROM_64(SIGNS, 192)};
const uint64_t ct_iq_signs_of_7[128] = {FROM_64(EVEN_SIGNS, 0), FROM_64(EVEN_SIGNS, 64)};

/* Eight bytes from 1 to 127, those negated where `signs` has a 1: nothing carries from one byte into the next. */
static inline uint64_t negate(uint64_t bytes, uint64_t signs) { return (bytes ^ ((signs << 8) - signs)) + signs; }

/* ---- IQ2 ------------------------------------------------------------------------------------------------------------ */

/* { f16 d; { u8 index[4]; u32 signs and scale } [8] }: d/4 * (scale + 1/2) in sub-blocks of 32. The u32 has four times seven sign
 * bits and, on top, four bits of scale. */
void ct_iq2_xxs_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 256; b++, p += 66) {
        float block_d = load_f16(p);
        for (const uint8_t *q = p + 2; q < p + 66; q += 8) {
            uint32_t signs = load_u32(q + 4);
            *d++ = block_d * (0.5f + (float)(signs >> 28)) * 0.25f;
            for (size_t i = 0; i < 4; i++, codes += 8)
                put_8(codes, negate(ct_iq2_xxs_grid[q[i]], ct_iq_signs_of_7[signs >> 7 * i & 127]));
        }
    }
}

/* { f16 d; u16 index and signs [32]; u8 scales[8] }: the same in sub-blocks of 16, scales in nibbles; nine bits of index, seven of
 * signs. */
void ct_iq2_xs_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 256; b++, p += 74) {
        float block_d = load_f16(p);
        for (size_t g = 0; g < 16; g++)
            *d++ = block_d * (0.5f + (float)(p[66 + g / 2] >> 4 * (g % 2) & 15)) * 0.25f;
        for (const uint8_t *q = p + 2; q < p + 66; q += 2, codes += 8) {
            uint32_t v = load_u16(q);
            put_8(codes, negate(ct_iq2_xs_grid[v & 511], ct_iq_signs_of_7[v >> 9]));
        }
    }
}

/* { f16 d; u8 index[32]; u8 signs[32]; u8 qh[8]; u8 scales[8] }: the same; bits 8 and 9 of the indices of four points are a byte of
 * qh, lowest first. */
void ct_iq2_s_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 256; b++, p += 82) {
        float block_d = load_f16(p);
        for (size_t g = 0; g < 16; g++)
            *d++ = block_d * (0.5f + (float)(p[74 + g / 2] >> 4 * (g % 2) & 15)) * 0.25f;
        for (size_t i = 0; i < 32; i += 4) {
            uint32_t high = p[66 + i / 4];
            for (size_t k = i; k < i + 4; k++, codes += 8, high >>= 2)
                put_8(codes, negate(ct_iq2_s_grid[p[2 + k] | (high & 3) << 8], signs_of_8[p[34 + k]]));
        }
    }
}

/* ---- IQ3 ------------------------------------------------------------------------------------------------------------ */

/* { f16 d; u8 index[64]; u32 signs and scale [8] }: d/2 * (scale + 1/2) in sub-blocks of 32, otherwise as IQ2_XXS */
void ct_iq3_xxs_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 256; b++, p += 98) {
        float block_d = load_f16(p);
        const uint8_t *q = p + 2;
        for (size_t g = 0; g < 8; g++) {
            uint32_t signs = load_u32(p + 66 + 4 * g);
            *d++ = block_d * (0.5f + (float)(signs >> 28)) * 0.5f;
            for (size_t i = 0; i < 4; i++, q += 2, codes += 8) {
                uint64_t bytes = ct_iq3_xxs_grid[q[0]] | (uint64_t)ct_iq3_xxs_grid[q[1]] << 32;
                put_8(codes, negate(bytes, ct_iq_signs_of_7[signs >> 7 * i & 127]));
            }
        }
    }
}

/* { f16 d; u8 index[64]; u8 qh[8]; u8 signs[32]; u8 scales[4] }: d * (2*scale + 1) in sub-blocks of 32, scales in nibbles; bit 8 of
 * eight indices is a byte of qh. */
void ct_iq3_s_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 256; b++, p += 110) {
        float block_d = load_f16(p);
        for (size_t g = 0; g < 8; g++) *d++ = block_d * (float)(1 + 2 * (p[106 + g / 2] >> 4 * (g % 2) & 15));
        for (size_t i = 0; i < 32; i += 4) {
            uint32_t high = p[66 + i / 4];
            for (size_t k = i; k < i + 4; k++, codes += 8, high >>= 2) {
                uint32_t first = p[2 + 2 * k] | (high & 1) << 8, second = p[3 + 2 * k] | (high & 2) << 7;
                put_8(codes, negate(ct_iq3_s_grid[first] | (uint64_t)ct_iq3_s_grid[second] << 32, signs_of_8[p[74 + k]]));
            }
        }
    }
}

/* ---- IQ1 ------------------------------------------------------------------------------------------------------------ */

/* Eight times a point of -1, 0, 1 plus 1/8 (`minus`: -1/8); grid bytes are 0, 8 or 16. */
static inline uint64_t iq1_point(uint32_t index, uint32_t minus) { return less(ct_iq1_grid[index], minus != 0 ? 9 : 7); }

/* { f16 d; u8 index[32]; u16 qh[8] }: d * (2*scale + 1) in sub-blocks of 32. An entry of qh has bits 8 to 10 of four indices,
 * lowest first, then three bits of scale and on top the sign of delta. */
void ct_iq1_s_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 256; b++, p += 50) {
        float block_d = load_f16(p);
        for (size_t g = 0; g < 8; g++) {
            uint32_t high = load_u16(p + 34 + 2 * g);
            *d++ = block_d * (float)(2 * (high >> 12 & 7) + 1) * 0.125f;
            for (size_t i = 0; i < 4; i++, codes += 8)
                put_8(codes, iq1_point(p[2 + 4 * g + i] | (high >> 3 * i & 7) << 8, high >> 15));
        }
    }
}

/* { u8 index[32]; u8 qh[16]; u16 scales[4] }: the same in sub-blocks of 16. A nibble of qh has bits 8 to 10 of an index and the sign
 * of delta; an entry of scales four scales of three bits, and on top four bits of the block's f16 d, lowest first. */
void ct_iq1_m_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m)
{
    const uint8_t *p = blocks;
    (void)m;
    for (size_t b = 0; b < n_elems / 256; b++, p += 56) {
        uint32_t half = 0;
        for (size_t i = 0; i < 4; i++) half |= (uint32_t)load_u16(p + 48 + 2 * i) >> 12 << 4 * i;
        float block_d = ct_f16_to_f32((uint16_t)half) * 0.125f;
        for (size_t i = 0; i < 4; i++) {
            uint32_t scales = load_u16(p + 48 + 2 * i);
            for (size_t k = 0; k < 4; k++, scales >>= 3) *d++ = block_d * (float)(2 * (scales & 7) + 1);
        }
        for (size_t i = 0; i < 16; i++, codes += 16) {
            uint32_t high = p[32 + i];
            put_8(codes, iq1_point(p[2 * i] | (high & 7) << 8, high & 8));
            put_8(codes + 8, iq1_point(p[2 * i + 1] | (high & 0x70) << 4, high & 0x80));
        }
    }
}
