/* nn.h: the layers of a network, written once over kernels.h. Every function is called from one thread and spreads its work over
 * the pool itself. Results do not depend on the number of threads or on how tokens are grouped (kernels.h says why). */
#ifndef CT_NN_H
#define CT_NN_H

#include "core/core.h"
#include "kernels/kernels.h"

/* A weight matrix [n_rows, n_cols] in the mapped file; y = W·x + bias. */
typedef struct ct_matrix {
    const uint8_t *data; /* NULL: the model does not have it */
    const ct_type_info *info;
    ct_type type;
    size_t n_rows; /* output features */
    size_t n_cols; /* input features */
    size_t row_bytes;
    size_t part_rows;  /* of several equal matrices in one tensor: rows from one to the next; 0: n_rows */
    const float *bias; /* [n_rows] or NULL; of several matrices, as far apart as they are */
} ct_matrix;

/* Matrix number `part` of several. */
static inline ct_matrix ct_matrix_part(const ct_matrix *all, size_t part)
{
    ct_matrix one = *all;
    size_t rows = (all->part_rows > 0 ? all->part_rows : all->n_rows) * part;
    one.data += rows * all->row_bytes;
    if (one.bias != NULL) one.bias += rows;
    return one;
}

/* What computes: kernels, threads and per-thread scratch. Sized once for the widest matrix and head of a model. */
typedef struct ct_exec {
    const ct_kernels *k;
    ct_pool *pool;
    size_t max_cols;          /* widest input of any matrix */
    size_t max_d_head;        /* largest head size */
    size_t scratch_bytes;     /* of one thread */
    uint8_t *scratch;         /* [n_threads, scratch_bytes] */
    float *attn_states;       /* what threads that share one query's keys leave for each other; touched as used */
    size_t attn_states_elems;
} ct_exec;

/* Errors: ARGUMENT (kernel set unknown here, thread count), MEMORY. */
cactus_status ct_exec_create(ct_exec *exec, const char *kernels, int n_threads, size_t max_cols, size_t max_d_head, cactus_error *err);
void ct_exec_free(ct_exec *exec);
size_t ct_exec_scratch_bytes(const ct_exec *exec); /* of all threads */

/* ---- linear (linear.c) -------------------------------------------------------------------------------------------- */

/* The input of one or several products: float rows and, if a weight needs it, the same rows quantised. */
typedef struct ct_input {
    const float *x;   /* [n_tok, n_cols] */
    uint8_t *act;     /* [n_tok, k->act_bytes(n_cols)]: room given by the caller */
    size_t n_tok;
    size_t n_cols;
    bool quantised;   /* act holds x */
} ct_input;

typedef struct ct_product {
    const ct_matrix *w; /* [n_rows, input->n_cols] */
    float *y;           /* [n_tok, n_rows] */
} ct_product;

/* All products of one input, in one parallel region. Quantises the input when the first integer product needs it. */
void ct_linear(const ct_exec *exec, ct_input *input, const ct_product *products, size_t n_products);

/* One of many products, each with an input of its own. The two last fields belong to ct_linear_groups. */
typedef struct ct_group {
    const ct_matrix *w;
    const float *x;     /* [n_tok, w->n_cols], read where w is of a float type */
    const uint8_t *act; /* the same quantised, read where it is not */
    size_t n_tok;       /* at least 1 */
    float *y;           /* [n_tok, w->n_rows] */
    size_t tile_rows, first_tile;
} ct_group;

/* All groups in one parallel region. */
void ct_linear_groups(const ct_exec *exec, ct_group *groups, size_t n_groups);

/* Rows [n_tok, n_cols] as activations, act [n_tok, k->act_bytes(n_cols)]. */
void ct_quantise_rows(const ct_exec *exec, uint8_t *act, const float *x, size_t n_tok, size_t n_cols);

/* Says which products ct_linear will be asked for after the next region: threads that wait meanwhile fetch the weights with which
 * they will begin. Holds until called again. */
void ct_linear_expect(const ct_exec *exec, const ct_product *products, size_t n_products, size_t n_tok);

/* Rows ids[i] of a matrix as float32, y [n, n_cols]: the token embedding. Every id < n_rows. */
void ct_embed_rows(const ct_matrix *w, const int32_t *ids, size_t n, float *y);

/* ---- element-wise over tokens (elementwise.c) ----------------------------------------------------------------------- */

typedef enum ct_norm_kind { CT_NORM_RMS, CT_NORM_LAYER } ct_norm_kind;

typedef struct ct_norm {
    const float *weight; /* [n]; NULL: the model has no such norm */
    const float *bias;   /* [n] or NULL; LAYER only */
    float eps;
    ct_norm_kind kind;
} ct_norm;

typedef enum ct_activation { CT_SILU, CT_GELU, CT_GELU_ERF, CT_SWIGLU_OAI } ct_activation;

/* All over rows [n_tok, n]. */
void ct_norm_rows(const ct_exec *exec, const ct_norm *norm, float *y, const float *x, size_t n_tok, size_t n); /* y may be x */
void ct_activate(const ct_exec *exec, ct_activation act, float *gate, const float *up, size_t n_tok, size_t n);
    /* gate = act(gate) * up; the two GELUs go without up (NULL), too */
void ct_keep_outliers(const ct_exec *exec, float *x, float n_deviations, size_t n_tok, size_t n);
    /* x = max(x - cutoff, 0), the cutoff lying n_deviations standard deviations (of all n) above the row's mean */
