/* embed.c: texts as vectors: the states of their tokens, pooled. A group of texts is one piece of work for the scheduler's thread, so
 * that requests go on between two groups. */
#include <math.h>
#include <string.h>

#include "engine/engine.h"

typedef struct embed_work {
    ct_work work;
    const int32_t *ids;    /* of all texts of the group, one behind the other */
    const size_t *lengths; /* [n] */
    size_t n, n_ids;       /* at most n_batch ids, or one text */
    cactus_pooling pooling;
    bool normalise;
    float *out;            /* [n, d_model] */
} embed_work;

/* What a group needs while it is computed. */
typedef struct embed_room {
    uint8_t **pages;
    ct_run *runs;      /* [n] */
    uint32_t *outputs; /* [rows of a pass] */
    float *hidden;     /* [rows of a pass, d_model], of a decoder */
    double *sums;      /* [d_model] */
    uint8_t *state;
    size_t n_pages;    /* taken */
} embed_room;

cactus_status ct_check_generates(const cactus_engine *e, cactus_error *err)
{
    if (!e->model->arch->encoder) return CACTUS_OK;
    return ct_fail(err, CACTUS_ERROR_UNSUPPORTED, "this model is an encoder (%s): it makes embeddings and generates no text", e->model->arch->name);
}

static size_t pages_for(size_t n_tok) { return (n_tok + CT_PAGE_TOKENS - 1) / CT_PAGE_TOKENS; }

/* out [d] = the mean of the summed rows, or the one row that was added, if wanted of length 1 */
static void finish_vector(const embed_work *w, const double *sums, size_t n_rows, size_t d, float *out)
{
    double squares = 0.0, factor = 1.0 / (double)n_rows;
    for (size_t i = 0; i < d; i++) squares += sums[i] * factor * (sums[i] * factor);
    if (w->normalise && squares > 0.0) factor /= sqrt(squares);
    for (size_t i = 0; i < d; i++) out[i] = (float)(sums[i] * factor);
}

static void add_rows(double *sums, const float *rows, size_t n_rows, size_t d)
{
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < d; i++) sums[i] += (double)rows[r * d + i];
}

static bool make_room(cactus_engine *e, const embed_work *w, embed_room *room)
{
    size_t rows = ct_min_size(w->n_ids, e->n_batch), d = e->model->config.d_model, n_pages = w->work.n_pages;
    room->pages = ct_alloc(n_pages, sizeof *room->pages);
    room->runs = ct_alloc(w->n, sizeof *room->runs);
    room->outputs = ct_alloc(rows, sizeof *room->outputs);
    room->sums = ct_alloc(d, sizeof *room->sums);
    room->hidden = e->encoder == NULL ? ct_alloc(rows * d, sizeof *room->hidden) : NULL;
    if (room->pages == NULL || room->runs == NULL || room->outputs == NULL || room->sums == NULL || (e->encoder == NULL && room->hidden == NULL)) return false;
    room->state = e->states.n_pages > 0 ? ct_kv_take(&e->states) : NULL; /* one is kept for work */
    while (room->n_pages < n_pages) {
        uint8_t *page = ct_take_page_for_work(e);
        if (page == NULL) return false;
        room->pages[room->n_pages++] = page;
    }
    return true;
}

static void free_room(cactus_engine *e, embed_room *room)
{
    for (size_t i = 0; i < room->n_pages; i++) ct_kv_give(&e->kv, room->pages[i]);
    if (room->state != NULL) ct_kv_give(&e->states, room->state);
    ct_free(room->pages);
    ct_free(room->runs);
    ct_free(room->outputs);
    ct_free(room->hidden);
    ct_free(room->sums);
}

/* Rows first … first + n of a text of n_all tokens that count, with positions from `at` on: their number, the first of them in *from. */
static size_t wanted_rows(cactus_pooling pooling, size_t at, size_t n, size_t n_all, size_t *from)
{
    *from = pooling == CACTUS_POOLING_LAST ? n - 1 : 0;
    if (pooling == CACTUS_POOLING_MEAN) return n;
    return pooling == CACTUS_POOLING_CLS ? at == 0 : at + n == n_all;
}

/* All texts in one pass. */
static void embed_group(cactus_engine *e, const embed_work *w, embed_room *room)
{
    size_t d = e->model->config.d_model, n_tok = 0, page = 0, from;
    ct_batch batch = {.tokens = w->ids, .n_tok = w->n_ids, .runs = room->runs, .n_runs = w->n, .outputs = room->outputs, .hidden = room->hidden};
    for (size_t i = 0; i < w->n; i++) {
        room->runs[i] = (ct_run){.first = n_tok, .n_tok = w->lengths[i], .pages = room->pages + page, .state = (float *)(void *)room->state,
                                 .beyond_context = ct_beyond_context(e, w->lengths[i])};
        size_t n = wanted_rows(w->pooling, 0, w->lengths[i], w->lengths[i], &from);
        for (size_t r = 0; r < n; r++) room->outputs[batch.n_outputs++] = (uint32_t)(n_tok + from + r);
        n_tok += w->lengths[i];
        page += pages_for(w->lengths[i]);
    }
    const float *rows = room->hidden; /* the wanted ones, or of an encoder all */
    if (e->encoder != NULL) rows = ct_encoder_forward(e->encoder, &batch);
    else ct_decoder_forward(e->prompts.decoder, &batch, NULL);
    for (size_t i = 0; i < w->n; i++) {
        size_t n = wanted_rows(w->pooling, 0, w->lengths[i], w->lengths[i], &from);
        memset(room->sums, 0, d * sizeof *room->sums);
        add_rows(room->sums, e->encoder != NULL ? rows + from * d : rows, n, d);
        finish_vector(w, room->sums, n, d, w->out + i * d);
        rows += (e->encoder != NULL ? w->lengths[i] : n) * d;
    }
}

