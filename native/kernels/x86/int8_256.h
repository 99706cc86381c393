/* int8_256.h: products of weights in affine codes with int8 activations in 256-bit registers, for AVX2 and, where the compiler has
 * it on (-mavxvnni), with vpdpbusd.
 *
 * vpdpbusd and AVX2's vpmaddubsw both multiply unsigned by signed bytes: codes are made unsigned by adding a constant, and what
 * that adds to a dot product (constant * sum of the activations) is taken off again in int32. vpmaddubsw adds pairs in int16 with
 * saturation, so AVX2 can afford codes up to 63 there; wider ones go as |code| times the activation with the code's sign. All
 * dot products are exact. */
#ifndef CT_X86_INT8_256_H
#define CT_X86_INT8_256_H

#include "gguf/iq_tables.h"
#include "kernels/x86/x86_common.h"

#if defined(__AVXVNNI__)
enum { HAVE_VNNI = 1 };
static ALWAYS_INLINE __m256i dpbusd(__m256i acc, __m256i u, __m256i s) { return _mm256_dpbusd_avx_epi32(acc, u, s); }
#else
enum { HAVE_VNNI = 0 };
static ALWAYS_INLINE __m256i dpbusd(__m256i acc, __m256i u, __m256i s) /* u <= 63 */
{
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
}
#endif

static ALWAYS_INLINE __m256i load_256(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static ALWAYS_INLINE __m128i load_128(const void *p) { return _mm_loadu_si128((const __m128i *)p); }

static ALWAYS_INLINE __m256i load_2x128(const void *low, const void *high)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load_128(low)), load_128(high), 1);
}

/* Sums of four neighbouring products of both pairs; u0, u1 <= 63. */
static ALWAYS_INLINE __m256i dot_2(__m256i u0, __m256i s0, __m256i u1, __m256i s1)
{
#if defined(__AVXVNNI__)
    return dpbusd(dpbusd(_mm256_setzero_si256(), u0, s0), u1, s1);
#else
    __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(u0, s0), _mm256_maddubs_epi16(u1, s1));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}

/* ---- quantised activations ------------------------------------------------------------------------------------------ */

static size_t act_bytes(size_t n_cols) { return act_blocks(n_cols) * (CT_ACT_BLOCK + sizeof(act_meta)); }

static ALWAYS_INLINE __m256 abs_ps(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

static void quantize_act(void *act, const float *x, size_t n_cols)
{
    const size_t n_blocks = n_cols / CT_ACT_BLOCK, n_padded = act_blocks(n_cols);
    int8_t *q = act;
    act_meta *meta = (act_meta *)(void *)(q + n_padded * CT_ACT_BLOCK);
    for (size_t b = 0; b < n_blocks; b++, x += CT_ACT_BLOCK, q += CT_ACT_BLOCK) {
        __m256 v[4];
        UNROLL
        for (size_t i = 0; i < 4; i++) v[i] = _mm256_loadu_ps(x + 8 * i);
        __m256 m8 = _mm256_max_ps(_mm256_max_ps(abs_ps(v[0]), abs_ps(v[1])), _mm256_max_ps(abs_ps(v[2]), abs_ps(v[3])));
        __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
        m4 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
        float amax = _mm_cvtss_f32(_mm_max_ss(m4, _mm_movehdup_ps(m4)));
        float a = amax < 1e-30f ? 0.0f : amax / 127.0f, inv = a > 0.0f ? 1.0f / a : 0.0f;
        __m256i n[4];
        UNROLL
        for (size_t i = 0; i < 4; i++) n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inv)));
        /* the packs work within 128-bit lanes: put the dwords back in order */
        __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
        bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        _mm256_store_si256((__m256i *)(void *)q, bytes);
        __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        int32_t s[8];
        _mm256_storeu_si256((__m256i *)(void *)s, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        meta[b] = make_meta(a, s);
    }
    memset(q, 0, (n_padded - n_blocks) * CT_ACT_BLOCK);
    memset(meta + n_blocks, 0, (n_padded - n_blocks) * sizeof *meta);
}

/* ---- panels ---------------------------------------------------------------------------------------------------------
 * A panel_head, then one record for each sub-block: codes as bytes [sub/4][2 tiles][8 rows][4 elements], then d [16 rows] and, for
 * types with a minimum, m [16 rows]. */

enum { PANEL_ROWS = 16, TILE_ROWS = 8 };

/* How codes are stored. */
typedef enum code_kind {
    CODES_63,     /* code + bias, in [0, 63]: the sum of four products fits int16 */
    CODES_SIGNED, /* the code itself */
    CODES_VNNI    /* code + 128 */
} code_kind;

typedef struct panel_head {
    int32_t kind;
    int32_t bias;
    uint8_t padding[56]; /* the records start at 64 */
} panel_head;

static ALWAYS_INLINE size_t record_bytes(size_t sub_elems, bool has_min)
{
    return PANEL_ROWS * (sub_elems + sizeof(float) * (has_min ? 2 : 1));
}

static size_t panel_bytes(size_t n_cols)
{
    size_t with_16 = (n_cols + 15) / 16 * record_bytes(16, true), with_32 = (n_cols + 31) / 32 * record_bytes(32, true);
    return sizeof(panel_head) + (with_16 > with_32 ? with_16 : with_32);
}

/* What is added to a type's unsigned codes (code + bias) before they are stored. */
static ALWAYS_INLINE __m256i stored_codes(__m256i codes_plus_bias, const int bias)
{
    return HAVE_VNNI ? _mm256_add_epi8(codes_plus_bias, _mm256_set1_epi8((char)(128 - bias))) : codes_plus_bias;
}

static ALWAYS_INLINE uint8_t *start_panel(void *panel, code_kind kind, int bias)
{
    panel_head head = {.kind = HAVE_VNNI ? (int32_t)CODES_VNNI : (int32_t)kind, .bias = bias};
    memcpy(panel, &head, sizeof head);
    return (uint8_t *)panel + sizeof head;
}

/* 32 codes of 8 rows, columns col … col + 31, into the panel's records. */
static ALWAYS_INLINE void store_codes(uint8_t *records, size_t tile, size_t col, const __m256i rows[8], size_t sub_elems,
                                      bool has_min)
{
    const size_t steps = sub_elems / 4;
    uint8_t *out = records + col / sub_elems * record_bytes(sub_elems, has_min) + tile * 32;
    __m256i t[8], column[8];
    UNROLL
    for (size_t i = 0; i < 8; i += 4) {
        __m256i a = _mm256_unpacklo_epi32(rows[i], rows[i + 1]), b = _mm256_unpackhi_epi32(rows[i], rows[i + 1]);
        __m256i c = _mm256_unpacklo_epi32(rows[i + 2], rows[i + 3]), d = _mm256_unpackhi_epi32(rows[i + 2], rows[i + 3]);
        t[i] = _mm256_unpacklo_epi64(a, c);
        t[i + 1] = _mm256_unpackhi_epi64(a, c);
        t[i + 2] = _mm256_unpacklo_epi64(b, d);
        t[i + 3] = _mm256_unpackhi_epi64(b, d);
    }
    UNROLL
    for (size_t c = 0; c < 4; c++) {
        column[c] = _mm256_permute2x128_si256(t[c], t[4 + c], 0x20);
        column[4 + c] = _mm256_permute2x128_si256(t[c], t[4 + c], 0x31);
    }
    UNROLL
    for (size_t i = 0; i < 8; i++) {
        uint8_t *p = out + i / steps * record_bytes(sub_elems, has_min) + i % steps * 64;
        _mm256_store_si256((__m256i *)(void *)p, column[i]);
    }
}

static ALWAYS_INLINE float *record_scales(uint8_t *records, size_t g, size_t sub_elems, bool has_min)
{
    return (float *)(void *)(records + g * record_bytes(sub_elems, has_min) + PANEL_ROWS * sub_elems);
}

static void pack_panel(void *panel, const int8_t *codes, const float *d, const float *m, size_t n_rows, size_t n_cols,
                       size_t sub_elems, bool has_min)
{
    const size_t n_sub = n_cols / sub_elems;
    code_kind kind = CODES_SIGNED;
    int bias = 0;
    if (!HAVE_VNNI) {
        __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
        for (size_t i = 0; i < n_rows * n_cols; i += 32) {
            low = _mm256_min_epi8(low, load_256(codes + i));
            high = _mm256_max_epi8(high, load_256(codes + i));
        }
        int8_t lows[32], highs[32];
        int lowest = 0, highest = 0;
        _mm256_storeu_si256((__m256i *)(void *)lows, low);
        _mm256_storeu_si256((__m256i *)(void *)highs, high);
        for (size_t i = 0; i < 32; i++) {
            if (lows[i] < lowest) lowest = lows[i];
            if (highs[i] > highest) highest = highs[i];
        }
        if (lowest >= 0 && highest <= 63) kind = CODES_63;
        else if (lowest >= -32 && highest <= 31) kind = CODES_63, bias = 32;
    }
    uint8_t *records = start_panel(panel, kind, bias);
    const __m256i add = _mm256_set1_epi8((char)(HAVE_VNNI ? -128 : bias));
    for (size_t tile = 0; tile < 2; tile++)
        for (size_t col = 0; col < n_cols; col += 32) {
            __m256i rows[TILE_ROWS];
            for (size_t i = 0; i < TILE_ROWS; i++) {
                size_t r = tile * TILE_ROWS + i;
                rows[i] = _mm256_add_epi8(r < n_rows ? load_256(codes + r * n_cols + col) : _mm256_setzero_si256(), add);
            }
            store_codes(records, tile, col, rows, sub_elems, has_min);
        }
    for (size_t g = 0; g < n_sub; g++) {
        float *out = record_scales(records, g, sub_elems, has_min);
        for (size_t r = 0; r < PANEL_ROWS; r++) {
            out[r] = r < n_rows ? d[r * n_sub + g] : 0.0f;
            if (has_min) out[PANEL_ROWS + r] = r < n_rows ? m[r * n_sub + g] : 0.0f;
        }
    }
}

/* ---- unpacking ------------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE __m256i low_nibbles(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }
static ALWAYS_INLINE __m256i high_nibbles(__m256i v) { return _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15)); }

static ALWAYS_INLINE bool has_levels(const ct_type type) { return type == CT_IQ4_NL || type == CT_IQ4_XS || type == CT_MXFP4; }

/* The codes that nibbles stand for, an operand of vpshufb; MXFP4: + 12. */
static ALWAYS_INLINE __m256i level_table(const ct_type type)
{
    const __m128i fp4 = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
    const __m128i iq4 = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    return _mm256_broadcastsi128_si256(type == CT_MXFP4 ? fp4 : iq4);
}

