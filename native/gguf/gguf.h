/* gguf.h: reading GGUF v2 and v3 (little-endian) from a read-only map. A file is hostile input: everything is checked
 * against the file's size before use, and what is refused is refused with the name and the value that was wrong.
 * A split model (NAME-00001-of-0000N.gguf) opens as one. */
#ifndef CT_GGUF_H
#define CT_GGUF_H

#include "core/core.h"
#include "gguf/types.h"

typedef enum ct_gguf_value_type {
    CT_GGUF_U8 = 0, CT_GGUF_I8 = 1, CT_GGUF_U16 = 2, CT_GGUF_I16 = 3, CT_GGUF_U32 = 4, CT_GGUF_I32 = 5, CT_GGUF_F32 = 6,
    CT_GGUF_BOOL = 7, CT_GGUF_STRING = 8, CT_GGUF_ARRAY = 9, CT_GGUF_U64 = 10, CT_GGUF_I64 = 11, CT_GGUF_F64 = 12
} ct_gguf_value_type;

typedef struct ct_str {
    const char *data; /* not NUL-terminated; points into the map */
    size_t size;
} ct_str;

typedef struct ct_gguf_kv {
    ct_str key;               /* checked: valid UTF-8, no NUL, 1 … 65535 bytes, unique in the file */
    ct_gguf_value_type type;  /* for arrays CT_GGUF_ARRAY */
    ct_gguf_value_type elem;  /* of arrays; nested arrays are refused */
    const uint8_t *data;      /* scalar or first element, unaligned, inside the map; strings: the 8 length bytes */
    uint64_t count;           /* elements; 1 for scalars */
    size_t n_bytes;           /* of data, all elements */
} ct_gguf_kv;

enum { CT_GGUF_MAX_DIMS = 4 };

typedef struct ct_gguf_tensor {
    ct_str name;                      /* unique, 1 … 256 bytes */
    uint32_t n_dims;
    uint64_t ne[CT_GGUF_MAX_DIMS];    /* elements per dimension, fastest first; absent ones are 1; none is 0 */
    const ct_type_info *info;
    ct_type type;
    const uint8_t *data;              /* inside a map, aligned as the file says; n_bytes are readable */
    size_t n_bytes;
} ct_gguf_tensor;

typedef struct ct_gguf ct_gguf;

/* Opens and checks the whole file: header, metadata, tensor table, every tensor's extent, no overlaps.
 * Errors: IO, FORMAT, UNSUPPORTED (version, big-endian, tensor type), MEMORY. */
cactus_status ct_gguf_open(const char *path, ct_gguf **out, cactus_error *err);

/* The same over bytes in memory, which must outlive the result (used by fuzzing and tests; no split files). */
cactus_status ct_gguf_open_memory(const void *data, size_t size, ct_gguf **out, cactus_error *err);
void ct_gguf_close(ct_gguf *gguf);

uint64_t ct_gguf_file_bytes(const ct_gguf *gguf); /* all parts */
size_t ct_gguf_n_kv(const ct_gguf *gguf);
const ct_gguf_kv *ct_gguf_kv_at(const ct_gguf *gguf, size_t index);
const ct_gguf_kv *ct_gguf_find_kv(const ct_gguf *gguf, const char *key); /* NULL if absent */
size_t ct_gguf_n_tensors(const ct_gguf *gguf);
const ct_gguf_tensor *ct_gguf_tensor_at(const ct_gguf *gguf, size_t index);
const ct_gguf_tensor *ct_gguf_find_tensor(const ct_gguf *gguf, const char *name); /* NULL if absent */

/* Typed access. An absent key leaves *out as it is and returns OK with *found = false (found may be NULL: then an absent key is
 * a FORMAT error that names the key). A value of the wrong type or out of range is a FORMAT error that names key and value.
 * Any integer type is accepted where it fits; f32 also accepts f64 and must be finite. */
cactus_status ct_gguf_get_u32(const ct_gguf *gguf, const char *key, uint32_t *out, bool *found, cactus_error *err);
cactus_status ct_gguf_get_i32(const ct_gguf *gguf, const char *key, int32_t *out, bool *found, cactus_error *err);
cactus_status ct_gguf_get_f32(const ct_gguf *gguf, const char *key, float *out, bool *found, cactus_error *err);
cactus_status ct_gguf_get_bool(const ct_gguf *gguf, const char *key, bool *out, bool *found, cactus_error *err);
cactus_status ct_gguf_get_str(const ct_gguf *gguf, const char *key, ct_str *out, bool *found, cactus_error *err);

/* An array of the given element type (exactly). *out is NULL when absent and found is given. */
cactus_status ct_gguf_get_array(const ct_gguf *gguf, const char *key, ct_gguf_value_type elem, const ct_gguf_kv **out, bool *found, cactus_error *err);

/* Element of a numeric array as a double / int64 (any numeric type); index < count. */
double ct_gguf_array_f64(const ct_gguf_kv *kv, uint64_t index);
int64_t ct_gguf_array_i64(const ct_gguf_kv *kv, uint64_t index);

/* Walks a string array: start with *offset = 0, call count times. All lengths were checked when the file was opened. */
ct_str ct_gguf_array_next_str(const ct_gguf_kv *kv, size_t *offset);

/* A value as text for people: scalars, strings as they are, arrays as "[a, b, …]" abbreviated after 16 elements.
 * Returns a malloc'ed NUL-terminated string (free with ct_free) and its length; NULL when memory is short. */
char *ct_gguf_format_value(const ct_gguf_kv *kv, size_t *n_bytes);

/* s as UTF-8 that is safe to print: control characters, direction marks and stray bytes as \xNN, cut with "…" when it would
 * exceed max_chars. out holds 4 * max_chars + 4 bytes. Returns out. */
char *ct_gguf_printable(char *out, ct_str s, size_t max_chars);

#endif
