/* unigram.c: SentencePiece's unigram language model (tokenizer.ggml.model "t5").
 *
 * A text is normalised by the file's own table, its spaces are put in order, and it is cut into the tokens whose scores (log
 * probabilities) have the highest sum. A character without a token counts as one that is 10 below the lowest score: it becomes
 * byte tokens where the vocabulary has all 256, else one unknown token together with its like before it.
 *
 * Sums start anew at places that no token spans (ct_seams), which are nearly all beginnings of words: a sum is then the same
 * wherever its word stands, and words that come again are looked up (ct_word_cache).
 *
 * The normalising table (tokenizer.ggml.precompiled_charsmap) is a double array over the bytes of what is replaced, laid out as
 * darts-clone does: a unit of 32 bits holds the byte it is reached by (bits 0 to 7), whether a value belongs to it (bit 8) and
 * where its children lie, relative to it (bits 10 to 30, times 256 if bit 9 is set); bit 31 marks a value, the offset of the
 * NUL-terminated replacement in the bytes behind the array. */
#include <math.h>

#include "tokenizer/internal.h"
#include "tokenizer/unicode.h"

enum { MAX_REPLACEMENT_BYTES = 1024, UNKNOWN_PENALTY = 10 };

typedef struct charsmap {
    uint32_t *units; /* [n_units] */
    size_t n_units;
    char *replacements; /* [n_bytes], the last one NUL */
    size_t n_bytes;
    bool starts[256];   /* bytes that something to be replaced begins with */
} charsmap;

typedef struct unigram {
    ct_vocab_index index;
    ct_prefixes prefixes;
    ct_seams seams;
    float *scores;        /* [n_vocab] */
    double unknown_score;
    charsmap map;
    bool all_bytes;       /* the vocabulary has a token for each */
    int32_t byte_id[256];
} unigram;

/* The best way to some place of a word. */
typedef struct step {
    double sum;
    uint32_t from; /* where its last token begins */
    int32_t id;    /* -1: no token, a character without one */
} step;

typedef struct session {
    const cactus_tokenizer *tokenizer;
    const unigram *unigram;
    ct_id_sink *sink;
    cactus_error *err;
    uint8_t *text; /* normalised; [capacity] */
    size_t n_bytes, capacity;
    step *steps;   /* [n_steps] */
    size_t n_steps;
    ct_word_cache *cache;
    bool unknown;     /* the last character became the unknown token */
    bool any_unknown; /* so did one of this word */
} session;

/* ---- loading ---- */

static void unload(void *state)
{
    unigram *u = state;
    if (u == NULL) return;
    ct_free(u->index.slots);
    ct_free(u->prefixes.bits);
    ct_free(u->scores);
    ct_free(u->map.units);
    ct_free(u->map.replacements);
    ct_free(u);
}

static inline uint32_t children_of(uint32_t unit) { return unit >> 10 << ((unit & 1u << 9) >> 6); }

/* Whether `byte` leads on from the node whose children lie at *base. *base becomes where the new node's children lie, and *unit the
 * node itself. */
static inline bool descend(const charsmap *map, size_t *base, uint8_t byte, uint32_t *unit)
{
    size_t at = *base ^ byte;
    if (at >= map->n_units) return false;
    *unit = map->units[at];
    if ((*unit & (1u << 31 | 0xFF)) != byte) return false;
    *base = at ^ children_of(*unit);
    return true;
}

