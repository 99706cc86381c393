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
    const float *bias; /* [n_rows] or NULL */
} ct_matrix;

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

/* Says which products ct_linear will be asked for after the next region: threads that wait meanwhile fetch the weights with which
 * they will begin. Holds until called again. */
void ct_linear_expect(const ct_exec *exec, const ct_product *products, size_t n_products, size_t n_tok);

/* Rows ids[i] of a matrix as float32, y [n, n_cols]: the token embedding. Every id < n_rows. */
void ct_embed_rows(const ct_matrix *w, const int32_t *ids, size_t n, float *y);

/* ---- element-wise over tokens (elementwise.c) ----------------------------------------------------------------------- */

void ct_rms_norm(const ct_exec *exec, float *y, const float *x, const float *weight, size_t n_tok, size_t n, float eps);
void ct_silu_mul(const ct_exec *exec, float *gate, const float *up, size_t n_tok, size_t n); /* gate = silu(gate) * up */
void ct_add(const ct_exec *exec, float *y, const float *x, size_t n_tok, size_t n);          /* y += x */

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
} ct_run;

/* Turns q and k (in place) by their angles and stores k and v in the pages.
 *   q [n_tok, n_heads*d_k], k [n_tok, n_kv_heads*d_k], v [n_tok, n_kv_heads*d_v], angles [n_tok, n_rot] */
void ct_rope_and_store(const ct_exec *exec, const ct_kv_layout *kv, size_t layer, const ct_run *runs, size_t n_runs, float *q, float *k,
                       const float *v, const float *angles, size_t n_heads, size_t n_rot, ct_rope_pairs pairs);

/* Causal attention of every token over its own sequence. q as above, out [n_tok, n_heads*d_v]; window: keys seen at most (0: all). */
void ct_attention(const ct_exec *exec, const ct_kv_layout *kv, size_t layer, const ct_run *runs, size_t n_runs, const float *q,
                  float *out, size_t n_heads, size_t window, float scale);

#endif
