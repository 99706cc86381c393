/* arch.h: what distinguishes one decoder architecture from another. An architecture is one row of the table in arch.c; a new idea
 * becomes a column here, read by decoder.c, and never a question for the architecture's name. */
#ifndef CT_ARCH_H
#define CT_ARCH_H

#include "nn/nn.h"

typedef struct ct_arch {
    const char *name;     /* general.architecture, and the prefix of its metadata keys */
    ct_rope_pairs rope;   /* how q and k are laid out for the rotary positions */
} ct_arch;

/* The row of an architecture by its name; NULL when there is none. */
const ct_arch *ct_arch_find(const char *name, size_t n_bytes);

/* The names of all rows, separated by ", ". Static storage. */
const char *ct_arch_names(void);

#endif
