/* rope.c: rotary position embedding (Su et al. 2021, arXiv:2104.09864) with linear, llama3 (by frequency factors) and YaRN scaling. */
#include <math.h>

#include "nn/nn.h"

/* The pair (a fraction of n_rot/2) whose wave turns `turns` times over the original context. */
static double yarn_pair(const ct_rope_config *c, double turns)
{
    const double two_pi = 6.283185307179586;
    return (double)c->n_rot * log((double)c->n_context_orig / (turns * two_pi)) / (2.0 * log((double)c->base));
}

void ct_rope_frequencies(const ct_rope_config *c, double *freq, float *magnitude)
{
    size_t n_pairs = c->n_rot / 2;
    double low = 0.0, high = 0.0, interpolation = c->scaling == CT_ROPE_NONE ? 1.0 : 1.0 / (double)c->factor;
    *magnitude = c->attn_factor;
    if (c->scaling == CT_ROPE_YARN) {
        low = yarn_pair(c, (double)c->beta_fast);
        high = yarn_pair(c, (double)c->beta_slow);
        if (!c->not_rounded) low = floor(low), high = ceil(high);
        low = fmax(0.0, low);
        high = fmin((double)c->n_rot - 1.0, high);
        *magnitude *= (float)(1.0 + 0.1 * log((double)c->factor));
    }
    for (size_t i = 0; i < n_pairs; i++) {
        double f = pow((double)c->base, -2.0 * (double)i / (double)c->n_rot);
        if (c->freq_factors != NULL) f /= (double)c->freq_factors[i];
        if (c->scaling == CT_ROPE_YARN) {
            double ramp = ((double)i - low) / fmax(0.001, high - low);
            double keep = 1.0 - fmin(1.0, fmax(0.0, ramp)); /* 1: fast pair, as trained; 0: slow pair, interpolated */
            freq[i] = f * interpolation * (1.0 - keep) + f * keep;
        } else freq[i] = f * interpolation;
    }
}

void ct_rope_angles(const double *freq, float magnitude, size_t n_rot, int32_t pos, float *out)
{
    for (size_t i = 0; i < n_rot / 2; i++) {
        double angle = (double)pos * freq[i];
        out[i] = (float)cos(angle) * magnitude;
        out[n_rot / 2 + i] = (float)sin(angle) * magnitude;
    }
}

/* Plain loops that the compiler turns into vector code: nothing aliases, strides are constants. */
static void turn_adjacent(float *restrict x, size_t n_pairs, const float *restrict c, const float *restrict s)
{
    for (size_t i = 0; i < n_pairs; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * c[i] - b * s[i];
        x[2 * i + 1] = a * s[i] + b * c[i];
    }
}

static void turn_halves(float *restrict x, float *restrict y, size_t n_pairs, const float *restrict c, const float *restrict s)
{
    for (size_t i = 0; i < n_pairs; i++) {
        float a = x[i], b = y[i];
        x[i] = a * c[i] - b * s[i];
        y[i] = a * s[i] + b * c[i];
    }
}

void ct_rope_apply(float *x, size_t n_heads, size_t d_head, size_t n_rot, ct_rope_pairs pairs, const float *angles)
{
    size_t n_pairs = n_rot / 2;
    for (size_t h = 0; h < n_heads; h++, x += d_head)
        if (pairs == CT_ROPE_ADJACENT) turn_adjacent(x, n_pairs, angles, angles + n_pairs);
        else turn_halves(x, x + n_pairs, n_pairs, angles, angles + n_pairs);
}
