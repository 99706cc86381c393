/* rows_lanes.h: the quantisers themselves, written on lanes (lanes.h) and compiled once per instruction set: the including file
 * defines ROWS_TABLE, the name of its table.
 *
 * Every block type is a grid of codes under a scale d, and for some a minimum m: weight = d * code + m. For given codes the best
 * d and m are a least-squares solution; for given d and m the best code of a weight is the nearest. Neither step raises the
 * error, so a search tries a row of first scales, solves each, and goes on alternating from the best. In blocks of 256 the scales
 * of the sub-blocks are integers themselves: there the neighbours of the rounded ones are tried with their true error, and the
 * block's scale is solved for again given all codes. */
#include "quantize/lanes.h"
#include "quantize/rows.h"

#define TINY 1e-30f /* keeps divisions finite; far below what half-precision scales can tell from 0 */

enum { MAX_BLOCK = 256, MAX_GROUPS = 16 };

/* LANES blocks side by side: x[k] holds element k of each. */
typedef struct tile {
    vf x[MAX_BLOCK];
    vf w[MAX_BLOCK]; /* importances; not set without */
    vf q[MAX_BLOCK]; /* codes */
} tile;

/* ---- reading and writing tiles -------------------------------------------------------------------------------------- */

/* Number of blocks taken, at most LANES. Lanes behind them repeat the last block and are not written. */
INLINE int load_tile(const ct_rows *rows, size_t first, int n_elems, bool weighted, tile *t)
{
    int n = rows->n_blocks - first < LANES ? (int)(rows->n_blocks - first) : LANES;
    vi at = {0};
    for (int i = 0; i < LANES; i++) at[i] = (i < n ? i : n - 1) * n_elems;
    const float *x = rows->x + first * (size_t)n_elems;
    for (int k = 0; k < n_elems; k++) t->x[k] = v_gather(x + k, at);
    if (weighted) {
        for (int i = 0; i < LANES; i++) {
            size_t block = first + (size_t)(i < n ? i : n - 1);
            at[i] = (int32_t)((rows->column + block * (size_t)n_elems) % rows->n_cols);
        }
        for (int k = 0; k < n_elems; k++) t->w[k] = v_gather(rows->importance + k, at);
    }
    return n;
}

/* n_elems codes (a multiple of 4) plus `offset` as bytes of each lane: lane i's at out + i * stride. */
INLINE void store_codes(const vf *q, int n_elems, float offset, int n, uint8_t *out, size_t stride)
{
    for (int k = 0; k < n_elems; k += 4) {
        vi word = {0};
        for (int j = 0; j < 4; j++) word |= (v_int(q[k + j] + v_set(offset)) & 255) << 8 * j;
        for (int i = 0; i < n; i++) {
            int32_t one = word[i];
            memcpy(out + (size_t)i * stride + k, &one, 4);
        }
    }
}

/* 32 codes as nibbles: byte k holds code k in its low half, code 16 + k in its high half. */
INLINE void store_nibbles(const vf *q, float offset, int n, uint8_t *out, size_t stride)
{
    for (int k = 0; k < 16; k += 4) {
        vi word = {0};
        for (int j = 0; j < 4; j++)
            word |= (v_int(q[k + j] + v_set(offset)) & 15) << 8 * j | (v_int(q[16 + k + j] + v_set(offset)) & 15) << (8 * j + 4);
        for (int i = 0; i < n; i++) {
            int32_t one = word[i];
            memcpy(out + (size_t)i * stride + k, &one, 4);
        }
    }
}

/* Bit 4 of 32 codes, code k in bit k of a little-endian word. */
INLINE void store_fifth_bits(const vf *q, float offset, int n, uint8_t *out, size_t stride)
{
    vi word = {0};
    for (int k = 0; k < 32; k++) word |= (v_int(q[k] + v_set(offset)) >> 4 & 1) << k;
    for (int i = 0; i < n; i++) {
        int32_t one = word[i];
        memcpy(out + (size_t)i * stride, &one, 4);
    }
}

static void put_half(uint8_t *out, float value)
{
    uint16_t h = ct_f32_to_f16(value);
    memcpy(out, &h, sizeof h);
}

/* ---- codes ---------------------------------------------------------------------------------------------------------- */

/* The codes of a type: all integers in [low, high], or the 16 levels of IQ4. */
typedef struct grid {
    float low, high;
    bool iq4;
} grid;

static const float iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
/* Between level i and i + 1; the last is never passed. */
static const float iq4_bounds[16] = {-115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101, 1e30f};

/* Index of the nearest level, by bisection. */
INLINE vf iq4_index(vf t)
{
    vf index = v_set(0);
    for (float step = 8; step >= 1; step *= 0.5f) {
        vf bound = v_table(iq4_bounds, index + v_set(step - 1));
        index = v_choose(v_less(bound, t), index + v_set(step), index);
    }
    return index;
}

INLINE vf nearest(vf t, grid g)
{
    if (g.iq4) return v_table(iq4_levels, iq4_index(v_clamp(t, g.low, g.high)));
    return v_round(v_clamp(t, g.low, g.high));
}

/* 1 / d, or 0 where d is 0. */
INLINE vf inverse(vf d) { return v_choose(v_less(v_set(TINY), v_abs(d)), v_set(1) / d, v_set(0)); }

/* ---- symmetric types: weight = d * code ----------------------------------------------------------------------------- */

typedef struct sums {
    vf qx, qq; /* sums of w * code * x and w * code^2 */
} sums;

/* For the codes that the scale 1 / inverse_d gives. */
INLINE sums code_sums(const vf *x, const vf *w, int n, grid g, vf inverse_d, bool weighted)
{
    sums s = {v_set(0), v_set(0)};
    for (int k = 0; k < n; k++) {
        vf q = nearest(x[k] * inverse_d, g), wq = weighted ? w[k] * q : q;
        s.qx += wq * x[k];
        s.qq += wq * q;
    }
    return s;
}

/* By how much the best scale for these codes lowers the squared error, compared with all weights 0. */
INLINE vf gain_of(sums s) { return s.qx * s.qx / v_max(s.qq, v_set(TINY)); }

