/* error.c: filling cactus_error, and what the library says of itself. */
#include <stdarg.h>
#include <stdio.h>

#include "core/core.h"

/* Removes a UTF-8 character that the end of the buffer cut. */
static void cut_character(char *text, size_t n)
{
    size_t at = n;
    while (at > 0 && ((unsigned char)text[at - 1] & 0xC0) == 0x80) at--;
    if (at == 0 || (unsigned char)text[at - 1] < 0xC0) return;
    unsigned char lead = (unsigned char)text[at - 1];
    size_t wanted = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (n - (at - 1) < wanted) text[at - 1] = '\0';
}

cactus_status ct_fail(cactus_error *err, cactus_status status, const char *format, ...)
{
    if (err != NULL) {
        va_list args;
        err->code = (int32_t)status;
        va_start(args, format);
        int n = vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
        if (n >= (int)sizeof err->message) cut_character(err->message, sizeof err->message - 1);
    }
    return status;
}

uint32_t cactus_abi_version(void) { return CACTUS_ABI_VERSION; }

const char *cactus_version(void) { return CACTUS_VERSION; }
