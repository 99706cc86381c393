/* rows_points.h: the IQ2 and IQ3 types, part of rows_lanes.h. Four or eight magnitudes at a time are a point of a list; signs are kept
 * apart. The nearest point is found by looking at all of them: the cost of a point is the sum of two numbers from tables, one for each
 * half of its elements, so that a point takes an addition and a comparison. */
#include "gguf/iq_grids.h"

enum { MAX_POINTS = 1024, MAX_DIMS = 8, MAX_HALF = 256 };

typedef struct points {
    int n, dims, n_levels, bits; /* bits: of an element in `point` */
    float level[8];
    uint16_t point[MAX_POINTS];  /* the first element in the lowest bits */
} points;

#define PUT_POINT(p) p,
static const points points_iq2_xxs = {256, 8, 3, 2, {8, 25, 43}, {IQ2_XXS_GRID(PUT_POINT)}};
static const points points_iq2_xs = {512, 8, 3, 2, {8, 25, 43}, {IQ2_XS_GRID(PUT_POINT)}};
static const points points_iq2_s = {1024, 8, 3, 2, {8, 25, 43}, {IQ2_S_GRID(PUT_POINT)}};
static const points points_iq3_xxs = {256, 4, 8, 3, {4, 12, 20, 28, 36, 44, 52, 62}, {IQ3_XXS_GRID(PUT_POINT)}};
static const points points_iq3_s = {512, 4, 8, 3, {1, 3, 5, 7, 9, 11, 13, 15}, {IQ3_S_GRID(PUT_POINT)}};

/* What a type is made of: points, sub-blocks of `group` elements with weights = d * unit * (2 * s + 1) * level, s < 16, and whether
 * the number of minus signs among eight elements must be even. */
typedef struct point_type {
    const points *points;
    int group;
    float unit;
    bool even_signs;
    float first, step; /* first scales put the largest element on the levels first, first * step, … */
    int n_first;
} point_type;

/* Costs of half a point: element i on level l costs w * level * (level - 2 * t), the squared error without what is common to all. */
INLINE void half_costs(const points *p, const vf *t, const vf *w, int n_elems, bool weighted, vf costs[MAX_HALF])
{
    vf one[MAX_DIMS / 2][8];
    for (int i = 0; i < n_elems; i++)
        for (int l = 0; l < p->n_levels; l++) {
            vf level = v_set(p->level[l]), cost = level * (level - (t[i] + t[i]));
            one[i][l] = weighted ? w[i] * cost : cost;
        }
    if (p->bits == 3) {
        for (int b = 0; b < 8; b++)
            for (int a = 0; a < 8; a++) costs[b << 3 | a] = one[0][a] + one[1][b];
        return;
    }
    for (int b = 0; b < 3; b++)
        for (int a = 0; a < 3; a++) {
            vf low = one[0][a] + one[1][b];
            for (int d = 0; d < 3; d++)
                for (int c = 0; c < 3; c++) costs[d << 6 | c << 4 | b << 2 | a] = low + (one[2][c] + one[3][d]);
        }
}

/* Index of the point nearest to t [dims]. */
INLINE vf nearest_point(const points *p, const vf *t, const vf *w, bool weighted)
{
    vf low[MAX_HALF], high[MAX_HALF];
    const int half = p->dims / 2, shift = half * p->bits, mask = (1 << shift) - 1;
    half_costs(p, t, w, half, weighted, low);
    half_costs(p, t + half, w + half, half, weighted, high);
    enum { STRANDS = 4 }; /* minima of their own, so that one comparison need not wait for the last */
    vf least[STRANDS], index[STRANDS], at[STRANDS];
    for (int j = 0; j < STRANDS; j++) {
        least[j] = v_set(3e38f);
        index[j] = at[j] = v_set((float)j);
    }
    for (int i = 0; i < p->n; i += STRANDS)
        for (int j = 0; j < STRANDS; j++) {
            vf cost = low[p->point[i + j] & mask] + high[p->point[i + j] >> shift];
            index[j] = v_choose(v_less(cost, least[j]), at[j], index[j]);
            least[j] = v_min(cost, least[j]);
            at[j] += v_set(STRANDS);
        }
    for (int j = 1; j < STRANDS; j++) {
        index[0] = v_choose(v_less(least[j], least[0]), index[j], index[0]);
        least[0] = v_min(least[j], least[0]);
    }
    return index[0];
}

