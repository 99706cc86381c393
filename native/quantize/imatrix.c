/* imatrix.c: reading importance matrices. Files are hostile: every length is compared with the bytes that are left. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gguf/internal.h"
#include "quantize/imatrix.h"

typedef struct entry {
    ct_str name;
    const uint8_t *sums, *counts; /* f32 at any alignment; counts NULL: means already */
    size_t n_sums, n_counts;
} entry;

struct ct_imatrix {
    ct_gguf *gguf; /* of the GGUF form */
    ct_file file;  /* of the older one */
    char label[4 * CT_LABEL_CHARS + 4];
    entry *entries; /* [n_entries] sorted by name */
    size_t n_entries;
    uint32_t n_chunks;
    ct_str dataset;
};

static float load_f32(const uint8_t *p)
{
    float v;
    memcpy(&v, p, sizeof v);
    return v;
}

static int compare_names(ct_str a, ct_str b)
{
    int order = memcmp(a.data, b.data, ct_min_size(a.size, b.size));
    return order != 0 ? order : (a.size > b.size) - (a.size < b.size);
}

static int compare_entries(const void *a, const void *b) { return compare_names(((const entry *)a)->name, ((const entry *)b)->name); }

static cactus_status check_entries(ct_imatrix *m, cactus_error *err)
{
    char shown[CT_SHOWN_BYTES];
    if (m->n_entries == 0) return ct_fail(err, CACTUS_ERROR_FORMAT, "%s: this importance matrix has no entries", m->label);
    qsort(m->entries, m->n_entries, sizeof *m->entries, compare_entries);
    for (size_t i = 0; i < m->n_entries; i++) {
        const entry *e = &m->entries[i];
        ct_gguf_printable(shown, e->name, CT_SHOWN_CHARS);
        if (i > 0 && compare_entries(e - 1, e) == 0)
            return ct_fail(err, CACTUS_ERROR_FORMAT, "%s: the importances of %s occur twice", m->label, shown);
        if (e->n_sums == 0 || (e->counts != NULL && (e->n_counts == 0 || e->n_sums % e->n_counts != 0)))
            return ct_fail(err, CACTUS_ERROR_FORMAT, "%s: the importances of %s are %zu sums for %zu counts", m->label, shown, e->n_sums,
                           e->n_counts);
        for (size_t k = 0; k < e->n_sums; k++) {
            float v = load_f32(e->sums + 4 * k);
            if (!(v >= 0 && v <= 3.4028235e38f))
                return ct_fail(err, CACTUS_ERROR_FORMAT, "%s: importance %zu of %s is %g; importances are finite and not negative",
                               m->label, k, shown, (double)v);
        }
    }
    return CACTUS_OK;
}

/* ---- GGUF ----------------------------------------------------------------------------------------------------------- */

static bool ends_with(ct_str name, const char *suffix, ct_str *front)
{
    size_t n = strlen(suffix);
    if (name.size <= n || memcmp(name.data + name.size - n, suffix, n) != 0) return false;
    *front = (ct_str){name.data, name.size - n};
    return true;
}

