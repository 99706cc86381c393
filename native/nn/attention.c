/* attention.c: the pages of keys and values, and grouped-query attention, causal or not, that walks them with an online softmax
 * (Milakov & Gimelshein 2018, arXiv:1805.02867; tiled as in Dao et al. 2022, arXiv:2205.14135).
 *
 * A tile is a range of tokens of one sequence with all (or some) query heads of one kv head, so that a page is converted and read
 * once for all of them. Pages are visited in order of position, in segments of SEGMENT_PAGES; each segment has an online softmax of
 * its own, and their results are merged in order. So a token's result is always the same, whatever the tile, and where there are
 * fewer tiles than threads could use, the segments of a long context are tiles, too. */
#include <math.h>
#include <string.h>

#include "nn/nn.h"
#include "nn/scratch.h"

enum {
    TILE_QUERIES = 48,
    SEGMENT_PAGES = 32
};

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
    const ct_attn *attn;
    float *q, *k;
    const float *v;
    size_t n_runs, tile_tokens;
} store_job;

/* Norm and rotation of the heads of one token. */
static void prepare_heads(const store_job *j, float *x, size_t n_heads, const ct_norm *norm, size_t row)
{
    const ct_attn *a = j->attn;
    size_t d = j->kv->d_k;
    if (norm->weight != NULL && a->norm_whole) ct_norm_row(j->exec->k, norm, x, x, n_heads * d);
    else if (norm->weight != NULL) {
        ct_norm head = *norm;
        for (size_t h = 0; h < n_heads; h++) {
            if (a->norm_per_head) head.weight = norm->weight + h * d;
            ct_norm_row(j->exec->k, &head, x + h * d, x + h * d, d);
        }
    }
    if (a->angles != NULL) ct_rope_apply(x + a->rot_first, n_heads, d, a->n_rot, a->pairs, a->angles + row * a->n_rot);
}

static void store_head(const store_job *j, uint8_t *page, size_t head, size_t slot, const float *k, const float *v)
{
    const ct_kv_layout *kv = j->kv;
    uint8_t *at = head_page(kv, page, j->attn->layer, head);
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
            prepare_heads(j, j->q + row * j->attn->n_heads * kv->d_k, j->attn->n_heads, &j->attn->q_norm, row);
            if (j->k == NULL) continue;
            float *k = j->k + row * kv->n_kv_heads * kv->d_k;
            const float *v = j->v + row * kv->n_kv_heads * kv->d_v;
            prepare_heads(j, k, kv->n_kv_heads, &j->attn->k_norm, row);
            for (size_t h = 0; h < kv->n_kv_heads; h++)
                store_head(j, run->pages[pos / CT_PAGE_TOKENS], h, pos % CT_PAGE_TOKENS, k + h * kv->d_k, v + h * kv->d_v);
        }
    }
}

void ct_store_keys(const ct_exec *exec, const ct_kv_layout *kv, const ct_attn *attn, const ct_run *runs, size_t n_runs, float *q, float *k,
                   const float *v)
{
    size_t n_tok = n_runs == 0 ? 0 : runs[n_runs - 1].first + runs[n_runs - 1].n_tok;
    size_t share = (n_tok + (size_t)ct_pool_threads(exec->pool) - 1) / (size_t)ct_pool_threads(exec->pool);
    store_job j = {exec, kv, runs, attn, q, k, v, n_runs, ct_min_size(share, CT_PAGE_TOKENS)};
    if (n_tok > 0) ct_pool_run(exec->pool, store_tile, &j, (n_tok + j.tile_tokens - 1) / j.tile_tokens);
}

/* ---- attending ---- */

size_t ct_scratch_attention_bytes(size_t max_d_head)
{
    size_t per_query = 3 * max_d_head + 2 * 16 + 32 + 5; /* q, o and l of a segment and in all, scores, m twice, begin, end */
    return ct_round_up((2 * CT_PAGE_TOKENS * max_d_head + CT_MAX_QUERIES * per_query) * sizeof(float) + 1024, 64);
}

typedef struct attend_job {
    const ct_exec *exec;
    const ct_kv_layout *kv;
    const ct_run *runs;
    const float *q;
    const ct_attn *attn;
    float *out;
    size_t layer, n_runs, n_heads, window;
    size_t group;      /* query heads per kv head */
    size_t part_heads; /* query heads of a tile */
    size_t n_parts;    /* tiles per kv head and token range */
    size_t tile_tokens;
    size_t n_segments; /* tiles of segments: most of any run; 0: a tile goes through all segments */
} attend_job;

