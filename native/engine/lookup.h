/* lookup.h: drafts of the tokens to come, copied from where the sequence's newest tokens occurred before in itself. */
#ifndef CT_LOOKUP_H
#define CT_LOOKUP_H

#include "core/core.h"

enum {
    CT_MAX_DRAFT = 16,
    CT_MAX_DRAFT_ROWS = 32 /* no step with more rows than this holds a draft */
};

/* How a sequence is indexed: by each run of three tokens, where it ended last, and from there where it ended before. Of the newest of
 * these places the one that agrees furthest back is copied. How much of it depends on how often copies of that kind came true so far
 * and on what a row more costs a step; a first token that was not worth a draft still counts as a copy when the next one is known. */
typedef struct ct_lookup {
    uint32_t *newest;  /* [n_slots] by hash: tokens up to and with the newest such run; 0: none */
    uint32_t *earlier; /* [capacity + 1] by the same count: the one before; 0: none */
    size_t n_slots, capacity, n_indexed;
    float hit_rate[2]; /* of a drafted token, after a short and a long agreement */
    size_t said_at;    /* length of the sequence at the last copy; 0: nothing to learn from */
    size_t n_said;
    int said_class;
    int32_t said[CT_MAX_DRAFT];
} ct_lookup;

/* For sequences of at most `capacity` tokens. False when memory is short. */
bool ct_lookup_init(ct_lookup *lookup, size_t capacity);
void ct_lookup_free(ct_lookup *lookup);

/* To be called when the sequence changed elsewhere than at its end. */
void ct_lookup_reset(ct_lookup *lookup);

/* What may follow tokens [n_tokens], for a step that computes n_rows >= 1 rows without it: at most `most` <= CT_MAX_DRAFT tokens to
 * draft [most], possibly none. Constant time for each token that is new since the last call. */
size_t ct_lookup_draft(ct_lookup *lookup, const int32_t *tokens, size_t n_tokens, size_t n_rows, size_t most, int32_t *draft);

#endif
