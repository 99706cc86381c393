/* scheduler.c: one thread computes for all requests. Requests join and leave at every turn.
 *
 * There are two lanes. The quick lane takes the next token of every request that generates, drafts, and prompts that are short; its
 * batch is computed at once. The lane of prompts takes the rest in chunks, fairly shared, and is computed a few layers at a time, with
 * quick batches in between: a long prompt delays neither the tokens of others nor a short question by more than a layer.
 *
 * Memory for keys and values is taken page by page. Full pages enter the index of prefixes at once, so what another request has read,
 * or reads just now, is not read again. When no page is free, the least recently used prefix that nobody uses goes; then the
 * youngest request gives its pages back, waits, and is read again later. None of this can be seen in the results: a token's
 * computation depends on the tokens before it alone, to the bit.
 *
 * For the same reason tokens may be computed before they are chosen: a request that speculates appends drafted tokens to its own, and
 * its sampler is asked row by row as long as it chooses what was drafted. Keys and values of the others are overwritten later.
 *
 * A model with recurrent layers has one page more per sequence, its state. A state cannot be taken back, so such models do not
 * speculate; a prefix is of use to them where a copy of the state after it was kept. */
#include <math.h>
#include <string.h>

#include "engine/engine.h"

enum { MOST_PROMPTS_PER_CHUNK = 8 };

static const double SLICE_MS = 50.0; /* of the lane of prompts, while nothing else is to be done, before deadlines are looked at */

/* ---- sequences ---- */

static void give_pages(cactus_engine *e, cactus_request *r)
{
    for (size_t i = 0; i < r->n_pages; i++) ct_kv_give(&e->kv, r->pages[i]);
    if (r->state != NULL) ct_kv_give(&e->states, r->state);
    r->state = NULL;
    r->n_pages = 0;
    r->n_indexed = 0;
    r->n_computed = 0;
    r->state_node = CT_PREFIX_NONE;
    r->holds = false;
}

bool ct_beyond_context(const cactus_engine *e, size_t n_tokens)
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

/* Ends a request from outside. */
static void finish_early(cactus_engine *e, cactus_request *r, cactus_finish why)
{
    size_t n_text = 0;
    give_pages(e, r);
    (void)ct_text_finish(&r->assembler, &n_text);
    (void)ct_request_emit(r, NULL, why, r->assembler.held, n_text);
    finish(e, r, NULL);
}

/* Why a request is to be ended, or NONE. */
static cactus_finish early_end(const cactus_request *r, double now)
{
    if (atomic_load(&r->cancelled)) return CACTUS_FINISH_CANCELLED;
    return r->deadline_ms > 0.0 && now >= r->deadline_ms ? CACTUS_FINISH_TIMEOUT : CACTUS_FINISH_NONE;
}

void ct_shift_request(cactus_engine *e, cactus_request *r, size_t room_quarters)
{
    size_t keep = ct_min_size(r->n_keep, e->n_context - 1);
    size_t rest = (e->n_context - keep) * room_quarters / 4;
    if (rest == 0) rest = 1;
    memmove(r->tokens + keep, r->tokens + r->n_tokens - rest, rest * sizeof *r->tokens);
    r->n_tokens = keep + rest;
    if (r->speculation > 0) ct_lookup_reset(&r->lookup);
    give_pages(e, r);
}

/* The state that the newest token was chosen from. Called with the request's mutex held. */
static void pool_state(const cactus_engine *e, cactus_request *r, const float *state)
{
    size_t n = r->d_model;
    float *sum = r->pooled + n;
    memcpy(sum + n, state, n * sizeof *state);
    if (r->n_generated > 1) {
        ct_decoder_exec(e->quick.decoder)->k->add(sum, state, n);
        return;
    }
    memcpy(r->pooled, state, n * sizeof *state);
    memcpy(sum, state, n * sizeof *state);
}

