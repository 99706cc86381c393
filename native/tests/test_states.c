/* test_states.c: the hidden states that a request pools. What they must be comes from another path: the embeddings of the prompt and the
 * tokens before each choice, of which only the last token's state counts; each is a forward pass of its own, from an empty cache. They
 * are compared bit by bit. Runs under the sanitizers and under emulation. */
#include <stdatomic.h>
#include <string.h>

#include "engine/engine.h"
#include "tests/engine_fixture.h"

enum { LONG = 160, MOST = 60, D = 128, N_MANY = 8, CONTEXT = 512 };

static int32_t prompt[LONG];

static void make_prompt(uint64_t seed)
{
    test_rng rng = {seed};
    for (size_t i = 0; i < LONG; i++) prompt[i] = (int32_t)(3 + test_below(&rng, 500));
}

/* ---- the truth ---- */

typedef struct truth {
    float rows[MOST][D]; /* the state that each token was chosen from */
    size_t n;
} truth;

static size_t width(void)
{
    cactus_model_info info = {.struct_size = sizeof info};
    CHECK_INT(cactus_model_get_info(the_model(), &info, NULL), CACTUS_OK);
    if (!CHECK_MSG(info.d_model <= D, "d_model is %u", info.d_model)) exit(2);
    return info.d_model;
}

/* The last state of each window, text by text. */
static void embed_last(cactus_engine *engine, const int32_t *ids, size_t n, float *row)
{
    cactus_error err = {0};
    cactus_embed_params p = {.struct_size = sizeof p, .pooling = CACTUS_POOLING_LAST};
    CHECK_MSG(cactus_engine_embed(engine, ids, &n, 1, &p, row, &err) == CACTUS_OK, "%s", err.message);
}

/* What an answer to ids[0..n) was chosen from. context: that of the engine, in which the first n_keep tokens stay at a shift. */
static void find_truth(const int32_t *ids, size_t n, const output *answer, size_t context, size_t n_keep, truth *t)
{
    static int32_t window[CONTEXT + 1];
    cactus_engine *engine = make_engine(1, 0, 0, 0);
    memcpy(window, ids, n * sizeof *ids);
    if (n > context) { /* three quarters of what may go stay */
        size_t rest = (context - n_keep) * 3 / 4;
        memmove(window + n_keep, window + n - rest, rest * sizeof *ids);
        n = n_keep + rest;
    }
    for (t->n = 0; t->n < answer->n && t->n < MOST; t->n++) {
        embed_last(engine, window, n, t->rows[t->n]);
        window[n++] = answer->ids[t->n];
        if (n <= context) continue;
        size_t rest = (context - n_keep) / 2;
        memmove(window + n_keep, window + n - rest, rest * sizeof *ids);
        n = n_keep + rest;
    }
    cactus_engine_free(engine);
}

static bool same_bits(const float *got, const float *want, const char *what, size_t n_tokens)
{
    size_t d = width();
    for (size_t i = 0; i < d; i++)
        if (!CHECK_MSG(memcmp(&got[i], &want[i], sizeof *got) == 0, "%s of %zu tokens differs at %zu: %.9g, not %.9g", what, n_tokens, i, (double)got[i], (double)want[i]))
            return false;
    return true;
}

/* The states as they are now, against the truth; how many tokens they are of. */
static size_t check_states(cactus_request *r, const truth *t)
{
    float first[D], mean[D], last[D], want[D] = {0};
    size_t d = width();
    int32_t n = -1;
    CHECK_INT(cactus_request_states(r, first, mean, last, d, &n, NULL), CACTUS_OK);
    if (n == 0 || !CHECK_MSG(n > 0 && (size_t)n <= t->n, "%d tokens of %zu", n, t->n)) return 0;
    for (size_t i = 0; i < d; i++) {
        for (size_t row = 0; row < (size_t)n; row++) want[i] = row == 0 ? t->rows[0][i] : want[i] + t->rows[row][i];
        want[i] /= (float)n;
    }
    (void)(same_bits(first, t->rows[0], "prompt", (size_t)n) && same_bits(mean, want, "mean", (size_t)n) &&
           same_bits(last, t->rows[n - 1], "last", (size_t)n));
    return (size_t)n;
}

/* Runs one request to its end. */
static cactus_request_stats complete(cactus_engine *engine, const cactus_request_params *p, output *out, const truth *t)
{
    cactus_request_stats stats = {.struct_size = sizeof stats};
    cactus_request *r = submit(engine, p);
    collect(r, out);
    CHECK_INT(cactus_request_get_stats(r, &stats, NULL), CACTUS_OK);
    if (t != NULL) CHECK_UINT(check_states(r, t), out->n);
    cactus_request_free(r);
    return stats;
}

