/* threads.c: the thread pool.
 *
 * A job is published by storing its number, an "open" bit and a count of joined workers in one atomic word. Workers join an open
 * job, take tiles and leave; the caller closes the job when no tile is left and waits only for those who joined. A worker that the
 * operating system has put aside therefore never holds a job up: the caller computes its share.
 *
 * Tiles: each thread owns a contiguous share with a counter of its own (no contention while everyone is busy with its own) and
 * helps the others when it is through.
 */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "core/core.h"

enum { SPIN_MICROSECONDS = 100 };

/* state = job number * JOB_ONE + open * OPEN_BIT + joined workers */
#define OPEN_BIT ((uint64_t)1 << 16)
#define JOB_ONE ((uint64_t)1 << 17)
#define JOINED_MASK (OPEN_BIT - 1)

typedef struct span {
    const char *at;
    size_t n_bytes;
} span;

typedef struct share {
    _Alignas(64) atomic_size_t next;
    size_t end;
    span expected; /* by the thread, after the job */
} share;

struct ct_pool {
    _Alignas(64) atomic_uint_fast64_t state;
    _Alignas(64) atomic_int n_sleeping;
    atomic_bool stop;
    ct_tile_fn fn;
    void *ctx;
    share *shares; /* [n_threads] */
    int n_threads;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_t *threads; /* [n_threads - 1] */
};

typedef struct worker_arg {
    ct_pool *pool;
    int thread;
} worker_arg;

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* One step of waiting: fetches some of what is expected, or lets time pass. */
static inline void wait_a_little(span *expected)
{
    enum { BYTES = 256 };
    if (expected->n_bytes < BYTES) {
        relax();
        return;
    }
    for (size_t i = 0; i < BYTES; i += 64) __builtin_prefetch(expected->at + i, 0, 2);
    expected->at += BYTES;
    expected->n_bytes -= BYTES;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void take_tiles(ct_pool *pool, int thread)
{
    for (int i = 0; i < pool->n_threads; i++) {
        share *s = &pool->shares[(thread + i) % pool->n_threads];
        while (atomic_load_explicit(&s->next, memory_order_relaxed) < s->end) {
            size_t tile = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed);
            if (tile >= s->end) break;
            pool->fn(pool->ctx, tile, thread);
        }
    }
}

/* Joins the job of `state` if it is open; false when it was closed first. */
static bool join_job(ct_pool *pool, uint64_t state)
{
    while (state & OPEN_BIT)
        if (atomic_compare_exchange_weak_explicit(&pool->state, &state, state + 1, memory_order_acquire, memory_order_relaxed))
            return true;
    return false;
}

/* The state once it shows a job other than `seen` that is open; spins, then sleeps. Only stop makes it return a closed one. */
static uint64_t wait_job(ct_pool *pool, uint64_t seen, span expected)
{
    uint64_t until = 0;
    for (uint32_t i = 0;; i++) {
        uint64_t state = atomic_load_explicit(&pool->state, memory_order_acquire);
        if (state / JOB_ONE != seen && (state & OPEN_BIT)) return state;
        wait_a_little(&expected);
        if (i % 64 == 63) {
            uint64_t now = now_ns();
            if (until == 0) until = now + SPIN_MICROSECONDS * 1000u;
            if (now >= until) break;
        }
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_sleeping, 1);
    uint64_t state;
    while (state = atomic_load(&pool->state), !(state / JOB_ONE != seen && (state & OPEN_BIT)) && !atomic_load(&pool->stop))
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->n_sleeping, 1);
    pthread_mutex_unlock(&pool->mutex);
    return state;
}

static void *worker_main(void *p)
{
    worker_arg arg = *(worker_arg *)p;
    free(p);
    uint64_t seen = 0;
    span expected = {0};
    while (!atomic_load(&arg.pool->stop)) {
        uint64_t state = wait_job(arg.pool, seen, expected);
        seen = state / JOB_ONE;
        expected = (span){0};
        if (!join_job(arg.pool, state)) continue;
        take_tiles(arg.pool, arg.thread);
        expected = arg.pool->shares[arg.thread].expected;
        atomic_fetch_sub_explicit(&arg.pool->state, 1, memory_order_release);
    }
    return NULL;
}

static void stop_threads(ct_pool *pool, int n_started)
{
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < n_started; i++) pthread_join(pool->threads[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    ct_free(pool->threads);
    ct_free(pool->shares);
    ct_free(pool);
}

ct_pool *ct_pool_create(int n_threads)
{
    if (n_threads < 1 || n_threads > CT_MAX_THREADS) return NULL;
    ct_pool *pool = ct_alloc(1, sizeof *pool);
    if (pool == NULL) return NULL;
    pool->n_threads = n_threads;
    pool->shares = ct_alloc((size_t)n_threads, sizeof *pool->shares);
    pool->threads = ct_alloc((size_t)n_threads, sizeof *pool->threads);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    if (pool->shares == NULL || pool->threads == NULL) {
        stop_threads(pool, 0);
        return NULL;
    }
    for (int i = 0; i < n_threads - 1; i++) {
        worker_arg *arg = malloc(sizeof *arg);
        if (arg != NULL) *arg = (worker_arg){pool, i + 1};
        if (arg == NULL || pthread_create(&pool->threads[i], NULL, worker_main, arg) != 0) {
            free(arg);
            stop_threads(pool, i);
            return NULL;
        }
    }
    return pool;
}

void ct_pool_free(ct_pool *pool)
{
    if (pool != NULL) stop_threads(pool, pool->n_threads - 1);
}

int ct_pool_threads(const ct_pool *pool) { return pool->n_threads; }

void ct_pool_expect(ct_pool *pool, int thread, const void *p, size_t n_bytes)
{
    pool->shares[thread].expected = (span){p, n_bytes};
}

const void *ct_pool_expected(const ct_pool *pool, int thread) { return pool->shares[thread].expected.at; }

size_t ct_pool_share_end(const ct_pool *pool, int thread, size_t n_tiles)
{
    return n_tiles * ((size_t)thread + 1) / (size_t)pool->n_threads;
}

void ct_pool_run(ct_pool *pool, ct_tile_fn fn, void *ctx, size_t n_tiles)
{
    size_t n_threads = (size_t)pool->n_threads;
    if (n_threads == 1 || n_tiles <= 1) {
        for (size_t tile = 0; tile < n_tiles; tile++) fn(ctx, tile, 0);
        return;
    }
    pool->fn = fn;
    pool->ctx = ctx;
    for (size_t i = 0; i < n_threads; i++) {
        atomic_store_explicit(&pool->shares[i].next, i == 0 ? 0 : pool->shares[i - 1].end, memory_order_relaxed);
        pool->shares[i].end = ct_pool_share_end(pool, (int)i, n_tiles);
    }
    uint64_t job = atomic_load_explicit(&pool->state, memory_order_relaxed) / JOB_ONE + 1;
    atomic_store(&pool->state, job * JOB_ONE + OPEN_BIT);
    if (atomic_load(&pool->n_sleeping) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
    take_tiles(pool, 0);
    atomic_fetch_and(&pool->state, ~OPEN_BIT);
    span expected = pool->shares[0].expected;
    for (uint32_t i = 0; atomic_load_explicit(&pool->state, memory_order_acquire) & JOINED_MASK; i++) {
        if (i % 4096 == 4095) sched_yield();
        else wait_a_little(&expected);
    }
}
