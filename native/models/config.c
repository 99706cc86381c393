/* config.c: the metadata of a model -> its configuration. Every number is bounded where it is read. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/model.h"

/* Bounds that no real model of this kind exceeds; they keep every later product of sizes far from overflow. */
enum {
    MAX_HEADS = 1024,
    MAX_D_HEAD = 1024,
    MAX_D_MODEL = 1 << 17,
    MAX_N_FF = 1 << 20,
    MAX_CONTEXT = 1 << 24,
    MAX_STATE = 1 << 12,
    MAX_DEVIATIONS = 100,
    KEY_BYTES = 160,
    SHOWN_CHARS = 64
};

typedef struct reader {
    const ct_gguf *gguf;
    const char *prefix; /* architecture */
    cactus_error *err;
} reader;

static void make_key(const reader *r, const char *suffix, char key[KEY_BYTES]) { snprintf(key, KEY_BYTES, "%s.%s", r->prefix, suffix); }

/* Reads PREFIX.suffix; absent: keeps *value if `optional`, else fails. Outside [min, max]: fails. */
static cactus_status read_u32(const reader *r, const char *suffix, bool optional, uint32_t min, uint32_t max, uint32_t *value)
{
    char key[KEY_BYTES];
    bool found = true;
    make_key(r, suffix, key);
    cactus_status status = ct_gguf_get_u32(r->gguf, key, value, optional ? &found : NULL, r->err);
    if (status != CACTUS_OK) return status;
    if (found && (*value < min || *value > max))
        return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s is %u; it must lie between %u and %u", key, *value, min, max);
    return CACTUS_OK;
}

static cactus_status read_f32(const reader *r, const char *suffix, bool optional, double min, double max, float *value)
{
    char key[KEY_BYTES];
    bool found = true;
    make_key(r, suffix, key);
    cactus_status status = ct_gguf_get_f32(r->gguf, key, value, optional ? &found : NULL, r->err);
    if (status != CACTUS_OK) return status;
    if (found && !((double)*value >= min && (double)*value <= max))
        return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s is %g; it must lie between %g and %g", key, (double)*value, min, max);
    return CACTUS_OK;
}

static cactus_status read_bool(const reader *r, const char *suffix, bool *value)
{
    char key[KEY_BYTES];
    bool found;
    make_key(r, suffix, key);
    return ct_gguf_get_bool(r->gguf, key, value, &found, r->err);
}

/* A number for every layer: values [n_layers] from an array of at least as many, or all from one number. Absent: values stay. */
static cactus_status read_per_layer(const reader *r, const char *suffix, bool optional, uint32_t n_layers, uint32_t min, uint32_t max,
                                    uint32_t *values)
{
    char key[KEY_BYTES];
    make_key(r, suffix, key);
    const ct_gguf_kv *kv = ct_gguf_find_kv(r->gguf, key);
    if (kv == NULL || kv->type != CT_GGUF_ARRAY) {
        uint32_t value = values[0];
        bool absent = kv == NULL;
        cactus_status status = read_u32(r, suffix, optional, min, max, &value);
        for (uint32_t i = 0; i < n_layers && status == CACTUS_OK && !absent; i++) values[i] = value;
        return status;
    }
    if (kv->elem == CT_GGUF_STRING || kv->elem == CT_GGUF_ARRAY || kv->elem == CT_GGUF_F32 || kv->elem == CT_GGUF_F64)
        return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s must be a whole number or an array of them", key);
    if (kv->count < n_layers)
        return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s has %llu elements for %u layers", key, (unsigned long long)kv->count, n_layers);
    for (uint32_t i = 0; i < n_layers; i++) {
        int64_t value = ct_gguf_array_i64(kv, i);
        if (value < (int64_t)min || value > (int64_t)max)
            return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s is %lld at layer %u; it must lie between %u and %u", key, (long long)value, i, min, max);
        values[i] = (uint32_t)value;
    }
    return CACTUS_OK;
}

