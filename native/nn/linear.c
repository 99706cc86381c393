/* linear.c: products of weights in the file with the activations of one or many tokens.
 *
 * One or two tokens, and more where a kernel set can: each tile is a range of rows given to the type's matvec or matmul_few, which read the
 * file's blocks once, as a stream. Several tokens: each tile is a panel of rows, unpacked once into the thread's scratch (L1/L2) and
 * multiplied with every token. All give the same bits. */
#include <string.h>

#include "nn/nn.h"
#include "nn/scratch.h"

enum {
    MAX_PRODUCTS = 8,
    STREAM_ALIGN_ROWS = 16,
    TILES_PER_THREAD = 8,
    MATVEC_TOKENS = 2, /* without matmul_few, up to here several tokens are several matvecs over rows that are still in a cache */
    QUANTISE_TOKENS = 4,
    EXPECT_BYTES = 512 * 1024 /* of a share: what a thread fetches at most while it waits */
};

/* The matrices of a region, cut into tiles. */
typedef struct job {
    const ct_exec *exec;
    size_t n_parts, n_tiles;
    ct_group *parts; /* [n_parts] */
} job;

static void convert_rows(const ct_exec *exec, const ct_matrix *w, const uint8_t *rows, size_t n_rows, size_t stride, float *out)
{
    for (size_t r = 0; r < n_rows; r++) {
        const uint8_t *row = rows + r * w->row_bytes;
        if (w->type == CT_F16) exec->k->f16_to_f32(out + r * stride, (const uint16_t *)(const void *)row, w->n_cols);
        else if (w->type == CT_BF16) exec->k->bf16_to_f32(out + r * stride, (const uint16_t *)(const void *)row, w->n_cols);
        else w->info->decode_f32(row, w->n_cols, out + r * stride);
    }
}

static void float_rows(const ct_exec *exec, const ct_group *in, size_t row, size_t n_rows, uint8_t *scratch)
{
    const ct_matrix *w = in->w;
    float *y = in->y;
    if (w->type == CT_F32) {
        exec->k->gemm_f32(y + row, w->n_rows, (const float *)(const void *)(w->data + row * w->row_bytes), w->n_cols, in->x, w->n_cols,
                          n_rows, w->n_cols, in->n_tok);
        return;
    }
    size_t stride = ct_round_up(w->n_cols, 16);
    float *panel = (float *)(void *)scratch;
    for (size_t done = 0; done < n_rows; done += CT_FLOAT_PANEL_ROWS) {
        size_t n = ct_min_size(CT_FLOAT_PANEL_ROWS, n_rows - done);
        convert_rows(exec, w, w->data + (row + done) * w->row_bytes, n, stride, panel);
        exec->k->gemm_f32(y + row + done, w->n_rows, panel, stride, in->x, w->n_cols, n, w->n_cols, in->n_tok);
    }
}

static void make_panel(const ct_exec *exec, const ct_matrix *w, size_t row, size_t n_rows, uint8_t *scratch)
{
    const ct_kernels *k = exec->k;
    const uint8_t *rows = w->data + row * w->row_bytes;
    if (k->unpack[w->type] != NULL) {
        k->unpack[w->type](scratch, rows, w->row_bytes, n_rows, w->n_cols);
        return;
    }
    size_t n_sub = w->n_cols / w->info->sub_elems;
    int8_t *codes = (int8_t *)(scratch + k->panel_bytes(w->n_cols));
    float *d = (float *)(void *)(codes + ct_round_up(k->panel_rows * w->n_cols, 64));
    float *m = d + ct_round_up(k->panel_rows * n_sub, 16);
    for (size_t r = 0; r < n_rows; r++)
        w->info->decode_codes(rows + r * w->row_bytes, w->n_cols, codes + r * w->n_cols, d + r * n_sub, m + r * n_sub);
    k->pack_panel(scratch, codes, d, m, n_rows, w->n_cols, w->info->sub_elems, w->info->has_min);
}

