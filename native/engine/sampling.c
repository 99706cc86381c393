/* sampling.c: log-probabilities, penalties, truncation and the draw. */
#include "engine/sampling.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DRAW_BLOCK = 1024, BEST_BLOCK = 4096 };

typedef struct candidate {
    float score; /* after temperature, relative to the best: <= 0 */
    int32_t id;
    double p; /* exp(score) */
} candidate;

struct ct_sampler {
    cactus_sampling s; /* pointers replaced by copies */
    int32_t n_vocab;
    int32_t *bias_ids;
    float *bias_values;
    int32_t *end_ids;
    size_t n_end;
    uint64_t rng[4];
    uint16_t *counts;       /* [n_vocab] occurrences in the look-back window; NULL without penalties */
    float *adjusted;        /* [n_vocab] scores after penalties, bias and mask; NULL when there are none */
    bool always;            /* also without a mask */
    candidate *candidates;  /* [n_vocab]; NULL when greedy, like the next two */
    float *scaled;          /* [n_vocab] (score - best) / temperature */
    float *block_sums;      /* [n_vocab/DRAW_BLOCK, rounded up] */
};

/* ---- random numbers: xoshiro256** seeded by SplitMix64 (Blackman & Vigna 2018) ---- */

static uint64_t splitmix(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t rotate(uint64_t x, int n) { return (x << n) | (x >> (64 - n)); }

/* Uniform in [0, 1). */
static double uniform(uint64_t r[4])
{
    uint64_t result = rotate(r[1] * 5, 7) * 9, t = r[1] << 17;
    r[2] ^= r[0];
    r[3] ^= r[1];
    r[1] ^= r[2];
    r[0] ^= r[3];
    r[2] ^= t;
    r[3] = rotate(r[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

/* ---- parameters ---- */

static bool outside(float value, float min, float max) { return !(value >= min && value <= max); } /* true for NaN */

static cactus_status check(const cactus_sampling *s, int32_t n_vocab, cactus_error *err)
{
    if (s->struct_size != sizeof *s) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "sampling.struct_size is %u, not %zu", s->struct_size, sizeof *s);
    if (outside(s->temperature, 0.0f, 100.0f))
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "temperature is %g; it must lie between 0 and 100", (double)s->temperature);
    if (s->top_k < 0) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "top_k is %d; it must be at least 0 (0: off)", s->top_k);
    if (outside(s->top_p, 1e-9f, 1.0f)) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "top_p is %g; it must lie in (0, 1]", (double)s->top_p);
    if (outside(s->min_p, 0.0f, 1.0f)) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "min_p is %g; it must lie in [0, 1]", (double)s->min_p);
    if (outside(s->repetition_penalty, 1e-3f, 1e3f))
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "repetition_penalty is %g; it must be positive (1: off)", (double)s->repetition_penalty);
    if (outside(s->presence_penalty, -2.0f, 2.0f))
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "presence_penalty is %g; it must lie between -2 and 2", (double)s->presence_penalty);
    if (outside(s->frequency_penalty, -2.0f, 2.0f))
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "frequency_penalty is %g; it must lie between -2 and 2", (double)s->frequency_penalty);
    if (s->penalty_last_n < -1) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "penalty_last_n is %d; it must be at least -1", s->penalty_last_n);
    if (s->n_top_logprobs < 0 || s->n_top_logprobs > CT_MAX_TOP_LOGPROBS)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "top_logprobs is %d; it must lie between 0 and %d", s->n_top_logprobs, CT_MAX_TOP_LOGPROBS);
    if (s->n_bias > 0 && (s->bias_ids == NULL || s->bias_values == NULL))
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "logit_bias has %zu entries but no arrays", s->n_bias);
    for (size_t i = 0; i < s->n_bias; i++) {
        if (s->bias_ids[i] < 0 || s->bias_ids[i] >= n_vocab)
            return ct_fail(err, CACTUS_ERROR_ARGUMENT, "logit_bias names token %d; the vocabulary has %d", s->bias_ids[i], n_vocab);
        if (outside(s->bias_values[i], -1e6f, 1e6f))
            return ct_fail(err, CACTUS_ERROR_ARGUMENT, "logit_bias of token %d is %g, not a usable number", s->bias_ids[i], (double)s->bias_values[i]);
    }
    return CACTUS_OK;
}