/* The one value that all layers with a value other than 0 have. */
static cactus_status common_value(const reader *r, const char *suffix, const uint32_t *values, uint32_t n_layers, uint32_t *common)
{
    *common = 0;
    for (uint32_t i = 0; i < n_layers; i++) {
        if (values[i] == 0) continue;
        if (*common != 0 && values[i] != *common)
            return ct_fail(r->err, CACTUS_ERROR_UNSUPPORTED, "metadata %s.%s differs between layers (%u and %u), which this engine does not run", r->prefix,
                           suffix, *common, values[i]);
        *common = values[i];
    }
    return CACTUS_OK;
}

/* ---- parts of the configuration ---- */

static bool text_is(ct_str s, const char *text) { return s.size == strlen(text) && memcmp(s.data, text, s.size) == 0; }

static cactus_status read_rope(const reader *r, ct_config *c, const ct_arch *arch)
{
    cactus_status status;
    ct_rope_config *rope = &c->rope;
    uint32_t n_head = arch->latent ? c->d_q : c->d_k, n_rot = n_head, n_orig = c->n_context;
    float log_multiplier = 0.0f, local_base = arch->local_rope_base;
    char key[KEY_BYTES], shown[4 * SHOWN_CHARS + 4];
    bool found;
    *rope = (ct_rope_config){.pairs = arch->rope, .base = 10000.0f, .factor = 1.0f, .attn_factor = 1.0f, .beta_fast = 32.0f, .beta_slow = 1.0f,
                             .not_rounded = arch->yarn_not_rounded};
    c->local_rope = *rope;
    if (arch->no_rope || c->n_kv_layers == 0) return CACTUS_OK;
    if ((status = read_u32(r, "rope.dimension_count", true, 2, n_head, &n_rot)) != CACTUS_OK
        || (status = read_f32(r, "rope.freq_base", true, 1.0 + 1e-3, 1e12, &rope->base)) != CACTUS_OK)
        return status;
    if (n_rot % 2 != 0) return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s.rope.dimension_count is %u; it must be even", r->prefix, n_rot);
    rope->n_rot = n_rot;

    ct_str type = {"linear", 6}; /* a factor alone means linear; so does the older key scale_linear */
    make_key(r, "rope.scaling.type", key);
    if ((status = ct_gguf_get_str(r->gguf, key, &type, &found, r->err)) != CACTUS_OK
        || (status = read_f32(r, "rope.scale_linear", true, 1e-3, 1e6, &rope->factor)) != CACTUS_OK)
        return status;
    rope->needs_factors = text_is(type, "longrope"); /* it is all in them */
    if (text_is(type, "none") || rope->needs_factors) rope->scaling = CT_ROPE_NONE;
    else if (text_is(type, "linear")) rope->scaling = CT_ROPE_LINEAR;
    else if (text_is(type, "yarn")) rope->scaling = CT_ROPE_YARN;
    else
        return ct_fail(r->err, CACTUS_ERROR_UNSUPPORTED, "rope scaling \"%s\" (%s) is not supported; none, linear, yarn and longrope are",
                       ct_gguf_printable(shown, type, SHOWN_CHARS), key);
    if ((status = read_f32(r, "rope.scaling.factor", true, 1e-3, 1e6, &rope->factor)) != CACTUS_OK
        || (status = read_f32(r, "rope.scaling.attn_factor", true, 1e-3, 1e3, &rope->attn_factor)) != CACTUS_OK
        || (status = read_f32(r, "rope.scaling.yarn_beta_fast", true, 1e-3, 1e6, &rope->beta_fast)) != CACTUS_OK
        || (status = read_f32(r, "rope.scaling.yarn_beta_slow", true, 1e-3, 1e6, &rope->beta_slow)) != CACTUS_OK
        || (status = read_f32(r, "rope.scaling.yarn_log_multiplier", true, 0.0, 1e3, &log_multiplier)) != CACTUS_OK
        || (status = read_f32(r, "rope.freq_base_swa", true, 1.0 + 1e-3, 1e12, &local_base)) != CACTUS_OK
        || (status = read_u32(r, "rope.scaling.original_context_length", true, 1, MAX_CONTEXT, &n_orig)) != CACTUS_OK)
        return status;
    rope->n_context_orig = (float)n_orig;
    if (rope->scaling == CT_ROPE_YARN && log_multiplier > 0.0f && rope->factor > 1.0f) {
        /* DeepSeek: what YaRN adds to the magnitude goes into the scale of q·k, wholly where mscale and mscale_all_dim are equal */
        float ln = logf(rope->factor), scale = 1.0f + log_multiplier * ln;
        rope->attn_factor /= 1.0f + 0.1f * ln;
        c->attn_scale *= scale * scale;
    }
    c->local_rope = *rope;
    if (local_base > 0.0f) c->local_rope.base = local_base;
    if (arch->local_unscaled) c->local_rope.scaling = CT_ROPE_NONE, c->local_rope.attn_factor = 1.0f;
    return CACTUS_OK;
}

