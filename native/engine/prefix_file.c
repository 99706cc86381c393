/* prefix_file.c: the index of prefixes on disk, so that a restarted process need not read again what the last one read.
 *
 *   header | a record per page, parents first | keys and values of each page, its state if it has one | checksum
 *
 * It holds what users wrote, so that only its owner may read it. All numbers are little-endian. A file is of use to the same engine with the same model and layout only; anything else is refused, as
 * is a file of the wrong length or with a wrong checksum. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

enum { VERSION = 1, MAX_KEY_BYTES = 64, ENGINE_BYTES = 24 };
static const int32_t PARENT_ROOT = -1, PARENT_ROOT_LONG = -2;

typedef struct file_header {
    char magic[8];
    uint32_t version, page_tokens;
    uint64_t page_bytes, state_bytes, n_records;
    uint32_t kv_type, n_key;
    uint8_t key[MAX_KEY_BYTES];
    char engine[ENGINE_BYTES];
} file_header;
_Static_assert(sizeof(file_header) == 136, "no padding");

typedef struct file_record {
    int32_t parent; /* number of a record before this one, or a root */
    uint32_t has_state;
    int32_t tokens[CT_PAGE_TOKENS];
} file_record;

static void fill_header(const cactus_engine *e, const uint8_t *key, size_t n_key, uint64_t n_records, file_header *h)
{
    memset(h, 0, sizeof *h);
    memcpy(h->magic, "CTPREFIX", 8);
    h->version = VERSION;
    h->page_tokens = CT_PAGE_TOKENS;
    h->page_bytes = e->kv.page_bytes;
    h->state_bytes = e->states.page_bytes;
    h->n_records = n_records;
    h->kv_type = (uint32_t)e->kv_type;
    h->n_key = (uint32_t)n_key;
    memcpy(h->key, key, n_key);
    strncpy(h->engine, cactus_version(), ENGINE_BYTES - 1);
}

/* Four independent lanes of multiply and rotate over 64-bit words; n_bytes is a multiple of 4. */
typedef struct checksum {
    uint64_t lanes[4];
    size_t n_words;
} checksum;

static void checksum_add(checksum *c, const void *data, size_t n_bytes)
{
    const uint8_t *p = data;
    for (size_t at = 0; at < n_bytes; at += 8) {
        uint64_t word = 0, *lane = &c->lanes[c->n_words++ % 4];
        memcpy(&word, p + at, ct_min_size(8, n_bytes - at));
        *lane = (*lane ^ word) * 0x9E3779B97F4A7C15u;
        *lane = *lane << 31 | *lane >> 33;
    }
}

static uint64_t checksum_value(const checksum *c)
{
    uint64_t h = c->n_words;
    for (size_t i = 0; i < 4; i++) h = (h ^ c->lanes[i] ^ (h >> 29)) * 0xBF58476D1CE4E5B9u;
    return h ^ (h >> 32);
}

static cactus_status check_key(const cactus_engine *e, const char *path, const uint8_t *key, size_t n_key, cactus_error *err)
{
    if (e == NULL || path == NULL || key == NULL || n_key == 0 || n_key > MAX_KEY_BYTES)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "prefixes are saved and loaded with an engine, a path and a key of 1 to %d bytes", MAX_KEY_BYTES);
    return CACTUS_OK;
}

/* ---- saving ---- */

/* The pages do not change while they are held, so they are written by the caller while the scheduler goes on. */
typedef struct save_work {
    ct_work work;
    bool release;
    uint32_t *pages;       /* [n] parents first */
    file_record *records;  /* [n] */
    uint8_t *states;       /* copies, in the order of the records */
    size_t n;
} save_work;

typedef struct placed {
    uint64_t used;
    uint32_t page, depth;
} placed;

static int by_depth_and_use(const void *pa, const void *pb)
{
    const placed *a = pa, *b = pb;
    if (a->depth != b->depth) return a->depth < b->depth ? -1 : 1;
    return (a->used < b->used) - (a->used > b->used);
}

static uint32_t depth_of(const ct_prefix_index *p, uint32_t page)
{
    uint32_t depth = 0;
    for (uint32_t at = p->nodes[page].parent; at < CT_PREFIX_NONE; at = p->nodes[at].parent) depth++;
    return depth;
}

