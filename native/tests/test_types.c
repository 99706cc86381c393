/* test_types.c: the table of tensor types, block decoding against gguf-py's values, and half precision.
 * The vectors in tests/data/dequant are made by scripts/make_dequant_vectors.py. */
#include "core/core.h"
#include "gguf/types.h"
#include "tests/test.h"

/* ---- golden vectors ---- */

typedef struct vectors {
    uint32_t type, n_rows, n_cols, row_bytes;
    uint8_t *raw;  /* [n_rows, row_bytes] */
    float *values; /* [n_rows, n_cols] */
} vectors;

static bool read_vectors(const char *name, vectors *v)
{
    char path[128], magic[4];
    uint32_t header[4];
    snprintf(path, sizeof path, "tests/data/dequant/%s.bin", name);
    FILE *file = fopen(path, "rb");
    if (!CHECK_MSG(file != NULL, "cannot open %s", path)) return false;
    bool ok = fread(magic, 1, 4, file) == 4 && memcmp(magic, "CTDQ", 4) == 0 && fread(header, 4, 4, file) == 4;
    if (ok) {
        *v = (vectors){header[0], header[1], header[2], header[3], NULL, NULL};
        v->raw = malloc((size_t)v->n_rows * v->row_bytes);
        v->values = malloc((size_t)v->n_rows * v->n_cols * sizeof(float));
        ok = v->raw != NULL && v->values != NULL && fread(v->raw, v->row_bytes, v->n_rows, file) == v->n_rows &&
             fread(v->values, sizeof(float) * v->n_cols, v->n_rows, file) == v->n_rows;
    }
    fclose(file);
    return CHECK_MSG(ok, "%s is damaged", path);
}

/* Decodes every row both ways. A row lies at an odd address and ends right before an unreadable page. */
static void check_decoding(const vectors *v, const ct_type_info *info)
{
    enum { MAX_COLS = 1024 };
    float out[MAX_COLS + 1], d[MAX_COLS / 16], m[MAX_COLS / 16];
    int8_t codes[MAX_COLS];
    size_t n_bytes = 0;
    if (!CHECK(v->n_cols <= MAX_COLS) || !CHECK(ct_type_row_bytes(info, v->n_cols, &n_bytes))) return;
    if (!CHECK_INT(n_bytes, v->row_bytes)) return;
    test_guarded row = test_guarded_alloc(n_bytes), odd = test_guarded_alloc(n_bytes + 1);
    for (size_t r = 0; r < v->n_rows; r++) {
        const float *want = v->values + r * v->n_cols;
        memcpy(row.data, v->raw + r * n_bytes, n_bytes);
        memcpy(odd.data + ((uintptr_t)odd.data % 2 == 0), row.data, n_bytes);
        out[v->n_cols] = 123.0f;
        info->decode_f32(row.data, v->n_cols, out);
        if (!CHECK_MEM(out, want, v->n_cols * sizeof(float)) || !CHECK_FLOAT(out[v->n_cols], 123.0f)) break;
        memset(out, 0, sizeof out);
        info->decode_f32(odd.data + ((uintptr_t)odd.data % 2 == 0), v->n_cols, out);
        if (!CHECK_MEM(out, want, v->n_cols * sizeof(float))) break;
        if (info->decode_codes == NULL) continue;

        info->decode_codes(row.data, v->n_cols, codes, d, info->has_min ? m : NULL);
        for (size_t k = 0; k < v->n_cols; k++) {
            size_t g = k / info->sub_elems;
            double exact = (double)d[g] * codes[k] + (info->has_min ? (double)m[g] : 0.0);
            double scale = fabs((double)d[g] * codes[k]) + (info->has_min ? fabs((double)m[g]) : 0.0);
            if (!CHECK_NEAR(exact, want[k], scale * 0x1p-23)) goto done;
        }
    }
done:
    test_guarded_free(&row);
    test_guarded_free(&odd);
}

static void check_type(const char *name, ct_type type)
{
    vectors v = {0};
    const ct_type_info *info = ct_type_get(type);
    if (CHECK(info != NULL && info->decode_f32 != NULL) && CHECK_STR(info->name, name) && read_vectors(name, &v) &&
        CHECK_INT(v.type, type) && CHECK(v.n_rows >= 24))
        check_decoding(&v, info);
    free(v.raw);
    free(v.values);
}

