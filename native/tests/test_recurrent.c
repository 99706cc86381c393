/* test_recurrent.c: the recurrent layers against plain recurrences in float64, and against themselves: the kernel set, the number of
 * threads, the cut of a prompt into runs and what else is in the batch must not change a bit. States begin as NaN, and end, as
 * outputs do, before an unreadable page. */
#include "nn/recurrent.h"
#include "tests/test.h"

enum { N_TOKENS = 41, MAX_INPUTS = 4, N_WEIGHTS = 8 };

typedef enum layer_kind { SHORT_CONV, MAMBA, MAMBA2, DELTA_NET } layer_kind;

/* A layer with random weights, and the inputs of one sequence. */
typedef struct layer {
    layer_kind kind;
    ct_conv conv;
    ct_mamba mamba;
    ct_mamba2 mamba2;
    ct_delta_net delta;
    float *w[N_WEIGHTS];          /* what the structs point to */
    const float *taps;            /* [n_channels, width], as in files */
    const float *a;               /* MAMBA: [d_inner, d_state], as in files */
    size_t widths[MAX_INPUTS];    /* elements of a token in each input; 0: there is none */
    float *in[MAX_INPUTS];        /* [N_TOKENS, width] */
    size_t out_width, state_floats;
} layer;

static test_rng rng = {7};

static float *random_floats(size_t n, float scale, float centre)
{
    float *x = ct_alloc(n, sizeof *x);
    if (x == NULL) abort();
    for (size_t i = 0; i < n; i++) x[i] = centre + scale * test_uniform(&rng);
    return x;
}

static float *keep(layer *l, float *w)
{
    size_t i = 0;
    while (l->w[i] != NULL) i++;
    return l->w[i] = w;
}

static void random_conv(layer *l, ct_conv *conv, size_t width, size_t n_channels, bool bias)
{
    *conv = (ct_conv){.width = width, .n_channels = n_channels, .bias = bias ? keep(l, random_floats(n_channels, 0.5f, 0.0f)) : NULL};
    float *taps = keep(l, random_floats(width * n_channels, 0.8f, 0.0f)), *w = keep(l, ct_alloc(width * n_channels, sizeof *w));
    ct_transpose(w, taps, n_channels, width);
    l->taps = taps;
    conv->w = w;
}

static void random_inputs(layer *l)
{
    for (size_t i = 0; i < MAX_INPUTS; i++)
        if (l->widths[i] > 0) l->in[i] = random_floats(N_TOKENS * l->widths[i], 2.0f, 0.0f);
}

static layer make_short_conv(size_t width, size_t n_channels, bool bias)
{
    layer l = {.kind = SHORT_CONV, .widths = {3 * n_channels}, .out_width = n_channels};
    random_conv(&l, &l.conv, width, n_channels, bias);
    l.state_floats = ct_short_conv_state_floats(&l.conv);
    random_inputs(&l);
    return l;
}

static layer make_mamba(size_t d_inner, size_t d_state, size_t dt_rank, bool norms)
{
    layer l = {.kind = MAMBA, .widths = {2 * d_inner, dt_rank + 2 * d_state, d_inner}, .out_width = d_inner};
    ct_mamba *m = &l.mamba;
    *m = (ct_mamba){.d_inner = d_inner, .d_state = d_state, .dt_rank = dt_rank, .norm_eps = 1e-5f};
    random_conv(&l, &m->conv, 4, d_inner, true);
    float *a = keep(&l, random_floats(d_inner * d_state, 1.0f, -1.1f)), *packed = keep(&l, ct_alloc(ct_columns_floats(d_state, d_inner), sizeof *a));
    ct_pack_columns(packed, a, d_state, d_inner);
    l.a = a;
    m->a = packed;
    m->d = keep(&l, random_floats(d_inner, 1.0f, 0.0f));
    m->dt_bias = norms ? NULL : keep(&l, random_floats(d_inner, 1.0f, 0.0f));
    if (norms) m->dt_norm = m->b_norm = m->c_norm = keep(&l, random_floats(dt_rank + d_state, 0.5f, 1.0f));
    l.state_floats = ct_mamba_state_floats(m);
    random_inputs(&l);
    return l;
}

