/* The queue between Python's thread and the host's, without Python: for the sanitizers. */
#include "shim.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

enum { REQUESTS = 200, STEPS = 40 };

/* As Python's thread does: steps of growing size until the end or a cancellation. */
static void *produce(void *argument)
{
    s2d_request *request = argument;
    s2d_stats stats = {.size = sizeof stats};
    int32_t tokens[STEPS] = {0}, top_tokens[2 * STEPS] = {0};
    unsigned char drafted[STEPS] = {0};
    size_t ends[STEPS] = {0};
    double logprobs[STEPS] = {0}, top_logprobs[2 * STEPS] = {0};
    char text[STEPS + 1];
    int at;
    memset(text, 'x', sizeof text);
    for (at = 0; at < STEPS && !host_cancelled(request); at++) {
        s2d_step step = {sizeof step, tokens, (size_t)at, drafted, text, (size_t)at, ends, logprobs, 2, top_tokens,
                         top_logprobs};
        if (at % 2) {
            step.logprobs = step.top_logprobs = NULL;
            step.top_tokens = NULL;
            step.top_count = 0;
        }
        stats.new_tokens += at;
        CHECK(host_put(request, &step, &stats));
        host_take_cancels();
    }
    stats.finish = at < STEPS ? S2D_FINISH_CANCELLED : S2D_FINISH_LENGTH;
    host_end(request, at == 7 ? S2D_ERROR_INTERNAL : S2D_END, "a fault", &stats);
    return NULL;
}

static void *cancel(void *request)
{
    request_cancel(request);
    return NULL;
}

int main(void)
{
    int number;
    for (number = 0; number < REQUESTS; number++) {
        s2d_request *request = request_new();
        const s2d_step *step;
        s2d_stats stats;
        pthread_t producer, canceller;
        int status = S2D_OK, taken = 0;
        pthread_create(&producer, NULL, produce, request);
        if (number % 3 == 0)
            pthread_create(&canceller, NULL, cancel, request);
        while (status == S2D_OK || status == S2D_TIMEOUT) {
            if (number % 5 == 0 && taken == 3)
                break;
            status = request_next(request, number % 4 - 1, &step);
            if (status == S2D_OK) {
                CHECK(step->token_count == (size_t)taken && step->text_length == (size_t)taken);
                CHECK(step->text[step->text_length] == 0 && (step->logprobs ? 0 : 1) == taken % 2);
                taken++;
            }
            request_stats(request, &stats);
        }
        if (number % 3 == 0)
            pthread_join(canceller, NULL);
        else
            CHECK(taken == STEPS || number % 5 == 0);
        request_cancel(request);
        request_drop(request);
        pthread_join(producer, NULL);
    }
    return 0;
}