/* 16 bytes -> 32 nibbles, low halves first */
static ALWAYS_INLINE __m256i nibbles_32(const uint8_t *p)
{
    __m128i v = load_128(p);
    return low_nibbles(_mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1));
}

/* Bit k of `bits` -> 16 in byte k. */
static ALWAYS_INLINE __m256i bits_to_16(uint32_t bits)
{
    const __m256i spread = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), spread), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8(16));
}

/* Run `run` (32 elements) of a block of Q6_K, + 32. */
static ALWAYS_INLINE __m256i codes_q6_k(const uint8_t *block, size_t run)
{
    __m256i v = load_256(block + run / 4 * 64 + run % 2 * 32), h = load_256(block + 128 + run / 4 * 32);
    const __m256i bits = _mm256_set1_epi8(0x30);
    switch (run % 4) {
    case 0: return _mm256_or_si256(low_nibbles(v), _mm256_and_si256(_mm256_slli_epi16(h, 4), bits));
    case 1: return _mm256_or_si256(low_nibbles(v), _mm256_and_si256(_mm256_slli_epi16(h, 2), bits));
    case 2: return _mm256_or_si256(high_nibbles(v), _mm256_and_si256(h, bits));
    default: return _mm256_or_si256(high_nibbles(v), _mm256_and_si256(_mm256_srli_epi16(h, 2), bits));
    }
}

/* Sub-block g of a block of Q4_K (`five`: Q5_K). */
static ALWAYS_INLINE __m256i codes_q45_k(const uint8_t *block, size_t g, const bool five)
{
    __m256i v = load_256(block + (five ? 48 : 16) + g / 2 * 32);
    v = g % 2 == 0 ? low_nibbles(v) : high_nibbles(v);
    if (!five) return v;
    __m256i h = load_256(block + 16);
    h = g <= 4 ? _mm256_slli_epi16(h, (int)(4 - g)) : _mm256_srli_epi16(h, (int)(g - 4));
    return _mm256_or_si256(v, _mm256_and_si256(h, _mm256_set1_epi8(16)));
}

/* Block or sub-block b (32 elements) of a row, + the type's bias; Q8_0, IQ4: the codes themselves. */
static ALWAYS_INLINE __m256i codes_32(const uint8_t *row, size_t b, const ct_type type)
{
    switch (type) {
    case CT_Q4_0: return nibbles_32(row + b * 18 + 2);
    case CT_Q4_1: return nibbles_32(row + b * 20 + 4);
    case CT_Q5_0: return _mm256_or_si256(nibbles_32(row + b * 22 + 6), bits_to_16(load_u32(row + b * 22 + 2)));
    case CT_Q5_1: return _mm256_or_si256(nibbles_32(row + b * 24 + 8), bits_to_16(load_u32(row + b * 24 + 4)));
    case CT_IQ4_NL: return _mm256_shuffle_epi8(level_table(type), nibbles_32(row + b * 18 + 2));
    case CT_IQ4_XS: return _mm256_shuffle_epi8(level_table(type), nibbles_32(row + b / 8 * 136 + 8 + b % 8 * 16));
    case CT_MXFP4: return _mm256_shuffle_epi8(level_table(type), nibbles_32(row + b * 17 + 1));
    case CT_Q4_K: return codes_q45_k(row + b / 8 * 144, b % 8, false);
    case CT_Q5_K: return codes_q45_k(row + b / 8 * 176, b % 8, true);
    case CT_Q6_K: return codes_q6_k(row + b / 8 * 210, b % 8);
    default: return load_256(row + b * 34 + 2); /* CT_Q8_0 */
    }
}

static ALWAYS_INLINE void unpack_codes(uint8_t *records, const uint8_t *w, size_t row_bytes, size_t n_rows, size_t n_cols,
                                       const ct_type type, const int bias, const size_t sub_elems, const bool has_min)
{
    for (size_t tile = 0; tile < 2; tile++)
        for (size_t b = 0; b < n_cols / 32; b++) {
            __m256i rows[TILE_ROWS];
            for (size_t i = 0; i < TILE_ROWS; i++) {
                size_t r = tile * TILE_ROWS + i;
                rows[i] = r < n_rows ? stored_codes(codes_32(w + r * row_bytes, b, type), bias) : _mm256_setzero_si256();
            }
            store_codes(records, tile, b * 32, rows, sub_elems, has_min);
        }
}

/* f16 at byte `offset` of every block of 32 -> d (field 0) or m (field 1); rows that are not there get zeros. */
static ALWAYS_INLINE void unpack_f16(uint8_t *records, const uint8_t *w, size_t row_bytes, size_t n_rows, size_t n_blocks,
                                     const size_t block_bytes, const size_t offset, const bool has_min, const size_t field)
{
    for (size_t b = 0; b < n_blocks; b++) {
        uint16_t half[PANEL_ROWS] = {0};
        for (size_t r = 0; r < n_rows; r++) half[r] = load_u16(w + r * row_bytes + b * block_bytes + offset);
        float *out = record_scales(records, b, 32, has_min) + field * PANEL_ROWS;
        _mm256_store_ps(out, _mm256_cvtph_ps(load_128(half)));
        _mm256_store_ps(out + 8, _mm256_cvtph_ps(load_128(half + 8)));
    }
}

static void unpack_q4_0(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)
{
    uint8_t *records = start_panel(panel, CODES_63, 8);
    unpack_codes(records, w, row_bytes, n_rows, n_cols, CT_Q4_0, 8, 32, false);
    unpack_f16(records, w, row_bytes, n_rows, n_cols / 32, 18, 0, false, 0);
}

static void unpack_q4_1(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)
{
    uint8_t *records = start_panel(panel, CODES_63, 0);
    unpack_codes(records, w, row_bytes, n_rows, n_cols, CT_Q4_1, 0, 32, true);
    unpack_f16(records, w, row_bytes, n_rows, n_cols / 32, 20, 0, true, 0);
    unpack_f16(records, w, row_bytes, n_rows, n_cols / 32, 20, 2, true, 1);
}

static void unpack_q5_0(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)
{
    uint8_t *records = start_panel(panel, CODES_63, 16);
    unpack_codes(records, w, row_bytes, n_rows, n_cols, CT_Q5_0, 16, 32, false);
    unpack_f16(records, w, row_bytes, n_rows, n_cols / 32, 22, 0, false, 0);
}

static void unpack_q5_1(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)
{
    uint8_t *records = start_panel(panel, CODES_63, 0);
    unpack_codes(records, w, row_bytes, n_rows, n_cols, CT_Q5_1, 0, 32, true);
    unpack_f16(records, w, row_bytes, n_rows, n_cols / 32, 24, 0, true, 0);
    unpack_f16(records, w, row_bytes, n_rows, n_cols / 32, 24, 2, true, 1);
}

static void unpack_iq4_nl(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)
{
    uint8_t *records = start_panel(panel, CODES_SIGNED, 0);
    unpack_codes(records, w, row_bytes, n_rows, n_cols, CT_IQ4_NL, 0, 32, false);
    unpack_f16(records, w, row_bytes, n_rows, n_cols / 32, 18, 0, false, 0);
}

static ALWAYS_INLINE __m256 e8m0_half(__m256i e) /* half of 2^(e - 127) */
{
    __m256i v = _mm256_max_epu32(_mm256_slli_epi32(e, 23), _mm256_set1_epi32(0x400000)); /* e = 0: 2^-127 is no normal float */
    return _mm256_mul_ps(_mm256_castsi256_ps(v), _mm256_set1_ps(0.5f));
}

static void unpack_mxfp4(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)
{
    uint8_t *records = start_panel(panel, CODES_63, 12);
    unpack_codes(records, w, row_bytes, n_rows, n_cols, CT_MXFP4, 12, 32, false);
    for (size_t b = 0; b < n_cols / 32; b++) {
        int32_t e[PANEL_ROWS] = {0};
        for (size_t r = 0; r < n_rows; r++) e[r] = ((const uint8_t *)w)[r * row_bytes + b * 17];
        float *out = record_scales(records, b, 32, false);
        _mm256_store_ps(out, e8m0_half(load_256(e)));
        _mm256_store_ps(out + 8, e8m0_half(load_256(e + 8)));
        for (size_t r = n_rows; r < PANEL_ROWS; r++) out[r] = 0.0f;
    }
}

static void unpack_q8_0(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)
{
    uint8_t *records = start_panel(panel, CODES_SIGNED, 0);
    unpack_codes(records, w, row_bytes, n_rows, n_cols, CT_Q8_0, 0, 32, false);
    unpack_f16(records, w, row_bytes, n_rows, n_cols / 32, 34, 0, false, 0);
}

/* ---- panel x activations --------------------------------------------------------------------------------------------- */

enum { GEMM_I8_TOKENS = 3 };

