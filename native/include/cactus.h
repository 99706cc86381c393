/* cactus.h: the public C ABI of the cactus inference engine.
 *
 * This file is the single source of the interface: C programs include it, and the language bindings are generated from it, Python's
 * by scripts/make_bindings.py. Keep it plain: fixed-width integers, floats, pointers, opaque handles, structs that open with their
 * own size. Strings are UTF-8. A function that can fail returns a cactus_status and, if `err` is not NULL, fills it. Nothing here
 * prints, exits or aborts.
 *
 * Threads: a model and a tokenizer are immutable and may be used from any thread. An engine may be called from any thread;
 * it computes in a scheduler thread of its own. A request belongs to one consumer at a time; cactus_request_cancel may be
 * called from anywhere.
 */
#ifndef CACTUS_H
#define CACTUS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CACTUS_API __attribute__((visibility("default")))
#else
#define CACTUS_API
#endif

#define CACTUS_ABI_VERSION 1

/* ---- errors ------------------------------------------------------------------------------------------------------- */

typedef enum cactus_status {
    CACTUS_OK = 0,
    CACTUS_ERROR_IO = 1,           /* a file could not be opened, read or mapped */
    CACTUS_ERROR_FORMAT = 2,       /* a file is damaged, truncated or breaks its format's rules */
    CACTUS_ERROR_UNSUPPORTED = 3,  /* a valid file asks for something this engine does not run */
    CACTUS_ERROR_ARGUMENT = 4,     /* a caller passed a value outside its documented range */
    CACTUS_ERROR_CONTEXT = 5,      /* the tokens do not fit the context */
    CACTUS_ERROR_MEMORY = 6,       /* memory could not be had */
    CACTUS_ERROR_CANCELLED = 7,    /* the request was cancelled, or its engine was closed */
    CACTUS_ERROR_TIMEOUT = 8,      /* nothing happened within the time given; try again */
    CACTUS_ERROR_FINISHED = 9,     /* the request has delivered its last event */
    CACTUS_ERROR_INTERNAL = 10,    /* a defect of the engine itself */
    CACTUS_ERROR_BUSY = 11         /* too many requests wait already; try again later */
} cactus_status;

typedef struct cactus_error {
    int32_t code;        /* a cactus_status */
    char message[1020];  /* one sentence, NUL-terminated UTF-8 */
} cactus_error;

/* ---- library ------------------------------------------------------------------------------------------------------ */

/* CACTUS_ABI_VERSION of the library that was loaded; differs from the header's when they do not belong together. */
CACTUS_API uint32_t cactus_abi_version(void);

/* The library's version, "major.minor.patch". Static storage. */
CACTUS_API const char *cactus_version(void);

/* Space-separated instruction-set features of this CPU that the kernels look at ("avx2 fma f16c …"). Static storage. */
CACTUS_API const char *cactus_cpu_features(void);

/* Space-separated names of the kernel sets this CPU can run, best first ("avx512vnni avx2 scalar"). Static storage. */
CACTUS_API const char *cactus_kernels_available(void);

/* Number of threads an engine uses when asked for 0: the CPUs this process may run on, big cores first on big.LITTLE. */
CACTUS_API int32_t cactus_default_threads(void);

/* ---- what this engine runs ---------------------------------------------------------------------------------------- */

typedef struct cactus_architecture {
    uint32_t struct_size;
    const char *name;    /* as general.architecture of a GGUF file has it; static storage, as the others */
    const char *models;  /* what is published under this name */
    const char *summary; /* how its layers are built */
} cactus_architecture;

/* Architecture `index`, counted from 0. Errors: ARGUMENT behind the last one. */
CACTUS_API cactus_status cactus_architecture_get(size_t index, cactus_architecture *out, cactus_error *err);

typedef struct cactus_tensor_type {
    uint32_t struct_size;
    const char *name;     /* "Q4_K"; static storage */
    uint32_t block_elems; /* elements that a block holds, 1 for plain types */
    uint32_t block_bytes;
    int32_t computes;     /* 1: models may have weights of it */
} cactus_tensor_type;

