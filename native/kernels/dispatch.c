/* dispatch.c: which kernel sets this CPU can run, and the choice among them. */
#include <pthread.h>
#include <string.h>

#include "core/core.h"
#include "kernels/kernels.h"

enum { MAX_SETS = 4 };

static ct_kernels sets[MAX_SETS]; /* best first */
static size_t n_sets;
static char names[128];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void push(void (*init)(ct_kernels *))
{
    init(&sets[n_sets]);
    if (n_sets > 0) strcat(names, " ");
    strcat(names, sets[n_sets].name);
    n_sets++;
}

static void detect(void)
{
    const ct_cpu *cpu = ct_cpu_detect();
#if defined(__x86_64__)
    bool avx2 = cpu->avx2 && cpu->fma && cpu->f16c;
    if (avx2 && cpu->avx512 && cpu->avx512_vnni) push(ct_kernels_init_avx512vnni);
    if (avx2 && cpu->avx_vnni) push(ct_kernels_init_avxvnni);
    if (avx2) push(ct_kernels_init_avx2);
#elif defined(__aarch64__)
    if (cpu->i8mm && cpu->dotprod) push(ct_kernels_init_i8mm);
    if (cpu->dotprod) push(ct_kernels_init_dotprod);
    if (cpu->neon) push(ct_kernels_init_neon);
#else
    (void)cpu;
#endif
    push(ct_kernels_init_scalar);
}

const ct_kernels *ct_kernels_get(const char *name)
{
    pthread_once(&once, detect);
    if (name == NULL || name[0] == '\0') return &sets[0];
    for (size_t i = 0; i < n_sets; i++)
        if (strcmp(sets[i].name, name) == 0) return &sets[i];
    return NULL;
}

const char *ct_kernels_available(void)
{
    pthread_once(&once, detect);
    return names;
}
