/* model.h: a decoder model as it lies in its file: configuration and pointers to the weights. Immutable once loaded. */
#ifndef CT_MODEL_H
#define CT_MODEL_H

#include "gguf/gguf.h"
#include "models/arch.h"
#include "tokenizer/tokenizer.h"

/* The blueprint. Every number was bounded when it was read. */
typedef struct ct_config {
    uint32_t n_layers, d_model, n_heads, n_kv_heads, d_k, d_v, n_ff, n_vocab;
    uint32_t n_context; /* trained */
    uint32_t window;    /* keys a token sees; 0: all before it */
    float norm_eps;
    float attn_scale;   /* multiplies q·k */
    ct_rope_config rope;
} ct_config;

typedef struct ct_layer {
    const float *attn_norm; /* [d_model] */
    const float *ffn_norm;  /* [d_model] */
    ct_matrix wq;           /* [n_heads*d_k, d_model] */
    ct_matrix wk;           /* [n_kv_heads*d_k, d_model] */
    ct_matrix wv;           /* [n_kv_heads*d_v, d_model] */
    ct_matrix wo;           /* [d_model, n_heads*d_v] */
    ct_matrix gate;         /* [n_ff, d_model] */
    ct_matrix up;           /* [n_ff, d_model] */
    ct_matrix down;         /* [d_model, n_ff] */
} ct_layer;

typedef struct ct_weights {
    ct_matrix embed;          /* [n_vocab, d_model], one row a token */
    ct_matrix head;           /* [n_vocab, d_model]; the embedding where tied */
    const float *output_norm; /* [d_model] */
    ct_layer *layers;         /* [n_layers] */
} ct_weights;

struct cactus_model {
    ct_gguf *gguf;
    const ct_arch *arch;
    ct_config config;
    ct_weights weights;
    cactus_tokenizer *tokenizer;
    float **owned_vectors;   /* vectors that had to be converted to float32 */
    size_t n_owned_vectors;
    bool all_float;          /* every matrix is F32, F16 or BF16 */
    char **metadata_values;  /* [n_metadata], made on load */
    size_t *metadata_bytes;
    char **metadata_keys;
    size_t n_metadata;
    char *architecture, *name;
    const char *quantisation;
    uint64_t n_parameters;
};

#endif
