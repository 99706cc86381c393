/* avx512vnni.c: the kernels for AVX-512 F, BW, VL, DQ and VNNI.
 *
 * Products of codes and activations use vpdpbusd, which multiplies unsigned by signed bytes: codes are made unsigned by adding a
 * constant, and what that adds to a dot product (constant * sum of the activations, known from their quantisation) is taken off
 * again in int32, so dot products stay exact. */
#include "gguf/iq_tables.h"
#include "kernels/x86/float_kernels.h"
#include "kernels/recurrent_kernels.h"

/* ---- quantised activations ------------------------------------------------------------------------------------------ */

static size_t act_bytes(size_t n_cols) { return act_blocks(n_cols) * (CT_ACT_BLOCK + sizeof(act_meta)); }

/* Two blocks: their act_meta from their 64 quantised values and from a, block 0's in lanes 0 … 7. */
static ALWAYS_INLINE __m512i make_meta_2(__m512i q, __m512 a)
{
    /* sums of 16, each in all dwords of its 128-bit lane */
    __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), q);
    sums = _mm512_add_epi32(sums, _mm512_shuffle_epi32(sums, _MM_PERM_CDAB));
    sums = _mm512_add_epi32(sums, _mm512_shuffle_epi32(sums, _MM_PERM_BADC));
    /* fields: a, a_sum, minus_128_sum, a_half[2], minus_128_half[2], unused */
    const __m512i half_of = _mm512_setr_epi32(0, 0, 0, 0, 4, 0, 4, 0, 8, 8, 8, 8, 12, 8, 12, 8);
    const __m512i other_half = _mm512_setr_epi32(0, 4, 4, 0, 0, 0, 0, 0, 0, 12, 12, 0, 0, 0, 0, 0);
    __m512i sum = _mm512_permutexvar_epi32(half_of, sums);
    sum = _mm512_add_epi32(sum, _mm512_maskz_permutexvar_epi32(0x0606, other_half, sums));
    __m512i fields = _mm512_maskz_sub_epi32(0x6464, _mm512_setzero_si512(), _mm512_slli_epi32(sum, 7));
    fields = _mm512_mask_mov_epi32(fields, 0x1a1a, _mm512_castps_si512(_mm512_mul_ps(a, _mm512_cvtepi32_ps(sum))));
    return _mm512_mask_mov_epi32(fields, 0x0101, _mm512_castps_si512(a));
}

/* Four blocks at a time (missing ones at the end are zeros): one division serves all. */
static void quantize_act(void *act, const float *x, size_t n_cols)
{
    const size_t n_blocks = n_cols / CT_ACT_BLOCK, n_padded = act_blocks(n_cols);
    int8_t *q = act;
    uint8_t *meta = (uint8_t *)act + n_padded * CT_ACT_BLOCK;
    /* packs work within 128-bit lanes: this puts the dwords back in order */
    const __m512i in_order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (size_t b = 0; b < n_padded; b += ACT_GROUP, q += ACT_GROUP * CT_ACT_BLOCK, meta += ACT_GROUP * sizeof(act_meta)) {
        __m512 v[2 * ACT_GROUP], top[ACT_GROUP];
        UNROLL
        for (size_t i = 0; i < ACT_GROUP; i++) {
            const float *p = x + (b + i) * CT_ACT_BLOCK;
            __mmask16 there = b + i < n_blocks ? 0xffff : 0;
            v[2 * i] = _mm512_maskz_loadu_ps(there, there != 0 ? p : x);
            v[2 * i + 1] = _mm512_maskz_loadu_ps(there, there != 0 ? p + 16 : x);
            top[i] = _mm512_max_ps(_mm512_abs_ps(v[2 * i]), _mm512_abs_ps(v[2 * i + 1]));
        }
        /* lane i: block i, down to one maximum in all its four elements */
        __m512 t0 = _mm512_max_ps(_mm512_shuffle_f32x4(top[0], top[1], 0x44), _mm512_shuffle_f32x4(top[0], top[1], 0xee));
        __m512 t1 = _mm512_max_ps(_mm512_shuffle_f32x4(top[2], top[3], 0x44), _mm512_shuffle_f32x4(top[2], top[3], 0xee));
        __m512 lanes = _mm512_max_ps(_mm512_shuffle_f32x4(t0, t1, 0x88), _mm512_shuffle_f32x4(t0, t1, 0xdd));
        lanes = _mm512_max_ps(lanes, _mm512_permute_ps(lanes, 0xb1));
        lanes = _mm512_max_ps(lanes, _mm512_permute_ps(lanes, 0x4e));
        const __m512i lane_starts = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        __m128 amax = _mm512_castps512_ps128(_mm512_permutexvar_ps(lane_starts, lanes));
        __m128 a = _mm_and_ps(_mm_div_ps(amax, _mm_set1_ps(127.0f)), _mm_cmpnlt_ps(amax, _mm_set1_ps(1e-30f)));
        __m128 inv = _mm_and_ps(_mm_div_ps(_mm_set1_ps(1.0f), a), _mm_cmpgt_ps(a, _mm_setzero_ps()));
        __m512 a16 = _mm512_castps128_ps512(a), inv16 = _mm512_castps128_ps512(inv);
        UNROLL
        for (int i = 0; i < 2; i++) { /* two blocks */
            const __m512i each = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
            __m512 f0 = _mm512_permutexvar_ps(_mm512_set1_epi32(2 * i), inv16);
            __m512 f1 = _mm512_permutexvar_ps(_mm512_set1_epi32(2 * i + 1), inv16);
            __m512i n0 = _mm512_cvtps_epi32(_mm512_mul_ps(v[4 * i], f0));
            __m512i n1 = _mm512_cvtps_epi32(_mm512_mul_ps(v[4 * i + 1], f0));
            __m512i n2 = _mm512_cvtps_epi32(_mm512_mul_ps(v[4 * i + 2], f1));
            __m512i n3 = _mm512_cvtps_epi32(_mm512_mul_ps(v[4 * i + 3], f1));
            __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(n0, n1), _mm512_packs_epi32(n2, n3));
            bytes = _mm512_permutexvar_epi32(in_order, bytes);
            __m512 a_of = _mm512_permutexvar_ps(_mm512_add_epi32(_mm512_set1_epi32(2 * i), each), a16);
            _mm512_store_si512(q + 64 * i, bytes);
            _mm512_store_si512(meta + 64 * i, make_meta_2(bytes, a_of));
        }
    }
}

/* ---- panels ---------------------------------------------------------------------------------------------------------
 * 32 rows, seen as two tiles of 16. For each sub-block one record: the codes + 128 as uint8 [sub/4][2 tiles][16 rows][4 elements],
 * then d [2 tiles][16 rows] and, for types with a minimum, m likewise. */

enum { PANEL_ROWS = 32, TILE_ROWS = 16 };

static ALWAYS_INLINE size_t record_bytes(size_t sub_elems, bool has_min)
{
    return PANEL_ROWS * (sub_elems + sizeof(float) * (has_min ? 2 : 1));
}

static size_t panel_bytes(size_t n_cols)
{
    size_t with_16 = (n_cols + 15) / 16 * record_bytes(16, true), with_32 = (n_cols + 31) / 32 * record_bytes(32, true);
    return with_16 > with_32 ? with_16 : with_32;
}

/* 16 x 16 matrix of dwords: r[i] becomes column i. */
static ALWAYS_INLINE void transpose_16x16(__m512i r[16])
{
    __m512i t[16];
    UNROLL
    for (size_t i = 0; i < 16; i += 4) {
        __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]), b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]), d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
        t[i] = _mm512_unpacklo_epi64(a, c);
        t[i + 1] = _mm512_unpackhi_epi64(a, c);
        t[i + 2] = _mm512_unpacklo_epi64(b, d);
        t[i + 3] = _mm512_unpackhi_epi64(b, d);
    }
    /* t[4*g + c]: lane l holds column 4*l + c of rows 4*g … 4*g + 3 */
    UNROLL
    for (size_t c = 0; c < 4; c++) {
        __m512i a = _mm512_shuffle_i32x4(t[c], t[4 + c], 0x44), b = _mm512_shuffle_i32x4(t[c], t[4 + c], 0xee);
        __m512i e = _mm512_shuffle_i32x4(t[8 + c], t[12 + c], 0x44), f = _mm512_shuffle_i32x4(t[8 + c], t[12 + c], 0xee);
        r[c] = _mm512_shuffle_i32x4(a, e, 0x88);
        r[4 + c] = _mm512_shuffle_i32x4(a, e, 0xdd);
        r[8 + c] = _mm512_shuffle_i32x4(b, f, 0x88);
        r[12 + c] = _mm512_shuffle_i32x4(b, f, 0xdd);
    }
}

/* Columns col … col + 63 (n of them valid: 32 or 64) of 16 rows, codes + 128, into the panel. */
static ALWAYS_INLINE void store_codes(uint8_t *panel, size_t tile, size_t col, size_t n, __m512i rows[16], const size_t sub_elems,
                                      const bool has_min)
{
    const size_t step_bytes = PANEL_ROWS * 4, steps = sub_elems / 4;
    uint8_t *out = panel + col / sub_elems * record_bytes(sub_elems, has_min) + tile * step_bytes / 2;
    transpose_16x16(rows);
    UNROLL
    for (size_t i = 0; i < 16; i++)
        if (i < 8 || n == 64)
            _mm512_store_si512(out + i / steps * record_bytes(sub_elems, has_min) + i % steps * step_bytes, rows[i]);
}

static ALWAYS_INLINE float *panel_scales(uint8_t *panel, size_t g, size_t sub_elems, bool has_min)
{
    return (float *)(void *)(panel + g * record_bytes(sub_elems, has_min) + PANEL_ROWS * sub_elems);
}

static void pack_panel(void *panel, const int8_t *codes, const float *d, const float *m, size_t n_rows, size_t n_cols,
                       size_t sub_elems, bool has_min)
{
    const size_t n_sub = n_cols / sub_elems;
    const __m512i bias = _mm512_set1_epi8(-128);
    for (size_t tile = 0; tile < 2; tile++)
        for (size_t col = 0; col < n_cols; col += 64) {
            size_t n = n_cols - col < 64 ? n_cols - col : 64;
            __mmask64 valid = n < 64 ? (UINT64_C(1) << n) - 1 : ~UINT64_C(0);
            __m512i rows[TILE_ROWS];
            for (size_t i = 0; i < TILE_ROWS; i++) {
                size_t r = tile * TILE_ROWS + i;
                __m512i row = _mm512_maskz_loadu_epi8(r < n_rows ? valid : 0, codes + (r < n_rows ? r * n_cols + col : 0));
                rows[i] = _mm512_xor_si512(row, bias);
            }
            if (sub_elems == 16) {
                if (has_min) store_codes(panel, tile, col, n, rows, 16, true);
                else store_codes(panel, tile, col, n, rows, 16, false);
            } else if (has_min) store_codes(panel, tile, col, n, rows, 32, true);
            else store_codes(panel, tile, col, n, rows, 32, false);
        }
    for (size_t g = 0; g < n_sub; g++) {
        float *out = panel_scales(panel, g, sub_elems, has_min);
        for (size_t r = 0; r < PANEL_ROWS; r++) {
            out[r] = r < n_rows ? d[r * n_sub + g] : 0.0f;
            if (has_min) out[PANEL_ROWS + r] = r < n_rows ? m[r * n_sub + g] : 0.0f;
        }
    }
}

/* ---- reading blocks, 16 rows side by side ------------------------------------------------------------------------------ */

/* Rows that are not there (r >= n_rows) repeat the last one; their results are not used. */
static ALWAYS_INLINE void row_pointers(const uint8_t *rows[TILE_ROWS], const uint8_t *w, size_t row_bytes, size_t n_rows)
{
    for (size_t i = 0; i < TILE_ROWS; i++) rows[i] = w + (i < n_rows ? i : n_rows - 1) * row_bytes;
}

/* Where rows begin, from row 0 on. */
static ALWAYS_INLINE __m512i row_offsets(const uint8_t *const rows[TILE_ROWS])
{
    uint32_t offsets[TILE_ROWS];
    for (size_t i = 0; i < TILE_ROWS; i++) offsets[i] = (uint32_t)(rows[i] - rows[0]);
    return _mm512_loadu_si512(offsets);
}

static ALWAYS_INLINE __mmask16 rows_there(size_t n_rows)
{
    return (__mmask16)((1u << (n_rows < TILE_ROWS ? n_rows : TILE_ROWS)) - 1);
}

