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
    bool (*is)(ct_char c); /* the set of characters that next_run isolates */
    char prefix;          /* what may go before such a run, once: ' ', 's' for any white space, 0 for nothing */
    bool grouped;         /* digits (classes in `letters`) are pieces of three, counted from the last one */
    bool bounded;         /* only those that no character of \w follows */
    bool apart;           /* Han characters are no part of words */
};

enum { MAX_STAGES = 6, UP = 1 << CT_CLASS_UPPER, LOW = 1 << CT_CLASS_LOWER, UNCASED = 1 << CT_CLASS_LETTER };

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

static bool is_in(const uint32_t (*ranges)[2], size_t n, uint32_t code)
{
    for (size_t i = 0; i < n; i++)
        if (code >= ranges[i][0] && code <= ranges[i][1]) return true;
    return false;
}

#define IS_IN(ranges_, code_) is_in(ranges_, sizeof(ranges_) / sizeof(ranges_)[0], code_)

/* \p{Han}: Scripts.txt of Unicode 15.1. */
static bool is_han(ct_char c)
{
    static const uint32_t ranges[][2] = {
        {0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x2E80, 0x2E99},   {0x2E9B, 0x2EF3},   {0x2F00, 0x2FD5},   {0x3005, 0x3005},
        {0x3007, 0x3007},   {0x3021, 0x3029},   {0x3038, 0x303B},   {0xF900, 0xFA6D},   {0xFA70, 0xFAD9},   {0x16FE2, 0x16FE3},
        {0x16FF0, 0x16FF1}, {0x20000, 0x2A6DF}, {0x2A700, 0x2B739}, {0x2B740, 0x2B81D}, {0x2B820, 0x2CEA1}, {0x2CEB0, 0x2EBE0},
        {0x2EBF0, 0x2EE5D}, {0x2F800, 0x2FA1D}, {0x30000, 0x3134A}, {0x31350, 0x323AF}};
    return c.code >= 0x2E80 && c.code < CT_NO_CODE && IS_IN(ranges, c.code);
}

static bool is_cased(const pre_stage *stage, ct_char c, unsigned set)
{
    return (c.set & set) != 0 && !(stage->apart && is_han(c));
}

static const uint8_t *skip_cased(const pre_stage *stage, const uint8_t *p, const uint8_t *end, unsigned set)
{
    for (ct_char c = ct_char_at(p, end); is_cased(stage, c, set); c = ct_char_at(p, end)) p += c.size;
    return p;
}

/* [Lu Lt Lm Lo M]*[Ll Lm Lo M]+ at p, or NULL. The star takes all it can; if no lower-case letter follows, it gives back down
 * to the last character that is in both sets. */
static const uint8_t *cased_word(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *after_both = NULL;
    ct_char c = ct_char_at(p, end);
    for (; is_cased(stage, c, UP | UNCASED | CT_SET_M); c = ct_char_at(p, end)) {
        p += c.size;
        if ((c.set & UP) == 0) after_both = p;
    }
    return (c.set & LOW) != 0 ? skip_cased(stage, p, end, LOW | UNCASED | CT_SET_M) : after_both;
}

/* [^\r\n\p{L}\p{N}]?[Lu Lt Lm Lo M]*[Ll Lm Lo M]+C?|[^\r\n\p{L}\p{N}]?[Lu Lt Lm Lo M]+[Ll Lm Lo M]*C? and the rest, where C
 * is a contraction: words are cut before a capital inside them. With stage->apart, [\p{Han}]+ comes first. */
