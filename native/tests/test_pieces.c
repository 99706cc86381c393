/* test_pieces.c: tokenizers other than GPT-2's: SentencePiece BPE, unigram, WordPiece, RWKV and raw BPE; the words of every
 * pre-tokenizer; vocabularies and normalising tables that mean harm. */
#include <math.h>

#include "tests/test.h"

#include "tokenizer/internal.h"

#include "tests/vocab.h"

enum { MAX_IDS = 4096 };
#define COUNT(array_) (sizeof(array_) / sizeof(array_)[0])
#define U2581 "\xE2\x96\x81"

/* ---- helpers ---- */

static cactus_tokenizer *open_file(vocab_file *file)
{
    cactus_tokenizer *t = NULL;
    cactus_error err = {0};
    CHECK_MSG(vocab_open(file, &t, &err) == CACTUS_OK, "the tokenizer was refused: %s", err.message);
    return t;
}

static void check_refused(vocab_file *file, cactus_status want, const char *part)
{
    cactus_tokenizer *t = NULL;
    cactus_error err = {0};
    CHECK_INT(vocab_open(file, &t, &err), want);
    CHECK_CONTAINS(err.message, part);
    CHECK(t == NULL);
    cactus_tokenizer_free(t);
}

/* The ids of a text as "1 22 333 "; static storage. */
static const char *ids_of(const cactus_tokenizer *t, const char *text, bool add_special, bool parse_special)
{
    static char shown[8 * MAX_IDS];
    static int32_t ids[MAX_IDS];
    size_t n_ids = 0, at = 0;
    cactus_error err = {0};
    cactus_status status = cactus_tokenize(t, text, strlen(text), add_special, parse_special, ids, MAX_IDS, &n_ids, &err);
    CHECK_MSG(status == CACTUS_OK, "%s", err.message);
    shown[0] = '\0';
    for (size_t i = 0; i < n_ids; i++) at += (size_t)snprintf(shown + at, sizeof shown - at, "%d ", (int)ids[i]);
    return shown;
}

static const char *encoded(const cactus_tokenizer *t, const char *text) { return ids_of(t, text, false, false); }

/* The text of ids that end with -1; static storage. */
static const char *decoded(const cactus_tokenizer *t, const int32_t *ids)
{
    static char text[1024];
    size_t n = 0, n_bytes = 0;
    cactus_error err = {0};
    while (ids[n] >= 0) n++;
    CHECK_MSG(cactus_detokenize(t, ids, n, 0, text, sizeof text - 1, &n_bytes, &err) == CACTUS_OK, "%s", err.message);
    text[n_bytes] = '\0';
    return text;
}

/* ---- SentencePiece BPE ---- */

static const vocab_piece spm_pieces[] = {
    {"<unk>", 0, 2}, {"<s>", 0, 3},   {"</s>", 0, 3},           {U2581, -10, 1},  {"a", -11, 1},
    {"b", -12, 1},   {"c", -13, 1},   {"ab", -2, 1},            {"bc", -1, 1},    {U2581 "a", -3, 1},
    {"abc", -4, 1},  {"<user>", 0, 4}, {U2581 U2581, -5, 1},     {"aa", -6, 1},    {"xyz", 0, 5},
};

static cactus_tokenizer *open_spm(bool bytes, int prefix)
{
    vocab_file file;
    vocab_write_pieces("llama", spm_pieces, COUNT(spm_pieces), true, bytes, &file);
    if (prefix >= 0) vocab_key_bool(&file, "tokenizer.ggml.add_space_prefix", prefix != 0);
    return open_file(&file);
}

TEST(spm_joins_by_score_and_falls_back_to_bytes)
{
    cactus_tokenizer *t = open_spm(true, 0);
    CHECK_STR(encoded(t, "abc"), "10 ");       /* bc has the best score, then a + bc */
    CHECK_STR(encoded(t, "ab"), "7 ");
    CHECK_STR(encoded(t, "aaa"), "13 4 ");     /* leftmost of equals */
    CHECK_STR(encoded(t, " a"), "9 ");
    CHECK_STR(encoded(t, U2581 "a"), "9 ");    /* the written form of the space is a space */
    CHECK_STR(encoded(t, "   a"), "12 9 ");
    CHECK_STR(encoded(t, "d\xC3\xA9"), "115 210 184 "); /* 15 + the byte */
    CHECK_STR(encoded(t, "\xFF" "a"), "270 4 ");
    CHECK_STR(encoded(t, "xyz"), "135 136 137 ");       /* unused tokens never arise */
    CHECK_STR(encoded(t, "<s>"), "75 130 77 ");         /* nor do control tokens */
    CHECK_STR(ids_of(t, "<s>a", false, true), "1 4 ");
    CHECK_STR(encoded(t, "a<user>a"), "4 11 4 ");
    CHECK_STR(ids_of(t, "a", true, false), "1 4 ");
    cactus_tokenizer_free(t);
}