static cactus_status read_charsmap(charsmap *map, const ct_gguf *gguf, cactus_error *err)
{
    static const char key[] = "tokenizer.ggml.precompiled_charsmap";
    const ct_gguf_kv *kv = ct_gguf_find_kv(gguf, key);
    if (kv == NULL || (kv->type == CT_GGUF_ARRAY && kv->count == 0)) return CACTUS_OK;
    if (kv->type != CT_GGUF_ARRAY || (kv->elem != CT_GGUF_U8 && kv->elem != CT_GGUF_I8))
        return ct_fail(err, CACTUS_ERROR_FORMAT, "%s is not an array of bytes", key);
    uint32_t n_array = 0;
    if (kv->n_bytes >= sizeof n_array) memcpy(&n_array, kv->data, sizeof n_array);
    if (kv->n_bytes < sizeof n_array || n_array % 4 != 0 || n_array == 0 || n_array >= kv->n_bytes - sizeof n_array)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "%s has %zu bytes, which an array of %u bytes does not fit", key, kv->n_bytes,
                       (unsigned)n_array);
    map->n_units = n_array / 4;
    map->n_bytes = kv->n_bytes - sizeof n_array - n_array;
    map->units = ct_alloc(map->n_units, sizeof *map->units);
    map->replacements = ct_alloc(map->n_bytes, 1);
    if (map->units == NULL || map->replacements == NULL)
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for %s of %zu bytes", key, kv->n_bytes);
    memcpy(map->units, kv->data + sizeof n_array, n_array);
    memcpy(map->replacements, kv->data + sizeof n_array + n_array, map->n_bytes);
    if (map->replacements[map->n_bytes - 1] != '\0')
        return ct_fail(err, CACTUS_ERROR_FORMAT, "%s does not end with a NUL", key);
    for (size_t i = 0, start = 0; i < map->n_bytes; i++) {
        if (i - start > MAX_REPLACEMENT_BYTES)
            return ct_fail(err, CACTUS_ERROR_FORMAT, "%s has a replacement of more than %d bytes", key, MAX_REPLACEMENT_BYTES);
        if (map->replacements[i] == '\0') start = i + 1;
    }
    for (int byte = 1; byte < 256; byte++) {
        size_t base = children_of(map->units[0]);
        uint32_t unit;
        map->starts[byte] = descend(map, &base, (uint8_t)byte, &unit);
    }
    return CACTUS_OK;
}

static void read_pieces(unigram *u, const ct_vocab *vocab)
{
    double lowest = 0;
    bool any = false;
    for (int i = 0; i < 256; i++) u->byte_id[i] = -1;
    for (int32_t id = 0; id < vocab->n; id++) {
        if ((vocab->attr[id] & CACTUS_TOKEN_BYTE) != 0 && ct_vocab_size(vocab, id) == 1)
            u->byte_id[*ct_vocab_bytes(vocab, id)] = id;
        if ((vocab->attr[id] & ~CACTUS_TOKEN_END) != CACTUS_TOKEN_NORMAL) continue;
        if (!any || u->scores[id] < lowest) lowest = u->scores[id];
        any = true;
        ct_seams_add(&u->seams, ct_vocab_bytes(vocab, id), ct_vocab_size(vocab, id));
    }
    u->unknown_score = lowest - UNKNOWN_PENALTY;
    u->all_bytes = true;
    for (int i = 0; i < 256; i++) u->all_bytes = u->all_bytes && u->byte_id[i] >= 0;
}

