/* codes.h: what the files that decode tensor types share. */
#ifndef CT_CODES_H
#define CT_CODES_H

#include <string.h>

#include "gguf/types.h"

static inline uint16_t load_u16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t load_u32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t load_u64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline float load_f16(const uint8_t *p) { return ct_f16_to_f32(load_u16(p)); }

/* Eight codes at a time, the bytes of a u64. */

#define ONES UINT64_C(0x0101010101010101) /* n * ONES: eight times n */

static inline void put_8(int8_t *codes, uint64_t bytes) { memcpy(codes, &bytes, sizeof bytes); }

/* Bytes below 128, less n (1 … 127) each */
static inline uint64_t less(uint64_t bytes, uint32_t n) { return (bytes + (128 - n) * ONES) ^ 128 * ONES; }

/* types_iq.c: the types whose codes are points of a grid */
void ct_iq1_s_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m);
void ct_iq1_m_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m);
void ct_iq2_xxs_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m);
void ct_iq2_xs_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m);
void ct_iq2_s_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m);
void ct_iq3_xxs_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m);
void ct_iq3_s_codes(const void *blocks, size_t n_elems, int8_t *codes, float *d, float *m);

#endif
