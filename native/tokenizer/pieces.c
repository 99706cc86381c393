/* pieces.c: what several tokenizer models share: where text can be cut, which beginnings tokens have, words met before. */
#include "tokenizer/internal.h"
#include "tokenizer/unicode.h"

void ct_seams_add(ct_seams *seams, const uint8_t *bytes, size_t n_bytes)
{
    for (size_t i = 1; i < n_bytes; i++) seams->bits[bytes[i - 1] << 5 | bytes[i] >> 3] |= (uint8_t)(1 << (bytes[i] & 7));
}

const uint8_t *ct_seams_next(const ct_seams *seams, const uint8_t *p, const uint8_t *end)
{
    for (p += ct_char_at(p, end).size; p < end; p += *p < 0x80 ? 1 : ct_decode_char(p, end).size)
        if (!ct_seams_joined(seams, p[-1], *p)) break;
    return p;
}

static void add_prefixes(ct_prefixes *prefixes, const uint8_t *bytes, size_t n_bytes)
{
    uint64_t hash = prefixes->seed;
    for (size_t i = 0; i < n_bytes; i++) {
        hash = ct_prefix_step(hash, bytes[i]);
        uint64_t bit = (hash * 0xd6e8feb86659fd93u) >> prefixes->shift;
        prefixes->bits[bit >> 6] |= (uint64_t)1 << (bit & 63);
    }
}

cactus_status ct_prefixes_init(ct_prefixes *prefixes, const ct_vocab *vocab, cactus_error *err)
{
    unsigned log2 = 10; /* 32 to 64 bits for each token, which has some six beginnings */
    while (log2 < 40 && (size_t)1 << (log2 - 5) < (size_t)vocab->n) log2++;
    prefixes->shift = 64 - log2;
    prefixes->bits = ct_alloc((size_t)1 << (log2 - 6), sizeof *prefixes->bits);
    prefixes->seed = ct_hash_seed(prefixes->bits);
    if (prefixes->bits == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for %d tokens", (int)vocab->n);
    for (int32_t id = 0; id < vocab->n; id++) {
        size_t n_bytes = ct_vocab_size(vocab, id);
        if (!ct_vocab_is_text(vocab, id)) continue;
        if (n_bytes > CT_MAX_MATCHED_BYTES)
            return ct_fail(err, CACTUS_ERROR_FORMAT, "token %d has %zu bytes, more than %d", (int)id, n_bytes, CT_MAX_MATCHED_BYTES);
        add_prefixes(prefixes, ct_vocab_bytes(vocab, id), n_bytes);
    }
    return CACTUS_OK;
}

enum { MIN_CACHED_TEXT = 512, MAX_CACHE_SLOTS = 1 << 13, TEXT_BYTES_PER_SLOT = 16 };

void ct_word_cache_init(ct_word_cache *cache, size_t n_text_bytes)
{
    *cache = (ct_word_cache){0};
    if (n_text_bytes < MIN_CACHED_TEXT) return;
    size_t n = MIN_CACHED_TEXT / TEXT_BYTES_PER_SLOT;
    while (n < MAX_CACHE_SLOTS && n * TEXT_BYTES_PER_SLOT < n_text_bytes) n *= 2;
    cache->slots = ct_alloc(n, sizeof *cache->slots);
    cache->mask = n - 1;
    cache->seed = ct_hash_seed(cache->slots);
}

void ct_word_cache_free(ct_word_cache *cache) { ct_free(cache->slots); }

static bool holds(const ct_word_slot *slot, uint32_t hash, const uint8_t *word, size_t n_bytes)
{
    return slot->hash == hash && slot->n_bytes == n_bytes && memcmp(slot->word, word, n_bytes) == 0;
}

bool ct_word_cache_take(ct_word_cache *cache, const uint8_t *word, size_t n_bytes, ct_id_sink *sink)
{
    if (cache->slots == NULL || n_bytes - 1 >= sizeof cache->slots->word) return false;
    cache->hash = ct_hash_bytes(word, n_bytes, cache->seed);
    cache->n_before = sink->n;
    const ct_word_slot *slot = &cache->slots[(size_t)cache->hash & cache->mask];
    if (!holds(slot, (uint32_t)(cache->hash >> 32), word, n_bytes)) return false;
    for (int i = 0; i < slot->n_ids; i++) ct_put_id(sink, slot->ids[i]);
    return true;
}

void ct_word_cache_keep(ct_word_cache *cache, const uint8_t *word, size_t n_bytes, const ct_id_sink *sink)
{
    if (cache->slots == NULL || n_bytes - 1 >= sizeof cache->slots->word) return;
    size_t n_ids = sink->n - cache->n_before;
    ct_word_slot *slot = &cache->slots[(size_t)cache->hash & cache->mask];
    if (n_ids > sizeof slot->ids / sizeof slot->ids[0] || sink->n > sink->capacity) return; /* ids past the capacity were not kept */
    slot->hash = (uint32_t)(cache->hash >> 32);
    slot->n_bytes = (uint8_t)n_bytes;
    slot->n_ids = (uint8_t)n_ids;
    memcpy(slot->word, word, n_bytes);
    if (n_ids > 0) memcpy(slot->ids, sink->ids + cache->n_before, n_ids * sizeof slot->ids[0]);
}

size_t ct_unescape_spaces(ct_str text, uint8_t *out)
{
    const uint8_t *p = (const uint8_t *)text.data, *end = p + text.size;
    size_t n = 0;
    while (p < end) {
        const uint8_t *lead = memchr(p, 0xE2, (size_t)(end - p));
        size_t n_plain = (size_t)((lead != NULL ? lead : end) - p);
        memmove(out + n, p, n_plain);
        n += n_plain;
        p += n_plain;
        if (p == end) break;
        if (end - p >= 3 && p[1] == 0x96 && p[2] == 0x81) {
            out[n++] = ' ';
            p += 3;
        } else
            out[n++] = *p++;
    }
    return n;
}
