/* encoder.h: the forward pass of an encoder (BERT's family) over whole texts. */
#ifndef CT_ENCODER_H
#define CT_ENCODER_H

#include "models/decoder.h"

typedef struct ct_encoder ct_encoder;

/* Buffers for at most max_batch tokens a pass, over the threads and kernels of `exec` and pages laid out as `kv`, of one layer. Both must
 * outlive the encoder. Errors: MEMORY. */
cactus_status ct_encoder_create(const cactus_model *model, const ct_exec *exec, const ct_kv_layout *kv, size_t max_batch, ct_encoder **out,
                                cactus_error *err);
void ct_encoder_free(ct_encoder *encoder);
size_t ct_encoder_scratch_bytes(const ct_encoder *encoder); /* NULL: 0 */

/* The states of all tokens behind the last layer, [n_tok, d_model], valid until the next call. Every run is a whole text, from position 0
 * on, with pages for all of it; outputs and hidden of the batch are not read. Allocates nothing. */
const float *ct_encoder_forward(ct_encoder *encoder, const ct_batch *batch);

#endif
