/* test_kernels.c: every kernel set against scalar.c, with ==, and scalar.c against float64 within bounds that follow from the
 * number of roundings. Inputs end right before an unreadable page, outputs too; rows of weights sit at odd multiples of two
 * bytes; what a kernel must not write holds canaries. */
#include <float.h>

#include "gguf/types.h"
#include "kernels/kernels.h"
#include "tests/test.h"

enum { MAX_SETS = 8 };

static const float EPS = 0x1p-24f;               /* relative error of one rounding of a float32 */
static const uint32_t CANARY = 0x7fc0deadu;      /* a NaN, so that reading it shows, too */

/* ---- the sets ------------------------------------------------------------------------------------------------------ */

/* The set that ct_kernels_available() names behind `previous` (NULL: the first), or NULL. */
static const ct_kernels *next_set(const ct_kernels *previous)
{
    static const ct_kernels *sets[MAX_SETS];
    static size_t n_sets;
    char names[256];
    if (n_sets == 0) {
        snprintf(names, sizeof names, "%s", ct_kernels_available());
        for (char *rest = names, *name; (name = strtok_r(rest, " ", &rest)) != NULL && n_sets < MAX_SETS;) {
            const ct_kernels *k = ct_kernels_get(name);
            if (CHECK_MSG(k != NULL, "the set %s is listed but cannot be had", name)) sets[n_sets++] = k;
        }
    }
    size_t i = 0;
    while (previous != NULL && i < n_sets && sets[i] != previous) i++;
    i += previous != NULL;
    return i < n_sets ? sets[i] : NULL;
}

#define FOR_SETS(k) for (const ct_kernels *k = next_set(NULL); k != NULL; k = next_set(k))

static const ct_kernels *scalar(void) { return ct_kernels_get("scalar"); }

/* ---- buffers ------------------------------------------------------------------------------------------------------- */

static float float_of(uint32_t bits)
{
    union { uint32_t u; float f; } v = {bits};
    return v.f;
}

static uint32_t bits_of(float f)
{
    union { float f; uint32_t u; } v = {f};
    return v.u;
}

/* n floats before an unreadable page, all canaries */
static test_guarded floats_alloc(size_t n)
{
    test_guarded g = test_guarded_alloc(n * sizeof(float));
    for (size_t i = 0; i < n; i++) memcpy(g.data + i * sizeof CANARY, &CANARY, sizeof CANARY);
    return g;
}

static float *floats(const test_guarded *g) { return (float *)(void *)g->data; }
static uint16_t *halfs(const test_guarded *g) { return (uint16_t *)(void *)g->data; }
static int8_t *codes(const test_guarded *g) { return (int8_t *)g->data; }

/* n_bytes, rounded up to a multiple of 64, starting on one and ending before an unreadable page; all bits set */
static test_guarded aligned_alloc_guarded(size_t n_bytes)
{
    size_t n = (n_bytes + 63) / 64 * 64;
    test_guarded g = test_guarded_alloc(n);
    memset(g.data, 0xff, n);
    return g;
}

static test_guarded floats_copy(const float *x, size_t n)
{
    test_guarded g = test_guarded_alloc(n * sizeof(float));
    if (n > 0) memcpy(g.data, x, n * sizeof(float));
    return g;
}

static void *must_alloc(size_t n, size_t size)
{
    void *p = calloc(n > 0 ? n : 1, size);
    if (p == NULL) {
        fprintf(stderr, "test: no memory\n");
        exit(2);
    }
    return p;
}

static bool same(float a, float b) { return a == b; }

static float max_float(float a, float b) { return a > b ? a : b; }

/* ---- data ---------------------------------------------------------------------------------------------------------- */

enum { X_UNIFORM, X_EXTREME, X_SPARSE, X_OUTLIER, X_WIDE, N_X_KINDS };

static void fill_x(test_rng *rng, float *x, size_t n, int kind)
{
    float scale = ldexpf(1.0f, (int)test_below(rng, 9) - 4);
    for (size_t i = 0; i < n; i++) {
        float u = test_uniform(rng) * scale;
        switch (kind) {
        case X_EXTREME: x[i] = test_below(rng, 2) ? scale : -scale; break; /* every quantised value is 127 or -127 */
        case X_SPARSE: x[i] = i / 32 % 3 == 0 ? 0.0f : i / 32 % 3 == 1 ? u * 1e-31f : u; break;
        case X_OUTLIER: x[i] = i % 37 == 5 ? u * 1000.0f : u; break;
        case X_WIDE: x[i] = ldexpf(u, (int)test_below(rng, 60) - 30); break;
        default: x[i] = u;
        }
    }
}

/* Where the blocks of a type keep their half-precision scales; SIZE_MAX: none, its scales may be any bytes. */
typedef struct scale_fields {
    ct_type type;
    size_t d, m;
} scale_fields;

static const scale_fields scales_of[] = {
    {CT_Q4_0, 0, SIZE_MAX},  {CT_Q4_1, 0, 2},         {CT_Q5_0, 0, SIZE_MAX},   {CT_Q5_1, 0, 2},
    {CT_Q8_0, 0, SIZE_MAX},  {CT_Q2_K, 80, 82},       {CT_Q3_K, 108, SIZE_MAX}, {CT_Q4_K, 0, 2},
    {CT_Q5_K, 0, 2},         {CT_Q6_K, 208, SIZE_MAX}, {CT_IQ4_NL, 0, SIZE_MAX}, {CT_IQ4_XS, 0, SIZE_MAX},
    {CT_TQ1_0, 52, SIZE_MAX}, {CT_TQ2_0, 64, SIZE_MAX}, {CT_IQ1_S, 0, SIZE_MAX},
    {CT_IQ1_M, SIZE_MAX, SIZE_MAX}, {CT_IQ2_XXS, 0, SIZE_MAX}, {CT_IQ2_XS, 0, SIZE_MAX}, {CT_IQ2_S, 0, SIZE_MAX},
    {CT_IQ3_XXS, 0, SIZE_MAX}, {CT_IQ3_S, 0, SIZE_MAX}, {CT_MXFP4, SIZE_MAX, SIZE_MAX}, {CT_NVFP4, SIZE_MAX, SIZE_MAX},
    {CT_Q1_0, 0, SIZE_MAX}, {CT_Q2_0, 0, SIZE_MAX},
};

enum { W_RANDOM, W_ZEROS, W_ONES, W_MINIMUM, W_SUBNORMAL, W_ZERO_SCALE, N_W_KINDS };

static uint16_t random_scale(test_rng *rng, int kind)
{
    uint16_t sign = (uint16_t)(test_below(rng, 2) << 15), fraction = (uint16_t)test_below(rng, 1024);
    if (kind == W_ZERO_SCALE && test_below(rng, 2)) return sign;
    if (kind == W_SUBNORMAL) return (uint16_t)(sign | fraction);
    return (uint16_t)(sign | (3 + test_below(rng, 12)) << 10 | fraction); /* 2^-12 … 1 */
}

/* One row of random blocks; everything but the scales is random bytes or one byte all over. */
static void fill_row(test_rng *rng, uint8_t *row, const ct_type_info *info, const scale_fields *fields, size_t n_cols, int kind)
{
    size_t n_blocks = n_cols / info->block_elems;
    for (size_t b = 0; b < n_blocks; b++, row += info->block_bytes) {
        for (size_t i = 0; i < info->block_bytes; i++)
            row[i] = kind == W_ZEROS     ? 0
                     : kind == W_ONES    ? 0xff
                     : kind == W_MINIMUM ? 0x80
                                         : (uint8_t)test_u64(rng);
        uint16_t d = random_scale(rng, kind), m = random_scale(rng, kind);
        if (fields->type == CT_MXFP4) row[0] = (uint8_t)(kind == W_SUBNORMAL ? d % 4 : 100 + d % 40); /* or 2^-28 … 2^12 */
        if (fields->type == CT_IQ1_M) /* four bits in each of four words */
            for (size_t i = 0; i < 4; i++) row[49 + 2 * i] = (uint8_t)((row[49 + 2 * i] & 15) | (d >> 4 * i & 15) << 4);
        if (fields->d != SIZE_MAX) memcpy(row + fields->d, &d, sizeof d);
        if (fields->m != SIZE_MAX) memcpy(row + fields->m, &m, sizeof m);
    }
}

/* ---- the sets as a whole ------------------------------------------------------------------------------------------- */

