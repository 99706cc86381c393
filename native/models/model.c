/* model.c: GGUF -> cactus_model. Reads and bounds the configuration, finds every tensor by a table of name, place and shape, and
 * refuses what does not fit before anything is computed. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "models/model.h"

/* Bounds that no real model of this kind exceeds; they keep every later product of sizes far from overflow. */
enum {
    MAX_LAYERS = 1024,
    MAX_HEADS = 1024,
    MAX_D_HEAD = 1024,
    MAX_D_MODEL = 1 << 17,
    MAX_N_FF = 1 << 20,
    MAX_CONTEXT = 1 << 24,
    MAX_VOCAB = 1 << 22,
    KEY_BYTES = 160,
    NAME_BYTES = 96,
    SHOWN_CHARS = 64
};

/* ---- configuration ---- */

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

/* A count that some files give per layer: an array is taken where all its elements are equal. */
static cactus_status read_u32_or_equal_array(const reader *r, const char *suffix, bool optional, uint32_t min, uint32_t max, uint32_t *value)
{
    char key[KEY_BYTES];
    make_key(r, suffix, key);
    const ct_gguf_kv *kv = ct_gguf_find_kv(r->gguf, key);
    if (kv == NULL || kv->type != CT_GGUF_ARRAY) return read_u32(r, suffix, optional, min, max, value);
    if (kv->count == 0 || kv->elem == CT_GGUF_STRING || kv->elem == CT_GGUF_BOOL)
        return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s must be a number or an array of numbers", key);
    int64_t first = ct_gguf_array_i64(kv, 0);
    for (uint64_t i = 1; i < kv->count; i++)
        if (ct_gguf_array_i64(kv, i) != first)
            return ct_fail(r->err, CACTUS_ERROR_UNSUPPORTED, "metadata %s differs between layers, which this engine does not run", key);
    if (first < (int64_t)min || first > (int64_t)max)
        return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s is %lld; it must lie between %u and %u", key, (long long)first, min, max);
    *value = (uint32_t)first;
    return CACTUS_OK;
}

static cactus_status read_rope(const reader *r, ct_config *c, const ct_arch *arch)
{
    cactus_status status;
    ct_rope_config *rope = &c->rope;
    uint32_t n_rot = c->d_k, n_orig = c->n_context;
    char key[KEY_BYTES], shown[4 * SHOWN_CHARS + 4];
    bool found;
    *rope = (ct_rope_config){.pairs = arch->rope, .base = 10000.0f, .factor = 1.0f, .attn_factor = 1.0f, .beta_fast = 32.0f, .beta_slow = 1.0f};
    if ((status = read_u32(r, "rope.dimension_count", true, 2, c->d_k, &n_rot)) != CACTUS_OK
        || (status = read_f32(r, "rope.freq_base", true, 1.0 + 1e-3, 1e12, &rope->base)) != CACTUS_OK)
        return status;
    if (n_rot % 2 != 0) return ct_fail(r->err, CACTUS_ERROR_FORMAT, "metadata %s.rope.dimension_count is %u; it must be even", r->prefix, n_rot);
    rope->n_rot = n_rot;

    ct_str type = {"linear", 6}; /* a factor alone means linear; so does the older key scale_linear */
    make_key(r, "rope.scaling.type", key);
    if ((status = ct_gguf_get_str(r->gguf, key, &type, &found, r->err)) != CACTUS_OK
        || (status = read_f32(r, "rope.scale_linear", true, 1e-3, 1e6, &rope->factor)) != CACTUS_OK)
        return status;
    if (type.size == 4 && memcmp(type.data, "none", 4) == 0) rope->scaling = CT_ROPE_NONE;
    else if (type.size == 6 && memcmp(type.data, "linear", 6) == 0) rope->scaling = CT_ROPE_LINEAR;
    else if (type.size == 4 && memcmp(type.data, "yarn", 4) == 0) rope->scaling = CT_ROPE_YARN;
    else
        return ct_fail(r->err, CACTUS_ERROR_UNSUPPORTED, "rope scaling \"%s\" (%s) is not supported; none, linear and yarn are",
                       ct_gguf_printable(shown, type, SHOWN_CHARS), key);
    if ((status = read_f32(r, "rope.scaling.factor", true, 1e-3, 1e6, &rope->factor)) != CACTUS_OK
        || (status = read_f32(r, "rope.scaling.attn_factor", true, 1e-3, 1e3, &rope->attn_factor)) != CACTUS_OK
        || (status = read_f32(r, "rope.scaling.yarn_beta_fast", true, 1e-3, 1e6, &rope->beta_fast)) != CACTUS_OK
        || (status = read_f32(r, "rope.scaling.yarn_beta_slow", true, 1e-3, 1e6, &rope->beta_slow)) != CACTUS_OK
        || (status = read_u32(r, "rope.scaling.original_context_length", true, 1, MAX_CONTEXT, &n_orig)) != CACTUS_OK)
        return status;
    rope->n_context_orig = (float)n_orig;
    return CACTUS_OK;
}

