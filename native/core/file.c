/* file.c: read-only maps of regular files, and new files that appear whole or not at all. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/core.h"

/* errno as words: strerror is not safe in threads, and strerror_r differs between C libraries. */
static const char *reason(int number, char scratch[32])
{
    switch (number) {
    case ENOENT: return "no such file";
    case ENOTDIR: return "a part of its path is not a directory";
    case EACCES: case EPERM: return "permission denied";
    case EISDIR: return "it is a directory";
    case ELOOP: return "too many symbolic links";
    case ENAMETOOLONG: return "its name is too long";
    case EMFILE: case ENFILE: return "too many open files";
    case ENOMEM: return "out of memory";
    case EOVERFLOW: case EFBIG: return "it is too large for this machine";
    case EIO: return "input/output error";
    case EEXIST: return "it exists already";
    case ENOSPC: return "no space left on the device";
    case EROFS: return "the file system is read-only";
#if defined(EDQUOT)
    case EDQUOT: return "the disk quota is used up";
#endif
    default: snprintf(scratch, 32, "system error %d", number); return scratch;
    }
}

/* A path that would fill the whole message keeps its end, cut between characters: the file's name is there. */
static const char *shown(const char *path)
{
    size_t n = strlen(path);
    if (n <= 800) return path;
    path += n - 800;
    while (((unsigned char)*path & 0xc0) == 0x80) path++;
    return path;
}

static cactus_status map_open_file(int fd, const char *path, ct_file *out, cactus_error *err)
{
    char scratch[32];
    struct stat st;
    if (fstat(fd, &st) != 0)
        return ct_fail(err, CACTUS_ERROR_IO, "cannot read %s: %s", shown(path), reason(errno, scratch));
    if (S_ISDIR(st.st_mode)) return ct_fail(err, CACTUS_ERROR_IO, "cannot read %s: it is a directory", shown(path));
    if (!S_ISREG(st.st_mode)) return ct_fail(err, CACTUS_ERROR_IO, "cannot read %s: it is not a regular file", shown(path));
    if (st.st_size <= 0) return CACTUS_OK;
    if ((uint64_t)st.st_size > PTRDIFF_MAX)
        return ct_fail(err, CACTUS_ERROR_IO, "cannot map %s: it is too large for this machine", shown(path));
    void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return ct_fail(err, CACTUS_ERROR_IO, "cannot map %s: %s", shown(path), reason(errno, scratch));
    *out = (ct_file){.data = data, .size = (size_t)st.st_size};
    return CACTUS_OK;
}

cactus_status ct_file_map(const char *path, ct_file *out, cactus_error *err)
{
    char scratch[32];
    *out = (ct_file){0};
    /* O_NONBLOCK: opening a named pipe must not wait for a writer. It changes nothing for regular files. */
    int fd;
    do fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) return ct_fail(err, CACTUS_ERROR_IO, "cannot open %s: %s", shown(path), reason(errno, scratch));
    cactus_status status = map_open_file(fd, path, out, err);
    (void)close(fd); /* the map stays */
    return status;
}

void ct_file_unmap(ct_file *file)
{
    union { const uint8_t *in; void *out; } data = {.in = file->data}; /* munmap wants it without const */
    if (data.out != NULL) (void)munmap(data.out, file->size);
    *file = (ct_file){0};
}

/* ---- new files ------------------------------------------------------------------------------------------------------ */

struct ct_new_file {
    char *path, *temporary; /* in the same directory */
    int fd;
    bool overwrite;
};

/* What stands at `path` and must not be replaced; NULL when the new file may go there. */
static const char *in_the_way(const char *path, bool overwrite)
{
    struct stat st;
    if (lstat(path, &st) != 0) return NULL;
    if (S_ISDIR(st.st_mode)) return "it is a directory";
    if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode)) return "it is not a regular file";
    return overwrite ? NULL : "it exists already";
}

static void free_new_file(ct_new_file *file)
{
    if (file->fd >= 0) (void)close(file->fd);
    ct_free(file->path);
    ct_free(file->temporary);
    ct_free(file);
}

