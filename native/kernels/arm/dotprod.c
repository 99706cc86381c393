/* dotprod.c: the integer products of ARMv8.2 CPUs with sdot (Cortex-A55, A75 and later, Apple A11 and later, Neoverse N1). All
 * else is neon.c's.
 *
 * Panel: tiles of 8 rows, then sub-blocks: { f32 d[8]; f32 m[8] if has_min; codes of rows 0 … 3, codes of rows 4 … 7 }, where
 * the codes of four rows are [sub_elems/4][4 rows][4]: sdot by lane multiplies 4 rows with 4 activations of a token. */
#include "kernels/arm/arm_common.h"

enum { TILE_ROWS = 8, TILE_TOKENS = 4 };

ARM_INLINE size_t record_bytes(size_t sub_elems, bool has_min) { return TILE_ROWS * ((has_min ? 8 : 4) + sub_elems); }

static size_t panel_bytes(size_t n_cols)
{
    return ARM_PANEL_ROWS / TILE_ROWS * (n_cols / 16) * record_bytes(16, true); /* the largest records per column */
}

ARM_INLINE void put_quad(uint8_t *panel, size_t quad, size_t g, size_t n_sub, size_t sub_elems, bool has_min, int8x16_t c[4][2],
                         float32x4_t d, float32x4_t m)
{
    uint8_t *record = panel + (quad / 2 * n_sub + g) * record_bytes(sub_elems, has_min);
    uint8_t *codes = record + (has_min ? 64 : 32) + quad % 2 * 4 * sub_elems;
    vst1q_f32((float *)(void *)record + quad % 2 * 4, d);
    if (has_min) vst1q_f32((float *)(void *)record + 8 + quad % 2 * 4, m);
    for (size_t half = 0; half < sub_elems / 16; half++) {
        uint32x4_t t[4];
        for (size_t i = 0; i < 4; i++) t[i] = vreinterpretq_u32_s8(c[i][half]);
        arm_transpose(t);
        for (size_t i = 0; i < 4; i++) vst1q_u8(codes + half * 64 + i * 16, vreinterpretq_u8_u32(t[i]));
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

/* y [n_tok, 8] += the records of n_sub sub-blocks times the activations x [n_tok], which start at the first of them. */
ARM_INLINE void multiply_tile(float *y, size_t y_stride, const uint8_t *record, const arm_act x[TILE_TOKENS], size_t n_rows,
                              size_t n_sub, bool first, size_t n_tok, size_t sub_elems, bool has_min)
{
    const size_t codes_at = has_min ? 64 : 32;
    size_t n_low = n_rows < 4 ? n_rows : 4, n_high = n_rows - n_low;
    float32x4_t acc[TILE_TOKENS][2];
    for (size_t t = 0; t < n_tok; t++) {
        acc[t][0] = first ? vdupq_n_f32(0.0f) : arm_load_part(y + t * y_stride, n_low);
        acc[t][1] = first ? vdupq_n_f32(0.0f) : arm_load_part(y + t * y_stride + n_low, n_high);
    }
    for (size_t g = 0; g < n_sub; g++, record += record_bytes(sub_elems, has_min)) {
        const float *scales = (const float *)(const void *)record;
        const int8_t *w = (const int8_t *)record + codes_at;
        int32x4_t dot[TILE_TOKENS][2];
        for (size_t t = 0; t < n_tok; t++) dot[t][0] = dot[t][1] = vdupq_n_s32(ARM_MAGIC);
        ARM_UNROLL
        for (size_t half = 0; half < sub_elems / 16; half++, w += 64) {
            int8x16_t q[TILE_TOKENS];
            for (size_t t = 0; t < n_tok; t++) q[t] = vld1q_s8(x[t].q + g * sub_elems + half * 16);
#define LANE(lane)                                                                          \
    do {                                                                                    \
        int8x16_t w0 = vld1q_s8(w + (lane) * 16), w1 = vld1q_s8(w + 4 * sub_elems + (lane) * 16); \
        for (size_t t = 0; t < n_tok; t++) {                                                \
            dot[t][0] = vdotq_laneq_s32(dot[t][0], w0, q[t], lane);                         \
            dot[t][1] = vdotq_laneq_s32(dot[t][1], w1, q[t], lane);                         \
        }                                                                                   \
    } while (0)
            LANE(0);
            LANE(1);
            LANE(2);
            LANE(3);
#undef LANE
        }
        float32x4_t d0 = vld1q_f32(scales), d1 = vld1q_f32(scales + 4);
        for (size_t t = 0; t < n_tok; t++) {
            float a = x[t].a[g * sub_elems / 32];
            acc[t][0] = vfmaq_f32(acc[t][0], arm_to_float(dot[t][0]), vmulq_n_f32(d0, a));
            acc[t][1] = vfmaq_f32(acc[t][1], arm_to_float(dot[t][1]), vmulq_n_f32(d1, a));
        }
        if (has_min) {
            float32x4_t m0 = vld1q_f32(scales + 8), m1 = vld1q_f32(scales + 12);
            for (size_t t = 0; t < n_tok; t++) {
                float a_sum = sub_elems == 32 ? x[t].a_sum32[g] : x[t].a_sum16[g];
                acc[t][0] = vfmaq_n_f32(acc[t][0], m0, a_sum);
                acc[t][1] = vfmaq_n_f32(acc[t][1], m1, a_sum);
            }
        }
    }
    for (size_t t = 0; t < n_tok; t++) {
        arm_store_part(y + t * y_stride, acc[t][0], n_low);
        arm_store_part(y + t * y_stride + n_low, acc[t][1], n_high);
    }
}

ARM_INLINE void multiply(float *y, size_t y_stride, const uint8_t *panel, const uint8_t *act, size_t act_stride, size_t n_rows,
                         size_t n_cols, size_t n_tok, size_t sub_elems, bool has_min)
{
    const size_t n_sub = n_cols / sub_elems, record = record_bytes(sub_elems, has_min);
    size_t col = 0;
    do { /* once even without columns: y is written */
        size_t g0 = col / sub_elems, chunk = (n_cols - col < ARM_CHUNK_COLS ? n_cols - col : ARM_CHUNK_COLS) / sub_elems;
        for (size_t t0 = 0; t0 < n_tok; t0 += TILE_TOKENS) {
            size_t n = n_tok - t0 < TILE_TOKENS ? n_tok - t0 : TILE_TOKENS;
            arm_act x[TILE_TOKENS];
            for (size_t t = 0; t < n; t++) {
                x[t] = arm_act_row(act + (t0 + t) * act_stride, n_cols);
                x[t].a += col / 32;
                x[t].a_sum32 += col / 32;
                x[t].a_sum16 += col / 16;
                x[t].q += col;
            }
            for (size_t r = 0; r < n_rows; r += TILE_ROWS) {
                size_t rows = n_rows - r < TILE_ROWS ? n_rows - r : TILE_ROWS;
                const uint8_t *from = panel + (r / TILE_ROWS * n_sub + g0) * record;
                float *to = y + t0 * y_stride + r;
                switch (n) {
                case 4: multiply_tile(to, y_stride, from, x, rows, chunk, col == 0, 4, sub_elems, has_min); break;
                case 3: multiply_tile(to, y_stride, from, x, rows, chunk, col == 0, 3, sub_elems, has_min); break;
                case 2: multiply_tile(to, y_stride, from, x, rows, chunk, col == 0, 2, sub_elems, has_min); break;
                default: multiply_tile(to, y_stride, from, x, rows, chunk, col == 0, 1, sub_elems, has_min); break;
                }
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

static void matvec_codes(float *y, const ct_type_info *info, const void *w, size_t row_bytes, const void *act, size_t n_rows,
                         size_t n_cols)
{
    arm_matvec_codes(y, info, w, row_bytes, act, n_rows, n_cols);
}

ARM_BLOCK_TYPES(ARM_DEFINE_MATVEC)
ARM_BLOCK_TYPES(ARM_DEFINE_UNPACK)

void ct_kernels_init_dotprod(ct_kernels *k)
{
    ct_kernels_init_neon(k);
    k->name = "dotprod";
    k->panel_bytes = panel_bytes;
    k->pack_panel = pack_panel;
    k->gemm_i8 = gemm_i8;
    k->matvec_codes = matvec_codes;
    ARM_BLOCK_TYPES(ARM_SET_MATVEC)
    ARM_BLOCK_TYPES(ARM_SET_UNPACK)
}
