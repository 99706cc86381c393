/* test_quantize.c: rows -> blocks on every instruction set, against the decoders of types.c and against bounds that follow from the
 * grids of codes; recipes; importance matrices; whole files from tests/data. What llama.cpp's quantiser reaches on real weights is
 * compared in tests/test_quantize.py. */
#include <dirent.h>
#include <float.h>

#include "core/core.h"
#include "gguf/gguf.h"
#include "quantize/imatrix.h"
#include "quantize/recipe.h"
#include "quantize/rows.h"
#include "tests/test.h"

static const char *const sets[] = {"portable", "avx2", "avx512"};
enum { N_SETS = sizeof sets / sizeof sets[0] };

/* Made types, and the most that quantising normal weights may cost, relative to the sum of squares: what was measured and a tenth.
 * For comparison, 32 normal numbers rounded evenly over their range lose about (2.2 / 2^(bits - 1))^2 / 12: 6.3e-3 for four bits. */
static const struct { ct_type type; double most_error; } made[] = {
    {CT_F16, 4.8e-8},   {CT_BF16, 3.0e-6},  {CT_Q8_0, 2.6e-5},   {CT_Q4_0, 7.0e-3},  {CT_Q4_1, 5.4e-3}, {CT_Q5_0, 1.7e-3},
    {CT_Q5_1, 1.25e-3}, {CT_IQ4_NL, 5.8e-3}, {CT_MXFP4, 1.35e-2}, {CT_Q2_K, 7.4e-2},  {CT_Q3_K, 2.2e-2}, {CT_Q4_K, 5.3e-3},
    {CT_Q5_K, 1.28e-3}, {CT_Q6_K, 3.1e-4},  {CT_IQ4_XS, 6.0e-3}, {CT_TQ1_0, 0.204},  {CT_TQ2_0, 0.204},
    {CT_IQ3_S, 1.83e-2}, {CT_IQ3_XXS, 3.5e-2}, {CT_IQ2_S, 6.2e-2}, {CT_IQ2_XS, 9.0e-2}, {CT_IQ2_XXS, 0.119},
};
enum { N_MADE = sizeof made / sizeof made[0] };

static size_t bytes_of(ct_type type, size_t n_elems)
{
    const ct_type_info *info = ct_type_get(type);
    return n_elems / info->block_elems * info->block_bytes;
}

static void quantise(ct_rows_fn fn, ct_type type, const float *x, size_t n_elems, uint8_t *blocks)
{
    fn(&(ct_rows){.x = x, .n_blocks = n_elems / ct_type_get(type)->block_elems, .blocks = blocks});
}

/* Twelve uniform numbers: near enough to normal, and the same everywhere. */
static float normal(test_rng *rng)
{
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += test_uniform(rng);
    return 0.5f * sum;
}

/* Sum of squared differences and of squares. */
static double relative_error(ct_type type, const uint8_t *blocks, const float *x, size_t n)
{
    float *y = malloc(n * sizeof *y);
    double error = 0, total = 0;
    ct_type_get(type)->decode_f32(blocks, n, y);
    for (size_t i = 0; i < n; i++) {
        error += ((double)y[i] - (double)x[i]) * ((double)y[i] - (double)x[i]);
        total += (double)x[i] * (double)x[i];
    }
    free(y);
    return error / total;
}

/* ---- rows ----------------------------------------------------------------------------------------------------------- */

TEST(normal_weights_lose_no_more_than_the_grid)
{
    enum { N = 256 * 64 };
    float *x = malloc(N * sizeof *x);
    uint8_t *blocks = malloc(N * 4);
    test_rng rng = {7};
    for (size_t i = 0; i < N; i++) x[i] = normal(&rng) * 0.02f;
    for (size_t i = 0; i < N_MADE; i++) {
        quantise(ct_rows_find(made[i].type), made[i].type, x, N, blocks);
        double error = relative_error(made[i].type, blocks, x, N);
        CHECK_MSG(error <= made[i].most_error, "%s loses %g, more than %g", ct_type_get(made[i].type)->name, error,
                  made[i].most_error);
    }
    free(x);
    free(blocks);
}

