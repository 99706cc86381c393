/* decoder.c: the forward pass.
 *
 *   x = embed[tokens]
 *   each layer:  h = rms_norm(x);  q, k, v = W h;  rotate q, k;  store k, v;  x += Wo attention(q)
 *                h = rms_norm(x);  x += Wdown (silu(Wgate h) * Wup h)
 *   logits = Whead rms_norm(x)
 *
 * Shapes: x [n_tok, d_model], q [n_tok, n_heads*d_k], k and v [n_tok, n_kv_heads*d], gate and up [n_tok, n_ff]. In the last layer
 * only the rows whose scores are wanted go on after the keys and values are stored. */
#include <string.h>

#include "models/decoder.h"

struct ct_decoder {
    const cactus_model *model;
    ct_exec exec;
    ct_kv_layout kv;
    size_t max_batch;
    size_t scratch_bytes;
    double *freq;          /* [n_rot/2] */
    float magnitude;       /* of the rotary angles */
    float *x, *h;          /* [max_batch, d_model] */
    float *q, *attn;       /* [max_batch, n_heads*d_k], [max_batch, n_heads*d_v] */
    float *k, *v;          /* [max_batch, n_kv_heads*d_k], [max_batch, n_kv_heads*d_v] */
    float *gate, *up;      /* [max_batch, n_ff] */
    float *angles;         /* [max_batch, n_rot] */
    uint8_t *act;          /* [max_batch, act_bytes(widest input)] */
};

static void *take(ct_decoder *d, size_t count, size_t elem_bytes, bool *ok)
{
    void *p = ct_alloc(count, elem_bytes);
    *ok = *ok && p != NULL;
    if (p != NULL) d->scratch_bytes += count * elem_bytes;
    return p;
}