/* The element of the largest magnitude. */
INLINE vf top_of(const vf *x, int n)
{
    vf top = v_set(0), most = v_set(0);
    for (int k = 0; k < n; k++) {
        vf a = v_abs(x[k]);
        top = v_choose(v_less(most, a), x[k], top);
        most = v_max(a, most);
    }
    return top;
}

/* A scale for n weights. First scales put the largest element on the codes -first, -(first - step), … */
INLINE vf search_scale(const vf *x, const vf *w, int n, grid g, float first, float step, int n_first, int n_refined, bool weighted)
{
    vf top = top_of(x, n);
    vf unit = v_choose(v_less(v_set(TINY), v_abs(top)), v_set(-1) / top, v_set(0));
    vf d = v_set(0), gain = v_set(0);
    for (int i = 0; i < n_first; i++) {
        sums s = code_sums(x, w, n, g, unit * v_set(first - step * (float)i), weighted);
        vf this_gain = gain_of(s);
        vm better = v_less(gain, this_gain);
        gain = v_choose(better, this_gain, gain);
        d = v_choose(better, s.qx / v_max(s.qq, v_set(TINY)), d);
    }
    for (int i = 0; i < n_refined; i++) {
        sums s = code_sums(x, w, n, g, inverse(d), weighted);
        d = v_choose(v_less(v_set(TINY), s.qq), s.qx / v_max(s.qq, v_set(TINY)), d);
    }
    return d;
}

/* ---- symmetric blocks of 32 ----------------------------------------------------------------------------------------- */

INLINE void encode_symmetric(const vf *x, int n, grid g, vf d, vf *q)
{
    vf inverse_d = inverse(d);
    for (int k = 0; k < n; k++) q[k] = nearest(x[k] * inverse_d, g);
}

INLINE void rows_q4_0(const ct_rows *rows, bool weighted)
{
    static const grid g = {-8, 7, false};
    tile t;
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 32, weighted, &t);
        vf d = v_half(weighted ? search_scale(t.x, t.w, 32, g, 10.0f, 0.25f, 16, 2, true)
                               : search_scale(t.x, t.w, 32, g, 8.8f, 0.4f, 6, 1, false));
        encode_symmetric(t.x, 32, g, d, t.q);
        uint8_t *out = rows->blocks + b * 18;
        for (int i = 0; i < n; i++) put_half(out + i * 18, d[i]);
        store_nibbles(t.q, 8, n, out + 2, 18);
    }
}

INLINE void rows_q5_0(const ct_rows *rows, bool weighted)
{
    static const grid g = {-16, 15, false};
    tile t;
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 32, weighted, &t);
        vf d = v_half(weighted ? search_scale(t.x, t.w, 32, g, 18.0f, 0.25f, 20, 2, true)
                               : search_scale(t.x, t.w, 32, g, 16.8f, 0.4f, 8, 1, false));
        encode_symmetric(t.x, 32, g, d, t.q);
        uint8_t *out = rows->blocks + b * 22;
        for (int i = 0; i < n; i++) put_half(out + i * 22, d[i]);
        store_fifth_bits(t.q, 16, n, out + 2, 22);
        store_nibbles(t.q, 16, n, out + 6, 22);
    }
}

/* With so many codes the sums above would drown in rounding: the error itself is compared, for scales that halves can hold. */
INLINE void rows_q8_0(const ct_rows *rows, bool weighted)
{
    static const grid g = {-127, 127, false};
    enum { N_TRIED = 8 };
    tile t;
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 32, weighted, &t);
        vf most = v_abs(top_of(t.x, 32)), d = v_set(0), error = v_set(3e38f);
        for (int i = 0; i < N_TRIED; i++) {
            vf this_d = v_half(most * v_set(1 / (127.0f - 0.4f * (float)i))), inverse_d = inverse(this_d), this_error = v_set(0);
            for (int k = 0; k < 32; k++) {
                vf r = t.x[k] - this_d * nearest(t.x[k] * inverse_d, g);
                this_error += weighted ? t.w[k] * r * r : r * r;
            }
            vm better = v_less(this_error, error);
            error = v_choose(better, this_error, error);
            d = v_choose(better, this_d, d);
        }
        encode_symmetric(t.x, 32, g, d, t.q);
        uint8_t *out = rows->blocks + b * 34;
        for (int i = 0; i < n; i++) put_half(out + i * 34, d[i]);
        store_codes(t.q, 32, 0, n, out + 2, 34);
    }
}

/* Level indices in place of the levels. */
INLINE void encode_iq4(const vf *x, int n, vf d, vf *q)
{
    vf inverse_d = inverse(d);
    for (int k = 0; k < n; k++) q[k] = iq4_index(v_clamp(x[k] * inverse_d, -127, 113));
}

INLINE void rows_iq4_nl(const ct_rows *rows, bool weighted)
{
    static const grid g = {-127, 113, true};
    tile t;
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 32, weighted, &t);
        vf d = v_half(search_scale(t.x, t.w, 32, g, 139, 4, 16, 2, weighted));
        vf other = v_half(search_scale(t.x, t.w, 32, g, -126, -4, 8, 2, weighted));
        vf gain = gain_of(code_sums(t.x, t.w, 32, g, inverse(d), weighted));
        vf other_gain = gain_of(code_sums(t.x, t.w, 32, g, inverse(other), weighted));
        d = v_choose(v_less(gain, other_gain), other, d);
        encode_iq4(t.x, 32, d, t.q);
        uint8_t *out = rows->blocks + b * 18;
        for (int i = 0; i < n; i++) put_half(out + i * 18, d[i]);
        store_nibbles(t.q, 0, n, out + 2, 18);
    }
}

/* ---- blocks of 32 with a minimum ------------------------------------------------------------------------------------ */

typedef struct line {
    vf d, m; /* weight = d * code + m */
} line;

/* Scale and minimum for n weights with codes 0 … high. First scales spread the weights over `first`, first + step, … codes.
 * below_0: the minimum may not be positive, and the largest weight counts as no less than 0 with it. */
