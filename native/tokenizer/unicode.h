/* unicode.h: UTF-8 with the bytes that are none, and the classes of code points that pre-tokenizers ask for. */
#ifndef CT_UNICODE_H
#define CT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a code point is to a regular expression. The classes exclude each other; \p{L} is UPPER, LOWER and LETTER together. */
typedef enum ct_class {
    CT_CLASS_OTHER = 0,       /* \p{C}: controls, formats, unassigned; also a byte that is not UTF-8 */
    CT_CLASS_SPACE = 1,       /* \s: the property White_Space, which holds all of \p{Z} */
    CT_CLASS_UPPER = 2,       /* \p{Lu}, \p{Lt} */
    CT_CLASS_LOWER = 3,       /* \p{Ll} */
    CT_CLASS_LETTER = 4,      /* \p{Lm}, \p{Lo} */
    CT_CLASS_NUMBER = 5,      /* \p{N} */
    CT_CLASS_MARK = 6,        /* \p{M} */
    CT_CLASS_PUNCTUATION = 7, /* \p{P} */
    CT_CLASS_SYMBOL = 8       /* \p{S} */
} ct_class;

/* Sets of classes: bit 1 << class. */
enum {
    CT_SET_SPACE = 1 << CT_CLASS_SPACE,
    CT_SET_L = 1 << CT_CLASS_UPPER | 1 << CT_CLASS_LOWER | 1 << CT_CLASS_LETTER,
    CT_SET_N = 1 << CT_CLASS_NUMBER,
    CT_SET_M = 1 << CT_CLASS_MARK,
    CT_SET_P = 1 << CT_CLASS_PUNCTUATION,
    CT_SET_S = 1 << CT_CLASS_SYMBOL,
    CT_SET_ALL = (1 << 9) - 1
};

enum { CT_NO_CODE = 0x110000 }; /* the code of a byte that is not UTF-8, and of the end of the text */

/* One character of a text: a code point or, where the bytes are not UTF-8, a single byte. */
typedef struct ct_char {
    uint32_t code;  /* CT_NO_CODE if it is a byte */
    uint16_t set;   /* its class as a set of one; 0 at the end of the text */
    uint16_t size;  /* bytes; 0 at the end of the text */
} ct_char;

/* The set of one for each ASCII code. */
extern const uint16_t ct_ascii_set[128];

/* The character at p, where p[0] >= 0x80 and p < end. */
ct_char ct_decode_char(const uint8_t *p, const uint8_t *end);

/* The character at p; the end of the text where p == end. */
static inline ct_char ct_char_at(const uint8_t *p, const uint8_t *end)
{
    if (p == end) return (ct_char){CT_NO_CODE, 0, 0};
    if (*p < 0x80) return (ct_char){*p, ct_ascii_set[*p], 1};
    return ct_decode_char(p, end);
}

#endif
