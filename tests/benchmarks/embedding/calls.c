/* calls DRAFT TARGET DRAFTING: what a call of each kind costs, as a line of JSON in microseconds; s2d_init in seconds.
 *
 * Then, for each line "NEW_TOKENS PROMPT" of standard input: generate greedily, drafting or not, and print tokens and
 * seconds. */
#define _POSIX_C_SOURCE 200809L
#include <s2d.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static s2d_draft *draft;
static s2d_target *target;
static int drafting;

static void check(int status)
{
    if (status < 0) {
        fprintf(stderr, "calls: %s\n", s2d_last_error());
        exit(1);
    }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static s2d_request *submit(const char *prompt, int new_tokens)
{
    s2d_options options;
    s2d_request *request;
    check(s2d_options_default(&options, sizeof options));
    options.max_new_tokens = new_tokens;
    options.ignore_eos = 1;
    options.draft = drafting;
    check(s2d_request_create(target, prompt, &options, &request));
    return request;
}

/* Print the best of ten rounds of COUNT calls. */
#define MEASURE(name, count, call) \
    do { \
        double best = 1e9; \
        int round, at; \
        for (round = 0; round < 10; round++) { \
            double began = now(); \
            for (at = 0; at < (count); at++) \
                call; \
            if (now() - began < best) \
                best = now() - began; \
        } \
        printf("\"%s\": %.3f, ", name, best / (count) * 1e6); \
    } while (0)

static void measure(double init_seconds)
{
    s2d_request *request = submit("def f", 64);
    const s2d_step *step;
    s2d_stats stats;
    int32_t tokens[64];
    char text[64];
    size_t count, length;
    long steps = 0;
    double began;
    do /* all steps wait in the queue before the first one is taken */
        check(s2d_request_stats(request, &stats, sizeof stats));
    while (stats.finish == S2D_RUNNING);
    began = now();
    while (s2d_request_next(request, -1, &step) == S2D_OK)
        steps++;
    printf("{\"s2d_request_next\": %.3f, ", (now() - began) / (double)steps * 1e6);
    MEASURE("s2d_abi_version", 100000, s2d_abi_version());
    MEASURE("s2d_request_stats", 100000, s2d_request_stats(request, &stats, sizeof stats));
    MEASURE("s2d_request_next at the end", 100000, s2d_request_next(request, 0, &step));
    MEASURE("s2d_request_cancel", 100000, s2d_request_cancel(request));
    MEASURE("s2d_tokenize", 1000, s2d_tokenize(target, "def f", 1, tokens, 64, &count));
    MEASURE("s2d_detokenize", 1000, s2d_detokenize(target, tokens, count, text, sizeof text, &length));
    MEASURE("s2d_request_create and free", 20, s2d_request_free(submit("def f", 1)));
    printf("\"s2d_init\": %.3f}\n", init_seconds);
    fflush(stdout);
    s2d_request_free(request);
}

int main(int argc, char **argv)
{
    static char line[65536];
    double began = now();
    if (argc != 4) {
        fprintf(stderr, "usage: calls DRAFT TARGET DRAFTING\n");
        return 2;
    }
    drafting = atoi(argv[3]);
    check(s2d_init(NULL));
    began = now() - began;
    check(s2d_draft_open(argv[1], &draft));
    check(s2d_target_open(argv[2], draft, &target));
    measure(began);
    while (fgets(line, sizeof line, stdin)) {
        char *prompt;
        long new_tokens = strtol(line, &prompt, 10);
        const s2d_step *step;
        s2d_request *request;
        s2d_stats stats;
        prompt[strcspn(prompt, "\n")] = 0;
        began = now();
        request = submit(prompt + 1, (int)new_tokens);
        while (s2d_request_next(request, -1, &step) == S2D_OK)
            continue;
        began = now() - began;
        check(s2d_request_stats(request, &stats, sizeof stats));
        printf("{\"tokens\": %ld, \"seconds\": %.6f}\n", (long)stats.new_tokens, began);
        fflush(stdout);
        s2d_request_free(request);
    }
    s2d_target_close(target);
    s2d_draft_close(draft);
    check(s2d_shutdown());
    return 0;
}
