/* encoder.c: BERT (Devlin et al. 2018, arXiv:1810.04805) and its descendants.
 *
 *   x = norm(embed[tokens] + types[0] + positions)
 *   each layer:  x = norm(x + Wo attention(x))      every token sees all tokens of its text
 *                x = norm(x + feed_forward(x))      a plain network, or a gated one
 *
 * Learned positions or rotary ones. Shapes: x [n_tok, d_model], q, k and v [n_tok, n_heads*d]. The texts of a batch lie one behind the
 * other, without padding; keys and values go through pages of one layer, which every layer fills anew. */
#include <string.h>

#include "models/encoder.h"

struct ct_encoder {
    const cactus_model *model;
    const ct_exec *exec;
    const ct_kv_layout *kv;
    size_t max_batch, scratch_bytes;
    double *freq;      /* [n_rot/2] */
    float magnitude;   /* of the rotary angles */
    float *angles;     /* [max_batch, n_rot] */
    float *x, *y;      /* [max_batch, d_model] */
    float *q, *k, *v;  /* [max_batch, n_heads*d_k], … */
    float *attn;       /* [max_batch, n_heads*d_v] */
    float *gate, *up;  /* [max_batch, n_ff] */
    uint8_t *act;      /* [max_batch, act_bytes(widest input)] */
};

static void *take(ct_encoder *e, size_t count, size_t elem_bytes, bool *ok)
{
    if (count == 0) return NULL;
    void *p = ct_alloc(count, elem_bytes);
    *ok = *ok && p != NULL;
    if (p != NULL) e->scratch_bytes += count * elem_bytes;
    return p;
}

cactus_status ct_encoder_create(const cactus_model *model, const ct_exec *exec, const ct_kv_layout *kv, size_t max_batch, ct_encoder **out,
                                cactus_error *err)
{
    const ct_config *c = &model->config;
    size_t n = max_batch, n_rot = c->rope.n_rot, elem = sizeof(float);
    bool ok = true;
    *out = NULL;
    ct_encoder *e = ct_alloc(1, sizeof *e);
    if (e == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the encoder");
    e->model = model;
    e->exec = exec;
    e->kv = kv;
    e->max_batch = n;
    e->freq = take(e, n_rot / 2, sizeof *e->freq, &ok);
    e->angles = take(e, n * n_rot, elem, &ok);
    e->x = take(e, n * c->d_model, elem, &ok);
    e->y = take(e, n * c->d_model, elem, &ok);
    e->q = take(e, n * c->n_heads * c->d_k, elem, &ok);
    e->k = take(e, n * c->n_kv_heads * c->d_k, elem, &ok);
    e->v = take(e, n * c->n_kv_heads * c->d_v, elem, &ok);
    e->attn = take(e, n * c->n_heads * c->d_v, elem, &ok);
    e->gate = take(e, n * c->n_ff, elem, &ok);
    e->up = take(e, model->arch->ffn == CT_FFN_GATED ? n * c->n_ff : 0, elem, &ok);
    e->act = take(e, n, exec->k->act_bytes(ct_round_up(exec->max_cols, 32)), &ok);
    if (!ok) {
        ct_encoder_free(e);
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the buffers of %zu tokens; a shorter context needs less", n);
    }
    if (n_rot > 0) ct_rope_frequencies(&c->rope, e->freq, &e->magnitude);
    *out = e;
    return CACTUS_OK;
}

void ct_encoder_free(ct_encoder *e)
{
    if (e == NULL) return;
    float *floats[] = {e->angles, e->x, e->y, e->q, e->k, e->v, e->attn, e->gate, e->up};
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) ct_free(floats[i]);
    ct_free(e->freq);
    ct_free(e->act);
    ct_free(e);
}

size_t ct_encoder_scratch_bytes(const ct_encoder *e) { return e == NULL ? 0 : e->scratch_bytes; }

static ct_input input_of(const ct_encoder *e, const float *x, size_t n_tok, size_t n_cols)
{
    return (ct_input){.x = x, .act = e->act, .n_tok = n_tok, .n_cols = n_cols};
}

