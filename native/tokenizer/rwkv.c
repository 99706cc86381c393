/* rwkv.c: RWKV's tokens (tokenizer.ggml.model "rwkv"): the longest one at each place. In the file they are written with the
 * escapes \t, \n, \r, \xNN and \c for any other c. A byte that begins no token becomes the unknown token, if there is one. */
#include "tokenizer/internal.h"

typedef struct rwkv {
    ct_vocab_index index;
    ct_prefixes prefixes;
} rwkv;

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static size_t decode(ct_str text, uint8_t *out)
{
    size_t n = 0;
    for (size_t i = 0; i < text.size; i++) {
        char c = text.data[i];
        if (c != '\\' || i + 1 == text.size) {
            out[n++] = (uint8_t)c;
            continue;
        }
        c = text.data[++i];
        if (c == 'x' && i + 2 < text.size && hex(text.data[i + 1]) >= 0 && hex(text.data[i + 2]) >= 0) {
            out[n++] = (uint8_t)(hex(text.data[i + 1]) << 4 | hex(text.data[i + 2]));
            i += 2;
        } else
            out[n++] = c == 't' ? '\t' : c == 'n' ? '\n' : c == 'r' ? '\r' : (uint8_t)c;
    }
    return n;
}

static void unload(void *state)
{
    rwkv *r = state;
    if (r == NULL) return;
    ct_free(r->index.slots);
    ct_free(r->prefixes.bits);
    ct_free(r);
}

static cactus_status load(cactus_tokenizer *tokenizer, const ct_gguf *gguf, ct_vocab_index *index, cactus_error *err)
{
    (void)gguf;
    const ct_vocab *vocab = &tokenizer->vocab;
    rwkv *r = ct_alloc(1, sizeof *r);
    if (r == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for a tokenizer");
    cactus_status status = ct_prefixes_init(&r->prefixes, vocab, err);
    if (status != CACTUS_OK) {
        unload(r);
        return status;
    }
    r->index = *index;
    index->slots = NULL;
    tokenizer->state = r;
    return CACTUS_OK;
}

static cactus_status encode(const cactus_tokenizer *tokenizer, const uint8_t *text, size_t n_bytes, ct_word_cache *cache,
                            ct_id_sink *sink, cactus_error *err)
{
    (void)cache;
    (void)err;
    const rwkv *r = tokenizer->state;
    const ct_vocab *vocab = &tokenizer->vocab;
    for (const uint8_t *end = text + n_bytes, *next = text; text < end; text = next) {
        int32_t longest = -1;
        uint64_t hash = r->prefixes.seed;
        for (const uint8_t *q = text; q < end;) {
            hash = ct_prefix_step(hash, *q++);
            if (!ct_prefixes_has(&r->prefixes, hash)) break;
            int32_t id = ct_vocab_find(vocab, &r->index, text, (size_t)(q - text));
            if (id < 0 || !ct_vocab_is_text(vocab, id)) continue;
            longest = id;
            next = q;
        }
        if (longest < 0) {
            longest = tokenizer->unk_id;
            next = text + 1;
        }
        if (longest >= 0) ct_put_id(sink, longest);
    }
    return CACTUS_OK;
}

const ct_tokenizer_model ct_rwkv_model = {.name = "rwkv",
                                          .bos_id = -1,
                                          .eos_id = -1,
                                          .unk_id = -1,
                                          .sep_id = -1,
                                          .pad_id = -1,
                                          .decode = decode,
                                          .load = load,
                                          .unload = unload,
                                          .encode = encode};