static cactus_status read_config(cactus_model *model, const char *prefix, cactus_error *err)
{
    reader r = {model->gguf, prefix, err};
    ct_config *c = &model->config;
    cactus_status status;
    if ((status = read_u32(&r, "block_count", false, 1, MAX_LAYERS, &c->n_layers)) != CACTUS_OK
        || (status = read_u32(&r, "embedding_length", false, 4, MAX_D_MODEL, &c->d_model)) != CACTUS_OK
        || (status = read_u32_or_equal_array(&r, "attention.head_count", false, 1, MAX_HEADS, &c->n_heads)) != CACTUS_OK)
        return status;
    c->n_kv_heads = c->n_heads;
    c->d_k = c->d_model / c->n_heads;
    if ((status = read_u32_or_equal_array(&r, "attention.head_count_kv", true, 1, MAX_HEADS, &c->n_kv_heads)) != CACTUS_OK
        || (status = read_u32(&r, "attention.key_length", true, 4, MAX_D_HEAD, &c->d_k)) != CACTUS_OK)
        return status;
    c->d_v = c->d_k;
    c->norm_eps = 1e-5f;
    if ((status = read_u32(&r, "attention.value_length", true, 4, MAX_D_HEAD, &c->d_v)) != CACTUS_OK
        || (status = read_u32_or_equal_array(&r, "feed_forward_length", false, 1, MAX_N_FF, &c->n_ff)) != CACTUS_OK
        || (status = read_u32(&r, "context_length", false, 1, MAX_CONTEXT, &c->n_context)) != CACTUS_OK
        || (status = read_u32(&r, "attention.sliding_window", true, 0, MAX_CONTEXT, &c->window)) != CACTUS_OK
        || (status = read_f32(&r, "attention.layer_norm_rms_epsilon", false, 0.0, 0.1, &c->norm_eps)) != CACTUS_OK)
        return status;
    uint32_t n_experts = 0;
    if ((status = read_u32(&r, "expert_count", true, 0, 1 << 16, &n_experts)) != CACTUS_OK) return status;
    if (n_experts > 0)
        return ct_fail(err, CACTUS_ERROR_UNSUPPORTED, "this model has %u experts (%s.expert_count), and mixtures of experts are not supported", n_experts, prefix);
    if (c->n_heads % c->n_kv_heads != 0)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "metadata %s.attention.head_count_kv is %u; it must divide head_count, which is %u", prefix,
                       c->n_kv_heads, c->n_heads);
    if (c->d_k < 4 || c->d_k > MAX_D_HEAD || c->d_k % 4 != 0 || c->d_v % 4 != 0)
        return ct_fail(err, CACTUS_ERROR_UNSUPPORTED, "heads of %u and %u elements are not supported (a multiple of 4 up to %d is)", c->d_k, c->d_v, MAX_D_HEAD);
    c->attn_scale = 1.0f / sqrtf((float)c->d_k);
    return read_rope(&r, c, model->arch);
}

/* ---- tensors ---- */

/* The sizes that tensors are made of. */
typedef enum dim { DIM_NONE, DIM_MODEL, DIM_Q, DIM_K, DIM_V, DIM_HEADS_OUT, DIM_FF, DIM_VOCAB } dim;

typedef struct wanted {
    const char *name; /* without "blk.N." for tensors of a layer */
    const char *bias; /* its bias, or NULL */
    size_t offset;    /* of the ct_matrix or const float * in ct_layer / ct_weights */
    dim rows;         /* DIM_NONE: a vector of cols */
    dim cols;
    bool optional;
} wanted;

