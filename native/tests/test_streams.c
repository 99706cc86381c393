/* test_streams.c: several residual streams through one layer, and the outliers of a row, against plain sums in float64; kernel sets and
 * threads must not change a bit. */
#include "nn/streams.h"
#include "tests/test.h"

enum { D = 100, N_TOK = 5, MAX_N = CT_MAX_STREAMS };

static const char *const sets[] = {"scalar", "avx2", "avxvnni", "avx512vnni", "neon", "dotprod", "i8mm"};

typedef struct weights {
    float first[MAX_N * D * D], last[MAX_N * D * D], router[MAX_N * D], norm[D], predict[MAX_N * MAX_N * MAX_N], correct[MAX_N * MAX_N], scale[D];
    float x[N_TOK * D], change[N_TOK * D], input[N_TOK * D]; /* the first stream, what the layer adds, what its input adds */
    ct_streams streams;
    ct_stream_mix mix;
} weights;

static void fill(test_rng *rng, float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) x[i] = test_uniform(rng) * scale;
}

static ct_matrix matrix(const float *data, size_t n_rows)
{
    return (ct_matrix){.data = (const uint8_t *)(const void *)data, .info = ct_type_get(CT_F32), .type = CT_F32, .n_rows = n_rows, .n_cols = D,
                       .row_bytes = D * sizeof(float)};
}

static void make(weights *w, size_t n, size_t active, uint64_t seed)
{
    test_rng rng = {seed};
    fill(&rng, w->first, MAX_N * D * D, 0.2f);
    fill(&rng, w->last, MAX_N * D * D, 0.2f);
    fill(&rng, w->router, MAX_N * D, 20.0f);
    fill(&rng, w->norm, D, 1.0f);
    fill(&rng, w->predict, MAX_N * MAX_N * MAX_N, 0.5f);
    fill(&rng, w->correct, MAX_N * MAX_N, 0.5f);
    fill(&rng, w->scale, D, 1.0f);
    fill(&rng, w->x, N_TOK * D, 3.0f);
    fill(&rng, w->change, N_TOK * D, 1.0f);
    fill(&rng, w->input, N_TOK * D, 1.0f);
    w->streams = (ct_streams){.n = n, .active = active, .d = D, .first = matrix(w->first, D), .last = matrix(w->last, D)};
    w->mix = (ct_stream_mix){.router_norm = {.weight = w->norm, .eps = 1e-6f}, .router = matrix(w->router, n), .predict = w->predict,
                             .correct = w->correct, .scale = w->scale};
}

/* What the functions leave: the active stream before the layer and scaled behind it, and the mean in the end. */
typedef struct result {
    float before[N_TOK * D], behind[N_TOK * D], mean[N_TOK * D];
} result;

static bool compute(const weights *w, const char *kernels, int n_threads, result *r)
{
    ct_exec exec;
    ct_streams_room room = {0};
    cactus_error error;
    float x[N_TOK * D];
    size_t n_bytes = 0;
    if (!CHECK_MSG(ct_exec_create(&exec, kernels, n_threads, D, 4, &error) == CACTUS_OK, "%s", error.message)) return false;
    bool ok = CHECK(ct_streams_room_init(&room, exec.k, N_TOK, w->streams.n, D, &n_bytes));
    if (ok) {
        ct_streams_begin(&exec, &w->streams, &room, w->x, N_TOK);
        ct_streams_predict(&exec, &w->streams, &w->mix, &room, r->before, N_TOK);
        for (size_t i = 0; i < N_TOK * D; i++) x[i] = r->before[i] + w->change[i];
        ct_streams_correct(&exec, &w->streams, &w->mix, &room, x, r->behind, N_TOK);
        ct_streams_add(&exec, &w->streams, &room, w->input, N_TOK);
        ct_streams_end(&exec, &w->streams, &room, r->mean, N_TOK);
    }
    ct_streams_room_free(&room);
    ct_exec_free(&exec);
    return ok;
}

static double square_of(const double *x)
{
    double sum = 0.0;
    for (size_t i = 0; i < D; i++) sum += x[i] * x[i];
    return sum;
}

/* y = W x, as long as `like`. */
static void turned(double *y, const float *w, const double *x, const double *like)
{
    for (size_t r = 0; r < D; r++) {
        y[r] = 0.0;
        for (size_t i = 0; i < D; i++) y[r] += (double)w[r * D + i] * x[i];
    }
    double factor = sqrt(square_of(like) / square_of(y));
    for (size_t r = 0; r < D; r++) y[r] *= factor;
}

