/* arch.c: the table of architectures. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "models/arch.h"

/* sets of tensors that come together */
#define PRE_NORMS (CT_T(ATTN_NORM) | CT_T(FFN_NORM))
#define POST_NORMS (CT_T(ATTN_POST_NORM) | CT_T(FFN_POST_NORM))
#define QK_NORMS (CT_T(Q_NORM) | CT_T(K_NORM))
#define SUM_NORMS (CT_T(ATTN_SUM_NORM) | CT_T(FFN_SUM_NORM))
#define LOW_RANK (CT_T(LOW_RANK_A) | CT_T(LOW_RANK_B) | CT_T(LOW_RANK_NORM))

/* What a row does not say: RMSNorm, SwiGLU with gate and up apart, one after the other with residuals, every pair of neighbours
 * rotates, every layer sees everything. */
static const ct_arch table[] = {
    {.name = "llama", .models = "Llama 1 to 3.3, SmolLM 1 and 2, Mistral, Mixtral, Yi, TinyLlama, DeepSeek-LLM",
     .need = PRE_NORMS, .windowed = true, .experts = true, .expert_norm = true},
    {.name = "qwen2", .models = "Qwen 1.5, 2 and 2.5", .need = PRE_NORMS, .rope = CT_ROPE_HALVES},
    {.name = "qwen2moe", .models = "Qwen 1.5 MoE, Qwen 2 57B-A14B", .need = PRE_NORMS, .may = CT_T(SHARED_GATE), .rope = CT_ROPE_HALVES,
     .experts = true},
    {.name = "qwen3", .models = "Qwen 3", .need = PRE_NORMS | QK_NORMS, .rope = CT_ROPE_HALVES},
    {.name = "qwen3moe", .models = "Qwen 3 30B-A3B, 235B-A22B", .need = PRE_NORMS | QK_NORMS, .rope = CT_ROPE_HALVES, .experts = true,
     .expert_norm = true},
    {.name = "qwen35", .models = "Qwen 3.5", .need = PRE_NORMS | QK_NORMS, .ffn_norm = "post_attention_norm", .rope = CT_ROPE_HALVES,
     .q_gated = true, .recurrence = CT_REC_INTERVAL, .recurrent = CT_MIX_DELTA},
    {.name = "qwen35moe", .models = "Qwen 3.5 MoE", .need = PRE_NORMS | QK_NORMS, .may = CT_T(SHARED_GATE), .ffn_norm = "post_attention_norm",
     .rope = CT_ROPE_HALVES, .q_gated = true, .recurrence = CT_REC_INTERVAL, .recurrent = CT_MIX_DELTA, .experts = true, .expert_norm = true},
    {.name = "olmoe", .models = "OLMoE", .need = PRE_NORMS | QK_NORMS, .rope = CT_ROPE_HALVES, .qk_norm_whole = true, .experts = true},
    {.name = "olmo2", .models = "OLMo 2 and 3", .need = POST_NORMS | QK_NORMS, .rope = CT_ROPE_HALVES, .qk_norm_whole = true,
     .windowed = true, .window_period = 4, .local_unscaled = true},
    {.name = "gemma", .models = "Gemma 1, CodeGemma", .need = PRE_NORMS, .act = CT_GELU, .rope = CT_ROPE_HALVES, .embed_sqrt = true},
    {.name = "gemma2", .models = "Gemma 2", .need = PRE_NORMS | POST_NORMS, .act = CT_GELU, .rope = CT_ROPE_HALVES, .embed_sqrt = true,
     .windowed = true, .window_period = 2, .window_default = 4096, .heads_scale_layers = 46, .attn_softcap = 50.0f, .logit_softcap = 30.0f},
    {.name = "gemma3", .models = "Gemma 3 (text)", .need = PRE_NORMS | POST_NORMS | QK_NORMS, .act = CT_GELU, .rope = CT_ROPE_HALVES,
     .embed_sqrt = true, .windowed = true, .window_period = 6, .local_rope_base = 10000.0f, .local_unscaled = true, .heads_scale_layers = 62},
    {.name = "gemma3n", .models = "Gemma 3n E2B and E4B (text)", .need = PRE_NORMS | POST_NORMS | QK_NORMS | LOW_RANK, .act = CT_GELU,
     .rope = CT_ROPE_HALVES, .embed_sqrt = true, .windowed = true, .window_period = 5, .window_default = 512, .local_rope_base = 10000.0f,
     .local_unscaled = true, .v_norm = true, .shares_keys = true, .attn_scale = 1.0f, .logit_softcap = 30.0f, .streams = true,
     .layer_inputs = true, .sparse_gate = true},
    {.name = "phi2", .models = "Phi 1, 1.5 and 2", .need = CT_T(ATTN_NORM), .biased = true, .norm = CT_NORM_LAYER, .act = CT_GELU,
     .ffn = CT_FFN_PLAIN, .parallel = true, .rope = CT_ROPE_HALVES},
    {.name = "phi3", .models = "Phi 3, 3.5 and 4", .need = PRE_NORMS, .ffn = CT_FFN_FUSED, .rope = CT_ROPE_HALVES, .windowed = true},
    {.name = "smollm3", .models = "SmolLM 3", .need = PRE_NORMS, .no_rope_every = 4},
    {.name = "granite", .models = "Granite 3", .need = PRE_NORMS, .logit_divides = true},
    {.name = "granitemoe", .models = "Granite 3 MoE", .need = PRE_NORMS, .logit_divides = true, .experts = true, .expert_norm = true},
    {.name = "stablelm", .models = "StableLM 2", .need = CT_T(ATTN_NORM), .may = CT_T(FFN_NORM) | QK_NORMS, .norm = CT_NORM_LAYER,
     .rope = CT_ROPE_HALVES},
    {.name = "starcoder2", .models = "StarCoder 2", .need = PRE_NORMS, .norm = CT_NORM_LAYER, .act = CT_GELU, .ffn = CT_FFN_PLAIN,
     .rope = CT_ROPE_HALVES, .windowed = true},
    {.name = "gpt2", .models = "GPT-2", .need = PRE_NORMS, .biased = true, .norm = CT_NORM_LAYER, .act = CT_GELU, .ffn = CT_FFN_PLAIN,
     .no_rope = true, .learned_positions = true},
    {.name = "gptneox", .models = "GPT-NeoX, Pythia", .need = PRE_NORMS, .norm = CT_NORM_LAYER, .act = CT_GELU_ERF, .ffn = CT_FFN_PLAIN,
     .parallel = true, .rope = CT_ROPE_HALVES},
    {.name = "falcon", .models = "Falcon 7B, 40B, 2 11B", .need = CT_T(ATTN_NORM), .may = CT_T(ATTN_NORM_2), .norm = CT_NORM_LAYER,
     .act = CT_GELU_ERF, .ffn = CT_FFN_PLAIN, .parallel = true, .rope = CT_ROPE_HALVES},
    {.name = "cohere2", .models = "Command R7B, Command A", .need = CT_T(ATTN_NORM), .norm = CT_NORM_LAYER, .parallel = true,
     .rope_local_only = true, .windowed = true, .window_period = 4},
    {.name = "exaone4", .models = "EXAONE 4", .need = POST_NORMS | QK_NORMS, .rope = CT_ROPE_HALVES, .rope_local_only = true,
     .windowed = true, .window_period = 4},
    {.name = "glm4", .models = "GLM 4 0414", .need = PRE_NORMS | POST_NORMS, .ffn = CT_FFN_FUSED},
    {.name = "gpt-oss", .models = "gpt-oss 20B and 120B", .need = PRE_NORMS | CT_T(SINKS), .biased = true, .ffn_norm = "post_attention_norm",
     .act = CT_SWIGLU_OAI, .rope = CT_ROPE_HALVES, .yarn_not_rounded = true, .windowed = true, .window_period = 2, .experts = true,
     .gating = CT_GATE_SOFTMAX_CHOSEN},
    {.name = "deepseek2", .models = "DeepSeek V2, V2 Lite, V3, R1; Moonlight, Kimi K2", .need = PRE_NORMS, .may = CT_T(ROUTER_BIAS),
     .latent = true, .experts = true},
    {.name = "lfm2", .models = "LFM2", .need = PRE_NORMS | QK_NORMS, .output_norm = "token_embd_norm", .rope = CT_ROPE_HALVES,
     .windowed = true, .recurrence = CT_REC_NO_KV_HEADS, .recurrent = CT_MIX_SHORT_CONV},
    {.name = "mamba", .models = "Mamba, FalconMamba", .need = CT_T(ATTN_NORM), .may = CT_T(SSM_DT_NORM) | CT_T(SSM_B_NORM) | CT_T(SSM_C_NORM),
     .ffn = CT_FFN_NONE, .no_rope = true, .recurrence = CT_REC_ALL, .recurrent = CT_MIX_MAMBA},
    {.name = "mamba2", .models = "Mamba 2, Codestral Mamba", .need = CT_T(ATTN_NORM), .may = CT_T(SSM_NORM), .ffn = CT_FFN_NONE,
     .no_rope = true, .recurrence = CT_REC_ALL, .recurrent = CT_MIX_MAMBA2},
    {.name = "falcon-h1", .models = "Falcon H1", .need = PRE_NORMS, .may = CT_T(SSM_NORM), .rope = CT_ROPE_HALVES,
     .recurrence = CT_REC_BESIDE, .recurrent = CT_MIX_MAMBA2},
    {.name = "bert", .models = "BERT, RoBERTa, XLM-RoBERTa, DistilBERT: all-MiniLM, BGE, E5, GTE", .encoder = true, .need = SUM_NORMS,
     .biased = true, .norm = CT_NORM_LAYER, .act = CT_GELU_ERF, .ffn = CT_FFN_PLAIN, .no_rope = true, .learned_positions = true},
    {.name = "nomic-bert", .models = "nomic-embed-text 1 and 1.5", .encoder = true, .need = SUM_NORMS, .norm = CT_NORM_LAYER,
     .rope = CT_ROPE_HALVES},
};

