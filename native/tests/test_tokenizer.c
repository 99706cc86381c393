/* test_tokenizer.c: UTF-8, classes, words, merges, special tokens, and vocabularies that mean harm. */
#include "tests/test.h"

#include "tests/vocab.h"
#include "tokenizer/unicode.h"

enum { MAX_IDS = 4096 };

/* ---- helpers ---- */

static cactus_tokenizer *open_vocab(const vocab *v, const char *pre)
{
    vocab_file file;
    cactus_tokenizer *t = NULL;
    cactus_error err = {0};
    vocab_write(v, pre, &file);
    CHECK_MSG(vocab_open(&file, &t, &err) == CACTUS_OK, "the tokenizer was refused: %s", err.message);
    return t;
}

/* The ids of a text as "1 22 333 "; static storage. */
static const char *ids_of(const cactus_tokenizer *t, const char *text, size_t n_bytes, bool add_special, bool parse_special)
{
    static char shown[8 * MAX_IDS];
    static int32_t ids[MAX_IDS];
    size_t n_ids = 0, at = 0;
    cactus_error err = {0};
    cactus_status status = cactus_tokenize(t, text, n_bytes, add_special, parse_special, ids, MAX_IDS, &n_ids, &err);
    CHECK_MSG(status == CACTUS_OK, "%s", err.message);
    shown[0] = '\0';
    for (size_t i = 0; i < n_ids; i++) at += (size_t)snprintf(shown + at, sizeof shown - at, "%d ", (int)ids[i]);
    return shown;
}

static const char *encoded(const cactus_tokenizer *t, const char *text)
{
    return ids_of(t, text, strlen(text), false, false);
}

static const char *encoded_special(const cactus_tokenizer *t, const char *text)
{
    return ids_of(t, text, strlen(text), false, true);
}

static void check_round_trip(const cactus_tokenizer *t, const uint8_t *text, size_t n_bytes)
{
    int32_t *ids = malloc((n_bytes + 2) * sizeof *ids);
    char *back = malloc(n_bytes + 1);
    size_t n_ids = 0, n_back = 0;
    if (!CHECK(ids != NULL && back != NULL)) exit(2);
    CHECK_INT(cactus_tokenize(t, (const char *)text, n_bytes, 0, 0, ids, n_bytes + 2, &n_ids, NULL), CACTUS_OK);
    CHECK_INT(cactus_detokenize(t, ids, n_ids, 0, back, n_bytes, &n_back, NULL), CACTUS_OK);
    if (CHECK_UINT(n_back, n_bytes)) CHECK_MEM(back, text, n_bytes);
    free(ids);
    free(back);
}

/* ---- UTF-8 ---- */

TEST(ascii_classes_are_those_of_the_tables)
{
    for (int c = 0; c < 128; c++) {
        uint8_t byte = (uint8_t)c;
        ct_char decoded = ct_decode_char(&byte, &byte + 1);
        CHECK_UINT(decoded.code, c);
        CHECK_UINT(decoded.set, ct_ascii_set[c]);
    }
}

TEST(classes)
{
    /* general categories as in UnicodeData.txt 16.0 */
    static const struct {
        const char *text;
        ct_class class;
    } cases[] = {
        {"\xC2\x85", CT_CLASS_SPACE},             /* U+0085, Cc with White_Space */
        {"\xC2\xA0", CT_CLASS_SPACE},             /* U+00A0, Zs */
        {"\xE2\x80\xA8", CT_CLASS_SPACE},         /* U+2028, Zl */
        {"\xE3\x80\x80", CT_CLASS_SPACE},         /* U+3000, Zs */
        {"\xE1\xA0\x8E", CT_CLASS_CONTROL},       /* U+180E, Cf: no White_Space since Unicode 6.3 */
        {"\xE2\x80\x8B", CT_CLASS_CONTROL},       /* U+200B, Cf */
        {"\xC2\xAA", CT_CLASS_LETTER},            /* U+00AA, Lo */
        {"\xC3\x89", CT_CLASS_UPPER},             /* U+00C9, Lu */
        {"\xC7\x85", CT_CLASS_UPPER},             /* U+01C5, Lt */
        {"\xC3\xA9", CT_CLASS_LOWER},             /* U+00E9, Ll */
        {"\xCA\xB0", CT_CLASS_LETTER},            /* U+02B0, Lm */
        {"\xCC\x81", CT_CLASS_ACCENT},            /* U+0301, Mn */
        {"\xE2\x83\x9D", CT_CLASS_MARK},          /* U+20DD, Me */
        {"\xE0\xA4\xBE", CT_CLASS_MARK},          /* U+093E, Mc */
        {"\xC2\xB2", CT_CLASS_NUMERAL},           /* U+00B2, No */
        {"\xE2\x85\xA7", CT_CLASS_NUMERAL},       /* U+2167, Nl */
        {"\xD9\xA3", CT_CLASS_NUMBER},            /* U+0663, Nd */
        {"\xE3\x80\x82", CT_CLASS_PUNCTUATION},   /* U+3002, Po */
        {"\xE2\x82\xAC", CT_CLASS_SYMBOL},        /* U+20AC, Sc */
        {"\xF0\x9F\x99\x82", CT_CLASS_SYMBOL},    /* U+1F642, So */
        {"\xE4\xB8\xAD", CT_CLASS_LETTER},        /* U+4E2D, Lo */
        {"\xF0\xAE\xAF\xB0", CT_CLASS_LETTER},    /* U+2EBF0, Lo: new in 15.1 */
        {"\xF0\xA0\x80\x80", CT_CLASS_LETTER},    /* U+20000, Lo: the first of a range that the database only bounds */
        {"\xF3\xA0\x84\x80", CT_CLASS_ACCENT},    /* U+E0100, Mn: the last entry of the table */
        {"\xCD\xB8", CT_CLASS_OTHER},             /* U+0378, unassigned */
        {"\xEE\x80\x80", CT_CLASS_CONTROL},       /* U+E000, Co */
        {"\xF4\x8F\xBF\xBF", CT_CLASS_OTHER},     /* U+10FFFF, unassigned */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const uint8_t *p = (const uint8_t *)cases[i].text;
        ct_char c = ct_char_at(p, p + strlen(cases[i].text));
        CHECK_UINT(c.size, strlen(cases[i].text));
        CHECK_MSG(c.set == 1u << cases[i].class, "U+%04X has the set 0x%x, not class %d", (unsigned)c.code, (unsigned)c.set,
                  (int)cases[i].class);
    }
}

