/* recipe.c: the table of recipes and their rules. The choices were read from llama.cpp's llama-quant.cpp. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "quantize/recipe.h"
#include "quantize/rows.h"

static const ct_recipe recipes[] = {
    {"f32", 0, CT_F32},          {"f16", 1, CT_F16},        {"bf16", 32, CT_BF16},      {"q8_0", 7, CT_Q8_0},
    {"q6_k", 18, CT_Q6_K},       {"q5_k_m", 17, CT_Q5_K},   {"q5_k_s", 16, CT_Q5_K},    {"q5_1", 9, CT_Q5_1},
    {"q5_0", 8, CT_Q5_0},        {"q4_k_m", 15, CT_Q4_K},   {"q4_k_s", 14, CT_Q4_K},    {"q4_1", 3, CT_Q4_1},
    {"q4_0", 2, CT_Q4_0},        {"iq4_nl", 25, CT_IQ4_NL}, {"iq4_xs", 30, CT_IQ4_XS},  {"q3_k_l", 13, CT_Q3_K},
    {"q3_k_m", 12, CT_Q3_K},     {"q3_k_s", 11, CT_Q3_K},   {"q2_k", 10, CT_Q2_K},      {"q2_k_s", 21, CT_Q2_K},
    {"iq3_m", 27, CT_IQ3_S},     {"iq3_s", 26, CT_IQ3_S},   {"iq3_xs", 22, CT_IQ3_S},   {"iq3_xxs", 23, CT_IQ3_XXS},
    {"iq2_m", 29, CT_IQ2_S},     {"iq2_s", 28, CT_IQ2_XS},  {"iq2_xs", 20, CT_IQ2_XS},  {"iq2_xxs", 19, CT_IQ2_XXS},
    {"mxfp4_moe", 38, CT_MXFP4}, {"tq2_0", 37, CT_TQ2_0},   {"tq1_0", 36, CT_TQ1_0},
};
enum { N_RECIPES = sizeof recipes / sizeof recipes[0] };

static const char *const aliases[][2] = {
    {"q5_k", "q5_k_m"}, {"q4_k", "q4_k_m"}, {"q3_k", "q3_k_m"}, {"mxfp4", "mxfp4_moe"},
};

const ct_recipe *ct_recipe_find(const char *name)
{
    for (size_t i = 0; i < sizeof aliases / sizeof aliases[0]; i++)
        if (strcasecmp(name, aliases[i][0]) == 0) name = aliases[i][1];
    for (size_t i = 0; i < N_RECIPES; i++)
        if (strcasecmp(name, recipes[i].name) == 0) return &recipes[i];
    return NULL;
}

const char *ct_recipe_names(void)
{
    return "f32 f16 bf16 q8_0 q6_k q5_k_m q5_k_s q5_1 q5_0 q4_k_m q4_k_s q4_1 q4_0 iq4_nl iq4_xs q3_k_l q3_k_m q3_k_s q2_k q2_k_s "
           "iq3_m iq3_s iq3_xs iq3_xxs iq2_m iq2_s iq2_xs iq2_xxs mxfp4_moe tq2_0 tq1_0";
}

ct_type ct_recipe_type(const char *name)
{
    for (uint32_t type = 0; type < CT_N_TYPES; type++) {
        const ct_type_info *info = ct_type_get(type);
        if (info != NULL && strcasecmp(info->name, name) == 0 && ct_rows_find((ct_type)type) != NULL) return (ct_type)type;
    }
    return CT_N_TYPES;
}

/* ---- names ---------------------------------------------------------------------------------------------------------- */

static bool name_is(ct_str name, const char *text) { return name.size == strlen(text) && memcmp(name.data, text, name.size) == 0; }

static bool name_has(ct_str name, const char *part)
{
    size_t n = strlen(part);
    for (size_t i = 0; i + n <= name.size; i++)
        if (memcmp(name.data + i, part, n) == 0) return true;
    return false;
}

/* N of "blk.N.…"; 0 for other names. */
static uint32_t layer_of(ct_str name)
{
    uint32_t layer = 0;
    if (name.size < 5 || memcmp(name.data, "blk.", 4) != 0) return 0;
    for (size_t i = 4; i < name.size && name.data[i] >= '0' && name.data[i] <= '9' && layer < 100000; i++)
        layer = layer * 10 + (uint32_t)(name.data[i] - '0');
    return layer;
}

