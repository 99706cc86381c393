/* unicode.c: decoding UTF-8, whole and in pieces, and looking classes up in the generated tables. */
#include <string.h>

#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unicode_tables.h"

#define O (1 << CT_CLASS_CONTROL)
#define W CT_SET_SPACE
#define U (1 << CT_CLASS_UPPER)
#define L (1 << CT_CLASS_LOWER)
#define N (1 << CT_CLASS_NUMBER)
#define P CT_SET_P
#define S CT_SET_S

const uint16_t ct_ascii_set[128] = {
    O, O, O, O, O, O, O, O, O, W, W, W, W, W, O, O, /* 00: \t \n \v \f \r are White_Space, U+001C … U+001F are not */
    O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, /* 10 */
    W, P, P, P, S, P, P, P, P, P, P, S, P, P, P, P, /* 20: $ and + are symbols */
    N, N, N, N, N, N, N, N, N, N, P, P, S, S, S, P, /* 30: < = > are symbols */
    P, U, U, U, U, U, U, U, U, U, U, U, U, U, U, U, /* 40 */
    U, U, U, U, U, U, U, U, U, U, U, P, P, P, S, P, /* 50: ^ is a symbol, _ is not */
    S, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, /* 60: ` is a symbol */
    L, L, L, L, L, L, L, L, L, L, L, P, S, P, S, O, /* 70: | and ~ are symbols */
};

#undef O
#undef W
#undef U
#undef L
#undef N
#undef P
#undef S

uint16_t ct_class_set(uint32_t code)
{
    uint32_t block = code >> UNICODE_BLOCK_SHIFT, in_block = code & ((1u << UNICODE_BLOCK_SHIFT) - 1);
    if (block >= UNICODE_N_BLOCKS) block = UNICODE_N_BLOCKS - 1;
    uint32_t at = (uint32_t)unicode_block[block] << UNICODE_BLOCK_SHIFT | in_block;
    uint32_t class = (uint32_t)unicode_content[at >> 1] >> ((at & 1) * 4) & 15u;
    return (uint16_t)(1u << class);
}

/* Well-formed UTF-8 (Unicode 15.1, table 3-7): how many bytes follow a lead byte, -1 for a byte that leads nothing. */
static int n_following(uint8_t lead)
{
    if (lead < 0x80) return 0;
    if (lead < 0xC2) return -1;
    if (lead < 0xE0) return 1;
    if (lead < 0xF0) return 2;
    return lead < 0xF5 ? 3 : -1;
}

/* Whether `byte` may stand at position `index` >= 1 after this lead byte. Only the second byte depends on the lead: no
 * overlong forms, no surrogates, nothing above U+10FFFF. */
static bool may_follow(uint8_t lead, int index, uint8_t byte)
{
    uint8_t from = 0x80, to = 0xBF;
    if (index == 1) {
        if (lead == 0xE0) from = 0xA0;
        if (lead == 0xED) to = 0x9F;
        if (lead == 0xF0) from = 0x90;
        if (lead == 0xF4) to = 0x8F;
    }
    return byte >= from && byte <= to;
}

ct_char ct_decode_char(const uint8_t *p, const uint8_t *end)
{
    const ct_char byte = {CT_NO_CODE, 1 << CT_CLASS_OTHER, 1};
    int n = n_following(p[0]);
    if (n < 0 || end - p <= n) return byte;
    uint32_t code = n == 0 ? p[0] : p[0] & (0x3Fu >> n);
    for (int i = 1; i <= n; i++) {
        if (!may_follow(p[0], i, p[i])) return byte;
        code = code << 6 | (p[i] & 0x3Fu);
    }
    return (ct_char){code, ct_class_set(code), (uint16_t)(n + 1)};
}

/* The row of a table of n rows of `width` numbers that begins with `code`, or NULL. Rows are in the order of their first. */
static const uint32_t *find_row(const uint32_t *table, size_t n, size_t width, uint32_t code)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (table[middle * width] < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && table[low * width] == code ? &table[low * width] : NULL;
}

#define N_ROWS(table_, width_) (sizeof(table_) / sizeof(table_)[0] / (width_))

int ct_strip_accents(ct_char c, uint32_t out[3])
{
    uint32_t code = c.code;
    out[0] = code;
    if (code < 0xC0) return 1;
    if ((c.set & 1 << CT_CLASS_ACCENT) != 0) return 0;
    if (code >= 0xAC00 && code <= 0xD7A3) { /* Unicode 15.1, section 3.12: 28 trailing consonants, 21 vowels */
        uint32_t syllable = code - 0xAC00, trailing = syllable % 28;
        out[0] = 0x1100 + syllable / (28 * 21);
        out[1] = 0x1161 + syllable / 28 % 21;
        out[2] = 0x11A7 + trailing;
        return trailing > 0 ? 3 : 2;
    }
    const uint32_t *row = find_row(unicode_base, N_ROWS(unicode_base, 2), 2, code);
    if (row != NULL) {
        out[0] = row[1];
        return 1;
    }
    row = find_row(unicode_bases, N_ROWS(unicode_bases, 4), 4, code);
    if (row == NULL) return 1;
    memcpy(out, row + 1, 3 * sizeof *out);
    return row[3] != 0 ? 3 : 2;
}

int ct_lower_case(uint32_t code, uint32_t out[2])
{
    out[0] = code;
    if (code < 0x80) {
        if (code >= 'A' && code <= 'Z') out[0] = code + ('a' - 'A');
        return 1;
    }
    if (code == 0x130) {
        out[0] = 'i';
        out[1] = 0x307;
        return 2;
    }
    const uint32_t *row = find_row(unicode_lower, N_ROWS(unicode_lower, 2), 2, code);
    if (row != NULL) out[0] = row[1];
    return 1;
}

size_t ct_put_utf8(uint8_t *out, uint32_t code)
{
    if (code < 0x80) {
        out[0] = (uint8_t)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, code >>= 6) out[i] = (uint8_t)(0x80 | (code & 0x3F));
    out[0] = (uint8_t)(0xF00u >> n | code);
    return n;
}

static char *put_replacement(char *out)
{
    memcpy(out, "\xEF\xBF\xBD", 3); /* U+FFFD */
    return out + 3;
}

/* pending always holds the beginning of a well-formed sequence, so one U+FFFD stands for all of it when the next byte does not
 * continue it; that byte then starts anew. This is Unicode's "maximal subpart" practice, which Python follows. */
size_t ct_utf8_push(ct_utf8_stream *stream, const char *bytes, size_t n_bytes, char *out)
{
    char *to = out;
    for (size_t i = 0; i < n_bytes; i++) {
        uint8_t byte = (uint8_t)bytes[i];
        if (stream->n_pending > 0) {
            if (may_follow(stream->pending[0], stream->n_pending, byte)) {
                stream->pending[stream->n_pending++] = byte;
                if (stream->n_pending == n_following(stream->pending[0]) + 1) {
                    memcpy(to, stream->pending, stream->n_pending);
                    to += stream->n_pending;
                    stream->n_pending = 0;
                }
                continue;
            }
            to = put_replacement(to);
            stream->n_pending = 0;
        }
        int n = n_following(byte);
        if (n == 0)
            *to++ = (char)byte;
        else if (n > 0)
            stream->pending[stream->n_pending++] = byte;
        else
            to = put_replacement(to);
    }
    return (size_t)(to - out);
}

size_t ct_utf8_finish(ct_utf8_stream *stream, char *out)
{
    if (stream->n_pending == 0) return 0;
    stream->n_pending = 0;
    return (size_t)(put_replacement(out) - out);
}
