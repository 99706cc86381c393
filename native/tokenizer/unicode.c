/* unicode.c: decoding UTF-8, whole and in pieces, and looking classes up in the generated tables. */
#include <string.h>

#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unicode_tables.h"

#define O (1 << CT_CLASS_OTHER)
#define W CT_SET_SPACE
#define U (1 << CT_CLASS_UPPER)
#define L (1 << CT_CLASS_LOWER)
#define N CT_SET_N
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

static uint16_t class_set(uint32_t code)
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
    return (ct_char){code, class_set(code), (uint16_t)(n + 1)};
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