static void integer_rows(const ct_exec *exec, const ct_group *in, size_t row, size_t n_rows, const void *next, uint8_t *scratch)
{
    const ct_kernels *k = exec->k;
    const ct_matrix *w = in->w;
    float *y = in->y;
    const size_t act_stride = k->act_bytes(w->n_cols);
    const bool few = in->n_tok <= k->few_tokens && k->matmul_few[w->type] != NULL;
    if (k->matvec[w->type] != NULL && in->n_tok <= (few ? 1 : MATVEC_TOKENS)) {
        for (size_t t = 0; t < in->n_tok; t++)
            k->matvec[w->type](y + t * w->n_rows + row, w->data + row * w->row_bytes, w->row_bytes, in->act + t * act_stride, n_rows,
                               w->n_cols, next);
        return;
    }
    if (few) {
        k->matmul_few[w->type](y + row, w->n_rows, w->data + row * w->row_bytes, w->row_bytes, in->act, act_stride, n_rows, w->n_cols,
                               in->n_tok, next);
        return;
    }
    if (k->matvec_codes != NULL && in->n_tok == 1) {
        k->matvec_codes(y + row, w->info, w->data + row * w->row_bytes, w->row_bytes, in->act, n_rows, w->n_cols);
        return;
    }
    for (size_t done = 0; done < n_rows; done += k->panel_rows) {
        size_t n = ct_min_size(k->panel_rows, n_rows - done);
        make_panel(exec, w, row + done, n, scratch);
        k->gemm_i8(y + row + done, w->n_rows, scratch, in->act, act_stride, n, w->n_cols, in->n_tok, w->info->sub_elems,
                   w->info->has_min);
    }
}

/* The part that a tile belongs to: the last one that starts at or before it. */
static size_t part_of(const job *j, size_t tile)
{
    size_t low = 0, high = j->n_parts;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (j->parts[middle].first_tile <= tile) low = middle;
        else high = middle;
    }
    return low;
}

static void linear_tile(void *ctx, size_t tile, int thread)
{
    const job *j = ctx;
    const ct_exec *exec = j->exec;
    size_t p = part_of(j, tile);
    const ct_group *in = &j->parts[p];
    const ct_matrix *w = in->w;
    float *y = in->y;
    size_t row = (tile - in->first_tile) * in->tile_rows;
    size_t n_rows = ct_min_size(in->tile_rows, w->n_rows - row);
    uint8_t *scratch = ct_thread_scratch(exec, thread);
    const void *next = tile + 1 == ct_pool_share_end(exec->pool, thread, j->n_tiles) ? ct_pool_expected(exec->pool, thread)
                     : row + n_rows == w->n_rows && p + 1 < j->n_parts ? j->parts[p + 1].w->data : NULL;

    if (w->info->decode_codes == NULL) {
        if (in->n_tok == 1 && exec->k->matvec[w->type] != NULL)
            exec->k->matvec[w->type](y + row, w->data + row * w->row_bytes, w->row_bytes, in->x, n_rows, w->n_cols, next);
        else float_rows(exec, in, row, n_rows, scratch);
    } else integer_rows(exec, in, row, n_rows, next, scratch);

    if (w->bias != NULL)
        for (size_t t = 0; t < in->n_tok; t++)
            for (size_t r = row; r < row + n_rows; r++) y[t * w->n_rows + r] += w->bias[r];
}

typedef struct quantise_job {
    const ct_exec *exec;
    const float *x;
    uint8_t *act;
    size_t act_stride, n_tok, n_cols;
} quantise_job;

static void quantise_tile(void *ctx, size_t tile, int thread)
{
    const quantise_job *j = ctx;
    (void)thread;
    size_t end = ct_min_size((tile + 1) * QUANTISE_TOKENS, j->n_tok);
    for (size_t t = tile * QUANTISE_TOKENS; t < end; t++)
        j->exec->k->quantize_act(j->act + t * j->act_stride, j->x + t * j->n_cols, j->n_cols);
}

void ct_quantise_rows(const ct_exec *exec, uint8_t *act, const float *x, size_t n_tok, size_t n_cols)
{
    quantise_job q = {exec, x, act, exec->k->act_bytes(n_cols), n_tok, n_cols};
    ct_pool_run(exec->pool, quantise_tile, &q, (n_tok + QUANTISE_TOKENS - 1) / QUANTISE_TOKENS);
}

