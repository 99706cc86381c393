/* arch.c: the table of decoder architectures. */
#include <pthread.h>
#include <string.h>

#include "models/arch.h"

/* All rows share: pre-norm RMSNorm, grouped-query attention, SwiGLU, tied or separate head, optional biases. */
static const ct_arch table[] = {
    {.name = "llama", .rope = CT_ROPE_ADJACENT},
};

enum { N_ARCHS = sizeof table / sizeof table[0] };

static char names[1024];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void join_names(void)
{
    for (size_t i = 0; i < N_ARCHS; i++) {
        if (i > 0) strcat(names, ", ");
        strcat(names, table[i].name);
    }
}

const char *ct_arch_names(void)
{
    pthread_once(&once, join_names);
    return names;
}

const ct_arch *ct_arch_find(const char *name, size_t n_bytes)
{
    for (size_t i = 0; i < N_ARCHS; i++)
        if (strlen(table[i].name) == n_bytes && memcmp(table[i].name, name, n_bytes) == 0) return &table[i];
    return NULL;
}
