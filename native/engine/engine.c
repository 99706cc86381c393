/* engine.c: an engine's memory, and how requests come to its scheduler. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"

enum {
    DEFAULT_BATCH = 512,
    MAX_BATCH = 8192,
    MIN_DEFAULT_KV_TOKENS = 4096,
    MAX_KEPT_STATES = 32
};

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
    if (p->max_waiting < 0) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "max_waiting is %d; it must be at least 0 (0: no limit)", p->max_waiting);
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
    size_t page_bytes = ct_decoder_kv_layout(e->prompts.decoder)->page_bytes;
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
    if (n_pages > CT_PREFIX_NONE) n_pages = CT_PREFIX_NONE; /* numbers from there on mean something else */
    e->n_context = ct_min_size(wanted, n_pages * CT_PAGE_TOKENS);
    return ct_kv_pool_init(&e->kv, page_bytes, (uint32_t)n_pages, err);
}

static cactus_status make_lane(cactus_engine *e, ct_lane *lane, size_t capacity, cactus_error *err)
{
    lane->capacity = capacity;
    lane->tokens = ct_alloc(capacity, sizeof *lane->tokens);
    lane->logits = ct_reserve(e->logits_bytes);
    if (lane->tokens == NULL || lane->logits == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the engine");
    return CACTUS_OK;
}

/* States of sequences that run, of work, and copies for the index: of those as many as a quarter of the memory for keys and values holds. */
static cactus_status make_states(cactus_engine *e, uint32_t *n_kept, cactus_error *err)
{
    size_t state_bytes = ct_round_up(e->model->config.state_floats * sizeof(float), 64);
    *n_kept = 0;
    if (state_bytes == 0) return CACTUS_OK;
    size_t most = (size_t)e->kv.n_pages * e->kv.page_bytes / 4 / state_bytes;
    if (e->shares) *n_kept = (uint32_t)ct_min_size(most > 0 ? most : 1, MAX_KEPT_STATES);
    return ct_kv_pool_init(&e->states, state_bytes, CT_MAX_RUNNING + 1 + *n_kept, err);
}

static cactus_status build(cactus_engine *e, const cactus_engine_params *p, cactus_error *err)
{
    static const ct_kv_type layouts[] = {[CACTUS_KV_F16] = CT_KV_F16, [CACTUS_KV_F32] = CT_KV_F32, [CACTUS_KV_I8] = CT_KV_I8};
    uint32_t n_kept_states;
    e->kv_type = p->kv_type != CACTUS_KV_AUTO ? (cactus_kv_type)p->kv_type : e->model->all_float || e->model->arch->encoder ? CACTUS_KV_F32 : CACTUS_KV_F16;
    e->n_batch = p->n_batch > 0 ? (size_t)p->n_batch : DEFAULT_BATCH;
    e->max_waiting = p->max_waiting;
    e->shares = !p->no_prefixes;
    e->logits_bytes = (size_t)CT_MAX_RUNNING * e->model->config.n_vocab * sizeof(float);
    size_t rows = e->model->arch->encoder ? 1 : e->n_batch, quick = ct_min_size(rows, CT_QUICK_BATCH);
    cactus_status status = ct_decoder_create(e->model, p->kernels, p->n_threads, rows, layouts[e->kv_type], &e->prompts.decoder, err);
    if (status == CACTUS_OK) status = ct_decoder_create_beside(e->prompts.decoder, quick, &e->quick.decoder, err);
    if (status == CACTUS_OK) status = make_lane(e, &e->prompts, rows, err);
    if (status == CACTUS_OK) status = make_lane(e, &e->quick, quick, err);
    if (status == CACTUS_OK) status = size_kv(e, p, err);
    if (status == CACTUS_OK && e->model->arch->encoder) { /* a text is read as a whole */
        if (e->n_batch < e->n_context) e->n_batch = e->n_context;
        status = ct_encoder_create(e->model, ct_decoder_exec(e->prompts.decoder), ct_decoder_kv_layout(e->prompts.decoder), e->n_batch, &e->encoder, err);
    }
    if (status == CACTUS_OK) status = make_states(e, &n_kept_states, err);
    if (status == CACTUS_OK) status = ct_prefix_index_init(&e->prefixes, &e->kv, &e->states, CT_PAGE_TOKENS, n_kept_states, err);
    if (status == CACTUS_OK) status = find_end_tokens(e, err);
    if (status != CACTUS_OK) return status;
    e->all_rows = ct_alloc(e->n_batch, sizeof *e->all_rows);
    if (e->all_rows == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the engine");
    for (size_t i = 0; i < e->n_batch; i++) e->all_rows[i] = (uint32_t)i;
    return CACTUS_OK;
}

static void free_lane(cactus_engine *e, ct_lane *lane)
{
    ct_decoder_free(lane->decoder);
    ct_free(lane->tokens);
    if (lane->logits != NULL) ct_release(lane->logits, e->logits_bytes);
}

static void destroy(cactus_engine *e)
{
    ct_encoder_free(e->encoder);
    free_lane(e, &e->quick); /* it borrows of the other one */
    free_lane(e, &e->prompts);
    ct_prefix_index_free(&e->prefixes);
    ct_kv_pool_free(&e->kv);
    ct_kv_pool_free(&e->states);
    ct_free(e->all_rows);
    ct_free(e->end_ids);
    pthread_cond_destroy(&e->wake);
    pthread_cond_destroy(&e->work_done);
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
    e->work_end = &e->work;
    pthread_mutex_init(&e->mutex, NULL);
    ct_cond_init(&e->wake);
    pthread_cond_init(&e->work_done, NULL);
    status = build(e, params, err);
    if (status == CACTUS_OK && pthread_create(&e->thread, NULL, ct_scheduler_main, e) != 0)
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
    pthread_cond_broadcast(&e->wake);
    pthread_mutex_unlock(&e->mutex);
    pthread_join(e->thread, NULL);
    pthread_mutex_lock(&e->mutex);
    while (e->n_callers > 0) pthread_cond_wait(&e->work_done, &e->mutex);
    pthread_mutex_unlock(&e->mutex);
    destroy(e);
}

cactus_status cactus_engine_get_info(cactus_engine *e, cactus_engine_info *info, cactus_error *err)
{
    if (e == NULL || info == NULL || info->struct_size != sizeof *info)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_engine_get_info needs an engine and a cactus_engine_info with its struct_size set");
    const ct_exec *exec = ct_decoder_exec(e->prompts.decoder);
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
        .n_kv_pages_cached = e->kv.n_idle,
        .scratch_bytes = ct_decoder_scratch_bytes(e->prompts.decoder) + ct_decoder_scratch_bytes(e->quick.decoder) + ct_encoder_scratch_bytes(e->encoder),
        .kernels = exec->k->name,
        .n_prompt = e->totals.n_prompt,
        .n_prompt_cached = e->totals.n_cached,
        .n_generated = e->totals.n_generated,
        .n_drafted = e->totals.n_drafted,
        .n_accepted = e->totals.n_accepted,
        .n_preempted = e->totals.n_preempted,
        .n_evicted = e->totals.n_evicted,
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
    if (p->timeout_ms < 0) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "timeout_ms is %d; it must be at least 0 (0: none)", p->timeout_ms);
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
    cactus_status status = ct_sampler_create(&p->sampling, (int32_t)e->model->config.n_vocab, e->end_ids, e->n_end, p->constrained != 0, &r->sampler, err);
    if (status != CACTUS_OK) return status;
    if ((status = ct_text_init(&r->assembler, p->stop, p->n_stop, err)) != CACTUS_OK) return status;
    size_t longest = p->n_prompt > e->n_context ? p->n_prompt : e->n_context;
    r->tokens_capacity = p->max_tokens > 0 ? ct_min_size(longest, p->n_prompt + (size_t)p->max_tokens) + 1 : longest + 1;
    r->tokens = ct_alloc(r->tokens_capacity, sizeof *r->tokens);
    r->pages = ct_alloc(e->n_context / CT_PAGE_TOKENS + 1, sizeof *r->pages);
    if (r->tokens == NULL || r->pages == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for a request of %zu tokens", p->n_prompt);
    if (p->speculation > 0 && p->constrained == 0 && !ct_lookup_init(&r->lookup, r->tokens_capacity))
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the lookup of a request of %zu tokens", p->n_prompt);
    r->constrained = p->constrained != 0;
    if (r->constrained) {
        r->mask_words = ((size_t)e->model->config.n_vocab + 31) / 32;
        r->held = ct_alloc(e->model->config.n_vocab, sizeof *r->held);
        r->mask = ct_alloc(r->mask_words, sizeof *r->mask);
        r->next_mask = ct_alloc(r->mask_words, sizeof *r->next_mask);
        if (r->held == NULL || r->mask == NULL || r->next_mask == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the masks of a request");
    }
    if (p->pool_states != 0) {
        r->d_model = e->model->config.d_model;
        r->pooled = ct_alloc((r->constrained ? 4 : 3) * r->d_model, sizeof *r->pooled);
        if (r->pooled == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the states of a request");
    }
    r->shares = e->shares && !p->no_prefixes;
    r->state_node = CT_PREFIX_NONE;
    r->speculation = r->constrained ? 0 : (size_t)p->speculation; /* a draft's mask is not known */
    memcpy(r->tokens, p->prompt, p->n_prompt * sizeof *r->tokens);
    r->n_tokens = p->n_prompt;
    r->max_tokens = p->max_tokens;
    r->context_policy = p->context_policy;
    r->n_keep = (size_t)p->n_keep;
    r->on_token = p->on_token;
    r->user = p->user;
    if (r->n_tokens > e->n_context) ct_shift_request(e, r, 3);
    r->stats = (cactus_request_stats){.struct_size = sizeof r->stats, .n_prompt = (int32_t)r->n_tokens};
    return CACTUS_OK;
}

cactus_status cactus_request_submit(cactus_engine *e, const cactus_request_params *params, cactus_request **out, cactus_error *err)
{
    if (e == NULL || params == NULL || out == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_request_submit needs an engine, params and a place for the request");
    *out = NULL;
    cactus_status status = ct_check_generates(e, err);
    if (status == CACTUS_OK) status = check_request(e, params, err);
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
    ct_cond_init(&r->ready);
    status = init_request(e, r, params, err);
    if (status != CACTUS_OK) {
        ct_request_unref(r);
        return status;
    }
    r->submitted_ms = ct_now_ms();
    if (params->timeout_ms > 0) r->deadline_ms = r->submitted_ms + params->timeout_ms;
    r->engine = e;
    pthread_mutex_lock(&e->mutex);
    if (e->stop) status = ct_fail(err, CACTUS_ERROR_CANCELLED, "the engine is being closed");
    else if (e->max_waiting > 0 && e->n_waiting >= e->max_waiting)
        status = ct_fail(err, CACTUS_ERROR_BUSY, "%d requests wait already, as many as may; try again later", e->n_waiting);
    else {
        atomic_store(&r->refs, 2);
        *e->waiting_end = r;
        e->waiting_end = &r->next;
        e->n_waiting++;
        atomic_store(&e->attention, true);
        pthread_cond_signal(&e->wake);
    }
    pthread_mutex_unlock(&e->mutex);
    if (status != CACTUS_OK) ct_request_unref(r);
    else *out = r;
    return status;
}
