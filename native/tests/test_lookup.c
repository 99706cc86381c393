/* test_lookup.c: drafts against a search through the whole sequence, and how their length follows what came true. */
#include "engine/lookup.h"
#include "tests/test.h"

enum { CAPACITY = 4096 };

static int32_t tokens[CAPACITY];

static ct_lookup make_lookup(size_t capacity)
{
    ct_lookup l;
    if (!CHECK(ct_lookup_init(&l, capacity))) exit(2);
    return l;
}

/* The rule in plain words: of the four newest places where the newest three tokens stood before, the one that agrees with the end of
 * the sequence furthest back, five tokens at most; of equals the newest. 0: there is none. */
static size_t place(const int32_t *t, size_t n)
{
    size_t found = 0, longest = 0, seen = 0;
    for (size_t end = n - 1; end >= 3 && seen < 4; end--) {
        size_t agreed = 0;
        while (agreed < 5 && agreed < end && t[end - 1 - agreed] == t[n - 1 - agreed]) agreed++;
        seen += agreed >= 3;
        if (agreed >= 3 && agreed > longest) longest = agreed, found = end;
    }
    return found;
}

TEST(drafts_are_copies_of_the_right_place)
{
    test_rng rng = {11};
    for (uint32_t round = 0; round < 6; round++) {
        uint32_t alphabet = 2 + round / 2 * 19, full = round % 2; /* in a full table other runs may hide a place, but never pass for one */
        ct_lookup l = make_lookup(full ? CAPACITY : 1 << 20);
        size_t n_drafts = 0, n_hidden = 0;
        for (size_t n = 1; n <= CAPACITY; n++) {
            int32_t draft[CT_MAX_DRAFT];
            tokens[n - 1] = (int32_t)test_below(&rng, alphabet);
            if (n % 3 == 0 && n < CAPACITY) continue; /* several tokens at once, too */
            l.hit_rate[0] = l.hit_rate[1] = 0.9f;
            size_t n_draft = ct_lookup_draft(&l, tokens, n, 1, 5, draft), from = n < 3 ? 0 : place(tokens, n);
            n_drafts += n_draft > 0;
            if (full && (n_draft == 0 || draft[0] != tokens[from])) {
                CHECK(n_draft == 0 || from > 0);
                n_hidden += from > 0;
                continue;
            }
            if (!CHECK_INT(n_draft > 0, from > 0)) return;
            for (size_t i = 0; i < n_draft; i++)
                if (!CHECK_INT(draft[i], from + i < n ? tokens[from + i] : draft[from + i - n])) return;
        }
        CHECK(n_drafts > 50 && n_hidden < n_drafts / 2);
        ct_lookup_free(&l);
    }
}

TEST(a_loop_is_drafted_on_and_on)
{
    static const int32_t loop[] = {7, 8, 9, 7, 8, 9, 7, 8};
    int32_t draft[CT_MAX_DRAFT];
    ct_lookup l = make_lookup(8);
    l.hit_rate[1] = 0.97f;
    CHECK_UINT(ct_lookup_draft(&l, loop, 8, 1, CT_MAX_DRAFT, draft), CT_MAX_DRAFT);
    for (int32_t i = 0; i < CT_MAX_DRAFT; i++) CHECK_INT(draft[i], 7 + (i + 2) % 3);
    ct_lookup_free(&l);
}

TEST(nothing_repeated_nothing_drafted)
{
    int32_t draft[CT_MAX_DRAFT];
    ct_lookup l = make_lookup(CAPACITY);
    for (int32_t i = 0; i < CAPACITY; i++) tokens[i] = i;
    for (size_t n = 1; n <= CAPACITY; n += 100) CHECK_UINT(ct_lookup_draft(&l, tokens, n, 1, CT_MAX_DRAFT, draft), 0);
    ct_lookup_free(&l);
}

TEST(length_follows_success)
{
    int32_t draft[CT_MAX_DRAFT];
    ct_lookup l = make_lookup(CAPACITY);
    for (size_t i = 0; i < CAPACITY; i++) tokens[i] = (int32_t)(i % 10);
    size_t first = ct_lookup_draft(&l, tokens, 20, 1, CT_MAX_DRAFT, draft), n = 20, grown = 0;
    CHECK(first > 0 && first < CT_MAX_DRAFT);
    for (int i = 0; i < 20; i++) n += 1 + grown, grown = ct_lookup_draft(&l, tokens, n, 1, CT_MAX_DRAFT, draft);
    CHECK_UINT(grown, CT_MAX_DRAFT);
    CHECK_UINT(ct_lookup_draft(&l, tokens, n, 1, 3, draft), 3);
    CHECK_UINT(ct_lookup_draft(&l, tokens, n, 1, 0, draft), 0);
    size_t crowded = ct_lookup_draft(&l, tokens, n, 24, CT_MAX_DRAFT, draft);
    CHECK(crowded < grown); /* where rows are many, one more costs its share */

    for (int i = 0; i < 40; i++) { /* every copy fails: "0 1 2 3 4 x", each time another x */
        for (int32_t j = 0; j < 5; j++) tokens[n++] = j;
        (void)ct_lookup_draft(&l, tokens, n, 1, CT_MAX_DRAFT, draft);
        tokens[n++] = 100 + i;
    }
    for (int32_t j = 0; j < 5; j++) tokens[n++] = j;
    CHECK_UINT(ct_lookup_draft(&l, tokens, n, 1, CT_MAX_DRAFT, draft), 0);
    for (int i = 0; i < 40; i++) { /* what is not drafted is still watched: now it is always 7 */
        tokens[n++] = 7;
        for (int32_t j = 0; j < 5; j++) tokens[n++] = j;
        first = ct_lookup_draft(&l, tokens, n, 1, CT_MAX_DRAFT, draft);
    }
    CHECK(first > 0);
    ct_lookup_free(&l);
}

TEST(reset_forgets_places)
{
    static const int32_t before[] = {1, 2, 3, 4, 1, 2, 3}, after[] = {5, 6, 1, 2, 3};
    int32_t draft[CT_MAX_DRAFT];
    ct_lookup l = make_lookup(7);
    l.hit_rate[0] = 0.9f;
    CHECK(ct_lookup_draft(&l, before, 7, 1, 4, draft) > 0);
    CHECK_INT(draft[0], 4);
    ct_lookup_reset(&l);
    CHECK_UINT(ct_lookup_draft(&l, after, 5, 1, 4, draft), 0);
    ct_lookup_free(&l);
}

TEST_MAIN()
