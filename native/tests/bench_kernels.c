/* bench_kernels.c: the speed of each kernel set, on one thread.
 *
 *     bench_kernels [set] [row]     all sets and rows unless named: "bench_kernels avx2 Q4_1", "bench_kernels - attend"
 *
 * matvec   a matrix of 256 MB times one vector of 1536, read once from end to end: GB/s of weights, G multiply-adds/s
 * gemm     1536 x 576 weights times 512 (and 8) tokens, unpacking included: G multiply-adds/s
 * few      the same weights times 2, 4 and 8 tokens, straight from the blocks: G multiply-adds/s
 * others   data that fits the caches: nanoseconds per call, and elements or multiply-adds per nanosecond
 *
 * Each line gives the best and, in brackets, the median of several runs, in CPU time of the thread, so that a busy machine
 * disturbs little (its caches and its memory bandwidth are still shared). This is a measurement, not a test: it checks nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/core.h"
#include "kernels/kernels.h"

enum {
    MAX_RUNS = 100,
    MATVEC_COLS = 1536,
    GEMM_ROWS = 1536,
    GEMM_COLS = 576,
    GEMM_TOKENS = 512
};

static const size_t matrix_bytes = (size_t)256 << 20;
static uint8_t *matrix; /* [matrix_bytes] of every type's weights */
static const char *wanted;

static double now_s(void) /* CPU time of this thread */
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *allocate(size_t n_bytes)
{
    void *p = ct_alloc(n_bytes, 1);
    if (p == NULL) {
        fprintf(stderr, "bench_kernels: no memory for %zu bytes\n", n_bytes);
        exit(1);
    }
    return p;
}

