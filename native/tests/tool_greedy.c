/* tool_greedy.c: greedy generation from the command line, for comparing builds of the engine bit for bit:
 *     tool_greedy MODEL N_TOKENS KERNELS TEXT
 * prints one line per token: id, log-probability and margin as hexadecimal floats. KERNELS "" takes the best set. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cactus.h"

static int fail(const cactus_error *err)
{
    fprintf(stderr, "tool_greedy: %s\n", err->message);
    return 1;
}

int main(int argc, char **argv)
{
    cactus_error err = {0};
    cactus_model *model;
    cactus_engine *engine;
    cactus_request *request;
    cactus_token token;
    int32_t ids[1024];
    size_t n_ids;
    if (argc != 5) {
        fprintf(stderr, "usage: tool_greedy MODEL N_TOKENS KERNELS TEXT\n");
        return 2;
    }
    if (cactus_model_load(argv[1], &model, &err) != CACTUS_OK) return fail(&err);
    cactus_engine_params params = {.struct_size = sizeof params, .kernels = argv[3]};
    if (cactus_engine_create(model, &params, &engine, &err) != CACTUS_OK) return fail(&err);
    if (cactus_tokenize(cactus_model_tokenizer(model), argv[4], strlen(argv[4]), 1, 1, ids, 1024, &n_ids, &err) != CACTUS_OK) return fail(&err);
    cactus_request_params p;
    cactus_request_params_default(&p);
    p.prompt = ids;
    p.n_prompt = n_ids;
    p.max_tokens = (int32_t)strtol(argv[2], NULL, 10);
    p.sampling.temperature = 0.0f;
    p.sampling.ignore_eos = 1;
    if (cactus_request_submit(engine, &p, &request, &err) != CACTUS_OK) return fail(&err);
    cactus_status status;
    while ((status = cactus_request_next(request, -1, &token, &err)) == CACTUS_OK)
        printf("%d %a %a\n", token.id, (double)token.logprob, (double)token.margin);
    cactus_request_free(request);
    cactus_engine_free(engine);
    cactus_model_free(model);
    return status == CACTUS_ERROR_FINISHED ? 0 : fail(&err);
}
