/* weights.c: finds every tensor by a table of name, place and shape, and refuses what does not fit before anything is computed. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/model.h"

enum {
    NAME_BYTES = 96,
    SHOWN_CHARS = 64,
    OWNED_PER_LAYER = 5, /* vectors that a recurrent layer has beside its tensors */
    OWNED = 1            /* vectors that a model has beside its tensors and layers */
};

/* Of the norms inside latent attention, and of FalconMamba's of dt, B and C: both have it whatever the model's own epsilon is. */
static const float INNER_NORM_EPS = 1e-6f;

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

/* The sizes that tensors are made of. */
typedef enum dim {
    DIM_ONE, DIM_MODEL, DIM_Q, DIM_K, DIM_V, DIM_O, DIM_HEADS, DIM_FF, DIM_FF_TWICE, DIM_VOCAB, DIM_CONTEXT,
    DIM_LORA_Q, DIM_LORA_KV, DIM_KV_A, DIM_NOPE, DIM_V_HEAD, DIM_KV_B,
    DIM_EXPERTS, DIM_FF_EXPERT, DIM_FF_EXPERT_TWICE, DIM_FF_SHARED,
    DIM_CONV, DIM_CONV_CHANNELS, DIM_MODEL_3, DIM_SSM_IN, DIM_SSM_X, DIM_SSM_RANK, DIM_SSM_INNER, DIM_SSM_STATE, DIM_SSM_HEADS,
    DIM_SSM_NORM, DIM_DELTA_QKV,
    DIM_STREAMS, DIM_STREAMS_2, DIM_LOW_RANK, DIM_INPUT
} dim;

typedef enum kind {
    MATRIX,  /* [rows, cols] */
    EXPERTS, /* [experts][rows, cols] */
    HEADS,   /* [heads][rows, cols] */
    VECTOR,  /* [rows, cols] float32 in whatever shape */
    NORM,    /* [cols], bias [cols] */
    HEAD_NORM /* [d_k], or one for every head: [rows] in all */
} kind;

typedef struct wanted {
    ct_tensor_id id;
    kind kind;
    const char *name; /* without "blk.N." and ".weight" for tensors of a layer */
    size_t offset;    /* in ct_layer */
    dim rows, cols;
} wanted;

#define AT(field) offsetof(ct_layer, field)