static void hold_pages(cactus_engine *e, ct_work *work)
{
    save_work *w = (save_work *)work;
    const ct_prefix_index *p = &e->prefixes;
    if (w->release) {
        for (size_t i = 0; i < w->n; i++) ct_kv_give(&e->kv, ct_kv_page(&e->kv, w->pages[i]));
        e->n_held -= w->n;
        return;
    }
    size_t n = 0, n_touched = e->kv.n_touched, n_states = 0;
    placed *found = ct_alloc(n_touched + 1, sizeof *found);
    uint32_t *number = ct_alloc(n_touched + 1, sizeof *number); /* of the record of a page */
    w->pages = ct_alloc(n_touched + 1, sizeof *w->pages);
    w->records = ct_alloc(n_touched + 1, sizeof *w->records);
    w->states = ct_alloc((size_t)p->n_states + 1, e->states.page_bytes + 1);
    if (found == NULL || number == NULL || w->pages == NULL || w->records == NULL || w->states == NULL) {
        ct_fail(&work->error, CACTUS_ERROR_MEMORY, "no memory to save prefixes");
        ct_free(found);
        ct_free(number);
        return;
    }
    for (uint32_t page = 0; page < n_touched; page++)
        if (e->kv.kept[page]) found[n++] = (placed){p->nodes[page].used, page, depth_of(p, page)};
    qsort(found, n, sizeof *found, by_depth_and_use);
    for (size_t i = 0; i < n; i++) {
        uint32_t page = found[i].page;
        const ct_prefix_node *node = &p->nodes[page];
        file_record *r = &w->records[i];
        number[page] = (uint32_t)i;
        r->parent = node->parent == CT_PREFIX_ROOT ? PARENT_ROOT : node->parent == CT_PREFIX_ROOT_LONG ? PARENT_ROOT_LONG : (int32_t)number[node->parent];
        r->has_state = node->state != NULL;
        memcpy(r->tokens, p->tokens + page * (size_t)CT_PAGE_TOKENS, sizeof r->tokens);
        if (node->state != NULL) memcpy(w->states + n_states++ * e->states.page_bytes, node->state, e->states.page_bytes);
        w->pages[i] = page;
        ct_kv_share(&e->kv, ct_kv_page(&e->kv, page));
    }
    w->n = n;
    e->n_held += n;
    ct_free(found);
    ct_free(number);
}

static cactus_status put(ct_new_file *file, checksum *sum, const void *data, size_t n_bytes, cactus_error *err)
{
    checksum_add(sum, data, n_bytes);
    return ct_new_file_write(file, data, n_bytes, err);
}

static cactus_status write_file(const cactus_engine *e, const save_work *w, const char *path, const file_header *header, cactus_error *err)
{
    ct_new_file *file;
    checksum sum = {{1, 2, 3, 4}, 0};
    size_t n_states = 0;
    cactus_status status = ct_new_file_open(path, true, true, &file, err);
    if (status != CACTUS_OK) return status;
    status = put(file, &sum, header, sizeof *header, err);
    if (status == CACTUS_OK) status = put(file, &sum, w->records, w->n * sizeof *w->records, err);
    for (size_t i = 0; i < w->n && status == CACTUS_OK; i++) {
        status = put(file, &sum, ct_kv_page(&e->kv, w->pages[i]), e->kv.page_bytes, err);
        if (status == CACTUS_OK && w->records[i].has_state)
            status = put(file, &sum, w->states + n_states++ * e->states.page_bytes, e->states.page_bytes, err);
    }
    uint64_t value = checksum_value(&sum);
    if (status == CACTUS_OK) status = ct_new_file_write(file, &value, sizeof value, err);
    if (status == CACTUS_OK) return ct_new_file_commit(file, err);
    ct_new_file_abandon(file);
    return status;
}

cactus_status cactus_engine_save_prefixes(cactus_engine *e, const char *path, const uint8_t *key, size_t n_key, uint64_t *n_tokens, cactus_error *err)
{
    file_header header;
    save_work w = {.work.run = hold_pages};
    cactus_status status = check_key(e, path, key, n_key, err);
    if (status != CACTUS_OK) return status;
    ct_engine_enter(e);
    status = ct_work_submit(e, &w.work, err);
    if (status == CACTUS_OK) {
        fill_header(e, key, n_key, w.n, &header);
        status = write_file(e, &w, path, &header, err);
        save_work back = {.work.run = hold_pages, .release = true, .pages = w.pages, .n = w.n};
        (void)ct_work_submit(e, &back.work, NULL); /* fails only when the engine is closed, and then they are free anyway */
    }
    ct_engine_leave(e);
    if (status == CACTUS_OK && n_tokens != NULL) *n_tokens = (uint64_t)w.n * CT_PAGE_TOKENS;
    ct_free(w.pages);
    ct_free(w.records);
    ct_free(w.states);
    return status;
}

/* ---- loading ---- */

typedef struct load_work {
    ct_work work;
    const file_record *records;
    const uint8_t *data;
    size_t n, n_loaded;
} load_work;

