/* limits.c: what this machine can do at most, to hold speeds of inference against.
 *
 *   limits read FILE THREADS    bytes/s of reading a mapped file again and again: 4 streams per thread, prefetched
 *   limits vector THREADS       int8 multiply-adds/s from registers, by the instruction named
 *   limits matrix THREADS       the same on matrix hardware (AMX, i8mm); exit status 3 where there is none
 *
 * Prints {"rate": per second, "by": "instruction"}: the best of several passes, all threads together. A pass is timed from when
 * the first thread begins to when the last is done. The instruction set is the compiler's target (-march=native): a benchmark is
 * compiled where it runs, unlike the engine.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#if defined(__AMX_INT8__) && defined(__linux__)
#include <sys/syscall.h>
#endif

enum { MIN_PASSES = 3, MAX_THREADS = 256, N_SUMS = 12 };

static const double seconds_in_all = 0.6; /* a pass of a small file is so short that other work spoils most of them */

typedef struct thread_share {
    const uint8_t *bytes; /* of the file, for `read` */
    size_t n_bytes;
    volatile int64_t sink; /* what was computed, so that it must be */
    double start;          /* of this pass, seconds */
} thread_share;

/* Work of one thread in one pass; returns how many units (bytes, multiply-adds) it was. */
typedef double pass_fn(thread_share *share);

/* ---- reading ------------------------------------------------------------------------------------------------------ */

#if defined(__AVX512F__)
typedef __m512i line;
#define LINE_ZERO() _mm512_setzero_si512()
#define LINE_ADD(sum, at) _mm512_xor_si512(sum, _mm512_loadu_si512(at))
#elif defined(__AVX2__)
typedef __m256i line;
#define LINE_ZERO() _mm256_setzero_si256()
#define LINE_ADD(sum, at) \
    _mm256_xor_si256(sum, _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(at)), _mm256_loadu_si256((const __m256i *)((at) + 32))))
#else
typedef struct line { uint64_t a, b; } line;
static inline line line_add(line sum, const uint8_t *at) {
    uint64_t w[8];
    memcpy(w, at, sizeof w);
    return (line){sum.a ^ w[0] ^ w[2] ^ w[4] ^ w[6], sum.b ^ w[1] ^ w[3] ^ w[5] ^ w[7]};
}
#define LINE_ZERO() ((line){0, 0})
#define LINE_ADD(sum, at) line_add(sum, at)
#endif

static double pass_read(thread_share *share) {
    enum { AHEAD = 2048 }; /* bytes; a prefetch beyond the mapping does nothing */
    const size_t n = share->n_bytes / 4 / 64 * 64;
    const uint8_t *p = share->bytes;
    line s0 = LINE_ZERO(), s1 = s0, s2 = s0, s3 = s0;
    for (size_t i = 0; i < n; i += 64) {
        __builtin_prefetch(p + i + AHEAD);
        __builtin_prefetch(p + n + i + AHEAD);
        __builtin_prefetch(p + 2 * n + i + AHEAD);
        __builtin_prefetch(p + 3 * n + i + AHEAD);
        s0 = LINE_ADD(s0, p + i);
        s1 = LINE_ADD(s1, p + n + i);
        s2 = LINE_ADD(s2, p + 2 * n + i);
        s3 = LINE_ADD(s3, p + 3 * n + i);
    }
    line all[4] = {s0, s1, s2, s3};
    int64_t words[sizeof all / 8], sum = 0;
    memcpy(words, all, sizeof all);
    for (size_t i = 0; i < sizeof all / 8; i++) sum ^= words[i];
    share->sink = sum;
    return (double)(4 * n);
}

/* ---- multiply-adds from registers --------------------------------------------------------------------------------- */

/* Each set: the type of a sum, its zero, STEP(sum) = one multiply-add of constant operands, MACS of a step. */
#if defined(__AVX512VNNI__)
#define VECTOR_BY "vpdpbusd, 512 bits"
typedef __m512i vec;
#define DECLARE const vec a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5)
#define ZERO() _mm512_setzero_si512()
#define STEP(sum) _mm512_dpbusd_epi32(sum, a, b)
#define OPAQUE "+v"
enum { MACS = 64 };
#elif defined(__AVXVNNI__)
#define VECTOR_BY "vpdpbusd, 256 bits"
typedef __m256i vec;
#define DECLARE const vec a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5)
#define ZERO() _mm256_setzero_si256()
#define STEP(sum) _mm256_dpbusd_avx_epi32(sum, a, b)
#define OPAQUE "+x"
enum { MACS = 32 };
#elif defined(__AVX2__)
/* Sums of pairs in 16 bits, of fours in 32 bits, then the addition: three instructions where VNNI has one. The operand is made
 * to look as if it changed, or the products would be computed once. */
