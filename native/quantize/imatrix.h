/* imatrix.h: importance matrices. For a weight matrix they say how large the squares of its inputs are on average, column by column:
 * an error in a column counts that much. Two formats of llama.cpp are read: GGUF (NAME.in_sum2, NAME.counts) and the older .dat. */
#ifndef CT_QUANTIZE_IMATRIX_H
#define CT_QUANTIZE_IMATRIX_H

#include "gguf/gguf.h"

typedef struct ct_imatrix ct_imatrix;

/* Errors: IO, FORMAT (damaged; sums that are negative or not finite; counts and sums that do not belong together), MEMORY. */
cactus_status ct_imatrix_open(const char *path, ct_imatrix **out, cactus_error *err);
void ct_imatrix_close(ct_imatrix *imatrix); /* may be NULL */

size_t ct_imatrix_n_entries(const ct_imatrix *imatrix);
uint32_t ct_imatrix_n_chunks(const ct_imatrix *imatrix); /* of text it was made from; 0: not said */
ct_str ct_imatrix_dataset(const ct_imatrix *imatrix);    /* "" where it is not said */

/* The importances of a tensor of n_matrices matrices with n_cols columns, out [n_matrices, n_cols], each matrix with mean 1 and no
 * column quite without weight. *found = false, and out untouched, when the file has none for this name. FORMAT where the sizes differ. */
cactus_status ct_imatrix_get(const ct_imatrix *imatrix, ct_str name, size_t n_matrices, size_t n_cols, float *out, bool *found,
                             cactus_error *err);

#endif