static const wanted layer_tensors[] = {
    {T_ATTN_NORM, NORM, "attn_norm", AT(attn_norm), DIM_ONE, DIM_MODEL},
    {T_ATTN_NORM_2, NORM, "attn_norm_2", AT(attn_norm_2), DIM_ONE, DIM_MODEL},
    {T_ATTN_POST_NORM, NORM, "post_attention_norm", AT(attn_post_norm), DIM_ONE, DIM_MODEL},
    {T_FFN_NORM, NORM, "ffn_norm", AT(ffn_norm), DIM_ONE, DIM_MODEL},
    {T_FFN_POST_NORM, NORM, "post_ffw_norm", AT(ffn_post_norm), DIM_ONE, DIM_MODEL},
    {T_ATTN_SUM_NORM, NORM, "attn_output_norm", AT(attn_sum_norm), DIM_ONE, DIM_MODEL},
    {T_FFN_SUM_NORM, NORM, "layer_output_norm", AT(ffn_sum_norm), DIM_ONE, DIM_MODEL},
    {T_Q, MATRIX, "attn_q", AT(wq), DIM_Q, DIM_MODEL},
    {T_K, MATRIX, "attn_k", AT(wk), DIM_K, DIM_MODEL},
    {T_V, MATRIX, "attn_v", AT(wv), DIM_V, DIM_MODEL},
    {T_O, MATRIX, "attn_output", AT(wo), DIM_MODEL, DIM_O},
    {T_Q_NORM, HEAD_NORM, "attn_q_norm", AT(q_norm), DIM_HEADS, DIM_ONE},
    {T_K_NORM, HEAD_NORM, "attn_k_norm", AT(k_norm), DIM_K, DIM_ONE},
    {T_SINKS, VECTOR, "attn_sinks", AT(sinks), DIM_ONE, DIM_HEADS},
    {T_Q_A, MATRIX, "attn_q_a", AT(q_a), DIM_LORA_Q, DIM_MODEL},
    {T_Q_A_NORM, NORM, "attn_q_a_norm", AT(q_a_norm), DIM_ONE, DIM_LORA_Q},
    {T_Q_B, MATRIX, "attn_q_b", AT(q_b), DIM_Q, DIM_LORA_Q},
    {T_KV_A, MATRIX, "attn_kv_a_mqa", AT(kv_a), DIM_KV_A, DIM_MODEL},
    {T_KV_A_NORM, NORM, "attn_kv_a_norm", AT(kv_a_norm), DIM_ONE, DIM_LORA_KV},
    {T_K_B, HEADS, "attn_k_b", AT(k_b), DIM_LORA_KV, DIM_NOPE},
    {T_V_B, HEADS, "attn_v_b", AT(v_b), DIM_V_HEAD, DIM_LORA_KV},
    {T_KV_B, MATRIX, "attn_kv_b", AT(kv_b), DIM_KV_B, DIM_LORA_KV},
    {T_GATE, MATRIX, "ffn_gate", AT(gate), DIM_FF, DIM_MODEL},
    {T_UP, MATRIX, "ffn_up", AT(up), DIM_FF, DIM_MODEL},
    {T_DOWN, MATRIX, "ffn_down", AT(down), DIM_MODEL, DIM_FF},
    {T_ROUTER, MATRIX, "ffn_gate_inp", AT(router), DIM_EXPERTS, DIM_MODEL},
    {T_ROUTER_BIAS, VECTOR, "exp_probs_b", AT(router_bias), DIM_ONE, DIM_EXPERTS},
    {T_GATE_EXPS, EXPERTS, "ffn_gate_exps", AT(gate_exps), DIM_FF_EXPERT, DIM_MODEL},
    {T_UP_EXPS, EXPERTS, "ffn_up_exps", AT(up_exps), DIM_FF_EXPERT, DIM_MODEL},
    {T_DOWN_EXPS, EXPERTS, "ffn_down_exps", AT(down_exps), DIM_MODEL, DIM_FF_EXPERT},
    {T_SHARED_GATE, MATRIX, "ffn_gate_inp_shexp", AT(shared_gate), DIM_ONE, DIM_MODEL},
    {T_GATE_SHARED, MATRIX, "ffn_gate_shexp", AT(gate_shared), DIM_FF_SHARED, DIM_MODEL},
    {T_UP_SHARED, MATRIX, "ffn_up_shexp", AT(up_shared), DIM_FF_SHARED, DIM_MODEL},
    {T_DOWN_SHARED, MATRIX, "ffn_down_shexp", AT(down_shared), DIM_MODEL, DIM_FF_SHARED},
    {T_CONV, VECTOR, "shortconv.conv", AT(conv), DIM_CONV, DIM_MODEL},
    {T_CONV_IN, MATRIX, "shortconv.in_proj", AT(conv_in), DIM_MODEL_3, DIM_MODEL},
    {T_CONV_OUT, MATRIX, "shortconv.out_proj", AT(conv_out), DIM_MODEL, DIM_MODEL},
    {T_SSM_IN, MATRIX, "ssm_in", AT(ssm_in), DIM_SSM_IN, DIM_MODEL},
    {T_SSM_CONV, VECTOR, "ssm_conv1d", AT(conv), DIM_CONV, DIM_CONV_CHANNELS},
    {T_SSM_X, MATRIX, "ssm_x", AT(ssm_x), DIM_SSM_X, DIM_SSM_INNER},
    {T_SSM_DT, MATRIX, "ssm_dt", AT(ssm_dt), DIM_SSM_INNER, DIM_SSM_RANK},
    {T_SSM_DT_BIAS, VECTOR, "ssm_dt.bias", AT(ssm_dt_bias), DIM_ONE, DIM_SSM_HEADS},
    {T_SSM_A, VECTOR, "ssm_a", AT(ssm_a), DIM_SSM_STATE, DIM_SSM_HEADS},
    {T_SSM_D, VECTOR, "ssm_d", AT(ssm_d), DIM_ONE, DIM_SSM_HEADS},
    {T_SSM_NORM, NORM, "ssm_norm", AT(ssm_norm), DIM_ONE, DIM_SSM_NORM},
    {T_SSM_OUT, MATRIX, "ssm_out", AT(ssm_out), DIM_MODEL, DIM_SSM_INNER},
    {T_SSM_DT_NORM, NORM, "ssm_dt_norm", AT(ssm_dt_norm), DIM_ONE, DIM_SSM_RANK},
    {T_SSM_B_NORM, NORM, "ssm_b_norm", AT(ssm_b_norm), DIM_ONE, DIM_SSM_STATE},
    {T_SSM_C_NORM, NORM, "ssm_c_norm", AT(ssm_c_norm), DIM_ONE, DIM_SSM_STATE},
    {T_DELTA_QKV, MATRIX, "attn_qkv", AT(delta_qkv), DIM_DELTA_QKV, DIM_MODEL},
    {T_DELTA_GATE, MATRIX, "attn_gate", AT(delta_gate), DIM_SSM_INNER, DIM_MODEL},
    {T_DELTA_ALPHA, MATRIX, "ssm_alpha", AT(delta_alpha), DIM_SSM_HEADS, DIM_MODEL},
    {T_DELTA_BETA, MATRIX, "ssm_beta", AT(delta_beta), DIM_SSM_HEADS, DIM_MODEL},
    {T_STREAM_ROUTER_NORM, NORM, "altup_router_norm", AT(streams.router_norm), DIM_ONE, DIM_MODEL},
    {T_STREAM_ROUTER, MATRIX, "altup_router", AT(streams.router), DIM_STREAMS, DIM_MODEL},
    {T_STREAM_PREDICT, VECTOR, "altup_predict_coef", AT(streams.predict), DIM_STREAMS_2, DIM_STREAMS},
    {T_STREAM_CORRECT, VECTOR, "altup_correct_coef", AT(streams.correct), DIM_STREAMS, DIM_STREAMS},
    {T_STREAM_SCALE, VECTOR, "altup_correct_scale", AT(streams.scale), DIM_ONE, DIM_MODEL},
    {T_LOW_RANK_A, MATRIX, "laurel_l", AT(low_rank_a), DIM_LOW_RANK, DIM_MODEL},
    {T_LOW_RANK_B, MATRIX, "laurel_r", AT(low_rank_b), DIM_MODEL, DIM_LOW_RANK},
    {T_LOW_RANK_NORM, NORM, "laurel_post_norm", AT(low_rank_norm), DIM_ONE, DIM_MODEL},
    {T_INPUT_GATE, MATRIX, "inp_gate", AT(input_gate), DIM_INPUT, DIM_MODEL},
    {T_INPUT_PROJ, MATRIX, "proj", AT(input_proj), DIM_MODEL, DIM_INPUT},
    {T_INPUT_NORM, NORM, "post_norm", AT(input_norm), DIM_ONE, DIM_MODEL},
};
_Static_assert(COUNT(layer_tensors) == T_COUNT, "one row for every tensor");
_Static_assert(T_COUNT <= 64, "a set of tensors is 64 bits");

/* What a converter may leave in a layer and nothing needs: rotary tables (the engine computes its own). */
static const char *const ignored_tensors[] = {"attn_rot_embd.weight", "attn.rotary_emb.inv_freq", "rope_freqs.weight"};