static const uint8_t *next_cased(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    const unsigned upper = UP | UNCASED | CT_SET_M;
    ct_char c = ct_char_at(p, end);
    if (stage->apart && is_han(c)) {
        for (; is_han(c); c = ct_char_at(p, end)) p += c.size;
        return p;
    }
    const uint8_t *prefixed = (c.set & (CT_SET_L | CT_SET_N)) == 0 && !is_newline(c) ? p + c.size : NULL;
    const uint8_t *q = prefixed != NULL ? cased_word(stage, prefixed, end) : NULL;
    if (q == NULL) q = cased_word(stage, p, end);
    if (q == NULL && prefixed != NULL && is_cased(stage, ct_char_at(prefixed, end), upper))
        q = skip_cased(stage, prefixed, end, upper);
    if (q == NULL && (c.set & upper) != 0) q = skip_cased(stage, p, end, upper);
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
    if (stage->no_tail && is_newline(c)) return p + 1; /* [\r\n]|\s+(?!\S)|\s+ there */
    if ((c.set & CT_SET_SPACE) == 0) return NULL;
    return stage->no_tail ? spaces(p, end) : spaces_and_lines(p, end);
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

/* ?[set]+, where ? is stage->prefix; NULL if that is not at p. */
static const uint8_t *match_run(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    ct_char c = ct_char_at(p, end);
    if (c.size > 0 && !stage->is(c)) {
        bool prefix = stage->prefix == 's' ? (c.set & CT_SET_SPACE) != 0 : stage->prefix != 0 && c.code == (uint32_t)stage->prefix;
        if (!prefix) return NULL;
        p += c.size;
        c = ct_char_at(p, end);
    }
    const uint8_t *start = p;
    for (; c.size > 0 && stage->is(c); c = ct_char_at(p, end)) p += c.size;
    return p > start ? p : NULL;
}

/* Such a run; else what lies before it. */
static const uint8_t *next_run(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *q = match_run(stage, p, end);
    if (q != NULL) return q;
    do
        p += ct_char_at(p, end).size;
    while (p < end && match_run(stage, p, end) == NULL);
    return p;
}

/* [^\n]+|[\n]+ */
static const uint8_t *next_line(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    (void)stage;
    if (*p != '\n') {
        const uint8_t *line = memchr(p, '\n', (size_t)(end - p));
        return line != NULL ? line : end;
    }
    while (p < end && *p == '\n') p++;
    return p;
}

/* [\r\n]; else what lies before it. */
static const uint8_t *next_line_break(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    (void)stage;
    if (*p == '\r' || *p == '\n') return p + 1;
    while (p < end && *p != '\r' && *p != '\n') p++;
    return p;
}

/* \s+$; else what lies before it. */
static const uint8_t *next_last_spaces(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    (void)stage;
    const uint8_t *after_text = p;
    for (const uint8_t *q = p; q < end;) {
        ct_char c = ct_char_at(q, end);
        q += c.size;
        if ((c.set & CT_SET_SPACE) == 0) after_text = q;
    }
    return after_text > p ? after_text : end;
}

/* C|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+, where C is
 * a contraction: words with one space between them are one piece. */
static const uint8_t *next_phrase(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    const uint8_t *q = contraction(p, end, true);
    if (q != NULL) return q;
    ct_char c = ct_char_at(p, end);
    q = p;
    if ((c.set & (CT_SET_L | CT_SET_N)) == 0 && !is_newline(c)) q += c.size;
    if ((ct_char_at(q, end).set & CT_SET_L) != 0) {
        do {
            q = skip(skip(q, end, CT_SET_L), end, CT_SET_M);
            if (q < end && *q == ' ' && (ct_char_at(q + 1, end).set & CT_SET_L) != 0) q++;
        } while ((ct_char_at(q, end).set & CT_SET_L) != 0);
        return q;
    }
    if ((c.set & CT_SET_N) != 0) return skip_digits(stage, p, end);
    const unsigned rest = CT_SET_ALL & ~(unsigned)(CT_SET_SPACE | CT_SET_L | CT_SET_N);
    q = c.code == ' ' ? p + 1 : p;
    if ((ct_char_at(q, end).set & rest) != 0) {
        q = skip(q, end, rest);
        return q < end && (*q == '\r' || *q == '\n' || *q == '/') ? q + 1 : q;
    }
    return spaces_and_lines(p, end);
}

/* ---- grouped digits ---- */

/* \w as Oniguruma has it: letters, marks, decimal digits; connectors, letters as numbers, circled letters, and Latin-1's six numbers. */
static bool is_word(ct_char c)
{
    static const uint32_t others[][2] = {
        {'_', '_'},         {0xB2, 0xB3},       {0xB9, 0xB9},       {0xBC, 0xBE},       {0x16EE, 0x16F0},   {0x203F, 0x2040},
        {0x2054, 0x2054},   {0x2160, 0x2188},   {0x24B6, 0x24E9},   {0x3007, 0x3007},   {0x3021, 0x3029},   {0x3038, 0x303A},
        {0xA6E6, 0xA6EF},   {0xFE33, 0xFE34},   {0xFE4D, 0xFE4F},   {0xFF3F, 0xFF3F},   {0x10140, 0x10174}, {0x10341, 0x10341},
        {0x1034A, 0x1034A}, {0x103D1, 0x103D5}, {0x12400, 0x1246E}, {0x1F130, 0x1F149}, {0x1F150, 0x1F169}, {0x1F170, 0x1F189}};
    return (c.set & (CT_SET_L | CT_SET_M | 1 << CT_CLASS_NUMBER)) != 0 || (c.code < CT_NO_CODE && IS_IN(others, c.code));
}

/* How many characters of the classes in stage->letters stand at p, if they are to be grouped. *after is where they end. */
static size_t count_digits(const pre_stage *stage, const uint8_t *p, const uint8_t *end, const uint8_t **after)
{
    size_t n = 0;
    ct_char c = ct_char_at(p, end);
    for (; (c.set & stage->letters) != 0; c = ct_char_at(p, end)) {
        p += c.size;
        n++;
    }
    *after = p;
    return stage->bounded && is_word(c) ? 0 : n;
}

/* What lies before the next digits that are to be grouped. */
static const uint8_t *next_group(const pre_stage *stage, const uint8_t *p, const uint8_t *end)
{
    while (p < end) {
        const uint8_t *after;
        if (count_digits(stage, p, end, &after) > 0) break;
        p = after > p ? after : p + ct_char_at(p, end).size;
    }
    return p;
}

/* ---- sets of characters ---- */

static bool is_letter(ct_char c) { return (c.set & CT_SET_L) != 0; }
static bool is_mark(ct_char c) { return (c.set & CT_SET_P) != 0; }

/* [U+4E00 … U+9FA5, U+0800 … U+4E00, U+AC00 … U+D7FF] */
static bool is_east_asian(ct_char c)
{
    return (c.code >= 0x0800 && c.code <= 0x9FA5) || (c.code >= 0xAC00 && c.code <= 0xD7FF);
}

/* The cased letters that DeepSeek's first models list. */
static bool is_deepseek_letter(ct_char c)
{
    static const uint32_t ranges[][2] = {
        {0x00B5, 0x00B5}, {0x00C0, 0x00D6}, {0x00D8, 0x00F6}, {0x00F8, 0x01BA}, {0x01BC, 0x01BF}, {0x01C4, 0x0293},
        {0x0295, 0x02AF}, {0x0370, 0x0373}, {0x0376, 0x0376}, {0x0377, 0x0377}, {0x037B, 0x037D}, {0x037F, 0x037F},
        {0x0386, 0x0386}, {0x0388, 0x038A}, {0x038C, 0x038C}, {0x038E, 0x03A1}, {0x03A3, 0x03F5}, {0x03F7, 0x0481},
        {0x048A, 0x052F}, {0x0531, 0x0556}, {0x10A0, 0x10C5}, {0x13A0, 0x13F5}, {0x13F8, 0x13FD}, {0x1C90, 0x1CBA},
        {0x1CBD, 0x1CBF}, {0x1D00, 0x1D2B}, {0x1D6B, 0x1D77}, {0x1D79, 0x1D9A}, {0x1E00, 0x1F15}, {0x1F18, 0x1F1D},
        {0x1F20, 0x1F45}, {0x1F48, 0x1F4D}, {0x1F50, 0x1F57}, {0x1F59, 0x1F59}, {0x1F5B, 0x1F5B}, {0x1F5D, 0x1F5D},
        {0x1F5F, 0x1F7D}, {0x1F80, 0x1FB4}, {0x1FB6, 0x1FBC}, {0x1FBE, 0x1FBE}, {0x1FC2, 0x1FC4}, {0x1FC6, 0x1FCC},
        {0x1FD0, 0x1FD3}, {0x1FD6, 0x1FDB}, {0x1FE0, 0x1FEC}, {0x1FF2, 0x1FF4}, {0x1FF6, 0x1FFC}, {0x2102, 0x2102},
        {0x2107, 0x2107}, {0x210A, 0x2113}, {0x2115, 0x2115}, {0x2119, 0x211D}, {0x2124, 0x2124}, {0x2126, 0x2126},
        {0x2128, 0x2128}, {0x212A, 0x212D}, {0x212F, 0x2134}, {0x2139, 0x2139}, {0x213C, 0x213F}, {0x2145, 0x2149},
        {0x214E, 0x214E}, {0x2183, 0x2183}, {0x2184, 0x2184}, {0x2C00, 0x2C7B}, {0x2C7E, 0x2CE4}, {0x2CEB, 0x2CEE},
        {0x2CF2, 0x2CF2}, {0x2CF3, 0x2CF3}, {0xA640, 0xA66D}, {0xA680, 0xA69B}, {0xA722, 0xA76F}, {0xA771, 0xA787},
        {0xA78B, 0xA78E}, {0xAB70, 0xABBF}, {0xFB00, 0xFB06}, {0xFB13, 0xFB17}, {0xFF21, 0xFF3A}, {0xFF41, 0xFF5A},
        {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB}, {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2},
        {0x118A0, 0x118DF}, {0x1E900, 0x1E943}};
    return (c.set & (UP | LOW)) != 0 && (c.code < 0x80 || IS_IN(ranges, c.code));
}

static bool is_deepseek_mark(ct_char c)
{
    static const uint32_t ranges[][2] = {{'!', '/'}, {':', '~'}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}, {0x2018, 0x201F}, {0x3000, 0x3002}};
    return IS_IN(ranges, c.code);
}

