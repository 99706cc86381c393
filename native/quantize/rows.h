/* rows.h: float32 weights -> blocks of GGUF's tensor types.
 *
 * What is minimised is the squared error of the decoded weights, each column weighted by its importance where importances are
 * given. The bytes depend only on the weights and the importances: not on the instruction set, nor on how a tensor is cut into runs. */
#ifndef CT_QUANTIZE_ROWS_H
#define CT_QUANTIZE_ROWS_H

#include "gguf/types.h"

/* Blocks that follow each other in a matrix with rows of n_cols elements. */
typedef struct ct_rows {
    const float *x;   /* [n_blocks * block_elems], finite, magnitudes at most ct_rows_limit */
    size_t n_blocks;
    const float *importance; /* [n_cols] >= 0, mean about 1; NULL: all equal */
    size_t n_cols, column;   /* used with importance only: the row's length, a multiple of block_elems, and x[0]'s place in it */
    uint8_t *blocks;  /* [n_blocks * block_bytes], any alignment, overwritten */
} ct_rows;

typedef void (*ct_rows_fn)(const ct_rows *rows);

/* The best function for this CPU; NULL for types that cannot be made. */
ct_rows_fn ct_rows_find(ct_type type);

/* The same from the set named "avx512", "avx2" or "portable"; NULL where this CPU cannot run it (for tests). */
ct_rows_fn ct_rows_find_in(const char *set, ct_type type);

/* The largest magnitude that the type can hold: 65504 where it has half-precision scales. */
float ct_rows_limit(ct_type type);

/* [CT_N_TYPES] functions of one set, made by rows_lanes.h. */
extern const ct_rows_fn ct_rows_portable[CT_N_TYPES];
extern const ct_rows_fn ct_rows_avx2[CT_N_TYPES];
extern const ct_rows_fn ct_rows_avx512[CT_N_TYPES];

#endif