typedef enum role {
    OTHER, EMBEDDING, OUTPUT, ATTN_Q, ATTN_K, ATTN_V, ATTN_QKV, ATTN_KV_B, ATTN_OUT, FFN_UP, FFN_GATE, FFN_DOWN
} role;

static role role_of(ct_str name)
{
    static const struct { const char *part; role role; } parts[] = {
        {"attn_qkv.weight", ATTN_QKV}, {"attn_kv_b.weight", ATTN_KV_B}, {"attn_v.weight", ATTN_V},   {"attn_k.weight", ATTN_K},
        {"attn_q.weight", ATTN_Q},     {"attn_output.weight", ATTN_OUT}, {"ffn_up", FFN_UP},         {"ffn_gate", FFN_GATE},
        {"ffn_down", FFN_DOWN},
    };
    if (name_is(name, "output.weight")) return OUTPUT;
    if (name_is(name, "token_embd.weight") || name_is(name, "per_layer_token_embd.weight")) return EMBEDDING;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (name_has(name, parts[i].part)) return parts[i].role;
    return OTHER;
}

static bool is_value(role r) { return r == ATTN_V || r == ATTN_QKV || r == ATTN_KV_B; }

bool ct_recipe_may_change(const ct_gguf_tensor *tensor)
{
    static const char *const kept[] = {
        "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj", "ssm_conv1d",
        "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight", "time_mix_first.weight", "time_mix_w0.weight",
        "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight",
        "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
        "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight", "attn_rel_b.weight",
        ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd", ".patch_merger", "a.rvq.codebook",
        "mm.a.code_embd",
    };
    ct_str name = tensor->name;
    bool is_matrix = tensor->ne[1] > 1 || tensor->ne[2] > 1 || tensor->ne[3] > 1;
    if (!is_matrix || tensor->info->decode_f32 == NULL || name.size < 6 || memcmp(name.data + name.size - 6, "weight", 6) != 0) return false;
    if (name_is(name, "position_embd.weight") || name_is(name, "token_types.weight")) return false;
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        if (name_has(name, kept[i])) return false;
    return true;
}

/* ---- rules ---------------------------------------------------------------------------------------------------------- */

/* What must hold, all bits together. */
enum {
    FIRST_2 = 1 << 0,       /* place below 2 */
    FIRST_4 = 1 << 1,
    FIRST_16TH = 1 << 2,    /* place in the first sixteenth of the layers */
    FIRST_8TH = 1 << 3,
    MORE_BITS = 1 << 4,     /* the first and last eighth, and every third layer between them */
    GROUPED = 1 << 5,       /* at least four query heads share a head of keys and values: its matrices are small */
    IMPORTANCE = 1 << 6,
    NO_IMPORTANCE = 1 << 7,
    EXPERTS_8 = 1 << 8,
    NOT_EXPERTS_8 = 1 << 9,
    FALCON = 1 << 10,
    NOT_FALCON = 1 << 11,
    IS_3D = 1 << 12,
    NOT_EXACT = 1 << 13,    /* the recipe's type is not Q8_0 */
    EXPERTS_4 = 1 << 14,    /* at least */
    MIDDLE = 1 << 15,       /* neither in the first eighth nor in the last */
    SMALLEST = 1 << 16,     /* recipes of two bits with points (IQ2), which have rules of their own */
    NOT_SMALLEST = 1 << 17,
};

typedef struct rule {
    const char *recipe; /* NULL: every quantising one */
    role role;
    unsigned when;
    ct_type type;
} rule;