/* [^(\s|.,!?…。，、।۔،)]: neither white space nor one of these. */
static bool is_bloom(ct_char c)
{
    static const uint16_t others[] = {'(', '|', '.', ',', '!', '?', ')', 0x2026, 0x3002, 0xFF0C, 0x3001, 0x0964, 0x06D4, 0x060C};
    if ((c.set & CT_SET_SPACE) != 0) return false;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (c.code == others[i]) return false;
    return true;
}

static bool is_trinity_script(ct_char c)
{
    static const uint32_t ranges[][2] = {{0x4E00, 0x9FFF}, {0x3400, 0x4DBF}, {0xF900, 0xFAFF}, {0x3040, 0x30FF}, {0xFF65, 0xFF9F},
                                         {0x2F00, 0x2FDF}, {0x0E40, 0x0EFF}, {0x1780, 0x17FF}, {0x1000, 0x109F}, {0xAA60, 0xAA7F},
                                         {0xA9E0, 0xA9FF}, {0xAC00, 0xD7AF}, {0x1100, 0x11FF}};
    return IS_IN(ranges, c.code);
}

static bool is_youtu_hangul(ct_char c) { return (c.code >= 0xAC00 && c.code <= 0xD7A3) || (c.code >= 0x3131 && c.code <= 0x318E); }
static bool is_bopomofo(ct_char c) { return c.code >= 0x3105 && c.code <= 0x312F; }

