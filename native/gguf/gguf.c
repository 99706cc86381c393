/* gguf.c: opening a GGUF file and checking all of its structure.
 *
 *     "GGUF"  u32 version  u64 n_tensors  u64 n_kv
 *     n_kv ×       string key, u32 type, value     (array: u32 element type, u64 count, elements)
 *     n_tensors ×  string name, u32 n_dims, u64 ne[n_dims], u32 type, u64 offset
 *     padding to general.alignment; from here on tensor data, at the offsets given
 *
 * Numbers are little-endian; a string is a u64 length and its bytes. No count is believed before it is compared with the bytes
 * that are left, so neither time nor memory exceeds a small multiple of the file's size. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/internal.h"

enum {
    HEADER_BYTES = 24,
    MIN_KV_BYTES = 8 + 1 + 4 + 1,         /* key of one byte, type, value of one byte */
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8, /* name of one byte, n_dims = 0, type, offset */
    MAX_KEY_BYTES = 65535,
    MAX_NAME_BYTES = 256,
    MAX_KV = 1 << 16, /* far above real files (dozens; tens of thousands): bounds what a hostile one may cost */
    MAX_TENSORS = 1 << 18,
    DEFAULT_ALIGNMENT = 32,
    MIN_ALIGNMENT = 8,
    MAX_ALIGNMENT = 65536,
    MAX_PARTS = 99999 /* five digits in the names of a split model's files */
};

/* ---- a cursor over the bytes ---------------------------------------------------------------------------------------- */

typedef struct reader {
    const ct_gguf *gguf; /* for its label */
    cactus_error *err;
    const uint8_t *data;
    size_t size, pos;    /* pos <= size */
    const char *section; /* what is being read: "metadata entry" 3 */
    uint64_t index;
} reader;

#define DAMAGED(r, ...) ct_gguf_refuse((r)->gguf, (r)->err, CACTUS_ERROR_FORMAT, __VA_ARGS__)
#define UNSUPPORTED(r, ...) ct_gguf_refuse((r)->gguf, (r)->err, CACTUS_ERROR_UNSUPPORTED, __VA_ARGS__)

static cactus_status take(reader *r, uint64_t n_bytes, const uint8_t **out)
{
    if (n_bytes > r->size - r->pos) {
        DAMAGED(r, "%s %" PRIu64 " needs %" PRIu64 " bytes at offset %zu, but the file ends at %zu", r->section, r->index,
                n_bytes, r->pos, r->size);
        return CACTUS_ERROR_FORMAT; /* said here, so that compilers see that *out is set on success */
    }
    *out = r->data + r->pos;
    r->pos += (size_t)n_bytes;
    return CACTUS_OK;
}

static cactus_status take_u32(reader *r, uint32_t *out)
{
    const uint8_t *p;
    cactus_status status = take(r, sizeof *out, &p);
    if (status == CACTUS_OK) memcpy(out, p, sizeof *out);
    return status;
}

static cactus_status take_u64(reader *r, uint64_t *out)
{
    const uint8_t *p;
    cactus_status status = take(r, sizeof *out, &p);
    if (status == CACTUS_OK) memcpy(out, p, sizeof *out);
    return status;
}

static cactus_status take_str(reader *r, ct_str *out)
{
    uint64_t size;
    const uint8_t *p;
    cactus_status status = take_u64(r, &size);
    if (status == CACTUS_OK) status = take(r, size, &p);
    if (status == CACTUS_OK) *out = ct_str_of(p, (size_t)size);
    return status;
}

/* A key or a tensor's name: something that can be looked up and printed. */
static cactus_status take_name(reader *r, size_t max_bytes, const char *what, ct_str *out)
{
    char shown[CT_SHOWN_BYTES];
    cactus_status status = take_str(r, out);
    if (status != CACTUS_OK) return status;
    if (out->size == 0 || out->size > max_bytes)
        return DAMAGED(r, "the %s of %s %" PRIu64 " has %zu bytes, not 1 to %zu", what, r->section, r->index, out->size,
                       max_bytes);
    if (!ct_gguf_is_text(*out))
        return DAMAGED(r, "the %s of %s %" PRIu64 ", \"%s\", is not UTF-8 without NUL", what, r->section, r->index,
                       ct_gguf_printable(shown, *out, CT_SHOWN_CHARS));
    return CACTUS_OK;
}

