/* bpe.c: byte-pair encoding by ranked merges (tokenizer.ggml.model "gpt2" and "gemma4").
 *
 * A text is cut into words (pretokenize.c); a word starts as its bytes, and the neighbours whose pair has the lowest rank are
 * joined, leftmost first, until no pair has one. The rank of a merge is its place in the file. In the file, tokens and merges
 * are written in GPT-2's alphabet, which gives each byte a printable character; here they are bytes from the start.
 *
 * The raw kind ("gemma4") has tokens in plain UTF-8, U+2581 for the space; there a word starts as its characters, and one
 * without a token is spelled in byte tokens ("<0x0A>"). */
#include <string.h>

#include "tokenizer/internal.h"
#include "tokenizer/unicode.h"

enum {
    MAX_MERGES = 1 << 24,
    SHORT_WORD = 32 /* bytes up to which looking at every pair beats a heap */
};
static const uint32_t NO_RANK = UINT32_MAX;

/* One merge: the pair `key` becomes `id`. */
typedef struct merge {
    uint64_t key; /* left id + 1 << 32 | right id; 0 is free */
    uint32_t rank;
    int32_t id;
} merge;

typedef struct bpe {
    merge *merges; /* [mask + 1], open addressing with linear probing */
    size_t mask;
    uint64_t seed;
    int32_t byte_id[256];  /* -1 where the vocabulary has no token for a byte */
    bool all_bytes;        /* it has one for each */
    ct_vocab_index words;  /* kept for raw characters and to ignore merges: slots are NULL otherwise */
    bool raw, whole_words, whole_lines; /* words, line breaks that are a token are not looked at closer */
} bpe;

/* ---- the alphabet ---- */

/* GPT-2's table: bytes that are printable in Latin-1 stand for themselves, the other 68 are numbered from U+0100 on.
 * Returns the byte of a code point, or -1 if it is not of the alphabet. */
static int alphabet_byte(uint32_t code)
{
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xFF && code != 0xAD)) return (int)code;
    if (code < 0x100 || code > 0x143) return -1;
    uint32_t n = code - 0x100;
    if (n <= 0x20) return (int)n;                       /* 00 … 20 */
    if (n <= 0x42) return (int)(n - 0x21 + 0x7F);       /* 7F … A0 */
    return 0xAD;
}

/* Characters outside the alphabet stay as they are: some files have added tokens that were never put into it. */
static size_t decode_alphabet(ct_str text, uint8_t *out)
{
    const uint8_t *p = (const uint8_t *)text.data, *end = p + text.size;
    size_t n = 0;
    while (p < end) {
        if (*p > 0x20 && *p < 0x7F) {
            out[n++] = *p++;
            continue;
        }
        ct_char c = {CT_NO_CODE, 0, 2};
        if (*p >= 0xC2 && *p <= 0xC5 && end - p > 1 && (p[1] & 0xC0) == 0x80)
            c.code = (*p & 0x1Fu) << 6 | (p[1] & 0x3Fu); /* the alphabet reaches to U+0143: two bytes at most */
        else
            c = ct_char_at(p, end);
        int byte = alphabet_byte(c.code);
        if (byte >= 0)
            out[n++] = (uint8_t)byte;
        else {
            memmove(out + n, p, c.size);
            n += c.size;
        }
        p += c.size;
    }
    return n;
}

/* ---- merges ---- */

static uint64_t pair_key(int32_t left, int32_t right) { return (uint64_t)((uint32_t)left + 1) << 32 | (uint32_t)right; }

static inline size_t pair_slot(const bpe *b, uint64_t key)
{
    uint64_t x = (key ^ b->seed) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
    return (size_t)(x >> 32) & b->mask;
}

/* The merge of two neighbours, or NULL. */
static inline const merge *find_merge(const bpe *b, int32_t left, int32_t right)
{
    uint64_t key = pair_key(left, right);
    for (size_t i = pair_slot(b, key);; i = (i + 1) & b->mask) {
        const merge *m = &b->merges[i];
        if (m->key == key) return m;
        if (m->key == 0) return NULL;
    }
}

static void add_merge(bpe *b, uint64_t key, uint32_t rank, int32_t id)
{
    size_t i = pair_slot(b, key);
    for (; b->merges[i].key != 0; i = (i + 1) & b->mask)
        if (b->merges[i].key == key) return; /* the first rank wins */
    b->merges[i] = (merge){key, rank, id};
}