TEST(sets_are_complete)
{
    const ct_kernels *best = ct_kernels_get(NULL);
    size_t n = 0;
    CHECK(ct_kernels_get("no such set") == NULL);
    CHECK(ct_kernels_get("") == best);
    if (!CHECK(scalar() != NULL)) return;
    FOR_SETS(k) {
        if (n++ == 0) CHECK_STR(best->name, k->name);
        CHECK(ct_kernels_get(k->name) == k);
        CHECK(k->act_bytes && k->quantize_act && k->panel_bytes && k->pack_panel && k->gemm_i8 && k->gemm_f32);
        CHECK(k->f16_to_f32 && k->bf16_to_f32 && k->f32_to_f16 && k->quantize_kv && k->rms_norm && k->silu_mul && k->add && k->scale);
        CHECK(k->max_index && k->softmax_stats && k->attend_f16 && k->attend_f32 && k->attend_i8);
        CHECK(k->panel_rows > 0);
        for (size_t n_cols = 32; n_cols <= 4096; n_cols += 32) {
            CHECK(k->act_bytes(n_cols) % 64 == 0);
            CHECK(k->act_bytes(n_cols) >= n_cols);
            CHECK(k->panel_bytes(n_cols) >= k->panel_rows * n_cols);
        }
        for (uint32_t type = 0; type < CT_N_TYPES; type++) {
            const ct_type_info *info = ct_type_get(type);
            bool computable = info != NULL && info->decode_f32 != NULL, codes = computable && info->decode_codes != NULL;
            CHECK_MSG(codes || k->unpack[type] == NULL, "%s unpacks type %u, which has no codes", k->name, type);
            CHECK_MSG(computable || k->matvec[type] == NULL, "%s multiplies type %u, which has no values", k->name, type);
        }
    }
    printf("[%s] ", ct_kernels_available());
}

/* ---- integer products ---------------------------------------------------------------------------------------------- */

/* A product and its result by scalar.c. For synthetic codes w is NULL. */
typedef struct int_case {
    char label[96];
    ct_type type;
    size_t n_rows, n_cols, n_tok, sub_elems, n_sub;
    bool has_min;
    const uint8_t *w; /* n_rows rows, row_bytes apart */
    size_t row_bytes;
    int8_t *codes;    /* [n_rows, n_cols] */
    float *d, *m;     /* [n_rows, n_sub] */
    float *x;         /* [n_tok, n_cols] */
    float *want;      /* [n_tok, n_rows] */
} int_case;

static void int_case_alloc(int_case *c)
{
    c->n_sub = c->n_cols / c->sub_elems;
    c->codes = must_alloc(c->n_rows * c->n_cols, 1);
    c->d = must_alloc(c->n_rows * c->n_sub, sizeof(float));
    c->m = must_alloc(c->n_rows * c->n_sub, sizeof(float));
    c->x = must_alloc(c->n_tok * c->n_cols, sizeof(float));
    c->want = must_alloc(c->n_tok * c->n_rows, sizeof(float));
}

static void int_case_free(int_case *c)
{
    free(c->codes);
    free(c->d);
    free(c->m);
    free(c->x);
    free(c->want);
}

/* Quantised rows of c->x, in k's layout, act_stride apart. */
static test_guarded quantize_rows(const ct_kernels *k, const int_case *c, size_t *act_stride)
{
    test_guarded x = floats_copy(c->x, c->n_tok * c->n_cols);
    *act_stride = k->act_bytes(c->n_cols) + 64 * (c->n_rows % 2);
    size_t n_bytes = c->n_tok > 0 ? (c->n_tok - 1) * *act_stride + k->act_bytes(c->n_cols) : 0;
    test_guarded act = aligned_alloc_guarded(n_bytes);
    for (size_t t = 0; t < c->n_tok; t++) k->quantize_act(act.data + t * *act_stride, floats(&x) + t * c->n_cols, c->n_cols);
    test_guarded_free(&x);
    return act;
}

/* y of `n_tok` rows of n_rows, y_stride apart, has the wanted values and untouched canaries between them. */
static void check_y(const ct_kernels *k, const int_case *c, const char *how, const float *y, size_t y_stride)
{
    for (size_t t = 0; t < c->n_tok; t++)
        for (size_t r = 0; r < (t + 1 < c->n_tok ? y_stride : c->n_rows); r++) {
            float got = y[t * y_stride + r];
            if (r >= c->n_rows) {
                if (CHECK_MSG(bits_of(got) == CANARY, "%s %s, %s: wrote behind token %zu", k->name, how, c->label, t))
                    continue;
                return;
            }
            float want = c->want[t * c->n_rows + r];
            if (!CHECK_MSG(same(got, want), "%s %s, %s: row %zu of token %zu is %.9g, not %.9g", k->name, how, c->label, r, t,
                           (double)got, (double)want))
                return;
        }
}

/* All ways in which set k computes the case, against c->want. */
static void check_set(const ct_kernels *k, const int_case *c)
{
    size_t act_stride, y_stride = c->n_rows + c->n_cols / 32 % 3, R = k->panel_rows;
    size_t n_y = c->n_tok > 0 ? (c->n_tok - 1) * y_stride + c->n_rows : 0;
    test_guarded act = quantize_rows(k, c, &act_stride);
    for (int unpacked = 0; unpacked < 2; unpacked++) {
        if (unpacked && (c->w == NULL || k->unpack[c->type] == NULL)) continue;
        test_guarded y = floats_alloc(n_y);
        for (size_t r = 0; r < c->n_rows; r += R) {
            size_t n = c->n_rows - r < R ? c->n_rows - r : R;
            test_guarded panel = aligned_alloc_guarded(k->panel_bytes(c->n_cols));
            if (unpacked)
                k->unpack[c->type](panel.data, c->w + r * c->row_bytes, c->row_bytes, n, c->n_cols);
            else
                k->pack_panel(panel.data, c->codes + r * c->n_cols, c->d + r * c->n_sub,
                              c->has_min ? c->m + r * c->n_sub : NULL, n, c->n_cols, c->sub_elems, c->has_min);
            k->gemm_i8(floats(&y) + r, y_stride, panel.data, act.data, act_stride, n, c->n_cols, c->n_tok, c->sub_elems,
                       c->has_min);
            if (n > 1 && r == 0) { /* fewer rows than the panel has: the same values again */
                k->gemm_i8(floats(&y), y_stride, panel.data, act.data, act_stride, n - 1, c->n_cols, c->n_tok, c->sub_elems,
                           c->has_min);
            }
            test_guarded_free(&panel);
        }
        check_y(k, c, unpacked ? "unpack + gemm_i8" : "pack_panel + gemm_i8", floats(&y), y_stride);
        test_guarded_free(&y);
    }
    if (c->w != NULL && k->matvec[c->type] != NULL) {
        test_guarded y = floats_alloc(c->n_tok * c->n_rows);
        for (size_t t = 0; t < c->n_tok; t++) {
            test_guarded y1 = floats_alloc(c->n_rows);
            k->matvec[c->type](floats(&y1), c->w, c->row_bytes, act.data + t * act_stride, c->n_rows, c->n_cols,
                                t % 2 == 0 ? NULL : act.data); /* a hint changes nothing */
            if (c->n_rows > 0) memcpy(floats(&y) + t * c->n_rows, y1.data, c->n_rows * sizeof(float));
            test_guarded_free(&y1);
        }
        check_y(k, c, "matvec", floats(&y), c->n_rows);
        test_guarded_free(&y);
    }
    if (c->w != NULL && k->matvec_codes != NULL) {
        test_guarded y = floats_alloc(c->n_tok * c->n_rows);
        for (size_t t = 0; t < c->n_tok; t++) {
            test_guarded y1 = floats_alloc(c->n_rows);
            k->matvec_codes(floats(&y1), ct_type_get(c->type), c->w, c->row_bytes, act.data + t * act_stride, c->n_rows, c->n_cols);
            if (c->n_rows > 0) memcpy(floats(&y) + t * c->n_rows, y1.data, c->n_rows * sizeof(float));
            test_guarded_free(&y1);
        }
        check_y(k, c, "matvec_codes", floats(&y), c->n_rows);
        test_guarded_free(&y);
    }
    if (c->w != NULL && k->matmul_few[c->type] != NULL && c->n_tok <= k->few_tokens) {
        test_guarded y = floats_alloc(n_y);
        k->matmul_few[c->type](floats(&y), y_stride, c->w, c->row_bytes, act.data, act_stride, c->n_rows, c->n_cols, c->n_tok, NULL);
        check_y(k, c, "matmul_few", floats(&y), y_stride);
        test_guarded_free(&y);
    }
    test_guarded_free(&act);
}