/* Which layers see only the tokens of a window. */
static cactus_status read_windows(const reader *r, ct_config *c, const ct_arch *arch)
{
    cactus_status status;
    uint32_t window = arch->window_default, local[CT_MAX_LAYERS], period = arch->window_period;
    char key[KEY_BYTES];
    for (uint32_t i = 0; i < c->n_layers; i++) c->layers[i].rotates = !arch->no_rope;
    for (uint32_t i = 0; arch->no_rope_every > 0 && i < c->n_layers; i++) c->layers[i].rotates = (i + 1) % arch->no_rope_every != 0;
    if (!arch->windowed) return CACTUS_OK;
    if ((status = read_u32(r, "attention.sliding_window", true, 0, MAX_CONTEXT, &window)) != CACTUS_OK) return status;
    if (window == 0) return CACTUS_OK;
    make_key(r, "attention.sliding_window_pattern", key);
    const ct_gguf_kv *pattern = ct_gguf_find_kv(r->gguf, key);
    if (pattern != NULL && pattern->type == CT_GGUF_ARRAY) status = read_per_layer(r, "attention.sliding_window_pattern", false, c->n_layers, 0, 1, local);
    else {
        status = read_u32(r, "attention.sliding_window_pattern", true, 0, CT_MAX_LAYERS, &period);
        for (uint32_t i = 0; i < c->n_layers; i++) local[i] = period == 0 || i % period + 1 < period;
    }
    for (uint32_t i = 0; i < c->n_layers && status == CACTUS_OK; i++) {
        if (local[i]) c->layers[i].window = window;
        if (arch->rope_local_only) c->layers[i].rotates = local[i];
    }
    return status;
}

/* The last layers attend over the keys and values of the last earlier layer that sees as much as they do. */
static cactus_status read_shared_keys(const reader *r, ct_config *c)
{
    const char *suffix = "attention.shared_kv_layers";
    cactus_status status;
    uint32_t n_shared = 0;
    char key[KEY_BYTES];
    make_key(r, suffix, key);
    const ct_gguf_kv *kv = ct_gguf_find_kv(r->gguf, key);
    if (kv != NULL && kv->type == CT_GGUF_F32) { /* as the published files have it */
        float number = 0.0f;
        if ((status = read_f32(r, suffix, false, 0.0, c->n_layers - 1, &number)) != CACTUS_OK) return status;
        if (number != floorf(number))
            return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s is %g; it must be a whole number", key, (double)number);
        n_shared = (uint32_t)number;
    } else if ((status = read_u32(r, suffix, false, 0, c->n_layers - 1, &n_shared)) != CACTUS_OK) return status;
    uint32_t n_own = c->n_layers - n_shared;
    for (uint32_t i = n_own; i < c->n_layers; i++) {
        uint32_t from = n_own;
        while (from > 0 && (c->layers[from - 1].window > 0) != (c->layers[i].window > 0)) from--;
        if (from == 0)
            return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s is %u, but no layer before them has keys for layer %u, which sees %s", key,
                           n_shared, i, c->layers[i].window > 0 ? "a window" : "everything");
        c->layers[i].kv = c->layers[from - 1].kv;
        c->layers[i].shares_kv = true;
    }
    c->n_kv_layers -= n_shared;
    c->n_keeping = n_own;
    return CACTUS_OK;
}

