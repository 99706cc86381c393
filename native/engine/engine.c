/* engine.c: the scheduler. One thread of its own computes steps: every running request contributes its next token or a chunk of
 * its prompt, all go through the decoder as one batch, and each finished row becomes a token. Requests join and leave at any step.
 *
 * Memory for keys and values is taken page by page. When none is left the youngest request gives its pages back and waits; its
 * tokens are read again later. The results stay the same: a token's computation does not depend on how it was batched.
 *
 * For the same reason tokens may be computed before they are chosen: a request that speculates appends drafted tokens to its own, and
 * its sampler is asked row by row as long as it chooses what was drafted. Keys and values of the others are overwritten later.
 *
 * A model with recurrent layers has one page more per sequence, its state. A state cannot be taken back, so such models do not
 * speculate; a request that gave its pages back starts again from no state. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/kv.h"
#include "engine/request.h"
#include "models/decoder.h"

enum {
    MAX_RUNNING = 64,
    DEFAULT_BATCH = 512,
    MAX_BATCH = 8192,
    MIN_DEFAULT_KV_TOKENS = 4096,
    LOGPROB_ROWS = 128
};
_Static_assert((int)CT_MAX_DRAFT_ROWS <= (int)MAX_RUNNING, "the rows of a step with drafts all have scores");

/* Work for the scheduler's thread between two steps: scores of a whole sequence. */
typedef struct score_job {
    const int32_t *ids;
    size_t n_ids, chunk;
    float *logits;   /* [n_ids, n_vocab], or NULL: */
    float *logprobs; /* [n_ids - 1] */
    cactus_error error;
    bool done;
    struct score_job *next;
} score_job;

struct cactus_engine {
    const cactus_model *model;
    ct_decoder *decoder;
    ct_kv_pool kv;
    ct_kv_pool states;     /* a page is the recurrent state of a sequence; no pages where the model has none */
    size_t n_context, n_batch;
    cactus_kv_type kv_type; /* not AUTO */
    pthread_t thread;

    pthread_mutex_t mutex; /* guards what follows, down to the scheduler's own */
    pthread_cond_t work, job_done;
    bool stop;
    cactus_request *waiting, **waiting_end;
    score_job *jobs, **jobs_end;
    int32_t n_waiting, n_running, n_callers;

    /* the scheduler's own */
    cactus_request *running[MAX_RUNNING]; /* oldest first */
    ct_choice choices[MAX_RUNNING];
    bool chosen[MAX_RUNNING];
    bool owes_token;       /* a score job made a request give way: none runs before some request got a token or ended */
    float *logits;         /* [MAX_RUNNING, n_vocab], touched as used */
    size_t logits_bytes;
    int32_t *batch_tokens; /* [n_batch] */
    ct_run runs[MAX_RUNNING];
    uint32_t outputs[MAX_RUNNING];
    cactus_request *choosers[MAX_RUNNING]; /* requests with outputs */
    uint32_t *all_rows;    /* [n_batch] 0, 1, 2, … */
    int32_t *end_ids;      /* [n_end] */
    size_t n_end;
};

/* ---- sequences ---- */

static void give_pages(cactus_engine *e, cactus_request *r)
{
    for (size_t i = 0; i < r->n_pages; i++) ct_kv_give(&e->kv, r->pages[i]);
    if (r->state != NULL) ct_kv_give(&e->states, r->state);
    r->state = NULL;
    r->n_pages = 0;
    r->n_computed = 0;
}

/* Whether n_tokens are more than the model's context before its extension, where that changes how positions are told. */
static bool beyond_context(const cactus_engine *e, size_t n_tokens)
{
    return e->model->weights.long_factors != NULL && (float)n_tokens > e->model->config.rope.n_context_orig;
}

static void finish(cactus_engine *e, cactus_request *r, const cactus_error *failure)
{
    give_pages(e, r);
    e->owes_token = false;
    pthread_mutex_lock(&r->mutex);
    r->stats.n_generated = r->n_generated;
    pthread_mutex_unlock(&r->mutex);
    ct_request_end(r, failure);
}

static void finish_cancelled(cactus_engine *e, cactus_request *r)
{
    size_t n_text = 0;
    give_pages(e, r);
    (void)ct_text_finish(&r->assembler, &n_text);
    (void)ct_request_emit(r, NULL, CACTUS_FINISH_CANCELLED, r->assembler.held, n_text);
    finish(e, r, NULL);
}

/* Drops the middle of a full context: the first n_keep tokens and the newest stay, and are read again. */
static void shift(cactus_engine *e, cactus_request *r, size_t room_quarters)
{
    size_t keep = ct_min_size(r->n_keep, e->n_context - 1);
    size_t rest = (e->n_context - keep) * room_quarters / 4;
    if (rest == 0) rest = 1;
    memmove(r->tokens + keep, r->tokens + r->n_tokens - rest, rest * sizeof *r->tokens);
    r->n_tokens = keep + rest;
    if (r->speculation > 0) ct_lookup_reset(&r->lookup);
    give_pages(e, r);
}

