/* test_scheduler.c: what requests have of one another: prefixes in memory and on disk, masks, deadlines, the bound of the queue, long
 * prompts beside short ones. Runs under the sanitizers and under emulation. */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/engine.h"
#include "tests/engine_fixture.h"

enum { LONG = 240, N_TWINS = 8 };

static int32_t prompt[LONG];

static void make_prompt(uint64_t seed)
{
    test_rng rng = {seed};
    for (size_t i = 0; i < LONG; i++) prompt[i] = (int32_t)(3 + test_below(&rng, 500));
}

static cactus_engine_info info_of(cactus_engine *engine)
{
    cactus_engine_info info = {.struct_size = sizeof info};
    CHECK_INT(cactus_engine_get_info(engine, &info, NULL), CACTUS_OK);
    return info;
}

/* Generates and says how many tokens of the prompt were found in memory. */
static int32_t cached(cactus_engine *engine, const int32_t *ids, size_t n, int32_t max_tokens, output *out)
{
    cactus_request_params p = params_for(ids, n, max_tokens);
    cactus_request_stats stats = {.struct_size = sizeof stats};
    cactus_request *r = submit(engine, &p);
    collect(r, out);
    CHECK_INT(cactus_request_get_stats(r, &stats, NULL), CACTUS_OK);
    cactus_request_free(r);
    return stats.n_prompt_cached;
}

TEST(prefixes_are_read_once)
{
    static output first, second, shorter, other;
    make_prompt(1);
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    CHECK_INT(cached(engine, prompt, 200, 10, &first), 0);
    CHECK_INT(cached(engine, prompt, 200, 10, &second), 192);
    check_same(&first, &second);
    CHECK_INT(cached(engine, prompt, 64, 10, &shorter), 32); /* the last token is always computed */
    prompt[40]++;
    CHECK_INT(cached(engine, prompt, 200, 10, &other), 32);
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_info info = info_of(engine);
    CHECK_UINT(info.n_kv_pages_cached, 6 + 5);
    CHECK_UINT(info.n_prompt, 200 + 200 + 64 + 200);
    CHECK_UINT(info.n_prompt_cached, 192 + 32 + 32);
    CHECK_UINT(info.n_generated, 40);
    cactus_engine_free(engine);

    engine = make_engine(2, 0, 0, 0);
    static output alone;
    CHECK_INT(cached(engine, prompt, 200, 10, &alone), 0);
    check_same(&alone, &other);
    cactus_engine_free(engine);
}

TEST(answers_become_prefixes)
{
    static output answer, next, alone;
    int32_t turn[LONG];
    make_prompt(2);
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    generate(engine, prompt, 50, 60, &answer);
    memcpy(turn, prompt, 50 * sizeof *turn);
    memcpy(turn + 50, answer.ids, 60 * sizeof *turn);
    memcpy(turn + 110, prompt + 110, 20 * sizeof *turn);
    CHECK_INT(cached(engine, turn, 130, 10, &next), 96);
    cactus_engine_free(engine);
    engine = make_engine(1, 0, 0, 0);
    generate(engine, turn, 130, 10, &alone);
    check_same(&alone, &next);
    cactus_engine_free(engine);
}

TEST(prefixes_can_be_declined)
{
    static output out;
    make_prompt(3);
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    cactus_request_params p = params_for(prompt, 100, 5);
    p.no_prefixes = 1;
    cactus_request *r = submit(engine, &p);
    collect(r, &out);
    cactus_request_free(r);
    CHECK_UINT(pages_used(engine), 0);
    CHECK_UINT(info_of(engine).n_kv_pages_cached, 0);
    CHECK_INT(cached(engine, prompt, 100, 5, &out), 0);
    cactus_engine_free(engine);

    cactus_engine_params ep = {.struct_size = sizeof ep, .no_prefixes = 1};
    CHECK_INT(cactus_engine_create(the_model(), &ep, &engine, NULL), CACTUS_OK);
    CHECK_INT(cached(engine, prompt, 100, 5, &out), 0);
    CHECK_INT(cached(engine, prompt, 100, 5, &out), 0);
    CHECK_UINT(info_of(engine).n_kv_pages_cached, 0);
    cactus_engine_free(engine);
}

