/* engine_fixture.h: requests to an engine over a tiny model, for the tests of the engine. */
#ifndef CT_ENGINE_FIXTURE_H
#define CT_ENGINE_FIXTURE_H

#include <pthread.h>
#include <time.h>

#include "cactus.h"
#include "tests/test.h"

#define MODEL "tests/data/zoo/llama/llama.f32.gguf"

enum { MAX_OUT = 512 };

typedef struct output {
    int32_t ids[MAX_OUT];
    float logprobs[MAX_OUT], entropies[MAX_OUT], margins[MAX_OUT];
    size_t n;
    char text[4 * MAX_OUT * 4];
    int32_t finish;
    cactus_status status;
} output;

static cactus_model *model;

static inline cactus_model *the_model(void)
{
    cactus_error err = {0};
    if (model == NULL && !CHECK_MSG(cactus_model_load(MODEL, &model, &err) == CACTUS_OK, "%s", err.message)) exit(2);
    return model;
}

static inline cactus_engine *make_engine(int32_t n_threads, int32_t n_context, uint64_t kv_bytes, int32_t n_batch)
{
    cactus_engine *engine = NULL;
    cactus_error err = {0};
    cactus_engine_params p = {.struct_size = sizeof p, .n_threads = n_threads, .n_context = n_context, .kv_memory_bytes = kv_bytes, .n_batch = n_batch};
    if (!CHECK_MSG(cactus_engine_create(the_model(), &p, &engine, &err) == CACTUS_OK, "%s", err.message)) exit(2);
    return engine;
}

static inline cactus_request_params params_for(const int32_t *prompt, size_t n, int32_t max_tokens)
{
    cactus_request_params p;
    cactus_request_params_default(&p);
    p.prompt = prompt;
    p.n_prompt = n;
    p.max_tokens = max_tokens;
    p.sampling.temperature = 0.0f;
    p.sampling.ignore_eos = 1;
    return p;
}

static inline cactus_request *submit(cactus_engine *engine, const cactus_request_params *p)
{
    cactus_request *r = NULL;
    cactus_error err = {0};
    CHECK_MSG(cactus_request_submit(engine, p, &r, &err) == CACTUS_OK, "%s", err.message);
    return r;
}

static inline void collect(cactus_request *r, output *out)
{
    cactus_token token;
    cactus_error err;
    out->n = 0;
    out->text[0] = '\0';
    out->finish = 0;
    while ((out->status = cactus_request_next(r, 60000, &token, &err)) == CACTUS_OK) {
        if (token.id >= 0 && out->n < MAX_OUT) {
            out->entropies[out->n] = token.entropy;
            out->margins[out->n] = token.margin;
            out->logprobs[out->n] = token.logprob;
            out->ids[out->n++] = token.id;
        }
        strncat(out->text, token.text == NULL ? "" : token.text, token.n_text_bytes);
        CHECK_INT(out->finish, 0); /* nothing after the last event */
        out->finish = token.finish;
    }
}

static inline void generate(cactus_engine *engine, const int32_t *prompt, size_t n, int32_t max_tokens, output *out)
{
    out->n = 0;
    cactus_request_params p = params_for(prompt, n, max_tokens);
    cactus_request *r = submit(engine, &p);
    if (r == NULL) return;
    collect(r, out);
    CHECK_INT(out->status, CACTUS_ERROR_FINISHED);
    cactus_request_free(r);
}

static inline void check_same(const output *a, const output *b)
{
    CHECK_UINT(a->n, b->n);
    for (size_t i = 0; i < a->n && i < b->n; i++)
        if (!CHECK_INT(a->ids[i], b->ids[i]) || !CHECK_FLOAT(a->logprobs[i], b->logprobs[i]) || !CHECK_FLOAT(a->entropies[i], b->entropies[i]) ||
            !CHECK_FLOAT(a->margins[i], b->margins[i]))
            return;
    CHECK_STR(a->text, b->text);
    CHECK_INT(a->finish, b->finish);
    CHECK_INT(a->status, b->status);
}

static inline uint32_t pages_used(cactus_engine *engine)
{
    cactus_engine_info info = {.struct_size = sizeof info};
    for (int i = 0; i < 200; i++) { /* the scheduler publishes between steps */
        CHECK_INT(cactus_engine_get_info(engine, &info, NULL), CACTUS_OK);
        if (info.n_running == 0 && info.n_waiting == 0 && info.n_kv_pages_used == 0) break;
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    }
    return info.n_kv_pages_used;
}

#endif