enum { N_ARCHS = sizeof table / sizeof table[0] };

enum { SUMMARY_BYTES = 480 };

static char names[1024], summaries[N_ARCHS][SUMMARY_BYTES];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static const char *mixer_name(ct_mixer mixer)
{
    static const char *const mixers[] = {[CT_MIX_ATTENTION] = "attention", [CT_MIX_LATENT] = "latent attention (MLA)",
                                         [CT_MIX_SHORT_CONV] = "short convolution", [CT_MIX_MAMBA] = "Mamba", [CT_MIX_MAMBA2] = "Mamba 2",
                                         [CT_MIX_DELTA] = "gated delta net"};
    return mixers[mixer];
}

static void add(char *text, const char *more)
{
    size_t used = strlen(text);
    snprintf(text + used, SUMMARY_BYTES - used, "%s%s", used > 0 ? ", " : "", more);
}

static void summarise(const ct_arch *a, char text[SUMMARY_BYTES])
{
    static const char *const activations[] = {[CT_SILU] = "SiLU", [CT_GELU] = "GELU", [CT_GELU_ERF] = "GELU (erf)", [CT_SWIGLU_OAI] = "clamped SwiGLU"};
    char part[128];
    bool attends = a->recurrence != CT_REC_ALL;
    if (a->encoder) add(text, "encoder: attention in both directions");
    else if (attends) add(text, mixer_name(a->latent ? CT_MIX_LATENT : CT_MIX_ATTENTION));
    if (a->recurrence != CT_REC_NONE) {
        snprintf(part, sizeof part, "%s%s", mixer_name(a->recurrent),
                 a->recurrence == CT_REC_ALL ? "" : a->recurrence == CT_REC_BESIDE ? " beside it" : " in other layers");
        add(text, part);
    }
    add(text, a->norm == CT_NORM_LAYER ? "LayerNorm" : "RMSNorm");
    if ((a->need & (CT_T(ATTN_NORM) | CT_T(ATTN_POST_NORM))) == CT_T(ATTN_POST_NORM)) add(text, "behind the branches");
    else if ((a->need & CT_T(ATTN_POST_NORM)) != 0) add(text, "before and behind the branches");
    else if ((a->need & CT_T(ATTN_SUM_NORM)) != 0) add(text, "behind the sums");
    if (((a->need | a->may) & CT_T(Q_NORM)) != 0) add(text, a->qk_norm_whole ? "norms of whole queries and keys" : "norms of query and key heads");
    if (a->parallel) add(text, "parallel branches");
    if (attends && a->no_rope) add(text, "learned positions");
    else if (attends && a->rope_local_only) add(text, "rotary positions in windowed layers");
    else if (attends && a->no_rope_every > 0) {
        snprintf(part, sizeof part, "no rotary positions in every %dth layer", a->no_rope_every);
        add(text, part);
    } else if (attends) add(text, "rotary positions");
    if (a->windowed && a->window_period > 0) {
        snprintf(part, sizeof part, "sliding windows in all but every %dth layer", a->window_period);
        add(text, a->window_period == 2 ? "sliding windows in every other layer" : part);
    } else if (a->windowed) add(text, "sliding windows");
    if ((a->need & CT_T(SINKS)) != 0) add(text, "attention sinks");
    if (a->q_gated) add(text, "gated queries");
    if (a->shares_keys) add(text, "keys and values shared by the last layers");
    if (a->attn_softcap > 0.0f) add(text, "soft caps");
    if (a->ffn != CT_FFN_NONE) {
        snprintf(part, sizeof part, "%s%s", activations[a->act], a->ffn == CT_FFN_PLAIN ? ", not gated" : a->act == CT_SWIGLU_OAI ? "" : ", gated");
        add(text, part);
    }
    if (a->sparse_gate) add(text, "sparse activations");
    if (a->experts) add(text, "mixture of experts");
    if ((a->need & CT_T(LOW_RANK_A)) != 0) add(text, "low-rank branch (LAuReL)");
    if (a->streams) add(text, "several residual streams (AltUp)");
    if (a->layer_inputs) add(text, "inputs of every layer");
}