/* Sampling that lets a random model repeat itself, so that drafts are right often, but not always. */
static cactus_request_params repetitive(size_t n, int32_t max_tokens, uint64_t seed)
{
    static const int32_t allowed[] = {40, 77, 101, 205, 333, 412};
    static const float lifts[] = {900.0f, 900.0f, 900.0f, 900.0f, 900.0f, 900.0f};
    cactus_request_params p = params_for(prompt, n, max_tokens);
    p.sampling.bias_ids = allowed, p.sampling.bias_values = lifts, p.sampling.n_bias = 3 + seed % 3;
    if (seed % 2 == 1) p.sampling.temperature = 3.0f;
    p.sampling.seed = seed;
    return p;
}

/* ---- tests ---- */

TEST(states_are_those_of_plain_passes)
{
    static output plain, out;
    static truth t;
    int32_t n_drafted = 0, n_accepted = 0;
    for (uint64_t seed = 0; seed < 6; seed++) {
        make_prompt(seed);
        cactus_engine *engine = make_engine(1, 0, 0, 0);
        size_t n = seed == 2 ? 1 : 20 + 9 * seed;
        cactus_request_params p = repetitive(n, 50, seed);
        (void)complete(engine, &p, &plain, NULL);
        find_truth(prompt, n, &plain, CONTEXT, 0, &t);
        p.pool_states = 1;
        for (int32_t speculation = 0; speculation <= 16; speculation += 8) {
            p.speculation = speculation;
            cactus_request_stats stats = complete(engine, &p, &out, &t);
            check_same(&plain, &out);
            n_drafted += stats.n_drafted;
            n_accepted += stats.n_accepted;
        }
        cactus_engine_free(engine);
    }
    CHECK_MSG(n_accepted > 50 && n_drafted > n_accepted + 10, "%d drafts of %d were right", n_accepted, n_drafted);
}

/* Eight at once that begin alike, some without states, some with drafts: with room, and where they give way to one another. */
TEST(states_in_company)
{
    static output alone[N_MANY], out;
    static truth t[N_MANY];
    static const int32_t batches[] = {0, 1, 7, 33};
    cactus_engine_info info = {.struct_size = sizeof info};
    make_prompt(10);
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    CHECK_INT(cactus_engine_get_info(engine, &info, NULL), CACTUS_OK);
    for (size_t i = 0; i < N_MANY; i++) {
        cactus_request_params p = repetitive(70 - i % 3, 30, i);
        (void)complete(engine, &p, &alone[i], NULL);
        find_truth(prompt, 70 - i % 3, &alone[i], CONTEXT, 0, &t[i]);
    }
    uint64_t page_bytes = info.kv_page_bytes;
    cactus_engine_free(engine);
    for (size_t scarce = 0; scarce < 2; scarce++)
        for (size_t b = 0; b < sizeof batches / sizeof batches[0]; b++) {
            cactus_request *requests[N_MANY];
            engine = make_engine(2, 128, scarce ? 6 * page_bytes : 0, batches[b]);
            for (size_t i = 0; i < N_MANY; i++) {
                cactus_request_params p = repetitive(70 - i % 3, 30, i);
                p.pool_states = i != 3;
                p.speculation = i % 4 == 0 ? 0 : 8;
                p.no_prefixes = i == 5;
                requests[i] = submit(engine, &p);
            }
            for (size_t i = 0; i < N_MANY; i++) {
                collect(requests[i], &out);
                check_same(&alone[i], &out);
                if (i != 3) CHECK_UINT(check_states(requests[i], &t[i]), 30);
                cactus_request_free(requests[i]);
            }
            CHECK_INT(cactus_engine_get_info(engine, &info, NULL), CACTUS_OK);
            CHECK(info.n_prompt_cached > 0);
            if (scarce) CHECK(info.n_preempted > 0);
            cactus_engine_free(engine);
        }
}

/* A long prompt goes through the lane of prompts, in chunks, and steps of others come between its layers. */
TEST(states_of_a_long_prompt)
{
    static output alone[2], out;
    static truth t[2];
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    make_prompt(11);
    cactus_request_params p[2] = {repetitive(150, 20, 1), repetitive(12, MOST, 3)};
    size_t sizes[2] = {150, 12};
    for (size_t i = 0; i < 2; i++) {
        (void)complete(engine, &p[i], &alone[i], NULL);
        find_truth(prompt, sizes[i], &alone[i], CONTEXT, 0, &t[i]);
        p[i].pool_states = 1;
        p[i].no_prefixes = 1;
    }
    cactus_engine_free(engine);
    for (int32_t n_batch = 5; n_batch <= 512; n_batch = n_batch * 3 + 1) {
        engine = make_engine(2, 0, 0, n_batch);
        cactus_request *requests[2];
        for (size_t i = 0; i < 2; i++) requests[1 - i] = submit(engine, &p[1 - i]);
        for (size_t i = 0; i < 2; i++) {
            collect(requests[i], &out);
            check_same(&alone[i], &out);
            CHECK_UINT(check_states(requests[i], &t[i]), out.n);
            cactus_request_free(requests[i]);
        }
        cactus_engine_free(engine);
    }
}