TEST(decode_f16) { check_type("F16", CT_F16); }
TEST(decode_bf16) { check_type("BF16", CT_BF16); }
TEST(decode_q4_0) { check_type("Q4_0", CT_Q4_0); }
TEST(decode_q4_1) { check_type("Q4_1", CT_Q4_1); }
TEST(decode_q5_0) { check_type("Q5_0", CT_Q5_0); }
TEST(decode_q5_1) { check_type("Q5_1", CT_Q5_1); }
TEST(decode_q8_0) { check_type("Q8_0", CT_Q8_0); }
TEST(decode_iq4_nl) { check_type("IQ4_NL", CT_IQ4_NL); }
TEST(decode_q4_k) { check_type("Q4_K", CT_Q4_K); }
TEST(decode_q5_k) { check_type("Q5_K", CT_Q5_K); }
TEST(decode_q6_k) { check_type("Q6_K", CT_Q6_K); }
TEST(decode_tq2_0) { check_type("TQ2_0", CT_TQ2_0); }
TEST(decode_q2_k) { check_type("Q2_K", CT_Q2_K); }
TEST(decode_q3_k) { check_type("Q3_K", CT_Q3_K); }
TEST(decode_iq1_s) { check_type("IQ1_S", CT_IQ1_S); }
TEST(decode_iq1_m) { check_type("IQ1_M", CT_IQ1_M); }
TEST(decode_iq2_xxs) { check_type("IQ2_XXS", CT_IQ2_XXS); }
TEST(decode_iq2_xs) { check_type("IQ2_XS", CT_IQ2_XS); }
TEST(decode_iq2_s) { check_type("IQ2_S", CT_IQ2_S); }
TEST(decode_iq3_xxs) { check_type("IQ3_XXS", CT_IQ3_XXS); }
TEST(decode_iq3_s) { check_type("IQ3_S", CT_IQ3_S); }
TEST(decode_iq4_xs) { check_type("IQ4_XS", CT_IQ4_XS); }
TEST(decode_tq1_0) { check_type("TQ1_0", CT_TQ1_0); }
TEST(decode_mxfp4) { check_type("MXFP4", CT_MXFP4); }
TEST(decode_nvfp4) { check_type("NVFP4", CT_NVFP4); }
TEST(decode_q1_0) { check_type("Q1_0", CT_Q1_0); }
TEST(decode_q2_0) { check_type("Q2_0", CT_Q2_0); }

TEST(decode_f32_copies)
{
    const float in[3] = {1.5f, -0.0f, 0x1p-149f};
    float out[3] = {9, 9, 9};
    const ct_type_info *info = ct_type_get(CT_F32);
    info->decode_f32(in, 3, out);
    CHECK_MEM(out, in, sizeof in);
    info->decode_f32(in, 0, NULL);
}

/* Any bytes decode: nothing outside of the arrays is touched (sanitizers watch), codes are in the range that the kernels rely on
 * (never -128), and all that is not NaN or infinite is d * code + m. */
TEST(any_bytes_decode)
{
    test_rng rng = {7};
    for (uint32_t type = 0; type < CT_N_TYPES; type++) {
        const ct_type_info *info = ct_type_get(type);
        if (info == NULL || info->decode_codes == NULL) continue;
        size_t n = info->block_elems, n_sub = n / info->sub_elems;
        test_guarded block = test_guarded_alloc(info->block_bytes), codes = test_guarded_alloc(n);
        test_guarded d = test_guarded_alloc(n_sub * sizeof(float)), m = test_guarded_alloc(n_sub * sizeof(float));
        test_guarded out = test_guarded_alloc(n * sizeof(float));
        const float *dv = (const float *)(const void *)d.data, *mv = (const float *)(const void *)m.data;
        const float *values = (const float *)(const void *)out.data;
        for (int round = 0; round < 2000; round++) {
            for (size_t i = 0; i < info->block_bytes; i++) block.data[i] = round < 256 ? (uint8_t)round : (uint8_t)test_u64(&rng);
            info->decode_codes(block.data, n, (int8_t *)codes.data, (float *)(void *)d.data, info->has_min ? (float *)(void *)m.data : NULL);
            info->decode_f32(block.data, n, (float *)(void *)out.data);
            for (size_t k = 0; k < n; k++) {
                int code = (int8_t)codes.data[k];
                float w = dv[k / info->sub_elems] * (float)code, min = info->has_min ? mv[k / info->sub_elems] : 0.0f;
                if (!isfinite(w) || !isfinite(min)) continue;
                if (!CHECK_MSG(w + min == values[k] && (code >= -127 || type == CT_Q8_0), "%s: element %zu of a block of random bytes",
                               info->name, k))
                    break;
            }
        }
        test_guarded_free(&block);
        test_guarded_free(&codes);
        test_guarded_free(&d);
        test_guarded_free(&m);
        test_guarded_free(&out);
    }
}