static void place_pages(cactus_engine *e, ct_work *work)
{
    load_work *w = (load_work *)work;
    const uint8_t *at = w->data;
    uint32_t *pages = ct_alloc(w->n + 1, sizeof *pages);
    if (pages == NULL) {
        ct_fail(&work->error, CACTUS_ERROR_MEMORY, "no memory to load prefixes");
        return;
    }
    for (size_t i = 0; i < w->n; i++) {
        file_record r;
        memcpy(&r, w->records + i, sizeof r);
        uint32_t parent = r.parent == PARENT_ROOT ? CT_PREFIX_ROOT : r.parent == PARENT_ROOT_LONG ? CT_PREFIX_ROOT_LONG : pages[r.parent];
        const uint8_t *page_data = at, *state = at + e->kv.page_bytes;
        at = state + (r.has_state ? e->states.page_bytes : 0);
        pages[i] = parent == CT_PREFIX_NONE ? CT_PREFIX_NONE : ct_prefix_find(&e->prefixes, parent, r.tokens);
        if (parent == CT_PREFIX_NONE || pages[i] != CT_PREFIX_NONE) continue;
        uint8_t *page = ct_kv_take(&e->kv);
        if (page == NULL) continue; /* and nothing that follows it */
        memcpy(page, page_data, e->kv.page_bytes);
        pages[i] = ct_kv_number(&e->kv, page);
        ct_prefix_add(&e->prefixes, parent, pages[i], r.tokens);
        if (r.has_state) ct_prefix_put_state(&e->prefixes, pages[i], state);
        ct_kv_give(&e->kv, page);
        w->n_loaded++;
    }
    ct_free(pages);
}

static cactus_status check_records(const cactus_engine *e, const file_record *records, uint64_t n, size_t room, size_t *n_states, cactus_error *err)
{
    size_t wanted = 0;
    *n_states = 0;
    for (size_t i = 0; i < n; i++) {
        file_record r;
        memcpy(&r, records + i, sizeof r);
        if (r.has_state > 1 || (r.has_state && e->states.n_pages == 0) || r.parent < PARENT_ROOT_LONG || (r.parent >= 0 && (size_t)r.parent >= i))
            return ct_fail(err, CACTUS_ERROR_FORMAT, "record %zu of the file of prefixes is damaged", i);
        for (size_t t = 0; t < CT_PAGE_TOKENS; t++)
            if (r.tokens[t] < 0 || (uint32_t)r.tokens[t] >= e->model->config.n_vocab)
                return ct_fail(err, CACTUS_ERROR_FORMAT, "record %zu of the file of prefixes names token %d", i, r.tokens[t]);
        wanted += e->kv.page_bytes + (r.has_state ? e->states.page_bytes : 0);
        *n_states += r.has_state;
    }
    if (wanted != room) return ct_fail(err, CACTUS_ERROR_FORMAT, "the file of prefixes has %zu bytes of pages, not %zu", room, wanted);
    return CACTUS_OK;
}

static cactus_status read_file(cactus_engine *e, const ct_file *file, const uint8_t *key, size_t n_key, uint64_t *n_tokens, cactus_error *err)
{
    file_header header, wanted;
    size_t n_states;
    uint64_t value;
    checksum sum = {{1, 2, 3, 4}, 0};
    if (file->size < sizeof header + sizeof value) return ct_fail(err, CACTUS_ERROR_FORMAT, "the file of prefixes is cut short");
    memcpy(&header, file->data, sizeof header);
    fill_header(e, key, n_key, header.n_records, &wanted);
    if (memcmp(&header, &wanted, sizeof header) != 0)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "the file of prefixes belongs to another model, or to another version or setting of the engine");
    size_t room = file->size - sizeof header - sizeof value;
    if (header.n_records > room / sizeof(file_record)) return ct_fail(err, CACTUS_ERROR_FORMAT, "the file of prefixes is cut short");
    load_work w = {.work.run = place_pages, .n = (size_t)header.n_records};
    w.records = (const file_record *)(const void *)(file->data + sizeof header);
    w.data = file->data + sizeof header + w.n * sizeof(file_record);
    cactus_status status = check_records(e, w.records, w.n, room - w.n * sizeof(file_record), &n_states, err);
    if (status != CACTUS_OK) return status;
    memcpy(&value, file->data + file->size - sizeof value, sizeof value);
    checksum_add(&sum, file->data, sizeof header);
    checksum_add(&sum, w.records, w.n * sizeof(file_record));
    for (size_t i = 0, at = 0; i < w.n; i++) {
        checksum_add(&sum, w.data + at, e->kv.page_bytes);
        at += e->kv.page_bytes;
        if (!w.records[i].has_state) continue;
        checksum_add(&sum, w.data + at, e->states.page_bytes);
        at += e->states.page_bytes;
    }
    if (checksum_value(&sum) != value) return ct_fail(err, CACTUS_ERROR_FORMAT, "the file of prefixes is damaged: its checksum is wrong");
    status = ct_work_submit(e, &w.work, err);
    if (status == CACTUS_OK && n_tokens != NULL) *n_tokens = (uint64_t)w.n_loaded * CT_PAGE_TOKENS;
    return status;
}

cactus_status cactus_engine_load_prefixes(cactus_engine *e, const char *path, const uint8_t *key, size_t n_key, uint64_t *n_tokens, cactus_error *err)
{
    ct_file file;
    cactus_status status = check_key(e, path, key, n_key, err);
    if (status != CACTUS_OK) return status;
    if (!e->shares) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "this engine keeps no prefixes");
    if ((status = ct_file_map(path, &file, err)) != CACTUS_OK) return status;
    ct_engine_enter(e);
    status = read_file(e, &file, key, n_key, n_tokens, err);
    ct_engine_leave(e);
    ct_file_unmap(&file);
    return status;
}