static ALWAYS_INLINE __m512i broadcast_16_bytes(const uint8_t *p)
{
    return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static ALWAYS_INLINE __m512i broadcast_32_bytes(const uint8_t *p)
{
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

/* The dwords of [offset, offset + 64) that end before n_bytes; zeros for the others. */
static ALWAYS_INLINE __m512i load_until(const uint8_t *p, const size_t offset, const size_t n_bytes)
{
    const size_t n = n_bytes > offset ? (n_bytes - offset) / 4 : 0;
    return n >= 16 ? _mm512_loadu_si512(p + offset) : _mm512_maskz_loadu_epi32((__mmask16)((1u << n) - 1), p + offset);
}

/* n <= 4 blocks of Q4_1 (has_min) or Q4_0 of four rows. v[k]: row k, lane b = the 16 bytes of nibbles of block b. Returned:
 * lane b = the four rows' d of block b as f16, then (Q4_1) their m. */
static ALWAYS_INLINE __m512i load_q4(const uint8_t *const rows[4], size_t pos, const size_t n, const bool has_min, __m512i v[4])
{
    const size_t n_bytes = n * (has_min ? 20 : 18);
    /* Q4_1: one load at 0 has everything but the fourth block's nibbles, which are broadcast. Q4_0: even blocks' nibbles are whole
     * dwords in a load at 2, odd ones' in a load at 8. */
    const __m512i nibbles = has_min ? _mm512_setr_epi32(1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14, 28, 29, 30, 31)
                                    : _mm512_setr_epi32(0, 1, 2, 3, 19, 20, 21, 22, 9, 10, 11, 12, 28, 29, 30, 31);
    /* dwords that hold the blocks' scales, of two rows at a time */
    const __m512i headers = has_min ? _mm512_setr_epi32(0, 16, 0, 16, 5, 21, 5, 21, 10, 26, 10, 26, 15, 31, 15, 31)
                                    : _mm512_setr_epi32(0, 16, 0, 16, 4, 20, 4, 20, 9, 25, 9, 25, 13, 29, 13, 29);
    const __m512i halves = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    const __m512i odd_blocks = _mm512_maskz_set1_epi8(0xffff0000ffff0000, 2);
    __m512i h[4];
    UNROLL
    for (size_t k = 0; k < 4; k++) {
        const uint8_t *row = rows[k] + pos;
        h[k] = load_until(row, 0, n_bytes);
        __m512i fourth = has_min && n == 4 ? broadcast_16_bytes(row + 64) : _mm512_setzero_si512();
        if (has_min) v[k] = _mm512_permutex2var_epi32(h[k], nibbles, fourth);
        else v[k] = _mm512_permutex2var_epi32(load_until(row, 2, n_bytes), nibbles, load_until(row, 8, n_bytes));
    }
    __m512i h01 = _mm512_permutex2var_epi32(h[0], headers, h[1]), h23 = _mm512_permutex2var_epi32(h[2], headers, h[3]);
    /* Q4_0: odd blocks start in the middle of a dword */
    return _mm512_shuffle_epi8(_mm512_mask_blend_epi32(0xcccc, h01, h23), has_min ? halves : _mm512_xor_si512(halves, odd_blocks));
}

/* n <= 4 blocks of MXFP4 of four rows: as load_q4, but lane b of what is returned has the rows' scales of block b as dwords whose
 * byte b is e. */
static ALWAYS_INLINE __m512i load_mxfp4(const uint8_t *const rows[4], size_t pos, const size_t n, __m512i v[4])
{
    __m512i h[4];
    UNROLL
    for (size_t k = 0; k < 4; k++) {
        const uint8_t *row = rows[k] + pos;
        h[k] = load_until(row, 0, 17 * n); /* the e of block b is byte b of lane b */
        v[k] = _mm512_zextsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)(row + 1)));
        if (n > 1) v[k] = _mm512_inserti32x4(v[k], _mm_loadu_si128((const __m128i *)(const void *)(row + 18)), 1);
        if (n > 2) v[k] = _mm512_inserti32x4(v[k], _mm_loadu_si128((const __m128i *)(const void *)(row + 35)), 2);
        if (n > 3) v[k] = _mm512_inserti32x4(v[k], _mm_loadu_si128((const __m128i *)(const void *)(row + 52)), 3);
    }
    return _mm512_unpacklo_epi64(_mm512_unpacklo_epi32(h[0], h[1]), _mm512_unpacklo_epi32(h[2], h[3]));
}

static ALWAYS_INLINE bool has_levels(const ct_type type) { return type == CT_IQ4_NL || type == CT_IQ4_XS || type == CT_MXFP4; }

/* The codes that nibbles stand for, + 128, in each 128-bit lane; an operand of vpshufb. */
static ALWAYS_INLINE __m512i level_table(const ct_type type)
{
    __m128i fp4 = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    __m128i iq4 = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    return _mm512_xor_si512(_mm512_broadcast_i32x4(type == CT_MXFP4 ? fp4 : iq4), _mm512_set1_epi8(-128));
}

/* g[i]: lane s = four f16 of rows 4*i … 4*i + 3 in its low (or, `high`, upper) half, for block s -> out[s] = 16 floats */
static ALWAYS_INLINE void f16_columns(const __m512i g[4], const bool high, __m512 out[4])
{
    __m512i u = high ? _mm512_unpackhi_epi64(g[0], g[1]) : _mm512_unpacklo_epi64(g[0], g[1]);
    __m512i v = high ? _mm512_unpackhi_epi64(g[2], g[3]) : _mm512_unpacklo_epi64(g[2], g[3]);
    __m512i first = _mm512_permutex2var_epi64(u, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), v);
    __m512i second = _mm512_permutex2var_epi64(u, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), v);
    out[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(first));
    out[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(first, 1));
    out[2] = _mm512_cvtph_ps(_mm512_castsi512_si256(second));
    out[3] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(second, 1));
}

/* The f16 at `offset` of 16 rows. */
static ALWAYS_INLINE __m512 load_f16(const uint8_t *const rows[TILE_ROWS], size_t offset)
{
    uint16_t half[TILE_ROWS];
    UNROLL
    for (size_t i = 0; i < TILE_ROWS; i++) half[i] = load_u16(rows[i] + offset);
    return v_from_f16(half);
}

/* 4x4 matrix of 128-bit lanes: g[i] becomes lane i of each. */
static ALWAYS_INLINE void transpose_lanes(__m512i g[4])
{
    __m512i a = _mm512_shuffle_i32x4(g[0], g[1], 0x44), b = _mm512_shuffle_i32x4(g[0], g[1], 0xee);
    __m512i c = _mm512_shuffle_i32x4(g[2], g[3], 0x44), d = _mm512_shuffle_i32x4(g[2], g[3], 0xee);
    g[0] = _mm512_shuffle_i32x4(a, c, 0x88);
    g[1] = _mm512_shuffle_i32x4(a, c, 0xdd);
    g[2] = _mm512_shuffle_i32x4(b, d, 0x88);
    g[3] = _mm512_shuffle_i32x4(b, d, 0xdd);
}

static ALWAYS_INLINE __m512 e8m0_half(__m512i e) /* half of 2^(e - 127) */
{
    __m512i v = _mm512_max_epu32(_mm512_slli_epi32(e, 23), _mm512_set1_epi32(0x400000)); /* e = 0: 2^-127 is no normal float */
    return _mm512_mul_ps(_mm512_castsi512_ps(v), _mm512_set1_ps(0.5f));
}

/* g[i]: what load_mxfp4 returns of rows 4*i … 4*i + 3 -> out[b] = 16 scales of block b */
static ALWAYS_INLINE void e8m0_columns(__m512i g[4], __m512 out[4])
{
    transpose_lanes(g);
    UNROLL
    for (size_t b = 0; b < 4; b++)
        out[b] = e8m0_half(_mm512_and_si512(_mm512_srli_epi32(g[b], (unsigned)(8 * b)), _mm512_set1_epi32(255)));
}

/* Dwords of 16 bytes at `offset` of 16 rows: out[c] holds dword c of each row. */
static ALWAYS_INLINE void load_columns(const uint8_t *const rows[TILE_ROWS], size_t offset, __m512i out[4])
{
    __m512i z[4];
    UNROLL
    for (size_t i = 0; i < 4; i++) { /* rows i, 4 + i, 8 + i, 12 + i */
        z[i] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)(rows[i] + offset)));
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const __m128i *)(const void *)(rows[4 + i] + offset)), 1);
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const __m128i *)(const void *)(rows[8 + i] + offset)), 2);
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const __m128i *)(const void *)(rows[12 + i] + offset)), 3);
    }
    __m512i a = _mm512_unpacklo_epi32(z[0], z[1]), b = _mm512_unpackhi_epi32(z[0], z[1]);
    __m512i c = _mm512_unpacklo_epi32(z[2], z[3]), d = _mm512_unpackhi_epi32(z[2], z[3]);
    out[0] = _mm512_unpacklo_epi64(a, c);
    out[1] = _mm512_unpackhi_epi64(a, c);
    out[2] = _mm512_unpacklo_epi64(b, d);
    out[3] = _mm512_unpackhi_epi64(b, d);
}

static ALWAYS_INLINE __m512 cvt_f16_dwords(__m512i v) /* the lower half of each dword */
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v));
}

static ALWAYS_INLINE __m512 cvt_byte(__m512i v, const size_t j) /* unsigned byte j of each dword */
{
    return _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(v, (unsigned)(8 * j)), _mm512_set1_epi32(255)));
}

static ALWAYS_INLINE __m512 cvt_signed_byte(__m512i v, const size_t j)
{
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(v, (unsigned)(24 - 8 * j)), 24));
}

/* Scales of a block of Q4_K or Q5_K at `pos` of 16 rows. */
typedef struct k_scales {
    __m512 d, minus_dmin;
    __m512i scale[2], min[2]; /* [g / 4]: byte g % 4 of each row's dword */
} k_scales;

static ALWAYS_INLINE k_scales load_k_scales(const uint8_t *const rows[TILE_ROWS], size_t pos)
{
    const __m512i six = _mm512_set1_epi8(0x3f), four = _mm512_set1_epi8(0x0f), upper = _mm512_set1_epi8(0x30);
    __m512i c[4];
    load_columns(rows, pos, c);
    k_scales s = {.d = cvt_f16_dwords(c[0]), .minus_dmin = v_neg(cvt_f16_dwords(_mm512_srli_epi32(c[0], 16)))};
    s.scale[0] = _mm512_and_si512(c[1], six);
    s.min[0] = _mm512_and_si512(c[2], six);
    s.scale[1] = _mm512_or_si512(_mm512_and_si512(c[3], four), _mm512_and_si512(_mm512_srli_epi32(c[1], 2), upper));
    c[3] = _mm512_srli_epi32(c[3], 4);
    s.min[1] = _mm512_or_si512(_mm512_and_si512(c[3], four), _mm512_and_si512(_mm512_srli_epi32(c[2], 2), upper));
    return s;
}

static ALWAYS_INLINE __m512 k_d(const k_scales *s, const size_t g)
{
    return _mm512_mul_ps(s->d, cvt_byte(s->scale[g / 4], g % 4));
}

static ALWAYS_INLINE __m512 k_m(const k_scales *s, const size_t g)
{
    return _mm512_mul_ps(s->minus_dmin, cvt_byte(s->min[g / 4], g % 4));
}

/* The fifth bits of sub-blocks g0 (first 32 bytes) and g1 (last 32) moved to bit 4; other bits are left over. */
static ALWAYS_INLINE __m512i fifth_bits(__m512i qh, const int g0, const int g1)
{
    const int s0 = (4 - g0) & 31, s1 = (4 - g1) & 31;
    return _mm512_rolv_epi32(qh, _mm512_setr_epi32(s0, s0, s0, s0, s0, s0, s0, s0, s1, s1, s1, s1, s1, s1, s1, s1));
}

static ALWAYS_INLINE __m512i merge_5_bits(__m512i nibbles, __m512i high) /* (nibbles & 15) | (high & 16) */
{
    const __m512i low = _mm512_set1_epi8(0x0f);
    return _mm512_and_si512(_mm512_ternarylogic_epi32(low, nibbles, high, 0xca), _mm512_set1_epi8(0x1f));
}

/* Half a block of Q6_K: ql [64], qh [32] -> codes + 32 of elements 0 … 63 and 64 … 127. */
static ALWAYS_INLINE void codes_q6_k(const uint8_t *ql, const uint8_t *qh, __m512i *lo, __m512i *hi)
{
    const __m512i low = _mm512_set1_epi8(0x0f), six = _mm512_set1_epi8(0x3f);
    __m512i v = _mm512_loadu_si512(ql), h = broadcast_32_bytes(qh);
    __m512i h_lo = _mm512_sllv_epi32(h, _mm512_setr_epi32(4, 4, 4, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2));
    __m512i h_hi = _mm512_srlv_epi32(h, _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2));
    *lo = _mm512_and_si512(_mm512_ternarylogic_epi32(low, v, h_lo, 0xca), six);
    *hi = _mm512_and_si512(_mm512_ternarylogic_epi32(low, _mm512_srli_epi16(v, 4), h_hi, 0xca), six);
}

/* Scales of a block of Q6_K at `pos` of 16 rows. */
typedef struct q6_k_scales {
    __m512 d;
    __m512i scale[4]; /* [g / 4]: signed byte g % 4 of each row's dword */
} q6_k_scales;

static ALWAYS_INLINE q6_k_scales load_q6_k_scales(const uint8_t *const rows[TILE_ROWS], size_t pos)
{
    q6_k_scales s = {.d = load_f16(rows, pos + 208)};
    load_columns(rows, pos + 192, s.scale);
    return s;
}

static ALWAYS_INLINE __m512 q6_k_d(const q6_k_scales *s, const size_t g)
{
    return _mm512_mul_ps(s->d, cvt_signed_byte(s->scale[g / 4], g % 4));
}

/* Scales of a block of IQ4_XS at `pos` of 16 rows. */
typedef struct iq4_xs_scales {
    __m512 d;
    __m512i low, high; /* four bits of sub-block g at 4g; two bits at 16 + 2g */
} iq4_xs_scales;

static ALWAYS_INLINE iq4_xs_scales load_iq4_xs_scales(const uint8_t *const rows[TILE_ROWS], size_t pos)
{
    __m512i c[4];
    load_columns(rows, pos, c);
    return (iq4_xs_scales){.d = cvt_f16_dwords(c[0]), .low = c[1], .high = c[0]};
}

static ALWAYS_INLINE __m512 iq4_xs_d(const iq4_xs_scales *s, const size_t g)
{
    __m512i low = _mm512_and_si512(_mm512_srli_epi32(s->low, (unsigned)(4 * g)), _mm512_set1_epi32(15));
    __m512i high = _mm512_srli_epi32(s->high, (unsigned)(12 + 2 * g)); /* & 0x30 */
    __m512i scale = _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi32(0x30), 0xf8); /* low | (high & 0x30) */
    return _mm512_mul_ps(s->d, _mm512_cvtepi32_ps(_mm512_sub_epi32(scale, _mm512_set1_epi32(32))));
}

/* ---- unpacking ---------------------------------------------------------------------------------------------------------- */

/* d (field 0) or m (field 1) of sub-block g, 16 rows */
static ALWAYS_INLINE void store_scales(uint8_t *panel, size_t tile, size_t g, __m512 v, const size_t field, __mmask16 there,
                                       const size_t sub_elems, const bool has_min)
{
    float *out = panel_scales(panel, g, sub_elems, has_min) + field * PANEL_ROWS + tile * TILE_ROWS;
    _mm512_store_ps(out, _mm512_maskz_mov_ps(there, v));
}