/* Takes one token into the sequence, chosen from row i of its scores, and tells the consumer. True while the request goes on. */
static bool accept(cactus_engine *e, cactus_request *r, const ct_choice *choice, size_t i, bool drafted)
{
    double now = ct_now_ms();
    cactus_finish why = CACTUS_FINISH_NONE;
    bool ok = true, stopped = false;
    size_t n_text = 0;

    e->owes_token = false;
    e->totals.n_generated++;
    e->totals.n_accepted += drafted;
    if (r->n_generated == 0) r->first_token_ms = now;
    r->n_generated++;
    pthread_mutex_lock(&r->mutex);
    r->stats.n_generated = r->n_generated;
    r->stats.n_accepted += drafted;
    r->stats.prompt_ms = r->first_token_ms - r->started_ms;
    r->stats.decode_ms = now - r->first_token_ms;
    if (r->pooled != NULL) pool_state(e, r, r->states + i * r->d_model);
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
    if (r->n_tokens > e->n_context) ct_shift_request(e, r, 2);
    return true;
}

/* ---- pages ---- */

/* Running request number i gives its pages back and is the next to be admitted again. */
static void preempt(cactus_engine *e, int32_t i)
{
    cactus_request *r = e->running[i];
    pthread_mutex_lock(&e->mutex);
    memmove(&e->running[i], &e->running[i + 1], (size_t)(e->n_running - i - 1) * sizeof e->running[0]);
    e->n_running--;
    r->next = e->waiting;
    if (e->waiting == NULL) e->waiting_end = &r->next;
    e->waiting = r;
    e->n_waiting++;
    pthread_mutex_unlock(&e->mutex);
    give_pages(e, r);
    r->chunk = 0;
    e->totals.n_preempted++;
}

/* The youngest request that is not just being computed, not older than number `least`; -1: none. */
static int32_t youngest(const cactus_engine *e, int32_t least)
{
    for (int32_t i = e->n_running - 1; i >= least; i--)
        if (e->running[i]->lane == NULL) return i;
    return -1;
}

static uint8_t *take_page(cactus_engine *e)
{
    uint8_t *page = ct_kv_take(&e->kv);
    while (page == NULL && ct_prefix_evict(&e->prefixes)) {
        e->totals.n_evicted++;
        page = ct_kv_take(&e->kv);
    }
    return page;
}

uint8_t *ct_take_page_for_work(cactus_engine *e)
{
    for (;;) {
        uint8_t *page = take_page(e);
        if (page != NULL) return page;
        int32_t i = youngest(e, 0);
        if (i < 0) return NULL;
        preempt(e, i);
        e->owes_token = true;
    }
}

static bool take_pages(cactus_engine *e, cactus_request *r, size_t n_tokens)
{
    while (r->n_pages * CT_PAGE_TOKENS < n_tokens) {
        uint8_t *page = take_page(e);
        if (page == NULL) return false;
        r->pages[r->n_pages++] = page;
    }
    if (r->state == NULL && e->states.n_pages > 0) r->state = ct_kv_take(&e->states); /* there is one for each that can run */
    return true;
}

/* Pages for the chunk of running request number i, if need be from younger ones. False: it has none this time, or has given way itself. */
static bool provide_pages(cactus_engine *e, int32_t i)
{
    cactus_request *r = e->running[i];
    while (!take_pages(e, r, r->n_computed + r->chunk)) {
        int32_t victim = youngest(e, i);
        if (victim < 0 || e->n_running == 1) { /* alone: the pages are being saved and come back */
            r->chunk = 0;
            return false;
        }
        preempt(e, victim);
        if (victim == i) return false;
    }
    return true;
}

/* ---- prefixes ---- */

static uint32_t root_of(const cactus_request *r) { return r->beyond_context ? CT_PREFIX_ROOT_LONG : CT_PREFIX_ROOT; }

static uint32_t node_of(const cactus_engine *e, const cactus_request *r, size_t i) /* of its page i - 1 */
{
    return i == 0 ? root_of(r) : ct_kv_number(&e->kv, r->pages[i - 1]);
}