TEST(bytes_that_are_not_utf8_are_taken_one_by_one)
{
    static const char *const texts[] = {"\x80", "\xBF\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80",
                                        "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF",
                                        "\xC3", "\xE2\x82", "\xF0\x9F\x99"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        const uint8_t *p = (const uint8_t *)texts[i], *end = p + strlen(texts[i]);
        for (; p < end; p++) {
            ct_char c = ct_char_at(p, end);
            CHECK_UINT(c.code, CT_NO_CODE);
            CHECK_UINT(c.size, 1);
        }
    }
}

/* What Python 3.11's incremental decoder gives with errors="replace"; R is U+FFFD. */
static const struct {
    const char *bytes, *text;
} streams[] = {
    {"abc", "abc"},
    {"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82", "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82"},
    {"\xC3", "R"},
    {"\xE2\x82", "R"},
    {"\xF0\x9F\x99", "R"},
    {"\x80", "R"},
    {"\xC0\x80", "RR"},
    {"\xC1\xBF", "RR"},
    {"\xE0\x80\x80", "RRR"},
    {"\xE0\x9F\xBF", "RRR"},
    {"\xE0\xA0\x80", "\xE0\xA0\x80"},
    {"\xED\x9F\xBF", "\xED\x9F\xBF"},
    {"\xED\xA0\x80", "RRR"},
    {"\xEE\x80\x80", "\xEE\x80\x80"},
    {"\xF0\x80\x80\x80", "RRRR"},
    {"\xF0\x90\x80\x80", "\xF0\x90\x80\x80"},
    {"\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"},
    {"\xF4\x90\x80\x80", "RRRR"},
    {"\xF5\x80\x80\x80", "RRRR"},
    {"\xFF\xFE", "RR"},
    {"\xE2\x82z", "Rz"},
    {"\xE2\x82\xE2\x82\xAC", "R\xE2\x82\xAC"},
    {"\xF0\x9F\xF0\x9F\x99\x82", "R\xF0\x9F\x99\x82"},
    {"\xF0\x9F\x99\xC3\xA9", "R\xC3\xA9"},
    {"\xC3\xC3\xA9", "R\xC3\xA9"},
    {"x\xF1\x80\x80\xE1\x80\xC2y\x80z\x80\xBFw", "xRRRyRzRRw"},
};

TEST(utf8_stream_equals_pythons_decoder_at_every_cut)
{
    for (size_t i = 0; i < sizeof streams / sizeof streams[0]; i++) {
        char want[64] = "";
        for (const char *p = streams[i].text; *p != '\0'; p++) {
            size_t n = strlen(want);
            snprintf(want + n, sizeof want - n, "%s", *p == 'R' ? "\xEF\xBF\xBD" : (const char[]){*p, '\0'});
        }
        size_t n_bytes = strlen(streams[i].bytes);
        for (size_t cut = 0; cut <= n_bytes; cut++) {
            ct_utf8_stream stream = {{0}, 0};
            char got[64];
            size_t n = ct_utf8_push(&stream, streams[i].bytes, cut, got);
            n += ct_utf8_push(&stream, streams[i].bytes + cut, n_bytes - cut, got + n);
            n += ct_utf8_finish(&stream, got + n);
            got[n] = '\0';
            CHECK_STR(got, want);
        }
    }
}

TEST(utf8_stream_stays_in_its_room)
{
    test_rng rng = {7};
    for (int round = 0; round < 2000; round++) {
        char bytes[40];
        ct_utf8_stream stream = {{0}, 0};
        for (int push = 0; push < 4; push++) {
            size_t n_bytes = test_below(&rng, sizeof bytes);
            for (size_t i = 0; i < n_bytes; i++) bytes[i] = (char)(test_below(&rng, 3) != 0 ? 0x80 + test_below(&rng, 0x80) : 'a');
            test_guarded out = test_guarded_alloc(3 * (n_bytes + 3));
            size_t n = ct_utf8_push(&stream, bytes, n_bytes, (char *)out.data);
            CHECK(n <= 3 * (n_bytes + 3));
            for (const uint8_t *p = out.data; p < out.data + n;) {
                ct_char c = ct_char_at(p, out.data + n);
                if (!CHECK(c.code != CT_NO_CODE)) return;
                p += c.size;
            }
            test_guarded_free(&out);
        }
        CHECK(ct_utf8_finish(&stream, bytes) <= 3);
        CHECK_UINT(ct_utf8_finish(&stream, bytes), 0);
    }
}

/* ---- golden ids ---- */

static char *read_file(const char *path, size_t *n_bytes)
{
    FILE *file = fopen(path, "rb");
    if (!CHECK_MSG(file != NULL, "%s is missing: run from the top of the source tree", path)) return NULL;
    fseek(file, 0, SEEK_END);
    *n_bytes = (size_t)ftell(file);
    rewind(file);
    char *bytes = calloc(*n_bytes + 1, 1);
    if (bytes != NULL) CHECK_UINT(fread(bytes, 1, *n_bytes, file), *n_bytes);
    fclose(file);
    return bytes;
}

