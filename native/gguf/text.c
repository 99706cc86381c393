/* text.c: UTF-8 checks, and names from a file made safe for messages. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "gguf/internal.h"

/* Length of the character at p (n >= 1 bytes left) and its code point; 0 where there is none. Unicode 15, table 3-7. */
static size_t utf8_char(const uint8_t *p, size_t n, uint32_t *code)
{
    size_t length = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
    if (length == 0 || length > n) return 0;
    uint32_t c = length == 1 ? p[0] : p[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    if ((length == 3 && (c < 0x800 || (c >= 0xd800 && c < 0xe000))) || (length == 4 && (c < 0x10000 || c > 0x10ffff))) return 0;
    *code = c;
    return length;
}

bool ct_gguf_is_text(ct_str s)
{
    const uint8_t *p = (const uint8_t *)s.data;
    for (size_t i = 0, length; i < s.size; i += length) {
        uint32_t code;
        length = utf8_char(p + i, s.size - i, &code);
        if (length == 0 || code == 0) return false;
    }
    return true;
}

/* Characters that change what a terminal does or where text appears: C0, DEL, C1, line separators, direction and zero-width
 * marks. */
static bool is_unsafe(uint32_t code)
{
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x200b && code <= 0x200f) ||
           (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f) || code == 0xfeff || code == 0x61c;
}

char *ct_gguf_printable(char *out, ct_str s, size_t max_chars)
{
    const uint8_t *p = (const uint8_t *)s.data;
    size_t n_chars = 0, used = 0;
    for (size_t i = 0; i < s.size;) {
        uint32_t code = 0;
        size_t length = utf8_char(p + i, s.size - i, &code);
        bool escape = length == 0 || is_unsafe(code);
        if (length == 0) length = 1;
        size_t width = escape ? 4 * length : 1;
        bool is_last = i + length == s.size;
        if (n_chars + width > max_chars - !is_last) { /* a place stays free for the mark, unless all is told */
            memcpy(out + used, "…", 3);
            used += 3;
            break;
        }
        n_chars += width;
        for (size_t k = 0; k < length; k++, i++) {
            if (escape) snprintf(out + used, 5, "\\x%02x", p[i]);
            else out[used] = (char)p[i];
            used += escape ? 4 : 1;
        }
    }
    out[used] = '\0';
    return out;
}

cactus_status ct_gguf_refuse(const ct_gguf *gguf, cactus_error *err, cactus_status status, const char *format, ...)
{
    char sentence[sizeof err->message];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    return ct_fail(err, status, "%s: %s", gguf->label, sentence);
}
