/* streams.h: several residual streams, of which one goes through every layer while the others follow it: alternating updates
 * (Baykal et al. 2023, arXiv:2301.13310).
 *
 * Before a layer every stream is predicted as a mixture of all of them; the active one goes through the layer, and what that
 * changed corrects all of them. The weights of both mixtures depend on the token: tanh of a router's scores times a small matrix. */
#ifndef CT_STREAMS_H
#define CT_STREAMS_H

#include "nn/nn.h"

enum { CT_MAX_STREAMS = 8 };

typedef struct ct_streams {
    size_t n, active, d;   /* 2 … CT_MAX_STREAMS; the active one < n; length of a stream */
    ct_matrix first, last; /* [n - 1][d, d]: what makes the other streams of the first one, and what comes before their mean */
} ct_streams;

/* The weights of one layer. */
typedef struct ct_stream_mix {
    ct_norm router_norm;   /* [d] */
    ct_matrix router;      /* [n, d] */
    const float *predict;  /* [n, n, n]: what router score m adds to the share of stream k in stream j, at [j][k][m] */
    const float *correct;  /* [n, n]: what router score m adds to the correction of stream j, at [j][m] */
    const float *scale;    /* [d] multiplies the active stream where it leaves the layer for its input gate */
} ct_stream_mix;

/* Room for the streams of n_tok tokens. */
typedef struct ct_streams_room {
    float *all;     /* [n_tok, n, d] */
    float *h, *y;   /* [n_tok, d] */
    float *scores;  /* [n_tok, n] */
    uint8_t *act;   /* [n_tok, act_bytes(d)] */
} ct_streams_room;

/* False when memory is short; *n_bytes grows by what was taken. */
bool ct_streams_room_init(ct_streams_room *room, const ct_kernels *k, size_t n_tok, size_t n, size_t d, size_t *n_bytes);
void ct_streams_room_free(ct_streams_room *room);

/* All streams of the first one, x [n_tok, d]: each as long as x. */
void ct_streams_begin(const ct_exec *exec, const ct_streams *s, const ct_streams_room *room, const float *x, size_t n_tok);

/* Predicts; x [n_tok, d] = the active stream. */
void ct_streams_predict(const ct_exec *exec, const ct_streams *s, const ct_stream_mix *mix, const ct_streams_room *room, float *x,
                        size_t n_tok);

/* Corrects by x [n_tok, d], what the layer made of the active stream; y [n_tok, d] = the active stream * mix->scale. */
void ct_streams_correct(const ct_exec *exec, const ct_streams *s, const ct_stream_mix *mix, const ct_streams_room *room,
                        const float *x, float *y, size_t n_tok);

/* Adds y [n_tok, d] to all streams but the first. */
void ct_streams_add(const ct_exec *exec, const ct_streams *s, const ct_streams_room *room, const float *y, size_t n_tok);

/* x [n_tok, d] = the mean of the streams, each as long as the first. */
void ct_streams_end(const ct_exec *exec, const ct_streams *s, const ct_streams_room *room, float *x, size_t n_tok);

#endif