static cactus_status load(cactus_tokenizer *tokenizer, const ct_gguf *gguf, ct_vocab_index *index, cactus_error *err)
{
    const ct_vocab *vocab = &tokenizer->vocab;
    unigram *u = ct_alloc(1, sizeof *u);
    if (u == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for a tokenizer");
    cactus_status status = ct_read_scores(gguf, vocab->n, &u->scores, err);
    if (status == CACTUS_OK) status = ct_prefixes_init(&u->prefixes, vocab, err);
    if (status == CACTUS_OK) status = read_charsmap(&u->map, gguf, err);
    if (status != CACTUS_OK) {
        unload(u);
        return status;
    }
    read_pieces(u, vocab);
    u->index = *index;
    index->slots = NULL;
    tokenizer->state = u;
    return CACTUS_OK;
}

/* ---- normalising ---- */

static cactus_status reserve(session *s, size_t n_more)
{
    size_t wanted = 0;
    if (s->capacity - s->n_bytes >= n_more) return CACTUS_OK;
    uint8_t *text = ct_add_ok(s->capacity, s->capacity / 2, &wanted) && ct_add_ok(wanted, n_more, &wanted) ? ct_alloc(wanted, 1) : NULL;
    if (text == NULL) return ct_fail(s->err, CACTUS_ERROR_MEMORY, "no memory to normalise a text of more than %zu bytes", s->n_bytes);
    if (s->n_bytes > 0) memcpy(text, s->text, s->n_bytes);
    ct_free(s->text);
    s->text = text;
    s->capacity = wanted;
    return CACTUS_OK;
}

/* What the text at p becomes: *n_taken bytes of it become the result. The longest replacement counts; what has none stays, and a
 * byte that is not UTF-8 becomes U+FFFD. */
static ct_str normalise_one(const charsmap *map, const uint8_t *p, const uint8_t *end, size_t *n_taken)
{
    ct_str result = {NULL, 0};
    if (map->n_units > 0 && map->starts[*p]) {
        size_t base = children_of(map->units[0]);
        uint32_t unit;
        for (const uint8_t *q = p; q < end && *q != 0 && descend(map, &base, *q, &unit); q++) {
            if ((unit >> 8 & 1) == 0 || base >= map->n_units) continue;
            size_t offset = map->units[base] & ~(1u << 31);
            if (offset >= map->n_bytes) continue;
            result = (ct_str){map->replacements + offset, strlen(map->replacements + offset)};
            *n_taken = (size_t)(q + 1 - p);
        }
        if (result.data != NULL) return result;
    }
    ct_char c = ct_char_at(p, end);
    *n_taken = c.size;
    return c.code == CT_NO_CODE ? (ct_str){"\xEF\xBF\xBD", 3} : (ct_str){(const char *)p, c.size};
}

/* Fills s->text: replacements made, U+2581 and spaces as spaces, arranged as the file wants them. */
static cactus_status normalise(session *s, const uint8_t *text, size_t n_bytes)
{
    const cactus_tokenizer *t = s->tokenizer;
    const uint8_t *end = text + n_bytes;
    cactus_status status = reserve(s, n_bytes + n_bytes / 4 + 2);
    if (status != CACTUS_OK) return status;
    const bool prefix = t->add_space_prefix && !t->space_is_suffix;
    if (prefix) s->text[s->n_bytes++] = ' ';
    bool any_escaped = false; /* perhaps */
    bool after_space = t->remove_extra_spaces; /* spaces at the front go with those that follow one */
    while (text < end) {
        size_t n_taken = 1;
        ct_str one = {(const char *)text, 1};
        if (*text >= 0x80 || s->unigram->map.starts[*text]) one = normalise_one(&s->unigram->map, text, end, &n_taken);
        text += n_taken;
        if ((status = reserve(s, one.size)) != CACTUS_OK) return status;
        for (size_t i = 0; i < one.size; i++) {
            uint8_t byte = (uint8_t)one.data[i];
            if (byte == ' ' && after_space) continue;
            after_space = byte == ' ' && t->remove_extra_spaces;
            s->text[s->n_bytes++] = byte;
        }
        any_escaped = any_escaped || (one.size >= 3 && memchr(one.data, 0x81, one.size) != NULL);
    }
    if (any_escaped) s->n_bytes = ct_unescape_spaces((ct_str){(const char *)s->text, s->n_bytes}, s->text);
    while (t->remove_extra_spaces && s->n_bytes > 0 && s->text[s->n_bytes - 1] == ' ') s->n_bytes--;
    if (t->add_space_prefix && t->space_is_suffix && s->n_bytes > 0) {
        if ((status = reserve(s, 1)) != CACTUS_OK) return status;
        s->text[s->n_bytes++] = ' ';
    }
    return CACTUS_OK;
}

/* ---- encoding ---- */

static void put_unknown(session *s, const uint8_t *p, size_t n_bytes)
{
    static const uint8_t escaped_space[3] = {0xE2, 0x96, 0x81};
    if (s->unigram->all_bytes) {
        if (*p == ' ') {
            p = escaped_space;
            n_bytes = sizeof escaped_space;
        }
        for (size_t i = 0; i < n_bytes; i++) ct_put_id(s->sink, s->unigram->byte_id[p[i]]);
        return;
    }
    if (!s->unknown && s->tokenizer->unk_id >= 0) ct_put_id(s->sink, s->tokenizer->unk_id);
    s->unknown = s->any_unknown = true;
}

/* Finds the best steps to each place of a word, first to last. */
static void walk(const session *s, const uint8_t *word, size_t n_bytes)
{
    const unigram *u = s->unigram;
    const ct_vocab *vocab = &s->tokenizer->vocab;
    const uint8_t *end = word + n_bytes;
    step *steps = s->steps;
    for (size_t i = 1; i <= n_bytes; i++) steps[i].sum = -HUGE_VAL;
    steps[0].sum = 0;
    for (const uint8_t *p = word; p < end;) {
        const uint32_t from = (uint32_t)(p - word);
        const size_t n_char = ct_char_at(p, end).size;
        const double sum = steps[from].sum;
        bool single = false;
        uint64_t hash = u->prefixes.seed;
        for (const uint8_t *q = p; q < end;) {
            do
                hash = ct_prefix_step(hash, *q++);
            while (q < end && (*q & 0xC0) == 0x80);
            if (!ct_prefixes_has(&u->prefixes, hash)) break;
            int32_t id = ct_vocab_find(vocab, &u->index, p, (size_t)(q - p));
            if (id < 0 || (vocab->attr[id] & ~CACTUS_TOKEN_END) != CACTUS_TOKEN_NORMAL) continue;
            single = single || (size_t)(q - p) == n_char;
            step *to = &steps[q - word];
            if (sum + u->scores[id] > to->sum) *to = (step){sum + u->scores[id], from, id};
        }
        step *to = &steps[from + n_char];
        if (!single && sum + u->unknown_score > to->sum) *to = (step){sum + u->unknown_score, from, -1};
        p += n_char;
    }
}

static cactus_status encode_word(session *s, const uint8_t *word, size_t n_bytes)
{
    if (n_bytes >= s->n_steps) {
        ct_free(s->steps);
        s->n_steps = ct_add_ok(2 * n_bytes, 64, &s->n_steps) ? s->n_steps : 0;
        s->steps = ct_alloc(s->n_steps, sizeof *s->steps);
        if (s->steps == NULL) {
            s->n_steps = 0;
            return ct_fail(s->err, CACTUS_ERROR_MEMORY, "no memory to tokenize a word of %zu bytes", n_bytes);
        }
    }
    walk(s, word, n_bytes);
    /* Turn the way around: from each place, where its token ends. */
    uint32_t to = (uint32_t)n_bytes, next = 0;
    for (uint32_t at = to; at > 0; at = next) {
        next = s->steps[at].from;
        s->steps[at].from = to; /* what lies behind `at` ends there */
        to = at;
    }
    for (uint32_t at = 0; at < n_bytes;) {
        const uint32_t token_end = to;
        const int32_t id = s->steps[token_end].id;
        if (id >= 0) {
            ct_put_id(s->sink, id);
            s->unknown = false;
        } else
            put_unknown(s, word + at, token_end - at);
        to = s->steps[token_end].from;
        at = token_end;
    }
    return CACTUS_OK;
}

static cactus_status encode_words(session *s)
{
    const uint8_t *p = s->text, *end = p + s->n_bytes;
    while (p < end) {
        const uint8_t *next = ct_seams_next(&s->unigram->seams, p, end);
        size_t n = (size_t)(next - p);
        s->any_unknown = false;
        if (ct_word_cache_take(s->cache, p, n, s->sink))
            s->unknown = false;
        else {
            cactus_status status = encode_word(s, p, n);
            if (status != CACTUS_OK) return status;
            if (!s->any_unknown) ct_word_cache_keep(s->cache, p, n, s->sink);
        }
        p = next;
    }
    return CACTUS_OK;
}

static cactus_status encode(const cactus_tokenizer *tokenizer, const uint8_t *text, size_t n_bytes, ct_word_cache *cache,
                            ct_id_sink *sink, cactus_error *err)
{
    session s = {.tokenizer = tokenizer, .unigram = tokenizer->state, .sink = sink, .err = err, .cache = cache};
    cactus_status status = normalise(&s, text, n_bytes);
    if (status == CACTUS_OK && s.n_bytes > INT32_MAX)
        status = ct_fail(err, CACTUS_ERROR_ARGUMENT, "the text has %zu bytes when normalised, more than %d", s.n_bytes, INT32_MAX);
    if (status == CACTUS_OK) status = encode_words(&s);
    ct_free(s.text);
    ct_free(s.steps);
    return status;
}

const ct_tokenizer_model ct_unigram_model = {.name = "t5",
                                             .bos_id = -1,
                                             .eos_id = 1,
                                             .unk_id = 2,
                                             .sep_id = -1,
                                             .pad_id = 0,
                                             .add_eos = true,
                                             .decode = ct_unescape_spaces,
                                             .decode_user_defined = true,
                                             .load = load,
                                             .unload = unload,
                                             .encode = encode};