/* Takes one token into the sequence and tells the consumer. True while the request goes on. */
static bool accept(cactus_engine *e, cactus_request *r, const ct_choice *choice, bool drafted)
{
    double now = ct_now_ms();
    cactus_finish why = CACTUS_FINISH_NONE;
    bool ok = true, stopped = false;
    size_t n_text = 0;

    e->owes_token = false;
    if (r->n_generated == 0) r->first_token_ms = now;
    r->n_generated++;
    pthread_mutex_lock(&r->mutex);
    r->stats.n_generated = r->n_generated;
    r->stats.n_accepted += drafted;
    r->stats.prompt_ms = r->first_token_ms - r->started_ms;
    r->stats.decode_ms = now - r->first_token_ms;
    pthread_mutex_unlock(&r->mutex);

    if (ct_tokenizer_is_end(e->model->tokenizer, choice->id)) why = CACTUS_FINISH_STOP;
    else {
        ct_str piece = ct_tokenizer_piece(e->model->tokenizer, choice->id, false);
        ok = ct_text_push(&r->assembler, piece.data, piece.size, &n_text, &stopped);
        if (stopped) why = CACTUS_FINISH_STOP;
        else if (r->n_generated == r->max_tokens) why = CACTUS_FINISH_LENGTH;
        else if (r->n_tokens + 1 > e->n_context && r->context_policy == CACTUS_CONTEXT_ERROR) why = CACTUS_FINISH_LENGTH;
    }
    if (why != CACTUS_FINISH_NONE && !stopped) ok = ct_text_finish(&r->assembler, &n_text) && ok;
    if (why != CACTUS_FINISH_NONE) give_pages(e, r); /* before the last event: who has seen it finds them free */
    ok = ok && ct_request_emit(r, choice, why, r->assembler.held, n_text);
    ct_text_drop(&r->assembler, n_text);
    if (!ok) {
        cactus_error error;
        ct_fail(&error, CACTUS_ERROR_MEMORY, "no memory for the generated text");
        finish(e, r, &error);
        return false;
    }
    if (why != CACTUS_FINISH_NONE) {
        finish(e, r, NULL);
        return false;
    }
    r->tokens[r->n_tokens++] = choice->id;
    if (r->n_tokens > e->n_context) shift(e, r, 2);
    return true;
}

/* ---- one step ---- */

/* The youngest running request gives its pages back and is the next to be admitted again. */
static void preempt_youngest(cactus_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    cactus_request *r = e->running[--e->n_running];
    r->next = e->waiting;
    if (e->waiting == NULL) e->waiting_end = &r->next;
    e->waiting = r;
    e->n_waiting++;
    pthread_mutex_unlock(&e->mutex);
    give_pages(e, r);
}

static bool take_pages(cactus_engine *e, cactus_request *r, size_t n_tokens)
{
    while (r->n_pages * CT_PAGE_TOKENS < n_tokens) {
        uint8_t *page = ct_kv_take(&e->kv);
        if (page == NULL) return false;
        r->pages[r->n_pages++] = page;
    }
    if (r->state == NULL && e->states.n_pages > 0) r->state = ct_kv_take(&e->states); /* there is one for each that can run */
    return true;
}

/* Removes cancelled requests, then admits waiting ones that have room. */
static void update_running(cactus_engine *e)
{
    int32_t n = 0;
    for (int32_t i = 0; i < e->n_running; i++) {
        if (atomic_load(&e->running[i]->cancelled)) finish_cancelled(e, e->running[i]);
        else e->running[n++] = e->running[i];
    }
    pthread_mutex_lock(&e->mutex);
    e->n_running = n;
    cactus_request *cancelled = NULL, **at = &e->waiting;
    while (*at != NULL) {
        cactus_request *r = *at;
        if (!atomic_load(&r->cancelled)) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        r->next = cancelled;
        cancelled = r;
        e->n_waiting--;
    }
    e->waiting_end = at;
    while (e->waiting != NULL && e->n_running < MAX_RUNNING) {
        cactus_request *r = e->waiting;
        size_t pages = (r->n_tokens + CT_PAGE_TOKENS) / CT_PAGE_TOKENS;
        if (e->n_running > 0 && pages > e->kv.n_free) break;
        e->waiting = r->next;
        if (e->waiting == NULL) e->waiting_end = &e->waiting;
        e->n_waiting--;
        r->next = NULL;
        if (r->started_ms == 0.0) {
            r->started_ms = ct_now_ms();
            pthread_mutex_lock(&r->mutex);
            r->stats.queue_ms = r->started_ms - r->submitted_ms;
            pthread_mutex_unlock(&r->mutex);
        }
        e->running[e->n_running++] = r;
    }
    pthread_mutex_unlock(&e->mutex);
    while (cancelled != NULL) {
        cactus_request *next = cancelled->next;
        finish_cancelled(e, cancelled);
        cancelled = next;
    }
}

