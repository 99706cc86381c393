/* quantize.c: a GGUF file to another with tensors of other types.
 *
 * The plan comes first: the type of every tensor, so the header can be written. Then tensors stream through in slabs, whose chunks
 * the threads decode, check and quantise; a chunk is always the same elements, so the threads' number leaves no trace. */
#include <inttypes.h>
#include <regex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "gguf/internal.h"
#include "gguf/write.h"
#include "quantize/imatrix.h"
#include "quantize/recipe.h"
#include "quantize/rows.h"

enum {
    CHUNK_ELEMS = 16384, /* a multiple of every block */
    SLAB_ELEMS = 128 * CHUNK_ELEMS,
    COPY_BYTES = 8 << 20,
    QUANTISATION_VERSION = 2, /* of ggml's block layouts, since 2023 */
    DEFAULT_ALIGNMENT = 32
};

const char *cactus_quantize_recipes(void) { return ct_recipe_names(); }

const char *cactus_quantize_types(void)
{
    return "F32 F16 BF16 Q8_0 Q6_K Q5_K Q5_1 Q5_0 Q4_K Q4_1 Q4_0 IQ4_NL IQ4_XS MXFP4 Q3_K IQ3_S IQ3_XXS Q2_K IQ2_S IQ2_XS IQ2_XXS TQ2_0 TQ1_0";
}

void cactus_quantize_params_default(cactus_quantize_params *params)
{
    *params = (cactus_quantize_params){.struct_size = sizeof *params, .recipe = "q4_k_m"};
}

/* ---- overrides ------------------------------------------------------------------------------------------------------ */

typedef struct override {
    regex_t pattern;
    ct_type type;
} override;

static cactus_status bad_type(const char *name, const char *what, cactus_error *err)
{
    return ct_fail(err, CACTUS_ERROR_ARGUMENT, "%s is \"%.80s\", not a tensor type that can be made; these can: %s", what, name,
                   cactus_quantize_types());
}

static cactus_status read_type(const char *name, const char *what, ct_type *out, cactus_error *err)
{
    *out = CT_N_TYPES;
    if (name == NULL) return CACTUS_OK;
    *out = ct_recipe_type(name);
    return *out != CT_N_TYPES ? CACTUS_OK : bad_type(name, what, err);
}

/* "PATTERN=TYPE"; the last '=' separates. */
static cactus_status read_override(const char *text, override *out, cactus_error *err)
{
    enum { MAX_PATTERN = 512 };
    char pattern[MAX_PATTERN + 1];
    const char *equals = text == NULL ? NULL : strrchr(text, '=');
    if (equals == NULL || equals == text || (size_t)(equals - text) > MAX_PATTERN)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "the tensor type \"%.80s\" is not of the form PATTERN=TYPE with a pattern of 1 to %d bytes",
                       text == NULL ? "" : text, MAX_PATTERN);
    memcpy(pattern, text, (size_t)(equals - text));
    pattern[equals - text] = '\0';
    out->type = ct_recipe_type(equals + 1);
    if (out->type == CT_N_TYPES) return bad_type(equals + 1, "the type of a pattern", err);
    if (regcomp(&out->pattern, pattern, REG_EXTENDED | REG_NOSUB) != 0)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "the pattern \"%.80s\" is no POSIX extended regular expression", pattern);
    return CACTUS_OK;
}

/* ---- one run -------------------------------------------------------------------------------------------------------- */

typedef struct run {
    const cactus_quantize_params *params;
    cactus_error *err;
    ct_gguf *gguf;
    ct_imatrix *imatrix;
    override *overrides; /* [n_overrides] */
    size_t n_overrides;
    ct_recipe_model model;
    uint32_t alignment;
    ct_gguf_tensor *tensors; /* [n_tensors] of the target */
    bool *fell_back;         /* [n_tensors] */
    ct_gguf_kv *kv;          /* [n_kv] of the target */
    size_t n_kv, n_tensors;
    ct_pool *pool;
    float *scratch;          /* [n_threads, CHUNK_ELEMS] */
    uint8_t *slab;
    float *importance;       /* of the tensor at hand */
    size_t importance_elems;
    ct_new_file *file;
    cactus_quantize_progress progress;
    cactus_quantize_result result;
    uint8_t numbers[64];     /* what new metadata points at */
    size_t n_number_bytes;
    uint8_t *strings;
    size_t n_string_bytes;
} run;

