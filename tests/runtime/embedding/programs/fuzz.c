/* fuzz DRAFT TARGET CASES SEED: calls with arguments at random. Each returns a status in time, an error with one line. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <math.h>
#include <time.h>

enum { ALIVE = 4, LONG = 300000 };

#define LONGEST 2.0 /* seconds */

static const char *const TEXTS[] = {"", "the draft", "\xff\xfe", "a\xf0\x9f\x92", "\x1b[31m", "x.engine", "/dev/null",
                                    "json_schema", "regex", "lark", "{\"type\": \"object\"}", "[a-b]{9}", "user", "(((("};
static const int32_t INTS[] = {0, 1, -1, 2, 7, 24, 255, 256, 299, 300, 1000000, INT32_MAX, INT32_MIN};
static const double DOUBLES[] = {0, 1, 0.5, -1, 2.5, 1e-300, 1e300, -1e9, 3};
static char long_text[LONG + 1];
static unsigned state;

static unsigned below(unsigned most)
{
    return (unsigned)rand_r(&state) % most;
}

static int32_t number(void)
{
    return below(3) ? (int32_t)below(30) : INTS[below(sizeof INTS / sizeof *INTS)];
}

static double real(void)
{
    return below(12) ? DOUBLES[below(sizeof DOUBLES / sizeof *DOUBLES)] : below(2) ? NAN : INFINITY;
}

static const char *text(void)
{
    return below(20) == 0 ? NULL : below(40) == 0 ? long_text : TEXTS[below(sizeof TEXTS / sizeof *TEXTS)];
}

static size_t size_of(size_t whole)
{
    return below(4) ? whole : below((unsigned)whole + 1);
}

static void check(int status, const struct timespec *began)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    CHECK(status >= S2D_ERROR_INTERNAL && status <= S2D_TIMEOUT);
    CHECK(status != S2D_ERROR_INTERNAL);
    CHECK(status >= 0 || (*s2d_last_error() && !strchr(s2d_last_error(), '\n')));
    CHECK((double)(now.tv_sec - began->tv_sec) + 1e-9 * (double)(now.tv_nsec - began->tv_nsec) < LONGEST);
}

/* Options at random: most of them as they are, some not. */
static void choose(s2d_options *options, const s2d_bias *bias, const char *const *texts, const int32_t *ids,
                   const double *thresholds)
{
    s2d_options_default(options, sizeof *options);
    options->size = size_of(sizeof *options);
    options->max_new_tokens = 1 + (int32_t)below(4);
    switch (below(15)) {
    case 0: options->max_new_tokens = number(); break;
    case 1: options->temperature = real(); break;
    case 2: options->top_k = number(); break;
    case 3: options->top_p = real(); break;
    case 4: options->min_p = real(); break;
    case 5: options->repetition_penalty = real(); break;
    case 6: options->frequency_penalty = options->presence_penalty = real(); break;
    case 7: options->logit_bias = bias; options->logit_bias_count = below(4); break;
    case 8: options->bad_words = texts; options->bad_word_count = below(4); break;
    case 9: options->stop = texts; options->stop_count = below(4); break;
    case 10: options->stop_token_ids = ids; options->stop_token_id_count = below(4); break;
    case 11: options->min_tokens = number(); options->ignore_eos = number(); break;
    case 12: options->logprobs = number(); options->exact = number(); options->draft = number(); break;
    case 13: options->thresholds = thresholds; options->threshold_count = below(4); break;
    default: options->constraint_kind = text(); options->constraint = text();
    }
}

int main(int argc, char **argv)
{
    s2d_draft *draft, *none;
    s2d_target *target, *other;
    s2d_request *alive[ALIVE] = {NULL};
    long at, cases = argc == 5 ? atol(argv[3]) : 0, refused = 0;
    CHECK(argc == 5);
    state = (unsigned)atol(argv[4]);
    memset(long_text, 'a', LONG);
    OK(s2d_init(NULL));
    OK(s2d_draft_open(argv[1], &draft));
    OK(s2d_target_open(argv[2], draft, &target));
    for (at = 0; at < cases; at++) {
        const char *texts[3] = {text(), text(), text()};
        int32_t ids[3] = {number(), number(), number()};
        double thresholds[3] = {real(), real(), real()};
        s2d_bias bias[3] = {{number(), real()}, {number(), real()}, {number(), real()}};
        s2d_message messages[3] = {{text(), text()}, {text(), text()}, {text(), text()}};
        s2d_request **slot = &alive[below(ALIVE)], *made = NULL;
        s2d_options options;
        s2d_target_facts facts;
        s2d_stats stats;
        const s2d_step *step;
        char buffer[64];
        size_t count, room = below(sizeof buffer + 1);
        int status;
        struct timespec began;
        choose(&options, bias, texts, ids, thresholds);
        clock_gettime(CLOCK_MONOTONIC, &began);
        switch (below(9)) {
        case 0: status = s2d_tokenize(target, text(), number(), ids, below(4), &count); break;
        case 1: status = s2d_detokenize(target, below(9) ? ids : NULL, below(4), buffer, room, &count); break;
        case 2: status = s2d_chat_render(target, messages, below(4), buffer, room, &count); break;
        case 3: status = s2d_request_create(target, text(), &options, &made); break;
        case 4: status = s2d_request_create_tokens(target, ids, below(4), &options, &made); break;
        case 5: status = s2d_request_next(*slot, (int)below(50), &step); break;
        case 6: status = s2d_request_stats(*slot, &stats, size_of(sizeof stats)); break;
        case 7: status = s2d_target_info(target, &facts, size_of(sizeof facts)); break;
        default:
            status = below(2) ? s2d_draft_open(text(), &none) : s2d_target_open(text(), draft, &other);
            CHECK(status < 0);
        }
        check(status, &began);
        refused += status < 0;
        if (made) {
            s2d_request_free(*slot);
            *slot = made;
        }
    }
    for (at = 0; at < ALIVE; at++)
        s2d_request_free(alive[at]);
    s2d_target_close(target);
    s2d_draft_close(draft);
    OK(s2d_shutdown());
    printf("%ld of %ld refused\n", refused, cases);
    return 0;
}