/* ---- sorted indices ------------------------------------------------------------------------------------------------- */

/* Names are found by binary search: unlike a hash table, no choice of names makes it slow. */

static int compare_str(ct_str a, ct_str b)
{
    int order = memcmp(a.data, b.data, ct_min_size(a.size, b.size));
    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

static int compare_keys(const void *a, const void *b)
{
    const ct_gguf_kv *const *x = a, *const *y = b;
    return compare_str((*x)->key, (*y)->key);
}

static int compare_names(const void *a, const void *b)
{
    const ct_gguf_tensor *const *x = a, *const *y = b;
    return compare_str((*x)->name, (*y)->name);
}

static int compare_data(const void *a, const void *b)
{
    const ct_gguf_tensor *const *x = a, *const *y = b;
    uintptr_t p = (uintptr_t)(*x)->data, q = (uintptr_t)(*y)->data;
    return (p > q) - (p < q);
}

static cactus_status no_memory(const ct_gguf *gguf, cactus_error *err, const char *what)
{
    return ct_gguf_refuse(gguf, err, CACTUS_ERROR_MEMORY, "no memory for %s", what);
}

static cactus_status index_keys(ct_gguf *gguf, cactus_error *err)
{
    char shown[CT_SHOWN_BYTES];
    const ct_gguf_kv **rows = ct_alloc(gguf->n_kv, sizeof(const ct_gguf_kv *));
    if (rows == NULL) return no_memory(gguf, err, "its metadata");
    gguf->kv_by_key = rows;
    for (size_t i = 0; i < gguf->n_kv; i++) rows[i] = &gguf->kv[i];
    qsort(rows, gguf->n_kv, sizeof *rows, compare_keys);
    for (size_t i = 1; i < gguf->n_kv; i++)
        if (compare_keys(&rows[i - 1], &rows[i]) == 0)
            return ct_gguf_refuse(gguf, err, CACTUS_ERROR_FORMAT, "the key %s occurs twice",
                                  ct_gguf_printable(shown, rows[i]->key, CT_SHOWN_CHARS));
    return CACTUS_OK;
}

/* Sorts all tensors, and refuses names and bytes that are used twice. Parts lie in maps of their own, which cannot overlap. */
static cactus_status index_tensors(ct_gguf *gguf, cactus_error *err)
{
    char shown[CT_SHOWN_BYTES], other[CT_SHOWN_BYTES];
    size_t n = gguf->n_tensors;
    const ct_gguf_tensor **rows = ct_alloc(n, sizeof(const ct_gguf_tensor *));
    if (rows == NULL) return no_memory(gguf, err, "its tensor table");
    gguf->tensors_by_name = rows;
    for (size_t i = 0; i < n; i++) rows[i] = &gguf->tensors[i];
    qsort(rows, n, sizeof *rows, compare_data);
    for (size_t i = 1; i < n; i++)
        if ((uintptr_t)rows[i - 1]->data + rows[i - 1]->n_bytes > (uintptr_t)rows[i]->data)
            return ct_gguf_refuse(gguf, err, CACTUS_ERROR_FORMAT, "the tensors %s and %s overlap",
                                  ct_gguf_printable(shown, rows[i - 1]->name, CT_SHOWN_CHARS),
                                  ct_gguf_printable(other, rows[i]->name, CT_SHOWN_CHARS));
    qsort(rows, n, sizeof *rows, compare_names);
    for (size_t i = 1; i < n; i++)
        if (compare_names(&rows[i - 1], &rows[i]) == 0)
            return ct_gguf_refuse(gguf, err, CACTUS_ERROR_FORMAT, "the tensor %s occurs twice",
                                  ct_gguf_printable(shown, rows[i]->name, CT_SHOWN_CHARS));
    return CACTUS_OK;
}

/* ---- metadata ------------------------------------------------------------------------------------------------------- */

/* Bytes of a value; 0 for strings and arrays, whose size their content tells. */
static const uint8_t value_bytes[] = {
    [CT_GGUF_U8] = 1,  [CT_GGUF_I8] = 1,  [CT_GGUF_U16] = 2,  [CT_GGUF_I16] = 2,    [CT_GGUF_U32] = 4,   [CT_GGUF_I32] = 4,
    [CT_GGUF_F32] = 4, [CT_GGUF_BOOL] = 1, [CT_GGUF_U64] = 8, [CT_GGUF_I64] = 8,    [CT_GGUF_F64] = 8,
};
enum { N_VALUE_TYPES = sizeof value_bytes };

static cactus_status take_type(reader *r, const ct_gguf_kv *kv, const char *what, ct_gguf_value_type *out)
{
    char shown[CT_SHOWN_BYTES];
    uint32_t type;
    cactus_status status = take_u32(r, &type);
    if (status != CACTUS_OK) return status;
    if (type >= N_VALUE_TYPES)
        return DAMAGED(r, "the key %s has the unknown %s type %" PRIu32, ct_gguf_printable(shown, kv->key, CT_SHOWN_CHARS),
                       what, type);
    *out = (ct_gguf_value_type)type;
    return CACTUS_OK;
}

/* Steps over count strings. */
static cactus_status skip_strings(reader *r, const ct_gguf_kv *kv)
{
    char shown[CT_SHOWN_BYTES];
    size_t pos = r->pos;
    for (uint64_t i = 0; i < kv->count; i++) {
        uint64_t size = 0, left = r->size - pos;
        if (left >= sizeof size) memcpy(&size, r->data + pos, sizeof size);
        if (left < sizeof size || size > left - sizeof size)
            return DAMAGED(r, "string %" PRIu64 " of the array %s needs %" PRIu64 " bytes at offset %zu, but the file ends at "
                           "%zu", i, ct_gguf_printable(shown, kv->key, CT_SHOWN_CHARS), size, pos, r->size);
        pos += sizeof size + (size_t)size;
    }
    r->pos = pos;
    return CACTUS_OK;
}

static cactus_status take_array(reader *r, ct_gguf_kv *kv)
{
    char shown[CT_SHOWN_BYTES];
    cactus_status status = take_type(r, kv, "element", &kv->elem);
    if (status == CACTUS_OK) status = take_u64(r, &kv->count);
    if (status != CACTUS_OK) return status;
    if (kv->elem == CT_GGUF_ARRAY)
        return UNSUPPORTED(r, "the key %s is an array of arrays, which is not supported",
                           ct_gguf_printable(shown, kv->key, CT_SHOWN_CHARS));
    size_t elem_bytes = kv->elem == CT_GGUF_STRING ? 8 : value_bytes[kv->elem]; /* strings: at least */
    if (kv->count > (r->size - r->pos) / elem_bytes)
        return DAMAGED(r, "the array %s claims %" PRIu64 " elements, but only %zu bytes are left",
                       ct_gguf_printable(shown, kv->key, CT_SHOWN_CHARS), kv->count, r->size - r->pos);
    size_t start = r->pos;
    kv->data = r->data + start;
    if (kv->elem == CT_GGUF_STRING) status = skip_strings(r, kv);
    else r->pos += (size_t)kv->count * elem_bytes;
    kv->n_bytes = r->pos - start;
    return status;
}

static cactus_status take_kv(reader *r, ct_gguf_kv *kv)
{
    ct_str value;
    cactus_status status = take_name(r, MAX_KEY_BYTES, "key", &kv->key);
    if (status == CACTUS_OK) status = take_type(r, kv, "value", &kv->type);
    if (status != CACTUS_OK) return status;
    if (kv->type == CT_GGUF_ARRAY) return take_array(r, kv);
    size_t start = r->pos;
    kv->elem = kv->type;
    kv->count = 1;
    kv->data = r->data + start;
    status = kv->type == CT_GGUF_STRING ? take_str(r, &value) : take(r, value_bytes[kv->type], &kv->data);
    kv->n_bytes = r->pos - start;
    return status;
}

/* ---- tensors -------------------------------------------------------------------------------------------------------- */

/* One row of the table. Its data is set in place_tensor, since the end of the table is not known yet. */
static cactus_status take_tensor(reader *r, ct_gguf_tensor *t, uint64_t *offset)
{
    char shown[CT_SHOWN_BYTES];
    uint32_t type;
    uint64_t n_elems = 1;
    cactus_status status = take_name(r, MAX_NAME_BYTES, "name", &t->name);
    if (status == CACTUS_OK) status = take_u32(r, &t->n_dims);
    if (status != CACTUS_OK) return status;
    ct_gguf_printable(shown, t->name, CT_SHOWN_CHARS);
    if (t->n_dims > CT_GGUF_MAX_DIMS)
        return DAMAGED(r, "the tensor %s has %" PRIu32 " dimensions, more than %d", shown, t->n_dims, CT_GGUF_MAX_DIMS);
    for (size_t i = 0; i < CT_GGUF_MAX_DIMS; i++) {
        t->ne[i] = 1;
        if (i < t->n_dims && (status = take_u64(r, &t->ne[i])) != CACTUS_OK) return status;
        if (t->ne[i] == 0)
            return DAMAGED(r, "dimension %zu of the tensor %s is 0", i, shown);
        if (t->ne[i] > (uint64_t)INT64_MAX / n_elems)
            return DAMAGED(r, "the dimensions of the tensor %s overflow: the last is %" PRIu64, shown, t->ne[i]);
        n_elems *= t->ne[i];
    }
    status = take_u32(r, &type);
    if (status == CACTUS_OK) status = take_u64(r, offset);
    if (status != CACTUS_OK) return status;
    t->info = ct_type_get(type);
    if (t->info == NULL)
        return UNSUPPORTED(r, "the tensor %s has the unknown type %" PRIu32, shown, type);
    t->type = (ct_type)type;
    size_t row_bytes;
    if (t->ne[0] % t->info->block_elems != 0)
        return DAMAGED(r, "the rows of the tensor %s have %" PRIu64 " elements, no multiple of the %u of a block of %s",
                       shown, t->ne[0], t->info->block_elems, t->info->name);
    if (!ct_type_row_bytes(t->info, t->ne[0], &row_bytes) || n_elems / t->ne[0] > SIZE_MAX ||
        !ct_mul_ok(row_bytes, (size_t)(n_elems / t->ne[0]), &t->n_bytes))
        return DAMAGED(r, "the size of the tensor %s overflows: %" PRIu64 " elements of %s", shown, n_elems, t->info->name);
    return CACTUS_OK;
}

/* Where the data is. data_start may lie behind the end of the file. */
static cactus_status place_tensor(const reader *r, ct_gguf_tensor *t, uint64_t offset, size_t data_start, uint32_t alignment)
{
    char shown[CT_SHOWN_BYTES];
    size_t left = data_start < r->size ? r->size - data_start : 0;
    if (offset % alignment != 0)
        return DAMAGED(r, "the data of the tensor %s is at offset %" PRIu64 ", no multiple of the file's alignment %" PRIu32,
                       ct_gguf_printable(shown, t->name, CT_SHOWN_CHARS), offset, alignment);
    if (offset > left || t->n_bytes > left - offset)
        return DAMAGED(r, "the data of the tensor %s runs past the end of the file: %zu bytes at offset %" PRIu64
                       " of the data, which is %zu bytes long",
                       ct_gguf_printable(shown, t->name, CT_SHOWN_CHARS), t->n_bytes, offset, left);
    t->data = r->data + data_start + (size_t)offset;
    return CACTUS_OK;
}

static cactus_status take_tensors(reader *r, ct_gguf *gguf, uint32_t alignment)
{
    cactus_status status = CACTUS_OK;
    gguf->tensors = ct_alloc(gguf->n_tensors, sizeof *gguf->tensors);
    uint64_t *offsets = ct_alloc(gguf->n_tensors, sizeof *offsets);
    if (gguf->tensors == NULL || offsets == NULL) {
        ct_free(offsets);
        return no_memory(gguf, r->err, "its tensor table");
    }
    r->section = "tensor";
    for (size_t i = 0; i < gguf->n_tensors && status == CACTUS_OK; i++) {
        r->index = i;
        status = take_tensor(r, &gguf->tensors[i], &offsets[i]);
    }
    size_t data_start = r->pos + (alignment - r->pos % alignment) % alignment; /* pos < PTRDIFF_MAX: no overflow */
    for (size_t i = 0; i < gguf->n_tensors && status == CACTUS_OK; i++)
        status = place_tensor(r, &gguf->tensors[i], offsets[i], data_start, alignment);
    ct_free(offsets);
    return status;
}

/* ---- one file ------------------------------------------------------------------------------------------------------- */

static cactus_status take_count(const reader *r, uint64_t count, const char *what, size_t min_bytes, size_t most, size_t *out)
{
    if (count > (r->size - r->pos) / min_bytes)
        return DAMAGED(r, "it claims %" PRIu64 " %s, but has only %zu bytes", count, what, r->size);
    if (count > most)
        return UNSUPPORTED(r, "it has %" PRIu64 " %s, more than %zu", count, what, most);
    *out = (size_t)count;
    return CACTUS_OK;
}

static cactus_status take_header(reader *r, ct_gguf *gguf)
{
    char shown[CT_SHOWN_BYTES];
    uint32_t version;
    uint64_t n_tensors, n_kv;
    if (r->size == 0) return DAMAGED(r, "the file is empty");
    if (memcmp(r->data, "GGUF", ct_min_size(r->size, 4)) != 0)
        return DAMAGED(r, "this is no GGUF file: it starts with \"%s\" instead of \"GGUF\"",
                       ct_gguf_printable(shown, ct_str_of(r->data, ct_min_size(r->size, 4)), CT_SHOWN_CHARS));
    if (r->size < HEADER_BYTES)
        return DAMAGED(r, "the header needs %d bytes, but the file ends at %zu", HEADER_BYTES, r->size);
    memcpy(&version, r->data + 4, sizeof version);
    memcpy(&n_tensors, r->data + 8, sizeof n_tensors);
    memcpy(&n_kv, r->data + 16, sizeof n_kv);
    r->pos = HEADER_BYTES;
    if (version != 0 && (version & 0xffff) == 0)
        return UNSUPPORTED(r, "this is a big-endian GGUF file; only little-endian is supported");
    if (version != 2 && version != 3)
        return UNSUPPORTED(r, "this is GGUF version %" PRIu32 "; supported are 2 and 3", version);
    cactus_status status = take_count(r, n_kv, "metadata entries", MIN_KV_BYTES, MAX_KV, &gguf->n_kv);
    if (status == CACTUS_OK) status = take_count(r, n_tensors, "tensors", MIN_TENSOR_BYTES, MAX_TENSORS, &gguf->n_tensors);
    return status;
}

/* Fills gguf->kv, kv_by_key and tensors. On failure gguf can be freed. */
static cactus_status read_file(ct_gguf *gguf, const uint8_t *data, size_t size, cactus_error *err)
{
    reader r = {.gguf = gguf, .err = err, .data = data, .size = size, .section = "metadata entry"};
    uint32_t alignment = DEFAULT_ALIGNMENT;
    bool found;
    cactus_status status = take_header(&r, gguf);
    if (status != CACTUS_OK) return status;
    gguf->file_bytes = size;
    gguf->kv = ct_alloc(gguf->n_kv, sizeof *gguf->kv);
    if (gguf->kv == NULL) return no_memory(gguf, err, "its metadata");
    for (; r.index < gguf->n_kv && status == CACTUS_OK; r.index++) status = take_kv(&r, &gguf->kv[r.index]);
    if (status == CACTUS_OK) status = index_keys(gguf, err);
    if (status == CACTUS_OK) status = ct_gguf_get_u32(gguf, "general.alignment", &alignment, &found, err);
    if (status != CACTUS_OK) return status;
    if (alignment < MIN_ALIGNMENT || alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)) != 0)
        return DAMAGED(&r, "general.alignment is %" PRIu32 ", not a power of two from %d to %d", alignment, MIN_ALIGNMENT,
                       MAX_ALIGNMENT);
    return take_tensors(&r, gguf, alignment);
}

