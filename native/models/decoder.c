/* decoder.c: the forward pass.
 *
 *   x = embed[tokens]
 *   each layer:  x += post_norm(mix(norm(x)))              mix: attention, or a layer with a recurrent state, or both
 *                x += post_norm(feed_forward(norm(x)))     a gated network, a plain one, or a mixture of experts
 *   logits = Whead norm(x)
 *
 * Norms that a model does not have are left out; in a parallel layer both branches read the same x. Where a model has several
 * residual streams, x is the active one, which the layer predicts from all of them and corrects them by. Shapes: x [n_tok, d_model],
 * q [n_tok, n_heads*d_k], k and v [n_tok, n_kv_heads*d]. In the last layer that keeps anything of a token only the rows whose
 * scores are wanted go on after the keys and values are stored. */
#include <math.h>
#include <string.h>

#include "models/decoder.h"

typedef enum rope_use { ROPE_GLOBAL, ROPE_LOCAL, ROPE_LONG, N_ROPES } rope_use;

/* Where a batch is: the rows that are still computed, and the layer that is next. */
typedef struct step {
    ct_decoder *d;
    const ct_batch *batch;
    float *logits;
    size_t layer;
    const ct_layer *l;
    const ct_layer_config *lc;
    const ct_run *runs; /* of the rows that are still computed */
    size_t n_runs;
    size_t n_tok;
    bool narrows;      /* the last layer that keeps anything: after its mixer only the wanted rows go on */
    bool last;
} step;

struct ct_decoder {
    const cactus_model *model;
    ct_exec exec;
    bool borrows;               /* the exec of another decoder */
    step now;
    ct_batch batch;             /* of the step */
    ct_kv_layout kv;
    size_t max_batch;
    size_t scratch_bytes;
    double *freq[N_ROPES];      /* [n_rot/2] */
    float magnitude[N_ROPES];   /* of the rotary angles */
    float *angles[2];           /* [max_batch, n_rot]: of layers that see everything, of those with a window */
    float *x, *h, *y;           /* [max_batch, d_model]: the residual stream, its norm, what a branch adds */
    float *beside;              /* [max_batch, d_model]: of the mixer beside attention */
    float *q, *attn;            /* [max_batch, n_heads*d_k], [max_batch, n_heads*d_v] */
    float *k, *v;               /* [max_batch, n_kv_heads*d_k], [max_batch, n_kv_heads*d_v] */
    float *wide_q, *gate_q;     /* [max_batch, n_heads*d_q] where that differs from q; [max_batch, n_heads*d_v] */
    float *latent, *lora_q;     /* [max_batch, n_lora_kv + n_rot], [max_batch, n_lora_q] */
    float *by_head_in, *by_head_out; /* [n_heads][max_batch, …]: latent attention's products head by head */
    float *kv_wide;             /* [max_batch, n_heads*(n_nope + d_v_head)] */
    float *gate, *up;           /* [max_batch, n_ff] */
    float *mix_in, *mix_x, *mix_dt, *mix_proj, *mix_small, *mix_out; /* of recurrent layers */
    float *mix_scratch;
    ct_state_run *state_runs;   /* [max_batch] */
    float *inputs, *input_row;  /* [max_batch, n_layers*n_layer_input]: the layers' own inputs; a row of their embedding */
    ct_run *wanted_runs;        /* [max_batch]: where layers follow that keep nothing */
    ct_streams_room streams;
    ct_experts_room experts;
    ct_group *head_groups;      /* [n_heads] */
    ct_matrix *head_views;      /* [n_heads] */
    uint8_t *act;               /* [max_batch, act_bytes(widest input)] */
    uint8_t *act_heads;         /* [n_heads][max_batch, act_bytes(widest of a head)] */
};

/* ---- buffers ---- */

static void *take(ct_decoder *d, size_t count, size_t elem_bytes, bool *ok)
{
    if (count == 0) return NULL;
    void *p = ct_alloc(count, elem_bytes);
    *ok = *ok && p != NULL;
    if (p != NULL) d->scratch_bytes += count * elem_bytes;
    return p;
}

static float *take_floats(ct_decoder *d, size_t count, bool *ok) { return take(d, count, sizeof(float), ok); }

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* The widest input of any product. */
static size_t widest_input(const ct_config *c)
{
    size_t w = larger(c->d_model, c->n_ff);
    w = larger(w, larger(c->n_ff_expert, c->n_ff_shared));
    w = larger(w, (size_t)c->n_heads * larger(c->d_v, c->d_o));
    w = larger(w, larger(c->n_lora_q, c->n_lora_kv));
    w = larger(w, larger(c->n_low_rank, c->n_layer_input));
    return larger(w, larger(c->ssm_inner, c->ssm_heads));
}