static const char *printable_name(char out[CT_SHOWN_BYTES], const ct_gguf_tensor *t)
{
    return ct_gguf_printable(out, t->name, CT_SHOWN_CHARS);
}

static uint64_t n_elems_of(const ct_gguf_tensor *t) { return t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3]; }

/* ---- the plan ------------------------------------------------------------------------------------------------------- */

static bool overridden(const run *r, const ct_gguf_tensor *t, ct_type *type)
{
    char name[257]; /* names have at most 256 bytes and no NUL */
    memcpy(name, t->name.data, t->name.size);
    name[t->name.size] = '\0';
    for (size_t i = 0; i < r->n_overrides; i++)
        if (regexec(&r->overrides[i].pattern, name, 0, NULL, 0) == 0) {
            *type = r->overrides[i].type;
            return true;
        }
    return false;
}

static cactus_status plan_tensor(run *r, const ct_recipe *recipe, const ct_recipe_choice *choice, size_t i)
{
    char shown[CT_SHOWN_BYTES];
    const ct_gguf_tensor *from = ct_gguf_tensor_at(r->gguf, i);
    ct_gguf_tensor *to = &r->tensors[i];
    ct_type wanted = from->type;
    *to = *from;
    if (ct_recipe_may_change(from) && !overridden(r, from, &wanted)) wanted = ct_recipe_choose(recipe, &r->model, choice, r->gguf, i);
    to->type = wanted == from->type ? wanted : ct_recipe_fit(wanted, from->ne[0]);
    r->fell_back[i] = to->type != wanted;
    to->info = ct_type_get(to->type);
    size_t row_bytes;
    if (!ct_type_row_bytes(to->info, to->ne[0], &row_bytes) || !ct_mul_ok(row_bytes, (size_t)(n_elems_of(to) / to->ne[0]), &to->n_bytes))
        return ct_gguf_refuse(r->gguf, r->err, CACTUS_ERROR_UNSUPPORTED, "the tensor %s is too large for this machine as %s",
                              printable_name(shown, from), to->info->name);
    if (to->type != from->type && from->info->block_elems > 1 && !r->params->allow_requantize)
        return ct_gguf_refuse(r->gguf, r->err, CACTUS_ERROR_ARGUMENT,
                              "the tensor %s is quantised already (%s); quantising it again as %s loses more than from the original, "
                              "and must be allowed explicitly",
                              printable_name(shown, from), from->info->name, to->info->name);
    r->result.n_converted += to->type != from->type;
    r->result.n_fell_back += r->fell_back[i];
    r->result.n_elems += n_elems_of(to);
    r->result.from_bytes += from->n_bytes;
    r->result.to_bytes += to->n_bytes;
    return CACTUS_OK;
}

/* ---- metadata ------------------------------------------------------------------------------------------------------- */

static bool key_is(const ct_gguf_kv *kv, const char *key)
{
    return kv->key.size == strlen(key) && memcmp(kv->key.data, key, kv->key.size) == 0;
}

/* Puts the entry in the place of one of its key, or at the end. */
static void set_kv(run *r, ct_gguf_kv entry, const char *key)
{
    entry.key = (ct_str){key, strlen(key)};
    entry.elem = entry.type;
    entry.count = 1;
    for (size_t i = 0; i < r->n_kv; i++)
        if (key_is(&r->kv[i], key)) {
            r->kv[i] = entry;
            return;
        }
    r->kv[r->n_kv++] = entry;
}

