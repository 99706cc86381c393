/* test_attention.c: attention over pages against plain sums in float64, and against itself: the number of threads, the cut into tokens
 * and into segments must not change a bit. */
#include "nn/nn.h"
#include "tests/test.h"

enum { N_HEADS = 4, N_KV_HEADS = 2, D = 8, MAX_TOKENS = 2200, N_PAGES = (MAX_TOKENS + CT_PAGE_TOKENS - 1) / CT_PAGE_TOKENS };

typedef struct sequence {
    float *q, *k, *v; /* [MAX_TOKENS, heads * D] */
    ct_kv_layout kv;
    uint8_t *pages[N_PAGES];
} sequence;

static float *random_floats(test_rng *rng, size_t n, float scale)
{
    float *x = ct_alloc(n, sizeof *x);
    if (x == NULL) abort();
    for (size_t i = 0; i < n; i++) x[i] = test_uniform(rng) * scale;
    return x;
}

static void sequence_make(sequence *s, ct_kv_type type, uint64_t seed)
{
    test_rng rng = {seed};
    s->q = random_floats(&rng, MAX_TOKENS * N_HEADS * D, 2.0f);
    s->k = random_floats(&rng, MAX_TOKENS * N_KV_HEADS * D, 2.0f);
    s->v = random_floats(&rng, MAX_TOKENS * N_KV_HEADS * D, 1.0f);
    CHECK(ct_kv_layout_init(&s->kv, type, 1, N_KV_HEADS, D, D));
    for (size_t p = 0; p < N_PAGES; p++) {
        s->pages[p] = ct_alloc(1, s->kv.page_bytes);
        if (s->pages[p] == NULL) abort();
        memset(s->pages[p], 0xff, s->kv.page_bytes); /* NaN where nothing is stored */
    }
}

static void sequence_free(sequence *s)
{
    ct_free(s->q);
    ct_free(s->k);
    ct_free(s->v);
    for (size_t p = 0; p < N_PAGES; p++) ct_free(s->pages[p]);
}

/* Tokens pos … pos + n - 1: stored, then attended to; out [n, N_HEADS * D]. */
static void attend(const ct_exec *exec, sequence *s, size_t pos, size_t n, size_t window, float *out)
{
    ct_run run = {.first = 0, .n_tok = n, .pos = pos, .pages = s->pages};
    float *q = s->q + pos * N_HEADS * D;
    ct_attn attn = {.n_heads = N_HEADS, .window = window, .scale = 0.25f};
    ct_store_keys(exec, &s->kv, &attn, &run, 1, q, s->k + pos * N_KV_HEADS * D, s->v + pos * N_KV_HEADS * D);
    ct_attention(exec, &s->kv, &attn, &run, 1, q, out);
}

/* One head of one token in float64. */
static void truth(const sequence *s, size_t pos, size_t head, size_t window, double *out)
{
    const float *q = s->q + (pos * N_HEADS + head) * D;
    size_t kv_head = head / (N_HEADS / N_KV_HEADS), from = window > 0 && pos + 1 > window ? pos + 1 - window : 0;
    double sum = 0.0;
    memset(out, 0, D * sizeof *out);
    for (size_t i = from; i <= pos; i++) {
        const float *k = s->k + (i * N_KV_HEADS + kv_head) * D, *v = s->v + (i * N_KV_HEADS + kv_head) * D;
        double score = 0.0;
        for (size_t d = 0; d < D; d++) score += (double)q[d] * 0.25 * (double)k[d];
        double weight = exp(score);
        sum += weight;
        for (size_t d = 0; d < D; d++) out[d] += weight * (double)v[d];
    }
    for (size_t d = 0; d < D; d++) out[d] /= sum;
}

static bool make_exec(ct_exec *exec, const char *kernels, int n_threads)
{
    cactus_error error;
    return CHECK_MSG(ct_exec_create(exec, kernels, n_threads, D, D, &error) == CACTUS_OK, "%s", error.message);
}

