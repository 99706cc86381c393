/* file.c: read-only maps of regular files. */
#include <errno.h>
#include <fcntl.h>
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