INLINE line search_line(const vf *x, const vf *w, int n, float high, float first, float step, int n_first, int n_refined,
                        bool below_0, bool weighted)
{
    const grid g = {0, high, false};
    vf least = x[0], most = x[0];
    for (int k = 1; k < n; k++) {
        least = v_min(x[k], least);
        most = v_max(x[k], most);
    }
    if (below_0) least = v_min(least, v_set(0));
    vf range = most - least, unit = inverse(range);
    /* sums over y = x - least: about the range in size, whatever the minimum */
    vf sw = v_set((float)n), sy = v_set(0);
    if (weighted) sw = v_set(0);
    for (int k = 0; k < n; k++) {
        if (weighted) sw += w[k];
        sy += weighted ? w[k] * (x[k] - least) : x[k] - least;
    }
    vf d = v_set(0), m = v_set(0), gain = v_set(-1), try_inverse = v_set(0), try_m = v_set(0);
    for (int i = 0; i < n_first + n_refined; i++) {
        if (i < n_first) {
            try_inverse = unit * v_set(first + step * (float)i);
        } else {
            try_inverse = inverse(d);
            try_m = m;
        }
        vf sq = v_set(0), sqq = v_set(0), sqy = v_set(0);
        for (int k = 0; k < n; k++) {
            vf y = x[k] - least, q = nearest((y - try_m) * try_inverse, g), wq = weighted ? w[k] * q : q;
            sq += wq;
            sqq += wq * q;
            sqy += wq * y;
        }
        vf det = sw * sqq - sq * sq;
        vm solvable = v_less(sw * sqq * v_set(1e-6f), det);
        vf inverse_det = v_set(1) / v_choose(solvable, det, v_set(1));
        vf this_d = (sw * sqy - sq * sy) * inverse_det, this_m = (sqq * sy - sq * sqy) * inverse_det;
        vf flat_d = sqy / v_max(sqq, v_set(TINY)); /* the minimum stays where it is */
        this_d = v_choose(solvable, this_d, flat_d);
        this_m = v_choose(solvable, this_m, v_set(0));
        if (below_0) { /* m = least + this_m <= 0 */
            vf bound = -least;
            vm over = v_less(bound, this_m);
            this_d = v_choose(over, (sqy - bound * sq) / v_max(sqq, v_set(TINY)), this_d);
            this_m = v_choose(over, bound, this_m);
        }
        vf this_gain = v_set(2) * (this_d * sqy + this_m * sy) - this_d * this_d * sqq - v_set(2) * this_d * this_m * sq -
                       this_m * this_m * sw;
        vm better = v_less(gain, this_gain);
        gain = v_choose(better, this_gain, gain);
        d = v_choose(better, this_d, d);
        m = v_choose(better, this_m, m);
    }
    return (line){d, m + least};
}

INLINE void encode_line(const vf *x, int n, float high, vf d, vf m, vf *q)
{
    const grid g = {0, high, false};
    vf inverse_d = inverse(d);
    for (int k = 0; k < n; k++) q[k] = nearest((x[k] - m) * inverse_d, g);
}

INLINE void rows_q4_1(const ct_rows *rows, bool weighted)
{
    tile t;
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 32, weighted, &t);
        line l = weighted ? search_line(t.x, t.w, 32, 15, 13.0f, 0.4f, 12, 3, false, true)
                          : search_line(t.x, t.w, 32, 15, 14.2f, 0.8f, 3, 1, false, false);
        vf d = v_half(l.d), m = v_half(l.m);
        encode_line(t.x, 32, 15, d, m, t.q);
        uint8_t *out = rows->blocks + b * 20;
        for (int i = 0; i < n; i++) {
            put_half(out + i * 20, d[i]);
            put_half(out + i * 20 + 2, m[i]);
        }
        store_nibbles(t.q, 0, n, out + 4, 20);
    }
}

INLINE void rows_q5_1(const ct_rows *rows, bool weighted)
{
    tile t;
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 32, weighted, &t);
        line l = weighted ? search_line(t.x, t.w, 32, 31, 28.0f, 0.375f, 15, 3, false, true)
                          : search_line(t.x, t.w, 32, 31, 30.0f, 0.5f, 4, 1, false, false);
        vf d = v_half(l.d), m = v_half(l.m);
        encode_line(t.x, 32, 31, d, m, t.q);
        uint8_t *out = rows->blocks + b * 24;
        for (int i = 0; i < n; i++) {
            put_half(out + i * 24, d[i]);
            put_half(out + i * 24 + 2, m[i]);
        }
        store_fifth_bits(t.q, 0, n, out + 4, 24);
        store_nibbles(t.q, 0, n, out + 8, 24);
    }
}

/* ---- symmetric blocks of 256: weight = d * scale * code ------------------------------------------------------------- */

typedef struct super {
    vf d;                 /* of the block, a half */
    vf scale[MAX_GROUPS]; /* integers */
} super;

/* n_groups sub-blocks of n weights; scales in [low_scale, -low_scale - 1]. Each scale is sought among the 2 * reach + 1 integers
 * around the ideal one, with its true error. */
INLINE super search_super(const vf *x, const vf *w, int n, int n_groups, grid g, const vf *ideal, float low_scale, int reach,
                          int n_rounds, bool weighted)
{
    super s;
    vf top = top_of(ideal, n_groups);
    s.d = v_half(top * v_set(1 / low_scale));
    vf target[MAX_GROUPS];
    for (int i = 0; i < n_groups; i++) target[i] = ideal[i];
    for (int round = 0; round < n_rounds; round++) {
        vf inverse_d = inverse(s.d), qx = v_set(0), qq = v_set(0);
        for (int i = 0; i < n_groups; i++) {
            vf middle = v_round(v_clamp(target[i] * inverse_d, low_scale, -low_scale - 1));
            vf error = v_set(3e38f), best_qx = v_set(0), best_qq = v_set(0);
            s.scale[i] = v_set(0);
            for (int step = -reach; step <= reach; step++) {
                vf scale = v_clamp(middle + v_set((float)step), low_scale, -low_scale - 1), d = s.d * scale;
                sums now = code_sums(x + i * n, w + i * n, n, g, inverse(d), weighted);
                vf this_error = d * (d * now.qq - v_set(2) * now.qx);
                vm better = v_less(this_error, error);
                error = v_choose(better, this_error, error);
                s.scale[i] = v_choose(better, scale, s.scale[i]);
                best_qx = v_choose(better, now.qx, best_qx);
                best_qq = v_choose(better, now.qq, best_qq);
            }
            qx += s.scale[i] * best_qx;
            qq += s.scale[i] * s.scale[i] * best_qq;
            target[i] = s.d * s.scale[i];
        }
        vf better_d = v_half(v_choose(v_less(v_set(TINY), qq), qx / v_max(qq, v_set(TINY)), s.d));
        s.d = better_d;
    }
    return s;
}