/* The tensor type that a GGUF file calls `type`. Errors: ARGUMENT where there is none. */
CACTUS_API cactus_status cactus_tensor_type_get(uint32_t type, cactus_tensor_type *out, cactus_error *err);

/* ---- tokenizer ---------------------------------------------------------------------------------------------------- */

typedef struct cactus_tokenizer cactus_tokenizer;

typedef struct cactus_tokenizer_info {
    uint32_t struct_size;
    int32_t n_vocab;
    int32_t bos_id; /* -1 where there is none, as for the others */
    int32_t eos_id;
    int32_t eot_id; /* end of turn, where it differs from eos */
    int32_t pad_id;
    int32_t unk_id;
    int32_t add_bos; /* 1 if add_special puts bos in front */
    int32_t add_eos; /* 1 if add_special puts eos behind */
    const char *model; /* "gpt2", "llama", …: tokenizer.ggml.model; lives as long as the tokenizer */
    const char *pre;   /* "smollm", "llama-bpe", …: tokenizer.ggml.pre, "" where absent */
    int32_t sep_id;
    int32_t mask_id;
    int32_t add_sep;   /* 1 if add_special puts sep behind, as BERT has it */
} cactus_tokenizer_info;

/* What a token is, a bit set. */
typedef enum cactus_token_attr {
    CACTUS_TOKEN_NORMAL = 0,
    CACTUS_TOKEN_UNKNOWN = 1,
    CACTUS_TOKEN_CONTROL = 2,      /* special: shown only on request */
    CACTUS_TOKEN_USER_DEFINED = 4, /* added token: matched whole in text, shown */
    CACTUS_TOKEN_UNUSED = 8,
    CACTUS_TOKEN_BYTE = 16,
    CACTUS_TOKEN_END = 32          /* ends generation (eos, end of turn, …) */
} cactus_token_attr;

/* Opens the tokenizer of a GGUF file, which need not hold weights. Free with cactus_tokenizer_free. */
CACTUS_API cactus_status cactus_tokenizer_load(const char *path, cactus_tokenizer **out, cactus_error *err);
CACTUS_API void cactus_tokenizer_free(cactus_tokenizer *tokenizer);
CACTUS_API cactus_status cactus_tokenizer_get_info(const cactus_tokenizer *tokenizer, cactus_tokenizer_info *info, cactus_error *err);

/* Text -> ids. add_special: put bos/eos where the model wants them; parse_special: text such as "<|im_end|>" becomes its
 * token. *n_ids receives the number of ids that the text needs; where that exceeds `capacity`, the first `capacity` are
 * written and CACTUS_ERROR_ARGUMENT is returned. n_bytes + 2 suffices for model "gpt2"; the others add spaces, and normalise.
 * Bytes that are not UTF-8 are taken as they are, unless the model normalises (t5: U+FFFD each; bert: none of them). */
CACTUS_API cactus_status cactus_tokenize(const cactus_tokenizer *tokenizer, const char *text, size_t n_bytes, int32_t add_special,
                                         int32_t parse_special, int32_t *ids, size_t capacity, size_t *n_ids, cactus_error *err);

/* Ids -> bytes (exact, so possibly not UTF-8 if the ids end inside a character), but for the space that encoding puts before
 * the text (llama, t5) and those that bert puts before punctuation. show_special: also write control tokens.
 * *n_bytes receives the length needed; as above where it exceeds `capacity`. Nothing is NUL-terminated. */
CACTUS_API cactus_status cactus_detokenize(const cactus_tokenizer *tokenizer, const int32_t *ids, size_t n_ids, int32_t show_special,
                                           char *text, size_t capacity, size_t *n_bytes, cactus_error *err);