/* Is `id`, a guess, the text token of these bytes? */
static bool is_token(const ct_vocab *vocab, int32_t id, const uint8_t *bytes, size_t n_bytes)
{
    return id >= 0 && id < vocab->n && ct_vocab_size(vocab, id) == n_bytes && ct_vocab_is_text(vocab, id) &&
           memcmp(ct_vocab_bytes(vocab, id), bytes, n_bytes) == 0;
}

/* A merge on its way from the file into the table. */
typedef struct reading {
    ct_str text;
    const uint8_t *bytes; /* of both parts */
    size_t n_left, n_right;
    uint64_t left_hash, right_hash;
    uint64_t key;
    int32_t joined;       /* -1: this merge makes a token that text must not become */
} reading;

/* Cuts "A B" at the space and turns both parts into bytes, at `bytes`. */
static cactus_status parse_merge(reading *r, size_t (*decode)(ct_str, uint8_t *), const ct_vocab_index *index, ct_str text, uint64_t rank,
                                 uint8_t *bytes, cactus_error *err)
{
    char quoted[CT_QUOTED_BYTES];
    const char *space = text.size > 1 ? memchr(text.data + 1, ' ', text.size - 1) : NULL;
    if (space == NULL)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "merge %llu, \"%s\", is not two tokens with a space between them",
                       (unsigned long long)rank, ct_quote(text, quoted));
    size_t n_first = (size_t)(space - text.data);
    r->text = text;
    r->bytes = bytes;
    r->n_left = decode((ct_str){text.data, n_first}, bytes);
    r->n_right = decode((ct_str){space + 1, text.size - n_first - 1}, bytes + r->n_left);
    r->left_hash = ct_vocab_prefetch(index, bytes, r->n_left);
    r->right_hash = ct_vocab_prefetch(index, bytes + r->n_left, r->n_right);
    return CACTUS_OK;
}

/* Finds the tokens of a merge. *joined is what the merge before it made: merges mostly come in the order of the tokens that
 * they make, so that one or the next is a good guess. */
static cactus_status resolve_merge(reading *r, const bpe *b, const ct_vocab *vocab, const ct_vocab_index *index, uint64_t rank,
                                   int32_t *joined, cactus_error *err)
{
    char quoted[CT_QUOTED_BYTES];
    size_t n_bytes = r->n_left + r->n_right;
    int32_t left = ct_vocab_find_hashed(vocab, index, r->left_hash, r->bytes, r->n_left);
    int32_t right = ct_vocab_find_hashed(vocab, index, r->right_hash, r->bytes + r->n_left, r->n_right);
    if (!is_token(vocab, *joined, r->bytes, n_bytes) && !is_token(vocab, ++*joined, r->bytes, n_bytes))
        *joined = ct_vocab_find(vocab, index, r->bytes, n_bytes);
    if (left < 0 || right < 0 || *joined < 0)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "merge %llu, \"%s\": %s is no token of the vocabulary",
                       (unsigned long long)rank, ct_quote(r->text, quoted),
                       left < 0 ? "its left part" : right < 0 ? "its right part" : "what it makes");
    r->key = pair_key(left, right);
    r->joined = ct_vocab_is_text(vocab, *joined) ? *joined : -1;
    CT_PREFETCH(&b->merges[pair_slot(b, r->key)]);
    return CACTUS_OK;
}

/* Both tables are larger than the caches, so merges are read in batches, each step for the whole batch: what one step touches,
 * the one before has prefetched. */
