/* tokenizer.c: the vocabulary of a GGUF file, special tokens in text, and the public functions. */
#include "tokenizer/tokenizer.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tokenizer/internal.h"

enum {
    MAX_TOKENS = 1 << 24,
    MAX_TOKEN_BYTES = 65535,
    MAX_SPECIAL_BYTES = 1024, /* bounds the time that one place of a text can take */
    MAX_TEXT_BYTES = INT32_MAX
};

/* tokenizer.ggml.token_type */
enum {
    TYPE_UNDEFINED = 0,
    TYPE_NORMAL = 1,
    TYPE_UNKNOWN = 2,
    TYPE_CONTROL = 3,
    TYPE_USER_DEFINED = 4,
    TYPE_UNUSED = 5,
    TYPE_BYTE = 6
};

static const ct_tokenizer_model *const models[] = {&ct_bpe_model,     &ct_raw_bpe_model,   &ct_spm_model,
                                                   &ct_unigram_model, &ct_wordpiece_model, &ct_rwkv_model};

/* Control tokens by which chat models end a turn, in the order in which one is taken for the end-of-turn token where the file
 * names none; then others after which nothing belongs to the answer: the end of a document, of a message or of a tool call, and
 * what opens the next file of a training document. The texts are those that llama.cpp goes by. */
static const char *const end_of_turn[] = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<end_of_utterance>",
                                          "<turn|>", "<EOT>", "_<EOT>", "[EOT]"};
static const char *const end_of_text[] = {
    "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<|tool_response>",
    "</s>", "<eos>", "[EOS]", "[e~[", "<｜end▁of▁sentence｜>",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
    "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"};

#define COUNT(array_) (sizeof(array_) / sizeof(array_)[0])

/* ---- small helpers ---- */

const char *ct_quote(ct_str text, char out[CT_QUOTED_BYTES])
{
    size_t n = 0, shown = ct_min_size(text.size, 64);
    for (size_t i = 0; i < shown; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (c >= 0x20 && c < 0x7F)
            out[n++] = (char)c;
        else
            n += (size_t)snprintf(out + n, 5, "\\x%02x", c);
    }
    snprintf(out + n, 4, "%s", shown < text.size ? "..." : "");
    return out;
}

uint64_t ct_hash_seed(const void *any)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    return ct_hash_mix((uint64_t)(uintptr_t)any ^ (uint64_t)now.tv_sec << 30 ^ (uint64_t)now.tv_nsec);
}

size_t ct_hash_slots(size_t n)
{
    size_t slots = 16;
    while (slots / 3 * 2 < n) {
        if (slots > SIZE_MAX / 4) return 0;
        slots *= 2;
    }
    return slots;
}

static char *copy_str(ct_str s)
{
    char *copy = ct_alloc(s.size + 1, 1);
    if (copy != NULL && s.size > 0) memcpy(copy, s.data, s.size);
    return copy;
}

/* ---- bytes -> id ---- */

uint64_t ct_vocab_prefetch(const ct_vocab_index *index, const void *bytes, size_t n_bytes)
{
    uint64_t hash = ct_hash_bytes(bytes, n_bytes, index->seed);
    CT_PREFETCH(&index->slots[(size_t)hash & index->mask]);
    return hash;
}

int32_t ct_vocab_find(const ct_vocab *vocab, const ct_vocab_index *index, const void *bytes, size_t n_bytes)
{
    return ct_vocab_find_hashed(vocab, index, ct_hash_bytes(bytes, n_bytes, index->seed), bytes, n_bytes);
}

int32_t ct_vocab_find_hashed(const ct_vocab *vocab, const ct_vocab_index *index, uint64_t hash, const void *bytes,
                             size_t n_bytes)
{
    if (n_bytes == 0) return -1;
    for (size_t i = (size_t)hash & index->mask;; i = (i + 1) & index->mask) {
        uint64_t slot = index->slots[i];
        if (slot == 0) return -1;
        if (slot >> 32 != hash >> 32) continue;
        int32_t id = (int32_t)((uint32_t)slot - 1);
        if (ct_vocab_size(vocab, id) == n_bytes && memcmp(ct_vocab_bytes(vocab, id), bytes, n_bytes) == 0) return id;
    }
}