/* Ids that Hugging Face's tokenizers gave (llama.cpp's test files), numbered as the cut vocabulary is. */
TEST(gpt2_golden_ids)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    size_t n_texts_bytes = 0, n_lines_bytes = 0;
    int n = 0;
    cactus_tokenizer *t = NULL;
    cactus_error err = {0};
    if (!CHECK_MSG(cactus_tokenizer_load("tests/data/tokenizer/gpt-2-cut.gguf", &t, &err) == CACTUS_OK, "%s", err.message)) return;
    char *texts = read_file("tests/data/tokenizer/gpt-2-cut.inp", &n_texts_bytes);
    char *lines = read_file("tests/data/tokenizer/gpt-2-cut.out", &n_lines_bytes);
    if (texts != NULL && lines != NULL) {
        char *line = lines;
        for (char *text = texts, *end; (end = strstr(text, separator)) != NULL; text = end + strlen(separator), n++) {
            char *line_end = strchr(line, '\n');
            if (!CHECK(line_end != NULL)) break;
            char want[8 * MAX_IDS];
            snprintf(want, sizeof want, "%.*s%s", (int)(line_end - line), line, line_end > line ? " " : "");
            CHECK_STR(ids_of(t, text, (size_t)(end - text), false, false), want);
            check_round_trip(t, (const uint8_t *)text, (size_t)(end - text));
            line = line_end + 1;
        }
    }
    CHECK_INT(n, 46);
    free(texts);
    free(lines);
    cactus_tokenizer_free(t);
}

/* ---- words ---- */

/* Words show by the merges that do not happen across their ends. */
TEST(words_are_cut_before_merging)
{
    vocab v;
    vocab_init(&v);
    int32_t sa = vocab_merge(&v, "\xC4\xA0 a", "\xC4\xA0" "a"), aa = vocab_merge(&v, "a a", "aa");
    vocab_merge(&v, "a 1", "a1");
    int32_t oo = vocab_merge(&v, "1 1", "11"), quote_s = vocab_merge(&v, "' s", "'s");
    int32_t quote_S = vocab_merge(&v, "' S", "'S"), bang_nl = vocab_merge(&v, "! \xC4\x8A", "!\xC4\x8A");
    char want[64];
    cactus_tokenizer *gpt2 = open_vocab(&v, "gpt-2"), *smollm = open_vocab(&v, "smollm"), *llama = open_vocab(&v, "llama-bpe"),
                     *qwen = open_vocab(&v, "qwen2");
    snprintf(want, sizeof want, "%d %d ", sa, aa); /* " a" "aa": the space goes with its word */
    CHECK_STR(encoded(gpt2, " aaa"), want);
    CHECK_STR(encoded(gpt2, "a1"), "97 49 "); /* letters and digits never share a word */
    CHECK_STR(encoded(llama, "a1"), "97 49 ");
    snprintf(want, sizeof want, "%d %d ", oo, oo);
    CHECK_STR(encoded(gpt2, "1111"), want);
    CHECK_STR(encoded(smollm, "1111"), "49 49 49 49 "); /* digits one by one */
    CHECK_STR(encoded(qwen, "1111"), "49 49 49 49 ");
    snprintf(want, sizeof want, "%d 49 49 ", oo); /* "111" and "1": three at most */
    CHECK_STR(encoded(llama, "1111"), want);
    snprintf(want, sizeof want, "97 %d ", quote_s);
    CHECK_STR(encoded(gpt2, "a's"), want);
    CHECK_STR(encoded(gpt2, "a'S"), "97 39 83 "); /* gpt-2's contractions are lower case */
    snprintf(want, sizeof want, "97 %d ", quote_S);
    CHECK_STR(encoded(llama, "a'S"), want);
    CHECK_STR(encoded(gpt2, "!\n"), "33 10 ");
    snprintf(want, sizeof want, "%d ", bang_nl); /* symbols keep the line break behind them */
    CHECK_STR(encoded(llama, "!\n"), want);
    cactus_tokenizer_free(gpt2);
    cactus_tokenizer_free(smollm);
    cactus_tokenizer_free(llama);
    cactus_tokenizer_free(qwen);
}

TEST(ignore_merges_takes_a_word_whole)
{
    vocab v;
    vocab_init(&v);
    vocab_merge(&v, "b c", "bc");
    int32_t abc = vocab_token(&v, "abc", 1), control = vocab_token(&v, "xyz", 3); /* no merge leads to either */
    char want[32];
    cactus_tokenizer *gpt2 = open_vocab(&v, "gpt-2"), *llama = open_vocab(&v, "llama-bpe");
    CHECK_STR(encoded(gpt2, "abc"), "97 256 ");
    snprintf(want, sizeof want, "%d ", abc);
    CHECK_STR(encoded(llama, "abc"), want);
    CHECK_STR(encoded(llama, "xyz"), "120 121 122 "); /* a control token never comes of plain text */
    snprintf(want, sizeof want, "%d ", control);
    CHECK_STR(encoded_special(llama, "xyz"), want);
    cactus_tokenizer_free(gpt2);
    cactus_tokenizer_free(llama);
}

/* ---- merging ---- */

