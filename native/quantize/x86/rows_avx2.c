/* rows_avx2.c: the quantisers of rows_lanes.h, compiled for AVX2. */
#define ROWS_TABLE ct_rows_avx2
#include "quantize/rows_lanes.h"