/* 256 codes, from 0 up, of each lane, and the integers of its sub-blocks: what is packed. */
typedef struct unpacked {
    uint8_t codes[LANES * MAX_BLOCK];
    float scale[MAX_GROUPS][LANES], min[MAX_GROUPS][LANES];
} unpacked;

static void pack_q6_k(const uint8_t *codes, uint8_t *out)
{
    for (int half = 0; half < 2; half++, codes += 128) {
        uint8_t *low = out + 64 * half, *high = out + 128 + 32 * half;
        for (int k = 0; k < 32; k++) {
            low[k] = (uint8_t)((codes[k] & 15) | (codes[64 + k] & 15) << 4);
            low[32 + k] = (uint8_t)((codes[32 + k] & 15) | (codes[96 + k] & 15) << 4);
            high[k] = (uint8_t)(codes[k] >> 4 | codes[32 + k] >> 4 << 2 | codes[64 + k] >> 4 << 4 | codes[96 + k] >> 4 << 6);
        }
    }
}

INLINE void rows_q6_k(const ct_rows *rows, bool weighted)
{
    static const grid g = {-32, 31, false};
    tile t;
    unpacked u;
    vf ideal[16];
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 256, weighted, &t);
        for (int i = 0; i < 16; i++)
            ideal[i] = search_scale(t.x + 16 * i, t.w + 16 * i, 16, g, 32.8f, 0.4f, 5, 0, weighted);
        super s = search_super(t.x, t.w, 16, 16, g, ideal, -128, 6, 2, weighted);
        for (int i = 0; i < 16; i++) {
            encode_symmetric(t.x + 16 * i, 16, g, s.d * s.scale[i], t.q + 16 * i);
            memcpy(u.scale[i], &s.scale[i], sizeof s.scale[i]);
        }
        store_codes(t.q, 256, 32, n, u.codes, MAX_BLOCK);
        for (int i = 0; i < n; i++) {
            uint8_t *out = rows->blocks + (b + (size_t)i) * 210;
            pack_q6_k(u.codes + MAX_BLOCK * i, out);
            for (int j = 0; j < 16; j++) out[192 + j] = (uint8_t)(int8_t)u.scale[j][i];
            put_half(out + 208, s.d[i]);
        }
    }
}

/* Two bits of each of 256 codes: 32 bytes hold four runs of 32, lowest bits first. */
static void pack_2_bits(const uint8_t *codes, uint8_t *out)
{
    for (int half = 0; half < 2; half++, codes += 128, out += 32)
        for (int k = 0; k < 32; k++)
            out[k] = (uint8_t)((codes[k] & 3) | (codes[32 + k] & 3) << 2 | (codes[64 + k] & 3) << 4 | (codes[96 + k] & 3) << 6);
}

/* { u8 hmask[32]; u8 qs[64]; u8 scales[12]; f16 d }: bit r of hmask[k] is the third bit of element k of run r of 32. Of the 16
 * scales plus 32, bytes 0-7 hold the low four bits (0-7 low halves, 8-15 high), bytes 8-11 the upper two: scale j in bits
 * 2 * (j / 4) of byte 8 + j % 4. */
static void pack_q3_k(const uint8_t *codes, const uint8_t *scales, uint8_t *out)
{
    memset(out, 0, 32);
    for (int run = 0; run < 8; run++)
        for (int k = 0; k < 32; k++) out[k] = (uint8_t)(out[k] | codes[32 * run + k] >> 2 << run);
    pack_2_bits(codes, out + 32);
    memset(out + 96, 0, 12);
    for (int j = 0; j < 16; j++) {
        out[96 + j % 8] = (uint8_t)(out[96 + j % 8] | (scales[j] & 15) << (j / 8 * 4));
        out[104 + j % 4] = (uint8_t)(out[104 + j % 4] | scales[j] >> 4 << (j / 4 * 2));
    }
}

INLINE void rows_q3_k(const ct_rows *rows, bool weighted)
{
    static const grid g = {-4, 3, false};
    tile t;
    unpacked u;
    vf ideal[16];
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 256, weighted, &t);
        for (int i = 0; i < 16; i++)
            ideal[i] = search_scale(t.x + 16 * i, t.w + 16 * i, 16, g, 5.0f, 0.25f, 10, 1, weighted);
        super s = search_super(t.x, t.w, 16, 16, g, ideal, -32, 3, 3, weighted);
        for (int i = 0; i < 16; i++) {
            encode_symmetric(t.x + 16 * i, 16, g, s.d * s.scale[i], t.q + 16 * i);
            memcpy(u.scale[i], &s.scale[i], sizeof s.scale[i]);
        }
        store_codes(t.q, 256, 4, n, u.codes, MAX_BLOCK);
        for (int i = 0; i < n; i++) {
            uint8_t *out = rows->blocks + (b + (size_t)i) * 110, scales[16];
            for (int j = 0; j < 16; j++) scales[j] = (uint8_t)((int)u.scale[j][i] + 32);
            pack_q3_k(u.codes + MAX_BLOCK * i, scales, out);
            put_half(out + 108, s.d[i]);
        }
    }
}