/* Takes over pages that hold the next tokens already. The last token of the sequence is always computed: its scores are wanted. */
static void adopt_prefix(cactus_engine *e, cactus_request *r)
{
    bool recurrent = e->states.n_pages > 0;
    size_t first = r->n_indexed, n = first, good = first;
    if (!r->shares || r->n_pages != first || r->n_computed != first * CT_PAGE_TOKENS) return;
    uint32_t parent = node_of(e, r, first), good_node = CT_PREFIX_NONE;
    while ((n + 1) * CT_PAGE_TOKENS < r->n_tokens) {
        uint32_t page = ct_prefix_find(&e->prefixes, parent, r->tokens + n * CT_PAGE_TOKENS);
        if (page == CT_PREFIX_NONE) break;
        r->pages[n++] = ct_kv_page(&e->kv, page);
        parent = page;
        if (!recurrent || e->prefixes.nodes[page].state != NULL) good = n, good_node = page;
    }
    if (good == first) return;
    for (size_t i = first; i < good; i++) ct_kv_share(&e->kv, r->pages[i]);
    r->n_pages = r->n_indexed = good;
    r->n_computed = good * CT_PAGE_TOKENS;
    if (recurrent) {
        if (r->state == NULL) r->state = ct_kv_take(&e->states);
        memcpy(r->state, e->prefixes.nodes[good_node].state, e->states.page_bytes);
    }
    if (r->began) return;
    e->totals.n_cached += (good - first) * CT_PAGE_TOKENS;
    pthread_mutex_lock(&r->mutex);
    r->stats.n_prompt_cached = (int32_t)r->n_computed;
    pthread_mutex_unlock(&r->mutex);
}

/* Lets others find the pages that have become full. */
static void index_pages(cactus_engine *e, cactus_request *r)
{
    size_t n_sure = ct_min_size(r->n_computed, r->n_tokens); /* drafts may not stand */
    while (r->shares && (r->n_indexed + 1) * CT_PAGE_TOKENS <= n_sure) {
        size_t i = r->n_indexed++;
        const int32_t *tokens = r->tokens + i * CT_PAGE_TOKENS;
        uint32_t parent = node_of(e, r, i), page = ct_kv_number(&e->kv, r->pages[i]), known = ct_prefix_find(&e->prefixes, parent, tokens);
        if (known == CT_PREFIX_NONE) ct_prefix_add(&e->prefixes, parent, page, tokens);
        else if (known != page) { /* another one computed the same bits meanwhile */
            ct_kv_share(&e->kv, ct_kv_page(&e->kv, known));
            ct_kv_give(&e->kv, r->pages[i]);
            r->pages[i] = ct_kv_page(&e->kv, known);
        }
    }
    if (r->state == NULL || !r->shares || r->n_indexed == 0 || r->n_computed != r->n_indexed * CT_PAGE_TOKENS) return;
    uint32_t node = node_of(e, r, r->n_indexed);
    bool generated = r->n_generated > 0;
    if (generated && r->state_node != CT_PREFIX_NONE) ct_prefix_take_state(&e->prefixes, r->state_node); /* of an answer only the last */
    ct_prefix_put_state(&e->prefixes, node, r->state);
    r->state_node = generated ? node : CT_PREFIX_NONE;
}

/* Whether another request is just computing the very page that this one needs next, or a part of it. */
static bool twin_ahead(const cactus_engine *e, const cactus_request *r)
{
    size_t end = r->n_computed + CT_PAGE_TOKENS;
    if (!r->shares || r->n_computed % CT_PAGE_TOKENS != 0 || end >= r->n_tokens) return false;
    for (int32_t i = 0; i < e->n_running; i++) {
        const cactus_request *q = e->running[i];
        if (q == r || q->chunk == 0 || !q->shares || q->beyond_context != r->beyond_context) continue;
        if (q->n_tokens < end || q->n_computed >= end || q->n_computed + q->chunk <= r->n_computed) continue;
        if (memcmp(q->tokens, r->tokens, end * sizeof *r->tokens) == 0) return true;
    }
    return false;
}

