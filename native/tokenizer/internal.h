/* internal.h: what the files of the tokenizer share. tokenizer.c owns the vocabulary, the special tokens and the public
 * functions; a tokenizer model is one file (bpe.c, spm.c, unigram.c, wordpiece.c, rwkv.c) behind ct_tokenizer_model;
 * pre-tokenizers are one table in pretokenize.c; pieces.c holds what several models look up quickly. */
#ifndef CT_TOKENIZER_INTERNAL_H
#define CT_TOKENIZER_INTERNAL_H

#include <string.h>

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

static inline uint64_t ct_hash_mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u; /* multiplier found by C. Wellons' search for low-bias mixers */
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

static inline uint64_t ct_hash_bytes(const uint8_t *p, size_t n, uint64_t seed)
{
    uint64_t h = seed ^ n * 0x9e3779b97f4a7c15u, part = 0;
    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&part, p, 8);
        h = (h ^ part) * 0xd6e8feb86659fd93u;
        h ^= h >> 32;
    }
    part = 0;
    if (n >= 4) { /* both ends, which may overlap */
        uint32_t head, tail;
        memcpy(&head, p, 4);
        memcpy(&tail, p + n - 4, 4);
        part = (uint64_t)head << 32 | tail;
    } else if (n > 0)
        part = (uint64_t)p[0] << 16 | (uint64_t)p[n / 2] << 8 | p[n - 1];
    return ct_hash_mix(h ^ part);
}

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

/* `text` for a message: at most 64 bytes, printable ASCII as it is, the rest as \xNN. Returns `out`. */
enum { CT_QUOTED_BYTES = 64 * 4 + 4 };
const char *ct_quote(ct_str text, char out[CT_QUOTED_BYTES]);

/* ---- pieces of text (pieces.c) -------------------------------------------------------------------------------------- */

/* Which pairs of neighbouring bytes occur inside tokens. Where a pair does not, no token crosses, so what lies on both sides can
 * be encoded apart; text falls into words without anyone saying what a word is. */
typedef struct ct_seams {
    uint8_t bits[256 * 256 / 8];
} ct_seams;

void ct_seams_add(ct_seams *seams, const uint8_t *bytes, size_t n_bytes);

static inline bool ct_seams_joined(const ct_seams *seams, uint8_t left, uint8_t right)
{
    return (seams->bits[left << 5 | right >> 3] >> (right & 7) & 1) != 0;
}

/* The end of the first stretch of [p, end), p < end, that tokens may span: always the end of a character. */
const uint8_t *ct_seams_next(const ct_seams *seams, const uint8_t *p, const uint8_t *end);

/* Beginnings of tokens as a set of hashes: says "no" only where no token begins so. */
enum { CT_MAX_MATCHED_BYTES = 512 }; /* longest token that is searched for byte by byte: bounds the time one place takes */

typedef struct ct_prefixes {
    uint64_t *bits;
    unsigned shift; /* 64 - log2 of the number of bits */
    uint64_t seed;
} ct_prefixes;

/* Those of all tokens that text may become. Errors: FORMAT (a token that is too long), MEMORY. Free .bits with ct_free. */
cactus_status ct_prefixes_init(ct_prefixes *prefixes, const ct_vocab *vocab, cactus_error *err);

static inline uint64_t ct_prefix_step(uint64_t hash, uint8_t byte)
{
    return (hash ^ byte) * 0x9e3779b97f4a7c15u ^ hash >> 29;
}

static inline bool ct_prefixes_has(const ct_prefixes *prefixes, uint64_t hash)
{
    uint64_t bit = (hash * 0xd6e8feb86659fd93u) >> prefixes->shift;
    return (prefixes->bits[bit >> 6] >> (bit & 63) & 1) != 0;
}

/* What words became, within one call of encode: texts repeat their words. Of two words with one place the newer stays. */
typedef struct ct_word_slot {
    uint32_t hash;
    uint8_t n_bytes; /* 0: free */
    uint8_t n_ids;
    uint8_t word[26];
    int32_t ids[8];
} ct_word_slot;

typedef struct ct_word_cache {
    ct_word_slot *slots; /* NULL: the text is too short to be worth it, or memory is */
    size_t mask;
    uint64_t seed;
    uint64_t hash;       /* of the word asked for last */
    size_t n_before;     /* ids in the sink at that time */
} ct_word_cache;

void ct_word_cache_init(ct_word_cache *cache, size_t n_text_bytes);
void ct_word_cache_free(ct_word_cache *cache);

/* Appends the ids of a word if they are known. If not, encode the word and call ct_word_cache_keep. */
bool ct_word_cache_take(ct_word_cache *cache, const uint8_t *word, size_t n_bytes, ct_id_sink *sink);
void ct_word_cache_keep(ct_word_cache *cache, const uint8_t *word, size_t n_bytes, const ct_id_sink *sink);

