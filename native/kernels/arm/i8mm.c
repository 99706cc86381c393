/* i8mm.c: the integer matrix product of CPUs with smmla (Cortex-A510, A710, X2 and later, Apple A15 and later, Neoverse N2 and
 * V1). Products with one token, but for Q4_K's, and all else are dotprod.c's.
 *
 * smmla multiplies 2 tokens x 8 activations with 2 rows x 8 codes: [t0·r0, t0·r1, t1·r0, t1·r1].
 * Panel: tiles of 8 rows, then sub-blocks: { f32 d[4 pairs][d0, d1, d0, d1]; f32 m, the same, if has_min;
 * codes [4 pairs][sub_elems/8][2 rows][8] }. */
#include "kernels/arm/arm_common.h"

enum { TILE_ROWS = 8, TILE_PAIRS = 4, TILE_TOKENS = 4 };

/* Activations of two tokens over a chunk of columns, as smmla and the scales of its result want them. */
typedef struct token_pair {
    int8_t q[ARM_CHUNK_COLS / 8][2][8];
    float a[ARM_CHUNK_COLS / 32][4];     /* [a0, a0, a1, a1] */
    float a_sum[ARM_CHUNK_COLS / 16][4]; /* per sub-block, the same; with has_min only */
} token_pair;

ARM_INLINE size_t record_bytes(size_t sub_elems, bool has_min) { return TILE_ROWS * ((has_min ? 16 : 8) + sub_elems); }

static size_t panel_bytes(size_t n_cols)
{
    return ARM_PANEL_ROWS / TILE_ROWS * (n_cols / 16) * record_bytes(16, true); /* the largest records per column */
}

/* [v0, v1, v0, v1], [v2, v3, v2, v3] */
ARM_INLINE void store_pairs(float *to, float32x4_t v)
{
    float64x2_t pairs = vreinterpretq_f64_f32(v);
    vst1q_f32(to, vreinterpretq_f32_f64(vzip1q_f64(pairs, pairs)));
    vst1q_f32(to + 4, vreinterpretq_f32_f64(vzip2q_f64(pairs, pairs)));
}