/* n_t tokens x 16 rows. */
static ALWAYS_INLINE void gemm_i8_tile(float *y, size_t y_stride, const uint8_t *record, int32_t bias, const uint8_t *act,
                                       size_t act_stride, size_t n_rows, size_t n_cols, const size_t n_t, const size_t sub_elems,
                                       const bool has_min, const code_kind kind)
{
    const size_t steps = sub_elems / 4;
    const __m256i ones = _mm256_set1_epi16(1);
    const uint8_t *meta = act + act_blocks(n_cols) * CT_ACT_BLOCK;
    __m256 acc[GEMM_I8_TOKENS][2];
    UNROLL
    for (size_t t = 0; t < n_t; t++) acc[t][0] = acc[t][1] = _mm256_setzero_ps();
    for (size_t b = 0; b < n_cols / CT_ACT_BLOCK; b++, act += CT_ACT_BLOCK, meta += sizeof(act_meta)) {
        UNROLL
        for (size_t h = 0; h < CT_ACT_BLOCK / sub_elems; h++) {
            const size_t corr_at = minus_128_at(sub_elems, h), sum_at = a_sum_at(sub_elems, h);
            __m256i dot[GEMM_I8_TOKENS][2];
            UNROLL
            for (size_t t = 0; t < n_t; t++) {
                int32_t start = kind == CODES_VNNI ? load_i32(meta + t * act_stride + corr_at) : 0;
                dot[t][0] = dot[t][1] = _mm256_set1_epi32(start);
            }
            if (kind == CODES_63) {
                UNROLL
                for (size_t k = 0; k < steps; k += 2) { /* the sums of two steps fit int16 */
                    __m256i pairs[GEMM_I8_TOKENS][2];
                    UNROLL
                    for (size_t j = 0; j < 2; j++) {
                        __m256i w0 = load_256(record + (k + j) * 64), w1 = load_256(record + (k + j) * 64 + 32);
                        UNROLL
                        for (size_t t = 0; t < n_t; t++) {
                            __m256i q = _mm256_set1_epi32(load_i32(act + t * act_stride + h * sub_elems + 4 * (k + j)));
                            __m256i p0 = _mm256_maddubs_epi16(w0, q), p1 = _mm256_maddubs_epi16(w1, q);
                            pairs[t][0] = j == 0 ? p0 : _mm256_add_epi16(pairs[t][0], p0);
                            pairs[t][1] = j == 0 ? p1 : _mm256_add_epi16(pairs[t][1], p1);
                        }
                    }
                    UNROLL
                    for (size_t t = 0; t < n_t; t++) {
                        pairs[t][0] = _mm256_madd_epi16(pairs[t][0], ones);
                        pairs[t][1] = _mm256_madd_epi16(pairs[t][1], ones);
                        dot[t][0] = k == 0 ? pairs[t][0] : _mm256_add_epi32(dot[t][0], pairs[t][0]);
                        dot[t][1] = k == 0 ? pairs[t][1] : _mm256_add_epi32(dot[t][1], pairs[t][1]);
                    }
                }
            } else {
                UNROLL
                for (size_t k = 0; k < steps; k++) {
                    __m256i w0 = load_256(record + k * 64), w1 = load_256(record + k * 64 + 32);
                    UNROLL
                    for (size_t t = 0; t < n_t; t++) {
                        __m256i q = _mm256_set1_epi32(load_i32(act + t * act_stride + h * sub_elems + 4 * k));
                        if (kind == CODES_VNNI) {
                            dot[t][0] = dpbusd(dot[t][0], w0, q);
                            dot[t][1] = dpbusd(dot[t][1], w1, q);
                        } else {
                            __m256i p0 = _mm256_maddubs_epi16(_mm256_abs_epi8(w0), _mm256_sign_epi8(q, w0));
                            __m256i p1 = _mm256_maddubs_epi16(_mm256_abs_epi8(w1), _mm256_sign_epi8(q, w1));
                            dot[t][0] = _mm256_add_epi32(dot[t][0], _mm256_madd_epi16(p0, ones));
                            dot[t][1] = _mm256_add_epi32(dot[t][1], _mm256_madd_epi16(p1, ones));
                        }
                    }
                }
            }
            const float *scales = (const float *)(const void *)(record + PANEL_ROWS * sub_elems);
            UNROLL
            for (size_t t = 0; t < n_t; t++) {
                if (kind == CODES_63) { /* what the bias added */
                    __m256i corr = _mm256_set1_epi32(load_i32(meta + t * act_stride + corr_at) / 128 * bias);
                    dot[t][0] = _mm256_add_epi32(dot[t][0], corr);
                    dot[t][1] = _mm256_add_epi32(dot[t][1], corr);
                }
                __m256 a = _mm256_castsi256_ps(_mm256_set1_epi32(load_i32(meta + t * act_stride + offsetof(act_meta, a))));
                __m256 d0 = _mm256_mul_ps(_mm256_load_ps(scales), a), d1 = _mm256_mul_ps(_mm256_load_ps(scales + 8), a);
                acc[t][0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[t][0]), d0, acc[t][0]);
                acc[t][1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[t][1]), d1, acc[t][1]);
                if (has_min) {
                    __m256 s = _mm256_castsi256_ps(_mm256_set1_epi32(load_i32(meta + t * act_stride + sum_at)));
                    acc[t][0] = _mm256_fmadd_ps(_mm256_load_ps(scales + 16), s, acc[t][0]);
                    acc[t][1] = _mm256_fmadd_ps(_mm256_load_ps(scales + 24), s, acc[t][1]);
                }
            }
            record += record_bytes(sub_elems, has_min);
        }
    }
    UNROLL
    for (size_t t = 0; t < n_t; t++) {
        float *out = y + t * y_stride;
        if (n_rows == PANEL_ROWS) {
            _mm256_storeu_ps(out, acc[t][0]);
            _mm256_storeu_ps(out + 8, acc[t][1]);
        } else {
            float row[PANEL_ROWS];
            _mm256_storeu_ps(row, acc[t][0]);
            _mm256_storeu_ps(row + 8, acc[t][1]);
            memcpy(out, row, n_rows * sizeof *out);
        }
    }
}

static ALWAYS_INLINE void gemm_i8_of(float *y, size_t y_stride, const void *panel, const uint8_t *act, size_t act_stride,
                                     size_t n_rows, size_t n_cols, size_t n_tok, const size_t sub_elems, const bool has_min,
                                     const code_kind kind)
{
    panel_head head;
    memcpy(&head, panel, sizeof head);
    const uint8_t *record = (const uint8_t *)panel + sizeof head;
    for (size_t t = 0; t < n_tok;) {
        size_t left = n_tok - t, n_tiles = (left + GEMM_I8_TOKENS - 1) / GEMM_I8_TOKENS, n_t = (left + n_tiles - 1) / n_tiles;
        float *yt = y + t * y_stride;
        const uint8_t *at = act + t * act_stride;
        const int32_t bias = head.bias;
        if (n_t == 3) gemm_i8_tile(yt, y_stride, record, bias, at, act_stride, n_rows, n_cols, 3, sub_elems, has_min, kind);
        else if (n_t == 2) gemm_i8_tile(yt, y_stride, record, bias, at, act_stride, n_rows, n_cols, 2, sub_elems, has_min, kind);
        else gemm_i8_tile(yt, y_stride, record, bias, at, act_stride, n_rows, n_cols, 1, sub_elems, has_min, kind);
        t += n_t;
    }
}

#define GEMM_I8_OF(name, kind)                                                                                               \
    static void name(float *y, size_t y_stride, const void *panel, const void *act, size_t act_stride, size_t n_rows,        \
                     size_t n_cols, size_t n_tok, size_t sub, bool has_min)                                                  \
    {                                                                                                                        \
        if (sub == 32 && has_min) gemm_i8_of(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, 32, true, kind);    \
        else if (sub == 32) gemm_i8_of(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, 32, false, kind);         \
        else if (has_min) gemm_i8_of(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, 16, true, kind);            \
        else gemm_i8_of(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, 16, false, kind);                        \
    }
#if defined(__AVXVNNI__)
GEMM_I8_OF(gemm_i8_vnni, CODES_VNNI)
#else
GEMM_I8_OF(gemm_i8_63, CODES_63)
GEMM_I8_OF(gemm_i8_signed, CODES_SIGNED)
#endif

static void gemm_i8(float *y, size_t y_stride, const void *panel, const void *act, size_t act_stride, size_t n_rows, size_t n_cols,
                    size_t n_tok, size_t sub_elems, bool has_min)
{
    if (n_rows == 0) return;
#if defined(__AVXVNNI__)
    gemm_i8_vnni(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, sub_elems, has_min);
#else
    panel_head head;
    memcpy(&head, panel, sizeof head);
    if (head.kind == CODES_63) gemm_i8_63(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, sub_elems, has_min);
    else gemm_i8_signed(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, sub_elems, has_min);
#endif
}

/* ---- matrix x vector, straight from the blocks --------------------------------------------------------------------------
 * Lanes are rows, as in avx512vnni.c: 8 rows side by side, partial sums reduced and transposed at once. */

/* Rows that are not there (r >= n_rows) repeat the last one; their results are not stored. */
static ALWAYS_INLINE void row_pointers(const uint8_t *rows[TILE_ROWS], const uint8_t *w, size_t row_bytes, size_t n_rows)
{
    for (size_t i = 0; i < TILE_ROWS; i++) rows[i] = w + (i < n_rows ? i : n_rows - 1) * row_bytes;
}

static ALWAYS_INLINE void store_rows(float *y, __m256 acc, size_t n_rows)
{
    if (n_rows >= TILE_ROWS) {
        _mm256_storeu_ps(y, acc);
        return;
    }
    float all[TILE_ROWS];
    _mm256_storeu_ps(all, acc);
    memcpy(y, all, n_rows * sizeof *y);
}

static ALWAYS_INLINE __m256i add_pairs_16(__m256i a, __m256i b) /* int32 a, b that fit int16 -> sums of neighbours */
{
    return _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1));
}

/* p[i]: row i, lane s = four partial sums of sub-block s, each of magnitude < 2^14 -> dot[s] = dot products of 8 rows */
static ALWAYS_INLINE void reduce_8_rows(const __m256i p[8], __m256i dot[2])
{
    __m256i first = add_pairs_16(add_pairs_16(p[0], p[1]), add_pairs_16(p[2], p[3]));
    __m256i second = add_pairs_16(add_pairs_16(p[4], p[5]), add_pairs_16(p[6], p[7]));
    dot[0] = _mm256_permute2x128_si256(first, second, 0x20);
    dot[1] = _mm256_permute2x128_si256(first, second, 0x31);
}

/* acc = fma((float)dot, d * a, acc) */
static ALWAYS_INLINE __m256 add_dot(__m256 acc, __m256i dot, __m256 d, const act_meta *meta)
{
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), _mm256_mul_ps(d, _mm256_set1_ps(meta->a)), acc);
}

static ALWAYS_INLINE __m256 add_min(__m256 acc, __m256 m, const act_meta *meta)
{
    return _mm256_fmadd_ps(m, _mm256_set1_ps(meta->a_sum), acc);
}

