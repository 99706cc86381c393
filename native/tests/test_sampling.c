/* test_sampling.c: the sampler against straightforward computations in double precision. */
#include "engine/sampling.h"
#include "tests/test.h"

enum { V = 3001 };

static float logits[V];

static cactus_sampling defaults(void)
{
    return (cactus_sampling){.struct_size = sizeof(cactus_sampling), .temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f, .penalty_last_n = -1};
}

static void fill(uint64_t seed, float spread)
{
    test_rng rng = {seed};
    for (size_t i = 0; i < V; i++) logits[i] = spread * test_uniform(&rng);
}

static ct_sampler *make(cactus_sampling s)
{
    ct_sampler *sampler = NULL;
    cactus_error err = {0};
    int32_t ends[] = {7, 9};
    if (!CHECK_MSG(ct_sampler_create(&s, V, ends, 2, false, &sampler, &err) == CACTUS_OK, "%s", err.message)) exit(2);
    return sampler;
}

static ct_choice choose(ct_sampler *s, const int32_t *history, size_t n)
{
    ct_choice choice = {0};
    CHECK(ct_sampler_choose(s, ct_kernels_get(NULL), logits, history, n, NULL, &choice));
    return choice;
}

/* Probabilities in double, and their number of draws over `n` seeds' worth of one sampler. */
static void check_frequencies(cactus_sampling s, const double *p, int n_draws)
{
    static int drawn[V];
    memset(drawn, 0, sizeof drawn);
    ct_sampler *sampler = make(s);
    for (int i = 0; i < n_draws; i++) drawn[choose(sampler, NULL, 0).id]++;
    double total = 0.0, chi2 = 0.0, rest = 0.0, rest_drawn = 0.0;
    int cells = 0;
    for (size_t i = 0; i < V; i++) total += p[i];
    for (size_t i = 0; i < V; i++) {
        double expected = p[i] / total * n_draws;
        if (p[i] == 0.0) CHECK_INT(drawn[i], 0);
        if (expected >= 10.0) chi2 += (drawn[i] - expected) * (drawn[i] - expected) / expected, cells++;
        else rest += expected, rest_drawn += drawn[i];
    }
    if (rest >= 10.0) chi2 += (rest_drawn - rest) * (rest_drawn - rest) / rest, cells++;
    /* five deviations above the mean of the distribution */
    CHECK_MSG(chi2 < cells + 5.0 * sqrt(2.0 * cells) + 5.0, "chi-square %g over %d cells", chi2, cells);
    ct_sampler_free(sampler);
}

static void softmax(double temperature, double *p)
{
    double max = -INFINITY;
    for (size_t i = 0; i < V; i++)
        if ((double)logits[i] > max) max = (double)logits[i];
    for (size_t i = 0; i < V; i++) p[i] = exp(((double)logits[i] - max) / temperature);
}

static double p[V];

TEST(statistics_of_a_choice)
{
    fill(1, 8.0f);
    cactus_sampling s = defaults();
    s.temperature = 0.0f;
    s.n_top_logprobs = 5;
    ct_sampler *sampler = make(s);
    ct_choice got = choose(sampler, NULL, 0);
    size_t best = 0, second = 1;
    double z = 0.0, entropy = 0.0;
    softmax(1.0, p);
    for (size_t i = 0; i < V; i++) z += p[i];
    for (size_t i = 0; i < V; i++) {
        p[i] /= z;
        entropy -= p[i] * log(p[i]);
        if (p[i] > p[best]) best = i;
    }
    second = best == 0;
    for (size_t i = 0; i < V; i++)
        if (i != best && p[i] > p[second]) second = i;
    CHECK_INT(got.id, best);
    CHECK_NEAR(got.logprob, log(p[best]), 1e-5);
    CHECK_NEAR(got.entropy, entropy, 1e-4);
    CHECK_NEAR(got.margin, (double)logits[best] - (double)logits[second], 1e-6);
    CHECK_INT(got.n_top, 5);
    CHECK_INT(got.top_ids[0], best);
    CHECK_INT(got.top_ids[1], second);
    for (int i = 0; i < 5; i++) CHECK_NEAR(got.top_logprobs[i], log(p[got.top_ids[i]]), 1e-5);
    for (int i = 1; i < 5; i++) CHECK(got.top_logprobs[i] <= got.top_logprobs[i - 1]);
    ct_sampler_free(sampler);
}