/* Decides how many tokens each running request computes: one for those that generate, prompts share the rest in order of age. */
static void plan_chunks(cactus_engine *e)
{
    size_t left = e->n_batch;
    for (int32_t i = 0; i < e->n_running; i++) {
        cactus_request *r = e->running[i];
        if (beyond_context(e, r->n_tokens) != r->beyond_context) { /* all keys turn otherwise now: they are made again */
            r->beyond_context = !r->beyond_context;
            give_pages(e, r);
        }
        r->chunk = r->n_tokens - r->n_computed == 1 && left > 0 ? 1 : 0;
        left -= r->chunk;
    }
    for (int32_t i = 0; i < e->n_running; i++) {
        cactus_request *r = e->running[i];
        if (r->chunk > 0) continue;
        r->chunk = ct_min_size(r->n_tokens - r->n_computed, left);
        left -= r->chunk;
    }
    for (int32_t i = 0; i < e->n_running; i++)
        while (i < e->n_running && !take_pages(e, e->running[i], e->running[i]->n_computed + e->running[i]->chunk)) preempt_youngest(e);
}

/* Appends drafts to the steps that few rows share: there a row more costs little beside reading the weights. */
static void plan_drafts(cactus_engine *e)
{
    size_t n_rows = 0, max_rows = ct_min_size(CT_MAX_DRAFT_ROWS, e->n_batch);
    for (int32_t i = 0; i < e->n_running; i++) {
        n_rows += e->running[i]->chunk;
        e->running[i]->n_draft = 0;
    }
    for (int32_t i = 0; i < e->n_running && n_rows < max_rows; i++) {
        cactus_request *r = e->running[i];
        if (r->speculation == 0 || r->chunk != 1 || r->n_computed + 1 != r->n_tokens || r->state != NULL) continue;
        size_t most = ct_min_size(r->speculation, e->n_context - r->n_tokens);
        while (most > 0 && beyond_context(e, r->n_tokens + most) != r->beyond_context) most--;
        if (r->max_tokens > 0) most = ct_min_size(most, (size_t)(r->max_tokens - r->n_generated) - 1);
        size_t n = ct_lookup_draft(&r->lookup, r->tokens, r->n_tokens, n_rows, ct_min_size(most, max_rows - n_rows), r->draft);
        while (r->n_draft < n && !ct_tokenizer_is_end(e->model->tokenizer, r->draft[r->n_draft])) r->n_draft++; /* nothing follows an end */
        if (!take_pages(e, r, r->n_tokens + r->n_draft)) r->n_draft = r->n_pages * CT_PAGE_TOKENS - r->n_tokens; /* no page was left */
        n_rows += r->n_draft;
    }
}

/* The choices of one request, in order: each row counts only if the ones before chose what had been drafted. */
static void choose_tile(void *ctx, size_t tile, int thread)
{
    cactus_engine *e = ctx;
    cactus_request *r = e->choosers[tile];
    (void)thread;
    for (r->n_choices = 0; r->n_choices <= r->n_draft;) {
        size_t i = r->n_choices++, row = r->first_output + i;
        e->chosen[row] = ct_sampler_choose(r->sampler, ct_decoder_exec(e->decoder)->k, e->logits + row * e->model->config.n_vocab, r->tokens,
                                           r->n_tokens + i, &e->choices[row]);
        if (!e->chosen[row] || i == r->n_draft || e->choices[row].id != r->draft[i]) break;
        r->tokens[r->n_tokens + i] = r->draft[i]; /* for the penalties of the next row; accept puts it there again */
    }
}

/* Hands the choices of a step to a request. True while the request goes on. */
static bool take_choices(cactus_engine *e, cactus_request *r)
{
    if (r->n_draft > 0) {
        pthread_mutex_lock(&r->mutex);
        r->stats.n_drafted += (int32_t)r->n_draft;
        pthread_mutex_unlock(&r->mutex);
    }
    for (size_t i = 0; i < r->n_choices && (i == 0 || !atomic_load(&r->cancelled)); i++) {
        size_t row = r->first_output + i;
        if (!e->chosen[row]) {
            cactus_error error;
            ct_fail(&error, CACTUS_ERROR_FORMAT, "the model produced no finite score; its weights may be damaged, or logit_bias forbids every token");
            finish(e, r, &error);
            return false;
        }
        if (!accept(e, r, &e->choices[row], i < r->n_draft && e->choices[row].id == r->draft[i])) return false;
    }
    if (r->n_draft > 0 && r->n_computed > 0) { /* what was refused leaves no trace; a shift has given everything back */
        r->n_computed = ct_min_size(r->n_computed, r->n_tokens - 1);
        while (r->n_pages * CT_PAGE_TOKENS >= r->n_computed + CT_PAGE_TOKENS) ct_kv_give(&e->kv, r->pages[--r->n_pages]);
    }
    return true;
}

