/* experts.c: see experts.h.
 *
 * Tokens choose experts, the pairs are sorted by expert, and each expert multiplies its rows as one matrix: all experts in one parallel
 * region for gate and up, one for down. A row's result does not depend on which rows lie beside it (kernels.h), and a token adds its
 * experts in the order of its own choice, so nothing depends on the batch. */
#include <math.h>
#include <string.h>

#include "nn/experts.h"
#include "nn/scratch.h"

bool ct_experts_room_init(ct_experts_room *room, const ct_kernels *k, size_t n_tok, size_t n_experts, size_t n_used, size_t d, size_t n_ff,
                          size_t *n_bytes)
{
    size_t n_pairs = n_tok * n_used, act = k->act_bytes(ct_round_up(d > n_ff ? d : n_ff, 32));
    *room = (ct_experts_room){
        .scores = ct_alloc(n_tok * n_experts, sizeof(float)),
        .weights = ct_alloc(n_pairs, sizeof(float)),
        .chosen = ct_alloc(n_pairs, sizeof(uint32_t)),
        .place = ct_alloc(n_pairs, sizeof(uint32_t)),
        .first = ct_alloc(n_experts + 1, sizeof(uint32_t)),
        .x = ct_alloc(n_pairs * d, sizeof(float)),
        .act = ct_alloc(n_pairs, act),
        .gate = ct_alloc(n_pairs * n_ff, sizeof(float)),
        .up = ct_alloc(n_pairs * n_ff, sizeof(float)),
        .out = ct_alloc(n_pairs * d, sizeof(float)),
        .groups = ct_alloc(2 * n_experts, sizeof(ct_group)),
        .views = ct_alloc(2 * n_experts, sizeof(ct_matrix)),
    };
    *n_bytes += n_pairs * (2 * sizeof(uint32_t) + sizeof(float) * (1 + 2 * d + 2 * n_ff) + act) + n_tok * n_experts * sizeof(float);
    return room->scores && room->weights && room->chosen && room->place && room->first && room->x && room->act && room->gate && room->up
        && room->out && room->groups && room->views;
}

void ct_experts_room_free(ct_experts_room *room)
{
    ct_free(room->scores);
    ct_free(room->weights);
    ct_free(room->chosen);
    ct_free(room->place);
    ct_free(room->first);
    ct_free(room->x);
    ct_free(room->act);
    ct_free(room->gate);
    ct_free(room->up);
    ct_free(room->out);
    ct_free(room->groups);
    ct_free(room->views);
    *room = (ct_experts_room){0};
}

typedef struct job {
    const ct_exec *exec;
    const ct_experts *e;
    const ct_experts_room *room;
    const ct_input *input;
    float *y;
    size_t act_stride, d;
} job;

/* ---- choosing ---- */

/* Scores become probabilities, in place. */
static void to_probabilities(const ct_kernels *k, const ct_experts *e, float *p)
{
    float max, sum, weighted;
    switch (e->gating) {
    case CT_GATE_SOFTMAX:
        (void)k->max_index(p, e->n_experts, &max);
        k->softmax_stats(p, e->n_experts, max, &sum, &weighted);
        for (size_t i = 0; i < e->n_experts; i++) p[i] = ct_exp_of(k, p[i] - max) / sum;
        break;
    case CT_GATE_SIGMOID:
        for (size_t i = 0; i < e->n_experts; i++) p[i] = 1.0f / (1.0f + ct_exp_of(k, -p[i]));
        break;
    case CT_GATE_SOFTMAX_CHOSEN: break;
    }
}

static float merit(const ct_experts *e, const float *p, size_t i) { return e->router_bias != NULL ? p[i] + e->router_bias[i] : p[i]; }

/* What a group of experts offers: its best expert, or with sigmoid gates the sum of its best two (DeepSeek-V3, arXiv:2412.19437). */
static float group_merit(const ct_experts *e, const float *p, size_t group)
{
    size_t n = e->n_experts / e->n_groups;
    float best = -INFINITY, second = -INFINITY;
    for (size_t i = group * n; i < (group + 1) * n; i++) {
        float m = merit(e, p, i);
        if (m > best) second = best, best = m;
        else if (m > second) second = m;
    }
    return e->gating == CT_GATE_SIGMOID && n > 1 ? best + second : best;
}

static bool taken(const uint32_t *chosen, size_t n, size_t i)
{
    for (size_t j = 0; j < n; j++)
        if (chosen[j] == i) return true;
    return false;
}

/* The n largest of count values, largest first, the first of equals first. NaN is never larger; then the first that is left is taken. */
static void choose(const float *values, size_t count, size_t n, uint32_t *chosen)
{
    for (size_t j = 0; j < n; j++) {
        size_t best = count;
        for (size_t i = 0; i < count; i++)
            if (!taken(chosen, j, i) && (best == count || values[i] > values[best])) best = i;
        chosen[j] = (uint32_t)best;
    }
}