/* The best and the second best wherever they are, also both in one place, twice the same, or beside what is no number. */
TEST(margins_of_any_place)
{
    enum { MOST = 20000 };
    static float scores[MOST];
    static const size_t sizes[] = {1, 2, 17, 4095, 4096, 4097, 8192, 8193, MOST};
    test_rng rng = {21};
    for (size_t z = 0; z < sizeof sizes / sizeof sizes[0]; z++) {
        size_t n = sizes[z], places[] = {0, n - 1, n / 2, 4095 % n, 4096 % n, test_below(&rng, (uint32_t)n)};
        cactus_sampling s = defaults();
        cactus_error err = {0};
        ct_sampler *sampler = NULL;
        ct_choice got;
        s.temperature = 0.0f;
        CHECK_INT(ct_sampler_create(&s, (int32_t)n, NULL, 0, false, &sampler, &err), CACTUS_OK);
        for (size_t a = 0; a < 6; a++)
            for (size_t b = 0; b < 6; b++)
                for (int kind = 0; kind < 3; kind++) {
                    for (size_t i = 0; i < n; i++) scores[i] = kind == 2 && i % 3 == 0 ? NAN : kind == 1 && i % 2 == 0 ? -INFINITY : test_uniform(&rng);
                    scores[places[a]] = 5.0f;
                    scores[places[b]] = kind == 1 ? 5.0f : 7.5f;
                    size_t best = 0;
                    float second = -INFINITY;
                    while (!(scores[best] == scores[places[b]])) best++;
                    for (size_t i = 0; i < n; i++)
                        if (i != best && scores[i] > second) second = scores[i];
                    CHECK(ct_sampler_choose(sampler, ct_kernels_get(NULL), scores, NULL, 0, NULL, &got));
                    CHECK_UINT(got.id, best);
                    CHECK_FLOAT(got.margin, n > 1 ? scores[best] - second : 0.0f);
                }
        for (size_t i = 0; i < n; i++) scores[i] = i % 2 == 0 ? -INFINITY : NAN;
        CHECK(!ct_sampler_choose(sampler, ct_kernels_get(NULL), scores, NULL, 0, NULL, &got));
        ct_sampler_free(sampler);
    }
}

TEST(draws_follow_the_distribution)
{
    fill(2, 4.0f);
    cactus_sampling s = defaults();
    s.seed = 11;
    softmax(1.0, p);
    check_frequencies(s, p, 10000);
    s.temperature = 0.5f;
    softmax(0.5, p);
    check_frequencies(s, p, 10000);
}

static int by_p(const void *a, const void *b)
{
    double x = p[*(const int *)a], y = p[*(const int *)b];
    return (x < y) - (x > y);
}

/* Keeps the first tokens in order of probability while keep(rank, mass before, p) holds. */
static void truncate_to(size_t top_k, double top_p, double min_p)
{
    static int order[V];
    double total = 0.0, mass = 0.0;
    for (int i = 0; i < V; i++) order[i] = i;
    qsort(order, V, sizeof order[0], by_p);
    double best = p[order[0]];
    for (size_t i = 0; i < V; i++)
        if (i >= top_k) p[order[i]] = 0.0;
    for (size_t i = 0; i < V; i++) total += p[i];
    for (size_t i = 0; i < V; i++) {
        double here = p[order[i]];
        if (mass >= top_p * total) p[order[i]] = 0.0;
        mass += here;
    }
    for (size_t i = 0; i < V; i++)
        if (p[i] < min_p * best) p[i] = 0.0;
}