/* What an online softmax over some keys leaves of a query: the largest score, lane sums of exp, weighted sum of values. */
typedef struct query_state {
    float *m, *l, *o; /* [1], [16], [d_v] */
} query_state;

/* x = x * a + y * b, where a or b is 1: multiplying by it changes nothing. */
static void blend(float *restrict x, const float *restrict y, size_t n, float a, float b)
{
    if (a == 1.0f)
        for (size_t i = 0; i < n; i++) x[i] += y[i] * b;
    else
        for (size_t i = 0; i < n; i++) x[i] = x[i] * a + y[i];
}

/* total = total and then part: m = max; the others * exp(their m - m), added. A part that saw no key changes nothing. */
static void merge(const ct_kernels *k, query_state total, query_state part, size_t d_v)
{
    if (*part.m == -INFINITY) return;
    float a = 1.0f, b = 1.0f;
    if (*part.m > *total.m) {
        a = *total.m == -INFINITY ? 0.0f : ct_exp_of(k, *total.m - *part.m);
        *total.m = *part.m;
    } else b = ct_exp_of(k, *part.m - *total.m);
    blend(total.l, part.l, 16, a, b);
    blend(total.o, part.o, d_v, a, b);
}

static void clear(float *m, float *l, float *o, size_t n_q, size_t d_v)
{
    for (size_t i = 0; i < n_q; i++) m[i] = -INFINITY;
    memset(l, 0, n_q * 16 * sizeof *l);
    memset(o, 0, n_q * d_v * sizeof *o);
}

/* out [d_v] = o / (sum16(l) + exp(sink - m)); l is used up. */
static void finish(const attend_job *j, float *restrict out, float m, float *restrict l, const float *restrict o, size_t head)
{
    for (size_t half = 8; half >= 1; half /= 2)
        for (size_t lane = 0; lane < half; lane++) l[lane] += l[lane + half];
    float sum = l[0];
    if (j->attn->sinks != NULL) sum += ct_exp_of(j->exec->k, j->attn->sinks[head] - m);
    for (size_t c = 0; c < j->kv->d_v; c++) out[c] = o[c] / sum;
}

static float *query_out(const attend_job *j, size_t row, size_t head) { return j->out + (row * j->n_heads + head) * j->kv->d_v; }

/* Where a tile leaves the state of a query over one segment. */
static query_state saved_state(const attend_job *j, size_t row, size_t head, size_t segment)
{
    size_t elems = 1 + 16 + j->kv->d_v;
    float *at = j->exec->attn_states + ((row * j->n_heads + head) * j->n_segments + segment) * elems;
    return (query_state){at, at + 1, at + 17};
}

static size_t oldest_pos(const attend_job *j, size_t pos) { return j->window > 0 && pos + 1 > j->window ? pos + 1 - j->window : 0; }

/* One behind the last position that a token sees. */
static size_t seen_end(const attend_job *j, const ct_run *run, size_t pos) { return j->attn->both_ways ? run->pos + run->n_tok : pos + 1; }

static size_t segment_of(size_t pos) { return pos / (CT_PAGE_TOKENS * SEGMENT_PAGES); }

/* Segments that the tokens of a run see: from segment_of(oldest key of the first token) on. */
static size_t run_segments(const attend_job *j, const ct_run *run)
{
    return segment_of(run->pos + run->n_tok - 1) - segment_of(oldest_pos(j, run->pos)) + 1;
}