/* Scores wait for their mask, and so does the state; now and then others take the memory meanwhile. */
TEST(states_wait_for_masks)
{
    static output plain;
    static truth t;
    float scores[LONG];
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    cactus_engine_info info = {.struct_size = sizeof info};
    make_prompt(12);
    generate(engine, prompt, 40, 12, &plain);
    find_truth(prompt, 40, &plain, CONTEXT, 0, &t);
    CHECK_INT(cactus_engine_get_info(engine, &info, NULL), CACTUS_OK);
    cactus_engine_free(engine);
    engine = make_engine(2, 160, 5 * info.kv_page_bytes, 0);
    cactus_request_params p = params_for(prompt, 40, 12);
    p.constrained = 1;
    p.pool_states = 1;
    p.speculation = 8;
    cactus_request *r = submit(engine, &p);
    for (size_t i = 0; i < 12; i++) {
        cactus_token token = {.id = -1};
        if (i % 3 == 0) CHECK_INT(cactus_request_next(r, 5, &token, NULL), CACTUS_ERROR_TIMEOUT); /* its scores are there by now */
        if (i % 6 == 3) CHECK_INT(cactus_engine_logprobs(engine, prompt, 150, scores, NULL), CACTUS_OK);
        CHECK_UINT(check_states(r, &t), i);
        CHECK_INT(cactus_request_set_mask(r, NULL, 0, NULL), CACTUS_OK);
        CHECK_INT(cactus_request_next(r, 60000, &token, NULL), CACTUS_OK);
        CHECK_INT(token.id, plain.ids[i]);
    }
    CHECK_UINT(check_states(r, &t), 12);
    CHECK_INT(cactus_engine_get_info(engine, &info, NULL), CACTUS_OK);
    CHECK(info.n_preempted > 0);
    cactus_request_free(r);
    cactus_engine_free(engine);
}

TEST(states_after_a_shift)
{
    static output out;
    static truth t;
    make_prompt(13);
    for (size_t n = 30; n <= 100; n += 70) /* the second is longer than the context from the beginning */
        for (int32_t speculation = 0; speculation <= 8; speculation += 8) {
            cactus_engine *engine = make_engine(2, 64, 0, 0);
            cactus_request_params p = repetitive(n, MOST, 1);
            p.context_policy = CACTUS_CONTEXT_SHIFT;
            p.n_keep = 5;
            p.speculation = speculation;
            p.pool_states = 1;
            cactus_request *r = submit(engine, &p);
            collect(r, &out);
            CHECK_UINT(out.n, MOST);
            find_truth(prompt, n, &out, 64, 5, &t);
            CHECK_UINT(check_states(r, &t), MOST);
            cactus_request_free(r);
            cactus_engine_free(engine);
        }
}

/* The token that ends an answer was chosen from a state, too. */
TEST(states_of_the_end)
{
    static output out;
    static truth t;
    cactus_tokenizer_info info = {.struct_size = sizeof info};
    CHECK_INT(cactus_tokenizer_get_info(cactus_model_tokenizer(the_model()), &info, NULL), CACTUS_OK);
    int32_t ids[2] = {info.eos_id, 77};
    float lifts[2] = {900.0f, 900.0f};
    cactus_engine *engine = make_engine(1, 0, 0, 0);
    make_prompt(14);
    size_t longest = 0;
    for (uint64_t seed = 0; seed < 8; seed++) {
        cactus_request_params p = params_for(prompt, 25, 50);
        p.sampling.ignore_eos = 0;
        p.sampling.temperature = 3.0f;
        p.sampling.seed = seed;
        p.sampling.bias_ids = ids, p.sampling.bias_values = lifts, p.sampling.n_bias = 2;
        p.pool_states = 1;
        p.speculation = 8;
        cactus_request *r = submit(engine, &p);
        collect(r, &out);
        CHECK_INT(out.finish, CACTUS_FINISH_STOP);
        CHECK_INT(out.ids[out.n - 1], info.eos_id);
        find_truth(prompt, 25, &out, CONTEXT, 0, &t);
        CHECK_UINT(check_states(r, &t), out.n);
        if (out.n > longest) longest = out.n;
        cactus_request_free(r);
    }
    CHECK(longest > 1);
    cactus_engine_free(engine);
}

typedef struct quota {
    int32_t n, most;
} quota;

static int32_t count_up_to(void *user, const cactus_token *token)
{
    quota *q = user;
    q->n += token->id >= 0;
    return q->n >= q->most;
}

