/* spm.c: SentencePiece's byte-pair encoding (tokenizer.ggml.model "llama").
 *
 * A text starts as its characters; of all neighbours that make a token together, those whose token has the highest score are
 * joined, leftmost first, until none do. A character without a token is spelled in byte tokens. There are no words: a space is a
 * character like others, written as U+2581 in the file and as itself here, and one goes before the text where the file says so.
 *
 * The joins on two sides of a place that no token spans know nothing of each other, so a text is cut at such places (ct_seams),
 * which are nearly all beginnings of words, and what comes again is looked up (ct_word_cache). */
#include "tokenizer/internal.h"
#include "tokenizer/unicode.h"

enum { SHORT_WORD = 32 /* characters up to which looking at every pair beats a heap */ };
static const uint32_t NO_KEY = UINT32_MAX;
static const uint32_t NO_PIECE = UINT32_MAX;

typedef struct spm {
    ct_vocab_index index;
    ct_seams seams;
    uint32_t *keys;       /* [n_vocab] the higher the score, the lower the key; NO_KEY: nothing is joined to this token */
    int32_t byte_id[256]; /* -1 where there is none */
} spm;

/* What one call of encode works with. */
typedef struct piece {
    const uint8_t *start;
    uint32_t n_bytes;
    uint32_t prev, next; /* indices; NO_PIECE at the ends */
    uint32_t key;        /* of the token that this piece makes with the next one; NO_KEY if none, or if the piece is gone */
    int32_t id, joined;  /* the piece's token, -1: none; that of the pair */
} piece;

typedef struct session {
    const cactus_tokenizer *tokenizer;
    const spm *spm;
    ct_id_sink *sink;
    cactus_error *err;
    piece *pieces;  /* [capacity]; memory for long words, kept for the next one */
    uint64_t *heap; /* [2 * capacity] key << 32 | piece */
    size_t capacity;
    ct_word_cache *cache;
    bool unknown;      /* the last character had neither a token nor byte tokens */
    bool any_unknown;  /* so had one of this word */
} session;

/* ---- loading ---- */

static void unload(void *state)
{
    spm *s = state;
    if (s == NULL) return;
    ct_free(s->index.slots);
    ct_free(s->keys);
    ct_free(s);
}

/* Floats in descending order as integers in ascending order. */
static uint32_t key_of_score(float score)
{
    uint32_t bits;
    score += 0.0f; /* -0 is 0 */
    memcpy(&bits, &score, sizeof bits);
    return (bits >> 31) != 0 ? bits : ~bits & 0x7FFFFFFFu;
}

static cactus_status load(cactus_tokenizer *tokenizer, const ct_gguf *gguf, ct_vocab_index *index, cactus_error *err)
{
    const ct_vocab *vocab = &tokenizer->vocab;
    float *scores = NULL;
    cactus_status status = ct_read_scores(gguf, vocab->n, &scores, err);
    if (status != CACTUS_OK) return status;
    spm *s = ct_alloc(1, sizeof *s);
    if (s != NULL) s->keys = ct_alloc((size_t)vocab->n, sizeof *s->keys);
    if (s == NULL || s->keys == NULL) {
        unload(s);
        ct_free(scores);
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for %d tokens", (int)vocab->n);
    }
    for (int i = 0; i < 256; i++) s->byte_id[i] = -1;
    for (int32_t id = 0; id < vocab->n; id++) {
        bool normal = vocab->attr[id] == CACTUS_TOKEN_NORMAL || vocab->attr[id] == CACTUS_TOKEN_END;
        s->keys[id] = normal ? key_of_score(scores[id]) : NO_KEY;
        if (normal)
            ct_seams_add(&s->seams, ct_vocab_bytes(vocab, id), ct_vocab_size(vocab, id));
        else if ((vocab->attr[id] & CACTUS_TOKEN_BYTE) != 0 && ct_vocab_size(vocab, id) == 1)
            s->byte_id[*ct_vocab_bytes(vocab, id)] = id;
    }
    ct_free(scores);
    s->index = *index;
    index->slots = NULL;
    tokenizer->state = s;
    return CACTUS_OK;
}

/* ---- encoding ---- */

/* The text token of one character, or -1. */
static int32_t find_char(const session *s, const uint8_t *p, size_t n_bytes)
{
    const ct_vocab *vocab = &s->tokenizer->vocab;
    int32_t id = ct_vocab_find(vocab, &s->spm->index, p, n_bytes);
    return id >= 0 && ct_vocab_is_text(vocab, id) ? id : -1;
}

