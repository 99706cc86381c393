/* wordpiece.c: BERT's WordPiece (tokenizer.ggml.model "bert").
 *
 * A text is cleaned (no controls, no U+FFFD), freed of accents and put in lower case where the file says so, and cut at white
 * space, at punctuation and around ideographs. From each word the longest token is taken, then again from the rest; a word that
 * does not come out even is one unknown token. Tokens that begin a word have U+2581 in front in the file, which is a space here.
 *
 * The rules are those of Hugging Face's BertNormalizer, BertPreTokenizer and WordPiece, with their classes of characters
 * (bert_classes.h): marks and punctuation that Unicode has got since version 8 are letters to them, and to the models. */
#include "tokenizer/bert_classes.h"
#include "tokenizer/internal.h"
#include "tokenizer/unicode.h"

enum { MAX_WORD_CHARS = 100 /* longer words are unknown */ };

typedef struct wordpiece {
    ct_vocab_index index;
    ct_prefixes prefixes;
    bool lower_case, strip_accents;
} wordpiece;

static void unload(void *state)
{
    wordpiece *w = state;
    if (w == NULL) return;
    ct_free(w->index.slots);
    ct_free(w->prefixes.bits);
    ct_free(w);
}

static cactus_status load(cactus_tokenizer *tokenizer, const ct_gguf *gguf, ct_vocab_index *index, cactus_error *err)
{
    const ct_vocab *vocab = &tokenizer->vocab;
    wordpiece *w = ct_alloc(1, sizeof *w);
    if (w == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for a tokenizer");
    bool found = false;
    w->lower_case = true;
    cactus_status status = ct_gguf_get_bool(gguf, "tokenizer.ggml.normalizer.lowercase", &w->lower_case, &found, err);
    w->strip_accents = w->lower_case;
    if (status == CACTUS_OK)
        status = ct_gguf_get_bool(gguf, "tokenizer.ggml.normalizer.strip_accents", &w->strip_accents, &found, err);
    if (status == CACTUS_OK) status = ct_prefixes_init(&w->prefixes, vocab, err);
    if (status != CACTUS_OK) {
        unload(w);
        return status;
    }
    w->index = *index;
    index->slots = NULL;
    tokenizer->state = w;
    return CACTUS_OK;
}

/* ---- encoding ---- */

/* What one call of encode works with: the word so far, a space in front. */
typedef struct session {
    const cactus_tokenizer *tokenizer;
    const wordpiece *wordpiece;
    ct_id_sink *sink;
    ct_word_cache *cache;
    size_t n_bytes, n_chars;
    uint8_t word[1 + 4 * MAX_WORD_CHARS];
} session;

/* The longest token at the beginning of [p, end), or -1; *next is where it ends. */
static int32_t longest_token(const session *s, const uint8_t *p, const uint8_t *end, const uint8_t **next)
{
    const ct_vocab *vocab = &s->tokenizer->vocab;
    const wordpiece *w = s->wordpiece;
    int32_t longest = -1;
    uint64_t hash = w->prefixes.seed;
    for (const uint8_t *q = p; q < end;) {
        do
            hash = ct_prefix_step(hash, *q++);
        while (q < end && (*q & 0xC0) == 0x80);
        if (!ct_prefixes_has(&w->prefixes, hash)) break;
        int32_t id = ct_vocab_find(vocab, &w->index, p, (size_t)(q - p));
        if (id < 0 || !ct_vocab_is_text(vocab, id)) continue;
        longest = id;
        *next = q;
    }
    return longest;
}

static void split_word(session *s)
{
    const ct_vocab *vocab = &s->tokenizer->vocab;
    int32_t whole = ct_vocab_find(vocab, &s->wordpiece->index, s->word, s->n_bytes);
    if (whole >= 0 && ct_vocab_is_text(vocab, whole)) {
        ct_put_id(s->sink, whole);
        return;
    }
    int32_t ids[1 + 4 * MAX_WORD_CHARS];
    size_t n = 0;
    const uint8_t *end = s->word + s->n_bytes;
    for (const uint8_t *p = s->word; p < end; n++) {
        ids[n] = longest_token(s, p, end, &p);
        if (ids[n] >= 0) continue;
        n = 0;
        break;
    }
    for (size_t i = 0; i < n; i++) ct_put_id(s->sink, ids[i]);
    if (n == 0 && s->tokenizer->unk_id >= 0) ct_put_id(s->sink, s->tokenizer->unk_id);
}

/* Takes the word that has been put together, if there is one. */
static void end_word(session *s)
{
    if (s->n_chars == 0) return;
    if (s->n_chars > MAX_WORD_CHARS) {
        if (s->tokenizer->unk_id >= 0) ct_put_id(s->sink, s->tokenizer->unk_id);
    } else if (!ct_word_cache_take(s->cache, s->word, s->n_bytes, s->sink)) {
        split_word(s);
        ct_word_cache_keep(s->cache, s->word, s->n_bytes, s->sink);
    }
    s->n_bytes = 1;
    s->n_chars = 0;
}

static void put_char(session *s, uint32_t code)
{
    if (s->n_chars++ < MAX_WORD_CHARS) s->n_bytes += ct_put_utf8(s->word + s->n_bytes, code);
}

static bool is_ascii_mark(uint32_t code)
{
    return (code >= 0x21 && code <= 0x2F) || (code >= 0x3A && code <= 0x40) || (code >= 0x5B && code <= 0x60) ||
           (code >= 0x7B && code <= 0x7E);
}

/* The blocks of ideographs that BERT knows; U+2B820 to U+2B91F are none to Hugging Face's tokenizers, nor to models since. */
static bool is_ideograph(uint32_t code)
{
    return (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0x3400 && code <= 0x4DBF) || (code >= 0xF900 && code <= 0xFAFF) ||
           (code >= 0x20000 && code <= 0x2A6DF) || (code >= 0x2A700 && code <= 0x2B81F) ||
           (code >= 0x2B920 && code <= 0x2CEAF) || (code >= 0x2F800 && code <= 0x2FA1F);
}

/* Of a character beyond ASCII. */
static bert_class class_of(uint32_t code)
{
    size_t low = 0, high = sizeof bert_ranges / sizeof bert_ranges[0];
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (bert_ranges[middle].last < code) low = middle + 1;
        else high = middle;
    }
    return low < sizeof bert_ranges / sizeof bert_ranges[0] && bert_ranges[low].first <= code ? bert_ranges[low].is : BERT_LETTER;
}