/* Kinds of weights that a block may hold. */
static void fill(float *x, size_t n, int kind, float limit, test_rng *rng)
{
    for (size_t i = 0; i < n; i++) {
        float u = test_uniform(rng);
        switch (kind) {
        case 0: x[i] = 0.0f; break;
        case 1: x[i] = i % 2 ? -0.0f : 0.0f; break;
        case 2: x[i] = 0.125f; break;                                    /* all equal */
        case 3: x[i] = -3.5f; break;
        case 4: x[i] = i % 97 == 5 ? (i % 2 ? -40.0f : 40.0f) : 0.001f * u; break; /* outliers */
        case 5: x[i] = u * 1e-30f; break;
        case 6: x[i] = u * 0x1p-140f; break;                             /* subnormal */
        case 7: x[i] = (i % 3 ? u : -u) * limit; break;
        case 8: x[i] = i % 2 ? limit : -limit; break;
        case 9: x[i] = 5.0f + 0.01f * u; break;                          /* far from 0 */
        case 10: x[i] = -5.0f + 0.01f * u; break;
        case 11: x[i] = (float)((int)(i % 3) - 1) * 0.75f; break;        /* ternary */
        case 12: x[i] = i % 256 == 255 ? u : 0.0f; break;                /* one element in a block */
        case 13: x[i] = ldexpf(u, (int)test_below(rng, 60) - 45); break; /* all sizes */
        default: x[i] = normal(rng); break;
        }
    }
}
enum { N_KINDS = 15 };

/* Every kind, on every set: finite, zeros stay zeros, no set differs from the portable one, nothing but the blocks is written. Rows of
 * 1, 5 and 19 blocks leave lanes over. */
TEST(odd_weights_give_the_same_finite_blocks_on_every_set)
{
    static const size_t n_blocks[] = {1, 5, 19};
    enum { MOST = 19 * 256 };
    float *y = malloc(MOST * sizeof *y);
    uint8_t *want = malloc(MOST * 4);
    test_rng rng = {3};
    for (size_t i = 0; i < N_MADE; i++) {
        ct_type type = made[i].type;
        const ct_type_info *info = ct_type_get(type);
        for (int kind = 0; kind < N_KINDS; kind++)
            for (size_t k = 0; k < 3; k++) {
                size_t n = n_blocks[k] * info->block_elems, n_bytes = bytes_of(type, n);
                test_guarded in = test_guarded_alloc(n * sizeof(float)), out = test_guarded_alloc(n_bytes);
                float *x = (float *)(void *)in.data;
                fill(x, n, kind, ct_rows_limit(type), &rng);
                quantise(ct_rows_find_in("portable", type), type, x, n, want);
                info->decode_f32(want, n, y);
                for (size_t e = 0; e < n; e++) {
                    if (!CHECK_MSG(y[e] - y[e] == 0.0f, "%s, kind %d: element %zu is %g", info->name, kind, e, (double)y[e])) break;
                    if (kind <= 1 && !CHECK_MSG(y[e] == 0.0f, "%s: a zero became %g", info->name, (double)y[e])) break;
                }
                for (size_t s = 1; s < N_SETS; s++) {
                    ct_rows_fn fn = ct_rows_find_in(sets[s], type);
                    if (fn == NULL) continue;
                    memset(out.data, 0x5A, n_bytes);
                    quantise(fn, type, x, n, out.data);
                    for (size_t b = 0; b < n_bytes; b++)
                        if (!CHECK_MSG(out.data[b] == want[b], "%s, kind %d, %zu blocks: byte %zu is 0x%02x with %s, 0x%02x with %s", info->name,
                                       kind, n_blocks[k], b, out.data[b], sets[s], want[b], sets[0]))
                            break;
                }
                test_guarded_free(&in);
                test_guarded_free(&out);
            }
    }
    free(y);
    free(want);
}

