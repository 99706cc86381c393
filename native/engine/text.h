/* text.h: the text of a running generation: whole UTF-8 characters, cut at stop strings. */
#ifndef CT_TEXT_H
#define CT_TEXT_H

#include "core/core.h"
#include "tokenizer/tokenizer.h"

typedef struct ct_text {
    ct_utf8_stream utf8;
    char **stops;       /* [n_stops], NUL-terminated copies */
    size_t *stop_bytes; /* [n_stops] */
    size_t n_stops;
    char *held;         /* text that may still turn out to begin a stop string */
    size_t n_held, capacity;
} ct_text;

/* Errors: ARGUMENT (empty stop string), MEMORY. */
cactus_status ct_text_init(ct_text *text, const char *const *stops, size_t n_stops, cactus_error *err);
void ct_text_free(ct_text *text);

/* Adds the bytes of one token. *n_out bytes at text->held are final and may be given away; call ct_text_drop(text, *n_out) afterwards.
 * *stopped: a stop string was found (the final bytes end before it). False when memory is short. */
bool ct_text_push(ct_text *text, const char *bytes, size_t n_bytes, size_t *n_out, bool *stopped);

/* No token follows: everything held is final (an unfinished character becomes U+FFFD). False when memory is short. */
bool ct_text_finish(ct_text *text, size_t *n_out);
void ct_text_drop(ct_text *text, size_t n);

#endif