/* One character after cleaning and normalising. */
static void take_code(session *s, uint32_t code)
{
    bool alone = code < 0x80 ? is_ascii_mark(code) : class_of(code) == BERT_MARK;
    if (alone) end_word(s);
    put_char(s, code);
    if (alone) end_word(s);
}

static void take_char(session *s, ct_char c, bert_class is)
{
    uint32_t bases[3] = {c.code, 0, 0}, lower[2];
    int n_bases = !s->wordpiece->strip_accents ? 1 : is == BERT_ACCENT ? 0 : ct_strip_accents(c, bases);
    if (n_bases == 0 && is != BERT_ACCENT) bases[0] = c.code, n_bases = 1; /* a mark that has come since */
    for (int i = 0; i < n_bases; i++) {
        int n_lower = s->wordpiece->lower_case ? ct_lower_case(bases[i], lower) : 1;
        if (!s->wordpiece->lower_case) lower[0] = bases[i];
        for (int k = 0; k < n_lower; k++) take_code(s, lower[k]);
    }
}

static cactus_status encode(const cactus_tokenizer *tokenizer, const uint8_t *text, size_t n_bytes, ct_word_cache *cache,
                            ct_id_sink *sink, cactus_error *err)
{
    (void)err;
    session s = {.tokenizer = tokenizer, .wordpiece = tokenizer->state, .sink = sink, .cache = cache, .n_bytes = 1};
    s.word[0] = ' ';
    const uint8_t *end = text + n_bytes;
    const uint8_t fold = s.wordpiece->lower_case ? 0x20 : 0;
    while (text < end) {
        uint8_t byte = *text;
        bool upper = byte >= 'A' && byte <= 'Z';
        if (upper || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9')) { /* most text is this */
            if (s.n_chars++ < MAX_WORD_CHARS) s.word[s.n_bytes++] = upper ? byte | fold : byte;
            text++;
            continue;
        }
        ct_char c = ct_char_at(text, end);
        text += c.size;
        bert_class is = BERT_LETTER;
        if (c.code == CT_NO_CODE || c.code == 0xFFFD) continue;
        if (c.code >= 0x80) is = class_of(c.code);
        else if (c.code == 0x0B || c.code == 0x0C || (c.set & 1 << CT_CLASS_CONTROL) != 0) is = BERT_CONTROL;
        else if ((c.set & CT_SET_SPACE) != 0) is = BERT_SPACE;
        if (is == BERT_CONTROL) continue;
        if (is == BERT_SPACE)
            end_word(&s);
        else if (is_ideograph(c.code)) {
            end_word(&s);
            take_char(&s, c, is);
            end_word(&s);
        } else
            take_char(&s, c, is);
    }
    end_word(&s);
    return CACTUS_OK;
}

const ct_tokenizer_model ct_wordpiece_model = {.name = "bert",
                                               .bos_id = 101,
                                               .eos_id = -1,
                                               .unk_id = 100,
                                               .sep_id = 102,
                                               .pad_id = 0,
                                               .add_bos = true,
                                               .add_sep = true,
                                               .clean_up = true,
                                               .decode = ct_unescape_spaces,
                                               .load = load,
                                               .unload = unload,
                                               .encode = encode};