/* Requests that come together with one prompt: it is read once. */
TEST(twins_wait_for_one_another)
{
    static output alone, outs[N_TWINS];
    for (int32_t n_batch = 16; n_batch <= 512; n_batch *= 4) {
        make_prompt(4);
        cactus_engine *engine = make_engine(2, 0, 0, n_batch);
        cactus_request *requests[N_TWINS];
        cactus_request_params p = params_for(prompt, 230, 12);
        for (size_t i = 0; i < N_TWINS; i++) requests[i] = submit(engine, &p);
        for (size_t i = 0; i < N_TWINS; i++) {
            collect(requests[i], &outs[i]);
            cactus_request_free(requests[i]);
        }
        cactus_engine_info info = info_of(engine);
        CHECK_UINT(info.n_prompt_cached, (N_TWINS - 1) * 224);
        CHECK_UINT(pages_used(engine), 0);
        cactus_engine_free(engine);
        engine = make_engine(1, 0, 0, 0);
        generate(engine, prompt, 230, 12, &alone);
        for (size_t i = 0; i < N_TWINS; i++) check_same(&alone, &outs[i]);
        cactus_engine_free(engine);
    }
}

/* Memory for six pages: what nobody uses goes first, and nothing of it shows. */
TEST(prefixes_give_way)
{
    static output first[6], again;
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    uint64_t page_bytes = info_of(engine).kv_page_bytes;
    cactus_engine_free(engine);
    engine = make_engine(2, 160, 6 * page_bytes, 64);
    for (int round = 0; round < 2; round++)
        for (uint64_t seed = 0; seed < 6; seed++) {
            make_prompt(seed);
            (void)cached(engine, prompt, 100, 20, round == 0 ? &first[seed] : &again);
            if (round == 1) check_same(&first[seed], &again);
        }
    CHECK_INT(cached(engine, prompt, 100, 20, &again), 96); /* the last one is still there */
    cactus_engine_info info = info_of(engine);
    CHECK_MSG(info.n_evicted > 0 && info.n_kv_pages_cached <= 6, "%llu pages went, %u are kept", (unsigned long long)info.n_evicted, info.n_kv_pages_cached);
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_free(engine);
}

TEST(long_prompts_beside_short_ones)
{
    static output alone[10], together[10];
    size_t sizes[10] = {LONG, 5, 33, LONG - 1, 64, 1, 130, 2, 230, 90};
    make_prompt(5);
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    for (size_t i = 0; i < 10; i++) {
        cactus_request_params p = params_for(prompt + LONG - sizes[i], sizes[i], 15);
        p.no_prefixes = 1;
        cactus_request *r = submit(engine, &p);
        collect(r, &alone[i]);
        cactus_request_free(r);
    }
    cactus_request *requests[10];
    for (size_t i = 0; i < 10; i++) {
        cactus_request_params p = params_for(prompt + LONG - sizes[i], sizes[i], 15);
        requests[i] = submit(engine, &p);
        nanosleep(&(struct timespec){0, 300000}, NULL);
    }
    for (size_t i = 0; i < 10; i++) {
        collect(requests[i], &together[i]);
        cactus_request_free(requests[i]);
        check_same(&alone[i], &together[i]);
    }
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_free(engine);
}

/* Cancelled at any time while its prompt is being read: the pages come back. */
TEST(cancelled_while_reading)
{
    make_prompt(6);
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    for (long delay_us = 0; delay_us < 4000; delay_us += 80) {
        cactus_request_params p = params_for(prompt, LONG, 5);
        p.no_prefixes = delay_us % 160 == 0;
        cactus_request *r = submit(engine, &p);
        prompt[0] = 3 + (int32_t)(delay_us / 80);
        nanosleep(&(struct timespec){0, delay_us * 1000}, NULL);
        cactus_request_free(r);
    }
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_free(engine);
}

/* ---- masks ---- */

