/* avx2.c: the kernels for AVX2, FMA and F16C. */
#include "kernels/x86/float_kernels.h"
#include "kernels/x86/int8_256.h"
#include "kernels/recurrent_kernels.h"

void ct_kernels_init_avx2(ct_kernels *k)
{
    *k = (ct_kernels){
        .name = "avx2",
        .gemm_f32 = gemm_f32,
        .f16_to_f32 = f16_to_f32,
        .bf16_to_f32 = bf16_to_f32,
        .f32_to_f16 = f32_to_f16,
        .quantize_kv = quantize_kv,
        .rms_norm = rms_norm,
        .silu_mul = silu_mul,
        .layer_norm = layer_norm,
        .gelu_mul = gelu_mul,
        .gelu_erf_mul = gelu_erf_mul,
        .swiglu_oai = swiglu_oai,
        .sigmoid_mul = sigmoid_mul,
        .softcap = softcap,
        .add = add,
        .scale = scale,
        .max_index = max_index,
        .softmax_stats = softmax_stats,
        .attend_f16 = attend_f16,
        .attend_f32 = attend_f32,
        .attend_i8 = attend_i8,
        .sigmoid = sigmoid,
        .softplus = softplus,
        .exp = exp_all,
        .l2_norm = l2_norm,
        .causal_conv = causal_conv,
        .mamba_scan = mamba_scan,
        .ssd_scan = ssd_scan,
        .delta_scan = delta_scan,
    };
    set_int8_kernels(k);
    k->matvec[CT_F32] = matvec_f32;
    k->matvec[CT_F16] = matvec_f16;
    k->matvec[CT_BF16] = matvec_bf16;
}
