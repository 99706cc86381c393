/* types.h: the tensor types of GGUF, one table row each (types.c).
 *
 * Every block type is seen through one form, the "affine codes" of a row of weights: the row is cut into sub-blocks of
 * `sub_elems` (16 or 32) elements, and in sub-block g
 *
 *     weight[k] = d[g] * code[k] + m[g]          code: int8, d and m: float32
 *
 * with m absent for symmetric types. The products of the engine are defined on this form (kernels/kernels.h), so a type
 * needs one row here to run everywhere; hand-written kernels for it only make it faster.
 */
#ifndef CT_TYPES_H
#define CT_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Values are those of the GGUF file (ggml's enum). */
typedef enum ct_type {
    CT_F32 = 0,
    CT_F16 = 1,
    CT_Q4_0 = 2,
    CT_Q4_1 = 3,
    CT_Q5_0 = 6,
    CT_Q5_1 = 7,
    CT_Q8_0 = 8,
    CT_Q8_1 = 9,
    CT_Q2_K = 10,
    CT_Q3_K = 11,
    CT_Q4_K = 12,
    CT_Q5_K = 13,
    CT_Q6_K = 14,
    CT_Q8_K = 15,
    CT_IQ2_XXS = 16,
    CT_IQ2_XS = 17,
    CT_IQ3_XXS = 18,
    CT_IQ1_S = 19,
    CT_IQ4_NL = 20,
    CT_IQ3_S = 21,
    CT_IQ2_S = 22,
    CT_IQ4_XS = 23,
    CT_I8 = 24,
    CT_I16 = 25,
    CT_I32 = 26,
    CT_I64 = 27,
    CT_F64 = 28,
    CT_IQ1_M = 29,
    CT_BF16 = 30,
    CT_TQ1_0 = 34,
    CT_TQ2_0 = 35,
    CT_MXFP4 = 39,
    CT_NVFP4 = 40,
    CT_Q1_0 = 41,
    CT_Q2_0 = 42,
    CT_N_TYPES = 43
} ct_type;

/* Affine codes of n_elems (a multiple of block_elems) consecutive weights, read from whole blocks at `blocks` (any alignment).
 *   codes [n_elems]            int8
 *   d     [n_elems/sub_elems]  f32
 *   m     [n_elems/sub_elems]  f32, written only by types with has_min; may be NULL otherwise */
typedef void (*ct_decode_codes_fn)(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m);

/* n_elems consecutive weights as float32; for block types a multiple of block_elems. Exact. */
typedef void (*ct_decode_f32_fn)(const void *blocks, size_t n_elems, float *out);

typedef struct ct_type_info {
    const char *name;      /* "Q4_1"; NULL for a number that names no type */
    uint16_t block_elems;  /* elements per block; 1 for plain types */
    uint16_t block_bytes;
    uint8_t sub_elems;     /* 16 or 32 for block types, 0 for float types */
    bool has_min;          /* m is present */
    ct_decode_f32_fn decode_f32;     /* NULL: the type is known (its size is) but cannot be computed with */
    ct_decode_codes_fn decode_codes; /* NULL for float types */
} ct_type_info;

/* Row of the table; NULL when `type` is no known type. Safe with any number. */
const ct_type_info *ct_type_get(uint32_t type);

/* Bytes of a row of n_elems; false when n_elems is no multiple of the block or the size overflows. */
bool ct_type_row_bytes(const ct_type_info *info, uint64_t n_elems, size_t *out_bytes);

float ct_f16_to_f32(uint16_t h); /* exact, subnormals, infinities and NaN included */
uint16_t ct_f32_to_f16(float f); /* round to nearest even */
static inline float ct_bf16_to_f32(uint16_t h)
{
    union { uint32_t u; float f; } v = {.u = (uint32_t)h << 16};
    return v.f;
}

#endif