/* In which layers only the outliers of the gate go on. */
static cactus_status read_sparsity(const reader *r, ct_config *c)
{
    char key[KEY_BYTES];
    const ct_gguf_kv *kv;
    make_key(r, "activation_sparsity_scale", key);
    cactus_status status = ct_gguf_get_array(r->gguf, key, CT_GGUF_F32, &kv, NULL, r->err);
    if (status != CACTUS_OK) return status;
    if (kv->count < c->n_layers)
        return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s has %llu elements for %u layers", key, (unsigned long long)kv->count, c->n_layers);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        double value = ct_gguf_array_f64(kv, i);
        if (value == -INFINITY) continue; /* a share of 0 is left out */
        if (!(fabs(value) <= MAX_DEVIATIONS))
            return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s is %g at layer %u; it must lie between -%d and %d, or be -inf", key, value, i,
                           MAX_DEVIATIONS, MAX_DEVIATIONS);
        c->layers[i].sparse = true;
        c->layers[i].cutoff = (float)value;
    }
    return CACTUS_OK;
}

/* The residual streams, the inputs of the layers and the branch beside attention. */
static cactus_status read_branches(const reader *r, ct_config *c, const ct_arch *arch)
{
    cactus_status status;
    if (arch->streams
        && ((status = read_u32(r, "altup.num_inputs", false, 2, CT_MAX_STREAMS, &c->n_streams)) != CACTUS_OK
            || (status = read_u32(r, "altup.active_idx", false, 0, c->n_streams - 1, &c->active_stream)) != CACTUS_OK))
        return status;
    if (arch->layer_inputs && (status = read_u32(r, "embedding_length_per_layer_input", false, 1, MAX_D_MODEL, &c->n_layer_input)) != CACTUS_OK)
        return status;
    if ((arch->need & CT_T(LOW_RANK_A)) != 0) { /* only the tensors know it */
        const ct_gguf_tensor *t = ct_gguf_find_tensor(r->gguf, "blk.0.laurel_l.weight");
        if (t == NULL) return ct_fail(r->err, CACTUS_ERROR_FORMAT, "tensor blk.0.laurel_l.weight is missing");
        if (t->ne[1] < 1 || t->ne[1] > MAX_D_MODEL)
            return ct_fail(r->err, CACTUS_ERROR_FORMAT, "tensor blk.0.laurel_l.weight has %llu rows; 1 to %d are possible", (unsigned long long)t->ne[1],
                           MAX_D_MODEL);
        c->n_low_rank = (uint32_t)t->ne[1];
    }
    if (arch->sparse_gate && (status = read_sparsity(r, c)) != CACTUS_OK) return status;
    return arch->shares_keys ? read_shared_keys(r, c) : CACTUS_OK;
}