static uint32_t random_u32(void) /* xorshift (G. Marsaglia) */
{
    static uint32_t state = 2463534242u;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

/* Any bytes for the types whose codes index tables, as all of a table is then in use; their f16 scales may be anything, which costs
 * nothing. Else bytes 0x20 … 0x3b: read as f16, f32, bf16 or E8M0 scales they are small ordinary numbers. */
static void fill_matrix(bool any_bytes)
{
    static int filled_with = -1;
    const size_t pattern = (size_t)1 << 20;
    if (filled_with == any_bytes) return;
    filled_with = any_bytes;
    for (size_t i = 0; i < pattern; i++) matrix[i] = (uint8_t)(any_bytes ? random_u32() : 0x20 + random_u32() % 28);
    for (size_t i = pattern; i < matrix_bytes; i *= 2) memcpy(matrix + i, matrix, ct_min_size(i, matrix_bytes - i));
}

static float *random_floats(size_t n, float range)
{
    float *x = allocate(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = range * ((float)(random_u32() >> 8) * 0x1p-23f - 1.0f);
    return x;
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

typedef struct timing {
    double best_s, median_s;
} timing;

/* Runs fn until min_s have passed, at least 5 times; `calls` calls are one run. */
static timing measure(void (*fn)(void *), void *ctx, size_t calls, double min_s)
{
    double runs[MAX_RUNS], start = now_s();
    size_t n = 0;
    fn(ctx);
    while (n < 5 || (n < MAX_RUNS && now_s() - start < min_s)) {
        double from = now_s();
        for (size_t i = 0; i < calls; i++) fn(ctx);
        runs[n++] = (now_s() - from) / (double)calls;
    }
    qsort(runs, n, sizeof *runs, by_value);
    return (timing){runs[0], runs[n / 2]};
}

static bool selected(const char *row) { return wanted == NULL || strcmp(wanted, row) == 0; }

/* ---- products ------------------------------------------------------------------------------------------------------- */

typedef struct product {
    const ct_kernels *k;
    const ct_type_info *info;
    ct_type type;
    size_t row_bytes, n_rows, n_cols, n_tok, act_stride;
    float *x, *y;
    uint8_t *act;
    void *panel;
    int8_t *codes;
    float *d, *m;
} product;

static void run_matvec(void *ctx)
{
    const product *p = ctx;
    const void *act = p->info->decode_codes != NULL ? (const void *)p->act : p->x;
    if (p->k->matvec[p->type] == NULL) p->k->matvec_codes(p->y, p->info, matrix, p->row_bytes, act, p->n_rows, p->n_cols);
    else p->k->matvec[p->type](p->y, matrix, p->row_bytes, act, p->n_rows, p->n_cols, NULL);
}

static void run_gemm(void *ctx)
{
    const product *p = ctx;
    const size_t sub = p->info->sub_elems, n_sub = p->n_cols / sub;
    for (size_t r = 0; r < p->n_rows; r += p->k->panel_rows) {
        size_t n = ct_min_size(p->k->panel_rows, p->n_rows - r);
        const uint8_t *w = matrix + r * p->row_bytes;
        if (p->k->unpack[p->type] != NULL) p->k->unpack[p->type](p->panel, w, p->row_bytes, n, p->n_cols);
        else {
            for (size_t i = 0; i < n; i++) {
                int8_t *codes = p->codes + i * p->n_cols;
                p->info->decode_codes(w + i * p->row_bytes, p->n_cols, codes, p->d + i * n_sub, p->m + i * n_sub);
            }
            p->k->pack_panel(p->panel, p->codes, p->d, p->m, n, p->n_cols, sub, p->info->has_min);
        }
        p->k->gemm_i8(p->y + r, p->n_rows, p->panel, p->act, p->act_stride, n, p->n_cols, p->n_tok, sub, p->info->has_min);
    }
}

static void run_few(void *ctx)
{
    const product *p = ctx;
    p->k->matmul_few[p->type](p->y, p->n_rows, matrix, p->row_bytes, p->act, p->act_stride, p->n_rows, p->n_cols, p->n_tok, NULL);
}

static void run_gemm_f32(void *ctx)
{
    const product *p = ctx;
    const float *w = (const float *)(const void *)matrix;
    p->k->gemm_f32(p->y, p->n_rows, w, p->n_cols, p->x, p->n_cols, p->n_rows, p->n_cols, p->n_tok);
}

static void bench_type(const ct_kernels *k, ct_type type)
{
    const ct_type_info *info = ct_type_get(type);
    product p = {.k = k, .info = info, .type = type};

    if (k->matvec[type] != NULL || (k->matvec_codes != NULL && info->decode_codes != NULL)) {
        p.n_cols = MATVEC_COLS;
        p.row_bytes = MATVEC_COLS / info->block_elems * info->block_bytes;
        p.n_rows = matrix_bytes / p.row_bytes;
        p.x = random_floats(p.n_cols, 1.0f);
        p.y = allocate(p.n_rows * sizeof *p.y);
        p.act = allocate(k->act_bytes(p.n_cols));
        k->quantize_act(p.act, p.x, p.n_cols);
        timing t = measure(run_matvec, &p, 1, 0.5);
        double bytes = (double)(p.n_rows * p.row_bytes), macs = (double)(p.n_rows * p.n_cols);
        printf("%-11s %-8s matvec          %7.1f (%.1f) GB/s  %7.1f GMAC/s\n", k->name, info->name, bytes / t.best_s * 1e-9,
               bytes / t.median_s * 1e-9, macs / t.best_s * 1e-9);
        ct_free(p.x);
        ct_free(p.y);
        ct_free(p.act);
    }

    if (info->decode_codes == NULL && type != CT_F32) return;
    p.n_cols = ct_round_up(GEMM_COLS, info->block_elems);
    p.n_rows = GEMM_ROWS;
    p.row_bytes = p.n_cols / info->block_elems * info->block_bytes;
    p.act_stride = k->act_bytes(p.n_cols);
    p.x = random_floats(GEMM_TOKENS * p.n_cols, 1.0f);
    p.y = allocate(GEMM_TOKENS * p.n_rows * sizeof *p.y);
    p.act = allocate(GEMM_TOKENS * p.act_stride);
    p.panel = allocate(k->panel_bytes(p.n_cols));
    p.codes = allocate(k->panel_rows * p.n_cols);
    p.d = allocate(k->panel_rows * p.n_cols / 16 * sizeof *p.d);
    p.m = allocate(k->panel_rows * p.n_cols / 16 * sizeof *p.m);
    for (size_t i = 0; i < GEMM_TOKENS; i++) k->quantize_act(p.act + i * p.act_stride, p.x + i * p.n_cols, p.n_cols);
    for (p.n_tok = GEMM_TOKENS; p.n_tok >= 8; p.n_tok /= 64) {
        timing t = measure(type == CT_F32 ? run_gemm_f32 : run_gemm, &p, 1, 0.3);
        double macs = (double)(p.n_rows * p.n_cols * p.n_tok);
        printf("%-11s %-8s gemm %3zu tokens %7.1f (%.1f) GMAC/s\n", k->name, info->name, p.n_tok, macs / t.best_s * 1e-9,
               macs / t.median_s * 1e-9);
    }
    for (p.n_tok = 2; k->matmul_few[type] != NULL && p.n_tok <= k->few_tokens; p.n_tok *= 2) {
        timing t = measure(run_few, &p, 1, 0.3);
        double macs = (double)(p.n_rows * p.n_cols * p.n_tok);
        printf("%-11s %-8s few  %3zu tokens %7.1f (%.1f) GMAC/s\n", k->name, info->name, p.n_tok, macs / t.best_s * 1e-9,
               macs / t.median_s * 1e-9);
    }
    ct_free(p.x);
    ct_free(p.y);
    ct_free(p.act);
    ct_free(p.panel);
    ct_free(p.codes);
    ct_free(p.d);
    ct_free(p.m);
}

/* ---- the rest ------------------------------------------------------------------------------------------------------- */

typedef struct vectors {
    const ct_kernels *k;
    size_t n;
    float *x, *y, *z;
    void *act;
    volatile float sink;
} vectors;

static void run_quantize_act(void *ctx) { vectors *v = ctx; v->k->quantize_act(v->act, v->x, v->n); }
static void run_rms_norm(void *ctx) { vectors *v = ctx; v->k->rms_norm(v->y, v->x, v->z, v->n, 1e-5f); }
static void run_silu_mul(void *ctx) { vectors *v = ctx; v->k->silu_mul(v->y, v->x, v->z, v->n); }
static void run_add(void *ctx) { vectors *v = ctx; v->k->add(v->y, v->x, v->n); }
static void run_quantize_kv(void *ctx) { vectors *v = ctx; v->k->quantize_kv((int8_t *)v->act, v->y, v->x, v->n); }
static void run_f32_to_f16(void *ctx) { vectors *v = ctx; v->k->f32_to_f16((uint16_t *)v->act, v->x, v->n); }

static void run_max_index(void *ctx)
{
    vectors *v = ctx;
    float max;
    v->k->max_index(v->x, v->n, &max);
    v->sink = max;
}

static void run_softmax_stats(void *ctx)
{
    vectors *v = ctx;
    float sum, weighted;
    v->k->softmax_stats(v->x, v->n, 1.0f, &sum, &weighted);
    v->sink = sum + weighted;
}

static void bench_vectors(const ct_kernels *k)
{
    static const struct {
        const char *name;
        void (*run)(void *);
        size_t n;
    } rows[] = {{"quantize_act", run_quantize_act, 1536}, {"rms_norm", run_rms_norm, 576},
                {"silu_mul", run_silu_mul, 1536},         {"add", run_add, 576},
                {"f32_to_f16", run_f32_to_f16, 576},      {"quantize_kv", run_quantize_kv, 64},     {"max_index", run_max_index, 49152},
                {"softmax_stats", run_softmax_stats, 49152}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (!selected(rows[i].name)) continue;
        vectors v = {.k = k, .n = rows[i].n};
        v.x = random_floats(v.n, 4.0f);
        v.y = random_floats(v.n, 1.0f);
        v.z = random_floats(v.n, 1.0f);
        v.act = allocate(k->act_bytes((v.n + 31) / 32 * 32) + 2 * v.n);
        timing t = measure(rows[i].run, &v, 200, 0.1);
        printf("%-11s %-14s n %-5zu  %9.0f (%.0f) ns  %6.2f elements/ns\n", k->name, rows[i].name, v.n, t.best_s * 1e9,
               t.median_s * 1e9, (double)v.n / t.best_s * 1e-9);
        ct_free(v.x);
        ct_free(v.y);
        ct_free(v.z);
        ct_free(v.act);
    }
}

typedef struct attention {
    const ct_kernels *k;
    ct_attn_tile tile;
    const uint16_t *kt, *v;
    ct_page_i8 page;
} attention;

static void run_attend(void *ctx)
{
    const attention *a = ctx;
    a->k->attend_f16(&a->tile, a->kt, a->v);
}

static void run_attend_i8(void *ctx)
{
    const attention *a = ctx;
    a->k->attend_i8(&a->tile, &a->page);
}

static void bench_attention(const ct_kernels *k)
{
    static const size_t n_queries[] = {1, 3, 12, 64}, head_sizes[] = {64, 128};
    if (!selected("attend")) return;
    for (size_t h = 0; h < 2; h++)
        for (size_t c = 0; c < sizeof n_queries / sizeof n_queries[0]; c++) {
            const size_t n_q = n_queries[c], d = head_sizes[h];
            float *q = random_floats(n_q * d, 0.1f), *page = random_floats(CT_PAGE_TOKENS * d, 1.0f);
            uint16_t *kt = allocate(CT_PAGE_TOKENS * d * 2);
            int8_t *codes = allocate(CT_PAGE_TOKENS * d);
            float *scales = allocate(CT_PAGE_TOKENS * ct_kv_blocks(d) * sizeof(float));
            int32_t begin[CT_MAX_QUERIES] = {0}, end[CT_MAX_QUERIES];
            for (size_t i = 0; i < n_q; i++) end[i] = CT_PAGE_TOKENS;
            k->f32_to_f16(kt, page, CT_PAGE_TOKENS * d);
            k->quantize_kv(codes, scales, page, CT_PAGE_TOKENS * d); /* blocks of 32 divide d: any order of them will do */
            attention a = {.k = k, .kt = kt, .v = kt, .page = {codes, scales, codes, scales}};
            a.tile = (ct_attn_tile){.n_q = n_q, .d_k = d, .d_v = d, .q = q, .begin = begin, .end = end};
            a.tile.m = random_floats(n_q, 1.0f);
            a.tile.l = random_floats(n_q * 16, 1.0f);
            a.tile.o = random_floats(n_q * d, 1.0f);
            a.tile.scratch = allocate((2 * CT_PAGE_TOKENS * d + CT_PAGE_TOKENS * n_q) * sizeof(float));
            for (int i8 = 0; i8 < 2; i8++) {
                timing t = measure(i8 ? run_attend_i8 : run_attend, &a, 200, 0.1);
                printf("%-11s attend %s %2zu queries, head %3zu  %9.0f (%.0f) ns  %6.1f GMAC/s\n", k->name, i8 ? "i8 " : "f16", n_q, d,
                       t.best_s * 1e9, t.median_s * 1e9, (double)(n_q * d * 2 * CT_PAGE_TOKENS) / t.best_s * 1e-9);
            }
            ct_free(q);
            ct_free(page);
            ct_free(kt);
            ct_free(codes);
            ct_free(scales);
            ct_free(a.tile.m);
            ct_free(a.tile.l);
            ct_free(a.tile.o);
            ct_free(a.tile.scratch);
        }
}

int main(int argc, char **argv)
{
    char sets[128];
    const char *set = argc > 1 && strcmp(argv[1], "-") != 0 ? argv[1] : NULL;
    wanted = argc > 2 ? argv[2] : NULL;
    if (set != NULL && ct_kernels_get(set) == NULL) {
        fprintf(stderr, "bench_kernels: no kernel set \"%s\" on this machine; there are: %s\n", set, ct_kernels_available());
        return 1;
    }
    matrix = allocate(matrix_bytes);
    snprintf(sets, sizeof sets, "%s", set != NULL ? set : ct_kernels_available());
    for (char *name = strtok(sets, " "); name != NULL; name = strtok(NULL, " ")) {
        const ct_kernels *k = ct_kernels_get(name);
        for (uint32_t type = 0; type < CT_N_TYPES; type++) {
            const ct_type_info *info = ct_type_get(type);
            if (info == NULL || info->decode_f32 == NULL || !selected(info->name)) continue;
            fill_matrix(info->block_elems == 256);
            bench_type(k, (ct_type)type);
        }
        bench_vectors(k);
        bench_attention(k);
    }
    ct_free(matrix);
    return 0;
}
