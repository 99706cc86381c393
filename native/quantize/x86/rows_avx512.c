/* rows_avx512.c: the quantisers of rows_lanes.h, compiled for AVX512. */
#define ROWS_TABLE ct_rows_avx512
#include "quantize/rows_lanes.h"