/* One text that is longer than a batch, chunk by chunk. */
static void embed_long(cactus_engine *e, const embed_work *w, embed_room *room)
{
    size_t d = e->model->config.d_model, n_rows = 0, from;
    for (size_t at = 0; at < w->n_ids; at += e->n_batch) {
        size_t n = ct_min_size(e->n_batch, w->n_ids - at), n_outputs = wanted_rows(w->pooling, at, n, w->n_ids, &from);
        ct_run run = {.n_tok = n, .pos = at, .pages = room->pages, .state = (float *)(void *)room->state, .beyond_context = ct_beyond_context(e, w->n_ids)};
        ct_batch batch = {.tokens = w->ids + at, .n_tok = n, .runs = &run, .n_runs = 1, .outputs = e->all_rows + from, .n_outputs = n_outputs,
                          .hidden = room->hidden};
        ct_decoder_forward(e->prompts.decoder, &batch, NULL);
        add_rows(room->sums, room->hidden, n_outputs, d);
        n_rows += n_outputs;
    }
    finish_vector(w, room->sums, n_rows, d, w->out);
}

static void run_embed(cactus_engine *e, ct_work *work)
{
    embed_work *w = (embed_work *)work;
    embed_room room = {0};
    if (!make_room(e, w, &room)) ct_fail(&w->work.error, CACTUS_ERROR_MEMORY, "no memory to embed %zu tokens", w->n_ids);
    else if (w->n_ids > e->n_batch) embed_long(e, w, &room);
    else embed_group(e, w, &room);
    free_room(e, &room);
}

static cactus_status check_embed(const cactus_engine *e, const int32_t *ids, const size_t *lengths, size_t n_sequences,
                                 const cactus_embed_params *p, cactus_error *err)
{
    int32_t n_vocab = (int32_t)e->model->config.n_vocab;
    if (p->struct_size != sizeof *p) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "embed params have struct_size %u, not %zu", p->struct_size, sizeof *p);
    if (p->pooling < CACTUS_POOLING_AUTO || p->pooling > CACTUS_POOLING_LAST)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "pooling %d is unknown", p->pooling);
    if (e->model->config.pooling == CACTUS_POOLING_AUTO)
        return ct_fail(err, CACTUS_ERROR_UNSUPPORTED, "this model scores pairs of texts (%s.pooling_type is 4); it makes no embeddings", e->model->arch->name);
    for (size_t i = 0; i < n_sequences; i++) {
        if (lengths[i] == 0) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "text %zu has no tokens", i);
        if (lengths[i] > e->n_context)
            return ct_fail(err, CACTUS_ERROR_CONTEXT, "text %zu has %zu tokens; the context holds %zu", i, lengths[i], e->n_context);
        for (size_t t = 0; t < lengths[i]; t++)
            if (ids[t] < 0 || ids[t] >= n_vocab)
                return ct_fail(err, CACTUS_ERROR_ARGUMENT, "token %d at position %zu of text %zu is not in the vocabulary of %d", ids[t], t, i, n_vocab);
        ids += lengths[i];
    }
    return CACTUS_OK;
}

cactus_status cactus_engine_embed(cactus_engine *e, const int32_t *ids, const size_t *lengths, size_t n_sequences,
                                  const cactus_embed_params *params, float *out, cactus_error *err)
{
    if (e == NULL || ids == NULL || lengths == NULL || params == NULL || out == NULL)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_engine_embed needs an engine, tokens, lengths, params and room for the result");
    cactus_status status = check_embed(e, ids, lengths, n_sequences, params, err);
    size_t d = e->model->config.d_model;
    cactus_pooling pooling = params->pooling != CACTUS_POOLING_AUTO ? (cactus_pooling)params->pooling : e->model->config.pooling;
    ct_engine_enter(e);
    while (status == CACTUS_OK && n_sequences > 0) {
        embed_work w = {.work.run = run_embed, .ids = ids, .lengths = lengths, .pooling = pooling, .normalise = params->normalise != 0, .out = out};
        do {
            w.work.n_pages += pages_for(lengths[w.n]);
            w.n_ids += lengths[w.n++];
        } while (w.n < n_sequences && e->states.n_pages == 0 && w.n_ids + lengths[w.n] <= e->n_batch && w.work.n_pages + pages_for(lengths[w.n]) <= e->kv.n_pages);
        status = ct_work_submit(e, &w.work, err);
        ids += w.n_ids;
        lengths += w.n;
        out += w.n * d;
        n_sequences -= w.n;
    }
    ct_engine_leave(e);
    return status;
}