/* Level of element `i` of each lane's point. */
INLINE vf level_of(const points *p, vf index, int i)
{
    vi which = v_int(index);
    vf level;
    for (int lane = 0; lane < LANES; lane++) level[lane] = p->level[p->point[which[lane]] >> i * p->bits & ((1 << p->bits) - 1)];
    return level;
}

/* As code_sums, for magnitudes v. Not inlined: it is most of the work, and large. */
static __attribute__((noinline)) sums point_sums(const points *p, const vf *v, const vf *w, int n, vf inverse_d, bool weighted, vf *index)
{
    sums s = {v_set(0), v_set(0)};
    for (int k = 0; k < n; k += p->dims) {
        vf t[MAX_DIMS];
        for (int i = 0; i < p->dims; i++) t[i] = v[k + i] * inverse_d;
        vf nearest_index = weighted ? nearest_point(p, t, w + k, true) : nearest_point(p, t, w, false);
        for (int i = 0; i < p->dims; i++) {
            vf level = level_of(p, nearest_index, i), wl = weighted ? w[k + i] * level : level;
            s.qx += wl * v[k + i];
            s.qq += wl * level;
        }
        if (index != NULL) index[k / p->dims] = nearest_index;
    }
    return s;
}

typedef struct pointed {
    vf d;                      /* of the block, a half */
    vf scale[MAX_GROUPS];      /* s, of each sub-block */
    vf index[MAX_BLOCK / 4];
    vf signs[MAX_BLOCK / 8];   /* bit k: element k of eight is negative */
} pointed;

/* Magnitudes in place of the weights; where signs must be even and are not, the element that counts least gets the wrong one, and a
 * negative magnitude. */
INLINE void take_signs(tile *t, bool even, bool weighted, vf signs[MAX_BLOCK / 8])
{
    for (int g = 0; g < MAX_BLOCK / 8; g++) {
        vf *x = t->x + 8 * g, bits = v_set(0), count = v_set(0), least = v_set(3e38f), which = v_set(0);
        const vf *w = t->w + 8 * g;
        for (int k = 0; k < 8; k++) {
            vm negative = v_less(x[k], v_set(0));
            vf a = v_abs(x[k]), cost = weighted ? w[k] * a : a;
            bits += v_choose(negative, v_set((float)(1 << k)), v_set(0));
            count += v_choose(negative, v_set(1), v_set(0));
            which = v_choose(v_less(cost, least), v_set((float)k), which);
            least = v_min(cost, least);
            x[k] = a;
        }
        if (even) {
            vm odd = v_less(v_set(0.5f), v_abs(count - v_round(count * v_set(0.5f)) * v_set(2)));
            for (int k = 0; k < 8; k++) {
                vm here = v_less(v_abs(which - v_set((float)k)), v_set(0.5f));
                vf flip = v_choose(odd, v_choose(here, v_set(1), v_set(0)), v_set(0));
                vm flipped = v_less(v_set(0.5f), flip);
                vi bit = v_int(bits) ^ v_int(flip * v_set((float)(1 << k)));
                bits = __builtin_convertvector(bit, vf);
                x[k] = v_choose(flipped, -x[k], x[k]);
            }
        }
        signs[g] = bits;
    }
}

