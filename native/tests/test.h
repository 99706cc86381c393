/* test.h: the harness of the C tests, header only.
 *
 *     #include "tests/test.h"
 *
 *     TEST(a_name)                       // a static function; registers itself
 *     {
 *         CHECK(n == 3);                 // prints file:line and the expression when it does not hold, and goes on
 *         if (!CHECK(p != NULL)) return; // every CHECK_… returns whether it held
 *         CHECK_INT(count(p), 3);        // prints both values
 *     }
 *
 *     TEST_MAIN()                        // runs all, in order; arguments: only tests whose names contain one of them
 *
 * Each test's name is printed before it runs, so that a crash names its test. The last line is "N passed, N failed" (and
 * ", N skipped"); the exit status is 0 only if none failed and at least one ran. CHECKs may be used from several threads.
 */
#ifndef CT_TEST_H
#define CT_TEST_H

#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef struct test_case {
    const char *name;
    void (*run)(void);
    struct test_case *next;
} test_case;

static test_case *test_first, **test_last = &test_first;
static atomic_int test_failures; /* of the running test */
static char test_skip_reason[160];

enum { TEST_MAX_REPORTS = 20 }; /* failures that one test prints; the rest is counted only */

/* ---- registration ---- */

#define TEST(name_)                                                                          \
    static void test_run_##name_(void);                                                      \
    static test_case test_case_##name_ = {#name_, test_run_##name_, NULL};                   \
    __attribute__((constructor)) static void test_register_##name_(void)                     \
    {                                                                                        \
        *test_last = &test_case_##name_;                                                     \
        test_last = &test_case_##name_.next;                                                 \
    }                                                                                        \
    static void test_run_##name_(void)

#define TEST_MAIN() \
    int main(int argc, char **argv) { return test_main(argc, argv); }

static inline int test_main(int argc, char **argv)
{
    int n_passed = 0, n_failed = 0, n_skipped = 0;
    for (const test_case *t = test_first; t != NULL; t = t->next) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc; i++) wanted = wanted || strstr(t->name, argv[i]) != NULL;
        if (!wanted) continue;
        struct timespec from, to;
        printf("%-48s ", t->name);
        fflush(stdout);
        atomic_store(&test_failures, 0);
        test_skip_reason[0] = '\0';
        clock_gettime(CLOCK_MONOTONIC, &from);
        t->run();
        clock_gettime(CLOCK_MONOTONIC, &to);
        int failures = atomic_load(&test_failures);
        if (failures > 0) {
            n_failed++;
            printf("%-48s FAILED (%d)\n", t->name, failures);
        } else if (test_skip_reason[0] != '\0') {
            n_skipped++;
            printf("skipped: %s\n", test_skip_reason);
        } else {
            n_passed++;
            printf("ok %7.0f ms\n", (double)(to.tv_sec - from.tv_sec) * 1e3 + (double)(to.tv_nsec - from.tv_nsec) * 1e-6);
        }
        fflush(stdout);
    }
    printf("%d passed, %d failed", n_passed, n_failed);
    if (n_skipped > 0) printf(", %d skipped", n_skipped);
    printf("\n");
    if (n_passed + n_failed + n_skipped == 0) printf("no test has such a name\n");
    return n_failed > 0 || n_passed + n_skipped == 0;
}

/* ---- checks ---- */

__attribute__((format(printf, 4, 5))) static inline bool test_report(bool ok, const char *file, int line, const char *format,
                                                                       ...)
{
    if (ok) return true;
    int before = atomic_fetch_add(&test_failures, 1);
    if (before < TEST_MAX_REPORTS) {
        char message[1024];
        va_list args;
        va_start(args, format);
        vsnprintf(message, sizeof message, format, args);
        va_end(args);
        printf("%s%s:%d: %s\n", before == 0 ? "\n" : "", file, line, message);
    } else if (before == TEST_MAX_REPORTS)
        printf("… further failures of this test are only counted\n");
    return false;
}

static inline bool test_int(intmax_t got, intmax_t want, const char *what, const char *file, int line)
{
    return test_report(got == want, file, line, "%s is %jd, not %jd", what, got, want);
}

static inline bool test_uint(uintmax_t got, uintmax_t want, const char *what, const char *file, int line)
{
    return test_report(got == want, file, line, "%s is %ju (0x%jx), not %ju (0x%jx)", what, got, got, want, want);
}

static inline bool test_str(const char *got, const char *want, const char *what, const char *file, int line)
{
    bool ok = got == want || (got != NULL && want != NULL && strcmp(got, want) == 0);
    return test_report(ok, file, line, "%s is \"%s\", not \"%s\"", what, got ? got : "(null)", want ? want : "(null)");
}