static layer make_mamba2(size_t n_heads, size_t head_dim, size_t d_state, size_t n_groups, bool norm)
{
    size_t d_inner = n_heads * head_dim, n_channels = d_inner + 2 * n_groups * d_state;
    layer l = {.kind = MAMBA2, .widths = {d_inner + n_channels + n_heads}, .out_width = d_inner};
    ct_mamba2 *m = &l.mamba2;
    *m = (ct_mamba2){.d_inner = d_inner, .d_state = d_state, .n_heads = n_heads, .n_groups = n_groups, .norm_eps = 1e-5f};
    random_conv(&l, &m->conv, 4, n_channels, true);
    m->a = keep(&l, random_floats(n_heads, 1.0f, -1.1f));
    m->d = keep(&l, random_floats(n_heads, 1.0f, 0.0f));
    m->dt_bias = keep(&l, random_floats(n_heads, 1.0f, 0.0f));
    m->norm = norm ? keep(&l, random_floats(d_inner, 0.5f, 1.0f)) : NULL;
    l.state_floats = ct_mamba2_state_floats(m);
    random_inputs(&l);
    return l;
}

static layer make_delta_net(size_t n_k_heads, size_t d_k, size_t n_v_heads, size_t d_v, bool tiled)
{
    size_t n_channels = 2 * n_k_heads * d_k + n_v_heads * d_v;
    layer l = {.kind = DELTA_NET, .widths = {n_channels, n_v_heads * d_v, n_v_heads, n_v_heads}, .out_width = n_v_heads * d_v};
    ct_delta_net *d = &l.delta;
    *d = (ct_delta_net){.n_k_heads = n_k_heads, .d_k = d_k, .n_v_heads = n_v_heads, .d_v = d_v, .tiled = tiled, .norm_eps = 1e-6f, .l2_eps = 1e-6f};
    random_conv(&l, &d->conv, 4, n_channels, false);
    d->a = keep(&l, random_floats(n_v_heads, 0.5f, -0.6f));
    d->dt_bias = keep(&l, random_floats(n_v_heads, 1.0f, -1.0f));
    d->norm = keep(&l, random_floats(d_v, 0.5f, 1.0f));
    l.state_floats = ct_delta_net_state_floats(d);
    random_inputs(&l);
    return l;
}

enum { N_LAYERS = 12 };

static layer make_layer(size_t i)
{
    switch (i) {
    case 0: return make_short_conv(3, 80, false);
    case 1: return make_short_conv(2, 17, true);
    case 2: return make_short_conv(4, 130, true);
    case 3: return make_mamba(112, 16, 8, false);
    case 4: return make_mamba(70, 5, 3, true);
    case 5: return make_mamba2(4, 32, 24, 2, true);
    case 6: return make_mamba2(2, 64, 128, 1, false);
    case 7: return make_mamba2(3, 5, 17, 3, true);
    case 8: return make_delta_net(2, 20, 4, 24, true);
    case 9: return make_delta_net(1, 128, 1, 128, false);
    case 10: return make_delta_net(2, 16, 6, 70, false);
    default: return make_delta_net(3, 7, 3, 9, true);
    }
}

static void free_layer(layer *l)
{
    for (size_t i = 0; i < N_WEIGHTS; i++) ct_free(l->w[i]);
    for (size_t i = 0; i < MAX_INPUTS; i++) ct_free(l->in[i]);
}

/* ---- the layers as they are used ----------------------------------------------------------------------------------------- */

static float *floats(const test_guarded *g) { return (float *)(void *)g->data; }