cactus_status ct_decoder_create(const cactus_model *model, const char *kernels, int n_threads, size_t max_batch, ct_kv_type kv_type,
                                ct_decoder **out, cactus_error *err)
{
    const ct_config *c = &model->config;
    size_t q = (size_t)c->n_heads * c->d_k, o = (size_t)c->n_heads * c->d_v, kk = (size_t)c->n_kv_heads * c->d_k, vv = (size_t)c->n_kv_heads * c->d_v;
    size_t widest = c->d_model > c->n_ff ? c->d_model : c->n_ff;
    if (o > widest) widest = o;
    *out = NULL;
    ct_decoder *d = ct_alloc(1, sizeof *d);
    if (d == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the decoder");
    d->model = model;
    d->max_batch = max_batch;
    cactus_status status = ct_exec_create(&d->exec, kernels, n_threads, widest, c->d_k > c->d_v ? c->d_k : c->d_v, err);
    if (status == CACTUS_OK && !ct_kv_layout_init(&d->kv, kv_type, c->n_layers, c->n_kv_heads, c->d_k, c->d_v))
        status = ct_fail(err, CACTUS_ERROR_MEMORY, "a page of keys and values of this model overflows");
    if (status != CACTUS_OK) {
        ct_decoder_free(d);
        return status;
    }
    bool ok = true;
    d->freq = take(d, c->rope.n_rot / 2, sizeof *d->freq, &ok);
    d->x = take(d, max_batch * c->d_model, sizeof *d->x, &ok);
    d->h = take(d, max_batch * c->d_model, sizeof *d->h, &ok);
    d->q = take(d, max_batch * q, sizeof *d->q, &ok);
    d->attn = take(d, max_batch * o, sizeof *d->attn, &ok);
    d->k = take(d, max_batch * kk, sizeof *d->k, &ok);
    d->v = take(d, max_batch * vv, sizeof *d->v, &ok);
    d->gate = take(d, max_batch * c->n_ff, sizeof *d->gate, &ok);
    d->up = take(d, max_batch * c->n_ff, sizeof *d->up, &ok);
    d->angles = take(d, max_batch * c->rope.n_rot, sizeof *d->angles, &ok);
    d->act = take(d, max_batch, d->exec.k->act_bytes(ct_round_up(widest, 32)), &ok);
    if (!ok) {
        ct_decoder_free(d);
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the buffers of %zu tokens a step; a smaller batch needs less", max_batch);
    }
    d->scratch_bytes += ct_exec_scratch_bytes(&d->exec);
    ct_rope_frequencies(&c->rope, d->freq, &d->magnitude);
    *out = d;
    return CACTUS_OK;
}

void ct_decoder_free(ct_decoder *d)
{
    if (d == NULL) return;
    if (d->exec.pool != NULL) ct_exec_free(&d->exec);
    ct_free(d->freq);
    ct_free(d->x);
    ct_free(d->h);
    ct_free(d->q);
    ct_free(d->attn);
    ct_free(d->k);
    ct_free(d->v);
    ct_free(d->gate);
    ct_free(d->up);
    ct_free(d->angles);
    ct_free(d->act);
    ct_free(d);
}

const ct_kv_layout *ct_decoder_kv_layout(const ct_decoder *d) { return &d->kv; }
const ct_exec *ct_decoder_exec(const ct_decoder *d) { return &d->exec; }
size_t ct_decoder_scratch_bytes(const ct_decoder *d) { return d->scratch_bytes; }

/* Moves the wanted rows of a [n_tok, n] array to its front. */
static void gather_rows(float *a, size_t n, const uint32_t *rows, size_t n_rows)
{
    for (size_t i = 0; i < n_rows; i++)
        if (rows[i] != i) memmove(a + i * n, a + (size_t)rows[i] * n, n * sizeof *a);
}

void ct_decoder_forward(ct_decoder *d, const ct_batch *batch, float *logits)
{
    const ct_config *c = &d->model->config;
    const ct_weights *w = &d->model->weights;
    const ct_exec *exec = &d->exec;
    size_t n_tok = batch->n_tok;

    ct_embed_rows(&w->embed, batch->tokens, n_tok, d->x);
    for (size_t i = 0; i < batch->n_runs; i++)
        for (size_t t = 0; t < batch->runs[i].n_tok; t++)
            ct_rope_angles(d->freq, d->magnitude, c->rope.n_rot, (int32_t)(batch->runs[i].pos + t),
                           d->angles + (batch->runs[i].first + t) * c->rope.n_rot);

    for (size_t layer = 0; layer < c->n_layers; layer++) {
        const ct_layer *l = &w->layers[layer];
        bool last = layer + 1 == c->n_layers;

        ct_rms_norm(exec, d->h, d->x, l->attn_norm, n_tok, c->d_model, c->norm_eps);
        ct_input h = {.x = d->h, .act = d->act, .n_tok = n_tok, .n_cols = c->d_model};
        ct_linear_expect(exec, (ct_product[]){{&l->wo, NULL}}, 1, n_tok);
        ct_linear(exec, &h, (ct_product[]){{&l->wq, d->q}, {&l->wk, d->k}, {&l->wv, d->v}}, 3);
        ct_rope_and_store(exec, &d->kv, layer, batch->runs, batch->n_runs, d->q, d->k, d->v, d->angles, c->n_heads, c->rope.n_rot, c->rope.pairs);
        if (last && batch->n_outputs == 0) return;
        ct_attention(exec, &d->kv, layer, batch->runs, batch->n_runs, d->q, d->attn, c->n_heads, c->window, c->attn_scale);
        if (last) {
            gather_rows(d->attn, (size_t)c->n_heads * c->d_v, batch->outputs, batch->n_outputs);
            gather_rows(d->x, c->d_model, batch->outputs, batch->n_outputs);
            n_tok = batch->n_outputs;
        }
        ct_input attn = {.x = d->attn, .act = d->act, .n_tok = n_tok, .n_cols = (size_t)c->n_heads * c->d_v};
        ct_linear_expect(exec, (ct_product[]){{&l->gate, NULL}, {&l->up, NULL}}, 2, n_tok);
        ct_linear(exec, &attn, (ct_product[]){{&l->wo, d->h}}, 1);
        ct_add(exec, d->x, d->h, n_tok, c->d_model);

        ct_rms_norm(exec, d->h, d->x, l->ffn_norm, n_tok, c->d_model, c->norm_eps);
        ct_input f = {.x = d->h, .act = d->act, .n_tok = n_tok, .n_cols = c->d_model};
        ct_linear_expect(exec, (ct_product[]){{&l->down, NULL}}, 1, n_tok);
        ct_linear(exec, &f, (ct_product[]){{&l->gate, d->gate}, {&l->up, d->up}}, 2);
        ct_silu_mul(exec, d->gate, d->up, n_tok, c->n_ff);
        ct_input g = {.x = d->gate, .act = d->act, .n_tok = n_tok, .n_cols = c->n_ff};
        if (last) ct_linear_expect(exec, (ct_product[]){{&w->head, NULL}}, 1, n_tok);
        else ct_linear_expect(exec, (ct_product[]){{&l[1].wq, NULL}, {&l[1].wk, NULL}, {&l[1].wv, NULL}}, 3, n_tok);
        ct_linear(exec, &g, (ct_product[]){{&l->down, d->h}}, 1);
        ct_add(exec, d->x, d->h, n_tok, c->d_model);
    }
    ct_rms_norm(exec, d->h, d->x, w->output_norm, n_tok, c->d_model, c->norm_eps);
    ct_input out = {.x = d->h, .act = d->act, .n_tok = n_tok, .n_cols = c->d_model};
    ct_linear_expect(exec, (ct_product[]){{&w->layers->wq, NULL}, {&w->layers->wk, NULL}, {&w->layers->wv, NULL}}, 3, n_tok);
    ct_linear(exec, &out, (ct_product[]){{&w->head, logits}}, 1);
}