/* A recurrent state is kept at the last page boundary of what is read, so a chunk ends there. */
static size_t up_to_boundary(const cactus_engine *e, const cactus_request *r, size_t chunk)
{
    size_t boundary = (r->n_tokens - 1) / CT_PAGE_TOKENS * CT_PAGE_TOKENS;
    if (e->states.n_pages == 0 || !r->shares || r->n_computed >= boundary) return chunk;
    return ct_min_size(chunk, boundary - r->n_computed);
}

/* ---- who runs ---- */

static void forget_running(cactus_engine *e, cactus_request *r)
{
    int32_t i = 0;
    while (e->running[i] != r) i++;
    pthread_mutex_lock(&e->mutex);
    memmove(&e->running[i], &e->running[i + 1], (size_t)(e->n_running - i - 1) * sizeof e->running[0]);
    e->n_running--;
    pthread_mutex_unlock(&e->mutex);
}

/* Gives up the batch in the lane of prompts if nobody wants it any more. */
static void abandon_lane(ct_lane *lane, double now)
{
    for (size_t i = 0; i < lane->n_members; i++)
        if (early_end(lane->members[i], now) == CACTUS_FINISH_NONE) return;
    for (size_t i = 0; i < lane->n_members; i++) lane->members[i]->lane = NULL;
    lane->busy = false;
}

/* Ends requests that were cancelled or are too late, then admits waiting ones that have room. True: something changed. */
static bool update_running(cactus_engine *e)
{
    double now = ct_now_ms();
    bool changed = false;
    if (e->prompts.busy) abandon_lane(&e->prompts, now);
    for (int32_t i = e->n_running - 1; i >= 0; i--) {
        cactus_request *r = e->running[i];
        cactus_finish why = r->lane == NULL ? early_end(r, now) : CACTUS_FINISH_NONE;
        if (why == CACTUS_FINISH_NONE) continue;
        forget_running(e, r);
        finish_early(e, r, why);
        changed = true;
    }
    pthread_mutex_lock(&e->mutex);
    cactus_request *ended = NULL, **at = &e->waiting;
    while (*at != NULL) {
        cactus_request *r = *at;
        if (early_end(r, now) == CACTUS_FINISH_NONE) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        r->next = ended;
        ended = r;
        e->n_waiting--;
    }
    e->waiting_end = at;
    int32_t first_new = e->n_running;
    while (e->waiting != NULL && e->n_running < CT_MAX_RUNNING) {
        cactus_request *r = e->waiting;
        size_t pages = (r->n_tokens + CT_PAGE_TOKENS) / CT_PAGE_TOKENS;
        if (e->n_running > 0 && pages > (size_t)e->kv.n_free + e->kv.n_idle) break;
        e->waiting = r->next;
        if (e->waiting == NULL) e->waiting_end = &e->waiting;
        e->n_waiting--;
        r->next = NULL;
        e->running[e->n_running++] = r;
    }
    pthread_mutex_unlock(&e->mutex);
    for (int32_t i = first_new; i < e->n_running; i++) {
        cactus_request *r = e->running[i];
        changed = true;
        if (r->started_ms != 0.0) continue;
        r->started_ms = now;
        e->totals.n_prompt += r->n_tokens;
        pthread_mutex_lock(&r->mutex);
        r->stats.queue_ms = r->started_ms - r->submitted_ms;
        pthread_mutex_unlock(&r->mutex);
    }
    while (ended != NULL) {
        cactus_request *next = ended->next;
        finish_early(e, ended, early_end(ended, now));
        ended = next;
        changed = true;
    }
    return changed;
}

/* ---- choices ---- */

