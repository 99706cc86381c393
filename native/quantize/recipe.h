/* recipe.h: which tensor becomes which type. A recipe ("q4_k_m") is a type for most tensors and rules for those that suffer more
 * or less than others; names, numbers and choices are llama.cpp's, so files of one name are alike. */
#ifndef CT_QUANTIZE_RECIPE_H
#define CT_QUANTIZE_RECIPE_H

#include "gguf/gguf.h"

typedef struct ct_recipe {
    const char *name;   /* "q4_k_m" */
    uint32_t file_type; /* general.file_type */
    ct_type type;       /* of most tensors */
} ct_recipe;

/* By name, in any case; NULL where there is none. */
const ct_recipe *ct_recipe_find(const char *name);

/* All names, separated by spaces. Static storage. */
const char *ct_recipe_names(void);

/* A type by its name in any case ("q4_k") that rows.h can make; CT_N_TYPES where there is none. */
ct_type ct_recipe_type(const char *name);

/* What the rules look at besides the tensor. */
typedef struct ct_recipe_model {
    uint32_t n_layers, n_heads, n_kv_heads, n_experts;
    bool is_falcon, is_llama, is_tied; /* tied: no output.weight, the embedding is used for it */
    bool has_importance;
    size_t *place;   /* [n_tensors] rank of the tensor among those of its role, by layer */
    size_t n_values; /* tensors of the role of attn_v */
} ct_recipe_model;

/* Reads it from the file; free with ct_recipe_model_free. */
cactus_status ct_recipe_model_read(const ct_gguf *gguf, bool has_importance, ct_recipe_model *out, cactus_error *err);
void ct_recipe_model_free(ct_recipe_model *model);

/* Whether a tensor's type may change at all: matrices called ….weight, without norms, routers, convolutions, positions and
 * the like, which are small and matter much. */
bool ct_recipe_may_change(const ct_gguf_tensor *tensor);

/* What the caller chose; CT_N_TYPES: nothing. */
typedef struct ct_recipe_choice {
    ct_type output, embedding;
    bool pure; /* the recipe's type for all */
} ct_recipe_choice;

/* The type that tensor `index` gets, before ct_recipe_fit. */
ct_type ct_recipe_choose(const ct_recipe *recipe, const ct_recipe_model *model, const ct_recipe_choice *choice,
                         const ct_gguf *gguf, size_t index);

/* The type itself where rows of n_cols are whole blocks of it, else the nearest with smaller blocks, at last F16. */
ct_type ct_recipe_fit(ct_type type, uint64_t n_cols);

#endif
