/* linear.c: products of weights in the file with the activations of one or many tokens.
 *
 * One or two tokens, and more where a kernel set can: each tile is a range of rows given to the type's matvec or matmul_few, which read the
 * file's blocks once, as a stream. Several tokens: each tile is a panel of rows, unpacked once into the thread's scratch (L1/L2) and
 * multiplied with every token. All give the same bits. */
#include <string.h>

#include "nn/nn.h"
#include "nn/scratch.h"

enum {
    MAX_PRODUCTS = 4,
    STREAM_ALIGN_ROWS = 16,
    TILES_PER_THREAD = 8,
    MATVEC_TOKENS = 2, /* without matmul_few, up to here several tokens are several matvecs over rows that are still in a cache */
    QUANTISE_TOKENS = 4,
    EXPECT_BYTES = 512 * 1024 /* of a share: what a thread fetches at most while it waits */
};

typedef struct job {
    const ct_exec *exec;
    const ct_input *input;
    size_t act_stride;
    size_t n_products, n_tiles;
    struct {
        const ct_matrix *w;
        float *y;
        size_t tile_rows;
        size_t first_tile;
    } parts[MAX_PRODUCTS];
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

static void float_rows(const job *j, const ct_matrix *w, float *y, size_t row, size_t n_rows, uint8_t *scratch)
{
    const ct_exec *exec = j->exec;
    const ct_input *in = j->input;
    if (w->type == CT_F32) {
        exec->k->gemm_f32(y + row, w->n_rows, (const float *)(const void *)(w->data + row * w->row_bytes), w->n_cols, in->x, in->n_cols,
                          n_rows, w->n_cols, in->n_tok);
        return;
    }
    size_t stride = ct_round_up(w->n_cols, 16);
    float *panel = (float *)(void *)scratch;
    for (size_t done = 0; done < n_rows; done += CT_FLOAT_PANEL_ROWS) {
        size_t n = ct_min_size(CT_FLOAT_PANEL_ROWS, n_rows - done);
        convert_rows(exec, w, w->data + (row + done) * w->row_bytes, n, stride, panel);
        exec->k->gemm_f32(y + row + done, w->n_rows, panel, stride, in->x, in->n_cols, n, w->n_cols, in->n_tok);
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

static void integer_rows(const job *j, const ct_matrix *w, float *y, size_t row, size_t n_rows, const void *next, uint8_t *scratch)
{
    const ct_kernels *k = j->exec->k;
    const ct_input *in = j->input;
    const bool few = in->n_tok <= k->few_tokens && k->matmul_few[w->type] != NULL;
    if (k->matvec[w->type] != NULL && in->n_tok <= (few ? 1 : MATVEC_TOKENS)) {
        for (size_t t = 0; t < in->n_tok; t++)
            k->matvec[w->type](y + t * w->n_rows + row, w->data + row * w->row_bytes, w->row_bytes, in->act + t * j->act_stride, n_rows,
                               w->n_cols, next);
        return;
    }
    if (few) {
        k->matmul_few[w->type](y + row, w->n_rows, w->data + row * w->row_bytes, w->row_bytes, in->act, j->act_stride, n_rows, w->n_cols,
                               in->n_tok, next);
        return;
    }
    if (k->matvec_codes != NULL && in->n_tok == 1) {
        k->matvec_codes(y + row, w->info, w->data + row * w->row_bytes, w->row_bytes, in->act, n_rows, w->n_cols);
        return;
    }
    for (size_t done = 0; done < n_rows; done += k->panel_rows) {
        size_t n = ct_min_size(k->panel_rows, n_rows - done);
        make_panel(j->exec, w, row + done, n, scratch);
        k->gemm_i8(y + row + done, w->n_rows, scratch, in->act, j->act_stride, n, w->n_cols, in->n_tok, w->info->sub_elems,
                   w->info->has_min);
    }
}

static void linear_tile(void *ctx, size_t tile, int thread)
{
    const job *j = ctx;
    size_t p = 0;
    while (p + 1 < j->n_products && tile >= j->parts[p + 1].first_tile) p++;
    const ct_matrix *w = j->parts[p].w;
    float *y = j->parts[p].y;
    size_t row = (tile - j->parts[p].first_tile) * j->parts[p].tile_rows;
    size_t n_rows = ct_min_size(j->parts[p].tile_rows, w->n_rows - row);
    uint8_t *scratch = ct_thread_scratch(j->exec, thread);
    const void *next = tile + 1 == ct_pool_share_end(j->exec->pool, thread, j->n_tiles) ? ct_pool_expected(j->exec->pool, thread)
                     : row + n_rows == w->n_rows && p + 1 < j->n_products ? j->parts[p + 1].w->data : NULL;

    if (w->info->decode_codes == NULL) {
        if (j->input->n_tok == 1 && j->exec->k->matvec[w->type] != NULL)
            j->exec->k->matvec[w->type](y + row, w->data + row * w->row_bytes, w->row_bytes, j->input->x, n_rows, w->n_cols,
                                            next);
        else float_rows(j, w, y, row, n_rows, scratch);
    } else integer_rows(j, w, y, row, n_rows, next, scratch);

    if (w->bias != NULL)
        for (size_t t = 0; t < j->input->n_tok; t++)
            for (size_t r = row; r < row + n_rows; r++) y[t * w->n_rows + r] += w->bias[r];
}

typedef struct quantise_job {
    const ct_exec *exec;
    ct_input *input;
    size_t act_stride, tile_tokens;
} quantise_job;

static void quantise_tile(void *ctx, size_t tile, int thread)
{
    const quantise_job *j = ctx;
    (void)thread;
    size_t end = ct_min_size((tile + 1) * j->tile_tokens, j->input->n_tok);
    for (size_t t = tile * j->tile_tokens; t < end; t++)
        j->exec->k->quantize_act(j->input->act + t * j->act_stride, j->input->x + t * j->input->n_cols, j->input->n_cols);
}

/* Rows of a tile: a multiple of `align` such that every thread gets several tiles of the whole region. */
static size_t tile_rows_for(const ct_exec *exec, size_t total_rows, size_t align)
{
    size_t rows = total_rows / ((size_t)ct_pool_threads(exec->pool) * TILES_PER_THREAD);
    return rows < align ? align : rows / align * align;
}

static bool reads_streams(const ct_kernels *k, size_t n_tok) { return n_tok <= MATVEC_TOKENS || n_tok <= k->few_tokens; }

/* Cuts the rows of all products into tiles; returns their number. */
static size_t cut_tiles(job *j, const ct_product *products, size_t n_products, size_t n_tok)
{
    size_t total_rows = 0, n_tiles = 0;
    for (size_t i = 0; i < n_products; i++) total_rows += products[i].w->n_rows;
    j->n_products = n_products;
    for (size_t i = 0; i < n_products; i++) {
        const ct_matrix *w = products[i].w;
        bool is_float = w->info->decode_codes == NULL;
        size_t align = is_float ? CT_FLOAT_PANEL_ROWS : reads_streams(j->exec->k, n_tok) ? STREAM_ALIGN_ROWS : j->exec->k->panel_rows;
        if (align % STREAM_ALIGN_ROWS != 0) align = ct_round_up(align, STREAM_ALIGN_ROWS);
        j->parts[i].w = w;
        j->parts[i].y = products[i].y;
        j->parts[i].tile_rows = tile_rows_for(j->exec, total_rows, align);
        j->parts[i].first_tile = n_tiles;
        n_tiles += (w->n_rows + j->parts[i].tile_rows - 1) / j->parts[i].tile_rows;
    }
    return n_tiles;
}

void ct_linear_expect(const ct_exec *exec, const ct_product *products, size_t n_products, size_t n_tok)
{
    job j = {.exec = exec};
    int n_threads = ct_pool_threads(exec->pool);
    size_t n_tiles = cut_tiles(&j, products, n_products, n_tok), p = 0;
    for (int i = 0; i < n_threads; i++) {
        size_t tile = i == 0 ? 0 : ct_pool_share_end(exec->pool, i - 1, n_tiles);
        while (p + 1 < n_products && tile >= j.parts[p + 1].first_tile) p++;
        const ct_matrix *w = j.parts[p].w;
        size_t row = (tile - j.parts[p].first_tile) * j.parts[p].tile_rows;
        ct_pool_expect(exec->pool, i, w->data + row * w->row_bytes,
                       !reads_streams(exec->k, n_tok) ? 0 : ct_min_size(EXPECT_BYTES, (w->n_rows - row) * w->row_bytes));
    }
}

void ct_linear(const ct_exec *exec, ct_input *input, const ct_product *products, size_t n_products)
{
    job j = {.exec = exec, .input = input};
    bool integer = false;
    if (input->n_tok == 0) return;
    for (size_t i = 0; i < n_products; i++) integer |= products[i].w->info->decode_codes != NULL;
    if (integer) j.act_stride = exec->k->act_bytes(input->n_cols);
    if (integer && !input->quantised) {
        quantise_job q = {exec, input, j.act_stride, QUANTISE_TOKENS};
        ct_pool_run(exec->pool, quantise_tile, &q, (input->n_tok + q.tile_tokens - 1) / q.tile_tokens);
        input->quantised = true;
    }
    j.n_tiles = cut_tiles(&j, products, n_products, input->n_tok);
    ct_pool_run(exec->pool, linear_tile, &j, j.n_tiles);
}

void ct_embed_rows(const ct_matrix *w, const int32_t *ids, size_t n, float *y)
{
    for (size_t i = 0; i < n; i++) w->info->decode_f32(w->data + (size_t)ids[i] * w->row_bytes, w->n_cols, y + i * w->n_cols);
}