/* Rows of a tile: a multiple of `align` such that every thread gets several tiles of the whole region. */
static size_t tile_rows_for(const ct_exec *exec, size_t total_rows, size_t align)
{
    size_t rows = total_rows / ((size_t)ct_pool_threads(exec->pool) * TILES_PER_THREAD);
    return rows < align ? align : rows / align * align;
}

static bool reads_streams(const ct_kernels *k, size_t n_tok) { return n_tok <= MATVEC_TOKENS || n_tok <= k->few_tokens; }

/* Cuts the rows of all parts into tiles. */
static void cut_tiles(job *j)
{
    size_t total_rows = 0;
    j->n_tiles = 0;
    for (size_t i = 0; i < j->n_parts; i++) total_rows += j->parts[i].w->n_rows;
    for (size_t i = 0; i < j->n_parts; i++) {
        ct_group *part = &j->parts[i];
        bool is_float = part->w->info->decode_codes == NULL;
        size_t align = is_float ? CT_FLOAT_PANEL_ROWS : reads_streams(j->exec->k, part->n_tok) ? STREAM_ALIGN_ROWS : j->exec->k->panel_rows;
        if (align % STREAM_ALIGN_ROWS != 0) align = ct_round_up(align, STREAM_ALIGN_ROWS);
        part->tile_rows = tile_rows_for(j->exec, total_rows, align);
        part->first_tile = j->n_tiles;
        j->n_tiles += (part->w->n_rows + part->tile_rows - 1) / part->tile_rows;
    }
}

void ct_linear_groups(const ct_exec *exec, ct_group *groups, size_t n_groups)
{
    job j = {.exec = exec, .n_parts = n_groups, .parts = groups};
    if (n_groups == 0) return;
    cut_tiles(&j);
    ct_pool_run(exec->pool, linear_tile, &j, j.n_tiles);
}

/* The products as groups that share one input. */
static size_t make_groups(ct_group groups[MAX_PRODUCTS], const ct_input *input, const ct_product *products, size_t n_products)
{
    for (size_t i = 0; i < n_products; i++)
        groups[i] = (ct_group){.w = products[i].w, .x = input->x, .act = input->act, .n_tok = input->n_tok, .y = products[i].y};
    return n_products;
}

void ct_linear_expect(const ct_exec *exec, const ct_product *products, size_t n_products, size_t n_tok)
{
    ct_group groups[MAX_PRODUCTS];
    job j = {.exec = exec, .n_parts = make_groups(groups, &(ct_input){.n_tok = n_tok}, products, n_products), .parts = groups};
    int n_threads = ct_pool_threads(exec->pool);
    for (int i = 0; i < n_threads && n_products == 0; i++) ct_pool_expect(exec->pool, i, NULL, 0);
    if (n_products == 0) return;
    cut_tiles(&j);
    for (int i = 0; i < n_threads; i++) {
        size_t tile = i == 0 ? 0 : ct_pool_share_end(exec->pool, i - 1, j.n_tiles);
        const ct_group *part = &groups[part_of(&j, tile)];
        const ct_matrix *w = part->w;
        size_t row = ct_min_size((tile - part->first_tile) * part->tile_rows, w->n_rows);
        ct_pool_expect(exec->pool, i, w->data + row * w->row_bytes,
                       !reads_streams(exec->k, n_tok) ? 0 : ct_min_size(EXPECT_BYTES, (w->n_rows - row) * w->row_bytes));
    }
}

void ct_linear(const ct_exec *exec, ct_input *input, const ct_product *products, size_t n_products)
{
    ct_group groups[MAX_PRODUCTS];
    bool integer = false;
    if (input->n_tok == 0) return;
    for (size_t i = 0; i < n_products; i++) integer |= products[i].w->info->decode_codes != NULL;
    if (integer && !input->quantised) {
        ct_quantise_rows(exec, input->act, input->x, input->n_tok, input->n_cols);
        input->quantised = true;
    }
    ct_linear_groups(exec, groups, make_groups(groups, input, products, n_products));
}

void ct_embed_rows(const ct_matrix *w, const int32_t *ids, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) w->info->decode_f32(w->data + (size_t)ids[i] * w->row_bytes, w->n_cols, y + i * w->n_cols);
}
