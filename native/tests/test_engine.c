/* test_engine.c: the engine through its public interface, on a tiny model: requests alone and together, cancellation, contexts that
 * fill up, pages that run out, closing while requests run. Runs under the sanitizers and under emulation. */
#include "tests/engine_fixture.h"

static int32_t prompts[12][80];
static size_t prompt_sizes[12];

static void make_prompts(void)
{
    test_rng rng = {3};
    for (size_t i = 0; i < 12; i++) {
        prompt_sizes[i] = 1 + test_below(&rng, 79);
        for (size_t j = 0; j < prompt_sizes[i]; j++) prompts[i][j] = (int32_t)(3 + test_below(&rng, 500));
    }
}

static output alone[12], together[12];

TEST(together_as_alone)
{
    make_prompts();
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    for (size_t i = 0; i < 12; i++) generate(engine, prompts[i], prompt_sizes[i], 40, &alone[i]);
    cactus_request *requests[12];
    for (size_t i = 0; i < 12; i++) {
        cactus_request_params p = params_for(prompts[i], prompt_sizes[i], 40);
        requests[i] = submit(engine, &p);
    }
    for (size_t i = 0; i < 12; i++) {
        collect(requests[i], &together[i]);
        cactus_request_free(requests[i]);
        check_same(&alone[i], &together[i]);
        CHECK_INT(together[i].finish, CACTUS_FINISH_LENGTH);
        CHECK_UINT(together[i].n, 40);
    }
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_free(engine);
}

TEST(threads_and_batches_do_not_matter)
{
    static const int32_t threads[] = {1, 3}, batches[] = {1, 5, 33};
    output got;
    make_prompts();
    for (size_t i = 0; i < 2; i++)
        for (size_t j = 0; j < 3; j++) {
            cactus_engine *engine = make_engine(threads[i], 0, 0, batches[j]);
            for (size_t k = 0; k < 3; k++) {
                generate(engine, prompts[k], prompt_sizes[k], 40, &got);
                check_same(&alone[k], &got);
            }
            cactus_engine_free(engine);
        }
}

TEST(pages_run_out)
{
    make_prompts();
    cactus_engine_info info = {.struct_size = sizeof info};
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    CHECK_INT(cactus_engine_get_info(engine, &info, NULL), CACTUS_OK);
    cactus_engine_free(engine);
    engine = make_engine(2, 128, 6 * info.kv_page_bytes, 64); /* 12 requests of up to 4 pages share 6 */
    cactus_request *requests[12];
    for (size_t i = 0; i < 12; i++) {
        cactus_request_params p = params_for(prompts[i], prompt_sizes[i], 40);
        requests[i] = submit(engine, &p);
    }
    float *logits = malloc(128 * 512 * sizeof *logits);
    CHECK_INT(cactus_engine_logits(engine, prompts[0], prompt_sizes[0], 0, logits, NULL), CACTUS_OK); /* takes pages too */
    free(logits);
    for (size_t i = 0; i < 12; i++) {
        collect(requests[i], &together[i]);
        cactus_request_free(requests[i]);
        check_same(&alone[i], &together[i]);
    }
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_free(engine);
}

TEST(context_full)
{
    int32_t prompt[40];
    output out;
    cactus_error err = {0};
    for (int32_t i = 0; i < 40; i++) prompt[i] = 5 + i;
    cactus_engine *engine = make_engine(2, 64, 0, 0);
    generate(engine, prompt, 40, -1, &out);
    CHECK_INT(out.finish, CACTUS_FINISH_LENGTH);
    CHECK_UINT(out.n, 25); /* positions 40 … 63 are computed; the last one still yields a token */

    cactus_request *r = NULL;
    int32_t longer[65];
    for (int32_t i = 0; i < 65; i++) longer[i] = 5 + i;
    cactus_request_params p = params_for(longer, 65, 5);
    CHECK_INT(cactus_request_submit(engine, &p, &r, &err), CACTUS_ERROR_CONTEXT);
    CHECK_STR(err.message, "the prompt has 65 tokens; the context holds 64");
    p = params_for(longer, 64, -1);
    r = submit(engine, &p);
    collect(r, &out);
    CHECK_UINT(out.n, 1);
    cactus_request_free(r);

    p = params_for(longer, 65, 200);
    p.context_policy = CACTUS_CONTEXT_SHIFT;
    p.n_keep = 8;
    r = submit(engine, &p);
    collect(r, &out);
    CHECK_INT(out.finish, CACTUS_FINISH_LENGTH);
    CHECK_UINT(out.n, 200);
    cactus_request_free(r);
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_free(engine);
}