cactus_status ct_new_file_open(const char *path, bool overwrite, bool private, ct_new_file **out, cactus_error *err)
{
    static atomic_uint counter;
    char scratch[32];
    size_t n = strlen(path);
    *out = NULL;
    const char *obstacle = n == 0 ? "its name is empty" : in_the_way(path, overwrite);
    if (obstacle != NULL) return ct_fail(err, CACTUS_ERROR_IO, "cannot write %s: %s", shown(path), obstacle);
    ct_new_file *file = ct_alloc(1, sizeof *file);
    if (file == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory to write %s", shown(path));
    *file = (ct_new_file){.path = ct_alloc(n + 1, 1), .temporary = ct_alloc(n + 48, 1), .fd = -1, .overwrite = overwrite};
    if (file->path == NULL || file->temporary == NULL) {
        free_new_file(file);
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory to write %s", shown(path));
    }
    memcpy(file->path, path, n + 1);
    do {
        snprintf(file->temporary, n + 48, "%s.%ld-%u.part", path, (long)getpid(), atomic_fetch_add(&counter, 1) + 1);
        file->fd = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, private ? 0600 : 0666);
    } while (file->fd < 0 && (errno == EEXIST || errno == EINTR));
    if (file->fd < 0) {
        int number = errno;
        free_new_file(file);
        return ct_fail(err, CACTUS_ERROR_IO, "cannot write %s: %s", shown(path), reason(number, scratch));
    }
    *out = file;
    return CACTUS_OK;
}

static cactus_status write_failed(const ct_new_file *file, int number, cactus_error *err)
{
    char scratch[32];
    return ct_fail(err, CACTUS_ERROR_IO, "cannot write %s: %s", shown(file->path), reason(number, scratch));
}

cactus_status ct_new_file_write(ct_new_file *file, const void *data, size_t n_bytes, cactus_error *err)
{
    const uint8_t *p = data;
    while (n_bytes > 0) {
        ssize_t n = write(file->fd, p, ct_min_size(n_bytes, (size_t)1 << 24));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return write_failed(file, errno, err);
        p += n;
        n_bytes -= (size_t)n;
    }
    return CACTUS_OK;
}

/* The name's entry in its directory reaches the disk too. Not every file system can be asked to; the file is whole anyway. */
static void sync_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    char *directory = ct_alloc(n + 2, 1);
    if (directory == NULL) return;
    memcpy(directory, n > 0 ? path : ".", n > 0 ? n : 1);
    int fd = open(directory, O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
    }
    ct_free(directory);
}

/* Gives the temporary file its name. Without `overwrite` a file that came up meanwhile stays: link() does not replace. */
static int settle(const ct_new_file *file)
{
    if (!file->overwrite) {
        if (link(file->temporary, file->path) == 0) return unlink(file->temporary) == 0 ? 0 : errno;
        if (errno == EEXIST || in_the_way(file->path, false) != NULL) return EEXIST;
    } /* else, or on a file system without links: */
    return rename(file->temporary, file->path) == 0 ? 0 : errno;
}

cactus_status ct_new_file_commit(ct_new_file *file, cactus_error *err)
{
    int number = fsync(file->fd) == 0 || errno == EINVAL || errno == ENOTSUP ? 0 : errno;
    if (close(file->fd) != 0 && number == 0 && errno != EINTR) number = errno;
    file->fd = -1;
    if (number == 0) number = settle(file);
    cactus_status status = number == 0 ? CACTUS_OK : write_failed(file, number, err);
    if (status == CACTUS_OK) sync_directory(file->path);
    else (void)unlink(file->temporary);
    free_new_file(file);
    return status;
}

void ct_new_file_abandon(ct_new_file *file)
{
    if (file == NULL) return;
    (void)unlink(file->temporary);
    free_new_file(file);
}

bool ct_same_file(const char *a, const char *b)
{
    struct stat st, other;
    return stat(a, &st) == 0 && stat(b, &other) == 0 && st.st_dev == other.st_dev && st.st_ino == other.st_ino;
}
