/* test_gguf.c: the GGUF reader over files made here: valid ones, each kind of damage with the message it gets, every
 * truncation, every changed byte, split models; and the layer below: memory, maps, CPU. */
#include <sched.h>
#include <sys/stat.h>

#include "gguf/gguf.h"
#include "tests/test.h"

/* ---- a writer ---- */

typedef struct bytes {
    uint8_t *data;
    size_t size, capacity;
} bytes;

static void put(bytes *b, const void *data, size_t size)
{
    if (b->size + size > b->capacity) {
        b->capacity = 2 * (b->size + size);
        b->data = realloc(b->data, b->capacity);
        if (b->data == NULL) exit(2);
    }
    if (size > 0) memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void put_u32(bytes *b, uint32_t v) { put(b, &v, sizeof v); }
static void put_u64(bytes *b, uint64_t v) { put(b, &v, sizeof v); }

static void put_mem(bytes *b, const char *s, size_t size)
{
    put_u64(b, size);
    put(b, s, size);
}

static void put_str(bytes *b, const char *s) { put_mem(b, s, strlen(s)); }

static void put_header(bytes *b, uint32_t version, uint64_t n_tensors, uint64_t n_kv)
{
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, n_tensors);
    put_u64(b, n_kv);
}

/* Key and value type; the value follows. */
static void put_key(bytes *b, const char *key, uint32_t type)
{
    put_str(b, key);
    put_u32(b, type);
}

static void put_kv_u32(bytes *b, const char *key, uint32_t v)
{
    put_key(b, key, CT_GGUF_U32);
    put_u32(b, v);
}

static void put_kv_str(bytes *b, const char *key, const char *v)
{
    put_key(b, key, CT_GGUF_STRING);
    put_str(b, v);
}

/* Key and array header; count elements follow. */
static void put_array(bytes *b, const char *key, uint32_t elem, uint64_t count)
{
    put_key(b, key, CT_GGUF_ARRAY);
    put_u32(b, elem);
    put_u64(b, count);
}

static void put_tensor(bytes *b, const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type, uint64_t offset)
{
    put_str(b, name);
    put_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) put_u64(b, ne[i]);
    put_u32(b, type);
    put_u64(b, offset);
}

#define DIMS(...) (const uint64_t[]){__VA_ARGS__}

/* Padding to the alignment, then size bytes that count up. */
static void put_data(bytes *b, size_t alignment, size_t size)
{
    while (b->size % alignment != 0) put(b, "", 1);
    for (size_t i = 0; i < size; i++) put(b, &(uint8_t){(uint8_t)i}, 1);
}

/* ---- opening and expecting ---- */

/* Opens a copy that ends right before an unreadable page. The caller closes *gguf and frees *copy. */
static cactus_status open_guarded(const uint8_t *data, size_t size, test_guarded *copy, ct_gguf **gguf, cactus_error *err)
{
    *copy = test_guarded_alloc(size);
    if (size > 0) memcpy(copy->data, data, size);
    *err = (cactus_error){0};
    return ct_gguf_open_memory(copy->data, size, gguf, err);
}

/* Frees b. */
static void check_refused(bytes *b, cactus_status status, const char *part, int line)
{
    test_guarded copy;
    cactus_error err;
    ct_gguf *gguf;
    cactus_status got = open_guarded(b->data, b->size, &copy, &gguf, &err);
    CHECK_MSG(got == status && err.code == (int32_t)status && gguf == NULL, "line %d: status %d, code %d, \"%s\"", line,
              (int)got, err.code, err.message);
    CHECK_MSG(strstr(err.message, part) != NULL && strncmp(err.message, "model in memory: ", 17) == 0,
              "line %d: \"%s\" is without \"%s\"", line, err.message, part);
    CHECK(ct_gguf_open_memory(copy.data, b->size, &gguf, NULL) == status); /* err may be NULL */
    ct_gguf_close(gguf);
    test_guarded_free(&copy);
    free(b->data);
    *b = (bytes){0};
}

#define REFUSED(b, status, part) check_refused(&(b), status, part, __LINE__)

static void check_str(ct_str s, const char *want)
{
    CHECK_MSG(s.size == strlen(want) && memcmp(s.data, want, s.size) == 0, "\"%.*s\" is not \"%s\"", (int)s.size, s.data, want);
}

/* ---- a file with everything in it ---- */

static bytes everything(uint32_t version)
{
    bytes b = {0};
    put_header(&b, version, 4, 22);
    put_kv_str(&b, "general.architecture", "llama");
    put_kv_u32(&b, "general.alignment", 64);
    put_key(&b, "v.u8", CT_GGUF_U8), put(&b, &(uint8_t){200}, 1);
    put_key(&b, "v.i8", CT_GGUF_I8), put(&b, &(int8_t){-100}, 1);
    put_key(&b, "v.u16", CT_GGUF_U16), put(&b, &(uint16_t){60000}, 2);
    put_key(&b, "v.i16", CT_GGUF_I16), put(&b, &(int16_t){-30000}, 2);
    put_key(&b, "v.u32", CT_GGUF_U32), put_u32(&b, 4000000000u);
    put_key(&b, "v.i32", CT_GGUF_I32), put(&b, &(int32_t){-2000000000}, 4);
    put_key(&b, "v.f32", CT_GGUF_F32), put(&b, &(float){1e-5f}, 4);
    put_key(&b, "v.f64", CT_GGUF_F64), put(&b, &(double){0.1}, 8);
    put_key(&b, "v.huge", CT_GGUF_F64), put(&b, &(double){1e300}, 8);
    put_key(&b, "v.nan", CT_GGUF_F32), put(&b, &(float){NAN}, 4);
    put_key(&b, "v.bool", CT_GGUF_BOOL), put(&b, "\1", 1);
    put_key(&b, "v.u64", CT_GGUF_U64), put_u64(&b, UINT64_MAX);
    put_key(&b, "v.i64", CT_GGUF_I64), put(&b, &(int64_t){7}, 8);
    put_kv_str(&b, "v.text", "a\n\"b\"");
    put_kv_str(&b, "v.empty", "");
    put_array(&b, "a.str", CT_GGUF_STRING, 3), put_str(&b, "x"), put_str(&b, ""), put_str(&b, "\x1b[1m\xc3\xa9\xff");
    put_array(&b, "a.i32", CT_GGUF_I32, 20);
    for (int32_t i = 0; i < 20; i++) put(&b, &i, 4);
    put_array(&b, "a.f32", CT_GGUF_F32, 2), put(&b, (float[]){0.5f, -1e30f}, 8);
    put_array(&b, "a.bool", CT_GGUF_BOOL, 2), put(&b, "\0\1", 2);
    put_array(&b, "a.none", CT_GGUF_U64, 0);
    put_tensor(&b, "one", 1, DIMS(3), CT_F32, 0);
    put_tensor(&b, "two", 2, DIMS(64, 2), CT_Q4_0, 64);
    put_tensor(&b, "four", 4, DIMS(2, 1, 3, 2), CT_F16, 192);
    put_tensor(&b, "scalar", 0, NULL, CT_I8, 256);
    put_data(&b, 64, 257);
    return b;
}