static bool is_youtu_mark(ct_char c)
{
    static const uint32_t ranges[][2] = {{0xFF01, 0xFF01}, {0x2026, 0x2026}, {0x201C, 0x201D}, {0x2018, 0x2019}, {0x2014, 0x2014},
                                         {0xFF1A, 0xFF1B}, {0xFF0C, 0xFF0C}, {0x3001, 0x303F}, {0xFE30, 0xFE4F}};
    return IS_IN(ranges, c.code);
}

/* ---- the table ---- */

#define LETTERS_AND_MARKS (CT_SET_L | CT_SET_M)
#define GPT2_STAGE {.next = next_gpt2}
#define DIGITS_STAGE(max_) {.next = next_digits, .max_digits = (max_)}
#define RUN_STAGE(is_, prefix_) {.next = next_run, .is = (is_), .prefix = (prefix_)}
#define GROUPS_STAGE(set_, bounded_) {.next = next_group, .letters = (set_), .grouped = true, .bounded = (bounded_)}
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
static stages kimi = {{.next = next_cased, .max_digits = 3, .contractions = true, .apart = true}};
static stages tiny_aya = {GROUPS_STAGE(1 << CT_CLASS_NUMBER, true),
                          {.next = next_cased, .max_digits = 3, .contractions = true, .tail = '/'}};
