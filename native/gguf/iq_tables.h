/* iq_tables.h: the grids of the IQ types as bytes, for decoders and kernels (types_iq.c). A point's first element is the lowest byte. */
#ifndef CT_IQ_TABLES_H
#define CT_IQ_TABLES_H

#include <stdint.h>

extern const uint64_t ct_iq1_grid[2048]; /* 8 * (-1, 0, 1) + 8 */
extern const uint64_t ct_iq2_xxs_grid[256];
extern const uint64_t ct_iq2_xs_grid[512];
extern const uint64_t ct_iq2_s_grid[1024];
extern const uint32_t ct_iq3_xxs_grid[256];
extern const uint32_t ct_iq3_s_grid[512];

/* Seven sign bits, and an eighth such that the number of minus signs is even, as bytes: 1 is minus. */
extern const uint64_t ct_iq_signs_of_7[128];

#endif
