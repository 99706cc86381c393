/* recurrent.h: token-mixing layers that keep a state instead of keys and values: the short convolution of LFM2, Mamba, Mamba-2 and
 * the gated delta net of Qwen3-Next and Qwen3.5. What comes before (projections in) and after (projection out) is ct_linear's.
 *
 * A state belongs to one layer and one sequence: the inputs that a causal convolution still sees, then the layer's matrices; all
 * float32, 64-byte aligned, ct_…_state_floats long. Its layout is the same for every kernel set. A copy of it is a copy of the sequence up
 * to there. Every function takes the tokens of a run in order, each from the state that the one before it left: results do
 * not depend on how a prompt was cut, on the rest of the batch or on the number of threads.
 *
 * Weights are float32. The taps of a convolution and Mamba's A come in another order than in the file: ct_transpose and
 * ct_pack_columns make it, once per model. */
#ifndef CT_NN_RECURRENT_H
#define CT_NN_RECURRENT_H

#include "nn/nn.h"

/* A run of consecutive tokens of one sequence in a batch. */
typedef struct ct_state_run {
    size_t first;  /* row of its first token in the batch */
    size_t n_tok;
    bool fresh;    /* the sequence begins here: the state counts as zeros, whatever it holds */
    float *state;  /* what this layer keeps of the sequence; left as it is after the last token */
} ct_state_run;

/* in [n_rows, n_cols] to out [n_cols, n_rows]. */
void ct_transpose(float *out, const float *in, size_t n_rows, size_t n_cols);

/* in [n_cols, n_rows] (a column in a row, as files have it) to a state matrix of kernels.h, [n_cols/16, n_rows, 16], filled up with zeros;
 * out has ct_columns_floats(n_rows, n_cols) elements. */
void ct_pack_columns(float *out, const float *in, size_t n_rows, size_t n_cols);
size_t ct_columns_floats(size_t n_rows, size_t n_cols); /* 0: it overflows */

/* A causal convolution per channel. */
typedef struct ct_conv {
    size_t width;      /* taps: CT_MIN_CONV_WIDTH … CT_MAX_CONV_WIDTH */
    size_t n_channels;
    const float *w;    /* [width, n_channels]: the file's [n_channels, width] transposed */
    const float *bias; /* [n_channels] or NULL */
} ct_conv;

/* ---- short convolution (LFM2) ----------------------------------------------------------------------------------------- */

size_t ct_short_conv_state_floats(const ct_conv *conv); /* these: 0 if it overflows */

/* y = C * conv(B * x). bcx [n_tok, 3*n_channels]: B, C, x of each token; y [n_tok, n_channels]. */
void ct_short_conv(const ct_exec *exec, const ct_conv *conv, const ct_state_run *runs, size_t n_runs, const float *bcx, float *y);

/* ---- Mamba ------------------------------------------------------------------------------------------------------------ */

typedef struct ct_mamba {
    ct_conv conv;                            /* n_channels = d_inner */
    size_t d_inner, d_state, dt_rank;
    const float *a;                          /* -exp(A_log), the file's [d_inner, d_state] by ct_pack_columns(…, d_state, d_inner) */
    const float *d;                          /* [d_inner] */
    const float *dt_bias;                    /* [d_inner], or NULL if the projection of dt adds it */
    const float *dt_norm, *b_norm, *c_norm;  /* [dt_rank], [d_state], [d_state] weights of RMS norms (ones where the model has none
                                              * of its own), or NULL: not normalised */
    float norm_eps;
} ct_mamba;

size_t ct_mamba_state_floats(const ct_mamba *m);

/* First: x [n_tok, d_inner] = silu(conv(·)) of the first half of xz [n_tok, 2*d_inner]. */
void ct_mamba_conv(const ct_exec *exec, const ct_mamba *m, const ct_state_run *runs, size_t n_runs, const float *xz, float *x);

/* Then, with xbc [n_tok, dt_rank + 2*d_state] the projection of x: dt [n_tok, dt_rank] taken out of it; norms, where there are. */
void ct_mamba_split(const ct_exec *exec, const ct_mamba *m, size_t n_tok, float *xbc, float *dt);

/* Last, with dt [n_tok, d_inner] the projection of that: the scan, times silu of the second half of xz. y [n_tok, d_inner] may be x. */
void ct_mamba_scan(const ct_exec *exec, const ct_mamba *m, const ct_state_run *runs, size_t n_runs, const float *xz, const float *x,
                   const float *dt, const float *xbc, float *y);

/* ---- Mamba-2 ---------------------------------------------------------------------------------------------------------- */

typedef struct ct_mamba2 {
    ct_conv conv;         /* n_channels = d_inner + 2*n_groups*d_state: x, B, C */
    size_t d_inner, d_state;
    size_t n_heads;       /* d_inner is a multiple of it, and it of n_groups */
    size_t n_groups;      /* of heads that share B and C */
    const float *a;       /* [n_heads] -exp(A_log) */
    const float *d;       /* [n_heads] */
    const float *dt_bias; /* [n_heads] */
    const float *norm;    /* [d_inner] weights of an RMS norm per group, behind the gate, or NULL */
    float norm_eps;
} ct_mamba2;

size_t ct_mamba2_state_floats(const ct_mamba2 *m);

/* zxbcdt [n_tok, 2*d_inner + 2*n_groups*d_state + n_heads]: z, x, B, C, dt of each token; x, B and C are overwritten.
 * y [n_tok, d_inner] = norm(silu(z) * (scan + D * x)). */
void ct_mamba2_mix(const ct_exec *exec, const ct_mamba2 *m, const ct_state_run *runs, size_t n_runs, float *zxbcdt, float *y);

/* ---- gated delta net -------------------------------------------------------------------------------------------------- */

typedef struct ct_delta_net {
    ct_conv conv;         /* n_channels = 2*n_k_heads*d_k + n_v_heads*d_v: q, k, v */
    size_t n_k_heads, d_k;
    size_t n_v_heads, d_v; /* n_v_heads is a multiple of n_k_heads */
    bool tiled;           /* v head h goes with k head h % n_k_heads (GGUF's qwen35); else with h / (n_v_heads / n_k_heads) */
    const float *a;       /* [n_v_heads] -exp(A_log) */
    const float *dt_bias; /* [n_v_heads] */
    const float *norm;    /* [d_v] weights of the RMS norm of each head */
    float norm_eps;
    float l2_eps;         /* of the norms of q and k; 1e-6 */
} ct_delta_net;

size_t ct_delta_net_state_floats(const ct_delta_net *d);
size_t ct_delta_net_scratch_floats(const ct_delta_net *d); /* per thread, a multiple of 16 */

/* qkv [n_tok, n_channels], z [n_tok, n_v_heads*d_v], a and b [n_tok, n_v_heads] projections of the input; y [n_tok, n_v_heads*d_v] the
 * normalised and gated heads. scratch: [threads of exec, ct_delta_net_scratch_floats()], 64-byte aligned, contents irrelevant. */
void ct_delta_net_mix(const ct_exec *exec, const ct_delta_net *d, const ct_state_run *runs, size_t n_runs, const float *qkv, const float *z,
                      const float *a, const float *b, float *y, float *scratch);

#endif