/* A batch of n_tok rows: row r of the inputs is token tokens[r] of the sequence. y [n_tok, out_width]. */
static void mix(const ct_exec *exec, const layer *l, const ct_state_run *runs, size_t n_runs, const size_t *tokens, size_t n_tok, float *y)
{
    float *in[MAX_INPUTS] = {0};
    for (size_t i = 0; i < MAX_INPUTS; i++) {
        if (l->widths[i] == 0) continue;
        in[i] = ct_alloc(n_tok * l->widths[i] + 1, sizeof *in[i]);
        for (size_t r = 0; r < n_tok; r++)
            memcpy(in[i] + r * l->widths[i], l->in[i] + tokens[r] * l->widths[i], l->widths[i] * sizeof *in[i]);
    }
    if (l->kind == SHORT_CONV) ct_short_conv(exec, &l->conv, runs, n_runs, in[0], y);
    if (l->kind == MAMBA) {
        float *dt = ct_alloc(n_tok * l->mamba.dt_rank + 1, sizeof *dt);
        ct_mamba_conv(exec, &l->mamba, runs, n_runs, in[0], y);
        ct_mamba_split(exec, &l->mamba, n_tok, in[1], dt);
        ct_mamba_scan(exec, &l->mamba, runs, n_runs, in[0], y, in[2], in[1], y);
        ct_free(dt);
    }
    if (l->kind == MAMBA2) ct_mamba2_mix(exec, &l->mamba2, runs, n_runs, in[0], y);
    if (l->kind == DELTA_NET) {
        size_t per_thread = ct_delta_net_scratch_floats(&l->delta), n = per_thread * (size_t)ct_pool_threads(exec->pool);
        test_guarded scratch = test_guarded_alloc(n * sizeof(float));
        ct_delta_net_mix(exec, &l->delta, runs, n_runs, in[0], in[1], in[2], in[3], y, floats(&scratch));
        test_guarded_free(&scratch);
    }
    for (size_t i = 0; i < MAX_INPUTS; i++) ct_free(in[i]);
}

typedef struct result {
    test_guarded y, state; /* [N_TOKENS, out_width], [state_floats] */
} result;

static test_guarded nan_floats(size_t n)
{
    test_guarded g = test_guarded_alloc(n * sizeof(float));
    memset(g.data, 0xff, n * sizeof(float));
    return g;
}

static result make_result(const layer *l) { return (result){nan_floats(N_TOKENS * l->out_width), nan_floats(l->state_floats)}; }

static void free_result(result *r)
{
    test_guarded_free(&r->y);
    test_guarded_free(&r->state);
}

/* The whole sequence, in runs of n tokens. */
static result run_sequence(const ct_exec *exec, const layer *l, size_t n)
{
    result r = make_result(l);
    size_t tokens[N_TOKENS];
    for (size_t i = 0; i < N_TOKENS; i++) tokens[i] = i;
    for (size_t pos = 0; pos < N_TOKENS; pos += n) {
        ct_state_run run = {0, ct_min_size(n, N_TOKENS - pos), pos == 0, floats(&r.state)};
        mix(exec, l, &run, 1, tokens + pos, run.n_tok, floats(&r.y) + pos * l->out_width);
    }
    return r;
}

static bool same_floats(const float *a, const float *b, size_t n) /* -0 is 0; NaN is never right */
{
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i]) return false;
    return true;
}

/* A state fills up its last columns with zeros, except those of its convolution, which nothing writes. */
static bool same_states(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (a[i] != b[i] && !(isnan(a[i]) && isnan(b[i]))) return false;
    return true;
}

/* ---- in float64 ---------------------------------------------------------------------------------------------------------- */

static double sigmoid_of(double x) { return 1.0 / (1.0 + exp(-x)); }
static double silu_of(double x) { return x * sigmoid_of(x); }
static double softplus_of(double x) { return x > 20.0 ? x : log1p(exp(x)); }

/* Channel i after the convolution, before anything else, at token t; x(t) is in[t * stride + at]. */
static double conv_of(const layer *l, const ct_conv *conv, size_t i, size_t t, const float *x, const float *times, size_t stride)
{
    double s = conv->bias != NULL ? (double)conv->bias[i] : 0.0;
    for (size_t j = 0; j < conv->width; j++) {
        if (t + j < conv->width - 1) continue;
        size_t from = (t + j - (conv->width - 1)) * stride + i;
        s += (double)l->taps[i * conv->width + j] * (double)x[from] * (times != NULL ? (double)times[from] : 1.0);
    }
    return s;
}

static void rms_norm_of(double *y, size_t n, const float *weight, double eps)
{
    double ss = 0.0;
    for (size_t i = 0; i < n; i++) ss += y[i] * y[i];
    for (size_t i = 0; i < n; i++) y[i] *= (double)weight[i] / sqrt(ss / (double)n + eps);
}