TEST(masks_decide)
{
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    int32_t n_vocab = 512;
    uint32_t mask[16] = {0};
    make_prompt(7);
    cactus_request_params p = params_for(prompt, 40, 6);
    p.constrained = 1;
    cactus_request *r = submit(engine, &p);
    static output other;
    generate(engine, prompt, 60, 30, &other); /* goes on while the first one waits */
    CHECK_UINT(other.n, 30);
    for (int32_t i = 0; i < 6; i++) {
        cactus_token token;
        int32_t wanted = (i * 97 + 13) % n_vocab;
        memset(mask, 0, sizeof mask);
        mask[wanted / 32] = 1u << (wanted % 32);
        CHECK_INT(cactus_request_next(r, 20, &token, NULL), CACTUS_ERROR_TIMEOUT);
        CHECK_INT(cactus_request_set_mask(r, mask, 16, NULL), CACTUS_OK);
        CHECK_INT(cactus_request_next(r, 60000, &token, NULL), CACTUS_OK);
        CHECK_INT(token.id, wanted);
    }
    cactus_request_free(r);

    r = submit(engine, &p); /* masks that allow everything: what is generated without any */
    static output free_of_masks, plain;
    cactus_token token;
    CHECK_INT(cactus_request_set_mask(r, NULL, 0, NULL), CACTUS_OK);
    for (free_of_masks.n = 0; cactus_request_next(r, 60000, &token, NULL) == CACTUS_OK;) {
        free_of_masks.ids[free_of_masks.n++] = token.id;
        if (token.finish == 0) CHECK_INT(cactus_request_set_mask(r, NULL, 0, NULL), CACTUS_OK);
    }
    generate(engine, prompt, 40, 6, &plain);
    CHECK_UINT(free_of_masks.n, 6);
    for (size_t i = 0; i < 6; i++) CHECK_INT(free_of_masks.ids[i], plain.ids[i]);
    cactus_request_free(r);
    cactus_engine_free(engine);
}