/* ---- the table ---- */

TEST(sizes_are_those_of_ggml)
{
    /* number, name, elements and bytes per block: GGML_QUANT_SIZES of gguf-py 0.19 */
    static const struct { uint32_t type; const char *name; unsigned elems, bytes; } want[] = {
        {0, "F32", 1, 4}, {1, "F16", 1, 2}, {2, "Q4_0", 32, 18}, {3, "Q4_1", 32, 20}, {6, "Q5_0", 32, 22}, {7, "Q5_1", 32, 24},
        {8, "Q8_0", 32, 34}, {9, "Q8_1", 32, 40}, {10, "Q2_K", 256, 84}, {11, "Q3_K", 256, 110}, {12, "Q4_K", 256, 144},
        {13, "Q5_K", 256, 176}, {14, "Q6_K", 256, 210}, {15, "Q8_K", 256, 292}, {16, "IQ2_XXS", 256, 66},
        {17, "IQ2_XS", 256, 74}, {18, "IQ3_XXS", 256, 98}, {19, "IQ1_S", 256, 50}, {20, "IQ4_NL", 32, 18},
        {21, "IQ3_S", 256, 110}, {22, "IQ2_S", 256, 82}, {23, "IQ4_XS", 256, 136}, {24, "I8", 1, 1}, {25, "I16", 1, 2},
        {26, "I32", 1, 4}, {27, "I64", 1, 8}, {28, "F64", 1, 8}, {29, "IQ1_M", 256, 56}, {30, "BF16", 1, 2},
        {34, "TQ1_0", 256, 54}, {35, "TQ2_0", 256, 66}, {39, "MXFP4", 32, 17}, {40, "NVFP4", 64, 36}, {41, "Q1_0", 128, 18},
        {42, "Q2_0", 64, 18}, /* block_q2_0 of ggml */
    };
    size_t n_known = 0;
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        const ct_type_info *info = ct_type_get(want[i].type);
        if (!CHECK_MSG(info != NULL, "type %u is unknown", want[i].type)) continue;
        CHECK_STR(info->name, want[i].name);
        CHECK_INT(info->block_elems, want[i].elems);
        CHECK_INT(info->block_bytes, want[i].bytes);
    }
    for (uint32_t type = 0; type < CT_N_TYPES; type++) n_known += ct_type_get(type) != NULL;
    CHECK_INT(n_known, sizeof want / sizeof want[0]);
}

TEST(unknown_numbers_have_no_row)
{
    static const uint32_t unknown[] = {4, 5, 31, 32, 33, 36, 37, 38, CT_N_TYPES, 1000, 0x80000000u, UINT32_MAX};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        CHECK_MSG(ct_type_get(unknown[i]) == NULL, "type %u has a row", unknown[i]);
}

TEST(rows_are_consistent)
{
    for (uint32_t type = 0; type < CT_N_TYPES; type++) {
        const ct_type_info *info = ct_type_get(type);
        if (info == NULL) continue;
        CHECK(info->block_elems > 0 && info->block_bytes > 0);
        if (info->decode_codes != NULL) { /* codes imply floats, and sub-blocks that fill the block */
            CHECK(info->decode_f32 != NULL);
            CHECK(info->sub_elems == 16 || info->sub_elems == 32);
            CHECK_INT(info->block_elems % 32, 0);
        } else if (info->decode_f32 != NULL) {
            CHECK_INT(info->sub_elems, 0);
            CHECK_INT(info->block_elems, 1);
        }
    }
}

TEST(row_bytes)
{
    size_t n = 7;
    CHECK(ct_type_row_bytes(ct_type_get(CT_Q4_K), 512, &n));
    CHECK_UINT(n, 288);
    CHECK(ct_type_row_bytes(ct_type_get(CT_Q8_0), 0, &n));
    CHECK_UINT(n, 0);
    CHECK(!ct_type_row_bytes(ct_type_get(CT_Q4_K), 32, &n));
    CHECK(!ct_type_row_bytes(ct_type_get(CT_Q4_0), 33, &n));
    CHECK(!ct_type_row_bytes(ct_type_get(CT_F32), UINT64_MAX, &n));
    CHECK(!ct_type_row_bytes(ct_type_get(CT_F32), UINT64_MAX / 4 + 1, &n));
    CHECK(!ct_type_row_bytes(ct_type_get(CT_Q8_0), UINT64_MAX - 31, &n)); /* a multiple of 32; 34 bytes each overflow */
#if SIZE_MAX == UINT64_MAX
    CHECK(ct_type_row_bytes(ct_type_get(CT_F32), UINT64_MAX / 4, &n));
    CHECK_UINT(n, UINT64_MAX / 4 * 4);
#endif
}