static cactus_status read_experts(const reader *r, ct_config *c, const ct_arch *arch)
{
    cactus_status status;
    uint32_t gating = arch->gating == 0 ? CT_GATE_SOFTMAX : arch->gating, n_dense = 0, n_shared = 0;
    uint32_t per_layer[CT_MAX_LAYERS];
    if ((status = read_u32(r, "expert_count", true, 0, CT_MAX_EXPERTS, &c->n_experts)) != CACTUS_OK || c->n_experts == 0) return status;
    if (!arch->experts)
        return ct_fail(r->err, CACTUS_ERROR_UNSUPPORTED, "this model has %u experts (%s.expert_count), which the architecture does not have", c->n_experts,
                       r->prefix);
    c->expert_norm = arch->expert_norm;
    c->expert_scale = 1.0f;
    for (uint32_t i = 0; i < c->n_layers; i++) per_layer[i] = c->n_ff;
    if ((status = read_u32(r, "expert_used_count", false, 1, c->n_experts, &c->n_experts_used)) != CACTUS_OK
        || (status = read_per_layer(r, "expert_feed_forward_length", true, c->n_layers, 0, MAX_N_FF, per_layer)) != CACTUS_OK
        || (status = common_value(r, "expert_feed_forward_length", per_layer, c->n_layers, &c->n_ff_expert)) != CACTUS_OK
        || (status = read_u32(r, "leading_dense_block_count", true, 0, c->n_layers, &n_dense)) != CACTUS_OK
        || (status = read_u32(r, "expert_shared_count", true, 0, CT_MAX_EXPERTS, &n_shared)) != CACTUS_OK
        || (status = read_u32(r, "expert_gating_func", true, 0, 3, &gating)) != CACTUS_OK
        || (status = read_u32(r, "expert_group_count", true, 0, c->n_experts, &c->n_expert_groups)) != CACTUS_OK
        || (status = read_u32(r, "expert_group_used_count", true, 0, c->n_experts, &c->n_groups_used)) != CACTUS_OK
        || (status = read_bool(r, "expert_weights_norm", &c->expert_norm)) != CACTUS_OK
        || (status = read_f32(r, "expert_weights_scale", true, 0.0, 1e4, &c->expert_scale)) != CACTUS_OK)
        return status;
    if (c->n_ff_expert == 0) return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s.expert_feed_forward_length is missing", r->prefix);
    c->n_ff_shared = c->n_ff_expert * n_shared;
    if ((status = read_u32(r, "expert_shared_feed_forward_length", true, 0, MAX_N_FF, &c->n_ff_shared)) != CACTUS_OK) return status;
    if (c->n_ff_shared > MAX_N_FF)
        return ct_fail(r->err, CACTUS_ERROR_FORMAT, "%u shared experts of %u features are too many", n_shared, c->n_ff_expert);
    if (c->n_expert_groups > 1
        && (c->n_experts % c->n_expert_groups != 0 || c->n_groups_used == 0 || c->n_groups_used > c->n_expert_groups
            || c->n_experts_used > c->n_groups_used * (c->n_experts / c->n_expert_groups)))
        return ct_fail(r->err, CACTUS_ERROR_FORMAT, "%u experts in %u groups, of which %u are used, do not give %u", c->n_experts, c->n_expert_groups,
                       c->n_groups_used, c->n_experts_used);
    c->gating = gating == 0 ? CT_GATE_SOFTMAX : (ct_gating)gating;
    if (c->expert_scale == 0.0f) c->expert_scale = 1.0f;
    for (uint32_t i = n_dense; i < c->n_layers; i++) c->layers[i].experts = true;
    return CACTUS_OK;
}

