/* lookup.c: see lookup.h. The figures come from greedy and sampled answers of a small model to requests to edit, to summarise and to
 * write freely: docs/performance.md. */
#include "engine/lookup.h"

#include <string.h>

enum {
    RUN = 3,           /* tokens that must agree */
    LONG_RUN = 5,      /* as far back as it is looked; so many agree more reliably than fewer */
    MAX_CANDIDATES = 4 /* places compared, newest first */
};

/* Time of a step with n rows, in steps of one row: 1 for one, else FIRST_COST + n * ROW_COST. */
static const float FIRST_COST = 1.28f, ROW_COST = 0.12f;

static const float HIT_RATES[] = {0.45f, 0.65f}; /* before anything is known */
static const float MAX_HIT_RATE = 0.97f, LEARNING_RATE = 0.125f;

bool ct_lookup_init(ct_lookup *l, size_t capacity)
{
    *l = (ct_lookup){.capacity = capacity, .n_slots = 64};
    if (capacity >= UINT32_MAX) return false;
    while (l->n_slots < capacity) l->n_slots *= 2;
    l->newest = ct_alloc(l->n_slots, sizeof *l->newest);
    l->earlier = ct_alloc(capacity + 1, sizeof *l->earlier);
    memcpy(l->hit_rate, HIT_RATES, sizeof l->hit_rate);
    return l->newest != NULL && l->earlier != NULL;
}

void ct_lookup_free(ct_lookup *l)
{
    ct_free(l->newest);
    ct_free(l->earlier);
    *l = (ct_lookup){0};
}

void ct_lookup_reset(ct_lookup *l)
{
    if (l->newest != NULL) memset(l->newest, 0, l->n_slots * sizeof *l->newest);
    l->n_indexed = 0;
    l->said_at = 0;
}

/* The slot of the run that ends before tokens[end]. */
static uint32_t *slot_of(const ct_lookup *l, const int32_t *tokens, size_t end)
{
    uint64_t hash = 0;
    for (size_t i = end - RUN; i < end; i++) hash = (hash ^ (uint32_t)tokens[i]) * 0x9E3779B97F4A7C15u;
    return &l->newest[(hash >> 32) & (l->n_slots - 1)];
}

/* Enters every run that has a successor. */
static void index_runs(ct_lookup *l, const int32_t *tokens, size_t n_tokens)
{
    for (size_t end = l->n_indexed < RUN ? RUN : l->n_indexed + 1; end < n_tokens; end++) {
        uint32_t *slot = slot_of(l, tokens, end);
        l->earlier[end] = *slot;
        *slot = (uint32_t)end;
        l->n_indexed = end;
    }
}

/* Number of tokens before a and before b that agree, up to LONG_RUN; a < b. */
static size_t agreement(const int32_t *tokens, size_t a, size_t b)
{
    size_t n = 0;
    while (n < LONG_RUN && n < a && tokens[a - 1 - n] == tokens[b - 1 - n]) n++;
    return n;
}

/* Compares the last copy with what came instead. */
static void learn(ct_lookup *l, const int32_t *tokens, size_t n_tokens)
{
    float *rate = &l->hit_rate[l->said_class];
    for (size_t i = 0; l->said_at > 0 && i < l->n_said && l->said_at + i < n_tokens; i++) {
        bool hit = tokens[l->said_at + i] == l->said[i];
        *rate += LEARNING_RATE * ((hit ? 1.0f : 0.0f) - *rate);
        if (*rate > MAX_HIT_RATE) *rate = MAX_HIT_RATE;
        if (!hit) break;
    }
    l->said_at = 0;
}

/* The number of drafted tokens that gives the most tokens per time. */
static size_t worthwhile(float rate, size_t n_rows, size_t most)
{
    float gain = (float)n_rows, chance = 1.0f, best = gain / (n_rows == 1 ? 1.0f : FIRST_COST + (float)n_rows * ROW_COST);
    size_t n = 0;
    for (size_t k = 1; k <= most; k++) {
        chance *= rate;
        gain += chance;
        float speed = gain / (FIRST_COST + (float)(n_rows + k) * ROW_COST);
        if (speed > best) best = speed, n = k;
    }
    return n;
}

size_t ct_lookup_draft(ct_lookup *l, const int32_t *tokens, size_t n_tokens, size_t n_rows, size_t most, int32_t *draft)
{
    learn(l, tokens, n_tokens);
    index_runs(l, tokens, n_tokens);
    if (n_tokens < RUN) return 0;

    size_t from = 0, agreed = RUN - 1;
    uint32_t at = *slot_of(l, tokens, n_tokens);
    for (int i = 0; i < MAX_CANDIDATES && at > 0 && agreed < LONG_RUN; i++, at = l->earlier[at]) {
        size_t n = agreement(tokens, at, n_tokens);
        if (n > agreed) agreed = n, from = at;
    }
    if (from == 0) return 0;

    l->said_at = n_tokens;
    l->said_class = agreed >= LONG_RUN;
    size_t n = worthwhile(l->hit_rate[l->said_class], n_rows, ct_min_size(most, CT_MAX_DRAFT));
    l->n_said = n > 0 ? n : 1;
    for (size_t i = 0; i < l->n_said; i++) /* past the end the copy repeats itself */
        l->said[i] = from + i < n_tokens ? tokens[from + i] : l->said[from + i - n_tokens];
    memcpy(draft, l->said, n * sizeof *draft);
    return n;
}