static __attribute__((noinline)) void search_points(tile *t, const point_type *type, bool weighted, pointed *out)
{
    const points *p = type->points;
    const int n = type->group, n_groups = MAX_BLOCK / n;
    vf target[MAX_GROUPS], most = v_set(0);
    take_signs(t, type->even_signs, weighted, out->signs);
    for (int g = 0; g < n_groups; g++) {
        const vf *x = t->x + n * g, *w = t->w + n * g;
        vf unit = inverse(v_abs(top_of(x, n))), d = v_set(0), gain = v_set(0);
        float first = type->first;
        for (int i = 0; i < type->n_first; i++, first *= type->step) {
            sums s = point_sums(p, x, w, n, unit * v_set(first), weighted, NULL);
            vf this_gain = v_choose(v_less(v_set(0), s.qx), gain_of(s), v_set(0));
            vm better = v_less(gain, this_gain);
            gain = v_choose(better, this_gain, gain);
            d = v_choose(better, s.qx / v_max(s.qq, v_set(TINY)), d);
        }
        target[g] = d;
        most = v_max(d, most);
    }
    out->d = v_half(most * v_set(1 / (31 * type->unit)));
    enum { N_ROUNDS = 1 };
    for (int round = 0; round < N_ROUNDS; round++) {
        vf unit = out->d * v_set(type->unit), inverse_unit = inverse(unit), qx = v_set(0), qq = v_set(0);
        for (int g = 0; g < n_groups; g++) {
            const vf *x = t->x + n * g, *w = t->w + n * g;
            vf middle = v_round(v_clamp((target[g] * inverse_unit - v_set(1)) * v_set(0.5f), 0, 15));
            vf error = v_set(3e38f), best_qx = v_set(0), best_qq = v_set(0);
            out->scale[g] = v_set(0);
            for (int step = -1; step <= 1; step++) {
                vf scale = v_clamp(middle + v_set((float)step), 0, 15), odd = scale + scale + v_set(1), d = unit * odd;
                sums s = point_sums(p, x, w, n, inverse(d), weighted, NULL);
                vf this_error = d * (d * s.qq - v_set(2) * s.qx);
                vm better = v_less(this_error, error);
                error = v_choose(better, this_error, error);
                out->scale[g] = v_choose(better, scale, out->scale[g]);
                best_qx = v_choose(better, s.qx * odd, best_qx);
                best_qq = v_choose(better, s.qq * odd * odd, best_qq);
            }
            qx += best_qx;
            qq += best_qq;
            target[g] = unit * (out->scale[g] + out->scale[g] + v_set(1));
        }
        vf better_d = qx / v_max(qq * v_set(type->unit), v_set(TINY));
        out->d = v_half(v_max(v_choose(v_less(v_set(TINY), qq), better_d, out->d), v_set(0)));
    }
    for (int g = 0; g < n_groups; g++) {
        vf d = out->d * v_set(type->unit) * (out->scale[g] + out->scale[g] + v_set(1));
        (void)point_sums(p, t->x + n * g, t->w + n * g, n, inverse(d), weighted, out->index + n / p->dims * g);
    }
}

static const point_type type_iq2_xxs = {&points_iq2_xxs, 32, 0.125f, true, 44, 1.2f, 4};
static const point_type type_iq2_xs = {&points_iq2_xs, 16, 0.125f, true, 40, 1.18f, 4};
static const point_type type_iq2_s = {&points_iq2_s, 16, 0.125f, false, 40, 1.18f, 4};
static const point_type type_iq3_xxs = {&points_iq3_xxs, 32, 0.25f, true, 54, 1.13f, 4};
static const point_type type_iq3_s = {&points_iq3_s, 32, 1.0f, false, 13.0f, 1.13f, 4};

static void put_u32(uint8_t *out, uint32_t value) { memcpy(out, &value, sizeof value); }

/* Four times seven sign bits, and the scale on top. */
static void put_signs(uint8_t *out, const pointed *s, int group, int lane)
{
    uint32_t word = (uint32_t)s->scale[group][lane] << 28;
    for (int i = 0; i < 4; i++) word |= ((uint32_t)s->signs[4 * group + i][lane] & 127) << 7 * i;
    put_u32(out, word);
}