static void check_everything(uint32_t version)
{
    test_guarded copy;
    cactus_error err;
    ct_gguf *g;
    bytes b = everything(version);
    if (!CHECK_MSG(open_guarded(b.data, b.size, &copy, &g, &err) == CACTUS_OK, "%s", err.message)) return;
    CHECK_UINT(ct_gguf_file_bytes(g), b.size);
    CHECK_INT(ct_gguf_n_kv(g), 22);
    CHECK_INT(ct_gguf_n_tensors(g), 4);
    CHECK(ct_gguf_kv_at(g, 22) == NULL && ct_gguf_tensor_at(g, 4) == NULL);
    for (size_t i = 0; i < 22; i++) { /* the order is the file's, and every key is found */
        char key[64];
        const ct_gguf_kv *kv = ct_gguf_kv_at(g, i);
        snprintf(key, sizeof key, "%.*s", (int)kv->key.size, kv->key.data);
        CHECK(ct_gguf_find_kv(g, key) == kv);
    }
    check_str(ct_gguf_kv_at(g, 0)->key, "general.architecture");
    CHECK(ct_gguf_find_kv(g, "v.u") == NULL && ct_gguf_find_kv(g, "v.u88") == NULL && ct_gguf_find_kv(g, "") == NULL);

    const ct_gguf_tensor *t = ct_gguf_find_tensor(g, "two");
    if (CHECK(t != NULL && t == ct_gguf_tensor_at(g, 1))) {
        CHECK_INT(t->n_dims, 2);
        CHECK(t->ne[0] == 64 && t->ne[1] == 2 && t->ne[2] == 1 && t->ne[3] == 1);
        CHECK(t->type == CT_Q4_0 && t->info == ct_type_get(CT_Q4_0));
        CHECK_INT(t->n_bytes, 72);
        CHECK_INT(t->data[0], 64); /* the data counts up */
    }
    t = ct_gguf_find_tensor(g, "four");
    if (CHECK(t != NULL)) CHECK(t->n_bytes == 24 && t->data[0] == 192);
    t = ct_gguf_find_tensor(g, "scalar");
    if (CHECK(t != NULL)) CHECK(t->n_bytes == 1 && t->n_dims == 0 && t->ne[0] == 1 && t->data[0] == 0);
    CHECK(ct_gguf_find_tensor(g, "three") == NULL && ct_gguf_find_tensor(g, "on") == NULL);
    ct_gguf_close(g);
    test_guarded_free(&copy);
    free(b.data);
}

TEST(version_2_opens) { check_everything(2); }
TEST(version_3_opens) { check_everything(3); }

TEST(typed_access)
{
    test_guarded copy;
    cactus_error err;
    ct_gguf *g;
    bytes b = everything(3);
    uint32_t u = 77;
    int32_t i = 77;
    float f = 77;
    bool flag = false, found = true;
    ct_str s = {"77", 2};
    const ct_gguf_kv *kv;
    if (!CHECK(open_guarded(b.data, b.size, &copy, &g, &err) == CACTUS_OK)) return;

    /* integers of any type, where they fit */
    CHECK(ct_gguf_get_u32(g, "v.u8", &u, NULL, &err) == CACTUS_OK && u == 200);
    CHECK(ct_gguf_get_u32(g, "v.u16", &u, &found, &err) == CACTUS_OK && u == 60000 && found);
    CHECK(ct_gguf_get_u32(g, "v.u32", &u, NULL, &err) == CACTUS_OK && u == 4000000000u);
    CHECK(ct_gguf_get_u32(g, "v.i64", &u, NULL, &err) == CACTUS_OK && u == 7);
    CHECK(ct_gguf_get_i32(g, "v.i8", &i, NULL, &err) == CACTUS_OK && i == -100);
    CHECK(ct_gguf_get_i32(g, "v.i16", &i, NULL, &err) == CACTUS_OK && i == -30000);
    CHECK(ct_gguf_get_i32(g, "v.i32", &i, NULL, &err) == CACTUS_OK && i == -2000000000);
    CHECK(ct_gguf_get_i32(g, "v.u16", &i, NULL, &err) == CACTUS_OK && i == 60000);
    u = 77, i = 77;
    CHECK(ct_gguf_get_u32(g, "v.i8", &u, NULL, &err) == CACTUS_ERROR_FORMAT);
    CHECK_CONTAINS(err.message, "the key v.i8 is -100 (i8), not an integer from 0 to 4294967295");
    CHECK(ct_gguf_get_u32(g, "v.u64", &u, &found, &err) == CACTUS_ERROR_FORMAT);
    CHECK_CONTAINS(err.message, "18446744073709551615");
    CHECK(ct_gguf_get_i32(g, "v.u32", &i, NULL, &err) == CACTUS_ERROR_FORMAT);
    CHECK(ct_gguf_get_i32(g, "v.f32", &i, NULL, &err) == CACTUS_ERROR_FORMAT);
    CHECK(ct_gguf_get_u32(g, "v.bool", &u, NULL, &err) == CACTUS_ERROR_FORMAT);
    CHECK_CONTAINS(err.message, "true (bool)");
    CHECK(ct_gguf_get_u32(g, "v.text", &u, NULL, &err) == CACTUS_ERROR_FORMAT);
    CHECK_CONTAINS(err.message, "the key v.text is \"a\\x0a\"b\"\", not");
    CHECK(ct_gguf_get_u32(g, "a.i32", &u, NULL, &err) == CACTUS_ERROR_FORMAT);
    CHECK_CONTAINS(err.message, "an array of 20 i32");
    CHECK(u == 77 && i == 77); /* untouched by failures */

    CHECK(ct_gguf_get_f32(g, "v.f32", &f, NULL, &err) == CACTUS_OK && f == 1e-5f);
    CHECK(ct_gguf_get_f32(g, "v.f64", &f, NULL, &err) == CACTUS_OK && f == 0.1f);
    CHECK(ct_gguf_get_f32(g, "v.huge", &f, NULL, &err) == CACTUS_ERROR_FORMAT);
    CHECK_CONTAINS(err.message, "the key v.huge is 1e+300 (f64), not a finite f32");
    CHECK(ct_gguf_get_f32(g, "v.nan", &f, NULL, &err) == CACTUS_ERROR_FORMAT);
    CHECK(ct_gguf_get_f32(g, "v.u32", &f, NULL, &err) == CACTUS_ERROR_FORMAT);
    CHECK(ct_gguf_get_bool(g, "v.bool", &flag, NULL, &err) == CACTUS_OK && flag);
    CHECK(ct_gguf_get_bool(g, "v.u8", &flag, NULL, &err) == CACTUS_ERROR_FORMAT);
    CHECK(ct_gguf_get_str(g, "general.architecture", &s, NULL, &err) == CACTUS_OK);
    check_str(s, "llama");
    CHECK(ct_gguf_get_str(g, "v.empty", &s, NULL, &err) == CACTUS_OK && s.size == 0);
    CHECK(ct_gguf_get_str(g, "a.str", &s, NULL, &err) == CACTUS_ERROR_FORMAT);

    /* absent */
    CHECK(ct_gguf_get_u32(g, "none", &u, &found, &err) == CACTUS_OK && !found && u == 77);
    CHECK(ct_gguf_get_bool(g, "none", &flag, NULL, &err) == CACTUS_ERROR_FORMAT);
    CHECK_STR(err.message, "model in memory: the key none is missing");
    kv = ct_gguf_kv_at(g, 0);
    CHECK(ct_gguf_get_array(g, "none", CT_GGUF_I32, &kv, &found, &err) == CACTUS_OK && kv == NULL && !found);

    /* arrays */
    CHECK(ct_gguf_get_array(g, "a.f32", CT_GGUF_I32, &kv, NULL, &err) == CACTUS_ERROR_FORMAT && kv == NULL);
    CHECK_CONTAINS(err.message, "the key a.f32 is an array of 2 f32, not an array of i32");
    CHECK(ct_gguf_get_array(g, "v.i32", CT_GGUF_I32, &kv, NULL, &err) == CACTUS_ERROR_FORMAT);
    if (CHECK(ct_gguf_get_array(g, "a.i32", CT_GGUF_I32, &kv, NULL, &err) == CACTUS_OK)) {
        CHECK(kv->count == 20 && kv->n_bytes == 80);
        CHECK_INT(ct_gguf_array_i64(kv, 19), 19);
        CHECK_FLOAT(ct_gguf_array_f64(kv, 19), 19);
        CHECK_INT(ct_gguf_array_i64(kv, 20), 0); /* outside */
    }
    if (CHECK(ct_gguf_get_array(g, "a.f32", CT_GGUF_F32, &kv, NULL, &err) == CACTUS_OK)) {
        CHECK_FLOAT(ct_gguf_array_f64(kv, 0), 0.5);
        CHECK_INT(ct_gguf_array_i64(kv, 1), INT64_MIN); /* -1e30 */
    }
    CHECK_INT(ct_gguf_array_i64(ct_gguf_find_kv(g, "v.u64"), 0), INT64_MAX);
    CHECK_INT(ct_gguf_array_i64(ct_gguf_find_kv(g, "v.nan"), 0), 0);
    if (CHECK(ct_gguf_get_array(g, "a.str", CT_GGUF_STRING, &kv, NULL, &err) == CACTUS_OK)) {
        size_t offset = 0;
        check_str(ct_gguf_array_next_str(kv, &offset), "x");
        check_str(ct_gguf_array_next_str(kv, &offset), "");
        check_str(ct_gguf_array_next_str(kv, &offset), "\x1b[1m\xc3\xa9\xff");
        CHECK_INT(offset, kv->n_bytes);
        check_str(ct_gguf_array_next_str(kv, &offset), ""); /* one too many */
        CHECK_INT(ct_gguf_array_i64(kv, 0), 0);
    }
    ct_gguf_close(g);
    test_guarded_free(&copy);
    free(b.data);
}