/* The choices of one request, in order: each row counts only if the ones before chose what had been drafted. */
static void choose_tile(void *ctx, size_t tile, int thread)
{
    cactus_engine *e = ctx;
    cactus_request *r = e->choosers[tile];
    (void)thread;
    for (r->n_choices = 0; r->n_choices <= r->n_draft;) {
        size_t i = r->n_choices++, row = r->first_choice + i;
        e->chosen[row] = ct_sampler_choose(r->sampler, ct_decoder_exec(e->quick.decoder)->k, r->scores + i * e->model->config.n_vocab, r->tokens,
                                           r->n_tokens + i, r->masked ? r->mask : NULL, &e->choices[row]);
        if (!e->chosen[row] || i == r->n_draft || e->choices[row].id != r->draft[i]) break;
        r->tokens[r->n_tokens + i] = r->draft[i]; /* for the penalties of the next row; accept puts it there again */
    }
}

/* Hands the choices of a step to a request. True while the request goes on. */
static bool take_choices(cactus_engine *e, cactus_request *r)
{
    if (r->n_draft > 0) {
        e->totals.n_drafted += r->n_draft;
        pthread_mutex_lock(&r->mutex);
        r->stats.n_drafted += (int32_t)r->n_draft;
        pthread_mutex_unlock(&r->mutex);
    }
    for (size_t i = 0; i < r->n_choices && (i == 0 || !atomic_load(&r->cancelled)); i++) {
        size_t row = r->first_choice + i;
        if (!e->chosen[row]) {
            cactus_error error;
            ct_fail(&error, CACTUS_ERROR_FORMAT, "%s", r->masked
                        ? "the mask of the next token allows none of the vocabulary"
                        : "the model produced no finite score; its weights may be damaged, or logit_bias forbids every token");
            finish(e, r, &error);
            return false;
        }
        if (!accept(e, r, &e->choices[row], i, i < r->n_draft && e->choices[row].id == r->draft[i])) return false;
    }
    if (r->n_draft > 0 && r->n_computed > 0) { /* what was refused leaves no trace; a shift has given everything back */
        r->n_computed = ct_min_size(r->n_computed, r->n_tokens - 1);
        while (r->n_pages * CT_PAGE_TOKENS >= r->n_computed + CT_PAGE_TOKENS) ct_kv_give(&e->kv, r->pages[--r->n_pages]);
    }
    return true;
}

static void choose_all(cactus_engine *e, size_t n)
{
    ct_pool_run(ct_decoder_exec(e->quick.decoder)->pool, choose_tile, e, n);
    for (size_t i = 0; i < n; i++)
        if (!take_choices(e, e->choosers[i])) forget_running(e, e->choosers[i]);
}

/* Whether a choice can be made now; takes the mask that the consumer sent, if the request needs one. */
static bool may_choose(cactus_request *r)
{
    if (!r->constrained) return true;
    pthread_mutex_lock(&r->mutex);
    bool ready = r->mask_ready;
    if (ready) {
        uint32_t *sent = r->next_mask;
        r->next_mask = r->mask;
        r->mask = sent;
        r->masked = !r->next_is_free;
        r->mask_ready = false;
    }
    pthread_mutex_unlock(&r->mutex);
    return ready;
}

/* Requests whose scores were there before their mask. */
static bool choose_held(cactus_engine *e)
{
    size_t n = 0;
    for (int32_t i = 0; i < e->n_running; i++) {
        cactus_request *r = e->running[i];
        if (!r->holds || !may_choose(r)) continue;
        r->holds = false;
        r->n_draft = 0;
        r->scores = r->held;
        if (r->pooled != NULL) r->states = r->pooled + 3 * r->d_model;
        r->first_choice = n;
        e->choosers[n++] = r;
    }
    if (n > 0) choose_all(e, n);
    return n > 0;
}

/* ---- lanes ---- */