/* The bytes of one token as they appear inside a text, control tokens included; they live as long as the tokenizer. */
CACTUS_API cactus_status cactus_token_bytes(const cactus_tokenizer *tokenizer, int32_t id, const char **bytes, size_t *n_bytes,
                                            cactus_error *err);

/* cactus_token_attr bits of one id; -1 where the id is out of range. */
CACTUS_API int32_t cactus_token_attributes(const cactus_tokenizer *tokenizer, int32_t id);

/* ---- model -------------------------------------------------------------------------------------------------------- */

typedef struct cactus_model cactus_model;

/* How the states of a text's tokens become one vector. */
typedef enum cactus_pooling {
    CACTUS_POOLING_AUTO = 0, /* as the file says; where it says nothing, MEAN for encoders and LAST for decoders */
    CACTUS_POOLING_MEAN = 1,
    CACTUS_POOLING_CLS = 2,  /* that of the first token */
    CACTUS_POOLING_LAST = 3
} cactus_pooling;

typedef struct cactus_model_info {
    uint32_t struct_size;
    const char *architecture; /* "llama"; strings live as long as the model */
    const char *name;         /* general.name, "" where absent */
    const char *quantisation; /* the type that holds most of the weights, "Q4_1" */
    uint64_t n_parameters;
    uint64_t file_bytes;      /* all parts of a split file */
    uint32_t n_tensors;
    uint32_t n_layers;
    uint32_t n_context;       /* trained context, tokens */
    uint32_t d_model;
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t d_head;
    uint32_t n_vocab;
    int32_t generates;        /* 0: an encoder, which makes embeddings and no text */
    int32_t pooling;          /* the cactus_pooling that AUTO means; AUTO: it makes no embeddings */
} cactus_model_info;

/* Maps a GGUF file (for a split file, its first part; the others are found by name), checks it and its tokenizer.
 * Free with cactus_model_free after every engine that uses it. */
CACTUS_API cactus_status cactus_model_load(const char *path, cactus_model **out, cactus_error *err);
CACTUS_API void cactus_model_free(cactus_model *model);
CACTUS_API cactus_status cactus_model_get_info(const cactus_model *model, cactus_model_info *info, cactus_error *err);

/* The model's tokenizer; lives as long as the model and must not be freed. */
CACTUS_API const cactus_tokenizer *cactus_model_tokenizer(const cactus_model *model);

/* Metadata of the file, by position. Arrays longer than 16 elements are abbreviated in `value`. Pointers live as long as the model. */
CACTUS_API size_t cactus_model_n_metadata(const cactus_model *model);
CACTUS_API cactus_status cactus_model_metadata(const cactus_model *model, size_t index, const char **key, const char **value,
                                               size_t *n_value_bytes, cactus_error *err);

/* ---- engine ------------------------------------------------------------------------------------------------------- */

typedef struct cactus_engine cactus_engine;

typedef enum cactus_kv_type {
    CACTUS_KV_AUTO = 0, /* f16; f32 for models whose weights are F32, F16 or BF16 */
    CACTUS_KV_F16 = 1,
    CACTUS_KV_F32 = 2,
    CACTUS_KV_I8 = 3    /* 8-bit codes, a float32 scale for each 32 elements of a head: 9/16 of f16's memory for heads of 32, 64, … */
} cactus_kv_type;

typedef struct cactus_engine_params {
    uint32_t struct_size;
    int32_t n_threads;        /* 0: cactus_default_threads() */
    int32_t n_context;        /* longest sequence in tokens; 0: the model's */
    int32_t n_batch;          /* most tokens computed in one step; 0: 512 */
    int32_t kv_type;          /* cactus_kv_type */
    uint64_t kv_memory_bytes; /* most memory for keys and values of all sequences; 0: enough for one full context, at least 4096 tokens */
    const char *kernels;      /* name of a kernel set; NULL: environment CACTUS_PY_KERNELS, else the best */
    int32_t max_waiting;      /* requests that may wait until others end; one more is refused with CACTUS_ERROR_BUSY. 0: no limit */
    int32_t no_prefixes;      /* 1: what was read is forgotten with the request, and read again for the next one */
} cactus_engine_params;

