/* storm DRAFT TARGET TARGET REQUESTS SEED: many requests of several threads, which other threads cancel at any time.
 *
 * Prints a line of JSON for every tenth of the requests and at the end: how many have ended, how many had other tokens
 * than an earlier one with the same seed, and the memory of the process. SIGTERM ends it early. */
#define _POSIX_C_SOURCE 200809L
#include <s2d.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 12, CANCELLERS = 2, FINISHES = S2D_FINISH_ERROR + 1, LONGEST = 24, SEEDS = 8 };

static const char *const PROMPTS[] = {"the draft proposes", "a tree of tokens", "the other one", "in one call the target"};

/* What a worker has under way, and who may use it: a request must not be freed while another thread cancels it. */
static struct slot {
    pthread_mutex_t lock;
    s2d_request *request;
} slots[WORKERS];

/* The tokens of a text. */
struct text {
    size_t count;
    int32_t tokens[LONGEST];
};

/* What a request asks for; the same again gives the same tokens. */
struct choice {
    unsigned target, prompt, temperature, seed;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct text known[2][4][2][SEEDS];
static s2d_target *targets[2];
static long total, begun, ended, tokens, different, finishes[FINISHES];
static unsigned seed;
static int stopping;
static volatile sig_atomic_t asked_to_end;

static void end_early(int signal)
{
    asked_to_end = signal;
}

static void fail(const char *what)
{
    fprintf(stderr, "storm: %s: %s\n", what, s2d_last_error());
    exit(1);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double resident_mib(void)
{
    long pages = 0, ignored;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld %ld", &ignored, &pages) != 2)
        pages = 0;
    if (file)
        fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1048576.0;
}

static int take(long *count, long most)
{
    int taken;
    pthread_mutex_lock(&lock);
    taken = *count < most && !asked_to_end;
    *count += taken;
    pthread_mutex_unlock(&lock);
    return taken;
}

static void report(double began)
{
    printf("{\"ended\": %ld, \"seconds\": %.2f, \"mib\": %.1f, \"tokens\": %ld, \"cancelled\": %ld, \"dropped\": %ld, "
           "\"errors\": %ld, \"different\": %ld}\n", ended, now() - began, resident_mib(), tokens,
           finishes[S2D_FINISH_CANCELLED], finishes[S2D_RUNNING], finishes[S2D_FINISH_ERROR], different);
    fflush(stdout);
}

/* Count the request; its tokens are those of an earlier one as far as both go, or the longer text becomes known. */
static void record(const s2d_stats *stats, const struct choice *choice, const struct text *text, double began)
{
    struct text *before = &known[choice->target][choice->prompt][choice->temperature][choice->seed];
    size_t both;
    pthread_mutex_lock(&lock);
    both = before->count < text->count ? before->count : text->count;
    different += memcmp(before->tokens, text->tokens, both * sizeof(int32_t)) != 0;
    if (text->count > before->count)
        *before = *text;
    ended++;
    tokens += (long)stats->new_tokens;
    finishes[stats->finish]++;
    if (ended % (total / 10 ? total / 10 : 1) == 0)
        report(began);
    pthread_mutex_unlock(&lock);
}

static double began;

static s2d_request *create(unsigned *random, struct choice *choice)
{
    s2d_options options;
    s2d_request *request;
    s2d_options_default(&options, sizeof options);
    options.max_new_tokens = 1 + (int)(rand_r(random) % LONGEST);
    options.temperature = choice->temperature = rand_r(random) % 2;
    options.has_seed = 1;
    options.seed = choice->seed = rand_r(random) % SEEDS;
    options.draft = rand_r(random) % 8 != 0;
    options.logprobs = rand_r(random) % 4 ? -1 : 3;
    choice->target = rand_r(random) % 2;
    choice->prompt = rand_r(random) % 4;
    if (s2d_request_create(targets[choice->target], PROMPTS[choice->prompt], &options, &request) != S2D_OK)
        fail("create");
    return request;
}

static void *work(void *argument)
{
    struct slot *slot = argument;
    unsigned random = seed + (unsigned)(slot - slots);
    while (take(&begun, total)) {
        struct choice choice;
        struct text text = {0, {0}};
        s2d_request *request = create(&random, &choice);
        const s2d_step *step;
        s2d_stats stats;
        int status, drop_after = rand_r(&random) % 8 ? -1 : (int)(rand_r(&random) % 3);
        pthread_mutex_lock(&slot->lock);
        slot->request = request;
        pthread_mutex_unlock(&slot->lock);
        while (drop_after-- != 0 && (status = s2d_request_next(request, -1, &step)) != S2D_END) {
            if (status != S2D_OK)
                fail("next");
            memcpy(text.tokens + text.count, step->tokens, step->token_count * sizeof(int32_t));
            text.count += step->token_count;
        }
        if (s2d_request_stats(request, &stats, sizeof stats) != S2D_OK)
            fail("stats");
        pthread_mutex_lock(&slot->lock);
        slot->request = NULL;
        pthread_mutex_unlock(&slot->lock);
        s2d_request_free(request);
        record(&stats, &choice, &text, began);
    }
    return NULL;
}

static void *cancel(void *argument)
{
    unsigned random = seed + 1000 + *(const unsigned *)argument;
    for (;;) {
        struct slot *slot = &slots[rand_r(&random) % WORKERS];
        struct timespec pause = {0, (long)(rand_r(&random) % 60000) * 1000};
        int stop;
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&slot->lock);
        if (slot->request)
            s2d_request_cancel(slot->request);
        pthread_mutex_unlock(&slot->lock);
        pthread_mutex_lock(&lock);
        stop = stopping;
        pthread_mutex_unlock(&lock);
        if (stop)
            return NULL;
    }
}

int main(int argc, char **argv)
{
    pthread_t workers[WORKERS], cancellers[CANCELLERS];
    unsigned numbers[CANCELLERS];
    s2d_draft *draft;
    unsigned at;
    if (argc != 6) {
        fprintf(stderr, "usage: storm DRAFT TARGET TARGET REQUESTS SEED\n");
        return 2;
    }
    total = atol(argv[4]);
    seed = (unsigned)atol(argv[5]);
    if (s2d_init(NULL) != S2D_OK || s2d_draft_open(argv[1], &draft) != S2D_OK ||
        s2d_target_open(argv[2], draft, &targets[0]) != S2D_OK || s2d_target_open(argv[3], draft, &targets[1]) != S2D_OK)
        fail("open");
    signal(SIGTERM, end_early);
    began = now();
    for (at = 0; at < WORKERS; at++) {
        pthread_mutex_init(&slots[at].lock, NULL);
        pthread_create(&workers[at], NULL, work, &slots[at]);
    }
    for (at = 0; at < CANCELLERS; at++) {
        numbers[at] = at;
        pthread_create(&cancellers[at], NULL, cancel, &numbers[at]);
    }
    for (at = 0; at < WORKERS; at++)
        pthread_join(workers[at], NULL);
    pthread_mutex_lock(&lock);
    stopping = 1;
    pthread_mutex_unlock(&lock);
    for (at = 0; at < CANCELLERS; at++)
        pthread_join(cancellers[at], NULL);
    report(began);
    s2d_target_close(targets[0]);
    s2d_target_close(targets[1]);
    s2d_draft_close(draft);
    if (s2d_shutdown() != S2D_OK)
        fail("shutdown");
    return 0;
}