/* y = W x */
static void product(const ct_encoder *e, const ct_matrix *w, const float *x, float *y, size_t n_tok)
{
    ct_input in = input_of(e, x, n_tok, w->n_cols);
    ct_linear(e->exec, &in, (ct_product[]){{w, y}}, 1);
}

static void embed(const ct_encoder *e, const ct_batch *b)
{
    const ct_config *c = &e->model->config;
    const ct_weights *w = &e->model->weights;
    size_t d = c->d_model, n_rot = c->rope.n_rot;
    ct_embed_rows(&w->embed, b->tokens, b->n_tok, e->x);
    if (w->token_types.data != NULL) {
        ct_embed_rows(&w->token_types, (int32_t[]){0}, 1, e->y);
        for (size_t t = 0; t < b->n_tok; t++) e->exec->k->add(e->x + t * d, e->y, d);
    }
    for (size_t i = 0; i < b->n_runs; i++)
        for (size_t t = 0; t < b->runs[i].n_tok; t++) {
            size_t row = b->runs[i].first + t;
            int32_t pos = (int32_t)t;
            if (w->positions.data != NULL) {
                ct_embed_rows(&w->positions, &pos, 1, e->y);
                e->exec->k->add(e->x + row * d, e->y, d);
            }
            if (n_rot > 0) ct_rope_angles(e->freq, e->magnitude, n_rot, pos, e->angles + row * n_rot);
        }
    ct_norm_rows(e->exec, &w->embed_norm, e->x, e->x, b->n_tok, d);
}

/* x = norm(x + y) */
static void add_and_norm(const ct_encoder *e, const ct_norm *norm, size_t n_tok)
{
    size_t d = e->model->config.d_model;
    ct_add(e->exec, e->x, e->y, n_tok, d);
    ct_norm_rows(e->exec, norm, e->x, e->x, n_tok, d);
}

static void attend(const ct_encoder *e, const ct_layer *l, const ct_batch *b)
{
    const ct_config *c = &e->model->config;
    const ct_attn attn = {.n_heads = c->n_heads, .both_ways = true, .scale = c->attn_scale, .angles = e->angles, .n_rot = c->rope.n_rot, .pairs = c->rope.pairs};
    ct_input in = input_of(e, e->x, b->n_tok, c->d_model);
    ct_linear(e->exec, &in, (ct_product[]){{&l->wq, e->q}, {&l->wk, e->k}, {&l->wv, e->v}}, 3);
    ct_store_keys(e->exec, e->kv, &attn, b->runs, b->n_runs, e->q, e->k, e->v);
    ct_attention(e->exec, e->kv, &attn, b->runs, b->n_runs, e->q, e->attn);
    product(e, &l->wo, e->attn, e->y, b->n_tok);
}

static void feed_forward(const ct_encoder *e, const ct_layer *l, size_t n_tok)
{
    bool gated = l->gate.data != NULL;
    ct_input in = input_of(e, e->x, n_tok, e->model->config.d_model);
    if (gated) ct_linear(e->exec, &in, (ct_product[]){{&l->gate, e->gate}, {&l->up, e->up}}, 2);
    else ct_linear(e->exec, &in, (ct_product[]){{&l->up, e->gate}}, 1);
    ct_activate(e->exec, e->model->arch->act, e->gate, gated ? e->up : NULL, n_tok, l->up.n_rows);
    product(e, &l->down, e->gate, e->y, n_tok);
}

const float *ct_encoder_forward(ct_encoder *e, const ct_batch *b)
{
    const ct_weights *w = &e->model->weights;
    embed(e, b);
    for (size_t i = 0; i < e->model->config.n_layers; i++) {
        attend(e, &w->layers[i], b);
        add_and_norm(e, &w->layers[i].attn_sum_norm, b->n_tok);
        feed_forward(e, &w->layers[i], b->n_tok);
        add_and_norm(e, &w->layers[i].ffn_sum_norm, b->n_tok);
    }
    return e->x;
}
