/* request.c: the event queue of a request, and its public functions except submission (engine.c). */
#include "engine/engine.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <time.h>

double ct_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

void ct_cond_init(pthread_cond_t *cond)
{
#ifdef __APPLE__
    pthread_cond_init(cond, NULL);
#else
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
#endif
}

bool ct_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, double until_ms)
{
#ifdef __APPLE__
    until_ms = fmax(until_ms - ct_now_ms(), 0.0);
#endif
    struct timespec t = {.tv_sec = (time_t)(until_ms / 1e3), .tv_nsec = (long)(fmod(until_ms, 1e3) * 1e6)};
#ifdef __APPLE__
    return pthread_cond_timedwait_relative_np(cond, mutex, &t) != ETIMEDOUT;
#else
    return pthread_cond_timedwait(cond, mutex, &t) != ETIMEDOUT;
#endif
}

/* Room for `more` elements behind n; keeps the old memory when there is none. */
static bool grow(void **array, size_t *capacity, size_t n, size_t more, size_t elem_bytes)
{
    if (n + more <= *capacity) return true;
    size_t wanted = n + more < 64 ? 64 : 2 * (n + more);
    void *bigger = ct_alloc(wanted, elem_bytes);
    if (bigger == NULL) return false;
    if (n > 0) memcpy(bigger, *array, n * elem_bytes);
    ct_free(*array);
    *array = bigger;
    *capacity = wanted;
    return true;
}

/* Moves what the consumer has not seen yet to the front, when that is the smaller part. */
static void compact_queue(cactus_request *r)
{
    if (r->next_event == r->n_events) r->n_events = r->next_event = r->n_top = r->n_text = 0;
    if (r->next_event < 32 || r->next_event < r->n_events / 2) return;
    size_t text = r->events[r->next_event].first_text, top = r->events[r->next_event].first_top;
    r->n_events -= r->next_event;
    r->n_text -= text;
    r->n_top -= top;
    memmove(r->events, r->events + r->next_event, r->n_events * sizeof *r->events);
    if (r->n_text > 0) memmove(r->text, r->text + text, r->n_text);
    if (r->n_top > 0) memmove(r->top_ids, r->top_ids + top, r->n_top * sizeof *r->top_ids);
    if (r->n_top > 0) memmove(r->top_logprobs, r->top_logprobs + top, r->n_top * sizeof *r->top_logprobs);
    for (size_t i = 0; i < r->n_events; i++) r->events[i].first_text -= text, r->events[i].first_top -= top;
    r->next_event = 0;
}

static bool queue_event(cactus_request *r, const ct_choice *choice, cactus_finish finish, const char *text, size_t n_text)
{
    size_t n_top = choice == NULL ? 0 : (size_t)choice->n_top, logprob_capacity = r->top_capacity;
    compact_queue(r);
    void *events = r->events, *ids = r->top_ids, *logprobs = r->top_logprobs, *bytes = r->text;
    bool ok = grow(&events, &r->events_capacity, r->n_events, 1, sizeof *r->events);
    ok = grow(&logprobs, &logprob_capacity, r->n_top, n_top, sizeof *r->top_logprobs) && ok;
    ok = grow(&ids, &r->top_capacity, r->n_top, n_top, sizeof *r->top_ids) && ok;
    ok = grow(&bytes, &r->text_capacity, r->n_text, n_text, 1) && ok;
    r->events = events, r->top_ids = ids, r->top_logprobs = logprobs, r->text = bytes;
    if (!ok) return false;
    ct_event e = {.id = -1, .finish = (int32_t)finish, .n_top = (int32_t)n_top, .first_top = r->n_top, .first_text = r->n_text, .n_text = n_text};
    if (choice != NULL) e.id = choice->id, e.logprob = choice->logprob, e.entropy = choice->entropy, e.margin = choice->margin;
    for (size_t i = 0; i < n_top; i++) r->top_ids[r->n_top] = choice->top_ids[i], r->top_logprobs[r->n_top++] = choice->top_logprobs[i];
    if (n_text > 0) memcpy(r->text + r->n_text, text, n_text);
    r->n_text += n_text;
    r->events[r->n_events++] = e;
    return true;
}