/* c->want from scalar.c, and that against float64 over the decoded weights w32 [n_rows, n_cols] (NULL: d * code + m). */
static void reference(int_case *c, const float *w32)
{
    const ct_kernels *k = scalar();
    size_t act_stride;
    test_guarded act = quantize_rows(k, c, &act_stride), panel = aligned_alloc_guarded(k->panel_bytes(c->n_cols));
    for (size_t r = 0; r < c->n_rows; r++) {
        const float *d = c->d + r * c->n_sub, *m = c->m + r * c->n_sub;
        const int8_t *codes = c->codes + r * c->n_cols;
        k->pack_panel(panel.data, codes, d, m, 1, c->n_cols, c->sub_elems, c->has_min);
        k->gemm_i8(c->want + r, c->n_rows, panel.data, act.data, act_stride, 1, c->n_cols, c->n_tok, c->sub_elems, c->has_min);
    }
    test_guarded_free(&act);
    test_guarded_free(&panel);
    double *a = must_alloc(c->n_cols, sizeof(double));
    for (size_t t = 0; t < c->n_tok; t++) {
        for (size_t b = 0; b < c->n_cols; b += 32) { /* the definition of quantised activations, and what they stand for */
            const float *x = c->x + t * c->n_cols + b;
            float amax = 0.0f;
            for (size_t i = 0; i < 32; i++) amax = max_float(amax, x[i] < 0 ? -x[i] : x[i]);
            float scale = amax < 1e-30f ? 0.0f : amax / 127.0f, inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
            for (size_t i = 0; i < 32; i++) {
                float v = x[i] * inverse;
                a[b + i] = (double)scale * nearbyint((double)v);
                CHECK_NEAR(a[b + i], x[i], (double)scale * 0.5001 + 1e-30);
            }
        }
        for (size_t r = 0; r < c->n_rows; r++) {
            double sum = 0.0, magnitude = 0.0;
            for (size_t i = 0; i < c->n_cols; i++) {
                size_t g = i / c->sub_elems;
                double code_part = (double)c->d[r * c->n_sub + g] * (double)c->codes[r * c->n_cols + i];
                double min_part = c->has_min ? (double)c->m[r * c->n_sub + g] : 0.0;
                sum += (w32 != NULL ? (double)w32[r * c->n_cols + i] : code_part + min_part) * a[i];
                magnitude += (fabs(code_part) + fabs(min_part)) * fabs(a[i]);
            }
            double tiny = c->type == CT_MXFP4 ? 1e-40 : 1e-42; /* its d may be as small as floats become, and be rounded */
            double bound = ((double)(2 * c->n_sub) + 8.0) * (double)EPS * magnitude + (double)c->n_sub * tiny;
            double got = (double)c->want[t * c->n_rows + r];
            if (!CHECK_MSG(fabs(got - sum) <= bound, "scalar, %s: row %zu of token %zu is %.9g, not %.9g within %g", c->label,
                           r, t, got, sum, bound))
                break;
        }
    }
    free(a);
}

static void run_type_case(test_rng *rng, const ct_type_info *info, const scale_fields *fields, size_t n_rows, size_t n_cols,
                          size_t n_tok, int w_kind, int x_kind)
{
    int_case c = {.type = fields->type, .n_rows = n_rows, .n_cols = n_cols, .n_tok = n_tok, .sub_elems = info->sub_elems,
                  .has_min = info->has_min};
    size_t row_bytes = n_cols / info->block_elems * info->block_bytes;
    c.row_bytes = row_bytes + 2 * test_below(rng, 2) * (1 + test_below(rng, 9)); /* the rows of a wider matrix, too */
    snprintf(c.label, sizeof c.label, "%s [%zu, %zu] x %zu tokens, data %d/%d", info->name, n_rows, n_cols, n_tok, w_kind,
             x_kind);
    size_t n_bytes = n_rows > 0 ? (n_rows - 1) * c.row_bytes + row_bytes : 0;
    test_guarded w = test_guarded_alloc(n_bytes);
    c.w = w.data;
    int_case_alloc(&c);
    float *w32 = must_alloc(n_rows * n_cols, sizeof(float));
    for (size_t r = 0; r < n_rows; r++) {
        uint8_t *row = w.data + r * c.row_bytes;
        fill_row(rng, row, info, fields, n_cols, w_kind);
        info->decode_codes(row, n_cols, c.codes + r * n_cols, c.d + r * c.n_sub, c.m + r * c.n_sub);
        info->decode_f32(row, n_cols, w32 + r * n_cols);
    }
    for (size_t t = 0; t < n_tok; t++) fill_x(rng, c.x + t * n_cols, n_cols, x_kind);
    reference(&c, w32);
    FOR_SETS(k) check_set(k, &c);
    if (n_bytes > 0) { /* the same rows right behind an unreadable page */
        test_guarded front = test_guarded_front(n_bytes);
        memcpy(front.data, w.data, n_bytes);
        c.w = front.data;
        FOR_SETS(k) check_set(k, &c);
        test_guarded_free(&front);
    }
    free(w32);
    int_case_free(&c);
    test_guarded_free(&w);
}

TEST(integer_products_of_every_type)
{
    test_rng rng = {1};
    size_t n_types = 0;
    for (uint32_t type = 0; type < CT_N_TYPES; type++) {
        const ct_type_info *info = ct_type_get(type);
        const scale_fields *fields = NULL;
        if (info == NULL || info->decode_codes == NULL) continue;
        for (size_t i = 0; i < sizeof scales_of / sizeof *scales_of; i++)
            if (scales_of[i].type == (ct_type)type) fields = &scales_of[i];
        if (!CHECK_MSG(fields != NULL, "%s has codes: say in scales_of where its scales are", info->name)) continue;
        n_types++;
        bool big = info->block_elems > 32;
        for (size_t i = 0; i < 70; i++) /* n_rows 1 … 70, odd and even numbers of blocks, n_tok 1 … 9 */
            run_type_case(&rng, info, fields, i + 1, info->block_elems * (big ? 1 + i % 3 : 1 + i * 7 % 13), 1 + i % 9,
                          i % 4 ? W_RANDOM : (int)(i / 4 % N_W_KINDS), (int)(i % N_X_KINDS));
        for (int w_kind = 0; w_kind < N_W_KINDS; w_kind++)
            for (int x_kind = 0; x_kind < N_X_KINDS; x_kind++)
                run_type_case(&rng, info, fields, 5, 512, 3, w_kind, x_kind);
        run_type_case(&rng, info, fields, 33, 2304, 2, W_RANDOM, X_UNIFORM); /* longer than any tile along the columns */
        run_type_case(&rng, info, fields, 7, 4864, 1, W_RANDOM, X_UNIFORM);
        run_type_case(&rng, info, fields, 48, 512, 37, W_RANDOM, X_UNIFORM);
        run_type_case(&rng, info, fields, 0, 256, 3, W_RANDOM, X_UNIFORM);
        run_type_case(&rng, info, fields, 3, 256, 0, W_RANDOM, X_UNIFORM);
    }
    CHECK(n_types >= 4);
}

/* Codes over all of int8 and scales that no file type has, with every combination of sub-block and minimum. */
TEST(integer_products_of_synthetic_codes)
{
    test_rng rng = {2};
    for (size_t i = 0; i < 96; i++) {
        int_case c = {.type = CT_N_TYPES, .n_rows = 1 + i * 5 % 70, .n_cols = 32 * (1 + i * 3 % 23), .n_tok = 1 + i * 7 % 13,
                      .sub_elems = i % 2 ? 16 : 32, .has_min = i / 2 % 2};
        snprintf(c.label, sizeof c.label, "codes of %zu%s [%zu, %zu] x %zu tokens", c.sub_elems,
                 c.has_min ? " with minimum" : "", c.n_rows, c.n_cols, c.n_tok);
        int_case_alloc(&c);
        for (size_t j = 0; j < c.n_rows * c.n_cols; j++) {
            int extreme = test_below(&rng, 2) ? 127 : -128;
            c.codes[j] = (int8_t)(i % 3 == 1 ? -128 : i % 3 == 2 ? extreme : (int)(test_u64(&rng) & 255) - 128);
        }
        for (size_t j = 0; j < c.n_rows * c.n_sub; j++) {
            c.d[j] = ldexpf(test_uniform(&rng), (int)test_below(&rng, 24) - 12);
            c.m[j] = ldexpf(test_uniform(&rng), (int)test_below(&rng, 24) - 12);
        }
        for (size_t t = 0; t < c.n_tok; t++) fill_x(&rng, c.x + t * c.n_cols, c.n_cols, (int)(i % N_X_KINDS));
        reference(&c, NULL);
        FOR_SETS(k) check_set(k, &c);
        int_case_free(&c);
    }
}

