/* fuzz_quantize.c: libFuzzer over cactus_quantize. The input is a model, or, where its last byte is odd, an importance matrix for
 * the model made here. What is made must open again, and hold the tensors of the source. Run by scripts/fuzz.sh. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/core.h"
#include "gguf/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds) abort();
}

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    require(file != NULL && (size == 0 || fwrite(data, 1, size, file) == size));
    require(fclose(file) == 0);
}

/* A model of one matrix, "w.weight", of 2 rows of 256. */
static size_t small_model(uint8_t out[4096])
{
    static const char name[] = "w.weight";
    uint64_t n = 1, none = 0, length = sizeof name - 1, shape[2] = {256, 2};
    uint32_t version = 3, n_dims = 2, type = 0;
    size_t at = 0;
    memset(out, 0, 4096);
#define PUT(p, n_bytes) (memcpy(out + at, p, n_bytes), at += n_bytes)
    PUT("GGUF", 4);
    PUT(&version, 4);
    PUT(&n, 8);
    PUT(&none, 8);
    PUT(&length, 8);
    PUT(name, sizeof name - 1);
    PUT(&n_dims, 4);
    PUT(shape, 16);
    PUT(&type, 4);
    PUT(&none, 8);
#undef PUT
    at = ct_round_up(at, 32);
    for (size_t i = 0; i < 512; i++) {
        float x = (float)(i * 37 % 101) - 50.0f;
        memcpy(out + at + 4 * i, &x, 4);
    }
    return at + 2048;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char input[64], model[64], target[64];
    static const char *const recipes[] = {"q4_k_m", "q2_k", "q8_0", "iq4_xs", "tq1_0", "f16", "mxfp4_moe", "q5_1"};
    if (input[0] == '\0') {
        uint8_t bytes[4096];
        long id = (long)getpid();
        snprintf(input, sizeof input, "/tmp/fuzz_quantize-%ld.in", id);
        snprintf(model, sizeof model, "/tmp/fuzz_quantize-%ld.gguf", id);
        snprintf(target, sizeof target, "/tmp/fuzz_quantize-%ld.out", id);
        write_file(model, bytes, small_model(bytes));
    }
    if (size == 0) return 0;
    uint8_t mode = data[size - 1];
    write_file(input, data, size - 1);
    bool is_imatrix = mode % 2 == 1;
    cactus_error err;
    cactus_quantize_params p;
    cactus_quantize_params_default(&p);
    p.recipe = recipes[mode / 2 % 8];
    p.n_threads = 1;
    p.allow_requantize = p.overwrite = 1;
    if (is_imatrix) p.imatrix = input;
    const char *source = is_imatrix ? model : input;
    cactus_status status = cactus_quantize(source, target, &p, NULL, &err);
    if (status == CACTUS_OK) {
        ct_gguf *from, *to;
        require(ct_gguf_open(source, &from, &err) == CACTUS_OK && ct_gguf_open(target, &to, &err) == CACTUS_OK);
        require(ct_gguf_n_tensors(from) == ct_gguf_n_tensors(to));
        ct_gguf_close(from);
        ct_gguf_close(to);
        require(unlink(target) == 0);
    } else {
        require(err.code == (int32_t)status && err.message[0] != '\0' && access(target, F_OK) != 0);
    }
    return 0;
}
