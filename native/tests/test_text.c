/* test_text.c: text comes out in whole characters and never past the beginning of a stop string. */
#include "engine/text.h"
#include "tests/test.h"

/* Pushes `bytes` in pieces of `piece` bytes; collects what comes out. Returns whether a stop string was found. */
static bool feed(const char *const *stops, size_t n_stops, const char *bytes, size_t piece, char *out)
{
    ct_text text;
    size_t n_out = 0, at = 0, n = strlen(bytes);
    bool stopped = false;
    out[0] = '\0';
    if (!CHECK_INT(ct_text_init(&text, stops, n_stops, NULL), CACTUS_OK)) return false;
    for (; at < n && !stopped; at += piece) {
        CHECK(ct_text_push(&text, bytes + at, piece < n - at ? piece : n - at, &n_out, &stopped));
        strncat(out, text.held, n_out);
        ct_text_drop(&text, n_out);
    }
    if (!stopped) {
        CHECK(ct_text_finish(&text, &n_out));
        strncat(out, text.held, n_out);
    }
    ct_text_free(&text);
    return stopped;
}

TEST(stop_strings_at_every_cut)
{
    static const struct { const char *text, *want; bool stops; } cases[] = {
        {"hello STOP there", "hello ", true}, {"hello STO", "hello STO", false}, {"STOP", "", true},       {"SSTOP", "S", true},
        {"a\n\nb", "a", true},                {"a\nb", "a\nb", false},           {"STSTOPx", "ST", true}, {"", "", false},
    };
    const char *stops[] = {"STOP", "\n\n"};
    char out[64];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t piece = 1; piece <= 5; piece++) {
            CHECK_INT(feed(stops, 2, cases[i].text, piece, out), cases[i].stops);
            CHECK_STR(out, cases[i].want);
        }
}

TEST(whole_characters_only)
{
    char out[64];
    for (size_t piece = 1; piece <= 4; piece++) {
        CHECK(!feed(NULL, 0, "caf\xc3\xa9 \xe2\x98\x83 \xf0\x9f\x98\x80", piece, out));
        CHECK_STR(out, "caf\xc3\xa9 \xe2\x98\x83 \xf0\x9f\x98\x80");
        CHECK(!feed(NULL, 0, "x\xf0\x9f\x98", piece, out)); /* the end comes inside a character */
        CHECK_STR(out, "x\xef\xbf\xbd");
    }
    ct_text text;
    size_t n_out;
    bool stopped;
    CHECK_INT(ct_text_init(&text, NULL, 0, NULL), CACTUS_OK);
    CHECK(ct_text_push(&text, "\xe2\x98", 2, &n_out, &stopped));
    CHECK_UINT(n_out, 0);
    CHECK(ct_text_push(&text, "\x83", 1, &n_out, &stopped));
    CHECK_UINT(n_out, 3);
    ct_text_free(&text);
}

TEST(earliest_and_shortest_stop_wins)
{
    char out[64];
    const char *stops[] = {"xyz", "y"};
    CHECK(feed(stops, 2, "axyz", 1, out));
    CHECK_STR(out, "ax"); /* "y" is complete before "xyz" is */
    CHECK(feed(stops, 2, "axyz", 4, out));
    CHECK_STR(out, "a"); /* all at once: the earliest */
}

TEST(bad_stop_strings)
{
    ct_text text;
    cactus_error err = {0};
    const char *empty[] = {"ok", ""};
    CHECK_INT(ct_text_init(&text, empty, 2, &err), CACTUS_ERROR_ARGUMENT);
    CHECK_CONTAINS(err.message, "stop string 1 is empty");
    ct_text_free(&text);
}

TEST_MAIN()