static cactus_status read_gguf(ct_imatrix *m, const char *path, cactus_error *err)
{
    static const char *const suffixes[] = {".in_sum2", ".counts"};
    char shown[CT_SHOWN_BYTES], other[CT_SHOWN_BYTES];
    bool found;
    cactus_status status = ct_gguf_open(path, &m->gguf, err);
    if (status == CACTUS_OK) status = ct_gguf_get_u32(m->gguf, "imatrix.chunk_count", &m->n_chunks, &found, err);
    if (status != CACTUS_OK) return status;
    const ct_gguf_kv *datasets = ct_gguf_find_kv(m->gguf, "imatrix.datasets");
    size_t offset = 0, n = ct_gguf_n_tensors(m->gguf);
    if (datasets != NULL && datasets->type == CT_GGUF_ARRAY && datasets->elem == CT_GGUF_STRING && datasets->count > 0)
        m->dataset = ct_gguf_array_next_str(datasets, &offset);
    m->entries = ct_alloc(n, sizeof *m->entries);
    if (m->entries == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "%s: no memory for its entries", m->label);
    for (size_t i = 0; i < n; i++) {
        const ct_gguf_tensor *t = ct_gguf_tensor_at(m->gguf, i);
        ct_str name;
        ct_gguf_printable(shown, t->name, CT_SHOWN_CHARS);
        int kind = ends_with(t->name, suffixes[0], &name) ? 0 : ends_with(t->name, suffixes[1], &name) ? 1 : 2;
        if (kind == 2)
            return ct_fail(err, CACTUS_ERROR_FORMAT, "%s: this is no importance matrix: its tensor %s is neither ….in_sum2 nor ….counts",
                           m->label, shown);
        if (t->type != CT_F32)
            return ct_fail(err, CACTUS_ERROR_FORMAT, "%s: the tensor %s is %s, not F32", m->label, shown, t->info->name);
        char partner_name[512]; /* names have at most 256 bytes */
        memcpy(partner_name, name.data, name.size);
        memcpy(partner_name + name.size, suffixes[1 - kind], strlen(suffixes[1 - kind]) + 1);
        const ct_gguf_tensor *partner = ct_gguf_find_tensor(m->gguf, partner_name);
        if (partner == NULL || partner->type != CT_F32)
            return ct_fail(err, CACTUS_ERROR_FORMAT, "%s: the tensor %s has no partner %s of type F32", m->label, shown,
                           ct_gguf_printable(other, (ct_str){partner_name, strlen(partner_name)}, CT_SHOWN_CHARS));
        if (kind == 0)
            m->entries[m->n_entries++] = (entry){name, t->data, partner->data, t->n_bytes / 4, partner->n_bytes / 4};
    }
    return CACTUS_OK;
}

/* ---- the older form ------------------------------------------------------------------------------------------------- */

/* i32 n_entries; each: i32 length, name, i32 n_calls, i32 n_values, f32 values (sums of means over the calls); then perhaps
 * i32 n_chunks, i32 length, name of the data set */

typedef struct cursor {
    const uint8_t *p;
    size_t left;
} cursor;

static const uint8_t *take(cursor *c, size_t n_bytes)
{
    const uint8_t *p = c->p;
    if (n_bytes > c->left) return NULL;
    c->p += n_bytes;
    c->left -= n_bytes;
    return p;
}

/* A number in [0, INT32_MAX]; -1 where there is none. */
static int64_t take_i32(cursor *c)
{
    int32_t v;
    const uint8_t *p = take(c, sizeof v);
    if (p == NULL) return -1;
    memcpy(&v, p, sizeof v);
    return v < 0 ? -1 : v;
}

static cactus_status read_older(ct_imatrix *m, cactus_error *err)
{
    cursor c = {m->file.data, m->file.size};
    int64_t n_entries = take_i32(&c);
    if (n_entries < 1 || (uint64_t)n_entries > c.left / 12)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "%s: this is no importance matrix, neither GGUF nor the older .dat", m->label);
    m->entries = ct_alloc((size_t)n_entries, sizeof *m->entries);
    if (m->entries == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "%s: no memory for its entries", m->label);
    for (int64_t i = 0; i < n_entries; i++) {
        entry e = {0};
        int64_t length = take_i32(&c);
        const uint8_t *name = length < 0 ? NULL : take(&c, (size_t)length);
        if (name != NULL) e.name = ct_str_of(name, (size_t)length);
        int64_t n_calls = take_i32(&c), n_values = take_i32(&c);
        if (n_values >= 0) e.sums = take(&c, 4 * (size_t)n_values);
        if (name == NULL || length == 0 || n_calls < 0 || n_values < 1 || e.sums == NULL || !ct_gguf_is_text(e.name))
            return ct_fail(err, CACTUS_ERROR_FORMAT,
                           "%s: entry %" PRId64 " of this importance matrix is damaged, or the file is of another kind", m->label, i);
        e.n_sums = (size_t)n_values;
        m->entries[m->n_entries++] = e;
    }
    int64_t n_chunks = take_i32(&c), length = take_i32(&c);
    const uint8_t *dataset = length > 0 ? take(&c, (size_t)length) : NULL;
    if (n_chunks > 0) m->n_chunks = (uint32_t)n_chunks;
    if (dataset != NULL && ct_gguf_is_text(ct_str_of(dataset, (size_t)length))) m->dataset = ct_str_of(dataset, (size_t)length);
    return CACTUS_OK;
}