/* quantize_act, seen through products with one-hot codes: y = 1 * code * a * q[k] and q must be as defined. */
TEST(quantised_activations)
{
    enum { N = 96, BLOCKS = N / 32 };
    test_rng rng = {3};
    for (int round = 0; round < 200; round++) {
        float x[N], a[BLOCKS], inverse[BLOCKS];
        for (int b = 0; b < BLOCKS; b++) {
            float *xb = x + 32 * b, amax = 0.0f;
            float top = ldexpf(1.0f + 0.5f * test_uniform(&rng), (int)test_below(&rng, 250) - 123);
            for (int i = 0; i < 32; i++) {
                switch ((round + b) % 7) {
                case 0: xb[i] = (float)((int)test_below(&rng, 254) - 127) + 0.5f; break; /* halves: ties where the scale is 1 */
                case 1: xb[i] = test_uniform(&rng) * top; break;
                case 2: xb[i] = test_uniform(&rng) * 2e-30f; break; /* around the threshold below which all is zero */
                case 3: xb[i] = float_of((uint32_t)test_below(&rng, 1u << 23)); break; /* subnormal */
                case 4: xb[i] = test_uniform(&rng) * FLT_MAX; break;
                case 5: xb[i] = i % 5 ? 0.0f : -top; break;
                default: xb[i] = (float)((int)test_below(&rng, 255) - 127) * 0.5f; break;
                }
            }
            if ((round + b) % 7 == 0) xb[test_below(&rng, 32)] = test_below(&rng, 2) ? 127.0f : -127.0f;
            if ((round + b) % 7 == 0)
                for (int i = 0; i < 32; i++)
                    if (fabsf(xb[i]) > 127.0f) xb[i] = 126.5f;
            for (int i = 0; i < 32; i++) amax = max_float(amax, fabsf(xb[i]));
            a[b] = amax < 1e-30f ? 0.0f : amax / 127.0f;
            inverse[b] = a[b] > 0.0f ? 1.0f / a[b] : 0.0f;
        }
        test_guarded xg = floats_copy(x, N);
        FOR_SETS(k) {
            test_guarded act = aligned_alloc_guarded(k->act_bytes(N)), panel = aligned_alloc_guarded(k->panel_bytes(N));
            k->quantize_act(act.data, floats(&xg), N);
            for (size_t first = 0; first < N; first += k->panel_rows) {
                size_t n = N - first < k->panel_rows ? N - first : k->panel_rows;
                int8_t *codes = must_alloc(n * N, 1);
                float *d = must_alloc(n * BLOCKS, sizeof(float)), *y = must_alloc(n, sizeof(float));
                for (size_t r = 0; r < n; r++) codes[r * N + first + r] = 1;
                for (size_t j = 0; j < n * BLOCKS; j++) d[j] = 1.0f;
                k->pack_panel(panel.data, codes, d, NULL, n, N, 32, false);
                k->gemm_i8(y, n, panel.data, act.data, k->act_bytes(N), n, N, 1, 32, false);
                for (size_t r = 0; r < n; r++) {
                    size_t i = first + r;
                    float v = x[i] * inverse[i / 32], want = (float)nearbyint((double)v) * a[i / 32];
                    CHECK_MSG(same(y[r], want), "%s: %a in a block of scale %a became %a, not %a", k->name, (double)x[i],
                              (double)a[i / 32], (double)y[r], (double)want);
                }
                free(codes);
                free(d);
                free(y);
            }
            test_guarded_free(&act);
            test_guarded_free(&panel);
        }
        test_guarded_free(&xg);
    }
}

/* NaN and infinity give unspecified numbers, but no crash and nothing out of bounds. */
TEST(hostile_numbers_stay_inside)
{
    enum { N = 160 };
    static const float hostile[7] = {NAN, INFINITY, -INFINITY, FLT_MAX, 1.0f, -FLT_MAX, 0.0f};
    float x[N];
    for (size_t i = 0; i < N; i++) x[i] = hostile[i % 7];
    test_guarded xg = floats_copy(x, N);
    FOR_SETS(k) {
        test_guarded act = aligned_alloc_guarded(k->act_bytes(N)), panel = aligned_alloc_guarded(k->panel_bytes(N));
        test_guarded y = floats_alloc(N), bytes = aligned_alloc_guarded(256 * 34);
        float sum, weighted, max;
        k->quantize_act(act.data, floats(&xg), N);
        for (uint32_t type = 0; type < CT_N_TYPES; type++) {
            const ct_type_info *info = ct_type_get(type);
            if (info == NULL || info->decode_codes == NULL || N % info->block_elems != 0) continue;
            size_t row_bytes = N / info->block_elems * info->block_bytes, n = k->panel_rows < 5 ? k->panel_rows : 5;
            if (k->matvec[type]) k->matvec[type](floats(&y), bytes.data, row_bytes, act.data, 5, N, NULL); /* 0xff: scales are NaN */
            if (k->matmul_few[type]) k->matmul_few[type](floats(&y), 5, bytes.data, row_bytes, act.data, 0, 5, N, 4, NULL);
            if (k->unpack[type]) {
                k->unpack[type](panel.data, bytes.data, row_bytes, n, N);
                k->gemm_i8(floats(&y), n, panel.data, act.data, k->act_bytes(N), n, N, 1, info->sub_elems, info->has_min);
            }
        }
        k->rms_norm(floats(&y), floats(&xg), floats(&xg), N, 1e-5f);
        k->silu_mul(floats(&y), floats(&xg), floats(&xg), N);
        k->softmax_stats(floats(&xg), N, 0.0f, &sum, &weighted);
        size_t best = k->max_index(floats(&xg), N, &max);
        CHECK_UINT(best, 1);
        CHECK_FLOAT(max, INFINITY);
        test_guarded_free(&act);
        test_guarded_free(&panel);
        test_guarded_free(&y);
        test_guarded_free(&bytes);
    }
    test_guarded_free(&xg);
}

/* ---- float products ------------------------------------------------------------------------------------------------ */

static void run_gemm_f32(test_rng *rng, size_t n_rows, size_t n_cols, size_t n_tok)
{
    size_t w_stride = n_cols + test_below(rng, 4), x_stride = n_cols + test_below(rng, 4);
    size_t y_stride = n_rows + test_below(rng, 4);
    size_t n_w = n_rows ? (n_rows - 1) * w_stride + n_cols : 0, n_x = n_tok ? (n_tok - 1) * x_stride + n_cols : 0;
    size_t n_y = n_tok ? (n_tok - 1) * y_stride + n_rows : 0;
    test_guarded w = floats_alloc(n_w), x = floats_alloc(n_x), want = floats_alloc(n_y);
    for (size_t r = 0; r < n_rows; r++) fill_x(rng, floats(&w) + r * w_stride, n_cols, (int)test_below(rng, N_X_KINDS));
    for (size_t t = 0; t < n_tok; t++) fill_x(rng, floats(&x) + t * x_stride, n_cols, (int)test_below(rng, N_X_KINDS));
    scalar()->gemm_f32(floats(&want), y_stride, floats(&w), w_stride, floats(&x), x_stride, n_rows, n_cols, n_tok);
    for (size_t t = 0; t < n_tok; t++)
        for (size_t r = 0; r < n_rows; r++) {
            double sum = 0.0, magnitude = 0.0;
            for (size_t i = 0; i < n_cols; i++) {
                double product = (double)floats(&w)[r * w_stride + i] * (double)floats(&x)[t * x_stride + i];
                sum += product;
                magnitude += fabs(product);
            }
            CHECK_NEAR(floats(&want)[t * y_stride + r], sum, ((double)(n_cols / 16) + 6.0) * (double)EPS * magnitude + 1e-42);
        }
    FOR_SETS(k) {
        test_guarded y = floats_alloc(n_y);
        k->gemm_f32(floats(&y), y_stride, floats(&w), w_stride, floats(&x), x_stride, n_rows, n_cols, n_tok);
        for (size_t i = 0; i < n_y; i++) {
            float got = floats(&y)[i], expected = floats(&want)[i];
            if (!CHECK_MSG(i % y_stride < n_rows ? same(got, expected) : bits_of(got) == CANARY,
                           "%s gemm_f32 [%zu, %zu] x %zu: row %zu of token %zu is %a, not %a", k->name, n_rows, n_cols, n_tok,
                           i % y_stride, i / y_stride, (double)got, (double)expected))
                break;
        }
        test_guarded_free(&y);
    }
    test_guarded_free(&w);
    test_guarded_free(&x);
    test_guarded_free(&want);
}

TEST(float_products)
{
    test_rng rng = {4};
    for (size_t n_cols = 0; n_cols <= 67; n_cols++) run_gemm_f32(&rng, 1 + n_cols % 11, n_cols, 1 + n_cols * 5 % 7);
    for (size_t n_rows = 0; n_rows <= 19; n_rows++)
        for (size_t n_tok = 0; n_tok <= 9; n_tok++) run_gemm_f32(&rng, n_rows, 35, n_tok);
    for (size_t i = 0; i < 40; i++) run_gemm_f32(&rng, 1 + i * 3 % 70, 16 * i + i % 16, 1 + i % 9);
    run_gemm_f32(&rng, 6, 2051, 5);
}

