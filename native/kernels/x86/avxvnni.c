/* avxvnni.c: the AVX2 kernels with the integer products done by the 256-bit vpdpbusd of AVX-VNNI. */
#include "kernels/x86/int8_256.h"

void ct_kernels_init_avxvnni(ct_kernels *k)
{
    ct_kernels_init_avx2(k);
    k->name = "avxvnni";
    set_int8_kernels(k);
}
