/* kv.h: the pages that hold keys and values, shared by all sequences of an engine. */
#ifndef CT_KV_H
#define CT_KV_H

#include "core/core.h"

/* Pages are taken from one reserved range, lowest number first, so that resident memory follows use. A page is reference-counted:
 * sequences that begin alike share it. A page that is kept stays filled when nobody refers to it, until it is dropped.
 * Not thread-safe: the scheduler owns it. */
typedef struct ct_kv_pool {
    uint8_t *base;
    size_t page_bytes;
    uint32_t n_pages;
    _Atomic uint32_t n_used, n_touched; /* pages that are referred to, that ever were; may be read from any thread */
    _Atomic uint32_t n_idle;            /* kept, but not referred to */
    uint32_t *refs;      /* [n_pages] */
    bool *kept;          /* [n_pages] */
    uint32_t *free_heap; /* [n_pages] a binary min-heap of free page numbers */
    uint32_t n_free;
} ct_kv_pool;

cactus_status ct_kv_pool_init(ct_kv_pool *pool, size_t page_bytes, uint32_t n_pages, cactus_error *err);
void ct_kv_pool_free(ct_kv_pool *pool);
uint8_t *ct_kv_take(ct_kv_pool *pool);               /* a page with one reference; NULL when none is free */
void ct_kv_share(ct_kv_pool *pool, uint8_t *page);   /* one reference more, of a page that is referred to or kept */
void ct_kv_give(ct_kv_pool *pool, uint8_t *page);    /* one reference less; the last one frees the page unless it is kept */
void ct_kv_keep(ct_kv_pool *pool, uint8_t *page);
void ct_kv_drop(ct_kv_pool *pool, uint8_t *page);    /* not kept any more */
uint32_t ct_kv_number(const ct_kv_pool *pool, const uint8_t *page);
uint8_t *ct_kv_page(const ct_kv_pool *pool, uint32_t number);

#endif