static uint64_t dim_size(const ct_config *c, const ct_layer_config *l, dim which)
{
    bool mamba = l != NULL && l->mixer == CT_MIX_MAMBA, delta = l != NULL && l->mixer == CT_MIX_DELTA;
    uint64_t group = (uint64_t)c->ssm_groups * c->ssm_state;
    switch (which) {
    case DIM_ONE: return 1;
    case DIM_MODEL: return c->d_model;
    case DIM_Q: return (uint64_t)c->n_heads * c->d_q;
    case DIM_K: return (uint64_t)c->n_kv_heads * c->d_k;
    case DIM_V: return (uint64_t)c->n_kv_heads * c->d_v;
    case DIM_O: return (uint64_t)c->n_heads * c->d_o;
    case DIM_HEADS: return c->n_heads;
    case DIM_FF: return l->n_ff;
    case DIM_FF_TWICE: return 2 * (uint64_t)l->n_ff;
    case DIM_VOCAB: return c->n_vocab;
    case DIM_CONTEXT: return c->n_context;
    case DIM_LORA_Q: return c->n_lora_q;
    case DIM_LORA_KV: return c->n_lora_kv;
    case DIM_KV_A: return (uint64_t)c->n_lora_kv + c->rope.n_rot;
    case DIM_NOPE: return c->n_nope;
    case DIM_V_HEAD: return c->d_v_head;
    case DIM_KV_B: return (uint64_t)c->n_heads * (c->n_nope + c->d_v_head);
    case DIM_EXPERTS: return c->n_experts;
    case DIM_FF_EXPERT: return c->n_ff_expert;
    case DIM_FF_EXPERT_TWICE: return 2 * (uint64_t)c->n_ff_expert;
    case DIM_FF_SHARED: return c->n_ff_shared;
    case DIM_CONV: return c->conv_width;
    case DIM_CONV_CHANNELS: return mamba ? c->ssm_inner : c->ssm_inner + 2 * group;
    case DIM_MODEL_3: return 3 * (uint64_t)c->d_model;
    case DIM_SSM_IN: return mamba ? 2 * (uint64_t)c->ssm_inner : 2 * (uint64_t)c->ssm_inner + 2 * group + c->ssm_heads;
    case DIM_SSM_X: return (uint64_t)c->ssm_heads + 2 * (uint64_t)c->ssm_state;
    case DIM_SSM_RANK: return c->ssm_heads;
    case DIM_SSM_INNER: return c->ssm_inner;
    case DIM_SSM_STATE: return mamba ? c->ssm_state : 1;
    case DIM_SSM_HEADS: return mamba ? c->ssm_inner : c->ssm_heads;
    case DIM_SSM_NORM: return delta ? c->ssm_inner / c->ssm_heads : c->ssm_inner;
    case DIM_DELTA_QKV: return c->ssm_inner + 2 * group;
    case DIM_STREAMS: return c->n_streams;
    case DIM_STREAMS_2: return (uint64_t)c->n_streams * c->n_streams;
    case DIM_LOW_RANK: return c->n_low_rank;
    case DIM_INPUT: return c->n_layer_input;
    }
    return 0;
}

/* ---- sets ---- */

static uint64_t mixer_tensors(const ct_config *c, ct_mixer mixer)
{
    const uint64_t ssm = CT_T(SSM_CONV) | CT_T(SSM_DT_BIAS) | CT_T(SSM_A) | CT_T(SSM_OUT);
    switch (mixer) {
    case CT_MIX_ATTENTION: return CT_T(Q) | CT_T(K) | CT_T(V) | CT_T(O);
    case CT_MIX_LATENT:
        return (c->n_lora_q > 0 ? CT_T(Q_A) | CT_T(Q_A_NORM) | CT_T(Q_B) : CT_T(Q)) | CT_T(KV_A) | CT_T(KV_A_NORM) | CT_T(O)
             | (c->latent_split ? CT_T(K_B) | CT_T(V_B) : CT_T(KV_B));
    case CT_MIX_SHORT_CONV: return CT_T(CONV) | CT_T(CONV_IN) | CT_T(CONV_OUT);
    case CT_MIX_MAMBA: return ssm | CT_T(SSM_IN) | CT_T(SSM_X) | CT_T(SSM_DT) | CT_T(SSM_D);
    case CT_MIX_MAMBA2: return ssm | CT_T(SSM_IN) | CT_T(SSM_D);
    case CT_MIX_DELTA: return ssm | CT_T(SSM_NORM) | CT_T(DELTA_QKV) | CT_T(DELTA_GATE) | CT_T(DELTA_ALPHA) | CT_T(DELTA_BETA);
    }
    return 0;
}

/* What a layer that attends over another's keys may bring along; it is not read. */
static const uint64_t own_keys = CT_T(K) | CT_T(V) | CT_T(K_NORM);

static const uint64_t attention_only = CT_T(Q_NORM) | CT_T(K_NORM) | CT_T(SINKS);

