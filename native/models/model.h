/* model.h: a model as it lies in its file: configuration and pointers to the weights. Immutable once loaded. */
#ifndef CT_MODEL_H
#define CT_MODEL_H

#include "gguf/gguf.h"
#include "models/arch.h"
#include "nn/recurrent.h"
#include "nn/streams.h"
#include "tokenizer/tokenizer.h"

enum {
    CT_MAX_EXPERTS = 1024,
    CT_MAX_LAYERS = 1024
};

/* How one layer differs from the others. */
typedef struct ct_layer_config {
    ct_mixer mixer;
    bool beside;      /* the row's recurrent mixer works beside this one */
    bool experts;     /* the feed-forward network is a mixture of experts */
    bool rotates;     /* q and k are turned */
    uint32_t window;  /* keys a token sees; 0: all before it */
    uint32_t kv;      /* its place in the pages of keys and values */
    bool shares_kv;   /* an earlier layer fills that place */
    bool sparse;      /* of the gate only what lies cutoff standard deviations above the mean goes on */
    float cutoff;
    uint32_t n_ff;
    size_t state;     /* its place in the recurrent state, floats */
} ct_layer_config;

/* The blueprint. Every number was bounded when it was read. */
typedef struct ct_config {
    uint32_t n_layers, d_model, n_heads, n_ff, n_vocab;
    uint32_t n_kv_layers, n_kv_heads, d_k, d_v; /* what the pages hold; d_k is also the length of a head of q when it attends */
    uint32_t d_q;       /* rows that the query's product makes for a head */
    uint32_t d_o;       /* columns of the output's product that belong to a head */
    uint32_t n_keeping; /* the layers behind these keep nothing of a token: they share the keys of others */
    uint32_t n_context; /* trained */
    cactus_pooling pooling; /* how token states become an embedding; AUTO: the model makes none */
    float norm_eps;
    float attn_scale;   /* multiplies q·k */
    float attn_softcap, logit_softcap; /* 0: none */
    float embed_scale, residual_scale, logit_scale;
    bool parallel;
    uint32_t n_streams, active_stream; /* residual streams; 0: one */
    uint32_t n_layer_input; /* length of a layer's own input; 0: none */
    uint32_t n_low_rank;    /* of the branch beside attention */
    ct_rope_config rope, local_rope; /* of layers that see everything, and of those with a window */

    uint32_t n_lora_q, n_lora_kv, n_nope, d_v_head; /* latent attention; n_lora_q 0: queries are not compressed */
    bool latent_split; /* the file has k_b and v_b apart: heads attend over the compressed keys themselves */

    uint32_t n_experts, n_experts_used, n_ff_expert, n_ff_shared, n_expert_groups, n_groups_used;
    ct_gating gating;
    bool expert_norm;
    float expert_scale;

    uint32_t conv_width, ssm_inner, ssm_state, ssm_heads, ssm_groups; /* ssm_heads: the rank of dt in Mamba 1 */
    bool ssm_norms;      /* Mamba 1: dt, B and C are normalised */
    size_t state_floats; /* recurrent state of a sequence; 0: none */

    ct_layer_config layers[CT_MAX_LAYERS];
} ct_config;