typedef struct cactus_engine_info {
    uint32_t struct_size;
    int32_t n_threads;
    int32_t n_context;
    int32_t n_batch;
    int32_t kv_type;            /* CACTUS_KV_F16, CACTUS_KV_F32 or CACTUS_KV_I8 */
    int32_t n_running;          /* requests being computed */
    int32_t n_waiting;          /* requests not started yet */
    uint32_t n_kv_pages;        /* pages there may be */
    uint32_t n_kv_pages_used;   /* by requests */
    uint32_t n_kv_pages_cached; /* prefixes that no request uses now; they go when memory is wanted */
    uint32_t kv_page_tokens;
    uint64_t kv_page_bytes;
    uint64_t kv_touched_bytes;  /* memory that pages have ever used: the resident KV cache */
    uint64_t scratch_bytes;     /* activations and panels */
    const char *kernels;        /* chosen set; static storage */
    uint64_t n_prompt;          /* tokens since the engine was made: of prompts, */
    uint64_t n_prompt_cached;   /* of them found in memory, */
    uint64_t n_generated;
    uint64_t n_drafted;         /* computed ahead of their turn, */
    uint64_t n_accepted;        /* of them, those that were then chosen */
    uint64_t n_preempted;       /* times that a request gave its memory to an older one and was read again */
    uint64_t n_evicted;         /* pages of prefixes that went because memory was wanted */
} cactus_engine_info;

/* The model must outlive the engine. */
CACTUS_API cactus_status cactus_engine_create(const cactus_model *model, const cactus_engine_params *params, cactus_engine **out, cactus_error *err);

/* Cancels every request, waits for the scheduler, frees. Requests stay valid: they report CACTUS_FINISH_CANCELLED and must still be freed. */
CACTUS_API void cactus_engine_free(cactus_engine *engine);
CACTUS_API cactus_status cactus_engine_get_info(cactus_engine *engine, cactus_engine_info *info, cactus_error *err);

/* Scores of every position: logits is float32 [n_ids, n_vocab], row i the scores after ids[0..i], from an empty cache.
 * chunk: tokens computed together (0: n_batch; 1: one at a time). Waits for its turn between the scheduler's steps. */
CACTUS_API cactus_status cactus_engine_logits(cactus_engine *engine, const int32_t *ids, size_t n_ids, int32_t chunk, float *logits, cactus_error *err);

/* log p(ids[i] | ids[0..i-1]) for i >= 1 as float32 [n_ids - 1], without storing [n_ids, n_vocab]. */
CACTUS_API cactus_status cactus_engine_logprobs(cactus_engine *engine, const int32_t *ids, size_t n_ids, float *logprobs, cactus_error *err);

typedef struct cactus_embed_params {
    uint32_t struct_size;
    int32_t pooling;   /* cactus_pooling */
    int32_t normalise; /* 1: to Euclidean length 1 */
} cactus_embed_params;

/* One vector for each of n_sequences texts: ids holds their tokens one behind the other, lengths [n_sequences] how many each has, at
 * least 1; out is float32 [n_sequences, d_model]. What is pooled are the states behind the last layer (and its norm). A vector does not
 * depend on what is computed beside it. Waits for its turns between the scheduler's steps.
 * Errors: ARGUMENT, CONTEXT (a text is longer than the context), UNSUPPORTED (the model makes no embeddings), MEMORY, CANCELLED. */
CACTUS_API cactus_status cactus_engine_embed(cactus_engine *engine, const int32_t *ids, const size_t *lengths, size_t n_sequences,
                                             const cactus_embed_params *params, float *out, cactus_error *err);

/* What was read and is kept, to a file and back: pages of keys and values by the tokens that they hold. key [n_key <= 64] names the model,
 * say by its hash; a file with another key, of another engine version, layout or length, or with a wrong checksum is refused (FORMAT).
 * n_tokens (may be NULL): how many were saved, or were loaded and are there now. Loading stops where memory ends. The file appears
 * whole or not at all; requests go on meanwhile. Errors: IO, FORMAT, ARGUMENT, MEMORY, CANCELLED. */