/* All types of the same weights, as one number that every machine must find. It changes when a search does. */
TEST(the_bytes_are_those_of_every_machine)
{
    enum { N = 256 * 9 };
    float x[N], importance[N];
    uint8_t *blocks = malloc(N * 4);
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    test_rng rng = {17};
    for (size_t i = 0; i < N; i++) {
        x[i] = normal(&rng) * 0.03f;
        importance[i] = test_uniform(&rng) + 1.001f;
    }
    for (size_t i = 0; i < N_MADE; i++)
        for (int weighted = 0; weighted < 2; weighted++) {
            ct_rows rows = {.x = x, .n_blocks = N / ct_type_get(made[i].type)->block_elems, .blocks = blocks, .n_cols = N};
            if (weighted) rows.importance = importance;
            ct_rows_find(made[i].type)(&rows);
            for (size_t b = 0; b < bytes_of(made[i].type, N); b++) hash = (hash ^ blocks[b]) * 0x100000001b3u;
        }
    CHECK_UINT(hash, 0x23287a24794ce802u);
    free(blocks);
}

/* A block's bytes do not depend on its neighbours, so neither on how a tensor is cut. */
TEST(blocks_do_not_depend_on_their_neighbours)
{
    enum { N = 10 * 256 };
    float *x = malloc(N * sizeof *x), *importance = malloc(N * sizeof *importance);
    uint8_t *whole = malloc(N * 4), *parts = malloc(N * 4);
    test_rng rng = {11};
    for (size_t i = 0; i < N; i++) {
        x[i] = normal(&rng);
        importance[i] = test_uniform(&rng) + 1.0f;
    }
    for (size_t i = 0; i < N_MADE; i++)
        for (int weighted = 0; weighted < 2; weighted++) {
            const ct_type_info *info = ct_type_get(made[i].type);
            ct_rows_fn fn = ct_rows_find(made[i].type);
            size_t n_blocks = N / info->block_elems, n_cols = 5 * 256;
            ct_rows rows = {.x = x, .n_blocks = n_blocks, .blocks = whole, .n_cols = n_cols};
            if (weighted) rows.importance = importance;
            fn(&rows);
            for (size_t b = 0, step = 1; b < n_blocks; b += step, step = step % 7 + 1) {
                rows.x = x + b * info->block_elems;
                rows.n_blocks = n_blocks - b < step ? n_blocks - b : step;
                rows.column = b * info->block_elems % n_cols;
                rows.blocks = parts + b * info->block_bytes;
                fn(&rows);
            }
            CHECK_MSG(memcmp(whole, parts, bytes_of(made[i].type, N)) == 0, "%s, importance %d: cut rows differ", info->name, weighted);
        }
    free(x);
    free(importance);
    free(whole);
    free(parts);
}

/* Weights that a type can hold exactly come back as they are. */
TEST(weights_on_a_grid_are_kept)
{
    enum { N = 256 * 16 };
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y);
    uint8_t *blocks = malloc(N * 4);
    test_rng rng = {5};
    static const struct { ct_type type; int low, high; float m; } grids[] = {
        {CT_Q4_0, -8, 7, 0}, {CT_Q5_0, -16, 15, 0}, {CT_Q8_0, -127, 127, 0}, {CT_Q4_1, 0, 15, -2.5f}, {CT_Q5_1, 0, 31, 1.25f},
        {CT_TQ1_0, -1, 1, 0}, {CT_TQ2_0, -1, 1, 0}, {CT_MXFP4, -4, 4, 0},
    };
    for (size_t i = 0; i < sizeof grids / sizeof grids[0]; i++) {
        size_t block = ct_type_get(grids[i].type)->block_elems, span = (size_t)(grids[i].high - grids[i].low);
        for (size_t k = 0; k < N; k++) {
            int code = grids[i].low + (int)test_below(&rng, span + 1);
            if (k % block == 0) code = grids[i].low; /* both ends occur, so the scale is told */
            if (k % block == 1) code = grids[i].high;
            x[k] = (float)code * 0.0625f + grids[i].m;
        }
        quantise(ct_rows_find(grids[i].type), grids[i].type, x, N, blocks);
        ct_type_get(grids[i].type)->decode_f32(blocks, N, y);
        for (size_t k = 0; k < N; k++)
            if (!CHECK_MSG(x[k] == y[k], "%s: %g became %g", ct_type_get(grids[i].type)->name, (double)x[k], (double)y[k])) break;
    }
    free(x);
    free(y);
    free(blocks);
}

