/* decoder.h: the forward pass of a decoder over a batch of tokens of several sequences. */
#ifndef CT_DECODER_H
#define CT_DECODER_H

#include "models/model.h"

typedef struct ct_decoder ct_decoder;

/* Tokens of one step. Rows are grouped by sequence: run i covers rows runs[i].first … + n_tok, in order. */
typedef struct ct_batch {
    const int32_t *tokens; /* [n_tok], each in [0, n_vocab) */
    size_t n_tok;          /* 1 … max_batch */
    const ct_run *runs;
    size_t n_runs;
    const uint32_t *outputs; /* [n_outputs] rows whose scores are wanted, ascending */
    size_t n_outputs;
    float *hidden;         /* [n_outputs, d_model] room for the normalised states of these rows, which are then wanted instead; or NULL */
} ct_batch;

/* Buffers for at most max_batch tokens a step. Errors as ct_exec_create. */
cactus_status ct_decoder_create(const cactus_model *model, const char *kernels, int n_threads, size_t max_batch, ct_kv_type kv_type,
                                ct_decoder **out, cactus_error *err);

/* A second set of buffers over the first one's threads and kernels, so that a batch can be computed while another one is between two
 * of its layers. Free it before the first one. Errors: MEMORY. */
cactus_status ct_decoder_create_beside(const ct_decoder *first, size_t max_batch, ct_decoder **out, cactus_error *err);
void ct_decoder_free(ct_decoder *decoder);
const ct_kv_layout *ct_decoder_kv_layout(const ct_decoder *decoder);
const ct_exec *ct_decoder_exec(const ct_decoder *decoder);
size_t ct_decoder_scratch_bytes(const ct_decoder *decoder);

/* A batch layer by layer. The arrays that it points to, the pages and logits must stay as they are until it is done. */
void ct_decoder_begin(ct_decoder *decoder, const ct_batch *batch, float *logits);
bool ct_decoder_advance(ct_decoder *decoder); /* one layer, at last the scores; false: the batch is done */

/* [max_batch, d_model]: behind the last step of a batch, the normalised states of its wanted rows, until the next one begins. */
const float *ct_decoder_states(const ct_decoder *decoder);

/* Computes the batch, writes its keys and values into the runs' pages and the wanted scores to logits [n_outputs, n_vocab].
 * Allocates nothing. */
void ct_decoder_forward(ct_decoder *decoder, const ct_batch *batch, float *logits);

#endif