static cactus_status read_latent(const reader *r, ct_config *c)
{
    cactus_status status;
    uint32_t d_key = c->d_k, d_value = c->d_v;
    char key[KEY_BYTES];
    make_key(r, "attention.key_length_mla", key);
    c->latent_split = ct_gguf_find_kv(r->gguf, key) != NULL;
    if ((status = read_u32(r, "attention.q_lora_rank", true, 0, MAX_D_MODEL, &c->n_lora_q)) != CACTUS_OK
        || (status = read_u32(r, "attention.kv_lora_rank", false, 4, MAX_D_HEAD, &c->n_lora_kv)) != CACTUS_OK
        || (status = read_u32(r, "attention.key_length_mla", true, 4, MAX_D_HEAD, &d_key)) != CACTUS_OK
        || (status = read_u32(r, "attention.value_length_mla", true, 4, MAX_D_HEAD, &d_value)) != CACTUS_OK)
        return status;
    uint32_t n_rot = 0;
    if ((status = read_u32(r, "rope.dimension_count", false, 2, d_key - 1, &n_rot)) != CACTUS_OK) return status;
    c->d_q = d_key;
    c->n_nope = d_key - n_rot;
    c->d_v_head = c->d_o = d_value;
    c->attn_scale = 1.0f / sqrtf((float)d_key);
    if (c->latent_split) {
        c->n_kv_heads = 1;
        c->d_k = c->n_lora_kv + n_rot;
        c->d_v = c->n_lora_kv;
    } else {
        c->n_kv_heads = c->n_heads;
        c->d_k = d_key;
        c->d_v = d_value;
    }
    return CACTUS_OK;
}

static cactus_status read_attention(const reader *r, ct_config *c, const ct_arch *arch)
{
    cactus_status status;
    uint32_t heads[CT_MAX_LAYERS] = {0}, kv_heads[CT_MAX_LAYERS], n_layers = c->n_layers;
    bool none = arch->recurrence == CT_REC_ALL, some_without = arch->recurrence == CT_REC_NO_KV_HEADS;
    for (uint32_t i = 0; i < n_layers; i++) c->layers[i].mixer = arch->latent ? CT_MIX_LATENT : CT_MIX_ATTENTION;
    if (none) {
        for (uint32_t i = 0; i < n_layers; i++) c->layers[i].mixer = arch->recurrent;
        return CACTUS_OK;
    }
    if ((status = read_per_layer(r, "attention.head_count", false, n_layers, some_without ? 0 : 1, MAX_HEADS, heads)) != CACTUS_OK
        || (status = common_value(r, "attention.head_count", heads, n_layers, &c->n_heads)) != CACTUS_OK)
        return status;
    if (c->n_heads == 0) return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s.attention.head_count has no heads", r->prefix);
    memcpy(kv_heads, heads, sizeof kv_heads);
    c->d_k = c->d_model / c->n_heads;
    if ((status = read_per_layer(r, "attention.head_count_kv", true, n_layers, some_without ? 0 : 1, MAX_HEADS, kv_heads)) != CACTUS_OK
        || (status = common_value(r, "attention.head_count_kv", kv_heads, n_layers, &c->n_kv_heads)) != CACTUS_OK
        || (status = read_u32(r, "attention.key_length", true, 4, MAX_D_HEAD, &c->d_k)) != CACTUS_OK)
        return status;
    c->d_v = c->d_k;
    if ((status = read_u32(r, "attention.value_length", true, 4, MAX_D_HEAD, &c->d_v)) != CACTUS_OK) return status;
    c->d_q = arch->q_gated ? 2 * c->d_k : c->d_k;
    c->d_o = c->d_v;
    c->attn_scale = 1.0f / sqrtf((float)(n_layers == arch->heads_scale_layers ? c->d_model / c->n_heads : c->d_k));
    if (arch->attn_scale > 0.0f) c->attn_scale = arch->attn_scale;
    if (arch->latent && (status = read_latent(r, c)) != CACTUS_OK) return status;
    uint32_t interval = 4;
    if (arch->recurrence == CT_REC_INTERVAL && (status = read_u32(r, "full_attention_interval", true, 1, CT_MAX_LAYERS, &interval)) != CACTUS_OK)
        return status;
    for (uint32_t i = 0; i < n_layers; i++) {
        bool recurrent = (some_without && kv_heads[i] == 0) || (arch->recurrence == CT_REC_INTERVAL && (i + 1) % interval != 0);
        if (recurrent) c->layers[i].mixer = arch->recurrent;
        else if (arch->encoder) c->n_kv_layers = 1; /* nothing is kept: each layer writes where the one before has */
        else c->layers[i].kv = c->n_kv_layers++;
        c->layers[i].beside = arch->recurrence == CT_REC_BESIDE;
    }
    if (c->n_kv_layers == 0) return CACTUS_OK;
    if (c->n_heads % c->n_kv_heads != 0)
        return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s.attention.head_count_kv is %u; it must divide head_count, which is %u", r->prefix,
                       c->n_kv_heads, c->n_heads);
    if (c->d_k < 4 || c->d_k > MAX_D_HEAD || c->d_k % 4 != 0 || c->d_v % 4 != 0)
        return ct_fail(r->err, CACTUS_ERROR_UNSUPPORTED, "heads of %u and %u elements are not supported (a multiple of 4 up to %d is)", c->d_k, c->d_v, MAX_D_HEAD);
    return read_f32(r, "attention.scale", true, 1e-6, 1e3, &c->attn_scale);
}

