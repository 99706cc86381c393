/* values.c: metadata values as C types, and as text. */
#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/internal.h"

static const char *const type_names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64",
                                         "f64"};

/* ---- one value ------------------------------------------------------------------------------------------------------ */

/* A numeric value of the file, widened. Booleans count as unsigned. */
typedef struct number {
    enum { NOT_A_NUMBER, UNSIGNED, SIGNED, REAL } kind;
    uint64_t u;
    int64_t i;
    double f;
} number;

#define LOAD(kind_, field, c_type)                                 \
    {                                                              \
        c_type v;                                                  \
        memcpy(&v, p, sizeof v);                                   \
        return (number){.kind = kind_, .field = v};                \
    }

static number load(ct_gguf_value_type type, const uint8_t *p)
{
    switch (type) {
    case CT_GGUF_U8: LOAD(UNSIGNED, u, uint8_t)
    case CT_GGUF_BOOL: LOAD(UNSIGNED, u, uint8_t)
    case CT_GGUF_U16: LOAD(UNSIGNED, u, uint16_t)
    case CT_GGUF_U32: LOAD(UNSIGNED, u, uint32_t)
    case CT_GGUF_U64: LOAD(UNSIGNED, u, uint64_t)
    case CT_GGUF_I8: LOAD(SIGNED, i, int8_t)
    case CT_GGUF_I16: LOAD(SIGNED, i, int16_t)
    case CT_GGUF_I32: LOAD(SIGNED, i, int32_t)
    case CT_GGUF_I64: LOAD(SIGNED, i, int64_t)
    case CT_GGUF_F32: LOAD(REAL, f, float)
    case CT_GGUF_F64: LOAD(REAL, f, double)
    case CT_GGUF_STRING:
    case CT_GGUF_ARRAY: break;
    }
    return (number){.kind = NOT_A_NUMBER};
}

static size_t number_bytes(ct_gguf_value_type type)
{
    switch (type) {
    case CT_GGUF_U8: case CT_GGUF_I8: case CT_GGUF_BOOL: return 1;
    case CT_GGUF_U16: case CT_GGUF_I16: return 2;
    case CT_GGUF_U32: case CT_GGUF_I32: case CT_GGUF_F32: return 4;
    case CT_GGUF_U64: case CT_GGUF_I64: case CT_GGUF_F64: return 8;
    case CT_GGUF_STRING: case CT_GGUF_ARRAY: break;
    }
    return 0;
}

/* A number as text. */
typedef struct digits {
    char text[32];
} digits;

/* The shortest decimal form that reads back as the same number. */
static digits format_real(double value, bool is_single)
{
    digits out;
    for (int n = 6; n <= (is_single ? FLT_DECIMAL_DIG : DBL_DECIMAL_DIG); n++) {
        snprintf(out.text, sizeof out.text, "%.*g", n, value);
        if (is_single ? strtof(out.text, NULL) == (float)value : strtod(out.text, NULL) == value) break;
    }
    for (char *p = out.text; *p != '\0'; p++) /* the caller's locale may write a comma */
        if (*p == ',') *p = '.';
    return out;
}

static digits format_number(ct_gguf_value_type type, const uint8_t *p)
{
    digits out;
    number n = load(type, p);
    if (n.kind == REAL) return format_real(n.f, type == CT_GGUF_F32);
    if (type == CT_GGUF_BOOL) snprintf(out.text, sizeof out.text, "%s", n.u != 0 ? "true" : "false");
    else if (n.kind == UNSIGNED) snprintf(out.text, sizeof out.text, "%" PRIu64, n.u);
    else snprintf(out.text, sizeof out.text, "%" PRId64, n.i);
    return out;
}

/* ---- typed access --------------------------------------------------------------------------------------------------- */

static ct_str key_str(const char *key) { return (ct_str){key, strlen(key)}; }

/* The key's row, or NULL: then *status is what the caller returns. */
static const ct_gguf_kv *look_up(const ct_gguf *gguf, const char *key, bool *found, cactus_error *err, cactus_status *status)
{
    char shown[CT_SHOWN_BYTES];
    const ct_gguf_kv *kv = ct_gguf_find_kv(gguf, key);
    if (found != NULL) *found = kv != NULL;
    *status = CACTUS_OK;
    if (kv == NULL && found == NULL)
        *status = ct_gguf_refuse(gguf, err, CACTUS_ERROR_FORMAT, "the key %s is missing",
                                 ct_gguf_printable(shown, key_str(key), CT_SHOWN_CHARS));
    return kv;
}

