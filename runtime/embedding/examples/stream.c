/* Two targets continue the same prompt at the same time, helped by one draft.
 *
 *   stream DRAFT TARGET TARGET PROMPT [TEMPERATURE SEED]
 *
 * What a draft proposed and the target accepted is green where the output is a terminal. */
#define _POSIX_C_SOURCE 200112L
#include <s2d.h>

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { TARGETS = 2 };

static int failed(const char *what)
{
    fprintf(stderr, "stream: %s: %s\n", what, s2d_last_error());
    return EXIT_FAILURE;
}

/* Print a step, drafted tokens in green. */
static void print_step(const s2d_step *step, int color)
{
    size_t token, begin = 0;
    for (token = 0; color && token < step->token_count; token++) {
        size_t end = step->text_ends[token];
        const char *form = step->drafted[token] ? "\033[32m%.*s\033[0m" : "%.*s";
        printf(form, (int)(end - begin), step->text + begin);
        begin = end;
    }
    fwrite(step->text + begin, 1, step->text_length - begin, stdout);
}

static void print_log(int level, const char *message, void *user_data)
{
    (void)user_data;
    fprintf(stderr, "%s%s\n", level == S2D_LOG_ERROR ? "error: " : "", message);
}

int main(int argc, char **argv)
{
    s2d_options options;
    s2d_draft *draft = NULL;
    s2d_target *targets[TARGETS] = {NULL, NULL};
    s2d_request *requests[TARGETS] = {NULL, NULL};
    int at, status, result = EXIT_SUCCESS;

    if (argc != 5 && argc != 7) {
        fprintf(stderr, "usage: stream DRAFT TARGET TARGET PROMPT [TEMPERATURE SEED]\n");
        return 2;
    }
    if (getenv("S2D_LOG"))
        s2d_set_log_callback(print_log, NULL);
    if (s2d_init(NULL) != S2D_OK)
        return failed("the library");

    s2d_options_default(&options, sizeof options);
    options.max_new_tokens = 64;
    if (argc == 7) {
        options.temperature = atof(argv[5]);
        options.has_seed = 1;
        options.seed = strtoull(argv[6], NULL, 10);
    }

    if (s2d_draft_open(argv[1], &draft) != S2D_OK)
        result = failed(argv[1]);
    for (at = 0; at < TARGETS && result == EXIT_SUCCESS; at++)
        if (s2d_target_open(argv[2 + at], draft, &targets[at]) != S2D_OK)
            result = failed(argv[2 + at]);
    /* Both texts step together; the second one's steps wait while the first one is printed. */
    for (at = 0; at < TARGETS && result == EXIT_SUCCESS; at++)
        if (s2d_request_create(targets[at], argv[4], &options, &requests[at]) != S2D_OK)
            result = failed(argv[4]);

    for (at = 0; at < TARGETS && result == EXIT_SUCCESS; at++) {
        const s2d_step *step;
        s2d_stats stats;
        printf("== %s\n%s", argv[2 + at], argv[4]);
        while ((status = s2d_request_next(requests[at], -1, &step)) == S2D_OK) {
            print_step(step, isatty(STDOUT_FILENO));
            fflush(stdout);
        }
        if (status != S2D_END) {
            result = failed(argv[2 + at]);
            break;
        }
        s2d_request_stats(requests[at], &stats, sizeof stats);
        printf("\n-- %d tokens in %d steps, %d drafted, seed %.0f%s\n", (int)stats.new_tokens, (int)stats.steps,
               (int)stats.accepted_tokens, (double)stats.seed, stats.exact ? ", exact" : "");
    }

    for (at = 0; at < TARGETS; at++) {
        s2d_request_free(requests[at]);
        s2d_target_close(targets[at]);
    }
    s2d_draft_close(draft);
    s2d_shutdown();
    return result;
}