/* Whether tokens see what comes after them, and how their states become one vector. */
static cactus_status read_embedding(const reader *r, ct_config *c, const ct_arch *arch)
{
    static const cactus_pooling poolings[] = {CACTUS_POOLING_AUTO, CACTUS_POOLING_MEAN, CACTUS_POOLING_CLS, CACTUS_POOLING_LAST, CACTUS_POOLING_AUTO};
    enum { NONE, RANK = 4 }; /* no pooling is named; the score of a pair of texts */
    cactus_status status;
    uint32_t pooling = NONE;
    bool causal = !arch->encoder;
    if ((status = read_bool(r, "attention.causal", &causal)) != CACTUS_OK || (status = read_u32(r, "pooling_type", true, 0, RANK, &pooling)) != CACTUS_OK)
        return status;
    if (causal == arch->encoder)
        return ct_fail(r->err, CACTUS_ERROR_UNSUPPORTED, "metadata %s.attention.causal is %s; this engine runs that architecture only %s", r->prefix,
                       causal ? "true" : "false", causal ? "in both directions" : "causally");
    c->pooling = pooling != NONE ? poolings[pooling] : arch->encoder ? CACTUS_POOLING_MEAN : CACTUS_POOLING_LAST;
    return CACTUS_OK;
}

static cactus_status read_recurrent(const reader *r, ct_config *c, const ct_arch *arch)
{
    cactus_status status;
    if (arch->recurrence == CT_REC_NONE) return CACTUS_OK;
    if (arch->recurrent == CT_MIX_SHORT_CONV) return read_u32(r, "shortconv.l_cache", false, CT_MIN_CONV_WIDTH, CT_MAX_CONV_WIDTH, &c->conv_width);
    if ((status = read_u32(r, "ssm.conv_kernel", false, CT_MIN_CONV_WIDTH, CT_MAX_CONV_WIDTH, &c->conv_width)) != CACTUS_OK
        || (status = read_u32(r, "ssm.inner_size", false, 4, MAX_D_MODEL, &c->ssm_inner)) != CACTUS_OK
        || (status = read_u32(r, "ssm.state_size", false, 1, MAX_STATE, &c->ssm_state)) != CACTUS_OK
        || (status = read_u32(r, "ssm.time_step_rank", false, 1, MAX_D_MODEL, &c->ssm_heads)) != CACTUS_OK
        || (status = read_bool(r, "ssm.dt_b_c_rms", &c->ssm_norms)) != CACTUS_OK)
        return status;
    if (arch->recurrent == CT_MIX_MAMBA) return CACTUS_OK;
    if ((status = read_u32(r, "ssm.group_count", false, 1, MAX_D_MODEL, &c->ssm_groups)) != CACTUS_OK) return status;
    if (c->ssm_inner % c->ssm_heads != 0 || c->ssm_heads % c->ssm_groups != 0 || (uint64_t)c->ssm_groups * c->ssm_state > MAX_N_FF)
        return ct_fail(r->err, CACTUS_ERROR_FORMAT, "%u features of a state-space layer do not make %u heads in %u groups of %u states", c->ssm_inner,
                       c->ssm_heads, c->ssm_groups, c->ssm_state);
    return CACTUS_OK;
}