/* After a shift the next token is that of a fresh prompt: the kept front and the newest half. */
TEST(shift_equals_a_fresh_prompt)
{
    int32_t prompt[60], fresh[64];
    output out, again;
    for (int32_t i = 0; i < 60; i++) prompt[i] = 9 + 2 * i;
    cactus_engine *engine = make_engine(2, 64, 0, 0);
    cactus_request_params p = params_for(prompt, 60, 6);
    p.context_policy = CACTUS_CONTEXT_SHIFT;
    p.n_keep = 10;
    cactus_request *r = submit(engine, &p);
    collect(r, &out);
    cactus_request_free(r);
    CHECK_UINT(out.n, 6);
    /* 60 + 5 tokens do not fit 64: kept are 10 and the newest (64 - 10) / 2 = 27 */
    memcpy(fresh, prompt, 10 * sizeof *fresh);
    memcpy(fresh + 10, prompt + 60 - 22, 22 * sizeof *fresh);
    memcpy(fresh + 32, out.ids, 5 * sizeof *fresh);
    generate(engine, fresh, 37, 1, &again);
    CHECK_INT(again.ids[0], out.ids[5]);
    CHECK_FLOAT(again.logprobs[0], out.logprobs[5]);
    cactus_engine_free(engine);
}

TEST(cancel_and_close)
{
    int32_t prompt[] = {5, 6, 7};
    output out;
    cactus_token token;
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    cactus_request_params p = params_for(prompt, 3, -1);
    p.context_policy = CACTUS_CONTEXT_SHIFT;
    cactus_request *r = submit(engine, &p);
    for (int i = 0; i < 5; i++) CHECK_INT(cactus_request_next(r, 60000, &token, NULL), CACTUS_OK);
    cactus_request_cancel(r);
    collect(r, &out);
    CHECK_INT(out.finish, CACTUS_FINISH_CANCELLED);
    CHECK_INT(cactus_request_next(r, -1, &token, NULL), CACTUS_ERROR_FINISHED);
    cactus_request_free(r);
    CHECK_UINT(pages_used(engine), 0);

    r = submit(engine, &p); /* freed while it runs */
    CHECK_INT(cactus_request_next(r, 60000, &token, NULL), CACTUS_OK);
    cactus_request_free(r);

    cactus_request *left[3];
    for (int i = 0; i < 3; i++) left[i] = submit(engine, &p);
    CHECK_INT(cactus_request_next(left[0], 60000, &token, NULL), CACTUS_OK);
    cactus_engine_free(engine); /* while three run */
    for (int i = 0; i < 3; i++) {
        collect(left[i], &out);
        CHECK_INT(out.finish, CACTUS_FINISH_CANCELLED);
        cactus_request_free(left[i]);
    }
}

/* A request that waits for pages ends as soon as it is cancelled, though others hold them. */
TEST(cancel_while_waiting)
{
    int32_t prompt[120];
    output out;
    cactus_token token;
    cactus_engine_info info = {.struct_size = sizeof info};
    for (int32_t i = 0; i < 120; i++) prompt[i] = 5 + i;
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    CHECK_INT(cactus_engine_get_info(engine, &info, NULL), CACTUS_OK);
    cactus_engine_free(engine);
    engine = make_engine(2, 128, 4 * info.kv_page_bytes, 0);
    cactus_request_params endless = params_for(prompt, 3, -1), large = params_for(prompt, 120, 5);
    endless.context_policy = CACTUS_CONTEXT_SHIFT;
    cactus_request *running = submit(engine, &endless);
    CHECK_INT(cactus_request_next(running, 60000, &token, NULL), CACTUS_OK);
    cactus_request *waiting = submit(engine, &large);
    cactus_request_cancel(waiting);
    collect(waiting, &out);
    CHECK(out.finish == CACTUS_FINISH_CANCELLED || out.n == 5); /* it may have been let in before */
    cactus_request_free(waiting);
    cactus_request_free(running);
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_free(engine);
}