/* "KEY is VALUE, not WANTED" */
static cactus_status refuse_value(const ct_gguf *gguf, const ct_gguf_kv *kv, const char *wanted, cactus_error *err)
{
    char key[CT_SHOWN_BYTES], text[CT_SHOWN_BYTES + 8];
    ct_gguf_printable(key, kv->key, CT_SHOWN_CHARS);
    if (kv->type == CT_GGUF_STRING) {
        ct_gguf_printable(text + 1, ct_str_of(kv->data + 8, kv->n_bytes - 8), CT_SHOWN_CHARS);
        text[0] = '"';
        strcat(text, "\"");
    } else if (kv->type == CT_GGUF_ARRAY) {
        snprintf(text, sizeof text, "an array of %" PRIu64 " %s", kv->count, type_names[kv->elem]);
    } else {
        snprintf(text, sizeof text, "%s (%s)", format_number(kv->type, kv->data).text, type_names[kv->type]);
    }
    return ct_gguf_refuse(gguf, err, CACTUS_ERROR_FORMAT, "the key %s is %s, not %s", key, text, wanted);
}

cactus_status ct_gguf_get_u32(const ct_gguf *gguf, const char *key, uint32_t *out, bool *found, cactus_error *err)
{
    cactus_status status;
    const ct_gguf_kv *kv = look_up(gguf, key, found, err, &status);
    if (kv == NULL) return status;
    number n = load(kv->type, kv->data);
    if (kv->type != CT_GGUF_BOOL && n.kind == UNSIGNED && n.u <= UINT32_MAX) *out = (uint32_t)n.u;
    else if (n.kind == SIGNED && n.i >= 0 && n.i <= (int64_t)UINT32_MAX) *out = (uint32_t)n.i;
    else return refuse_value(gguf, kv, "an integer from 0 to 4294967295", err);
    return CACTUS_OK;
}

cactus_status ct_gguf_get_i32(const ct_gguf *gguf, const char *key, int32_t *out, bool *found, cactus_error *err)
{
    cactus_status status;
    const ct_gguf_kv *kv = look_up(gguf, key, found, err, &status);
    if (kv == NULL) return status;
    number n = load(kv->type, kv->data);
    if (kv->type != CT_GGUF_BOOL && n.kind == UNSIGNED && n.u <= INT32_MAX) *out = (int32_t)n.u;
    else if (n.kind == SIGNED && n.i >= INT32_MIN && n.i <= INT32_MAX) *out = (int32_t)n.i;
    else return refuse_value(gguf, kv, "an integer from -2147483648 to 2147483647", err);
    return CACTUS_OK;
}

cactus_status ct_gguf_get_f32(const ct_gguf *gguf, const char *key, float *out, bool *found, cactus_error *err)
{
    cactus_status status;
    const ct_gguf_kv *kv = look_up(gguf, key, found, err, &status);
    if (kv == NULL) return status;
    number n = load(kv->type, kv->data);
    if (n.kind != REAL || !(n.f >= -(double)FLT_MAX && n.f <= (double)FLT_MAX))
        return refuse_value(gguf, kv, "a finite f32", err);
    *out = (float)n.f;
    return CACTUS_OK;
}

cactus_status ct_gguf_get_bool(const ct_gguf *gguf, const char *key, bool *out, bool *found, cactus_error *err)
{
    cactus_status status;
    const ct_gguf_kv *kv = look_up(gguf, key, found, err, &status);
    if (kv == NULL) return status;
    if (kv->type != CT_GGUF_BOOL) return refuse_value(gguf, kv, "a bool", err);
    *out = kv->data[0] != 0;
    return CACTUS_OK;
}

cactus_status ct_gguf_get_str(const ct_gguf *gguf, const char *key, ct_str *out, bool *found, cactus_error *err)
{
    cactus_status status;
    const ct_gguf_kv *kv = look_up(gguf, key, found, err, &status);
    if (kv == NULL) return status;
    if (kv->type != CT_GGUF_STRING) return refuse_value(gguf, kv, "a string", err);
    *out = ct_str_of(kv->data + 8, kv->n_bytes - 8);
    return CACTUS_OK;
}