/* The error that counts is the weighted one: with importances it is smaller than without, and columns without any are left over. */
TEST(importance_moves_the_error_away)
{
    enum { N_COLS = 256, N_ROWS = 12, N = N_COLS * N_ROWS };
    float *x = malloc(N * sizeof *x), *y = malloc(N * sizeof *y), importance[N_COLS];
    uint8_t *blocks = malloc(N * 4);
    test_rng rng = {13};
    for (size_t i = 0; i < N; i++) x[i] = normal(&rng);
    for (size_t k = 0; k < N_COLS; k++) importance[k] = k % 4 == 0 ? 3.7f : 0.1f;
    for (size_t i = 2; i < N_MADE; i++) {
        const ct_type_info *info = ct_type_get(made[i].type);
        double error[2] = {0, 0};
        for (int weighted = 0; weighted < 2; weighted++) {
            ct_rows rows = {.x = x, .n_blocks = N / info->block_elems, .blocks = blocks, .n_cols = N_COLS};
            if (weighted) rows.importance = importance;
            ct_rows_find(made[i].type)(&rows);
            info->decode_f32(blocks, N, y);
            for (size_t k = 0; k < N; k++)
                error[weighted] += (double)importance[k % N_COLS] * ((double)x[k] - (double)y[k]) * ((double)x[k] - (double)y[k]);
        }
        CHECK_MSG(error[1] < error[0], "%s: weighted error %g with importances, %g without", info->name, error[1], error[0]);
    }
    free(x);
    free(y);
    free(blocks);
}

TEST(types_that_cannot_be_made_have_no_function)
{
    static const ct_type unmade[] = {CT_Q8_1, CT_Q8_K, CT_I8, CT_I32, CT_F64, CT_IQ1_S, CT_IQ1_M, CT_N_TYPES};
    for (size_t i = 0; i < sizeof unmade / sizeof unmade[0]; i++) CHECK(ct_rows_find(unmade[i]) == NULL);
    CHECK(ct_rows_find_in("sse9", CT_Q4_0) == NULL);
    char names[512];
    snprintf(names, sizeof names, " %s ", cactus_quantize_types());
    for (uint32_t type = 0; type < CT_N_TYPES; type++) {
        const ct_type_info *info = ct_type_get(type);
        if (info == NULL) continue;
        char word[32];
        snprintf(word, sizeof word, " %s ", info->name);
        CHECK_MSG((strstr(names, word) != NULL) == (ct_rows_find((ct_type)type) != NULL), "cactus_quantize_types and the table differ on %s",
                  info->name);
        CHECK_INT(ct_recipe_type(info->name), ct_rows_find((ct_type)type) != NULL ? type : CT_N_TYPES);
    }
}

/* ---- recipes -------------------------------------------------------------------------------------------------------- */

TEST(recipes_are_found_by_name)
{
    char names[512];
    size_t n = 0;
    snprintf(names, sizeof names, "%s", ct_recipe_names());
    for (char *name = strtok(names, " "); name != NULL; name = strtok(NULL, " "), n++)
        if (CHECK(ct_recipe_find(name) != NULL)) CHECK_STR(ct_recipe_find(name)->name, name);
    CHECK(n >= 31);
    CHECK_STR(ct_recipe_find("Q4_K")->name, "q4_k_m");
    CHECK_STR(ct_recipe_find("MXFP4")->name, "mxfp4_moe");
    CHECK_INT(ct_recipe_find("q4_k_m")->file_type, 15); /* LLAMA_FTYPE_MOSTLY_Q4_K_M */
    CHECK(ct_recipe_find("") == NULL && ct_recipe_find("q4_k_") == NULL && ct_recipe_find("q4") == NULL);
}