void ct_add(const ct_exec *exec, float *y, const float *x, size_t n_tok, size_t n);            /* y += x */
void ct_scale(const ct_exec *exec, float *y, float factor, size_t n_tok, size_t n);            /* y *= factor */
void ct_softcap(const ct_exec *exec, float *y, float cap, size_t n_tok, size_t n);             /* y = cap * tanh(y / cap) */
void ct_sigmoid_mul(const ct_exec *exec, float *y, const float *gate, size_t n_tok, size_t n); /* y *= sigmoid(gate) */

/* The same for one row, without threads. */
void ct_norm_row(const ct_kernels *k, const ct_norm *norm, float *y, const float *x, size_t n);
void ct_activate_row(const ct_kernels *k, ct_activation act, float *gate, const float *up, size_t n);

/* ---- rotary positions (rope.c) -------------------------------------------------------------------------------------- */

typedef enum ct_rope_scaling { CT_ROPE_NONE, CT_ROPE_LINEAR, CT_ROPE_YARN } ct_rope_scaling;

typedef enum ct_rope_pairs {
    CT_ROPE_ADJACENT, /* element 2i turns with 2i + 1 (GGUF's "norm" layout) */
    CT_ROPE_HALVES    /* element i turns with i + n_rot/2 (GPT-NeoX) */
} ct_rope_pairs;

typedef struct ct_rope_config {
    ct_rope_pairs pairs;
    ct_rope_scaling scaling;
    size_t n_rot;            /* elements of a head that turn, even; the rest stay */
    float base;              /* theta */
    float factor;            /* context extension: positions are divided by it (linear) or blended (YaRN) */
    float n_context_orig;    /* trained context, tokens (YaRN) */
    float attn_factor;       /* multiplies cos and sin */
    float beta_fast, beta_slow; /* YaRN's ramp, in turns over the original context */
    bool not_rounded;        /* YaRN's ramp ends at fractions of a pair */
    bool needs_factors;      /* the model says that it has factors */
    const float *freq_factors;  /* [n_rot/2], divide the frequencies (llama3), or NULL */
} ct_rope_config;

/* Angular frequency of each pair into freq [n_rot/2] (radians per token) and the factor for cos and sin into *magnitude.
 * YaRN: Peng et al. 2023, arXiv:2309.00071, section 3. */
void ct_rope_frequencies(const ct_rope_config *config, double *freq, float *magnitude);

/* cos and sin of one position: out [2, n_rot/2]. */
void ct_rope_angles(const double *freq, float magnitude, size_t n_rot, int32_t pos, float *out);

/* Turns n_heads heads of d_head elements, in place. */
void ct_rope_apply(float *x, size_t n_heads, size_t d_head, size_t n_rot, ct_rope_pairs pairs, const float *angles);

/* ---- keys, values, attention (attention.c) --------------------------------------------------------------------------- */

typedef enum ct_kv_type { CT_KV_F16, CT_KV_F32, CT_KV_I8 } ct_kv_type; /* how an element is kept */

/* Geometry of a page of keys and values: for each layer and kv head, keys transposed [d_k, 32] and then values [32, d_v]; of
 * CT_KV_I8 the codes of both in this order, then the scales of both (ct_page_i8). Every part starts at a multiple of 64 bytes. */
typedef struct ct_kv_layout {
    ct_kv_type type;
    size_t n_layers, n_kv_heads, d_k, d_v;
    size_t head_bytes; /* keys and values of one head of one layer */
    size_t page_bytes;
} ct_kv_layout;

bool ct_kv_layout_init(ct_kv_layout *kv, ct_kv_type type, size_t n_layers, size_t n_kv_heads, size_t d_k, size_t d_v);

/* A run of consecutive tokens of one sequence in a batch. */
typedef struct ct_run {
    size_t first;           /* row of its first token in the batch */
    size_t n_tok;
    size_t pos;             /* position of that token in its sequence */
    uint8_t *const *pages;  /* the sequence's pages, by position / CT_PAGE_TOKENS */
    float *state;           /* the sequence's recurrent state before this token, replaced by the one after the run; NULL: the model has none */
    bool beyond_context;    /* the sequence is longer than the context before its extension: other rotary factors hold for all of it */
} ct_run;

/* How a layer attends. */
typedef struct ct_attn {
    size_t layer;               /* in the pages */
    size_t n_heads;
    size_t window;              /* keys seen at most; 0: all before it */
    bool both_ways;             /* a token sees all of its run, also what comes after it; the run is the whole sequence, without a window */
    float scale;                /* multiplies q·k */
    float softcap;              /* then cap * tanh(· / cap); 0: not */
    const float *sinks;         /* [n_heads] a score per head that takes part in the softmax without a value, or NULL */
    ct_norm q_norm, k_norm;     /* before the rotation */
    bool norm_whole;            /* over all heads together; else head by head */
    bool norm_per_head;         /* with weights [n_heads, d_k], else [d_k] for all */
    const float *angles;        /* [n_tok, n_rot]; NULL: q and k are not turned */
    size_t n_rot, rot_first;    /* elements of a head that turn, from rot_first on */
    ct_rope_pairs pairs;
} ct_attn;

/* Norms and turns q and k (in place) and stores k and v in the pages.
 *   q [n_tok, n_heads*d_k], k [n_tok, n_kv_heads*d_k], v [n_tok, n_kv_heads*d_v]
 * k NULL: the layer's place in the pages was filled by another one, and only q is prepared. */
void ct_store_keys(const ct_exec *exec, const ct_kv_layout *kv, const ct_attn *attn, const ct_run *runs, size_t n_runs, float *q, float *k,
                   const float *v);

/* Attention of every token over its own sequence, causal or both ways. q as above, out [n_tok, n_heads*d_v]. */
void ct_attention(const ct_exec *exec, const ct_kv_layout *kv, const ct_attn *attn, const ct_run *runs, size_t n_runs, const float *q,
                  float *out);

#endif
