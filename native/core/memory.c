/* memory.c: aligned, zeroed memory and reserved address space. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/core.h"

enum { ALIGN_BYTES = 64, HUGE_PAGE_BYTES = 2 << 20 };

void *ct_alloc(size_t count, size_t elem_bytes)
{
    size_t n_bytes;
    void *p = NULL;
    if (!ct_mul_ok(count, elem_bytes, &n_bytes) || n_bytes > PTRDIFF_MAX) return NULL;
    if (n_bytes == 0) n_bytes = 1; /* a pointer of its own, as NULL means failure */
    bool large = n_bytes >= 2 * (size_t)HUGE_PAGE_BYTES;
    if (posix_memalign(&p, large ? HUGE_PAGE_BYTES : ALIGN_BYTES, n_bytes) != 0) return NULL;
#if defined(MADV_HUGEPAGE)
    if (large) (void)madvise(p, n_bytes, MADV_HUGEPAGE); /* before the first touch; a wish, so failure does not matter */
#endif
    return memset(p, 0, n_bytes);
}

void ct_free(void *p) { free(p); }

void *ct_reserve(size_t n_bytes)
{
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
    flags |= MAP_NORESERVE;
#endif
    if (n_bytes == 0 || n_bytes > PTRDIFF_MAX) return NULL;
    void *p = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void ct_release(void *p, size_t n_bytes)
{
    if (p != NULL) (void)munmap(p, n_bytes);
}