static bool has_penalties(const cactus_sampling *s)
{
    return s->penalty_last_n != 0 && (s->repetition_penalty != 1.0f || s->presence_penalty != 0.0f || s->frequency_penalty != 0.0f);
}

cactus_status ct_sampler_create(const cactus_sampling *sampling, int32_t n_vocab, const int32_t *end_ids, size_t n_end, bool masked,
                                ct_sampler **out, cactus_error *err)
{
    *out = NULL;
    cactus_status status = check(sampling, n_vocab, err);
    if (status != CACTUS_OK) return status;
    ct_sampler *s = ct_alloc(1, sizeof *s);
    if (s == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for a sampler");
    s->s = *sampling;
    s->n_vocab = n_vocab;
    s->n_end = n_end;
    bool greedy = sampling->temperature == 0.0f, penalties = has_penalties(sampling);
    bool adjusts = masked || penalties || sampling->n_bias > 0 || sampling->ignore_eos;
    s->bias_ids = ct_alloc(sampling->n_bias + 1, sizeof *s->bias_ids);
    s->bias_values = ct_alloc(sampling->n_bias + 1, sizeof *s->bias_values);
    s->end_ids = ct_alloc(n_end + 1, sizeof *s->end_ids);
    s->always = penalties || sampling->n_bias > 0 || sampling->ignore_eos;
    if (penalties) s->counts = ct_alloc((size_t)n_vocab, sizeof *s->counts);
    if (adjusts) s->adjusted = ct_alloc((size_t)n_vocab, sizeof *s->adjusted);
    if (!greedy) {
        s->candidates = ct_alloc((size_t)n_vocab, sizeof *s->candidates);
        s->scaled = ct_alloc((size_t)n_vocab, sizeof *s->scaled);
        s->block_sums = ct_alloc((size_t)n_vocab / DRAW_BLOCK + 1, sizeof *s->block_sums);
    }
    if (!s->bias_ids || !s->bias_values || !s->end_ids || (penalties && !s->counts) || (adjusts && !s->adjusted) || (!greedy && (!s->candidates || !s->scaled || !s->block_sums))) {
        ct_sampler_free(s);
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for a sampler");
    }
    for (size_t i = 0; i < sampling->n_bias; i++) s->bias_ids[i] = sampling->bias_ids[i], s->bias_values[i] = sampling->bias_values[i];
    for (size_t i = 0; i < n_end; i++) s->end_ids[i] = end_ids[i];
    s->s.bias_ids = NULL;
    s->s.bias_values = NULL;
    uint64_t seed = sampling->seed;
    for (size_t i = 0; i < 4; i++) s->rng[i] = splitmix(&seed);
    *out = s;
    return CACTUS_OK;
}

void ct_sampler_free(ct_sampler *s)
{
    if (s == NULL) return;
    ct_free(s->bias_ids);
    ct_free(s->bias_values);
    ct_free(s->end_ids);
    ct_free(s->counts);
    ct_free(s->adjusted);
    ct_free(s->candidates);
    ct_free(s->scaled);
    ct_free(s->block_sums);
    ct_free(s);
}

/* ---- scores ---- */

static void apply_penalties(ct_sampler *s, float *logits, const int32_t *history, size_t n_history)
{
    size_t n = s->s.penalty_last_n < 0 ? n_history : ct_min_size((size_t)s->s.penalty_last_n, n_history);
    const int32_t *recent = history + (n_history - n);
    for (size_t i = 0; i < n; i++)
        if (s->counts[recent[i]] < UINT16_MAX) s->counts[recent[i]]++;
    for (size_t i = 0; i < n; i++) {
        int32_t id = recent[i];
        if (s->counts[id] == 0) continue; /* done at its first occurrence */
        float x = logits[id];
        x = x > 0.0f ? x / s->s.repetition_penalty : x * s->s.repetition_penalty;
        logits[id] = x - (float)s->counts[id] * s->s.frequency_penalty - s->s.presence_penalty;
        s->counts[id] = 0;
    }
}

static void apply_mask(float *scores, int32_t n_vocab, const uint32_t *mask)
{
    for (int32_t first = 0; first < n_vocab; first += 32) {
        uint32_t word = mask[first / 32];
        int32_t n = n_vocab - first < 32 ? n_vocab - first : 32;
        if (word == UINT32_MAX) continue;
        for (int32_t i = 0; i < n; i++)
            if (!(word >> i & 1)) scores[first + i] = -INFINITY;
    }
}

/* The first index of the largest score, and the largest of the others. Block by block, so that what is read again is still near. */
static size_t find_two_best(const ct_kernels *k, const float *x, size_t n, float *max, float *second)
{
    size_t best = 0;
    float here;
    *max = *second = -INFINITY;
    for (size_t first = 0; first < n; first += BEST_BLOCK) {
        size_t at = k->max_index(x + first, ct_min_size(BEST_BLOCK, n - first), &here);
        if (here > *max) *second = *max, *max = here, best = first + at;
        else *second = fmaxf(*second, here);
    }
    size_t first = best - best % BEST_BLOCK, end = ct_min_size(first + BEST_BLOCK, n);
    if (best > first) {
        k->max_index(x + first, best - first, &here);
        *second = fmaxf(*second, here);
    }
    if (best + 1 < end) {
        k->max_index(x + best + 1, end - best - 1, &here);
        *second = fmaxf(*second, here);
    }
    return best;
}

/* The n best of the scores, best first, ties to the lower id. n is small. */
static void find_top(const float *logits, int32_t n_vocab, int32_t n, int32_t *ids)
{
    int32_t have = 0;
    for (int32_t id = 0; id < n_vocab; id++) {
        if (have == n && !(logits[id] > logits[ids[n - 1]])) continue;
        int32_t at = have < n ? have++ : n - 1;
        while (at > 0 && logits[id] > logits[ids[at - 1]]) ids[at] = ids[at - 1], at--;
        ids[at] = id;
    }
}

static int by_score(const void *pa, const void *pb)
{
    const candidate *a = pa, *b = pb;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

/* Candidates whose score is at least `least`; returns their number and the sum of their weights. */
static size_t collect(ct_sampler *s, float least, double *sum)
{
    size_t n = 0;
    *sum = 0.0;
    for (int32_t id = 0; id < s->n_vocab; id++) {
        if (!(s->scaled[id] >= least)) continue;
        candidate c = {s->scaled[id], id, exp((double)s->scaled[id])};
        s->candidates[n++] = c;
        *sum += c.p;
    }
    return n;
}

/* Walks weights until `at` is used up. */
static int32_t pick(const candidate *c, size_t n, double at)
{
    size_t last = 0;
    for (size_t i = 0; i < n; i++) {
        last = i;
        at -= c[i].p;
        if (at < 0.0) break;
    }
    return c[last].id;
}

/* The whole distribution: block sums find the block, then its tokens are walked. */
static int32_t draw_any(ct_sampler *s, const ct_kernels *k)
{
    size_t n_vocab = (size_t)s->n_vocab, n_blocks = (n_vocab + DRAW_BLOCK - 1) / DRAW_BLOCK, block = 0;
    double total = 0.0;
    for (size_t b = 0; b < n_blocks; b++) {
        float weighted;
        k->softmax_stats(s->scaled + b * DRAW_BLOCK, ct_min_size(DRAW_BLOCK, n_vocab - b * DRAW_BLOCK), 0.0f, &s->block_sums[b], &weighted);
        total += (double)s->block_sums[b];
    }
    double at = uniform(s->rng) * total;
    while (block + 1 < n_blocks && at >= (double)s->block_sums[block]) at -= (double)s->block_sums[block++];
    size_t last = n_vocab;
    for (size_t id = block * DRAW_BLOCK; id < ct_min_size((block + 1) * DRAW_BLOCK, n_vocab); id++) {
        double p = exp((double)s->scaled[id]);
        if (!(p > 0.0)) continue;
        last = id;
        at -= p;
        if (at < 0.0) break;
    }
    return last < n_vocab ? (int32_t)last : (int32_t)k->max_index(s->scaled, n_vocab, &(float){0});
}

/* Draws from softmax(logits / temperature), truncated. Only candidates near the best are ever sorted: the bound is lowered until
 * they are enough. Below -60 a token weighs less than 1e-26 of the best and is left out of a truncated draw. */
static int32_t draw(ct_sampler *s, const ct_kernels *k, const float *logits, float max)
{
    static const float bounds[] = {-3.0f, -6.0f, -12.0f, -24.0f, -60.0f};
    bool top_k = s->s.top_k > 0 && s->s.top_k < s->n_vocab, top_p = s->s.top_p < 1.0f, min_p = s->s.min_p > 0.0f;
    for (int32_t id = 0; id < s->n_vocab; id++) s->scaled[id] = (logits[id] - max) / s->s.temperature;
    if (!top_k && !top_p && !min_p) return draw_any(s, k);

    double all = 0.0, sum = 0.0;
    size_t n = 0;
    if (top_p && !top_k) {
        float z, weighted;
        k->softmax_stats(s->scaled, (size_t)s->n_vocab, 0.0f, &z, &weighted);
        all = (double)z;
    }
    if (top_k || top_p)
        for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++) {
            n = collect(s, bounds[i], &sum);
            if (top_k ? n >= (size_t)s->s.top_k : sum >= (double)s->s.top_p * all) break;
        }
    else n = collect(s, logf(s->s.min_p), &sum);

    candidate *c = s->candidates;
    if (top_k || top_p) qsort(c, n, sizeof *c, by_score);
    if (top_k && n > (size_t)s->s.top_k) n = (size_t)s->s.top_k;
    if (top_k) {
        all = 0.0;
        for (size_t i = 0; i < n; i++) all += c[i].p;
    }
    if (top_p) { /* the smallest set of the best that holds top_p of the weight */
        double wanted = (double)s->s.top_p * all, have = 0.0;
        size_t keep = 0;
        while (keep < n && have < wanted) have += c[keep++].p;
        n = keep > 0 ? keep : 1;
    }
    if (min_p) {
        float least = logf(s->s.min_p);
        size_t keep = 0;
        for (size_t i = 0; i < n; i++)
            if (c[i].score >= least) c[keep++] = c[i];
        n = keep > 0 ? keep : 1;
    }
    double total = 0.0;
    for (size_t i = 0; i < n; i++) total += c[i].p;
    return pick(c, n, uniform(s->rng) * total);
}

bool ct_sampler_choose(ct_sampler *s, const ct_kernels *k, const float *logits, const int32_t *history, size_t n_history,
                       const uint32_t *mask, ct_choice *choice)
{
    size_t n_vocab = (size_t)s->n_vocab;
    float max, second, sum, weighted;
    size_t best = find_two_best(k, logits, n_vocab, &max, &second);
    if (!isfinite(max)) return false;
    k->softmax_stats(logits, n_vocab, max, &sum, &weighted);
    double log_z = (double)max + log((double)sum), entropy = log((double)sum) - (double)weighted / (double)sum;
    choice->entropy = entropy > 0.0 ? (float)entropy : 0.0f;
    choice->margin = n_vocab > 1 ? max - second : 0.0f;
    choice->n_top = s->s.n_top_logprobs < s->n_vocab ? s->s.n_top_logprobs : s->n_vocab;
    if (choice->n_top > 0) find_top(logits, s->n_vocab, choice->n_top, choice->top_ids);
    for (int32_t i = 0; i < choice->n_top; i++)
        choice->top_logprobs[i] = (float)((double)logits[choice->top_ids[i]] - log_z);

    const float *scores = logits;
    if (s->always || (mask != NULL && s->adjusted != NULL)) {
        memcpy(s->adjusted, logits, n_vocab * sizeof *logits);
        if (s->counts != NULL) apply_penalties(s, s->adjusted, history, n_history);
        for (size_t i = 0; i < s->s.n_bias; i++) s->adjusted[s->bias_ids[i]] += s->bias_values[i];
        for (size_t i = 0; s->s.ignore_eos && i < s->n_end; i++) s->adjusted[s->end_ids[i]] = -INFINITY;
        if (mask != NULL) apply_mask(s->adjusted, s->n_vocab, mask);
        scores = s->adjusted;
        best = k->max_index(scores, n_vocab, &max);
        if (!isfinite(max)) return false;
    }
    choice->id = s->candidates == NULL ? (int32_t)best : draw(s, k, scores, max);
    choice->logprob = (float)((double)logits[choice->id] - log_z);
    return true;
}