/* What reduce_8_rows does, for sums of any size. */
static ALWAYS_INLINE void reduce_8_rows_32(const __m256i p[8], __m256i dot[2])
{
    __m256i y[2];
    UNROLL
    for (size_t i = 0; i < 2; i++) { /* rows 4i … 4i + 3 */
        const __m256i *r = p + 4 * i;
        __m256i a = _mm256_add_epi32(_mm256_unpacklo_epi32(r[0], r[1]), _mm256_unpackhi_epi32(r[0], r[1]));
        __m256i b = _mm256_add_epi32(_mm256_unpacklo_epi32(r[2], r[3]), _mm256_unpackhi_epi32(r[2], r[3]));
        y[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    }
    dot[0] = _mm256_permute2x128_si256(y[0], y[1], 0x20);
    dot[1] = _mm256_permute2x128_si256(y[0], y[1], 0x31);
}

/* Sums of four neighbouring products, for any codes. minus_128_sums: those of -128 and the activations, where there is vpdpbusd. */
static ALWAYS_INLINE __m256i dot_signed(__m256i codes, __m256i q, __m256i minus_128_sums)
{
#if defined(__AVXVNNI__)
    return dpbusd(minus_128_sums, _mm256_xor_si256(codes, _mm256_set1_epi8(-128)), q);
#else
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(q, codes));
    (void)minus_128_sums;
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}

static ALWAYS_INLINE __m256i dot_2_signed(__m256i c0, __m256i s0, __m256i c1, __m256i s1, __m256i minus_128_sums)
{
#if defined(__AVXVNNI__)
    return dot_signed(c1, s1, dot_signed(c0, s0, minus_128_sums));
#else
    return _mm256_add_epi32(dot_signed(c0, s0, minus_128_sums), dot_signed(c1, s1, minus_128_sums));
#endif
}

/* 2 blocks (n = 1 at the end of a row) of 32 nibbles, for 8 rows. IQ4_XS: sub-blocks; their scales are given in `scale`. */
static ALWAYS_INLINE __m256 step_nibbles(__m256 acc, const uint8_t *const rows[TILE_ROWS], size_t pos, uintptr_t ahead,
                                         const int8_t *q, const act_meta *meta, const size_t n, const ct_type type,
                                         const __m256 scale[2])
{
    const bool five = type == CT_Q5_0 || type == CT_Q5_1, has_min = type == CT_Q4_1 || type == CT_Q5_1;
    const bool wide = type == CT_IQ4_NL || type == CT_IQ4_XS;
    const size_t at = type == CT_IQ4_XS ? 0 : type == CT_MXFP4 ? 1 : (has_min ? 4 : 2) + (five ? 4 : 0); /* the nibbles come last */
    const size_t block_bytes = at + 16, stream_bytes = type == CT_IQ4_XS ? 17 : block_bytes;
    const int bias = five ? 16 : type == CT_MXFP4 ? 12 : 0; /* off at the start: partial sums then fit reduce_8_rows */
    const __m256i zero = _mm256_setzero_si256();
    __m256i q0 = load_256(q), q1 = load_256(q + 32); /* the activations are padded */
    __m256i q_lo = _mm256_permute2x128_si256(q0, q1, 0x20), q_hi = _mm256_permute2x128_si256(q0, q1, 0x31);
    __m256i p[TILE_ROWS], dot[2], start = zero;
    uint16_t d[2][TILE_ROWS], m[2][TILE_ROWS];
    uint8_t e[2][16] = {{0}};
    if (bias != 0) {
        const __m256i added = _mm256_set1_epi8((char)bias);
        start = _mm256_sub_epi32(zero, dot_2(added, q_lo, added, q_hi));
    } else if (wide && HAVE_VNNI) start = _mm256_sub_epi32(zero, dot_2_signed(zero, q_lo, zero, q_hi, zero));
    UNROLL
    for (size_t i = 0; i < TILE_ROWS; i++) {
        const uint8_t *row = rows[i] + pos;
        __m256i v = n == 2 ? load_2x128(row + at, row + block_bytes + at) : _mm256_zextsi128_si256(load_128(row + at));
        __m256i lo = low_nibbles(v), hi = high_nibbles(v);
        for (size_t b = 0; b < n && type != CT_IQ4_XS; b++) {
            if (type == CT_MXFP4) e[b][i] = row[b * block_bytes];
            else d[b][i] = load_u16(row + b * block_bytes);
            if (has_min) m[b][i] = load_u16(row + b * block_bytes + 2);
        }
        if (five) {
            const uint8_t *bits = row + at - 4;
            __m256i h0 = bits_to_16(load_u32(bits)), h1 = n == 2 ? bits_to_16(load_u32(bits + block_bytes)) : zero;
            lo = _mm256_or_si256(lo, _mm256_permute2x128_si256(h0, h1, 0x20));
            hi = _mm256_or_si256(hi, _mm256_permute2x128_si256(h0, h1, 0x31));
        }
        if (has_levels(type)) lo = _mm256_shuffle_epi8(level_table(type), lo), hi = _mm256_shuffle_epi8(level_table(type), hi);
        p[i] = wide ? dot_2_signed(lo, q_lo, hi, q_hi, start) : dot_2(lo, q_lo, hi, q_hi);
        if (bias != 0) p[i] = _mm256_add_epi32(p[i], start);
        prefetch_part(ahead, TILE_ROWS * n * stream_bytes, i, TILE_ROWS);
    }
    if (wide) reduce_8_rows_32(p, dot);
    else reduce_8_rows(p, dot);
    UNROLL
    for (size_t b = 0; b < n; b++) {
        if (type == CT_Q4_0) dot[b] = _mm256_add_epi32(dot[b], _mm256_set1_epi32(meta[b].minus_128_sum >> 4));
        if (type == CT_Q5_1) dot[b] = _mm256_sub_epi32(dot[b], _mm256_set1_epi32(meta[b].minus_128_sum >> 3));
        __m256 db = type == CT_IQ4_XS  ? scale[b]
                    : type == CT_MXFP4 ? e8m0_half(_mm256_cvtepu8_epi32(load_128(e[b])))
                                       : _mm256_cvtph_ps(load_128(d[b]));
        acc = add_dot(acc, dot[b], db, meta + b);
        if (has_min) acc = add_min(acc, _mm256_cvtph_ps(load_128(m[b])), meta + b);
    }
    return acc;
}

/* One block of Q8_0, for 8 rows. */
static ALWAYS_INLINE __m256 step_q8_0(__m256 acc, const uint8_t *const rows[TILE_ROWS], size_t pos, uintptr_t ahead, const int8_t *q,
                                      const act_meta *meta)
{
    __m256i qv = load_256(q), p[TILE_ROWS], y[2];
    uint16_t d[TILE_ROWS];
    UNROLL
    for (size_t i = 0; i < TILE_ROWS; i++) {
        const uint8_t *row = rows[i] + pos;
        __m256i v = load_256(row + 2);
        d[i] = load_u16(row);
#if defined(__AVXVNNI__)
        p[i] = dpbusd(_mm256_setzero_si256(), _mm256_xor_si256(v, _mm256_set1_epi8(-128)), qv);
#else
        __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(qv, v));
        p[i] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
        prefetch_part(ahead, TILE_ROWS * 34, i, TILE_ROWS);
    }
    UNROLL
    for (size_t i = 0; i < 2; i++) { /* rows 4i … 4i + 3: their sums, in each 128-bit lane of its 16 elements */
        const __m256i *r = p + 4 * i;
        __m256i a = _mm256_add_epi32(_mm256_unpacklo_epi32(r[0], r[1]), _mm256_unpackhi_epi32(r[0], r[1]));
        __m256i b = _mm256_add_epi32(_mm256_unpacklo_epi32(r[2], r[3]), _mm256_unpackhi_epi32(r[2], r[3]));
        y[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    }
    __m256i dot = _mm256_add_epi32(_mm256_permute2x128_si256(y[0], y[1], 0x20), _mm256_permute2x128_si256(y[0], y[1], 0x31));
    if (HAVE_VNNI) dot = _mm256_add_epi32(dot, _mm256_set1_epi32(meta->minus_128_sum));
    return add_dot(acc, dot, _mm256_cvtph_ps(load_128(d)), meta);
}

static ALWAYS_INLINE void matvec_32(float *y, const uint8_t *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                                    const void *next, const size_t block_bytes, const ct_type type)
{
    const size_t n_blocks = n_cols / 32;
    const stream in = stream_of(w, row_bytes, n_rows, next);
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uintptr_t group_ahead = stream_ahead(&in, r);
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, w + r * row_bytes, row_bytes, n_rows - r);
        const int8_t *q = act;
        const act_meta *meta = act_meta_of(act, n_cols);
        __m256 acc = _mm256_setzero_ps();
        if (type == CT_Q8_0) {
            for (size_t b = 0, pos = 0; b < n_blocks; b++, pos += block_bytes, q += 32, meta++)
                acc = step_q8_0(acc, rows, pos, group_ahead + TILE_ROWS * pos, q, meta);
        } else {
            size_t b = 0, pos = 0;
            for (; b + 2 <= n_blocks; b += 2, pos += 2 * block_bytes, q += 64, meta += 2)
                acc = step_nibbles(acc, rows, pos, group_ahead + TILE_ROWS * pos, q, meta, 2, type, NULL);
            if (b < n_blocks) acc = step_nibbles(acc, rows, pos, group_ahead + TILE_ROWS * pos, q, meta, 1, type, NULL);
        }
        store_rows(y + r, acc, n_rows - r);
    }
}

/* Dwords of 16 bytes at `offset` of 8 rows: out[c] holds dword c of each row. */
static ALWAYS_INLINE void load_columns(const uint8_t *const rows[TILE_ROWS], size_t offset, __m256i out[4])
{
    __m256i z[4];
    UNROLL
    for (size_t i = 0; i < 4; i++) z[i] = load_2x128(rows[i] + offset, rows[4 + i] + offset);
    __m256i a = _mm256_unpacklo_epi32(z[0], z[1]), b = _mm256_unpackhi_epi32(z[0], z[1]);
    __m256i c = _mm256_unpacklo_epi32(z[2], z[3]), d = _mm256_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm256_unpacklo_epi64(a, c);
    out[1] = _mm256_unpackhi_epi64(a, c);
    out[2] = _mm256_unpacklo_epi64(b, d);
    out[3] = _mm256_unpackhi_epi64(b, d);
}

static ALWAYS_INLINE __m256 cvt_f16_dwords(__m256i v) /* the lower half of each dword */
{
    __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
    low = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(low));
}

static ALWAYS_INLINE __m256 cvt_byte(__m256i v, const size_t j) /* unsigned byte j of each dword */
{
    return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(v, (int)(8 * j)), _mm256_set1_epi32(255)));
}

static ALWAYS_INLINE __m256 cvt_signed_byte(__m256i v, const size_t j)
{
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(v, (int)(24 - 8 * j)), 24));
}