#define VECTOR_BY "vpmaddubsw, vpmaddwd and vpaddd, 256 bits"
typedef __m256i vec;
#define DECLARE vec a = _mm256_set1_epi8(3); const vec b = _mm256_set1_epi8(5), one = _mm256_set1_epi16(1)
#define ZERO() _mm256_setzero_si256()
#define STEP(sum) (__extension__({ __asm__("" : "+x"(a)); \
    _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), one)); }))
#define OPAQUE "+x"
enum { MACS = 32 };
#elif defined(__SSE2__)
#define VECTOR_BY "pmaddwd and paddd, 128 bits"
typedef __m128i vec;
#define DECLARE vec a = _mm_set1_epi16(3); const vec b = _mm_set1_epi16(5)
#define ZERO() _mm_setzero_si128()
#define STEP(sum) (__extension__({ __asm__("" : "+x"(a)); _mm_add_epi32(sum, _mm_madd_epi16(a, b)); }))
#define OPAQUE "+x"
enum { MACS = 8 };
#elif defined(__ARM_FEATURE_DOTPROD)
#define VECTOR_BY "sdot, 128 bits"
typedef int32x4_t vec;
#define DECLARE const int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5)
#define ZERO() vdupq_n_s32(0)
#define STEP(sum) vdotq_s32(sum, a, b)
#define OPAQUE "+w"
enum { MACS = 16 };
#elif defined(__aarch64__)
#define VECTOR_BY "smull and sadalp, 128 bits"
typedef int32x4_t vec;
#define DECLARE int8x8_t a = vdup_n_s8(3); const int8x8_t b = vdup_n_s8(5)
#define ZERO() vdupq_n_s32(0)
#define STEP(sum) (__extension__({ __asm__("" : "+w"(a)); vpadalq_s16(sum, vmull_s8(a, b)); }))
#define OPAQUE "+w"
enum { MACS = 8 };
#else
#define VECTOR_BY "plain C"
typedef uint32_t vec;
#define DECLARE uint32_t a = 3; const uint32_t b = 5
#define ZERO() 0u
#define STEP(sum) (__extension__({ __asm__("" : "+r"(a)); (sum) + a * b; }))
#define OPAQUE "+r"
enum { MACS = 1 };
#endif

/* Named sums rather than an array, which gcc would keep in memory. The empty asm sees to it that no two sums become one and that
 * no step is left out. */
#define EACH_SUM(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#define SUM_BEGIN(i) vec sum##i = ZERO();
#define SUM_STEP(i) sum##i = STEP(sum##i); __asm__ volatile("" : OPAQUE(sum##i));
#define SUM_OUT(i) memcpy(words + (i) * (sizeof(vec) / 4), &sum##i, sizeof(vec));

static double pass_vector(thread_share *share) {
    enum { N_STEPS = 1000000 };
    DECLARE;
    EACH_SUM(SUM_BEGIN)
    for (int step = 0; step < N_STEPS; step++) { EACH_SUM(SUM_STEP) }
    int32_t words[N_SUMS * sizeof(vec) / 4];
    EACH_SUM(SUM_OUT)
    int64_t sum = 0;
    for (size_t i = 0; i < sizeof words / 4; i++) sum += words[i];
    share->sink = sum;
    return (double)N_STEPS * N_SUMS * MACS;
}

/* ---- matrix hardware ---------------------------------------------------------------------------------------------- */

#if defined(__AMX_INT8__) && defined(__linux__)
#define MATRIX_BY "tdpbusd, tiles of 16x64"