static void put_scale_nibbles(uint8_t *out, const pointed *s, int n_groups, int lane)
{
    for (int g = 0; g < n_groups; g += 2) out[g / 2] = (uint8_t)((int)s->scale[g][lane] | (int)s->scale[g + 1][lane] << 4);
}

static void pack_iq2_xxs(const pointed *s, int lane, uint8_t *out)
{
    for (int g = 0; g < 8; g++) {
        for (int i = 0; i < 4; i++) out[2 + 8 * g + i] = (uint8_t)s->index[4 * g + i][lane];
        put_signs(out + 2 + 8 * g + 4, s, g, lane);
    }
}

static void pack_iq2_xs(const pointed *s, int lane, uint8_t *out)
{
    for (int i = 0; i < 32; i++) {
        unsigned v = (unsigned)s->index[i][lane] | ((unsigned)s->signs[i][lane] & 127) << 9;
        out[2 + 2 * i] = (uint8_t)v;
        out[3 + 2 * i] = (uint8_t)(v >> 8);
    }
    put_scale_nibbles(out + 66, s, 16, lane);
}

static void pack_iq2_s(const pointed *s, int lane, uint8_t *out)
{
    memset(out + 66, 0, 8);
    for (int i = 0; i < 32; i++) {
        unsigned index = (unsigned)s->index[i][lane];
        out[2 + i] = (uint8_t)index;
        out[34 + i] = (uint8_t)s->signs[i][lane];
        out[66 + i / 4] = (uint8_t)(out[66 + i / 4] | index >> 8 << 2 * (i % 4));
    }
    put_scale_nibbles(out + 74, s, 16, lane);
}

static void pack_iq3_xxs(const pointed *s, int lane, uint8_t *out)
{
    for (int i = 0; i < 64; i++) out[2 + i] = (uint8_t)s->index[i][lane];
    for (int g = 0; g < 8; g++) put_signs(out + 66 + 4 * g, s, g, lane);
}

static void pack_iq3_s(const pointed *s, int lane, uint8_t *out)
{
    memset(out + 66, 0, 8);
    for (int i = 0; i < 64; i++) {
        unsigned index = (unsigned)s->index[i][lane];
        out[2 + i] = (uint8_t)index;
        out[66 + i / 8] = (uint8_t)(out[66 + i / 8] | index >> 8 << i % 8);
    }
    for (int i = 0; i < 32; i++) out[74 + i] = (uint8_t)s->signs[i][lane];
    put_scale_nibbles(out + 106, s, 8, lane);
}

INLINE void rows_of_points(const ct_rows *rows, const point_type *type, size_t block_bytes, void (*pack)(const pointed *, int, uint8_t *))
{
    tile t;
    pointed s;
    bool weighted = rows->importance != NULL;
    for (size_t b = 0; b < rows->n_blocks; b += LANES) {
        int n = load_tile(rows, b, MAX_BLOCK, weighted, &t);
        search_points(&t, type, weighted, &s);
        for (int i = 0; i < n; i++) {
            uint8_t *out = rows->blocks + (b + (size_t)i) * block_bytes;
            put_half(out, s.d[i]);
            pack(&s, i, out);
        }
    }
}

static void rows_iq2_xxs(const ct_rows *rows) { rows_of_points(rows, &type_iq2_xxs, 66, pack_iq2_xxs); }
static void rows_iq2_xs(const ct_rows *rows) { rows_of_points(rows, &type_iq2_xs, 74, pack_iq2_xs); }
static void rows_iq2_s(const ct_rows *rows) { rows_of_points(rows, &type_iq2_s, 82, pack_iq2_s); }
static void rows_iq3_xxs(const ct_rows *rows) { rows_of_points(rows, &type_iq3_xxs, 98, pack_iq3_xxs); }
static void rows_iq3_s(const ct_rows *rows) { rows_of_points(rows, &type_iq3_s, 110, pack_iq3_s); }