/* One page for the tokens first_pos … first_pos + n_tok - 1 with n_heads heads each. */
static void attend_page(const attend_job *j, ct_attn_tile *tile, int32_t *begin, int32_t *end, const ct_run *run, size_t kv_head, size_t p,
                        size_t first_pos, size_t n_tok, size_t n_heads)
{
    const ct_kv_layout *kv = j->kv;
    size_t page_pos = p * CT_PAGE_TOKENS;
    for (size_t t = 0; t < n_tok; t++) {
        size_t pos = first_pos + t, from = oldest_pos(j, pos), seen = seen_end(j, run, pos);
        int32_t lo = from > page_pos ? (int32_t)ct_min_size(from - page_pos, CT_PAGE_TOKENS) : 0;
        int32_t hi = seen > page_pos ? (int32_t)ct_min_size(seen - page_pos, CT_PAGE_TOKENS) : 0;
        for (size_t h = 0; h < n_heads; h++) begin[t * n_heads + h] = lo, end[t * n_heads + h] = hi;
    }
    if (p < (seen_end(j, run, first_pos + n_tok - 1) - 1) / CT_PAGE_TOKENS) { /* pages lie apart: the hardware does not guess the next one */
        const uint8_t *next = head_page(kv, run->pages[p + 1], j->layer, kv_head);
        for (size_t b = 0; b < kv->head_bytes; b += 64) __builtin_prefetch(next + b, 0, 2);
    }
    const uint8_t *at = head_page(kv, run->pages[p], j->layer, kv_head);
    if (kv->type == CT_KV_I8) {
        const int8_t *kt = (const int8_t *)at, *v = kt + CT_PAGE_TOKENS * kv->d_k;
        const float *k_scale = (const float *)(const void *)(v + CT_PAGE_TOKENS * kv->d_v);
        ct_page_i8 page = {kt, k_scale, v, k_scale + CT_PAGE_TOKENS * ct_kv_blocks(kv->d_k)};
        j->exec->k->attend_i8(tile, &page);
    } else if (kv->type == CT_KV_F32) {
        const float *kt = (const float *)(const void *)at;
        j->exec->k->attend_f32(tile, kt, kt + CT_PAGE_TOKENS * kv->d_k);
    } else {
        const uint16_t *kt = (const uint16_t *)(const void *)at;
        j->exec->k->attend_f16(tile, kt, kt + CT_PAGE_TOKENS * kv->d_k);
    }
}

/* n_tok tokens of a run from first_tok on, with n_heads query heads of one kv head. only: the one segment to go through (counted from
 * the run's first), whose state is saved; SIZE_MAX: all, and the results are written. */
static void attend_range(const attend_job *j, const ct_run *run, size_t kv_head, size_t first_head, size_t n_heads, size_t first_tok,
                         size_t n_tok, size_t only, uint8_t *scratch)
{
    const ct_kv_layout *kv = j->kv;
    size_t n_q = n_tok * n_heads, first_row = run->first + first_tok;
    int32_t begin[CT_MAX_QUERIES], end[CT_MAX_QUERIES];
    float *q = (float *)(void *)scratch, *o = q + ct_round_up(n_q * kv->d_k, 16), *l = o + ct_round_up(n_q * kv->d_v, 16);
    float *m = l + n_q * 16, *all_o = m + ct_round_up(n_q, 16), *all_l = all_o + ct_round_up(n_q * kv->d_v, 16);
    float *all_m = all_l + n_q * 16, *rest = all_m + ct_round_up(n_q, 16);
    ct_attn_tile tile = {.n_q = n_q, .d_k = kv->d_k, .d_v = kv->d_v, .softcap = j->attn->softcap, .q = q, .begin = begin, .end = end, .m = m, .l = l, .o = o, .scratch = rest};

    for (size_t t = 0; t < n_tok; t++)
        for (size_t h = 0; h < n_heads; h++) {
            const float *restrict from = j->q + ((first_row + t) * j->n_heads + first_head + h) * kv->d_k;
            float *restrict to = q + (t * n_heads + h) * kv->d_k;
            for (size_t d = 0; d < kv->d_k; d++) to[d] = from[d] * j->attn->scale;
        }
    size_t first_pos = run->pos + first_tok, last_page = (seen_end(j, run, first_pos + n_tok - 1) - 1) / CT_PAGE_TOKENS;
    size_t first_page = oldest_pos(j, first_pos) / CT_PAGE_TOKENS;
    size_t segment = first_page / SEGMENT_PAGES, last_segment = last_page / SEGMENT_PAGES;
    bool several = only == SIZE_MAX && segment < last_segment;
    if (only != SIZE_MAX) segment = last_segment = segment_of(oldest_pos(j, run->pos)) + only;
    if (several) clear(all_m, all_l, all_o, n_q, kv->d_v);
    for (; segment <= last_segment; segment++) {
        size_t from = segment * SEGMENT_PAGES > first_page ? segment * SEGMENT_PAGES : first_page;
        size_t to = ct_min_size((segment + 1) * SEGMENT_PAGES, last_page + 1);
        clear(m, l, o, n_q, kv->d_v);
        for (size_t p = from; p < to; p++) attend_page(j, &tile, begin, end, run, kv_head, p, first_pos, n_tok, n_heads);
        for (size_t i = 0; several && i < n_q; i++)
            merge(j->exec->k, (query_state){all_m + i, all_l + i * 16, all_o + i * kv->d_v}, (query_state){m + i, l + i * 16, o + i * kv->d_v}, kv->d_v);
    }
    for (size_t i = 0; i < n_q; i++) {
        size_t row = first_row + i / n_heads, head = first_head + i % n_heads;
        if (only == SIZE_MAX) {
            finish(j, query_out(j, row, head), (several ? all_m : m)[i], (several ? all_l : l) + i * 16, (several ? all_o : o) + i * kv->d_v, head);
            continue;
        }
        query_state state = saved_state(j, row, head, only);
        *state.m = m[i];
        memcpy(state.l, l + i * 16, 16 * sizeof *l);
        memcpy(state.o, o + i * kv->d_v, kv->d_v * sizeof *o);
    }
}