static void step(cactus_engine *e)
{
    update_running(e);
    plan_chunks(e);
    plan_drafts(e);
    size_t n_choosers = 0;
    ct_batch batch = {.tokens = e->batch_tokens, .runs = e->runs, .outputs = e->outputs};
    for (int32_t i = 0; i < e->n_running; i++) {
        cactus_request *r = e->running[i];
        if (r->chunk == 0) continue;
        memcpy(e->batch_tokens + batch.n_tok, r->tokens + r->n_computed, r->chunk * sizeof *r->tokens);
        memcpy(e->batch_tokens + batch.n_tok + r->chunk, r->draft, r->n_draft * sizeof *r->draft);
        e->runs[batch.n_runs++] = (ct_run){.first = batch.n_tok, .n_tok = r->chunk + r->n_draft, .pos = r->n_computed, .pages = r->pages,
                                             .state = (float *)(void *)r->state, .beyond_context = r->beyond_context};
        batch.n_tok += r->chunk + r->n_draft;
        r->n_computed += r->chunk + r->n_draft;
        if (r->n_computed < r->n_tokens) continue;
        e->choosers[n_choosers++] = r;
        r->first_output = batch.n_outputs;
        for (size_t row = batch.n_tok - r->n_draft - 1; row < batch.n_tok; row++) e->outputs[batch.n_outputs++] = (uint32_t)row;
    }
    if (batch.n_tok == 0) return;
    ct_decoder_forward(e->decoder, &batch, e->logits);
    ct_pool_run(ct_decoder_exec(e->decoder)->pool, choose_tile, e, n_choosers);

    for (size_t o = 0; o < n_choosers; o++) {
        cactus_request *r = e->choosers[o];
        if (take_choices(e, r)) continue;
        int32_t i = 0;
        while (e->running[i] != r) i++;
        memmove(&e->running[i], &e->running[i + 1], (size_t)(e->n_running - i - 1) * sizeof e->running[0]);
        pthread_mutex_lock(&e->mutex);
        e->n_running--;
        pthread_mutex_unlock(&e->mutex);
    }
}

/* ---- scores of a sequence ---- */

static void run_job(cactus_engine *e, score_job *job)
{
    size_t n_vocab = e->model->config.n_vocab, n_pages = (job->n_ids + CT_PAGE_TOKENS - 1) / CT_PAGE_TOKENS, n_taken = 0;
    size_t chunk = job->chunk;
    float *rows = NULL;
    uint8_t *state = e->states.n_pages > 0 ? ct_kv_take(&e->states) : NULL; /* one is kept for this */
    uint8_t **pages = ct_alloc(n_pages, sizeof *pages);
    if (job->logits == NULL) {
        chunk = ct_min_size(chunk, LOGPROB_ROWS);
        rows = ct_alloc(chunk * n_vocab, sizeof *rows);
    }
    if (pages == NULL || (job->logits == NULL && rows == NULL)) {
        ct_fail(&job->error, CACTUS_ERROR_MEMORY, "no memory to score %zu tokens", job->n_ids);
        ct_free(pages);
        ct_free(rows);
        if (state != NULL) ct_kv_give(&e->states, state);
        return;
    }
    while (n_taken < n_pages) {
        uint8_t *page = ct_kv_take(&e->kv);
        if (page != NULL) pages[n_taken++] = page;
        else {
            preempt_youngest(e); /* n_pages fit an empty pool, so this ends */
            e->owes_token = true;
        }
    }
    for (size_t at = 0; at < job->n_ids; at += chunk) {
        size_t n = ct_min_size(chunk, job->n_ids - at);
        float *out = job->logits != NULL ? job->logits + at * n_vocab : rows;
        ct_run run = {.first = 0, .n_tok = n, .pos = at, .pages = pages, .state = (float *)(void *)state,
                      .beyond_context = beyond_context(e, job->n_ids)};
        ct_batch batch = {.tokens = job->ids + at, .n_tok = n, .runs = &run, .n_runs = 1, .outputs = e->all_rows, .n_outputs = n};
        ct_decoder_forward(e->decoder, &batch, out);
        if (job->logprobs == NULL) continue;
        for (size_t i = 0; i < n && at + i + 1 < job->n_ids; i++) {
            const float *row = out + i * n_vocab;
            float max, sum, weighted;
            const ct_kernels *k = ct_decoder_exec(e->decoder)->k;
            k->max_index(row, n_vocab, &max);
            k->softmax_stats(row, n_vocab, max, &sum, &weighted);
            job->logprobs[at + i] = (float)((double)row[job->ids[at + i + 1]] - (double)max - log((double)sum));
        }
    }
    for (size_t i = 0; i < n_taken; i++) ct_kv_give(&e->kv, pages[i]);
    if (state != NULL) ct_kv_give(&e->states, state);
    ct_free(pages);
    ct_free(rows);
}