static void short_conv_truth(const layer *l, double *y)
{
    size_t n = l->conv.n_channels;
    for (size_t t = 0; t < N_TOKENS; t++)
        for (size_t i = 0; i < n; i++)
            y[t * n + i] = (double)l->in[0][t * 3 * n + n + i] * conv_of(l, &l->conv, i, t, l->in[0], l->in[0] + 2 * n, 3 * n);
}

static void mamba_truth(const layer *l, double *y)
{
    const ct_mamba *m = &l->mamba;
    size_t n = m->d_inner, d_state = m->d_state;
    double *h = ct_alloc(n * d_state, sizeof *h), *b = ct_alloc(2 * d_state, sizeof *b), *c = b + d_state;
    for (size_t t = 0; t < N_TOKENS; t++) {
        for (size_t i = 0; i < 2 * d_state; i++) b[i] = (double)l->in[1][t * l->widths[1] + m->dt_rank + i];
        if (m->b_norm != NULL) rms_norm_of(b, d_state, m->b_norm, (double)m->norm_eps);
        if (m->c_norm != NULL) rms_norm_of(c, d_state, m->c_norm, (double)m->norm_eps);
        for (size_t i = 0; i < n; i++) {
            double x = silu_of(conv_of(l, &m->conv, i, t, l->in[0], NULL, 2 * n)), s = (double)m->d[i] * x;
            double dt = softplus_of((double)l->in[2][t * n + i] + (m->dt_bias != NULL ? (double)m->dt_bias[i] : 0.0));
            for (size_t k = 0; k < d_state; k++) {
                double *at = &h[i * d_state + k];
                *at = *at * exp(dt * (double)l->a[i * d_state + k]) + dt * b[k] * x;
                s += c[k] * *at;
            }
            y[t * n + i] = s * silu_of((double)l->in[0][t * 2 * n + n + i]);
        }
    }
    ct_free(h);
    ct_free(b);
}

static void mamba2_truth(const layer *l, double *y)
{
    const ct_mamba2 *m = &l->mamba2;
    size_t n = m->d_inner, d_state = m->d_state, dim = n / m->n_heads, channels = m->conv.n_channels, row = l->widths[0];
    double *h = ct_alloc(n * d_state, sizeof *h), *xbc = ct_alloc(channels, sizeof *xbc);
    for (size_t t = 0; t < N_TOKENS; t++) {
        const float *in = l->in[0] + t * row;
        for (size_t i = 0; i < channels; i++) xbc[i] = silu_of(conv_of(l, &m->conv, i, t, l->in[0] + n, NULL, row));
        for (size_t i = 0; i < n; i++) {
            size_t head = i / dim, group = head / (m->n_heads / m->n_groups);
            const double *b = xbc + n + group * d_state, *c = b + m->n_groups * d_state;
            double dt = softplus_of((double)in[n + channels + head] + (double)m->dt_bias[head]), s = (double)m->d[head] * xbc[i];
            for (size_t k = 0; k < d_state; k++) {
                double *at = &h[i * d_state + k];
                *at = *at * exp(dt * (double)m->a[head]) + dt * b[k] * xbc[i];
                s += c[k] * *at;
            }
            y[t * n + i] = s * silu_of((double)in[i]);
        }
        for (size_t g = 0; g < m->n_groups && m->norm != NULL; g++)
            rms_norm_of(y + t * n + g * (n / m->n_groups), n / m->n_groups, m->norm + g * (n / m->n_groups), (double)m->norm_eps);
    }
    ct_free(h);
    ct_free(xbc);
}

static void l2_norm_of(double *x, size_t n, double eps, double factor)
{
    double ss = 0.0;
    for (size_t i = 0; i < n; i++) ss += x[i] * x[i];
    for (size_t i = 0; i < n; i++) x[i] *= factor / sqrt(ss + eps);
}

