/* unicode.h: UTF-8 with the bytes that are none, and the classes of code points that pre-tokenizers ask for. */
#ifndef CT_UNICODE_H
#define CT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a code point is to a regular expression. The classes exclude each other; \p{L} is UPPER, LOWER and LETTER together. */
typedef enum ct_class {
    CT_CLASS_OTHER = 0,       /* \p{Cn}: unassigned; also a byte that is not UTF-8 */
    CT_CLASS_SPACE = 1,       /* \s: the property White_Space, which holds all of \p{Z} */
    CT_CLASS_UPPER = 2,       /* \p{Lu}, \p{Lt} */
    CT_CLASS_LOWER = 3,       /* \p{Ll} */
    CT_CLASS_LETTER = 4,      /* \p{Lm}, \p{Lo} */
    CT_CLASS_NUMBER = 5,      /* \p{Nd} */
    CT_CLASS_MARK = 6,        /* \p{Mc}, \p{Me} */
    CT_CLASS_PUNCTUATION = 7, /* \p{P} */
    CT_CLASS_SYMBOL = 8,      /* \p{S} */
    CT_CLASS_NUMERAL = 9,     /* \p{Nl}, \p{No} */
    CT_CLASS_ACCENT = 10,     /* \p{Mn} */
    CT_CLASS_CONTROL = 11     /* \p{Cc}, \p{Cf}, \p{Co} without White_Space */
} ct_class;

/* Sets of classes: bit 1 << class. */
enum {
    CT_SET_SPACE = 1 << CT_CLASS_SPACE,
    CT_SET_L = 1 << CT_CLASS_UPPER | 1 << CT_CLASS_LOWER | 1 << CT_CLASS_LETTER,
    CT_SET_N = 1 << CT_CLASS_NUMBER | 1 << CT_CLASS_NUMERAL,
    CT_SET_M = 1 << CT_CLASS_MARK | 1 << CT_CLASS_ACCENT,
    CT_SET_P = 1 << CT_CLASS_PUNCTUATION,
    CT_SET_S = 1 << CT_CLASS_SYMBOL,
    CT_SET_ALL = (1 << 12) - 1
};

enum { CT_NO_CODE = 0x110000 }; /* the code of a byte that is not UTF-8, and of the end of the text */

/* One character of a text: a code point or, where the bytes are not UTF-8, a single byte. */
typedef struct ct_char {
    uint32_t code;  /* CT_NO_CODE if it is a byte */
    uint16_t set;   /* its class as a set of one; 0 at the end of the text */
    uint16_t size;  /* bytes; 0 at the end of the text */
} ct_char;

/* What is left of a character under NFD without its accents (\p{Mn}): 0 to 3 code points in out, and how many. */
int ct_strip_accents(ct_char c, uint32_t out[3]);

/* The lower case of a code point, without regard to what is around it: 1 or 2 code points in out, and how many. */
int ct_lower_case(uint32_t code, uint32_t out[2]);

/* Writes a code point below CT_NO_CODE as UTF-8; returns the bytes written, 1 to 4. */
size_t ct_put_utf8(uint8_t *out, uint32_t code);

/* The set of one for each ASCII code. */
extern const uint16_t ct_ascii_set[128];

/* The class of a code point below CT_NO_CODE as a set of one. */
uint16_t ct_class_set(uint32_t code);

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
