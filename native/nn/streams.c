/* streams.c: several residual streams: predicted before a layer, corrected after it. Every tile is one token. */
#include <math.h>
#include <string.h>

#include "nn/streams.h"

static const float MIN_SQUARE = 1e-5f; /* of a stream's mean square where it is divided by: as the models were trained */

typedef struct job {
    const ct_kernels *k;
    const ct_streams *s;
    const ct_stream_mix *mix;
    const ct_streams_room *room;
    const float *in;
    float *out;
    size_t stream;
    void (*token)(const struct job *j, size_t t);
} job;

static void tile(void *ctx, size_t t, int thread)
{
    const job *j = ctx;
    (void)thread;
    j->token(j, t);
}

static void run(const ct_exec *exec, size_t n_tok, job j)
{
    j.k = exec->k;
    ct_pool_run(exec->pool, tile, &j, n_tok);
}

/* ---- room ---- */

bool ct_streams_room_init(ct_streams_room *room, const ct_kernels *k, size_t n_tok, size_t n, size_t d, size_t *n_bytes)
{
    size_t act_bytes = k->act_bytes(ct_round_up(d, CT_ACT_BLOCK));
    room->all = ct_alloc(n_tok * n * d, sizeof(float));
    room->h = ct_alloc(n_tok * d, sizeof(float));
    room->y = ct_alloc(n_tok * d, sizeof(float));
    room->scores = ct_alloc(n_tok * n, sizeof(float));
    room->act = ct_alloc(n_tok, act_bytes);
    *n_bytes += n_tok * ((n * d + 2 * d + n) * sizeof(float) + act_bytes);
    return room->all != NULL && room->h != NULL && room->y != NULL && room->scores != NULL && room->act != NULL;
}

void ct_streams_room_free(ct_streams_room *room)
{
    ct_free(room->all);
    ct_free(room->h);
    ct_free(room->y);
    ct_free(room->scores);
    ct_free(room->act);
}

/* ---- mixtures ---- */

static float *stream_of(const job *j, size_t t, size_t stream) { return j->room->all + (t * j->s->n + stream) * j->s->d; }

/* The token's router scores become tanh(scores / d). */
static const float *modalities(const job *j, size_t t)
{
    float *scores = j->room->scores + t * j->s->n;
    j->k->scale(scores, 1.0f / (float)j->s->d, j->s->n);
    j->k->softcap(scores, 1.0f, j->s->n);
    return scores;
}

/* room->scores = router(norm(x)) */
static void route(const ct_exec *exec, const ct_stream_mix *mix, const ct_streams *s, const ct_streams_room *room, const float *x, size_t n_tok)
{
    ct_norm_rows(exec, &mix->router_norm, room->h, x, n_tok, s->d);
    ct_input in = {.x = room->h, .act = room->act, .n_tok = n_tok, .n_cols = s->d};
    ct_linear(exec, &in, (ct_product[]){{&mix->router, room->scores}}, 1);
}