static void route_token(const job *j, size_t t)
{
    const ct_experts *e = j->e;
    const ct_kernels *k = j->exec->k;
    float *p = j->room->scores + t * e->n_experts, *w = j->room->weights + t * e->n_used, merits[1024], sum = 0.0f;
    uint32_t *chosen = j->room->chosen + t * e->n_used, groups[1024];
    to_probabilities(k, e, p);
    for (size_t i = 0; i < e->n_experts; i++) merits[i] = merit(e, p, i);
    if (e->n_groups > 1) {
        float offers[1024];
        for (size_t g = 0; g < e->n_groups; g++) offers[g] = group_merit(e, p, g);
        choose(offers, e->n_groups, e->n_groups_used, groups);
        for (size_t i = 0; i < e->n_experts; i++)
            if (!taken(groups, e->n_groups_used, i / (e->n_experts / e->n_groups))) merits[i] = -INFINITY;
    }
    choose(merits, e->n_experts, e->n_used, chosen);
    for (size_t i = 0; i < e->n_used; i++) w[i] = p[chosen[i]];
    if (e->gating == CT_GATE_SOFTMAX_CHOSEN) {
        float max, weighted;
        (void)k->max_index(w, e->n_used, &max);
        k->softmax_stats(w, e->n_used, max, &sum, &weighted);
        for (size_t i = 0; i < e->n_used; i++) w[i] = ct_exp_of(k, w[i] - max) / sum;
    } else if (e->normalise) {
        for (size_t i = 0; i < e->n_used; i++) sum += w[i];
        if (sum < 0x1p-14f) sum = 0x1p-14f;
        for (size_t i = 0; i < e->n_used; i++) w[i] /= sum;
    }
    for (size_t i = 0; i < e->n_used; i++) w[i] *= e->scale;
}

static void route_tile(void *ctx, size_t tile, int thread)
{
    (void)thread;
    route_token(ctx, tile);
}

/* Counting sort of the pairs by expert. */
static void sort_pairs(const job *j)
{
    size_t n_pairs = j->input->n_tok * j->e->n_used, n = j->e->n_experts;
    uint32_t *first = j->room->first;
    memset(first, 0, (n + 1) * sizeof *first);
    for (size_t i = 0; i < n_pairs; i++) first[j->room->chosen[i] + 1]++;
    for (size_t e = 0; e < n; e++) first[e + 1] += first[e];
    for (size_t i = 0; i < n_pairs; i++) j->room->place[i] = first[j->room->chosen[i]]++;
    for (size_t e = n; e > 0; e--) first[e] = first[e - 1];
    first[0] = 0;
}

/* ---- rows ---- */

static bool is_integer(const ct_matrix *w) { return w->info->decode_codes != NULL; }

/* The inputs of a token's pairs, in their places. */
static void gather_tile(void *ctx, size_t t, int thread)
{
    const job *j = ctx;
    (void)thread;
    for (size_t i = t * j->e->n_used; i < (t + 1) * j->e->n_used; i++) {
        size_t row = j->room->place[i];
        if (is_integer(j->e->gate) || is_integer(j->e->up))
            memcpy(j->room->act + row * j->act_stride, j->input->act + t * j->act_stride, j->act_stride);
        if (!is_integer(j->e->gate) || !is_integer(j->e->up)) memcpy(j->room->x + row * j->d, j->input->x + t * j->d, j->d * sizeof(float));
    }
}

static void combine_tile(void *ctx, size_t t, int thread)
{
    const job *j = ctx;
    (void)thread;
    float *restrict y = j->y + t * j->d;
    for (size_t i = 0; i < j->e->n_used; i++) {
        const float *restrict from = j->room->out + j->room->place[t * j->e->n_used + i] * j->d;
        float w = j->room->weights[t * j->e->n_used + i];
        for (size_t c = 0; c < j->d; c++) y[c] = (i == 0 ? 0.0f : y[c]) + w * from[c];
    }
}

/* The experts that some token chose, each with its rows. */
static size_t add_groups(const job *j, size_t n, const ct_matrix *all, const float *x, const uint8_t *act, size_t n_cols, float *y, bool one_input)
{
    size_t act_stride = j->exec->k->act_bytes(n_cols);
    for (size_t e = 0; e < j->e->n_experts; e++) {
        size_t row = j->room->first[e], n_rows = j->room->first[e + 1] - row, from = one_input ? 0 : row;
        if (n_rows == 0) continue;
        j->room->views[n] = ct_matrix_part(all, e);
        j->room->groups[n] = (ct_group){.w = &j->room->views[n], .x = x + from * n_cols, .act = act + from * act_stride, .n_tok = n_rows,
                                        .y = y + row * all->n_rows};
        n++;
    }
    return n;
}

void ct_experts_run(const ct_exec *exec, const ct_experts *e, const ct_experts_room *room, ct_input *input, float *y)
{
    job j = {.exec = exec, .e = e, .room = room, .input = input, .y = y, .act_stride = exec->k->act_bytes(input->n_cols), .d = input->n_cols};
    size_t n_tok = input->n_tok, n_pairs = n_tok * e->n_used;
    if (n_tok == 0) return;
    ct_linear(exec, input, (ct_product[]){{e->router, room->scores}}, 1);
    ct_pool_run(exec->pool, route_tile, &j, n_tok);
    sort_pairs(&j);
    if (!input->quantised && (is_integer(e->gate) || is_integer(e->up))) {
        ct_quantise_rows(exec, input->act, input->x, n_tok, input->n_cols);
        input->quantised = true;
    }
    bool single = n_tok == 1;
    if (!single) ct_pool_run(exec->pool, gather_tile, &j, n_tok);
    const float *x = single ? input->x : room->x;
    const uint8_t *act = single ? input->act : room->act;
    size_t n = add_groups(&j, 0, e->gate, x, act, j.d, room->gate, single);
    n = add_groups(&j, n, e->up, x, act, j.d, room->up, single);
    ct_linear_groups(exec, room->groups, n);
    ct_activate(exec, e->act, room->gate, room->up, n_pairs, e->n_ff);
    if (is_integer(e->down)) ct_quantise_rows(exec, room->act, room->gate, n_pairs, e->n_ff);
    n = add_groups(&j, 0, e->down, room->gate, room->act, e->n_ff, room->out, false);
    ct_linear_groups(exec, room->groups, n);
    ct_pool_run(exec->pool, combine_tile, &j, n_tok);
}