/* Scales of a block of Q4_K or Q5_K at `pos` of 8 rows. */
typedef struct k_scales {
    __m256 d, minus_dmin;
    __m256i scale[2], min[2]; /* [g / 4]: byte g % 4 of each row's dword */
} k_scales;

static ALWAYS_INLINE k_scales load_k_scales(const uint8_t *const rows[TILE_ROWS], size_t pos)
{
    const __m256i six = _mm256_set1_epi8(0x3f), four = _mm256_set1_epi8(0x0f), upper = _mm256_set1_epi8(0x30);
    __m256i c[4];
    load_columns(rows, pos, c);
    k_scales s = {.d = cvt_f16_dwords(c[0])};
    s.minus_dmin = _mm256_xor_ps(cvt_f16_dwords(_mm256_srli_epi32(c[0], 16)), _mm256_set1_ps(-0.0f));
    s.scale[0] = _mm256_and_si256(c[1], six);
    s.min[0] = _mm256_and_si256(c[2], six);
    s.scale[1] = _mm256_or_si256(_mm256_and_si256(c[3], four), _mm256_and_si256(_mm256_srli_epi32(c[1], 2), upper));
    c[3] = _mm256_srli_epi32(c[3], 4);
    s.min[1] = _mm256_or_si256(_mm256_and_si256(c[3], four), _mm256_and_si256(_mm256_srli_epi32(c[2], 2), upper));
    return s;
}

static ALWAYS_INLINE __m256 k_d(const k_scales *s, const size_t g)
{
    return _mm256_mul_ps(s->d, cvt_byte(s->scale[g / 4], g % 4));
}

static ALWAYS_INLINE __m256 k_m(const k_scales *s, const size_t g)
{
    return _mm256_mul_ps(s->minus_dmin, cvt_byte(s->min[g / 4], g % 4));
}

/* Scales of a block of IQ4_XS at `pos` of 8 rows. */
typedef struct iq4_xs_scales {
    __m256 d;
    __m256i low, high; /* four bits of sub-block g at 4g; two bits at 16 + 2g */
} iq4_xs_scales;

static ALWAYS_INLINE iq4_xs_scales load_iq4_xs_scales(const uint8_t *const rows[TILE_ROWS], size_t pos)
{
    __m256i c[4];
    load_columns(rows, pos, c);
    return (iq4_xs_scales){.d = cvt_f16_dwords(c[0]), .low = c[1], .high = c[0]};
}

static ALWAYS_INLINE __m256 iq4_xs_d(const iq4_xs_scales *s, const size_t g)
{
    __m256i low = _mm256_and_si256(_mm256_srli_epi32(s->low, (int)(4 * g)), _mm256_set1_epi32(15));
    __m256i high = _mm256_and_si256(_mm256_srli_epi32(s->high, (int)(12 + 2 * g)), _mm256_set1_epi32(0x30));
    __m256i scale = _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32));
    return _mm256_mul_ps(s->d, _mm256_cvtepi32_ps(scale));
}

static void matvec_iq4_xs(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                          const void *next)
{
    enum { BLOCK_BYTES = 136 };
    const stream in = stream_of(w, row_bytes, n_rows, next);
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uintptr_t group_ahead = stream_ahead(&in, r);
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, (const uint8_t *)w + r * row_bytes, row_bytes, n_rows - r);
        const int8_t *q = act;
        const act_meta *meta = act_meta_of(act, n_cols);
        __m256 acc = _mm256_setzero_ps();
        for (size_t pos = 0; pos < n_cols / 256 * BLOCK_BYTES; pos += BLOCK_BYTES, q += 256, meta += 8) {
            iq4_xs_scales scales = load_iq4_xs_scales(rows, pos);
            UNROLL
            for (size_t j = 0; j < 4; j++) { /* sub-blocks 2j and 2j + 1 */
                const __m256 d[2] = {iq4_xs_d(&scales, 2 * j), iq4_xs_d(&scales, 2 * j + 1)};
                const uintptr_t ahead = group_ahead + TILE_ROWS * (pos + BLOCK_BYTES / 4 * j);
                acc = step_nibbles(acc, rows, pos + 8 + 32 * j, ahead, q + 64 * j, meta + 2 * j, 2, CT_IQ4_XS, d);
            }
        }
        store_rows(y + r, acc, n_rows - r);
    }
}

static ALWAYS_INLINE __m256i even_dwords(__m256i a, __m256i b)
{
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88));
}

static ALWAYS_INLINE __m256i odd_dwords(__m256i a, __m256i b)
{
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0xdd));
}

static ALWAYS_INLINE void matvec_q45_k(float *y, const uint8_t *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                                       const void *next, const bool five)
{
    const size_t block_bytes = five ? 176 : 144;
    const stream in = stream_of(w, row_bytes, n_rows, next);
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uintptr_t group_ahead = stream_ahead(&in, r);
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, w + r * row_bytes, row_bytes, n_rows - r);
        const int8_t *q = act;
        const act_meta *meta = act_meta_of(act, n_cols);
        __m256 acc = _mm256_setzero_ps();
        for (size_t pos = 0; pos < n_cols / 256 * block_bytes; pos += block_bytes, q += 256, meta += 8) {
            k_scales scales = load_k_scales(rows, pos);
            UNROLL
            for (size_t j = 0; j < 4; j++) { /* sub-blocks 2j and 2j + 1 */
                __m256i q0 = load_256(q + 64 * j), q1 = load_256(q + 64 * j + 32), p[TILE_ROWS];
                uintptr_t ahead = group_ahead + TILE_ROWS * (pos + block_bytes / 4 * j);
                UNROLL
                for (size_t i = 0; i < TILE_ROWS; i++) {
                    const uint8_t *block = rows[i] + pos;
                    __m256i lo = dpbusd(_mm256_setzero_si256(), codes_q45_k(block, 2 * j, five), q0);
                    __m256i hi = dpbusd(_mm256_setzero_si256(), codes_q45_k(block, 2 * j + 1, five), q1);
                    p[i] = _mm256_packs_epi32(lo, hi); /* lanes: first and second half; 4 int16 of sub-block 2j, 4 of 2j + 1 */
                    prefetch_part(ahead, TILE_ROWS * block_bytes / 4, i, TILE_ROWS);
                }
                UNROLL
                for (size_t i = 0; i < 4; i++) { /* lanes: rows i and i + 4 */
                    __m256i first = _mm256_permute2x128_si256(p[i], p[i + 4], 0x20);
                    __m256i second = _mm256_permute2x128_si256(p[i], p[i + 4], 0x31);
                    p[i] = _mm256_madd_epi16(_mm256_add_epi16(first, second), _mm256_set1_epi16(1));
                }
                __m256i z0 = _mm256_add_epi32(even_dwords(p[0], p[1]), odd_dwords(p[0], p[1]));
                __m256i z1 = _mm256_add_epi32(even_dwords(p[2], p[3]), odd_dwords(p[2], p[3]));
                acc = add_dot(acc, even_dwords(z0, z1), k_d(&scales, 2 * j), meta + 2 * j);
                acc = add_min(acc, k_m(&scales, 2 * j), meta + 2 * j);
                acc = add_dot(acc, odd_dwords(z0, z1), k_d(&scales, 2 * j + 1), meta + 2 * j + 1);
                acc = add_min(acc, k_m(&scales, 2 * j + 1), meta + 2 * j + 1);
            }
        }
        store_rows(y + r, acc, n_rows - r);
    }
}

/* Scales of a block of Q6_K at `pos` of 8 rows: d * scale of sub-block g is q6_k_d(…, g). */
typedef struct q6_k_scales {
    __m256 d;
    __m256i scale[4]; /* [g / 4]: signed byte g % 4 of each row's dword */
} q6_k_scales;

static ALWAYS_INLINE q6_k_scales load_q6_k_scales(const uint8_t *const rows[TILE_ROWS], size_t pos)
{
    q6_k_scales s;
    uint16_t d[TILE_ROWS];
    for (size_t i = 0; i < TILE_ROWS; i++) d[i] = load_u16(rows[i] + pos + 208);
    load_columns(rows, pos + 192, s.scale);
    s.d = _mm256_cvtph_ps(load_128(d));
    return s;
}

static ALWAYS_INLINE __m256 q6_k_d(const q6_k_scales *s, const size_t g)
{
    return _mm256_mul_ps(s->d, cvt_signed_byte(s->scale[g / 4], g % 4));
}

static void matvec_q6_k(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    enum { BLOCK_BYTES = 210 };
    const stream in = stream_of(w, row_bytes, n_rows, next);
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uintptr_t group_ahead = stream_ahead(&in, r);
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, (const uint8_t *)w + r * row_bytes, row_bytes, n_rows - r);
        const int8_t *q = act;
        const act_meta *meta = act_meta_of(act, n_cols);
        __m256 acc = _mm256_setzero_ps();
        for (size_t pos = 0; pos < n_cols / 256 * BLOCK_BYTES; pos += BLOCK_BYTES, q += 256, meta += 8) {
            q6_k_scales scales = load_q6_k_scales(rows, pos);
            UNROLL
            for (size_t run = 0; run < 8; run++) { /* sub-blocks 2*run and 2*run + 1 */
                __m256i qv = load_256(q + 32 * run), p[TILE_ROWS], dot[2];
                /* what 32 in the codes adds, off at the start: partial sums then fit reduce_8_rows */
                __m256i start = _mm256_sub_epi32(_mm256_setzero_si256(), dpbusd(_mm256_setzero_si256(), _mm256_set1_epi8(32), qv));
                uintptr_t ahead = group_ahead + TILE_ROWS * pos + (uintptr_t)TILE_ROWS * BLOCK_BYTES / 8 * run;
                UNROLL
                for (size_t i = 0; i < TILE_ROWS; i++) {
                    p[i] = dpbusd(start, codes_q6_k(rows[i] + pos, run), qv);
                    prefetch_part(ahead, TILE_ROWS * BLOCK_BYTES / 8, i, TILE_ROWS);
                }
                reduce_8_rows(p, dot);
                acc = add_dot(acc, dot[0], q6_k_d(&scales, 2 * run), meta + run);
                acc = add_dot(acc, dot[1], q6_k_d(&scales, 2 * run + 1), meta + run);
            }
        }
        store_rows(y + r, acc, n_rows - r);
    }
}