/* The first that fits decides. */
static const rule rules[] = {
    {"mxfp4_moe", OUTPUT, 0, CT_Q8_0},
    {NULL, OUTPUT, FALCON, CT_Q8_0},
    {NULL, OUTPUT, SMALLEST, CT_Q5_K},
    {"iq3_xxs", OUTPUT, 0, CT_Q5_K},
    {NULL, OUTPUT, NOT_EXACT, CT_Q6_K},

    {"iq2_xxs", EMBEDDING, 0, CT_Q2_K},
    {"iq2_xs", EMBEDDING, 0, CT_Q2_K},
    {"iq2_s", EMBEDDING, 0, CT_IQ3_S},
    {"iq2_m", EMBEDDING, 0, CT_IQ3_S},
    {"iq3_xxs", EMBEDDING, 0, CT_IQ3_S},
    {"tq1_0", EMBEDDING, 0, CT_Q4_K},
    {"tq2_0", EMBEDDING, 0, CT_Q4_K},

    {NULL, ATTN_V, SMALLEST | GROUPED, CT_Q4_K},
    {NULL, ATTN_V, SMALLEST | EXPERTS_4, CT_Q4_K},
    {"iq2_s", ATTN_V, 0, CT_IQ3_S},
    {"iq2_m", ATTN_V, 0, CT_IQ3_S},
    {NULL, ATTN_V, SMALLEST, CT_Q2_K},
    {NULL, ATTN_V, EXPERTS_8, CT_Q8_0},
    {"iq3_xxs", ATTN_V, GROUPED, CT_Q4_K},
    {"iq3_xxs", ATTN_V, NO_IMPORTANCE, CT_IQ3_S},
    {"iq3_xs", ATTN_V, GROUPED, CT_Q4_K},
    {"iq3_s", ATTN_V, GROUPED, CT_Q4_K},
    {"iq3_m", ATTN_V, 0, CT_Q4_K},
    {"q2_k", ATTN_V, GROUPED, CT_Q4_K},
    {"q2_k", ATTN_V, 0, CT_Q3_K},
    {"q2_k_s", ATTN_V, GROUPED, CT_Q4_K},
    {"q3_k_m", ATTN_V, FIRST_2, CT_Q5_K},
    {"q3_k_m", ATTN_V, 0, CT_Q4_K},
    {"q3_k_l", ATTN_V, 0, CT_Q5_K},
    {"iq4_nl", ATTN_V, GROUPED, CT_Q5_K},
    {"iq4_xs", ATTN_V, GROUPED, CT_Q5_K},
    {"q4_k_m", ATTN_V, MORE_BITS, CT_Q6_K},
    {"q5_k_m", ATTN_V, MORE_BITS, CT_Q6_K},
    {"q4_k_s", ATTN_V, FIRST_4, CT_Q5_K},

    {NULL, ATTN_K, SMALLEST | EXPERTS_8, CT_Q4_K},
    {NULL, ATTN_K, NOT_SMALLEST | EXPERTS_8, CT_Q8_0},
    {"iq3_xs", ATTN_K, 0, CT_IQ3_XXS},
    {"iq3_xxs", ATTN_K, 0, CT_IQ2_S},
    {"iq3_xs", ATTN_Q, 0, CT_IQ3_XXS},
    {"iq3_xxs", ATTN_Q, 0, CT_IQ2_S},

    {"iq3_xs", FFN_GATE, MIDDLE, CT_IQ3_XXS},
    {"iq3_xs", FFN_UP, MIDDLE, CT_IQ3_XXS},

    {"iq2_xxs", FFN_DOWN, FIRST_8TH, CT_Q2_K},
    {"iq2_xs", FFN_DOWN, FIRST_8TH, CT_Q2_K},
    {"iq2_s", FFN_DOWN, FIRST_8TH, CT_IQ3_S},
    {"iq2_m", FFN_DOWN, FIRST_8TH, CT_IQ3_S},
    {"iq3_xxs", FFN_DOWN, FIRST_8TH | NO_IMPORTANCE, CT_Q4_K},
    {"iq3_xxs", FFN_DOWN, NO_IMPORTANCE, CT_Q3_K},
    {"iq3_m", FFN_DOWN, FIRST_8TH, CT_Q4_K},
    {"iq3_m", FFN_DOWN, EXPERTS_8 | MORE_BITS, CT_Q4_K},
    {"q2_k", FFN_DOWN, 0, CT_Q3_K},
    {"q2_k_s", FFN_DOWN, FIRST_8TH, CT_Q4_K},
    {"q3_k_m", FFN_DOWN, FIRST_16TH, CT_Q5_K},
    {"q3_k_m", FFN_DOWN, NOT_FALCON, CT_Q4_K},
    {"q3_k_m", FFN_DOWN, MORE_BITS, CT_Q4_K},
    {"q3_k_l", FFN_DOWN, FALCON, CT_Q4_K},
    {"q3_k_l", FFN_DOWN, 0, CT_Q5_K},
    {"q4_k_m", FFN_DOWN, FALCON | FIRST_16TH, CT_Q6_K},
    {"q4_k_m", FFN_DOWN, FALCON | MORE_BITS, CT_Q5_K},
    {"q4_k_m", FFN_DOWN, NOT_FALCON | MORE_BITS, CT_Q6_K},
    {"iq4_nl", FFN_DOWN, FIRST_8TH | NO_IMPORTANCE, CT_Q5_K},
    {"iq4_xs", FFN_DOWN, FIRST_8TH | NO_IMPORTANCE, CT_Q5_K},
    {"q5_k_m", FFN_DOWN, MORE_BITS, CT_Q6_K},
    {"q4_k_s", FFN_DOWN, FIRST_8TH | NOT_FALCON, CT_Q5_K},
    {"q4_0", FFN_DOWN, FIRST_8TH | IMPORTANCE, CT_Q4_1},
    {"q5_0", FFN_DOWN, FIRST_8TH | IMPORTANCE, CT_Q5_1},

    {NULL, ATTN_OUT, SMALLEST | EXPERTS_8, CT_Q5_K},
    {"iq2_s", ATTN_OUT, 0, CT_IQ3_S},
    {"iq2_m", ATTN_OUT, 0, CT_IQ3_S},
    {"q3_k_l", ATTN_OUT, FALCON, CT_Q4_K},
    {"iq3_xxs", ATTN_OUT, EXPERTS_8 | NOT_FALCON, CT_Q5_K},
    {"iq3_xs", ATTN_OUT, EXPERTS_8 | NOT_FALCON, CT_Q5_K},
    {"iq3_s", ATTN_OUT, EXPERTS_8 | NOT_FALCON, CT_Q5_K},
    {"iq3_m", ATTN_OUT, EXPERTS_8 | NOT_FALCON, CT_Q5_K},
    {"iq3_xxs", ATTN_OUT, NOT_EXPERTS_8 | NOT_FALCON, CT_IQ3_S},
    {"iq3_m", ATTN_OUT, NOT_EXPERTS_8 | NOT_FALCON, CT_Q4_K},
    {"q2_k", ATTN_OUT, EXPERTS_8 | NOT_FALCON, CT_Q5_K},
    {"q3_k_s", ATTN_OUT, EXPERTS_8 | NOT_FALCON, CT_Q5_K},
    {"q3_k_m", ATTN_OUT, EXPERTS_8 | NOT_FALCON, CT_Q5_K},
    {"q4_k_s", ATTN_OUT, EXPERTS_8 | NOT_FALCON, CT_Q5_K},
    {"q4_k_m", ATTN_OUT, EXPERTS_8 | NOT_FALCON, CT_Q5_K},
    {"iq4_nl", ATTN_OUT, EXPERTS_8 | NOT_FALCON, CT_Q5_K},
    {"iq4_xs", ATTN_OUT, EXPERTS_8 | NOT_FALCON, CT_Q5_K},
    {"q2_k", ATTN_OUT, NOT_EXPERTS_8 | NOT_FALCON, CT_Q3_K},
    {"q3_k_m", ATTN_OUT, NOT_EXPERTS_8 | NOT_FALCON, CT_Q4_K},
    {"q3_k_l", ATTN_OUT, NOT_EXPERTS_8 | NOT_FALCON, CT_Q5_K},
};

