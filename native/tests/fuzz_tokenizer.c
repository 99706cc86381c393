/* fuzz_tokenizer.c: any bytes through tokenizers of every kind of pre-tokenizer. What must hold: the ids are in the vocabulary
 * and never more than n_bytes + 2; decoding them with special tokens shown gives the bytes back; the UTF-8 stream gives the
 * same characters wherever its input is cut.
 *
 * The first byte of the input picks the pre-tokenizer and the options. */
#include "tests/vocab.h"

static const char *const pres[] = {"default", "gpt-2", "smollm", "falcon", "llama-bpe", "qwen2", "qwen35", "minicpm5",
                                   "seed-coder", "ufakzeka", "gpt-4o", "tekken", "deepseek-v3"};
enum { N_PRES = sizeof pres / sizeof pres[0] };
static cactus_tokenizer *tokenizers[N_PRES];

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
    const char *text = (const char *)data + 1;
    check_round_trip(tokenizers[data[0] / 2 % N_PRES], text, size - 1, data[0] % 2 != 0);
    check_stream(text, size - 1, data[0] % size);
    return 0;
}
