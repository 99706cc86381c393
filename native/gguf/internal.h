/* internal.h: what the files of gguf/ share. */
#ifndef CT_GGUF_INTERNAL_H
#define CT_GGUF_INTERNAL_H

#include "gguf/gguf.h"

enum {
    CT_SHOWN_CHARS = 64,                     /* of a name or value in a message */
    CT_SHOWN_BYTES = 4 * CT_SHOWN_CHARS + 4, /* with "…" and NUL */
    CT_LABEL_CHARS = 160
};

struct ct_gguf {
    char label[4 * CT_LABEL_CHARS + 4]; /* the file's path, printable: messages start with it */
    ct_file *files;                     /* [n_files] maps to undo; none for bytes in memory */
    size_t n_files;
    uint64_t file_bytes;
    size_t n_kv, n_tensors;
    ct_gguf_kv *kv;                         /* [n_kv] in the file's order */
    ct_gguf_tensor *tensors;                /* [n_tensors] in the file's order, part after part */
    const ct_gguf_kv **kv_by_key;           /* [n_kv] sorted */
    const ct_gguf_tensor **tensors_by_name; /* [n_tensors] sorted */
};

/* Ends the sentence "LABEL: …" and returns `status`. */
__attribute__((format(printf, 4, 5))) cactus_status ct_gguf_refuse(const ct_gguf *gguf, cactus_error *err, cactus_status status,
                                                                   const char *format, ...);


/* UTF-8 throughout (no overlong forms, no surrogates) and without NUL. */
bool ct_gguf_is_text(ct_str s);

static inline ct_str ct_str_of(const uint8_t *data, size_t size) { return (ct_str){(const char *)data, size}; }

#endif