/* { f16 d; u16 scales_h; u8 scales_l[4]; u8 qs[128] }: eight scales plus 32, the low four bits as nibbles, the upper two in scales_h */
INLINE void rows_iq4_xs(const ct_rows *rows, bool weighted)
{
    static const grid g = {-127, 113, true};
    tile t;
    unpacked u;
    vf ideal[8];
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 256, weighted, &t);
        for (int i = 0; i < 8; i++) {
            const vf *x = t.x + 32 * i, *w = t.w + 32 * i;
            ideal[i] = search_scale(x, w, 32, g, 139, 4, 16, 1, weighted);
        }
        super s = search_super(t.x, t.w, 32, 8, g, ideal, -32, 2, 3, weighted);
        uint8_t *first = rows->blocks + b * 136;
        for (int i = 0; i < 8; i++) {
            encode_iq4(t.x + 32 * i, 32, s.d * s.scale[i], t.q + 32 * i);
            memcpy(u.scale[i], &s.scale[i], sizeof s.scale[i]);
            store_nibbles(t.q + 32 * i, 0, n, first + 8 + 16 * i, 136);
        }
        for (int i = 0; i < n; i++) {
            uint8_t *out = first + 136 * i;
            unsigned high = 0;
            put_half(out, s.d[i]);
            memset(out + 4, 0, 4);
            for (int j = 0; j < 8; j++) {
                unsigned scale = (unsigned)((int)u.scale[j][i] + 32);
                high |= scale >> 4 << 2 * j;
                out[4 + j / 2] = (uint8_t)(out[4 + j / 2] | (scale & 15) << (j % 2 * 4));
            }
            out[2] = (uint8_t)high;
            out[3] = (uint8_t)(high >> 8);
        }
    }
}

/* ---- blocks of 256 with minima: weight = d * scale * code - dmin * min ---------------------------------------------- */

typedef struct super_line {
    vf d, dmin;                            /* of the block, halves, not negative */
    vf scale[MAX_GROUPS], min[MAX_GROUPS]; /* integers in [0, most] */
} super_line;

INLINE vf line_error(const vf *x, const vf *w, int n, grid g, vf d, vf m, bool weighted)
{
    vf inverse_d = inverse(d), error = v_set(0);
    for (int k = 0; k < n; k++) {
        vf y = x[k] - m, r = y - d * nearest(y * inverse_d, g);
        error += weighted ? w[k] * r * r : r * r;
    }
    return error;
}

/* Given block scales: the best integers for every sub-block around the ideal lines. Returns the block's error. */
INLINE vf fit_lines(const vf *x, const vf *w, int n, int n_groups, grid g, const line *ideal, float most, int reach, super_line *s,
                    bool weighted)
{
    vf inverse_d = inverse(s->d), inverse_dmin = inverse(s->dmin), total = v_set(0);
    for (int i = 0; i < n_groups; i++) {
        vf scale0 = v_round(v_clamp(ideal[i].d * inverse_d, 0, most)), min0 = v_round(v_clamp(-ideal[i].m * inverse_dmin, 0, most));
        vf error = v_set(3e38f);
        s->scale[i] = s->min[i] = v_set(0);
        for (int a = -reach; a <= reach; a++)
            for (int c = -reach; c <= reach; c++) {
                vf scale = v_clamp(scale0 + v_set((float)a), 0, most), min = v_clamp(min0 + v_set((float)c), 0, most);
                vf e = line_error(x + i * n, w + i * n, n, g, s->d * scale, -(s->dmin * min), weighted);
                vm better = v_less(e, error);
                error = v_choose(better, e, error);
                s->scale[i] = v_choose(better, scale, s->scale[i]);
                s->min[i] = v_choose(better, min, s->min[i]);
            }
        total += error;
    }
    return total;
}

/* The best d and dmin for the codes and integers at hand. */
INLINE void solve_super_line(const vf *x, const vf *w, int n, int n_groups, grid g, super_line *s, bool weighted)
{
    vf qq = v_set(0), qm = v_set(0), mm = v_set(0), qx = v_set(0), mx = v_set(0);
    for (int i = 0; i < n_groups; i++) {
        vf d = s->d * s->scale[i], m = -(s->dmin * s->min[i]), inverse_d = inverse(d);
        vf sq = v_set(0), sqq = v_set(0), sqx = v_set(0), sx = v_set(0), sw = v_set(0);
        for (int k = 0; k < n; k++) {
            vf y = x[i * n + k], q = nearest((y - m) * inverse_d, g), wk = weighted ? w[i * n + k] : v_set(1), wq = wk * q;
            sq += wq;
            sqq += wq * q;
            sqx += wq * y;
            sx += wk * y;
            sw += wk;
        }
        qq += s->scale[i] * s->scale[i] * sqq;
        qm += s->scale[i] * s->min[i] * sq;
        mm += s->min[i] * s->min[i] * sw;
        qx += s->scale[i] * sqx;
        mx += s->min[i] * sx;
    }
    /* x = d * qx - dmin * mx: [qq -qm; -qm mm] [d dmin] = [qx -mx] */
    vf det = qq * mm - qm * qm;
    vm solvable = v_less(qq * mm * v_set(1e-5f), det);
    vf inverse_det = v_set(1) / v_choose(solvable, det, v_set(1));
    vf d = (mm * qx - qm * mx) * inverse_det, dmin = (qm * qx - qq * mx) * inverse_det;
    vm positive = v_less(v_set(0), v_min(d, dmin));
    d = v_choose(solvable, v_choose(positive, d, s->d), s->d);
    dmin = v_choose(solvable, v_choose(positive, dmin, s->dmin), s->dmin);
    /* no minima at all: only d is left */
    vm alone = v_less(mm, v_set(TINY)), some = v_less(v_set(TINY), qq);
    d = v_choose(alone, v_choose(some, qx / v_max(qq, v_set(TINY)), s->d), d);
    s->d = v_half(v_max(d, v_set(0)));
    s->dmin = v_half(v_max(dmin, v_set(0)));
}