static void fill_lane(cactus_engine *e, ct_lane *lane, cactus_request *r)
{
    ct_batch *b = &lane->batch;
    memcpy(lane->tokens + b->n_tok, r->tokens + r->n_computed, r->chunk * sizeof *r->tokens);
    memcpy(lane->tokens + b->n_tok + r->chunk, r->draft, r->n_draft * sizeof *r->draft);
    lane->runs[b->n_runs++] = (ct_run){.first = b->n_tok, .n_tok = r->chunk + r->n_draft, .pos = r->n_computed, .pages = r->pages,
                                       .state = (float *)(void *)r->state, .beyond_context = r->beyond_context};
    b->n_tok += r->chunk + r->n_draft;
    lane->members[lane->n_members++] = r;
    r->lane = lane;
    r->chooses = r->n_computed + r->chunk == r->n_tokens;
    if (!r->chooses) return;
    r->scores = lane->logits + b->n_outputs * e->model->config.n_vocab;
    r->states = ct_decoder_states(lane->decoder) + b->n_outputs * e->model->config.d_model;
    for (size_t row = b->n_tok - r->n_draft - 1; row < b->n_tok; row++) lane->outputs[b->n_outputs++] = (uint32_t)row;
}

/* Begins a batch of the requests that were given a chunk. False: there are none. */
static bool begin_lane(cactus_engine *e, ct_lane *lane)
{
    lane->n_members = 0;
    lane->batch = (ct_batch){.tokens = lane->tokens, .runs = lane->runs, .outputs = lane->outputs};
    for (int32_t i = 0; i < e->n_running; i++)
        if (e->running[i]->lane == NULL && e->running[i]->chunk > 0) fill_lane(e, lane, e->running[i]);
    if (lane->n_members == 0) return false;
    lane->busy = true;
    ct_decoder_begin(lane->decoder, &lane->batch, lane->logits);
    return true;
}

static void end_lane(cactus_engine *e, ct_lane *lane)
{
    size_t n = 0, n_choices = 0, n_vocab = e->model->config.n_vocab;
    lane->busy = false;
    for (size_t i = 0; i < lane->n_members; i++) {
        cactus_request *r = lane->members[i];
        r->lane = NULL;
        r->n_computed += r->chunk + r->n_draft;
        r->chunk = 0;
        r->began = true;
        index_pages(e, r);
        if (!r->chooses) continue;
        if (!may_choose(r)) {
            memcpy(r->held, r->scores, n_vocab * sizeof *r->held);
            if (r->pooled != NULL) memcpy(r->pooled + 3 * r->d_model, r->states, r->d_model * sizeof *r->states);
            r->holds = true;
            continue;
        }
        r->first_choice = n_choices;
        n_choices += 1 + r->n_draft;
        e->choosers[n++] = r;
    }
    choose_all(e, n);
}

/* ---- what is computed next ---- */

/* Appends drafts to the steps that few rows share: there a row more costs little beside reading the weights. */
static void plan_drafts(cactus_engine *e)
{
    size_t n_rows = 0, max_rows = ct_min_size(CT_MAX_DRAFT_ROWS, e->quick.capacity);
    for (int32_t i = 0; i < e->n_running; i++)
        if (e->running[i]->lane == NULL) n_rows += e->running[i]->chunk;
    for (int32_t i = 0; i < e->n_running && n_rows < max_rows; i++) {
        cactus_request *r = e->running[i];
        if (r->lane != NULL || r->speculation == 0 || r->chunk != 1 || r->n_computed + 1 != r->n_tokens || r->state != NULL) continue;
        size_t most = ct_min_size(r->speculation, e->n_context - r->n_tokens);
        while (most > 0 && ct_beyond_context(e, r->n_tokens + most) != r->beyond_context) most--;
        if (r->max_tokens > 0) most = ct_min_size(most, (size_t)(r->max_tokens - r->n_generated) - 1);
        size_t n = ct_lookup_draft(&r->lookup, r->tokens, r->n_tokens, n_rows, ct_min_size(most, max_rows - n_rows), r->draft);
        while (r->n_draft < n && !ct_tokenizer_is_end(e->model->tokenizer, r->draft[r->n_draft])) r->n_draft++; /* nothing follows an end */
        if (!take_pages(e, r, r->n_tokens + r->n_draft)) r->n_draft = r->n_pages * CT_PAGE_TOKENS - r->n_tokens; /* no page was left */
        n_rows += r->n_draft;
    }
}

