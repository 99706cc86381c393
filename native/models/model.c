/* model.c: GGUF -> cactus_model: what is asked of a model beside computing, and the order in which it is loaded. */
#include <string.h>

#include "models/model.h"

enum { MAX_VOCAB = 1 << 22, SHOWN_CHARS = 64 };

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
    if ((status = ct_config_read(model, err)) != CACTUS_OK) return status;
    if ((status = ct_weights_load(model, err)) != CACTUS_OK) return status;
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
        .generates = !model->arch->encoder,
        .pooling = c->pooling,
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