cactus_status ct_config_read(cactus_model *model, cactus_error *err)
{
    const ct_arch *arch = model->arch;
    reader r = {model->gguf, arch->name, err};
    ct_config *c = &model->config;
    cactus_status status;
    uint32_t n_ff[CT_MAX_LAYERS] = {0};
    if ((status = read_u32(&r, "block_count", false, 1, CT_MAX_LAYERS, &c->n_layers)) != CACTUS_OK
        || (status = read_u32(&r, "embedding_length", false, 4, MAX_D_MODEL, &c->d_model)) != CACTUS_OK
        || (status = read_u32(&r, "context_length", false, 1, MAX_CONTEXT, &c->n_context)) != CACTUS_OK)
        return status;
    const char *eps = arch->norm == CT_NORM_LAYER ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon";
    c->norm_eps = 1e-5f;
    c->n_keeping = c->n_layers;
    c->attn_softcap = arch->attn_softcap;
    c->logit_softcap = arch->logit_softcap;
    c->embed_scale = arch->embed_sqrt ? sqrtf((float)c->d_model) : 1.0f;
    c->residual_scale = c->logit_scale = 1.0f;
    c->parallel = arch->parallel;
    if ((status = read_f32(&r, eps, false, 0.0, 0.1, &c->norm_eps)) != CACTUS_OK
        || (status = read_attention(&r, c, arch)) != CACTUS_OK
        || (status = read_per_layer(&r, "feed_forward_length", arch->ffn == CT_FFN_NONE || arch->experts, c->n_layers,
                                    arch->ffn == CT_FFN_NONE || arch->experts ? 0 : 1, MAX_N_FF, n_ff)) != CACTUS_OK
        || (status = read_f32(&r, "attn_logit_softcapping", true, 0.0, 1e6, &c->attn_softcap)) != CACTUS_OK
        || (status = read_f32(&r, "final_logit_softcapping", true, 0.0, 1e6, &c->logit_softcap)) != CACTUS_OK
        || (status = read_f32(&r, "embedding_scale", true, 0.0, 1e6, &c->embed_scale)) != CACTUS_OK
        || (status = read_f32(&r, "residual_scale", true, 0.0, 1e6, &c->residual_scale)) != CACTUS_OK
        || (status = read_f32(&r, "logit_scale", true, 0.0, 1e6, &c->logit_scale)) != CACTUS_OK
        || (status = read_bool(&r, "use_parallel_residual", &c->parallel)) != CACTUS_OK
        || (status = read_windows(&r, c, arch)) != CACTUS_OK
        || (status = read_recurrent(&r, c, arch)) != CACTUS_OK
        || (status = read_embedding(&r, c, arch)) != CACTUS_OK
        || (status = read_branches(&r, c, arch)) != CACTUS_OK)
        return status;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        c->layers[i].n_ff = n_ff[i];
        if (n_ff[i] > c->n_ff) c->n_ff = n_ff[i];
    }
    if (c->embed_scale == 0.0f) c->embed_scale = 1.0f;
    if (c->residual_scale == 0.0f) c->residual_scale = 1.0f;
    if (c->logit_scale == 0.0f) c->logit_scale = 1.0f;
    if (arch->logit_divides) c->logit_scale = 1.0f / c->logit_scale;
    if ((status = read_experts(&r, c, arch)) != CACTUS_OK) return status;
    for (uint32_t i = 0; arch->ffn != CT_FFN_NONE && i < c->n_layers; i++)
        if (!c->layers[i].experts && c->layers[i].n_ff == 0)
            return ct_fail(err, CACTUS_ERROR_FORMAT, "metadata %s.feed_forward_length gives layer %u nothing", arch->name, i);
    return read_rope(&r, c, arch);
}