/* What layer i must and may have. */
static void layer_sets(const cactus_model *model, uint32_t i, uint64_t *need, uint64_t *may)
{
    const ct_arch *arch = model->arch;
    const ct_config *c = &model->config;
    const ct_layer_config *l = &c->layers[i];
    const uint64_t expert_only = CT_T(SHARED_GATE) | CT_T(ROUTER_BIAS);
    bool attends = l->mixer == CT_MIX_ATTENTION || l->mixer == CT_MIX_LATENT;
    *need = arch->need | mixer_tensors(c, l->mixer);
    *may = arch->may;
    if (arch->streams) *need |= CT_T(STREAM_ROUTER_NORM) | CT_T(STREAM_ROUTER) | CT_T(STREAM_PREDICT) | CT_T(STREAM_CORRECT) | CT_T(STREAM_SCALE);
    if (arch->layer_inputs) *need |= CT_T(INPUT_GATE) | CT_T(INPUT_PROJ) | CT_T(INPUT_NORM);
    if (l->shares_kv) *need &= ~own_keys;
    if (l->beside) *need |= mixer_tensors(c, arch->recurrent);
    if (l->mixer == CT_MIX_MAMBA && c->ssm_norms) *may |= CT_T(SSM_DT_NORM) | CT_T(SSM_B_NORM) | CT_T(SSM_C_NORM);
    if (!attends) *need &= ~attention_only, *may &= ~attention_only;
    if (l->experts) {
        *need |= CT_T(ROUTER) | CT_T(GATE_EXPS) | CT_T(UP_EXPS) | CT_T(DOWN_EXPS);
        if (c->n_ff_shared > 0) *need |= CT_T(GATE_SHARED) | CT_T(UP_SHARED) | CT_T(DOWN_SHARED);
    } else {
        *may &= ~expert_only;
        if (arch->ffn != CT_FFN_NONE) *need |= CT_T(UP) | CT_T(DOWN);
        if (arch->ffn == CT_FFN_GATED) *need |= CT_T(GATE);
    }
}

/* ---- shapes ---- */

static void shape_text(const ct_gguf_tensor *t, char text[96])
{
    size_t at = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < t->n_dims && at < 80; i++)
        at += (size_t)snprintf(text + at, 96 - at, "%s%llu", i > 0 ? " x " : "", (unsigned long long)t->ne[i]);
}

static cactus_status check_shape(const ct_gguf_tensor *t, const char *name, uint64_t ne0, uint64_t ne1, uint64_t ne2, cactus_error *err)
{
    char have[96], want[96];
    if (t->ne[0] == ne0 && t->ne[1] == ne1 && t->ne[2] == ne2 && t->ne[3] == 1) return CACTUS_OK;
    ct_gguf_tensor wanted_shape = {.n_dims = ne2 > 1 ? 3 : ne1 > 1 ? 2 : 1, .ne = {ne0, ne1, ne2, 1}};
    shape_text(t, have);
    shape_text(&wanted_shape, want);
    return ct_fail(err, CACTUS_ERROR_FORMAT, "tensor %s has shape %s; the configuration wants %s", name, have, want);
}

/* ---- single tensors ---- */

/* The elements of a tensor as float32: in place where the file has F32, else converted into memory of the model. */
static cactus_status take_floats(cactus_model *model, const ct_gguf_tensor *t, const char *name, uint64_t n, const float **out, cactus_error *err)
{
    if (t->type == CT_F32 && (uintptr_t)t->data % sizeof(float) == 0) {
        *out = (const float *)(const void *)t->data;
        return CACTUS_OK;
    }
    if (t->info->decode_f32 == NULL || t->info->decode_codes != NULL)
        return ct_fail(err, CACTUS_ERROR_UNSUPPORTED, "tensor %s has type %s; a vector must be F32, F16 or BF16", name, t->info->name);
    float *copy = ct_alloc(n, sizeof *copy);
    if (copy == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for tensor %s", name);
    t->info->decode_f32(t->data, n, copy);
    model->owned_vectors[model->n_owned_vectors++] = copy; /* there is room for one of every tensor of the file */
    *out = copy;
    return CACTUS_OK;
}

/* n elements in the order of the file, their shape being any that multiplies to n. */
static cactus_status load_vector(cactus_model *model, const char *name, uint64_t n, bool optional, const float **out, cactus_error *err)
{
    const ct_gguf_tensor *t = ct_gguf_find_tensor(model->gguf, name);
    char have[96];
    *out = NULL;
    if (t == NULL) return optional ? CACTUS_OK : ct_fail(err, CACTUS_ERROR_FORMAT, "tensor %s is missing", name);
    if (t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3] != n) {
        shape_text(t, have);
        return ct_fail(err, CACTUS_ERROR_FORMAT, "tensor %s has shape %s; the configuration wants %llu", name, have, (unsigned long long)n);
    }
    return take_floats(model, t, name, n, out, err);
}

/* [n_parts][n_rows, n_cols]; the rows of all parts lie behind each other. */
static cactus_status load_matrix(cactus_model *model, const char *name, uint64_t n_parts, uint64_t n_rows, uint64_t n_cols, bool optional,
                                 ct_matrix *out, cactus_error *err)
{
    const ct_gguf_tensor *t = ct_gguf_find_tensor(model->gguf, name);
    *out = (ct_matrix){0};
    if (t == NULL) return optional ? CACTUS_OK : ct_fail(err, CACTUS_ERROR_FORMAT, "tensor %s is missing", name);
    cactus_status status = n_parts == 1 && n_rows == 1 && t->ne[0] == n_cols ? CACTUS_OK : check_shape(t, name, n_cols, n_rows, n_parts, err);
    if (status != CACTUS_OK) return status;
    if (t->info->decode_f32 == NULL)
        return ct_fail(err, CACTUS_ERROR_UNSUPPORTED, "tensor %s has type %s, which this engine cannot compute with", name, t->info->name);
    *out = (ct_matrix){.data = t->data, .info = t->info, .type = t->type, .n_rows = n_rows, .n_cols = n_cols};
    if (!ct_type_row_bytes(t->info, n_cols, &out->row_bytes))
        return ct_fail(err, CACTUS_ERROR_FORMAT, "tensor %s has rows of %llu elements, no multiple of a %s block (%u)", name, (unsigned long long)n_cols,
                       t->info->name, t->info->block_elems);
    if (t->info->decode_codes != NULL) model->all_float = false;
    return CACTUS_OK;
}

/* Rows first … first + n_rows of a matrix, with their biases. */
static ct_matrix rows_of(const ct_matrix *all, uint64_t first, uint64_t n_rows)
{
    ct_matrix part = *all;
    part.data += first * all->row_bytes;
    part.n_rows = n_rows;
    if (part.bias != NULL) part.bias += first;
    return part;
}