typedef struct scorer {
    cactus_engine *engine;
    atomic_bool stop;
} scorer;

static void *score_main(void *arg)
{
    scorer *s = arg;
    static const int32_t ids[200] = {5, 6, 7};
    float logprobs[199];
    while (!atomic_load(&s->stop)) CHECK_INT(cactus_engine_logprobs(s->engine, ids, 200, logprobs, NULL), CACTUS_OK);
    return NULL;
}

/* Scoring takes all pages again and again; a request that must be read again each time still gets its tokens. */
TEST(scores_do_not_starve_requests)
{
    cactus_engine_info info = {.struct_size = sizeof info};
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    CHECK_INT(cactus_engine_get_info(engine, &info, NULL), CACTUS_OK);
    cactus_engine_free(engine);
    scorer s = {.engine = make_engine(2, 256, 8 * info.kv_page_bytes, 16)};
    pthread_t threads[2];
    for (size_t i = 0; i < 2; i++) CHECK_INT(pthread_create(&threads[i], NULL, score_main, &s), 0);
    int32_t prompt[100];
    output out;
    for (int32_t i = 0; i < 100; i++) prompt[i] = 5 + i;
    generate(s.engine, prompt, 100, 3, &out);
    CHECK_UINT(out.n, 3);
    atomic_store(&s.stop, true);
    for (size_t i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    cactus_engine_free(s.engine);
}

/* How keys and values are kept: each kind is what the engine says it is, takes its own memory and scores as it does in any chunks. */
TEST(kinds_of_keys_and_values)
{
    enum { N = 70, N_VOCAB = 512 };
    static const cactus_kv_type kinds[] = {CACTUS_KV_F32, CACTUS_KV_F16, CACTUS_KV_I8};
    static float whole[N * N_VOCAB], cut[N * N_VOCAB], first[N * N_VOCAB];
    cactus_model_info about = {.struct_size = sizeof about};
    int32_t ids[N];
    uint64_t page_bytes[3];
    for (int32_t i = 0; i < N; i++) ids[i] = 5 + i * 7 % 300;
    CHECK_INT(cactus_model_get_info(the_model(), &about, NULL), CACTUS_OK);
    if (!CHECK_UINT(about.n_vocab, N_VOCAB)) return;
    for (size_t i = 0; i < 3; i++) {
        cactus_error err = {0};
        cactus_engine *engine = NULL;
        cactus_engine_info info = {.struct_size = sizeof info};
        cactus_engine_params p = {.struct_size = sizeof p, .n_threads = 2, .n_context = 128, .kv_type = (int32_t)kinds[i]};
        if (!CHECK_MSG(cactus_engine_create(the_model(), &p, &engine, &err) == CACTUS_OK, "%s", err.message)) return;
        CHECK_INT(cactus_engine_get_info(engine, &info, NULL), CACTUS_OK);
        CHECK_INT(info.kv_type, kinds[i]);
        page_bytes[i] = info.kv_page_bytes;
        CHECK_INT(cactus_engine_logits(engine, ids, N, 0, whole, &err), CACTUS_OK);
        for (int32_t chunk = 1; chunk <= 33; chunk += 16) {
            CHECK_INT(cactus_engine_logits(engine, ids, N, chunk, cut, &err), CACTUS_OK);
            CHECK_MEM(cut, whole, sizeof whole);
        }
        if (i == 0) memcpy(first, whole, sizeof first);
        double off = 0.0, size = 0.0;
        for (size_t k = 0; k < N * N_VOCAB; k++) {
            off += ((double)whole[k] - (double)first[k]) * ((double)whole[k] - (double)first[k]);
            size += (double)first[k] * (double)first[k];
        }
        CHECK(i == 0 ? off == 0.0 : off > 0.0 && off < (kinds[i] == CACTUS_KV_F16 ? 1e-5 : 2e-3) * size);
        cactus_engine_free(engine);
    }
    CHECK_UINT(page_bytes[0], 2 * page_bytes[1]);
    CHECK_UINT(page_bytes[2] * 16, page_bytes[1] * 9); /* heads of 32 elements: a scale of four bytes for each */
}

static int32_t count_tokens(void *user, const cactus_token *token)
{
    atomic_int *n = user;
    if (token->id >= 0) atomic_fetch_add(n, 1);
    return atomic_load(n) >= 7;
}

TEST(callbacks)
{
    int32_t prompt[] = {5, 6, 7};
    atomic_int n = 0;
    cactus_token token;
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    cactus_request_params p = params_for(prompt, 3, 100);
    p.on_token = count_tokens;
    p.user = &n;
    cactus_request *r = submit(engine, &p);
    CHECK_INT(cactus_request_next(r, 60000, &token, NULL), CACTUS_ERROR_FINISHED); /* waits for the end */
    CHECK_INT(atomic_load(&n), 7); /* the callback cancelled */
    cactus_request_free(r);
    cactus_engine_free(engine);
}

static int32_t count_events(void *user, const cactus_token *token)
{
    (void)token;
    atomic_fetch_add((atomic_int *)user, 1);
    return 0;
}

TEST(no_callback_after_free)
{
    int32_t prompt[] = {5, 6, 7};
    atomic_int n = 0;
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    cactus_request_params p = params_for(prompt, 3, -1);
    p.context_policy = CACTUS_CONTEXT_SHIFT;
    p.on_token = count_events;
    p.user = &n;
    cactus_request *r = submit(engine, &p);
    while (atomic_load(&n) < 5) nanosleep(&(struct timespec){0, 100000}, NULL);
    cactus_request_free(r);
    int at_free = atomic_load(&n);
    CHECK_UINT(pages_used(engine), 0);
    CHECK_INT(atomic_load(&n), at_free);
    cactus_engine_free(engine);
}

TEST(timeouts)
{
    int32_t prompt[] = {5};
    cactus_token token;
    cactus_error err = {0};
    cactus_engine *engine = make_engine(1, 0, 0, 0);
    cactus_request_params p = params_for(prompt, 1, 1);
    cactus_request *r = submit(engine, &p);
    cactus_status status;
    while ((status = cactus_request_next(r, 0, &token, &err)) == CACTUS_ERROR_TIMEOUT) continue;
    CHECK_INT(status, CACTUS_OK);
    CHECK_INT(token.finish, CACTUS_FINISH_LENGTH);
    cactus_request_free(r);
    cactus_engine_free(engine);
}

TEST(stop_strings_end_the_text)
{
    int32_t prompt[] = {40, 41, 42};
    output whole, cut;
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    generate(engine, prompt, 3, 40, &whole);
    if (CHECK(strlen(whole.text) > 8)) {
        char stop[4] = {0};
        memcpy(stop, whole.text + strlen(whole.text) / 2, 3);
        const char *stops[] = {stop};
        cactus_request_params p = params_for(prompt, 3, 40);
        p.stop = stops;
        p.n_stop = 1;
        cactus_request *r = submit(engine, &p);
        collect(r, &cut);
        cactus_request_free(r);
        CHECK_INT(cut.finish, CACTUS_FINISH_STOP);
        const char *at = strstr(whole.text, stop);
        CHECK_UINT(strlen(cut.text), at - whole.text);
        CHECK(strncmp(cut.text, whole.text, strlen(cut.text)) == 0);
    }
    cactus_engine_free(engine);
}

TEST(bad_requests)
{
    cactus_engine *engine = make_engine(1, 0, 0, 0);
    int32_t prompt[] = {5, 600}, good[] = {5};
    const char *empty[] = {""};
    cactus_request *r = NULL;
    cactus_error err = {0};
    cactus_request_params p = params_for(prompt, 2, 5);
    CHECK_INT(cactus_request_submit(engine, &p, &r, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_CONTAINS(err.message, "token 600 at position 1");
    p = params_for(good, 0, 5);
    CHECK_INT(cactus_request_submit(engine, &p, &r, &err), CACTUS_ERROR_ARGUMENT);
    p = params_for(good, 1, 0);
    CHECK_INT(cactus_request_submit(engine, &p, &r, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_CONTAINS(err.message, "max_tokens");
    p = params_for(good, 1, 1);
    p.sampling.temperature = NAN;
    CHECK_INT(cactus_request_submit(engine, &p, &r, &err), CACTUS_ERROR_ARGUMENT);
    p = params_for(good, 1, 1);
    p.stop = empty;
    p.n_stop = 1;
    CHECK_INT(cactus_request_submit(engine, &p, &r, &err), CACTUS_ERROR_ARGUMENT);
    p = params_for(good, 1, 1);
    p.context_policy = CACTUS_CONTEXT_SHIFT;
    p.n_keep = 256;
    CHECK_INT(cactus_request_submit(engine, &p, &r, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_CONTAINS(err.message, "n_keep is 256");
    p = params_for(good, 1, 1);
    p.speculation = 17;
    CHECK_INT(cactus_request_submit(engine, &p, &r, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_STR(err.message, "speculation is 17; it must lie between 0 (off) and 16");
    p.speculation = -1;
    CHECK_INT(cactus_request_submit(engine, &p, &r, &err), CACTUS_ERROR_ARGUMENT);
    p = params_for(good, 1, 1);
    p.struct_size = 4;
    CHECK_INT(cactus_request_submit(engine, &p, &r, &err), CACTUS_ERROR_ARGUMENT);
    CHECK(r == NULL);
    CHECK_INT(cactus_engine_logits(engine, good, 0, 0, &(float){0}, &err), CACTUS_ERROR_ARGUMENT);
    cactus_engine_free(engine);

    cactus_engine_params e = {.struct_size = sizeof e, .kernels = "mmx"};
    CHECK_INT(cactus_engine_create(the_model(), &e, &engine, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_CONTAINS(err.message, "mmx");
    e = (cactus_engine_params){.struct_size = sizeof e, .n_context = 100000};
    CHECK_INT(cactus_engine_create(the_model(), &e, &engine, &err), CACTUS_ERROR_ARGUMENT);
    e = (cactus_engine_params){.struct_size = sizeof e, .kv_type = CACTUS_KV_I8 + 1};
    CHECK_INT(cactus_engine_create(the_model(), &e, &engine, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_CONTAINS(err.message, "kv_type 4");
    e = (cactus_engine_params){.struct_size = sizeof e, .kv_memory_bytes = 1};
    CHECK_INT(cactus_engine_create(the_model(), &e, &engine, &err), CACTUS_ERROR_ARGUMENT);
    CHECK(engine == NULL);
}

/* ---- speculation ---- */

enum { N_STYLES = 7 };

/* Sampling that makes a random model repeat itself: few tokens are allowed, so that runs of three come again and drafts are right often,
 * but not always. Style 0 is the model as it is. */
static cactus_request_params styled(size_t style, const int32_t *prompt, size_t n, int32_t max_tokens)
{
    static const int32_t allowed[] = {40, 77, 101, 205, 333, 412};
    static const float lifts[] = {900.0f, 900.0f, 900.0f, 900.0f, 900.0f, 900.0f};
    cactus_request_params p = params_for(prompt, n, max_tokens);
    cactus_sampling *s = &p.sampling;
    s->seed = 5 + style;
    if (style > 0) s->bias_ids = allowed, s->bias_values = lifts, s->n_bias = style < 4 ? 3 : 6;
    if (style == 2 || style == 6) s->temperature = 8.0f, s->top_p = 0.8f;
    if (style == 3) s->temperature = 3.0f;
    if (style == 4) s->repetition_penalty = 1.01f, s->penalty_last_n = 20;
    if (style == 5) s->presence_penalty = 0.5f, s->frequency_penalty = 0.3f;
    if (style == 6) s->frequency_penalty = 0.1f, s->n_top_logprobs = 5;
    return p;
}

static cactus_request_stats complete(cactus_engine *engine, cactus_request_params p, int32_t speculation, output *out)
{
    cactus_request_stats stats = {.struct_size = sizeof stats};
    p.speculation = speculation;
    cactus_request *r = submit(engine, &p);
    collect(r, out);
    CHECK_INT(cactus_request_get_stats(r, &stats, NULL), CACTUS_OK);
    CHECK_UINT(stats.n_generated, out->n);
    CHECK(stats.n_accepted <= stats.n_drafted);
    if (speculation == 0) CHECK_INT(stats.n_drafted, 0);
    cactus_request_free(r);
    return stats;
}

static output plain, drafted;

TEST(drafts_change_nothing)
{
    make_prompts();
    cactus_engine *engine = make_engine(1, 0, 0, 0);
    for (size_t style = 0; style < N_STYLES; style++) {
        int32_t n_drafted = 0, n_accepted = 0;
        for (size_t i = 0; i < 6; i++) {
            cactus_request_params p = styled(style, prompts[i], prompt_sizes[i], 100);
            (void)complete(engine, p, 0, &plain);
            cactus_request_stats stats = complete(engine, p, i % 3 == 0 ? 3 : 16, &drafted);
            check_same(&plain, &drafted);
            n_drafted += stats.n_drafted;
            n_accepted += stats.n_accepted;
        }
        if (style > 0) CHECK_MSG(n_accepted > 0 && n_drafted > n_accepted, "style %zu: %d of %d", style, n_accepted, n_drafted);
    }
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_free(engine);
}

TEST(drafts_end_where_requests_end)
{
    make_prompts();
    int32_t n_accepted = 0;
    cactus_engine *engine = make_engine(1, 64, 0, 0);
    for (int32_t n = 1; n <= 40; n++) { /* max_tokens at every place of a draft */
        (void)complete(engine, styled(1, prompts[0], 10, n), 0, &plain);
        n_accepted += complete(engine, styled(1, prompts[0], 10, n), 16, &drafted).n_accepted;
        check_same(&plain, &drafted);
        CHECK_UINT(drafted.n, n);
    }
    for (size_t n = 1; n <= 64; n += 7) /* the context likewise, with both policies */
        for (int32_t policy = CACTUS_CONTEXT_ERROR; policy <= CACTUS_CONTEXT_SHIFT; policy++)
            for (size_t style = 1; style < N_STYLES; style += 2) {
                cactus_request_params p = styled(style, prompts[2], n, policy == CACTUS_CONTEXT_SHIFT ? 150 : -1);
                p.context_policy = policy;
                p.n_keep = (int32_t)(n % 40);
                (void)complete(engine, p, 0, &plain);
                n_accepted += complete(engine, p, 16, &drafted).n_accepted;
                check_same(&plain, &drafted);
            }
    CHECK(n_accepted > 300);
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_free(engine);
}

TEST(drafts_and_stop_strings)
{
    make_prompts();
    int32_t n_accepted = 0;
    cactus_engine *engine = make_engine(1, 0, 0, 0);
    static output whole;
    (void)complete(engine, styled(3, prompts[1], prompt_sizes[1], 60), 0, &whole);
    size_t n = strlen(whole.text);
    CHECK(n > 60);
    for (size_t at = 0; at + 13 <= n; at += 2) {
        char stop[16] = {0};
        memcpy(stop, whole.text + at, at % 4 == 0 ? 3 : 13);
        const char *stops[] = {stop};
        cactus_request_params p = styled(3, prompts[1], prompt_sizes[1], 60);
        p.stop = stops;
        p.n_stop = 1;
        (void)complete(engine, p, 0, &plain);
        n_accepted += complete(engine, p, 16, &drafted).n_accepted;
        check_same(&plain, &drafted);
        CHECK_INT(drafted.finish, CACTUS_FINISH_STOP);
    }
    CHECK(n_accepted > 0);
    cactus_engine_free(engine);
}

/* An end token that is drafted ends the text like any other. */
TEST(drafts_and_end_tokens)
{
    static const int32_t allowed[] = {40, 1};
    static const float lifts[] = {900.0f, 900.0f};
    static const int32_t prompt[] = {40, 40, 40, 40, 1, 40, 40, 40, 40, 1, 40, 40, 40, 40};
    cactus_engine *engine = make_engine(1, 0, 0, 0);
    size_t n_ends = 0;
    for (uint64_t seed = 0; seed < 40; seed++) {
        cactus_request_params p = params_for(prompt, 14, 50);
        p.sampling.ignore_eos = 0;
        p.sampling.temperature = 20.0f;
        p.sampling.seed = seed;
        p.sampling.bias_ids = allowed, p.sampling.bias_values = lifts, p.sampling.n_bias = 2;
        (void)complete(engine, p, 0, &plain);
        (void)complete(engine, p, 16, &drafted);
        check_same(&plain, &drafted);
        n_ends += drafted.finish == CACTUS_FINISH_STOP;
    }
    CHECK(n_ends > 10);
    cactus_engine_free(engine);
}

/* Twelve requests of all styles at once, with room and without, with any number of rows to a step. */
TEST(drafts_of_many_requests)
{
    static output expected[12];
    static const int32_t batches[] = {0, 1, 2, 13, 33};
    cactus_engine_info info = {.struct_size = sizeof info};
    make_prompts();
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    CHECK_INT(cactus_engine_get_info(engine, &info, NULL), CACTUS_OK);
    for (size_t i = 0; i < 12; i++) (void)complete(engine, styled(i % N_STYLES, prompts[i], prompt_sizes[i], 40), 0, &expected[i]);
    cactus_engine_free(engine);
    for (size_t scarce = 0; scarce < 2; scarce++)
        for (size_t b = 0; b < 5; b++) {
            int32_t n_drafted = 0;
            engine = make_engine(2, 128, scarce ? 6 * info.kv_page_bytes : 0, batches[b]);
            cactus_request *requests[12];
            for (size_t i = 0; i < 12; i++) {
                cactus_request_params p = styled(i % N_STYLES, prompts[i], prompt_sizes[i], 40);
                p.speculation = i == 7 ? 0 : 16;
                requests[i] = submit(engine, &p);
            }
            float *logits = malloc(128 * 512 * sizeof *logits);
            CHECK_INT(cactus_engine_logits(engine, prompts[0], prompt_sizes[0], 0, logits, NULL), CACTUS_OK);
            free(logits);
            for (size_t i = 0; i < 12; i++) {
                cactus_request_stats stats = {.struct_size = sizeof stats};
                collect(requests[i], &together[i]);
                CHECK_INT(cactus_request_get_stats(requests[i], &stats, NULL), CACTUS_OK);
                n_drafted += stats.n_drafted;
                cactus_request_free(requests[i]);
                check_same(&expected[i], &together[i]);
            }
            if (batches[b] == 1) CHECK_INT(n_drafted, 0); /* no row to spare */
            else if (batches[b] != 2) CHECK(n_drafted > 0);
            CHECK_UINT(pages_used(engine), 0);
            cactus_engine_free(engine);
        }
}

typedef struct quota {
    atomic_int n, most;
} quota;

static int32_t count_up_to(void *user, const cactus_token *token)
{
    quota *q = user;
    if (token->id >= 0) atomic_fetch_add(&q->n, 1);
    return atomic_load(&q->n) >= atomic_load(&q->most);
}

TEST(cancelled_inside_a_draft)
{
    cactus_token token;
    output out;
    make_prompts();
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    for (int most = 1; most <= 60; most++) { /* by the callback: not a token more */
        quota q = {0, most};
        cactus_request_params p = styled(1, prompts[0], prompt_sizes[0], 100);
        p.on_token = count_up_to;
        p.user = &q;
        p.speculation = 16;
        cactus_request *r = submit(engine, &p);
        CHECK_INT(cactus_request_next(r, 60000, &token, NULL), CACTUS_ERROR_FINISHED);
        CHECK_INT(atomic_load(&q.n), most);
        cactus_request_free(r);
    }
    for (int i = 0; i < 20; i++) { /* from outside, at any time */
        cactus_request_params p = styled(1, prompts[0], prompt_sizes[0], -1);
        p.context_policy = CACTUS_CONTEXT_SHIFT;
        p.speculation = 16;
        cactus_request *r = submit(engine, &p);
        for (int j = 0; j < 10 * i; j++) CHECK_INT(cactus_request_next(r, 60000, &token, NULL), CACTUS_OK);
        if (i % 2 == 0) {
            cactus_request_cancel(r);
            collect(r, &out);
            CHECK_INT(out.finish, CACTUS_FINISH_CANCELLED);
        }
        cactus_request_free(r);
    }
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_free(engine);
}

typedef struct client {
    cactus_engine *engine;
    size_t index;
    output out;
} client;

static void *client_main(void *arg)
{
    client *c = arg;
    for (int i = 0; i < 3; i++) generate(c->engine, prompts[c->index], prompt_sizes[c->index], 40, &c->out);
    return NULL;
}

TEST(many_threads_share_an_engine)
{
    static client clients[8];
    pthread_t threads[8];
    make_prompts();
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    for (size_t i = 0; i < 8; i++) {
        clients[i].engine = engine;
        clients[i].index = i;
        CHECK_INT(pthread_create(&threads[i], NULL, client_main, &clients[i]), 0);
    }
    for (size_t i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        check_same(&alone[i], &clients[i].out);
    }
    cactus_engine_free(engine);
    cactus_model_free(model);
    model = NULL;
}

TEST_MAIN()
