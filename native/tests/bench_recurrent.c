/* bench_recurrent.c: the time of the recurrent layers of a model, beside that of the products around them.
 *
 *     bench_recurrent [threads] [tokens] [set] [model]      (1 thread, 1 and 512 tokens, the best set, all models)
 *
 * Each line: microseconds per token of all such layers of a model, best (median) of several runs: the layer without its
 * products, and the products of the whole model (its layers' matrices, Q8_0, random), then the share of the first in both. Every layer
 * has its own state and weights, so that one token comes from memory as it does in a model. A measurement, not a test. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gguf/types.h"
#include "nn/recurrent.h"

enum { MAX_LAYERS = 64, MAX_MATRICES = 8, RUNS = 9 };

typedef enum kind { SHORT_CONV, MAMBA, MAMBA2, DELTA_NET } kind;

typedef struct model {
    const char *name;
    kind kind;
    size_t n_layers;       /* recurrent ones */
    size_t n_matrix_elems; /* of all layers' products (head and embedding left out) */
    size_t d_model;
    size_t n_heads, head_dim, d_state, n_groups; /* MAMBA: head_dim is d_inner; DELTA_NET: k = v heads, d_k = d_v = d_state */
} model;

static const model models[] = {
    {"lfm2-350m", SHORT_CONV, 10, 287000000, 1024, 0, 0, 0, 0},
    {"mamba-130m", MAMBA, 24, 91000000, 768, 1, 1536, 16, 1},
    {"mamba2-130m", MAMBA2, 24, 90000000, 768, 24, 64, 128, 1},
    {"falcon-h1-0.5b", MAMBA2, 36, 454000000, 1024, 24, 64, 128, 1},
    {"qwen3.5-0.8b", DELTA_NET, 18, 498000000, 1024, 16, 128, 128, 16},
};

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void *allocate(size_t n, size_t elem_bytes)
{
    void *p = ct_alloc(n, elem_bytes);
    if (p == NULL) {
        fprintf(stderr, "bench_recurrent: no memory\n");
        exit(1);
    }
    return p;
}