/* Those of mxfp4_moe look at the shape, not at the role. */
static const rule rules_mxfp4_moe[] = {
    {"mxfp4_moe", OTHER, IS_3D, CT_MXFP4},
    {"mxfp4_moe", OTHER, 0, CT_Q8_0},
};

typedef struct situation {
    const ct_recipe *recipe;
    const ct_recipe_model *model;
    const ct_gguf_tensor *tensor;
    size_t place, n_places;
} situation;

static bool is_smallest(const ct_recipe *recipe) { return strncmp(recipe->name, "iq2_", 4) == 0; }

static bool holds(unsigned when, const situation *s)
{
    size_t i = s->place, n = s->n_places;
    const ct_recipe_model *m = s->model;
    bool is_grouped = m->n_kv_heads > 0 && m->n_heads / m->n_kv_heads >= 4;
    bool more_bits = i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
    return !((when & FIRST_2 && i >= 2) || (when & FIRST_4 && i >= 4) || (when & FIRST_16TH && i >= n / 16) ||
             (when & FIRST_8TH && i >= n / 8) || (when & MORE_BITS && !more_bits) || (when & GROUPED && !is_grouped) ||
             (when & IMPORTANCE && !m->has_importance) || (when & NO_IMPORTANCE && m->has_importance) ||
             (when & EXPERTS_8 && m->n_experts != 8) || (when & NOT_EXPERTS_8 && m->n_experts == 8) ||
             (when & FALCON && !m->is_falcon) || (when & NOT_FALCON && m->is_falcon) || (when & IS_3D && s->tensor->ne[2] <= 1) ||
             (when & NOT_EXACT && s->recipe->type == CT_Q8_0) || (when & EXPERTS_4 && m->n_experts < 4) ||
             (when & MIDDLE && (i < n / 8 || i >= 7 * n / 8)) || (when & SMALLEST && !is_smallest(s->recipe)) ||
             (when & NOT_SMALLEST && is_smallest(s->recipe)));
}