static void set_u32(run *r, const char *key, uint32_t value)
{
    uint8_t *at = r->numbers + r->n_number_bytes;
    memcpy(at, &value, sizeof value);
    r->n_number_bytes += sizeof value;
    set_kv(r, (ct_gguf_kv){.type = CT_GGUF_U32, .data = at, .n_bytes = sizeof value}, key);
}

static void set_str(run *r, const char *key, ct_str value)
{
    uint64_t size = value.size;
    uint8_t *at = r->strings + r->n_string_bytes;
    memcpy(at, &size, sizeof size);
    if (value.size > 0) memcpy(at + sizeof size, value.data, value.size);
    r->n_string_bytes += sizeof size + value.size;
    set_kv(r, (ct_gguf_kv){.type = CT_GGUF_STRING, .data = at, .n_bytes = sizeof size + value.size}, key);
}

/* The source's metadata without what belongs to parts of a split file, and what is said of the new types. */
static cactus_status plan_metadata(run *r, const ct_recipe *recipe)
{
    enum { N_NEW = 6 };
    static const char *const dropped[] = {"split.no", "split.count", "split.tensors.count"};
    size_t n = ct_gguf_n_kv(r->gguf);
    ct_str file = {"", 0}, dataset = {"", 0};
    if (r->imatrix != NULL) {
        const char *slash = strrchr(r->params->imatrix, '/');
        file.data = slash != NULL ? slash + 1 : r->params->imatrix; /* not the whole path: that is the maker's own business */
        file.size = strlen(file.data);
        if (!ct_gguf_is_text(file)) file.size = 0;
        dataset = ct_imatrix_dataset(r->imatrix);
    }
    r->kv = ct_alloc(n + N_NEW, sizeof *r->kv);
    r->strings = ct_alloc(file.size + dataset.size + 16, 1);
    if (r->kv == NULL || r->strings == NULL) return ct_fail(r->err, CACTUS_ERROR_MEMORY, "no memory for %zu metadata entries", n);
    for (size_t i = 0; i < n; i++) {
        const ct_gguf_kv *kv = ct_gguf_kv_at(r->gguf, i);
        bool keep = true;
        for (size_t k = 0; k < sizeof dropped / sizeof dropped[0]; k++) keep = keep && !key_is(kv, dropped[k]);
        if (keep) r->kv[r->n_kv++] = *kv;
    }
    set_u32(r, "general.quantization_version", QUANTISATION_VERSION);
    set_u32(r, "general.file_type", recipe->file_type);
    if (r->imatrix == NULL) return CACTUS_OK;
    if (file.size > 0) set_str(r, "quantize.imatrix.file", file);
    if (dataset.size > 0) set_str(r, "quantize.imatrix.dataset", dataset);
    set_u32(r, "quantize.imatrix.entries_count", (uint32_t)ct_imatrix_n_entries(r->imatrix));
    if (ct_imatrix_n_chunks(r->imatrix) > 0) set_u32(r, "quantize.imatrix.chunks_count", ct_imatrix_n_chunks(r->imatrix));
    return CACTUS_OK;
}

/* ---- slabs ---------------------------------------------------------------------------------------------------------- */

typedef struct slab_job {
    const ct_gguf_tensor *from, *to;
    ct_rows_fn quantise;
    uint64_t first;  /* element of the tensor */
    size_t n_elems;
    uint8_t *out;
    float *scratch;
    const float *importance; /* [ne2 * ne3, ne0] or NULL */
    uint32_t limit_bits;     /* of the largest magnitude that may occur */
    atomic_uint_fast64_t bad; /* the first element that may not */
} slab_job;

static uint32_t float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* Magnitudes order like their bits; infinities and NaN come last. */
static bool all_within(const float *x, size_t n, uint32_t limit_bits)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    return most <= limit_bits;
}