CACTUS_API cactus_status cactus_engine_save_prefixes(cactus_engine *engine, const char *path, const uint8_t *key, size_t n_key,
                                                     uint64_t *n_tokens, cactus_error *err);
CACTUS_API cactus_status cactus_engine_load_prefixes(cactus_engine *engine, const char *path, const uint8_t *key, size_t n_key,
                                                     uint64_t *n_tokens, cactus_error *err);

/* ---- requests ----------------------------------------------------------------------------------------------------- */

typedef struct cactus_request cactus_request;

typedef enum cactus_finish {
    CACTUS_FINISH_NONE = 0,
    CACTUS_FINISH_STOP = 1,      /* an end token or a stop string */
    CACTUS_FINISH_LENGTH = 2,    /* max_tokens reached, or the context is full under CACTUS_CONTEXT_ERROR */
    CACTUS_FINISH_CANCELLED = 3,
    CACTUS_FINISH_TIMEOUT = 4    /* its timeout_ms passed */
} cactus_finish;

typedef enum cactus_context_policy {
    CACTUS_CONTEXT_ERROR = 0, /* a prompt longer than the context is refused; generation ends with LENGTH when it is full */
    CACTUS_CONTEXT_SHIFT = 1  /* the first n_keep tokens and the newest ones stay, the middle is dropped and the rest read again */
} cactus_context_policy;

typedef struct cactus_sampling {
    uint32_t struct_size;
    int32_t top_k;              /* 0: off */
    float temperature;          /* 0: greedy */
    float top_p;                /* (0, 1], 1: off */
    float min_p;                /* [0, 1], 0: off */
    float repetition_penalty;   /* > 0, 1: off; divides positive and multiplies negative scores of tokens seen */
    float presence_penalty;     /* [-2, 2] */
    float frequency_penalty;    /* [-2, 2] */
    int32_t penalty_last_n;     /* tokens looked back at by the penalties, prompt included; -1: all that the context holds; 0: none */
    int32_t ignore_eos;         /* 1: end tokens cannot be produced */
    uint64_t seed;
    const int32_t *bias_ids;    /* [n_bias], added to the scores */
    const float *bias_values;   /* [n_bias] */
    size_t n_bias;
    int32_t n_top_logprobs;     /* alternatives reported per token, 0 … 20 */
} cactus_sampling;

typedef struct cactus_token {
    int32_t id;             /* -1: no token, only text or the finish */
    int32_t finish;         /* cactus_finish; not NONE on the last event */
    float logprob;          /* natural log, of the model's own distribution: before temperature, penalties, bias */
    float entropy;          /* nats, of the same distribution */
    float margin;           /* best score minus second best score (logits), >= 0 */
    int32_t n_top;          /* alternatives, best first */
    const int32_t *top_ids; /* [n_top]; this and all pointers here are valid until the next call on the same request */
    const float *top_logprobs;
    const char *text;       /* what this event adds to the text: whole UTF-8 characters, stop strings and end tokens left out */
    size_t n_text_bytes;
} cactus_token;

/* Called in the scheduler's thread for every event; must not block and must not call the engine. Return non-zero to cancel. It is
 * not called any more once cactus_request_free has returned. */
typedef int32_t (*cactus_token_callback)(void *user, const cactus_token *token);

/* `speculation`: where the newest tokens occurred before in the prompt or the answer, those that followed there are drafted and computed
 * together with the next token; the request's own sampler decides how many of them stand. Everything that is delivered is the same as
 * without it, for drawn tokens too; only the number of steps falls. How much is drafted follows how well drafts did. */