static bool take_attention(ct_decoder *d, const ct_config *c, const ct_arch *arch)
{
    bool ok = true, split = c->latent_split;
    size_t n = d->max_batch, n_rot = c->rope.n_rot, widest_head = larger(larger(c->n_nope, c->n_lora_kv), c->d_v_head);
    if (c->n_kv_layers == 0) return true;
    for (size_t i = 0; n_rot > 0 && i < N_ROPES; i++) d->freq[i] = take(d, n_rot / 2, sizeof(double), &ok);
    d->angles[0] = take_floats(d, n * n_rot, &ok);
    d->angles[1] = take_floats(d, n * n_rot, &ok);
    d->q = take_floats(d, n * c->n_heads * c->d_k, &ok);
    d->attn = take_floats(d, n * c->n_heads * c->d_v, &ok);
    d->k = take_floats(d, n * c->n_kv_heads * c->d_k, &ok);
    d->v = take_floats(d, n * c->n_kv_heads * c->d_v, &ok);
    if (arch->latent || arch->q_gated) d->wide_q = take_floats(d, n * c->n_heads * c->d_q, &ok);
    if (arch->q_gated) d->gate_q = take_floats(d, n * c->n_heads * c->d_v, &ok);
    if (arch->latent) {
        d->latent = take_floats(d, n * (c->n_lora_kv + n_rot), &ok);
        d->lora_q = take_floats(d, n * c->n_lora_q, &ok);
    }
    if (split) {
        d->by_head_in = take_floats(d, c->n_heads * n * widest_head, &ok);
        d->by_head_out = take_floats(d, c->n_heads * n * widest_head, &ok);
        d->head_groups = take(d, c->n_heads, sizeof *d->head_groups, &ok);
        d->head_views = take(d, c->n_heads, sizeof *d->head_views, &ok);
        d->act_heads = take(d, c->n_heads * n, d->exec.k->act_bytes(ct_round_up(widest_head, 32)), &ok);
    } else if (arch->latent) {
        d->by_head_in = take_floats(d, n * c->n_lora_kv, &ok);
        d->kv_wide = take_floats(d, n * c->n_heads * (c->n_nope + c->d_v_head), &ok);
    }
    return ok;
}

static bool take_recurrent(ct_decoder *d, const ct_config *c, const ct_weights *w)
{
    bool ok = true;
    size_t n = d->max_batch, group = (size_t)c->ssm_groups * c->ssm_state, scratch = 0;
    if (c->state_floats == 0) return true;
    for (size_t i = 0; i < c->n_layers; i++)
        if (c->layers[i].mixer == CT_MIX_DELTA) scratch = larger(scratch, ct_delta_net_scratch_floats(&w->layers[i].delta));
    d->state_runs = take(d, n, sizeof *d->state_runs, &ok);
    d->mix_in = take_floats(d, n * larger(3 * (size_t)c->d_model, 2 * (size_t)c->ssm_inner + 2 * group + c->ssm_heads), &ok);
    d->mix_out = take_floats(d, n * larger(c->d_model, c->ssm_inner), &ok);
    d->mix_x = take_floats(d, n * c->ssm_inner, &ok);
    d->mix_dt = take_floats(d, n * c->ssm_inner, &ok);
    d->mix_proj = take_floats(d, n * (c->ssm_heads + 2 * (size_t)c->ssm_state), &ok);
    d->mix_small = take_floats(d, 2 * n * c->ssm_heads, &ok);
    d->mix_scratch = take_floats(d, scratch * (size_t)ct_pool_threads(d->exec.pool), &ok);
    d->beside = take_floats(d, n * c->d_model, &ok);
    return ok;
}

/* All buffers but those of the exec. */
static cactus_status take_buffers(ct_decoder *d, cactus_error *err)
{
    const cactus_model *model = d->model;
    const ct_config *c = &model->config;
    size_t widest = widest_input(c), max_batch = d->max_batch;
    bool ok = take_attention(d, c, model->arch) && take_recurrent(d, c, &model->weights);
    size_t n_ff = larger(larger(c->n_ff, c->n_ff_shared), larger(c->n_low_rank, c->n_layer_input));
    size_t n_inputs = (size_t)c->n_layers * c->n_layer_input;
    d->x = take_floats(d, max_batch * c->d_model, &ok);
    d->h = take_floats(d, max_batch * c->d_model, &ok);
    d->y = take_floats(d, max_batch * c->d_model, &ok);
    d->gate = take_floats(d, max_batch * n_ff, &ok);
    d->up = take_floats(d, max_batch * n_ff, &ok);
    d->inputs = take_floats(d, max_batch * n_inputs, &ok);
    d->input_row = take_floats(d, n_inputs, &ok);
    if (c->n_keeping < c->n_layers) d->wanted_runs = take(d, max_batch, sizeof *d->wanted_runs, &ok);
    d->act = take(d, max_batch, d->exec.k->act_bytes(ct_round_up(widest, 32)), &ok);
    if (ok && c->n_experts > 0)
        ok = ct_experts_room_init(&d->experts, d->exec.k, max_batch, c->n_experts, c->n_experts_used, c->d_model, c->n_ff_expert, &d->scratch_bytes);
    if (ok && c->n_streams > 0) ok = ct_streams_room_init(&d->streams, d->exec.k, max_batch, c->n_streams, c->d_model, &d->scratch_bytes);
    if (!ok) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the buffers of %zu tokens a step; a smaller batch needs less", max_batch);
    if (c->n_kv_layers > 0 && c->rope.n_rot > 0) {
        ct_rope_config long_rope = c->rope;
        long_rope.freq_factors = model->weights.long_factors;
        ct_rope_frequencies(&c->rope, d->freq[ROPE_GLOBAL], &d->magnitude[ROPE_GLOBAL]);
        ct_rope_frequencies(&c->local_rope, d->freq[ROPE_LOCAL], &d->magnitude[ROPE_LOCAL]);
        ct_rope_frequencies(&long_rope, d->freq[ROPE_LONG], &d->magnitude[ROPE_LONG]);
    }
    return CACTUS_OK;
}