/* Byte-pair encoding as its inventors wrote it: look for the best pair of the whole word, join its leftmost occurrence, again. */
static size_t naive_bpe(const vocab *v, const char *word, int32_t *ids)
{
    struct {
        char text[32];
    } pieces[300];
    size_t n = 0;
    for (const char *p = word; *p != '\0'; p++) snprintf(pieces[n++].text, sizeof pieces[0].text, "%c", *p);
    for (;;) {
        size_t best_rank = SIZE_MAX, best = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            const char *left = pieces[i].text, *right = pieces[i + 1].text;
            size_t n_left = strlen(left);
            for (size_t rank = 0; rank < v->n_merges && rank < best_rank; rank++)
                if (strncmp(v->merges[rank], left, n_left) == 0 && v->merges[rank][n_left] == ' ' &&
                    strcmp(v->merges[rank] + n_left + 1, right) == 0) {
                    best_rank = rank;
                    best = i;
                }
        }
        if (best_rank == SIZE_MAX) break;
        memcpy(pieces[best].text + strlen(pieces[best].text), pieces[best + 1].text, strlen(pieces[best + 1].text) + 1);
        memmove(&pieces[best + 1], &pieces[best + 2], (n - best - 2) * sizeof pieces[0]);
        n--;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t id = 0; id < v->n_tokens; id++)
            if (strcmp(v->tokens[id], pieces[i].text) == 0) ids[i] = (int32_t)id;
    return n;
}

TEST(short_and_long_words_merge_as_the_plain_algorithm_does)
{
    static const char *const merges[] = {"b c", "a b", "a a", "ab a", "aa bc", "c c", "bc a", "aba ab", "cc cc", "a bc", "cccc a"};
    static const char *const made[] = {"bc", "ab", "aa", "aba", "aabc", "cc", "bca", "abaab", "cccc", "abc", "cccca"};
    vocab v;
    vocab_init(&v);
    for (size_t i = 0; i < sizeof merges / sizeof merges[0]; i++) vocab_merge(&v, merges[i], made[i]);
    cactus_tokenizer *t = open_vocab(&v, "gpt-2");
    test_rng rng = {3};
    for (int round = 0; round < 300; round++) {
        char word[300] = "", want[8 * 300] = "";
        int32_t ids[300];
        size_t length = 1 + test_below(&rng, round % 2 == 0 ? 40 : 250), at = 0;
        for (size_t i = 0; i < length; i++) word[i] = (char)('a' + test_below(&rng, 3));
        size_t n = naive_bpe(&v, word, ids);
        for (size_t i = 0; i < n; i++) at += (size_t)snprintf(want + at, sizeof want - at, "%d ", (int)ids[i]);
        CHECK_STR(encoded(t, word), want);
    }
    cactus_tokenizer_free(t);
}

TEST(of_equal_merges_the_first_counts)
{
    vocab v;
    vocab_init(&v);
    vocab_merge(&v, "a b", "ab");
    vocab_merge(&v, "b c", "bc");
    v.merges[v.n_merges++] = "a b";
    cactus_tokenizer *t = open_vocab(&v, "gpt-2");
    CHECK_STR(encoded(t, "abc"), "256 99 ");
    cactus_tokenizer_free(t);
}

TEST(any_bytes_come_back)
{
    vocab v;
    vocab_init(&v);
    vocab_merge(&v, "\xC4\xA0 \xC4\xA0", "\xC4\xA0\xC4\xA0");
    vocab_merge(&v, "\xC3\xA2 \xC4\xA4", "\xC3\xA2\xC4\xA4"); /* E2 82, the first bytes of the euro sign */
    cactus_tokenizer *t = open_vocab(&v, "smollm");
    test_rng rng = {11};
    for (int round = 0; round < 500; round++) {
        uint8_t text[200];
        size_t n = test_below(&rng, sizeof text + 1);
        for (size_t i = 0; i < n; i++)
            text[i] = (uint8_t)(round % 2 == 0 ? test_below(&rng, 256) : (uint64_t)"\xE2\x82\xAC  a1'\n\x80"[test_below(&rng, 10)]);
        check_round_trip(t, text, n);
    }
    check_round_trip(t, NULL, 0);
    cactus_tokenizer_free(t);
}

/* Quadratic time would take these from seconds to hours. */
TEST(very_long_words)
{
    enum { N = 1 << 18 };
    static const char *const units[] = {"a", " ", "\n", "\xCC\x81", "'", "1", "<", "\xFF", "ab", " a", "! ", "\n ", "<|e"};
    static const char *const pres[] = {"default", "smollm", "llama-bpe", "gpt-4o", "deepseek-v3"};
    vocab v;
    vocab_init(&v);
    vocab_merge(&v, "a a", "aa");
    vocab_merge(&v, "aa aa", "aaaa");
    vocab_merge(&v, "\xC4\xA0 \xC4\xA0", "\xC4\xA0\xC4\xA0");
    vocab_merge(&v, "\xC4\xA0\xC4\xA0 \xC4\xA0\xC4\xA0", "\xC4\xA0\xC4\xA0\xC4\xA0\xC4\xA0");
    vocab_token(&v, "<|end|>", 4);
    uint8_t *text = malloc(N);
    if (!CHECK(text != NULL)) return;
    for (size_t p = 0; p < sizeof pres / sizeof pres[0]; p++) {
        cactus_tokenizer *t = open_vocab(&v, pres[p]);
        for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
            for (size_t i = 0, n = strlen(units[u]); i < N; i++) text[i] = (uint8_t)units[u][i % n];
            check_round_trip(t, text, N);
        }
        cactus_tokenizer_free(t);
    }
    free(text);
}

/* ---- special tokens ---- */

