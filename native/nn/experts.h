/* experts.h: a feed-forward network that is a mixture of experts (Shazeer et al. 2017, arXiv:1701.06538). */
#ifndef CT_EXPERTS_H
#define CT_EXPERTS_H

#include "nn/nn.h"

typedef enum ct_gating { /* a token's probabilities over the experts */
    CT_GATE_SOFTMAX = 1,
    CT_GATE_SIGMOID = 2,
    CT_GATE_SOFTMAX_CHOSEN = 3 /* softmax over the scores of the chosen ones only */
} ct_gating;

typedef struct ct_experts {
    const ct_matrix *router;     /* [n_experts, d] */
    const float *router_bias;    /* [n_experts], added to the probabilities where experts are chosen; or NULL */
    const ct_matrix *gate, *up;  /* [n_experts][n_ff, d] */
    const ct_matrix *down;       /* [n_experts][d, n_ff] */
    size_t n_experts, n_used, n_ff;
    size_t n_groups, n_groups_used; /* experts are chosen from the best groups of neighbours; n_groups < 2: from all */
    ct_gating gating;
    bool normalise;              /* the chosen ones' weights are divided by their sum */
    float scale;                 /* and multiplied by this */
    ct_activation act;
} ct_experts;

/* Room for n_tok tokens through a mixture. A pair is a token with one of its experts. */
typedef struct ct_experts_room {
    float *scores;     /* [n_tok, n_experts] */
    float *weights;    /* [n_pairs] */
    uint32_t *chosen;  /* [n_pairs] experts, best first */
    uint32_t *place;   /* [n_pairs] row of the pair when sorted by expert */
    uint32_t *first;   /* [n_experts + 1] first row of an expert */
    float *x;          /* [n_pairs, d] */
    uint8_t *act;      /* [n_pairs, act_bytes(max(d, n_ff))] */
    float *gate, *up;  /* [n_pairs, n_ff] */
    float *out;        /* [n_pairs, d] */
    ct_group *groups;  /* [2*n_experts] */
    ct_matrix *views;  /* [2*n_experts] */
} ct_experts_room;

/* False when memory is short; *n_bytes grows by what was taken. */
bool ct_experts_room_init(ct_experts_room *room, const ct_kernels *k, size_t n_tok, size_t n_experts, size_t n_used, size_t d, size_t n_ff,
                          size_t *n_bytes);
void ct_experts_room_free(ct_experts_room *room);

/* y [n_tok, d] = weighted sum of the chosen experts' outputs, best expert first. input as for ct_linear. Each expert's weights are
 * read once for all the tokens that chose it. */
void ct_experts_run(const ct_exec *exec, const ct_experts *e, const ct_experts_room *room, ct_input *input, float *y);

#endif