static size_t missing(const cactus_request *r) { return r->n_tokens - r->n_computed; }

/* All keys are made again when the sequence has become longer than the original context, or no longer is. */
static void turn_keys(cactus_engine *e, cactus_request *r)
{
    if (ct_beyond_context(e, r->n_tokens) == r->beyond_context) return;
    give_pages(e, r);
    r->beyond_context = !r->beyond_context;
}

/* Next tokens, then prompts that are short enough, oldest first. */
static void plan_quick(cactus_engine *e)
{
    size_t left = e->quick.capacity;
    for (int32_t i = 0; i < e->n_running; i++) {
        cactus_request *r = e->running[i];
        if (r->lane != NULL) continue;
        turn_keys(e, r);
        r->n_draft = 0;
        r->chunk = 0;
        if (missing(r) > 1) adopt_prefix(e, r);
    }
    for (int32_t i = 0; i < e->n_running && left > 0; i++) {
        cactus_request *r = e->running[i];
        if (r->lane != NULL || missing(r) != 1) continue;
        r->chunk = 1;
        left -= provide_pages(e, i);
    }
    for (int32_t i = 0; i < e->n_running && left > 0; i++) {
        cactus_request *r = e->running[i];
        if (r->lane != NULL || missing(r) <= 1 || missing(r) > left || twin_ahead(e, r)) continue;
        r->chunk = up_to_boundary(e, r, missing(r));
        size_t chunk = r->chunk;
        if (provide_pages(e, i)) left -= chunk;
    }
    plan_drafts(e);
}

/* Equal shares of a batch for the oldest of the prompts that are being read, what is left to the oldest again. */
static void plan_prompts(cactus_engine *e)
{
    cactus_request *readers[MOST_PROMPTS_PER_CHUNK];
    size_t n = 0, left = e->prompts.capacity;
    for (int32_t i = 0; i < e->n_running; i++) e->running[i]->chunk = e->running[i]->n_draft = 0;
    for (int32_t i = 0; i < e->n_running && n < MOST_PROMPTS_PER_CHUNK; i++) {
        cactus_request *r = e->running[i];
        turn_keys(e, r); /* the quick lane may have shifted it */
        if (missing(r) <= 1) continue;
        adopt_prefix(e, r); /* the quick lane may just have read it for another one */
        r->chunk = missing(r) > 1 && !twin_ahead(e, r) ? up_to_boundary(e, r, missing(r)) : 0; /* for the next one's twin_ahead */
        if (r->chunk > 0) readers[n++] = r;
    }
    for (size_t i = 0; i < n; i++) {
        readers[i]->wanted = readers[i]->chunk;
        readers[i]->chunk = ct_min_size(readers[i]->wanted, e->prompts.capacity / n);
        left -= readers[i]->chunk;
    }
    for (size_t i = 0; i < n; i++) {
        size_t more = ct_min_size(left, readers[i]->wanted - readers[i]->chunk);
        readers[i]->chunk += more;
        left -= more;
    }
    for (int32_t i = 0; i < e->n_running; i++)
        if (e->running[i]->chunk > 0) provide_pages(e, i);
}