static cactus_status submit_job(cactus_engine *e, score_job *job, cactus_error *err)
{
    int32_t n_vocab = (int32_t)e->model->config.n_vocab;
    if (job->ids == NULL || job->n_ids == 0) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "there are no tokens to score");
    if (job->n_ids > e->n_context)
        return ct_fail(err, CACTUS_ERROR_CONTEXT, "%zu tokens do not fit the context of %zu", job->n_ids, e->n_context);
    for (size_t i = 0; i < job->n_ids; i++)
        if (job->ids[i] < 0 || job->ids[i] >= n_vocab)
            return ct_fail(err, CACTUS_ERROR_ARGUMENT, "token %d at position %zu is not in the vocabulary of %d", job->ids[i], i, n_vocab);
    if (job->chunk == 0 || job->chunk > e->n_batch) job->chunk = e->n_batch;
    pthread_mutex_lock(&e->mutex);
    e->n_callers++;
    if (e->stop) {
        ct_fail(&job->error, CACTUS_ERROR_CANCELLED, "the engine is being closed");
        job->done = true;
    } else {
        *e->jobs_end = job;
        e->jobs_end = &job->next;
        pthread_cond_signal(&e->work);
    }
    while (!job->done) pthread_cond_wait(&e->job_done, &e->mutex);
    e->n_callers--;
    pthread_cond_broadcast(&e->job_done);
    pthread_mutex_unlock(&e->mutex);
    return job->error.code == 0 ? CACTUS_OK : ct_fail(err, (cactus_status)job->error.code, "%s", job->error.message);
}

cactus_status cactus_engine_logits(cactus_engine *engine, const int32_t *ids, size_t n_ids, int32_t chunk, float *logits, cactus_error *err)
{
    if (engine == NULL || logits == NULL || chunk < 0) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_engine_logits needs an engine, room for the scores and chunk >= 0");
    score_job job = {.ids = ids, .n_ids = n_ids, .chunk = (size_t)chunk, .logits = logits};
    return submit_job(engine, &job, err);
}

cactus_status cactus_engine_logprobs(cactus_engine *engine, const int32_t *ids, size_t n_ids, float *logprobs, cactus_error *err)
{
    if (engine == NULL || logprobs == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_engine_logprobs needs an engine and room for the result");
    score_job job = {.ids = ids, .n_ids = n_ids, .logprobs = logprobs};
    return submit_job(engine, &job, err);
}

/* ---- the thread ---- */

static void *scheduler_main(void *arg)
{
    cactus_engine *e = arg;
    pthread_mutex_lock(&e->mutex);
    for (;;) {
        while (!e->stop && e->jobs == NULL && e->waiting == NULL && e->n_running == 0) pthread_cond_wait(&e->work, &e->mutex);
        if (e->stop) break;
        score_job *job = e->owes_token ? NULL : e->jobs;
        if (job != NULL) {
            e->jobs = job->next;
            if (e->jobs == NULL) e->jobs_end = &e->jobs;
        }
        bool steps = e->waiting != NULL || e->n_running > 0;
        pthread_mutex_unlock(&e->mutex);
        if (job != NULL) run_job(e, job);
        if (steps) step(e);
        pthread_mutex_lock(&e->mutex);
        if (job != NULL) {
            job->done = true;
            pthread_cond_broadcast(&e->job_done);
        }
    }
    for (score_job *job = e->jobs; job != NULL; job = job->next) {
        ct_fail(&job->error, CACTUS_ERROR_CANCELLED, "the engine was closed");
        job->done = true;
    }
    pthread_cond_broadcast(&e->job_done);
    cactus_request *waiting = e->waiting;
    e->waiting = NULL;
    pthread_mutex_unlock(&e->mutex);
    for (int32_t i = 0; i < e->n_running; i++) finish_cancelled(e, e->running[i]);
    while (waiting != NULL) {
        cactus_request *next = waiting->next;
        finish_cancelled(e, waiting);
        waiting = next;
    }
    return NULL;
}

/* ---- public ---- */

/* Tokens whose keys and values may take half of the machine's memory. */
static size_t affordable_tokens(size_t page_bytes)
{
    long pages = sysconf(_SC_PHYS_PAGES), bytes = sysconf(_SC_PAGESIZE);
    if (pages <= 0 || bytes <= 0) return SIZE_MAX / CT_PAGE_TOKENS;
    size_t half = (size_t)pages / 2 * (size_t)bytes;
    return half / page_bytes * CT_PAGE_TOKENS;
}

static cactus_status check_params(const cactus_engine_params *p, cactus_error *err)
{
    if (p->struct_size != sizeof *p) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "engine params have struct_size %u, not %zu", p->struct_size, sizeof *p);
    if (p->n_threads < 0 || p->n_threads > 256) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "threads is %d; it must lie between 1 and 256 (0: all CPUs)", p->n_threads);
    if (p->n_context < 0) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "context is %d; it must be positive (0: the model's)", p->n_context);
    if (p->n_batch < 0 || p->n_batch > MAX_BATCH) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "batch is %d; it must lie between 1 and %d (0: %d)", p->n_batch, MAX_BATCH, DEFAULT_BATCH);
    if (p->kv_type < CACTUS_KV_AUTO || p->kv_type > CACTUS_KV_I8) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "kv_type %d is unknown", p->kv_type);
    return CACTUS_OK;
}