TEST(values_as_text)
{
    static const struct { const char *key, *want; } rows[] = {
        {"general.architecture", "llama"}, {"v.u8", "200"}, {"v.i32", "-2000000000"}, {"v.u64", "18446744073709551615"},
        {"v.f32", "1e-05"}, {"v.f64", "0.1"}, {"v.huge", "1e+300"}, {"v.bool", "true"}, {"v.text", "a\n\"b\""}, {"v.empty", ""},
        {"a.str", "[\"x\", \"\", \"\\x1b[1m\xc3\xa9\\xff\"]"},
        {"a.i32", "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, …]"}, {"a.f32", "[0.5, -1e+30]"},
        {"a.bool", "[false, true]"}, {"a.none", "[]"},
    };
    test_guarded copy;
    cactus_error err;
    ct_gguf *g;
    bytes b = everything(3);
    if (!CHECK(open_guarded(b.data, b.size, &copy, &g, &err) == CACTUS_OK)) return;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t size = 0;
        char *text = ct_gguf_format_value(ct_gguf_find_kv(g, rows[i].key), &size);
        CHECK_STR(text, rows[i].want);
        CHECK_INT(size, strlen(rows[i].want));
        ct_free(text);
    }
    ct_gguf_close(g);
    test_guarded_free(&copy);
    free(b.data);
}

TEST(text_with_nul_and_long_elements)
{
    test_guarded copy;
    cactus_error err;
    ct_gguf *g;
    bytes b = {0};
    char long_text[200];
    size_t size = 0;
    memset(long_text, 'x', sizeof long_text);
    put_header(&b, 3, 0, 2);
    put_key(&b, "nul", CT_GGUF_STRING), put_mem(&b, "a\0b", 3);
    put_array(&b, "long", CT_GGUF_STRING, 17);
    for (int i = 0; i < 17; i++) put_mem(&b, long_text, sizeof long_text);
    if (!CHECK(open_guarded(b.data, b.size, &copy, &g, &err) == CACTUS_OK)) return;
    char *text = ct_gguf_format_value(ct_gguf_find_kv(g, "nul"), &size);
    CHECK_INT(size, 3);
    CHECK_MEM(text, "a\0b", 4);
    ct_free(text);
    text = ct_gguf_format_value(ct_gguf_find_kv(g, "long"), &size);
    CHECK_INT(size, 1 + 16 * (1 + 63 + 3 + 1 + 2) + 3 + 1); /* 63 characters and a mark each */
    CHECK_INT(size, strlen(text));
    ct_free(text);
    ct_gguf_close(g);
    test_guarded_free(&copy);
    free(b.data);
}

TEST(a_vocabulary_needs_no_data)
{
    test_guarded copy;
    cactus_error err;
    ct_gguf *g;
    bytes b = {0};
    put_header(&b, 3, 0, 1);
    put_kv_str(&b, "k", "v"); /* the padding behind it is missing, as there is nothing to align */
    if (CHECK(open_guarded(b.data, b.size, &copy, &g, &err) == CACTUS_OK)) {
        CHECK_INT(ct_gguf_n_tensors(g), 0);
        CHECK(ct_gguf_find_tensor(g, "x") == NULL);
        ct_gguf_close(g);
    }
    test_guarded_free(&copy);
    free(b.data);
}

/* ---- refusals ---- */

