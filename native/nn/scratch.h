/* scratch.h: how the layers share a thread's scratch, and small things that several of them need. Private to nn/. */
#ifndef CT_NN_SCRATCH_H
#define CT_NN_SCRATCH_H

#include "nn/nn.h"

enum { CT_FLOAT_PANEL_ROWS = 16 }; /* rows of F16/BF16 weights converted at a time */

size_t ct_scratch_linear_bytes(const ct_kernels *k, size_t max_cols);
size_t ct_scratch_attention_bytes(size_t max_d_head);

static inline uint8_t *ct_thread_scratch(const ct_exec *exec, int thread)
{
    return exec->scratch + (size_t)thread * exec->scratch_bytes;
}

/* exp as kernels.h defines it, of one number. */
static inline float ct_exp_of(const ct_kernels *k, float x)
{
    float e, weighted;
    k->softmax_stats(&x, 1, 0.0f, &e, &weighted);
    return e;
}

#endif
