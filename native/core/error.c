/* error.c: filling cactus_error, and what the library says of itself. */
#include <stdarg.h>
#include <stdio.h>

#include "core/core.h"

cactus_status ct_fail(cactus_error *err, cactus_status status, const char *format, ...)
{
    if (err != NULL) {
        va_list args;
        err->code = (int32_t)status;
        va_start(args, format);
        vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
    }
    return status;
}

uint32_t cactus_abi_version(void) { return CACTUS_ABI_VERSION; }

const char *cactus_version(void) { return CACTUS_VERSION; }
