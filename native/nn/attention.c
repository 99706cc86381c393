/* attention.c: the pages of keys and values, and causal grouped-query attention that walks them with an online softmax
 * (Milakov & Gimelshein 2018, arXiv:1805.02867; tiled as in Dao et al. 2022, arXiv:2205.14135).
 *
 * A tile is a range of tokens of one sequence with all (or some) query heads of one kv head, so that a page is converted and read
 * once for all of them. Pages are visited in order of position, whatever the tile, so a token's result is always the same. */
#include <math.h>
#include <string.h>

#include "nn/nn.h"
#include "nn/scratch.h"

enum { TILE_QUERIES = 48 };

bool ct_kv_layout_init(ct_kv_layout *kv, ct_kv_type type, size_t n_layers, size_t n_kv_heads, size_t d_k, size_t d_v)
{
    *kv = (ct_kv_layout){.type = type, .n_layers = n_layers, .n_kv_heads = n_kv_heads, .d_k = d_k, .d_v = d_v};
    size_t elem_bytes = type == CT_KV_F32 ? sizeof(float) : type == CT_KV_F16 ? sizeof(uint16_t) : sizeof(int8_t), elems, heads;
    size_t scale_bytes = type == CT_KV_I8 ? CT_PAGE_TOKENS * (ct_kv_blocks(d_k) + ct_kv_blocks(d_v)) * sizeof(float) : 0;
    return ct_mul_ok(CT_PAGE_TOKENS * elem_bytes, d_k + d_v, &elems) && ct_add_ok(elems, scale_bytes, &kv->head_bytes)
        && ct_mul_ok(n_layers, n_kv_heads, &heads) && ct_mul_ok(kv->head_bytes, heads, &kv->page_bytes);
}

static uint8_t *head_page(const ct_kv_layout *kv, uint8_t *page, size_t layer, size_t head)
{
    return page + (layer * kv->n_kv_heads + head) * kv->head_bytes;
}

/* ---- storing ---- */

typedef struct store_job {
    const ct_exec *exec;
    const ct_kv_layout *kv;
    const ct_run *runs;
    float *q, *k;
    const float *v, *angles;
    size_t layer, n_heads, n_rot, n_runs, tile_tokens;
    ct_rope_pairs pairs;
} store_job;

static void store_head(const store_job *j, uint8_t *page, size_t head, size_t slot, const float *k, const float *v)
{
    const ct_kv_layout *kv = j->kv;
    uint8_t *at = head_page(kv, page, j->layer, head);
    if (kv->type == CT_KV_I8) {
        int8_t codes[64], *kt = (int8_t *)at, *vs = kt + CT_PAGE_TOKENS * kv->d_k;
        float scales[64 / CT_KV_BLOCK], *k_scale = (float *)(void *)(vs + CT_PAGE_TOKENS * kv->d_v);
        float *v_scale = k_scale + CT_PAGE_TOKENS * ct_kv_blocks(kv->d_k);
        for (size_t d = 0; d < kv->d_k; d += 64) {
            size_t n = ct_min_size(64, kv->d_k - d);
            j->exec->k->quantize_kv(codes, scales, k + d, n);
            for (size_t i = 0; i < n; i++) kt[(d + i) * CT_PAGE_TOKENS + slot] = codes[i];
            for (size_t b = 0; b < ct_kv_blocks(n); b++) k_scale[(d / CT_KV_BLOCK + b) * CT_PAGE_TOKENS + slot] = scales[b];
        }
        j->exec->k->quantize_kv(vs + slot * kv->d_v, v_scale + slot * ct_kv_blocks(kv->d_v), v, kv->d_v);
    } else if (kv->type == CT_KV_F32) {
        float *kt = (float *)(void *)at, *vs = kt + CT_PAGE_TOKENS * kv->d_k;
        for (size_t d = 0; d < kv->d_k; d++) kt[d * CT_PAGE_TOKENS + slot] = k[d];
        memcpy(vs + slot * kv->d_v, v, kv->d_v * sizeof *v);
    } else {
        uint16_t half[64], *kt = (uint16_t *)(void *)at, *vs = kt + CT_PAGE_TOKENS * kv->d_k;
        for (size_t d = 0; d < kv->d_k; d += 64) {
            size_t n = ct_min_size(64, kv->d_k - d);
            j->exec->k->f32_to_f16(half, k + d, n);
            for (size_t i = 0; i < n; i++) kt[(d + i) * CT_PAGE_TOKENS + slot] = half[i];
        }
        j->exec->k->f32_to_f16(vs + slot * kv->d_v, v, kv->d_v);
    }
}