TEST(rows_that_do_not_fit_get_another_type)
{
    CHECK_INT(ct_recipe_fit(CT_Q4_K, 512), CT_Q4_K);
    CHECK_INT(ct_recipe_fit(CT_Q4_K, 576), CT_Q5_0);
    CHECK_INT(ct_recipe_fit(CT_Q5_K, 576), CT_Q5_1);
    CHECK_INT(ct_recipe_fit(CT_Q6_K, 576), CT_Q8_0);
    CHECK_INT(ct_recipe_fit(CT_Q2_K, 32), CT_Q4_0);
    CHECK_INT(ct_recipe_fit(CT_IQ4_XS, 96), CT_IQ4_NL);
    CHECK_INT(ct_recipe_fit(CT_Q4_K, 100), CT_F16);
    CHECK_INT(ct_recipe_fit(CT_Q8_0, 33), CT_F16);
    CHECK_INT(ct_recipe_fit(CT_F16, 1), CT_F16);
}

/* ---- files ---------------------------------------------------------------------------------------------------------- */

#define MODEL "tests/data/zoo/llama/llama.f32.gguf"

static char folder[64];

static void remove_folder(void) { rmdir(folder); }

static const char *in_folder(const char *name)
{
    static char paths[4][400];
    static int at;
    char *path = paths[at++ % 4];
    if (folder[0] == '\0') {
        snprintf(folder, sizeof folder, "/tmp/test_quantize-XXXXXX");
        if (mkdtemp(folder) == NULL || atexit(remove_folder) != 0) abort();
    }
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* Deletes what is in the folder, and returns how many files there were. */
static int empty_folder(void)
{
    int n = 0;
    (void)in_folder("");
    DIR *d = opendir(folder);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.') {
            n++;
            unlink(in_folder(e->d_name));
        }
    if (d != NULL) closedir(d);
    return n;
}

static void write_file(const char *path, const void *data, size_t n_bytes)
{
    FILE *file = fopen(path, "wb");
    if (!CHECK(file != NULL)) return;
    CHECK(n_bytes == 0 || fwrite(data, 1, n_bytes, file) == n_bytes);
    fclose(file);
}

static cactus_quantize_params params_of(const char *recipe)
{
    cactus_quantize_params p;
    cactus_quantize_params_default(&p);
    p.recipe = recipe;
    p.n_threads = 1;
    return p;
}

static bool same_content(const char *a, const char *b)
{
    ct_file x = {0}, y = {0};
    bool same = ct_file_map(a, &x, NULL) == CACTUS_OK && ct_file_map(b, &y, NULL) == CACTUS_OK && x.size == y.size && x.size > 0 &&
                memcmp(x.data, y.data, x.size) == 0;
    ct_file_unmap(&x);
    ct_file_unmap(&y);
    return same;
}

TEST(a_file_is_the_same_for_any_number_of_threads)
{
    static const char *const recipes[] = {"q4_k_m", "q8_0", "iq4_nl", "f16"};
    cactus_error err = {0};
    for (size_t i = 0; i < 4; i++) {
        cactus_quantize_params p = params_of(recipes[i]);
        cactus_quantize_result result = {.struct_size = sizeof result};
        if (!CHECK_MSG(cactus_quantize(MODEL, in_folder("one"), &p, &result, &err) == CACTUS_OK, "%s", err.message)) continue;
        ct_file made_file = {0};
        if (CHECK(ct_file_map(in_folder("one"), &made_file, NULL) == CACTUS_OK)) CHECK_UINT(made_file.size, result.to_file_bytes);
        ct_file_unmap(&made_file);
        CHECK(result.n_converted > 10 && result.n_tensors > result.n_converted && result.to_bytes < result.from_bytes);
        p.n_threads = 5;
        CHECK(cactus_quantize(MODEL, in_folder("five"), &p, NULL, &err) == CACTUS_OK);
        CHECK_MSG(same_content(in_folder("one"), in_folder("five")), "%s: one thread and five differ", recipes[i]);
        CHECK_INT(empty_folder(), 2);
    }
}