static void note_bad(slab_job *job, const float *x, size_t n, uint64_t first)
{
    for (size_t i = 0; i < n; i++) {
        if (all_within(x + i, 1, job->limit_bits)) continue;
        uint_fast64_t before = atomic_load(&job->bad);
        while (first + i < before && !atomic_compare_exchange_weak(&job->bad, &before, first + i)) {}
        return;
    }
}

static void quantise_chunk(void *context, size_t tile, int thread)
{
    slab_job *job = context;
    size_t at = tile * CHUNK_ELEMS, n = ct_min_size(CHUNK_ELEMS, job->n_elems - at);
    const ct_type_info *from = job->from->info, *to = job->to->info;
    uint64_t first = job->first + at, matrix_elems = job->from->ne[0] * job->from->ne[1];
    const uint8_t *blocks = job->from->data + first / from->block_elems * from->block_bytes;
    float *decoded = job->scratch + (size_t)thread * CHUNK_ELEMS;
    from->decode_f32(blocks, n, decoded);
    if (!all_within(decoded, n, job->limit_bits)) {
        note_bad(job, decoded, n, first);
        return;
    }
    ct_rows rows = {.x = decoded, .blocks = job->out + at / to->block_elems * to->block_bytes};
    while (n > 0) { /* a chunk may reach into the next matrix, which has importances of its own */
        uint64_t left = matrix_elems - first % matrix_elems;
        size_t piece = job->importance != NULL && left < n ? (size_t)left : n;
        rows.n_blocks = piece / to->block_elems;
        if (job->importance != NULL) {
            rows.n_cols = (size_t)job->from->ne[0];
            rows.column = (size_t)(first % job->from->ne[0]);
            rows.importance = job->importance + first / matrix_elems * job->from->ne[0];
        }
        job->quantise(&rows);
        rows.x += piece;
        rows.blocks += rows.n_blocks * to->block_bytes;
        first += piece;
        n -= piece;
    }
}

static cactus_status refuse_element(run *r, const ct_gguf_tensor *from, const ct_gguf_tensor *to, uint64_t index)
{
    char shown[CT_SHOWN_BYTES];
    float block[256];
    const ct_type_info *info = from->info;
    info->decode_f32(from->data + index / info->block_elems * info->block_bytes, info->block_elems, block);
    double value = (double)block[index % info->block_elems];
    uint64_t row = index / from->ne[0], column = index % from->ne[0];
    printable_name(shown, from);
    if (value - value != 0)
        return ct_gguf_refuse(r->gguf, r->err, CACTUS_ERROR_FORMAT,
                              "element %" PRIu64 " of the tensor %s (row %" PRIu64 ", column %" PRIu64 ") is %s; weights must be finite",
                              index, shown, row, column, value != value ? "NaN" : "infinite");
    return ct_gguf_refuse(r->gguf, r->err, CACTUS_ERROR_UNSUPPORTED,
                          "element %" PRIu64 " of the tensor %s (row %" PRIu64 ", column %" PRIu64 ") is %g; %s holds at most %g", index,
                          shown, row, column, value, to->info->name, (double)ct_rows_limit(to->type));
}

static cactus_status report(run *r, bool done)
{
    r->progress.done = done;
    if (r->params->on_progress != NULL && r->params->on_progress(r->params->user, &r->progress) != 0)
        return ct_fail(r->err, CACTUS_ERROR_CANCELLED, "quantising was cancelled");
    return CACTUS_OK;
}

static cactus_status copy_tensor(run *r, const ct_gguf_tensor *t)
{
    cactus_status status = CACTUS_OK;
    for (size_t at = 0; at < t->n_bytes && status == CACTUS_OK; at += COPY_BYTES) {
        size_t n = ct_min_size(COPY_BYTES, t->n_bytes - at);
        status = ct_new_file_write(r->file, t->data + at, n, r->err);
        r->progress.bytes_done += n;
        if (status == CACTUS_OK && at + n < t->n_bytes) status = report(r, false);
    }
    return status;
}