TEST(float_matrix_by_vector)
{
    static const ct_type types[] = {CT_F32, CT_F16, CT_BF16};
    test_rng rng = {5};
    for (size_t i = 0; i < 3 * 120; i++) {
        ct_type type = types[i % 3];
        const ct_type_info *info = ct_type_get((uint32_t)type);
        size_t n_rows = i < 300 ? i / 3 % 21 : 5, n_cols = i < 300 ? i / 3 : 4 * i + 1, size = info->block_bytes;
        size_t row_bytes = (n_cols + test_below(&rng, 3)) * size;
        size_t n_bytes = n_rows ? (n_rows - 1) * row_bytes + n_cols * size : 0;
        test_guarded w = test_guarded_alloc(n_bytes), x = floats_alloc(n_cols);
        float *w32 = must_alloc(n_rows * n_cols, sizeof(float)), *want = must_alloc(n_rows, sizeof(float));
        for (size_t r = 0; r < n_rows; r++)
            for (size_t c = 0; c < n_cols; c++) {
                float v = test_uniform(&rng);
                uint16_t h = type == CT_F16 ? random_scale(&rng, (int)(i % N_W_KINDS)) : (uint16_t)(bits_of(v) >> 16);
                memcpy(w.data + r * row_bytes + c * size, type == CT_F32 ? (const void *)&v : (const void *)&h, size);
            }
        for (size_t r = 0; r < n_rows; r++) info->decode_f32(w.data + r * row_bytes, n_cols, w32 + r * n_cols);
        fill_x(&rng, floats(&x), n_cols, (int)(i / 3 % N_X_KINDS));
        scalar()->gemm_f32(want, n_rows, w32, n_cols, floats(&x), n_cols, n_rows, n_cols, 1);
        FOR_SETS(k) {
            if (k->matvec[type] == NULL) continue;
            test_guarded y = floats_alloc(n_rows);
            k->matvec[type](floats(&y), w.data, row_bytes, floats(&x), n_rows, n_cols, NULL);
            for (size_t r = 0; r < n_rows; r++)
                CHECK_MSG(same(floats(&y)[r], want[r]), "%s matvec %s [%zu, %zu]: row %zu is %a, not %a", k->name, info->name,
                          n_rows, n_cols, r, (double)floats(&y)[r], (double)want[r]);
            test_guarded_free(&y);
        }
        free(w32);
        free(want);
        test_guarded_free(&w);
        test_guarded_free(&x);
    }
}

/* ---- conversions --------------------------------------------------------------------------------------------------- */

/* The value of a half, from its definition. */
static double half_value(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double v = exponent == 31 ? (fraction ? (double)NAN : (double)INFINITY)
               : exponent     ? ldexp(1024 + fraction, exponent - 25)
                              : ldexp(fraction, -24);
    return h & 0x8000 ? -v : v;
}

TEST(conversion_from_halfs)
{
    enum { ALL = 65536 };
    test_guarded x = test_guarded_alloc(ALL * sizeof(uint16_t));
    for (uint32_t i = 0; i < ALL; i++) halfs(&x)[i] = (uint16_t)i;
    FOR_SETS(k) {
        test_guarded y = floats_alloc(ALL);
        k->f16_to_f32(floats(&y), halfs(&x), ALL);
        for (uint32_t i = 0; i < ALL; i++) {
            float got = floats(&y)[i];
            double want = half_value((uint16_t)i);
            if (!CHECK_MSG((isnan(got) && isnan(want)) || ((double)got == want && (signbit(got) != 0) == (i >> 15 != 0)),
                           "%s f16_to_f32: 0x%04x is %a, not %a", k->name, i, (double)got, want))
                break;
        }
        k->bf16_to_f32(floats(&y), halfs(&x), ALL);
        for (uint32_t i = 0; i < ALL; i++)
            if (!CHECK_MSG(bits_of(floats(&y)[i]) == i << 16 || isnan(floats(&y)[i]), "%s bf16_to_f32: 0x%04x is 0x%08x",
                           k->name, i, bits_of(floats(&y)[i])))
                break;
        test_guarded_free(&y);
        for (size_t n = 0; n < 70; n++) { /* every tail, at odd places */
            test_guarded tail = floats_alloc(n + 1);
            const uint16_t *from = halfs(&x) + 0x3c00 - n;
            for (int bf16 = 0; bf16 < 2; bf16++) {
                (bf16 ? k->bf16_to_f32 : k->f16_to_f32)(floats(&tail), from, n);
                for (size_t i = 0; i < n; i++)
                    CHECK_FLOAT(floats(&tail)[i], bf16 ? (double)ct_bf16_to_f32(from[i]) : half_value(from[i]));
                CHECK_UINT(bits_of(floats(&tail)[n]), CANARY);
            }
            test_guarded end = test_guarded_alloc(n * sizeof(uint16_t));
            if (n > 0) memcpy(end.data, from, n * sizeof(uint16_t));
            k->f16_to_f32(floats(&tail) + 1, halfs(&end), n);
            k->bf16_to_f32(floats(&tail) + 1, halfs(&end), n);
            test_guarded_free(&end);
            test_guarded_free(&tail);
        }
    }
    test_guarded_free(&x);
}

/* The half nearest to x, ties to even, from the definition. */
static uint16_t nearest_half(float x)
{
    uint16_t sign = signbit(x) ? 0x8000 : 0;
    double v = fabs((double)x);
    if (v >= 65520.0) return (uint16_t)(sign | 0x7c00);
    int exponent = v < ldexp(1, -14) ? -14 : ilogb(v);
    long units = lrint(ldexp(v, 10 - exponent)); /* in steps of the last bit: 0 … 2048 */
    return (uint16_t)(sign | (uint16_t)(units + (exponent + 14) * 1024L));
}

TEST(conversion_to_halfs)
{
    enum { ALL = 65536, RANDOM = 200000, N = 3 * ALL + RANDOM };
    test_rng rng = {6};
    float *x = must_alloc(N, sizeof(float));
    uint16_t *want = must_alloc(N, sizeof(uint16_t));
    size_t n = 0;
    for (uint32_t i = 0; i < ALL; i++) { /* every half, the middle to its neighbour, and the floats next to that middle */
        double here = half_value((uint16_t)i), next = half_value((uint16_t)(i + 1));
        if (isnan(here) || isnan(next) || isinf(here)) continue;
        float middle = isinf(next) ? (here < 0 ? -65520.0f : 65520.0f) : (float)((here + next) / 2);
        x[n++] = middle;
        x[n++] = nextafterf(middle, INFINITY);
        x[n++] = nextafterf(middle, -INFINITY);
    }
    for (int i = 0; i < RANDOM; i++) {
        float v = i % 2 ? ldexpf(test_uniform(&rng), (int)test_below(&rng, 48) - 30) : float_of((uint32_t)test_u64(&rng));
        if (!isnan(v)) x[n++] = v;
    }
    x[0] = INFINITY, x[1] = -INFINITY, x[2] = FLT_MAX, x[3] = -0.0f, x[4] = FLT_MIN;
    for (size_t i = 0; i < n; i++) want[i] = nearest_half(x[i]);
    test_guarded from = floats_copy(x, n);
    FOR_SETS(k) {
        test_guarded y = test_guarded_alloc(n * sizeof(uint16_t));
        k->f32_to_f16(halfs(&y), floats(&from), n);
        for (size_t i = 0; i < n; i++)
            if (!CHECK_MSG(halfs(&y)[i] == want[i], "%s f32_to_f16: %a is 0x%04x, not 0x%04x", k->name, (double)x[i],
                           halfs(&y)[i], want[i]))
                break;
        test_guarded_free(&y);
        for (size_t len = 0; len < 70; len++) {
            test_guarded tail = test_guarded_alloc(len * sizeof(uint16_t));
            k->f32_to_f16(halfs(&tail), floats(&from) + n - len, len);
            if (len > 0) CHECK_MEM(tail.data, want + n - len, len * sizeof(uint16_t));
            test_guarded_free(&tail);
        }
    }
    test_guarded_free(&from);
    free(x);
    free(want);
}

/* ---- element-wise and reductions ----------------------------------------------------------------------------------- */

/* y of set k equals `want`, n floats, then one canary. */
static void check_floats(const ct_kernels *k, const char *what, const float *y, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!CHECK_MSG(same(y[i], want[i]), "%s %s of %zu: element %zu is %a, not %a", k->name, what, n, i, (double)y[i],
                       (double)want[i]))
            return;
}

TEST(rms_norm)
{
    test_rng rng = {7};
    for (size_t i = 0; i < 90; i++) {
        size_t n = i < 80 ? 1 + i : 97 * (i - 70);
        float eps = i % 3 ? 1e-5f : 0.1f;
        test_guarded x = floats_alloc(n), w = floats_alloc(n), want = floats_alloc(n);
        fill_x(&rng, floats(&x), n, (int)(i % N_X_KINDS));
        fill_x(&rng, floats(&w), n, X_UNIFORM);
        scalar()->rms_norm(floats(&want), floats(&x), floats(&w), n, eps);
        double ss = 0.0;
        for (size_t j = 0; j < n; j++) ss += (double)floats(&x)[j] * (double)floats(&x)[j];
        for (size_t j = 0; j < n; j++) {
            double exact = (double)floats(&x)[j] / sqrt(ss / (double)n + (double)eps) * (double)floats(&w)[j];
            CHECK_NEAR(floats(&want)[j], exact, fabs(exact) * ((double)(n / 16) + 12.0) * (double)EPS + 1e-42);
        }
        FOR_SETS(k) {
            test_guarded y = floats_alloc(n);
            k->rms_norm(floats(&y), floats(&x), floats(&w), n, eps);
            check_floats(k, "rms_norm", floats(&y), floats(&want), n);
            memcpy(y.data, x.data, n * sizeof(float));
            k->rms_norm(floats(&y), floats(&y), floats(&w), n, eps);
            check_floats(k, "rms_norm in place", floats(&y), floats(&want), n);
            test_guarded_free(&y);
        }
        test_guarded_free(&x);
        test_guarded_free(&w);
        test_guarded_free(&want);
    }
}