/* ---- layers ---- */

typedef struct layer_loader {
    cactus_model *model;
    ct_layer *layer;
    const ct_layer_config *config;
    uint32_t index;
    uint64_t missing; /* tensors that were needed and not there: another one may hold them */
    cactus_error *err;
} layer_loader;

static void layer_name(char name[NAME_BYTES], uint32_t layer, const char *stem, const char *suffix)
{
    snprintf(name, NAME_BYTES, "blk.%u.%s%s", layer, stem, suffix);
}

static const char *stem_of(const cactus_model *model, const wanted *want)
{
    if (want->id == T_FFN_NORM && model->arch->ffn_norm != NULL) return model->arch->ffn_norm;
    return want->name;
}

/* The file's name of a tensor: with ".weight", or bare where it has it so. */
static void tensor_name(const layer_loader *l, const wanted *want, char name[NAME_BYTES])
{
    char bare[NAME_BYTES];
    layer_name(bare, l->index, stem_of(l->model, want), "");
    layer_name(name, l->index, stem_of(l->model, want), want->id == T_ROUTER_BIAS ? ".bias" : ".weight");
    if (ct_gguf_find_tensor(l->model->gguf, bare) != NULL) memcpy(name, bare, NAME_BYTES);
}

static cactus_status load_bias(const layer_loader *l, const char *stem, uint64_t n, bool needed, const float **out)
{
    char name[NAME_BYTES];
    layer_name(name, l->index, stem, ".bias");
    return load_vector(l->model, name, n, !needed, out, l->err);
}

static cactus_status load_head_norm(const layer_loader *l, const wanted *want, const char *name, ct_norm *norm)
{
    const ct_config *c = &l->model->config;
    uint64_t n_heads = want->id == T_Q_NORM ? c->n_heads : c->n_kv_heads, n = c->d_k;
    const ct_gguf_tensor *t = ct_gguf_find_tensor(l->model->gguf, name);
    uint64_t have = t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
    bool per_head = !l->model->arch->qk_norm_whole && have != n && have == n * n_heads;
    if (l->model->arch->qk_norm_whole || per_head) n *= n_heads;
    if (want->id == T_K_NORM && l->layer->q_norm.weight != NULL && per_head != l->layer->norm_per_head && c->n_kv_heads > 1)
        return ct_fail(l->err, CACTUS_ERROR_FORMAT, "tensor %s has %llu weights; queries are normalised %s", name, (unsigned long long)have,
                       l->layer->norm_per_head ? "head by head" : "with the same weights for all heads");
    l->layer->norm_per_head |= per_head;
    return load_vector(l->model, name, n, false, &norm->weight, l->err);
}

static cactus_status load_one(const layer_loader *l, const wanted *want, const char *name)
{
    cactus_model *model = l->model;
    const ct_config *c = &model->config;
    const char *stem = stem_of(model, want);
    uint64_t rows = dim_size(c, l->config, want->rows), cols = dim_size(c, l->config, want->cols);
    uint64_t n_parts = want->kind == EXPERTS ? c->n_experts : want->kind == HEADS ? c->n_heads : 1;
    bool fused = want->id == T_UP && model->arch->ffn == CT_FFN_FUSED;
    void *at = (char *)l->layer + want->offset;
    ct_matrix *matrix = at;
    ct_norm *norm = at;
    cactus_status status;
    switch (want->kind) {
    case VECTOR:
        status = load_vector(model, name, rows * cols, false, at, l->err);
        if (status == CACTUS_OK && want->id == T_SSM_CONV) status = load_bias(l, stem, cols, false, &l->layer->conv_bias);
        return status;
    case HEAD_NORM:
    case NORM:
        norm->eps = want->id == T_Q_A_NORM || want->id == T_KV_A_NORM ? INNER_NORM_EPS : c->norm_eps;
        norm->kind = model->arch->norm;
        if (want->kind == HEAD_NORM) return load_head_norm(l, want, name, norm);
        status = load_vector(model, name, cols, false, &norm->weight, l->err);
        return status != CACTUS_OK || norm->kind != CT_NORM_LAYER ? status : load_bias(l, stem, cols, model->arch->biased, &norm->bias);
    case MATRIX:
    case EXPERTS:
    case HEADS: break;
    }
    if (fused) rows *= 2;
    if ((status = load_matrix(model, name, n_parts, rows, cols, false, matrix, l->err)) != CACTUS_OK) return status;
    if (want->id != T_SSM_DT) status = load_bias(l, stem, n_parts * rows, false, &matrix->bias);
    if (fused && status == CACTUS_OK) {
        l->layer->gate = rows_of(matrix, 0, rows / 2);
        *matrix = rows_of(matrix, rows / 2, rows / 2);
    }
    return status;
}