/* SentencePiece writes a space as U+2581: turns the one back into the other. Writes at most text.size bytes; `out` may be where
 * the text is. Returns how many. */
size_t ct_unescape_spaces(ct_str text, uint8_t *out);

/* ---- pre-tokenizers (pretokenize.c) -------------------------------------------------------------------------------- */

enum {
    CT_PRE_IGNORE_MERGES = 1, /* a word that is a token is taken whole, whatever the merges say */
    CT_PRE_ADD_BOS = 2,       /* bos goes in front unless the file says otherwise */
    CT_PRE_RAW = 4,           /* tokens are UTF-8 with U+2581 for the space, not GPT-2's alphabet */
    CT_PRE_WHOLE_LINES = 8,   /* so is a run of line breaks */
    CT_PRE_FORCE_BOS = 16     /* bos goes in front even if the file says otherwise: such files are wrong */
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

    /* What holds where the file is silent: ids (-1: none; ignored where the vocabulary is smaller), flags. */
    int32_t bos_id, eos_id, unk_id, sep_id, pad_id;
    bool add_bos, add_eos, add_sep, add_space_prefix;

    bool pretokenized; /* cut by tokenizer.ggml.pre; the others have no use for it */
    bool clean_up;     /* spaces before punctuation are dropped when ids become text */

    /* Writes the bytes that a normal token's text stands for, at most text.size of them, and returns how many. */
    size_t (*decode)(ct_str text, uint8_t *out);
    bool decode_user_defined; /* the texts of user-defined tokens too, which others write as they are */

    /* Reads what the model needs besides the vocabulary (merges, scores) into tokenizer->state. May keep `index`, whose memory
     * then is its own (it clears index->slots). On failure it leaves nothing behind. */
    cactus_status (*load)(cactus_tokenizer *tokenizer, const ct_gguf *gguf, ct_vocab_index *index, cactus_error *err);
    void (*unload)(void *state);

    /* Appends the ids of a text without special tokens, n_bytes >= 1. `cache` is for its own use, for the texts between the special
     * tokens of one call. Errors: MEMORY. */
    cactus_status (*encode)(const cactus_tokenizer *tokenizer, const uint8_t *text, size_t n_bytes, ct_word_cache *cache,
                            ct_id_sink *sink, cactus_error *err);
} ct_tokenizer_model;

extern const ct_tokenizer_model ct_bpe_model;       /* bpe.c: "gpt2" */
extern const ct_tokenizer_model ct_raw_bpe_model;   /* bpe.c: "gemma4", and pre-tokenizers of that kind under "gpt2" */
extern const ct_tokenizer_model ct_spm_model;       /* spm.c: "llama" */
extern const ct_tokenizer_model ct_unigram_model;   /* unigram.c: "t5" */
extern const ct_tokenizer_model ct_wordpiece_model; /* wordpiece.c: "bert" */
extern const ct_tokenizer_model ct_rwkv_model;      /* rwkv.c: "rwkv" */

/* tokenizer.ggml.scores, one finite number for each token; allocated, free with ct_free. Errors: FORMAT, MEMORY. */
cactus_status ct_read_scores(const ct_gguf *gguf, int32_t n_vocab, float **out, cactus_error *err);

/* ---- the tokenizer -------------------------------------------------------------------------------------------------- */

/* A special token as it is searched for in text. */
typedef struct ct_special {
    const uint8_t *bytes;
    size_t n_bytes;
    int32_t id;
    bool strip_left, strip_right; /* it takes the white space before it, behind it */
} ct_special;

typedef struct ct_special_set {
    ct_special *items; /* [n] in the order of their bytes */
    size_t n;
    bool starts[256];  /* bytes that one of them begins with */
} ct_special_set;

struct cactus_tokenizer {
    const ct_tokenizer_model *model;
    const char *model_name; /* tokenizer.ggml.model */
    void *state;            /* the model's own */
    const ct_pretokenizer *pre;
    char *pre_name; /* tokenizer.ggml.pre, "" where absent */
    ct_vocab vocab;
    int32_t bos_id, eos_id, eot_id, pad_id, unk_id, sep_id, mask_id; /* -1: none */
    bool add_bos, add_eos, add_sep;
    bool add_space_prefix;    /* a space goes before the text, and before text behind a special token */
    bool remove_extra_spaces; /* at both ends, and of several but one */
    bool space_is_suffix;     /* the added space goes behind the text */
    ct_special_set user_defined; /* found in every text */
    ct_special_set all_special;  /* those, control and unknown tokens: found where parse_special says so */
};

#endif
