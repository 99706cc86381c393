/* fuzz_tokenizer.c: any bytes through tokenizers of every kind of pre-tokenizer and of every model. What must hold: the ids are in
 * the vocabulary, and for bytes never more than n_bytes + 2; decoding them with special tokens shown gives the bytes back where the
 * model keeps them; the same text gives the same ids whether there is room for them or not, and behind itself; any bytes do as a
 * normalising table; the UTF-8 stream gives the same characters wherever its input is cut.
 *
 * The first byte of the input picks the tokenizer and the options. */
#include "tests/vocab.h"

static const char *const pres[] = {"default", "gpt-2", "smollm", "falcon", "llama-bpe", "qwen2", "qwen35", "minicpm5",
                                   "seed-coder", "ufakzeka", "gpt-4o", "tekken", "deepseek-v3", "deepseek-llm", "deepseek-coder",
                                   "kimi-k2", "tiny_aya", "youtu", "exaone-moe", "bloom", "viking", "spark2_5", "laguna", "afmoe"};
static const char *const models[] = {"llama", "t5", "bert", "rwkv", "gemma4"};
enum { N_PRES = sizeof pres / sizeof pres[0], N_MODELS = sizeof models / sizeof models[0], N_FLAGS = 4 };
static cactus_tokenizer *tokenizers[N_PRES];
static cactus_tokenizer *others[N_MODELS][N_FLAGS]; /* by whether spaces go in front, and extra ones away */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds) abort();
}

static cactus_tokenizer *make(const char *pre)
{
    vocab v;
    vocab_file file;
    cactus_tokenizer *tokenizer;
    vocab_init(&v);
    vocab_merge(&v, "a a", "aa");
    vocab_merge(&v, "aa aa", "aaaa");
    vocab_merge(&v, "a b", "ab");
    vocab_merge(&v, "b a", "ba");
    vocab_merge(&v, "ab a", "aba");
    vocab_merge(&v, "\xC4\xA0 \xC4\xA0", "\xC4\xA0\xC4\xA0"); /* two spaces */
    vocab_merge(&v, "\xC4\xA0 a", "\xC4\xA0" "a");
    vocab_merge(&v, "\xC3\x8C \xC4\xA3", "\xC3\x8C\xC4\xA3"); /* U+0301: CC 81 */
    vocab_merge(&v, "1 2", "12");
    vocab_merge(&v, "' s", "'s");
    vocab_token(&v, "<|end|>", 3);
    vocab_token(&v, "<|", 3);
    vocab_token(&v, "<user>", 4);
    vocab_token(&v, "<user>>", 4);
    vocab_token(&v, "<unk>", 2);
    vocab_token(&v, "", 1);
    vocab_write(&v, pre, &file);
    require(vocab_open(&file, &tokenizer, NULL) == CACTUS_OK);
    return tokenizer;
}

static const vocab_piece pieces[] = {
    {"<unk>", 0, 2},      {"<s>", 0, 3},        {"</s>", 0, 3},       {"\xE2\x96\x81", -9, 1}, {"a", -4, 1},
    {"b", -4, 1},         {"ab", -5, 1},        {"ba", -5, 1},        {"aba", -6, 1},          {"\xE2\x96\x81" "a", -3, 1},
    {"aa", -5, 1},        {"\xC3\xA9", -7, 1},  {"\xC3\xA9" "a", -8, 1}, {"\n", -9, 1},          {"\n\n", -9, 1},
    {"<user>", 0, 4},     {"[MASK]", 0, 3},     {"\xE2\x96\x81\xE2\x96\x81", -2, 1}, {"\\xff", -5, 1}, {"gone", -1, 5},
};
enum { N_PIECES = sizeof pieces / sizeof pieces[0] };

static cactus_tokenizer *make_other(const char *model, int flags, const uint8_t *table, size_t n_table)
{
    static const char *const merges[] = {"a b", "b a", "ab a", "a a", "\xC3\xA9 a"};
    vocab_file file;
    cactus_tokenizer *tokenizer;
    bool bert = strcmp(model, "bert") == 0;
    vocab_write_pieces(model, pieces, N_PIECES, true, !bert && flags < 2, &file);
    if (bert) {
        vocab_key_u32(&file, "tokenizer.ggml.cls_token_id", 1);
        vocab_key_u32(&file, "tokenizer.ggml.seperator_token_id", 2);
        vocab_key_u32(&file, "tokenizer.ggml.unknown_token_id", 0);
        vocab_key_bool(&file, "tokenizer.ggml.normalizer.lowercase", flags % 2 == 0);
    }
    if (strcmp(model, "gemma4") == 0) vocab_key_strings(&file, "tokenizer.ggml.merges", merges, sizeof merges / sizeof merges[0]);
    vocab_key_bool(&file, "tokenizer.ggml.add_space_prefix", flags % 2 != 0);
    vocab_key_bool(&file, "tokenizer.ggml.remove_extra_whitespaces", flags == 1 || flags == 2);
    if (table != NULL) vocab_key_bytes(&file, "tokenizer.ggml.precompiled_charsmap", table, n_table);
    cactus_status status = vocab_open(&file, &tokenizer, NULL);
    require(status == CACTUS_OK || (table != NULL && status == CACTUS_ERROR_FORMAT));
    return tokenizer;
}