TEST(truncation)
{
    static const struct { int32_t top_k; float top_p, min_p, spread; } cases[] = {
        {5, 1.0f, 0.0f, 4.0f}, {0, 0.5f, 0.0f, 4.0f}, {0, 0.95f, 0.0f, 1.0f}, {0, 1.0f, 0.1f, 6.0f}, {50, 0.8f, 0.05f, 5.0f}, {1, 1.0f, 0.0f, 2.0f}, {0, 1e-6f, 0.0f, 3.0f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fill(20 + i, cases[i].spread);
        cactus_sampling s = defaults();
        s.top_k = cases[i].top_k;
        s.top_p = cases[i].top_p;
        s.min_p = cases[i].min_p;
        s.seed = i;
        softmax(1.0, p);
        truncate_to(s.top_k > 0 ? (size_t)s.top_k : V, s.top_p < 1.0f ? (double)s.top_p : 2.0, (double)s.min_p);
        check_frequencies(s, p, 1500);
    }
}

TEST(penalties_bias_and_forbidden_ends)
{
    for (size_t i = 0; i < V; i++) logits[i] = -(float)i * 0.001f;
    logits[3] = 5.0f, logits[4] = 4.5f, logits[5] = 4.0f, logits[7] = 9.0f;
    cactus_sampling s = defaults();
    s.temperature = 0.0f;
    int32_t history[] = {3, 3, 4};
    ct_sampler *sampler = make(s);
    CHECK_INT(choose(sampler, history, 3).id, 7);
    ct_sampler_free(sampler);

    s.ignore_eos = 1; /* 7 ends */
    sampler = make(s);
    CHECK_INT(choose(sampler, history, 3).id, 3);
    CHECK_FLOAT(choose(sampler, history, 3).margin, 4.0f); /* of the model's own scores */
    ct_sampler_free(sampler);

    s.frequency_penalty = 0.3f; /* 3: 5 - 0.6 = 4.4; 4: 4.5 - 0.3 = 4.2; 5: 4.0 */
    sampler = make(s);
    CHECK_INT(choose(sampler, history, 3).id, 3);
    ct_sampler_free(sampler);
    s.presence_penalty = 0.5f; /* 3: 3.9; 4: 3.7; 5: 4.0 */
    sampler = make(s);
    CHECK_INT(choose(sampler, history, 3).id, 5);
    ct_sampler_free(sampler);
    s.penalty_last_n = 1; /* only 4 is seen: 3: 5.0 */
    sampler = make(s);
    CHECK_INT(choose(sampler, history, 3).id, 3);
    ct_sampler_free(sampler);
    s = defaults();
    s.temperature = 0.0f;
    s.ignore_eos = 1;
    s.repetition_penalty = 1.3f; /* 3: 3.85; 4: 3.46; 5: 4.0 */
    sampler = make(s);
    CHECK_INT(choose(sampler, history, 3).id, 5);
    ct_sampler_free(sampler);

    int32_t ids[] = {100, 3};
    float values[] = {50.0f, -100.0f};
    s = defaults();
    s.temperature = 0.0f;
    s.bias_ids = ids;
    s.bias_values = values;
    s.n_bias = 2;
    sampler = make(s);
    ct_choice choice = choose(sampler, NULL, 0);
    CHECK_INT(choice.id, 100);
    CHECK(choice.logprob < -5.0f); /* its own probability, without the bias */
    ct_sampler_free(sampler);
}

TEST(ties_and_not_finite_scores)
{
    for (size_t i = 0; i < V; i++) logits[i] = 1.0f;
    cactus_sampling s = defaults();
    s.temperature = 0.0f;
    ct_sampler *sampler = make(s);
    CHECK_INT(choose(sampler, NULL, 0).id, 0);
    CHECK_FLOAT(choose(sampler, NULL, 0).margin, 0.0f);
    for (size_t i = 0; i < V; i++) logits[i] = NAN;
    ct_choice choice;
    CHECK(!ct_sampler_choose(sampler, ct_kernels_get(NULL), logits, NULL, 0, NULL, &choice));
    for (size_t i = 0; i < V; i++) logits[i] = -INFINITY;
    CHECK(!ct_sampler_choose(sampler, ct_kernels_get(NULL), logits, NULL, 0, NULL, &choice));
    ct_sampler_free(sampler);
}

TEST(same_seed_same_tokens)
{
    fill(5, 3.0f);
    cactus_sampling s = defaults();
    s.seed = 99;
    ct_sampler *a = make(s), *b = make(s);
    s.seed = 100;
    ct_sampler *other = make(s);
    int n_different = 0;
    for (int i = 0; i < 50; i++) {
        int32_t id = choose(a, NULL, 0).id;
        CHECK_INT(choose(b, NULL, 0).id, id);
        n_different += choose(other, NULL, 0).id != id;
    }
    CHECK(n_different > 25);
    ct_sampler_free(a);
    ct_sampler_free(b);
    ct_sampler_free(other);
}

static void refuse(cactus_sampling s, const char *word)
{
    ct_sampler *sampler = NULL;
    cactus_error err = {0};
    CHECK_INT(ct_sampler_create(&s, V, NULL, 0, false, &sampler, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_CONTAINS(err.message, word);
    CHECK(sampler == NULL);
}

TEST(bad_parameters_are_named)
{
    cactus_sampling s;
#define REFUSE(field, value, word) s = defaults(), s.field = (value), refuse(s, word)
    REFUSE(temperature, -0.1f, "temperature");
    REFUSE(temperature, NAN, "temperature");
    REFUSE(temperature, INFINITY, "temperature");
    REFUSE(top_p, 0.0f, "top_p");
    REFUSE(top_p, 1.1f, "top_p");
    REFUSE(min_p, -0.1f, "min_p");
    REFUSE(top_k, -1, "top_k");
    REFUSE(repetition_penalty, 0.0f, "repetition_penalty");
    REFUSE(presence_penalty, 3.0f, "presence_penalty");
    REFUSE(frequency_penalty, NAN, "frequency_penalty");
    REFUSE(penalty_last_n, -2, "penalty_last_n");
    REFUSE(n_top_logprobs, 21, "top_logprobs");
    REFUSE(struct_size, 3, "struct_size");
    int32_t id = V;
    float value = 1.0f;
    s = defaults();
    s.n_bias = 1;
    refuse(s, "logit_bias");
    s.bias_ids = &id;
    s.bias_values = &value;
    refuse(s, "logit_bias");
    id = 1;
    value = NAN;
    refuse(s, "logit_bias");
}

TEST_MAIN()