static cactus_status find_end_tokens(cactus_engine *e, cactus_error *err)
{
    int32_t n_vocab = (int32_t)e->model->config.n_vocab;
    for (int32_t id = 0; id < n_vocab; id++) e->n_end += ct_tokenizer_is_end(e->model->tokenizer, id);
    e->end_ids = ct_alloc(e->n_end, sizeof *e->end_ids);
    if (e->end_ids == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the engine");
    size_t n = 0;
    for (int32_t id = 0; id < n_vocab; id++)
        if (ct_tokenizer_is_end(e->model->tokenizer, id)) e->end_ids[n++] = id;
    return CACTUS_OK;
}

/* How long sequences may be and how many pages there are. */
static cactus_status size_kv(cactus_engine *e, const cactus_engine_params *p, cactus_error *err)
{
    const ct_config *c = &e->model->config;
    size_t page_bytes = ct_decoder_kv_layout(e->decoder)->page_bytes;
    if (page_bytes == 0) page_bytes = 64; /* no layer keeps keys: pages only count tokens */
    size_t wanted = p->n_context > 0 ? (size_t)p->n_context : c->n_context;
    if (wanted > c->n_context)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "context is %d; the model was trained for %u tokens", p->n_context, c->n_context);
    size_t n_pages = (wanted + CT_PAGE_TOKENS - 1) / CT_PAGE_TOKENS;
    if (p->kv_memory_bytes > 0) {
        n_pages = (size_t)(p->kv_memory_bytes / page_bytes);
        if (n_pages == 0)
            return ct_fail(err, CACTUS_ERROR_ARGUMENT, "kv_memory is %llu bytes; one page of %d tokens takes %zu", (unsigned long long)p->kv_memory_bytes,
                           CT_PAGE_TOKENS, page_bytes);
    } else {
        size_t most = affordable_tokens(page_bytes) / CT_PAGE_TOKENS, least = MIN_DEFAULT_KV_TOKENS / CT_PAGE_TOKENS;
        if (n_pages < least) n_pages = least;
        if (n_pages > most && p->n_context == 0) n_pages = most > 0 ? most : 1;
    }
    if (n_pages > UINT32_MAX) n_pages = UINT32_MAX;
    e->n_context = ct_min_size(wanted, n_pages * CT_PAGE_TOKENS);
    return ct_kv_pool_init(&e->kv, page_bytes, (uint32_t)n_pages, err);
}

static cactus_status build(cactus_engine *e, const cactus_engine_params *p, cactus_error *err)
{
    static const ct_kv_type layouts[] = {[CACTUS_KV_F16] = CT_KV_F16, [CACTUS_KV_F32] = CT_KV_F32, [CACTUS_KV_I8] = CT_KV_I8};
    e->kv_type = p->kv_type != CACTUS_KV_AUTO ? (cactus_kv_type)p->kv_type : e->model->all_float ? CACTUS_KV_F32 : CACTUS_KV_F16;
    e->n_batch = p->n_batch > 0 ? (size_t)p->n_batch : DEFAULT_BATCH;
    cactus_status status = ct_decoder_create(e->model, p->kernels, p->n_threads, e->n_batch, layouts[e->kv_type], &e->decoder, err);
    if (status != CACTUS_OK) return status;
    if ((status = size_kv(e, p, err)) != CACTUS_OK) return status;
    size_t state_bytes = ct_round_up(e->model->config.state_floats * sizeof(float), 64);
    if (state_bytes > 0 && (status = ct_kv_pool_init(&e->states, state_bytes, MAX_RUNNING + 1, err)) != CACTUS_OK) return status;
    if ((status = find_end_tokens(e, err)) != CACTUS_OK) return status;
    e->logits_bytes = (size_t)MAX_RUNNING * e->model->config.n_vocab * sizeof *e->logits;
    e->logits = ct_reserve(e->logits_bytes);
    e->batch_tokens = ct_alloc(e->n_batch, sizeof *e->batch_tokens);
    e->all_rows = ct_alloc(e->n_batch, sizeof *e->all_rows);
    if (!e->logits || !e->batch_tokens || !e->all_rows) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the engine");
    for (size_t i = 0; i < e->n_batch; i++) e->all_rows[i] = (uint32_t)i;
    return CACTUS_OK;
}