static stages trinity = {GROUPS_STAGE(CT_SET_N, false), RUN_STAGE(is_trinity_script, 0), {.next = next_deepseek}};
static stages youtu = {RUN_STAGE(is_youtu_hangul, 0),
                       RUN_STAGE(is_youtu_mark, 0),
                       RUN_STAGE(is_bopomofo, 0),
                       {.next = next_ideographs},
                       {.next = next_cased, .max_digits = 1, .contractions = true, .tail = '/'}};
static stages laguna = {{.next = next_line}, LLAMA3_STAGE(CT_SET_L, 1)};
static stages lines = {{.next = next_line}};
static stages phrases = {{.next = next_phrase, .max_digits = 1}};
static stages bloom = {RUN_STAGE(is_bloom, ' ')};
static stages viking = {RUN_STAGE(is_bloom, ' '), DIGITS_STAGE(1)};
static stages deepseek_llm = {{.next = next_line_break},        RUN_STAGE(is_deepseek_letter, 's'), RUN_STAGE(is_deepseek_mark, 's'),
                              {.next = next_last_spaces}, RUN_STAGE(is_east_asian, 0),         DIGITS_STAGE(0)};
static stages deepseek_coder = {{.next = next_line_break}, RUN_STAGE(is_letter, 's'), RUN_STAGE(is_mark, 's'),
                                RUN_STAGE(is_east_asian, 0), DIGITS_STAGE(1)};
static stages spark = {DIGITS_STAGE(3), {.next = next_ideographs}, {.next = next_deepseek, .no_tail = true}, DIGITS_STAGE(1)};
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
    {"jina-v1-en", gpt2, 0},
    {"jina-v2-code", gpt2, 0},
    {"jina-v2-de", gpt2, 0},
    {"jina-v2-es", gpt2, 0},
    {"mellum", gpt2, 0},
    {"modern-bert", gpt2, 0},
    {"mpt", gpt2, 0},
    {"olmo", gpt2, 0},
    {"phi-2", gpt2, 0},
    {"roberta-bpe", gpt2, 0},
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
    {"granite-embed-multi-97m", gpt4o, CT_PRE_IGNORE_MERGES},
    {"tiny_aya", tiny_aya, 0},
    {"cohere2moe", tiny_aya, 0},
    {"kimi-k2", kimi, 0},
    {"tekken", tekken, CT_PRE_IGNORE_MERGES | CT_PRE_ADD_BOS},
    {"deepseek-v3", deepseek3, 0},
    {"hunyuan-dense", deepseek3, 0},
    {"hy_v4", deepseek3, 0},
    {"joyai-llm", deepseek3, 0},
    {"deepseek-llm", deepseek_llm, 0},
    {"deepseek-coder", deepseek_coder, 0},
    {"spark2_5", spark, 0},
    {"afmoe", trinity, 0},
    {"youtu", youtu, CT_PRE_IGNORE_MERGES},
    {"laguna", laguna, 0},
    {"exaone-moe", phrases, 0},
    {"bloom", bloom, 0},
    {"gpt3-finnish", bloom, 0},
    {"poro-chat", bloom, 0},
    {"viking", viking, 0},
    {"gemma4", lines, CT_PRE_RAW | CT_PRE_WHOLE_LINES | CT_PRE_FORCE_BOS},
    {"granite-embed-multi-311m", lines, CT_PRE_RAW | CT_PRE_WHOLE_LINES | CT_PRE_FORCE_BOS},
    {"sarvam-moe", lines, CT_PRE_RAW},
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
    size_t n_grouped = 0; /* digits left of a number that is being cut */
    while (p < end && status == CACTUS_OK) {
        const uint8_t *next = p;
        if (stage->grouped && n_grouped == 0) n_grouped = count_digits(stage, p, end, &next);
        if (n_grouped > 0) {
            next = p;
            do
                next += ct_char_at(next, end).size;
            while (--n_grouped % 3 != 0);
        } else
            next = stage->next(stage, p, end);
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
