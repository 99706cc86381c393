/* fuzz_gguf.c: libFuzzer over the GGUF reader. Whatever opens is read in full: each value in each way, each tensor's first row
 * by each decoder. Run by scripts/fuzz.sh. */
#include <stdlib.h>
#include <string.h>

#include "gguf/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_ROW_ELEMS = 1 << 16 };

static volatile double sink; /* keeps reads from being optimised away */

static void require(bool holds)
{
    if (!holds) abort();
}

/* A name as a C string, as callers look it up. Names hold no NUL. */
static char *c_string(ct_str s)
{
    char *out = malloc(s.size + 1);
    require(out != NULL);
    memcpy(out, s.data, s.size);
    out[s.size] = '\0';
    require(strlen(out) == s.size);
    return out;
}

static void read_values(const ct_gguf *gguf)
{
    for (size_t i = 0; i < ct_gguf_n_kv(gguf); i++) {
        const ct_gguf_kv *kv = ct_gguf_kv_at(gguf, i), *array;
        cactus_error err;
        uint32_t u;
        int32_t n;
        float f;
        bool b, found;
        ct_str s;
        char *key = c_string(kv->key);
        require(ct_gguf_find_kv(gguf, key) == kv);
        if (ct_gguf_get_u32(gguf, key, &u, NULL, &err) == CACTUS_OK) sink = u;
        if (ct_gguf_get_i32(gguf, key, &n, &found, &err) == CACTUS_OK) sink = n;
        if (ct_gguf_get_f32(gguf, key, &f, NULL, &err) == CACTUS_OK) require(f - f == 0.0f); /* finite */
        if (ct_gguf_get_bool(gguf, key, &b, NULL, &err) == CACTUS_OK) sink = b;
        if (ct_gguf_get_str(gguf, key, &s, NULL, &err) == CACTUS_OK)
            for (size_t k = 0; k < s.size; k++) sink = s.data[k];
        if (ct_gguf_get_array(gguf, key, kv->elem, &array, NULL, &err) == CACTUS_OK) require(array == kv);
        free(key);

        size_t n_bytes = 0, offset = 0;
        char *text = ct_gguf_format_value(kv, &n_bytes);
        require(text != NULL && text[n_bytes] == '\0');
        ct_free(text);
        for (uint64_t k = 0; k < kv->count; k++) {
            sink = ct_gguf_array_f64(kv, k) + (double)ct_gguf_array_i64(kv, k);
            s = ct_gguf_array_next_str(kv, &offset);
            for (size_t c = 0; c < s.size; c++) sink = s.data[c];
        }
        if (kv->type == CT_GGUF_STRING || kv->elem == CT_GGUF_STRING) require(offset == kv->n_bytes);
    }
}

static void read_tensors(const ct_gguf *gguf)
{
    static float row[MAX_ROW_ELEMS], d[MAX_ROW_ELEMS / 16], m[MAX_ROW_ELEMS / 16];
    static int8_t codes[MAX_ROW_ELEMS];
    for (size_t i = 0; i < ct_gguf_n_tensors(gguf); i++) {
        const ct_gguf_tensor *t = ct_gguf_tensor_at(gguf, i);
        char *name = c_string(t->name);
        require(ct_gguf_find_tensor(gguf, name) == t);
        free(name);
        for (size_t k = 0; k < t->n_bytes; k++) sink = t->data[k];
        size_t n = t->ne[0] <= MAX_ROW_ELEMS ? (size_t)t->ne[0] : MAX_ROW_ELEMS;
        if (t->info->decode_f32 != NULL) t->info->decode_f32(t->data, n, row);
        if (t->info->decode_codes != NULL) t->info->decode_codes(t->data, n, codes, d, t->info->has_min ? m : NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    cactus_error err;
    ct_gguf *gguf;
    cactus_status status = ct_gguf_open_memory(data, size, &gguf, &err);
    if (status == CACTUS_OK) {
        read_values(gguf);
        read_tensors(gguf);
        ct_gguf_close(gguf);
    } else {
        require(gguf == NULL && err.code == (int32_t)status && err.message[0] != '\0');
    }
    return 0;
}