static cactus_status load_merges(bpe *b, const cactus_tokenizer *tokenizer, const ct_vocab_index *index, const ct_gguf_kv *kv,
                                 cactus_error *err)
{
    const ct_vocab *vocab = &tokenizer->vocab;
    enum { BATCH = 32 };
    reading batch[BATCH];
    uint8_t *bytes = NULL; /* of the batch's merges, end to end */
    size_t capacity = 0, offset = 0;
    int32_t joined = 0;
    cactus_status status = CACTUS_OK;
    for (uint64_t rank = 0; rank < kv->count && status == CACTUS_OK; rank += BATCH) {
        int n = kv->count - rank < BATCH ? (int)(kv->count - rank) : BATCH;
        size_t batch_offset = offset, n_bytes = 0;
        for (int i = 0; i < n; i++) n_bytes += ct_gguf_array_next_str(kv, &batch_offset).size;
        if (n_bytes > capacity) {
            ct_free(bytes);
            capacity = 2 * n_bytes;
            bytes = ct_alloc(capacity, 1);
            if (bytes == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for merges of %zu bytes", n_bytes);
        }
        uint8_t *at = bytes;
        for (int i = 0; i < n && status == CACTUS_OK; i++) {
            ct_str text = ct_gguf_array_next_str(kv, &offset);
            status = parse_merge(&batch[i], tokenizer->model->decode, index, text, rank + (uint64_t)i, at, err);
            at += text.size;
        }
        for (int i = 0; i < n && status == CACTUS_OK; i++)
            status = resolve_merge(&batch[i], b, vocab, index, rank + (uint64_t)i, &joined, err);
        for (int i = 0; i < n && status == CACTUS_OK; i++)
            if (batch[i].joined >= 0) add_merge(b, batch[i].key, (uint32_t)rank + (uint32_t)i, batch[i].joined);
    }
    ct_free(bytes);
    return status;
}

static void unload(void *state)
{
    bpe *b = state;
    if (b == NULL) return;
    ct_free(b->merges);
    ct_free(b->words.slots);
    ct_free(b);
}

static cactus_status load(cactus_tokenizer *tokenizer, const ct_gguf *gguf, ct_vocab_index *index, cactus_error *err)
{
    const ct_vocab *vocab = &tokenizer->vocab;
    const ct_gguf_kv *kv = NULL;
    cactus_status status = ct_gguf_get_array(gguf, "tokenizer.ggml.merges", CT_GGUF_STRING, &kv, NULL, err);
    if (status != CACTUS_OK) return status;
    if (kv->count > MAX_MERGES)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "tokenizer.ggml.merges has %llu entries, more than %d",
                       (unsigned long long)kv->count, MAX_MERGES);

    size_t n_slots = ct_hash_slots((size_t)kv->count);
    bpe *b = ct_alloc(1, sizeof *b);
    if (b != NULL) b->merges = ct_alloc(n_slots, sizeof *b->merges);
    if (b == NULL || b->merges == NULL) {
        unload(b);
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for %llu merges", (unsigned long long)kv->count);
    }
    b->mask = n_slots - 1;
    b->seed = ct_hash_seed(b);
    b->all_bytes = true;
    for (int i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        int32_t id = ct_vocab_find(vocab, index, &byte, 1);
        b->byte_id[i] = id >= 0 && ct_vocab_is_text(vocab, id) ? id : -1;
        b->all_bytes = b->all_bytes && b->byte_id[i] >= 0;
    }
    status = load_merges(b, tokenizer, index, kv, err);
    if (status != CACTUS_OK) {
        unload(b);
        return status;
    }
    const unsigned flags = ct_pretokenizer_flags(tokenizer->pre);
    b->raw = (flags & CT_PRE_RAW) != 0;
    b->whole_words = (flags & CT_PRE_IGNORE_MERGES) != 0;
    b->whole_lines = (flags & CT_PRE_WHOLE_LINES) != 0;
    if (b->raw || b->whole_words) {
        b->words = *index;
        index->slots = NULL;
    }
    tokenizer->state = b;
    return CACTUS_OK;
}

/* ---- encoding ---- */

/* A piece of a long word; pieces form a list in the order of the text. */
typedef struct piece {
    int32_t id;
    uint32_t prev, next;  /* indices; NO_PIECE at the ends */
    uint32_t rank;        /* of the merge with the next piece; NO_RANK if there is none, or if the piece is gone */
    int32_t joined;       /* what that merge makes */
} piece;
static const uint32_t NO_PIECE = UINT32_MAX;

/* What one call of encode works with. */
typedef struct session {
    const bpe *bpe;
    const ct_vocab *vocab;
    ct_id_sink *sink;
    cactus_error *err;
    piece *pieces;   /* [capacity]; memory for long words, kept for the next one */
    uint64_t *heap;  /* [2 * capacity] rank << 32 | piece */
    size_t capacity;
    int32_t *units;  /* [n_units]; the ids that a long word starts as */
    size_t n_units;
    ct_word_cache *cache;
} session;

static void rank_piece(const session *s, uint32_t i)
{
    piece *p = &s->pieces[i];
    const merge *m = p->next == NO_PIECE ? NULL : find_merge(s->bpe, p->id, s->pieces[p->next].id);
    p->rank = m != NULL ? m->rank : NO_RANK;
    p->joined = m != NULL ? m->id : -1;
}

