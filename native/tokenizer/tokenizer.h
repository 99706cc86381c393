/* tokenizer.h: text <-> token ids, from the vocabulary of a GGUF file. The public functions are in cactus.h; this is what the
 * rest of the engine uses besides. */
#ifndef CT_TOKENIZER_H
#define CT_TOKENIZER_H

#include "gguf/gguf.h"

/* Builds the tokenizer of an open file. Strings are copied: the file may be closed afterwards.
 * Errors: FORMAT (missing or inconsistent arrays, merges that name no token, ids out of range …), UNSUPPORTED (tokenizer model or
 * pre-tokenizer, named), MEMORY. */
cactus_status ct_tokenizer_create(const ct_gguf *gguf, cactus_tokenizer **out, cactus_error *err);

int32_t ct_tokenizer_n_vocab(const cactus_tokenizer *tokenizer);

/* True for tokens that end generation: eos, end of turn, end of message. */
bool ct_tokenizer_is_end(const cactus_tokenizer *tokenizer, int32_t id);

/* Bytes of one token as they appear in running text; control tokens have none unless show_special. The bytes live as long as the
 * tokenizer. An id out of range has none. */
ct_str ct_tokenizer_piece(const cactus_tokenizer *tokenizer, int32_t id, bool show_special);

/* Streaming text: bytes go in token by token, whole UTF-8 characters come out. Bytes that can never become UTF-8 come out as
 * U+FFFD, as Python's bytes.decode("utf-8", errors="replace") would put them. Starts zeroed; owns no memory. */
typedef struct ct_utf8_stream {
    uint8_t pending[4];
    uint8_t n_pending;
} ct_utf8_stream;

/* Appends the characters that `bytes` completes to out (capacity at least 3 * (n_bytes + 3)); returns how many bytes were written. */
size_t ct_utf8_push(ct_utf8_stream *stream, const char *bytes, size_t n_bytes, char *out);

/* Writes what is still pending as U+FFFD (at most 3 bytes ever); returns how many bytes were written. */
size_t ct_utf8_finish(ct_utf8_stream *stream, char *out);

#endif