/* ---- half precision ---- */

/* The value by the format's definition (IEEE 754 binary16), not by moving bits. */
static double half_value(unsigned h)
{
    unsigned exponent = h >> 10 & 31, mantissa = h & 1023;
    double magnitude = exponent == 31 ? (mantissa == 0 ? (double)INFINITY : (double)NAN)
                       : exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, (int)exponent - 25);
    return h >> 15 ? -magnitude : magnitude;
}

TEST(every_half_converts_and_returns)
{
    for (unsigned h = 0; h < 65536; h++) {
        float f = ct_f16_to_f32((uint16_t)h);
        bool is_nan = (h & 0x7fff) > 0x7c00;
        if (!CHECK_MSG((double)f == half_value(h) || (is_nan && isnan(f)), "half 0x%04x gives %a", h, (double)f)) return;
        if (!CHECK_MSG(!signbit(f) == !(h & 0x8000), "half 0x%04x changes its sign", h)) return;
        unsigned want = is_nan ? h | 0x200 : h; /* NaN: quiet, the rest of the payload kept */
        if (!CHECK_MSG(ct_f32_to_f16(f) == want, "half 0x%04x returns as 0x%04x", h, ct_f32_to_f16(f))) return;
    }
}

TEST(floats_between_halves_go_to_the_nearest)
{
    for (unsigned h = 0; h < 0x7c00; h++) { /* h and its neighbour above, which may be infinity (as if it were 65536) */
        double low = half_value(h), high = h == 0x7bff ? 65536.0 : half_value(h + 1);
        float middle = (float)((low + high) / 2); /* exact: a half has 11 bits, this has 12 */
        unsigned even = h % 2 == 0 ? h : h + 1;
        unsigned at = ct_f32_to_f16(middle), below = ct_f32_to_f16(nextafterf(middle, 0.0f));
        unsigned above = ct_f32_to_f16(nextafterf(middle, INFINITY)), negative = ct_f32_to_f16(-middle);
        if (!CHECK_MSG(at == even && below == h && above == h + 1 && negative == (even | 0x8000),
                       "around %a: 0x%04x, 0x%04x, 0x%04x, negative 0x%04x", (double)middle, below, at, above, negative))
            return;
    }
}

TEST(floats_outside_the_range_of_halves)
{
    CHECK_UINT(ct_f32_to_f16(0.0f), 0);
    CHECK_UINT(ct_f32_to_f16(-0.0f), 0x8000);
    CHECK_UINT(ct_f32_to_f16(0x1p-149f), 0);
    CHECK_UINT(ct_f32_to_f16(-0x1p-126f), 0x8000);
    CHECK_UINT(ct_f32_to_f16(0x1.fffffep+127f), 0x7c00);
    CHECK_UINT(ct_f32_to_f16(-1e10f), 0xfc00);
    CHECK_UINT(ct_f32_to_f16(INFINITY), 0x7c00);
    CHECK_UINT(ct_f32_to_f16(-INFINITY), 0xfc00);
    CHECK_UINT(ct_f32_to_f16(NAN) & 0x7e00, 0x7e00);
    union { uint32_t u; float f; } smallest_nan = {.u = 0x7f800001}; /* its payload is below what a half can hold */
    CHECK_UINT(ct_f32_to_f16(smallest_nan.f), 0x7e00);
}

TEST(bf16_is_the_upper_half_of_f32)
{
    CHECK_FLOAT(ct_bf16_to_f32(0x3fc0), 1.5f);
    CHECK_FLOAT(ct_bf16_to_f32(0xc2f7), -123.5f);
    CHECK_FLOAT(ct_bf16_to_f32(0x0001), 0x1p-133f);
    CHECK_FLOAT(ct_bf16_to_f32(0xff80), -INFINITY);
    CHECK(isnan(ct_bf16_to_f32(0x7fc0)));
}

TEST_MAIN()