/* Tile: up to 32 rows of the batch, in a row; pages are written by columns, so neighbours stay together where there are many. */
static void store_tile(void *ctx, size_t tile, int thread)
{
    const store_job *j = ctx;
    const ct_kv_layout *kv = j->kv;
    (void)thread;
    size_t begin = tile * j->tile_tokens, end = begin + j->tile_tokens;
    for (size_t i = 0; i < j->n_runs; i++) {
        const ct_run *run = &j->runs[i];
        size_t from = run->first > begin ? run->first : begin, to = ct_min_size(run->first + run->n_tok, end);
        for (size_t row = from; row < to; row++) {
            size_t pos = run->pos + (row - run->first);
            const float *angles = j->angles + row * j->n_rot;
            float *k = j->k + row * kv->n_kv_heads * kv->d_k;
            const float *v = j->v + row * kv->n_kv_heads * kv->d_v;
            ct_rope_apply(j->q + row * j->n_heads * kv->d_k, j->n_heads, kv->d_k, j->n_rot, j->pairs, angles);
            ct_rope_apply(k, kv->n_kv_heads, kv->d_k, j->n_rot, j->pairs, angles);
            for (size_t h = 0; h < kv->n_kv_heads; h++)
                store_head(j, run->pages[pos / CT_PAGE_TOKENS], h, pos % CT_PAGE_TOKENS, k + h * kv->d_k, v + h * kv->d_v);
        }
    }
}

void ct_rope_and_store(const ct_exec *exec, const ct_kv_layout *kv, size_t layer, const ct_run *runs, size_t n_runs, float *q, float *k,
                       const float *v, const float *angles, size_t n_heads, size_t n_rot, ct_rope_pairs pairs)
{
    size_t n_tok = n_runs == 0 ? 0 : runs[n_runs - 1].first + runs[n_runs - 1].n_tok;
    size_t share = (n_tok + (size_t)ct_pool_threads(exec->pool) - 1) / (size_t)ct_pool_threads(exec->pool);
    store_job j = {exec, kv, runs, q, k, v, angles, layer, n_heads, n_rot, n_runs, ct_min_size(share, CT_PAGE_TOKENS), pairs};
    if (n_tok > 0) ct_pool_run(exec->pool, store_tile, &j, (n_tok + j.tile_tokens - 1) / j.tile_tokens);
}

/* ---- attending ---- */

size_t ct_scratch_attention_bytes(size_t max_d_head)
{
    size_t per_query = 2 * max_d_head + 16 + 32 + 4; /* q, o, l, scores, m, begin, end */
    return ct_round_up((2 * CT_PAGE_TOKENS * max_d_head + CT_MAX_QUERIES * per_query) * sizeof(float) + 1024, 64);
}

typedef struct attend_job {
    const ct_exec *exec;
    const ct_kv_layout *kv;
    const ct_run *runs;
    const float *q;
    float *out;
    size_t layer, n_runs, n_heads, window;
    float scale;
    size_t group;      /* query heads per kv head */
    size_t part_heads; /* query heads of a tile */
    size_t n_parts;    /* tiles per kv head and token range */
    size_t tile_tokens;
} attend_job;