static cactus_status convert_tensor(run *r, const ct_gguf_tensor *from, const ct_gguf_tensor *to, const float *importance)
{
    slab_job job = {
        .from = from, .to = to, .quantise = ct_rows_find(to->type), .out = r->slab, .scratch = r->scratch,
        .importance = importance, .limit_bits = float_bits(ct_rows_limit(to->type)),
    };
    atomic_init(&job.bad, UINT64_MAX);
    uint64_t n_elems = n_elems_of(from), before = r->progress.bytes_done;
    cactus_status status = CACTUS_OK;
    for (; job.first < n_elems && status == CACTUS_OK; job.first += job.n_elems) {
        uint64_t left = n_elems - job.first;
        job.n_elems = left < SLAB_ELEMS ? (size_t)left : SLAB_ELEMS;
        ct_pool_run(r->pool, quantise_chunk, &job, (job.n_elems + CHUNK_ELEMS - 1) / CHUNK_ELEMS);
        if (atomic_load(&job.bad) != UINT64_MAX) return refuse_element(r, from, to, atomic_load(&job.bad));
        status = ct_new_file_write(r->file, r->slab, job.n_elems / to->info->block_elems * to->info->block_bytes, r->err);
        uint64_t done = job.first + job.n_elems;
        r->progress.bytes_done = before + done / from->info->block_elems * from->info->block_bytes;
        if (status == CACTUS_OK && done < n_elems) status = report(r, false);
    }
    return status;
}

/* *out: the tensor's importances, or NULL. They are read for a dry run too, so that it fails where the real one would. */
static cactus_status find_importance(run *r, const ct_gguf_tensor *from, const float **out)
{
    size_t n_matrices = (size_t)(from->ne[2] * from->ne[3]), n_cols = (size_t)from->ne[0], n;
    bool found = false;
    *out = NULL;
    if (r->imatrix == NULL) return CACTUS_OK;
    if (!ct_mul_ok(n_matrices, n_cols, &n)) return ct_fail(r->err, CACTUS_ERROR_MEMORY, "no memory for %zu importances", n_cols);
    if (n > r->importance_elems) {
        ct_free(r->importance);
        r->importance_elems = 0;
        r->importance = ct_alloc(n, sizeof *r->importance);
        if (r->importance == NULL) return ct_fail(r->err, CACTUS_ERROR_MEMORY, "no memory for %zu importances", n);
        r->importance_elems = n;
    }
    cactus_status status = ct_imatrix_get(r->imatrix, from->name, n_matrices, n_cols, r->importance, &found, r->err);
    if (status == CACTUS_OK && found) *out = r->importance;
    return status;
}

static cactus_status run_tensor(run *r, size_t i)
{
    char shown[CT_SHOWN_BYTES];
    const ct_gguf_tensor *from = ct_gguf_tensor_at(r->gguf, i), *to = &r->tensors[i];
    const float *importance = NULL;
    bool convert = to->type != from->type, is_block = to->info->block_elems > 1;
    uint64_t after = r->progress.bytes_done + from->n_bytes;
    cactus_status status = convert && is_block ? find_importance(r, from, &importance) : CACTUS_OK;
    if (status != CACTUS_OK) return status;
    r->progress.tensor = printable_name(shown, from);
    r->progress.from_type = from->info->name;
    r->progress.to_type = to->info->name;
    r->progress.fell_back = r->fell_back[i];
    r->progress.has_importance = importance != NULL;
    r->progress.index = (uint32_t)i;
    r->progress.n_elems = n_elems_of(from);
    r->progress.from_bytes = from->n_bytes;
    r->progress.to_bytes = to->n_bytes;
    r->result.n_with_importance += importance != NULL;
    status = report(r, false);
    if (status == CACTUS_OK && r->file != NULL) {
        status = convert ? convert_tensor(r, from, to, importance) : copy_tensor(r, from);
        if (status == CACTUS_OK) status = ct_gguf_write_padding(r->file, to->n_bytes, r->alignment, r->err);
    }
    if (status != CACTUS_OK) return status;
    r->progress.bytes_done = after;
    return report(r, true);
}