/* Blocks b … b + n - 1 of a type of nibbles, 16 rows. IQ4_XS: the codes only, n = 4. */
static ALWAYS_INLINE void unpack_q4_blocks(uint8_t *panel, size_t tile, const uint8_t *const rows[TILE_ROWS], __mmask16 there,
                                           size_t b, const size_t n, const ct_type type)
{
    const bool has_min = type == CT_Q4_1;
    const __m512i low = _mm512_set1_epi8(15), bias = _mm512_set1_epi8(has_min ? -128 : 128 - 8), table = level_table(type);
    __m512i v[TILE_ROWS], header[4];
    __m512 d[4], m[4];
    UNROLL
    for (size_t i = 0; i < 4; i++) {
        if (type == CT_IQ4_XS) {
            UNROLL
            for (size_t k = 4 * i; k < 4 * i + 4; k++) v[k] = _mm512_loadu_si512(rows[k] + b / 8 * 136 + 8 + b % 8 * 16);
        } else if (type == CT_MXFP4) header[i] = load_mxfp4(rows + 4 * i, b * 17, n, v + 4 * i);
        else header[i] = load_q4(rows + 4 * i, b * (has_min ? 20 : 18), n, has_min, v + 4 * i);
    }
    transpose_16x16(v);
    if (type == CT_MXFP4) e8m0_columns(header, d);
    else if (type != CT_IQ4_XS) f16_columns(header, false, d);
    if (has_min) f16_columns(header, true, m);
    UNROLL
    for (size_t i = 0; i < n; i++) {
        uint8_t *out = panel + (b + i) * record_bytes(32, has_min) + tile * 64;
        UNROLL
        for (size_t j = 0; j < 4; j++) { /* four elements each of the block's first and second 16 */
            __m512i first = _mm512_and_si512(v[4 * i + j], low), second = _mm512_and_si512(_mm512_srli_epi16(v[4 * i + j], 4), low);
            first = has_levels(type) ? _mm512_shuffle_epi8(table, first) : _mm512_add_epi8(first, bias);
            second = has_levels(type) ? _mm512_shuffle_epi8(table, second) : _mm512_add_epi8(second, bias);
            _mm512_store_si512(out + j * 128, first);
            _mm512_store_si512(out + (4 + j) * 128, second);
        }
        if (type == CT_IQ4_XS) continue;
        store_scales(panel, tile, b + i, d[i], 0, there, 32, has_min);
        if (has_min) store_scales(panel, tile, b + i, m[i], 1, there, 32, has_min);
    }
}

/* 64 codes + 128 of a row in order, from block of 32 `b` (even) on; n: 64, or 32 at the end of a row. */
static ALWAYS_INLINE __m512i codes_64(const uint8_t *row, size_t b, const size_t n, const ct_type type)
{
    const __m512i halves = _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4), quarters = _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4);
    if (type == CT_Q8_0) {
        const uint8_t *p = row + b * 34 + 2;
        __m512i v = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)p));
        if (n == 64) v = _mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i *)(const void *)(p + 34)), 1);
        return _mm512_xor_si512(v, _mm512_set1_epi8(-128));
    }
    if (type == CT_Q5_0 || type == CT_Q5_1) { /* the fifth bits are a bit set in the order of the elements: exactly a mask register */
        const size_t block_bytes = type == CT_Q5_0 ? 22 : 24;
        const uint8_t *p = row + b * block_bytes + block_bytes - 20;
        __mmask64 fifth = load_u32(p) | (n == 64 ? (uint64_t)load_u32(p + block_bytes) << 32 : 0);
        __m512i v = broadcast_16_bytes(p + 4), zero = _mm512_set1_epi8(type == CT_Q5_0 ? 128 - 16 : -128);
        if (n == 64) v = _mm512_mask_mov_epi64(v, 0xf0, broadcast_16_bytes(p + block_bytes + 4));
        v = _mm512_and_si512(_mm512_srlv_epi64(v, quarters), _mm512_set1_epi8(15));
        return _mm512_add_epi8(v, _mm512_mask_mov_epi8(zero, fifth, _mm512_set1_epi8(type == CT_Q5_0 ? -128 : 16 - 128)));
    }
    if (type == CT_Q4_K) {
        __m512i v = _mm512_srlv_epi64(broadcast_32_bytes(row + b / 8 * 144 + 16 + b % 8 * 16), halves);
        return _mm512_ternarylogic_epi32(v, _mm512_set1_epi8(15), _mm512_set1_epi8(-128), 0xea); /* (v & 15) | 128 */
    }
    if (type == CT_Q5_K) {
        const uint8_t *block = row + b / 8 * 176;
        __m512i v = _mm512_srlv_epi64(broadcast_32_bytes(block + 48 + b % 8 * 16), halves), high = broadcast_32_bytes(block + 16);
        return _mm512_or_si512(merge_5_bits(v, fifth_bits(high, (int)(b % 8), (int)(b % 8 + 1))), _mm512_set1_epi8(-128));
    }
    const uint8_t *block = row + b / 8 * 210; /* CT_Q6_K */
    __m512i lo, hi;
    codes_q6_k(block + b % 8 / 4 * 64, block + 128 + b % 8 / 4 * 32, &lo, &hi);
    return _mm512_add_epi8(b % 4 == 0 ? lo : hi, _mm512_set1_epi8(128 - 32));
}

static ALWAYS_INLINE void unpack_64(uint8_t *panel, size_t tile, const uint8_t *const rows[TILE_ROWS], size_t b, const size_t n,
                                    const ct_type type)
{
    __m512i v[TILE_ROWS];
    UNROLL
    for (size_t i = 0; i < TILE_ROWS; i++) v[i] = codes_64(rows[i], b, n, type);
    store_codes(panel, tile, b * 32, n, v, type == CT_Q6_K ? 16 : 32, type == CT_Q5_1 || type == CT_Q4_K || type == CT_Q5_K);
}

/* Rows follow each other in memory: the share of step b … b + n - 1 of n_blocks in the stream that follows these 16. */
static ALWAYS_INLINE void prefetch_share(const uint8_t *const rows[TILE_ROWS], size_t tile_bytes, size_t b, size_t n, size_t n_blocks)
{
    const uintptr_t ahead = (uintptr_t)rows[0] + PREFETCH_BYTES;
    for (size_t at = tile_bytes * b / n_blocks, end = tile_bytes * (b + n) / n_blocks; at < end; at += 64)
        _mm_prefetch((const char *)(ahead + at), _MM_HINT_T1);
}

/* 16 rows of a panel; a tile without rows repeats the first with zeros for scales. */
static ALWAYS_INLINE void unpack_tile(uint8_t *panel, size_t tile, const uint8_t *const rows[TILE_ROWS], __mmask16 there,
                                      size_t row_bytes, size_t n_cols, const ct_type type)
{
    const size_t n_blocks = n_cols / 32, tile_bytes = TILE_ROWS * row_bytes;
    size_t b = 0;
    if (type == CT_Q4_0 || type == CT_Q4_1 || has_levels(type)) {
        for (; b + 4 <= n_blocks; b += 4) {
            prefetch_share(rows, tile_bytes, b, 4, n_blocks);
            unpack_q4_blocks(panel, tile, rows, there, b, 4, type);
        }
        if (type == CT_IQ4_XS) {
            for (b = 0; b < n_blocks / 8; b++) {
                iq4_xs_scales s = load_iq4_xs_scales(rows, b * 136);
                UNROLL
                for (size_t g = 0; g < 8; g++) store_scales(panel, tile, 8 * b + g, iq4_xs_d(&s, g), 0, there, 32, false);
            }
        } else if (n_blocks - b == 3) unpack_q4_blocks(panel, tile, rows, there, b, 3, type);
        else if (n_blocks - b == 2) unpack_q4_blocks(panel, tile, rows, there, b, 2, type);
        else if (n_blocks - b == 1) unpack_q4_blocks(panel, tile, rows, there, b, 1, type);
        return;
    }
    for (; b + 2 <= n_blocks; b += 2) {
        prefetch_share(rows, tile_bytes, b, 2, n_blocks);
        unpack_64(panel, tile, rows, b, 64, type);
    }
    if (type == CT_Q8_0 || type == CT_Q5_0 || type == CT_Q5_1) {
        const bool has_min = type == CT_Q5_1;
        const __m512i at = row_offsets(rows);
        if (b < n_blocks) unpack_64(panel, tile, rows, b, 32, type);
        for (b = 0; b < n_blocks; b++) {
            const size_t pos = b * (type == CT_Q8_0 ? 34 : type == CT_Q5_0 ? 22 : 24);
            const __m512i head = _mm512_i32gather_epi32(at, rows[0] + pos, 1); /* d, Q5_1: and m */
            store_scales(panel, tile, b, cvt_f16_dwords(head), 0, there, 32, has_min);
            if (has_min) store_scales(panel, tile, b, cvt_f16_dwords(_mm512_srli_epi32(head, 16)), 1, there, 32, has_min);
        }
    } else if (type == CT_Q6_K) {
        for (b = 0; b < n_blocks / 8; b++) {
            q6_k_scales s = load_q6_k_scales(rows, b * 210);
            UNROLL
            for (size_t g = 0; g < 16; g++) store_scales(panel, tile, 16 * b + g, q6_k_d(&s, g), 0, there, 16, false);
        }
    } else {
        for (b = 0; b < n_blocks / 8; b++) {
            k_scales s = load_k_scales(rows, b * (type == CT_Q4_K ? 144 : 176));
            UNROLL
            for (size_t g = 0; g < 8; g++) {
                store_scales(panel, tile, 8 * b + g, k_d(&s, g), 0, there, 32, true);
                store_scales(panel, tile, 8 * b + g, k_m(&s, g), 1, there, 32, true);
            }
        }
    }
}

#define UNPACK(name, type)                                                                                     \
    static void name(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)               \
    {                                                                                                          \
        for (size_t tile = 0; tile < 2 && n_rows > 0; tile++) {                                                \
            const size_t from = n_rows > tile * TILE_ROWS ? tile * TILE_ROWS : 0;                              \
            const uint8_t *rows[TILE_ROWS];                                                                    \
            row_pointers(rows, (const uint8_t *)w + from * row_bytes, row_bytes, n_rows - from);               \
            unpack_tile(panel, tile, rows, rows_there(tile == 0 || from > 0 ? n_rows - from : 0), row_bytes, n_cols, \
                        type);                                                                                 \
        }                                                                                                      \
    }
UNPACK(unpack_q4_0, CT_Q4_0)
UNPACK(unpack_q4_1, CT_Q4_1)
UNPACK(unpack_q5_0, CT_Q5_0)
UNPACK(unpack_q5_1, CT_Q5_1)
UNPACK(unpack_q8_0, CT_Q8_0)
UNPACK(unpack_q4_k, CT_Q4_K)
UNPACK(unpack_q5_k, CT_Q5_K)
UNPACK(unpack_q6_k, CT_Q6_K)
UNPACK(unpack_iq4_nl, CT_IQ4_NL)
UNPACK(unpack_iq4_xs, CT_IQ4_XS)
UNPACK(unpack_mxfp4, CT_MXFP4)

/* ---- panel x activations -------------------------------------------------------------------------------------------- */

enum { GEMM_I8_TOKENS = 6 };

/* n_t tokens x 32 rows. Accumulators: n_t x 2 int32 (one sub-block) and n_t x 2 float. */
static ALWAYS_INLINE void gemm_i8_tile(float *y, size_t y_stride, const uint8_t *panel, const uint8_t *act, size_t act_stride,
                                       size_t n_rows, size_t n_cols, const size_t n_t, const size_t sub_elems, const bool has_min)
{
    const uint8_t *meta = act + act_blocks(n_cols) * CT_ACT_BLOCK;
    __m512 acc[GEMM_I8_TOKENS][2];
    UNROLL
    for (size_t t = 0; t < n_t; t++) acc[t][0] = acc[t][1] = _mm512_setzero_ps();
    for (size_t b = 0; b < n_cols / CT_ACT_BLOCK; b++, act += CT_ACT_BLOCK, meta += sizeof(act_meta)) {
        UNROLL
        for (size_t h = 0; h < CT_ACT_BLOCK / sub_elems; h++) {
            const size_t corr_at = minus_128_at(sub_elems, h), sum_at = a_sum_at(sub_elems, h);
            __m512i dot[GEMM_I8_TOKENS][2];
            UNROLL
            for (size_t t = 0; t < n_t; t++) dot[t][0] = dot[t][1] = _mm512_set1_epi32(load_i32(meta + t * act_stride + corr_at));
            UNROLL
            for (size_t k = 0; k < sub_elems / 4; k++) {
                __m512i w0 = _mm512_load_si512(panel + k * 128), w1 = _mm512_load_si512(panel + k * 128 + 64);
                UNROLL
                for (size_t t = 0; t < n_t; t++) {
                    __m512i q = _mm512_set1_epi32(load_i32(act + t * act_stride + h * sub_elems + 4 * k));
                    dot[t][0] = _mm512_dpbusd_epi32(dot[t][0], w0, q);
                    dot[t][1] = _mm512_dpbusd_epi32(dot[t][1], w1, q);
                }
            }
            const float *scales = (const float *)(const void *)(panel + PANEL_ROWS * sub_elems);
            __m512 d0 = _mm512_load_ps(scales), d1 = _mm512_load_ps(scales + 16);
            UNROLL
            for (size_t t = 0; t < n_t; t++) {
                __m512 a = _mm512_castsi512_ps(_mm512_set1_epi32(load_i32(meta + t * act_stride + offsetof(act_meta, a))));
                acc[t][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[t][0]), _mm512_mul_ps(d0, a), acc[t][0]);
                acc[t][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[t][1]), _mm512_mul_ps(d1, a), acc[t][1]);
            }
            if (has_min) {
                __m512 m0 = _mm512_load_ps(scales + 32), m1 = _mm512_load_ps(scales + 48);
                UNROLL
                for (size_t t = 0; t < n_t; t++) {
                    __m512 s = _mm512_castsi512_ps(_mm512_set1_epi32(load_i32(meta + t * act_stride + sum_at)));
                    acc[t][0] = _mm512_fmadd_ps(m0, s, acc[t][0]);
                    acc[t][1] = _mm512_fmadd_ps(m1, s, acc[t][1]);
                }
            }
            panel += record_bytes(sub_elems, has_min);
        }
    }
    __mmask16 first = (__mmask16)((1u << (n_rows < 16 ? n_rows : 16)) - 1);
    __mmask16 second = (__mmask16)((1u << (n_rows < 16 ? 0 : n_rows - 16)) - 1);
    UNROLL
    for (size_t t = 0; t < n_t; t++) {
        _mm512_mask_storeu_ps(y + t * y_stride, first, acc[t][0]);
        if (second != 0) _mm512_mask_storeu_ps(y + t * y_stride + 16, second, acc[t][1]);
    }
}

static ALWAYS_INLINE void gemm_i8_of(float *y, size_t y_stride, const uint8_t *panel, const uint8_t *act, size_t act_stride,
                                     size_t n_rows, size_t n_cols, size_t n_tok, const size_t sub_elems, const bool has_min)
{
    for (size_t t = 0; t < n_tok;) {
        size_t left = n_tok - t, n_tiles = (left + GEMM_I8_TOKENS - 1) / GEMM_I8_TOKENS, n_t = (left + n_tiles - 1) / n_tiles;
        float *yt = y + t * y_stride;
        const uint8_t *at = act + t * act_stride;
        switch (n_t) {
        case 6: gemm_i8_tile(yt, y_stride, panel, at, act_stride, n_rows, n_cols, 6, sub_elems, has_min); break;
        case 5: gemm_i8_tile(yt, y_stride, panel, at, act_stride, n_rows, n_cols, 5, sub_elems, has_min); break;
        case 4: gemm_i8_tile(yt, y_stride, panel, at, act_stride, n_rows, n_cols, 4, sub_elems, has_min); break;
        case 3: gemm_i8_tile(yt, y_stride, panel, at, act_stride, n_rows, n_cols, 3, sub_elems, has_min); break;
        case 2: gemm_i8_tile(yt, y_stride, panel, at, act_stride, n_rows, n_cols, 2, sub_elems, has_min); break;
        default: gemm_i8_tile(yt, y_stride, panel, at, act_stride, n_rows, n_cols, 1, sub_elems, has_min); break;
        }
        t += n_t;
    }
}