ARM_INLINE void put_quad(uint8_t *panel, size_t quad, size_t g, size_t n_sub, size_t sub_elems, bool has_min, int8x16_t c[4][2],
                         float32x4_t d, float32x4_t m)
{
    uint8_t *record = panel + (quad / 2 * n_sub + g) * record_bytes(sub_elems, has_min);
    uint8_t *codes = record + (has_min ? 128 : 64) + quad % 2 * 4 * sub_elems;
    store_pairs((float *)(void *)record + quad % 2 * 8, d);
    if (has_min) store_pairs((float *)(void *)record + 16 + quad % 2 * 8, m);
    for (size_t pair = 0; pair < 2; pair++, codes += 2 * sub_elems)
        for (size_t half = 0; half < sub_elems / 16; half++) {
            uint64x2_t r0 = vreinterpretq_u64_s8(c[2 * pair][half]), r1 = vreinterpretq_u64_s8(c[2 * pair + 1][half]);
            vst1q_u8(codes + half * 32, vreinterpretq_u8_u64(vzip1q_u64(r0, r1)));
            vst1q_u8(codes + half * 32 + 16, vreinterpretq_u8_u64(vzip2q_u64(r0, r1)));
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

/* Columns col … col + n_cols of two quantised rows, which may be the same one. */
ARM_INLINE void pair_tokens(token_pair *out, const arm_act *x0, const arm_act *x1, size_t col, size_t n_cols, size_t sub_elems,
                            bool has_min)
{
    for (size_t k = 0; k < n_cols; k += 16) {
        uint64x2_t q0 = vreinterpretq_u64_s8(vld1q_s8(x0->q + col + k)), q1 = vreinterpretq_u64_s8(vld1q_s8(x1->q + col + k));
        vst1q_s8(out->q[k / 8][0], vreinterpretq_s8_u64(vzip1q_u64(q0, q1)));
        vst1q_s8(out->q[k / 8 + 1][0], vreinterpretq_s8_u64(vzip2q_u64(q0, q1)));
    }
    for (size_t b = 0; b < n_cols / 32; b++)
        vst1q_f32(out->a[b], vcombine_f32(vdup_n_f32(x0->a[col / 32 + b]), vdup_n_f32(x1->a[col / 32 + b])));
    for (size_t g = 0; has_min && g < n_cols / sub_elems; g++) {
        const float *s0 = sub_elems == 32 ? x0->a_sum32 : x0->a_sum16, *s1 = sub_elems == 32 ? x1->a_sum32 : x1->a_sum16;
        vst1q_f32(out->a_sum[g], vcombine_f32(vdup_n_f32(s0[col / sub_elems + g]), vdup_n_f32(s1[col / sub_elems + g])));
    }
}

/* y of 2 * n_pairs tokens (the last of them only if n_tok is even) and 8 rows += the records of n_sub sub-blocks times x. */
ARM_INLINE void multiply_tile(float *y, size_t y_stride, const uint8_t *record, const token_pair *x, size_t n_rows,
                              size_t n_sub, size_t n_tok, bool first, size_t n_pairs, size_t sub_elems, bool has_min)
{
    size_t n_low = n_rows < 4 ? n_rows : 4, n_high = n_rows - n_low;
    float32x4_t acc[TILE_TOKENS / 2][TILE_PAIRS];
    ARM_UNROLL
    for (size_t p = 0; p < n_pairs; p++) {
        ARM_UNROLL
        for (size_t i = 0; i < TILE_PAIRS; i++) acc[p][i] = vdupq_n_f32(0.0f);
        ARM_UNROLL
        for (size_t quad = 0; quad < 2 && !first; quad++) { /* [token][4 rows] to [2 tokens][2 rows] */
            size_t n = quad == 0 ? n_low : n_high;
            const float *y0 = y + 2 * p * y_stride + quad * n_low;
            float64x2_t t0 = vreinterpretq_f64_f32(arm_load_part(y0, n)), t1 = t0;
            if (2 * p + 1 < n_tok) t1 = vreinterpretq_f64_f32(arm_load_part(y0 + y_stride, n));
            acc[p][2 * quad] = vreinterpretq_f32_f64(vzip1q_f64(t0, t1));
            acc[p][2 * quad + 1] = vreinterpretq_f32_f64(vzip2q_f64(t0, t1));
        }
    }
    for (size_t g = 0; g < n_sub; g++, record += record_bytes(sub_elems, has_min)) {
        const float *scales = (const float *)(const void *)record;
        const int8_t *w = (const int8_t *)record + (has_min ? 128 : 64);
        int32x4_t dot[TILE_TOKENS / 2][TILE_PAIRS];
        ARM_UNROLL
        for (size_t p = 0; p < n_pairs; p++)
            ARM_UNROLL
            for (size_t i = 0; i < TILE_PAIRS; i++) dot[p][i] = vdupq_n_s32(ARM_MAGIC);
        ARM_UNROLL
        for (size_t eight = 0; eight < sub_elems / 8; eight++) {
            int8x16_t q[TILE_TOKENS / 2];
            ARM_UNROLL
            for (size_t p = 0; p < n_pairs; p++) q[p] = vld1q_s8(x[p].q[g * (sub_elems / 8) + eight][0]);
            ARM_UNROLL
            for (size_t i = 0; i < TILE_PAIRS; i++) {
                int8x16_t w2 = vld1q_s8(w + i * 2 * sub_elems + eight * 16);
                ARM_UNROLL
                for (size_t p = 0; p < n_pairs; p++) dot[p][i] = vmmlaq_s32(dot[p][i], q[p], w2);
            }
        }
        ARM_UNROLL
        for (size_t p = 0; p < n_pairs; p++) {
            float32x4_t a = vld1q_f32(x[p].a[g * sub_elems / 32]);
            ARM_UNROLL
            for (size_t i = 0; i < TILE_PAIRS; i++)
                acc[p][i] = vfmaq_f32(acc[p][i], arm_to_float(dot[p][i]), vmulq_f32(vld1q_f32(scales + 4 * i), a));
        }
        ARM_UNROLL
        for (size_t p = 0; has_min && p < n_pairs; p++) {
            float32x4_t a_sum = vld1q_f32(x[p].a_sum[g]);
            ARM_UNROLL
            for (size_t i = 0; i < TILE_PAIRS; i++) acc[p][i] = vfmaq_f32(acc[p][i], vld1q_f32(scales + 16 + 4 * i), a_sum);
        }
    }
    ARM_UNROLL
    for (size_t p = 0; p < n_pairs; p++)
        ARM_UNROLL
        for (size_t quad = 0; quad < 2; quad++) {
            size_t n = quad == 0 ? n_low : n_high;
            float *y0 = y + 2 * p * y_stride + quad * n_low;
            float64x2_t low = vreinterpretq_f64_f32(acc[p][2 * quad]), high = vreinterpretq_f64_f32(acc[p][2 * quad + 1]);
            arm_store_part(y0, vreinterpretq_f32_f64(vzip1q_f64(low, high)), n);
            if (2 * p + 1 < n_tok) arm_store_part(y0 + y_stride, vreinterpretq_f32_f64(vzip2q_f64(low, high)), n);
        }
}

ARM_INLINE void multiply(float *y, size_t y_stride, const uint8_t *panel, const uint8_t *act, size_t act_stride, size_t n_rows,
                         size_t n_cols, size_t n_tok, size_t sub_elems, bool has_min)
{
    const size_t n_sub = n_cols / sub_elems, record = record_bytes(sub_elems, has_min);
    token_pair x[TILE_TOKENS / 2]; /* on the stack: made once per chunk, used for all tiles of the panel */
    size_t col = 0;
    do { /* once even without columns: y is written */
        size_t cols = n_cols - col < ARM_CHUNK_COLS ? n_cols - col : ARM_CHUNK_COLS, chunk = cols / sub_elems;
        for (size_t t0 = 0; t0 < n_tok; t0 += TILE_TOKENS) {
            size_t n = n_tok - t0 < TILE_TOKENS ? n_tok - t0 : TILE_TOKENS;
            for (size_t t = 0; t < n; t += 2) {
                arm_act x0 = arm_act_row(act + (t0 + t) * act_stride, n_cols), x1 = x0;
                if (t + 1 < n) x1 = arm_act_row(act + (t0 + t + 1) * act_stride, n_cols);
                pair_tokens(&x[t / 2], &x0, &x1, col, cols, sub_elems, has_min);
            }
            for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
                size_t rows = n_rows - r < TILE_ROWS ? n_rows - r : TILE_ROWS;
                const uint8_t *from = panel + (r / TILE_ROWS * n_sub + col / sub_elems) * record;
                float *to = y + t0 * y_stride + r;
                if (n > 2)
                    multiply_tile(to, y_stride, from, x, rows, chunk, n, col == 0, 2, sub_elems, has_min);
                else
                    multiply_tile(to, y_stride, from, x, rows, chunk, n, col == 0, 1, sub_elems, has_min);
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

/* ---- one token ------------------------------------------------------------------------------------------------------ */

/* Activations of 64 columns for matvec_q4_k, behind the row as neon.c makes it, A being the first 32 and B the others: eights of
 * { [A, -B], [0, B] }. */
typedef struct pair64 {
    int8_t q[4][2][16];
} pair64;

ARM_INLINE size_t pairs_at(size_t n_cols) { return arm_act_head_bytes(n_cols) + (n_cols + 63) / 64 * 64; }

static size_t act_bytes(size_t n_cols) { return pairs_at(n_cols) + n_cols / 64 * sizeof(pair64); }

static void quantize_act(void *act, const float *x, size_t n_cols)
{
    const int8_t *q = (const int8_t *)act + arm_act_head_bytes(n_cols);
    pair64 *out = (pair64 *)(void *)((uint8_t *)act + pairs_at(n_cols));
    const int64x2_t zero = vdupq_n_s64(0);
    ct_arm_quantize_act(act, x, n_cols);
    for (size_t i = 0; i < n_cols / 64; i++, q += 64)
        for (size_t half = 0; half < 2; half++) {
            int8x16_t a8 = vld1q_s8(q + 16 * half), b8 = vld1q_s8(q + 32 + 16 * half);
            int64x2_t a = vreinterpretq_s64_s8(a8), b = vreinterpretq_s64_s8(b8), minus = vreinterpretq_s64_s8(vnegq_s8(b8));
            vst1q_s8(out[i].q[2 * half][0], vreinterpretq_s8_s64(vzip1q_s64(a, minus)));
            vst1q_s8(out[i].q[2 * half][1], vreinterpretq_s8_s64(vzip1q_s64(zero, b)));
            vst1q_s8(out[i].q[2 * half + 1][0], vreinterpretq_s8_s64(vzip2q_s64(a, minus)));
            vst1q_s8(out[i].q[2 * half + 1][1], vreinterpretq_s8_s64(vzip2q_s64(zero, b)));
        }
}

#define SCALE_MAGIC 32768.0f

/* Four blocks' scales: d and m, a lane per row, and the small integers, a byte per row and sub-block as in arm_scales, in
 * memory, where integer instructions have put them. */
typedef struct q4_k_scales {
    float32x4_t d, m;
    float32x4_t less_d, less_m; /* d and m times -SCALE_MAGIC */
    uint64_t sc[2][2], mn[2][2];
} q4_k_scales;

ARM_INLINE void load_q4_k_scales(q4_k_scales *s, const uint8_t *const block[4])
{
    const uint64_t six = 0x3f3f3f3f3f3f3f3f, four = 0x0f0f0f0f0f0f0f0f, two = 0x3030303030303030;
    s->d = arm_scale_of_4(block, 0, 0);
    s->m = arm_scale_of_4(block, 2, 0x8000);
    for (size_t i = 0; i < 2; i++) {
        uint64_t low = arm_u32_of_2(block + 2 * i, 4), low_min = arm_u32_of_2(block + 2 * i, 8);
        uint64_t high = arm_u32_of_2(block + 2 * i, 12);
        s->sc[0][i] = low & six;
        s->sc[1][i] = (high & four) | (low >> 2 & two);
        s->mn[0][i] = low_min & six;
        s->mn[1][i] = (high >> 4 & four) | (low_min >> 2 & two);
    }
    s->less_d = vmulq_n_f32(s->d, -SCALE_MAGIC);
    s->less_m = vmulq_n_f32(s->m, -SCALE_MAGIC);
    __asm__("" : "+m"(s->sc), "+m"(s->mn));
}

/* by * byte `byte` (a constant) of each lane, exactly; less is by * -SCALE_MAGIC. The byte goes into the mantissa of
 * SCALE_MAGIC, and one fma multiplies and takes off the rest: by has the 11 bits of an f16. */
ARM_INLINE float32x4_t scale_times(const uint64_t bytes[2], size_t byte, float32x4_t by, const float32x4_t *less,
                                   float32x4_t user)
{
    static const float32x4_t magic = {SCALE_MAGIC, SCALE_MAGIC, SCALE_MAGIC, SCALE_MAGIC};
    static const uint8_t to[4][16] = {{255, 0, 255, 255, 255, 4, 255, 255, 255, 8, 255, 255, 255, 12, 255, 255},
                                      {255, 1, 255, 255, 255, 5, 255, 255, 255, 9, 255, 255, 255, 13, 255, 255},
                                      {255, 2, 255, 255, 255, 6, 255, 255, 255, 10, 255, 255, 255, 14, 255, 255},
                                      {255, 3, 255, 255, 255, 7, 255, 255, 255, 11, 255, 255, 255, 15, 255, 255}};
    uint8x16_t v = vqtbx1q_u8(vreinterpretq_u8_f32(arm_load_f32x4(&magic, user)), vreinterpretq_u8_u64(vld1q_u64(bytes)),
                              vld1q_u8(to[byte]));
    return vfmaq_f32(arm_load_f32x4(less, user), vreinterpretq_f32_u8(v), by);
}

enum { Q4_K_QUADS = 2 }; /* of rows at a time: they share the loads of activations */

/* dot[quad][0] and [1]: the products of two sub-blocks, whose 32 bytes are at byte `at` of four blocks. smmla leaves half of its
 * result unused where there is one token; here that half does the work of the shifts that nibbles need. A byte is lo + 16 * hi,
 * lo of column k of A, hi of column k of B:
 *     sum of lo * A                       and       sum of byte * B - sum of lo * B = 16 * sum of hi * B
 * are one smmla of the masked bytes with [A, -B] and one usmmla of the bytes as they are with [0, B]. */
ARM_INLINE void dot_64(float32x4_t dot[Q4_K_QUADS][2], const uint8_t *row[Q4_K_QUADS][4], size_t at, const pair64 *x)
{
    /* 1.5 * 2^23 and 1.5 * 2^19, where the lowest bit counts 1/16 */
    static const float32x4_t start = {12582912.0f, 786432.0f, 12582912.0f, 786432.0f};
    int32x4_t sum[Q4_K_QUADS][2];
    ARM_UNROLL
    for (size_t half = 0; half < 2; half++) {
        int8x16_t q[4];
        for (size_t e = 0; e < 4; e++) q[e] = vld1q_s8(x->q[2 * half + e / 2][e % 2]);
        ARM_UNROLL
        for (size_t quad = 0; quad < Q4_K_QUADS; quad++)
            ARM_UNROLL
            for (size_t i = 0; i < 2; i++) {
                uint64x2_t r0 = vreinterpretq_u64_u8(vld1q_u8(row[quad][2 * i] + at + half * 16));
                uint64x2_t r1 = vreinterpretq_u64_u8(vld1q_u8(row[quad][2 * i + 1] + at + half * 16));
                uint8x16_t bytes[2] = {vreinterpretq_u8_u64(vzip1q_u64(r0, r1)), vreinterpretq_u8_u64(vzip2q_u64(r0, r1))};
                int32x4_t s;
                if (half != 0) s = sum[quad][i];
                else s = vreinterpretq_s32_f32(arm_load_f32x4(&start, vreinterpretq_f32_u64(r0)));
                ARM_UNROLL
                for (size_t e = 0; e < 2; e++) {
                    int8x16_t lo = vreinterpretq_s8_u8(vandq_u8(bytes[e], vdupq_n_u8(15)));
                    s = vmmlaq_s32(s, lo, q[2 * e]);
                    s = vusmmlaq_s32(s, bytes[e], q[2 * e + 1]);
                }
                sum[quad][i] = s;
            }
    }
    for (size_t quad = 0; quad < Q4_K_QUADS; quad++) {
        int32x4_t s0 = sum[quad][0], s1 = sum[quad][1];
        dot[quad][0] = vsubq_f32(vreinterpretq_f32_s32(vuzp1q_s32(s0, s1)), vdupq_n_f32(start[0]));
        dot[quad][1] = vsubq_f32(vreinterpretq_f32_s32(vuzp2q_s32(s0, s1)), vdupq_n_f32(start[1]));
    }
}

static void matvec_q4_k(float *y, const void *w, size_t row_bytes, const void *act, size_t n_rows, size_t n_cols,
                        const void *next)
{
    (void)next;
    for (size_t r = 0; r < n_rows; r += 4 * Q4_K_QUADS) {
        const pair64 *pair = (const pair64 *)(const void *)((const uint8_t *)act + pairs_at(n_cols));
        arm_act x = arm_act_row(act, n_cols);
        float32x4_t acc[Q4_K_QUADS];
        const uint8_t *row[Q4_K_QUADS][4];
        for (size_t quad = 0; quad < Q4_K_QUADS; quad++) {
            acc[quad] = vdupq_n_f32(0.0f);
            arm_four_rows(w, row_bytes, r + 4 * quad, n_rows, row[quad]);
        }
        for (size_t b = 0; b < n_cols / 256; b++) {
            q4_k_scales s[Q4_K_QUADS];
            for (size_t quad = 0; quad < Q4_K_QUADS; quad++) load_q4_k_scales(&s[quad], row[quad]);
            ARM_UNROLL
            for (size_t p = 0; p < 4; p++, pair++) {
                float32x4_t a = vld1q_f32(x.a + p / 2 * 4), a_sum = vld1q_f32(x.a_sum32 + p / 2 * 4);
                float32x4_t dot[Q4_K_QUADS][2];
                dot_64(dot, row, 16 + p * 32, pair);
                ARM_UNROLL
                for (size_t quad = 0; quad < Q4_K_QUADS; quad++) {
                    ARM_UNROLL
                    for (size_t i = 0; i < 2; i++) {
                        const size_t g = 2 * p + i;
                        float32x4_t d = scale_times(s[quad].sc[g / 4], g % 4, s[quad].d, &s[quad].less_d, dot[quad][i]);
                        float32x4_t m = scale_times(s[quad].mn[g / 4], g % 4, s[quad].m, &s[quad].less_m, d);
                        acc[quad] = vfmaq_f32(acc[quad], dot[quad][i], arm_mul_lane(d, a, g));
                        acc[quad] = arm_fma_lane(acc[quad], m, a_sum, g);
                    }
                }
            }
            for (size_t quad = 0; quad < Q4_K_QUADS; quad++)
                for (size_t i = 0; i < 4; i++) row[quad][i] += 144;
            x.a += 8;
            x.a_sum32 += 8;
        }
        for (size_t quad = 0; quad < Q4_K_QUADS; quad++)
            if (r + 4 * quad < n_rows) arm_store_part(y + r + 4 * quad, acc[quad], n_rows - r - 4 * quad);
    }
}

ARM_BLOCK_TYPES(ARM_DEFINE_UNPACK)

void ct_kernels_init_i8mm(ct_kernels *k)
{
    ct_kernels_init_dotprod(k);
    k->name = "i8mm";
    k->act_bytes = act_bytes;
    k->quantize_act = quantize_act;
    k->matvec[CT_Q4_K] = matvec_q4_k;
    k->panel_bytes = panel_bytes;
    k->pack_panel = pack_panel;
    k->gemm_i8 = gemm_i8;
    ARM_BLOCK_TYPES(ARM_SET_UNPACK)
}
