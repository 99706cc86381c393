/* cpu.c: what this CPU can do, and how many of them a process should use. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/core.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sched.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

static ct_cpu cpu;
static char feature_names[256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* ---- features ------------------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)

/* Register state that the operating system saves on a context switch (XCR0). Only valid if CPUID says OSXSAVE. */
static uint64_t xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool bit(uint32_t word, int index) { return (word >> index & 1) != 0; }

/* Bit numbers: Intel SDM volume 2, CPUID leaves 1 and 7, and volume 1, chapter 13 for XCR0. */
static void detect_features(void)
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) return; /* no OSXSAVE */
    uint64_t saved = xcr0();
    bool ymm = (saved & 0x6) == 0x6, zmm = ymm && (saved & 0xe0) == 0xe0, tiles = (saved & 0x60000) == 0x60000;
    bool avx = ymm && bit(c, 28);
    cpu.fma = avx && bit(c, 12);
    cpu.f16c = avx && bit(c, 29);

    uint32_t a7, b7, c7, d7;
    if (!__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7)) return;
    cpu.avx2 = avx && bit(b7, 5) && bit(b7, 8); /* with BMI2: the AVX2 kernels are compiled for both */
    cpu.avx512 = zmm && cpu.avx2 && bit(b7, 16) && bit(b7, 17) && bit(b7, 30) && bit(b7, 31);
    cpu.avx512_vbmi = cpu.avx512 && bit(c7, 1);
    cpu.avx512_vnni = cpu.avx512 && bit(c7, 11);
    cpu.amx_int8 = tiles && bit(d7, 24) && bit(d7, 25);

    /* Sub-leaf 1 exists if sub-leaf 0 says so in EAX; otherwise CPUID may answer anything. */
    if (a7 < 1 || !__get_cpuid_count(7, 1, &a7, &b7, &c7, &d7)) return;
    cpu.avx_vnni = cpu.avx2 && bit(a7, 4);
    cpu.avx512_bf16 = cpu.avx512 && bit(a7, 5);
}

#elif defined(__aarch64__) && defined(__linux__)

/* Bits of the kernel's hwcap words (Documentation/arch/arm64/elf_hwcaps); older C libraries do not name them all. */
static void detect_features(void)
{
    unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
    cpu.neon = (hwcap >> 1 & 1) != 0;
    cpu.dotprod = (hwcap >> 20 & 1) != 0;
    cpu.i8mm = (hwcap2 >> 13 & 1) != 0;
}

#elif defined(__aarch64__) && defined(__APPLE__)

static bool sysctl_flag(const char *name)
{
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0;
}

static void detect_features(void)
{
    cpu.neon = true; /* part of the platform */
    cpu.dotprod = sysctl_flag("hw.optional.arm.FEAT_DotProd");
    cpu.i8mm = sysctl_flag("hw.optional.arm.FEAT_I8MM");
}

#else
static void detect_features(void) {}
#endif