/* The key of the token of these bytes, made of two pieces, `second` being the second one's beginning. */
static uint32_t find_pair(const session *s, const uint8_t *p, const uint8_t *second, size_t n_bytes, int32_t *id)
{
    *id = -1;
    if (!ct_seams_joined(&s->spm->seams, second[-1], *second)) return NO_KEY;
    *id = ct_vocab_find(&s->tokenizer->vocab, &s->spm->index, p, n_bytes);
    return *id >= 0 ? s->spm->keys[*id] : NO_KEY;
}

/* Puts the tokens of a piece: its own, or those of its bytes. What has neither becomes one unknown token together with what
 * has neither before it. */
static void put_piece(session *s, int32_t id, const uint8_t *p, size_t n_bytes)
{
    if (id >= 0) {
        ct_put_id(s->sink, id);
        s->unknown = false;
        return;
    }
    static const uint8_t escaped_space[3] = {0xE2, 0x96, 0x81};
    if (*p == ' ') {
        p = escaped_space;
        n_bytes = sizeof escaped_space;
    }
    for (size_t i = 0; i < n_bytes; i++) {
        int32_t byte_id = s->spm->byte_id[p[i]];
        if (byte_id >= 0)
            ct_put_id(s->sink, byte_id);
        else if (!s->unknown && s->tokenizer->unk_id >= 0)
            ct_put_id(s->sink, s->tokenizer->unk_id);
        s->unknown = byte_id < 0;
        s->any_unknown = s->any_unknown || s->unknown;
    }
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

static void rank_piece(const session *s, uint32_t i)
{
    piece *p = &s->pieces[i];
    p->key = NO_KEY;
    if (p->next == NO_PIECE) return;
    const piece *next = &s->pieces[p->next];
    p->key = find_pair(s, p->start, next->start, p->n_bytes + (size_t)next->n_bytes, &p->joined);
}

/* O(n log n) in the length of the word. An entry of the heap whose piece has got another key since is stale; every join takes
 * one entry and adds at most two, so there are never more than 2 n. */
static cactus_status encode_long(session *s, const uint8_t *word, size_t n_bytes)
{
    if (n_bytes > s->capacity) {
        ct_free(s->pieces);
        ct_free(s->heap);
        s->pieces = ct_alloc(n_bytes, sizeof *s->pieces);
        s->heap = ct_alloc(n_bytes, 2 * sizeof *s->heap);
        s->capacity = s->pieces != NULL && s->heap != NULL ? n_bytes : 0;
        if (s->capacity == 0) return ct_fail(s->err, CACTUS_ERROR_MEMORY, "no memory to tokenize a word of %zu bytes", n_bytes);
    }
    uint32_t n = 0;
    const uint8_t *end = word + n_bytes;
    for (const uint8_t *p = word; p < end; n++) {
        uint32_t size = ct_char_at(p, end).size;
        s->pieces[n] = (piece){.start = p, .n_bytes = size, .prev = n - 1, .next = n + 1, .id = find_char(s, p, size)};
        p += size;
    }
    s->pieces[n - 1].next = NO_PIECE; /* and 0 - 1 has wrapped to NO_PIECE */

    size_t n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        rank_piece(s, i);
        if (s->pieces[i].key != NO_KEY) s->heap[n_heap++] = (uint64_t)s->pieces[i].key << 32 | i;
    }
    for (size_t i = n_heap / 2; i-- > 0;) sift_down(s->heap, n_heap, i);
    while (n_heap > 0) {
        uint64_t best = s->heap[0];
        uint32_t i = (uint32_t)best;
        s->heap[0] = s->heap[--n_heap];
        if (n_heap > 0) sift_down(s->heap, n_heap, 0);
        piece *left = &s->pieces[i];
        if (left->key != best >> 32) continue;

        piece *right = &s->pieces[left->next];
        left->id = left->joined;
        left->n_bytes += right->n_bytes;
        left->next = right->next;
        right->key = NO_KEY;
        if (left->next != NO_PIECE) s->pieces[left->next].prev = i;
        rank_piece(s, i);
        if (left->key != NO_KEY) push(s->heap, &n_heap, (uint64_t)left->key << 32 | i);
        if (left->prev != NO_PIECE) {
            rank_piece(s, left->prev);
            uint32_t key = s->pieces[left->prev].key;
            if (key != NO_KEY) push(s->heap, &n_heap, (uint64_t)key << 32 | left->prev);
        }
    }
    for (uint32_t i = 0; i != NO_PIECE; i = s->pieces[i].next)
        put_piece(s, s->pieces[i].id, s->pieces[i].start, s->pieces[i].n_bytes);
    return CACTUS_OK;
}