static void delta_net_truth(const layer *l, double *y)
{
    const ct_delta_net *d = &l->delta;
    size_t n = d->n_v_heads * d->d_v, d_k = d->d_k, d_v = d->d_v, per = d->n_v_heads / d->n_k_heads;
    double *state = ct_alloc(d->n_v_heads * d_k * d_v, sizeof *state), *qkv = ct_alloc(d->conv.n_channels, sizeof *qkv);
    for (size_t t = 0; t < N_TOKENS; t++) {
        for (size_t i = 0; i < d->conv.n_channels; i++) qkv[i] = silu_of(conv_of(l, &d->conv, i, t, l->in[0], NULL, d->conv.n_channels));
        for (size_t h = 0; h < 2 * d->n_k_heads; h++)
            l2_norm_of(qkv + h * d_k, d_k, (double)d->l2_eps, h < d->n_k_heads ? 1.0 / sqrt((double)d_k) : 1.0);
        for (size_t h = 0; h < d->n_v_heads; h++) {
            const double *q = qkv + (d->tiled ? h % d->n_k_heads : h / per) * d_k, *k = q + d->n_k_heads * d_k;
            const double *v = qkv + 2 * d->n_k_heads * d_k + h * d_v;
            double *out = y + t * n + h * d_v, beta = sigmoid_of((double)l->in[3][t * d->n_v_heads + h]);
            double decay = exp((double)d->a[h] * softplus_of((double)l->in[2][t * d->n_v_heads + h] + (double)d->dt_bias[h]));
            for (size_t j = 0; j < d_v; j++) {
                double *s = state + h * d_k * d_v + j, seen = 0.0;
                for (size_t i = 0; i < d_k; i++) s[i * d_v] *= decay, seen += k[i] * s[i * d_v];
                out[j] = 0.0;
                for (size_t i = 0; i < d_k; i++) s[i * d_v] += k[i] * (v[j] - seen) * beta, out[j] += q[i] * s[i * d_v];
            }
            rms_norm_of(out, d_v, d->norm, (double)d->norm_eps);
            for (size_t j = 0; j < d_v; j++) out[j] *= silu_of((double)l->in[1][t * n + h * d_v + j]);
        }
    }
    ct_free(state);
    ct_free(qkv);
}

/* ---- tests ---------------------------------------------------------------------------------------------------------------- */

static bool make_exec(ct_exec *exec, const char *kernels, int n_threads)
{
    cactus_error error;
    return CHECK_MSG(ct_exec_create(exec, kernels, n_threads, 64, 64, &error) == CACTUS_OK, "%s", error.message);
}

TEST(layers_agree_with_float64)
{
    ct_exec exec;
    if (!make_exec(&exec, "scalar", 1)) return;
    for (size_t i = 0; i < N_LAYERS; i++) {
        layer l = make_layer(i);
        double *want = ct_alloc(N_TOKENS * l.out_width, sizeof *want), largest = 0.0, off = 0.0;
        if (l.kind == SHORT_CONV) short_conv_truth(&l, want);
        if (l.kind == MAMBA) mamba_truth(&l, want);
        if (l.kind == MAMBA2) mamba2_truth(&l, want);
        if (l.kind == DELTA_NET) delta_net_truth(&l, want);
        result got = run_sequence(&exec, &l, N_TOKENS);
        for (size_t k = 0; k < N_TOKENS * l.out_width; k++) {
            double error = fabs((double)floats(&got.y)[k] - want[k]);
            if (!(error <= off)) off = error;
            if (fabs(want[k]) > largest) largest = fabs(want[k]);
        }
        CHECK_MSG(off < 2e-6 * largest && largest > 0.1, "layer %zu is off by %g, its largest value is %g", i, off, largest);
        ct_free(want);
        free_result(&got);
        free_layer(&l);
    }
    ct_exec_free(&exec);
}