static void gemm_i8(float *y, size_t y_stride, const void *panel, const void *act, size_t act_stride, size_t n_rows, size_t n_cols,
                    size_t n_tok, size_t sub_elems, bool has_min)
{
    if (n_rows == 0) return;
    if (sub_elems == 32 && has_min) gemm_i8_of(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, 32, true);
    else if (sub_elems == 32) gemm_i8_of(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, 32, false);
    else if (has_min) gemm_i8_of(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, 16, true);
    else gemm_i8_of(y, y_stride, panel, act, act_stride, n_rows, n_cols, n_tok, 16, false);
}

/* ---- matrix x vector, straight from the blocks ------------------------------------------------------------------------
 * Lanes are rows: 16 rows are read side by side and a register of 16 floats accumulates them, sub-block after sub-block. What
 * vpdpbusd leaves is 4 (or 8) partial sums for each row and sub-block, in registers of one row; the reductions below add and
 * transpose at once until one register holds the dot products of one sub-block and 16 rows. */

static ALWAYS_INLINE void store_rows(float *y, __m512 acc, size_t n_rows)
{
    _mm512_mask_storeu_ps(y, rows_there(n_rows), acc);
}

static ALWAYS_INLINE __m512i add_pairs_16(__m512i a, __m512i b) /* int32 a, b that fit int16 -> sums of neighbours */
{
    return _mm512_madd_epi16(_mm512_packs_epi32(a, b), _mm512_set1_epi16(1));
}

/* p[i]: row i, lane s = four partial sums of sub-block s, each of magnitude < 2^14 -> lane s = dot products of four rows. */
static ALWAYS_INLINE __m512i reduce_4_rows(const __m512i p[4])
{
    return add_pairs_16(add_pairs_16(p[0], p[1]), add_pairs_16(p[2], p[3]));
}

/* One step of Q4_0 or Q4_1: 4 blocks (n < 4 at the end of a row) of 16 rows. */
static ALWAYS_INLINE __m512 step_q4(__m512 acc, const uint8_t *const rows[TILE_ROWS], size_t pos, uintptr_t ahead, const int8_t *q,
                                    const act_meta *meta, const size_t n, const bool has_min)
{
    const __m512i low = _mm512_set1_epi8(15);
    __m512i q01 = _mm512_loadu_si512(q), q23 = _mm512_loadu_si512(q + 64); /* the activations are padded */
    __m512i q_lo = _mm512_shuffle_i64x2(q01, q23, 0x88), q_hi = _mm512_shuffle_i64x2(q01, q23, 0xdd);
    __m512i dot[4], header[4];
    __m512 d[4], m[4];
    UNROLL
    for (size_t i = 0; i < 4; i++) {
        __m512i p[4];
        header[i] = load_q4(rows + 4 * i, pos, n, has_min, p);
        UNROLL
        for (size_t k = 0; k < 4; k++) {
            __m512i lo = _mm512_and_si512(p[k], low), hi = _mm512_and_si512(_mm512_srli_epi16(p[k], 4), low);
            p[k] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), lo, q_lo), hi, q_hi);
            prefetch_part(ahead, TILE_ROWS * n * (has_min ? 20 : 18), 4 * i + k, TILE_ROWS);
        }
        dot[i] = reduce_4_rows(p);
    }
    transpose_lanes(dot);
    f16_columns(header, false, d);
    if (has_min) f16_columns(header, true, m);
    UNROLL
    for (size_t b = 0; b < n; b++) {
        if (!has_min) dot[b] = _mm512_add_epi32(dot[b], _mm512_set1_epi32(meta[b].minus_128_sum >> 4));
        acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[b]), _mm512_mul_ps(d[b], _mm512_set1_ps(meta[b].a)), acc);
        if (has_min) acc = _mm512_fmadd_ps(m[b], _mm512_set1_ps(meta[b].a_sum), acc);
    }
    return acc;
}

/* The same for two blocks (a row of 576 ends with two): two rows share a register. */
static ALWAYS_INLINE __m512 step_q4_pairs(__m512 acc, const uint8_t *const rows[TILE_ROWS], size_t pos, uintptr_t ahead, const int8_t *q,
                                          const act_meta *meta, const bool has_min)
{
    const __m512i low = _mm512_set1_epi8(15);
    __m512i q01 = _mm512_loadu_si512(q);
    __m512i q_lo = _mm512_shuffle_i64x2(q01, q01, 0x88), q_hi = _mm512_shuffle_i64x2(q01, q01, 0xdd);
    __m512i half[2], header[4];
    __m512 d[4], m[4];
    UNROLL
    for (size_t i = 0; i < 2; i++) {
        __m512i p[4], other[4];
        header[2 * i] = load_q4(rows + 8 * i, pos, 2, has_min, p);
        header[2 * i + 1] = load_q4(rows + 8 * i + 4, pos, 2, has_min, other);
        UNROLL
        for (size_t k = 0; k < 4; k++) { /* lanes: blocks 0 and 1 of row k, then of row k + 4 */
            __m512i v = _mm512_shuffle_i64x2(p[k], other[k], 0x44);
            __m512i lo = _mm512_and_si512(v, low), hi = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
            p[k] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), lo, q_lo), hi, q_hi);
            prefetch_part(ahead, TILE_ROWS * 2 * (has_min ? 20 : 18), 4 * i + k, 8);
        }
        half[i] = reduce_4_rows(p);
    }
    f16_columns(header, false, d);
    if (has_min) f16_columns(header, true, m);
    UNROLL
    for (size_t b = 0; b < 2; b++) {
        __m512i dot = b == 0 ? _mm512_shuffle_i64x2(half[0], half[1], 0x88) : _mm512_shuffle_i64x2(half[0], half[1], 0xdd);
        if (!has_min) dot = _mm512_add_epi32(dot, _mm512_set1_epi32(meta[b].minus_128_sum >> 4));
        acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(d[b], _mm512_set1_ps(meta[b].a)), acc);
        if (has_min) acc = _mm512_fmadd_ps(m[b], _mm512_set1_ps(meta[b].a_sum), acc);
    }
    return acc;
}

static ALWAYS_INLINE void matvec_q4(float *y, const uint8_t *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                                    const void *next, const bool has_min)
{
    const size_t n_blocks = n_cols / 32, step_bytes = 4 * (has_min ? 20 : 18);
    const stream in = stream_of(w, row_bytes, n_rows, next);
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uintptr_t group_ahead = stream_ahead(&in, r);
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, w + r * row_bytes, row_bytes, n_rows - r);
        const int8_t *q = act;
        const act_meta *meta = act_meta_of(act, n_cols);
        __m512 acc = _mm512_setzero_ps();
        size_t b = 0, pos = 0;
        for (; b + 4 <= n_blocks; b += 4, pos += step_bytes, q += 128, meta += 4)
            acc = step_q4(acc, rows, pos, group_ahead + TILE_ROWS * pos, q, meta, 4, has_min);
        switch (n_blocks - b) {
        case 3: acc = step_q4(acc, rows, pos, group_ahead + TILE_ROWS * pos, q, meta, 3, has_min); break;
        case 2: acc = step_q4_pairs(acc, rows, pos, group_ahead + TILE_ROWS * pos, q, meta, has_min); break;
        case 1: acc = step_q4(acc, rows, pos, group_ahead + TILE_ROWS * pos, q, meta, 1, has_min); break;
        default: break;
        }
        store_rows(y + r, acc, n_rows - r);
    }
}

static void matvec_q4_0(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    matvec_q4(y, w, row_bytes, act, n_rows, n_cols, next, false);
}

static void matvec_q4_1(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    matvec_q4(y, w, row_bytes, act, n_rows, n_cols, next, true);
}

/* ---- Q8_0 ---- */

static ALWAYS_INLINE __m512i add_pairs_32(__m512i a, __m512i b) /* in each lane: a02 b02 a13 b13 */
{
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}

/* One step: 2 blocks (n = 1 at the end of a row) of 16 rows. */
static ALWAYS_INLINE __m512 step_q8_0(__m512 acc, const uint8_t *const rows[TILE_ROWS], size_t pos, uintptr_t ahead, const int8_t *q,
                                      const act_meta *meta, const size_t n)
{
    const __m512i bias = _mm512_set1_epi8(-128);
    __m512i qv = _mm512_loadu_si512(q), half[2];
    uint16_t scales[2][TILE_ROWS];
    UNROLL
    for (size_t i = 0; i < 2; i++) {
        __m512i p[8];
        UNROLL
        for (size_t k = 0; k < 8; k++) {
            const uint8_t *row = rows[8 * i + k] + pos;
            __m512i v = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)(row + 2)));
            scales[0][8 * i + k] = load_u16(row);
            if (n == 2) {
                v = _mm512_inserti64x4(v, _mm256_loadu_si256((const __m256i *)(const void *)(row + 36)), 1);
                scales[1][8 * i + k] = load_u16(row + 34);
            }
            prefetch_part(ahead, TILE_ROWS * n * 34, 8 * i + k, TILE_ROWS);
            p[k] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_xor_si512(v, bias), qv);
        }
        UNROLL
        for (size_t k = 0; k < 4; k++) /* lanes: block 0 and 1 of row k, then of row k + 4 */
            p[k] = _mm512_add_epi32(_mm512_shuffle_i64x2(p[k], p[k + 4], 0x88), _mm512_shuffle_i64x2(p[k], p[k + 4], 0xdd));
        __m512i x = add_pairs_32(p[0], p[1]), z = add_pairs_32(p[2], p[3]);
        half[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(x, z), _mm512_unpackhi_epi64(x, z));
    }
    UNROLL
    for (size_t b = 0; b < n; b++) {
        __m512i dot = b == 0 ? _mm512_shuffle_i64x2(half[0], half[1], 0x88) : _mm512_shuffle_i64x2(half[0], half[1], 0xdd);
        dot = _mm512_add_epi32(dot, _mm512_set1_epi32(meta[b].minus_128_sum));
        acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(v_from_f16(scales[b]), _mm512_set1_ps(meta[b].a)), acc);
    }
    return acc;
}

static void matvec_q8_0(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    const size_t n_blocks = n_cols / 32;
    const stream in = stream_of(w, row_bytes, n_rows, next);
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uintptr_t group_ahead = stream_ahead(&in, r);
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, (const uint8_t *)w + r * row_bytes, row_bytes, n_rows - r);
        const int8_t *q = act;
        const act_meta *meta = act_meta_of(act, n_cols);
        __m512 acc = _mm512_setzero_ps();
        size_t b = 0, pos = 0;
        for (; b + 2 <= n_blocks; b += 2, pos += 68, q += 64, meta += 2)
            acc = step_q8_0(acc, rows, pos, group_ahead + TILE_ROWS * pos, q, meta, 2);
        if (b < n_blocks) acc = step_q8_0(acc, rows, pos, group_ahead + TILE_ROWS * pos, q, meta, 1);
        store_rows(y + r, acc, n_rows - r);
    }
}

/* ---- Q5_0, Q5_1 ---- */

/* The words at p, p + block_bytes, … of n blocks as one mask of 64 bytes. */
static ALWAYS_INLINE __mmask64 fifth_bits_q5(const uint8_t *p, const size_t block_bytes, const size_t n)
{
    uint64_t bits = 0;
    UNROLL
    for (size_t b = 0; b < n; b++) bits |= (uint64_t)load_u16(p + block_bytes * b) << 16 * b;
    return bits;
}

/* One step: 4 blocks (n < 4 at the end of a row) of 16 rows. */
static ALWAYS_INLINE __m512 step_q5(__m512 acc, const uint8_t *const rows[TILE_ROWS], __m512i at, size_t pos, uintptr_t ahead,
                                    const int8_t *q, const act_meta *meta, const size_t n, const bool has_min)
{
    const size_t block_bytes = has_min ? 24 : 22, bits = block_bytes - 20; /* where the fifth bits are; nibbles follow them */
    const __m512i low = _mm512_set1_epi8(15), sixteen = _mm512_set1_epi8(16), zero = _mm512_setzero_si512();
    __m512i q01 = _mm512_loadu_si512(q), q23 = _mm512_loadu_si512(q + 64); /* the activations are padded */
    __m512i q_lo = _mm512_shuffle_i64x2(q01, q23, 0x88), q_hi = _mm512_shuffle_i64x2(q01, q23, 0xdd);
    /* 16 taken off the codes at the start: partial sums then fit reduce_4_rows. Q5_1, which has no bias, gets it back at the end. */
    __m512i start = _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, sixteen, q_lo), sixteen, q_hi));
    __m512i dot[4], header[4];
    UNROLL
    for (size_t b = 0; b < n; b++) header[b] = _mm512_i32gather_epi32(at, rows[0] + pos + block_bytes * b, 1); /* d, Q5_1: and m */
    UNROLL
    for (size_t i = 0; i < 4; i++) {
        __m512i p[4];
        UNROLL
        for (size_t k = 0; k < 4; k++) {
            const uint8_t *row = rows[4 * i + k] + pos, *nibbles = row + bits + 4;
            __m512i v = _mm512_zextsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)nibbles));
            if (n > 1) v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(nibbles + block_bytes)), 1);
            if (n > 2) v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(nibbles + 2 * block_bytes)), 2);
            if (n > 3) v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(nibbles + 3 * block_bytes)), 3);
            __m512i lo = _mm512_and_si512(v, low), hi = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
            lo = _mm512_mask_add_epi8(lo, fifth_bits_q5(row + bits, block_bytes, n), lo, sixteen);
            hi = _mm512_mask_add_epi8(hi, fifth_bits_q5(row + bits + 2, block_bytes, n), hi, sixteen);
            p[k] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(start, lo, q_lo), hi, q_hi);
            prefetch_part(ahead, TILE_ROWS * n * block_bytes, 4 * i + k, TILE_ROWS);
        }
        dot[i] = reduce_4_rows(p);
    }
    transpose_lanes(dot);
    UNROLL
    for (size_t b = 0; b < n; b++) {
        __m512 d = _mm512_mul_ps(cvt_f16_dwords(header[b]), _mm512_set1_ps(meta[b].a));
        if (has_min) dot[b] = _mm512_sub_epi32(dot[b], _mm512_set1_epi32(meta[b].minus_128_sum >> 3));
        acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[b]), d, acc);
        if (has_min)
            acc = _mm512_fmadd_ps(cvt_f16_dwords(_mm512_srli_epi32(header[b], 16)), _mm512_set1_ps(meta[b].a_sum), acc);
    }
    return acc;
}

