/* core.h: errors, checked arithmetic, mapped files, CPU features, aligned memory and the thread pool.
 * The lowest layer: it knows nothing of models. Internal names start with ct_. */
#ifndef CT_CORE_H
#define CT_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cactus.h"

/* ---- errors (error.c) --------------------------------------------------------------------------------------------- */

/* Fills *err (may be NULL) and returns `status`, so that a failing function can `return ct_fail(err, …)`. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
cactus_status ct_fail(cactus_error *err, cactus_status status, const char *format, ...);

/* ---- checked arithmetic ------------------------------------------------------------------------------------------- */

static inline bool ct_mul_ok(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool ct_add_ok(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline size_t ct_round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }
static inline size_t ct_min_size(size_t a, size_t b) { return a < b ? a : b; }

/* ---- memory (memory.c) -------------------------------------------------------------------------------------------- */

/* Zeroed memory aligned to 64 bytes; NULL when it cannot be had or the size overflows. Large blocks ask for huge pages. */
void *ct_alloc(size_t count, size_t elem_bytes);
void ct_free(void *p);

/* Reserved address space that takes memory only where it is touched. NULL on failure. */
void *ct_reserve(size_t n_bytes);
void ct_release(void *p, size_t n_bytes);

/* ---- mapped files (file.c) ---------------------------------------------------------------------------------------- */

typedef struct ct_file {
    const uint8_t *data; /* read-only map, [size]; NULL for an empty file */
    size_t size;
} ct_file;

/* Maps a regular file read-only. Errors: IO (missing, unreadable, a directory, a device). */
cactus_status ct_file_map(const char *path, ct_file *out, cactus_error *err);
void ct_file_unmap(ct_file *file);

/* A file being written under a temporary name beside its own, PATH.…part, so that it appears whole or not at all. */
typedef struct ct_new_file ct_new_file;

/* Errors: IO (what stands at `path` already unless it is a file and `overwrite` is set, no such directory, no permission), MEMORY.
 * private: others of this machine may not read it. */
cactus_status ct_new_file_open(const char *path, bool overwrite, bool private, ct_new_file **out, cactus_error *err);
cactus_status ct_new_file_write(ct_new_file *file, const void *data, size_t n_bytes, cactus_error *err);

/* Waits until the bytes are on the disk and gives the file its name. Frees `file` and, on failure, deletes what was written. */
cactus_status ct_new_file_commit(ct_new_file *file, cactus_error *err);

/* Deletes what was written and frees `file`, which may be NULL. */
void ct_new_file_abandon(ct_new_file *file);

bool ct_same_file(const char *a, const char *b); /* both exist and are one file, by whatever names */

/* ---- CPU (cpu.c) -------------------------------------------------------------------------------------------------- */

typedef struct ct_cpu {
    /* x86; each is set only if the operating system saves the registers too (XGETBV) */
    bool avx2, fma, f16c, avx_vnni;
    bool avx512; /* F, BW, VL and DQ together */
    bool avx512_vnni, avx512_vbmi, avx512_bf16;
    bool amx_int8;
    /* ARM */
    bool neon, dotprod, i8mm;
} ct_cpu;

const ct_cpu *ct_cpu_detect(void); /* computed once; thread-safe */

/* ---- threads (threads.c) ------------------------------------------------------------------------------------------ */

enum { CT_MAX_THREADS = 256 };

typedef struct ct_pool ct_pool;

/* One tile of a parallel job. `thread` is in [0, n_threads): the index of per-thread scratch. */
typedef void (*ct_tile_fn)(void *ctx, size_t tile, int thread);

/* n_threads (1 … CT_MAX_THREADS) counts the caller of ct_pool_run; n_threads - 1 are started. NULL when they cannot be. */
ct_pool *ct_pool_create(int n_threads);
void ct_pool_free(ct_pool *pool);
int ct_pool_threads(const ct_pool *pool);

/* Runs fn(ctx, tile, thread) for every tile in [0, n_tiles) and returns when all are done. The caller works too. Each thread
 * starts on its own contiguous share and takes from the others' when it is through. One caller at a time. */
void ct_pool_run(ct_pool *pool, ct_tile_fn fn, void *ctx, size_t n_tiles);

/* From the next job on, until it is called again: what the thread will read next after a job. While it waits for others it fetches
 * these bytes into its caches. Only a hint: the address is never read. Between jobs, by the caller of ct_pool_run. */
void ct_pool_expect(ct_pool *pool, int thread, const void *p, size_t n_bytes);
const void *ct_pool_expected(const ct_pool *pool, int thread); /* NULL: nothing */

/* Behind the last tile of a thread's share of n_tiles. */
size_t ct_pool_share_end(const ct_pool *pool, int thread, size_t n_tiles);

#endif
