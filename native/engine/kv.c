/* kv.c: see kv.h. */
#include "engine/kv.h"

cactus_status ct_kv_pool_init(ct_kv_pool *pool, size_t page_bytes, uint32_t n_pages, cactus_error *err)
{
    *pool = (ct_kv_pool){.page_bytes = page_bytes, .n_pages = n_pages, .n_free = n_pages};
    size_t n_bytes;
    if (!ct_mul_ok(page_bytes, n_pages, &n_bytes)) return ct_fail(err, CACTUS_ERROR_MEMORY, "%u pages of %zu bytes overflow", n_pages, page_bytes);
    pool->base = ct_reserve(n_bytes);
    pool->refs = ct_alloc(n_pages, sizeof *pool->refs);
    pool->kept = ct_alloc(n_pages, sizeof *pool->kept);
    pool->free_heap = ct_alloc(n_pages, sizeof *pool->free_heap);
    if (pool->base == NULL || pool->refs == NULL || pool->kept == NULL || pool->free_heap == NULL) {
        ct_kv_pool_free(pool);
        return ct_fail(err, CACTUS_ERROR_MEMORY, "cannot reserve %zu bytes for keys and values; a shorter context needs less", n_bytes);
    }
    for (uint32_t i = 0; i < n_pages; i++) pool->free_heap[i] = i; /* ascending numbers are a heap */
    return CACTUS_OK;
}

void ct_kv_pool_free(ct_kv_pool *pool)
{
    if (pool->base != NULL) ct_release(pool->base, pool->page_bytes * pool->n_pages);
    ct_free(pool->refs);
    ct_free(pool->kept);
    ct_free(pool->free_heap);
    *pool = (ct_kv_pool){0};
}

static void swap(uint32_t *a, uint32_t *b)
{
    uint32_t t = *a;
    *a = *b;
    *b = t;
}

uint8_t *ct_kv_take(ct_kv_pool *pool)
{
    if (pool->n_free == 0) return NULL;
    uint32_t *heap = pool->free_heap, page = heap[0];
    heap[0] = heap[--pool->n_free];
    for (uint32_t i = 0;;) {
        uint32_t child = 2 * i + 1;
        if (child >= pool->n_free) break;
        if (child + 1 < pool->n_free && heap[child + 1] < heap[child]) child++;
        if (heap[i] <= heap[child]) break;
        swap(&heap[i], &heap[child]);
        i = child;
    }
    pool->refs[page] = 1;
    pool->n_used++;
    if (page + 1 > pool->n_touched) pool->n_touched = page + 1;
    return pool->base + (size_t)page * pool->page_bytes;
}

uint32_t ct_kv_number(const ct_kv_pool *pool, const uint8_t *page) { return (uint32_t)((size_t)(page - pool->base) / pool->page_bytes); }

uint8_t *ct_kv_page(const ct_kv_pool *pool, uint32_t number) { return pool->base + (size_t)number * pool->page_bytes; }

static void put_back(ct_kv_pool *pool, uint32_t number)
{
    uint32_t i = pool->n_free++;
    pool->free_heap[i] = number;
    while (i > 0 && pool->free_heap[i] < pool->free_heap[(i - 1) / 2]) {
        swap(&pool->free_heap[i], &pool->free_heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
}

void ct_kv_share(ct_kv_pool *pool, uint8_t *page)
{
    if (pool->refs[ct_kv_number(pool, page)]++ > 0) return;
    pool->n_idle--;
    pool->n_used++;
}

void ct_kv_give(ct_kv_pool *pool, uint8_t *page)
{
    uint32_t number = ct_kv_number(pool, page);
    if (--pool->refs[number] > 0) return;
    pool->n_used--;
    if (pool->kept[number]) pool->n_idle++;
    else put_back(pool, number);
}

void ct_kv_keep(ct_kv_pool *pool, uint8_t *page) { pool->kept[ct_kv_number(pool, page)] = true; }

void ct_kv_drop(ct_kv_pool *pool, uint8_t *page)
{
    uint32_t number = ct_kv_number(pool, page);
    pool->kept[number] = false;
    if (pool->refs[number] > 0) return;
    pool->n_idle--;
    put_back(pool, number);
}
