/* What the test programs share. A failed check says where and ends the program with 1. */
#ifndef CHECK_H
#define CHECK_H

#include <s2d.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: not so: %s (last error: %s)\n", __FILE__, __LINE__, #condition, s2d_last_error()); \
            exit(1); \
        } \
    } while (0)

#define OK(call) CHECK((call) == S2D_OK)

/* The call fails with this status, and the error's line holds the words. */
#define FAILS(call, status, words) \
    do { \
        CHECK((call) == (status)); \
        CHECK(strstr(s2d_last_error(), words)); \
    } while (0)

static inline s2d_request *submit(const s2d_target *target, const char *prompt, int new_tokens)
{
    s2d_options options;
    s2d_request *request;
    s2d_options_default(&options, sizeof options);
    options.max_new_tokens = new_tokens;
    OK(s2d_request_create(target, prompt, &options, &request));
    return request;
}

static inline int finish_of(const s2d_request *request)
{
    s2d_stats stats;
    OK(s2d_request_stats(request, &stats, sizeof stats));
    return stats.finish;
}

/* Take all steps; the number of tokens. */
static inline long drain(s2d_request *request)
{
    const s2d_step *step;
    long tokens = 0;
    int status;
    while ((status = s2d_request_next(request, -1, &step)) == S2D_OK)
        tokens += (long)step->token_count;
    CHECK(status == S2D_END);
    return tokens;
}

#endif