TEST(silu_mul_and_its_exponential)
{
    test_rng rng = {8};
    for (size_t round = 0; round < 72; round++) {
        size_t n = round < 70 ? round : round == 70 ? 44001 : 20001;
        test_guarded gate = floats_alloc(n), up = floats_alloc(n), want = floats_alloc(n);
        for (size_t i = 0; i < n; i++) {
            float *g = floats(&gate) + i;
            if (round == 70)
                *g = (float)((double)i * 0.005 - 110.0); /* over both thresholds of exp */
            else if (round == 71)
                do *g = float_of((uint32_t)test_u64(&rng));
                while (!isfinite(*g));
            else
                *g = test_uniform(&rng) * 12.0f;
            floats(&up)[i] = test_uniform(&rng);
        }
        scalar()->silu_mul(floats(&want), floats(&gate), floats(&up), n);
        for (size_t i = 0; i < n; i++) {
            double g = (double)floats(&gate)[i], exact = g / (1.0 + exp(-g)) * (double)floats(&up)[i];
            if (fabs(g) < 87.0) CHECK_NEAR(floats(&want)[i], exact, fabs(exact) * 8.0 * (double)EPS + 1e-42);
        }
        FOR_SETS(k) {
            test_guarded y = floats_alloc(n);
            k->silu_mul(floats(&y), floats(&gate), floats(&up), n);
            check_floats(k, "silu_mul", floats(&y), floats(&want), n);
            if (n > 0) memcpy(y.data, gate.data, n * sizeof(float));
            k->silu_mul(floats(&y), floats(&y), floats(&up), n);
            check_floats(k, "silu_mul into gate", floats(&y), floats(&want), n);
            if (n > 0) memcpy(y.data, up.data, n * sizeof(float));
            k->silu_mul(floats(&y), floats(&gate), floats(&y), n);
            check_floats(k, "silu_mul into up", floats(&y), floats(&want), n);
            test_guarded_free(&y);
        }
        test_guarded_free(&gate);
        test_guarded_free(&up);
        test_guarded_free(&want);
    }
}

TEST(add_and_scale)
{
    test_rng rng = {9};
    for (size_t n = 0; n < 150; n++) {
        test_guarded x = floats_alloc(n), start = floats_alloc(n), want = floats_alloc(n);
        fill_x(&rng, floats(&x), n, X_WIDE);
        fill_x(&rng, floats(&start), n, X_WIDE);
        FOR_SETS(k) {
            test_guarded y = floats_copy(floats(&start), n);
            k->add(floats(&y), floats(&x), n);
            for (size_t i = 0; i < n; i++) floats(&want)[i] = floats(&start)[i] + floats(&x)[i];
            check_floats(k, "add", floats(&y), floats(&want), n);
            k->scale(floats(&y), -0.37f, n);
            for (size_t i = 0; i < n; i++) floats(&want)[i] *= -0.37f;
            check_floats(k, "scale", floats(&y), floats(&want), n);
            test_guarded_free(&y);
        }
        test_guarded_free(&x);
        test_guarded_free(&start);
        test_guarded_free(&want);
    }
}

TEST(max_index)
{
    test_rng rng = {10};
    for (size_t round = 0; round < 400; round++) {
        size_t n = round < 300 ? 1 + round % 150 : 1 + test_below(&rng, 5000);
        test_guarded x = floats_alloc(n);
        for (size_t i = 0; i < n; i++) {
            float v = test_uniform(&rng) * 100.0f;
            switch (round % 6) {
            case 0: v = (float)(int)v; break; /* many ties */
            case 1: v = test_below(&rng, 3) ? v : NAN; break;
            case 2: v = -INFINITY; break;
            case 3: v = NAN; break;
            case 4: v = test_below(&rng, n) ? -INFINITY : v; break;
            default: break;
            }
            floats(&x)[i] = v;
        }
        if (round % 12 == 0) floats(&x)[n - 1] = 1000.0f;
        if (round % 12 == 6) floats(&x)[0] = 1000.0f;
        size_t want = 0;
        float top = -INFINITY;
        for (size_t i = n; i-- > 0;) /* backwards, so that this is another way to the first of the largest */
            if (!isnan(floats(&x)[i]) && floats(&x)[i] >= top) top = floats(&x)[i], want = i;
        if (isinf(top)) want = 0;
        FOR_SETS(k) {
            float max = NAN;
            size_t got = k->max_index(floats(&x), n, &max);
            CHECK_MSG(got == want && same(max, top), "%s max_index of %zu: x[%zu] = %a, not x[%zu] = %a", k->name, n, got,
                      (double)max, want, (double)top);
        }
        test_guarded_free(&x);
    }
}

TEST(softmax_stats)
{
    test_rng rng = {11};
    for (size_t round = 0; round < 120; round++) {
        size_t n = round < 100 ? 1 + round : 499 * (round - 99);
        float spread = round % 4 == 3 ? 200.0f : 8.0f, max = -INFINITY, want_sum, want_weighted;
        test_guarded x = floats_alloc(n);
        for (size_t i = 0; i < n; i++) max = max_float(max, floats(&x)[i] = test_uniform(&rng) * spread);
        scalar()->softmax_stats(floats(&x), n, max, &want_sum, &want_weighted);
        double sum = 0.0, weighted = 0.0, absolute = 0.0;
        for (size_t i = 0; i < n; i++) {
            double v = (double)floats(&x)[i] - (double)max, e = exp(v);
            sum += e;
            weighted += e * v;
            absolute += e * (fabs(v) + v * v); /* rounding x - max moves e by a share of |v| */
        }
        CHECK_NEAR(want_sum, sum, ((double)(n / 16) + 12.0) * (double)EPS * sum + 2.0 * (double)EPS * absolute);
        CHECK_NEAR(want_weighted, weighted, ((double)(n / 16) + 12.0) * (double)EPS * absolute + 1e-30);
        FOR_SETS(k) {
            float got_sum, got_weighted;
            k->softmax_stats(floats(&x), n, max, &got_sum, &got_weighted);
            CHECK_MSG(same(got_sum, want_sum) && same(got_weighted, want_weighted),
                      "%s softmax_stats of %zu: %a and %a, not %a and %a", k->name, n, (double)got_sum, (double)got_weighted,
                      (double)want_sum, (double)want_weighted);
        }
        test_guarded_free(&x);
    }
}

/* exp itself, through a sum of one element: over the whole range, in every position of a vector, and against float64. */
TEST(exponential)
{
    for (int i = -9100; i <= 9100; i += 7) {
        float x = (float)i * 0.01f, want, got, weighted;
        scalar()->softmax_stats(&x, 1, 0.0f, &want, &weighted);
        double exact = x < -87.0f ? 0.0 : exp(fmin((double)x, 88.0));
        CHECK_NEAR(want, exact, exact * 2.5 * (double)EPS);
        FOR_SETS(k) {
            k->softmax_stats(&x, 1, 0.0f, &got, &weighted);
            CHECK_MSG(same(got, want), "%s: exp(%a) is %a, not %a", k->name, (double)x, (double)got, (double)want);
        }
    }
    static const float edges[] = {-87.0f, -0x1.5c0002p+6f, -0x1.5bfffep+6f, -88.0f, -1e30f, 88.0f, 0x1.600002p+6f, 1e30f, 0.0f,
                                  0x1.62e43p-2f, -0x1.62e43p-2f, 1e-40f, -1e-40f};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
        for (size_t at = 0; at < 16; at++) {
            float x[16], want, got, weighted;
            for (size_t j = 0; j < 16; j++) x[j] = -1e20f;
            x[at] = edges[i];
            scalar()->softmax_stats(x, 16, 0.0f, &want, &weighted);
            FOR_SETS(k) {
                k->softmax_stats(x, 16, 0.0f, &got, &weighted);
                CHECK_MSG(same(got, want), "%s: exp(%a) is %a, not %a", k->name, (double)edges[i], (double)got, (double)want);
            }
        }
}

/* ---- 8-bit keys and values ----------------------------------------------------------------------------------------- */