INLINE super_line search_super_line(const vf *x, const vf *w, int n, int n_groups, float high, const line *ideal, float most,
                                    int reach, int n_starts, float start_step, int n_rounds, bool weighted)
{
    const grid g = {0, high, false};
    super_line best;
    vf error = v_set(3e38f), most_d = v_set(0), most_m = v_set(0);
    for (int i = 0; i < n_groups; i++) {
        most_d = v_max(ideal[i].d, most_d);
        most_m = v_max(-ideal[i].m, most_m);
        best.scale[i] = best.min[i] = v_set(0);
    }
    best.d = best.dmin = v_set(0);
    for (int start = 0; start < n_starts; start++) {
        super_line s;
        line target[MAX_GROUPS];
        for (int i = 0; i < n_groups; i++) target[i] = ideal[i];
        vf shrink = v_set((1 - start_step * (float)start) / most);
        s.d = v_half(most_d * shrink);
        s.dmin = v_half(most_m * shrink);
        for (int round = 0; round < n_rounds; round++) {
            vf this_error = fit_lines(x, w, n, n_groups, g, target, most, reach, &s, weighted);
            vm better = v_less(this_error, error);
            error = v_choose(better, this_error, error);
            best.d = v_choose(better, s.d, best.d);
            best.dmin = v_choose(better, s.dmin, best.dmin);
            for (int i = 0; i < n_groups; i++) {
                best.scale[i] = v_choose(better, s.scale[i], best.scale[i]);
                best.min[i] = v_choose(better, s.min[i], best.min[i]);
                target[i].d = s.d * s.scale[i];
                target[i].m = -(s.dmin * s.min[i]);
            }
            if (round + 1 < n_rounds) {
                solve_super_line(x, w, n, n_groups, g, &s, weighted);
                /* the integers stay: targets move with the scales */
                for (int i = 0; i < n_groups; i++) {
                    target[i].d = s.d * s.scale[i];
                    target[i].m = -(s.dmin * s.min[i]);
                }
            }
        }
    }
    return best;
}

INLINE void encode_super_line(tile *t, int n, int n_groups, float high, const super_line *s, unpacked *u, int n_blocks)
{
    for (int i = 0; i < n_groups; i++) {
        encode_line(t->x + n * i, n, high, s->d * s->scale[i], -(s->dmin * s->min[i]), t->q + n * i);
        memcpy(u->scale[i], &s->scale[i], sizeof s->scale[i]);
        memcpy(u->min[i], &s->min[i], sizeof s->min[i]);
    }
    store_codes(t->q, 256, 0, n_blocks, u->codes, MAX_BLOCK);
}

/* Eight 6-bit scales and minima in 12 bytes, as types.c reads them. */
static void pack_k_scales(const uint8_t scale[8], const uint8_t min[8], uint8_t out[12])
{
    for (int j = 0; j < 4; j++) {
        out[j] = (uint8_t)(scale[j] | scale[4 + j] >> 4 << 6);
        out[4 + j] = (uint8_t)(min[j] | min[4 + j] >> 4 << 6);
        out[8 + j] = (uint8_t)((scale[4 + j] & 15) | (min[4 + j] & 15) << 4);
    }
}

INLINE void rows_q4_k(const ct_rows *rows, bool weighted)
{
    tile t;
    unpacked u;
    line ideal[8];
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 256, weighted, &t);
        for (int i = 0; i < 8; i++)
            ideal[i] = search_line(t.x + 32 * i, t.w + 32 * i, 32, 15, 13.4f, 0.4f, 8, 2, true, weighted);
        super_line s = search_super_line(t.x, t.w, 32, 8, 15, ideal, 63, 2, 1, 0, 2, weighted);
        encode_super_line(&t, 32, 8, 15, &s, &u, n);
        for (int i = 0; i < n; i++) {
            uint8_t *out = rows->blocks + (b + (size_t)i) * 144, scale[8], min[8];
            const uint8_t *codes = u.codes + MAX_BLOCK * i;
            for (int j = 0; j < 8; j++) {
                scale[j] = (uint8_t)u.scale[j][i];
                min[j] = (uint8_t)u.min[j][i];
            }
            put_half(out, s.d[i]);
            put_half(out + 2, s.dmin[i]);
            pack_k_scales(scale, min, out + 4);
            for (int j = 0; j < 4; j++)
                for (int k = 0; k < 32; k++)
                    out[16 + 32 * j + k] = (uint8_t)(codes[64 * j + k] | codes[64 * j + 32 + k] << 4);
        }
    }
}

INLINE void rows_q5_k(const ct_rows *rows, bool weighted)
{
    tile t;
    unpacked u;
    line ideal[8];
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 256, weighted, &t);
        for (int i = 0; i < 8; i++)
            ideal[i] = search_line(t.x + 32 * i, t.w + 32 * i, 32, 31, 29.0f, 0.5f, 7, 2, true, weighted);
        super_line s = search_super_line(t.x, t.w, 32, 8, 31, ideal, 63, 2, 1, 0, 2, weighted);
        encode_super_line(&t, 32, 8, 31, &s, &u, n);
        for (int i = 0; i < n; i++) {
            uint8_t *out = rows->blocks + (b + (size_t)i) * 176, scale[8], min[8];
            const uint8_t *codes = u.codes + MAX_BLOCK * i;
            for (int j = 0; j < 8; j++) {
                scale[j] = (uint8_t)u.scale[j][i];
                min[j] = (uint8_t)u.min[j][i];
            }
            put_half(out, s.d[i]);
            put_half(out + 2, s.dmin[i]);
            pack_k_scales(scale, min, out + 4);
            memset(out + 16, 0, 32);
            for (int j = 0; j < 8; j++)
                for (int k = 0; k < 32; k++) out[16 + k] = (uint8_t)(out[16 + k] | codes[32 * j + k] >> 4 << j);
            for (int j = 0; j < 4; j++)
                for (int k = 0; k < 32; k++)
                    out[48 + 32 * j + k] = (uint8_t)((codes[64 * j + k] & 15) | (codes[64 * j + 32 + k] & 15) << 4);
        }
    }
}