static const wanted shared_tensors[] = {
    {"token_embd.weight", NULL, offsetof(ct_weights, embed), DIM_VOCAB, DIM_MODEL, false},
    {"output.weight", "output.bias", offsetof(ct_weights, head), DIM_VOCAB, DIM_MODEL, true},
    {"output_norm.weight", NULL, offsetof(ct_weights, output_norm), DIM_NONE, DIM_MODEL, false},
};

static const wanted layer_tensors[] = {
    {"attn_norm.weight", NULL, offsetof(ct_layer, attn_norm), DIM_NONE, DIM_MODEL, false},
    {"attn_q.weight", "attn_q.bias", offsetof(ct_layer, wq), DIM_Q, DIM_MODEL, false},
    {"attn_k.weight", "attn_k.bias", offsetof(ct_layer, wk), DIM_K, DIM_MODEL, false},
    {"attn_v.weight", "attn_v.bias", offsetof(ct_layer, wv), DIM_V, DIM_MODEL, false},
    {"attn_output.weight", "attn_output.bias", offsetof(ct_layer, wo), DIM_MODEL, DIM_HEADS_OUT, false},
    {"ffn_norm.weight", NULL, offsetof(ct_layer, ffn_norm), DIM_NONE, DIM_MODEL, false},
    {"ffn_gate.weight", "ffn_gate.bias", offsetof(ct_layer, gate), DIM_FF, DIM_MODEL, false},
    {"ffn_up.weight", "ffn_up.bias", offsetof(ct_layer, up), DIM_FF, DIM_MODEL, false},
    {"ffn_down.weight", "ffn_down.bias", offsetof(ct_layer, down), DIM_MODEL, DIM_FF, false},
};

/* Rotary tables that some converters leave in a layer; the engine computes its own. */
static const char *const ignored_tensors[] = {"attn_rot_embd.weight", "attn.rotary_emb.inv_freq"};

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static uint64_t dim_size(const ct_config *c, dim which)
{
    switch (which) {
    case DIM_MODEL: return c->d_model;
    case DIM_Q: return (uint64_t)c->n_heads * c->d_k;
    case DIM_K: return (uint64_t)c->n_kv_heads * c->d_k;
    case DIM_V: return (uint64_t)c->n_kv_heads * c->d_v;
    case DIM_HEADS_OUT: return (uint64_t)c->n_heads * c->d_v;
    case DIM_FF: return c->n_ff;
    case DIM_VOCAB: return c->n_vocab;
    case DIM_NONE: break;
    }
    return 0;
}

static void shape_text(const ct_gguf_tensor *t, char text[96])
{
    size_t at = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < t->n_dims && at < 80; i++)
        at += (size_t)snprintf(text + at, 96 - at, "%s%llu", i > 0 ? " x " : "", (unsigned long long)t->ne[i]);
}

static cactus_status check_shape(const ct_gguf_tensor *t, const char *name, uint64_t ne0, uint64_t ne1, cactus_error *err)
{
    char have[96];
    if (t->ne[0] == ne0 && t->ne[1] == ne1 && t->ne[2] == 1 && t->ne[3] == 1) return CACTUS_OK;
    shape_text(t, have);
    if (ne1 == 1) return ct_fail(err, CACTUS_ERROR_FORMAT, "tensor %s has shape %s; the configuration wants %llu", name, have, (unsigned long long)ne0);
    return ct_fail(err, CACTUS_ERROR_FORMAT, "tensor %s has shape %s; the configuration wants %llu x %llu", name, have, (unsigned long long)ne0,
                   (unsigned long long)ne1);
}