static ct_type first_rule(const rule *list, size_t n, role r, const situation *s)
{
    for (size_t i = 0; i < n; i++)
        if ((list[i].recipe == NULL || strcmp(list[i].recipe, s->recipe->name) == 0) && list[i].role == r && holds(list[i].when, s))
            return list[i].type;
    return s->recipe->type;
}

ct_type ct_recipe_choose(const ct_recipe *recipe, const ct_recipe_model *model, const ct_recipe_choice *choice,
                         const ct_gguf *gguf, size_t index)
{
    const ct_gguf_tensor *t = ct_gguf_tensor_at(gguf, index);
    role r = role_of(t->name);
    if (r == EMBEDDING && choice->embedding != CT_N_TYPES) return choice->embedding;
    if (r == OUTPUT && choice->output != CT_N_TYPES) return choice->output;
    unsigned block = ct_type_get(recipe->type)->block_elems;
    if (choice->pure || block == 1) return recipe->type;
    situation s = {recipe, model, t, model->place[index], is_value(r) ? model->n_values : model->n_layers};
    bool is_ffn = r == FFN_DOWN || r == FFN_GATE || r == FFN_UP;
    if (model->n_experts > 1 && is_ffn && !is_smallest(recipe)) s.place = layer_of(t->name); /* several such tensors in a layer */
    if (r == OUTPUT || (r == EMBEDDING && model->is_tied)) {
        if (choice->output != CT_N_TYPES) return choice->output;
        if (t->ne[0] % block != 0) return CT_Q8_0;
        return first_rule(rules, sizeof rules / sizeof rules[0], OUTPUT, &s);
    }
    if (strcmp(recipe->name, "mxfp4_moe") == 0) return first_rule(rules_mxfp4_moe, 2, OTHER, &s);
    ct_type type = first_rule(rules, sizeof rules / sizeof rules[0], is_value(r) ? ATTN_V : r, &s);
    /* a llama of 80 layers with shared key heads: its values are an eighth of its queries */
    bool is_70b = model->is_llama && model->n_layers == 80 && model->n_heads != model->n_kv_heads;
    if (is_70b && is_value(r) && !is_smallest(recipe) && (type == CT_Q3_K || type == CT_Q4_K)) return CT_Q5_K;
    return type;
}

ct_type ct_recipe_fit(ct_type type, uint64_t n_cols)
{
    if (n_cols % ct_type_get(type)->block_elems == 0) return type;
    switch (type) {
    case CT_Q2_K: case CT_Q3_K: case CT_TQ1_0: case CT_TQ2_0: type = CT_Q4_0; break;
    case CT_IQ2_XXS: case CT_IQ2_XS: case CT_IQ2_S: case CT_IQ3_XXS: case CT_IQ3_S: case CT_IQ4_XS: type = CT_IQ4_NL; break;
    case CT_Q4_K: type = CT_Q5_0; break;
    case CT_Q5_K: type = CT_Q5_1; break;
    case CT_Q6_K: type = CT_Q8_0; break;
    default: return CT_F16;
    }
    return n_cols % ct_type_get(type)->block_elems == 0 ? type : CT_F16;
}