/* Tensors that hold several of the wanted ones: queries, keys and values; gate and up of the experts. */
static cactus_status load_joined(layer_loader *l)
{
    const uint64_t qkv = CT_T(Q) | CT_T(K) | CT_T(V), gate_up = CT_T(GATE_EXPS) | CT_T(UP_EXPS);
    const ct_config *c = &l->model->config;
    char name[NAME_BYTES];
    cactus_status status = CACTUS_OK;
    layer_name(name, l->index, "attn_qkv", ".weight");
    if ((l->missing & qkv) == qkv && ct_gguf_find_tensor(l->model->gguf, name) != NULL) {
        uint64_t q = dim_size(c, l->config, DIM_Q), k = dim_size(c, l->config, DIM_K), v = dim_size(c, l->config, DIM_V);
        ct_matrix all;
        if ((status = load_matrix(l->model, name, 1, q + k + v, c->d_model, false, &all, l->err)) != CACTUS_OK
            || (status = load_bias(l, "attn_qkv", q + k + v, l->model->arch->biased, &all.bias)) != CACTUS_OK)
            return status;
        l->layer->wq = rows_of(&all, 0, q);
        l->layer->wk = rows_of(&all, q, k);
        l->layer->wv = rows_of(&all, q + k, v);
        l->missing &= ~qkv;
    }
    layer_name(name, l->index, "ffn_gate_up_exps", ".weight");
    if ((l->missing & gate_up) == gate_up && ct_gguf_find_tensor(l->model->gguf, name) != NULL) {
        uint64_t n = c->n_ff_expert;
        ct_matrix all;
        if ((status = load_matrix(l->model, name, c->n_experts, 2 * n, c->d_model, false, &all, l->err)) != CACTUS_OK
            || (status = load_bias(l, "ffn_gate_up_exps", c->n_experts * 2 * n, false, &all.bias)) != CACTUS_OK)
            return status;
        all.part_rows = 2 * n;
        l->layer->gate_exps = rows_of(&all, 0, n);
        l->layer->up_exps = rows_of(&all, n, n);
        l->missing &= ~gate_up;
    }
    return CACTUS_OK;
}

static cactus_status load_layer(cactus_model *model, uint32_t index, cactus_error *err)
{
    layer_loader l = {.model = model, .layer = &model->weights.layers[index], .config = &model->config.layers[index], .index = index, .err = err};
    uint64_t need, may;
    char name[NAME_BYTES];
    cactus_status status = CACTUS_OK;
    layer_sets(model, index, &need, &may);
    for (size_t i = 0; i < COUNT(layer_tensors); i++) {
        const wanted *want = &layer_tensors[i];
        uint64_t bit = UINT64_C(1) << want->id;
        if (((need | may) & bit) == 0) continue;
        tensor_name(&l, want, name);
        if (ct_gguf_find_tensor(model->gguf, name) == NULL) l.missing |= need & bit;
        else if ((status = load_one(&l, want, name)) != CACTUS_OK) return status;
    }
    if ((status = load_joined(&l)) != CACTUS_OK) return status;
    for (size_t i = 0; l.missing != 0 && i < COUNT(layer_tensors); i++)
        if ((l.missing >> layer_tensors[i].id & 1) != 0) {
            tensor_name(&l, &layer_tensors[i], name);
            return ct_fail(err, CACTUS_ERROR_FORMAT, "tensor %s is missing", name);
        }
    return CACTUS_OK;
}

/* ---- what recurrent layers need beside their tensors ---- */

static float *own_floats(cactus_model *model, size_t n)
{
    float *p = n == 0 ? NULL : ct_alloc(n, sizeof *p);
    if (p != NULL) model->owned_vectors[model->n_owned_vectors++] = p; /* a layer asks for at most OWNED_PER_LAYER, a model for OWNED */
    return p;
}

static const float *ones(cactus_model *model, size_t n)
{
    float *p = own_floats(model, n);
    for (size_t i = 0; p != NULL && i < n; i++) p[i] = 1.0f;
    return p;
}