/* A float32 vector: in place where the file has F32, else converted into memory of the model. */
static cactus_status load_vector(cactus_model *model, const char *name, uint64_t n, bool optional, const float **out, cactus_error *err)
{
    const ct_gguf_tensor *t = ct_gguf_find_tensor(model->gguf, name);
    *out = NULL;
    if (t == NULL) return optional ? CACTUS_OK : ct_fail(err, CACTUS_ERROR_FORMAT, "tensor %s is missing", name);
    cactus_status status = check_shape(t, name, n, 1, err);
    if (status != CACTUS_OK) return status;
    if (t->type == CT_F32 && (uintptr_t)t->data % sizeof(float) == 0) {
        *out = (const float *)(const void *)t->data;
        return CACTUS_OK;
    }
    if (t->info->decode_f32 == NULL || t->info->decode_codes != NULL)
        return ct_fail(err, CACTUS_ERROR_UNSUPPORTED, "tensor %s has type %s; a vector must be F32, F16 or BF16", name, t->info->name);
    float *copy = ct_alloc(n, sizeof *copy);
    if (copy == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for tensor %s", name);
    t->info->decode_f32(t->data, n, copy);
    model->owned_vectors[model->n_owned_vectors++] = copy;
    *out = copy;
    return CACTUS_OK;
}

static cactus_status load_matrix(cactus_model *model, const char *name, uint64_t n_rows, uint64_t n_cols, bool optional, ct_matrix *out,
                                 cactus_error *err)
{
    const ct_gguf_tensor *t = ct_gguf_find_tensor(model->gguf, name);
    *out = (ct_matrix){0};
    if (t == NULL) return optional ? CACTUS_OK : ct_fail(err, CACTUS_ERROR_FORMAT, "tensor %s is missing", name);
    cactus_status status = check_shape(t, name, n_cols, n_rows, err);
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

static void tensor_name(char name[NAME_BYTES], int64_t layer, const char *suffix)
{
    if (layer < 0) snprintf(name, NAME_BYTES, "%s", suffix);
    else snprintf(name, NAME_BYTES, "blk.%lld.%s", (long long)layer, suffix);
}

/* layer < 0: tensors of the whole model. */
static cactus_status load_wanted(cactus_model *model, void *base, const wanted *list, size_t n, int64_t layer, cactus_error *err)
{
    for (size_t i = 0; i < n; i++) {
        const wanted *want = &list[i];
        uint64_t rows = dim_size(&model->config, want->rows), cols = dim_size(&model->config, want->cols);
        char name[NAME_BYTES];
        cactus_status status;
        void *at = (char *)base + want->offset;
        tensor_name(name, layer, want->name);
        if (want->rows == DIM_NONE) status = load_vector(model, name, cols, want->optional, at, err);
        else status = load_matrix(model, name, rows, cols, want->optional, at, err);
        if (status == CACTUS_OK && want->bias != NULL && ((ct_matrix *)at)->data != NULL) {
            tensor_name(name, layer, want->bias);
            status = load_vector(model, name, rows, true, &((ct_matrix *)at)->bias, err);
        }
        if (status != CACTUS_OK) return status;
    }
    return CACTUS_OK;
}

static cactus_status load_weights(cactus_model *model, cactus_error *err)
{
    const ct_config *c = &model->config;
    ct_weights *w = &model->weights;
    model->all_float = true;
    w->layers = ct_alloc(c->n_layers, sizeof *w->layers);
    model->owned_vectors = ct_alloc(2 * (c->n_layers * COUNT(layer_tensors) + COUNT(shared_tensors)) + 1, sizeof *model->owned_vectors);
    if (w->layers == NULL || model->owned_vectors == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for %u layers", c->n_layers);
    cactus_status status = load_wanted(model, w, shared_tensors, COUNT(shared_tensors), -1, err);
    for (uint32_t i = 0; i < c->n_layers && status == CACTUS_OK; i++)
        status = load_wanted(model, &w->layers[i], layer_tensors, COUNT(layer_tensors), i, err);
    if (status != CACTUS_OK) return status;
    if (w->head.data == NULL) w->head = w->embed;

    status = load_vector(model, "rope_freqs.weight", c->rope.n_rot / 2, true, &model->config.rope.freq_factors, err);
    for (size_t i = 0; status == CACTUS_OK && c->rope.freq_factors != NULL && i < c->rope.n_rot / 2; i++)
        if (!(c->rope.freq_factors[i] > 0.0f && isfinite(c->rope.freq_factors[i])))
            status = ct_fail(err, CACTUS_ERROR_FORMAT, "tensor rope_freqs.weight holds %g at %zu; every factor must be positive",
                             (double)c->rope.freq_factors[i], i);
    return status;
}

static bool is_layer_tensor(const char *suffix, size_t n_bytes)
{
    for (size_t i = 0; i < COUNT(layer_tensors); i++) {
        const char *names[] = {layer_tensors[i].name, layer_tensors[i].bias};
        for (size_t j = 0; j < 2; j++)
            if (names[j] != NULL && strlen(names[j]) == n_bytes && memcmp(names[j], suffix, n_bytes) == 0) return true;
    }
    for (size_t i = 0; i < COUNT(ignored_tensors); i++)
        if (strlen(ignored_tensors[i]) == n_bytes && memcmp(ignored_tensors[i], suffix, n_bytes) == 0) return true;
    return false;
}

/* A tensor of a layer that this loader never looked at would silently change the model: refuse it. */
static cactus_status check_no_unknown_tensors(const cactus_model *model, cactus_error *err)
{
    for (size_t i = 0; i < ct_gguf_n_tensors(model->gguf); i++) {
        ct_str name = ct_gguf_tensor_at(model->gguf, i)->name;
        if (name.size < 5 || memcmp(name.data, "blk.", 4) != 0) continue;
        size_t at = 4;
        uint64_t layer = 0;
        while (at < name.size && name.data[at] >= '0' && name.data[at] <= '9' && layer < MAX_LAYERS) layer = 10 * layer + (uint64_t)(name.data[at++] - '0');
        bool numbered = at > 4 && at < name.size && name.data[at] == '.' && layer < model->config.n_layers;
        if (numbered && is_layer_tensor(name.data + at + 1, name.size - at - 1)) continue;
        char shown[4 * SHOWN_CHARS + 4];
        return ct_fail(err, CACTUS_ERROR_UNSUPPORTED, "tensor %s has no place in the %s architecture as this engine runs it",
                       ct_gguf_printable(shown, name, SHOWN_CHARS), model->arch->name);
    }
    return CACTUS_OK;
}

/* ---- description ---- */

static char *copy_text(const char *data, size_t n)
{
    char *text = ct_alloc(n + 1, 1);
    if (text != NULL && n > 0) memcpy(text, data, n);
    return text;
}

static cactus_status describe(cactus_model *model, cactus_error *err)
{
    size_t n_kv = ct_gguf_n_kv(model->gguf);
    uint64_t elems_by_type[CT_N_TYPES] = {0}, most = 0;
    ct_str name = {"", 0};
    bool found;
    cactus_status status = ct_gguf_get_str(model->gguf, "general.name", &name, &found, err);
    if (status != CACTUS_OK) return status;
    model->name = copy_text(name.data, name.size);
    model->architecture = copy_text(model->arch->name, strlen(model->arch->name));
    model->metadata_values = ct_alloc(n_kv + 1, sizeof *model->metadata_values);
    model->metadata_keys = ct_alloc(n_kv + 1, sizeof *model->metadata_keys);
    model->metadata_bytes = ct_alloc(n_kv + 1, sizeof *model->metadata_bytes);
    if (!model->name || !model->architecture || !model->metadata_values || !model->metadata_keys || !model->metadata_bytes)
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the model's metadata");
    for (size_t i = 0; i < n_kv; i++) {
        const ct_gguf_kv *kv = ct_gguf_kv_at(model->gguf, i);
        model->metadata_keys[i] = copy_text(kv->key.data, kv->key.size);
        model->metadata_values[i] = ct_gguf_format_value(kv, &model->metadata_bytes[i]);
        model->n_metadata = i + 1;
        if (model->metadata_keys[i] == NULL || model->metadata_values[i] == NULL)
            return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the model's metadata");
    }
    for (size_t i = 0; i < ct_gguf_n_tensors(model->gguf); i++) {
        const ct_gguf_tensor *t = ct_gguf_tensor_at(model->gguf, i);
        uint64_t n_elems = t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
        model->n_parameters += n_elems;
        if (t->ne[1] > 1) elems_by_type[t->type] += n_elems;
    }
    model->quantisation = "";
    for (uint32_t t = 0; t < CT_N_TYPES; t++)
        if (elems_by_type[t] > most) most = elems_by_type[t], model->quantisation = ct_type_get(t)->name;
    return CACTUS_OK;
}

/* ---- public ---- */

static cactus_status load(cactus_model *model, const char *path, cactus_error *err)
{
    ct_str arch = {0};
    cactus_status status = ct_gguf_open(path, &model->gguf, err);
    if (status != CACTUS_OK) return status;
    if ((status = ct_gguf_get_str(model->gguf, "general.architecture", &arch, NULL, err)) != CACTUS_OK) return status;
    model->arch = ct_arch_find(arch.data, arch.size);
    if (model->arch == NULL) {
        char shown[4 * SHOWN_CHARS + 4];
        return ct_fail(err, CACTUS_ERROR_UNSUPPORTED, "architecture \"%s\" is not supported; this engine runs: %s",
                       ct_gguf_printable(shown, arch, SHOWN_CHARS), ct_arch_names());
    }
    if ((status = ct_tokenizer_create(model->gguf, &model->tokenizer, err)) != CACTUS_OK) return status;
    model->config.n_vocab = (uint32_t)ct_tokenizer_n_vocab(model->tokenizer);
    if (model->config.n_vocab < 1 || model->config.n_vocab > MAX_VOCAB)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "a vocabulary of %u tokens is out of range", model->config.n_vocab);
    if ((status = read_config(model, model->arch->name, err)) != CACTUS_OK) return status;
    if ((status = load_weights(model, err)) != CACTUS_OK) return status;
    if ((status = check_no_unknown_tensors(model, err)) != CACTUS_OK) return status;
    return describe(model, err);
}

cactus_status cactus_model_load(const char *path, cactus_model **out, cactus_error *err)
{
    if (path == NULL || out == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_model_load needs a path and a place for the model");
    *out = NULL;
    cactus_model *model = ct_alloc(1, sizeof *model);
    if (model == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for a model");
    cactus_status status = load(model, path, err);
    if (status != CACTUS_OK) {
        cactus_model_free(model);
        return status;
    }
    *out = model;
    return CACTUS_OK;
}

void cactus_model_free(cactus_model *model)
{
    if (model == NULL) return;
    for (size_t i = 0; i < model->n_metadata; i++) {
        ct_free(model->metadata_keys[i]);
        ct_free(model->metadata_values[i]);
    }
    for (size_t i = 0; i < model->n_owned_vectors; i++) ct_free(model->owned_vectors[i]);
    ct_free(model->owned_vectors);
    ct_free(model->metadata_keys);
    ct_free(model->metadata_values);
    ct_free(model->metadata_bytes);
    ct_free(model->architecture);
    ct_free(model->name);
    ct_free(model->weights.layers);
    cactus_tokenizer_free(model->tokenizer);
    ct_gguf_close(model->gguf);
    ct_free(model);
}

cactus_status cactus_model_get_info(const cactus_model *model, cactus_model_info *info, cactus_error *err)
{
    if (model == NULL || info == NULL || info->struct_size != sizeof *info)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_model_get_info needs a model and a cactus_model_info with its struct_size set");
    const ct_config *c = &model->config;
    *info = (cactus_model_info){
        .struct_size = sizeof *info,
        .architecture = model->architecture,
        .name = model->name,
        .quantisation = model->quantisation,
        .n_parameters = model->n_parameters,
        .file_bytes = ct_gguf_file_bytes(model->gguf),
        .n_tensors = (uint32_t)ct_gguf_n_tensors(model->gguf),
        .n_layers = c->n_layers,
        .n_context = c->n_context,
        .d_model = c->d_model,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .d_head = c->d_k,
        .n_vocab = c->n_vocab,
    };
    return CACTUS_OK;
}

const cactus_tokenizer *cactus_model_tokenizer(const cactus_model *model) { return model == NULL ? NULL : model->tokenizer; }

size_t cactus_model_n_metadata(const cactus_model *model) { return model == NULL ? 0 : model->n_metadata; }

cactus_status cactus_model_metadata(const cactus_model *model, size_t index, const char **key, const char **value, size_t *n_value_bytes,
                                    cactus_error *err)
{
    if (model == NULL || key == NULL || value == NULL || n_value_bytes == NULL || index >= model->n_metadata)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "there is no metadata entry %zu", index);
    *key = model->metadata_keys[index];
    *value = model->metadata_values[index];
    *n_value_bytes = model->metadata_bytes[index];
    return CACTUS_OK;
}