/* One turn. False: nothing could be done. */
static bool turn(cactus_engine *e, bool work_waits)
{
    bool did = update_running(e);
    did = choose_held(e) || did;
    plan_quick(e);
    double began = ct_now_ms(), now = began;
    bool quick = begin_lane(e, &e->quick);
    if (quick) {
        while (ct_decoder_advance(e->quick.decoder)) {}
        end_lane(e, &e->quick);
        now = ct_now_ms();
    }
    if (!e->prompts.busy && !work_waits) {
        plan_prompts(e);
        did = begin_lane(e, &e->prompts) || did;
    }
    if (!e->prompts.busy) return did || quick;
    double until = now + (quick ? now - began : SLICE_MS); /* half of the time for either, while there are both */
    bool goes_on;
    do goes_on = ct_decoder_advance(e->prompts.decoder);
    while (goes_on && !atomic_load(&e->attention) && ct_now_ms() < until);
    if (!goes_on) end_lane(e, &e->prompts);
    return true;
}

/* ---- the thread ---- */

void ct_engine_wake(cactus_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    atomic_store(&e->attention, true);
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->mutex);
}

/* Sleeps until something comes, or the first deadline passes. Called with the mutex held. */
static void sleep_until_called(cactus_engine *e)
{
    double first = INFINITY;
    for (int32_t i = 0; i < e->n_running; i++)
        if (e->running[i]->deadline_ms > 0.0) first = fmin(first, e->running[i]->deadline_ms);
    for (cactus_request *r = e->waiting; r != NULL; r = r->next)
        if (r->deadline_ms > 0.0) first = fmin(first, r->deadline_ms);
    if (isinf(first)) pthread_cond_wait(&e->wake, &e->mutex);
    else (void)ct_cond_wait_until(&e->wake, &e->mutex, first);
}

static void close_requests(cactus_engine *e)
{
    pthread_mutex_lock(&e->mutex);
    cactus_request *waiting = e->waiting;
    e->waiting = NULL;
    e->waiting_end = &e->waiting;
    pthread_mutex_unlock(&e->mutex);
    e->prompts.busy = false;
    for (int32_t i = 0; i < e->n_running; i++) finish_early(e, e->running[i], CACTUS_FINISH_CANCELLED);
    while (waiting != NULL) {
        cactus_request *next = waiting->next;
        finish_early(e, waiting, CACTUS_FINISH_CANCELLED);
        waiting = next;
    }
}

/* The first work that may begin, or the place behind the last one. */
static ct_work **next_work(cactus_engine *e)
{
    ct_work **at = &e->work;
    while (*at != NULL && (*at)->n_pages > 0 && (e->owes_token || (*at)->n_pages + e->n_held > e->kv.n_pages)) at = &(*at)->next;
    return at;
}

void *ct_scheduler_main(void *arg)
{
    cactus_engine *e = arg;
    bool did = true;
    pthread_mutex_lock(&e->mutex);
    for (;;) {
        while (!e->stop && !did && !atomic_load(&e->attention)) {
            sleep_until_called(e);
            did = true;
        }
        if (e->stop) break;
        atomic_store(&e->attention, false);
        ct_work **place = next_work(e), *work = *place;
        bool work_waits = work != NULL && work->n_pages > 0 && e->prompts.busy;
        if (work_waits) work = NULL;
        if (work != NULL) {
            *place = work->next;
            if (work->next == NULL) e->work_end = place;
        }
        pthread_mutex_unlock(&e->mutex);
        if (work != NULL) work->run(e, work);
        did = turn(e, work_waits) || work != NULL;
        pthread_mutex_lock(&e->mutex);
        if (work != NULL) {
            work->done = true;
            pthread_cond_broadcast(&e->work_done);
        }
        if (!did) e->owes_token = false; /* what gave way has been read again and waits for its mask, or for pages being saved */
        did = did || *next_work(e) != NULL;
    }
    for (ct_work *work = e->work; work != NULL; work = work->next) {
        ct_fail(&work->error, CACTUS_ERROR_CANCELLED, "the engine was closed");
        work->done = true;
    }
    pthread_cond_broadcast(&e->work_done);
    pthread_mutex_unlock(&e->mutex);
    close_requests(e);
    return NULL;
}