static ALWAYS_INLINE void matvec_q5(float *y, const uint8_t *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                                    const void *next, const bool has_min)
{
    const size_t n_blocks = n_cols / 32, step_bytes = 4 * (has_min ? 24 : 22);
    const stream in = stream_of(w, row_bytes, n_rows, next);
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uintptr_t group_ahead = stream_ahead(&in, r);
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, w + r * row_bytes, row_bytes, n_rows - r);
        const __m512i at = row_offsets(rows);
        const int8_t *q = act;
        const act_meta *meta = act_meta_of(act, n_cols);
        __m512 acc = _mm512_setzero_ps();
        size_t b = 0, pos = 0;
        for (; b + 4 <= n_blocks; b += 4, pos += step_bytes, q += 128, meta += 4)
            acc = step_q5(acc, rows, at, pos, group_ahead + TILE_ROWS * pos, q, meta, 4, has_min);
        if (n_blocks - b == 3) acc = step_q5(acc, rows, at, pos, group_ahead + TILE_ROWS * pos, q, meta, 3, has_min);
        else if (n_blocks - b == 2) acc = step_q5(acc, rows, at, pos, group_ahead + TILE_ROWS * pos, q, meta, 2, has_min);
        else if (n_blocks - b == 1) acc = step_q5(acc, rows, at, pos, group_ahead + TILE_ROWS * pos, q, meta, 1, has_min);
        store_rows(y + r, acc, n_rows - r);
    }
}

static void matvec_q5_0(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    matvec_q5(y, w, row_bytes, act, n_rows, n_cols, next, false);
}

static void matvec_q5_1(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    matvec_q5(y, w, row_bytes, act, n_rows, n_cols, next, true);
}

/* ---- IQ4_NL, MXFP4, IQ4_XS: nibbles that stand for levels ---- */

/* What reduce_4_rows does, for sums of any size. */
static ALWAYS_INLINE __m512i reduce_4_rows_32(const __m512i p[4])
{
    __m512i x = add_pairs_32(p[0], p[1]), z = add_pairs_32(p[2], p[3]);
    return _mm512_add_epi32(_mm512_unpacklo_epi64(x, z), _mm512_unpackhi_epi64(x, z));
}

/* Dot products of 4 blocks (n < 4 at the end of a row) or sub-blocks with 16 rows; header: see load_q4 (IQ4_NL), load_mxfp4. */
static ALWAYS_INLINE void dots_of_levels(__m512i dot[4], __m512i header[4], const uint8_t *const rows[TILE_ROWS], size_t pos,
                                         uintptr_t ahead, const int8_t *q, const size_t n, const ct_type type)
{
    const size_t n_bytes = n * (type == CT_IQ4_NL ? 18 : 17);
    const __m512i low = _mm512_set1_epi8(15), zero = _mm512_setzero_si512(), bias = _mm512_set1_epi8(-128), table = level_table(type);
    __m512i q01 = _mm512_loadu_si512(q), q23 = _mm512_loadu_si512(q + 64); /* the activations are padded */
    __m512i q_lo = _mm512_shuffle_i64x2(q01, q23, 0x88), q_hi = _mm512_shuffle_i64x2(q01, q23, 0xdd);
    __m512i start = _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(zero, bias, q_lo), bias, q_hi));
    UNROLL
    for (size_t i = 0; i < 4; i++) {
        __m512i p[4];
        if (type == CT_IQ4_NL) header[i] = load_q4(rows + 4 * i, pos, n, false, p);
        if (type == CT_MXFP4) header[i] = load_mxfp4(rows + 4 * i, pos, n, p);
        UNROLL
        for (size_t k = 0; k < 4; k++) {
            if (type == CT_IQ4_XS) p[k] = _mm512_loadu_si512(rows[4 * i + k] + pos);
            __m512i lo = _mm512_and_si512(p[k], low), hi = _mm512_and_si512(_mm512_srli_epi16(p[k], 4), low);
            lo = _mm512_shuffle_epi8(table, lo);
            hi = _mm512_shuffle_epi8(table, hi);
            p[k] = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(start, lo, q_lo), hi, q_hi);
            prefetch_part(ahead, TILE_ROWS * n_bytes, 4 * i + k, TILE_ROWS);
        }
        dot[i] = type == CT_MXFP4 ? reduce_4_rows(p) : reduce_4_rows_32(p); /* 8 * 12 * 127 < 2^14 */
    }
    transpose_lanes(dot);
}

/* One step of IQ4_NL or MXFP4. */
static ALWAYS_INLINE __m512 step_levels(__m512 acc, const uint8_t *const rows[TILE_ROWS], size_t pos, uintptr_t ahead, const int8_t *q,
                                        const act_meta *meta, const size_t n, const ct_type type)
{
    __m512i dot[4], header[4];
    __m512 d[4];
    dots_of_levels(dot, header, rows, pos, ahead, q, n, type);
    if (type == CT_MXFP4) e8m0_columns(header, d);
    else f16_columns(header, false, d);
    UNROLL
    for (size_t b = 0; b < n; b++)
        acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[b]), _mm512_mul_ps(d[b], _mm512_set1_ps(meta[b].a)), acc);
    return acc;
}

static ALWAYS_INLINE void matvec_levels(float *y, const uint8_t *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                                        const void *next, const ct_type type)
{
    const size_t n_blocks = n_cols / 32, step_bytes = 4 * (type == CT_IQ4_NL ? 18 : 17);
    const stream in = stream_of(w, row_bytes, n_rows, next);
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uintptr_t group_ahead = stream_ahead(&in, r);
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, w + r * row_bytes, row_bytes, n_rows - r);
        const int8_t *q = act;
        const act_meta *meta = act_meta_of(act, n_cols);
        __m512 acc = _mm512_setzero_ps();
        size_t b = 0, pos = 0;
        for (; b + 4 <= n_blocks; b += 4, pos += step_bytes, q += 128, meta += 4)
            acc = step_levels(acc, rows, pos, group_ahead + TILE_ROWS * pos, q, meta, 4, type);
        if (n_blocks - b == 3) acc = step_levels(acc, rows, pos, group_ahead + TILE_ROWS * pos, q, meta, 3, type);
        else if (n_blocks - b == 2) acc = step_levels(acc, rows, pos, group_ahead + TILE_ROWS * pos, q, meta, 2, type);
        else if (n_blocks - b == 1) acc = step_levels(acc, rows, pos, group_ahead + TILE_ROWS * pos, q, meta, 1, type);
        store_rows(y + r, acc, n_rows - r);
    }
}

static void matvec_iq4_nl(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                          const void *next)
{
    matvec_levels(y, w, row_bytes, act, n_rows, n_cols, next, CT_IQ4_NL);
}

static void matvec_mxfp4(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                         const void *next)
{
    matvec_levels(y, w, row_bytes, act, n_rows, n_cols, next, CT_MXFP4);
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
        __m512 acc = _mm512_setzero_ps();
        for (size_t pos = 0; pos < n_cols / 256 * BLOCK_BYTES; pos += BLOCK_BYTES, q += 256, meta += 8) {
            iq4_xs_scales scales = load_iq4_xs_scales(rows, pos);
            UNROLL
            for (size_t v = 0; v < 2; v++) { /* 64 bytes: sub-blocks 4v … 4v + 3 */
                uintptr_t ahead = group_ahead + TILE_ROWS * (pos + BLOCK_BYTES / 2 * v);
                __m512i dot[4];
                dots_of_levels(dot, NULL, rows, pos + 8 + 64 * v, ahead, q + 128 * v, 4, CT_IQ4_XS);
                UNROLL
                for (size_t s = 0; s < 4; s++) {
                    const size_t g = 4 * v + s;
                    __m512 d = _mm512_mul_ps(iq4_xs_d(&scales, g), _mm512_set1_ps(meta[g].a));
                    acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[s]), d, acc);
                }
            }
        }
        store_rows(y + r, acc, n_rows - r);
    }
}

/* ---- types of 256 ---- */

static ALWAYS_INLINE void matvec_q45_k(float *y, const uint8_t *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                                       const void *next, const bool five)
{
    const size_t block_bytes = five ? 176 : 144;
    const __m512i low = _mm512_set1_epi8(15);
    /* Dot products of two rows per lane, see below -> sub-blocks 0 | 1 and 2 | 3 of eight rows. */
    const __m512i subs_01 = _mm512_setr_epi32(0, 2, 8, 10, 16, 18, 24, 26, 1, 3, 9, 11, 17, 19, 25, 27);
    const __m512i subs_23 = _mm512_setr_epi32(4, 6, 12, 14, 20, 22, 28, 30, 5, 7, 13, 15, 21, 23, 29, 31);
    const stream in = stream_of(w, row_bytes, n_rows, next);
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uintptr_t group_ahead = stream_ahead(&in, r);
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, w + r * row_bytes, row_bytes, n_rows - r);
        const int8_t *q = act;
        const act_meta *meta = act_meta_of(act, n_cols);
        __m512 acc = _mm512_setzero_ps();
        for (size_t pos = 0; pos < n_cols / 256 * block_bytes; pos += block_bytes, q += 256, meta += 8) {
            k_scales scales = load_k_scales(rows, pos);
            UNROLL
            for (size_t v = 0; v < 2; v++) { /* 64 bytes: low nibbles are sub-blocks 4v, 4v + 2, high ones 4v + 1, 4v + 3 */
                __m512i q01 = _mm512_loadu_si512(q + 128 * v), q23 = _mm512_loadu_si512(q + 128 * v + 64);
                __m512i q_lo = _mm512_shuffle_i64x2(q01, q23, 0x44), q_hi = _mm512_shuffle_i64x2(q01, q23, 0xee);
                uintptr_t ahead = group_ahead + TILE_ROWS * (pos + block_bytes / 2 * v);
                __m512i z[4];
                UNROLL
                for (size_t i = 0; i < 4; i++) {
                    __m512i p[4];
                    UNROLL
                    for (size_t k = 0; k < 4; k++) {
                        const uint8_t *row = rows[4 * i + k] + pos;
                        __m512i nibbles = _mm512_loadu_si512(row + (five ? 48 : 16) + 64 * v), lo, hi;
                        prefetch_part(ahead, TILE_ROWS * block_bytes / 2, 4 * i + k, TILE_ROWS);
                        if (five) {
                            __m512i qh = broadcast_32_bytes(row + 16);
                            lo = merge_5_bits(nibbles, fifth_bits(qh, (int)(4 * v), (int)(4 * v + 2)));
                            hi = merge_5_bits(_mm512_srli_epi16(nibbles, 4), fifth_bits(qh, (int)(4 * v + 1), (int)(4 * v + 3)));
                        } else {
                            lo = _mm512_and_si512(nibbles, low);
                            hi = _mm512_and_si512(_mm512_srli_epi16(nibbles, 4), low);
                        }
                        lo = _mm512_dpbusd_epi32(_mm512_setzero_si512(), lo, q_lo);
                        hi = _mm512_dpbusd_epi32(_mm512_setzero_si512(), hi, q_hi);
                        p[k] = _mm512_packs_epi32(lo, hi); /* lanes: first half of subs 0, 1; second half; the same of subs 2, 3 */
                    }
                    UNROLL
                    for (size_t k = 0; k < 2; k++) { /* lanes: subs 0, 1 and 2, 3 of row k, then of row k + 2; 4 int16 each */
                        __m512i low_half = _mm512_shuffle_i64x2(p[k], p[k + 2], 0x88);
                        __m512i high_half = _mm512_shuffle_i64x2(p[k], p[k + 2], 0xdd);
                        p[k] = _mm512_madd_epi16(_mm512_add_epi16(low_half, high_half), _mm512_set1_epi16(1));
                    }
                    if (five) { /* pairs need 17 bits */
                        __m512 a = _mm512_castsi512_ps(p[0]), b = _mm512_castsi512_ps(p[1]);
                        z[i] = _mm512_add_epi32(_mm512_castps_si512(_mm512_shuffle_ps(a, b, 0x88)),
                                                _mm512_castps_si512(_mm512_shuffle_ps(a, b, 0xdd)));
                    } else z[i] = add_pairs_16(p[0], p[1]);
                }
                __m512i a01 = _mm512_permutex2var_epi32(z[0], subs_01, z[1]), b01 = _mm512_permutex2var_epi32(z[2], subs_01, z[3]);
                __m512i a23 = _mm512_permutex2var_epi32(z[0], subs_23, z[1]), b23 = _mm512_permutex2var_epi32(z[2], subs_23, z[3]);
                __m512i dot[4] = {_mm512_shuffle_i64x2(a01, b01, 0x44), _mm512_shuffle_i64x2(a01, b01, 0xee),
                                  _mm512_shuffle_i64x2(a23, b23, 0x44), _mm512_shuffle_i64x2(a23, b23, 0xee)};
                UNROLL
                for (size_t s = 0; s < 4; s++) {
                    const size_t g = 4 * v + s;
                    __m512 d = _mm512_mul_ps(k_d(&scales, g), _mm512_set1_ps(meta[g].a));
                    acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[s]), d, acc);
                    acc = _mm512_fmadd_ps(k_m(&scales, g), _mm512_set1_ps(meta[g].a_sum), acc);
                }
            }
        }
        store_rows(y + r, acc, n_rows - r);
    }
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
        __m512 acc = _mm512_setzero_ps();
        for (size_t pos = 0; pos < n_cols / 256 * BLOCK_BYTES; pos += BLOCK_BYTES, q += 256, meta += 8) {
            q6_k_scales scales = load_q6_k_scales(rows, pos);
            UNROLL
            for (size_t half = 0; half < 2; half++) {
                __m512i q_lo = _mm512_loadu_si512(q + 128 * half), q_hi = _mm512_loadu_si512(q + 128 * half + 64);
                /* What the 32 in the codes adds, off at the start: partial sums then fit reduce_4_rows. */
                const __m512i zero = _mm512_setzero_si512(), bias = _mm512_set1_epi8(32);
                __m512i start_lo = _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, bias, q_lo));
                __m512i start_hi = _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, bias, q_hi));
                uintptr_t ahead = group_ahead + TILE_ROWS * (pos + BLOCK_BYTES / 2 * half);
                __m512i dot_lo[4], dot_hi[4];
                UNROLL
                for (size_t i = 0; i < 4; i++) {
                    __m512i lo[4], hi[4];
                    UNROLL
                    for (size_t k = 0; k < 4; k++) {
                        const uint8_t *row = rows[4 * i + k] + pos;
                        codes_q6_k(row + 64 * half, row + 128 + 32 * half, &lo[k], &hi[k]);
                        lo[k] = _mm512_dpbusd_epi32(start_lo, lo[k], q_lo);
                        hi[k] = _mm512_dpbusd_epi32(start_hi, hi[k], q_hi);
                        prefetch_part(ahead, TILE_ROWS * BLOCK_BYTES / 2, 4 * i + k, TILE_ROWS);
                    }
                    dot_lo[i] = reduce_4_rows(lo);
                    dot_hi[i] = reduce_4_rows(hi);
                }
                transpose_lanes(dot_lo);
                transpose_lanes(dot_hi);
                UNROLL
                for (size_t s = 0; s < 8; s++) {
                    __m512 d = _mm512_mul_ps(q6_k_d(&scales, 8 * half + s), _mm512_set1_ps(meta[4 * half + s / 2].a));
                    acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s < 4 ? dot_lo[s] : dot_hi[s - 4]), d, acc);
                }
            }
        }
        store_rows(y + r, acc, n_rows - r);
    }
}