/* Of what was drafted only tokens that were delivered count. */
TEST(states_of_a_cancelled_answer)
{
    static output plain;
    static truth t;
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    make_prompt(15);
    cactus_request_params p = repetitive(40, 50, 0);
    (void)complete(engine, &p, &plain, NULL);
    find_truth(prompt, 40, &plain, CONTEXT, 0, &t);
    p.pool_states = 1;
    p.speculation = 16;
    p.on_token = count_up_to;
    for (int32_t most = 1; most <= 40; most++) {
        quota q = {0, most};
        p.user = &q;
        cactus_request *r = submit(engine, &p);
        CHECK_INT(cactus_request_wait(r, 60000, NULL), CACTUS_OK);
        CHECK_UINT(check_states(r, &t), (size_t)most);
        cactus_request_free(r);
    }
    cactus_engine_free(engine);
}

typedef struct reader {
    cactus_request *request;
    const truth *truth;
    atomic_bool stop;
    size_t n_reads;
} reader;

static void *read_on(void *arg)
{
    reader *w = arg;
    size_t n = 0;
    do {
        bool last = atomic_load(&w->stop);
        size_t now = check_states(w->request, w->truth);
        CHECK_MSG(now >= n, "%zu tokens after %zu", now, n);
        w->n_reads += now > n;
        n = now;
        if (last) break;
    } while (true);
    CHECK_UINT(n, w->truth->n);
    return NULL;
}

/* Two threads read while a third one computes: what they see belongs together. */
TEST(states_at_any_time)
{
    static output plain, out;
    static truth t;
    cactus_engine *engine = make_engine(1, 0, 0, 0);
    make_prompt(16);
    cactus_request_params p = repetitive(40, MOST, 3);
    (void)complete(engine, &p, &plain, NULL);
    find_truth(prompt, 40, &plain, CONTEXT, 0, &t);
    p.pool_states = 1;
    p.no_prefixes = 1;
    for (int round = 0; round < 3; round++) {
        reader readers[2];
        pthread_t threads[2];
        cactus_request *r = submit(engine, &p);
        for (size_t i = 0; i < 2; i++) {
            readers[i] = (reader){.request = r, .truth = &t};
            CHECK_INT(pthread_create(&threads[i], NULL, read_on, &readers[i]), 0);
        }
        collect(r, &out);
        check_same(&plain, &out);
        for (size_t i = 0; i < 2; i++) atomic_store(&readers[i].stop, true);
        for (size_t i = 0; i < 2; i++) pthread_join(threads[i], NULL);
        cactus_request_free(r);
    }
    cactus_engine_free(engine);
}

TEST(states_that_nobody_has)
{
    static output out;
    static truth t;
    float row[D];
    cactus_error err = {0};
    cactus_token token;
    int32_t n = -1;
    size_t d = width();
    cactus_engine *engine = make_engine(1, 0, 0, 0);
    make_prompt(17);
    cactus_request_params p = params_for(prompt, 10, 5);
    cactus_request *r = submit(engine, &p);
    CHECK_INT(cactus_request_states(r, row, row, row, d, &n, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_STR(err.message, "this request keeps no states: it was submitted without pool_states");
    CHECK_INT(cactus_request_states(NULL, row, row, row, d, &n, &err), CACTUS_ERROR_ARGUMENT);
    collect(r, &out);
    cactus_request_free(r);
    find_truth(prompt, 10, &out, CONTEXT, 0, &t);

    p.pool_states = 1;
    p.constrained = 1; /* waits before its first token */
    r = submit(engine, &p);
    CHECK_INT(cactus_request_next(r, 20, &token, NULL), CACTUS_ERROR_TIMEOUT);
    row[0] = 7.0f;
    CHECK_INT(cactus_request_states(r, row, row, row, d, &n, &err), CACTUS_OK);
    CHECK_INT(n, 0);
    CHECK_FLOAT(row[0], 7.0f); /* nothing was written */
    CHECK_INT(cactus_request_states(r, row, row, row, d, NULL, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_INT(cactus_request_states(r, row, row, row, d - 1, &n, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_INT(cactus_request_states(r, row, row, row, 0, &n, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_INT(cactus_request_set_mask(r, NULL, 0, NULL), CACTUS_OK);
    CHECK_INT(cactus_request_next(r, 60000, &token, NULL), CACTUS_OK);
    CHECK_INT(cactus_request_states(r, NULL, NULL, NULL, d, &n, &err), CACTUS_OK);
    CHECK_INT(n, 1);
    CHECK_INT(cactus_request_states(r, NULL, row, NULL, d, &n, &err), CACTUS_OK);
    (void)same_bits(row, t.rows[0], "mean", 1);
    cactus_engine_free(engine); /* they outlive it */
    CHECK_UINT(check_states(r, &t), 1);
    cactus_request_free(r);
    cactus_model_free(model);
    model = NULL;
}

TEST_MAIN()