static void sift_down(uint64_t *heap, size_t n, size_t at)
{
    uint64_t value = heap[at];
    for (size_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (value <= heap[child]) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = value;
}

static void push(uint64_t *heap, size_t *n, uint64_t value)
{
    size_t at = (*n)++;
    for (; at > 0 && value < heap[(at - 1) / 2]; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = value;
}

/* Merges the tokens that a word, or a part of one, starts as. O(n log n) in their number. An entry of the heap whose piece has got
 * another rank since is stale. Every merge takes one entry and adds at most two, so there are never more than 2 n. */
static cactus_status encode_long(session *s, const int32_t *units, size_t n_units)
{
    if (n_units > s->capacity) {
        ct_free(s->pieces);
        ct_free(s->heap);
        s->pieces = ct_alloc(n_units, sizeof *s->pieces);
        s->heap = ct_alloc(n_units, 2 * sizeof *s->heap);
        s->capacity = s->pieces != NULL && s->heap != NULL ? n_units : 0;
        if (s->capacity == 0) return ct_fail(s->err, CACTUS_ERROR_MEMORY, "no memory to tokenize a word of %zu bytes", n_units);
    }
    uint32_t n = (uint32_t)n_units;
    for (uint32_t i = 0; i < n; i++)
        s->pieces[i] = (piece){.id = units[i], .prev = i - 1, .next = i + 1}; /* 0 - 1 wraps to NO_PIECE */
    s->pieces[n - 1].next = NO_PIECE;

    size_t n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        rank_piece(s, i);
        if (s->pieces[i].rank != NO_RANK) s->heap[n_heap++] = (uint64_t)s->pieces[i].rank << 32 | i;
    }
    for (size_t i = n_heap / 2; i-- > 0;) sift_down(s->heap, n_heap, i);

    while (n_heap > 0) {
        uint64_t best = s->heap[0];
        uint32_t i = (uint32_t)best;
        s->heap[0] = s->heap[--n_heap];
        if (n_heap > 0) sift_down(s->heap, n_heap, 0);
        piece *left = &s->pieces[i];
        if (left->rank != best >> 32) continue;

        piece *right = &s->pieces[left->next];
        left->id = left->joined;
        left->next = right->next;
        right->rank = NO_RANK;
        if (left->next != NO_PIECE) s->pieces[left->next].prev = i;
        rank_piece(s, i);
        if (left->rank != NO_RANK) push(s->heap, &n_heap, (uint64_t)left->rank << 32 | i);
        if (left->prev != NO_PIECE) {
            rank_piece(s, left->prev);
            uint32_t rank = s->pieces[left->prev].rank;
            if (rank != NO_RANK) push(s->heap, &n_heap, (uint64_t)rank << 32 | left->prev);
        }
    }
    for (uint32_t i = 0; i != NO_PIECE; i = s->pieces[i].next) ct_put_id(s->sink, s->pieces[i].id);
    return CACTUS_OK;
}

/* The same for 1 to SHORT_WORD tokens, in place: every step looks at all pairs that are left. */
static void encode_short(const session *s, int32_t *id, size_t n)
{
    int32_t joined[SHORT_WORD]; /* joined[i], rank[i]: the merge of pieces i and i + 1 */
    uint32_t rank[SHORT_WORD];
    rank[n - 1] = NO_RANK;
    joined[n - 1] = -1;
    for (size_t i = 0; i + 1 < n; i++) {
        const merge *m = find_merge(s->bpe, id[i], id[i + 1]);
        rank[i] = m != NULL ? m->rank : NO_RANK;
        joined[i] = m != NULL ? m->id : -1;
    }
    for (;;) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == NO_RANK) break;

        id[best] = joined[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i] = rank[i + 1];
            joined[i] = joined[i + 1];
        }
        const merge *m = best + 1 < n ? find_merge(s->bpe, id[best], id[best + 1]) : NULL;
        rank[best] = m != NULL ? m->rank : NO_RANK;
        joined[best] = m != NULL ? m->id : -1;
        if (best > 0) {
            m = find_merge(s->bpe, id[best - 1], id[best]);
            rank[best - 1] = m != NULL ? m->rank : NO_RANK;
            joined[best - 1] = m != NULL ? m->id : -1;
        }
    }
    for (size_t i = 0; i < n; i++) ct_put_id(s->sink, id[i]);
}

static cactus_status encode_units(session *s, int32_t *units, size_t n)
{
    if (n > SHORT_WORD) return encode_long(s, units, n);
    if (n > 0) encode_short(s, units, n);
    return CACTUS_OK;
}

/* Bytes, or raw characters, become ids and are merged. A byte without a token (SmolLM2 lacks 21) is left out and its neighbours meet, as
 * in Hugging Face's tokenizers; llama.cpp merges nothing across it. `units` has room for n_bytes ids. */