/* ---- types without kernels of their own: 16 rows are decoded, 256 columns at a time, into L1 ---- */

enum { DECODED_COLS = 256, DECODED_SUBS = DECODED_COLS / 16 };

typedef struct decoded {
    _Alignas(64) int8_t codes[TILE_ROWS][DECODED_COLS];
    float d[TILE_ROWS][DECODED_SUBS], m[TILE_ROWS][DECODED_SUBS];
} decoded;

/* scale[r][g] of 16 rows -> out[g] */
static ALWAYS_INLINE void scale_columns(float scale[TILE_ROWS][DECODED_SUBS], __m512i out[DECODED_SUBS])
{
    UNROLL
    for (size_t i = 0; i < TILE_ROWS; i++) out[i] = _mm512_loadu_si512(scale[i]);
    transpose_16x16(out);
}

/* Adds 64 columns from `col` on: their dot products, lane s = elements 16s … 16s + 15, of rows 4i … 4i + 3 in dot[i]. */
static ALWAYS_INLINE __m512 add_64(__m512 acc, __m512i dot[4], const __m512i d[DECODED_SUBS], const __m512i m[DECODED_SUBS], const act_meta *meta,
                                   const size_t j, const size_t n, const size_t sub_elems, const bool has_min)
{
    transpose_lanes(dot);
    UNROLL
    for (size_t s = 0; s < 64 / sub_elems; s++) {
        const act_meta *at = meta + s * sub_elems / 32;
        const size_t g = 64 * j / sub_elems + s;
        if (64 * j + s * sub_elems >= n) break;
        __m512i sum = sub_elems == 16 ? dot[s] : _mm512_add_epi32(dot[2 * s], dot[2 * s + 1]);
        acc = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(_mm512_castsi512_ps(d[g]), _mm512_set1_ps(at->a)), acc);
        if (!has_min) continue;
        acc = _mm512_fmadd_ps(_mm512_castsi512_ps(m[g]), _mm512_set1_ps(sub_elems == 16 ? at->a_half[s % 2] : at->a_sum), acc);
    }
    return acc;
}

static ALWAYS_INLINE void matvec_codes_of(float *y, const ct_type_info *info, const uint8_t *w, size_t row_bytes, const void *act,
                                          size_t n_rows, size_t n_cols, const size_t sub_elems, const bool has_min)
{
    const __m512i bias = _mm512_set1_epi8(-128), zero = _mm512_setzero_si512();
    decoded rows_of;
    memset(&rows_of, 0, sizeof rows_of);
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, w + r * row_bytes, row_bytes, n_rows - r);
        const int8_t *q = act;
        const act_meta *meta = act_meta_of(act, n_cols);
        __m512 acc = _mm512_setzero_ps();
        for (size_t col = 0; col < n_cols; col += DECODED_COLS) {
            const size_t n = n_cols - col < DECODED_COLS ? n_cols - col : DECODED_COLS;
            const size_t at = col / info->block_elems * info->block_bytes;
            __m512i d[DECODED_SUBS], m[DECODED_SUBS];
            for (size_t i = 0; i < TILE_ROWS; i++) info->decode_codes(rows[i] + at, n, rows_of.codes[i], rows_of.d[i], rows_of.m[i]);
            scale_columns(rows_of.d, d);
            if (has_min) scale_columns(rows_of.m, m);
            for (size_t j = 0; 64 * j < n; j++, q += 64, meta += 2) { /* 32 columns at the end: the activations are padded */
                __m512i qv = _mm512_loadu_si512(q), start = _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, bias, qv)), dot[4];
                UNROLL
                for (size_t i = 0; i < 4; i++) {
                    __m512i p[4];
                    UNROLL
                    for (size_t k = 0; k < 4; k++) {
                        __m512i v = _mm512_load_si512(rows_of.codes[4 * i + k] + 64 * j);
                        p[k] = _mm512_dpbusd_epi32(start, _mm512_xor_si512(v, bias), qv);
                    }
                    dot[i] = reduce_4_rows_32(p);
                }
                acc = add_64(acc, dot, d, m, meta, j, n, sub_elems, has_min);
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

/* ---- types of one to three bits: 64 codes of a row at a time, from shifts or by gathering points of grids ---- */

/* What codes_of_bits adds to a code, and how the type's blocks lie. */
typedef struct bits_shape {
    size_t block_elems, block_bytes, sub_elems;
    int bias;
    bool has_min;
    bool small; /* |code| <= 32: partial sums fit reduce_4_rows */
} bits_shape;

static ALWAYS_INLINE bits_shape bits_shape_of(const ct_type type)
{
    switch (type) {
    case CT_Q2_K: return (bits_shape){256, 84, 16, 0, true, true};
    case CT_Q3_K: return (bits_shape){256, 110, 16, 4, false, true};
    case CT_IQ1_S: return (bits_shape){256, 50, 32, 9, false, true};
    case CT_IQ1_M: return (bits_shape){256, 56, 16, 9, false, true};
    case CT_IQ2_XXS: return (bits_shape){256, 66, 32, 128, false, false};
    case CT_IQ2_XS: return (bits_shape){256, 74, 16, 128, false, false};
    case CT_IQ2_S: return (bits_shape){256, 82, 16, 128, false, false};
    case CT_IQ3_XXS: return (bits_shape){256, 98, 32, 128, false, false};
    case CT_IQ3_S: return (bits_shape){256, 110, 32, 128, false, true};
    case CT_TQ1_0: return (bits_shape){256, 54, 32, 1, false, true};
    case CT_TQ2_0: return (bits_shape){256, 66, 32, 1, false, true};
    case CT_NVFP4: return (bits_shape){64, 36, 16, 128, false, true};
    case CT_Q1_0: return (bits_shape){128, 18, 32, 1, false, true};
    default: return (bits_shape){64, 18, 32, 1, false, true}; /* CT_Q2_0 */
    }
}

/* Eight times seven sign bits -> eight bytes of signs, of which an even number is minus. */
static ALWAYS_INLINE uint64_t even_signs(uint64_t sevens)
{
    uint64_t parity = sevens ^ sevens >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return sevens | (parity & 0x0101010101010101) << 7;
}

/* The sign bits in two words of IQ2_XXS or IQ3_XXS. */
static ALWAYS_INLINE uint64_t signs_of_words(const uint8_t *first, const uint8_t *second)
{
    uint64_t bits = (load_u32(first) & 0x0fffffff) | (uint64_t)(load_u32(second) & 0x0fffffff) << 28;
    return even_signs(_pdep_u64(bits, 0x7f7f7f7f7f7f7f7f));
}

static ALWAYS_INLINE __m512i signed_codes(__m512i magnitudes, uint64_t minus) /* + 128 */
{
    const __m512i bias = _mm512_set1_epi8(-128);
    return _mm512_mask_sub_epi8(_mm512_add_epi8(magnitudes, bias), minus, bias, magnitudes);
}

static ALWAYS_INLINE __m512i points_of_8(const uint64_t *grid, __m256i index) { return _mm512_i32gather_epi64(index, grid, 8); }

/* Eight indices: bytes at p, above them the bytes of `high` */
static ALWAYS_INLINE __m256i indices_of_8(const uint8_t *p, uint64_t high)
{
    __m128i low = _mm_loadl_epi64((const __m128i *)(const void *)p);
    return _mm256_cvtepu16_epi32(_mm_unpacklo_epi8(low, _mm_cvtsi64_si128((long long)high)));
}

/* Codes + bias of elements 64j … 64j + 63 from `block` on; j < 4 is a constant for types of 256. */
static ALWAYS_INLINE __m512i codes_of_bits(const uint8_t *block, const size_t j, const ct_type type)
{
    switch (type) {
    case CT_Q2_K:
    case CT_Q3_K:
    case CT_TQ2_0: { /* runs 2j and 2j + 1 of 32 elements, of which 32 bytes hold four */
        const long long s = (long long)(j % 2 * 4);
        const uint8_t *p = block + (type == CT_Q2_K ? 16 : type == CT_Q3_K ? 32 : 0) + j / 2 * 32;
        __m512i v = _mm512_srlv_epi64(broadcast_32_bytes(p), _mm512_setr_epi64(s, s, s, s, s + 2, s + 2, s + 2, s + 2));
        v = _mm512_and_si512(v, _mm512_set1_epi8(3));
        if (type != CT_Q3_K) return v;
        const int r0 = (2 - (int)(2 * j)) & 31, r1 = (1 - (int)(2 * j)) & 31; /* brings bits 2j, 2j + 1 to bit 2 */
        __m512i h = _mm512_rolv_epi32(broadcast_32_bytes(block), _mm512_setr_epi32(r0, r0, r0, r0, r0, r0, r0, r0, r1, r1, r1, r1, r1, r1, r1, r1));
        return _mm512_ternarylogic_epi32(v, h, _mm512_set1_epi8(4), 0xf8); /* v | (h & 4) */
    }
    case CT_TQ1_0: { /* runs of 32 elements from 32 bytes, then of 16 from 16 bytes, then of 4 from 4; see tq1_0_codes of types.c */
        const int p0 = j == 0 ? 1 : j == 1 ? 9 : j == 2 ? 81 : 9, p1 = j == 0 ? 1 : j == 1 ? 9 : j == 2 ? 81 : 27;
        const int p2 = j == 0 ? 3 : j == 1 ? 27 : j == 2 ? 1 : 81, p3 = j == 1 ? 27 : 3;
        const __m128i last = j == 3 ? _mm_setr_epi16(1, 1, 3, 3, 9, 9, 27, 27) : _mm_set1_epi16((short)p3);
        __m512i power = _mm512_mask_set1_epi16(_mm512_set1_epi16((short)p0), 0x0000ff00, (short)p1);
        power = _mm512_inserti32x4(_mm512_mask_set1_epi16(power, 0x00ff0000, (short)p2), last, 3);
        __m512i v = j < 3 ? broadcast_32_bytes(block) : broadcast_16_bytes(block + 32);
        if (j == 2) v = _mm512_mask_mov_epi64(v, 0xf0, broadcast_16_bytes(block + 32));
        if (j == 3) v = _mm512_mask_set1_epi32(v, 0xf000, (int)load_u32(block + 48));
        /* the byte times the power, modulo 256, in the upper half of a word; times 3, what goes beyond is the digit */
        const __m512i three = _mm512_set1_epi16(3);
        __m512i even = _mm512_mulhi_epu16(_mm512_slli_epi16(_mm512_mullo_epi16(v, power), 8), three);
        __m512i odd = _mm512_mullo_epi16(_mm512_and_si512(v, _mm512_set1_epi16((short)0xff00)), power);
        return _mm512_or_si512(even, _mm512_slli_epi16(_mm512_mulhi_epu16(odd, three), 8));
    }
    case CT_IQ2_XXS: {
        const uint8_t *p = block + 2 + 16 * j;
        const __m128i indices = _mm_setr_epi8(0, 1, 2, 3, 8, 9, 10, 11, -1, -1, -1, -1, -1, -1, -1, -1);
        __m128i index = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)p), indices);
        return signed_codes(points_of_8(ct_iq2_xxs_grid, _mm256_cvtepu8_epi32(index)), signs_of_words(p + 4, p + 12));
    }
    case CT_IQ2_XS: {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)(block + 2 + 16 * j)), seven = _mm_srli_epi16(v, 9);
        __m256i index = _mm256_cvtepu16_epi32(_mm_and_si128(v, _mm_set1_epi16(511)));
        uint64_t signs = even_signs((uint64_t)_mm_cvtsi128_si64(_mm_packus_epi16(seven, seven)));
        return signed_codes(points_of_8(ct_iq2_xs_grid, index), signs);
    }
    case CT_IQ2_S: {
        uint64_t high = _pdep_u64(load_u16(block + 66 + 2 * j), 0x0303030303030303);
        return signed_codes(points_of_8(ct_iq2_s_grid, indices_of_8(block + 2 + 8 * j, high)), load_u64(block + 34 + 8 * j));
    }
    case CT_IQ3_XXS:
    case CT_IQ3_S: {
        __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(block + 2 + 16 * j)));
        if (type == CT_IQ3_XXS)
            return signed_codes(_mm512_i32gather_epi32(index, ct_iq3_xxs_grid, 4), signs_of_words(block + 66 + 8 * j, block + 70 + 8 * j));
        index = _mm512_mask_or_epi32(index, load_u16(block + 66 + 2 * j), index, _mm512_set1_epi32(256));
        return signed_codes(_mm512_i32gather_epi32(index, ct_iq3_s_grid, 4), load_u64(block + 74 + 8 * j));
    }
    case CT_IQ1_S:
    case CT_IQ1_M: { /* grid bytes are codes + 8; delta makes that + 7 or + 9 */
        uint64_t high, minus;
        if (type == CT_IQ1_S) {
            uint32_t h = load_u32(block + 34 + 4 * j);
            high = _pdep_u64((h & 0xfff) | (h >> 16 & 0xfff) << 12, 0x0707070707070707);
            minus = (h & 0x8000 ? 0xffffffff : 0) | (h >> 31 ? 0xffffffff00000000 : 0);
        } else {
            uint32_t h = load_u32(block + 32 + 4 * j);
            high = _pdep_u64(_pext_u32(h, 0x77777777), 0x0707070707070707);
            minus = _pdep_u64(_pext_u32(h, 0x88888888), 0x0101010101010101) * 255;
        }
        __m512i v = points_of_8(ct_iq1_grid, indices_of_8(block + (type == CT_IQ1_S ? 2 : 0) + 8 * j, high));
        return _mm512_mask_add_epi8(v, ~minus, v, _mm512_set1_epi8(2));
    }
    case CT_NVFP4: { /* 8 bytes are the low and the high nibbles of 8 + 8 elements */
        __m512i v = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)(block + 36 * j + 4)));
        v = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3), v);
        v = _mm512_srlv_epi64(v, _mm512_setr_epi64(0, 4, 0, 4, 0, 4, 0, 4));
        return _mm512_shuffle_epi8(level_table(CT_MXFP4), _mm512_and_si512(v, _mm512_set1_epi8(15)));
    }
    case CT_Q1_0: return _mm512_maskz_set1_epi8(load_u64(block + j / 2 * 18 + 2 + j % 2 * 8), 2);
    default: { /* CT_Q2_0: each byte four times, shifted by 0, 2, 4 and 6 */
        const __m512i from = _mm512_setr_epi32(0, 0x01010101, 0x02020202, 0x03030303, 0x04040404, 0x05050505, 0x06060606, 0x07070707, 0x08080808,
                                               0x09090909, 0x0a0a0a0a, 0x0b0b0b0b, 0x0c0c0c0c, 0x0d0d0d0d, 0x0e0e0e0e, 0x0f0f0f0f);
        __m512i v = _mm512_shuffle_epi8(broadcast_16_bytes(block + 18 * j + 2), from);
        v = _mm512_mask_srli_epi16(v, 0xaaaaaaaa, v, 4);
        v = _mm512_ternarylogic_epi32(_mm512_set1_epi16(255), v, _mm512_srli_epi16(v, 2), 0xca); /* the odd bytes from the third */
        return _mm512_and_si512(v, _mm512_set1_epi8(3));
    }
    }
}

