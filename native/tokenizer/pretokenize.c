/* pretokenize.c: cutting text into the words that byte-pair merges stay inside of.
 *
 * Each vocabulary was trained behind a regular expression, and only the same cuts give the same tokens. The expressions are
 * few; each is a hand-written matcher here, which runs in linear time where a backtracking engine need not. A matcher finds the
 * end of the first match at a position; some vocabularies apply several in turn, each to the pieces that the one before left
 * (a match is a piece, and so is what lies between two matches).
 *
 * Sources: the expressions are facts of the models' tokenizer.json; the names are those that llama.cpp writes to and accepts in
 * tokenizer.ggml.pre, with what it assumes for each. Where llama.cpp simplified an expression ("gpt-4o" and "tekken": the case
 * of letters beyond ASCII; contractions with the long s, U+017F), the model's own expression is followed. */
#include <string.h>

#include "tokenizer/internal.h"
#include "tokenizer/unicode.h"

typedef struct pre_stage pre_stage;

struct pre_stage {
    /* The end of the first piece of [p, end), p < end. */
    const uint8_t *(*next)(const pre_stage *stage, const uint8_t *p, const uint8_t *end);
    uint16_t letters;     /* classes that make up words */
    uint16_t max_digits;  /* digits in one piece; 0: any number */
    bool contractions;    /* 's, 't, 're, 've, 'm, 'll and 'd are pieces, in either case */
    char tail;            /* a character besides \r and \n that may end a piece of symbols; 0: none */
    bool no_tail;         /* such a piece ends with its last symbol */
    const char *extra;    /* further ASCII characters of the set that is isolated */
};

enum { MAX_STAGES = 4, UP = 1 << CT_CLASS_UPPER, LOW = 1 << CT_CLASS_LOWER, UNCASED = 1 << CT_CLASS_LETTER };

static const uint8_t *skip(const uint8_t *p, const uint8_t *end, unsigned set)
{
    for (ct_char c = ct_char_at(p, end); (c.set & set) != 0; c = ct_char_at(p, end)) p += c.size;
    return p;
}

static bool is_newline(ct_char c) { return c.code == '\r' || c.code == '\n'; }

/* ASCII letters in lower case. U+017F is what Unicode folds to s, the only letter of the contractions it folds anything to. */
static uint32_t fold(uint32_t code)
{
    if (code >= 'A' && code <= 'Z') return code + ('a' - 'A');
    return code == 0x17F ? 's' : code;
}

/* The end of 's, 't, 'm, 'd, 're, 've or 'll at p, or NULL. */
static const uint8_t *contraction(const uint8_t *p, const uint8_t *end, bool any_case)
{
    if (*p != '\'') return NULL;
    ct_char a = ct_char_at(p + 1, end);
    uint32_t first = any_case ? fold(a.code) : a.code;
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return p + 1 + a.size;
    if (first != 'r' && first != 'v' && first != 'l') return NULL;
    ct_char b = ct_char_at(p + 1 + a.size, end);
    uint32_t second = any_case ? fold(b.code) : b.code;
    return second == (first == 'l' ? 'l' : 'e') ? p + 1 + a.size + b.size : NULL;
}

