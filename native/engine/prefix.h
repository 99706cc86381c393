/* prefix.h: the index by which sequences that begin alike find the pages that are there already. */
#ifndef CT_PREFIX_H
#define CT_PREFIX_H

#include "engine/kv.h"

/* A full page of keys and values is a node of a tree: its parent is the page before it, its name the tokens that it holds. Two nodes
 * with the same tokens behind the same parent would hold the same bits, so there is only one. A path from a root down is a prefix.
 * Pages that no sequence uses stay until memory is wanted; then leaves go, least recently used first.
 *
 * In a model with recurrent layers a node may also own a state: that after its last token. There a prefix is of use only up to a node
 * that has one. */
enum {
    CT_PREFIX_ROOT = UINT32_MAX,          /* the parent of first pages */
    CT_PREFIX_ROOT_LONG = UINT32_MAX - 1, /* the same for sequences beyond the original context, whose keys differ */
    CT_PREFIX_NONE = UINT32_MAX - 2
};

typedef struct ct_prefix_node {
    uint64_t hash;
    uint64_t used;     /* when, on the index's clock */
    uint8_t *state;    /* or NULL */
    uint32_t parent, next; /* next in the bucket */
    uint32_t n_children;
} ct_prefix_node;

typedef struct ct_prefix_index {
    ct_kv_pool *kv, *states;
    ct_prefix_node *nodes; /* [n_pages], meaningful where the page is kept */
    int32_t *tokens;       /* [n_pages, page_tokens] */
    uint32_t *buckets;     /* [n_buckets], a power of two */
    size_t n_buckets, page_tokens;
    uint32_t n_states, max_states;
    uint64_t clock, n_evicted;
} ct_prefix_index;

/* page_tokens: tokens of a page. max_states: states that the index may own, of `states`. Errors: MEMORY. */
cactus_status ct_prefix_index_init(ct_prefix_index *index, ct_kv_pool *kv, ct_kv_pool *states, size_t page_tokens, uint32_t max_states,
                               cactus_error *err);
void ct_prefix_index_free(ct_prefix_index *index);

/* The page that holds tokens [page_tokens] behind `parent` (a page number or a root), or CT_PREFIX_NONE. */
uint32_t ct_prefix_find(ct_prefix_index *index, uint32_t parent, const int32_t *tokens);

/* Keeps a page that find does not know. Its parent is a root, or in the index. */
void ct_prefix_add(ct_prefix_index *index, uint32_t parent, uint32_t page, const int32_t *tokens);

/* Copies a state into the node, in place of the one that it has; where there is no room another node, least recently used, loses its. */
void ct_prefix_put_state(ct_prefix_index *index, uint32_t page, const uint8_t *state);
void ct_prefix_take_state(ct_prefix_index *index, uint32_t page); /* the node loses its state, if it has one */

/* Frees the least recently used page that nobody uses and nothing follows. False: there is none. */
bool ct_prefix_evict(ct_prefix_index *index);

#endif