static ALWAYS_INLINE float one_f16(const uint8_t *p) { return _cvtsh_ss(load_u16(p)); }

/* d and m of the sub-blocks of n <= 256 columns of a row, as many as there are, then anything */
static ALWAYS_INLINE void scales_of_bits(float d[DECODED_SUBS], float m[DECODED_SUBS], const uint8_t *block, size_t n, const ct_type type)
{
    const __m128i low = _mm_set1_epi8(15);
    const __m512 half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f);
    __m512 v, block_d = one;
    switch (type) {
    case CT_Q2_K: {
        __m128i s = _mm_loadu_si128((const __m128i *)(const void *)block);
        __m512 mins = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(_mm_srli_epi16(s, 4), low)));
        _mm512_storeu_ps(m, v_neg(_mm512_mul_ps(_mm512_set1_ps(one_f16(block + 82)), mins)));
        block_d = _mm512_set1_ps(one_f16(block + 80));
        v = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(s, low)));
        break;
    }
    case CT_Q3_K: {
        __m128i s = _mm_set1_epi64x((long long)load_u64(block + 96)), h = _mm_set1_epi32((int)load_u32(block + 104));
        s = _mm_and_si128(_mm_srlv_epi64(s, _mm_set_epi64x(4, 0)), low);
        h = _mm_and_si128(_mm_srlv_epi32(h, _mm_setr_epi32(0, 2, 4, 6)), _mm_set1_epi8(3));
        s = _mm_sub_epi8(_mm_or_si128(s, _mm_slli_epi16(h, 4)), _mm_set1_epi8(32));
        block_d = _mm512_set1_ps(one_f16(block + 108));
        v = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(s));
        break;
    }
    case CT_IQ1_S: {
        __m512i s = _mm512_cvtepu16_epi32(_mm256_zextsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(block + 34))));
        s = _mm512_and_si512(_mm512_srli_epi32(s, 11), _mm512_set1_epi32(14)); /* twice the scale */
        block_d = _mm512_set1_ps(one_f16(block) * 0.125f);
        v = _mm512_add_ps(_mm512_cvtepi32_ps(s), one);
        break;
    }
    case CT_IQ1_M: {
        const uint64_t words = load_u64(block + 48), threes = _pext_u64(words, 0x0fff0fff0fff0fff); /* 16 scales of three bits */
        __m128i bytes = _mm_set_epi64x((long long)_pdep_u64(threes >> 24, 0x0707070707070707), (long long)_pdep_u64(threes, 0x0707070707070707));
        __m512i s = _mm512_slli_epi32(_mm512_cvtepu8_epi32(bytes), 1);
        block_d = _mm512_set1_ps(_cvtsh_ss((uint16_t)_pext_u64(words, 0xf000f000f000f000)) * 0.125f);
        v = _mm512_add_ps(_mm512_cvtepi32_ps(s), one);
        break;
    }
    case CT_IQ2_XXS: {
        const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 1, 3, 5, 7, 9, 11, 13, 15);
        __m512i s = _mm512_srli_epi32(_mm512_permutexvar_epi32(odd, _mm512_loadu_si512(block + 2)), 28);
        block_d = _mm512_set1_ps(one_f16(block) * 0.25f);
        v = _mm512_add_ps(_mm512_cvtepi32_ps(s), half);
        break;
    }
    case CT_IQ2_XS:
    case CT_IQ2_S: {
        __m128i s = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)(block + (type == CT_IQ2_XS ? 66 : 74))));
        s = _mm_and_si128(_mm_or_si128(s, _mm_slli_epi16(s, 4)), low);
        block_d = _mm512_set1_ps(one_f16(block) * 0.25f);
        v = _mm512_add_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(s)), half);
        break;
    }
    case CT_IQ3_XXS: {
        __m512i s = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)(block + 66)));
        block_d = _mm512_set1_ps(one_f16(block) * 0.5f);
        v = _mm512_add_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32(s, 28)), half);
        break;
    }
    case CT_IQ3_S: {
        __m128i s = _mm_cvtepu8_epi16(_mm_cvtsi32_si128(load_i32(block + 106)));
        s = _mm_and_si128(_mm_or_si128(s, _mm_slli_epi16(s, 4)), low);
        block_d = _mm512_set1_ps(one_f16(block));
        v = _mm512_add_ps(_mm512_cvtepi32_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(s), 1)), one);
        break;
    }
    case CT_TQ1_0: v = _mm512_set1_ps(one_f16(block + 52)); break;
    case CT_TQ2_0: v = _mm512_set1_ps(one_f16(block + 64)); break;
    case CT_NVFP4: { /* exponent and mantissa moved to where f16 has them, which is 2^7 away */
        __m128i bytes = _mm_cvtsi32_si128(load_i32(block));
        if (n > 64) bytes = _mm_insert_epi32(bytes, load_i32(block + 36), 1);
        if (n > 128) bytes = _mm_insert_epi32(bytes, load_i32(block + 72), 2);
        if (n > 192) bytes = _mm_insert_epi32(bytes, load_i32(block + 108), 3);
        bytes = _mm_andnot_si128(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(0x7f)), _mm_and_si128(bytes, _mm_set1_epi8(0x7f)));
        v = _mm512_cvtph_ps(_mm256_slli_epi16(_mm256_cvtepu8_epi16(bytes), 7));
        block_d = _mm512_set1_ps(128.0f);
        break;
    }
    case CT_Q1_0: {
        float second = n > 128 ? one_f16(block + 18) : 0.0f;
        v = _mm512_mask_mov_ps(_mm512_set1_ps(one_f16(block)), 0xfff0, _mm512_set1_ps(second));
        break;
    }
    default: { /* CT_Q2_0 */
        v = one;
        for (size_t b = 0; 64 * b < n; b++) d[2 * b] = d[2 * b + 1] = one_f16(block + 18 * b);
        return;
    }
    }
    _mm512_storeu_ps(d, _mm512_mul_ps(block_d, v));
}

static ALWAYS_INLINE void matvec_bits(float *y, const uint8_t *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                                      const void *next, const ct_type type)
{
    const bits_shape shape = bits_shape_of(type);
    const __m512i bias = _mm512_set1_epi8((char)shape.bias), zero = _mm512_setzero_si512();
    const stream in = stream_of(w, row_bytes, n_rows, next);
    float scale_d[TILE_ROWS][DECODED_SUBS] = {{0}}, scale_m[TILE_ROWS][DECODED_SUBS] = {{0}};
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uintptr_t group_ahead = stream_ahead(&in, r);
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, w + r * row_bytes, row_bytes, n_rows - r);
        const int8_t *q = act;
        const act_meta *meta = act_meta_of(act, n_cols);
        __m512 acc = _mm512_setzero_ps();
        for (size_t col = 0; col < n_cols; col += DECODED_COLS) {
            const size_t n = shape.block_elems == 256 || n_cols - col >= DECODED_COLS ? DECODED_COLS : n_cols - col;
            const size_t pos = col / shape.block_elems * shape.block_bytes;
            __m512i d[DECODED_SUBS], m[DECODED_SUBS];
            for (size_t i = 0; i < TILE_ROWS; i++) scales_of_bits(scale_d[i], scale_m[i], rows[i] + pos, n, type);
            scale_columns(scale_d, d);
            if (shape.has_min) scale_columns(scale_m, m);
            UNROLL
            for (size_t j = 0; j < 4; j++) {
                if (64 * j >= n) break;
                __m512i qv = _mm512_loadu_si512(q + 64 * j), start = zero, dot[4];
                const size_t step_bytes = TILE_ROWS * shape.block_bytes * 64 / shape.block_elems;
                if (shape.bias != 0) start = _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, bias, qv));
                UNROLL
                for (size_t i = 0; i < 4; i++) {
                    __m512i p[4];
                    UNROLL
                    for (size_t k = 0; k < 4; k++) {
                        p[k] = _mm512_dpbusd_epi32(start, codes_of_bits(rows[4 * i + k] + pos, j, type), qv);
                        prefetch_part(group_ahead + TILE_ROWS * pos + j * step_bytes, step_bytes, 4 * i + k, TILE_ROWS);
                    }
                    dot[i] = shape.small ? reduce_4_rows(p) : reduce_4_rows_32(p);
                }
                acc = add_64(acc, dot, d, m, meta + 2 * j, j, n, shape.sub_elems, shape.has_min);
            }
            q += DECODED_COLS;
            meta += DECODED_COLS / 32;
        }
        store_rows(y + r, acc, n_rows - r);
    }
}

static ALWAYS_INLINE void unpack_bits(uint8_t *panel, const uint8_t *w, size_t row_bytes, size_t n_rows, size_t n_cols, const ct_type type)
{
    const bits_shape shape = bits_shape_of(type);
    const __m512i add = _mm512_set1_epi8((char)(128 - shape.bias));
    float scale_d[TILE_ROWS][DECODED_SUBS] = {{0}}, scale_m[TILE_ROWS][DECODED_SUBS] = {{0}};
    for (size_t tile = 0; tile < 2 && n_rows > 0; tile++) {
        const size_t from = n_rows > tile * TILE_ROWS ? tile * TILE_ROWS : 0;
        const __mmask16 there = rows_there(tile == 0 || from > 0 ? n_rows - from : 0);
        const uint8_t *rows[TILE_ROWS];
        row_pointers(rows, w + from * row_bytes, row_bytes, n_rows - from);
        for (size_t col = 0; col < n_cols; col += DECODED_COLS) {
            const size_t n = shape.block_elems == 256 || n_cols - col >= DECODED_COLS ? DECODED_COLS : n_cols - col;
            const size_t pos = col / shape.block_elems * shape.block_bytes, n_subs = n / shape.sub_elems, g0 = col / shape.sub_elems;
            __m512i d[DECODED_SUBS], m[DECODED_SUBS];
            for (size_t i = 0; i < TILE_ROWS; i++) scales_of_bits(scale_d[i], scale_m[i], rows[i] + pos, n, type);
            scale_columns(scale_d, d);
            if (shape.has_min) scale_columns(scale_m, m);
            UNROLL
            for (size_t g = 0; g < DECODED_SUBS; g++) {
                if (g >= n_subs) break;
                store_scales(panel, tile, g0 + g, _mm512_castsi512_ps(d[g]), 0, there, shape.sub_elems, shape.has_min);
                if (shape.has_min) store_scales(panel, tile, g0 + g, _mm512_castsi512_ps(m[g]), 1, there, shape.sub_elems, true);
            }
            UNROLL
            for (size_t j = 0; j < 4; j++) {
                __m512i v[TILE_ROWS];
                if (64 * j >= n) break;
                UNROLL
                for (size_t i = 0; i < TILE_ROWS; i++) v[i] = _mm512_add_epi8(codes_of_bits(rows[i] + pos, j, type), add);
                store_codes(panel, tile, col + 64 * j, 64, v, shape.sub_elems, shape.has_min);
            }
        }
    }
}

#define BITS_KERNELS(type)                                                                                                          \
    static void matvec_##type(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,             \
                              const void *next)                                                                                     \
    {                                                                                                                               \
        matvec_bits(y, w, row_bytes, act, n_rows, n_cols, next, type);                                                              \
    }                                                                                                                               \
    static void unpack_##type(void *panel, const void *w, size_t row_bytes, size_t n_rows, size_t n_cols)                           \
    {                                                                                                                               \
        unpack_bits(panel, w, row_bytes, n_rows, n_cols, type);                                                                     \
    }
#define SET_BITS_KERNELS(type) k->matvec[type] = matvec_##type, k->unpack[type] = unpack_##type;
#define BITS_TYPES(X)                                                                                                         \
    X(CT_Q2_K) X(CT_Q3_K) X(CT_IQ1_S) X(CT_IQ1_M) X(CT_IQ2_XXS) X(CT_IQ2_XS) X(CT_IQ2_S) X(CT_IQ3_XXS) X(CT_IQ3_S) X(CT_TQ1_0) \
    X(CT_TQ2_0) X(CT_NVFP4) X(CT_Q1_0) X(CT_Q2_0)

BITS_TYPES(BITS_KERNELS)

/* ---- matrix x few tokens, straight from the blocks ------------------------------------------------------------------------
 * Between a vector and a panel: 16 rows are read side by side and their codes transposed once, in registers, for all tokens.
 * Nothing is written but the results, and each byte of weights is read once. */

enum { FEW_TOKENS = 8 };

/* Tokens' quantised rows; where there are fewer than a kernel computes, the last repeats. */
typedef struct few_acts {
    const uint8_t *row[FEW_TOKENS];
    size_t meta; /* offset of a row's act_meta */
} few_acts;