TEST(refuses_other_files)
{
    bytes b = {0};
    REFUSED(b, CACTUS_ERROR_FORMAT, "the file is empty");
    put(&b, "GG", 2);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the header needs 24 bytes, but the file ends at 2");
    put(&b, "\x1b]0;", 4);
    REFUSED(b, CACTUS_ERROR_FORMAT, "no GGUF file: it starts with \"\\x1b]0;\" instead of \"GGUF\"");
    put(&b, "PK\3\4 and so on, a zip file of some length", 40);
    REFUSED(b, CACTUS_ERROR_FORMAT, "no GGUF file: it starts with \"PK\\x03\\x04\"");
    put_header(&b, 1, 0, 0);
    REFUSED(b, CACTUS_ERROR_UNSUPPORTED, "this is GGUF version 1; supported are 2 and 3");
    put_header(&b, 4, 0, 0);
    REFUSED(b, CACTUS_ERROR_UNSUPPORTED, "GGUF version 4");
    put_header(&b, 0, 0, 0);
    REFUSED(b, CACTUS_ERROR_UNSUPPORTED, "GGUF version 0");
    put_header(&b, 0x03000000, 0, 0);
    REFUSED(b, CACTUS_ERROR_UNSUPPORTED, "big-endian");
}

TEST(refuses_impossible_counts)
{
    bytes b = {0};
    put_header(&b, 3, 0, UINT64_MAX);
    REFUSED(b, CACTUS_ERROR_FORMAT, "it claims 18446744073709551615 metadata entries, but has only 24 bytes");
    put_header(&b, 3, 1, 0);
    put_data(&b, 1, 20);
    REFUSED(b, CACTUS_ERROR_FORMAT, "it claims 1 tensors, but has only 44 bytes");
    put_header(&b, 3, 0, 65537);
    put_data(&b, 1, 65537 * 14);
    REFUSED(b, CACTUS_ERROR_UNSUPPORTED, "it has 65537 metadata entries, more than 65536");
    put_header(&b, 3, 262145, 0);
    put_data(&b, 1, 262145 * 25);
    REFUSED(b, CACTUS_ERROR_UNSUPPORTED, "it has 262145 tensors, more than 262144");
}

TEST(refuses_bad_keys)
{
    bytes b = {0};
    put_header(&b, 3, 0, 1), put_kv_str(&b, "", "value, long enough");
    REFUSED(b, CACTUS_ERROR_FORMAT, "the key of metadata entry 0 has 0 bytes, not 1 to 65535");
    put_header(&b, 3, 0, 1), put_u64(&b, 65536), put_data(&b, 1, 70000);
    REFUSED(b, CACTUS_ERROR_FORMAT, "has 65536 bytes, not 1 to 65535");
    put_header(&b, 3, 0, 1), put_u64(&b, UINT64_MAX - 7), put_data(&b, 1, 20);
    REFUSED(b, CACTUS_ERROR_FORMAT, "metadata entry 0 needs 18446744073709551608 bytes at offset 32, but the file ends at 52");
    put_header(&b, 3, 0, 1), put_mem(&b, "a\0b", 3), put_u32(&b, CT_GGUF_U64), put_u64(&b, 1);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the key of metadata entry 0, \"a\\x00b\", is not UTF-8 without NUL");
    put_header(&b, 3, 0, 2), put_kv_u32(&b, "first", 1), put_kv_u32(&b, "\xc0\xaf", 1); /* overlong */
    REFUSED(b, CACTUS_ERROR_FORMAT, "the key of metadata entry 1, \"\\xc0\\xaf\", is not UTF-8");
    put_header(&b, 3, 0, 1), put_kv_u32(&b, "\xed\xa0\x80", 1); /* a surrogate */
    REFUSED(b, CACTUS_ERROR_FORMAT, "is not UTF-8");
    put_header(&b, 3, 0, 1), put_kv_u32(&b, "\xf4\x90\x80\x80", 1); /* behind U+10FFFF */
    REFUSED(b, CACTUS_ERROR_FORMAT, "is not UTF-8");
    put_header(&b, 3, 0, 1), put_kv_u32(&b, "ab\xe2\x82", 1); /* cut */
    REFUSED(b, CACTUS_ERROR_FORMAT, "is not UTF-8");
    put_header(&b, 3, 0, 3), put_kv_u32(&b, "twice", 1), put_kv_u32(&b, "other", 1), put_kv_str(&b, "twice", "");
    REFUSED(b, CACTUS_ERROR_FORMAT, "the key twice occurs twice");
}

TEST(names_in_messages_are_safe)
{
    bytes b = {0};
    char key[101] = {0};
    /* escape sequence, C1 control, right-to-left override; ordinary non-ASCII text stays */
    const char *evil = "\x1b[31m\xc2\x9b\xe2\x80\xae h\xc3\xa9!";
    put_header(&b, 3, 0, 2), put_kv_u32(&b, evil, 1), put_kv_u32(&b, evil, 1);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the key \\x1b[31m\\xc2\\x9b\\xe2\\x80\\xae h\xc3\xa9! occurs twice");
    memset(key, 'k', 64);
    put_header(&b, 3, 0, 2), put_kv_u32(&b, key, 1), put_kv_u32(&b, key, 1);
    REFUSED(b, CACTUS_ERROR_FORMAT, "kkk occurs twice"); /* 64 characters are shown */
    memset(key, 'k', 100);
    put_header(&b, 3, 0, 2), put_kv_u32(&b, key, 1), put_kv_u32(&b, key, 1);
    REFUSED(b, CACTUS_ERROR_FORMAT, "kkk… occurs twice");
}

TEST(refuses_bad_values)
{
    bytes b = {0};
    put_header(&b, 3, 0, 1), put_key(&b, "k", 13), put_u64(&b, 0);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the key k has the unknown value type 13");
    put_header(&b, 3, 0, 1), put_array(&b, "k", 0x80000000u, 0);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the key k has the unknown element type 2147483648");
    put_header(&b, 3, 0, 1), put_array(&b, "k", CT_GGUF_ARRAY, 1), put_u32(&b, CT_GGUF_U8), put_u64(&b, 0);
    REFUSED(b, CACTUS_ERROR_UNSUPPORTED, "the key k is an array of arrays");
    put_header(&b, 3, 0, 1), put_array(&b, "k", CT_GGUF_U32, 3), put_u64(&b, 0);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the array k claims 3 elements, but only 8 bytes are left");
    put_header(&b, 3, 0, 1), put_array(&b, "k", CT_GGUF_U64, UINT64_MAX / 8 + 2), put_u64(&b, 0); /* × 8 wraps to 8 */
    REFUSED(b, CACTUS_ERROR_FORMAT, "the array k claims 2305843009213693953 elements");
    put_header(&b, 3, 0, 1), put_array(&b, "k", CT_GGUF_STRING, 1u << 30), put_str(&b, "");
    REFUSED(b, CACTUS_ERROR_FORMAT, "the array k claims 1073741824 elements, but only 8 bytes are left");
    put_header(&b, 3, 0, 1), put_array(&b, "k", CT_GGUF_STRING, 2), put_str(&b, "x"), put_u64(&b, 1);
    REFUSED(b, CACTUS_ERROR_FORMAT, "string 1 of the array k needs 1 bytes at offset 58, but the file ends at 66");
    put_header(&b, 3, 0, 1), put_array(&b, "k", CT_GGUF_STRING, 2), put_str(&b, "123456789"), put(&b, "1234", 4);
    REFUSED(b, CACTUS_ERROR_FORMAT, "string 1 of the array k needs 0 bytes at offset 66");
    put_header(&b, 3, 0, 1), put_array(&b, "k", CT_GGUF_STRING, 1), put_u64(&b, UINT64_MAX);
    REFUSED(b, CACTUS_ERROR_FORMAT, "string 0 of the array k needs 18446744073709551615 bytes");
    put_header(&b, 3, 0, 1), put_key(&b, "k", CT_GGUF_STRING), put_u64(&b, UINT64_MAX - 40);
    REFUSED(b, CACTUS_ERROR_FORMAT, "metadata entry 0 needs 18446744073709551575 bytes");
    put_header(&b, 3, 0, 1), put_key(&b, "k", CT_GGUF_F64), put_u32(&b, 0);
    REFUSED(b, CACTUS_ERROR_FORMAT, "metadata entry 0 needs 8 bytes at offset 37, but the file ends at 41");
}

TEST(refuses_bad_alignment)
{
    static const uint32_t bad[] = {0, 1, 4, 24, 33, 131072, 0x80000000u};
    bytes b = {0};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char part[80];
        snprintf(part, sizeof part, "general.alignment is %u, not a power of two from 8 to 65536", bad[i]);
        put_header(&b, 3, 0, 1), put_kv_u32(&b, "general.alignment", bad[i]);
        REFUSED(b, CACTUS_ERROR_FORMAT, part);
    }
    put_header(&b, 3, 0, 1), put_kv_str(&b, "general.alignment", "32");
    REFUSED(b, CACTUS_ERROR_FORMAT, "the key general.alignment is \"32\", not an integer");
}