TEST(special_tokens_in_text)
{
    vocab v;
    vocab_init(&v);
    int32_t end = vocab_token(&v, "<|end|>", 3), open = vocab_token(&v, "<|", 3), user = vocab_token(&v, "<user>", 4);
    int32_t longer = vocab_token(&v, "<user>!", 4), unknown = vocab_token(&v, "<unk>", 2);
    char want[64];
    cactus_tokenizer *t = open_vocab(&v, "gpt-2");
    CHECK_STR(encoded(t, "<|"), "60 124 "); /* control tokens only on request */
    CHECK_STR(encoded(t, "<unk>"), "60 117 110 107 62 ");
    snprintf(want, sizeof want, "97 %d 98 ", user); /* user-defined ones always */
    CHECK_STR(encoded(t, "a<user>b"), want);
    snprintf(want, sizeof want, "%d %d %d ", longer, user, user);
    CHECK_STR(encoded(t, "<user>!<user><user>"), want); /* the longest */
    snprintf(want, sizeof want, "%d %d 101 110 100 124 %d %d ", end, open, unknown, end);
    CHECK_STR(encoded_special(t, "<|end|><|end|<unk><|end|>"), want);
    snprintf(want, sizeof want, "%d 32 97 32 %d ", end, end); /* spaces around them are text */
    CHECK_STR(encoded_special(t, "<|end|> a <|end|>"), want);
    CHECK_STR(encoded_special(t, "<use"), "60 117 115 101 ");
    cactus_tokenizer_free(t);
}