/* One sub-block of 16 rows: codes [sub_elems / 4], dwords of four elements, unsigned by an offset of 128 >> bias_shift (none: 8).
 * k: first element of the block of 32, half: which half of it (sub-blocks of 16). Meanwhile ahead_bytes from `ahead` on are fetched, a
 * line or two between products: in one go they would take all the buffers of the first cache and stop the loads. */
static ALWAYS_INLINE void few_sub_block(__m512 acc[FEW_TOKENS], const __m512i codes[], __m512 d, __m512 m, const few_acts *x, size_t k,
                                        const size_t half, const size_t n_t, const size_t sub_elems, const unsigned bias_shift,
                                        const bool has_min, uintptr_t ahead, const size_t ahead_bytes)
{
    const size_t meta = x->meta + k / CT_ACT_BLOCK * sizeof(act_meta);
    __m512i dot[FEW_TOKENS];
    UNROLL
    for (size_t t = 0; t < n_t; t++) {
        dot[t] = _mm512_setzero_si512();
        if (bias_shift == 8) continue;
        dot[t] = _mm512_set1_epi32(load_i32(x->row[t] + meta + minus_128_at(sub_elems, half)));
        if (bias_shift > 0) dot[t] = _mm512_srai_epi32(dot[t], bias_shift);
    }
    UNROLL
    for (size_t i = 0; i < sub_elems / 4; i++) {
        prefetch_part(ahead, ahead_bytes, i, sub_elems / 4);
        UNROLL
        for (size_t t = 0; t < n_t; t++)
            dot[t] = _mm512_dpbusd_epi32(dot[t], codes[i], _mm512_set1_epi32(load_i32(x->row[t] + k + half * 16 + 4 * i)));
    }
    UNROLL
    for (size_t t = 0; t < n_t; t++) {
        __m512 a = _mm512_castsi512_ps(_mm512_set1_epi32(load_i32(x->row[t] + meta + offsetof(act_meta, a))));
        acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[t]), _mm512_mul_ps(d, a), acc[t]);
        if (!has_min) continue;
        __m512 sum = _mm512_castsi512_ps(_mm512_set1_epi32(load_i32(x->row[t] + meta + a_sum_at(sub_elems, half))));
        acc[t] = _mm512_fmadd_ps(m, sum, acc[t]);
    }
}

static ALWAYS_INLINE size_t few_block_bytes(const ct_type type)
{
    switch (type) {
    case CT_MXFP4: return 17;
    case CT_Q4_0:
    case CT_IQ4_NL: return 18;
    case CT_Q4_1: return 20;
    case CT_Q5_0: return 22;
    case CT_Q5_1: return 24;
    case CT_Q8_0: return 34;
    case CT_IQ4_XS: return 136;
    case CT_Q4_K: return 144;
    case CT_Q5_K: return 176;
    default: return 210; /* CT_Q6_K */
    }
}

/* Block b of a type with blocks of 32. at: where row r begins, from row 0 on. */
static ALWAYS_INLINE void few_32(__m512 acc[FEW_TOKENS], const uint8_t *const rows[TILE_ROWS], __m512i at, size_t b, uintptr_t ahead,
                                 const few_acts *x, const size_t n_t, const ct_type type)
{
    const bool has_min = type == CT_Q4_1 || type == CT_Q5_1;
    const size_t block_bytes = few_block_bytes(type), pos = b * block_bytes;
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i head = _mm512_i32gather_epi32(at, rows[0] + pos, 1); /* d and, in the upper half, m; MXFP4: e in the lowest byte */
    __m512i v[4], codes[8];
    if (type == CT_Q8_0) {
        load_columns(rows, pos + 2, codes);
        load_columns(rows, pos + 18, codes + 4);
        UNROLL
        for (size_t j = 0; j < 8; j++) codes[j] = _mm512_xor_si512(codes[j], _mm512_set1_epi8(-128));
    } else {
        load_columns(rows, pos + block_bytes - 16, v);
        UNROLL
        for (size_t j = 0; j < 4; j++) { /* four elements each of the block's first and second 16 */
            codes[j] = _mm512_and_si512(v[j], low);
            codes[4 + j] = _mm512_and_si512(_mm512_srli_epi16(v[j], 4), low);
            if (!has_levels(type)) continue;
            codes[j] = _mm512_shuffle_epi8(level_table(type), codes[j]);
            codes[4 + j] = _mm512_shuffle_epi8(level_table(type), codes[4 + j]);
        }
    }
    if (type == CT_Q5_0 || type == CT_Q5_1) { /* four bits of each row become the fifth bits of four codes */
        const __m512i fifth = _mm512_setr_epi32(0, 0x10, 0x1000, 0x1010, 0x100000, 0x100010, 0x101000, 0x101010, 0x10000000, 0x10000010,
                                                0x10001000, 0x10001010, 0x10100000, 0x10100010, 0x10101000, 0x10101010);
        const __m512i bits = _mm512_i32gather_epi32(at, rows[0] + pos + block_bytes - 20, 1);
        UNROLL
        for (size_t j = 0; j < 8; j++)
            codes[j] = _mm512_or_si512(codes[j], _mm512_permutexvar_epi32(_mm512_srli_epi32(bits, (unsigned)(4 * j)), fifth));
    }
    const unsigned bias_shift = type == CT_Q8_0 || has_levels(type) ? 0 : type == CT_Q5_0 ? 3 : type == CT_Q4_0 ? 4 : 8;
    __m512 d = type == CT_MXFP4 ? e8m0_half(_mm512_and_si512(head, _mm512_set1_epi32(255))) : cvt_f16_dwords(head), m = has_min ? cvt_f16_dwords(_mm512_srli_epi32(head, 16)) : d;
    few_sub_block(acc, codes, d, m, x, b * 32, 0, n_t, 32, bias_shift, has_min, ahead, TILE_ROWS * block_bytes);
}

/* Blocks b and b + 1 of a type with blocks of 256; d and m of their sub-blocks. */
static ALWAYS_INLINE void few_64(__m512 acc[FEW_TOKENS], const uint8_t *const rows[TILE_ROWS], size_t b, const __m512 d[4], const __m512 m[4],
                                 uintptr_t ahead, const few_acts *x, const size_t n_t, const ct_type type)
{
    const size_t sub_elems = type == CT_Q6_K ? 16 : 32, ahead_bytes = TILE_ROWS * few_block_bytes(type) * sub_elems / 256;
    __m512i v[TILE_ROWS];
    UNROLL
    for (size_t i = 0; i < TILE_ROWS; i++) v[i] = codes_64(rows[i], b, 64, type);
    transpose_16x16(v);
    UNROLL
    for (size_t g = 0; g < 64 / sub_elems; g++)
        few_sub_block(acc, v + g * sub_elems / 4, d[g], m[g], x, (b + g * sub_elems / 32) * 32, g * sub_elems % 32 / 16, n_t, sub_elems, 0,
                      type != CT_Q6_K, ahead + g * ahead_bytes, ahead_bytes);
}

/* A block of 256. */
static ALWAYS_INLINE void few_256(__m512 acc[FEW_TOKENS], const uint8_t *const rows[TILE_ROWS], size_t b, uintptr_t ahead,
                                  const few_acts *x, const size_t n_t, const ct_type type)
{
    const size_t quarter = TILE_ROWS * few_block_bytes(type) / 4; /* bytes of a tile's 64 columns */
    __m512 d[4], m[4];
    if (type == CT_Q6_K) {
        q6_k_scales s = load_q6_k_scales(rows, b / 8 * 210);
        for (size_t i = 0; i < 4; i++) {
            UNROLL
            for (size_t g = 0; g < 4; g++) d[g] = _mm512_mul_ps(s.d, cvt_signed_byte(s.scale[i], g));
            few_64(acc, rows, b + 2 * i, d, d, ahead + i * quarter, x, n_t, type);
        }
        return;
    }
    if (type == CT_IQ4_XS) {
        iq4_xs_scales s = load_iq4_xs_scales(rows, b / 8 * 136);
        UNROLL
        for (size_t g = 0; g < 8; g++) {
            const __m512i low = _mm512_set1_epi8(15), table = level_table(type);
            __m512i v[4], codes[8];
            load_columns(rows, b / 8 * 136 + 8 + 16 * g, v);
            UNROLL
            for (size_t j = 0; j < 4; j++) {
                codes[j] = _mm512_shuffle_epi8(table, _mm512_and_si512(v[j], low));
                codes[4 + j] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(v[j], 4), low));
            }
            d[0] = iq4_xs_d(&s, g);
            few_sub_block(acc, codes, d[0], d[0], x, (b + g) * 32, 0, n_t, 32, 0, false, ahead + g * quarter / 2, quarter / 2);
        }
        return;
    }
    k_scales s = load_k_scales(rows, b / 8 * (type == CT_Q4_K ? 144 : 176));
    for (size_t i = 0; i < 4; i++) { /* sub-blocks 2i and 2i + 1, whose six bits are shifted down as they are used */
        UNROLL
        for (size_t g = 0; g < 2; g++) {
            d[g] = _mm512_mul_ps(s.d, cvt_byte(s.scale[i / 2], g));
            m[g] = _mm512_mul_ps(s.minus_dmin, cvt_byte(s.min[i / 2], g));
        }
        s.scale[i / 2] = _mm512_srli_epi32(s.scale[i / 2], 16);
        s.min[i / 2] = _mm512_srli_epi32(s.min[i / 2], 16);
        few_64(acc, rows, b + 2 * i, d, m, ahead + i * quarter, x, n_t, type);
    }
}

/* n_rows <= 16 rows x n_t tokens, of which the first n_tok are stored. ahead: see stream_ahead. */
static ALWAYS_INLINE void few_tile(float *y, size_t y_stride, const uint8_t *w, size_t row_bytes, uintptr_t ahead, const few_acts *x,
                                   size_t n_rows, size_t n_cols, size_t n_tok, const size_t n_t, const ct_type type)
{
    const bool blocks_of_32 = few_block_bytes(type) < 128;
    const size_t n_blocks = n_cols / 32, tile_block_bytes = TILE_ROWS * few_block_bytes(type);
    const uint8_t *rows[TILE_ROWS];
    __m512 acc[FEW_TOKENS];
    row_pointers(rows, w, row_bytes, n_rows);
    UNROLL
    for (size_t t = 0; t < n_t; t++) acc[t] = _mm512_setzero_ps();
    if (blocks_of_32) {
        const __m512i at = row_offsets(rows);
        for (size_t b = 0; b < n_blocks; b++) few_32(acc, rows, at, b, ahead + b * tile_block_bytes, x, n_t, type);
    } else
        for (size_t b = 0; b < n_blocks; b += 8) few_256(acc, rows, b, ahead + b / 8 * tile_block_bytes, x, n_t, type);
    UNROLL
    for (size_t t = 0; t < n_t; t++)
        if (t < n_tok) _mm512_mask_storeu_ps(y + t * y_stride, rows_there(n_rows), acc[t]);
}

static ALWAYS_INLINE void matmul_few(float *y, size_t y_stride, const uint8_t *w, size_t row_bytes, const uint8_t *act, size_t act_stride,
                                     size_t n_rows, size_t n_cols, size_t n_tok, const void *next, const ct_type type)
{
    const stream s = stream_of(w, row_bytes, n_rows, next);
    few_acts x = {.meta = act_blocks(n_cols) * CT_ACT_BLOCK};
    if (n_tok == 0) return;
    for (size_t t = 0; t < FEW_TOKENS; t++) x.row[t] = act + (t < n_tok ? t : n_tok - 1) * act_stride;
    for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
        const uint8_t *from = w + r * row_bytes;
        const uintptr_t ahead = stream_ahead(&s, r);
        if (n_tok <= 2) few_tile(y + r, y_stride, from, row_bytes, ahead, &x, n_rows - r, n_cols, n_tok, 2, type);
        else if (n_tok <= 4) few_tile(y + r, y_stride, from, row_bytes, ahead, &x, n_rows - r, n_cols, n_tok, 4, type);
        else if (n_tok <= 6) few_tile(y + r, y_stride, from, row_bytes, ahead, &x, n_rows - r, n_cols, n_tok, 6, type);
        else few_tile(y + r, y_stride, from, row_bytes, ahead, &x, n_rows - r, n_cols, n_tok, 8, type);
    }
}

#define MATMUL_FEW(name, type)                                                                                              \
    static void name(float *y, size_t y_stride, const void *w, size_t row_bytes, const void *act, size_t act_stride,        \
                     size_t n_rows, size_t n_cols, size_t n_tok, const void *next)                                          \
    {                                                                                                                       \
        matmul_few(y, y_stride, w, row_bytes, act, act_stride, n_rows, n_cols, n_tok, next, type);                                \
    }
MATMUL_FEW(few_q4_0, CT_Q4_0)
MATMUL_FEW(few_q4_1, CT_Q4_1)
MATMUL_FEW(few_q5_0, CT_Q5_0)
MATMUL_FEW(few_q5_1, CT_Q5_1)
MATMUL_FEW(few_q8_0, CT_Q8_0)
MATMUL_FEW(few_q4_k, CT_Q4_K)
MATMUL_FEW(few_q5_k, CT_Q5_K)
MATMUL_FEW(few_q6_k, CT_Q6_K)
MATMUL_FEW(few_iq4_nl, CT_IQ4_NL)
MATMUL_FEW(few_iq4_xs, CT_IQ4_XS)
MATMUL_FEW(few_mxfp4, CT_MXFP4)

void ct_kernels_init_avx512vnni(ct_kernels *k)
{
    *k = (ct_kernels){
        .name = "avx512vnni",
        .act_bytes = act_bytes,
        .quantize_act = quantize_act,
        .panel_rows = PANEL_ROWS,
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
    k->few_tokens = FEW_TOKENS;
    k->matmul_few[CT_Q4_0] = few_q4_0;
    k->matmul_few[CT_Q4_1] = few_q4_1;
    k->matmul_few[CT_Q5_0] = few_q5_0;
    k->matmul_few[CT_Q5_1] = few_q5_1;
    k->matmul_few[CT_Q8_0] = few_q8_0;
    k->matmul_few[CT_Q4_K] = few_q4_k;
    k->matmul_few[CT_Q5_K] = few_q5_k;
    k->matmul_few[CT_Q6_K] = few_q6_k;
    k->matmul_few[CT_IQ4_NL] = few_iq4_nl;
    k->matmul_few[CT_IQ4_XS] = few_iq4_xs;
    k->matmul_few[CT_MXFP4] = few_mxfp4;
    k->matvec[CT_F32] = matvec_f32;
    k->matvec[CT_F16] = matvec_f16;
    k->matvec[CT_BF16] = matvec_bf16;
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
    BITS_TYPES(SET_BITS_KERNELS)
}
