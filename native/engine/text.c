/* text.c: see text.h. */
#include "engine/text.h"

#include <string.h>

enum { MAX_STOP_BYTES = 4096 };

cactus_status ct_text_init(ct_text *text, const char *const *stops, size_t n_stops, cactus_error *err)
{
    *text = (ct_text){0};
    text->stops = ct_alloc(n_stops + 1, sizeof *text->stops);
    text->stop_bytes = ct_alloc(n_stops + 1, sizeof *text->stop_bytes);
    if (text->stops == NULL || text->stop_bytes == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the stop strings");
    for (size_t i = 0; i < n_stops; i++) {
        size_t n = stops[i] == NULL ? 0 : strnlen(stops[i], MAX_STOP_BYTES + 1);
        if (n == 0 || n > MAX_STOP_BYTES)
            return ct_fail(err, CACTUS_ERROR_ARGUMENT, "stop string %zu is %s", i, n == 0 ? "empty" : "longer than 4096 bytes");
        text->stops[i] = ct_alloc(n + 1, 1);
        if (text->stops[i] == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the stop strings");
        memcpy(text->stops[i], stops[i], n);
        text->stop_bytes[i] = n;
        text->n_stops = i + 1;
    }
    return CACTUS_OK;
}

void ct_text_free(ct_text *text)
{
    for (size_t i = 0; i < text->n_stops; i++) ct_free(text->stops[i]);
    ct_free(text->stops);
    ct_free(text->stop_bytes);
    ct_free(text->held);
    *text = (ct_text){0};
}

static bool make_room(ct_text *text, size_t more)
{
    size_t need = text->n_held + more;
    if (need <= text->capacity) return true;
    size_t capacity = need < 256 ? 256 : 2 * need;
    char *held = ct_alloc(capacity, 1);
    if (held == NULL) return false;
    if (text->n_held > 0) memcpy(held, text->held, text->n_held);
    ct_free(text->held);
    text->held = held;
    text->capacity = capacity;
    return true;
}

/* Offset of the first stop string in held, or n_held. */
static size_t find_stop(const ct_text *text)
{
    for (size_t at = 0; at < text->n_held; at++)
        for (size_t i = 0; i < text->n_stops; i++)
            if (text->stop_bytes[i] <= text->n_held - at && memcmp(text->held + at, text->stops[i], text->stop_bytes[i]) == 0) return at;
    return text->n_held;
}

/* Offset from which on held is the beginning of a stop string, or n_held. */
static size_t find_begun(const ct_text *text)
{
    for (size_t at = 0; at < text->n_held; at++)
        for (size_t i = 0; i < text->n_stops; i++)
            if (text->n_held - at < text->stop_bytes[i] && memcmp(text->held + at, text->stops[i], text->n_held - at) == 0) return at;
    return text->n_held;
}

bool ct_text_push(ct_text *text, const char *bytes, size_t n_bytes, size_t *n_out, bool *stopped)
{
    *n_out = 0;
    *stopped = false;
    if (!make_room(text, 3 * (n_bytes + 3))) return false;
    text->n_held += ct_utf8_push(&text->utf8, bytes, n_bytes, text->held + text->n_held);
    size_t stop = find_stop(text);
    *stopped = stop < text->n_held;
    *n_out = *stopped ? stop : find_begun(text);
    return true;
}

bool ct_text_finish(ct_text *text, size_t *n_out)
{
    *n_out = 0;
    if (!make_room(text, 9)) return false;
    text->n_held += ct_utf8_finish(&text->utf8, text->held + text->n_held);
    *n_out = find_stop(text);
    return true;
}

void ct_text_drop(ct_text *text, size_t n)
{
    memmove(text->held, text->held + n, text->n_held - n);
    text->n_held -= n;
}