/* The same for 1 to SHORT_WORD characters: every step looks at all pairs that are left. */
static void encode_short(session *s, const uint8_t *word, const uint8_t *end)
{
    const uint8_t *at[SHORT_WORD + 1]; /* where the pieces begin, and the end */
    int32_t joined[SHORT_WORD], id[SHORT_WORD];
    uint32_t key[SHORT_WORD];
    size_t n = 0;
    for (const uint8_t *p = word; p < end; p += ct_char_at(p, end).size) {
        at[n] = p;
        id[n++] = -2; /* a character: looked for if it stays one */
    }
    at[n] = end;
    key[n - 1] = NO_KEY;
    for (size_t i = 0; i + 1 < n; i++) key[i] = find_pair(s, at[i], at[i + 1], (size_t)(at[i + 2] - at[i]), &joined[i]);
    for (;;) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++)
            if (key[i] < key[best]) best = i;
        if (key[best] == NO_KEY) break;

        id[best] = joined[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            at[i] = at[i + 1];
            id[i] = id[i + 1];
            key[i] = key[i + 1];
            joined[i] = joined[i + 1];
        }
        at[n] = end;
        key[best] = NO_KEY;
        if (best + 1 < n) key[best] = find_pair(s, at[best], at[best + 1], (size_t)(at[best + 2] - at[best]), &joined[best]);
        if (best > 0)
            key[best - 1] = find_pair(s, at[best - 1], at[best], (size_t)(at[best + 1] - at[best - 1]), &joined[best - 1]);
    }
    for (size_t i = 0; i < n; i++) {
        size_t n_bytes = (size_t)(at[i + 1] - at[i]);
        put_piece(s, id[i] == -2 ? find_char(s, at[i], n_bytes) : id[i], at[i], n_bytes);
    }
}

static cactus_status encode_words(session *s, const uint8_t *text, size_t n_bytes)
{
    const uint8_t *end = text + n_bytes;
    while (text < end) {
        const uint8_t *next = ct_seams_next(&s->spm->seams, text, end);
        size_t n = (size_t)(next - text);
        s->any_unknown = false;
        if (ct_word_cache_take(s->cache, text, n, s->sink))
            s->unknown = false;
        else {
            if (n <= SHORT_WORD)
                encode_short(s, text, next);
            else {
                cactus_status status = encode_long(s, text, n);
                if (status != CACTUS_OK) return status;
            }
            if (!s->any_unknown) ct_word_cache_keep(s->cache, text, n, s->sink);
        }
        text = next;
    }
    return CACTUS_OK;
}

/* Spaces as the file wants them: one before the text, none at its ends, no two in a row; then U+2581 becomes one as well. Writes
 * at most n_bytes + 1 bytes and returns how many. */
static size_t arrange_spaces(const cactus_tokenizer *t, const uint8_t *text, size_t n_bytes, uint8_t *out)
{
    size_t n = 0;
    if (t->add_space_prefix) out[n++] = ' ';
    const size_t n_prefix = n;
    if (t->remove_extra_spaces) {
        bool after_space = true;
        for (size_t i = 0; i < n_bytes; i++) {
            if (text[i] == ' ' && after_space) continue;
            after_space = text[i] == ' ';
            out[n++] = text[i];
        }
        n = n_prefix + ct_unescape_spaces((ct_str){(const char *)out + n_prefix, n - n_prefix}, out + n_prefix);
        while (n > 0 && out[n - 1] == ' ') n--;
        return n;
    }
    return n + ct_unescape_spaces((ct_str){(const char *)text, n_bytes}, out + n);
}

static cactus_status encode(const cactus_tokenizer *tokenizer, const uint8_t *text, size_t n_bytes, ct_word_cache *cache,
                            ct_id_sink *sink, cactus_error *err)
{
    session s = {.tokenizer = tokenizer, .spm = tokenizer->state, .sink = sink, .err = err, .cache = cache};
    uint8_t *copy = NULL;
    if (tokenizer->add_space_prefix || tokenizer->remove_extra_spaces || memchr(text, 0xE2, n_bytes) != NULL) {
        copy = ct_alloc(n_bytes + 1, 1);
        if (copy == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory to tokenize %zu bytes", n_bytes);
        n_bytes = arrange_spaces(tokenizer, text, n_bytes, copy);
    }
    cactus_status status = encode_words(&s, copy != NULL ? copy : text, n_bytes);
    ct_free(s.pieces);
    ct_free(s.heap);
    ct_free(copy);
    return status;
}

const ct_tokenizer_model ct_spm_model = {.name = "llama",
                                         .bos_id = 1,
                                         .eos_id = 2,
                                         .unk_id = 0,
                                         .sep_id = -1,
                                         .pad_id = -1,
                                         .add_bos = true,
                                         .add_space_prefix = true,
                                         .decode = ct_unescape_spaces,
                                         .decode_user_defined = true,
                                         .load = load,
                                         .unload = unload,
                                         .encode = encode};