static void matvec_q4_0(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    matvec_32(y, w, row_bytes, act, n_rows, n_cols, next, 18, CT_Q4_0);
}

static void matvec_q4_1(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    matvec_32(y, w, row_bytes, act, n_rows, n_cols, next, 20, CT_Q4_1);
}

static void matvec_q5_0(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    matvec_32(y, w, row_bytes, act, n_rows, n_cols, next, 22, CT_Q5_0);
}

static void matvec_q5_1(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    matvec_32(y, w, row_bytes, act, n_rows, n_cols, next, 24, CT_Q5_1);
}

static void matvec_iq4_nl(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                          const void *next)
{
    matvec_32(y, w, row_bytes, act, n_rows, n_cols, next, 18, CT_IQ4_NL);
}

static void matvec_mxfp4(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                         const void *next)
{
    matvec_32(y, w, row_bytes, act, n_rows, n_cols, next, 17, CT_MXFP4);
}

static void matvec_q8_0(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    matvec_32(y, w, row_bytes, act, n_rows, n_cols, next, 34, CT_Q8_0);
}

static void matvec_q4_k(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    matvec_q45_k(y, w, row_bytes, act, n_rows, n_cols, next, false);
}

static void matvec_q5_k(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    matvec_q45_k(y, w, row_bytes, act, n_rows, n_cols, next, true);
}

/* ---- types without kernels of their own: 8 rows are decoded, 256 columns at a time, into L1 ---------------------------------- */

enum { DECODED_COLS = 256, DECODED_SUBS = DECODED_COLS / 16 };

typedef struct decoded {
    _Alignas(32) int8_t codes[TILE_ROWS][DECODED_COLS];
    float d[TILE_ROWS][DECODED_SUBS], m[TILE_ROWS][DECODED_SUBS];
} decoded;

static ALWAYS_INLINE __m256 scale_column(float scale[TILE_ROWS][DECODED_SUBS], size_t g)
{
    return _mm256_setr_ps(scale[0][g], scale[1][g], scale[2][g], scale[3][g], scale[4][g], scale[5][g], scale[6][g], scale[7][g]);
}

static ALWAYS_INLINE void matvec_codes_of(float *y, const ct_type_info *info, const uint8_t *w, size_t row_bytes, const void *act,
                                          size_t n_rows, size_t n_cols, const size_t sub_elems, const bool has_min)
{
    const __m256i zero = _mm256_setzero_si256();
    decoded rows_of;
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, w + r * row_bytes, row_bytes, n_rows - r);
        const int8_t *q = act;
        const act_meta *meta = act_meta_of(act, n_cols);
        __m256 acc = _mm256_setzero_ps();
        for (size_t col = 0; col < n_cols; col += DECODED_COLS) {
            const size_t n = n_cols - col < DECODED_COLS ? n_cols - col : DECODED_COLS;
            const size_t at = col / info->block_elems * info->block_bytes;
            for (size_t i = 0; i < TILE_ROWS; i++) info->decode_codes(rows[i] + at, n, rows_of.codes[i], rows_of.d[i], rows_of.m[i]);
            for (size_t j = 0; j < n; j += 32, q += 32, meta++) {
                __m256i qv = load_256(q), start = zero, p[TILE_ROWS], dot[2];
                if (HAVE_VNNI) start = _mm256_sub_epi32(zero, dpbusd(zero, _mm256_set1_epi8(-128), qv));
                UNROLL
                for (size_t i = 0; i < TILE_ROWS; i++) p[i] = dot_signed(load_256(rows_of.codes[i] + j), qv, start);
                reduce_8_rows_32(p, dot);
                if (sub_elems == 32) dot[0] = _mm256_add_epi32(dot[0], dot[1]);
                for (size_t s = 0; s < 32 / sub_elems; s++) {
                    const size_t g = j / sub_elems + s;
                    acc = add_dot(acc, dot[s], scale_column(rows_of.d, g), meta);
                    if (!has_min) continue;
                    float a_sum = sub_elems == 16 ? meta->a_half[s] : meta->a_sum;
                    acc = _mm256_fmadd_ps(scale_column(rows_of.m, g), _mm256_set1_ps(a_sum), acc);
                }
            }
        }
        store_rows(y + r, acc, n_rows - r);
    }
}

static void matvec_codes(float *y, const ct_type_info *info, const void *w, size_t row_bytes, const void *act, size_t n_rows,
                         size_t n_cols)
{
    if (info->sub_elems == 32 && info->has_min) matvec_codes_of(y, info, w, row_bytes, act, n_rows, n_cols, 32, true);
    else if (info->sub_elems == 32) matvec_codes_of(y, info, w, row_bytes, act, n_rows, n_cols, 32, false);
    else if (info->has_min) matvec_codes_of(y, info, w, row_bytes, act, n_rows, n_cols, 16, true);
    else matvec_codes_of(y, info, w, row_bytes, act, n_rows, n_cols, 16, false);
}

/* ---- types of one to three bits: 32 codes of a row at a time, from shifts or from points of grids ----------------------------- */

/* What codes_of_bits adds to a code, and how the type's blocks lie. */
typedef struct bits_shape {
    size_t block_elems, block_bytes, sub_elems;
    int bias;
    bool has_min;
    bool has_signs; /* IQ2, IQ3: codes are magnitudes, the signs go to the activations */
    bool small;     /* |code| <= 32: partial sums fit reduce_8_rows */
} bits_shape;

static ALWAYS_INLINE bits_shape bits_shape_of(const ct_type type)
{
    switch (type) {
    case CT_Q2_K: return (bits_shape){256, 84, 16, 0, true, false, true};
    case CT_Q3_K: return (bits_shape){256, 110, 16, 4, false, false, true};
    case CT_IQ1_S: return (bits_shape){256, 50, 32, 9, false, false, true};
    case CT_IQ1_M: return (bits_shape){256, 56, 16, 9, false, false, true};
    case CT_IQ2_XXS: return (bits_shape){256, 66, 32, 0, false, true, false};
    case CT_IQ2_XS: return (bits_shape){256, 74, 16, 0, false, true, false};
    case CT_IQ2_S: return (bits_shape){256, 82, 16, 0, false, true, false};
    case CT_IQ3_XXS: return (bits_shape){256, 98, 32, 0, false, true, false};
    case CT_IQ3_S: return (bits_shape){256, 110, 32, 0, false, true, true};
    case CT_TQ1_0: return (bits_shape){256, 54, 32, 1, false, false, true};
    case CT_TQ2_0: return (bits_shape){256, 66, 32, 1, false, false, true};
    default: return (bits_shape){64, 36, 16, 12, false, false, true}; /* CT_NVFP4 */
    }
}

static ALWAYS_INLINE __m256i set_u64(const uint64_t v[4])
{
    return _mm256_set_epi64x((long long)v[3], (long long)v[2], (long long)v[1], (long long)v[0]);
}

/* v, for all that the compiler knows any number: it would put indices together in vectors, only to take them apart again. */
static ALWAYS_INLINE uint64_t hidden(uint64_t v)
{
    __asm__("" : "+r"(v));
    return v;
}

static ALWAYS_INLINE __m256i indices_of_8(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)); }

static ALWAYS_INLINE __m256i points_of_4(const uint32_t *grid, __m256i indices)
{
    return _mm256_i32gather_epi32((const int *)(const void *)grid, indices, 4);
}

/* Codes + bias of elements 32b … 32b + 31 from `block` on; b < 8 is a constant for types of 256. Where signs are apart, *minus has
 * a 1 in the byte of each negative element, or bits that are zero where it is not. */
