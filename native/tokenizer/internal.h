/* internal.h: what the files of the tokenizer share. tokenizer.c owns the vocabulary, the special tokens and the public
 * functions; a tokenizer model is one file (bpe.c) behind tokenizer_model; pre-tokenizers are one table in pretokenize.c. */
#ifndef CT_TOKENIZER_INTERNAL_H
#define CT_TOKENIZER_INTERNAL_H

#include "tokenizer/tokenizer.h"

/* ---- output ------------------------------------------------------------------------------------------------------- */

/* Where ids go: all are counted, the first `capacity` are kept. */
typedef struct ct_id_sink {
    int32_t *ids;
    size_t capacity;
    size_t n;
} ct_id_sink;

static inline void ct_put_id(ct_id_sink *sink, int32_t id)
{
    if (sink->n < sink->capacity) sink->ids[sink->n] = id;
    sink->n++;
}

/* ---- the vocabulary ------------------------------------------------------------------------------------------------ */

/* The bytes that each token stands for, end to end in one block. */
typedef struct ct_vocab {
    int32_t n;
    uint32_t *at;   /* [n + 1] offsets into bytes */
    uint8_t *bytes;
    uint8_t *attr;  /* [n] cactus_token_attr bits */
} ct_vocab;

static inline const uint8_t *ct_vocab_bytes(const ct_vocab *vocab, int32_t id) { return vocab->bytes + vocab->at[id]; }
static inline size_t ct_vocab_size(const ct_vocab *vocab, int32_t id) { return vocab->at[id + 1] - vocab->at[id]; }

/* Whether plain text may become this token: control, unknown and unused ones never arise from the text of a stranger. */
static inline bool ct_vocab_is_text(const ct_vocab *vocab, int32_t id)
{
    return (vocab->attr[id] & (CACTUS_TOKEN_CONTROL | CACTUS_TOKEN_UNKNOWN | CACTUS_TOKEN_UNUSED)) == 0;
}

/* Bytes -> id, open addressing with linear probing. */
typedef struct ct_vocab_index {
    uint64_t *slots; /* [mask + 1] upper half of the hash << 32 | id + 1; 0 is free */
    size_t mask;
    uint64_t seed;   /* differs from load to load, so that no file can be made to collide */
} ct_vocab_index;

/* The token of exactly these bytes, or -1. Of several, a normal token comes before the others. */
int32_t ct_vocab_find(const ct_vocab *vocab, const ct_vocab_index *index, const void *bytes, size_t n_bytes);

/* The same in two steps, between which memory has time to arrive: the first prefetches and returns what the second wants. */
uint64_t ct_vocab_prefetch(const ct_vocab_index *index, const void *bytes, size_t n_bytes);
int32_t ct_vocab_find_hashed(const ct_vocab *vocab, const ct_vocab_index *index, uint64_t hash, const void *bytes,
                             size_t n_bytes);

#if defined(__GNUC__)
#define CT_PREFETCH(address_) __builtin_prefetch(address_)
#else
#define CT_PREFETCH(address_) ((void)(address_))
#endif

/* A number that differs from call to call; not secret. */
uint64_t ct_hash_seed(const void *any);

/* The smallest power of two with at most two thirds of the slots in use by n entries; 0 where it overflows. */
size_t ct_hash_slots(size_t n);

static inline uint64_t ct_hash_mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u; /* multiplier found by C. Wellons' search for low-bias mixers */
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

/* `text` for a message: at most 64 bytes, printable ASCII as it is, the rest as \xNN. Returns `out`. */
enum { CT_QUOTED_BYTES = 64 * 4 + 4 };
const char *ct_quote(ct_str text, char out[CT_QUOTED_BYTES]);

/* ---- pre-tokenizers (pretokenize.c) -------------------------------------------------------------------------------- */

enum {
    CT_PRE_IGNORE_MERGES = 1, /* a word that is a token is taken whole, whatever the merges say */
    CT_PRE_ADD_BOS = 2        /* bos goes in front unless the file says otherwise */
};

typedef struct ct_pretokenizer ct_pretokenizer;

/* The row of a tokenizer.ggml.pre, or NULL if there is none. "" is "default". */
const ct_pretokenizer *ct_pretokenizer_find(ct_str name);
unsigned ct_pretokenizer_flags(const ct_pretokenizer *pre);

/* Takes one word of the text, n_bytes >= 1. A status that is not OK ends the walk. */
typedef cactus_status (*ct_word_fn)(void *ctx, const uint8_t *word, size_t n_bytes);

/* Cuts a text into words, in order and without gaps, and hands each to `take`. Time is linear in n_bytes. */
cactus_status ct_pretokenize(const ct_pretokenizer *pre, const uint8_t *text, size_t n_bytes, ct_word_fn take, void *ctx);

/* ---- tokenizer models ---------------------------------------------------------------------------------------------- */

typedef struct ct_tokenizer_model {
    const char *name; /* tokenizer.ggml.model */

    /* Writes the bytes that a normal token's text stands for, at most text.size of them, and returns how many. */
    size_t (*decode)(ct_str text, uint8_t *out);

    /* Reads what the model needs besides the vocabulary (merges, scores) into tokenizer->state. May keep `index`, whose memory
     * then is its own (it clears index->slots). On failure it leaves nothing behind. */
    cactus_status (*load)(cactus_tokenizer *tokenizer, const ct_gguf *gguf, ct_vocab_index *index, cactus_error *err);
    void (*unload)(void *state);

    /* Appends the ids of a text without special tokens. Errors: MEMORY. */
    cactus_status (*encode)(const cactus_tokenizer *tokenizer, const uint8_t *text, size_t n_bytes, ct_id_sink *sink,
                            cactus_error *err);
} ct_tokenizer_model;

extern const ct_tokenizer_model ct_bpe_model; /* bpe.c: "gpt2" */

/* ---- the tokenizer -------------------------------------------------------------------------------------------------- */

/* A special token as it is searched for in text. */
typedef struct ct_special {
    const uint8_t *bytes;
    size_t n_bytes;
    int32_t id;
} ct_special;

typedef struct ct_special_set {
    ct_special *items; /* [n] in the order of their bytes */
    size_t n;
    bool starts[256];  /* bytes that one of them begins with */
} ct_special_set;

struct cactus_tokenizer {
    const ct_tokenizer_model *model;
    void *state; /* the model's own */
    const ct_pretokenizer *pre;
    char *pre_name; /* tokenizer.ggml.pre, "" where absent */
    ct_vocab vocab;
    int32_t bos_id, eos_id, eot_id, pad_id, unk_id; /* -1: none */
    bool add_bos, add_eos;
    ct_special_set user_defined; /* found in every text */
    ct_special_set all_special;  /* those, control and unknown tokens: found where parse_special says so */
};

#endif
