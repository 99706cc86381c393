/* engine.h: what the files of the engine share. engine.c makes it and takes requests, scheduler.c computes them, work.c is what else
 * runs in the scheduler's thread, embed.c the embeddings there, prefix_file.c keeps prefixes on disk. */
#ifndef CT_ENGINE_H
#define CT_ENGINE_H

#include "engine/kv.h"
#include "engine/prefix.h"
#include "engine/request.h"
#include "models/decoder.h"
#include "models/encoder.h"

enum {
    CT_MAX_RUNNING = 64,
    CT_QUICK_BATCH = 128 /* rows of the quick lane: drafts, next tokens, short prompts */
};
_Static_assert((int)CT_MAX_DRAFT_ROWS <= (int)CT_MAX_RUNNING, "the rows of a step with drafts all have scores");
_Static_assert((int)CT_QUICK_BATCH >= (int)CT_MAX_RUNNING, "each running request has a row");

/* Work for the scheduler's thread between two steps. */
typedef struct ct_work {
    void (*run)(cactus_engine *engine, struct ct_work *work);
    size_t n_pages;       /* it takes at most so many for itself and computes; 0: neither, so that it need not wait for others */
    cactus_error error; /* code 0: it succeeded */
    bool done;
    struct ct_work *next;
} ct_work;

/* A batch that is computed, and whose rows it holds. */
typedef struct ct_lane {
    ct_decoder *decoder;
    size_t capacity; /* rows */
    bool busy;       /* a batch is between two of its layers */
    ct_batch batch;
    int32_t *tokens; /* [capacity] */
    ct_run runs[CT_MAX_RUNNING];
    uint32_t outputs[CT_MAX_RUNNING];
    float *logits;   /* [CT_MAX_RUNNING, n_vocab], touched as used */
    cactus_request *members[CT_MAX_RUNNING];
    size_t n_members;
} ct_lane;

/* Since the engine was made; read from any thread. */
typedef struct ct_totals {
    _Atomic uint64_t n_prompt, n_cached, n_generated, n_drafted, n_accepted, n_preempted, n_evicted;
} ct_totals;

struct cactus_engine {
    const cactus_model *model;
    ct_encoder *encoder;    /* of a model that is one; its decoder computes nothing then */
    ct_kv_pool kv;
    ct_kv_pool states;      /* a page is the recurrent state of a sequence; no pages where the model has none */
    size_t n_context, n_batch;
    cactus_kv_type kv_type; /* not AUTO */
    int32_t max_waiting;    /* 0: no bound */
    bool shares;            /* prefixes */
    pthread_t thread;
    ct_totals totals;
    atomic_bool attention;  /* something came from outside since the last look */

    pthread_mutex_t mutex;  /* guards what follows, down to the scheduler's own. May be taken while a request's is held, not before it */
    pthread_cond_t wake, work_done;
    bool stop;
    cactus_request *waiting, **waiting_end;
    ct_work *work, **work_end;
    int32_t n_waiting, n_running, n_callers;

    /* the scheduler's own */
    ct_prefix_index prefixes;
    cactus_request *running[CT_MAX_RUNNING]; /* oldest first */
    ct_lane quick, prompts;
    ct_choice choices[CT_MAX_RUNNING];
    bool chosen[CT_MAX_RUNNING];
    cactus_request *choosers[CT_MAX_RUNNING];
    bool owes_token;        /* work made a request give way: no other does before some request got a token, ended, or can do nothing */
    size_t n_held;          /* pages that savers of prefixes hold; more than once those that several do */
    uint32_t *all_rows;     /* [n_batch] 0, 1, 2, … */
    int32_t *end_ids;       /* [n_end] */
    size_t n_end;
    size_t logits_bytes;    /* of a lane */
};

/* scheduler.c */
void *ct_scheduler_main(void *engine);

/* A page for keys and values: a free one, else that of the least recently used prefix, else one of a request that gives way (as long as
 * there is one between two batches). NULL: none. For work. */
uint8_t *ct_take_page_for_work(cactus_engine *engine);

/* The first n_keep tokens and the newest quarters of the rest of the context stay, and are read again. */
void ct_shift_request(cactus_engine *engine, cactus_request *request, size_t room_quarters);

/* Whether n_tokens are more than the model's context before its extension, where that changes how positions are told. */
bool ct_beyond_context(const cactus_engine *engine, size_t n_tokens);

/* Tells the scheduler to look. From any thread that does not hold the engine's mutex. */
void ct_engine_wake(cactus_engine *engine);

/* embed.c. Errors: UNSUPPORTED for a model that generates nothing. */
cactus_status ct_check_generates(const cactus_engine *engine, cactus_error *err);

/* work.c: waits until the scheduler has done it. Errors: those of the work; CANCELLED when the engine is closed. */
cactus_status ct_work_submit(cactus_engine *engine, ct_work *work, cactus_error *err);

/* Around a call that submits work more than once: the engine is not freed before it is left. */
void ct_engine_enter(cactus_engine *engine);
void ct_engine_leave(cactus_engine *engine);

#endif