static void check_window(size_t window)
{
    static const size_t last[] = {0, 31, 500, 1023, 1024, 1025, 2047, 2048, 2049, MAX_TOKENS - 1};
    enum { N_LAST = sizeof last / sizeof last[0], ROW = N_HEADS * D };
    float *whole = ct_alloc(MAX_TOKENS * ROW, sizeof *whole), *part = ct_alloc(MAX_TOKENS * ROW, sizeof *part);
    sequence s;
    ct_exec exec;
    sequence_make(&s, CT_KV_F32, 11);
    if (whole == NULL || part == NULL) abort();
    if (!make_exec(&exec, "scalar", 1)) return;
    attend(&exec, &s, 0, MAX_TOKENS, window, whole);
    ct_exec_free(&exec);
    for (size_t i = 0; i < N_LAST; i++)
        for (size_t head = 0; head < N_HEADS; head++) {
            double want[D];
            truth(&s, last[i], head, window, want);
            for (size_t d = 0; d < D; d++) CHECK_NEAR(whole[last[i] * ROW + head * D + d], want[d], 2e-6);
        }
    for (int n_threads = 1; n_threads <= 8; n_threads *= 2) {
        if (!make_exec(&exec, NULL, n_threads)) break;
        for (size_t i = 0; i < N_LAST; i++) /* one token behind a long context, and five that end there */
            for (size_t n = 1; n <= 5; n += 4) {
                if (last[i] + 1 < n) continue;
                size_t pos = last[i] + 1 - n;
                attend(&exec, &s, pos, n, window, part);
                CHECK_MSG(memcmp(part, whole + pos * ROW, n * ROW * sizeof *part) == 0, "%d threads, %zu tokens at %zu, window %zu differ",
                          n_threads, n, pos, window);
            }
        if (n_threads == 2) {
            attend(&exec, &s, 900, 1200, window, part);
            CHECK_MSG(memcmp(part, whole + 900 * ROW, 1200 * ROW * sizeof *part) == 0, "a chunk in the middle differs, window %zu", window);
        }
        ct_exec_free(&exec);
    }
    ct_free(whole);
    ct_free(part);
    sequence_free(&s);
}

TEST(attention_is_that_of_float64_and_the_same_for_any_cut) { check_window(0); }

TEST(a_sliding_window_across_segments)
{
    check_window(100);
    check_window(1025);
}

/* Several sequences of different lengths in one batch, whose segments are tiles. */
TEST(sequences_of_different_lengths_together)
{
    enum { ROW = N_HEADS * D };
    static const size_t pos[3] = {2100, 3, 1100};
    float q[3 * ROW], out[3 * ROW], alone[ROW];
    sequence s[3];
    ct_run runs[3];
    ct_exec exec;
    if (!make_exec(&exec, NULL, 8)) return;
    for (size_t i = 0; i < 3; i++) {
        sequence_make(&s[i], CT_KV_F16, 20 + i);
        float *first = ct_alloc(pos[i] * ROW, sizeof *first);
        if (first == NULL) abort();
        attend(&exec, &s[i], 0, pos[i], 0, first);
        ct_free(first);
        attend(&exec, &s[i], pos[i], 1, 0, alone);
        memcpy(q + i * ROW, s[i].q + pos[i] * ROW, sizeof alone);
        runs[i] = (ct_run){.first = i, .n_tok = 1, .pos = pos[i], .pages = s[i].pages};
    }
    ct_attention(&exec, &s[0].kv, &(ct_attn){.n_heads = N_HEADS, .scale = 0.25f}, runs, 3, q, out);
    for (size_t i = 0; i < 3; i++) {
        attend(&exec, &s[i], pos[i], 1, 0, alone);
        CHECK_MSG(memcmp(alone, out + i * ROW, sizeof alone) == 0, "sequence %zu differs", i);
        sequence_free(&s[i]);
    }
    ct_exec_free(&exec);
}

TEST_MAIN()