static size_t token_tiles(const attend_job *j, const ct_run *run) { return (run->n_tok + j->tile_tokens - 1) / j->tile_tokens; }

static void attend_tile(void *ctx, size_t tile, int thread)
{
    const attend_job *j = ctx;
    size_t n_segments = j->n_segments > 0 ? j->n_segments : 1, per_range = j->kv->n_kv_heads * j->n_parts * n_segments;
    const ct_run *run = j->runs;
    while (tile >= token_tiles(j, run) * per_range) tile -= token_tiles(j, run++) * per_range;
    size_t range = tile / per_range, segment = tile % n_segments, part = tile / n_segments % j->n_parts;
    size_t kv_head = tile % per_range / n_segments / j->n_parts, first_tok = range * j->tile_tokens, first = part * j->part_heads;
    if (j->n_segments > 0 && segment >= run_segments(j, run)) return;
    attend_range(j, run, kv_head, kv_head * j->group + first, ct_min_size(j->part_heads, j->group - first), first_tok,
                 ct_min_size(j->tile_tokens, run->n_tok - first_tok), j->n_segments > 0 ? segment : SIZE_MAX,
                 ct_thread_scratch(j->exec, thread));
}

/* The saved states of all segments of a run's tokens, merged in order. */
static void merge_run(const attend_job *j, const ct_run *run)
{
    size_t n_segments = run_segments(j, run);
    for (size_t row = run->first; row < run->first + run->n_tok; row++)
        for (size_t head = 0; head < j->n_heads; head++) {
            query_state total = saved_state(j, row, head, 0);
            for (size_t i = 1; i < n_segments; i++) {
                query_state part = saved_state(j, row, head, i);
                if (*total.m == -INFINITY) total = part; /* as merge would leave it */
                else merge(j->exec->k, total, part, j->kv->d_v);
            }
            finish(j, query_out(j, row, head), *total.m, total.l, total.o, head);
        }
}

void ct_attention(const ct_exec *exec, const ct_kv_layout *kv, const ct_attn *attn, const ct_run *runs, size_t n_runs, const float *q,
                  float *out)
{
    size_t n_heads = attn->n_heads;
    attend_job j = {.exec = exec, .kv = kv, .runs = runs, .q = q, .attn = attn, .out = out, .layer = attn->layer, .n_runs = n_runs,
                    .n_heads = n_heads, .window = attn->window, .group = n_heads / kv->n_kv_heads};
    size_t n_tok = 0, n_tiles = 0, n_rows = 0, n_segments = 1, n_threads = (size_t)ct_pool_threads(exec->pool);
    for (size_t i = 0; i < n_runs; i++) {
        size_t n = run_segments(&j, &runs[i]);
        n_tok += runs[i].n_tok;
        if (runs[i].first + runs[i].n_tok > n_rows) n_rows = runs[i].first + runs[i].n_tok;
        if (n > n_segments) n_segments = n;
    }
    j.part_heads = ct_min_size(j.group, TILE_QUERIES);
    if (n_threads > 1 && n_tok * kv->n_kv_heads < 2 * n_threads) { /* few tokens: finer tiles for balance */
        if (n_segments > 1 && n_rows * n_heads * n_segments <= exec->attn_states_elems / (17 + kv->d_v)) j.n_segments = n_segments;
        else j.part_heads = (j.part_heads + 1) / 2;
    }
    j.n_parts = (j.group + j.part_heads - 1) / j.part_heads;
    j.tile_tokens = TILE_QUERIES / j.part_heads;
    for (size_t i = 0; i < n_runs; i++) n_tiles += token_tiles(&j, &runs[i]) * kv->n_kv_heads * j.n_parts * (j.n_segments > 0 ? j.n_segments : 1);
    ct_pool_run(exec->pool, attend_tile, &j, n_tiles);
    for (size_t i = 0; j.n_segments > 0 && i < n_runs; i++) merge_run(&j, &runs[i]);
}