/* Whether `target` is one of the files that `path`, the first of n_parts, stands for. */
static bool is_a_part(const char *path, size_t n_parts, const char *target)
{
    enum { SUFFIX = sizeof "-00001-of-00002.gguf" - 1 };
    size_t n = strlen(path);
    char *part = n_parts > 1 && n >= SUFFIX ? ct_alloc(n + 1, 1) : NULL;
    bool is_one = false;
    if (part == NULL) return false;
    memcpy(part, path, n + 1);
    for (size_t i = 1; i < n_parts && !is_one; i++) {
        snprintf(part + n - SUFFIX, SUFFIX + 1, "-%05u-of-%05u.gguf", (unsigned)(i + 1) % 100000, (unsigned)n_parts % 100000);
        is_one = ct_same_file(part, target);
    }
    ct_free(part);
    return is_one;
}

/* ---- from paths to the result --------------------------------------------------------------------------------------- */

static cactus_status plan(run *r)
{
    const cactus_quantize_params *p = r->params;
    ct_recipe_choice choice = {.pure = p->pure != 0};
    bool found;
    const ct_recipe *recipe = p->recipe == NULL ? NULL : ct_recipe_find(p->recipe);
    if (recipe == NULL)
        return ct_fail(r->err, CACTUS_ERROR_ARGUMENT, "\"%.80s\" is no recipe that can be made; these can: %s",
                       p->recipe == NULL ? "" : p->recipe, ct_recipe_names());
    cactus_status status = read_type(p->output_type, "the output's type", &choice.output, r->err);
    if (status == CACTUS_OK) status = read_type(p->embedding_type, "the embedding's type", &choice.embedding, r->err);
    if (status == CACTUS_OK) status = ct_recipe_model_read(r->gguf, r->imatrix != NULL, &r->model, r->err);
    r->alignment = DEFAULT_ALIGNMENT;
    if (status == CACTUS_OK) status = ct_gguf_get_u32(r->gguf, "general.alignment", &r->alignment, &found, r->err);
    if (status == CACTUS_OK) status = plan_metadata(r, recipe);
    r->n_tensors = ct_gguf_n_tensors(r->gguf);
    r->tensors = ct_alloc(r->n_tensors, sizeof *r->tensors);
    r->fell_back = ct_alloc(r->n_tensors, sizeof *r->fell_back);
    if (status == CACTUS_OK && (r->tensors == NULL || r->fell_back == NULL))
        return ct_fail(r->err, CACTUS_ERROR_MEMORY, "no memory for a table of %zu tensors", r->n_tensors);
    for (size_t i = 0; i < r->n_tensors && status == CACTUS_OK; i++) status = plan_tensor(r, recipe, &choice, i);
    return status;
}

static cactus_status start(run *r, const char *target)
{
    int n_threads = r->params->n_threads == 0 ? (int)cactus_default_threads() : (int)r->params->n_threads;
    r->pool = ct_pool_create(n_threads);
    if (r->pool == NULL) return ct_fail(r->err, CACTUS_ERROR_MEMORY, "%d threads could not be started", n_threads);
    r->scratch = ct_alloc((size_t)n_threads, CHUNK_ELEMS * sizeof *r->scratch);
    r->slab = ct_alloc(SLAB_ELEMS, sizeof(float));
    if (r->scratch == NULL || r->slab == NULL) return ct_fail(r->err, CACTUS_ERROR_MEMORY, "no memory for buffers of %d threads", n_threads);
    cactus_status status = ct_new_file_open(target, r->params->overwrite != 0, false, &r->file, r->err);
    if (status == CACTUS_OK)
        status = ct_gguf_write_header(r->file, r->kv, r->n_kv, r->tensors, r->n_tensors, r->alignment, r->err);
    return status;
}