static cactus_status merge_word(session *s, const uint8_t *word, size_t n_bytes, int32_t *units)
{
    const bpe *b = s->bpe;
    const uint8_t *end = word + n_bytes;
    size_t n = 0;
    if (!b->raw && b->all_bytes) {
        for (; n < n_bytes; n++) units[n] = b->byte_id[word[n]];
        return encode_units(s, units, n);
    }
    for (const uint8_t *p = word; p < end;) {
        size_t size = b->raw && *p >= 0x80 ? ct_decode_char(p, end).size : 1;
        int32_t id = size == 1 ? b->byte_id[*p] : ct_vocab_find(s->vocab, &b->words, p, size);
        if (id >= 0 && ct_vocab_is_text(s->vocab, id))
            units[n++] = id;
        else if (b->raw) {
            cactus_status status = encode_units(s, units, n);
            if (status != CACTUS_OK) return status;
            n = 0;
            for (size_t i = 0; i < size && size > 1; i++)
                if (b->byte_id[p[i]] >= 0) ct_put_id(s->sink, b->byte_id[p[i]]);
        }
        p += size;
    }
    return encode_units(s, units, n);
}

static cactus_status encode_new_word(session *s, const uint8_t *word, size_t n_bytes)
{
    int32_t short_units[SHORT_WORD];
    if (n_bytes <= SHORT_WORD) return merge_word(s, word, n_bytes, short_units);
    if (n_bytes > s->n_units) {
        ct_free(s->units);
        s->units = ct_alloc(n_bytes, sizeof *s->units);
        s->n_units = s->units != NULL ? n_bytes : 0;
        if (s->units == NULL) return ct_fail(s->err, CACTUS_ERROR_MEMORY, "no memory to tokenize a word of %zu bytes", n_bytes);
    }
    return merge_word(s, word, n_bytes, s->units);
}

static cactus_status encode_word(void *ctx, const uint8_t *word, size_t n_bytes)
{
    session *s = ctx;
    if (ct_word_cache_take(s->cache, word, n_bytes, s->sink)) return CACTUS_OK;
    if (s->bpe->whole_words || (s->bpe->whole_lines && *word == '\n')) {
        int32_t id = ct_vocab_find(s->vocab, &s->bpe->words, word, n_bytes);
        if (id >= 0 && ct_vocab_is_text(s->vocab, id)) {
            ct_put_id(s->sink, id);
            return CACTUS_OK;
        }
    }
    cactus_status status = encode_new_word(s, word, n_bytes);
    if (status == CACTUS_OK) ct_word_cache_keep(s->cache, word, n_bytes, s->sink);
    return status;
}

static cactus_status encode(const cactus_tokenizer *tokenizer, const uint8_t *text, size_t n_bytes, ct_word_cache *cache,
                            ct_id_sink *sink, cactus_error *err)
{
    session s = {.bpe = tokenizer->state, .vocab = &tokenizer->vocab, .sink = sink, .err = err, .cache = cache};
    uint8_t *copy = NULL;
    if (s.bpe->raw && memchr(text, 0xE2, n_bytes) != NULL) { /* U+2581 in the text is the space that it stands for */
        copy = ct_alloc(n_bytes, 1);
        if (copy == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory to tokenize %zu bytes", n_bytes);
        n_bytes = ct_unescape_spaces((ct_str){(const char *)text, n_bytes}, copy);
    }
    cactus_status status = ct_pretokenize(tokenizer->pre, copy != NULL ? copy : text, n_bytes, encode_word, &s);
    ct_free(s.pieces);
    ct_free(s.heap);
    ct_free(s.units);
    ct_free(copy);
    return status;
}

const ct_tokenizer_model ct_bpe_model = {.name = "gpt2",
                                         .bos_id = -1,
                                         .eos_id = -1,
                                         .unk_id = -1,
                                         .sep_id = -1,
                                         .pad_id = -1,
                                         .pretokenized = true,
                                         .decode = decode_alphabet,
                                         .load = load,
                                         .unload = unload,
                                         .encode = encode};

const ct_tokenizer_model ct_raw_bpe_model = {.name = "gemma4",
                                             .bos_id = -1,
                                             .eos_id = -1,
                                             .unk_id = -1,
                                             .sep_id = -1,
                                             .pad_id = -1,
                                             .pretokenized = true,
                                             .decode = ct_unescape_spaces,
                                             .decode_user_defined = true,
                                             .load = load,
                                             .unload = unload,
                                             .encode = encode};