static float *random_floats(size_t n, float scale, float centre)
{
    static uint32_t s = 2463534242u; /* xorshift (G. Marsaglia) */
    float *x = allocate(n, sizeof *x);
    for (size_t i = 0; i < n; i++) {
        s ^= s << 13, s ^= s >> 17, s ^= s << 5;
        x[i] = centre + scale * ((float)(s >> 8) * 0x1p-23f - 1.0f);
    }
    return x;
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

typedef struct bench {
    ct_exec exec;
    const model *m;
    ct_conv conv;
    ct_mamba mamba;
    ct_mamba2 mamba2;
    ct_delta_net delta;
    ct_state_run run;
    float *states[MAX_LAYERS];
    const float *fresh;     /* what `in` begins as: MAMBA2 overwrites it */
    size_t in_floats;
    float *in, *z, *a, *b, *x, *y, *scratch;
    ct_matrix w;            /* d_model columns, as many rows as all products have */
    ct_input input;
    float *out;
    size_t n_tok;
} bench;

static double layers(bench *s)
{
    double sum = 0.0;
    for (size_t i = 0; i < s->m->n_layers; i++) {
        s->run.state = s->states[i];
        memcpy(s->in, s->fresh, s->in_floats * sizeof *s->in);
        double from = now_us();
        switch (s->m->kind) {
        case SHORT_CONV: ct_short_conv(&s->exec, &s->conv, &s->run, 1, s->in, s->y); break;
        case MAMBA:
            ct_mamba_conv(&s->exec, &s->mamba, &s->run, 1, s->in, s->x);
            ct_mamba_scan(&s->exec, &s->mamba, &s->run, 1, s->in, s->x, s->z, s->a, s->y);
            break;
        case MAMBA2: ct_mamba2_mix(&s->exec, &s->mamba2, &s->run, 1, s->in, s->y); break;
        case DELTA_NET: ct_delta_net_mix(&s->exec, &s->delta, &s->run, 1, s->in, s->z, s->a, s->b, s->y, s->scratch); break;
        }
        sum += now_us() - from;
    }
    return sum;
}

static double products(bench *s)
{
    double from = now_us();
    s->input.quantised = false;
    for (size_t done = 0; done < s->w.n_rows; done += 4096) { /* as many as a layer's matrix has */
        ct_matrix part = s->w;
        part.data += done * s->w.row_bytes;
        part.n_rows = ct_min_size(4096, s->w.n_rows - done);
        ct_linear(&s->exec, &s->input, &(ct_product){&part, s->out}, 1);
    }
    return now_us() - from;
}

static double measure(bench *s, double (*what)(bench *), double *median)
{
    double times[RUNS];
    size_t repeat = s->n_tok == 1 ? 8 : 1;
    what(s);
    for (size_t i = 0; i < RUNS; i++) {
        times[i] = 0.0;
        for (size_t r = 0; r < repeat; r++) times[i] += what(s) / (double)(s->n_tok * repeat);
    }
    qsort(times, RUNS, sizeof times[0], by_value);
    *median = times[RUNS / 2];
    return times[0];
}

static void run_model(const model *m, const char *set, int n_threads, size_t n_tok, const uint8_t *weights)
{
    bench s = {.m = m, .n_tok = n_tok, .run = {0, n_tok, false, NULL}};
    cactus_error error;
    if (ct_exec_create(&s.exec, set, n_threads, m->d_model, 64, &error) != CACTUS_OK) {
        fprintf(stderr, "bench_recurrent: %s\n", error.message);
        exit(1);
    }
    size_t d_inner = m->n_heads * m->head_dim, channels = m->kind == SHORT_CONV ? m->d_model : d_inner, in_width = 3 * channels, n = 0;
    if (m->kind == MAMBA2) channels += 2 * m->n_groups * m->d_state, in_width = d_inner + channels + m->n_heads;
    if (m->kind == DELTA_NET) channels = in_width = 3 * d_inner;
    if (m->kind == MAMBA) in_width = 2 * d_inner;
    s.conv = (ct_conv){m->kind == SHORT_CONV ? 3 : 4, channels, random_floats(4 * channels, 0.5f, 0.0f), NULL};
    s.in_floats = n_tok * in_width;
    s.in = allocate(s.in_floats, sizeof *s.in);
    s.fresh = random_floats(s.in_floats, 1.0f, 0.0f);
    s.z = random_floats(n_tok * (d_inner + 1), 1.0f, 0.0f);
    s.a = random_floats(n_tok * (m->d_state * 2 + m->n_heads), 1.0f, 0.0f);
    s.b = random_floats(n_tok * (m->n_heads + 1), 1.0f, 0.0f);
    s.x = allocate(n_tok * channels, sizeof *s.x);
    s.y = allocate(n_tok * channels, sizeof *s.y);
    float *a = random_floats((m->d_state + 1) * (d_inner + 16), 0.4f, -0.5f), *ones = random_floats(d_inner + 16, 0.1f, 1.0f);
    s.mamba = (ct_mamba){.conv = s.conv, .d_inner = d_inner, .d_state = m->d_state, .dt_rank = m->n_heads, .a = a, .d = ones};
    s.mamba2 = (ct_mamba2){.conv = s.conv, .d_inner = d_inner, .d_state = m->d_state, .n_heads = m->n_heads, .n_groups = m->n_groups, .a = a,
                           .d = ones, .dt_bias = ones, .norm = ones, .norm_eps = 1e-5f};
    s.delta = (ct_delta_net){.conv = s.conv, .n_k_heads = m->n_heads, .d_k = m->d_state, .n_v_heads = m->n_heads, .d_v = m->head_dim,
                             .a = a, .dt_bias = ones, .norm = ones, .norm_eps = 1e-6f, .l2_eps = 1e-6f};
    if (m->kind == SHORT_CONV) n = ct_short_conv_state_floats(&s.conv);
    if (m->kind == MAMBA) n = ct_mamba_state_floats(&s.mamba);
    if (m->kind == MAMBA2) n = ct_mamba2_state_floats(&s.mamba2);
    if (m->kind == DELTA_NET) n = ct_delta_net_state_floats(&s.delta);
    for (size_t i = 0; i < m->n_layers; i++) s.states[i] = random_floats(n, 0.01f, 0.0f);
    s.scratch = allocate(m->kind == DELTA_NET ? ct_delta_net_scratch_floats(&s.delta) * (size_t)n_threads : 1, sizeof *s.scratch);
    s.w = (ct_matrix){.data = weights, .info = ct_type_get(8), .type = CT_Q8_0, .n_rows = m->n_matrix_elems / m->d_model,
                      .n_cols = m->d_model, .row_bytes = m->d_model / 32 * 34};
    s.input = (ct_input){.x = s.in, .act = allocate(n_tok, s.exec.k->act_bytes(m->d_model)), .n_tok = n_tok, .n_cols = m->d_model};
    s.out = allocate(n_tok * 4096, sizeof *s.out);
    double layers_median, products_median, best = measure(&s, layers, &layers_median), most = measure(&s, products, &products_median);
    printf("%-16s %4zu tokens, %d threads: layers %8.1f (%8.1f), products %9.1f (%9.1f), share %4.1f %%\n", m->name, n_tok, n_threads, best,
           layers_median, most, products_median, 100.0 * layers_median / (layers_median + products_median));
    fflush(stdout);
    for (size_t i = 0; i < m->n_layers; i++) ct_free(s.states[i]);
    float *const buffers[] = {(float *)(uintptr_t)s.conv.w, (float *)(uintptr_t)s.fresh, s.in, s.z, s.a, s.b, s.x, s.y, a, ones, s.scratch, s.out};
    for (size_t i = 0; i < sizeof buffers / sizeof buffers[0]; i++) ct_free(buffers[i]);
    ct_free(s.input.act);
    ct_exec_free(&s.exec);
}

int main(int argc, char **argv)
{
    const char *set = argc > 3 && strcmp(argv[3], "-") != 0 ? argv[3] : NULL;
    int n_threads = argc > 1 ? atoi(argv[1]) : 1;
    size_t wanted = argc > 2 ? (size_t)atoi(argv[2]) : 0, n_models = sizeof models / sizeof models[0], largest = 0;
    for (size_t i = 0; i < n_models; i++)
        if (models[i].n_matrix_elems > largest) largest = models[i].n_matrix_elems;
    uint8_t *weights = allocate(largest / 32 * 34, 1);
    for (size_t i = 0; i < largest / 32 * 34; i++) weights[i] = i % 34 == 1 ? 0x10 : (uint8_t)(i * 37 >> 3); /* scales about 5e-4 */
    for (size_t i = 0; i < n_models; i++) {
        if (argc > 4 && strcmp(argv[4], models[i].name) != 0) continue;
        if (wanted == 0 || wanted == 1) run_model(&models[i], set, n_threads, 1, weights);
        if (wanted != 1) run_model(&models[i], set, n_threads, wanted > 0 ? wanted : 512, weights);
    }
    ct_free(weights);
    return 0;
}