/* Every length, so every length of the last block; codes are the nearest multiples of the scale, and nothing else is written. */
TEST(quantize_kv)
{
    test_rng rng = {21};
    for (int kind = 0; kind < N_X_KINDS; kind++)
        for (size_t n = 4; n <= 132; n += 4) {
            const size_t n_blocks = ct_kv_blocks(n);
            float *x = must_alloc(n, sizeof(float));
            fill_x(&rng, x, n, kind);
            test_guarded from = floats_copy(x, n), want = test_guarded_alloc(n), want_scales = floats_alloc(n_blocks);
            scalar()->quantize_kv(codes(&want), floats(&want_scales), floats(&from), n);
            for (size_t i = 0; i < n; i++) {
                float amax = 0.0f;
                for (size_t k = i / 32 * 32; k < n && k < i / 32 * 32 + 32; k++) amax = max_float(amax, fabsf(x[k]));
                double exact = amax < 1e-30f ? 0.0 : (double)x[i] / ((double)amax / 127.0), code = (double)codes(&want)[i];
                if (!CHECK_MSG(fabs(code - exact) <= 0.5 + 127.0 * 4.0 * (double)EPS, "scalar, %zu elements: code %g for %.9g", n, code, exact)) break;
                CHECK_NEAR(floats(&want_scales)[i / 32], amax < 1e-30f ? 0.0 : (double)amax / 127.0, (double)amax * (double)EPS);
            }
            FOR_SETS(k) {
                test_guarded got = test_guarded_alloc(n), scales = floats_alloc(n_blocks);
                k->quantize_kv(codes(&got), floats(&scales), floats(&from), n);
                CHECK_MEM(got.data, want.data, n);
                for (size_t b = 0; b < n_blocks; b++) CHECK_FLOAT(floats(&scales)[b], floats(&want_scales)[b]);
                test_guarded_free(&got);
                test_guarded_free(&scales);
                test_guarded got_front = test_guarded_front(n + 1); /* a canary behind */
                test_guarded other = floats_alloc(n_blocks);
                k->quantize_kv(codes(&got_front), floats(&other), floats(&from), n);
                CHECK_UINT(got_front.data[n], 0xA5);
                test_guarded_free(&got_front);
                test_guarded_free(&other);
            }
            test_guarded_free(&from);
            test_guarded_free(&want);
            test_guarded_free(&want_scales);
            free(x);
        }
}

/* Halves between two codes go to the even one; not-a-number and infinity in a row do no harm. */
TEST(quantize_kv_edges)
{
    float x[40] = {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 126.5f, -126.5f, -127.0f, 125.5f};
    static const int8_t want[11] = {127, 0, 2, 2, 0, -2, -2, 126, -126, -127, 126};
    int8_t got[40];
    float scales[2];
    FOR_SETS(k) {
        k->quantize_kv(got, scales, x, 40);
        CHECK_MEM(got, want, sizeof want);
        CHECK_FLOAT(scales[0], 1.0f);
        CHECK_FLOAT(scales[1], 0.0f);
        for (size_t i = 11; i < 40; i++) CHECK_INT(got[i], 0);
        static const float strange[] = {NAN, INFINITY, -INFINITY, 0x1.fffffep+127f, 1e-40f};
        for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
            float y[36] = {1.0f};
            y[5] = y[33] = strange[i];
            k->quantize_kv(got, scales, y, 36);
        }
    }
}

/* ---- attention ----------------------------------------------------------------------------------------------------- */

enum { PAGES = 4, RANGES_FULL, RANGES_CAUSAL, RANGES_WINDOW, RANGES_RANDOM, RANGES_SPARSE, N_RANGE_KINDS };

typedef struct attn_case {
    size_t n_q, d_k, d_v;
    float q_scale;
    ct_type type;                    /* CT_F32, CT_F16, or CT_Q8_0 for attend_i8 */
    float *q;                        /* [n_q, d_k] */
    int32_t *begin, *end;            /* [PAGES, n_q] */
    float *kt[PAGES], *v[PAGES];     /* as float32, NaN where no query looks */
    void *kt_data[PAGES], *v_data[PAGES]; /* the same as the kernel takes it */
    float *k_scale[PAGES], *v_scale[PAGES];
} attn_case;

static size_t elem_bytes(const attn_case *c) { return c->type == CT_F32 ? sizeof(float) : c->type == CT_F16 ? sizeof(uint16_t) : 1; }

static void fill_ranges(test_rng *rng, attn_case *c, int kind)
{
    for (size_t p = 0; p < PAGES; p++)
        for (size_t i = 0; i < c->n_q; i++) {
            int32_t b = 0, e = 32, position = 60 + (int32_t)i % 60 - (int32_t)p * 32; /* of the query, in this page */
            if (kind == RANGES_CAUSAL) e = position + 1;
            if (kind == RANGES_WINDOW) e = position + 1, b = position - 20;
            if (kind == RANGES_RANDOM) b = (int32_t)test_below(rng, 33), e = (int32_t)test_below(rng, 33);
            if (kind == RANGES_SPARSE) b = (int32_t)(i * 11 % 32), e = b + (i % 2 ? 1 : 0);
            c->begin[p * c->n_q + i] = b < 0 ? 0 : b > 32 ? 32 : b;
            c->end[p * c->n_q + i] = e < 0 ? 0 : e > 32 ? 32 : e;
        }
}

/* The state after all pages, by set k: m [n_q], l [n_q, 16], o [n_q, d_v]. */
static void attend(const ct_kernels *k, const attn_case *c, float *m, float *l, float *o)
{
    size_t n_scratch = 32 * c->d_k + 32 * c->d_v + 32 * c->n_q;
    test_guarded q = floats_copy(c->q, c->n_q * c->d_k), mg = floats_alloc(c->n_q), lg = floats_alloc(c->n_q * 16);
    test_guarded og = floats_alloc(c->n_q * c->d_v);
    for (size_t i = 0; i < c->n_q; i++) floats(&mg)[i] = -INFINITY;
    memset(lg.data, 0, c->n_q * 16 * sizeof(float));
    memset(og.data, 0, c->n_q * c->d_v * sizeof(float));
    for (size_t p = 0; p < PAGES; p++) {
        test_guarded scratch = aligned_alloc_guarded(n_scratch * sizeof(float));
        size_t n_kt = 32 * c->d_k, n_v = 32 * c->d_v, size = elem_bytes(c);
        test_guarded k_scale = floats_copy(c->k_scale[p], 32 * ct_kv_blocks(c->d_k)), v_scale = floats_copy(c->v_scale[p], 32 * ct_kv_blocks(c->d_v));
        test_guarded kt = test_guarded_alloc(n_kt * size), v = test_guarded_alloc(n_v * size);
        test_guarded begin = test_guarded_alloc(c->n_q * sizeof(int32_t)), end = test_guarded_alloc(c->n_q * sizeof(int32_t));
        memcpy(kt.data, c->kt_data[p], n_kt * size);
        memcpy(v.data, c->v_data[p], n_v * size);
        memcpy(begin.data, c->begin + p * c->n_q, c->n_q * sizeof(int32_t));
        memcpy(end.data, c->end + p * c->n_q, c->n_q * sizeof(int32_t));
        ct_attn_tile tile = {.n_q = c->n_q, .d_k = c->d_k, .d_v = c->d_v, .q = floats(&q), .m = floats(&mg), .l = floats(&lg),
                             .o = floats(&og), .scratch = floats(&scratch), .begin = (const int32_t *)(void *)begin.data,
                             .end = (const int32_t *)(void *)end.data};
        ct_page_i8 page = {codes(&kt), floats(&k_scale), codes(&v), floats(&v_scale)};
        if (c->type == CT_Q8_0)
            k->attend_i8(&tile, &page);
        else if (c->type == CT_F16)
            k->attend_f16(&tile, halfs(&kt), halfs(&v));
        else
            k->attend_f32(&tile, floats(&kt), floats(&v));
        test_guarded_free(&scratch);
        test_guarded_free(&k_scale);
        test_guarded_free(&v_scale);
        test_guarded_free(&kt);
        test_guarded_free(&v);
        test_guarded_free(&begin);
        test_guarded_free(&end);
    }
    memcpy(m, mg.data, c->n_q * sizeof(float));
    memcpy(l, lg.data, c->n_q * 16 * sizeof(float));
    memcpy(o, og.data, c->n_q * c->d_v * sizeof(float));
    test_guarded_free(&q);
    test_guarded_free(&mg);
    test_guarded_free(&lg);
    test_guarded_free(&og);
}

/* softmax(q·k)·v in float64 against scalar's state. Rounding: a score errs by d_k roundings of its largest partial sum, exp
 * amplifies absolute errors of its argument, and weights below exp(-87) are dropped. */
