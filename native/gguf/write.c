/* write.c: the header of a GGUF file, as gguf.c reads it. */
#include <string.h>

#include "gguf/write.h"

enum { BUFFER_BYTES = 1 << 14, MAX_ALIGNMENT = 65536 };

/* Small writes, put together; without a file they are only counted. */
typedef struct sink {
    ct_new_file *file;
    cactus_error *err;
    cactus_status status;
    uint64_t n_bytes;
    size_t used;
    uint8_t buffer[BUFFER_BYTES];
} sink;

static void flush(sink *s)
{
    if (s->status == CACTUS_OK && s->used > 0) s->status = ct_new_file_write(s->file, s->buffer, s->used, s->err);
    s->used = 0;
}

static void put(sink *s, const void *data, size_t n_bytes)
{
    s->n_bytes += n_bytes;
    if (s->file == NULL || s->status != CACTUS_OK || n_bytes == 0) return;
    if (n_bytes > sizeof s->buffer - s->used) flush(s);
    if (n_bytes > sizeof s->buffer) {
        if (s->status == CACTUS_OK) s->status = ct_new_file_write(s->file, data, n_bytes, s->err);
        return;
    }
    memcpy(s->buffer + s->used, data, n_bytes);
    s->used += n_bytes;
}

static void put_u32(sink *s, uint32_t value) { put(s, &value, sizeof value); }
static void put_u64(sink *s, uint64_t value) { put(s, &value, sizeof value); }

static void put_str(sink *s, ct_str str)
{
    put_u64(s, str.size);
    put(s, str.data, str.size);
}

static uint64_t padded(uint64_t n_bytes, uint32_t alignment) { return (n_bytes + alignment - 1) / alignment * alignment; }

static void put_header(sink *s, const ct_gguf_kv *kv, size_t n_kv, const ct_gguf_tensor *tensors, size_t n_tensors,
                       uint32_t alignment)
{
    static const uint8_t zeros[MAX_ALIGNMENT];
    uint64_t offset = 0;
    put(s, "GGUF", 4);
    put_u32(s, 3);
    put_u64(s, n_tensors);
    put_u64(s, n_kv);
    for (size_t i = 0; i < n_kv; i++) {
        put_str(s, kv[i].key);
        put_u32(s, kv[i].type);
        if (kv[i].type == CT_GGUF_ARRAY) {
            put_u32(s, kv[i].elem);
            put_u64(s, kv[i].count);
        }
        put(s, kv[i].data, kv[i].n_bytes);
    }
    for (size_t i = 0; i < n_tensors; i++) {
        const ct_gguf_tensor *t = &tensors[i];
        put_str(s, t->name);
        put_u32(s, t->n_dims);
        for (size_t k = 0; k < t->n_dims; k++) put_u64(s, t->ne[k]);
        put_u32(s, t->type);
        put_u64(s, offset);
        offset += padded(t->n_bytes, alignment);
    }
    put(s, zeros, (size_t)(padded(s->n_bytes, alignment) - s->n_bytes));
}

cactus_status ct_gguf_write_header(ct_new_file *file, const ct_gguf_kv *kv, size_t n_kv, const ct_gguf_tensor *tensors,
                                   size_t n_tensors, uint32_t alignment, cactus_error *err)
{
    sink s = {.file = file, .err = err, .status = CACTUS_OK};
    put_header(&s, kv, n_kv, tensors, n_tensors, alignment);
    flush(&s);
    return s.status;
}

cactus_status ct_gguf_write_padding(ct_new_file *file, size_t n_bytes, uint32_t alignment, cactus_error *err)
{
    static const uint8_t zeros[MAX_ALIGNMENT];
    return ct_new_file_write(file, zeros, (size_t)(padded(n_bytes, alignment) - n_bytes), err);
}

uint64_t ct_gguf_written_bytes(const ct_gguf_kv *kv, size_t n_kv, const ct_gguf_tensor *tensors, size_t n_tensors, uint32_t alignment)
{
    sink s = {.status = CACTUS_OK};
    put_header(&s, kv, n_kv, tensors, n_tensors, alignment);
    for (size_t i = 0; i < n_tensors; i++) s.n_bytes += padded(tensors[i].n_bytes, alignment);
    return s.n_bytes;
}