static ALWAYS_INLINE __m256i codes_of_bits(const uint8_t *block, const size_t b, __m256i *minus, const ct_type type)
{
    uint64_t v[4], signs[4], index;
    switch (type) {
    case CT_Q2_K:
    case CT_Q3_K:
    case CT_TQ2_0: { /* run b of 32 elements, of which 32 bytes hold four */
        const uint8_t *p = block + (type == CT_Q2_K ? 16 : type == CT_Q3_K ? 32 : 0) + b / 4 * 32;
        __m256i low = _mm256_and_si256(_mm256_srli_epi16(load_256(p), (int)(b % 4 * 2)), _mm256_set1_epi8(3));
        if (type != CT_Q3_K) return low;
        __m256i h = load_256(block);
        h = b < 2 ? _mm256_slli_epi16(h, (int)(2 - b)) : _mm256_srli_epi16(h, (int)(b - 2));
        return _mm256_or_si256(low, _mm256_and_si256(h, _mm256_set1_epi8(4)));
    }
    case CT_TQ1_0: { /* runs of 32 elements from 32 bytes, then of 16 from 16 bytes, then of 4 from 4; see tq1_0_codes of types.c */
        const short p0 = b == 0 ? 1 : b == 1 ? 3 : b == 2 ? 9 : b == 3 ? 27 : b == 4 ? 81 : b == 5 ? 1 : b == 6 ? 9 : 81;
        const short p1 = b < 5 ? p0 : b == 5 ? 3 : 27;
        const __m128i last = b == 7 ? _mm_setr_epi16(1, 1, 3, 3, 9, 9, 27, 27) : _mm_set1_epi16(p1);
        const __m256i power = _mm256_inserti128_si256(_mm256_set1_epi16(p0), last, 1), three = _mm256_set1_epi16(3);
        __m256i q = b < 5 ? load_256(block) : load_2x128(block + 32, block + 32);
        if (b == 7) q = _mm256_inserti128_si256(q, _mm_set1_epi32(load_i32(block + 48)), 1);
        /* the byte times the power, modulo 256, in the upper half of a word; times 3, what goes beyond is the digit */
        __m256i even = _mm256_mulhi_epu16(_mm256_slli_epi16(_mm256_mullo_epi16(q, power), 8), three);
        __m256i odd = _mm256_mullo_epi16(_mm256_and_si256(q, _mm256_set1_epi16((short)0xff00)), power);
        return _mm256_or_si256(even, _mm256_slli_epi16(_mm256_mulhi_epu16(odd, three), 8));
    }
    case CT_IQ2_XXS:
        for (size_t k = 0; k < 4; k++) {
            v[k] = ct_iq2_xxs_grid[block[2 + 8 * b + k]];
            signs[k] = ct_iq_signs_of_7[load_u32(block + 6 + 8 * b) >> 7 * k & 127];
        }
        break;
    case CT_IQ2_XS:
        index = hidden(load_u64(block + 2 + 8 * b));
        for (size_t k = 0; k < 4; k++) {
            v[k] = ct_iq2_xs_grid[index >> 16 * k & 511];
            signs[k] = ct_iq_signs_of_7[index >> (16 * k + 9) & 127];
        }
        break;
    case CT_IQ2_S:
        for (size_t k = 0; k < 4; k++) v[k] = ct_iq2_s_grid[block[2 + 4 * b + k] | ((uint32_t)block[66 + b] << (8 - 2 * k) & 0x300)];
        *minus = bits_to_16(load_u32(block + 34 + 4 * b));
        return set_u64(v);
    case CT_IQ3_XXS:
        for (size_t k = 0; k < 4; k++) signs[k] = ct_iq_signs_of_7[load_u32(block + 66 + 4 * b) >> 7 * k & 127];
        *minus = set_u64(signs);
        return points_of_4(ct_iq3_xxs_grid, indices_of_8(block + 2 + 8 * b));
    case CT_IQ3_S: {
        const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128), high = _mm256_set1_epi32(block[66 + b]);
        __m256i indices = _mm256_slli_epi32(_mm256_cmpeq_epi32(_mm256_and_si256(high, bit), bit), 31); /* 1 << 31 where it is set */
        *minus = bits_to_16(load_u32(block + 74 + 4 * b));
        return points_of_4(ct_iq3_s_grid, _mm256_or_si256(indices_of_8(block + 2 + 8 * b), _mm256_srli_epi32(indices, 23)));
    }
    case CT_IQ1_S: { /* grid bytes are codes + 8; delta makes that + 7 or + 9 */
        const uint32_t high = load_u16(block + 34 + 2 * b);
        for (size_t k = 0; k < 4; k++) v[k] = ct_iq1_grid[block[2 + 4 * b + k] | (high >> 3 * k & 7) << 8];
        return _mm256_add_epi8(set_u64(v), _mm256_set1_epi8(high & 0x8000 ? 0 : 2));
    }
    case CT_IQ1_M: {
        const uint32_t high = load_u16(block + 32 + 2 * b);
        for (size_t k = 0; k < 4; k++) v[k] = ct_iq1_grid[block[4 * b + k] | (high >> 4 * k & 7) << 8];
        __m256i signs_at = _mm256_setr_epi64x(0x0008, 0x0080, 0x0800, 0x8000); /* the top bits of nibbles */
        __m256i plus = _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(high), signs_at), _mm256_setzero_si256());
        return _mm256_add_epi8(set_u64(v), _mm256_and_si256(plus, _mm256_set1_epi8(2)));
    }
    default: { /* CT_NVFP4: 8 bytes are the low and the high nibbles of 8 + 8 elements */
        __m256i q = _mm256_castsi128_si256(load_128(block + b / 2 * 36 + 4 + b % 2 * 16));
        q = _mm256_srlv_epi64(_mm256_permute4x64_epi64(q, 0x50), _mm256_setr_epi64x(0, 4, 0, 4));
        return _mm256_shuffle_epi8(level_table(CT_MXFP4), low_nibbles(q));
    }
    }
    *minus = set_u64(signs);
    return set_u64(v);
}

/* d * (n + add) of 16 bytes */
static ALWAYS_INLINE void store_scales_of(float out[DECODED_SUBS], float d, __m128i n, float add)
{
    __m256 low = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(n)), high = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(n, 8)));
    _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_set1_ps(d), _mm256_add_ps(low, _mm256_set1_ps(add))));
    _mm256_storeu_ps(out + 8, _mm256_mul_ps(_mm256_set1_ps(d), _mm256_add_ps(high, _mm256_set1_ps(add))));
}

static ALWAYS_INLINE float one_f16(const uint8_t *p) { return _cvtsh_ss(load_u16(p)); }

/* Nibbles of eight bytes, low ones first. */
static ALWAYS_INLINE __m128i nibbles_in_turn(uint64_t bytes)
{
    __m128i v = _mm_cvtepu8_epi16(_mm_cvtsi64_si128((long long)bytes));
    return _mm_and_si128(_mm_or_si128(v, _mm_slli_epi16(v, 4)), _mm_set1_epi8(15));
}

/* d and m of the sub-blocks of n <= 256 columns of a row, as many as there are, then anything */
static ALWAYS_INLINE void scales_of_bits(float d[DECODED_SUBS], float m[DECODED_SUBS], const uint8_t *block, size_t n, const ct_type type)
{
    const __m128i low = _mm_set1_epi8(15);
    switch (type) {
    case CT_Q2_K: {
        __m128i s = load_128(block);
        store_scales_of(m, -one_f16(block + 82), _mm_and_si128(_mm_srli_epi16(s, 4), low), 0.0f);
        store_scales_of(d, one_f16(block + 80), _mm_and_si128(s, low), 0.0f);
        return;
    }
    case CT_Q3_K: {
        __m128i s = _mm_set1_epi64x((long long)load_u64(block + 96)), h = _mm_set1_epi32(load_i32(block + 104));
        s = _mm_and_si128(_mm_srlv_epi64(s, _mm_set_epi64x(4, 0)), low);
        h = _mm_and_si128(_mm_srlv_epi32(h, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
        store_scales_of(d, one_f16(block + 108), _mm_or_si128(s, _mm_slli_epi16(h, 4)), -32.0f);
        return;
    }
    case CT_IQ1_S: {
        __m128i s = _mm_and_si128(_mm_srli_epi16(load_128(block + 34), 11), _mm_set1_epi16(14)); /* twice the scale */
        store_scales_of(d, one_f16(block) * 0.125f, _mm_packus_epi16(s, s), 1.0f);
        return;
    }
    case CT_IQ1_M: {
        const uint32_t w0 = load_u16(block + 48), w1 = load_u16(block + 50), w2 = load_u16(block + 52), w3 = load_u16(block + 54);
        const __m128i words = _mm_setr_epi32((int)(w0 << 1), (int)(w1 << 1), (int)(w2 << 1), (int)(w3 << 1)); /* 2 * scale at 0, 3, 6, 9 */
        __m128i s = _mm_and_si128(words, _mm_set1_epi32(14));
        s = _mm_or_si128(s, _mm_and_si128(_mm_slli_epi32(words, 5), _mm_set1_epi32(14 << 8)));
        s = _mm_or_si128(s, _mm_and_si128(_mm_slli_epi32(words, 10), _mm_set1_epi32(14 << 16)));
        s = _mm_or_si128(s, _mm_and_si128(_mm_slli_epi32(words, 15), _mm_set1_epi32(14 << 24)));
        uint32_t half = w0 >> 12 | w1 >> 12 << 4 | w2 >> 12 << 8 | w3 >> 12 << 12;
        store_scales_of(d, _cvtsh_ss((uint16_t)half) * 0.125f, s, 1.0f);
        return;
    }
    case CT_IQ2_XXS: { /* the upper nibbles of the odd dwords */
        __m256i words = load_256(block + 2), others = load_256(block + 34);
        words = _mm256_srli_epi32(_mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(words), _mm256_castsi256_ps(others), 0xdd)), 28);
        __m256 s = _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(words, 0xd8));
        _mm256_storeu_ps(d, _mm256_mul_ps(_mm256_set1_ps(one_f16(block) * 0.25f), _mm256_add_ps(s, _mm256_set1_ps(0.5f))));
        return;
    }
    case CT_IQ2_XS: store_scales_of(d, one_f16(block) * 0.25f, nibbles_in_turn(load_u64(block + 66)), 0.5f); return;
    case CT_IQ2_S: store_scales_of(d, one_f16(block) * 0.25f, nibbles_in_turn(load_u64(block + 74)), 0.5f); return;
    case CT_IQ3_XXS: {
        __m256 s = _mm256_cvtepi32_ps(_mm256_srli_epi32(load_256(block + 66), 28));
        _mm256_storeu_ps(d, _mm256_mul_ps(_mm256_set1_ps(one_f16(block) * 0.5f), _mm256_add_ps(s, _mm256_set1_ps(0.5f))));
        return;
    }
    case CT_IQ3_S: {
        __m128i s = nibbles_in_turn(load_u32(block + 106));
        store_scales_of(d, one_f16(block), _mm_add_epi8(s, s), 1.0f);
        return;
    }
    case CT_NVFP4: { /* exponent and mantissa moved to where f16 has them, which is 2^7 away */
        __m128i e = _mm_cvtsi32_si128(load_i32(block));
        if (n > 64) e = _mm_insert_epi32(e, load_i32(block + 36), 1);
        if (n > 128) e = _mm_insert_epi32(e, load_i32(block + 72), 2);
        if (n > 192) e = _mm_insert_epi32(e, load_i32(block + 108), 3);
        e = _mm_andnot_si128(_mm_cmpeq_epi8(e, _mm_set1_epi8(0x7f)), _mm_and_si128(e, _mm_set1_epi8(0x7f)));
        __m256i halves = _mm256_slli_epi16(_mm256_cvtepu8_epi16(e), 7);
        _mm256_storeu_ps(d, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_set1_ps(128.0f)));
        _mm256_storeu_ps(d + 8, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1)), _mm256_set1_ps(128.0f)));
        return;
    }
    default: /* CT_TQ1_0, CT_TQ2_0 */
        _mm256_storeu_ps(d, _mm256_set1_ps(one_f16(block + (type == CT_TQ1_0 ? 52 : 64))));
        return;
    }
}