typedef struct cactus_request_params {
    uint32_t struct_size;
    int32_t max_tokens;            /* > 0; -1: until an end token or the context is full */
    const int32_t *prompt;         /* [n_prompt], copied */
    size_t n_prompt;               /* >= 1 */
    const char *const *stop;       /* [n_stop] stop strings, copied */
    size_t n_stop;
    int32_t context_policy;        /* cactus_context_policy */
    int32_t n_keep;                /* tokens at the front that a shift never drops */
    int32_t speculation;           /* most tokens drafted per step, 0 (off) … 16 */
    cactus_sampling sampling;
    cactus_token_callback on_token; /* NULL: events are fetched with cactus_request_next */
    void *user;
    int32_t timeout_ms;            /* ends it with CACTUS_FINISH_TIMEOUT so long after submission; 0: never */
    int32_t constrained;           /* 1: every choice waits for its cactus_request_set_mask; drafts are off */
    int32_t no_prefixes;           /* 1: neither uses what others have read nor leaves anything for them */
    int32_t pool_states;           /* 1: keeps what cactus_request_states reports, 12 bytes for each of d_model */
} cactus_request_params;

typedef struct cactus_request_stats {
    uint32_t struct_size;
    int32_t n_prompt;          /* prompt tokens read: without those that a shift dropped at submission */
    int32_t n_prompt_cached;   /* of them, found in memory: another request that began alike had read them */
    int32_t n_generated;
    int32_t n_drafted;         /* tokens computed ahead of their turn */
    int32_t n_accepted;        /* of them, those that were then chosen */
    double queue_ms;           /* submission to the first step */
    double prompt_ms;          /* first step to the first token */
    double decode_ms;          /* first token to the last */
} cactus_request_stats;

/* Fills a struct with the defaults: greedy off, temperature 1, top_p 1, no penalties, seed 0, max_tokens -1. */
CACTUS_API void cactus_request_params_default(cactus_request_params *params);

CACTUS_API cactus_status cactus_request_submit(cactus_engine *engine, const cactus_request_params *params, cactus_request **out, cactus_error *err);

/* Waits for the next event. CACTUS_ERROR_TIMEOUT after timeout_ms (< 0: no limit; 0: do not wait); CACTUS_ERROR_FINISHED once
 * the last event has been delivered. */
CACTUS_API cactus_status cactus_request_next(cactus_request *request, int32_t timeout_ms, cactus_token *token, cactus_error *err);

/* Waits until the request has ended, without waking up for every event; they can be fetched afterwards. CACTUS_ERROR_TIMEOUT after
 * timeout_ms (< 0: no limit). */
CACTUS_API cactus_status cactus_request_wait(cactus_request *request, int32_t timeout_ms, cactus_error *err);

/* Which tokens may come next in a constrained request: bit i % 32 of words[i / 32] allows token i; words [n_words = n_vocab / 32, rounded
 * up], copied; NULL allows all. One for each token: the first at any time after submission, the next once the token was delivered. The
 * token's successor is computed meanwhile, and no other request waits. From any thread. Errors: ARGUMENT. */
CACTUS_API cactus_status cactus_request_set_mask(cactus_request *request, const uint32_t *words, size_t n_words, cactus_error *err);

/* Ends the request at the next token boundary. Safe at any time, from any thread, more than once. */
CACTUS_API void cactus_request_cancel(cactus_request *request);
CACTUS_API cactus_status cactus_request_get_stats(cactus_request *request, cactus_request_stats *stats, cactus_error *err);

/* The states that the tokens so far were chosen from: of the last layer, behind its norm, as the output matrix reads them. For a request
 * with pool_states, each float32 [n = d_model], or NULL where it is not wanted: `prompt` of the prompt's last token, which the first
 * token was chosen from; `mean` over all tokens, the one that ended the request included (float32 sums, in order); `last` of the newest
 * token. n_tokens: how many there are; 0: nothing is written. No bit depends on what is computed beside it. At any time, from any
 * thread, until the request is freed. Errors: ARGUMENT. */
