/* scratch.h: how the layers share a thread's scratch. Private to nn/. */
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

#endif