/* Fills in the layer's description for nn/recurrent.h and its place in the state. */
static cactus_status prepare_recurrent(cactus_model *model, uint32_t index, cactus_error *err)
{
    ct_config *c = &model->config;
    ct_layer_config *lc = &c->layers[index];
    ct_layer *l = &model->weights.layers[index];
    ct_mixer mixer = lc->beside ? model->arch->recurrent : lc->mixer;
    if (l->conv == NULL) return CACTUS_OK;
    ct_layer_config as = {.mixer = mixer};
    size_t n_channels = mixer == CT_MIX_SHORT_CONV ? c->d_model : dim_size(c, &as, DIM_CONV_CHANNELS), floats = 0;
    float *taps = own_floats(model, n_channels * c->conv_width), *a = NULL;
    if (taps == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the convolution of layer %u", index);
    ct_transpose(taps, l->conv, n_channels, c->conv_width);
    l->taps = (ct_conv){.width = c->conv_width, .n_channels = n_channels, .w = taps, .bias = l->conv_bias};
    switch (mixer) {
    case CT_MIX_SHORT_CONV: floats = ct_short_conv_state_floats(&l->taps); break;
    case CT_MIX_MAMBA:
        a = own_floats(model, ct_columns_floats(c->ssm_state, c->ssm_inner));
        if (a == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the states of layer %u", index);
        ct_pack_columns(a, l->ssm_a, c->ssm_state, c->ssm_inner);
        l->mamba = (ct_mamba){.conv = l->taps, .d_inner = c->ssm_inner, .d_state = c->ssm_state, .dt_rank = c->ssm_heads, .a = a, .d = l->ssm_d,
                              .dt_bias = l->ssm_dt_bias, .dt_norm = l->ssm_dt_norm.weight, .b_norm = l->ssm_b_norm.weight,
                              .c_norm = l->ssm_c_norm.weight, .norm_eps = c->ssm_norms ? INNER_NORM_EPS : c->norm_eps};
        if (c->ssm_norms) {
            if (l->mamba.dt_norm == NULL) l->mamba.dt_norm = ones(model, c->ssm_heads);
            if (l->mamba.b_norm == NULL) l->mamba.b_norm = ones(model, c->ssm_state);
            if (l->mamba.c_norm == NULL) l->mamba.c_norm = ones(model, c->ssm_state);
            if (!l->mamba.dt_norm || !l->mamba.b_norm || !l->mamba.c_norm) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the norms of layer %u", index);
        }
        floats = ct_mamba_state_floats(&l->mamba);
        break;
    case CT_MIX_MAMBA2:
        l->mamba2 = (ct_mamba2){.conv = l->taps, .d_inner = c->ssm_inner, .d_state = c->ssm_state, .n_heads = c->ssm_heads, .n_groups = c->ssm_groups,
                                .a = l->ssm_a, .d = l->ssm_d, .dt_bias = l->ssm_dt_bias, .norm = l->ssm_norm.weight, .norm_eps = c->norm_eps};
        floats = ct_mamba2_state_floats(&l->mamba2);
        break;
    case CT_MIX_DELTA:
        l->delta = (ct_delta_net){.conv = l->taps, .n_k_heads = c->ssm_groups, .d_k = c->ssm_state, .n_v_heads = c->ssm_heads,
                                  .d_v = c->ssm_inner / c->ssm_heads, .tiled = true, .a = l->ssm_a, .dt_bias = l->ssm_dt_bias,
                                  .norm = l->ssm_norm.weight, .norm_eps = c->norm_eps, .l2_eps = 1e-6f};
        floats = ct_delta_net_state_floats(&l->delta);
        break;
    case CT_MIX_ATTENTION:
    case CT_MIX_LATENT: return CACTUS_OK;
    }
    lc->state = c->state_floats;
    if (floats == 0 || !ct_add_ok(c->state_floats, ct_round_up(floats, 16), &c->state_floats) || c->state_floats > SIZE_MAX / sizeof(float))
        return ct_fail(err, CACTUS_ERROR_MEMORY, "the recurrent state of this model overflows");
    return CACTUS_OK;
}

/* ---- the whole model ---- */

static cactus_status check_factors(const float *factors, size_t n, const char *name, cactus_error *err)
{
    for (size_t i = 0; factors != NULL && i < n; i++)
        if (!(factors[i] > 0.0f && isfinite(factors[i])))
            return ct_fail(err, CACTUS_ERROR_FORMAT, "tensor %s holds %g at %zu; every factor must be positive", name, (double)factors[i], i);
    return CACTUS_OK;
}

static cactus_status load_factors(cactus_model *model, cactus_error *err)
{
    const char *names[] = {"rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"};
    const float *found[3] = {NULL, NULL, NULL};
    ct_config *c = &model->config;
    size_t n = c->rope.n_rot / 2;
    for (size_t i = 0; i < 3; i++) {
        cactus_status status = load_vector(model, names[i], n, true, &found[i], err);
        if (status == CACTUS_OK) status = check_factors(found[i], n, names[i], err);
        if (status != CACTUS_OK) return status;
    }
    if (c->rope.needs_factors && found[1] == NULL)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "tensor %s is missing; rope scaling \"longrope\" needs it", names[1]);
    if ((found[1] == NULL) != (found[2] == NULL))
        return ct_fail(err, CACTUS_ERROR_FORMAT, "tensor %s is missing; short and long factors come together", names[found[1] == NULL ? 1 : 2]);
    c->rope.freq_factors = found[0] != NULL ? found[0] : found[1];
    model->weights.long_factors = found[2];
    if (!model->arch->local_unscaled) c->local_rope.freq_factors = c->rope.freq_factors;
    return CACTUS_OK;
}

/* A tensor of a layer that this loader never looked at would silently change the model: refuse it. */
static bool has_place(const cactus_model *model, uint32_t layer, const char *suffix, size_t n_bytes)
{
    static const char *const endings[] = {"", ".weight", ".bias"};
    uint64_t need, may;
    char name[NAME_BYTES];
    layer_sets(model, layer, &need, &may);
    if (model->config.layers[layer].shares_kv) may |= own_keys;
    for (size_t i = 0; i < COUNT(layer_tensors); i++) {
        if (((need | may) >> layer_tensors[i].id & 1) == 0) continue;
        for (size_t e = 0; e < COUNT(endings); e++) {
            int n = snprintf(name, NAME_BYTES, "%s%s", stem_of(model, &layer_tensors[i]), endings[e]);
            if ((size_t)n == n_bytes && memcmp(name, suffix, n_bytes) == 0) return true;
        }
    }
    static const struct { ct_tensor_id part; const char *stem; } joined[] = {{T_V, "attn_qkv"}, {T_UP_EXPS, "ffn_gate_up_exps"}};
    for (size_t i = 0; i < COUNT(joined); i++)
        for (size_t e = 1; e < COUNT(endings); e++) {
            int n = snprintf(name, NAME_BYTES, "%s%s", joined[i].stem, endings[e]);
            if ((need >> joined[i].part & 1) != 0 && (size_t)n == n_bytes && memcmp(name, suffix, n_bytes) == 0) return true;
        }
    for (size_t i = 0; i < COUNT(ignored_tensors); i++)
        if (strlen(ignored_tensors[i]) == n_bytes && memcmp(ignored_tensors[i], suffix, n_bytes) == 0) return true;
    return false;
}

static cactus_status check_no_unknown_tensors(const cactus_model *model, cactus_error *err)
{
    for (size_t i = 0; i < ct_gguf_n_tensors(model->gguf); i++) {
        ct_str name = ct_gguf_tensor_at(model->gguf, i)->name;
        if (name.size < 5 || memcmp(name.data, "blk.", 4) != 0) continue;
        size_t at = 4;
        uint64_t layer = 0;
        while (at < name.size && name.data[at] >= '0' && name.data[at] <= '9' && layer < CT_MAX_LAYERS) layer = 10 * layer + (uint64_t)(name.data[at++] - '0');
        bool numbered = at > 4 && at < name.size && name.data[at] == '.' && layer < model->config.n_layers;
        if (numbered && has_place(model, (uint32_t)layer, name.data + at + 1, name.size - at - 1)) continue;
        char shown[4 * SHOWN_CHARS + 4];
        return ct_fail(err, CACTUS_ERROR_UNSUPPORTED, "tensor %s has no place in the %s architecture as this engine runs it",
                       ct_gguf_printable(shown, name, SHOWN_CHARS), model->arch->name);
    }
    return CACTUS_OK;
}

static cactus_status load_norm(cactus_model *model, const char *name, uint64_t n, ct_norm *norm, cactus_error *err)
{
    norm->eps = model->config.norm_eps;
    norm->kind = model->arch->norm;
    return load_vector(model, name, n, false, &norm->weight, err);
}

static cactus_status load_streams(cactus_model *model, cactus_error *err)
{
    const ct_config *c = &model->config;
    ct_streams *s = &model->weights.streams;
    cactus_status status;
    if (!model->arch->streams) return CACTUS_OK;
    *s = (ct_streams){.n = c->n_streams, .active = c->active_stream, .d = c->d_model};
    if ((status = load_matrix(model, "altup_proj.weight", s->n - 1, s->d, s->d, false, &s->first, err)) != CACTUS_OK) return status;
    return load_matrix(model, "altup_unembd_proj.weight", s->n - 1, s->d, s->d, false, &s->last, err);
}

static cactus_status load_layer_inputs(cactus_model *model, cactus_error *err)
{
    const ct_config *c = &model->config;
    ct_weights *w = &model->weights;
    uint64_t n = (uint64_t)c->n_layers * c->n_layer_input;
    cactus_status status;
    if (!model->arch->layer_inputs) return CACTUS_OK;
    if ((status = load_matrix(model, "per_layer_token_embd.weight", 1, c->n_vocab, n, false, &w->input_embed, err)) != CACTUS_OK
        || (status = load_matrix(model, "per_layer_model_proj.weight", 1, n, c->d_model, false, &w->input_proj, err)) != CACTUS_OK)
        return status;
    return load_norm(model, "per_layer_proj_norm.weight", c->n_layer_input, &w->input_norm, err);
}

/* What tokens become before the first layer of an encoder, beside their own rows. DistilBERT has no types, and its files say 1. */
static cactus_status load_encoder_input(cactus_model *model, cactus_error *err)
{
    const ct_config *c = &model->config;
    ct_weights *w = &model->weights;
    const ct_gguf_tensor *types = ct_gguf_find_tensor(model->gguf, "token_types.weight");
    cactus_status status;
    uint32_t n_types = types == NULL ? 0 : types->ne[1] > UINT32_MAX ? UINT32_MAX : (uint32_t)types->ne[1];
    bool found;
    if ((status = ct_gguf_get_u32(model->gguf, "tokenizer.ggml.token_type_count", &n_types, &found, err)) != CACTUS_OK
        || (status = load_matrix(model, "token_types.weight", 1, n_types, c->d_model, n_types <= 1, &w->token_types, err)) != CACTUS_OK
        || (status = load_norm(model, "token_embd_norm.weight", c->d_model, &w->embed_norm, err)) != CACTUS_OK)
        return status;
    return load_vector(model, "token_embd_norm.bias", c->d_model, !model->arch->biased, &w->embed_norm.bias, err);
}

/* What comes of the last layer of a decoder. */
static cactus_status load_output(cactus_model *model, cactus_error *err)
{
    const ct_arch *arch = model->arch;
    const ct_config *c = &model->config;
    ct_weights *w = &model->weights;
    const char *output_norm = arch->output_norm != NULL ? arch->output_norm : "output_norm";
    char name[NAME_BYTES];
    cactus_status status;
    w->output_norm.eps = c->norm_eps;
    w->output_norm.kind = arch->norm;
    snprintf(name, NAME_BYTES, "%s.weight", output_norm);
    if ((status = load_matrix(model, "output.weight", 1, c->n_vocab, c->d_model, true, &w->head, err)) != CACTUS_OK
        || (status = load_vector(model, name, c->d_model, false, &w->output_norm.weight, err)) != CACTUS_OK)
        return status;
    if (w->head.data == NULL) w->head = w->embed;
    if ((status = load_vector(model, "output.bias", c->n_vocab, true, &w->head.bias, err)) != CACTUS_OK) return status;
    snprintf(name, NAME_BYTES, "%s.bias", output_norm);
    return arch->norm != CT_NORM_LAYER ? CACTUS_OK : load_vector(model, name, c->d_model, !arch->biased, &w->output_norm.bias, err);
}

cactus_status ct_weights_load(cactus_model *model, cactus_error *err)
{
    const ct_arch *arch = model->arch;
    const ct_config *c = &model->config;
    ct_weights *w = &model->weights;
    cactus_status status;
    model->all_float = true;
    w->layers = ct_alloc(c->n_layers, sizeof *w->layers);
    model->owned_vectors = ct_alloc(ct_gguf_n_tensors(model->gguf) + OWNED_PER_LAYER * c->n_layers + OWNED, sizeof *model->owned_vectors);
    if (w->layers == NULL || model->owned_vectors == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for %u layers", c->n_layers);
    if ((status = load_matrix(model, "token_embd.weight", 1, c->n_vocab, c->d_model, false, &w->embed, err)) != CACTUS_OK
        || (status = arch->encoder ? load_encoder_input(model, err) : load_output(model, err)) != CACTUS_OK)
        return status;
    if (arch->learned_positions && (status = load_matrix(model, "position_embd.weight", 1, c->n_context, c->d_model, false, &w->positions, err)) != CACTUS_OK)
        return status;
    if ((status = load_factors(model, err)) != CACTUS_OK || (status = load_streams(model, err)) != CACTUS_OK
        || (status = load_layer_inputs(model, err)) != CACTUS_OK)
        return status;
    if (arch->v_norm) {
        w->v_norm = (ct_norm){.weight = ones(model, c->d_v), .eps = c->norm_eps};
        if (w->v_norm.weight == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the norm of values");
    }
    for (uint32_t i = 0; i < c->n_layers; i++)
        if ((status = load_layer(model, i, err)) != CACTUS_OK || (status = prepare_recurrent(model, i, err)) != CACTUS_OK) return status;
    return check_no_unknown_tensors(model, err);
}