static void modalities(const weights *w, const double *x, double *m)
{
    double rms = sqrt(square_of(x) / D + 1e-6);
    for (size_t i = 0; i < w->streams.n; i++) {
        m[i] = 0.0;
        for (size_t c = 0; c < D; c++) m[i] += x[c] / rms * (double)w->norm[c] * (double)w->router[i * D + c] / D;
        m[i] = tanh(m[i]);
    }
}

static void check_token(const weights *w, const result *r, size_t t)
{
    size_t n = w->streams.n, active = w->streams.active;
    double s[MAX_N][D], p[MAX_N][D], x[D], m[MAX_N], part[D], mean[D];
    for (size_t i = 0; i < D; i++) s[0][i] = (double)w->x[t * D + i];
    for (size_t j = 1; j < n; j++) turned(s[j], w->first + (j - 1) * D * D, s[0], s[0]);
    modalities(w, s[active], m);
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < D; i++) {
            p[j][i] = s[j][i];
            for (size_t k = 0; k < n; k++)
                for (size_t q = 0; q < n; q++) p[j][i] += (double)w->predict[(j * n + k) * n + q] * m[q] * s[k][i];
        }
    for (size_t i = 0; i < D; i++) x[i] = p[active][i] + (double)w->change[t * D + i];
    modalities(w, x, m);
    for (size_t j = 0; j < n; j++) {
        double weight = 1.0;
        for (size_t q = 0; q < n; q++) weight += (double)w->correct[j * n + q] * m[q];
        for (size_t i = 0; i < D; i++) s[j][i] = p[j][i] + (double)w->change[t * D + i] * weight;
    }
    for (size_t i = 0; i < D; i++) {
        CHECK_NEAR(r->before[t * D + i], p[active][i], 2e-5);
        CHECK_NEAR(r->behind[t * D + i], s[active][i] * (double)w->scale[i], 2e-5);
        for (size_t j = 1; j < n; j++) s[j][i] += (double)w->input[t * D + i];
        mean[i] = s[0][i];
    }
    for (size_t j = 1; j < n; j++) {
        turned(part, w->last + (j - 1) * D * D, s[j], s[0]);
        for (size_t i = 0; i < D; i++) mean[i] += part[i];
    }
    for (size_t i = 0; i < D; i++) CHECK_NEAR(r->mean[t * D + i], mean[i] / (double)n, 5e-5);
}

TEST(streams_are_what_float64_says)
{
    static const struct { size_t n, active; } cases[] = {{2, 0}, {2, 1}, {3, 1}, {4, 0}, {8, 7}};
    weights *w = ct_alloc(1, sizeof *w);
    result first, other;
    if (!CHECK(w != NULL)) return;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        make(w, cases[i].n, cases[i].active, 40 + i);
        if (!compute(w, "scalar", 1, &first)) break;
        for (size_t t = 0; t < N_TOK; t++) check_token(w, &first, t);
        for (size_t k = 0; k < sizeof sets / sizeof sets[0]; k++) {
            if (ct_kernels_get(sets[k]) == NULL || !compute(w, sets[k], 3, &other)) continue;
            CHECK_MSG(memcmp(&first, &other, sizeof first) == 0, "%zu streams: %s on 3 threads differs", cases[i].n, sets[k]);
        }
    }
    ct_free(w);
}

TEST(outliers_are_what_float64_says)
{
    static const size_t sizes[] = {1, 2, 15, 16, 17, 64, 1000, 16384};
    enum { MAX = 16384, ROWS = 3 };
    float *x = ct_alloc(ROWS * MAX, sizeof *x), *y = ct_alloc(ROWS * MAX, sizeof *y);
    test_rng rng = {7};
    cactus_error error;
    ct_exec exec;
    if (!CHECK(x != NULL && y != NULL)) return;
    if (!CHECK_MSG(ct_exec_create(&exec, "scalar", 2, 32, 4, &error) == CACTUS_OK, "%s", error.message)) return;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        size_t n = sizes[s];
        fill(&rng, x, ROWS * n, 4.0f);
        memcpy(y, x, ROWS * n * sizeof *x);
        ct_keep_outliers(&exec, y, 0.67448974f, ROWS, n);
        for (size_t r = 0; r < ROWS; r++) {
            double mean = 0.0, square = 0.0;
            for (size_t i = 0; i < n; i++) mean += (double)x[r * n + i] / (double)n;
            for (size_t i = 0; i < n; i++) square += ((double)x[r * n + i] - mean) * ((double)x[r * n + i] - mean) / (double)n;
            double cutoff = mean + sqrt(square) * (double)0.67448974f;
            for (size_t i = 0; i < n; i++) CHECK_NEAR(y[r * n + i], fmax((double)x[r * n + i] - cutoff, 0.0), 1e-5);
        }
    }
    ct_exec_free(&exec);
    ct_free(x);
    ct_free(y);
}

TEST_MAIN()