static void detect(void)
{
    detect_features();
    const struct { bool has; const char *name; } rows[] = {
        {cpu.avx2, "avx2"}, {cpu.fma, "fma"}, {cpu.f16c, "f16c"}, {cpu.avx_vnni, "avx_vnni"}, {cpu.avx512, "avx512"},
        {cpu.avx512_vnni, "avx512_vnni"}, {cpu.avx512_vbmi, "avx512_vbmi"}, {cpu.avx512_bf16, "avx512_bf16"},
        {cpu.amx_int8, "amx_int8"}, {cpu.neon, "neon"}, {cpu.dotprod, "dotprod"}, {cpu.i8mm, "i8mm"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (!rows[i].has) continue;
        if (feature_names[0] != '\0') strcat(feature_names, " ");
        strcat(feature_names, rows[i].name);
    }
}

const ct_cpu *ct_cpu_detect(void)
{
    pthread_once(&once, detect);
    return &cpu;
}

const char *cactus_cpu_features(void)
{
    pthread_once(&once, detect);
    return feature_names;
}

/* ---- how many CPUs -------------------------------------------------------------------------------------------------- */

#if defined(__linux__)

enum { MAX_CPUS = 1 << 16 };

/* CPUs this process may run on. Where they differ in capacity, those with at least half of the largest: on a phone with
 * prime, big and little cores that leaves out the little ones, which would make the others wait. 0: unknown. */
static long usable_cpus(void)
{
    for (size_t n_cpus = 1024; n_cpus <= MAX_CPUS; n_cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC(n_cpus);
        size_t set_bytes = CPU_ALLOC_SIZE(n_cpus);
        if (set == NULL) return 0;
        if (sched_getaffinity(0, set_bytes, set) != 0) { /* the kernel's mask is larger than ours */
            CPU_FREE(set);
            continue;
        }
        long count = 0, n_read = 0, largest = 0;
        long *capacity = calloc(n_cpus, sizeof *capacity);
        for (size_t i = 0; i < n_cpus; i++) {
            if (!CPU_ISSET_S(i, set_bytes, set)) continue;
            count++;
            if (capacity == NULL || n_read + 1 < count) continue; /* one was unreadable: so are the others */
            char path[80];
            snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%zu/cpu_capacity", i);
            FILE *file = fopen(path, "re");
            if (file == NULL) continue;
            if (fscanf(file, "%9ld", &capacity[n_read]) == 1 && capacity[n_read] > 0) {
                if (capacity[n_read] > largest) largest = capacity[n_read];
                n_read++;
            }
            fclose(file);
        }
        if (n_read == count) {
            long n_big = 0;
            for (long i = 0; i < count; i++) n_big += capacity[i] * 2 >= largest;
            count = n_big;
        }
        free(capacity);
        CPU_FREE(set);
        return count;
    }
    return 0;
}

/* CPUs that the quota in DIRECTORY/cpu.max ("QUOTA PERIOD" or "max PERIOD", microseconds) amounts to, rounded up; 0: none. */
static long quota_of(const char *directory)
{
    char path[4200];
    long long quota = 0, period = 0;
    snprintf(path, sizeof path, "%s/cpu.max", directory);
    FILE *file = fopen(path, "re");
    if (file == NULL) return 0;
    int n_read = fscanf(file, "%15lld %15lld", &quota, &period);
    fclose(file);
    if (n_read != 2 || quota <= 0 || period <= 0) return 0;
    long long cpus = (quota + period - 1) / period;
    return cpus > MAX_CPUS ? MAX_CPUS : (long)cpus;
}

/* The smallest quota of this process's cgroup (version 2) and its ancestors; 0: none. */
static long cgroup_quota(void)
{
    char line[4096] = "", directory[4160];
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL) return 0;
    bool found = false;
    while (!found && fgets(line, sizeof line, file) != NULL) found = strncmp(line, "0::/", 4) == 0;
    fclose(file);
    if (!found) return 0;
    line[strcspn(line, "\n")] = '\0';
    snprintf(directory, sizeof directory, "/sys/fs/cgroup%s", line + 3);
    size_t root = strlen("/sys/fs/cgroup");
    for (long smallest = 0;;) {
        long quota = quota_of(directory);
        if (quota > 0 && (smallest == 0 || quota < smallest)) smallest = quota;
        if (strlen(directory) <= root) return smallest;
        *strrchr(directory, '/') = '\0';
    }
}

#elif defined(__APPLE__)

static long usable_cpus(void)
{
    int value = 0;
    size_t size = sizeof value; /* perflevel0: the fastest kind of core */
    if (sysctlbyname("hw.perflevel0.logicalcpu", &value, &size, NULL, 0) == 0 && value > 0) return value;
    return sysconf(_SC_NPROCESSORS_ONLN);
}

static long cgroup_quota(void) { return 0; }

#else
static long usable_cpus(void) { return sysconf(_SC_NPROCESSORS_ONLN); }
static long cgroup_quota(void) { return 0; }
#endif

int32_t cactus_default_threads(void)
{
    long count = usable_cpus(), quota = cgroup_quota();
    if (count < 1) count = sysconf(_SC_NPROCESSORS_ONLN);
    if (quota > 0 && quota < count) count = quota;
    return count < 1 ? 1 : count > CT_MAX_THREADS ? CT_MAX_THREADS : (int32_t)count;
}