static void describe_all(void)
{
    for (size_t i = 0; i < N_ARCHS; i++) {
        if (i > 0) strcat(names, ", ");
        strcat(names, table[i].name);
        summarise(&table[i], summaries[i]);
    }
}

const char *ct_arch_summary(const ct_arch *arch)
{
    pthread_once(&once, describe_all);
    return summaries[arch - table];
}

cactus_status cactus_architecture_get(size_t index, cactus_architecture *out, cactus_error *err)
{
    const ct_arch *arch = ct_arch_at(index);
    if (out == NULL || out->struct_size != sizeof *out)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_architecture_get needs a cactus_architecture with its struct_size set");
    if (arch == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "there is no architecture %zu", index);
    *out = (cactus_architecture){.struct_size = sizeof *out, .name = arch->name, .models = arch->models, .summary = ct_arch_summary(arch)};
    return CACTUS_OK;
}

const char *ct_arch_names(void)
{
    pthread_once(&once, describe_all);
    return names;
}

const ct_arch *ct_arch_at(size_t i) { return i < N_ARCHS ? &table[i] : NULL; }

const ct_arch *ct_arch_find(const char *name, size_t n_bytes)
{
    for (size_t i = 0; i < N_ARCHS; i++)
        if (strlen(table[i].name) == n_bytes && memcmp(table[i].name, name, n_bytes) == 0) return &table[i];
    return NULL;
}