TEST(bits_depend_on_neither_kernels_threads_nor_cuts)
{
    static const size_t cuts[] = {N_TOKENS, 1, 7, 16};
    char names[256];
    ct_exec scalar;
    if (!make_exec(&scalar, "scalar", 1)) return;
    for (size_t i = 0; i < N_LAYERS; i++) {
        layer l = make_layer(i);
        result want = run_sequence(&scalar, &l, N_TOKENS);
        snprintf(names, sizeof names, "%s", ct_kernels_available());
        for (char *rest = names, *name; (name = strtok_r(rest, " ", &rest)) != NULL;)
            for (int n_threads = 1; n_threads <= 4; n_threads++) {
                ct_exec exec;
                if (!make_exec(&exec, name, n_threads)) continue;
                for (size_t c = 0; c < sizeof cuts / sizeof cuts[0]; c++) {
                    if (c > 0 && c % 4 != (size_t)n_threads % 4) continue;
                    result got = run_sequence(&exec, &l, cuts[c]);
                    CHECK_MSG(same_floats(floats(&got.y), floats(&want.y), N_TOKENS * l.out_width),
                              "layer %zu, %s, %d threads, runs of %zu: other outputs", i, name, n_threads, cuts[c]);
                    CHECK_MSG(same_states(floats(&got.state), floats(&want.state), l.state_floats),
                              "layer %zu, %s, %d threads, runs of %zu: another state", i, name, n_threads, cuts[c]);
                    free_result(&got);
                }
                ct_exec_free(&exec);
            }
        free_result(&want);
        free_layer(&l);
    }
    ct_exec_free(&scalar);
}

/* Three sequences of the same tokens that begin at different times, in one batch after the other. */
TEST(sequences_of_a_batch_do_not_meet)
{
    enum { N_SEQUENCES = 3, N_BATCHES = 4 };
    static const size_t n_new[N_BATCHES][N_SEQUENCES] = {{5, 0, 0}, {1, 20, 2}, {18, 1, 1}, {3, 1, 17}};
    for (size_t i = 0; i < N_LAYERS; i++) {
        ct_exec exec;
        if (!make_exec(&exec, NULL, 1 + (int)(i % 3))) return;
        layer l = make_layer(i);
        result want = run_sequence(&exec, &l, N_TOKENS);
        test_guarded states[N_SEQUENCES];
        size_t pos[N_SEQUENCES] = {0}, tokens[N_SEQUENCES * N_TOKENS];
        for (size_t s = 0; s < N_SEQUENCES; s++) states[s] = nan_floats(l.state_floats);
        for (size_t batch = 0; batch < N_BATCHES; batch++) {
            ct_state_run runs[N_SEQUENCES];
            size_t n_tok = 0, n_runs = 0, of[N_SEQUENCES];
            for (size_t s = 0; s < N_SEQUENCES; s++) {
                size_t n = n_new[batch][s];
                if (n == 0 && batch > 0) continue;
                for (size_t t = 0; t < n; t++) tokens[n_tok + t] = pos[s] + t;
                of[n_runs] = s;
                runs[n_runs++] = (ct_state_run){n_tok, n, pos[s] == 0, floats(&states[s])};
                n_tok += n;
            }
            test_guarded y = nan_floats(n_tok * l.out_width);
            mix(&exec, &l, runs, n_runs, tokens, n_tok, floats(&y));
            for (size_t r = 0; r < n_runs; r++) {
                size_t s = of[r], n = runs[r].n_tok;
                CHECK_MSG(same_floats(floats(&y) + runs[r].first * l.out_width, floats(&want.y) + pos[s] * l.out_width, n * l.out_width),
                          "layer %zu, batch %zu, sequence %zu: other outputs", i, batch, s);
                pos[s] += n;
            }
            test_guarded_free(&y);
        }
        mix(&exec, &l, NULL, 0, tokens, 0, NULL);
        for (size_t s = 0; s < N_SEQUENCES; s++) test_guarded_free(&states[s]);
        free_result(&want);
        free_layer(&l);
        ct_exec_free(&exec);
    }
}

TEST(dt_is_taken_out_and_normalised)
{
    ct_exec exec;
    if (!make_exec(&exec, NULL, 2)) return;
    for (size_t i = 3; i <= 4; i++) {
        layer l = make_layer(i);
        const ct_mamba *m = &l.mamba;
        float *dt = ct_alloc(N_TOKENS * m->dt_rank, sizeof *dt);
        double *want = ct_alloc(N_TOKENS * m->dt_rank, sizeof *want);
        for (size_t t = 0; t < N_TOKENS; t++) {
            for (size_t k = 0; k < m->dt_rank; k++) want[t * m->dt_rank + k] = (double)l.in[1][t * l.widths[1] + k];
            if (m->dt_norm != NULL) rms_norm_of(want + t * m->dt_rank, m->dt_rank, m->dt_norm, (double)m->norm_eps);
        }
        ct_mamba_split(&exec, m, N_TOKENS, l.in[1], dt);
        for (size_t k = 0; k < N_TOKENS * m->dt_rank; k++) CHECK_NEAR(dt[k], want[k], 1e-6);
        ct_free(dt);
        ct_free(want);
        free_layer(&l);
    }
    ct_exec_free(&exec);
}