static void destroy(cactus_engine *e)
{
    ct_decoder_free(e->decoder);
    ct_kv_pool_free(&e->kv);
    ct_kv_pool_free(&e->states);
    if (e->logits != NULL) ct_release(e->logits, e->logits_bytes);
    ct_free(e->batch_tokens);
    ct_free(e->all_rows);
    ct_free(e->end_ids);
    pthread_cond_destroy(&e->work);
    pthread_cond_destroy(&e->job_done);
    pthread_mutex_destroy(&e->mutex);
    ct_free(e);
}

cactus_status cactus_engine_create(const cactus_model *model, const cactus_engine_params *params, cactus_engine **out, cactus_error *err)
{
    if (model == NULL || params == NULL || out == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_engine_create needs a model, params and a place for the engine");
    *out = NULL;
    cactus_status status = check_params(params, err);
    if (status != CACTUS_OK) return status;
    cactus_engine *e = ct_alloc(1, sizeof *e);
    if (e == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the engine");
    e->model = model;
    e->waiting_end = &e->waiting;
    e->jobs_end = &e->jobs;
    pthread_mutex_init(&e->mutex, NULL);
    pthread_cond_init(&e->work, NULL);
    pthread_cond_init(&e->job_done, NULL);
    status = build(e, params, err);
    if (status == CACTUS_OK && pthread_create(&e->thread, NULL, scheduler_main, e) != 0)
        status = ct_fail(err, CACTUS_ERROR_MEMORY, "cannot start the scheduler's thread");
    if (status != CACTUS_OK) {
        destroy(e);
        return status;
    }
    *out = e;
    return CACTUS_OK;
}

void cactus_engine_free(cactus_engine *e)
{
    if (e == NULL) return;
    pthread_mutex_lock(&e->mutex);
    e->stop = true;
    pthread_cond_broadcast(&e->work);
    pthread_mutex_unlock(&e->mutex);
    pthread_join(e->thread, NULL);
    pthread_mutex_lock(&e->mutex);
    while (e->n_callers > 0) pthread_cond_wait(&e->job_done, &e->mutex);
    pthread_mutex_unlock(&e->mutex);
    destroy(e);
}

cactus_status cactus_engine_get_info(cactus_engine *e, cactus_engine_info *info, cactus_error *err)
{
    if (e == NULL || info == NULL || info->struct_size != sizeof *info)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_engine_get_info needs an engine and a cactus_engine_info with its struct_size set");
    const ct_exec *exec = ct_decoder_exec(e->decoder);
    pthread_mutex_lock(&e->mutex);
    *info = (cactus_engine_info){
        .struct_size = sizeof *info,
        .n_threads = ct_pool_threads(exec->pool),
        .n_context = (int32_t)e->n_context,
        .n_batch = (int32_t)e->n_batch,
        .kv_type = e->kv_type,
        .n_running = e->n_running,
        .n_waiting = e->n_waiting,
        .n_kv_pages = e->kv.n_pages,
        .n_kv_pages_used = e->kv.n_used,
        .kv_page_tokens = CT_PAGE_TOKENS,
        .kv_page_bytes = e->kv.page_bytes,
        .kv_touched_bytes = (uint64_t)e->kv.n_touched * e->kv.page_bytes,
        .scratch_bytes = ct_decoder_scratch_bytes(e->decoder),
        .kernels = exec->k->name,
    };
    pthread_mutex_unlock(&e->mutex);
    return CACTUS_OK;
}

void cactus_request_params_default(cactus_request_params *params)
{
    if (params == NULL) return;
    *params = (cactus_request_params){
        .struct_size = sizeof *params,
        .max_tokens = -1,
        .sampling = {.struct_size = sizeof params->sampling, .temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f, .penalty_last_n = -1},
    };
}

static cactus_status check_request(const cactus_engine *e, const cactus_request_params *p, cactus_error *err)
{
    int32_t n_vocab = (int32_t)e->model->config.n_vocab;
    if (p->struct_size != sizeof *p) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "request params have struct_size %u, not %zu", p->struct_size, sizeof *p);
    if (p->max_tokens == 0 || p->max_tokens < -1) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "max_tokens is %d; it must be positive (-1: no limit)", p->max_tokens);
    if (p->prompt == NULL || p->n_prompt == 0) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "the prompt has no tokens");
    if (p->n_stop > 0 && p->stop == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "stop has %zu entries but no array", p->n_stop);
    if (p->context_policy != CACTUS_CONTEXT_ERROR && p->context_policy != CACTUS_CONTEXT_SHIFT)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "context_policy %d is unknown", p->context_policy);
    if (p->speculation < 0 || p->speculation > CT_MAX_DRAFT)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "speculation is %d; it must lie between 0 (off) and %d", p->speculation, CT_MAX_DRAFT);
    if (p->n_keep < 0) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "n_keep is %d; it must be at least 0", p->n_keep);
    if (p->context_policy == CACTUS_CONTEXT_SHIFT && (size_t)p->n_keep >= e->n_context)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "n_keep is %d; it must leave room in the context of %zu", p->n_keep, e->n_context);
    for (size_t i = 0; i < p->n_prompt; i++)
        if (p->prompt[i] < 0 || p->prompt[i] >= n_vocab)
            return ct_fail(err, CACTUS_ERROR_ARGUMENT, "token %d at position %zu is not in the vocabulary of %d", p->prompt[i], i, n_vocab);
    if (p->n_prompt > e->n_context && p->context_policy == CACTUS_CONTEXT_ERROR)
        return ct_fail(err, CACTUS_ERROR_CONTEXT, "the prompt has %zu tokens; the context holds %zu", p->n_prompt, e->n_context);
    return CACTUS_OK;
}

