/* sampling.h: from the scores of one position to a token and what is known about it. */
#ifndef CT_SAMPLING_H
#define CT_SAMPLING_H

#include "cactus.h"
#include "core/core.h"
#include "kernels/kernels.h"

enum { CT_MAX_TOP_LOGPROBS = 20 };

/* What was chosen, and what the model's own distribution (before temperature, penalties and bias) says. */
typedef struct ct_choice {
    int32_t id;
    float logprob;
    float entropy; /* nats */
    float margin;  /* best minus second best score */
    int32_t n_top;
    int32_t top_ids[CT_MAX_TOP_LOGPROBS];
    float top_logprobs[CT_MAX_TOP_LOGPROBS];
} ct_choice;

typedef struct ct_sampler ct_sampler;

/* Checks and copies the parameters. end_ids [n_end]: tokens that ignore_eos forbids. masked: choices will have masks.
 * Errors: ARGUMENT (names the field), MEMORY. */
cactus_status ct_sampler_create(const cactus_sampling *sampling, int32_t n_vocab, const int32_t *end_ids, size_t n_end, bool masked,
                                ct_sampler **out, cactus_error *err);
void ct_sampler_free(ct_sampler *sampler);

/* Chooses the next token from logits [n_vocab]. history [n_history]: the tokens so far, prompt included. Order: repetition penalty,
 * frequency and presence penalties, bias, the mask, then temperature, top-k, top-p, min-p. Ties go to the lower id.
 * mask [n_vocab / 32, rounded up]: bit i % 32 of word i / 32 allows token i; NULL allows all.
 * False: no score is finite (weights that are damaged, or a bias or mask that forbids every token). */
bool ct_sampler_choose(ct_sampler *sampler, const ct_kernels *k, const float *logits, const int32_t *history, size_t n_history,
                       const uint32_t *mask, ct_choice *choice);

#endif
