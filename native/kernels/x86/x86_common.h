/* x86_common.h: what the x86 kernel sets share: loads of any alignment, the layout of quantised activations, prefetch distances.
 * Included by one .c file per instruction set; everything here is static. */
#ifndef CT_X86_COMMON_H
#define CT_X86_COMMON_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"

/* ALWAYS_INLINE: parameters declared const become constants, so that one function serves several types and tile sizes.
 * UNROLL: full unrolling of a loop whose trip count is then a constant; its arrays become registers. Builds with sanitizers do
 * without either: they would take minutes. */
#if defined(__SANITIZE_ADDRESS__)
#define CT_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(undefined_behavior_sanitizer) || __has_feature(memory_sanitizer)
#define CT_SANITIZED 1
#endif
#endif

#if defined(CT_SANITIZED)
#define ALWAYS_INLINE inline
#define UNROLL
#else
#define ALWAYS_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#endif

static ALWAYS_INLINE uint16_t load_u16(const void *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static ALWAYS_INLINE uint32_t load_u32(const void *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static ALWAYS_INLINE uint64_t load_u64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static ALWAYS_INLINE int32_t load_i32(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* ---- quantised activations -------------------------------------------------------------------------------------------
 * A row of n_cols elements is int8 q[32 * n], then act_meta[n], n being its number of blocks rounded up to a multiple of
 * ACT_GROUP; the blocks added are zeros, so that kernels may read whole groups. */

enum { ACT_GROUP = 4 };

/* Of one block of 32. The products use unsigned codes: with weights stored as code + b, dot = sum (code + b)*q - b*qsum, and
 * minus_128_sum is that correction for b = 128; for b = 64 >> i it is shifted right by i + 1, which is exact. */
typedef struct act_meta {
    float a;                  /* scale */
    float a_sum;              /* a * (float)qsum */
    int32_t minus_128_sum;    /* -128 * qsum */
    float a_half[2];          /* the same for the two halves of 16: a * (float)qsum */
    int32_t minus_128_half[2];
    uint32_t unused;
} act_meta;

/* Where act_meta has what belongs to a sub-block: the block of 32, or its half `h`. */
static ALWAYS_INLINE size_t minus_128_at(const size_t sub_elems, const size_t h)
{
    return sub_elems == 32 ? offsetof(act_meta, minus_128_sum) : offsetof(act_meta, minus_128_half) + h * sizeof(int32_t);
}

static ALWAYS_INLINE size_t a_sum_at(const size_t sub_elems, const size_t h)
{
    return sub_elems == 32 ? offsetof(act_meta, a_sum) : offsetof(act_meta, a_half) + h * sizeof(float);
}

/* sums: of four neighbouring activations each, [8] */
static ALWAYS_INLINE act_meta make_meta(float a, const int32_t sums[8])
{
    int32_t first = sums[0] + sums[1] + sums[2] + sums[3], second = sums[4] + sums[5] + sums[6] + sums[7];
    return (act_meta){
        .a = a,
        .a_sum = a * (float)(first + second),
        .minus_128_sum = -128 * (first + second),
        .a_half = {a * (float)first, a * (float)second},
        .minus_128_half = {-128 * first, -128 * second},
    };
}

static ALWAYS_INLINE size_t act_blocks(size_t n_cols)
{
    return (n_cols / CT_ACT_BLOCK + ACT_GROUP - 1) / ACT_GROUP * ACT_GROUP;
}

static ALWAYS_INLINE const act_meta *act_meta_of(const void *act, size_t n_cols)
{
    return (const act_meta *)(const void *)((const uint8_t *)act + act_blocks(n_cols) * CT_ACT_BLOCK);
}

/* ---- prefetch --------------------------------------------------------------------------------------------------------
 * A matrix-vector product reads a group of rows side by side, and the bytes of one group after the other's: as a stream they are
 * contiguous. Each step asks, line by line, for as many bytes as it reads, PREFETCH_BYTES further on in that stream, into L2: in
 * L1 they would be gone before they are used. Behind the matrix the stream goes on with `next`. Prefetches do not fault; addresses
 * are integers, as they may lie outside of any object. */

enum { PREFETCH_BYTES = 24576 };

typedef struct stream {
    uintptr_t begin, end, next; /* the matrix; what is read after it */
    size_t row_bytes;
} stream;

static ALWAYS_INLINE stream stream_of(const void *w, size_t row_bytes, size_t n_rows, const void *next)
{
    uintptr_t begin = (uintptr_t)w, end = begin + n_rows * row_bytes;
    return (stream){begin, end, next != NULL ? (uintptr_t)next : end, row_bytes};
}

/* Where to prefetch while the group of rows that begins with `row` is read; what is read of n rows from byte `pos` of each on is
 * n * pos bytes further. */
static ALWAYS_INLINE uintptr_t stream_ahead(const stream *s, size_t row)
{
    uintptr_t p = s->begin + row * s->row_bytes + PREFETCH_BYTES;
    return p < s->end ? p : s->next + (p - s->end);
}

/* The lines of n_bytes from `ahead` on: part `part` of n_parts, so that a step can spread them over its rows. */
static ALWAYS_INLINE void prefetch_part(uintptr_t ahead, const size_t n_bytes, const size_t part, const size_t n_parts)
{
    const size_t n_lines = (n_bytes + 63) / 64;
    for (size_t i = n_lines * part / n_parts; i < n_lines * (part + 1) / n_parts; i++)
        _mm_prefetch((const char *)(ahead + 64 * i), _MM_HINT_T1);
}

/* One line, into L1. */
static ALWAYS_INLINE void prefetch(const void *p, size_t offset)
{
    _mm_prefetch((const char *)((uintptr_t)p + offset), _MM_HINT_T0);
}

#endif