cactus_status ct_decoder_create(const cactus_model *model, const char *kernels, int n_threads, size_t max_batch, ct_kv_type kv_type,
                                ct_decoder **out, cactus_error *err)
{
    const ct_config *c = &model->config;
    *out = NULL;
    ct_decoder *d = ct_alloc(1, sizeof *d);
    if (d == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the decoder");
    d->model = model;
    d->max_batch = max_batch;
    cactus_status status = ct_exec_create(&d->exec, kernels, n_threads, widest_input(c), larger(larger(c->d_k, c->d_v), 4), err);
    if (status == CACTUS_OK && !ct_kv_layout_init(&d->kv, kv_type, c->n_kv_layers, c->n_kv_heads, c->d_k, c->d_v))
        status = ct_fail(err, CACTUS_ERROR_MEMORY, "a page of keys and values of this model overflows");
    if (status == CACTUS_OK) status = take_buffers(d, err);
    if (status != CACTUS_OK) {
        ct_decoder_free(d);
        return status;
    }
    d->scratch_bytes += ct_exec_scratch_bytes(&d->exec);
    *out = d;
    return CACTUS_OK;
}

cactus_status ct_decoder_create_beside(const ct_decoder *first, size_t max_batch, ct_decoder **out, cactus_error *err)
{
    *out = NULL;
    ct_decoder *d = ct_alloc(1, sizeof *d);
    if (d == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the decoder");
    *d = (ct_decoder){.model = first->model, .exec = first->exec, .borrows = true, .kv = first->kv, .max_batch = max_batch};
    cactus_status status = take_buffers(d, err);
    if (status != CACTUS_OK) {
        ct_decoder_free(d);
        return status;
    }
    *out = d;
    return CACTUS_OK;
}

void ct_decoder_free(ct_decoder *d)
{
    if (d == NULL) return;
    if (d->exec.pool != NULL && !d->borrows) ct_exec_free(&d->exec);
    float *floats[] = {d->angles[0], d->angles[1], d->x, d->h, d->y, d->beside, d->q, d->attn, d->k, d->v, d->wide_q, d->gate_q, d->latent,
                       d->lora_q, d->by_head_in, d->by_head_out, d->kv_wide, d->gate, d->up, d->mix_in, d->mix_x, d->mix_dt, d->mix_proj,
                       d->mix_small, d->mix_out, d->mix_scratch, d->inputs, d->input_row};
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) ct_free(floats[i]);
    for (size_t i = 0; i < N_ROPES; i++) ct_free(d->freq[i]);
    ct_free(d->state_runs);
    ct_free(d->wanted_runs);
    ct_free(d->head_groups);
    ct_free(d->head_views);
    ct_free(d->act);
    ct_free(d->act_heads);
    ct_streams_room_free(&d->streams);
    ct_experts_room_free(&d->experts);
    ct_free(d);
}

const ct_kv_layout *ct_decoder_kv_layout(const ct_decoder *d) { return &d->kv; }
const ct_exec *ct_decoder_exec(const ct_decoder *d) { return &d->exec; }
size_t ct_decoder_scratch_bytes(const ct_decoder *d) { return d->scratch_bytes; }
const float *ct_decoder_states(const ct_decoder *d) { return d->h; }

/* ---- a step ---- */

static ct_input input_of(const step *s, const float *x, size_t n_cols)
{
    return (ct_input){.x = x, .act = s->d->act, .n_tok = s->n_tok, .n_cols = n_cols};
}

/* y = W x */
static void product(const step *s, const ct_matrix *w, const float *x, float *y)
{
    ct_input in = input_of(s, x, w->n_cols);
    ct_linear(&s->d->exec, &in, (ct_product[]){{w, y}}, 1);
}

/* Moves the wanted rows of a [n_tok, n] array to its front. */
static void gather_rows(float *a, size_t n, const uint32_t *rows, size_t n_rows)
{
    for (size_t i = 0; i < n_rows; i++)
        if (rows[i] != i) memmove(a + i * n, a + (size_t)rows[i] * n, n * sizeof *a);
}

static void norm_into(const step *s, const ct_norm *norm, float *y, const float *x)
{
    size_t n = s->d->model->config.d_model;
    if (norm->weight != NULL) ct_norm_rows(&s->d->exec, norm, y, x, s->n_tok, n);
    else if (y != x) memcpy(y, x, s->n_tok * n * sizeof *y);
}

static void expect(const step *s, const ct_matrix *a, const ct_matrix *b, const ct_matrix *c)
{
    ct_product p[3];
    size_t n = 0;
    const ct_matrix *all[] = {a, b, c};
    for (size_t i = 0; i < 3; i++)
        if (all[i] != NULL && all[i]->data != NULL) p[n++] = (ct_product){all[i], NULL};
    ct_linear_expect(&s->d->exec, p, n, s->n_tok);
}

/* What layer l multiplies first. */
static void expect_layer(const step *s, const ct_layer *l)
{
    if (l->wq.data != NULL) expect(s, &l->wq, &l->wk, &l->wv);
    else if (l->delta_qkv.data != NULL) expect(s, &l->delta_qkv, &l->delta_gate, NULL);
    else if (l->ssm_in.data != NULL) expect(s, &l->ssm_in, NULL, NULL);
    else if (l->conv_in.data != NULL) expect(s, &l->conv_in, NULL, NULL);
    else expect(s, &l->q_a, &l->kv_a, NULL);
}

/* ---- attention ---- */

static ct_attn attention_of(const step *s)
{
    const ct_config *c = &s->d->model->config;
    const ct_arch *arch = s->d->model->arch;
    return (ct_attn){
        .layer = s->lc->kv, .n_heads = c->n_heads, .window = s->lc->window, .scale = c->attn_scale, .softcap = c->attn_softcap,
        .sinks = s->l->sinks, .q_norm = s->l->q_norm, .k_norm = s->l->k_norm, .norm_whole = arch->qk_norm_whole,
        .norm_per_head = s->l->norm_per_head, .angles = s->lc->rotates ? s->d->angles[s->lc->window > 0 && arch->window_period > 0] : NULL, .n_rot = c->rope.n_rot,
        .rot_first = s->lc->mixer == CT_MIX_LATENT ? c->d_k - c->rope.n_rot : 0, .pairs = c->rope.pairs,
    };
}

/* Queries with a gate behind each head: apart. */
static void split_gates(const step *s)
{
    const ct_config *c = &s->d->model->config;
    for (size_t i = 0; i < s->n_tok * c->n_heads; i++) {
        const float *from = s->d->wide_q + i * c->d_q;
        memcpy(s->d->q + i * c->d_k, from, c->d_k * sizeof(float));
        memcpy(s->d->gate_q + i * c->d_v, from + c->d_k, c->d_v * sizeof(float));
    }
}

static void make_qkv(const step *s, const float *x)
{
    ct_decoder *d = s->d;
    const ct_layer *l = s->l;
    const ct_config *c = &d->model->config;
    const ct_norm *v_norm = &d->model->weights.v_norm;
    bool gated = d->model->arch->q_gated;
    ct_input in = input_of(s, x, c->d_model);
    ct_linear(&d->exec, &in, (ct_product[]){{&l->wq, gated ? d->wide_q : d->q}, {&l->wk, d->k}, {&l->wv, d->v}}, s->lc->shares_kv ? 1 : 3);
    if (gated) split_gates(s);
    if (v_norm->weight != NULL && !s->lc->shares_kv) ct_norm_rows(&d->exec, v_norm, d->v, d->v, s->n_tok * c->n_kv_heads, c->d_v);
}

/* One product for each head over its own input: in [n_heads][n_tok, w->n_cols] to out [n_heads][n_tok, w->n_rows]. */
static void product_by_head(const step *s, const ct_matrix *w, size_t n_heads)
{
    ct_decoder *d = s->d;
    size_t act_stride = d->exec.k->act_bytes(w->n_cols);
    if (w->info->decode_codes != NULL) ct_quantise_rows(&d->exec, d->act_heads, d->by_head_in, n_heads * s->n_tok, w->n_cols);
    for (size_t h = 0; h < n_heads; h++) {
        d->head_views[h] = ct_matrix_part(w, h);
        d->head_groups[h] = (ct_group){.w = &d->head_views[h], .x = d->by_head_in + h * s->n_tok * w->n_cols,
                                       .act = d->act_heads + h * s->n_tok * act_stride, .n_tok = s->n_tok,
                                       .y = d->by_head_out + h * s->n_tok * w->n_rows};
    }
    ct_linear_groups(&d->exec, d->head_groups, n_heads);
}

/* Keys and values are one compressed row per token; queries are taken into its space (k_b), so all heads share it. */
static void make_latent(const step *s, const float *x)
{
    ct_decoder *d = s->d;
    const ct_config *c = &d->model->config;
    const ct_layer *l = s->l;
    size_t n_rot = c->rope.n_rot, n_lora = c->n_lora_kv, n_nope = c->n_nope;
    ct_input in = input_of(s, x, c->d_model);
    if (c->n_lora_q > 0) {
        ct_linear(&d->exec, &in, (ct_product[]){{&l->q_a, d->lora_q}, {&l->kv_a, d->latent}}, 2);
        ct_norm_rows(&d->exec, &l->q_a_norm, d->lora_q, d->lora_q, s->n_tok, c->n_lora_q);
        product(s, &l->q_b, d->lora_q, d->wide_q);
    } else ct_linear(&d->exec, &in, (ct_product[]){{&l->wq, d->wide_q}, {&l->kv_a, d->latent}}, 2);
    for (size_t t = 0; t < s->n_tok; t++) ct_norm_row(d->exec.k, &l->kv_a_norm, d->latent + t * (n_lora + n_rot), d->latent + t * (n_lora + n_rot), n_lora);

    if (l->kv_b.data != NULL) { /* keys and values of every head are made */
        size_t wide = c->n_nope + c->d_v_head;
        for (size_t t = 0; t < s->n_tok; t++) memcpy(d->by_head_in + t * n_lora, d->latent + t * (n_lora + n_rot), n_lora * sizeof(float));
        product(s, &l->kv_b, d->by_head_in, d->kv_wide);
        memcpy(d->q, d->wide_q, s->n_tok * c->n_heads * c->d_q * sizeof(float));
        for (size_t t = 0; t < s->n_tok; t++)
            for (size_t h = 0; h < c->n_heads; h++) {
                const float *from = d->kv_wide + (t * c->n_heads + h) * wide;
                float *k = d->k + (t * c->n_heads + h) * c->d_k;
                memcpy(k, from, n_nope * sizeof(float));
                memcpy(k + n_nope, d->latent + t * (n_lora + n_rot) + n_lora, n_rot * sizeof(float));
                memcpy(d->v + (t * c->n_heads + h) * c->d_v, from + n_nope, c->d_v_head * sizeof(float));
            }
        return;
    }
    for (size_t t = 0; t < s->n_tok; t++)
        for (size_t h = 0; h < c->n_heads; h++) {
            const float *from = d->wide_q + (t * c->n_heads + h) * c->d_q;
            memcpy(d->by_head_in + (h * s->n_tok + t) * n_nope, from, n_nope * sizeof(float));
            memcpy(d->q + (t * c->n_heads + h) * c->d_k + n_lora, from + n_nope, n_rot * sizeof(float));
        }
    product_by_head(s, &l->k_b, c->n_heads);
    for (size_t t = 0; t < s->n_tok; t++) {
        for (size_t h = 0; h < c->n_heads; h++)
            memcpy(d->q + (t * c->n_heads + h) * c->d_k, d->by_head_out + (h * s->n_tok + t) * n_lora, n_lora * sizeof(float));
        memcpy(d->k + t * c->d_k, d->latent + t * (n_lora + n_rot), c->d_k * sizeof(float));
        memcpy(d->v + t * n_lora, d->latent + t * (n_lora + n_rot), n_lora * sizeof(float));
    }
}

/* What the heads saw of the compressed values becomes values of their own: attn [n_tok, n_heads*d_v_head]. */
static void expand_values(const step *s)
{
    ct_decoder *d = s->d;
    const ct_config *c = &d->model->config;
    for (size_t t = 0; t < s->n_tok; t++)
        for (size_t h = 0; h < c->n_heads; h++)
            memcpy(d->by_head_in + (h * s->n_tok + t) * c->d_v, d->attn + (t * c->n_heads + h) * c->d_v, c->d_v * sizeof(float));
    product_by_head(s, &s->l->v_b, c->n_heads);
    for (size_t t = 0; t < s->n_tok; t++)
        for (size_t h = 0; h < c->n_heads; h++)
            memcpy(d->attn + (t * c->n_heads + h) * c->d_o, d->by_head_out + (h * s->n_tok + t) * c->d_o, c->d_o * sizeof(float));
}

/* y = attention over x. False: nothing is wanted beyond the stored keys and values. */
static bool attend(step *s, const float *x, float *y)
{
    ct_decoder *d = s->d;
    const ct_config *c = &d->model->config;
    const ct_batch *b = s->batch;
    const ct_attn attn = attention_of(s);
    expect(s, &s->l->wo, NULL, NULL);
    if (s->lc->mixer == CT_MIX_LATENT) make_latent(s, x);
    else make_qkv(s, x);
    ct_store_keys(&d->exec, &d->kv, &attn, s->runs, s->n_runs, d->q, s->lc->shares_kv ? NULL : d->k, d->v);
    if (s->narrows && b->n_outputs == 0 && !s->lc->beside) return false;
    ct_attention(&d->exec, &d->kv, &attn, s->runs, s->n_runs, d->q, d->attn);
    if (s->narrows && !s->lc->beside) {
        gather_rows(d->attn, (size_t)c->n_heads * c->d_v, b->outputs, b->n_outputs);
        if (d->gate_q != NULL) gather_rows(d->gate_q, (size_t)c->n_heads * c->d_v, b->outputs, b->n_outputs);
        s->n_tok = b->n_outputs;
    }
    if (d->gate_q != NULL) ct_sigmoid_mul(&d->exec, d->attn, d->gate_q, s->n_tok, (size_t)c->n_heads * c->d_v);
    if (s->l->v_b.data != NULL) expand_values(s);
    expect(s, &s->l->gate, &s->l->up, NULL);
    product(s, &s->l->wo, d->attn, y);
    return true;
}

/* ---- layers with a state ---- */

static void make_state_runs(const step *s)
{
    for (size_t i = 0; i < s->batch->n_runs; i++) {
        const ct_run *run = &s->batch->runs[i];
        s->d->state_runs[i] = (ct_state_run){.first = run->first, .n_tok = run->n_tok, .fresh = run->pos == 0, .state = run->state + s->lc->state};
    }
}

static void mix_delta(const step *s, const float *x, float *y)
{
    ct_decoder *d = s->d;
    const ct_layer *l = s->l;
    float *alpha = d->mix_small, *beta = d->mix_small + s->n_tok * d->model->config.ssm_heads;
    ct_input in = input_of(s, x, d->model->config.d_model);
    ct_linear(&d->exec, &in, (ct_product[]){{&l->delta_qkv, d->mix_in}, {&l->delta_gate, d->mix_x}, {&l->delta_alpha, alpha}, {&l->delta_beta, beta}}, 4);
    ct_delta_net_mix(&d->exec, &l->delta, d->state_runs, s->batch->n_runs, d->mix_in, d->mix_x, alpha, beta, d->mix_out, d->mix_scratch);
    product(s, &l->ssm_out, d->mix_out, y);
}

static void mix_mamba(const step *s, const float *x, float *y)
{
    ct_decoder *d = s->d;
    const ct_layer *l = s->l;
    const ct_exec *exec = &d->exec;
    size_t n_runs = s->batch->n_runs;
    product(s, &l->ssm_in, x, d->mix_in);
    ct_mamba_conv(exec, &l->mamba, d->state_runs, n_runs, d->mix_in, d->mix_x);
    product(s, &l->ssm_x, d->mix_x, d->mix_proj);
    ct_mamba_split(exec, &l->mamba, s->n_tok, d->mix_proj, d->mix_small);
    product(s, &l->ssm_dt, d->mix_small, d->mix_dt);
    ct_mamba_scan(exec, &l->mamba, d->state_runs, n_runs, d->mix_in, d->mix_x, d->mix_dt, d->mix_proj, d->mix_out);
    product(s, &l->ssm_out, d->mix_out, y);
}

static void mix_recurrent(const step *s, ct_mixer mixer, const float *x, float *y)
{
    ct_decoder *d = s->d;
    const ct_layer *l = s->l;
    make_state_runs(s);
    switch (mixer) {
    case CT_MIX_SHORT_CONV:
        product(s, &l->conv_in, x, d->mix_in);
        ct_short_conv(&d->exec, &l->taps, d->state_runs, s->batch->n_runs, d->mix_in, d->mix_out);
        product(s, &l->conv_out, d->mix_out, y);
        break;
    case CT_MIX_MAMBA: mix_mamba(s, x, y); break;
    case CT_MIX_MAMBA2:
        product(s, &l->ssm_in, x, d->mix_in);
        ct_mamba2_mix(&d->exec, &l->mamba2, d->state_runs, s->batch->n_runs, d->mix_in, d->mix_out);
        product(s, &l->ssm_out, d->mix_out, y);
        break;
    case CT_MIX_DELTA: mix_delta(s, x, y); break;
    case CT_MIX_ATTENTION:
    case CT_MIX_LATENT: break;
    }
}

/* y = what mixes the tokens, over x. False as attend(). */
static bool mix(step *s, const float *x, float *y)
{
    ct_decoder *d = s->d;
    const ct_batch *b = s->batch;
    bool attends = s->lc->mixer == CT_MIX_ATTENTION || s->lc->mixer == CT_MIX_LATENT;
    if (attends && !attend(s, x, y)) return false;
    if (attends && !s->lc->beside) return true;
    mix_recurrent(s, attends ? d->model->arch->recurrent : s->lc->mixer, x, attends ? d->beside : y);
    if (attends) ct_add(&d->exec, y, d->beside, s->n_tok, d->model->config.d_model);
    if (!s->narrows) return true;
    gather_rows(y, d->model->config.d_model, b->outputs, b->n_outputs);
    s->n_tok = b->n_outputs;
    return b->n_outputs > 0;
}

/* ---- feed-forward ---- */

/* y = down(act(gate x) * up x), or down(act(up x)) without gate */
static void gated(const step *s, ct_input *in, const ct_matrix *gate, const ct_matrix *up, const ct_matrix *down, float *y)
{
    ct_decoder *d = s->d;
    ct_activation act = d->model->arch->act;
    expect(s, down, NULL, NULL);
    if (gate->data != NULL) ct_linear(&d->exec, in, (ct_product[]){{gate, d->gate}, {up, d->up}}, 2);
    else ct_linear(&d->exec, in, (ct_product[]){{up, d->gate}}, 1);
    if (s->lc->sparse) ct_keep_outliers(&d->exec, d->gate, s->lc->cutoff, s->n_tok, up->n_rows);
    ct_activate(&d->exec, act, d->gate, gate->data != NULL ? d->up : NULL, s->n_tok, up->n_rows);
    if (s->last) expect(s, &d->model->weights.head, NULL, NULL);
    else expect_layer(s, s->l + 1);
    product(s, down, d->gate, y);
}

static void mixture(const step *s, ct_input *in, float *y)
{
    ct_decoder *d = s->d;
    const ct_config *c = &d->model->config;
    const ct_layer *l = s->l;
    const ct_experts e = {
        .router = &l->router, .router_bias = l->router_bias, .gate = &l->gate_exps, .up = &l->up_exps, .down = &l->down_exps,
        .n_experts = c->n_experts, .n_used = c->n_experts_used, .n_ff = c->n_ff_expert, .n_groups = c->n_expert_groups,
        .n_groups_used = c->n_groups_used, .gating = c->gating, .normalise = c->expert_norm, .scale = c->expert_scale, .act = d->model->arch->act,
    };
    expect(s, NULL, NULL, NULL);
    ct_experts_run(&d->exec, &e, &d->experts, in, y);
    if (l->up_shared.data == NULL) return;
    float *shared = d->experts.out; /* free again, and at least as large */
    ct_input again = input_of(s, in->x, in->n_cols);
    if (l->shared_gate.data != NULL) product(s, &l->shared_gate, in->x, d->experts.scores);
    gated(s, &again, &l->gate_shared, &l->up_shared, &l->down_shared, shared);
    for (size_t t = 0; l->shared_gate.data != NULL && t < s->n_tok; t++) {
        float share = 1.0f;
        d->exec.k->sigmoid_mul(&share, d->experts.scores + t, 1);
        d->exec.k->scale(shared + t * c->d_model, share, c->d_model);
    }
    ct_add(&d->exec, y, shared, s->n_tok, c->d_model);
}

static void feed_forward(const step *s, const float *x, float *y)
{
    ct_input in = input_of(s, x, s->d->model->config.d_model);
    if (s->lc->experts) mixture(s, &in, y);
    else gated(s, &in, &s->l->gate, &s->l->up, &s->l->down, y);
}

/* x += what a branch made, after its own norm and scale */
static void add_branch(const step *s, const ct_norm *post, float *y)
{
    const ct_config *c = &s->d->model->config;
    if (post->weight != NULL) ct_norm_rows(&s->d->exec, post, y, y, s->n_tok, c->d_model);
    ct_scale(&s->d->exec, y, c->residual_scale, s->n_tok, c->d_model);
    ct_add(&s->d->exec, s->d->x, y, s->n_tok, c->d_model);
}

/* x = (x + h + norm(B A h)) / sqrt(2), h being what attention read: a learned residual (Menghani et al. 2024, arXiv:2411.07501) */
static void add_low_rank(const step *s)
{
    ct_decoder *d = s->d;
    size_t n = d->model->config.d_model;
    product(s, &s->l->low_rank_a, d->h, d->gate);
    product(s, &s->l->low_rank_b, d->gate, d->y);
    ct_norm_rows(&d->exec, &s->l->low_rank_norm, d->y, d->y, s->n_tok, n);
    ct_add(&d->exec, d->y, d->h, s->n_tok, n);
    ct_add(&d->exec, d->x, d->y, s->n_tok, n);
    ct_scale(&d->exec, d->x, sqrtf(0.5f), s->n_tok, n);
}

/* ---- the layers' own inputs ---- */

/* inputs [n_tok, n_layers*n_layer_input] = (norm(projection of x) + embedding of the token) / sqrt(2) */
static void make_inputs(const step *s)
{
    ct_decoder *d = s->d;
    const ct_config *c = &d->model->config;
    const ct_weights *w = &d->model->weights;
    size_t n = c->n_layer_input, n_all = c->n_layers * n;
    product(s, &w->input_proj, d->x, d->inputs);
    ct_scale(&d->exec, d->inputs, 1.0f / sqrtf((float)c->d_model), s->n_tok, n_all);
    ct_norm_rows(&d->exec, &w->input_norm, d->inputs, d->inputs, s->n_tok * c->n_layers, n);
    for (size_t t = 0; t < s->n_tok; t++) {
        ct_embed_rows(&w->input_embed, s->batch->tokens + t, 1, d->input_row);
        d->exec.k->scale(d->input_row, sqrtf((float)n), n_all);
        d->exec.k->add(d->inputs + t * n_all, d->input_row, n_all);
    }
    ct_scale(&d->exec, d->inputs, sqrtf(0.5f), s->n_tok, n_all);
}

/* y = norm(projection of (act(gate x) * the layer's input)) */
static void apply_input(const step *s, const float *x, float *y)
{
    ct_decoder *d = s->d;
    const ct_config *c = &d->model->config;
    size_t n = c->n_layer_input, index = (size_t)(s->l - d->model->weights.layers);
    for (size_t t = 0; t < s->n_tok; t++) memcpy(d->up + t * n, d->inputs + (t * c->n_layers + index) * n, n * sizeof(float));
    product(s, &s->l->input_gate, x, d->gate);
    ct_activate(&d->exec, d->model->arch->act, d->gate, d->up, s->n_tok, n);
    product(s, &s->l->input_proj, d->gate, y);
    ct_norm_rows(&d->exec, &s->l->input_norm, y, y, s->n_tok, c->d_model);
}

/* ---- the layers ---- */

/* From here on only the wanted rows: s->n_tok already counts them, mix() has gathered what it made. */
static void narrow(step *s)
{
    ct_decoder *d = s->d;
    const ct_config *c = &d->model->config;
    const ct_batch *b = s->batch;
    const ct_run *run = b->runs;
    gather_rows(d->x, c->d_model, b->outputs, b->n_outputs);
    gather_rows(d->h, c->d_model, b->outputs, b->n_outputs);
    if (c->n_streams > 0) gather_rows(d->streams.all, (size_t)c->n_streams * c->d_model, b->outputs, b->n_outputs);
    if (c->n_layer_input > 0) gather_rows(d->inputs, (size_t)c->n_layers * c->n_layer_input, b->outputs, b->n_outputs);
    if (s->last) return;
    for (size_t i = 0; i < 2; i++) gather_rows(d->angles[i], c->rope.n_rot, b->outputs, b->n_outputs);
    s->runs = d->wanted_runs;
    s->n_runs = 0;
    for (size_t i = 0; i < b->n_outputs; i++) {
        size_t row = b->outputs[i];
        while (row >= run->first + run->n_tok) run++;
        if (i > 0 && row == (size_t)b->outputs[i - 1] + 1 && row > run->first) {
            d->wanted_runs[s->n_runs - 1].n_tok++;
            continue;
        }
        ct_run *wanted = &d->wanted_runs[s->n_runs++];
        *wanted = *run;
        wanted->first = i;
        wanted->n_tok = 1;
        wanted->pos = run->pos + (row - run->first);
    }
}

/* False: nothing is wanted beyond what the layer keeps. */
static bool layer(step *s)
{
    ct_decoder *d = s->d;
    bool streams = d->model->arch->streams;
    bool parallel = d->model->config.parallel || (s->l->ffn_norm.weight == NULL && s->l->ffn_post_norm.weight == NULL);
    if (streams) ct_streams_predict(&d->exec, &d->model->weights.streams, &s->l->streams, &d->streams, d->x, s->n_tok);
    norm_into(s, s->l->attn_norm_2.weight != NULL ? &s->l->attn_norm_2 : &s->l->attn_norm, d->h, d->x);
    if (!mix(s, d->h, d->y)) return false;
    if (s->narrows) narrow(s);
    if (d->model->arch->ffn == CT_FFN_NONE) {
        add_branch(s, &s->l->attn_post_norm, d->y);
        return true;
    }
    if (parallel) {
        if (s->l->ffn_norm.weight != NULL) norm_into(s, &s->l->ffn_norm, d->h, d->x);
        else if (s->l->attn_norm_2.weight != NULL) norm_into(s, &s->l->attn_norm, d->h, d->x);
        add_branch(s, &s->l->attn_post_norm, d->y);
    } else {
        add_branch(s, &s->l->attn_post_norm, d->y);
        if (s->l->low_rank_a.data != NULL) add_low_rank(s);
        norm_into(s, &s->l->ffn_norm, d->h, d->x);
    }
    feed_forward(s, d->h, d->y);
    add_branch(s, &s->l->ffn_post_norm, d->y);
    if (streams) {
        ct_streams_correct(&d->exec, &d->model->weights.streams, &s->l->streams, &d->streams, d->x, d->h, s->n_tok);
        apply_input(s, d->h, d->y);
        ct_streams_add(&d->exec, &d->model->weights.streams, &d->streams, d->y, s->n_tok);
    }
    return true;
}

static void embed(const ct_decoder *d, const ct_batch *b)
{
    const ct_config *c = &d->model->config;
    const ct_weights *w = &d->model->weights;
    ct_embed_rows(&w->embed, b->tokens, b->n_tok, d->x);
    ct_scale(&d->exec, d->x, c->embed_scale, b->n_tok, c->d_model);
    for (size_t i = 0; w->positions.data != NULL && i < b->n_runs; i++)
        for (size_t t = 0; t < b->runs[i].n_tok; t++) {
            int32_t pos = (int32_t)ct_min_size(b->runs[i].pos + t, w->positions.n_rows - 1);
            ct_embed_rows(&w->positions, &pos, 1, d->y);
            d->exec.k->add(d->x + (b->runs[i].first + t) * c->d_model, d->y, c->d_model);
        }
}

static void turn_angles(const ct_decoder *d, const ct_batch *b)
{
    size_t n_rot = d->model->config.rope.n_rot;
    bool has_long = d->model->weights.long_factors != NULL;
    for (size_t i = 0; d->angles[0] != NULL && i < b->n_runs; i++) {
        rope_use global = has_long && b->runs[i].beyond_context ? ROPE_LONG : ROPE_GLOBAL;
        for (size_t t = 0; t < b->runs[i].n_tok; t++) {
            size_t at = (b->runs[i].first + t) * n_rot;
            int32_t pos = (int32_t)(b->runs[i].pos + t);
            ct_rope_angles(d->freq[global], d->magnitude[global], n_rot, pos, d->angles[0] + at);
            if (d->model->arch->window_period > 0) ct_rope_angles(d->freq[ROPE_LOCAL], d->magnitude[ROPE_LOCAL], n_rot, pos, d->angles[1] + at);
        }
    }
}

void ct_decoder_begin(ct_decoder *d, const ct_batch *batch, float *logits)
{
    d->batch = *batch;
    d->now = (step){.d = d, .batch = &d->batch, .logits = logits, .runs = batch->runs, .n_runs = batch->n_runs, .n_tok = batch->n_tok};
    embed(d, batch);
    turn_angles(d, batch);
    if (d->model->arch->layer_inputs) make_inputs(&d->now);
    if (d->model->arch->streams) ct_streams_begin(&d->exec, &d->model->weights.streams, &d->streams, d->x, d->now.n_tok);
}

static void finish(const step *s)
{
    ct_decoder *d = s->d;
    const ct_config *c = &d->model->config;
    const ct_weights *w = &d->model->weights;
    if (d->model->arch->streams) ct_streams_end(&d->exec, &w->streams, &d->streams, d->x, s->n_tok);
    norm_into(s, &w->output_norm, d->h, d->x);
    if (s->batch->hidden != NULL) {
        memcpy(s->batch->hidden, d->h, s->n_tok * c->d_model * sizeof *d->h);
        return;
    }
    expect_layer(s, w->layers);
    product(s, &w->head, d->h, s->logits);
    ct_scale(&d->exec, s->logits, c->logit_scale, s->n_tok, c->n_vocab);
    if (c->logit_softcap > 0.0f) ct_softcap(&d->exec, s->logits, c->logit_softcap, s->n_tok, c->n_vocab);
}

bool ct_decoder_advance(ct_decoder *d)
{
    const ct_config *c = &d->model->config;
    step *s = &d->now;
    size_t i = s->layer++;
    if (i == c->n_layers) {
        finish(s);
        return false;
    }
    s->l = &d->model->weights.layers[i];
    s->lc = &c->layers[i];
    s->narrows = i + 1 == c->n_keeping;
    s->last = i + 1 == c->n_layers;
    return layer(s) && (!s->last || s->n_tok > 0);
}

void ct_decoder_forward(ct_decoder *d, const ct_batch *batch, float *logits)
{
    ct_decoder_begin(d, batch, logits);
    while (ct_decoder_advance(d)) {}
}