static bytes one_tensor(const char *name, uint32_t n_dims, const uint64_t *ne, uint32_t type, uint64_t offset, size_t n_bytes)
{
    bytes b = {0};
    put_header(&b, 3, 1, 0);
    put_tensor(&b, name, n_dims, ne, type, offset);
    put_data(&b, 32, n_bytes);
    return b;
}

TEST(refuses_bad_tensors)
{
    bytes b;
    char name[258] = {0};
    memset(name, 'n', 257);
    b = one_tensor("", 1, DIMS(4), CT_F32, 0, 16);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the name of tensor 0 has 0 bytes, not 1 to 256");
    b = one_tensor(name, 1, DIMS(4), CT_F32, 0, 16);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the name of tensor 0 has 257 bytes");
    b = one_tensor("t\xff", 1, DIMS(4), CT_F32, 0, 16);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the name of tensor 0, \"t\\xff\", is not UTF-8");
    b = one_tensor("t", 5, DIMS(1, 1, 1, 1, 1), CT_F32, 0, 16);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the tensor t has 5 dimensions, more than 4");
    b = one_tensor("t", 3, DIMS(4, 0, 1), CT_F32, 0, 16);
    REFUSED(b, CACTUS_ERROR_FORMAT, "dimension 1 of the tensor t is 0");
    b = one_tensor("t", 2, DIMS(1ull << 32, 1ull << 31), CT_I8, 0, 16);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the dimensions of the tensor t overflow: the last is 2147483648");
    b = one_tensor("t", 4, DIMS(1ull << 32, 1ull << 32, 1ull << 32, 1ull << 32), CT_F32, 0, 16);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the dimensions of the tensor t overflow");
    b = one_tensor("t", 1, DIMS(UINT64_MAX), CT_F32, 0, 16);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the dimensions of the tensor t overflow");
    b = one_tensor("t", 1, DIMS((1ull << 62) + 1), CT_F32, 0, 16); /* × 4 wraps to 4 */
    REFUSED(b, CACTUS_ERROR_FORMAT, "the size of the tensor t overflows: 4611686018427387905 elements of F32");
    b = one_tensor("t", 2, DIMS(4, (1ull << 60) + 1), CT_F32, 0, 16);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the size of the tensor t overflows");
    b = one_tensor("t", 2, DIMS(33, 2), CT_Q4_0, 0, 72);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the rows of the tensor t have 33 elements, no multiple of the 32 of a block of Q4_0");
    b = one_tensor("t", 1, DIMS(128), CT_Q6_K, 0, 210);
    REFUSED(b, CACTUS_ERROR_FORMAT, "no multiple of the 256 of a block of Q6_K");
    b = one_tensor("blk.0.x", 1, DIMS(32), 31, 0, 100);
    REFUSED(b, CACTUS_ERROR_UNSUPPORTED, "the tensor blk.0.x has the unknown type 31");
    b = one_tensor("t", 1, DIMS(32), UINT32_MAX, 0, 100);
    REFUSED(b, CACTUS_ERROR_UNSUPPORTED, "unknown type 4294967295");
}

TEST(refuses_bad_extents)
{
    bytes b;
    b = one_tensor("t", 1, DIMS(4), CT_F32, 0, 15);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the data of the tensor t runs past the end of the file: 16 bytes at offset 0 of the data, "
                                    "which is 15 bytes long");
    b = one_tensor("t", 1, DIMS(4), CT_F32, 32, 47);
    REFUSED(b, CACTUS_ERROR_FORMAT, "16 bytes at offset 32");
    b = one_tensor("t", 1, DIMS(4), CT_F32, 0, 0);
    b.size -= 4; /* not even the padding is whole */
    REFUSED(b, CACTUS_ERROR_FORMAT, "which is 0 bytes long");
    b = one_tensor("t", 1, DIMS(4), CT_F32, UINT64_MAX - 31, 64);
    REFUSED(b, CACTUS_ERROR_FORMAT, "at offset 18446744073709551584");
    b = one_tensor("t", 1, DIMS(1ull << 40), CT_F32, 0, 64);
    REFUSED(b, CACTUS_ERROR_FORMAT, "4398046511104 bytes at offset 0");
    b = one_tensor("t", 1, DIMS(4), CT_F32, 8, 64);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the data of the tensor t is at offset 8, no multiple of the file's alignment 32");
}

TEST(a_last_tensor_may_end_with_the_file)
{
    test_guarded copy;
    cactus_error err;
    ct_gguf *g;
    bytes b = one_tensor("t", 1, DIMS(5), CT_F16, 0, 10);
    if (CHECK(open_guarded(b.data, b.size, &copy, &g, &err) == CACTUS_OK)) {
        const ct_gguf_tensor *t = ct_gguf_tensor_at(g, 0);
        CHECK(t->data + t->n_bytes == copy.data + b.size);
        ct_gguf_close(g);
    }
    test_guarded_free(&copy);
    free(b.data);
}

static bytes two_tensors(const char *name_1, uint64_t offset_1, const char *name_2, uint64_t offset_2)
{
    bytes b = {0};
    put_header(&b, 3, 2, 0);
    put_tensor(&b, name_1, 1, DIMS(9), CT_F32, offset_1); /* 36 bytes */
    put_tensor(&b, name_2, 1, DIMS(4), CT_F32, offset_2);
    put_data(&b, 32, 200);
    return b;
}

