/* storm DRAFT TARGET TARGET REQUESTS SEED: many requests of several threads, which other threads cancel at any time.
 *
 * Prints a line of JSON for every tenth of the requests: how many have ended, and the memory of the process. */
#define _POSIX_C_SOURCE 200809L
#include <s2d.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS = 12, CANCELLERS = 2, FINISHES = S2D_FINISH_ERROR + 1 };

static const char *const PROMPTS[] = {"the draft proposes", "a tree of tokens", "the other one", "in one call the target"};

/* What a worker has under way, and who may use it: a request must not be freed while another thread cancels it. */
static struct slot {
    pthread_mutex_t lock;
    s2d_request *request;
} slots[WORKERS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static s2d_target *targets[2];
static long total, begun, ended, tokens, finishes[FINISHES];
static unsigned seed;
static int stopping;

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
    taken = *count < most;
    *count += taken;
    pthread_mutex_unlock(&lock);
    return taken;
}

static void record(const s2d_stats *stats, double began)
{
    pthread_mutex_lock(&lock);
    ended++;
    tokens += (long)stats->new_tokens;
    finishes[stats->finish]++;
    if (ended % (total / 10 ? total / 10 : 1) == 0)
        printf("{\"ended\": %ld, \"seconds\": %.2f, \"mib\": %.1f, \"tokens\": %ld, \"cancelled\": %ld, \"dropped\": %ld, "
               "\"errors\": %ld}\n", ended, now() - began, resident_mib(), tokens, finishes[S2D_FINISH_CANCELLED],
               finishes[S2D_RUNNING], finishes[S2D_FINISH_ERROR]);
    fflush(stdout);
    pthread_mutex_unlock(&lock);
}

static double began;

static s2d_request *create(unsigned *random)
{
    s2d_options options;
    s2d_request *request;
    s2d_options_default(&options, sizeof options);
    options.max_new_tokens = 1 + (int)(rand_r(random) % 24);
    options.temperature = rand_r(random) % 2;
    options.has_seed = 1;
    options.seed = rand_r(random);
    options.logprobs = rand_r(random) % 4 ? -1 : 3;
    if (s2d_request_create(targets[rand_r(random) % 2], PROMPTS[rand_r(random) % 4], &options, &request) != S2D_OK)
        fail("create");
    return request;
}

static void *work(void *argument)
{
    struct slot *slot = argument;
    unsigned random = seed + (unsigned)(slot - slots);
    while (take(&begun, total)) {
        s2d_request *request = create(&random);
        const s2d_step *step;
        s2d_stats stats;
        int status, drop_after = rand_r(&random) % 8 ? -1 : (int)(rand_r(&random) % 3);
        pthread_mutex_lock(&slot->lock);
        slot->request = request;
        pthread_mutex_unlock(&slot->lock);
        while (drop_after-- != 0 && (status = s2d_request_next(request, -1, &step)) != S2D_END)
            if (status != S2D_OK)
                fail("next");
        if (s2d_request_stats(request, &stats, sizeof stats) != S2D_OK)
            fail("stats");
        pthread_mutex_lock(&slot->lock);
        slot->request = NULL;
        pthread_mutex_unlock(&slot->lock);
        s2d_request_free(request);
        record(&stats, began);
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
    s2d_target_close(targets[0]);
    s2d_target_close(targets[1]);
    s2d_draft_close(draft);
    if (s2d_shutdown() != S2D_OK)
        fail("shutdown");
    return 0;
}