TEST(bos_and_eos)
{
    static const struct {
        const char *pre;
        int bos, eos;                      /* ids in the file; -1: no key */
        int add_bos, add_eos;              /* -1: no key */
        const char *want;
    } cases[] = {
        {"gpt-2", 256, 257, -1, -1, "97 "},      /* the defaults are llama.cpp's: no for most */
        {"llama-bpe", 256, 257, -1, -1, "256 97 "},
        {"tekken", 256, 257, -1, -1, "256 97 "},
        {"qwen2", 256, 257, -1, -1, "97 "},
        {"llama-bpe", 256, 257, 0, -1, "97 "},
        {"gpt-2", 256, 257, 1, 1, "256 97 257 "},
        {"llama-bpe", -1, 257, -1, 1, "97 257 "}, /* a token that is not there cannot be added */
        {"gpt-2", 256, -1, 1, 1, "256 97 "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        vocab v;
        vocab_file file;
        cactus_tokenizer *t = NULL;
        cactus_error err = {0};
        vocab_init(&v);
        vocab_token(&v, "<s>", 3);
        vocab_token(&v, "</s>", 3);
        vocab_write(&v, cases[i].pre, &file);
        if (cases[i].bos >= 0) vocab_key_u32(&file, "tokenizer.ggml.bos_token_id", (uint32_t)cases[i].bos);
        if (cases[i].eos >= 0) vocab_key_u32(&file, "tokenizer.ggml.eos_token_id", (uint32_t)cases[i].eos);
        if (cases[i].add_bos >= 0) vocab_key_bool(&file, "tokenizer.ggml.add_bos_token", cases[i].add_bos != 0);
        if (cases[i].add_eos >= 0) vocab_key_bool(&file, "tokenizer.ggml.add_eos_token", cases[i].add_eos != 0);
        if (!CHECK_MSG(vocab_open(&file, &t, &err) == CACTUS_OK, "%s", err.message)) continue;
        CHECK_STR(ids_of(t, "a", 1, true, false), cases[i].want);
        CHECK_STR(ids_of(t, "a", 1, false, false), "97 ");
        cactus_tokenizer_free(t);
    }
}

/* Two special tokens of the same bytes, which a hostile file can slip in behind a normal one that spells them otherwise. */
TEST(special_tokens_of_equal_bytes)
{
    vocab v;
    vocab_file file;
    cactus_tokenizer *t = NULL;
    static char text[20000]; /* longer than what lies behind the vocabulary's last byte */
    static int32_t ids[sizeof text + 2];
    size_t n_ids = 0;
    text[0] = ' ';
    vocab_init(&v);
    int32_t first = vocab_token(&v, " ", 3);
    vocab_token(&v, " ", 3);
    vocab_write(&v, "gpt-2", &file);
    if (vocab_open(&file, &t, NULL) != CACTUS_OK) return; /* refusing such a file is as good */
    CHECK_INT(cactus_tokenize(t, text, sizeof text, 0, 1, ids, sizeof text + 2, &n_ids, NULL), CACTUS_OK);
    CHECK_UINT(n_ids, sizeof text);
    CHECK_INT(ids[0], first);
    cactus_tokenizer_free(t);
}

TEST(end_tokens)
{
    vocab v;
    vocab_file file;
    cactus_tokenizer *t = NULL;
    cactus_error err = {0};
    vocab_init(&v);
    int32_t eos = vocab_token(&v, "done", 1), im_end = vocab_token(&v, "<|im_end|>", 3);
    int32_t im_start = vocab_token(&v, "<|im_start|>", 3), text = vocab_token(&v, "<|endoftext|>", 3);
    int32_t plain = vocab_token(&v, "<|eot_id|>", 1), eom = vocab_token(&v, "eom", 4);
    vocab_write(&v, "gpt-2", &file);
    vocab_key_u32(&file, "tokenizer.ggml.eos_token_id", (uint32_t)eos);
    vocab_key_u32(&file, "tokenizer.ggml.eom_token_id", (uint32_t)eom);
    if (!CHECK_MSG(vocab_open(&file, &t, &err) == CACTUS_OK, "%s", err.message)) return;
    CHECK(ct_tokenizer_is_end(t, eos));
    CHECK(ct_tokenizer_is_end(t, im_end));
    CHECK(ct_tokenizer_is_end(t, text));
    CHECK(ct_tokenizer_is_end(t, eom));
    CHECK(!ct_tokenizer_is_end(t, im_start));
    CHECK(ct_tokenizer_is_end(t, plain)); /* a known text makes a control token of it */
    CHECK_INT(cactus_token_attributes(t, plain), CACTUS_TOKEN_CONTROL | CACTUS_TOKEN_END);
    CHECK(!ct_tokenizer_is_end(t, -1));
    CHECK(!ct_tokenizer_is_end(t, ct_tokenizer_n_vocab(t)));
    CHECK_INT(cactus_token_attributes(t, im_end), CACTUS_TOKEN_CONTROL | CACTUS_TOKEN_END);
    CHECK_INT(cactus_token_attributes(t, eom), CACTUS_TOKEN_USER_DEFINED | CACTUS_TOKEN_END);
    CHECK_INT(cactus_token_attributes(t, 97), CACTUS_TOKEN_NORMAL);
    CHECK_INT(cactus_token_attributes(t, -1), -1);
    CHECK_INT(cactus_token_attributes(t, ct_tokenizer_n_vocab(t)), -1);
    cactus_tokenizer_info info = {.struct_size = sizeof info};
    CHECK_INT(cactus_tokenizer_get_info(t, &info, &err), CACTUS_OK);
    CHECK_INT(info.eos_id, eos);
    CHECK_INT(info.eot_id, plain); /* the first known end of turn */
    CHECK_INT(info.bos_id, -1);
    CHECK_STR(info.model, "gpt2");
    CHECK_STR(info.pre, "gpt-2");
    cactus_tokenizer_free(t);

    /* where answers end with <|return|> or <|call|>, <|end|> only parts them */
    vocab_init(&v);
    int32_t end = vocab_token(&v, "<|end|>", 3);
    cactus_tokenizer *phi = open_vocab(&v, "gpt-4o");
    CHECK(ct_tokenizer_is_end(phi, end));
    cactus_tokenizer_free(phi);
    int32_t ret = vocab_token(&v, "<|return|>", 3), call = vocab_token(&v, "<|call|>", 3);
    cactus_tokenizer *harmony = open_vocab(&v, "gpt-4o");
    CHECK(!ct_tokenizer_is_end(harmony, end));
    CHECK(ct_tokenizer_is_end(harmony, ret) && ct_tokenizer_is_end(harmony, call));
    cactus_tokenizer_free(harmony);
}

TEST(an_older_callers_info_is_not_overrun)
{
    vocab v;
    vocab_init(&v);
    cactus_tokenizer *t = open_vocab(&v, "gpt-2");
    cactus_error err = {0};
    cactus_tokenizer_info info;
    memset(&info, 0x5A, sizeof info);
    info.struct_size = 8; /* knows n_vocab and no more */
    CHECK_INT(cactus_tokenizer_get_info(t, &info, &err), CACTUS_OK);
    CHECK_INT(info.n_vocab, 256);
    CHECK_INT(info.bos_id, 0x5A5A5A5A);
    info.struct_size = 0;
    CHECK_INT(cactus_tokenizer_get_info(t, &info, &err), CACTUS_ERROR_ARGUMENT);
    cactus_tokenizer_free(t);
    cactus_tokenizer_free(NULL);
}

/* ---- pieces ---- */

TEST(pieces)
{
    vocab v;
    vocab_init(&v);
    int32_t control = vocab_token(&v, "<|x|>", 3), user = vocab_token(&v, "\xC4\xA0y", 4), unused = vocab_token(&v, "[PAD]", 5);
    int32_t byte = vocab_token(&v, "<0x41>", 6), empty = vocab_token(&v, "", 1), unknown = vocab_token(&v, "<unk>", 2);
    int32_t foreign = vocab_token(&v, "\xE4\xB8\xAD", 1), broken = vocab_token(&v, "\xFF\xC4\xA0\xE2\x82", 1);
    const struct {
        int32_t id;
        bool show_special;
        const char *want;
    } cases[] = {
        {32, false, " "},
        {0xE2, false, "\xE2"},
        {control, false, ""},
        {control, true, "<|x|>"},
        {unknown, false, ""},
        {unknown, true, "<unk>"},
        {user, false, "\xC4\xA0y"}, /* added tokens are text, not in the alphabet of bytes */
        {unused, true, ""},
        {byte, false, "A"},
        {empty, true, ""},
        {foreign, false, "\xE4\xB8\xAD"}, /* outside the alphabet: as it is */
        {broken, false, "\xFF \xE2\x82"},
        {-1, true, ""},
        {1000, true, ""},
    };
    cactus_tokenizer *t = open_vocab(&v, "gpt-2");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ct_str piece = ct_tokenizer_piece(t, cases[i].id, cases[i].show_special);
        if (CHECK_UINT(piece.size, strlen(cases[i].want)) && piece.size > 0) CHECK_MEM(piece.data, cases[i].want, piece.size);
    }
    cactus_tokenizer_free(t);
}