TEST(metadata_and_kept_tensors_are_copied)
{
    cactus_quantize_params p = params_of("q4_0");
    cactus_error err = {0};
    ct_gguf *from = NULL, *to = NULL;
    if (!CHECK(cactus_quantize(MODEL, in_folder("x.gguf"), &p, NULL, &err) == CACTUS_OK) ||
        !CHECK(ct_gguf_open(MODEL, &from, &err) == CACTUS_OK) || !CHECK(ct_gguf_open(in_folder("x.gguf"), &to, &err) == CACTUS_OK))
        goto done;
    for (size_t i = 0; i < ct_gguf_n_kv(from); i++) {
        const ct_gguf_kv *kv = ct_gguf_kv_at(from, i);
        char key[128];
        snprintf(key, sizeof key, "%.*s", (int)kv->key.size, kv->key.data);
        const ct_gguf_kv *copy = ct_gguf_find_kv(to, key);
        if (strcmp(key, "general.file_type") == 0 || strcmp(key, "general.quantization_version") == 0) continue;
        if (CHECK_MSG(copy != NULL, "%s is missing", key) && CHECK_INT(copy->type, kv->type) && CHECK_UINT(copy->n_bytes, kv->n_bytes))
            CHECK_MEM(copy->data, kv->data, kv->n_bytes);
    }
    uint32_t file_type = 99, version = 99;
    CHECK(ct_gguf_get_u32(to, "general.file_type", &file_type, NULL, &err) == CACTUS_OK);
    CHECK(ct_gguf_get_u32(to, "general.quantization_version", &version, NULL, &err) == CACTUS_OK);
    CHECK_INT(file_type, 2);
    CHECK_INT(version, 2);
    if (!CHECK_UINT(ct_gguf_n_tensors(to), ct_gguf_n_tensors(from))) goto done;
    for (size_t i = 0; i < ct_gguf_n_tensors(from); i++) {
        const ct_gguf_tensor *a = ct_gguf_tensor_at(from, i), *b = ct_gguf_tensor_at(to, i);
        CHECK(a->name.size == b->name.size && memcmp(a->name.data, b->name.data, a->name.size) == 0);
        CHECK_MEM(b->ne, a->ne, sizeof a->ne);
        if (a->ne[1] == 1 && CHECK_INT(b->type, CT_F32)) CHECK_MEM(b->data, a->data, a->n_bytes);
        if (a->ne[1] > 1) CHECK(b->type == CT_Q4_0 || b->type == CT_Q6_K || b->type == CT_Q8_0);
    }
done:
    ct_gguf_close(from);
    ct_gguf_close(to);
    empty_folder();
}

typedef struct watcher {
    int n_calls, cancel_at;
    uint64_t bytes_done, bytes_total;
    bool grows;
} watcher;

static int32_t watch(void *user, const cactus_quantize_progress *progress)
{
    watcher *w = user;
    w->grows = w->grows && progress->bytes_done >= w->bytes_done && progress->bytes_done <= progress->bytes_total;
    w->bytes_done = progress->bytes_done;
    w->bytes_total = progress->bytes_total;
    return w->n_calls++ == w->cancel_at;
}

TEST(progress_grows_and_cancelling_leaves_nothing)
{
    cactus_error err;
    watcher w = {.cancel_at = -1, .grows = true};
    cactus_quantize_params p = params_of("q5_k_m");
    p.on_progress = watch;
    p.user = &w;
    CHECK_INT(cactus_quantize(MODEL, in_folder("x"), &p, NULL, &err), CACTUS_OK);
    CHECK(w.grows && w.n_calls > 20);
    CHECK_UINT(w.bytes_done, w.bytes_total);
    CHECK_INT(empty_folder(), 1);
    int n_calls = w.n_calls;
    for (int at = 0; at < n_calls; at += 7) {
        w = (watcher){.cancel_at = at, .grows = true};
        CHECK_INT(cactus_quantize(MODEL, in_folder("x"), &p, NULL, &err), CACTUS_ERROR_CANCELLED);
        CHECK_INT(err.code, CACTUS_ERROR_CANCELLED);
        CHECK_INT(empty_folder(), 0);
    }
    w = (watcher){.cancel_at = -1, .grows = true};
    cactus_quantize_result result = {.struct_size = sizeof result};
    CHECK_INT(cactus_quantize(MODEL, NULL, &p, &result, &err), CACTUS_OK); /* a dry run */
    CHECK(result.to_file_bytes > 0 && w.n_calls > 20);
    CHECK_INT(empty_folder(), 0);
}