/* scale[r][g] of 8 rows -> out[g], for eight g from `from` on */
static ALWAYS_INLINE void scale_columns(float scale[TILE_ROWS][DECODED_SUBS], const size_t from, __m256 out[DECODED_SUBS])
{
    __m256 t[8];
    UNROLL
    for (size_t i = 0; i < 4; i++) { /* rows i and i + 4 in the lanes; columns 0 … 3 in t[i], 4 … 7 in t[4 + i] */
        __m256 a = _mm256_loadu_ps(scale[i] + from), b = _mm256_loadu_ps(scale[i + 4] + from);
        t[i] = _mm256_permute2f128_ps(a, b, 0x20);
        t[4 + i] = _mm256_permute2f128_ps(a, b, 0x31);
    }
    UNROLL
    for (size_t i = 0; i < 8; i += 4) {
        __m256 a = _mm256_unpacklo_ps(t[i], t[i + 1]), b = _mm256_unpackhi_ps(t[i], t[i + 1]);
        __m256 c = _mm256_unpacklo_ps(t[i + 2], t[i + 3]), e = _mm256_unpackhi_ps(t[i + 2], t[i + 3]);
        out[from + i] = _mm256_shuffle_ps(a, c, 0x44);
        out[from + i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        out[from + i + 2] = _mm256_shuffle_ps(b, e, 0x44);
        out[from + i + 3] = _mm256_shuffle_ps(b, e, 0xee);
    }
}

static ALWAYS_INLINE void matvec_bits(float *y, const uint8_t *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                                      const void *next, const ct_type type)
{
    const bits_shape shape = bits_shape_of(type);
    const __m256i zero = _mm256_setzero_si256(), one = _mm256_set1_epi8(1);
    const stream in = stream_of(w, row_bytes, n_rows, next);
    float scale_d[TILE_ROWS][DECODED_SUBS] = {{0}}, scale_m[TILE_ROWS][DECODED_SUBS] = {{0}};
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uintptr_t group_ahead = stream_ahead(&in, r);
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, w + r * row_bytes, row_bytes, n_rows - r);
        const int8_t *q = act;
        const act_meta *meta = act_meta_of(act, n_cols);
        __m256 acc = _mm256_setzero_ps();
        for (size_t col = 0; col < n_cols; col += DECODED_COLS) {
            const size_t n = shape.block_elems == 256 || n_cols - col >= DECODED_COLS ? DECODED_COLS : n_cols - col;
            const size_t pos = col / shape.block_elems * shape.block_bytes;
            const size_t step_bytes = TILE_ROWS * shape.block_bytes * 32 / shape.block_elems;
            __m256 d[DECODED_SUBS], m[DECODED_SUBS];
            for (size_t i = 0; i < TILE_ROWS; i++) scales_of_bits(scale_d[i], scale_m[i], rows[i] + pos, n, type);
            UNROLL
            for (size_t g = 0; g < DECODED_COLS / shape.sub_elems; g += 8) {
                scale_columns(scale_d, g, d);
                if (shape.has_min) scale_columns(scale_m, g, m);
            }
            UNROLL
            for (size_t b = 0; b < 8; b++, q += 32, meta++) {
                if (32 * b >= n) break;
                __m256i qv = load_256(q), start = zero, p[TILE_ROWS], dot[2];
                if (shape.bias != 0) start = _mm256_sub_epi32(zero, dpbusd(zero, _mm256_set1_epi8((char)shape.bias), qv));
                UNROLL
                for (size_t i = 0; i < TILE_ROWS; i++) {
                    __m256i minus = zero, signed_q = qv;
                    __m256i codes = codes_of_bits(rows[i] + pos, b, &minus, type);
                    if (shape.has_signs) /* 1 or, where it is minus, -1 */
                        signed_q = _mm256_sign_epi8(qv, _mm256_or_si256(_mm256_cmpgt_epi8(minus, zero), one));
                    p[i] = dpbusd(start, codes, signed_q);
                    prefetch_part(group_ahead + TILE_ROWS * pos + b * step_bytes, step_bytes, i, TILE_ROWS);
                }
                if (shape.small) reduce_8_rows(p, dot);
                else reduce_8_rows_32(p, dot);
                if (shape.sub_elems == 32) dot[0] = _mm256_add_epi32(dot[0], dot[1]);
                UNROLL
                for (size_t s = 0; s < 32 / shape.sub_elems; s++) {
                    const size_t g = 32 * b / shape.sub_elems + s;
                    acc = add_dot(acc, dot[s], d[g], meta);
                    if (shape.has_min) acc = _mm256_fmadd_ps(m[g], _mm256_set1_ps(meta->a_half[s]), acc);
                }
            }
        }
        store_rows(y + r, acc, n_rows - r);
    }
}

#define BITS_MATVEC(type)                                                                                               \
    static void matvec_##type(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols, \
                              const void *next)                                                                         \
    {                                                                                                                   \
        matvec_bits(y, w, row_bytes, act, n_rows, n_cols, next, type);                                                  \
    }
#define SET_BITS_MATVEC(type) k->matvec[type] = matvec_##type;
#define BITS_TYPES(X)                                                                                                         \
    X(CT_Q2_K) X(CT_Q3_K) X(CT_IQ1_S) X(CT_IQ1_M) X(CT_IQ2_XXS) X(CT_IQ2_XS) X(CT_IQ2_S) X(CT_IQ3_XXS) X(CT_IQ3_S) X(CT_TQ1_0) \
    X(CT_TQ2_0) X(CT_NVFP4)

BITS_TYPES(BITS_MATVEC)

/* ---- unpacking the types of 256: scales 8 rows at a time ------------------------------------------------------------------ */

/* Stores v for the rows of a tile that are there, zeros for the others. */
static ALWAYS_INLINE void store_there(float *out, __m256 v, size_t n_rows)
{
    _mm256_store_ps(out, v);
    for (size_t i = n_rows; i < TILE_ROWS; i++) out[i] = 0.0f;
}

static ALWAYS_INLINE void unpack_k(void *panel, const uint8_t *w, size_t row_bytes, size_t n_rows, size_t n_cols,
                                   const ct_type type)
{
    const size_t block_bytes = type == CT_Q4_K ? 144 : type == CT_Q5_K ? 176 : 210;
    const size_t sub_elems = type == CT_Q6_K ? 16 : 32, n_subs = 256 / sub_elems;
    const bool has_min = type != CT_Q6_K;
    const int bias = type == CT_Q6_K ? 32 : 0;
    uint8_t *records = start_panel(panel, CODES_63, bias);
    unpack_codes(records, w, row_bytes, n_rows, n_cols, type, bias, sub_elems, has_min);
    for (size_t tile = 0; tile < 2; tile++) {
        const size_t done = tile * TILE_ROWS, n = n_rows <= done ? 0 : n_rows - done < TILE_ROWS ? n_rows - done : TILE_ROWS;
        const uint8_t *rows[TILE_ROWS];
        if (n > 0) row_pointers(rows, w + done * row_bytes, row_bytes, n);
        for (size_t b = 0; b < n_cols / 256; b++) {
            __m256 d[16], m[8];
            UNROLL
            for (size_t g = 0; g < 16; g++) d[g] = m[g % 8] = _mm256_setzero_ps();
            if (n > 0 && has_min) {
                k_scales s = load_k_scales(rows, b * block_bytes);
                UNROLL
                for (size_t g = 0; g < 8; g++) {
                    d[g] = k_d(&s, g);
                    m[g] = k_m(&s, g);
                }
            } else if (n > 0) {
                q6_k_scales s = load_q6_k_scales(rows, b * block_bytes);
                UNROLL
                for (size_t g = 0; g < 16; g++) d[g] = q6_k_d(&s, g);
            }
            for (size_t g = 0; g < n_subs; g++) {
                float *out = record_scales(records, b * n_subs + g, sub_elems, has_min) + done;
                store_there(out, d[g], n);
                if (has_min) store_there(out + PANEL_ROWS, m[g], n);
            }
        }
    }
}

static void unpack_iq4_xs(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)
{
    uint8_t *records = start_panel(panel, CODES_SIGNED, 0);
    unpack_codes(records, w, row_bytes, n_rows, n_cols, CT_IQ4_XS, 0, 32, false);
    for (size_t done = 0; done < PANEL_ROWS; done += TILE_ROWS) {
        const size_t n = n_rows <= done ? 0 : n_rows - done < TILE_ROWS ? n_rows - done : TILE_ROWS;
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, (const uint8_t *)w + (n > 0 ? done : 0) * row_bytes, row_bytes, n > 0 ? n : n_rows);
        for (size_t b = 0; b < n_cols / 256 && n_rows > 0; b++) {
            iq4_xs_scales s = load_iq4_xs_scales(rows, b * 136);
            UNROLL
            for (size_t g = 0; g < 8; g++) store_there(record_scales(records, 8 * b + g, 32, false) + done, iq4_xs_d(&s, g), n);
        }
    }
}

static void unpack_q4_k(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)
{
    unpack_k(panel, w, row_bytes, n_rows, n_cols, CT_Q4_K);
}

static void unpack_q5_k(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)
{
    unpack_k(panel, w, row_bytes, n_rows, n_cols, CT_Q5_K);
}

static void unpack_q6_k(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)
{
    unpack_k(panel, w, row_bytes, n_rows, n_cols, CT_Q6_K);
}

/* Puts the entries of this file into the table. */
static void set_int8_kernels(ct_kernels *k)
{
    k->act_bytes = act_bytes;
    k->quantize_act = quantize_act;
    k->panel_rows = PANEL_ROWS;
    k->panel_bytes = panel_bytes;
    k->pack_panel = pack_panel;
    k->gemm_i8 = gemm_i8;
    k->matvec_codes = matvec_codes;
    k->unpack[CT_Q4_0] = unpack_q4_0;
    k->unpack[CT_Q4_1] = unpack_q4_1;
    k->unpack[CT_Q5_0] = unpack_q5_0;
    k->unpack[CT_Q5_1] = unpack_q5_1;
    k->unpack[CT_Q8_0] = unpack_q8_0;
    k->unpack[CT_Q4_K] = unpack_q4_k;
    k->unpack[CT_Q5_K] = unpack_q5_k;
    k->unpack[CT_Q6_K] = unpack_q6_k;
    k->unpack[CT_IQ4_NL] = unpack_iq4_nl;
    k->unpack[CT_IQ4_XS] = unpack_iq4_xs;
    k->unpack[CT_MXFP4] = unpack_mxfp4;
    k->matvec[CT_Q4_0] = matvec_q4_0;
    k->matvec[CT_Q4_1] = matvec_q4_1;
    k->matvec[CT_Q5_0] = matvec_q5_0;
    k->matvec[CT_Q5_1] = matvec_q5_1;
    k->matvec[CT_Q8_0] = matvec_q8_0;
    k->matvec[CT_Q4_K] = matvec_q4_k;
    k->matvec[CT_Q5_K] = matvec_q5_k;
    k->matvec[CT_Q6_K] = matvec_q6_k;
    k->matvec[CT_IQ4_NL] = matvec_iq4_nl;
    k->matvec[CT_IQ4_XS] = matvec_iq4_xs;
    k->matvec[CT_MXFP4] = matvec_mxfp4;
    BITS_TYPES(SET_BITS_MATVEC)
}

#endif