TEST(room_that_is_too_small)
{
    vocab v;
    vocab_init(&v);
    cactus_tokenizer *t = open_vocab(&v, "gpt-2");
    int32_t ids[4] = {-7, -7, -7, -7};
    char text[4] = "....";
    size_t n = 0;
    cactus_error err = {0};
    CHECK_INT(cactus_tokenize(t, "abc", 3, 0, 0, ids, 2, &n, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_UINT(n, 3);
    CHECK_INT(ids[0], 97);
    CHECK_INT(ids[1], 98);
    CHECK_INT(ids[2], -7);
    CHECK_CONTAINS(err.message, "3 tokens");
    CHECK_INT(cactus_tokenize(t, "abc", 3, 0, 0, NULL, 0, &n, NULL), CACTUS_ERROR_ARGUMENT);
    CHECK_UINT(n, 3);
    CHECK_INT(cactus_tokenize(t, "", 0, 0, 0, NULL, 0, &n, NULL), CACTUS_OK);
    CHECK_INT(cactus_detokenize(t, (const int32_t[]){97, 98, 99}, 3, 0, text, 2, &n, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_UINT(n, 3);
    CHECK_MEM(text, "ab..", 4);
    CHECK_INT(cactus_detokenize(t, (const int32_t[]){97, 256}, 2, 0, text, 4, &n, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_CONTAINS(err.message, "256");
    CHECK_INT(cactus_detokenize(t, (const int32_t[]){-1}, 1, 0, text, 4, &n, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_INT(cactus_detokenize(t, NULL, 0, 0, NULL, 0, &n, &err), CACTUS_OK);
    CHECK_INT(cactus_tokenize(NULL, "a", 1, 0, 0, ids, 4, &n, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_INT(cactus_tokenize(t, NULL, 1, 0, 0, ids, 4, &n, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_INT(cactus_tokenize(t, "a", 1, 0, 0, ids, 4, NULL, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_INT(cactus_tokenize(t, "a", (size_t)INT32_MAX + 1, 0, 0, ids, 4, &n, &err), CACTUS_ERROR_ARGUMENT);
    cactus_tokenizer_free(t);
    CHECK_INT(cactus_tokenizer_load(NULL, &t, &err), CACTUS_ERROR_ARGUMENT);
    CHECK(t == NULL);
}

/* ---- vocabularies that mean harm ---- */

/* What is wrong with a file, and what must be said of it. */
static void check_refused(vocab_file *file, cactus_status want, const char *part)
{
    cactus_tokenizer *t = NULL;
    cactus_error err = {0};
    CHECK_INT(vocab_open(file, &t, &err), want);
    CHECK_INT(err.code, want);
    CHECK_CONTAINS(err.message, part);
    CHECK(t == NULL);
    cactus_tokenizer_free(t);
}

TEST(merges_that_name_no_token_are_refused)
{
    static const struct {
        const char *merge, *part;
    } cases[] = {
        {"zz a", "left part"},
        {"a zz", "right part"},
        {"a b", "what it makes"},
        {"ab", "two tokens"},
        {"", "two tokens"},
        {" ", "two tokens"},
        {" a", "two tokens"},
        {"a ", "right part"},
        {"a a b", "right part"},
        {"\xFF\x01 a", "\\xff\\x01"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        vocab v;
        vocab_file file;
        vocab_init(&v);
        vocab_merge(&v, "a a", "aa");
        for (int k = 0; k < 40; k++) v.merges[v.n_merges++] = "a a"; /* past the first batch */
        v.merges[v.n_merges++] = cases[i].merge;
        vocab_write(&v, "gpt-2", &file);
        check_refused(&file, CACTUS_ERROR_FORMAT, cases[i].part);
    }
}

TEST(tokens_of_the_same_text_are_refused)
{
    vocab v;
    vocab_file file;
    vocab_init(&v);
    vocab_token(&v, "a", 1);
    vocab_write(&v, "gpt-2", &file);
    check_refused(&file, CACTUS_ERROR_FORMAT, "tokens 97 and 256 are both \"a\"");
    vocab_init(&v);
    vocab_token(&v, "<x>", 3);
    vocab_token(&v, "<x>", 4);
    vocab_write(&v, "gpt-2", &file);
    check_refused(&file, CACTUS_ERROR_FORMAT, "tokens 256 and 257");
}

TEST(other_forms_of_the_same_bytes_and_empty_tokens_are_not)
{
    vocab v;
    vocab_init(&v);
    vocab_merge(&v, "\xC4\xA0 \xC4\xA0", "\xC4\xA0\xC4\xA0");
    int32_t added = vocab_token(&v, "  ", 4);
    vocab_token(&v, "", 1);
    vocab_token(&v, "", 3);
    char want[32];
    cactus_tokenizer *t = open_vocab(&v, "gpt-2");
    snprintf(want, sizeof want, "%d %d 32 ", added, added);
    CHECK_STR(encoded(t, "     "), want);
    cactus_tokenizer_free(t);
}

/* GPT-NeoX's family: merges name the runs of spaces in the alphabet, which the vocabulary has as added tokens only. */
TEST(merges_may_name_added_tokens_by_their_bytes)
{
    vocab v;
    vocab_init(&v);
    int32_t two = vocab_token(&v, "  ", 4);
    v.merges[v.n_merges++] = "\xC4\xA0 \xC4\xA0";
    char want[32];
    cactus_tokenizer *t = open_vocab(&v, "olmo");
    snprintf(want, sizeof want, "97 %d 97 ", two);
    CHECK_STR(encoded(t, "a  a"), want);
    cactus_tokenizer_free(t);
}

TEST(merges_never_make_control_tokens)
{
    vocab v;
    vocab_init(&v);
    int32_t control = vocab_token(&v, "<x", 3);
    v.merges[v.n_merges++] = "< x";
    char want[32];
    cactus_tokenizer *t = open_vocab(&v, "default");
    CHECK_STR(encoded(t, "<x"), "60 120 ");
    snprintf(want, sizeof want, "%d ", control);
    CHECK_STR(encoded_special(t, "<x"), want);
    cactus_tokenizer_free(t);
}

/* SmolLM2 has no token for 21 of the bytes. llama.cpp leaves them out as well, and does not merge what then stands together. */
TEST(bytes_without_a_token_are_left_out)
{
    vocab v;
    vocab_init(&v);
    vocab_merge(&v, "! !", "!!");
    v.tokens[0xFF] = "not a byte";
    cactus_tokenizer *t = open_vocab(&v, "smollm");
    CHECK_STR(encoded(t, "a\xFF" "b\xFF"), "97 98 ");
    CHECK_STR(encoded(t, "\xFF"), "");
    CHECK_STR(encoded(t, "!!!!\xFF!\xFF\xFF!!\xFF"), "256 256 256 33 ");
    cactus_tokenizer_free(t);
}

TEST(keys_that_are_wrong_are_refused)
{
    vocab v;
    vocab_file file;
    const char *a[] = {"a"};
    const int32_t types[] = {1, 1}, bad_type[] = {7};

    vocab_start(&file);
    check_refused(&file, CACTUS_ERROR_FORMAT, "tokenizer.ggml.model");

    vocab_start(&file);
    vocab_key_string(&file, "tokenizer.ggml.model", "plamo2");
    check_refused(&file, CACTUS_ERROR_UNSUPPORTED, "\"plamo2\"");

    vocab_start(&file);
    vocab_key_u32(&file, "tokenizer.ggml.model", 1);
    check_refused(&file, CACTUS_ERROR_FORMAT, "tokenizer.ggml.model");

    vocab_init(&v);
    vocab_write(&v, "gpt-7\x1b[2J", &file);
    check_refused(&file, CACTUS_ERROR_UNSUPPORTED, "gpt-7\\x1b[2J");

    vocab_start(&file);
    vocab_key_string(&file, "tokenizer.ggml.model", "gpt2");
    check_refused(&file, CACTUS_ERROR_FORMAT, "tokenizer.ggml.tokens");

    vocab_start(&file);
    vocab_key_string(&file, "tokenizer.ggml.model", "gpt2");
    vocab_key_strings(&file, "tokenizer.ggml.tokens", NULL, 0);
    check_refused(&file, CACTUS_ERROR_FORMAT, "tokenizer.ggml.tokens");

    vocab_start(&file);
    vocab_key_string(&file, "tokenizer.ggml.model", "gpt2");
    vocab_key_i32s(&file, "tokenizer.ggml.tokens", types, 2);
    check_refused(&file, CACTUS_ERROR_FORMAT, "tokenizer.ggml.tokens");

    vocab_start(&file);
    vocab_key_string(&file, "tokenizer.ggml.model", "gpt2");
    vocab_key_strings(&file, "tokenizer.ggml.tokens", a, 1);
    check_refused(&file, CACTUS_ERROR_FORMAT, "tokenizer.ggml.merges");

    vocab_start(&file);
    vocab_key_string(&file, "tokenizer.ggml.model", "gpt2");
    vocab_key_strings(&file, "tokenizer.ggml.tokens", a, 1);
    vocab_key_i32s(&file, "tokenizer.ggml.token_type", types, 2);
    check_refused(&file, CACTUS_ERROR_FORMAT, "2 entries for 1 tokens");

    vocab_start(&file);
    vocab_key_string(&file, "tokenizer.ggml.model", "gpt2");
    vocab_key_strings(&file, "tokenizer.ggml.tokens", a, 1);
    vocab_key_i32s(&file, "tokenizer.ggml.token_type", bad_type, 1);
    check_refused(&file, CACTUS_ERROR_FORMAT, "token 0 has type 7");

    static const char *const ids[] = {"bos", "eos", "eot", "eom", "padding", "unknown"};
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        char key[64];
        snprintf(key, sizeof key, "tokenizer.ggml.%s_token_id", ids[i]);
        vocab_init(&v);
        vocab_write(&v, "gpt-2", &file);
        vocab_key_u32(&file, key, 256);
        check_refused(&file, CACTUS_ERROR_FORMAT, key);
        vocab_write(&v, "gpt-2", &file);
        vocab_key_u32(&file, key, UINT32_MAX);
        check_refused(&file, CACTUS_ERROR_FORMAT, key);
    }
}

TEST(a_token_that_is_too_long_is_refused)
{
    vocab v;
    vocab_file file;
    char *text = malloc(65537);
    if (!CHECK(text != NULL)) return;
    memset(text, 'x', 65536);
    text[65536] = '\0';
    vocab_init(&v);
    vocab_token(&v, text, 1);
    vocab_write(&v, "gpt-2", &file);
    check_refused(&file, CACTUS_ERROR_FORMAT, "token 256 has 65536 bytes");
    text[65535] = '\0';
    vocab_write(&v, "gpt-2", &file);
    cactus_tokenizer *t = NULL;
    CHECK_INT(vocab_open(&file, &t, NULL), CACTUS_OK);
    cactus_tokenizer_free(t);
    v.types[256] = 3;
    text[1025] = '\0';
    vocab_write(&v, "gpt-2", &file);
    check_refused(&file, CACTUS_ERROR_FORMAT, "special token 256 has 1025 bytes");
    text[1024] = '\0';
    vocab_write(&v, "gpt-2", &file);
    CHECK_INT(vocab_open(&file, &t, NULL), CACTUS_OK);
    cactus_tokenizer_free(t);
    free(text);
}

/* Special tokens that share long beginnings with the text must not make it slow. */
TEST(special_tokens_that_almost_match)
{
    enum { N = 1 << 16 };
    vocab v;
    char almost[130];
    vocab_init(&v);
    memset(almost, 'a', 128);
    memcpy(almost + 128, "b", 2);
    vocab_token(&v, almost, 4);
    int32_t aa = vocab_token(&v, "aa", 4);
    cactus_tokenizer *t = open_vocab(&v, "gpt-2");
    uint8_t *text = malloc(N);
    if (CHECK(text != NULL)) {
        memset(text, 'a', N);
        check_round_trip(t, text, N);
    }
    free(text);
    CHECK_INT(aa, 257);
    cactus_tokenizer_free(t);
}

TEST_MAIN()
