/* work.c: what else is computed between the scheduler's steps: the scores of whole sequences. */
#include <math.h>
#include <string.h>

#include "engine/engine.h"

enum { LOGPROB_ROWS = 128 };

cactus_status ct_work_submit(cactus_engine *e, ct_work *work, cactus_error *err)
{
    pthread_mutex_lock(&e->mutex);
    e->n_callers++;
    if (e->stop) {
        ct_fail(&work->error, CACTUS_ERROR_CANCELLED, "the engine is being closed");
        work->done = true;
    } else {
        *e->work_end = work;
        e->work_end = &work->next;
        atomic_store(&e->attention, true);
        pthread_cond_signal(&e->wake);
    }
    while (!work->done) pthread_cond_wait(&e->work_done, &e->mutex);
    e->n_callers--;
    pthread_cond_broadcast(&e->work_done);
    pthread_mutex_unlock(&e->mutex);
    return work->error.code == 0 ? CACTUS_OK : ct_fail(err, (cactus_status)work->error.code, "%s", work->error.message);
}

void ct_engine_enter(cactus_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    e->n_callers++;
    pthread_mutex_unlock(&e->mutex);
}

void ct_engine_leave(cactus_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    e->n_callers--;
    pthread_cond_broadcast(&e->work_done);
    pthread_mutex_unlock(&e->mutex);
}

typedef struct score_work {
    ct_work work;
    const int32_t *ids;
    size_t n_ids, chunk;
    float *logits;   /* [n_ids, n_vocab], or NULL: */
    float *logprobs; /* [n_ids - 1] */
} score_work;

static void note_logprobs(const ct_kernels *k, const score_work *w, const float *rows, size_t at, size_t n, size_t n_vocab)
{
    for (size_t i = 0; i < n && at + i + 1 < w->n_ids; i++) {
        const float *row = rows + i * n_vocab;
        float max, sum, weighted;
        k->max_index(row, n_vocab, &max);
        k->softmax_stats(row, n_vocab, max, &sum, &weighted);
        w->logprobs[at + i] = (float)((double)row[w->ids[at + i + 1]] - (double)max - log((double)sum));
    }
}

static void run_scores(cactus_engine *e, ct_work *work)
{
    score_work *w = (score_work *)work;
    ct_decoder *decoder = e->prompts.decoder;
    size_t n_vocab = e->model->config.n_vocab, n_pages = work->n_pages, n_taken = 0;
    size_t chunk = w->chunk;
    float *rows = NULL;
    uint8_t *state = e->states.n_pages > 0 ? ct_kv_take(&e->states) : NULL; /* one is kept for this */
    uint8_t **pages = ct_alloc(n_pages, sizeof *pages);
    if (w->logits == NULL) {
        chunk = ct_min_size(chunk, LOGPROB_ROWS);
        rows = ct_alloc(chunk * n_vocab, sizeof *rows);
    }
    bool ok = pages != NULL && (w->logits != NULL || rows != NULL);
    while (ok && n_taken < n_pages) {
        pages[n_taken] = ct_take_page_for_work(e);
        ok = pages[n_taken] != NULL; /* n_pages fit a pool of which others hold none */
        n_taken += ok;
    }
    if (!ok) ct_fail(&w->work.error, CACTUS_ERROR_MEMORY, "no memory to score %zu tokens", w->n_ids);
    for (size_t at = 0; ok && at < w->n_ids; at += chunk) {
        size_t n = ct_min_size(chunk, w->n_ids - at);
        float *out = w->logits != NULL ? w->logits + at * n_vocab : rows;
        ct_run run = {.first = 0, .n_tok = n, .pos = at, .pages = pages, .state = (float *)(void *)state,
                      .beyond_context = ct_beyond_context(e, w->n_ids)};
        ct_batch batch = {.tokens = w->ids + at, .n_tok = n, .runs = &run, .n_runs = 1, .outputs = e->all_rows, .n_outputs = n};
        ct_decoder_forward(decoder, &batch, out);
        if (w->logprobs != NULL) note_logprobs(ct_decoder_exec(decoder)->k, w, out, at, n, n_vocab);
    }
    for (size_t i = 0; i < n_taken; i++) ct_kv_give(&e->kv, pages[i]);
    if (state != NULL) ct_kv_give(&e->states, state);
    ct_free(pages);
    ct_free(rows);
}

static cactus_status submit_scores(cactus_engine *e, score_work *w, cactus_error *err)
{
    int32_t n_vocab = (int32_t)e->model->config.n_vocab;
    cactus_status status = ct_check_generates(e, err);
    if (status != CACTUS_OK) return status;
    w->work.run = run_scores;
    if (w->ids == NULL || w->n_ids == 0) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "there are no tokens to score");
    if (w->n_ids > e->n_context) return ct_fail(err, CACTUS_ERROR_CONTEXT, "%zu tokens do not fit the context of %zu", w->n_ids, e->n_context);
    for (size_t i = 0; i < w->n_ids; i++)
        if (w->ids[i] < 0 || w->ids[i] >= n_vocab)
            return ct_fail(err, CACTUS_ERROR_ARGUMENT, "token %d at position %zu is not in the vocabulary of %d", w->ids[i], i, n_vocab);
    if (w->chunk == 0 || w->chunk > e->n_batch) w->chunk = e->n_batch;
    w->work.n_pages = (w->n_ids + CT_PAGE_TOKENS - 1) / CT_PAGE_TOKENS;
    return ct_work_submit(e, &w->work, err);
}

cactus_status cactus_engine_logits(cactus_engine *engine, const int32_t *ids, size_t n_ids, int32_t chunk, float *logits, cactus_error *err)
{
    if (engine == NULL || logits == NULL || chunk < 0) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_engine_logits needs an engine, room for the scores and chunk >= 0");
    score_work work = {.ids = ids, .n_ids = n_ids, .chunk = (size_t)chunk, .logits = logits};
    return submit_scores(engine, &work, err);
}

cactus_status cactus_engine_logprobs(cactus_engine *engine, const int32_t *ids, size_t n_ids, float *logprobs, cactus_error *err)
{
    if (engine == NULL || logprobs == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_engine_logprobs needs an engine and room for the result");
    score_work work = {.ids = ids, .n_ids = n_ids, .logprobs = logprobs};
    return submit_scores(engine, &work, err);
}