bool ct_request_emit(cactus_request *r, const ct_choice *choice, cactus_finish finish, const char *text, size_t n_text)
{
    bool ok = true;
    if (r->on_token != NULL) {
        cactus_token token = {.id = -1, .finish = (int32_t)finish, .text = text, .n_text_bytes = n_text};
        if (choice != NULL) {
            token.id = choice->id, token.logprob = choice->logprob, token.entropy = choice->entropy, token.margin = choice->margin;
            token.n_top = choice->n_top, token.top_ids = choice->top_ids, token.top_logprobs = choice->top_logprobs;
        }
        pthread_mutex_lock(&r->calling);
        if (!r->detached && r->on_token(r->user, &token) != 0) atomic_store(&r->cancelled, true);
        pthread_mutex_unlock(&r->calling);
        return true;
    }
    pthread_mutex_lock(&r->mutex);
    ok = queue_event(r, choice, finish, text, n_text);
    if (!r->only_end) pthread_cond_signal(&r->ready);
    pthread_mutex_unlock(&r->mutex);
    return ok;
}

void ct_request_end(cactus_request *r, const cactus_error *failure)
{
    pthread_mutex_lock(&r->mutex);
    r->ended = true;
    r->engine = NULL;
    if (failure != NULL) r->failure = *failure;
    pthread_cond_broadcast(&r->ready);
    pthread_mutex_unlock(&r->mutex);
    ct_request_unref(r);
}

void ct_request_unref(cactus_request *r)
{
    if (atomic_fetch_sub(&r->refs, 1) != 1) return;
    pthread_cond_destroy(&r->ready);
    pthread_mutex_destroy(&r->mutex);
    pthread_mutex_destroy(&r->calling);
    ct_free(r->events);
    ct_free(r->top_ids);
    ct_free(r->top_logprobs);
    ct_free(r->text);
    ct_free(r->shown_text);
    ct_free(r->tokens);
    ct_free(r->pages);
    ct_free(r->held);
    ct_free(r->pooled);
    ct_free(r->mask);
    ct_free(r->next_mask);
    ct_lookup_free(&r->lookup);
    ct_sampler_free(r->sampler);
    ct_text_free(&r->assembler);
    ct_free(r);
}

/* Copies the oldest event to where the consumer may read it until its next call. */
static cactus_status show_event(cactus_request *r, cactus_token *token, cactus_error *err)
{
    const ct_event *e = &r->events[r->next_event];
    void *shown = r->shown_text;
    if (!grow(&shown, &r->shown_capacity, 0, e->n_text, 1)) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the text of a token");
    r->shown_text = shown;
    if (e->n_text > 0) memcpy(r->shown_text, r->text + e->first_text, e->n_text);
    for (size_t i = 0; i < (size_t)e->n_top; i++) {
        r->shown_ids[i] = r->top_ids[e->first_top + i];
        r->shown_logprobs[i] = r->top_logprobs[e->first_top + i];
    }
    *token = (cactus_token){.id = e->id, .finish = e->finish, .logprob = e->logprob, .entropy = e->entropy, .margin = e->margin,
                            .n_top = e->n_top, .top_ids = r->shown_ids, .top_logprobs = r->shown_logprobs, .text = r->shown_text,
                            .n_text_bytes = e->n_text};
    r->next_event++;
    return CACTUS_OK;
}

/* Waits until there is an event, or (only_end) the last one. False after timeout_ms (< 0: no limit). Called with the mutex held. */
static bool wait_for_events(cactus_request *r, int32_t timeout_ms, bool only_end)
{
    double until_ms = timeout_ms > 0 ? ct_now_ms() + timeout_ms : 0.0;
    for (;;) {
        if (r->ended || (!only_end && r->next_event < r->n_events)) return true;
        if (timeout_ms == 0) return false;
        if (timeout_ms < 0) pthread_cond_wait(&r->ready, &r->mutex);
        else if (!ct_cond_wait_until(&r->ready, &r->mutex, until_ms)) timeout_ms = 0;
    }
}

