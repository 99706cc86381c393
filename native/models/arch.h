/* arch.h: what distinguishes one architecture from another, decoders and encoders. An architecture is one row of the table in arch.c; a new idea
 * becomes a column here, read by config.c, weights.c, decoder.c and encoder.c, and never a question for the architecture's name. */
#ifndef CT_ARCH_H
#define CT_ARCH_H

#include "nn/experts.h"

/* The tensors that a layer can have, in the order of the table in weights.c. */
typedef enum ct_tensor_id {
    T_ATTN_NORM,
    T_ATTN_NORM_2, /* of attention alone, where the feed-forward network reads attn_norm */
    T_ATTN_POST_NORM,
    T_FFN_NORM,
    T_FFN_POST_NORM,
    T_ATTN_SUM_NORM, T_FFN_SUM_NORM, /* of an encoder: behind the sum of a branch and what it read */
    T_Q, T_K, T_V, T_O, /* or one tensor attn_qkv for the first three */
    T_Q_NORM, T_K_NORM,
    T_SINKS,
    T_Q_A, T_Q_A_NORM, T_Q_B, T_KV_A, T_KV_A_NORM, T_K_B, T_V_B, T_KV_B, /* latent attention */
    T_GATE, T_UP, T_DOWN,
    T_ROUTER, T_ROUTER_BIAS, T_GATE_EXPS, T_UP_EXPS, T_DOWN_EXPS,
    T_SHARED_GATE, T_GATE_SHARED, T_UP_SHARED, T_DOWN_SHARED,
    T_CONV, T_CONV_IN, T_CONV_OUT, /* short convolution */
    T_SSM_IN, T_SSM_CONV, T_SSM_X, T_SSM_DT, T_SSM_DT_BIAS, T_SSM_A, T_SSM_D, T_SSM_NORM, T_SSM_OUT, /* state-space layers */
    T_SSM_DT_NORM, T_SSM_B_NORM, T_SSM_C_NORM,
    T_DELTA_QKV, T_DELTA_GATE, T_DELTA_ALPHA, T_DELTA_BETA, /* gated delta net */
    T_STREAM_ROUTER_NORM, T_STREAM_ROUTER, T_STREAM_PREDICT, T_STREAM_CORRECT, T_STREAM_SCALE, /* several residual streams */
    T_LOW_RANK_A, T_LOW_RANK_B, T_LOW_RANK_NORM, /* a branch beside attention */
    T_INPUT_GATE, T_INPUT_PROJ, T_INPUT_NORM, /* the layer's own input */
    T_COUNT
} ct_tensor_id;

#define CT_T(name) (UINT64_C(1) << T_##name)

typedef enum ct_ffn_kind {
    CT_FFN_GATED, /* down(act(gate x) * up x) */
    CT_FFN_FUSED, /* the same, gate and up being halves of one tensor, ffn_up */
    CT_FFN_PLAIN, /* down(act(up x)) */
    CT_FFN_NONE
} ct_ffn_kind;

typedef enum ct_mixer { /* what mixes tokens in a layer */
    CT_MIX_ATTENTION,
    CT_MIX_LATENT,     /* attention over compressed keys and values (DeepSeek-V2, arXiv:2405.04434, section 2.1) */
    CT_MIX_SHORT_CONV, /* LFM2 */
    CT_MIX_MAMBA,      /* arXiv:2312.00752 */
    CT_MIX_MAMBA2,     /* arXiv:2405.21060 */
    CT_MIX_DELTA       /* gated delta net, arXiv:2412.06464 */
} ct_mixer;

typedef enum ct_recurrence { /* which layers have the row's recurrent mixer */
    CT_REC_NONE,
    CT_REC_ALL,
    CT_REC_BESIDE,      /* all of them, beside attention: the results are added */
    CT_REC_NO_KV_HEADS, /* those without heads in attention.head_count_kv */
    CT_REC_INTERVAL     /* all but every full_attention_interval-th */
} ct_recurrence;

typedef struct ct_arch {
    const char *name;       /* general.architecture, and the prefix of its metadata keys */
    const char *models;     /* for people: what is published under this name */
    bool encoder;           /* every token sees all others; makes embeddings, generates nothing (encoder.c) */

    /* tensors of a layer beside those that its mixer and feed-forward network imply */
    uint64_t need, may;
    bool biased;            /* a missing bias is an error where the file may have one */
    const char *ffn_norm;   /* name of T_FFN_NORM, NULL: "ffn_norm" */
    const char *output_norm; /* NULL: "output_norm" */

    ct_norm_kind norm;
    ct_activation act;
    ct_ffn_kind ffn;
    bool parallel;          /* attention and feed-forward network read the same x; metadata use_parallel_residual decides where it is */

    bool no_rope, learned_positions;
    ct_rope_pairs rope;
    uint8_t no_rope_every;  /* every n-th layer goes without */
    bool rope_local_only;   /* where some layers have a window, only these rotate */
    bool yarn_not_rounded;  /* the ends of YaRN's ramp stay fractions */

    bool windowed;          /* attention.sliding_window counts */
    uint8_t window_period;  /* of so many layers the last sees everything; 0: all have the window */
    uint32_t window_default;
    float local_rope_base;  /* of layers with a window; 0: as the others */
    bool local_unscaled;    /* context extension does not touch them */

    bool qk_norm_whole;     /* norms of q and k go over all heads together */
    bool q_gated;           /* attn_q gives each head a gate behind its query; the result is multiplied by its sigmoid */
    bool v_norm;            /* RMSNorm of every head of v, without weights */
    bool shares_keys;       /* the last attention.shared_kv_layers layers attend over keys and values of earlier ones */
    float attn_scale;       /* multiplies q·k; 0: 1 / sqrt(d_k) */
    uint8_t heads_scale_layers; /* with so many layers q·k is divided by sqrt(d_model / n_heads) */
    float attn_softcap, logit_softcap; /* defaults; 0: none */

    bool embed_sqrt;        /* embeddings are multiplied by sqrt(d_model) */
    bool logit_divides;     /* logit_scale divides instead of multiplying */

    bool streams;           /* several residual streams (nn/streams.h) */
    bool layer_inputs;      /* every layer has an input of its own, from the token and its embedding, which is added to the streams */
    bool sparse_gate;       /* in some layers only the outliers of the gate go on: activation_sparsity_scale */

    bool experts;           /* may have a mixture of experts */
    ct_gating gating;       /* default SOFTMAX */
    bool expert_norm;       /* the chosen experts' weights are made to sum to 1; metadata expert_weights_norm decides where it is */

    ct_recurrence recurrence;
    ct_mixer recurrent;     /* the other mixer; attention otherwise, or latent: */
    bool latent;
} ct_arch;

/* The row of an architecture by its name; NULL when there is none. */
const ct_arch *ct_arch_find(const char *name, size_t n_bytes);

/* Row i; NULL behind the last. */
const ct_arch *ct_arch_at(size_t i);

/* How the layers of a row are built, in words. Static storage. */
const char *ct_arch_summary(const ct_arch *arch);

/* The names of all rows, separated by ", ". Static storage. */
const char *ct_arch_names(void);

#endif