TEST(targets_are_protected)
{
    cactus_quantize_params p = params_of("q8_0");
    cactus_error err;
    write_file(in_folder("x"), "mine", 4);
    CHECK_INT(cactus_quantize(MODEL, in_folder("x"), &p, NULL, &err), CACTUS_ERROR_IO);
    CHECK_CONTAINS(err.message, "exists already");
    CHECK_INT(cactus_quantize(MODEL, folder, &p, NULL, &err), CACTUS_ERROR_IO);
    CHECK_CONTAINS(err.message, "is a directory");
    CHECK_INT(cactus_quantize(MODEL, in_folder("no/such/x"), &p, NULL, &err), CACTUS_ERROR_IO);
    CHECK_CONTAINS(err.message, "no such file");
    p.overwrite = 1;
    CHECK_INT(cactus_quantize(MODEL, folder, &p, NULL, &err), CACTUS_ERROR_IO);
    CHECK_INT(cactus_quantize(MODEL, "/dev/null", &p, NULL, &err), CACTUS_ERROR_IO);
    CHECK_CONTAINS(err.message, "not a regular file");
    CHECK_INT(cactus_quantize(MODEL, MODEL, &p, NULL, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_CONTAINS(err.message, "the source itself");
    CHECK_INT(cactus_quantize(MODEL, in_folder("x"), &p, NULL, &err), CACTUS_OK);
    CHECK_INT(cactus_quantize(in_folder("x"), in_folder("y"), &p, NULL, &err), CACTUS_OK); /* the same types: a copy */
    CHECK(same_content(in_folder("x"), in_folder("y")));
    CHECK_INT(empty_folder(), 2);
}

TEST(arguments_are_checked)
{
    cactus_quantize_params p = params_of("q8_0");
    cactus_error err;
    CHECK_INT(cactus_quantize(NULL, NULL, &p, NULL, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_INT(cactus_quantize(MODEL, NULL, NULL, NULL, &err), CACTUS_ERROR_ARGUMENT);
    p.struct_size--;
    CHECK_INT(cactus_quantize(MODEL, NULL, &p, NULL, &err), CACTUS_ERROR_ARGUMENT);
    p = params_of("q3_x");
    CHECK_INT(cactus_quantize(MODEL, NULL, &p, NULL, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_CONTAINS(err.message, "q4_k_m");
    p = params_of(NULL);
    CHECK_INT(cactus_quantize(MODEL, NULL, &p, NULL, &err), CACTUS_ERROR_ARGUMENT);
    p = params_of("q8_0");
    p.n_threads = -1;
    CHECK_INT(cactus_quantize(MODEL, NULL, &p, NULL, &err), CACTUS_ERROR_ARGUMENT);
    static const char *const patterns[] = {"attn_q", "=q8_0", "a(=q8_0", "a=q9", "a=IQ1_S", NULL};
    for (size_t i = 0; i < 6; i++) {
        p = params_of("q8_0");
        p.tensor_types = patterns + i;
        p.n_tensor_types = 1;
        CHECK_INT(cactus_quantize(MODEL, NULL, &p, NULL, &err), CACTUS_ERROR_ARGUMENT);
    }
    p = params_of("q8_0");
    p.output_type = "IQ1_M";
    CHECK_INT(cactus_quantize(MODEL, NULL, &p, NULL, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_CONTAINS(err.message, "IQ4_XS");
    p = params_of("q8_0");
    CHECK_INT(cactus_quantize("tests/data/zoo/llama-variants/Q4_0.gguf", NULL, &p, NULL, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_CONTAINS(err.message, "quantised already");
}

/* ---- importance matrices -------------------------------------------------------------------------------------------- */

/* An older file with one entry: the given name, four values. */
static size_t older_file(uint8_t out[64], const char *name, const float values[4])
{
    int32_t header[2] = {1, (int32_t)strlen(name)}, counts[2] = {3, 4};
    size_t n = 0;
    memcpy(out, header, 8);
    memcpy(out + 8, name, strlen(name));
    n = 8 + strlen(name);
    memcpy(out + n, counts, 8);
    memcpy(out + n + 8, values, 16);
    return n + 24;
}

TEST(an_older_importance_matrix_is_read)
{
    static const float values[4] = {1, 3, 0, 4};
    uint8_t data[64];
    ct_imatrix *m = NULL;
    cactus_error err;
    float out[4];
    bool found;
    size_t n = older_file(data, "a.weight", values);
    write_file(in_folder("m.dat"), data, n);
    if (!CHECK_MSG(ct_imatrix_open(in_folder("m.dat"), &m, &err) == CACTUS_OK, "%s", err.message)) return;
    CHECK_INT(ct_imatrix_n_entries(m), 1);
    CHECK_INT(ct_imatrix_get(m, (ct_str){"a.weight", 8}, 1, 4, out, &found, &err), CACTUS_OK);
    for (size_t k = 0; k < 4 && CHECK(found); k++) CHECK_NEAR(out[k], values[k] / 2, 1e-4);
    CHECK(out[2] > 0); /* no column is quite free */
    CHECK_INT(ct_imatrix_get(m, (ct_str){"b.weight", 8}, 1, 4, out, &found, &err), CACTUS_OK);
    CHECK(!found);
    CHECK_INT(ct_imatrix_get(m, (ct_str){"a.weight", 8}, 1, 8, out, &found, &err), CACTUS_ERROR_FORMAT);
    CHECK_INT(ct_imatrix_get(m, (ct_str){"a.weight", 8}, 2, 2, out, &found, &err), CACTUS_OK); /* two experts */
    CHECK_NEAR(out[1], 1.5, 1e-4);
    CHECK_NEAR(out[3], 2.0, 1e-4);
    ct_imatrix_close(m);
    empty_folder();
}

TEST(damaged_importance_matrices_are_refused)
{
    static const float good[4] = {1, 2, 3, 4}, negative[4] = {1, -2, 3, 4}, endless[4] = {1, INFINITY, 3, 4}, nan[4] = {NAN, 2, 3, 4};
    uint8_t data[64];
    ct_imatrix *m = NULL;
    cactus_error err;
    size_t n = older_file(data, "a.weight", good);
    for (size_t cut = 0; cut < n; cut++) {
        write_file(in_folder("m"), data, cut);
        CHECK_MSG(ct_imatrix_open(in_folder("m"), &m, &err) != CACTUS_OK && m == NULL, "cut at %zu of %zu it opened", cut, n);
    }
    for (size_t i = 0; i < 8; i++) { /* counts and lengths that lie */
        (void)older_file(data, "a.weight", good);
        static const int32_t wrong[] = {-1, INT32_MAX};
        memcpy(data + (i / 2 == 0 ? 0 : i / 2 == 1 ? 4 : i / 2 == 2 ? 16 : 20), &wrong[i % 2], 4);
        if (i / 2 == 2 && i % 2 == 1) continue; /* so many calls may have been */
        write_file(in_folder("m"), data, n);
        CHECK_MSG(ct_imatrix_open(in_folder("m"), &m, &err) == CACTUS_ERROR_FORMAT, "case %zu opened", i);
    }
    const float *bad[] = {negative, endless, nan};
    for (size_t i = 0; i < 3; i++) {
        write_file(in_folder("m"), data, older_file(data, "a.weight", bad[i]));
        CHECK_INT(ct_imatrix_open(in_folder("m"), &m, &err), CACTUS_ERROR_FORMAT);
        CHECK_CONTAINS(err.message, "not negative");
    }
    CHECK_INT(ct_imatrix_open(MODEL, &m, &err), CACTUS_ERROR_FORMAT); /* a model is none */
    CHECK_CONTAINS(err.message, "no importance matrix");
    CHECK_INT(ct_imatrix_open(in_folder("none"), &m, &err), CACTUS_ERROR_IO);
    empty_folder();
}

TEST_MAIN()