TEST(refuses_shared_names_and_bytes)
{
    bytes b = two_tensors("same", 0, "same", 64);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the tensor same occurs twice");
    b = two_tensors("one", 0, "two", 32);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the tensors one and two overlap");
    b = two_tensors("one", 64, "two", 96); /* whichever order */
    REFUSED(b, CACTUS_ERROR_FORMAT, "the tensors one and two overlap");
    b = two_tensors("one", 64, "two", 64);
    REFUSED(b, CACTUS_ERROR_FORMAT, " overlap");
}

TEST(tensors_may_come_in_any_order)
{
    test_guarded copy;
    cactus_error err;
    ct_gguf *g;
    bytes b = two_tensors("z", 96, "a", 32);
    if (CHECK_MSG(open_guarded(b.data, b.size, &copy, &g, &err) == CACTUS_OK, "%s", err.message)) {
        check_str(ct_gguf_tensor_at(g, 0)->name, "z");
        CHECK_INT(ct_gguf_find_tensor(g, "a")->data[0], 32);
        ct_gguf_close(g);
    }
    test_guarded_free(&copy);
    free(b.data);
}

/* Types that have a size but no decoder are the model loader's business. */
TEST(a_type_without_decoder_opens)
{
    test_guarded copy;
    cactus_error err;
    ct_gguf *g;
    bytes b = one_tensor("t", 2, DIMS(256, 2), CT_Q8_K, 0, 584);
    if (CHECK(open_guarded(b.data, b.size, &copy, &g, &err) == CACTUS_OK)) {
        CHECK(ct_gguf_tensor_at(g, 0)->info->decode_f32 == NULL);
        CHECK_INT(ct_gguf_tensor_at(g, 0)->n_bytes, 584);
        ct_gguf_close(g);
    }
    test_guarded_free(&copy);
    free(b.data);
}

/* ---- damage everywhere ---- */

/* Reads all that an open file offers, so that a wrong pointer or size faults. */
static size_t walk(const ct_gguf *g)
{
    size_t sum = 0;
    for (size_t i = 0; i < ct_gguf_n_kv(g); i++) {
        const ct_gguf_kv *kv = ct_gguf_kv_at(g, i);
        size_t n = 0, offset = 0;
        char *text = ct_gguf_format_value(kv, &n);
        sum += n;
        ct_free(text);
        for (uint64_t k = 0; k < kv->count; k++) {
            ct_str s = ct_gguf_array_next_str(kv, &offset);
            for (size_t c = 0; c < s.size; c++) sum += (uint8_t)s.data[c];
            sum += (size_t)ct_gguf_array_i64(kv, k);
        }
    }
    for (size_t i = 0; i < ct_gguf_n_tensors(g); i++) {
        const ct_gguf_tensor *t = ct_gguf_tensor_at(g, i);
        for (size_t k = 0; k < t->n_bytes; k++) sum += t->data[k];
    }
    return sum;
}

TEST(every_truncation_is_refused)
{
    bytes b = everything(3);
    size_t refused = 0, checked = 0;
    for (size_t size = 0; size < b.size; size++, checked++) {
        test_guarded copy;
        cactus_error err;
        ct_gguf *g;
        cactus_status status = open_guarded(b.data, size, &copy, &g, &err);
        refused += CHECK_MSG(status == CACTUS_ERROR_FORMAT && err.message[0] != '\0', "%zu bytes: status %d, %s", size,
                             (int)status, err.message);
        ct_gguf_close(g);
        test_guarded_free(&copy);
    }
    CHECK_INT(refused, checked);
    free(b.data);
}

TEST(no_changed_byte_does_harm)
{
    bytes b = everything(3);
    size_t n_opened = 0, n_refused = 0, header = b.size - 257, sum = 0;
    for (size_t at = 0; at < header; at++)
        for (int change = 0; change < 6; change++) {
            static const uint8_t flips[] = {0x01, 0x80, 0xff, 0x10, 0x7f, 0x40};
            test_guarded copy = test_guarded_alloc(b.size);
            cactus_error err;
            ct_gguf *g;
            memcpy(copy.data, b.data, b.size);
            copy.data[at] ^= flips[change];
            cactus_status status = ct_gguf_open_memory(copy.data, b.size, &g, &err);
            if (status == CACTUS_OK) {
                n_opened++;
                sum += walk(g);
                ct_gguf_close(g);
            } else {
                n_refused++;
                bool expected = status == CACTUS_ERROR_FORMAT || status == CACTUS_ERROR_UNSUPPORTED;
                CHECK_MSG(expected && g == NULL && err.message[0] != '\0', "byte %zu: status %d, %s", at, (int)status,
                          err.message);
            }
            test_guarded_free(&copy);
        }
    CHECK_MSG(n_opened > 100 && n_refused > 1000, "%zu opened, %zu refused, sum %zu", n_opened, n_refused, sum);
    free(b.data);
}

/* ---- files and split models ---- */

static char directory[512];