static inline bool test_contains(const char *got, const char *part, const char *what, const char *file, int line)
{
    return test_report(got != NULL && strstr(got, part) != NULL, file, line, "%s is \"%s\", without \"%s\"", what,
                       got ? got : "(null)", part);
}

static inline bool test_float(double got, double want, const char *what, const char *file, int line)
{
    return test_report(got == want || (isnan(got) && isnan(want)), file, line, "%s is %.9g (%a), not %.9g (%a)", what, got, got,
                       want, want);
}

static inline bool test_near(double got, double want, double tolerance, const char *what, const char *file, int line)
{
    return test_report(got == want || fabs(got - want) <= tolerance, file, line, "%s is %.9g, not %.9g within %g (off by %g)",
                       what, got, want, tolerance, fabs(got - want));
}

static inline bool test_mem(const void *got, const void *want, size_t n_bytes, const char *what, const char *file, int line)
{
    const unsigned char *g = (const unsigned char *)got, *w = (const unsigned char *)want;
    for (size_t i = 0; i < n_bytes; i++)
        if (g[i] != w[i])
            return test_report(false, file, line, "%s: byte %zu of %zu is 0x%02x, not 0x%02x", what, i, n_bytes, g[i], w[i]);
    return true;
}

#define CHECK(cond) test_report((cond), __FILE__, __LINE__, "%s", #cond " does not hold")
/* CHECK_MSG(cond, format, …): a message of one's own. */
#define CHECK_MSG(cond, ...) test_report((cond), __FILE__, __LINE__, __VA_ARGS__)
#define CHECK_INT(got, want) test_int((intmax_t)(got), (intmax_t)(want), #got, __FILE__, __LINE__)
#define CHECK_UINT(got, want) test_uint((uintmax_t)(got), (uintmax_t)(want), #got, __FILE__, __LINE__)
#define CHECK_STR(got, want) test_str((got), (want), #got, __FILE__, __LINE__)
#define CHECK_CONTAINS(got, part) test_contains((got), (part), #got, __FILE__, __LINE__)
#define CHECK_FLOAT(got, want) test_float((double)(got), (double)(want), #got, __FILE__, __LINE__) /* equal, or both NaN */
#define CHECK_NEAR(got, want, tolerance) \
    test_near((double)(got), (double)(want), (double)(tolerance), #got, __FILE__, __LINE__)
#define CHECK_MEM(got, want, n_bytes) test_mem((got), (want), (n_bytes), #got, __FILE__, __LINE__)

/* Ends the test without a verdict, with the reason why it cannot run here: SKIP("this CPU lacks %s", name). */
#define SKIP(...)                                                               \
    do {                                                                        \
        snprintf(test_skip_reason, sizeof test_skip_reason, __VA_ARGS__);       \
        return;                                                                 \
    } while (0)

/* ---- helpers ---- */

/* Deterministic random numbers: splitmix64 (S. Vigna). Start with any seed: test_rng rng = {1}; */
typedef struct test_rng {
    uint64_t state;
} test_rng;

static inline uint64_t test_u64(test_rng *rng)
{
    uint64_t z = rng->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* An integer in [0, n), n > 0. */
static inline size_t test_below(test_rng *rng, size_t n) { return (size_t)(test_u64(rng) % n); }

/* A float in [-1, 1). */
static inline float test_uniform(test_rng *rng) { return (float)((double)(test_u64(rng) >> 11) * 0x1p-52 - 1.0); }

/* Memory between two unreadable pages, so that one byte too far faults. Contents: 0xA5. Never NULL: a test program without
 * memory exits. */
typedef struct test_guarded {
    uint8_t *data;
    void *map;
    size_t map_bytes;
} test_guarded;

static inline test_guarded test_guarded_map(size_t n_bytes, bool at_front)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), usable = (n_bytes + page - 1) / page * page;
    uint8_t *map = (uint8_t *)mmap(NULL, usable + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool ok = (void *)map != MAP_FAILED && mprotect(map, page, PROT_NONE) == 0;
    if (!ok || mprotect(map + page + usable, page, PROT_NONE) != 0) {
        fprintf(stderr, "test: no memory for %zu guarded bytes\n", n_bytes);
        exit(2);
    }
    memset(map + page, 0xA5, usable);
    return (test_guarded){map + page + (at_front ? 0 : usable - n_bytes), map, usable + 2 * page};
}

/* The last byte is the last before an unreadable page (the first has any alignment). */
static inline test_guarded test_guarded_alloc(size_t n_bytes) { return test_guarded_map(n_bytes, false); }

/* The first byte is the first behind an unreadable page. */
static inline test_guarded test_guarded_front(size_t n_bytes) { return test_guarded_map(n_bytes, true); }

static inline void test_guarded_free(test_guarded *g)
{
    if (g->map != NULL) munmap(g->map, g->map_bytes);
    *g = (test_guarded){NULL, NULL, 0};
}

#endif