/* Enters a token unless one of the same bytes is there, whose id it then returns; -1 if it went in. */
static int32_t index_add(const ct_vocab *vocab, ct_vocab_index *index, int32_t id)
{
    const uint8_t *bytes = ct_vocab_bytes(vocab, id);
    size_t n_bytes = ct_vocab_size(vocab, id);
    uint64_t hash = ct_hash_bytes(bytes, n_bytes, index->seed);
    size_t i = (size_t)hash & index->mask;
    for (; index->slots[i] != 0; i = (i + 1) & index->mask) {
        if (index->slots[i] >> 32 != hash >> 32) continue;
        int32_t other = (int32_t)((uint32_t)index->slots[i] - 1);
        if (ct_vocab_size(vocab, other) == n_bytes && memcmp(ct_vocab_bytes(vocab, other), bytes, n_bytes) == 0) return other;
    }
    index->slots[i] = (hash >> 32) << 32 | ((uint32_t)id + 1);
    return -1;
}

/* ---- loading the vocabulary ---- */

static uint8_t attr_of_type(int64_t type)
{
    switch (type) {
    case TYPE_UNKNOWN: return CACTUS_TOKEN_UNKNOWN;
    case TYPE_CONTROL: return CACTUS_TOKEN_CONTROL;
    case TYPE_USER_DEFINED: return CACTUS_TOKEN_USER_DEFINED;
    case TYPE_UNDEFINED: return CACTUS_TOKEN_UNUSED;
    case TYPE_UNUSED: return CACTUS_TOKEN_UNUSED;
    case TYPE_BYTE: return CACTUS_TOKEN_BYTE;
    default: return CACTUS_TOKEN_NORMAL;
    }
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte of "<0x41>", or -1. */
static int byte_of_text(ct_str text)
{
    if (text.size != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>') return -1;
    int high = hex_digit(text.data[3]), low = hex_digit(text.data[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* Reads tokens and their types; texts[id] points into the file. */
static cactus_status read_tokens(cactus_tokenizer *t, const ct_gguf *gguf, ct_str **texts, cactus_error *err)
{
    const ct_gguf_kv *tokens = NULL, *types = NULL;
    bool typed = false;
    cactus_status status = ct_gguf_get_array(gguf, "tokenizer.ggml.tokens", CT_GGUF_STRING, &tokens, NULL, err);
    if (status == CACTUS_OK) status = ct_gguf_get_array(gguf, "tokenizer.ggml.token_type", CT_GGUF_I32, &types, &typed, err);
    if (status != CACTUS_OK) return status;
    if (tokens->count == 0 || tokens->count > MAX_TOKENS)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "tokenizer.ggml.tokens has %llu entries, not 1 to %d",
                       (unsigned long long)tokens->count, MAX_TOKENS);
    if (typed && types->count != tokens->count)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "tokenizer.ggml.token_type has %llu entries for %llu tokens",
                       (unsigned long long)types->count, (unsigned long long)tokens->count);
    if (tokens->n_bytes > UINT32_MAX)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "tokenizer.ggml.tokens has %zu bytes, more than %u", tokens->n_bytes, UINT32_MAX);

    ct_vocab *v = &t->vocab;
    v->n = (int32_t)tokens->count;
    v->at = ct_alloc((size_t)v->n + 1, sizeof *v->at);
    v->attr = ct_alloc((size_t)v->n, 1);
    v->bytes = ct_alloc(tokens->n_bytes, 1);
    *texts = ct_alloc((size_t)v->n, sizeof **texts);
    if (v->at == NULL || v->attr == NULL || v->bytes == NULL || *texts == NULL)
        return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for %d tokens", (int)v->n);

    size_t offset = 0, n_bytes = 0;
    for (int32_t id = 0; id < v->n; id++) {
        ct_str text = ct_gguf_array_next_str(tokens, &offset);
        int64_t type = typed ? ct_gguf_array_i64(types, (uint64_t)id) : TYPE_NORMAL;
        if (type < TYPE_UNDEFINED || type > TYPE_BYTE)
            return ct_fail(err, CACTUS_ERROR_FORMAT, "token %d has type %lld, not 0 to %d", (int)id, (long long)type, TYPE_BYTE);
        if (text.size > MAX_TOKEN_BYTES)
            return ct_fail(err, CACTUS_ERROR_FORMAT, "token %d has %zu bytes, more than %d", (int)id, text.size, MAX_TOKEN_BYTES);
        (*texts)[id] = text;
        v->at[id] = (uint32_t)n_bytes;
        v->attr[id] = attr_of_type(type);
        int byte = type == TYPE_BYTE ? byte_of_text(text) : -1;
        if (byte >= 0)
            v->bytes[n_bytes++] = (uint8_t)byte;
        else if (type == TYPE_NORMAL || type == TYPE_BYTE || (type == TYPE_USER_DEFINED && t->model->decode_user_defined))
            n_bytes += t->model->decode(text, v->bytes + n_bytes);
        else if (v->attr[id] != CACTUS_TOKEN_UNUSED && text.size > 0) { /* unused tokens stand for nothing */
            memcpy(v->bytes + n_bytes, text.data, text.size);
            n_bytes += text.size;
        }
    }
    v->at[v->n] = (uint32_t)n_bytes;
    return CACTUS_OK;
}

/* Enters all tokens into the index. Two tokens may stand for the same bytes (" " and its form in the alphabet of bytes), but no
 * two may have the same text. */
static cactus_status index_tokens(const ct_vocab *v, const ct_str *texts, ct_vocab_index *index, cactus_error *err)
{
    size_t n_slots = ct_hash_slots((size_t)v->n);
    index->slots = ct_alloc(n_slots, sizeof *index->slots);
    if (index->slots == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for %d tokens", (int)v->n);
    index->mask = n_slots - 1;
    index->seed = ct_hash_seed(index->slots);
    for (int normal = 1; normal >= 0; normal--) {
        for (int32_t id = 0; id < v->n; id++) {
            if ((v->attr[id] == CACTUS_TOKEN_NORMAL) != normal || ct_vocab_size(v, id) == 0) continue;
            int32_t other = index_add(v, index, id);
            if (other < 0 || texts[other].size != texts[id].size) continue;
            if (memcmp(texts[other].data, texts[id].data, texts[id].size) != 0) continue;
            char quoted[CT_QUOTED_BYTES];
            return ct_fail(err, CACTUS_ERROR_FORMAT, "tokens %d and %d are both \"%s\"", (int)(other < id ? other : id),
                           (int)(other < id ? id : other), ct_quote(texts[id], quoted));
        }
    }
    return CACTUS_OK;
}

/* ---- special tokens ---- */

/* An absent key leaves *out, the model's own default, as it is, unless the vocabulary ends before it. */
static cactus_status read_id(const ct_gguf *gguf, const char *key, int32_t n_vocab, int32_t *out, cactus_error *err)
{
    int32_t id = *out < n_vocab ? *out : -1;
    bool found = false;
    cactus_status status = ct_gguf_get_i32(gguf, key, &id, &found, err);
    if (status != CACTUS_OK) return status;
    if (found && (id < 0 || id >= n_vocab))
        return ct_fail(err, CACTUS_ERROR_FORMAT, "%s is %d, not a token of 0 to %d", key, (int)id, (int)n_vocab - 1);
    *out = id;
    return CACTUS_OK;
}

/* The token of this text, or -1. What the texts here name is a control token whatever its type says, as in llama.cpp; but for
 * "</s>", with which HTML ends what is struck out: Gemma has a token for that, which is text. */
static int32_t find_control(ct_vocab *v, const ct_vocab_index *index, const char *text)
{
    int32_t id = ct_vocab_find(v, index, text, strlen(text));
    if (id < 0 || (v->attr[id] & CACTUS_TOKEN_CONTROL) != 0) return id;
    if ((v->attr[id] & (CACTUS_TOKEN_UNUSED | CACTUS_TOKEN_BYTE)) != 0 || strcmp(text, "</s>") == 0) return -1;
    v->attr[id] = CACTUS_TOKEN_CONTROL;
    return id;
}

static void mark_end(ct_vocab *v, int32_t id)
{
    if (id >= 0) v->attr[id] |= CACTUS_TOKEN_END;
}

static cactus_status read_special_ids(cactus_tokenizer *t, const ct_gguf *gguf, const ct_vocab_index *index, cactus_error *err)
{
    ct_vocab *v = &t->vocab;
    const ct_tokenizer_model *m = t->model;
    int32_t eom_id = -1, cls_id = m->add_sep ? m->bos_id : -1, fim_pad_id = -1, fim_rep_id = -1, fim_sep_id = -1;
    t->bos_id = m->bos_id;
    t->eos_id = m->eos_id;
    t->unk_id = m->unk_id;
    t->sep_id = m->sep_id;
    t->pad_id = m->pad_id;
    t->eot_id = t->mask_id = -1;
    const struct {
        const char *key;
        int32_t *id;
    } keys[] = {
        {"tokenizer.ggml.cls_token_id", &cls_id},         {"tokenizer.ggml.bos_token_id", &t->bos_id},
        {"tokenizer.ggml.eos_token_id", &t->eos_id},      {"tokenizer.ggml.eot_token_id", &t->eot_id},
        {"tokenizer.ggml.eom_token_id", &eom_id},         {"tokenizer.ggml.padding_token_id", &t->pad_id},
        {"tokenizer.ggml.unknown_token_id", &t->unk_id},  {"tokenizer.ggml.seperator_token_id", &t->sep_id}, /* sic */
        {"tokenizer.ggml.mask_token_id", &t->mask_id},    {"tokenizer.ggml.fim_pad_token_id", &fim_pad_id},
        {"tokenizer.ggml.fim_rep_token_id", &fim_rep_id}, {"tokenizer.ggml.fim_sep_token_id", &fim_sep_id},
    };
    for (size_t i = 0; i < COUNT(keys); i++) {
        cactus_status status = read_id(gguf, keys[i].key, v->n, keys[i].id, err);
        if (status != CACTUS_OK) return status;
    }
    if (m->add_sep && ct_gguf_find_kv(gguf, "tokenizer.ggml.bos_token_id") == NULL) t->bos_id = cls_id;

    bool add_bos = m->add_bos || (ct_pretokenizer_flags(t->pre) & CT_PRE_ADD_BOS) != 0, found = false;
    bool add_eos = m->add_eos;
    t->add_space_prefix = m->add_space_prefix;
    cactus_status status = ct_gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", &add_bos, &found, err);
    if (status == CACTUS_OK) status = ct_gguf_get_bool(gguf, "tokenizer.ggml.add_eos_token", &add_eos, &found, err);
    if (status == CACTUS_OK)
        status = ct_gguf_get_bool(gguf, "tokenizer.ggml.add_space_prefix", &t->add_space_prefix, &found, err);
    if (status == CACTUS_OK)
        status = ct_gguf_get_bool(gguf, "tokenizer.ggml.remove_extra_whitespaces", &t->remove_extra_spaces, &found, err);
    if (status == CACTUS_OK)
        status = ct_gguf_get_bool(gguf, "tokenizer.ggml.treat_whitespace_as_suffix", &t->space_is_suffix, &found, err);
    if (status != CACTUS_OK) return status;
    if (m->add_sep || (ct_pretokenizer_flags(t->pre) & CT_PRE_FORCE_BOS) != 0) add_bos = true;
    t->add_bos = add_bos && t->bos_id >= 0;
    t->add_eos = add_eos && !m->add_sep && t->eos_id >= 0;
    t->add_sep = m->add_sep && t->sep_id >= 0;

    /* Models that close their messages with <|return|> or <|call|> write <|end|> between the parts of one answer. */
    bool end_is_inner = find_control(v, index, "<|end|>") >= 0 &&
                        ((find_control(v, index, "<|return|>") >= 0 && find_control(v, index, "<|call|>") >= 0) ||
                         (find_control(v, index, "<|flush|>") >= 0 && find_control(v, index, "<|calls|>") >= 0));
    /* Models that wait for a tool behind <|tool_response> know "</s>" from HTML only. */
    bool s_is_text = find_control(v, index, "<|tool_response>") >= 0;
    for (size_t i = 0; i < COUNT(end_of_turn); i++) {
        int32_t id = find_control(v, index, end_of_turn[i]);
        if (id < 0 || (end_is_inner && strcmp(end_of_turn[i], "<|end|>") == 0)) continue;
        mark_end(v, id);
        if (t->eot_id < 0) t->eot_id = id;
    }
    for (size_t i = 0; i < COUNT(end_of_text); i++)
        if (!s_is_text || strcmp(end_of_text[i], "</s>") != 0) mark_end(v, find_control(v, index, end_of_text[i]));
    mark_end(v, t->eos_id);
    mark_end(v, t->eot_id);
    mark_end(v, eom_id);
    mark_end(v, fim_pad_id);
    mark_end(v, fim_rep_id);
    mark_end(v, fim_sep_id);
    if (t->eot_id == t->eos_id) t->eot_id = -1;
    return CACTUS_OK;
}

/* ASCII in lower case, whatever the locale. */
static bool contains_folded(ct_str text, const char *part)
{
    size_t n = strlen(part);
    for (size_t i = 0; i + n <= text.size; i++) {
        size_t k = 0;
        while (k < n && (text.data[i + k] >= 'A' && text.data[i + k] <= 'Z' ? text.data[i + k] + 32 : text.data[i + k]) == part[k]) k++;
        if (k == n) return true;
    }
    return false;
}

static void set_strip(cactus_tokenizer *t, const char *text, bool left, bool right)
{
    ct_special_set *sets[] = {&t->user_defined, &t->all_special};
    for (size_t k = 0; k < COUNT(sets); k++)
        for (size_t i = 0; i < sets[k]->n; i++) {
            ct_special *s = &sets[k]->items[i];
            if (text != NULL && (s->n_bytes != strlen(text) || memcmp(s->bytes, text, s->n_bytes) != 0)) continue;
            s->strip_left = left;
            s->strip_right = right;
        }
}

/* A file does not say which tokens take the white space next to them; llama.cpp knows these models, by the same marks. */
static cactus_status read_strips(cactus_tokenizer *t, const ct_gguf *gguf, cactus_error *err)
{
    ct_str name = {NULL, 0}, arch = {NULL, 0}, pre = {t->pre_name, strlen(t->pre_name)};
    bool found = false;
    cactus_status status = ct_gguf_get_str(gguf, "general.name", &name, &found, err);
    if (status == CACTUS_OK) status = ct_gguf_get_str(gguf, "general.architecture", &arch, &found, err);
    if (status != CACTUS_OK) return status;
    if (contains_folded(pre, "jina-v2-") || contains_folded(arch, "nomic-bert-moe") || contains_folded(arch, "jina-bert-v3"))
        set_strip(t, "<mask>", true, false);
    else if (contains_folded(name, "phi-3") || contains_folded(name, "phi3")) {
        set_strip(t, NULL, false, true);
        set_strip(t, "<unk>", false, false);
        set_strip(t, "<s>", false, false);
        set_strip(t, "<|endoftext|>", false, false);
    } else if (contains_folded(name, "modern-bert"))
        set_strip(t, "[MASK]", true, false);
    return CACTUS_OK;
}

cactus_status ct_read_scores(const ct_gguf *gguf, int32_t n_vocab, float **out, cactus_error *err)
{
    const ct_gguf_kv *kv = NULL;
    cactus_status status = ct_gguf_get_array(gguf, "tokenizer.ggml.scores", CT_GGUF_F32, &kv, NULL, err);
    if (status != CACTUS_OK) return status;
    if (kv->count != (uint64_t)n_vocab)
        return ct_fail(err, CACTUS_ERROR_FORMAT, "tokenizer.ggml.scores has %llu entries for %d tokens",
                       (unsigned long long)kv->count, (int)n_vocab);
    float *scores = ct_alloc((size_t)n_vocab, sizeof *scores);
    if (scores == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for the scores of %d tokens", (int)n_vocab);
    memcpy(scores, kv->data, (size_t)n_vocab * sizeof *scores);
    for (int32_t id = 0; id < n_vocab; id++) {
        if (isfinite(scores[id])) continue;
        ct_free(scores);
        return ct_fail(err, CACTUS_ERROR_FORMAT, "the score of token %d is not a finite number", (int)id);
    }
    *out = scores;
    return CACTUS_OK;
}

static int compare_specials(const void *a, const void *b)
{
    const ct_special *x = a, *y = b;
    int order = memcmp(x->bytes, y->bytes, ct_min_size(x->n_bytes, y->n_bytes));
    return order != 0 ? order : (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);
}

/* Collects the tokens that have one of these attributes. */
static cactus_status collect_specials(const ct_vocab *v, int attrs, ct_special_set *set, cactus_error *err)
{
    size_t n = 0;
    for (int32_t id = 0; id < v->n; id++) n += (v->attr[id] & attrs) != 0 && ct_vocab_size(v, id) > 0;
    if (n == 0) return CACTUS_OK;
    set->items = ct_alloc(n, sizeof *set->items);
    if (set->items == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for %zu special tokens", n);
    for (int32_t id = 0; id < v->n; id++) {
        if ((v->attr[id] & attrs) == 0 || ct_vocab_size(v, id) == 0) continue;
        if (ct_vocab_size(v, id) > MAX_SPECIAL_BYTES)
            return ct_fail(err, CACTUS_ERROR_FORMAT, "special token %d has %zu bytes, more than %d", (int)id, ct_vocab_size(v, id),
                           MAX_SPECIAL_BYTES);
        set->items[set->n++] = (ct_special){.bytes = ct_vocab_bytes(v, id), .n_bytes = ct_vocab_size(v, id), .id = id};
        set->starts[*ct_vocab_bytes(v, id)] = true;
    }
    qsort(set->items, n, sizeof *set->items, compare_specials);
    return CACTUS_OK;
}

/* The first item of [low, high) whose byte at `depth` is at least `byte`. All agree before that and reach that far. */
static size_t lower_bound(const ct_special *items, size_t low, size_t high, size_t depth, unsigned byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (items[middle].bytes[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest special token that the text goes on with, or NULL. Items that share a beginning are neighbours, the one that ends
 * first comes first. */
static const ct_special *match_special(const ct_special_set *set, const uint8_t *text, const uint8_t *end)
{
    const ct_special *longest = NULL;
    size_t low = 0, high = set->n;
    for (size_t depth = 0; low < high && text + depth < end; depth++) {
        unsigned byte = text[depth];
        low = lower_bound(set->items, low, high, depth, byte);
        high = lower_bound(set->items, low, high, depth, byte + 1);
        if (low < high && set->items[low].n_bytes == depth + 1) longest = &set->items[low];
        while (low < high && set->items[low].n_bytes == depth + 1) low++; /* two tokens may have the same bytes */
    }
    return longest;
}

/* ---- creating and freeing ---- */

void cactus_tokenizer_free(cactus_tokenizer *t)
{
    if (t == NULL) return;
    if (t->state != NULL) t->model->unload(t->state);
    ct_free(t->pre_name);
    ct_free(t->vocab.at);
    ct_free(t->vocab.bytes);
    ct_free(t->vocab.attr);
    ct_free(t->user_defined.items);
    ct_free(t->all_special.items);
    ct_free(t);
}

static cactus_status load_tokenizer(cactus_tokenizer *t, const ct_gguf *gguf, ct_str **texts, ct_vocab_index *index,
                                    cactus_error *err)
{
    ct_str model = {NULL, 0}, pre = {NULL, 0};
    bool found = false;
    char quoted[CT_QUOTED_BYTES];
    cactus_status status = ct_gguf_get_str(gguf, "tokenizer.ggml.model", &model, NULL, err);
    if (status == CACTUS_OK) status = ct_gguf_get_str(gguf, "tokenizer.ggml.pre", &pre, &found, err);
    if (status != CACTUS_OK) return status;
    for (size_t i = 0; i < COUNT(models); i++)
        if (strlen(models[i]->name) == model.size && memcmp(models[i]->name, model.data, model.size) == 0) t->model = models[i];
    if (t->model == NULL)
        return ct_fail(err, CACTUS_ERROR_UNSUPPORTED, "tokenizer model \"%s\" (tokenizer.ggml.model) is not supported",
                       ct_quote(model, quoted));
    t->model_name = t->model->name;
    if (t->model == &ct_raw_bpe_model) pre = (ct_str){"gemma4", 6};
    t->pre = ct_pretokenizer_find(t->model->pretokenized ? pre : (ct_str){"", 0});
    if (t->pre == NULL)
        return ct_fail(err, CACTUS_ERROR_UNSUPPORTED, "pre-tokenizer \"%s\" (tokenizer.ggml.pre) is not supported",
                       ct_quote(pre, quoted));
    if ((ct_pretokenizer_flags(t->pre) & CT_PRE_RAW) != 0) t->model = &ct_raw_bpe_model;
    t->pre_name = copy_str(pre);
    if (t->pre_name == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for a tokenizer");

    status = read_tokens(t, gguf, texts, err);
    if (status == CACTUS_OK) status = index_tokens(&t->vocab, *texts, index, err);
    if (status == CACTUS_OK) status = read_special_ids(t, gguf, index, err);
    if (status == CACTUS_OK) status = collect_specials(&t->vocab, CACTUS_TOKEN_USER_DEFINED, &t->user_defined, err);
    if (status == CACTUS_OK)
        status = collect_specials(&t->vocab, CACTUS_TOKEN_USER_DEFINED | CACTUS_TOKEN_CONTROL | CACTUS_TOKEN_UNKNOWN,
                                  &t->all_special, err);
    if (status == CACTUS_OK) status = read_strips(t, gguf, err);
    if (status == CACTUS_OK) status = t->model->load(t, gguf, index, err);
    return status;
}

cactus_status ct_tokenizer_create(const ct_gguf *gguf, cactus_tokenizer **out, cactus_error *err)
{
    *out = NULL;
    cactus_tokenizer *t = ct_alloc(1, sizeof *t);
    if (t == NULL) return ct_fail(err, CACTUS_ERROR_MEMORY, "no memory for a tokenizer");
    ct_str *texts = NULL;
    ct_vocab_index index = {NULL, 0, 0};
    cactus_status status = load_tokenizer(t, gguf, &texts, &index, err);
    ct_free(texts);
    ct_free(index.slots);
    if (status == CACTUS_OK)
        *out = t;
    else
        cactus_tokenizer_free(t);
    return status;
}

cactus_status cactus_tokenizer_load(const char *path, cactus_tokenizer **out, cactus_error *err)
{
    if (out != NULL) *out = NULL;
    if (path == NULL || out == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "path and out must not be NULL");
    ct_gguf *gguf = NULL;
    cactus_status status = ct_gguf_open(path, &gguf, err);
    if (status != CACTUS_OK) return status;
    status = ct_tokenizer_create(gguf, out, err);
    ct_gguf_close(gguf);
    return status;
}

/* ---- what a tokenizer is ---- */

cactus_status cactus_tokenizer_get_info(const cactus_tokenizer *t, cactus_tokenizer_info *info, cactus_error *err)
{
    if (t == NULL || info == NULL) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "tokenizer and info must not be NULL");
    if (info->struct_size < sizeof info->struct_size)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "info->struct_size is %u: set it to sizeof(cactus_tokenizer_info)",
                       info->struct_size);
    cactus_tokenizer_info full = {
        .struct_size = info->struct_size,
        .n_vocab = t->vocab.n,
        .bos_id = t->bos_id,
        .eos_id = t->eos_id,
        .eot_id = t->eot_id,
        .pad_id = t->pad_id,
        .unk_id = t->unk_id,
        .add_bos = t->add_bos,
        .add_eos = t->add_eos,
        .model = t->model_name,
        .pre = t->pre_name,
        .sep_id = t->sep_id,
        .mask_id = t->mask_id,
        .add_sep = t->add_sep,
    };
    memcpy(info, &full, ct_min_size(info->struct_size, sizeof full)); /* callers of an older, shorter struct get its part */
    return CACTUS_OK;
}

int32_t ct_tokenizer_n_vocab(const cactus_tokenizer *t) { return t->vocab.n; }

static bool in_vocab(const cactus_tokenizer *t, int32_t id) { return id >= 0 && id < t->vocab.n; }

int32_t cactus_token_attributes(const cactus_tokenizer *t, int32_t id)
{
    return t != NULL && in_vocab(t, id) ? t->vocab.attr[id] : -1;
}

bool ct_tokenizer_is_end(const cactus_tokenizer *t, int32_t id)
{
    return in_vocab(t, id) && (t->vocab.attr[id] & CACTUS_TOKEN_END) != 0;
}

ct_str ct_tokenizer_piece(const cactus_tokenizer *t, int32_t id, bool show_special)
{
    if (!in_vocab(t, id)) return (ct_str){NULL, 0};
    if (!show_special && (t->vocab.attr[id] & (CACTUS_TOKEN_CONTROL | CACTUS_TOKEN_UNKNOWN)) != 0) return (ct_str){NULL, 0};
    return (ct_str){(const char *)ct_vocab_bytes(&t->vocab, id), ct_vocab_size(&t->vocab, id)};
}

/* ---- text -> ids -> text ---- */

/* What isspace says in the C locale. */
static bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* Special tokens are found from left to right, the longest at each place, and the text between them is encoded by itself. */
static cactus_status encode_parts(const cactus_tokenizer *t, const uint8_t *text, size_t n_bytes, bool parse_special,
                                  ct_word_cache *cache, ct_id_sink *sink, cactus_error *err)
{
    const ct_special_set *set = parse_special ? &t->all_special : &t->user_defined;
    const uint8_t *end = text + n_bytes, *start = text, *p = text;
    while (set->n > 0 && p < end) {
        const ct_special *special = set->starts[*p] ? match_special(set, p, end) : NULL;
        if (special == NULL) {
            p++;
            continue;
        }
        const uint8_t *before = p;
        while (special->strip_left && before > start && is_space(before[-1])) before--;
        if (before > start) {
            cactus_status status = t->model->encode(t, start, (size_t)(before - start), cache, sink, err);
            if (status != CACTUS_OK) return status;
        }
        ct_put_id(sink, special->id);
        p += special->n_bytes;
        while (special->strip_right && p < end && is_space(*p)) p++;
        start = p;
    }
    return start < end ? t->model->encode(t, start, (size_t)(end - start), cache, sink, err) : CACTUS_OK;
}

static cactus_status encode(const cactus_tokenizer *t, const uint8_t *text, size_t n_bytes, bool parse_special, ct_id_sink *sink,
                            cactus_error *err)
{
    ct_word_cache cache;
    ct_word_cache_init(&cache, n_bytes);
    cactus_status status = encode_parts(t, text, n_bytes, parse_special, &cache, sink, err);
    ct_word_cache_free(&cache);
    return status;
}

cactus_status cactus_tokenize(const cactus_tokenizer *t, const char *text, size_t n_bytes, int32_t add_special,
                              int32_t parse_special, int32_t *ids, size_t capacity, size_t *n_ids, cactus_error *err)
{
    if (n_ids != NULL) *n_ids = 0;
    if (t == NULL || n_ids == NULL || (text == NULL && n_bytes > 0) || (ids == NULL && capacity > 0))
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "tokenizer, text, ids and n_ids must not be NULL");
    if (n_bytes > MAX_TEXT_BYTES)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "the text has %zu bytes, more than %d", n_bytes, MAX_TEXT_BYTES);
    ct_id_sink sink = {ids, capacity, 0};
    if (add_special && t->add_bos) ct_put_id(&sink, t->bos_id);
    if (n_bytes > 0) {
        cactus_status status = encode(t, (const uint8_t *)text, n_bytes, parse_special != 0, &sink, err);
        if (status != CACTUS_OK) return status;
    }
    if (add_special && t->add_eos) ct_put_id(&sink, t->eos_id);
    if (add_special && t->add_sep) ct_put_id(&sink, t->sep_id);
    *n_ids = sink.n;
    if (sink.n > capacity)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "the text has %zu tokens and there is room for %zu", sink.n, capacity);
    return CACTUS_OK;
}

cactus_status cactus_token_bytes(const cactus_tokenizer *t, int32_t id, const char **bytes, size_t *n_bytes, cactus_error *err)
{
    if (n_bytes != NULL) *n_bytes = 0;
    if (t == NULL || bytes == NULL || n_bytes == NULL)
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "tokenizer, bytes and n_bytes must not be NULL");
    if (!in_vocab(t, id))
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "token %d is not one of 0 to %d", (int)id, (int)t->vocab.n - 1);
    ct_str piece = ct_tokenizer_piece(t, id, true);
    *bytes = piece.data;
    *n_bytes = piece.size;
    return CACTUS_OK;
}

/* WordPiece puts a space before every word, marks included. Takes those out that English does not write: before ? ! . and ,
 * around an apostrophe between spaces, and before 's 'm 're and 've; in this order, as llama.cpp does. Returns the new length. */
static size_t clean_up(char *text, size_t n_bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        if (n > 0 && text[n - 1] == ' ' && memchr("?!.,", text[i], 4) != NULL) n--;
        text[n++] = text[i];
    }
    n_bytes = n;
    n = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        bool between = n > 0 && text[n - 1] == ' ' && text[i] == '\'' && i + 1 < n_bytes && text[i + 1] == ' ';
        if (between) n--;
        text[n++] = text[i];
        if (between) i++;
    }
    n_bytes = n;
    n = 0;
    for (size_t i = 0; i < n_bytes; i++) {
        if (n > 0 && text[n - 1] == ' ' && text[i] == '\'' && i + 1 < n_bytes) {
            char a = text[i + 1], b = i + 2 < n_bytes ? text[i + 2] : '\0';
            if (a == 's' || a == 'm' || (b == 'e' && (a == 'r' || a == 'v'))) n--;
        }
        text[n++] = text[i];
    }
    return n;
}