/* { u8 scales[16]; u8 qs[64]; f16 d, dmin }: a byte of scales holds scale (low half) and minimum (high half) */
INLINE void rows_q2_k(const ct_rows *rows, bool weighted)
{
    tile t;
    unpacked u;
    line ideal[16];
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 256, weighted, &t);
        for (int i = 0; i < 16; i++)
            ideal[i] = search_line(t.x + 16 * i, t.w + 16 * i, 16, 3, 2.2f, 0.2f, 12, 2, true, weighted);
        super_line s = search_super_line(t.x, t.w, 16, 16, 3, ideal, 15, 1, 3, 0.08f, 3, weighted);
        encode_super_line(&t, 16, 16, 3, &s, &u, n);
        for (int i = 0; i < n; i++) {
            uint8_t *out = rows->blocks + (b + (size_t)i) * 84;
            for (int j = 0; j < 16; j++) out[j] = (uint8_t)((int)u.scale[j][i] | (int)u.min[j][i] << 4);
            pack_2_bits(u.codes + MAX_BLOCK * i, out + 16);
            put_half(out + 80, s.d[i]);
            put_half(out + 82, s.dmin[i]);
        }
    }
}

/* ---- ternary: weight = d * {-1, 0, 1} ------------------------------------------------------------------------------- */

typedef struct ternary {
    vf gain, d;
} ternary;

/* Codes are the signs of what exceeds the bound. */
INLINE ternary try_bound(const vf *x, const vf *w, vf bound, bool weighted)
{
    vf sum = v_set(0), count = v_set(0);
    for (int k = 0; k < 256; k++) {
        vf a = v_abs(x[k]), wk = weighted ? w[k] : v_set(1);
        vm above = v_less(bound, a);
        sum += v_choose(above, weighted ? wk * a : a, v_set(0));
        count += v_choose(above, wk, v_set(0));
    }
    vf d = sum / v_max(count, v_set(TINY));
    return (ternary){sum * d, d};
}

INLINE vf search_ternary(const vf *x, const vf *w, bool weighted)
{
    static const float first[] = {0.5f, 0.65f, 0.8f, 0.95f, 1.15f};
    enum { N_FIRST = sizeof first / sizeof first[0], N_REFINED = 3 };
    vf mean = v_set(0), most = v_abs(top_of(x, 256));
    for (int k = 0; k < 256; k++) mean += v_abs(x[k]);
    mean = mean * v_set(1.0f / 256);
    ternary best = try_bound(x, w, most * v_set(0.5f), weighted); /* exact for weights that are ternary already */
    for (int i = 0; i < N_FIRST + N_REFINED; i++) {
        ternary now = try_bound(x, w, i < N_FIRST ? mean * v_set(first[i]) : best.d * v_set(0.5f), weighted);
        vm better = v_less(best.gain, now.gain);
        best.gain = v_choose(better, now.gain, best.gain);
        best.d = v_choose(better, now.d, best.d);
    }
    return v_half(best.d);
}

INLINE void rows_tq2_0(const ct_rows *rows, bool weighted)
{
    static const grid g = {-1, 1, false};
    tile t;
    unpacked u;
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 256, weighted, &t);
        vf d = search_ternary(t.x, t.w, weighted);
        encode_symmetric(t.x, 256, g, d, t.q);
        store_codes(t.q, 256, 1, n, u.codes, MAX_BLOCK);
        for (int i = 0; i < n; i++) {
            uint8_t *out = rows->blocks + (b + (size_t)i) * 66;
            pack_2_bits(u.codes + MAX_BLOCK * i, out);
            put_half(out + 64, d[i]);
        }
    }
}

/* A byte's five codes are the digits of a base-3 fraction of 256, the first one the most significant. */
static uint8_t trits(unsigned number) { return (uint8_t)((number * 256 + 242) / 243); }

/* { u8 qs[48]; u8 qh[4]; f16 d }: bytes 0-31 hold elements k + 32 * digit, 32-47 elements 160 + k + 16 * digit, qh 240 + k + 4 * digit
 * with the last digit 0 */
static void pack_tq1_0(const uint8_t *codes, uint8_t *out)
{
    for (int k = 0; k < 52; k++) {
        int first = k < 32 ? k : k < 48 ? 160 + k - 32 : 240 + k - 48, stride = k < 32 ? 32 : k < 48 ? 16 : 4;
        unsigned number = 0;
        for (int digit = 0; digit < 5; digit++)
            number = number * 3 + (k < 48 || digit < 4 ? codes[first + stride * digit] : 0u);
        out[k] = trits(number);
    }
}

INLINE void rows_tq1_0(const ct_rows *rows, bool weighted)
{
    static const grid g = {-1, 1, false};
    tile t;
    unpacked u;
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 256, weighted, &t);
        vf d = search_ternary(t.x, t.w, weighted);
        encode_symmetric(t.x, 256, g, d, t.q);
        store_codes(t.q, 256, 1, n, u.codes, MAX_BLOCK);
        for (int i = 0; i < n; i++) {
            uint8_t *out = rows->blocks + (b + (size_t)i) * 54;
            pack_tq1_0(u.codes + MAX_BLOCK * i, out);
            put_half(out + 52, d[i]);
        }
    }
}

/* ---- MXFP4: weight = 2^(e - 127) * {0, 0.5, 1, 1.5, 2, 3, 4, 6} ------------------------------------------------------ */

/* Magnitude of the nearest value, for a >= 0. */
INLINE vf nearest_fp4(vf a)
{
    vf small = v_round(v_min(a, v_set(4)) * v_set(2)) * v_set(0.5f), middle = v_round(v_min(a, v_set(8)));
    vf large = v_round(v_min(a, v_set(6)) * v_set(0.5f)) * v_set(2);
    return v_choose(v_less(a, v_set(2)), small, v_choose(v_less(a, v_set(4)), middle, large));
}