typedef struct ct_layer {
    ct_norm attn_norm, attn_norm_2, attn_post_norm, ffn_norm, ffn_post_norm, attn_sum_norm, ffn_sum_norm;
    ct_norm q_norm, k_norm;   /* [d_k], or [n_heads*d_k] */
    bool norm_per_head;       /* q_norm, k_norm have weights for every head */
    ct_matrix wq;             /* [n_heads*d_q, d_model], d_q being d_k, or 2 d_k with a gate */
    ct_matrix wk;             /* [n_kv_heads*d_k, d_model] */
    ct_matrix wv;             /* [n_kv_heads*d_v, d_model] */
    ct_matrix wo;             /* [d_model, n_heads*d_o] */
    const float *sinks;       /* [n_heads] */

    ct_matrix q_a;            /* [n_lora_q, d_model] */
    ct_norm q_a_norm;         /* [n_lora_q] */
    ct_matrix q_b;            /* [n_heads*d_q, n_lora_q] */
    ct_matrix kv_a;           /* [n_lora_kv + n_rot, d_model] */
    ct_norm kv_a_norm;        /* [n_lora_kv] */
    ct_matrix k_b;            /* [n_heads][n_lora_kv, n_nope] */
    ct_matrix v_b;            /* [n_heads][d_v_head, n_lora_kv] */
    ct_matrix kv_b;           /* [n_heads*(n_nope + d_v_head), n_lora_kv], in files that do not have the two apart */

    ct_matrix gate, up;       /* [n_ff, d_model] */
    ct_matrix down;           /* [d_model, n_ff] */

    ct_matrix router;         /* [n_experts, d_model] */
    const float *router_bias; /* [n_experts], for choosing only */
    ct_matrix gate_exps, up_exps; /* [n_experts][n_ff_expert, d_model] */
    ct_matrix down_exps;      /* [n_experts][d_model, n_ff_expert] */
    ct_matrix shared_gate;    /* [1, d_model] */
    ct_matrix gate_shared, up_shared, down_shared; /* as gate, up, down with n_ff_shared */

    ct_matrix conv_in;        /* [3*d_model, d_model] */
    ct_matrix conv_out;       /* [d_model, d_model] */
    const float *conv;        /* [channels, conv_width], as the file has it */
    const float *conv_bias;   /* [channels] or NULL */
    ct_conv taps;             /* the same as nn/recurrent.h wants it */

    ct_matrix ssm_in, ssm_x, ssm_dt, ssm_out;
    const float *ssm_dt_bias; /* [ssm_inner] (Mamba 1), [ssm_heads] */
    const float *ssm_a;       /* [ssm_inner, ssm_state] (Mamba 1), [ssm_heads]: negative */
    const float *ssm_d;       /* [ssm_inner] (Mamba 1), [ssm_heads] */
    ct_norm ssm_norm, ssm_dt_norm, ssm_b_norm, ssm_c_norm;
    ct_matrix delta_qkv, delta_gate, delta_alpha, delta_beta;
    ct_mamba mamba; /* of these three the one that the layer is */
    ct_mamba2 mamba2;
    ct_delta_net delta;

    ct_stream_mix streams;
    ct_matrix low_rank_a;     /* [n_low_rank, d_model] */
    ct_matrix low_rank_b;     /* [d_model, n_low_rank] */
    ct_norm low_rank_norm;    /* [d_model] */
    ct_matrix input_gate;     /* [n_layer_input, d_model] */
    ct_matrix input_proj;     /* [d_model, n_layer_input] */
    ct_norm input_norm;       /* [d_model] */
} ct_layer;

typedef struct ct_weights {
    ct_matrix embed;        /* [n_vocab, d_model], one row a token */
    ct_matrix head;         /* [n_vocab, d_model]; the embedding where tied */
    ct_matrix positions;    /* [n_context, d_model], or none */
    ct_matrix token_types;  /* [any, d_model], of which the first row counts, or none; encoders */
    ct_norm embed_norm;     /* [d_model]; encoders */
    ct_norm output_norm;    /* [d_model] */
    const float *long_factors; /* [n_rot/2]: of rope where a sequence is longer than the original context; NULL: as ever */
    ct_norm v_norm;         /* [d_v], of ones; weight NULL: none */
    ct_streams streams;
    ct_matrix input_embed;  /* [n_vocab, n_layers*n_layer_input], one row a token */
    ct_matrix input_proj;   /* [n_layers*n_layer_input, d_model] */
    ct_norm input_norm;     /* [n_layer_input] */
    ct_layer *layers;       /* [n_layers] */
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

/* The parts of loading. n_vocab is known before the configuration is read, the configuration before the weights. */
cactus_status ct_config_read(cactus_model *model, cactus_error *err);   /* config.c */
cactus_status ct_weights_load(cactus_model *model, cactus_error *err);  /* weights.c */

#endif