cactus_status cactus_detokenize(const cactus_tokenizer *t, const int32_t *ids, size_t n_ids, int32_t show_special, char *text,
                                size_t capacity, size_t *n_bytes, cactus_error *err)
{
    if (n_bytes != NULL) *n_bytes = 0;
    if (t == NULL || n_bytes == NULL || (ids == NULL && n_ids > 0) || (text == NULL && capacity > 0))
        return ct_fail(err, CACTUS_ERROR_ARGUMENT, "tokenizer, ids, text and n_bytes must not be NULL");
    size_t n = 0;
    bool at_start = (t->add_space_prefix && !t->space_is_suffix) || t->model->clean_up, suffixed = false;
    for (size_t i = 0; i < n_ids; i++) {
        if (!in_vocab(t, ids[i]))
            return ct_fail(err, CACTUS_ERROR_ARGUMENT, "token %d at position %zu is not one of 0 to %d", (int)ids[i], i,
                           (int)t->vocab.n - 1);
        ct_str piece = ct_tokenizer_piece(t, ids[i], show_special != 0);
        bool is_text = ct_vocab_is_text(&t->vocab, ids[i]);
        if (is_text && at_start && piece.size > 0 && piece.data[0] == ' ') { /* the space that encoding put there */
            piece.data++;
            piece.size--;
        }
        at_start = at_start && !is_text;
        suffixed = is_text && piece.size > 0 && piece.data[piece.size - 1] == ' ';
        if (piece.size > 0 && n < capacity) memcpy(text + n, piece.data, ct_min_size(piece.size, capacity - n));
        if (!ct_add_ok(n, piece.size, &n))
            return ct_fail(err, CACTUS_ERROR_ARGUMENT, "the text of %zu tokens is longer than memory", n_ids);
    }
    if (suffixed && t->add_space_prefix && t->space_is_suffix) n--;
    if (t->model->clean_up && n <= capacity) n = clean_up(text, n);
    *n_bytes = n;
    if (n > capacity) return ct_fail(err, CACTUS_ERROR_ARGUMENT, "the text has %zu bytes and there is room for %zu", n, capacity);
    return CACTUS_OK;
}