static const char *in_directory(const char *name)
{
    static char path[4][1024];
    static size_t next;
    char *out = path[next++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", directory, name);
    return out;
}

static void write_file(const char *name, bytes *b)
{
    FILE *file = fopen(in_directory(name), "wb");
    if (!CHECK_MSG(file != NULL, "cannot write %s", in_directory(name))) return;
    CHECK(b->size == 0 || fwrite(b->data, 1, b->size, file) == b->size);
    fclose(file);
    free(b->data);
    *b = (bytes){0};
}

static void make_directory(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(directory, sizeof directory, "%s/cactus-test-XXXXXX", base != NULL && base[0] != '\0' ? base : P_tmpdir);
    if (!CHECK(mkdtemp(directory) != NULL)) directory[0] = '\0';
}

static void remove_directory(const char *const *names)
{
    for (; *names != NULL; names++) remove(in_directory(*names));
    CHECK(rmdir(directory) == 0);
}

static void check_path_refused(const char *path, cactus_status status, const char *part)
{
    cactus_error err = {0};
    ct_gguf *g;
    CHECK_INT(ct_gguf_open(path, &g, &err), status);
    CHECK(g == NULL);
    CHECK_CONTAINS(err.message, part);
}

TEST(files_that_cannot_be_mapped)
{
    cactus_error err;
    ct_gguf *g;
    bytes b = {0};
    make_directory();
    if (directory[0] == '\0') return;
    check_path_refused(in_directory("none.gguf"), CACTUS_ERROR_IO, "/none.gguf: no such file");
    check_path_refused(directory, CACTUS_ERROR_IO, ": it is a directory");
    check_path_refused("/dev/null", CACTUS_ERROR_IO, "cannot read /dev/null: it is not a regular file");
    if (CHECK(mkfifo(in_directory("pipe"), 0600) == 0)) /* must not wait for a writer */
        check_path_refused(in_directory("pipe"), CACTUS_ERROR_IO, "/pipe: it is not a regular file");
    write_file("empty", &b);
    check_path_refused(in_directory("empty"), CACTUS_ERROR_FORMAT, "/empty: the file is empty");
    check_path_refused(in_directory("empty/below"), CACTUS_ERROR_IO, "is not a directory");

    b = everything(3);
    size_t size = b.size;
    write_file("good", &b);
    if (CHECK_MSG(ct_gguf_open(in_directory("good"), &g, &err) == CACTUS_OK, "%s", err.message)) {
        CHECK_UINT(ct_gguf_file_bytes(g), size);
        CHECK_INT((uintptr_t)ct_gguf_find_tensor(g, "two")->data % 64, 0); /* a map is aligned, so are its tensors */
        walk(g);
        ct_gguf_close(g);
    }
    char long_path[5000];
    memset(long_path, 'p', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = '\0';
    check_path_refused(long_path, CACTUS_ERROR_IO, "p: its name is too long"); /* the reason survives */
    ct_gguf_close(NULL);
    remove_directory((const char *const[]){"pipe", "empty", "good", NULL});
}

/* tests/data/gguf is made by scripts/make_gguf_samples.py with gguf-py: another writer than the one above. */
TEST(files_of_another_writer)
{
    static const char *const paths[] = {"tests/data/gguf/sample-v2.gguf", "tests/data/gguf/sample-v3.gguf"};
    for (size_t p = 0; p < 2; p++) {
        cactus_error err;
        ct_gguf *g;
        uint32_t u = 0;
        int32_t i = 0;
        float f = 0;
        bool flag = false;
        ct_str s = {"", 0};
        const ct_gguf_kv *kv = NULL;
        size_t offset = 0;
        if (!CHECK_MSG(ct_gguf_open(paths[p], &g, &err) == CACTUS_OK, "%s", err.message)) continue;
        CHECK(ct_gguf_get_u32(g, "sample.u16", &u, NULL, &err) == CACTUS_OK && u == 60000);
        CHECK(ct_gguf_get_i32(g, "sample.i32", &i, NULL, &err) == CACTUS_OK && i == -2000000000);
        CHECK(ct_gguf_get_f32(g, "sample.f32", &f, NULL, &err) == CACTUS_OK && f == 0.1f);
        CHECK(ct_gguf_get_bool(g, "sample.bool", &flag, NULL, &err) == CACTUS_OK && flag);
        CHECK_INT(ct_gguf_array_i64(ct_gguf_find_kv(g, "sample.i64"), 0), -((int64_t)1 << 40));
        CHECK_FLOAT(ct_gguf_array_f64(ct_gguf_find_kv(g, "sample.u64"), 0), 0x1p63);
        CHECK(ct_gguf_get_str(g, "sample.text", &s, NULL, &err) == CACTUS_OK);
        check_str(s, "Gr\xc3\xbc\xc3\x9f" "e\n");
        if (CHECK(ct_gguf_get_array(g, "sample.strings", CT_GGUF_STRING, &kv, NULL, &err) == CACTUS_OK && kv->count == 3)) {
            check_str(ct_gguf_array_next_str(kv, &offset), "a");
            check_str(ct_gguf_array_next_str(kv, &offset), "");
            check_str(ct_gguf_array_next_str(kv, &offset), "\xe6\x97\xa5\xe6\x9c\xac");
        }
        if (CHECK(ct_gguf_get_array(g, "sample.floats", CT_GGUF_F32, &kv, NULL, &err) == CACTUS_OK))
            CHECK_FLOAT(ct_gguf_array_f64(kv, 1), -0.25);
        for (uint32_t type = 0; type < CT_N_TYPES; type++) { /* one tensor of each type, 256 elements from -1 to 1 or 0 */
            const ct_type_info *info = ct_type_get(type);
            char name[64];
            float row[256];
            if (info == NULL || type == CT_Q2_0) continue; /* newer than gguf-py 0.19 */
            snprintf(name, sizeof name, "weights.%s", info->name);
            const ct_gguf_tensor *t = ct_gguf_find_tensor(g, name);
            if (!CHECK_MSG(t != NULL, "%s is not there", name)) continue;
            CHECK(t->info == info && t->n_dims == 2 && t->ne[0] == 256 && t->ne[1] == 1);
            CHECK_INT(t->n_bytes, 256 / info->block_elems * info->block_bytes);
            CHECK_INT((uintptr_t)t->data % 64, 0);
            if (info->decode_f32 == NULL) continue;
            info->decode_f32(t->data, 256, row);
            if (row[0] == 0.0f) continue; /* a type that gguf-py does not write */
            double step = type == CT_TQ2_0 ? 0.5 : 0.1;
            for (int k = 0; k < 256; k++)
                if (!CHECK_NEAR(row[k], -1.0 + 2.0 * k / 255.0, step)) break;
        }
        walk(g);
        ct_gguf_close(g);
    }
}

/* Part `no` of `count`, whose one tensor is called `name`; total < 0 leaves split.tensors.count out. */
static bytes split_part(uint16_t no, uint16_t count, int32_t total, const char *name)
{
    bytes b = {0};
    put_header(&b, 3, name != NULL, 3 + (total >= 0));
    put_kv_u32(&b, "part.number", no + 1u);
    put_key(&b, "split.no", CT_GGUF_U16), put(&b, &no, 2);
    put_key(&b, "split.count", CT_GGUF_U16), put(&b, &count, 2);
    if (total >= 0) put_key(&b, "split.tensors.count", CT_GGUF_I32), put(&b, &total, 4);
    if (name != NULL) put_tensor(&b, name, 1, DIMS(no + 1u), CT_F32, 0);
    put_data(&b, 32, 4 * (no + 1u));
    return b;
}

static void write_part(const char *file, uint16_t no, uint16_t count, int32_t total, const char *name)
{
    bytes b = split_part(no, count, total, name);
    write_file(file, &b);
}

TEST(split_models)
{
    static const char first[] = "m-00001-of-00003.gguf", second[] = "m-00002-of-00003.gguf", third[] = "m-00003-of-00003.gguf";
    cactus_error err;
    ct_gguf *g;
    make_directory();
    if (directory[0] == '\0') return;

    write_part(first, 0, 3, 3, "a");
    check_path_refused(in_directory(first), CACTUS_ERROR_IO, "m-00002-of-00003.gguf: no such file");
    write_part(second, 1, 3, 3, "b");
    write_part(third, 2, 3, 3, "c");
    if (CHECK_MSG(ct_gguf_open(in_directory(first), &g, &err) == CACTUS_OK, "%s", err.message)) {
        CHECK_INT(ct_gguf_n_tensors(g), 3);
        CHECK_INT(ct_gguf_n_kv(g), 4); /* the first part's */
        CHECK_INT(ct_gguf_array_i64(ct_gguf_find_kv(g, "part.number"), 0), 1);
        CHECK_INT(ct_gguf_find_tensor(g, "b")->ne[0], 2);
        CHECK_INT(ct_gguf_find_tensor(g, "c")->n_bytes, 12);
        check_str(ct_gguf_tensor_at(g, 2)->name, "c");
        uint64_t sum = 0;
        struct stat st;
        sum += stat(in_directory(first), &st) == 0 ? (uint64_t)st.st_size : 0;
        sum += stat(in_directory(second), &st) == 0 ? (uint64_t)st.st_size : 0;
        sum += stat(in_directory(third), &st) == 0 ? (uint64_t)st.st_size : 0;
        CHECK_UINT(ct_gguf_file_bytes(g), sum);
        walk(g);
        ct_gguf_close(g);
    }
    check_path_refused(in_directory(third), CACTUS_ERROR_FORMAT,
                       "this is part 3 of 3 of a split model; open the first part, whose name ends in -00001-of-00003.gguf");
    write_part(third, 2, 3, 3, "a");
    check_path_refused(in_directory(first), CACTUS_ERROR_FORMAT, "the tensor a occurs twice");
    write_part(third, 1, 3, 3, "c");
    check_path_refused(in_directory(first), CACTUS_ERROR_FORMAT,
                       "m-00003-of-00003.gguf: it says that it is part 2 of 3, but part 3 of 3 is needed here");
    write_part(third, 2, 4, 3, "c");
    check_path_refused(in_directory(first), CACTUS_ERROR_FORMAT, "it says that it is part 3 of 4");
    bytes whole = everything(3);
    write_file(third, &whole);
    check_path_refused(in_directory(first), CACTUS_ERROR_FORMAT, "it says that it is part 1 of 1");
    bytes cut = split_part(2, 3, 3, "c");
    cut.size -= 1;
    write_file(third, &cut);
    check_path_refused(in_directory(first), CACTUS_ERROR_FORMAT, "m-00003-of-00003.gguf: the data of the tensor c runs past");
    write_part(third, 2, 3, 3, NULL);
    check_path_refused(in_directory(first), CACTUS_ERROR_FORMAT, "split.tensors.count is 3, but the parts hold 2 tensors");
    write_part(third, 2, 3, 3, "c");
    write_part(first, 0, 3, -1, NULL); /* no total, and no tensor in the first part */
    if (CHECK_MSG(ct_gguf_open(in_directory(first), &g, &err) == CACTUS_OK, "%s", err.message)) {
        CHECK_INT(ct_gguf_n_tensors(g), 2);
        ct_gguf_close(g);
    }
    write_part("renamed.gguf", 0, 3, 3, "a");
    check_path_refused(in_directory("renamed.gguf"), CACTUS_ERROR_IO, "its name must end in -00001-of-00003.gguf");
    write_part("single.gguf", 0, 1, 1, "a");
    if (CHECK(ct_gguf_open(in_directory("single.gguf"), &g, &err) == CACTUS_OK)) ct_gguf_close(g);
    remove_directory((const char *const[]){first, second, third, "renamed.gguf", "single.gguf", NULL});
}

TEST(split_keys_that_make_no_sense)
{
    bytes b = split_part(3, 3, 1, "a");
    REFUSED(b, CACTUS_ERROR_FORMAT, "split.no is 3, but split.count is 3");
    b = split_part(0, 3, 1, "a");
    REFUSED(b, CACTUS_ERROR_UNSUPPORTED, "this is part 1 of 3 of a split model, which can only be opened by its path");
    put_header(&b, 3, 0, 1), put_kv_u32(&b, "split.count", 100000);
    REFUSED(b, CACTUS_ERROR_FORMAT, "split.count is 100000, more than 99999");
    put_header(&b, 3, 0, 1), put_kv_u32(&b, "split.count", 2);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the key split.no is missing");
    put_header(&b, 3, 0, 1), put_key(&b, "split.count", CT_GGUF_I32), put(&b, &(int32_t){-1}, 4);
    REFUSED(b, CACTUS_ERROR_FORMAT, "the key split.count is -1 (i32)");
}

/* ---- below: memory, CPU ---- */

TEST(memory_is_aligned_and_zero)
{
    static const size_t sizes[] = {0, 1, 63, 64, 1000, 3 << 20, 5 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t *p = ct_alloc(sizes[i], 1), any = 0;
        if (!CHECK(p != NULL) || !CHECK_INT((uintptr_t)p % 64, 0)) continue;
        for (size_t k = 0; k < sizes[i]; k++) any |= p[k];
        CHECK_INT(any, 0);
        if (sizes[i] > 0) memset(p, 0xff, sizes[i]); /* writable throughout, and dirty for the next one */
        ct_free(p);
    }
    CHECK(ct_alloc(SIZE_MAX / 2, 3) == NULL);
    CHECK(ct_alloc(SIZE_MAX, 1) == NULL);
    ct_free(NULL);
}

TEST(reserved_memory_is_zero_where_touched)
{
    size_t n_bytes = (size_t)1 << 30;
    uint8_t *p = ct_reserve(n_bytes);
    if (!CHECK(p != NULL)) return;
    CHECK(p[0] == 0 && p[n_bytes - 1] == 0);
    p[n_bytes / 2] = 1;
    CHECK_INT(p[n_bytes / 2], 1);
    ct_release(p, n_bytes);
    CHECK(ct_reserve(0) == NULL);
    ct_release(NULL, 0);
}

TEST(cpu_features_are_consistent)
{
    const ct_cpu *cpu = ct_cpu_detect();
    const char *names = cactus_cpu_features();
    CHECK(cpu == ct_cpu_detect() && names == cactus_cpu_features());
    CHECK(!cpu->avx512 || (cpu->avx2 && cpu->fma));
    CHECK(!cpu->avx512_vnni || cpu->avx512);
    CHECK_INT(strstr(names, "avx512_vnni") != NULL, cpu->avx512_vnni);
    CHECK_INT(strstr(names, "dotprod") != NULL, cpu->dotprod);
    CHECK_INT(strncmp(names, "avx2", 4) == 0, cpu->avx2);
#if defined(__x86_64__) && defined(__GNUC__)
    /* what the compiler's runtime sees; it looks at XGETBV, too */
    __builtin_cpu_init();
    CHECK_INT(cpu->avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"));
    CHECK_INT(cpu->fma, __builtin_cpu_supports("fma") != 0);
    CHECK_INT(cpu->avx512, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"));
    CHECK_INT(cpu->avx512_vnni, __builtin_cpu_supports("avx512vnni") != 0);
    CHECK_INT(cpu->avx512_vbmi, __builtin_cpu_supports("avx512vbmi") != 0);
#elif defined(__aarch64__)
    CHECK(cpu->neon);
#endif
}

TEST(default_threads_follow_the_affinity)
{
    int32_t before = cactus_default_threads();
    CHECK(before >= 1);
#if defined(__linux__)
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) != 0) SKIP("the affinity cannot be read");
    CHECK(before <= CPU_COUNT(&all));
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE; i++)
        if (CPU_ISSET(i, &all)) {
            CPU_SET(i, &one);
            break;
        }
    if (sched_setaffinity(0, sizeof one, &one) != 0) SKIP("the affinity cannot be set");
    CHECK_INT(cactus_default_threads(), 1);
    CHECK(sched_setaffinity(0, sizeof all, &all) == 0);
    CHECK_INT(cactus_default_threads(), before);
#endif
}

TEST_MAIN()