static cactus_status execute(run *r, const char *source, const char *target)
{
    const cactus_quantize_params *p = r->params;
    r->overrides = ct_alloc(p->n_tensor_types, sizeof *r->overrides);
    if (r->overrides == NULL) return ct_fail(r->err, CACTUS_ERROR_MEMORY, "no memory for %zu patterns", p->n_tensor_types);
    cactus_status status = CACTUS_OK;
    for (size_t i = 0; i < p->n_tensor_types && status == CACTUS_OK; i++) {
        status = read_override(p->tensor_types[i], &r->overrides[i], r->err);
        r->n_overrides += status == CACTUS_OK;
    }
    if (status == CACTUS_OK) status = ct_gguf_open(source, &r->gguf, r->err);
    if (status == CACTUS_OK && target != NULL && is_a_part(source, r->gguf->n_files, target))
        status = ct_fail(r->err, CACTUS_ERROR_ARGUMENT, "the target is a part of the source");
    if (status == CACTUS_OK && p->imatrix != NULL) status = ct_imatrix_open(p->imatrix, &r->imatrix, r->err);
    if (status == CACTUS_OK) status = plan(r);
    if (status == CACTUS_OK && target != NULL) status = start(r, target);
    r->progress.n_tensors = (uint32_t)r->n_tensors;
    r->progress.bytes_total = r->result.from_bytes;
    for (size_t i = 0; i < r->n_tensors && status == CACTUS_OK; i++) status = run_tensor(r, i);
    if (status == CACTUS_OK && r->file != NULL) {
        status = ct_new_file_commit(r->file, r->err);
        r->file = NULL;
    }
    r->result.struct_size = sizeof r->result;
    r->result.n_tensors = (uint32_t)r->n_tensors;
    if (status == CACTUS_OK) {
        r->result.from_file_bytes = ct_gguf_file_bytes(r->gguf);
        r->result.to_file_bytes = ct_gguf_written_bytes(r->kv, r->n_kv, r->tensors, r->n_tensors, r->alignment);
    }
    return status;
}

static void clean_up(run *r)
{
    ct_new_file_abandon(r->file);
    if (r->pool != NULL) ct_pool_free(r->pool);
    for (size_t i = 0; i < r->n_overrides; i++) regfree(&r->overrides[i].pattern);
    ct_free(r->overrides);
    ct_recipe_model_free(&r->model);
    ct_free(r->tensors);
    ct_free(r->fell_back);
    ct_free(r->kv);
    ct_free(r->strings);
    ct_free(r->scratch);
    ct_free(r->slab);
    ct_free(r->importance);
    ct_imatrix_close(r->imatrix);
    if (r->gguf != NULL) ct_gguf_close(r->gguf);
}

cactus_status cactus_quantize(const char *source, const char *target, const cactus_quantize_params *params, cactus_quantize_result *result,
                              cactus_error *err)
{
    if (source == NULL || params == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "cactus_quantize needs a source and params");
    if (params->struct_size != sizeof *params || (result != NULL && result->struct_size != sizeof *result))
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "quantize params or result have another struct_size than %zu and %zu", sizeof *params,
                       sizeof *result);
    if (params->n_threads < 0 || params->n_threads > CT_MAX_THREADS)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "n_threads is %d, not 0 to %d", params->n_threads, CT_MAX_THREADS);
    if (params->n_tensor_types > 0 && params->tensor_types == NULL)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "tensor_types is NULL, but n_tensor_types is %zu", params->n_tensor_types);
    if (target != NULL && (ct_same_file(source, target) || (params->imatrix != NULL && ct_same_file(params->imatrix, target))))
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "the target is the %s itself", ct_same_file(source, target) ? "source" : "importance matrix");
    run r = {.params = params, .err = err};
    cactus_status status = execute(&r, source, target);
    if (status == CACTUS_OK && result != NULL) *result = r.result;
    clean_up(&r);
    return status;
}