/* Linux gives a process its tile registers on request; a virtual machine may announce AMX and refuse. */
static int matrix_ready(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static double pass_matrix(thread_share *share) {
    enum { N_STEPS = 200000, N_TILES = 6 };
    struct { /* Intel SDM, "TILECFG": palette, start row, 14 reserved, bytes per row of 16 tiles, rows of 16 tiles */
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t n_rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.row_bytes[i] = 64, config.n_rows[i] = 16;
    uint8_t ones[16 * 64];
    int32_t out[16 * 16];
    memset(ones, 1, sizeof ones);
    _tile_loadconfig(&config);
    _tile_loadd(6, ones, 64);
    _tile_loadd(7, ones, 64);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4); _tile_zero(5);
    for (int i = 0; i < N_STEPS; i++) {
        _tile_dpbusd(0, 6, 7); _tile_dpbusd(1, 6, 7); _tile_dpbusd(2, 6, 7);
        _tile_dpbusd(3, 6, 7); _tile_dpbusd(4, 6, 7); _tile_dpbusd(5, 6, 7);
    }
    _tile_stored(0, out, 64);
    _tile_release();
    share->sink = out[0];
    return (double)N_STEPS * N_TILES * 16 * 16 * 64;
}
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#define MATRIX_BY "smmla, 2x8 by 8x2"
static int matrix_ready(void) { return 1; }

static double pass_matrix(thread_share *share) {
    enum { N_STEPS = 1000000 };
    const int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5);
    int64_t sum = 0;
#define MATRIX_BEGIN(i) int32x4_t sum##i = vdupq_n_s32(0);
#define MATRIX_STEP(i) sum##i = vmmlaq_s32(sum##i, a, b); __asm__ volatile("" : "+w"(sum##i));
#define MATRIX_OUT(i) sum += vaddvq_s32(sum##i);
    EACH_SUM(MATRIX_BEGIN)
    for (int step = 0; step < N_STEPS; step++) { EACH_SUM(MATRIX_STEP) }
    EACH_SUM(MATRIX_OUT)
    share->sink = sum;
    return (double)N_STEPS * N_SUMS * 32;
}
#else
#define MATRIX_BY "none"
static int matrix_ready(void) { return 0; }
static double pass_matrix(thread_share *share) { (void)share; return 0; }
#endif

/* ---- passes on all threads ---------------------------------------------------------------------------------------- */

static struct {
    pass_fn *pass;
    int n_threads;
    thread_share shares[MAX_THREADS];
    atomic_int n_arrived; /* counts up through all passes: the n-th meeting is over when n * n_threads have come */
    atomic_int done;      /* thread 0 has seen enough */
    double best;          /* units per second */
} run;

static void meet(int meeting) {
    atomic_fetch_add(&run.n_arrived, 1);
    for (int spins = 0; atomic_load(&run.n_arrived) < meeting * run.n_threads; spins++)
        if (spins > 10000) sched_yield();
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *thread_main(void *arg) {
    thread_share *share = arg;
    const int first = share == run.shares;
    const double begin = seconds();
    for (int meeting = 0, pass = 0;; pass++) {
        if (first) atomic_store(&run.done, pass >= MIN_PASSES && seconds() - begin > seconds_in_all);
        meet(++meeting);
        if (atomic_load(&run.done)) break;
        share->start = seconds();
        const double units = run.pass(share);
        meet(++meeting);
        if (first) {
            const double end = seconds();
            double start = share->start;
            for (int i = 1; i < run.n_threads; i++)
                if (run.shares[i].start < start) start = run.shares[i].start;
            const double rate = units * run.n_threads / (end - start); /* shares are equal */
            if (rate > run.best) run.best = rate;
        }
    }
    return NULL;
}

static int fail(const char *what) {
    fprintf(stderr, "limits: %s\n", what);
    return 2;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "", *by = "loads";
    const int read = strcmp(mode, "read") == 0;
    if (argc != (read ? 4 : 3)) return fail("usage: limits read FILE THREADS | limits vector THREADS | limits matrix THREADS");
    run.n_threads = atoi(argv[argc - 1]);
    if (run.n_threads < 1 || run.n_threads > MAX_THREADS) return fail("1 to 256 threads");
    if (read) {
        const int file = open(argv[2], O_RDONLY);
        struct stat status;
        if (file < 0 || fstat(file, &status) != 0) return fail("the file cannot be opened");
        const size_t n_each = (size_t)status.st_size / (size_t)run.n_threads / 64 * 64;
        if (n_each < 4096) return fail("the file is too small");
        const uint8_t *bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_SHARED, file, 0);
        if (bytes == MAP_FAILED) return fail("the file cannot be mapped");
        for (int i = 0; i < run.n_threads; i++) run.shares[i] = (thread_share){.bytes = bytes + (size_t)i * n_each, .n_bytes = n_each};
        run.pass = pass_read;
    } else if (strcmp(mode, "vector") == 0) {
        run.pass = pass_vector;
        by = VECTOR_BY;
    } else if (strcmp(mode, "matrix") == 0) {
        if (!matrix_ready()) return 3;
        run.pass = pass_matrix;
        by = MATRIX_BY;
    } else {
        return fail("the first argument is read, vector or matrix");
    }
    pthread_t threads[MAX_THREADS];
    for (int i = 1; i < run.n_threads; i++)
        if (pthread_create(&threads[i], NULL, thread_main, &run.shares[i]) != 0) return fail("a thread cannot be started");
    thread_main(&run.shares[0]);
    for (int i = 1; i < run.n_threads; i++) pthread_join(threads[i], NULL);
    printf("{\"rate\": %.6g, \"by\": \"%s\"}\n", run.best, by);
    return 0;
}
