/* vocab.h: small GGUF files with a vocabulary, built in memory, for the tests of the tokenizer and its fuzzer. */
#ifndef CT_TESTS_VOCAB_H
#define CT_TESTS_VOCAB_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tokenizer/tokenizer.h"

/* A GGUF v3 file that grows by keys; no tensors. */
typedef struct vocab_file {
    uint8_t *data;
    size_t size, capacity;
    uint64_t n_keys;
} vocab_file;

static inline void vocab_put(vocab_file *f, const void *bytes, size_t n_bytes)
{
    if (f->size + n_bytes > f->capacity) {
        f->capacity = 2 * (f->size + n_bytes);
        f->data = (uint8_t *)realloc(f->data, f->capacity);
        if (f->data == NULL) {
            fprintf(stderr, "test: no memory for %zu bytes\n", f->capacity);
            exit(2);
        }
    }
    memcpy(f->data + f->size, bytes, n_bytes);
    f->size += n_bytes;
}

static inline void vocab_u32(vocab_file *f, uint32_t value) { vocab_put(f, &value, 4); }
static inline void vocab_u64(vocab_file *f, uint64_t value) { vocab_put(f, &value, 8); }

static inline void vocab_string(vocab_file *f, const char *text)
{
    vocab_u64(f, strlen(text));
    vocab_put(f, text, strlen(text));
}

static inline void vocab_key(vocab_file *f, const char *key, ct_gguf_value_type type)
{
    vocab_string(f, key);
    vocab_u32(f, (uint32_t)type);
    f->n_keys++;
}

static inline void vocab_key_string(vocab_file *f, const char *key, const char *value)
{
    vocab_key(f, key, CT_GGUF_STRING);
    vocab_string(f, value);
}

static inline void vocab_key_u32(vocab_file *f, const char *key, uint32_t value)
{
    vocab_key(f, key, CT_GGUF_U32);
    vocab_u32(f, value);
}

static inline void vocab_key_bool(vocab_file *f, const char *key, bool value)
{
    uint8_t byte = value;
    vocab_key(f, key, CT_GGUF_BOOL);
    vocab_put(f, &byte, 1);
}

static inline void vocab_key_strings(vocab_file *f, const char *key, const char *const *items, size_t n)
{
    vocab_key(f, key, CT_GGUF_ARRAY);
    vocab_u32(f, CT_GGUF_STRING);
    vocab_u64(f, n);
    for (size_t i = 0; i < n; i++) vocab_string(f, items[i]);
}

static inline void vocab_key_i32s(vocab_file *f, const char *key, const int32_t *items, size_t n)
{
    vocab_key(f, key, CT_GGUF_ARRAY);
    vocab_u32(f, CT_GGUF_I32);
    vocab_u64(f, n);
    vocab_put(f, items, 4 * n);
}

static inline void vocab_key_f32s(vocab_file *f, const char *key, const float *items, size_t n)
{
    vocab_key(f, key, CT_GGUF_ARRAY);
    vocab_u32(f, CT_GGUF_F32);
    vocab_u64(f, n);
    vocab_put(f, items, 4 * n);
}

static inline void vocab_key_bytes(vocab_file *f, const char *key, const void *bytes, size_t n)
{
    vocab_key(f, key, CT_GGUF_ARRAY);
    vocab_u32(f, CT_GGUF_U8);
    vocab_u64(f, n);
    vocab_put(f, bytes, n);
}

static inline void vocab_start(vocab_file *f)
{
    memset(f, 0, sizeof *f);
    vocab_put(f, "GGUF", 4);
    vocab_u32(f, 3);
    vocab_u64(f, 0); /* tensors */
    vocab_u64(f, 0); /* keys: set by vocab_open */
    vocab_key_string(f, "general.architecture", "llama");
}

/* Opens what has been written and creates its tokenizer; frees the file. */
static inline cactus_status vocab_open(vocab_file *f, cactus_tokenizer **out, cactus_error *err)
{
    memcpy(f->data + 16, &f->n_keys, 8);
    ct_gguf *gguf = NULL;
    *out = NULL;
    cactus_status status = ct_gguf_open_memory(f->data, f->size, &gguf, err);
    if (status == CACTUS_OK) {
        status = ct_tokenizer_create(gguf, out, err);
        ct_gguf_close(gguf);
    }
    free(f->data);
    memset(f, 0, sizeof *f);
    return status;
}