cactus_status cactus_request_next(cactus_request *r, int32_t timeout_ms, cactus_token *token, cactus_error *err)
{
    if (r == NULL || token == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_request_next needs a request and a place for the token");
    cactus_status status;
    pthread_mutex_lock(&r->mutex);
    if (!wait_for_events(r, timeout_ms, false)) status = ct_fail(err, CACTUS_ERROR_TIMEOUT, "no token within %d ms", timeout_ms);
    else if (r->next_event < r->n_events) status = show_event(r, token, err);
    else if (r->failure.code != 0) status = ct_fail(err, (cactus_status)r->failure.code, "%s", r->failure.message);
    else status = ct_fail(err, CACTUS_ERROR_FINISHED, "the request has delivered its last event");
    pthread_mutex_unlock(&r->mutex);
    return status;
}

cactus_status cactus_request_wait(cactus_request *r, int32_t timeout_ms, cactus_error *err)
{
    if (r == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_request_wait needs a request");
    pthread_mutex_lock(&r->mutex);
    r->only_end = true;
    bool ended = wait_for_events(r, timeout_ms, true);
    r->only_end = false;
    pthread_mutex_unlock(&r->mutex);
    return ended ? CACTUS_OK : ct_fail(err, CACTUS_ERROR_TIMEOUT, "the request did not end within %d ms", timeout_ms);
}

cactus_status cactus_request_set_mask(cactus_request *r, const uint32_t *words, size_t n_words, cactus_error *err)
{
    if (r == NULL || !r->constrained) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_request_set_mask needs a request that is constrained");
    if (words != NULL && n_words != r->mask_words)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "a mask of %zu words was given; the vocabulary needs %zu", n_words, r->mask_words);
    pthread_mutex_lock(&r->mutex);
    bool pending = r->mask_ready;
    if (!pending) {
        if (words != NULL) memcpy(r->next_mask, words, n_words * sizeof *words);
        r->next_is_free = words == NULL;
        r->mask_ready = true;
        if (r->engine != NULL) ct_engine_wake(r->engine);
    }
    pthread_mutex_unlock(&r->mutex);
    return pending ? ct_fail(err, CACTUS_ERROR_ARGUMENT, "the mask before is still to be used: there is one for each token") : CACTUS_OK;
}

void cactus_request_cancel(cactus_request *r)
{
    if (r == NULL || atomic_exchange(&r->cancelled, true)) return;
    pthread_mutex_lock(&r->mutex);
    if (r->engine != NULL) ct_engine_wake(r->engine);
    pthread_mutex_unlock(&r->mutex);
}

cactus_status cactus_request_get_stats(cactus_request *r, cactus_request_stats *stats, cactus_error *err)
{
    if (r == NULL || stats == NULL || stats->struct_size != sizeof *stats)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_request_get_stats needs a request and a cactus_request_stats with its struct_size set");
    pthread_mutex_lock(&r->mutex);
    *stats = r->stats;
    pthread_mutex_unlock(&r->mutex);
    stats->struct_size = sizeof *stats;
    return CACTUS_OK;
}

cactus_status cactus_request_states(cactus_request *r, float *prompt, float *mean, float *last, size_t n, int32_t *n_tokens, cactus_error *err)
{
    if (r == NULL || n_tokens == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_request_states needs a request and a place for the number of tokens");
    if (r->pooled == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "this request keeps no states: it was submitted without pool_states");
    if (n != r->d_model) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "there is room for states of %zu numbers; the model has %zu", n, r->d_model);
    pthread_mutex_lock(&r->mutex);
    *n_tokens = r->stats.n_generated;
    if (*n_tokens > 0) {
        const float *sum = r->pooled + n;
        if (prompt != NULL) memcpy(prompt, r->pooled, n * sizeof *prompt);
        for (size_t i = 0; mean != NULL && i < n; i++) mean[i] = sum[i] / (float)*n_tokens;
        if (last != NULL) memcpy(last, sum + n, n * sizeof *last);
    }
    pthread_mutex_unlock(&r->mutex);
    return CACTUS_OK;
}

void cactus_request_free(cactus_request *r)
{
    if (r == NULL) return;
    cactus_request_cancel(r);
    pthread_mutex_lock(&r->calling);
    r->detached = true;
    pthread_mutex_unlock(&r->calling);
    ct_request_unref(r);
}