static void attend_range(const attend_job *j, const ct_run *run, size_t kv_head, size_t first_head, size_t n_heads, size_t first_tok,
                         size_t n_tok, uint8_t *scratch)
{
    const ct_kv_layout *kv = j->kv;
    size_t n_q = n_tok * n_heads;
    int32_t begin[CT_MAX_QUERIES], end[CT_MAX_QUERIES];
    float *q = (float *)(void *)scratch, *o = q + ct_round_up(n_q * kv->d_k, 16), *l = o + ct_round_up(n_q * kv->d_v, 16);
    float *m = l + n_q * 16, *rest = m + ct_round_up(n_q, 16);
    ct_attn_tile tile = {.n_q = n_q, .d_k = kv->d_k, .d_v = kv->d_v, .q = q, .begin = begin, .end = end, .m = m, .l = l, .o = o, .scratch = rest};

    for (size_t t = 0; t < n_tok; t++)
        for (size_t h = 0; h < n_heads; h++) {
            const float *from = j->q + ((run->first + first_tok + t) * j->n_heads + first_head + h) * kv->d_k;
            float *to = q + (t * n_heads + h) * kv->d_k;
            for (size_t d = 0; d < kv->d_k; d++) to[d] = from[d] * j->scale;
            m[t * n_heads + h] = -INFINITY;
        }
    memset(l, 0, n_q * 16 * sizeof *l);
    memset(o, 0, n_q * kv->d_v * sizeof *o);

    size_t first_pos = run->pos + first_tok, last_pos = first_pos + n_tok - 1;
    size_t oldest = j->window > 0 && first_pos + 1 > j->window ? first_pos + 1 - j->window : 0;
    for (size_t p = oldest / CT_PAGE_TOKENS; p <= last_pos / CT_PAGE_TOKENS; p++) {
        size_t page_pos = p * CT_PAGE_TOKENS;
        for (size_t t = 0; t < n_tok; t++) {
            size_t pos = first_pos + t;
            size_t from = j->window > 0 && pos + 1 > j->window ? pos + 1 - j->window : 0;
            int32_t lo = from > page_pos ? (int32_t)ct_min_size(from - page_pos, CT_PAGE_TOKENS) : 0;
            int32_t hi = pos + 1 > page_pos ? (int32_t)ct_min_size(pos + 1 - page_pos, CT_PAGE_TOKENS) : 0;
            for (size_t h = 0; h < n_heads; h++) begin[t * n_heads + h] = lo, end[t * n_heads + h] = hi;
        }
        if (p < last_pos / CT_PAGE_TOKENS) { /* pages lie apart: the hardware does not guess the next one */
            const uint8_t *next = head_page(kv, run->pages[p + 1], j->layer, kv_head);
            for (size_t b = 0; b < kv->head_bytes; b += 64) __builtin_prefetch(next + b, 0, 2);
        }
        const uint8_t *at = head_page(kv, run->pages[p], j->layer, kv_head);
        if (kv->type == CT_KV_I8) {
            const int8_t *kt = (const int8_t *)at, *v = kt + CT_PAGE_TOKENS * kv->d_k;
            const float *k_scale = (const float *)(const void *)(v + CT_PAGE_TOKENS * kv->d_v);
            ct_page_i8 page = {kt, k_scale, v, k_scale + CT_PAGE_TOKENS * ct_kv_blocks(kv->d_k)};
            j->exec->k->attend_i8(&tile, &page);
        } else if (kv->type == CT_KV_F32) {
            const float *kt = (const float *)(const void *)at;
            j->exec->k->attend_f32(&tile, kt, kt + CT_PAGE_TOKENS * kv->d_k);
        } else {
            const uint16_t *kt = (const uint16_t *)(const void *)at;
            j->exec->k->attend_f16(&tile, kt, kt + CT_PAGE_TOKENS * kv->d_k);
        }
    }
    for (size_t t = 0; t < n_tok; t++)
        for (size_t h = 0; h < n_heads; h++) {
            size_t i = t * n_heads + h;
            float *sum = l + i * 16, *to = j->out + ((run->first + first_tok + t) * j->n_heads + first_head + h) * kv->d_v;
            for (size_t half = 8; half >= 1; half /= 2)
                for (size_t lane = 0; lane < half; lane++) sum[lane] += sum[lane + half];
            for (size_t c = 0; c < kv->d_v; c++) to[c] = o[i * kv->d_v + c] / sum[0];
        }
}

static size_t token_tiles(const attend_job *j, const ct_run *run) { return (run->n_tok + j->tile_tokens - 1) / j->tile_tokens; }

static void attend_tile(void *ctx, size_t tile, int thread)
{
    const attend_job *j = ctx;
    size_t per_range = j->kv->n_kv_heads * j->n_parts;
    const ct_run *run = j->runs;
    while (tile >= token_tiles(j, run) * per_range) tile -= token_tiles(j, run++) * per_range;
    size_t range = tile / per_range, kv_head = tile % per_range / j->n_parts, part = tile % j->n_parts;
    size_t first_tok = range * j->tile_tokens, first = part * j->part_heads;
    attend_range(j, run, kv_head, kv_head * j->group + first, ct_min_size(j->part_heads, j->group - first), first_tok,
                 ct_min_size(j->tile_tokens, run->n_tok - first_tok), ct_thread_scratch(j->exec, thread));
}

void ct_attention(const ct_exec *exec, const ct_kv_layout *kv, size_t layer, const ct_run *runs, size_t n_runs, const float *q,
                  float *out, size_t n_heads, size_t window, float scale)
{
    attend_job j = {.exec = exec, .kv = kv, .runs = runs, .q = q, .out = out, .layer = layer, .n_runs = n_runs, .n_heads = n_heads,
                    .window = window, .scale = scale, .group = n_heads / kv->n_kv_heads};
    size_t n_tok = 0, n_tiles = 0, n_threads = (size_t)ct_pool_threads(exec->pool);
    for (size_t i = 0; i < n_runs; i++) n_tok += runs[i].n_tok;
    j.part_heads = ct_min_size(j.group, TILE_QUERIES);
    if (n_tok * kv->n_kv_heads < 2 * n_threads) j.part_heads = (j.part_heads + 1) / 2; /* few tokens: finer tiles for balance */
    j.n_parts = (j.group + j.part_heads - 1) / j.part_heads;
    j.tile_tokens = TILE_QUERIES / j.part_heads;
    for (size_t i = 0; i < n_runs; i++) n_tiles += token_tiles(&j, &runs[i]) * kv->n_kv_heads * j.n_parts;
    ct_pool_run(exec->pool, attend_tile, &j, n_tiles);
}
