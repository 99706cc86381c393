/* prefix.c: see prefix.h. */
#include "engine/prefix.h"

#include <string.h>

cactus_status ct_prefix_index_init(ct_prefix_index *p, ct_kv_pool *kv, ct_kv_pool *states, size_t page_tokens, uint32_t max_states, cactus_error *err)
{
    *p = (ct_prefix_index){.kv = kv, .states = states, .page_tokens = page_tokens, .max_states = max_states, .n_buckets = 64};
    while (p->n_buckets < 2 * (size_t)kv->n_pages) p->n_buckets *= 2;
    p->nodes = ct_reserve(kv->n_pages * sizeof *p->nodes);
    p->tokens = ct_reserve(kv->n_pages * page_tokens * sizeof *p->tokens);
    p->buckets = ct_alloc(p->n_buckets, sizeof *p->buckets);
    if (p->nodes == NULL || p->tokens == NULL || p->buckets == NULL) {
        ct_prefix_index_free(p);
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the index of %u pages", kv->n_pages);
    }
    for (size_t i = 0; i < p->n_buckets; i++) p->buckets[i] = CT_PREFIX_NONE;
    return CACTUS_OK;
}

void ct_prefix_index_free(ct_prefix_index *p)
{
    if (p->nodes != NULL) ct_release(p->nodes, p->kv->n_pages * sizeof *p->nodes);
    if (p->tokens != NULL) ct_release(p->tokens, p->kv->n_pages * p->page_tokens * sizeof *p->tokens);
    ct_free(p->buckets);
    *p = (ct_prefix_index){0};
}

/* FNV-1a over whole tokens, with a last mixing (Fowler, Noll, Vo; Murmur's finaliser). */
static uint64_t hash_of(const ct_prefix_index *p, uint32_t parent, const int32_t *tokens)
{
    uint64_t h = 0xCBF29CE484222325u ^ parent;
    for (size_t i = 0; i < p->page_tokens; i++) h = (h ^ (uint32_t)tokens[i]) * 0x100000001B3u;
    h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCDu;
    return h ^ (h >> 33);
}

static uint32_t *bucket_of(const ct_prefix_index *p, uint64_t hash) { return &p->buckets[hash & (p->n_buckets - 1)]; }

uint32_t ct_prefix_find(ct_prefix_index *p, uint32_t parent, const int32_t *tokens)
{
    uint64_t hash = hash_of(p, parent, tokens);
    for (uint32_t page = *bucket_of(p, hash); page != CT_PREFIX_NONE; page = p->nodes[page].next) {
        ct_prefix_node *node = &p->nodes[page];
        if (node->hash != hash || node->parent != parent) continue;
        if (memcmp(p->tokens + page * p->page_tokens, tokens, p->page_tokens * sizeof *tokens) != 0) continue;
        node->used = ++p->clock;
        return page;
    }
    return CT_PREFIX_NONE;
}

static bool is_root(uint32_t parent) { return parent == CT_PREFIX_ROOT || parent == CT_PREFIX_ROOT_LONG; }

void ct_prefix_add(ct_prefix_index *p, uint32_t parent, uint32_t page, const int32_t *tokens)
{
    uint64_t hash = hash_of(p, parent, tokens);
    uint32_t *bucket = bucket_of(p, hash);
    p->nodes[page] = (ct_prefix_node){.hash = hash, .used = ++p->clock, .parent = parent, .next = *bucket};
    memcpy(p->tokens + page * p->page_tokens, tokens, p->page_tokens * sizeof *tokens);
    *bucket = page;
    if (!is_root(parent)) p->nodes[parent].n_children++;
    ct_kv_keep(p->kv, ct_kv_page(p->kv, page));
}

/* The least recently used of the nodes that fit. */
static uint32_t oldest(const ct_prefix_index *p, bool (*fits)(const ct_prefix_index *, uint32_t))
{
    uint32_t found = CT_PREFIX_NONE;
    for (uint32_t page = 0; page < p->kv->n_touched; page++)
        if (p->kv->kept[page] && fits(p, page) && (found == CT_PREFIX_NONE || p->nodes[page].used < p->nodes[found].used)) found = page;
    return found;
}

static bool may_go(const ct_prefix_index *p, uint32_t page) { return p->kv->refs[page] == 0 && p->nodes[page].n_children == 0; }
static bool has_state(const ct_prefix_index *p, uint32_t page) { return p->nodes[page].state != NULL; }

void ct_prefix_take_state(ct_prefix_index *p, uint32_t page)
{
    ct_prefix_node *node = &p->nodes[page];
    if (node->state == NULL) return;
    ct_kv_give(p->states, node->state);
    node->state = NULL;
    p->n_states--;
}

void ct_prefix_put_state(ct_prefix_index *p, uint32_t page, const uint8_t *state)
{
    ct_prefix_node *node = &p->nodes[page];
    if (p->max_states == 0) return;
    if (node->state == NULL) {
        while (p->n_states >= p->max_states) ct_prefix_take_state(p, oldest(p, has_state));
        node->state = ct_kv_take(p->states);
        if (node->state == NULL) return;
        p->n_states++;
    }
    memcpy(node->state, state, p->states->page_bytes);
}

bool ct_prefix_evict(ct_prefix_index *p)
{
    uint32_t page = oldest(p, may_go);
    if (page == CT_PREFIX_NONE) return false;
    ct_prefix_node *node = &p->nodes[page];
    uint32_t *at = bucket_of(p, node->hash);
    while (*at != page) at = &p->nodes[*at].next;
    *at = node->next;
    if (!is_root(node->parent)) p->nodes[node->parent].n_children--;
    ct_prefix_take_state(p, page);
    ct_kv_drop(p->kv, ct_kv_page(p->kv, page));
    p->n_evicted++;
    return true;
}