/* A new ct_gguf with its label; a long path keeps its end, where the file's name is. */
static ct_gguf *new_gguf(const char *path)
{
    ct_gguf *gguf = ct_alloc(1, sizeof *gguf);
    if (gguf == NULL) return NULL;
    size_t size = strlen(path), skip = size > CT_LABEL_CHARS - 3 ? size - (CT_LABEL_CHARS - 3) : 0;
    while (skip > 0 && ((uint8_t)path[skip] & 0xc0) == 0x80) skip++;
    char *out = gguf->label;
    if (skip > 0) {
        memcpy(out, "…", 3);
        out += 3;
    }
    ct_gguf_printable(out, (ct_str){path + skip, size - skip}, CT_LABEL_CHARS - (skip > 0));
    return gguf;
}

/* Maps `path` and reads it into *out, which owns the map. */
static cactus_status open_file(const char *path, ct_gguf **out, cactus_error *err)
{
    *out = NULL;
    ct_gguf *gguf = new_gguf(path);
    if (gguf == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory to open a model");
    gguf->files = ct_alloc(1, sizeof *gguf->files);
    cactus_status status = gguf->files == NULL ? no_memory(gguf, err, "its map") : ct_file_map(path, gguf->files, err);
    if (status == CACTUS_OK) {
        gguf->n_files = 1;
        status = read_file(gguf, gguf->files->data, gguf->files->size, err);
    }
    if (status == CACTUS_OK) *out = gguf;
    else ct_gguf_close(gguf);
    return status;
}

/* ---- split models --------------------------------------------------------------------------------------------------- */

/* split.no and split.count; count is 1 for a file that is whole. */
static cactus_status split_place(const ct_gguf *gguf, uint32_t *no, uint32_t *count, cactus_error *err)
{
    bool found;
    *no = 0;
    *count = 1;
    cactus_status status = ct_gguf_get_u32(gguf, "split.count", count, &found, err);
    if (status != CACTUS_OK || *count <= 1) { /* 0: written by tools for a model that is not split */
        *count = 1;
        return status;
    }
    if (*count > MAX_PARTS)
        return ct_gguf_refuse(gguf, err, CACTUS_ERROR_FORMAT, "split.count is %" PRIu32 ", more than %d", *count, MAX_PARTS);
    status = ct_gguf_get_u32(gguf, "split.no", no, NULL, err);
    if (status == CACTUS_OK && *no >= *count)
        return ct_gguf_refuse(gguf, err, CACTUS_ERROR_FORMAT, "split.no is %" PRIu32 ", but split.count is %" PRIu32, *no,
                              *count);
    return status;
}

enum { PART_SUFFIX_BYTES = sizeof "-00001-of-00002.gguf" - 1 };

static void part_suffix(char out[PART_SUFFIX_BYTES + 1], uint32_t no, uint32_t count)
{
    snprintf(out, PART_SUFFIX_BYTES + 1, "-%05u-of-%05u.gguf", (unsigned)(no + 1) % 100000, (unsigned)count % 100000);
}

/* Opens part `no` at `path`, checks that it belongs to the model and moves its map and its tensors there. */
static cactus_status append_part(ct_gguf *gguf, const char *path, uint32_t no, uint32_t count, cactus_error *err)
{
    ct_gguf *part;
    uint32_t part_no, part_count;
    cactus_status status = open_file(path, &part, err);
    if (status != CACTUS_OK) return status;
    status = split_place(part, &part_no, &part_count, err);
    if (status == CACTUS_OK && (part_no != no || part_count != count))
        status = ct_gguf_refuse(part, err, CACTUS_ERROR_FORMAT,
                                "it says that it is part %" PRIu32 " of %" PRIu32 ", but part %" PRIu32 " of %" PRIu32
                                " is needed here",
                                part_no + 1, part_count, no + 1, count);
    size_t n_tensors = gguf->n_tensors + part->n_tensors; /* both at most MAX_TENSORS */
    if (status == CACTUS_OK && n_tensors > MAX_TENSORS)
        status = ct_gguf_refuse(part, err, CACTUS_ERROR_UNSUPPORTED, "with this part the model has %zu tensors, more than %d",
                                n_tensors, MAX_TENSORS);
    ct_gguf_tensor *tensors = status == CACTUS_OK ? ct_alloc(n_tensors, sizeof *tensors) : NULL;
    if (tensors != NULL) {
        if (gguf->n_tensors > 0) memcpy(tensors, gguf->tensors, gguf->n_tensors * sizeof *tensors);
        if (part->n_tensors > 0) memcpy(tensors + gguf->n_tensors, part->tensors, part->n_tensors * sizeof *tensors);
        ct_free(gguf->tensors);
        gguf->tensors = tensors;
        gguf->n_tensors = n_tensors;
        gguf->file_bytes += part->file_bytes;
        gguf->files[gguf->n_files++] = part->files[0];
        part->n_files = 0; /* the map is not its own any more */
    } else if (status == CACTUS_OK)
        status = no_memory(gguf, err, "its tensor table");
    ct_gguf_close(part);
    return status;
}

/* If the file is the first part of a split model, adds the others. */
static cactus_status join_parts(ct_gguf *gguf, const char *path, cactus_error *err)
{
    char suffix[PART_SUFFIX_BYTES + 1], first[PART_SUFFIX_BYTES + 1];
    uint32_t no, count, n_tensors = 0;
    bool found;
    cactus_status status = split_place(gguf, &no, &count, err);
    if (status != CACTUS_OK || count == 1) return status;
    size_t base = strlen(path);
    part_suffix(suffix, no, count);
    part_suffix(first, 0, count);
    bool is_named = base >= PART_SUFFIX_BYTES && strcmp(path + base - PART_SUFFIX_BYTES, suffix) == 0;
    if (no > 0)
        return ct_gguf_refuse(gguf, err, CACTUS_ERROR_FORMAT,
                              "this is part %" PRIu32 " of %" PRIu32 " of a split model; open the first part, whose name ends "
                              "in %s",
                              no + 1, count, first);
    if (!is_named)
        return ct_gguf_refuse(gguf, err, CACTUS_ERROR_IO,
                              "this is the first of %" PRIu32 " parts of a split model, so its name must end in %s for the "
                              "others to be found",
                              count, first);

    base -= PART_SUFFIX_BYTES;
    char *part_path = ct_alloc(base + PART_SUFFIX_BYTES + 1, 1);
    ct_file *files = ct_alloc(count, sizeof *files);
    if (part_path == NULL || files == NULL) {
        ct_free(part_path);
        ct_free(files);
        return no_memory(gguf, err, "its parts");
    }
    files[0] = gguf->files[0];
    ct_free(gguf->files);
    gguf->files = files;
    memcpy(part_path, path, base);
    for (uint32_t i = 1; i < count && status == CACTUS_OK; i++) {
        part_suffix(part_path + base, i, count);
        status = append_part(gguf, part_path, i, count, err);
    }
    ct_free(part_path);
    if (status == CACTUS_OK) status = ct_gguf_get_u32(gguf, "split.tensors.count", &n_tensors, &found, err);
    if (status == CACTUS_OK && found && n_tensors != gguf->n_tensors)
        return ct_gguf_refuse(gguf, err, CACTUS_ERROR_FORMAT, "split.tensors.count is %" PRIu32
                              ", but the parts hold %zu tensors", n_tensors, gguf->n_tensors);
    return status;
}

/* ---- public --------------------------------------------------------------------------------------------------------- */

cactus_status ct_gguf_open(const char *path, ct_gguf **out, cactus_error *err)
{
    ct_gguf *gguf;
    *out = NULL;
    cactus_status status = open_file(path, &gguf, err);
    if (status != CACTUS_OK) return status;
    status = join_parts(gguf, path, err);
    if (status == CACTUS_OK) status = index_tensors(gguf, err);
    if (status == CACTUS_OK) *out = gguf;
    else ct_gguf_close(gguf);
    return status;
}

cactus_status ct_gguf_open_memory(const void *data, size_t size, ct_gguf **out, cactus_error *err)
{
    uint32_t no, count;
    *out = NULL;
    ct_gguf *gguf = new_gguf("model in memory");
    if (gguf == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory to open a model");
    cactus_status status = read_file(gguf, data, size, err);
    if (status == CACTUS_OK) status = split_place(gguf, &no, &count, err);
    if (status == CACTUS_OK && count > 1)
        status = ct_gguf_refuse(gguf, err, CACTUS_ERROR_UNSUPPORTED,
                                "this is part %" PRIu32 " of %" PRIu32 " of a split model, which can only be opened by its path",
                                no + 1, count);
    if (status == CACTUS_OK) status = index_tensors(gguf, err);
    if (status == CACTUS_OK) *out = gguf;
    else ct_gguf_close(gguf);
    return status;
}

void ct_gguf_close(ct_gguf *gguf)
{
    if (gguf == NULL) return;
    for (size_t i = 0; i < gguf->n_files; i++) ct_file_unmap(&gguf->files[i]);
    ct_free(gguf->files);
    ct_free(gguf->kv);
    ct_free(gguf->kv_by_key);
    ct_free(gguf->tensors);
    ct_free(gguf->tensors_by_name);
    ct_free(gguf);
}

uint64_t ct_gguf_file_bytes(const ct_gguf *gguf) { return gguf->file_bytes; }
size_t ct_gguf_n_kv(const ct_gguf *gguf) { return gguf->n_kv; }
size_t ct_gguf_n_tensors(const ct_gguf *gguf) { return gguf->n_tensors; }

const ct_gguf_kv *ct_gguf_kv_at(const ct_gguf *gguf, size_t index) { return index < gguf->n_kv ? &gguf->kv[index] : NULL; }

const ct_gguf_tensor *ct_gguf_tensor_at(const ct_gguf *gguf, size_t index)
{
    return index < gguf->n_tensors ? &gguf->tensors[index] : NULL;
}

const ct_gguf_kv *ct_gguf_find_kv(const ct_gguf *gguf, const char *key)
{
    const ct_gguf_kv wanted = {.key = {key, strlen(key)}}, *p = &wanted;
    const ct_gguf_kv *const *row = bsearch(&p, gguf->kv_by_key, gguf->n_kv, sizeof *row, compare_keys);
    return row != NULL ? *row : NULL;
}

const ct_gguf_tensor *ct_gguf_find_tensor(const ct_gguf *gguf, const char *name)
{
    const ct_gguf_tensor wanted = {.name = {name, strlen(name)}}, *p = &wanted;
    const ct_gguf_tensor *const *row = bsearch(&p, gguf->tensors_by_name, gguf->n_tensors, sizeof *row, compare_names);
    return row != NULL ? *row : NULL;
}