/* \s+(?!\S)|\s+ at a space: a run leaves its last space to the word behind it, unless it is alone or nothing comes. */
static const uint8_t *spaces(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *last = p, *q = p;
    for (ct_char c = ct_char_at(q, end); (c.set & CT_SET_SPACE) != 0; c = ct_char_at(q, end)) {
        last = q;
        q += c.size;
    }
    return q < end && last > p ? last : q;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ at a space: up to the last line break of the run, if there is one. */
static const uint8_t *spaces_and_lines(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *last = p, *q = p, *after_line = NULL;
    for (ct_char c = ct_char_at(q, end); (c.set & CT_SET_SPACE) != 0; c = ct_char_at(q, end)) {
        last = q;
        q += c.size;
        if (is_newline(c)) after_line = q;
    }
    if (after_line != NULL) return after_line;
    return q < end && last > p ? last : q;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static const uint8_t *next_gpt2(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    (void)stage;
    const uint8_t *q = contraction(p, end, false);
    if (q != NULL) return q;
    q = *p == ' ' ? p + 1 : p;
    unsigned set = ct_char_at(q, end).set;
    if ((set & CT_SET_L) != 0) return skip(q, end, CT_SET_L);
    if ((set & CT_SET_N) != 0) return skip(q, end, CT_SET_N);
    const unsigned rest = CT_SET_ALL & ~(unsigned)(CT_SET_SPACE | CT_SET_L | CT_SET_N);
    if ((set & rest) != 0) return skip(q, end, rest);
    return spaces(p, end);
}

static const uint8_t *skip_digits(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    unsigned n = 0;
    for (ct_char c = ct_char_at(p, end); (c.set & CT_SET_N) != 0 && (stage->max_digits == 0 || n < stage->max_digits); n++) {
        p += c.size;
        c = ct_char_at(p, end);
    }
    return p;
}

static const uint8_t *skip_tail(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    if (stage->no_tail) return p;
    while (p < end && (*p == '\r' || *p == '\n' || (stage->tail != 0 && *p == (uint8_t)stage->tail))) p++;
    return p;
}

/* "|\p{N}{1,max}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": what follows the letters in the newer expressions. */
static const uint8_t *next_non_word(const pre_stage *stage, ct_char c, const uint8_t *p, const uint8_t *end)
{
    if ((c.set & CT_SET_N) != 0) return skip_digits(stage, p, end);
    const uint8_t *q = c.code == ' ' ? p + 1 : p;
    unsigned rest = CT_SET_ALL & ~(unsigned)(CT_SET_SPACE | CT_SET_L | CT_SET_N | stage->letters);
    if ((ct_char_at(q, end).set & rest) == 0) return spaces_and_lines(p, end);
    q = skip(q, end, rest);
    return skip_tail(stage, q, end);
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+ and the rest, for Llama 3, Qwen and their kin. \p{L} is
 * stage->letters, which for some holds \p{M} too. */
static const uint8_t *next_llama3(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    if (stage->contractions) {
        const uint8_t *q = contraction(p, end, true);
        if (q != NULL) return q;
    }
    ct_char c = ct_char_at(p, end);
    if ((c.set & stage->letters) != 0) return skip(p, end, stage->letters);
    if ((c.set & CT_SET_N) == 0 && !is_newline(c) && (ct_char_at(p + c.size, end).set & stage->letters) != 0)
        return skip(p + c.size, end, stage->letters);
    return next_non_word(stage, c, p, end);
}

/* [Lu Lt Lm Lo M]*[Ll Lm Lo M]+ at p, or NULL. The star takes all it can; if no lower-case letter follows, it gives back down
 * to the last character that is in both sets. */
static const uint8_t *cased_word(const uint8_t *p, const uint8_t *end)
{
    const uint8_t *after_both = NULL;
    ct_char c = ct_char_at(p, end);
    for (; (c.set & (UP | UNCASED | CT_SET_M)) != 0; c = ct_char_at(p, end)) {
        p += c.size;
        if ((c.set & UP) == 0) after_both = p;
    }
    return (c.set & LOW) != 0 ? skip(p, end, LOW | UNCASED | CT_SET_M) : after_both;
}

/* [^\r\n\p{L}\p{N}]?[Lu Lt Lm Lo M]*[Ll Lm Lo M]+C?|[^\r\n\p{L}\p{N}]?[Lu Lt Lm Lo M]+[Ll Lm Lo M]*C? and the rest, where C
 * is a contraction: words are cut before a capital inside them. */
static const uint8_t *next_cased(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    const unsigned upper = UP | UNCASED | CT_SET_M;
    ct_char c = ct_char_at(p, end);
    const uint8_t *prefixed = (c.set & (CT_SET_L | CT_SET_N)) == 0 && !is_newline(c) ? p + c.size : NULL;
    const uint8_t *q = prefixed != NULL ? cased_word(prefixed, end) : NULL;
    if (q == NULL) q = cased_word(p, end);
    if (q == NULL && prefixed != NULL && (ct_char_at(prefixed, end).set & upper) != 0) q = skip(prefixed, end, upper);
    if (q == NULL && (c.set & upper) != 0) q = skip(p, end, upper);
    if (q == NULL) return next_non_word(stage, c, p, end);
    const uint8_t *with = stage->contractions && q < end ? contraction(q, end, true) : NULL;
    return with != NULL ? with : q;
}

/* The expression of DeepSeek V3 behind its digits and ideographs:
 * [ASCII punctuation or symbol][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 * NULL where nothing matches at p. */
static const uint8_t *match_deepseek(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    const unsigned word = CT_SET_L | CT_SET_M, symbol = CT_SET_P | CT_SET_S, ascii = UP | LOW;
    ct_char c = ct_char_at(p, end), d = ct_char_at(p + c.size, end);
    if (c.code < 0x80 && (c.set & symbol) != 0 && d.code < 0x80 && (d.set & ascii) != 0) {
        const uint8_t *q = p + 1;
        while (q < end && *q < 0x80 && (ct_ascii_set[*q] & ascii) != 0) q++;
        return q;
    }
    if ((c.set & word) != 0) return skip(p, end, word);
    if ((c.set & symbol) == 0 && !is_newline(c) && (d.set & word) != 0) return skip(p + c.size, end, word);
    if ((c.set & symbol) != 0) return skip_tail(stage, skip(p, end, symbol), end);
    if (c.code == ' ' && (d.set & symbol) != 0) return skip_tail(stage, skip(p + 1, end, symbol), end);
    return (c.set & CT_SET_SPACE) != 0 ? spaces_and_lines(p, end) : NULL;
}

static const uint8_t *next_deepseek(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *q = match_deepseek(stage, p, end);
    if (q != NULL) return q;
    do
        p += ct_char_at(p, end).size;
    while (p < end && match_deepseek(stage, p, end) == NULL);
    return p;
}

/* \p{N}{1,max}, or \p{N}+ if max is 0; else what lies before the next digit. */
static const uint8_t *next_digits(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *q = skip_digits(stage, p, end);
    return q > p ? q : skip(p, end, CT_SET_ALL & ~(unsigned)CT_SET_N);
}

static bool is_punctuation(const pre_stage *stage, ct_char c)
{
    return (c.set & CT_SET_P) != 0 || (c.code > 0 && c.code < 0x80 && strchr(stage->extra, (int)c.code) != NULL);
}

/* [\p{P} and extra]+; else what lies before it. */
static const uint8_t *next_punctuation(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    ct_char c = ct_char_at(p, end);
    bool inside = is_punctuation(stage, c);
    while (c.size > 0 && is_punctuation(stage, c) == inside) {
        p += c.size;
        c = ct_char_at(p, end);
    }
    return p;
}

/* [0-9][0-9][0-9]; else what lies before it. */
static const uint8_t *next_three_digits(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    (void)stage;
    unsigned n = 0; /* digits right before q */
    for (const uint8_t *q = p; q < end; q++) {
        n = *q >= '0' && *q <= '9' ? n + 1 : 0;
        if (n == 3) return q - 2 == p ? q + 1 : q - 2;
    }
    return end;
}

static bool is_ideograph_or_kana(ct_char c)
{
    return (c.code >= 0x4E00 && c.code <= 0x9FA5) || (c.code >= 0x3040 && c.code <= 0x30FF);
}

/* [U+4E00 … U+9FA5, U+3040 … U+30FF]+; else what lies before it. */
static const uint8_t *next_ideographs(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    (void)stage;
    ct_char c = ct_char_at(p, end);
    bool inside = is_ideograph_or_kana(c);
    while (c.size > 0 && is_ideograph_or_kana(c) == inside) {
        p += c.size;
        c = ct_char_at(p, end);
    }
    return p;
}

/* ---- the table ---- */

#define LETTERS_AND_MARKS (CT_SET_L | CT_SET_M)
#define GPT2_STAGE {.next = next_gpt2}
#define DIGITS_STAGE(max_) {.next = next_digits, .max_digits = (max_)}
#define PUNCTUATION_STAGE(extra_) {.next = next_punctuation, .extra = (extra_)}
#define LLAMA3_STAGE(letters_, max_) {.next = next_llama3, .letters = (letters_), .max_digits = (max_), .contractions = true}

typedef const pre_stage stages[MAX_STAGES]; /* those behind the last have no `next` */

static stages gpt2 = {GPT2_STAGE};
static stages smollm = {DIGITS_STAGE(1), GPT2_STAGE};
static stages falcon = {PUNCTUATION_STAGE("$+<=>^~|`"), GPT2_STAGE, {.next = next_three_digits}};
static stages fallback = {PUNCTUATION_STAGE("$+<=>^~|"), GPT2_STAGE, DIGITS_STAGE(0), {.next = next_three_digits}};
static stages llama3 = {LLAMA3_STAGE(CT_SET_L, 3)};
static stages qwen2 = {LLAMA3_STAGE(CT_SET_L, 1)};
static stages qwen35 = {LLAMA3_STAGE(LETTERS_AND_MARKS, 1)};
static stages minicpm5 = {DIGITS_STAGE(3), LLAMA3_STAGE(CT_SET_L, 0)};
static stages seed = {{.next = next_llama3, .letters = CT_SET_L, .max_digits = 1, .contractions = true, .no_tail = true}};
static stages ufakzeka = {{.next = next_llama3, .letters = CT_SET_L, .max_digits = 1}};
static stages gpt4o = {{.next = next_cased, .max_digits = 3, .contractions = true, .tail = '/'}};
static stages tekken = {{.next = next_cased, .max_digits = 1, .tail = '/'}};
static stages deepseek3 = {DIGITS_STAGE(3), {.next = next_ideographs}, {.next = next_deepseek}};

struct ct_pretokenizer {
    const char *name;
    const pre_stage *stages; /* [MAX_STAGES] */
    unsigned flags;
};

static const ct_pretokenizer pretokenizers[] = {
    {"", fallback, 0},
    {"default", fallback, 0},
    {"gpt-2", gpt2, 0},
    {"a.x-4.0", gpt2, 0},
    {"exaone4", gpt2, 0},
    {"gigachat", gpt2, 0},
    {"granite-docling", gpt2, 0},
    {"jais", gpt2, 0},
    {"jina-de", gpt2, 0},
    {"jina-es", gpt2, 0},
    {"mellum", gpt2, 0},
    {"mpt", gpt2, 0},
    {"olmo", gpt2, 0},
    {"phi-2", gpt2, 0},
    {"trillion", gpt2, 0},
    {"smollm", smollm, 0},
    {"codeshell", smollm, 0},
    {"command-r", smollm, 0},
    {"exaone", smollm, 0},
    {"mellum2", smollm, 0},
    {"minerva-7b", smollm, 0},
    {"refact", smollm, 0},
    {"starcoder", smollm, 0},
    {"falcon", falcon, 0},
    {"llama-bpe", llama3, CT_PRE_IGNORE_MERGES | CT_PRE_ADD_BOS},
    {"falcon-h1", llama3, CT_PRE_IGNORE_MERGES | CT_PRE_ADD_BOS},
    {"falcon3", llama3, CT_PRE_IGNORE_MERGES | CT_PRE_ADD_BOS},
    {"jina-v5-nano", llama3, CT_PRE_IGNORE_MERGES | CT_PRE_ADD_BOS},
    {"lfm2", llama3, CT_PRE_IGNORE_MERGES | CT_PRE_ADD_BOS},
    {"llama-v3", llama3, CT_PRE_IGNORE_MERGES | CT_PRE_ADD_BOS},
    {"llama3", llama3, CT_PRE_IGNORE_MERGES | CT_PRE_ADD_BOS},
    {"midm-2.0", llama3, CT_PRE_IGNORE_MERGES | CT_PRE_ADD_BOS},
    {"pixtral", llama3, CT_PRE_IGNORE_MERGES | CT_PRE_ADD_BOS},
    {"glm4", llama3, CT_PRE_IGNORE_MERGES},
    {"glm5", llama3, CT_PRE_IGNORE_MERGES},
    {"chatglm-bpe", llama3, 0},
    {"dbrx", llama3, 0},
    {"smaug-bpe", llama3, 0},
    {"qwen2", qwen2, 0},
    {"bailingmoe", qwen2, 0},
    {"bailingmoe2", qwen2, 0},
    {"deepseek-r1-qwen", qwen2, 0},
    {"f2llmv2", qwen2, 0},
    {"grok-2", qwen2, 0},
    {"hunyuan", qwen2, 0},
    {"kormo", qwen2, 0},
    {"llada-moe", qwen2, 0},
    {"megrez", qwen2, 0},
    {"solar-open", qwen2, 0},
    {"stablelm2", qwen2, 0},
    {"qwen35", qwen35, 0},
    {"minicpm5", minicpm5, CT_PRE_IGNORE_MERGES},
    {"seed-coder", seed, 0},
    {"ufakzeka", ufakzeka, 0},
    {"gpt-4o", gpt4o, 0},
    {"kanana2", gpt4o, 0},
    {"llama4", gpt4o, 0},
    {"minimax-m2", gpt4o, 0},
    {"talkie", gpt4o, 0},
    {"tekken", tekken, CT_PRE_IGNORE_MERGES | CT_PRE_ADD_BOS},
    {"deepseek-v3", deepseek3, 0},
    {"hunyuan-dense", deepseek3, 0},
    {"hy_v4", deepseek3, 0},
    {"joyai-llm", deepseek3, 0},
};

const ct_pretokenizer *ct_pretokenizer_find(ct_str name)
{
    for (size_t i = 0; i < sizeof pretokenizers / sizeof pretokenizers[0]; i++) {
        const ct_pretokenizer *row = &pretokenizers[i];
        if (strlen(row->name) == name.size && (name.size == 0 || memcmp(row->name, name.data, name.size) == 0)) return row;
    }
    return NULL;
}

unsigned ct_pretokenizer_flags(const ct_pretokenizer *pre) { return pre->flags; }

/* Cuts [p, end) by this stage, and each piece by the stages behind it. */
static cactus_status cut(const pre_stage *stage, const uint8_t *p, const uint8_t *end, int n_stages, ct_word_fn take, void *ctx)
{
    cactus_status status = CACTUS_OK;
    while (p < end && status == CACTUS_OK) {
        const uint8_t *next = stage->next(stage, p, end);
        status = n_stages == 1 ? take(ctx, p, (size_t)(next - p)) : cut(stage + 1, p, next, n_stages - 1, take, ctx);
        p = next;
    }
    return status;
}

cactus_status ct_pretokenize(const ct_pretokenizer *pre, const uint8_t *text, size_t n_bytes, ct_word_fn take, void *ctx)
{
    int n_stages = 1;
    while (n_stages < MAX_STAGES && pre->stages[n_stages].next != NULL) n_stages++;
    return n_bytes == 0 ? CACTUS_OK : cut(pre->stages, text, text + n_bytes, n_stages, take, ctx);
}
