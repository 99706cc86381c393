/* test_threads.c: every tile of a job runs exactly once, whatever the number of threads and tiles, also when workers sleep. */
#include <stdatomic.h>
#include <time.h>

#include "core/core.h"
#include "tests/test.h"

enum { MAX_TILES = 5000 };

typedef struct counts {
    atomic_int tiles[MAX_TILES];
    atomic_int bad_thread;
    int n_threads;
} counts;

static void count_tile(void *ctx, size_t tile, int thread)
{
    counts *c = ctx;
    atomic_fetch_add(&c->tiles[tile], 1);
    if (thread < 0 || thread >= c->n_threads) atomic_store(&c->bad_thread, 1);
}

static counts c;

static void run_once(ct_pool *pool, size_t n_tiles)
{
    c.n_threads = ct_pool_threads(pool);
    for (size_t i = 0; i < MAX_TILES; i++) atomic_store(&c.tiles[i], 0);
    ct_pool_run(pool, count_tile, &c, n_tiles);
    for (size_t i = 0; i < MAX_TILES; i++)
        if (atomic_load(&c.tiles[i]) != (i < n_tiles ? 1 : 0)) {
            CHECK_MSG(false, "tile %zu of %zu ran %d times with %d threads", i, n_tiles, atomic_load(&c.tiles[i]), c.n_threads);
            return;
        }
    CHECK_INT(atomic_load(&c.bad_thread), 0);
}

TEST(every_tile_once)
{
    static const size_t n_tiles[] = {0, 1, 2, 3, 7, 64, 1000, MAX_TILES};
    for (int n_threads = 1; n_threads <= 9; n_threads++) {
        ct_pool *pool = ct_pool_create(n_threads);
        if (!CHECK(pool != NULL)) return;
        CHECK_INT(ct_pool_threads(pool), n_threads);
        for (size_t i = 0; i < sizeof n_tiles / sizeof n_tiles[0]; i++) run_once(pool, n_tiles[i]);
        ct_pool_free(pool);
    }
}

TEST(many_short_jobs)
{
    ct_pool *pool = ct_pool_create(4);
    if (!CHECK(pool != NULL)) return;
    for (size_t i = 0; i < 300; i++) run_once(pool, i % 17);
    ct_pool_free(pool);
}

TEST(workers_wake_after_sleep)
{
    ct_pool *pool = ct_pool_create(3);
    if (!CHECK(pool != NULL)) return;
    for (int i = 0; i < 5; i++) {
        nanosleep(&(struct timespec){0, 2000000}, NULL); /* longer than a worker spins */
        run_once(pool, 100);
    }
    nanosleep(&(struct timespec){0, 2000000}, NULL);
    ct_pool_free(pool); /* sleeping workers must see the end */
}

TEST(bad_thread_counts)
{
    CHECK(ct_pool_create(0) == NULL);
    CHECK(ct_pool_create(-3) == NULL);
    CHECK(ct_pool_create(100000) == NULL);
    ct_pool_free(NULL);
}

TEST_MAIN()