/* ---- the model ------------------------------------------------------------------------------------------------------ */

/* ARCHITECTURE.suffix, of an array its first element; *value stays where it is absent. */
static cactus_status read_count(const ct_gguf *gguf, const char *suffix, uint32_t *value, cactus_error *err)
{
    ct_str architecture = {"", 0};
    char key[160];
    bool found;
    cactus_status status = ct_gguf_get_str(gguf, "general.architecture", &architecture, &found, err);
    size_t n = strlen(suffix);
    if (status != CACTUS_OK || architecture.size + n + 2 > sizeof key) return status;
    memcpy(key, architecture.data, architecture.size);
    key[architecture.size] = '.';
    memcpy(key + architecture.size + 1, suffix, n + 1);
    const ct_gguf_kv *kv = ct_gguf_find_kv(gguf, key);
    if (kv == NULL || kv->type != CT_GGUF_ARRAY) return ct_gguf_get_u32(gguf, key, value, &found, err);
    if (kv->count == 0 || kv->elem == CT_GGUF_STRING || kv->elem == CT_GGUF_BOOL) return CACTUS_OK;
    int64_t first = ct_gguf_array_i64(kv, 0);
    if (first >= 0 && first <= UINT32_MAX) *value = (uint32_t)first;
    return CACTUS_OK;
}

static bool architecture_is(const ct_gguf *gguf, const char *name)
{
    ct_str architecture = {"", 0};
    bool found;
    return ct_gguf_get_str(gguf, "general.architecture", &architecture, &found, NULL) == CACTUS_OK && name_is(architecture, name);
}

typedef struct ranked {
    role role;
    uint32_t layer;
    size_t index;
} ranked;

static int compare_ranked(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->role != y->role) return x->role < y->role ? -1 : 1;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

cactus_status ct_recipe_model_read(const ct_gguf *gguf, bool has_importance, ct_recipe_model *out, cactus_error *err)
{
    size_t n = ct_gguf_n_tensors(gguf);
    *out = (ct_recipe_model){
        .is_falcon = architecture_is(gguf, "falcon"),
        .is_llama = architecture_is(gguf, "llama"),
        .is_tied = ct_gguf_find_tensor(gguf, "output.weight") == NULL,
        .has_importance = has_importance,
    };
    cactus_status status = read_count(gguf, "block_count", &out->n_layers, err);
    if (status == CACTUS_OK) status = read_count(gguf, "attention.head_count", &out->n_heads, err);
    out->n_kv_heads = out->n_heads;
    if (status == CACTUS_OK) status = read_count(gguf, "attention.head_count_kv", &out->n_kv_heads, err);
    if (status == CACTUS_OK) status = read_count(gguf, "expert_count", &out->n_experts, err);
    if (status != CACTUS_OK) return status;

    ranked *order = ct_alloc(n, sizeof *order);
    out->place = ct_alloc(n, sizeof *out->place);
    if (order == NULL || out->place == NULL) {
        ct_free(order);
        ct_recipe_model_free(out);
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for a table of %zu tensors", n);
    }
    for (size_t i = 0; i < n; i++) {
        ct_str name = ct_gguf_tensor_at(gguf, i)->name;
        role r = role_of(name);
        order[i] = (ranked){is_value(r) ? ATTN_V : r, layer_of(name), i};
        out->n_values += is_value(r);
    }
    qsort(order, n, sizeof *order, compare_ranked);
    for (size_t i = 0, rank = 0; i < n; i++) {
        rank = i > 0 && order[i].role == order[i - 1].role ? rank + 1 : 0;
        out->place[order[i].index] = rank;
    }
    ct_free(order);
    return CACTUS_OK;
}

void ct_recipe_model_free(ct_recipe_model *model)
{
    ct_free(model->place);
    model->place = NULL;
}