TEST(sizes_that_overflow_are_zero)
{
    CHECK_UINT(ct_columns_floats(3, 17), 3 * 32);
    CHECK_UINT(ct_columns_floats(SIZE_MAX / 16, 17), 0);
    CHECK_UINT(ct_columns_floats(1, SIZE_MAX), 0);
    ct_conv conv = {.width = 4, .n_channels = SIZE_MAX / 2};
    CHECK_UINT(ct_short_conv_state_floats(&conv), 0);
    conv.n_channels = 5;
    CHECK_UINT(ct_short_conv_state_floats(&conv), 3 * 16);
    CHECK_UINT(ct_mamba2_state_floats(&(ct_mamba2){.conv = conv, .d_inner = SIZE_MAX / 4, .d_state = 16, .n_heads = 2, .n_groups = 1}), 0);
    CHECK_UINT(ct_delta_net_state_floats(&(ct_delta_net){.conv = conv, .n_k_heads = 1, .d_k = 3, .n_v_heads = 2, .d_v = 17}), 48 + 2 * 96);
}

/* ---- kernels --------------------------------------------------------------------------------------------------------------- */

typedef void (*map_fn)(float *y, const float *x, size_t n);

static void check_map(const char *name, map_fn scalar, double (*truth)(double))
{
    for (int i = -2100; i <= 2100; i++) {
        float x = (float)i * 0.04f, y;
        scalar(&y, &x, 1);
        double want = truth((double)x);
        CHECK_MSG(fabs((double)y - want) <= 4e-7 * want, "%s(%g) is %.9g, not %.9g", name, (double)x, (double)y, want);
    }
}

static double exp_of(double x) { return exp(x); }

static void norm_2(const ct_kernels *k, float *y, const float *x, size_t n) { k->l2_norm(y, x, n, 1e-6f, 0.25f); }

TEST(element_wise_kernels)
{
    const ct_kernels *scalar = ct_kernels_get("scalar");
    check_map("exp", scalar->exp, exp_of);
    check_map("sigmoid", scalar->sigmoid, sigmoid_of);
    check_map("softplus", scalar->softplus, softplus_of);
    char names[256];
    snprintf(names, sizeof names, "%s", ct_kernels_available());
    for (char *rest = names, *name; (name = strtok_r(rest, " ", &rest)) != NULL;) {
        const ct_kernels *k = ct_kernels_get(name);
        for (size_t n = 0; n < 70; n++) {
            test_guarded x = test_guarded_alloc(n * sizeof(float)), y = test_guarded_alloc(n * sizeof(float));
            float want[70];
            double ss = 1e-6;
            for (size_t i = 0; i < n; i++) {
                floats(&x)[i] = test_uniform(&rng) * (n % 3 == 0 ? 100.0f : 3.0f);
                ss += (double)floats(&x)[i] * (double)floats(&x)[i];
            }
            const map_fn maps[][2] = {{k->exp, scalar->exp}, {k->sigmoid, scalar->sigmoid}, {k->softplus, scalar->softplus}};
            for (size_t m = 0; m < 3; m++) {
                maps[m][0](floats(&y), floats(&x), n);
                maps[m][1](want, floats(&x), n);
                CHECK_MSG(same_floats(floats(&y), want, n), "%s: element-wise kernel %zu, %zu elements", name, m, n);
            }
            norm_2(k, floats(&y), floats(&x), n);
            norm_2(scalar, want, floats(&x), n);
            CHECK_MSG(same_floats(floats(&y), want, n), "%s: l2_norm, %zu elements", name, n);
            for (size_t i = 0; i < n; i++) CHECK_NEAR(want[i], (double)floats(&x)[i] * 0.25 / sqrt(ss), 1e-7);
            test_guarded_free(&x);
            test_guarded_free(&y);
        }
    }
}

TEST_MAIN()
