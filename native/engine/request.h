/* request.h: one generation, between the scheduler that computes it and the consumer that reads its events. */
#ifndef CT_REQUEST_H
#define CT_REQUEST_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/lookup.h"
#include "engine/sampling.h"
#include "engine/text.h"

typedef struct ct_event {
    int32_t id, finish;
    float logprob, entropy, margin;
    int32_t n_top;
    size_t first_top, first_text, n_text; /* in the queue's arrays */
} ct_event;

struct cactus_request {
    atomic_int refs;       /* consumer and scheduler */
    atomic_bool cancelled;

    pthread_mutex_t calling; /* recursive; held around the callback, and by free to end it */
    bool detached;           /* guarded by `calling`: no callback any more */

    /* events, guarded by `mutex` */
    pthread_mutex_t mutex;
    pthread_cond_t ready;
    ct_event *events;
    size_t n_events, next_event, events_capacity;
    int32_t *top_ids;
    float *top_logprobs;
    size_t n_top, top_capacity;
    char *text;
    size_t n_text, text_capacity;
    bool ended;            /* nothing will be added */
    bool only_end;         /* the consumer waits for the end, not for events */
    cactus_engine *engine; /* NULL once ended */
    uint32_t *next_mask;   /* [mask_words] if constrained; allows all if next_is_free */
    size_t mask_words;
    bool mask_ready, next_is_free;
    cactus_error failure;  /* code 0: none; reported after the events */
    cactus_request_stats stats;
    float *pooled;         /* [3, d_model] if it pools its states: of the first token, the sum over stats.n_generated, of the newest one;
                              behind them of the held scores, which is the scheduler's alone; else NULL */
    size_t d_model;

    /* what the consumer holds between two calls */
    int32_t shown_ids[CT_MAX_TOP_LOGPROBS];
    float shown_logprobs[CT_MAX_TOP_LOGPROBS];
    char *shown_text;
    size_t shown_capacity;

    /* the sequence; the scheduler's alone */
    int32_t *tokens;       /* [tokens_capacity] prompt and generated */
    size_t n_tokens, tokens_capacity;
    size_t n_computed;     /* tokens whose keys and values are in the pages */
    uint8_t **pages;       /* [n_pages] */
    size_t n_pages;
    size_t n_indexed;      /* of them, those that are in the index of prefixes */
    bool shares;           /* its prefixes with others */
    bool began;            /* something of it was computed */
    uint8_t *state;        /* recurrent state after n_computed tokens; NULL where there is none */
    bool beyond_context;   /* its keys were made for a sequence longer than the original context */
    uint32_t state_node;   /* where the state of its answer is kept */
    struct ct_lane *lane;  /* that computes it; NULL between two batches */
    size_t chunk, wanted;  /* tokens computed in the current batch, and the most that were of use */
    size_t n_draft;        /* tokens computed after them that may turn out wrong */
    int32_t draft[CT_MAX_DRAFT];
    bool chooses;          /* the batch computes its last token */
    float *scores;         /* [1 + n_draft, n_vocab] */
    const float *states;   /* [1 + n_draft, d_model] that they were made of */
    size_t first_choice, n_choices; /* among the engine's choices, and how many of them count */
    bool constrained, holds; /* waits for masks; `held` has the scores that wait for one */
    float *held;           /* [n_vocab] if constrained */
    uint32_t *mask;        /* of the choice being made, if `masked` */
    bool masked;
    int32_t max_tokens, n_generated, context_policy;
    size_t speculation;    /* most drafted tokens a step; 0: the lookup is not set up */
    ct_lookup lookup;
    size_t n_keep;
    ct_sampler *sampler;
    ct_text assembler;
    cactus_token_callback on_token;
    void *user;
    double submitted_ms, started_ms, first_token_ms, deadline_ms; /* 0: none */
    cactus_request *next;  /* in the waiting list */
};

double ct_now_ms(void);

/* Conditions for waits that end by ct_now_ms, which nobody sets: a changed wall clock neither ends them nor makes them longer. */
void ct_cond_init(pthread_cond_t *cond);
bool ct_cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, double until_ms); /* false: it is later than that */

/* Hands an event to the callback or the queue; choice may be NULL (no token). False when memory is short: the request then fails. */
bool ct_request_emit(cactus_request *request, const ct_choice *choice, cactus_finish finish, const char *text, size_t n_text);

/* Ends the event stream; a failure (may be NULL) is reported after the events. Drops the scheduler's reference. */
void ct_request_end(cactus_request *request, const cactus_error *failure);
void ct_request_unref(cactus_request *request);

#endif