static float dot(const float *a, const float *b, size_t n)
{
    float sum = 0.0f;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

enum { PIECE = 64 }; /* elements of all streams that are mixed at a time */

static void predict_token(const job *j, size_t t)
{
    size_t n = j->s->n, d = j->s->d;
    const float *m = modalities(j, t);
    float share[CT_MAX_STREAMS * CT_MAX_STREAMS], old[CT_MAX_STREAMS][PIECE];
    for (size_t i = 0; i < n * n; i++) share[i] = dot(j->mix->predict + i * n, m, n);
    for (size_t at = 0; at < d; at += PIECE) {
        size_t n_elems = ct_min_size(PIECE, d - at);
        for (size_t k = 0; k < n; k++) memcpy(old[k], stream_of(j, t, k) + at, n_elems * sizeof(float));
        for (size_t to = 0; to < n; to++) {
            float *restrict y = stream_of(j, t, to) + at;
            for (size_t k = 0; k < n; k++) {
                float weight = share[to * n + k];
                const float *restrict x = old[k];
                for (size_t i = 0; i < n_elems; i++) y[i] += weight * x[i];
            }
        }
    }
    memcpy(j->out + t * d, stream_of(j, t, j->s->active), d * sizeof(float));
}

static void correct_token(const job *j, size_t t)
{
    size_t n = j->s->n, d = j->s->d;
    const float *m = modalities(j, t);
    float *restrict change = j->out + t * d; /* until it is the result */
    const float *restrict x = j->in + t * d;
    const float *was = stream_of(j, t, j->s->active);
    for (size_t i = 0; i < d; i++) change[i] = x[i] - was[i];
    for (size_t to = 0; to < n; to++) {
        float weight = dot(j->mix->correct + to * n, m, n) + 1.0f;
        float *restrict y = stream_of(j, t, to);
        for (size_t i = 0; i < d; i++) y[i] += change[i] * weight;
    }
    for (size_t i = 0; i < d; i++) change[i] = was[i] * j->mix->scale[i];
}

static void add_token(const job *j, size_t t)
{
    for (size_t to = 1; to < j->s->n; to++) j->k->add(stream_of(j, t, to), j->in + t * j->s->d, j->s->d);
}

void ct_streams_predict(const ct_exec *exec, const ct_streams *s, const ct_stream_mix *mix, const ct_streams_room *room, float *x,
                        size_t n_tok)
{
    for (size_t t = 0; t < n_tok; t++) memcpy(x + t * s->d, room->all + (t * s->n + s->active) * s->d, s->d * sizeof(float));
    route(exec, mix, s, room, x, n_tok);
    run(exec, n_tok, (job){.s = s, .mix = mix, .room = room, .out = x, .token = predict_token});
}

void ct_streams_correct(const ct_exec *exec, const ct_streams *s, const ct_stream_mix *mix, const ct_streams_room *room,
                        const float *x, float *y, size_t n_tok)
{
    route(exec, mix, s, room, x, n_tok);
    run(exec, n_tok, (job){.s = s, .mix = mix, .room = room, .in = x, .out = y, .token = correct_token});
}

void ct_streams_add(const ct_exec *exec, const ct_streams *s, const ct_streams_room *room, const float *y, size_t n_tok)
{
    run(exec, n_tok, (job){.s = s, .room = room, .in = y, .token = add_token});
}

/* ---- one stream to several and back ---- */

static float mean_square(const ct_kernels *k, const float *x, size_t n)
{
    float sum;
    k->gemm_f32(&sum, 1, x, n, x, n, 1, n, 1);
    return sum / (float)n;
}

/* y becomes as long as x. */
static void match(const ct_kernels *k, float *y, const float *x, size_t n)
{
    float square = mean_square(k, y, n);
    k->scale(y, sqrtf(mean_square(k, x, n)) / sqrtf(square > MIN_SQUARE ? square : MIN_SQUARE), n);
}

static void begin_token(const job *j, size_t t)
{
    size_t d = j->s->d;
    float *y = stream_of(j, t, j->stream);
    memcpy(y, j->room->h + t * d, d * sizeof(float));
    match(j->k, y, j->in + t * d, d);
}

static void end_token(const job *j, size_t t)
{
    size_t d = j->s->d;
    float *y = j->room->y + t * d, *x = j->out + t * d;
    match(j->k, y, stream_of(j, t, 0), d);
    j->k->add(x, y, d);
    if (j->stream + 1 == j->s->n) j->k->scale(x, 1.0f / (float)j->s->n, d);
}

void ct_streams_begin(const ct_exec *exec, const ct_streams *s, const ct_streams_room *room, const float *x, size_t n_tok)
{
    ct_input in = {.x = x, .act = room->act, .n_tok = n_tok, .n_cols = s->d};
    for (size_t t = 0; t < n_tok; t++) memcpy(room->all + t * s->n * s->d, x + t * s->d, s->d * sizeof(float));
    for (size_t i = 1; i < s->n; i++) {
        ct_matrix w = ct_matrix_part(&s->first, i - 1);
        ct_linear(exec, &in, (ct_product[]){{&w, room->h}}, 1);
        run(exec, n_tok, (job){.s = s, .room = room, .in = x, .stream = i, .token = begin_token});
    }
}

void ct_streams_end(const ct_exec *exec, const ct_streams *s, const ct_streams_room *room, float *x, size_t n_tok)
{
    for (size_t i = 0; i < s->n; i++) {
        float *to = i == 0 ? x : room->h;
        for (size_t t = 0; t < n_tok; t++) memcpy(to + t * s->d, room->all + (t * s->n + i) * s->d, s->d * sizeof(float));
        if (i == 0) continue;
        ct_matrix w = ct_matrix_part(&s->last, i - 1);
        ct_input in = {.x = room->h, .act = room->act, .n_tok = n_tok, .n_cols = s->d};
        ct_linear(exec, &in, (ct_product[]){{&w, room->y}}, 1);
        run(exec, n_tok, (job){.s = s, .room = room, .out = x, .stream = i, .token = end_token});
    }
}