CACTUS_API cactus_status cactus_request_states(cactus_request *request, float *prompt, float *mean, float *last, size_t n, int32_t *n_tokens,
                                               cactus_error *err);

/* Cancels it if it runs, and frees it. */
CACTUS_API void cactus_request_free(cactus_request *request);

/* ---- quantising ---------------------------------------------------------------------------------------------------- */

/* What a tensor becomes, and how far the work is. Called in the caller's thread when a tensor is begun, some times a second while it
 * lasts, and when it is done. */
typedef struct cactus_quantize_progress {
    const char *tensor;      /* valid during the call; safe to print */
    const char *from_type;   /* "F16"; static storage */
    const char *to_type;
    int32_t done;            /* 1: with this tensor */
    int32_t fell_back;       /* 1: its rows do not fit the blocks of the type it should have had */
    int32_t has_importance;  /* 1: the importance matrix has weights for it */
    uint32_t index;          /* of the tensor, from 0 */
    uint32_t n_tensors;
    uint64_t n_elems;        /* of the tensor */
    uint64_t from_bytes;
    uint64_t to_bytes;
    uint64_t bytes_done;     /* of all tensors of the source */
    uint64_t bytes_total;
} cactus_quantize_progress;

/* Return non-zero to cancel. */
typedef int32_t (*cactus_quantize_callback)(void *user, const cactus_quantize_progress *progress);

typedef struct cactus_quantize_params {
    uint32_t struct_size;
    int32_t n_threads;               /* 0: cactus_default_threads(); the result does not depend on it */
    const char *recipe;              /* one of cactus_quantize_recipes(), in any case */
    const char *imatrix;             /* path of an importance matrix (GGUF or .dat of llama.cpp), or NULL */
    const char *output_type;         /* tensor type ("q6_k") of output.weight, or of the embedding where that serves as output; or NULL */
    const char *embedding_type;      /* tensor type of the token embedding, or NULL */
    const char *const *tensor_types; /* [n_tensor_types] "PATTERN=TYPE": a POSIX extended regular expression, found anywhere in a
                                        tensor's name; the first that fits decides, before all else */
    size_t n_tensor_types;
    int32_t pure;                    /* 1: the recipe's type for every matrix, without its exceptions */
    int32_t allow_requantize;        /* 1: also tensors that are quantised already, which costs quality */
    int32_t overwrite;               /* 1: replace the target if it exists */
    cactus_quantize_callback on_progress; /* or NULL */
    void *user;
} cactus_quantize_params;

typedef struct cactus_quantize_result {
    uint32_t struct_size;
    uint32_t n_tensors;
    uint32_t n_converted;       /* of another type now */
    uint32_t n_fell_back;
    uint32_t n_with_importance;
    uint64_t n_elems;           /* of all tensors */
    uint64_t from_bytes;        /* tensor data of the source */
    uint64_t to_bytes;
    uint64_t from_file_bytes;   /* all parts of a split source */
    uint64_t to_file_bytes;
} cactus_quantize_result;

/* Space-separated names of the recipes ("f32 f16 bf16 q8_0 q6_k q5_k_m …"). Static storage. */
CACTUS_API const char *cactus_quantize_recipes(void);

/* Space-separated names of the tensor types that can be made. Static storage. */
CACTUS_API const char *cactus_quantize_types(void);

CACTUS_API void cactus_quantize_params_default(cactus_quantize_params *params);

/* Writes `target`, the model of the GGUF file `source` (of a split one its first part) with tensors of other types. The target appears
 * when it is complete, or not at all. target NULL: nothing is written, but everything is reported as if. `result` may be NULL.
 * Errors: IO, FORMAT, UNSUPPORTED, ARGUMENT, MEMORY; CANCELLED by the callback. */
CACTUS_API cactus_status cactus_quantize(const char *source, const char *target, const cactus_quantize_params *params,
                                         cactus_quantize_result *result, cactus_error *err);

#ifdef __cplusplus
}
#endif

#endif /* CACTUS_H */