TEST(spm_puts_a_space_in_front)
{
    cactus_tokenizer *t = open_spm(true, -1);
    CHECK_STR(encoded(t, "a"), "9 ");
    CHECK_STR(encoded(t, ""), "");
    CHECK_STR(encoded(t, " a"), "3 9 ");
    CHECK_STR(encoded(t, "a<user>a"), "9 11 9 ");
    CHECK_STR(decoded(t, (const int32_t[]){9, 11, 9, -1}), "a<user> a");
    CHECK_STR(decoded(t, (const int32_t[]){1, 9, 2, -1}), "a");
    CHECK_STR(decoded(t, (const int32_t[]){12, 4, -1}), " a");
    const char *bytes = NULL;
    size_t n_bytes = 0;
    cactus_error err = {0};
    CHECK_INT(cactus_token_bytes(t, 9, &bytes, &n_bytes, &err), CACTUS_OK);
    if (CHECK_UINT(n_bytes, 2)) CHECK_MEM(bytes, " a", 2);
    CHECK_INT(cactus_token_bytes(t, 15 + 256, &bytes, &n_bytes, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_CONTAINS(err.message, "271");
    CHECK_INT(cactus_token_bytes(t, -1, &bytes, &n_bytes, &err), CACTUS_ERROR_ARGUMENT);
    cactus_tokenizer_free(t);
}

TEST(spm_without_byte_tokens_has_unknown_ones)
{
    cactus_tokenizer *t = open_spm(false, 0);
    CHECK_STR(encoded(t, "de\xC3\xA9" "a\xFF\xFE"), "0 4 0 "); /* neighbours are one */
    CHECK_STR(encoded(t, "d"), "0 ");
    cactus_tokenizer_free(t);
}

TEST(spm_removes_spaces_where_the_file_says_so)
{
    vocab_file file;
    vocab_write_pieces("llama", spm_pieces, COUNT(spm_pieces), true, true, &file);
    vocab_key_bool(&file, "tokenizer.ggml.remove_extra_whitespaces", true);
    cactus_tokenizer *t = open_file(&file);
    CHECK_STR(encoded(t, "  a   a  "), "9 9 ");
    CHECK_STR(encoded(t, "   "), "");
    cactus_tokenizer_free(t);
}

/* SentencePiece's own rule, said plainly: of all pairs that make a token, join the leftmost with the best score, again. */
static size_t naive_spm(const vocab_piece *pieces, size_t n_pieces, const char *text, int32_t *ids)
{
    char parts[300][48];
    size_t n = 0;
    for (const char *p = text; *p != '\0'; p++) snprintf(parts[n++], sizeof parts[0], "%c", *p);
    for (;;) {
        size_t best = SIZE_MAX;
        float best_score = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            char both[96];
            snprintf(both, sizeof both, "%.47s%.47s", parts[i], parts[i + 1]);
            for (size_t k = 0; k < n_pieces; k++)
                if (strcmp(pieces[k].text, both) == 0 && (best == SIZE_MAX || pieces[k].score > best_score)) {
                    best = i;
                    best_score = pieces[k].score;
                }
        }
        if (best == SIZE_MAX) break;
        char both[96];
        snprintf(both, sizeof both, "%.47s%.47s", parts[best], parts[best + 1]);
        snprintf(parts[best], sizeof parts[0], "%.47s", both);
        memmove(parts[best + 1], parts[best + 2], (n - best - 2) * sizeof parts[0]);
        n--;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n_pieces; k++)
            if (strcmp(pieces[k].text, parts[i]) == 0) ids[i] = (int32_t)k;
    return n;
}

TEST(spm_equals_the_plain_algorithm)
{
    test_rng rng = {11};
    static char texts[60][8];
    for (int round = 0; round < 60; round++) {
        vocab_piece pieces[60] = {{"a", -50, 1}, {"b", -51, 1}, {"c", -52, 1}};
        size_t n = 3;
        while (n < 40) { /* equal scores on purpose */
            size_t length = 2 + test_below(&rng, 5), k = 0;
            for (size_t i = 0; i < length; i++) texts[n][i] = (char)('a' + test_below(&rng, 3));
            texts[n][length] = '\0';
            while (k < n && strcmp(pieces[k].text, texts[n]) != 0) k++;
            if (k < n) continue;
            pieces[n] = (vocab_piece){texts[n], -(float)test_below(&rng, 12), 1};
            n++;
        }
        vocab_file file;
        vocab_write_pieces("llama", pieces, n, true, true, &file);
        vocab_key_bool(&file, "tokenizer.ggml.add_space_prefix", false);
        cactus_tokenizer *t = open_file(&file);
        for (int trial = 0; trial < 8; trial++) {
            char text[260];
            int32_t ids[260], want[260];
            size_t length = 1 + test_below(&rng, trial < 4 ? 32 : 250), n_ids = 0;
            for (size_t i = 0; i < length; i++) text[i] = (char)('a' + test_below(&rng, 3));
            text[length] = '\0';
            CHECK_INT(cactus_tokenize(t, text, length, 0, 0, ids, 260, &n_ids, NULL), CACTUS_OK);
            if (CHECK_UINT(n_ids, naive_spm(pieces, n, text, want))) CHECK_MEM(ids, want, n_ids * sizeof ids[0]);
        }
        cactus_tokenizer_free(t);
    }
}

/* ---- unigram ---- */

static const vocab_piece unigram_pieces[] = {
    {"<pad>", 0, 3}, {"</s>", 0, 3}, {"<unk>", 0, 2}, {U2581, -2, 1},   {"a", -3, 1},
    {"b", -3, 1},    {"ab", -5.5f, 1}, {"abb", -7, 1},  {U2581 "a", -4, 1}, {"\xC3\xA9", -5, 1},
};

TEST(unigram_takes_the_best_sum)
{
    vocab_file file;
    vocab_write_pieces("t5", unigram_pieces, COUNT(unigram_pieces), true, false, &file);
    cactus_tokenizer *t = open_file(&file);
    CHECK_STR(encoded(t, "ab"), "6 ");            /* -5.5 beats -3 - 3 */
    CHECK_STR(encoded(t, "abb"), "7 ");           /* -7 beats -8.5 and -9 */
    CHECK_STR(encoded(t, " ab"), "8 5 ");         /* -4 - 3 beats -2 - 5.5 */
    CHECK_STR(encoded(t, "zz" "a\xFF"), "2 4 2 "); /* unknown neighbours are one */
    CHECK_STR(encoded(t, "\xC3\xA9"), "9 ");
    CHECK_STR(ids_of(t, "a", true, false), "4 1 ");
    CHECK_STR(ids_of(t, "a</s>a", false, true), "4 1 4 ");
    cactus_tokenizer_free(t);

    vocab_write_pieces("t5", unigram_pieces, COUNT(unigram_pieces), true, true, &file);
    vocab_key_bool(&file, "tokenizer.ggml.add_space_prefix", true);
    vocab_key_bool(&file, "tokenizer.ggml.remove_extra_whitespaces", true);
    t = open_file(&file);
    CHECK_STR(encoded(t, "  a  b "), "8 3 5 ");
    CHECK_STR(encoded(t, "z"), "3 132 ");
    CHECK_STR(encoded(t, "    "), "");
    CHECK_STR(decoded(t, (const int32_t[]){8, 3, 5, 1, -1}), "a b");
    cactus_tokenizer_free(t);

    vocab_write_pieces("t5", unigram_pieces, COUNT(unigram_pieces), true, false, &file);
    vocab_key_bool(&file, "tokenizer.ggml.add_space_prefix", true);
    vocab_key_bool(&file, "tokenizer.ggml.treat_whitespace_as_suffix", true);
    t = open_file(&file);
    CHECK_STR(encoded(t, "ab"), "6 3 ");
    CHECK_STR(decoded(t, (const int32_t[]){6, 3, -1}), "ab");
    cactus_tokenizer_free(t);
}

/* A charsmap that turns "A" into "a", "AB" into "" and "z" into "bb": units by hand. The root's children lie at 256 ^ byte; a node's
 * at its own place ^ its offset, the value at that place ^ 0. */
static size_t make_charsmap(uint8_t *out)
{
    enum { N_UNITS = 1024 };
    uint32_t units[N_UNITS] = {0}, n_bytes = sizeof units;
    const char replacements[] = "a\0\0bb"; /* offsets 0: "a", 2: "", 3: "bb" */
    units[0] = 256u << 10;
    units[256 ^ 'A'] = 'A' | 1u << 8 | (512u << 10);
    units[(256 ^ 'A') ^ 512] = 1u << 31 | 0;
    units[(256 ^ 'A') ^ 512 ^ 'B'] = 'B' | 1u << 8 | (256u << 10);
    units[((256 ^ 'A') ^ 512 ^ 'B') ^ 256] = 1u << 31 | 2;
    units[256 ^ 'z'] = 'z' | 1u << 8 | (384u << 10);
    units[(256 ^ 'z') ^ 384] = 1u << 31 | 3;
    memcpy(out, &n_bytes, 4);
    memcpy(out + 4, units, sizeof units);
    memcpy(out + 4 + sizeof units, replacements, sizeof replacements);
    return 4 + sizeof units + sizeof replacements;
}

TEST(unigram_normalises_by_the_files_table)
{
    static uint8_t map[8192];
    size_t n = make_charsmap(map);
    vocab_file file;
    vocab_write_pieces("t5", unigram_pieces, COUNT(unigram_pieces), true, false, &file);
    vocab_key_bytes(&file, "tokenizer.ggml.precompiled_charsmap", map, n);
    cactus_tokenizer *t = open_file(&file);
    CHECK_STR(encoded(t, "A"), "4 ");
    CHECK_STR(encoded(t, "az"), "7 ");        /* abb */
    CHECK_STR(encoded(t, "AAB" "A"), "4 4 "); /* the longest replacement counts: AB is nothing */
    CHECK_STR(encoded(t, "AB"), "");
    CHECK_STR(encoded(t, "\xC3"), "2 ");      /* U+FFFD, which has no token */
    cactus_tokenizer_free(t);
}

TEST(tables_that_mean_harm)
{
    static uint8_t map[8192];
    static const struct {
        size_t n_bytes;
        uint32_t n_array;
        const char *part;
    } cases[] = {{3, 4, "does not fit"}, {4, 0, "does not fit"}, {64, 0, "does not fit"}, {64, 60, "does not fit"},
                 {64, 6, "does not fit"}, {64, 0xFFFFFFFC, "does not fit"}, {64, 16, "NUL"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        vocab_file file;
        memset(map, 1, sizeof map);
        memcpy(map, &cases[i].n_array, 4);
        vocab_write_pieces("t5", unigram_pieces, COUNT(unigram_pieces), true, false, &file);
        vocab_key_bytes(&file, "tokenizer.ggml.precompiled_charsmap", map, cases[i].n_bytes);
        check_refused(&file, CACTUS_ERROR_FORMAT, cases[i].part);
    }
    vocab_file file;
    uint32_t n_array = 16;
    memset(map, 1, sizeof map);
    memcpy(map, &n_array, 4);
    map[sizeof map - 1] = 0;
    vocab_write_pieces("t5", unigram_pieces, COUNT(unigram_pieces), true, false, &file);
    vocab_key_bytes(&file, "tokenizer.ggml.precompiled_charsmap", map, sizeof map);
    check_refused(&file, CACTUS_ERROR_FORMAT, "1024 bytes");
    vocab_write_pieces("t5", unigram_pieces, COUNT(unigram_pieces), true, false, &file);
    vocab_key_u32(&file, "tokenizer.ggml.precompiled_charsmap", 1);
    check_refused(&file, CACTUS_ERROR_FORMAT, "array of bytes");

    /* Any units may be walked; replacements of any offset may be asked for. */
    test_rng rng = {5};
    for (int round = 0; round < 200; round++) {
        uint32_t n_units = 1 + (uint32_t)test_below(&rng, 600), size = 4 * n_units;
        for (size_t i = 0; i < sizeof map; i++) map[i] = (uint8_t)test_below(&rng, 256);
        for (uint32_t i = 0; i < n_units; i++) { /* labels that lead on, offsets that stay near */
            uint32_t unit = (uint32_t)test_below(&rng, 256) | (uint32_t)test_below(&rng, 2) << 8 | (uint32_t)test_below(&rng, 1024) << 10;
            if (round % 2 != 0) memcpy(map + 4 + 4 * i, &unit, 4);
        }
        memcpy(map, &size, 4);
        for (size_t i = 4 + size; i < sizeof map; i += 100) map[i] = 0;
        size_t n = 4 + size + 1 + test_below(&rng, 700);
        map[n - 1] = 0;
        vocab_write_pieces("t5", unigram_pieces, COUNT(unigram_pieces), true, round % 3 == 0, &file);
        vocab_key_bytes(&file, "tokenizer.ggml.precompiled_charsmap", map, n);
        cactus_tokenizer *t = open_file(&file);
        for (int trial = 0; trial < 20; trial++) {
            char text[64];
            int32_t ids[1];
            size_t n_ids;
            for (size_t i = 0; i < sizeof text; i++) text[i] = (char)test_below(&rng, 256);
            cactus_tokenize(t, text, sizeof text, 0, 0, ids, 1, &n_ids, NULL);
            CHECK(n_ids <= 64 * 1024);
        }
        cactus_tokenizer_free(t);
    }
}

TEST(scores_that_are_wrong_are_refused)
{
    vocab_piece pieces[COUNT(spm_pieces)];
    static const char *const names[] = {"llama", "t5"};
    for (int k = 0; k < 2; k++) {
        vocab_file file;
        memcpy(pieces, spm_pieces, sizeof pieces);
        vocab_write_pieces(names[k], pieces, COUNT(pieces), false, false, &file);
        check_refused(&file, CACTUS_ERROR_FORMAT, "tokenizer.ggml.scores");
        vocab_write_pieces(names[k], pieces, COUNT(pieces), false, false, &file);
        vocab_key_f32s(&file, "tokenizer.ggml.scores", (const float[]){1, 2}, 2);
        check_refused(&file, CACTUS_ERROR_FORMAT, "2 entries for 15 tokens");
        pieces[7].score = k == 0 ? NAN : -INFINITY;
        vocab_write_pieces(names[k], pieces, COUNT(pieces), true, false, &file);
        check_refused(&file, CACTUS_ERROR_FORMAT, "token 7");
    }
}

/* ---- WordPiece ---- */

static const vocab_piece wordpiece_pieces[] = {
    {"[PAD]", 0, 3},    {"[UNK]", 0, 3},     {"[CLS]", 0, 3},  {"[SEP]", 0, 3},           {"[MASK]", 0, 3},
    {U2581 "un", 0, 1}, {"aff", 0, 1},       {"able", 0, 1},   {U2581 "aff", 0, 1},       {U2581 "!", 0, 1},
    {U2581 "e", 0, 1},  {U2581 "a", 0, 1},   {"a", 0, 1},      {U2581 "\xE4\xB8\xAD", 0, 1}, {U2581 "'", 0, 1},
    {U2581 "s", 0, 1},  {"\xE1\x86\xA8", 0, 1}, {U2581 "\xE1\x84\x80", 0, 1}, {"\xE1\x85\xA1", 0, 1}, {U2581 "\xC3\xA9", 0, 1},
};

static void name_wordpiece_ids(vocab_file *file)
{
    vocab_key_u32(file, "tokenizer.ggml.cls_token_id", 2);
    vocab_key_u32(file, "tokenizer.ggml.seperator_token_id", 3);
    vocab_key_u32(file, "tokenizer.ggml.unknown_token_id", 1);
    vocab_key_u32(file, "tokenizer.ggml.mask_token_id", 4);
}

TEST(wordpiece_takes_the_longest_from_the_left)
{
    vocab_file file;
    vocab_write_pieces("bert", wordpiece_pieces, COUNT(wordpiece_pieces), false, false, &file);
    name_wordpiece_ids(&file);
    cactus_tokenizer *t = open_file(&file);
    cactus_tokenizer_info info = {.struct_size = sizeof info};
    CHECK_INT(cactus_tokenizer_get_info(t, &info, NULL), CACTUS_OK);
    CHECK_INT(info.bos_id, 2);
    CHECK_INT(info.sep_id, 3);
    CHECK_INT(info.mask_id, 4);
    CHECK_INT(info.eos_id, -1);
    CHECK_INT(info.add_sep, 1);
    CHECK_STR(encoded(t, "unaffable"), "5 6 7 ");
    CHECK_STR(encoded(t, "UNaff  \t aff"), "5 6 8 ");
    CHECK_STR(encoded(t, "unx aff"), "1 8 ");             /* a word that does not come out even is unknown */
    CHECK_STR(encoded(t, "aff!un"), "8 9 5 ");
    CHECK_STR(encoded(t, "\xC3\x89"), "10 ");             /* E with its accent, in one */
    CHECK_STR(encoded(t, "e\xCC\x81"), "10 ");            /* and in two characters */
    CHECK_STR(encoded(t, "\xCC\x81"), "");
    CHECK_STR(encoded(t, "a\xE4\xB8\xAD" "a"), "11 13 11 "); /* ideographs stand alone */
    CHECK_STR(encoded(t, "\xEA\xB0\x81"), "17 18 16 ");   /* Hangul falls into its letters */
    CHECK_STR(encoded(t, "a\x0B\xC2\x85\xE2\x80\x8B" "a\xFF"), "11 12 "); /* controls go, and what is not UTF-8 */
    CHECK_STR(encoded(t, "a\xEF\xBF\xBD\xEE\x80\x80" "a"), "11 12 ");
    CHECK_STR(ids_of(t, "aff", true, false), "2 8 3 ");
    CHECK_STR(ids_of(t, "a[MASK]a", false, true), "11 4 11 ");
    CHECK_STR(encoded(t, "[MASK]"), "1 1 1 ");
    CHECK_STR(decoded(t, (const int32_t[]){2, 5, 6, 9, 11, 14, 15, 3, -1}), "unaff! a's");
    CHECK_STR(decoded(t, (const int32_t[]){11, 14, 11, -1}), "a'a");
    char word[104];
    memset(word, 'a', sizeof word);
    for (int n = 100; n <= 101; n++) { /* longer words than 100 characters are unknown */
        int32_t ids[104];
        size_t n_ids = 0;
        CHECK_INT(cactus_tokenize(t, word, (size_t)n, 0, 0, ids, 104, &n_ids, NULL), CACTUS_OK);
        CHECK_UINT(n_ids, n == 100 ? 100 : 1);
        CHECK_INT(ids[0], n == 100 ? 11 : 1);
    }
    cactus_tokenizer_free(t);

    vocab_write_pieces("bert", wordpiece_pieces, COUNT(wordpiece_pieces), false, false, &file);
    name_wordpiece_ids(&file);
    vocab_key_bool(&file, "tokenizer.ggml.normalizer.lowercase", false);
    t = open_file(&file);
    CHECK_STR(encoded(t, "A"), "1 ");
    CHECK_STR(encoded(t, "\xC3\xA9"), "19 "); /* accents stay where the case does */
    cactus_tokenizer_free(t);
}

/* ---- RWKV, raw BPE ---- */

TEST(rwkv_takes_the_longest)
{
    static const vocab_piece pieces[] = {{"<s>", 0, 3}, {"a", 0, 1}, {"ab", 0, 1}, {"abcd", 0, 1}, {"b", 0, 1}, {"c", 0, 1},
                                         {"\\n", 0, 1}, {"\\xff\\x00", 0, 1}, {"\\\\", 0, 1}};
    vocab_file file;
    vocab_write_pieces("rwkv", pieces, COUNT(pieces), false, false, &file);
    cactus_tokenizer *t = open_file(&file);
    CHECK_STR(encoded(t, "abcabcd"), "2 5 3 ");
    CHECK_STR(encoded(t, "\n\\"), "6 8 ");
    CHECK_STR(encoded(t, "azb"), "1 4 "); /* no token, and none for the unknown */
    int32_t ids[2];
    size_t n_ids = 0;
    CHECK_INT(cactus_tokenize(t, "\xFF\0", 2, 0, 0, ids, 2, &n_ids, NULL), CACTUS_OK);
    CHECK_UINT(n_ids, 1);
    CHECK_INT(ids[0], 7);
    cactus_tokenizer_free(t);
}

TEST(raw_bpe_starts_from_characters)
{
    static const vocab_piece pieces[] = {{"<pad>", 0, 3}, {"<bos>", 0, 3}, {U2581, 0, 1}, {"a", 0, 1}, {"\xC3\xA9", 0, 1},
                                         {U2581 "a", 0, 1}, {"a\xC3\xA9", 0, 1}, {"\n", 0, 1}, {"\n\n", 0, 1}};
    static const char *const merges[] = {U2581 " a", "a \xC3\xA9"};
    vocab_file file;
    vocab_write_pieces("gemma4", pieces, COUNT(pieces), false, true, &file);
    vocab_key_strings(&file, "tokenizer.ggml.merges", merges, COUNT(merges));
    vocab_key_u32(&file, "tokenizer.ggml.bos_token_id", 1);
    vocab_key_bool(&file, "tokenizer.ggml.add_bos_token", false); /* such files are wrong */
    cactus_tokenizer *t = open_file(&file);
    CHECK_STR(ids_of(t, " a", true, false), "1 5 ");
    CHECK_STR(encoded(t, "a\xC3\xA9"), "6 ");
    CHECK_STR(encoded(t, U2581 "a"), "5 ");
    CHECK_STR(encoded(t, "\n\n"), "8 "); /* no merge leads there */
    CHECK_STR(encoded(t, "\n\n\n"), "7 7 7 ");
    CHECK_STR(encoded(t, "a\xC3\xA8\xFF"), "3 204 177 264 "); /* 9 + the byte */
    CHECK_STR(decoded(t, (const int32_t[]){5, 204, 177, -1}), " a\xC3\xA8");
    cactus_tokenizer_free(t);
}

/* ---- white space next to special tokens ---- */

TEST(some_models_tokens_take_the_space_next_to_them)
{
    static const struct {
        const char *key, *value, *text, *want;
    } cases[] = {
        {"general.name", "Phi-3 mini", "a<user> \n a", "4 11 4 "}, /* and what is right of it */
        {"general.name", "Phi-2", "a<user> a", "4 11 9 "},
        {"tokenizer.ggml.pre", "jina-v2-de", "a <mask> a", "4 15 9 "}, /* what is left of it */
        {"tokenizer.ggml.pre", "default", "a <mask> a", "4 3 15 9 "},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        vocab_piece pieces[COUNT(spm_pieces) + 1];
        vocab_file file;
        memcpy(pieces, spm_pieces, sizeof spm_pieces);
        pieces[COUNT(spm_pieces)] = (vocab_piece){"<mask>", 0, 4};
        vocab_write_pieces("llama", pieces, COUNT(pieces), true, true, &file);
        vocab_key_bool(&file, "tokenizer.ggml.add_space_prefix", false);
        vocab_key_string(&file, cases[i].key, cases[i].value);
        cactus_tokenizer *t = open_file(&file);
        CHECK_STR(encoded(t, cases[i].text), cases[i].want);
        cactus_tokenizer_free(t);
    }
}

TEST(the_end_of_a_line_that_is_struck_out_is_text)
{
    vocab_piece pieces[COUNT(spm_pieces)];
    vocab_file file;
    memcpy(pieces, spm_pieces, sizeof pieces);
    pieces[2].type = 4;
    pieces[11].text = "<end_of_turn>"; /* ends a turn though its type does not say so */
    vocab_write_pieces("llama", pieces, COUNT(pieces), true, true, &file);
    vocab_key_bool(&file, "tokenizer.ggml.add_space_prefix", false);
    vocab_key_u32(&file, "tokenizer.ggml.eos_token_id", 1);
    cactus_tokenizer *t = open_file(&file);
    CHECK_STR(encoded(t, "a</s>"), "4 2 ");
    CHECK(!ct_tokenizer_is_end(t, 2));
    CHECK(ct_tokenizer_is_end(t, 11));
    CHECK_INT(cactus_token_attributes(t, 11), CACTUS_TOKEN_CONTROL | CACTUS_TOKEN_END);
    cactus_tokenizer_free(t);
}

/* ---- words ---- */

static cactus_status note_word(void *ctx, const uint8_t *word, size_t n_bytes)
{
    char *shown = ctx;
    size_t n = strlen(shown);
    if (n > 0) shown[n++] = '|';
    memcpy(shown + n, word, n_bytes);
    shown[n + n_bytes] = '\0';
    return CACTUS_OK;
}

/* The words that the expressions of the models' tokenizer.json find (checked with the Python package regex). */
TEST(words_of_each_pre_tokenizer)
{
    static const struct {
        const char *pre, *words;
    } cases[] = {
        {"kimi-k2", "\xE4\xB8\xAD\xE6\x96\x87|abc|\xE4\xB8\xAD| Don't| |123|4"},
        {"kimi-k2", "\xE3\x80\x87|Camel|Case|!\n"},
        {"gpt-4o", "Camel|Case's|/\n|\xE4\xB8\xAD" "a"},
        {"tiny_aya", "123|456|7|a| |1|234|.|567"},
        {"tiny_aya", "123|4|_|12"},
        {"afmoe", "1|234|567|abc| ok|\xE0\xB9\x80\xE0\xB9\x81|x"},
        {"exaone-moe", "two words here|,| and more| |1|2|!\n"},
        {"laguna", "a|\n\n|'s| b"},
        {"gemma4", "a b  c|\n\n|d"},
        {"bloom", "one| two|,| three| (|x"},
        {"viking", "a|1|2| b|1"},
        {"youtu", "\xED\x95\x9C\xEA\xB5\xAD|\xE4\xB8\xAD|\xEF\xBC\x8C|Ab|Cd|1|2"},
        {"deepseek-llm", "\n|\n| Hello|,| w|\xC3\xA4|1234|\xE4\xB8\xAD|  "},
        {"deepseek-coder", "\n|\n| Hello|,| w\xC3\xA4|1|2|\xE4\xB8\xAD|  "},
        {"deepseek-v3", "123|4|abc|.abc| \xE2\x82\xAC\n"},
        {"spark2_5", "1|2|3|4|.abc| !|\n|\n"},
        {"roberta-bpe", "it|'s| ok|  | fine"},
        {"qwen2", "it|'s| ok| | fine|1|2"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char text[128], shown[256] = "";
        size_t n = 0;
        for (const char *p = cases[i].words; *p != '\0'; p++)
            if (*p != '|') text[n++] = *p;
        const ct_pretokenizer *pre = ct_pretokenizer_find((ct_str){cases[i].pre, strlen(cases[i].pre)});
        if (!CHECK_MSG(pre != NULL, "%s is not known", cases[i].pre)) continue;
        CHECK_INT(ct_pretokenize(pre, (const uint8_t *)text, n, note_word, shown), CACTUS_OK);
        CHECK_MSG(strcmp(shown, cases[i].words) == 0, "%s: \"%s\", not \"%s\"", cases[i].pre, shown, cases[i].words);
    }
}

/* ---- time ---- */

/* Texts that have no seams, no end of words or no end of digits: 128 KB each take milliseconds, where a step of
 * quadratic cost would take half a minute. */
TEST(long_texts_take_linear_time)
{
    enum { N = 1 << 17 };
    static const char *const units[] = {"a", "ab", " ", "1", "\xCC\x81", "z", "\xFF", "<", "A", "\n"};
    static uint8_t map[8192];
    size_t n_map = make_charsmap(map);
    char *text = malloc(N + 8);
    int32_t *ids = malloc((4 * N) * sizeof *ids);
    if (!CHECK(text != NULL && ids != NULL)) exit(2);
    for (int kind = 0; kind < 5; kind++) {
        vocab_file file;
        static const char *const raw_merges[] = {"a a"};
        if (kind == 0) vocab_write_pieces("llama", spm_pieces, COUNT(spm_pieces), true, true, &file);
        if (kind == 1) {
            vocab_write_pieces("t5", unigram_pieces, COUNT(unigram_pieces), true, true, &file);
            vocab_key_bytes(&file, "tokenizer.ggml.precompiled_charsmap", map, n_map);
        }
        if (kind == 2) {
            vocab_write_pieces("bert", wordpiece_pieces, COUNT(wordpiece_pieces), false, false, &file);
            name_wordpiece_ids(&file);
        }
        if (kind == 3) vocab_write_pieces("rwkv", unigram_pieces + 3, 5, false, false, &file);
        if (kind == 4) {
            vocab_write_pieces("gemma4", spm_pieces, COUNT(spm_pieces), false, true, &file);
            vocab_key_strings(&file, "tokenizer.ggml.merges", raw_merges, 1);
        }
        cactus_tokenizer *t = open_file(&file);
        for (size_t u = 0; u < COUNT(units); u++) {
            size_t n = 0, n_ids = 0;
            for (size_t size = strlen(units[u]); n + size <= N; n += size) memcpy(text + n, units[u], size);
            CHECK_INT(cactus_tokenize(t, text, n, 0, 0, ids, 4 * N, &n_ids, NULL), CACTUS_OK);
        }
        cactus_tokenizer_free(t);
    }
    for (const char *const *pre = (const char *const[]){"tiny_aya", "afmoe", "kimi-k2", "exaone-moe", "bloom", "youtu", "deepseek-llm",
                                                        "deepseek-coder", "spark2_5", "laguna", "gemma4", NULL}; *pre != NULL; pre++) {
        vocab v;
        vocab_init(&v);
        vocab_file file;
        vocab_merge(&v, "a a", "aa");
        if (strcmp(*pre, "gemma4") == 0) continue;
        vocab_write(&v, *pre, &file);
        cactus_tokenizer *t = open_file(&file);
        for (size_t u = 0; u < COUNT(units); u++) {
            size_t n = 0, n_ids = 0;
            for (size_t size = strlen(units[u]); n + size <= N; n += size) memcpy(text + n, units[u], size);
            CHECK_INT(cactus_tokenize(t, text, n, 0, 0, ids, 4 * N, &n_ids, NULL), CACTUS_OK);
            CHECK(n_ids > 0);
        }
        cactus_tokenizer_free(t);
    }
    free(text);
    free(ids);
}

TEST(tokens_that_are_too_long_to_search_for_are_refused)
{
    char text[600];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    vocab_piece pieces[] = {{"<unk>", 0, 2}, {text, 0, 1}};
    static const char *const names[] = {"t5", "bert", "rwkv"};
    for (size_t i = 0; i < COUNT(names); i++) {
        vocab_file file;
        vocab_write_pieces(names[i], pieces, 2, true, false, &file);
        check_refused(&file, CACTUS_ERROR_FORMAT, "599 bytes");
    }
}

TEST_MAIN()