static void check_attention_f64(const attn_case *c, const char *label, const float *m, const float *l, const float *o)
{
    double score[PAGES * 32];
    for (size_t i = 0; i < c->n_q; i++) {
        double top = -INFINITY, score_error = 0.0, sum = 0.0, lanes = 0.0, v_max = 0.0;
        size_t n_keys = 0;
        for (size_t p = 0; p < PAGES; p++)
            for (int32_t j = c->begin[p * c->n_q + i]; j < c->end[p * c->n_q + i]; j++, n_keys++) {
                double s = 0.0, magnitude = 0.0;
                for (size_t d = 0; d < c->d_k; d++) {
                    double product = (double)c->q[i * c->d_k + d] * (double)c->kt[p][d * 32 + (size_t)j];
                    s += product;
                    magnitude += fabs(product);
                }
                score[p * 32 + (size_t)j] = s;
                score_error = fmax(score_error, magnitude * (double)EPS * (double)c->d_k);
                top = fmax(top, s);
            }
        if (n_keys == 0) { /* the query saw nothing: its state is what it was */
            CHECK_FLOAT(m[i], -INFINITY);
            for (size_t lane = 0; lane < 16; lane++) CHECK_FLOAT(l[i * 16 + lane], 0);
            for (size_t d = 0; d < c->d_v; d++) CHECK_FLOAT(o[i * c->d_v + d], 0);
            continue;
        }
        double tolerance = 2.0 * score_error + 200.0 * (double)EPS + (double)n_keys * 4.0 * (double)EPS;
        CHECK_NEAR(m[i], top, score_error + 1e-42);
        for (size_t lane = 0; lane < 16; lane++) lanes += (double)l[i * 16 + lane];
        for (size_t p = 0; p < PAGES; p++)
            for (int32_t j = c->begin[p * c->n_q + i]; j < c->end[p * c->n_q + i]; j++)
                sum += exp(score[p * 32 + (size_t)j] - top);
        CHECK_NEAR(lanes, sum, sum * 2.0 * tolerance);
        for (size_t d = 0; d < c->d_v; d++) {
            double want = 0.0;
            for (size_t p = 0; p < PAGES; p++)
                for (int32_t j = c->begin[p * c->n_q + i]; j < c->end[p * c->n_q + i]; j++) {
                    double value = (double)c->v[p][(size_t)j * c->d_v + d];
                    want += exp(score[p * 32 + (size_t)j] - top) * value;
                    v_max = fmax(v_max, fabs(value));
                }
            if (!CHECK_MSG(fabs((double)o[i * c->d_v + d] / lanes - want / sum) <= v_max * 4.0 * tolerance,
                           "scalar %s: query %zu, value %zu is %.9g, not %.9g within %g", label, i, d,
                           (double)o[i * c->d_v + d] / lanes, want / sum, v_max * 4.0 * tolerance))
                return;
        }
    }
}

/* Writes element `i` of a page as the kernel takes it and returns its value. Unseen ones are NaN and infinities, of 8-bit codes any
 * code (with a scale of NaN). */
static float put_element(const attn_case *c, void *data, size_t i, const float *scale, bool seen, float value, int8_t code)
{
    uint16_t h = seen ? nearest_half(value) : i % 3 ? 0x7e00 : 0xfc00; /* NaN, -infinity */
    switch (c->type) {
    case CT_F16: ((uint16_t *)data)[i] = h; return ct_f16_to_f32(h);
    case CT_F32: return ((float *)data)[i] = seen ? value : NAN;
    default: ((int8_t *)data)[i] = code; return (float)code * *scale;
    }
}

static float any_scale(test_rng *rng, bool seen)
{
    if (!seen) return test_below(rng, 2) ? NAN : INFINITY;
    return test_below(rng, 8) == 0 ? 0.0f : fabsf(test_uniform(rng)) * ldexpf(1.0f, -7);
}

static void run_attention(test_rng *rng, size_t n_q, size_t d_k, size_t d_v, ct_type type, int ranges, float q_scale)
{
    attn_case c = {.n_q = n_q, .d_k = d_k, .d_v = d_v, .type = type};
    char label[96];
    snprintf(label, sizeof label, "attend_%s: %zu queries, d_k %zu, d_v %zu, ranges %d",
             type == CT_F32 ? "f32" : type == CT_F16 ? "f16" : "i8", n_q, d_k, d_v, ranges);
    c.q = must_alloc(n_q * d_k, sizeof(float));
    c.begin = must_alloc(PAGES * n_q, sizeof(int32_t));
    c.end = must_alloc(PAGES * n_q, sizeof(int32_t));
    for (size_t i = 0; i < n_q * d_k; i++) c.q[i] = test_uniform(rng) * q_scale;
    fill_ranges(rng, &c, ranges);
    for (size_t p = 0; p < PAGES; p++) {
        bool seen[32] = {false};
        for (size_t i = 0; i < n_q; i++)
            for (int32_t j = c.begin[p * n_q + i]; j < c.end[p * n_q + i]; j++) seen[j] = true;
        c.kt[p] = must_alloc(32 * d_k, sizeof(float));
        c.v[p] = must_alloc(32 * d_v, sizeof(float));
        c.kt_data[p] = must_alloc(32 * d_k, elem_bytes(&c));
        c.v_data[p] = must_alloc(32 * d_v, elem_bytes(&c));
        size_t k_blocks = ct_kv_blocks(d_k), v_blocks = ct_kv_blocks(d_v);
        c.k_scale[p] = must_alloc(32 * k_blocks, sizeof(float));
        c.v_scale[p] = must_alloc(32 * v_blocks, sizeof(float));
        for (size_t i = 0; i < 32 * k_blocks; i++) c.k_scale[p][i] = any_scale(rng, seen[i % 32]);
        for (size_t i = 0; i < 32 * v_blocks; i++) c.v_scale[p][i] = 4.0f * any_scale(rng, seen[i / v_blocks]);
        for (size_t i = 0; i < 32 * d_k; i++) {
            const float *scale = c.k_scale[p] + i / 32 / CT_KV_BLOCK * 32 + i % 32;
            c.kt[p][i] = put_element(&c, c.kt_data[p], i, scale, seen[i % 32], test_uniform(rng), (int8_t)((int)test_below(rng, 255) - 127));
        }
        for (size_t i = 0; i < 32 * d_v; i++) {
            const float *scale = c.v_scale[p] + i / d_v * v_blocks + i % d_v / CT_KV_BLOCK;
            c.v[p][i] = put_element(&c, c.v_data[p], i, scale, seen[i / d_v], test_uniform(rng) * 4.0f, (int8_t)((int)test_below(rng, 255) - 127));
        }
    }
    float *m = must_alloc(2 * n_q, sizeof(float)), *l = must_alloc(2 * n_q * 16, sizeof(float));
    float *o = must_alloc(2 * n_q * d_v, sizeof(float));
    attend(scalar(), &c, m, l, o);
    check_attention_f64(&c, label, m, l, o);
    FOR_SETS(k) {
        float *m2 = m + n_q, *l2 = l + n_q * 16, *o2 = o + n_q * d_v;
        attend(k, &c, m2, l2, o2);
        for (size_t i = 0; i < n_q * d_v; i++)
            if (!CHECK_MSG(same(o2[i], o[i]), "%s %s: o of query %zu, value %zu is %a, not %a", k->name, label, i / d_v,
                           i % d_v, (double)o2[i], (double)o[i]))
                break;
        for (size_t i = 0; i < n_q * 16; i++)
            if (!CHECK_MSG(same(l2[i], l[i]), "%s %s: l of query %zu, lane %zu is %a, not %a", k->name, label, i / 16, i % 16,
                           (double)l2[i], (double)l[i]))
                break;
        for (size_t i = 0; i < n_q; i++)
            if (!CHECK_MSG(same(m2[i], m[i]), "%s %s: m of query %zu is %a, not %a", k->name, label, i, (double)m2[i],
                           (double)m[i]))
                break;
    }
    free(m);
    free(l);
    free(o);
    for (size_t p = 0; p < PAGES; p++) {
        free(c.kt[p]);
        free(c.v[p]);
        free(c.kt_data[p]);
        free(c.v_data[p]);
        free(c.k_scale[p]);
        free(c.v_scale[p]);
    }
    free(c.q);
    free(c.begin);
    free(c.end);
}

TEST(attention)
{
    static const size_t sizes[][2] = {{64, 64}, {128, 128}, {4, 4},    {64, 32}, {12, 20},
                                      {80, 80}, {36, 100},  {8, 256}, {192, 28}};
    static const size_t queries[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 33, 64};
    test_rng rng = {12};
    size_t round = 0;
    static const ct_type types[] = {CT_F32, CT_F16, CT_Q8_0};
    for (size_t type = 0; type < 3; type++)
        for (int ranges = RANGES_FULL; ranges < N_RANGE_KINDS; ranges++)
            for (size_t i = 0; i < sizeof queries / sizeof *queries; i++, round++) {
                const size_t *size = sizes[round % (sizeof sizes / sizeof *sizes)];
                float q_scale = round % 5 == 4 ? 60.0f : 1.0f; /* scores so far apart that weights vanish */
                run_attention(&rng, queries[i], size[0], size[1], types[type], ranges, q_scale);
            }
    for (size_t n_q = 1; n_q <= 64; n_q++) run_attention(&rng, n_q, 16, 24, types[n_q % 3], RANGES_RANDOM, 2.0f);
    for (size_t d = 4; d <= 100; d += 4) /* every length of the last block, converted on the way and before */
        for (size_t n_q = 1; n_q <= 10; n_q += 9) run_attention(&rng, n_q, d, 104 - d, CT_Q8_0, RANGES_RANDOM, 1.0f);
}

TEST_MAIN()