/* Ids of a text, which the caller frees; they are counted first. */
static int32_t *ids_of(const cactus_tokenizer *tokenizer, const char *text, size_t n_bytes, bool parse_special, size_t *n_ids)
{
    size_t n_counted = 0;
    cactus_status status = cactus_tokenize(tokenizer, text, n_bytes, 1, parse_special, NULL, 0, &n_counted, NULL);
    require(status == (n_counted == 0 ? CACTUS_OK : CACTUS_ERROR_ARGUMENT));
    int32_t *ids = malloc((n_counted + 1) * sizeof *ids);
    require(ids != NULL);
    require(cactus_tokenize(tokenizer, text, n_bytes, 1, parse_special, ids, n_counted, n_ids, NULL) == CACTUS_OK);
    require(*n_ids == n_counted);
    for (size_t i = 0; i < *n_ids; i++) require(ids[i] >= 0 && ids[i] < ct_tokenizer_n_vocab(tokenizer));
    return ids;
}

static void check_other(const cactus_tokenizer *tokenizer, const char *text, size_t n_bytes, bool parse_special)
{
    size_t n_ids = 0, n_back = 0;
    int32_t *ids = ids_of(tokenizer, text, n_bytes, parse_special, &n_ids);
    char *back = malloc(16 * n_ids + 1);
    require(back != NULL);
    require(cactus_detokenize(tokenizer, ids, n_ids, 1, back, 16 * n_ids, &n_back, NULL) == CACTUS_OK);
    free(ids);
    free(back);
}

/* Words met before come from memory: many copies of a text on lines of its own give what one gives. */
static void check_repeated(const cactus_tokenizer *tokenizer, const char *text, size_t n_bytes)
{
    enum { N_COPIES = 20 };
    char *copies = malloc(N_COPIES * (n_bytes + 1));
    require(copies != NULL);
    for (size_t i = 0; i < N_COPIES; i++) {
        if (n_bytes > 0) memcpy(copies + i * (n_bytes + 1), text, n_bytes);
        copies[i * (n_bytes + 1) + n_bytes] = '!';
    }
    size_t n_one = 0, n_many = 0;
    int32_t *one = ids_of(tokenizer, copies, n_bytes + 1, false, &n_one);
    int32_t *many = ids_of(tokenizer, copies, N_COPIES * (n_bytes + 1), false, &n_many);
    for (size_t i = 0; i < N_COPIES && n_one > 2; i++) /* cls and sep go around the whole */
        require(memcmp(many + 1 + i * (n_one - 2), one + 1, (n_one - 2) * sizeof *one) == 0);
    free(one);
    free(many);
    free(copies);
}

static void check_round_trip(const cactus_tokenizer *tokenizer, const char *text, size_t n_bytes, bool parse_special)
{
    size_t n_ids, n_back;
    int32_t *ids = malloc((n_bytes + 2) * sizeof *ids);
    char *back = malloc(n_bytes + 1);
    require(ids != NULL && back != NULL);
    require(cactus_tokenize(tokenizer, text, n_bytes, 0, parse_special, ids, n_bytes + 2, &n_ids, NULL) == CACTUS_OK);
    for (size_t i = 0; i < n_ids; i++) require(ids[i] >= 0 && ids[i] < ct_tokenizer_n_vocab(tokenizer));
    require(cactus_detokenize(tokenizer, ids, n_ids, 1, back, n_bytes, &n_back, NULL) == CACTUS_OK);
    require(n_back == n_bytes && memcmp(back, text, n_bytes) == 0);
    free(ids);
    free(back);
}

static void check_stream(const char *text, size_t n_bytes, size_t cut)
{
    char *whole = malloc(3 * (n_bytes + 3)), *parts = malloc(3 * (n_bytes + 6));
    require(whole != NULL && parts != NULL);
    ct_utf8_stream a = {{0}, 0}, b = {{0}, 0};
    size_t n_whole = ct_utf8_push(&a, text, n_bytes, whole);
    n_whole += ct_utf8_finish(&a, whole + n_whole);
    size_t n_parts = ct_utf8_push(&b, text, cut, parts);
    n_parts += ct_utf8_push(&b, text + cut, n_bytes - cut, parts + n_parts);
    n_parts += ct_utf8_finish(&b, parts + n_parts);
    require(n_whole == n_parts && memcmp(whole, parts, n_whole) == 0);
    free(whole);
    free(parts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    if (tokenizers[0] == NULL)
        for (size_t i = 0; i < N_PRES; i++) tokenizers[i] = make(pres[i]);
    if (others[0][0] == NULL)
        for (int i = 0; i < N_MODELS; i++)
            for (int k = 0; k < N_FLAGS; k++) others[i][k] = make_other(models[i], k, NULL, 0);
    const char *text = (const char *)data + 1;
    size_t choice = data[0] / 2 % (N_PRES + N_MODELS * N_FLAGS + 2);
    if (choice < N_PRES)
        check_round_trip(tokenizers[choice], text, size - 1, data[0] % 2 != 0);
    else if (choice < N_PRES + N_MODELS * N_FLAGS)
        check_other(others[(choice - N_PRES) / N_FLAGS][(choice - N_PRES) % N_FLAGS], text, size - 1, data[0] % 2 != 0);
    else if (choice == N_PRES + N_MODELS * N_FLAGS)
        check_repeated(others[2][0], text, ct_min_size(size - 1, 4096));
    else { /* the beginning is a table, the rest a text */
        size_t n_table = (size - 1) / 2;
        cactus_tokenizer *tokenizer = make_other("t5", data[0] % 2, data + 1, n_table);
        if (tokenizer != NULL) check_other(tokenizer, text + n_table, ct_min_size(size - 1 - n_table, 2048), true);
        cactus_tokenizer_free(tokenizer);
    }
    check_stream(text, size - 1, data[0] % size);
    return 0;
}