cactus_status ct_gguf_get_array(const ct_gguf *gguf, const char *key, ct_gguf_value_type elem, const ct_gguf_kv **out,
                                bool *found, cactus_error *err)
{
    char wanted[32];
    cactus_status status;
    *out = NULL;
    const ct_gguf_kv *kv = look_up(gguf, key, found, err, &status);
    if (kv == NULL) return status;
    if (kv->type != CT_GGUF_ARRAY || kv->elem != elem) {
        snprintf(wanted, sizeof wanted, "an array of %s", type_names[elem]);
        return refuse_value(gguf, kv, wanted, err);
    }
    *out = kv;
    return CACTUS_OK;
}

/* ---- arrays --------------------------------------------------------------------------------------------------------- */

/* A scalar counts as an array of one. */
static ct_gguf_value_type elem_type(const ct_gguf_kv *kv) { return kv->type == CT_GGUF_ARRAY ? kv->elem : kv->type; }

static number array_number(const ct_gguf_kv *kv, uint64_t index)
{
    ct_gguf_value_type type = elem_type(kv);
    if (index >= kv->count) return (number){.kind = NOT_A_NUMBER};
    return load(type, kv->data + (size_t)index * number_bytes(type));
}

/* 0 for what is no number or lies outside the array. */
double ct_gguf_array_f64(const ct_gguf_kv *kv, uint64_t index)
{
    number n = array_number(kv, index);
    return n.kind == UNSIGNED ? (double)n.u : n.kind == SIGNED ? (double)n.i : n.kind == REAL ? n.f : 0.0;
}

/* As above; numbers outside of int64 become its nearest end, NaN becomes 0, fractions are cut off. */
int64_t ct_gguf_array_i64(const ct_gguf_kv *kv, uint64_t index)
{
    number n = array_number(kv, index);
    if (n.kind == UNSIGNED) return n.u > INT64_MAX ? INT64_MAX : (int64_t)n.u;
    if (n.kind == SIGNED) return n.i;
    if (n.kind != REAL || n.f != n.f) return 0;
    return n.f >= 0x1p63 ? INT64_MAX : n.f < -0x1p63 ? INT64_MIN : (int64_t)n.f;
}

ct_str ct_gguf_array_next_str(const ct_gguf_kv *kv, size_t *offset)
{
    uint64_t size;
    if (elem_type(kv) != CT_GGUF_STRING || *offset >= kv->n_bytes) return (ct_str){"", 0};
    memcpy(&size, kv->data + *offset, sizeof size);
    ct_str s = ct_str_of(kv->data + *offset + sizeof size, (size_t)size);
    *offset += sizeof size + s.size;
    return s;
}

/* ---- text ----------------------------------------------------------------------------------------------------------- */

enum { MAX_ELEMS_SHOWN = 16 };

static size_t append(char *text, size_t used, const char *more)
{
    size_t size = strlen(more);
    memcpy(text + used, more, size);
    return used + size;
}

char *ct_gguf_format_value(const ct_gguf_kv *kv, size_t *n_bytes)
{
    size_t used = 0, offset = 0;
    ct_gguf_value_type type = elem_type(kv);
    size_t capacity = kv->type == CT_GGUF_STRING  ? kv->n_bytes - 8 + 1
                      : kv->type == CT_GGUF_ARRAY ? MAX_ELEMS_SHOWN * (CT_SHOWN_BYTES + 4) + 16
                                                  : 32;
    char *text = ct_alloc(capacity, 1);
    if (text == NULL) return NULL;
    if (kv->type == CT_GGUF_STRING) {
        used = kv->n_bytes - 8;
        memcpy(text, kv->data + 8, used);
    } else if (kv->type != CT_GGUF_ARRAY) {
        used = append(text, used, format_number(type, kv->data).text);
    } else {
        char shown[CT_SHOWN_BYTES];
        used = append(text, used, "[");
        for (uint64_t i = 0; i < kv->count; i++) {
            if (i > 0) used = append(text, used, ", ");
            if (i == MAX_ELEMS_SHOWN) {
                used = append(text, used, "…");
                break;
            }
            if (type == CT_GGUF_STRING) {
                used = append(text, used, "\"");
                used = append(text, used, ct_gguf_printable(shown, ct_gguf_array_next_str(kv, &offset), CT_SHOWN_CHARS));
                used = append(text, used, "\"");
            } else {
                used = append(text, used, format_number(type, kv->data + (size_t)i * number_bytes(type)).text);
            }
        }
        used = append(text, used, "]");
    }
    text[used] = '\0';
    if (n_bytes != NULL) *n_bytes = used;
    return text;
}