/* GPT-2's character for a byte, as UTF-8: printable Latin-1 is itself, the rest counts up from U+0100. */
static inline void vocab_byte_text(int byte, char out[3])
{
    int code = byte, next = 0x100;
    for (int b = 0; b <= byte; b++) {
        bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xFF && b != 0xAD);
        if (!printable) code = next++;
        if (printable && b == byte) code = b;
    }
    if (code < 0x80) {
        out[0] = (char)code;
        out[1] = '\0';
    } else {
        out[0] = (char)(0xC0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3F));
        out[2] = '\0';
    }
}

/* A vocabulary in the making: 256 bytes (id = byte), then tokens, then merges. */
enum { VOCAB_MAX = 400 };
typedef struct vocab {
    char bytes[256][3];
    const char *tokens[VOCAB_MAX];
    int32_t types[VOCAB_MAX];
    const char *merges[VOCAB_MAX];
    size_t n_tokens, n_merges;
} vocab;

static inline void vocab_init(vocab *v)
{
    memset(v, 0, sizeof *v);
    for (int i = 0; i < 256; i++) {
        vocab_byte_text(i, v->bytes[i]);
        v->tokens[i] = v->bytes[i];
        v->types[i] = 1;
    }
    v->n_tokens = 256;
}

/* Adds a token of a tokenizer.ggml.token_type; returns its id. */
static inline int32_t vocab_token(vocab *v, const char *text, int32_t type)
{
    v->tokens[v->n_tokens] = text;
    v->types[v->n_tokens] = type;
    return (int32_t)v->n_tokens++;
}

/* Adds a merge, and the token that it makes. */
static inline int32_t vocab_merge(vocab *v, const char *merge, const char *made)
{
    v->merges[v->n_merges++] = merge;
    return vocab_token(v, made, 1);
}

/* Writes the three arrays, the model and the pre-tokenizer (NULL: no key). */
static inline void vocab_write(const vocab *v, const char *pre, vocab_file *f)
{
    vocab_start(f);
    vocab_key_string(f, "tokenizer.ggml.model", "gpt2");
    if (pre != NULL) vocab_key_string(f, "tokenizer.ggml.pre", pre);
    vocab_key_strings(f, "tokenizer.ggml.tokens", v->tokens, v->n_tokens);
    vocab_key_i32s(f, "tokenizer.ggml.token_type", v->types, v->n_tokens);
    vocab_key_strings(f, "tokenizer.ggml.merges", v->merges, v->n_merges);
}

/* A vocabulary of pieces with scores, for the models that have them. Ids count from 0 in the order given. */
typedef struct vocab_piece {
    const char *text;
    float score;
    int32_t type;
} vocab_piece;

/* Writes model, tokens, types and scores (those with `scored`); with `bytes`, the 256 byte tokens follow. */
static inline void vocab_write_pieces(const char *model, const vocab_piece *pieces, size_t n, bool scored, bool bytes,
                                      vocab_file *f)
{
    const char *texts[VOCAB_MAX];
    static char hex[256][8];
    int32_t types[VOCAB_MAX];
    float scores[VOCAB_MAX];
    size_t n_all = 0;
    for (; n_all < n; n_all++) {
        texts[n_all] = pieces[n_all].text;
        types[n_all] = pieces[n_all].type;
        scores[n_all] = pieces[n_all].score;
    }
    for (int i = 0; bytes && i < 256; i++, n_all++) {
        snprintf(hex[i], sizeof hex[i], "<0x%02X>", (unsigned)i);
        texts[n_all] = hex[i];
        types[n_all] = 6;
        scores[n_all] = 0;
    }
    vocab_start(f);
    vocab_key_string(f, "tokenizer.ggml.model", model);
    vocab_key_strings(f, "tokenizer.ggml.tokens", texts, n_all);
    vocab_key_i32s(f, "tokenizer.ggml.token_type", types, n_all);
    if (scored) vocab_key_f32s(f, "tokenizer.ggml.scores", scores, n_all);
}

#endif
