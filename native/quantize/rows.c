/* rows.c: the portable quantisers, and the choice of a set at run time. */
#define ROWS_TABLE ct_rows_portable
#include "quantize/rows_lanes.h"

#include "core/core.h"

ct_rows_fn ct_rows_find_in(const char *set, ct_type type)
{
    if (type < 0 || type >= CT_N_TYPES) return NULL;
    if (strcmp(set, "portable") == 0) return ct_rows_portable[type];
#if defined(__x86_64__)
    const ct_cpu *cpu = ct_cpu_detect();
    bool avx2 = cpu->avx2 && cpu->fma && cpu->f16c;
    if (strcmp(set, "avx512") == 0 && avx2 && cpu->avx512) return ct_rows_avx512[type];
    if (strcmp(set, "avx2") == 0 && avx2) return ct_rows_avx2[type];
#endif
    return NULL;
}

ct_rows_fn ct_rows_find(ct_type type)
{
    static const char *const sets[] = {"avx512", "avx2"};
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        ct_rows_fn fn = ct_rows_find_in(sets[i], type);
        if (fn != NULL) return fn;
    }
    return ct_rows_find_in("portable", type);
}

float ct_rows_limit(ct_type type)
{
    if (type == CT_F32 || type == CT_BF16) return 3.4028235e38f;
    return type == CT_MXFP4 ? 1e15f : 65504.0f; /* MXFP4: squares of errors stay finite */
}
