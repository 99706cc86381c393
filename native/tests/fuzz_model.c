/* fuzz_model.c: any bytes as a model file. What loads must also compute, tokenise and generate without a fault. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cactus.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const cactus_model *model)
{
    cactus_model_info info = {.struct_size = sizeof info};
    cactus_engine_params params = {.struct_size = sizeof params, .n_threads = 1, .n_batch = 4};
    cactus_engine *engine = NULL;
    int32_t ids[64];
    size_t n_ids = 0;
    if (cactus_model_get_info(model, &info, NULL) != CACTUS_OK) abort();
    if (cactus_tokenize(cactus_model_tokenizer(model), "Hi <|x|> 12", 11, 1, 1, ids, 64, &n_ids, NULL) != CACTUS_OK) n_ids = 0;
    if (n_ids == 0) ids[n_ids++] = 0;
    params.n_context = info.n_context < 16 ? 0 : 16;
    if (cactus_engine_create(model, &params, &engine, NULL) != CACTUS_OK) return;
    cactus_request_params p;
    cactus_request_params_default(&p);
    p.prompt = ids;
    p.n_prompt = n_ids;
    p.max_tokens = 3;
    p.context_policy = CACTUS_CONTEXT_SHIFT;
    cactus_request *request = NULL;
    if (cactus_request_submit(engine, &p, &request, NULL) == CACTUS_OK) {
        cactus_token token;
        while (cactus_request_next(request, -1, &token, NULL) == CACTUS_OK) continue;
        cactus_request_free(request);
    }
    cactus_engine_free(engine);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    int fd = memfd_create("model", 0);
    if (fd < 0) return 0;
    if (write(fd, data, size) == (ssize_t)size) {
        cactus_model *model = NULL;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        if (cactus_model_load(path, &model, NULL) == CACTUS_OK) use(model);
        cactus_model_free(model);
    }
    close(fd);
    return 0;
}