TEST(masks_that_cannot_be)
{
    cactus_engine *engine = make_engine(1, 0, 0, 0);
    cactus_error err;
    cactus_token token;
    uint32_t mask[16] = {0};
    make_prompt(8);
    cactus_request_params p = params_for(prompt, 10, 6);
    cactus_request *plain = submit(engine, &p);
    CHECK_INT(cactus_request_set_mask(plain, mask, 16, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_INT(cactus_request_set_mask(NULL, mask, 16, &err), CACTUS_ERROR_ARGUMENT);
    cactus_request_free(plain);
    p.constrained = 1;
    cactus_request *r = submit(engine, &p);
    CHECK_INT(cactus_request_set_mask(r, mask, 15, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_STR(err.message, "a mask of 15 words was given; the vocabulary needs 16");
    CHECK_INT(cactus_request_set_mask(r, mask, 16, &err), CACTUS_OK);
    CHECK_INT(cactus_request_next(r, 60000, &token, &err), CACTUS_ERROR_FORMAT);
    CHECK_STR(err.message, "the mask of the next token allows none of the vocabulary");
    CHECK_INT(cactus_request_set_mask(r, mask, 16, &err), CACTUS_OK); /* too late, and without effect */
    CHECK_INT(cactus_request_set_mask(r, mask, 16, &err), CACTUS_ERROR_ARGUMENT);
    cactus_request_free(r);
    CHECK_UINT(pages_used(engine), 0);

    r = submit(engine, &p); /* closed while it waits for its mask */
    nanosleep(&(struct timespec){0, 20000000}, NULL);
    cactus_engine_free(engine);
    CHECK_INT(cactus_request_next(r, 60000, &token, &err), CACTUS_OK);
    CHECK_INT(token.finish, CACTUS_FINISH_CANCELLED);
    CHECK_INT(cactus_request_set_mask(r, NULL, 0, &err), CACTUS_OK);
    cactus_request_free(r);
}

/* ---- time, and the queue ---- */

TEST(deadlines)
{
    static output out;
    cactus_engine *engine = make_engine(1, 0, 0, 0);
    make_prompt(9);
    cactus_request_params p = params_for(prompt, 40, 6);
    p.constrained = 1; /* never gets its mask */
    p.timeout_ms = 30;
    cactus_request *r = submit(engine, &p);
    collect(r, &out);
    CHECK_INT(out.finish, CACTUS_FINISH_TIMEOUT);
    CHECK_UINT(pages_used(engine), 0);
    cactus_request_free(r);
    p = params_for(prompt, 40, -1);
    p.context_policy = CACTUS_CONTEXT_SHIFT; /* goes on for ever */
    p.timeout_ms = 60;
    r = submit(engine, &p);
    CHECK_INT(cactus_request_wait(r, 1, NULL), CACTUS_ERROR_TIMEOUT);
    CHECK_INT(cactus_request_wait(r, 60000, NULL), CACTUS_OK);
    cactus_token token;
    int32_t last = 0;
    size_t n = 0;
    while (cactus_request_next(r, 0, &token, NULL) == CACTUS_OK) last = token.finish, n++;
    CHECK_INT(last, CACTUS_FINISH_TIMEOUT);
    CHECK(n > 1);
    cactus_request_free(r);
    p.timeout_ms = -1;
    CHECK_INT(cactus_request_submit(engine, &p, &r, NULL), CACTUS_ERROR_ARGUMENT);
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_free(engine);
}

TEST(the_queue_is_bounded)
{
    cactus_engine *engine = NULL;
    cactus_engine_params ep = {.struct_size = sizeof ep, .n_threads = 1, .max_waiting = 2};
    cactus_error err;
    CHECK_INT(cactus_engine_create(the_model(), &ep, &engine, NULL), CACTUS_OK);
    make_prompt(10);
    cactus_request_params p = params_for(prompt, 4, 6);
    p.constrained = 1; /* each waits, so that all that may run do so for good */
    cactus_request *requests[80];
    size_t n = 0;
    cactus_status status = CACTUS_OK;
    while (n < 80 && status == CACTUS_OK) {
        status = cactus_request_submit(engine, &p, &requests[n], &err);
        n += status == CACTUS_OK;
        for (int i = 0; i < 400 && info_of(engine).n_waiting > 0 && info_of(engine).n_running < 64; i++) nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
    CHECK_INT(status, CACTUS_ERROR_BUSY);
    CHECK_STR(err.message, "2 requests wait already, as many as may; try again later");
    CHECK_UINT(n, 64 + 2);
    for (size_t i = 0; i < n; i++) cactus_request_free(requests[i]);
    CHECK_UINT(pages_used(engine), 0);
    ep.max_waiting = -1;
    cactus_engine_free(engine);
    CHECK_INT(cactus_engine_create(the_model(), &ep, &engine, NULL), CACTUS_ERROR_ARGUMENT);
}

/* ---- on disk ---- */

static uint8_t *read_all(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!CHECK(f != NULL && fstat(fileno(f), &st) == 0)) exit(2);
    uint8_t *data = malloc((size_t)st.st_size);
    *n = fread(data, 1, (size_t)st.st_size, f);
    fclose(f);
    return data;
}

static void write_all(const char *path, const uint8_t *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!CHECK(f != NULL)) exit(2);
    CHECK_UINT(fwrite(data, 1, n, f), n);
    fclose(f);
}

TEST(prefixes_on_disk)
{
    static output first, second;
    static const uint8_t key[4] = {1, 2, 3, 4}, other_key[4] = {1, 2, 3, 5};
    char folder[] = "/tmp/cactus-test-XXXXXX", path[64], damaged[64];
    uint64_t n_tokens = 0;
    if (!CHECK(mkdtemp(folder) != NULL)) return;
    snprintf(path, sizeof path, "%s/a", folder);
    snprintf(damaged, sizeof damaged, "%s/b", folder);
    make_prompt(11);
    cactus_engine *engine = make_engine(1, 0, 0, 0);
    generate(engine, prompt, 150, 10, &first);
    prompt[70]++;
    generate(engine, prompt, 150, 10, &second);
    prompt[70]--;
    CHECK_INT(cactus_engine_save_prefixes(engine, path, key, 4, &n_tokens, NULL), CACTUS_OK);
    CHECK_UINT(n_tokens, (4 + 2) * 32);
    CHECK_UINT(pages_used(engine), 0);
    struct stat st;
    CHECK(stat(path, &st) == 0 && (st.st_mode & 077) == 0); /* what users wrote is nobody else's */
    CHECK_INT(cactus_engine_save_prefixes(engine, folder, key, 4, NULL, NULL), CACTUS_ERROR_IO);
    CHECK_INT(cactus_engine_save_prefixes(engine, path, key, 0, NULL, NULL), CACTUS_ERROR_ARGUMENT);
    cactus_engine_free(engine);

    size_t n;
    uint8_t *data = read_all(path, &n);
    engine = make_engine(2, 0, 0, 0);
    cactus_error err;
    CHECK_INT(cactus_engine_load_prefixes(engine, path, other_key, 4, NULL, &err), CACTUS_ERROR_FORMAT);
    CHECK_INT(cactus_engine_load_prefixes(engine, path, key, 3, NULL, &err), CACTUS_ERROR_FORMAT);
    CHECK_INT(cactus_engine_load_prefixes(engine, damaged, key, 4, NULL, &err), CACTUS_ERROR_IO);
    for (size_t at = 0; at < n; at += at < 1200 ? 17 : n / 12) { /* every field of the header and the first records, then pages */
        data[at] ^= 0x81;
        write_all(damaged, data, n);
        data[at] ^= 0x81;
        CHECK_INT(cactus_engine_load_prefixes(engine, damaged, key, 4, NULL, &err), CACTUS_ERROR_FORMAT);
    }
    for (size_t size = 0; size < n; size += size < 400 ? 23 : n / 10) {
        write_all(damaged, data, size);
        CHECK_INT(cactus_engine_load_prefixes(engine, damaged, key, 4, NULL, &err), CACTUS_ERROR_FORMAT);
    }
    CHECK_UINT(info_of(engine).n_kv_pages_cached, 0);
    CHECK_INT(cactus_engine_load_prefixes(engine, path, key, 4, &n_tokens, NULL), CACTUS_OK);
    CHECK_UINT(n_tokens, (4 + 2) * 32);
    CHECK_INT(cactus_engine_load_prefixes(engine, path, key, 4, &n_tokens, NULL), CACTUS_OK); /* all there already */
    CHECK_UINT(n_tokens, 0);
    static output loaded;
    CHECK_INT(cached(engine, prompt, 150, 10, &loaded), 128);
    check_same(&first, &loaded);
    uint64_t page_bytes = info_of(engine).kv_page_bytes;
    cactus_engine_free(engine);

    engine = make_engine(1, 96, 3 * page_bytes, 0); /* room for three */
    CHECK_INT(cactus_engine_load_prefixes(engine, path, key, 4, &n_tokens, NULL), CACTUS_OK);
    CHECK_UINT(n_tokens, 3 * 32);
    CHECK_INT(cached(engine, prompt, 70, 10, &loaded), 64);
    cactus_engine_free(engine);
    free(data);
    unlink(path);
    unlink(damaged);
    rmdir(folder);
}

/* ---- work between the steps ---- */

static void check_logprobs(cactus_engine *engine, const int32_t *ids, size_t n, const float *want)
{
    float got[LONG];
    cactus_error err = {0};
    if (!CHECK_MSG(cactus_engine_logprobs(engine, ids, n, got, &err) == CACTUS_OK, "%s", err.message)) return;
    for (size_t i = 0; i + 1 < n; i++)
        if (!CHECK_FLOAT(got[i], want[i])) return;
}

/* Work takes the pages of a request that then waits for a mask: more work need not wait for the consumer. */
TEST(work_beside_a_mask_that_does_not_come)
{
    float want[LONG];
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    make_prompt(12);
    CHECK_INT(cactus_engine_logprobs(engine, prompt, 150, want, NULL), CACTUS_OK);
    uint64_t page_bytes = info_of(engine).kv_page_bytes;
    cactus_engine_free(engine);

    engine = make_engine(2, 160, 5 * page_bytes, 64);
    cactus_request_params p = params_for(prompt, 100, 3);
    cactus_token token;
    p.constrained = 1;
    cactus_request *r = submit(engine, &p);
    for (int i = 0; i < 4; i++) {
        CHECK_INT(cactus_request_next(r, 20, &token, NULL), CACTUS_ERROR_TIMEOUT);
        check_logprobs(engine, prompt, 150, want);
    }
    CHECK_UINT(info_of(engine).n_preempted, 4);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(cactus_request_set_mask(r, NULL, 0, NULL), CACTUS_OK);
        CHECK_INT(cactus_request_next(r, 60000, &token, NULL), CACTUS_OK);
        check_logprobs(engine, prompt, 150, want);
    }
    CHECK_INT(token.finish, CACTUS_FINISH_LENGTH);
    cactus_request_free(r);
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_free(engine);
}

/* What a saver of prefixes does while it writes. */
typedef struct holding {
    ct_work work;
    bool release;
    size_t n;
    uint32_t pages[16];
} holding;

static void hold_all(cactus_engine *e, ct_work *work)
{
    holding *h = (holding *)work;
    for (uint32_t page = 0; !h->release && page < e->kv.n_touched; page++)
        if (e->kv.kept[page]) ct_kv_share(&e->kv, ct_kv_page(&e->kv, h->pages[h->n++] = page));
    for (size_t i = 0; h->release && i < h->n; i++) ct_kv_give(&e->kv, ct_kv_page(&e->kv, h->pages[i]));
    if (h->release) e->n_held -= h->n;
    else e->n_held += h->n;
}

typedef struct scorer {
    cactus_engine *engine;
    const float *want;
    atomic_bool done;
} scorer;

static void *score(void *arg)
{
    scorer *s = arg;
    check_logprobs(s->engine, prompt, 150, s->want);
    atomic_store(&s->done, true);
    return NULL;
}

/* Pages that are being saved are not to be had: who needs them sleeps until they are, and nothing fails. */
TEST(pages_that_are_being_saved)
{
    static output alone, out;
    float want[LONG];
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    uint64_t page_bytes = info_of(engine).kv_page_bytes;
    make_prompt(13);
    CHECK_INT(cactus_engine_logprobs(engine, prompt, 150, want, NULL), CACTUS_OK);
    generate(engine, prompt + 50, 120, 20, &alone);
    cactus_engine_free(engine);

    engine = make_engine(2, 160, 5 * page_bytes, 64);
    generate(engine, prompt, 100, 2, &out);
    holding hold = {.work.run = hold_all};
    CHECK_INT(ct_work_submit(engine, &hold.work, NULL), CACTUS_OK);
    CHECK_UINT(hold.n, 3);
    scorer s = {.engine = engine, .want = want};
    pthread_t thread;
    CHECK_INT(pthread_create(&thread, NULL, score, &s), 0);
    cactus_request_params p = params_for(prompt + 50, 120, 20);
    cactus_request *r = submit(engine, &p);
    CHECK_INT(cactus_request_wait(r, 60, NULL), CACTUS_ERROR_TIMEOUT);
    CHECK(!atomic_load(&s.done));
    CHECK_UINT(info_of(engine).n_preempted, 0);
    CHECK_UINT(info_of(engine).n_kv_pages_used, 5);
    p.timeout_ms = 20; /* the queue is looked at all the same */
    cactus_request *late = submit(engine, &p);
    collect(late, &out);
    CHECK_INT(out.finish, CACTUS_FINISH_TIMEOUT);
    cactus_request_free(late);
    holding back = hold;
    back.release = true;
    back.work = (ct_work){.run = hold_all};
    CHECK_INT(ct_work_submit(engine, &back.work, NULL), CACTUS_OK);
    collect(r, &out);
    check_same(&alone, &out);
    pthread_join(thread, NULL);
    cactus_request_free(r);
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_free(engine);
}

enum { N_TEXTS = 3000, TEXT_TOKENS = 40 };

typedef struct embedder {
    cactus_engine *engine;
    const char *path;
    cactus_status status;
    atomic_bool done;
} embedder;

static void *embed_many(void *arg)
{
    embedder *m = arg;
    static int32_t ids[N_TEXTS * TEXT_TOKENS];
    static size_t lengths[N_TEXTS];
    static float out[N_TEXTS * 256];
    for (size_t i = 0; i < N_TEXTS; i++) {
        lengths[i] = TEXT_TOKENS;
        memcpy(ids + i * TEXT_TOKENS, prompt + i % (LONG - TEXT_TOKENS), TEXT_TOKENS * sizeof *ids);
    }
    cactus_embed_params p = {.struct_size = sizeof p};
    m->status = cactus_engine_embed(m->engine, ids, lengths, N_TEXTS, &p, out, NULL);
    atomic_store(&m->done, true);
    return NULL;
}

static void *save_once(void *arg)
{
    embedder *m = arg;
    m->status = cactus_engine_save_prefixes(m->engine, m->path, (const uint8_t *)"k", 1, NULL, NULL);
    atomic_store(&m->done, true);
    return NULL;
}

/* Calls that take several turns of the scheduler end as cancelled, or are done; what they read is not freed under them. */
TEST(closed_under_long_calls)
{
    static output out;
    char folder[] = "/tmp/cactus-test-XXXXXX", path[64];
    if (!CHECK(mkdtemp(folder) != NULL)) return;
    snprintf(path, sizeof path, "%s/a", folder);
    make_prompt(14);
    CHECK(the_model()->config.d_model <= 256);
    for (int round = 0; round < 8; round++) {
        cactus_engine *engine = make_engine(2, 0, 0, 64);
        embedder m = {.engine = engine}, saver = {.engine = engine, .path = path};
        pthread_t embedding, saving;
        generate(engine, prompt, LONG, 2, &out);
        CHECK_INT(pthread_create(&embedding, NULL, embed_many, &m), 0);
        CHECK_INT(pthread_create(&saving, NULL, save_once, &saver), 0);
        for (bool inside = false; !inside;) { /* who is not in a call yet must find an engine */
            nanosleep(&(struct timespec){0, 200000}, NULL);
            pthread_mutex_lock(&engine->mutex);
            inside = engine->n_callers > 2 || (engine->n_callers > 0 && (atomic_load(&saver.done) || atomic_load(&m.done))); /* one call counts up to twice */
            pthread_mutex_unlock(&engine->mutex);
            inside = inside || (atomic_load(&m.done) && atomic_load(&saver.done));
        }
        nanosleep(&(struct timespec){0, round * 300000}, NULL);
        cactus_engine_free(engine);
        pthread_join(embedding, NULL);
        pthread_join(saving, NULL);
        CHECK(m.status == CACTUS_ERROR_CANCELLED || m.status == CACTUS_OK);
        CHECK(saver.status == CACTUS_ERROR_CANCELLED || saver.status == CACTUS_OK);
    }
    unlink(path);
    rmdir(folder);
}

/* ---- everything at once ---- */

enum { N_PROMPTS = 12, N_LIVE = 20, N_ANSWER = 24, N_STEPS = 800 };

typedef struct live {
    cactus_request *r; /* NULL: free */
    size_t prompt, n;  /* tokens seen */
    int32_t max_tokens, finish;
    bool constrained, may_end_early;
} live;

static int32_t stress_prompts[N_PROMPTS][LONG];
static size_t stress_sizes[N_PROMPTS];
static output stress_alone[N_PROMPTS];
static float stress_logprobs[N_PROMPTS][LONG];

/* Prompts that begin alike up to some token, and what each gives alone. */
static void make_stress(test_rng *rng)
{
    cactus_engine *engine = make_engine(2, 0, 0, 0);
    make_prompt(15);
    for (size_t i = 0; i < N_PROMPTS; i++) {
        size_t n = stress_sizes[i] = 1 + test_below(rng, i % 3 == 0 ? 40 : 190), common = test_below(rng, n + 1);
        for (size_t t = 0; t < n; t++) stress_prompts[i][t] = t < common ? prompt[t] : (int32_t)(3 + test_below(rng, 500));
        cactus_request_params p = params_for(stress_prompts[i], n, N_ANSWER);
        p.no_prefixes = 1;
        cactus_request *r = submit(engine, &p);
        collect(r, &stress_alone[i]);
        cactus_request_free(r);
        CHECK_UINT(stress_alone[i].n, N_ANSWER);
        CHECK_INT(cactus_engine_logprobs(engine, stress_prompts[i], n, stress_logprobs[i], NULL), CACTUS_OK);
    }
    cactus_engine_free(engine);
}

static void begin_live(cactus_engine *engine, test_rng *rng, live *l)
{
    *l = (live){.prompt = test_below(rng, N_PROMPTS), .max_tokens = (int32_t)(1 + test_below(rng, N_ANSWER))};
    cactus_request_params p = params_for(stress_prompts[l->prompt], stress_sizes[l->prompt], l->max_tokens);
    p.constrained = l->constrained = test_below(rng, 3) == 0;
    p.speculation = test_below(rng, 2) == 0 ? 8 : 0;
    p.no_prefixes = test_below(rng, 6) == 0;
    if (test_below(rng, 8) == 0) p.timeout_ms = (int32_t)(1 + test_below(rng, 12));
    l->may_end_early = p.timeout_ms > 0;
    cactus_error err = {0};
    cactus_status status = cactus_request_submit(engine, &p, &l->r, &err);
    CHECK_MSG(status == CACTUS_OK || status == CACTUS_ERROR_BUSY, "%s", err.message);
    if (l->constrained && l->r != NULL) CHECK_INT(cactus_request_set_mask(l->r, NULL, 0, NULL), CACTUS_OK);
}

/* Takes an event, if there is one within timeout_ms, and checks it. */
static void follow_live(live *l, int32_t timeout_ms)
{
    cactus_token token;
    cactus_error err = {0};
    const output *want = &stress_alone[l->prompt];
    cactus_status status = cactus_request_next(l->r, timeout_ms, &token, &err);
    if (status == CACTUS_ERROR_TIMEOUT) {
        CHECK_MSG(timeout_ms < 1000, "nothing came for prompt %zu", l->prompt);
        return;
    }
    if (status != CACTUS_OK) {
        CHECK_MSG(status == CACTUS_ERROR_FINISHED, "%s", err.message);
        CHECK(l->finish == CACTUS_FINISH_LENGTH ? l->n == (size_t)l->max_tokens : l->finish != 0 && l->may_end_early);
        cactus_request_free(l->r);
        l->r = NULL;
        return;
    }
    if (token.id >= 0) {
        CHECK_INT(token.id, want->ids[l->n]);
        CHECK_FLOAT(token.logprob, want->logprobs[l->n]);
        l->n++;
    }
    l->finish = token.finish;
    if (l->constrained && token.finish == 0) CHECK_INT(cactus_request_set_mask(l->r, NULL, 0, NULL), CACTUS_OK);
}

typedef struct disturbance {
    cactus_engine *engine;
    const char *path;
    atomic_bool stop;
} disturbance;

static void *disturb(void *arg)
{
    disturbance *d = arg;
    for (size_t i = 0; !atomic_load(&d->stop); i++) {
        cactus_error err = {0};
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        CHECK_MSG(cactus_engine_save_prefixes(d->engine, d->path, (const uint8_t *)"key", 3, NULL, &err) == CACTUS_OK, "%s", err.message);
        CHECK_MSG(cactus_engine_load_prefixes(d->engine, d->path, (const uint8_t *)"key", 3, NULL, &err) == CACTUS_OK, "%s", err.message);
        check_logprobs(d->engine, stress_prompts[i % N_PROMPTS], stress_sizes[i % N_PROMPTS], stress_logprobs[i % N_PROMPTS]);
    }
    return NULL;
}

TEST(everything_at_once)
{
    static live lives[N_LIVE];
    test_rng rng = {16};
    char folder[] = "/tmp/cactus-test-XXXXXX", path[64];
    if (!CHECK(mkdtemp(folder) != NULL)) return;
    snprintf(path, sizeof path, "%s/a", folder);
    make_stress(&rng);
    cactus_engine *engine = make_engine(1, 0, 0, 0);
    uint64_t page_bytes = info_of(engine).kv_page_bytes;
    cactus_engine_free(engine);
    cactus_engine_params ep = {.struct_size = sizeof ep, .n_threads = 2, .kv_memory_bytes = 10 * page_bytes, .n_batch = 48, .max_waiting = 12};
    if (!CHECK_INT(cactus_engine_create(the_model(), &ep, &engine, NULL), CACTUS_OK)) return;
    disturbance d = {.engine = engine, .path = path};
    pthread_t thread;
    CHECK_INT(pthread_create(&thread, NULL, disturb, &d), 0);
    for (int step = 0; step < N_STEPS; step++) {
        live *l = &lives[test_below(&rng, N_LIVE)];
        uint64_t what = test_below(&rng, 100);
        if (l->r == NULL) begin_live(engine, &rng, l);
        else if (what < 4) { /* cancelled, its events still read */
            l->may_end_early = true;
            cactus_request_cancel(l->r);
        } else if (what < 8) {
            cactus_request_free(l->r);
            l->r = NULL;
        } else follow_live(l, (int32_t)test_below(&rng, 3));
    }
    double until = ct_now_ms() + 300000.0;
    for (size_t n = 1; n > 0 && CHECK(ct_now_ms() < until);) { /* all in turn: others may wait for the memory of one that waits for its mask */
        n = 0;
        for (size_t i = 0; i < N_LIVE; i++) {
            n += lives[i].r != NULL;
            if (lives[i].r != NULL) follow_live(&lives[i], 1);
        }
    }
    atomic_store(&d.stop, true);
    pthread_join(thread, NULL);
    CHECK_UINT(pages_used(engine), 0);
    cactus_engine_info info = info_of(engine);
    CHECK_MSG(info.n_preempted > 0 && info.n_evicted > 0 && info.n_prompt_cached > 0, "%llu gave way, %llu pages went, %llu tokens were found",
              (unsigned long long)info.n_preempted, (unsigned long long)info.n_evicted, (unsigned long long)info.n_prompt_cached);
    for (size_t i = 0; i < N_LIVE; i++) begin_live(engine, &rng, &lives[i]); /* and closed in the middle */
    cactus_engine_free(engine);
    for (size_t i = 0; i < N_LIVE; i++) {
        lives[i].may_end_early = true;
        while (lives[i].r != NULL) {
            lives[i].constrained = false;
            follow_live(&lives[i], 60000);
        }
    }
    unlink(path);
    rmdir(folder);
}

TEST_MAIN()
