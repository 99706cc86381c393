/* arm_mca.c: calls one kernel, so that arm_mca.py can follow its instructions under qemu. Compiled once per kernel with
 *   ROWS, COLS, TOKENS, BLOCK_ELEMS, BLOCK_BYTES   the product, and a block of its weights
 * and either (ours)
 *   INIT, TYPE, SUB_ELEMS, HAS_MIN and RUN_MATVEC, RUN_GEMM or RUN_UNPACK
 * or (ggml's)
 *   PEER, a function, and RUN_VEC_DOT with PER_CALL (rows and tokens per call), or RUN_REPACK (gemv and gemm)
 * The data are zeros: no kernel here branches on them. */
#include <stddef.h>
#include <stdint.h>

enum { ROW_BYTES = COLS / BLOCK_ELEMS * BLOCK_BYTES, ACT_BYTES = 4 * COLS };

static _Alignas(64) uint8_t weights[ROWS * ROW_BYTES], act[TOKENS * ACT_BYTES];
static _Alignas(64) float y[TOKENS * ROWS];

void measured(void); /* arm_mca.py records what it calls */

#if defined(INIT)
#include "kernels/kernels.h"

static _Alignas(64) uint8_t panel[ROWS * COLS * 4];
static ct_kernels k;

__attribute__((noinline)) void measured(void)
{
#if defined(RUN_MATVEC)
    k.matvec[TYPE](y, weights, ROW_BYTES, act, ROWS, COLS, NULL);
#elif defined(RUN_UNPACK)
    k.unpack[TYPE](panel, weights, ROW_BYTES, ROWS, COLS);
#else
    k.gemm_i8(y, ROWS, panel, act, k.act_bytes(COLS), ROWS, COLS, TOKENS, SUB_ELEMS, HAS_MIN);
#endif
}

int main(void)
{
    INIT(&k);
    if (k.panel_rows != ROWS || k.panel_bytes(COLS) > sizeof panel || k.act_bytes(COLS) > ACT_BYTES) return 1;
    measured();
    return 0;
}

#else

#if defined(RUN_VEC_DOT)
void PEER(int n, float *s, size_t bs, const void *vx, size_t bx, const void *vy, size_t by, int nrc);

__attribute__((noinline)) void measured(void)
{
    for (int t = 0; t < TOKENS; t += PER_CALL)
        for (int r = 0; r < ROWS; r += PER_CALL)
            PEER(COLS, y + t * ROWS + r, ROWS, weights + r * ROW_BYTES, ROW_BYTES, act + t * ACT_BYTES, ACT_BYTES, PER_CALL);
}
#else
void PEER(int n, float *s, size_t bs, const void *vx, const void *vy, int nr, int nc);

__attribute__((noinline)) void measured(void) { PEER(COLS, y, ROWS, weights, act, TOKENS, ROWS); }
#endif

int main(void)
{
    measured();
    return 0;
}
#endif