static cactus_status init_request(cactus_engine *e, cactus_request *r, const cactus_request_params *p, cactus_error *err)
{
    cactus_status status = ct_sampler_create(&p->sampling, (int32_t)e->model->config.n_vocab, e->end_ids, e->n_end, &r->sampler, err);
    if (status != CACTUS_OK) return status;
    if ((status = ct_text_init(&r->assembler, p->stop, p->n_stop, err)) != CACTUS_OK) return status;
    size_t longest = p->n_prompt > e->n_context ? p->n_prompt : e->n_context;
    r->tokens_capacity = p->max_tokens > 0 ? ct_min_size(longest, p->n_prompt + (size_t)p->max_tokens) + 1 : longest + 1;
    r->tokens = ct_alloc(r->tokens_capacity, sizeof *r->tokens);
    r->pages = ct_alloc(e->n_context / CT_PAGE_TOKENS + 1, sizeof *r->pages);
    if (r->tokens == NULL || r->pages == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for a request of %zu tokens", p->n_prompt);
    if (p->speculation > 0 && !ct_lookup_init(&r->lookup, r->tokens_capacity))
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the lookup of a request of %zu tokens", p->n_prompt);
    r->speculation = (size_t)p->speculation;
    memcpy(r->tokens, p->prompt, p->n_prompt * sizeof *r->tokens);
    r->n_tokens = p->n_prompt;
    r->max_tokens = p->max_tokens;
    r->context_policy = p->context_policy;
    r->n_keep = (size_t)p->n_keep;
    r->on_token = p->on_token;
    r->user = p->user;
    if (r->n_tokens > e->n_context) shift(e, r, 3);
    r->stats = (cactus_request_stats){.struct_size = sizeof r->stats, .n_prompt = (int32_t)r->n_tokens};
    return CACTUS_OK;
}

cactus_status cactus_request_submit(cactus_engine *e, const cactus_request_params *params, cactus_request **out, cactus_error *err)
{
    if (e == NULL || params == NULL || out == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_request_submit needs an engine, params and a place for the request");
    *out = NULL;
    cactus_status status = check_request(e, params, err);
    if (status != CACTUS_OK) return status;
    cactus_request *r = ct_alloc(1, sizeof *r);
    if (r == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for a request");
    atomic_init(&r->refs, 1);
    atomic_init(&r->cancelled, false);
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&r->calling, &recursive);
    pthread_mutexattr_destroy(&recursive);
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->ready, NULL);
    status = init_request(e, r, params, err);
    if (status != CACTUS_OK) {
        ct_request_unref(r);
        return status;
    }
    r->submitted_ms = ct_now_ms();
    pthread_mutex_lock(&e->mutex);
    if (e->stop) status = ct_fail(err, CACTUS_ERROR_CANCELLED, "the engine is being closed");
    else {
        atomic_store(&r->refs, 2);
        *e->waiting_end = r;
        e->waiting_end = &r->next;
        e->n_waiting++;
        pthread_cond_signal(&e->work);
    }
    pthread_mutex_unlock(&e->mutex);
    if (status != CACTUS_OK) ct_request_unref(r);
    else *out = r;
    return status;
}