/* ---- both ----------------------------------------------------------------------------------------------------------- */

cactus_status ct_imatrix_open(const char *path, ct_imatrix **out, cactus_error *err)
{
    *out = NULL;
    ct_imatrix *m = ct_alloc(1, sizeof *m);
    if (m == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for an importance matrix");
    ct_gguf_printable(m->label, (ct_str){path, strlen(path)}, CT_LABEL_CHARS);
    m->dataset = (ct_str){"", 0};
    cactus_status status = ct_file_map(path, &m->file, err);
    if (status == CACTUS_OK && m->file.size >= 4 && memcmp(m->file.data, "GGUF", 4) == 0) {
        ct_file_unmap(&m->file);
        status = read_gguf(m, path, err);
    } else if (status == CACTUS_OK) {
        status = read_older(m, err);
    }
    if (status == CACTUS_OK) status = check_entries(m, err);
    if (status == CACTUS_OK) *out = m;
    else ct_imatrix_close(m);
    return status;
}

void ct_imatrix_close(ct_imatrix *imatrix)
{
    if (imatrix == NULL) return;
    if (imatrix->gguf != NULL) ct_gguf_close(imatrix->gguf);
    ct_file_unmap(&imatrix->file);
    ct_free(imatrix->entries);
    ct_free(imatrix);
}

size_t ct_imatrix_n_entries(const ct_imatrix *imatrix) { return imatrix->n_entries; }
uint32_t ct_imatrix_n_chunks(const ct_imatrix *imatrix) { return imatrix->n_chunks; }
ct_str ct_imatrix_dataset(const ct_imatrix *imatrix) { return imatrix->dataset; }

/* One matrix: means, scaled to mean 1. A matrix whose inputs were never seen, as of an expert that no token chose, counts evenly. */
static void normalise(const entry *e, size_t matrix, size_t n_matrices, size_t n_cols, float *out)
{
    double total = 0;
    bool seen = true;
    if (e->counts != NULL) { /* positive: the sums are of this many; their size is divided out below */
        float count = load_f32(e->counts + 4 * (e->n_counts == n_matrices ? matrix : 0));
        seen = count > 0 && count < INFINITY;
    }
    for (size_t k = 0; k < n_cols; k++) total += (double)load_f32(e->sums + 4 * (matrix * n_cols + k));
    for (size_t k = 0; k < n_cols; k++)
        out[k] = !seen || total <= 0 ? 1.0f : (float)((double)load_f32(e->sums + 4 * (matrix * n_cols + k)) / total * (double)n_cols + 1e-5);
}

cactus_status ct_imatrix_get(const ct_imatrix *imatrix, ct_str name, size_t n_matrices, size_t n_cols, float *out, bool *found,
                             cactus_error *err)
{
    char shown[CT_SHOWN_BYTES];
    entry key = {.name = name};
    const entry *e = bsearch(&key, imatrix->entries, imatrix->n_entries, sizeof key, compare_entries);
    *found = e != NULL;
    if (e == NULL) return CACTUS_OK;
    if (e->n_sums % n_cols != 0 || e->n_sums / n_cols != n_matrices)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "%s: the importances of %s are %zu numbers, but the tensor has %zu x %zu columns",
                       imatrix->label, ct_gguf_printable(shown, name, CT_SHOWN_CHARS), e->n_sums, n_matrices, n_cols);
    for (size_t i = 0; i < n_matrices; i++) normalise(e, i, n_matrices, n_cols, out + i * n_cols);
    return CACTUS_OK;
}
