/* exec.c: choosing kernels, starting threads, sizing the scratch of each thread. */
#include <stdlib.h>
#include <string.h>

#include "nn/nn.h"
#include "nn/scratch.h"

enum { ATTENTION_STATES_BYTES = 32 << 20 }; /* of address space, touched as used */

size_t ct_scratch_linear_bytes(const ct_kernels *k, size_t max_cols)
{
    size_t n_sub = max_cols / 16 + 1;
    size_t integer = k->panel_bytes(ct_round_up(max_cols, 32)) + ct_round_up(k->panel_rows * max_cols, 64)
                   + 2 * ct_round_up(k->panel_rows * n_sub * sizeof(float), 64);
    size_t floating = CT_FLOAT_PANEL_ROWS * ct_round_up(max_cols, 16) * sizeof(float);
    return ct_round_up(integer > floating ? integer : floating, 64);
}

cactus_status ct_exec_create(ct_exec *exec, const char *kernels, int n_threads, size_t max_cols, size_t max_d_head, cactus_error *err)
{
    *exec = (ct_exec){.max_cols = max_cols, .max_d_head = max_d_head};
    if (kernels == NULL || kernels[0] == '\0') kernels = getenv("CACTUS_PY_KERNELS");
    exec->k = ct_kernels_get(kernels);
    if (exec->k == NULL)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "no kernel set \"%.40s\" on this CPU; there are: %s", kernels, ct_kernels_available());
    if (n_threads <= 0) n_threads = cactus_default_threads();
    size_t linear = ct_scratch_linear_bytes(exec->k, max_cols), attention = ct_scratch_attention_bytes(max_d_head);
    exec->scratch_bytes = ct_round_up(linear > attention ? linear : attention, 4096);
    exec->pool = ct_pool_create(n_threads);
    if (exec->pool == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cannot start %d threads (1 to 256)", n_threads);
    exec->scratch = ct_alloc((size_t)n_threads, exec->scratch_bytes);
    exec->attn_states = ct_reserve(ATTENTION_STATES_BYTES);
    exec->attn_states_elems = ATTENTION_STATES_BYTES / sizeof *exec->attn_states;
    if (exec->scratch == NULL || exec->attn_states == NULL) {
        ct_exec_free(exec);
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for %zu bytes of scratch", (size_t)n_threads * exec->scratch_bytes);
    }
    return CACTUS_OK;
}

void ct_exec_free(ct_exec *exec)
{
    ct_pool_free(exec->pool);
    ct_free(exec->scratch);
    if (exec->attn_states != NULL) ct_release(exec->attn_states, ATTENTION_STATES_BYTES);
    *exec = (ct_exec){0};
}

size_t ct_exec_scratch_bytes(const ct_exec *exec) { return exec->scratch_bytes * (size_t)ct_pool_threads(exec->pool); }

const char *cactus_kernels_available(void) { return ct_kernels_available(); }