/* { u8 e; u8 qs[16] }: nibbles of a sign bit and the index of a magnitude */
INLINE void rows_mxfp4(const ct_rows *rows, bool weighted)
{
    tile t;
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, 32, weighted, &t);
        vi top = (vi)v_abs(top_of(t.x, 32)) >> 23; /* its exponent */
        vf best_e = v_set(0), best_unit = v_set(0), error = v_set(3e38f);
        for (int i = 0; i < 3; i++) { /* the largest weight in [4, 8), [2, 4) and [8, 16) units */
            vf e = v_clamp(__builtin_convertvector(top, vf) + v_set(i == 0 ? -2 : i == 1 ? -1 : -3), 2, 252);
            vf scale = (vf)(v_int(e) << 23), unit = (vf)((254 - v_int(e)) << 23), this_error = v_set(0);
            for (int k = 0; k < 32; k++) {
                vf a = v_abs(t.x[k]), r = a - nearest_fp4(a * unit) * scale;
                this_error += weighted ? t.w[k] * r * r : r * r;
            }
            vm better = v_less(this_error, error);
            error = v_choose(better, this_error, error);
            best_e = v_choose(better, e, best_e);
            best_unit = v_choose(better, unit, best_unit);
        }
        for (int k = 0; k < 32; k++) {
            vf v = nearest_fp4(v_abs(t.x[k] * best_unit));
            /* 0 0.5 1 1.5 2 3 4 6 -> 0 … 7 */
            vf index = v_choose(v_less(v, v_set(2.5f)), v * v_set(2), v_choose(v_less(v, v_set(4.5f)), v + v_set(2), v_set(7)));
            vf negative = v_choose(v_less(t.x[k], v_set(0)), v_set(8), v_set(0));
            t.q[k] = index + v_choose(v_less(v_set(0), v), negative, v_set(0));
        }
        uint8_t *out = rows->blocks + b * 17;
        for (int i = 0; i < n; i++) out[i * 17] = (uint8_t)best_e[i];
        store_nibbles(t.q, 0, n, out + 1, 17);
    }
}

/* ---- points --------------------------------------------------------------------------------------------------------- */

#include "quantize/rows_points.h"

/* ---- plain types ---------------------------------------------------------------------------------------------------- */

static void rows_f32(const ct_rows *rows)
{
    if (rows->n_blocks > 0) memcpy(rows->blocks, rows->x, rows->n_blocks * sizeof *rows->x);
}

static void rows_f16(const ct_rows *rows)
{
    size_t i = 0;
#if defined(__AVX512F__)
    for (; i + 16 <= rows->n_blocks; i += 16) {
        __m256i h = _mm512_cvtps_ph(_mm512_loadu_ps(rows->x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        memcpy(rows->blocks + 2 * i, &h, sizeof h);
    }
#elif defined(__AVX2__)
    for (; i + 8 <= rows->n_blocks; i += 8) {
        __m128i h = _mm256_cvtps_ph(_mm256_loadu_ps(rows->x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        memcpy(rows->blocks + 2 * i, &h, sizeof h);
    }
#endif
    for (; i < rows->n_blocks; i++) put_half(rows->blocks + 2 * i, rows->x[i]);
}

/* Rounds to nearest even; what would become infinity stays the largest finite value. */
static void rows_bf16(const ct_rows *rows)
{
    enum { RUN = 64 };
    for (size_t i = 0; i < rows->n_blocks; i += RUN) {
        uint32_t bits[RUN] = {0};
        uint16_t halves[RUN];
        size_t n = rows->n_blocks - i < RUN ? rows->n_blocks - i : RUN;
        memcpy(bits, rows->x + i, n * sizeof *bits);
        for (int k = 0; k < RUN; k++) {
            uint32_t rounded = (bits[k] + 0x7fff + (bits[k] >> 16 & 1)) >> 16;
            halves[k] = (uint16_t)(rounded - ((rounded & 0x7fff) == 0x7f80));
        }
        memcpy(rows->blocks + 2 * i, halves, n * sizeof *halves);
    }
}

/* ---- the table ------------------------------------------------------------------------------------------------------ */

#define BOTH(name)                                            \
    static void name##_any(const ct_rows *rows)               \
    {                                                         \
        if (rows->importance != NULL) name(rows, true);       \
        else name(rows, false);                               \
    }
BOTH(rows_q4_0)
BOTH(rows_q4_1)
BOTH(rows_q5_0)
BOTH(rows_q5_1)
BOTH(rows_q8_0)
BOTH(rows_iq4_nl)
BOTH(rows_mxfp4)
BOTH(rows_q2_k)
BOTH(rows_q3_k)
BOTH(rows_q4_k)
BOTH(rows_q5_k)
BOTH(rows_q6_k)
BOTH(rows_iq4_xs)
BOTH(rows_tq1_0)
BOTH(rows_tq2_0)

const ct_rows_fn ROWS_TABLE[CT_N_TYPES] = {
    [CT_F32] = rows_f32,
    [CT_F16] = rows_f16,
    [CT_BF16] = rows_bf16,
    [CT_Q4_0] = rows_q4_0_any,
    [CT_Q4_1] = rows_q4_1_any,
    [CT_Q5_0] = rows_q5_0_any,
    [CT_Q5_1] = rows_q5_1_any,
    [CT_Q8_0] = rows_q8_0_any,
    [CT_IQ4_NL] = rows_iq4_nl_any,
    [CT_MXFP4] = rows_mxfp4_any,
    [CT_Q2_K] = rows_q2_k_any,
    [CT_Q3_K] = rows_q3_k_any,
    [CT_Q4_K] = rows_q4_k_any,
    [CT_Q5_K] = rows_q5_k_any,
    [CT_Q6_K] = rows_q6_k_any,
    [CT_IQ4_XS] = rows_iq4_xs_any,
    [CT_IQ2_XXS] = rows_iq2_xxs,
    [CT_IQ2_XS] = rows_iq2_xs,
    [CT_IQ2_S] = rows_iq2_s,
    [CT_IQ3_XXS] = rows_iq3_xxs,
    [CT_IQ3_S] = rows_iq3_s,
    [CT_TQ1_0] = rows_tq1_0_any,
    [CT_TQ2_0] = rows_tq2_0_any,
};
